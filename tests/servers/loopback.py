"""A server on a free port of this machine whose answers a test can spoil."""

from __future__ import annotations

import ssl
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from urllib.parse import parse_qs, unquote, urlsplit

Query = Mapping[str, str]
Faults = Callable[[str, int], "Answer | None"]


@dataclass(frozen=True)
class Answer:
    """Status, body and type; `drip` sends the body over and over, a byte at a time; `wait_s` comes before everything."""

    body: bytes = b""
    status: int = 200
    content_type: str = "application/json"
    drip: bool = False
    wait_s: float = 0.0


@dataclass
class Loopback:
    """What was asked for, and what to answer instead: `fault(path, times asked so far)`, or None for the true answer."""

    url: str = ""
    fault: Faults = lambda _path, _times: None
    asked: Counter[str] = field(default_factory=Counter)
    queries: list[tuple[str, Query]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)


@contextmanager
def serving(answer: Callable[[str, Query], Answer]) -> Generator[Loopback]:
    """A server whose GET requests `answer(path, query)` answers."""
    about, lock = Loopback(), Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            path, query = unquote(parts.path), {name: values[-1] for name, values in parse_qs(parts.query).items()}
            with lock:
                about.asked[path] += 1
                times = about.asked[path]
                about.queries.append((path, query))
                about.headers.append(dict(self.headers))
            self._send(about.fault(path, times) or answer(path, query))

        def _send(self, reply: Answer) -> None:
            time.sleep(reply.wait_s)
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.content_type)
            if reply.drip:
                self.send_header("Connection", "close")
                self.end_headers()
                try:
                    while True:
                        self.wfile.write(reply.body[:1])
                        time.sleep(0.02)
                except OSError:
                    return
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, *_: object) -> None:
            pass

    with running(Handler) as about.url:
        yield about


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        pass  # somebody who asked went away


@contextmanager
def running(handler: type[BaseHTTPRequestHandler], port: int = 0, certificate: tuple[Path, Path] | None = None) -> Generator[str]:
    """The address of a server on loopback, on a free port unless one is given; with a certificate and its key, over TLS."""
    server = _Server(("127.0.0.1", port), handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
