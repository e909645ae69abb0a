"""Metrics as a Prometheus scrapes them: of pods, nodes, services, and of databases and queues that somebody else runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from rca.simulator.conditions import BIN_SECONDS
from rca.simulator.config import TelemetryRanges
from rca.simulator.frames import framed
from rca.simulator.requests import Served, World
from rca.simulator.system import Bools, Floats, Ints
from rca.telemetry import SECOND_NS, EntityKind, empty

_POD_METRICS: Final = (
    "container.cpu.usage",
    "container.memory.usage",
    "container.cpu.utilization",
    "container.memory.utilization",
    "container.network.receive",
    "container.network.transmit",
    "container.filesystem.usage",
    "container.disk.io",
    "container.cpu.throttled",
    "container.restarts",
    "k8s.pod.ready",
    "process.sockets",
)
_ALWAYS: Final = 2  # of the metrics above, so many are in every system
_QUANTILES: Final = (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99))
_BYTES_IN, _BYTES_OUT = 1500.0, 4000.0
_WORKER_BYTES: Final = 1.5e6
_LINE_BYTES: Final = 300.0
_RATE_SECONDS: Final = 30.0  # rates are taken over at least so long


@dataclass(frozen=True)
class Scraping:
    """What is scraped, and how often. Shares of scrapes, seconds, and the spread of the noise."""

    step_seconds: int
    loss: float
    gap: tuple[float, float] | None
    noise: float
    pod_metrics: tuple[str, ...]
    statistics: tuple[str, ...]
    """Of request durations: mean and quantiles; empty where services have no request metrics."""
    clients: bool
    nodes: bool
    backends: bool
    outside: bool
    """Requests to everything, whoever runs it, are measured where they arrive, and nothing else is."""


def draw_scraping(rng: np.random.Generator, ranges: TelemetryRanges, seconds: float) -> Scraping:
    """How one system is scraped. seconds: length of what is simulated."""
    extra = [name for name in _POD_METRICS[_ALWAYS:] if rng.random() < 0.55]
    statistics = tuple(name for name in ("mean", "p50", "p90", "p95", "p99") if rng.random() < 0.6) or ("p50",)
    gap = None
    if rng.random() < ranges.scrape_gap_share:
        start = rng.uniform(0, seconds)
        gap = (start, start + rng.uniform(60, 240))
    step, outside = int(rng.choice(ranges.scrape_seconds)), bool(rng.random() < ranges.measured_from_outside)
    if outside:
        return Scraping(
            step_seconds=step,
            loss=ranges.scrape_loss.draw(rng),
            gap=gap,
            noise=ranges.metric_noise.draw(rng),
            pod_metrics=(),
            statistics=("mean", *(name for name in statistics if name != "mean")),
            clients=False,
            nodes=False,
            backends=False,
            outside=True,
        )
    return Scraping(
        step_seconds=step,
        loss=ranges.scrape_loss.draw(rng),
        gap=gap,
        noise=ranges.metric_noise.draw(rng),
        pod_metrics=(*_POD_METRICS[:_ALWAYS], *extra),
        statistics=statistics if rng.random() < ranges.request_metrics else (),
        clients=bool(rng.random() < 0.5),
        nodes=bool(rng.random() >= ranges.no_node_metrics),
        backends=bool(rng.random() < 0.5),
        outside=False,
    )


class Scraper:
    """Turns the state of a system into samples."""

    def __init__(self, world: World, served: Sequence[Served], scraping: Scraping, rng: np.random.Generator) -> None:
        self._world, self._served, self._scraping, self._rng = world, served, scraping, rng
        bins, bin_seconds = world.conditions.bins, world.conditions.bin_seconds
        step = scraping.step_seconds
        self.seconds = np.arange(float(rng.uniform(0, step)), bins * bin_seconds, step)  # (S,)
        wide = max(1, round(max(step, _RATE_SECONDS) / bin_seconds))
        self._last = np.minimum((self.seconds // bin_seconds).astype(np.int64), bins - 1)
        self._first = np.maximum(self._last - wide + 1, 0)
        self._parts: list[tuple[EntityKind, Sequence[str], str, Floats]] = []

    def frame(self, start_ns: int) -> pl.DataFrame:
        """The frame `metrics`; bins count from start_ns."""
        if self._scraping.pod_metrics:
            self._pods()
        if self._scraping.nodes:
            self._nodes()
        if self._scraping.statistics:
            self._requests()
        if self._scraping.backends:
            self._backends()
        rows, columns, parts = [], [], []
        for part, (_, _, _, values) in enumerate(self._parts):
            row, column = np.nonzero(np.isfinite(values) & self._arrived(values.shape))
            rows.append(row)
            columns.append(column)
            parts.append(np.full(len(row), part))
        row, column, part_of = np.concatenate(rows), np.concatenate(columns), np.concatenate(parts)
        first = np.cumsum([0, *(len(names) for _, names, _, _ in self._parts)])
        entities = pl.Series([name for _, names, _, _ in self._parts for name in names], dtype=pl.String)
        times = start_ns + (self.seconds * SECOND_NS).astype(np.int64)
        samples = [part[3][r, c] for part, r, c in zip(self._parts, rows, columns, strict=True)]
        return framed(
            "metrics",
            time_unix_nano=times[column],
            entity_kind=pl.Series([kind for kind, _, _, _ in self._parts]).gather(part_of),
            entity=entities.gather(first[part_of] + row),
            metric=pl.Series([metric for _, _, metric, _ in self._parts]).gather(part_of),
            value=np.concatenate(samples),
        )

    def _arrived(self, shape: tuple[int, ...]) -> Bools:
        arrived: Bools = self._rng.random(shape) >= self._scraping.loss
        if self._scraping.gap:
            low, high = self._scraping.gap
            arrived &= ~((self.seconds >= low) & (self.seconds < high))
        return arrived

    def _mean(self, values: Floats) -> Floats:
        """(rows, T) to (rows, S): means over the time that a rate is taken over."""
        total = np.concatenate([np.zeros((len(values), 1)), np.cumsum(values, axis=1)], axis=1)
        mean: Floats = (total[:, self._last + 1] - total[:, self._first]) / (self._last + 1 - self._first)
        return mean

    def _now(self, values: Floats) -> Floats:
        return values[:, self._last]

    def _noisy(self, values: Floats, times: float = 1.0) -> Floats:
        noisy: Floats = values * (1 + times * self._scraping.noise * self._rng.standard_normal(values.shape))
        return np.maximum(noisy, 0.0)

    def _pods(self) -> None:
        system, conditions, state = self._world.system, self._world.conditions, self._world.state
        pods = np.flatnonzero(system.pod_node >= 0)
        component = system.pod_component[pods]
        names = [system.pod_names[p] for p in pods.tolist()]
        running = np.where(self._now(conditions.up[pods]) > 0.05, 1.0, np.nan)
        if conditions.metrics_lost is not None:
            running[self._now(conditions.metrics_lost)[component] > 0.5] = np.nan
        requests, calls = self._throughput()
        limit = system.cores[component][:, None]
        share = state.share[pods]
        swing = 1 + 0.06 * np.sin(
            self.seconds / self._rng.uniform(60, 900, (len(pods), 1)) + self._rng.uniform(0, 6, (len(pods), 1))
        )
        idle = 0.01 + 0.02 * system.cores[component][:, None]
        for metric in self._scraping.pod_metrics:
            if metric.startswith("container.cpu.u"):
                values = self._noisy(self._mean(state.cores[pods]) + idle)
                values = values / limit if metric.endswith("utilization") else values
            elif metric.startswith("container.memory"):
                base = system.memory[component][:, None] * swing + _WORKER_BYTES * self._now(state.workers[pods])
                most = system.memory_limit[component][:, None]
                values = np.minimum(self._noisy(base, 0.3) + self._now(conditions.memory[pods]), most)
                values = values / most if metric.endswith("utilization") else values
            elif metric == "container.network.receive":
                values = self._noisy(300 + self._mean((requests * _BYTES_IN + calls * _BYTES_OUT)[component] * share))
            elif metric == "container.network.transmit":
                values = self._noisy(300 + self._mean((requests * _BYTES_OUT + calls * _BYTES_IN)[component] * share))
            elif metric == "container.filesystem.usage":
                values = 20e9 * np.minimum(self._pod_bases(pods, 0.1, 0.6) + self._now(conditions.disk[pods]), 1.0)
            elif metric == "container.disk.io":
                written = 2e3 + self._mean(requests[component] * share * conditions.disk_busy[pods]) * _LINE_BYTES
                values = self._noisy(written, 2.0)
            elif metric == "container.cpu.throttled":
                values = self._noisy(np.clip(self._mean(state.wanted[pods]) / limit - 0.7, 0.0, 1.0))
            elif metric == "container.restarts":
                began = np.diff(conditions.up[pods], axis=1, prepend=1.0) > 0.5
                values = self._now(np.cumsum(began, axis=1).astype(float))
            elif metric == "k8s.pod.ready":
                values = (self._now(conditions.ready[pods]) > 0.5).astype(float)
            else:
                values = np.round(self._noisy(6 + self._now(state.workers[pods]) * 2))
            reported = metric in ("container.restarts", "k8s.pod.ready")  # by the cluster, not the container
            self._parts.append(("pod", names, metric, values if reported else values * running))

    def _pod_bases(self, pods: Ints, low: float, high: float) -> Floats:
        """A level for every pod that hardly moves, (pods, S)."""
        level = self._rng.uniform(low, high, (len(pods), 1))
        return level * (1 + 0.002 * self._rng.standard_normal((len(pods), len(self.seconds))))

    def _throughput(self) -> tuple[Floats, Floats]:
        """Requests served and calls sent a second, (C, T) each."""
        system, state = self._world.system, self._world.state
        requests = np.zeros((len(system.names), self._world.conditions.bins))
        np.add.at(requests, system.component_of, state.rate)
        calls = np.zeros_like(requests)
        np.add.at(calls, system.source_component, state.calls)
        return requests, calls

    def _nodes(self) -> None:
        system, conditions, state = self._world.system, self._world.conditions, self._world.state
        names, count = system.node_names, len(system.node_names)
        cores = system.node_cores[:, None]
        busy = self._mean(state.node_cores)
        memory = np.zeros((count, conditions.bins))
        placed = np.flatnonzero(system.pod_node >= 0)
        np.add.at(
            memory, system.pod_node[placed], (system.memory[system.pod_component])[placed, None] + conditions.memory[placed]
        )
        own = self._rng.uniform(0.03, 0.1, (count, 1))
        disk = np.zeros((count, conditions.bins))
        np.add.at(disk, system.pod_node[placed], conditions.disk_busy[placed])
        noise = self._noisy
        requests, calls = self._throughput()
        moved = (requests + calls)[system.pod_component] * state.share
        bytes_moved = np.zeros((count, conditions.bins))
        np.add.at(bytes_moved, system.pod_node[placed], moved[placed] * (_BYTES_IN + _BYTES_OUT) / 2)
        self._parts += [
            ("node", names, "node.cpu.utilization", np.minimum(noise(busy / cores + own), 1.0)),
            ("node", names, "node.load", noise(busy + own * cores + self._mean(conditions.node_burnt) * 0.5, 3.0)),
            (
                "node",
                names,
                "node.memory.utilization",
                np.minimum(noise(self._now(memory) / (2.2 * memory[:, :1] + 1e9), 0.3), 1.0),
            ),
            ("node", names, "node.disk.io", noise(self._mean(disk) * 2e5, 3.0)),
            ("node", names, "node.network.receive", noise(self._mean(bytes_moved) + 2e3)),
            ("node", names, "node.network.transmit", noise(self._mean(bytes_moved) + 2e3)),
        ]

    def _backends(self) -> None:
        """Databases and queues that an exporter watches from outside."""
        system, state = self._world.system, self._world.state
        watched = [
            c
            for c in range(system.services, len(system.names))
            if system.kinds[c] in ("database", "queue") and not system.in_pods(c)
        ]
        backlog = np.zeros((len(system.names), self._world.conditions.bins))
        for o in np.flatnonzero(system.consumes >= 0).tolist():
            backlog[system.consumes[o]] += state.backlog[o]
        for kind in ("database", "queue"):
            rows = [c for c in watched if system.kinds[c] == kind]
            names, pods = [system.names[c] for c in rows], [int(system.pods_of[c][0]) for c in rows]
            if not rows:
                continue
            limit = system.cores[rows][:, None]
            entity: EntityKind = "database" if kind == "database" else "queue"
            self._parts.append(
                (entity, names, "container.cpu.utilization", self._noisy(self._mean(state.cores[pods]) / limit + 0.02))
            )
            if kind == "queue":
                self._parts.append((entity, names, "messaging.queue.messages", np.round(self._noisy(self._now(backlog[rows])))))
            else:
                busy = self._now(state.workers[pods])
                self._parts.append((entity, names, "process.sockets", np.round(self._noisy(8 + busy * 2))))

    def _requests(self) -> None:
        """Rates, failures and durations of the requests of every service, as its own instrumentation counts them, or of
        everything, as a cloud does.
        """
        system, state = self._world.system, self._world.state
        lost = self._world.conditions.metrics_lost
        rows = range(len(system.names)) if self._scraping.outside else range(system.services)
        requests, calls = self._throughput()
        failing = np.zeros_like(requests)
        np.add.at(failing, system.component_of, state.rate * state.failure)
        rate = self._mean(requests)[: len(rows)]
        ratio = self._mean(failing)[: len(rows)] / np.maximum(rate, 1e-9)
        seconds = max(self._scraping.step_seconds, _RATE_SECONDS)
        count = self._rng.poisson(rate * seconds)
        failed = self._rng.binomial(count, np.clip(ratio, 0.0, 1.0))
        silent = np.where(self._now(lost)[: len(rows)] > 0.5, np.nan, 1.0) if lost is not None else np.ones_like(rate)
        served = np.where(count > 0, silent, np.nan)
        self._add_by_kind("server.request.rate", count / seconds * silent)
        self._add_by_kind("server.request.success_ratio", (1 - failed / np.maximum(count, 1)) * served)
        if not self._scraping.outside:
            self._add_by_kind("server.request.error.rate", failed / seconds * silent)
        self._durations("server", [self._served_by(c) for c in rows], served)
        if self._scraping.clients:
            self._clients(calls, silent)

    def _add_by_kind(self, metric: str, values: Floats) -> None:
        """A metric of the first components, all services or, measured from outside, of every kind. values: (components, S)."""
        system = self._world.system
        kinds = [system.graph_kind(c) for c in range(len(values))]
        for kind in dict.fromkeys(kinds):
            rows = [c for c, other in enumerate(kinds) if other == kind]
            self._parts.append((kind, [system.names[c] for c in rows], metric, values[rows]))

    def _clients(self, calls: Floats, silent: Floats) -> None:
        """The same of the calls that services send."""
        system = self._world.system
        names = system.names[: system.services]
        seconds = max(self._scraping.step_seconds, _RATE_SECONDS)
        sent = self._rng.poisson(self._mean(calls)[: system.services] * seconds)
        made = [self._sent_by(c) for c in range(system.services)]
        failing = np.stack(
            [np.where(w.sum(axis=1) > 0, (f * w).sum(axis=1) / np.maximum(w.sum(axis=1), 1e-9), 0.0) for *_, w, f in made]
        )
        failed = self._rng.binomial(sent, np.clip(self._mean(failing), 0.0, 1.0))
        some = np.where(sent > 0, silent, np.nan)
        self._parts += [
            ("service", names, "client.request.rate", sent / seconds * silent),
            ("service", names, "client.request.success_ratio", (1 - failed / np.maximum(sent, 1)) * some),
        ]
        self._durations("client", [(values, weights) for values, weights, _ in made], some)

    def _durations(self, side: str, samples: Sequence[tuple[Floats, Floats]], shown: Floats) -> None:
        """Mean and quantiles of durations. samples: of every service, (values (T, n), weights (T, n)); shown: (services, S)."""
        found = np.stack([self._statistics(values, weights) for values, weights in samples])  # (services, S, statistics)
        for i, statistic in enumerate(("mean", *(name for name, _ in _QUANTILES))):
            if statistic in self._scraping.statistics:
                self._add_by_kind(f"{side}.request.duration.{statistic}", self._noisy(found[:, :, i], 0.5) * shown)

    def _served_by(self, component: int) -> tuple[Floats, Floats]:
        """Durations of the requests to a service and what each counts, (T, n) each."""
        operations = self._world.system.operations_of[component].tolist()
        if not operations:
            return np.zeros((self._world.conditions.bins, 0)), np.zeros((self._world.conditions.bins, 0))
        samples = np.concatenate([self._served[o].outcome.duration for o in operations]).T
        each = len(self._served[operations[0]].outcome.duration)
        return samples, np.repeat(self._world.state.rate[operations].T, each, axis=1)

    def _sent_by(self, component: int) -> tuple[Floats, Floats, Floats]:
        """Durations of a service's calls, what each counts, and whether it failed, (T, n) each."""
        operations = self._world.system.operations_of[component].tolist()
        attempts = [attempt for o in operations for attempt in self._served[o].attempts]
        if not attempts:
            nothing = np.zeros((self._world.conditions.bins, 0))
            return nothing, nothing, nothing
        source = self._world.system.source
        weights = [attempt.made * self._world.state.rate[source[attempt.site]] for attempt in attempts]
        columns = [attempt.client for attempt in attempts], weights, [attempt.failed.astype(float) for attempt in attempts]
        values, weigh, failed = (np.concatenate(column).T for column in columns)
        return values, weigh, failed

    def _statistics(self, samples: Floats, weights: Floats) -> Floats:
        """Mean and quantiles at every scrape, (S, 1 + quantiles). samples, weights: (T, n)."""
        result = np.full((len(self.seconds), 1 + len(_QUANTILES)), np.nan)
        if not samples.shape[1]:
            return result
        back = np.arange(int((self._last - self._first).max()) + 1)
        bins = np.maximum(self._last[:, None] - back, self._first[:, None])  # (S, w)
        weigh = (weights[bins] * (self._last[:, None] - back >= self._first[:, None])[:, :, None]).reshape(len(bins), -1)
        values = samples[bins].reshape(len(bins), -1)
        order = np.argsort(values, axis=1)
        values, weigh = np.take_along_axis(values, order, axis=1), np.take_along_axis(weigh, order, axis=1)
        total = np.maximum(weigh.sum(axis=1), 1e-12)
        result[:, 0] = (values * weigh).sum(axis=1) / total
        reached = np.cumsum(weigh, axis=1) / total[:, None]
        for i, (_, quantile) in enumerate(_QUANTILES):
            place = (reached < quantile - 1e-9).sum(axis=1).clip(max=values.shape[1] - 1)
            result[:, 1 + i] = values[np.arange(len(values)), place]
        return result


