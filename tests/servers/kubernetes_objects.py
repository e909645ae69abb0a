"""Kubernetes objects with the fields that real clusters send, cut to what matters. Times are nanoseconds since the epoch."""

from __future__ import annotations

import uuid
from typing import Any

from tests.servers.kubernetes_api import stamp

Body = dict[str, Any]

MINUTE = 60 * 10**9


def meta(name: str, namespace: str = "shop", *, created_ns: int | None = None, **more: Any) -> Body:
    body: Body = {"name": name, "uid": str(uuid.uuid4()), "creationTimestamp": stamp(created_ns), **more}
    return {**body, "namespace": namespace} if namespace else body


def owned_by(body: Body, kind: str) -> list[Body]:
    """ownerReferences to a controller."""
    metadata = body["metadata"]
    return [{"apiVersion": "apps/v1", "kind": kind, "name": metadata["name"], "uid": metadata["uid"], "controller": True}]


def edited(at_ns: int, manager: str = "kubectl", subresource: str | None = None) -> list[Body]:
    """managedFields after a write."""
    entry = {"manager": manager, "operation": "Update", "apiVersion": "v1", "time": stamp(at_ns), "fieldsType": "FieldsV1"}
    return [{**entry, "subresource": subresource} if subresource else entry]


def template(name: str, image: str, *, env: Body | None = None, config_map: str | None = None, secret: str | None = None) -> Body:
    container: Body = {
        "name": "app",
        "image": image,
        "env": [{"name": key, "value": value} for key, value in (env or {}).items()],
        "resources": {"limits": {"memory": "256Mi"}},
    }
    spec: Body = {"containers": [container], "volumes": []}
    if config_map:
        spec["volumes"].append({"name": "config", "configMap": {"name": config_map}})
    if secret:
        container["envFrom"] = [{"secretRef": {"name": secret}}]
    return {"metadata": {"labels": {"app.kubernetes.io/name": name}}, "spec": spec}


def deployment(name: str, pods: Body, *, replicas: int = 1, created_ns: int | None = None, **metadata: Any) -> Body:
    return {
        "metadata": meta(name, created_ns=created_ns, **metadata),
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app.kubernetes.io/name": name}}, "template": pods},
        "status": {"replicas": replicas, "readyReplicas": replicas},
    }


def replica_set(owner: Body, code: str, revision: int, pods: Body, *, created_ns: int | None = None) -> Body:
    annotations = {"deployment.kubernetes.io/revision": str(revision)}
    labels = {**pods["metadata"]["labels"], "pod-template-hash": code}
    name = f"{owner['metadata']['name']}-{code}"
    metadata = meta(name, created_ns=created_ns, annotations=annotations, ownerReferences=owned_by(owner, "Deployment"))
    return {
        "metadata": metadata,
        "spec": {"replicas": 1, "template": {**pods, "metadata": {**pods["metadata"], "labels": labels}}},
    }


def pod(
    name: str,
    pods: Body,
    *,
    owner: list[Body] | None = None,
    node: str = "node-a",
    namespace: str = "shop",
    created_ns: int | None = None,
    status: Body | None = None,
    **metadata: Any,
) -> Body:
    known = {"labels": pods["metadata"]["labels"], **({"ownerReferences": owner} if owner else {})}
    return {
        "metadata": meta(name, namespace, created_ns=created_ns, **{**known, **metadata}),
        "spec": {**pods["spec"], "nodeName": node},
        "status": {"phase": "Running", "conditions": [], "containerStatuses": [], **(status or {})},
    }


def ended(reason: str, code: int, at_ns: int, *, restarts: int = 1, container: str = "app") -> Body:
    """containerStatuses of a container that ended and was started again."""
    terminated = {"exitCode": code, "reason": reason, "startedAt": stamp(at_ns - MINUTE), "finishedAt": stamp(at_ns)}
    status = {"name": container, "ready": True, "restartCount": restarts, "state": {"running": {"startedAt": stamp(at_ns)}}}
    return {"containerStatuses": [{**status, "lastState": {"terminated": terminated}}]}


def node(name: str, *, created_ns: int | None = None, conditions: list[Body] | None = None) -> Body:
    return {"metadata": meta(name, "", created_ns=created_ns), "spec": {}, "status": {"conditions": conditions or []}}


def condition(kind: str, status: str, at_ns: int, reason: str = "", message: str = "", updated_ns: int | None = None) -> Body:
    body = {"type": kind, "status": status, "lastTransitionTime": stamp(at_ns), "reason": reason, "message": message}
    return {**body, "lastUpdateTime": stamp(updated_ns)} if updated_ns is not None else body


def event(about: Body, kind: str, reason: str, message: str, at_ns: int, *, severity: str = "Normal", **more: Any) -> Body:
    """An event in the form of core/v1, as the kubelet and most controllers write it."""
    metadata = about["metadata"]
    reference = {"kind": kind, "name": metadata["name"], "uid": metadata["uid"], "namespace": metadata.get("namespace", "")}
    return {
        "metadata": meta(f"{metadata['name']}.{uuid.uuid4().hex[:16]}", metadata.get("namespace") or "default", created_ns=at_ns),
        "involvedObject": reference,
        "reason": reason,
        "message": message,
        "type": severity,
        "firstTimestamp": stamp(at_ns),
        "lastTimestamp": stamp(at_ns),
        "eventTime": None,
        "count": 1,
        "series": None,
        "reportingComponent": "kubelet",
        **more,
    }
