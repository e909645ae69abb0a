"""How sure rankings may be: fits rca/models/confidence.json on simulated incidents, and judges it on other ones.

    python -m scripts.confidence fit [--incidents 1200]       # rca/models/confidence.json
    python -m scripts.confidence judge [--incidents 2400]     # docs/results/confidence.json; the page: python -m scripts.docs

Every simulated incident is of a system of its own, so that held-out incidents are held-out topologies. The windows that are
asked about are of four kinds: whole incidents, their first moments, incidents whose cause was taken out of everything that is
known, and quiet stretches. What is judged is one window of each system, drawn by a fixed rule, and counted once. The recorded
incidents of the shop and the public sets are judged as they are; nothing is fitted on those.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import pickle
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rca.cli.terminal import progress
from rca.contracts import Case, LabelledCase
from rca.deviations import Deviations
from rca.evaluation.metrics import Estimate, error_of, estimate_share
from rca.faults import NO_FAULT, is_no_fault
from rca.features import Calibration, graph_of, quiet_graph
from rca.incidents.home import default_home
from rca.incidents.incident import Incident
from rca.models.confidence import (
    FACTS,
    FILE,
    Fact,
    Shape,
    Weights,
    bluntness,
    facts_of,
    facts_of_graph,
    floor_of,
    outlook_of,
    probabilities,
    quiet_peaks,
    unlike,
    weights,
)
from rca.models.files import write_atomically
from rca.models.onnx_ranker import OnnxRanker
from rca.models.simulated import HELD_OUT_SEED
from rca.pipeline import case_of
from rca.provenance import code_digest
from rca.report import NOBODY
from rca.simulator import SIMULATED, simulate
from rca.simulator.generation import in_processes
from rca.telemetry import SECOND_NS, EntityId, Interval, Telemetry
from scripts.sets import CONFIDENCE, MODELS, model_digest, public_sets, shop_set, write_result

WHOLE, EARLY, GONE, QUIET = "whole", "early", "gone", "quiet"
KINDS: Final = (WHOLE, EARLY, GONE, QUIET)
SHARES: Final = {WHOLE: 0.225, EARLY: 0.225, GONE: 0.05, QUIET: 0.5}
"""How often each kind is asked about. That causes lie outside the graph in a tenth of the incidents is a guess; so is that every
second question is about nothing."""
MIX: Final[dict[str, tuple[float, tuple[str, ...]]]] = {
    "code bug": (
        27.0,
        (
            "exception",
            "return",
            "latency",
            "memory_leak",
            "cpu_consumed",
            "thread_starvation",
            "connection_pool_exhaustion",
            "retry_storm",
        ),
    ),
    "dependency failure": (16.4, ("external_down", "availability", "cache_down", "cold_cache", "dead_consumer", "queue_backlog")),
    "infrastructure": (
        15.8,
        ("cpu_contention", "noisy_neighbour", "pod_kill", "pod_failure", "disk_full", "slow_io"),
    ),
    "deployment error": (13.2, ("bad_rollout", "crash_loop")),
    "configuration bug": (12.5, ("configuration_mistake",)),
    "database or network": (
        10.5,
        (
            "slow_database",
            "database_lock",
            "network_delay",
            "network_loss",
            "network_corrupt",
            "network_partition",
            "dns_failure",
        ),
    ),
}
"""How often what is the cause, in percent, by the 152 severe incidents of Ghosh et al., How to fight production incidents? (SoCC
2022), with the simulated kinds that fall under each, by equal parts. Their 4.6 % of failed authentication are not simulated."""
INNOCENT: Final = 0.1
"""Share of incidents that are nobody's fault, by equal parts of the innocent kinds: a guess."""
FALSE_ALERTS: Final = 0.2
"""Share of quiet windows in which an alert fires all the same: a guess too. The simulator has no rules that cry wolf."""
COVERAGE: Final = 0.9
GENERAL: Final = MODELS / "general"
FIT_SEED: Final = 777
JUDGE_SEED: Final = FIT_SEED + HELD_OUT_SEED
_FIT, _JUDGE = 1200, 2400
_TOGETHER: Final = 25
_RIDGE: Final = 1e-3
_FOLDS: Final = 5
_BINS: Final = 10
_FIRST_SECONDS: Final = 20.0
_NOBODY_THERE: Final = -1e9
_COOLEST: Final = 0.01
"""Least temperature: scores that never err would ask for none at all."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Window:
    """One window with its answer: places of the causes among C candidates, none where nobody is to blame or the cause is gone."""

    kind: str
    facts: dict[str, float]
    floor: Floats  # (C,)
    bluntness: float
    model: Floats  # (C,) scores of the shipped model
    causes: tuple[int, ...]
    group: object

    @property
    def truth(self) -> set[int]:
        """Places of right outcomes: candidates, then "no fault", then "outside"."""
        if self.causes:
            return set(self.causes)
        return {len(self.floor) + (self.kind == GONE)}


SCORES: Final[dict[str, Callable[[Window], Floats]]] = {
    "floor": lambda window: window.floor,
    "network": lambda window: window.model,
}


# --- windows ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Source:
    """An incident to take windows from. `again` is its case up to a time."""

    case: Case
    causes: frozenset[EntityId]
    fault_kind: str
    group: object
    again: Callable[[int], Case] | None = None
    onset_ns: int | None = None


def window_of(source: Source, kind: str, rng: np.random.Generator, model: OnnxRanker) -> Window | None:
    """A window of a kind; None where the incident has none."""
    case, told = source.case, bool(source.causes) or is_no_fault(source.fault_kind)
    if kind == QUIET:
        return _quiet(source, rng, model)
    if kind == EARLY:
        case = _first_moments(source, rng) or case
    if kind == GONE:
        if not source.causes:
            return None
        case = without(case, source.causes)
    if not told or not case.graph.candidates:
        return None
    causes = tuple(place for place, one in enumerate(case.graph.candidates) if one in source.causes)
    if source.causes and not causes and kind != GONE:
        return None
    facts = facts_of(case)
    return Window(kind, facts, *_scores(case, model), causes, source.group)


def _scores(case: Case, model: OnnxRanker) -> tuple[Floats, float, Floats]:
    graph = case.graph
    return np.round(floor_of(graph), 6), bluntness(graph), np.round(np.asarray(model.scores(graph).score, dtype=np.float64), 6)


def _quiet(source: Source, rng: np.random.Generator, model: OnnxRanker) -> Window | None:
    """A quiet stretch as a window in which nothing is wrong, calibrated on the others."""
    case = source.case
    peaks = quiet_peaks(case)
    if not peaks:
        return None
    chosen = int(rng.integers(len(peaks)))
    graph = quiet_graph(case.quiet, chosen)
    others = [peak for place, peak in enumerate(peaks) if place != chosen]
    facts = facts_of_graph(graph, others, case.window, alerted=False)
    return Window(QUIET, facts, *_scores(replace(case, graph=graph), model), (), source.group)


def _first_moments(source: Source, rng: np.random.Generator) -> Case | None:
    """The incident some time after its onset: short times as often as long ones, on the logarithm; None where it is short."""
    if source.again is None or source.onset_ns is None:
        return None
    window = source.case.window.incident
    lasted = (window.end_ns - source.onset_ns) / SECOND_NS
    if lasted <= 1.5 * _FIRST_SECONDS:
        return None
    after = float(np.exp(rng.uniform(np.log(_FIRST_SECONDS), np.log(lasted))))
    end_ns = source.onset_ns + int(after * SECOND_NS)
    return source.again(end_ns) if end_ns - window.start_ns >= _FIRST_SECONDS * SECOND_NS else None


def without(case: Case, entities: Collection[EntityId]) -> Case:
    """The case of a system of which nothing is known about some entities and their pods."""
    owned = case.graph.edges.get("runs", np.zeros((2, 0), dtype=np.int64))
    of = case.graph.entities
    gone = set(entities) | {of[pod] for owner, pod in owned.T.tolist() if of[owner] in entities}
    gone |= {of[owner] for owner, pod in owned.T.tolist() if of[pod] in entities and of[owner].kind == "pod"}
    deviations, quiet = _without(case.deviations, gone), [_without(stretch, gone) for stretch in case.quiet]
    return replace(case, deviations=deviations, quiet=quiet, graph=graph_of(deviations, Calibration.of(quiet, deviations)))


def _without(deviations: Deviations, gone: Collection[EntityId]) -> Deviations:
    stays = np.array([entity not in gone for entity in deviations.entities], dtype=bool)
    place = np.cumsum(stays) - 1
    edges, edge = {}, {}
    for relation, ends in deviations.edges.items():
        both = stays[ends].all(axis=0)
        edges[relation], edge[relation] = place[ends[:, both]], deviations.edge[relation][both]
    entities = tuple(entity for entity in deviations.entities if entity not in gone)
    return Deviations(entities, edges, deviations.node[stays], deviations.slope[stays], edge)


def simulated_windows(seed: int, incidents: int, kinds: str, processes: int) -> list[Window]:
    """The windows of simulated incidents, kept in $RCA_HOME/cache/confidence as they are made. `kinds`: every, or drawn."""
    made_by = "".join(inspect.getsource(one) for one in _MAKERS)
    named = f"{code_digest('simulator')} {made_by} {_MADE_WITH} {model_digest(GENERAL)} {kinds}"
    key = hashlib.blake2b(named.encode(), digest_size=12).hexdigest()
    folder = default_home() / "cache" / CONFIDENCE / f"{key}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    parts = range(-(-incidents // _TOGETHER))
    missing = [part for part in parts if not (folder / f"{part}.pickle").exists()]
    with progress("Simulating", len(parts)) as step:
        step("", completed=len(parts) - len(missing))
        for done, _ in enumerate(in_processes(partial(_simulate_part, seed, kinds, folder), missing, processes), 1):
            step("", completed=len(parts) - len(missing) + done)
    found = [window for part in parts for window in pickle.loads((folder / f"{part}.pickle").read_bytes())]  # our own files
    return [_with_false_alerts(window, seed) for window in found]


def _with_false_alerts(window: Window, seed: int) -> Window:
    alerted = window.kind == QUIET and np.random.default_rng([seed, int(str(window.group)), 2]).random() < FALSE_ALERTS
    return replace(window, facts=window.facts | {"alerted": 1.0}) if alerted else window


def _simulate_part(seed: int, kinds: str, folder: Path, part: int) -> None:
    model, made = shipped(), []
    for index in range(part * _TOGETHER, (part + 1) * _TOGETHER):
        made += list(_of_simulated(seed, index, kinds, model))
    write_atomically(folder / f"{part}.pickle", pickle.dumps(made))


def _of_simulated(seed: int, index: int, kinds: str, model: OnnxRanker) -> Iterator[Window]:
    rng = np.random.default_rng([seed, index, 1])
    shares = kind_shares()
    source = _source(*simulate(seed, index, kind=str(rng.choice(list(shares), p=list(shares.values())))), index)
    if not source.case.graph.candidates:
        return
    asked = KINDS if kinds == "every" else (str(rng.choice(KINDS, p=list(SHARES.values()))), WHOLE)
    for kind in asked:
        window = window_of(source, kind, rng, model)
        if window is not None:
            yield window
            if kinds == "drawn":
                return


def kind_shares() -> dict[str, float]:
    """How often each kind of incident is asked about."""
    innocent = [NO_FAULT, *(kind for kind in SIMULATED if is_no_fault(kind))]
    shares = {kind: share / len(kinds) for share, kinds in MIX.values() for kind in kinds}
    told = sum(shares.values())
    faults = {kind: (1 - INNOCENT) * share / told for kind, share in shares.items()}
    return faults | dict.fromkeys(innocent, INNOCENT / len(innocent))


def _source(incident: Incident, telemetry: Telemetry, group: object) -> Source:
    def again(end_ns: int) -> Case:
        return case_of(incident, telemetry, Interval(incident.window.start_ns, end_ns))

    causes = frozenset(incident.causes())
    return Source(case_of(incident, telemetry), causes, incident.fault_kind(), group, again, incident.onset_ns)


def recorded_windows(cases: Sequence[LabelledCase]) -> list[Window]:
    """Windows of recorded incidents: whole, without their cause, and quiet."""
    model, rng = shipped(), np.random.default_rng(0)
    sources = [Source(case.case, frozenset(case.causes), case.fault_kind, case.group) for case in cases]
    made = [window_of(source, kind, rng, model) for source in sources for kind in (WHOLE, GONE, QUIET)]
    return [window for window in made if window is not None]


def shipped() -> OnnxRanker:
    """The model that ships."""
    return OnnxRanker.load(GENERAL)


_MAKERS: Final = (
    Window,
    window_of,
    _scores,
    _quiet,
    _first_moments,
    without,
    _without,
    _of_simulated,
    kind_shares,
    facts_of,
    facts_of_graph,
    quiet_peaks,
)
_MADE_WITH: Final = (SHARES, MIX, INNOCENT, _FIRST_SECONDS)
"""What a window hangs on beside the simulator and the model: where one of these changes, windows are made anew."""


# --- fitting ------------------------------------------------------------------------------------------------------------


def fit(windows: Sequence[Window], counts: Floats) -> Weights:
    """The weights that make the answers likeliest, and the mass of sets that hold COVERAGE of them. `counts`: (W,)."""
    fitted = _fitted(windows, counts)
    folds = np.array([int(str(window.group)) % _FOLDS for window in windows])
    held_out: dict[str, Floats] = {name: np.zeros(len(windows)) for name in SCORES}
    for fold in range(_FOLDS):
        left = [window for window, its in zip(windows, folds, strict=True) if its != fold]
        found = _fitted(left, counts[folds != fold])
        for place in np.flatnonzero(folds == fold):
            for name, scores in SCORES.items():
                held_out[name][place] = answer(windows[place], scores(windows[place]), found, getattr(found, name)).before
    return replace(fitted, **{name: replace(getattr(fitted, name), mass=_mass(held_out[name], counts)) for name in SCORES})


def _mass(before: Floats, counts: Floats) -> float:
    """The mass below which the truth is reached in COVERAGE of the answers. `before`: mass of what is likelier, (W,)."""
    order = np.argsort(before)
    reached = np.cumsum(counts[order]) / counts.sum()
    return round(float(before[order][min(int(np.searchsorted(reached, COVERAGE)), len(order) - 1)]) + 1e-6, 6)


def _fitted(windows: Sequence[Window], counts: Floats) -> Weights:
    """The weights without the mass of sets: the outlook by the label-free score, then the shape of a network's scores."""
    told = np.array([[window.facts[name] for name in FACTS] for window in windows])
    mean, spread = told.mean(axis=0), np.where(told.std(axis=0) > 1e-3, told.std(axis=0), 1.0)
    table = _Table.of(windows, (told - mean) / spread, counts)
    logits, floor = _likeliest(table, table.scores(windows, SCORES["floor"]), None)
    _, network = _likeliest(table, table.scores(windows, SCORES["network"]), logits)
    ranges = zip(told.min(axis=0), told.max(axis=0), mean, spread, *logits[:, 1:], strict=True)
    facts = {name: Fact(*(round(float(value), 4) for value in values)) for name, values in zip(FACTS, ranges, strict=True)}
    return Weights(facts, (float(logits[0, 0]), float(logits[1, 0]), float(logits[2, 0])), floor, network, COVERAGE)


