"""A window of a system too large to look at whole, from bins to a ranking: time, and memory on top of the window itself.

    python -m benchmarks.large SERVICES CALLS [--repeat 5]

Prints one JSON list of results.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from dataclasses import asdict

from benchmarks.result import Result
from rca.models.registry import create
from rca.pipeline import case_of_window
from tests.large import large_window


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("services", type=int)
    parser.add_argument("calls", type=int)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    window, cause, _ = large_window(options.services, options.calls)
    ranker, taken, before = create("floor"), [], _peak_mib()
    for _ in range(options.repeat + 1):
        start = time.perf_counter()
        ranking = ranker.rank(case_of_window(window))
        taken.append((time.perf_counter() - start) * 1e3)
    assert ranking.candidates[0].entity == cause
    rows = len(window.bins.counts) + len(window.bins.durations)
    workload = (
        f"{options.services:,} services, {options.calls:,} calls, {rows:,} rows of bins, cut to {len(ranking.candidates):,}"
    )
    taken, peak = taken[1:], _peak_mib()
    print(
        json.dumps(
            [
                asdict(Result("bins to ranking, floor", workload, "ms", statistics.median(taken), max(taken), min(taken), None)),
                asdict(Result("memory of that", workload, "MiB", peak, peak, peak, None, "the window alone", before)),
            ]
        )
    )


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
