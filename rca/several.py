"""Several causes at once: candidates that look like causes of their own, beside the one that is ranked first.

A second cause must be loud by signals that speak of it alone, louder than its callees, and nothing may join it with the first: no
chain of calls, either way, no queue between them, no pod or node that one runs on, and no replica. What is joined may be a
victim, however loud it is, so that two faults along one chain of calls are told as one.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from rca.features import ALERT_SIGNALS, heard_signals
from rca.graph import CALL_RELATIONS, ServiceGraph
from rca.ranking import Ranking
from rca.telemetry import EntityId

THRESHOLD: Final = 1.74
"""How far above its threshold of quiet times a candidate's loudest signal must be, ln(1 + z). Fitted by
`python -m scripts.several fit` (docs/results/several.json): the least at which at most one in twenty incidents with one fault,
whose cause comes first, gets a second, of simulated systems and of the recorded shop's training part alike."""

_LOUDNESS: Final = "own.loudest"
_EITHER_WAY: Final = ("consumes", "replicates")
"""Messages travel from a queue to its consumer, what the consumer leaves lies in the queue; replicas take each other's load."""

Bools = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]


def also_of(graph: ServiceGraph, ranking: Ranking, threshold: float = THRESHOLD) -> tuple[EntityId, ...]:
    """Candidates that look like causes of their own beside the first one, in the order of the ranking.

    None of them is joined with another. Empty where alerts are all that was heard: they do not tell whom a fault began with.
    """
    free, found = _apart(graph, ranking) & (graph.column(_LOUDNESS) > threshold), []
    for candidate in ranking.candidates:
        row = graph.rows[candidate.entity]
        if free[row]:
            found.append(candidate.entity)
            free &= ~joined(graph, row)
    return tuple(found)


def loudest_other(graph: ServiceGraph, ranking: Ranking) -> float:
    """The least threshold at which nobody is named beside the first; minus infinity where nobody ever is."""
    apart = _apart(graph, ranking)[graph.candidate_rows]
    return float(graph.column(_LOUDNESS)[graph.candidate_rows][apart].max(initial=-np.inf))


def _apart(graph: ServiceGraph, ranking: Ranking) -> Bools:
    """Entities that nothing joins with the first candidate, and that are louder than their callees, (N,)."""
    if not ranking.candidates or set(heard_signals(graph)) <= set(ALERT_SIGNALS):
        return np.zeros(len(graph.entities), dtype=bool)
    explained = graph.column("callees.loudest") > graph.column(_LOUDNESS)
    apart: Bools = ~joined(graph, graph.rows[ranking.candidates[0].entity]) & ~explained
    return apart


def joined(graph: ServiceGraph, row: int) -> Bools:
    """Entities that one entity may suffer from, or that may suffer from it, itself included, (N,)."""
    leaning, needed = _leaning(graph)
    return _reached(graph, row, leaning, needed) | _reached(graph, row, needed, leaning)


def _leaning(graph: ServiceGraph) -> tuple[Indices, Indices]:
    """Who depends on whom, as rows, (E,) and (E,): callers on callees, services on their pods, pods on their nodes."""
    none = np.zeros((2, 0), dtype=np.int64)
    edges = [graph.edges.get(relation, none) for relation in (*CALL_RELATIONS, "runs", "hosted_on")]
    for relation in _EITHER_WAY:
        ends = graph.edges.get(relation, none)
        edges += [ends, ends[::-1]]
    leaning, needed = np.concatenate(edges, axis=1)
    return leaning, needed


def _reached(graph: ServiceGraph, row: int, source: Indices, target: Indices) -> Bools:
    """Entities that a row is joined to by a chain of edges, (N,)."""
    found = np.zeros(len(graph.entities), dtype=bool)
    found[row] = True
    while True:
        further = found.copy()
        further[target[found[source]]] = True
        if (further == found).all():
            return found
        found = further
