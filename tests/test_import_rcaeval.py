"""The RCAEval importer, on a small imitation of its layout."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from rca.collectors.files import FORMATS
from rca.collectors.files.reading import ReadOptions
from rca.errors import BadTelemetry
from rca.telemetry import MINUTE_NS, SECOND_NS

read = FORMATS["rcaeval"].read
START_S = 1_800_000_000
INJECT_S = START_S + 300


@pytest.fixture
def case(tmp_path: Path) -> Path:
    folder = tmp_path / "My Shop" / "cart_delay" / "2"
    folder.mkdir(parents=True)
    header = "time,cart_cpu,cart_latency-90,web_lat_50,web_mem,web_error,web_custom"
    rows = [f"{START_S + i},{i},0.{i + 10},{i},5,,{i % 3}" for i in range(600)]
    (folder / "data.csv").write_text("\n".join([header, *rows]) + "\n")
    (folder / "inject_time.txt").write_text(f"{INJECT_S}\n")
    spans = [
        "time,traceID,spanID,parentSpanID,serviceName,methodName,operationName,startTimeMillis,startTime,duration,statusCode"
    ]
    for i in range(0, 600, 100):
        us = (START_S + i) * 1_000_000
        spans.append(f"x,t{i},a,,web,,GET /,{us // 1000},{us},9000,200")
        spans.append(f"x,t{i},b,a,cart,Get,cart/Get,{us // 1000},{us + 10},5000,{14 if i > 300 else 0}")
    spans.append("x,,b,a,cart,Get,cart/Get,1,1,1,0")
    (folder / "traces.csv").write_text("\n".join(spans) + "\n")
    logs = ["time,timestamp,container_name,message,level"]
    logs += [f"x,{(INJECT_S + i) * SECOND_NS},cart,slow answer after {i} ms,{'error' if i else ''}" for i in range(3)]
    (folder / "logs.csv").write_text("\n".join(logs) + "\n")
    return tmp_path


def test_a_repetition_becomes_an_incident(case: Path) -> None:
    ((incident, telemetry),) = read(case)
    assert (incident.id, incident.system) == ("rcaeval-My-Shop-cart_delay-2", "My Shop")
    assert incident.fault_kind() == "network_delay"
    assert [str(cause) for cause in incident.causes()] == ["service:cart"]
    assert (incident.window.start_ns, incident.window.end_ns) == (INJECT_S * SECOND_NS, (START_S + 600) * SECOND_NS)
    assert [(b.start_ns, b.provenance) for b in incident.baselines] == [(START_S * SECOND_NS, "preceding")]
    assert [gap.reason for gap in telemetry.gaps] == ["1 spans without id, time or service were skipped"]


def test_columns_become_canonical_metrics(case: Path) -> None:
    ((_, telemetry),) = read(case / "My Shop" / "cart_delay")
    assert set(telemetry.metrics.select("entity", "metric").unique().rows()) == {
        ("cart", "container.cpu.usage"),
        ("cart", "server.request.duration.p90"),
        ("web", "server.request.duration.p50"),
        ("web", "custom"),
    }


def test_spans_and_logs(case: Path) -> None:
    ((_, telemetry),) = read(case)
    spans = telemetry.spans
    assert spans.height == 12
    assert (spans["end_time_unix_nano"] - spans["start_time_unix_nano"]).unique().sort().to_list() == [5_000_000, 9_000_000]
    assert spans.filter(pl.col("status_code") == 2)["service.name"].to_list() == ["cart", "cart"]
    assert spans.filter(pl.col("http.response.status_code") == 200).height == 6
    assert telemetry.logs.select("entity", "severity", "template", "count").sort("severity").rows() == [
        ("cart", "ERROR", "slow answer after <*> ms", 2),
        ("cart", "INFO", "slow answer after <*> ms", 1),
    ]


def test_metrics_alone_suffice_and_the_window_can_be_set(case: Path) -> None:
    folder = case / "My Shop" / "cart_delay" / "2"
    (folder / "traces.csv").unlink()
    (folder / "logs.csv").unlink()
    (folder / "data.csv").rename(folder / "simple_metrics.csv")
    ((incident, telemetry),) = read(case, ReadOptions(window_ns=MINUTE_NS))
    assert incident.window.interval().seconds == 60
    assert {gap.source for gap in telemetry.gaps} == {"spans", "logs"}


@pytest.mark.parametrize("text", ["", "yesterday", "12"])
def test_bad_injection_time_is_named(case: Path, text: str) -> None:
    (case / "My Shop" / "cart_delay" / "2" / "inject_time.txt").write_text(text)
    with pytest.raises(BadTelemetry, match="expected"):
        list(read(case))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadTelemetry, match=r"data\.csv or simple_metrics\.csv"):
        list(read(tmp_path))
