"""Spans as readers hand them on, to telemetry of one stretch of time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import polars as pl

from rca.collectors.files.recording import LINES, logs_of
from rca.telemetry import SCHEMAS, Gap, Interval, Telemetry, conform, dtypes, empty

_COLUMNS: Final = tuple(SCHEMAS["spans"])
_REQUIRED: Final = [name for name, column in SCHEMAS["spans"].items() if column.required]
_START: Final = "start_time_unix_nano"
_TRACE, _SPAN, _PARENT, _TIME, _SERVICE, _NAME = (
    _COLUMNS.index(name) for name in ("trace_id", "span_id", "parent_span_id", _START, "service.name", "name")
)
_FAR: Final = 2**62
_LINE_TRACE: Final = tuple(LINES).index("trace_id")

Row = tuple[Any, ...]


class TraceRows:
    """Rows of spans, and of the lines that their exceptions make. Takes what readers of files read (recording.Rows)."""

    def __init__(self) -> None:
        self.spans: list[Row] = []
        self.lines: list[Row] = []
        self.topology: set[tuple[str, str, str, str, str]] = set()
        self.skipped: Counter[str] = Counter()

    def add(self, frame: str, row: Row) -> None:
        """Add a row of `spans` or `lines`. A store of traces has nothing else."""
        if frame == "spans":
            self.spans.append(row)
        elif frame == "lines":
            self.lines.append(row)

    def relate(self, row: tuple[str, str, str, str, str]) -> None:
        """Add a relation, in the order of the topology's columns."""
        self.topology.add(row)

    def skip(self, source: str, reason: str, count: int = 1) -> None:
        """Count what was left out."""
        self.skipped[f"{source}: {reason}" if source != "spans" else reason] += count

    def roots(self) -> Iterator[tuple[str, int, str, str]]:
        """(trace id, start, service, operation) of every trace: of its first span without a parent that is there."""
        traces: dict[str, list[Row]] = {}
        for row in self.spans:
            traces.setdefault(str(row[_TRACE]), []).append(row)
        for trace_id, rows in traces.items():
            ids = {row[_SPAN] for row in rows}
            first = min(rows, key=lambda row: (row[_PARENT] in ids, row[_TIME], str(row[_SPAN])))
            yield trace_id, first[_TIME], str(first[_SERVICE]), str(first[_NAME])

    def take(self, other: TraceRows, trace_ids: Collection[str] | None = None) -> None:
        """Add the rows of some other traces, or of all. What was skipped while reading them is counted in any case."""
        if trace_ids is None:
            self.spans += other.spans
            self.lines += other.lines
        else:
            self.spans += [row for row in other.spans if row[_TRACE] in trace_ids]
            self.lines += [row for row in other.lines if row[_LINE_TRACE] in trace_ids]
        self.topology |= other.topology
        self.skipped += other.skipped

    def telemetry(self, source: str, interval: Interval, gaps: Iterable[Gap]) -> Telemetry:
        """What of it began in the interval, every span once, sorted by time; what was skipped becomes gaps."""
        spans = _within(_frame(self.spans, dtypes("spans")), _START, interval)
        whole = spans.drop_nulls(_REQUIRED)
        skipped = self.skipped + Counter({"spans with values of other types": len(spans) - len(whole)})
        keys = [_START, "trace_id", "span_id"]
        whole = whole.unique(["trace_id", "span_id"], keep="first", maintain_order=True).sort(keys)
        lines = _within(_frame(self.lines, LINES), "time_unix_nano", interval)
        lines = lines.drop_nulls(["time_unix_nano", "group", "text"]).sort(list(LINES), nulls_last=True)
        return Telemetry(
            spans=conform("spans", whole, source),
            logs=empty("logs") if lines.is_empty() else conform("logs", logs_of(lines, whole, interval.start_ns), source),
            topology=conform("topology", pl.DataFrame(sorted(self.topology), schema=dtypes("topology"), orient="row"), source),
            gaps=(*gaps, *(Gap(source, f"{n} {reason} were skipped") for reason, n in sorted(skipped.items()) if n)),
        )


def _frame(rows: Sequence[Row], schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Rows as columns; values of another type become null."""
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    return pl.DataFrame([_series(name, values, dtype) for (name, dtype), values in zip(schema.items(), columns, strict=True)])


def _series(name: str, values: Sequence[Any], dtype: pl.DataType) -> pl.Series:
    if dtype.is_integer():
        values = [value if isinstance(value, int) and abs(value) < _FAR else None for value in values]
    return pl.Series(name, values, dtype=dtype, strict=False)


def _within(frame: pl.DataFrame, time: str, interval: Interval) -> pl.DataFrame:
    return frame.filter(pl.col(time).is_null() | pl.col(time).is_between(interval.start_ns, interval.end_ns, closed="left"))
