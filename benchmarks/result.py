"""One measured figure."""

from __future__ import annotations

import time
from collections.abc import Callable
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


def seconds_taken(job: Callable[[], object], repeat: int) -> list[float]:
    """Wall seconds of a job, after one run to warm up."""
    job()
    taken = []
    for _ in range(repeat):
        start = time.perf_counter()
        job()
        taken.append(time.perf_counter() - start)
    return taken
