"""Collecting from a real Prometheus: 15 minutes and the hour before, 50 services, beside the range queries alone.

    python -m benchmarks.prometheus [--services 50] [--repeat 5]

Prints one JSON list of results; an empty one where Prometheus is not installed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import requests

from benchmarks.result import Result, seconds_taken
from rca.collectors.prometheus.client import Client
from rca.collectors.prometheus.collector import PrometheusCollector
from rca.collectors.prometheus.config import PrometheusConfig
from rca.telemetry import SECOND_NS
from tests.servers.prometheus import History, prometheus

STEP_S, WINDOW_S = 15, 75 * 60


def workload(services: int, end_s: int) -> History:
    """Requests, calls, pods and their owners of a shop, and its nodes."""
    times = range(end_s - WINDOW_S - 300, end_s + 1, STEP_S)
    history = History()
    for number in range(services):
        service, pod = f"service-{number:02}", f"service-{number:02}-6d4cf56db6-x2zq"
        for status in ("200", "404", "500"):
            labels = {"job": f"shop/{service}", "http_response_status_code": status}
            history.add_histogram("http_server_request_duration_seconds", labels, times, 10.0, 0.03)
        ends = {"client": service, "server": f"service-{(number * 7 + 1) % services:02}"}
        history.add("traces_service_graph_request_total", ends, times, lambda passed: 4.0 * passed)
        history.add_histogram("traces_service_graph_request_client_seconds", ends, times, 4.0, 0.02)
        history.add_histogram("traces_service_graph_request_server_seconds", ends, times, 4.0, 0.01)
        container = {"namespace": "shop", "pod": pod, "container": "main"}
        history.add("container_cpu_usage_seconds_total", container, times, lambda passed: 0.25 * passed)
        history.add("container_memory_working_set_bytes", container, times, 2e8)
        history.add("container_network_receive_bytes_total", {"namespace": "shop", "pod": pod}, times, float)
        history.add("kube_pod_info", {"namespace": "shop", "pod": pod, "node": f"node-{number % 5}"}, times, 1)
        owned = {"namespace": "shop", "pod": pod, "owner_kind": "StatefulSet", "owner_name": service}
        history.add("kube_pod_owner", owned, times, 1)
    for number in range(5):
        history.add("node_cpu_seconds_total", {"node": f"node-{number}", "mode": "idle"}, times, lambda passed: 0.75 * passed)
    return history


def _raw(url: str, queries: Sequence[str], start_s: int, end_s: int, concurrency: int) -> int:
    """The same range queries and nothing else: bytes of their answers."""
    with requests.Session() as session, ThreadPoolExecutor(concurrency) as pool:

        def ask(query: str) -> int:
            params: dict[str, str | int] = {"query": query, "start": start_s, "end": end_s, "step": STEP_S}
            return len(session.get(f"{url}/api/v1/query_range", params=params, timeout=30).content)

        return sum(pool.map(ask, queries))


def measure(services: int, repeat: int) -> list[Result]:
    """Time of one collection, and of its range queries alone."""
    end_s = int(time.time()) // STEP_S * STEP_S
    start_s = end_s - WINDOW_S
    with (
        tempfile.TemporaryDirectory() as folder,
        prometheus(Path(folder) / "prometheus", history=workload(services, end_s)) as url,
    ):
        collector = PrometheusCollector(PrometheusConfig(url=url))
        with Client(collector.config) as client:
            entries = collector.with_data(client.metric_names(collector.metric_names(), start_s, end_s))
        queries = [collector.promql(entry, WINDOW_S) for entry in entries if not entry.at_once]
        found = collector.collect(start_s * SECOND_NS, end_s * SECOND_NS)
        if found.gaps:
            raise AssertionError(f"gaps: {found.gaps}")
        taken = seconds_taken(lambda: collector.collect(start_s * SECOND_NS, end_s * SECOND_NS), repeat)
        last_s = end_s - STEP_S
        peer = seconds_taken(lambda: _raw(url, queries, start_s, last_s, collector.config.concurrency), repeat)
    samples = found.metrics.height + found.calls.height
    told = f"{services} services, 75 min every {STEP_S} s, {len(queries)} range queries, {samples:,} samples, a real Prometheus"
    figures = [seconds * 1e3 for seconds in taken]
    raw = statistics.median(peer) * 1e3
    peer_name = "the same range queries alone, answers not read"
    spread = (statistics.median(figures), max(figures), min(figures))
    return [Result("collect from Prometheus", told, "ms", *spread, None, peer_name, raw)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--services", type=int, default=50)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    installed = shutil.which("prometheus") and shutil.which("promtool")
    results = measure(options.services, options.repeat) if installed else []
    print(json.dumps([asdict(result) for result in results]))


if __name__ == "__main__":
    main()
