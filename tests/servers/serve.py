"""`rca serve` as a process of its own, which can be killed and started again on the same home."""

from __future__ import annotations

import base64
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SECRET = "a-secret-of-some-length"
_READY_S = 60.0

_SOURCES = """
[triage]
system = "shop"
[prometheus]
url = "{prometheus}"
retries = 0
timeout = "2s"
"""
_SERVER = """
[serve]
address = "127.0.0.1:{port}"
access_file = "{folder}/access"
{serve}
[sinks.webhook]
url = "{receiver}"
secret_file = "{folder}/secret"
"""


@dataclass
class ServeProcess:
    """One server. `home` is where it stores."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [sys.executable, "-m", "rca", "serve", "--config", str(self.folder / "rca.toml"), "--store", str(self.home)]
        with (self.folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/healthz", timeout=2):
                    return
            except OSError:
                time.sleep(0.05)
        raise AssertionError(f"it did not come up: {self.log()}")

    def kill(self) -> None:
        """As the kernel does when memory is short."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def end(self) -> int:
        """As a service manager does; the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout=30)

    def log(self) -> str:
        return (self.folder / "log.txt").read_text(encoding="utf-8", errors="replace")[-4000:]


@contextmanager
def serve_process(
    folder: Path, port: int, *, prometheus: str, receiver: str, serve: str = "", more: str = ""
) -> Iterator[ServeProcess]:
    """A server that tells the receiver, with SECRET for every role; it is up. `more` are further tables of its settings."""
    with serving_of(folder, port, _SOURCES.format(prometheus=prometheus) + more, receiver=receiver, serve=serve) as found:
        yield found


@contextmanager
def serving_of(folder: Path, port: int, sources: str, *, receiver: str, serve: str = "") -> Iterator[ServeProcess]:
    """The same with any sources, as tables of rca.toml."""
    folder.mkdir(parents=True, exist_ok=True)
    text = sources + _SERVER.format(port=port, folder=folder, serve=serve, receiver=receiver)
    (folder / "rca.toml").write_text(text, encoding="utf-8")
    (folder / "access").write_text(f"send,label tester {SECRET}\n", encoding="utf-8")
    (folder / "secret").write_text("whsec_" + base64.b64encode(b"s" * 32).decode(), encoding="utf-8")
    found = ServeProcess(folder, port)
    found.start()
    try:
        yield found
    finally:
        if found.process is not None and found.process.poll() is None:
            found.process.kill()
            found.process.wait()
