"""A loopback Jaeger: version 3 of its API as cmd/jaeger answers it, and version 1 as `query` and its user interface speak it."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

from rca.telemetry import SECOND_NS
from tests.servers.loopback import Answer, Loopback, Query, serving
from tests.servers.stored import Stored, StoredSpan, within

_KINDS: Final = ("unspecified", "internal", "server", "client", "producer", "consumer")
_PAGE: Final = Answer(b"<!doctype html><title>Jaeger UI</title>", content_type="text/html")


@contextmanager
def jaeger(traces: Sequence[Stored], *, version: int = 3) -> Generator[Loopback]:
    """Serves traces; a search that matches more than its limit gets the newest. Old ones answer unknown paths with their page."""
    services = sorted({span.service for trace in traces for span in trace.spans})

    def answer(path: str, query: Query) -> Answer:
        if path == "/api/dependencies":
            return _json({"data": [{"parent": "gateway", "child": "shop", "callCount": 7}, {"parent": "gone", "child": "shop"}]})
        if version == 3 and path == "/api/v3/services":
            return _json({"services": services})
        if version == 3 and path == "/api/v3/traces":
            found = _found(query["query.service_name"], _ns(query["query.start_time_min"]), _ns(query["query.start_time_max"]))
            chosen = found[: int(query["query.search_depth"])]
            if not chosen:
                return Answer(json.dumps({"error": {"httpCode": 404, "message": "No traces found"}}).encode(), 404)
            return _json({"result": {"resourceSpans": [part for trace in chosen for part in resource_spans(trace)]}})
        if version == 1 and path == "/api/services":
            return _json({"data": services, "total": len(services), "limit": 0, "offset": 0, "errors": None})
        if version == 1 and path == "/api/traces":
            found = _found(query["service"], int(query["start"]) * 1000, int(query["end"]) * 1000)
            return _json({"data": [v1(trace) for trace in found[: int(query["limit"])]], "errors": None})
        return _PAGE if version == 1 else Answer(b"404 page not found", 404, "text/plain")

    def _found(service: str, start_ns: int, end_ns: int) -> list[Stored]:
        matching = [
            trace
            for trace in within(traces, start_ns, end_ns)
            if any(span.service == service and start_ns <= span.start_ns < end_ns for span in trace.spans)
        ]
        return sorted(matching, key=lambda trace: -trace.start_ns)

    with serving(answer) as about:
        yield about


def resource_spans(trace: Stored) -> list[dict[str, Any]]:
    """OTLP's JSON of a trace."""
    return [
        {
            "resource": {"attributes": [_pair("service.name", service), _pair("k8s.pod.name", f"{service}-0")]},
            "scopeSpans": [{"spans": [_otlp(trace, span) for span in trace.spans if span.service == service]}],
        }
        for service in dict.fromkeys(span.service for span in trace.spans)
    ]


def v1(trace: Stored) -> dict[str, Any]:
    """Jaeger's own JSON of a trace."""
    processes = {service: f"p{i}" for i, service in enumerate(dict.fromkeys(span.service for span in trace.spans))}
    spans = [
        {
            "traceID": trace.trace_id,
            "spanID": span.span_id,
            "operationName": span.name,
            "references": [{"refType": "CHILD_OF", "traceID": trace.trace_id, "spanID": span.parent}] if span.parent else [],
            "startTime": span.start_ns // 1000,
            "duration": (span.end_ns - span.start_ns) // 1000,
            "tags": [
                {"key": "span.kind", "type": "string", "value": _KINDS[span.kind]},
                *({"key": key, "value": value} for key, value in span.attributes),
                *([{"key": "error", "type": "bool", "value": True}] if span.failed else []),
            ],
            "logs": [
                {"timestamp": span.end_ns // 1000, "fields": [{"key": key, "value": value} for key, value in _exception(span)]}
                for _ in range(bool(span.exception))
            ],
            "processID": processes[span.service],
        }
        for span in trace.spans
    ]
    described = {
        key: {"serviceName": name, "tags": [{"key": "k8s.pod.name", "value": f"{name}-0"}]} for name, key in processes.items()
    }
    return {"traceID": trace.trace_id, "spans": spans, "processes": described, "warnings": None}


def _otlp(trace: Stored, span: StoredSpan) -> dict[str, Any]:
    return {
        "traceId": trace.trace_id,
        "spanId": span.span_id,
        "parentSpanId": span.parent,
        "name": span.name,
        "kind": span.kind,
        "startTimeUnixNano": str(span.start_ns),
        "endTimeUnixNano": str(span.end_ns),
        "attributes": [_pair(key, value) for key, value in span.attributes],
        "status": {"code": 2} if span.failed else {},
        "events": [
            {"timeUnixNano": str(span.end_ns), "name": "exception", "attributes": [_pair(*pair) for pair in _exception(span)[1:]]}
            for _ in range(bool(span.exception))
        ],
    }


def _exception(span: StoredSpan) -> list[tuple[str, str]]:
    return [("event", "exception"), ("exception.type", "IOError"), ("exception.message", span.exception)]


def _pair(key: str, value: str | int | bool) -> dict[str, Any]:
    kind = "boolValue" if isinstance(value, bool) else "intValue" if isinstance(value, int) else "stringValue"
    return {"key": key, "value": {kind: str(value) if kind == "intValue" else value}}


def _ns(text: str) -> int:
    moment, _, fraction = text.removesuffix("Z").partition(".")
    return int(datetime.fromisoformat(moment + "+00:00").timestamp()) * SECOND_NS + int(fraction.ljust(9, "0"))


def _json(body: Any) -> Answer:
    return Answer(json.dumps(body).encode())
