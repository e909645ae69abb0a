"""Conformance: the real exporters of OpenTelemetry for Python and Node, over every transport."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcLogs
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetrics
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpans
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpLogs
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetrics
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpans
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode

from rca.errors import Overloaded
from tests.receiving import Running, running

NODE = Path(__file__).parent / "node"
RESOURCE = {
    "service.name": "checkout",
    "service.namespace": "shop",
    "k8s.pod.name": "checkout-1",
    "k8s.node.name": "node-a",
}


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text("s3cret\n", encoding="utf-8")
    return path


@pytest.fixture
def receiver(tokens: Path) -> Iterator[Running]:
    with running(now_ns=None, tokens_file=tokens) as found:
        yield found


def _exporters(receiver: Running, transport: str, token: str) -> tuple[Any, Any, Any]:
    if transport == "grpc":
        given: dict[str, Any] = {"insecure": True, "endpoint": f"http://{receiver.grpc}"}
        headers = {"headers": (("authorization", f"Bearer {token}"),)}
        return GrpcSpans(**given, **headers), GrpcMetrics(**given, **headers), GrpcLogs(**given, **headers)
    given = {
        "headers": {"authorization": f"Bearer {token}"},
        "compression": Compression.Gzip if transport == "http+gzip" else Compression.NoCompression,
    }
    base = f"{receiver.http}/v1"
    return (
        HttpSpans(endpoint=f"{base}/traces", **given),
        HttpMetrics(endpoint=f"{base}/metrics", **given),
        HttpLogs(endpoint=f"{base}/logs", **given),
    )


def _export_from_python(receiver: Running, transport: str, token: str = "s3cret") -> tuple[str, list[str]]:
    """What export.mjs sends, from Python: the trace id and the span ids, the entry first."""
    spans, metrics, logs = _exporters(receiver, transport, token)
    resource = Resource(RESOURCE)
    traces = TracerProvider(resource=resource)
    traces.add_span_processor(BatchSpanProcessor(spans))
    tracer = traces.get_tracer("conformance")
    with tracer.start_as_current_span("POST /order", kind=SpanKind.SERVER) as server:
        attributes = {"db.system.name": "postgresql", "db.namespace": "orders", "server.port": 5432}
        client = tracer.start_span("SELECT orders", kind=SpanKind.CLIENT, attributes=attributes)
        client.record_exception(ConnectionError("connection 17 reset"))
        client.set_status(Status(StatusCode.ERROR))
        client.end()
    meters = MeterProvider([PeriodicExportingMetricReader(metrics)], resource)
    meter = meters.get_meter("conformance")
    meter.create_observable_gauge("process.load", [_half])
    counter = meter.create_counter("orders")
    counter.add(3)
    meters.force_flush()
    counter.add(6)
    meters.force_flush()
    records = LoggerProvider(resource)
    records.add_log_record_processor(BatchLogRecordProcessor(logs))
    records.get_logger("conformance").emit(
        LogRecord(severity_number=SeverityNumber.ERROR, severity_text="ERROR", body="order 42 lost", timestamp=time.time_ns())
    )
    for provider in (traces, meters, records):
        provider.shutdown()
    ids = [span.get_span_context() for span in (server, client)]
    return f"{ids[0].trace_id:032x}", [f"{one.span_id:016x}" for one in ids]


def _half(_: CallbackOptions) -> list[Observation]:
    return [Observation(0.5)]


def _check(receiver: Running, trace_id: str, span_ids: list[str]) -> None:
    """Everything that was sent is there, once."""
    spans = {row["span_id"]: row for row in receiver.intake.frame("spans").iter_rows(named=True)}
    server, client = (spans[span_id] for span_id in span_ids)
    assert server["trace_id"] == client["trace_id"] == trace_id
    assert (server["parent_span_id"], client["parent_span_id"]) == (None, span_ids[0])
    assert (server["name"], server["kind"], server["status_code"]) == ("POST /order", 2, 0)
    assert (client["name"], client["kind"], client["status_code"]) == ("SELECT orders", 3, 2)
    assert (client["db.system.name"], client["db.namespace"]) == ("postgresql", "orders")
    assert {name: server[name] for name in RESOURCE} == RESOURCE
    assert server["start_time_unix_nano"] <= client["start_time_unix_nano"] <= client["end_time_unix_nano"]

    metrics = receiver.intake.frame("metrics")
    load = metrics.filter(metrics["metric"] == "process.load")
    assert set(load["value"]) == {0.5}
    assert set(load["entity"]) == {"checkout-1"}
    orders = metrics.filter(metrics["metric"] == "orders")["value"]
    assert orders.max() > 0  # type: ignore[operator]

    logs = {(row["severity"], row["template"]): row for row in receiver.intake.frame("logs").iter_rows(named=True)}
    lost = logs["ERROR", "order <*> lost"]
    assert (lost["entity"], lost["namespace"], lost["operation"], lost["count"]) == ("checkout", "shop", None, 1)
    (thrown,) = [row for (_, template), row in logs.items() if template.endswith("connection <*> reset")]
    assert (thrown["operation"], thrown["severity"], thrown["count"]) == ("SELECT orders", "ERROR", 1)

    topology = set(receiver.intake.frame("topology").iter_rows())
    assert ("service", "checkout", "runs", "pod", "checkout-1") in topology
    assert ("pod", "checkout-1", "hosted_on", "node", "node-a") in topology
    assert receiver.count("rejected", "spans") == receiver.count("rejected", "logs") == 0
    assert receiver.count("received", "spans") == 2


@pytest.mark.parametrize("transport", ["grpc", "http", "http+gzip"])
def test_python_exporters(receiver: Running, transport: str) -> None:
    _check(receiver, *_export_from_python(receiver, transport))


@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_python_exporters_are_told_that_their_token_is_wrong(
    receiver: Running, transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        _export_from_python(receiver, transport, token="guess")
    assert receiver.intake.batches == []
    assert receiver.count("requests", "spans", "unauthorized") == 1
    assert any("UNAUTHENTICATED" in message or "401" in message or "Unauthorized" in message for message in caplog.messages)


@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_python_exporters_come_back_when_they_are_told_to(receiver: Running, transport: str) -> None:
    receiver.intake.full = Overloaded("the store is behind", retry_after_s=0.2)
    spans, _, _ = _exporters(receiver, transport, "s3cret")
    traces = TracerProvider(resource=Resource(RESOURCE))
    traces.add_span_processor(SimpleSpanProcessor(spans))
    emptied = threading.Timer(0.3, setattr, (receiver.intake, "full", None))
    emptied.start()
    with traces.get_tracer("conformance").start_as_current_span("POST /order"):
        pass
    traces.shutdown()
    emptied.join()
    assert receiver.count("requests", "spans", "told to come back later") >= 1
    assert receiver.count("accepted", "spans") == receiver.intake.frame("spans").height == 1


def _export_from_node(receiver: Running, kind: str, token: str = "s3cret") -> dict[str, Any]:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    if not (NODE / "node_modules").is_dir():
        pytest.skip("the exporters for Node are not installed (npm ci --prefix tests/node)")
    endpoint = f"http://{receiver.grpc}" if kind == "grpc" else receiver.http
    command = [node, "export.mjs", kind, endpoint, token]
    done = subprocess.run(command, cwd=NODE, capture_output=True, text=True, timeout=60, check=True)
    said: dict[str, Any] = json.loads(done.stdout)
    return said


@pytest.mark.parametrize("kind", ["http", "proto", "grpc"])
def test_node_exporters(receiver: Running, kind: str) -> None:
    said = _export_from_node(receiver, kind)
    assert said["complaints"] == []
    _check(receiver, said["traceId"], said["spanIds"])


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_node_exporters_are_told_that_their_token_is_wrong(receiver: Running, kind: str) -> None:
    said = _export_from_node(receiver, kind, token="guess")
    assert said["complaints"]
    assert receiver.intake.batches == []
    assert receiver.count("requests", "spans", "unauthorized") == 1
