"""One measured figure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """A figure with its workload. `bar` is what the design asks for, `peer` what else was timed in the same run."""

    what: str
    workload: str
    unit: str
    median: float
    slowest: float
    fastest: float
    bar: float | None
    peer: str = ""
    peer_median: float | None = None
