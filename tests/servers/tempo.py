"""A loopback Tempo whose search, like the real one's, returns any of the matching traces, other ones each time."""

from __future__ import annotations

import json
import random
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

from google.protobuf.json_format import ParseDict
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from rca.telemetry import SECOND_NS
from tests.servers.jaeger import resource_spans
from tests.servers.loopback import Answer, Loopback, Query, serving
from tests.servers.stored import Stored


@contextmanager
def tempo(traces: Sequence[Stored], *, version: int = 2, partial: frozenset[str] = frozenset()) -> Generator[Loopback]:
    """Serves traces; those of `partial` come without their last span, and are said to."""
    by_id = {trace.trace_id: trace for trace in traces}
    services = sorted({span.service for trace in traces for span in trace.spans})
    draws = random.Random(7)

    def answer(path: str, query: Query) -> Answer:
        if path == "/api/status/buildinfo":
            return _json({"version": "2.9.0"})
        if path == "/api/v2/search/tag/resource.service.name/values":
            return _json({"tagValues": [{"type": "string", "value": name} for name in services]})
        if path == "/api/search":
            start_ns, end_ns = int(query["start"]) * SECOND_NS, int(query["end"]) * SECOND_NS
            matching = [trace for trace in traces if trace.start_ns < end_ns and trace.end_ns >= start_ns]
            draws.shuffle(matching)
            return _json({"traces": [_metadata(trace) for trace in matching[: int(query.get("limit", 20))]], "metrics": {}})
        *_, which, trace_id = path.split("/")
        if which == "traces" and trace_id in by_id and (path.startswith("/api/v2/") == (version == 2)):
            body = protobuf(by_id[trace_id], cut=trace_id in partial)
            return Answer(
                wrapped(body, partial=trace_id in partial) if version == 2 else body, content_type="application/protobuf"
            )
        return Answer(b"404 page not found", 404, "text/plain")

    with serving(answer) as about:
        yield about


def protobuf(trace: Stored, *, cut: bool = False) -> bytes:
    """OTLP's protobuf of a trace."""
    kept = Stored(trace.trace_id, trace.spans[:-1] if cut else trace.spans)
    message = TracesData()
    for part in resource_spans(kept):
        into = message.resource_spans.add()
        ParseDict({"resource": part["resource"]}, into)
        scope = into.scope_spans.add()
        for span in part["scopeSpans"][0]["spans"]:
            ids = {name: bytes.fromhex(span.pop(name)) for name in ("traceId", "spanId", "parentSpanId")}
            made = ParseDict(span, scope.spans.add())
            made.trace_id, made.span_id, made.parent_span_id = ids.values()
    return message.SerializeToString()


def wrapped(trace: bytes, *, partial: bool = False) -> bytes:
    """tempopb.TraceByIDResponse: trace = 1, metrics = 2 (empty), status = 3, message = 4."""
    status = b"\x18\x01" + b"\x22\x09too large" if partial else b""
    return b"\x0a" + _varint(len(trace)) + trace + b"\x12\x00" + status


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _metadata(trace: Stored) -> dict[str, Any]:
    root = trace.spans[0]
    return {
        "traceID": trace.trace_id.lstrip("0"),
        "rootServiceName": root.service,
        "rootTraceName": root.name,
        "startTimeUnixNano": str(trace.start_ns),
        "durationMs": (trace.end_ns - trace.start_ns) // 1_000_000,
        "spanSets": [{"spans": [{"spanID": root.span_id, "startTimeUnixNano": str(root.start_ns)}], "matched": len(trace.spans)}],
    }


def _json(body: Any) -> Answer:
    return Answer(json.dumps(body).encode())
