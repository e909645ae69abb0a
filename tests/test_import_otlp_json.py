"""OTLP JSON lines: encodings, window options, bounded memory, and the mapping of metrics."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import zstandard

from rca.collectors.files import FORMATS, recording
from rca.collectors.files.reading import ReadOptions
from rca.errors import BadInput, BadTelemetry
from rca.incidents.incident import Incident
from rca.telemetry import MINUTE_NS, SECOND_NS, Telemetry

read = FORMATS["otlp-json"].read
START_NS = 1_800_000_000 * SECOND_NS


def attrs(**values: Any) -> list[dict[str, Any]]:
    kinds = {str: "stringValue", bool: "boolValue", int: "intValue", float: "doubleValue"}
    return [{"key": key.replace("__", "."), "value": {kinds[type(v)]: v}} for key, v in values.items()]


def span(at_ns: int, trace: str, span_id: str, **more: Any) -> dict[str, Any]:
    times = {"startTimeUnixNano": str(at_ns), "endTimeUnixNano": at_ns + 1_000_000}
    return {"traceId": trace.zfill(32), "spanId": span_id.zfill(16), "name": "op", **times, **more}


def traces(service: str, *spans: dict[str, Any], **resource: Any) -> dict[str, Any]:
    body = {"resource": {"attributes": attrs(service__name=service, **resource)}, "scopeSpans": [{"spans": list(spans)}]}
    return {"resourceSpans": [body], "somethingNew": 1}


def metrics(resource: dict[str, Any], *several: dict[str, Any]) -> dict[str, Any]:
    return {"resourceMetrics": [{"resource": {"attributes": attrs(**resource)}, "scopeMetrics": [{"metrics": list(several)}]}]}


def write(path: Path, *messages: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(message) + "\n" for message in messages))
    return path


def one(path: Path, **options: Any) -> tuple[Incident, Telemetry]:
    ((incident, telemetry),) = read(path, ReadOptions(**options))
    return incident, telemetry


def test_spans_with_new_and_old_names_and_enums(tmp_path: Path) -> None:
    old = attrs(peer__service="db", db__system="mysql", http__status_code=503, net__peer__name="10.0.0.9")
    new = attrs(messaging__destination__name="jobs", http__response__status_code="200")
    file = write(
        tmp_path / "shop.jsonl",
        traces(
            "web",
            span(START_NS, "A1", "b1", kind=3, status={"code": 2}, attributes=old, parentSpanId=""),
            span(
                START_NS + 5,
                "a1",
                "b2",
                kind="SPAN_KIND_SERVER",
                status={"code": "STATUS_CODE_OK"},
                attributes=new,
                parentSpanId="00000000000000b1",
            ),
            {"traceId": "", "spanId": "1"},
            k8s__pod__name="web-1",
            k8s__node__name="n1",
        ),
    )
    incident, telemetry = one(file)
    first, second = telemetry.spans.rows(named=True)
    assert (first["trace_id"], first["parent_span_id"], first["kind"], first["status_code"]) == ("a1".zfill(32), None, 3, 2)
    assert (first["service.peer.name"], first["db.system.name"], first["server.address"]) == ("db", "mysql", "10.0.0.9")
    assert first["http.response.status_code"] == 503
    assert (second["kind"], second["status_code"], second["http.response.status_code"]) == (2, 1, 200)
    assert second["parent_span_id"] == first["span_id"]
    assert (second["messaging.destination.name"], second["k8s.pod.name"]) == ("jobs", "web-1")
    assert set(telemetry.topology.select("source", "relation", "target").rows()) == {
        ("web", "runs", "web-1"),
        ("web-1", "hosted_on", "n1"),
    }
    assert [(gap.source, gap.reason) for gap in telemetry.gaps] == [
        ("spans", "1 spans without id or time were skipped"),
        ("baseline", "no telemetry before the incident window"),
    ]
    assert (incident.system, incident.id) == ("shop", "shop-20270115T080000Z")


def test_base64_ids_are_understood(tmp_path: Path) -> None:
    item = span(START_NS, "1", "2")
    item["traceId"] = base64.b64encode(bytes(range(16))).decode()
    item["spanId"] = base64.b64encode(bytes(range(8))).decode()
    _, telemetry = one(write(tmp_path / "a.jsonl", traces("web", item)))
    assert telemetry.spans["trace_id"][0] == bytes(range(16)).hex()
    assert telemetry.spans["span_id"][0] == bytes(range(8)).hex()


def test_the_end_of_the_recording_is_the_default_window(tmp_path: Path) -> None:
    minutes = [traces("web", span(START_NS + i * MINUTE_NS, "1", f"{i + 1:x}")) for i in range(60)]
    incident, telemetry = one(write(tmp_path / "a.jsonl", *minutes))
    assert incident.window.interval().seconds == 900
    assert incident.window.end_ns == START_NS + 59 * MINUTE_NS + 1
    assert [(b.start_ns, b.end_ns) for b in incident.baselines] == [(START_NS, incident.window.start_ns)]
    assert telemetry.spans.height == 60


def test_window_options(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", *(traces("web", span(START_NS + i * MINUTE_NS, "1", f"{i + 1:x}")) for i in range(60)))
    at_ns = START_NS + 30 * MINUTE_NS
    incident, telemetry = one(file, incident_at_ns=at_ns, window_ns=5 * MINUTE_NS, baseline_ns=10 * MINUTE_NS, system="shop")
    assert (incident.window.start_ns, incident.window.end_ns) == (at_ns, at_ns + 5 * MINUTE_NS)
    assert incident.baselines[0].start_ns == START_NS + 20 * MINUTE_NS
    assert telemetry.spans.height == 10 + 5 + 3
    incident, _ = one(file, start_ns=at_ns, end_ns=at_ns + MINUTE_NS)
    assert incident.window.interval().seconds == 60
    with pytest.raises(BadInput, match="found both"):
        one(file, incident_at_ns=at_ns, start_ns=at_ns)
    with pytest.raises(BadInput, match="no telemetry in it"):
        one(file, incident_at_ns=START_NS - 60 * MINUTE_NS)


def test_memory_is_bounded_by_the_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "_CHUNK_ROWS", 10)
    held: list[int] = []
    forget = recording.Recording._forget

    def watched(self: recording.Recording) -> None:
        forget(self)
        held.append(sum(len(chunk) for chunk in self._chunks["spans"]))

    monkeypatch.setattr(recording.Recording, "_forget", watched)
    spans = [traces("web", span(START_NS + i * MINUTE_NS, "1", f"{i + 1:x}")) for i in range(1000)]
    _, telemetry = one(write(tmp_path / "a.jsonl", *spans), window_ns=5 * MINUTE_NS, baseline_ns=10 * MINUTE_NS)
    assert max(held) <= 16 + 10
    assert telemetry.spans.height == 15


def test_logs_exceptions_and_kubernetes_events(tmp_path: Path) -> None:
    exception = {
        "name": "exception",
        "timeUnixNano": START_NS,
        "attributes": attrs(exception__type="IOError", exception__message="disk 7 gone"),
    }
    records = [
        {
            "timeUnixNano": START_NS,
            "severityNumber": 17,
            "body": {"stringValue": "lost 3 items"},
            "traceId": "1".zfill(32),
            "spanId": "2".zfill(16),
        },
        {"observedTimeUnixNano": str(START_NS), "severityText": "warning", "body": {"stringValue": "slow"}},
        {"timeUnixNano": START_NS, "severityNumber": "SEVERITY_NUMBER_INFO2", "body": {"stringValue": "hello"}},
        {"body": {"stringValue": "when?"}},
    ]
    event = {
        "timeUnixNano": START_NS,
        "severityText": "Warning",
        "body": {"stringValue": "Back-off restarting"},
        "attributes": attrs(k8s__event__reason="BackOff"),
    }
    web, pod = attrs(service__name="web"), attrs(k8s__object__kind="Pod", k8s__object__name="web-1")
    logs = [(web, records), (pod, [event])]
    file = write(
        tmp_path / "a.jsonl",
        traces("web", span(START_NS, "1", "2", events=[exception])),
        {"resourceLogs": [{"resource": {"attributes": r}, "scopeLogs": [{"logRecords": items}]} for r, items in logs]},
    )
    _, telemetry = one(file)
    assert set(telemetry.logs.select("entity", "operation", "severity", "template").rows()) == {
        ("web", "op", "ERROR", "IOError: disk <*> gone"),
        ("web", "op", "ERROR", "lost <*> items"),
        ("web", None, "WARN", "slow"),
        ("web", None, "INFO", "hello"),
    }
    assert telemetry.events.select("entity_kind", "entity", "reason", "severity").row(0) == ("pod", "web-1", "BackOff", "Warning")
    assert any(gap.reason == "1 log records without a time were skipped" for gap in telemetry.gaps)


def histogram(minute: int, *series: tuple[str, list[int]]) -> dict[str, Any]:
    points = [
        {
            "timeUnixNano": START_NS + minute * MINUTE_NS,
            "attributes": attrs(http__response__status_code=int(status)),
            "count": str(sum(counts)),
            "sum": 0.1 * sum(counts),
            "explicitBounds": [0.1, 0.2],
            "bucketCounts": [str(count) for count in counts],
        }
        for status, counts in series
    ]
    return {"name": "http.server.request.duration", "unit": "s", "histogram": {"aggregationTemporality": 2, "dataPoints": points}}


def test_metrics_are_mapped(tmp_path: Path) -> None:
    pod = {"k8s__pod__name": "web-1", "k8s__deployment__name": "web"}
    point = {"timeUnixNano": START_NS + MINUTE_NS}
    transmit = attrs(direction="transmit")

    def network(minute: int, total: int) -> dict[str, Any]:
        points = [{"timeUnixNano": START_NS + minute * MINUTE_NS, "asInt": str(total), "attributes": transmit}]
        return {"name": "k8s.pod.network.io", "sum": {"isMonotonic": True, "aggregationTemporality": 2, "dataPoints": points}}

    file = write(
        tmp_path / "a.jsonl",
        metrics({"service__name": "web"}, histogram(0, ("200", [10, 0, 0]), ("500", [0, 0, 0]))),
        metrics({"service__name": "web"}, histogram(1, ("200", [40, 0, 0]), ("500", [0, 30, 0]))),
        metrics(pod, {"name": "k8s.pod.cpu.usage", "gauge": {"dataPoints": [{**point, "asDouble": 0.5}]}}, network(0, 100)),
        metrics(pod, network(1, 6100), {"name": "my.gauge", "gauge": {"dataPoints": [{**point, "asInt": 7}]}}, network(2, 5)),
    )
    _, telemetry = one(file)
    at_one = telemetry.metrics.filter(pl.col("time_unix_nano") == START_NS + MINUTE_NS)
    found = {(row["entity_kind"], row["entity"], row["metric"]): row["value"] for row in at_one.rows(named=True)}
    web = ("service", "web")
    assert found == {
        ("pod", "web-1", "container.cpu.usage"): 0.5,
        ("pod", "web-1", "container.network.transmit"): 100.0,
        ("pod", "web-1", "my.gauge"): 7.0,
        (*web, "server.request.duration.mean"): pytest.approx(0.1),
        (*web, "server.request.duration.p50"): pytest.approx(0.1),
        (*web, "server.request.duration.p90"): pytest.approx(0.18),
        (*web, "server.request.duration.p95"): pytest.approx(0.19),
        (*web, "server.request.duration.p99"): pytest.approx(0.198),
        (*web, "server.request.rate"): 1.0,
        (*web, "server.request.success_ratio"): 0.5,
    }
    assert telemetry.metrics.height == len(found)  # neither a first point nor a counter that starts anew is a rate


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_compressed_files_and_folders(tmp_path: Path, suffix: str) -> None:
    for i in range(2):
        data = (json.dumps(traces("web", span(START_NS + i, "1", str(i + 1)))) + "\n").encode()
        packed = {"": data, ".gz": gzip.compress(data), ".zst": zstandard.compress(data)}[suffix]
        (tmp_path / f"part{i}.json{suffix}").write_bytes(packed)
    assert one(tmp_path)[1].spans.height == 2


def test_one_value_over_several_lines(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps(traces("web", span(START_NS, "1", "2")), indent=2))
    assert one(file)[1].spans.height == 1


def test_a_line_cut_off_at_the_end_is_a_gap(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", traces("web", span(START_NS, "1", "2")))
    file.write_text(file.read_text() + '{"resourceSpans": [')
    _, telemetry = one(file)
    assert any("cut off" in gap.reason for gap in telemetry.gaps)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found none"),
        ("not json\n", "expected JSON, found 'not json'"),
        ('{"resourceSpans": [{"scopeSpans": 7}]}\n', "OTLP export request"),
        ("[1]\n", "OTLP export request"),
        ('{"resourceSpans": []}\n{"broken\n{"resourceSpans": []}\n', "line 2: expected JSON"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(text)
    with pytest.raises(BadTelemetry, match=message):
        one(file)


def test_seconds_for_nanoseconds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadTelemetry, match="looks like seconds"):
        one(write(tmp_path / "a.jsonl", traces("web", span(1_800_000_000, "1", "2"))))
