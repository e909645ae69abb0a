"""May this model rank? What it was measured on, beside the model that ranks now and simple rules, and what that says.

An evaluation is made once and kept (rca.models.versions); `judged` reads it alone, so that everybody who reads it comes to the
same verdict. docs/models.md has the rules in words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from rca.contracts import Ranker
from rca.errors import BadCheckpoint, BadInput
from rca.evaluation import metrics
from rca.evaluation.cases import Recorded
from rca.evaluation.history import Labelled, Model, see
from rca.evaluation.metrics import Estimate, Values
from rca.evaluation.predictions import Prediction
from rca.models import registry
from rca.models.learnt import Learnt
from rca.wording import count, listed, percent

FORMAT: Final = "1"
BASELINES: Final = ("floor", "max-z", "simple-rca", "pagerank-z", "prism-additive")
"""The simple rules; the best of them on the very incidents is what a model is held against."""
COHORTS: Final = ("fault kind", "tier", "system")

FEWEST_INCIDENTS: Final = 20
FEWEST_GROUPS: Final = 10
"""Incidents with a cause, and groups of such as do not repeat each other, that an evaluation needs to say anything."""
CHANCE: Final = 0.025
"""How likely chance alone may make a difference as large as the one found."""
COHORT_INCIDENTS: Final = 5
COHORT_GROUPS: Final = 3
"""From how many on a cohort is looked at by itself."""

_FLIPS: Final = 16
_NAMED: Final = 5
_SHOWN: Final = 0.0005  # less than that would read as nothing
_ROUNDS: Final = 20_000
_FOREVER_NS: Final = 2**63 - 1


@dataclass(frozen=True)
class Examined:
    """An incident that was asked about. `learnt` says that the model which ranks now was trained on it."""

    id: str
    recording: str
    system: str
    fault_kind: str
    tier: str
    group: str
    cause: bool
    learnt: bool = False

    def cohort(self, what: str) -> str:
        """Where it belongs among those that COHORTS tell apart."""
        return {"fault kind": self.fault_kind, "tier": self.tier, "system": self.system}[what]


@dataclass(frozen=True)
class Answers:
    """What one ranker said of every incident: the cause's rank, None where it was not named, and whether it blamed anybody.

    `failures` has the ids of incidents that it could not rank, with the reason; these count as missed.
    """

    ranker: str
    ranks: tuple[int | None, ...]
    blames: tuple[bool, ...]
    failures: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """A version, the model that ranked then (None: the one that ships), and rules, on the same incidents."""

    version: str
    beside: str | None
    of: str
    made_ns: int
    who: str
    code: str
    incidents: tuple[Examined, ...]
    model: Answers
    current: Answers
    rules: tuple[Answers, ...]
    left_out: tuple[tuple[str, str], ...] = ()
    format: str = FORMAT

    def to_json(self) -> dict[str, Any]:
        """JSON values, the same for the same evaluation."""
        return asdict(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Evaluation:
        """Read back. Raises BadCheckpoint for what is none of this format."""
        where = f"evaluation {body.get('digest', '')}".strip()
        if body.get("format") != FORMAT:
            raise BadCheckpoint(where, expected=f"an evaluation of format {FORMAT!r}", found=repr(body.get("format")))
        try:
            fields = {key: value for key, value in body.items() if key != "digest"}
            made = cls(**fields)
            return replace(
                made,
                incidents=tuple(Examined(**each) for each in body["incidents"]),
                model=_answers(body["model"]),
                current=_answers(body["current"]),
                rules=tuple(map(_answers, body["rules"])),
                left_out=tuple((name, why) for name, why in body["left_out"]),
            )._checked(where)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadCheckpoint(where, expected="the fields of docs/models.md", found=str(error)) from error

    def _checked(self, where: str) -> Evaluation:
        lengths = {len(each.ranks) for each in self._all()} | {len(each.blames) for each in self._all()}
        if lengths != {len(self.incidents)}:
            raise BadCheckpoint(
                where, expected=f"an answer to each of {len(self.incidents)} incidents", found=str(sorted(lengths))
            )
        return self

    def _all(self) -> tuple[Answers, ...]:
        return (self.model, self.current, *self.rules)

    def rows(self, keep: Callable[[Examined], bool] = lambda _: True, *, cause: bool = True) -> list[int]:
        """Places of the incidents with a cause, or with nobody to blame, that are wanted."""
        return [row for row, one in enumerate(self.incidents) if one.cause == cause and keep(one)]

    def groups(self, rows: Sequence[int]) -> list[str]:
        """Group of every incident."""
        return [self.incidents[row].group for row in rows]

    def values(self, answers: Answers, rows: Sequence[int], metric: str = "mrr") -> Values:
        """What the answers are worth, (R,)."""
        return metrics.of_ranks(metric, [answers.ranks[row] for row in rows])

    def accuracy(self, answers: Answers, rows: Sequence[int]) -> Estimate:
        """How often the cause was named first, with its interval."""
        return metrics.estimate_share(self.values(answers, rows, "ac1"), self.groups(rows))

    def reciprocal_rank(self, answers: Answers, rows: Sequence[int]) -> Estimate:
        """Mean reciprocal rank of the cause, which the gate goes by, with its interval."""
        return metrics.estimate(self.values(answers, rows), self.groups(rows))

    def best_rule(self) -> Answers:
        """The rule with the largest mean reciprocal rank; the first of equals."""
        rows = self.rows()
        return max(self.rules, key=lambda rule: float(self.values(rule, rows).mean()) if rows else 0.0)

    def cohorts(self) -> dict[str, dict[str, list[int]]]:
        """Places of the incidents with a cause by cohort, names in order."""
        names = {what: sorted({self.incidents[row].cohort(what) for row in self.rows()}) for what in COHORTS}
        return {
            what: {name: self.rows(lambda one, what=what, name=name: one.cohort(what) == name) for name in found}  # type: ignore[misc]
            for what, found in names.items()
        }


def _answers(body: Mapping[str, Any]) -> Answers:
    failures = tuple((name, why) for name, why in body.get("failures", ()))
    return Answers(body["ranker"], tuple(body["ranks"]), tuple(body["blames"]), failures)


@dataclass(frozen=True)
class Asked:
    """A ranker that is evaluated, and what it learnt from; None where nothing tells."""

    ranker: Ranker
    learnt: Learnt | None


def evaluated(
    recorded: Sequence[Recorded],
    version: str,
    model: Asked,
    beside: str | None,
    current: Asked,
    *,
    of: str,
    made_ns: int,
    who: str,
    code: str,
    home: Path | None = None,
    step: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Ask a version, the model that ranks now and the rules about labelled incidents. `home` has the cache of cases.

    Raises BadInput where the version learnt from some of them, or where nothing tells what it learnt from.
    """
    check_held_out(version, model.learnt, [(one.incident.id, one.digest) for one in recorded])
    rankers = [model.ranker, current.ranker, *map(registry.create, BASELINES)]
    seen = see(recorded, [Model(ranker) for ranker in rankers], {}, since_ns=_FOREVER_NS, home=home, step=step)
    digests = {one.incident.id: one.digest for one in recorded}
    knows = current.learnt.knows if current.learnt else lambda *_: False
    found = [one for one in seen.labelled if len(one.answers) == len(rankers)]
    return Evaluation(
        version=version,
        beside=beside,
        of=of,
        made_ns=made_ns,
        who=who,
        code=code,
        incidents=tuple(_examined(one, digests[one.truth.incident_id], knows) for one in found),
        model=_said(found, 0),
        current=_said(found, 1),
        rules=tuple(_said(found, place) for place in range(2, len(rankers))),
        left_out=seen.left_out,
    )


