"""Alertmanager: POST /api/v2/alerts of an alert of our own."""

from __future__ import annotations

import json
import time
from typing import ClassVar

from rca.errors import Rejected
from rca.sinks.alertmanager.alert import alert_of
from rca.sinks.alertmanager.config import AlertmanagerConfig
from rca.sinks.http import Post, identity, send
from rca.sinks.markup import line
from rca.sinks.notice import Notice, Sent


class AlertmanagerSink:
    """Fires `RootCauseFound` for an incident, overwrites its annotations and ends it. The reference is the label `incident`."""

    settings: ClassVar[type[AlertmanagerConfig]] = AlertmanagerConfig

    def __init__(self, name: str, config: AlertmanagerConfig) -> None:
        self.name, self.config = name, config

    def send(self, notice: Notice, before: str | None) -> Sent:  # noqa: ARG002 (the labels find the alert again)
        """Fire, overwrite or end the alert. Raises Unavailable, Overloaded, Rejected, BadInput."""
        alert, cut = alert_of(notice, self.config, time.time_ns())
        headers, basic, secrets = identity(self.config)
        url = f"{self.config.url.rstrip('/')}/api/v2/alerts"
        send(Post(self.name, url, json.dumps([alert]).encode(), headers, secrets, basic), self.config)
        return Sent(alert["labels"]["incident"], cut)

    def check(self) -> str:
        """Which Alertmanager answers. Raises Unavailable, Overloaded, Rejected, BadInput."""
        headers, basic, secrets = identity(self.config)
        url = f"{self.config.url.rstrip('/')}/api/v2/status"
        said = send(Post(self.name, url, b"", headers, secrets, basic, method="GET"), self.config).json()
        about = said.get("versionInfo") if isinstance(said, dict) else None
        if not isinstance(about, dict):
            raise Rejected(f"{self.name}: expected Alertmanager's API v2, found something else; is the url right?")
        return f"Alertmanager {line(str(about.get('version', 'of no version')), 40)} answers"
