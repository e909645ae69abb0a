"""docs/confidence.md: what probabilities mean, how they were fitted, and how far they hold on systems that nobody fitted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rca.models.confidence import FACTS, weights
from rca.report import MOST_LIKELY, NOBODY
from rca.wording import percent
from scripts.sets import CONFIDENCE, read_result
from scripts.several_page import several_section
from scripts.transfer_page import table

_PAGE: Final = """\
# How sure is it?

A probability of 80 % should be right eight times in ten. This page says what `rca` does to that end, what its answers mean, and
how often they held where it could be counted. Generated from docs/results and rca/models/confidence.json by
`python -m scripts.docs`.

## What it can answer

Every ranking gives probabilities that add up to 1: of each candidate, of **no fault**, and of **a cause that telemetry does not
show** (`outside` in JSON): there is a fault, and whoever caused it is no candidate. `confidence.outcome` in the report is one of

- `cause`: a candidate is named, however surely (`level`: clear from 80 %, likely from 40 %, close, unsure).
- `no_fault`: above {nobody}, and likelier than any candidate: "Perhaps no fault at all (72 %)". Or no candidate strays from quiet
  times, whatever the probabilities: "Nothing stands out".
- `outside`: a cause that telemetry does not show is likelier than any candidate, and none reaches 40 %. "Telemetry points at
  nobody". Telemetry cannot tell whose absence it is: of 181 such windows below, the first candidate was right in 15 % of the
  incidents, and in 5 % the culprit had really been taken out, where 14 % was said.
- `not_enough_telemetry`: no telemetry in the window, no candidate, or nothing measured that speaks of any. No order is claimed.

`likely` is the **90 % set**: the fewest outcomes that hold the truth nine times in ten. Up to {most} are named; where it
takes more, the report says how many of the first candidates, and which of the two others. **Unlike anything seen**: where a
fact below lies outside everything that calibration has seen (a system of 900 services, a baseline of months), `unlike`
names it, and the words say to trust the numbers less. Where the order of the
candidates comes from does not matter here: confidence never changes it.

{several}
## How it is computed

A few facts of the window and of the system's own quiet stretches give three logits: whether there is a fault, whether its
cause is among the candidates, and how vaguely the scores speak. P(candidate) mixes a sharp and a blunt softmax of the scores
with equal parts for all, by how vague they are (rca/models/confidence.py has the formula). {count} weights were fitted by
maximum likelihood on {windows} windows of {incidents} simulated incidents, each of a system of its own (seed {seed}); the
mass of the sets by {folds} folds, on answers that their fold did not fit.

{facts}

(Per standard deviation of the fact. *Fault*: speaks for a fault. *Outside*: for a cause that is no candidate. *Vague*: against
relying on the order.)

**What is asked about** is an assumption, and stands in scripts/confidence.py: half of the questions are about quiet windows,
an alert firing in a fifth of these; the others about incidents, as often whole as 20 s or more after the onset, and in a
tenth of them nothing is known of the culprit. Kinds of faults come as often as in the 152 severe incidents of Ghosh et al.
(How to fight production incidents?, SoCC 2022); a tenth of incidents is nobody's fault, like a surge of traffic. A team whose
every question is about a real incident will find "no fault" too likely.

## How far it holds

    python -m scripts.confidence fit      # only where the weights shall change
    python -m scripts.confidence judge    # for every release; a test compares what was judged with what ships

asks one window of each of {judged} simulated systems that nothing was fitted on (seed {judge_seed}), kinds and shares as
above, and every recorded incident three times: whole, without its culprit, and as a quiet window of the same system. A simulated
system that has no window of the kind drawn is asked about its whole incident, so that {quiet} of these windows are quiet, not
half. Recorded ones count alike: in a third of them, not a twentieth, the culprit is gone. `floor` is the label-free score.

{tables}
"""

_TABLES: Final = """\
{main}

*ECE*: expected calibration error in ten bins, of the likeliest outcome, whatever it is; *by chance*: what answers that keep
their word would show with as many windows. *First*: the same of the first candidate alone, on incidents only; it has to
come out too low there, since these windows were picked for having a fault. *Coverage*: truth within the 90 % set, of all
windows; *where named*: of those in which the report does not say "no fault". It is meant to be nine times in ten over
everything that is asked about, and less *of incidents* alone, some of which are taken for no fault. *False alarms*: quiet
windows in which the report does not say "no fault". *Missed*: incidents in which it does. 95 % intervals in brackets, drawn
by (system, service, kind).

{reading}

{more}

