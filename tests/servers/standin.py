"""A pod that does nothing but what its release says: answers probes, crashes, holds memory, computes. It starts in 50 ms.

`release.json`: {"behaviour": {"standin": {"ready": false, "exit": 3, "hold_mib": 100, "busy": true}}}.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path


def command(_workload: str) -> list[str]:
    """What the supervisor starts for a pod."""
    return [sys.executable, "-S", "-E", __file__]


def main() -> None:
    release = json.loads((Path(os.environ["SHOP_POD_DIR"]) / "release.json").read_text())
    does = release["behaviour"].get("standin", {})
    if "exit" in does:
        sys.exit(does["exit"])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/healthz" or does.get("ready", True) else 503)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = HTTPServer(("127.0.0.1", int(os.environ["SHOP_ADMIN_PORT"])), Handler)
    held = bytearray(os.urandom(1) * (does.get("hold_mib", 0) * 2**20))
    if does.get("busy"):
        threading.Thread(target=_compute, daemon=True).start()
    server.serve_forever()
    del held


def _compute() -> None:
    number = 0
    while True:
        number += 1


if __name__ == "__main__":
    main()
