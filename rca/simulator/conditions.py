"""What holds in every bin: load, and everything a fault, or something innocent, can change. A fault changes causes here, and the
rest of the simulator finds out what follows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from rca.bins import BIN_NS
from rca.simulator.system import Floats, System
from rca.telemetry import SECOND_NS, EntityId

BIN_SECONDS: Final = BIN_NS / SECOND_NS
"""Length of a bin of spans."""


@dataclass(frozen=True)
class Change:
    """A Kubernetes event or a change, `bin` of the window."""

    bin: int
    entity: EntityId
    reason: str
    message: str
    severity: str = "Normal"


@dataclass(eq=False)
class Conditions:
    """T bins of `bin_seconds`. C components, O operations, P pods, N nodes, L connection pools; the default is undisturbed."""

    entry: Floats  # (O, T) requests a second from outside
    cpu_factor: Floats  # (O, T) CPU of a request, 1 as usual
    wait: Floats  # (O, T) seconds that a request waits besides
    own_error: Floats  # (O, T) chance to fail here before any call
    early_return: Floats  # (O, T) chance to answer at once, without the calls
    burnt: Floats  # (P, T) cores that something else in the pod burns
    node_burnt: Floats  # (N, T) cores that something else on the node burns
    ready: Floats  # (P, T) share of the bin in which the pod takes requests
    up: Floats  # (P, T) share of the bin in which it runs
    memory: Floats  # (P, T) bytes beyond the usual
    disk: Floats  # (P, T) share of the file system in use, beyond the usual
    disk_busy: Floats  # (P, T) disk traffic, 1 as usual
    delay_in: Floats  # (C, T) seconds added to calls into it
    delay_out: Floats  # (C, T) and out of it
    loss_in: Floats  # (C, T) chance that a call into it waits for a retransmission
    loss_out: Floats  # (C, T)
    cut_in: Floats  # (C, T) chance that a call into it never arrives
    cut_out: Floats  # (C, T)
    blackhole: bool  # calls that never arrive wait for their time-out; otherwise they are reset at once
    unresolved_in: Floats  # (C, T) chance that its name cannot be resolved
    unresolved_out: Floats  # (C, T) chance that it resolves no name
    refused: Floats  # (K, T) chance that a site's call is answered with an error at once
    threads_held: Floats  # (C, T) share of the workers that are stuck
    pool_held: Floats  # (L, T) share of the connections that are taken and kept
    pool_inside: bool  # waiting for a connection shows in the client span, else before it
    hit: Floats  # (C, T) of caches: hit ratio, 1 as usual
    retries: Floats  # (C, T) further attempts at failed calls, without a pause
    attempts: Floats  # (C, T) calls that it makes where it made one
    consuming: Floats  # (C, T) of consumers: capacity, 1 as usual
    patience: Floats  # (C, T) time-outs of its calls, 1 as usual
    skew: Floats  # (C,) seconds that its clock is off from the onset on
    onset: int  # bin
    bin_seconds: float = BIN_SECONDS
    changes: list[Change] = field(default_factory=list)
    traces_lost: Floats | None = None  # (C, T) share of its spans that never arrive
    metrics_lost: Floats | None = None  # (C, T) 1 where its metrics never arrive
    logs_lost: Floats | None = None  # (C, T)
    lines: list[tuple[int, int, str, str, Floats]] = field(default_factory=list)
    """Further log lines: operation or -1, component, severity, template, lines per request (T,)."""

    @property
    def bins(self) -> int:
        return int(self.entry.shape[1])

    @property
    def bin_ns(self) -> int:
        return round(self.bin_seconds * SECOND_NS)

    @property
    def bins_per_minute(self) -> float:
        return 60 / self.bin_seconds


def undisturbed(system: System, entry: Floats, onset: int, bin_seconds: float = BIN_SECONDS) -> Conditions:
    """Conditions under which nothing is wrong. entry: (O, T) requests a second from outside."""
    bins = entry.shape[1]
    components, operations = len(system.names), len(system.operation_names)
    pods, nodes, pools = len(system.pod_names), len(system.node_names), len(system.pool_owner)

    def full(rows: int, value: float) -> Floats:
        return np.full((rows, bins), value)

    return Conditions(
        entry=entry,
        cpu_factor=full(operations, 1.0),
        wait=full(operations, 0.0),
        own_error=full(operations, 0.0),
        early_return=full(operations, 0.0),
        burnt=full(pods, 0.0),
        node_burnt=full(nodes, 0.0),
        ready=full(pods, 1.0),
        up=full(pods, 1.0),
        memory=full(pods, 0.0),
        disk=full(pods, 0.0),
        disk_busy=full(pods, 1.0),
        delay_in=full(components, 0.0),
        delay_out=full(components, 0.0),
        loss_in=full(components, 0.0),
        loss_out=full(components, 0.0),
        cut_in=full(components, 0.0),
        cut_out=full(components, 0.0),
        blackhole=True,
        unresolved_in=full(components, 0.0),
        unresolved_out=full(components, 0.0),
        refused=full(len(system.source), 0.0),
        threads_held=full(components, 0.0),
        pool_held=full(pools, 0.0),
        pool_inside=False,
        hit=full(components, 1.0),
        retries=full(components, 0.0),
        attempts=full(components, 1.0),
        consuming=full(components, 1.0),
        patience=full(components, 1.0),
        skew=np.zeros(components),
        onset=onset,
        bin_seconds=bin_seconds,
    )
