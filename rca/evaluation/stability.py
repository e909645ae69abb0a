"""Would the answer be another one without traces, without a kind of calls, or with the onset a minute off? Each is tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from rca.bounding import BOUNDS, Bounds
from rca.contracts import Case, Ranker
from rca.deviations import Deviations
from rca.errors import BadInput
from rca.evaluation.damage import Recording, losing, onset_believed
from rca.evaluation.transforms import without
from rca.explanation import Answer, Stability
from rca.features import Calibration, graph_of
from rca.incidents.incident import Incident, IntervalModel
from rca.pipeline import case_of, subject_of
from rca.ranking import Ranking
from rca.report import is_empty, report_of
from rca.telemetry import BIN_FRAMES, EntityId, Interval, Telemetry

_MODALITIES: Final = {
    "no-traces": ("without traces", "spans"),
    "no-metrics": ("without metrics", "metrics"),
    "no-logs": ("without logs", "logs"),
    "no-events": ("without events", "events"),
}
_ONSETS: Final = {
    "onset-60": ("with the onset a minute earlier", -60),
    "onset+60": ("with the onset a minute later", 60),
}
_RELATIONS: Final = {
    "no-calls": ("without the calls between services", ("calls",)),
    "no-queries": ("without the calls to databases", ("queries",)),
    "no-queues": ("without the messages through queues", ("publishes", "consumes")),
    "no-requests": ("without the calls to the outside", ("requests",)),
    "no-pods": ("without what is known of pods and nodes", ("runs", "hosted_on")),
}
"""Condition -> words, and what is taken away."""


@dataclass(frozen=True, eq=False)
class _Asked:
    """An incident and who is asked about it."""

    incident: Incident
    telemetry: Telemetry
    ranker: Ranker
    bounds: Bounds

    def case(self, change: Callable[[Incident, Telemetry], Recording]) -> Case:
        return case_of(*change(self.incident, self.telemetry), bounds=self.bounds)

    def answer(self, condition: str, words: str, case: Case, first: EntityId | None) -> Answer:
        leader, probability = self.first(case)
        return Answer(condition, words, leader, probability, leader == first)

    def first(self, case: Case) -> tuple[EntityId | None, float]:
        """Whom a report would name and how probably; None where it says that there is no fault, or points at nobody."""
        if is_empty(case.window):
            return None, 0.0
        ranking: Ranking = self.ranker.rank(case)
        report = report_of(subject_of(self.incident, case), case, ranking, top=1)
        if report.leader is None or report.confidence.outcome != "cause":
            return None, 0.0
        return report.leader, ranking.candidates[0].probability


def stability_of(
    incident: Incident, telemetry: Telemetry, ranker: Ranker, *, interval: Interval | None = None, bounds: Bounds = BOUNDS
) -> Stability:
    """Ask again under every condition that takes something away; the case is built anew where telemetry or times change.

    Kinds of calls are taken from the case as it was measured. Conditions of which the incident has nothing are left out.
    """
    if interval is not None:
        window = IntervalModel(start_ns=interval.start_ns, end_ns=interval.end_ns)
        incident = incident.model_copy(update={"window": window})
    asked = _Asked(incident, telemetry, ranker, bounds)
    case = asked.case(lambda incident, telemetry: (incident, telemetry))
    first, _ = asked.first(case)
    answers = [asked.answer(condition, words, changed, first) for condition, words, changed in _conditions(asked, case)]
    return Stability(first, tuple(answers))


def _conditions(asked: _Asked, case: Case) -> Iterator[tuple[str, str, Case]]:
    for condition, (words, frame) in _MODALITIES.items():
        frames = (frame, *BIN_FRAMES) if frame == "spans" else (frame,)
        if any(not getattr(asked.telemetry, name).is_empty() for name in frames):
            yield condition, words, asked.case(losing("events") if frame == "events" else without(frame))
    for condition, (words, seconds) in _ONSETS.items():
        moved = onset_believed(seconds)
        try:
            moved(asked.incident, asked.telemetry)
        except BadInput:  # too little is left
            continue
        yield condition, words, asked.case(moved)
    for condition, (words, relations) in _RELATIONS.items():
        if any(case.deviations.edges[name].size for name in relations if name in case.deviations.edges):
            yield condition, words, _without_relations(case, relations)


def _without_relations(case: Case, relations: tuple[str, ...]) -> Case:
    changed, *quiet = (_cut(deviations, relations) for deviations in (case.deviations, *case.quiet))
    calibration = Calibration.of(quiet, changed)
    return replace(case, deviations=changed, quiet=tuple(quiet), graph=graph_of(changed, calibration))


def _cut(deviations: Deviations, relations: tuple[str, ...]) -> Deviations:
    edges = {name: ends[:, :0] if name in relations else ends for name, ends in deviations.edges.items()}
    edge = {name: values[:0] if name in relations else values for name, values in deviations.edge.items()}
    return replace(deviations, edges=edges, edge=edge)
