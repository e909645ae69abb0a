"""Faults by their cause. Each changes conditions of its victim; what callers and neighbours notice follows from the system.

The kinds, and what kind of entity a label of each names, are those of rca.faults.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from rca.faults import FAULT_KINDS, is_no_fault
from rca.simulator.conditions import Change, Conditions
from rca.simulator.config import FaultRanges
from rca.simulator.system import Floats, Ints, System
from rca.telemetry import EntityId

_LEAST_RATE, _LEAST_SHARE = 0.1, 0.1
"""Requests a second, and share of what enters the system, below both of which a component is no victim: nobody would notice."""
_STARTING: Final = (
    ("Scheduled", "Successfully assigned pod to <*>"),
    ("Pulled", "Container image already present on machine"),
    ("Created", "Created container"),
    ("Started", "Started container"),
)
_RESTART_MESSAGE: Final = "Back-off restarting failed container"


@dataclass(eq=False)
class Scene:
    """What a fault is staged in: `intensity` (T,) is 0 before the onset and at most 1, `strength` how hard it hits."""

    system: System
    conditions: Conditions
    ranges: FaultRanges
    rng: np.random.Generator
    victim: int
    strength: float
    intensity: Floats

    def between(self, low: float, high: float) -> float:
        """A magnitude by strength, on the logarithm."""
        return math.exp(math.log(low) + self.strength * (math.log(high) - math.log(low)))

    def share(self, low: float = 0.05, high: float = 1.0) -> Floats:
        """A chance by strength and time, (T,)."""
        return (low + (high - low) * self.strength) * self.intensity

    def operations(self, component: int | None = None) -> Ints:
        """Operations of the victim that its code is wrong in: all, or one of them."""
        every = self.system.operations_of[self.victim if component is None else component]
        if len(every) > 1 and self.rng.random() < self.ranges.one_operation_share:
            busiest = every[np.argsort(-self.system.rate[every])]
            if self.rng.random() < self.ranges.any_operation_share:
                used = busiest[self.system.rate[busiest] >= _least_rate(self.system) / 2]
                return used[[int(self.rng.integers(len(used)))]] if len(used) else busiest[:1]
            return busiest[: 1 + int(self.rng.integers(len(every) - 1))]
        return every

    def pods(self) -> Ints:
        """Pods of the victim that are hit: all, or one of several."""
        every = self.system.pods_of[self.victim]
        if len(every) > 1 and self.rng.random() < self.ranges.one_pod_share:
            return every[[int(self.rng.integers(len(every)))]]
        return every

    def entity(self) -> EntityId:
        """The victim as its graph names it."""
        return EntityId(self.system.graph_kind(self.victim), self.system.names[self.victim])

    def pod(self, p: int) -> EntityId:
        return EntityId("pod", self.system.pod_names[p])

    def tell(self, at: int, entity: EntityId, reason: str, message: str, severity: str = "Normal") -> None:
        """Something that the cluster reports, if it lies in the time that is simulated."""
        if 0 <= at < self.conditions.bins:
            self.conditions.changes.append(Change(at, entity, reason, message, severity))

    def log(self, o: int, severity: str, template: str, rate: Floats) -> None:
        """Log lines of the victim, `rate` per request of the operation, or of all for -1."""
        if self.victim < self.system.services:
            self.conditions.lines.append((o, self.victim, severity, template, rate))

    @property
    def onset(self) -> int:
        return self.conditions.onset


# --- who can be a victim --------------------------------------------------------------------------------------------


def _least_rate(system: System) -> float:
    return min(_LEAST_RATE, _LEAST_SHARE * float(system.entry.sum()))


def _busy(system: System) -> Ints:
    rate = np.bincount(system.component_of, weights=system.rate, minlength=len(system.names))
    return np.flatnonzero(rate >= _least_rate(system))


def _services(system: System) -> list[int]:
    return [c for c in _busy(system).tolist() if c < system.services]


def _anybody(system: System) -> list[int]:
    return [int(c) for c in _busy(system)]


def _calling(system: System) -> list[int]:
    callers = set(system.source_component.tolist())
    return [c for c in _services(system) if c in callers]


def _relaying(system: System) -> list[int]:
    """Services that call and are called."""
    called = set(system.target_component.tolist())
    return [c for c in _calling(system) if c in called]


def _called(system: System) -> list[int]:
    called = set(system.target_component.tolist())
    return [c for c in _anybody(system) if c in called]


def _databases(system: System) -> list[int]:
    return [c for c in _anybody(system) if system.kinds[c] == "database" and not system.caches[c]]


def _storing(system: System) -> list[int]:
    return sorted({*_services(system), *_databases(system)})


def _caches(system: System) -> list[int]:
    return [c for c in _anybody(system) if system.caches[c]]


def _externals(system: System) -> list[int]:
    return [c for c in _anybody(system) if system.kinds[c] == "external"]


def _with_threads(system: System) -> list[int]:
    return [c for c in _services(system) if system.threads[c] <= 200]


def _with_pools(system: System) -> list[int]:
    owners = set(system.pool_owner.tolist())
    return [c for c in _services(system) if c in owners]


def _consumers(system: System) -> list[int]:
    reading = np.flatnonzero((system.consumes >= 0) & (system.rate >= _least_rate(system) / 2))
    return sorted(set(system.component_of[reading].tolist()))


def _queues_and_consumers(system: System) -> list[int]:
    read = set(system.consumes.tolist())
    return _consumers(system) + [c for c in _anybody(system) if system.kinds[c] == "queue" and c in read]


def _nodes(system: System) -> list[int]:
    """Nodes with at least two pods of busy services."""
    busy = np.isin(system.pod_component, _services(system)) & (system.pod_node >= 0)
    count = np.bincount(system.pod_node[busy], minlength=len(system.node_names))
    return [n for n, pods in enumerate(count.tolist()) if pods >= 2]


def _everything(system: System) -> list[int]:  # noqa: ARG001  the whole system is hit
    return [0]


# --- processors and memory ------------------------------------------------------------------------------------------


def _cpu_contention(scene: Scene) -> None:
    pods = scene.pods()
    limit = scene.system.cores[scene.victim]
    scene.conditions.burnt[pods] += limit * scene.between(0.6, 3.0) * scene.intensity


def _cpu_consumed(scene: Scene) -> None:
    scene.conditions.cpu_factor[scene.operations()] *= 1 + scene.between(1.0, 30.0) * scene.intensity


def _noisy_neighbour(scene: Scene) -> None:
    cores = scene.system.node_cores[scene.victim]
    scene.conditions.node_burnt[scene.victim] += cores * scene.between(0.5, 3.0) * scene.intensity


def _memory_leak(scene: Scene) -> None:
    system, conditions = scene.system, scene.conditions
    room = system.memory_limit[scene.victim] - system.memory[scene.victim]
    bins = conditions.bins - scene.onset
    for p in scene.pods().tolist():
        per_bin = room / max(bins * float(scene.rng.uniform(0.3, 1.0)) / scene.between(0.4, 2.5), 1.0)
        leaked, t, deaths = 0.0, scene.onset, 0
        while t < conditions.bins:
            leaked += per_bin * scene.intensity[t]
            if leaked >= room:
                deaths += 1
                scene.tell(t, scene.pod(p), "OOMKilled", "container was killed: out of memory", "Warning")
                if deaths > 1:
                    scene.tell(t + 1, scene.pod(p), "BackOff", _RESTART_MESSAGE, "Warning")
                t = _restart(scene, p, t, int(scene.rng.integers(1, 3)) * min(deaths, 4))
                leaked = 0.0
                continue
            conditions.memory[p, t] += leaked
            t += 1
        used = conditions.memory[p] / room
        collecting = 1 + 2.0 * np.clip((used - 0.8) / 0.2, 0.0, 1.0) / len(system.pods_of[scene.victim])
        conditions.cpu_factor[system.operations_of[scene.victim]] *= collecting


# --- disks ----------------------------------------------------------------------------------------------------------


def _writing(scene: Scene) -> Ints:
    """Operations that write: by their name, or else some."""
    every = scene.system.operations_of[scene.victim]
    names = [scene.system.operation_names[o].split(" ")[0] for o in every.tolist()]
    writing = every[[name in ("POST", "PUT", "INSERT", "UPDATE", "process") for name in names]]
    return writing if len(writing) else scene.operations()


def _disk_full(scene: Scene) -> None:
    conditions, pods = scene.conditions, scene.pods()
    full = np.zeros(conditions.bins)
    full[scene.onset :] = 1.0
    conditions.disk[pods] += full
    conditions.own_error[_writing(scene)] += scene.share(0.2) * len(pods) / len(scene.system.pods_of[scene.victim])
    for o in _writing(scene).tolist():
        scene.log(o, "ERROR", "write to <*> failed: no space left on device", scene.share(0.2))
    if scene.rng.random() < 0.4:
        for p in pods.tolist():
            scene.tell(scene.onset + 3, scene.pod(p), "FreeDiskSpaceFailed", "volume is full", "Warning")


def _slow_io(scene: Scene) -> None:
    operations = scene.operations()
    scene.conditions.wait[operations] += scene.between(0.004, 0.8) * scene.intensity
    scene.conditions.disk_busy[scene.pods()] *= 1 + scene.between(0.5, 20.0) * scene.intensity


# --- networks -------------------------------------------------------------------------------------------------------


def _network_delay(scene: Scene) -> None:
    delay = scene.between(0.008, 1.0) * scene.intensity
    scene.conditions.delay_in[scene.victim] += delay
    if scene.rng.random() < 0.6:
        scene.conditions.delay_out[scene.victim] += delay


def _network_loss(scene: Scene) -> None:
    lost = scene.share(0.03, 0.7)
    scene.conditions.loss_in[scene.victim] = 1 - (1 - lost) ** 2  # either way
    scene.conditions.loss_out[scene.victim] = 1 - (1 - lost) ** 2
    never = lost**3
    scene.conditions.cut_in[scene.victim], scene.conditions.cut_out[scene.victim] = never, never


def _network_corrupt(scene: Scene) -> None:
    broken = scene.share(0.05, 0.8)
    scene.conditions.loss_in[scene.victim], scene.conditions.loss_out[scene.victim] = broken, broken
    scene.conditions.cut_in[scene.victim], scene.conditions.cut_out[scene.victim] = broken**2, broken**2


def _network_partition(scene: Scene) -> None:
    scene.conditions.blackhole = bool(scene.rng.random() < 0.7)
    cut = scene.share(0.3)
    scene.conditions.cut_in[scene.victim] = cut
    if scene.rng.random() < 0.7:
        scene.conditions.cut_out[scene.victim] = cut


def _dns_failure(scene: Scene) -> None:
    scene.conditions.unresolved_out[scene.victim] = scene.share(0.15)
    scene.log(-1, "ERROR", "lookup of <*> failed: no such host", scene.share(0.15))


# --- code, releases and settings ------------------------------------------------------------------------------------


def _exception(scene: Scene) -> None:
    thrown = scene.share(0.03)
    for o in scene.operations().tolist():
        scene.conditions.own_error[o] = np.maximum(scene.conditions.own_error[o], thrown)
        if scene.rng.random() < 0.8:
            scene.log(o, "ERROR", "unhandled exception <*> in <*>", thrown)


def _return(scene: Scene) -> None:
    system = scene.system
    operations = scene.operations()
    calling = operations[[len(system.sites_of[o]) > 0 for o in operations.tolist()]]
    if not len(calling):
        every = system.operations_of[scene.victim]
        calling = every[[len(system.sites_of[o]) > 0 for o in every.tolist()]]
    scene.conditions.early_return[calling] = scene.share(0.1)


def _availability(scene: Scene) -> None:
    scene.conditions.own_error[scene.operations()] += scene.share(0.03)


def _latency(scene: Scene) -> None:
    scene.conditions.wait[scene.operations()] += scene.between(0.004, 2.0) * scene.intensity


def _bad_rollout(scene: Scene) -> None:
    _roll_out(scene, scene.victim, scene.onset - int(scene.rng.integers(0, 3)))
    how = scene.rng.random()
    if how < 0.45:
        _exception(scene)
    elif how < 0.75:
        _cpu_consumed(scene)
    else:
        _latency(scene)


def _configuration_mistake(scene: Scene) -> None:
    system, conditions, victim = scene.system, scene.conditions, scene.victim
    told = EntityId("service", system.names[victim])
    if scene.rng.random() < 0.5:
        _roll_out(scene, victim, scene.onset - int(scene.rng.integers(0, 2)))
    else:
        scene.tell(scene.onset, told, "ConfigurationChanged", "settings of the deployment were changed")
    sites = np.flatnonzero(system.source_component == victim)
    callees = np.unique(system.target_component[sites])
    chosen = sites[system.target_component[sites] == int(scene.rng.choice(callees))]
    how = scene.rng.random()
    if how < 0.5:  # a wrong password or address of one callee
        conditions.refused[chosen] = scene.share(0.4)
        words = "authentication failed for user <*>" if scene.rng.random() < 0.5 else "unknown host or path <*>"
        for o in np.unique(system.source[chosen]).tolist():
            scene.log(o, "ERROR", words, scene.share(0.4))
    elif how < 0.75:  # time-outs that are far too short
        conditions.patience[victim] = 1 - scene.intensity * (1 - scene.between(0.02, 0.0005))
    else:
        conditions.own_error[scene.operations()] = scene.share(0.1)
        scene.log(-1, "ERROR", "missing setting <*>", scene.share(0.1))


# --- lines that grow ------------------------------------------------------------------------------------------------


def _thread_starvation(scene: Scene) -> None:
    scene.conditions.threads_held[scene.victim] = scene.share(0.8, 1.0)


def _connection_pool_exhaustion(scene: Scene) -> None:
    pools = np.flatnonzero(scene.system.pool_owner == scene.victim)
    scene.conditions.pool_held[[int(scene.rng.choice(pools))]] = scene.share(0.8, 1.0)
    scene.conditions.pool_inside = bool(scene.rng.random() < 0.3)
    scene.log(-1, "ERROR", "no connection within <*> ms: pool <*> is exhausted", scene.share(0.0, 0.5))


def _slow_database(scene: Scene) -> None:
    operations = scene.operations()
    if scene.rng.random() < 0.6:
        scene.conditions.cpu_factor[operations] *= 1 + scene.between(1.0, 60.0) * scene.intensity
    else:
        scene.conditions.wait[operations] += scene.between(0.005, 2.0) * scene.intensity
        scene.conditions.disk_busy[scene.pods()] *= 1 + scene.between(0.5, 20.0) * scene.intensity


def _database_lock(scene: Scene) -> None:
    every = scene.system.operations_of[scene.victim]
    some = every[: max(1, round(len(every) * float(scene.rng.uniform(0.1, 0.6))))]
    scene.conditions.wait[scene.rng.permutation(every)[: len(some)]] += scene.between(0.05, 30.0) * scene.intensity


def _retry_storm(scene: Scene) -> None:
    conditions = scene.conditions
    conditions.attempts[scene.victim] = 1 + scene.between(0.3, 5.0) * scene.intensity
    conditions.retries[scene.victim] += 3 * scene.intensity


# --- crashes --------------------------------------------------------------------------------------------------------


def _restart(scene: Scene, p: int, at: int, bins: int) -> int:
    """Take a pod down for some bins; it takes requests again a bin after it is up. Returns the bin from which it is up."""
    conditions = scene.conditions
    conditions.up[p, at : at + bins] = 0.0
    conditions.ready[p, at : at + bins] = 0.0
    conditions.ready[p, at + bins : at + bins + 1] *= 0.4
    return at + bins


def _roll_out(scene: Scene, component: int, at: int) -> None:
    """A new version, pod by pod."""
    system = scene.system
    name = EntityId("service", system.names[component])
    if scene.rng.random() < 0.5:  # told by objects as well as by events
        scene.tell(max(at, 0), name, "RolloutStarted", "the pod template changed")
    for i, p in enumerate(system.pods_of[component].tolist()):
        when = max(at, 0) + 1 + 2 * i
        scene.tell(when - 1, name, "ScalingReplicaSet", "Scaled up replica set <*> to <*>")
        for reason, message in _STARTING:
            scene.tell(when, scene.pod(p), reason, message)
        scene.tell(when, scene.pod(p), "Killing", "Stopping container")
        if len(system.pods_of[component]) > 1:
            _restart(scene, p, when, 1)


def _pod_kill(scene: Scene) -> None:
    for p in scene.pods().tolist():
        scene.tell(scene.onset, scene.pod(p), "Killing", "Stopping container")
        _restart(scene, p, scene.onset, max(1, round(scene.between(0.6, 8.0))))
        for reason, message in _STARTING[scene.rng.integers(2) :]:
            scene.tell(scene.onset + 1, scene.pod(p), reason, message)


def _pod_failure(scene: Scene) -> None:
    for p in scene.pods().tolist():
        scene.tell(scene.onset, scene.pod(p), "Unhealthy", "Readiness probe failed: connection refused", "Warning")
        if scene.rng.random() < 0.6:
            scene.tell(scene.onset + 2, scene.pod(p), "FailedMount", "unable to attach or mount volumes", "Warning")
        _restart(scene, p, scene.onset, scene.conditions.bins)


def _crash_loop(scene: Scene) -> None:
    for p in scene.pods().tolist():
        t, pause = scene.onset, 1
        while t < scene.conditions.bins:
            scene.tell(t, scene.pod(p), "ContainerRestarted", "container ended: exit code 1", "Warning")
            scene.tell(t, scene.pod(p), "BackOff", _RESTART_MESSAGE, "Warning")
            t = _restart(scene, p, t, pause) + 1 + int(scene.rng.integers(0, 3))
            pause = min(2 * pause, 12)
    scene.log(-1, "FATAL", "cannot start: <*>", 0.02 * scene.intensity)


# --- dependencies ---------------------------------------------------------------------------------------------------


def _cache_down(scene: Scene) -> None:
    if scene.rng.random() < 0.7 or scene.strength > 0.7:
        for p in scene.system.pods_of[scene.victim].tolist():
            _restart(scene, p, scene.onset, scene.conditions.bins)
            if scene.system.in_pods(scene.victim):
                scene.tell(scene.onset, scene.pod(p), "Killing", "Stopping container")
    else:
        scene.conditions.cut_in[scene.victim] = scene.share(0.4)
        scene.conditions.blackhole = bool(scene.rng.random() < 0.5)


def _cold_cache(scene: Scene) -> None:
    since = np.maximum(np.arange(scene.conditions.bins) - scene.onset, 0.0)
    warm = np.exp(-since / (scene.conditions.bins_per_minute * scene.between(0.5, 12.0)))
    scene.conditions.hit[scene.victim] = 1 - scene.intensity * warm * (0.3 + 0.7 * scene.strength)


def _queue_backlog(scene: Scene) -> None:
    system, conditions = scene.system, scene.conditions
    slower = (0.3 + 0.65 * scene.strength) * scene.intensity
    if scene.victim < system.services:
        reading = np.flatnonzero((system.component_of == scene.victim) & (system.consumes >= 0))
        conditions.wait[reading] += scene.between(0.02, 5.0) * scene.intensity
        conditions.consuming[scene.victim] = 1 - scene.intensity + scene.intensity * 0.25 * (1 - slower)
        return
    conditions.wait[system.operations_of[scene.victim]] += scene.between(0.003, 1.0) * scene.intensity
    for consumer in set(system.component_of[system.consumes == scene.victim].tolist()):
        conditions.consuming[consumer] = 1 - scene.intensity + scene.intensity * 0.25 * (1 - slower)


def _dead_consumer(scene: Scene) -> None:
    scene.conditions.consuming[scene.victim] = 1 - scene.share(0.8)
    if scene.rng.random() < 0.3:
        for p in scene.system.pods_of[scene.victim].tolist():
            scene.tell(scene.onset + 2, scene.pod(p), "Unhealthy", "Liveness probe failed", "Warning")


def _external_down(scene: Scene) -> None:
    if scene.rng.random() < 0.5:
        scene.conditions.own_error[scene.system.operations_of[scene.victim]] = scene.share(0.1)
    else:
        scene.conditions.cut_in[scene.victim] = scene.share(0.2)
        scene.conditions.blackhole = bool(scene.rng.random() < 0.7)


# --- what nobody is to blame for ------------------------------------------------------------------------------------


def _traffic_surge(scene: Scene) -> None:
    scene.conditions.entry *= 1 + scene.between(0.2, 1.6) * scene.intensity


def _clock_skew(scene: Scene) -> None:
    system = scene.system
    skew = scene.between(10, 300) * (1 if scene.rng.random() < 0.5 else -1)
    members = np.unique(system.pod_component[system.pod_node == scene.victim])
    whole = [c for c in members.tolist() if c < system.services and (system.pod_node[system.pods_of[c]] == scene.victim).all()]
    scene.conditions.skew[whole or members[:1]] = skew


def _telemetry_pipeline(scene: Scene) -> None:
    system, conditions = scene.system, scene.conditions
    hit = np.ones(len(system.names)) if scene.rng.random() < 0.4 else (scene.rng.random(len(system.names)) < 0.4).astype(float)
    lost = hit[:, None] * scene.share(0.3)[None, :]
    which = scene.rng.permutation(3)[: 1 + int(scene.rng.integers(3))].tolist()
    if 0 in which:
        conditions.traces_lost = lost
    if 1 in which:
        conditions.metrics_lost = hit[:, None] * (scene.intensity > 0)[None, :]
    if 2 in which:
        conditions.logs_lost = lost


@dataclass(frozen=True)
class Simulated:
    """How one kind of fault is simulated: who can be its victim (components, or nodes), and what it changes."""

    victims: Callable[[System], list[int]]
    change: Callable[[Scene], None]
    on_node: bool = False


SIMULATED: Final[dict[str, Simulated]] = {
    "cpu_contention": Simulated(_services, _cpu_contention),
    "cpu_consumed": Simulated(_services, _cpu_consumed),
    "noisy_neighbour": Simulated(_nodes, _noisy_neighbour, on_node=True),
    "memory_leak": Simulated(_services, _memory_leak),
    "disk_full": Simulated(_storing, _disk_full),
    "slow_io": Simulated(_storing, _slow_io),
    "network_delay": Simulated(_called, _network_delay),
    "network_loss": Simulated(_called, _network_loss),
    "network_corrupt": Simulated(_called, _network_corrupt),
    "network_partition": Simulated(_called, _network_partition),
    "dns_failure": Simulated(_calling, _dns_failure),
    "exception": Simulated(_services, _exception),
    "return": Simulated(_calling, _return),
    "bad_rollout": Simulated(_services, _bad_rollout),
    "configuration_mistake": Simulated(_calling, _configuration_mistake),
    "availability": Simulated(_called, _availability),
    "latency": Simulated(_called, _latency),
    "thread_starvation": Simulated(_with_threads, _thread_starvation),
    "connection_pool_exhaustion": Simulated(_with_pools, _connection_pool_exhaustion),
    "slow_database": Simulated(_databases, _slow_database),
    "database_lock": Simulated(_databases, _database_lock),
    "retry_storm": Simulated(_calling, _retry_storm),
    "pod_kill": Simulated(_services, _pod_kill),
    "pod_failure": Simulated(_services, _pod_failure),
    "crash_loop": Simulated(_services, _crash_loop),
    "cache_down": Simulated(_caches, _cache_down),
    "cold_cache": Simulated(_caches, _cold_cache),
    "queue_backlog": Simulated(_queues_and_consumers, _queue_backlog),
    "dead_consumer": Simulated(_consumers, _dead_consumer),
    "external_down": Simulated(_externals, _external_down),
    "traffic_surge": Simulated(_everything, _traffic_surge),
    "clock_skew": Simulated(_nodes, _clock_skew, on_node=True),
    "telemetry_pipeline": Simulated(_everything, _telemetry_pipeline),
}
"""Kinds of fault that can be simulated."""


def intensity(
    rng: np.random.Generator, ranges: FaultRanges, bins: int, onset_bins: float, bins_per_minute: float = 6.0
) -> Floats:
    """How strong a fault is over time, (T,): 0 before the onset, then 1, reached at once or by and by, steadily or on and off."""
    since = np.arange(bins) - onset_bins
    level: Floats = np.clip(since + 1, 0.0, 1.0)
    if rng.random() < ranges.ramp_share:
        level = level * np.clip((since + 1) / (bins_per_minute * ranges.ramp_minutes.draw(rng)), 0.0, 1.0)
    if rng.random() < ranges.flicker_share:
        period = rng.uniform(3, 12)
        level = np.where(np.floor(np.maximum(since, 0) / period) % 2 == 0, level, 0.0)
    return level


def inject(kind: str, scene: Scene) -> EntityId | None:
    """Let a fault of that kind hit the scene's victim. Returns the entity that a label names, None where nobody is to blame."""
    SIMULATED[kind].change(scene)
    for values in (scene.conditions.own_error, scene.conditions.early_return):
        np.clip(values, 0.0, 1.0, out=values)
    return None if is_no_fault(kind) else named(kind, scene)


