"""What single requests go through: the code of one operation, run for many requests at once.

The same code serves two purposes. For bins, every operation is run a few times per bin against pools of outcomes of its callees
(`pools_of`), callees first. For spans, whole requests are followed from where they enter (rca.simulator.spans).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np

from rca.simulator.conditions import Conditions
from rca.simulator.queueing import REFUSED_SECONDS, RETRANSMISSION_SECONDS, State
from rca.simulator.system import Bools, Floats, Ints, System

_MOST_ATTEMPTS: Final = 6
_TURNED_AWAY_SECONDS: Final = 0.001
_LEAST_LINE: Final = 2e-5  # s; shorter waits are lost in the noise

_CHANCES: Final = (
    "own_error",
    "early_return",
    "refused",
    "delay_in",
    "delay_out",
    "loss_in",
    "loss_out",
    "cut_in",
    "cut_out",
    "unresolved_in",
    "unresolved_out",
)
"""Conditions that hold for few; for the rest no random number is drawn."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What callers notice of a request. Arrays of one shape."""

    before: Floats  # s between arrival and the start of the server span
    duration: Floats  # s
    failed: Bools


class Callees(Protocol):
    """Answers calls: what each request that reached the callee of a site at `offset` (s after its own start) gets."""

    def answer(self, site: int, offset: Floats, reached: Bools) -> Outcome: ...


@dataclass(frozen=True, eq=False)
class Attempt:
    """One attempt at a call. Arrays of one shape; where `made` is false the rest means nothing."""

    site: int
    made: Bools
    reached: Bools
    offset: Floats  # s
    client: Floats  # s that the caller waits
    called: Floats  # s of the callee's span
    called_failed: Bools
    failed: Bools


@dataclass(frozen=True, eq=False)
class Served:
    """Requests to one operation, with everything they did."""

    operation: int
    outcome: Outcome
    self_time: Floats  # s that none of its calls covers
    own_failed: Bools  # failed, and none of its calls did
    early: Bools  # answered without doing its work
    attempts: tuple[Attempt, ...]
    pod: Ints | None
    """Which pod served each request, where requests are followed."""


@dataclass(frozen=True, eq=False)
class World:
    """A system, what holds in it, and what follows from that."""

    system: System
    conditions: Conditions
    state: State


@dataclass(frozen=True, eq=False)
class Moments:
    """When requests arrive: several in every bin, shape (samples, T), or, where `bins` are given, one in each of these, (n,)."""

    shape: tuple[int, ...]
    bins: Ints | None = None

    def at(self, row: Floats) -> Floats:
        """A value per bin (T,) as one per request, or broadcastable to it."""
        return row if self.bins is None else row[self.bins]


@dataclass(eq=False)
class _Run:
    """Requests under way."""

    goes_on: Bools
    now: Floats
    covered: Floats
    first: Floats
    last: Floats
    child_failed: Bools
    hits: dict[int, Bools] = field(default_factory=dict)
    attempts: list[Attempt] = field(default_factory=list)

    def note(self, attempt: Attempt, pending: Bools, begun: Floats) -> Floats:
        """Add up an attempt of those that are pending. Returns when each request is done with its attempts so far."""
        ends = attempt.offset + attempt.client
        if pending.all():
            self.covered += attempt.client
            np.minimum(self.first, attempt.offset, out=self.first)
            np.maximum(self.last, ends, out=self.last)
            return ends
        self.covered += np.where(pending, attempt.client, 0.0)
        np.minimum(self.first, attempt.offset, out=self.first, where=pending)
        np.maximum(self.last, ends, out=self.last, where=pending)
        return np.where(pending, ends, begun)


