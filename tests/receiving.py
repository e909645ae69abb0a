"""A receiver on loopback with an intake that keeps everything, and requests to send to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import polars as pl
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from rca.collectors.otlp.config import OtlpConfig
from rca.collectors.otlp.intake import Batch
from rca.collectors.otlp.receiver import Receiver
from rca.collectors.otlp.request import Receipt
from rca.errors import RcaError
from rca.telemetry import SECOND_NS

NOW_NS = 1_768_471_200 * SECOND_NS
PROTOBUF, JSON = "application/x-protobuf", "application/json"


class Keeping:
    """An intake that keeps every batch. `full` makes it refuse, `broken` fail; `gate` holds it up while it is cleared."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.full: RcaError | None = None
        self.broken: RcaError | None = None
        self.gate = threading.Event()
        self.gate.set()

    def admit(self) -> None:
        self.gate.wait(10)
        if self.full:
            raise self.full

    def take(self, batch: Batch) -> None:
        if self.broken:
            raise self.broken
        self.batches.append(batch)

    def frame(self, name: str) -> pl.DataFrame:
        """One frame of all batches, ids as hex."""
        whole = pl.concat([getattr(batch, name) for batch in self.batches] or [getattr(Batch(), name)])
        return whole.with_columns(pl.col(pl.Binary).bin.encode("hex"))


@dataclass(frozen=True)
class Running:
    """A receiver that runs, and its intake."""

    receiver: Receiver
    intake: Keeping

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.receiver.http_port}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.receiver.grpc_port}"

    def count(self, outcome: Any, signal: Any, reason: str | None = None) -> int:
        return self.receiver.accounting.total(outcome, signal, reason)


@contextmanager
def running(*, now_ns: int | None = NOW_NS, **settings: Any) -> Iterator[Running]:
    """A receiver on free ports; its clock stands at `now_ns`, or is the machine's. Its books must balance at the end."""
    addresses = {"grpc_address": "127.0.0.1:0", "http_address": "127.0.0.1:0"}
    intake = Keeping()
    clock = time.time_ns if now_ns is None else lambda: now_ns
    with Receiver(OtlpConfig(**{**addresses, **settings}), intake, clock=clock) as receiver:
        yield Running(receiver, intake)
    assert receiver.accounting.balanced(), receiver.accounting.rows()


def pairs(values: Mapping[str, Any]) -> list[KeyValue]:
    """Attributes."""
    return [KeyValue(key=key, value=any_value(value)) for key, value in values.items()]


def any_value(value: Any) -> AnyValue:
    kinds = {bool: "bool_value", int: "int_value", float: "double_value", str: "string_value", bytes: "bytes_value"}
    return AnyValue(**{kinds[type(value)]: value})


def span(number: int = 1, **fields: Any) -> Span:
    """A span of 10 ms that ended a second ago; `attributes` as a mapping."""
    values: dict[str, Any] = {
        "trace_id": number.to_bytes(16),
        "span_id": number.to_bytes(8),
        "name": "GET /cart",
        "kind": 2,
        "start_time_unix_nano": NOW_NS - SECOND_NS - 10_000_000,
        "end_time_unix_nano": NOW_NS - SECOND_NS,
    }
    values |= fields
    values["attributes"] = pairs(values.get("attributes", {}))
    return Span(**values)


def traces(spans: Sequence[Span], **resource: Any) -> ExportTraceServiceRequest:
    """A request with one resource; `resource` adds attributes, with underscores for dots."""
    request = ExportTraceServiceRequest()
    part = request.resource_spans.add()
    part.resource.attributes.extend(pairs(_attributes(resource)))
    part.scope_spans.add().spans.extend(spans)
    return request


def gauges(values: Mapping[str, float], time_ns: int = NOW_NS, **resource: Any) -> ExportMetricsServiceRequest:
    request = ExportMetricsServiceRequest()
    part = request.resource_metrics.add()
    part.resource.attributes.extend(pairs(_attributes(resource)))
    scope = part.scope_metrics.add()
    for name, value in values.items():
        scope.metrics.add(name=name).gauge.data_points.add(time_unix_nano=time_ns, as_double=value)
    return request


def counter(value: int, time_ns: int, name: str = "orders", **attributes: Any) -> ExportMetricsServiceRequest:
    request = ExportMetricsServiceRequest()
    part = request.resource_metrics.add()
    part.resource.attributes.extend(pairs({"service.name": "cart"}))
    body = part.scope_metrics.add().metrics.add(name=name).sum
    body.is_monotonic, body.aggregation_temporality = True, 2
    body.data_points.add(time_unix_nano=time_ns, as_int=value, attributes=pairs(_attributes(attributes)))
    return request


def lines(texts: Sequence[str], time_ns: int = NOW_NS, **resource: Any) -> ExportLogsServiceRequest:
    request = ExportLogsServiceRequest()
    part = request.resource_logs.add()
    part.resource.attributes.extend(pairs(_attributes(resource)))
    scope = part.scope_logs.add()
    for text in texts:
        scope.log_records.add(time_unix_nano=time_ns, severity_number=9, body=any_value(text))
    return request


def _attributes(given: Mapping[str, Any]) -> dict[str, Any]:
    return {"service.name": "cart"} | {name.replace("_", "."): value for name, value in given.items()}


def as_json(message: Any) -> dict[str, Any]:
    """A request in OTLP's JSON: ids in hex, enums as numbers."""
    body = MessageToDict(message, use_integers_for_enums=True)
    for part in body.get("resourceSpans", []):
        for scope in part.get("scopeSpans", []):
            for one, sent in zip(scope.get("spans", []), _spans_of(message), strict=False):
                one |= {"traceId": sent.trace_id.hex(), "spanId": sent.span_id.hex(), "parentSpanId": sent.parent_span_id.hex()}
    for part in body.get("resourceLogs", []):
        for scope in part.get("scopeLogs", []):
            for record in scope.get("logRecords", []):
                record.pop("traceId", None), record.pop("spanId", None)
    return body


def _spans_of(message: Any) -> list[Span]:
    return [span for part in message.resource_spans for scope in part.scope_spans for span in scope.spans]


def receipt_of(receipts: Sequence[Any]) -> Receipt:
    """The only receipt, which is no error."""
    (receipt,) = receipts
    assert isinstance(receipt, Receipt), receipt
    return receipt
