"""The candidate with the largest deviation: three ways to scale it."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from rca.contracts import Case
from rca.models.rules.rule import Rule, Track, Values, largest, robust_z, spread, tracks


class _Loudest(Rule):
    """The loudest series of a candidate is its score. Blind to structure: the loudest service wins, culprit or victim."""

    def scores(self, case: Case) -> Values:
        return largest(case, [(track.place, self.deviation(track)) for track in tracks(case)])

    @abstractmethod
    def deviation(self, track: Track) -> float:
        """How far a series strays during the incident, at least 0."""


class MaxZ(_Loudest):
    """Largest |mean robust z| over the incident; the scale is the median absolute deviation with floors."""

    name = "max-z"

    def deviation(self, track: Track) -> float:
        return float(abs(robust_z(track).mean()))


class NSigma(_Loudest):
    """Largest |x - mean| / standard deviation, the classic rule. RCAEval (arXiv 2412.17015) lists it under this name."""

    name = "nsigma"

    def deviation(self, track: Track) -> float:
        center = float(track.baseline.mean())
        return float(np.abs(track.incident - center).max() / spread(float(track.baseline.std()), center))


class Baro(_Loudest):
    """Largest (x - median) / interquartile range, upwards only: the robust scorer of BARO (Pham, Ha and Zhang, FSE 2024)."""

    name = "baro"

    def deviation(self, track: Track) -> float:
        low, center, high = np.percentile(track.baseline, [25, 50, 75]).tolist()
        return max(0.0, float((track.incident - center).max() / spread(high - low, center)))
