"""Export requests to frames: protobuf and JSON, for traces, metrics and logs, many requests at a time.

Spans in protobuf have a path of their own, column by column, because they are many; everything else goes through the readers
of rca.collectors.files, protobuf as the JSON that it stands for. What names mean is decided in one place for both.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final, Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl
from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from rca.collectors.files.otlp_json import (
    ALIASES,
    HTTP_STATUS,
    Emitter,
    OtlpReader,
    Relation,
    attributes,
    emitter_of,
    exception_text,
    http_status,
    peers,
    relations_of,
)
from rca.collectors.files.otlp_metrics import LastValues, points_of
from rca.collectors.files.templates import Templates, count, severity
from rca.collectors.otlp import plain
from rca.collectors.otlp.config import OtlpConfig
from rca.collectors.otlp.intake import RAW_SPANS, Batch, Signal
from rca.collectors.otlp.lean import LeanTraces
from rca.collectors.otlp.times import REASONS, TimeLimits
from rca.errors import BadTelemetry
from rca.telemetry import MINUTE_NS, dtypes

_DAMAGE: Final = (DecodeError, ValueError, OverflowError, RecursionError, AttributeError, KeyError, TypeError)
Encoding = Literal["protobuf", "json"]
Mask = npt.NDArray[np.bool_]

_ROOTS: Final[dict[Signal, str]] = {"spans": "resourceSpans", "metrics": "resourceMetrics", "logs": "resourceLogs"}
_BAD_IDS: Final = "with invalid ids"
_BACKWARDS: Final = "that end before they start"
_SPAN_REASONS: Final = (*REASONS, _BAD_IDS, _BACKWARDS)
_CALL_KINDS: Final = frozenset({3, 4, 5})
_ALL_KINDS: Final = frozenset(range(6))
_RESTATED_NS: Final = MINUTE_NS
_MOST_RELATIONS: Final = 100_000
_CACHED: Final = 16_384  # entries of one cache
_CACHED_BYTES: Final = 1024  # of one entry; longer ones are not worth remembering
_SURROGATES: Final = re.compile(rb"\\u[dD][89a-fA-F]")

_LINES: Final[dict[str, pl.DataType]] = {
    **{name: pl.String() for name in ("group", "namespace", "stated", "text", "operation")},
    "time_unix_nano": pl.Int64(),
}
_FRAMES: Final = {"metrics": dtypes("metrics"), "events": dtypes("events"), "lines": _LINES}
_EMITTERS: Final = ("service.name", "service.namespace", "k8s.pod.name", "k8s.node.name")
_PEERS: Final = tuple(names[0] for names in ALIASES)
_NOBODY: Final = (*(None,) * len(ALIASES), None)
_KEY_FIRST: Final = b"\n"
_WANTED: Final = tuple(
    _KEY_FIRST + bytes([len(name)]) + name.encode() for name in (*(name for names in ALIASES for name in names), *HTTP_STATUS)
)
"""How a wanted attribute begins on the wire where its key comes first, as it does unless somebody writes fields backwards."""

_STATUSES: Final = frozenset(range(3))
_ZEROS: Final = bytes(16)
NOUNS: Final[dict[Signal, str]] = {"spans": "spans", "metrics": "data points", "logs": "log records"}

K = TypeVar("K", bytes, tuple[bytes, ...])
V = TypeVar("V")
_Peers = tuple[str | int | None, ...]  # values of _PEERS, then the HTTP status


@dataclass(frozen=True)
class Request:
    """The body of one export request, decompressed."""

    signal: Signal
    body: bytes
    encoding: Encoding = "protobuf"


@dataclass
class Receipt:
    """What became of one request's spans, data points or log records."""

    received: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    altered: int = 0

    @property
    def accepted(self) -> int:
        return self.received - self.rejected.total()

    @property
    def message(self) -> str:
        """Why some were rejected, for the sender; empty if none were."""
        return "; ".join(f"{n} {reason}" for reason, n in sorted(self.rejected.items()))


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
        self.last_values = LastValues(config.max_series_numbers, config.max_age)
        self._config = config
        self._templates = Templates(config.max_templates)
        self._stated: dict[Relation, int] = {}
        self._emitters: _Known[bytes, tuple[Emitter, list[Relation]]] = _Known(_resource_of)
        self._peers: _Known[tuple[bytes, ...], _Peers] = _Known(_peers_of)
        self._kinds = _CALL_KINDS if config.read_attributes == "calls" else _ALL_KINDS

    def decode(self, requests: Sequence[Request], now_ns: int) -> Decoded:
        """Frames of all requests together. One that is no OTLP has a BadTelemetry as its receipt; the others are unharmed."""
        limits = TimeLimits(now_ns, self._config.max_age, self._config.max_skew)
        receipts: list[Receipt | BadTelemetry] = []
        parts: list[_Rows] = []
        spans: list[tuple[Receipt, _Spans]] = []
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
        lines = self._cut("lines", parts).filter(limits.within(pl.col("time_unix_nano")))
        batch = Batch(
            spans=_span_frame(spans, limits, self._config.max_text_length),
            metrics=self._cut("metrics", parts).filter(pl.col("value").is_finite()),
            events=self._cut("events", parts),
            logs=self._counted(lines),
            topology=self._topology({relation for part in parts for relation in part.relations}, now_ns),
        )
        return Decoded(batch, receipts)

    def _read(self, request: Request, part: _Rows, limits: TimeLimits) -> _Spans:
        where = f"OTLP {request.signal} in {request.encoding}"
        try:
            if request.encoding == "protobuf" and request.signal == "spans":
                return self._lean_spans(request.body, part)
            message = _message(request)
            _screen(message, request.signal, part.receipt, limits)
            OtlpReader(part, self.last_values, self._config.max_attributes).take(message, where)
            return part.spans() if request.signal == "spans" else _Spans()
        except _DAMAGE as error:
            raise BadTelemetry(where, expected="an export request", found=str(error)[:200] or type(error).__name__) from error

    def _lean_spans(self, body: bytes, part: _Rows) -> _Spans:
        """Raises DecodeError."""
        found = _Spans()
        for resource_spans in LeanTraces.FromString(body).resource_spans:
            emitter, relations = self._emitters.of(resource_spans.resource)
            part.relations.update(relations)
            for scope in resource_spans.scope_spans:
                spans = list(scope.spans)
                kinds = [span.kind for span in spans]
                found.trace_ids += [span.trace_id for span in spans]
                found.ids += [span.span_id for span in spans]
                found.parents += [span.parent_span_id for span in spans]
                found.names += [span.name for span in spans]
                found.kinds += kinds
                found.starts += [span.start_time_unix_nano for span in spans]
                found.ends += [span.end_time_unix_nano for span in spans]
                found.statuses += [span.status.code for span in spans]
                found.emitters += [emitter] * len(spans)
                self._read_peers(spans, kinds, found)
                for span in spans:
                    if span.events:
                        _exceptions(span, emitter, part, self._config.max_attributes)
        part.receipt.received = len(found.ids)
        return found

    def _read_peers(self, spans: Sequence[Any], kinds: Sequence[int], found: _Spans) -> None:
        """Look at the attributes of those spans whose kind is wanted."""
        most, wanted, known = self._config.max_attributes, self._kinds, self._peers.of
        into = found.peers
        for kind, span in zip(kinds, spans, strict=True):
            if kind not in wanted:
                into.append(_NOBODY)
                continue
            sent = span.attributes
            if len(sent) > most:
                found.over.append(len(into))
                sent = sent[:most]
            if sent and sent[0][:1] != _KEY_FIRST:
                sent = [KeyValue.FromString(pair).SerializeToString() for pair in sent]
            hits = tuple([pair for pair in sent if pair.startswith(_WANTED)])
            into.append(known(hits) if hits else _NOBODY)

    def _cut(self, name: str, parts: Sequence[_Rows]) -> pl.DataFrame:
        """One frame for several, its text cut to the limit."""
        whole = pl.concat([pl.DataFrame(schema=_FRAMES[name]), *(frame for part in parts for frame in part.frames(name))])
        longest = self._config.max_text_length
        return whole.with_columns(pl.col(pl.String).str.slice(0, longest)) if len(whole) else whole

    def _counted(self, lines: pl.DataFrame) -> pl.DataFrame:
        if lines.is_empty():
            return pl.DataFrame(schema=dtypes("logs"))
        marked = lines.with_columns(severity=severity(pl.col("stated"), pl.col("text")))
        return count(self._templates.mine(marked), 0).select(list(dtypes("logs")))

    def _topology(self, relations: set[Relation], now_ns: int) -> pl.DataFrame:
        """Relations that were not handed on in the last minute."""
        if len(self._stated) > _MOST_RELATIONS:
            self._stated.clear()
        new = sorted(relation for relation in relations if self._stated.get(relation, 0) <= now_ns - _RESTATED_NS)
        self._stated.update(dict.fromkeys(new, now_ns))
        longest = self._config.max_text_length
        rows = [tuple(text[:longest] for text in relation) for relation in new]
        return pl.DataFrame(rows, schema=dtypes("topology"), orient="row")


