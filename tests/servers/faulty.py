"""A server on loopback that answers as it is told: late, never, cut off, without end, or with whatever body and status."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Reply:
    """One answer. `cut` bytes of the body are announced and not sent; `drip` sends one byte every 20 ms after it, for ever."""

    body: Any = b""
    status: int = 200
    delay_s: float = 0.0
    cut: int = 0
    drip: bool = False
    flood: bool = False
    headers: dict[str, str] = field(default_factory=dict)

    def content(self) -> bytes:
        """Bytes as they are, anything else as JSON."""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass(frozen=True)
class Asked:
    """One request that arrived."""

    method: str
    path: str
    params: dict[str, str]
    headers: dict[str, str]


class FaultyServer:
    """Answers with what `reply` returns for a request; remembers the requests."""

    def __init__(self, reply: Callable[[Asked], Reply]) -> None:
        self.reply, self.asked = reply, list[Asked]()
        self.over = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlsplit(self.path)
                length = int(self.headers.get("Content-Length") or 0)
                pairs = parse_qs(url.query) | parse_qs(self.rfile.read(length).decode())
                asked = Asked(self.command, url.path, {key: values[-1] for key, values in pairs.items()}, dict(self.headers))
                outer.asked.append(asked)
                outer._send(self, outer.reply(asked))

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()

    def _send(self, handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        if reply.delay_s and self.over.wait(reply.delay_s):
            return
        content = reply.content()
        try:
            handler.send_response(reply.status)
            for name, value in reply.headers.items():
                handler.send_header(name, value)
            if not (reply.drip or reply.flood):
                handler.send_header("Content-Length", str(len(content) + reply.cut))
            handler.end_headers()
            handler.wfile.write(content)
            while reply.drip and not self.over.wait(0.02):
                handler.wfile.write(b" ")
            while reply.flood and not self.over.is_set():
                handler.wfile.write(b" " * 2**16)
        except OSError:
            pass  # the client had enough, which is what it is here for


@contextmanager
def faulty(reply: Callable[[Asked], Reply]) -> Iterator[FaultyServer]:
    """A server for the length of a test."""
    server = FaultyServer(reply)
    try:
        yield server
    finally:
        server.close()
