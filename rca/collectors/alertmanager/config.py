"""The table `[alertmanager]` of the configuration file."""

from __future__ import annotations

from pydantic import Field

from rca.settings import HttpSource


class AlertmanagerConfig(HttpSource):
    """A server with Alertmanager's API v2. For Mimir and the like, `url` ends in their prefix, such as `/alertmanager`."""

    filters: tuple[str, ...] = Field(default=(), description='matchers that alerts have to meet, such as `team="shop"`')
