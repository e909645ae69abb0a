"""Who waits for whom: the steady state of every bin, as a fixed point.

Down the calls go rates (calls per request, retries, cache misses, what is cut short by a failure); up come times and failures.
Between them stand the resources, each a queue with several servers: CPU of a pod (its limit, less what its node withholds), its
worker threads, the connections of a pool. A slow callee holds the threads of its caller, whose own line then grows: that is
back-pressure. Waiting times follow Sakasegawa's approximation of the M/M/c queue; where more arrives than can be served, the line
grows from bin to bin until requests are turned away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from rca.simulator.conditions import BIN_SECONDS, Conditions
from rca.simulator.system import Bools, Floats, Ints, System

RETRANSMISSION_SECONDS: Final = 0.2
REFUSED_SECONDS: Final = 0.002
_ROUNDS: Final = 8
_SETTLED: Final = 0.02
"""Change of every latency in a round below which the state counts as found."""
_FULLEST: Final = 0.985
"""Use of a resource beyond which the formula is no longer asked: from there the line is counted."""
_SPREAD: Final = 0.9  # of ln(latency), for the chance that a call times out
_NO_CONNECTION_SECONDS: Final = 10.0
_NEVER: Final = 1e-12


@dataclass(frozen=True, eq=False)
class State:
    """The system in every bin. Rates in 1/s, times in s."""

    rate: Floats  # (O, T) requests that arrive
    latency: Floats  # (O, T) mean time in the operation, waiting for a worker included
    failure: Floats  # (O, T) share of requests that fail
    calls: Floats  # (K, T) attempts a second that reach the callee
    stretch: Floats  # (P, T) time that CPU work takes, 1 where nobody else wants the CPU
    line: Floats  # (P, T) mean wait for a worker
    turned_away: Floats  # (P, T) share of requests
    cores: Floats  # (P, T) CPU in use
    wanted: Floats  # (P, T) CPU that would be used without a limit
    node_cores: Floats  # (N, T) CPU in use
    workers: Floats  # (P, T) busy workers
    pool_wait: Floats  # (L, T) mean wait for a connection
    pool_full: Floats  # (L, T) share of the connections in use
    down: Floats  # (C, T) chance that a call finds nobody listening
    share: Floats  # (P, T) share of its component's requests
    backlog: Floats  # (O, T) messages that wait for a consumer
    published: Floats  # (C, T) messages a second that go into a queue


def wait_in_line(use: Floats, servers: Floats) -> Floats:
    """Mean wait per service time in an M/M/c queue. use: share of the servers that is busy. (Sakasegawa 1977)"""
    rho = np.minimum(use, _FULLEST)
    wait: Floats = rho ** (np.sqrt(2 * (servers + 1)) - 1) / (servers * (1 - rho))
    return wait


class _Sums:
    """Sums over rows that belong together, in a fixed order, so that the last digit is the same everywhere."""

    def __init__(self, group: Ints, groups: int) -> None:
        self._order = np.argsort(group, kind="stable")
        present, self._starts = np.unique(group[self._order], return_index=True)
        self._present, self._groups = present, groups

    def of(self, rows: Floats) -> Floats:
        """(rows, T) to (groups, T)."""
        total = np.zeros((self._groups, rows.shape[1]))
        if len(self._present):
            total[self._present] = np.add.reduceat(rows[self._order], self._starts, axis=0)
        return total


@dataclass(frozen=True, eq=False)
class _Level:
    """Operations of one level and their sites: slices, since both are sorted."""

    operations: slice
    sites: slice
    into: _Sums  # of flows by operation
    groups: Ints  # first site of every group, counted from the level's first
    group_of: Ints  # (sites,) place of the site's group
    first_group: Ints  # (groups,) first group of the same operation
    by_owner: _Sums  # of groups by operation, counted from the level's first


class Solver:
    """Finds the state of a system under given conditions."""

    def __init__(self, system: System, conditions: Conditions) -> None:
        self.system, self.conditions = system, conditions
        self._levels = _levels(system)
        self._by_component = _Sums(system.component_of, len(system.names))
        self._pods_by_component = _Sums(system.pod_component, len(system.names))
        self._on_nodes = np.flatnonzero(system.pod_node >= 0)
        self._by_node = _Sums(system.pod_node[self._on_nodes], len(system.node_names))
        self._pooled = np.flatnonzero(system.pool >= 0)
        self._by_pool = _Sums(system.pool[self._pooled], len(system.pool_owner))
        self._network()

    def _network(self) -> None:
        """What the network does to every site, (K, T) each; nothing of it depends on the load."""
        s, c = self.system, self.conditions
        a, b = s.source_component, s.target_component
        alive = self._pods_by_component.of(c.ready)
        share = np.where(alive[s.pod_component] > 0, c.ready / np.maximum(alive[s.pod_component], _NEVER), 0.0)
        self.share = share
        # Requests go on to a pod that has just died until its endpoint is taken out.
        running = self._pods_by_component.of(c.up) / s.replicas[:, None]
        just = np.maximum(np.concatenate([running[:, :1], running[:, :-1]], axis=1) - running, 0.0)
        self.down = np.where(alive < 0.05, 1.0, np.clip(0.6 * just, 0.0, 0.9))
        resolved = (1 - c.unresolved_out[a]) * (1 - c.unresolved_in[b])
        arrives = (1 - c.cut_out[a]) * (1 - c.cut_in[b])
        self.reaches = resolved * arrives * (1 - self.down[b]) * (1 - c.refused)
        lost = 1 - (1 - c.loss_in[b]) * (1 - c.loss_out[a])
        self.away = s.network[:, None] + c.delay_out[a] + c.delay_in[b] + lost * RETRANSMISSION_SECONDS
        self.timeout = s.timeout[:, None] * c.patience[a]
        fails = 1 - self.reaches
        slow = resolved * (1 - arrives) / np.maximum(fails, _NEVER) if c.blackhole else np.zeros_like(fails)
        self.failing = np.clip(slow, 0, 1) * self.timeout + REFUSED_SECONDS
        self.again = s.retries[:, None] + c.retries[a]
        self.retried: Bools = np.any(self.again, axis=1)  # (K,)

    def solve(self) -> State:
        """Iterate from an idle system."""
        s, c = self.system, self.conditions
        shape = (len(s.component_of), c.bins)
        sites, pods = (len(s.source), c.bins), (len(s.pod_component), c.bins)
        self.latency, self.failure = np.zeros(shape), np.zeros(shape)
        self.flow = np.broadcast_to(s.chance[:, None], sites).copy()  # attempts per request of the source
        self.attempt = np.zeros(sites)  # time of one attempt, without waiting for a connection
        self.spent = np.zeros(sites)  # time per execution
        self.busy_worker = np.zeros(shape)
        self.stretch, self.line, self.turned_away = np.ones(pods), np.zeros(pods), np.zeros(pods)
        self.pool_wait = np.zeros((len(s.pool_owner), c.bins))
        self.pool_full = np.zeros_like(self.pool_wait)
        self._times()
        for number in range(_ROUNDS):
            before = self.latency.copy()
            self._new = 0.5 if number else 1.0
            self._rates()
            self._resources()
            self._times()
            if (np.abs(self.latency - before) <= _SETTLED * self.latency).all():
                break
        return State(
            rate=self.rate,
            latency=self.latency,
            failure=self.failure,
            calls=self.calls * self.reaches,
            stretch=self.stretch,
            line=self.line,
            turned_away=self.turned_away,
            cores=self.cores,
            wanted=self.wanted,
            node_cores=self.node_cores,
            workers=self.workers,
            pool_wait=self.pool_wait,
            pool_full=self.pool_full,
            down=self.down,
            share=self.share,
            backlog=self.backlog,
            published=self.published,
        )

    def _rates(self) -> None:
        """Requests a second, callers first."""
        s, c = self.system, self.conditions
        self.rate = c.entry.copy()
        self.calls = np.zeros_like(self.flow)
        self.backlog = np.zeros_like(self.rate)
        self.published = np.zeros((len(s.names), c.bins))
        reading = np.flatnonzero(s.consumes >= 0)
        for level in self._levels:
            for o in reading[(reading >= level.operations.start) & (reading < level.operations.stop)].tolist():
                self._consume(o)
            self.calls[level.sites] = self.rate[s.source[level.sites]] * self.flow[level.sites]
            self.rate += level.into.of(self.calls[level.sites] * self.reaches[level.sites])
        queues = np.array([kind == "queue" for kind in s.kinds])
        self.published = np.where(queues[:, None], self._by_component.of(self.rate), 0.0)

    def _consume(self, o: int) -> None:
        """Messages wait where consumers cannot keep up, and are caught up with later."""
        s, c = self.system, self.conditions
        component = int(s.component_of[o])
        sent = self.rate[s.operations_of[int(s.consumes[o])]].sum(axis=0)
        able = 4 * s.rate[o] * c.consuming[component] * (self.down[component] < 1)
        excess = np.concatenate([[0.0], np.cumsum((sent - able) * c.bin_seconds)])
        waiting = (excess - np.minimum.accumulate(excess))[1:]
        before = np.concatenate([[0.0], waiting[:-1]])
        self.rate[o] = np.maximum(sent - (waiting - before) / c.bin_seconds, 0.0)
        self.backlog[o] = waiting

    def _resources(self) -> None:
        """CPU, workers and connections at these rates."""
        s, c = self.system, self.conditions
        pod = s.pod_component
        work = s.cpu[:, None] * c.cpu_factor
        served = self.rate * (1 - self.failure * 0.3)  # what fails costs less
        wanted = self._by_component.of(served * work)[pod] * self.share
        limit = s.cores[pod][:, None]
        used = np.minimum(wanted + c.burnt, limit)
        asked = self._by_node.of(used[self._on_nodes]) + c.node_burnt
        capacity = s.node_cores[:, None]
        crowded = np.maximum(asked / (0.95 * capacity), 1.0)
        # Below saturation neighbours already cost something: caches and run queues are shared.
        friction = 1 + 0.25 * np.clip(asked / capacity - 0.7, 0.0, 0.3) / 0.3
        slower = np.ones_like(used)
        slower[self._on_nodes] = (crowded * friction)[s.pod_node[self._on_nodes]]
        fair = np.minimum(c.burnt, 0.85 * limit)  # a greedy thread leaves the rest a share
        own = np.maximum((limit - fair) / slower, 0.02 * limit)
        use = wanted / own
        wait = wait_in_line(use, np.maximum(own, 1.0))
        full = np.clip((wanted + c.burnt) / limit - 0.7, 0.0, 0.3) / 0.3
        throttled = 1 + full * (limit / (limit - fair) - 1)  # the limit is spent, and everybody waits for the next period
        self.stretch = (1 - self._new) * self.stretch + self._new * slower * (throttled + wait)
        self.wanted = wanted + c.burnt
        self.cores = np.minimum(self.wanted, limit) / np.where(slower > 1.01, slower, 1.0)
        self.node_cores = np.minimum(asked, capacity)
        self._workers()
        calling = self.calls[self._pooled] * self.attempt[self._pooled]
        held = self._by_pool.of(calling) / np.maximum(s.replicas[s.pool_owner], 1)[:, None]
        size = np.maximum(s.pool_size[:, None] * (1 - c.pool_held), 0.05)
        self.pool_full = np.minimum(c.pool_held + held / s.pool_size[:, None], 1.0)
        each = held / np.maximum(self._by_pool.of(self.calls[self._pooled]) / s.replicas[s.pool_owner][:, None], _NEVER)
        use = held / size
        longer = np.minimum(wait_in_line(use, np.maximum(size, 1.0)) * each * np.maximum(use, 1.0), 30.0)
        longer += np.clip(1 - size, 0.0, 1.0) * _NO_CONNECTION_SECONDS  # with less than one left, some find none at all
        self.pool_wait = (1 - self._new) * self.pool_wait + self._new * longer

    def _workers(self) -> None:
        s, c = self.system, self.conditions
        pod = s.pod_component
        arriving = self._by_component.of(self.rate)[pod] * self.share
        holding = self._by_component.of(self.rate * self.busy_worker)[pod] * self.share
        each = holding / np.maximum(arriving, _NEVER)
        each = np.where(arriving > _NEVER, each, 0.0)
        threads = np.maximum(s.threads[pod][:, None] * (1 - c.threads_held[pod]), 0.2)
        use = holding / threads
        served = threads / np.maximum(each, 1e-6)
        wait = wait_in_line(use, np.maximum(threads, 1.0)) * each
        turned_away = np.zeros_like(wait)
        rows = np.flatnonzero((use > 1).any(axis=1))
        if len(rows):
            waiting = line_over_time(arriving[rows], served[rows], s.patience[pod[rows]], c.bin_seconds)
            wait[rows] += waiting / served[rows]
            full = waiting >= 0.999 * s.patience[pod[rows]][:, None]
            excess = np.maximum(1 - served[rows] / np.maximum(arriving[rows], _NEVER), 0.0)
            turned_away[rows] = np.where(full, excess, 0.0)
        self.line = (1 - self._new) * self.line + self._new * np.minimum(wait, 60.0)
        self.turned_away = (1 - self._new) * self.turned_away + self._new * turned_away
        self.workers = np.minimum(holding + s.threads[pod][:, None] * c.threads_held[pod], s.threads[pod][:, None])

    def _times(self) -> None:
        """Times and failures, callees first."""
        s, c = self.system, self.conditions
        share = self.share
        stretch = self._pods_by_component.of(self.stretch * share)[s.component_of]
        line = self._pods_by_component.of(self.line * share)[s.component_of]
        away = self._pods_by_component.of(self.turned_away * share)[s.component_of]
        own = s.cpu[:, None] * c.cpu_factor * np.maximum(stretch, 1.0) + s.idle[:, None] + c.wait
        starts = (1 - away) * (1 - c.own_error)
        goes_on = starts * (1 - c.early_return)
        waits = np.zeros_like(self.spent)
        waits[self._pooled] = self.pool_wait[s.pool[self._pooled]]
        hit = s.hit_ratio * c.hit[s.target_component]
        for level in reversed(self._levels):
            at, sites = level.operations, level.sites
            self.latency[at] = own[at] + line[at]
            self.failure[at] = 1 - starts[at] * (1 - s.base_error[at][:, None])
            self.busy_worker[at] = own[at]
            if sites.start == sites.stop:
                continue
            target = s.target[sites]
            mean = self.away[sites] + self.latency[target]
            late = 1 / (1 + np.exp(1.702 * (np.log(self.timeout[sites] / mean) + _SPREAD**2 / 2) / _SPREAD))
            answered = np.minimum(mean, self.timeout[sites]) * (1 - late) + self.timeout[sites] * late
            reaches = self.reaches[sites]
            fails = np.clip(1 - reaches * (1 - late) * (1 - self.failure[target]), 0.0, 1 - 1e-9)
            lost = fails.copy()
            retried = self.retried[sites]
            lost[retried] **= 1 + self.again[sites][retried]
            attempts = (1 - lost) / (1 - fails)
            one = self.attempt[sites] = reaches * answered + (1 - reaches) * self.failing[sites]
            self.spent[sites] = attempts * one + (attempts - 1) * s.backoff[sites][:, None] + waits[sites]
            chance = s.chance[sites][:, None] * self._spared(sites, lost, hit)
            attempts = attempts * c.attempts[s.source_component[sites]]
            keeps = np.where(s.critical[sites][:, None], 1 - chance * lost, 1.0)
            groups = np.multiply.reduceat(keeps, level.groups, axis=0)  # (G, T)
            logs = np.log(np.maximum(groups, 1e-12))
            running = np.cumsum(logs, axis=0)
            ahead = np.concatenate([np.zeros((1, running.shape[1])), running[:-1]])
            ahead = np.exp(ahead - ahead[level.first_group])  # chance to get as far as this group
            source = s.source[sites]
            comes = goes_on[source] * ahead[level.group_of]
            self.flow[sites] = comes * chance * attempts
            longest = (
                np.maximum.reduceat(self.spent[sites] * chance, level.groups, axis=0)
                * ahead
                * goes_on[s.source[sites][level.groups]]
            )
            calling = level.by_owner.of(longest)
            self.latency[at] += calling
            self.busy_worker[at] += calling
            survives = np.exp(level.by_owner.of(logs))
            done = starts[at] * (c.early_return[at] + (1 - c.early_return[at]) * survives)
            self.failure[at] = 1 - done * (1 - s.base_error[at][:, None])

    def _spared(self, sites: slice, lost: Floats, hit: Floats) -> Floats:
        """Chance that a call is made: 1, or the chance that the cache before it misses or fails."""
        behind = self.system.behind[sites]
        cached = np.flatnonzero(behind >= 0)
        chance = np.ones_like(lost)
        if len(cached):
            fails = lost[behind[cached] - sites.start]
            chance[cached] = 1 - hit[behind[cached]] * (1 - fails)
        return chance


def line_over_time(arriving: Floats, served: Floats, most: Floats, bin_seconds: float = BIN_SECONDS) -> Floats:
    """Requests in line at the end of every bin, (rows, T), where rates vary and no more than `most` wait."""
    line = np.zeros_like(arriving)
    now = np.zeros(len(arriving))
    for t in range(arriving.shape[1]):
        now = np.clip(now + (arriving[:, t] - served[:, t]) * bin_seconds, 0.0, most)
        line[:, t] = now
    return line


def _levels(system: System) -> list[_Level]:
    levels = []
    for number in range(int(system.level.max()) + 1):
        members = np.flatnonzero(system.level == number)
        if not len(members):
            continue
        at = slice(int(members[0]), int(members[-1]) + 1)
        sites = slice(*np.searchsorted(system.source, [at.start, at.stop]).tolist())
        group = system.group[sites]
        _, firsts, group_of = np.unique(group, return_index=True, return_inverse=True)
        owner = system.source[sites][firsts] - at.start
        first_group = np.searchsorted(owner, owner)
        into = _Sums(system.target[sites], len(system.component_of))
        by_owner = _Sums(owner, at.stop - at.start)
        levels.append(_Level(at, sites, into, firsts, group_of, first_group, by_owner))
    return levels
