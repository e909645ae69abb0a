"""The writer of live telemetry: flushes of a stream become commits, and what a restart needs is kept with each of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import numpy as np
import polars as pl

from rca.collectors.otlp.intake import RAW_SPANS
from rca.collectors.streaming.memory import Keys
from rca.collectors.streaming.stream import Flush, StreamCounts
from rca.collectors.warm.config import StoreConfig
from rca.collectors.warm.parts import HOUR_NS, hour_start_ns, read_parquet
from rca.collectors.warm.reading import OPEN_SPANS
from rca.collectors.warm.shelf import Shelf
from rca.collectors.warm.state import StoredGap, joined
from rca.errors import BadInput, RcaError
from rca.telemetry import FRAME_NAMES, MINUTE_NS, Gap, Interval

LIVE: Final = "live"
BACKFILL: Final = "backfill"
"""Folders of the store: the shelf of `rca collect`, and one shelf for every source of past telemetry."""
SOURCE: Final = "otlp"
_LONG_LIVED: Final = ("events",)
_OTHERS: Final = tuple(name for name in FRAME_NAMES if name not in _LONG_LIVED)
_MOST_GAPS: Final = 1000
_MEMORY: Final = "memory-"
_MEMORIES: Final = ("spans", "traces")
_DAMAGED: Final = "in a damaged file"

LOST: Final = "the collector was not running, or lost its last seconds"
STOPPED: Final = "the collector was not running"

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Resumed:
    """Where an earlier run stopped: arguments of Stream.restore."""

    open_spans: pl.DataFrame
    memories: Mapping[str, tuple[Keys, ...]]
    counts: StreamCounts


@dataclass(frozen=True)
class Housekeeping:
    """What was done: parts that were merged, hours that were deleted because of their age or the store's size."""

    merged: int = 0
    too_old: int = 0
    too_much: int = 0


