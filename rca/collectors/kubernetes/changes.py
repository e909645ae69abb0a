"""What happened, told from the cluster's objects: from one look where they keep a date, from the difference of two where not.

Every change has a key that names the fact itself, so that it is told once however often its objects are seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from rca.collectors.kubernetes.objects import Condition, Ended, Node, Pod, Revision, Setting, Template, Workload
from rca.telemetry import SECOND_NS, EntityId
from rca.wording import listed

REASONS: Final = {
    "RolloutStarted": "a new revision of a workload, or a return to an old one",
    "RolloutFinished": "every replica of the newest revision is available",
    "RolloutStalled": "a rollout made no progress until its deadline",
    "ImageChanged": "a revision runs another image than the one before it",
    "ConfigurationChanged": "a revision has other environment, arguments, resources, probes or volumes than the one before it",
    "ConfigMapChanged": "a config map that pods of the service read was written",
    "SecretChanged": "a secret that pods of the service read was written",
    "Scaled": "another number of replicas was asked for",
    "WorkloadDeleted": "a workload was deleted",
    "JobFailed": "a job gave up",
    "PodCreated": "a pod was created",
    "PodDeleted": "a pod was deleted",
    "PodNotReady": "a pod that was ready is no longer",
    "Evicted": "a pod was evicted from its node",
    "OOMKilled": "a container used more memory than it may and was killed",
    "ContainerRestarted": "a container ended and was started again",
    "ContainerFailed": "a container ended with an error and was not started again",
    "NodeAdded": "a node joined",
    "NodeRemoved": "a node left",
    "NodeNotReady": "a node stopped answering or cannot run pods",
    "NodeReady": "a node became ready",
    "NodeMemoryPressure": "a node is short of memory",
    "NodeDiskPressure": "a node is short of disk space",
    "NodePIDPressure": "a node is short of process ids",
    "NodeNetworkUnavailable": "a node has no network",
    "NodeCordoned": "a node no longer takes new pods",
    "NodeUncordoned": "a node takes new pods again",
}
"""Reasons beside Kubernetes' own. docs/kubernetes.md lists them."""

_WARNINGS: Final = frozenset(
    (
        *("RolloutStalled", "JobFailed", "PodNotReady", "Evicted", "OOMKilled", "ContainerFailed", "NodeRemoved", "NodeNotReady"),
        *("NodeMemoryPressure", "NodeDiskPressure", "NodePIDPressure", "NodeNetworkUnavailable"),
    )
)
_LONGEST: Final = 500
_LISTED: Final = 6  # changed settings named in a message
_STARTING_NS: Final = 60 * SECOND_NS  # a node that is ready this soon was never unready


class Change(NamedTuple):
    """One row of the events frame, and the key of the fact that it tells."""

    time_ns: int
    kind: str
    entity: str
    namespace: str | None
    reason: str
    message: str
    severity: str
    key: tuple[str, ...]


def change(at_ns: int, entity: EntityId, reason: str, message: str, *key: str, warning: bool | None = None) -> Change:
    """A change of an entity. `key` names the fact apart from its reason."""
    severity = "Warning" if (reason in _WARNINGS if warning is None else warning) else "Normal"
    text = message if len(message) <= _LONGEST else message[:_LONGEST] + "…"
    return Change(at_ns, entity.kind, entity.name, entity.namespace or None, reason, text, severity, (reason, *key, str(at_ns)))


def keyed(told: Change, *key: str) -> Change:
    """The same change as a fact that has no date of its own and happens once."""
    return told._replace(key=(told.reason, *key))


