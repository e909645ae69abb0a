"""docs/robustness.md: what is left of accuracy when telemetry, times or labels are wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rca.wording import listed
from scripts.sets import ROBUSTNESS, read_result
from scripts.transfer_page import table

SHIPPED: Final = "shipped model"
_MOST_HURTING: Final = 5
_ENOUGH_QUIET: Final = 5

_WORDS: Final[dict[str, str]] = {
    "none": "as recorded, all incidents",
    "no-traces": "no traces",
    "no-metrics-nor-calls": "no metrics (nor call rates made of them)",
    "no-logs": "no logs",
    "no-logs-nor-events": "neither logs nor events",
    "no-events": "no events (changes, Kubernetes)",
    "no-alerts": "no alerts",
    "only-traces": "traces alone",
    "only-metrics": "metrics alone",
    "only-logs": "logs alone",
    "only-events": "events alone",
    "only-alerts": "alerts alone",
    "traces-5%": "5 % of the traces",
    "silent-20%": "20 % of the services silent",
    "silent-20%-others": "the same, but not the cause",
    "gone-20%": "20 % of the services unheard of",
    "gone-20%-others": "the same, but not the cause",
    "edges-removed-20%": "20 % of the edges missing",
    "edges-rewired-20%": "20 % of the edges end elsewhere",
    "edges-added-20%": "20 % more edges (invented)",
    "onset-3m": "onset taken 3 min too early",
    "onset-1m": "onset taken 1 min too early",
    "onset+1m": "onset taken 1 min too late",
    "onset+3m": "onset taken 3 min too late",
    "renamed": "everything renamed",
}

_PAGE: Final = """\
# When telemetry, times or labels are wrong

    make robustness            # or: python -m scripts.robustness; an interrupted run goes on where it was

A collector is down, a sampler keeps one trace in twenty, a team exports nothing, the map is outdated, the onset is a guess: each
is done to incidents on purpose, before anything is measured on them, as the real trouble would. The same damages are there for
incidents of your own: `rca evaluate --transform NAME` (docs/evaluation.md). Generated from docs/results by
`python -m scripts.docs`.

{body}
## What is done

- **A source is lost** in the incident and in the quiet time before it, with the alerts raised on it. Who runs where stays known.
  Call rates between services are made of metrics, and go with them. *Alone*: all other sources are lost.
- **5 % of the traces**: whole traces, as a head sampler keeps them, of simulated systems with raw spans (that row has incidents
  of its own). The shop keeps sums of spans; their counts are thinned one by one, which is harder.
- **Silent services** export nothing: no spans, metrics, logs, events or alerts of theirs or of their pods. Their callers still
  show calls to an address, and naming that address counts as right. *Unheard of*: the calls to them are gone too. Where the
  cause is among them it cannot be named any more; the row below spares it, and takes the fifth from the others.
- **Edges**: of all pairs of caller and callee, in traces, call rates, alerts and the topology. One that ends elsewhere tells its
  calls of another callee of the same kind. Invented ones are in the topology alone, like those of an outdated map.
- **Onset**: the window starts so much earlier or later and still ends when it did; the baseline moves along, as far as was
  recorded. Too late means that the baseline holds the fault. Incidents that are too short for it are left out.
- **Renamed**: every service, pod, node, database, queue, host and operation gets an opaque name. Operations that name a queue
  keep naming it, by its new name: that is how OpenTelemetry tells spans of messages, and it is read.
- **Wrong labels**: rankers are trained anew, on simulated systems of yet another seed; a wrong label names another candidate of
  the incident, each as likely. They are scored on clean incidents. The shipped model is not trained on them.

## What this cannot show

Damage is independent of the fault; a collector that dies *of* the incident is worse. The simulator's systems are not yours, and
simulated systems are easier in some ways and harder in others than the shop (docs/transfer.md). One shop is one system.
"""

_BODY: Final = """\
AC@1 of the shipped model, how much it changes:

{summary}
{alike}Asked were {simulated} simulated incidents, {raw} with raw spans and the first {shop} of the {shop_test} in the shop's
test part (`--simulated {simulated} --raw {raw} --shop {shop}`). With so few, small losses cannot be told from none: read the
intervals. They are not corrected for how many rows there are: of forty that lose nothing, one would seem to lose.

