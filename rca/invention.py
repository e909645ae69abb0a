"""Invented incidents: fault shapes pushed onto quiet stretches of a system, along its own call graph.

No label is needed, and every kind of fault of rca.faults is seen, those included that the labels happen to lack: a model trained
on tens of labelled incidents otherwise unlearns what it never saw used. A shape says how often which signal moves: at the
culprit, at those who call it and whom it calls, at what runs on it, and on the calls between them. Shapes of kinds that nobody is
to blame for (a surge, a skewed clock, telemetry that stops) teach the null. Shapes and chances: SHAPES below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from rca.deviations import CLIP, Deviations
from rca.faults import FAULT_KINDS, family_of
from rca.graph import CALL_RELATIONS
from rca.signals import EDGE_COLUMN, NODE_COLUMN, NODE_SIGNALS
from rca.telemetry import CANDIDATE_KINDS

Array = npt.NDArray[np.float64]

_MEDIAN_Z, _SIGMA = 12.0, 1.0  # strength of a fault: log-normal
_SIGNAL_SIGMA: Final = 0.7  # how unevenly one fault shows in its signals
_DAMPING: Final = (0.4, 1.1)  # of a symptom, per hop towards the callers; some systems pass on all of it
_REACH: Final = 3  # hops
_SUFFERS: Final = 0.75  # chance that a caller of a disturbed entity is disturbed
_ON_PATH: Final = 0.9  # chance that the culprit serves requests
_WOBBLE_Z: Final = 4.0  # an unrelated disturbance, median
_JITTER: Final = 0.25  # of every deviation, on the log scale
_STRONGEST: Final = 400.0
_CLIMB: Final = (0.1, 0.5)  # slope of a signal that climbs, in shares of its deviation per minute

Chances = Mapping[str, float]
"""Signal to the chance that it moves. A minus before the name pushes it down."""


@dataclass(frozen=True)
class Shape:
    """How one kind of fault shows.

    `culprit` are its own signals, `callers` those of whoever waits for it, `callees` those of whoever it calls, `hosted` those of
    the services that run on it; `into` and `out_of` are the signals of the calls to it and from it. Signals that `climb` have a
    slope of their own. With `everywhere` the culprit's signals move at (nearly) every service, and nobody is to blame.
    """

    culprit: Chances
    callers: Chances = field(default_factory=dict)
    callees: Chances = field(default_factory=dict)
    hosted: Chances = field(default_factory=dict)
    into: Chances = field(default_factory=dict)
    out_of: Chances = field(default_factory=dict)
    climb: frozenset[str] = frozenset()
    everywhere: bool = False


_SLOW_CALLERS: Final = {
    "server_latency": 0.8,
    "metric_server_latency": 0.8,
    "metric_client_latency": 0.8,
    "latency_residual": 0.15,
    "self_time": 0.1,
    "sockets": 0.2,
    "-traffic": 0.2,
}
_FAILING_CALLERS: Final = {
    "errors": 0.8,
    "metric_success": 0.8,
    "metric_errors": 0.8,
    "success_residual": 0.1,
    "error_lines": 0.2,
    "new_templates": 0.2,
    "vanished_templates": 0.15,
    "vanished_calls": 0.15,
    "own_errors": 0.1,
}
_OWN_LATENCY: Final = {"server_latency": 0.8, "metric_server_latency": 0.8, "latency_residual": 0.75}
_OWN_FAILURES: Final = {
    "errors": 0.7,
    "own_errors": 0.7,
    "metric_success": 0.7,
    "metric_errors": 0.7,
    "success_residual": 0.7,
    "error_lines": 0.6,
    "new_templates": 0.5,
}
_GAPS: Final = {"gap_in": 0.9, "gap_in_all": 0.9, "metric_gap": 0.9}
_SILENT: Final = {"-traffic": 0.8, "-metric_traffic": 0.8, "-log_volume": 0.7, "-network": 0.5}
_SLOW_CALLS: Final = {"client_latency": 0.8, "called_latency": 0.8}
_FAILED_CALLS: Final = {"failed_calls": 0.8, "-calls": 0.3}
_IDLE_CALLEES: Final = {"-traffic": 0.4, "-metric_traffic": 0.4, "-log_volume": 0.3}
_BUSIER: Final = {"traffic": 0.8, "metric_traffic": 0.8, "new_calls": 0.5, "cpu": 0.5, "network": 0.4}

_CPU: Final = Shape(
    {"cpu": 0.9, "self_time": 0.8, **_OWN_LATENCY, "memory": 0.3, "gap_in": 0.4, "gap_out": 0.4, "disk": 0.15},
    _SLOW_CALLERS,
    hosted={"self_time": 0.6, "server_latency": 0.6, "metric_server_latency": 0.6, "latency_residual": 0.4, "cpu": 0.2},
    into={**_SLOW_CALLS, "gap": 0.4, "metric_gap": 0.3},
    out_of={"gap": 0.4},
)
_DISK: Final = Shape(
    {"disk": 0.9, "self_time": 0.6, "leaf_latency": 0.6, **_OWN_LATENCY, "error_lines": 0.2},
    _SLOW_CALLERS,
    hosted={"self_time": 0.5, "server_latency": 0.5, "metric_server_latency": 0.5, "disk": 0.3},
    into=_SLOW_CALLS,
)
_SLOW: Final = Shape(
    {"self_time": 0.8, **_OWN_LATENCY, "leaf_latency": 0.8, "sockets": 0.3, "new_templates": 0.1}, _SLOW_CALLERS, into=_SLOW_CALLS
)
_FAILING: Final = Shape(
    {**_OWN_FAILURES, "vanished_calls": 0.5, "vanished_templates": 0.5, "quiet_callees": 0.4},
    _FAILING_CALLERS,
    callees=_IDLE_CALLEES,
    into=_FAILED_CALLS,
    out_of={"-calls": 0.4},
)
_DOWN: Final = Shape(
    {"own_errors": 0.9, "errors": 0.5, "leaf_latency": 0.5, "metric_success": 0.6, "metric_errors": 0.6, "success_residual": 0.5,
     **_SILENT, "-cpu": 0.3, "warnings": 0.3},
    {**_FAILING_CALLERS, "server_latency": 0.4, "metric_server_latency": 0.4, "leaf_latency": 0.2},
    into={**_FAILED_CALLS, "client_latency": 0.5},
)  # fmt: skip

SHAPES: Final[dict[str, Shape]] = {
    "cpu_contention": _CPU,
    "cpu_consumed": Shape(
        {"cpu": 0.95, "self_time": 0.8, **_OWN_LATENCY, "-traffic": 0.1}, _SLOW_CALLERS, into=_SLOW_CALLS
    ),
    "noisy_neighbour": Shape(
        {"cpu": 0.9, "memory": 0.3, "disk": 0.2, "network": 0.2},
        _SLOW_CALLERS,
        hosted={"self_time": 0.8, "server_latency": 0.8, "metric_server_latency": 0.8, "latency_residual": 0.6, "cpu": 0.2,
                "gap_in": 0.2},
    ),
    "memory_leak": Shape(
        {"memory": 0.95, "cpu": 0.4, "self_time": 0.4, "latency_residual": 0.3, "warnings": 0.4, "disk": 0.2, "errors": 0.2},
        _SLOW_CALLERS,
        into={"client_latency": 0.4, "called_latency": 0.4, "failed_calls": 0.2},
        climb=frozenset({"memory"}),
    ),
    "disk_full": Shape(
        {"disk": 0.95, **_OWN_FAILURES, "error_lines": 0.8, "warnings": 0.2},
        _FAILING_CALLERS,
        into=_FAILED_CALLS,
        climb=frozenset({"disk"}),
    ),
    "slow_io": _DISK,
    "network_delay": Shape(
        {**_GAPS, "gap_out": 0.5, "metric_client_latency": 0.4, "leaf_latency": 0.6, "network": 0.2},
        {**_SLOW_CALLERS, "latency_residual": 0.4},
        into={"gap": 0.95, "metric_gap": 0.95, "client_latency": 0.9},
        out_of={"gap": 0.5, "metric_gap": 0.4, "client_latency": 0.4},
    ),
    "network_loss": Shape(
        {**_GAPS, "gap_out": 0.4, "metric_client_latency": 0.4, "network": 0.4, "leaf_latency": 0.6, "-traffic": 0.2,
         "-metric_traffic": 0.2, "own_errors": 0.2, "unanswered_calls": 0.3},
        {**_SLOW_CALLERS, "latency_residual": 0.4, "errors": 0.2, "metric_success": 0.2},
        into={"gap": 0.8, "metric_gap": 0.8, "client_latency": 0.7, "failed_calls": 0.3},
        out_of={"gap": 0.4, "client_latency": 0.4},
    ),
    "network_corrupt": Shape(
        {**_GAPS, "-network": 0.5, "network": 0.2, "leaf_latency": 0.5, "-traffic": 0.5, "-metric_traffic": 0.5},
        {**_SLOW_CALLERS, "latency_residual": 0.4},
        into={"gap": 0.7, "metric_gap": 0.7, "client_latency": 0.7},
        out_of={"gap": 0.4},
    ),
    "network_partition": Shape(
        {**_SILENT, "unanswered_calls": 0.8, "own_errors": 0.3, "gap_in": 0.4, "metric_gap": 0.4, "metric_success": 0.4,
         "leaf_latency": 0.4, "success_residual": 0.4},
        {**_FAILING_CALLERS, "server_latency": 0.4, "metric_server_latency": 0.4},
        callees=_IDLE_CALLEES,
        into={**_FAILED_CALLS, "client_latency": 0.5},
        out_of={"failed_calls": 0.5, "-calls": 0.4},
    ),
    "dns_failure": Shape(
        {**_OWN_FAILURES, "own_errors": 0.9, "vanished_calls": 0.4, "quiet_callees": 0.6, "self_time_fall": 0.3},
        _FAILING_CALLERS,
        callees=_IDLE_CALLEES,
        into=_FAILED_CALLS,
        out_of={"failed_calls": 0.9},
    ),
    "exception": Shape(
        {**_OWN_FAILURES, "error_lines": 0.8, "vanished_calls": 0.6, "vanished_templates": 0.6, "quiet_callees": 0.4,
         "self_time_fall": 0.2},
        _FAILING_CALLERS,
        callees=_IDLE_CALLEES,
        into=_FAILED_CALLS,
        out_of={"-calls": 0.5},
    ),
    "return": Shape(
        {"vanished_calls": 0.9, "vanished_templates": 0.7, "quiet_callees": 0.7, "self_time_fall": 0.5, "-log_volume": 0.3},
        {"vanished_calls": 0.2, "vanished_templates": 0.3, "new_templates": 0.2},
        callees=_IDLE_CALLEES,
        out_of={"-calls": 0.8},
    ),
    "bad_rollout": Shape(
        {**_OWN_FAILURES, "changes": 0.9, "warnings": 0.3, "self_time": 0.4, **_OWN_LATENCY, "memory": 0.3, "new_templates": 0.7,
         "vanished_templates": 0.4, "cpu": 0.3},
        {**_FAILING_CALLERS, "server_latency": 0.4, "metric_server_latency": 0.4},
        into={"failed_calls": 0.6, "client_latency": 0.5, "called_latency": 0.5},
    ),
    "configuration_mistake": Shape(
        {**_OWN_FAILURES, "changes": 0.7, "vanished_calls": 0.5, "quiet_callees": 0.4, "vanished_templates": 0.4},
        _FAILING_CALLERS,
        callees=_IDLE_CALLEES,
        into=_FAILED_CALLS,
        out_of={"failed_calls": 0.6, "-calls": 0.4},
    ),
    "availability": _FAILING,
    "latency": _SLOW,
    "thread_starvation": Shape(
        {"self_time": 0.7, **_OWN_LATENCY, "gap_in": 0.6, "metric_gap": 0.6, "sockets": 0.6, "-cpu": 0.3, "errors": 0.2},
        {**_SLOW_CALLERS, "errors": 0.2, "metric_success": 0.2},
        into={**_SLOW_CALLS, "gap": 0.6, "metric_gap": 0.6},
    ),
    "connection_pool_exhaustion": Shape(
        {"self_time": 0.8, **_OWN_LATENCY, "errors": 0.4, "own_errors": 0.4, "error_lines": 0.4, "-cpu": 0.2, "sockets": 0.3,
         "leaf_latency": 0.4},
        {**_SLOW_CALLERS, "errors": 0.3, "metric_success": 0.3},
        callees=_IDLE_CALLEES,
        into={**_SLOW_CALLS, "failed_calls": 0.3},
        out_of={"-calls": 0.3},
    ),
    "slow_database": Shape(
        {"leaf_latency": 0.95, "cpu": 0.5, "disk": 0.5, **_OWN_LATENCY, "sockets": 0.3},
        {**_SLOW_CALLERS, "leaf_latency": 0.6, "latency_residual": 0.4},
        into={"client_latency": 0.95},
    ),
    "database_lock": Shape(
        {"leaf_latency": 0.9, "own_errors": 0.3, **_OWN_LATENCY, "-cpu": 0.3, "sockets": 0.3},
        {**_SLOW_CALLERS, "leaf_latency": 0.5, "latency_residual": 0.4, "errors": 0.3, "metric_success": 0.3, "error_lines": 0.3},
        into={"client_latency": 0.8, "failed_calls": 0.3},
    ),
    "retry_storm": Shape(
        {"self_time": 0.4, **_OWN_LATENCY, "errors": 0.4, "cpu": 0.4, "metric_client_traffic": 0.8, "network": 0.5,
         "warnings": 0.1},
        {**_SLOW_CALLERS, "errors": 0.3},
        callees=_BUSIER,
        into={**_SLOW_CALLS, "failed_calls": 0.3},
        out_of={"calls": 0.95, "client_latency": 0.5, "failed_calls": 0.5},
    ),
    "pod_kill": Shape(
        {"warnings": 0.7, "-memory": 0.6, "cpu": 0.4, "-traffic": 0.4, "-log_volume": 0.3, "new_templates": 0.6,
         "unanswered_calls": 0.7, "own_errors": 0.2, "gap_in": 0.3},
        {**_FAILING_CALLERS, "gap_out": 0.2},
        into={"failed_calls": 0.7, "gap": 0.3},
    ),
    "pod_failure": Shape(
        {**_SILENT, "unanswered_calls": 0.8, "warnings": 0.7, "-memory": 0.6, "-cpu": 0.6, "vanished_templates": 0.3},
        _FAILING_CALLERS,
        callees=_IDLE_CALLEES,
        into=_FAILED_CALLS,
    ),
    "crash_loop": Shape(
        {**_SILENT, "unanswered_calls": 0.9, "warnings": 0.95, "-memory": 0.4, "cpu": 0.4, "new_templates": 0.6,
         "error_lines": 0.4, "own_errors": 0.2},
        {**_FAILING_CALLERS, "gap_out": 0.3},
        callees=_IDLE_CALLEES,
        into={**_FAILED_CALLS, "gap": 0.3},
    ),
    "cache_down": Shape(
        {**_DOWN.culprit, "own_errors": 0.95}, {**_DOWN.callers, "leaf_latency": 0.5, "self_time": 0.2}, into=_DOWN.into
    ),
    "cold_cache": Shape(
        {"-network": 0.5, "-memory": 0.7, "traffic": 0.3, "-traffic": 0.2, "leaf_latency": 0.3, "changes": 0.1, "warnings": 0.2},
        {**_SLOW_CALLERS, "leaf_latency": 0.6},
        into={"calls": 0.4, "client_latency": 0.3},
    ),
    "queue_backlog": Shape(
        {"leaf_latency": 0.5, "memory": 0.6, "-traffic": 0.3, "-metric_traffic": 0.3, "self_time": 0.5, "other": 0.5,
         "gap_in": 0.4},
        {"gap_out": 0.2, "server_latency": 0.2, "-traffic": 0.4, "-metric_traffic": 0.4},
        into={"client_latency": 0.4, "-calls": 0.5, "gap": 0.5},
        climb=frozenset({"memory"}),
    ),
    "dead_consumer": Shape(
        {**_SILENT, "-cpu": 0.5, "warnings": 0.2, "unanswered_calls": 0.6, "vanished_templates": 0.5},
        callees={**_IDLE_CALLEES, "memory": 0.3},
        out_of={"-calls": 0.7},
    ),
    "external_down": _DOWN,
    "traffic_surge": Shape(
        {"traffic": 0.95, "metric_traffic": 0.95, "metric_client_traffic": 0.9, "cpu": 0.8, "network": 0.9, "sockets": 0.5,
         "log_volume": 0.8, "memory": 0.3, "server_latency": 0.3, "metric_server_latency": 0.3, "self_time": 0.2, "disk": 0.2},
        everywhere=True,
    ),
    "clock_skew": Shape({"gap_out": 0.8}, callees={"gap_in": 0.8, "gap_in_all": 0.6}, into={"-gap": 0.95}, out_of={"gap": 0.95}),
    "telemetry_pipeline": Shape({"-traffic": 0.9, "-log_volume": 0.9, "vanished_templates": 0.3}, everywhere=True),
}  # fmt: skip
"""A shape for every kind of fault but "unknown" and the quiet window itself."""

OTHER_SHAPES: Final[dict[str, tuple[Shape, ...]]] = {
    "cpu_contention": (  # the CPU is taken by others: only its victim's work slows down
        Shape({"self_time": 0.9, **_OWN_LATENCY, "gap_in": 0.3, "gap_out": 0.3}, _SLOW_CALLERS, into=_SLOW_CALLS),
    ),
    "memory_leak": (  # after the OOM kill
        Shape(
            {"-memory": 0.7, "warnings": 0.9, "-traffic": 0.3, "new_templates": 0.5, "unanswered_calls": 0.5},
            _FAILING_CALLERS,
            into=_FAILED_CALLS,
        ),
    ),
    "bad_rollout": (  # slow, not failing
        Shape(
            {**_SLOW.culprit, "changes": 0.9, "warnings": 0.2, "cpu": 0.5, "memory": 0.4, "new_templates": 0.5},
            _SLOW_CALLERS,
            into=_SLOW_CALLS,
        ),
    ),
    "configuration_mistake": (  # fails without a visible change
        Shape(
            {**_OWN_FAILURES, "own_errors": 0.9, "vanished_calls": 0.5},
            _FAILING_CALLERS,
            into=_FAILED_CALLS,
            out_of={"failed_calls": 0.8},
        ),
    ),
    "network_partition": (  # of the calls out of it alone
        Shape(
            {**_OWN_FAILURES, "own_errors": 0.9, "gap_out": 0.3, "metric_client_latency": 0.6},
            _FAILING_CALLERS,
            callees=_IDLE_CALLEES,
            out_of={"failed_calls": 0.9, "client_latency": 0.5},
        ),
    ),
    "clock_skew": (  # the clock runs behind, not ahead
        Shape({"gap_in": 0.8, "gap_in_all": 0.6}, {"gap_out": 0.3}, into={"gap": 0.95}, out_of={"-gap": 0.95}),
    ),
}
"""Second forms of some kinds, as likely as the first."""


@dataclass(frozen=True, eq=False)
class Invented:
    """An incident that never happened: deviations, the row of its culprit (None where nobody is to blame), and its kind."""

    deviations: Deviations
    culprit: int | None
    fault_kind: str

    @property
    def family(self) -> str:
        return family_of(self.fault_kind)


def invent(quiet: Deviations, observed: npt.NDArray[np.bool_], rng: np.random.Generator) -> Invented | None:
    """Push one fault onto a quiet stretch.

    observed: (N, S), signals that this system reports in incidents; one that quiet times never show counts as 0 there. The fault
    is drawn among the kinds whose label may name a kind of entity that this system has. None if nothing that it would move is
    observed at the drawn culprit.
    """
    node = np.where(np.isfinite(quiet.node), quiet.node, np.where(observed, 0.0, np.nan))
    edge = {relation: values.copy() for relation, values in quiet.edge.items()}
    canvas = _Canvas(quiet, node, quiet.slope.copy(), edge, rng)
    able = np.asarray(np.isfinite(node).any(axis=1), dtype=np.bool_)
    kind, rows = _draw_kind(quiet, able, rng)
    if not len(rows):
        return None
    forms = (SHAPES[kind], *OTHER_SHAPES.get(kind, ()))
    shape = forms[int(rng.integers(len(forms)))]
    strength = min(float(rng.lognormal(np.log(_MEDIAN_Z), _SIGMA)), _STRONGEST)
    blamed = bool(FAULT_KINDS[kind].label_kinds)
    culprit = _draw_culprit(quiet, rows, rng)
    pushed = canvas.spread(shape, strength) if shape.everywhere else canvas.strike(shape, culprit, strength)
    if not pushed:
        return None
    _wobble(node, culprit, rng)
    node *= np.exp(rng.normal(0.0, _JITTER, node.shape))
    for values in (node, *edge.values()):
        np.clip(values, -CLIP, CLIP, out=values)
    made = Deviations(quiet.entities, quiet.edges, node, canvas.slope, edge)
    return Invented(made, culprit if blamed else None, kind)


def _draw_kind(quiet: Deviations, able: npt.NDArray[np.bool_], rng: np.random.Generator) -> tuple[str, npt.NDArray[np.int64]]:
    """A kind of fault, and the rows of whoever may be its culprit: of the kind of entity that was drawn for it."""
    kinds = np.array([entity.kind for entity in quiet.entities])
    present = {str(kind) for kind in np.unique(kinds[able])} & set(CANDIDATE_KINDS) if len(kinds) else set()
    possible = [kind for kind in SHAPES if present & set(FAULT_KINDS[kind].label_kinds or ("service",))]
    if not possible:
        return "", np.zeros(0, dtype=np.int64)
    kind = str(rng.choice(possible))
    named = [name for name in FAULT_KINDS[kind].label_kinds or ("service",) if name in present]
    return kind, np.flatnonzero(able & (kinds == rng.choice(named)))


def _draw_culprit(quiet: Deviations, rows: npt.NDArray[np.int64], rng: np.random.Generator) -> int:
    """One of the rows, nine times in ten one that some call touches."""
    on_path = np.zeros(len(quiet.entities), dtype=bool)
    for relation in CALL_RELATIONS:
        if relation in quiet.edges:
            on_path[quiet.edges[relation].ravel()] = True
    preferred = rows[on_path[rows] == (rng.random() < _ON_PATH)]
    return int(rng.choice(preferred if len(preferred) else rows))


@dataclass(frozen=True, eq=False)
class _Canvas:
    """What a fault is painted on: deviations of entities and calls of one quiet stretch."""

    quiet: Deviations
    node: Array  # (N, S)
    slope: Array  # (N, S)
    edge: Mapping[str, Array]
    rng: np.random.Generator

    def strike(self, shape: Shape, culprit: int, strength: float) -> bool:
        """Move the culprit's signals and those around it. False if nothing of its own could be moved."""
        moved = self._push_node(culprit, shape.culprit, strength, shape.climb, at_least_one=True)
        hosted = _hosted_on(self.quiet, culprit)
        for row in hosted:
            moved = self._push_node(row, shape.hosted, strength * self.rng.uniform(0.2, 0.8)) or moved
        if not moved:
            return False
        damping = self.rng.uniform(*_DAMPING)
        for row, hops in _callers_of(self.quiet, {culprit, *hosted}, self.rng).items():
            self._push_node(row, shape.callers, strength * damping**hops)
        for relation in CALL_RELATIONS:
            sources, targets = self.quiet.edges.get(relation, np.zeros((2, 0), dtype=np.int64))
            for column in np.flatnonzero(targets == culprit):
                self._push(self.edge[relation][column], EDGE_COLUMN, shape.into, strength)
            for column in np.flatnonzero(sources == culprit):
                self._push(self.edge[relation][column], EDGE_COLUMN, shape.out_of, strength)
                self._push_node(int(targets[column]), shape.callees, strength * damping)
        return True

    def spread(self, shape: Shape, strength: float) -> bool:
        """Move the same signals at most services, each about as much."""
        chosen = {name: chance for name, chance in shape.culprit.items() if self.rng.random() < chance}
        share = self.rng.uniform(0.6, 1.0)
        rows = [row for row, entity in enumerate(self.quiet.entities) if entity.kind in CANDIDATE_KINDS]
        reached = [row for row in rows if self.rng.random() < share]
        moved = [self._push_node(row, dict.fromkeys(chosen, 0.95), strength * 0.5) for row in reached]
        return any(moved)

    def _push_node(
        self, row: int, chances: Chances, strength: float, climb: frozenset[str] = frozenset(), *, at_least_one: bool = False
    ) -> bool:
        moved = self._push(self.node[row], NODE_COLUMN, chances, strength, at_least_one=at_least_one)
        for name in moved & climb:
            column = NODE_COLUMN[name]
            self.slope[row, column] = self.node[row, column] * self.rng.uniform(*_CLIMB)
        return bool(moved)

    def _push(
        self, values: Array, columns: Mapping[str, int], chances: Chances, strength: float, *, at_least_one: bool = False
    ) -> set[str]:
        """Move the observed signals of one row, each with its chance; at the least its likeliest. Returns those that moved."""
        drawn = [(name, self.rng.random() < c, float(self.rng.lognormal(0.0, _SIGNAL_SIGMA))) for name, c in chances.items()]
        possible = [(name, wanted, factor) for name, wanted, factor in drawn if np.isfinite(values[columns[name.lstrip("-")]])]
        chosen = [(name, factor) for name, wanted, factor in possible if wanted]
        if not chosen and at_least_one and possible:
            chosen = [max(((name, factor) for name, _, factor in possible), key=lambda pair: chances[pair[0]])]
        for name, factor in chosen:
            column = columns[name.lstrip("-")]
            pushed = strength * factor * (-1.0 if name.startswith("-") else 1.0)
            if abs(pushed) > abs(values[column]):
                values[column] = pushed
        return {name for name, _ in chosen}


