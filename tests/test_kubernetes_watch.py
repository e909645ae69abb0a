"""Following a cluster while it changes and while its API fails: nothing twice, nothing lost, nothing secret."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from rca.collectors.kubernetes.changes import REASONS, change
from rca.collectors.kubernetes.collector import KubernetesCollector
from rca.collectors.kubernetes.config import KubernetesConfig
from rca.collectors.kubernetes.watching import Backoff, Told, Watching
from rca.errors import BadInput, StorageFull
from rca.telemetry import EntityId, Telemetry
from tests.servers import kubernetes_objects as k8s
from tests.servers.kubernetes_api import KubernetesApi, stamp
from tests.servers.kubernetes_objects import MINUTE

QUICK = Backoff(0.05, 0.2)
PATIENCE_SECONDS = 10.0


class Notebook:
    """Keeps what a watch hands on, and can refuse it."""

    def __init__(self) -> None:
        self.parts: list[Telemetry] = []
        self.refuse = 0
        self._lock = threading.Lock()

    def take(self, telemetry: Telemetry) -> None:
        with self._lock:
            if self.refuse > 0:
                self.refuse -= 1
                raise StorageFull("no space left")
            self.parts.append(telemetry)

    @property
    def events(self) -> pl.DataFrame:
        with self._lock:
            return pl.concat([Telemetry().events, *(part.events for part in self.parts)])

    @property
    def topology(self) -> pl.DataFrame:
        with self._lock:
            return pl.concat([Telemetry().topology, *(part.topology for part in self.parts)])

    @property
    def gaps(self) -> list[str]:
        with self._lock:
            return [gap.reason for part in self.parts for gap in part.gaps]

    def messages(self, reason: str) -> list[str]:
        return self.events.filter(pl.col("reason") == reason)["message"].to_list()


def eventually(what: Callable[[], Any]) -> Any:
    """What a function returns once it is true. Fails after a while."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := what()):
        assert time.monotonic() < deadline, f"not within {PATIENCE_SECONDS:g} s: {what}"
        time.sleep(0.02)
    return found


@pytest.fixture
def notebook() -> Notebook:
    return Notebook()


@pytest.fixture
def collector(kubernetes_api: KubernetesApi, tmp_path: Path) -> KubernetesCollector:
    path = kubernetes_api.kubeconfig(tmp_path)
    return KubernetesCollector(KubernetesConfig(kubeconfig=path, retries=0, secrets=True))


@pytest.fixture
def shop(kubernetes_api: KubernetesApi) -> dict[str, Any]:
    """A Deployment, its revision, its pod, their node and settings, all older than what is told at the start."""
    old = time.time_ns() - 300 * MINUTE
    pods = k8s.template("checkout", "shop/checkout:1.2", config_map="checkout-config", secret="checkout-key")
    deployment = kubernetes_api.add("deployments", k8s.deployment("checkout", pods, created_ns=old))
    replica_set = kubernetes_api.add("replicasets", k8s.replica_set(deployment, "66b8f7d5c", 1, pods, created_ns=old))
    owner = k8s.owned_by(replica_set, "ReplicaSet")
    settings = {
        name: kubernetes_api.add(name, {"metadata": k8s.meta(title, created_ns=old), "data": {"password": "hunter2"}})
        for name, title in (("configmaps", "checkout-config"), ("secrets", "checkout-key"))
    }
    return {
        "template": pods,
        "deployment": deployment,
        "replica_set": replica_set,
        "pod": kubernetes_api.add("pods", k8s.pod("checkout-66b8f7d5c-x2v4q", pods, owner=owner, created_ns=old)),
        "node": kubernetes_api.add("nodes", k8s.node("node-a", created_ns=old)),
        **settings,
    }


@pytest.fixture
def watching(collector: KubernetesCollector, shop: dict[str, Any], notebook: Notebook) -> Generator[Watching, None, None]:
    with collector.watch(notebook.take, backoff=QUICK) as running:
        eventually(running.in_sight)
        eventually(lambda: notebook.topology.height == 2)
        yield running


def told(notebook: Notebook) -> list[tuple[str, str, str]]:
    return list(notebook.events.select("entity", "reason", "severity").iter_rows())


