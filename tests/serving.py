"""What tests of `rca serve` share: notifications, a sink that remembers, and a server in this process on recorded telemetry."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl

from rca.bins import frames_of
from rca.collectors.config import Config, LiveSettings
from rca.contracts import Collector
from rca.errors import RcaError
from rca.incidents.example import example_incident
from rca.incidents.incident import Incident
from rca.models.rules.floor import Floor
from rca.serve.asking import Asked, Asker, Found, Kept, Ranks
from rca.serve.config import ServeConfig
from rca.serve.server import Server
from rca.sinks.notice import Notice, Sent
from rca.telemetry import MINUTE_NS, SECOND_NS, UNTIMED_FRAMES, Telemetry, time_column
from tests.recorded import RecordedSource

BEGAN = "2026-01-15T10:10:00Z"


def notification(
    group: str = "latency",
    alerts: int = 1,
    *,
    status: str = "firing",
    began: str = BEGAN,
    service: str = "frontend",
    **more: Any,
) -> dict[str, Any]:
    """A notification of Alertmanager about one service."""
    labels = {"alertname": "HighLatency", "service": service, "severity": "page"}
    annotations = {"summary": f"{service} answers slowly", "runbook_url": "https://runbooks.example/latency"}
    return {
        "version": "4",
        "groupKey": f'{{}}:{{alertname="{group}"}}',
        "truncatedAlerts": 0,
        "status": status,
        "receiver": "rca",
        "groupLabels": {"alertname": group},
        "commonLabels": labels,
        "commonAnnotations": annotations,
        "externalURL": "http://alertmanager:9093",
        "alerts": [
            {
                "status": status,
                "labels": {**labels, "pod": f"{service}-{i}"} if alerts > 1 else labels,
                "annotations": annotations,
                "startsAt": began,
                "endsAt": "2026-01-15T10:30:00Z" if status == "resolved" else "0001-01-01T00:00:00Z",
                "generatorURL": "http://prometheus:9090/graph",
                "fingerprint": f"{group}-{i}",
            }
            for i in range(alerts)
        ],
        **more,
    }


def body(**more: Any) -> bytes:
    """The same as bytes."""
    return json.dumps(notification(**more)).encode()


@dataclass
class Remembering:
    """A sink that remembers what it was sent; `fault` may raise instead."""

    name: str = "remembering"
    fault: Callable[[Notice], None] = lambda _notice: None
    sent: list[Notice] = field(default_factory=list)
    befores: list[str | None] = field(default_factory=list)

    def send(self, notice: Notice, before: str | None) -> Sent:
        self.fault(notice)
        self.sent.append(notice)
        self.befores.append(before)
        return Sent(f"message of {notice.incident_id}")


class Here:
    """An Asker in this process; `fault` may raise instead."""

    def __init__(self, asker: Asker, fault: Callable[[Asked], None] = lambda _asked: None) -> None:
        self.asker, self.fault = asker, fault
        self.asked: list[Asked] = []
        self.ranks: Ranks | None = None
        self._last: tuple[Incident, Telemetry] | None = None

    def start(self) -> Ranks:
        self.ranks = self.asker.ranks()
        return self.ranks

    def find(self, asked: Asked) -> Found:
        self.asked.append(asked)
        self.fault(asked)
        found, incident, telemetry = self.asker.find(asked)
        self._last = incident, telemetry
        return found

    def kept(self) -> Kept:
        return self.asker.keep(*self._last) if self._last else Kept(None)

    def stop(self) -> None:
        pass


@cache
def _example(culprit: str) -> tuple[Incident, Telemetry]:
    """An incident as a warm store has it: bins in place of spans."""
    recorded, telemetry = example_incident(fault_kind="cpu_contention", culprit=culprit, requests_per_second=4.0)
    return recorded, replace(telemetry, spans=telemetry.spans.clear(), **frames_of(telemetry.spans))


def recent(culprit: str = "payment") -> tuple[int, list[Collector]]:
    """When an incident began that is going on right now, and sources that tell of it."""
    recorded, telemetry = _example(culprit)
    now = time.time_ns() // (10 * SECOND_NS) * 10 * SECOND_NS
    shift = now - recorded.window.end_ns
    frames: dict[str, Any] = {}
    for name, frame in telemetry.frames().items():
        moved = [column for column in frame.columns if column.endswith("time_unix_nano")]
        frames[name] = frame.with_columns(pl.col(column) + shift for column in moved)
    frames = {name: f if name in UNTIMED_FRAMES else f.sort(time_column(name)) for name, f in frames.items()}
    return recorded.window.start_ns + shift, [RecordedSource("store", Telemetry(**frames))]


def config(**serve: Any) -> Config:
    """Settings for an incident of the example's length."""
    triage = LiveSettings.model_construct(
        system="shop", baseline=8 * MINUTE_NS, lookback=2 * MINUTE_NS, deadline=10 * SECOND_NS, lag=10 * SECOND_NS
    )
    settings = ServeConfig(**{"address": "127.0.0.1:0", "revise_after": "1h", **serve})
    return Config(serve=settings).model_copy(update={"triage": triage})


@contextmanager
def in_a_thread(server: Server) -> Iterator[Server]:
    """A server that answers in a thread of this process; it has ended afterwards."""
    up = threading.Event()
    thread = threading.Thread(target=server.run, args=(up.set,), name="server", daemon=True)
    thread.start()
    try:
        up.wait(20)
        yield server
    finally:
        server.stop()
        thread.join()


@contextmanager
def serving(
    home: Path,
    *,
    sources: Sequence[Collector] = (),
    sinks: Sequence[Any] = (),
    fault: Callable[[Asked], None] = lambda _asked: None,
    **serve: Any,
) -> Iterator[Server]:
    """A server on a free port of loopback that asks these sources and ranks with the label-free score."""
    settings = config(**serve)
    asking = Here(Asker(settings, home, sources=sources, ranker=Floor()), fault)
    with in_a_thread(Server(settings, home, sinks, asking=asking)) as server:
        yield server


def failing_with(error: RcaError) -> Callable[[Any], None]:
    """Something that raises."""

    def fail(_what: Any) -> None:
        raise error

    return fail


def until(done: Callable[[], Any], seconds: float = 20.0) -> Any:
    """What `done` returns, once that is something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = done()
        if found:
            return found
        threading.Event().wait(0.02)
    raise AssertionError("it did not happen in time")


def rfc3339(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / SECOND_NS, UTC).isoformat()
