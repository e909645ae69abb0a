"""Sets of time intervals, and the rows of a sorted frame that fall into them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import polars as pl

from rca.telemetry import Interval


def merged(intervals: Iterable[Interval]) -> list[Interval]:
    """The same set of instants as disjoint intervals in order; touching ones are joined."""
    joined: list[Interval] = []
    for interval in sorted(intervals):
        if joined and interval.start_ns <= joined[-1].end_ns:
            joined[-1] = Interval(joined[-1].start_ns, max(joined[-1].end_ns, interval.end_ns))
        else:
            joined.append(interval)
    return joined


def without(whole: Iterable[Interval], taken: Iterable[Interval]) -> list[Interval]:
    """What is left of `whole` when `taken` is removed."""
    left = merged(whole)
    for hole in merged(taken):
        left = [part for interval in left for part in _around(interval, hole)]
    return left


def common(first: Iterable[Interval], second: Iterable[Interval]) -> list[Interval]:
    """Instants that are in both sets."""
    others = merged(second)
    return [
        Interval(max(a.start_ns, b.start_ns), min(a.end_ns, b.end_ns)) for a in merged(first) for b in others if a.overlaps(b)
    ]


def rows_within(frame: pl.DataFrame, time: str, intervals: Sequence[Interval]) -> pl.DataFrame:
    """Rows of a frame sorted by `time` that fall into disjoint intervals."""
    times = frame[time]
    parts = []
    for interval in intervals:
        start, end = times.search_sorted(interval.start_ns, "left"), times.search_sorted(interval.end_ns, "left")
        parts.append(frame.slice(start, end - start))
    return pl.concat(parts) if parts else frame.clear()


def _around(interval: Interval, hole: Interval) -> list[Interval]:
    if not interval.overlaps(hole):
        return [interval]
    parts = []
    if interval.start_ns < hole.start_ns:
        parts.append(Interval(interval.start_ns, hole.start_ns))
    if hole.end_ns < interval.end_ns:
        parts.append(Interval(hole.end_ns, interval.end_ns))
    return parts
