"""Alerts as telemetry: active ones from a real Alertmanager, past ones from the series that a real Prometheus writes."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from rca.collectors.alert_labels import Firing, alerts_frame, entity_of, source_of
from rca.collectors.alertmanager.collector import AlertmanagerCollector
from rca.collectors.alertmanager.config import AlertmanagerConfig
from rca.collectors.alerts import AlertHistory
from rca.collectors.gathering import gather, merged
from rca.collectors.live import find_alert
from rca.collectors.prometheus.collector import PrometheusCollector
from rca.collectors.prometheus.config import PrometheusConfig
from rca.errors import Rejected, Unavailable, UnknownName
from rca.telemetry import MINUTE_NS, SECOND_NS, EntityId, Interval
from rca.testing import check_collector
from tests.servers.faulty import Reply, faulty
from tests.servers.prometheus import Exposition, History, alertmanager, prometheus

_RULES = """
groups:
- name: shop
  rules:
  - alert: PayIsSlow
    expr: pay_latency_seconds > 0.2
    labels: {severity: page, service: pay}
    annotations: {summary: "pay takes {{ $value }} s"}
  - alert: AlwaysOn
    expr: vector(1)
    labels: {severity: none}
"""


def _prometheus(url: str) -> PrometheusCollector:
    return PrometheusCollector(PrometheusConfig(url=url))


def _until(done: Callable[[], Any], seconds: float = 20.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := done():
            return found
        time.sleep(0.1)
    raise AssertionError("nothing happened in time")


# --- live ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alerting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """URLs of a Prometheus and its Alertmanager, where PayIsSlow fires since a moment ago."""
    folder = tmp_path_factory.mktemp("alerting")
    target = Exposition()
    target.text = "pay_latency_seconds 0.5\n"
    with (
        alertmanager(folder / "alertmanager") as alertmanager_url,
        prometheus(
            folder / "prometheus",
            targets={"shop": target.target},
            rules=_RULES,
            alertmanager=alertmanager_url.removeprefix("http://"),
        ) as prometheus_url,
    ):
        collector = AlertmanagerCollector(AlertmanagerConfig(url=alertmanager_url))
        now = time.time_ns()
        _until(lambda: not collector.collect(now - MINUTE_NS, now + MINUTE_NS).alerts.is_empty())
        yield prometheus_url, alertmanager_url
    target.close()


def test_both_tell_of_the_same_alert(alerting: tuple[str, str]) -> None:
    sources = [_prometheus(alerting[0]), AlertmanagerCollector(AlertmanagerConfig(url=alerting[1]))]
    now = time.time_ns()
    asked = Interval(now - 2 * MINUTE_NS, now)
    answers = gather(sources, asked, 10 * SECOND_NS)
    for answer in answers:
        rows = answer.telemetry.alerts.select("entity_kind", "entity", "name", "source", "direction").rows()
        assert rows == [("service", "pay", "PayIsSlow", "metric", None)], answer.source
    assert len(merged(answers).alerts) == 1
    assert not [gap for answer in answers for gap in answer.telemetry.gaps if "AlwaysOn" in gap.reason]


def test_alertmanager_keeps_the_contract(alerting: tuple[str, str]) -> None:
    now = time.time_ns()
    check_collector(AlertmanagerCollector(AlertmanagerConfig(url=alerting[1])), now - MINUTE_NS, now)


def test_an_alert_is_found_by_name_in_either(alerting: tuple[str, str]) -> None:
    past, active = _prometheus(alerting[0]), AlertmanagerCollector(AlertmanagerConfig(url=alerting[1]))
    one, other = past.find_alert("PayIsSlow"), active.find_alert("PayIsSlow")
    assert one.entity == other.entity == EntityId("service", "pay")
    assert one.end_ns is None
    assert one.summary == other.summary == "pay takes 0.5 s"
    assert abs(one.start_ns - other.start_ns) < SECOND_NS
    assert other.link.startswith("http")
    assert find_alert([past, active], "PayIsSlow") == replace(other, pending_ns=one.pending_ns)


def test_an_unknown_alert_is_answered_with_near_names(alerting: tuple[str, str]) -> None:
    past, active = _prometheus(alerting[0]), AlertmanagerCollector(AlertmanagerConfig(url=alerting[1]))
    with pytest.raises(UnknownName, match="did you mean PayIsSlow"):
        past.find_alert("PayIsSlowly")
    with pytest.raises(UnknownName, match="did you mean PayIsSlow"):
        find_alert([past, active], "PayIsSlowly")


def test_a_silenced_alert_still_counts_and_is_told(alerting: tuple[str, str]) -> None:
    collector = AlertmanagerCollector(AlertmanagerConfig(url=alerting[1]))
    now = datetime.now(UTC)
    silence = {
        "matchers": [{"name": "alertname", "value": "PayIsSlow", "isRegex": False, "isEqual": True}],
        "startsAt": now.isoformat(),
        "endsAt": (now + timedelta(minutes=5)).isoformat(),
        "createdBy": "test",
        "comment": "test",
    }
    request = urllib.request.Request(
        f"{alerting[1]}/api/v2/silences", json.dumps(silence).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=5):
        pass
    told = _until(lambda: [f for f in collector.check() if "1 of them silenced" in f.text])
    assert told[0].level == "ok"
    assert "version 0." in told[0].text
    now_ns = time.time_ns()
    assert len(collector.collect(now_ns - 5 * MINUTE_NS, now_ns).alerts) == 1


def test_filters_are_alertmanagers_own(alerting: tuple[str, str]) -> None:
    now = time.time_ns()
    collector = AlertmanagerCollector(AlertmanagerConfig(url=alerting[1], filters=('service="cart"',)))
    assert collector.collect(now - 5 * MINUTE_NS, now).alerts.is_empty()
    with pytest.raises(Rejected, match="400"):
        AlertmanagerCollector(AlertmanagerConfig(url=alerting[1], filters=("=",))).collect(now - MINUTE_NS, now)


def test_an_alertmanager_that_is_none(alerting: tuple[str, str]) -> None:
    now = time.time_ns()
    with pytest.raises(Rejected, match="404"):
        AlertmanagerCollector(AlertmanagerConfig(url=alerting[0])).collect(now - MINUTE_NS, now)
    with pytest.raises(Unavailable):
        AlertmanagerCollector(AlertmanagerConfig(url="http://127.0.0.1:9", retries=0)).check()


def test_an_alertmanager_that_never_ends_its_answer() -> None:
    with faulty(lambda _asked: Reply(b"[", drip=True)) as server:
        config = AlertmanagerConfig(url=server.url, timeout="300ms", retries=0)
        with pytest.raises(Unavailable, match="had not ended"):
            AlertmanagerCollector(config).collect(0, 1)


# --- past ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """A Prometheus in which alerts fired in the last two hours, and the second of its last samples."""
    end = int(time.time()) // 15 * 15
    history = History()

    def fired(name: str, first: int, last: int, state: str = "firing", **labels: str) -> None:
        labels = {"alertname": name, "alertstate": state, **labels}
        history.add("ALERTS", labels, range(end + first, end + last + 1, 15), 1)

    for first, last in ((-7000, -6500), (-1200, -900), (-300, -60)):
        fired("Slow", first, last, service="pay")
    fired("Slow", -600, 0, namespace="shop", pod="cart-1", job="kube-state-metrics")
    fired("Old", -7200, -600, service="web")
    since = {"alertname": "Old", "service": "web"}
    history.add("ALERTS_FOR_STATE", since, range(end - 8100, end - 600 + 1, 15), end - 8100)
    fired("Pending", -600, -300, "pending", service="web")
    fired("Nameless", -600, -300)
    fired("Watchdog", -600, -300, severity="none")
    with prometheus(tmp_path_factory.mktemp("past") / "prometheus", history=history) as url:
        yield url, end


def test_every_time_that_an_alert_began(past: tuple[str, int]) -> None:
    url, end = past
    found = check_collector(_prometheus(url), (end - 3600) * SECOND_NS, end * SECOND_NS)
    starts = found.alerts.with_columns((pl.col("time_unix_nano") // SECOND_NS - end).alias("at"))
    assert starts.select("at", "entity_kind", "entity", "namespace", "name").rows() == [
        (-1200, "service", "pay", None, "Slow"),
        (-600, "pod", "cart-1", "shop", "Slow"),
        (-300, "service", "pay", None, "Slow"),
    ]
    told = [gap.reason for gap in found.gaps if "name no entity" in gap.reason]
    assert len(told) == 1
    assert told[0].startswith("1 alerts name no entity and are left out: Nameless (labels looked at: service")


def test_a_past_alert_is_found_with_its_end(past: tuple[str, int]) -> None:
    url, end = past
    found = _prometheus(url).find_alert("Old")
    assert (found.start_ns, found.end_ns) == ((end - 7200) * SECOND_NS, (end - 600) * SECOND_NS)
    assert found.pending_ns == (end - 8100) * SECOND_NS
    assert _prometheus(url).find_alert("Slow").start_ns == (end - 300) * SECOND_NS
    with pytest.raises(UnknownName, match="alerts that fired in the last day"):
        _prometheus(url).find_alert('no "such"\\alert')


def test_alerts_of_a_time_are_told_with_their_ends(past: tuple[str, int], alerting: tuple[str, str]) -> None:
    url, end = past
    prometheus = _prometheus(url)
    assert isinstance(prometheus, AlertHistory)
    found = prometheus.alerts_between((end - 3600) * SECOND_NS, (end - 200) * SECOND_NS)
    told = [(one.name, str(one.entity), one.start_ns // SECOND_NS - end, (one.end_ns or 0) // SECOND_NS - end) for one in found]
    assert told == [
        ("Slow", "service:pay", -1200, -900),
        ("Slow", "pod:shop/cart-1", -600, 0),
        ("Slow", "service:pay", -300, -60),
    ]
    now = time.time_ns()
    (fires,) = _prometheus(alerting[0]).alerts_between(now - 5 * MINUTE_NS, now)
    assert (fires.name, fires.end_ns) == ("PayIsSlow", None)
    with pytest.raises(Rejected, match="parse error"):
        PrometheusCollector(PrometheusConfig(url=url, selector="cluster=eu")).alerts_between(now - MINUTE_NS, now)


def test_a_selector_that_is_no_promql_is_refused(past: tuple[str, int]) -> None:
    with pytest.raises(Rejected, match="parse error"):
        PrometheusCollector(PrometheusConfig(url=past[0], selector="cluster=eu")).find_alert("Slow")


def test_alerts_can_be_left_out(past: tuple[str, int]) -> None:
    url, end = past
    collector = PrometheusCollector(PrometheusConfig(url=url, alerts=False))
    assert collector.collect((end - 3600) * SECOND_NS, end * SECOND_NS).alerts.is_empty()


# --- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "entity"),
    [
        ({"service": "pay", "job": "x", "pod": "pay-1"}, EntityId("service", "pay")),
        ({"service_name": "pay", "service_namespace": "shop"}, EntityId("service", "pay", "shop")),
        ({"app": "pay", "job": "kubernetes-pods"}, EntityId("service", "pay")),
        ({"app_kubernetes_io_name": "pay", "app": "p", "pod": "pay-1"}, EntityId("service", "pay")),
        ({"app": "kube-state-metrics", "namespace": "shop", "pod": "pay-1"}, EntityId("pod", "pay-1", "shop")),
        ({"job": "shop/pay", "instance": "1.2.3.4:80"}, EntityId("service", "pay", "shop")),
        ({"job": "kube-state-metrics", "deployment": "pay", "namespace": "shop"}, EntityId("service", "pay")),
        ({"job": "kube-state-metrics", "namespace": "shop", "pod": "pay-1"}, EntityId("pod", "pay-1", "shop")),
        (
            {
                "job": "kube-state-metrics",
                "namespace": "monitoring",
                "pod": "kube-state-metrics-0",
                "exported_namespace": "shop",
                "exported_pod": "pay-1",
            },
            EntityId("pod", "pay-1", "shop"),
        ),
        ({"job": "kubelet", "node": "n1", "exported_node": "n2"}, EntityId("node", "n2")),
        ({"job": "monitoring/kube-state-metrics", "job_name": "nightly"}, EntityId("service", "nightly")),
        ({"job": "node-exporter", "instance": "10.0.0.1:9100"}, EntityId("node", "10.0.0.1")),
        ({"job": "node-exporter", "instance": "10.0.0.1:9100", "node": "n1"}, EntityId("node", "n1")),
        ({"job": "kube-state-metrics"}, EntityId("service", "kube-state-metrics")),
        ({"instance": "[::1]:9100"}, EntityId("node", "::1")),
        ({"horizontalpodautoscaler": "pay"}, EntityId("service", "pay")),
        ({"namespace": "shop", "severity": "page"}, None),
        ({}, None),
    ],
)
def test_whom_an_alert_is_about(labels: dict[str, str], entity: EntityId | None) -> None:
    assert entity_of(labels) == entity


def test_what_an_alert_was_raised_on() -> None:
    assert source_of({}) == "metric"
    assert source_of({"source": "Logs"}) == "log"
    assert source_of({"signal": "traces"}) == "trace"


def test_one_alert_told_twice_is_one() -> None:
    at = 1_700_000_000 * SECOND_NS
    firing = Firing({"alertname": "Slow", "service": "pay"}, at)
    again = Firing({"alertname": "Slow", "service": "pay", "severity": "page"}, at)
    frame, gaps = alerts_frame([firing, again], Interval(at, at + 1), "prometheus")
    assert len(frame) == 1
    assert gaps == ()
