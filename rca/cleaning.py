"""Telemetry without what contradicts itself. What is taken out is counted in a gap; nothing vanishes silently."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from rca.telemetry import Gap, Interval, Telemetry

_START, _END = "start_time_unix_nano", "end_time_unix_nano"
_NO_PARENT: Final = ("", "0" * 16)
"""What some exporters write for "no parent"."""


def cleaned(telemetry: Telemetry) -> Telemetry:
    """Telemetry that the rest can rely on: spans form trees and do not end before they start, numbers are finite.

    Dropped: spans that end before they start, all but the first of spans with one (trace, span) id, infinite values. Cut: the
    edges that close a cycle of parents. Kept: spans whose parent is absent. Each is counted in a gap.
    """
    spans, gaps = _clean_spans(telemetry.spans)
    metrics, metric_gaps = _without("metrics", telemetry.metrics, _is_infinite(telemetry.metrics), "values are infinite")
    calls, call_gaps = _without("calls", telemetry.calls, _is_infinite(telemetry.calls), "values are infinite")
    return replace(telemetry, spans=spans, metrics=metrics, calls=calls, gaps=(*telemetry.gaps, *gaps, *metric_gaps, *call_gaps))


def _clean_spans(spans: pl.DataFrame) -> tuple[pl.DataFrame, list[Gap]]:
    spans, gaps = _without("spans", spans, spans[_END] < spans[_START], "spans end before they start: a clock ran backwards")
    repeated = ~spans.select(_hash_in_trace("span_id").is_first_distinct()).to_series()
    spans, more = _without("spans", spans, repeated, "spans repeat the id of another span of their trace")
    gaps += more
    if spans["parent_span_id"].is_in(_NO_PARENT).any():
        rootless = pl.col("parent_span_id").is_in(_NO_PARENT)
        spans = spans.with_columns(pl.when(~rootless).then("parent_span_id").alias("parent_span_id"))
    parents = parent_rows(spans)
    orphans = pl.Series((parents < 0) & spans["parent_span_id"].is_not_null().to_numpy())
    gaps += _counted("spans", spans, orphans, "spans name a parent that is absent; they are kept")
    closing = pl.Series(_closes_a_cycle(parents, spans[_START].to_numpy()))
    if closing.any():
        gaps += _counted("spans", spans, closing, "spans are their own ancestor; they are taken as roots")
        spans = spans.with_columns(pl.when(~closing).then("parent_span_id").alias("parent_span_id"))
    return spans, gaps


def without_cycles(spans: pl.DataFrame) -> tuple[pl.DataFrame, npt.NDArray[np.int64], int]:
    """Spans without the edges that close a cycle of parents, the rows of their parents (`parent_rows`), and how many were cut."""
    parents = parent_rows(spans)
    closing = _closes_a_cycle(parents, spans[_START].to_numpy())
    count = int(closing.sum())
    if count:
        spans = spans.with_columns(pl.when(~pl.Series(closing)).then("parent_span_id").alias("parent_span_id"))
        parents[closing] = -1
    return spans, parents, count


def parent_rows(spans: pl.DataFrame) -> npt.NDArray[np.int64]:
    """Row of every span's parent in its trace, (n,); -1 where there is none; the first of several with its id."""
    ids = spans.select(
        _hash_in_trace("span_id").alias("own"),
        pl.when(pl.col("parent_span_id").is_not_null()).then(_hash_in_trace("parent_span_id")).alias("parent"),
    )
    # Sorted 64-bit hashes join several times faster than two texts. Of a million spans, one in 20 million windows is misled.
    own, named = ids["own"].to_numpy(), ids["parent"].fill_null(0).to_numpy()
    order, asked = np.argsort(own), np.argsort(named)
    if (np.diff(own[order]) == 0).any():
        order = np.argsort(own, kind="stable")
    position = np.searchsorted(own[order], named[asked])
    found = np.append(order, -1)[position]
    rows = np.empty(len(spans), dtype=np.int64)
    rows[asked] = np.where((found >= 0) & (own[found] == named[asked]), found, -1)
    return rows


def _hash_in_trace(span_id: str) -> pl.Expr:
    return pl.col("trace_id").hash(seed=1) ^ pl.col(span_id).hash(seed=2)


def _closes_a_cycle(parents: npt.NDArray[np.int64], starts: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Spans on a cycle that do not start after their parent: every cycle has one, and a true child starts after its parent.

    Jumps double in length every round, so that only spans below a cycle are still under way after log2(n) rounds; where
    they stand then is on the cycle.
    """
    jump = parents.copy()
    rows = np.flatnonzero(jump >= 0)
    length = 1
    while len(rows) and length < len(parents):
        landed = jump[jump[rows]]
        jump[rows] = landed
        rows = rows[landed >= 0]
        length *= 2
    closing = np.zeros(len(parents), dtype=np.bool_)
    members = np.unique(jump[rows])
    closing[members] = starts[members] <= starts[parents[members]]
    return closing


def _is_infinite(frame: pl.DataFrame) -> pl.Series:
    return frame["value"].is_infinite()


def _without(source: str, frame: pl.DataFrame, bad: pl.Series, what: str) -> tuple[pl.DataFrame, list[Gap]]:
    gaps = _counted(source, frame, bad, f"{what}; they are dropped")
    return (frame.filter(~bad) if gaps else frame), gaps


def _counted(source: str, frame: pl.DataFrame, bad: pl.Series, what: str) -> list[Gap]:
    count = int(bad.sum())
    if not count:
        return []
    times = frame[_START if source == "spans" else "time_unix_nano"].filter(bad).to_numpy()
    return [Gap(source, f"{count} of {frame.height} {what}", Interval(int(times.min()), int(times.max()) + 1))]
