"""Bins without spans: what rca.bins would make of the spans of all these requests, from a few weighted requests per bin.

Every operation has a few requests per bin that stand for all (rca.simulator.requests); how many each stands for is drawn callers
first, so that as many requests arrive as calls were sent. Counts and histograms have the keys and buckets of `rca.bins.bins_of`.
A bin is that of the request's arrival: what begins more than ten seconds after its request is counted too early.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from rca.bins import BIN_NS, buckets_of
from rca.simulator.frames import framed
from rca.simulator.requests import Attempt, Served, World
from rca.simulator.system import Bools, Floats, Ints, System
from rca.telemetry import SECOND_NS

COUNTED: Final = ("span", "request", "error", "own_error", "child", "call", "call_error")
_FAILURES: Final = ("error", "own_error", "call_error")
TIMED: Final = ("server", "self", "leaf", "client", "called", "gap")
_KINDS: Final = ("service", "database", "queue", "external", "consumed_queue")
_TRACE_BYTES: Final = 16
_EXEMPLAR_BINS: Final = 6
"""One exemplar of a service in so many bins."""


@dataclass(frozen=True)
class Tracing:
    """How traces are recorded: the share that is kept, whether spans name their pods, whether consumers continue traces, whether
    spans say that they failed.
    """

    sampling: float
    name_pods: bool
    join: bool
    status: bool = True


class Vocabulary:
    """Names by number, one for all text columns."""

    def __init__(self, system: System) -> None:
        self.names = [*system.names]
        self._numbers: dict[str, int] = {}
        self.operation = [self._number(name) for name in system.operation_names]
        self.client = [self._number(client_name(system, k)) for k in range(len(system.source))]

    def _number(self, name: str) -> int:
        if name not in self._numbers:
            self._numbers[name] = len(self.names)
            self.names.append(name)
        return self._numbers[name]


def client_name(system: System, site: int) -> str:
    """Name of the client span of a call, as instrumentations choose it."""
    target = int(system.target[site])
    component = int(system.component_of[target])
    name = system.operation_names[target]
    verb_alone = system.speaks == "http" if system.kinds[component] == "service" else not system.says_tables
    if verb_alone and system.kinds[component] in ("service", "database"):
        return name.split(" ")[0]
    return f"send {system.names[component]}" if system.kinds[component] == "queue" else name


class _Rows:
    """Rows under way: arrays of counts whose last axis is the bin, each with codes, and perhaps with values of the same shape."""

    def __init__(self) -> None:
        self._counts: list[Ints] = []
        self._codes: list[tuple[int, ...]] = []
        self._values: list[Floats] = []

    def add(self, codes: tuple[int, ...], counts: Ints, values: Floats | None = None) -> None:
        self._codes.append(codes)
        self._counts.append(counts)
        if values is not None:
            self._values.append(values)

    def columns(self) -> tuple[Ints, Ints, Ints, Ints, Floats]:
        """(bins, counts, part of each row, codes (columns, parts), values) of everything that is not zero."""
        if not self._counts:
            nothing = np.zeros(0, dtype=np.int64)
            return nothing, nothing, nothing, np.zeros((6, 0), dtype=np.int64), np.zeros(0)
        stacked = np.stack(self._counts)
        bins = stacked.shape[-1]
        flat = stacked.reshape(-1)
        places = np.flatnonzero(flat)
        parts = places // (flat.size // len(stacked))
        values = np.stack(self._values).reshape(-1)[places] if self._values else np.zeros(0)
        return places % bins, flat[places], parts, np.array(self._codes).T, values


class Counter:
    """Makes the frames `bin_*` of what the requests of every operation did."""

    def __init__(self, world: World, served: Sequence[Served], tracing: Tracing, rng: np.random.Generator) -> None:
        self._world, self._served, self._tracing, self._rng = world, served, tracing, rng
        self._words = Vocabulary(world.system)
        self._counts, self._durations = _Rows(), _Rows()
        system, conditions = world.system, world.conditions
        self.arrived = np.zeros((len(system.operation_names), conditions.bins), dtype=np.int64)
        lost = conditions.traces_lost
        self._kept = 1.0 if lost is None else 1 - lost
        self._base_failure = system.base_failure
        self._sent: dict[int, int] = {}  # recorded client spans of every site
        self._exemplars: list[tuple[int, int, Ints, Floats, Bools]] = []

    def frames(self, start_ns: int) -> dict[str, pl.DataFrame]:
        """The four frames; bins count from start_ns."""
        system, conditions, rng = self._world.system, self._world.conditions, self._rng
        share = self._tracing.sampling * 10.0
        entering = rng.poisson(np.maximum(conditions.entry, 0.0) * share)
        for o, served in enumerate(self._served):
            self.arrived[o] += entering[o]
            if system.consumes[o] >= 0:
                self.arrived[o] += rng.poisson(self._world.state.rate[o] * share)
            self._operation(o, served)
        return {
            "bin_counts": self._count_frame(start_ns),
            "bin_durations": self._duration_frame(start_ns),
            "bin_exemplars": self._exemplar_frame(start_ns),
            "bin_placement": self._placement_frame(start_ns),
        }

    # --- one operation ------------------------------------------------------------------------------------------

    def _operation(self, o: int, served: Served) -> None:
        system, rng = self._world.system, self._rng
        component, name = int(system.component_of[o]), self._words.operation[o]
        total = self.arrived[o]
        samples = len(served.outcome.duration)
        weights = np.ascontiguousarray(rng.multinomial(total, np.full(samples, 1 / samples)).T)  # (samples, T)
        seen = self._recorded(component, weights)
        if component < system.services:
            counted = seen.sum(axis=0)
            failed, own = _tallied(seen, served.outcome.failed), _tallied(seen, served.own_failed)
            soft, soft_own = self._soft_errors(o, counted - failed)
            for what, counts in (
                ("span", counted),
                ("request", counted),
                ("error", failed + soft),
                ("own_error", own + soft_own),
            ):
                self._count(what, counts, component, name)
            self._time("server", seen, served.outcome.duration, component, name)
            self._time("self", seen, served.self_time, component, name)
            self._exemplars.append((component, name, *_slowest(seen, served.outcome.duration, served.outcome.failed)))
            queue = int(system.consumes[o])
            if queue >= 0:
                self._consumed(component, name, queue, seen, failed + soft, served)
        for attempt in served.attempts:
            self._attempt(attempt, weights)

    def _recorded(self, component: int, weights: Ints) -> Ints:
        """How many of the requests were recorded by that component."""
        if isinstance(self._kept, float):
            return weights
        return self._rng.binomial(weights, np.broadcast_to(self._kept[component], weights.shape))

    def _soft_errors(self, o: int, fine: Ints) -> tuple[Ints, Ints]:
        """Requests that fail without a reason, (T,), and those of them that fail here rather than below."""
        chance = float(self._base_failure[o])
        if chance <= 0:
            return np.zeros_like(fine), np.zeros_like(fine)
        soft = self._rng.binomial(fine, chance)
        return soft, self._rng.binomial(soft, min(self._world.system.base_error[o] / chance, 1.0))

    def _consumed(self, component: int, name: int, queue: int, seen: Ints, failed: Ints, served: Served) -> None:
        """failed: messages that it failed to handle, (T,)."""
        counts = seen.sum(axis=0)
        self._count("call", counts, component, -1, "consumed_queue", queue)
        self._count("call_error", failed, component, -1, "consumed_queue", queue)
        self._time("client", seen, served.outcome.duration, component, -1, "consumed_queue", queue)
        if not self._tracing.join:
            return
        system = self._world.system
        senders = np.flatnonzero(system.target_component == queue)
        weigh = self._world.state.calls[senders].sum(axis=1)
        site = int(senders[int(np.argmax(weigh))])
        if not self._sent.get(site):  # a child is known by its parent
            return
        sender = int(system.source_component[site])
        self._count("child", counts, sender, self._words.client[site], "service", component, name)
        self._count("call", counts, sender, -1, "service", component)
        self._count("call_error", failed, sender, -1, "service", component)
        self._time("called", seen, served.outcome.duration, sender, -1, "service", component)

    # --- one attempt at a call ----------------------------------------------------------------------------------

    def _attempt(self, attempt: Attempt, weights: Ints) -> None:
        system, k = self._world.system, attempt.site
        caller, callee = int(system.source_component[k]), int(system.target_component[k])
        target, name = int(system.target[k]), self._words.client[k]
        made = weights if attempt.made.all() else weights * attempt.made
        reached = made if attempt.reached is attempt.made else weights * attempt.reached
        self.arrived[target] += reached.sum(axis=0)
        seen = made if isinstance(self._kept, float) else self._recorded(caller, made)
        if not seen.any():
            return
        counts = seen.sum(axis=0)
        self._sent[k] = self._sent.get(k, 0) + int(counts.sum())
        self._count("span", counts, caller, name)
        self._count("child", counts, caller, self._words.operation[int(system.source[k])], "service", caller, name)
        if system.kinds[callee] != "service":
            self._leaf(attempt, seen, caller, callee, name, system.kinds[callee])
            return
        answered = seen if attempt.reached is attempt.made else np.where(attempt.reached, seen, 0)
        if not isinstance(self._kept, float):  # where the callee's span is lost, the call seems to have no answer
            answered = self._rng.binomial(answered, np.broadcast_to(self._kept[callee], answered.shape))
        if answered is not seen and (alone := seen - answered).any():
            self._leaf(attempt, alone, caller, callee, name, "external")
        total = answered.sum(axis=0)
        failed = _tallied(answered, attempt.called_failed)
        soft, _ = self._soft_errors(target, total - failed)
        self._count("child", total, caller, name, "service", callee, self._words.operation[target])
        self._count("call", total, caller, -1, "service", callee)
        self._count("call_error", failed + soft, caller, -1, "service", callee)
        self._count("own_error", _tallied(answered, attempt.failed & ~attempt.called_failed), caller, name)
        self._time("client", answered, attempt.client, caller, -1, "service", callee)
        self._time("called", answered, attempt.called, caller, -1, "service", callee)
        self._time("gap", answered, attempt.client - attempt.called, caller, -1, "service", callee)

    def _leaf(self, attempt: Attempt, seen: Ints, caller: int, callee: int, name: int, kind: str) -> None:
        """A call whose callee shows no span."""
        failed = _tallied(seen, attempt.failed)
        self._count("call", seen.sum(axis=0), caller, -1, kind, callee)
        self._count("call_error", failed, caller, -1, kind, callee)
        self._count("own_error", failed, caller, name)
        self._time("leaf", seen, attempt.client, caller, name)
        self._time("client", seen, attempt.client, caller, -1, kind, callee)

    # --- rows ---------------------------------------------------------------------------------------------------

    def _count(
        self, what: str, counts: Ints, source: int, operation: int, kind: str = "", target: int = -1, to: int = -1
    ) -> None:
        if not self._tracing.status and what in _FAILURES:
            return
        number = _KINDS.index(kind) if kind else -1
        self._counts.add((COUNTED.index(what), source, operation, number, target, to), counts)

    def _time(
        self, what: str, counts: Ints, seconds: Floats, source: int, operation: int, kind: str = "", target: int = -1
    ) -> None:
        number = _KINDS.index(kind) if kind else -1
        self._durations.add((TIMED.index(what), source, operation, number, target), counts, seconds)

    # --- frames -------------------------------------------------------------------------------------------------

    def _columns(self, bins: Ints, parts: Ints, codes: Ints, what: Sequence[str], start_ns: int) -> dict[str, pl.Series | Ints]:
        """Columns of rows from the codes of their parts; a part's names are looked up once."""
        skew, onset = self._world.conditions.skew, self._world.conditions.onset
        if skew.any():
            bins = bins + np.where(bins >= onset, np.rint(skew[codes[1]] / 10.0).astype(np.int64)[parts], 0)
        names, kinds = pl.Series([*self._words.names, None]), pl.Series([*_KINDS, None])
        known = {
            "what": pl.Series(what).gather(codes[0]),
            "source": names.gather(codes[1]),
            "operation": _gathered(names, codes[2]),
            "target_kind": _gathered(kinds, codes[3]),
            "target": _gathered(names, codes[4]),
            **({"target_operation": _gathered(names, codes[5])} if len(codes) > 5 else {}),
        }
        places = pl.Series(parts.astype(np.uint32))
        return {"time_unix_nano": start_ns + bins * BIN_NS, **{name: column.gather(places) for name, column in known.items()}}

    def _count_frame(self, start_ns: int) -> pl.DataFrame:
        bins, counts, parts, codes, _ = self._counts.columns()
        return framed("bin_counts", **self._columns(bins, parts, codes, COUNTED, start_ns), count=counts)

    def _duration_frame(self, start_ns: int) -> pl.DataFrame:
        bins, counts, parts, codes, seconds = self._durations.columns()
        buckets = buckets_of((seconds * SECOND_NS).astype(np.int64)).astype(np.int32)
        return framed("bin_durations", **self._columns(bins, parts, codes[:5], TIMED, start_ns), bucket=buckets, count=counts)

    def _exemplar_frame(self, start_ns: int) -> pl.DataFrame:
        """The slowest request of every service in every minute."""
        components = np.concatenate([np.full(len(b), c) for c, _, b, _, _ in self._exemplars] or [np.zeros(0)]).astype(np.int64)
        operations = np.concatenate([np.full(len(b), o) for _, o, b, _, _ in self._exemplars] or [np.zeros(0)]).astype(np.int64)
        bins, seconds, failed = (
            np.concatenate([part[place] for part in self._exemplars]) if self._exemplars else np.zeros(0) for place in (2, 3, 4)
        )
        order = np.lexsort((-seconds, bins // _EXEMPLAR_BINS, components))
        group = components[order] * (self._world.conditions.bins + 1) + bins[order] // _EXEMPLAR_BINS
        kept = order[np.unique(group, return_index=True)[1]] if len(order) else order
        text = self._rng.bytes(len(kept) * _TRACE_BYTES).hex()
        names = pl.Series(self._words.names)
        return framed(
            "bin_exemplars",
            time_unix_nano=start_ns + bins[kept].astype(np.int64) * BIN_NS,
            service=names.gather(components[kept]),
            operation=names.gather(operations[kept]),
            trace_id=[text[i : i + 2 * _TRACE_BYTES] for i in range(0, len(text), 2 * _TRACE_BYTES)],
            duration_ns=(seconds[kept] * SECOND_NS).astype(np.int64),
            error=failed[kept].astype(bool) & self._tracing.status,
        )

    def _placement_frame(self, start_ns: int) -> pl.DataFrame:
        """Pods whose spans were seen, bin by bin."""
        system, conditions = self._world.system, self._world.conditions
        active = np.zeros((len(system.names), conditions.bins), dtype=bool)
        np.logical_or.at(active, system.component_of, self.arrived > 0)
        if not isinstance(self._kept, float):
            active &= self._kept > 0.01
        visible = (system.pod_component < system.services)[:, None] & (conditions.ready > 0) & active[system.pod_component]
        pods, bins = np.nonzero(visible)
        services, named = pl.Series(system.names), {}
        if self._tracing.name_pods:
            named = {
                "pod": pl.Series(system.pod_names).gather(pods),
                "node": pl.Series(system.node_names).gather(system.pod_node[pods]),
            }
        else:
            first = np.unique(system.pod_component[pods] * conditions.bins + bins, return_index=True)[1]
            pods, bins = pods[first], bins[first]
        service = services.gather(system.pod_component[pods])
        return framed("bin_placement", time_unix_nano=start_ns + bins * BIN_NS, service=service, **named)


def _gathered(names: pl.Series, codes: Ints) -> pl.Series:
    """Names by number, the last of which is null; so is what has a negative number."""
    return names.gather(np.where(codes < 0, len(names) - 1, codes))


def _tallied(counts: Ints, chosen: Bools) -> Ints:
    """How many of the requests are chosen, bin by bin, (T,). Mostly none is."""
    if not chosen.any():
        return np.zeros(counts.shape[1], dtype=np.int64)
    tallied: Ints = np.where(chosen, counts, 0).sum(axis=0)
    return tallied


def _slowest(seen: Ints, seconds: Floats, failed: Bools) -> tuple[Ints, Floats, Bools]:
    """(bin, duration, whether it failed) of the slowest recorded request of every bin that has one."""
    weighed = np.where(seen > 0, seconds, -1.0)
    place = weighed.argmax(axis=0)
    bins = np.flatnonzero(seen.any(axis=0))
    return bins, seconds[place[bins], bins], failed[place[bins], bins]
