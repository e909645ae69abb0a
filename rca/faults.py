"""The fault vocabulary: one table shared by labels, importers, models and reports.

A fault kind belongs to a family. Families are what a model predicts ("likely fault kind"): small enough to learn from tens of
incidents. `label_kinds` are the kinds of entity a label of that fault may name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FAMILIES: Final = ("cpu", "memory", "disk", "network", "errors", "latency", "crash", "dependency")
"""Fault families in the row order of a model's fault head."""

NO_FAULT: Final = "no_fault"


@dataclass(frozen=True)
class FaultKind:
    """One kind of fault. `family` is one of FAMILIES or NO_FAULT; `signature` says where it shows."""

    name: str
    family: str
    label_kinds: tuple[str, ...]
    signature: str


_SERVICE = ("service",)
_ANY = ("service", "database", "queue", "external")

_KINDS = (
    FaultKind("cpu_contention", "cpu", ("service", "node"), "own CPU and self time rise"),
    FaultKind("cpu_consumed", "cpu", _SERVICE, "own CPU and self time rise, burnt by the code itself"),
    FaultKind("memory_leak", "memory", _SERVICE, "own memory climbs, then an OOM kill"),
    FaultKind("disk_full", "disk", ("service", "database", "node"), "file system usage rises, writes fail"),
    FaultKind("slow_io", "disk", ("service", "database", "node"), "disk time rises with leaf-call latency"),
    FaultKind("network_delay", "network", _ANY, "client-minus-server gap on the edges into the culprit"),
    FaultKind("network_loss", "network", _ANY, "gap, retransmits and traffic on the culprit's edges"),
    FaultKind("network_corrupt", "network", _ANY, "traffic through the culprit falls"),
    FaultKind("network_partition", "network", _ANY, "calls into the culprit stop or time out"),
    FaultKind("dns_failure", "network", _ANY, "outgoing calls fail before they leave"),
    FaultKind("exception", "errors", _SERVICE, "ERROR lines here or at callers, usual log lines vanish"),
    FaultKind("return", "errors", _SERVICE, "child calls and usual log lines vanish, self time may fall"),
    FaultKind("bad_rollout", "errors", _SERVICE, "errors or latency start with a rollout"),
    FaultKind("configuration_mistake", "errors", _SERVICE, "errors start with a configuration change"),
    FaultKind("availability", "errors", _ANY, "success ratio falls, nothing more is known"),
    FaultKind("latency", "latency", _ANY, "self time rises, nothing more is known"),
    FaultKind("thread_starvation", "latency", _SERVICE, "latency rises with load, CPU does not"),
    FaultKind("connection_pool_exhaustion", "latency", _ANY, "calls wait before they leave"),
    FaultKind("slow_database", "latency", ("database", "service"), "leaf client spans to one database slow down"),
    FaultKind("retry_storm", "latency", _SERVICE, "more calls per request than before"),
    FaultKind("pod_kill", "crash", _SERVICE, "restart: memory resets, traffic drops briefly"),
    FaultKind("pod_failure", "crash", _SERVICE, "telemetry and traffic of the pod stop"),
    FaultKind("crash_loop", "crash", _SERVICE, "restarts repeat, telemetry is broken by gaps"),
    FaultKind("cache_down", "dependency", ("database", "service"), "calls to the cache fail, calls behind it rise"),
    FaultKind("queue_backlog", "dependency", ("queue", "service"), "consumer rate falls behind producer rate"),
    FaultKind("external_down", "dependency", ("external",), "calls to an external host fail"),
    FaultKind("noisy_neighbour", "cpu", ("node",), "all pods of one node slow down together"),
    FaultKind("traffic_surge", NO_FAULT, (), "load rises everywhere in proportion"),
    FaultKind("clock_skew", NO_FAULT, (), "gaps turn negative on every edge of a host"),
    FaultKind("telemetry_pipeline", NO_FAULT, (), "telemetry vanishes, traffic does not"),
    FaultKind("unknown", "errors", (*_ANY, "node"), "the label gives no kind"),
)

FAULT_KINDS: Final = {kind.name: kind for kind in _KINDS}
"""Every fault kind by name."""


def family_of(fault_kind: str) -> str:
    """Family of a fault kind; kinds outside the table (a team's own words) count as `errors`."""
    kind = FAULT_KINDS.get(fault_kind)
    return kind.family if kind else "errors"
