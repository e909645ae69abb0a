"""A window: the incident interval and its baselines, with the telemetry of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import polars as pl

from rca.bins import Bins, bins_of, with_known_peers
from rca.telemetry import BIN_FRAMES, MINUTE_NS, UNTIMED_FRAMES, Gap, Interval, Telemetry, time_column

_LEAD_NS: Final = 10 * MINUTE_NS
Provenance = Literal["preceding", "reference"]
INCIDENT: Final = -1
"""Value of the `interval` column for rows of the incident itself; baselines count from 0."""


@dataclass(frozen=True)
class Baseline:
    """A quiet interval to compare with: the time right before the incident, or a reference from elsewhere."""

    interval: Interval
    provenance: Provenance


@dataclass(frozen=True, eq=False)
class Window:
    """Telemetry of an incident and of its baselines.

    Spans are kept as bins. Every frame has the columns of telemetry.SCHEMAS plus `interval` (Int16: INCIDENT, or the index into
    `baselines`). Rows outside every interval are gone. Rows without a time (alerts) belong to the incident. Topology has no
    interval.
    """

    incident: Interval
    baselines: tuple[Baseline, ...]
    bins: Bins
    metrics: pl.DataFrame
    events: pl.DataFrame
    logs: pl.DataFrame
    alerts: pl.DataFrame
    calls: pl.DataFrame
    topology: pl.DataFrame
    gaps: tuple[Gap, ...] = ()


def cut(telemetry: Telemetry, incident: Interval, baselines: Sequence[Baseline]) -> Window:
    """Cut telemetry into a window. A baseline that overlaps the incident loses the rows they share to the incident."""
    frames = {
        name: frame if name in UNTIMED_FRAMES else _with_interval(frame, time_column(name), incident, baselines)
        for name, frame in telemetry.frames().items()
    }
    led_up = Interval(events_from_ns(incident, baselines), incident.end_ns)
    frames["events"] = _with_interval(telemetry.events, "time_unix_nano", led_up, baselines)
    spans, stored = frames.pop("spans"), Bins.of_frames({name: frames.pop(name) for name in BIN_FRAMES})
    bins = stored if spans.is_empty() else bins_of(spans) if stored.counts.is_empty() else bins_of(spans) + stored
    return Window(incident, tuple(baselines), with_known_peers(bins), gaps=telemetry.gaps, **frames)


def events_from_ns(incident: Interval, baselines: Sequence[Baseline]) -> int:
    """From when on events belong to the incident: from the end of the baseline that precedes it, ten minutes before at most.

    A rollout comes before what it breaks, and an onset that was estimated leaves a stretch between baseline and incident.
    """
    ends = [b.interval.end_ns for b in baselines if b.provenance == "preceding" and b.interval.end_ns <= incident.start_ns]
    return max(*ends, incident.start_ns - _LEAD_NS) if ends else incident.start_ns


def _with_interval(frame: pl.DataFrame, time: str, incident: Interval, baselines: Sequence[Baseline]) -> pl.DataFrame:
    column = pl.col(time)
    index = pl.lit(None, dtype=pl.Int16)
    for i, baseline in reversed(list(enumerate(baselines))):
        inside = column.is_between(baseline.interval.start_ns, baseline.interval.end_ns, closed="left")
        index = pl.when(inside).then(pl.lit(i, dtype=pl.Int16)).otherwise(index)
    inside = column.is_null() | column.is_between(incident.start_ns, incident.end_ns, closed="left")
    index = pl.when(inside).then(pl.lit(INCIDENT, dtype=pl.Int16)).otherwise(index)
    return frame.with_columns(index.alias("interval")).filter(pl.col("interval").is_not_null())
