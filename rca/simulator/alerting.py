"""Systems of which nothing is known but alerts: which fire in an incident, and how often each fires in others of the system.

A team's rules compare the window with the time before, on metrics of services, on calls and on log lines. They differ in how
early they fire, and some fire for no reason: a few nearly always. How usual an alert is follows from other incidents of the
system, which are simulated too, one after another in the bins of one world.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Final

import numpy as np
import polars as pl

from rca.simulator.conditions import Conditions
from rca.simulator.config import TelemetryRanges
from rca.simulator.queueing import RETRANSMISSION_SECONDS
from rca.simulator.requests import World
from rca.simulator.system import Bools, Floats, Ints
from rca.telemetry import EntityKind, conform

OTHERS: Final = 8
"""Other incidents of the system that are simulated."""
_RULES: Final[dict[str, tuple[str, ...]]] = {
    "cpu": ("container_cpu_usage", "HighCPU", "CPUThrottlingHigh"),
    "memory": ("container_memory_usage", "HighMemory", "ContainerMemoryNearLimit"),
    "disk_space": ("container_fs_usage", "VolumeFillingUp"),
    "disk": ("container_fs_io", "DiskBusy"),
    "received": ("net_receive_bytes",),
    "sent": ("net_transmit_bytes",),
    "traffic_in": ("dest_qps", "RequestRateAnomaly", "TrafficAnomaly"),
    "traffic_out": ("src_qps",),
    "latency_in": ("dest_p90", "dest_p99", "HighRequestLatency"),
    "latency_out": ("src_p90", "src_p99"),
    "errors_in": ("dest_success", "HighErrorRate"),
    "errors_out": ("src_success",),
}
"""Names that teams give the rules on each quantity."""
_BYTES_IN, _BYTES_OUT = 1500.0, 4000.0
_NOTICED: Final = 0.9
"""Share of alerts that fire when they should."""
_RULE_SHARE: Final = 0.8
_NOISY_SHARE: Final = 0.06
_FEW = 1e-9


@dataclass(frozen=True, order=True)
class Alert:
    """What makes an alert the same in another incident. `direction` and `peer` are empty where there are none."""

    component: int
    source: str
    name: str
    direction: str = ""
    peer: int = -1


@dataclass(frozen=True)
class Segment:
    """Bins of one incident: those before it, and those in it."""

    before: slice
    now: slice


def joined(parts: Sequence[Conditions]) -> Conditions:
    """Conditions of several incidents, one after another; what holds for all bins is that of the first."""
    first, bins = parts[0], sum(part.bins for part in parts)
    values = {field.name: getattr(first, field.name) for field in fields(Conditions)}
    for name, value in values.items():
        if isinstance(value, np.ndarray) and value.ndim == 2:
            values[name] = np.concatenate([getattr(part, name) for part in parts], axis=1)
    values["lines"], at = [], 0
    for part in parts:
        for o, component, severity, template, rate in part.lines:
            whole = np.zeros(bins)
            whole[at : at + part.bins] = rate
            values["lines"].append((o, component, severity, template, whole))
        at += part.bins
    return Conditions(**values)


class Rules:
    """The rules of one team over one system, drawn once."""

    def __init__(self, world: World, ranges: TelemetryRanges, rng: np.random.Generator) -> None:
        self._world, self._rng = world, rng
        system = world.system
        components = len(system.names)
        self._names = {
            what: names[int(rng.integers(len(names)))] for what, names in _RULES.items() if rng.random() < _RULE_SHARE
        } or {"latency_in": "dest_p90"}
        self._spread = rng.uniform(0.04, 0.2)  # of ln(mean of a window)
        self._patience = rng.uniform(2.5, 6.0)  # spreads that something must move
        self._failing = float(np.exp(rng.uniform(np.log(0.01), np.log(0.1))))
        self._observed = np.array([c < system.services or system.in_pods(c) for c in range(components)])
        # A callee that is no service of the graph cannot be named: calls to it are the caller's own operations.
        self._ends = [
            (a, b if system.graph_kind(b) == "service" else -1)
            for a, b in zip(system.source_component.tolist(), system.target_component.tolist(), strict=True)
        ]
        self._silent = rng.random(components) < ranges.silent_failures
        self._traced, self._logged = bool(rng.random() < 0.8), bool(rng.random() < 0.7)
        self._by_chance = [(alert, self._chance()) for alert in self._all()]

    def _chance(self) -> float:
        """How often an alert fires without a reason, as a share of all windows."""
        if self._rng.random() < _NOISY_SHARE:
            return float(self._rng.uniform(0.3, 0.97))
        return float(np.exp(self._rng.uniform(np.log(0.001), np.log(0.04))))

    def _all(self) -> list[Alert]:
        """Alerts that may fire for no reason."""
        rng = self._rng
        seen = np.flatnonzero(self._observed).tolist()
        alerts = [Alert(c, "metric", name, "down" if rng.random() < 0.4 else "up") for c in seen for name in self._names.values()]
        if self._traced:
            codes = ("slow", "http_500", "http_400")
            alerts += [Alert(a, "trace", codes[rng.integers(3)], "", b) for a, b in sorted(set(self._ends))]
        if self._logged:
            alerts += [Alert(c, "log", str(rng.integers(1, 400))) for c in seen for _ in range(int(rng.integers(4)))]
        return alerts

    def fired(self, segment: Segment) -> list[Alert]:
        """Alerts of one incident, in a fixed order; one that fires for several operations is there several times."""
        alerts = self._on_metrics(segment)
        if self._traced:
            alerts += self._on_calls(segment)
        if self._logged:
            alerts += self._on_logs(segment)
        alerts = [alert for alert in alerts if self._rng.random() < _NOTICED]
        return sorted([*alerts, *(alert for alert, chance in self._by_chance if self._rng.random() < chance)])

    # --- metrics ------------------------------------------------------------------------------------------------

    def _on_metrics(self, segment: Segment) -> list[Alert]:
        alerts = []
        for what, values in self._quantities.items():
            if what not in self._names:
                continue
            name = self._names[what]
            before, now = values[:, segment.before].mean(axis=1), values[:, segment.now].mean(axis=1)
            if what.startswith("errors"):
                way = "down" if name.endswith("success") else "up"
                alerts += [Alert(c, "metric", name, way) for c in self._places(now - before > self._failing)]
                continue
            moved = self._moved(before, now)
            alerts += [Alert(c, "metric", name, "up") for c in self._places(moved > self._patience)]
            alerts += [Alert(c, "metric", name, "down") for c in self._places(moved < -self._patience)]
        return alerts

    def _places(self, fires: Bools) -> list[int]:
        places: list[int] = np.flatnonzero(fires & self._observed).tolist()
        return places

    def _moved(self, before: Floats, now: Floats) -> Floats:
        """How many spreads means moved by, noise included."""
        noise = self._rng.standard_normal(len(now))
        moved: Floats = np.log(np.maximum(now, _FEW) / np.maximum(before, _FEW)) / self._spread + noise
        return np.where((before > _FEW) | (now > _FEW), moved, 0.0)

    @cached_property
    def _quantities(self) -> dict[str, Floats]:
        """What rules look at, (C, T) each."""
        system, conditions, state = self._world.system, self._world.conditions, self._world.state
        received, sent = self._by_component(state.rate), self._by_source(state.calls)
        served, asked = np.maximum(received, _FEW), np.maximum(self._by_source(self._wanted), _FEW)
        pods, of = len(system.pod_component), system.pod_component
        per_pod = np.zeros((len(system.names), pods))
        per_pod[of, np.arange(pods)] = 1.0 / system.replicas[of]
        used = system.memory[of][:, None] + conditions.memory + 1.5e6 * state.workers
        return {
            "cpu": per_pod @ (state.cores / system.cores[of][:, None]) + 0.02,
            "memory": per_pod @ np.minimum(used / system.memory_limit[of][:, None], 1.0) * (per_pod @ conditions.up),
            "disk_space": 0.3 + per_pod @ conditions.disk,
            "disk": (0.2 + received) * (per_pod @ conditions.disk_busy),
            "received": 300 + received * _BYTES_IN + sent * _BYTES_OUT,
            "sent": 300 + received * _BYTES_OUT + sent * _BYTES_IN,
            "traffic_in": received,
            "traffic_out": sent,
            "latency_in": self._by_component(state.rate * state.latency) / served,
            "latency_out": self._by_source(self._wanted * self._waited) / asked,
            "errors_in": self._by_component(state.rate * state.failure) / served,
            "errors_out": self._by_source(self._wanted * self._lost) / asked,
        }

    def _by_component(self, values: Floats) -> Floats:
        """(O, T) to (C, T)."""
        return self._summed(self._world.system.component_of, values)

    def _by_source(self, values: Floats) -> Floats:
        """(K, T) to (C, T)."""
        return self._summed(self._world.system.source_component, values)

    def _summed(self, of: Ints, values: Floats) -> Floats:
        total = np.zeros((len(self._world.system.names), values.shape[1]))
        np.add.at(total, of, values)
        return total

    # --- calls --------------------------------------------------------------------------------------------------

    @cached_property
    def _wanted(self) -> Floats:
        """Calls a second that are made, whether they arrive or not, (K, T)."""
        system = self._world.system
        wanted: Floats = self._world.state.rate[system.source] * system.chance[:, None]
        return wanted

    def _unreached(self) -> Floats:
        """Chance that a call does not get through, (K, T)."""
        system, c = self._world.system, self._world.conditions
        a, b = system.source_component, system.target_component
        arrives = (1 - c.unresolved_out[a]) * (1 - c.unresolved_in[b]) * (1 - c.cut_out[a]) * (1 - c.cut_in[b])
        unreached: Floats = 1 - arrives * (1 - self._world.state.down[b]) * (1 - c.refused)
        return unreached

    @cached_property
    def _lost(self) -> Floats:
        """Chance that a call fails, (K, T)."""
        lost: Floats = 1 - (1 - self._unreached()) * (1 - self._world.state.failure[self._world.system.target])
        return lost

    @cached_property
    def _waited(self) -> Floats:
        """Seconds that a caller waits for a call, (K, T)."""
        system, c = self._world.system, self._world.conditions
        a, b = system.source_component, system.target_component
        lost = 1 - (1 - c.loss_in[b]) * (1 - c.loss_out[a])
        away = system.network[:, None] + c.delay_out[a] + c.delay_in[b] + lost * RETRANSMISSION_SECONDS
        answered = np.minimum(self._world.state.latency[system.target] + away, system.timeout[:, None])
        cut = 1 - (1 - c.cut_out[a]) * (1 - c.cut_in[b]) if c.blackhole else np.zeros_like(answered)
        waited: Floats = answered * (1 - cut) + cut * system.timeout[:, None]
        return waited

    def _on_calls(self, segment: Segment) -> list[Alert]:
        """Calls that are slow or fail, operation by operation; those from outside have no caller to name."""
        system, state, c = self._world.system, self._world.state, self._world.conditions
        refused = 1 - (1 - c.refused) * (1 - c.unresolved_out[system.source_component])
        ends = self._ends
        alerts = [Alert(ends[k][0], "trace", "slow", "", ends[k][1]) for k in self._slow(self._waited, segment)]
        by_code = {
            "http_400": self._more(refused, segment),
            "http_500": self._more(self._lost, segment) & ~self._more(refused, segment),
        }
        for code, fails in by_code.items():
            alerts += [Alert(ends[k][0], "trace", code, "", ends[k][1]) for k in np.flatnonzero(fails).tolist()]
        entries = np.flatnonzero(system.entry > 0)
        slow = self._slow(state.latency[entries], segment)
        alerts += [Alert(int(system.component_of[entries[i]]), "trace", "slow") for i in slow]
        failing = np.flatnonzero(self._more(state.failure[entries], segment))
        return alerts + [Alert(int(system.component_of[entries[i]]), "trace", "http_500") for i in failing.tolist()]

    def _slow(self, seconds: Floats, segment: Segment) -> list[int]:
        moved = self._moved(seconds[:, segment.before].mean(axis=1), seconds[:, segment.now].mean(axis=1))
        slow: list[int] = np.flatnonzero(moved > self._patience).tolist()
        return slow

    def _more(self, share: Floats, segment: Segment) -> Bools:
        more: Bools = share[:, segment.now].mean(axis=1) - share[:, segment.before].mean(axis=1) > self._failing
        return more

    # --- logs ---------------------------------------------------------------------------------------------------

    def _on_logs(self, segment: Segment) -> list[Alert]:
        """Lines about failures: where they happen, unless that is silent, and where they arrive; and lines that faults bring."""
        system, conditions, state = self._world.system, self._world.conditions, self._world.state
        alerts: list[Alert] = []
        own = self._more(conditions.own_error, segment)
        below = self._more(state.failure, segment) & ~own
        for o in np.flatnonzero((own | below) & self._observed[system.component_of]).tolist():
            component = int(system.component_of[o])
            if below[o] or not self._silent[component]:
                alerts.append(Alert(component, "log", str(1000 + 2 * o + int(own[o]))))
        for number, (_, component, _, _, rate) in enumerate(conditions.lines):
            if rate[segment.now].mean() > self._failing and not self._silent[component]:
                alerts.append(Alert(component, "log", str(10_000 + number)))
        return alerts


def usual_ratios(
    fired: Sequence[Alert], others: Sequence[Sequence[Alert]], recorded: int, rng: np.random.Generator
) -> dict[Alert, float]:
    """Share of `recorded` other incidents in which each alert fires, judged by the few that were simulated."""
    count = Counter(alert for alerts in others for alert in set(alerts))
    ratios = {}
    for alert in sorted(set(fired)):
        rare = float(rng.uniform(0, 1 / len(others)))  # fired in none of those simulated: it may in some of the rest
        chance = count[alert] / len(others) if count[alert] else rare
        ratios[alert] = (float(rng.binomial(recorded, min(chance, 1.0))) + 0.5) / (recorded + 1)
    return ratios


def alerts_alone(
    world: World, segments: Sequence[Segment], ranges: TelemetryRanges, rng: np.random.Generator, start_ns: int
) -> pl.DataFrame:
    """The frame `alerts` of the first segment; `start_ns` is when its bins begin."""
    rules = Rules(world, ranges, rng)
    fired, *others = [rules.fired(segment) for segment in segments]
    recorded = round(float(np.exp(rng.uniform(np.log(15), np.log(300)))))
    usual = usual_ratios(fired, others, recorded, rng)
    now = segments[0].now
    times = start_ns + (rng.uniform(now.start, now.stop, len(fired)) * world.conditions.bin_ns).astype(np.int64)
    timed, told = rng.random() < 0.3, rng.random() < 0.85
    system = world.system
    kinds: list[EntityKind] = [system.graph_kind(c) for c in range(len(system.names))]
    frame = pl.DataFrame(
        {
            "time_unix_nano": times if timed else [None] * len(fired),
            "entity_kind": [kinds[alert.component] for alert in fired],
            "entity": [system.names[alert.component] for alert in fired],
            "name": [alert.name for alert in fired],
            "source": [alert.source for alert in fired],
            "direction": [alert.direction or None for alert in fired],
            "peer": [system.names[alert.peer] if alert.peer >= 0 else None for alert in fired],
            "usual_ratio": [usual[alert] if told else None for alert in fired],
        }
    )
    frame = conform("alerts", frame)
    return frame.sort("time_unix_nano", maintain_order=True) if timed else frame
