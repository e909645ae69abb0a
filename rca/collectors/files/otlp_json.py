"""OTLP as JSON: what the OpenTelemetry Collector's file exporter writes, one export request a line.

Both the present and the older names of attributes are read; unknown fields are ignored. Field names and encodings:
https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

from rca.collectors.files.otlp_metrics import LastValues, MetricReader
from rca.collectors.files.reading import DEFAULTS, Progress, ReadOptions, quiet
from rca.collectors.files.recording import Recording, Rows, system_name
from rca.collectors.files.streams import json_files, json_lines
from rca.errors import BadTelemetry
from rca.incidents.incident import Incident
from rca.telemetry import EntityKind, Telemetry

ALIASES: Final = (
    ("service.peer.name", "peer.service"),
    ("db.system.name", "db.system"),
    ("db.namespace", "db.name"),
    ("messaging.system",),
    ("messaging.destination.name", "messaging.destination"),
    ("server.address", "net.peer.name"),
)
"""Text attributes of a span in the order of the frame's columns: the present name, then older ones."""

Emitter = tuple[str, str | None, str | None, str | None]
"""Service, namespace, pod and node of whatever sent a span."""
Relation = tuple[str, str, str, str, str]
"""A row of the `topology` frame."""

_ALIAS_NAMES: Final = frozenset(name for names in ALIASES for name in names)
_NO_PEERS: Final = (None,) * len(ALIASES)
HTTP_STATUS: Final = ("http.response.status_code", "http.status_code")
_KINDS: Final = {
    f"SPAN_KIND_{name}": i for i, name in enumerate(("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER"))
}
_STATUSES: Final = {"STATUS_CODE_UNSET": 0, "STATUS_CODE_OK": 1, "STATUS_CODE_ERROR": 2}
_SEVERITIES: Final = ("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL")
OWNERS: Final = ("service.name", "k8s.deployment.name", "k8s.statefulset.name", "k8s.daemonset.name")
_LONGEST_LINE: Final = 2000  # characters
_EVENT_KINDS: Final[dict[str, EntityKind]] = {"Pod": "pod", "Node": "node"}


def read(path: Path, options: ReadOptions = DEFAULTS, progress: Progress = quiet) -> Iterator[tuple[Incident, Telemetry]]:
    """One incident out of a file, or out of a folder's JSON files together. Raises BadTelemetry, BadInput."""
    recording = Recording(str(path), options)
    reader = OtlpReader(recording)
    for file in json_files(path):
        for number, message in json_lines(file):
            if number % 100 == 1:
                progress(0, 1, f"{file.name}, line {number}")
            if message is None:
                recording.skip("otlp-json", "lines that were cut off")
            else:
                reader.take(message, f"{file}, line {number}")
    yield recording.incident("otlp-json", system_name(options.system or path.name.split(".")[0]))
    progress(1, 1, "done")


def attributes(pairs: Any, most: int | None = None) -> dict[str, Any]:
    """The first `most` key-value pairs as a dict; of the values, text, numbers and booleans are read."""
    return {pair.get("key", ""): scalar(pair.get("value") or {}) for pair in islice(pairs or (), most)}


def emitter_of(resource: Mapping[str, Any]) -> Emitter:
    """Who sent the spans of a resource, whose attributes are given."""
    service = first(resource, OWNERS) or "unknown_service"
    return service, *(first(resource, (name,)) for name in ("service.namespace", "k8s.pod.name", "k8s.node.name"))  # type: ignore[return-value]


def relations_of(resource: Mapping[str, Any]) -> list[Relation]:
    """What a resource says about which service runs on which pod and node."""
    owner, pod, node = (first(resource, names) for names in (OWNERS, ("k8s.pod.name",), ("k8s.node.name",)))
    runs: list[Relation] = [("service", owner, "runs", "pod", pod)] if owner and pod else []
    return runs + ([("pod", pod, "hosted_on", "node", node)] if pod and node else [])


def exception_text(details: Mapping[str, Any]) -> str:
    """The log line that an exception event of a span stands for, from its attributes."""
    return f"{details.get('exception.type') or 'exception'}: {details.get('exception.message') or ''}"[:_LONGEST_LINE]


def peers(values: Mapping[str, Any]) -> tuple[str | None, ...]:
    """Text attributes of a span in the order of ALIASES."""
    if _ALIAS_NAMES.isdisjoint(values):
        return _NO_PEERS
    return tuple(first(values, names) for names in ALIASES)


