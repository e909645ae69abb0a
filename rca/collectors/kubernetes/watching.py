"""Following a cluster: one thread for every resource that lists and then watches, and one that hands on what they tell."""

from __future__ import annotations

import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Self

import polars as pl

from rca.collectors.kubernetes.api import Api, Gone, Stream, Unauthorized
from rca.collectors.kubernetes.changes import Change
from rca.collectors.kubernetes.cluster import Cluster, Relation
from rca.collectors.kubernetes.config import KubernetesConfig
from rca.collectors.kubernetes.frames import events_frame, topology_frame
from rca.collectors.kubernetes.resources import EVENT_APIS, PODS, Feed, feeds
from rca.errors import RcaError, Rejected
from rca.telemetry import MINUTE_NS, SCHEMAS, SECOND_NS, Gap, Interval, Telemetry
from rca.wording import alike, together

_STREAM_SECONDS: Final = (240, 480)  # streams end by themselves after this long, spread so that they do not end together
_SHORT_SECONDS: Final = 1.0  # a stream that ends this soon with nothing in it counts as a failure
_MOST_KEYS: Final = 200_000
_MOST_PENDING: Final = 100_000
_MOST_GAPS: Final = 1_000
_PLACED_AGAIN_NS: Final = 60 * MINUTE_NS  # placement is told again this often, so that stores may forget what is old
_ANNOUNCE_AFTER_NS: Final = 5 * SECOND_NS
_GAP_AFTER_NS: Final = MINUTE_NS
_GAP_EVERY_NS: Final = 5 * MINUTE_NS
_MARGIN_NS: Final = 10 * MINUTE_NS  # between clocks


@dataclass(frozen=True)
class Backoff:
    """How long to wait after failures in a row: doubling, at random within the upper half."""

    first_seconds: float = 0.5
    most_seconds: float = 30.0

    def seconds(self, failures: int) -> float:
        longest: float = min(self.most_seconds, self.first_seconds * 2 ** min(failures - 1, 20))
        return longest * random.uniform(0.5, 1.0)


@dataclass
class Batch:
    """What waits to be handed on."""

    changes: list[Change] = field(default_factory=list)
    relations: set[Relation] = field(default_factory=set)
    gaps: list[Gap] = field(default_factory=list)

    def telemetry(self) -> Telemetry:
        return Telemetry.of(self.gaps, events=events_frame(self.changes), topology=topology_frame(self.relations))


class Told:
    """What was told already: keys of this run, and rows that an earlier one kept. What is older than `floor_ns` is not told."""

    def __init__(self, floor_ns: int, kept: pl.DataFrame | None = None) -> None:
        self.floor_ns = floor_ns
        self._keys = OrderedDict[tuple[str, ...], int]()
        self._rows = set() if kept is None else set(kept.select(list(SCHEMAS["events"])).iter_rows())

    def news(self, told: Iterable[Change]) -> list[Change]:
        """Those that were not told before."""
        fresh = []
        for change in told:
            if change.time_ns >= self.floor_ns and change.key not in self._keys:
                self._keys[change.key] = change.time_ns
                if change[: len(SCHEMAS["events"])] not in self._rows:
                    fresh.append(change)
        while len(self._keys) > _MOST_KEYS:
            self._keys.popitem(last=False)
        return fresh

    def forget(self, before_ns: int) -> None:
        """Raise the floor, so that older keys need not be kept."""
        if before_ns > self.floor_ns:
            self.floor_ns = before_ns
            self._keys = OrderedDict((key, at_ns) for key, at_ns in self._keys.items() if at_ns >= before_ns)
            self._rows = {row for row in self._rows if row[0] >= before_ns}


@dataclass
class Follower:
    """How one resource is followed. `version` is None when it has to be listed; `problem` is empty while it is in sight."""

    feed: Feed
    version: str | None = None
    lists: int = 0
    streams: int = 0
    failures: int = 0
    problem: str = ""
    seen_ns: int = 0
    lost_ns: int | None = None
    reported_ns: int | None = None
    announced: bool = False
    stream: Stream | None = None
    tried: threading.Event = field(default_factory=threading.Event)

    def __str__(self) -> str:
        resource, namespace = self.feed
        return f"{resource} in {namespace}" if namespace else str(resource)