@dataclass(frozen=True, eq=False)
class _Table:
    """W windows as tensors: standardised facts, causes among the most candidates, and how much each counts."""

    facts: Tensor  # (W, F)
    causes: Tensor  # (W, C)
    sizes: Tensor  # (W, 1)
    blamed: Tensor  # (W,)
    gone: Tensor  # (W,)
    weight: Tensor  # (W,)

    @classmethod
    def of(cls, windows: Sequence[Window], facts: Floats, counts: Floats) -> _Table:
        causes = np.zeros((len(windows), max(len(window.floor) for window in windows)))
        for row, window in enumerate(windows):
            causes[row, list(window.causes)] = 1.0
        sizes = np.array([[float(len(window.floor))] for window in windows])
        gone = np.array([window.kind == GONE for window in windows])
        return cls(*map(torch.tensor, (facts, causes, sizes, causes.any(axis=1), gone, counts / counts.sum())))

    def scores(self, windows: Sequence[Window], of: Callable[[Window], Floats]) -> Tensor:
        """Scores, (W, C), so low where there is no candidate that it never is one."""
        scores = np.full(tuple(self.causes.shape), _NOBODY_THERE)
        for row, window in enumerate(windows):
            scores[row, : len(window.floor)] = of(window) / window.bluntness
        return torch.tensor(scores)


