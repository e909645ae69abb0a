"""Three services with the real OpenTelemetry SDK, a real Prometheus, a Kubernetes API on loopback, `rca` as its users run it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl
import pytest

from rca.incidents.bundle import read_bundle
from rca.pipeline import case_of
from rca.telemetry import EntityId
from tests.servers import kubernetes_objects as k8s
from tests.servers.kubernetes_api import KubernetesApi
from tests.servers.kubernetes_objects import MINUTE
from tests.servers.prometheus import binary, free_port, prometheus

ROOT: Final = Path(__file__).parents[1]
SERVICES: Final = {"frontend": ("checkout",), "checkout": ("payment",), "payment": ()}
QUIET_S, PROBE_S, SLOW_S, LAG_S = 55, 15, 30, 6
SIGNALS: Final = ("self_time", "metric_server_latency", "warnings")  # of traces, metrics and events

CONFIG: Final = """
[triage]
system = "tiny"
lag = "{lag}s"

[otlp]
grpc_address = "127.0.0.1:{grpc}"
http_address = "127.0.0.1:{http}"

[store]
folder = "{folder}"
flush_interval = "1s"

[stream]
join_wait = "2s"

[prometheus]
url = "{prometheus}"
scrape_interval = "1s"
rate_window = "10s"
step = "5s"

[kubernetes]
kubeconfig = "{kubeconfig}"
"""


RULES: Final = """
groups:
- name: shop
  rules:
  - alert: FrontendSlow
    expr: |
      histogram_quantile(0.5, sum by (le) (rate(http_server_request_duration_seconds_bucket{job="frontend"}[10s]))) > 0.1
    labels: {service: frontend, severity: page}
    annotations: {summary: half of the requests take longer than 100 ms}
"""


@dataclass(frozen=True)
class Live:
    """What runs, and how to ask about it."""

    config: Path
    ports: dict[str, int]
    api: KubernetesApi
    pods: dict[str, dict[str, Any]]

    def rca(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "rca", *arguments, "--config", str(self.config)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@contextmanager
def running(log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python module as a process of its own, ended as its users would end it."""
    with log.open("wb") as out:
        command = [sys.executable, "-m", *arguments]
        with subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT) as process:
            try:
                yield process
            finally:
                process.terminate()


