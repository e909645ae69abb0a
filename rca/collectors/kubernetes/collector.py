"""The Kubernetes collector: what one look at the cluster tells about a stretch of time."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Final

import polars as pl

from rca.collectors.findings import Finding
from rca.collectors.kubernetes.api import Api, Listing, Unauthorized
from rca.collectors.kubernetes.changes import Change
from rca.collectors.kubernetes.cluster import Cluster
from rca.collectors.kubernetes.config import KubernetesConfig
from rca.collectors.kubernetes.frames import events_frame, topology_frame
from rca.collectors.kubernetes.resources import EVENT_APIS, PODS, Feed, feeds
from rca.collectors.kubernetes.watching import Backoff, Watching
from rca.errors import RcaError, Rejected, Unavailable
from rca.telemetry import Gap, Interval, Telemetry
from rca.wording import listed

NAME: Final = "kubernetes"
_SHOWN: Final = 5  # names in a message


class KubernetesCollector:
    """Reads one cluster: events of both API groups, and what pods, nodes, workloads and revisions tell about the past."""

    name = NAME

    def __init__(self, config: KubernetesConfig, *, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._config, self._now_ns = config, now_ns
        self._api = Api(config)

    def collect(self, start_ns: int, end_ns: int) -> Telemetry:
        """Events and changes of [start_ns, end_ns), and the placement of the pods that are there now.

        A resource that cannot be read is a gap, as is the time before the cluster's memory of events begins. Raises Unavailable,
        Rejected or BadInput if nothing can be read.
        """
        listings, failures = self._lists()
        cluster, told = Cluster(self._config), dict[tuple[str, ...], Change]()
        for (resource, _), listing in listings.items():
            for change in cluster.take(resource, listing.objects, self._now_ns()):
                told.setdefault(change.key, change)
        inside = [change for change in told.values() if start_ns <= change.time_ns < end_ns]
        return Telemetry.of(
            events=events_frame(inside),
            topology=topology_frame(cluster.relations(end_ns)),
            gaps=[*self._gaps(failures, cluster, Interval(start_ns, end_ns))],
        )

    def watch(
        self,
        take: Callable[[Telemetry], None],
        *,
        since_ns: int | None = None,
        kept: pl.DataFrame | None = None,
        told: Callable[[str], None] = lambda _line: None,
        backoff: Backoff | None = None,
    ) -> Watching:
        """Follow the cluster from now on, starting with what it still remembers since a time (as long as it keeps events).

        `take` gets events, topology and gaps as they come, one call at a time; if it raises an RcaError or OSError, it gets the
        same again later. `kept` are the events since then that an earlier run handed on: they do not come again. `told` gets a
        line when resources go out of sight or come back. Raises BadInput if no cluster is configured.
        """
        _ = self._api.host
        since_ns = self._now_ns() - self._config.event_lifetime if since_ns is None else since_ns
        return Watching(self._api, self._config, take, since_ns, kept, told, backoff or Backoff(), self._now_ns).start()

    def check(self) -> Sequence[Finding]:
        """Which resources can be listed and watched, and what about the cluster makes names ambiguous."""
        listings, failures = self._lists()
        cluster = Cluster(self._config)
        for (resource, _), listing in listings.items():
            cluster.take(resource, listing.objects, self._now_ns())
        kinds = ", ".join(f"{count} {resource.name}" for resource, count in cluster.counts().items())
        server = f"Kubernetes {self._api.version()}".strip()
        answers = Finding(self.name, "ok", f"{server} at {self._api.host} answers: {kinds or 'nothing in these namespaces'}")
        failures |= self._unwatchable(listings)
        return [answers, *self._refusals(failures), *self._naming(cluster)]

    def _unwatchable(self, listings: dict[Feed, Listing]) -> dict[Feed, RcaError]:
        """Lists that can be read but not followed, and why."""
        found: dict[Feed, RcaError] = {}
        for feed, listing in listings.items():
            try:
                self._api.watch(*feed, listing.version, seconds=1).close()
            except (Unavailable, Rejected) as error:
                found[feed] = error
        return found

    def _lists(self) -> tuple[dict[Feed, Listing], dict[Feed, RcaError]]:
        """Every list that could be read, in reading order, and why others could not. Raises if none could."""
        wants = feeds(self._config)
        pods = next(feed for feed in wants if feed[0] == PODS)
        first = self._list(pods)
        if isinstance(first, Unavailable):  # who does not answer one question is not asked ten more
            raise first
        answers: dict[Feed, Listing | RcaError] = {pods: first}
        answers |= self._listed([feed for feed in wants if feed != pods])
        listings = {feed: answer for feed in wants if isinstance(answer := answers[feed], Listing)}
        failures = {feed: answer for feed in wants if isinstance(answer := answers[feed], RcaError)}
        if not listings:
            raise next((error for error in failures.values() if isinstance(error, Unavailable)), failures[pods])
        return listings, failures

    def _listed(self, wants: Sequence[Feed]) -> dict[Feed, Listing | RcaError]:
        """Several lists at once.

        In daemon threads, because whoever asked may have stopped waiting for a cluster that hangs: the end of the process would
        wait for those of a ThreadPoolExecutor.
        """
        waiting = deque((feed, Future[Listing | RcaError]()) for feed in wants)
        answers = dict(waiting)

        def work() -> None:
            while waiting:
                try:
                    feed, answer = waiting.popleft()
                except IndexError:  # another thread was faster
                    return
                try:
                    answer.set_result(self._list(feed))
                except BaseException as error:  # handed to the thread that waits, which raises it
                    answer.set_exception(error)

        for _ in range(min(self._config.concurrency, len(wants))):
            threading.Thread(target=work, name="kubernetes list", daemon=True).start()
        return {feed: answer.result() for feed, answer in answers.items()}

    def _list(self, feed: Feed) -> Listing | RcaError:
        try:
            try:
                return self._api.list(*feed)
            except Unauthorized:
                self._api.reconnect()  # tokens are renewed where they are kept
                return self._api.list(*feed)
        except (Unavailable, Rejected) as error:
            return error

    def _gaps(self, failures: dict[Feed, RcaError], cluster: Cluster, interval: Interval) -> Iterator[Gap]:
        lost = dict(failures)
        if any(feed[0] in EVENT_APIS for feed in lost):
            for namespace in {feed[1] for feed in lost}:  # both groups show the same events: one of them is enough
                if not all((resource, namespace) in lost for resource in EVENT_APIS):
                    lost = {feed: error for feed, error in lost.items() if feed[0] not in EVENT_APIS or feed[1] != namespace}
        yield from (Gap(self.name, str(error), interval) for error in lost.values())
        forgotten_ns = self._now_ns() - self._config.event_lifetime
        if interval.start_ns < forgotten_ns:
            before = Interval(interval.start_ns, min(forgotten_ns, interval.end_ns))
            yield Gap(
                self.name, "Kubernetes no longer keeps events of this time; of changes the latest of each object is known", before
            )
        yield from remarks(cluster)

    def _refusals(self, failures: dict[Feed, RcaError]) -> Iterator[Finding]:
        for (resource, _), error in failures.items():
            advice = f"let the account read {resource}, see docs/kubernetes.md" if isinstance(error, Rejected) else ""
            yield Finding(self.name, "warning", str(error), advice)

    def _naming(self, cluster: Cluster) -> Iterator[Finding]:
        shared = cluster.shared_names()
        if shared:
            text = f"services of several namespaces are taken for one: {listed(sorted(shared), _SHOWN)}"
            yield Finding(self.name, "warning", text, f"set namespaces or namespaced_services in [{self.name}]")
        nameless, pods = cluster.pods_by_workload()
        if nameless:
            text = f"{nameless} of {pods} pods say of no service that they are its own; the names of their workloads are taken"
            advice = f"set OTEL_SERVICE_NAME or {' or '.join(self._config.service_labels)} where traces call them otherwise"
            yield Finding(self.name, "note", text, advice)


def remarks(cluster: Cluster) -> Iterator[Gap]:
    """What was read and could not be used."""
    for resource, count in sorted(cluster.unreadable.items(), key=str):
        yield Gap(NAME, f"{count} {resource} do not have the documented shape; they were skipped")
    for resource, count in sorted(cluster.undated.items(), key=str):
        yield Gap(NAME, f"{count} {resource} have no time; they were skipped")
    if cluster.unattributed:
        kinds = Counter(cluster.unattributed.values())
        words = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
        yield Gap(
            NAME, f"{len(cluster.unattributed)} events are about objects that belong to no service ({words}); they were left out"
        )
    shared = cluster.shared_names()
    if shared:
        yield Gap(NAME, f"services of several namespaces are taken for one: {listed(sorted(shared), _SHOWN)}")