def _likeliest(table: _Table, scores: Tensor, logits: Floats | None) -> tuple[Floats, Shape]:
    """Logits of the outlook, (3, 1 + F), unless they are given, and the shape of the scores."""
    logit = torch.tensor(logits if logits is not None else np.zeros((3, table.facts.shape[1] + 1)))
    rest = torch.tensor([-1.5, 0.5, -1.0], dtype=torch.float64, requires_grad=True)
    free = [rest, logit.requires_grad_()] if logits is None else [rest]
    optimiser = torch.optim.LBFGS(free, max_iter=500, line_search_fn="strong_wolfe")

    def step() -> Tensor:
        optimiser.zero_grad()
        found = _loss(table, scores, logit, rest)
        found.backward()  # type: ignore[no-untyped-call]
        return found

    optimiser.step(step)  # type: ignore[no-untyped-call]
    sharp, blunt = (max(round(float(value), 4), _COOLEST) for value in torch.exp(rest.detach()[:2]))
    return logit.detach().numpy().round(4), Shape(sharp, blunt, round(float(torch.sigmoid(rest.detach()[2])), 4), 1.0)


def _loss(table: _Table, scores: Tensor, logit: Tensor, rest: Tensor) -> Tensor:
    fault, outside, vague = torch.sigmoid(table.facts @ logit[:, 1:].T + logit[:, 0]).T
    sharp, blunt = (torch.softmax(scores / torch.exp(one), 1) for one in rest[:2])
    even = torch.sigmoid(rest[2])
    shown = (1 - vague[:, None]) * sharp + vague[:, None] * ((1 - even) * blunt + even / table.sizes)
    of_cause = fault * (1 - outside) * (shown * table.causes).sum(1)
    likely = torch.where(table.blamed, of_cause, torch.where(table.gone, fault * outside, 1 - fault))
    return -(table.weight * torch.log(likely.clamp_min(1e-12))).sum() + _RIDGE * (logit[:, 1:] ** 2).sum()


