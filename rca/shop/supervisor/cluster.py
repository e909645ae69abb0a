"""The shop as Kubernetes objects and events, in the shapes that kubelet, scheduler and controllers write."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from rca.shop import plan
from rca.shop.supervisor.kubernetes_api import Body, KubernetesApi, stamp

if TYPE_CHECKING:
    from rca.shop.supervisor.pods import Pod
    from rca.shop.supervisor.workloads import Deployment, ReplicaSet, StatefulSet

IMAGES: Final = {
    plan.DATABASE: "docker.io/library/postgres:15",
    plan.CACHE: "docker.io/library/redis:7",
    plan.QUEUE: "docker.io/library/redis:7",
}
_MOST_EVENTS: Final = 400
_LISTENS: Final = {plan.DATABASE: 5432, plan.CACHE: 6379, plan.QUEUE: 6379}


def labels_of(workload: str, version: str, code: str | None = None) -> Body:
    """Labels of a workload's pods."""
    labels = {"app": workload, "app.kubernetes.io/name": workload, "app.kubernetes.io/part-of": plan.SYSTEM}
    if code:
        labels |= {"app.kubernetes.io/version": version, "pod-template-hash": code}
    return labels


class Cluster:
    """Writes objects; what did not change is not written again."""

    def __init__(self, api: KubernetesApi) -> None:
        self._api = api
        self._written: dict[tuple[str, str], Body] = {}
        self._events: dict[tuple[str, str, str], Body] = {}
        self._order: deque[tuple[str, str, str]] = deque()

    def begin(self, nodes: Mapping[str, int]) -> None:
        """Namespace, nodes (with the bytes of memory of each) and services."""
        self._put("namespaces", _meta(plan.NAMESPACE, ""), {"status": {"phase": "Active"}})
        for name, memory in nodes.items():
            self._put("nodes", _meta(name, "", labels={"kubernetes.io/hostname": name}), _node(memory))
        for workload in plan.WORKLOADS.values():
            if workload.kind != "external":
                port = _LISTENS.get(workload.name, 80)
                spec = {"selector": {"app": workload.name}, "ports": [{"port": port, "protocol": "TCP"}], "type": "ClusterIP"}
                self._put("services", _meta(workload.name), {"spec": spec})

    def write_config_map(self, workload: str, at_ns: int | None = None) -> None:
        """A workload's config map was written, at its creation or later."""
        edits: Body = {"managedFields": [_edit("kubectl-edit", at_ns)]} if at_ns is not None else {}
        self._put("configmaps", _meta(f"{workload}-config", **edits), {"data": {}}, always=True)

    def show_deployment(self, deployment: Deployment) -> None:
        """A deployment and its replica sets as they are now."""
        current = deployment.current
        body = {
            "spec": {
                "replicas": deployment.replicas,
                "selector": {"matchLabels": {"app": deployment.name}},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
                "progressDeadlineSeconds": 60,
                "template": _template(deployment.workload, current.release.version, None),
            },
            "status": {
                "replicas": len(deployment.pods),
                "updatedReplicas": len(deployment.pods_of(current)),
                "readyReplicas": sum(pod.is_ready for pod in deployment.pods),
                "conditions": [
                    _condition("Available", "True" if deployment.is_available else "False", deployment.available_since_ns),
                    {
                        **_condition("Progressing", "False" if deployment.is_stalled else "True", deployment.begun_ns),
                        "reason": deployment.progress,
                        "lastUpdateTime": stamp(deployment.progress_ns),
                        "message": _progress(current.name, deployment.progress),
                    },
                ],
            },
        }
        edits: Body = {"managedFields": [_edit("kubectl-set", deployment.edited_ns)]} if deployment.edited_ns else {}
        annotations = {"deployment.kubernetes.io/revision": str(current.revision)}
        self._put("deployments", _meta(deployment.name, annotations=annotations, **edits), body)
        for replica_set in deployment.replica_sets:
            self._show_replica_set(deployment, replica_set)

    def _show_replica_set(self, deployment: Deployment, replica_set: ReplicaSet) -> None:
        pods = deployment.pods_of(replica_set)
        body = {
            "spec": {
                "replicas": len(pods),
                "selector": {"matchLabels": {"app": deployment.name, "pod-template-hash": replica_set.code}},
                "template": _template(
                    deployment.workload, replica_set.release.version, replica_set.code, replica_set.configuration_digest
                ),
            },
            "status": {"replicas": len(pods), "readyReplicas": sum(pod.is_ready for pod in pods)},
        }
        metadata = _meta(
            replica_set.name,
            labels=labels_of(deployment.name, replica_set.release.version, replica_set.code),
            annotations={"deployment.kubernetes.io/revision": str(replica_set.revision)},
            ownerReferences=self._owner("deployments", "Deployment", deployment.name),
        )
        self._put("replicasets", metadata, body)

    def show_stateful_set(self, stateful_set: StatefulSet) -> None:
        """A stateful set as it is now."""
        pod = stateful_set.pod
        template = _template(stateful_set.workload, "", None)
        body = {
            "spec": {"replicas": 1, "serviceName": stateful_set.name, "template": template},
            "status": {"replicas": 1, "readyReplicas": int(pod.is_ready), "currentReplicas": 1},
        }
        self._put("statefulsets", _meta(stateful_set.name), body)

    def show_job(self, name: str) -> None:
        """A batch job whose pods run."""
        self._put("jobs", _meta(name), {"spec": {"parallelism": 1}, "status": {"active": 1}})

    def remove(self, resource: str, name: str) -> None:
        """An object is gone."""
        body = self._written.pop((resource, name), None)
        if body is not None:
            self._api.delete(resource, body)

    def show_pod(self, pod: Pod) -> None:
        """A pod as it is now."""
        metadata = _meta(
            pod.name,
            labels=labels_of(pod.owner, pod.version, pod.code) | {"app": pod.owner},
            ownerReferences=self._owner(*pod.owned_by),
        )
        if pod.deleted_ns is not None:
            metadata |= {"deletionTimestamp": stamp(pod.deleted_ns + 30 * 10**9), "deletionGracePeriodSeconds": 30}
        spec = {**_spec(pod.owner, pod.version, pod.memory_limit_bytes, pod.cpu_limit), "nodeName": pod.node}
        self._put("pods", metadata, {"spec": spec, "status": _pod_status(pod)})

    def remove_pod(self, pod: Pod) -> None:
        self.remove("pods", pod.name)

    def event(
        self,
        resource: str,
        name: str,
        reason: str,
        text: str,
        *,
        warning: bool = False,
        source: str = "kubelet",
        host: str = "",
    ) -> None:
        """Something happened to an object. What happens again is counted, as the real recorders do."""
        about = self._written.get((resource, name))
        if about is None:
            return
        now = time.time_ns()
        key = (about["metadata"]["uid"], reason, text)
        seen = self._events.get(key)
        if seen is not None:
            seen |= {"count": seen["count"] + 1, "lastTimestamp": stamp(now)}
            self._events[key] = self._api.modify("events", seen)
            return
        kinds = {"pods": "Pod", "deployments": "Deployment", "replicasets": "ReplicaSet", "statefulsets": "StatefulSet"}
        reference = {"kind": kinds.get(resource, "Job"), "name": name, "uid": about["metadata"]["uid"]}
        body = {
            "metadata": {"name": f"{name}.{uuid.uuid4().hex[:16]}", "namespace": plan.NAMESPACE},
            "involvedObject": {**reference, "namespace": plan.NAMESPACE},
            "reason": reason,
            "message": text,
            "type": "Warning" if warning else "Normal",
            "firstTimestamp": stamp(now),
            "lastTimestamp": stamp(now),
            "eventTime": None,
            "count": 1,
            "series": None,
            "source": {"component": source, **({"host": host} if host else {})},
            "reportingComponent": source,
        }
        self._events[key] = self._api.add("events", body)
        self._order.append(key)
        while len(self._order) > _MOST_EVENTS:
            self._api.delete("events", self._events.pop(self._order.popleft()))

    def _owner(self, resource: str, kind: str, name: str) -> list[Body]:
        owner = self._written.get((resource, name))
        uid = owner["metadata"]["uid"] if owner else ""
        version = "batch/v1" if kind == "Job" else "apps/v1"
        return [{"apiVersion": version, "kind": kind, "name": name, "uid": uid, "controller": True}]

    def _put(self, resource: str, metadata: Body, body: Body, *, always: bool = False) -> None:
        """Write an object where it is new or differs."""
        key = (resource, metadata["name"])
        before = self._written.get(key)
        if before is None:
            self._written[key] = self._api.add(resource, {"metadata": metadata, **body})
            return
        kept = {name: before["metadata"][name] for name in ("uid", "creationTimestamp", "resourceVersion")}
        new = {"metadata": {**kept, **metadata}, **body}
        if always or new != before:
            self._written[key] = self._api.modify(resource, new)


