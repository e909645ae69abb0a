"""Why a candidate is where it is: the evidence whose deletion costs it most, and whether that survives a test.

The evidence is chosen step by step: first the piece whose deletion lowers the candidate's probability most, then the one that
does with the first one gone, and so on. That is exact for any ranker, and finds pieces that stand in for each other, which
leaving out one at a time does not. `python -m scripts.explanations` compares the ways and fixes the thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final

import numpy as np

from rca.contracts import Case, Ranker
from rca.evidence import Facts, loud_signals
from rca.explanation import CallEffect, Explanation, Item
from rca.models.deletion import Piece, Standing, Trial
from rca.ranking import Evidence
from rca.signals import NODE_COLUMN, NODE_SIGNALS
from rca.telemetry import EntityId
from rca.wording import number

MOST_ITEMS: Final = 3
DRAWS: Final = 100
"""Random deletions that an explanation is compared with, among the candidate's telemetry and among anybody's."""
LEAST_BEATEN: Final = 0.95
"""An explanation is weak unless more than this share of random deletions lower the probability less."""
LEAST_WEIGHT: Final = math.log(1.1)
"""It is weak too where its deletion costs less than this in log odds, a tenth of the odds. Fixed on validation data."""
MOST_CALLS: Final = 12
_SEED: Final = 0
_LEAST_EFFECT: Final = 1e-9
_LEAST_CALL_EFFECT: Final = 0.005
_TRIES: Final = 20


def explain(case: Case, ranker: Ranker, entity: EntityId | None = None, *, seed: int = _SEED) -> Explanation | None:
    """The explanation of a candidate, of the first one by default; None where there are none.

    Asks the ranker some 150 to 300 times, on graphs of the size of the case's. `seed` is of the random deletions.
    """
    if entity is None:
        ranked = ranker.rank(case).candidates
        if not ranked:
            return None
        entity = ranked[0].entity
    trial = Trial(case, ranker, entity)
    pieces = telling(trial, loud_pieces(trial), MOST_ITEMS)
    return judged(trial, pieces, seed=seed)


def loud_pieces(trial: Trial) -> list[Piece]:
    """Evidence of the candidate that strays above what quiet times show, the loudest first."""
    of_signal = {signal: piece for piece in trial.own for signal in piece.signals}
    loud = [of_signal[signal.name] for signal in loud_signals(trial.case, trial.entity) if signal.name in of_signal]
    return list(dict.fromkeys(loud))


def telling(trial: Trial, pieces: Sequence[Piece], most: int) -> list[Piece]:
    """The pieces whose deletion, one after the other, lowers the candidate's probability most.

    Where none lowers it, the loudest goes first: another may have stood in for it. What turns out to change nothing is left out.
    """
    chosen: list[Piece] = []
    while len(chosen) < min(most, len(pieces)):
        left = [piece for piece in pieces if piece not in chosen]
        weights = [_weight(trial, [*chosen, piece]) for piece in left]
        chosen.append(left[int(np.argmax(weights))])  # of equal ones the loudest
    for piece in reversed(list(chosen)):
        rest = [other for other in chosen if other != piece]
        if _weight(trial, rest) >= _weight(trial, chosen) - _LEAST_EFFECT:
            chosen = rest
    return chosen


def _weight(trial: Trial, pieces: Sequence[Piece]) -> float:
    return trial.without(pieces).weight_from(trial.standing)


def random_deletions(
    pieces: Sequence[Piece], shown: Collection[Piece], draws: int, rng: np.random.Generator
) -> list[tuple[Piece, ...]]:
    """Deletions of pieces taken at random until as many signals are gone as with the pieces shown.

    One that holds all the pieces shown is drawn again: it is no rival of theirs. Empty where there hardly is another one.
    """
    size, taken = sum(piece.size for piece in shown), set(shown)
    found: list[tuple[Piece, ...]] = []
    for _ in range(_TRIES * draws):
        order = rng.permutation(len(pieces))
        sizes = np.cumsum([pieces[place].size for place in order])
        needed = int(np.searchsorted(sizes, size)) + 1
        deletion = tuple(pieces[place] for place in order[:needed])
        if not taken <= set(deletion):
            found.append(deletion)
        if len(found) == draws:
            return found
    return []


def beaten(trial: Trial, shown: Sequence[Piece], deletions: Iterable[Sequence[Piece]]) -> float | None:
    """Share of deletions that lower the candidate's probability less than that of the pieces shown; None without any."""
    lost = _weight(trial, shown)
    less = [_weight(trial, deletion) < lost - _LEAST_EFFECT for deletion in deletions]
    return float(np.mean(less)) if less else None


