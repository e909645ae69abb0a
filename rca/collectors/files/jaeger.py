"""Jaeger's JSON: `{"data": [{traceID, spans, processes}]}` of the UI and `/api/traces`, or the OTLP-shaped result of v3."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from rca.collectors.files.otlp_json import OtlpReader, http_status, peers
from rca.collectors.files.reading import DEFAULTS, Progress, ReadOptions, quiet
from rca.collectors.files.recording import Recording, Rows, system_name
from rca.collectors.files.streams import array_elements, has_array, json_files, json_lines
from rca.errors import BadTelemetry
from rca.incidents.incident import Incident
from rca.telemetry import Telemetry

_MICROSECOND_NS: Final = 1000
_KINDS: Final = {"internal": 1, "server": 2, "client": 3, "producer": 4, "consumer": 5}
_TRUE: Final = (True, "true", "True", 1)


def read(path: Path, options: ReadOptions = DEFAULTS, progress: Progress = quiet) -> Iterator[tuple[Incident, Telemetry]]:
    """One incident out of a file, or out of a folder's JSON files together. Raises BadTelemetry, BadInput."""
    recording = Recording(str(path), options)
    otlp = OtlpReader(recording)
    for file in json_files(path):
        for number, value in enumerate(_traces(file), start=1):
            where = f"{file}, trace {number}"
            if number % 100 == 1:
                progress(0, 1, f"{file.name}, trace {number}")
            if "spans" in value:
                take_trace(recording, value, where)
            else:
                otlp.take(value.get("result", value), where)
    yield recording.incident("jaeger", system_name(options.system or path.name.split(".")[0]))
    progress(1, 1, "done")


def _traces(file: Path) -> Iterator[Mapping[str, Any]]:
    """Traces one at a time: of a `data` array, of lines, or of a list."""
    values = array_elements(file, "data") if has_array(file, "data") else (value for _, value in json_lines(file))
    for value in values:
        for trace in value if isinstance(value, list) else (value,):
            if not isinstance(trace, dict):
                raise BadTelemetry(str(file), expected="traces as JSON objects", found=type(trace).__name__)
            yield trace


def take_trace(recording: Rows, trace: Mapping[str, Any], where: str) -> None:
    """Read one element of `data`. Raises BadTelemetry if it does not have the shape of a trace."""
    try:
        processes = {key: _process(process) for key, process in (trace.get("processes") or {}).items()}
        for span in trace["spans"] or ():
            process = processes.get(span.get("processID")) or _process(span.get("process") or {})
            _span(recording, process, span)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadTelemetry(where, expected="a trace in Jaeger's JSON", found=repr(error)) from error


def _process(process: Mapping[str, Any]) -> tuple[str, Any, Any, Any]:
    """Service, namespace, pod and node of a process."""
    tags = _tags(process.get("tags"))
    service = process.get("serviceName") or "unknown_service"
    return service, tags.get("service.namespace"), tags.get("k8s.pod.name"), tags.get("k8s.node.name")


def _tags(pairs: Any) -> dict[str, Any]:
    return {pair["key"]: pair.get("value") for pair in pairs or ()}


def _span(recording: Rows, process: tuple[str, Any, Any, Any], span: Mapping[str, Any]) -> None:
    trace_id, span_id = span.get("traceID"), span.get("spanID")
    if not trace_id or not span_id or span.get("startTime") is None:
        recording.skip("spans", "spans without id or time")
        return
    tags = _tags(span.get("tags"))
    start_ns = int(span["startTime"]) * _MICROSECOND_NS
    end_ns = start_ns + int(span.get("duration") or 0) * _MICROSECOND_NS
    kind = _KINDS.get(str(tags.get("span.kind")), 0)
    row = (trace_id, span_id, _parent(span), span.get("operationName") or "", kind, start_ns, end_ns, _status(tags))
    recording.add("spans", (*row, *process, *peers(tags), http_status(tags)))
    for log in span.get("logs") or ():
        fields = _tags(log.get("fields"))
        kind_of_error = fields.get("exception.type") or fields.get("error.kind")
        if kind_of_error or fields.get("event") in ("error", "exception"):
            message = fields.get("exception.message") or fields.get("message") or fields.get("error.object") or ""
            text = f"{kind_of_error or 'error'}: {message}"
            recording.add(
                "lines", (int(log["timestamp"]) * _MICROSECOND_NS, process[0], process[1], "ERROR", text, trace_id, span_id)
            )


def _parent(span: Mapping[str, Any]) -> str | None:
    """The span that this one is a child of; failing that, the one it follows; in older files a field of its own."""
    references = [ref for ref in span.get("references") or () if ref.get("traceID") in (None, span["traceID"])]
    references.sort(key=lambda ref: ref.get("refType") != "CHILD_OF")
    parent = references[0].get("spanID") if references else span.get("parentSpanID")
    return parent if parent and str(parent).strip("0") else None


def _status(tags: Mapping[str, Any]) -> int:
    if tags.get("error") in _TRUE or tags.get("otel.status_code") == "ERROR":
        return 2
    return 1 if tags.get("otel.status_code") == "OK" else 0
