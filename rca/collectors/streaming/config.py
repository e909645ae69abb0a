"""How long spans wait for their traces, and what is kept in memory meanwhile."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from rca.settings import DurationNs, Section, SizeBytes
from rca.telemetry import MINUTE_NS, SECOND_NS


class StreamConfig(Section):
    """The table `[stream]`: joining spans across batches."""

    join_wait: Annotated[DurationNs, Field(description="a trace is complete once nothing of it arrived for this long")] = (
        10 * SECOND_NS
    )
    join_limit: Annotated[
        DurationNs, Field(description="a trace is closed this long after its first span arrived, complete or not")
    ] = MINUTE_NS
    duplicate_memory: Annotated[
        DurationNs, Field(description="how long spans are remembered, to drop what a sender sends twice")
    ] = 5 * MINUTE_NS
    max_open_spans: Annotated[
        int, Field(ge=1000, description="spans that may wait for their traces; above it the oldest traces are closed early")
    ] = 1_000_000
    max_open_bytes: Annotated[SizeBytes, Field(description="the same in bytes of memory")] = 512 * 2**20
    max_waiting_spans: Annotated[
        int, Field(ge=1000, description="spans taken and not yet looked at; above it senders are told to try again")
    ] = 400_000
    max_waiting_rows: Annotated[
        int,
        Field(ge=1000, description="rows of any one frame that wait to be stored; above it senders are told to try again"),
    ] = 2_000_000
    max_services: Annotated[
        int, Field(ge=1, description="distinct services (with namespace); what comes above it counts as `_other`")
    ] = 2000
    max_operations: Annotated[
        int, Field(ge=1, description="distinct operations of a service; what comes above it counts as `_other`")
    ] = 200
    max_peers: Annotated[
        int,
        Field(ge=1, description="distinct databases, queues or hosts that one service calls; above it they count as `_other`"),
    ] = 200

    @model_validator(mode="after")
    def _limit_after_wait(self) -> StreamConfig:
        if self.join_limit < self.join_wait:
            raise ValueError("expected join_limit to be no shorter than join_wait")
        return self
