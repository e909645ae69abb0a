"""Deployments that roll releases out pod by pod, and stateful sets of one pod for the backing servers."""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from rca.errors import BadInput
from rca.shop import plan
from rca.shop.supervisor.cluster import Cluster
from rca.shop.supervisor.pods import Kubelet, Pod

FIRST_VERSION: Final = "1.0.0"
_ALPHABET: Final = "bcdfghjklmnpqrstvwxz2456789"  # of Kubernetes' own generated names
_DEADLINE_NS: Final = 60 * 10**9
_HISTORY: Final = 10


@dataclass(frozen=True)
class Release:
    """What a service's pods run: a version, faults that it begins with, and settings (see rca.shop.services.pod)."""

    version: str = FIRST_VERSION
    behaviour: Mapping[str, Any] | None = None
    configuration: Mapping[str, Any] | None = None

    def body(self) -> dict[str, Any]:
        """`release.json`."""
        return {"version": self.version, "behaviour": self.behaviour or {}, "configuration": self.configuration or {}}


def release_of(body: Mapping[str, Any], before: Release) -> Release:
    """The release that a request describes; without a configuration that of the one before stays. Raises BadInput."""
    expected = 'a release {"version": "1.0.1", "behaviour": {…}, "configuration": {…}}'
    unknown = set(body) - {"version", "behaviour", "configuration"}
    if unknown or not isinstance(body.get("version"), str) or not body["version"]:
        raise BadInput("release", expected=expected, found=repr(dict(body)))
    behaviour, configuration = body.get("behaviour", {}), body.get("configuration", before.configuration)
    if not isinstance(behaviour, Mapping) or not isinstance(configuration, Mapping | None):
        raise BadInput("release", expected=expected, found=repr(dict(body)))
    return Release(body["version"], behaviour, configuration)


class ReplicaSet:
    """Pods of one release."""

    def __init__(self, workload: str, code: str, revision: int, release: Release) -> None:
        self.workload, self.code, self.revision, self.release = workload, code, revision, release
        self.name = f"{workload}-{code}"

    @property
    def configuration_digest(self) -> str:
        """What tells two configurations of one version apart in the pod template."""
        if not self.release.configuration:
            return ""
        return hashlib.sha256(json.dumps(dict(self.release.configuration), sort_keys=True).encode()).hexdigest()


NewPod = Callable[["Deployment", ReplicaSet, str, str], Pod]
"""Makes a pod of a deployment with a name on a node."""


