"""The intake of a running collector: what arrives waits here until a flush takes it to the store.

received = binned + dropped (by reason) + open, at any moment. Nothing here touches the disk or reads a clock of its own.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Final

import numpy as np
import polars as pl

from rca.bins import summed_frame
from rca.collectors.otlp.intake import Batch
from rca.collectors.streaming.config import StreamConfig
from rca.collectors.streaming.joins import Joins
from rca.collectors.streaming.memory import Keys
from rca.collectors.streaming.names import SpanNames
from rca.collectors.streaming.sums import summed
from rca.errors import Overloaded
from rca.telemetry import FRAME_NAMES, MINUTE_NS, SECOND_NS, Gap, Telemetry, dtypes

_PASSING: Final = ("metrics", "events", "logs", "alerts", "calls")
"""Frames that are kept as they come."""
_HOUR_NS: Final = 60 * MINUTE_NS
_STATED_NS: Final = 3 * _HOUR_NS
"""How long a relation is written into every new hour after it was stated last. Sources state what holds at least hourly."""
_MOST_RELATIONS: Final = 200_000
_RETRY_SECONDS: Final = 2.0
_LAG_QUANTILE: Final = 0.95
_LAG_DECAY: Final = 0.9

Clock = Callable[[], int]


@dataclass(frozen=True)
class StreamCounts:
    """What became of every span since the store was made, restarts included; `rows` counts other telemetry by frame.

    `open` spans wait for their traces. `late` ones came after their trace was closed; they are binned on their own. `unpaired`
    ones name a parent that was never seen. `forced` ones were binned early because too many were open. `cycles` were their own
    ancestor and count as roots. `renamed` counts names above a limit. `lost_rows` are relations above the limit.
    """

    received: int = 0
    binned: int = 0
    open: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    late: int = 0
    unpaired: int = 0
    forced: int = 0
    cycles: int = 0
    renamed: int = 0
    rows: Mapping[str, int] = field(default_factory=dict)
    lost_rows: int = 0

    def balanced(self) -> bool:
        """True if every span has exactly one fate."""
        return self.received == self.binned + sum(self.dropped.values()) + self.open


@dataclass(frozen=True, eq=False)
class Flush:
    """What one flush hands to the store: frames of telemetry.SCHEMAS, and what a restart needs to go on.

    Everything that was taken before `at_ns` is in this flush or an earlier one. Spans that start before `complete_until_ns` have
    arrived, as far as the usual delay of senders tells. `counts` are about what is in the frames of this and earlier flushes and
    in `open_spans`, not about what was taken meanwhile.
    """

    frames: Mapping[str, pl.DataFrame]
    open_spans: pl.DataFrame
    memories: Mapping[str, tuple[Keys, ...]]
    counts: StreamCounts
    at_ns: int
    complete_until_ns: int
    gaps: tuple[Gap, ...] = ()


class Stream:
    """An Intake (rca.collectors.otlp.intake). `admit` and `take` are quick and may be called beside everything else.

    `work` and `flushing` belong to one thread, which calls `work` every few seconds. `clock_ns` never runs backwards, `wall_ns`
    tells the time of day.
    """

    def __init__(self, config: StreamConfig, *, clock_ns: Clock = time.monotonic_ns, wall_ns: Clock = time.time_ns) -> None:
        self._config, self._clock_ns, self._wall_ns = config, clock_ns, wall_ns
        self._intake, self._working = Lock(), Lock()
        # guarded by _intake
        self._inbox: list[tuple[pl.DataFrame, int]] = []
        self._rows: dict[str, list[pl.DataFrame]] = {name: [] for name in (*_PASSING, "topology")}
        self._waiting: Counter[str] = Counter()  # rows of _inbox and _rows
        self._unstored: Counter[str] = Counter()  # rows of _pending
        self._gaps: list[Gap] = []
        self._received = 0
        # guarded by _working
        self._joins = Joins(config)
        self._names = SpanNames(services=config.max_services, operations=config.max_operations, peers=config.max_peers)
        self._pending: dict[str, list[pl.DataFrame]] = {name: [] for name in FRAME_NAMES}
        self._relations: dict[tuple[str, ...], int] = {}
        self._restated_hour: int | None = None
        self._counts: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._row_counts: Counter[str] = Counter()
        self._lag_ns = 0
        self._seen_until_ns = 0

    # --- taking -------------------------------------------------------------------------------------------------

    def admit(self) -> None:
        """Raises Overloaded if what was taken before has not been worked off yet."""
        with self._intake:
            waiting = self._waiting + self._unstored
        for name, count in waiting.items():
            most = self._config.max_waiting_spans if name == "spans" else self._config.max_waiting_rows
            if count >= most:
                raise Overloaded(f"{count} {name} wait to be stored, the limit is {most}", _RETRY_SECONDS)

    def take(self, batch: Batch) -> None:
        """Keep what a receiver decoded."""
        with self._intake:
            if batch.spans.height:
                self._inbox.append((batch.spans, self._wall_ns()))
                self._received += batch.spans.height
                self._waiting["spans"] += batch.spans.height
            for name in ("metrics", "events", "logs", "topology"):
                self._keep(name, getattr(batch, name))

    def note(self, telemetry: Telemetry) -> None:
        """Keep what another source tells beside spans, such as the events of a cluster. Raises Overloaded as `admit` does."""
        self.admit()
        with self._intake:
            self._gaps += telemetry.gaps
            for name in self._rows:
                self._keep(name, telemetry.frames()[name])

    def miss(self, gap: Gap) -> None:
        """Keep word of something that was missed; there is always room for that."""
        with self._intake:
            self._gaps.append(gap)

    def _keep(self, name: str, frame: pl.DataFrame) -> None:
        if frame.height:
            self._rows[name].append(frame)
            self._waiting[name] += frame.height

    # --- working ------------------------------------------------------------------------------------------------

    def work(self) -> None:
        """Join what arrived, and sum the traces that are complete."""
        with self._working:
            self._work()

    @contextmanager
    def flushing(self) -> Iterator[Flush]:
        """Everything that is ready to be stored. It is kept for the next flush if the block raises."""
        with self._working:
            self._work()
            flush = self._flush()
            yield flush
            self._pending = {name: [] for name in FRAME_NAMES}
            with self._intake:
                del self._gaps[: len(flush.gaps)]
            self._weigh()

    def counts(self) -> StreamCounts:
        """Exact numbers at this moment. Waits for work that is under way."""
        with self._working:
            return self._counted()

    def restore(self, open_spans: pl.DataFrame, memories: Mapping[str, tuple[Keys, ...]], counts: StreamCounts) -> None:
        """Go on where an earlier run stopped; before anything is taken."""
        with self._working, self._intake:
            self._joins.restore(open_spans, memories, self._clock_ns())
            self._received = counts.received
            self._dropped.update(counts.dropped)
            self._row_counts.update(counts.rows)
            for name in ("binned", "late", "unpaired", "forced", "cycles", "renamed", "lost_rows"):
                self._counts[name] = getattr(counts, name)

    def _work(self) -> None:
        with self._intake:
            self._seen_until_ns = self._wall_ns()
            inbox, self._inbox = self._inbox, []
            rows, self._rows = self._rows, {name: [] for name in self._rows}
            moved, self._waiting = self._waiting, Counter(spans=self._waiting["spans"])
        now_ns = self._clock_ns()
        self._names.forget(now_ns)
        if inbox:
            self._join(inbox, now_ns)
        settled = self._joins.settle(now_ns)
        self._counts["forced"] += settled.forced
        if settled.spans.height:
            self._sum(settled.spans)
        for name in _PASSING:
            self._pending[name] += rows[name]
            self._row_counts[name] += sum(frame.height for frame in rows[name])
        self._relate(rows["topology"], now_ns)
        with self._intake:
            self._waiting["spans"] -= moved["spans"]
        self._weigh()

    def _weigh(self) -> None:
        unstored = Counter({name: sum(frame.height for frame in frames) for name, frames in self._pending.items()})
        with self._intake:
            self._unstored = unstored

    def _join(self, inbox: Sequence[tuple[pl.DataFrame, int]], now_ns: int) -> None:
        spans = pl.concat([spans for spans, _ in inbox])
        arrived = np.repeat([wall_ns for _, wall_ns in inbox], [spans.height for spans, _ in inbox])
        lag_ns = int(np.quantile(arrived - spans["start_time_unix_nano"].to_numpy(), _LAG_QUANTILE))
        lag_ns = min(max(lag_ns, 0), self._config.join_limit)  # clocks differ
        self._lag_ns = max(lag_ns, int(self._lag_ns * _LAG_DECAY))
        spans, renamed = self._names.limited(spans, now_ns)
        result = self._joins.add(spans, now_ns)
        self._dropped.update({"duplicate": result.duplicates, "ends before it starts": result.backwards})
        self._counts.update({"late": result.late, "renamed": renamed})

    def _sum(self, spans: pl.DataFrame) -> None:
        sums = summed(spans)
        for name, frame in sums.frames.items():
            self._pending[name].append(frame)
        self._counts.update({"binned": spans.height, "cycles": sums.cycles, "unpaired": sums.unpaired})

    def _relate(self, stated: Sequence[pl.DataFrame], now_ns: int) -> None:
        """Relations are stored when they are new, and again in every hour of the day after they were stated last."""
        hour = self._wall_ns() // _HOUR_NS
        due: list[tuple[str, ...]] = []
        if self._restated_hour is not None and hour != self._restated_hour:
            self._relations = {row: at for row, at in self._relations.items() if now_ns - at <= _STATED_NS}
            due += self._relations
        self._restated_hour = hour
        for row in (row for frame in stated for row in frame.iter_rows()):
            if row not in self._relations:
                if len(self._relations) >= _MOST_RELATIONS:
                    self._counts["lost_rows"] += 1
                    continue
                due.append(row)
            self._relations[row] = now_ns
        if due:
            self._row_counts["topology"] += len(due)
            self._pending["topology"].append(pl.DataFrame(due, schema=dtypes("topology"), orient="row"))

    def _flush(self) -> Flush:
        frames = {}
        for name, parts in self._pending.items():
            if parts:
                frames[name] = summed_frame(name, pl.concat(parts))
                self._pending[name] = [frames[name]]
        self._weigh()
        with self._intake:
            gaps = tuple(self._gaps)
        counts = self._counted()
        unseen = counts.open - self._joins.open  # taken since `_work` began: in no snapshot yet
        at_ns = self._seen_until_ns
        return Flush(
            frames=frames,
            open_spans=self._joins.spans(),
            memories=self._joins.memories(),
            counts=replace(counts, received=counts.received - unseen, open=counts.open - unseen),
            at_ns=at_ns,
            complete_until_ns=at_ns - self._lag_ns - SECOND_NS,
            gaps=gaps,
        )

    def _counted(self) -> StreamCounts:
        with self._intake:
            received, waiting = self._received, self._waiting["spans"]
        names = ("binned", "late", "unpaired", "forced", "cycles", "renamed", "lost_rows")
        return StreamCounts(
            received=received,
            open=waiting + self._joins.open,
            dropped=+self._dropped,
            rows=+self._row_counts,
            **{name: self._counts[name] for name in names},
        )