*Named surely*: incidents whose first candidate has at least 80 %; *and right*: of these. *Culprit gone*: windows in which
everything about the culprit was taken out, and somebody is named surely all the same. *Short sets*: at most five outcomes.

**Abstaining**: share right where only the surest part of the windows is answered.

{selective}

**Reliability** on simulated systems (`{ranker}`): what was said, and how often it was right.

{reliability}
"""


def confidence_page() -> str:
    """docs/confidence.md, from confidence.json in docs/results."""
    body = read_result(CONFIDENCE)
    fitted = weights()
    from scripts.confidence import fitted_on

    made_of = fitted_on()
    rows = [
        [FACTS[name], f"{fact.fault:+.2f}", f"{fact.outside:+.2f}", f"{fact.vague:+.2f}"] for name, fact in fitted.facts.items()
    ]
    return _PAGE.format(
        several=several_section(),
        nobody=percent(NOBODY),
        most=MOST_LIKELY,
        count=3 * (len(FACTS) + 1) + 8,
        windows=made_of["windows"],
        incidents=made_of["incidents"],
        seed=made_of["seed"],
        folds=made_of["folds"],
        facts=table(["fact", "fault", "outside", "vague"], rows),
        judged=body["sets"]["simulated"]["floor"]["windows"] if body else 0,
        quiet=percent(_quiet_share(body)),
        judge_seed=body["seed"] if body else "-",
        tables=tables(body),
    )


def _quiet_share(body: Mapping[str, Any]) -> float:
    judged = body["sets"]["simulated"]["floor"] if body else {"quiet": 0, "windows": 1}
    return float(judged["quiet"] / judged["windows"])


def tables(body: Mapping[str, Any]) -> str:
    """Everything that was judged."""
    if not body:
        return "Nothing is kept yet.\n"
    found = [(name, ranker, of) for name, rankers in body["sets"].items() for ranker, of in rankers.items()]
    main = [
        [
            name,
            ranker,
            str(of["windows"]),
            f"{of['calibration_error']:.3f} ({of['calibration_error_by_chance']:.3f})",
            f"{of['calibration_error_first']:.3f}",
            f"{of['brier']:.3f}",
            _share(of["coverage"]),
            _share(of["coverage_named"]),
            _share(of["coverage_incidents"]),
            _share(of["false_alarms"]),
            _share(of["missed"]),
        ]
        for name, ranker, of in found
    ]
    more = [
        [
            name,
            ranker,
            _share(of["first_right"]),
            _share(of["sure"]),
            _share(of["sure_and_right"]),
            _share(of["sure_though_gone"]),
            _share(of["short_sets"]),
            f"{of['set_size_median']:.0f}",
            _share(of["unlike"]),
        ]
        for name, ranker, of in found
    ]
    selective = [[name, ranker, *(f"{of['selective'][share]:.2f}" for share in _ANSWERED)] for name, ranker, of in found]
    ranker, of = list(body["sets"]["simulated"].items())[-1]
    head = ["set", "ranker"]
    return _TABLES.format(
        main=table(
            [
                *head,
                "windows",
                "ECE (by chance)",
                "first",
                "Brier",
                "coverage",
                "where named",
                "of incidents",
                "false alarms",
                "missed",
            ],
            main,
        ),
        reading=_READING,
        more=table(
            [*head, "first right", "named surely", "and right", "culprit gone", "short sets", "set size", "unlike"],
            more,
        ),
        selective=table([*head, *(f"{100 * float(share):.0f} % answered" for share in _ANSWERED)], selective),
        ranker=ranker,
        reliability=table(
            ["windows", "said", "right"],
            [[str(count), percent(said), percent(right)] for count, said, right in of["reliability"]],
        ),
    )


_ANSWERED: Final = ("0.25", "0.5", "0.75", "1.0")
_READING: Final = """\
On recorded systems two things go wrong, and nothing was fitted on those. **Who comes first is right more often than it says**
(*first*): the simulator's systems are harder than these, their faults hide behind each other and
much of their telemetry is sparse. That costs a second look. **"No fault" is not to be relied on where it was measured to fail**:
in Train Ticket and PetShop the report says so of more than half of the incidents (*missed*), and in Online Boutique and Train
Ticket it names somebody in more than a tenth of the quiet windows. In these three the likeliest outcome is wrong more often
than it says. Intervals show how few these incidents are."""


def _share(value: Sequence[float | None] | None) -> str:
    if value is None or value[0] is None:
        return ""
    if value[1] is None or value[2] is None:
        return f"{value[0]:.2f}"
    return f"{value[0]:.2f} [{value[1]:.2f}, {value[2]:.2f}]"
