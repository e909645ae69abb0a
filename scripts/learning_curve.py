"""How many labels of its own a system needs, with and without pre-training: a curve on Nezha's two systems.

    python -m scripts.learning_curve MODEL [--draws N]

Every draw cuts the incidents, in whole groups of repetitions, into some to learn from and some to be tested on; 0, 4, 8 and 16 of
the former are labelled, each step keeping those before it. The network is trained on them from nothing, and from the weights of
the pre-trained model; the label-free score stands beside. docs/results/learning_curve.json, docs/learning-curve.svg and the page
follow. What has finished with the same model and code is skipped.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from rca.contracts import Ranker
from rca.evaluation import metrics
from rca.evaluation.runner import Exam, answers
from rca.models import registry
from rca.models.files import read_model
from rca.models.gnn import NetworkRanker
from rca.provenance import code_digest
from scripts.sets import CURVE, ROOT, model_digest, public_sets, read_result, write_result
from scripts.transfer_page import FRESH, LABELS, PRETRAINED, SCORE, curve

PICTURE: Final = ROOT / "docs" / "learning-curve.svg"
SYSTEMS: Final = ("onlineboutique", "trainticket")
METRICS: Final = ("ac1", "ac3", "mrr")


def drawn(exam: Exam, draw: int, most: int) -> tuple[list[int], list[int]]:
    """(places to learn from, in the order in which they are labelled; places to test): whole groups, `most` to learn from."""
    groups: dict[tuple[str, str, str], list[int]] = {}
    for place, truth in enumerate(exam.truths):
        groups.setdefault(truth.group, []).append(place)
    names = sorted(groups)
    learnt: list[int] = []
    tested: list[int] = []
    for i in np.random.default_rng([draw, len(names)]).permutation(len(names)):
        members = groups[names[i]]
        (learnt if len(learnt) + len(members) <= most else tested).extend(members)
    return learnt, tested


def ranker_for(name: str, model: Path, cases: Sequence[Any], seed: int) -> Ranker:
    """A ranker that is ready, trained on the cases where it learns. Without a label the network is the score that it corrects."""
    if name == SCORE or (name == FRESH and not cases):
        return registry.create("floor")
    if not cases:
        return NetworkRanker.load(model)
    return NetworkRanker(start=model if name == PRETRAINED else None, seed=seed).fit(list(cases))


def run(exam: Exam, name: str, model: Path, draw: int, labels: int) -> dict[str, Any]:
    """Metrics of one ranker after one draw."""
    learnt, tested = drawn(exam, draw, min(LABELS[-1], 2 * len(exam.truths) // 3))
    cases = [exam.training[place] for place in learnt[:labels]]
    ranker = ranker_for(name, model, cases, draw)
    part = Exam(
        tuple(exam.truths[i] for i in tested), tuple(exam.training[i] for i in tested), tuple(exam.tested[i] for i in tested)
    )
    given = answers(ranker, part)
    return {
        "tested": len(tested),
        "strength": ranker.earned if isinstance(ranker, NetworkRanker) else None,
        **{metric: float(metrics.per_incident(metric, given).mean()) for metric in METRICS},
    }


def picture(body: dict[str, Any], path: Path) -> None:
    """Accuracy against labels, a panel for each system: the mean over draws, and its standard error as a band."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "rca"  # the same picture for the same numbers
    from matplotlib import pyplot as plt

    systems = list(body["systems"])
    figure, axes = plt.subplots(1, len(systems), figsize=(4.2 * len(systems), 3.4), sharey=True, squeeze=False)
    for axis, system in zip(axes[0], systems, strict=True):
        for name, style in ((SCORE, ":"), (FRESH, "--"), (PRETRAINED, "-")):
            points = curve(body["systems"][system], name)
            labels, mean, error = (np.array(column) for column in zip(*points, strict=True))
            (line,) = axis.plot(labels, mean, style, marker="o", label=name)
            axis.fill_between(labels, mean - error, mean + error, alpha=0.15, color=line.get_color())
        axis.set_title(system)
        axis.set_xlabel("labelled incidents of its own")
        axis.set_xticks(LABELS)
        axis.set_ylim(0, 1.05)
    axes[0][0].set_ylabel("AC@1")
    axes[0][-1].legend(loc="lower right", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def planned(draws: int) -> list[tuple[str, int, int]]:
    """(ranker, labels, draw), draw after draw, so that what was interrupted is a whole curve of fewer draws."""
    return [(name, labels, draw) for draw in range(draws) for labels in LABELS for name in (SCORE, FRESH, PRETRAINED)]


def main() -> None:
    """Run what was not run yet, and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of the pre-trained model")
    parser.add_argument("--draws", type=int, default=5)
    options = parser.parse_args()
    facts = {"model": read_model(options.model).id, "digest": model_digest(options.model), "code": code_digest("models")}
    body = read_result(CURVE)
    if {key: body.get(key) for key in facts} != facts:
        body = {"schema_version": "1", **facts, "systems": {}}
    exams = {name: exam for name, exam in public_sets().items() if name in SYSTEMS}
    for name, labels, draw in planned(options.draws):
        for system, exam in exams.items():
            runs = body["systems"].setdefault(system, {})
            key = f"{name}|{labels}|{draw}"
            if key not in runs:
                runs[key] = run(exam, name, options.model, draw, labels)
                write_result(CURVE, body)
                print(f"{system}: {key}: AC@1 {runs[key]['ac1']:.2f}", flush=True)
    picture(body, PICTURE)


if __name__ == "__main__":
    main()
