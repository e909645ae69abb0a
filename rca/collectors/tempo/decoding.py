"""What Tempo answers for a trace, in protobuf: the spans, and whether some are missing.

Version 2 of its API wraps the trace (tempopb.TraceByIDResponse: trace = 1, status = 3); version 1 returns it bare. The trace
itself has OTLP's shape in both. What attributes mean is decided by rca.collectors.files.otlp_json.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import DecodeError
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from rca.collectors.files.otlp_json import Emitter, emitter_of, exception_text, http_status, peers, relations_of
from rca.collectors.files.recording import Rows
from rca.errors import BadTelemetry

_PARTIAL: Final = 1


def _answer() -> Any:
    """Message class of TraceByIDResponse, the trace left as bytes."""
    file = FileDescriptorProto(name="rca/tempo.proto", package="rca.tempo", syntax="proto3")
    message = file.message_type.add(name="TraceByIDResponse")
    message.field.add(name="trace", number=1, label="LABEL_OPTIONAL", type="TYPE_BYTES")
    message.field.add(name="status", number=3, label="LABEL_OPTIONAL", type="TYPE_INT32")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("rca.tempo.TraceByIDResponse"))


_Answer: Final = _answer()


def take_answer(body: bytes, rows: Rows, *, wrapped: bool) -> bool:
    """Read an answer; True if Tempo says that the trace is partial. Raises BadTelemetry if it is no trace."""
    try:
        answer = _Answer.FromString(body) if wrapped else None
        trace = TracesData.FromString(body if answer is None else answer.trace)
    except DecodeError as error:
        raise BadTelemetry("a trace of Tempo", expected="protobuf", found=str(error)) from error
    for part in trace.resource_spans:
        resource = _attributes(part.resource.attributes)
        for relation in relations_of(resource):
            rows.relate(relation)
        emitter = emitter_of(resource)
        for scope in part.scope_spans:
            for span in scope.spans:
                _span(rows, emitter, span)
    return answer is not None and answer.status == _PARTIAL


def _span(rows: Rows, emitter: Emitter, span: Any) -> None:
    start_ns, end_ns = span.start_time_unix_nano, span.end_time_unix_nano
    if not any(span.trace_id) or not any(span.span_id) or not start_ns or not end_ns:
        rows.skip("spans", "spans without id or time")
        return
    trace_id, span_id = span.trace_id.hex(), span.span_id.hex()
    parent = span.parent_span_id.hex() if any(span.parent_span_id) else None
    values = _attributes(span.attributes)
    head = (trace_id, span_id, parent, span.name, span.kind, start_ns, end_ns, span.status.code)
    rows.add("spans", (*head, *emitter, *peers(values), http_status(values)))
    for event in span.events:
        if event.name == "exception":
            text = exception_text(_attributes(event.attributes))
            rows.add("lines", (event.time_unix_nano or end_ns, *emitter[:2], "ERROR", text, trace_id, span_id))


def _attributes(pairs: Iterable[Any]) -> dict[str, Any]:
    """Text, numbers and booleans by key."""
    values = {}
    for pair in pairs:
        kind = pair.value.WhichOneof("value")
        if kind in ("string_value", "int_value", "double_value", "bool_value"):
            values[pair.key] = getattr(pair.value, kind)
    return values
