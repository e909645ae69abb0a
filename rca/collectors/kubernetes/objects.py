"""Slim copies of the cluster's objects: what changes are told from, and nothing else. No value of a setting is kept readable."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from rca.errors import BadTelemetry
from rca.telemetry import SECOND_NS, check_time

Json = Mapping[str, Any]

_NAMESPACE_KEY: Final = "resource.opentelemetry.io/service.namespace"
_REVISION_KEY: Final = "deployment.kubernetes.io/revision"
_HASH_KEY: Final = "pod-template-hash"
_FIELD_PATH: Final = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")
_RESOURCE_NAME: Final = re.compile(r"(?:^|,)\s*service\.name=([^,]+)")


def time_ns(text: object) -> int | None:
    """Nanoseconds since the epoch of an RFC 3339 time; None for null, the zero time, and what is no time."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
        value = int(moment.timestamp()) * SECOND_NS + moment.microsecond * 1000
        check_time("time", value)
    except (ValueError, OverflowError, BadTelemetry):
        return None
    return value


@dataclass(frozen=True, slots=True)
class Owner:
    """The controller of an object."""

    kind: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Meta:
    """Who an object is. `edited_ns` is when anything but its status or scale was last written, and `edited_by` by whom."""

    uid: str
    name: str
    namespace: str
    created_ns: int | None
    deleted_ns: int | None
    owner: Owner | None
    edited_ns: int | None
    edited_by: str | None
    scaled_ns: int | None


@dataclass(frozen=True, slots=True)
class Service:
    """How an object says which service it belongs to."""

    name: str | None
    namespace: str | None


@dataclass(frozen=True, slots=True)
class Container:
    """One container of a template. Settings are digests: they may be secret."""

    name: str
    image: str
    env: Mapping[str, str]
    resources: Mapping[str, str]
    probes: str
    rest: str


@dataclass(frozen=True, slots=True)
class Template:
    """What pods are made from."""

    containers: Mapping[str, Container]
    annotations: Mapping[str, str]
    settings: frozenset[tuple[str, str]]
    rest: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of one run of a container. `restarted` says that it was started again."""

    container: str
    at_ns: int
    reason: str
    exit_code: int
    restarted: bool


@dataclass(frozen=True, slots=True)
class Pod:
    meta: Meta
    service: Service
    node: str | None
    template_hash: str | None
    settings: frozenset[tuple[str, str]]
    ended: tuple[Ended, ...]
    evicted: str | None
    failed: bool
    status_ns: int | None
    ready: bool | None
    ready_ns: int | None


@dataclass(frozen=True, slots=True)
class Condition:
    kind: str
    status: str
    reason: str
    since_ns: int | None
    updated_ns: int | None
    message: str


@dataclass(frozen=True, slots=True)
class Node:
    meta: Meta
    conditions: tuple[Condition, ...]
    cordoned: bool


@dataclass(frozen=True, slots=True)
class Workload:
    """A Deployment, StatefulSet, DaemonSet or Job."""

    kind: str
    meta: Meta
    service: Service
    replicas: int | None
    settings: frozenset[tuple[str, str]]
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision of a workload: a ReplicaSet or a ControllerRevision."""

    meta: Meta
    number: int
    template: Template


@dataclass(frozen=True, slots=True)
class Setting:
    """A ConfigMap or a Secret, by its metadata alone."""

    kind: str
    meta: Meta
    version: str


@dataclass(frozen=True, slots=True)
class Event:
    """An event of either API group. `times` are the first and the last time it happened."""

    uid: str
    about_kind: str
    about_name: str
    about_namespace: str
    about_uid: str
    reason: str
    message: str
    severity: str
    times: tuple[int, ...]


Kept = Pod | Node | Workload | Revision | Setting
Object = Kept | Event


def meta_of(body: Json) -> Meta:
    """Raises KeyError, TypeError, ValueError or AttributeError for what is no Kubernetes object, as all readers here do."""
    metadata = body["metadata"]
    owner = next((one for one in metadata.get("ownerReferences") or () if one.get("controller")), None)
    deleted = time_ns(metadata.get("deletionTimestamp"))
    if deleted is not None:  # it says when the grace period ends
        deleted -= int(metadata.get("deletionGracePeriodSeconds") or 0) * SECOND_NS
    writes = [(time_ns(one.get("time")) or 0, one) for one in metadata.get("managedFields") or ()]
    edits = [(at, str(one.get("manager") or "")) for at, one in writes if at and not one.get("subresource")]
    scalings = [at for at, one in writes if at and one.get("subresource") == "scale"]
    edited_ns, edited_by = max(edits, default=(None, None))
    return Meta(
        uid=str(metadata["uid"]),
        name=str(metadata["name"]),
        namespace=str(metadata.get("namespace") or ""),
        created_ns=time_ns(metadata.get("creationTimestamp")),
        deleted_ns=deleted,
        owner=Owner(str(owner["kind"]), str(owner["name"]), str(owner.get("uid") or "")) if owner else None,
        edited_ns=edited_ns,
        edited_by=edited_by,
        scaled_ns=max(scalings, default=None),
    )


