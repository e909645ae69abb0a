"""From groups of alerts to a ranking: asks the live sources, ranks, and keeps the incident in the store.

It runs in a process of its own (rca.serve.process), for ranking keeps a core busy.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
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
from rca.errors import BadCheckpoint, BadInput, RcaError, Unavailable, UnknownName
from rca.evaluation.cases import recording_digest
from rca.evaluation.lately import Lately, known_in_use, lately
from rca.graph import ServiceGraph
from rca.incidents.inbox import GroupAlert
from rca.incidents.incident import EntityModel, Incident
from rca.incidents.store import IncidentStore
from rca.models import registry
from rca.models.recent import Recent
from rca.models.shipped import VARIABLE, checked, default_ranker, shipped_ranker
from rca.models.versions import Versions
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
_LEAST_FOR_SHADOW_S, _MOST_FOR_SHADOW_S = 1.0, 30.0
_LOOK_BACK_S: Final = 600.0
"""How often labels, and the time that passed, are looked at for drift."""
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
class Shadowed:
    """What the version in shadow said of the same question; without a ranking, why there is none."""

    version: str
    model: str
    ranking: Ranking | None
    trouble: str = ""


@dataclass(frozen=True)
class Kept:
    """The id in the store under which the telemetry is, or why there is none; and what the version in shadow said, if any is."""

    bundle: str | None
    trouble: str = ""
    shadow: Shadowed | None = None


@dataclass(frozen=True)
class Ranks:
    """What ranks: its id, whether it learned, what its card says, and why it is not the one that was asked for.

    `version` is that of the registry, empty for another model. `shadow` is what ranks beside it and is not told.
    """

    model: str
    learned: bool
    trouble: str = ""
    trained_on: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    version: str = ""
    shadow: Ranks | None = None
    lately: Lately | None = field(default=None, repr=False)
    """Whether what it ranked lately looks like what it learnt from; None until somebody looked."""


class Asker:
    """Answers one question after the other. Raises BadInput if the configuration names no source.

    Before each it looks whether another version was promoted, rolled back to, or put into shadow. One that cannot be read leaves
    the one before where it is, which rankings then say.
    """

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
        self._follows = ranker is None and not os.environ.get(VARIABLE)
        self._versions = Versions(home)
        self._stamp = self._versions.stamp()  # first: what is promoted while a model is read is taken up by the next look
        self._ranker, self._trouble = (ranker, "") if ranker is not None else usable_ranker(home)
        self._version = self._promoted()
        self._shadow = self._in_shadow()
        self._answered: tuple[Case, int] | None = None
        """What was ranked last, and until when the version in shadow may rank it, on the monotonic clock."""
        self._lately: Lately | None = None
        self._looked_back_s: float | None = None

    def ranks(self) -> Ranks:
        """What ranks here."""
        shadow = self._shadow
        beside = None
        if shadow is not None:
            beside = _ranks(shadow.ranker, shadow.trouble, shadow.version)
        return replace(_ranks(self._ranker, self._trouble, self._version), shadow=beside, lately=self._lately)

    def look_back(self) -> None:
        """Hold what was ranked lately against what the model learnt from, where that may have changed: after an answer, with
        another model, and now and then for labels that people gave. To be called when nobody waits."""
        now_s = time.monotonic()
        if self._looked_back_s is not None and now_s - self._looked_back_s < _LOOK_BACK_S:
            return
        self._looked_back_s = now_s
        try:
            self._lately = lately(self._home, known_in_use(self._home, self._ranker.name), now_ns())
        except Exception as error:  # answers do not depend on it
            _LOG.warning("drift cannot be told: %s", error)
            self._lately = Lately(why_not=str(error) or type(error).__name__)

    def refresh(self) -> None:
        """Take up what was promoted or put into shadow since the last look."""
        stamp = self._versions.stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        self._looked_back_s = None
        if self._follows:
            self._follow()
        self._shadow = self._in_shadow()

    def _follow(self) -> None:
        """Rank with the promoted version. One that cannot be used leaves what ranks, and says so."""
        try:
            current = self._versions.state().current
            ranker = checked(self._versions.get(current).folder) if current else shipped_ranker()
        except Exception as error:  # whatever is wrong with a new model, the old one still ranks
            _LOG.warning("the model that was promoted cannot be used: %s", error)
            self._trouble = f"the model that was promoted, so {self._ranker.name} went on ranking: {error}"
            return
        self._ranker, self._trouble, self._version = ranker, "", current or ""
        _LOG.info("%s ranks", ranker.name)

    def _promoted(self) -> str:
        """The version that ranks; empty where another model does."""
        if not self._follows or self._trouble or getattr(self._ranker, "reason", ""):
            return ""
        try:
            current = self._versions.state().current
            return current if current and self._versions.get(current).model.id == self._ranker.name else ""
        except (BadCheckpoint, BadInput):
            return ""

    def _in_shadow(self) -> _Shadow | None:
        """The version that ranks beside; one that cannot be used says why."""
        version = ""
        try:
            version = self._versions.state().shadow or ""
            return _Shadow(version, checked(self._versions.get(version).folder)) if version else None
        except Exception as error:  # it is not what anybody is told
            _LOG.warning("the version in shadow cannot be used: %s", error)
            return _Shadow(version, None, str(error)) if version else None

    def find(self, asked: Asked) -> tuple[Found, Incident, Telemetry]:
        """Ask every source and rank. Raises Unavailable if no source answered, BadInput if nothing can be asked about."""
        until_ns = time.monotonic_ns() + asked.deadline_ns
        self.refresh()
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
            self._answered = case, until_ns
            span.tell(rca_model_id=ranking.ranker, rca_ranking_no_fault=ranking.no_fault)
        with self._observer.span("explain", asked.trace):
            lead = report_of(subject_of(incident, case), case, ranking, top=_TOP)
            reports = {group.incident_id: _about(group, lead, case, alerting[group.incident_id]) for group in asked.groups}
        return Found(reports, lead.ranking.ranker, age_s), incident, telemetry

    def keep(self, incident: Incident, telemetry: Telemetry, trace: Mapping[str, str] | None = None) -> Kept:
        """Put the incident into the store, over what was kept of it before, unless people labelled another time of it.

        The version in shadow ranks now, when the answer is on its way already.
        """
        graph = self._answered[0].graph if self._answered is not None else None
        kept = replace(self._stored(incident, telemetry, trace), shadow=self._shadowed())
        if kept.bundle is not None and graph is not None:
            self._count(incident, graph)
        return kept

    def _count(self, incident: Incident, graph: ServiceGraph) -> None:
        """Keep what the graph looked like, for drift."""
        try:
            with IncidentStore(self._home) as store:
                recording = recording_digest(store.manifest(incident.id))
            with Recent(self._home) as recent:
                recent.keep(incident.id, recording, incident.system, incident.window.end_ns, graph)
        except Exception as error:  # it was answered and stored
            _LOG.warning("%s is not counted for drift: %s", incident.id, error)
        self._looked_back_s = None

    def _shadowed(self) -> Shadowed | None:
        """What the version in shadow says of what was ranked last, within its deadline; one that misses that is asked no more."""
        shadow, answered = self._shadow, self._answered
        self._answered = None
        if shadow is None or answered is None:
            return None
        if shadow.ranker is None:
            return Shadowed(shadow.version, "", None, shadow.trouble)
        ranker, (case, until_ns) = shadow.ranker, answered
        said: list[Ranking | str] = []

        def ask() -> None:
            try:
                said.append(Ranking(ranker.name, case.window.incident, ()) if is_empty(case.window) else ranker.rank(case))
            except Exception as error:  # it is not what anybody is told
                said.append(str(error) or type(error).__name__)

        thread = threading.Thread(target=ask, name="shadow", daemon=True)
        thread.start()
        thread.join(min(max((until_ns - time.monotonic_ns()) / SECOND_NS, _LEAST_FOR_SHADOW_S), _MOST_FOR_SHADOW_S))
        if not said:
            self._shadow = _Shadow(shadow.version, None, "it missed the deadline, and is asked no more until something changes")
            said.append(self._shadow.trouble)
        ranking = said[0]
        if isinstance(ranking, str):
            _LOG.warning("the version in shadow did not rank: %s", ranking)
            return Shadowed(shadow.version, ranker.name, None, ranking)
        return Shadowed(shadow.version, ranker.name, ranking)

    def _stored(self, incident: Incident, telemetry: Telemetry, trace: Mapping[str, str] | None) -> Kept:
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
        except Exception as error:  # whatever is wrong with a model, the question is answered
            _LOG.warning("%s did not rank: %s", self._ranker.name, error, exc_info=None if isinstance(error, RcaError) else error)
            ranking, trouble = registry.create("floor").rank(case), _instead(error)
        return replace(ranking, notes=(*ranking.notes, trouble)) if trouble else ranking


@dataclass(frozen=True)
class _Shadow:
    """The version in shadow, or why it cannot be used."""

    version: str
    ranker: Ranker | None
    trouble: str = ""


def _ranks(ranker: Ranker | None, trouble: str, version: str) -> Ranks:
    """What a ranker says about itself."""
    card = getattr(ranker, "card", None)
    names = tuple(str(source.get("name", "")) for source in card.data.get("sources", ())) if card else ()
    trouble = trouble or str(getattr(ranker, "reason", ""))
    learned = ranker is not None and ranker.learned
    return Ranks(ranker.name if ranker else "", learned, trouble, names, tuple(card.limits) if card else (), version)


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
    except Exception as error:  # whatever is wrong with a model, questions are answered
        return registry.create("floor"), _instead(error)


def _instead(error: Exception) -> str:
    words = str(error) if isinstance(error, RcaError) else f"{type(error).__name__}: {error}"
    return f"the model, so the label-free score ranked: {words}"


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