class LiveWriter:
    """The one writer of a store's live shelf. Raises Unavailable if another process collects into the same folder.

    The time since the last commit of an earlier run becomes a gap with the first commit of this one.
    """

    def __init__(self, folder: Path, config: StoreConfig, *, wall_ns: Callable[[], int] = time.time_ns) -> None:
        self._folder, self._config, self._wall_ns = folder, config, wall_ns
        self._shelf = Shelf(folder / LIVE)
        self._since_ns = wall_ns()
        state = self._shelf.state
        self._received_before = int(state.counts.get("received", 0))
        self._spans_since_ns: int | None = None
        self._retained_since_ns = state.retained_since_ns
        self._gaps = list(state.gaps)
        if 0 < state.at_ns < self._since_ns:
            reason = STOPPED if state.stopped else LOST
            self._gaps.append(StoredGap(source=SOURCE, reason=reason, start_ns=state.at_ns, end_ns=self._since_ns))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._shelf.close()

    @property
    def size_bytes(self) -> int:
        """Bytes of everything that live collection stored."""
        return self._shelf.size_bytes

    def resumed(self) -> Resumed | None:
        """What the last commit of an earlier run kept; None if there was none.

        What is damaged is left out: a gap names the file, and the spans that it held count as dropped.
        """
        state = self._shelf.state
        if not state.commit:
            return None
        open_spans = pl.concat([pl.DataFrame(schema=RAW_SPANS), *self._whole(OPEN_SPANS, read_parquet)])
        memories = {name: tuple(self._whole(_MEMORY + name, _keys)) for name in _MEMORIES}
        counts = StreamCounts(**state.counts)
        lost = counts.open - open_spans.height
        dropped = {**counts.dropped, _DAMAGED: counts.dropped.get(_DAMAGED, 0) + lost} if lost else counts.dropped
        return Resumed(open_spans, memories, replace(counts, open=open_spans.height, dropped=dropped))

    def _whole(self, name: str, read: Callable[[Path], T]) -> Iterator[T]:
        """What the last commit kept under a name, as far as it can be read."""
        at_ns = self._shelf.state.at_ns
        for path in self._shelf.kept(name):
            try:
                yield read(path)
            except (BadInput, OSError, EOFError, ValueError):
                reason = f"{path.name}, kept for a restart, is damaged"
                self._gaps.append(StoredGap(source=SOURCE, reason=reason, start_ns=at_ns - MINUTE_NS, end_ns=at_ns))

    def append(self, flush: Flush, *, last: bool = False) -> None:
        """Commit one flush over all frames; `last` says that the collector ends in good order.

        Raises StorageFull; then nothing was stored and the same flush may come again.
        """
        state = self._shelf.state
        before_ns = max(state.at_ns, self._since_ns)
        if self._spans_since_ns is None and flush.counts.received > self._received_before:
            self._spans_since_ns = before_ns
        oldest_ns = flush.at_ns - self._config.keep_events
        told = [_stored(gap, Interval(before_ns, max(flush.at_ns, before_ns + 1))) for gap in flush.gaps]
        gaps = tuple(gap for gap in _chained([*self._gaps, *told]) if gap.end_ns > oldest_ns)[-_MOST_GAPS:]
        spans_since = [] if self._spans_since_ns is None else [(self._spans_since_ns, flush.at_ns)]
        kept = {OPEN_SPANS: (flush.open_spans,)} | {_MEMORY + name: keys for name, keys in flush.memories.items()}
        self._shelf.commit(
            flush.frames,
            flush.at_ns,
            kept=kept,
            covered=_since(oldest_ns, [*state.covered, (self._since_ns, flush.at_ns)]),
            spans_covered=_since(oldest_ns, [*state.spans_covered, *spans_since]),
            complete_until_ns=min(max(state.complete_until_ns, flush.complete_until_ns), flush.at_ns),  # a clock may be set back
            gaps=gaps,
            stopped=last,
            retained_since_ns=self._retained_since_ns,
            counts=_counts_json(flush.counts),
        )
        self._gaps = list(gaps)

    def housekeep(self) -> Housekeeping:
        """Merge small parts and delete what is too old or too much. Raises StorageFull; then nothing is lost."""
        now_ns = self._wall_ns()
        too_old = self._expire(self._shelf, now_ns)
        backfill = self._folder / BACKFILL
        shelves = [self._shelf]
        try:
            for folder in sorted(backfill.iterdir()) if backfill.is_dir() else ():
                with suppress(RcaError):  # being written just now, or damaged: both are for others to see to
                    shelves.append(Shelf(folder))
            too_old += sum(self._expire(shelf, now_ns) for shelf in shelves[1:])
            too_much = self._shrink(shelves)
            deleted_until_ns = self._retained_since_ns or 0 if too_old or too_much else 0
            for shelf in shelves[1:]:
                _forget(shelf, deleted_until_ns)
        finally:
            for shelf in shelves[1:]:
                shelf.close()
        return Housekeeping(self._shelf.merge(now_ns), too_old, too_much)

    def _expire(self, shelf: Shelf, now_ns: int) -> int:
        deleted = 0
        for frames, keep_ns in ((_OTHERS, self._config.keep), (_LONG_LIVED, self._config.keep_events)):
            old = [hour for hour in shelf.hours(frames) if (hour_start_ns(hour) or 0) + HOUR_NS <= now_ns - keep_ns]
            shelf.delete(old, frames)
            deleted += len(old)
            if old and frames is _OTHERS:
                self._retain(old[-1])
        return deleted

    def _shrink(self, shelves: Sequence[Shelf]) -> int:
        """Delete the oldest hours until the store is small enough; events go last, for they are small and live longest."""
        deleted = 0
        excess = sum(shelf.size_bytes for shelf in shelves) - self._config.max_bytes
        for frames in (_OTHERS, _LONG_LIVED):
            hours = sorted({hour for shelf in shelves for hour in shelf.hours(frames)})
            for hour in hours[:-1]:  # the present hour stays, however large it is
                if excess <= 0:
                    return deleted
                before = sum(shelf.size_bytes for shelf in shelves)
                for shelf in shelves:
                    shelf.delete([hour], frames)
                excess -= before - sum(shelf.size_bytes for shelf in shelves)
                deleted += 1
                if frames is _OTHERS:
                    self._retain(hour)
        return deleted

    def _retain(self, deleted_hour: str) -> None:
        """The next commit says since when telemetry is kept."""
        end_ns = (hour_start_ns(deleted_hour) or 0) + HOUR_NS
        self._retained_since_ns = max(self._retained_since_ns or 0, end_ns)


def _forget(shelf: Shelf, until_ns: int) -> None:
    """A shelf whose hours were deleted does not cover them any more, so that they can be filled again."""
    state = shelf.state
    covered, spans_covered = _since(until_ns, state.covered), _since(until_ns, state.spans_covered)
    if (covered, spans_covered) != (state.covered, state.spans_covered):
        shelf.commit({}, state.at_ns, covered=covered, spans_covered=spans_covered)


def _since(oldest_ns: int, covered: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    return joined((max(start, oldest_ns), end) for start, end in covered)


def _stored(gap: Gap, otherwise: Interval) -> StoredGap:
    """A gap as the state holds it; one that does not say when is about the time since the last commit."""
    interval = gap.interval or otherwise
    return StoredGap(source=gap.source, reason=gap.reason, start_ns=interval.start_ns, end_ns=interval.end_ns)


def _chained(gaps: Iterable[StoredGap]) -> list[StoredGap]:
    """Gaps of one source and reason that overlap or touch as one."""
    latest: dict[tuple[str, str], StoredGap] = {}
    found: list[StoredGap] = []
    for gap in sorted(gaps, key=lambda gap: gap.start_ns):
        before = latest.get((gap.source, gap.reason))
        if before is not None and gap.start_ns <= before.end_ns:
            found.remove(before)
            gap = before.model_copy(update={"end_ns": max(before.end_ns, gap.end_ns)})  # noqa: PLW2901  the longer one
        latest[gap.source, gap.reason] = gap
        found.append(gap)
    return found


def _counts_json(counts: StreamCounts) -> dict[str, Any]:
    return {**asdict(counts), "dropped": dict(counts.dropped), "rows": dict(counts.rows)}


def _keys(path: Path) -> Keys:
    keys: Keys = np.load(path, allow_pickle=False)
    return keys
