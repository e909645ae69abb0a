"""Every error the product raises on purpose.

    RcaError
    ├── BadInput            the caller's data, file or option is wrong; trying again changes nothing
    │   ├── BadTelemetry    a frame, file or record does not have the documented shape
    │   ├── BadBundle       an incident bundle is damaged or of an unknown version
    │   ├── BadGraph        a service graph contradicts itself
    │   ├── BadCheckpoint   a model file is damaged, or was trained for other features
    │   └── UnknownName     an id, entity, ranker or format that does not exist here
    ├── Unavailable         a source or sink did not answer; trying again may help
    │   └── Overloaded      there is no room now; it says after how long to try again
    ├── Rejected            a source or sink refused; trying again does not help
    ├── StorageFull         the disk refused a write; what was stored before is intact
    └── TrainingDiverged    the loss stopped being a number

A message says what was expected, what was found, and where. The command line prints it as one line and exits with `exit_code`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from rca.wording import listed

_LISTED: Final = 12


class RcaError(Exception):
    """Base of all errors that `rca` raises on purpose."""

    exit_code = 1


class BadInput(RcaError):
    """The caller's input is wrong: `where` it stands, what was `expected` and what was `found`."""

    exit_code = 2

    def __init__(self, where: str, *, expected: str, found: str) -> None:
        self.where, self.expected, self.found = where, expected, found
        super().__init__(f"{where}: expected {expected}, found {found}")

    def __reduce__(self) -> tuple[Callable[..., BadInput], tuple[type[BadInput], str, dict[str, str]]]:
        """What it takes to raise it again in another process: the message is made of the parts, not the other way round."""
        return _again, (type(self), str(self), vars(self))


def _again(kind: type[BadInput], message: str, parts: dict[str, str]) -> BadInput:
    error = kind.__new__(kind, message)
    vars(error).update(parts)
    return error


class BadTelemetry(BadInput):
    """A telemetry frame, file or record does not have the documented shape."""


class BadBundle(BadInput):
    """An incident bundle is damaged or of an unknown version."""


class BadGraph(BadInput):
    """A service graph contradicts itself."""


class BadCheckpoint(BadInput):
    """A model file is damaged, or was trained for other features."""


class UnknownName(BadInput):
    """A name that does not exist here; the message offers the nearest ones that do, or the first of all and how many more."""

    def __init__(self, where: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        near = _nearest(name, known)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {listed(known, _LISTED) or 'none'}"
        super().__init__(where, expected="a known name", found=f"{name!r} ({hint})")


def _nearest(name: str, known: Sequence[str]) -> list[str]:
    """Up to three names that are written much the same, whatever their case."""
    spelled = {each.casefold(): each for each in known}
    return [spelled[each] for each in difflib.get_close_matches(name.casefold(), spelled, n=3, cutoff=0.5)]


class Unavailable(RcaError):
    """A source or sink did not answer; trying again may help."""


class Overloaded(Unavailable):
    """There is no room for more now; trying again after `retry_after_s` seconds may help."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class Rejected(RcaError):
    """A source or sink refused the request; trying again does not help."""


class StorageFull(RcaError):
    """The disk refused a write; what was stored before is intact."""


class TrainingDiverged(RcaError):
    """The training loss stopped being a finite number."""