def service_of(body: Json, labels: Sequence[str]) -> Service:
    """What a pod or its template says about its service: the first label, what its SDK will report, the other labels."""
    metadata, spec = body.get("metadata") or {}, body.get("spec") or {}
    known = {**(metadata.get("labels") or {}), **(metadata.get("annotations") or {})}
    first, *others = labels or ("",)
    candidates = (known.get(first), *_names_in_env(spec, metadata), *(known.get(label) for label in others))
    name = next((str(text) for text in candidates if text), None)
    namespace = known.get(_NAMESPACE_KEY)
    return Service(name, str(namespace) if namespace else None)


def _names_in_env(spec: Json, metadata: Json) -> Iterator[str]:
    """Service names that the OpenTelemetry SDK in the containers will report."""
    for container in spec.get("containers") or ():
        for variable in container.get("env") or ():
            value = _value(variable, metadata)
            if variable.get("name") == "OTEL_SERVICE_NAME" and value and "$(" not in value:
                yield value
            elif variable.get("name") == "OTEL_RESOURCE_ATTRIBUTES" and value:
                found = _RESOURCE_NAME.search(value)
                if found and "$(" not in found[1]:
                    yield found[1].strip()


def _value(variable: Json, metadata: Json) -> str | None:
    """The value of an environment variable that stands in the template, or is taken from a label."""
    if variable.get("value"):
        return str(variable["value"])
    path = ((variable.get("valueFrom") or {}).get("fieldRef") or {}).get("fieldPath") or ""
    found = _FIELD_PATH.fullmatch(path)
    value = (metadata.get(found[1]) or {}).get(found[2]) if found else None
    return str(value) if value else None


def settings_of(spec: Json) -> frozenset[tuple[str, str]]:
    """(kind, name) of the config maps and secrets that a pod reads."""
    return frozenset(_settings(spec))


def _settings(spec: Json) -> Iterator[tuple[str, str]]:
    for container in _containers(spec):
        for source in container.get("envFrom") or ():
            yield from _references(source, "configMapRef", "secretRef", "name")
        for variable in container.get("env") or ():
            yield from _references(variable.get("valueFrom") or {}, "configMapKeyRef", "secretKeyRef", "name")
    for volume in spec.get("volumes") or ():
        yield from _references(volume, "configMap", "secret", "secretName")
        for source in (volume.get("projected") or {}).get("sources") or ():
            yield from _references(source, "configMap", "secret", "name")


def _references(source: Json, config_map: str, secret: str, secret_name: str) -> Iterator[tuple[str, str]]:
    for kind, key, name in (("ConfigMap", config_map, "name"), ("Secret", secret, secret_name)):
        reference = source.get(key) or {}
        if reference.get(name):
            yield kind, str(reference[name])


def _containers(spec: Json) -> Iterator[Json]:
    yield from spec.get("initContainers") or ()
    yield from spec.get("containers") or ()


def template_of(body: Json) -> Template:
    """A pod template, values replaced by digests."""
    metadata, spec = body.get("metadata") or {}, body.get("spec") or {}
    containers = {str(one["name"]): _container(one) for one in _containers(spec)}
    labels = {key: value for key, value in (metadata.get("labels") or {}).items() if key != _HASH_KEY}
    rest = {key: value for key, value in spec.items() if key not in ("containers", "initContainers")}
    annotations = {str(key): _digest(value) for key, value in (metadata.get("annotations") or {}).items()}
    return Template(containers, annotations, settings_of(spec), _digest([labels, rest]))


def _container(body: Json) -> Container:
    probes = ("livenessProbe", "readinessProbe", "startupProbe")
    apart = {"name", "image", "env", "resources", *probes}
    return Container(
        name=str(body["name"]),
        image=str(body.get("image") or ""),
        env={str(one["name"]): _digest(one) for one in body.get("env") or ()},
        resources={
            f"{part} {what}": str(amount)
            for part in ("requests", "limits")
            for what, amount in ((body.get("resources") or {}).get(part) or {}).items()
        },
        probes=_digest([body.get(probe) for probe in probes]),
        rest=_digest({key: value for key, value in body.items() if key not in apart}),
    )


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=8).hexdigest()


