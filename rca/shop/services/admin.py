"""The admin port of a pod: probes, metrics and faults. Nothing of it is in telemetry."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from rca.errors import BadInput
from rca.shop.services.chaos import Chaos, fault_of


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


def serve(port: int, chaos: Chaos, ready: Callable[[], bool]) -> ThreadingHTTPServer:
    """Listen on loopback in threads of its own."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/healthz":
                self._send(200, "ok")
            elif self.path == "/readyz":
                self._send(*((200, "ready") if ready() else (503, "starting")))
            elif self.path == "/metrics":
                self._send(200, generate_latest().decode(), CONTENT_TYPE_LATEST)
            elif self.path == "/chaos":
                self._send(200, json.dumps([fault.model_dump() for fault in chaos.on]), "application/json")
            else:
                self._send(404, f"no {self.path}")

        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            try:
                chaos.start(fault_of(json.loads(text)))
            except (BadInput, ValueError, TypeError) as error:
                self._send(400, str(error))
            else:
                self._send(200, "started")

        def do_DELETE(self) -> None:
            chaos.stop()
            self._send(200, "stopped")

        def _send(self, status: int, text: str, content_type: str = "text/plain") -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = _Server(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True, name="admin").start()
    return server
