"""The part of docs/confidence.md about several causes at once, from docs/results/several.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rca.several import THRESHOLD
from rca.wording import percent
from scripts.sets import SEVERAL, read_result
from scripts.several import FALSE, NAMED, TOLD
from scripts.transfer_page import table

_SECTION: Final = """\
## Several causes at once

Two faults may happen at the same time. A report names another candidate beside the first, as "may be a second cause", if

- a signal that speaks of it alone is louder than its quiet times allow, by more than {threshold} on ln(1 + z),
- none of its callees is louder than it is,
- nothing joins it with the first: no chain of calls, either way, no queue between them, no pod or node that one runs on, no
  replica.

What is joined may be a victim of the first, however loud it is, so two faults along one chain of calls are told as one. Where
alerts are all that is known, or the answer is no cause, nobody is named. In JSON: `also`.
"""

_FOUND: Final = """
**It rarely speaks where there is one fault, and it misses most seconds.** Of incidents with one fault, whose cause comes first,
{false_simulated} (simulated) and {false_shop} (the shop) get a second cause. Where there are two and one of them comes first, a
second is told in {told}, and it is the other cause in {named}: less than the fifth that would make it something to rely on. One
that is named deserves a look; where none is named there may still be one. Half of the pairs are joined, which this rule
never tells apart; of the others most are not told either.

The threshold is the least at which at most {most_false} of incidents with one fault, whose cause comes first, get a second
(`python -m scripts.several fit`: {fit_simulated} simulated incidents, {fit_shop} of the shop's training part). Judged
(`python -m scripts.several judge`, ranked by `{ranker}`) on {systems} other simulated systems and on the shop's test part, which
has one fault at a time. A first rule, by the label-free score and fitted on simulated systems alone, named a second cause in 16 %
of the shop's test incidents and was given up for this one, so that the shop's figure is its second look at that part. Rules by
several signals at once, without what falls when requests stay away, without what shares a node or a caller with the first, or
that tell callees apart did no better on what was fitted on.

{table}
"""


def several_section() -> str:
    """Markdown from its heading on."""
    return section(read_result(SEVERAL))


def section(body: Mapping[str, Any]) -> str:
    """The same from what was found."""
    rule = _SECTION.format(threshold=f"{THRESHOLD:g}")
    if "fit" not in body or "judged" not in body:
        return rule
    fitted, judged = body["fit"], body["judged"]
    rows = [_row(where, one) for where in ("simulated", "shop") for one in judged[where]]
    return rule + _FOUND.format(
        false_simulated=_value(judged["simulated"], FALSE),
        false_shop=_value(judged["shop"], FALSE),
        told=_value(judged["simulated"], TOLD),
        named=_value(judged["simulated"], NAMED),
        most_false=percent(fitted["most_false"]),
        fit_simulated=fitted["simulated"]["incidents"],
        fit_shop=fitted["shop"]["incidents"],
        systems=judged["systems"],
        ranker=judged["ranker"],
        table=table(["where", "what", "windows", "share"], rows),
    )


def _value(found: Sequence[Mapping[str, Any]], what: str) -> str:
    return next(percent(round(one["value"], 2)) for one in found if one["what"] == what)


def _row(where: str, one: Mapping[str, Any]) -> list[str]:
    interval = "" if one["low"] is None else f" [{100 * one['low']:.0f}, {100 * one['high']:.0f}]"
    return [where, one["what"], str(one["n"]), f"{percent(round(one['value'], 3))}{interval}"]
