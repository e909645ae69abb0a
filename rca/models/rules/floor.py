"""The label-free score: works on day one, and is what a learned ranker may correct but not unlearn."""

from __future__ import annotations

from typing import Final

import numpy as np

from rca.contracts import Case
from rca.features import ALERT_SIGNALS, FLOOR_FEATURE, heard_signals, loudest_signals, quiet_graph
from rca.graph import ServiceGraph
from rca.models.rules.rule import Rule, Values
from rca.ranking import Ranking, rank_by_score
from rca.signals import NODE_COLUMN, NODE_SIGNALS

_TEMPERATURE, _ALERTS_TEMPERATURE = 0.4, 0.7  # alerts say less per unit of score than measurements
_UNCALIBRATED_NO_FAULT: Final = 1.0


class Floor(Rule):
    """Deviations above what quiet times of the same system show, summed with falling weight, less what callees explain.

    Formulas: rca.features. The score of `no_fault` is what the loudest candidate reaches in a typical quiet stretch.
    """

    name = "floor"

    def scores(self, case: Case) -> Values:
        return floor_of(case.graph)

    def rank(self, case: Case) -> Ranking:
        return rank_by_score(
            self.name,
            case.window.incident,
            case.graph.candidates,
            self.scores(case),
            temperature=_temperature(case.graph),
            no_fault_score=no_fault_score(case),
            families=families(case.graph),
            gaps=case.window.gaps,
        )


def floor_of(graph: ServiceGraph) -> Values:
    """Label-free score of every candidate, (C,)."""
    scores: Values = graph.column(FLOOR_FEATURE)[graph.candidate_rows].astype(np.float64)
    return scores


def no_fault_probability(case: Case) -> float:
    """Probability that nothing is wrong, or that the cause is outside the graph."""
    logits = np.append(floor_of(case.graph), no_fault_score(case)) / _temperature(case.graph)
    return float(np.exp(logits[-1] - np.logaddexp.reduce(logits)))


def _temperature(graph: ServiceGraph) -> float:
    return _ALERTS_TEMPERATURE if set(heard_signals(graph)) <= set(ALERT_SIGNALS) else _TEMPERATURE


def no_fault_score(case: Case) -> float:
    """Median over quiet stretches of the loudest candidate's score; 1 where there is no quiet stretch."""
    if not case.quiet or not case.graph.candidates:
        return _UNCALIBRATED_NO_FAULT
    loudest = [floor_of(quiet_graph(case.quiet, place)).max() for place in range(len(case.quiet))]
    return float(np.median(loudest))


def families(graph: ServiceGraph) -> list[str]:
    """Fault family that each candidate's loudest signal points to, empty where none is above its threshold."""
    signals = loudest_signals(graph, graph.candidate_rows.tolist())
    return [NODE_SIGNALS[NODE_COLUMN[signal]].family if signal else "" for signal in signals]
