"""A running collector: receiver and cluster watcher feed the stream, and a loop takes what is ready to the store."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from threading import Event
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from rca.collectors.config import Config
from rca.collectors.otlp.config import OtlpConfig
from rca.collectors.otlp.intake import Accounting
from rca.collectors.otlp.receiver import Receiver
from rca.collectors.streaming.stream import Stream, StreamCounts
from rca.collectors.warm.config import StoreConfig
from rca.collectors.warm.store import Store
from rca.errors import RcaError, Unavailable
from rca.telemetry import MINUTE_NS, SECOND_NS, Gap, Interval

if TYPE_CHECKING:
    from rca.collectors.kubernetes.config import KubernetesConfig
    from rca.collectors.kubernetes.watching import Watching

_WORK_NS: Final = 5 * SECOND_NS
_HOUSEKEEPING_NS: Final = MINUTE_NS
_LOOK_NS: Final = SECOND_NS // 2
_JUMP_NS: Final = 30 * SECOND_NS
"""By how much the time of day may run ahead of the machine's own clock before it counts as sleep."""

Told = Callable[[str], None]
"""Called with one line about something that happened."""


@dataclass(frozen=True)
class Status:
    """What a running collector did so far. `received` and its kin count spans since the store was made; `rejected` and `refused`
    count spans, data points and log records of this run.
    """

    at_ns: int
    counts: StreamCounts
    rejected: int
    refused: int
    stored_bytes: int
    stored_at_ns: int
    trouble: str = ""


@dataclass
class _Due:
    """Times of the machine's clock at which something is to be done next."""

    work: int
    flush: int
    housekeeping: int = field(default=0)


