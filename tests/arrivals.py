"""Spans as a receiver hands them on, and a stream whose clock is set by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import polars as pl

from rca.bins import summed_frame
from rca.collectors.otlp.intake import RAW_SPANS, Batch
from rca.collectors.streaming.config import StreamConfig
from rca.collectors.streaming.stream import Stream
from rca.collectors.streaming.sums import summed
from rca.telemetry import BIN_FRAMES, SECOND_NS, conform
from tests.shop import T0, Row, span, spans


def raw(rows: Iterable[Row]) -> pl.DataFrame:
    """Spans of tests.shop with ids as bytes."""
    rows = list(rows)
    if not rows:
        return pl.DataFrame(schema=RAW_SPANS)
    frame = spans(rows, interval=None)
    ids = [pl.col(name).cast(pl.Binary) for name in ("trace_id", "span_id", "parent_span_id")]
    return frame.with_columns(ids).select(pl.col(name).cast(dtype) for name, dtype in RAW_SPANS.items())


def hexed(rows: Iterable[Row]) -> pl.DataFrame:
    """The same spans as another source tells them: a `spans` frame with ids in hex."""
    ids = [pl.col(name).bin.encode("hex") for name in ("trace_id", "span_id", "parent_span_id")]
    return conform("spans", raw(rows).with_columns(ids))


def batch(*rows: Row) -> Batch:
    return Batch(spans=raw(rows))


def request(trace: str, at_s: float = 0.0, services: str = "ABC") -> list[Row]:
    """A trace in which every service calls the next."""
    at_ns = T0 + int(at_s * SECOND_NS)
    rows = []
    for i, service in enumerate(services):
        parent = f"{trace}-{i - 1}" if i else None
        rows.append(span(f"{trace}-{i}", service, i, 100 - i, parent, trace=trace, at_ns=at_ns))
    return rows


class Clock:
    """Seconds since the test began; time of day starts at tests.shop.T0."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> int:
        return int(self.seconds * SECOND_NS)

    def wall(self) -> int:
        return T0 + self.monotonic()


def stream_at(clock: Clock, config: StreamConfig | None = None) -> Stream:
    return Stream(config or StreamConfig(), clock_ns=clock.monotonic, wall_ns=clock.wall)


def flushed(stream: Stream) -> dict[str, pl.DataFrame]:
    """What a flush hands out now; it is then gone from the stream."""
    with stream.flushing() as flush:
        return dict(flush.frames)


def bins(frames: Mapping[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """The frames of bins alone, in one order."""
    return {name: summed_frame(name, frames[name]) for name in BIN_FRAMES if name in frames and frames[name].height}


def all_at_once(rows: Iterable[Row]) -> dict[str, pl.DataFrame]:
    """Bins of spans that were all there from the start."""
    return bins(summed(raw(rows)).frames)


def equal(a: Mapping[str, pl.DataFrame], b: Mapping[str, pl.DataFrame]) -> bool:
    return a.keys() == b.keys() and all(a[name].equals(b[name]) for name in a)
