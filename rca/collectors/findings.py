"""What a source says about itself when it is looked at: does it answer, what does it hold, what should be changed.

A collector that can be looked at has a `check()` beside `collect()`. `rca doctor` and `rca init` print what it returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from rca.errors import RcaError

Level = Literal["ok", "note", "warning", "failure"]
"""`failure` means that the source does not work at all and makes `rca doctor` exit with 1; `warning` that data is worse or less
than it could be; `note` is worth knowing."""


@dataclass(frozen=True)
class Finding:
    """One thing found at a source, in a sentence for people, and what to change: the setting by its name in `rca.toml`."""

    source: str
    level: Level
    text: str
    advice: str = ""


@runtime_checkable
class Checkable(Protocol):
    """A source that can be looked at.

    `check` is read-only and bounded in time. The first finding says whether the source answers, and its version. It may raise
    any RcaError: `checked` makes a failure of it.
    """

    name: str

    def check(self) -> Sequence[Finding]: ...


def checked(source: Checkable) -> tuple[Finding, ...]:
    """The findings of a source; an error of ours becomes a failure."""
    try:
        return tuple(source.check())
    except RcaError as error:
        return (Finding(source.name, "failure", str(error), f"see [{source.name}] in rca.toml"),)