def follower(watching: Watching, name: str) -> Any:
    return next(one for one in watching.followers if one.feed[0].name == name and one.feed[0].group != "events.k8s.io")


# --- what changes -------------------------------------------------------------------------------------------------------


def test_changes_as_they_happen(
    kubernetes_api: KubernetesApi, watching: Watching, shop: dict[str, Any], notebook: Notebook
) -> None:
    now = time.time_ns()
    pod, node, deployment = shop["pod"], shop["node"], shop["deployment"]
    kubernetes_api.modify("pods", {**pod, "status": k8s.ended("OOMKilled", 137, now - MINUTE)})
    pressure = [k8s.condition("DiskPressure", "True", now - MINUTE, "KubeletHasDiskPressure", "kubelet has disk pressure")]
    kubernetes_api.modify("nodes", {**node, "status": {"conditions": pressure}})
    kubernetes_api.modify("deployments", {**deployment, "spec": {**deployment["spec"], "replicas": 5}})
    kubernetes_api.add("events", k8s.event(pod, "Pod", "Unhealthy", "Readiness probe failed", now, severity="Warning"))
    for name in ("configmaps", "secrets"):
        written = {**shop[name]["metadata"], "managedFields": k8s.edited(now)}
        kubernetes_api.modify(name, {**shop[name], "metadata": written, "data": {"password": "correct horse"}})
    eventually(lambda: notebook.events.height >= 6)
    assert sorted(told(notebook)) == [
        ("checkout", "ConfigMapChanged", "Normal"),
        ("checkout", "Scaled", "Normal"),
        ("checkout", "SecretChanged", "Normal"),
        ("checkout-66b8f7d5c-x2v4q", "OOMKilled", "Warning"),
        ("checkout-66b8f7d5c-x2v4q", "Unhealthy", "Warning"),
        ("node-a", "NodeDiskPressure", "Warning"),
    ]
    assert notebook.messages("Scaled") == ["Deployment checkout: 1 -> 5 replicas"]
    assert notebook.messages("SecretChanged") == ["Secret checkout-key was written by kubectl"]
    assert "horse" not in str(notebook.events.to_dicts())


def test_config_map_whose_writer_is_not_recorded(
    kubernetes_api: KubernetesApi, watching: Watching, shop: dict[str, Any], notebook: Notebook
) -> None:
    kubernetes_api.modify("configmaps", shop["configmaps"])
    assert eventually(lambda: notebook.messages("ConfigMapChanged")) == ["ConfigMap checkout-config was written"]


def test_rollout(kubernetes_api: KubernetesApi, watching: Watching, shop: dict[str, Any], notebook: Notebook) -> None:
    now = time.time_ns()
    newer = k8s.template("checkout", "shop/checkout:1.3", config_map="checkout-config", secret="checkout-key")
    kubernetes_api.modify("deployments", {**shop["deployment"], "spec": {**shop["deployment"]["spec"], "template": newer}})
    replica_set = kubernetes_api.add("replicasets", k8s.replica_set(shop["deployment"], "7c9d", 2, newer))
    owner = k8s.owned_by(replica_set, "ReplicaSet")
    pod = kubernetes_api.add("pods", k8s.pod("checkout-7c9d-aaaaa", newer, owner=owner, node="node-b"))
    replica_set["spec"]["replicas"] = 3
    kubernetes_api.modify("replicasets", replica_set)  # the same revision, seen again
    kubernetes_api.delete("pods", shop["pod"])
    done = k8s.condition("Progressing", "True", now, "NewReplicaSetAvailable", updated_ns=now)
    kubernetes_api.modify("deployments", {**shop["deployment"], "status": {"conditions": [done]}})
    kubernetes_api.modify("pods", pod)
    eventually(lambda: {"RolloutFinished", "PodDeleted", "ImageChanged"} <= set(notebook.events["reason"]))
    assert sorted(told(notebook)) == [
        ("checkout", "ImageChanged", "Normal"),
        ("checkout", "RolloutFinished", "Normal"),
        ("checkout", "RolloutStarted", "Normal"),
        ("checkout-66b8f7d5c-x2v4q", "PodDeleted", "Normal"),
        ("checkout-7c9d-aaaaa", "PodCreated", "Normal"),
    ]
    assert ("service", "checkout", "runs", "pod", "checkout-7c9d-aaaaa") in set(notebook.topology.iter_rows())
    assert notebook.topology.is_unique().all()


