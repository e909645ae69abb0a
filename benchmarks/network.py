"""Throughput of the graph network, beside LambdaMART on the same rows.

    python -m benchmarks.network [--json OUT] [--threads 2] [--repeat 5]

Every figure is the median of several runs, with the slowest and the fastest beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.result import Result
from rca.features import EDGE_FEATURE_NAMES, NODE_FEATURE_NAMES
from rca.graph import ServiceGraph
from rca.models.engines import ENGINES, engine_of
from rca.models.network import Network, NetworkConfig
from rca.models.training import Trainer, TrainingConfig
from rca.telemetry import EntityId
from rca.tensors import GraphTensors, batch, chunks

GRAPHS, SERVICES, CALLS = 512, 30, 60
LARGE_SERVICES, LARGE_CALLS = 10_000, 100_000
INFERENCE_BATCH = 256


def service_graph(rng: np.random.Generator, services: int, calls: int) -> ServiceGraph:
    """A graph of services with the product's own features, drawn at random; 30 % of them unavailable."""
    f, d = len(NODE_FEATURE_NAMES), len(EDGE_FEATURE_NAMES)
    available = rng.random((services, f)) > 0.3
    features = np.where(available, rng.normal(0, 1, (services, f)), 0).astype(np.float32)
    source = rng.integers(0, services, calls)
    target = (source + rng.integers(1, services, calls)) % services
    known = rng.random((calls, d)) > 0.3
    return ServiceGraph(
        tuple(EntityId("service", f"s{i}") for i in range(services)),
        NODE_FEATURE_NAMES,
        features,
        available,
        {"calls": np.stack([source, target]).astype(np.int64)},
        EDGE_FEATURE_NAMES,
        {"calls": np.where(known, rng.normal(0, 1, (calls, d)), 0).astype(np.float32)},
        {"calls": known},
    )


def _timed(action: Callable[[], object], repeat: int) -> list[float]:
    action()  # warm
    seconds = []
    for _ in range(repeat):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return seconds


def _rate(what: str, workload: str, unit: str, amount: float, seconds: Sequence[float], bar: float | None) -> Result:
    rates = [amount / s for s in seconds]
    return Result(what, workload, unit, statistics.median(rates), min(rates), max(rates), bar)


def _duration(what: str, workload: str, seconds: Sequence[float], bar: float | None) -> Result:
    times = [1e3 * s for s in seconds]
    return Result(what, workload, "ms", statistics.median(times), max(times), min(times), bar)


def network_throughput(engine_name: str, repeat: int) -> list[Result]:
    """Training epochs and inference of the default network on small graphs."""
    rng = np.random.default_rng(0)
    graphs = [service_graph(rng, SERVICES, CALLS) for _ in range(GRAPHS)]
    tensors = batch(graphs, targets=[[int(rng.integers(SERVICES))] for _ in graphs], families=["cpu"] * GRAPHS)
    network = Network(tensors.schema, NetworkConfig())
    size = f"{GRAPHS} graphs of {SERVICES} services and {CALLS} calls, {network.parameter_count:,} parameters"
    config = TrainingConfig(epochs=1, batch_graphs=128, device="cpu", engine=engine_name)
    training = _timed(lambda: Trainer(network, tensors, None, config).run(), repeat)
    engine = engine_of(engine_name)
    network.eval()

    def infer() -> None:
        with torch.no_grad():
            for part in chunks(tensors, INFERENCE_BATCH):
                network(part, engine)

    return [
        _rate(f"training, {engine_name}", f"{size}, batches of 128", "graphs/s", GRAPHS, training, 1500),
        _rate(
            f"inference, {engine_name}", f"{size}, batches of {INFERENCE_BATCH}", "graphs/s", GRAPHS, _timed(infer, repeat), 5000
        ),
    ]


def lambdamart_throughput(repeat: int, threads: int) -> list[Result]:
    """LightGBM's LambdaMART on the candidates' rows of the same graphs: 100 trees of 15 leaves."""
    import lightgbm

    rng = np.random.default_rng(0)
    graphs = [service_graph(rng, SERVICES, CALLS) for _ in range(GRAPHS)]
    rows = np.concatenate([np.concatenate([g.features, g.available], axis=1) for g in graphs])
    answers = np.zeros(len(rows), dtype=np.int64)
    answers[np.arange(GRAPHS) * SERVICES + rng.integers(SERVICES, size=GRAPHS)] = 1
    settings = {"objective": "lambdarank", "num_leaves": 15, "num_threads": threads, "verbosity": -1, "seed": 0}
    trained: list[Any] = []

    def train() -> None:
        data = lightgbm.Dataset(rows, answers, group=[SERVICES] * GRAPHS)
        trained.append(lightgbm.train(settings, data, 100))

    size = f"{GRAPHS} graphs of {SERVICES} services, 100 trees of 15 leaves"
    training = _timed(train, repeat)
    inference = _timed(lambda: trained[-1].predict(rows, num_threads=threads), repeat)
    return [
        _rate("training, LambdaMART", f"{size}, the whole fit", "graphs/s", GRAPHS, training, None),
        _rate("inference, LambdaMART", size, "graphs/s", GRAPHS, inference, None),
    ]


def one_graph(engine_name: str, services: int, calls: int, bar: float, repeat: int) -> Result:
    """Graph to scores, warm: tensors, network in float64, as the ranker does it."""
    graph = service_graph(np.random.default_rng(1), services, calls)
    tensors: GraphTensors = batch([graph])
    network = Network(tensors.schema, NetworkConfig()).double().eval()
    engine = engine_of(engine_name)

    def score() -> None:
        with torch.no_grad():
            network(batch([graph]).to("cpu", torch.float64), engine)

    workload = f"one graph of {services:,} services and {calls:,} calls, from graph to scores"
    return _duration(f"rank, {engine_name}", workload, _timed(score, repeat), bar)


def measure(threads: int = 2, repeat: int = 5) -> dict[str, Any]:
    """All figures, and the machine they were taken on."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        results = []
        for engine_name in ENGINES:
            if engine_name == "dgl" and sys.version_info >= (3, 12):
                continue
            results += network_throughput(engine_name, repeat)
            results.append(one_graph(engine_name, 50, 150, 50, repeat))
            results.append(one_graph(engine_name, LARGE_SERVICES, LARGE_CALLS, 1000, repeat))
        results += lambdamart_throughput(repeat, threads)
    finally:
        torch.set_num_threads(before)
    machine = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "threads": threads,
        "load": round(os.getloadavg()[0], 2),
    }
    return {"machine": machine, "repeat": repeat, "results": [asdict(result) for result in results]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures as JSON")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    found = measure(options.threads, options.repeat)
    for result in found["results"]:
        bar = "" if result["bar"] is None else f" (bar {result['bar']:,.0f})"
        span = f"{result['slowest']:,.0f} to {result['fastest']:,.0f}"
        print(f"{result['what']:24}{result['median']:>10,.0f} {result['unit']}{bar}, {span}: {result['workload']}")
    print(found["machine"])
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