def check_held_out(version: str, learnt: Learnt | None, incidents: Sequence[tuple[str, str]]) -> None:
    """Raise BadInput where a version learnt from some of these (id, digest of the recording), or where nothing tells."""
    if learnt is None:
        expected = "a model that lists what it learnt from (learnt.json, as `rca train` writes it)"
        raise BadInput(f"version {version}", expected=expected, found="none")
    overlap = [name for name, recording in incidents if learnt.knows(name, recording)]
    if overlap:
        found = f"{len(overlap)} of {count(len(incidents), 'incident')} that it learnt from: {overlap[0]}"
        more = " and others" if len(overlap) > 1 else ""
        raise BadInput(
            f"evaluation of {version}",
            expected="incidents that it never saw (--unseen leaves out the others)",
            found=found + more,
        )


def _examined(one: Labelled, recording: str, knows: Callable[[str, str], bool]) -> Examined:
    truth = one.truth
    return Examined(
        id=truth.incident_id,
        recording=recording,
        system=truth.system,
        fault_kind=truth.fault_kind,
        tier=one.tier,
        group=" / ".join(truth.group),
        cause=bool(truth.causes),
        learnt=knows(truth.incident_id, recording),
    )


def _said(labelled: Sequence[Labelled], place: int) -> Answers:
    given = [one.answers[place] for one in labelled]
    predictions = [answer.prediction for answer in given]
    name = given[0].model if given else ""
    failures = tuple((one.truth.incident_id, p.failure) for one, p in zip(labelled, predictions, strict=True) if p.failure)
    return Answers(name, tuple(p.cause_rank for p in predictions), tuple(map(_blames, predictions)), failures)


