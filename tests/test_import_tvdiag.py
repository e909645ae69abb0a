"""The TVDiag importer, on a small imitation of its layout and on the data set itself."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rca.collectors.files import FORMATS
from rca.errors import BadTelemetry

read = FORMATS["tvdiag"].read
NODES = ["web-0", "web-1", "cart-0", "db-0"]


def write(folder: Path, **raw: Any) -> None:
    (folder / "raw").mkdir(parents=True, exist_ok=True)
    for kind, body in raw.items():
        (folder / "raw" / f"{kind}.json").write_text(json.dumps(body))


@pytest.fixture
def tvdiag(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "myshop"
    write(
        folder,
        nodes={"7": NODES, "12": NODES},
        edges={"7": [[0, 2], [2, 0], [0, 2], [1, 1], [2, 3]], "12": [[0, 2]]},
        metrics={"7": [["cart-0", "cpu_usage", "up"]], "12": []},
        traces={
            "7": [["web-0", "cart-0", "GET /cart", "PD"], ["-1", "web-0", "GET /", "500"], ["web-0", "", "GET", "400"]],
            "12": [],
        },
        logs={"7": [["cart-0", "41"], ["cart-0", "41"]], "12": []},
    )
    rows = [",Unnamed: 0,index,instance,anomaly_type,data_type", "0,12,12,cart-0,pod-kill,train", "5,7,7,cart-0,cpu,train"]
    (folder / "label.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_alerts_keep_source_direction_and_ends(tvdiag: Path) -> None:
    (incident, telemetry), (other, quiet) = read(tvdiag)
    assert (incident.id, incident.fault_kind()) == ("tvdiag-myshop-7", "cpu_contention")
    assert (other.id, other.fault_kind()) == ("tvdiag-myshop-12", "pod_kill")
    alerts = telemetry.alerts
    assert alerts["time_unix_nano"].null_count() == alerts.height
    assert alerts.select("entity", "name", "source", "direction", "peer").rows() == [
        ("cart-0", "cpu_usage", "metric", "up", None),
        ("web-0", "slow", "trace", None, "cart-0"),
        ("web-0", "http_500", "trace", None, None),
        ("web-0", "http_400", "trace", None, None),
        ("cart-0", "41", "log", None, None),
        ("cart-0", "41", "log", None, None),
    ]
    assert {gap.source for gap in quiet.gaps} == {"baseline", "metrics", "traces", "logs"}


def test_edges_take_their_direction_from_calls(tvdiag: Path) -> None:
    (_, telemetry), (_, other) = read(tvdiag / "data")
    calls = [row[1:5:3] for row in telemetry.topology.rows() if row[2] == "calls"]
    assert sorted(calls) == [("cart-0", "db-0"), ("db-0", "cart-0"), ("web-0", "cart-0")]
    assert [row[1:5:3] for row in other.topology.rows() if row[2] == "calls"] == [("web-0", "cart-0")]
    assert sorted(row[1] for row in other.topology.rows() if row[2] == "runs") == sorted(NODES)


def test_bad_input_is_named(tvdiag: Path) -> None:
    folder = tvdiag / "data" / "myshop"
    write(folder, metrics={"7": [["cart-0", "cpu_usage"]], "12": []})
    with pytest.raises(BadTelemetry, match="incident 7"):
        list(read(tvdiag))
    (folder / "raw" / "metrics.json").write_text('{"7": ')
    with pytest.raises(BadTelemetry, match="readable JSON"):
        list(read(tvdiag))
    write(folder, metrics={}, nodes={"12": NODES})
    with pytest.raises(BadTelemetry, match="an entry '7'"):
        list(read(tvdiag))
    with pytest.raises(BadTelemetry, match=r"label\.csv"):
        list(read(folder / "raw"))


@pytest.mark.data
def test_the_data_set(data_dir: Path) -> None:
    found = list(read(data_dir / "tvdiag"))
    assert Counter(incident.fault_kind() for incident, _ in found) == {
        "cpu_contention": 48,
        "pod_kill": 38,
        "memory_leak": 35,
        "network_delay": 35,
        "network_loss": 33,
        "pod_failure": 30,
        "network_corrupt": 29,
    }
    for incident, telemetry in found:
        instances = {row[1] for row in telemetry.topology.rows() if row[2] == "runs"}
        assert len(instances) == 21
        assert incident.causes()[0].name in instances
        assert set(telemetry.alerts["entity"]) <= instances
