"""Labels to entities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rca.collectors.alert_labels import host_of
from rca.collectors.prometheus.mapping import Naming
from rca.telemetry import EntityId

_NOBODY: Final = ("", "unknown")  # what Istio and service graphs write for an end that they do not know
_JOBS: Final = ("job", "exported_job")


def entity_of(labels: Mapping[str, str], naming: Naming, nodes: Mapping[str, str]) -> EntityId | None:
    """The entity that labels name, None if none of them does. `nodes` gives names of nodes by address."""
    for label in naming.labels:
        name = labels.get(label, "")
        if name in _NOBODY:
            continue
        if naming.kind == "node":
            return EntityId("node", node_name(name, nodes) if label == "instance" else name)
        namespace = next((labels[other] for other in naming.namespace_labels if labels.get(other)), "")
        if naming.kind == "service" and label in _JOBS and name.count("/") == 1:
            # OpenTelemetry's own rule: job is service.namespace/service.name
            before, name = name.split("/")
            namespace = namespace or before
        return EntityId(naming.kind, name, namespace)
    return None


def node_name(instance: str, nodes: Mapping[str, str]) -> str:
    """Name of the node behind `host:port`: what the cluster or the kernel calls it, else the host."""
    host = host_of(instance)
    return nodes.get(host) or nodes.get(instance) or host
