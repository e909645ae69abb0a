"""Export requests to frames: protobuf and JSON, for traces, metrics and logs, many requests at a time.

Spans in protobuf have a path of their own, column by column, because they are many; everything else goes through the readers
of rca.collectors.files, protobuf as the JSON that it stands for. What names mean is decided in one place for both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import polars as pl
from google.protobuf.message import DecodeError

from rca.collectors.files.otlp_json import OtlpReader, Relation
from rca.collectors.files.otlp_metrics import LastValues, points_of
from rca.collectors.files.templates import Templates, count, severity
from rca.collectors.otlp import plain
from rca.collectors.otlp.config import OtlpConfig
from rca.collectors.otlp.intake import Batch, Signal
from rca.collectors.otlp.request import NOUNS, Receipt, Request
from rca.collectors.otlp.spans import KINDS, STATUSES, SpanColumns, SpanReader, span_frame
from rca.collectors.otlp.times import TimeLimits
from rca.errors import BadTelemetry
from rca.telemetry import MINUTE_NS, dtypes, empty

_DAMAGE: Final = (DecodeError, ValueError, OverflowError, RecursionError, AttributeError, KeyError, TypeError)
_ROOTS: Final[dict[Signal, str]] = {"spans": "resourceSpans", "metrics": "resourceMetrics", "logs": "resourceLogs"}
_RESTATED_NS: Final = MINUTE_NS
_MOST_RELATIONS: Final = 100_000
_SURROGATES: Final = re.compile(rb"\\u[dD][89a-fA-F]")

_LINES: Final[dict[str, pl.DataType]] = {
    **{name: pl.String() for name in ("group", "namespace", "stated", "text", "operation")},
    "time_unix_nano": pl.Int64(),
}
_FRAMES: Final = {"metrics": dtypes("metrics"), "events": dtypes("events"), "lines": _LINES}
_EMPTY: Final = {
    "lines": pl.DataFrame(schema=_LINES),
    **{name: empty(name) for name in ("metrics", "events", "logs", "topology")},
}
"""Made once: making an empty frame takes as long as reading a hundred spans."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """What several requests hold, and what became of each, in their order."""

    batch: Batch
    receipts: Sequence[Receipt | BadTelemetry]


class Decoder:
    """Decodes export requests. Remembers, in bounded memory, cumulative values, log templates and stated relations.

    Not to be used by two threads at once.
    """

    def __init__(self, config: OtlpConfig) -> None:
        self.last_values = LastValues(config.max_series_bytes, config.max_age)
        self._config = config
        self._templates = Templates(config.max_templates)
        self._stated: dict[Relation, int] = {}
        self._spans = SpanReader(config)

    def decode(self, requests: Sequence[Request], now_ns: int) -> Decoded:
        """Frames of all requests together. One that is no OTLP has a BadTelemetry as its receipt; the others are unharmed."""
        limits = TimeLimits(now_ns, self._config.max_age, self._config.max_skew)
        receipts: list[Receipt | BadTelemetry] = []
        parts: list[_Rows] = []
        spans: list[tuple[Receipt, SpanColumns]] = []
        for request in requests:
            receipt = Receipt()
            part = _Rows(receipt)
            try:
                found = self._read(request, part, limits)
                part.close()
            except BadTelemetry as error:
                receipts.append(error)
                continue
            receipts.append(receipt)
            parts.append(part)
            if found.ids:
                spans.append((receipt, found))
        metrics, lines = self._cut("metrics", parts), self._cut("lines", parts)
        batch = Batch(
            spans=span_frame(spans, limits, self._config.max_text_length),
            metrics=metrics.filter(pl.col("value").is_finite()) if metrics.height else metrics,
            events=self._cut("events", parts),
            logs=self._counted(lines, limits),
            topology=self._topology({relation for part in parts for relation in part.relations}, now_ns),
        )
        return Decoded(batch, receipts)

    def _read(self, request: Request, part: _Rows, limits: TimeLimits) -> SpanColumns:
        where = f"OTLP {request.signal} in {request.encoding}"
        try:
            if request.encoding == "protobuf" and request.signal == "spans":
                return part.also(self._spans.read(request.body))
            message = _message(request)
            _screen(message, request.signal, part.receipt, limits)
            OtlpReader(part, self.last_values, self._config.max_attributes).take(message, where)
            return part.spans() if request.signal == "spans" else SpanColumns()
        except _DAMAGE as error:
            raise BadTelemetry(where, expected="an export request", found=str(error)[:200] or type(error).__name__) from error

    def _cut(self, name: str, parts: Sequence[_Rows]) -> pl.DataFrame:
        """One frame for several, its text cut to the limit."""
        frames = [frame for part in parts for frame in part.frames(name)]
        if not frames:
            return _EMPTY[name]
        return pl.concat(frames).with_columns(pl.col(pl.String).str.slice(0, self._config.max_text_length))

    def _counted(self, lines: pl.DataFrame, limits: TimeLimits) -> pl.DataFrame:
        """Exceptions whose span has a wrong time go with it."""
        if lines.is_empty():
            return _EMPTY["logs"]
        marked = lines.filter(limits.within(pl.col("time_unix_nano"))).with_columns(
            severity=severity(pl.col("stated"), pl.col("text"))
        )
        return count(self._templates.mine(marked), 0).select(list(dtypes("logs")))

    def _topology(self, relations: set[Relation], now_ns: int) -> pl.DataFrame:
        """Relations that were not handed on in the last minute."""
        if len(self._stated) > _MOST_RELATIONS:
            self._stated.clear()
        longest = self._config.max_text_length
        short = {(kind, source[:longest], relation, to, target[:longest]) for kind, source, relation, to, target in relations}
        new = sorted(relation for relation in short if self._stated.get(relation, 0) <= now_ns - _RESTATED_NS)
        self._stated.update(dict.fromkeys(new, now_ns))
        if not new:
            return _EMPTY["topology"]
        return pl.DataFrame(new, schema=dtypes("topology"), orient="row")


class _Rows:
    """Rows of one request, as the readers of rca.collectors.files write them."""

    def __init__(self, receipt: Receipt) -> None:
        self.receipt = receipt
        self.relations: set[Relation] = set()
        self._rows: dict[str, list[tuple[Any, ...]]] = {"spans": [], "metrics": [], "events": [], "lines": []}
        self._exceptions: list[tuple[Any, ...]] = []
        self._frames: dict[str, pl.DataFrame] = {}

    def add(self, frame: str, row: tuple[Any, ...]) -> None:
        self._rows[frame].append(row)

    def relate(self, row: Relation) -> None:
        self.relations.add(row)

    def skip(self, source: str, reason: str, count: int = 1) -> None:
        """Count what the readers left out; attributes beyond the limit harm nothing but their span."""
        if source == "attributes":
            self.receipt.altered += 1
        elif count:
            self.receipt.rejected[reason] += count

    def close(self) -> None:
        """Make the frames. Raises BadTelemetry if values do not have the documented types."""
        try:
            for name, schema in _FRAMES.items():
                rows = self._lines() if name == "lines" else self._rows[name]
                if rows:
                    self._frames[name] = pl.DataFrame(rows, schema=schema, orient="row")
        except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError) as error:
            raise BadTelemetry("OTLP", expected="values of the documented types", found=str(error)[:200]) from error

    def frames(self, name: str) -> list[pl.DataFrame]:
        """The frame of a name, unless it would be empty."""
        return [self._frames[name]] if name in self._frames else []

    def also(self, found: SpanColumns) -> SpanColumns:
        """Take over what spans read from protobuf say beside themselves."""
        self.relations |= found.relations
        self._exceptions += found.lines
        self.receipt.received = len(found.ids)
        return found

    def spans(self) -> SpanColumns:
        """Spans that a reader of JSON found. Raises ValueError, TypeError or OverflowError."""
        found = SpanColumns()
        for trace_id, span_id, parent, name, kind, start, end, status, *rest in self._rows["spans"]:
            if not isinstance(name, str):
                raise TypeError(f"a span's name is of type {type(name).__name__}")
            if not (0 <= start < 2**64 and 0 <= end < 2**64):
                raise OverflowError(f"a span's times are {start} and {end}")
            found.trace_ids.append(_bytes(trace_id))
            found.ids.append(_bytes(span_id))
            found.parents.append(_bytes(parent) if parent else None)
            found.names.append(name)
            found.kinds.append(kind if kind in KINDS else 0)
            found.starts.append(start)
            found.ends.append(end)
            found.statuses.append(status if status in STATUSES else 0)
            found.emitters.append(((rest[0], rest[1], rest[2], rest[3]), 1))
            found.calls.append(len(found.peers))
            found.peers.append(tuple(rest[4:]))
        self.receipt.received = len(found.ids) + self.receipt.rejected.total()  # so far only the reader has rejected any
        return found

    def _lines(self) -> list[tuple[Any, ...]]:
        operations = {row[:2]: row[3] for row in self._rows["spans"]} if self._rows["lines"] else {}
        rows = [
            (group, namespace, stated, text, operations.get((trace_id, span_id)), time_ns)
            for time_ns, group, namespace, stated, text, trace_id, span_id in self._rows["lines"]
        ]
        return rows + self._exceptions


def _message(request: Request) -> dict[str, Any]:
    """An export request as JSON has it. Raises DecodeError, ValueError or RecursionError."""
    if request.encoding == "protobuf":
        return plain.metrics(request.body) if request.signal == "metrics" else plain.logs(request.body)
    message = json.loads(request.body)
    if not isinstance(message, dict):
        raise TypeError(f"a JSON {type(message).__name__}")
    if _SURROGATES.search(request.body):
        json.dumps(message, ensure_ascii=False).encode()  # text that is half a character could not be written anywhere
    root = _ROOTS[request.signal]
    return {root: message.get(root) or []}


def _screen(message: dict[str, Any], signal: Signal, receipt: Receipt, limits: TimeLimits) -> None:
    """Count data points and log records, and take out those whose time cannot be right."""
    for part in message.get("resourceMetrics") or ():
        for scope in part.get("scopeMetrics") or part.get("instrumentationLibraryMetrics") or ():
            for metric in scope.get("metrics") or ():
                kind, points = points_of(metric)
                if points:
                    metric[kind]["dataPoints"] = _in_time(points, signal, receipt, limits)
    for part in message.get("resourceLogs") or ():
        for scope in part.get("scopeLogs") or part.get("instrumentationLibraryLogs") or ():
            key = "logRecords" if scope.get("logRecords") else "logs"
            if scope.get(key):
                scope[key] = _in_time(scope[key], signal, receipt, limits)


def _in_time(records: Sequence[Any], signal: Signal, receipt: Receipt, limits: TimeLimits) -> list[Any]:
    kept = []
    for record in records:
        reason = limits.reason(int(record.get("timeUnixNano") or 0) or int(record.get("observedTimeUnixNano") or 0))
        if reason:
            receipt.rejected[f"{NOUNS[signal]} {reason}"] += 1
        else:
            kept.append(record)
    receipt.received += len(records)
    return kept


def _bytes(text: str) -> bytes:
    """The bytes of an id in hex; one byte, which is no id, if it is not hex."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b"?"
