"""Which entities an incident's telemetry speaks of: what a label may name."""

from __future__ import annotations

from typing import Final, cast, get_args

import polars as pl

from rca.errors import BadInput, UnknownName
from rca.faults import FAULT_KINDS
from rca.incidents.incident import Label
from rca.telemetry import CANDIDATE_KINDS, EntityId, EntityKind, Telemetry

_SPAN_COLUMNS: Final[tuple[tuple[EntityKind, str], ...]] = (
    ("service", "service.name"),
    ("service", "service.peer.name"),
    ("pod", "k8s.pod.name"),
    ("node", "k8s.node.name"),
    ("queue", "messaging.destination.name"),
)
_DATABASE_COLUMNS: Final = ("db.namespace", "server.address", "service.peer.name", "db.system.name")


def known_entities(telemetry: Telemetry) -> frozenset[EntityId]:
    """Every entity that some frame mentions, by any of the names that it goes by. Namespaces are left out."""
    spans = telemetry.spans
    pairs: set[tuple[str, str]] = set()
    for kind, column in _SPAN_COLUMNS:
        pairs |= {(kind, name) for name in _distinct(spans, column)}
    on_database = pl.col("db.system.name").is_not_null()
    for column in _DATABASE_COLUMNS:
        pairs |= {("database", name) for name in _distinct(spans.filter(on_database), column)}
    pairs |= {("external", name) for name in _distinct(spans.filter(~on_database), "server.address")}
    for frame in (telemetry.metrics, telemetry.events, telemetry.logs, telemetry.alerts):
        pairs |= set(frame.select("entity_kind", "entity").unique().iter_rows())
    pairs |= {("service", name) for name in (*_distinct(telemetry.calls, "caller"), *_distinct(telemetry.alerts, "peer"))}
    pairs |= set(telemetry.calls.select("callee_kind", "callee").unique().iter_rows())
    for end in ("source", "target"):
        pairs |= set(telemetry.topology.select(f"{end}_kind", end).unique().iter_rows())
    return frozenset(EntityId(cast(EntityKind, kind), name) for kind, name in pairs)


def find_entity(where: str, text: str, known: frozenset[EntityId]) -> EntityId:
    """The entity that somebody means by `name` or `kind:name`. Raises UnknownName with the nearest, BadInput if several fit."""
    kind, colon, name = text.partition(":")
    if colon and kind in get_args(EntityKind):
        found = [entity for entity in known if (entity.kind, entity.name) == (kind, name)]
    else:
        found = [entity for entity in known if entity.name == text and entity.kind in CANDIDATE_KINDS]
        # a called host is often a service under its own name, and the service is what people mean
        found = [entity for entity in found if entity.kind != "external"] or found
    if not found:
        raise UnknownName(where, text, {entity.name for entity in known} | {str(entity) for entity in known if colon})
    if len(found) > 1:
        raise BadInput(where, expected="one entity", found=f"{text!r}, which may be {' or '.join(sorted(map(str, found)))}")
    return found[0]


def check_label(where: str, label: Label, known: frozenset[EntityId]) -> None:
    """Raises UnknownName for an entity that the telemetry does not mention, BadInput for one that the fault cannot name."""
    entity = label.entity.entity()
    if EntityId(entity.kind, entity.name) not in known:
        near = [other.name if other.kind == entity.kind else str(other) for other in known]
        raise UnknownName(where, entity.name, near)
    fault = FAULT_KINDS.get(label.fault_kind)
    if fault is not None and entity.kind not in fault.label_kinds:
        kinds = " or ".join(fault.label_kinds) or "no entity at all"
        raise BadInput(where, expected=f"a label of {fault.name} to name {kinds}", found=str(entity))


def _distinct(frame: pl.DataFrame, column: str) -> list[str]:
    return frame[column].drop_nulls().unique().to_list()
