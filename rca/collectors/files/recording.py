"""Telemetry without a label, collected row by row in any order, and cut into one incident at the end.

Memory is bounded by the window and its baseline, not by the recording: rows that no window can reach any more are dropped as the
recording goes on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import polars as pl

from rca.collectors.files.reading import ReadOptions
from rca.collectors.files.templates import count, mine, severity
from rca.errors import BadInput, BadTelemetry
from rca.incidents.incident import BaselineModel, Incident, IntervalModel
from rca.telemetry import MINUTE_NS, SECOND_NS, Gap, Interval, Telemetry, check_time, conform, dtypes, empty

WINDOW_NS: Final = 15 * MINUTE_NS
BASELINE_NS: Final = 120 * MINUTE_NS
_MARGIN_NS: Final = 3 * MINUTE_NS  # kept after the window so that it can be moved
_CHUNK_ROWS: Final = 50_000

LINES: Final[dict[str, pl.DataType]] = {
    "time_unix_nano": pl.Int64(),
    "group": pl.String(),
    "namespace": pl.String(),
    "stated": pl.String(),
    "text": pl.String(),
    "trace_id": pl.String(),
    "span_id": pl.String(),
}
"""A log line: service and its namespace, level as the line states it, text, and the span that it was written in."""

_SCHEMAS: Final = {**{name: dtypes(name) for name in ("spans", "metrics", "events")}, "lines": LINES}
_TIMES: Final = {"spans": "start_time_unix_nano"}


class Rows(Protocol):
    """Takes what readers read: tuples in the order of the frame's columns, of LINES for `lines`."""

    def add(self, frame: str, row: tuple[Any, ...]) -> None: ...

    def relate(self, row: tuple[str, str, str, str, str]) -> None: ...

    def skip(self, source: str, reason: str, count: int = 1) -> None: ...


class Recording:
    """Rows of telemetry as they come: tuples in the order of the frame's columns, of LINES for `lines`."""

    def __init__(self, where: str, options: ReadOptions) -> None:
        self._where = where
        self._asked = _asked_window(options)
        self._window_ns = options.window_ns or WINDOW_NS
        self._baseline_ns = BASELINE_NS if options.baseline_ns is None else options.baseline_ns
        self._pending: dict[str, list[tuple[Any, ...]]] = {name: [] for name in _SCHEMAS}
        self._chunks: dict[str, list[pl.DataFrame]] = {name: [] for name in _SCHEMAS}
        self._topology: set[tuple[str, str, str, str, str]] = set()
        self._skipped: dict[tuple[str, str], int] = {}
        self._latest_ns: int | None = None
        self._earliest_ns: int | None = None

    def add(self, frame: str, row: tuple[Any, ...]) -> None:
        """Add one row to `spans`, `metrics`, `events` or `lines`."""
        pending = self._pending[frame]
        pending.append(row)
        if len(pending) >= _CHUNK_ROWS:
            self._flush(frame)

    def relate(self, row: tuple[str, str, str, str, str]) -> None:
        """Add a relation to the topology, in the order of the frame's columns."""
        self._topology.add(row)

    def skip(self, source: str, reason: str, count: int = 1) -> None:
        """Count records that were left out."""
        if count:
            self._skipped[source, reason] = self._skipped.get((source, reason), 0) + count

    def incident(self, source: str, system: str) -> tuple[Incident, Telemetry]:
        """The incident and its telemetry. Raises BadTelemetry if nothing was recorded, BadInput if nothing in the window."""
        for frame in _SCHEMAS:
            self._flush(frame)
        if self._latest_ns is None or self._earliest_ns is None:
            raise BadTelemetry(self._where, expected="spans, metrics, logs or events", found="none")
        recorded = Interval(self._earliest_ns, self._latest_ns + 1)
        window = self._asked or Interval(max(recorded.end_ns - self._window_ns, recorded.start_ns), recorded.end_ns)
        if not window.overlaps(recorded):
            raise BadInput(f"window {_shown(window)}", expected=f"one within {_shown(recorded)}", found="no telemetry in it")
        gaps = [Gap(source, f"{n} {reason} were skipped") for (source, reason), n in sorted(self._skipped.items())]
        before_ns = max(recorded.start_ns, window.start_ns - self._baseline_ns)
        baseline = Interval(before_ns, window.start_ns) if before_ns < window.start_ns else None
        if baseline is None:
            gaps.append(Gap("baseline", "no telemetry before the incident window"))
        kept = Interval(before_ns if baseline else window.start_ns, window.end_ns + _MARGIN_NS)
        spans = self._frame("spans", kept)
        spans = conform("spans", spans.unique(["trace_id", "span_id"], keep="first", maintain_order=True), self._where)
        topology = pl.DataFrame(sorted(self._topology), schema=dtypes("topology"), orient="row")
        telemetry = Telemetry.of(
            gaps,
            spans=spans,
            metrics=self._frame("metrics", kept).unique(maintain_order=True),
            events=self._frame("events", kept).unique(maintain_order=True),
            logs=logs_of(self._frame("lines", kept), spans, window.start_ns),
            topology=topology,
        )
        return _incident(source, system, window, baseline), telemetry

    def _flush(self, name: str) -> None:
        rows, self._pending[name] = self._pending[name], []
        if not rows:
            return
        time = _TIMES.get(name, "time_unix_nano")
        try:
            chunk = pl.DataFrame(rows, schema=_SCHEMAS[name], orient="row")
        except (pl.exceptions.PolarsError, TypeError, OverflowError) as error:
            expected = "values of the documented types"
            raise BadTelemetry(f"{self._where}, {name}", expected=expected, found=str(error).splitlines()[0]) from error
        earliest, latest = chunk[time].min(), chunk[time].max()
        for value in (earliest, latest):
            if isinstance(value, int):
                check_time(f"{self._where}, {name}", value)
        if isinstance(earliest, int) and isinstance(latest, int):
            self._earliest_ns = min(earliest, earliest if self._earliest_ns is None else self._earliest_ns)
            self._latest_ns = max(latest, latest if self._latest_ns is None else self._latest_ns)
        self._chunks[name].append(chunk)
        self._forget()

    def _forget(self) -> None:
        """Drop what lies outside every window that can still be chosen."""
        if self._latest_ns is None:
            return
        start_ns = (self._asked.start_ns if self._asked else self._latest_ns - self._window_ns) - self._baseline_ns
        end_ns = self._asked.end_ns + _MARGIN_NS if self._asked else self._latest_ns + 1
        for name, chunks in self._chunks.items():
            time = pl.col(_TIMES.get(name, "time_unix_nano"))
            kept = (chunk.filter(time.is_between(start_ns, end_ns, closed="left")) for chunk in chunks)
            self._chunks[name] = [chunk for chunk in kept if not chunk.is_empty()]

    def _frame(self, name: str, kept: Interval) -> pl.DataFrame:
        time = _TIMES.get(name, "time_unix_nano")
        frame = pl.concat([pl.DataFrame(schema=_SCHEMAS[name]), *self._chunks[name]])
        return frame.filter(pl.col(time).is_between(kept.start_ns, kept.end_ns, closed="left")).sort(time, maintain_order=True)


