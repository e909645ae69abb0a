"""From an episode and what was found about it to the notice that goes out. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Final
from urllib.parse import quote

from rca.changes import changes
from rca.collectors.alert_labels import entity_of
from rca.incidents.inbox import Episode, GroupAlert
from rca.report import TriageReport
from rca.serve.config import ServeConfig, ServeLinks
from rca.sinks.notice import AlertLine, Links, Notice
from rca.telemetry import SECOND_NS, EntityId
from rca.wording import seconds

MOST_ALERTS: Final = 100
"""Alerts that a notice names; the others are counted."""
_MOST_LINKS: Final = 5
_TOP: Final = 5


def notice_of(
    episode: Episode,
    alerts: Sequence[GroupAlert],
    settings: ServeConfig,
    report: TriageReport | None,
    *,
    before: Notice | None,
    trouble: str = "",
    model: str = "",
) -> Notice:
    """The next revision of what is said about an episode. `alerts` are those to name, the most important first."""
    return Notice(
        incident_id=episode.incident_id,
        group_key=episode.group_key,
        revision=episode.revision + 1,
        state=episode.state,
        title=episode.title,
        report=report,
        trouble=trouble,
        alerts=tuple(alert_line(alert) for alert in alerts[:MOST_ALERTS]),
        more_alerts=episode.truncated + max(episode.alerts - min(len(alerts), MOST_ALERTS), 0),
        links=links_of(episode.incident_id, alerts, report, settings),
        model=model,
        news=tuple(_news(episode, before, report)),
    )


def leader(report: TriageReport | None) -> EntityId | None:
    """Who is blamed first; None where nobody is."""
    return report.leader if report is not None else None


def alert_line(alert: GroupAlert) -> AlertLine:
    """What is said about one alert."""
    entity = entity_of(alert.labels)
    return AlertLine(
        name=alert.labels.get("alertname", ""),
        severity=alert.labels.get("severity", ""),
        entity=str(entity) if entity else "",
        summary=alert.annotations.get("summary") or alert.annotations.get("description") or "",
        starts_ns=alert.starts_ns,
        ends_ns=alert.ends_ns,
        status=alert.status,
    )


def links_of(incident_id: str, alerts: Sequence[GroupAlert], report: TriageReport | None, settings: ServeConfig) -> Links:
    """The page of the incident, traces of the evidence, and the dashboards and runbooks that alerts and settings name."""
    own = [link for alert in alerts for link in alert.links]
    runbooks = [link for link in own if link[0] == "runbook"]
    dashboards = [link for link in own if link[0] != "runbook"]
    names = dict.fromkeys(alert.labels.get("alertname", "") for alert in alerts)
    runbooks += [(f"runbook of {name}", _filled(settings.links.runbook, "alert", name)) for name in names if name]
    blamed = leader(report)
    if blamed is not None:
        dashboards.insert(0, (f"dashboard of {blamed.name}", _filled(settings.links.dashboard, "name", blamed.name)))
    return Links(
        page=f"{settings.url()}/incidents/{incident_id}",
        traces=_few(_traces(report, settings.links)),
        dashboards=_few(dashboards),
        runbooks=_few(runbooks),
    )


def _filled(template: str, name: str, value: str) -> str:
    return template.replace(f"{{{name}}}", quote(value, safe=""))


def _few(links: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """The first ones, each address once."""
    known: dict[str, tuple[str, str]] = {}
    for words, url in links:
        if url:
            known.setdefault(url, (words, url))
    return tuple(known.values())[:_MOST_LINKS]


def _traces(report: TriageReport | None, links: ServeLinks) -> list[tuple[str, str]]:
    if report is None or not links.trace:
        return []
    found = [
        (f"{candidate.entity.name}: {evidence.signal}", trace_id)
        for candidate in report.ranking.candidates[:_TOP]
        for evidence in candidate.evidence
        for trace_id in evidence.trace_ids[:1]
    ]
    return [(words, _filled(links.trace, "trace_id", trace_id)) for words, trace_id in found]


def _news(episode: Episode, before: Notice | None, report: TriageReport | None) -> Iterator[str]:
    """What changed against the revision before."""
    if before is None:
        return
    if episode.closed_ns is not None and before.state == "firing":
        lasted = seconds((episode.closed_ns - episode.opened_ns) / SECOND_NS)
        yield f"every alert of the group is resolved, {lasted} after the first one arrived"
    if episode.closed_ns is None and before.state == "resolved":
        yield "the group was said to be resolved, and alerts of it fire again"
    if report is not None and before.report is None:
        yield "there is a ranking now"
    if report is not None and before.report is not None and report is not before.report:
        yield from changes(before.report.ranking, report.ranking, top=_TOP)


def worth_telling(before: Notice, report: TriageReport) -> bool:
    """Whether a second look found something that the first answer did not say: a ranking at all, another leader or outcome."""
    if before.report is None:
        return True
    said = (leader(before.report), before.report.confidence.outcome)
    return (leader(report), report.confidence.outcome) != said


def gist_of(notice: Notice) -> dict[str, Any]:
    """What lists show of an answer, as JSON values."""
    report = notice.report
    gist: dict[str, Any] = {"model": notice.model, "trouble": notice.trouble, "news": list(notice.news), "candidates": []}
    if report is None:
        return gist
    first = [
        {**asdict(c.entity), "probability": round(c.probability, 6), "family": c.fault_family}
        for c in report.ranking.candidates[:_TOP]
    ]
    signals = list(dict.fromkeys(item.signal for c in report.ranking.candidates[:1] for item in c.evidence))
    named = first if leader(report) is not None else []
    return {
        **gist,
        "level": report.confidence.level,
        "words": report.confidence.words,
        "outcome": report.confidence.outcome,
        "candidates": named,
        "signals": signals if named else [],
        "no_fault": round(report.ranking.no_fault, 6),
        "outside": round(report.ranking.outside, 6),
    }
