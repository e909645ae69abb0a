"""How likely each outcome is: nobody is to blame, somebody outside the graph is, or this candidate is.

    P(no fault)  = 1 - sigmoid(fault . facts)
    P(outside)   = P(fault) * sigmoid(outside . facts)
    P(candidate) = the rest * ((1 - vague) * softmax(score / sharp) + vague * (softmax(score / blunt) and 1 / C, mixed)),
                   vague = sigmoid(vague . facts)

The facts are few: how loud the loudest of C candidates is by the label-free score, and how far ahead; how loud quiet stretches of
the same system get; what was observed at all, and for how long. confidence.json has the weights, fitted by maximum likelihood on
simulated incidents, their first minutes, incidents whose cause was taken out of the telemetry, and quiet windows
(`python -m scripts.confidence`, docs/confidence.md). The order of candidates stays what it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from rca.contracts import Case
from rca.errors import BadCheckpoint
from rca.features import ALERT_SIGNALS, FLOOR_FEATURE, FLOOR_SIGNALS, heard_signals, quiet_graph
from rca.graph import ServiceGraph
from rca.ranking import Chances
from rca.telemetry import SECOND_NS
from rca.window import INCIDENT, Window
from rca.wording import number, seconds

FILE: Final = Path(__file__).with_name("confidence.json")
FACTS: Final = {
    "loudest": "how loud the loudest candidate is",
    "ahead": "how far the first candidate is ahead of the second",
    "ahead.of_others": "how far the first candidate is ahead of the fourth",
    "first.total": "how many things stray at the first candidate, and how far",
    "first.signals": "number of signals that stray at the first candidate",
    "first.callees": "how loud the callees of the first candidate are",
    "first.callers": "how loud the callers of the first candidate are",
    "candidates": "number of candidates",
    "unobserved": "share of candidates that nothing is known of",
    "heard": "number of kinds of signals",
    "quiet.median": "how loud a usual quiet stretch is",
    "quiet.most": "how loud the loudest quiet stretch is",
    "quiet.known": "whether there is a quiet stretch",
    "window": "length of the incident",
    "baseline": "length of the baseline",
    "alerted": "whether an alert fired",
}
"""What the outlook hangs on, with what each is in words."""
_ALONE: Final = 2.0
"""How far ahead a single candidate counts as."""
_ALERTS_BLUNTER: Final = 1.75
"""Where alerts alone were heard, they say less per unit of score than measurements: how much larger the temperature is."""
_SLACK: Final = 0.1
"""How many standard deviations beyond the range of what was fitted on a fact is nothing new yet."""
_ABOVE: Final = tuple(f"{signal}.above" for signal in (*FLOOR_SIGNALS, *ALERT_SIGNALS))

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Fact:
    """One fact in the windows that were fitted on: its range, mean and standard deviation, and its weights."""

    low: float
    high: float
    mean: float
    spread: float
    fault: float
    outside: float
    vague: float


@dataclass(frozen=True)
class Shape:
    """From scores to probabilities: two temperatures, the part of `vague` that all candidates share alike, and the mass of sets.

    The likeliest outcomes that add up to `mass` hold the truth with the probability that was fitted for.
    """

    sharp: float
    blunt: float
    even: float
    mass: float


@dataclass(frozen=True)
class Weights:
    """What was fitted. `base`: the logits (fault, outside, vague) of average facts; `coverage` is that of the shapes' sets.

    `floor` is for scores in the unit of the label-free score, `network` for those of networks, in standard deviations.
    """

    facts: Mapping[str, Fact]
    base: tuple[float, float, float]
    floor: Shape
    network: Shape
    coverage: float = 0.9


@dataclass(frozen=True)
class Outlook:
    """Before any candidate is weighed: P(fault), P(outside | fault), and how little the scores say where it is not outside."""

    fault: float
    outside: float
    vague: float


@cache
def weights() -> Weights:
    """The weights that ship. Raises BadCheckpoint where the installed file is damaged or missing."""
    return read_weights(FILE)


def read_weights(path: Path) -> Weights:
    """Weights as scripts.confidence writes them. Raises BadCheckpoint."""
    try:
        body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        facts = {name: Fact(**body["facts"][name]) for name in FACTS}
        fault, outside, vague = body["base"]
        floor, network = (Shape(**body[name]) for name in ("floor", "network"))
        return Weights(facts, (fault, outside, vague), floor, network, body["coverage"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        found = f"{type(error).__name__}: {error}"
        raise BadCheckpoint(str(path), expected="the weights of probabilities; install rca again", found=found) from error


def chances_of(case: Case, scores: Floats, of: Literal["floor", "network"]) -> Chances:
    """Probabilities of a case's candidates by scores, (C,), of the label-free score or of a network."""
    if not len(scores):
        return Chances(scores, no_fault=1.0)
    fitted = weights()
    shape = fitted.floor if of == "floor" else fitted.network
    facts = facts_of(case)
    outlook = outlook_of(facts, fitted)
    return Chances(
        probabilities(np.round(scores, 6), outlook, shape, bluntness(case.graph)),
        no_fault=1.0 - outlook.fault,
        outside=outlook.fault * outlook.outside,
        mass=shape.mass,
        coverage=fitted.coverage,
        unlike=unlike(facts, fitted),
    )


