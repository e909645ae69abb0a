"""Everything the page of an incident shows, as values: built here, written as HTML by rca.serve.pages.rendering.

`scene_of` is the part that reads telemetry; it depends on nothing that changes after the ranking, so that whoever serves pages
can keep it. `view_of` puts it together with the notice, the labels and who is looking. Both are pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import polars as pl

import rca
from rca.contracts import Case
from rca.drawing.charts import Chart, charts_of
from rca.drawing.foreign import NAME, address, moment, name_of, plain
from rca.drawing.servicemap import ServiceMap, map_of
from rca.drawing.similar import Similar
from rca.drawing.timeline import Entry, Timeline, recorded_entries, timeline_of
from rca.faults import FAMILIES, FAULT_KINDS, family_of, is_no_fault
from rca.incidents.incident import Incident, Label
from rca.incidents.store import AuditEntry
from rca.ranking import RankedCandidate, Ranking
from rca.report import PATH_TITLES, Certainty, Health, Map, TriageReport, others_of, shown_text
from rca.serve.pages.labelling import value_of
from rca.signals import NODE_COLUMN, NODE_SIGNALS
from rca.sinks.notice import AlertLine, Notice
from rca.telemetry import CANDIDATE_KINDS, EntityId
from rca.wording import clock, count, listed, number, probability, seconds

Role = Literal["read", "label"]
Stage = Literal["ranking", "unranked", "ranked"]

MOST_EXPLAINED: Final = 5
"""Candidates with their evidence; the rest is listed by name."""
_MOST_SHOWN: Final = 45
MOST_CHOICES: Final = 400
"""Candidates that can be picked as the true cause."""
MOST_ALERTS: Final = 12
_MOST_SENTENCES: Final = 20
_MOST_TRACES: Final = 3

LEVELS: Final[dict[Certainty, tuple[int, str]]] = {
    "clear": (4, "Clear"),
    "likely": (3, "Likely, not certain"),
    "close": (2, "A close call"),
    "unsure": (1, "Not sure"),
    "nothing": (0, "Nothing stands out"),
}
"""How sure an answer is: steps of a scale of four, and in words."""

FAMILY_WORDS: Final = {
    "cpu": "CPU",
    "memory": "memory",
    "disk": "disk",
    "network": "network",
    "errors": "errors",
    "latency": "slowness",
    "crash": "crash",
    "dependency": "dependency",
}


@dataclass(frozen=True)
class Looker:
    """Who looks at a page: their role, their name where it is known, the token of their forms, and where pages begin."""

    role: Role = "read"
    name: str = ""
    csrf: str = ""
    base: str = ""


ANYBODY: Final = Looker()


@dataclass(frozen=True)
class Scene:
    """What telemetry shows of an incident: charts of the cause, the map of that time, what happened, and what was recorded."""

    charts: tuple[Chart, ...]
    map: ServiceMap | None
    happened: tuple[Entry, ...]
    recorded: str


@dataclass(frozen=True)
class Verdict:
    """The answer in the words of the first screen. `steps` of 4 say how sure it is."""

    level: Certainty | Literal["pending", "failed"]
    eyebrow: str
    heading: str
    steps: int
    certainty: str
    sentence: str
    strongest: str = ""
    family: str = ""


@dataclass(frozen=True)
class EvidenceLine:
    """One observation, and how many robust standard deviations it strays."""

    statement: str
    strays: str


@dataclass(frozen=True)
class Candidate:
    """A ranked candidate; `share` is its probability in words, `percent` in whole steps for the bar, `traces` show it."""

    rank: int
    name: str
    share: str
    percent: int
    family: str
    evidence: tuple[EvidenceLine, ...]
    traces: tuple[str, ...]


@dataclass(frozen=True)
class Beside:
    """What stands beside the cause: `what` it is to it, and (name, health, loudest signal) of each."""

    what: str
    entities: tuple[tuple[str, Health, str], ...]
    more: str


@dataclass(frozen=True)
class AlertRow:
    """An alert that brought this up."""

    name: str
    severity: str
    entity: str
    summary: str
    since: str
    ended: str


@dataclass(frozen=True)
class LabelRow:
    """What somebody, or an injection, said was the cause. `value` is what a form sends to take it back, where that is allowed."""

    cause: str
    fault: str
    provenance: str
    author: str
    when: str
    note: str
    value: str | None = None


@dataclass(frozen=True)
class Link:
    """An address of the incident. `url` is None where it may not be followed: the address is then shown as text."""

    kind: str
    words: str
    url: str | None


@dataclass(frozen=True)
class Choice:
    """An option of a form."""

    value: str
    words: str


@dataclass(frozen=True)
class Forms:
    """The forms of the role `label`. `confirm` is None where there is no first candidate to confirm."""

    action: str
    csrf: str
    confirm: Choice | None
    candidates: tuple[Choice, ...]
    more: int
    kinds: tuple[tuple[str, tuple[Choice, ...]], ...]
    nobody: tuple[Choice, ...]


@dataclass(frozen=True)
class IncidentView:
    """The page of an incident."""

    id: str
    title: str
    system: str
    base: str
    looker: str
    state: str
    stage: Stage
    revision: int
    news: tuple[str, ...]
    verdict: Verdict
    window: str
    alerting: str
    alerts: tuple[AlertRow, ...]
    more_alerts: int
    links: tuple[Link, ...]
    path: tuple[str, ...]
    path_words: str
    way: str
    candidates: tuple[Candidate, ...]
    others: tuple[tuple[str, str], ...]
    more_candidates: int
    otherwise: tuple[str, ...]
    charts: tuple[Chart, ...]
    map: ServiceMap | None
    around: tuple[Beside, ...]
    timeline: Timeline
    similar: tuple[Similar, ...]
    missing: tuple[str, ...]
    more_missing: int
    labels: tuple[LabelRow, ...]
    history: tuple[tuple[str, str, str], ...]
    versions: tuple[tuple[str, str], ...]
    forms: Forms | None
    said: str
    problem: str

    @property
    def path_to(self) -> str:
        """Address of this page."""
        return f"{self.base}/incidents/{self.id}"


# --- the scene ----------------------------------------------------------------------------------------------------------


def cause_of(report: TriageReport | None) -> EntityId | None:
    """The first candidate, where anything stands out."""
    return report.leader if report is not None else None


def scene_of(incident: Incident, case: Case, report: TriageReport | None) -> Scene:
    """What the telemetry shows. `case` is rca.pipeline.case_of the incident, for the window that the report is about."""
    ranking = report.ranking if report is not None else Ranking("", case.window.incident, ())
    cause = cause_of(report)
    evidence = ranking.candidates[0].evidence if cause is not None else ()
    path = report.path.entities if report is not None and report.path is not None else ()
    alerting = [entity.entity() for entity in incident.alerting]
    return Scene(
        charts=charts_of(case, cause, evidence, incident.detected_ns) if cause is not None else (),
        map=map_of(case, ranking, cause, path, alerting),
        happened=recorded_entries(case, cause),
        recorded=_recorded(case),
    )


def _recorded(case: Case) -> str:
    """How much telemetry the answer rests on."""
    window = case.window
    spans = window.bins.counts.filter(pl.col("what") == "span")
    sums = [
        (int(spans["count"].sum()), "span"),
        (window.metrics.height, "sample"),
        (int(window.logs["count"].sum()), "log line"),
        (window.events.height, "event"),
        (window.alerts.height, "alert"),
    ]
    told = ", ".join(count(n, noun) for n, noun in sums if n)
    inside = [spans["bin_ns"], *(frame["time_unix_nano"] for frame in (window.metrics, window.logs))]
    newest = max((int(times.max()) for times in inside if len(times) and times.max() is not None), default=None)  # type: ignore[arg-type]
    return f"{told}; the newest from {clock(newest)}" if newest is not None and told else told or "none"


# --- the view -----------------------------------------------------------------------------------------------------------


def view_of(
    incident: Incident,
    notice: Notice | None,
    scene: Scene | None,
    *,
    similar: Sequence[Similar] = (),
    audit: Sequence[AuditEntry] = (),
    looker: Looker = ANYBODY,
    versions: Sequence[tuple[str, str]] = (),
    said: str = "",
    problem: str = "",
) -> IncidentView:
    """The page of an incident as values.

    `notice` is what was told last of it, None while its first ranking is being made; `scene` is None
    where there is no telemetry to read. `versions` are further rows of what made the answer; `said` and `problem` tell somebody
    who has just used a form how that went.
    """
    report = notice.report if notice is not None else None
    cause = cause_of(report)
    candidates = report.ranking.candidates if report is not None else ()
    window = incident.window.interval() if report is None else report.ranking.window
    alerts = tuple(notice.alerts) if notice is not None else ()
    state = notice.state if notice is not None else "firing"
    missing = [*report.missing, *report.ranking.notes] if report is not None else []
    path = report.path if report is not None else None
    return IncidentView(
        id=incident.id,
        title=plain((notice.title if notice is not None else "") or incident.title or incident.id, 160),
        system=plain(incident.system, NAME),
        base=looker.base,
        looker=plain(looker.name, NAME),
        state=state,
        stage="ranking" if notice is None else "unranked" if report is None else "ranked",
        revision=notice.revision if notice is not None else 0,
        news=tuple(plain(news) for news in notice.news[:_MOST_SENTENCES]) if notice is not None else (),
        verdict=verdict_of(notice),
        window=_window(window.start_ns, window.end_ns),
        alerting=listed([name_of(entity.entity()) for entity in incident.alerting], 4),
        alerts=tuple(_alert(alert) for alert in alerts[:MOST_ALERTS]),
        more_alerts=max(len(alerts) - MOST_ALERTS, 0) + (notice.more_alerts if notice is not None else 0),
        links=_links(incident, notice),
        path=tuple(name_of(entity) for entity in path.entities) if path is not None else (),
        path_words=plain(path.words) if path is not None else "",
        way=PATH_TITLES[path.noticed_by if path is not None else "unknown"],
        candidates=tuple(_candidate(candidate) for candidate in candidates[:MOST_EXPLAINED]),
        others=tuple((name_of(c.entity), probability(c.probability)) for c in candidates[MOST_EXPLAINED:_MOST_SHOWN]),
        more_candidates=max(len(candidates) - _MOST_SHOWN, 0),
        otherwise=others_of(report.ranking) if report is not None else (),
        charts=scene.charts if scene is not None else (),
        map=scene.map if scene is not None else None,
        around=_around(report.map) if report is not None and report.map is not None else (),
        timeline=timeline_of(incident, alerts, scene.happened if scene is not None else (), cause, resolved=state == "resolved"),
        similar=tuple(similar),
        missing=tuple(plain(words) for words in missing[:_MOST_SENTENCES]),
        more_missing=max(len(missing) - _MOST_SENTENCES, 0),
        labels=tuple(_label(label, may_change=looker.role == "label") for label in incident.labels),
        history=tuple((clock(x.at_ns, date=True), plain(x.who, NAME), plain(x.action, NAME)) for x in audit[-_MOST_SENTENCES:]),
        versions=(*_versions(incident, notice, scene), *((plain(name, NAME), plain(words)) for name, words in versions)),
        forms=_forms(incident, looker, cause, candidates) if looker.role == "label" else None,
        said=plain(said),
        problem=plain(problem),
    )


def verdict_of(notice: Notice | None) -> Verdict:
    """The answer for somebody who has just been woken: what, how sure, and the one strongest reason."""
    if notice is None:
        sentence = "Telemetry of that time is being collected and ranked, which usually takes a few seconds."
        return Verdict("pending", "Not yet known", "The ranking is being made", 0, "", sentence)
    report = notice.report
    if report is None:
        why = plain(notice.trouble) or "The reason was not recorded."
        return Verdict("failed", "Not known", "No ranking could be made", 0, "", why)
    steps, certainty = LEVELS[report.confidence.level]
    sentence = plain(report.confidence.words)
    if report.confidence.level == "nothing" or not report.ranking.candidates:
        short = report.confidence.outcome == "not_enough_telemetry" or not report.ranking.candidates
        heading = "Not enough telemetry" if short else "Nothing stands out"
        return Verdict("nothing", "No likely cause", heading, 0, "", sentence)
    first = report.ranking.candidates[0]
    strongest = plain(first.evidence[0].statement) if first.evidence else ""
    family = FAMILY_WORDS.get(first.fault_family, "")
    name = name_of(first.entity)
    if report.confidence.outcome == "no_fault":
        return Verdict("unsure", "Most likely", "No fault at all", steps, certainty, sentence, strongest, "")
    if report.confidence.outcome == "outside":
        return Verdict("unsure", "No likely cause", "Telemetry points at nobody", steps, certainty, sentence, strongest, "")
    if report.confidence.level == "close" and len(report.ranking.candidates) > 1:
        both = f"{name} or {name_of(report.ranking.candidates[1].entity)}"
        return Verdict("close", "Likely cause, one of two", both, steps, certainty, sentence, strongest, family)
    eyebrow = "Likely cause" if report.confidence.level in ("clear", "likely") else "Perhaps the cause"
    return Verdict(report.confidence.level, eyebrow, name, steps, certainty, sentence, strongest, family)


def _window(start_ns: int, end_ns: int) -> str:
    day, end = clock(start_ns, date=True), clock(end_ns, date=True)
    return f"{day} to {end if end[:10] != day[:10] else end[11:]} UTC, {seconds((end_ns - start_ns) / 1e9)}"


def _alert(alert: AlertLine) -> AlertRow:
    since, ended = moment(alert.starts_ns), moment(alert.ends_ns)
    return AlertRow(
        plain(alert.name, NAME),
        plain(alert.severity, 24),
        plain(shown_text(alert.entity), NAME),
        plain(alert.summary, 200),
        clock(since) if since is not None else "",
        clock(ended) if ended is not None else "",
    )


def _links(incident: Incident, notice: Notice | None) -> tuple[Link, ...]:
    given: list[tuple[str, str, str]] = []
    if notice is not None:
        told = notice.links
        for kind, links in (("Runbook", told.runbooks), ("Dashboard", told.dashboards), ("Trace", told.traces)):
            given += [(kind, words, url) for words, url in links]
    given += [("Link", url, url) for url in incident.links]
    return tuple(Link(kind, plain(words, 80), address(url)) for kind, words, url in given[:_MOST_SENTENCES])


def _candidate(candidate: RankedCandidate) -> Candidate:
    traces = dict.fromkeys(trace for item in candidate.evidence for trace in item.trace_ids)
    return Candidate(
        candidate.rank,
        name_of(candidate.entity),
        probability(candidate.probability),
        round(100 * candidate.probability),
        FAMILY_WORDS.get(candidate.fault_family, ""),
        tuple(EvidenceLine(plain(item.statement), number(abs(item.deviation))) for item in candidate.evidence),
        tuple(plain(trace, 40) for trace in traces)[:_MOST_TRACES],
    )


def _around(around: Map) -> tuple[Beside, ...]:
    """Callers, callees, pods and nodes of the cause, in words: the map for who cannot see the drawing, or sees little of it."""
    rows = []
    for what, side in (("Called by", around.callers), ("Calls", around.callees)):
        entities = tuple((name_of(one.entity), one.health, _signal_title(one.signal)) for one in side.neighbours)
        more = f"and {side.cut} more, {side.cut_disturbed} of them disturbed" if side.cut else ""
        rows.append(Beside(what, entities, more))
    places = [plain(place.name, NAME) for place in (*around.pods, *around.nodes)]
    return (*rows, Beside("Runs on", (), listed(places, 6))) if places else tuple(rows)


def _signal_title(signal: str) -> str:
    return NODE_SIGNALS[NODE_COLUMN[signal]].title if signal in NODE_COLUMN else ""


def _label(label: Label, *, may_change: bool) -> LabelRow:
    kind = FAULT_KINDS.get(label.fault_kind)
    entity = label.entity.entity() if label.entity is not None else None
    return LabelRow(
        cause=name_of(entity) if entity is not None else "nobody: no fault",
        fault=kind.title if kind is not None else plain(label.fault_kind, NAME),
        provenance=label.provenance,
        author=plain(label.author, NAME),
        when=clock(label.at_ns, date=True)[:16] if label.at_ns is not None else "",
        note=plain(label.note),
        value=(value_of(entity) if entity is not None else "") if may_change and label.provenance == "confirmed" else None,
    )


def _versions(incident: Incident, notice: Notice | None, scene: Scene | None) -> tuple[tuple[str, str], ...]:
    report = notice.report if notice is not None else None
    baselines = [f"{_window(b.start_ns, b.end_ns)} ({b.provenance})" for b in incident.baselines]
    rows = [
        ("Ranked by", plain(report.ranking.ranker, NAME) if report is not None else ""),
        ("Model", plain(notice.model, 120) if notice is not None else ""),
        ("rca", rca.__version__),
        ("Telemetry", scene.recorded if scene is not None else "none that can be read"),
        ("Baseline", listed(baselines, 3) or "none"),
        ("Recorded by", plain(incident.source, NAME)),
        ("Format of incident", incident.schema_version),
    ]
    return tuple((name, words) for name, words in rows if words)


def _forms(incident: Incident, looker: Looker, cause: EntityId | None, candidates: Sequence[RankedCandidate]) -> Forms:
    known = [candidate.entity for candidate in candidates] or [entity.entity() for entity in incident.alerting]
    choices = [choice for choice in map(_choice, known) if choice is not None]
    likely = candidates[0].fault_family if candidates else ""
    families = sorted(FAMILIES, key=lambda family: family != likely)
    kinds = []
    for family in families:
        of_family = [kind for kind in FAULT_KINDS.values() if family_of(kind.name) == family and kind.name != "unknown"]
        words = FAMILY_WORDS[family]
        kinds.append((words[:1].upper() + words[1:], tuple(Choice(kind.name, kind.title) for kind in of_family)))
    return Forms(
        action=f"{looker.base}/incidents/{incident.id}/judgement",
        csrf=looker.csrf,
        confirm=_choice(cause) if cause is not None else None,
        candidates=tuple(choices[:MOST_CHOICES]),
        more=max(len(choices) - MOST_CHOICES, 0),
        kinds=tuple(kinds),
        nobody=tuple(Choice(kind.name, kind.title) for kind in FAULT_KINDS.values() if is_no_fault(kind.name)),
    )


def _choice(entity: EntityId) -> Choice | None:
    value = value_of(entity)
    return Choice(value, name_of(entity)) if value is not None and entity.kind in CANDIDATE_KINDS else None
