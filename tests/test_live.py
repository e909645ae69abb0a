"""Live incidents: every source is asked at once, what does not answer is a gap, and the onset is found."""

from __future__ import annotations

import importlib
import threading
import time
from dataclasses import replace
from typing import cast

import polars as pl
import pytest

from rca.bins import BIN_NS, frames_of
from rca.cli import live
from rca.collectors.alerts import Alert
from rca.collectors.config import Config, LiveSettings
from rca.collectors.gathering import Answer, gather, merged
from rca.collectors.live import Question, collect_incident, find_alert, question_about
from rca.collectors.sources import BUILT_IN, sources_of
from rca.errors import BadInput, Rejected, Unavailable, UnknownName
from rca.incidents.example import example_incident
from rca.models.rules.floor import Floor
from rca.pipeline import report_on
from rca.telemetry import (
    BIN_FRAMES,
    MINUTE_NS,
    SECOND_NS,
    UNTIMED_FRAMES,
    EntityId,
    Gap,
    Interval,
    Telemetry,
    time_column,
)
from rca.testing import check_collector
from tests.recorded import RecordedSource, failing
from tests.shop import T0, frame

RECORDED, TELEMETRY = example_incident(fault_kind="cpu_contention", culprit="payment", requests_per_second=4.0)
ONSET = RECORDED.window.start_ns
BASELINE_NS = ONSET - RECORDED.baselines[0].start_ns
BINNED = replace(TELEMETRY, spans=TELEMETRY.spans.clear(), **frames_of(TELEMETRY.spans))
SEARCH = Interval(ONSET - 2 * MINUTE_NS, RECORDED.window.end_ns)
CONFIG = Config(triage=LiveSettings.model_construct(baseline=BASELINE_NS - 2 * MINUTE_NS, deadline=5 * SECOND_NS))
STORE = ("bin_counts", "bin_durations", "bin_exemplars", "bin_placement", "logs")
PROMETHEUS, KUBERNETES = ("metrics", "alerts"), ("events", "topology")


def sources() -> list[RecordedSource]:
    return [
        RecordedSource("store", BINNED, STORE),
        RecordedSource("prometheus", TELEMETRY, PROMETHEUS),
        RecordedSource("kubernetes", TELEMETRY, KUBERNETES),
    ]


# --- gathering -------------------------------------------------------------------------------------------------------


def test_the_sources_of_these_tests_keep_the_contract() -> None:
    for source in sources()[:2]:
        check_collector(source, SEARCH.start_ns, SEARCH.end_ns)


def test_what_fails_is_a_gap_and_the_rest_is_there() -> None:
    refused, silent = failing("tempo", Rejected("HTTP 401: token expired")), failing("jaeger", Unavailable("no answer"))
    answers = gather([*sources(), refused, silent], SEARCH, 5 * SECOND_NS)
    assert [answer.source for answer in answers] == ["store", "prometheus", "kubernetes", "tempo", "jaeger"]
    telemetry = merged(answers)
    assert not telemetry.metrics.is_empty()
    assert telemetry.gaps == (Gap("tempo", "HTTP 401: token expired", SEARCH), Gap("jaeger", "no answer", SEARCH))


