"""Predictions to numbers, numbers to tables: JSON for machines, Markdown for the docs, rich tables for a terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from rca.evaluation import metrics
from rca.evaluation.metrics import ACCURACIES, Estimate
from rca.evaluation.predictions import Prediction, Predictions
from rca.evaluation.transforms import NONE, QUIET

SCHEMA_VERSION: Final = "1"
ALL: Final = "all"
SHORT_LIST: Final = ("floor", "gnn")
"""Rankers that stand by name in the overview: the label-free score and what corrects it."""

_MODEL: Final = "model"
_TITLES: Final = {"ac1": "AC@1", "ac3": "AC@3", "ac5": "AC@5", "avg5": "Avg@5", "mrr": "MRR"}
_SPLIT_TITLES: Final = {
    "leave-system-out": "Trained on other systems",
    "leave-service-out": "Inside the system, on services never seen at fault",
    "leave-fault-out": "Inside the system, on fault kinds never seen",
    "forward": "Inside the system, forward in time",
    "folds": "Inside the system, folds that keep (service, fault kind) together",
    "zero-shot": "No labels at all",
}

_SIDE_BY_SIDE: Final = 6
Summary = dict[str, Any]


def read_all(folder: Path) -> list[Predictions]:
    """Every predictions file below a folder, in order of path."""
    return [Predictions.read(path) for path in sorted(folder.rglob("*.jsonl"))]


def summaries(runs: Iterable[Predictions], *, per_service: bool = False) -> list[Summary]:
    """One summary per run, in the order of `report`."""
    chosen = [run.per_service() for run in runs] if per_service else list(runs)
    best = _best_rules(chosen)
    return sorted((summary(run) | _compared(run, best.get(_table_of(run))) for run in chosen), key=_order)


def pooled(runs: Sequence[Predictions]) -> list[Predictions]:
    """The same runs with the incidents of all data sets in one: what there is to say about many systems of an incident each."""
    together: dict[tuple[str, str, str], list[Predictions]] = {}
    for run in runs:
        together.setdefault((run.split, run.transform, run.ranker), []).append(run)
    return [
        replace(of_one[0], dataset=f"all {len(of_one)} systems", predictions=tuple(p for run in of_one for p in run.predictions))
        for of_one in together.values()
    ]


def _best_rules(runs: Iterable[Predictions]) -> dict[tuple[str, ...], Predictions]:
    """The ranker with the best AC@1 among those that neither learn, nor have learnt, nor use names, for every table."""
    best: dict[tuple[str, ...], Predictions] = {}
    rules = [run for run in runs if not (run.learned or _has_learnt(run) or run.uses_names or run.transform == QUIET)]
    for run in sorted(rules, key=lambda run: (metrics.accuracy("ac1", run.predictions).value, run.ranker)):
        best[_table_of(run)] = run
    return best


def _has_learnt(run: Predictions) -> bool:
    """A trained model as it stands learns nothing from the incidents at hand, and is no rule all the same."""
    return run.ranker.partition(":")[0] == _MODEL


def _compared(run: Predictions, rule: Predictions | None) -> Summary:
    if rule is None or run.transform == QUIET:
        return {}
    difference = metrics.paired_difference("ac1", run.predictions, rule.predictions, seed=run.seed)
    return {"against_best_rule": _clean({"rule": rule.ranker, **asdict(difference)})}


def _table_of(run: Predictions) -> tuple[str, ...]:
    return (run.dataset, run.split, run.transform)


def summary(run: Predictions) -> Summary:
    """All numbers of one ranker on one data set and split. Values that are not defined are null."""
    predictions = run.predictions
    kinds = metrics.by(lambda p: p.truth.fault_kind, predictions)
    coverage, size = metrics.set_coverage(predictions)
    body = {
        "dataset": run.dataset,
        "split": run.split,
        "transform": run.transform,
        "ranker": run.ranker,
        "seed": run.seed,
        "learned": run.learned,
        "uses_names": run.uses_names,
        "fingerprint": run.fingerprint,
        "seconds": metrics.seconds_per_incident(predictions),
        "failures": sum(1 for p in predictions if p.failure),
        "failure": next((p.failure for p in predictions if p.failure), ""),
    }
    if run.transform == QUIET:
        body |= {"incidents": len(predictions), "false_alarms": metrics.false_alarm_rate(predictions)}
        return _clean(body)
    body |= {
        "by_fault_kind": {ALL: _part(predictions, run.seed), **{kind: _part(rows, run.seed) for kind, rows in kinds.items()}},
        "calibration_error": metrics.calibration_error(predictions),
        "brier": metrics.brier(predictions),
        "set_coverage": coverage,
        "set_size": size,
        "selective_accuracy": {str(share): value for share, value in metrics.selective_accuracy(predictions).items()},
    }
    return _clean(body)


def _part(predictions: Sequence[Prediction], seed: int) -> Summary:
    return {
        "incidents": len(predictions),
        "groups": len({p.truth.group for p in predictions}),
        **{metric: asdict(metrics.accuracy(metric, predictions, seed=seed)) for metric in ACCURACIES},
        "chance": {metric: metrics.chance(metric, predictions) for metric in ACCURACIES},
    }


def write_summaries(out: Path) -> list[Path]:
    """Write <out>/<data set>.json from all predictions kept below <out>. Returns the files."""
    by_dataset: dict[str, list[Predictions]] = {}
    for run in read_all(out):
        by_dataset.setdefault(run.dataset, []).append(run)
    files = []
    for dataset, runs in by_dataset.items():
        body: Summary = {"schema_version": SCHEMA_VERSION, "dataset": dataset, "runs": summaries(runs)}
        if has_instances(runs):
            body["runs_per_service"] = summaries(runs, per_service=True)
        file = out / f"{_folder_of(out, runs[0])}.json"
        file.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n")
        files.append(file)
    return files


def has_instances(runs: Sequence[Predictions]) -> bool:
    """True if some service shows as several instances (name-0, name-1), so that rankings per service say more."""
    rows = [p for run in runs[:1] for p in run.predictions if p.candidates]
    return any(len(p.per_service().candidates) < len(p.candidates) for p in rows[:1])


def _folder_of(out: Path, run: Predictions) -> str:
    from rca.evaluation.runner import path_of

    return path_of(out, run.dataset, run.split, run.transform, run.ranker).relative_to(out).parts[0]


def paired(ours: Sequence[Predictions], theirs: Sequence[Predictions], metric: str = "ac1") -> dict[str, Estimate]:
    """Difference of two rankers per data set, and pooled over all incidents that both answered (key `all`)."""
    mine = {run.dataset: run.predictions for run in ours}
    other = {run.dataset: run.predictions for run in theirs}
    both = sorted(set(mine) & set(other))
    found = {dataset: metrics.paired_difference(metric, mine[dataset], other[dataset]) for dataset in both}
    if len(both) > 1:
        pooled = [[p for dataset in both for p in side[dataset]] for side in (mine, other)]
        found[ALL] = metrics.paired_difference(metric, *pooled)
    return found


# --- Markdown ---------------------------------------------------------------------------------------------------


def markdown(runs: Sequence[Summary], level: int = 3) -> str:
    """Tables per data set, split and transform: rankers by AC@1, then AC@1 by fault kind, then confidence."""
    parts = []
    for title, rows in grouped(runs).items():
        parts.append(f"{'#' * level} {title}\n\n{note(rows)}\n\n{_table(*overview(rows, wide=True))}")
        parts += [f"- {line}" for line in failed(rows)]
        if has_kinds(rows):
            parts.append(f"AC@1 by fault kind (incidents):\n\n{_table(*by_kind(rows))}")
        if rows[0]["transform"] != QUIET:
            parts.append(f"Confidence:\n\n{_table(*confidence(rows))}")
    return "\n\n".join(parts) + "\n"


def in_short(runs: Sequence[Summary]) -> str:
    """One table over all data sets: the label-free score and the network beside the best of the other rules and learners."""
    head = ["", *SHORT_LIST, "best other rule", "best other learner", "chance"]
    body = []
    for title, rows in grouped(runs).items():
        if rows[0]["transform"] == QUIET:
            continue
        others = [row for row in rows if row["ranker"] not in SHORT_LIST and not row["uses_names"]]
        named = {row["ranker"]: row for row in rows}
        rules, learners = ([row for row in others if row["learned"] == learned] for learned in (False, True))
        chance = rows[0]["by_fault_kind"][ALL]["chance"]
        body.append([title, *(_pair(named.get(name)) for name in SHORT_LIST), *map(_named_pair, (rules, learners))])
        body[-1].append(" / ".join(_share(chance[metric]) for metric in ("ac1", "ac3")))
    return _table(head, body)


def _pair(row: Summary | None) -> str:
    return " / ".join(_share(row["by_fault_kind"][ALL][metric]["value"]) for metric in ("ac1", "ac3")) if row else ""


def _named_pair(rows: Sequence[Summary]) -> str:
    """The first of rows that are in order of AC@1, by name."""
    return f"{_pair(rows[0])} {rows[0]['ranker']}" if rows else ""


def overview(rows: Sequence[Summary], *, wide: bool = False) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of rankers, the chance level last; the wide one adds the difference to the best rule."""
    if rows[0]["transform"] == QUIET:
        head = ["ranker", "cause invented", "quiet windows", "s each"]
        return head, [[r["ranker"], _share(r["false_alarms"]), str(r["incidents"]), _seconds(r["seconds"])] for r in rows]
    head = ["ranker", "AC@1 [95 %]", "AC@3", "AC@5", "Avg@5", "MRR", "ECE", "s each"]
    body = []
    for row in rows:
        whole = row["by_fault_kind"][ALL]
        values = [_interval(whole["ac1"]), *(_share(whole[m]["value"]) for m in ("ac3", "ac5", "avg5", "mrr"))]
        body.append([_marked(row), *values, _share(row["calibration_error"]), _seconds(row["seconds"])])
    chance = max((row["by_fault_kind"][ALL]["chance"] for row in rows), key=lambda levels: levels["ac1"] or 0.0)
    body.append(["chance", *(_share(chance[metric]) for metric in ACCURACIES), "", ""])
    if wide:
        head.append(f"AC@1 minus {rows[0].get('against_best_rule', {}).get('rule', 'best rule')}'s")
        for line, row in zip(body, [*rows, {}], strict=True):
            line.append(_interval(row["against_best_rule"], signed=True) if "against_best_rule" in row else "")
    return head, body


