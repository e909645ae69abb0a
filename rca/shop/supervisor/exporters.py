"""Metrics as cAdvisor, kube-state-metrics, node exporter and the servers' exporters name them, read from the real processes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rca.shop import plan

if TYPE_CHECKING:
    from rca.shop.supervisor.pods import Pod
    from rca.shop.supervisor.workloads import Deployment, StatefulSet

NODE_MEMORY_BYTES: Final = 4 * 2**30
_PHASES: Final = ("Pending", "Running", "Succeeded", "Failed", "Unknown")


class Page:
    """Metrics in Prometheus' text form."""

    def __init__(self) -> None:
        self._families: dict[str, list[str]] = {}

    def add(self, name: str, value: float, **labels: str) -> None:
        """One sample; a name that ends with `_total` is a counter."""
        text = ",".join(f'{key}="{value}"' for key, value in labels.items())
        kind = "counter" if name.endswith("_total") else "gauge"
        lines = self._families.setdefault(name, [f"# TYPE {name} {kind}"])
        lines.append(f"{name}{{{text}}} {float(value):.17g}")

    def text(self) -> str:
        return "\n".join(line for lines in self._families.values() for line in lines) + "\n"


def folder_bytes(folder: Path) -> int:
    """Apparent size of the files in a folder."""
    try:
        return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    except OSError:
        return 0


def cadvisor(pods: Iterable[Pod], volumes: Mapping[str, Path]) -> str:
    """What cAdvisor says of containers."""
    page = Page()
    for pod in pods:
        if not pod.is_running:
            continue
        who = {"namespace": plan.NAMESPACE, "pod": pod.name, "container": pod.owner, "node": pod.node}
        page.add("container_cpu_usage_seconds_total", pod.usage.cpu_seconds, **who, cpu="total")
        page.add("container_memory_working_set_bytes", pod.usage.memory_bytes, **who)
        page.add("container_spec_memory_limit_bytes", pod.memory_limit_bytes, **who)
        page.add("container_cpu_cfs_periods_total", pod.periods, **who)
        page.add("container_cpu_cfs_throttled_periods_total", pod.throttled_periods, **who)
        page.add("container_cpu_cfs_throttled_seconds_total", pod.throttled_s, **who)
        page.add("container_fs_reads_bytes_total", pod.usage.read_bytes, **who, device="/dev/vda")
        page.add("container_fs_writes_bytes_total", pod.usage.written_bytes, **who, device="/dev/vda")
        page.add("container_start_time_seconds", pod.started_ns / 1e9, **who)
        if pod.name in volumes:
            page.add("container_fs_usage_bytes", folder_bytes(volumes[pod.name]), **who, device="/dev/vda")
            page.add("container_fs_limit_bytes", plan.WORKLOADS[pod.owner].volume_bytes, **who, device="/dev/vda")
        network = {"namespace": plan.NAMESPACE, "pod": pod.name, "interface": "eth0", "node": pod.node}
        page.add("container_network_receive_bytes_total", pod.received_bytes, **network)
        page.add("container_network_transmit_bytes_total", pod.sent_bytes, **network)
    return page.text()


def kube_state(pods: Iterable[Pod], deployments: Iterable[Deployment], stateful_sets: Iterable[StatefulSet]) -> str:
    """What kube-state-metrics says of objects."""
    page = Page()
    for node in plan.NODES:
        page.add("kube_node_info", 1, node=node)
        page.add("kube_node_status_condition", 1, node=node, condition="Ready", status="true")
    for pod in pods:
        _pod_state(page, pod)
    for deployment in deployments:
        who = {"namespace": plan.NAMESPACE, "deployment": deployment.name}
        page.add("kube_deployment_spec_replicas", deployment.replicas, **who)
        page.add("kube_deployment_status_replicas_available", sum(pod.is_ready for pod in deployment.pods), **who)
        updated = len(deployment.pods_of(deployment.current))
        page.add("kube_deployment_status_replicas_updated", updated, **who)
        for replica_set in deployment.replica_sets[-3:]:
            owner = {"owner_kind": "Deployment", "owner_name": deployment.name}
            page.add("kube_replicaset_owner", 1, namespace=plan.NAMESPACE, replicaset=replica_set.name, **owner)
    for stateful_set in stateful_sets:
        who = {"namespace": plan.NAMESPACE, "statefulset": stateful_set.name}
        page.add("kube_statefulset_replicas", 1, **who)
        page.add("kube_statefulset_status_replicas_ready", int(stateful_set.pod.is_ready), **who)
    return page.text()


