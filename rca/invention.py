"""Invented incidents: fault shapes pushed onto quiet stretches of a system, along its own call graph.

No label is needed, and every family of faults is seen, those included that the labels happen to lack: a model trained on tens of
labelled incidents otherwise unlearns what it never saw used. Shapes and chances: SHAPES below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from rca.deviations import CLIP, Deviations
from rca.graph import CALL_RELATIONS
from rca.signals import EDGE_COLUMN, NODE_COLUMN, NODE_SIGNALS
from rca.telemetry import CANDIDATE_KINDS

Array = npt.NDArray[np.float64]

_MEDIAN_Z, _SIGMA = 12.0, 1.0  # strength of a fault: log-normal
_SIGNAL_SIGMA: Final = 0.7  # how unevenly one fault shows in its signals
_DAMPING: Final = 0.6  # of a symptom, per hop towards the callers
_REACH: Final = 3  # hops
_SUFFERS: Final = 0.75  # chance that a caller of a disturbed entity is disturbed
_ON_PATH: Final = 0.9  # chance that the culprit serves requests
_WOBBLE_Z: Final = 4.0  # an unrelated disturbance, median
_JITTER: Final = 0.25  # of every deviation, on the log scale
_STRONGEST: Final = 400.0


@dataclass(frozen=True)
class Shape:
    """How one family of faults shows: chance per signal. A minus before the name pushes the signal down.

    `culprit` are its own signals, `callers` those of whoever waits for it, `callees` those of whoever it calls; `into` and
    `out_of` are the signals of the edges at it.
    """

    culprit: Mapping[str, float]
    callers: Mapping[str, float] = field(default_factory=dict)
    callees: Mapping[str, float] = field(default_factory=dict)
    into: Mapping[str, float] = field(default_factory=dict)
    out_of: Mapping[str, float] = field(default_factory=dict)


_SLOW_CALLERS: Final = {
    "server_latency": 0.8,
    "metric_server_latency": 0.8,
    "metric_client_latency": 0.8,
    "latency_residual": 0.15,
    "self_time": 0.1,
    "-traffic": 0.2,
}
_FAILING_CALLERS: Final = {
    "errors": 0.8,
    "metric_success": 0.8,
    "metric_errors": 0.8,
    "success_residual": 0.15,
    "error_lines": 0.6,
    "new_templates": 0.4,
    "vanished_templates": 0.3,
    "vanished_calls": 0.3,
    "own_errors": 0.15,
}
_OWN_LATENCY: Final = {"server_latency": 0.8, "metric_server_latency": 0.8, "latency_residual": 0.75}

SHAPES: Final[dict[str, Shape]] = {
    "cpu": Shape(
        {"cpu": 0.9, "self_time": 0.8, **_OWN_LATENCY, "memory": 0.3, "gap_in": 0.4, "gap_out": 0.4, "disk": 0.15},
        _SLOW_CALLERS,
        into={"client_latency": 0.8, "called_latency": 0.8, "gap": 0.4, "metric_gap": 0.3},
        out_of={"gap": 0.4},
    ),
    "memory": Shape(
        {"memory": 0.95, "cpu": 0.5, "self_time": 0.4, "latency_residual": 0.3, "warnings": 0.3, "disk": 0.2},
        _SLOW_CALLERS,
        into={"client_latency": 0.4, "called_latency": 0.4},
    ),
    "disk": Shape(
        {"disk": 0.95, "self_time": 0.6, "leaf_latency": 0.5, **_OWN_LATENCY, "error_lines": 0.2},
        _SLOW_CALLERS,
        into={"client_latency": 0.7, "called_latency": 0.7},
    ),
    "network": Shape(
        {"gap_in": 0.9, "gap_in_all": 0.9, "metric_gap": 0.9, "gap_out": 0.4, "metric_client_latency": 0.4, "network": 0.3,
         "leaf_latency": 0.3, "-traffic": 0.2, "-metric_traffic": 0.2},
        {**_SLOW_CALLERS, "latency_residual": 0.4},
        into={"gap": 0.95, "metric_gap": 0.95, "client_latency": 0.9},
        out_of={"gap": 0.5, "metric_gap": 0.4, "client_latency": 0.4},
    ),
    "errors": Shape(
        {"vanished_calls": 0.6, "vanished_templates": 0.6, "new_templates": 0.5, "error_lines": 0.5, "errors": 0.6,
         "own_errors": 0.6, "metric_success": 0.7, "metric_errors": 0.7, "success_residual": 0.7,
         "quiet_callees": 0.5, "self_time_fall": 0.3},
        _FAILING_CALLERS,
        callees={"-traffic": 0.4, "-metric_traffic": 0.4, "-log_volume": 0.3},
        into={"failed_calls": 0.7},
        out_of={"-calls": 0.5},
    ),
    "latency": Shape(
        {"self_time": 0.8, **_OWN_LATENCY, "sockets": 0.3, "new_templates": 0.1},
        _SLOW_CALLERS,
        into={"client_latency": 0.9, "called_latency": 0.9},
    ),
    "crash": Shape(
        {"-traffic": 0.8, "-metric_traffic": 0.8, "-log_volume": 0.7, "warnings": 0.7, "memory": 0.5, "cpu": 0.4,
         "new_templates": 0.4, "vanished_templates": 0.3, "own_errors": 0.3, "-network": 0.5},
        {**_FAILING_CALLERS, "gap_out": 0.3},
        into={"failed_calls": 0.8, "-calls": 0.4, "gap": 0.3},
    ),
    "dependency": Shape(
        {"leaf_latency": 0.7, "own_errors": 0.6, "errors": 0.5, "metric_server_latency": 0.5, "latency_residual": 0.5,
         "success_residual": 0.4, "error_lines": 0.4},
        {**_FAILING_CALLERS, "server_latency": 0.5, "leaf_latency": 0.3},
        into={"client_latency": 0.8, "failed_calls": 0.6},
    ),
}  # fmt: skip
"""One shape for every family of faults.FAMILIES."""


@dataclass(frozen=True, eq=False)
class Invented:
    """An incident that never happened: deviations, the row of its culprit, and its family."""

    deviations: Deviations
    culprit: int
    family: str


def invent(quiet: Deviations, observed: npt.NDArray[np.bool_], rng: np.random.Generator) -> Invented | None:
    """Push one fault onto a quiet stretch.

    observed: (N, S), signals that this system reports in incidents; one that quiet times never show counts as 0 there. Slopes
    stay those of the quiet stretch. None if nothing that the drawn fault would move is observed at the drawn culprit.
    """
    node = np.where(np.isfinite(quiet.node), quiet.node, np.where(observed, 0.0, np.nan))
    edge = {relation: values.copy() for relation, values in quiet.edge.items()}
    family = str(rng.choice(list(SHAPES)))
    shape = SHAPES[family]
    culprit = _draw_culprit(quiet, node, rng)
    if culprit is None:
        return None
    strength = min(float(rng.lognormal(np.log(_MEDIAN_Z), _SIGMA)), _STRONGEST)
    if not _push(node[culprit], NODE_COLUMN, shape.culprit, strength, rng, at_least_one=True):
        return None
    for row, hops in _callers_of(quiet, culprit, rng).items():
        _push(node[row], NODE_COLUMN, shape.callers, strength * _DAMPING**hops, rng)
    for relation in CALL_RELATIONS:
        sources, targets = quiet.edges.get(relation, np.zeros((2, 0), dtype=np.int64))
        for column in np.flatnonzero(targets == culprit):
            _push(edge[relation][column], EDGE_COLUMN, shape.into, strength, rng)
        for column in np.flatnonzero(sources == culprit):
            _push(edge[relation][column], EDGE_COLUMN, shape.out_of, strength, rng)
            _push(node[targets[column]], NODE_COLUMN, shape.callees, strength * _DAMPING, rng)
    _wobble(node, culprit, rng)
    node *= np.exp(rng.normal(0.0, _JITTER, node.shape))
    for values in (node, *edge.values()):
        np.clip(values, -CLIP, CLIP, out=values)
    return Invented(Deviations(quiet.entities, quiet.edges, node, quiet.slope, edge), culprit, family)


def _draw_culprit(quiet: Deviations, node: Array, rng: np.random.Generator) -> int | None:
    able = np.array([entity.kind in CANDIDATE_KINDS for entity in quiet.entities], dtype=bool) & np.isfinite(node).any(axis=1)
    on_path = np.zeros(len(able), dtype=bool)
    for relation in CALL_RELATIONS:
        if relation in quiet.edges:
            on_path[quiet.edges[relation].ravel()] = True
    preferred = able & (on_path if rng.random() < _ON_PATH else ~on_path)
    rows = np.flatnonzero(preferred if preferred.any() else able)
    return int(rng.choice(rows)) if len(rows) else None


def _push(
    values: Array, columns: Mapping[str, int], chances: Mapping[str, float], strength: float, rng: np.random.Generator,
    *, at_least_one: bool = False,
) -> bool:  # fmt: skip
    """Raise the observed signals of one row, each with its chance. True if any was raised."""
    drawn = [(name, rng.random() < chance, float(rng.lognormal(0.0, _SIGNAL_SIGMA))) for name, chance in chances.items()]
    possible = [(name, wanted, factor) for name, wanted, factor in drawn if np.isfinite(values[columns[name.lstrip("-")]])]
    chosen = [(name, factor) for name, wanted, factor in possible if wanted]
    if not chosen and at_least_one and possible:
        chosen = [max(((name, factor) for name, _, factor in possible), key=lambda pair: chances[pair[0]])]
    for name, factor in chosen:
        column = columns[name.lstrip("-")]
        pushed = strength * factor * (-1.0 if name.startswith("-") else 1.0)
        if abs(pushed) > abs(values[column]):
            values[column] = pushed
    return bool(chosen)


def _callers_of(quiet: Deviations, culprit: int, rng: np.random.Generator) -> dict[int, int]:
    """Callers that suffer, with their distance in hops; each is reached by chance."""
    callers: dict[int, list[int]] = {}
    for relation in CALL_RELATIONS:
        if relation in quiet.edges:
            for source, target in quiet.edges[relation].T.tolist():
                callers.setdefault(target, []).append(source)
    reached = {culprit: 0}
    frontier = [culprit]
    for hops in range(1, _REACH + 1):
        nearest = sorted({source for row in frontier for source in callers.get(row, []) if source not in reached})
        frontier = [source for source in nearest if rng.random() < _SUFFERS]
        reached.update(dict.fromkeys(frontier, hops))
    del reached[culprit]
    return reached


def _wobble(node: Array, culprit: int, rng: np.random.Generator) -> None:
    """About one unrelated disturbance per window."""
    for _ in range(int(rng.poisson(1.0))):
        row, column = int(rng.integers(len(node))), int(rng.integers(node.shape[1]))
        if row != culprit and np.isfinite(node[row, column]):
            sign = rng.choice([-1.0, 1.0]) if NODE_SIGNALS[column].signed else 1.0
            node[row, column] = sign * float(rng.lognormal(np.log(_WOBBLE_Z), _SIGMA))
