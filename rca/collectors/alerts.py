"""An alert by name: what `rca triage --alert` starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from rca.telemetry import EntityId


@dataclass(frozen=True)
class Alert:
    """An alert that somebody asks about. Times in ns; `end_ns` is None while it fires.

    `pending_ns` is when its condition began to hold, where that is known.
    """

    name: str
    start_ns: int
    entity: EntityId | None = None
    end_ns: int | None = None
    summary: str = ""
    link: str = ""
    pending_ns: int | None = None


@runtime_checkable
class AlertSource(Protocol):
    """A source that knows alerts by name: those that fire now, and the last time that others did.

    `find_alert` raises UnknownName with the nearest names, Unavailable and Rejected as `collect` does.
    """

    def find_alert(self, name: str) -> Alert: ...


@runtime_checkable
class AlertHistory(Protocol):
    """A source that remembers alerts, and when they ended.

    `alerts_between` gives those that began to fire in [start, end), in order, with their ends as they are known now. Raises
    Unavailable and Rejected as `collect` does.
    """

    def alerts_between(self, start_ns: int, end_ns: int) -> Sequence[Alert]: ...
