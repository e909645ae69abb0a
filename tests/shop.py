"""Hand-made telemetry for tests of the core: every number can be checked with pencil and paper."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import polars as pl

from rca.telemetry import MINUTE_NS, SECOND_NS, Interval, Telemetry, conform
from rca.window import Baseline, Window, cut

T0 = 1_768_471_200 * SECOND_NS  # 2026-01-15 10:00 UTC, where a bin starts
MS = 1_000_000
BASELINE = Interval(T0, T0 + 10 * MINUTE_NS)
INCIDENT = Interval(T0 + 10 * MINUTE_NS, T0 + 15 * MINUTE_NS)

Row = dict[str, Any]


def span(
    span_id: str,
    service: str,
    start_ms: float,
    end_ms: float,
    parent: str | None = None,
    *,
    trace: str = "trace",
    name: str = "op",
    kind: int = 2,
    error: bool = False,
    at_ns: int = T0,
    **attributes: Any,
) -> Row:
    """One span; times in ms after `at_ns`. Attributes have `__` for a dot."""
    return {
        "trace_id": trace,
        "span_id": span_id,
        "parent_span_id": parent,
        "name": name,
        "kind": kind,
        "start_time_unix_nano": at_ns + int(start_ms * MS),
        "end_time_unix_nano": at_ns + int(end_ms * MS),
        "status_code": 2 if error else 0,
        "service.name": service,
        **{key.replace("__", "."): value for key, value in attributes.items()},
    }


def spans(rows: Iterable[Row], interval: int | None = 0) -> pl.DataFrame:
    """A frame of spans, with the column `interval` unless that is None."""
    frame = conform("spans", pl.from_dicts(list(rows), infer_schema_length=None))
    return frame if interval is None else frame.with_columns(pl.lit(interval, dtype=pl.Int16).alias("interval"))


def frame(name: str, rows: Iterable[Row]) -> pl.DataFrame:
    return conform(name, pl.from_dicts(list(rows), infer_schema_length=None))


def window(incident: Interval = INCIDENT, baselines: Iterable[Interval] = (BASELINE,), **rows: list[Row]) -> Window:
    """The window of rows by frame name."""
    telemetry = Telemetry(**{name: frame(name, some) for name, some in rows.items()})
    return cut(telemetry, incident, [Baseline(interval, "preceding") for interval in baselines])


def requests(service: str, at_ns: int, count: int, every_ms: int = 1000, took_ms: float = 100, **more: Any) -> list[Row]:
    """`count` root server spans, one every `every_ms`."""
    return [
        span(
            "s",
            service,
            i * every_ms,
            i * every_ms + took_ms,
            trace=f"{service}-{at_ns}-{i}-{more.get('name', '')}",
            at_ns=at_ns,
            **more,
        )
        for i in range(count)
    ]


def call(
    caller: str, callee: str, at_ns: int, number: int, *, took_ms: float = 20, gap_ms: float = 10, error: bool = False
) -> list[Row]:
    """A request of `caller` that calls `callee` once: server, client and server span."""
    trace, end = f"{caller}-{callee}-{at_ns}-{number}", took_ms + gap_ms
    return [
        span("a", caller, 0, end + 10, trace=trace, at_ns=at_ns, error=error, name="handle"),
        span("b", caller, 5, 5 + end, "a", trace=trace, at_ns=at_ns, kind=3, error=error, name="call"),
        span("c", callee, 5 + gap_ms / 2, 5 + gap_ms / 2 + took_ms, "b", trace=trace, at_ns=at_ns, error=error, name="serve"),
    ]