def system_name(text: str) -> str:
    """A name that can stand in an incident id."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "recording"


def _asked_window(options: ReadOptions) -> Interval | None:
    """The window that the options name, or None if it is to be the end of the recording."""
    window_ns = options.window_ns or WINDOW_NS
    if options.incident_at_ns is not None:
        if options.start_ns is not None or options.end_ns is not None:
            raise BadInput("incident window", expected="either its start and end, or a moment and a length", found="both")
        return Interval(options.incident_at_ns, options.incident_at_ns + window_ns)
    if options.start_ns is not None:
        return Interval(options.start_ns, options.end_ns if options.end_ns is not None else options.start_ns + window_ns)
    if options.end_ns is not None:
        return Interval(options.end_ns - window_ns, options.end_ns)
    return None


def logs_of(lines: pl.DataFrame, spans: pl.DataFrame, origin_ns: int) -> pl.DataFrame:
    """The `logs` frame of lines (columns LINES), counted by the operation of the span that each was written in."""
    if lines.is_empty():
        return empty("logs")
    operations = spans.select("trace_id", "span_id", operation="name")
    lines = lines.with_columns(severity=severity(pl.col("stated"), pl.col("text")), source=pl.lit(None, dtype=pl.String))
    lines = lines.join(operations, on=["trace_id", "span_id"], how="left", maintain_order="left")
    return count(mine(lines), origin_ns)


def _incident(source: str, system: str, window: Interval, baseline: Interval | None) -> Incident:
    start = datetime.fromtimestamp(window.start_ns / SECOND_NS, UTC)
    baselines: Sequence[BaselineModel] = ()
    if baseline:
        baselines = (BaselineModel(start_ns=baseline.start_ns, end_ns=baseline.end_ns, provenance="preceding"),)
    return Incident(
        id=f"{system}-{start:%Y%m%dT%H%M%SZ}"[-128:].lstrip("-._"),
        system=system,
        window=IntervalModel(start_ns=window.start_ns, end_ns=window.end_ns),
        baselines=tuple(baselines),
        source=source,
        title=f"{system}, {start:%Y-%m-%d %H:%M:%S} UTC",
    )


def _shown(interval: Interval) -> str:
    ends = (
        datetime.fromtimestamp(ns / SECOND_NS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for ns in (interval.start_ns, interval.end_ns)
    )
    return " to ".join(ends)
