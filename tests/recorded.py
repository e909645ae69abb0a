"""Sources that answer from recorded telemetry: real collectors as far as anybody who calls them can tell."""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from rca.collectors.alerts import Alert
from rca.errors import RcaError, UnknownName
from rca.telemetry import FRAME_NAMES, UNTIMED_FRAMES, Telemetry, time_column


@dataclass
class RecordedSource:
    """Answers with the given frames of a recording. Can be late (until `released`) or fail."""

    name: str
    telemetry: Telemetry
    frames: Collection[str] = FRAME_NAMES
    error: Exception | None = None
    released: threading.Event | None = None
    alerts: dict[str, Alert] = field(default_factory=dict)
    asked: list[tuple[int, int]] = field(default_factory=list)

    def collect(self, start_ns: int, end_ns: int) -> Telemetry:
        self.asked.append((start_ns, end_ns))
        if self.released is not None:
            self.released.wait(20)
        if self.error is not None:
            raise self.error
        found: dict[str, Any] = {}
        for name in self.frames:
            frame = self.telemetry.frames()[name]
            if name not in UNTIMED_FRAMES:
                time = pl.col(time_column(name))
                frame = frame.filter(time.is_between(start_ns, end_ns, closed="left")).sort(time_column(name))
            found[name] = frame
        return Telemetry(gaps=self.telemetry.gaps, **found)

    def find_alert(self, name: str) -> Alert:
        if name not in self.alerts:
            raise UnknownName("--alert", name, self.alerts)
        return self.alerts[name]


def failing(name: str, error: RcaError) -> RecordedSource:
    return RecordedSource(name, Telemetry(), error=error)