def named(kind: str, scene: Scene) -> EntityId:
    """The entity that a label of a fault of that kind names."""
    entity = EntityId("node", scene.system.node_names[scene.victim]) if SIMULATED[kind].on_node else scene.entity()
    assert entity.kind in FAULT_KINDS[kind].label_kinds
    return entity


def wobble(scene: Scene) -> None:
    """Something innocent: a batch job, a release that works, a pod that moves, a probe that fails once, code that got slower."""
    system, conditions, rng = scene.system, scene.conditions, scene.rng
    at = int(rng.integers(conditions.bins))
    until = at + int(rng.integers(2, 30))
    how = int(rng.integers(5))
    component = int(rng.integers(system.services))
    pod = int(rng.choice(system.pods_of[component]))
    if how == 0:
        node = int(rng.integers(len(system.node_names)))
        conditions.node_burnt[node, at:until] += system.node_cores[node] * rng.uniform(0.1, 0.5)
    elif how == 1:
        _roll_out(scene, component, at)
    elif how == 2:
        scene.tell(at, scene.pod(pod), "Killing", "Stopping container")
        for reason, message in _STARTING:
            scene.tell(at, scene.pod(pod), reason, message)
        _restart(scene, pod, at, 1)
    elif how == 3:
        scene.tell(at, scene.pod(pod), "Unhealthy", "Readiness probe failed: context deadline exceeded", "Warning")
    else:
        operations = system.operations_of[component]
        if len(operations):
            conditions.cpu_factor[int(rng.choice(operations)), at:until] *= rng.uniform(1.1, 1.5)
