"""What systems tell in words: log lines by template, events of the cluster, alerts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl

from rca.bins import BIN_NS
from rca.simulator.conditions import Change
from rca.simulator.config import TelemetryRanges
from rca.simulator.frames import framed
from rca.simulator.names import Names
from rca.simulator.requests import World
from rca.simulator.system import Floats
from rca.telemetry import SECOND_NS, EntityId, conform

Firing = tuple[int, EntityId, str, str]
"""Bin in which it fires, whom it is about, its name, up or down."""
_SCHEMA: Final = ["time_unix_nano", "entity_kind", "entity"]


def log_frame(world: World, ranges: TelemetryRanges, rng: np.random.Generator, start_ns: int) -> pl.DataFrame:
    """The frame `logs`: lines of services per template and bin."""
    writer = _Writer(world, ranges, rng)
    for o in np.flatnonzero(world.system.component_of < world.system.services).tolist():
        writer.operation(o)
    for component in range(world.system.services):
        writer.background(component)
    for o, component, severity, template, rate in world.conditions.lines:
        writer.further(o, component, severity, template, rate)
    return writer.frame(start_ns)


class _Writer:
    """Counts lines. Every operation has lines of its own; some systems know which operation wrote a line."""

    def __init__(self, world: World, ranges: TelemetryRanges, rng: np.random.Generator) -> None:
        self._world, self._rng, self._names = world, rng, Names(rng)
        self._ranges = ranges
        self._by_operation = rng.random() < 0.5
        self._talkative = rng.random(world.system.services) < ranges.talkative
        self._silent = rng.random(world.system.services) < ranges.silent_failures
        self._expected: list[Floats] = []
        self._parts: list[tuple[int, int, str, str]] = []  # component, operation, severity, template

    def _write(self, expected: Floats, component: int, o: int, severity: str, template: str) -> None:
        """expected: lines per bin, (T,)."""
        lost = self._world.conditions.logs_lost
        self._expected.append(expected if lost is None else expected * (1 - lost[component]))
        self._parts.append((component, o, severity, template))

    def operation(self, o: int) -> None:
        """Lines about every request, and about those that fail."""
        system, conditions, state = self._world.system, self._world.conditions, self._world.state
        component = int(system.component_of[o])
        requests = state.rate[o] * 10.0
        arrives = 1 - state.turned_away[system.pods_of[component]].mean(axis=0)
        thrown = conditions.own_error[o]
        done = (1 - state.failure[o]) * (1 - conditions.early_return[o])
        if self._talkative[component]:
            self._write(requests * arrives, component, o, "INFO", f"{self._names.word()} <*> {self._names.word()}")
            if self._rng.random() < 0.6:
                self._write(requests * done, component, o, "INFO", f"{self._names.word()} {self._names.word()} in <*> ms")
        if self._rng.random() < self._ranges.rare_lines:
            some = requests * done * self._ranges.rare_line_chance.draw(self._rng)
            self._write(some, component, o, "INFO", f"{self._names.word()} <*>: {self._names.word()}")
        own = arrives * np.maximum(thrown, system.base_error[o])
        if not self._silent[component]:
            self._write(requests * own, component, o, "ERROR", f"{self._names.word().title()}Error: {self._names.word()} <*>")
        below = np.maximum(state.failure[o] - own - (1 - arrives), 0.0)
        if self._rng.random() < self._ranges.logs_failed_calls:
            self._write(requests * below, component, o, "ERROR", f"call to <*> failed: {self._names.word()} <*>")
        if (1 - arrives).any():
            self._write(requests * (1 - arrives), component, o, "WARN", f"no worker free, {self._names.word()} <*> turned away")

    def background(self, component: int) -> None:
        """Lines that have nothing to do with requests: timers, health checks."""
        system, conditions = self._world.system, self._world.conditions
        up = conditions.up[system.pods_of[component]].sum(axis=0)
        for _ in range(int(self._rng.integers(0, 3))):
            severity = "WARN" if self._rng.random() < 0.15 else "INFO"
            rate = self._ranges.background_lines.draw(self._rng)
            self._write(up * rate, component, -1, severity, f"{self._names.word()} {self._names.word()} <*>")
        began = np.clip(np.diff(up, prepend=up[:1]), 0.0, None)
        if began.any():
            self._write(began * 4, component, -1, "INFO", f"starting {system.names[component]} version <*>")

    def further(self, o: int, component: int, severity: str, template: str, rate: Floats) -> None:
        """Lines that a fault brings: `rate` per request of the operation, or of the whole component."""
        if self._silent[component] and severity == "ERROR":
            return
        system, state = self._world.system, self._world.state
        rows = [o] if o >= 0 else system.operations_of[component].tolist()
        self._write(state.rate[rows].sum(axis=0) * 10.0 * rate, component, o, severity, template)

    def frame(self, start_ns: int) -> pl.DataFrame:
        system = self._world.system
        expected = np.array(self._expected).reshape(len(self._parts), self._world.conditions.bins)
        drawn = self._rng.poisson(np.maximum(expected, 0.0))  # all at once: line by line costs several times as much
        which, bins = np.nonzero(drawn)
        counts = drawn[which, bins]

        def column(texts: Sequence[str | None]) -> pl.Series:
            return pl.Series(texts, dtype=pl.String).gather(which)

        operations = [system.operation_names[o] if o >= 0 and self._by_operation else None for _, o, _, _ in self._parts]
        return framed(
            "logs",
            time_unix_nano=start_ns + bins * BIN_NS,
            entity_kind=pl.repeat("service", len(bins), dtype=pl.String, eager=True),
            entity=column([system.names[component] for component, _, _, _ in self._parts]),
            operation=column(operations),
            severity=column([severity for _, _, severity, _ in self._parts]),
            template=column([template for *_, template in self._parts]),
            count=counts,
        )


def event_frame(changes: Sequence[Change], rng: np.random.Generator, start_ns: int, bin_ns: int) -> pl.DataFrame:
    """The frame `events`: changes at some second of their bin."""
    rows = [
        (
            start_ns + change.bin * bin_ns + int(rng.integers(bin_ns // SECOND_NS)) * SECOND_NS,
            change.entity.kind,
            change.entity.name,
            change.reason,
            change.message,
            change.severity,
        )
        for change in changes
    ]
    columns = [*_SCHEMA, "reason", "message", "severity"]
    types = [pl.Int64, *[pl.String] * 5]
    return conform("events", pl.DataFrame(sorted(rows), schema=dict(zip(columns, types, strict=True)), orient="row"))


def alerts_of(world: World, rng: np.random.Generator) -> list[Firing]:
    """(bin, entity, name, direction) of alerts that fire: rules over services, pods and nodes, each with a minute's patience."""
    system, conditions, state = world.system, world.conditions, world.state
    fired: list[Firing] = []
    patience = max(1, round(conditions.bins_per_minute))
    strict = float(np.exp(rng.uniform(np.log(0.5), np.log(2.0))))  # how early this team wants to know
    quiet = slice(0, max(conditions.onset, 1))
    requests = np.zeros((len(system.names), conditions.bins))
    np.add.at(requests, system.component_of, state.rate)
    failing, slow = np.zeros_like(requests), np.zeros_like(requests)
    np.add.at(failing, system.component_of, state.rate * state.failure)
    np.add.at(slow, system.component_of, state.rate * state.latency)
    watched = rng.random(system.services) < 0.7
    watched[np.unique(system.component_of[system.entry > 0])] = True
    for c in np.flatnonzero(watched).tolist():
        entity, busy = EntityId("service", system.names[c]), np.maximum(requests[c], 1e-9)
        latency = slow[c] / busy
        usual = float(np.median(requests[c][quiet]))
        rules = (
            ("HighErrorRate", "up", (failing[c] / busy > 0.05 * strict) & (requests[c] > 0.05)),
            ("HighRequestLatency", "up", latency > max(float(np.median(latency[quiet])) * (1 + 2 * strict), 0.05)),
            ("TrafficDropped", "down", requests[c] < 0.3 * usual),
        )
        fired += [(at, entity, name, way) for name, way, holds in rules if (at := _first_hold(holds, patience)) is not None]
    for p in np.flatnonzero(system.pod_node >= 0).tolist():
        entity = EntityId("pod", system.pod_names[p])
        component = int(system.pod_component[p])
        used = (system.memory[component] + conditions.memory[p]) / system.memory_limit[component]
        watching = (
            ("CPUThrottlingHigh", "up", state.wanted[p] > 1.1 * system.cores[component]),
            ("ContainerMemoryNearLimit", "up", used > 0.92),
            ("KubePodNotReady", "up", conditions.ready[p] < 0.5),
            ("VolumeFillingUp", "up", conditions.disk[p] > 0.3),
        )
        fired += [(at, entity, name, way) for name, way, holds in watching if (at := _first_hold(holds, patience)) is not None]
    for n, name in enumerate(system.node_names):
        at = _first_hold(state.node_cores[n] > 0.9 * system.node_cores[n], patience)
        if at is not None:
            fired.append((at, EntityId("node", name), "NodeCPUHigh", "up"))
    return sorted(fired, key=lambda alert: (alert[0], alert[1], alert[2]))


def _first_hold(holds: np.ndarray, patience: int) -> int | None:
    """Bin in which a condition has held for so many bins, first."""
    if np.count_nonzero(holds) < patience:
        return None
    held = np.convolve(holds.astype(np.int64), np.ones(patience, dtype=np.int64))[: len(holds)] >= patience
    return int(np.argmax(held)) if held.any() else None


def alert_frame(alerts: Sequence[Firing], start_ns: int, bin_ns: int) -> pl.DataFrame:
    """The frame `alerts`."""
    rows = [(start_ns + at * bin_ns, entity.kind, entity.name, name, "metric", way) for at, entity, name, way in alerts]
    columns = [*_SCHEMA, "name", "source", "direction"]
    types = [pl.Int64, *[pl.String] * 5]
    return conform("alerts", pl.DataFrame(rows, schema=dict(zip(columns, types, strict=True)), orient="row"))
