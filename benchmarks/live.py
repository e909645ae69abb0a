"""`rca triage` on live sources: a warm store and a real Prometheus, 15 minutes and the hour before, 50 services, a cold process.

    python -m benchmarks.live [--spans 300000] [--repeat 5]

Prints one JSON list of results; an empty one where Prometheus is not installed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import polars as pl

from benchmarks import workload
from benchmarks.prometheus import STEP_S, WINDOW_S
from benchmarks.prometheus import workload as metrics
from benchmarks.result import Result
from rca.bins import frames_of
from rca.collectors.warm.store import Store
from rca.telemetry import MINUTE_NS, SECOND_NS, Interval, Telemetry
from tests.servers.prometheus import prometheus

_CONFIG: Final = """
[store]
folder = "{folder}"
[prometheus]
url = "{url}"
"""


def fill(store: Store, spans: int, end_s: int) -> int:
    """Fill the store with 75 minutes of bins; how many rows they are. `spans` come every 23 minutes."""
    frames = frames_of(workload.spans(spans))
    length = (workload.BASELINE_MINUTES + workload.INCIDENT_MINUTES) * MINUTE_NS
    interval = Interval((end_s - WINDOW_S) * SECOND_NS, end_s * SECOND_NS)
    shifts = [interval.end_ns - workload.START_NS - length * turn for turn in range(1, WINDOW_S * SECOND_NS // length + 2)]
    time_ns = pl.col("time_unix_nano")
    shifted = {
        name: pl.concat([frame.with_columns(time_ns + shift) for shift in shifts]).sort("time_unix_nano")
        for name, frame in frames.items()
    }
    store.replace("benchmark", interval, Telemetry.of(**shifted))
    return store.read(interval.start_ns, interval.end_ns).bin_counts.height


def measure(spans: int, repeat: int) -> list[Result]:
    """Wall time of the command, and of an import of its libraries alone."""
    end_s = int(time.time()) // 60 * 60 - 60
    ends = [datetime.fromtimestamp(at, UTC).isoformat() for at in (end_s - 15 * 60, end_s)]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        history = metrics(workload.SERVICES, end_s // STEP_S * STEP_S)
        with prometheus(home / "prometheus", history=history) as url:
            rows = fill(Store(home / "telemetry"), spans, end_s)
            (home / "rca.toml").write_text(_CONFIG.format(folder=home / "telemetry", url=url), encoding="utf-8")
            command = [sys.executable, "-m", "rca", "triage", "--json", "--config", str(home / "rca.toml")]
            done = subprocess.run([*command, "--since", ends[0], "--until", ends[1]], check=True, stdout=subprocess.PIPE)
            gaps = [gap for gap in json.loads(done.stdout)["ranking"]["gaps"] if gap["source"] != "store"]
            if gaps:
                raise AssertionError(f"gaps: {gaps}")
            taken, peer = [], []
            for _ in range(repeat):
                taken.append(_wall([*command, "--since", ends[0], "--until", ends[1]]))
                peer.append(_wall([sys.executable, "-c", "import typer, rich, polars, requests, prometheus_api_client"]))
    told = f"{workload.SERVICES} services, 75 min, {rows:,} rows of counts in the store, a real Prometheus, cold process"
    spread = (statistics.median(taken), max(taken), min(taken))
    libraries = "importing typer, rich, polars, requests and prometheus-api-client"
    return [Result("rca triage --last 15m", told, "ms", *spread, 5000, libraries, statistics.median(peer))]


def _wall(command: list[str]) -> float:
    """Milliseconds."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - start) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spans", type=int, default=300_000)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    installed = shutil.which("prometheus") and shutil.which("promtool")
    results = measure(options.spans, options.repeat) if installed else []
    print(json.dumps([asdict(result) for result in results]))


if __name__ == "__main__":
    main()
