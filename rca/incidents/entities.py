"""Which entities a label may name: those that the graph of the incident will have."""

from __future__ import annotations

from rca.cleaning import cleaned
from rca.errors import BadInput, UnknownName
from rca.faults import FAULT_KINDS
from rca.incidents.incident import Incident, Label
from rca.telemetry import CANDIDATE_KINDS, EntityId, Telemetry
from rca.topology import MAY_BE_A_SERVICE, standing_for, topology_of
from rca.window import cut


def known_entities(incident: Incident, telemetry: Telemetry) -> frozenset[EntityId]:
    """Every entity that the telemetry of the incident or of its baselines mentions, named as in the service graph."""
    baselines = [baseline.baseline() for baseline in incident.baselines]
    return frozenset(topology_of(cut(cleaned(telemetry), incident.window.interval(), baselines)).entities)


def find_entity(where: str, text: str, known: frozenset[EntityId]) -> EntityId:
    """The candidate that somebody means by `name`, `namespace/name` or `kind:name`.

    Raises UnknownName with the nearest, BadInput if several fit.
    """
    candidates = [entity for entity in known if entity.kind in CANDIDATE_KINDS]
    found = [entity for entity in candidates if text in _ways_to_write(entity)]
    if not found:
        raise UnknownName(where, text, {str(entity) if ":" in text else entity.name for entity in candidates})
    if len(found) > 1:
        raise BadInput(where, expected="one entity", found=f"{text!r}, which may be {' or '.join(sorted(map(str, found)))}")
    return found[0]


def _ways_to_write(entity: EntityId) -> tuple[str, ...]:
    kinds = (entity.kind, *(MAY_BE_A_SERVICE if entity.kind == "service" else ()))
    return (entity.name, f"{entity.namespace}/{entity.name}", *(f"{kind}:{entity.name}" for kind in kinds), str(entity))


def check_label(where: str, label: Label, known: frozenset[EntityId]) -> None:
    """Raises UnknownName for an entity that the telemetry does not mention, BadInput for one that the fault cannot name."""
    if label.entity is None:  # of a fault that names nobody, which the label itself checks
        return
    entity = label.entity.entity()
    if standing_for(entity, known) not in known:
        found = str(entity) if entity.namespace or entity.kind != "service" else entity.name
        candidates = [other for other in known if other.kind in CANDIDATE_KINDS]
        raise UnknownName(where, found, {other.name if found == entity.name else str(other) for other in candidates})
    fault = FAULT_KINDS.get(label.fault_kind)
    if fault is not None and entity.kind not in fault.label_kinds:
        kinds = " or ".join(fault.label_kinds) or "no entity at all"
        raise BadInput(where, expected=f"a label of {fault.name} to name {kinds}", found=str(entity))
