"""The state of a shelf: one small file that names the last commit. Replacing it is what makes a commit happen."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rca.errors import BadInput

STATE_FILE: Final = "state.json"
VERSION: Final = 1

Ends = tuple[int, int]
"""Start and end of an interval, ns since the epoch."""


class StoredGap(BaseModel):
    """A Gap in the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    reason: str
    start_ns: int
    end_ns: int


class State(BaseModel):
    """What a shelf holds after a commit.

    `at_ns` is when the commit was made, `covered` the stretches of time that were collected, `spans_covered` those of them in
    which spans came at all, `complete_until_ns` until when nothing more is expected to arrive. `kept` names files below `kept/`
    that the writer needs to go on, `counts` is the writer's own. `retained_since_ns` ends the last hour that was deleted.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Annotated[int, Field(ge=VERSION, le=VERSION)] = VERSION
    commit: int = 0
    at_ns: int = 0
    complete_until_ns: int = 0
    stopped: bool = True
    covered: tuple[Ends, ...] = ()
    spans_covered: tuple[Ends, ...] = ()
    gaps: tuple[StoredGap, ...] = ()
    retained_since_ns: int | None = None
    kept: dict[str, tuple[str, ...]] = {}
    counts: dict[str, Any] = {}


def read_state(shelf: Path) -> State | None:
    """The state of a shelf; None if nothing was ever written to it. Raises BadInput if it is damaged or of another version."""
    path = shelf / STATE_FILE
    try:
        return State.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, found["loc"])) or "the file"
        raise BadInput(
            str(path), expected=f"the state of a store of version {VERSION}", found=f"{where}: {found['msg']}"
        ) from None


def joined(intervals: Iterable[Ends]) -> tuple[Ends, ...]:
    """Intervals in order, those that overlap or touch as one."""
    found: list[Ends] = []
    for start, end in sorted(intervals):
        if start >= end:
            continue
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return tuple(found)


def without(intervals: Iterable[Ends], taken: Iterable[Ends]) -> tuple[Ends, ...]:
    """What of the intervals no other interval takes."""
    left = joined(intervals)
    for start, end in joined(taken):
        pieces = (piece for a, b in left for piece in ((a, min(b, start)), (max(a, end), b)))
        left = joined(pieces)
    return left
