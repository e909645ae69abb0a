"""What all rules share: no training, one score per candidate, and a view of the window's series by candidate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from rca.contracts import Case, LabelledCase
from rca.graph import ServiceGraph
from rca.ranking import Ranking, rank_by_score
from rca.series import series
from rca.telemetry import EntityId
from rca.topology import topology_of
from rca.window import INCIDENT

Values = npt.NDArray[np.float64]
ALERT_SIGMAS: Final = 3.0
_LEAST_BASELINE: Final = 3  # fewer points say nothing about a spread


class Rule(ABC):
    """A ranker without training. Its probabilities order candidates; they are not calibrated."""

    name: ClassVar[str]
    uses_names: ClassVar[bool] = False
    learned: ClassVar[bool] = False

    def fit(self, cases: Sequence[LabelledCase], validation: Sequence[LabelledCase] | None = None) -> Self:  # noqa: ARG002
        return self

    def rank(self, case: Case) -> Ranking:
        return ranking_of(self.name, case, self.scores(case))

    @abstractmethod
    def scores(self, case: Case) -> Values:
        """One finite score per candidate of the graph, (C,); larger is likelier."""


def ranking_of(name: str, case: Case, scores: Values) -> Ranking:
    """Ranking by scores of any scale: the softmax is taken over standardised scores."""
    spread = float(np.std(scores)) if len(scores) else 1.0
    candidates = case.graph.candidates
    return rank_by_score(name, case.window.incident, candidates, scores, temperature=spread or 1.0, gaps=case.window.gaps)


@dataclass(frozen=True, eq=False)
class Track:
    """One series of one candidate: its place among the candidates, and the values with their times, in order of time."""

    place: int
    signal: str
    baseline: Values  # (B,)
    incident: Values  # (I,)
    times: npt.NDArray[np.int64]  # (B + I,), baseline first

    @property
    def values(self) -> Values:
        return np.concatenate([self.baseline, self.incident])


def tracks(case: Case) -> list[Track]:
    """Every series of a candidate that has at least three values before and one during the incident."""
    topology = topology_of(case.window)
    place = {entity: i for i, entity in enumerate(case.graph.candidates)}
    frame = series(case.window, topology).filter(pl.col("value").is_finite())  # sorted by (row, signal, time)
    ends = frame.group_by("row", "signal", maintain_order=True).len().with_columns(pl.col("len").cum_sum().alias("end"))
    during = frame["interval"].to_numpy() == INCIDENT
    values, times = frame["value"].to_numpy(), frame["time_unix_nano"].to_numpy()
    found = []
    for row, signal, length, end in ends.iter_rows():
        part, entity = slice(end - length, end), topology.entities[row]
        now = during[part]
        if entity in place and now.any() and (~now).sum() >= _LEAST_BASELINE:
            value, time = values[part], times[part]
            ordered = np.concatenate([time[~now], time[now]])
            found.append(Track(place[entity], signal, value[~now], value[now], ordered))
    return found


def largest(case: Case, marked: Sequence[tuple[int, float]]) -> Values:
    """Largest mark of every candidate, (C,); 0 where there is none."""
    scores = np.zeros(len(case.graph.candidates))
    for place, mark in marked:
        scores[place] = max(scores[place], mark)
    return scores


def spread(scale: float, level: float) -> float:
    """The scale, or 1 where it is nothing but rounding, as scikit-learn's scalers have it: the papers' code is built on them."""
    return scale if scale > 10 * np.finfo(np.float64).eps * max(1.0, abs(level)) else 1.0


def robust_z(track: Track) -> Values:
    """(x - median) / scale of the incident's values, clipped at 1000; the scale has a floor of 5 % of the median."""
    center = float(np.median(track.baseline))
    deviation = 1.4826 * float(np.median(np.abs(track.baseline - center)))
    quarters = np.percentile(track.baseline, [25, 75])
    scale = max(deviation, float(quarters[1] - quarters[0]) / 1.349, 0.05 * abs(center), 1e-9)
    return np.clip((track.incident - center) / scale, -1000, 1000)


def loudness(case: Case) -> Values:
    """log(1 + largest directed deviation) of every candidate, (C,); 0 where nothing was observed."""
    values: Values = np.log1p(np.abs(np.nan_to_num(case.deviations.node[case.graph.candidate_rows])))
    peaks: Values = values.max(axis=1, initial=0.0)
    return peaks


def candidate_calls(graph: ServiceGraph) -> npt.NDArray[np.int64]:
    """Distinct calls between candidates as places among the candidates, caller over callee, (2, E); no self calls."""
    place = np.full(len(graph.entities), -1, dtype=np.int64)
    place[graph.candidate_rows] = np.arange(len(graph.candidate_rows))
    edges = place[graph.call_edges()]
    kept = edges[:, (edges >= 0).all(axis=0) & (edges[0] != edges[1])]
    return np.unique(kept, axis=1) if kept.size else np.zeros((2, 0), dtype=np.int64)


def alert_counts(case: Case) -> Values:
    """Alerts of every candidate, (C,): those that came with the telemetry, else one for each series beyond three sigmas.

    An alert about a call counts for both its ends. Alerts of pods count for their owner.
    """
    counts = np.zeros(len(case.graph.candidates))
    alerts = case.window.alerts
    if alerts.is_empty():
        for track in tracks(case):
            counts[track.place] += float(np.abs(robust_z(track)).mean() > ALERT_SIGMAS)
        return counts
    graph = case.graph
    place = {int(row): i for i, row in enumerate(graph.candidate_rows)}
    owner = graph.owners
    for kind, name, namespace, peer in alerts.select("entity_kind", "entity", "namespace", "peer").iter_rows():
        for end in {name, peer or name}:
            row = graph.rows.get(EntityId(kind, end, namespace or ""))
            rolled = owner.get(row, row) if row is not None else None
            if rolled in place:
                counts[place[rolled]] += 1
    return counts
