"""Scores of game days: numbers worked out by hand, answers that see nothing of later, and days that went wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rca.bins import BIN_NS, frames_of
from rca.collectors.alerts import Alert
from rca.collectors.config import Config, LiveSettings
from rca.errors import BadInput, UnknownName
from rca.evaluation import metrics
from rca.gameday.contest import CACHE_FOLDER, Contender, Contest, Played, QuietAnswers, contenders
from rca.gameday.folder import GameDay, Guess, Injected, load
from rca.gameday.injections import Injection
from rca.gameday.replay import (
    Answer,
    Noticed,
    Recording,
    answer_of,
    asked_at,
    known_at,
    moments,
    noticed,
    quiet_windows,
    told_until,
)
from rca.gameday.scores import Figure, Scores, read_scores, write_scores
from rca.gameday.scoring import newest, scores_of, settled
from rca.incidents.example import example_incident
from rca.incidents.incident import Incident, IntervalModel, Label
from rca.incidents.store import IncidentStore
from rca.models import registry, shipped
from rca.models.versions import Versions
from rca.pipeline import case_of
from rca.report import Certainty
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
from tests.played import Guessed, game_day, moved
from tests.versions import registered

T0 = 1_780_000_000 * SECOND_NS
CART, ORDERS, SHOP_DB = EntityId("service", "cart"), EntityId("service", "orders"), EntityId("database", "shop-db")
POD = EntityId("pod", "cart-1")
LIVE = Config(triage=LiveSettings(lag="10s", lookback="2m", baseline="2m"))  # type: ignore[arg-type]  # read as in a file


# --- numbers, worked out by hand --------------------------------------------------------------------------------------


def says(*order: EntityId, sure: float = 0.7, level: Certainty = "likely", no_fault: float = 0.0, tie: bool = False) -> Answer:
    """An answer that names entities in this order, the first with a probability of `sure`."""
    scores = tuple(1.0 if tie else float(-place) for place in range(len(order)))
    rest = (1 - sure - no_fault) / max(len(order) - 1, 1)
    return Answer(order, scores, (sure, *(rest for _ in order[1:])), no_fault, level)


RIGHT, WRONG = says(CART, ORDERS, SHOP_DB), says(ORDERS, CART, SHOP_DB, sure=0.5)


def injected(number: int, kind: str = "latency", culprit: EntityId | None = CART, **known: Any) -> Injected:
    start = T0 + number * 10 * MINUTE_NS
    injection = Injection(number, kind, culprit.name if culprit else "", culprit, start, start + 3 * MINUTE_NS, 0.5, "shop")
    return Injected(injection, **{"incident_id": f"day-{number}", **known})


def played(number: int, *said: Answer, kind: str = "latency", causes: tuple[EntityId, ...] = (CART,), **known: Any) -> Played:
    """An injection whose first alert fired after a minute, asked at that moment and every half minute from then on."""
    one = injected(number, kind, causes[0] if causes else None, **known)
    from_ns = one.injection.start_ns + MINUTE_NS
    seen = Noticed(from_ns, Alert("Slow", from_ns, CART))
    times = tuple(seen.from_ns + place * 30 * SECOND_NS for place in range(len(said)))
    standing = "scored" if causes else "nobody"
    return Played(one, standing, "", "shop", causes, (), seen, times, {"model": said, "rule": said[::-1]}, {  # type: ignore[arg-type]
        "model": said[-1], "rule": said[0]
    })  # fmt: skip


class _Nobody:
    name, uses_names, learned = "nobody", False, False


MODEL = Contender("model", "in use", _Nobody(), "1")  # type: ignore[arg-type]  # it is not asked
RULE = Contender("rule", "baseline", _Nobody(), "2")  # type: ignore[arg-type]


def scored(ones: Sequence[Played], guesses: Sequence[Guess] = (), quiet: Sequence[QuietAnswers] = ()) -> Scores:
    day = GameDay("friday", Path("friday"), None, tuple(one.injected for one in ones), tuple(guesses), "complete")
    return scores_of(day, "digest", (MODEL, RULE), ones, quiet, LIVE)


def test_accuracy_of_last_answers_by_hand() -> None:
    """Four injections: the cause stands first, first, second and nowhere."""
    ones = [
        played(1, WRONG, RIGHT),
        played(2, RIGHT, RIGHT, kind="exception"),
        played(3, RIGHT, WRONG, kind="return"),
        played(4, WRONG, says(ORDERS, SHOP_DB), kind="crash_loop"),
    ]
    tool = scored(ones).in_use
    assert {key: figure.value for key, figure in tool.accuracy.items()} == {"ac1": 0.5, "ac3": 0.75, "ac5": 0.75, "mrr": 0.625}
    assert all((figure.n, figure.groups) == (4, 4) for figure in tool.accuracy.values())
    truths = [one.beside(one.said["model"][-1]) for one in ones]
    interval = metrics.accuracy("ac1", truths)
    assert (tool.accuracy["ac1"].low, tool.accuracy["ac1"].high) == (interval.low, interval.high)
    # Chance: one of three candidates is right in three incidents, none of two in the last.
    assert tool.chance["ac1"] == pytest.approx((1 / 3 + 1 / 3 + 1 / 3 + 0) / 4, abs=1e-4)
    # The rule answers in the other order: first, first, second, second.
    rule = scored(ones).rankers[1]
    assert (rule.accuracy["ac1"].value, rule.ahead and rule.ahead.value) == (0.5, 0.0)
    assert rule.known_window["ac1"].value == 0.5


def test_ties_count_against_the_ranker_and_several_causes_for_it() -> None:
    tie = scored([played(1, says(CART, ORDERS, sure=0.4, tie=True))])
    assert (tie.injections[0].said["model"][0].rank, tie.in_use.accuracy["ac1"].value) == (2, 0.0)
    both = scored([played(1, WRONG, causes=(CART, ORDERS))])
    assert (both.injections[0].said["model"][0].rank, both.in_use.accuracy["ac1"].value) == (1, 1.0)
    assert both.injections[0].causes == ("service:cart", "service:orders")


def test_a_cause_is_called_as_the_graph_calls_it() -> None:
    one = played(1, replace(RIGHT, names=((POD, CART),)), causes=(POD,))
    assert scored([one]).injections[0].said["model"][0].right is True


@pytest.mark.parametrize(
    ("said", "minute"),
    [
        ((RIGHT, RIGHT, RIGHT), 0.0),
        ((WRONG, RIGHT, RIGHT), 0.5),
        ((RIGHT, WRONG, RIGHT), 1.0),
        ((RIGHT, RIGHT, WRONG), None),
        ((WRONG,), None),
    ],
)
def test_settled_is_the_first_minute_from_which_every_answer_is_right(said: tuple[Answer, ...], minute: float | None) -> None:
    score = scored([played(1, *said)]).injections[0]
    assert score.settled_minute["model"] == minute == settled(score.said["model"])


def test_the_curve_counts_the_newest_answer_of_each_and_keeps_the_last() -> None:
    """One is right from the first minute on, one at once and then over, one is wrong and sure of it until the end."""
    ones = [played(1, WRONG, WRONG, RIGHT), played(2, RIGHT, kind="return"), played(3, WRONG, WRONG, WRONG, kind="exception")]
    tool = scored(ones).in_use
    assert [(point.minute, point.share.value) for point in tool.curve] == [
        (0.0, 0.3333), (0.25, 0.3333), (0.5, 0.3333), (0.75, 0.3333), (1.0, 0.6667),
    ]  # fmt: skip
    assert [point.misled.value for point in tool.curve] == [0.6667] * 4 + [0.3333]
    assert (tool.settled.n, tool.settled.value) == (2, 0.5)  # the median of minutes 1 and 0


def test_calibration_by_hand() -> None:
    """Two answers that claim 0.7, one of them right; one that claims 0.5 and is wrong."""
    ones = [played(1, RIGHT), played(2, says(ORDERS, CART), kind="return"), played(3, WRONG, kind="exception")]
    found = scored(ones).in_use.calibration
    assert [(one.low, one.n, one.confidence, one.right.value) for one in found.bins] == [(0.5, 1, 0.5, 0.0), (0.7, 2, 0.7, 0.5)]
    assert found.ece.value == pytest.approx((abs(0 - 0.5) + abs(1 - 1.4)) / 3, abs=1e-4)
    assert found.ece.value == pytest.approx(
        metrics.calibration_error([one.beside(one.said["model"][-1]) for one in ones]), abs=1e-4
    )
    assert found.brier.value == pytest.approx((0.3**2 + 0.7**2 + 0.5**2) / 3, abs=1e-4)
    assert found.ece.low is not None
    assert found.ece.high is not None
    assert found.ece.low <= found.ece.value <= found.ece.high + 0.2


def test_injections_that_share_an_incident_are_compared_one_by_one() -> None:
    ones = [played(1, WRONG, RIGHT, incident_id="day-1"), played(2, RIGHT, WRONG, incident_id="day-1")]
    ahead = scored(ones).rankers[1].ahead  # right against wrong, and wrong against right
    assert ahead is not None
    assert (ahead.value, ahead.n) == (0.0, 2)


def test_draws_that_are_all_alike_give_no_interval() -> None:
    ahead = scored([played(1, RIGHT, RIGHT), played(2, RIGHT, RIGHT, kind="exception")]).rankers[1].ahead
    assert ahead is not None
    assert (ahead.value, ahead.low, ahead.high, ahead.groups) == (0.0, None, None, 2)


def test_repetitions_of_one_injection_are_one_group() -> None:
    tool = scored([played(1, RIGHT), played(2, RIGHT), played(3, RIGHT)]).in_use
    assert tool.accuracy["ac1"] == Figure(n=3, groups=1, value=1.0)  # and have no interval
    assert tool.by_fault_kind == {"latency": Figure(n=3, groups=1, value=1.0)}
    assert tool.by_service == {"service:cart": Figure(n=3, groups=1, value=1.0)}


def test_what_was_not_collected_is_told_and_can_be_counted_as_a_miss() -> None:
    lost = Played(injected(2, incident_id=None, trouble="the machine was saturated"), "not collected", "why", causes=(ORDERS,))
    unknown = Played(injected(3), "unlabelled", "its label is disputed")
    found = scored([played(1, RIGHT), lost, unknown])
    assert found.in_use.accuracy["ac1"].n == 1
    assert (found.in_use.with_uncollected.n, found.in_use.with_uncollected.value) == (2, 0.5)
    assert [one.standing for one in found.injections] == ["scored", "not collected", "unlabelled"]


def test_where_nobody_is_to_blame_blaming_somebody_is_the_alarm() -> None:
    surge = played(1, says(CART, level="clear"), says(CART, level="unsure"), kind="traffic_surge", causes=())
    found = scored([surge])
    assert (found.in_use.nobody.value, found.in_use.nobody_ever.value, found.in_use.accuracy["ac1"].n) == (0.0, 1.0, 0)
    assert found.in_use.accuracy["ac1"].value is None
    assert found.injections[0].said["model"][0].right is None


@pytest.mark.parametrize(("level", "alarm"), [("clear", 1.0), ("likely", 1.0), ("close", 0.0), ("unsure", 0.0), ("nothing", 0.0)])
def test_only_clear_and_likely_are_false_alarms(level: Certainty, alarm: float) -> None:
    interval = Interval(T0, T0 + 2 * MINUTE_NS)
    windows = (Interval(T0, T0 + MINUTE_NS), Interval(T0 + MINUTE_NS, T0 + 2 * MINUTE_NS))
    quiet = QuietAnswers(interval, windows, 0, {"model": (says(CART, level=level),) * 2, "rule": (says(CART),) * 2})
    found = scored([], quiet=[quiet, QuietAnswers(Interval(T0 + 3 * MINUTE_NS, T0 + 4 * MINUTE_NS))])
    assert (found.in_use.quiet.n, found.in_use.quiet.groups, found.in_use.quiet.value) == (2, 1, alarm)
    assert found.quiet.model_dump() == {"intervals": 2, "unrecorded": 1, "windows": 2, "seconds": 120.0, "alerts": 0}


def test_time_to_resolve_with_and_without_a_right_answer() -> None:
    """Noticed after a minute; one is fixed after 3, one has its last alert over after 6, one ends with its fault after 3."""
    begun = [T0 + number * 10 * MINUTE_NS for number in (1, 2, 3)]
    ones = [
        played(1, WRONG, RIGHT, fixed_ns=begun[0] + 4 * MINUTE_NS),
        played(2, WRONG, WRONG, over_ns=begun[1] + 7 * MINUTE_NS, kind="return"),
        played(3, RIGHT, RIGHT, kind="exception"),
    ]
    found = scored(ones)
    assert [one.resolve_minutes for one in found.injections] == [3.0, 6.0, 2.0]
    assert (found.in_use.resolve_right.n, found.in_use.resolve_right.value) == (2, 2.5)
    assert (found.in_use.resolve_wrong.n, found.in_use.resolve_wrong.value) == (1, 6.0)


def test_people_beside_the_tool() -> None:
    """Anna is wrong and then right, before the tool is; Ben guesses too early and late; a guess where nobody is to blame."""
    ones = [
        played(1, WRONG, WRONG, RIGHT),
        played(2, RIGHT, kind="return"),
        played(3, says(CART), kind="traffic_surge", causes=()),
    ]
    begun = [one.from_ns for one in ones]
    guesses = [
        Guess(1, begun[0] + 10 * SECOND_NS, "anna", ORDERS),
        Guess(1, begun[0] + 30 * SECOND_NS, "anna", CART),
        Guess(1, begun[0] - 30 * SECOND_NS, "ben", CART),
        Guess(2, begun[1] + 60 * SECOND_NS, "ben", SHOP_DB),
        Guess(3, begun[2], "ben", CART),
    ]
    found = scored(ones, guesses)
    anna, ben = found.people
    assert (anna.who, anna.guesses, anna.first.value, anna.last.value) == ("anna", 2, 0.0, 1.0)
    assert (anna.tool_then.value, anna.tool_last.value) == (0.0, 1.0)
    assert (anna.settled.value, anna.tool_settled.value) == (0.5, 1.0)
    assert (ben.guesses, ben.last.n, ben.last.value, ben.tool_then.value) == (3, 2, 0.5, 0.5)
    assert (ben.settled.n, ben.settled.value, ben.tool_settled.value) == (1, -0.5, 0.5)
    assert [one.right for one in found.injections[2].guesses] == [None]


def test_a_guess_about_an_injection_that_there_is_not() -> None:
    with pytest.raises(UnknownName, match=r"guess of anna: injections of friday: .*'7'"):
        scored([played(1, RIGHT)], [Guess(7, T0, "anna", CART)])


def test_a_guess_may_name_a_pod_of_the_culprit() -> None:
    one = played(1, replace(RIGHT, names=((POD, CART),)))
    found = scored([one], [Guess(1, one.from_ns, "anna", POD)])
    assert found.people[0].last.value == 1.0


def test_nothing_at_all_gives_numbers_that_are_not_defined() -> None:
    found = scored([])
    assert found.in_use.accuracy["ac1"] == Figure(n=0, groups=0)
    assert found.in_use.calibration.bins == ()
    assert json.loads(found.dumps())["rankers"][0]["settled"] == {"n": 0, "groups": 0, "value": None, "low": None, "high": None}


def test_scores_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    found = scored([played(1, WRONG, RIGHT), played(2, RIGHT, kind="return")])
    folder = tmp_path / "friday"
    folder.mkdir()
    with pytest.raises(BadInput, match="rca gameday score friday"):
        read_scores(folder)
    path = write_scores(folder, found)
    assert read_scores(folder) == found
    path.write_text(path.read_text().replace('"version": "1"', '"version": "9"'))
    with pytest.raises(BadInput, match=r"version: .*'1'"):
        read_scores(folder)


def test_newest_answer_at_a_moment() -> None:
    said = scored([played(1, WRONG, RIGHT)]).injections[0].said["model"]
    assert newest(said, said[0].at_ns - 1) is None
    assert newest(said, said[1].at_ns - 1) == said[0]
    assert newest(said, said[1].at_ns) == said[1]


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 4)), min_size=1, max_size=12), st.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_bootstrapped_medians_lie_where_the_values_do(rows: list[tuple[float, int]], seed: int) -> None:
    values, clusters = np.array([value for value, _ in rows]), [cluster for _, cluster in rows]
    found = metrics.estimate_of(lambda drawn: np.median(values[drawn], axis=1), clusters, seed=seed, rounds=50)
    assert found.value == float(np.median(values))
    if len(set(clusters)) > 1:
        assert values.min() <= (found.low or 0.0) <= (found.high or 0.0) <= values.max()
    else:
        assert found.low is None
    again = metrics.estimate_of(lambda drawn: np.median(values[drawn], axis=1), clusters, seed=seed, rounds=50)
    assert found == again


def test_a_bootstrapped_mean_is_that_of_estimate() -> None:
    values, clusters = np.arange(20.0), [i // 4 for i in range(20)]
    mine = metrics.estimate_of(lambda rows: values[rows].mean(axis=1), clusters, rounds=4000)
    theirs = metrics.estimate(values, clusters, rounds=4000)
    assert mine.value == theirs.value
    assert math.isclose(mine.low or 0.0, theirs.low or 0.0, abs_tol=0.6)
    assert math.isclose(mine.high or 0.0, theirs.high or 0.0, abs_tol=0.6)


# --- nothing of later -------------------------------------------------------------------------------------------------


@cache
def binned() -> tuple[Incident, Telemetry]:
    """A synthetic incident as `rca collect` keeps it, with an alert after two minutes and a snapshot of pods."""
    incident, telemetry = example_incident(fault_kind="cpu_contention", culprit="payment", requests_per_second=0.5)
    start = incident.window.start_ns
    alert = {"time_unix_nano": [start + 2 * MINUTE_NS], "entity_kind": ["service"], "entity": ["checkout"], "name": ["Slow"]}
    alerts = Telemetry.of(alerts=pl.DataFrame({**alert, "source": ["metric"]})).alerts
    bins = frames_of(telemetry.spans)
    return incident, replace(telemetry, spans=telemetry.spans.clear(), alerts=alerts, **bins)


@cache
def spanned() -> tuple[Incident, Telemetry]:
    """The same as spans."""
    incident, telemetry = example_incident(fault_kind="cpu_contention", culprit="payment", requests_per_second=0.2)
    return incident, replace(telemetry, alerts=binned()[1].alerts)


def changed_after(telemetry: Telemetry, now_ns: int, how: str, seed: int) -> Telemetry:
    """Telemetry in which everything that was not complete at a moment is gone, or other, or doubled; and news on top."""
    frames: dict[str, pl.DataFrame] = {}
    for name, frame in telemetry.frames().items():
        if name in UNTIMED_FRAMES:
            strangers = {"source_kind": ["service"], "source": ["payment"], "relation": ["runs"], "target_kind": ["pod"]}
            frames[name] = pl.concat([frame, pl.DataFrame({**strangers, "target": ["payment-born-later"]})])
            continue
        over = pl.col("end_time_unix_nano") if name == "spans" else pl.col(time_column(name))
        late = frame.filter(over + BIN_NS > now_ns if name in ("logs", *BIN_FRAMES) else over >= now_ns)
        early = frame.filter(~(over + BIN_NS > now_ns) if name in ("logs", *BIN_FRAMES) else over < now_ns)
        if how == "gone":
            late = late.clear()
        elif how == "doubled":
            late = pl.concat([late, late])
        else:
            numbers = [column for column, kind in late.schema.items() if kind.is_numeric() and not column.endswith("nano")]
            late = late.with_columns(pl.col(column) * 7 % 100 for column in numbers).sample(fraction=1, shuffle=True, seed=seed)
        frames[name] = pl.concat([early, late])
    untimed = pl.DataFrame({"entity_kind": ["service"], "entity": ["cart"], "name": ["Down"], "source": ["metric"]})
    frames["alerts"] = pl.concat([frames["alerts"], Telemetry.of(alerts=untimed).alerts])
    gaps = (*telemetry.gaps, Gap("prometheus", "it went away later", Interval(now_ns + SECOND_NS, now_ns + MINUTE_NS)))
    return Telemetry(gaps=gaps, **frames)  # type: ignore[arg-type]  # frames by name


@pytest.mark.parametrize("make", [binned, spanned])
@given(
    after_s=st.integers(-60, 290),
    how=st.sampled_from(["gone", "doubled", "other"]),
    seed=st.integers(0, 9),
)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_comes_later_is_not_known(make: Any, after_s: int, how: str, seed: int) -> None:
    incident, telemetry = make()
    now = incident.window.start_ns + after_s * SECOND_NS
    mine = Recording(telemetry, now).collect(0, 2**62)
    theirs = Recording(changed_after(telemetry, now, how, seed), now).collect(0, 2**62)
    assert mine.gaps == theirs.gaps
    for name, frame in mine.frames().items():
        columns = frame.columns
        assert frame.sort(columns, nulls_last=True).equals(theirs.frames()[name].sort(columns, nulls_last=True)), name


@given(minute=st.sampled_from([0.0, 0.5, 1.5]), how=st.sampled_from(["gone", "doubled", "other"]))
@settings(max_examples=4, deadline=None)
def test_changing_what_comes_later_changes_no_answer(minute: float, how: str) -> None:
    incident, telemetry = binned()
    alert_ns = incident.window.start_ns + 2 * MINUTE_NS
    now = alert_ns + round(minute * MINUTE_NS)
    seen = noticed(telemetry, incident.window.start_ns, alert_ns, None)
    floor = registry.create("floor")
    mine, theirs = (
        answer_of(floor, case_of(*asked_at(LIVE, one, seen, now)), [POD])
        for one in (telemetry, changed_after(telemetry, now, how, 1))
    )
    assert mine == theirs
    assert mine.candidates


def test_rows_that_are_not_over_are_not_known() -> None:
    incident, telemetry = binned()
    now = incident.window.start_ns + 15 * SECOND_NS
    known = known_at(telemetry, now)
    assert known.bin_counts["time_unix_nano"].max() == incident.window.start_ns  # the bin from second 10 on lasts until 20
    assert known.metrics["time_unix_nano"].max() < now  # type: ignore[operator]
    spans = known_at(spanned()[1], now).spans
    assert spans["end_time_unix_nano"].max() < now  # type: ignore[operator]
    assert known.alerts.is_empty()


def test_gaps_are_known_as_far_as_they_had_come() -> None:
    gaps = (
        Gap("tempo", "off"),
        Gap("jaeger", "slow", Interval(T0, T0 + 100)),
        Gap("kubernetes", "later", Interval(T0 + 60, T0 + 70)),
    )
    known = known_at(Telemetry(gaps=gaps), T0 + 50)
    assert known.gaps == (gaps[0], Gap("jaeger", "slow", Interval(T0, T0 + 50)))


def test_labels_window_and_onset_of_the_recording_are_not_looked_at() -> None:
    """What is asked about is what live triage would have made of the telemetry."""
    incident, telemetry = binned()
    seen = noticed(telemetry, incident.window.start_ns, incident.window.start_ns + 2 * MINUTE_NS, None)
    asked, found = asked_at(LIVE, telemetry, seen, seen.from_ns + MINUTE_NS)
    assert asked.labels == ()
    assert asked.window.end_ns == seen.from_ns + 50 * SECOND_NS  # the lag is left out
    assert found.bin_counts["time_unix_nano"].max() < asked.window.end_ns  # type: ignore[operator]
    assert [entity.name for entity in asked.alerting] == ["checkout"]


def test_moments_end_when_nothing_more_is_told() -> None:
    seen = Noticed(T0)
    assert moments(seen, T0 + 35 * SECOND_NS, 10 * SECOND_NS) == tuple(T0 + s * SECOND_NS for s in (0, 15, 30, 45))
    assert moments(seen, T0 - MINUTE_NS, 10 * SECOND_NS) == (T0,)  # the alert fired when the recording was over


def test_an_alert_that_is_over_is_asked_about_as_such() -> None:
    incident, telemetry = binned()
    start = incident.window.start_ns
    seen = noticed(telemetry, start, start + 2 * MINUTE_NS, start + 2 * MINUTE_NS + 30 * SECOND_NS)
    asked, _ = asked_at(LIVE, telemetry, seen, incident.window.end_ns)
    assert asked.window.end_ns == start + 4 * MINUTE_NS  # two minutes from its start, as live triage looks at least


def test_noticed_by_the_alert_that_fired_then() -> None:
    times = [T0 + 4 * SECOND_NS, T0 - 3 * SECOND_NS, T0 - 3 * SECOND_NS, T0 + BIN_NS, None]
    rows = {"time_unix_nano": times, "entity_kind": ["service"] * 5, "entity": ["a", "orders", "cart", "a", "a"]}
    alerts = pl.DataFrame({**rows, "name": ["A", "B", "B", "A", "A"], "source": ["metric"] * 5})
    found = noticed(Telemetry.of(alerts=alerts), T0 - MINUTE_NS, T0, None).alert
    assert found is not None
    assert (found.name, found.entity, found.start_ns) == ("B", CART, T0)
    unknown = noticed(Telemetry(), T0 - MINUTE_NS, T0, None).alert
    assert unknown is not None
    assert (unknown.name, unknown.entity) == ("", None)
    assert noticed(Telemetry(), T0, None, None) == Noticed(T0)


def test_quiet_windows_have_as_much_before_them() -> None:
    incident, telemetry = binned()  # ten minutes of baseline
    start = incident.window.start_ns

    def lengths(from_s: int, to_s: int) -> list[tuple[float, float]]:
        quiet = Interval(start + from_s * SECOND_NS, start + to_s * SECOND_NS)
        return [((w.start_ns - start) / SECOND_NS, w.seconds) for w in quiet_windows(quiet, telemetry)]

    assert lengths(-180, 0) == [(-180, 60), (-120, 60), (-60, 60)]
    assert lengths(-45, 0) == [(-40, 40)]  # too short for two: as a whole, in whole bins
    assert lengths(-600, -480) == [(-540, 60)]  # the first minute has nothing before it
    assert lengths(-1200, -900) == []
    assert told_until(telemetry) == incident.window.end_ns
    assert quiet_windows(Interval(T0, T0 + MINUTE_NS), Telemetry()) == ()


# --- whole days -------------------------------------------------------------------------------------------------------


@cache
def recordings() -> tuple[tuple[Incident, Telemetry], ...]:
    """Two faults, a quiet watch, and their two minutes of baseline each, as short as they may be."""
    found = []
    for number, (kind, culprit) in enumerate((("cpu_contention", "payment"), ("exception", "shipping"), ("no_fault", "cart"))):
        incident, telemetry = example_incident(number, kind, culprit, requests_per_second=1.0)
        bins = frames_of(telemetry.spans)
        start = incident.window.start_ns
        first, end = start - 2 * MINUTE_NS, start + 50 * SECOND_NS
        body = replace(telemetry, spans=telemetry.spans.clear(), alerts=binned()[1].alerts.clear(), **bins)
        alert = binned()[1].alerts.with_columns(pl.lit(start + 20 * SECOND_NS).alias("time_unix_nano"))
        body = replace(body, alerts=alert if kind != "no_fault" else alert.clear())
        frames: dict[str, Any] = {
            name: frame
            if name in UNTIMED_FRAMES
            else frame.filter(pl.col(time_column(name)).is_between(first, end, closed="left"))
            for name, frame in body.frames().items()
        }
        baseline = incident.baselines[0].model_copy(update={"start_ns": first, "end_ns": start})
        window = IntervalModel(start_ns=start, end_ns=end)
        if kind == "no_fault":
            incident = incident.model_copy(update={"labels": (Label(fault_kind=kind, provenance="injected"),)})
        update = {"id": f"friday-{number}-{kind}", "window": window, "baselines": (baseline,)}
        found.append(moved((incident.model_copy(update=update), Telemetry(**frames)), number * 10 * MINUTE_NS))
    return tuple(found)


def a_day(home: Path, **options: Any) -> GameDay:
    one, other, quiet = recordings()
    return load(home, game_day(home, [one, other], watched=[quiet], **options))


def play(home: Path, day: GameDay, *, names: Sequence[str] = ("floor", "max-z"), told: Any = lambda *_: None) -> Scores:
    who = tuple(
        replace(one, role="in use" if one.label == names[0] else "baseline") for one in contenders((), names)[-len(names) :]
    )
    played, quiet = Contest(home, who, LIVE).play(day, told)
    return scores_of(day, "digest", who, played, quiet, LIVE)


def test_a_day_is_scored_and_the_same_day_alike(tmp_path: Path) -> None:
    day = a_day(tmp_path, guesses=[Guessed(1, "anna", EntityId("service", "payment"), 30)], over_after_s=10)
    scores = play(tmp_path, day)
    assert [one.standing for one in scores.injections] == ["scored", "scored"]
    assert [one.counted_from for one in scores.injections] == ["alert", "alert"]
    assert scores.in_use.accuracy["ac1"].n == 2
    assert all(one.right for one in (score.last("floor") for score in scores.injections) if one is not None)
    assert (scores.quiet.windows, scores.in_use.quiet.n) == (1, 1)
    assert scores.people[0].last.value == 1.0
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / CACHE_FOLDER).iterdir()}
    damaged = sorted(kept)[0]
    damaged.write_text("damaged")
    assert play(tmp_path, day).dumps() == scores.dumps()
    now = {path: path.stat().st_mtime_ns for path in (tmp_path / CACHE_FOLDER).iterdir()}
    assert [path for path in kept if now[path] != kept[path]] == [damaged]  # nobody was asked again about anything else


def test_an_interruption_loses_no_answer(tmp_path: Path) -> None:
    day = a_day(tmp_path)

    def interrupt(_what: str, done: int, _of: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play(tmp_path, day, names=("max-z",), told=interrupt)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / CACHE_FOLDER).iterdir()}
    assert kept
    scores = play(tmp_path, day, names=("max-z",))
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert scores.in_use.accuracy["ac1"].n == 2


def standings(home: Path, day: GameDay) -> list[Played]:
    """What counts how, without anybody to ask."""
    return Contest(home, (), LIVE).play(day)[0]


def test_a_label_that_is_disputed_or_gone(tmp_path: Path) -> None:
    day = a_day(tmp_path)
    first, second = (one.incident_id or "" for one in day.injections)
    with IncidentStore(tmp_path) as store:
        entity = store.incident(first).labels[0].entity
        store.dispute(first, entity)
        store.remove(second)
    one, other = standings(tmp_path, day)
    assert (one.standing, one.trouble) == ("unlabelled", "its label is disputed, so nobody knows who is to blame")
    assert (other.standing, other.trouble) == ("not collected", "its incident is not in the store any more")


def test_no_alert_fired_so_minutes_count_from_the_injection(tmp_path: Path) -> None:
    one, _, _ = recordings()
    silent = (one[0], replace(one[1], alerts=one[1].alerts.clear()))
    day = load(tmp_path, game_day(tmp_path, [silent]))
    score = play(tmp_path, day, names=("floor",)).injections[0]
    assert (score.counted_from, score.from_ns) == ("injection", silent[0].window.start_ns)
    assert score.said["floor"][-1].minute == pytest.approx(1.0, abs=0.01)  # the 50 s of it, and the lag
    assert score.said["floor"][-1].right


def test_overlapping_injections_share_their_causes(tmp_path: Path) -> None:
    one, other, _ = recordings()
    at_once = moved(other, one[0].window.start_ns + 20 * SECOND_NS - other[0].window.start_ns)
    day = load(tmp_path, game_day(tmp_path, [one, at_once]))
    first, second = standings(tmp_path, day)
    assert (first.overlapping, second.overlapping) == ((2,), (1,))
    assert [cause.name for cause in first.causes] == ["payment", "shipping"]
    assert [cause.name for cause in second.causes] == ["shipping", "payment"]


def test_a_surge_beside_a_fault_is_nobodys_and_somebodys(tmp_path: Path) -> None:
    one, _, quiet = recordings()
    at_once = moved(quiet, one[0].window.start_ns - quiet[0].window.start_ns)
    _, surge = standings(tmp_path, load(tmp_path, game_day(tmp_path, [one, at_once])))
    assert (surge.standing, surge.trouble) == ("unlabelled", "nobody is to blame for it, but another fault was on")


def test_what_was_kept_with_trouble_counts_and_tells_it(tmp_path: Path) -> None:
    day = a_day(tmp_path)
    first = replace(day.injections[0], trouble="telemetry covers 3 of 12 bins")
    one, _ = standings(tmp_path, replace(day, injections=(first, day.injections[1])))
    assert (one.standing, one.trouble) == ("scored", "telemetry covers 3 of 12 bins")


def test_what_was_promoted_in_the_home_of_the_game_day_is_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shipped.shipped_folder() is None:
        pytest.skip("no model ships")
    monkeypatch.delenv(shipped.VARIABLE, raising=False)
    (mine,) = registered(tmp_path, "mine")
    versions = Versions(tmp_path)
    versions.promote(mine, expected=versions.state(), why="")
    assert contenders((), (), tmp_path)[0].label == mine.model.id
    assert contenders((), (), tmp_path / "elsewhere")[0].label == shipped.shipped_ranker().name


def test_contenders() -> None:
    who = contenders()
    assert who[0].role == "in use"
    assert [one.label for one in who[1:]] == ["floor", "max-z", "simple-rca", "pagerank-z", "prism-additive"]
    assert len({one.digest for one in who}) == len(who)
    assert [one.label for one in contenders((), ("floor", "floor"))][1:] == ["floor"]
    with pytest.raises(UnknownName):
        contenders((), ("florr",))
    with pytest.raises(BadInput, match="needs training"):
        contenders((), ("logistic",))
