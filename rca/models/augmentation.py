"""What a training set is made of: labelled incidents, quiet windows of the same systems, and incidents invented on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rca.contracts import LabelledCase
from rca.faults import NO_FAULT, family_of, is_no_fault
from rca.features import entity_rows, quiet_graph
from rca.graph import ServiceGraph
from rca.invention import invent
from rca.models.training import TrainingSet

Augment = Callable[[Sequence[LabelledCase], int, int], TrainingSet]
"""(cases, how many graphs, seed) -> additional graphs with their answers."""

_PER_STRETCH, _FEWEST, _MOST = 60, 300, 1000
_PATIENCE = 5  # tries per invented incident: now and then a drawn fault finds nothing to push


def labelled_incidents(cases: Sequence[LabelledCase]) -> TrainingSet:
    """The cases with their causes. A cause that is no candidate counts for the null; a case without any is left out.

    A case without a cause whose fault kind names nobody (a quiet window, a traffic surge) teaches that nothing is wrong.
    """
    told = [case for case in cases if case.causes or is_no_fault(case.fault_kind)]
    graphs = tuple(case.case.graph for case in told)
    targets = tuple(_candidate_rows(case) for case in told)
    return TrainingSet(
        graphs,
        targets,
        tuple(family_of(case.fault_kind) if rows else NO_FAULT for case, rows in zip(told, targets, strict=True)),
        (1.0,) * len(told),
        tuple(case.system for case in told),
        tuple(not rows for rows in targets),
    )


def _candidate_rows(case: LabelledCase) -> tuple[int, ...]:
    graph = case.case.graph
    candidates = set(graph.candidate_rows.tolist())
    return tuple(row for row in sorted(set(entity_rows(graph, case.causes))) if row in candidates)


def normal_windows(cases: Sequence[LabelledCase], per_case: int, seed: int) -> TrainingSet:
    """Up to `per_case` quiet stretches of every case, each calibrated on the others."""
    rng = np.random.default_rng([seed, 1])
    graphs, systems = [], []
    for case in cases:
        quiet = case.case.quiet
        for i in rng.permutation(len(quiet))[:per_case]:
            graphs.append(quiet_graph(quiet, int(i)))
            systems.append(case.system)
    n = len(graphs)
    return TrainingSet(tuple(graphs), ((),) * n, (NO_FAULT,) * n, (1.0,) * n, tuple(systems), (True,) * n)


def enough_invented(cases: Sequence[LabelledCase]) -> int:
    """How many incidents are worth inventing: a quiet stretch has only so many faults to tell apart."""
    stretches = sum(len(case.case.quiet) for case in cases)
    return min(max(_PER_STRETCH * stretches, _FEWEST), _MOST) if stretches else 0


def invented_incidents(cases: Sequence[LabelledCase], count: int, seed: int) -> TrainingSet:
    """`count` incidents invented on quiet stretches of the cases, their labels unused; fewer where nothing can be pushed.

    Every system gets the same share. Stretches are calibrated on the case's other ones, as incidents are on all of them.
    """
    rng = np.random.default_rng([seed, 2])
    systems = {case.system: [c for c in cases if c.system == case.system and c.case.quiet] for case in cases}
    names = sorted(name for name, members in systems.items() if members)
    graphs: list[ServiceGraph] = []
    targets: list[tuple[int, ...]] = []
    families: list[str] = []
    owners: list[str] = []
    for turn in range(_PATIENCE * count if names else 0):
        if len(graphs) == count:
            break
        system = names[turn % len(names)]
        members = systems[system]
        case = members[int(rng.integers(len(members)))].case
        place = int(rng.integers(len(case.quiet)))
        invented = invent(case.quiet[place], np.isfinite(case.deviations.node), rng)
        if invented is None:
            continue
        graphs.append(quiet_graph(case.quiet, place, invented.deviations))
        targets.append(() if invented.culprit is None else (invented.culprit,))
        families.append(invented.family)
        owners.append(system)
    n = len(graphs)
    return TrainingSet(
        tuple(graphs), tuple(targets), tuple(families), (1.0,) * n, tuple(owners), tuple(not rows for rows in targets)
    )