class Collection:
    """Collects while the `with` block runs; `run` does the work until it is told to stop.

    Entering raises Unavailable if another process stores there, BadInput if an address or a folder cannot be used. While the
    disk is full everything stays in memory, senders are told to wait once that is full too, and the next flush tries again.
    """

    def __init__(self, config: Config, store: Store, *, told: Told = lambda _line: None) -> None:
        self._otlp = config.otlp or OtlpConfig.model_validate({})
        self._kubernetes = config.kubernetes
        self._settings = config.store or StoreConfig()
        self._stream = Stream(config.stream)
        self._store, self._told = store, told
        self._work_ns = min(_WORK_NS, config.stream.join_wait // 2, self._settings.flush_interval)
        self._trouble = ""
        self._stored_at_ns = 0
        self._exits = ExitStack()
        self._sources = ExitStack()
        self.accounting = Accounting()

    def __enter__(self) -> Self:
        with ExitStack() as exits:
            self._writer = exits.enter_context(self._store.writer(self._settings))
            resumed = self._writer.resumed()
            if resumed is not None:
                self._stream.restore(resumed.open_spans, resumed.memories, resumed.counts)
                self._told(f"going on where the last run stopped, with {self._stream.counts().open} spans that wait")
            self._flush()  # a folder that cannot be written shows before anything is received
            if self._trouble:
                self._told("collecting all the same; nothing is lost until memory is full")
            exits.callback(self._sources.close)
            self.receiver = self._sources.enter_context(Receiver(self._otlp, self._stream, self.accounting, health=self.health))
            if self._kubernetes is not None:
                self._sources.enter_context(self._watching(self._kubernetes))
            self._exits = exits.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._exits.__exit__(kind, error, trace)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it listens, in words."""
        grpc, http = self.receiver.grpc_port, self.receiver.http_port
        hosts = (self._otlp.grpc_address.rpartition(":")[0], self._otlp.http_address.rpartition(":")[0])
        found = (f"{name} {host}:{port}" for name, host, port in zip(("gRPC", "HTTP"), hosts, (grpc, http), strict=True) if port)
        return tuple(found)

    def run(self, stop: Event, shown: Callable[[Status], None] = lambda _status: None) -> None:
        """Work until `stop` is set, then take in what is under way and store it. `shown` is called about twice a second."""
        now_ns = time.monotonic_ns()
        due = _Due(work=now_ns + self._work_ns, flush=now_ns + self._settings.flush_interval, housekeeping=now_ns)
        wall_ahead_ns = time.time_ns() - now_ns
        while not stop.is_set():
            now_ns = time.monotonic_ns()
            wall_ahead_ns = self._mind_the_clock(wall_ahead_ns)
            if now_ns >= due.flush:
                self._flush()
                due.flush = now_ns + self._settings.flush_interval
                due.work = now_ns + self._work_ns
            elif now_ns >= due.work:
                self._stream.work()
                due.work = now_ns + self._work_ns
            if now_ns >= due.housekeeping:
                self._housekeep()
                due.housekeeping = now_ns + _HOUSEKEEPING_NS
            shown(self.status())
            rest_ns = min(due.work, due.flush) - time.monotonic_ns()
            stop.wait(min(max(rest_ns, 0), _LOOK_NS) / SECOND_NS)
        self.finish()
        shown(self.status())

    def finish(self) -> None:
        """Receive no more, and store everything. Spans that still wait are kept for the next run."""
        try:
            self._sources.close()
        finally:
            self._flush(last=True)

    def status(self) -> Status:
        """How things stand now."""
        rows = self.accounting.rows()
        rejected, refused = (sum(n for outcome, _, _, n in rows if outcome == wanted) for wanted in ("rejected", "refused"))
        return Status(
            at_ns=time.time_ns(),
            counts=self._stream.counts(),
            rejected=rejected,
            refused=refused,
            stored_bytes=self._writer.size_bytes,
            stored_at_ns=self._stored_at_ns,
            trouble=self._trouble,
        )

    def health(self) -> dict[str, object]:
        """How things stand, in a few JSON values; does not wait for work that is under way."""
        age_s = (time.time_ns() - self._stored_at_ns) / SECOND_NS if self._stored_at_ns else None
        stored = {"stored_s_ago": None if age_s is None else round(age_s, 1)}
        return {"status": "cannot store" if self._trouble else "ok", "trouble": self._trouble, **stored}

    def _watching(self, config: KubernetesConfig) -> Watching:
        """Follow the cluster; events that an earlier run stored do not come again."""
        from rca.collectors.kubernetes.collector import KubernetesCollector

        now_ns = time.time_ns()
        since_ns = now_ns - config.event_lifetime
        try:
            kept = self._store.read(since_ns, now_ns, ("events",)).events
        except Unavailable:  # nothing could be stored yet
            kept = None
        return KubernetesCollector(config).watch(self._stream.note, since_ns=since_ns, kept=kept, told=self._told)

    def _flush(self, *, last: bool = False) -> None:
        try:
            with self._stream.flushing() as flush:
                self._writer.append(flush, last=last)
        except (RcaError, OSError) as error:  # everything stays for the next flush
            if not self._trouble:
                self._told(f"cannot store: {error}; keeping telemetry in memory")
            self._trouble = str(error)
        else:
            if self._trouble:
                self._told("storing again; nothing that was taken is lost")
            self._trouble, self._stored_at_ns = "", flush.at_ns

    def _housekeep(self) -> None:
        try:
            done = self._writer.housekeep()
        except (RcaError, OSError) as error:
            self._told(f"cannot tidy up the store: {error}")
            return
        for count, why in ((done.too_old, "they are too old"), (done.too_much, "the store would be too large")):
            if count:
                self._told(f"deleted {count} hours of telemetry: {why}")

    def _mind_the_clock(self, wall_ahead_ns: int) -> int:
        """A machine that slept, or whose time of day was set, did not collect meanwhile."""
        now_ns = time.time_ns()
        ahead_ns = now_ns - time.monotonic_ns()
        slept_ns = ahead_ns - wall_ahead_ns
        if slept_ns > _JUMP_NS:
            interval = Interval(now_ns - slept_ns, now_ns)
            self._stream.miss(Gap("otlp", "the machine slept, or its clock was set", interval))
            self._told(f"the time of day jumped by {slept_ns / SECOND_NS:.0f} s")
        return ahead_ns