def facts_of(case: Case) -> dict[str, float]:
    """The facts of a case that has candidates."""
    alerted = INCIDENT in case.window.alerts["interval"]
    return facts_of_graph(case.graph, quiet_peaks(case), case.window, alerted=alerted)


def facts_of_graph(graph: ServiceGraph, quiet: Sequence[float], window: Window, *, alerted: bool) -> dict[str, float]:
    """The facts of a graph with candidates, by the peaks of quiet stretches."""
    floor = floor_of(graph)
    ordered, rows = np.sort(floor)[::-1], graph.candidate_rows
    first = int(rows[floor.argmax()])
    columns = [graph.feature_names.index(name) for name in _ABOVE]
    known = graph.available[rows][:, columns].any(axis=1)

    def of_first(feature: str) -> float:
        column = graph.feature_names.index(feature)
        return float(graph.features[first, column]) if graph.available[first, column] else 0.0

    return {
        "loudest": float(ordered[0]),
        "ahead": float(ordered[0] - ordered[1]) if len(ordered) > 1 else _ALONE,
        "ahead.of_others": float(ordered[0] - ordered[min(3, len(ordered) - 1)]) if len(ordered) > 1 else _ALONE,
        "first.total": of_first("own.total"),
        "first.signals": float((graph.features[first, columns] > 0).sum()),
        "first.callees": of_first("callees.loudest"),
        "first.callers": of_first("callers.loudest"),
        "candidates": float(np.log(len(ordered))),
        "unobserved": float(1.0 - known.mean()),
        "heard": float(len(heard_signals(graph))),
        "quiet.median": float(np.median(quiet)) if quiet else 0.0,
        "quiet.most": float(np.max(quiet)) if quiet else 0.0,
        "quiet.known": float(bool(quiet)),
        "window": float(np.log1p(_seconds(window.incident.end_ns - window.incident.start_ns))),
        "baseline": float(np.log1p(sum(_seconds(one.interval.end_ns - one.interval.start_ns) for one in window.baselines))),
        "alerted": float(alerted),
    }


def _seconds(duration_ns: int) -> float:
    return duration_ns / SECOND_NS


def outlook_of(facts: Mapping[str, float], fitted: Weights) -> Outlook:
    """What to expect. A fact beyond the range of what was fitted on counts as the end of it."""
    logits = np.array(fitted.base)
    for name, fact in fitted.facts.items():
        value = (float(np.clip(facts[name], fact.low, fact.high)) - fact.mean) / fact.spread
        logits += value * np.array([fact.fault, fact.outside, fact.vague])
    fault, outside, vague = 1.0 / (1.0 + np.exp(-logits))
    return Outlook(float(fault), float(outside), float(vague))


def unlike(facts: Mapping[str, float], fitted: Weights) -> tuple[str, ...]:
    """Facts beyond everything in the windows that were fitted on, in words."""
    return tuple(
        f"{FACTS[name]} ({_told(name, facts[name])}; known: {_told(name, fact.low)} to {_told(name, fact.high)})"
        for name, fact in fitted.facts.items()
        if not fact.low - _SLACK * fact.spread <= facts[name] <= fact.high + _SLACK * fact.spread
    )


def _told(name: str, value: float) -> str:
    if name in ("window", "baseline"):
        return seconds(float(np.expm1(value)))
    if name == "candidates":
        return f"{np.exp(value):.0f}"
    return f"{100 * value:.0f} %" if name == "unobserved" else number(value)


def probabilities(scores: Floats, outlook: Outlook, shape: Shape, blunter: float = 1.0) -> Floats:
    """Probability of every candidate, (C,), from scores, (C,)."""
    sharp, blunt = (_softmax(scores / (temperature * blunter)) for temperature in (shape.sharp, shape.blunt))
    spread = (1 - shape.even) * blunt + shape.even / len(scores)
    found: Floats = outlook.fault * (1 - outlook.outside) * ((1 - outlook.vague) * sharp + outlook.vague * spread)
    return found


def _softmax(logits: Floats) -> Floats:
    raised: Floats = np.exp(logits - logits.max())
    raised /= raised.sum()
    return raised


def floor_of(graph: ServiceGraph) -> Floats:
    """Label-free score of every candidate, (C,)."""
    scores: Floats = graph.column(FLOOR_FEATURE)[graph.candidate_rows].astype(np.float64)
    return scores


def quiet_peaks(case: Case) -> list[float]:
    """How loud the loudest candidate of each quiet stretch is, each calibrated on the others."""
    if not case.graph.candidates:
        return []
    return [float(floor_of(quiet_graph(case.quiet, place)).max()) for place in range(len(case.quiet))]


def bluntness(graph: ServiceGraph) -> float:
    """By how much temperatures are larger: alerts alone say less than measurements."""
    return _ALERTS_BLUNTER if set(heard_signals(graph)) <= set(ALERT_SIGNALS) else 1.0
