"""The label-free score: works on day one, and is what a learned ranker may correct but not unlearn."""

from __future__ import annotations

from rca.contracts import Case
from rca.features import loudest_signals
from rca.graph import ServiceGraph
from rca.models.confidence import chances_of, floor_of
from rca.models.rules.rule import Rule, Values
from rca.ranking import Ranking, rank_by_score
from rca.signals import NODE_COLUMN, NODE_SIGNALS


class Floor(Rule):
    """Deviations above what quiet times of the same system show, summed with falling weight, less what callees explain.

    Formulas: rca.features. Probabilities: rca.models.confidence.
    """

    name = "floor"

    def scores(self, case: Case) -> Values:
        return floor_of(case.graph)

    def rank(self, case: Case) -> Ranking:
        scores = self.scores(case)
        return rank_by_score(
            self.name,
            case.window.incident,
            case.graph.candidates,
            scores,
            chances=chances_of(case, scores, "floor"),
            families=families(case.graph),
            gaps=case.window.gaps,
        )


def families(graph: ServiceGraph) -> list[str]:
    """Fault family that each candidate's loudest signal points to, empty where none is above its threshold."""
    signals = loudest_signals(graph, graph.candidate_rows.tolist())
    return [NODE_SIGNALS[NODE_COLUMN[signal]].family if signal else "" for signal in signals]
