"""From groups of alerts to a ranking: asks the live sources, ranks, and keeps the incident in the store.

It runs in a process of its own (rca.serve.process), for ranking keeps a core busy.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from rca.collectors.alert_labels import Firing, alerts_frame, entity_of
from rca.collectors.alerts import Alert
from rca.collectors.config import Config
from rca.collectors.doctor import newest_ns
from rca.collectors.live import collect_incident, fresh_until, now_ns, question_about
from rca.collectors.sources import sources_of
from rca.contracts import Case, Collector, Ranker
from rca.errors import BadCheckpoint, BadGraph, BadInput, RcaError, Unavailable, UnknownName
from rca.graph import ServiceGraph
from rca.incidents.inbox import GroupAlert
from rca.incidents.incident import EntityModel, Incident
from rca.incidents.store import IncidentStore
from rca.models import registry
from rca.models.shipped import default_ranker
from rca.naming import reconciled
from rca.observe import Observer
from rca.pipeline import case_of, subject_of
from rca.ranking import Ranking
from rca.report import TriageReport, is_empty, path_of, report_of
from rca.telemetry import SECOND_NS, EntityId, Interval, Telemetry

SOURCE: Final = "webhook"
"""What the received alerts are called among the sources."""
_TOP: Final = 5
_FOR_SOURCES: Final = 0.6
"""Share of a deadline that sources get; what is left is for the ranking."""
_AUTHOR: Final = "rca serve"
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True)
class AskedGroup:
    """A group to rank: the incident that it is, its title, and its alerts."""

    incident_id: str
    title: str
    alerts: tuple[GroupAlert, ...]


@dataclass(frozen=True)
class Asked:
    """Groups that are ranked together, because they wait at once and began at about one time. The first one leads."""

    groups: tuple[AskedGroup, ...]
    deadline_ns: int
    trace: Mapping[str, str] = field(default_factory=dict)
    """Context of the trace that the question belongs to (rca.observe)."""


@dataclass(frozen=True)
class Found:
    """A report for every group, by incident id, what ranked, and how old the newest telemetry was, None where there was none."""

    reports: dict[str, TriageReport]
    model: str
    age_s: float | None = None


@dataclass(frozen=True)
class Kept:
    """The id in the store under which the telemetry is, or why there is none."""

    bundle: str | None
    trouble: str = ""


@dataclass(frozen=True)
class Ranks:
    """What ranks: its id, whether it learned, what its card says, and why it is not the one that was asked for."""

    model: str
    learned: bool
    trouble: str = ""
    trained_on: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()


class Asker:
    """Answers one question after the other. Raises BadInput if the configuration names no source."""

    def __init__(
        self,
        config: Config,
        home: Path,
        *,
        sources: Sequence[Collector] | None = None,
        ranker: Ranker | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._config, self._home = config, home
        self._observer = observer or Observer()
        self._sources = sources_of(config) if sources is None else tuple(sources)
        self._ranker, self._trouble = (ranker, "") if ranker is not None else usable_ranker(home)

    def ranks(self) -> Ranks:
        """What ranks here."""
        card = getattr(self._ranker, "card", None)
        names = tuple(str(source.get("name", "")) for source in card.data.get("sources", ())) if card else ()
        trouble = self._trouble or str(getattr(self._ranker, "reason", ""))
        return Ranks(self._ranker.name, self._ranker.learned, trouble, names, tuple(card.limits) if card else ())

    def find(self, asked: Asked) -> tuple[Found, Incident, Telemetry]:
        """Ask every source and rank. Raises Unavailable if no source answered, BadInput if nothing can be asked about."""
        longest = self._config.triage.longest
        asked = replace(asked, groups=tuple(replace(each, alerts=of_late(each.alerts, longest)) for each in asked.groups))
        with self._observer.span("collect", asked.trace) as span:
            incident, telemetry, alerting = self._collected(asked)
            newest = newest_ns(telemetry)
            age_s = None if newest is None else (now_ns() - newest) / SECOND_NS
            span.tell(rca_gaps=len(telemetry.gaps), rca_gap_sources=sorted({gap.source for gap in telemetry.gaps}))
        with self._observer.span("build graph", asked.trace) as span:
            case = case_of(incident, telemetry)
            window = case.window.incident
            span.tell(
                rca_graph_id=graph_id(case.graph),
                rca_graph_entities=len(case.graph.entities),
                rca_graph_candidates=len(case.graph.candidates),
                rca_graph_edges=sum(edges.shape[1] for edges in case.graph.edges.values()),
                rca_window_start_ns=window.start_ns,
                rca_window_end_ns=window.end_ns,
                **({} if age_s is None else {"rca_telemetry_age_s": age_s}),
            )
        with self._observer.span("score", asked.trace) as span:
            ranking = self._ranked(case)
            span.tell(rca_model_id=ranking.ranker, rca_ranking_no_fault=ranking.no_fault)
        with self._observer.span("explain", asked.trace):
            lead = report_of(subject_of(incident, case), case, ranking, top=_TOP)
            reports = {group.incident_id: _about(group, lead, case, alerting[group.incident_id]) for group in asked.groups}
        return Found(reports, lead.ranking.ranker, age_s), incident, telemetry

    def keep(self, incident: Incident, telemetry: Telemetry, trace: Mapping[str, str] | None = None) -> Kept:
        """Put the incident into the store, over what was kept of it before, unless people labelled another time of it."""
        try:
            with self._observer.span("store", trace), IncidentStore(self._home, who=_AUTHOR) as store:
                if _labelled_before(store, incident):
                    return Kept(None, "what was labelled stays in the store; telemetry of a later time is not kept in its place")
                store.add(incident, telemetry, replace=True)
        except RcaError as error:
            _LOG.warning("%s: %s", incident.id, error)
            return Kept(None, f"the incident could not be stored: {error}")
        return Kept(incident.id)

    def _collected(self, asked: Asked) -> tuple[Incident, Telemetry, dict[str, tuple[EntityId, ...]]]:
        """The incident with its telemetry, and by group what its alerts are about, named as in the telemetry."""
        now = now_ns()
        alerts = [alert for group in asked.groups for alert in group.alerts]
        lead = _alert_of(asked.groups[0])
        triage = self._config.triage
        deadline = min(triage.deadline, int(asked.deadline_ns * _FOR_SOURCES))
        config = self._config.model_copy(update={"triage": triage.model_copy(update={"deadline": deadline})})
        question = question_about(config, now, alert=lead, fresh_ns=fresh_until(self._sources))
        sources = [*self._sources] if config.alertmanager else [*self._sources, _Received(alerts)]
        how: dict[str, str] = {}
        incident, telemetry = collect_incident(config, sources, question, how.__setitem__)
        if not any(word != "failed" for name, word in how.items() if name != SOURCE):
            reasons = dict.fromkeys(
                f"{gap.source}: {gap.reason}" for gap in telemetry.gaps if gap.source in _names(self._sources)
            )
            raise Unavailable("no source answered: " + "; ".join(reasons))
        return self._named(asked, incident, telemetry)

    def _named(
        self, asked: Asked, incident: Incident, telemetry: Telemetry
    ) -> tuple[Incident, Telemetry, dict[str, tuple[EntityId, ...]]]:
        named = {group.incident_id: _entities(group.alerts) for group in asked.groups}
        every = list(dict.fromkeys(entity for entities in named.values() for entity in entities))
        telemetry, renaming = reconciled(telemetry, self._config.names, every)
        alerting = {key: tuple(dict.fromkeys(map(renaming.entity, entities))) for key, entities in named.items()}
        lead = asked.groups[0]
        known = [entity.entity() for entity in incident.alerting]
        own = dict.fromkeys([*known, *alerting[lead.incident_id]])
        incident = incident.model_copy(
            update={
                "id": lead.incident_id,
                "title": lead.title,
                "alerting": tuple(EntityModel(kind=e.kind, name=e.name, namespace=e.namespace) for e in own),
            }
        )
        return incident, telemetry, alerting

    def _ranked(self, case: Case) -> Ranking:
        """With the model, or the label-free score where it cannot be used, which the ranking says."""
        if is_empty(case.window):
            return Ranking(self._ranker.name, case.window.incident, ())
        try:
            ranking, trouble = self._ranker.rank(case), self._trouble
        except (BadCheckpoint, BadGraph) as error:
            ranking, trouble = registry.create("floor").rank(case), _instead(error)
        return replace(ranking, notes=(*ranking.notes, trouble)) if trouble else ranking


def of_late(alerts: Sequence[GroupAlert], longest_ns: int) -> tuple[GroupAlert, ...]:
    """The alerts that one ranking can be about: those that began within that time of the last. A group may go on for days."""
    last_ns = max((alert.starts_ns for alert in alerts), default=0)
    return tuple(alert for alert in alerts if last_ns - alert.starts_ns < longest_ns)


def _labelled_before(store: IncidentStore, incident: Incident) -> bool:
    """Whether there is a label on another stretch of time of the incident."""
    try:
        stored = store.incident(incident.id)
    except UnknownName:
        return False
    return bool(stored.labels) and not stored.window.interval().overlaps(incident.window.interval())


def graph_id(graph: ServiceGraph) -> str:
    """What tells one graph from another: the same entities, calls and features give the same id."""
    digest = hashlib.blake2b(repr([str(entity) for entity in graph.entities]).encode(), digest_size=8)
    digest.update(graph.features.tobytes())
    for name in sorted(graph.edges):
        digest.update(name.encode() + graph.edges[name].tobytes())
    return digest.hexdigest()


class _Received:
    """The alerts that were received, as a source beside the others."""

    name = SOURCE

    def __init__(self, alerts: Sequence[GroupAlert]) -> None:
        self._alerts = alerts

    def collect(self, start_ns: int, end_ns: int) -> Telemetry:
        interval = Interval(start_ns, end_ns)
        frame, gaps = alerts_frame((Firing(alert.labels, alert.starts_ns) for alert in self._alerts), interval, SOURCE)
        return Telemetry.of(gaps, alerts=frame)


def usable_ranker(home: Path | None = None) -> tuple[Ranker, str]:
    """The model that ranks by default; where it cannot be used, the label-free score and why."""
    try:
        return default_ranker(home), ""
    except (BadCheckpoint, BadInput) as error:
        return registry.create("floor"), _instead(error)


def _instead(error: RcaError) -> str:
    return f"the model, so the label-free score ranked: {error}"


def _names(sources: Sequence[Collector]) -> set[str]:
    return {source.name for source in sources}


def _alert_of(group: AskedGroup) -> Alert:
    """What to ask about: the alert that began first, of those that name an entity where some do."""
    named = [alert for alert in group.alerts if entity_of(alert.labels) is not None]
    first = min(named or group.alerts, key=lambda alert: (alert.starts_ns, alert.fingerprint))
    summary = first.annotations.get("summary") or first.annotations.get("description") or ""
    link = next((url for words, url in first.links if words != "runbook"), "")
    ends = [alert.ends_ns for alert in group.alerts]
    end_ns = max((end for end in ends if end is not None), default=None) if None not in ends else None
    return Alert(first.labels.get("alertname", ""), first.starts_ns, entity_of(first.labels), end_ns, summary, link)


def _entities(alerts: Sequence[GroupAlert]) -> list[EntityId]:
    found = (entity_of(alert.labels) for alert in alerts)
    return list(dict.fromkeys(entity for entity in found if entity is not None))


def _about(group: AskedGroup, lead: TriageReport, case: Case, alerting: tuple[EntityId, ...]) -> TriageReport:
    """The report as it concerns one of the groups: its own title, alerts, and way to the cause."""
    subject = replace(lead.incident, id=group.incident_id, title=group.title, alerting=alerting or lead.incident.alerting)
    first = lead.ranking.candidates[0].entity if lead.path is not None else None
    path = path_of(case.graph, subject.alerting, first) if first else None
    return replace(lead, incident=subject, path=path)
