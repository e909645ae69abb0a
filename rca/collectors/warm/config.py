"""Where live telemetry is kept, for how long, and how often it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from rca.settings import DurationNs, Section, SizeBytes
from rca.telemetry import MINUTE_NS, SECOND_NS

_DAY_NS = 24 * 60 * MINUTE_NS


class StoreConfig(Section):
    """The table `[store]`: telemetry on the disk."""

    folder: Annotated[
        Path | None, Field(description="where telemetry is kept; by default `telemetry` below $RCA_HOME or ~/.local/share/rca")
    ] = None
    flush_interval: Annotated[
        DurationNs, Field(description="how often everything that arrived is written: what a power cut can lose at most")
    ] = 10 * SECOND_NS
    keep: Annotated[DurationNs, Field(description="telemetry older than this is deleted")] = 14 * _DAY_NS
    keep_events: Annotated[DurationNs, Field(description="events older than this are deleted; they are small")] = 60 * _DAY_NS
    max_bytes: Annotated[SizeBytes, Field(description="above this size the oldest telemetry is deleted")] = 20 * 2**30

    @model_validator(mode="after")
    def _events_longer(self) -> StoreConfig:
        if self.keep_events < self.keep:
            raise ValueError("expected keep_events to be no shorter than keep")
        return self