class Server:
    """Runs the code of operations."""

    def __init__(self, world: World, rng: np.random.Generator, *, followed: bool) -> None:
        """`followed`: every request stands for itself: it also fails without a reason now and then, and has its pod noted."""
        self.world, self._rng, self._followed = world, rng, followed
        c = world.conditions
        self._disturbed = {name: _ever(getattr(c, name)) for name in _CHANCES}
        state = world.state
        self._down, self._waits = _ever(state.down), _ever(state.line > _LEAST_LINE)
        self._away, self._pool_waits = _ever(state.turned_away), _ever(state.pool_wait > _LEAST_LINE)
        self._repeats, self._retries = _ever(c.attempts > 1), _ever(c.retries)

    def serve(self, o: int, moments: Moments, callees: Callees) -> Served:
        """Requests to operation o that arrive at these moments."""
        s, c, rng = self.world.system, self.world.conditions, self._rng
        component, shape = int(s.component_of[o]), moments.shape
        stretch, line, away, pod = self._of_pods(component, moments)
        work = s.cpu[o] * moments.at(c.cpu_factor[o]) * (1 + (stretch - 1) * rng.standard_exponential(shape))
        work = work + s.idle[o] + moments.at(c.wait[o])
        work = work * np.exp(s.spread[o] * rng.standard_normal(shape) - s.spread[o] ** 2 / 2)
        if s.pauses[component] > 0:
            work = work + np.where(rng.random(shape) < s.pauses[component], rng.uniform(0.02, 0.2, shape), 0.0)
        turned_away = rng.random(shape) < away if away is not None else None
        thrown = self._chance("own_error", o, moments)
        early = self._chance("early_return", o, moments)
        goes_on = np.ones(shape, dtype=bool)
        for stopped in (turned_away, thrown, early):
            if stopped is not None:
                goes_on &= ~stopped
        waiting = line * rng.standard_exponential(shape) if line is not None else np.zeros(shape)
        inside = waiting if s.waits_inside[component] else np.zeros(shape)
        run = _Run(
            goes_on.copy(),
            inside + work / 2,
            np.zeros(shape),
            np.full(shape, np.inf),
            np.zeros(shape),
            np.zeros(shape, dtype=bool),
        )
        self._make_calls(o, moments, callees, run)
        failed = ~run.goes_on & goes_on
        own_failed = np.zeros(shape, dtype=bool)
        duration = run.now + (np.where(failed, 0.05, 0.5) if run.child_failed.any() else 0.5) * work
        if not goes_on.all():
            duration = np.where(goes_on, duration, inside + 0.3 * work)
        if turned_away is not None:
            duration = np.where(turned_away, _TURNED_AWAY_SECONDS, duration)
            own_failed |= turned_away
        if thrown is not None:
            own_failed |= thrown if turned_away is None else thrown & ~turned_away
        if self._followed and s.base_error[o] > 0:
            own_failed |= (rng.random(shape) < s.base_error[o]) & ~failed & ~run.child_failed
        returned = np.zeros(shape, dtype=bool) if early is None else early & ~own_failed
        covered = np.minimum(run.covered, np.maximum(run.last - run.first, 0.0))
        outcome = Outcome(waiting - inside, duration, failed | own_failed)
        return Served(o, outcome, np.maximum(duration - covered, 0.0), own_failed, returned, tuple(run.attempts), pod)

    def _of_pods(self, component: int, moments: Moments) -> tuple[Floats, Floats | None, Floats | None, Ints | None]:
        """(stretch, wait for a worker, chance to be turned away, pod) of requests that are spread over the pods."""
        state, pods = self.world.state, self.world.system.pods_of[component]
        waits, away = bool(self._waits[pods].any()), bool(self._away[pods].any())
        rows = [state.stretch, *([state.line] if waits else []), *([state.turned_away] if away else [])]
        values = [moments.at(row[pods[0]]) for row in rows]
        chosen = np.full(moments.shape, pods[0]) if self._followed else None
        if len(pods) > 1:
            edges = np.cumsum(state.share[pods], axis=0)
            pick = self._rng.random(moments.shape)
            for i, pod in enumerate(pods[1:].tolist()):
                beyond = pick > moments.at(edges[i])
                values = [np.where(beyond, moments.at(row[pod]), value) for row, value in zip(rows, values, strict=True)]
                if chosen is not None:
                    chosen = np.where(beyond, pod, chosen)
        stretch, *others = values
        return stretch, others.pop(0) if waits else None, others.pop(0) if away else None, chosen

    def _chance(self, name: str, row: int, moments: Moments) -> Bools | None:
        """Which requests something of that chance happens to; None where it happens to none."""
        if not self._disturbed[name][row]:
            return None
        chance: Floats = getattr(self.world.conditions, name)[row]
        return self._rng.random(moments.shape) < moments.at(chance)

    # --- calls --------------------------------------------------------------------------------------------------

    def _make_calls(self, o: int, moments: Moments, callees: Callees, run: _Run) -> None:
        s = self.world.system
        sites = s.sites_of[o].tolist()
        at = 0
        while at < len(sites):
            end = at
            while end < len(sites) and s.group[sites[end]] == s.group[sites[at]]:
                end += 1
            begin, longest = run.now, np.zeros(moments.shape)
            broken = np.zeros(moments.shape, dtype=bool)
            for site in sites[at:end]:
                elapsed, lost = self._call(site, moments, callees, run, begin)
                longest = np.maximum(longest, elapsed)
                if s.critical[site]:
                    broken |= lost
                run.child_failed |= lost
            run.now = begin + longest
            run.goes_on &= ~broken
            at = end

    def _call(self, k: int, moments: Moments, callees: Callees, run: _Run, begin: Floats) -> tuple[Floats, Bools]:
        """One site: (seconds spent, whether it failed for good), over its attempts."""
        s, c, rng, shape = self.world.system, self.world.conditions, self._rng, moments.shape
        caller = int(s.component_of[s.source[k]])
        made = run.goes_on.copy()
        if s.chance[k] < 1:
            made &= rng.random(shape) < s.chance[k]
        behind = int(s.behind[k])
        if behind >= 0 and behind in run.hits:
            made &= ~run.hits[behind]
        waited = self._pool_wait(k, moments, made)
        starved, begun, inside = None, begin, None
        if waited is not None:
            starved = waited > s.timeout[k]
            waited, made = np.minimum(waited, s.timeout[k]), made & ~starved
            begun, inside = (begin, waited) if c.pool_inside else (begin + waited, None)
        retries: Floats | float = float(s.retries[k])
        if self._retries[caller]:
            retries = np.floor(s.retries[k] + moments.at(c.retries[caller]) + rng.random(shape))
        pending = made
        for number in range(_MOST_ATTEMPTS):
            attempt = self._attempt(k, moments, callees, pending, begun, inside if number == 0 else None)
            run.attempts.append(attempt)
            begun = run.note(attempt, pending, begun)
            lost = pending & attempt.failed
            if not lost.any():
                break
            pending = lost & (number < retries)
            if not pending.any():
                break
            begun = np.where(pending, begun + s.backoff[k], begun)
        failed = made & lost if number == 0 else self._lost_for_good(run.attempts, k, made)
        if self._repeats[caller]:
            begun = self._repeat(k, moments, callees, run, made, begun)
        if s.caches[s.component_of[s.target[k]]]:
            ratio = s.hit_ratio * moments.at(c.hit[s.component_of[s.target[k]]])
            run.hits[k] = made & ~failed & (rng.random(shape) < ratio)
        if starved is None:
            return np.where(made, begun - begin, 0.0), failed
        return np.where(made | starved, begun - begin, 0.0), failed | starved

    def _repeat(self, k: int, moments: Moments, callees: Callees, run: _Run, made: Bools, begun: Floats) -> Floats:
        """Calls that are made again although the first was answered. Returns when the last one ends."""
        c, caller = self.world.conditions, int(self.world.system.component_of[self.world.system.source[k]])
        times = np.floor(moments.at(c.attempts[caller]) + self._rng.random(moments.shape)) - 1
        for number in range(_MOST_ATTEMPTS):
            pending = made & (number < times)
            if not pending.any():
                break
            attempt = self._attempt(k, moments, callees, pending, begun, None)
            run.attempts.append(attempt)
            begun = run.note(attempt, pending, begun)
        return begun

    @staticmethod
    def _lost_for_good(attempts: list[Attempt], k: int, made: Bools) -> Bools:
        failed = made.copy()
        for attempt in attempts:
            if attempt.site == k:
                failed &= ~(attempt.made & ~attempt.failed)
        return failed

    def _pool_wait(self, k: int, moments: Moments, made: Bools) -> Floats | None:
        """Seconds until there is a connection; None where nobody waits."""
        pool = int(self.world.system.pool[k])
        if pool < 0 or not self._pool_waits[pool]:
            return None
        wait = moments.at(self.world.state.pool_wait[pool]) * self._rng.standard_exponential(moments.shape)
        return np.where(made, wait, 0.0)

    def _attempt(
        self, k: int, moments: Moments, callees: Callees, pending: Bools, offset: Floats, inside: Floats | None
    ) -> Attempt:
        s, c, rng, shape = self.world.system, self.world.conditions, self._rng, moments.shape
        caller, callee = int(s.source_component[k]), int(s.target_component[k])
        timeout = s.timeout[k] * moments.at(c.patience[caller])
        reached, failing = pending, None
        for name, row, slow in (
            ("refused", k, False),
            ("unresolved_out", caller, False),
            ("unresolved_in", callee, False),
            ("cut_out", caller, c.blackhole),
            ("cut_in", callee, c.blackhole),
        ):
            hit = self._chance(name, row, moments)
            if hit is not None:
                failing = np.full(shape, REFUSED_SECONDS) if failing is None else failing
                failing = np.where(reached & hit, timeout if slow else REFUSED_SECONDS, failing)
                reached = reached & ~hit
        if self._down[callee]:
            refused = rng.random(shape) < moments.at(self.world.state.down[callee])
            failing = np.full(shape, REFUSED_SECONDS) if failing is None else failing
            reached = reached & ~refused
        answer = callees.answer(k, offset, reached)
        client = self._network(k, moments) + answer.before + answer.duration
        if inside is not None:
            client = client + inside
        failed = answer.failed
        if failing is not None:
            client = np.where(reached, client, failing)
            failed = failed | ~reached
        late = client > timeout
        if late.any():
            client = np.where(late, timeout, client)
            failed = failed | late
        return Attempt(k, pending, reached, offset, client, answer.duration, answer.failed & reached, failed)

    def _network(self, k: int, moments: Moments) -> Floats:
        s, c, rng, shape = self.world.system, self.world.conditions, self._rng, moments.shape
        caller, callee = int(s.source_component[k]), int(s.target_component[k])
        away: Floats = s.network[k] * (0.6 + 0.4 * rng.standard_exponential(shape))
        for name, row in (("delay_out", caller), ("delay_in", callee)):
            if self._disturbed[name][row]:
                delay = moments.at(getattr(c, name)[row])
                away = away + np.maximum(delay * (1 + 0.15 * rng.standard_normal(shape)), 0.0)
        for name, row in (("loss_out", caller), ("loss_in", callee)):
            lost = self._chance(name, row, moments)
            if lost is not None:
                away = away + np.where(lost, RETRANSMISSION_SECONDS * np.ceil(rng.standard_exponential(shape)), 0.0)
        return away