def _meta(name: str, namespace: str = plan.NAMESPACE, **more: Any) -> Body:
    return {"name": name, **({"namespace": namespace} if namespace else {}), **more}


def _edit(manager: str, at_ns: int | None) -> Body:
    entry = {"manager": manager, "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1"}
    return {**entry, "time": stamp(at_ns)}


def _condition(kind: str, status: str, since_ns: int) -> Body:
    return {"type": kind, "status": status, "lastTransitionTime": stamp(since_ns)}


def _node(memory_bytes: int) -> Body:
    now = time.time_ns()
    quiet = [_condition(kind, "False", now) for kind in ("MemoryPressure", "DiskPressure", "PIDPressure")]
    capacity = {"cpu": "1", "memory": f"{memory_bytes // 2**10}Ki"}
    return {"spec": {}, "status": {"conditions": [*quiet, _condition("Ready", "True", now)], "capacity": capacity}}


def _spec(name: str, version: str, memory_limit_bytes: int, cpu_limit: float) -> Body:
    limits = {"cpu": f"{round(cpu_limit * 1000)}m", "memory": f"{memory_limit_bytes // 2**20}Mi"}
    container: Body = {
        "name": name,
        "image": IMAGES.get(name, f"registry.example/shop/{name}:{version}"),
        "env": [{"name": "OTEL_SERVICE_NAME", "value": name}] if name in plan.SERVICES else [],
        "resources": {"limits": limits, "requests": limits},
    }
    if name in plan.SERVICES:
        container |= {
            "envFrom": [{"configMapRef": {"name": f"{name}-config"}}],
            "readinessProbe": {"httpGet": {"path": "/readyz", "port": "admin"}, "periodSeconds": 2},
            "livenessProbe": {"httpGet": {"path": "/healthz", "port": "admin"}, "periodSeconds": 5},
        }
    return {"containers": [container], "volumes": [], "restartPolicy": "Always"}


