"""A receiver of signed webhooks that counts repeats, as one that drops repeated idempotency keys would."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from threading import Lock
from typing import Any

from tests.servers.loopback import running


@dataclass
class Receiver:
    """What arrived: how often by idempotency key, and each body once. While `down`, it answers 503."""

    url: str = ""
    down: bool = False
    times: Counter[str] = field(default_factory=Counter)
    messages: dict[str, Any] = field(default_factory=dict)


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver on a free port of loopback."""
    about, lock = Receiver(), Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                if not about.down:
                    about.times[body["idempotency_key"]] += 1
                    about.messages[body["idempotency_key"]] = body
            self.send_response(503 if about.down else 204)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with running(Handler) as url:
        about.url = f"{url}/hook"
        yield about