def first(values: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """The first of several attributes that is there, as text."""
    value = next((values[name] for name in names if values.get(name) not in (None, "")), None)
    return None if value is None else str(value)


def http_status(values: Mapping[str, Any]) -> int | None:
    """HTTP status code of a span, if it has a sensible one."""
    for name in HTTP_STATUS:
        text = str(values.get(name, ""))
        if len(text) == 3 and text.isdecimal():
            return int(text)
    return None


class OtlpReader:
    """Reads export requests for traces, metrics and logs into rows. Attributes of a span beyond the first `most` are left out."""

    def __init__(self, rows: Rows, last: LastValues | None = None, most: int | None = None) -> None:
        self._rows = rows
        self._metrics = MetricReader(rows, LastValues() if last is None else last)
        self._most = most

    def take(self, message: Any, where: str) -> None:
        """Read one export request. Raises BadTelemetry if it does not have OTLP's shape."""
        try:
            for part in message.get("resourceSpans") or ():
                self._spans(part)
            for part in message.get("resourceMetrics") or ():
                self._metrics.take(self._resource(part), part)
            for part in message.get("resourceLogs") or ():
                self._logs(part)
            if not any(key in message for key in ("resourceSpans", "resourceMetrics", "resourceLogs")):
                self._rows.skip("otlp-json", "messages without spans, metrics or logs")
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise BadTelemetry(where, expected="an OTLP export request in JSON", found=repr(error)) from error

    def _resource(self, part: Mapping[str, Any]) -> dict[str, Any]:
        resource = attributes((part.get("resource") or {}).get("attributes"))
        for relation in relations_of(resource):
            self._rows.relate(relation)
        return resource

    def _spans(self, part: Mapping[str, Any]) -> None:
        resource = self._resource(part)
        emitter = emitter_of(resource)
        for scope in part.get("scopeSpans") or part.get("instrumentationLibrarySpans") or ():
            for span in scope.get("spans") or ():
                self._span(emitter, span)

    def _span(self, emitter: Emitter, span: Mapping[str, Any]) -> None:
        trace_id, span_id = _hex_id(span.get("traceId")), _hex_id(span.get("spanId"))
        start_ns, end_ns = int(span.get("startTimeUnixNano") or 0), int(span.get("endTimeUnixNano") or 0)
        if not trace_id or not span_id or not start_ns or not end_ns:
            self._rows.skip("spans", "spans without id or time")
            return
        pairs = span.get("attributes") or ()
        if self._most is not None and len(pairs) > self._most:
            self._rows.skip("attributes", "attributes beyond the limit", len(pairs) - self._most)
        values = attributes(pairs, self._most)
        kind, status = _enum(span.get("kind"), _KINDS), _enum((span.get("status") or {}).get("code"), _STATUSES)
        head = (trace_id, span_id, _hex_id(span.get("parentSpanId")), span.get("name") or "", kind, start_ns, end_ns, status)
        self._rows.add("spans", (*head, *emitter, *peers(values), http_status(values)))
        for event in span.get("events") or ():
            if event.get("name") == "exception":
                text = exception_text(attributes(event.get("attributes"), self._most))
                time_ns = int(event.get("timeUnixNano") or end_ns)
                self._rows.add("lines", (time_ns, *emitter[:2], "ERROR", text, trace_id, span_id))

    def _logs(self, part: Mapping[str, Any]) -> None:
        resource = self._resource(part)
        service = first(resource, (*OWNERS, "k8s.pod.name", "k8s.container.name"))
        for scope in part.get("scopeLogs") or part.get("instrumentationLibraryLogs") or ():
            for record in scope.get("logRecords") or scope.get("logs") or ():
                self._log(service, resource, record)

    def _log(self, service: str | None, resource: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        time_ns = int(record.get("timeUnixNano") or 0) or int(record.get("observedTimeUnixNano") or 0)
        values = attributes(record.get("attributes"))
        body = scalar(record.get("body") or {})
        if not time_ns:
            self._rows.skip("logs", "log records without a time")
        elif values.get("k8s.event.reason"):
            kind = _EVENT_KINDS.get(str(resource.get("k8s.object.kind")), "service")
            entity = str(resource.get("k8s.object.name") or service or "unknown_service")
            severity = "Normal" if (record.get("severityText") or "Normal") == "Normal" else "Warning"
            namespace = values.get("k8s.namespace.name") or resource.get("k8s.namespace.name")
            text = None if body is None else str(body)[:_LONGEST_LINE]
            reason = str(values["k8s.event.reason"])
            self._rows.add("events", (time_ns, kind, entity, namespace and str(namespace), reason, text, severity))
        elif service is None or body in (None, ""):
            self._rows.skip("logs", "log records without service or text")
        else:
            row = (
                time_ns,
                service,
                first(resource, ("service.namespace",)),
                _level(record),
                str(body)[:_LONGEST_LINE],
                _hex_id(record.get("traceId")),
                _hex_id(record.get("spanId")),
            )
            self._rows.add("lines", row)


def _enum(value: Any, names: Mapping[str, int]) -> int:
    """A protobuf enum: a number, or its name as protobuf's own JSON has it. Unknown names count as 0."""
    return value if isinstance(value, int) else names.get(str(value), 0)


def _level(record: Mapping[str, Any]) -> str | None:
    number = record.get("severityNumber") or 0
    if isinstance(number, str):  # the name of the enum value, such as SEVERITY_NUMBER_WARN2
        return number.removeprefix("SEVERITY_NUMBER_").rstrip("1234")
    return _SEVERITIES[min((number - 1) // 4, 5)] if number > 0 else record.get("severityText") or None


def scalar(value: Mapping[str, Any]) -> Any:
    """Text, number or boolean of an attribute's value or a log's body; None for other kinds."""
    if "intValue" in value:
        return int(value["intValue"])
    for kind in ("stringValue", "doubleValue", "boolValue"):
        if kind in value:
            return value[kind]
    if "kvlistValue" in value:  # a structured log body
        return " ".join(
            f"{pair.get('key', '')}={scalar(pair.get('value') or {})}" for pair in value["kvlistValue"].get("values") or ()
        )
    return None


def _hex_id(text: Any) -> str | None:
    """An id in lower-case hex. Some writers use base64, as protobuf's own JSON does. All zeros means none."""
    if not text:
        return None
    if len(text) not in (16, 32):  # ids of 8 and 16 bytes are 12 and 24 characters in base64
        with contextlib.suppress(binascii.Error, ValueError):
            decoded = base64.b64decode(text, validate=True)
            text = decoded.hex() if len(decoded) in (8, 16) else text
    return text.lower() if text.strip("0") else None
