"""Training of the graph network on simulated incidents, on a CPU or a GPU, beside the ways that cost more.

    python -m benchmarks.training [--device auto] [--json docs/results/training.json]

Every device adds its figures to the file, under its name, and leaves those of others. Shares of a second of one core are
processor time on a CPU, so that a busy machine tells the same as a quiet one; on a GPU they are wall time. Networks that learn at
once are always timed by the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.result import Result
from rca.models.compiling import COMPILED
from rca.models.gnn import NetworkRanker
from rca.models.network import Network, NetworkConfig
from rca.models.resident import Resident
from rca.models.simulated import Order, Simulated, simulated_graphs
from rca.models.training import Trainer, TrainingConfig, device_of
from rca.models.usage import Usage, device_name
from rca.tensors import GraphTensors, chunks, joined

_SEED: Final = 1
_BATCH: Final = 64
_AT_ONCE: Final = 2


class Apart(Resident):
    """The same graphs, each on its own on the host: put together anew for every batch, and copied to the device."""

    def __init__(self, tensors: GraphTensors, device: torch.device) -> None:
        super().__init__(tensors, device)
        self._device, self._each = device, chunks(tensors, 1)

    def batches(self, order: npt.NDArray[np.int64], graphs: int) -> Iterator[GraphTensors]:
        for low in range(0, len(order), graphs):
            yield joined([self._each[row] for row in order[low : low + graphs]]).to(self._device)


def simulated(incidents: int, graphs: int, workers: int) -> GraphTensors:
    """So many graphs of simulated incidents; they repeat where that many are not built."""
    with tempfile.TemporaryDirectory() as home:
        built = simulated_graphs(Simulated(), Order(_SEED, incidents), Path(home), workers=workers)
    return built.select(torch.arange(graphs) % built.graphs)


def trainer(tensors: GraphTensors, config: TrainingConfig) -> Trainer:
    return Trainer(Network(tensors.schema, NetworkConfig(), seed=config.seed), tensors, None, config)


def apart(tensors: GraphTensors, config: TrainingConfig) -> Trainer:
    """A trainer of graphs that do not stay on the device."""
    made = trainer(tensors, config)
    made.training = Apart(tensors, made.device)
    return made


def rate(usage: Usage, device: torch.device) -> float:
    """Graphs a second: of processor time on a CPU, by the clock on a GPU."""
    busy = usage.utilisation if device.type == "cpu" and usage.utilisation else 1.0
    return usage.graphs / (usage.seconds * busy)


def epochs(make: Sequence[Callable[[], Trainer]], repeat: int) -> list[list[Usage]]:
    """What an epoch of each costs, turn about, after one to warm up."""
    found: list[list[Usage]] = [[] for _ in make]
    for turn in range(repeat + 1):
        for maker, into in zip(make, found, strict=True):
            usage = maker().run().usages[-1]
            if turn:
                into.append(usage)
    return found


def compared(what: str, workload: str, ours: Sequence[float], peer: str, theirs: Sequence[float]) -> Result:
    return Result(
        what, workload, "graphs/s", statistics.median(ours), min(ours), max(ours), None, peer, statistics.median(theirs)
    )


def learning(tensors: GraphTensors, device: torch.device, repeat: int) -> list[Result]:
    """Graphs that stay on the device, and fewer bits, each beside the opposite; memory; utilisation where it is known."""
    config = TrainingConfig(epochs=1, batch_graphs=_BATCH, device=device.type, precision="float32")  # type: ignore[arg-type]
    halved = TrainingConfig(epochs=1, batch_graphs=_BATCH, device=device.type, precision="bfloat16")  # type: ignore[arg-type]
    makers = [lambda: trainer(tensors, config), lambda: apart(tensors, config), lambda: trainer(tensors, halved)]
    usages = epochs(makers, repeat)
    resident, loose, in_16_bits = ([rate(usage, device) for usage in part] for part in usages)
    size = f"{tensors.graphs} graphs of simulated incidents, {tensors.nodes / tensors.graphs:.0f} nodes each, batches of {_BATCH}"
    memory = [usage.memory_bytes / 2**20 for usage in usages[0]]
    results = [
        compared("training, graphs on the device", size, resident, "put together and copied for every batch", loose),
        compared("training, bfloat16", size, in_16_bits, "float32", resident),
        Result("memory while training", size, "MiB", statistics.median(memory), max(memory), min(memory), None),
    ]
    known = [100 * usage.utilisation for usage in usages[0] if usage.utilisation is not None]
    if known:
        results.append(Result("device busy while training", size, "%", statistics.median(known), min(known), max(known), None))
    return results


def compiling(tensors: GraphTensors, device: torch.device, repeat: int) -> list[Result]:
    """Compiled messages, beside none; nothing where they cannot be compiled."""
    found = []
    for compiled in (False, True):
        config = TrainingConfig(
            epochs=repeat + 1,
            batch_graphs=_BATCH,
            device=device.type,  # type: ignore[arg-type]
            precision="float32",
            compiled=compiled,
        )
        made, start = trainer(tensors, config), time.perf_counter()
        history = made.run()
        before = time.perf_counter() - start - history.seconds
        if compiled and history.compiled != COMPILED:
            print(history.compiled)
            return []
        found.append([rate(usage, device) for usage in history.usages[1:]])
    size = f"{tensors.graphs} graphs, batches of {_BATCH}, after {before:.0f} s of compiling"
    return [compared("training, compiled", size, found[1], "not compiled", found[0])]


def at_once(tensors: GraphTensors, device: torch.device, repeat: int, passes: int) -> list[Result]:
    """Seconds of networks that learn at once in processes of their own, their start included, beside one by one."""
    held_out = tensors.select(torch.arange(min(16, tensors.graphs)))
    taken: dict[int, list[float]] = {1: [], _AT_ONCE: []}
    for _ in range(repeat):
        for workers, into in taken.items():
            ranker = NetworkRanker(epochs=passes, ensemble=_AT_ONCE, workers=workers, device=device.type, seed=_SEED)  # type: ignore[arg-type]
            start = time.perf_counter()
            ranker.pretrain(tensors, held_out, {})
            into.append(time.perf_counter() - start)
    ours, theirs = taken[_AT_ONCE], taken[1]
    size = f"{_AT_ONCE} networks, {passes} epochs of {tensors.graphs} graphs, start of processes included"
    median, peer = statistics.median(ours), statistics.median(theirs)
    return [Result("networks that learn at once", size, "s", median, max(ours), min(ours), None, "one by one", peer)]


def machine(device: torch.device) -> dict[str, Any]:
    return {
        "device": device_name(device),
        "is_gpu": device.type == "cuda",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
    }


def write(path: Path, body: dict[str, Any]) -> None:
    """Put the figures of a device into a file beside those of others."""
    others = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    same = body["machine"]["device"]
    kept = [other for other in others if other["machine"]["device"] != same]
    path.write_text(json.dumps([*kept, body], indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--incidents", type=int, default=12, help="simulated incidents")
    parser.add_argument("--graphs", type=int, default=256, help="graphs to learn from; they repeat")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--passes", type=int, default=4, help="epochs of networks that learn at once")
    parser.add_argument("--quick", action="store_true", help="small, and without compiling, to see that it runs")
    parser.add_argument("--json", type=Path, help="where the figures go; without it they are printed as JSON")
    options = parser.parse_args()
    if options.quick:
        options.incidents, options.graphs, options.repeat, options.passes = 4, 16, 1, 1
    device = device_of(options.device)
    torch.set_num_threads(1)
    tensors = simulated(options.incidents, options.graphs, os.cpu_count() or 1)
    results = learning(tensors, device, options.repeat)
    if not options.quick:
        results += compiling(tensors, device, options.repeat)
    results += at_once(tensors, device, min(options.repeat, 3), options.passes)
    body = {"machine": machine(device), "repeat": options.repeat, "results": [asdict(result) for result in results]}
    if options.json is None:
        print(json.dumps(body, indent=2))
        return
    write(options.json, body)


if __name__ == "__main__":
    main()
