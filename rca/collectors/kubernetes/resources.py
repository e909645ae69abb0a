"""What is read from the cluster. The RBAC rules in collectors/kubernetes/ grant exactly this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from rca.collectors.kubernetes.config import KubernetesConfig


@dataclass(frozen=True)
class Resource:
    """One kind of object, and its place in a version of the API."""

    name: str
    group: str
    namespaced: bool = True
    metadata_only: bool = False
    version: str = "v1"

    def __str__(self) -> str:
        return f"{self.name}.{self.group}" if self.group else self.name

    def path(self, namespace: str | None = None) -> str:
        """Path of the list, of one namespace or of all."""
        top = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        inside = f"/namespaces/{quote(namespace, safe='')}" if self.namespaced and namespace is not None else ""
        return f"{top}{inside}/{self.name}"

    def rule(self) -> str:
        """The RBAC rule that lets an account read it."""
        return f'{{apiGroups: ["{self.group}"], resources: ["{self.name}"], verbs: ["list", "watch"]}}'


NODES: Final = Resource("nodes", "", namespaced=False)
DEPLOYMENTS: Final = Resource("deployments", "apps")
STATEFUL_SETS: Final = Resource("statefulsets", "apps")
DAEMON_SETS: Final = Resource("daemonsets", "apps")
JOBS: Final = Resource("jobs", "batch")
REPLICA_SETS: Final = Resource("replicasets", "apps")
CONTROLLER_REVISIONS: Final = Resource("controllerrevisions", "apps")
PODS: Final = Resource("pods", "")
CONFIG_MAPS: Final = Resource("configmaps", "", metadata_only=True)
SECRETS: Final = Resource("secrets", "", metadata_only=True)
EVENTS: Final = Resource("events", "")
NEW_EVENTS: Final = Resource("events", "events.k8s.io")

CHAOS: Final = {
    Resource(name, "chaos-mesh.org", version="v1alpha1"): kind
    for name, kind in (
        ("podchaos", "PodChaos"),
        ("networkchaos", "NetworkChaos"),
        ("stresschaos", "StressChaos"),
        ("iochaos", "IOChaos"),
        ("dnschaos", "DNSChaos"),
        ("timechaos", "TimeChaos"),
        ("httpchaos", "HTTPChaos"),
    )
}
"""What Chaos Mesh injects, and the kind of each. Only `rca gameday record --chaos-mesh` reads them, once, by list."""

WORKLOADS: Final = (DEPLOYMENTS, STATEFUL_SETS, DAEMON_SETS, JOBS)
REVISIONS: Final = (REPLICA_SETS, CONTROLLER_REVISIONS)
EVENT_APIS: Final = (EVENTS, NEW_EVENTS)

_ALL: Final = (NODES, *WORKLOADS, *REVISIONS, PODS, CONFIG_MAPS, SECRETS, *EVENT_APIS)
"""In the order in which they are read: what an object belongs to comes before it."""


def wanted(config: KubernetesConfig) -> tuple[Resource, ...]:
    """The resources that a configuration asks for, in reading order."""
    left_out = {NODES: not config.nodes, CONFIG_MAPS: not config.config_maps, SECRETS: not config.secrets}
    return tuple(resource for resource in _ALL if not left_out.get(resource))


Feed = tuple[Resource, str | None]
"""A resource, and the namespace that it is read in; None for all."""


def feeds(config: KubernetesConfig) -> list[Feed]:
    """What is listed and watched, in reading order."""
    namespaces: tuple[str | None, ...] = config.namespaces or (None,)
    return [
        (resource, namespace) for resource in wanted(config) for namespace in (namespaces if resource.namespaced else (None,))
    ]