def pod_changes(pod: Pod, before: Pod | None, entity: EntityId, now_ns: int) -> Iterator[Change]:
    """Changes of a pod: created, containers that ended, evicted, no longer ready."""
    uid, name = pod.meta.uid, pod.meta.name
    if pod.meta.created_ns is not None:
        yield change(pod.meta.created_ns, entity, "PodCreated", f"pod {name} was created", uid)
    for ended in pod.ended:
        yield _end_of(ended, pod, entity)
    evicted_ns = pod.status_ns or (now_ns if before is not None and before.evicted is None else None)
    if pod.evicted is not None and evicted_ns is not None:
        yield keyed(change(evicted_ns, entity, "Evicted", pod.evicted or f"pod {name} was evicted"), uid)
    if before is not None and before.ready and pod.ready is False and pod.ready_ns is not None and pod.meta.deleted_ns is None:
        yield change(pod.ready_ns, entity, "PodNotReady", f"pod {name} is no longer ready", uid)
    if pod.meta.deleted_ns is not None:
        yield pod_deleted(pod, entity, pod.meta.deleted_ns, "was deleted")


def _end_of(ended: Ended, pod: Pod, entity: EntityId) -> Change:
    killed = ended.reason == "OOMKilled"
    reason = "OOMKilled" if killed else "ContainerRestarted" if ended.restarted or not pod.failed else "ContainerFailed"
    code = f"exit code {ended.exit_code}" + (f", {ended.reason}" if ended.reason and not killed else "")
    text = f"container {ended.container} of {pod.meta.name} " + ("was killed for its memory use" if killed else f"ended: {code}")
    warning = True if ended.exit_code else None
    found = change(ended.at_ns, entity, reason, text, warning=warning)
    return found._replace(key=("ended", pod.meta.uid, ended.container, str(ended.at_ns)))  # whatever comes after it


def pod_deleted(pod: Pod, entity: EntityId, at_ns: int, how: str) -> Change:
    """The end of a pod: the request to delete it and its completion are one fact."""
    return keyed(change(at_ns, entity, "PodDeleted", f"pod {pod.meta.name} {how}"), pod.meta.uid)


def node_changes(node: Node, before: Node | None, entity: EntityId) -> Iterator[Change]:
    """Changes of a node: added, its conditions, cordoned."""
    uid = node.meta.uid
    if node.meta.created_ns is not None:
        yield change(node.meta.created_ns, entity, "NodeAdded", f"node {entity.name} joined", uid)
    for condition in node.conditions:
        if condition.since_ns is not None:
            yield from _condition_of(node, condition, condition.since_ns, entity)
    if before is not None and before.cordoned != node.cordoned and node.meta.edited_ns is not None:
        reason = "NodeCordoned" if node.cordoned else "NodeUncordoned"
        yield change(node.meta.edited_ns, entity, reason, f"node {entity.name}: {REASONS[reason].removeprefix('a node ')}", uid)


def _condition_of(node: Node, condition: Condition, since_ns: int, entity: EntityId) -> Iterator[Change]:
    words = f"node {entity.name}: {condition.message or condition.reason or condition.kind}"
    if condition.kind == "Ready":
        settled = node.meta.created_ns is not None and since_ns > node.meta.created_ns + _STARTING_NS
        if condition.status != "True":
            yield change(since_ns, entity, "NodeNotReady", words, node.meta.uid)
        elif settled:
            yield change(since_ns, entity, "NodeReady", words, node.meta.uid)
    elif condition.status == "True" and f"Node{condition.kind}" in REASONS:
        yield change(since_ns, entity, f"Node{condition.kind}", words, node.meta.uid)


def workload_changes(workload: Workload, before: Workload | None, entity: EntityId, now_ns: int) -> Iterator[Change]:
    """Changes of a workload: rollouts that ended or stalled, jobs that failed, another number of replicas."""
    uid, title = workload.meta.uid, f"{workload.kind} {workload.meta.name}"
    for condition in workload.conditions:
        at_ns = condition.updated_ns or condition.since_ns
        if at_ns is None:
            continue
        if condition.reason == "NewReplicaSetAvailable" and condition.status == "True":
            yield change(at_ns, entity, "RolloutFinished", f"{title}: every replica of the newest revision is available", uid)
        elif condition.reason == "ProgressDeadlineExceeded":
            yield change(at_ns, entity, "RolloutStalled", f"{title}: {condition.message or condition.reason}", uid)
        elif condition.kind == "Failed" and condition.status == "True":
            yield change(at_ns, entity, "JobFailed", f"{title}: {condition.message or condition.reason}", uid)
    if before is not None and before.replicas != workload.replicas and None not in (before.replicas, workload.replicas):
        at_ns = max(workload.meta.scaled_ns or 0, workload.meta.edited_ns or 0) or now_ns
        yield change(at_ns, entity, "Scaled", f"{title}: {before.replicas} -> {workload.replicas} replicas", uid)


