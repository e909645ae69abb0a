"""Text from elsewhere on a page: names, labels, messages and addresses that anybody may have written."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit

from rca.report import shown
from rca.telemetry import EARLIEST_NS, LATEST_NS, EntityId
from rca.wording import excerpt, printable

NAME: Final = 64
"""Characters of a name that a page shows."""
LINE: Final = 300
"""Characters of a message or a sentence that a page shows."""
_ADDRESS: Final = 2000
_MOST_MARKS: Final = 3  # no language writes more on one letter


def plain(text: str, most: int = LINE) -> str:
    """A text on one line: what moves the cursor or turns the direction of writing is shown as an escape, the end is cut.

    The template engine escapes it for HTML afterwards.
    """
    return excerpt(printable(_unstacked(" ".join(text[: 4 * most].split()))), most)  # a megabyte is cut before it is looked at


def _unstacked(text: str) -> str:
    """Without the marks above and below a letter that would cover the lines around it."""
    kept, marks = [], 0
    for letter in text:
        marks = marks + 1 if unicodedata.category(letter) in ("Mn", "Me") else 0
        if marks <= _MOST_MARKS:
            kept.append(letter)
    return "".join(kept)


def name_of(entity: EntityId, most: int = NAME) -> str:
    """Name of an entity as people read it (rca.report.shown), its end cut."""
    return excerpt(shown(replace(entity, name=entity.name[:LINE], namespace=entity.namespace[:LINE])), most)


def moment(time_ns: int | None) -> int | None:
    """A time that somebody sent, in ns since the epoch; None for one that no clock of ours shows, such as the year 1."""
    return time_ns if time_ns is not None and EARLIEST_NS <= time_ns < LATEST_NS else None


def address(text: str) -> str | None:
    """A link that may be followed: http or https with a host. None for any other, such as `javascript:`."""
    text = text.strip()
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018  it is checked when it is read
    except ValueError:
        return None
    if len(text) > _ADDRESS or parts.scheme not in ("http", "https") or not parts.hostname or not text.isprintable():
        return None
    return text
