"""Who is trained on, and who is tested. Every split is a list of folds over positions in the list of truths.

Repetitions of one injection (Truth.group) never stand on both sides of a fold, and never in training and validation both.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from rca.errors import BadInput, UnknownName
from rca.evaluation.predictions import Truth

VALIDATION_SHARE: Final = 0.2
FOLDS: Final = 5
FORWARD_BLOCKS: Final = 4


@dataclass(frozen=True)
class Fold:
    """Positions to train on, to stop early on, and to test on. `name` says what is held out."""

    name: str
    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]


def folds(truths: Sequence[Truth], seed: int = 0, k: int = FOLDS) -> list[Fold]:
    """K folds inside every system, groups kept whole, balanced by fault kind and size. A system trains on itself alone."""
    found = []
    for system, places in _by(lambda t: t.system, truths).items():
        groups = _by_group(truths, places)
        parts = min(k, len(groups))
        expected = "at least two groups of (service, fault kind), or --split zero-shot, which needs no training"
        _expect(parts > 1, f"system {system}", expected, f"{len(groups)}")
        for number, test in enumerate(_balanced(groups, parts, seed)):
            found.append(_fold(f"{system} {number + 1}/{parts}", truths, places, test, seed))
    return found


def leave_system_out(truths: Sequence[Truth], seed: int = 0) -> list[Fold]:
    """Train on all other systems, test on one that was never seen."""
    systems = _by(lambda t: t.system, truths)
    _expect(len(systems) > 1, "leave-system-out", "at least two systems", ", ".join(systems) or "none")
    return [_fold(f"without {system}", truths, range(len(truths)), test, seed) for system, test in systems.items()]


def leave_fault_out(truths: Sequence[Truth], seed: int = 0) -> list[Fold]:
    """Inside every system: train on all other fault kinds, test on one that was never seen."""
    return _leave_out(truths, seed, "fault kind", lambda t: t.fault_kind)


def leave_service_out(truths: Sequence[Truth], seed: int = 0) -> list[Fold]:
    """Inside every system: train on incidents of other services, test on those of one service."""
    return _leave_out(truths, seed, "service", lambda t: t.group[1])


def forward(truths: Sequence[Truth], seed: int = 0, blocks: int = FORWARD_BLOCKS) -> list[Fold]:
    """Inside every system, in order of time: train on earlier blocks, test on the next. The first block is never tested.

    A group that the test block repeats is left out of its training.
    """
    found = []
    for system, places in _by(lambda t: t.system, truths).items():
        times = [truths[place].start_ns for place in places]
        _expect(len(set(times)) > 1, f"system {system}", "incidents at different times", "all at the same time")
        ordered = sorted(places, key=lambda place: truths[place].start_ns)
        parts = [part.tolist() for part in np.array_split(np.array(ordered), min(blocks, len(ordered)))]
        for number in range(1, len(parts)):
            past = [place for part in parts[:number] for place in part]
            found.append(_fold(f"{system} block {number + 1}/{len(parts)}", truths, past, parts[number], seed))
    return found


def zero_shot(truths: Sequence[Truth], seed: int = 0) -> list[Fold]:  # noqa: ARG001 - all splits share one signature
    """No labels at all: nothing to train on, everything is tested."""
    return [Fold("no labels", (), (), tuple(range(len(truths))))]


SPLITS: Final[dict[str, Callable[[Sequence[Truth], int], list[Fold]]]] = {
    "folds": folds,
    "leave-system-out": leave_system_out,
    "leave-fault-out": leave_fault_out,
    "leave-service-out": leave_service_out,
    "forward": forward,
    "zero-shot": zero_shot,
}


def split(name: str, truths: Sequence[Truth], seed: int = 0) -> list[Fold]:
    """Folds of a split by name. Raises UnknownName, or BadInput if the incidents do not allow it."""
    if name not in SPLITS:
        raise UnknownName("split", name, SPLITS)
    _expect(len(truths) > 0, "evaluation", "labelled incidents", "none")
    return SPLITS[name](truths, seed)


def hold_out(truths: Sequence[Truth], places: Iterable[int], seed: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Cut whole groups, about a fifth of the incidents, off a training part for validation: (train, validation).

    A part with fewer than five groups is kept whole.
    """
    places = list(places)
    groups = _by_group(truths, places)
    if len(groups) < 5:
        return tuple(places), ()
    rng = np.random.default_rng(seed)
    names = list(groups)
    held: set[int] = set()
    for position in rng.permutation(len(names)):
        members = groups[names[position]]
        if len(held) + len(members) <= max(1, round(VALIDATION_SHARE * len(places))):
            held.update(members)
    return tuple(p for p in places if p not in held), tuple(p for p in places if p in held)


def _leave_out(truths: Sequence[Truth], seed: int, what: str, key: Callable[[Truth], str]) -> list[Fold]:
    found = []
    for system, places in _by(lambda t: t.system, truths).items():
        values = defaultdict(list)
        for place in places:
            values[key(truths[place])].append(place)
        _expect(len(values) > 1, f"system {system}", f"at least two values of {what}", ", ".join(values))
        found += [_fold(f"{system} without {value}", truths, places, values[value], seed) for value in sorted(values)]
    return found


def _fold(name: str, truths: Sequence[Truth], places: Iterable[int], test: Sequence[int], seed: int) -> Fold:
    tested = {truths[place].group for place in test}
    out = set(test)
    train, validation = hold_out(truths, [p for p in places if p not in out and truths[p].group not in tested], seed)
    return Fold(name, train, validation, tuple(sorted(test)))


def _balanced(groups: dict[Hashable, list[int]], parts: int, seed: int) -> list[list[int]]:
    """Deal whole groups into parts, largest first, each to the part with the fewest of its fault kind, then the fewest at all."""
    rng = np.random.default_rng(seed)
    names = list(groups)
    shuffled = [names[position] for position in rng.permutation(len(names))]
    dealt: list[list[int]] = [[] for _ in range(parts)]
    kinds: list[Counter[str]] = [Counter() for _ in range(parts)]
    for name in sorted(shuffled, key=lambda n: -len(groups[n])):
        kind = str(name[-1]) if isinstance(name, tuple) else ""
        chosen = min(range(parts), key=lambda i: (kinds[i][kind], len(dealt[i])))
        dealt[chosen] += groups[name]
        kinds[chosen][kind] += len(groups[name])
    return dealt


def _by(key: Callable[[Truth], str], truths: Sequence[Truth]) -> dict[str, list[int]]:
    parts: dict[str, list[int]] = defaultdict(list)
    for place, truth in enumerate(truths):
        parts[key(truth)].append(place)
    return dict(sorted(parts.items()))


def _by_group(truths: Sequence[Truth], places: Iterable[int]) -> dict[Hashable, list[int]]:
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for place in sorted(places, key=lambda p: (truths[p].group, truths[p].incident_id)):
        groups[truths[place].group].append(place)
    return groups


def _expect(holds: bool, where: str, expected: str, found: str) -> None:
    if not holds:
        raise BadInput(where, expected=expected, found=found)
