"""What is known of the cluster: slim objects by UID, the service of each, and the changes that every new look at them tells."""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from rca.bins import joined_key
from rca.collectors.kubernetes import changes, objects
from rca.collectors.kubernetes.changes import Change
from rca.collectors.kubernetes.config import KubernetesConfig
from rca.collectors.kubernetes.objects import Event, Json, Kept, Node, Object, Pod, Revision, Service, Setting, Workload
from rca.collectors.kubernetes.resources import (
    CONFIG_MAPS,
    CONTROLLER_REVISIONS,
    DAEMON_SETS,
    DEPLOYMENTS,
    EVENT_APIS,
    JOBS,
    NODES,
    PODS,
    REPLICA_SETS,
    SECRETS,
    STATEFUL_SETS,
    WORKLOADS,
    Resource,
)
from rca.telemetry import EntityId

_REMEMBERED: Final = 10_000  # pods that are gone, kept because events about them come later
_POD_SUFFIX: Final = re.compile(r"-(?:[a-z0-9]{5}|\d+)$")
_RUN_SUFFIX: Final = re.compile(r"-\d{8,}$")  # the scheduled minute in the name of a cron job's job
_SHORT_UID: Final = 8

_NAMESAKES: Final = ("HorizontalPodAutoscaler", "Service", "PodDisruptionBudget")

Relation = tuple[str, str, str, str, str]  # a row of the topology frame