class _Spans:
    """Columns of spans as they were sent, one entry a span."""

    def __init__(self) -> None:
        self.trace_ids: list[bytes] = []
        self.ids: list[bytes] = []
        self.parents: list[bytes] = []
        self.names: list[str] = []
        self.kinds: list[int] = []
        self.starts: list[int] = []
        self.ends: list[int] = []
        self.statuses: list[int] = []
        self.emitters: list[Emitter] = []
        self.peers: list[_Peers] = []
        self.over: list[int] = []  # rows with more attributes than are read


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

    def line(self, time_ns: int, emitter: Emitter, text: str, operation: str) -> None:
        """Add a line that says what went wrong in an operation."""
        self._exceptions.append((*emitter[:2], "ERROR", text, operation, time_ns))

    def spans(self) -> _Spans:
        """Spans that a reader of JSON found. Raises ValueError, TypeError or OverflowError."""
        found = _Spans()
        for trace_id, span_id, parent, name, kind, start, end, status, *rest in self._rows["spans"]:
            if not isinstance(name, str):
                raise TypeError(f"a span's name is of type {type(name).__name__}")
            if not (0 <= start < 2**64 and 0 <= end < 2**64):
                raise OverflowError(f"a span's times are {start} and {end}")
            found.trace_ids.append(_bytes(trace_id))
            found.ids.append(_bytes(span_id))
            found.parents.append(_bytes(parent or ""))
            found.names.append(name)
            found.kinds.append(kind if kind in _ALL_KINDS else 0)
            found.starts.append(start)
            found.ends.append(end)
            found.statuses.append(status if status in _STATUSES else 0)
            found.emitters.append((rest[0], rest[1], rest[2], rest[3]))
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


