"""How much of its correction has a network earned? Decided on training incidents that the network did not see.

A network trained on tens of incidents can unlearn what the label-free score knows, above all for kinds of fault that it never
saw. So the correction is scaled by a strength between 0 and 1, and the strength is the one that ranks best in cross-validation
inside the training data: with repetitions of an injection held out, with fault kinds held out, and with systems held out. Of one
system alone, a model to go on from tells what a network is worth on a system that it never saw; for a model that is meant for
such systems nothing else counts. Without labels, invented incidents of held-out families stand in, and the correction counts half
at most.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from operator import attrgetter
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from rca.contracts import LabelledCase
from rca.models.training import TrainingSet

STRENGTHS: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
UNJUDGED: Final = 0.5
"""Strength where the labels do not suffice to judge: nothing held out would leave anything to learn from."""

_FOLDS: Final = 3
_GROUP, _KIND, _SYSTEM = attrgetter("group"), attrgetter("fault_kind"), attrgetter("system")

ReciprocalRanks = Callable[[list[LabelledCase], list[LabelledCase]], npt.NDArray[np.float64]]
"""(cases to train on, cases held out) -> reciprocal rank of the cause for each held-out case and strength, (cases, strengths)."""
Views = Callable[[Sequence[LabelledCase]], list[list[LabelledCase]]]
"""The same cases as systems would know them that record more or less."""
JudgedSets = Callable[[TrainingSet, TrainingSet], npt.NDArray[np.float64]]
"""The same for graphs with their answers."""


def earned_strength(
    cases: Sequence[LabelledCase],
    judge: ReciprocalRanks,
    seed: int,
    before: Callable[[list[LabelledCase]], npt.NDArray[np.float64]] | None = None,
    unjudged: float = UNJUDGED,
) -> float:
    """The strength with the largest mean reciprocal rank, averaged over the ways of holding out; the smaller one of equals.

    `before` gives the reciprocal ranks by the model that the training goes on from: it stands in for systems held out where there
    is only one. `unjudged` is what counts where nothing can be held out.
    """
    labelled = _labelled(cases)
    found = [_held_out(labelled, key, judge, seed) for key in (_GROUP, _KIND, _SYSTEM)]
    curves = [ranks.mean(axis=0) for ranks in found if ranks is not None]
    if before is not None and found[-1] is None and curves:
        curves.append(before(labelled).mean(axis=0))
    return best_strength(np.stack(curves)) if curves else unjudged


def transfer_strength(
    cases: Sequence[LabelledCase],
    judge: ReciprocalRanks,
    seed: int,
    before: Callable[[list[LabelledCase]], npt.NDArray[np.float64]] | None = None,
    views: Views = lambda cases: [list(cases)],
) -> float:
    """The strength for systems that nobody has seen: judged on held-out systems alone, or on the one there is by `before`.

    In each of the `views` of them it is the smallest strength that is not worse than the best one by more than the standard error
    of their difference, where repetitions of an injection count as one; and of all views the smallest. A few systems say little
    about the next, which may record less, and the label-free score is the safer guess. UNJUDGED where there is neither; a single
    injection, whose error nobody knows, earns no more than that either.
    """
    labelled = _labelled(cases)
    parts = _parts(labelled, _SYSTEM, seed)
    seen = [views(part) for part in parts]
    held = [[case for each in part for case in each] for part in seen]
    if len(parts) > 1:
        ranks = [
            judge([c for other in parts if other is not part for c in other], h) for part, h in zip(parts, held, strict=True)
        ]
    elif parts and before is not None:
        ranks = [before(held[0])]
    else:
        return UNJUDGED
    judged = np.concatenate(ranks)
    whose = [case for part in held for case in part]
    view = np.array([i for part in seen for i, each in enumerate(part) for _ in each])
    in_view = [np.flatnonzero(view == i) for i in np.unique(view)]
    return min(_cautious_strength(judged[rows], [whose[row] for row in rows]) for rows in in_view)


def _labelled(cases: Sequence[LabelledCase]) -> list[LabelledCase]:
    return [case for case in cases if set(case.causes) & set(case.case.graph.candidates)]


def _held_out(
    labelled: list[LabelledCase], key: Callable[[LabelledCase], Hashable], judge: ReciprocalRanks, seed: int
) -> npt.NDArray[np.float64] | None:
    """Reciprocal ranks of all cases, each held out with those of its key, (cases, strengths); None where all have one key."""
    parts = _parts(labelled, key, seed)
    if len(parts) < 2:
        return None
    return np.concatenate([judge([c for other in parts if other is not held for c in other], held) for held in parts])


def _cautious_strength(ranks: npt.NDArray[np.float64], cases: Sequence[LabelledCase]) -> float:
    """ranks: (cases, strengths)."""
    names = sorted({case.group for case in cases})
    owner = np.array([names.index(case.group) for case in cases])
    ranks = np.stack([ranks[owner == i].mean(axis=0) for i in range(len(names))])  # (groups, strengths)
    if len(ranks) == 1:
        return min(UNJUDGED, best_strength(ranks))
    lost = ranks[:, [STRENGTHS.index(best_strength(ranks))]] - ranks
    error = lost.std(axis=0, ddof=1) / np.sqrt(len(ranks))
    return STRENGTHS[int(np.argmax(lost.mean(axis=0) <= error + 1e-9))]  # the first is the smallest


def best_strength(ranks: npt.NDArray[np.float64], weights: npt.NDArray[np.floating[Any]] | None = None) -> float:
    """The strength with the largest mean reciprocal rank; the smaller one of equals. ranks: (any, strengths); weights: (any,)."""
    mean = np.round(np.average(ranks, axis=0, weights=weights), 9)
    return STRENGTHS[int(np.argmax(mean))]  # the first of equals is the smallest


def invented_strength(invented: TrainingSet, judge: JudgedSets, seed: int) -> float:
    """Without any label: the strength that ranks best on invented incidents of families that were not trained on, within limits.

    Invented incidents are kinder than real ones, so that however well it does on them, the correction counts half at most.
    """
    families = sorted(set(invented.families))
    order = [families[i] for i in np.random.default_rng([seed, 4]).permutation(len(families))]
    curves = []
    for part in range(min(_FOLDS, len(order))):
        held = set(order[part::_FOLDS])
        if held == set(order):
            return UNJUDGED
        rows = [i for i, family in enumerate(invented.families) if family in held]
        others = sorted(set(range(len(invented))) - set(rows))
        curves.append(judge(invented.subset(others), invented.subset(rows)))
    return min(UNJUDGED, best_strength(np.concatenate(curves))) if curves else UNJUDGED


def _parts(cases: Sequence[LabelledCase], key: Callable[[LabelledCase], Hashable], seed: int) -> list[list[LabelledCase]]:
    """Up to three parts of about equal size; cases with equal keys stay together."""
    by_key: dict[Hashable, list[LabelledCase]] = {}
    for case in cases:
        by_key.setdefault(key(case), []).append(case)
    names = sorted(by_key, key=str)
    order = np.random.default_rng([seed, 3]).permutation(len(names))
    largest_first = sorted((names[i] for i in order), key=lambda name: -len(by_key[name]))
    parts: list[list[LabelledCase]] = [[] for _ in range(min(_FOLDS, len(names)))]
    for name in largest_first:
        min(parts, key=len).extend(by_key[name])
    return parts
