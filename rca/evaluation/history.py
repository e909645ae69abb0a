"""How good answers to labelled incidents were over time: what was answered then, where that was kept, or is answered now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Final, Literal

from rca.contracts import Ranker
from rca.errors import RcaError, UnknownName
from rca.evaluation import metrics
from rca.evaluation.cases import Labels, Recorded, exam_of
from rca.evaluation.metrics import Estimate
from rca.evaluation.predictions import Prediction, Truth
from rca.evaluation.runner import answers
from rca.graph import ServiceGraph
from rca.incidents.incident import Incident
from rca.ranking import Ranking
from rca.telemetry import SECOND_NS, EntityId

Period = Literal["week", "month"]
PERIODS: Final = ("week", "month")
TIERS: Final = ("entry", "middle", "leaf", "backing", "alone", "unknown")
COHORTS: Final = ("fault kind", "tier", "system", "label")
"""What incidents are told apart by, beside time."""


@dataclass(frozen=True)
class Kept:
    """An answer that was given at the time: the ranking, what made it, and when."""

    ranking: Ranking
    model: str
    at_ns: int


@dataclass(frozen=True)
class Answer:
    """What one model said of an incident; `then` if it was said at the time. `learnt` says that it was trained on it."""

    model: str
    prediction: Prediction
    then: bool = False
    learnt: bool = False


@dataclass(frozen=True)
class Labelled:
    """A labelled incident and every answer to it: what was said at the time first, then what models say that are asked now."""

    truth: Truth
    tier: str
    provenance: str
    answers: tuple[Answer, ...]

    @property
    def answer(self) -> Answer | None:
        """What counts: the answer at the time, else that of the model in use, unless it was trained on this very incident."""
        first = self.answers[0] if self.answers else None
        return None if first is None or first.learnt else first

    def cohort(self, what: str) -> str:
        """Where it belongs among those that COHORTS tell apart."""
        names = {
            "fault kind": self.truth.fault_kind, "tier": self.tier, "system": self.truth.system, "label": self.provenance
        }  # fmt: skip
        return names[what]

    def period(self, per: Period) -> str:
        """The month, or the Monday of the week, that it began in, UTC."""
        moment = datetime.fromtimestamp(self.truth.start_ns // SECOND_NS, UTC)
        if per == "month":
            return f"{moment:%Y-%m}"
        return f"{moment - timedelta(days=moment.weekday()):%Y-%m-%d}"


@dataclass(frozen=True, eq=False)
class Seen:
    """What reading incidents gave: those with a label, the graphs of those that count as now with their systems, and failures."""

    labelled: tuple[Labelled, ...]
    graphs: tuple[ServiceGraph, ...]
    systems: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False)
class Model:
    """A ranker that is asked now, and on which incidents it is known to have been trained."""

    ranker: Ranker
    learnt_from: Callable[[str], bool] = lambda _: False


def see(
    recorded: Sequence[Recorded],
    models: Sequence[Model],
    kept: Mapping[str, Kept],
    *,
    since_ns: int = 0,
    home: Path | None = None,
    step: Callable[[str], None] = lambda _: None,
) -> Seen:
    """Build every case that matters once, and ask the models about those with a label. The first model is the one in use.

    An incident that ends after `since_ns` counts as now. `home` has the cache of cases. One that cannot be read is left out.
    """
    labelled, graphs, systems, left_out = [], [], [], []
    for one in recorded:
        incident = one.incident
        is_now, told = incident.window.end_ns > since_ns, Labels.TOLD.want(incident)
        if is_now or told:
            try:
                graph, found = _looked_at(one, models if told else (), kept.get(incident.id), home)
            except RcaError as error:
                left_out.append((incident.id, str(error)))
            else:
                labelled += [found] if told else []
                graphs += [graph] if is_now else []
                systems += [incident.system] if is_now else []
        step(incident.id)
    return Seen(tuple(labelled), tuple(graphs), tuple(systems), tuple(left_out))


def _looked_at(one: Recorded, models: Sequence[Model], kept: Kept | None, home: Path | None) -> tuple[ServiceGraph, Labelled]:
    exam = exam_of([one], home=home)
    truth, graph = exam.truths[0], exam.tested[0].case.graph
    found = [Answer(kept.model, Prediction.of(truth, kept.ranking, 0.0), then=True)] if kept else []
    for model in models:
        (prediction,) = answers(model.ranker, exam)
        found.append(Answer(model.ranker.name, prediction, learnt=model.learnt_from(one.incident.id)))
    return graph, Labelled(truth, tier_of(graph, truth.causes), _provenance(one.incident), tuple(found))


def _provenance(incident: Incident) -> str:
    return next((label.provenance for label in incident.labels if label.provenance != "disputed"), "none")


def tier_of(graph: ServiceGraph, causes: Sequence[EntityId]) -> str:
    """Where the first cause stands in the graph.

    A database, queue, external host or node is `backing`. Of services, one that nobody calls is an `entry`, one that calls other
    services is in the `middle`, another one a `leaf`; without any edge it is `alone`. What a queue hands on is a call.
    """
    cause = next((cause for cause in causes if cause in graph.rows), None)
    if cause is None:
        return "unknown"
    if cause.kind not in ("service", "pod"):
        return "backing"
    row = graph.rows[cause]
    called = any(row in graph.edges[name][1] for name in ("calls", "replicates") if name in graph.edges)
    called = called or ("consumes" in graph.edges and row in graph.edges["consumes"][0])
    if not called:
        return "entry" if row in graph.call_edges() else "alone"
    calls = "calls" in graph.edges and row in graph.edges["calls"][0]
    publishes = "publishes" in graph.edges and row in graph.edges["publishes"][0]
    return "middle" if calls or publishes else "leaf"


# --- figures ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """How often answers to incidents with a cause were right. `groups` are incidents that do not repeat each other."""

    name: str
    incidents: int
    groups: int
    top1: Estimate
    top3: Estimate
    mrr: Estimate
    then: int
    """How many of the answers were given at the time."""


@dataclass(frozen=True)
class Compared:
    """One model's answers, and by how much it names the cause first more often than the model in use, on `both` incidents.

    `then` tells what was answered at the time from what is answered now.
    """

    figures: Figures
    then: bool
    both: int
    difference: Estimate | None


@dataclass(frozen=True)
class Accuracy:
    """All figures. `nobody` counts incidents that nobody is to blame for, and those in which somebody was blamed all the same."""

    overall: Figures | None
    periods: tuple[Figures, ...]
    cohorts: Mapping[str, tuple[Figures, ...]]
    models: tuple[Compared, ...]
    nobody: tuple[int, int]
    learnt: int
    """Incidents left out because the model in use was trained on them, and nothing was kept of what was said at the time."""


def accuracy_of(labelled: Sequence[Labelled], in_use: str, per: Period) -> Accuracy:
    """Figures of the answers that count, by period and by cohort, and of every model by itself. Raises UnknownName."""
    if per not in PERIODS:
        raise UnknownName("period", per, PERIODS)
    judged = [one for one in labelled if one.answer is not None]
    with_cause = [one for one in judged if one.truth.causes]
    quiet = [one.answer.prediction for one in judged if one.answer is not None and not one.truth.causes]
    return Accuracy(
        overall=_figures("all", with_cause) if with_cause else None,
        periods=_parted(with_cause, lambda one: one.period(per)),
        cohorts={what: _parted(with_cause, lambda one, what=what: one.cohort(what)) for what in COHORTS},  # type: ignore[misc]
        models=tuple(_compared([one for one in labelled if one.truth.causes], in_use)),
        nobody=(len(quiet), round(metrics.false_alarm_rate(quiet) * len(quiet)) if quiet else 0),
        learnt=sum(one.answer is None for one in labelled),
    )


def _parted(labelled: Sequence[Labelled], key: Callable[[Labelled], str]) -> tuple[Figures, ...]:
    ordered = sorted(labelled, key=key)
    return tuple(_figures(name, list(part)) for name, part in groupby(ordered, key=key))


def _figures(name: str, labelled: Sequence[Labelled]) -> Figures:
    return _figures_of(name, [one.answer for one in labelled if one.answer is not None])


def _figures_of(name: str, given: Sequence[Answer]) -> Figures:
    predictions = [answer.prediction for answer in given]
    top1, top3, mrr = (metrics.accuracy(metric, predictions) for metric in ("ac1", "ac3", "mrr"))
    groups = len({prediction.truth.group for prediction in predictions})
    return Figures(name, len(given), groups, top1, top3, mrr, sum(answer.then for answer in given))


def _compared(labelled: Sequence[Labelled], in_use: str) -> Iterator[Compared]:
    """Every model's own answers, those at the time apart from those of now; an answer of now that was learnt does not count."""
    by_model: dict[tuple[str, bool], list[Answer]] = {}
    for answer in _all(labelled):
        by_model.setdefault((answer.model, answer.then), []).append(answer)
    ours = by_model.get((in_use, False), [])
    for (model, then), given in by_model.items():
        figures, mine = _figures_of(model, given), (model, then) == (in_use, False)
        common = {answer.prediction.truth.incident_id for answer in ours} & {a.prediction.truth.incident_id for a in given}
        paired = [[answer.prediction for answer in side] for side in (given, ours)]
        difference = None if mine or not common else metrics.paired_difference("ac1", *paired)
        yield Compared(figures, then, len(common), difference)


def _all(labelled: Iterable[Labelled]) -> Iterator[Answer]:
    return (answer for one in labelled for answer in one.answers if not answer.learnt)