def _hosted_on(quiet: Deviations, node: int) -> list[int]:
    """Services that have a pod on a node."""
    nothing = np.zeros((2, 0), dtype=np.int64)
    pods, nodes = quiet.edges.get("hosted_on", nothing)
    services, owned = quiet.edges.get("runs", nothing)
    return sorted({int(row) for row in services[np.isin(owned, pods[nodes == node])]})


def _callers_of(quiet: Deviations, disturbed: set[int], rng: np.random.Generator) -> dict[int, int]:
    """Callers that suffer, with their distance in hops; each is reached by chance. Whoever waits on a queue is a caller of it."""
    callers: dict[int, list[int]] = {}
    for relation in CALL_RELATIONS:
        if relation in quiet.edges:
            for source, target in quiet.edges[relation].T.tolist():
                callers.setdefault(target, []).append(source)
    reached = dict.fromkeys(disturbed, 0)
    frontier = sorted(disturbed)
    for hops in range(1, _REACH + 1):
        nearest = sorted({source for row in frontier for source in callers.get(row, []) if source not in reached})
        frontier = [source for source in nearest if rng.random() < _SUFFERS]
        reached.update(dict.fromkeys(frontier, hops))
    return {row: hops for row, hops in reached.items() if hops}


def _wobble(node: Array, culprit: int, rng: np.random.Generator) -> None:
    """About one unrelated disturbance per window."""
    for _ in range(int(rng.poisson(1.0))):
        row, column = int(rng.integers(len(node))), int(rng.integers(node.shape[1]))
        if row != culprit and np.isfinite(node[row, column]):
            sign = rng.choice([-1.0, 1.0]) if NODE_SIGNALS[column].signed else 1.0
            node[row, column] = sign * float(rng.lognormal(np.log(_WOBBLE_Z), _SIGMA))
