"""Recordings that lie in files: one module per format, each with a `read` that yields incidents with their telemetry."""

from __future__ import annotations

from typing import Final

from rca.collectors.files import nezha, petshop, tvdiag
from rca.collectors.files.reading import FileFormat

_FORMATS = (
    FileFormat("nezha", "Nezha data set: spans, logs and metrics", nezha.read, frozenset({"window_ns", "baseline"})),
    FileFormat("petshop", "PetShop data set: 5-minute metrics and a call graph", petshop.read),
    FileFormat("tvdiag", "TVDiag data set: alerts and call edges", tvdiag.read),
)

FORMATS: Final = {file_format.name: file_format for file_format in _FORMATS}
"""Every file format by the name it has on the command line."""
