"""The table [jaeger] of the configuration file."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rca.collectors.tracing.config import TraceSource


class JaegerConfig(TraceSource):
    """Jaeger's query service, or what speaks its API (`/api/v3`, else `/api`)."""

    ignore_services: Annotated[
        tuple[str, ...],
        Field(description="services whose own traces are not read: those of Jaeger, which reading makes more of"),
    ] = ("jaeger", "jaeger-all-in-one", "jaeger-collector", "jaeger-query")
    topology: Annotated[bool, Field(description="read who calls whom from `/api/dependencies` too")] = True
