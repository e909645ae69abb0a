"""Everything that the simulator draws at random, with its range: the one place to adjust when simulated systems look unreal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

SHAPES: Final = ("layered", "hub", "chain", "mesh")
"""Kinds of topology."""


@dataclass(frozen=True)
class Range:
    """A range to draw from, both ends included: evenly, or evenly on the logarithm."""

    low: float
    high: float
    log: bool = False

    def draw(self, rng: np.random.Generator) -> float:
        """One number."""
        if self.log:
            return float(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))
        return float(rng.uniform(self.low, self.high))

    def whole(self, rng: np.random.Generator) -> int:
        """One whole number, both ends as likely as the rest."""
        if self.log:
            return min(int(math.exp(rng.uniform(math.log(self.low), math.log(self.high + 1)))), int(self.high))
        return int(rng.integers(int(self.low), int(self.high) + 1))


@dataclass(frozen=True)
class TopologyRanges:
    """What systems look like."""

    services: Range = Range(5, 60, log=True)
    shapes: tuple[str, ...] = SHAPES
    depth: Range = Range(3, 7)
    """Layers of services, callers above callees."""
    chain_depth: Range = Range(5, 10)
    replica_shares: tuple[float, ...] = (0.45, 0.3, 0.15, 0.1)
    """Share of services with 1, 2, 3, 4 replicas."""
    operations: Range = Range(1, 4, log=True)
    """Operations per service."""
    instances_share: float = 0.0
    """Share of systems in which every instance is a service of its own, and callers spread over them."""
    instances: Range = Range(1, 3)
    """Instances per service, there."""
    service_calls: Range = Range(0.7, 1.8)
    """Mean number of other services that an operation calls."""
    calls_per_request: float = 40.0
    """Most calls that a request to the outside causes, on average."""
    database_share: float = 0.45
    """Share of services that use a database."""
    services_per_database: Range = Range(1, 4)
    cache_share: float = 0.25
    """Share of services that look into a cache before they ask the database."""
    queue_share: float = 0.06
    """Share of services that publish messages to services that also do other things."""
    worker_share: float = 0.08
    """Share of services that do nothing but read a queue of their own."""
    external_share: float = 0.12
    """Share of services that call somebody outside."""
    certain_share: float = 0.65
    """Share of calls to services that every request makes; others depend on the request."""
    optional_share: float = 0.25
    """Share of calls to services without which a request still succeeds."""
    parallel_share: float = 0.3
    """Share of operations that make their calls at once."""
    pods_per_node: Range = Range(5, 14)
    own_pods_share: float = 0.35
    """Share of systems that run databases, caches and queues in pods of their own, which makes them services by name."""


@dataclass(frozen=True)
class LoadRanges:
    """How busy systems are. Times in seconds."""

    requests_per_second: Range = Range(0.8, 40.0, log=True)
    """Requests to the outside, of the whole system."""
    cpu_seconds: Range = Range(0.0006, 0.02, log=True)
    """CPU of one request to one operation of a service."""
    idle_seconds: Range = Range(0.0002, 0.012, log=True)
    """What such a request waits for other than CPU and calls: locks, files, timers."""
    spread: Range = Range(0.15, 0.6)
    """Standard deviation of ln(self time) of one operation."""
    statement_seconds: Range = Range(0.0006, 0.012, log=True)
    cache_seconds: Range = Range(0.0001, 0.0006, log=True)
    publish_seconds: Range = Range(0.0005, 0.004, log=True)
    external_seconds: Range = Range(0.03, 0.3, log=True)
    cpu_use: Range = Range(0.03, 0.3)
    """CPU use of a service's limit at its mean load."""
    thread_use: Range = Range(0.01, 0.15)
    """Share of worker threads that are busy at the mean load; the same range serves connection pools."""
    node_use: Range = Range(0.15, 0.55)
    network_seconds: Range = Range(0.00015, 0.0015, log=True)
    """Network time of one call, there and back."""
    daily_swing: Range = Range(0.1, 0.6)
    noise: Range = Range(0.02, 0.15)
    """Standard deviation of ln(rate) from bin to bin."""
    burst_share: float = 0.25
    """Share of windows with an innocent burst."""
    base_error_share: float = 0.15
    """Share of operations that now and then fail without a reason."""
    base_errors: Range = Range(0.0002, 0.01, log=True)
    retry_share: float = 0.4
    """Share of systems that retry failed calls, each at some of its sites."""
    pause_share: float = 0.3
    """Share of services with pauses of a garbage collector."""


