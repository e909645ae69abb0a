"""The exported ranking: how fast it ranks, how far its scores are from torch's and dgl's, and cold `rca triage` with it.

    python -m benchmarks.exported [--repeat 5]

Prints results as JSON. The model is the shipped one; where none ships, one of the default size is made in half a minute.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.network import CALLS, LARGE_CALLS, LARGE_SERVICES, SERVICES, service_graph
from benchmarks.result import Result, seconds_taken
from rca.graph import ServiceGraph
from rca.incidents.bundle import read_bundle, write_bundle
from rca.incidents.example import example_incident
from rca.models.files import read_model
from rca.models.gnn import NetworkRanker
from rca.models.onnx_ranker import OnnxRanker
from rca.models.scored import Scores
from rca.models.shipped import shipped_folder
from rca.tensors import batch
from scripts.demo import demo_bundle

ROOT: Final = Path(__file__).resolve().parent.parent
_GRAPHS: Final = 50
_PICO: Final = 1e12
_BAR: Final = 1e-4
_COLD_BAR_MS: Final = 1500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    repeat = parser.parse_args().repeat
    with tempfile.TemporaryDirectory() as home:
        folder = shipped_folder() or _made(Path(home) / "model")
        ranker = OnnxRanker.load(folder)
        size = f"{ranker.card.members} networks of the shipped size" if shipped_folder() else "one network of the default size"
        found = [
            _one_graph(ranker, 50, 150, 50, size, repeat),
            _one_graph(ranker, LARGE_SERVICES, LARGE_CALLS, 1000, size, repeat),
            *(_difference(ranker, NetworkRanker.load(folder, engine=engine), engine) for engine in _others()),
            _cold_example(folder, Path(home), repeat),
            _cold_recorded(folder, repeat),
        ]
    print(json.dumps([asdict(result) for result in found]))


def _others() -> Sequence[str]:
    return ("torch", "dgl") if sys.version_info < (3, 12) else ("torch",)


def _made(folder: Path) -> Path:
    """A model of the default size that was hardly trained: ranking takes as long."""
    rng = np.random.default_rng(0)
    graphs = [service_graph(rng, SERVICES, CALLS) for _ in range(64)]
    tensors = batch(graphs, targets=[[int(rng.integers(SERVICES))] for _ in graphs], families=["cpu"] * len(graphs))
    NetworkRanker(epochs=2, strength=1.0).pretrain(tensors, tensors, {}).save(folder, onnx=True)
    return folder


def _one_graph(ranker: OnnxRanker, services: int, calls: int, bar: float, size: str, repeat: int) -> Result:
    graph = service_graph(np.random.default_rng(1), services, calls)
    taken = [1e3 * seconds for seconds in seconds_taken(lambda: ranker.scores(graph), repeat)]
    workload = f"one graph of {services:,} services and {calls:,} calls, from graph to scores, one thread, {size}"
    return Result("rank, onnx", workload, "ms", *_spread(taken), bar)


def _difference(ranker: OnnxRanker, other: NetworkRanker, engine: str) -> Result:
    rng = np.random.default_rng(2)
    sizes = [int(services) for services in rng.integers(2, 200, _GRAPHS)]
    graphs: list[ServiceGraph] = [service_graph(rng, services, 3 * services) for services in sizes]
    apart = [_PICO * _apart(ranker.scores(graph), other.scores(graph)) for graph in graphs]
    workload = f"largest difference of a score, {_GRAPHS} random graphs of up to 200 services"
    return Result(f"onnx to {engine}", workload, "1e-12", *_spread(apart), _PICO * _BAR)


def _apart(ours: Scores, theirs: Scores) -> float:
    pairs = ((ours.score, theirs.score), (ours.null, theirs.null), (ours.family, theirs.family))
    return max(float(np.abs(np.asarray(one) - np.asarray(other)).max()) for one, other in pairs)


def _cold_example(folder: Path, home: Path, repeat: int) -> Result:
    incident, telemetry = example_incident()
    bundle = write_bundle(home / incident.id, incident, telemetry)
    what = f"example bundle, {telemetry.spans.height:,} spans"
    return _cold("rca triage, exported model", what, bundle, folder, repeat)


def _cold_recorded(folder: Path, repeat: int) -> Result:
    """What `make demo` ranks."""
    bundle = ROOT / demo_bundle()
    _, telemetry = read_bundle(bundle)
    rows = sum(frame.height for frame in telemetry.frames().values())
    return _cold("rca triage, recorded incident", f"the demo's bundle, {rows:,} rows", bundle, folder, repeat)


def _cold(name: str, what: str, bundle: Path, folder: Path, repeat: int) -> Result:
    """Cold processes, turn about with the same by the label-free score."""
    triage = [sys.executable, "-m", "rca", "triage", str(bundle)]
    commands = [[*triage, *by] for by in (("--model", str(folder)), ("--ranker", "floor"))]
    taken: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeat + 1):
        for command, into in zip(commands, taken, strict=True):
            start = time.perf_counter()
            subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
            if turn:
                into.append((time.perf_counter() - start) * 1e3)
    size = sum((folder / file).stat().st_size for file, _ in read_model(folder).files.values()) / 2**20
    workload = f"{what}, cold process, a model of {size:.1f} MiB"
    return Result(name, workload, "ms", *_spread(taken[0]), _COLD_BAR_MS, "--ranker floor", statistics.median(taken[1]))


def _spread(taken: Sequence[float]) -> tuple[float, float, float]:
    return statistics.median(taken), max(taken), min(taken)


if __name__ == "__main__":
    main()
