"""A record without names, so that its postmortem can be shown to strangers: what rca.incidents.sharing does to a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rca.drawing.similar import Gist
from rca.incidents.incident import EntityModel, Incident, Label
from rca.incidents.sharing import Redaction, redaction_of
from rca.incidents.store import AuditEntry
from rca.postmortem.account import Answer, Fired, Message, Record
from rca.ranking import Ranking
from rca.telemetry import EntityId


def without_names(record: Record) -> Record:
    """The record under pseudonyms.

    What people wrote is left out, as are ids and titles of other incidents, evidence of earlier answers, and who changed a label.
    Entities that the incident's telemetry does not have, such as those of other alerts of the group, are left out too.
    """
    found = redaction_of(record.incident, record.telemetry)
    return replace(
        record,
        incident=found.incident,
        telemetry=found.telemetry,
        origin=replace(record.origin, name=found.incident.id),
        answers=tuple(_answer(answer, found) for answer in record.answers),
        alerts=tuple(_fired(alert, found) for alert in record.alerts),
        audit=tuple(_audited(entry, found) for entry in record.audit),
        past=tuple(
            (_past(incident, i, found), _gist(gist, found))
            for i, (incident, gist) in enumerate(record.past, 1)
            if incident.id != record.incident.id
        ),
    )


def _answer(answer: Answer, found: Redaction) -> Answer:
    return replace(
        answer,
        leader=_known(answer.leader, 1, found) if answer.leader is not None else None,
        ranking=_ranking(answer.ranking, found) if answer.ranking is not None else None,
        words=found.text(answer.words),
        trouble="the reason is left out here" if answer.trouble else "",
        messages=tuple(
            Message(f"sink {i}", message.sent_ns, message.tries, "the reason is left out here" if message.trouble else "")
            for i, message in enumerate(answer.messages, 1)
        ),
    )


def _ranking(ranking: Ranking, found: Redaction) -> Ranking:
    """Its order and probabilities; candidates that the telemetry does not have keep their place without a name."""
    candidates = tuple(replace(one, entity=_known(one.entity, one.rank, found), evidence=()) for one in ranking.candidates)
    return replace(ranking, candidates=candidates, gaps=(), notes=())


def _known(entity: EntityId, rank: int, found: Redaction) -> EntityId:
    return found.entity(entity) or EntityId(entity.kind, f"unknown-{rank}")


def _entity(entity: EntityId | None, found: Redaction) -> EntityId | None:
    return found.entity(entity) if entity is not None else None


def _fired(alert: Fired, found: Redaction) -> Fired:
    return replace(alert, name=found.text(alert.name), about=_entity(alert.about, found), summary="")


def _audited(entry: AuditEntry, found: Redaction) -> AuditEntry:
    before, after = (_labels(value, found) if isinstance(value, list) else None for value in (entry.before, entry.after))
    return replace(entry, who="", incident_id=found.incident.id, before=before, after=after)


def _labels(kept: Sequence[Mapping[str, Any]], found: Redaction) -> list[dict[str, Any]]:
    """Labels as the audit trail keeps them, without what people wrote."""
    return [
        {
            "entity": {"name": found.pseudonyms.get(label["entity"]["name"], "unknown")} if label.get("entity") else None,
            "fault_kind": label["fault_kind"],
            "provenance": label["provenance"],
        }
        for label in kept
    ]


def _past(incident: Incident, number: int, found: Redaction) -> Incident:
    """Another incident: when it was, and what of it this one's telemetry knows too."""
    labels = []
    for label in incident.labels:
        entity = _entity(label.entity.entity(), found) if label.entity is not None else None
        if label.entity is None or entity is not None:
            model = _model(entity) if entity is not None else None
            labels.append(Label(entity=model, fault_kind=label.fault_kind, provenance=label.provenance))
    alerting = [entity for model in incident.alerting if (entity := found.entity(model.entity())) is not None]
    return Incident(
        id=f"past-{number}",
        system=found.pseudonyms.get(incident.system, f"another-{number}"),
        window=incident.window,
        labels=tuple(labels),
        alerting=tuple(map(_model, alerting)),
    )


def _model(entity: EntityId) -> EntityModel:
    return EntityModel(kind=entity.kind, name=entity.name, namespace=entity.namespace)


def _gist(gist: Gist, found: Redaction) -> Gist:
    return replace(gist, candidate=_entity(gist.candidate, found))
