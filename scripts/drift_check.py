"""How often drift is found where there is none, and where there is: simulated incidents against models/simulated.

    python -m scripts.drift_check [--incidents N] [--draws N]
    python -m scripts.drift_check --recorded [--draws N]

The second one draws from the recorded shop's test part and compares with models/general, as `rca serve` keeps counts of graphs.

Draws are of simulated systems that no model was trained on (the seed that training holds out), as many as there would be systems
now; then the same draws with one signal louder by half a logarithm, as if it were measured anew. Prints a Markdown table.
Incidents are simulated where the cache under $RCA_HOME lacks them.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch

from rca.arrays import arrays_of
from rca.errors import BadInput
from rca.evaluation.cases import Labels, asked_for, case_for
from rca.evaluation.lately import Known, lately
from rca.graph import ServiceGraph
from rca.incidents.home import default_home
from rca.models.drift import Drift, drift_of_measured
from rca.models.files import read_model
from rca.models.measures import Measured, joined, measured
from rca.models.recent import MOST_KEPT, Recent, packed, unpacked
from rca.models.reference import Reference, read_reference
from rca.models.simulated import HELD_OUT_SEED, Order, Simulated, simulated_graphs
from rca.models.training import as_arrays
from rca.tensors import GraphTensors
from rca.wording import seconds
from scripts.references import FOLDERS, ROOT

SYSTEMS: Final = (1, 3, 10, 30, 100)
INCIDENTS: Final = (3, 5, 10, 20, 40)
SIGNALS: Final = ("server_latency", "self_time", "cpu")
_LOUDER: Final = 0.5


def drift_in(reference: Reference, graphs: GraphTensors, rows: Sequence[int], signal: str = "") -> Drift:
    """Drift of some of the graphs, each of a system of its own; of a signal that is louder, if one is named."""
    drawn = graphs.select(torch.tensor(rows))
    if signal:
        names = drawn.schema.features
        louder = torch.tensor([name in (f"{signal}.z", f"{signal}.above") for name in names])
        drawn = replace(drawn, x=drawn.x + _LOUDER * (drawn.available & louder))
    return drift_of_measured(reference, measured(as_arrays(drawn)), [str(row) for row in rows])


def table(reference: Reference, graphs: GraphTensors, draws: int) -> str:
    """In how many draws something was found, and in how many it named the signal that is louder."""
    rng = np.random.default_rng(1)
    told = torch.nonzero(~graphs.is_normal).flatten().numpy()
    head = ["systems", "as they are", *(f"{signal} louder" for signal in SIGNALS)]
    lines = [head, ["---"] * len(head)]
    for systems in SYSTEMS:
        drawn = [rng.choice(told, systems, replace=False).tolist() for _ in range(draws)]
        counts = [sum(drift_in(reference, graphs, rows).found for rows in drawn)]
        for signal in SIGNALS:
            counts.append(sum(_names(drift_in(reference, graphs, rows, signal), signal) for rows in drawn))
        lines.append([str(systems), *(f"{count} of {draws}" for count in counts)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def recorded_table(reference: Reference, graphs: Sequence[ServiceGraph], draws: int) -> str:
    """The same of incidents of one system, as they are counted and kept."""
    rng = np.random.default_rng(1)
    kept = {signal: [_kept(louder(graph, signal)) for graph in graphs] for signal in ("", *SIGNALS)}
    head = ["incidents", "as they are", *(f"{signal} louder" for signal in SIGNALS)]
    lines = [head, ["---"] * len(head)]
    for number in INCIDENTS:
        drawn = [rng.choice(len(graphs), number, replace=False).tolist() for _ in range(draws)]
        counts = []
        for signal, counted in kept.items():
            found = [drift_of_measured(reference, joined([counted[i] for i in rows]), ["shop"] * number) for rows in drawn]
            counts.append(sum(_names(drift, signal) if signal else drift.found for drift in found))
        lines.append([str(number), *(f"{count} of {draws}" for count in counts)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cost(reference: Reference, graphs: Sequence[ServiceGraph]) -> str:
    """What counting an incident takes, and looking back on as many as are kept, in time of one core."""
    now_ns = time.time_ns()
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        with Recent(Path(folder)) as recent:
            for number in range(MOST_KEPT):
                recent.keep(str(number), "", "shop", now_ns, graphs[number % len(graphs)])
        counted = time.process_time()
        found = lately(Path(folder), Known("general", reference), now_ns)
        looked = time.process_time()
    each = seconds((counted - began) / MOST_KEPT)
    return f"{each} to count an incident, {seconds(looked - counted)} to look back on {found.incidents}"


def louder(graph: ServiceGraph, signal: str) -> ServiceGraph:
    """The graph with a signal that is louder, if one is named."""
    columns = [graph.feature_names.index(f"{signal}.{part}") for part in ("z", "above") if signal]
    values = graph.features.copy()
    values[:, columns] += _LOUDER * graph.available[:, columns]
    return replace(graph, features=values)


def _kept(graph: ServiceGraph) -> Measured:
    return unpacked(packed(measured(arrays_of([graph]))))


def _names(drift: Drift, signal: str) -> bool:
    named = {shift.name.split(".")[0] for shift in drift.drifted("feature")}
    return drift.alarms("feature") and signal in named


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--incidents", type=int, default=500)
    parser.add_argument("--draws", type=int, default=40)
    parser.add_argument("--recorded", action="store_true", help="the recorded shop's test part against models/general")
    options = parser.parse_args()
    model = read_model(FOLDERS[1 if options.recorded else 0])
    reference = read_reference(model)
    if reference is None:
        raise BadInput(str(model.folder), expected="a reference (python -m scripts.references)", found="none")
    if options.recorded:
        recorded = asked_for(ROOT / "incidents", "test", [], Labels.ANY)
        cases = [case for one in recorded if (case := case_for(one, home=default_home())) is not None]
        graphs_now = [case.graph for case in cases]
        print(recorded_table(reference, graphs_now, options.draws), cost(reference, graphs_now), sep="\n\n")
        return
    order = Order(int(model.card.data["simulated"]["seed"]) + HELD_OUT_SEED, options.incidents)
    graphs = simulated_graphs(Simulated(), order, default_home(), workers=os.cpu_count() or 1)
    print(table(reference, graphs, options.draws))


if __name__ == "__main__":
    main()
