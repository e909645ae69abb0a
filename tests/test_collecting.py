"""The loop of a running collector, in this process: the cluster is followed, the clock is minded, a broken store is survived."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest
import requests

from rca.collectors import collecting
from rca.collectors.collecting import Collection
from rca.collectors.config import Config
from rca.collectors.kubernetes.config import KubernetesConfig
from rca.collectors.otlp.config import OtlpConfig
from rca.collectors.warm.config import StoreConfig
from rca.collectors.warm.live import LIVE
from rca.collectors.warm.state import read_state
from rca.collectors.warm.store import Store
from rca.errors import Unavailable
from rca.telemetry import SECOND_NS, Telemetry
from tests.servers import kubernetes_objects as k8s
from tests.servers.kubernetes_api import KubernetesApi
from tests.test_collect import waited

OTLP = OtlpConfig.model_validate({"grpc_address": "", "http_address": "127.0.0.1:0"})


@contextmanager
def collecting_into(store: Store, lines: list[str], **sources: KubernetesConfig) -> Iterator[Collection]:
    """A collection that runs in a thread until the block ends."""
    config = Config(otlp=OTLP, store=StoreConfig(flush_interval="200ms"), **sources)  # type: ignore[arg-type]
    stop = threading.Event()
    with Collection(config, store, told=lines.append) as collection:
        thread = threading.Thread(target=collection.run, args=(stop,))
        thread.start()
        try:
            yield collection
        finally:
            stop.set()
            thread.join()


def last_minutes(store: Store) -> Telemetry:
    now_ns = time.time_ns()
    try:
        return store.read(now_ns - 600 * SECOND_NS, now_ns + SECOND_NS)
    except Unavailable:
        return Telemetry()


def test_the_cluster_is_followed_and_events_are_stored_once(kubernetes_api: KubernetesApi, tmp_path: Path) -> None:
    pods = k8s.template("checkout", "shop/checkout:1.2")
    kubernetes_api.add("nodes", k8s.node("node-a"))
    pod = kubernetes_api.add("pods", k8s.pod("checkout-1", pods))
    store = Store(tmp_path / "telemetry")
    kubernetes = KubernetesConfig(kubeconfig=kubernetes_api.kubeconfig(tmp_path))
    for words in ("first", "second"):
        with collecting_into(store, [], kubernetes=kubernetes):
            kubernetes_api.add("events", k8s.event(pod, "Pod", "Unhealthy", words, time.time_ns(), severity="Warning"))
            waited(lambda words=words: words in set(last_minutes(store).events["message"]), words)  # type: ignore[misc]
    telemetry = last_minutes(store)
    unhealthy = telemetry.events.filter(pl.col("reason") == "Unhealthy")
    assert unhealthy["message"].to_list() == ["first", "second"]
    assert telemetry.events.is_unique().all()
    assert "checkout-1" in set(telemetry.topology["target"])
    assert [gap.reason for gap in telemetry.gaps if gap.source == "kubernetes"] == []


def test_a_machine_that_slept_has_a_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, lines = Store(tmp_path / "telemetry"), list[str]()
    true_time_ns, ahead = time.time_ns, [0]
    with collecting_into(store, lines):
        waited(lambda: (state := read_state(store.folder / LIVE)) and state.commit > 2, "commits of the loop")
        monkeypatch.setattr(collecting.time, "time_ns", lambda: true_time_ns() + ahead[0])
        ahead[0] = 300 * SECOND_NS
        waited(lambda: [line for line in lines if "jumped by 300 s" in line], "the jump")
    monkeypatch.undo()
    gap = next(
        gap for gap in store.read(true_time_ns() - 60 * SECOND_NS, true_time_ns() + 600 * SECOND_NS).gaps if "slept" in gap.reason
    )
    assert gap.interval is not None
    assert gap.interval.seconds == pytest.approx(300, abs=2)


def test_a_store_that_breaks_is_told_once_and_comes_back(tmp_path: Path) -> None:
    store, lines = Store(tmp_path / "telemetry"), list[str]()
    with collecting_into(store, lines) as collection:
        url = f"http://127.0.0.1:{collection.receiver.http_port}/healthz"
        assert requests.get(url, timeout=10).json()["status"] == "ok"
        live = store.folder / "live"
        waited((live / "state.json").exists, "the first commit")
        live.rename(tmp_path / "away")
        waited(lambda: [line for line in lines if "cannot store" in line], "the trouble")
        time.sleep(0.5)
        seen = collection.status()
        told = requests.get(url, timeout=10)
        assert (told.status_code, told.json()["status"], told.json()["trouble"]) == (200, "cannot store", seen.trouble)
        (tmp_path / "away").rename(live)
        waited(lambda: [line for line in lines if "storing again" in line], "the recovery")
    assert "expected a place that can be written" in seen.trouble
    assert len([line for line in lines if "cannot store" in line]) == 1
