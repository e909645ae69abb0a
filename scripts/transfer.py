"""How well models rank on systems whose labels they never saw, beside every rule.

    python -m scripts.transfer [--only RANKER ...] [--model FOLDER ...]

Tested are the public data sets of the store and the test part of the shop's recorded incidents; docs/transfer.md is made of
docs/results/transfer.json by `python -m scripts.docs`. Every model folder below models/ is tested as it stands. `invented` learns
from each system's own quiet stretches, labels unused; `fresh` is the network without pre-training on the shop's training part;
`others` the same on the labels of the other public sets. What has finished on the same incidents with the same model and code is
skipped; rows of models that are gone, or were changed since, are dropped.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from rca.contracts import Ranker
from rca.evaluation import metrics
from rca.evaluation.predictions import Prediction
from rca.evaluation.runner import Exam, answers
from rca.models import registry
from rca.models.augmentation import enough_invented
from rca.models.files import MODEL_FILE
from rca.models.gnn import NetworkRanker
from rca.provenance import code_digest
from scripts.accuracy import RULES
from scripts.sets import (
    MODELS,
    PUBLIC,
    SHOP,
    TRANSFER,
    model_digest,
    public_sets,
    read_result,
    shop_set,
    unlabelled,
    write_result,
)

METRICS: Final = ("ac1", "ac3", "mrr")
BLIND: Final = tuple(name for name in RULES if name != "most-frequent")  # which knows labels and nothing else
SEED: Final = 0


@dataclass(frozen=True)
class Entrant:
    """A ranker that is tested. `identity` changes when it has to be tested anew; `make` gives it, ready, for a system.

    `model` is the digest of a model folder, whose row must not outlive it.
    """

    label: str
    sort: str
    identity: str
    make: Callable[[str, Exam], Ranker | None]
    model: str = ""


def rules() -> list[Entrant]:
    """Every rule that needs no label."""
    return [Entrant(name, "rule", code_digest("models"), lambda _, __, n=name: registry.create(n)) for name in BLIND]


def models(folders: Sequence[Path]) -> list[Entrant]:
    """Model folders as they stand."""
    found, code = {folder: model_digest(folder) for folder in folders}, code_digest("models")
    return [
        Entrant(folder.name, "model", f"{code} {digest}", lambda _, __, f=folder: NetworkRanker.load(f), digest)
        for folder, digest in found.items()
    ]


def trained() -> list[Entrant]:
    """Networks without pre-training."""
    code = code_digest("models")
    return [
        Entrant("invented", "no label", code, _invented),
        Entrant("fresh", "shop's labels", f"{code} {_shop_digest()}", lambda _, __: _fresh()),
        Entrant("others", "labels of the other sets", code, lambda system, _: _others(system)),
    ]


def _invented(_: str, exam: Exam) -> Ranker | None:
    cases = unlabelled(exam.training)
    invented = enough_invented(cases)  # none where alerts alone are known: there is no quiet time to push a fault into
    return NetworkRanker(seed=SEED, invented=invented).fit(cases) if invented else None


def _shop_digest() -> str:
    exam = shop_set("train")
    return exam.fingerprint() if exam else ""


@cache
def _fresh() -> Ranker | None:
    exam = shop_set("train")
    return NetworkRanker(seed=SEED).fit(list(exam.training)) if exam else None


@cache
def _others(system: str) -> Ranker | None:
    others = [case for name, exam in public_sets().items() if name not in (system, "sockshop") for case in exam.training]
    return NetworkRanker(seed=SEED).fit(others) if others and system != SHOP else None


def examine(entrant: Entrant, name: str, exam: Exam) -> dict[str, Any] | None:
    """Everything that is kept of one ranker on one set; None where there is nothing to train it on."""
    ranker = entrant.make(name, exam)
    if ranker is None:
        return None
    given = answers(ranker, exam)
    asked = [p for p in given if p.truth.causes]
    run = {
        "ranker": entrant.label,
        "sort": entrant.sort,
        "identity": entrant.identity,
        "fingerprint": exam.fingerprint(),
        "failures": sorted({p.failure for p in given if p.failure}),
        "ranks": {p.truth.incident_id: p.cause_rank for p in asked},
        "seconds": round(metrics.seconds_per_incident(given), 4),
    }
    if entrant.model:
        run["model"] = entrant.model
    if isinstance(ranker, NetworkRanker):
        run["strength"] = ranker.earned
    if len(asked) < len(given):
        run["false_alarms"] = metrics.false_alarm_rate([p for p in given if not p.truth.causes])
    return run


def current(runs: Sequence[dict[str, Any]], exam: Exam, of_models: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """By ranker, the runs on these very incidents; of models only those that still are what was tested (label -> digest)."""
    kept = {run["ranker"]: run for run in runs if run["fingerprint"] == exam.fingerprint()}
    return {
        label: run
        for label, run in kept.items()
        if run["sort"] != "model" or of_models.get(label) == run.get("model", "not told")
    }


def summarised(runs: Sequence[dict[str, Any]], exam: Exam) -> list[dict[str, Any]]:
    """The runs with their metrics, and the difference to the best rule, best first."""
    asked = [truth for truth in exam.truths if truth.causes]
    groups = [truth.group for truth in asked]
    ranks = {run["ranker"]: [run["ranks"].get(truth.incident_id) for truth in asked] for run in runs}
    values = {name: {metric: metrics.of_ranks(metric, found) for metric in METRICS} for name, found in ranks.items()}
    of_rules = [run["ranker"] for run in runs if run["sort"] == "rule"]
    best = max(of_rules, key=lambda name: (values[name]["ac1"].mean(), values[name]["mrr"].mean())) if of_rules else None
    found = []
    for before in runs:
        run = {name: value for name, value in before.items() if name not in (*METRICS, "against_best_rule")}
        mine = values[run["ranker"]]
        numbers = {metric: asdict(metrics.estimate_share(mine[metric], groups, seed=SEED)) for metric in METRICS}
        if best is not None:
            difference = metrics.estimate(mine["ac1"] - values[best]["ac1"], groups, seed=SEED)
            numbers["against_best_rule"] = {"rule": best, **asdict(difference)}
        found.append(run | numbers)
    return sorted(found, key=lambda run: (-run["ac1"]["value"], -run["mrr"]["value"], run["ranker"]))


def about(exam: Exam) -> dict[str, Any]:
    """What the table says about a set."""
    asked = [place for place, truth in enumerate(exam.truths) if truth.causes]
    shuffled = [_shuffled(exam, place) for place in asked]
    return {
        "incidents": len(asked),
        "groups": len({exam.truths[place].group for place in asked}),
        "no_fault": len(exam.truths) - len(asked),
        "candidates": float(np.median([len(exam.tested[place].case.graph.candidates) for place in asked])),
        "chance": {metric: metrics.chance(metric, shuffled) for metric in METRICS},
    }


def _shuffled(exam: Exam, place: int) -> Prediction:
    candidates = exam.tested[place].case.graph.candidates
    return Prediction(exam.asked(place), candidates, (0.0,) * len(candidates), ())


def keep(body: dict[str, Any], name: str, exam: Exam, runs: Mapping[str, dict[str, Any]]) -> None:
    """Write the results with these runs on a set; a set without any is left out."""
    body["sets"].pop(name, None)
    if runs:
        body["sets"][name] = {**about(exam), "runs": summarised(list(runs.values()), exam)}
    write_result(TRANSFER, body)


def main() -> None:
    """Test what was not tested yet, and keep the results after every run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="RANKER", help="test these alone; of the others stays what still holds")
    parser.add_argument("--model", nargs="+", metavar="FOLDER", type=Path, default=[], help="model folders beside models/")
    options = parser.parse_args()
    folders = [path.parent for path in sorted(MODELS.glob(f"*/{MODEL_FILE}"))] + options.model
    tested_models = models(folders)
    of_models = {entrant.label: entrant.model for entrant in tested_models}
    everybody = {entrant.label: entrant for entrant in (*tested_models, *rules(), *trained())}
    if unknown := set(options.only or ()) - set(everybody):
        parser.error(f"--only: expected {', '.join(everybody)}, found {', '.join(sorted(unknown))}")
    entrants = [entrant for label, entrant in everybody.items() if options.only is None or label in options.only]
    exams = public_sets()
    tested = shop_set("test")
    if tested is not None:
        exams[SHOP] = tested
    body = read_result(TRANSFER) or {"schema_version": "1", "seed": SEED, "sets": {}}
    for name, exam in sorted(exams.items(), key=lambda item: (*PUBLIC, SHOP).index(item[0])):
        before = body["sets"].get(name, {}).get("runs", [])
        kept = current(before, exam, of_models)
        if before and len(kept) < len(before):
            gone = [run["ranker"] for run in before if run["ranker"] not in kept]
            print(f"{name}: dropped, as what was tested is no more: {', '.join(gone)}", flush=True)
            keep(body, name, exam, kept)
        for entrant in entrants:
            if kept.get(entrant.label, {}).get("identity") == entrant.identity:
                continue
            run = examine(entrant, name, exam)
            if run is not None:
                kept[entrant.label] = run
                keep(body, name, exam, kept)
                row = next(r for r in body["sets"][name]["runs"] if r["ranker"] == entrant.label)
                print(f"{name}: {entrant.label}: AC@1 {row['ac1']['value']:.2f}, AC@3 {row['ac3']['value']:.2f}", flush=True)


if __name__ == "__main__":
    main()
