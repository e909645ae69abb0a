"""Do explanations survive the test that they carry? Thresholds from validation data, then their worth on held-out incidents.

    python -m scripts.explanations [--simulated N] [--processes N] [--network N]

Validation: the shop's training part and simulated systems of one seed. Held-out: the shop's test part and systems of another. The
shipped model explains whom it names first. On validation data three ways to choose three pieces of evidence are compared, by how
loud they are, by what each costs alone, and step by step, and the threshold of "strong" is fixed: the least fall of the odds at
which explanations of a random ranking are almost never strong, and strong ones pass. Passing means that deleting the
pieces lowers the probability more than 95 % of random deletions of the same size do, drawn anew: none of the draws that the
explanation itself was judged by is used. With a network that corrects the label-free score (models/simulated), integrated
gradients are compared too, on N of the shop's training incidents. docs/results/explanations.json; the tables of
docs/explanations.md are made of it.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from typing import Any, Final

import numpy as np

from rca.cli.terminal import progress
from rca.contracts import Ranker
from rca.evaluation.cases import Labels, case_for, from_folder, rolled_up
from rca.incidents.store import default_home
from rca.models import registry
from rca.models.attribution import (
    LEAST_BEATEN,
    LEAST_WEIGHT,
    MOST_ITEMS,
    beaten,
    judged,
    loud_pieces,
    random_deletions,
    telling,
)
from rca.models.deletion import Piece, Trial
from rca.models.shipped import shipped_ranker
from rca.pipeline import case_of
from rca.provenance import code_digest
from rca.simulator import simulate
from rca.simulator.generation import in_processes
from rca.telemetry import EntityId
from scripts.sets import EXPLANATIONS, INCIDENTS, MODELS, write_result

SEEDS: Final = {"validation": 515_151, "held-out": 626_262}
PARTS: Final = {"validation": "train", "held-out": "test"}
DRAWS: Final = 100
"""Fresh random deletions that judge, of the candidate's telemetry and of anybody's."""
FRESH_SEED: Final = 1_000
WEIGHTS: Final = tuple(math.log(times) for times in (1.1, 1.25, 1.5, 2, 4))
"""Thresholds to choose from: where the odds hardly fall no explanation is strong, whatever else it beats."""
MOST_BY_CHANCE: Final = 0.05
"""Of random rankings' explanations may be strong, as a test at 95 % allows."""
LEAST_PASSING: Final = 0.95
"""Of strong explanations of validation data must pass; a margin above the 90 % that held-out ones are to reach."""

Way = Callable[[Trial], list[Piece]]
WAYS: Final[dict[str, Way]] = {
    "loudest": lambda trial: loud_pieces(trial)[:MOST_ITEMS],
    "each alone": lambda trial: _alone(trial)[:MOST_ITEMS],
    "step by step": lambda trial: telling(trial, loud_pieces(trial), MOST_ITEMS),
}


@dataclass(frozen=True)
class Row:
    """One explanation of one incident. `beats` are shares of fresh random deletions; `own` is None where there was no other."""

    incident: str
    source: str
    right: bool
    nobody: bool
    probability: float
    items: int
    weight: float
    deletion: float
    first_without: bool
    stays_first: bool
    judged_own: float | None
    judged_any: float
    beats_own: float | None
    beats_any: float

    def strong(self, least_weight: float) -> bool:
        """As rca.models.attribution judges, with another threshold of weight."""
        own = self.judged_own is None or self.judged_own > LEAST_BEATEN
        return bool(self.items) and own and self.judged_any > LEAST_BEATEN and self.stays_first and self.weight >= least_weight

    @property
    def passes(self) -> bool:
        """Whether fresh random deletions, of its own telemetry and of anybody's, lower the probability less."""
        own = self.beats_own is None or self.beats_own > LEAST_BEATEN
        return own and self.beats_any > LEAST_BEATEN


def _alone(trial: Trial) -> list[Piece]:
    before = trial.standing
    return sorted(loud_pieces(trial), key=lambda piece: -trial.without([piece]).weight_from(before))