def test_nobody_waits_longer_than_the_deadline() -> None:
    slow = RecordedSource("prometheus", TELEMETRY, PROMETHEUS, released=threading.Event())
    start = time.monotonic()
    answers = gather([RecordedSource("store", BINNED, STORE), slow], SEARCH, SECOND_NS // 2)
    assert time.monotonic() - start < 3
    slow.released.set()  # type: ignore[union-attr]
    assert answers[0].error is None
    assert answers[1].telemetry.gaps == (Gap("prometheus", "no answer within 0.5 s", SEARCH),)


def test_a_mistake_in_a_collector_is_raised() -> None:
    broken = RecordedSource("broken", TELEMETRY, error=ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        gather([broken], SEARCH, SECOND_NS)


def test_a_series_that_two_sources_have_is_taken_from_the_one_with_more() -> None:
    def source(name: str, values: list[float], entity: str = "cart") -> Answer:
        rows = [
            {
                "time_unix_nano": T0 + i * SECOND_NS,
                "entity_kind": "service",
                "entity": entity,
                "metric": "process.load",
                "value": v,
            }
            for i, v in enumerate(values)
        ]
        return Answer(name, Telemetry(metrics=frame("metrics", rows)), 0.0)

    found = merged([source("store", [1.0]), source("prometheus", [2.0, 2.0]), source("prometheus", [5.0], "payment")])
    assert sorted(found.metrics.select("entity", "value").rows()) == [("cart", 2.0), ("cart", 2.0), ("payment", 5.0)]


def test_an_event_that_two_sources_saw_is_one() -> None:
    rows = [{"time_unix_nano": T0, "entity_kind": "pod", "entity": "cart-1", "reason": "OOMKilled", "message": "kept"}]
    again = [{**rows[0], "time_unix_nano": T0 + 5, "message": "listed"}, {**rows[0], "reason": "Killing"}]
    answers = [
        Answer(name, Telemetry(events=frame("events", each)), 0.0) for name, each in (("store", rows), ("kubernetes", again))
    ]
    assert merged(answers).events.select("reason", "message").rows() == [("OOMKilled", "kept"), ("Killing", "kept")]


# --- the question ----------------------------------------------------------------------------------------------------

NOW = T0 + 3 * 60 * MINUTE_NS + 3


def test_the_last_minutes_end_where_telemetry_is_complete() -> None:
    question = question_about(Config(), NOW, last_ns=15 * MINUTE_NS)
    end = (NOW - 30 * SECOND_NS) // BIN_NS * BIN_NS
    assert question == Question(Interval(end - 15 * MINUTE_NS, end))


def test_times_in_the_past_are_taken_as_they_are_in_whole_bins() -> None:
    question = question_about(Config(), NOW, start_ns=T0 + 7, end_ns=T0 + 10 * MINUTE_NS, onset_ns=T0 + 5 * MINUTE_NS)
    assert question == Question(Interval(T0, T0 + 10 * MINUTE_NS), T0 + 5 * MINUTE_NS)


def test_an_alert_is_searched_around() -> None:
    alert = Alert("HighLatency", NOW - 60 * MINUTE_NS)
    search = question_about(Config(), NOW, alert=alert).search
    assert search == Interval(
        (alert.start_ns - 10 * MINUTE_NS) // BIN_NS * BIN_NS, (alert.start_ns + 30 * MINUTE_NS) // BIN_NS * BIN_NS
    )


def test_an_alert_that_ended_at_once_is_looked_at_for_two_minutes() -> None:
    start = T0 + 30 * MINUTE_NS
    search = question_about(Config(), NOW, alert=Alert("Blip", start, end_ns=start + 10 * SECOND_NS)).search
    assert search.end_ns == start + 2 * MINUTE_NS
    longer = question_about(Config(), NOW, alert=Alert("Blip", start, end_ns=start + 5 * MINUTE_NS)).search
    assert longer.end_ns == start + 5 * MINUTE_NS


@pytest.mark.parametrize(
    "options", [{"start_ns": NOW - 20 * SECOND_NS}, {"start_ns": T0, "end_ns": T0}, {"start_ns": T0, "end_ns": T0 - 1}, {}]
)
def test_a_window_of_nothing_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(BadInput, match=r"at least 30 s that end 30 s ago or earlier"):
        question_about(Config(), NOW, **options)


def test_a_watch_goes_on_where_the_alert_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Alert | None] = []

    def ask(*arguments: object, **_: object) -> None:
        asked.append(cast("Alert", arguments[-1]))
        raise Unavailable("enough")

    monkeypatch.setattr(live, "_ask", ask)
    options = live.LiveOptions(None, None, None, None, "HighLatency", None, None, "15s", 5, None, 2000, json=False)
    alert = Alert("HighLatency", T0, end_ns=T0 + MINUTE_NS)
    with pytest.raises(Unavailable, match="enough"):
        live._watch(Config(), [], Floor(), options, alert)
    assert asked == [replace(alert, end_ns=None)]


def test_alerts_are_asked_of_the_source_that_knows_them() -> None:
    alert = Alert("HighLatency", T0, EntityId("service", "cart"))
    knowing = RecordedSource("alertmanager", TELEMETRY, alerts={"HighLatency": alert})
    assert find_alert([knowing], "HighLatency") == alert
    with pytest.raises(UnknownName, match="did you mean HighLatency"):
        find_alert([knowing], "HighLatencies")


def test_an_earlier_time_that_an_alert_fired_says_nothing_about_this_one() -> None:
    alert = Alert("HighLatency", T0, EntityId("service", "cart"))
    earlier = replace(alert, start_ns=T0 - 90 * MINUTE_NS, end_ns=T0 - 80 * MINUTE_NS, pending_ns=T0 - 95 * MINUTE_NS)
    active = RecordedSource("alertmanager", TELEMETRY, alerts={"HighLatency": alert})
    past = RecordedSource("prometheus", TELEMETRY, alerts={"HighLatency": earlier})
    assert find_alert([active, past], "HighLatency") == alert
    past.alerts["HighLatency"] = replace(alert, pending_ns=T0 - MINUTE_NS)
    assert find_alert([active, past], "HighLatency").pending_ns == T0 - MINUTE_NS


# --- the incident ----------------------------------------------------------------------------------------------------


def test_the_onset_is_found_and_the_culprit_first() -> None:
    incident, telemetry = collect_incident(CONFIG, sources(), Question(SEARCH))
    assert incident.onset_ns is not None
    assert abs(incident.onset_ns - ONSET) <= 30 * SECOND_NS
    assert incident.window.end_ns == SEARCH.end_ns
    assert incident.baselines[0].end_ns == SEARCH.start_ns
    assert [entity.name for entity in incident.alerting] == ["frontend"]
    report = report_on(incident, telemetry, Floor())
    assert report.ranking.candidates[0].entity == EntityId("service", "payment")


def test_a_given_onset_is_not_second_guessed() -> None:
    incident, _ = collect_incident(CONFIG, sources(), Question(SEARCH, ONSET + 20 * SECOND_NS))
    assert incident.window.start_ns == incident.onset_ns == ONSET + 20 * SECOND_NS


def test_an_alert_gives_the_title_the_entity_and_the_latest_onset() -> None:
    alert = Alert("SlowCheckout", ONSET, EntityId("service", "checkout"), summary="p95 above 2 s", link="http://prometheus/graph")
    incident, _ = collect_incident(CONFIG, sources(), Question(SEARCH, alert=alert))
    assert incident.title == "SlowCheckout: p95 above 2 s"
    assert incident.detected_ns == ONSET >= incident.window.start_ns
    assert incident.alerting[0].name == "checkout"
    assert incident.links == ("http://prometheus/graph",)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        (EntityId("service", "Check_Out"), EntityId("service", "checkout")),
        (EntityId("service", "till"), EntityId("service", "checkout")),
        (EntityId("pod", "checkout-1", "shop"), EntityId("pod", "checkout-1")),
        (EntityId("node", "n1"), EntityId("node", "n1")),
    ],
)
def test_an_alert_by_another_name_is_about_what_traces_know(written: EntityId, name: EntityId) -> None:
    config = CONFIG.model_copy(update={"names": {"till": "checkout"}})
    incident, _ = collect_incident(config, sources(), Question(SEARCH, alert=Alert("SlowCheckout", ONSET, written)))
    assert incident.alerting[0].entity() == name


