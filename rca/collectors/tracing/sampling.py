"""Which traces to read of more than can be read, so that counts of the sample still compare over time.

A quota per slice of time would saturate: a service whose traffic halves would show as many traces as before. So the share that is
read is the same in every slice, before and during the incident, for all traces of one stratum (how they begin: at which service,
and with which operation where known). It differs between strata, so that rare ones are not lost among frequent ones. Shares are
powers of two and choices depend on times and trace ids alone: the same question gets the same sample, a larger budget a superset.

Two means, in this order: `thinned` looks only at a part of every slice where searches would be cut off; `chosen` takes those of
the listed traces whose hash is small enough.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from rca.bins import BIN_NS
from rca.telemetry import Interval

SLICE_NS: Final = 8 * BIN_NS
"""Halves of a slice begin and end with bins, down to one bin; a bin that is looked at in part is so in every slice."""
MOST_HALVINGS: Final = 12
_STEP: Final = 0.8


@dataclass(frozen=True)
class Listed:
    """A trace that a search named: its id, start, and how it begins (its stratum, in words)."""

    trace_id: str
    start_ns: int
    stratum: str


@dataclass(frozen=True)
class Plan:
    """Shares that hold for several stretches of time, so that samples of them compare: halvings by what is searched for, and by
    stratum. What a plan does not name is read whole."""

    looked_at: Mapping[str, int] = field(default_factory=dict)
    taken: Mapping[str, int] = field(default_factory=dict)

    def merged(self, other: Plan) -> Plan:
        """The smaller share of both, everywhere."""
        return Plan(_largest(self.looked_at, other.looked_at), _largest(self.taken, other.taken))

    def halvings(self, searched: str, stratum: str) -> int:
        """How often the share of a stratum is halved, all told."""
        return self.looked_at.get(searched, 0) + self.taken.get(stratum, 0)


def slices(start_ns: int, end_ns: int, slice_ns: int = SLICE_NS) -> list[int]:
    """Starts of the slices that touch [start_ns, end_ns), at multiples of their length."""
    return list(range(start_ns // slice_ns * slice_ns, end_ns, slice_ns))


def spread(items: Sequence[int]) -> list[int]:
    """The same items in an order whose every beginning is spread over all of them, so that it can be cut off anywhere."""
    return sorted(items, key=lambda item: (_uniform(str(item)), item))


def thinned(slice_start: int, halvings: int, slice_ns: int = SLICE_NS) -> Interval:
    """The part of a slice that is looked at: it is halved so many times, and which half stays is drawn from the slice's start.

    Parts are nested: what more halvings keep, fewer keep too.
    """
    draws = int.from_bytes(blake2b(str(slice_start).encode(), digest_size=4).digest(), "big")
    start, length = slice_start, slice_ns
    for halving in range(halvings):
        length //= 2
        start += length * (draws >> halving & 1)
    return Interval(start, start + length)


def chosen(listed: Iterable[Listed], most: int, least: Mapping[str, int] | None = None) -> tuple[list[Listed], dict[str, int]]:
    """(traces to read, halvings per stratum): at most `most`, as many of every stratum as of the others where there are enough.

    `least` are halvings that were settled before. The traces come in an order whose every beginning is a thinner sample of the
    same kind.
    """
    least = least or {}
    by_stratum: dict[str, list[tuple[float, Listed]]] = defaultdict(list)
    for trace in {trace.trace_id: trace for trace in listed}.values():
        draw = _uniform(trace.trace_id) * 2 ** least.get(trace.stratum, 0)
        if draw < 1:
            by_stratum[trace.stratum].append((draw, trace))
    quota = float(most)
    while True:
        more = {stratum: max(0, math.ceil(math.log2(len(traces) / quota))) for stratum, traces in by_stratum.items()}
        taken = [
            (draw * 2 ** more[stratum], trace)
            for stratum, traces in by_stratum.items()
            for draw, trace in traces
            if draw * 2 ** more[stratum] < 1
        ]
        if len(taken) <= most:
            break
        quota *= _STEP
    taken.sort(key=lambda one: (one[0], one[1].trace_id))
    return [trace for _, trace in taken], {stratum: least.get(stratum, 0) + times for stratum, times in more.items()}


def shown(halvings: int) -> str:
    """A share as people say it."""
    return f"1 in {2**halvings:,}" if halvings else "all"


def _largest(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    return {name: max(first.get(name, 0), second.get(name, 0)) for name in sorted({*first, *second})}


def _uniform(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(blake2b(text.encode(), digest_size=6).digest(), "big") / 2**48
