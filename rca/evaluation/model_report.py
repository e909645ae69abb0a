"""What `rca report models` says: JSON for machines, the same tables for a terminal and for a document."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from rca.documents.model import Block, Document, Figure, Section, Table, Text
from rca.evaluation.accuracy_chart import accuracy_svg, accuracy_words
from rca.evaluation.history import COHORTS, Accuracy, Compared, Figures
from rca.evaluation.metrics import Estimate
from rca.models.drift import Drift, Shift
from rca.models.reference import MUCH, section
from rca.ranking import rounded
from rca.wording import clock, count, excerpt, number, percent

SCHEMA_VERSION: Final = "1"
MOST_SHIFTS: Final = 25
"""Quantities that a table names; JSON has them all."""

_MOST_LEFT_OUT: Final = 5
_LONGEST: Final = 120
_TITLES: Final = {"fault kind": "Fault kind", "tier": "Tier", "system": "System", "label": "Label"}
_PARTS: Final = {"feature": "features", "structure": "measures of the structure"}
_PARTS_TITLES: Final = {"feature": "Feature", "structure": "Structure"}


@dataclass(frozen=True)
class ModelReport:
    """How a model has done and whether it still knows what it sees.

    `of` says which incidents were looked at, `now` which of them count as now. Without a comparison with training data `why_not`
    says why; `trained_on` says what the training data were.
    """

    made_ns: int
    model: str
    trouble: str
    of: str
    now: str
    incidents: int
    accuracy: Accuracy
    drift: Drift | None
    why_not: str
    trained_on: str
    left_out: tuple[tuple[str, str], ...]

    def sentences(self) -> tuple[str, str]:
        """What there is to say in two plain sentences: about the features, and about the answers."""
        return _sentence(self._drift_words()), _sentence(self._accuracy_words())

    def _drift_words(self) -> str:
        if self.drift is None:
            return f"nothing can be said about drift: {self.why_not}"
        of = f" ({count(self.drift.graphs, 'incident')} of {count(self.drift.systems, 'system')})"
        return self.drift.sentence() + (of if not self.drift.found and not self.drift.few else "")

    def _accuracy_words(self) -> str:
        overall = self.accuracy.overall
        if overall is None:
            return "no answer can be judged: there is no labelled incident with a cause (`rca incidents label` gives one)"
        first = round(overall.top1.value * overall.incidents)
        return f"the cause was named first in {first} of {count(overall.incidents, 'labelled incident')}{_between(overall.top1)}"

    def to_json(self) -> dict[str, Any]:
        """Versioned JSON form (docs/drift.md)."""
        drift = None
        if self.drift is not None:
            drift = asdict(self.drift) | {"found": self.drift.found, "sentence": self.drift.sentence()}
            drift["shifts"] = [asdict(shift) | {"level": shift.level} for shift in self.drift.shifts]
        body = {
            "schema_version": SCHEMA_VERSION,
            "made_ns": self.made_ns,
            "sentences": list(self.sentences()),
            "model": self.model,
            "trouble": self.trouble,
            "incidents": {"of": self.of, "count": self.incidents, "now": self.now, "left_out": [list(x) for x in self.left_out]},
            "accuracy": asdict(self.accuracy),
            "trained_on": self.trained_on,
            "drift": drift,
            "why_no_drift": self.why_not,
        }
        found: dict[str, Any] = rounded(defined(body))
        return found

    def document(self) -> Document:
        """The report as a document."""
        facts = [
            ("model", self.model),
            ("incidents", f"{count(self.incidents, 'incident')} of {self.of}"),
            ("now", self.now),
            ("trained on", self.trained_on),
            ("made", f"{clock(self.made_ns, date=True)} UTC"),
        ]
        return Document(
            title=f"Model report: {self.model}",
            subtitle=" ".join(self.sentences()),
            sections=tuple(self.sections()),
            facts=tuple((name, words) for name, words in facts if words),
        )

    def sections(self) -> Iterator[Section]:
        """Accuracy, models, drift, and what was left out."""
        yield Section("Accuracy over time", tuple(self._accuracy_blocks()), "accuracy")
        if len(self.accuracy.models) > 1:
            yield Section("Models", tuple(self._model_blocks()), "models")
        yield Section("Drift", tuple(self._drift_blocks()), "drift")
        if self.trouble or self.left_out:
            yield Section("What was missing", tuple(self._missing_blocks()), "missing")

    def _accuracy_blocks(self) -> Iterator[Block]:
        accuracy, overall = self.accuracy, self.accuracy.overall
        if overall is not None:
            now = overall.incidents - overall.then
            told = [f"{overall.then} as answered at the time"] if overall.then else []
            answered = f"{now} as {self.model} answers now, knowing when each began, for nothing was kept of what was said then"
            told += [answered] if now else []
            yield Text(
                f"{_capital('; '.join(told))}. Intervals are 95 %, and count repetitions of one fault as one "
                f"({count(overall.groups, 'group')} here)."
            )
            if len(accuracy.periods) > 1:
                words = f"{accuracy_words(accuracy.periods)} Bars are 95 % intervals, numbers below the periods are incidents."
                yield Figure(accuracy_svg(accuracy.periods), words, "Named first, over time")
            yield _figures_table("Period", (*accuracy.periods, overall))
            for what in COHORTS:
                if len(accuracy.cohorts[what]) > 1:
                    yield _figures_table(_TITLES[what], accuracy.cohorts[what])
            if alike := [f"{what} {parts[0].name}" for what, parts in accuracy.cohorts.items() if len(parts) == 1]:
                yield Text(f"All of them: {', '.join(alike)}.")
        else:
            yield Text(_sentence(self._accuracy_words()))
        quiet, alarms = accuracy.nobody
        if quiet:
            nobody = f"Of {count(quiet, 'incident')} that nobody is to blame for"
            yield Text(f"{nobody}, a candidate was called likelier than none in {alarms}.")
        if accuracy.learnt:
            yield Text(
                f"Left out: {count(accuracy.learnt, 'labelled incident')} that {self.model} was trained on, with no answer kept."
            )

    def _model_blocks(self) -> Iterator[Block]:
        header = ("Model", "Incidents", "Named first", "In first three", "Difference")
        yield Table(header, tuple(_model_row(each) for each in self.accuracy.models), align=("left", *("right",) * 4))
        yield Text(
            f"Difference: of the shares named first, from {self.model}, on incidents that both answered, with its 95 % interval."
        )

    def _drift_blocks(self) -> Iterator[Block]:
        drift = self.drift
        if drift is None:
            yield Text(_sentence(self._drift_words()))
            return
        yield Text(
            f"{_capital(count(drift.graphs, 'graph'))} of {count(drift.systems, 'system')} now, {self.trained_on} in training."
        )
        if drift.strangers:
            yield Text(f"Not trained on: {excerpt(', '.join(drift.strangers), _LONGEST)}.")
        rows = tuple(
            (each.name, percent(each.missing), percent(each.missing_training), "differs" if each.differs else "")
            for each in drift.modalities
        )
        yield Table(
            ("Telemetry", "Graphs without, now", "In training", ""), rows, align=("left", "right", "right", "left")
        )  # fmt: skip
        if drift.unseen_kinds or drift.unseen_relations:
            yield Text(f"Not in any training graph: {', '.join((*drift.unseen_kinds, *drift.unseen_relations))}.")
        for part, what in _PARTS.items():
            yield from _shift_blocks(drift, part, what)

    def _missing_blocks(self) -> Iterator[Block]:
        if self.trouble:
            yield Text(_sentence(self.trouble))
        for incident_id, why in self.left_out[:_MOST_LEFT_OUT]:
            yield Text(f"{incident_id} was left out: {excerpt(why, _LONGEST)}")
        if (more := len(self.left_out) - _MOST_LEFT_OUT) > 0:
            yield Text(f"{more} more could not be read.")


def _figures_table(what: str, parts: Sequence[Figures]) -> Table:
    header = (what, "Incidents", "Named first", "In first three", "MRR")
    rows = tuple((part.name, str(part.incidents), *map(_written, (part.top1, part.top3, part.mrr))) for part in parts)
    return Table(header, rows, align=("left", *("right",) * 4))


def _model_row(each: Compared) -> tuple[str, ...]:
    figures, difference = each.figures, each.difference
    against = "" if difference is None else f"{difference.value:+.2f}{_ends(difference, '+.2f')} on {each.both}"
    name = f"{figures.name}, at the time" if each.then else f"{figures.name}, now"
    return (name, str(figures.incidents), _written(figures.top1), _written(figures.top3), against)


def _shift_blocks(drift: Drift, part: str, what: str) -> Iterator[Block]:
    shifts = [shift for shift in drift.shifts if section(shift.group) == part]
    drifted = drift.drifted(part)
    furthest = f", the furthest {number(drifted[0].excess)} times as far as that" if drifted else ""
    did = "stand apart" if drift.few else "drifted"
    yield Text(
        f"{len(drifted)} of {len(shifts)} {what} {did} (a PSI above {MUCH} or a quarter more or less missing, and beyond what "
        f"chance does with so few){furthest}. {_judged(drift, part)}"
    )
    changed = [shift for shift in shifts if shift.level != "none"]
    named = sorted(changed, key=lambda shift: (-shift.excess, shift.name))[:MOST_SHIFTS]
    if named:
        header = (_PARTS_TITLES[part], "PSI", "by chance", "KS", "Missing (training)", "Median (training)", "")
        yield Table(header, tuple(_shift_row(shift) for shift in named), align=("left", *("right",) * 5, "left"))


def _judged(drift: Drift, part: str) -> str:
    if drift.few:
        return "That is no verdict: of so few graphs, the next may well be of another kind of fault."
    verdict = "more" if drift.alarms(part) else "no more"
    unlucky = f"({number(drift.expected[part])}, and {number(max(drift.expected_excess[part], 1))} times)"
    return f"That is {verdict} than an unlucky draw of training data shows {unlucky}."


def _shift_row(shift: Shift) -> tuple[str, ...]:
    now, training = ("-" if median is None else number(median) for median in (shift.median, shift.median_training))
    return (
        shift.name,
        f"{shift.psi:.2f}",
        f"{shift.psi_by_chance:.2f}",
        "" if shift.ks is None else f"{shift.ks:.2f}",
        f"{percent(shift.missing)} ({percent(shift.missing_training)})",
        f"{now} ({training})",
        {"drift": "far", "some": "some"}[shift.level],
    )


def _written(estimate: Estimate) -> str:
    return f"{estimate.value:.2f}{_ends(estimate, '.2f')}"


def _ends(estimate: Estimate, form: str) -> str:
    """The interval, where there is one: a bootstrap of values that are all the same has none to tell."""
    if estimate.low is None or estimate.high is None or estimate.low == estimate.high:
        return ""
    return f" ({estimate.low:{form}} to {estimate.high:{form}})"


def _between(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f" ({percent(estimate.value)}, between {percent(estimate.low)} and {percent(estimate.high)})"


def _sentence(words: str) -> str:
    return f"{_capital(words).rstrip('.')}."


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def defined(value: Any) -> Any:
    """A JSON value with null in the place of numbers that are none."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: defined(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [defined(item) for item in value]
    return value
