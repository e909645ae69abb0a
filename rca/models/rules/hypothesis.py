"""Regression-based hypothesis testing on the call graph, after CIRCA (Li et al., KDD 2022), which PyRCA ships as `ht`."""

from __future__ import annotations

from typing import Final

import numpy as np

from rca.contracts import Case
from rca.graph import Indices
from rca.models.rules.rule import Rule, Track, Values, candidate_calls, largest, spread, tracks

_RIDGE: Final = 1.0
_LEAST_POINTS: Final = 5
_FROM_CALLEES: Final = ("latency", "duration", "success_ratio", "error_ratio", "request.rate")


class HypothesisTest(Rule):
    """Largest z of what a candidate's callees do not explain.

    Interface series are regressed on the same series of the callees over the baseline (ridge); what is left is compared with
    the baseline's residuals. Resource series have no callees to blame and are taken as they are.
    """

    name = "hypothesis-test"

    def scores(self, case: Case) -> Values:
        found = tracks(case)
        by_signal = {(track.place, track.signal): track for track in found}
        callees: dict[int, list[int]] = {}
        for caller, callee in candidate_calls(case.graph).T.tolist():
            callees.setdefault(caller, []).append(callee)
        marks = []
        for track in found:
            below = [by_signal[c, track.signal] for c in callees.get(track.place, ()) if (c, track.signal) in by_signal]
            propagates = any(word in track.signal for word in _FROM_CALLEES)
            marks.append((track.place, _unexplained(track, below if propagates else [])))
        return largest(case, marks)


def _unexplained(track: Track, callees: list[Track]) -> float:
    """|mean z| of the residual during the incident; of the series itself where no callee can be compared."""
    times = track.times
    for callee in callees:
        times = np.intersect1d(times, callee.times)
    own, here = _at(track, times), len(track.baseline)
    before = np.isin(times, track.times[:here])
    if not callees or before.sum() < _LEAST_POINTS or not (~before).any():
        return _z(track.baseline, track.incident)
    x = np.stack([_at(callee, times) for callee in callees], axis=1)
    center, scale = x[before].mean(axis=0), x[before].std(axis=0) + 1e-12
    x = (x - center) / scale
    gram = x[before].T @ x[before] + _RIDGE * np.eye(x.shape[1])
    slopes = np.linalg.solve(gram, x[before].T @ (own[before] - own[before].mean()))
    left = own - own[before].mean() - x @ slopes
    return _z(left[before], left[~before])


def _at(track: Track, times: Indices) -> Values:
    _, places, _ = np.intersect1d(track.times, times, return_indices=True)
    return track.values[places]


def _z(baseline: Values, incident: Values) -> float:
    center = float(baseline.mean())
    scale = spread(max(float(baseline.std()), 0.05 * abs(center)), center)
    return float(np.clip(abs(incident.mean() - center) / scale, 0, 1000))