def test_a_lost_source_is_a_gap_and_the_ranking_goes_on() -> None:
    lost = [*sources()[:1], failing("prometheus", Unavailable("connection refused")), *sources()[2:]]
    incident, telemetry = collect_incident(CONFIG, lost, Question(SEARCH))
    assert telemetry.gaps[0].source == "prometheus"
    report = report_on(incident, telemetry, Floor())
    assert any("connection refused" in note for note in report.missing)


def test_no_source_at_all_is_an_error_not_a_ranking() -> None:
    dead = [failing("prometheus", Unavailable("connection refused")), failing("kubernetes", Rejected("HTTP 403"))]
    with pytest.raises(Unavailable, match=r"prometheus: connection refused; kubernetes: HTTP 403"):
        collect_incident(CONFIG, dead, Question(SEARCH))


def test_traces_are_taken_from_one_source() -> None:
    store, tempo = RecordedSource("store", BINNED, STORE), RecordedSource("tempo", TELEMETRY, ("spans",))
    _, telemetry = collect_incident(CONFIG, [store, tempo], Question(SEARCH))
    assert not tempo.asked  # the store holds the whole stretch
    assert telemetry.spans.is_empty()
    started_late = replace(
        BINNED, **{name: BINNED.frames()[name].filter(pl.col("time_unix_nano") >= ONSET) for name in BIN_FRAMES}
    )
    _, telemetry = collect_incident(CONFIG, [RecordedSource("store", started_late, STORE), tempo], Question(SEARCH))
    assert tempo.asked
    assert telemetry.bin_counts.is_empty()
    assert not telemetry.spans.is_empty()
    assert not telemetry.logs.is_empty()


