"""Settings that every store of traces has: how much of it is read, and for how long."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rca.settings import DurationNs, HttpSource, SizeBytes
from rca.telemetry import SECOND_NS


class TraceSource(HttpSource):
    """A server that keeps traces. Reading ends at whichever limit is reached first; what was left out becomes a gap."""

    max_traces: Annotated[
        int, Field(ge=1, le=1_000_000, description="traces to read at most; of more, a fair sample is taken")
    ] = 1000
    max_spans: Annotated[int, Field(ge=1, le=50_000_000, description="spans to read at most")] = 300_000
    max_bytes: Annotated[SizeBytes, Field(description="bytes of answers to read at most, all requests together")] = 512 * 2**20
    deadline: Annotated[
        DurationNs, Field(description="when reading ends with what there is; keep it below the deadline of [triage]")
    ] = 8 * SECOND_NS
    search_limit: Annotated[
        int,
        Field(
            ge=1,
            le=100_000,
            description="traces that one search may name; one that names as many is asked again about less time",
        ),
    ] = 1000
