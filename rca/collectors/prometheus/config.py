"""The table `[prometheus]` of the configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from rca.settings import DurationNs, HttpSource, SizeBytes
from rca.telemetry import SECOND_NS

WINDOW_SCRAPES = 4  # a rate needs two samples; four survive a failed scrape and a late one


class PrometheusConfig(HttpSource):
    """A server with Prometheus' HTTP API. For Mimir and the like, `url` ends in their prefix, such as `/prometheus`."""

    scrape_interval: DurationNs = Field(default=15 * SECOND_NS, description="how often this Prometheus scrapes the services")
    step: DurationNs | None = Field(
        default=None, description="time between samples that are asked for, in whole seconds; the scrape interval unless given"
    )
    rate_window: DurationNs | None = Field(
        default=None, description="time over which rates are taken (`{window}` in the map); four scrape intervals unless given"
    )
    selector: str = Field(
        default="",
        description='label matchers that every query gets (`{selector}` in the map), such as `cluster="eu",env="prod"`',
    )
    map_file: Path | None = Field(
        default=None, description="TOML file with entries of your own, which replace ours of the same name"
    )
    disable: tuple[str, ...] = Field(default=(), description="names of entries of the map that are not asked for")
    alerts: bool = Field(default=True, description="read past alerts from the series `ALERTS`")
    budget: DurationNs = Field(default=15 * SECOND_NS, description="time for all queries of one collection together")
    max_response_bytes: SizeBytes = Field(
        default=16 * 2**20, description="largest answer that is read; a larger one is asked for in halves of its time"
    )
    max_samples: Annotated[int, Field(ge=1)] = Field(
        default=5_000_000, description="samples of all queries together; later entries of the map are left out, which is told"
    )
    max_series: Annotated[int, Field(ge=1)] = Field(
        default=5_000, description="series that are read of one query; the rest is cut off, which the ranking says"
    )

    @field_validator("scrape_interval", "step", "rate_window")
    @classmethod
    def _whole_seconds(cls, value: int | None) -> int | None:
        if value is not None and value % SECOND_NS:
            raise ValueError("expected whole seconds, because prometheus-api-client rounds to them")
        return value

    @property
    def step_ns(self) -> int:
        """Time between samples."""
        return self.step or self.scrape_interval

    @property
    def window_ns(self) -> int:
        """Time over which rates are taken."""
        return self.rate_window or WINDOW_SCRAPES * self.scrape_interval
