"""What somebody says the cause was, as a label in the store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from rca.errors import BadInput, UnknownName
from rca.faults import FAULT_KINDS, NO_FAULT, is_no_fault
from rca.incidents.entities import check_label, find_entity, known_entities
from rca.incidents.inbox import Episode
from rca.incidents.incident import EntityModel, Label
from rca.incidents.store import IncidentStore
from rca.telemetry import EntityId

Verdict = Literal["confirm", "correct", "no_fault", "withdraw"]
MOST_NOTE: Final = 1000


def labels_of(store: IncidentStore, episode: Episode) -> Sequence[Label]:
    """The labels of an incident; none where the store does not have it."""
    try:
        return store.incident(episode.bundle).labels if episode.bundle is not None else ()
    except UnknownName:  # somebody removed it
        return ()


def judged(home: Path, incident_id: str, verdict: Verdict, label: Label, *, who: str, also: bool = False) -> bool:
    """Write a verdict down; False if the same stood there already.

    A new answer takes the place of the old one: labels of others become disputed, unless this one is `also` a cause. Raises
    UnknownName for an incident without telemetry in the store, an entity that it does not mention, or a label that is not there,
    BadInput for an entity that the fault cannot name; what stood there then stands.
    """
    with IncidentStore(home, who=who) as store:
        if verdict == "withdraw":
            store.withdraw(incident_id, label.entity)
            return True
        standing = [each for each in store.incident(incident_id).labels if each.provenance != "disputed"]
        if any(_same(each, label) for each in standing) and (also or len(standing) == 1):
            return False
        check_label(f"label of incident {incident_id}", label, known_entities(*store.get(incident_id)))
        for each in standing:
            if each.entity == label.entity and not _follows(label, each):
                store.withdraw(incident_id, each.entity)
            elif each.entity != label.entity and not (also and each.entity is not None):
                store.dispute(incident_id, each.entity, f"{who} says otherwise" if who else "")
        return store.label(incident_id, label, force=True)  # checked above, before anything changed


def _follows(label: Label, standing: Label) -> bool:
    """Whether the store takes it beside the label of the same entity: it is the same, or confirms what was inferred."""
    return _same(standing, label) or (standing.provenance, standing.fault_kind) == ("inferred", label.fault_kind)


def _same(one: Label, other: Label) -> bool:
    return (one.entity, one.fault_kind, one.provenance) == (other.entity, other.fault_kind, other.provenance)


def label_of(
    home: Path, incident_id: str, verdict: Verdict, *, entity: str, fault_kind: str, note: str, blamed: EntityId | None
) -> Label:
    """The label that a verdict means. `blamed` is who was ranked first. Raises BadInput, UnknownName."""
    nobody = names_nobody(verdict, entity)
    kind = fault_kind_of(fault_kind, nobody=nobody)
    return confirmed(None if nobody else _named(home, incident_id, verdict, entity, blamed), kind, note)


def names_nobody(verdict: Verdict, entity: str) -> bool:
    """Whether a verdict is about a label of nobody."""
    return verdict == "no_fault" or (verdict == "withdraw" and not entity)


def fault_kind_of(text: str, *, nobody: bool) -> str:
    """The kind of fault that somebody means; without a text, that it is not known, or none. Raises BadInput, UnknownName."""
    kind = text or (NO_FAULT if nobody else "unknown")
    if kind not in FAULT_KINDS:
        raise UnknownName("fault_kind", kind[:80], FAULT_KINDS)
    if nobody != is_no_fault(kind):
        expected = "a fault that nobody is to blame for" if nobody else "a fault of somebody"
        raise BadInput("fault_kind", expected=f"{expected} (docs/faults.md)", found=kind)
    return kind


def confirmed(entity: EntityId | None, fault_kind: str, note: str) -> Label:
    """The label of somebody who knows."""
    model = EntityModel(kind=entity.kind, name=entity.name, namespace=entity.namespace) if entity else None
    return Label(entity=model, fault_kind=fault_kind, provenance="confirmed", note=note)


def _named(home: Path, incident_id: str, verdict: Verdict, text: str, blamed: EntityId | None) -> EntityId:
    if text:
        with IncidentStore(home) as store:
            return find_entity("entity", text, known_entities(*store.get(incident_id)))
    if verdict != "confirm":
        raise BadInput("entity", expected="who it was, as NAME or KIND:NAME", found="none")
    if blamed is None:
        raise BadInput(
            "verdict", expected="an answer that names somebody", found="one that names nobody: there is none to confirm"
        )
    return blamed
