"""What Chaos Mesh injected, from its resources (chaos-mesh.org/v1alpha1).

Every selected pod has a record in `status.experiment.containerRecords`, whose `events` say when the fault was applied to it and
when it was recovered (Chaos Mesh 2.3 and later). Records of the `target` of a NetworkChaos tell of the other end, not to blame.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rca.collectors.kubernetes.api import Api
from rca.collectors.kubernetes.cluster import Cluster
from rca.collectors.kubernetes.config import KubernetesConfig
from rca.collectors.kubernetes.objects import time_ns
from rca.collectors.kubernetes.resources import CHAOS, PODS, REPLICA_SETS, WORKLOADS
from rca.errors import BadInput, Rejected, Unavailable
from rca.gameday.seen import Seen
from rca.telemetry import SECOND_NS
from rca.wording import count, excerpt, listed

KINDS: Final = ("PodChaos", "NetworkChaos", "StressChaos", "IOChaos", "DNSChaos", "TimeChaos", "HTTPChaos")

ACTIONS: Final[Mapping[tuple[str, str], str]] = {
    ("PodChaos", "pod-kill"): "pod_kill",
    ("PodChaos", "container-kill"): "pod_kill",
    ("PodChaos", "pod-failure"): "pod_failure",
    ("NetworkChaos", "delay"): "network_delay",
    ("NetworkChaos", "bandwidth"): "network_delay",
    ("NetworkChaos", "loss"): "network_loss",
    ("NetworkChaos", "corrupt"): "network_corrupt",
    ("NetworkChaos", "duplicate"): "network_corrupt",
    ("NetworkChaos", "partition"): "network_partition",
    ("StressChaos", "cpu"): "cpu_contention",
    ("StressChaos", "memory"): "memory_leak",
    ("IOChaos", "latency"): "slow_io",
    ("IOChaos", "fault"): "disk_full",
    ("IOChaos", "attrOverride"): "disk_full",
    ("IOChaos", "mistake"): "disk_full",
    ("DNSChaos", "error"): "dns_failure",
    ("DNSChaos", "random"): "dns_failure",
    ("TimeChaos", "offset"): "clock_skew",
    ("HTTPChaos", "abort"): "availability",
    ("HTTPChaos", "delay"): "latency",
    ("HTTPChaos", "replace"): "return",
    ("HTTPChaos", "patch"): "return",
}
"""Fault kind by kind and action. Kinds without `action` are told by what their spec holds."""

_BY_FIELD: Final = {
    "StressChaos": ("cpu", "memory"),
    "HTTPChaos": ("abort", "delay", "replace", "patch"),
    "NetworkChaos": ("delay", "loss", "corrupt", "duplicate"),  # action netem
}
_FAR_END: Final = ".Target"
_LABELS: Final = (
    "resource.opentelemetry.io/service.name",
    "app.kubernetes.io/name",
    "app.kubernetes.io/component",
    "app",
    "name",
)
_HASH: Final = "[bcdfghjklmnpqrstvwxz2456789]"
_OF_DEPLOYMENT: Final = re.compile(rf"(.+)-{_HASH}{{6,10}}-{_HASH}{{5}}")
_OF_OTHERS: Final = re.compile(rf"(.+)-(?:\d+|{_HASH}{{5}})")
_ONE_EXPERIMENT_NS: Final = 60 * SECOND_NS
"""Pods of one experiment that are hit within this time of one another are one injection."""

Owner = Callable[[str, str], str | None]
"""The service of a pod, by its namespace and name; None where nobody knows."""


@dataclass(frozen=True)
class Resources:
    """What Chaos Mesh keeps, the service of each pod as far as it is known, and what could not be read."""

    bodies: list[Any]
    owner: Owner = lambda _namespace, _pod: None
    remarks: list[str] = field(default_factory=list)


def resources_in(path: Path) -> Resources:
    """Resources of a file as `kubectl get … -o yaml` or `-o json` prints it. Raises BadInput."""
    import yaml

    try:
        documents = list(yaml.load_all(path.read_text(encoding="utf-8"), Loader=yaml.CBaseLoader))  # times stay text
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "bytes that are not UTF-8"
        raise BadInput(str(path), expected="resources of Chaos Mesh", found=str(reason)) from None
    except yaml.YAMLError as error:
        raise BadInput(str(path), expected="YAML or JSON", found=excerpt(str(error), 200)) from None
    bodies = [body for document in documents for body in _flat(document)]
    if not all(isinstance(body, dict) and "kind" in body for body in bodies) or not bodies:
        raise BadInput(
            str(path), expected="resources of Chaos Mesh, as `kubectl get podchaos -o yaml` prints", found="something else"
        )
    return Resources(bodies)


def resources_of(config: KubernetesConfig) -> Resources:
    """Resources of a cluster, and the services of its pods. Raises Unavailable, Rejected, BadInput."""
    api, cluster = Api(config), Cluster(config)
    bodies: list[Any] = []
    refusals: list[Rejected] = []
    remarks: list[str] = []
    namespaces: tuple[str | None, ...] = config.namespaces or (None,)
    for resource in CHAOS:
        for namespace in namespaces:
            try:
                bodies += [{"kind": CHAOS[resource], **body} for body in api.list(resource, namespace).objects]
            except Rejected as error:
                refusals.append(error)
    if len(refusals) == len(CHAOS) * len(namespaces):
        raise Rejected(f"no resource of Chaos Mesh can be read: {refusals[0]}")
    for resource in (*WORKLOADS, REPLICA_SETS, PODS):
        for namespace in namespaces:
            try:
                cluster.take(resource, api.list(resource, namespace).objects, 0)
            except (Rejected, Unavailable) as error:
                remarks.append(f"{error}; names of pods tell their workloads")
    remarks = [*(str(error) for error in refusals), *remarks]
    return Resources(bodies, lambda namespace, pod: _name_in(cluster, namespace, pod), remarks)


def _name_in(cluster: Cluster, namespace: str, pod: str) -> str | None:
    found = cluster.service_of_pod(namespace, pod)
    return found.name if found else None


def _flat(body: Any) -> Iterator[Any]:
    """Resources of a document, which may be a list of them."""
    if isinstance(body, dict) and isinstance(body.get("items"), list):
        for item in body["items"]:
            yield {"kind": str(body.get("kind", "")).removesuffix("List"), **item} if isinstance(item, dict) else item
    elif body is not None:
        yield body


def seen_in(resources: Resources) -> tuple[list[Seen], list[str]]:
    """Injections in the order of time, and remarks about what is none. Nothing is left out without a word."""
    found: list[Seen] = []
    remarks = list(resources.remarks)
    for body in resources.bodies:
        try:
            found += _injections(body, resources.owner, remarks)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            where = _name(body) if isinstance(body, dict) else "a resource"
            remarks.append(f"{where} does not have the documented shape ({type(error).__name__}: {error}); it is left out")
    return sorted(found, key=lambda seen: (seen.start_ns, seen.target)), remarks


def _name(body: Mapping[str, Any]) -> str:
    metadata = body.get("metadata")
    named = metadata if isinstance(metadata, Mapping) else {}
    return f"{body.get('kind', '?')} {named.get('namespace', '?')}/{named.get('name', '?')}"


def _injections(body: Mapping[str, Any], owner: Owner, remarks: list[str]) -> Iterator[Seen]:
    kind, name = str(body["kind"]), _name(body)
    if kind not in KINDS:
        remarks.append(f"{name} is left out; {', '.join(KINDS)} are read")
        return
    spec = body["spec"]
    action = _action(kind, spec)
    fault = ACTIONS.get((kind, action))
    if fault is None:
        remarks.append(f"{name}: action {action or 'unknown'} stands for no fault kind; it is left out")
        return
    records = (((body.get("status") or {}).get("experiment") or {}).get("containerRecords")) or []
    if not records:
        remarks.append(f"{name} was applied to nothing")
    by_workload: dict[tuple[str, ...], list[tuple[int, int | None]]] = {}
    far = sorted({_names(record, spec, owner)[0] for record in records if record.get("selectorKey") == _FAR_END})
    for record in records:
        if record.get("selectorKey") != _FAR_END:
            names = _names(record, spec, owner)
            by_workload.setdefault(names, []).extend(_stretches(record, name, remarks))
    note = f"{name}, {action}{f' towards {listed(far, 3)}' if far else ''}"
    for names, stretches in by_workload.items():
        for start_ns, end_ns in _together(stretches):
            yield Seen(fault, names[0], start_ns, end_ns, "chaos-mesh", note=note, names=names)


def _action(kind: str, spec: Mapping[str, Any]) -> str:
    stated = str(spec.get("action", ""))
    if stated and (kind, stated) in ACTIONS:
        return stated
    if kind == "TimeChaos":
        return "offset"
    holds = spec.get("stressors") or {} if kind == "StressChaos" else spec
    return next((each for each in _BY_FIELD.get(kind, ()) if holds.get(each)), stated)


def _names(record: Mapping[str, Any], spec: Mapping[str, Any], owner: Owner) -> tuple[str, ...]:
    """What the workload of a record may be called: by the cluster, by the pod's own name, by the selector."""
    namespace, pod, *_ = [*str(record["id"]).split("/"), ""]
    known = owner(namespace, pod)
    match = _OF_DEPLOYMENT.fullmatch(pod) or _OF_OTHERS.fullmatch(pod)
    labels = (spec.get("selector") or {}).get("labelSelectors") or {}
    selected = [str(labels[label]) for label in _LABELS if labels.get(label)]
    return tuple(dict.fromkeys(name for name in (known, match[1] if match else pod, *selected) if name))


