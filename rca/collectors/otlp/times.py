"""Times that cannot be right: unit mistakes, clocks that are ahead, telemetry that is too old to be used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from rca.telemetry import EARLIEST_NS, LATEST_NS

REASONS: Final = (
    "",
    "without a time",
    "with times that are not nanoseconds since the epoch",
    "with times too far in the future",
    "older than max_age",
)
"""What is wrong with a time, by code; 0 is nothing."""


@dataclass(frozen=True)
class TimeLimits:
    """Times from `now_ns - max_age_ns` to `now_ns + max_skew_ns` are taken."""

    now_ns: int
    max_age_ns: int
    max_skew_ns: int

    def reason(self, time_ns: int) -> str:
        """Why a time is not taken; empty if it is."""
        if time_ns <= 0:
            return REASONS[1]
        if not EARLIEST_NS <= time_ns < LATEST_NS:
            return REASONS[2]
        if time_ns > self.now_ns + self.max_skew_ns:
            return REASONS[3]
        return REASONS[4] if time_ns < self.now_ns - self.max_age_ns else ""

    def codes(self, times_ns: npt.NDArray[np.uint64]) -> npt.NDArray[np.int8]:
        """The same for many, as positions in REASONS, (n,)."""
        conditions = [
            times_ns == 0,
            (times_ns < EARLIEST_NS) | (times_ns >= LATEST_NS),
            times_ns > max(self.now_ns + self.max_skew_ns, 0),
            times_ns < max(self.now_ns - self.max_age_ns, 0),
        ]
        return np.select(conditions, [np.int8(code) for code in range(1, len(REASONS))], np.int8(0)).astype(np.int8)

    def within(self, times_ns: pl.Expr) -> pl.Expr:
        """True for times that are taken."""
        return times_ns.is_between(self.now_ns - self.max_age_ns, self.now_ns + self.max_skew_ns)