def rows_of(role: str, index: int) -> dict[str, Row]:
    """Explanations of one incident, by way, and on validation data of a random ranking; empty where nothing was ranked.

    The first incidents are the shop's, then come simulated ones.
    """
    recorded = from_folder(INCIDENTS, labels=Labels.TOLD, part=PARTS[role])
    if index < len(recorded):
        one = recorded[index]
        case, causes, source, name = case_for(one, home=default_home()), one.incident.causes(), "shop", one.incident.id
    else:
        incident, telemetry = simulate(SEEDS[role], index - len(recorded))
        case, causes, source, name = case_of(incident, telemetry), incident.causes(), "simulated", incident.id
    if case is None or not case.graph.candidates:
        return {}
    truth = set(rolled_up(causes, case.graph))
    ways = dict(WAYS) if role == "validation" else {"step by step": WAYS["step by step"]}
    ranker = _shipped()
    trial = Trial(case, ranker, ranker.rank(case).candidates[0].entity)
    rows = {way: row_of(trial, choose, truth, source, name) for way, choose in ways.items()}
    chance = _random()
    by_chance = Trial(case, chance, chance.rank(case).candidates[0].entity)
    return rows | {"random ranking": row_of(by_chance, WAYS["step by step"], truth, source, name)}


def network_rows_of(index: int) -> dict[str, Row]:
    """Explanations of what a network says of one of the shop's training incidents, by way, gradients among them."""
    from scripts.gradients import by_gradients

    one = from_folder(INCIDENTS, labels=Labels.TOLD, part=PARTS["validation"])[index]
    case = case_for(one, home=default_home())
    if case is None or not case.graph.candidates:
        return {}
    ranker = _network()
    trial = Trial(case, ranker, ranker.rank(case).candidates[0].entity)
    truth = set(rolled_up(one.incident.causes(), case.graph))
    ways = WAYS | {"integrated gradients": lambda trial: by_gradients(trial)[:MOST_ITEMS]}
    return {way: row_of(trial, choose, truth, "shop", one.incident.id) for way, choose in ways.items()}


def row_of(trial: Trial, choose: Way, truth: set[EntityId], source: str, name: str) -> Row:
    """One way's explanation of the candidate on trial, judged as a user's is, and judged anew."""
    pieces = choose(trial)
    found = judged(trial, pieces)
    rng = np.random.default_rng(FRESH_SEED)
    own, anybody = (
        beaten(trial, pieces, random_deletions(pool, pieces, DRAWS, rng)) if pieces else None
        for pool in (trial.own, trial.everything)
    )
    return Row(
        incident=name,
        source=source,
        right=trial.entity in truth,
        nobody=not truth,
        probability=found.probability,
        items=len(pieces),
        weight=found.weight,
        deletion=found.deletion,
        first_without=found.instead is None,
        stays_first=found.stays_first,
        judged_own=found.beats_own,
        judged_any=found.beats_any,
        beats_own=own,
        beats_any=anybody or 0.0,
    )


@cache
def _shipped() -> Ranker:
    return shipped_ranker()


@cache
def _network() -> Ranker:
    return registry.load(MODELS / "simulated")


@cache
def _random() -> Ranker:
    return registry.create("random")


# --- what comes of them -------------------------------------------------------------------------------------------------------


def chosen_weight(validation: Sequence[dict[str, Row]]) -> float | None:
    """The least threshold that random rankings almost never reach, and above which explanations pass; None where none does."""
    rows = [found["step by step"] for found in validation]
    by_chance = [found["random ranking"] for found in validation]
    for weight in WEIGHTS:
        strong = [row for row in rows if row.strong(weight)]
        fooled = np.mean([row.strong(weight) for row in by_chance])
        if strong and fooled <= MOST_BY_CHANCE and np.mean([row.passes for row in strong]) >= LEAST_PASSING:
            return weight
    return None


def summary(rows: Sequence[Row], least_weight: float) -> dict[str, Any]:
    """What is kept of one way's explanations: all of them, and those that are shown as strong."""
    strong = [row for row in rows if row.strong(least_weight)]
    return {"all": _of(rows), "strong": _of(strong), "weak": _of([row for row in rows if row not in strong])}


