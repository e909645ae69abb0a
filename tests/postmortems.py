"""A home with an incident as `rca serve` leaves it: its telemetry in the store, alerts, two revisions, messages, a label."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from rca.incidents.example import example_incident
from rca.incidents.inbox import AlertGroup, GroupAlert, InboxFile
from rca.incidents.incident import EntityModel, Incident, IntervalModel, Label
from rca.incidents.store import IncidentStore
from rca.models import registry
from rca.pipeline import report_on
from rca.report import TriageReport
from rca.serve.notices import gist_of
from rca.sinks.notice import Notice, dumped
from rca.telemetry import SECOND_NS, Telemetry

AUTHOR, SUMMARY, CHANNEL = "anna", "frontend is slow <b>for many</b>", "slack-oncall"


def heard(home: Path, *, label: bool = True, telemetry: bool = True) -> str:
    """The id of an incident that rca serve heard of, answered wrongly, then rightly, and that is over."""
    incident, recorded = example_incident(3, "exception", "payment", requests_per_second=2.0)
    incident = incident.model_copy(update={"labels": (), "onset_ns": None, "title": "SlowRequests"})
    report = report_on(incident, recorded, registry.create("floor"))
    began = incident.detected_ns or incident.window.start_ns
    labels = {"alertname": "SlowRequests", "service": "frontend", "severity": "critical"}
    alert = GroupAlert("a", "firing", began, None, labels, {"summary": SUMMARY})
    inbox = InboxFile(home)
    try:
        with inbox.writing():
            receipt = inbox.take(AlertGroup("g", "rca", (alert,)), began + 2 * SECOND_NS, incident.system)
        assert receipt.incident_id is not None
        episode = inbox.episode(receipt.incident_id)
        answer(inbox, episode.number, Notice(**told(receipt.incident_id, 1), report=wrong(report)), began + 5 * SECOND_NS)
        answer(inbox, episode.number, Notice(**told(receipt.incident_id, 2), report=report), began + 65 * SECOND_NS)
        over = replace(alert, status="resolved", ends_ns=began + 300 * SECOND_NS)
        with inbox.writing():
            inbox.take(AlertGroup("g", "rca", (over,)), began + 301 * SECOND_NS, incident.system)
            if telemetry:
                inbox.keeps(episode.number, receipt.incident_id)
    finally:
        inbox.close()
    if telemetry:
        kept(home, incident.model_copy(update={"id": receipt.incident_id}), recorded, label=label)
    return receipt.incident_id


def told(incident_id: str, revision: int) -> dict[str, object]:
    return {"incident_id": incident_id, "group_key": "g", "revision": revision, "state": "firing", "title": "t", "model": "floor"}


def wrong(report: TriageReport) -> TriageReport:
    """The report with its first two candidates exchanged."""
    first, second, *rest = report.ranking.candidates
    swapped = (replace(second, rank=1, score=first.score + 1), replace(first, rank=2), *rest)
    return replace(report, ranking=replace(report.ranking, candidates=swapped))


def answer(inbox: InboxFile, number: int, notice: Notice, at_ns: int) -> None:
    """Store an answer and deliver it: the first to one of two channels, the second to none."""
    with inbox.writing():
        body, gist = dumped(notice), json.dumps(gist_of(notice))
        inbox.answered(number, notice.revision, notice.state, gist, body, (CHANNEL, "pager"), at_ns, task=None, due_ns=None)
        for delivery in inbox.deliveries_due(CHANNEL, at_ns, 1):
            inbox.delivered(delivery, at_ns + SECOND_NS, "1")
        for delivery in inbox.deliveries_due("pager", at_ns, 1):
            inbox.failed(delivery, "404 from https://secret.example/hook", None)


def kept(home: Path, incident: Incident, recorded: Telemetry, *, label: bool) -> None:
    """The incident in the store, beside an earlier one of the same cause."""
    cause = Label(
        entity=EntityModel(name="payment"), fault_kind="exception", provenance="confirmed", author=AUTHOR, note="their words"
    )
    day = 86400 * SECOND_NS
    window = IntervalModel(start_ns=incident.window.start_ns - day, end_ns=incident.window.end_ns - day)
    before = {"id": "earlier", "window": window, "baselines": (), "labels": (cause,), "detected_ns": None}
    with IncidentStore(home, who=AUTHOR) as store:
        store.add(incident, recorded)
        store.add(incident.model_copy(update=before), Telemetry())
        if label:
            store.label(incident.id, cause)
