"""What one look at a cluster tells: the official client against an API server on loopback."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from rca.collectors.findings import checked
from rca.collectors.gathering import gather
from rca.collectors.kubernetes.collector import KubernetesCollector
from rca.collectors.kubernetes.config import KubernetesConfig
from rca.errors import BadInput, Rejected, Unavailable
from rca.settings import duration_ns
from rca.telemetry import SECOND_NS, Interval, Telemetry
from rca.testing import check_collector
from tests.servers import kubernetes_objects as k8s
from tests.servers.certificates import self_signed
from tests.servers.kubernetes_api import TOKEN, KubernetesApi, stamp
from tests.servers.kubernetes_objects import MINUTE

NOW = time.time_ns() // 10**9 * 10**9
START = NOW - 30 * MINUTE


@pytest.fixture
def config(kubernetes_api: KubernetesApi, tmp_path: Path) -> KubernetesConfig:
    return KubernetesConfig(kubeconfig=kubernetes_api.kubeconfig(tmp_path), retries=0)


@pytest.fixture
def shop(kubernetes_api: KubernetesApi) -> dict[str, Any]:
    """One Deployment with a revision, a pod and its node, all old."""
    old = NOW - 300 * MINUTE
    pods = k8s.template("checkout", "shop/checkout:1.2", env={"LOG_LEVEL": "info"}, config_map="checkout-config")
    deployment = kubernetes_api.add("deployments", k8s.deployment("checkout", pods, created_ns=old))
    replica_set = kubernetes_api.add("replicasets", k8s.replica_set(deployment, "66b8f7d5c", 1, pods, created_ns=old))
    owner = k8s.owned_by(replica_set, "ReplicaSet")
    pod = kubernetes_api.add("pods", k8s.pod("checkout-66b8f7d5c-x2v4q", pods, owner=owner, created_ns=old))
    node = kubernetes_api.add("nodes", k8s.node("node-a", created_ns=old))
    return {"template": pods, "deployment": deployment, "replica_set": replica_set, "pod": pod, "node": node}


def collected(config: KubernetesConfig, start_ns: int = START, end_ns: int = NOW) -> Telemetry:
    return KubernetesCollector(config).collect(start_ns, end_ns)


def told(telemetry: Telemetry) -> list[tuple[str, str, str]]:
    """(entity, reason, severity) of every event, in order."""
    return list(telemetry.events.select("entity", "reason", "severity").iter_rows())


def message(telemetry: Telemetry, reason: str) -> str:
    return str(telemetry.events.filter(pl.col("reason") == reason)["message"][0])


def test_obeys_the_collectors_contract(kubernetes_api: KubernetesApi, config: KubernetesConfig, shop: dict[str, Any]) -> None:
    for minutes in (3, 20):
        at_ns = NOW - minutes * MINUTE
        kubernetes_api.add(
            "events", k8s.event(shop["pod"], "Pod", "Unhealthy", "Readiness probe failed", at_ns, severity="Warning")
        )
    telemetry = check_collector(KubernetesCollector(config), START, NOW)
    assert told(telemetry) == [("checkout-66b8f7d5c-x2v4q", "Unhealthy", "Warning")] * 2
    assert telemetry.gaps == ()


def test_places_pods(config: KubernetesConfig, shop: dict[str, Any]) -> None:
    pod = "checkout-66b8f7d5c-x2v4q"
    assert list(collected(config).topology.iter_rows()) == [
        ("pod", pod, "hosted_on", "node", "node-a"),
        ("service", "checkout", "runs", "pod", pod),
    ]


def test_event_of_both_groups_is_one(kubernetes_api: KubernetesApi, config: KubernetesConfig, shop: dict[str, Any]) -> None:
    kubernetes_api.add(
        "events", k8s.event(shop["pod"], "Pod", "BackOff", "Back-off restarting", NOW - MINUTE, severity="Warning")
    )
    assert told(collected(config)) == [("checkout-66b8f7d5c-x2v4q", "BackOff", "Warning")]
    assert {asked.group for asked in kubernetes_api.asked if asked.name == "events"} == {"", "events.k8s.io"}


@pytest.mark.parametrize("group", ["", "events.k8s.io"])
def test_either_event_group_is_enough(
    kubernetes_api: KubernetesApi, config: KubernetesConfig, shop: dict[str, Any], group: str
) -> None:
    kubernetes_api.faults.forbidden = {(group, "events")}
    at_ns = NOW - MINUTE
    body = k8s.event(shop["deployment"], "Deployment", "ScalingReplicaSet", "Scaled up", at_ns)
    kubernetes_api.add("events", body)
    telemetry = collected(config)
    assert told(telemetry) == [("checkout", "ScalingReplicaSet", "Normal")]
    assert telemetry.events["time_unix_nano"].to_list() == [at_ns]
    assert telemetry.gaps == ()


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({"firstTimestamp": None, "lastTimestamp": None, "eventTime": stamp(NOW - 5 * MINUTE, micro=True)}, [5]),
        ({"firstTimestamp": None, "lastTimestamp": None, "eventTime": None}, [2]),  # creationTimestamp is left
        ({"firstTimestamp": stamp(NOW - 9 * MINUTE), "count": 12}, [9, 2]),
        ({"lastTimestamp": None, "series": {"count": 3, "lastObservedTime": stamp(NOW - MINUTE, micro=True)}}, [2, 1]),
        ({"firstTimestamp": "0001-01-01T00:00:00Z", "lastTimestamp": "soon"}, [2]),
    ],
    ids=["eventTime", "none", "count", "series", "garbage"],
)
def test_any_timestamp_may_be_null(
    kubernetes_api: KubernetesApi, config: KubernetesConfig, shop: dict[str, Any], times: dict[str, Any], expected: list[int]
) -> None:
    body = k8s.event(shop["pod"], "Pod", "Unhealthy", "Liveness probe failed", NOW - 2 * MINUTE, severity="Warning", **times)
    kubernetes_api.add("events", body)
    telemetry = collected(config)
    assert telemetry.events["time_unix_nano"].to_list() == [NOW - minutes * MINUTE for minutes in expected]


def test_event_without_any_time_is_counted(kubernetes_api: KubernetesApi, config: KubernetesConfig, shop: dict[str, Any]) -> None:
    body = k8s.event(shop["pod"], "Pod", "Unhealthy", "", NOW, firstTimestamp=None, lastTimestamp=None)
    body["metadata"]["creationTimestamp"] = "never"
    kubernetes_api.add("events", body)
    telemetry = collected(config)
    assert telemetry.events.is_empty()
    assert "1 events have no time" in str(telemetry.gaps)


def test_rollout_with_another_image(kubernetes_api: KubernetesApi, config: KubernetesConfig, shop: dict[str, Any]) -> None:
    newer = k8s.template(
        "checkout", "shop/checkout:1.3", env={"LOG_LEVEL": "hunter2", "RETRIES": "9"}, config_map="checkout-config"
    )
    newer["spec"]["containers"][0]["resources"] = {"limits": {"memory": "64Mi"}}
    kubernetes_api.add("replicasets", k8s.replica_set(shop["deployment"], "7c9d", 2, newer, created_ns=NOW - 8 * MINUTE))
    done = k8s.condition("Progressing", "True", NOW - 200 * MINUTE, "NewReplicaSetAvailable", updated_ns=NOW - 6 * MINUTE)
    kubernetes_api.modify("deployments", {**shop["deployment"], "status": {"conditions": [done]}})
    telemetry = collected(config)
    assert told(telemetry) == [
        ("checkout", "ConfigurationChanged", "Normal"),
        ("checkout", "ImageChanged", "Normal"),
        ("checkout", "RolloutStarted", "Normal"),
        ("checkout", "RolloutFinished", "Normal"),
    ]
    assert telemetry.events["time_unix_nano"].to_list() == [NOW - 8 * MINUTE] * 3 + [NOW - 6 * MINUTE]
    assert message(telemetry, "ImageChanged") == "Deployment checkout: image shop/checkout:1.2 -> shop/checkout:1.3"
    changed = "Deployment checkout: env LOG_LEVEL, env RETRIES, limits memory 256Mi -> 64Mi"
    assert message(telemetry, "ConfigurationChanged") == changed
    assert "hunter2" not in str(telemetry.events.to_dicts())


def test_return_to_an_old_revision(kubernetes_api: KubernetesApi, config: KubernetesConfig, shop: dict[str, Any]) -> None:
    """The old ReplicaSet is used again under a new number: it was created long ago, but it runs since the write."""
    newer = k8s.template("checkout", "shop/checkout:1.3", env={"LOG_LEVEL": "info"}, config_map="checkout-config")
    kubernetes_api.add("replicasets", k8s.replica_set(shop["deployment"], "7c9d", 2, newer, created_ns=NOW - 20 * MINUTE))
    back = shop["replica_set"]
    back["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = "3"
    kubernetes_api.modify("replicasets", back)
    written = {**shop["deployment"]["metadata"], "managedFields": k8s.edited(NOW - 4 * MINUTE)}
    kubernetes_api.modify("deployments", {**shop["deployment"], "metadata": written})
    telemetry = collected(config, NOW - 10 * MINUTE)
    assert told(telemetry) == [("checkout", "ImageChanged", "Normal"), ("checkout", "RolloutStarted", "Normal")]
    assert telemetry.events["time_unix_nano"].to_list() == [NOW - 4 * MINUTE] * 2
    assert "revision 3, an old template again: image shop/checkout:1.3 -> shop/checkout:1.2" in message(
        telemetry, "RolloutStarted"
    )


def test_rollout_of_a_stateful_set(kubernetes_api: KubernetesApi, config: KubernetesConfig) -> None:
    old, new = (k8s.template("orders-db", f"postgres:{version}") for version in ("15", "16"))
    owner = kubernetes_api.add("statefulsets", k8s.deployment("orders-db", new, created_ns=NOW - 99 * MINUTE))
    for number, pods in ((1, old), (2, new)):
        references = k8s.owned_by(owner, "StatefulSet")
        metadata = k8s.meta(f"orders-db-{number}", created_ns=NOW - (99 - 40 * number) * MINUTE, ownerReferences=references)
        body = {"metadata": metadata, "revision": number, "data": {"spec": {"template": {**pods, "$patch": "replace"}}}}
        kubernetes_api.add("controllerrevisions", body)
    telemetry = collected(config)
    assert told(telemetry) == [("orders-db", "ImageChanged", "Normal"), ("orders-db", "RolloutStarted", "Normal")]
    assert message(telemetry, "ImageChanged") == "StatefulSet orders-db: image postgres:15 -> postgres:16"


def test_stalled_rollout_and_failed_job(kubernetes_api: KubernetesApi, config: KubernetesConfig, shop: dict[str, Any]) -> None:
    words = 'ReplicaSet "checkout-7c9d" has timed out progressing.'
    stalled = k8s.condition("Progressing", "False", NOW - MINUTE, "ProgressDeadlineExceeded", words, updated_ns=NOW - MINUTE)
    kubernetes_api.modify("deployments", {**shop["deployment"], "status": {"conditions": [stalled]}})
    pods = {"metadata": {}, "spec": {"containers": [{"name": "app", "image": "x"}]}}
    job = k8s.deployment("report-29000001", pods, created_ns=NOW - 99 * MINUTE)
    job["status"] = {"conditions": [k8s.condition("Failed", "True", NOW - 2 * MINUTE, "BackoffLimitExceeded")]}
    kubernetes_api.add("jobs", job)
    assert told(collected(config)) == [("report", "JobFailed", "Warning"), ("checkout", "RolloutStalled", "Warning")]


@pytest.mark.parametrize(
    ("reason", "code", "expected"),
    [
        ("OOMKilled", 137, ("OOMKilled", "Warning")),
        ("Error", 1, ("ContainerRestarted", "Warning")),
        ("Completed", 0, ("ContainerRestarted", "Normal")),
    ],
)
def test_ends_of_containers(
    kubernetes_api: KubernetesApi,
    config: KubernetesConfig,
    shop: dict[str, Any],
    reason: str,
    code: int,
    expected: tuple[str, str],
) -> None:
    """One look tells the last end of every container, long after its events are gone."""
    at_ns = NOW - 12 * MINUTE
    kubernetes_api.modify("pods", {**shop["pod"], "status": k8s.ended(reason, code, at_ns)})
    telemetry = collected(config)
    assert told(telemetry) == [("checkout-66b8f7d5c-x2v4q", *expected)]
    assert telemetry.events["time_unix_nano"].to_list() == [at_ns]


def test_container_that_fails_for_good(kubernetes_api: KubernetesApi, config: KubernetesConfig, shop: dict[str, Any]) -> None:
    end = {"exitCode": 2, "reason": "Error", "finishedAt": stamp(NOW - MINUTE)}
    status = {"phase": "Failed", "containerStatuses": [{"name": "app", "state": {"terminated": end}, "lastState": {}}]}
    kubernetes_api.modify("pods", {**shop["pod"], "status": status})
    assert told(collected(config)) == [("checkout-66b8f7d5c-x2v4q", "ContainerFailed", "Warning")]


def test_eviction(kubernetes_api: KubernetesApi, config: KubernetesConfig, shop: dict[str, Any]) -> None:
    target = k8s.condition("DisruptionTarget", "True", NOW - 7 * MINUTE, "TerminationByKubelet")
    words = "The node was low on resource: memory."
    status = {"phase": "Failed", "reason": "Evicted", "message": words, "conditions": [target]}
    kubernetes_api.modify("pods", {**shop["pod"], "status": status})
    telemetry = collected(config)
    assert told(telemetry) == [("checkout-66b8f7d5c-x2v4q", "Evicted", "Warning")]
    assert message(telemetry, "Evicted") == words


def test_node_conditions(kubernetes_api: KubernetesApi, config: KubernetesConfig, shop: dict[str, Any]) -> None:
    conditions = [
        k8s.condition("MemoryPressure", "True", NOW - 9 * MINUTE, "KubeletHasInsufficientMemory", "kubelet is short of memory"),
        k8s.condition("DiskPressure", "False", NOW - 8 * MINUTE),
        k8s.condition("Ready", "Unknown", NOW - 3 * MINUTE, "NodeStatusUnknown", "Kubelet stopped posting node status."),
    ]
    kubernetes_api.modify("nodes", {**shop["node"], "status": {"conditions": conditions}})
    telemetry = collected(config)
    assert told(telemetry) == [("node-a", "NodeMemoryPressure", "Warning"), ("node-a", "NodeNotReady", "Warning")]
    assert set(telemetry.events["entity_kind"]) == {"node"}


def test_a_list_that_hangs_keeps_nobody(kubernetes_api: KubernetesApi, tmp_path: Path) -> None:
    """The process may end while it is under way: threads that are no daemons would be waited for."""
    kubernetes_api.faults.delay_seconds = {"jobs": 5.0}
    slow = KubernetesCollector(KubernetesConfig(kubeconfig=kubernetes_api.kubeconfig(tmp_path), timeout="10s", retries=0))
    (answer,) = gather([slow], Interval(START, NOW), SECOND_NS // 2)
    assert "no answer within 0.5 s" in str(answer.error)
    assert [thread.name for thread in threading.enumerate() if "kubernetes" in thread.name and not thread.daemon] == []


def test_watches_that_hang_do_not_hold_up_a_check(kubernetes_api: KubernetesApi, tmp_path: Path) -> None:
    kubernetes_api.faults.delay_seconds = {"watch jobs": 10.0}
    config = KubernetesConfig(kubeconfig=kubernetes_api.kubeconfig(tmp_path), timeout="1s", retries=0)
    began = time.monotonic()
    findings = checked(KubernetesCollector(config))
    assert time.monotonic() - began < 8
    assert [finding.level for finding in findings] == ["ok", "warning"]
    assert "watch jobs.batch: no answer in time" in findings[1].text


def test_config_map_change_is_the_services(kubernetes_api: KubernetesApi, config: KubernetesConfig, shop: dict[str, Any]) -> None:
    for name in ("checkout-config", "unused"):
        metadata = k8s.meta(name, created_ns=NOW - 99 * MINUTE, managedFields=k8s.edited(NOW - 5 * MINUTE))
        kubernetes_api.add("configmaps", {"metadata": metadata, "data": {"password": "hunter2"}})
    telemetry = collected(config)
    assert told(telemetry) == [("checkout", "ConfigMapChanged", "Normal")]
    assert message(telemetry, "ConfigMapChanged") == "ConfigMap checkout-config was written by kubectl"


def test_secrets_are_read_only_if_asked_for_and_never_their_content(
    kubernetes_api: KubernetesApi, config: KubernetesConfig
) -> None:
    pods = k8s.template("payment", "shop/payment:1", secret="payment-key")
    kubernetes_api.add("pods", k8s.pod("payment-0", pods, created_ns=NOW - 99 * MINUTE))
    metadata = k8s.meta("payment-key", created_ns=NOW - 99 * MINUTE, managedFields=k8s.edited(NOW - 5 * MINUTE, "vault"))
    kubernetes_api.add("secrets", {"metadata": metadata, "data": {"key": "aHVudGVyMg=="}})
    assert collected(config).events.is_empty()
    assert "secrets" not in {asked.name for asked in kubernetes_api.asked}
    telemetry = collected(config.model_copy(update={"secrets": True}))
    assert told(telemetry) == [("payment", "SecretChanged", "Normal")]
    accepted = [asked.accept for asked in kubernetes_api.asked if asked.name == "secrets"]
    assert accepted == ["application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"]  # and no full object as second best


def test_pod_name_that_is_used_again_is_another_pod(kubernetes_api: KubernetesApi, config: KubernetesConfig) -> None:
    """An event about a pod that is gone is not credited to the service whose pod has its name now."""
    pods = k8s.template("cart", "shop/cart:1")
    old = k8s.pod("worker-1", k8s.template("orders", "shop/orders:1"), created_ns=NOW - 99 * MINUTE)
    new = kubernetes_api.add("pods", k8s.pod("worker-1", pods, created_ns=NOW - 40 * MINUTE))
    for body, words in ((old, "of the old"), (new, "of the new")):
        kubernetes_api.add("events", k8s.event(body, "Pod", "Unhealthy", words, NOW - MINUTE, severity="Warning"))
    telemetry = collected(config)
    rows = dict(telemetry.events.select("message", "entity").iter_rows())
    assert rows == {"of the new": "worker-1", "of the old": f"worker-1~{old['metadata']['uid'][:8]}"}
    assert ("service", "cart", "runs", "pod", "worker-1") in set(telemetry.topology.iter_rows())


def test_pod_of_a_stateful_set_keeps_its_name(kubernetes_api: KubernetesApi, config: KubernetesConfig) -> None:
    pods = k8s.template("redis", "redis:7")
    owner = kubernetes_api.add("statefulsets", k8s.deployment("redis", pods, created_ns=NOW - 99 * MINUTE))
    references = k8s.owned_by(owner, "StatefulSet")
    old = k8s.pod("redis-0", pods, owner=references, created_ns=NOW - 99 * MINUTE)
    kubernetes_api.add("pods", k8s.pod("redis-0", pods, owner=references, created_ns=NOW - 40 * MINUTE))
    kubernetes_api.add("events", k8s.event(old, "Pod", "Killing", "Stopping container app", NOW - 2 * MINUTE))
    assert told(collected(config)) == [("redis-0", "Killing", "Normal")]


def test_who_a_pod_belongs_to(kubernetes_api: KubernetesApi, config: KubernetesConfig) -> None:
    plain: dict[str, Any] = {"metadata": {"labels": {}}, "spec": {"containers": [{"name": "app", "image": "x"}]}}

    def add(name: str, *, labels: dict[str, str] | None = None, env: list[dict[str, Any]] | None = None, **more: Any) -> None:
        body = k8s.pod(name, plain, created_ns=NOW - 99 * MINUTE, **more)
        body["metadata"]["labels"] = labels or {}
        body["spec"] = {**body["spec"], "containers": [{"name": "app", "image": "x", "env": env or []}]}
        kubernetes_api.add("pods", body)

    def owner(kind: str, name: str) -> list[dict[str, Any]]:
        return [{"kind": kind, "name": name, "uid": f"uid-{name}", "controller": True}]

    field_ref = {"name": "OTEL_SERVICE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}}
    add("a-1", annotations={"resource.opentelemetry.io/service.name": "by-annotation"}, labels={"app.kubernetes.io/name": "no"})
    add("b-1", env=[{"name": "OTEL_SERVICE_NAME", "value": "by-env"}], labels={"app.kubernetes.io/name": "no"})
    add("c-1", env=[field_ref], labels={"app": "by-field", "app.kubernetes.io/name": "no"})
    add("d-1", env=[{"name": "OTEL_RESOURCE_ATTRIBUTES", "value": "a=b,service.name=by-attributes,c=d"}])
    add("e-1", labels={"app.kubernetes.io/name": "by-label"})
    add("ads-5d9c-abcde", labels={"pod-template-hash": "5d9c"}, owner=owner("ReplicaSet", "ads-5d9c"))
    add("report-29000001-abcde", owner=owner("Job", "report-29000001"))
    add("etcd-node-a", owner=owner("Node", "node-a"))
    add("lonely")
    runs = collected(config).topology.filter(pl.col("relation") == "runs").select("target", "source")
    assert dict(runs.iter_rows()) == {
        "a-1": "by-annotation",
        "b-1": "by-env",
        "c-1": "by-field",
        "d-1": "by-attributes",
        "e-1": "by-label",
        "ads-5d9c-abcde": "ads",
        "report-29000001-abcde": "report",
        "etcd-node-a": "etcd",
        "lonely": "lonely",
    }


def test_long_lists_come_in_parts(kubernetes_api: KubernetesApi, config: KubernetesConfig) -> None:
    pods = k8s.template("web", "shop/web:1")
    for number in range(7):
        kubernetes_api.add("pods", k8s.pod(f"web-{number}", pods, created_ns=NOW - 99 * MINUTE))
    parts = config.model_copy(update={"page_size": 3})
    kubernetes_api.faults.expire_continue = 1
    assert collected(parts).topology.filter(pl.col("relation") == "runs").height == 7
    assert len([asked for asked in kubernetes_api.asked if asked.name == "pods"]) == 2 + 3


def test_a_list_that_always_expires_is_a_gap(
    kubernetes_api: KubernetesApi, config: KubernetesConfig, shop: dict[str, Any]
) -> None:
    kubernetes_api.faults.expire_continue = 99
    for number in range(3):
        kubernetes_api.add("configmaps", {"metadata": k8s.meta(f"config-{number}")})
    telemetry = collected(config.model_copy(update={"page_size": 2}))
    assert [gap.reason for gap in telemetry.gaps if "configmaps: the list expired 3 times" in gap.reason]


def test_what_may_not_be_read_is_a_gap_that_names_the_rule(
    kubernetes_api: KubernetesApi, config: KubernetesConfig, shop: dict[str, Any]
) -> None:
    kubernetes_api.faults.forbidden = {("apps", "replicasets")}
    telemetry = collected(config)
    (gap,) = telemetry.gaps
    assert gap.interval is not None
    assert "list replicasets.apps: HTTP 403" in gap.reason
    assert gap.reason.endswith('add the rule {apiGroups: ["apps"], resources: ["replicasets"], verbs: ["list", "watch"]}')
    assert not telemetry.topology.is_empty()
    assert [finding.level for finding in checked(KubernetesCollector(config))] == ["ok", "warning"]


def test_check_looks_at_rights_and_names(kubernetes_api: KubernetesApi, config: KubernetesConfig, shop: dict[str, Any]) -> None:
    lonely: dict[str, Any] = {"metadata": {"labels": {}}, "spec": {"containers": [{"name": "app", "image": "x"}]}}
    kubernetes_api.add("pods", k8s.pod("lonely", lonely, created_ns=NOW - 99 * MINUTE))
    kubernetes_api.faults.unwatchable = {"jobs"}
    answers, rights, naming = checked(KubernetesCollector(config))
    expected = f"Kubernetes v1.33.1 at {kubernetes_api.url} answers: 1 nodes, 1 deployments, 1 replicasets, 2 pods"
    assert (answers.level, answers.text) == ("ok", expected)
    assert rights.level == "warning"
    assert "watch jobs.batch: HTTP 403" in rights.text
    assert naming.level == "note"
    assert naming.text.startswith("1 of 2 pods say of no service")


def test_nothing_may_be_read(kubernetes_api: KubernetesApi, config: KubernetesConfig) -> None:
    kubernetes_api.faults.forbidden = {("*", asked) for asked in ("pods", "nodes", "events", "configmaps", "jobs")}
    kubernetes_api.faults.forbidden |= {("*", name) for name in ("deployments", "statefulsets", "daemonsets", "replicasets")}
    kubernetes_api.faults.forbidden.add(("*", "controllerrevisions"))
    with pytest.raises(Rejected, match=r'403.*add the rule .*"pods"'):
        collected(config)


def test_expired_token(kubernetes_api: KubernetesApi, config: KubernetesConfig, tmp_path: Path, shop: dict[str, Any]) -> None:
    """A token that was renewed in its file is used at once; one that was not is refused, and said so."""
    collector = KubernetesCollector(config)
    collector.collect(START, NOW)
    kubernetes_api.tokens = {"renewed"}
    with pytest.raises(Rejected, match="401: the token is unknown or has expired"):
        collector.collect(START, NOW)
    kubernetes_api.kubeconfig(tmp_path, token="renewed")
    assert collector.collect(START, NOW).gaps == ()


@pytest.mark.parametrize(
    ("context", "expected"), [("nowhere", "127.0.0.1:9: list pods: connection refused"), ("loopback", "HTTP 503: etcdserver")]
)
def test_no_answer(kubernetes_api: KubernetesApi, config: KubernetesConfig, context: str, expected: str) -> None:
    kubernetes_api.faults.status = {"*": 503}
    with pytest.raises(Unavailable, match=expected):
        collected(config.model_copy(update={"context": context}))


def test_a_failure_that_passes_is_tried_again(
    kubernetes_api: KubernetesApi, config: KubernetesConfig, shop: dict[str, Any]
) -> None:
    kubernetes_api.faults.status, kubernetes_api.faults.times = {"pods": 503}, {"pods": 1}
    assert not collected(config.model_copy(update={"retries": 2})).topology.is_empty()


def test_one_resource_that_fails_is_a_gap(kubernetes_api: KubernetesApi, config: KubernetesConfig, shop: dict[str, Any]) -> None:
    kubernetes_api.faults.status = {"nodes": 500}
    kubernetes_api.faults.garbage = {"jobs"}
    kubernetes_api.faults.delay_seconds = {"configmaps": 3.0}
    kubernetes_api.faults.endless = {"daemonsets"}
    limits = {"timeout": duration_ns("500ms"), "max_response_bytes": 2**20}
    telemetry = collected(config.model_copy(update=limits))
    reasons = "\n".join(gap.reason for gap in telemetry.gaps)
    assert "list nodes: HTTP 500" in reasons
    assert "list jobs.batch: expected JSON, found '<html>proxy says no" in reasons
    assert "list configmaps: no answer in time" in reasons
    assert "list daemonsets.apps: the answer is larger than 1 MiB (max_response_bytes)" in reasons
    assert len(telemetry.gaps) == 4
    assert not telemetry.topology.is_empty()


def test_objects_of_another_shape_are_counted(
    kubernetes_api: KubernetesApi, config: KubernetesConfig, shop: dict[str, Any]
) -> None:
    for number, metadata in enumerate(({"ownerReferences": "nobody"}, {"managedFields": [7]}, {"labels": ["a"]})):
        body = k8s.pod(f"strange-{number}", k8s.template("strange", "x"))
        body["metadata"] |= metadata
        kubernetes_api.add("pods", body)
    kubernetes_api.add("nodes", {"metadata": k8s.meta("strange", ""), "status": {"conditions": {"type": "Ready"}}})
    telemetry = collected(config)
    reasons = [gap.reason for gap in telemetry.gaps]
    assert "3 pods do not have the documented shape; they were skipped" in reasons
    assert "1 nodes do not have the documented shape; they were skipped" in reasons
    assert telemetry.topology.height == 2


def test_events_of_other_objects_are_counted(
    kubernetes_api: KubernetesApi, config: KubernetesConfig, shop: dict[str, Any]
) -> None:
    claim = {"metadata": k8s.meta("data-0")}
    kubernetes_api.add("events", k8s.event(claim, "PersistentVolumeClaim", "ProvisioningFailed", "no space", NOW - MINUTE))
    scaler = {"metadata": k8s.meta("checkout")}
    kubernetes_api.add("events", k8s.event(scaler, "HorizontalPodAutoscaler", "SuccessfulRescale", "New size: 5", NOW - MINUTE))
    telemetry = collected(config)
    assert told(telemetry) == [("checkout", "SuccessfulRescale", "Normal")]
    assert "1 events are about objects that belong to no service (PersistentVolumeClaim 1)" in telemetry.gaps[0].reason


def test_time_before_the_memory_of_events_is_a_gap(config: KubernetesConfig, shop: dict[str, Any]) -> None:
    telemetry = collected(config, NOW - 180 * MINUTE, NOW - 90 * MINUTE)
    (gap,) = telemetry.gaps
    assert gap.interval is not None
    assert (gap.interval.start_ns, gap.interval.end_ns) == (NOW - 180 * MINUTE, NOW - 90 * MINUTE)


def test_namespaces(kubernetes_api: KubernetesApi, config: KubernetesConfig) -> None:
    pods = k8s.template("web", "shop/web:1")
    for namespace in ("shop", "staging", "kube-system"):
        kubernetes_api.add("pods", k8s.pod(f"web-{namespace}", pods, namespace=namespace, created_ns=NOW - 99 * MINUTE))

    def seen(**settings: Any) -> tuple[set[str], list[str]]:
        telemetry = collected(config.model_copy(update=settings))
        runs = telemetry.topology.filter(pl.col("relation") == "runs")
        return set(runs["source"] + " " + runs["target"]), [gap.reason for gap in telemetry.gaps]

    everything = {"web web-shop", "web web-staging", "web web-kube-system"}
    assert seen() == (everything, ["services of several namespaces are taken for one: web"])
    assert seen(namespaces=("shop",)) == ({"web web-shop"}, [])
    assert seen(exclude_namespaces=("kube-system", "staging")) == ({"web web-shop"}, [])
    separate = {f"{namespace}\x1fweb web-{namespace}" for namespace in ("shop", "staging", "kube-system")}
    assert seen(namespaced_services=True) == (separate, [])


@pytest.fixture(scope="module")
def secure_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesApi]:
    with KubernetesApi(self_signed(tmp_path_factory.mktemp("tls"))) as api:
        api.add("pods", k8s.pod("web-1", k8s.template("web", "x"), created_ns=NOW - 99 * MINUTE))
        yield api


def test_tls(secure_api: KubernetesApi, tmp_path: Path) -> None:
    """The authority comes from the kubeconfig or from our own settings; without it nobody is believed."""
    assert secure_api.tls is not None
    cert, _ = secure_api.tls
    path = secure_api.kubeconfig(tmp_path)
    with pytest.raises(Rejected, match=r"TLS: .*CERTIFICATE_VERIFY_FAILED"):
        collected(KubernetesConfig(kubeconfig=path, retries=0))
    assert collected(KubernetesConfig(kubeconfig=path, ca_file=cert)).topology.height == 2
    secure_api.kubeconfig(tmp_path, ca_file=cert)
    collector = KubernetesCollector(KubernetesConfig(kubeconfig=path))
    assert collector.collect(START, NOW).topology.height == 2
    with collector.watch(lambda telemetry: None) as running:
        deadline = time.monotonic() + 10
        while not running.in_sight():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        began = time.monotonic()
    assert time.monotonic() - began < 2  # encrypted streams are cut as quickly


def test_in_cluster_account(secure_api: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Address from the environment, authority and token from the account's files; a token that was rotated is read again."""
    from kubernetes.config import incluster_config

    assert secure_api.tls is not None
    token = tmp_path / "token"
    token.write_text(TOKEN)
    host, port = secure_api.url.removeprefix("https://").split(":")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(secure_api.tls[0]))
    collector = KubernetesCollector(KubernetesConfig())
    assert collector.collect(START, NOW).topology.height == 2
    monkeypatch.setattr(secure_api, "tokens", {"rotated"})
    token.write_text("rotated")
    telemetry = collector.collect(START, NOW)
    assert (telemetry.topology.height, telemetry.gaps) == (2, ())


def test_in_cluster_account_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    with pytest.raises(BadInput, match="the pod's service account: expected access to a cluster, found Service token file"):
        collected(KubernetesConfig())


@pytest.mark.parametrize(
    ("text", "context"),
    [("{", None), ("just text", None), ("", None), (None, "no-such-context")],
    ids=["yaml", "text", "empty", "context"],
)
def test_bad_kubeconfig(kubernetes_api: KubernetesApi, tmp_path: Path, text: str | None, context: str | None) -> None:
    path = kubernetes_api.kubeconfig(tmp_path)
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadInput, match="kubeconfig: expected access to a cluster, found"):
        collected(KubernetesConfig(kubeconfig=path, context=context))
