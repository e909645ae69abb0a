"""Canonical metrics: what importers and collectors map their names to, and what the features know how to read.

A name is `<subject>.<quantity>[.<statistic>]`, near to OpenTelemetry's semantic conventions. A metric that is not in the table
is kept in the bundle and read as a metric of the signal `other`, both directions counting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Direction = Literal["up", "down", "both"]
Scale = Literal["linear", "log"]


@dataclass(frozen=True)
class Metric:
    """One canonical metric. `signal` names the node signal it feeds, `direction` what counts as a deviation."""

    name: str
    unit: str
    signal: str
    direction: Direction
    scale: Scale
    title: str


def _durations(side: str) -> tuple[Metric, ...]:
    return tuple(
        Metric(
            f"{side}.request.duration.{statistic}",
            "s",
            f"metric_{side}_latency",
            "up",
            "log",
            f"{side} request duration {statistic}",
        )
        for statistic in ("mean", "p50", "p75", "p90", "p95", "p99")
    )


_METRICS: tuple[Metric, ...] = (
    Metric("container.cpu.usage", "{cpu}", "cpu", "both", "linear", "CPU usage"),
    Metric("container.cpu.utilization", "1", "cpu", "both", "linear", "CPU usage of the limit"),
    Metric("container.memory.usage", "By", "memory", "both", "linear", "memory usage"),
    Metric("container.memory.utilization", "1", "memory", "both", "linear", "memory usage of the limit"),
    Metric("container.disk.io", "By/s", "disk", "both", "linear", "disk traffic"),
    Metric("container.filesystem.usage", "By", "disk", "both", "linear", "file system usage"),
    Metric("process.syscall.read", "1/s", "disk", "both", "linear", "read system calls"),
    Metric("process.syscall.write", "1/s", "disk", "both", "linear", "write system calls"),
    Metric("container.network.receive", "By/s", "network", "both", "linear", "network bytes received"),
    Metric("container.network.transmit", "By/s", "network", "both", "linear", "network bytes sent"),
    Metric("process.sockets", "{socket}", "sockets", "both", "linear", "open sockets"),
    Metric("process.load", "1", "cpu", "both", "linear", "load average"),
    *_durations("server"),
    *_durations("client"),
    Metric("server.request.rate", "1/s", "metric_traffic", "both", "linear", "requests served"),
    Metric("client.request.rate", "1/s", "metric_client_traffic", "both", "linear", "requests sent"),
    Metric("server.request.success_ratio", "1", "metric_success", "down", "linear", "success ratio of requests served"),
    Metric("client.request.success_ratio", "1", "metric_success", "down", "linear", "success ratio of requests sent"),
    Metric("server.request.error.rate", "1/s", "metric_errors", "up", "linear", "failed requests served"),
    Metric("container.cpu.throttled", "1", "cpu", "up", "linear", "share of CPU periods in which it was throttled"),
    Metric("container.restarts", "{restart}", "other", "up", "linear", "restarts of containers"),
    Metric("k8s.pod.ready", "1", "other", "down", "linear", "1 if the pod is ready"),
    Metric("node.cpu.utilization", "1", "cpu", "both", "linear", "CPU usage of the node"),
    Metric("node.load", "{process}", "cpu", "both", "linear", "load average of the node"),
    Metric("node.memory.utilization", "1", "memory", "both", "linear", "memory usage of the node"),
    Metric("node.disk.io", "By/s", "disk", "both", "linear", "disk traffic of the node"),
    Metric("node.disk.utilization", "1", "disk", "both", "linear", "share of time in which the busiest disk was busy"),
    Metric("node.filesystem.utilization", "1", "disk", "both", "linear", "usage of the fullest file system"),
    Metric("node.network.receive", "By/s", "network", "both", "linear", "network bytes the node received"),
    Metric("node.network.transmit", "By/s", "network", "both", "linear", "network bytes the node sent"),
)

METRICS: Final = {metric.name: metric for metric in _METRICS}
"""Every canonical metric by name."""


def metric_of(name: str) -> Metric:
    """The canonical metric, or one of the signal `other` that keeps the given name."""
    return METRICS.get(name) or Metric(name, "", "other", "both", "linear", name)
