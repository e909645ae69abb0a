"""Recordings that lie in files: one module per format, each with a `read` that yields incidents with their telemetry."""

from __future__ import annotations

from typing import Final

from rca.collectors.files import jaeger, nezha, otlp_json, petshop, rcaeval, tvdiag
from rca.collectors.files.reading import FileFormat

_UNLABELLED = frozenset({"window_ns", "start_ns", "end_ns", "incident_at_ns", "baseline_ns", "system"})

_FORMATS = (
    FileFormat("nezha", "Nezha data set: spans, logs and metrics", nezha.read, frozenset({"window_ns", "baseline"})),
    FileFormat("petshop", "PetShop data set: 5-minute metrics and a call graph", petshop.read),
    FileFormat("tvdiag", "TVDiag data set: alerts and call edges", tvdiag.read),
    FileFormat("rcaeval", "RCAEval layout: metrics, spans and logs of injected faults", rcaeval.read, frozenset({"window_ns"})),
    FileFormat("otlp-json", "OTLP JSON lines of the Collector's file exporter", otlp_json.read, _UNLABELLED),
    FileFormat("jaeger", "Jaeger JSON: traces of the UI or the query API", jaeger.read, _UNLABELLED),
)

FORMATS: Final = {file_format.name: file_format for file_format in _FORMATS}
"""Every file format by the name it has on the command line."""
