"""Styles of systems: each has what its page says, so that training really sees such systems."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import cache

import numpy as np
import polars as pl
import pytest

from rca.errors import UnknownName
from rca.incidents.entities import check_label, known_entities
from rca.incidents.incident import Incident
from rca.models.registry import create
from rca.pipeline import case_of, triage
from rca.signals import NODE_COLUMN
from rca.simulator import CONFIG, Config, simulate
from rca.simulator.config import Range, StyleShares
from rca.simulator.simulating import Scenario, scenario
from rca.simulator.styles import ORDINARY, STYLES, draw_style, only
from rca.telemetry import SECOND_NS, Telemetry

SMALL = (8, 14)


def _config(style: str) -> Config:
    """That style, with faults that are there to be seen, and nothing beside them."""
    certain = {"strength": Range(0.85, 1.0), "ramp_share": 0.0, "flicker_share": 0.0, "wobble_share": 0.0, "one_pod_share": 0.0}
    calm = replace(CONFIG.load, burst_share=0.0)
    return replace(CONFIG, styles=only(style), load=calm, faults=replace(CONFIG.faults, **certain))


@cache
def _made(style: str, index: int, kind: str | None = None) -> tuple[Incident, Telemetry]:
    services = None if style == "large" else SMALL
    return simulate(31, index, _config(style), kind=kind, services=services)


def _scenarios(style: str, kind: str, count: int, services: tuple[int, int] | None) -> list[Scenario]:
    return [scenario(32, index, _config(style), kind=kind, services=services) for index in range(count)]


# --- all of them ----------------------------------------------------------------------------------------------------


def test_styles_are_drawn_as_often_as_their_shares_say() -> None:
    rng = np.random.default_rng(1)
    drawn = [draw_style(rng, CONFIG.styles) for _ in range(4000)]
    for style, share in asdict(CONFIG.styles).items():
        assert drawn.count(style) / len(drawn) == pytest.approx(share, abs=0.025)
    assert drawn.count(ORDINARY) / len(drawn) > 0.3
    assert set(asdict(StyleShares())) == set(STYLES)


def test_one_style_can_be_asked_for() -> None:
    rng = np.random.default_rng(1)
    for style in (ORDINARY, *STYLES):
        assert {draw_style(rng, only(style)) for _ in range(50)} == {style}
    with pytest.raises(UnknownName, match="sparse"):
        only("spars")


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", ["latency", "exception", "traffic_surge"])
def test_an_incident_of_every_style_is_valid_and_can_be_ranked(style: str, kind: str) -> None:
    incident, telemetry = _made(style, 0, kind)
    for label in incident.labels:
        check_label(incident.id, label, known_entities(incident, telemetry))
    ranking = triage(incident, telemetry, create("floor"))
    assert set(incident.causes()) <= {candidate.entity for candidate in ranking.candidates}


# --- managed: metrics alone, every five minutes -----------------------------------------------------------------------


@pytest.mark.parametrize("index", range(3))
def test_managed_systems_have_metrics_of_everything_every_five_minutes_and_no_more(index: int) -> None:
    incident, telemetry = _made("managed", index)
    assert {name for name, frame in telemetry.frames().items() if not frame.is_empty()} <= {
        "metrics",
        "topology",
        "events",
        "alerts",
    }
    series = telemetry.metrics.sort("time_unix_nano").group_by("entity", "metric").agg(pl.col("time_unix_nano").diff().min())
    assert series["time_unix_nano"].drop_nulls().unique().to_list() == [300 * SECOND_NS]
    inside = telemetry.metrics.filter(pl.col("time_unix_nano") >= incident.window.start_ns)
    assert inside.group_by("entity", "metric").len()["len"].max() <= 9  # type: ignore[operator]
    assert set(telemetry.metrics["entity_kind"].unique()) - {"service"} <= {"database", "queue", "external"}
    assert set(telemetry.topology["target_kind"]) & {"pod", "node"} == set()
    names = telemetry.metrics["metric"].unique().to_list()
    assert {"server.request.rate", "server.request.success_ratio", "server.request.duration.mean"} <= set(names)
    assert all(name.startswith("server.request.") for name in names)


def _of_callers(incident: Incident, telemetry: Telemetry, signal: str) -> tuple[float, list[float]]:
    """Deviation of the cause, and of everybody who calls it, directly or not."""
    case = case_of(incident, telemetry)
    values = np.nan_to_num(case.deviations.node[:, NODE_COLUMN[signal]])
    cause = case.graph.rows[incident.causes()[0]]
    above, found = {cause}, set[int]()
    while above - found:
        found |= above
        above = {int(a) for ends in case.deviations.edges.values() for a, b in ends.T.tolist() if b in found}
    return float(values[cause]), [float(values[row]) for row in sorted(found - {cause})]


@pytest.mark.parametrize(
    ("kind", "signal"), [("latency", "metric_server_latency"), ("availability", "metric_success")], ids=["latency", "errors"]
)
def test_callers_move_as_much_as_the_cause_in_managed_systems(kind: str, signal: str) -> None:
    ratios, moving = [], []
    for index in range(6):
        cause, callers = _of_callers(*_made("managed", index, kind), signal)
        if cause > 3 and callers:
            ratios.append(max(callers) / cause)
            moving.append(sum(value > 1 for value in callers))
    assert len(ratios) >= 3
    assert np.median(ratios) > 0.5
    assert np.median(moving) >= 1


# --- alerts alone -----------------------------------------------------------------------------------------------------


def test_systems_of_alerts_have_nothing_else_and_nothing_quiet() -> None:
    for index in range(4):
        incident, telemetry = _made("alerts_only", index)
        assert {name for name, frame in telemetry.frames().items() if not frame.is_empty()} <= {"alerts", "topology"}
        assert incident.baselines == ()
        assert [gap.source for gap in telemetry.gaps] == ["baseline"]


def test_some_alerts_fire_all_the_time_and_those_of_a_fault_are_rarer() -> None:
    frames = [_made("alerts_only", index, "latency")[1].alerts for index in range(8)]
    told = pl.concat(frames).filter(pl.col("usual_ratio").is_not_null())
    assert set(told["source"]) == {"metric", "trace", "log"}
    assert 0 < told["usual_ratio"].min() < 0.1  # type: ignore[operator]
    assert 0.5 < told["usual_ratio"].max() <= 1  # type: ignore[operator]
    quiet = pl.concat(
        [simulate(33, index, _config("alerts_only"), kind="no_fault", services=SMALL)[1].alerts for index in range(8)]
    )
    assert quiet.height < 0.7 * sum(frame.height for frame in frames)
    assert quiet.height > 0


def test_alerts_reach_further_than_the_cause() -> None:
    """Callers of what is slow are alerted on as well, mostly more of them than there are causes."""
    others = []
    for index in range(6):
        incident, telemetry = _made("alerts_only", index, "latency")
        rare = telemetry.alerts.filter(pl.col("usual_ratio").fill_null(0) < 0.4)
        others.append(len(set(rare["entity"]) - {cause.name for cause in incident.causes()}))
    assert np.median(others) >= 2


def test_instances_are_services_of_their_own_in_some_systems() -> None:
    systems = [made.world.system for made in _scenarios("alerts_only", "exception", 10, SMALL)]
    split = [system for system in systems if (system.instance_of >= 0).any()]
    assert 2 <= len(split) < 10
    for system in split:
        assert (system.replicas[: system.services] == 1).all()
        assert len(set(system.names)) == len(system.names)
        several = np.bincount(system.instance_of[: system.services])
        assert several.max() > 1
        assert (system.level[system.target] > system.level[system.source]).all()


# --- sparse -----------------------------------------------------------------------------------------------------------


def test_sparse_systems_have_few_requests_and_short_windows() -> None:
    for made in _scenarios("sparse", "exception", 6, SMALL):
        window = (made.timing.window[1] - made.timing.window[0]) * made.timing.bin_seconds
        assert 60 <= window <= 180
        assert 0.2 <= made.world.system.entry.sum() <= 2.0
        assert made.recording.traces is not None


def test_usual_log_lines_are_rare_in_sparse_systems() -> None:
    counts = []
    for index in range(4):
        incident, telemetry = _made("sparse", index, "exception")
        usual = telemetry.logs.filter(
            (pl.col("time_unix_nano") >= incident.window.start_ns - 120 * SECOND_NS)
            & (pl.col("time_unix_nano") < incident.window.start_ns)
            & (pl.col("severity") == "INFO")
        )
        counts += usual.group_by("entity", "template").agg(pl.col("count").sum())["count"].to_list()
    assert np.median(counts) <= 10


def test_callers_log_what_a_silent_culprit_throws() -> None:
    silent, told = 0, 0
    for index in range(8):
        incident, telemetry = _made("sparse", index, "exception")
        (cause,) = incident.causes()
        failing = telemetry.logs.filter((pl.col("severity") == "ERROR") & (pl.col("time_unix_nano") >= incident.window.start_ns))
        if failing.is_empty():
            continue
        own = failing.filter((pl.col("entity") == cause.name) & ~pl.col("template").str.starts_with("call to"))
        silent += own.is_empty()
        told += not failing.filter(pl.col("entity") != cause.name).is_empty()
    assert silent >= 4
    assert told >= 4


def test_spans_without_status_show_no_failure() -> None:
    config = replace(_config(ORDINARY), telemetry=replace(CONFIG.telemetry, no_traces=0.0, spans_without_status=1.0))
    _, telemetry = simulate(34, 1, config, kind="availability", services=(6, 8))
    assert telemetry.bin_counts.filter(pl.col("what") == "request")["count"].sum() > 0
    assert telemetry.bin_counts.filter(pl.col("what").str.contains("error")).is_empty()
    assert not telemetry.bin_exemplars["error"].any()


# --- large ------------------------------------------------------------------------------------------------------------


def test_large_systems_are_deep_and_faults_show_on_few_operations() -> None:
    made = _scenarios("large", "exception", 6, None)
    assert min(scene.world.system.services for scene in made) >= 40
    deepest = [_longest_call(scene) for scene in made]
    assert np.median(deepest) >= 6
    hit, offered = [], []
    for scene in made:
        system, failing = scene.world.system, scene.world.conditions.own_error.max(axis=1) > 0
        assert scene.cause is not None
        mine = system.operations_of[system.names.index(scene.cause.name)]
        hit.append(int(failing[mine].sum()))
        offered.append(len(mine))
    assert sum(hit) < 0.7 * sum(offered)
    assert min(hit) >= 1


def _longest_call(made: Scenario) -> int:
    """Services on the longest way of a request."""
    system = made.world.system
    inside = system.component_of[system.target] < system.services
    longest = np.ones(len(system.level), dtype=int)
    for k in np.flatnonzero(inside)[np.argsort(-system.level[system.source[inside]])].tolist():
        longest[system.source[k]] = max(longest[system.source[k]], 1 + longest[system.target[k]])
    return int(longest[system.entry > 0].max())


def test_a_larger_system_than_asked_for_is_never_drawn() -> None:
    made = _scenarios("large", "exception", 3, (6, 9))
    assert max(scene.world.system.services for scene in made) <= 9
