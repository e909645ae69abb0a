"""How postmortems write times, names and shares."""

from __future__ import annotations

from collections.abc import Sequence

from rca.drawing.foreign import name_of, plain
from rca.incidents.incident import Label
from rca.postmortem.account import Account, fault_title
from rca.telemetry import SECOND_NS, EntityId
from rca.wording import clock, count, number, percent, seconds


def at(account: Account, time_ns: int) -> str:
    """A time of day, with its date where that is another than the incident's."""
    day = clock(account.incident.window.start_ns, date=True)[:10]
    return clock(time_ns, date=clock(time_ns, date=True)[:10] != day)


def apart(earlier_ns: int, later_ns: int, point: str) -> str:
    """How far a time is from a point in time: "30 s after the onset"."""
    distance = later_ns - earlier_ns
    if abs(distance) < SECOND_NS // 2:
        return f"at {point}"
    return f"{lasting(abs(distance))} {'after' if distance > 0 else 'before'} {point}"


def lasting(duration_ns: int) -> str:
    """A duration, from days on in days."""
    days = duration_ns / SECOND_NS / 86400
    return count(round(days), "day") if days >= 2 else seconds(duration_ns / SECOND_NS)


def share(bad: float, of: float) -> str:
    """ "57 of 690 (8.3 %)"."""
    return f"{number(bad)} of {number(of)} ({percent(bad / of if of else 0.0)})"


def named(entities: Sequence[EntityId], joint: str = "and") -> str:
    """Names in a sentence, the first four of them."""
    names = [name_of(entity) for entity in entities[:4]]
    names += [f"{len(entities) - 4} more"] if len(entities) > 4 else []
    return f" {joint} ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def causes_in_words(account: Account) -> str:
    """The labelled causes with their faults; empty where no label names any."""
    told = [cause_of(label) for label in account.labels if label.entity is not None]
    return ", ".join(dict.fromkeys(told))


def cause_of(label: Label) -> str:
    """The cause that a label names, with its fault."""
    title = fault_title(label.fault_kind)
    name = name_of(label.entity.entity()) if label.entity is not None else "nobody to blame"
    return f"{name} ({title})" if title else name


def nobody_in_words(account: Account) -> str:
    """What a label says where nobody is to blame."""
    return next((fault_title(label.fault_kind) for label in account.labels if label.entity is None), "")


def said_by(label: Label) -> str:
    """Who says it: "injected by rca shop", "confirmed by anna"; of quiet times "said by rca shop"."""
    how = "said" if label.entity is None else label.provenance
    return f"{how} by {plain(label.author, 64)}" if label.author else label.provenance
