"""Simulated incidents as training graphs: built by several processes, kept on disk in parts, read back into one batch.

Every incident gives its graph; half of them also give a view of it with fewer modalities, since other systems record less; and
every fourth gives a quiet stretch, in which nothing is wrong. All of it follows from the seed and the incident's number, however
many processes build it, and a build that was interrupted goes on from the parts that are finished.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from rca.arrays import Schema
from rca.contracts import LabelledCase
from rca.errors import BadCheckpoint
from rca.features import EDGE_FEATURE_NAMES, NODE_FEATURE_NAMES
from rca.incidents.incident import Incident
from rca.models.augmentation import labelled_incidents, normal_windows
from rca.models.checkpoint import graphs_of_values, read_state, values_of_graphs, write_state
from rca.models.training import TrainingSet
from rca.models.views import VIEWS, speaks_of, view
from rca.pipeline import case_of
from rca.provenance import code_digest
from rca.simulator import CONFIG, Config, simulate
from rca.simulator.generation import in_processes
from rca.telemetry import Telemetry
from rca.tensors import GraphTensors, joined

CACHE_FOLDER: Final = "cache/simulated"
HELD_OUT_SEED: Final = 1_000_003
"""Added to a seed it gives the systems that are held out: none of them is trained on, however many incidents are."""
_VIEW_SHARE, _QUIET_SHARE = 0.5, 0.25
Source = Callable[[int, int], tuple[Incident, Telemetry]]
"""(seed, number) -> one incident and its telemetry, always the same. Must be picklable, and its repr must say what it makes."""


@dataclass(frozen=True)
class Simulated:
    """The simulator of rca.simulator as a source."""

    config: Config = CONFIG

    def __call__(self, seed: int, number: int) -> tuple[Incident, Telemetry]:
        return simulate(seed, number, self.config)


@dataclass(frozen=True)
class Order:
    """Which incidents: the numbers below `count` of a seed, built `together` at a time."""

    seed: int
    count: int
    together: int = 16

    @property
    def parts(self) -> list[range]:
        return [range(low, min(low + self.together, self.count)) for low in range(0, self.count, self.together)]


def simulated_graphs(
    source: Source,
    order: Order,
    home: Path,
    *,
    workers: int = 1,
    step: Callable[[int], None] = lambda _: None,
) -> GraphTensors:
    """The graphs of simulated incidents, built where the cache under `home` lacks them.

    `step` is told how many of the incidents are done. Features are 16-bit floats; `GraphTensors.select` gives 32-bit ones. Raises
    Unavailable if a process that builds dies.
    """
    folder = home / CACHE_FOLDER / cache_key(source, order.seed)
    files = {part: _file(folder, part) for part in order.parts}
    found = {part: tensors for part, file in files.items() if (tensors := _read(file)) is not None}
    done = sum(len(part) for part in found)
    step(done)
    missing = [part for part in files if part not in found]
    parts = order.parts
    for place, _ in in_processes(partial(_build, source, order, folder), [parts.index(part) for part in missing], workers):
        done += len(parts[place])
        step(done)
    made = [found.get(part) or _read(file) for part, file in files.items()]
    return joined([tensors for tensors in made if tensors is not None and tensors.graphs])


def cache_key(source: Source, seed: int) -> str:
    """Names what the parts hang on: the source, the seed, and the code."""
    names = [repr(source), str(seed), graph_code()]
    return hashlib.blake2b("\n".join(names).encode(), digest_size=12).hexdigest()


def graph_code() -> str:
    """Digest of the code that simulates incidents, builds their cases and makes graphs of them, how one trains on these aside."""
    names = [
        code_digest("simulator", "models/simulated.py", "models/views.py", "models/augmentation.py"),
        inspect.getsource(TrainingSet),
    ]
    return hashlib.blake2b("\n".join(names).encode(), digest_size=12).hexdigest()


def _file(folder: Path, part: range) -> Path:
    return folder / f"{part.start}-{part.stop}.safetensors"


def _build(source: Source, order: Order, folder: Path, place: int) -> None:
    """Build part `place` of an order."""
    numbers = order.parts[place]
    made = [graphs_of(*source(order.seed, number), np.random.default_rng([order.seed, number, 5])) for number in numbers]
    whole = sum(made, TrainingSet.empty())
    tensors = whole.tensors(np.array(whole.weights)).compact()
    write_state(_file(folder, numbers), values_of_graphs(tensors), {"fingerprint": folder.name})


def _read(file: Path) -> GraphTensors | None:
    """A finished part; None if there is none that can be read."""
    try:
        values, _ = read_state(file, file.parent.name)
    except BadCheckpoint:
        return None
    return graphs_of_values(Schema(NODE_FEATURE_NAMES, EDGE_FEATURE_NAMES), values)


def graphs_of(incident: Incident, telemetry: Telemetry, rng: np.random.Generator) -> TrainingSet:
    """The graphs that one incident gives."""
    case = case_of(incident, telemetry)
    labelled = LabelledCase(case, incident.id, incident.system, incident.causes(), incident.fault_kind())
    cases = [labelled]
    if rng.random() < _VIEW_SHARE:
        seen = view(case, VIEWS[int(rng.integers(len(VIEWS)))])
        cases += [replace(labelled, case=seen)] if speaks_of(seen, labelled) else []
    made = labelled_incidents(cases)
    if rng.random() < _QUIET_SHARE:
        made += normal_windows([labelled], 1, int(rng.integers(2**31)))
    return made
