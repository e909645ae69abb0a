"""A signed webhook: POST of every revision, with an Idempotency-Key."""

from __future__ import annotations

import re
import time
from typing import ClassVar

from rca.errors import BadInput
from rca.settings import secret_in
from rca.sinks.http import Post, identity, look, send_once
from rca.sinks.markup import is_address
from rca.sinks.notice import Notice, Sent
from rca.sinks.retry import retrying
from rca.sinks.webhook.config import WebhookConfig
from rca.sinks.webhook.payload import payload_of
from rca.sinks.webhook.signature import keys_in, signed_headers
from rca.telemetry import SECOND_NS


class WebhookSink:
    """Posts every revision, each a state of its own. The reference is the incident's id."""

    settings: ClassVar[type[WebhookConfig]] = WebhookConfig

    def __init__(self, name: str, config: WebhookConfig) -> None:
        self.name, self.config = name, config

    def send(self, notice: Notice, before: str | None) -> Sent:  # noqa: ARG002 (every revision stands for itself)
        """Post it. Raises Unavailable, Overloaded, Rejected, BadInput."""
        body, cut = payload_of(notice, self.config.max_bytes)
        url, hidden = self._address()
        secret = secret_in(self.config.secret_file)
        keys = keys_in(secret, str(self.config.secret_file))
        headers, basic, secrets = identity(self.config)
        key = re.sub(r"[^\x21-\x7e]", "?", notice.idempotency_key)
        secrets = (*secrets, *hidden, *secret.split())

        def attempt(until: float) -> None:
            signed = signed_headers(keys, key, int(time.time()), body)  # anew for every try: receivers refuse old ones
            post = Post(self.name, url, body, {**headers, "Idempotency-Key": key, **signed}, secrets, basic)
            send_once(post, self.config, until)

        retrying(attempt, self.config.deadline / SECOND_NS)
        return Sent(notice.incident_id, cut)

    def check(self) -> str:
        """Whether the secret is one, and somebody listens. Raises Unavailable, Rejected, BadInput."""
        url, hidden = self._address()
        keys_in(secret_in(self.config.secret_file), str(self.config.secret_file))
        headers, basic, secrets = identity(self.config)
        status = look(Post(self.name, url, b"", headers, (*secrets, *hidden), basic), self.config)
        return f"the server answers (HTTP {status} to HEAD); only a message shows whether it takes them"

    def _address(self) -> tuple[str, tuple[str, ...]]:
        """Where to post to, and it again where it is a secret."""
        if self.config.url_file is None:
            return self.config.url or "", ()
        url = secret_in(self.config.url_file)
        if not is_address(url):
            raise BadInput(str(self.config.url_file), expected="an http or https address", found="something else")
        return url, (url,)
