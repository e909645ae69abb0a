"""Ask every source at once, wait no longer than somebody is willing to, and say what did not answer."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import polars as pl

from rca.contracts import Collector
from rca.errors import RcaError, Unavailable
from rca.telemetry import BIN_FRAMES, FRAME_NAMES, SECOND_NS, UNTIMED_FRAMES, Gap, Interval, Telemetry, empty, time_column

Told = Callable[[str, str], None]
"""Called with a source's name and how it went, once it has answered."""


@dataclass(frozen=True)
class Answer:
    """What one source gave, how long it took, and what went wrong, if anything did."""

    source: str
    telemetry: Telemetry
    seconds: float
    error: RcaError | None = None


def gather(
    collectors: Sequence[Collector], interval: Interval, deadline_ns: int, told: Told = lambda _name, _how: None
) -> tuple[Answer, ...]:
    """Collect from every source at once, in the order of the collectors.

    A source that fails, or has not answered at the deadline (ns from now), gives a gap over the whole interval and nothing else.
    Errors that are not ours are raised: they are mistakes in a collector, not news about a source.
    """
    answers: queue.SimpleQueue[tuple[int, Answer | BaseException]] = queue.SimpleQueue()
    start = time.monotonic()

    def collect(index: int, collector: Collector) -> None:
        try:
            telemetry, error = collector.collect(interval.start_ns, interval.end_ns), None
        except RcaError as failure:
            telemetry, error = Telemetry(gaps=(Gap(collector.name, str(failure), interval),)), failure
        except BaseException as failure:  # handed to the thread that waits, which raises it
            answers.put((index, failure))
            return
        answers.put((index, Answer(collector.name, telemetry, time.monotonic() - start, error)))

    for index, collector in enumerate(collectors):
        threading.Thread(target=collect, args=(index, collector), name=f"collect {collector.name}", daemon=True).start()
    found: dict[int, Answer] = {}
    while len(found) < len(collectors):
        try:
            index, answer = answers.get(timeout=max(deadline_ns / SECOND_NS - (time.monotonic() - start), 0))
        except queue.Empty:
            break
        if isinstance(answer, BaseException):
            raise answer
        found[index] = answer
        told(answer.source, "failed" if answer.error else f"{answer.seconds:.1f} s")
    return tuple(found.get(i) or _late(c.name, interval, deadline_ns) for i, c in enumerate(collectors))


def _late(source: str, interval: Interval, deadline_ns: int) -> Answer:
    error = Unavailable(f"no answer within {deadline_ns / SECOND_NS:g} s")
    return Answer(source, Telemetry(gaps=(Gap(source, str(error), interval),)), deadline_ns / SECOND_NS, error)


def merged(answers: Iterable[Answer]) -> Telemetry:
    """One telemetry of all answers, sorted by time. What two sources say of one thing is taken once.

    Of a metric of one entity that several sources have, the samples of the source with the most are taken: mixed series would
    jump where one of them is missing. Events of one entity, reason and second are one event.
    """
    parts = [Telemetry(), *(answer.telemetry for answer in answers)]  # of no answer there is telemetry too, without rows
    frames: dict[str, Any] = {name: pl.concat([part.frames()[name] for part in parts]) for name in FRAME_NAMES}
    frames["metrics"] = _one_source_each([part.metrics for part in parts], ["entity_kind", "entity", "namespace", "metric"])
    frames["calls"] = _one_source_each([part.calls for part in parts], ["caller", "callee_kind", "callee", "metric"])
    frames["events"] = _distinct(frames["events"], ["entity_kind", "entity", "namespace", "reason"])
    frames["alerts"] = _distinct(frames["alerts"], ["entity_kind", "entity", "namespace", "name"])
    frames["topology"] = frames["topology"].unique(maintain_order=True)
    for name in FRAME_NAMES:
        if name not in UNTIMED_FRAMES:
            frames[name] = frames[name].sort(time_column(name), maintain_order=True)
    gaps = tuple(dict.fromkeys(gap for part in parts for gap in part.gaps))
    return Telemetry(gaps=gaps, **frames)


def without_traces(answer: Answer) -> Answer:
    """The answer without what it says of spans."""
    frames: dict[str, Any] = {name: empty(name) for name in ("spans", *BIN_FRAMES)}
    return replace(answer, telemetry=replace(answer.telemetry, **frames))


_RANK: Final = "_source"


def _one_source_each(frames: Sequence[pl.DataFrame], series: list[str]) -> pl.DataFrame:
    """Every series from the source that has most of it, the first of equals."""
    together = pl.concat([frame.with_columns(pl.lit(i, pl.Int32).alias(_RANK)) for i, frame in enumerate(frames)])
    sizes = together.group_by([*series, _RANK]).len()
    chosen = sizes.sort("len", _RANK, descending=[True, False]).unique(series, keep="first", maintain_order=True)
    return together.join(chosen, on=[*series, _RANK], how="semi", nulls_equal=True).drop(_RANK)


def _distinct(frame: pl.DataFrame, what: list[str]) -> pl.DataFrame:
    second = (pl.col("time_unix_nano") // SECOND_NS).alias("_second")
    return frame.with_columns(second).unique([*what, "_second"], keep="first", maintain_order=True).drop("_second")
