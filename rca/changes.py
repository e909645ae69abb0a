"""What is different between two rankings of one incident, in sentences: what somebody who watches it wants to read."""

from __future__ import annotations

from typing import Final

from rca.ranking import RankedCandidate, Ranking
from rca.telemetry import EntityId
from rca.wording import clock, printable, probability

_MOVED: Final = 0.10  # of probability; less is noise to a reader


def changes(before: Ranking, after: Ranking, *, top: int) -> tuple[str, ...]:
    """One sentence per change among the first `top` candidates, then of the window's start, then of the gaps. Empty if none."""
    return (*_of_candidates(before, after, top), *_of_window(before, after), *_of_gaps(before, after))


def _of_candidates(before: Ranking, after: Ranking, top: int) -> list[str]:
    then = {candidate.entity: candidate for candidate in before.candidates}
    found = []
    for candidate in after.candidates[:top]:
        name, now = _name(candidate.entity), probability(candidate.probability)
        old = then.get(candidate.entity)
        if old is None:
            found.append(f"{name} is new, {_ordinal(candidate.rank)} with {now}")
        elif candidate.rank == 1 and old.rank != 1:
            found.append(f"{name} is first now with {now}; it was {_ordinal(old.rank)} with {probability(old.probability)}")
        elif _matters(old, candidate, top):
            moved = "" if old.rank == candidate.rank else f", from {_ordinal(old.rank)} to {_ordinal(candidate.rank)}"
            found.append(f"{name} has {now}, {probability(old.probability)} before{moved}")
    present = {candidate.entity for candidate in after.candidates}
    return found + [f"{_name(c.entity)} is no longer there" for c in before.candidates[:top] if c.entity not in present]


def _matters(old: RankedCandidate, new: RankedCandidate, top: int) -> bool:
    """Whether it became much more or less probable, or came up among those that are shown."""
    return abs(new.probability - old.probability) >= _MOVED or (old.rank > top and new.probability >= _MOVED)


def _of_window(before: Ranking, after: Ranking) -> list[str]:
    then, now = before.window.start_ns, after.window.start_ns
    return [] if then == now else [f"the onset is taken to be {clock(now)} UTC, {clock(then)} before"]


def _of_gaps(before: Ranking, after: Ranking) -> list[str]:
    then, now = ({(gap.source, gap.reason) for gap in ranking.gaps} for ranking in (before, after))
    closed = sorted({source for source, _ in then} - {source for source, _ in now})
    opened = sorted(now - then) if closed or len(now) > len(then) else []
    return [f"{printable(source)} misses nothing any more" for source in closed] + [
        f"{printable(source)}: {printable(reason)}" for source, reason in opened if source not in {s for s, _ in then}
    ]


def _name(entity: EntityId) -> str:
    return printable(entity.name)


def _ordinal(rank: int) -> str:
    suffix = "th" if rank % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(rank % 10, "th")
    return f"{rank}{suffix}"
