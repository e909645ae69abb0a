"""Evidence taken out of a case, and the case ranked again: what a candidate owes its place to, tried out instead of guessed.

A piece of evidence is deleted where it was measured: its deviations become what quiet stretches of the same system show, and
the graph is built anew, so that everything that is derived from them follows. Thresholds stay those of the case, for they are of
quiet times. Any ranker can be tried; it is asked, never opened.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from rca.contracts import Case, Ranker
from rca.deviations import Deviations
from rca.evidence import SAME_STORY
from rca.features import Calibration, QuietGraphs, graph_of, remembering
from rca.graph import CALL_RELATIONS
from rca.signals import EDGE_COLUMN, NODE_COLUMN, NODE_SIGNALS
from rca.telemetry import EntityId

Array = npt.NDArray[np.float64]

_STORY: Final = {
    signal.name: next((s for s in SAME_STORY if signal.name in s), frozenset({signal.name})) for signal in NODE_SIGNALS
}
_INTO: Final = {
    "gap_in": ("gap", "metric_gap"),
    "gap_in_all": ("gap", "metric_gap"),
    "metric_gap": ("gap", "metric_gap"),
    "self_time": ("called_latency", "client_latency"),
    "server_latency": ("called_latency", "client_latency"),
    "latency_residual": ("called_latency", "client_latency"),
    "own_errors": ("failed_calls",),
    "errors": ("failed_calls",),
    "unanswered_calls": ("failed_calls",),
    "new_calls": ("calls",),
    "alert_novelty_calls": ("alert_slow", "alert_failed"),
}
"""Signal of an entity -> signals of calls into it that say the same."""
_OUT: Final = {"gap_out": ("gap",), "leaf_latency": ("client_latency",), "vanished_calls": ("calls",)}
"""The same of calls out of it."""


@dataclass(frozen=True)
class Piece:
    """Evidence that is deleted as a whole: the observed signals of one entity that tell the same, or all calls between two.

    Of a call `entity` is the caller.
    """

    entity: EntityId
    signals: tuple[str, ...] = ()
    callee: EntityId | None = None

    @property
    def size(self) -> int:
        """How many signals it deletes; a call counts as one."""
        return max(len(self.signals), 1)


@dataclass(frozen=True)
class Standing:
    """Where a candidate stands: its rank, its probability, and that of everything else.

    `doubt` is added up from the others, since near certainty 1 - probability has no digits left.
    """

    rank: int
    probability: float
    doubt: float
    leader: EntityId

    def fall_from(self, before: Standing) -> float:
        """How much less probable the candidate is than it was."""
        return self.doubt - before.doubt

    def weight_from(self, before: Standing) -> float:
        """The same as a fall of ln(probability / doubt), which tells more from less near certainty too."""
        return _log_odds(before) - _log_odds(self)


def _log_odds(standing: Standing) -> float:
    least = np.finfo(float).tiny
    return float(np.log(max(standing.probability, least)) - np.log(max(standing.doubt, least)))


@dataclass(eq=False)
class Trial:
    """One candidate of a case before one ranker, with and without pieces of evidence."""

    case: Case
    ranker: Ranker
    entity: EntityId
    rankings: int = 0
    """How often the ranker was asked."""
    _known: dict[frozenset[Piece], Standing] = field(default_factory=dict)
    _quiet_graphs: QuietGraphs = field(default_factory=dict)

    def without(self, pieces: Iterable[Piece]) -> Standing:
        """Where the candidate stands when the pieces are deleted."""
        deleted = frozenset(pieces)
        if deleted not in self._known:
            self._known[deleted] = self._standing(self.case_without(deleted) if deleted else self.case)
        return self._known[deleted]

    @property
    def standing(self) -> Standing:
        """Where it stands as the case is."""
        return self.without(())

    def case_without(self, pieces: Iterable[Piece]) -> Case:
        """The case with the pieces deleted."""
        changed = deleted_from(self.case.deviations, pieces, self._usual, self.rows)
        return replace(self.case, deviations=changed, graph=graph_of(changed, self._calibration))

    @cached_property
    def rows(self) -> dict[EntityId, int]:
        return {entity: row for row, entity in enumerate(self.case.deviations.entities)}

    @cached_property
    def own(self) -> tuple[Piece, ...]:
        """Everything that was observed of the candidate, in pieces."""
        return pieces_of(self.case.deviations, self.rows[self.entity])

    @cached_property
    def everything(self) -> tuple[Piece, ...]:
        """Everything that was observed of anybody, in pieces."""
        return tuple(piece for row in range(len(self.rows)) for piece in pieces_of(self.case.deviations, row))

    @cached_property
    def calls(self) -> tuple[Piece, ...]:
        """The calls into and out of the candidate."""
        row, entities = self.rows[self.entity], self.case.deviations.entities
        edges = self.case.graph.call_edges()
        touching = edges[:, (edges == row).any(axis=0) & (edges[0] != edges[1])]
        return tuple(Piece(entities[caller], (), entities[callee]) for caller, callee in np.unique(touching, axis=1).T.tolist())

    @cached_property
    def _calibration(self) -> Calibration:
        return Calibration.of(self.case.quiet, self.case.deviations)

    @cached_property
    def _usual(self) -> Deviations:
        return usual(self.case)

    def _standing(self, case: Case) -> Standing:
        self.rankings += 1
        with remembering(self._quiet_graphs):
            ranking = self.ranker.rank(case)
        mine = next(candidate for candidate in ranking.candidates if candidate.entity == self.entity)
        others = sum(candidate.probability for candidate in ranking.candidates if candidate is not mine)
        return Standing(mine.rank, mine.probability, others + ranking.no_fault + ranking.outside, ranking.candidates[0].entity)


def pieces_of(deviations: Deviations, row: int) -> tuple[Piece, ...]:
    """What was observed of one entity, signals that tell the same together, in the order of NODE_SIGNALS."""
    seen = np.isfinite(deviations.node[row])
    stories: dict[frozenset[str], list[str]] = {}
    for column in np.flatnonzero(seen).tolist():
        name = NODE_SIGNALS[column].name
        stories.setdefault(_STORY[name], []).append(name)
    return tuple(Piece(deviations.entities[row], tuple(names)) for names in stories.values())


def usual(case: Case) -> Deviations:
    """What quiet stretches show: the median of every deviation over them, 0 where none shows it."""
    deviations = case.deviations
    edge = {name: _median([q.edge[name] for q in case.quiet], values) for name, values in deviations.edge.items()}
    node = _median([q.node for q in case.quiet], deviations.node)
    return replace(deviations, node=node, slope=_median([q.slope for q in case.quiet], deviations.slope), edge=edge)


def _median(quiet: Sequence[Array], like: Array) -> Array:
    if not quiet or not like.size:
        return np.zeros_like(like)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # nowhere observed: 0
        return np.nan_to_num(np.nanmedian(np.stack(quiet), axis=0))


def deleted_from(deviations: Deviations, pieces: Iterable[Piece], quiet: Deviations, rows: dict[EntityId, int]) -> Deviations:
    """The deviations with the pieces as `quiet` has them; calls are taken out. What was not observed stays unobserved."""
    node, slope = deviations.node.copy(), deviations.slope.copy()
    edge = {name: values.copy() for name, values in deviations.edge.items()}
    cut: list[tuple[int, int]] = []
    for piece in pieces:
        row = rows[piece.entity]
        if piece.callee is not None:
            cut.append((row, rows[piece.callee]))
            continue
        columns = [NODE_COLUMN[signal] for signal in piece.signals]
        for each in (row, *_pods(deviations, row)):
            for values, theirs in ((node, quiet.node), (slope, quiet.slope)):
                seen = np.isfinite(values[each, columns])
                values[each, columns] = np.where(seen, theirs[each, columns], np.nan)
        for name, which, column in _edge_cells(deviations, row, piece.signals):
            edge[name][which, column] = np.where(np.isfinite(edge[name][which, column]), quiet.edge[name][which, column], np.nan)
    changed = replace(deviations, node=node, slope=slope, edge=edge)
    return _without_calls(changed, cut) if cut else changed


def _pods(deviations: Deviations, row: int) -> list[int]:
    """Rows of the pods that run an entity: what a service shows is read off them."""
    runs = deviations.edges.get("runs", np.zeros((2, 0), dtype=np.int64))
    return [int(pod) for pod in runs[1][runs[0] == row]]


def _edge_cells(deviations: Deviations, row: int, signals: Sequence[str]) -> Iterator[tuple[str, npt.NDArray[np.bool_], int]]:
    """(relation, its calls, column) where calls say the same as signals of the entity."""
    for end, table in ((1, _INTO), (0, _OUT)):
        for column in sorted({EDGE_COLUMN[name] for signal in signals for name in table.get(signal, ())}):
            for relation in CALL_RELATIONS:
                if relation in deviations.edges:
                    yield relation, deviations.edges[relation][end] == row, column


def _without_calls(deviations: Deviations, pairs: Sequence[tuple[int, int]]) -> Deviations:
    edges, edge = dict(deviations.edges), dict(deviations.edge)
    for relation in CALL_RELATIONS:
        if relation in edges:
            kept = [pair not in pairs for pair in map(tuple, edges[relation].T.tolist())]
            edges[relation], edge[relation] = edges[relation][:, kept], edge[relation][kept]
    return replace(deviations, edges=edges, edge=edge)