@dataclass(frozen=True)
class TelemetryRanges:
    """What is recorded of a system, and how well. Shares are of systems unless said otherwise."""

    bin_seconds: int = 10
    """Length of the steps that are simulated. Anything but 10 needs systems without traces, logs and aggregated calls."""
    baseline_minutes: Range = Range(1.5, 60, log=True)
    window_minutes: Range = Range(1, 15, log=True)
    onset_known_share: float = 0.6
    """Share of windows that start when the fault does."""
    onset_error_seconds: Range = Range(-60, 120)
    """How much later than the fault other windows start."""
    pause_before_share: float = 0.2
    """Share of windows with a stretch of 10 to 120 s between baseline and window."""
    no_traces: float = 0.12
    no_metrics: float = 0.1
    no_logs: float = 0.3
    no_events: float = 0.25
    no_alerts: float = 0.4
    no_node_metrics: float = 0.35
    request_metrics: float = 0.5
    """Services have request rates, durations and errors as metrics."""
    call_metrics: float = 0.5
    """Of systems without traces: calls arrive aggregated, as a mesh has them."""
    call_metrics_beside_traces: float = 0.3
    """The same of systems that have traces too."""
    measured_from_outside: float = 0.0
    """Requests to everything, whoever runs it, are measured, and nothing inside: no pods, no nodes."""
    alerts_alone: float = 0.0
    """Nothing is recorded but alerts, with who calls whom."""
    spans_without_status: float = 0.08
    """Spans do not say whether they failed."""
    sampled_share: float = 0.45
    """Traces are sampled; the rest keeps all."""
    sampling: Range = Range(0.01, 0.6, log=True)
    scrape_seconds: tuple[int, ...] = (5, 10, 15, 15, 30, 30, 60, 60)
    scrape_loss: Range = Range(0.0, 0.03)
    """Share of scrapes that are lost."""
    scrape_gap_share: float = 0.1
    """A minute or more of all metrics is lost."""
    metric_noise: Range = Range(0.01, 0.08)
    silent_failures: float = 0.2
    """Share of services that do not log what fails in them; their callers may."""
    logs_failed_calls: float = 0.7
    """Share of operations that log failures of what they call."""
    talkative: float = 0.85
    """Share of services that log every request."""
    rare_lines: float = 0.3
    """Share of operations with a line that few requests write."""
    rare_line_chance: Range = Range(0.01, 0.3, log=True)
    background_lines: Range = Range(0.02, 2.0, log=True)
    """Lines of a pod in 10 s that have nothing to do with requests, of one template."""
    spans_name_pods: float = 0.7
    consumers_join_traces: float = 0.5
    """Consumers continue the publisher's trace."""
    topology_stated: float = 0.6
    """Kubernetes says which pod runs where."""


@dataclass(frozen=True)
class FaultRanges:
    """How hard and how long faults hit, and what else goes on. A strength of 0 is barely visible, 1 is total."""

    strength: Range = Range(0.05, 1.0)
    ramp_share: float = 0.25
    """Share of faults that grow for some time."""
    ramp_minutes: Range = Range(0.5, 5.0)
    flicker_share: float = 0.1
    """Share of faults that come and go."""
    one_operation_share: float = 0.3
    """Share of faults in code that hit one operation of their service alone."""
    any_operation_share: float = 0.3
    """Share of those that hit any one of its operations; the rest hit the busiest, or several."""
    one_pod_share: float = 0.3
    """Share of faults of pods that hit one of several replicas alone."""
    wobble_share: float = 0.5
    """Share of windows in which something innocent happens: a batch job, a rollout, a pod that moves."""


@dataclass(frozen=True)
class StyleShares:
    """Share of the incidents that happen in systems of each style of rca.simulator.styles; the rest are as drawn above."""

    managed: float = 0.14
    alerts_only: float = 0.12
    sparse: float = 0.16
    large: float = 0.12


@dataclass(frozen=True)
class Config:
    """All of it. `normal_share` of the incidents have no fault at all; `kinds` are the faults of the rest, by equal chance.

    A style changes some of the ranges for its systems, whatever they are here.
    """

    styles: StyleShares = StyleShares()
    topology: TopologyRanges = TopologyRanges()
    load: LoadRanges = LoadRanges()
    telemetry: TelemetryRanges = TelemetryRanges()
    faults: FaultRanges = FaultRanges()
    kinds: tuple[str, ...] = ()
    """Empty for every kind that can be simulated."""
    normal_share: float = 0.1


CONFIG: Final = Config()
