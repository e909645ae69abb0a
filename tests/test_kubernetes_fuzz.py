"""Objects of any shape neither stop the collector nor leave it with a frame that does not conform."""

from __future__ import annotations

import copy
import time
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rca.collectors.kubernetes.cluster import Cluster
from rca.collectors.kubernetes.config import KubernetesConfig
from rca.collectors.kubernetes.frames import events_frame, topology_frame
from rca.collectors.kubernetes.resources import (
    CONFIG_MAPS,
    CONTROLLER_REVISIONS,
    DEPLOYMENTS,
    EVENTS,
    JOBS,
    NEW_EVENTS,
    NODES,
    PODS,
    REPLICA_SETS,
    Resource,
)
from rca.telemetry import Telemetry
from tests.servers import kubernetes_objects as k8s
from tests.servers.kubernetes_api import stamp

NOW = time.time_ns()
_PODS = k8s.template("web", "shop/web:1", env={"OTEL_SERVICE_NAME": "web"}, config_map="settings", secret="key")
_DEPLOYMENT = k8s.deployment("web", _PODS, replicas=2)
_DEPLOYMENT["status"]["conditions"] = [k8s.condition("Progressing", "True", NOW, "NewReplicaSetAvailable", updated_ns=NOW)]
_REPLICA_SET = k8s.replica_set(_DEPLOYMENT, "5d9c", 2, _PODS)
_POD = k8s.pod("web-1", _PODS, owner=k8s.owned_by(_REPLICA_SET, "ReplicaSet"), status=k8s.ended("OOMKilled", 137, NOW))
_POD["status"]["conditions"] = [k8s.condition("Ready", "True", NOW)]
_SETTING = {"metadata": k8s.meta("settings", managedFields=k8s.edited(NOW))}
_EVENT = k8s.event(_POD, "Pod", "BackOff", "again", NOW, series={"count": 2, "lastObservedTime": stamp(NOW, micro=True)})
BODIES: list[tuple[Resource, dict[str, Any]]] = [
    (NODES, k8s.node("node-a", conditions=[k8s.condition("MemoryPressure", "True", NOW)])),
    (DEPLOYMENTS, _DEPLOYMENT),
    (JOBS, _DEPLOYMENT),
    (REPLICA_SETS, _REPLICA_SET),
    (CONTROLLER_REVISIONS, {"metadata": _REPLICA_SET["metadata"], "revision": 3, "data": {"spec": {"template": _PODS}}}),
    (PODS, _POD),
    (CONFIG_MAPS, _SETTING),
    (EVENTS, _EVENT),
    (NEW_EVENTS, _EVENT),
]

_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(stamp(NOW))
VALUES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=6
)


def paths(body: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Places in an object, as keys and indices."""
    inner = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    return [path for key, value in inner for path in ((*before, key), *paths(value, (*before, key)))]


def replaced(body: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = copy.deepcopy(body)
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return changed


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_objects_with_something_else_in_them(data: st.DataObject) -> None:
    cluster = Cluster(KubernetesConfig())
    told = []
    for resource, body in BODIES:
        strange = replaced(body, data.draw(st.sampled_from(paths(body))), data.draw(VALUES))
        for seen in (body, strange, data.draw(VALUES)):
            told += cluster.take(resource, [seen], NOW)
    telemetry = Telemetry.of(events=events_frame(told), topology=topology_frame(cluster.relations()))
    assert not telemetry.events.is_empty()
    cluster.shared_names()
    for resource, _ in BODIES:
        missing = cluster.missing(resource, [], None)
        told = [change for uid in missing for change in cluster.drop(resource, uid, NOW)]
        Telemetry.of(events=events_frame(told))
    assert cluster.counts() == {}
