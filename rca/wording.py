"""How numbers, times and foreign text are written for people."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

_SECOND_STEPS: Final = ((1e-6, 1e9, "ns"), (1e-3, 1e6, "us"), (1.0, 1e3, "ms"), (120.0, 1.0, "s"), (7200.0, 1 / 60, "min"))
_BYTE_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")
_NAMED: Final = 3
_MARKS: Final = ":;,.\"'()[]{}"
_HIDDEN: Final = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Unicode categories that move the cursor, colour the terminal or reorder what stands beside them."""


def printable(text: str, most: int | None = None) -> str:
    """Text from elsewhere, safe for a terminal: control and formatting characters are shown as escapes, the end may be cut."""
    shown = "".join(_escaped(c) if unicodedata.category(c) in _HIDDEN else c for c in text)
    return shown if most is None or len(shown) <= most else shown[: most - 3] + "..."


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def number(value: float) -> str:
    """At most three digits that matter: 0.037, 2.1, 84, 1,240."""
    if not math.isfinite(value):
        return "unknown"
    size = abs(value)
    if size >= 99.95 or size == 0:
        return f"{value:,.0f}"
    if size >= 9.95:
        return _trimmed(f"{value:.1f}") if size < 20 else f"{value:.0f}"
    if size >= 0.995:
        return _trimmed(f"{value:.1f}")
    return f"{value:.2g}" if size >= 1e-3 else f"{value:.1e}"


def _trimmed(text: str) -> str:
    return text.removesuffix(".0")


def seconds(value: float) -> str:
    """A duration, from nanoseconds to hours."""
    for limit, factor, unit in _SECOND_STEPS:
        if abs(value) < limit * 0.995:  # 999 us is 1 ms
            return f"{number(value * factor)} {unit}" if value else "0 s"
    return f"{number(value / 3600)} h"


def size(value: float) -> str:
    """A number of bytes in binary units."""
    step = 0
    while abs(value) >= 1023.5 and step < len(_BYTE_UNITS) - 1:
        value, step = value / 1024, step + 1
    return f"{number(value)} {_BYTE_UNITS[step]}"


def percent(share: float) -> str:
    """A share of 1 as a percentage; what is not quite nothing or not quite everything never reads as 0 % or 100 %."""
    value = 100 * share
    if 0 < value < 0.1:
        return "<0.1 %"
    if 99.9 < value < 100:
        return ">99.9 %"
    return f"{number(value)} %" if value < 99.05 else f"{_trimmed(f'{value:.1f}')} %"


def probability(share: float) -> str:
    """A probability in whole percent: more digits would claim more than a model knows."""
    if 0 < share < 0.01:
        return "<1 %"
    if 0.99 < share < 1:
        return ">99 %"
    return f"{100 * share:.0f} %"


def quantity(value: float, unit: str) -> str:
    """A value with its unit, a code such as s, By, By/s, 1 (a share), 1/s, {cpu}; other units follow the number as they are."""
    if not math.isfinite(value):
        return "unknown"
    if unit == "s":
        return seconds(value)
    if unit == "By":
        return size(value)
    if unit == "By/s":
        return f"{size(value)}/s"
    if unit == "%":
        return percent(value)
    if unit == "1/s":
        return f"{number(value)}/s"
    if unit == "{cpu}":
        return f"{number(value)} cores"
    if unit.startswith("{"):
        noun = unit.strip("{}")
        return f"{number(value)} {noun}{'es' if noun.endswith('s') else 's'}"
    return f"{number(value)} {unit}".rstrip() if unit != "1" else number(value)


def count(n: float, noun: str) -> str:
    """A count with its noun in the right number."""
    return f"{number(n)} {noun}{'' if n == 1 else 's'}"


def alike(texts: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of texts that say the same of different things, in order: they differ in one name, wherever it stands."""
    groups: list[list[str]] = []
    for text in texts:
        group = next((group for group in groups if _names_that_differ(group[0], text)), None)
        if group is None:
            groups.append([text])
        else:
            group.append(text)
    return [tuple(group) for group in groups]


def together(group: Sequence[str]) -> str:
    """One sentence for a group of `alike`: the first of them, and of what else the same is to be said."""
    others = [names[1] for text in group[1:] if (names := _names_that_differ(group[0], text))]
    rest = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
    return f"{group[0]}; the same for {', '.join(others[:_NAMED])}{rest}" if others else group[0]


def _names_that_differ(first: str, second: str) -> tuple[str, str] | None:
    """The two names, if putting one for the other makes the texts equal. `pods.apps` may also stand there as `pods`."""
    words = zip(first.split(" "), second.split(" "), strict=False)
    one, other = next(((a.strip(_MARKS), b.strip(_MARKS)) for a, b in words if a != b), ("", ""))
    if not (one[:1].isalpha() and other[:1].isalpha() and _without(first, one) == _without(second, other)):
        return None
    return one, other


def _without(text: str, name: str) -> str:
    return text.replace(name, "*").replace(name.partition(".")[0], "*")


def clock(time_ns: int, *, date: bool = False) -> str:
    """Time of day, UTC, to the second; with its date on request."""
    moment = datetime.fromtimestamp(time_ns // 10**9, UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S" if date else "%H:%M:%S")


def excerpt(text: str, most: int) -> str:
    """A text from elsewhere on one line, its end cut after `most` characters."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[:most] + "…"


def listed(names: Sequence[object], most: int) -> str:
    """The first of several names; the rest is counted."""
    rest = len(names) - most
    return ", ".join(map(str, names[:most])) + (f" and {rest} more" if rest > 0 else "")
