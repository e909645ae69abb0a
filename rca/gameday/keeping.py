"""How injections become labelled incidents in the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import polars as pl

from rca.errors import BadInput, UnknownName
from rca.faults import NO_FAULT
from rca.gameday.injections import AUTHOR, QUIET, Injection, incident_id, label_of, labelled, source_name
from rca.incidents.incident import BaselineModel, Incident, IntervalModel, Label
from rca.incidents.store import IncidentStore
from rca.shop.observing import title_of
from rca.telemetry import UNTIMED_FRAMES, Interval, Telemetry, time_column

_NO_FAULT: Final = Label(fault_kind=NO_FAULT, provenance="injected", author=AUTHOR)


def keep(store: IncidentStore, day: str, injections: Sequence[Injection], incident: Incident, telemetry: Telemetry) -> str:
    """Store an incident with the label of every injection that it holds, under the id of the first; that id.

    Raises BadInput where the store has another incident of that id.
    """
    first = injections[0]
    labels = tuple(dict.fromkeys(label_of(injection) for injection in injections))
    incident = labelled(incident, day, incident_id(day, first.number, first.fault_kind, first.target), labels)
    incident = incident.model_copy(update={"title": title_of(incident, telemetry)})
    return _add(store, day, incident, telemetry)


def keep_watch(store: IncidentStore, day: str, number: int, quiet: Interval, incident: Incident, telemetry: Telemetry) -> str:
    """Store the quiet time before an incident as one of no fault, compared with the rest of its baseline; its id."""
    baseline = incident.baselines[0]
    update: dict[str, Any] = {
        "window": IntervalModel(start_ns=quiet.start_ns, end_ns=quiet.end_ns),
        "baselines": (BaselineModel(start_ns=baseline.start_ns, end_ns=quiet.start_ns),),
        "onset_ns": None,
        "detected_ns": None,
        "alerting": (),
        "title": "a quiet watch",
    }
    watch = labelled(incident.model_copy(update=update), day, incident_id(day, number, QUIET, ""), (_NO_FAULT,))
    return _add(store, day, watch, before(telemetry, quiet.end_ns))


def before(telemetry: Telemetry, time_ns: int) -> Telemetry:
    """Telemetry of the time before a moment. What has no time stays."""
    frames: dict[str, pl.DataFrame] = {
        name: frame.filter(pl.col(time_column(name)) < time_ns)
        for name, frame in telemetry.frames().items()
        if name not in UNTIMED_FRAMES
    }
    return replace(telemetry, **frames)  # type: ignore[arg-type]


def check_free(store: IncidentStore, day: str, ids: Sequence[str]) -> None:
    """Raises BadInput if the store holds an incident of one of these ids that is none of this game day's."""
    for each in ids:
        _is_ours(store, day, each)


def _add(store: IncidentStore, day: str, incident: Incident, telemetry: Telemetry) -> str:
    store.add(incident, telemetry, replace=_is_ours(store, day, incident.id))
    return incident.id


def _is_ours(store: IncidentStore, day: str, name: str) -> bool:
    """Whether the store holds this incident of this game day already. Raises BadInput for another one of that id."""
    try:
        standing = store.incident(name)
    except UnknownName:
        return False
    if standing.source != source_name(day):
        raise BadInput(f"incident {name}", expected="an id that is free (or another name of the game day)", found=standing.source)
    return True
