"""docs/transfer.md: what models do on systems they never saw, how many labels a system needs, and how real the simulator is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from scripts.sets import CURVE, PUBLIC, REALISM, SHOP, TRANSFER, read_result

LABELS: Final = (0, 4, 8, 16)
"""Labels of its own that the learning curve gives a system."""
SCORE, FRESH, PRETRAINED = "label-free score", "network, no pre-training", "network, pre-trained"
"""Curves."""

_PAGE: Final = """\
# Transfer

What a model does on a system that it never saw, how many labels a system needs of its own, and how simulated telemetry differs
from recorded. Generated from docs/results by `python -m scripts.docs`; docs/evaluation.md says how to read the numbers.

## Zero-shot

No label of the tested system is used. A `rule` needs no training; a `model` is a folder of models/ as it stands; `invented`
is trained on incidents invented on the system's own quiet stretches; `fresh` is the network without pre-training, on the
labels of the shop's training part; `others` the same on the labels of the other public sets. A row of a model is of the very
files that stand in models/ now: a test compares digests. No number was chosen by accuracy on these sets, but for one: that a
correction judged on simulated systems alone counts half at most was decided after `simulated` had been seen at full strength,
as held-out simulated systems asked for (AC@1 1.00, .46, .46 and .46 on the four public sets, in their order); and the caution
with which `--transfer` takes a strength (docs/model.md) was decided by somebody who knew this. A network pre-trained on
10,000 simulated incidents that all counted alike ranked worse than one on 848 (at half strength .96, .39, .23 and .60, and
.79 on the shop's test part): the label-free score is right first in 40 % of them and in 70 % of the shop's training
incidents, so that the network learnt to distrust it. Since then simulated incidents are weighted until it is right as often
in them too, which was decided, and seen to help, with these sets in view. That was 25 of 36 incidents, before all were
recorded; it is 34 of 41 since the score knows about unanswered calls, which was found on the shop's training part and changes
no rank on the public sets; a review then found mistakes in how lost calls are charged, and their repair took the score from
.72 to .79 on the shop's test part, which had been looked at by then. In another way they are not unseen: the simulator's
styles (docs/simulator.md) are shaped like what they record, PetShop's five-minute metrics, Sock Shop's alerts of instances,
Nezha's sparse traces and Train Ticket's size. A model that is pre-trained on them met systems that look like these.

AC@1 and its difference to the best rule carry 95 % intervals that draw whole (service, fault) groups; which rule is best was
found on the tested incidents, so that the difference favours the rule. "Cause invented" is the share of windows in which nothing
was wrong, or nobody is to blame, that a ranker named a cause for. `python -m scripts.transfer` makes the tables.

{transfer}
## Labels of its own

{curve}
## Simulated or recorded?

{realism}"""

_CURVE: Final = """\
Nezha; draws: {draws}; pre-trained model `{model}`. Every draw keeps whole groups together and tests on the rest; AC@1 is the mean
over draws, with its standard error where there are several. `python -m scripts.learning_curve` makes it.

![AC@1 against labels](learning-curve.svg)

{table}
"""

_REALISM: Final = """\
A classifier sees the features of one candidate and says whether its incident was simulated: AUC {told} (0.5: cannot tell, 1:
always can), from {sizes} incidents, five folds that keep groups together. The shop is one system: what is peculiar to it counts
against the simulator. What the trees looked at (`python -m scripts.realism`):

{table}
"""

_NOTHING: Final = "Nothing is kept yet.\n"


def transfer_page() -> str:
    """docs/transfer.md, from transfer.json, learning_curve.json and realism.json in docs/results."""
    return _PAGE.format(
        transfer=transfer_tables(read_result(TRANSFER)),
        curve=curve_table(read_result(CURVE)),
        realism=realism_table(read_result(REALISM)),
    )


def transfer_tables(body: Mapping[str, Any]) -> str:
    """A table for every set."""
    sets = body.get("sets", {})
    parts = [_set_table(name, sets[name]) for name in (*PUBLIC, SHOP) if name in sets]
    return "\n".join(parts) if parts else _NOTHING


def _set_table(name: str, found: Mapping[str, Any]) -> str:
    runs = found["runs"]
    alarms = any("false_alarms" in run for run in runs)
    head = ["ranker", "learnt from", "AC@1 [95 %]", "AC@3", "MRR", "AC@1 minus the best rule's", "correction"]
    rows = []
    for run in runs:
        row = [run["ranker"], run["sort"], _interval(run["ac1"]), share(run["ac3"]["value"]), share(run["mrr"]["value"])]
        difference = run.get("against_best_rule")
        row += [
            _interval(difference, signed=True) if difference else "",
            "" if "strength" not in run else f"{run['strength']:.0%}",
        ]
        rows.append(row + ([share(run["false_alarms"])] if alarms else []))
    chance = found["chance"]
    rows.append(["chance", "", *(share(chance[metric]) for metric in ("ac1", "ac3", "mrr")), "", ""] + [""] * alarms)
    head += ["cause invented"] * alarms
    size = f"{found['incidents']} incidents in {found['groups']} groups, {found['candidates']:.0f} candidates (median)"
    quiet = f", {found['no_fault']} more that nobody is to blame for" if found["no_fault"] else ""
    rule = next((run["against_best_rule"]["rule"] for run in runs if "against_best_rule" in run), "none was tested")
    return f"### {name}\n\n{size}{quiet}. Best rule: {rule}.\n\n{table(head, rows)}\n"


def curve_table(body: Mapping[str, Any]) -> str:
    """Mean AC@1 by number of labels."""
    if not body:
        return _NOTHING
    head = ["system", "ranker", *(f"{labels} labels" for labels in LABELS)]
    rows = []
    for system, runs in body["systems"].items():
        for name in (SCORE, FRESH, PRETRAINED):
            points = {labels: f"{mean:.2f}" + f" ± {error:.2f}" * (error > 0) for labels, mean, error in curve(runs, name)}
            rows.append([system, name, *(points.get(labels, "") for labels in LABELS)])
    draws = ", ".join(f"{len({key.rsplit('|', 1)[1] for key in runs})} of {name}" for name, runs in body["systems"].items())
    return _CURVE.format(draws=draws, model=body["model"], table=table(head, rows))


def realism_table(body: Mapping[str, Any]) -> str:
    """AUC of both classifiers, and what gives simulated incidents away."""
    if not body:
        return _NOTHING
    told = ", ".join(f"{name} {value:.2f}" for name, value in body["auc"].items())
    sizes = " and ".join(
        f"{body[side]['incidents']} {side} ({body[side]['candidates']} candidates)" for side in ("recorded", "simulated")
    )
    head = [
        "feature",
        "share of gain",
        "AUC alone",
        "observed, simulated / recorded",
        "quartiles, simulated",
        "quartiles, recorded",
    ]
    rows = [
        [
            f"`{row['feature']}`",
            f"{row['share_of_gain']:.2f}",
            "" if row["auc"] is None else f"{row['auc']:.2f}",
            f"{row['simulated']['observed']:.2f} / {row['recorded']['observed']:.2f}",
            *(" · ".join(map(str, row[side]["quartiles"] or [])) for side in ("simulated", "recorded")),
        ]
        for row in body["features"]
    ]
    return _REALISM.format(told=told, sizes=sizes, table=table(head, rows))


def curve(runs: Mapping[str, Any], name: str, metric: str = "ac1") -> list[tuple[int, float, float]]:
    """(labels, mean over draws, its standard error) of one ranker."""
    points = []
    for labels in LABELS:
        values = [found[metric] for key, found in runs.items() if key.startswith(f"{name}|{labels}|")]
        if values:
            points.append((labels, float(np.mean(values)), float(np.std(values) / np.sqrt(len(values)))))
    return points


def share(value: float | None) -> str:
    """Two decimals, nothing where there is none."""
    return "" if value is None else f"{value:.2f}"


def _interval(found: Mapping[str, Any], *, signed: bool = False) -> str:
    form = "{:+.2f}" if signed else "{:.2f}"
    value = form.format(found["value"])
    if found["low"] is None:
        return value
    return f"{value} [{form.format(found['low'])}, {form.format(found['high'])}]"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