def rollout_changes(revision: Revision, before: Revision | None, entity: EntityId, at_ns: int) -> Iterator[Change]:
    """Changes that come with one revision of a workload. `before` is the revision that ran until then, if it is still kept."""
    owner = revision.meta.owner
    title = f"{owner.kind} {owner.name}" if owner else revision.meta.name
    key = (revision.meta.uid, str(revision.number))
    images, others = differences(before.template, revision.template) if before else ([], [])
    told = f": {listed([*images, *others], _LISTED)}" if images or others else ""
    back = ", an old template again" if before and _is_return(revision, before) else ""
    yield change(at_ns, entity, "RolloutStarted", f"{title} revision {revision.number}{back}{told}", *key)
    if images:
        yield change(at_ns, entity, "ImageChanged", f"{title}: {listed(images, _LISTED)}", *key)
    if others:
        yield change(at_ns, entity, "ConfigurationChanged", f"{title}: {listed(others, _LISTED)}", *key)


def _is_return(revision: Revision, before: Revision) -> bool:
    return (revision.meta.created_ns or 0) < (before.meta.created_ns or 0)


def rollout_ns(revision: Revision, before: Revision | None, workload: Workload | None) -> int | None:
    """When a revision began to run: it was created, or its workload was last written if it is an old one that is used again."""
    if before is not None and _is_return(revision, before):
        edited = workload.meta.edited_ns if workload else None
        return max(edited or 0, before.meta.created_ns or 0) or None
    return revision.meta.created_ns


def written_ns(setting: Setting, before: Setting | None, now_ns: int) -> int | None:
    """When a config map or secret was last written after it was created; None if never, or if that is unknown."""
    rewritten = before is not None and before.version != setting.version
    at_ns = setting.meta.edited_ns or (now_ns if rewritten else None)
    created_ns = setting.meta.created_ns
    return None if at_ns is None or (created_ns is not None and at_ns <= created_ns) else at_ns


def setting_change(setting: Setting, entity: EntityId, at_ns: int) -> Change:
    """A config map or secret of a service was written. Its content is never asked for."""
    by = f" by {setting.meta.edited_by}" if setting.meta.edited_by else ""
    words = f"{setting.kind} {setting.meta.name} was written{by}"
    return change(at_ns, entity, f"{setting.kind}Changed", words, setting.meta.uid, str(entity))


def differences(old: Template, new: Template) -> tuple[list[str], list[str]]:
    """What differs between two templates in words: images, and everything else. Values of settings are not told."""
    images: list[str] = []
    others: list[str] = []
    for name in sorted({*old.containers, *new.containers}):
        before, after = old.containers.get(name), new.containers.get(name)
        if before is None or after is None:
            others.append(f"container {name} {'added' if before is None else 'removed'}")
            continue
        if before.image != after.image:
            images.append(f"image {before.image} -> {after.image}")
        others += [f"env {key}" for key in _changed(before.env, after.env)]
        for key in _changed(before.resources, after.resources):
            others.append(f"{key} {before.resources.get(key, 'none')} -> {after.resources.get(key, 'none')}")
        others += [f"probes of {name}"] if before.probes != after.probes else []
        others += [f"arguments or mounts of {name}"] if before.rest != after.rest else []
    others += [f"annotation {key}" for key in _changed(old.annotations, new.annotations)]
    others += [f"{kind} {name} used" for kind, name in sorted(new.settings - old.settings)]
    others += [f"{kind} {name} no longer used" for kind, name in sorted(old.settings - new.settings)]
    if old.rest != new.rest and old.settings == new.settings:
        others.append("pod settings")
    return images, others


def _changed(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    return sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
