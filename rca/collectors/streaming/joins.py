"""Spans that wait for the rest of their traces.

Spans are kept in chunks as they arrived, beside a 64-bit hash of their trace; a table has one row per open trace. A trace is
settled once nothing of it arrived for a while, or its first span is old; its spans then leave together and never come back.
What arrives later for it is late: it waits again, and its own spans are joined among themselves.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from rca.collectors.otlp.intake import RAW_SPANS
from rca.collectors.streaming.config import StreamConfig
from rca.collectors.streaming.memory import Keys, Memory

Ints = npt.NDArray[np.int64]

_REMEMBERED: Final = 4
"""How many times the spans that may be open are remembered at most, to find duplicates."""
_SPARSE: Final = 0.5
_VIEW_BYTES: Final = 16 * sum(dtype in (pl.String, pl.Binary) for dtype in RAW_SPANS.values())
"""What the text columns of a row take beside the texts themselves."""
_ROOM: Final = 0.9
"""How full the open set is after traces were closed early: not at every span anew."""


@dataclass(frozen=True)
class Arrived:
    """What became of spans that arrived: all of them are open now, but for the dropped ones."""

    duplicates: int = 0
    backwards: int = 0
    late: int = 0


@dataclass(frozen=True)
class Settled:
    """Spans (RAW_SPANS) of traces that are complete or were closed; `forced` counts those that a limit closed early."""

    spans: pl.DataFrame
    forced: int = 0


@dataclass(eq=False)
class _Chunk:
    spans: pl.DataFrame
    trace: Keys
    full_rows: int  # rows that the memory behind the frame was made for


class Joins:
    """The open spans. Times are those of a clock that never runs backwards. Not for several threads at once."""

    def __init__(self, config: StreamConfig) -> None:
        self._config = config
        most = _REMEMBERED * config.max_open_spans
        self._known_spans = Memory(config.duplicate_memory, most)
        self._settled_traces = Memory(config.duplicate_memory, most)
        self._chunks: list[_Chunk] = []
        self._trace: Keys = np.zeros(0, dtype=np.uint64)  # (traces,), sorted
        self._first: Ints = np.zeros(0, dtype=np.int64)  # (traces,) when the first span arrived
        self._last: Ints = np.zeros(0, dtype=np.int64)  # (traces,) when the latest one did
        self._rows: Ints = np.zeros(0, dtype=np.int64)  # (traces,) spans

    @property
    def open(self) -> int:
        """Spans that wait."""
        return int(self._rows.sum())

    def add(self, spans: pl.DataFrame, now_ns: int) -> Arrived:
        """Take spans (RAW_SPANS) that just arrived. Dropped are those already seen, and those that end before they start."""
        right = spans["end_time_unix_nano"] >= spans["start_time_unix_nano"]
        backwards = spans.height - int(right.sum())
        spans = spans.filter(right) if backwards else spans
        keys = _keys(spans)
        fresh = _first_of_each(keys) & ~self._known_spans.contains(keys)
        duplicates = len(keys) - int(fresh.sum())
        if duplicates:
            spans, keys = spans.filter(pl.Series(fresh)), keys[fresh]
        self._known_spans.add(keys, now_ns)
        trace = _trace_keys(spans)
        late = int(self._settled_traces.contains(trace).sum())
        if len(trace):
            self._chunks.append(_Chunk(spans, trace, spans.height + duplicates))
            self._enter(trace, now_ns)
        return Arrived(duplicates, backwards, late)

    def settle(self, now_ns: int) -> Settled:
        """Spans of every trace that is complete or too old now, and of the oldest ones if there are too many."""
        done = (self._last <= now_ns - self._config.join_wait) | (self._first <= now_ns - self._config.join_limit)
        forced = self._excess(done)
        count = int(self._rows[forced].sum())
        return Settled(self._leave(done | forced, now_ns), count)

    def spans(self) -> pl.DataFrame:
        """The open spans (RAW_SPANS): together with `memories` what a restart needs."""
        return pl.concat([pl.DataFrame(schema=RAW_SPANS), *(chunk.spans for chunk in self._chunks)])

    def memories(self) -> dict[str, tuple[Keys, ...]]:
        """The remembered keys: a closed generation is the same object from call to call."""
        return {"spans": self._known_spans.generations(), "traces": self._settled_traces.generations()}

    def restore(self, spans: pl.DataFrame, memories: Mapping[str, tuple[Keys, ...]], now_ns: int) -> None:
        """Go on from a snapshot: waits and ages count from now."""
        self._known_spans.restore(memories.get("spans", ()), now_ns)
        self._settled_traces.restore(memories.get("traces", ()), now_ns)
        if spans.height:
            keys = _keys(spans)
            self._known_spans.add(keys[~self._known_spans.contains(keys)], now_ns)
            trace = _trace_keys(spans)
            self._chunks = [_Chunk(spans, trace, spans.height)]
            self._enter(trace, now_ns)

    def _enter(self, trace: Keys, now_ns: int) -> None:
        traces, counts = np.unique(trace, return_counts=True)
        position = np.searchsorted(self._trace, traces)
        known = np.append(self._trace, traces[-1:])[position] == traces
        known &= position < len(self._trace)
        here = position[known]
        self._last[here] = now_ns
        self._rows[here] += counts[known]
        new = ~known
        at, arrived = position[new], np.full(int(new.sum()), now_ns)
        self._trace = np.insert(self._trace, at, traces[new])
        self._first = np.insert(self._first, at, arrived)
        self._last = np.insert(self._last, at, arrived)
        self._rows = np.insert(self._rows, at, counts[new])

    def _excess(self, done: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """The oldest traces that have to go so that the others fit, (traces,)."""
        forced = np.zeros(len(done), dtype=np.bool_)
        rows = self.open
        if not rows:
            return forced
        staying = int(self._rows[~done].sum())
        row_bytes = _VIEW_BYTES + sum(chunk.spans.estimated_size() for chunk in self._chunks) / rows
        most = min(self._config.max_open_spans, int(self._config.max_open_bytes / max(row_bytes, 1)))
        if staying <= most:
            return forced
        oldest = np.flatnonzero(~done)[np.argsort(self._first[~done], kind="stable")]
        leaving = np.cumsum(self._rows[oldest])
        needed = int(np.searchsorted(leaving, staying - int(most * _ROOM))) + 1
        forced[oldest[:needed]] = True
        return forced

    def _leave(self, chosen: npt.NDArray[np.bool_], now_ns: int) -> pl.DataFrame:
        leaving = self._trace[chosen]
        if not len(leaving):
            return pl.DataFrame(schema=RAW_SPANS)
        self._settled_traces.add(leaving[~self._settled_traces.contains(leaving)], now_ns)
        left: list[pl.DataFrame] = []
        kept: list[_Chunk] = []
        for chunk in self._chunks:
            position = np.minimum(np.searchsorted(leaving, chunk.trace), len(leaving) - 1)
            goes = leaving[position] == chunk.trace
            mask = pl.Series(goes)
            left.append(chunk.spans.filter(mask))
            if not goes.all():
                kept.append(_dense(_Chunk(chunk.spans.filter(~mask), chunk.trace[~goes], chunk.full_rows)))
        self._chunks = kept
        stays = ~chosen
        self._trace, self._first = self._trace[stays], self._first[stays]
        self._last, self._rows = self._last[stays], self._rows[stays]
        return pl.concat(left)


def _trace_keys(spans: pl.DataFrame) -> Keys:
    return spans["trace_id"].hash(seed=11).to_numpy()


def _keys(spans: pl.DataFrame) -> Keys:
    keys: Keys = _trace_keys(spans) ^ spans["span_id"].hash(seed=12).to_numpy()
    return keys


def _first_of_each(keys: Keys) -> npt.NDArray[np.bool_]:
    return pl.Series(keys).is_first_distinct().to_numpy()


def _dense(chunk: _Chunk) -> _Chunk:
    """A chunk that lost most of its rows in memory of its own: a filtered frame keeps the texts of all rows alive."""
    if chunk.spans.height > chunk.full_rows * _SPARSE:
        return chunk
    buffer = io.BytesIO()
    chunk.spans.write_ipc(buffer)
    buffer.seek(0)
    return _Chunk(pl.read_ipc(buffer), chunk.trace, chunk.spans.height)
