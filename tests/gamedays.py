"""A system for game days in which time passes at once, and which does what a test tells it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
from typer.testing import CliRunner

from rca.bins import frames_of
from rca.cli.gameday import app
from rca.collectors.alerts import Alert
from rca.errors import RcaError, Rejected
from rca.gameday.folder import GameDay
from rca.gameday.plan import PlannedInjection
from rca.gameday.running import prepare
from rca.gameday.system import Meanwhile
from rca.incidents.example import example_incident
from rca.incidents.incident import BaselineModel, Incident, IntervalModel
from rca.shop.faults import culprit_of
from rca.telemetry import SECOND_NS, UNTIMED_FRAMES, EntityId, Telemetry, time_column

T0 = 1_780_000_000.0
BEFORE_S = 100
"""Until a baseline has passed."""


@cache
def recorded() -> tuple[Incident, Telemetry]:
    """An incident as live sources tell of it."""
    incident, telemetry = example_incident(fault_kind="cpu_contention", culprit="payment", requests_per_second=0.5)
    return incident, replace(telemetry, spans=telemetry.spans.clear(), **frames_of(telemetry.spans))


def shifted(telemetry: Telemetry, by_ns: int) -> Telemetry:
    """The same at another time."""
    frames: dict[str, Any] = {
        name: frame.with_columns(pl.col(time_column(name)) + by_ns)
        for name, frame in telemetry.frames().items()
        if name not in UNTIMED_FRAMES
    }
    return replace(telemetry, **frames)


@dataclass
class FakeSystem:
    """Injects nothing. `fails` holds errors that are raised in turn where something is asked, by its name."""

    fails: dict[str, list[BaseException]] = field(default_factory=dict)
    time: float = T0
    active: list[str] = field(default_factory=list)
    did: list[str] = field(default_factory=list)
    healthy: bool = True
    measured: list[float] = field(default_factory=list)
    failed: float | None = None
    fires: list[Alert] = field(default_factory=list)
    """Alerts, their times relative to the start of the injection."""
    at: dict[float, Callable[[], object]] = field(default_factory=dict)
    """What happens at a time, in seconds after T0."""

    @contextmanager
    def alone(self, day_folder: Path) -> Iterator[None]:
        self._does("alone")
        yield

    def entities(self) -> tuple[EntityId, ...]:
        return EntityId("service", "payment"), EntityId("service", "cart"), EntityId("database", "shop-db")

    def culprit(self, fault: str, target: str) -> EntityId | None:
        return culprit_of(fault, target)

    def now(self) -> float:
        return self.time

    def wait_until(self, end: float, meanwhile: Meanwhile) -> None:
        while self.time < end:
            self.time += 1
            for when in [when for when in self.at if T0 + when <= self.time]:
                self.at.pop(when)()
            meanwhile()

    def wait_for_baseline(self, meanwhile: Meanwhile) -> float:
        self._does("baseline")
        self.wait_until(self.time + BEFORE_S, meanwhile)
        return self.time

    def inject(self, planned: PlannedInjection) -> None:
        self._does("inject")
        self.active.append(planned.name)

    def keep_up(self, planned: PlannedInjection) -> None:
        self._does("keep_up")

    def clear(self) -> None:
        self._does("clear")
        self.active.clear()

    def observe(self, start: float, end: float, after_s: int) -> tuple[Incident, Telemetry]:
        self._does("observe")
        assert not self.active
        incident, telemetry = recorded()
        start_ns, end_ns = round(start * SECOND_NS), round(end * SECOND_NS)
        by = start_ns - incident.window.start_ns
        update = {
            "window": IntervalModel(start_ns=start_ns, end_ns=end_ns),
            "baselines": (BaselineModel(start_ns=start_ns - 90 * SECOND_NS, end_ns=start_ns),),
            "onset_ns": start_ns,
            "detected_ns": None,
            "alerting": (),
        }
        return incident.model_copy(update=update), shifted(telemetry, by)

    def check_machine(self, start: float, end: float) -> None:
        self._does("check_machine")

    def alerts(self, start_ns: int, end_ns: int) -> Sequence[Alert]:
        self._does("alerts")
        at = [
            replace(each, start_ns=start_ns + each.start_ns, end_ns=each.end_ns and start_ns + each.end_ns) for each in self.fires
        ]
        return [replace(each, end_ns=None) if each.end_ns and each.end_ns > self.time * SECOND_NS else each for each in at]

    def is_healthy(self) -> bool:
        self._does("is_healthy")
        return self.healthy

    def failed_share(self) -> float | None:
        return self.failed

    def measure(self, query: str) -> list[float]:
        if query == "up{":
            raise Rejected("parse error")
        return self.measured

    def _does(self, what: str) -> None:
        self.did.append(what)
        if self.fails.get(what):
            error = self.fails[what].pop(0)
            if not isinstance(error, _Nothing):
                raise error


class _Nothing(RcaError):
    """In a list of failures: this time it works."""


WORKS = _Nothing()

PLAN = """
name = "tuesday"
settle = "10s"
baseline = "1m"
quiet = "30s"
lasting = "40s"

[[injection]]
fault = "latency"
target = "payment"

[[injection]]
fault = "slow_database"
target = "shop-db"
until = "fixed"
"""


def a_day(folder: Path, text: str = PLAN, **options: Any) -> GameDay:
    """A game day that can be run, in the home `folder`."""
    plan = folder / "given.toml"
    plan.write_text(text, encoding="utf-8")
    return prepare(plan, folder, **options)


def typed(*arguments: object) -> str:
    """What a command of `rca gameday` prints; our errors come out as they are."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, RcaError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output
