"""A real Prometheus and a real Alertmanager on loopback, with history loaded at once or a target that they scrape."""

from __future__ import annotations

import math
import random
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

_READY_S = 30.0
_TRIES = 3


def binary(name: str) -> str:
    """Path of a program. Skips the test where it is not installed."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed (Debian packages prometheus, prometheus-alertmanager)")
    return path


_PORTS = list(range(15_000, 32_000))
"""Below those that a kernel gives to outgoing connections, which would take one before its server binds."""
random.SystemRandom().shuffle(_PORTS)


def free_port() -> int:
    """A port of loopback that nobody listens on just now, at random, since other processes choose some too; never one twice."""
    while _PORTS:
        port = _PORTS.pop()
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("every port was given away")


@dataclass
class History:
    """Samples of the past in OpenMetrics' text form. Times are whole seconds since the epoch."""

    lines: list[str] = field(default_factory=list)

    def add(self, name: str, labels: Mapping[str, str], times: Iterable[int], value: float | Callable[[int], float]) -> None:
        """One series; `value` is a number or a function of the seconds since its first sample."""
        text = ",".join(f'{key}="{escaped(text)}"' for key, text in labels.items())
        first = None
        for at in times:
            first = at if first is None else first
            number = value(at - first) if callable(value) else value
            self.lines.append(f"{name}{{{text}}} {number} {at}")

    def add_histogram(
        self,
        name: str,
        labels: Mapping[str, str],
        times: Sequence[int],
        rate: float | Callable[[int], float],
        duration: float | Callable[[int], float],
        bounds: Sequence[float] = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
    ) -> None:
        """A histogram of `rate` requests a second that all take `duration`, either a function of the seconds since the first."""
        counts, total, done = [0.0] * (len(bounds) + 1), 0.0, 0.0
        columns: list[list[float]] = [[] for _ in range(len(bounds) + 3)]
        for number, at in enumerate(times):
            passed = at - times[0]
            if number:
                step = at - times[number - 1]
                requests = (rate(passed) if callable(rate) else rate) * step
                took = duration(passed) if callable(duration) else duration
                total += requests * took
                done += requests
                counts = [c + (requests if took <= bound else 0.0) for c, bound in zip(counts, (*bounds, math.inf), strict=True)]
            for column, value in zip(columns, (*counts, total, done), strict=True):
                column.append(value)
        edges = [*(f"{bound:g}" for bound in bounds), "+Inf"]
        names = [*((f"{name}_bucket", {"le": edge}) for edge in edges), (f"{name}_sum", {}), (f"{name}_count", {})]
        for (series, more), column in zip(names, columns, strict=True):
            by_time = dict(zip((at - times[0] for at in times), column, strict=True))
            self.add(series, {**labels, **more}, times, by_time.__getitem__)

    def text(self) -> str:
        """The whole file."""
        return "\n".join([*self.lines, "# EOF", ""])


def escaped(text: str) -> str:
    """A label's value as the text form wants it."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class Exposition:
    """An endpoint of this process that Prometheus scrapes: set `text`, or a function that writes it anew for every scrape."""

    def __init__(self) -> None:
        self.text: str | Callable[[], str] = ""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = (outer.text() if callable(outer.text) else outer.text).encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def target(self) -> str:
        """host:port for `scrape_configs`."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def prometheus(
    folder: Path,
    *,
    history: History | None = None,
    targets: Mapping[str, str] | None = None,
    rules: str = "",
    alertmanager: str = "",
    interval: str = "1s",
) -> Iterator[str]:
    """A Prometheus with its data in `folder`; its URL. `targets` are addresses by job; `alertmanager` is host:port.

    Skips where it is not installed.
    """
    program = binary("prometheus")
    data = folder / "data"
    data.mkdir(parents=True)
    if history is not None:
        source = folder / "history.txt"
        source.write_text(history.text(), encoding="utf-8")
        command = [binary("promtool"), "tsdb", "create-blocks-from", "openmetrics", "--quiet", str(source), str(data)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    config = [f"global:\n  scrape_interval: {interval}\n  evaluation_interval: {interval}"]
    if rules:
        (folder / "rules.yml").write_text(rules, encoding="utf-8")
        config.append("rule_files: [rules.yml]")
    if alertmanager:
        config.append(f"alerting:\n  alertmanagers:\n  - static_configs:\n    - targets: ['{alertmanager}']")
    if targets:
        config.append("scrape_configs:")
        config += [f"- job_name: '{job}'\n  static_configs:\n  - targets: ['{target}']" for job, target in targets.items()]
    (folder / "prometheus.yml").write_text("\n".join(config) + "\n", encoding="utf-8")
    command = [
        program,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={data}",
        "--storage.tsdb.retention.time=30d",
        "--log.level=error",
    ]
    with _running(command, folder) as url:
        yield url


@contextmanager
def alertmanager(folder: Path, config: str = "route:\n  receiver: nobody\nreceivers:\n- name: nobody\n") -> Iterator[str]:
    """An Alertmanager with its data in `folder`; its URL. Skips where it is not installed."""
    program = binary("prometheus-alertmanager")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "alertmanager.yml").write_text(config, encoding="utf-8")
    command = [
        program,
        f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder / 'data'}",
        "--cluster.listen-address=",
        "--log.level=error",
    ]
    with _running(command, folder) as url:
        yield url


@contextmanager
def _running(command: Sequence[str], folder: Path) -> Iterator[str]:
    log = folder / "log.txt"
    for _ in range(_TRIES):
        address = f"127.0.0.1:{free_port()}"
        with (
            log.open("wb") as out,
            subprocess.Popen(
                [*command, f"--web.listen-address={address}"], stdout=out, stderr=subprocess.STDOUT, cwd=folder
            ) as process,
        ):
            try:
                if _ready(process, f"http://{address}"):
                    yield f"http://{address}"
                    return
            finally:
                _stop(process)
    raise AssertionError(f"{command[0]} did not come up: {log.read_text(encoding='utf-8', errors='replace')[-2000:]}")


def _ready(process: subprocess.Popen[bytes], url: str) -> bool:
    """Whether it answers; False if it ended, as it does when somebody else took the port."""
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/-/ready", timeout=1):
                return True
        except OSError:
            time.sleep(0.05)
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
