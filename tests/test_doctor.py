"""`rca doctor`: what it finds at a real Prometheus and Alertmanager, and when it holds sources against each other."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from rca.bins import frames_of
from rca.collectors.config import Config
from rca.collectors.doctor import diagnose
from rca.collectors.findings import Finding, checked
from rca.collectors.prometheus.collector import PrometheusCollector
from rca.collectors.prometheus.config import PrometheusConfig
from rca.errors import Unavailable
from rca.telemetry import MINUTE_NS, SECOND_NS, Telemetry
from tests.recorded import RecordedSource, failing
from tests.servers.faulty import Asked, Reply, faulty
from tests.servers.prometheus import Exposition, alertmanager, prometheus


def _told(findings: Sequence[Finding], words: str) -> Finding:
    """The finding with these words."""
    found = [finding for finding in findings if words in finding.text]
    assert len(found) == 1, [finding.text for finding in findings]
    return found[0]


# --- Prometheus ------------------------------------------------------------------------------------------------------


def test_what_the_map_finds(shop_prometheus: tuple[str, int]) -> None:
    findings = checked(PrometheusCollector(PrometheusConfig(url=shop_prometheus[0])))
    assert findings[0].level == "ok"
    assert findings[0].text.startswith("answers, version 2.")
    assert _told(findings, "OpenTelemetry HTTP: ").text == "OpenTelemetry HTTP: 3 services; series: http-server 3"
    assert _told(findings, "cAdvisor: ").text.startswith("cAdvisor: 3 pods; series: cadvisor-cpu 3, cadvisor-memory 3")
    assert "Istio" in _told(findings, "no data for:").text
    assert "docker-cpu" not in _told(findings, "no data for:").text
    assert {finding.level for finding in findings} <= {"ok", "note"}


def test_how_often_targets_are_scraped(shop_prometheus: tuple[str, int]) -> None:
    right = checked(PrometheusCollector(PrometheusConfig(url=shop_prometheus[0])))
    assert _told(right, "3 targets, scraped every 15 s").level == "ok"
    wrong = checked(PrometheusCollector(PrometheusConfig(url=shop_prometheus[0], scrape_interval="60s")))
    told = _told(wrong, "3 targets are scraped every 15 s, not every 60 s")
    assert (told.level, told.advice) == ("warning", 'set `scrape_interval = "15s"`')


def test_own_queries_and_labels(shop_prometheus: tuple[str, int], tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(
        """
        [[metric]]
        name = "broken"
        query = 'sum(('
        metric = "process.sockets"
        entity = "service"
        [[metric]]
        name = "nobody"
        needs = ["kube_pod_info"]
        query = 'sum by ({by}) (kube_pod_info)'
        metric = "process.sockets"
        entity = "service"
        labels = ["team"]
        """,
        encoding="utf-8",
    )
    findings = checked(PrometheusCollector(PrometheusConfig(url=shop_prometheus[0], map_file=own)))
    broken = _told(findings, "query of broken: expected PromQL")
    assert broken.level == "failure"
    assert "parse error" in broken.text
    nobody = _told(findings, "nobody: 1 of 1 series have none of the labels team")
    assert "there are namespace, node, pod" in nobody.advice


def test_a_selector_that_is_no_promql(shop_prometheus: tuple[str, int]) -> None:
    findings = checked(PrometheusCollector(PrometheusConfig(url=shop_prometheus[0], selector="cluster=eu")))
    assert "selector" in _told(findings, "query of kube-node-address: expected PromQL").advice


def test_nothing_that_is_known(tmp_path: Path) -> None:
    """A Prometheus that scrapes one target that answers and one that does not, and holds none of the metrics of the map."""
    target = Exposition()
    target.text = "something_else 1\n"
    with prometheus(tmp_path / "prometheus", targets={"shop": target.target, "gone": "127.0.0.1:9"}) as url:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            findings = checked(PrometheusCollector(PrometheusConfig(url=url)))
            if any("1 of 2 targets cannot be scraped" in finding.text for finding in findings):
                break
            time.sleep(0.2)
    target.close()
    assert _told(findings, "1 of 2 targets cannot be scraped: gone 127.0.0.1:9").level == "warning"
    assert "map_file" in _told(findings, "known metrics gives data").advice


def test_a_prometheus_that_fails_under_way() -> None:
    def reply(asked: Asked) -> Reply:
        if "count_over_time" in asked.params.get("query", ""):
            return Reply(b"too busy", status=503)
        data = ["up"] if asked.path.endswith("/values") else {"result": [], "resultType": "vector"}
        return Reply({"status": "success", "data": data})

    with faulty(reply) as server:
        findings = checked(PrometheusCollector(PrometheusConfig(url=server.url, retries=0)))
    assert findings[0].level == "ok"
    assert "too busy" in _told(findings, "how often it scrapes could not be read").text


# --- sources together ------------------------------------------------------------------------------------------------

NOW = 1_700_000_000 * SECOND_NS
END = NOW - 30 * SECOND_NS
CONFIG = Config()


def _traces(services: Sequence[str], per_second: float = 2.0) -> Telemetry:
    starts = range(END - 5 * MINUTE_NS, END, round(SECOND_NS / per_second))
    rows = [
        (f"{number:016x}{index:016x}", f"{index:016x}", "GET /", 2, start, start + 10**7, service, f"{service}-1")
        for number, service in enumerate(services)
        for index, start in enumerate(starts)
    ]
    columns = [
        "trace_id",
        "span_id",
        "name",
        "kind",
        "start_time_unix_nano",
        "end_time_unix_nano",
        "service.name",
        "k8s.pod.name",
    ]
    spans = pl.DataFrame(rows, schema=columns, orient="row")
    return Telemetry.of(spans=spans.sort("start_time_unix_nano"))


def _rates(services: Sequence[str], per_second: float = 2.0, end_ns: int = END) -> Telemetry:
    rows = [
        (at, "service", service, "server.request.rate", per_second)
        for at in range(end_ns - 5 * MINUTE_NS, end_ns, 15 * SECOND_NS)
        for service in services
    ]
    return Telemetry.of(
        metrics=pl.DataFrame(rows, schema=["time_unix_nano", "entity_kind", "entity", "metric", "value"], orient="row")
    )


def _diagnosed(traces: Telemetry, metrics: Telemetry, config: Config = CONFIG) -> tuple[Finding, ...]:
    sources = [
        RecordedSource("store", traces, ("spans", "bin_counts", "bin_placement")),
        RecordedSource("prometheus", metrics, ("metrics",)),
    ]
    return diagnose(config, sources, NOW)


def test_sources_that_agree() -> None:
    findings = _diagnosed(_traces(["web", "cart"]), _rates(["web", "cart"]))
    assert [finding.text for finding in findings if finding.level == "warning"] == []
    assert _told(findings, "no events and changes in the last five minutes").advice.startswith("they come from [kubernetes]")
    assert not [finding for finding in findings if "traces hold" in finding.text or "unknown to traces" in finding.text]


def test_names_that_traces_do_not_know() -> None:
    findings = _diagnosed(_traces(["web", "cart"]), _rates(["web", "basket-svc"]))
    unknown = _told(findings, "1 of 2 services are unknown to traces: basket-svc")
    assert (unknown.source, unknown.level) == ("prometheus", "warning")
    assert '"basket-svc" = ' in unknown.advice
    assert _told(findings, "1 of 2 services in traces have no metrics: cart").level == "note"
    named = Config(names={"basket-svc": "cart"})
    assert not [f for f in _diagnosed(_traces(["web", "cart"]), _rates(["web", "basket-svc"]), named) if "unknown" in f.text]


@pytest.mark.parametrize("binned", [False, True])
def test_sampled_traces(binned: bool) -> None:
    traces = _traces(["web", "cart"], per_second=2.0)
    if binned:
        traces = replace(traces, spans=traces.spans.clear(), **frames_of(traces.spans))
    findings = _diagnosed(traces, _rates(["web", "cart"], per_second=20.0))
    assert _told(findings, "traces hold 10.0% of the requests that metrics count, for cart, web").level == "note"


def test_traces_that_began_later_than_metrics_are_not_taken_for_a_sample() -> None:
    traces = _traces(["web", "cart"])
    young = replace(traces, spans=traces.spans.filter(pl.col("start_time_unix_nano") >= END - MINUTE_NS))
    assert not [finding for finding in _diagnosed(young, _rates(["web", "cart"])) if "traces hold" in finding.text]


def test_traces_that_two_sources_keep_are_counted_once() -> None:
    traces = _traces(["web", "cart"], per_second=2.0)
    binned = replace(traces, spans=traces.spans.clear(), **frames_of(traces.spans))
    sources = [
        RecordedSource("store", binned, ("bin_counts", "bin_placement")),
        RecordedSource("tempo", traces, ("spans",)),
        RecordedSource("jaeger", traces, ("spans",)),
        RecordedSource("prometheus", _rates(["web", "cart"], per_second=20.0), ("metrics",)),
    ]
    assert _told(diagnose(CONFIG, sources, NOW), "traces hold 10.0% of the requests that metrics count").source == "all"


def test_old_telemetry() -> None:
    findings = _diagnosed(_traces(["web"]), _rates(["web"], end_ns=END - 4 * MINUTE_NS))
    assert "lag" in _told(findings, "its newest telemetry is 4 minutes old").advice


def test_a_source_that_fails_and_one_that_is_empty() -> None:
    sources = [
        failing("tempo", Unavailable("http://tempo: no answer in time")),
        RecordedSource("prometheus", Telemetry(), ("metrics",)),
    ]
    findings = diagnose(CONFIG, sources, NOW)
    assert _told(findings, "reading the last five minutes failed: http://tempo").level == "failure"
    assert _told(findings, "nothing in the last five minutes").level == "warning"


def test_no_source_works() -> None:
    (broken,) = [one for one in diagnose(CONFIG, [_Down("tempo")], NOW) if one.level == "failure"]
    assert (broken.source, broken.text) == ("tempo", "http://tempo: connection refused")


class _Down(RecordedSource):
    def __init__(self, name: str) -> None:
        super().__init__(name, Telemetry())

    def check(self) -> Sequence[Finding]:
        raise Unavailable(f"http://{self.name}: connection refused")


# --- the command -----------------------------------------------------------------------------------------------------


def _doctor(folder: Path, config: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "rca.toml").write_text(config, encoding="utf-8")
    command = [sys.executable, "-m", "rca", "doctor", "--config", str(folder / "rca.toml"), *options]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={"COLUMNS": "80", "PATH": "", "RCA_HOME": str(folder)}
    )


def test_the_table_fits_a_terminal(shop_prometheus: tuple[str, int], tmp_path: Path) -> None:
    with alertmanager(tmp_path / "alertmanager") as url:
        done = _doctor(tmp_path, f'[prometheus]\nurl = "{shop_prometheus[0]}"\n[alertmanager]\nurl = "{url}"\n')
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("ok    prometheus    answers, version") for line in lines)
    assert any(line.startswith("ok    alertmanager  answers, version") for line in lines)


def test_a_broken_source_is_told_by_the_exit_code(shop_prometheus: tuple[str, int], tmp_path: Path) -> None:
    config = f'[prometheus]\nurl = "{shop_prometheus[0]}"\n[alertmanager]\nurl = "http://127.0.0.1:9"\nretries = 0\n'
    done = _doctor(tmp_path, config, "--json")
    assert (done.returncode, done.stderr) == (1, "")
    body = json.loads(done.stdout)
    assert body["ok"] is False
    failed = [finding for finding in body["findings"] if finding["level"] == "failure"]
    assert [finding["source"] for finding in failed] == ["alertmanager"]
