"""Gathers what a postmortem is written from: a bundle or the store, the inbox of `rca serve`, and a ranking made now."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Final

from rca.cleaning import cleaned
from rca.collectors.alert_labels import entity_of
from rca.contracts import Case, Ranker
from rca.drawing.similar import NO_GIST, Gist
from rca.errors import UnknownName
from rca.incidents.bundle import read_bundle, read_manifest
from rca.incidents.inbox import INBOX_FILE, GroupAlert, InboxFile, StoredNotice
from rca.incidents.incident import Incident
from rca.incidents.store import DATABASE_FILE, IncidentStore
from rca.pipeline import case_of, subject_of
from rca.postmortem.account import Account, Answer, Fired, Message, Objective, Origin, Record
from rca.postmortem.impact import impact_of
from rca.postmortem.rates import impact_of_rates
from rca.postmortem.redacting import without_names
from rca.ranking import Ranking
from rca.report import TriageReport, is_empty, report_of
from rca.sinks.notice import loaded
from rca.telemetry import BIN_FRAMES, Interval, Telemetry, time_column
from rca.window import Window, cut

_TOP: Final = 5
_MOST_ALERTS: Final = 1000
_MOST_PAST: Final = 2000


def account_of(
    text: str,
    home: Path,
    ranker: Ranker,
    *,
    made_by: str = "",
    store: str = "",
    objective: Objective | None = None,
    redact: bool = False,
) -> Account:
    """What is known of a bundle (a path that exists), or of an id in the store or in the inbox of `rca serve`.

    With `redact`, names are replaced as `rca incidents export --redact` does, and what people wrote is left out. Raises
    UnknownName; BadBundle or BadTelemetry for a bundle that is damaged.
    """
    found = _found(text, home)
    if redact:
        found = without_names(found)
    case, report = _ranked(found.incident, found.telemetry, ranker)
    return Account(
        **{field.name: getattr(found, field.name) for field in fields(found)},
        case=case,
        report=report,
        impact=impact_of(case, _longer(found.incident, found.telemetry, case)) or impact_of_rates(case),
        made_by="" if redact else made_by,  # folders are names too
        store="" if redact else store,
        objective=objective,
        redacted=redact,
    )


def _found(text: str, home: Path) -> Record:
    """What was written down, in whichever place it is. Raises UnknownName."""
    path = Path(text)
    if path.exists():
        incident, telemetry = read_bundle(path)
        origin = Origin("bundle", text, read_manifest(path).frames)
        return Record(incident=incident, telemetry=telemetry, origin=origin, past=_past(home))
    if "/" in text or text.endswith(".tar.zst"):
        raise UnknownName("bundle", text, map(str, path.parent.iterdir()) if path.parent.is_dir() else ())
    heard = _heard(home, text)
    stored = _stored(home, heard.origin.name if heard is not None else text)
    if stored is None:
        if heard is None:
            raise UnknownName("bundle, or id of an incident in the store", text, _ids(home))
        return replace(heard, past=_past(home))
    if heard is None:
        return replace(stored, past=_past(home))
    incident = stored.incident.model_copy(update={"id": heard.incident.id, "title": heard.incident.title})
    return replace(
        heard, incident=incident, telemetry=stored.telemetry, origin=stored.origin, audit=stored.audit, past=_past(home)
    )


def _stored(home: Path, incident_id: str) -> Record | None:
    """What the store has; None where it has no such incident."""
    if not (home / DATABASE_FILE).exists():  # looking something up should not make a store
        return None
    with IncidentStore(home) as store:
        if incident_id not in {incident.id for incident in store.list()}:
            return None
        incident, telemetry = store.get(incident_id)
        origin = Origin("store", incident_id, store.manifest(incident_id).frames)
        return Record(incident=incident, telemetry=telemetry, origin=origin, audit=store.audit(incident_id))


def _ids(home: Path) -> list[str]:
    known = [incident.id for incident, _ in _past(home)]
    with _inbox(home) as inbox:
        return [*known, *(episode.incident_id for episode in inbox.episodes(most=_MOST_PAST))] if inbox else known


@contextmanager
def _inbox(home: Path) -> Iterator[InboxFile | None]:
    """The inbox of a home; None where there is none."""
    if not (home / INBOX_FILE).exists():
        yield None
        return
    inbox = InboxFile(home)
    try:
        yield inbox
    finally:
        inbox.close()


def _ranked(incident: Incident, telemetry: Telemetry, ranker: Ranker) -> tuple[Case, TriageReport]:
    case = case_of(incident, telemetry)
    ranking = Ranking(ranker.name, case.window.incident, ()) if is_empty(case.window) else ranker.rank(case)
    return case, report_of(subject_of(incident, case), case, ranking, top=_TOP)


def _longer(incident: Incident, telemetry: Telemetry, case: Case) -> Window | None:
    """The window with what spans there are behind its end; None where there are none."""
    names = ("spans", BIN_FRAMES[0])
    times = [telemetry.frames()[name][time_column(name)].max() for name in names]
    last = max((time for time in times if isinstance(time, int)), default=0)
    window = case.window.incident
    if last < window.end_ns:
        return None
    empty = {name: frame.clear() for name, frame in telemetry.frames().items() if name != "spans" and name not in BIN_FRAMES}
    baselines = [baseline.baseline() for baseline in incident.baselines]
    return cut(cleaned(replace(telemetry, gaps=(), **empty)), Interval(window.start_ns, last + 1), baselines)


# --- the inbox ----------------------------------------------------------------------------------------------------------


def _heard(home: Path, incident_id: str) -> Record | None:
    """What `rca serve` heard and said of an incident, without telemetry; None where it knows of none."""
    with _inbox(home) as inbox:
        if inbox is None:
            return None
        try:
            episode = inbox.episode(incident_id)
        except UnknownName:
            return None
        messages: dict[int, list[Message]] = {}
        for delivery in inbox.deliveries(episode.number):
            message = Message(delivery.sink, delivery.sent_ns, delivery.tries, delivery.trouble)
            messages.setdefault(delivery.revision, []).append(message)
        revisions = [notice.revision for notice in inbox.notices(episode.number)]
        return Record(
            incident=episode.incident(None),
            telemetry=Telemetry(),
            origin=Origin("inbox", episode.bundle or incident_id),
            answers=tuple(_answer(inbox.notice(episode.number, n), tuple(messages.get(n, ()))) for n in revisions),
            alerts=tuple(map(_fired, inbox.alerts(episode.number, _MOST_ALERTS))),
            heard_ns=episode.opened_ns,
            closed_ns=episode.closed_ns,
        )


def _answer(stored: StoredNotice, messages: tuple[Message, ...]) -> Answer:
    notice = loaded(stored.body)
    report = notice.report
    return Answer(
        revision=stored.revision,
        at_ns=stored.at_ns,
        state=stored.state,
        leader=report.leader if report else None,
        ranking=report.ranking if report else None,
        words=report.confidence.words if report else "",
        trouble=notice.trouble,
        model=notice.model,
        messages=messages,
    )


def _fired(alert: GroupAlert) -> Fired:
    summary = alert.annotations.get("summary") or alert.annotations.get("description") or ""
    name, severity = alert.labels.get("alertname", ""), alert.labels.get("severity", "")
    return Fired(name, severity, entity_of(alert.labels), summary, alert.starts_ns, alert.ends_ns)


def _past(home: Path) -> tuple[tuple[Incident, Gist], ...]:
    """Every incident of the store, with what `rca serve` answered where it did."""
    if not (home / DATABASE_FILE).exists():
        return ()
    with IncidentStore(home) as store:
        incidents = store.list()
    with _inbox(home) as inbox:
        latest = inbox.latest_notices(most=_MOST_PAST) if inbox else ()
    gists = {notice.incident_id: Gist.of(notice.gist) for _, notice in latest}
    return tuple((incident, gists.get(incident.id, NO_GIST)) for incident in incidents)
