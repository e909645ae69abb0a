"""What the labels of an alert say: which entity it is about, and which telemetry it was raised on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import polars as pl

from rca.telemetry import EntityId, EntityKind, Gap, Interval

_EXPORTERS: Final = re.compile(
    r"(^|[/_-])(kube-state-metrics|(prometheus-)?node-exporter|node|kubelet|cadvisor|blackbox(-exporter)?|kubernetes-[a-z-]+|"
    r"apiserver|prometheus|alertmanager|pushgateway|otel-collector|opentelemetry-collector)$"
)
"""Jobs that speak for others: an alert on their metrics is not about them where another label names something."""
_SERVICES: Final = ("service", "service_name", "exported_job", "app_kubernetes_io_name", "app", "job")
# `exported_*` is what an exporter says where Prometheus knows the exporter itself by that label.
_WORKLOADS: Final = ("deployment", "statefulset", "daemonset")
_OWNED: Final = ("job_name", "horizontalpodautoscaler")
_PODS: Final = ("exported_pod", "pod")
_NODES: Final = ("exported_node", "node", "nodename", "instance")
_SOURCES: Final = {"metric": "metric", "metrics": "metric", "trace": "trace", "traces": "trace", "log": "log", "logs": "log"}
_CAUSES_NONE: Final = "none"  # severity of alerts that only say that alerting works: Watchdog, InfoInhibitor
_NAMED: Final = 5

OWN_ALERT: Final = "RootCauseFound"
"""What rca itself fires in Alertmanager about a ranking (rca.sinks.alertmanager): no symptom of anything."""
LABELS: Final = (*_SERVICES, *_WORKLOADS, *_PODS, *_OWNED, *_NODES)
"""Labels that name an entity."""


@dataclass(frozen=True)
class Firing:
    """One alert that fired: its labels and when it began, in ns."""

    labels: Mapping[str, str]
    start_ns: int

    @property
    def name(self) -> str:
        """`alertname`, which every alert of Prometheus has."""
        return self.labels.get("alertname", "")


def entity_of(labels: Mapping[str, str]) -> EntityId | None:
    """The entity that an alert is about, None if no label names one.

    A service is taken before its workload, that before a pod, and a node last. The job of an exporter counts only if nothing
    else does: `job="kube-state-metrics"` with a `pod` is about the pod.
    """
    named = [(label, labels[label]) for label in LABELS if labels.get(label)]
    own = [(label, name) for label, name in named if not (label in _SERVICES and _EXPORTERS.search(name))]
    for label, name in own if own else named:
        return _entity(label, name, labels)
    return None


def _entity(label: str, name: str, labels: Mapping[str, str]) -> EntityId:
    if label in _PODS:
        prefix = label.removesuffix("pod")
        return EntityId("pod", name, labels.get(f"{prefix}namespace", ""))
    if label in _NODES:
        return EntityId("node", host_of(name) if label == "instance" else name)
    kind: EntityKind = "service"
    namespace = labels.get("service_namespace", "")
    if label in ("job", "exported_job") and name.count("/") == 1:  # OpenTelemetry's job is service.namespace/service.name
        before, name = name.split("/")
        namespace = namespace or before
    return EntityId(kind, name, namespace)


def host_of(instance: str) -> str:
    """The host of `host:port`."""
    host, colon, port = instance.rpartition(":")
    return host.strip("[]") if colon and port.isdecimal() else instance


def source_of(labels: Mapping[str, str]) -> str:
    """metric, trace or log, if a label `source`, `signal` or `datasource` says so; alerts of Prometheus are on metrics."""
    for label in ("source", "signal", "datasource"):
        found = _SOURCES.get(labels.get(label, "").lower())
        if found:
            return found
    return "metric"


def alerts_frame(firing: Iterable[Firing], interval: Interval, source: str) -> tuple[pl.DataFrame, tuple[Gap, ...]]:
    """The alerts frame of those that began in the interval, and a gap for those that name no entity. Our own are neither."""
    rows, nameless = [], []
    for alert in firing:
        if not interval.start_ns <= alert.start_ns < interval.end_ns or alert.name == OWN_ALERT:
            continue
        entity = entity_of(alert.labels)
        if entity is not None:
            namespace = entity.namespace or None
            rows.append((alert.start_ns, entity.kind, entity.name, namespace, alert.name, source_of(alert.labels)))
        elif alert.labels.get("severity") != _CAUSES_NONE:
            nameless.append(alert.name)
    columns = {"time_unix_nano": pl.Int64(), "entity_kind": pl.String(), "entity": pl.String(), "namespace": pl.String()}
    frame = pl.DataFrame(rows, schema={**columns, "name": pl.String(), "source": pl.String()}, orient="row")
    frame = frame.unique(maintain_order=True).sort("time_unix_nano", "entity_kind", "entity", "namespace", "name")
    if not nameless:
        return frame, ()
    names = ", ".join(sorted(set(nameless))[:_NAMED])
    reason = f"{len(nameless)} alerts name no entity and are left out: {names} (labels looked at: {', '.join(LABELS)})"
    return frame, (Gap(source, reason, interval),)
