"""One simulated incident: system, load, fault, what follows, and what is recorded of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import polars as pl

from rca.errors import UnknownName
from rca.faults import NO_FAULT, is_no_fault
from rca.incidents.incident import BaselineModel, EntityModel, GapModel, Incident, IntervalModel, Label
from rca.simulator.alerting import OTHERS, Segment, alerts_alone, joined
from rca.simulator.conditions import Conditions, undisturbed
from rca.simulator.config import CONFIG, Config, TelemetryRanges
from rca.simulator.counting import Counter, Tracing
from rca.simulator.faults import SIMULATED, Scene, inject, intensity, named, wobble
from rca.simulator.load import draw_load
from rca.simulator.measuring import Scraper, call_frame, draw_scraping
from rca.simulator.queueing import Solver
from rca.simulator.requests import World, pools_of
from rca.simulator.styles import draw_style, styled
from rca.simulator.system import System, draw_system
from rca.simulator.telling import Firing, alert_frame, alerts_of, event_frame, log_frame
from rca.telemetry import SECOND_NS, EntityId, Gap, Interval, Telemetry, conform

Emission = Literal["bins", "spans"]

START_NS: Final = 1_767_225_600 * SECOND_NS  # 2026-01-01, incidents lie within the year after
_YEAR_SECONDS: Final = 365 * 86_400
_MOST_SAMPLES, _LEAST_SAMPLES = 24, 4
_SAMPLES: Final = 512
"""Requests per operation that a window is made of, about."""
_TRIES: Final = 20
_STYLE: Final = 1
"""Styles are drawn apart from the rest: where a system has none, a seed gives the same system whatever the shares are."""
_SECOND: Final = 2
"""So is a second fault: the first is the same with it and without, unless the system had to be drawn again to have both."""


@dataclass(frozen=True)
class Timing:
    """When what happens, in bins from the start of the simulation."""

    start_ns: int
    bin_seconds: int
    bins: int
    baseline: tuple[int, int]
    window: tuple[int, int]
    onset: float

    def at_ns(self, bins: float) -> int:
        """The time so many bins after the start."""
        return self.start_ns + round(bins * self.bin_seconds * SECOND_NS)


@dataclass(frozen=True)
class Recording:
    """Which modalities the system has."""

    traces: Tracing | None
    metrics: bool
    logs: bool
    events: bool
    alerts: bool
    calls_seconds: int
    """Step of aggregated calls, 0 where there are none."""
    topology: bool
    alone: bool = False
    """Nothing but alerts."""


@dataclass(frozen=True, eq=False)
class Scenario:
    """Everything about one incident before it is recorded. `config` is that of its style. Where alerts are all that is known,
    other incidents of the system follow in later bins of the world. `second` is a second fault and its cause.
    """

    style: str
    config: Config
    world: World
    timing: Timing
    kind: str
    cause: EntityId | None
    recording: Recording
    rng: np.random.Generator
    second: tuple[str, EntityId] | None = None

    @property
    def causes(self) -> tuple[EntityId, ...]:
        """Who is to blame."""
        return tuple(cause for cause in (self.cause, self.second and self.second[1]) if cause)


def simulate(
    seed: int,
    index: int,
    config: Config = CONFIG,
    *,
    kind: str | None = None,
    services: tuple[int, int] | None = None,
    emission: Emission = "bins",
    second: str | None = None,
) -> tuple[Incident, Telemetry]:
    """Incident `index` of a seed. Equal arguments give equal incidents, whatever was simulated before.

    `kind` is a kind of SIMULATED or `no_fault`, by default drawn as the configuration says; `services` the fewest and most
    services, in place of the configuration's range. `second` is the kind of a second fault that begins with the first and has
    another cause; where the first is nobody's fault, or nobody else can be the victim, there is none. A system that cannot have
    both is drawn again, and after some tries left without a fault. Raises UnknownName for a kind that is not simulated, and for a
    second one that nobody is to blame for.
    """
    if kind is not None and kind != NO_FAULT and kind not in SIMULATED:
        raise UnknownName("fault kind", kind, (*SIMULATED, NO_FAULT))
    if second is not None and (second not in SIMULATED or is_no_fault(second)):
        raise UnknownName("second fault kind", second, [each for each in SIMULATED if not is_no_fault(each)])
    return recorded(scenario(seed, index, config, kind=kind, services=services, second=second), seed, index, emission)


def scenario(
    seed: int,
    index: int,
    config: Config = CONFIG,
    *,
    kind: str | None = None,
    services: tuple[int, int] | None = None,
    second: str | None = None,
) -> Scenario:
    """The system of an incident, its fault, and what follows; nothing is recorded yet."""
    rng = np.random.default_rng([seed, index])
    style_rng = np.random.default_rng([seed, index, _STYLE])
    style = draw_style(style_rng, config.styles)
    config = styled(config, style)
    alone = bool(style_rng.random() < config.telemetry.alerts_alone)
    timing = _timing(rng, config.telemetry)
    kind = kind or _kind(rng, config)
    system = draw_system(rng, config, services)
    wanted = [each for each in (kind, second) if each and each != NO_FAULT]
    for _ in range(_TRIES):
        if all(SIMULATED[each].victims(system) for each in wanted):
            break
        system = draw_system(rng, config, services)  # without a cache, say, none can fail
    else:
        kind = NO_FAULT
    conditions, cause = _happening(rng, config, system, timing, kind)
    beside = None
    if second is not None and cause is not None:
        beside = _beside(np.random.default_rng([seed, index, _SECOND]), config, conditions, system, timing, second, cause)
    if alone:
        kinds = [_kind(rng, config) for _ in range(OTHERS)]
        possible = [k if k == NO_FAULT or SIMULATED[k].victims(system) else NO_FAULT for k in kinds]
        conditions = joined([conditions, *(_happening(rng, config, system, timing, k)[0] for k in possible)])
    world = World(system, conditions, Solver(system, conditions).solve())
    recording = replace(_recording(rng, config.telemetry, system), alone=alone)
    return Scenario(style, config, world, timing, kind, cause, recording, rng, (second, beside) if second and beside else None)


def _happening(
    rng: np.random.Generator, config: Config, system: System, timing: Timing, kind: str
) -> tuple[Conditions, EntityId | None]:
    """Load, fault and what is beside it, and the cause."""
    second_of_day = timing.start_ns // SECOND_NS % 86_400
    entry = draw_load(rng, system, config.load, second_of_day, timing.bins, timing.bin_seconds)
    conditions = undisturbed(system, entry, math.floor(timing.onset), timing.bin_seconds)
    return conditions, _disturb(rng, config, system, conditions, timing, kind)


def _kind(rng: np.random.Generator, config: Config) -> str:
    if rng.random() < config.normal_share:
        return NO_FAULT
    return str(rng.choice(config.kinds or tuple(SIMULATED)))


def _timing(rng: np.random.Generator, ranges: TelemetryRanges) -> Timing:
    per_minute = 60 / ranges.bin_seconds
    baseline = max(12, round(per_minute * ranges.baseline_minutes.draw(rng)))
    window = max(6, round(per_minute * ranges.window_minutes.draw(rng)))
    pause = int(rng.integers(1, 13)) if rng.random() < ranges.pause_before_share else 0
    late = 0.0 if rng.random() < ranges.onset_known_share else ranges.onset_error_seconds.draw(rng) / ranges.bin_seconds
    opens = baseline + pause
    onset = min(max(opens - late, 6.0), opens + window - 3.0)
    start_ns = START_NS + int(rng.integers(_YEAR_SECONDS // ranges.bin_seconds)) * ranges.bin_seconds * SECOND_NS
    return Timing(start_ns, ranges.bin_seconds, opens + window, (0, baseline), (opens, opens + window), onset)


def _disturb(
    rng: np.random.Generator, config: Config, system: System, conditions: Conditions, timing: Timing, kind: str
) -> EntityId | None:
    """Let the fault happen, and innocent things beside it. Returns the cause."""
    level = intensity(rng, config.faults, timing.bins, timing.onset, conditions.bins_per_minute)
    strength = config.faults.strength.draw(rng)
    calm = Scene(system, conditions, config.faults, rng, 0, strength, np.zeros(timing.bins))
    if rng.random() < config.faults.wobble_share:
        for _ in range(int(rng.integers(1, 4))):
            wobble(calm)
    if kind == NO_FAULT:
        return None
    victim = int(rng.choice(SIMULATED[kind].victims(system)))
    return inject(kind, replace(calm, victim=victim, intensity=level))


def _beside(
    rng: np.random.Generator,
    config: Config,
    conditions: Conditions,
    system: System,
    timing: Timing,
    kind: str,
    first: EntityId,
) -> EntityId | None:
    """Let a second fault happen, to somebody else. Returns its cause; None where there is nobody else."""
    level = intensity(rng, config.faults, timing.bins, timing.onset, conditions.bins_per_minute)
    scene = Scene(system, conditions, config.faults, rng, 0, config.faults.strength.draw(rng), level)
    scenes = [replace(scene, victim=victim) for victim in SIMULATED[kind].victims(system)]
    others = [each for each in scenes if named(kind, each) != first]
    return inject(kind, others[int(rng.integers(len(others)))]) if others else None


def _recording(rng: np.random.Generator, ranges: TelemetryRanges, system: System) -> Recording:
    traced, measured = rng.random() >= ranges.no_traces, rng.random() >= ranges.no_metrics
    sampling = ranges.sampling.draw(rng) if rng.random() < ranges.sampled_share else 1.0
    tracing = Tracing(sampling, bool(rng.random() < ranges.spans_name_pods), bool(rng.random() < ranges.consumers_join_traces))
    meshed = rng.random()
    stated = bool(rng.random() < ranges.topology_stated)
    # Whoever has neither has nothing to rank with; and metrics of pods are nobody's where nothing says whose the pods are.
    traces = tracing if traced or not measured else None
    aggregated = ranges.call_metrics if traces is None else ranges.call_metrics_beside_traces
    nameless = measured and (traces is None or not traces.name_pods)
    outside = ranges.measured_from_outside >= 1
    own_pods = not outside and any(system.in_pods(c) for c in range(system.services, len(system.names)))
    recording = Recording(
        traces=traces,
        metrics=measured,
        logs=bool(rng.random() >= ranges.no_logs),
        events=bool(rng.random() >= ranges.no_events),
        alerts=bool(rng.random() >= ranges.no_alerts),
        calls_seconds=int(rng.choice((15, 30, 60, 60))) if meshed < aggregated else 0,
        topology=(stated or nameless or own_pods) and not outside,
    )
    if recording.traces and rng.random() < ranges.spans_without_status:
        return replace(recording, traces=replace(tracing, status=False))
    return recording


# --- what is recorded -----------------------------------------------------------------------------------------------


def recorded(made: Scenario, seed: int, index: int, emission: Emission = "bins") -> tuple[Incident, Telemetry]:
    """The incident of a scenario and the telemetry that its system records."""
    if made.recording.alone:
        return _alerted(made, seed, index)
    rng, world, timing, recording, ranges = made.rng, made.world, made.timing, made.recording, made.config.telemetry
    bins = timing.bins
    samples = int(np.clip(round(_SAMPLES / bins), _LEAST_SAMPLES, _MOST_SAMPLES))
    served = pools_of(world, rng, samples)
    frames: dict[str, pl.DataFrame] = {}
    gaps: list[Gap] = []
    if recording.traces:
        if emission == "spans":
            from rca.simulator.spans import span_frame

            frames["spans"] = span_frame(world, recording.traces, rng, timing.start_ns)
        else:
            frames |= Counter(world, served, recording.traces, rng).frames(timing.start_ns)
    if recording.metrics:
        scraping = draw_scraping(rng, ranges, float(bins * timing.bin_seconds))
        frames["metrics"] = Scraper(world, served, scraping, rng).frame(timing.start_ns)
        if scraping.gap and rng.random() < 0.5:
            low, high = (timing.start_ns + int(second * SECOND_NS) for second in scraping.gap)
            gaps.append(Gap("metrics", "no samples were stored", Interval(low, high)))
    if recording.calls_seconds:
        frames["calls"] = call_frame(world, served, rng, timing.start_ns, recording.calls_seconds)
    if recording.logs:
        frames["logs"] = log_frame(world, ranges, rng, timing.start_ns)
    if recording.events:
        frames["events"] = event_frame(world.conditions.changes, rng, timing.start_ns, world.conditions.bin_ns)
    fired = [alert for alert in alerts_of(world, rng) if alert[0] >= timing.window[0]] if recording.alerts else []
    frames["alerts"] = alert_frame(fired, timing.start_ns, world.conditions.bin_ns)
    known = {name for name, frame in frames.items() if not frame.is_empty()}
    with_calls = not recording.traces and "calls" not in known
    frames["topology"] = _topology(world.system, pods=recording.topology, calls=with_calls)
    telemetry = Telemetry(**frames, gaps=tuple(gaps))
    return _incident(made, fired, seed, index, tuple(gaps)), _naming(made, telemetry)


def _alerted(made: Scenario, seed: int, index: int) -> tuple[Incident, Telemetry]:
    """An incident of which only alerts are known, and who calls whom."""
    timing, bins = made.timing, made.timing.bins
    starts = range(0, made.world.conditions.bins, bins)
    (first, last), (opens, closes) = timing.baseline, timing.window
    segments = [Segment(slice(at + first, at + last), slice(at + opens, at + closes)) for at in starts]
    gap = Gap("baseline", "nothing but alerts is known: no quiet period")
    telemetry = Telemetry(
        alerts=alerts_alone(made.world, segments, made.config.telemetry, made.rng, timing.start_ns),
        topology=_topology(made.world.system, pods=made.recording.topology, calls=True),
        gaps=(gap,),
    )
    return _incident(made, [], seed, index, (gap,)).model_copy(update={"baselines": ()}), _naming(made, telemetry)


def _naming(made: Scenario, telemetry: Telemetry) -> Telemetry:
    """The same telemetry, with who calls whom stated if nothing else in it names a cause."""
    if all(_names(telemetry, cause) for cause in made.causes):
        return telemetry
    return replace(telemetry, topology=_topology(made.world.system, pods=True, calls=True))


def _names(telemetry: Telemetry, entity: EntityId) -> bool:
    if not telemetry.topology.filter((pl.col("source") == entity.name) | (pl.col("target") == entity.name)).is_empty():
        return True
    columns = (
        (telemetry.bin_counts, ("source", "target")),
        (telemetry.spans, ("service.name", "server.address", "messaging.destination.name")),
        (telemetry.bin_placement, ("node",)),
        (telemetry.metrics, ("entity",)),
        (telemetry.calls, ("caller", "callee")),
    )
    return any(bool((frame[column] == entity.name).any()) for frame, names in columns for column in names)


def _topology(system: System, *, pods: bool, calls: bool) -> pl.DataFrame:
    rows: list[tuple[str, str, str, str, str]] = []
    if pods:
        for p in np.flatnonzero(system.pod_node >= 0).tolist():
            pod, owner = system.pod_names[p], system.names[int(system.pod_component[p])]
            rows.append(("service", owner, "runs", "pod", pod))
            rows.append(("pod", pod, "hosted_on", "node", system.node_names[int(system.pod_node[p])]))
    if calls:
        relation = {"service": "calls", "database": "queries", "queue": "publishes", "external": "requests"}
        for a, b in sorted(set(zip(system.source_component.tolist(), system.target_component.tolist(), strict=True))):
            kind = system.graph_kind(b)
            rows.append(("service", system.names[a], relation[kind], kind, system.names[b]))
        for o in np.flatnonzero(system.consumes >= 0).tolist():
            queue = int(system.consumes[o])
            relation_to = ("calls", "service") if system.in_pods(queue) else ("consumes", "queue")
            rows.append(("service", system.names[int(system.component_of[o])], *relation_to, system.names[queue]))
        alike = system.instance_of
        for a in range(system.services):
            same = np.flatnonzero((alike == alike[a]) & (alike >= 0)).tolist()
            rows += [("service", system.names[a], "replicates", "service", system.names[b]) for b in same if b != a]
    columns = ["source_kind", "source", "relation", "target_kind", "target"]
    return conform("topology", pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row"))


def _incident(made: Scenario, fired: list[Firing], seed: int, index: int, gaps: tuple[Gap, ...]) -> Incident:
    timing = made.timing
    onset_ns = timing.at_ns(timing.onset)
    opens, closes, first, last = (timing.at_ns(bins) for bins in (*timing.window, *timing.baseline))
    labels = tuple(
        Label(
            entity=EntityModel(kind=cause.kind, name=cause.name) if cause else None,
            fault_kind=kind,
            provenance="injected",
            author="simulator",
            at_ns=None if kind == NO_FAULT else onset_ns,
        )
        for kind, cause in ((made.kind, made.cause), *filter(None, [made.second]))
    )
    alerting = tuple(dict.fromkeys(entity for at, entity, _, _ in fired if at == fired[0][0]))
    return Incident(
        id=f"simulated-{seed}-{index}",
        system=f"simulated-{seed}-{index}",
        window=IntervalModel(start_ns=opens, end_ns=closes),
        detected_ns=timing.at_ns(fired[0][0]) if fired else None,
        onset_ns=None if made.kind == NO_FAULT else onset_ns,
        baselines=(BaselineModel(start_ns=first, end_ns=last),),
        labels=labels,
        alerting=tuple(EntityModel(kind=entity.kind, name=entity.name) for entity in alerting),
        source="simulator",
        title=f"Simulated incident in a system of {made.world.system.services} services",
        gaps=tuple(GapModel(source=g.source, reason=g.reason, interval=_model(g.interval)) for g in gaps),
    )


def _model(interval: Interval | None) -> IntervalModel | None:
    return IntervalModel(start_ns=interval.start_ns, end_ns=interval.end_ns) if interval else None
