"""Deviations, and the sheet that they are gathered on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from rca.graph import Indices
from rca.signals import EDGE_COLUMN, EDGE_SIGNALS, NODE_COLUMN, NODE_SIGNALS
from rca.telemetry import EntityId
from rca.topology import Topology, key_of
from rca.window import Window

Array = npt.NDArray[np.float64]

CLIP: Final = 1000.0
RATE_SPREAD: Final = 0.15
"""Rates of quiet times differ by this much, on the log scale, without a reason."""
FEWEST_BEFORE, FEWEST_NOW = 8, 3
"""Spans, or lines, below which nothing is said."""


@dataclass(frozen=True, eq=False)
class Deviations:
    """Deviations of one stretch of time from its baseline.

    Shapes: N entities, S node signals, E edges of a relation, D edge signals. Values are directed robust z (signed where the
    signal counts both ways), NaN where the signal was not observed.
    """

    entities: tuple[EntityId, ...]
    edges: Mapping[str, Indices]  # relation -> (2, E)
    node: Array  # (N, S)
    slope: Array  # (N, S), z per minute
    edge: Mapping[str, Array]  # relation -> (E, D)


@dataclass(eq=False)
class Sheet:
    """Deviations under construction for every stretch at once: stretch 0 is the incident, the rest are quiet blocks."""

    node: Array  # (Q, N, S)
    slope: Array  # (Q, N, S)
    edge: dict[str, Array]  # relation -> (Q, E, D)

    @classmethod
    def blank(cls, topology: Topology, stretches: int) -> Sheet:
        """A sheet on which nothing was observed yet."""
        cells = (stretches, len(topology.entities), len(NODE_SIGNALS))
        edge = {name: np.full((stretches, ends.shape[1], len(EDGE_SIGNALS)), np.nan) for name, ends in topology.edges.items()}
        return cls(np.full(cells, np.nan), np.full(cells, np.nan), edge)

    def deviations(self, topology: Topology) -> list[Deviations]:
        """What stands on the sheet, stretch by stretch, within ±CLIP."""
        node, slope = np.clip(self.node, -CLIP, CLIP), np.clip(self.slope, -CLIP, CLIP)
        edge = {name: np.clip(values, -CLIP, CLIP) for name, values in self.edge.items()}
        return [
            Deviations(topology.entities, topology.edges, node[q], slope[q], {name: values[q] for name, values in edge.items()})
            for q in range(len(node))
        ]

    def raise_node(self, signal: str, rows: Indices, values: Array) -> None:
        """Keep the larger magnitude where several keys of one entity feed a signal. values: (Q, K), rows: (K,)."""
        column = NODE_COLUMN[signal]
        if not NODE_SIGNALS[column].signed:
            values = np.maximum(values, 0.0)
        for stretch in range(len(values)):
            _keep_largest(self.node[stretch, :, column], rows, values[stretch])

    def raise_edge(self, signal: str, relation: str, rows: Indices, values: Array) -> None:
        """The same for the calls of a relation."""
        column = EDGE_COLUMN[signal]
        if not EDGE_SIGNALS[column].signed:
            values = np.maximum(values, 0.0)
        for stretch in range(len(values)):
            _keep_largest(self.edge[relation][stretch, :, column], rows, values[stretch])


def _keep_largest(target: Array, rows: Indices, values: Array) -> None:
    """target[row] = value of largest magnitude among values and what is there; NaN counts as absent."""
    present = np.isfinite(values)
    rows, values = rows[present], values[present]
    order = np.argsort(np.abs(values), kind="stable")
    rows, values = rows[order], values[order]
    best = dict(zip(rows.tolist(), values.tolist(), strict=True))  # the last one written is the largest
    for row, value in best.items():
        if not abs(target[row]) >= abs(value):  # also true where target is NaN
            target[row] = value


def service_rows(topology: Topology, names: pl.Series) -> Indices:
    """Rows of services by key, (K,)."""
    return np.array([topology.rows["service", name] for name in names.to_list()], dtype=np.int64)


def edge_of(topology: Topology, source: str, target_kind: str, target: str) -> tuple[str, int] | None:
    """(relation, column) of a call edge, None for one that the topology left out (a service calling itself)."""
    kind = "queue" if target_kind == "consumed_queue" else target_kind
    if ("service", target) in topology.rows:
        relation, row = "calls", topology.rows["service", target]
    elif (kind, target) in topology.rows:
        row = topology.rows[kind, target]
        relation = {"service": "calls", "database": "queries", "external": "requests"}.get(kind) or (
            "consumes" if target_kind == "consumed_queue" else "publishes"
        )
    else:
        return None
    pairs = topology.edges[relation]
    found = np.flatnonzero((pairs[0] == topology.rows["service", source]) & (pairs[1] == row))
    return (relation, int(found[0])) if len(found) else None


def silent_services(topology: Topology, window: Window) -> npt.NDArray[np.bool_]:
    """Services that emit no spans, (N,): a database that Kubernetes knows as a workload stands in the graph as one."""
    speaking = set(window.bins.counts.filter(pl.col("what") == "span")["source"].unique().to_list())
    silent = [entity.kind == "service" and key_of(entity) not in speaking for entity in topology.entities]
    return np.array(silent, dtype=bool)


def _judged_by_callers(
    sheet: Sheet, topology: Topology, silent: npt.NDArray[np.bool_], edge_signal: str, stretch: int
) -> Iterator[tuple[Indices, Indices, Array]]:
    """(callers, callees, values) of an edge signal by relation, (E,) each, as far as the callee emits no spans.

    Databases, queues and external hosts never do; `silent` says which services do not, (N,).
    """
    for relation in ("calls", "queries", "publishes", "requests"):
        callers, callees = topology.edges[relation]
        values = sheet.edge[relation][stretch, :, EDGE_COLUMN[edge_signal]]
        seen = np.isfinite(values) & (silent[callees] | (relation != "calls"))
        yield callers[seen], callees[seen], np.maximum(values[seen], 0.0)


def credit_callees(sheet: Sheet, topology: Topology, silent: npt.NDArray[np.bool_], edge_signal: str, signal: str) -> None:
    """What emits no spans is judged by its callers: what every one of them sees of it is its own (the least over callers)."""
    for stretch in range(len(sheet.node)):
        for _, callees, values in _judged_by_callers(sheet, topology, silent, edge_signal, stretch):
            np.fmin.at(sheet.node[stretch, :, NODE_COLUMN[signal]], callees, values)


def excuse_callers(sheet: Sheet, topology: Topology, silent: npt.NDArray[np.bool_], edge_signal: str, signal: str) -> None:
    """Take from callers what `credit_callees` gave to a callee that several of them call: what all of them see is not theirs.

    A caller is excused as far as its loudest such call is; a callee with a single caller excuses nobody.
    """
    n = len(topology.entities)
    own = ~silent & np.array([entity.kind == "service" for entity in topology.entities], dtype=bool)
    for stretch in range(len(sheet.node)):
        loudest, shared = np.zeros(n), np.zeros(n)
        for callers, callees, values in _judged_by_callers(sheet, topology, silent, edge_signal, stretch):
            least = np.full(n, np.inf)
            np.minimum.at(least, callees, values)
            least[np.bincount(callees, minlength=n) < 2] = 0.0
            order = np.argsort(values, kind="stable")  # of a caller's calls the loudest is written last
            caller, callee, value = callers[order], callees[order], values[order]
            louder = value > loudest[caller]
            loudest[caller[louder]], shared[caller[louder]] = value[louder], least[callee[louder]]
        part = np.divide(shared, loudest, out=np.zeros(n), where=loudest > 0)
        sheet.node[stretch, own, NODE_COLUMN[signal]] *= 1 - part[own]
