"""A shop's last half hour, as its exporters would have told Prometheus: three services, one of which turns slow and fails."""

from __future__ import annotations

from collections.abc import Sequence

from tests.servers.prometheus import History

STEP_S = 15
QUIET_S, BAD_S = 1200, 600
AHEAD_S = 1800  # the history goes on after its end, so that those who look at "now" find the same for as long as tests run
SLOW_S, QUICK_S = 0.3, 0.03
SERVICES = ("web", "cart", "pay")


def shop(end_s: int) -> History:
    """Samples every 15 s around `end_s` (a multiple of 15); for ten minutes before it, `pay` takes 300 ms, one in ten fails."""
    times = range(end_s - QUIET_S - BAD_S, end_s + AHEAD_S + 1, STEP_S)
    history = History()
    for number, service in enumerate(SERVICES):
        _requests(history, service, times)
        _pod(history, service, f"{service}-6d4cf56db6-x{number}2zq", f"node-{number % 2}", times)
    _calls(history, times)
    _nodes(history, times)
    return history


def _requests(history: History, service: str, times: Sequence[int]) -> None:
    bad = service == "pay"

    def took(passed: int) -> float:
        return SLOW_S if bad and passed >= QUIET_S else QUICK_S

    def failures(passed: int) -> float:
        return 1.0 if bad and passed >= QUIET_S else 0.0

    history.add("up", {"job": f"shop/{service}", "instance": "i-1"}, times, 1)
    labels = {"job": f"shop/{service}", "instance": "i-1", "http_route": "/"}
    name = "http_server_request_duration_seconds"
    history.add_histogram(name, {**labels, "http_response_status_code": "200"}, times, 9.0, took)
    history.add_histogram(
        name,
        {**labels, "http_response_status_code": "500"},
        times,
        failures,
        took,
    )


def _pod(history: History, service: str, pod: str, node: str, times: Sequence[int]) -> None:
    container = {"namespace": "shop", "pod": pod, "container": "main"}
    set_ = pod.rsplit("-", 1)[0]
    history.add("container_cpu_usage_seconds_total", container, times, lambda passed: 0.25 * passed)
    history.add("container_cpu_usage_seconds_total", {**container, "container": ""}, times, lambda passed: 0.25 * passed)
    history.add("container_memory_working_set_bytes", container, times, 2e8)
    history.add("container_cpu_cfs_throttled_periods_total", container, times, float)
    history.add("container_cpu_cfs_periods_total", container, times, lambda passed: 10.0 * passed)
    history.add("container_network_receive_bytes_total", {"namespace": "shop", "pod": pod, "interface": "eth0"}, times, float)
    history.add("kube_pod_container_resource_limits", {**container, "resource": "memory", "unit": "byte"}, times, 4e8)
    history.add("kube_pod_container_status_restarts_total", container, times, 0)
    history.add("kube_pod_status_ready", {"namespace": "shop", "pod": pod, "condition": "true"}, times, 1)
    history.add("kube_pod_info", {"namespace": "shop", "pod": pod, "node": node}, times, 1)
    history.add("kube_pod_owner", {"namespace": "shop", "pod": pod, "owner_kind": "ReplicaSet", "owner_name": set_}, times, 1)
    owner = {"namespace": "shop", "replicaset": set_, "owner_kind": "Deployment", "owner_name": service}
    history.add("kube_replicaset_owner", owner, times, 1)


def _calls(history: History, times: Sequence[int]) -> None:
    ends = [("web", "cart", ""), ("cart", "pay", ""), ("pay", "orders-db", "database"), ("user", "web", "virtual_node")]
    for client, server, kind in [*ends, ("pay", "bank.example", "virtual_node"), ("cart", "mailer", "messaging_system")]:
        labels = {"client": client, "server": server, "connection_type": kind}
        history.add("traces_service_graph_request_total", labels, times, lambda passed: 4.0 * passed)
        history.add("traces_service_graph_request_failed_total", labels, times, float)
        history.add_histogram("traces_service_graph_request_client_seconds", labels, times, 4.0, 0.02)
        history.add_histogram("traces_service_graph_request_server_seconds", labels, times, 4.0, 0.008)


def _nodes(history: History, times: Sequence[int]) -> None:
    for number in (0, 1):
        at = {"instance": f"10.0.0.{number}:9100"}
        history.add("node_cpu_seconds_total", {**at, "cpu": "0", "mode": "idle"}, times, lambda passed: 0.75 * passed)
        history.add("node_cpu_seconds_total", {**at, "cpu": "0", "mode": "user"}, times, lambda passed: 0.25 * passed)
        history.add("node_memory_MemAvailable_bytes", at, times, 6e9)
        history.add("node_memory_MemTotal_bytes", at, times, 8e9)
    history.add("kube_node_info", {"node": "node-0", "internal_ip": "10.0.0.0"}, times, 1)
    history.add("node_uname_info", {"instance": "10.0.0.1:9100", "nodename": "node-1"}, times, 1)
