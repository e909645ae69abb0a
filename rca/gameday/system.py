"""What a game day runs against. The shop is one (rca.gameday.shop)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from rca.collectors.alerts import Alert
from rca.gameday.plan import PlannedInjection
from rca.incidents.incident import Incident
from rca.telemetry import EntityId, Telemetry

Meanwhile = Callable[[], None]
"""Called about once a second while somebody waits; what it raises ends the waiting."""


class System(Protocol):
    """Faults can be injected into it, and it can be watched. Times in seconds since the epoch unless they are called ns."""

    def alone(self, day_folder: Path) -> AbstractContextManager[None]:
        """Nobody else injects, and no fault outlives this process. Raises Rejected where somebody is at work already."""
        ...

    def entities(self) -> tuple[EntityId, ...]:
        """Whom a person's guess may name."""
        ...

    def culprit(self, fault: str, target: str) -> EntityId | None:
        """Whom a label of this fault names; None where nobody is to blame."""
        ...

    def now(self) -> float:
        """The time."""
        ...

    def wait_until(self, end: float, meanwhile: Meanwhile) -> None:
        """Pass the time."""
        ...

    def wait_for_baseline(self, meanwhile: Meanwhile) -> float:
        """Until it has settled and been quiet for a baseline; that time. Raises Unavailable if it does not become healthy."""
        ...

    def inject(self, planned: PlannedInjection) -> None:
        """Begin a fault. Raises RcaError where it cannot be."""
        ...

    def keep_up(self, planned: PlannedInjection) -> None:
        """Repeat what a fault needs to last."""
        ...

    def clear(self) -> None:
        """End every fault. Raises Unavailable, Rejected."""
        ...

    def observe(self, start: float, end: float, after_s: int) -> tuple[Incident, Telemetry]:
        """What telemetry says of a time, the baseline before it and so many seconds after it.

        Raises Spoilt for what must not be kept.
        """
        ...

    def check_machine(self, start: float, end: float) -> None:
        """Raises Spoilt where the machine that it runs on was too busy in this time, or in the baseline before it."""
        ...

    def alerts(self, start_ns: int, end_ns: int) -> Sequence[Alert]:
        """Alerts that began in this time. Raises Unavailable, Rejected."""
        ...

    def is_healthy(self) -> bool:
        """Whether everything that should run is ready. Raises Unavailable where it does not answer."""
        ...

    def failed_share(self) -> float | None:
        """Share of customers' requests that failed lately; None where there were none."""
        ...

    def measure(self, query: str) -> list[float]:
        """Values of a PromQL query now. Raises Unavailable, Rejected for what is no query."""
        ...
