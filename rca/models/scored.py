"""From a network's scores to a ranking: what every engine shares, so that all of them rank alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from rca.arrays import Schema
from rca.contracts import Case
from rca.errors import BadCheckpoint
from rca.faults import FAMILIES
from rca.graph import ServiceGraph
from rca.models.confidence import chances_of
from rca.ranking import Ranking, rank_by_score

_NO_CANDIDATES: Final = "no candidates: nothing could be ranked"
_FAMILY_DIGITS: Final = 9  # of families that are as likely as each other the first is named, whatever the engine

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scores:
    """What a network says about one graph with C candidates; K families."""

    score: Floats  # (C,) logits of the candidates
    null: float  # logit of "no fault, or outside the graph"
    family: Floats  # (C, K) probabilities


def ranking_of_scores(name: str, schema: Schema, case: Case, score: Callable[[ServiceGraph], Scores]) -> Ranking:
    """Ranking of a case by what a network that was trained on `schema` says about its graph.

    Raises BadCheckpoint for a graph with other features, and for scores that are no finite number for each candidate.
    """
    graph, interval = case.graph, case.window.incident
    schema.check(Schema.of(graph), f"ranker {name}")
    if not graph.candidates:
        return rank_by_score(name, interval, (), np.zeros(0), gaps=case.window.gaps, notes=(_NO_CANDIDATES,))
    scores = score(graph)
    _check(name, scores, len(graph.candidates))
    return rank_by_score(
        name,
        interval,
        graph.candidates,
        scores.score,
        chances=chances_of(case, scores.score, "network"),
        families=[FAMILIES[row] for row in np.round(scores.family, _FAMILY_DIGITS).argmax(axis=1)],
        gaps=case.window.gaps,
    )


def _check(name: str, scores: Scores, candidates: int) -> None:
    found = np.shape(scores.score), np.shape(scores.family)
    wanted = (candidates,), (candidates, len(FAMILIES))
    if found != wanted:
        raise BadCheckpoint(f"ranker {name}", expected=f"scores and families of the shapes {wanted}", found=str(found))
    if strange := int((~np.isfinite(scores.score)).sum()):
        raise BadCheckpoint(f"ranker {name}", expected="finite scores", found=f"{strange} of {candidates} that are not")