def _template(workload: plan.Workload, version: str, code: str | None, digest: str = "") -> Body:
    metadata: Body = {"labels": labels_of(workload.name, version, code)}
    if digest:
        metadata["annotations"] = {"checksum/config": digest}
    return {"metadata": metadata, "spec": _spec(workload.name, version, workload.memory_limit_bytes, workload.cpu_limit)}


def _progress(replica_set: str, reason: str) -> str:
    return {
        "NewReplicaSetAvailable": f'ReplicaSet "{replica_set}" has successfully progressed.',
        "ProgressDeadlineExceeded": f'ReplicaSet "{replica_set}" has timed out progressing.',
    }.get(reason, f'ReplicaSet "{replica_set}" is progressing.')


def _pod_status(pod: Pod) -> Body:
    ready = "True" if pod.is_ready else "False"
    status: Body = {"name": pod.owner, "ready": pod.is_ready, "restartCount": pod.restarts, "started": pod.is_running}
    status["image"] = IMAGES.get(pod.owner, f"registry.example/shop/{pod.owner}:{pod.version}")
    if pod.is_running:
        status["state"] = {"running": {"startedAt": stamp(pod.started_ns)}}
    elif pod.failure:
        status["state"] = {"waiting": {"reason": pod.waiting_for, "message": pod.failure}}
    elif pod.last_end is not None:
        message = f"back-off {pod.delay_s:.0f}s restarting failed container={pod.owner} pod={pod.name}_{plan.NAMESPACE}"
        status["state"] = {"waiting": {"reason": pod.waiting_for, "message": message}}
    else:
        status["state"] = {"waiting": {"reason": pod.waiting_for}}
    if pod.last_end is not None:
        end = pod.last_end
        ended = {"exitCode": end.code, "reason": end.reason, "startedAt": stamp(end.started_ns), "finishedAt": stamp(end.at_ns)}
        status["lastState"] = {"terminated": ended}
    return {
        "phase": "Running" if pod.started_ns else "Pending",
        "startTime": stamp(pod.created_ns),
        "podIP": "127.0.0.1",
        "conditions": [
            _condition("PodScheduled", "True", pod.created_ns),
            _condition("Initialized", "True", pod.created_ns),
            _condition("ContainersReady", ready, pod.ready_since_ns),
            _condition("Ready", ready, pod.ready_since_ns),
        ],
        "containerStatuses": [status],
    }