def call_frame(
    world: World, served: Sequence[Served], rng: np.random.Generator, start_ns: int, step_seconds: int
) -> pl.DataFrame:
    """The frame `calls`: what a service mesh says about every pair of caller and callee, once per step."""
    system, state = world.system, world.state
    wide = max(1, round(step_seconds / BIN_SECONDS))
    steps = world.conditions.bins // wide
    attempts = {a.site: a for s in served for a in reversed(s.attempts)}
    if not steps or not attempts:
        return empty("calls")
    pairs: dict[tuple[int, int], list[int]] = {}
    for k in sorted(attempts):
        pairs.setdefault((int(system.source_component[k]), int(system.target_component[k])), []).append(k)
    alike: dict[int, list[tuple[int, int]]] = {}  # pairs by the number of their sites: as many samples each
    for pair, sites in pairs.items():
        alike.setdefault(len(sites), []).append(pair)
    parts: list[tuple[Ints, Ints, int, Ints, Floats]] = []  # caller, callee, metric, step, value
    for members in alike.values():
        of = np.array([pairs[pair] for pair in members])  # (P, sites)

        def sampled(name: str, of: Ints = of) -> npt.NDArray[Any]:
            """One value of the attempts at these sites, (P, steps, samples of a step)."""
            stacked = np.array([[getattr(attempts[k], name) for k in sites] for sites in of.tolist()])
            steady = stacked[..., : steps * wide].reshape(len(of), -1, steps, wide)
            return steady.swapaxes(1, 2).reshape(len(of), steps, -1)

        calls = state.calls[of].sum(axis=1)[:, : steps * wide].reshape(len(of), steps, wide).mean(axis=2)
        number = rng.poisson(calls * step_seconds)  # (P, steps)
        made = sampled("made")
        place, step = np.nonzero((number > 0) & made.any(axis=2))
        count, made = number[place, step], made[place, step]
        ends = np.array(members)[place]
        failing = (sampled("failed")[place, step] & made).sum(axis=1) / made.sum(axis=1)
        inside = np.array([kind == "service" for kind in system.kinds])[ends[:, 1]]
        values = (
            (count / step_seconds, np.ones_like(inside)),
            (rng.binomial(count, failing) / count, np.ones_like(inside)),
            (_medians(np.where(made, sampled("client")[place, step], np.nan)), np.ones_like(inside)),
            (_medians(np.where(made, sampled("called")[place, step], np.nan)), inside),
        )
        parts += [(ends[shown, 0], ends[shown, 1], m, step[shown], value[shown]) for m, (value, shown) in enumerate(values)]
    metrics = pl.Series(["call.rate", "call.error_ratio", "call.client.duration.p50", "call.server.duration.p50"])
    callers, callees, at, column = (np.concatenate([part[i] for part in parts]) for i in (0, 1, 3, 4))
    names = pl.Series(system.names)
    return framed(
        "calls",
        time_unix_nano=start_ns + at * wide * world.conditions.bin_ns,
        caller=names.gather(callers),
        callee_kind=pl.Series(system.kinds).gather(callees),
        callee=names.gather(callees),
        metric=metrics.gather(np.concatenate([np.full(len(part[0]), part[2]) for part in parts])),
        value=column,
    )


def _medians(values: Floats) -> Floats:
    """Median of every row, NaN left out; each row has a number. (np.nanmedian takes twenty times as long for short rows.)"""
    ordered, count = np.sort(values, axis=1), np.isfinite(values).sum(axis=1)  # NaN sorts last
    rows = np.arange(len(values))
    medians: Floats = (ordered[rows, (count - 1) // 2] + ordered[rows, count // 2]) / 2
    return medians