def pod_of(body: Json, labels: Sequence[str]) -> Pod:
    meta, spec, status = meta_of(body), body.get("spec") or {}, body.get("status") or {}
    evicted = status.get("reason") == "Evicted"
    conditions = conditions_of(status)
    ready = next((one for one in conditions if one.kind == "Ready"), None)
    ended = tuple(_ended(status, meta))
    since = [at_ns for at_ns in (*(one.since_ns for one in conditions), *(one.at_ns for one in ended)) if at_ns is not None]
    return Pod(
        meta=meta,
        service=service_of(body, labels),
        node=str(spec["nodeName"]) if spec.get("nodeName") else None,
        template_hash=str((body["metadata"].get("labels") or {}).get(_HASH_KEY) or "") or None,
        settings=settings_of(spec),
        ended=ended,
        evicted=str(status.get("message") or "") if evicted else None,
        failed=status.get("phase") == "Failed",
        status_ns=max(since, default=None),
        ready=ready.status == "True" if ready else None,
        ready_ns=ready.since_ns if ready else None,
    )


def _ended(status: Json, meta: Meta) -> Iterator[Ended]:
    """Ends of containers that the status still tells: the run before this one, and runs that failed for good."""
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        for part, restarted in (("lastState", True), ("state", False)):
            end = (container.get(part) or {}).get("terminated")
            at_ns = time_ns(end.get("finishedAt")) if end else None
            if end and at_ns is not None:
                reason, code = str(end.get("reason") or ""), int(end.get("exitCode") or 0)
                if restarted or reason == "OOMKilled" or (code and meta.deleted_ns is None):
                    yield Ended(str(container["name"]), at_ns, reason, code, restarted)


def conditions_of(status: Json) -> tuple[Condition, ...]:
    """Conditions of a pod, node or workload."""
    return tuple(
        Condition(
            kind=str(one["type"]),
            status=str(one.get("status")),
            reason=str(one.get("reason") or ""),
            since_ns=time_ns(one.get("lastTransitionTime")),
            updated_ns=time_ns(one.get("lastUpdateTime")),
            message=str(one.get("message") or ""),
        )
        for one in status.get("conditions") or ()
    )


def node_of(body: Json) -> Node:
    spec, status = body.get("spec") or {}, body.get("status") or {}
    kept = tuple(one for one in conditions_of(status) if one.kind == "Ready" or one.kind.endswith(("Pressure", "Unavailable")))
    return Node(meta_of(body), kept, bool(spec.get("unschedulable")))


def workload_of(kind: str, body: Json, labels: Sequence[str]) -> Workload:
    spec, status = body.get("spec") or {}, body.get("status") or {}
    template = spec.get("template") or {}
    replicas = spec.get("replicas")
    return Workload(
        kind=kind,
        meta=meta_of(body),
        service=service_of(template, labels),
        replicas=int(replicas) if replicas is not None else None,
        settings=settings_of(template.get("spec") or {}),
        conditions=tuple(one for one in conditions_of(status) if one.kind in ("Progressing", "Failed")),
    )


def replica_set_of(body: Json) -> Revision:
    number = (body["metadata"].get("annotations") or {}).get(_REVISION_KEY)
    return Revision(meta_of(body), int(number or 0), template_of((body.get("spec") or {}).get("template") or {}))


def controller_revision_of(body: Json) -> Revision:
    """A revision of a StatefulSet or DaemonSet; its data is the part of the workload that is rolled out."""
    data = body.get("data") or {}
    template = (data.get("spec") or {}).get("template") or {}
    return Revision(meta_of(body), int(body.get("revision") or 0), template_of(template))


def setting_of(kind: str, body: Json) -> Setting:
    return Setting(kind, meta_of(body), str(body["metadata"].get("resourceVersion") or ""))


def event_of(body: Json) -> Event:
    """An event of core/v1 or of events.k8s.io/v1: one object, shown in two forms."""
    metadata = body["metadata"]
    about = body.get("involvedObject") or body.get("regarding") or {}
    series = body.get("series") or {}
    happened = time_ns(body.get("eventTime"))
    first = time_ns(body.get("firstTimestamp")) or time_ns(body.get("deprecatedFirstTimestamp")) or happened
    last = time_ns(series.get("lastObservedTime")) or time_ns(body.get("lastTimestamp"))
    last = last or time_ns(body.get("deprecatedLastTimestamp")) or happened
    fallback = time_ns(metadata.get("creationTimestamp"))
    times = sorted({at for at in (first, last) if at is not None}) or ([fallback] if fallback is not None else [])
    return Event(
        uid=str(metadata["uid"]),
        about_kind=str(about.get("kind") or ""),
        about_name=str(about.get("name") or ""),
        about_namespace=str(about.get("namespace") or ""),
        about_uid=str(about.get("uid") or ""),
        reason=str(body.get("reason") or "Unknown"),
        message=str(body.get("message") or body.get("note") or ""),
        severity="Warning" if body.get("type") == "Warning" else "Normal",
        times=tuple(times),
    )