def _ever(values: Floats | Bools) -> Bools:
    """Rows in which anything is not zero at some time."""
    ever: Bools = np.any(values, axis=1)
    return ever


# --- a few requests per bin and operation ---------------------------------------------------------------------------


class _Pools:
    """Outcomes of every operation so far, twice side by side, so that any rotation is a slice of them."""

    def __init__(self, system: System, shape: tuple[int, int], rng: np.random.Generator) -> None:
        self._target, self._samples, self._rng = system.target, shape[0], rng
        self._outcomes: dict[int, Outcome] = {}

    def add(self, o: int, outcome: Outcome) -> None:
        twice = (np.concatenate([a, a]) for a in (outcome.before, outcome.duration, outcome.failed))
        self._outcomes[o] = Outcome(*twice)

    def answer(self, site: int, offset: Floats, reached: Bools) -> Outcome:  # noqa: ARG002  a contract
        """Outcomes of other requests to the callee in the same bin."""
        outcome = self._outcomes[int(self._target[site])]
        start = int(self._rng.integers(self._samples))
        cut = slice(start, start + self._samples)
        return Outcome(outcome.before[cut], outcome.duration[cut], outcome.failed[cut])


def pools_of(world: World, rng: np.random.Generator, samples: int) -> list[Served]:
    """`samples` requests to every operation in every bin, (samples, T) each, in the order of operations.

    Errors without a reason are left out: they are too rare for so few requests, and are counted where bins are made.
    """
    shape = (samples, world.conditions.bins)
    server, pools, moments = Server(world, rng, followed=False), _Pools(world.system, shape, rng), Moments(shape)
    served: list[Served] = []
    for o in range(len(world.system.operation_names) - 1, -1, -1):
        served.append(server.serve(o, moments, pools))
        pools.add(o, served[-1].outcome)
    return served[::-1]
