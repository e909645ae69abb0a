"""Who is there and who calls whom: the entities and relations of a window."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, get_args

import numpy as np
import polars as pl

from rca.bins import joined_key, key, split_key
from rca.graph import RELATIONS, Indices
from rca.telemetry import ENTITY_KINDS, EntityId, EntityKind
from rca.window import Window

MAY_BE_A_SERVICE: Final[tuple[EntityKind, ...]] = ("database", "queue", "external")
"""Kinds whose entities are services where a service of their name is known."""
_CALL_RELATION: Final = {"service": "calls", "database": "queries", "queue": "publishes", "external": "requests"}


@dataclass(frozen=True, eq=False)
class Topology:
    """Entities in row order (sorted by kind, then name, so that equal telemetry gives equal rows) and edges by relation."""

    entities: tuple[EntityId, ...]
    edges: dict[str, Indices]

    @cached_property
    def rows(self) -> dict[tuple[str, str], int]:
        """Row of (kind, key)."""
        return {(entity.kind, key_of(entity)): row for row, entity in enumerate(self.entities)}

    @cached_property
    def owners(self) -> dict[int, int]:
        """Row of a pod to the row of the service that runs it."""
        runs = self.edges.get("runs", np.zeros((2, 0), dtype=np.int64))
        return dict(zip(runs[1].tolist(), runs[0].tolist(), strict=True))


def key_of(entity: EntityId) -> str:
    """The key that bins use for an entity."""
    return joined_key(entity.name, entity.namespace)


def _entity(kind: EntityKind, text: str) -> EntityId:
    namespace, name = split_key(text)
    return EntityId(kind, name, namespace)


def topology_of(window: Window) -> Topology:
    """Entities and relations that any modality of the window names, incident and baselines together.

    A database, queue or external host that carries the name of a known service is that service: its spans were merely not seen.
    """
    relations = _stated(window) | _observed(window)
    mentioned = _mentioned(window)
    names: dict[EntityKind, set[str]] = {kind: set(mentioned[kind]) for kind in ENTITY_KINDS}
    for relation, *ends in relations:
        names["service"] |= {end for end, kind in zip(ends, _ends(relation), strict=True) if kind == "service"}
    resolved: set[tuple[str, str, str]] = set()
    for relation, source, target in relations:
        if relation in ("queries", "publishes", "consumes", "requests") and target in names["service"]:
            relation = "calls"  # noqa: PLW2901  the relation of this edge, corrected
        source_kind, target_kind = _ends(relation)
        names[source_kind].add(source)
        names[target_kind].add(target)
        if not (relation == "calls" and source == target):
            resolved.add((relation, source, target))
    for kind in MAY_BE_A_SERVICE:
        names[kind] -= names["service"]
    entities = tuple(_entity(kind, name) for kind in ENTITY_KINDS for name in sorted(names[kind]))
    rows = {(entity.kind, key_of(entity)): row for row, entity in enumerate(entities)}
    edges = {}
    for relation in RELATIONS:
        source_kind, target_kind = _ends(relation)
        pairs = sorted(
            (rows[source_kind, source], rows[target_kind, target]) for name, source, target in resolved if name == relation
        )
        edges[relation] = np.array(pairs, dtype=np.int64).reshape(-1, 2).T.copy()
    return Topology(entities, edges)


def standing_for(entity: EntityId, known: Collection[EntityId]) -> EntityId:
    """What a graph calls this entity: a database, queue or external host may stand there as the service of its name."""
    service = replace(entity, kind="service")
    return service if entity.kind in MAY_BE_A_SERVICE and entity not in known and service in known else entity


def _ends(relation: str) -> tuple[EntityKind, EntityKind]:
    source, target = RELATIONS[relation]
    kinds = {kind: kind for kind in get_args(EntityKind)}
    return kinds[source], kinds[target]


def _stated(window: Window) -> set[tuple[str, str, str]]:
    """Relations that arrive as such: the topology frame, aggregated calls, alerts about calls."""
    stated = {
        (relation, source, target)
        for source_kind, source, relation, target_kind, target in window.topology.unique().iter_rows()
        if relation in RELATIONS and _ends(relation) == (source_kind, target_kind)
    }
    for caller, kind, callee in window.calls.select("caller", "callee_kind", "callee").unique().iter_rows():
        stated.add((_CALL_RELATION[kind], caller, callee))
    about_calls = window.alerts.filter(pl.col("peer").is_not_null() & (pl.col("entity_kind") == "service"))
    stated |= {("calls", caller, callee) for caller, callee in about_calls.select("entity", "peer").unique().iter_rows()}
    return stated


def _observed(window: Window) -> set[tuple[str, str, str]]:
    """Relations that spans show."""
    seen = window.bins.counts.filter(pl.col("what") == "call").select("source", "target_kind", "target").unique()
    observed = {
        ("consumes" if kind == "consumed_queue" else _CALL_RELATION[kind], source, target)
        for source, kind, target in seen.iter_rows()
    }
    return (
        observed
        | {("runs", service, pod) for service, pod in window.bins.placement.select("service", "pod").unique().iter_rows() if pod}
        | {
            ("hosted_on", pod, node)
            for pod, node in window.bins.placement.select("pod", "node").unique().iter_rows()
            if pod and node
        }
    )


def _mentioned(window: Window) -> dict[str, set[str]]:
    """Names by kind that some telemetry is about."""
    names: dict[str, set[str]] = {kind: set() for kind in ENTITY_KINDS}
    frames: Iterable[pl.DataFrame] = (window.metrics, window.events, window.logs, window.alerts)
    for frame in frames:
        about = frame.select("entity_kind", key(pl.col("entity"), pl.col("namespace")).alias("key")).unique()
        for kind, text in about.iter_rows():
            if kind in names:
                names[kind].add(text)
    names["service"] |= set(window.bins.counts.filter(pl.col("what") == "span")["source"].unique().to_list())
    return names