class Deployment:
    """A service: `tick` it twice a second, and pods follow what is wanted."""

    def __init__(
        self, workload: plan.Workload, cluster: Cluster, kubelet: Kubelet, new_pod: NewPod, chosen: random.Random
    ) -> None:
        self.workload, self.name, self.replicas = workload, workload.name, workload.pods
        self._cluster, self._kubelet, self._new_pod, self._chosen = cluster, kubelet, new_pod, chosen
        self.replica_sets = [ReplicaSet(self.name, self._code(10), 1, Release())]
        self.current = self.replica_sets[0]
        self.pods: list[Pod] = []
        self.begun_ns = self.progress_ns = self.available_since_ns = time.time_ns()
        self.edited_ns = 0
        self.progress = "NewReplicaSetCreated"
        self.is_available = False
        self._progressed_ns = self.begun_ns
        self._counted = (0, 0)
        self._scaled_to: dict[str, int] = {}

    @property
    def is_stalled(self) -> bool:
        """Whether a rollout makes no progress."""
        return self.progress == "ProgressDeadlineExceeded"

    @property
    def is_settled(self) -> bool:
        """Whether all that is wanted runs and nothing else does."""
        ours = self.pods_of(self.current)
        return len(ours) == self.replicas == len(self.pods) and all(pod.is_ready for pod in ours)

    def pods_of(self, replica_set: ReplicaSet) -> list[Pod]:
        """Its pods that are not about to be deleted."""
        return [pod for pod in self.pods if pod.code == replica_set.code and pod.deleted_ns is None]

    def roll_out(self, release: Release) -> None:
        """Make another release the current one."""
        replica_set = ReplicaSet(self.name, self._code(10), self.current.revision + 1, release)
        self.replica_sets.append(replica_set)
        self._turn_to(replica_set, "ReplicaSetUpdated")
        self._forget_old()

    def _forget_old(self) -> None:
        """Keep the first replica set, the last ones, and those with pods, as revisionHistoryLimit does."""
        used = {pod.code for pod in self.pods}
        for old in sorted(self.replica_sets[1:], key=lambda one: one.revision)[:-_HISTORY]:
            if old.code not in used:
                self.replica_sets.remove(old)
                self._cluster.remove("replicasets", old.name)

    def roll_back(self) -> None:
        """Make the release before the current one the current one again. Raises BadInput where there is none."""
        earlier = [one for one in self.replica_sets if one is not self.current]
        if not earlier:
            raise BadInput(self.name, expected="a release before the current one", found="none")
        replica_set = max(earlier, key=lambda one: one.revision)
        replica_set.revision = self.current.revision + 1
        self._turn_to(replica_set, "FoundNewReplicaSet")

    def reset(self) -> None:
        """Return to the release and the number of pods that it began with."""
        if self.replicas != self.workload.pods:
            self.scale(self.workload.pods)
        first = self.replica_sets[0]
        if self.current is not first:
            first.revision = self.current.revision + 1
            self._turn_to(first, "FoundNewReplicaSet")

    def scale(self, pods: int) -> None:
        """Want another number of pods."""
        self.replicas = pods
        self.edited_ns = time.time_ns()
        self.show()

    def _turn_to(self, replica_set: ReplicaSet, reason: str) -> None:
        self.current = replica_set
        self.edited_ns = self.begun_ns = self.progress_ns = self._progressed_ns = time.time_ns()
        self.progress = reason
        self.show()

    def tick(self) -> None:
        """One step towards what is wanted: never fewer ready pods than wanted, at most one pod more."""
        self.pods = [pod for pod in self.pods if pod.name in self._kubelet.pods]
        ours = self.pods_of(self.current)
        others = [pod for pod in self.pods if pod.deleted_ns is None and pod.code != self.current.code]
        living, ready = len(ours) + len(others), sum(pod.takes_traffic for pod in self.pods)
        if len(ours) > self.replicas:
            self._remove(ours[-1])
        elif len(ours) < self.replicas and (living <= self.replicas or not others):
            self._create()
        elif others:
            unready = [pod for pod in others if not pod.is_ready]
            if unready and living > self.replicas and len(ours) >= 1:
                self._remove(unready[0])
            elif ready > self.replicas:
                self._remove(others[0])
        self._watch_progress(ours, ready)

    def _watch_progress(self, ours: list[Pod], ready: int) -> None:
        now, counted = time.time_ns(), (len(ours), sum(pod.is_ready for pod in ours))
        changed = counted != self._counted
        if changed:
            self._counted, self._progressed_ns = counted, now
        if ready >= self.replicas and not self.is_available:
            self.is_available, self.available_since_ns, changed = True, now, True
        elif ready < self.replicas and self.is_available:
            self.is_available, self.available_since_ns, changed = False, now, True
        if self.progress != "NewReplicaSetAvailable":
            if self.is_settled:
                self.progress, self.progress_ns, changed = "NewReplicaSetAvailable", now, True
            elif now - self._progressed_ns > _DEADLINE_NS and not self.is_stalled:
                self.progress, self.progress_ns, changed = "ProgressDeadlineExceeded", now, True
        if changed:
            self.show()

    def _create(self) -> None:
        taken = {pod.node for pod in self.pods_of(self.current)}
        number = len(self.pods_of(self.current))
        node = self.workload.node_of(number)
        if node in taken and len(taken) < len(plan.NODES):
            node = next(name for name in plan.NODES if name not in taken)
        pod = self._new_pod(self, self.current, f"{self.current.name}-{self._code(5)}", node)
        self.pods.append(pod)
        self._tell_scaled(self.current)
        self._kubelet.add(pod)
        self._cluster.event(
            "replicasets", self.current.name, "SuccessfulCreate", f"Created pod: {pod.name}", source="replicaset-controller"
        )

    def _remove(self, pod: Pod) -> None:
        self._kubelet.delete(pod)
        replica_set = next(one for one in self.replica_sets if one.code == pod.code)
        self._tell_scaled(replica_set)
        self._cluster.event(
            "replicasets", replica_set.name, "SuccessfulDelete", f"Deleted pod: {pod.name}", source="replicaset-controller"
        )

    def _tell_scaled(self, replica_set: ReplicaSet) -> None:
        self.show()
        before, now = self._scaled_to.get(replica_set.name, 0), len(self.pods_of(replica_set))
        if before != now:
            self._scaled_to[replica_set.name] = now
            way = "up" if now > before else "down"
            text = f"Scaled {way} replica set {replica_set.name} from {before} to {now}"
            self._cluster.event("deployments", self.name, "ScalingReplicaSet", text, source="deployment-controller")

    def show(self) -> None:
        """Write its objects as they are now."""
        self._cluster.show_deployment(self)

    def _code(self, length: int) -> str:
        return "".join(self._chosen.choice(_ALPHABET) for _ in range(length))


class StatefulSet:
    """A backing server: one pod that keeps its name."""

    def __init__(self, workload: plan.Workload, cluster: Cluster, pod: Pod) -> None:
        self.workload, self.name, self._cluster, self.pod = workload, workload.name, cluster, pod
        self._was_ready: bool | None = None

    def tick(self) -> None:
        """Write the object where its pod's readiness changed."""
        if self.pod.is_ready != self._was_ready:
            self._was_ready = self.pod.is_ready
            self.show()

    def show(self) -> None:
        """Write the object as it is now."""
        self._cluster.show_stateful_set(self)
