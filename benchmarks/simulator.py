"""Simulated incidents a second: systems of 30 services, emitted as bins, in one process and in one per core.

    python -m benchmarks.simulator [--incidents 60] [--services 30] [--repeat 3]

Prints one JSON list of results. Processes start before the clock does: what counts is a run of thousands. CPU time stands beside
it, for machines that do other things too: two cores make 20 a second at 100 ms each.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from dataclasses import asdict
from functools import partial

from benchmarks.result import Result
from rca.simulator import simulate
from rca.simulator.generation import in_processes

_BAR = 20.0
_CPU_BAR_MS = 100.0
_SEED = 1


def one(services: int, index: int) -> tuple[int, float, float, float]:
    """Simulate one incident. Returns the rows of its telemetry, when it began and ended on the clock that processes share, and
    its CPU seconds.
    """
    start, cpu = time.monotonic(), time.process_time()
    _, telemetry = simulate(_SEED, index, services=(services, services))
    rows = sum(frame.height for frame in telemetry.frames().values())
    return rows, start, time.monotonic(), time.process_time() - cpu


def rates(incidents: int, services: int, processes: int, repeat: int) -> tuple[list[float], list[float], float]:
    """(incidents a second of every run, CPU ms of an incident in every run, rows of an incident on average). The first incident
    of each process warms it up.
    """
    found, cpu_ms, rows = [], [], 0.0
    for _ in range(repeat):
        done = [result for _, result in in_processes(partial(one, services), range(incidents + processes), processes)]
        done = sorted(done, key=lambda result: result[2])[processes:]
        begin = min(start for _, start, _, _ in done)
        found.append(len(done) / (max(end for _, _, end, _ in done) - begin))
        cpu_ms.append(1000 * statistics.mean(cpu for *_, cpu in done))
        rows = statistics.mean(count for count, *_ in done)
    return found, cpu_ms, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--incidents", type=int, default=60)
    parser.add_argument("--services", type=int, default=30)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    results = []
    for processes in dict.fromkeys((1, min(2, os.cpu_count() or 1))):
        measured, cpu_ms, rows = rates(options.incidents, options.services, processes, options.repeat)
        workload = f"{options.services} services, bins, {rows:,.0f} rows an incident, {processes} process{'es' * (processes > 1)}"
        bar = _BAR if processes == 2 else None
        median, slowest, fastest = statistics.median(measured), min(measured), max(measured)
        results.append(Result("simulated incidents", workload, "incidents/s", median, slowest, fastest, bar))
        if processes == 2:
            each = statistics.median(cpu_ms), max(cpu_ms), min(cpu_ms)
            results.append(Result("one simulated incident", workload, "ms CPU", *each, _CPU_BAR_MS))
    print(json.dumps([asdict(result) for result in results]))


if __name__ == "__main__":
    main()