def _blames(prediction: Prediction) -> bool:
    """Whether somebody is likelier than nobody."""
    return bool(prediction.probabilities) and prediction.confidence > prediction.no_fault


# --- the verdict ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reason:
    """One requirement, whether it is met, and the numbers."""

    what: str
    met: bool
    words: str


@dataclass(frozen=True)
class Verdict:
    """Whether a version may be promoted."""

    reasons: tuple[Reason, ...]

    @property
    def passed(self) -> bool:
        return all(reason.met for reason in self.reasons)


@dataclass(frozen=True)
class Difference:
    """Mean difference with its 95 % interval, and how likely chance makes one at least as large in that direction."""

    estimate: Estimate
    chance: float

    @property
    def better(self) -> bool:
        """Beyond noise: the interval lies above 0, and chance would hardly do it."""
        return self.estimate.low is not None and self.estimate.low > 0 and self.chance <= CHANCE

    @property
    def worse(self) -> bool:
        """The interval lies below 0. One that cannot be told is not."""
        return self.estimate.high is not None and self.estimate.high < 0

    def words(self) -> str:
        """In numbers."""
        low, high = self.estimate.low, self.estimate.high
        between = f" (95 %: {low:+.3f} to {high:+.3f})" if low is not None and high is not None else " (no interval: one group)"
        return (
            f"{self.estimate.value:+.3f}{between}, by chance {f'{self.chance:.3f}' if self.chance >= _SHOWN else 'under 0.001'}"
        )


def difference(ours: Values, theirs: Values, groups: Sequence[str]) -> Difference:
    """Of answers to the same incidents, (R,); repetitions of one injection are no new evidence."""
    values = ours - theirs
    return Difference(metrics.estimate(values, groups), sign_flip_chance(values, groups))


def sign_flip_chance(values: Values, groups: Sequence[str], seed: int = 0) -> float:
    """Chance of a sum at least as large if every group's difference might as well have the other sign; 1 where all are 0.

    Exact for up to 16 groups that differ, else of 20,000 draws.
    """
    sums: dict[str, float] = {}
    for value, group in zip(values.tolist(), groups, strict=True):
        sums[group] = sums.get(group, 0.0) + value
    found = np.array([value for value in sums.values() if abs(value) > 1e-12])
    if not len(found):
        return 1.0
    if len(found) <= _FLIPS:
        flips = (np.arange(2 ** len(found))[:, None] >> np.arange(len(found))) & 1
        return float(np.mean((1 - 2 * flips) @ found >= found.sum() - 1e-9))
    flips = np.random.default_rng(seed).integers(2, size=(_ROUNDS, len(found)))
    return float((np.sum((1 - 2 * flips) @ found >= found.sum() - 1e-9) + 1) / (_ROUNDS + 1))


