"""Train and test rankers on the folds of a split, and keep every answer."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from rca.contracts import LabelledCase, Ranker
from rca.errors import BadInput
from rca.evaluation.predictions import Prediction, Predictions, Truth, read_header
from rca.evaluation.splits import Fold, hold_out, split
from rca.evaluation.transforms import NONE
from rca.faults import is_no_fault
from rca.models import registry

SUFFIX: Final = ".jsonl"


@dataclass(frozen=True)
class RankerSpec:
    """A ranker and its parameters. Written `name` or `name:parameter=value,parameter=value`."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> RankerSpec:
        """Raises BadInput for text of another form. Values are read as numbers or booleans where they look so."""
        name, _, rest = text.partition(":")
        parameters = {}
        for part in filter(None, rest.split(",")):
            key, equals, value = part.partition("=")
            if not (key and equals):
                raise BadInput("ranker", expected="name:parameter=value,parameter=value", found=repr(text))
            parameters[key] = _value(value)
        return cls(name, parameters)

    @property
    def label(self) -> str:
        """How tables and files call it."""
        return ":".join(filter(None, [self.name, ",".join(f"{k}={v}" for k, v in sorted(self.parameters.items()))]))

    def create(self, seed: int) -> Ranker:
        """An untrained ranker. The seed is passed to rankers that take one, unless the parameters name it."""
        seeded = {"seed": seed} if registry.takes(self.name, "seed") else {}
        return registry.create(self.name, **(seeded | dict(self.parameters)))


@dataclass(frozen=True, eq=False)
class Exam:
    """Incidents in parallel lists: the truth, the case to train on, the case to be tested on, and a digest of the recording.

    The two cases differ when a transform spoils the tested one: models are trained on clean data. Splits look at the truth.
    """

    truths: tuple[Truth, ...]
    training: tuple[LabelledCase, ...]
    tested: tuple[LabelledCase, ...]
    transform: str = NONE
    digests: tuple[str, ...] = ()

    def asked(self, place: int) -> Truth:
        """The truth about the tested case: nothing is wrong in a quiet window."""
        return replace(self.truths[place], causes=self.tested[place].causes, fault_kind=self.tested[place].fault_kind)

    def fingerprint(self) -> str:
        """Digest of what kept predictions hang on: the recordings, their labels, the transform and the names of the features."""
        names = self.tested[0].case.graph.feature_names if self.tested else ()
        truths = (f"{t.incident_id} {t.fault_kind} {t.start_ns} {' '.join(map(str, t.causes))}" for t in self.truths)
        parts = [self.transform, *names, *sorted(truths), *sorted(self.digests)]
        return hashlib.blake2b("\n".join(parts).encode(), digest_size=8).hexdigest()


def evaluate(
    exam: Exam,
    specs: Sequence[RankerSpec],
    split_name: str,
    *,
    seed: int = 0,
    systems: Sequence[str] = (),
    out: Path | None = None,
    force: bool = False,
    step: Callable[[str], None] = lambda _: None,
) -> list[Predictions]:
    """Predictions of every ranker, one Predictions for each system that is tested.

    `systems` restricts what is tested, not what is trained on. With `out`, a ranker that has finished before on the same data
    is read from there unless `force`; otherwise its predictions are written when all its folds are done, so an interruption
    loses the ranker in progress only. `step` is told what was done after every fold.
    Raises UnknownName for a ranker, parameter or split, BadInput if the incidents do not allow the split.
    """
    folds = folds_of(exam, split_name, seed, systems)
    for spec in specs:
        spec.create(seed)  # refuse a misspelt ranker before hours of work
    plan = _Plan(exam, split_name, tuple(folds), tuple(systems), seed)
    found = []
    for spec in specs:
        finished = None if force or out is None else _finished(plan, spec, out)
        if finished is None:
            finished = _run(plan, spec, step)
            if out is not None:
                for predictions in finished:
                    predictions.write(path_of(out, predictions.dataset, split_name, exam.transform, spec.label))
        else:
            step(f"{spec.label}: finished earlier")
        found += finished
    return found


@dataclass(frozen=True, eq=False)
class _Plan:
    """What every ranker of a run is put through."""

    exam: Exam
    split: str
    folds: tuple[Fold, ...]
    systems: tuple[str, ...]
    seed: int


def folds_of(exam: Exam, split_name: str, seed: int = 0, systems: Sequence[str] = ()) -> list[Fold]:
    """Folds of a split that test an incident of one of the systems, or of any if none is given."""
    return [fold for fold in split(split_name, exam.truths, seed) if _tested(fold, exam, systems)]


