"""Random walks over the call graph that drift towards what is anomalous."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from rca.contracts import Case
from rca.graph import Indices
from rca.models.rules.rule import Rule, Track, Values, candidate_calls, largest, loudness, robust_z, tracks

_DAMPING: Final = 0.85
_STEPS: Final = 200
_LATENCY: Final = ("latency", "duration")
_RESOURCES: Final = ("cpu", "memory", "disk", "network")


def pagerank(calls: Indices, weights: Values, restart: Values, damping: float = _DAMPING) -> Values:
    """Share of time that a walk spends at every node, times their number, (N,).

    Shapes: calls (2, E) source over target, weights (E,) at least 0, restart (N,) at least 0. Where no weight leads on, the walk
    restarts. A restart of zeros is uniform.
    """
    n = len(restart)
    if not n:
        return np.zeros(0)
    home = restart / restart.sum() if restart.sum() > 0 else np.full(n, 1 / n)
    source, target = calls
    leaving = np.bincount(source, weights=weights, minlength=n)
    step = weights / np.where(leaving > 0, leaving, 1.0)[source]
    here = home
    for _ in range(_STEPS):
        moved = np.bincount(target, weights=here[source] * step, minlength=n)
        after = damping * (moved + here[leaving <= 0].sum() * home) + (1 - damping) * home
        if np.abs(after - here).sum() < 1e-12:
            break
        here = after
    return here * n


class PageRankZ(Rule):
    """Personalised PageRank on directed deviations: restarts at loud candidates, walks to loud callees, and a little back."""

    name = "pagerank-z"
    backwards = 0.1

    def scores(self, case: Case) -> Values:
        loud = loudness(case)
        calls = candidate_calls(case.graph)
        both = np.concatenate([calls, calls[::-1]], axis=1)
        weights = np.concatenate([loud[calls[1]], self.backwards * loud[calls[0]]])
        return pagerank(both, weights, loud)


class MicroRca(Rule):
    """Correlation-guided random walk, after MicroRCA (Wu et al., NOMS 2020).

    A call weighs as much as the latencies of its ends move together. The walk restarts at a service as often as its resources
    move with its latency, times how anomalous it is.
    """

    name = "microrca"

    def scores(self, case: Case) -> Values:
        found = tracks(case)
        loud = np.log1p(largest(case, [(track.place, float(abs(robust_z(track).mean()))) for track in found]))
        latency = _one_each(found, lambda signal: any(word in signal for word in _LATENCY))
        calls = candidate_calls(case.graph)
        weights = np.array([_together(latency.get(a), latency.get(b)) for a, b in calls.T.tolist()]).reshape(-1)
        resources = [track for track in found if any(word in track.signal for word in _RESOURCES)]
        moves = largest(case, [(track.place, _together(latency.get(track.place), track)) for track in resources])
        return pagerank(calls, weights, loud * np.maximum(moves, 0.1))


def _one_each(found: Sequence[Track], wanted: Callable[[str], bool]) -> dict[int, Track]:
    best: dict[int, Track] = {}
    for track in found:
        if wanted(track.signal) and (track.place not in best or len(track.values) > len(best[track.place].values)):
            best[track.place] = track
    return best


def _together(one: Track | None, other: Track | None) -> float:
    """|Pearson correlation| over common times; 0.01 where there are fewer than four, so that every call stays passable."""
    if one is None or other is None:
        return 0.01
    _, mine, theirs = np.intersect1d(one.times, other.times, return_indices=True)
    x, y = one.values[mine], other.values[theirs]
    if len(x) < 4 or x.std() <= 0 or y.std() <= 0:
        return 0.01
    return max(0.01, float(abs(np.corrcoef(x, y)[0, 1])))