def judged(evaluation: Evaluation) -> Verdict:
    """Whether the version of an evaluation may take the place of the model beside it."""
    rows = evaluation.rows()
    groups = len(set(evaluation.groups(rows)))
    enough = len(rows) >= FEWEST_INCIDENTS and groups >= FEWEST_GROUPS
    words = (
        f"{count(len(rows), 'incident')} with a cause in {count(groups, 'group')}; at least {FEWEST_INCIDENTS} in {FEWEST_GROUPS}"
    )
    reasons = [Reason("enough incidents", enough, words)]
    failures = evaluation.model.failures
    if failures:
        reasons.append(Reason("an answer to every incident", False, failed(evaluation.model, len(evaluation.incidents))))
    if rows:
        rule = evaluation.best_rule()
        reasons.append(_beats(evaluation, rows, evaluation.current, "the model that ranks now"))
        reasons.append(_beats(evaluation, rows, rule, "the best simple rule"))
        reasons.append(_cohorts(evaluation))
    quiet = evaluation.rows(cause=False)
    if len(quiet) >= COHORT_INCIDENTS:
        reasons.append(_quiet(evaluation, quiet))
    return Verdict(tuple(reasons))


def failed(answers: Answers, asked: int) -> str:
    """How often a ranker failed, and why it did the first time. Such an incident counts as missed."""
    name, why = answers.failures[0]
    return (
        f"{answers.ranker} failed on {len(answers.failures)} of {count(asked, 'incident')}, which count as missed ({name}: {why})"
    )


def _beats(evaluation: Evaluation, rows: Sequence[int], other: Answers, what: str) -> Reason:
    ours, theirs = (evaluation.values(each, rows) for each in (evaluation.model, other))
    found = difference(ours, theirs, evaluation.groups(rows))
    first = [float(evaluation.values(each, rows, "ac1").mean()) for each in (evaluation.model, other)]
    words = (
        f"mean reciprocal rank {ours.mean():.3f} against {theirs.mean():.3f} of {other.ranker}, difference {found.words()}; "
        f"first in {percent(first[0])} against {percent(first[1])}"
    )
    return Reason(f"better than {what}", found.better, words)


def large_enough(evaluation: Evaluation, rows: Sequence[int]) -> bool:
    """Whether a cohort is looked at by itself."""
    return len(rows) >= COHORT_INCIDENTS and len(set(evaluation.groups(rows))) >= COHORT_GROUPS


def _cohorts(evaluation: Evaluation) -> Reason:
    lost, lower, seen = [], [], 0
    for what, parts in evaluation.cohorts().items():
        for name, rows in parts.items():
            ours, theirs = (evaluation.values(each, rows) for each in (evaluation.model, evaluation.current))
            large = large_enough(evaluation, rows)
            seen += large
            if large and (found := difference(ours, theirs, evaluation.groups(rows))).worse:
                lost.append(f"{what} {name} ({count(len(rows), 'incident')}): {found.words()}")
            elif len(rows) >= COHORT_INCIDENTS and ours.mean() < theirs.mean():
                lower.append(f"{what} {name} ({len(rows)})")
    words = "; ".join(lost) or f"none of the {count(seen, 'cohort')} that are large enough to tell"
    noise = f"; lower, which may be noise, in {listed(lower, _NAMED)}" if lower else ""
    return Reason("no cohort is lost", not lost, words + noise)


def _quiet(evaluation: Evaluation, rows: Sequence[int]) -> Reason:
    ours, theirs = (np.array([float(each.blames[row]) for row in rows]) for each in (evaluation.model, evaluation.current))
    found = difference(theirs, ours, [evaluation.incidents[row].id for row in rows])
    words = (
        f"somebody blamed in {int(ours.sum())} of {count(len(rows), 'incident')} that nobody is to blame for, "
        f"in {int(theirs.sum())} by {evaluation.current.ranker}"
    )
    return Reason("no more false alarms", not found.worse, words)
