"""Recordings that lie in files: one module per format, each with a `read` that yields incidents with their telemetry."""

from __future__ import annotations

from typing import Final

from rca.collectors.files import nezha
from rca.collectors.files.reading import FileFormat

_FORMATS = (FileFormat("nezha", "Nezha data set: spans, logs, metrics", nezha.read, frozenset({"window_ns", "baseline"})),)

FORMATS: Final = {file_format.name: file_format for file_format in _FORMATS}
"""Every file format by the name it has on the command line."""