Every row is about the incidents that the damage changes; `before` is AC@1 of the same incidents undamaged, `change` the paired
difference. [low, high] are 95 % intervals that draw whole (system, service, fault kind) groups. `sure` is the mean probability
of the first candidate before and after: it should fall with accuracy. `nobody` is the share in which a report would say "perhaps
no fault", or have nothing to rank, although there was a cause; they count by rank all the same. `invents` is the share of
incidents that nobody is to blame for in which it would not say so, before and after (how many). Reports that point at nobody,
or in which nothing stands out, are not told apart here. A cause that is no candidate any more is a miss. The model is `{ranker}`,
simple baselines stand beside it, and chance. Held-out simulated systems: seed {held_out}, used nowhere else; the shop: the test
part of incidents/, looked at to report and nothing else. {minutes:.0f} minutes of CPU (code {code}).

{sets}
### Wrong labels

Mean AC@1 of {draws} draws, on clean held-out incidents of the same two sets; trained on the incidents with a cause
among {training} simulated ones (seed {training_seed}).

{poisoned}

### Other names

{names}
"""


def robustness_page() -> str:
    """docs/robustness.md, from robustness.json in docs/results."""
    body = read_result(ROBUSTNESS)
    return _PAGE.format(body=tables(body) if body else "Nothing is kept yet.\n")


def tables(body: Mapping[str, Any]) -> str:
    """What hurts most, a table for every set, and one of wrong labels."""
    return _BODY.format(
        summary="\n".join(hurting(name, found["conditions"]) for name, found in body["sets"].items()),
        alike=_alike(body["sets"]),
        simulated=body["asked"]["simulated"],
        raw=body["asked"]["raw"],
        shop=body["asked"]["shop"],
        shop_test=body["shop_test"],
        ranker=body["ranker"],
        held_out=body["seeds"]["held-out"],
        minutes=body["cpu_minutes"],
        code=body["code"],
        sets="\n".join(f"### {_title(name)}\n\n{_set_table(found)}\n" for name, found in body["sets"].items()),
        draws=body["draws"],
        training=body["training"],
        training_seed=body["seeds"]["training"],
        poisoned=_poison_table(body["sets"]),
        names="\n".join(_names(name, found["conditions"]) for name, found in body["sets"].items()),
    )


def _title(name: str) -> str:
    return "The recorded shop, test part" if name == "shop" else "Simulated systems"


def hurting(name: str, conditions: Mapping[str, Any]) -> str:
    """A sentence: under which conditions the model loses most, with intervals, so that luck is seen to be luck."""
    changes = {c: found["rankers"][SHIPPED]["difference"] for c, found in conditions.items() if c != "none"}
    worst = sorted((c for c in changes if changes[c]["value"] < 0), key=lambda c: changes[c]["value"])[:_MOST_HURTING]
    said = [f"{_of_row(c)} {_interval(changes[c], '+.2f')} (n = {conditions[c]['incidents']})" for c in worst]
    beyond = sum(_is_loss(change) for change in changes.values())
    most = f"what hurts most: {'; '.join(said)}." if said else "no damage lost anything."
    return f"**{_title(name)}**: {most} {beyond} of {len(changes)} rows lose beyond their interval.{_inventing(conditions)}\n"


def _inventing(conditions: Mapping[str, Any]) -> str:
    """Under which condition causes that nobody is to blame for become most frequent, of enough such incidents to say so."""
    alarms = {
        c: found["rankers"][SHIPPED]
        for c, found in conditions.items()
        if c != "none" and found.get("no_fault", 0) >= _ENOUGH_QUIET
    }
    if not alarms:
        return ""
    worst = max(alarms, key=lambda c: alarms[c]["invents"] - alarms[c]["invents_before"])
    found = alarms[worst]
    if found["invents"] <= found["invents_before"]:
        return ""
    said = f"{found['invents_before']:.0%} → {found['invents']:.0%} (n = {conditions[worst]['no_fault']})"
    return f" Invented causes grow most, where n is {_ENOUGH_QUIET} or more, with `{_of_row(worst)}`: {said}."


def _alike(sets: Mapping[str, Any]) -> str:
    """Which baselines are right as often as the model in every row: what it withstands there is no merit of its own."""
    rows = [one["rankers"] for found in sets.values() for one in found["conditions"].values()]
    rules = [name for name in (rows[0] if rows else ()) if name != SHIPPED]
    alike = [name for name in rules if all(of[name]["ac1"]["value"] == of[SHIPPED]["ac1"]["value"] for of in rows)]
    names = listed(alike, len(alike))
    return f"In every row the shipped model is right as often as {names}, and no oftener.\n\n" if names else ""


def _of_row(condition: str) -> str:
    """Words that stand on their own, outside the table."""
    words = _WORDS[condition]
    return f"{_WORDS[condition.removesuffix('-others')]} that are not the cause" if condition.endswith("-others") else words


def _is_loss(change: Mapping[str, float | None]) -> bool:
    high = change["high"]
    return high is not None and high < 0


def _set_table(found: Mapping[str, Any]) -> str:
    conditions = found["conditions"]
    rules = [name for name in next(iter(conditions.values()))["rankers"] if name != SHIPPED]
    head = ["what is wrong", "n", "before", "AC@1 [95 %]", "change [95 %]", "AC@3", "sure", "nobody", *rules, "chance", "invents"]
    return table(head, [_row(condition, one, rules) for condition, one in conditions.items()])


def _row(condition: str, one: Mapping[str, Any], rules: list[str]) -> list[str]:
    shipped = one["rankers"][SHIPPED]
    whole = condition == "none"
    invents = f"{shipped['invents_before']:.0%} → {shipped['invents']:.0%} ({one['no_fault']})" if one["no_fault"] else ""
    sure = f"{shipped['confidence_before']:.2f} → {shipped['confidence']:.2f}"
    return [
        _WORDS[condition],
        str(one["incidents"]),
        "" if whole else f"{shipped['before']['value']:.2f}",
        _interval(shipped["ac1"]),
        "" if whole else _interval(shipped["difference"], "+.2f"),
        f"{shipped['ac3']:.2f}",
        f"{shipped['confidence']:.2f}" if whole else sure,
        f"{shipped['nobody']:.0%}" if whole else f"{shipped['nobody_before']:.0%} → {shipped['nobody']:.0%}",
        *(f"{one['rankers'][name]['ac1']['value']:.2f}" for name in rules),
        f"{one['chance']:.2f}",
        f"{shipped['invents']:.0%} ({one['no_fault']})" if whole and one["no_fault"] else invents,
    ]


def _interval(found: Mapping[str, float | None], form: str = ".2f") -> str:
    if found["low"] is None:
        return f"{found['value']:{form}}"
    return f"{found['value']:{form}} [{found['low']:{form}}, {found['high']:{form}}]"


def _poison_table(sets: Mapping[str, Any]) -> str:
    rows = []
    shares: list[str] = []
    for name, found in sets.items():
        for learner, by_share in found["poisoned"].get("learners", {}).items():
            shares = list(by_share)
            cells = [_interval(by_share[shares[0]]["ac1"])]
            cells += [f"{by_share[s]['ac1']['value']:.2f}, {_interval(by_share[s]['difference'], '+.2f')}" for s in shares[1:]]
            rows.append([learner, _title(name), str(found["poisoned"]["incidents"]), *cells])
    wrong = [f"{share.replace('%', ' %')} wrong, change [95 %]" for share in shares[1:]]
    return table(["trained anew", "tested on", "n", "no label wrong [95 %]", *wrong], rows) if rows else "Nothing is kept yet."


def _names(name: str, conditions: Mapping[str, Any]) -> str:
    if "renamed" not in conditions:
        return ""
    rankers = conditions["renamed"]["rankers"]
    told = conditions["renamed"]["incidents"]
    changed = [f"{ranker} {of['other_rank']}" for ranker, of in rankers.items()]
    most = max(of["most_moved"] for of in rankers.values())
    others = max(of["other_candidates"] for of in rankers.values())
    said = f"{_title(name)}: of {told} renamed incidents with a cause, so many have it at another rank: {', '.join(changed)}. "
    said += f"No probability moved by more than {most:.0e}.\n" if most else "No probability moved.\n"
    return said + (f"{others} have other candidates than before, which are not compared.\n" if others else "")
