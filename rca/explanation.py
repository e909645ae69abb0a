"""What an explanation is worth: evidence that was taken away and put to the test, and how the answer holds when data is missing.

Plain values that go into JSON as they are; rca.models.attribution finds them, rca.evaluation.stability the second part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rca.ranking import Evidence
from rca.telemetry import EntityId
from rca.wording import count, listed, probability

Strength = Literal["strong", "weak"]


@dataclass(frozen=True)
class Item:
    """One piece of evidence: the signals (rca.signals) that were deleted with it, and what its deletion did.

    `alone` is how much of the candidate's probability goes with this piece, `left` what is left once it and the items before it
    are deleted.
    """

    evidence: Evidence
    signals: tuple[str, ...]
    alone: float
    left: float


@dataclass(frozen=True)
class CallEffect:
    """A call into or out of the candidate, and its probability if the call were not known."""

    caller: EntityId
    callee: EntityId
    probability: float


@dataclass(frozen=True)
class Explanation:
    """The evidence that a candidate owes its place to, the most telling first, and how it fared when it was tested.

    `deletion` is how much of `probability` goes when all items are deleted, `weight` the same as a fall of the log odds; another
    candidate, `instead`, may then lead. `sufficiency` is the probability with the items and nothing else of the candidate's own
    telemetry; `stays_first` says whether that suffices. `beats_own` and `beats_any` are the shares of `draws` random deletions of
    the same size, of the candidate's and of anybody's telemetry, that lower the probability less; `beats_own` is None where
    too little else was observed of the candidate to delete as much. Where the same is true of all telemetry, `draws` and
    `beats_any` are 0. `why_weak` is empty where the explanation is strong.
    """

    entity: EntityId
    probability: float
    items: tuple[Item, ...]
    deletion: float
    weight: float
    instead: EntityId | None
    sufficiency: float
    stays_first: bool
    beats_own: float | None
    beats_any: float
    draws: int
    strength: Strength
    why_weak: tuple[str, ...]
    calls: tuple[CallEffect, ...] = ()


@dataclass(frozen=True)
class Answer:
    """Whom a report names under a condition; None where it says that there is no fault, points at nobody, or has nothing to rank.

    `same` as without the condition.
    """

    condition: str
    words: str
    first: EntityId | None
    probability: float
    same: bool


@dataclass(frozen=True)
class Stability:
    """Whether the answer would be another one if something were missing, or the onset elsewhere. `first` is who is named now."""

    first: EntityId | None
    answers: tuple[Answer, ...]

    @property
    def holds(self) -> bool:
        """True if no condition changes the answer."""
        return all(answer.same for answer in self.answers)

    def sentences(self, name: Sequence[str]) -> tuple[str, ...]:
        """What holds and what does not. `name`: of who is named under every condition, empty where nobody is."""
        same = [answer.words for answer in self.answers if answer.same]
        said = [f"The answer stays the same {listed(same, len(same))}."] if same else []
        for answer, first in zip(self.answers, name, strict=True):
            if not answer.same:
                who = f"{first} would come first ({probability(answer.probability)})" if first else "nobody would be named"
                said.append(f"It changes {answer.words}: {who}.")
        return tuple(said)


def fared(explanation: Explanation, name: str, instead: str) -> tuple[str, ...]:
    """How the explanation fared, in sentences. Names of the candidate and of whoever would lead."""
    if not explanation.items:
        return explanation.why_weak
    these = "it" if len(explanation.items) == 1 else f"these {len(explanation.items)}"
    after = probability(explanation.items[-1].left)
    leads = f", and {instead} leads" if explanation.instead not in (None, explanation.entity) else ", and it stays first"
    said = [f"Without {these}: {probability(explanation.probability)} becomes {after}{leads}."]
    draws = explanation.draws
    beats = f"{draws * explanation.beats_any:.0f} of {count(draws, 'random deletion')} as large"
    if explanation.beats_own is not None:
        beats += f", and {draws * explanation.beats_own:.0f} of {draws} among what was seen of {name} itself"
    if draws:
        said.append(f"That is more than with {beats}.")
    holds = "keeps" if len(explanation.items) == 1 else "keep"
    keeps = f"{holds} it first" if explanation.stays_first else f"do{'es' * (holds == 'keeps')} not keep it first"
    said.append(f"With nothing else of {name}, {these} {keeps} ({probability(explanation.sufficiency)}).")
    return (*said, *explanation.why_weak)