def reachable(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until somebody listens on a port."""
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        else:
            return


@contextmanager
def load(url: str) -> Iterator[None]:
    """About ten requests a second."""
    stop = threading.Event()

    def request() -> None:
        while not stop.wait(0.1):
            reachable(url)

    thread = threading.Thread(target=request, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(20)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """The system after a quiet minute and a while in which payment is slow."""
    binary("prometheus")
    folder = tmp_path_factory.mktemp("live")
    ports = {name: free_port() for name in (*SERVICES, *(f"{name}-metrics" for name in SERVICES), "grpc", "http")}
    with ExitStack() as stack:
        api = stack.enter_context(KubernetesApi())
        pods = {name: deploy(api, name) for name in SERVICES}
        targets = {name: f"127.0.0.1:{ports[f'{name}-metrics']}" for name in SERVICES}
        url = stack.enter_context(prometheus(folder / "prometheus", targets=targets, rules=RULES))
        config = folder / "rca.toml"
        (folder / "kube").mkdir()
        config.write_text(
            CONFIG.format(
                lag=LAG_S,
                grpc=ports["grpc"],
                http=ports["http"],
                folder=folder / "telemetry",
                prometheus=url,
                kubeconfig=api.kubeconfig(folder / "kube"),
            )
        )
        log = folder / "collect.log"
        wait_for(ports["grpc"], stack.enter_context(running(log, "rca", "collect", "--config", str(config))), log)
        for name, callees in SERVICES.items():
            log = folder / f"{name}.log"
            own = (name, str(ports[name]), str(ports[f"{name}-metrics"]), f"127.0.0.1:{ports['grpc']}")
            urls = [f"http://127.0.0.1:{ports[callee]}/work" for callee in callees]
            process = stack.enter_context(running(log, "tests.servers.service", *own, *urls))
            wait_for(ports[name], process, log)
        stack.enter_context(load(f"http://127.0.0.1:{ports['frontend']}/work"))
        time.sleep(QUIET_S)
        slow = Live(config, ports, api, pods)
        break_payment(slow)
        time.sleep(SLOW_S + LAG_S)
        yield slow


def deploy(api: KubernetesApi, name: str) -> dict[str, Any]:
    """A deployment that is not called what traces call the service, with its pod."""
    old = time.time_ns() - 300 * MINUTE
    pods = k8s.template(f"{name}-app", f"shop/{name}:1.2")
    deployment = api.add("deployments", k8s.deployment(f"{name}-app", pods, created_ns=old))
    replica_set = api.add("replicasets", k8s.replica_set(deployment, "5d8f7", 1, pods, created_ns=old))
    owner = k8s.owned_by(replica_set, "ReplicaSet")
    return api.add("pods", k8s.pod(f"{name}-5d8f7-x2x", pods, owner=owner, created_ns=old))


def break_payment(live: Live) -> None:
    """Payment takes 150 ms longer, and the kubelet notices after a while."""
    slower = urllib.request.Request(f"http://127.0.0.1:{live.ports['payment']}/delay", data=b"150", method="POST")
    with urllib.request.urlopen(slower, timeout=5):
        pass
    text = "Readiness probe failed: context deadline exceeded"
    live.api.add(
        "events", k8s.event(live.pods["payment"], "Pod", "Unhealthy", text, time.time_ns() + 2 * 10**9, severity="Warning")
    )


def test_the_slow_service_is_first_from_traces_metrics_and_events(live: Live, tmp_path: Path) -> None:
    done = live.rca("triage", "--last", "5m", "--json", "--save", str(tmp_path / "kept"))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    first = report["ranking"]["candidates"][0]
    assert first["entity"]["name"] == "payment", done.stdout
    incident, telemetry = read_bundle(tmp_path / "kept")
    assert {"frontend", "checkout", "payment"} <= set(telemetry.bin_counts["source"])
    assert {"frontend", "checkout", "payment"} <= set(telemetry.metrics["entity"])
    assert "payment-5d8f7-x2x" in set(telemetry.events["entity"])
    runs = telemetry.topology.filter(pl.col("relation") == "runs").select("source", "target").rows()
    assert ("payment", "payment-5d8f7-x2x") in runs  # payment-app, as Kubernetes calls it, is payment
    graph = case_of(incident, telemetry).graph
    loud = {signal: float(graph.column(f"{signal}.z")[graph.rows[EntityId("service", "payment")]]) for signal in SIGNALS}
    assert min(loud.values()) > 0.5, loud
    again = subprocess.run(
        [sys.executable, "-m", "rca", "triage", str(tmp_path / "kept"), "--json"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert json.loads(again.stdout)["ranking"] == report["ranking"]
    assert incident.system == "tiny"


@pytest.mark.parametrize("source", ["store", "prometheus", "kubernetes"])
def test_a_source_that_is_down_is_told_and_the_others_still_find_it(live: Live, source: str, tmp_path: Path) -> None:
    broken = {
        "store": ("folder = ", "folder = \"/nonexistent/telemetry\" #"),
        "prometheus": ("url = ", "url = \"http://127.0.0.1:9\" #"),
        "kubernetes": ("kubeconfig = ", "kubeconfig = \"/nonexistent/kubeconfig\" #"),
    }  # fmt: skip
    config = tmp_path / "rca.toml"
    config.write_text(live.config.read_text().replace(*broken[source]))
    done = Live(config, live.ports, live.api, live.pods).rca("triage", "--last", "5m", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["ranking"]["candidates"][0]["entity"]["name"] == "payment", done.stdout
    assert any(gap["source"] == source for gap in report["ranking"]["gaps"])


def test_an_alert_is_enough_to_ask_about(live: Live) -> None:
    done = live.rca("triage", "--alert", "FrontendSlow", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["ranking"]["candidates"][0]["entity"]["name"] == "payment", done.stdout
    assert report["incident"]["title"] == "FrontendSlow: half of the requests take longer than 100 ms"
    assert report["incident"]["alerting"][0]["name"] == "frontend"
    assert [entity["name"] for entity in report["path"]["entities"]] == ["frontend", "checkout", "payment"]
    assert report["path"]["noticed_by"] == "alert"
    unknown = live.rca("triage", "--alert", "FrontendSlo")
    assert unknown.returncode == 2
    assert "did you mean FrontendSlow?" in unknown.stderr


def test_watching_tells_what_changes_until_it_is_interrupted(live: Live) -> None:
    command = [sys.executable, "-m", "rca", "triage", "--last", "5m", "--watch", "--every", "2s", "--config", str(live.config)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as watcher:
        assert watcher.stdout is not None
        lines: list[str] = []
        for line in watcher.stdout:
            lines.append(line)
            if "UTC" not in line and line[:2].isdigit() and line[2:3] == ":":  # a line of the watch: HH:MM:SS and what changed
                watcher.send_signal(2)
                break
        rest = watcher.stdout.read()
        assert watcher.wait(20) == 0, rest
    assert any(line.startswith(("payment stands out", "payment is likely")) for line in lines), "".join(lines)


def test_doctor_finds_every_source_working(live: Live) -> None:
    done = live.rca("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    for source in ("prometheus", "kubernetes", "store"):
        assert source in done.stdout
