"""A redacted notice names nobody, in any channel, and everybody by the same pseudonym."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from rca.errors import BadInput
from rca.report import Subject, report_of
from rca.sinks.alertmanager.alert import alert_of
from rca.sinks.alertmanager.config import AlertmanagerConfig
from rca.sinks.apprise.body import Limits, title_and_body
from rca.sinks.destinations import sinks_of
from rca.sinks.example import example_notices, hostile_notice, unranked_notice
from rca.sinks.notice import AlertLine, Links, Notice
from rca.sinks.pagerduty.config import PagerDutyConfig
from rca.sinks.pagerduty.event import event_of
from rca.sinks.redaction import kept_key, redacted
from rca.sinks.slack.blocks import slack_message
from rca.sinks.webhook.payload import payload_of
from rca.telemetry import EntityId, Gap
from tests.cases import example_case
from tests.servers.receivers import receiving

KEY = b"k" * 32
FIRST, REVISED, _ = example_notices()


def _everywhere(notice: Notice) -> str:
    """All that any channel sends of a notice."""
    parts = [
        slack_message(notice)[0],
        event_of(notice, PagerDutyConfig(routing_key_file=Path("k")))[0],
        alert_of(notice, AlertmanagerConfig(url="http://a"), 10**18)[0],
        *(title_and_body(notice, Limits(100, 10**6, each)) for each in ("text", "markdown", "html")),
        payload_of(notice, 2**22)[0].decode(),
    ]
    return json.dumps(parts, ensure_ascii=False)


def _names(notice: Notice) -> set[str]:
    """Every name that the report knows."""
    text = json.dumps(notice.report.to_json() if notice.report else {})
    return set(re.findall(r'"(?:name|namespace|system)": "([^"]+)"', text))


@pytest.mark.parametrize("notice", [FIRST, REVISED, unranked_notice()])
def test_nothing_leaks(notice: Notice) -> None:
    sent = _everywhere(redacted(notice, KEY))
    for name in (
        *_names(notice),
        "catalogue",
        "checkout",
        "HighLatency",
        "ListProducts",
        "prometheus:9090",
        "grafana",
        "wiki",
        "p99 of",
    ):
        assert name not in sent.replace("docs/notifications", ""), name
    assert notice.links.page in sent


def test_a_computed_report_leaks_nothing_either() -> None:
    """The report of a real case, with every free text that one can hold."""
    from rca.models.rules.floor import Floor

    case = example_case("cpu_contention", "catalogue").case
    ranking = Floor().rank(case)
    gap = Gap("tempo", "http://tempo.corp.internal:3200: connection refused", None)
    subject = Subject(
        "i1", "catalogue is slow", "corp-shop", case.window.incident, None, (EntityId("service", "frontend"),), ("http://corp/",)
    )
    report = report_of(
        subject, case, replace(ranking, gaps=(gap,), notes=("corp-note",)), top=3, why_not=ranking.candidates[1].entity
    )
    report = replace(
        report, missing=(*report.missing, "tempo: http://tempo.corp.internal:3200: connection refused", "no spans at all")
    )
    notice = replace(
        FIRST,
        report=report,
        title="catalogue@corp",
        alerts=(AlertLine("CorpCatalogueSlow", "corp-severity", "service catalogue", "corp summary", 1),),
        links=Links("https://rca.example/i/1", dashboards=(("corp", "https://corp.example/"),)),
        news=("corp-news",),
    )
    sent = _everywhere(redacted(notice, KEY))
    nobody = replace(notice, report=replace(report, confidence=replace(report.confidence, outcome="no_fault")))
    assert json.loads(payload_of(redacted(nobody, KEY), 2**22)[0])["report"]["confidence"]["outcome"] == "no_fault"
    names = {entity.name for entity in case.graph.entities} | {entity.namespace for entity in case.graph.entities} - {""}
    for name in (*names, "corp", "Corp", "ListProducts"):
        assert not re.search(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", sent), name
    assert "no spans at all" in sent
    assert "2 gaps in the telemetry, named on the page" in sent


def test_a_name_has_one_pseudonym_wherever_it_stands() -> None:
    hidden = redacted(FIRST, KEY)
    assert hidden.report is not None
    assert hidden.report.path is not None
    first = hidden.report.ranking.candidates[0].entity
    assert hidden.report.path.entities[-1] == first
    assert hidden.report.map is not None
    assert hidden.report.map.centre == first
    assert first.name in hidden.report.confidence.words
    assert hidden.alerts[0].entity == f"{hidden.report.path.entities[0].namespace}/{hidden.report.path.entities[0].name}"
    again = redacted(REVISED, KEY)
    assert again.report is not None
    assert again.report.ranking.candidates[0].entity == first
    other = redacted(FIRST, b"another key")
    assert other.report is not None
    assert other.report.ranking.candidates[0].entity != first


def test_numbers_stay() -> None:
    hidden = redacted(FIRST, KEY)
    assert hidden.report is not None
    statements = [evidence.statement for evidence in hidden.report.ranking.candidates[0].evidence]
    assert statements[:2] == ["CPU: 0.93 cores, baseline 0.11 cores", "self time: 91 ms, baseline 7.7 ms"]


def test_hostile_names_become_pseudonyms_too() -> None:
    sent = _everywhere(redacted(hostile_notice(), KEY))
    assert not re.search(r"<script|alert\(|channel|everyone|javascript", sent)


def test_a_key_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "home" / "pseudonyms.key"
    key = kept_key(path)
    assert len(key) == 64
    assert kept_key(path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("")
    with pytest.raises(BadInput, match="an empty file"):
        kept_key(path)


def test_the_setting_wraps_any_sink(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    with receiving() as receiver:
        tables = {"open": {"redact": False}, "closed": {"redact": True}}
        each = {"kind": "webhook", "url": receiver.url, "secret_file": str(secret)}
        for sink in sinks_of({name: each | table for name, table in tables.items()}, KEY):
            sink.send(FIRST, None)
    opened, closed = (request.body.decode() for request in receiver.requests)
    assert "catalogue" in opened
    assert "catalogue" not in closed
    assert json.loads(closed)["incident_id"] == FIRST.incident_id
