"""Jaeger JSON: the UI's download, the query API's result, and the OTLP-shaped one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rca.collectors.files import FORMATS, streams
from rca.errors import BadTelemetry
from rca.telemetry import SECOND_NS, Telemetry

read = FORMATS["jaeger"].read
START_US = 1_800_000_000_000_000


def trace(trace_id: str, start_us: int = START_US) -> dict[str, Any]:
    def tags(**values: Any) -> list[dict[str, Any]]:
        return [{"key": key.replace("__", "."), "type": "string", "value": value} for key, value in values.items()]

    def parent(span_id: str, kind: str = "CHILD_OF") -> list[dict[str, str]]:
        return [{"refType": kind, "traceID": trace_id, "spanID": span_id}]

    base = {"traceID": trace_id, "startTime": start_us, "duration": 500}
    error = {"timestamp": start_us, "fields": tags(event="error", error__kind="Timeout", message="after 30 ms")}
    return {
        "traceID": trace_id,
        "spans": [
            {
                **base,
                "spanID": "a",
                "operationName": "GET /",
                "processID": "p1",
                "tags": tags(span__kind="server"),
                "references": [],
            },
            {
                **base,
                "spanID": "b",
                "operationName": "call",
                "processID": "p1",
                "tags": [*tags(span__kind="client", peer__service="cart"), {"key": "error", "type": "bool", "value": True}],
                "references": [*parent("x", "FOLLOWS_FROM"), *parent("a")],
                "logs": [error],
            },
            {**base, "spanID": "c", "operationName": "Get", "processID": "p2", "parentSpanID": "b"},
        ],
        "processes": {
            "p1": {"serviceName": "web", "tags": tags(k8s__pod__name="web-1")},
            "p2": {"serviceName": "cart"},
        },
    }


def one(path: Path) -> Telemetry:
    ((incident, telemetry),) = read(path)
    assert incident.source == "jaeger"
    return telemetry


@pytest.mark.parametrize("shape", ["data", "bare", "lines", "list"])
def test_shapes_of_the_file(tmp_path: Path, shape: str) -> None:
    traces = [trace("t1"), trace("t2", START_US + 1_000_000)]
    texts = {
        "data": json.dumps({"total": 0, "data": traces}, indent=1),
        "bare": json.dumps(traces[0], indent=1),
        "lines": "".join(json.dumps(item) + "\n" for item in traces),
        "list": json.dumps(traces),
    }
    file = tmp_path / "traces.json"
    file.write_text(texts[shape])
    assert one(file).spans.height == (3 if shape == "bare" else 6)


def test_fields_of_a_span(tmp_path: Path) -> None:
    file = tmp_path / "traces.json"
    file.write_text(json.dumps({"data": [trace("t1")]}))
    telemetry = one(file)
    a, b, c = telemetry.spans.sort("span_id").rows(named=True)
    assert [span["parent_span_id"] for span in (a, b, c)] == [None, "a", "b"]
    assert [span["kind"] for span in (a, b, c)] == [2, 3, 0]
    assert [span["status_code"] for span in (a, b, c)] == [0, 2, 0]
    assert [span["service.name"] for span in (a, b, c)] == ["web", "web", "cart"]
    assert (b["service.peer.name"], b["k8s.pod.name"]) == ("cart", "web-1")
    assert a["start_time_unix_nano"] == START_US * 1000
    assert a["end_time_unix_nano"] - a["start_time_unix_nano"] == 500_000
    assert telemetry.logs.select("entity", "operation", "severity", "template").rows() == [
        ("web", "call", "ERROR", "Timeout: after <*> ms")
    ]


def test_the_otlp_shaped_result(tmp_path: Path) -> None:
    span = {"traceId": "1".zfill(32), "spanId": "2".zfill(16), "name": "op", "kind": 2}
    span |= {"startTimeUnixNano": str(START_US * 1000), "endTimeUnixNano": str(START_US * 1000 + SECOND_NS)}
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "web"}}]}
    file = tmp_path / "v3.json"
    file.write_text(json.dumps({"result": {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": [span]}]}]}}))
    assert one(file).spans["service.name"].to_list() == ["web"]


def test_traces_are_read_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_CHUNK", 100)
    file = tmp_path / "traces.json"
    file.write_text(json.dumps({"data": [trace(f"t{i}") for i in range(20)], "errors": None}))
    assert one(file).spans.height == 60


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"data": [', "expected JSON"),
        ('{"data": [7]}', "traces as JSON objects"),
        ('{"data": [{"spans": [{"traceID": "t", "spanID": "s", "startTime": "soon"}]}]}', "trace 1: expected a trace"),
        ('{"data": []}', "found none"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "traces.json"
    file.write_text(text)
    with pytest.raises(BadTelemetry, match=message):
        one(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadTelemetry, match="expected a file"):
        one(tmp_path / "nowhere.json")