def test_pod_that_is_evicted_and_one_that_stops_being_ready(
    kubernetes_api: KubernetesApi, watching: Watching, shop: dict[str, Any], notebook: Notebook
) -> None:
    now = time.time_ns()
    pod = shop["pod"]
    for ready, at_ns in (("True", now - 9 * MINUTE), ("False", now - MINUTE)):
        kubernetes_api.modify("pods", {**pod, "status": {"conditions": [k8s.condition("Ready", ready, at_ns)]}})
    kubernetes_api.modify("pods", {**pod, "status": {"phase": "Failed", "reason": "Evicted", "message": "low on memory"}})
    eventually(lambda: notebook.events.height >= 2)
    assert [reason for _, reason, _ in told(notebook)] == ["PodNotReady", "Evicted"]


def test_deletion_is_told_once(
    kubernetes_api: KubernetesApi, watching: Watching, shop: dict[str, Any], notebook: Notebook
) -> None:
    """The request, half a minute of grace, and the end are one fact, dated by the request."""
    now = time.time_ns()
    going = {**shop["pod"]["metadata"], "deletionTimestamp": stamp(now + MINUTE // 2), "deletionGracePeriodSeconds": 30}
    kubernetes_api.modify("pods", {**shop["pod"], "metadata": going})
    kubernetes_api.delete("pods", {**shop["pod"], "metadata": going})
    eventually(lambda: not watching.cluster.relations())
    eventually(lambda: told(notebook))
    time.sleep(0.2)
    assert told(notebook) == [("checkout-66b8f7d5c-x2v4q", "PodDeleted", "Normal")]
    assert abs(notebook.events["time_unix_nano"][0] - now) < 2 * 10**9


def test_workloads_and_nodes_that_leave(
    kubernetes_api: KubernetesApi, watching: Watching, shop: dict[str, Any], notebook: Notebook
) -> None:
    kubernetes_api.delete("deployments", shop["deployment"])
    kubernetes_api.delete("nodes", shop["node"])
    eventually(lambda: notebook.events.height >= 2)
    assert sorted(told(notebook)) == [("checkout", "WorkloadDeleted", "Normal"), ("node-a", "NodeRemoved", "Warning")]


def test_node_that_is_cordoned(
    kubernetes_api: KubernetesApi, watching: Watching, shop: dict[str, Any], notebook: Notebook
) -> None:
    written = {**shop["node"]["metadata"], "managedFields": k8s.edited(time.time_ns())}
    kubernetes_api.modify("nodes", {**shop["node"], "metadata": written, "spec": {"unschedulable": True}})
    assert eventually(lambda: notebook.messages("NodeCordoned")) == ["node node-a: no longer takes new pods"]


def test_pod_name_that_is_used_again(
    kubernetes_api: KubernetesApi, watching: Watching, shop: dict[str, Any], notebook: Notebook
) -> None:
    """Two pods of one name, one after the other: two lives, and late events about the first are not the second's."""
    first = kubernetes_api.add("pods", k8s.pod("worker-1", k8s.template("orders", "x"), created_ns=time.time_ns() - MINUTE))
    kubernetes_api.delete("pods", first)
    kubernetes_api.add("pods", k8s.pod("worker-1", k8s.template("cart", "shop/cart:1"), node="node-b"))
    eventually(lambda: len(notebook.messages("PodCreated")) == 2)
    kubernetes_api.add("events", k8s.event(first, "Pod", "Killing", "Stopping container app", time.time_ns()))
    eventually(lambda: notebook.messages("Killing"))
    killed = notebook.events.filter(pl.col("reason") == "Killing")["entity"].to_list()
    assert killed == [f"worker-1~{first['metadata']['uid'][:8]}"]
    runs = notebook.topology.filter(pl.col("target") == "worker-1")["source"].to_list()
    assert sorted(runs) == ["cart", "orders"]


def test_series_of_an_event(kubernetes_api: KubernetesApi, watching: Watching, shop: dict[str, Any], notebook: Notebook) -> None:
    """One event that happens again and again is told every time, by both groups together once."""
    now = time.time_ns() // 10**9 * 10**9
    body = kubernetes_api.add("events", k8s.event(shop["pod"], "Pod", "BackOff", "Back-off", now - 3 * MINUTE))
    for count, at_ns in ((2, now - 2 * MINUTE), (3, now - MINUTE)):
        kubernetes_api.modify("events", {**body, "count": count, "lastTimestamp": stamp(at_ns)})
    kubernetes_api.delete("events", body)
    eventually(lambda: len(notebook.messages("BackOff")) >= 3)
    time.sleep(0.2)
    assert notebook.events["time_unix_nano"].sort().to_list() == [now - minutes * MINUTE for minutes in (3, 2, 1)]


# --- what fails ---------------------------------------------------------------------------------------------------------


def unhealthy(api: KubernetesApi, pod: dict[str, Any], words: str) -> None:
    api.add("events", k8s.event(pod, "Pod", "Unhealthy", words, time.time_ns(), severity="Warning"))


@pytest.mark.parametrize("in_stream", [False, True], ids=["status", "in the stream"])
def test_history_that_is_gone(
    kubernetes_api: KubernetesApi, watching: Watching, shop: dict[str, Any], notebook: Notebook, in_stream: bool
) -> None:
    """After 410 everything is listed again: what happened meanwhile is told, what was told is not, what vanished is missed."""
    unhealthy(kubernetes_api, shop["pod"], "before")
    eventually(lambda: notebook.messages("Unhealthy"))
    kubernetes_api.faults.gone_in_stream = in_stream
    kubernetes_api.faults.status = {"*": 500}  # nobody gets in while this happens
    kubernetes_api.break_streams()
    eventually(lambda: not watching.in_sight())
    unhealthy(kubernetes_api, shop["pod"], "meanwhile")
    kubernetes_api.delete("pods", shop["pod"])
    newer = k8s.template("checkout", "shop/checkout:1.3", config_map="checkout-config", secret="checkout-key")
    kubernetes_api.add("replicasets", k8s.replica_set(shop["deployment"], "7c9d", 2, newer))
    kubernetes_api.compact()
    lists = [one.lists for one in watching.followers]
    kubernetes_api.faults.status = {}
    eventually(lambda: [one.lists for one in watching.followers] == [count + 1 for count in lists])
    eventually(watching.in_sight)
    unhealthy(kubernetes_api, shop["pod"], "after")
    eventually(lambda: "after" in notebook.messages("Unhealthy"))
    time.sleep(0.2)
    assert sorted(notebook.messages("Unhealthy")) == ["after", "before", "meanwhile"]
    assert notebook.messages("PodDeleted") == ["pod checkout-66b8f7d5c-x2v4q went away while it was out of sight"]
    assert len(notebook.messages("ImageChanged")) == 1
    assert notebook.events.is_unique().all()


@pytest.mark.parametrize(
    "rest",
    [b"", b'{"type": "ADDED", "object": {"metadata": {"na', b"<html>\n", b'{"type": 7}\n', b'{"type": "ADDED", "object": 7}\n'],
    ids=["closed", "mid-object", "garbage", "no event", "no object"],
)
def test_streams_that_die(
    kubernetes_api: KubernetesApi, watching: Watching, shop: dict[str, Any], notebook: Notebook, rest: bytes
) -> None:
    """The watch goes on where it was: nothing is listed again, lost, or told twice."""
    unhealthy(kubernetes_api, shop["pod"], "before")
    eventually(lambda: notebook.messages("Unhealthy"))
    streams = [one.streams for one in watching.followers]
    kubernetes_api.break_streams(rest)
    unhealthy(kubernetes_api, shop["pod"], "after")
    eventually(lambda: all(one.streams > before for one, before in zip(watching.followers, streams, strict=True)))
    eventually(lambda: len(notebook.messages("Unhealthy")) >= 2)
    assert sorted(notebook.messages("Unhealthy")) == ["after", "before"]
    assert [one.lists for one in watching.followers] == [1] * len(watching.followers)


def test_bookmarks_move_the_version_on(kubernetes_api: KubernetesApi, watching: Watching, shop: dict[str, Any]) -> None:
    """A resource in which nothing happens survives the loss of history."""
    nodes = follower(watching, "nodes")
    before = nodes.version
    kubernetes_api.compact()
    kubernetes_api.bookmark("nodes")
    eventually(lambda: nodes.version != before)
    kubernetes_api.break_streams()
    eventually(lambda: nodes.streams > 1)
    assert nodes.lists == 1
    eventually(lambda: follower(watching, "jobs").lists == 2)


def test_token_that_is_renewed(
    kubernetes_api: KubernetesApi, watching: Watching, shop: dict[str, Any], notebook: Notebook, tmp_path: Path
) -> None:
    kubernetes_api.tokens = {"renewed"}
    kubernetes_api.break_streams()
    eventually(lambda: "401" in follower(watching, "pods").problem)
    unhealthy(kubernetes_api, shop["pod"], "meanwhile")
    kubernetes_api.kubeconfig(tmp_path, token="renewed")
    eventually(watching.in_sight)
    assert eventually(lambda: notebook.messages("Unhealthy")) == ["meanwhile"]


def test_one_resource_that_is_refused(
    kubernetes_api: KubernetesApi, collector: KubernetesCollector, shop: dict[str, Any], notebook: Notebook
) -> None:
    """The others go on; it is tried again at long intervals, and says which rule is missing."""
    kubernetes_api.faults.forbidden = {("", "nodes")}
    with collector.watch(notebook.take, backoff=QUICK) as running:
        eventually(lambda: sum(one.lost_ns is None for one in running.followers) == len(running.followers) - 1)
        assert 'add the rule {apiGroups: [""], resources: ["nodes"]' in follower(running, "nodes").problem
        unhealthy(kubernetes_api, shop["pod"], "still seen")
        eventually(lambda: notebook.messages("Unhealthy"))
        kubernetes_api.faults.forbidden = set()
        eventually(running.in_sight)


def test_outage_that_lasts_is_a_gap(
    kubernetes_api: KubernetesApi, shop: dict[str, Any], notebook: Notebook, tmp_path: Path
) -> None:
    """Time is the test's own: five minutes without an answer are told while they last, and once more at their end."""
    ahead = 0
    config = KubernetesConfig(kubeconfig=kubernetes_api.kubeconfig(tmp_path), retries=0)
    collector = KubernetesCollector(config, now_ns=lambda: time.time_ns() + ahead)
    lines: list[str] = []
    with collector.watch(notebook.take, told=lines.append, backoff=QUICK) as running:
        eventually(running.in_sight)
        kubernetes_api.faults.status = {"*": 503}
        kubernetes_api.break_streams()
        eventually(lambda: all(one.problem for one in running.followers))
        ahead = 2 * MINUTE
        eventually(lambda: len(notebook.gaps) >= len(running.followers))
        assert all("HTTP 503" in reason for reason in notebook.gaps)
        ahead = 4 * MINUTE
        kubernetes_api.faults.status = {}
        eventually(lambda: running.in_sight() and len(notebook.gaps) >= 2 * len(running.followers))
    spans = [
        gap.interval for part in notebook.parts for gap in part.gaps if "list pods" in gap.reason or "watch pods" in gap.reason
    ]
    assert len(spans) == 2
    assert spans[0] is not None
    assert spans[1] is not None
    assert spans[0].end_ns == spans[1].start_ns
    assert 235 < spans[0].seconds + spans[1].seconds < 260


def test_what_is_refused_is_handed_on_again(
    kubernetes_api: KubernetesApi, watching: Watching, shop: dict[str, Any], notebook: Notebook
) -> None:
    notebook.refuse = 3
    for words in ("one", "two", "three"):
        unhealthy(kubernetes_api, shop["pod"], words)
        time.sleep(0.05)
    eventually(lambda: len(notebook.messages("Unhealthy")) >= 3)
    assert sorted(notebook.messages("Unhealthy")) == ["one", "three", "two"]
    assert notebook.refuse == 0


def test_mistake_of_ours_ends_it_and_is_raised(
    kubernetes_api: KubernetesApi, collector: KubernetesCollector, shop: dict[str, Any]
) -> None:
    def broken(telemetry: Telemetry) -> None:
        raise ZeroDivisionError

    lines: list[str] = []
    running = collector.watch(broken, told=lines.append, backoff=QUICK)
    eventually(lambda: lines)
    assert lines == ["kubernetes: the cluster is no longer followed: ZeroDivisionError()"]
    with pytest.raises(ZeroDivisionError):
        running.stop()


def test_restart_tells_nothing_twice(
    kubernetes_api: KubernetesApi, collector: KubernetesCollector, shop: dict[str, Any], notebook: Notebook
) -> None:
    unhealthy(kubernetes_api, shop["pod"], "before")
    kubernetes_api.modify("pods", {**shop["pod"], "status": k8s.ended("Error", 1, time.time_ns() - MINUTE)})
    with collector.watch(notebook.take, backoff=QUICK) as running:
        eventually(running.in_sight)
        eventually(lambda: notebook.events.height >= 2)
    unhealthy(kubernetes_api, shop["pod"], "meanwhile")
    again = Notebook()
    with collector.watch(again.take, kept=notebook.events, backoff=QUICK) as running:
        eventually(running.in_sight)
        eventually(lambda: again.events.height)
        time.sleep(0.2)
    assert again.messages("Unhealthy") == ["meanwhile"]
    assert again.events.height == 1


def test_a_cluster_that_is_not_configured_is_said_at_once(tmp_path: Path) -> None:
    collector = KubernetesCollector(KubernetesConfig(kubeconfig=tmp_path / "absent"))
    with pytest.raises(BadInput, match="absent: expected access to a cluster"):
        collector.watch(lambda telemetry: None)


def test_starts_before_the_cluster_answers(
    kubernetes_api: KubernetesApi, collector: KubernetesCollector, shop: dict[str, Any], notebook: Notebook
) -> None:
    kubernetes_api.faults.status = {"*": 503}
    with collector.watch(notebook.take, backoff=QUICK) as running:
        eventually(lambda: all(one.problem for one in running.followers))
        assert not running.in_sight()
        kubernetes_api.faults.status = {}
        eventually(running.in_sight)
        eventually(lambda: notebook.topology.height == 2)


def test_stops_at_once(kubernetes_api: KubernetesApi, collector: KubernetesCollector, shop: dict[str, Any]) -> None:
    """Idle streams are cut, not waited for."""
    running = collector.watch(lambda telemetry: None, backoff=QUICK)
    eventually(running.in_sight)
    began = time.monotonic()
    running.stop()
    assert time.monotonic() - began < 2.0
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("kubernetes ")]


def test_namespaces_are_followed_apart(kubernetes_api: KubernetesApi, notebook: Notebook, tmp_path: Path) -> None:
    """A list of one namespace says nothing about the pods of another."""
    old = time.time_ns() - 300 * MINUTE
    pods = {
        name: kubernetes_api.add("pods", k8s.pod(f"web-{name}", k8s.template(name, "x"), namespace=name, created_ns=old))
        for name in ("shop", "bank", "other")
    }
    config = KubernetesConfig(kubeconfig=kubernetes_api.kubeconfig(tmp_path), namespaces=("shop", "bank"), nodes=False)
    with KubernetesCollector(config).watch(notebook.take, backoff=QUICK) as running:
        eventually(running.in_sight)
        kubernetes_api.compact()
        kubernetes_api.delete("pods", pods["bank"])
        kubernetes_api.break_streams()
        eventually(lambda: notebook.messages("PodDeleted"))
    assert [message.split()[1] for message in notebook.messages("PodDeleted")] == ["web-bank"]
    assert set(notebook.topology.filter(pl.col("relation") == "runs")["source"]) == {"shop", "bank"}
    assert {asked.namespace for asked in kubernetes_api.asked} == {"shop", "bank"}


def test_memory_of_what_was_told_is_bounded() -> None:
    memory = Told(floor_ns=0)
    pod = EntityId("pod", "web-1", "shop")
    told_changes = [change(at_ns, pod, "PodCreated", "", str(at_ns)) for at_ns in range(1, 300_001)]
    assert len(memory.news(told_changes)) == 300_000
    assert len(memory.news(told_changes[-1000:])) == 0
    memory.forget(299_000)
    assert len(memory._keys) == 1001
    assert memory.news(told_changes[:10]) == []


def test_every_reason_is_documented() -> None:
    page = (Path(__file__).parents[1] / "docs" / "kubernetes.md").read_text()
    assert [reason for reason in REASONS if f"`{reason}`" not in page] == []
