"""`rca collect` beside a cluster: events outlive the hour for which Kubernetes keeps them, and a restart keeps nothing twice."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from rca.collectors.collecting import Collection
from rca.collectors.config import Config
from rca.collectors.warm.store import Store
from rca.telemetry import Telemetry
from tests.servers import kubernetes_objects as k8s
from tests.servers.kubernetes_api import KubernetesApi
from tests.servers.kubernetes_objects import MINUTE

LISTENING = {"grpc_address": "127.0.0.1:0", "http_address": "127.0.0.1:0"}


def collected(config: Config, folder: Path, enough: Callable[[Telemetry], bool]) -> Telemetry:
    """What the store holds after a run of the collector that ended once it had enough."""
    store = Store(folder)
    start_ns = time.time_ns() - 60 * MINUTE
    deadline = time.monotonic() + 15
    with Collection(config, store) as collection:
        while not enough(store.read(start_ns, time.time_ns() + MINUTE)):
            assert time.monotonic() < deadline
            collection._flush()
            time.sleep(0.05)
        collection.finish()
    return store.read(start_ns, time.time_ns() + MINUTE)


def test_events_are_kept(kubernetes_api: KubernetesApi, tmp_path: Path) -> None:
    now = time.time_ns()
    pod = kubernetes_api.add("pods", k8s.pod("web-1", k8s.template("web", "x"), created_ns=now - 300 * MINUTE))
    event = kubernetes_api.add("events", k8s.event(pod, "Pod", "Unhealthy", "first", now - 5 * MINUTE, severity="Warning"))
    path = kubernetes_api.kubeconfig(tmp_path)
    config = Config.model_validate({"otlp": LISTENING, "kubernetes": {"kubeconfig": path}})
    store = tmp_path / "store"
    first = collected(config, store, lambda telemetry: telemetry.events.height > 0 and telemetry.topology.height > 0)
    assert first.events["message"].to_list() == ["first"]
    kubernetes_api.add("events", k8s.event(pod, "Pod", "Unhealthy", "second", now - 4 * MINUTE, severity="Warning"))
    again = collected(config, store, lambda telemetry: telemetry.events.height > 1)
    assert again.events["message"].to_list() == ["first", "second"]
    kubernetes_api.delete("events", event)  # its hour is over
    kept = collected(config, store, lambda telemetry: True)
    assert kept.events["message"].to_list() == ["first", "second"]
    assert set(kept.topology.iter_rows()) == {
        ("service", "web", "runs", "pod", "web-1"),
        ("pod", "web-1", "hosted_on", "node", "node-a"),
    }