def failed(rows: Sequence[Summary]) -> list[str]:
    """One line per ranker that failed on some incident, with the first reason."""
    return [f"{row['ranker']} failed {row['failures']} times: {row['failure']}" for row in rows if row["failures"]]


def by_kind(rows: Sequence[Summary]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of AC@1 by fault kind.

    It stands on its side, with the first rankers alone, where it would be wider than long: there are two dozen kinds, and
    terminals have 80 columns.
    """
    kinds = [kind for kind in rows[0]["by_fault_kind"] if kind != ALL]
    named = [f"{kind.replace('_', ' ')} ({rows[0]['by_fault_kind'][kind]['incidents']})" for kind in kinds]
    shares = [[_share(row["by_fault_kind"][kind]["ac1"]["value"]) for kind in kinds] for row in rows]
    if len(kinds) <= len(rows):
        return ["ranker", *named], [[_marked(row), *found] for row, found in zip(rows, shares, strict=True)]
    head = ["fault kind", *map(_marked, rows[:_SIDE_BY_SIDE])]
    return head, [[name, *found] for name, *found in zip(named, *shares[:_SIDE_BY_SIDE], strict=True)]


def confidence(rows: Sequence[Summary]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of how far probabilities can be trusted, and what abstaining buys."""
    shares = list(rows[0]["selective_accuracy"])
    head = [
        "ranker",
        "ECE",
        "Brier",
        "90 % set holds the cause",
        "its size",
        *(f"AC@1 of the surest {float(s):.0%}" for s in shares),
    ]
    body = []
    for row in rows:
        size = "-" if row["set_size"] is None else f"{row['set_size']:.1f}"
        values = [row["calibration_error"], row["brier"], row["set_coverage"]]
        sure = [_share(row["selective_accuracy"][share]) for share in shares]
        body.append([_marked(row), *map(_share, values), size, *sure])
    return head, body


def has_kinds(rows: Sequence[Summary]) -> bool:
    """True if a table by fault kind says more than the overview."""
    return len(rows[0].get("by_fault_kind", {})) > 2


def grouped(runs: Sequence[Summary]) -> dict[str, list[Summary]]:
    """Summaries by the title of the table they belong in, in order."""
    groups: dict[str, list[Summary]] = {}
    for run in sorted(runs, key=_order):
        title = f"{run['dataset']}: {_SPLIT_TITLES.get(run['split'], run['split'])}"
        groups.setdefault(title if run["transform"] == NONE else f"{title}, {run['transform']}", []).append(run)
    return groups


def _order(run: Summary) -> tuple[Any, ...]:
    splits = list(_SPLIT_TITLES)
    place = splits.index(run["split"]) if run["split"] in splits else len(splits)
    whole = run.get("by_fault_kind", {}).get(ALL, {})
    quality = [-(whole[metric]["value"] or 0.0) for metric in ("ac1", "ac3", "mrr")] if whole else [run["false_alarms"] or 0.0]
    return (run["dataset"], place, run["transform"] != NONE, run["transform"], *quality, run["ranker"])


def note(rows: Sequence[Summary]) -> str:
    """The line above a table: how many incidents and groups."""
    whole = rows[0].get("by_fault_kind", {}).get(ALL, rows[0])
    groups = f" in {whole['groups']} groups of (service, fault kind)" if "groups" in whole else ""
    return f"{whole['incidents']} incidents{groups}, seed {rows[0]['seed']}. * = learns from labels, † = uses names."


def answer(run: Predictions, prediction: Prediction) -> Summary:
    """Everything one run said about one incident."""
    columns = zip(prediction.candidates, prediction.scores, prediction.probabilities, strict=True)
    return {
        "dataset": run.dataset,
        "split": run.split,
        "transform": run.transform,
        "ranker": run.ranker,
        "cause_rank": prediction.cause_rank,
        "candidates": [{"entity": str(e), "score": score, "probability": p} for e, score, p in columns],
        "no_fault": prediction.no_fault,
        "seconds": prediction.seconds,
        "failure": prediction.failure,
    }


def answer_row(run: Predictions, prediction: Prediction) -> list[str]:
    """One line about one run and one incident: split, ranker, rank of the cause, first candidates."""
    split = run.split if run.transform == NONE else f"{run.split}, {run.transform}"
    first = [f"{e.name} ({s:.2f})" for e, s in zip(prediction.candidates[:3], prediction.scores, strict=False)]
    rank = "failed" if prediction.failure else str(prediction.cause_rank or "no candidate")
    return [split, run.ranker, rank, prediction.failure or ", ".join(first)]


def _marked(row: Summary) -> str:
    return f"{row['ranker']}{' *' if row['learned'] else ''}{' †' if row['uses_names'] else ''}"


def _interval(estimate: Mapping[str, float | None], *, signed: bool = False) -> str:
    value, low, high = (_share(estimate[end], signed=signed) for end in ("value", "low", "high"))
    return value if estimate["low"] is None else f"{value} [{low}, {high}]"


def _share(value: float | None, *, signed: bool = False) -> str:
    return "-" if value is None else f"{value:{'+' if signed else ''}.2f}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *("---:" for _ in head[1:])], *body]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _clean(body: Summary) -> Summary:
    """Round numbers to 5 digits; what is not a number becomes null."""
    return {key: _cleaned(value) for key, value in body.items()}


def _cleaned(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 5)
    return _clean(value) if isinstance(value, dict) else value