def _of(rows: Sequence[Row]) -> dict[str, Any]:
    if not rows:
        return {"explanations": 0}
    told = [row for row in rows if not row.nobody]
    own = [row.beats_own > LEAST_BEATEN for row in rows if row.beats_own is not None]
    body: dict[str, Any] = {
        "explanations": len(rows),
        "pass": _mean([row.passes for row in rows]),
        "beat_own": _mean(own),
        "beat_any": _mean([row.beats_any > LEAST_BEATEN for row in rows]),
        "without_own": len(rows) - len(own),
        "suffice": _mean([row.stays_first for row in rows]),
        "deletion": float(np.median([row.deletion for row in rows])),
        "weight": float(np.median([row.weight for row in rows])),
        "items": _mean([row.items for row in rows]),
        "with_cause": len(told),
        "right": _mean([row.right for row in told]),
    }
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in body.items()}


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return float(np.mean(values)) if values else None


def by_source(rows: Sequence[Row], least_weight: float) -> dict[str, Any]:
    """Summaries of everything, and of the shop and simulated systems apart."""
    sources = {"all": rows} | {name: [row for row in rows if row.source == name] for name in ("shop", "simulated")}
    return {name: summary(part, least_weight) for name, part in sources.items() if part}


def explained(role: str, simulated: int, processes: int) -> Iterator[dict[str, Row]]:
    """Rows of every incident of one role that something was ranked in."""
    recorded = len(from_folder(INCIDENTS, labels=Labels.TOLD, part=PARTS[role]))
    job = partial(rows_of, role)
    found: dict[int, dict[str, Row]] = {}
    with progress(role, recorded + simulated) as step:
        for index, rows in in_processes(job, range(recorded + simulated), processes):
            found[index] = rows
            step(str(index))
    yield from (found[index] for index in sorted(found) if found[index])


def main() -> None:
    """Explain, judge, write down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulated", type=int, default=200, help="simulated incidents of each role")
    parser.add_argument("--network", type=int, default=40, help="incidents that a network's explanations are compared on")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    validation = list(explained("validation", options.simulated, options.processes))
    held_out = list(explained("held-out", options.simulated, options.processes))
    with progress("network", options.network) as step:
        network = []
        for index, rows in in_processes(network_rows_of, range(options.network), options.processes):
            network.append(rows)
            step(str(index))
    write_down(validation, held_out, [rows for rows in network if rows], options.simulated)


def write_down(
    validation: Sequence[dict[str, Row]],
    held_out: Sequence[dict[str, Row]],
    network: Sequence[dict[str, Row]],
    simulated: int,
) -> None:
    """Choose the threshold, say if it is another one than the code has, and keep what came out."""
    weight = chosen_weight(validation)
    if weight != LEAST_WEIGHT:
        print(f"validation asks for a threshold of {weight}, rca.models.attribution has {LEAST_WEIGHT}", file=sys.stderr)
    ways = (*WAYS, "random ranking")
    write_result(
        EXPLANATIONS,
        {
            "ranker": _shipped().name,
            "code": code_digest(),
            "seeds": SEEDS,
            "simulated": simulated,
            "draws": DRAWS,
            "least_beaten": LEAST_BEATEN,
            "least_weight": LEAST_WEIGHT,
            "asked_for": weight,
            "weights": WEIGHTS,
            "most_by_chance": MOST_BY_CHANCE,
            "least_passing": LEAST_PASSING,
            "validation": {way: by_source([found[way] for found in validation], LEAST_WEIGHT) for way in ways},
            "held-out": {
                way: by_source([found[way] for found in held_out], LEAST_WEIGHT) for way in ("step by step", "random ranking")
            },
            "network": {way: summary([found[way] for found in network], LEAST_WEIGHT) for way in network[0]} if network else {},
            "rows": [asdict(found["step by step"]) for found in held_out],
        },
    )
    for role, rows in (("validation", validation), ("held-out", held_out)):
        print(role, summary([found["step by step"] for found in rows], LEAST_WEIGHT))


if __name__ == "__main__":
    main()