class Cluster:
    """Objects seen so far. `take` and `drop` tell what changed; nothing here talks to the cluster."""

    def __init__(self, config: KubernetesConfig) -> None:
        labels = config.service_labels
        self._namespaced_services = config.namespaced_services
        self._readers: Mapping[Resource, Callable[[Json], Object]] = {
            NODES: objects.node_of,
            DEPLOYMENTS: lambda body: objects.workload_of("Deployment", body, labels),
            STATEFUL_SETS: lambda body: objects.workload_of("StatefulSet", body, labels),
            DAEMON_SETS: lambda body: objects.workload_of("DaemonSet", body, labels),
            JOBS: lambda body: objects.workload_of("Job", body, labels),
            REPLICA_SETS: objects.replica_set_of,
            CONTROLLER_REVISIONS: objects.controller_revision_of,
            PODS: lambda body: objects.pod_of(body, labels),
            CONFIG_MAPS: lambda body: objects.setting_of("ConfigMap", body),
            SECRETS: lambda body: objects.setting_of("Secret", body),
            **dict.fromkeys(EVENT_APIS, objects.event_of),
        }
        self._kept: dict[Resource, dict[str, Kept]] = {resource: {} for resource in self._readers}
        self._named: dict[tuple[Resource, str, str], set[str]] = {}  # UIDs by namespace and name, which are used again
        self._owned: dict[tuple[Resource, str], set[str]] = {}  # UIDs of revisions by their owner's
        self._gone: OrderedDict[str, Pod] = OrderedDict()
        self.unreadable: Counter[Resource] = Counter()
        self.undated: Counter[Resource] = Counter()
        self.unattributed: dict[str, str] = {}  # UIDs of events to the kind of object that they are about

    def take(self, resource: Resource, bodies: Iterable[Any], now_ns: int) -> list[Change]:
        """Objects as they are now, and everything that they tell. Telling twice is left to the keys of the changes."""
        taken: list[tuple[Object, Object | None]] = []
        for body in bodies:
            try:
                seen = self._readers[resource](body)
            except (KeyError, TypeError, ValueError, AttributeError):
                self.unreadable[resource] += 1
                continue
            if isinstance(seen, Event):
                taken.append((seen, None))
            else:
                taken.append((seen, self._kept[resource].get(seen.meta.uid)))
                self._keep(resource, seen)
        return [told for seen, before in taken for told in self._changes(resource, seen, before, now_ns)]

    def drop(self, resource: Resource, uid: str, now_ns: int, how: str = "was deleted") -> list[Change]:
        """An object that is no longer there."""
        seen = self._forget(resource, uid)
        if isinstance(seen, Pod):
            self._gone[uid] = seen
            while len(self._gone) > _REMEMBERED:
                self._gone.popitem(last=False)
            return [changes.pod_deleted(seen, self.pod(seen), seen.meta.deleted_ns or now_ns, how)]
        if isinstance(seen, Workload) and seen.kind != "Job":  # finished jobs are tidied away all the time
            words = f"{seen.kind} {seen.meta.name} {how}"
            return [changes.keyed(changes.change(now_ns, self.service(seen), "WorkloadDeleted", words), uid)]
        if isinstance(seen, Node):
            words = f"node {seen.meta.name} left"
            return [changes.keyed(changes.change(now_ns, EntityId("node", seen.meta.name), "NodeRemoved", words), uid)]
        return []

    def missing(self, resource: Resource, bodies: Iterable[Any], namespace: str | None) -> list[str]:
        """UIDs of objects that were there, and are not in a complete list of that namespace."""
        present = {uid for body in bodies if (uid := _uid(body)) is not None}
        kept = self._kept[resource].items()
        return [uid for uid, seen in kept if uid not in present and namespace in (None, seen.meta.namespace)]

    def relations(self, before_ns: int | None = None) -> list[Relation]:
        """Which service runs which pod on which node, of pods created before a time."""
        found = set[Relation]()
        for pod in self._pods():
            if before_ns is None or (pod.meta.created_ns or 0) < before_ns:
                found |= set(self.relations_of(pod))
        return sorted(found)

    def relations_of(self, pod: Pod) -> Iterator[Relation]:
        name, service = self.pod(pod).name, self.service(pod)
        yield "service", joined_key(service.name, service.namespace), "runs", "pod", name
        if pod.node:
            yield "pod", name, "hosted_on", "node", pod.node

    def pod_with(self, uid: str) -> Pod | None:
        """A pod that is there."""
        found = self._kept[PODS].get(uid)
        return found if isinstance(found, Pod) else None

    def service_of_pod(self, namespace: str, name: str) -> EntityId | None:
        """The service of a pod by its name, also of one that is gone; None where no workload fits it."""
        seen = next((one for one in self._with_name(PODS, namespace, name) if isinstance(one, Pod)), None)
        return self.service(seen) if seen is not None else self._guess(name, namespace)

    def pod(self, pod: Pod) -> EntityId:
        """The pod as an entity: its name, as traces and metrics know it, unless another service's pod has it by now."""
        namespace = pod.meta.namespace
        return EntityId("pod", self._pod_name(pod.meta.uid, pod.meta.name, namespace, self.service(pod)), namespace)

    def service(self, seen: Pod | Workload) -> EntityId:
        """The service that a pod or workload belongs to."""
        name = seen.service.name or (self._workload_name(seen) if isinstance(seen, Pod) else _root(seen))
        return self._entity(name, seen.service, seen.meta.namespace)

    def shared_names(self) -> dict[str, set[str]]:
        """Names of services that stand for workloads of several namespaces, and those namespaces."""
        found: dict[str, set[str]] = {}
        for pod in self._pods():
            service = self.service(pod)
            if not service.namespace:
                found.setdefault(service.name, set()).add(pod.meta.namespace)
        return {name: namespaces for name, namespaces in found.items() if len(namespaces) > 1}

    def pods_by_workload(self) -> tuple[int, int]:
        """How many pods are named by their workload, because they name no service, and how many there are."""
        pods = list(self._pods())
        return sum(1 for pod in pods if not pod.service.name), len(pods)

    def counts(self) -> dict[Resource, int]:
        """Objects kept, by resource."""
        return {resource: len(kept) for resource, kept in self._kept.items() if kept}

    def _entity(self, name: str, said: Service, namespace: str) -> EntityId:
        own = said.namespace or (namespace if self._namespaced_services else "")
        return EntityId("service", name, own)

    def _pods(self) -> Iterator[Pod]:
        yield from (pod for pod in self._kept[PODS].values() if isinstance(pod, Pod))

    def _workload_name(self, pod: Pod) -> str:
        owner = pod.meta.owner
        if owner is None:
            return pod.meta.name
        if owner.kind == "Node":  # a static pod carries its node's name
            return pod.meta.name.removesuffix(f"-{owner.name}")
        if owner.kind == "ReplicaSet":
            replica_set = self._kept[REPLICA_SETS].get(owner.uid)
            if isinstance(replica_set, Revision) and replica_set.meta.owner:
                return replica_set.meta.owner.name
            return owner.name.removesuffix(f"-{pod.template_hash}")
        if owner.kind == "Job":
            job = self._kept[JOBS].get(owner.uid)
            return _root(job) if isinstance(job, Workload) else _RUN_SUFFIX.sub("", owner.name)
        return owner.name

    def _pod_name(self, uid: str, name: str, namespace: str, service: EntityId | None) -> str:
        """Pod names are used again: a pod whose name now belongs to another service's pod gets a part of its UID."""
        for other in self._with_name(PODS, namespace, name):
            if isinstance(other, Pod) and other.meta.uid != uid and (service is None or self.service(other) != service):
                return f"{name}~{uid[:_SHORT_UID]}"
        return name

    def _keep(self, resource: Resource, seen: Kept) -> None:
        meta = seen.meta
        self._forget(resource, meta.uid)
        self._kept[resource][meta.uid] = seen
        self._named.setdefault((resource, meta.namespace, meta.name), set()).add(meta.uid)
        if isinstance(seen, Revision) and meta.owner:
            self._owned.setdefault((resource, meta.owner.uid), set()).add(meta.uid)

    def _forget(self, resource: Resource, uid: str) -> Kept | None:
        seen = self._kept[resource].pop(uid, None)
        if seen is not None:
            places: list[tuple[dict[Any, set[str]], Any]] = [(self._named, (resource, seen.meta.namespace, seen.meta.name))]
            if isinstance(seen, Revision) and seen.meta.owner:
                places.append((self._owned, (resource, seen.meta.owner.uid)))
            for index, place in places:
                index[place].discard(uid)
                if not index[place]:
                    del index[place]
        return seen

    def _with_name(self, resource: Resource, namespace: str, name: str) -> list[Kept]:
        return [self._kept[resource][uid] for uid in sorted(self._named.get((resource, namespace, name), ()))]

    def _changes(self, resource: Resource, seen: Object, before: Object | None, now_ns: int) -> Iterable[Change]:
        match seen:
            case Event():
                return self._event(resource, seen)
            case Pod():
                return changes.pod_changes(seen, before if isinstance(before, Pod) else None, self.pod(seen), now_ns)
            case Node():
                known = before if isinstance(before, Node) else None
                return changes.node_changes(seen, known, EntityId("node", seen.meta.name))
            case Workload():
                known_workload = before if isinstance(before, Workload) else None
                return changes.workload_changes(seen, known_workload, self.service(seen), now_ns)
            case Revision():
                return self._rollout(resource, seen)
            case Setting():
                at_ns = changes.written_ns(seen, before if isinstance(before, Setting) else None, now_ns)
                services = self._readers_of(seen) if at_ns is not None else []
                return [changes.setting_change(seen, service, at_ns) for service in services if at_ns is not None]

    def _rollout(self, resource: Resource, revision: Revision) -> Iterable[Change]:
        owner = revision.meta.owner
        if owner is None or not revision.number:
            return []
        siblings = [self._kept[resource].get(uid) for uid in self._owned.get((resource, owner.uid), ())]
        earlier = [one for one in siblings if isinstance(one, Revision) and one.number < revision.number]
        before = max(earlier, key=lambda one: (one.number, one.meta.uid), default=None)
        workload = self._workload(owner.uid)
        at_ns = changes.rollout_ns(revision, before, workload)
        if at_ns is None:
            return []
        entity = self.service(workload) if workload else self._entity(owner.name, Service(None, None), revision.meta.namespace)
        return changes.rollout_changes(revision, before, entity, at_ns)

    def _workload(self, uid: str) -> Workload | None:
        found = (self._kept[resource].get(uid) for resource in WORKLOADS)
        return next((one for one in found if isinstance(one, Workload)), None)

    def _readers_of(self, setting: Setting) -> list[EntityId]:
        """Services whose pods, or whose templates, read a config map or secret."""
        wanted = (setting.kind, setting.meta.name)
        candidates: list[Pod | Workload] = [*self._pods(), *(one for resource in WORKLOADS for one in self._workloads(resource))]
        return sorted(
            {self.service(one) for one in candidates if wanted in one.settings and one.meta.namespace == setting.meta.namespace}
        )

    def _workloads(self, resource: Resource) -> Iterator[Workload]:
        yield from (one for one in self._kept[resource].values() if isinstance(one, Workload))

    def _event(self, resource: Resource, event: Event) -> list[Change]:
        entity = self._about(event)
        if entity is None:
            if len(self.unattributed) < _REMEMBERED:
                self.unattributed[event.uid] = event.about_kind or "nothing"
            return []
        if not event.times:
            self.undated[resource] += 1
        text, warning = event.message, event.severity == "Warning"
        told = [changes.change(at_ns, entity, event.reason, text, warning=warning) for at_ns in event.times]
        return [one._replace(key=("event", event.uid, str(one.time_ns))) for one in told]

    def _about(self, event: Event) -> EntityId | None:
        """The entity that an event is about; None if it is no part of a service."""
        kind, name, namespace = event.about_kind, event.about_name, event.about_namespace
        if kind == "Pod" and name:
            pod = self.pod_with(event.about_uid) or self._gone.get(event.about_uid)
            if pod is not None:
                return self.pod(pod)
            return EntityId("pod", self._pod_name(event.about_uid, name, namespace, self._guess(name, namespace)), namespace)
        if kind == "Node" and name:
            return EntityId("node", name)
        found = self._named_workload(kind, event.about_uid, name, namespace)
        return self.service(found) if found is not None else None

    def _guess(self, pod_name: str, namespace: str) -> EntityId | None:
        """The service of a pod that was gone before it was seen: its workload's name stands in its own."""
        stem = _POD_SUFFIX.sub("", pod_name)
        for revision in self._with_name(REPLICA_SETS, namespace, stem):
            owner = self._workload(revision.meta.owner.uid) if revision.meta.owner else None
            return self.service(owner) if owner else None
        for resource in (STATEFUL_SETS, DAEMON_SETS, JOBS):
            for workload in self._with_name(resource, namespace, stem):
                return self.service(workload) if isinstance(workload, Workload) else None
        return None

    def _named_workload(self, kind: str, uid: str, name: str, namespace: str) -> Workload | None:
        """The workload that an event is about, by UID, or by the name that its autoscaler or cluster service shares with it."""
        replica_set = self._kept[REPLICA_SETS].get(uid)
        owner = replica_set.meta.owner if replica_set is not None else None
        found = self._workload(owner.uid if owner else uid)
        if found is None and kind in _NAMESAKES:
            named = (one for resource in WORKLOADS for one in self._with_name(resource, namespace, name))
            found = next((one for one in named if isinstance(one, Workload)), None)
        return found


def _root(workload: Workload) -> str:
    """The name that stands for a workload: for a job that of its cron job."""
    if workload.kind != "Job":
        return workload.meta.name
    return workload.meta.owner.name if workload.meta.owner else _RUN_SUFFIX.sub("", workload.meta.name)


def _uid(body: Any) -> str | None:
    metadata = body.get("metadata") if isinstance(body, Mapping) else None
    return str(metadata["uid"]) if isinstance(metadata, Mapping) and "uid" in metadata else None
