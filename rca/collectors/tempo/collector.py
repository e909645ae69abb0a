"""Reads a fair sample of the traces that Tempo keeps.

Tempo's search returns any of the matching traces where there are more than asked for, other ones each time. So it is asked slice
by slice, in parts of slices that are short enough for a complete answer (rca.collectors.tracing.sampling); of the traces that are
known then, the sample is drawn by hash, and its spans are read trace by trace.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from rca.collectors.findings import Finding
from rca.collectors.tempo.api import TempoApi, Trace
from rca.collectors.tempo.config import TempoConfig
from rca.collectors.tracing import gaps
from rca.collectors.tracing.budget import Asked, Budget, ask_all
from rca.collectors.tracing.rows import TraceRows
from rca.collectors.tracing.sampling import SLICE_NS, Listed, Plan, chosen, slices, spread, thinned
from rca.errors import Rejected, Unavailable
from rca.telemetry import SECOND_NS, Gap, Interval, Telemetry

_PROBES: Final = 3
_HALVINGS: Final = 6  # a part of 1.25 s: Tempo's times are whole seconds
_EVERYTHING: Final = "all traces"


@dataclass
class _Listing:
    """What the searches came to. `halvings` says which part of every slice they were about."""

    interval: Interval
    halvings: int
    found: dict[int, list[Listed]] = field(default_factory=dict)
    failed: dict[int, Unavailable | Rejected] = field(default_factory=dict)
    left: list[int] = field(default_factory=list)
    full: list[int] = field(default_factory=list)  # cut off although the part is as short as can be
    seen: set[str] = field(default_factory=set)

    def take(self, got: Asked[int, tuple[list[Listed], bool]]) -> list[int]:
        """Add answers; returns the slices that have to be asked for again, shorter, because their answers were cut off."""
        self.found |= {start: listed for start, (listed, _) in got.found.items()}
        self.failed |= got.failed
        self.left += got.left
        whole = (trace for listed, cut in got.found.values() for trace in listed if not cut)
        self.seen.update(trace.trace_id for trace in whole if self.interval.start_ns <= trace.start_ns < self.interval.end_ns)
        full = [start for start, (_, cut) in got.found.items() if cut]
        if full and self.halvings < _HALVINGS:
            self.halvings += 1
            return full
        self.full += full
        return []

    def traces(self) -> list[Listed]:
        """Traces that start in the interval and in the part of a slice that is looked at."""
        kept, missing = list[Listed](), {*self.failed, *self.left}
        for start, listed in self.found.items():
            looked_at = thinned(start, self.halvings)
            first, last = max(looked_at.start_ns, self.interval.start_ns), min(looked_at.end_ns, self.interval.end_ns)
            if start not in missing:
                kept += [trace for trace in listed if first <= trace.start_ns < last]
        return kept

    def sample(self, read: int) -> gaps.Sample:
        """How many traces there are beside those that were read."""
        known = len(self.traces())
        if self.failed or self.left or self.full:
            return gaps.Sample(read, max(known, len(self.seen)), "at least")
        return gaps.Sample(read, known << self.halvings, "about" if self.halvings else "exactly")


class TempoCollector:
    """A contracts.Collector of spans."""

    name = "tempo"

    def __init__(self, config: TempoConfig) -> None:
        self.config = config

    def collect(self, start_ns: int, end_ns: int) -> Telemetry:
        """Spans that began in [start_ns, end_ns). Raises Unavailable or Rejected if no search is answered."""
        return self.read(start_ns, end_ns).telemetry

    def read(self, start_ns: int, end_ns: int, plan: Plan | None = None) -> gaps.Reading:
        """The same, and how much of all that is. With a `plan`, at its shares, or smaller ones where limits ask for it."""
        interval, budget, api = Interval(start_ns, end_ns), Budget(self.config), TempoApi(self.config)
        listing = self._listed(api, budget, interval, plan)
        sample, shares = chosen(listing.traces(), self.config.max_traces, plan.taken if plan else None)
        read = ask_all(lambda listed: api.trace(listed, budget), sample, budget, self.config.concurrency)
        left = set(read.left)
        sample = sample[: next((place for place, listed in enumerate(sample) if listed in left), len(sample))]
        rows = TraceRows()
        for listed in sample:
            if (trace := read.found.get(listed)) is not None:
                rows.take(trace.rows, {listed.trace_id})
        size = listing.sample(sum(read.found.get(listed) is not None for listed in sample))
        found = gaps.sampled(self.name, interval, size, {name: listing.halvings + times for name, times in shares.items()})
        found += self._shortfall(listing, budget, read, sample)
        return gaps.Reading(rows.telemetry(self.name, interval, found), size)

    def survey(self, start_ns: int, end_ns: int) -> Plan:
        """Shares at which [start_ns, end_ns) can be read within the limits."""
        interval = Interval(start_ns, end_ns)
        listing = self._listed(TempoApi(self.config), Budget(self.config), interval, None)
        _, shares = chosen(listing.traces(), self.config.max_traces)
        return Plan({_EVERYTHING: listing.halvings}, shares)

    def check(self) -> Sequence[Finding]:
        """Whether the server answers, and what it had lately."""
        budget, api, now_ns = Budget(self.config), TempoApi(self.config), time.time_ns()
        recent = Interval(now_ns - gaps.CHECKED_NS, now_ns)
        services = api.services(recent, budget)
        version = api.version(budget) or "of an unknown version"
        ok = Finding(self.name, "ok", f"{self.config.url} answers (Tempo {version}) and knows {len(services):,} services lately")
        return ok, *gaps.looked_at(self.name, self.collect(recent.start_ns, recent.end_ns))

    def _listed(self, api: TempoApi, budget: Budget, interval: Interval, plan: Plan | None) -> _Listing:
        starts = spread(slices(interval.start_ns, interval.end_ns))
        listing = _Listing(interval, plan.looked_at.get(_EVERYTHING, 0) if plan else 0)
        asked = starts[:_PROBES]  # a few first: they tell how much of the others to look at
        later = starts[_PROBES:]
        while asked or later:
            if not asked:
                asked, later = later, []
            search = partial(self._search, api, budget, listing.halvings)
            asked = listing.take(ask_all(search, asked, budget, self.config.concurrency, until=budget.half))
            if not listing.found:
                silent = Unavailable(f"{self.config.url}: no search was answered within {self.config.deadline / SECOND_NS:g} s")
                raise next(iter(listing.failed.values()), silent)
        return listing

    def _search(self, api: TempoApi, budget: Budget, halvings: int, start: int) -> tuple[list[Listed], bool]:
        return api.search(thinned(start, halvings), budget)

    def _shortfall(
        self, listing: _Listing, budget: Budget, read: Asked[Listed, Trace | None], sample: Sequence[Listed]
    ) -> list[Gap]:
        """What is missing beside what the sample leaves out, in sentences."""
        interval = listing.interval
        every = len(slices(interval.start_ns, interval.end_ns))
        failed = {_within(start, interval): error for start, error in listing.failed.items()}
        said = gaps.failed(self.name, "searches", len(failed), every, failed)
        left = [_within(start, interval) for start in listing.left]
        said += gaps.left_out(self.name, f"slices of {SLICE_NS // SECOND_NS} s", left, every, budget.spent())
        if listing.full:
            where = gaps.around(_within(start, interval) for start in listing.full)
            said.append(Gap(self.name, "searches were cut off at search_limit, so that a fall in traffic may not show", where))
        if read.left:
            text = f"{len(read.left):,} of {len(read.left) + len(sample):,} traces of the sample were not read"
            said.append(Gap(self.name, f"{text}: {budget.spent()} reached", interval))
        errors = {Interval(one.start_ns, one.start_ns + 1): error for one, error in read.failed.items()}
        said += gaps.failed(self.name, "traces", len(read.failed), len(sample), errors)
        absent = sum(trace is None for trace in read.found.values())
        cut = sum(trace is not None and trace.partial for trace in read.found.values())
        for count, what in ((absent, "were named by a search and not found"), (cut, "came without some of their spans")):
            if count:
                said.append(Gap(self.name, f"{count:,} of {len(sample):,} traces {what}", interval))
        return said


def _within(start: int, interval: Interval) -> Interval:
    """A slice, as far as the interval reaches."""
    return Interval(max(start, interval.start_ns), min(start + SLICE_NS, interval.end_ns))
