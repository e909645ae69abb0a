"""Collecting from a real Prometheus: what the map makes of its series."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from rca.collectors.config import Config, LiveSettings
from rca.collectors.live import Question, collect_incident
from rca.collectors.prometheus.collector import Grid, PrometheusCollector
from rca.collectors.prometheus.config import PrometheusConfig
from rca.collectors.sources import sources_of
from rca.errors import Rejected
from rca.models.rules.floor import Floor
from rca.naming import reconciled
from rca.pipeline import report_on
from rca.telemetry import MINUTE_NS, SECOND_NS, Interval, Telemetry
from rca.testing import check_collector
from tests.servers.history import BAD_S, QUICK_S, SERVICES, SLOW_S, STEP_S
from tests.servers.prometheus import History, prometheus


@pytest.fixture(scope="module")
def telemetry(shop_prometheus: tuple[str, int]) -> Telemetry:
    """Twenty minutes of the shop, ten of them bad."""
    url, end_s = shop_prometheus
    return check_collector(_collector(url), (end_s - 2 * BAD_S) * SECOND_NS, end_s * SECOND_NS)


def _collector(url: str, **settings: object) -> PrometheusCollector:
    return PrometheusCollector(PrometheusConfig(url=url, **settings))  # type: ignore[arg-type]


def _last(telemetry: Telemetry, kind: str, entity: str) -> dict[str, float]:
    """Last value of every metric of an entity."""
    rows = telemetry.metrics.filter(entity_kind=kind, entity=entity).sort("time_unix_nano")
    return dict(rows.group_by("metric", maintain_order=True).last().select("metric", "value").iter_rows())


def test_requests_of_a_service(telemetry: Telemetry) -> None:
    before = telemetry.metrics.filter(entity="pay").sort("time_unix_nano").group_by("metric", maintain_order=True).first()
    quiet = dict(before.select("metric", "value").iter_rows())
    bad = _last(telemetry, "service", "pay")
    assert quiet["server.request.rate"] == pytest.approx(9.0)
    assert quiet["server.request.success_ratio"] == 1.0
    assert quiet["server.request.duration.mean"] == pytest.approx(QUICK_S)
    assert bad["server.request.rate"] == pytest.approx(10.0)
    assert bad["server.request.success_ratio"] == pytest.approx(0.9)
    assert bad["server.request.duration.mean"] == pytest.approx(SLOW_S)
    assert 0.25 < bad["server.request.duration.p50"] < bad["server.request.duration.p95"] <= 0.5
    assert _last(telemetry, "service", "cart")["server.request.duration.p95"] < 0.05


def test_the_namespace_comes_out_of_the_job(telemetry: Telemetry) -> None:
    services = telemetry.metrics.filter(entity_kind="service").select("entity", "namespace").unique()
    assert set(services.iter_rows()) == {(service, "shop") for service in SERVICES}


def test_pods(telemetry: Telemetry) -> None:
    pods = telemetry.metrics.filter(entity_kind="pod")
    assert set(pods["namespace"]) == {"shop"}
    assert _last(telemetry, "pod", "cart-6d4cf56db6-x12zq") == pytest.approx(
        {
            "container.cpu.usage": 0.25,
            "container.memory.usage": 2e8,
            "container.memory.utilization": 0.5,
            "container.cpu.throttled": 0.1,
            "container.network.receive": 1.0,
            "container.restarts": 0.0,
            "k8s.pod.ready": 1.0,
        }
    )


def test_nodes_go_by_the_name_that_the_cluster_or_the_kernel_gives_them(telemetry: Telemetry) -> None:
    nodes = telemetry.metrics.filter(entity_kind="node")
    assert set(nodes["entity"]) == {"node-0", "node-1"}
    assert _last(telemetry, "node", "node-1") == pytest.approx({"node.cpu.utilization": 0.25, "node.memory.utilization": 0.25})


def test_calls(telemetry: Telemetry) -> None:
    last = telemetry.calls.sort("time_unix_nano").group_by("caller", "callee_kind", "callee", "metric").last()
    edges = set(last.select("caller", "callee_kind", "callee").unique().iter_rows())
    assert edges == {
        ("web", "service", "cart"),
        ("cart", "service", "pay"),
        ("cart", "service", "mailer"),
        ("pay", "database", "orders-db"),
        ("pay", "external", "bank.example"),
    }
    found = dict(last.filter(callee="pay").select("metric", "value").iter_rows())
    assert found["call.rate"] == pytest.approx(4.0)
    assert found["call.error_ratio"] == pytest.approx(0.25)
    assert 0.01 < found["call.client.duration.p50"] <= 0.025
    assert 0.005 < found["call.server.duration.p50"] <= 0.01


def test_topology(telemetry: Telemetry) -> None:
    relations = set(telemetry.topology.select("source", "relation", "target").iter_rows())
    assert ("pay", "runs", "pay-6d4cf56db6-x22zq") in relations
    assert ("pay-6d4cf56db6-x22zq", "hosted_on", "node-0") in relations
    assert len(relations) == 2 * len(SERVICES)


def test_names_can_be_reconciled(telemetry: Telemetry) -> None:
    told, _ = reconciled(telemetry)
    assert {name for (name,) in told.metrics.filter(entity_kind="service").select("entity").unique().iter_rows()} == set(SERVICES)


def test_nothing_is_missing_and_nothing_is_said(telemetry: Telemetry) -> None:
    assert telemetry.gaps == ()
    times = telemetry.metrics.filter(entity="web", metric="server.request.rate")["time_unix_nano"]
    assert times.diff().drop_nulls().unique().to_list() == [STEP_S * SECOND_NS]
    assert len(times) == 2 * BAD_S // STEP_S


def test_the_time_is_cut_into_chunks(
    shop_prometheus: tuple[str, int], monkeypatch: pytest.MonkeyPatch, telemetry: Telemetry
) -> None:
    url, end_s = shop_prometheus
    monkeypatch.setattr("rca.collectors.prometheus.collector.MAX_POINTS", 7)
    again = _collector(url).collect((end_s - 2 * BAD_S) * SECOND_NS, end_s * SECOND_NS)
    assert again.metrics.equals(telemetry.metrics)
    assert again.calls.equals(telemetry.calls)


def test_more_points_than_prometheus_gives_at_once(shop_prometheus: tuple[str, int]) -> None:
    url, end_s = shop_prometheus
    start_s = end_s - 12_345
    found = _collector(url, step="1s").collect(start_s * SECOND_NS, end_s * SECOND_NS)
    assert not [gap for gap in found.gaps if "exceeded maximum resolution" in gap.reason]
    rates = found.metrics.filter(entity="web", metric="server.request.rate")
    assert rates["time_unix_nano"].is_unique().all()
    assert len(rates) > 1500


def test_too_large_answers_are_halved(shop_prometheus: tuple[str, int], telemetry: Telemetry, tmp_path: Path) -> None:
    url, end_s = shop_prometheus
    wide = tmp_path / "wide.toml"
    wide.write_text(
        f"""
        [[metric]]
        name = "wide"
        query = 'label_replace(kube_pod_info, "pad", "{"x" * 6000}", "", "")'
        metric = "process.sockets"
        entity = "pod"
        """,
        encoding="utf-8",
    )
    small = _collector(url, max_response_bytes="5kB", map_file=wide)
    found = small.collect((end_s - 2 * BAD_S) * SECOND_NS, end_s * SECOND_NS)
    assert found.metrics.equals(telemetry.metrics)
    assert [gap.reason for gap in found.gaps] == ["wide: refused: the answer is larger than max_response_bytes"]


def test_many_series_are_cut_off_and_counted(shop_prometheus: tuple[str, int]) -> None:
    url, end_s = shop_prometheus
    found = _collector(url, max_series=2).collect((end_s - 60) * SECOND_NS, end_s * SECOND_NS)
    assert any("3 series, of which 2 are read (max_series)" in gap.reason for gap in found.gaps)
    assert set(found.metrics.filter(entity_kind="service")["entity"]) == {"cart", "pay"}


def test_a_selector_narrows_every_query(shop_prometheus: tuple[str, int]) -> None:
    url, end_s = shop_prometheus
    found = _collector(url, selector='job="shop/pay",').collect((end_s - 60) * SECOND_NS, end_s * SECOND_NS)
    assert set(found.metrics["entity"]) == {"pay"}
    assert found.calls.is_empty()


def test_a_selector_that_is_no_promql_is_a_gap_in_prometheus_words(shop_prometheus: tuple[str, int]) -> None:
    url, end_s = shop_prometheus
    found = _collector(url, selector="cluster=eu").collect((end_s - 60) * SECOND_NS, end_s * SECOND_NS)
    assert found.is_empty()
    assert any("parse error" in gap.reason for gap in found.gaps)


def test_the_future_holds_nothing(shop_prometheus: tuple[str, int]) -> None:
    url, _ = shop_prometheus
    start_ns = time.time_ns() + 60 * SECOND_NS
    found = _collector(url).collect(start_ns, start_ns + 600 * SECOND_NS)
    assert found.is_empty()
    assert found.gaps[0].reason == "no step of time falls into the interval before now"


def test_a_time_without_data_is_a_gap(shop_prometheus: tuple[str, int]) -> None:
    url, end_s = shop_prometheus
    long_ago = (end_s - 9 * 86_400) * SECOND_NS
    found = _collector(url).collect(long_ago, long_ago + 600 * SECOND_NS)
    assert found.is_empty()
    assert "none of the metrics that the map names" in found.gaps[0].reason


def test_own_entries(shop_prometheus: tuple[str, int], tmp_path: Path) -> None:
    url, end_s = shop_prometheus
    own = tmp_path / "own.toml"
    own.write_text(
        """
        [[metric]]
        name = "requests"
        query = 'sum by ({by}) (increase(http_server_request_duration_seconds_count{{selector}}[{window}]))'
        metric = "server.request.error.rate"
        entity = "service"
        factor = 2.0
        [[metric]]
        name = "broken"
        query = 'sum(('
        metric = "process.sockets"
        entity = "service"
        [[metric]]
        name = "nobody"
        query = 'sum(kube_pod_info)'
        metric = "process.sockets"
        entity = "service"
        """,
        encoding="utf-8",
    )
    found = _collector(url, map_file=own, disable=["http-server.p50"]).collect((end_s - 60) * SECOND_NS, end_s * SECOND_NS)
    assert _last(found, "service", "web")["server.request.error.rate"] == pytest.approx(9.0 * 60 * 2)
    assert "server.request.duration.p50" not in set(found.metrics["metric"])
    reasons = [gap.reason for gap in found.gaps]
    assert any(reason.startswith("broken: refused: ") and "parse error" in reason for reason in reasons)
    assert any(reason.startswith("nobody: 1 series without a name in service_name") for reason in reasons)


def test_no_prometheus_under_this_url(shop_prometheus: tuple[str, int]) -> None:
    url, end_s = shop_prometheus
    with pytest.raises(Rejected, match="404"):
        _collector(f"{url}/elsewhere").collect((end_s - 60) * SECOND_NS, end_s * SECOND_NS)


def test_measurements_of_one_service_come_to_one(tmp_path: Path) -> None:
    """HTTP and RPC add up; span metrics and Istio are left aside where a service measures itself, and taken where it does not."""
    end_s = int(time.time()) // 15 * 15
    times = range(end_s - 600, end_s + 1, 15)
    history = History()
    history.add_histogram("http_server_request_duration_seconds", {"job": "both"}, times, 30.0, 0.02)
    history.add_histogram("rpc_server_duration_milliseconds", {"job": "both"}, times, 10.0, 60, bounds=(10, 50, 100))
    spans = {"service_name": "both", "span_kind": "SPAN_KIND_SERVER", "status_code": "STATUS_CODE_UNSET"}
    history.add_histogram("traces_span_metrics_duration_milliseconds", spans, times, 1.0, 500, bounds=(10, 50, 1000))
    history.add_histogram(
        "traces_span_metrics_duration_milliseconds", {**spans, "service_name": "traced"}, times, 2.0, 500, bounds=(10, 50, 1000)
    )
    failed = {**spans, "service_name": "traced", "status_code": "STATUS_CODE_ERROR"}
    history.add_histogram("traces_span_metrics_duration_milliseconds", failed, times, 2.0, 500, bounds=(10, 50, 1000))
    mesh = {"reporter": "destination", "destination_canonical_service": "meshed", "source_canonical_service": "traced"}
    mesh |= {"response_code": "200", "grpc_response_status": "14"}
    history.add_histogram("istio_request_duration_milliseconds", mesh, times, 5.0, 40, bounds=(10, 50, 100))
    sent = {**mesh, "reporter": "source", "grpc_response_status": ""}
    history.add_histogram("istio_request_duration_milliseconds", sent, times, 5.0, 45, bounds=(10, 50, 100))
    history.add("istio_requests_total", sent, times, lambda passed: 5.0 * passed)
    unknown = {**sent, "destination_canonical_service": "unknown", "destination_service_name": "bank"}
    history.add("istio_requests_total", unknown, times, lambda passed: 5.0 * passed)
    with prometheus(tmp_path / "prometheus", history=history) as url:
        found = _collector(url).collect((end_s - 300) * SECOND_NS, end_s * SECOND_NS)
    both, traced, meshed = (_last(found, "service", name) for name in ("both", "traced", "meshed"))
    assert both["server.request.rate"] == pytest.approx(40.0)
    assert both["server.request.duration.mean"] == pytest.approx((30 * 0.02 + 10 * 0.06) / 40)
    assert traced["server.request.rate"] == pytest.approx(4.0)
    assert traced["server.request.success_ratio"] == pytest.approx(0.5)
    assert traced["server.request.duration.mean"] == pytest.approx(0.5)
    assert traced["client.request.rate"] == pytest.approx(5.0)
    assert meshed["server.request.success_ratio"] == pytest.approx(0.0)
    edges = found.calls.filter(metric="call.rate").select("caller", "callee").unique().sort("callee")
    assert edges.rows() == [("traced", "bank"), ("traced", "meshed")]
    assert set(found.calls.filter(callee="meshed")["metric"]) == {
        "call.rate",
        "call.error_ratio",
        "call.client.duration.p50",
        "call.server.duration.p50",
    }
    assert found.gaps == ()


def test_sums_do_not_depend_on_chance(tmp_path: Path) -> None:
    """Many series of one node, whose usage is no round number: the same bits every time."""
    end_s = int(time.time()) // 15 * 15
    history = History()
    for number in range(20):
        labels = {"instance": f"10.0.0.1:{9100 + number}"}
        history.add(
            "node_disk_read_bytes_total", labels, range(end_s - 600, end_s + 1, 15), lambda passed, n=number: passed * n / 7
        )
        history.add("node_disk_written_bytes_total", labels, range(end_s - 600, end_s + 1, 15), 0)
    with prometheus(tmp_path / "prometheus", history=history) as url:
        asked = (end_s - 300) * SECOND_NS, end_s * SECOND_NS
        first, *others = [_collector(url).collect(*asked).metrics for _ in range(4)]
    assert set(first["entity"]) == {"10.0.0.1"}
    assert all(first.equals(other) for other in others)


def test_no_traffic_is_no_gap(tmp_path: Path) -> None:
    """A ratio of nothing to nothing is NaN, which is missing, and no fault of anybody."""
    end_s = int(time.time()) // 15 * 15
    history = History()
    history.add_histogram("http_server_request_duration_seconds", {"job": "idle"}, range(end_s - 600, end_s + 1, 15), 0.0, 0.02)
    history.add("node_load1", {"instance": "[::1]:9100"}, range(end_s - 600, end_s + 1, 15), float("nan"))
    with prometheus(tmp_path / "prometheus", history=history) as url:
        found = _collector(url).collect((end_s - 300) * SECOND_NS, end_s * SECOND_NS)
    assert set(found.metrics.select("entity", "metric", "value").unique().iter_rows()) == {("idle", "server.request.rate", 0.0)}
    assert [gap.reason for gap in found.gaps] == [
        "node-load: 20 values that are no finite number, or of another time, are left out"
    ]


def test_moments_lie_on_a_grid() -> None:
    step = 15 * SECOND_NS
    grid = Grid.of(100 * SECOND_NS + 1, 160 * SECOND_NS, step, now_ns=10**18)
    assert grid == Grid(105, 150, 15)
    assert Grid.of(105 * SECOND_NS, 150 * SECOND_NS, step, now_ns=10**18) == Grid(105, 135, 15)
    assert Grid.of(105 * SECOND_NS, 150 * SECOND_NS, step, now_ns=121 * SECOND_NS) == Grid(105, 120, 15)
    assert Grid.of(106 * SECOND_NS, 119 * SECOND_NS, step, now_ns=10**18) is None
    assert list(Grid(0, 150_015, 15).chunks()) == [Grid(0, 149_985, 15), Grid(150_000, 150_015, 15)]
    assert Grid(0, 60, 15).halves() == (Grid(0, 15, 15), Grid(30, 60, 15))
    assert Grid(15, 15, 15).halves() is None


def test_metrics_alone_name_the_service_at_fault(shop_prometheus: tuple[str, int]) -> None:
    url, end_s = shop_prometheus
    config = Config(prometheus=PrometheusConfig(url=url), triage=LiveSettings.model_construct(baseline=20 * MINUTE_NS))
    question = Question(Interval((end_s - BAD_S - 120) * SECOND_NS, (end_s - 60) * SECOND_NS))
    incident, found = collect_incident(config, sources_of(config), question)
    report = report_on(incident, found, Floor())
    first = report.ranking.candidates[0]
    assert (first.entity.name, first.fault_family) == ("pay", "latency")
    assert incident.window.start_ns >= (end_s - BAD_S - 60) * SECOND_NS