def to_learn_from(exam: Exam, seed: int) -> tuple[list[LabelledCase], list[LabelledCase]]:
    """The cases of an exam to train on, those without a label included, and labelled ones that are held out."""
    told = [place for place, truth in enumerate(exam.truths) if truth.causes or is_no_fault(truth.fault_kind)]
    held_out = set(hold_out(exam.truths, told, seed)[1])
    kept = [case for place, case in enumerate(exam.training) if place not in held_out]
    return kept, [exam.training[place] for place in sorted(held_out)]


def path_of(out: Path, system: str, split_name: str, transform: str, label: str) -> Path:
    """Where predictions are kept: <out>/<system>/<split>[ transform]/<ranker>.jsonl."""
    part = split_name if transform == NONE else f"{split_name}_{transform}"
    return out / _safe(system) / _safe(part) / f"{_safe(label)}{SUFFIX}"


def _run(plan: _Plan, spec: RankerSpec, step: Callable[[str], None]) -> list[Predictions]:
    exam = plan.exam
    answers: dict[int, Prediction] = {}
    for fold in plan.folds:
        places = _tested(fold, exam, plan.systems)
        answers |= dict(zip(places, _examine(exam, fold, places, spec, plan.seed), strict=True))
        step(f"{spec.label}: {fold.name}")
    ranker = spec.create(plan.seed)
    by_system: dict[str, list[Prediction]] = {}
    for place in sorted(answers):
        by_system.setdefault(exam.truths[place].system, []).append(answers[place])
    return [
        Predictions(
            dataset=system,
            split=plan.split,
            ranker=spec.label,
            predictions=tuple(predictions),
            transform=exam.transform,
            seed=plan.seed,
            learned=ranker.learned,
            uses_names=ranker.uses_names,
            parameters=spec.parameters,
            fingerprint=exam.fingerprint(),
        )
        for system, predictions in by_system.items()
    ]


def _examine(exam: Exam, fold: Fold, places: Sequence[int], spec: RankerSpec, seed: int) -> list[Prediction]:
    """Train on a fold and rank its test incidents. Whatever a ranker raises is its failure, never a ranking."""
    ranker = spec.create(seed)
    try:
        validation = [exam.training[place] for place in fold.validation]
        ranker.fit([exam.training[place] for place in fold.train], validation or None)
    except Exception as error:
        return [Prediction.failed(exam.asked(place), _said(error)) for place in places]
    return [_answer(ranker, exam.tested[place], exam.asked(place)) for place in places]


def answers(ranker: Ranker, exam: Exam) -> list[Prediction]:
    """What a ranker that is ready says about every tested case. Whatever it raises is its failure, never a ranking."""
    return [_answer(ranker, case, exam.asked(place)) for place, case in enumerate(exam.tested)]


def _answer(ranker: Ranker, labelled: LabelledCase, truth: Truth) -> Prediction:
    started = time.perf_counter()
    try:
        ranking = ranker.rank(labelled.case)
    except Exception as error:
        return Prediction.failed(truth, _said(error), time.perf_counter() - started)
    seconds = time.perf_counter() - started
    named = [candidate.entity for candidate in ranking.candidates]
    if sorted(named) != sorted(labelled.case.graph.candidates):
        return Prediction.failed(truth, f"named {len(named)} candidates, not each of the graph's once", seconds)
    return Prediction.of(truth, ranking, seconds)


def _finished(plan: _Plan, spec: RankerSpec, out: Path) -> list[Predictions] | None:
    exam = plan.exam
    systems = {exam.truths[place].system for fold in plan.folds for place in _tested(fold, exam, plan.systems)}
    wanted = {"fingerprint": exam.fingerprint(), "seed": plan.seed, "parameters": dict(spec.parameters)}
    paths = [path_of(out, system, plan.split, exam.transform, spec.label) for system in sorted(systems)]
    headers = [read_header(path) or {} for path in paths]
    if any({key: header.get(key) for key in wanted} != wanted for header in headers):
        return None
    return [Predictions.read(path) for path in paths]


def _tested(fold: Fold, exam: Exam, systems: Sequence[str]) -> list[int]:
    return [place for place in fold.test if not systems or exam.truths[place].system in systems]


def _said(error: Exception) -> str:
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300]


def _safe(text: str) -> str:
    """A file name: anything but letters, digits and a few signs becomes a dash."""
    return re.sub(r"[^A-Za-z0-9._+=,%-]+", "-", text)


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text
