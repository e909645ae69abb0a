"""docs/explanations.md: how explanations are tested, and how often those that are shown as strong hold on held-out incidents."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from rca.models.attribution import DRAWS, LEAST_BEATEN, LEAST_WEIGHT, MOST_CALLS, MOST_ITEMS
from rca.wording import percent
from scripts.sets import EXPLANATIONS, read_result
from scripts.transfer_page import share, table

_PAGE: Final = """\
# Explanations that survive a test

    rca triage INCIDENT --explain [--stability]

A list of loud signals is no explanation: what strays most need not be why a candidate comes first. `--explain` finds out by
deleting, and says how its own answer fared. Generated from docs/results by `python -m scripts.docs`.

## What is deleted, and how

**Pieces.** What was observed of the candidate is taken in pieces: signals that tell the same in other words (the network gap from
traces and from metrics, failed requests and failed spans) go together, with what its pods and the calls say of them.
A deleted signal becomes what quiet stretches of the same system show (their median); everything derived from it is computed
anew, and the ranker asked again. What was not observed stays unobserved. Any ranker can be asked, a network as well as a rule.

**Choice.** Up to {items} pieces that stray are chosen step by step: the one whose deletion lowers the candidate's probability
most, then the one that does with that gone, and so on. Pieces that change nothing are left out. `(without: 90 % -> 16 %)` is the
probability once this piece and those above it are gone.

**Deletion.** All of them gone: how far does the probability fall, and who leads then? The same is done with {draws} random
deletions of at least as many signals out of all that was seen of the candidate, and {draws} out of all telemetry. One that
holds all the pieces shown is drawn again. Draws are seeded: the same incident gets the same answer.

**Sufficiency.** Everything else that was seen of the candidate gone: does it stay first?

**Calls.** Up to {calls} calls into and out of the candidate are taken out of the map, one at a time; those that matter are told.

An explanation is **strong** if its deletion lowers the probability more than {beaten} of the random ones of either sort do,
the odds fall to {odds} or below, and it suffices. Otherwise it is **weak**, and says why. Where too little else was seen of the
candidate to delete as much, telemetry at large is the only comparison.
Strong means that this is why the *ranker* names the candidate; it does not make the
ranker right, but see *right* below: where the explanation is weak, the answer is wrong more often.

It asks the ranker 150 to 300 times, about 1.5 s of CPU for the recorded shop's 40 entities and 14 s for 2,000. `rca triage` alone
does none of it.

## How often it holds

{tables}
## Stability

`--stability` asks again without traces, without metrics, without logs, without events, without a kind of calls or without what is
known of pods and nodes, and with the onset a minute earlier or later (the window still ends when it did; a minute later only
where half a minute is left). It says under which the answer stays, and who would come first where it does not. An answer that
hangs on one sort of telemetry is not wrong for it; but if that sort is the one that is half missing today, look twice. Telemetry
and times are measured anew; calls are taken out of the map as it was measured. Alerts raised on traces, metrics or logs go
with them; call rates stay without metrics. The answer is whom the report names: "perhaps no fault" and "telemetry points at
nobody" name nobody, whoever comes first.

## In JSON

With `--json` the report (docs/ranking.schema.json) holds what was asked for: `explanation` (`items` with their evidence, `alone`
and `left`; `deletion`, `weight`, `instead`, `sufficiency`, `stays_first`, `beats_own`, `beats_any`, `draws`, `strength`,
`why_weak`, `calls`; null where nobody is named), `why_not_alerting` (a sentence, empty where the first candidate alerts itself
or no candidate does), and `stability` (`first`, and for each condition who is named and whether that is the `same`). Not asked
for, they are null or empty.
"""

_TABLES: Final = """\
{strong} of {shown} held-out explanations are strong, and {passed} of these pass: the bar is 90 %. Of incidents that
have a cause, whom a strong explanation names is it in {right} of {strong_told}, whom a weak one names in {wrong} of {weak_told}.

