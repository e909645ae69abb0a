"""What is left of accuracy when telemetry, times or labels are wrong? Each is spoilt on purpose, and the ranking scored again.

    python -m scripts.robustness [--simulated N] [--raw N] [--shop N] [--training N] [--processes N]

Tested are simulated systems of a seed that is used nowhere else, and the test part of the shop's recorded incidents. Telemetry is
damaged before anything is measured on it (rca.evaluation.damage), and the shipped model and simple rules rank what is left. A row
is about the incidents that the damage changes, and compares them with themselves undamaged. Whole traces can be sampled from
raw spans alone: N systems are simulated with them; of spans that were summed, as the shop's are, the counts are thinned. For
poisoned labels boosted trees and a logistic ranker are trained on simulated systems of a third seed, some with a wrong label.
What is finished is kept under $RCA_HOME/cache/robustness, and an interrupted run goes on from there.
docs/results/robustness.json; docs/robustness.md is made of it by `python -m scripts.docs`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np

from rca.cli.terminal import progress
from rca.contracts import Case, LabelledCase, Ranker, group_of
from rca.errors import BadInput
from rca.evaluation import metrics
from rca.evaluation.cases import Labels, Recorded, from_folder, rolled_up
from rca.evaluation.damage import DAMAGES, Recording
from rca.evaluation.metrics import Estimate
from rca.evaluation.predictions import Prediction, Truth
from rca.evaluation.runner import Exam, answers
from rca.evaluation.transforms import NONE, transform
from rca.graph import ServiceGraph
from rca.incidents.incident import Incident
from rca.incidents.store import default_home
from rca.models import registry
from rca.models.shipped import default_ranker, shipped_folder
from rca.pipeline import case_of
from rca.provenance import code_digest
from rca.report import NOBODY, is_empty
from rca.shop import manifest
from rca.simulator import simulate
from rca.simulator.generation import in_processes
from rca.telemetry import EntityId
from scripts.sets import INCIDENTS, ROBUSTNESS, model_digest, write_result

SEEDS: Final = {"held-out": 818_181, "training": 919_191}
SEED: Final = 0
SHIPPED: Final = "shipped model"
RULES: Final = ("floor", "prism-additive", "pagerank-z")
"""Simple baselines that need no label, beside the shipped model."""
SIMULATED, RAW, SHOP = "simulated", "raw", "shop"
"""Where incidents come from; `raw` are simulated with whole traces, for sampling alone."""
POISONED_SHOP, POISONED_SIMULATED = "shop, wrong labels", "simulated, wrong labels"
POISONED_SETS: Final = {POISONED_SHOP: SHOP, POISONED_SIMULATED: SIMULATED}
"""The same incidents once more, for rankers trained on wrong labels."""
SAMPLED: Final = "traces-5%"
RENAMED: Final = "renamed"
CONDITIONS: Final = (
    "no-traces",
    "no-metrics-nor-calls",
    "no-logs",
    "no-logs-nor-events",
    "no-events",
    "no-alerts",
    *(name for name in DAMAGES if name.startswith("only-")),
    SAMPLED,
    "silent-20%",
    "silent-20%-others",
    "gone-20%",
    "gone-20%-others",
    "edges-removed-20%",
    "edges-rewired-20%",
    "edges-added-20%",
    "onset-3m",
    "onset-1m",
    "onset+1m",
    "onset+3m",
    RENAMED,
)
CONDITIONS_OF: Final = {
    SHOP: (NONE, *CONDITIONS),
    SIMULATED: (NONE, *(name for name in CONDITIONS if name != SAMPLED)),
    RAW: (NONE, SAMPLED),
    POISONED_SHOP: (NONE,),
    POISONED_SIMULATED: (NONE,),
}
LEARNERS: Final = ("lambdamart", "logistic")
POISONED: Final = (0.0, 0.1, 0.2, 0.4)
"""Shares of the training labels that are wrong."""
DRAWS: Final = 3
"""Times that labels are drawn to be wrong, each with a ranker of its own."""


@dataclass(frozen=True)
class Answer:
    """What one ranker said: the cause's rank (None where it is no candidate, or nobody was ranked), and how sure it was.

    `names`: whether a report would name anybody; where "no fault" is likelier than all, it does not.
    """

    rank: int | None
    confidence: float
    names: bool
    probabilities: tuple[float, ...] = ()
    failure: str = ""


@dataclass(frozen=True)
class Row:
    """One incident under every condition that changes it. `answers` by condition, then by ranker."""

    source: str
    incident: str
    group: tuple[str, str, str]
    has_cause: bool
    answers: dict[str, dict[str, Answer]]
    chance: dict[str, float]
    poisoned: dict[str, int | None] = field(default_factory=dict)
    """Ranks by rankers that were trained on partly wrong labels, by `_trained_name`."""
    seconds: float = 0.0

    @classmethod
    def of_json(cls, body: Mapping[str, Any]) -> Row:
        def answer(said: Mapping[str, Any]) -> Answer:
            return Answer(**{**said, "probabilities": tuple(said["probabilities"])})

        found = {c: {ranker: answer(said) for ranker, said in by.items()} for c, by in body["answers"].items()}
        return cls(**{**body, "group": tuple(body["group"]), "answers": found})


# --- asking ---------------------------------------------------------------------------------------------------------------


def row_of(jobs: Sequence[tuple[str, int]], training: int, place: int) -> Row:
    """Everything asked about one incident."""
    started = time.process_time()
    source, index = jobs[place]
    incident, telemetry = _recording(source, index)
    causes = incident.causes()
    found: dict[str, dict[str, Answer]] = {}
    chances: dict[str, float] = {}
    poisoned: dict[str, int | None] = {}
    for condition in CONDITIONS_OF[source] if causes or source not in POISONED_SETS else ():
        try:
            damaged = transform(condition)(incident, telemetry)
        except BadInput:
            continue  # it has nothing that could go wrong in this way
        if condition != NONE and not changes((incident, telemetry), damaged):
            continue
        case = case_of(*damaged)
        truth = truth_of(damaged[0], case.graph)
        if source in POISONED_SETS:
            poisoned = {name: asked(ranker, case, truth).rank for name, ranker in trained(training).items()}
            break
        found[condition] = {name: asked(ranker, case, truth) for name, ranker in _rankers().items()}
        chances[condition] = chance(case, truth)
    group = group_of(incident.system, causes, incident.fault_kind())
    spent = round(time.process_time() - started, 2)
    return Row(source, incident.id, group, bool(causes), _rounded(found), chances, poisoned, spent)


def _rounded(found: Mapping[str, Mapping[str, Answer]]) -> dict[str, dict[str, Answer]]:
    """Probabilities are kept where they are compared: of the incident as it is, and renamed."""
    return {
        condition: {
            name: said if condition in (NONE, RENAMED) else replace(said, probabilities=()) for name, said in by_ranker.items()
        }
        for condition, by_ranker in found.items()
    }


def changes(before: Recording, after: Recording) -> bool:
    """Whether the damage took or moved anything that is measured."""
    return before[0] != after[0] or any(not frame.equals(after[1].frames()[name]) for name, frame in before[1].frames().items())


def truth_of(incident: Incident, graph: ServiceGraph) -> Truth:
    """Whom it is right to name: of a service that its callers alone know, the address that they call."""
    known = set(graph.candidates)
    causes = [_known_as(cause, known) for cause in rolled_up(incident.causes(), graph)]
    return Truth(incident.id, incident.system, tuple(causes), incident.fault_kind())


def _known_as(cause: EntityId, known: set[EntityId]) -> EntityId:
    address = replace(cause, kind="external")
    return address if cause.kind == "service" and cause not in known and address in known else cause


def asked(ranker: Ranker, case: Case, truth: Truth) -> Answer:
    """What a ranker says of a case. Where nothing was observed nobody is asked, as in a report."""
    if is_empty(case.window) or not case.graph.candidates:
        return Answer(None, 0.0, names=False)
    labelled = LabelledCase(case, truth.incident_id, truth.system, truth.causes, truth.fault_kind)
    (said,) = answers(ranker, Exam((truth,), (labelled,), (labelled,)))
    names = bool(said.candidates) and said.no_fault <= max(said.confidence, NOBODY)
    return Answer(said.cause_rank, said.confidence, names, tuple(sorted(said.probabilities, reverse=True)), said.failure)


def chance(case: Case, truth: Truth) -> float:
    """AC@1 of a shuffled list of the candidates."""
    candidates = case.graph.candidates
    return metrics.chance("ac1", [Prediction(truth, candidates, (0.0,) * len(candidates), ())])


def _recording(source: str, index: int) -> Recording:
    if source in (SHOP, POISONED_SHOP):
        return _shop()[index].read()
    return simulate(SEEDS["held-out"], index, emission="spans" if source == RAW else "bins")


@cache
def _shop() -> list[Recorded]:
    there = "test" in manifest.parts(INCIDENTS)
    return from_folder(INCIDENTS, labels=Labels.TOLD, part="test") if there else []


@cache
def _rankers() -> dict[str, Ranker]:
    return {SHIPPED: default_ranker()} | {name: registry.create(name) for name in RULES}


# --- poisoned labels ------------------------------------------------------------------------------------------------------


@cache
def trained(count: int) -> dict[str, Ranker]:
    """Rankers trained on `count` simulated systems of which a share has a wrong label, by `_trained_name`."""
    if not count:
        return {}
    cases = []
    for index in range(count):
        incident, telemetry = simulate(SEEDS["training"], index)
        case = case_of(incident, telemetry)
        causes = tuple(rolled_up(incident.causes(), case.graph))
        if set(causes) & set(case.graph.candidates):
            cases.append(LabelledCase(case, incident.id, incident.system, causes, incident.fault_kind()))
    found = {}
    for learner, share, draw in product(LEARNERS, POISONED, range(DRAWS)):
        seeded = {"seed": SEED} if registry.takes(learner, "seed") else {}
        ranker = registry.create(learner, **seeded).fit(poisoned(cases, share, draw))
        found[_trained_name(learner, share, draw)] = ranker
    return found


def _trained_name(learner: str, share: float, draw: int) -> str:
    return f"{learner} {share:.0%} {draw}"


def poisoned(cases: Sequence[LabelledCase], share: float, draw: int) -> list[LabelledCase]:
    """The cases with that share of the labels, rounded, naming another candidate of the same incident, each as likely."""
    rng = np.random.default_rng([SEED, draw])
    wrong = set(rng.permutation(len(cases))[: round(share * len(cases))].tolist())
    return [_mislabelled(case, rng) if place in wrong else case for place, case in enumerate(cases)]


def _mislabelled(case: LabelledCase, rng: np.random.Generator) -> LabelledCase:
    others = [entity for entity in case.case.graph.candidates if entity not in case.causes]
    return replace(case, causes=(others[int(rng.integers(len(others)))],)) if others else case


# --- what comes of it -----------------------------------------------------------------------------------------------------


def summary(rows: Sequence[Row], condition: str) -> dict[str, Any] | None:
    """What is kept of one condition: the incidents that it changes, as they were and as they are; None where there are none."""
    hit = [row for row in rows if condition in row.answers]
    told = [row for row in hit if row.has_cause]
    if not told:
        return None
    groups = [row.group for row in told]
    quiet = [row for row in hit if not row.has_cause]
    body: dict[str, Any] = {"incidents": len(told), "groups": len(set(groups)), "no_fault": len(quiet), "rankers": {}}
    body["chance"] = _mean([row.chance[condition] for row in told])
    for name in (SHIPPED, *RULES):
        before, after = ([row.answers[c][name] for row in told] for c in (NONE, condition))
        hits_before, hits = (metrics.of_ranks("ac1", [said.rank for said in given]) for given in (before, after))
        body["rankers"][name] = {
            "ac1": _kept(metrics.estimate_share(hits, groups, seed=SEED)),
            "before": _kept(metrics.estimate_share(hits_before, groups, seed=SEED)),
            "difference": _kept(metrics.estimate(hits - hits_before, groups, seed=SEED)),
            "ac3": _mean(metrics.of_ranks("ac3", [said.rank for said in after])),
            "no_candidate": sum(said.rank is None for said in after),
            "confidence": _mean([said.confidence for said in after]),
            "confidence_before": _mean([said.confidence for said in before]),
            "nobody": _mean([not said.names for said in after]),
            "nobody_before": _mean([not said.names for said in before]),
            "invents": _mean([row.answers[condition][name].names for row in quiet]),
            "invents_before": _mean([row.answers[NONE][name].names for row in quiet]),
            "failures": sorted({said.failure for said in after if said.failure}),
        }
        if condition == RENAMED:
            body["rankers"][name] |= _compared(hit, name)
    return body


def _compared(rows: Sequence[Row], name: str) -> dict[str, Any]:
    """Of incidents before and after they were renamed: how many causes changed their rank, and how far any probability moved."""
    pairs = [(row.answers[NONE][name], row.answers[RENAMED][name]) for row in rows]
    moved = [
        np.abs(np.subtract(a.probabilities, b.probabilities)) for a, b in pairs if len(a.probabilities) == len(b.probabilities)
    ]
    return {
        "asked": len(pairs),
        "other_rank": sum(a.rank != b.rank for a, b in pairs),
        "other_candidates": len(pairs) - len(moved),
        "most_moved": max((float(gap.max()) for gap in moved if gap.size), default=0.0),
    }


def of_poison(rows: Sequence[Row]) -> dict[str, Any]:
    """AC@1 on clean held-out incidents by learner and share of wrong labels, the mean of the draws."""
    told = [row for row in rows if row.poisoned]
    if not told:
        return {}
    groups = [row.group for row in told]

    def hits(learner: str, share: float) -> metrics.Values:
        each = [[row.poisoned[_trained_name(learner, share, draw)] for row in told] for draw in range(DRAWS)]
        mean: metrics.Values = np.mean([metrics.of_ranks("ac1", ranks) for ranks in each], axis=0)
        return mean

    found: dict[str, Any] = {"incidents": len(told), "learners": {}}
    for learner in LEARNERS:
        clean = hits(learner, 0.0)
        found["learners"][learner] = {
            f"{share:.0%}": {
                "ac1": _kept(metrics.estimate_share(hits(learner, share), groups, seed=SEED)),
                "difference": _kept(metrics.estimate(hits(learner, share) - clean, groups, seed=SEED)),
            }
            for share in POISONED
        }
    return found


def results(rows: Sequence[Row], options: Mapping[str, int]) -> dict[str, Any]:
    """What docs/results/robustness.json holds."""
    sets = {}
    for source in (SIMULATED, SHOP):
        own = [row for row in rows if row.source == source]
        again = [row for row in rows if POISONED_SETS.get(row.source) == source]
        if not own:
            continue
        raw = [row for row in rows if row.source == RAW]
        sampled = raw if source == SIMULATED else own
        conditions = {c: summary(sampled if c == SAMPLED else own, c) for c in (NONE, *CONDITIONS)}
        sets[source] = {"conditions": {c: found for c, found in conditions.items() if found}, "poisoned": of_poison(again)}
    return {
        "schema_version": "1",
        "ranker": default_ranker().name,
        "rules": RULES,
        "code": code_digest("evaluation", "models", "simulator"),
        "seeds": SEEDS,
        "draws": DRAWS,
        **options,
        "asked": {source: sum(row.source == source for row in rows) for source in CONDITIONS_OF},
        "shop_test": len(_shop()),
        "cpu_minutes": round(sum(row.seconds for row in rows) / 60, 1),
        "sets": sets,
    }


def _kept(estimate: Estimate) -> dict[str, float | None]:
    return {end: None if value is None else round(value, 4) for end, value in asdict(estimate).items()}


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return round(float(np.mean(values)), 4) if values else None


# --- running --------------------------------------------------------------------------------------------------------------


def kept_in(training: int) -> Path:
    """Where rows are kept that still hold: of this code, this model, these recordings and this much training data."""
    folder = shipped_folder()
    parts = [
        code_digest("evaluation", "models", "simulator"),
        hashlib.blake2b(Path(__file__).read_bytes()).hexdigest(),
        model_digest(folder) if folder else "",
        *(one.digest for one in _shop()),
        str(training),
    ]
    name = hashlib.blake2b(" ".join(parts).encode(), digest_size=12).hexdigest()
    return default_home() / "cache" / "robustness" / f"{name}.jsonl"


def read_rows(path: Path) -> dict[tuple[str, int], Row]:
    """Rows by source and index; a line that was cut off by an interruption is left out."""
    found: dict[tuple[str, int], Row] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            body = json.loads(line)
        except ValueError:
            continue
        index = body.pop("index")
        found[body["source"], index] = Row.of_json(body)
    return found


def run(jobs: Sequence[tuple[str, int]], training: int, processes: int, path: Path) -> list[Row]:
    """Rows of all jobs, those that are kept and those that are missing, which are kept as they come."""
    kept = read_rows(path)
    missing = [job for job in jobs if job not in kept]
    path.parent.mkdir(parents=True, exist_ok=True)
    work: Callable[[int], Row] = partial(row_of, missing, training)
    cut_off = path.exists() and not path.read_text(encoding="utf-8").endswith("\n")
    with path.open("a", encoding="utf-8") as file, progress("robustness", len(missing)) as step:
        file.write("\n" if cut_off else "")
        for place, row in in_processes(work, range(len(missing)), processes):
            source, index = missing[place]
            file.write(json.dumps({"index": index, **asdict(row)}) + "\n")
            file.flush()
            kept[source, index] = row
            step(row.incident)
    return [kept[job] for job in jobs]


def jobs_of(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Every source in proportion, so that an interruption leaves some of each; those that need trained rankers at the end."""
    places = [(place / count, source, place) for source, count in counts.items() for place in range(count)]
    again = [(source, place) for source, of in POISONED_SETS.items() for place in range(counts.get(of, 0))]
    return [(source, place) for _, source, place in sorted(places)] + again


def main() -> None:
    """Damage, ask, write down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulated", type=int, default=100, help="simulated incidents")
    parser.add_argument("--raw", type=int, default=25, help="simulated incidents that have their traces sampled")
    parser.add_argument("--shop", type=int, default=len(_shop()), help="of the shop's test incidents, the first so many")
    parser.add_argument("--training", type=int, default=60, help="simulated incidents to train on with wrong labels")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    rows = run(
        jobs_of({SHOP: min(options.shop, len(_shop())), RAW: options.raw, SIMULATED: options.simulated}),
        options.training,
        options.processes,
        kept_in(options.training),
    )
    body = results(rows, {"training": options.training})
    write_result(ROBUSTNESS, body)
    for source, found in body["sets"].items():
        for condition, one in found["conditions"].items():
            shipped = one["rankers"][SHIPPED]
            print(source, condition, one["incidents"], shipped["before"]["value"], "->", shipped["ac1"]["value"])


if __name__ == "__main__":
    main()