def test_a_slow_source_does_not_use_up_the_time_of_stored_traces() -> None:
    tempo = RecordedSource("tempo", TELEMETRY, ("spans",))
    slow = RecordedSource("prometheus", TELEMETRY, PROMETHEUS, released=threading.Event())
    hasty = Config(triage=LiveSettings.model_construct(baseline=CONFIG.triage.baseline, deadline=2 * SECOND_NS))
    _, telemetry = collect_incident(hasty, [RecordedSource("store", Telemetry(), STORE), tempo, slow], Question(SEARCH))
    slow.released.set()  # type: ignore[union-attr]
    assert not telemetry.spans.is_empty()
    assert [gap.source for gap in telemetry.gaps if "no answer within 2 s" in gap.reason] == ["prometheus"]


def test_a_configuration_without_sources_says_which_there_are() -> None:
    with pytest.raises(BadInput, match=r"at least one source .*\[prometheus\]"):
        sources_of(Config())


def test_a_source_of_no_known_package_is_refused() -> None:
    with pytest.raises(UnknownName, match="honeycomb"):
        sources_of(Config(sources={"honeycomb": {}}))


def test_a_young_system_is_compared_with_its_own_first_minutes() -> None:
    begins = ONSET - 2 * MINUTE_NS
    young = {
        name: frame if name in UNTIMED_FRAMES else frame.filter(pl.col(time_column(name)) >= begins)
        for name, frame in BINNED.frames().items()
    }
    source = RecordedSource("store", Telemetry(**young))  # type: ignore[arg-type]
    search = Interval(ONSET - 3 * MINUTE_NS, ONSET + 2 * MINUTE_NS)
    incident, telemetry = collect_incident(CONFIG, [source], Question(search))
    assert incident.baselines[0].start_ns == begins
    assert begins + MINUTE_NS <= incident.baselines[0].end_ns <= ONSET
    assert any(gap.source == "baseline" and "telemetry begins at" in gap.reason for gap in telemetry.gaps)
    assert report_on(incident, telemetry, Floor()).ranking.candidates[0].entity == EntityId("service", "payment")
    incident, _ = collect_incident(CONFIG, [source], Question(search, onset_ns=ONSET))
    assert incident.baselines[0].end_ns == incident.window.start_ns == ONSET


def test_a_source_that_knows_how_fresh_it_is_decides_where_the_window_ends() -> None:
    assert (
        question_about(Config(), NOW, last_ns=MINUTE_NS, fresh_ns=NOW - 12 * SECOND_NS).search.end_ns
        == T0 + 3 * 60 * MINUTE_NS - 20 * SECOND_NS
    )
    assert (
        question_about(Config(), NOW, last_ns=MINUTE_NS, fresh_ns=NOW - 50 * SECOND_NS).search.end_ns
        == T0 + 3 * 60 * MINUTE_NS - 50 * SECOND_NS
    )
    stopped = question_about(Config(), NOW, last_ns=MINUTE_NS, fresh_ns=NOW - 5 * MINUTE_NS)
    assert stopped.search.end_ns == T0 + 3 * 60 * MINUTE_NS - 30 * SECOND_NS


def test_every_source_of_ours_is_a_collector_that_can_be_looked_at() -> None:
    """Whatever the settings: what is checked here is the table of names."""
    for name, target in BUILT_IN.items():
        module, _, attribute = target.partition(":")
        source = getattr(importlib.import_module(module), attribute)
        assert source.name == name
        assert callable(source.collect)
        assert callable(source.check)
        assert name in Config.model_fields