class _Known(Generic[K, V]):
    """What bytes mean, remembered while they are few and short."""

    def __init__(self, meaning: Callable[[K], V]) -> None:
        self._meaning: Callable[[K], V] = meaning
        self._known: dict[K, V] = {}

    def of(self, key: K) -> V:
        found = self._known.get(key)
        if found is None:
            found = self._meaning(key)
            if len(self._known) >= _CACHED:
                self._known.clear()
            if (len(key) if isinstance(key, bytes) else sum(map(len, key))) <= _CACHED_BYTES:
                self._known[key] = found
        return found


def _resource_of(raw: bytes) -> tuple[Emitter, list[Relation]]:
    resource = attributes(plain.pairs(Resource.FromString(raw).attributes))
    return emitter_of(resource), relations_of(resource)


def _peers_of(raw: tuple[bytes, ...]) -> _Peers:
    values = attributes(plain.pairs(KeyValue.FromString(pair) for pair in raw))
    return (*peers(values), http_status(values))


def _exceptions(span: Any, emitter: Emitter, part: _Rows, most: int) -> None:
    for raw in span.events:
        if b"exception" in raw:
            event = Span.Event.FromString(raw)
            if event.name == "exception":
                text = exception_text(attributes(plain.pairs(event.attributes[:most])))
                part.line(event.time_unix_nano or span.end_time_unix_nano, emitter, text, span.name)


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


