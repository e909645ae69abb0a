"""The PetShop importer, on a small imitation of its layout and on the data set itself."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from rca.collectors.files import FORMATS
from rca.errors import BadTelemetry
from rca.telemetry import SECOND_NS

read = FORMATS["petshop"].read
NODES = ("web", "stock_AWS::Lambda", "items_AWS::DynamoDB::Table", "jobs_AWS::SQS::Queue", "mail.example.com_remote")
EDGES = {("web", "stock_AWS::Lambda"), ("web", "jobs_AWS::SQS::Queue"), ("web", "mail.example.com_remote")}
EDGES |= {("stock_AWS::Lambda", "items_AWS::DynamoDB::Table")}
START_S = 1_700_000_000


def metrics_csv(nodes: tuple[str, ...], start_s: int, rows: int) -> str:
    columns = [(node, "latency", "Average") for node in nodes] + [("web", "availability", "Average"), ("web", "requests", "Sum")]
    lines = [
        ",".join((title, *(column[i] for column in columns))) for i, title in enumerate(("microservice", "metric", "statistic"))
    ]
    lines.append("unix_timestamp" + "," * len(columns))
    for row in range(rows):
        values = ["0.25" if node != nodes[-1] else "" for node in nodes] + ["99.5", "600"]
        lines.append(",".join((f"{start_s + 300 * row}.0", *values)))
    return "\n".join(lines) + "\n"


@pytest.fixture
def petshop(tmp_path: Path) -> Path:
    scenario = tmp_path / "dataset" / "calm"
    rows = [",".join(["", *NODES])]
    rows += [",".join([a, *("1.0" if (a, b) in EDGES else "0.0" for b in NODES)]) for a in NODES]
    normal = scenario / "noissue"
    issue = scenario / "train" / "issue_3"
    for folder in (normal, issue):
        folder.mkdir(parents=True)
    (scenario / "graph.csv").write_text("\n".join(rows) + "\n")
    (normal / "metrics.csv.gz").write_bytes(gzip.compress(metrics_csv(NODES[:4], START_S, 6).encode()))
    (issue / "metrics.csv").write_text(metrics_csv(NODES, START_S - 10_000, 5))
    target = {
        "target": {"node": "web", "metric": "latency", "agg": "Average", "timestamp": START_S - 9_600},
        "root_cause": {"node": "items_AWS::DynamoDB::Table", "metric": None},
        "metadata": {"reproducibility": {"command": "make the secret table slow"}},
    }
    (issue / "target.json").write_text(json.dumps(target))
    return tmp_path


def test_an_issue_becomes_an_incident(petshop: Path) -> None:
    ((incident, telemetry),) = read(petshop)
    assert incident.id == "petshop-calm-train-issue_3"
    assert incident.fault_kind() == "latency"
    assert [str(cause) for cause in incident.causes()] == ["database:items_AWS::DynamoDB::Table"]
    assert incident.window.start_ns == (START_S - 10_000) * SECOND_NS
    assert incident.window.interval().seconds == 1500
    assert (incident.onset_ns, incident.detected_ns) == (None, (START_S - 9_600) * SECOND_NS)
    assert [(b.start_ns, b.provenance) for b in incident.baselines] == [(START_S * SECOND_NS, "reference")]
    assert [entity.name for entity in incident.alerting] == ["web"]
    assert "secret" not in incident.model_dump_json()
    assert telemetry.gaps == ()


def test_nodes_and_relations_are_typed(petshop: Path) -> None:
    ((_, telemetry),) = read(petshop / "dataset" / "calm")
    assert set(telemetry.topology.select("source", "relation", "target_kind", "target").rows()) == {
        ("web", "calls", "service", "stock_AWS::Lambda"),
        ("web", "publishes", "queue", "jobs_AWS::SQS::Queue"),
        ("web", "requests", "external", "mail.example.com_remote"),
        ("stock_AWS::Lambda", "queries", "database", "items_AWS::DynamoDB::Table"),
    }


def test_metrics_have_canonical_names_and_units(petshop: Path) -> None:
    ((_, telemetry),) = read(petshop)
    web = telemetry.metrics.filter((pl.col("entity") == "web") & (pl.col("time_unix_nano") == START_S * SECOND_NS))
    assert dict(web.select("metric", "value").rows()) == {
        "server.request.duration.mean": 0.25,
        "server.request.success_ratio": 0.995,
        "server.request.rate": 2.0,
    }
    assert telemetry.metrics.filter(pl.col("entity") == NODES[-1]).is_empty()  # empty cells are missing, not zero


def test_bad_input_is_named(petshop: Path) -> None:
    issue = petshop / "dataset" / "calm" / "train" / "issue_3"
    (issue / "target.json").write_text('{"target": {}}')
    with pytest.raises(BadTelemetry, match=r"expected target\.node"):
        list(read(petshop))
    (issue / "metrics.csv").write_text(metrics_csv(NODES, START_S, 5).replace("0.25", "fast", 1))
    with pytest.raises(BadTelemetry, match="expected numbers, found 'fast'"):
        list(read(petshop))
    with pytest.raises(BadTelemetry, match=r"dataset/<scenario>/graph\.csv"):
        list(read(issue))


@pytest.mark.data
def test_the_data_set(data_dir: Path) -> None:
    found = list(read(data_dir / "petshop"))
    assert Counter(incident.fault_kind() for incident, _ in found) == {"latency": 14, "availability": 12}
    assert Counter(incident.causes()[0].name.split("_")[0] for incident, _ in found) == {
        "PetSearch": 8,
        "payforadoption": 6,
        "lambdastatusupdater": 6,
        "petlistadoptions": 4,
        "petInfo": 2,
    }
    for incident, telemetry in found:
        nodes = set(telemetry.topology["source"]) | set(telemetry.topology["target"])
        assert len(nodes) == 42
        assert telemetry.topology.height == 44
        assert incident.causes()[0].name in nodes
        assert not telemetry.metrics.filter(pl.col("time_unix_nano") < incident.window.end_ns).is_empty()
