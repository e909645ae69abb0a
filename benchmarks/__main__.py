"""Every benchmark, one table, docs/results/performance.json, and training.json beside it.

    python -m benchmarks [--quick] [--json OUT]

Each job runs in a process of its own. `--quick` uses small workloads and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.result import Result
from rca.incidents.bundle import write_bundle
from rca.incidents.example import example_incident

ROOT: Final = Path(__file__).resolve().parent.parent
RESULTS: Final = ROOT / "docs" / "results" / "performance.json"
_ONE_CORE: Final = {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_SPANS, _SIZES = 300_000, (100_000, 300_000, 1_000_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small workloads, to see that everything runs; writes nothing")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the figures go")
    options = parser.parse_args()
    spans, sizes = (20_000, (20_000,)) if options.quick else (_SPANS, _SIZES)
    repeat = 1 if options.quick else 5
    results = _spans("bins", spans, repeat) + _spans("case", spans, repeat)
    for size in sizes:
        results += _spans("memory", size, 1)
    results += _large(*((500, 2_000) if options.quick else (20_000, 60_000)), repeat)
    results += _storage(spans)
    results += _otlp(spans, *((2, 1, 1) if options.quick else (10, repeat, 3)))
    results += _commands(repeat)
    results += _prometheus(10 if options.quick else 50, repeat)
    results += _live(20_000 if options.quick else _SPANS, repeat)
    results += _serve(options.quick)
    results += _simulator(*((4, 1) if options.quick else (60, min(repeat, 3))))
    if find_spec("torch") is not None:
        results += _network(repeat) + _printed("benchmarks.exported", "--repeat", str(repeat))
        _training(options.json.with_name("training.json"), quick=options.quick)
    body = {"machine": _machine(), "repeat": repeat, "results": results}
    _show(body)
    if not options.quick:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")


def _spans(job: str, count: int, repeat: int) -> list[dict[str, Any]]:
    return _printed("benchmarks.spans", job, str(count), "--repeat", str(repeat), environment=_ONE_CORE)


def _otlp(count: int, seconds: int, repeat: int, runs: int) -> list[dict[str, Any]]:
    results = _printed("benchmarks.otlp", "decode", str(count), "--repeat", str(repeat), environment=_ONE_CORE)
    for transport in ("grpc", "http"):
        job = ("loopback", transport, str(seconds), "--repeat", str(runs))
        results += _printed("benchmarks.otlp", *job, environment=_ONE_CORE)
    return results


def _large(services: int, calls: int, repeat: int) -> list[dict[str, Any]]:
    return _printed("benchmarks.large", str(services), str(calls), "--repeat", str(repeat))


def _prometheus(services: int, repeat: int) -> list[dict[str, Any]]:
    """Nothing where no Prometheus is installed."""
    return _printed("benchmarks.prometheus", "--services", str(services), "--repeat", str(repeat))


def _live(spans: int, repeat: int) -> list[dict[str, Any]]:
    """Nothing where no Prometheus is installed."""
    return _printed("benchmarks.live", "--spans", str(spans), "--repeat", str(repeat))


def _simulator(incidents: int, repeat: int) -> list[dict[str, Any]]:
    return _printed("benchmarks.simulator", "--incidents", str(incidents), "--repeat", str(repeat), environment=_ONE_CORE)


def _serve(quick: bool) -> list[dict[str, Any]]:
    sizes = ("--spans", "20000", "--seconds", "5", "--incidents", "2", "--alerts", "1000", "--history", "20") if quick else ()
    return _printed("benchmarks.serve", *sizes)


def _printed(*module: str, environment: Mapping[str, str] = {}) -> list[dict[str, Any]]:
    """The results that a module prints."""
    command = [sys.executable, "-m", *module]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def _storage(count: int) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "benchmarks.storage", str(count)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def _network(repeat: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "network.json"
        command = [sys.executable, "-m", "benchmarks.network", "--json", str(out), "--repeat", str(repeat)]
        subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        found: list[dict[str, Any]] = json.loads(out.read_text(encoding="utf-8"))["results"]
        return found


def _training(out: Path, *, quick: bool) -> None:
    """On the GPU where there is one, else on the CPU; the file keeps the figures of every device that it was run on."""
    how = ("--quick",) if quick else ("--json", str(out))
    subprocess.run([sys.executable, "-m", "benchmarks.training", *how], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)


def _commands(repeat: int) -> list[dict[str, Any]]:
    """Cold processes, each turn about with its peer."""
    libraries, rca = [sys.executable, "-c", "import typer, rich"], [sys.executable, "-m", "rca"]
    with tempfile.TemporaryDirectory() as folder:
        incident, telemetry = example_incident()
        bundle = str(write_bundle(Path(folder) / incident.id, incident, telemetry))
        helping = _wall([*rca, "--help"], libraries, 2 * repeat)
        triage = _wall([*rca, "triage", bundle, "--ranker", "floor"], libraries, repeat)
    floor = statistics.median(helping[1])
    cold = "python -c 'import typer, rich'"
    workload = f"example bundle, {telemetry.spans.height:,} spans, cold process"
    return [
        asdict(Result("rca --help", "cold process", "ms", *_spread(helping[0]), floor + 150, cold, floor)),
        asdict(Result("rca triage, floor", workload, "ms", *_spread(triage[0]), 1500, cold, statistics.median(triage[1]))),
    ]


def _spread(taken: Sequence[float]) -> tuple[float, float, float]:
    return statistics.median(taken), max(taken), min(taken)


def _wall(command: list[str], peer: list[str], repeat: int) -> tuple[list[float], list[float]]:
    """Wall milliseconds of both, alternating, after one warm-up each."""
    taken: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeat + 1):
        for what, into in zip((command, peer), taken, strict=True):
            start = time.perf_counter()
            subprocess.run(what, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
            if turn:
                into.append((time.perf_counter() - start) * 1e3)
    return taken


def _machine() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = {name: version(name) for name in ("numpy", "polars", "pandas", "onnxruntime")}
    machine = {"cores": os.cpu_count(), "memory_gib": round(memory), "python": platform.python_version(), **versions}
    if find_spec("torch") is not None:
        machine["torch"] = version("torch").partition("+")[0]
    return {**machine, "load": round(os.getloadavg()[0], 1)}


def _show(body: dict[str, Any]) -> None:
    table = Table("what", "figure", "bar", "slowest to fastest", "beside it", "workload")
    for result in body["results"]:
        bar = "" if result["bar"] is None else f"{result['bar']:,.0f}"
        peer = f"{result['peer_median']:,.0f}: {result['peer']}" if result.get("peer") else ""
        spread = f"{result['slowest']:,.0f} to {result['fastest']:,.0f}"
        table.add_row(result["what"], f"{result['median']:,.0f} {result['unit']}", bar, spread, peer, result["workload"])
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(table)
    console.print(", ".join(f"{name} {value}" for name, value in body["machine"].items()))


if __name__ == "__main__":
    main()
