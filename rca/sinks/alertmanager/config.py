"""The settings of a sink of the kind `alertmanager`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rca.settings import DurationNs
from rca.sinks.config import Address, IdentifiedSettings
from rca.telemetry import SECOND_NS


class AlertmanagerConfig(IdentifiedSettings):
    """A server with Alertmanager's API v2. For Mimir and the like, `url` ends in their prefix, such as `/alertmanager`."""

    url: Annotated[Address, Field(description="address of the server, with a path prefix where it has one")]
    labels: Annotated[dict[str, str], Field(description='further labels of the alert, to route by: { team = "shop" }')] = {}
    severity: Annotated[str, Field(min_length=1, description="its label `severity`")] = "info"
    lasts: Annotated[
        DurationNs,
        Field(
            le=366 * 86_400 * SECOND_NS,
            description="after this time the alert ends by itself, should nothing resolve its incident before",
        ),
    ] = 86_400 * SECOND_NS
