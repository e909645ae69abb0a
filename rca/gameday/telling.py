"""What people say while a game day runs: what they think is broken, and that they have fixed it."""

from __future__ import annotations

import time
from pathlib import Path

from rca.errors import BadInput
from rca.gameday.folder import GameDay, Journal, entity_json, load
from rca.incidents.entities import find_entity
from rca.incidents.home import user_name
from rca.telemetry import EntityId


def note_guess(home: Path | None, name: str, text: str, who: str = "") -> tuple[int, EntityId]:
    """Keep a guess for the injection that runs now; its number and whom it names.

    Raises UnknownName for an entity that the system does not have, with the nearest; BadInput where nothing is injected.
    """
    at_ns = time.time_ns()  # looking things up must not count
    day = load(home, name)
    number = _current(day)
    entity = find_entity(f"entities of {name}", text, frozenset(day.entities))
    Journal(day.folder).add("guess", at_ns=at_ns, number=number, who=who or user_name(), entity=entity_json(entity))
    return number, entity


def note_fixed(home: Path | None, name: str, who: str = "") -> int:
    """Keep that the injection that runs now is fixed; its number. Raises BadInput where nobody can fix it."""
    at_ns = time.time_ns()
    day = load(home, name)
    number = _current(day)
    planned = dict(day.plan.ordered())[number] if day.plan else None
    if planned is None or planned.until != "fixed":
        raise BadInput(
            f"game day {name}", expected='an injection with `until = "fixed"`', found=f"{number}, which ends by itself"
        )
    if day.injected(number).injection.end_ns is not None:
        raise BadInput(f"game day {name}", expected="an injection that runs now", found=f"{number}, which is over")
    Journal(day.folder).add("fixed", at_ns=at_ns, number=number, who=who or user_name())
    return number


def _current(day: GameDay) -> int:
    if day.current is None:
        quiet = "nothing is injected just now" if day.state == "running" else f"it is {day.state}"
        raise BadInput(f"game day {day.name}", expected="an injection that runs now", found=quiet)
    return day.current
