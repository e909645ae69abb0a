"""The settings of a sink of the kind `pagerduty`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rca.sinks.config import Address, HttpSinkSettings

Severity = Literal["critical", "error", "warning", "info"]


class PagerDutyConfig(HttpSinkSettings):
    """A service of PagerDuty with an integration "Events API v2"."""

    routing_key_file: Annotated[Path, Field(description="file with the integration key, read anew for every message")]
    severity: Annotated[
        Severity | None, Field(description="severity of every event; without it, the highest that the alerts have, else error")
    ] = None
    join: Annotated[
        Literal["incident", "group"],
        Field(
            description="`incident`: an alert of our own for every incident; `group`: the deduplication key that Alertmanager "
            "gives the group, so that with its integration key the ranking joins the alert that it opened"
        ),
    ] = "incident"
    url: Annotated[Address, Field(description="address of the Events API")] = "https://events.pagerduty.com/v2/enqueue"

    @model_validator(mode="after")
    def _key_of_a_group(self) -> PagerDutyConfig:
        if self.redact and self.join == "group":
            raise ValueError('expected join = "incident" beside redact, since the key of a group is made of its labels')
        return self
