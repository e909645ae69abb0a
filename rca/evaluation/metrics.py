"""Accuracy, calibration and cost of predictions, with intervals that know that repetitions of one injection are no new evidence.

A cause that is no candidate, and a ranker that failed, are misses. Ties count against the ranker (Prediction.cause_rank).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb
from typing import Final

import numpy as np
import numpy.typing as npt

from rca.evaluation.predictions import Prediction

Values = npt.NDArray[np.float64]
BOOTSTRAP_ROUNDS: Final = 2000
ACCURACIES: Final = ("ac1", "ac3", "ac5", "avg5", "mrr")
_KS: Final = {"ac1": 1, "ac3": 3, "ac5": 5}


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval. One cluster alone gives no interval: both ends are None."""

    value: float
    low: float | None
    high: float | None


def per_incident(metric: str, predictions: Sequence[Prediction]) -> Values:
    """One value per incident, (P,): whether AC@k was hit, or Avg@5, or the reciprocal rank."""
    return of_ranks(metric, [p.cause_rank for p in predictions])


def of_ranks(metric: str, cause_ranks: Sequence[int | None]) -> Values:
    """The same from the ranks of the causes; None where no cause was among the candidates."""
    ranks: Values = np.array([np.inf if rank is None else rank for rank in cause_ranks], dtype=np.float64)
    if metric == "mrr":
        reciprocal: Values = 1.0 / ranks
        return reciprocal
    if metric == "avg5":
        within: Values = np.array([ranks <= k for k in range(1, 6)], dtype=np.float64).mean(axis=0)
        return within
    return (ranks <= _KS[metric]).astype(np.float64)


def chance(metric: str, predictions: Sequence[Prediction]) -> float:
    """Expected value of the metric if the candidates of every incident were shuffled."""
    return _mean([_chance_of(metric, p) for p in predictions])


def _chance_of(metric: str, prediction: Prediction) -> float:
    total = len(prediction.candidates)
    right = len(set(prediction.truth.causes) & set(prediction.candidates))
    if not right:
        return 0.0
    if metric == "mrr":
        return sum(comb(total - r, right - 1) / comb(total, right) / r for r in range(1, total - right + 2))
    if metric == "avg5":
        return _mean([_chance_within(k, total, right) for k in range(1, 6)])
    return _chance_within(_KS[metric], total, right)


def _chance_within(k: int, total: int, right: int) -> float:
    """Probability that at least one of `right` stands among the first k of `total` in random order."""
    return 1.0 - comb(total - right, k) / comb(total, k) if k < total else 1.0


def estimate(values: Values, clusters: Sequence[object], *, seed: int = 0, rounds: int = BOOTSTRAP_ROUNDS) -> Estimate:
    """Mean of values (P,) with the 2.5 and 97.5 percentiles of a bootstrap that draws whole clusters, (P,)."""
    if not len(values):
        return Estimate(float("nan"), None, None)
    places = {cluster: place for place, cluster in enumerate(dict.fromkeys(clusters))}
    if len(places) < 2:
        return Estimate(float(values.mean()), None, None)
    rows = np.array([places[cluster] for cluster in clusters])
    sums = np.bincount(rows, weights=values, minlength=len(places))
    sizes = np.bincount(rows, minlength=len(places))
    drawn = np.random.default_rng(seed).multinomial(len(places), np.full(len(places), 1 / len(places)), size=rounds)  # (B, G)
    low, high = np.percentile((drawn @ sums) / (drawn @ sizes), [2.5, 97.5])
    return Estimate(float(values.mean()), float(low), float(high))


def accuracy(metric: str, predictions: Sequence[Prediction], *, seed: int = 0) -> Estimate:
    """Mean of a metric, its interval clustered by (system, service, fault kind).

    Where all incidents are right, or all wrong, a bootstrap has nothing to draw from: the open end is then the exact binomial
    (Clopper and Pearson) bound with every group counted once.
    """
    return estimate_share(per_incident(metric, predictions), [p.truth.group for p in predictions], seed=seed)


def estimate_share(values: Values, groups: Sequence[object], *, seed: int = 0) -> Estimate:
    """`estimate` of values between 0 and 1, with exact bounds where all of them are the same end of that range."""
    found = estimate(values, groups, seed=seed)
    if found.low is None or values.min() < values.max() or found.value not in (0.0, 1.0):
        return found
    bound = 0.025 ** (1 / len(set(groups)))
    return Estimate(1.0, bound, 1.0) if found.value else Estimate(0.0, 0.0, 1.0 - bound)


