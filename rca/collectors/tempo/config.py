"""The table [tempo] of the configuration file."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rca.collectors.tracing.config import TraceSource


class TempoConfig(TraceSource):
    """Tempo's query frontend. Name a tenant with `headers = { X-Scope-OrgID = "..." }`."""

    query: Annotated[
        str, Field(pattern=r"^\{.*\}$", description="TraceQL filter of the traces to read, in one pair of braces")
    ] = "{}"