class Watching:
    """A cluster being followed. Use it as a context manager, or call `stop`; `followers` say how each resource fares."""

    def __init__(
        self,
        api: Api,
        config: KubernetesConfig,
        take: Callable[[Telemetry], None],
        since_ns: int,
        kept: pl.DataFrame | None,
        told: Callable[[str], None],
        backoff: Backoff,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._api, self._take, self._announce, self._backoff, self._now_ns = api, take, told, backoff, now_ns
        self._lifetime_ns = config.event_lifetime
        self.followers = [Follower(feed, seen_ns=now_ns(), lost_ns=now_ns()) for feed in feeds(config)]
        self.cluster = Cluster(config)
        self.dropped = 0
        self.refusal = ""
        self.failure: BaseException | None = None
        self._told = Told(since_ns, kept)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._news = threading.Event()
        self._batched = Batch()
        self._placed: set[Relation] = set()
        self._placed_ns = now_ns()
        self._threads: list[threading.Thread] = []

    def start(self) -> Self:
        """Begin to follow; returns at once."""
        previous: Follower | None = None
        for follower in self.followers:
            self._begin(f"kubernetes {follower}", self._follow, follower, previous)
            previous = follower
        self._begin("kubernetes hand-over", self._hand_over)
        return self

    def stop(self, seconds: float = 5.0) -> None:
        """Cut every stream, hand on what is pending, and wait that long for the threads. Raises what had stopped them."""
        self._end()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if self.failure is not None:
            raise self.failure

    def in_sight(self) -> bool:
        """True once every resource is listed and watched."""
        return all(follower.lost_ns is None for follower in self.followers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _begin(self, name: str, run: Callable[..., None], *arguments: Any) -> None:
        def guarded() -> None:
            try:
                run(*arguments)
            except BaseException as error:  # an error of ours must not end one thread unseen
                self.failure = self.failure or error
                self._announce(f"kubernetes: the cluster is no longer followed: {error!r}")
                self._end()

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _end(self) -> None:
        self._stopping.set()
        self._news.set()
        for follower in self.followers:
            follower.tried.set()
            if follower.stream is not None:
                follower.stream.cut()

    def _follow(self, follower: Follower, previous: Follower | None) -> None:
        if previous is not None:
            previous.tried.wait()  # what an object belongs to is read before it
        while not self._stopping.is_set():
            try:
                if follower.version is None:
                    self._list(follower)
                follower.tried.set()
                self._stream(follower)
            except Gone as error:
                follower.version = None
                self._lose(follower, error)
            except RcaError as error:
                if isinstance(error, Unauthorized):
                    self._api.reconnect()
                self._lose(follower, error)
                if isinstance(error, Rejected) and not isinstance(error, Unauthorized):
                    follower.failures += 20  # to the longest pause: somebody has to change something first
            follower.tried.set()
            if follower.failures:
                self._stopping.wait(self._backoff.seconds(follower.failures))

    def _list(self, follower: Follower) -> None:
        resource, namespace = follower.feed
        listing = self._api.list(resource, namespace)
        now_ns = self._now_ns()
        with self._lock:
            told: list[Change] = []
            for uid in self.cluster.missing(resource, listing.objects, namespace):
                told += self.cluster.drop(resource, uid, now_ns, "went away while it was out of sight")
            told += self.cluster.take(resource, listing.objects, now_ns)
            self._tell(told, self.cluster.relations() if resource == PODS else ())
        follower.lists += 1
        follower.version = listing.version

    def _stream(self, follower: Follower) -> None:
        resource, namespace = follower.feed
        began = time.monotonic()
        stream = self._api.watch(resource, namespace, follower.version or "", seconds=random.randint(*_STREAM_SECONDS))
        follower.stream = stream
        follower.streams += 1
        if self._stopping.is_set():
            stream.cut()
        self._find(follower)
        heard = False
        for kind, body in stream:
            self._hear(follower, kind, body)
            heard, follower.failures = True, 0
        follower.stream = None
        short = time.monotonic() - began < _SHORT_SECONDS
        follower.failures = follower.failures + 1 if short and not heard else 0

    def _hear(self, follower: Follower, kind: str, body: dict[str, Any]) -> None:
        resource, _ = follower.feed
        metadata = body.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        follower.version = str(metadata.get("resourceVersion") or follower.version or "")
        follower.seen_ns = now_ns = self._now_ns()
        if kind == "BOOKMARK" or (kind == "DELETED" and resource in EVENT_APIS):
            return
        with self._lock:
            told = self.cluster.take(resource, [body], now_ns)
            pod = self.cluster.pod_with(str(metadata.get("uid"))) if resource == PODS else None
            relations = list(self.cluster.relations_of(pod)) if pod else []
            if kind == "DELETED":
                told += self.cluster.drop(resource, str(metadata.get("uid")), now_ns)
            self._tell(told, relations)

    def _tell(self, told: Iterable[Change], relations: Iterable[Relation]) -> None:
        """Queue what is new. The lock is held."""
        batch = self._batched
        batch.changes += self._told.news(told)
        fresh = set(relations) - self._placed
        batch.relations |= fresh
        self._placed |= fresh
        excess = len(batch.changes) - _MOST_PENDING
        if excess > 0:
            oldest = [change.time_ns for change in batch.changes[:excess]]
            lost = Interval(min(oldest), max(oldest) + 1)
            batch.gaps.append(Gap("kubernetes", f"{excess} events were dropped, because nobody took them", lost))
            del batch.changes[:excess]
            self.dropped += excess
        if batch.changes or batch.relations or batch.gaps:
            self._news.set()

    def _batch(self) -> Batch | None:
        with self._lock:
            self._news.clear()
            batch, self._batched = self._batched, Batch()
        return batch if batch.changes or batch.relations or batch.gaps else None

    def _put_back(self, batch: Batch) -> None:
        """What was not taken comes again, before what came since."""
        with self._lock:
            self._batched.changes[:0] = batch.changes
            self._batched.relations |= batch.relations
            self._batched.gaps[:0] = batch.gaps[-_MOST_GAPS:]
            self._tell((), ())

    def _find(self, follower: Follower) -> None:
        """A resource is in sight."""
        now_ns = self._now_ns()
        with self._lock:
            if follower.reported_ns is not None:
                self._report(follower, now_ns)
            follower.problem, follower.lost_ns, follower.reported_ns, follower.seen_ns = "", None, None, now_ns

    def _lose(self, follower: Follower, error: RcaError) -> None:
        """A resource is out of sight."""
        follower.stream = None
        follower.failures += 1
        with self._lock:
            follower.problem = str(error)
            if follower.lost_ns is None:
                follower.lost_ns = follower.seen_ns

    def _report(self, follower: Follower, until_ns: int) -> None:
        """Queue the part of an outage that was not reported yet. The lock is held."""
        start_ns = follower.reported_ns or follower.lost_ns
        if start_ns is not None and until_ns > start_ns:
            self._batched.gaps.append(Gap("kubernetes", follower.problem, Interval(start_ns, until_ns)))
            follower.reported_ns = until_ns
            self._news.set()

    def _hand_over(self) -> None:
        failures = 0
        while True:
            self._news.wait(1.0)
            ending = self._stopping.is_set()
            self._look_after()
            self._tell_people()
            batch = self._batch()
            failures = 0 if batch is None or self._taken(batch) else failures + 1
            if ending:
                return
            # also after a success: what comes together is handed on together
            self._stopping.wait(self._backoff.seconds(failures) if failures else self._backoff.first_seconds / 2)

    def _taken(self, batch: Batch) -> bool:
        """Hand on a batch. One that is refused comes again, at the end to the next run, for the cluster remembers."""
        try:
            self._take(batch.telemetry())
        except (RcaError, OSError) as error:
            self.refusal = str(error)
            self._put_back(batch)
            return False
        self.refusal = ""
        return True

    def _tell_people(self) -> None:
        """Say which resources are out of sight for longer than it takes to reconnect, and when they are back."""
        due_ns = self._now_ns() - _ANNOUNCE_AFTER_NS
        with self._lock:
            lost = [one for one in self.followers if one.lost_ns is not None and one.problem and one.lost_ns <= due_ns]
            fresh = [one for one in lost if not one.announced]
            back = [one for one in self.followers if one.announced and one.lost_ns is None]
            lines = [f"{one} out of sight: {one.problem}" for one in fresh]
            if len(fresh) == len(self.followers):
                lines = [f"the cluster is out of sight: {fresh[0].problem}"]
            if back:
                lines.append(f"{', '.join(map(str, back))} in sight again" if lost else "the whole cluster is in sight again")
            for one in (*fresh, *back):
                one.announced = one.lost_ns is not None
        for same in alike(lines):
            self._announce(f"kubernetes: {together(same)}")

    def _look_after(self) -> None:
        """Report outages that last, and forget what can no longer be told twice."""
        now_ns = self._now_ns()
        with self._lock:
            for follower in self.followers:
                if follower.lost_ns is None or not follower.problem or now_ns - follower.lost_ns < _GAP_AFTER_NS:
                    continue
                if follower.reported_ns is None or now_ns - follower.reported_ns >= _GAP_EVERY_NS:
                    self._report(follower, now_ns)
            seen_ns = min(follower.seen_ns for follower in self.followers)
            self._told.forget(min(now_ns - 2 * self._lifetime_ns, seen_ns - _MARGIN_NS))
            if now_ns - self._placed_ns >= _PLACED_AGAIN_NS:
                self._placed, self._placed_ns = set(), now_ns
                self._tell((), self.cluster.relations())