def counts_of(windows: Sequence[Window]) -> Floats:
    """How much each window counts, (W,), so that kinds count as SHARES says."""
    kinds = [window.kind for window in windows]
    return np.array([SHARES[kind] / kinds.count(kind) for kind in kinds])


# --- judging ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What a ranker says of a window, against its truth: P of the likeliest outcome and whether it is right; `before` is the mass
    of what is likelier than the truth; `size` of the set."""

    confidence: float
    right: bool
    no_fault: float
    first: float
    first_right: bool
    before: float
    size: int
    unlike: bool


def answer(window: Window, scores: Floats, fitted: Weights, shape: Shape) -> Answer:
    """The outcome that is likeliest: a candidate, that nobody is to blame, or that somebody outside the graph is."""
    outlook = outlook_of(window.facts, fitted)
    shown = probabilities(scores, outlook, shape, window.bluntness)
    chances = np.append(shown, [1 - outlook.fault, outlook.fault * outlook.outside])
    order = np.argsort(-chances, kind="stable")
    held = np.cumsum(chances[order])
    place = next(i for i, outcome in enumerate(order) if int(outcome) in window.truth)
    first = int(shown.argmax())
    return Answer(
        confidence=float(chances[order[0]]),
        right=int(order[0]) in window.truth,
        no_fault=1 - outlook.fault,
        first=float(shown[first]),
        first_right=first in window.causes,
        before=float(held[place] - chances[order[place]]),
        size=int(np.searchsorted(held, shape.mass - 1e-12)) + 1,
        unlike=bool(unlike(window.facts, fitted)),
    )


def judge(windows: Sequence[Window], scored: Callable[[Window], Floats], fitted: Weights, shape: Shape) -> dict[str, Any]:
    """Calibration error, Brier score, coverage and false alarms, with 95 % intervals that draw whole groups."""
    answers = [answer(window, scored(window), fitted, shape) for window in windows]
    groups = [window.group for window in windows]
    confidence = np.array([one.confidence for one in answers])
    right = np.array([one.right for one in answers], dtype=np.float64)
    blamed = np.array([bool(window.causes) for window in windows])
    quiet, gone = (np.array([window.kind == kind for window in windows]) for kind in (QUIET, GONE))
    first = np.array([one.first for one in answers])
    hit = np.array([one.first_right for one in answers], dtype=np.float64)
    fault = np.array([one.no_fault <= max(one.first, NOBODY) for one in answers], dtype=np.float64)

    def share(values: Sequence[bool] | Floats, which: npt.NDArray[np.bool_] | None = None) -> list[float | None] | None:
        which = np.ones(len(windows), dtype=bool) if which is None else which
        if not which.any():
            return None
        some = [group for group, one in zip(groups, which, strict=True) if one]
        return _rounded(estimate_share(np.asarray(values, dtype=np.float64)[which], some))

    return {
        "windows": len(windows),
        "incidents": int(blamed.sum()),
        "quiet": int(quiet.sum()),
        "gone": int(gone.sum()),
        "calibration_error": round(error_of(confidence, right), 4),
        "calibration_error_by_chance": round(expected_error(confidence), 4),
        "calibration_error_first": round(error_of(first[~gone & blamed], hit[~gone & blamed]), 4),
        "brier": round(float(np.mean((confidence - right) ** 2)), 4),
        "coverage": share([one.before < shape.mass for one in answers]),
        "coverage_incidents": share([one.before < shape.mass for one in answers], blamed),
        "coverage_named": share([one.before < shape.mass for one in answers], fault > 0),
        "set_size_median": float(np.median([one.size for one in answers])),
        "short_sets": share([one.size <= 5 for one in answers], blamed),
        "false_alarms": share(fault, quiet),
        "missed": share(1 - fault, blamed),
        "first_right": share(hit, blamed),
        "sure": share(first >= SURE, blamed),
        "sure_and_right": share(hit, blamed & (first >= SURE)),
        "sure_though_gone": share(first >= SURE, gone),
        "unlike": share([one.unlike for one in answers]),
        "selective": selective(confidence, right),
        "reliability": reliability(confidence, right),
    }


SURE: Final = 0.8


def _rounded(found: Estimate) -> list[float | None]:
    return [None if value is None else round(value, 4) for value in (found.value, found.low, found.high)]


def _bins(confidence: Floats) -> npt.NDArray[np.int64]:
    return np.minimum((confidence * _BINS).astype(np.int64), _BINS - 1)


def expected_error(confidence: Floats, rounds: int = 500) -> float:
    """The calibration error that answers would have by chance if every one was as often right as it says."""
    rng = np.random.default_rng(0)
    drawn = (rng.random((rounds, len(confidence))) < confidence).astype(np.float64)
    return float(np.mean([error_of(confidence, one) for one in drawn])) if len(confidence) else float("nan")


def reliability(confidence: Floats, right: Floats) -> list[list[float]]:
    """By bin: number of answers, mean confidence, share that was right."""
    place = _bins(confidence)
    return [
        [int(here.sum()), round(float(confidence[here].mean()), 4), round(float(right[here].mean()), 4)]
        for here in (place == which for which in range(_BINS))
        if here.any()
    ]


def selective(confidence: Floats, right: Floats) -> dict[str, float]:
    """Accuracy where only the surest share is answered."""
    ordered = right[np.argsort(-confidence, kind="stable")]
    return {str(share): round(float(ordered[: max(1, round(share * len(right)))].mean()), 4) for share in (0.25, 0.5, 0.75, 1.0)}


# --- commands -----------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=("fit", "judge"))
    parser.add_argument("--incidents", type=int)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    if options.job == "fit":
        count = options.incidents or _FIT
        windows = simulated_windows(FIT_SEED, count, "every", options.processes)
        fitted = fit(windows, counts_of(windows))
        write_weights(fitted, {"seed": FIT_SEED, "incidents": count, "windows": len(windows), "folds": _FOLDS, "shares": SHARES})
        return
    fitted, model = weights(), shipped()
    sets = {"simulated": simulated_windows(JUDGE_SEED, options.incidents or _JUDGE, "drawn", options.processes)}
    for name, exam in {"shop": shop_set("test"), **public_sets()}.items():
        if exam is not None:
            sets[name] = recorded_windows(exam.tested)
    names = {"floor": "floor", "network": model.name}
    found = {
        name: {names[which]: judge(windows, scores, fitted, getattr(fitted, which)) for which, scores in SCORES.items()}
        for name, windows in sets.items()
    }
    judged = {"weights": weights_digest(), "model": model_digest(GENERAL)}
    write_result(CONFIDENCE, {"seed": JUDGE_SEED, "coverage": COVERAGE, "shares": SHARES, **judged, "sets": found})


def weights_digest() -> str:
    """What every probability hangs on: results of other weights are stale."""
    return hashlib.blake2b(FILE.read_bytes(), digest_size=12).hexdigest()


def fitted_on() -> dict[str, Any]:
    """What the weights that ship were fitted on."""
    body: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return dict(body["fitted_on"])


def write_weights(fitted: Weights, made_of: dict[str, Any]) -> None:
    """Replace rca/models/confidence.json."""
    write_atomically(FILE, (json.dumps(asdict(fitted) | {"fitted_on": made_of}, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
