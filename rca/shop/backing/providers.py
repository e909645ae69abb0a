"""External providers, payments and mail: one process for both, without telemetry.

Each listens on its own port, payments first. `POST /behaviour` {"mode": "ok|slow|failing|down", "ms": 800, "share": 1.0} on it
changes how it behaves: down closes connections without an answer, failing answers 500.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Literal

from rca.shop import plan
from rca.shop.backing.server import Server, ask

Mode = Literal["ok", "slow", "failing", "down"]
_USUAL_MS: Final = {plan.PAYMENTS: 45.0, plan.MAIL: 25.0}


@dataclass
class _Behaviour:
    mode: str = "ok"
    ms: float = 800.0
    share: float = 1.0

    def hits(self) -> bool:
        return self.mode != "ok" and random.random() < self.share


def charge(request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """What the payment provider answers."""
    if not request.get("amount"):
        return 400, {"error": "no amount"}
    return 200, {"id": f"ch_{random.randrange(16**12):012x}", "status": "succeeded"}


def mail(request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """What the mail provider answers."""
    if "@" not in str(request.get("to")):
        return 400, {"error": "no address"}
    return 200, {"status": "queued", "id": f"m_{random.randrange(16**12):012x}"}


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """A client that went away is no news."""


def serve(name: str, port: int, answer: Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]) -> ThreadingHTTPServer:
    """One provider, in threads of its own."""
    behaviour = _Behaviour()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def do_GET(self) -> None:
            self._send(200, {"mode": behaviour.mode})

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            if self.path == "/behaviour":
                behaviour.__init__(**request)  # type: ignore[misc]
                self._send(200, {"mode": behaviour.mode})
                return
            time.sleep(_USUAL_MS[name] * random.lognormvariate(0, 0.25) / 1000)
            self._answer(request, behaviour.mode if behaviour.hits() else "ok")

        def _answer(self, request: dict[str, Any], mode: str) -> None:
            if mode == "down":
                self.close_connection = True
                return
            if mode == "slow":
                time.sleep(behaviour.ms * random.uniform(0.8, 1.2) / 1000)
            if mode == "failing":
                self._send(500, {"error": "internal error"})
            else:
                self._send(*answer(request))

        def _send(self, status: int, body: dict[str, Any]) -> None:
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = _Http(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class Providers(Server):
    """The process of both. `ports` says where each listens; `start` takes that of payments, the other is to be set before."""

    def __init__(self, mail_port: int) -> None:
        super().__init__()
        self._mail_port = mail_port

    @property
    def ports(self) -> dict[str, int]:
        """Port by provider."""
        return {plan.PAYMENTS: self.port, plan.MAIL: self._mail_port}

    def behave(self, provider: str, mode: Mode, *, ms: float = 800.0, share: float = 1.0) -> None:
        """Change how a provider behaves. Raises OSError where it does not listen."""
        body = json.dumps({"mode": mode, "ms": ms, "share": share}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.ports[provider]}/behaviour", data=body, method="POST")
        with urllib.request.urlopen(request, timeout=5):
            pass

    def _command(self) -> Sequence[str]:
        return [sys.executable, "-m", "rca.shop.backing.providers", str(self.port), str(self._mail_port)]

    def _cwd(self) -> None:
        return None

    def _answers(self) -> bool:
        return all(ask(port, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200") for port in self.ports.values())


def main(payments_port: str, mail_port: str) -> None:
    """Serve until the process is ended."""
    serve(plan.PAYMENTS, int(payments_port), charge)
    serve(plan.MAIL, int(mail_port), mail)
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