def estimate_of(
    statistic: Callable[[npt.NDArray[np.int64]], Values],
    clusters: Sequence[object],
    *,
    seed: int = 0,
    rounds: int = BOOTSTRAP_ROUNDS,
) -> Estimate:
    """A statistic of rows (P,) that is no mean, such as a median, with the same bootstrap.

    It is given the rows of many draws of one length, (B, L), and returns a value for each, (B,).
    """
    everything = np.arange(len(clusters), dtype=np.int64)
    if not len(everything):
        return Estimate(float("nan"), None, None)
    value = float(statistic(everything[None, :])[0])
    places = {cluster: place for place, cluster in enumerate(dict.fromkeys(clusters))}
    if len(places) < 2:
        return Estimate(value, None, None)
    at = np.array([places[cluster] for cluster in clusters])
    members = [everything[at == place] for place in range(len(places))]
    drawn = np.random.default_rng(seed).integers(len(places), size=(rounds, len(places)))  # (B, G)
    lengths = np.bincount(at)[drawn].sum(axis=1)
    found = np.empty(rounds)
    for length in np.unique(lengths):
        alike = np.flatnonzero(lengths == length)
        found[alike] = statistic(np.stack([np.concatenate([members[place] for place in drawn[draw]]) for draw in alike]))
    low, high = np.percentile(found, [2.5, 97.5])
    return Estimate(value, float(low), float(high))


def paired_difference(metric: str, ours: Sequence[Prediction], theirs: Sequence[Prediction], *, seed: int = 0) -> Estimate:
    """Mean of (ours - theirs) over the incidents that both answered, with a clustered interval."""
    other = {(p.truth.system, p.truth.incident_id): p for p in theirs}
    pairs = [(p, other[key]) for p in ours if (key := (p.truth.system, p.truth.incident_id)) in other]
    if not pairs:
        return Estimate(float("nan"), None, None)
    mine, yours = zip(*pairs, strict=True)
    return estimate(per_incident(metric, mine) - per_incident(metric, yours), [p.truth.group for p in mine], seed=seed)


def calibration_error(predictions: Sequence[Prediction], bins: int = 10) -> float:
    """Expected calibration error: |share right - mean confidence| over equal-width confidence bins, weighted by their size."""
    confidence = np.array([p.confidence for p in predictions], dtype=np.float64)
    return error_of(confidence, per_incident("ac1", predictions), bins) if predictions else 0.0


def error_of(confidence: Values, right: Values, bins: int = 10) -> float:
    """The same of any answers: how sure each was, (P,), and whether it was right, (P,). NaN without answers."""
    if not len(confidence):
        return float("nan")
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(place, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def brier(predictions: Sequence[Prediction]) -> float:
    """Mean squared difference of the confidence in the first candidate and whether it was right."""
    return _mean([(p.confidence - hit) ** 2 for p, hit in zip(predictions, per_incident("ac1", predictions), strict=True)])


def set_coverage(predictions: Sequence[Prediction], mass: float = 0.9) -> tuple[float, float]:
    """Share of incidents whose cause is in the smallest set of candidates that holds `mass` of the probability; mean set size.

    The probability that it is none of them, "no fault" or a cause outside the graph, counts without adding a candidate.
    """
    sets = [_holding(p, mass) for p in predictions]
    covered = [bool(set(p.truth.causes) & set(s)) for p, s in zip(predictions, sets, strict=True)]
    return _mean(covered), _mean([len(s) for s in sets])


def _holding(prediction: Prediction, mass: float) -> list[object]:
    held, chosen = 1.0 - sum(prediction.probabilities), []
    for entity, probability in zip(prediction.candidates, prediction.probabilities, strict=True):
        if held >= mass - 1e-9:
            break
        chosen.append(entity)
        held += probability
    return list(chosen)


def selective_accuracy(
    predictions: Sequence[Prediction], coverages: Sequence[float] = (0.25, 0.5, 0.75, 1.0)
) -> dict[float, float]:
    """AC@1 on the most confident share of the incidents: what abstaining on the others buys. Share answered -> accuracy.

    Incidents of equal confidence stand or fall together: their mean accuracy fills the places that are left.
    """
    confidence = np.array([p.confidence for p in predictions])
    right = per_incident("ac1", predictions)
    for value in np.unique(confidence):
        right[confidence == value] = right[confidence == value].mean()
    ordered = right[np.argsort(-confidence, kind="stable")]
    return {share: _mean(ordered[: max(1, round(share * len(ordered)))]) for share in coverages} if len(ordered) else {}


def false_alarm_rate(quiet: Sequence[Prediction], threshold: float = 0.0) -> float:
    """Share of quiet windows in which a cause is invented: some candidate is likelier than `no_fault`, and than `threshold`."""
    return _mean([bool(p.probabilities) and p.confidence > max(p.no_fault, threshold) for p in quiet])


def seconds_per_incident(predictions: Sequence[Prediction]) -> float:
    """Median seconds a ranking took."""
    return float(np.median([p.seconds for p in predictions])) if predictions else float("nan")


def by(key: Callable[[Prediction], str], predictions: Sequence[Prediction]) -> dict[str, list[Prediction]]:
    """Predictions by a key, keys in order."""
    parts: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        parts.setdefault(key(prediction), []).append(prediction)
    return dict(sorted(parts.items()))


def _mean(values: Sequence[float] | Values) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
