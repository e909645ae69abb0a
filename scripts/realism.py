"""Can simulated incidents be told from the shop's recorded ones by their features?

    python -m scripts.realism [--incidents N]

Recorded ones are the shop's training part: its test part is looked at by nobody who might then change the simulator. Two
classifiers, boosted trees and a logistic regression, see the features of one candidate (and what of them was observed), and
say whether its incident was simulated. Cross-validation keeps the incidents of one (service, fault) group of the shop, and of one
simulated system, on one side. An AUC of 0.5 means that they cannot be told apart, 1 that they always can. The shop is a single
system, so that whatever is peculiar to it counts against the simulator; single features say what gives it away.
docs/results/realism.json; the page is made by `python -m scripts.docs`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from rca.cli.terminal import progress
from rca.contracts import Case, LabelledCase
from rca.evaluation.runner import Exam
from rca.features import NODE_FEATURE_NAMES
from rca.pipeline import case_of
from rca.provenance import code_digest
from rca.simulator import CONFIG, simulate
from rca.simulator.styles import ORDINARY, only
from scripts.sets import REALISM, shop_set, write_result

FOLDS: Final = 5
SEED: Final = 0
SIMULATED_SEED: Final = 424_242
TOLD: Final = 15
SERVICES: Final = (8, 20)
"""Services of the simulated systems that are compared with the shop, so that size alone tells nothing."""

_MISSING: Final = ("no_traces", "no_metrics", "no_logs", "no_events", "no_alerts")

Rows = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Table:
    """R candidates: features (NaN where unobserved), whether simulated, and a group that stays on one side."""

    features: Rows  # (R, F)
    simulated: npt.NDArray[np.bool_]  # (R,)
    group: npt.NDArray[np.int64]  # (R,)


def table(recorded: Sequence[LabelledCase], simulated: Sequence[LabelledCase]) -> Table:
    """Candidates of both as rows: a group is (service, fault) of the shop, or one simulated incident, a system of its own."""
    groups: dict[object, int] = {}
    blocks, told, owners = [], [], []
    for cases, made in ((recorded, False), (simulated, True)):
        for case in cases:
            rows = rows_of(case.case)
            key = case.incident_id if made else case.group
            blocks.append(rows)
            told += [made] * len(rows)
            owners += [groups.setdefault((made, key), len(groups))] * len(rows)
    return Table(np.concatenate(blocks), np.array(told), np.array(owners, dtype=np.int64))


def rows_of(case: Case) -> Rows:
    """Features of the candidates, (C, F), NaN where unobserved."""
    graph = case.graph
    rows = graph.candidate_rows
    return np.where(graph.available[rows], graph.features[rows], np.nan).astype(np.float64)


def folds(group: npt.NDArray[np.int64]) -> list[npt.NDArray[np.bool_]]:
    """Which rows are tested in each fold: whole groups."""
    order = np.random.default_rng(SEED).permutation(np.unique(group))
    return [np.isin(group, order[part::FOLDS]) for part in range(FOLDS)]


def auc(scores: Rows, positive: npt.NDArray[np.bool_]) -> float:
    """Area under the ROC curve; ties count half."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(positive, scores))


def told_apart(data: Table) -> dict[str, Any]:
    """AUC of both classifiers over all folds together, and what the trees looked at."""
    import lightgbm
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    dense = np.concatenate([np.nan_to_num(data.features), np.isfinite(data.features)], axis=1)
    scores = {"boosted trees": np.zeros(len(dense)), "logistic regression": np.zeros(len(dense))}
    gain = np.zeros(data.features.shape[1])
    for test in folds(data.group):
        train = ~test
        weight = np.where(data.simulated, 1 / data.simulated[train].mean(), 1 / (~data.simulated[train]).mean())
        trees = lightgbm.LGBMClassifier(
            n_estimators=150, num_leaves=15, min_child_samples=20, random_state=SEED, n_jobs=1, deterministic=True, verbose=-1
        )
        trees.fit(data.features[train], data.simulated[train], sample_weight=weight[train])
        scores["boosted trees"][test] = trees.predict_proba(data.features[test])[:, 1]
        gain += trees.booster_.feature_importance("gain")
        line = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
        line.fit(dense[train], data.simulated[train], logisticregression__sample_weight=weight[train])
        scores["logistic regression"][test] = line.predict_proba(dense[test])[:, 1]
    order = np.argsort(-gain)[:TOLD]
    return {
        "auc": {name: round(auc(values, data.simulated), 4) for name, values in scores.items()},
        "features": [
            single(data, int(column)) | {"share_of_gain": round(float(gain[column] / gain.sum()), 4)} for column in order
        ],
    }


def single(data: Table, column: int) -> dict[str, Any]:
    """One feature by itself: how well it tells both apart where observed, how often it is, and its quartiles."""
    values = data.features[:, column]
    seen = np.isfinite(values)
    sides = {"simulated": data.simulated, "recorded": ~data.simulated}
    found: dict[str, Any] = {"feature": NODE_FEATURE_NAMES[column]}
    both = all((seen & side).any() for side in sides.values())
    found["auc"] = round(max(a := auc(values[seen], data.simulated[seen]), 1 - a), 3) if both else None
    for name, side in sides.items():
        quartiles = np.quantile(values[seen & side], [0.25, 0.5, 0.75]).round(2).tolist() if (seen & side).any() else None
        found[name] = {"observed": round(float(seen[side].mean()), 3), "quartiles": quartiles}
    return found


def alike(recorded: Exam, count: int) -> list[LabelledCase]:
    """Simulated incidents of ordinary systems about as large as the shop, of which at least as much is recorded."""
    config = replace(CONFIG, styles=only(ORDINARY), telemetry=replace(CONFIG.telemetry, **dict.fromkeys(_MISSING, 0.0)))
    seen_in_shop = np.isfinite(rows_of(recorded.tested[0].case)).any(axis=0)
    found: list[LabelledCase] = []
    number = 0
    with progress("simulated incidents", count) as step:
        while len(found) < count:
            incident, telemetry = simulate(SIMULATED_SEED, number, config, services=SERVICES)
            number += 1
            case = case_of(incident, telemetry)
            observed = np.isfinite(rows_of(case)).any(axis=0)
            if (observed & seen_in_shop).sum() >= 0.9 * seen_in_shop.sum():
                found.append(LabelledCase(case, f"{SIMULATED_SEED}-{number}", incident.system, (), incident.fault_kind()))
                step(f"of {number}")
    return found


def main() -> None:
    """Compare the shop's recorded incidents with as many simulated ones as asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--incidents", type=int, default=200, help="simulated incidents")
    options = parser.parse_args()
    exam = shop_set("train")
    if exam is None:
        raise SystemExit("incidents/: nothing is recorded yet")
    recorded, simulated = exam.tested, alike(exam, options.incidents)
    data = table(recorded, simulated)
    body = {
        "schema_version": "1",
        "seed": SEED,
        "code": code_digest("simulator"),
        "recorded": {"incidents": len(recorded), "candidates": int((~data.simulated).sum())},
        "simulated": {"incidents": len(simulated), "candidates": int(data.simulated.sum()), "seed": SIMULATED_SEED},
        **told_apart(data),
    }
    write_result(REALISM, body)
    print(body["auc"])


if __name__ == "__main__":
    main()
