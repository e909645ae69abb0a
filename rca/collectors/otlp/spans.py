"""Spans column by column: from protobuf, where they are many, and from there, whoever read them, to one frame.

This is the hot path: a list comprehension for each field, one look at each attribute, and frames made of several requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from operator import or_
from typing import Any, Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from rca.collectors.files.otlp_json import (
    ALIASES,
    HTTP_STATUS,
    Emitter,
    Relation,
    attributes,
    emitter_of,
    exception_text,
    http_status,
    peers,
    relations_of,
)
from rca.collectors.otlp import plain
from rca.collectors.otlp.config import OtlpConfig
from rca.collectors.otlp.intake import RAW_SPANS
from rca.collectors.otlp.lean import LeanTraces
from rca.collectors.otlp.request import Receipt
from rca.collectors.otlp.times import REASONS, TimeLimits

KINDS: Final = frozenset(range(6))
STATUSES: Final = frozenset(range(3))
_CALL_KINDS: Final = frozenset({3, 4, 5})
_SPAN_REASONS: Final = (*REASONS, "that end before they start", "with invalid ids")
_BACKWARDS, _BAD_IDS = len(REASONS), len(REASONS) + 1
_ZEROS: Final = bytes(16)

_EMITTERS: Final = ("service.name", "service.namespace", "k8s.pod.name", "k8s.node.name")
_PEERS: Final = (*(names[0] for names in ALIASES), "http.response.status_code")
NOBODY: Final = (None,) * len(_PEERS)
"""Peers of a span that names none, or whose attributes are not read."""

_EXCEPTION: Final = b"exception"
_KEY_FIRST: Final = b"\n"
_WANTED: Final = tuple(_KEY_FIRST + bytes([len(name)]) + name.encode() for name in (*chain.from_iterable(ALIASES), *HTTP_STATUS))
"""How a wanted attribute begins on the wire where its key comes first, as it does unless somebody writes fields backwards."""
_PIECE: Final = slice(2, 9)
_WANTED_PIECES: Final = frozenset(start[_PIECE] for start in _WANTED)
"""Seven characters of a key tell most attributes apart, and finding them in a set is cheaper than comparing beginnings."""

_NO_SPANS: Final = pl.DataFrame(schema=RAW_SPANS)
_CACHED: Final = 16_384  # entries of one cache
_CACHED_BYTES: Final = 1024  # of one entry; longer ones are not worth remembering

K = TypeVar("K", bytes, tuple[bytes, ...])
V = TypeVar("V")
Peers = tuple[str | int | None, ...]
"""Values of _PEERS."""
Line = tuple[str, str | None, str, str, str, int]
"""A line that says what went wrong: service, namespace, level, text, operation, time."""
Mask = npt.NDArray[np.bool_]


class SpanColumns:
    """Spans of one request as they were sent: every list has one entry for each, but `emitters`, which has runs of spans."""

    def __init__(self) -> None:
        self.trace_ids: list[bytes] = []
        self.ids: list[bytes] = []
        self.parents: list[bytes | None] = []
        self.names: list[str] = []
        self.kinds: list[int] = []
        self.starts: list[int] = []
        self.ends: list[int] = []
        self.statuses: list[int] = []
        self.emitters: list[tuple[Emitter, int]] = []
        self.calls: list[int] = []  # positions in `peers`
        self.peers: list[Peers] = [NOBODY]
        self.over: list[int] = []  # rows with more attributes than are read
        self.lines: list[Line] = []
        self.relations: set[Relation] = set()


class SpanReader:
    """Reads requests for traces in protobuf. Remembers what resources and attributes mean, in bounded memory."""

    def __init__(self, config: OtlpConfig) -> None:
        self._most = config.max_attributes
        self._kinds = _CALL_KINDS if config.read_attributes == "calls" else KINDS
        self._emitters: _Known[bytes, tuple[Emitter, list[Relation]]] = _Known(_resource_of)
        self._peers: _Known[tuple[bytes, ...], Peers] = _Known(_peers_of)

    def read(self, body: bytes) -> SpanColumns:
        """Raises google.protobuf.message.DecodeError."""
        found = SpanColumns()
        has_exceptions = _EXCEPTION in body  # asked once of all bytes, not of every span
        for resource_spans in LeanTraces.FromString(body).resource_spans:
            emitter, relations = self._emitters.of(resource_spans.resource)
            found.relations.update(relations)
            for scope in resource_spans.scope_spans:
                spans = list(scope.spans)
                kinds = [span.kind for span in spans]
                found.trace_ids += [span.trace_id for span in spans]
                found.ids += [span.span_id for span in spans]
                found.parents += [span.parent_span_id or None for span in spans]
                found.names += [span.name for span in spans]
                found.kinds += kinds
                found.starts += [span.start_time_unix_nano for span in spans]
                found.ends += [span.end_time_unix_nano for span in spans]
                found.statuses += [span.status.code for span in spans]
                found.emitters.append((emitter, len(spans)))
                self._read_peers(spans, kinds, found)
                if has_exceptions:
                    self._read_exceptions(spans, emitter, found)
        return found

    def _read_peers(self, spans: Sequence[Any], kinds: Sequence[int], found: SpanColumns) -> None:
        """Look at the attributes of those spans whose kind is wanted."""
        most, wanted, piece, pieces = self._most, self._kinds, _PIECE, _WANTED_PIECES
        calls, known = found.calls, {(): 0}
        for kind, span in zip(kinds, spans, strict=True):
            if kind not in wanted:
                calls.append(0)
                continue
            sent = list(span.attributes)
            if len(sent) > most:
                found.over.append(len(calls))
                sent = sent[:most]
            if sent and sent[0][:1] != _KEY_FIRST:
                sent = [KeyValue.FromString(pair).SerializeToString() for pair in sent]
            hits = tuple([pair for pair in sent if pair[piece] in pieces and pair.startswith(_WANTED)])
            position = known.get(hits)
            if position is None:
                position = known[hits] = len(found.peers)
                found.peers.append(self._peers.of(hits))
            calls.append(position)

    def _read_exceptions(self, spans: Sequence[Any], emitter: Emitter, found: SpanColumns) -> None:
        for span in spans:
            for event in [Span.Event.FromString(raw) for raw in span.events if _EXCEPTION in raw]:
                if event.name == "exception":
                    text = exception_text(attributes(plain.pairs(event.attributes[: self._most])))
                    time_ns = event.time_unix_nano or span.end_time_unix_nano
                    found.lines.append((*emitter[:2], "ERROR", text, span.name, time_ns))


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


def _peers_of(raw: tuple[bytes, ...]) -> Peers:
    values = attributes(plain.pairs(KeyValue.FromString(pair) for pair in raw))
    return (*peers(values), http_status(values))


def span_frame(parts: Sequence[tuple[Receipt, SpanColumns]], limits: TimeLimits, longest: int) -> pl.DataFrame:
    """Spans of all parts that can be used (RAW_SPANS); what cannot, and what is cut, goes to the receipts.

    Everything that costs the same for ten spans as for ten thousand is avoided: small requests are common.
    """
    if not parts:
        return _NO_SPANS

    def column(name: str) -> list[Any]:
        return list(chain.from_iterable(getattr(spans, name) for _, spans in parts))

    trace_ids, span_ids, names = (column(name) for name in ("trace_ids", "ids", "names"))
    starts, ends = (np.array(column(name), dtype=np.uint64) for name in ("starts", "ends"))
    codes = limits.codes(starts)
    codes = np.where(codes == 0, limits.codes(ends), codes)
    codes[(codes == 0) & (ends < starts)] = _BACKWARDS
    parents, bad = _checked_ids(trace_ids, span_ids, column("parents"))
    if bad is not None:
        codes[bad] = _BAD_IDS
    runs = column("emitters")
    emitters, long = _gathered(
        [emitter for emitter, _ in runs], _EMITTERS, np.repeat(np.arange(len(runs)), [count for _, count in runs]), longest
    )
    tables = [spans.peers for _, spans in parts]
    first = np.cumsum([0, *map(len, tables[:-1])])  # row of every part's first peers
    calls = np.array(column("calls"), dtype=np.int64) + np.repeat(first, [len(spans.calls) for _, spans in parts])
    called, long_peers = _gathered(list(chain.from_iterable(tables)), _PEERS, calls, longest)
    altered = or_(long, long_peers)
    if max(map(len, names), default=0) > longest:
        altered |= np.array([len(name) > longest for name in names])
        names = [name[:longest] for name in names]
    _note(parts, codes, altered)
    frame = pl.DataFrame(
        [
            pl.Series("trace_id", trace_ids, dtype=pl.Binary),
            pl.Series("span_id", span_ids, dtype=pl.Binary),
            pl.Series("parent_span_id", parents, dtype=pl.Binary),
            pl.Series("name", names, dtype=pl.String),
            pl.Series("kind", _enum(column("kinds"), KINDS)),
            pl.Series("start_time_unix_nano", starts.view(np.int64)),
            pl.Series("end_time_unix_nano", ends.view(np.int64)),
            pl.Series("status_code", _enum(column("statuses"), STATUSES)),
            *emitters,
            *called,
        ]
    )
    return frame.filter(pl.Series(codes == 0)) if codes.any() else frame


def _gathered(
    rows: Sequence[tuple[Any, ...]], columns: Sequence[str], positions: npt.NDArray[np.int64], longest: int
) -> tuple[pl.DataFrame, Mask]:
    """Rows at some positions as a frame, text cut to the limit, and which of them held text that was cut."""
    long = np.array([any(isinstance(text, str) and len(text) > longest for text in row) for row in rows], dtype=np.bool_)
    if long.any():
        rows = [tuple(text[:longest] if isinstance(text, str) else text for text in row) for row in rows]
    few = [pl.Series(name, values, dtype=RAW_SPANS[name]) for name, values in zip(columns, zip(*rows, strict=True), strict=True)]
    return pl.DataFrame(few)[positions], long[positions]


def _enum(values: Sequence[int], known: frozenset[int]) -> npt.NDArray[np.int8]:
    """Values of a protobuf enum; those that are not known yet count as 0."""
    numbers = np.array(values, dtype=np.int32)
    return np.where((numbers < 0) | (numbers > max(known)), 0, numbers).astype(np.int8)


def _checked_ids(
    trace_ids: Sequence[bytes], span_ids: Sequence[bytes], parents: Sequence[bytes | None]
) -> tuple[Sequence[bytes | None], Mask | None]:
    """Parents, where zeros mean none, and which ids are not right, if any."""
    if _ZEROS[:8] in parents:
        parents = [None if parent == _ZEROS[:8] else parent for parent in parents]
    sizes = (set(map(len, trace_ids)), set(map(len, span_ids)), {len(parent or _ZEROS[:8]) for parent in set(parents)})
    if sizes == ({16}, {8}, {8}) and _ZEROS not in trace_ids and _ZEROS[:8] not in span_ids:
        return parents, None
    bad = [
        len(trace) != 16 or len(span) != 8 or len(parent or _ZEROS[:8]) != 8 or trace == _ZEROS or span == _ZEROS[:8]
        for trace, span, parent in zip(trace_ids, span_ids, parents, strict=True)
    ]
    return parents, np.array(bad, dtype=np.bool_)


def _note(parts: Sequence[tuple[Receipt, SpanColumns]], codes: npt.NDArray[np.int8], altered: Mask) -> None:
    """Tell every request's receipt what became of its spans."""
    if not codes.any() and not altered.any() and not any(spans.over for _, spans in parts):
        return
    at = 0
    for receipt, spans in parts:
        end = at + len(spans.ids)
        own, cut = codes[at:end], altered[at:end]
        if own.any():
            found = np.bincount(own, minlength=len(_SPAN_REASONS)).tolist()
            receipt.rejected.update({f"spans {_SPAN_REASONS[code]}": n for code, n in enumerate(found) if code and n})
        cut[spans.over] = True
        receipt.altered += int((cut & (own == 0)).sum())
        at = end
