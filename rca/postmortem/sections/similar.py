"""Similar past incidents of the same system."""

from __future__ import annotations

from rca.documents.model import Block, Bullets, Question, Section, Text
from rca.drawing.similar import Gist, Similar, gist_of, similar_to
from rca.postmortem import sources
from rca.postmortem.account import Account


def similar_section(account: Account) -> Section:
    found = similar_to(account.incident, _gist(account), account.past)
    if not found:
        own = (account.incident.id, account.origin.name)
        others = sum(other.system == account.incident.system and other.id not in own for other, _ in account.past)
        told = (
            f"None of the {others} other incidents of this system in the store"
            if others
            else "The store has no other incident of this system"
        )
        words = f"{told} is like it in cause, kind of fault, signals or alerts." if others else f"{told}."
        blocks: tuple[Block, ...] = (Text(words, (sources.SIMILAR,)),)
    else:
        blocks = (Bullets(tuple(Text(_told(one), (sources.SIMILAR,)) for one in found)),)
    return Section(
        "Similar incidents", (*blocks, Question("Has this happened before? What was decided then, and was it done?")), "similar"
    )


def _gist(account: Account) -> Gist:
    """What is compared: the labelled cause where there is one, with the signals that speak for it."""
    made = gist_of(account.report)
    cause = account.cause
    if cause is None or cause == made.candidate:
        return made
    signals = tuple(dict.fromkeys(item.signal for item in sources.evidence_of(account)))
    family = next((one.fault_family for one in account.report.ranking.candidates if one.entity == cause), "")
    return Gist(cause, made.probability, made.level, family, signals)


def _told(one: Similar) -> str:
    known = {"labelled": "it was", "ranked": "ranked first:"}[one.known]
    cause = f"; {known} {one.cause}" if one.cause else ""
    said = "What solved it, as noted then" if one.solved else "Note"
    note = f" {said}: {one.note}" if one.note else ""
    title = "" if one.title == one.id else f" ({one.title})"
    return f"{one.id}{title} at {one.when}{cause}. Alike: {one.reasons}.{note}"
