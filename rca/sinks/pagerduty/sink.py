"""PagerDuty: trigger and resolve with the same deduplication key. Acknowledging is left to people."""

from __future__ import annotations

import json
from typing import ClassVar, Final

from rca.errors import BadInput
from rca.settings import secret_in
from rca.sinks.http import Post, look, send
from rca.sinks.notice import Notice, Sent
from rca.sinks.pagerduty.config import PagerDutyConfig
from rca.sinks.pagerduty.event import event_of

_KEY_LENGTH: Final = 32


class PagerDutySink:
    """Opens an alert, updates it by triggering it again, and resolves it. The reference is the deduplication key."""

    settings: ClassVar[type[PagerDutyConfig]] = PagerDutyConfig

    def __init__(self, name: str, config: PagerDutyConfig) -> None:
        self.name, self.config = name, config

    def send(self, notice: Notice, before: str | None) -> Sent:
        """Trigger or resolve. Raises Unavailable, Overloaded, Rejected, BadInput."""
        event, cut = event_of(notice, self.config)
        if before:
            event["dedup_key"] = before  # also where `join` was changed in the meantime
        key = secret_in(self.config.routing_key_file)
        body = json.dumps({"routing_key": key, **event}).encode()
        send(Post(self.name, self.config.url, body, {}, secrets=(key,)), self.config)
        return Sent(event["dedup_key"], cut)

    def check(self) -> str:
        """Whether the key may be one, and the Events API answers, which tells of a key by an event alone."""
        key = secret_in(self.config.routing_key_file)
        if len(key) != _KEY_LENGTH:
            where = str(self.config.routing_key_file)
            raise BadInput(where, expected=f"an integration key, {_KEY_LENGTH} characters", found=f"{len(key)} characters")
        look(Post(self.name, self.config.url, b"", {}, secrets=(key,)), self.config)
        return "the Events API answers; only an event shows whether it knows the key"