def _pod_state(page: Page, pod: Pod) -> None:
    who = {"namespace": plan.NAMESPACE, "pod": pod.name}
    container = {**who, "container": pod.owner}
    _, kind, owner = pod.owned_by
    page.add("kube_pod_info", 1, **who, node=pod.node, created_by_kind=kind, created_by_name=owner)
    page.add("kube_pod_owner", 1, **who, owner_kind=kind, owner_name=owner)
    running = "Running" if pod.started_ns else "Pending"
    for phase in _PHASES:
        page.add("kube_pod_status_phase", int(phase == running), **who, phase=phase)
    for condition in ("true", "false"):
        page.add("kube_pod_status_ready", int(pod.is_ready == (condition == "true")), **who, condition=condition)
    page.add("kube_pod_container_status_restarts_total", pod.restarts, **container)
    page.add("kube_pod_container_status_ready", int(pod.is_ready), **container)
    if not pod.is_running and not pod.is_held and (pod.failure or pod.last_end is not None):
        page.add("kube_pod_container_status_waiting_reason", 1, **container, reason=pod.waiting_for)
    if pod.last_end is not None:
        page.add("kube_pod_container_status_last_terminated_reason", 1, **container, reason=pod.last_end.reason)
    for resource, unit, value in (("cpu", "core", pod.cpu_limit), ("memory", "byte", pod.memory_limit_bytes)):
        page.add("kube_pod_container_resource_limits", value, **container, resource=resource, unit=unit, node=pod.node)


class NodeCounters:
    """CPU and I/O of a node: what its pods used, also those that are gone."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._seen: dict[int, tuple[float, int, int]] = {}
        self.cpu_seconds = 0.0
        self.read_bytes = self.written_bytes = 0

    def add(self, pods: Iterable[Pod]) -> None:
        """Take over what the pods used since the last time."""
        seen: dict[int, tuple[float, int, int]] = {}
        for pod in pods:
            if pod.process is None:
                continue
            now = (pod.usage.cpu_seconds, pod.usage.read_bytes, pod.usage.written_bytes)
            before = self._seen.get(pod.process.pid, (0.0, 0, 0))
            self.cpu_seconds += max(now[0] - before[0], 0.0)
            self.read_bytes += max(now[1] - before[1], 0)
            self.written_bytes += max(now[2] - before[2], 0)
            seen[pod.process.pid] = (max(now[0], before[0]), max(now[1], before[1]), max(now[2], before[2]))
        self._seen = seen

    def page(self, node: str, pods: Iterable[Pod]) -> str:
        """What node exporter would say of the node, which has one core."""
        page = Page()
        pods = list(pods)
        elapsed = time.monotonic() - self._begun
        page.add("node_cpu_seconds_total", self.cpu_seconds, cpu="0", mode="user")
        page.add("node_cpu_seconds_total", max(elapsed - self.cpu_seconds, 0.0), cpu="0", mode="idle")
        used = sum(pod.usage.memory_bytes for pod in pods)
        page.add("node_memory_MemTotal_bytes", NODE_MEMORY_BYTES)
        page.add("node_memory_MemAvailable_bytes", NODE_MEMORY_BYTES - used)
        page.add("node_load1", sum(pod.cpu_cores for pod in pods))
        page.add("node_disk_read_bytes_total", self.read_bytes, device="vda")
        page.add("node_disk_written_bytes_total", self.written_bytes, device="vda")
        page.add("node_network_receive_bytes_total", sum(pod.received_bytes for pod in pods), device="eth0")
        page.add("node_network_transmit_bytes_total", sum(pod.sent_bytes for pod in pods), device="eth0")
        page.add("node_uname_info", 1, nodename=node, sysname="Linux")
        return page.text()