def _stretches(record: Mapping[str, Any], name: str, remarks: list[str]) -> Iterator[tuple[int, int | None]]:
    """When the fault was in one pod: from each Apply that succeeded to the next Recover that did."""
    applied: int | None = None
    failures: dict[str, list[str]] = {}
    events = [(time_ns(event.get("timestamp")), event) for event in record.get("events") or ()]
    if not events and record.get("phase") == "Injected":
        remarks.append(f"{name}: the record of {record['id']} has no times (Chaos Mesh before 2.3 writes none); it is left out")
    for at_ns, event in sorted(((at, event) for at, event in events if at is not None), key=lambda pair: pair[0]):
        operation, how = event["operation"], event["type"]
        if how == "Failed":
            failures.setdefault(operation, []).append(str(event.get("message") or "no reason given"))
        elif operation == "Apply" and applied is None:
            applied = at_ns
        elif operation == "Recover" and applied is not None:
            yield applied, at_ns
            applied = None
    if applied is not None:
        yield applied, None
    for operation, reasons in failures.items():
        what = ", which is no injection" if operation == "Apply" else ""
        how = f"{operation} failed {count(len(reasons), 'time')} on {record['id']}{what}"
        remarks.append(f"{name}: {how}: {excerpt(reasons[-1], 160)}")
    undated = sum(at is None for at, _ in events)
    if undated:
        remarks.append(f"{name}: {count(undated, 'event')} of {record['id']} without a time")


def _together(stretches: Iterable[tuple[int, int | None]]) -> Iterator[tuple[int, int | None]]:
    """Stretches of a workload's pods as stretches of the workload: from the first Apply to the last Recover."""
    standing: tuple[int, int | None] | None = None
    for start_ns, end_ns in sorted(stretches, key=lambda stretch: stretch[0]):
        if standing is None:
            standing = start_ns, end_ns
        elif start_ns <= max(standing[1] or 0, standing[0] + _ONE_EXPERIMENT_NS):
            ends = (standing[1], end_ns)
            standing = standing[0], None if None in ends else max(end for end in ends if end is not None)
        else:
            yield standing
            standing = start_ns, end_ns
    if standing is not None:
        yield standing
