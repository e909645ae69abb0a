"""The map from PromQL to canonical metrics: what ships with it, what a team may change, and every way to get it wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from rca.collectors.prometheus.client import Client
from rca.collectors.prometheus.config import PrometheusConfig
from rca.collectors.prometheus.mapping import Naming, load_map
from rca.collectors.prometheus.naming import entity_of
from rca.errors import BadInput, UnknownName
from rca.metrics import METRICS
from rca.telemetry import EntityId

_ENTRY = """
[[metric]]
name = "{name}"
query = '{query}'
metric = "{metric}"
entity = "service"
"""


def _own(folder: Path, text: str) -> Path:
    path = folder / "own.toml"
    path.write_text(text, encoding="utf-8")
    return path


def _entry(name: str = "mine", query: str = "up{{selector}}", metric: str = "process.sockets") -> str:
    return _ENTRY.format(name=name, query=query, metric=metric)


def test_every_shipped_query_is_promql(shop_prometheus: tuple[str, int]) -> None:
    with Client(PrometheusConfig(url=shop_prometheus[0], budget="60s")) as client:
        for selector in ("", 'cluster="eu",env=~"p.*"'):
            for entry in load_map():
                answer = client.instant(entry.promql(window_s=60, step_s=15, range_s=900, selector=selector), 1)
                assert not answer.refusal, f"{entry.name}: {answer.refusal}"


def test_shipped_entries_are_complete() -> None:
    entries = load_map()
    assert len({entry.name for entry in entries}) == len(entries)
    for entry in entries:
        assert entry.needs, f"{entry.name} would be asked of every Prometheus"
        assert entry.entity.labels, f"{entry.name} names nobody"
        assert entry.frame != "metrics" or entry.metric in METRICS


def test_own_entries_are_added_and_replace_ours(tmp_path: Path) -> None:
    own = _own(tmp_path, _entry() + _entry("node-load", "my_load", "node.load") + '[labels]\nservice = ["team"]\n')
    entries = {entry.name: entry for entry in load_map(own)}
    assert entries["mine"].entity == Naming("service", ("team",), ("service_namespace",))
    assert entries["node-load"].query == "my_load"
    assert entries["http-server.rate"].entity.labels == ("team",)
    assert entries["cadvisor-cpu"].entity.labels == ("exported_pod", "pod", "k8s_pod_name")
    assert len(entries) == len(load_map()) + 1


def test_the_example_in_the_docs_is_a_map(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "prometheus.md").read_text(encoding="utf-8")
    example = page.split("## Entries of your own\n")[1].split("\nPlaceholders")[0]
    lines = [line[4:] for line in example.splitlines() if line.startswith("    ")]
    names = {entry.name for entry in load_map(_own(tmp_path, "\n".join(lines)))}
    assert {"open-sockets", "gateway.p95", "gateway.success"} <= names


def test_entries_can_be_left_out() -> None:
    names = {entry.name for entry in load_map(disable=["http-server", "node-load", "http-client.p95"])}
    assert not {"http-server.rate", "http-server.p95", "node-load", "http-client.p95"} & names
    assert "http-client.p50" in names
    with pytest.raises(UnknownName, match="did you mean http-server"):
        load_map(disable=["http-sever"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[metric]\n", "expected TOML"),
        (_entry() + _entry(), "several of mine"),
        (_entry(metric="container.cpu.usge"), "did you mean container.cpu.usage"),
        (_entry(query="rate(x[{windw}])"), "did you mean window"),
        (_entry() + 'colour = "red"\n', "mine.colour: unknown setting"),
        (_entry() + 'combine = "median"\n', "mine.combine: "),
        (_entry(name="My Metric"), "My Metric.name: "),
        ('[[metric]]\nname = "half"\n', "half.query: Field required"),
        ("[[metric]]\nname = 3\n", "metric.0.name: "),
        ("metric = 3\n", "metric: "),
        ('[[gauge]]\nname = "x"\n', "gauge: unknown setting"),
        ('[[histogram]]\nname = "h"\nmetric = "x"\nside = "middle"\n', "h.side: "),
        ('[labels]\nservices = ["x"]\n', "labels.services: unknown setting"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        load_map(_own(tmp_path, text))
    assert message in str(caught.value)
    assert "own.toml" in str(caught.value)


def test_a_map_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No such file"):
        load_map(tmp_path / "own.toml")
    (tmp_path / "own.toml").write_bytes(b"\xff")
    with pytest.raises(BadInput, match="not UTF-8"):
        load_map(tmp_path / "own.toml")


def test_regular_expressions_may_have_braces(tmp_path: Path) -> None:
    own = _own(tmp_path, _entry(query='x{a=~"[a-f]{8}",b=~"c{2,3}",{selector}}'))
    (entry,) = [entry for entry in load_map(own) if entry.name == "mine"]
    assert entry.promql(window_s=1, step_s=1, range_s=1, selector='z="1"') == 'x{a=~"[a-f]{8}",b=~"c{2,3}",z="1"}'


SERVICE = Naming("service", ("service_name", "exported_job", "job"), ("service_namespace",))
POD = Naming("pod", ("exported_pod", "pod"), ("exported_namespace", "namespace"))
NODE = Naming("node", ("node", "instance"))


@pytest.mark.parametrize(
    ("labels", "naming", "entity"),
    [
        ({"job": "shop/cart"}, SERVICE, EntityId("service", "cart", "shop")),
        ({"job": "cart"}, SERVICE, EntityId("service", "cart")),
        ({"job": "a/b/c"}, SERVICE, EntityId("service", "a/b/c")),
        ({"job": "collector", "exported_job": "shop/cart"}, SERVICE, EntityId("service", "cart", "shop")),
        ({"service_name": "a/b", "service_namespace": "shop"}, SERVICE, EntityId("service", "a/b", "shop")),
        ({"service_name": "", "job": "cart"}, SERVICE, EntityId("service", "cart")),
        ({"service_name": "unknown"}, SERVICE, None),
        ({"pod": "ksm", "namespace": "x", "exported_pod": "p", "exported_namespace": "y"}, POD, EntityId("pod", "p", "y")),
        ({"pod": "cart-1"}, POD, EntityId("pod", "cart-1")),
        ({"instance": "10.0.0.1:9100"}, NODE, EntityId("node", "n1")),
        ({"instance": "10.0.0.2:9100"}, NODE, EntityId("node", "n2")),
        ({"instance": "n3:9100"}, NODE, EntityId("node", "n3")),
        ({"instance": "[fe80::1]:9100"}, NODE, EntityId("node", "fe80::1")),
        ({"node": "n4", "instance": "10.0.0.1:9100"}, NODE, EntityId("node", "n4")),
        ({}, NODE, None),
    ],
)
def test_names(labels: dict[str, str], naming: Naming, entity: EntityId | None) -> None:
    assert entity_of(labels, naming, {"10.0.0.1": "n1", "10.0.0.2:9100": "n2"}) == entity


@pytest.mark.parametrize("setting", ["scrape_interval", "step", "rate_window"])
def test_times_are_whole_seconds(setting: str) -> None:
    with pytest.raises(ValueError, match="whole seconds"):
        PrometheusConfig(url="http://x", **{setting: "1500ms"})