`python -m scripts.explanations --simulated {simulated} --network {network}` makes the tables (seeds {seeds};
ranker `{ranker}`; {draws} fresh draws of either sort, other than those the explanation was judged by). A strong explanation has
passed on draws of its own, so that it should pass on others: look at how many are strong too, and at how few of a random
ranking's are. *Pass*: the deletion lowers the probability more than {beaten} of the fresh draws do, of the candidate's own
telemetry and of anybody's; *own* and *any* the same for each sort alone. *Right*: whom the ranker named first is a labelled
cause, of incidents that have one.

Held-out incidents (the shop's test part, and simulated systems of a seed of their own), explanations as they are shown:

{held_out}

The same on validation data (the shop's training part, other simulated systems), by the way in which the pieces are chosen;
`random ranking` explains whom a random ranking named. The threshold, that the odds fall to {weight}, is the least
of {weights} at which at most {chance} of those are strong, and {passing} of the strong ones of the shipped model pass.
(At most 1 % was asked at first; in an earlier run 2 of 192 were strong, at any of these thresholds, and it was made what
a test at 95 % allows.)

{validation}
"""

_NETWORK: Final = """
Of a network that corrects the label-free score (models/simulated), on {incidents} of the shop's training incidents; `integrated
gradients` take the pieces whose features contribute most to its log odds:

{table}
"""


def explanations_page() -> str:
    """docs/explanations.md, from explanations.json in docs/results."""
    return _PAGE.format(
        items=MOST_ITEMS,
        draws=DRAWS,
        calls=MOST_CALLS,
        beaten=percent(LEAST_BEATEN),
        odds=_odds(LEAST_WEIGHT),
        tables=tables(read_result(EXPLANATIONS)),
    )


def tables(body: Mapping[str, Any]) -> str:
    """Held-out explanations by source and strength, and those of validation data by way."""
    if not body:
        return "Nothing is kept yet.\n"
    head = ["explanations", "how many", "pass", "own", "any", "suffice", "lost probability, median", "right"]
    held_out = body["held-out"]
    of_all = held_out["step by step"]["all"]
    rows = [
        _row(f"{source}, {strength}", of[strength])
        for source, of in held_out["step by step"].items()
        for strength in ("strong", "weak")
    ]
    rows.append(_row("random ranking, strong", held_out["random ranking"]["all"]["strong"]))
    rows.append(_row("random ranking, weak", held_out["random ranking"]["all"]["weak"]))
    by_way = [
        _row(f"{way}, {strength}", found["all"][strength])
        for way, found in body["validation"].items()
        for strength in ("all", "strong")
    ]
    by_network = [_row(f"{way}, {part}", found[part]) for way, found in body["network"].items() for part in ("all", "strong")]
    incidents = body["network"]["step by step"]["all"]["explanations"] if by_network else 0
    seeds = ", ".join(f"{seed} {role}" for role, seed in body["seeds"].items())
    return _TABLES.format(
        seeds=seeds,
        strong=of_all["strong"]["explanations"],
        shown=of_all["all"]["explanations"],
        passed=percent(of_all["strong"]["pass"]),
        right=percent(of_all["strong"]["right"]),
        wrong=percent(of_all["weak"]["right"]) if of_all["weak"]["explanations"] else "none",
        strong_told=of_all["strong"].get("with_cause", 0),
        weak_told=of_all["weak"].get("with_cause", 0),
        simulated=body["simulated"],
        network=incidents,
        ranker=body["ranker"],
        draws=body["draws"],
        beaten=percent(body["least_beaten"]),
        weight=_odds(body["least_weight"]),
        weights=", ".join(map(_odds, body["weights"])),
        chance=percent(body["most_by_chance"]),
        passing=percent(body["least_passing"]),
        held_out=table(head, rows),
        validation=table(head, by_way),
    ) + (_NETWORK.format(incidents=incidents, table=table(head, by_network)) if by_network else "")


def _odds(weight: float) -> str:
    return f"1/{math.exp(weight):g}"


def _row(name: str, found: Mapping[str, Any]) -> list[str]:
    if not found["explanations"]:
        return [name, "0", *[""] * 6]
    shares = [share(found[key]) for key in ("pass", "beat_own", "beat_any", "suffice")]
    return [name, str(found["explanations"]), *shares, f"{found['deletion']:.2f}", share(found["right"])]
