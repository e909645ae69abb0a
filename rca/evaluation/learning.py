"""What to learn from: incidents kept aside to judge by, cases of before so that they are not forgotten, and labels to doubt."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from rca.contracts import LabelledCase, group_of
from rca.errors import BadInput
from rca.evaluation.cases import Labels, Recorded, from_folder, from_store
from rca.incidents.store import DATABASE_FILE
from rca.models import registry
from rca.models.learnt import Learnt
from rca.pipeline import case_of
from rca.simulator import CONFIG, simulate
from rca.wording import count, listed, percent

MOST_SIMULATED: Final = 100
"""Simulated cases that are replayed unless more are asked for: one takes about a third of a second."""
SIMULATED: Final = "simulated"

_FEW: Final = 5
_ENOUGH: Final = 10
_UNKNOWN_SHARE: Final = 0.2


def in_exam(recorded: Recorded, share: float) -> bool:
    """Whether an incident is kept aside to judge models by: always the same ones, repetitions of one injection together."""
    incident = recorded.incident
    causes = incident.causes()
    group = " / ".join(group_of(incident.system, causes, incident.fault_kind())) if causes else incident.id
    return int(hashlib.sha256(group.encode()).hexdigest()[:8], 16) < share * 2**32


def set_aside(recorded: Sequence[Recorded], share: float, learnt: Learnt) -> tuple[list[Recorded], list[Recorded]]:
    """(to learn from, to judge by). What was learnt from before cannot judge, and an incident without a label neither."""
    aside = [
        one
        for one in recorded
        if Labels.TOLD.want(one.incident) and in_exam(one, share) and not learnt.knows(one.incident.id, one.digest)
    ]
    kept = {one.incident.id for one in aside}
    return [one for one in recorded if one.incident.id not in kept], aside


def replayed(learnt: Learnt, beside: Iterable[Recorded], home: Path, folders: Sequence[Path]) -> list[Recorded]:
    """Labelled incidents that a model learnt from, as far as they are at hand in the store or in these folders of bundles.

    Those `beside` are there already. Raises BadInput for a folder without bundles.
    """
    found = from_store((), home, Labels.TOLD) if (home / DATABASE_FILE).exists() else []
    for folder in folders:
        found += from_folder(folder, (), Labels.TOLD)
    known = {one.digest for one in beside}
    again: list[Recorded] = []
    for one in found:
        if learnt.knows(one.incident.id, one.digest) and one.digest not in known:
            known.add(one.digest)
            again.append(one)
    return again


def simulated_cases(made_of: dict[str, Any], number: int, step: Callable[[str], None] = lambda _: None) -> list[LabelledCase]:
    """The first simulated incidents that a model was trained on, made again. They count as one system."""
    found = []
    for place in range(min(number, int(made_of["incidents"]))):
        incident, telemetry = simulate(int(made_of["seed"]), place, CONFIG)
        step(incident.id)
        found.append(LabelledCase(case_of(incident, telemetry), incident.id, SIMULATED, incident.causes(), incident.fault_kind()))
    return found


@dataclass(frozen=True)
class Doubts:
    """What is odd about labels: mistakes that keep one from learning from them, and what somebody should look at."""

    mistakes: tuple[str, ...]
    warnings: tuple[str, ...]


def check_labels(where: str, cases: Sequence[LabelledCase]) -> tuple[str, ...]:
    """What should be looked at. Raises BadInput for labels that nothing can be learnt from."""
    found = doubts(cases)
    if found.mistakes:
        expected = "labels that telemetry and each other bear out (--trust-labels learns from them all the same)"
        raise BadInput(where, expected=expected, found="; ".join(found.mistakes))
    return found.warnings


def doubts(cases: Sequence[LabelledCase]) -> Doubts:
    """Look at the labels of new cases: do they name who is there, do they differ, does telemetry say anything of the sort?"""
    told = [case for case in cases if case.causes]
    mistakes: list[str] = []
    warnings: list[str] = []
    unknown = [case for case in told if not set(case.causes) & set(case.case.graph.candidates)]
    if unknown:
        first = f"{unknown[0].incident_id} names {unknown[0].causes[0]}"
        words = f"{len(unknown)} of {count(len(told), 'label')} naming nobody that can be ranked in the incident ({first})"
        (mistakes if len(unknown) > _UNKNOWN_SHARE * len(told) else warnings).append(words)
    causes = {cause for case in told for cause in case.causes}
    if len(told) >= _FEW and len(causes) == 1:
        mistakes.append(f"all {len(told)} labels naming {next(iter(causes))}, so that there is nothing to tell apart")
    places = {case.incident_id: _place(case) for case in told if case not in unknown}
    if len(places) >= _ENOUGH and len(causes) > 1:
        mean, error = float(np.mean(list(places.values()))), (12 * len(places)) ** -0.5
        if mean > 0.5 - 1.64 * error:
            words = (
                f"causes that the label-free score puts {percent(mean)} down the list on average, as labels drawn by lot would be"
            )
            mistakes.append(words)
    odd = sorted((name for name, place in places.items() if place > 0.5), key=lambda name: -places[name])
    if odd:
        warnings.append(f"telemetry speaks against {count(len(odd), 'label')}, look again: {listed(odd, 5)}")
    return Doubts(tuple(mistakes), tuple(warnings))


def _place(case: LabelledCase) -> float:
    """Where the label-free score puts the cause among candidates of its kind: 0 the first, 1 the last; ties count half."""
    ranking = registry.create("floor").rank(case.case)
    scores = {candidate.entity: candidate.score for candidate in ranking.candidates}
    best, kind = max((scores[cause], cause.kind) for cause in case.causes if cause in scores)
    others = [score for entity, score in scores.items() if entity.kind == kind and entity not in case.causes]
    if not others:
        return 0.0
    return (sum(score > best for score in others) + sum(score == best for score in others) / 2) / len(others)
