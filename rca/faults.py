"""The fault vocabulary: one table shared by labels, importers, models and reports.

A fault kind belongs to a family. Families are what a model predicts ("likely fault kind"): small enough to learn from tens of
incidents. `label_kinds` are the kinds of entity a label of that fault may name; kinds of the family "no_fault" name nobody. The
simulator, the shop and docs/faults.md read the same table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FAMILIES: Final = ("cpu", "memory", "disk", "network", "errors", "latency", "crash", "dependency")
"""Fault families in the row order of a model's fault head."""

NO_FAULT: Final = "no_fault"


@dataclass(frozen=True)
class FaultKind:
    """One kind of fault. `family` is one of FAMILIES or NO_FAULT; `title` names it, `signature` says where it shows."""

    name: str
    family: str
    label_kinds: tuple[str, ...]
    title: str
    signature: str


_SERVICE = ("service",)
_ANY = ("service", "database", "queue", "external")

_KINDS = (
    FaultKind(
        "cpu_contention",
        "cpu",
        ("service", "node"),
        "CPU contention",
        "own CPU and self time rise, or self time alone where the CPU is taken by others",
    ),
    FaultKind("cpu_consumed", "cpu", _SERVICE, "CPU burnt by the code itself", "own CPU and self time rise with every request"),
    FaultKind(
        "noisy_neighbour",
        "cpu",
        ("node",),
        "noisy neighbour on a node",
        "CPU of the node rises, self time of all its pods with it, without a cause of their own",
    ),
    FaultKind(
        "memory_leak",
        "memory",
        _SERVICE,
        "memory leak, up to the OOM kill",
        "own memory climbs; at the limit OOMKilled, a restart, memory falls",
    ),
    FaultKind(
        "disk_full",
        "disk",
        ("service", "database", "node"),
        "disk full",
        "file system usage at its limit, writes fail with ERROR lines, requests that need them fail",
    ),
    FaultKind(
        "slow_io", "disk", ("service", "database", "node"), "slow I/O", "self time of what writes or reads rises, CPU does not"
    ),
    FaultKind(
        "network_delay", "network", _ANY, "network delay", "client-minus-server gap on the edges into the culprit and out of it"
    ),
    FaultKind("network_loss", "network", _ANY, "packet loss", "the gap of some calls jumps by a retransmission, some time out"),
    FaultKind("network_corrupt", "network", _ANY, "corrupt packets", "traffic through the culprit falls"),
    FaultKind(
        "network_partition",
        "network",
        _ANY,
        "network partition",
        "calls into the culprit and out of it fail or time out, it serves nothing",
    ),
    FaultKind(
        "dns_failure",
        "network",
        _ANY,
        "DNS failure",
        "outgoing calls fail before they leave: failed client spans without a server span",
    ),
    FaultKind(
        "exception",
        "errors",
        _SERVICE,
        "thrown exceptions",
        "own failed spans, ERROR lines here or at callers, usual log lines vanish",
    ),
    FaultKind(
        "return",
        "errors",
        _SERVICE,
        "early return, a silent wrong answer",
        "child calls and usual log lines vanish, self time may fall, nothing fails",
    ),
    FaultKind("bad_rollout", "errors", _SERVICE, "bad rollout", "errors or latency start with a rollout of the culprit"),
    FaultKind(
        "configuration_mistake",
        "errors",
        _SERVICE,
        "configuration mistake",
        "errors start with a change of configuration: a wrong address, password, time-out or limit",
    ),
    FaultKind("availability", "errors", _ANY, "failing requests", "success ratio falls, nothing more is known"),
    FaultKind("latency", "latency", _ANY, "slow requests", "self time rises, nothing more is known"),
    FaultKind(
        "thread_starvation",
        "latency",
        _SERVICE,
        "thread starvation",
        "requests wait inside the culprit, with the load; CPU does not rise",
    ),
    FaultKind(
        "connection_pool_exhaustion",
        "latency",
        _ANY,
        "connection pool exhausted",
        "calls to the database wait or fail before they leave; the database itself is quick",
    ),
    FaultKind(
        "slow_database",
        "latency",
        ("database", "service"),
        "slow database",
        "leaf client spans of all its callers slow down, its CPU or disk rises",
    ),
    FaultKind(
        "database_lock",
        "latency",
        ("database", "service"),
        "locked database",
        "some operations on one database wait or time out, others stay quick, its CPU does not rise",
    ),
    FaultKind(
        "retry_storm",
        "latency",
        _SERVICE,
        "retry storm",
        "the culprit sends more calls per request than before, its callees are busier than their other callers explain",
    ),
    FaultKind("pod_kill", "crash", _SERVICE, "killed pod", "restart: memory resets, traffic drops briefly, some calls fail"),
    FaultKind("pod_failure", "crash", _SERVICE, "pod that does not come back", "telemetry and traffic of the pod stop"),
    FaultKind(
        "crash_loop",
        "crash",
        _SERVICE,
        "crash loop",
        "restarts and BackOff events repeat, calls into it fail, its telemetry has gaps",
    ),
    FaultKind(
        "cache_down", "dependency", ("database", "service"), "cache down", "calls to the cache fail, calls to what it spares rise"
    ),
    FaultKind(
        "cold_cache",
        "dependency",
        ("database", "service"),
        "cold cache",
        "the cache answers, and calls to what it spares rise and slow down",
    ),
    FaultKind(
        "queue_backlog",
        "dependency",
        ("queue", "service"),
        "queue backlog",
        "consumer rate falls behind producer rate, messages wait",
    ),
    FaultKind(
        "dead_consumer",
        "dependency",
        ("service", "queue"),
        "dead consumer",
        "the consumer's spans and log lines stop, producers go on",
    ),
    FaultKind(
        "external_down",
        "dependency",
        ("external",),
        "external dependency down",
        "calls to an external host fail or time out, from whoever calls it",
    ),
    FaultKind(NO_FAULT, NO_FAULT, (), "nothing wrong", "a quiet window, or an alert without a fault"),
    FaultKind("traffic_surge", NO_FAULT, (), "traffic surge", "load rises everywhere in proportion, CPU and queueing with it"),
    FaultKind(
        "clock_skew",
        NO_FAULT,
        (),
        "clock skew",
        "gaps of one host turn negative on calls into it and positive on calls out of it, or the reverse",
    ),
    FaultKind(
        "telemetry_pipeline",
        NO_FAULT,
        (),
        "broken telemetry pipeline",
        "telemetry of some or all services vanishes, traffic does not",
    ),
    FaultKind("unknown", "errors", (*_ANY, "node"), "unknown", "the label gives no kind"),
)

FAULT_KINDS: Final = {kind.name: kind for kind in _KINDS}
"""Every fault kind by name."""


def family_of(fault_kind: str) -> str:
    """Family of a fault kind; kinds outside the table (a team's own words) count as `errors`."""
    kind = FAULT_KINDS.get(fault_kind)
    return kind.family if kind else "errors"


def is_no_fault(fault_kind: str) -> bool:
    """True for kinds that no entity is to blame for: a label of them names nobody."""
    return family_of(fault_kind) == NO_FAULT
