"""Reads a fair sample of the traces that Jaeger keeps.

Jaeger's search names a service and returns whole traces, of any choice where there are more than asked for. So every service is
asked for, slice by slice, in parts of slices that are short enough for a complete answer (rca.collectors.tracing.sampling). Those
traces are kept that begin at that service: each trace has one chance to be read, and not one per service that it touches.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import polars as pl

from rca.collectors.findings import Finding
from rca.collectors.jaeger.api import JaegerApi
from rca.collectors.jaeger.config import JaegerConfig
from rca.collectors.tracing import gaps
from rca.collectors.tracing.budget import Asked, Budget, ask_all
from rca.collectors.tracing.rows import TraceRows
from rca.collectors.tracing.sampling import MOST_HALVINGS, SLICE_NS, Listed, Plan, chosen, slices, spread, thinned
from rca.errors import Rejected, Unavailable
from rca.telemetry import SECOND_NS, Gap, Interval, Telemetry, dtypes

_PROBES: Final = 3
_PROBE_LIMIT: Final = 20
_FOREIGN: Final = 3  # full answers without a trace that begins at the service; then it is taken for an inner one
_LEAST_LIMIT: Final = 20
_MOST_SEARCHES: Final = 2000


@dataclass(frozen=True)
class _Rates:
    """Traces per slice of SLICE_NS: those that begin at a service, and all that pass through it."""

    own: float = 0.0
    all: float = 0.0


@dataclass(frozen=True)
class _Part:
    """What one search is about: a service in a part of a slice."""

    slice_start: int
    service: str

    def within(self, slice_ns: int, interval: Interval) -> Interval:
        """Its slice, as far as the interval reaches."""
        return Interval(max(self.slice_start, interval.start_ns), min(self.slice_start + slice_ns, interval.end_ns))


@dataclass
class _Answers:
    """What the searches came to. `slice_ns` and `halvings` say which part of every slice they were about."""

    interval: Interval
    slice_ns: int
    halvings: dict[str, int]
    found: dict[_Part, TraceRows] = field(default_factory=dict)
    failed: dict[_Part, Unavailable | Rejected] = field(default_factory=dict)
    left: list[_Part] = field(default_factory=list)
    full: list[_Part] = field(default_factory=list)  # cut off although the part is as short as can be
    seen: set[str] = field(default_factory=set)

    def listed(self) -> list[Listed]:
        """Traces that begin at the service asked for, in the part looked at, in slices where all services were asked for."""
        missing = {part.slice_start for part in self.left}
        kept = []
        for part, rows in self.found.items():
            looked_at = thinned(part.slice_start, self.halvings[part.service], self.slice_ns)
            if part.slice_start not in missing and part not in self.failed:
                kept += [
                    Listed(trace_id, start_ns, service)
                    for trace_id, start_ns, service, _ in rows.roots()
                    if service == part.service and _holds(looked_at, start_ns) and _holds(self.interval, start_ns)
                ]
        return kept

    def take(self, got: Asked[_Part, TraceRows], limit: int) -> list[_Part]:
        """Add answers; returns the parts that have to be asked for again, shorter, because they hold more than one answer can."""
        self.found |= got.found
        self.failed |= got.failed
        self.left += got.left
        roots = {part: dict(root[:2] for root in rows.roots()) for part, rows in got.found.items()}
        whole = (start for traces in roots.values() for start in traces.items() if len(traces) < limit)
        self.seen.update(trace_id for trace_id, start_ns in whole if _holds(self.interval, start_ns))
        full = [part for part, traces in roots.items() if len(traces) >= limit]
        self.full += [part for part in full if self.halvings[part.service] >= MOST_HALVINGS]
        again = [part for part in full if self.halvings[part.service] < MOST_HALVINGS]
        for service in {part.service for part in again}:
            self.halvings[service] += 1
        return again

    def sample(self, read: int, *, everybody: bool) -> gaps.Sample:
        """How many traces there are beside those that were read; `everybody` says that all services could be asked for."""
        listed = self.listed()
        if self.failed or self.left or self.full or not everybody:
            return gaps.Sample(read, max(len(listed), len(self.seen)), "at least")
        of = sum(1 << self.halvings[trace.stratum] for trace in listed)
        return gaps.Sample(read, of, "about" if any(self.halvings.values()) else "exactly")


class JaegerCollector:
    """A contracts.Collector of spans, and of who calls whom."""

    name = "jaeger"

    def __init__(self, config: JaegerConfig) -> None:
        self.config = config

    def collect(self, start_ns: int, end_ns: int) -> Telemetry:
        """Spans that began in [start_ns, end_ns). Raises Unavailable or Rejected where the server tells nothing at all."""
        return self.read(start_ns, end_ns).telemetry

    def read(self, start_ns: int, end_ns: int, plan: Plan | None = None) -> gaps.Reading:
        """The same, and how much of all that is. With a `plan`, at its shares, or smaller ones where limits ask for it."""
        interval, budget, api = Interval(start_ns, end_ns), Budget(self.config), JaegerApi(self.config)
        names = self._services(api, budget)
        answers, found = self._searched(api, budget, names, interval, plan)
        taken, shares = chosen(answers.listed(), self.config.max_traces, plan.taken if plan else None)
        rows, by_service = TraceRows(), {name: set[str]() for name in answers.halvings}
        for trace in taken:
            by_service[trace.stratum].add(trace.trace_id)
        for part, some in answers.found.items():
            rows.take(some, by_service[part.service])
        size = answers.sample(len(taken), everybody=not found)
        halvings = {name: times + shares.get(name, 0) for name, times in answers.halvings.items()}
        found += gaps.sampled(self.name, interval, size, halvings) + self._shortfall(answers, budget)
        telemetry = rows.telemetry(self.name, interval, found)
        if self.config.topology:
            telemetry = self._with_calls(telemetry, api, budget, interval, names)
        return gaps.Reading(telemetry, size)

    def survey(self, start_ns: int, end_ns: int) -> Plan:
        """Shares at which [start_ns, end_ns) can be read within the limits."""
        interval, budget, api = Interval(start_ns, end_ns), Budget(self.config), JaegerApi(self.config)
        answers, _ = self._searched(api, budget, self._services(api, budget), interval, None)
        _, halvings = chosen(answers.listed(), self.config.max_traces)
        return Plan(answers.halvings, halvings)

    def check(self) -> Sequence[Finding]:
        """Whether the server answers, which API it speaks, and what it had lately."""
        budget, api = Budget(self.config), JaegerApi(self.config)
        names = self._services(api, budget)
        ok = Finding(self.name, "ok", f"{self.config.url} answers (API {api.version}) and knows {len(names):,} services")
        if not names:
            advice = "check that services send spans to this Jaeger, and that it keeps them"
            return ok, Finding(self.name, "warning", "no service has sent a span", advice)
        now_ns = time.time_ns()
        return ok, *gaps.looked_at(self.name, self.collect(now_ns - gaps.CHECKED_NS, now_ns))

    def _services(self, api: JaegerApi, budget: Budget) -> list[str]:
        return [name for name in api.services(budget) if name not in self.config.ignore_services]

    def _searched(
        self, api: JaegerApi, budget: Budget, names: Sequence[str], interval: Interval, plan: Plan | None
    ) -> tuple[_Answers, list[Gap]]:
        """Every slice of the interval for every service that requests begin at; and what could not be found out."""
        settled = dict(plan.looked_at) if plan else {}
        unknown = [name for name in names if name not in settled]
        probes = spread(slices(interval.start_ns, interval.end_ns))[:_PROBES]
        probed = ask_all(partial(self._probed, api, budget, probes), unknown, budget, self.config.concurrency, until=budget.half)
        if unknown and len(probed.failed) == len(names):
            raise next(iter(probed.failed.values()))
        failures = sorted(probed.failed.items())
        found = [Gap(self.name, f"service {service} was not read: {error}", interval) for service, error in failures]
        if probed.left:
            found.append(Gap(self.name, f"services were not reached in time: {gaps.named(probed.left)}", interval))
        rates = {service: rates for service, rates in probed.found.items() if rates is not None}
        answers, limit = self._planned(rates, settled, interval)
        starts = spread(slices(interval.start_ns, interval.end_ns, answers.slice_ns))
        asked = [_Part(start, service) for start in starts for service in sorted(answers.halvings)]
        while asked:
            search = partial(self._search, api, budget, limit, answers)
            got = ask_all(search, asked, budget, self.config.concurrency)
            asked = answers.take(got, limit)
        return answers, found

    def _probed(self, api: JaegerApi, budget: Budget, probes: Sequence[int], service: str) -> _Rates | None:
        """How many traces there are, from a few slices; None for a service that other services call and nobody else."""
        rates, halvings, foreign, any_own = _Rates(), 0, 0, False
        failures: list[Unavailable | Rejected] = []
        for probe in probes:
            while True:
                try:
                    rows = api.search(service, thinned(probe, halvings), _PROBE_LIMIT, budget)
                except (Unavailable, Rejected) as error:  # one slice alone: it is asked for again with the others
                    failures.append(error)
                    break
                roots = list(rows.roots())
                own = sum(root == service for _, _, root, _ in roots)
                any_own = any_own or own > 0
                foreign += bool(roots) and not any_own
                if foreign >= _FOREIGN:
                    return None
                if len(roots) < _PROBE_LIMIT or halvings == MOST_HALVINGS:
                    rates = _Rates(max(rates.own, own * 2**halvings), max(rates.all, len(roots) * 2**halvings))
                    break
                halvings += 1
        if len(failures) == len(probes):
            raise failures[0]
        return rates

    def _planned(self, rates: Mapping[str, _Rates], settled: dict[str, int], interval: Interval) -> tuple[_Answers, int]:
        """Parts that should hold as many traces as are wanted, and how many to ask for at most."""
        services, slice_ns = len(rates) + len(settled), SLICE_NS
        while services * len(slices(interval.start_ns, interval.end_ns, slice_ns)) > _MOST_SEARCHES:
            slice_ns *= 2
        longer = slice_ns // SLICE_NS
        wanted = self.config.max_traces / max(1, services * len(slices(interval.start_ns, interval.end_ns, slice_ns)))
        limit = min(self.config.search_limit, max(_LEAST_LIMIT, math.ceil(4 * wanted)))
        halvings = {name: _halvings(longer * max(rate.own / wanted, 2 * rate.all / limit)) for name, rate in rates.items()}
        return _Answers(interval, slice_ns, settled | halvings), self.config.search_limit if settled else limit

    def _search(self, api: JaegerApi, budget: Budget, limit: int, answers: _Answers, part: _Part) -> TraceRows:
        looked_at = thinned(part.slice_start, answers.halvings[part.service], answers.slice_ns)
        return api.search(part.service, looked_at, limit, budget)

    def _shortfall(self, answers: _Answers, budget: Budget) -> list[Gap]:
        """What is missing beside what the sample leaves out, in sentences."""
        interval = answers.interval
        asked = len(answers.found) + len(answers.failed) + len(answers.left)
        errors = {part.within(answers.slice_ns, interval): error for part, error in answers.failed.items()}
        left = sorted({part.within(answers.slice_ns, interval) for part in answers.left})
        every = len(slices(interval.start_ns, interval.end_ns, answers.slice_ns))
        found = gaps.failed(self.name, "searches", len(answers.failed), asked, errors)
        found += gaps.left_out(self.name, f"slices of {answers.slice_ns // SECOND_NS} s", left, every, budget.spent())
        if answers.full:
            names = gaps.named({part.service for part in answers.full})
            found.append(Gap(self.name, f"searches were cut off at their limit, so that a fall in traffic may not show: {names}"))
        return found

    def _with_calls(
        self, telemetry: Telemetry, api: JaegerApi, budget: Budget, interval: Interval, names: Sequence[str]
    ) -> Telemetry:
        """The same, and who calls whom by Jaeger's own count, as far as both ends are known services."""
        try:
            edges = api.dependencies(interval, budget)
        except (Unavailable, Rejected) as error:
            return replace(telemetry, gaps=(*telemetry.gaps, Gap(self.name, f"who calls whom was not read: {error}", interval)))
        known = set(names)
        calls = [("service", a, "calls", "service", b) for a, b in edges if a != b and {a, b} <= known]
        stated = pl.DataFrame(calls, schema=dtypes("topology"), orient="row")
        return replace(telemetry, topology=pl.concat([telemetry.topology, stated]).unique().sort(pl.all()))


def _halvings(times_too_many: float) -> int:
    return min(MOST_HALVINGS, max(0, math.ceil(math.log2(max(times_too_many, 1.0)))))


def _holds(interval: Interval, time_ns: int) -> bool:
    return interval.start_ns <= time_ns < interval.end_ns
