"""Trouble that a service passes on: calls fail at its callees, so it fails, logs errors and leaves work undone in turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from rca.deviations.calls import Calls, own_failures, summed
from rca.deviations.counts import Counts
from rca.deviations.sheet import Array, Sheet, service_rows
from rca.graph import Indices
from rca.signals import NODE_COLUMN
from rca.topology import Topology

_MOST_PER_CALL: Final = 4
"""Log lines, calls and requests that one failed call may explain; what is more has another reason."""
_FEWEST: Final = 3


@dataclass(frozen=True, eq=False)
class PassedOn:
    """How many more failures than usual, for N entities in Q stretches: (Q, N) each unless said otherwise."""

    received: Array  # calls to services that failed there, or that nobody there answered
    own: Array  # spans that failed although their children succeeded
    requests: Array  # requests it served that failed, there or below
    missing: Array  # calls that its requests used to make and that had no answer, made or not
    own_failures: tuple[Array, Array]
    """What `own` was counted from: failed spans by service, now and before, in the order of its key table."""

    @classmethod
    def of(cls, counts: Counts, calls: Calls, topology: Topology) -> PassedOn:
        """Counted from the spans of a window."""
        rows = len(topology.entities)
        there, there_before = (refused + charged for refused, charged in zip(calls.refused, calls.charged, strict=True))
        failed = np.where(calls.outgoing, _count_beyond(there, there_before, *calls.made), 0.0)
        services, spans, spans_before = counts.of("span", ["source"])
        own = own_failures(counts, calls, services)
        serving, served, served_before = counts.of("request", ["source"])
        errors, errors_before = counts.within("error", serving)
        callers, servers = service_rows(topology, calls.ends["source"]), service_rows(topology, serving["source"])
        requests, requests_before = summed(served, servers, rows)[:, callers], summed(served_before, servers, rows)[:, callers]
        answered, answered_before = (made - lost for made, lost in zip(calls.made, calls.lost, strict=True))
        missing = np.where(calls.outgoing, _count_short(answered, answered_before, requests, requests_before), 0.0)
        return cls(
            summed(failed, callers, rows),
            summed(_count_beyond(*own, spans, spans_before), service_rows(topology, services["source"]), rows),
            summed(_count_beyond(errors, errors_before, served, served_before), servers, rows),
            summed(missing, callers, rows),
            own,
        )

    def part(self, rows: Indices, change: Array) -> Array:
        """Part of a change in numbers that the failures received explain, 0 to 1, (Q, K); `change` is of entities `rows`, (K,).

        As large as the part of the failures that it received among all it shows, and only as far as their number goes.
        """
        received = self.received[:, rows]
        with np.errstate(invalid="ignore", divide="ignore"):
            reach = np.minimum(_MOST_PER_CALL * received / np.abs(change), 1.0)
            explained: Array = reach * received / (received + self.own[:, rows])
        return np.where((received >= _FEWEST) & (change != 0) & np.isfinite(explained), explained, 0.0)

    def discount(self, sheet: Sheet) -> None:
        """Take from what a service fails to do for its callers what its own callees failed to do for it."""
        every = np.arange(self.received.shape[1])
        for signal, change in (("success_residual", self.requests), ("quiet_callees", self.missing)):
            sheet.node[:, :, NODE_COLUMN[signal]] *= 1.0 - self.part(every, change)


def _count_beyond(now: Array, before: Array, made_now: Array, made_before: Array) -> Array:
    """How many more than the same share as before; what was never made before had no share."""
    return np.maximum(now - before * made_now / np.maximum(made_before, 1.0), 0.0)


def _count_short(now: Array, before: Array, made_now: Array, made_before: Array) -> Array:
    """How many fewer than the same share as before."""
    return np.maximum(before * made_now / np.maximum(made_before, 1.0) - now, 0.0)