def _span_frame(parts: Sequence[tuple[Receipt, _Spans]], limits: TimeLimits, longest: int) -> pl.DataFrame:
    """Spans of all parts that can be used; what cannot, and what is cut, goes to the receipts."""
    if not parts:
        return pl.DataFrame(schema=RAW_SPANS)

    def column(name: str) -> list[Any]:
        return list(chain.from_iterable(getattr(spans, name) for _, spans in parts))

    starts, ends = (np.array(column(name), dtype=np.uint64) for name in ("starts", "ends"))
    emitters, long_emitter = _table(column("emitters"), dict.fromkeys(_EMITTERS, pl.String()), longest)
    peer_types = {**dict.fromkeys(_PEERS, pl.String()), "http.response.status_code": pl.Int32()}
    called, long_peer = _table(column("peers"), peer_types, longest)
    names = pl.Series("name", column("names"), dtype=pl.String)
    ids = pl.DataFrame(
        [
            pl.Series(name, column(source), dtype=pl.Binary)
            for name, source in (("trace_id", "trace_ids"), ("span_id", "ids"), ("parent_span_id", "parents"))
        ]
    ).with_columns(pl.when(~pl.col("parent_span_id").is_in([b"", _ZEROS[:8]])).then("parent_span_id").alias("parent_span_id"))
    frame = pl.DataFrame(
        [
            *ids,
            names,
            _enum("kind", column("kinds"), _ALL_KINDS),
            pl.Series("start_time_unix_nano", starts),
            pl.Series("end_time_unix_nano", ends),
            _enum("status_code", column("statuses"), _STATUSES),
            *emitters,
            *called,
        ]
    )
    codes = limits.codes(starts)
    codes = np.where(codes == 0, limits.codes(ends), codes)
    codes[(codes == 0) & (ends < starts)] = _SPAN_REASONS.index(_BACKWARDS)
    codes[_bad_ids(ids)] = _SPAN_REASONS.index(_BAD_IDS)
    altered = long_emitter | long_peer
    if _is_long(names, longest).any():
        altered |= _is_long(names, longest).to_numpy()
        frame = frame.with_columns(pl.col("name").str.slice(0, longest))
    _note(parts, codes, altered)
    if codes.any():
        frame = frame.filter(pl.Series(codes == 0))
    return frame.cast(RAW_SPANS)  # type: ignore[arg-type]  # polars' stubs want its own mapping


def _table(rows: Sequence[tuple[Any, ...]], schema: dict[str, pl.DataType], longest: int) -> tuple[pl.DataFrame, Mask]:
    """Rows, of which most are the same few tuples, as a frame; and which of them held text that was cut."""
    _, first, codes = np.unique(
        np.fromiter(map(id, rows), dtype=np.int64, count=len(rows)), return_index=True, return_inverse=True
    )
    few = pl.DataFrame([rows[row] for row in first.tolist()], schema=schema, orient="row")
    long = few.select(pl.any_horizontal(pl.col(pl.String).str.len_chars().fill_null(0) > longest)).to_series().to_numpy()
    if long.any():
        few = few.with_columns(pl.col(pl.String).str.slice(0, longest))
    return few[codes], long[codes]


def _enum(name: str, values: Sequence[int], known: frozenset[int]) -> pl.Series:
    """Values of a protobuf enum; those that are not known yet count as 0."""
    series = pl.Series(name, values, dtype=pl.Int32)
    return series.set(~series.is_between(0, max(known)), 0)


def _is_long(text: pl.Series, longest: int) -> pl.Series:
    return (text.str.len_bytes() > longest) & (text.str.len_chars() > longest)


def _bad_ids(ids: pl.DataFrame) -> Mask:
    trace, span, parent = pl.col("trace_id"), pl.col("span_id"), pl.col("parent_span_id")
    sizes = (trace.bin.size() != 16) | (span.bin.size() != 8) | (parent.bin.size() != 8).fill_null(False)
    bad: Mask = ids.select(sizes | (trace == _ZEROS) | (span == _ZEROS[:8])).to_series().to_numpy()
    return bad


def _note(parts: Sequence[tuple[Receipt, _Spans]], codes: npt.NDArray[np.int8], altered: Mask) -> None:
    """Tell every request's receipt what became of its spans."""
    at = 0
    for receipt, spans in parts:
        end = at + len(spans.ids)
        own, cut = codes[at:end], altered[at:end]
        if own.any():
            found = np.bincount(own, minlength=len(_SPAN_REASONS)).tolist()
            receipt.rejected.update({f"spans {_SPAN_REASONS[code]}": n for code, n in enumerate(found) if code and n})
        if spans.over or cut.any():
            cut = cut.copy()
            cut[spans.over] = True
            receipt.altered += int((cut & (own == 0)).sum())
        at = end


def _bytes(text: str | None) -> bytes:
    """The bytes of an id in hex; none if it is not hex, which makes the id invalid."""
    try:
        return bytes.fromhex(text or "")
    except ValueError:
        return b""