def rest_of(trial: Trial, shown: Collection[Piece]) -> list[Piece]:
    """What else was observed of the candidate."""
    return [piece for piece in trial.own if piece not in shown]


def judged(trial: Trial, pieces: Sequence[Piece], *, seed: int = _SEED) -> Explanation:
    """The explanation that these pieces make, put to the test."""
    rng = np.random.default_rng(seed)
    before, after, alone = trial.standing, trial.without(pieces), trial.without(rest_of(trial, pieces))
    own = beaten(trial, pieces, random_deletions(trial.own, pieces, DRAWS, rng)) if pieces else None
    everybody = beaten(trial, pieces, random_deletions(trial.everything, pieces, DRAWS, rng)) if pieces else None
    weight = after.weight_from(before)
    weak = tuple(_weaknesses(before, alone, own, everybody, weight) if pieces else [_NOTHING])
    return Explanation(
        entity=trial.entity,
        probability=before.probability,
        items=tuple(_items(trial, pieces)),
        deletion=after.fall_from(before),
        weight=weight,
        instead=after.leader if after.leader != trial.entity else None,
        sufficiency=alone.probability,
        stays_first=alone.rank == 1,
        beats_own=own,
        beats_any=everybody or 0.0,
        draws=0 if everybody is None else DRAWS,
        strength="weak" if weak else "strong",
        why_weak=weak,
        calls=tuple(_calls(trial)),
    )


_NOTHING: Final = "Weak: no telemetry of it that strays changes its probability."


def _weaknesses(before: Standing, alone: Standing, own: float | None, everybody: float | None, weight: float) -> Iterator[str]:
    if before.rank > 1:
        yield "Weak: another candidate comes first."
    if own is not None and own <= LEAST_BEATEN:
        yield "Weak: other telemetry of it matters as much."
    if everybody is None:
        yield "Weak: there is too little other telemetry to compare with."
    elif everybody <= LEAST_BEATEN:
        yield "Weak: telemetry deleted at random matters as much."
    if weight < LEAST_WEIGHT:
        yield "Weak: it would be about as probable without."
    if alone.rank > 1 and before.rank == 1:
        yield "Weak: this alone does not make it the first."


def _items(trial: Trial, pieces: Sequence[Piece]) -> Iterator[Item]:
    facts = Facts(trial.case)
    for place, piece in enumerate(pieces, start=1):
        alone = trial.without([piece]).fall_from(trial.standing)
        yield Item(_evidence(trial, facts, piece), piece.signals, alone, trial.without(pieces[:place]).probability)


def _evidence(trial: Trial, facts: Facts, piece: Piece) -> Evidence:
    """What the window shows of the loudest signal of a piece that it shows anything of."""
    loud = [signal.name for signal in loud_signals(trial.case, piece.entity) if signal.name in piece.signals]
    loud = loud or list(piece.signals)
    found = (facts.evidence_of(piece.entity, signal) for signal in loud)
    stated = next((evidence for evidence in found if evidence is not None), None)
    return stated or _unstated(trial, piece, loud[0])


def _unstated(trial: Trial, piece: Piece, signal: str) -> Evidence:
    """A signal whose telemetry has gone from the window, or was never kept in a form that can be quoted."""
    deviation = float(trial.case.deviations.node[trial.rows[piece.entity], NODE_COLUMN[signal]])
    title = NODE_SIGNALS[NODE_COLUMN[signal]].title
    return Evidence(signal, f"{title}: strays {number(abs(deviation))} robust standard deviations", None, None, "1", deviation)


def _calls(trial: Trial) -> Iterator[CallEffect]:
    """Calls into and out of the candidate that matter, those that matter most first. Of a hub the first MOST_CALLS are tried."""
    effects = [(trial.without([call]), call) for call in trial.calls[:MOST_CALLS]]
    effects.sort(key=lambda effect: -abs(effect[0].fall_from(trial.standing)))
    for standing, call in effects:
        if call.callee is not None and abs(standing.fall_from(trial.standing)) >= _LEAST_CALL_EFFECT:
            yield CallEffect(call.entity, call.callee, standing.probability)
