"""From an episode and its report to what is told: links, news, and what lists keep of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from rca.incidents.inbox import Episode, GroupAlert
from rca.report import Confidence, TriageReport
from rca.serve.config import ServeConfig, ServeLinks
from rca.serve.notices import MOST_ALERTS, gist_of, links_of, notice_of, worth_telling
from rca.sinks.example import example_notices, hostile_notice, unranked_notice
from rca.sinks.notice import dumped, loaded
from rca.telemetry import SECOND_NS

T0 = 1_768_471_800 * SECOND_NS
FIRST, REVISED, RESOLVED = example_notices()
SETTINGS = ServeConfig(
    external_url="https://rca.example/",
    links=ServeLinks(
        trace="https://tempo.example/trace/{trace_id}",
        dashboard="https://grafana.example/d/svc?var-service={name}",
        runbook="https://wiki.example/{alert}",
    ),
)


def report() -> TriageReport:
    assert FIRST.report is not None
    return FIRST.report


def episode(**more: object) -> Episode:
    values = {"revision": 0, "closed_ns": None, "alerts": 1, "truncated": 0, **more}
    return Episode(
        number=1, incident_id="shop-1", group_key="g", opened_ns=T0, heard_ns=T0, firing=1, about={}, title="slow", task="answer",
        due_ns=T0, bundle=None, **values,
    )  # type: ignore[arg-type]  # fmt: skip


def alert(name: str = "HighLatency", *links: tuple[str, str]) -> GroupAlert:
    return GroupAlert("a", "firing", T0, labels={"alertname": name}, links=links)


def test_links_lead_to_the_page_traces_dashboards_and_runbooks() -> None:
    own = alert("High/Latency & more", ("runbook", "https://own.example/run"), ("dashboard", "https://own.example/d"))
    links = links_of("shop-1", [own], report(), SETTINGS)
    assert links.page == "https://rca.example/incidents/shop-1"
    trace = report().ranking.candidates[0].evidence[1].trace_ids[0]
    assert links.traces == (("catalogue: self_time", f"https://tempo.example/trace/{trace}"),)
    assert links.dashboards == (
        ("dashboard of catalogue", "https://grafana.example/d/svc?var-service=catalogue"),
        ("dashboard", "https://own.example/d"),
    )
    assert links.runbooks == (
        ("runbook", "https://own.example/run"),
        ("runbook of High/Latency & more", "https://wiki.example/High%2FLatency%20%26%20more"),
    )


def test_nothing_is_linked_to_that_is_not_set_or_not_known() -> None:
    bare = links_of("shop-1", [alert()], report(), ServeConfig())
    assert (bare.traces, bare.dashboards, bare.runbooks) == ((), (), ())
    assert bare.page == "http://127.0.0.1:9095/incidents/shop-1"
    unranked = links_of("shop-1", [alert()], None, SETTINGS)
    assert (unranked.traces, unranked.dashboards) == ((), ())
    many = links_of("shop-1", [alert(f"a{i}", ("runbook", f"https://own.example/{i % 3}")) for i in range(40)], None, SETTINGS)
    assert [url for _, url in many.runbooks] == [
        *(f"https://own.example/{i}" for i in range(3)),
        *(f"https://wiki.example/a{i}" for i in range(2)),
    ]


def test_alerts_are_named_up_to_a_number_and_all_of_them_counted() -> None:
    alerts = [alert(f"a{i}") for i in range(MOST_ALERTS + 7)]
    told = notice_of(episode(alerts=len(alerts) + 3, truncated=2), alerts, SETTINGS, None, before=None, trouble="down")
    assert (len(told.alerts), told.more_alerts, told.revision, told.trouble) == (MOST_ALERTS, 7 + 3 + 2, 1, "down")


def test_news_say_what_changed_since_the_last_revision() -> None:
    def news(now: Episode, found: TriageReport | None, before: object) -> tuple[str, ...]:
        return notice_of(now, [], SETTINGS, found, before=before).news  # type: ignore[arg-type]

    assert news(episode(), report(), None) == ()
    assert news(episode(revision=1), report(), unranked_notice())[0] == "there is a ranking now"
    over = episode(revision=1, closed_ns=T0 + 300 * SECOND_NS)
    assert news(over, report(), replace(FIRST, report=report())) == (
        "every alert of the group is resolved, 5 min after the first one arrived",
    )
    assert not any("resolved" in words for words in news(over, report(), RESOLVED)), "it was said before"
    assert "fire again" in news(episode(revision=3), report(), RESOLVED)[0]


def test_only_another_leader_or_outcome_or_a_first_ranking_is_worth_a_revision() -> None:
    assert worth_telling(unranked_notice(), report())
    assert not worth_telling(FIRST, report())
    ranking = report().ranking
    swapped = (replace(ranking.candidates[1], rank=1), replace(ranking.candidates[0], rank=2), *ranking.candidates[2:])
    assert worth_telling(FIRST, replace(report(), ranking=replace(ranking, candidates=swapped)))
    assert worth_telling(FIRST, replace(report(), confidence=Confidence("unsure", "Perhaps no fault at all.", "no_fault")))


def test_a_notice_reads_back_equal() -> None:
    for notice in (*example_notices(), unranked_notice(), hostile_notice()):
        assert loaded(dumped(notice)) == notice


@pytest.mark.parametrize(
    ("no_fault", "level", "outcome"),
    [(0.01, "clear", "cause"), (0.99, "unsure", "no_fault"), (0.01, "nothing", "no_fault")],
)
def test_a_notice_from_before_reports_had_an_outcome_says_what_it_said(no_fault: float, level: str, outcome: str) -> None:
    body = json.loads(dumped(FIRST))
    body["report"]["confidence"] = {"level": level, "words": "as it was"}
    body["report"]["ranking"]["no_fault"] = no_fault
    for name in ("outside", "likely", "unlike"):
        del body["report"]["ranking"][name]
    read = loaded(json.dumps(body)).report
    assert read is not None
    assert (read.confidence.words, read.confidence.outcome, read.ranking.likely) == ("as it was", outcome, None)
    body["report"]["ranking"]["candidates"] = []
    read = loaded(json.dumps(body)).report
    assert read is not None
    assert read.confidence.outcome == "not_enough_telemetry"


def test_lists_keep_who_was_blamed_and_how_surely() -> None:
    gist = gist_of(FIRST)
    assert gist["level"] == report().confidence.level
    assert (gist["candidates"][0]["name"], gist["signals"][:2]) == (
        "catalogue",
        ["cpu", "self_time"],
    )
    nothing = replace(report(), confidence=replace(report().confidence, level="nothing"))
    assert (gist_of(replace(FIRST, report=nothing))["candidates"], gist_of(unranked_notice())["candidates"]) == ([], [])
