"""The simulator: repeatable, consistent, and its faults show where they should."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from rca.bins import BIN_NS, frames_of
from rca.deviations import Deviations
from rca.errors import UnknownName
from rca.faults import FAULT_KINDS, NO_FAULT, is_no_fault
from rca.incidents.bundle import bundle_files
from rca.incidents.entities import check_label, known_entities
from rca.models.registry import create
from rca.pipeline import case_of, triage
from rca.signals import EDGE_COLUMN, NODE_COLUMN
from rca.simulator import CONFIG, SIMULATED, Config, simulate
from rca.simulator.conditions import Conditions, undisturbed
from rca.simulator.config import Range
from rca.simulator.counting import Counter, Tracing
from rca.simulator.load import draw_load
from rca.simulator.queueing import Solver, State, line_over_time, wait_in_line
from rca.simulator.requests import World, pools_of
from rca.simulator.simulating import Emission
from rca.simulator.styles import only
from rca.simulator.system import System, draw_system
from rca.telemetry import SCHEMAS, conform

BINS = 60
START_NS = 1_768_471_200 * 10**9

CLEAR = Config(
    styles=only("ordinary"),
    topology=CONFIG.topology,
    load=replace(CONFIG.load, requests_per_second=Range(8, 20, log=True), burst_share=0.0),
    telemetry=replace(
        CONFIG.telemetry,
        **dict.fromkeys(("no_traces", "no_metrics", "no_logs", "no_events", "no_alerts", "no_node_metrics"), 0.0),
        **dict.fromkeys(("request_metrics", "spans_name_pods", "onset_known_share"), 1.0),
        **dict.fromkeys(("sampled_share", "pause_before_share", "scrape_gap_share"), 0.0),
        **dict.fromkeys(("spans_without_status", "silent_failures"), 0.0),
        baseline_minutes=Range(8, 8),
        window_minutes=Range(3, 3),
        scrape_seconds=(15,),
    ),
    faults=replace(
        CONFIG.faults,
        strength=Range(0.85, 1.0),
        **dict.fromkeys(("ramp_share", "flicker_share", "one_operation_share", "one_pod_share", "wobble_share"), 0.0),
    ),
)
"""Strong faults in systems that record everything."""


# --- incidents as a whole -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*SIMULATED, NO_FAULT])
def test_every_kind_makes_a_valid_incident_whose_label_is_in_its_graph(kind: str) -> None:
    incident, telemetry = simulate(1, 7, kind=kind, services=(8, 12))
    assert bundle_files(incident, telemetry)
    assert incident.fault_kind() == kind
    assert incident.is_no_fault() == is_no_fault(kind)
    for label in incident.labels:
        check_label(incident.id, label, known_entities(incident, telemetry))


def test_the_vocabulary_is_simulated() -> None:
    assert set(SIMULATED) == set(FAULT_KINDS) - {"unknown", NO_FAULT}
    with pytest.raises(UnknownName, match="slow_database"):
        simulate(1, 0, kind="slow_databases")


@pytest.mark.parametrize("index", range(6))
def test_frames_conform_hold_their_window_and_can_be_ranked(index: int) -> None:
    incident, telemetry = simulate(2, index, services=(5, 15))
    for name, frame in telemetry.frames().items():
        assert frame.equals(conform(name, frame)), name
        assert frame.columns == list(SCHEMAS[name])
    window = incident.window
    assert all(baseline.end_ns <= window.start_ns for baseline in incident.baselines)
    assert window.start_ns < window.end_ns
    for frame in (telemetry.metrics, telemetry.logs, telemetry.alerts):
        assert frame.filter(pl.col("time_unix_nano") >= window.end_ns).is_empty()
    ranking = triage(incident, telemetry, create("floor"))
    assert set(incident.causes()) <= {candidate.entity for candidate in ranking.candidates}


@pytest.mark.parametrize("emission", ["bins", "spans"])
def test_equal_arguments_give_equal_bytes(emission: Emission) -> None:
    first = bundle_files(*simulate(3, 11, services=(5, 8), emission=emission))
    simulate(3, 12, services=(5, 8))
    assert bundle_files(*simulate(3, 11, services=(5, 8), emission=emission)) == first
    assert bundle_files(*simulate(4, 11, services=(5, 8), emission=emission)) != first


def test_names_say_nothing_of_what_they_name() -> None:
    names = {name for index in range(5) for name in _system(index).names}
    words = ("cart", "pay", "auth", "database", "db", "cache", "queue", "gateway", "service", "worker", "fault")
    assert not [name for name in names for word in words if word in name.replace(".example", "")]


# --- systems --------------------------------------------------------------------------------------------------------


def _system(index: int, services: tuple[int, int] = (5, 30)) -> System:
    return draw_system(np.random.default_rng([5, index]), CONFIG, services)


@pytest.mark.parametrize("index", range(8))
def test_systems_are_acyclic_and_every_operation_is_used(index: int) -> None:
    system = _system(index)
    assert (system.level[system.target] > system.level[system.source]).all()
    assert (np.diff(system.level) >= 0).all()
    used = np.isin(np.arange(len(system.level)), system.target) | (system.entry > 0) | (system.consumes >= 0)
    assert used.all()
    assert len(set(system.names)) == len(system.names)
    assert system.rate.sum() <= CONFIG.topology.calls_per_request * system.entry.sum() * 3
    assert (system.component_of[system.source] < system.services).all()


def test_every_shape_is_drawn() -> None:
    assert {_system(index).shape for index in range(30)} == set(CONFIG.topology.shapes)


# --- queues ---------------------------------------------------------------------------------------------------------


def test_waiting_agrees_with_the_formulas_of_known_queues() -> None:
    use = np.array([0.2, 0.5, 0.8, 0.95])
    assert wait_in_line(use, np.ones(4)) == pytest.approx(use / (1 - use))  # M/M/1
    two_servers = 0.7**2 / (1 - 0.7**2)  # M/M/2
    assert wait_in_line(np.array([0.7]), np.array([2.0]))[0] == pytest.approx(two_servers, rel=0.05)


def test_a_line_grows_while_more_arrives_than_is_served_and_is_no_longer_than_it_may() -> None:
    arriving, served = np.array([[1.0, 3.0, 3.0, 3.0, 0.0, 0.0]]), np.full((1, 6), 2.0)
    assert line_over_time(arriving, served, np.array([np.inf]))[0].tolist() == [0, 10, 20, 30, 10, 0]
    assert line_over_time(arriving, served, np.array([15.0]))[0].tolist() == [0, 10, 15, 15, 0, 0]


def _quiet(system: System) -> Conditions:
    rng = np.random.default_rng(1)
    return undisturbed(system, draw_load(rng, system, CONFIG.load, 40_000.0, BINS), BINS // 2)


def _solved(system: System, conditions: Conditions) -> State:
    return Solver(system, conditions).solve()


def test_rates_are_what_callers_send() -> None:
    system = _system(1)
    state = _solved(system, _quiet(system))
    into = np.zeros_like(state.rate)
    np.add.at(into, system.target, state.calls)
    called = (system.consumes < 0) & (system.entry == 0)
    assert into[called] == pytest.approx(state.rate[called], rel=1e-6)


def test_little_s_law() -> None:
    """Requests in the system on average are their rate times their time there, by counting as by calculation."""
    system = _system(2, (10, 14))
    conditions = _quiet(system)
    state = _solved(system, conditions)
    served = pools_of(World(system, conditions, state), np.random.default_rng(3), 20)
    counted = sum((state.rate[o] * s.outcome.duration.mean(axis=0)).mean() for o, s in enumerate(served))
    calculated = (state.rate * state.latency).mean(axis=1).sum()
    assert counted == pytest.approx(calculated, rel=0.15)


def test_callers_of_a_slow_callee_get_slower_and_hold_their_threads() -> None:
    system = _system(4, (12, 16))
    slow, calm = _quiet(system), _solved(system, _quiet(system))
    victim = int(np.argmax(np.where(np.isin(np.arange(len(system.level)), system.target), system.rate, 0)))
    slow.wait[victim, BINS // 2 :] += 0.3
    state = _solved(system, slow)
    for site in np.flatnonzero((system.target == victim) & (system.chance > 0.9) & (system.behind < 0)).tolist():
        caller = int(system.source[site])
        assert state.latency[caller, -1] > calm.latency[caller, -1] + 0.2
        pods = system.pods_of[int(system.component_of[caller])]
        assert state.workers[pods, -1].sum() > calm.workers[pods, -1].sum()
    assert state.latency[:, 0] == pytest.approx(calm.latency[:, 0])


def test_pods_of_a_busy_node_suffer_and_others_do_not() -> None:
    system = _system(3, (20, 30))
    busy, calm = _quiet(system), _solved(system, _quiet(system))
    busy.node_burnt[0, BINS // 2 :] = 2 * system.node_cores[0]
    state = _solved(system, busy)
    here = system.pod_node == 0
    assert (state.stretch[here, -1] > 1.5 * calm.stretch[here, -1]).all()
    elsewhere = (system.pod_node > 0) & (calm.stretch[:, -1] < 1.05)
    assert np.median(state.stretch[elsewhere, -1] / calm.stretch[elsewhere, -1]) == pytest.approx(1.0, abs=0.05)


def test_retries_multiply_the_load_of_what_fails() -> None:
    system = _system(6, (10, 20))
    victim = int(np.argmax(np.where(np.isin(np.arange(len(system.level)), system.target), system.rate, 0)))
    failing = _quiet(system)
    failing.own_error[victim, BINS // 2 :] = 0.9
    patient = _solved(replace(system, retries=np.zeros_like(system.retries)), failing)
    eager = _solved(replace(system, retries=np.full_like(system.retries, 3)), failing)
    assert eager.rate[victim, -1] > 2 * patient.rate[victim, -1]


def test_a_full_pool_delays_the_calls_that_need_it() -> None:
    system = next(s for s in map(_system, range(20)) if len(s.pool_owner) > 1)
    conditions = _quiet(system)
    conditions.pool_held[0] = 1.0
    state, calm = _solved(system, conditions), _solved(system, _quiet(system))
    assert state.pool_wait[0].min() > 0.02
    assert calm.pool_wait.max() < 0.02


# --- faults ---------------------------------------------------------------------------------------------------------

SIGNATURES = {
    "cpu_contention": ("cpu", "self_time"),
    "cpu_consumed": ("cpu", "self_time"),
    "noisy_neighbour": ("cpu",),
    "memory_leak": ("memory",),
    "disk_full": ("own_errors", "error_lines", "into.failed_calls"),
    "slow_io": ("disk", "self_time", "into.client_latency"),
    "network_delay": ("gap_in", "into.client_latency"),
    "network_loss": ("gap_in", "into.client_latency"),
    "network_corrupt": ("gap_in", "into.client_latency", "into.failed_calls"),
    "network_partition": ("traffic", "into.failed_calls"),
    "dns_failure": ("own_errors",),
    "exception": ("own_errors",),
    "return": ("vanished_calls",),
    "bad_rollout": ("changes", "own_errors", "self_time"),
    "configuration_mistake": ("own_errors", "out.failed_calls", "out.client_latency"),
    "availability": ("own_errors", "into.failed_calls"),
    "latency": ("self_time", "into.client_latency"),
    "thread_starvation": ("server_latency", "gap_in", "own_errors"),
    "connection_pool_exhaustion": ("self_time", "server_latency", "vanished_calls", "error_lines"),
    "slow_database": ("into.client_latency",),
    "database_lock": ("into.client_latency", "into.failed_calls"),
    "retry_storm": ("out.calls", "metric_client_traffic"),
    "pod_kill": ("changes", "traffic", "other"),
    "pod_failure": ("traffic", "log_volume", "other"),
    "crash_loop": ("warnings", "other"),
    "cache_down": ("into.failed_calls", "into.client_latency"),
    "cold_cache": ("sideways.calls",),
    "queue_backlog": ("self_time", "traffic", "into.client_latency"),
    "dead_consumer": ("traffic", "vanished_templates"),
    "external_down": ("into.failed_calls", "into.client_latency"),
}
"""Signals of the culprit, of calls into it or out of it, of other calls of its callers: at least one of them stands out."""


@pytest.mark.parametrize("kind", SIGNATURES)
def test_a_fault_shows_where_its_label_points(kind: str) -> None:
    loudest = []
    for index in range(3):
        incident, telemetry = simulate(21, index, CLEAR, kind=kind, services=(8, 12))
        assert incident.fault_kind() == kind
        case = case_of(incident, telemetry)
        row = case.graph.rows[incident.causes()[0]]
        loudest.append(max(_deviation(case.deviations, row, signal) for signal in SIGNATURES[kind]))
    assert np.median(loudest) > 3


def _deviation(deviations: Deviations, row: int, signal: str) -> float:
    """Largest absolute deviation of a signal of an entity, or of calls that touch it; 0 where it was not observed."""
    side, _, name = signal.rpartition(".")
    if not side:
        return float(np.nan_to_num(np.abs(deviations.node[row, NODE_COLUMN[name]])))
    callers = {a for ends in deviations.edges.values() for a, b in ends.T.tolist() if b == row}
    values = [0.0]
    for relation, ends in deviations.edges.items():
        chosen = {"into": ends[1] == row, "out": ends[0] == row, "sideways": np.isin(ends[0], list(callers))}[side]
        values += np.nan_to_num(np.abs(deviations.edge[relation][chosen, EDGE_COLUMN[name]])).tolist()
    return max(values)


def test_nobody_is_to_blame_for_a_surge_and_most_have_it() -> None:
    traffic = []
    for index in range(4):
        incident, telemetry = simulate(21, index, CLEAR, kind="traffic_surge", services=(8, 12))
        assert not incident.causes()
        traffic.append(np.nanmedian(case_of(incident, telemetry).deviations.node[:, NODE_COLUMN["traffic"]]))
    assert np.median(traffic) > 2


def test_a_broken_pipeline_takes_telemetry_and_no_traffic() -> None:
    telemetry = [simulate(21, index, CLEAR, kind="telemetry_pipeline", services=(8, 12)) for index in range(6)]
    thinner = 0
    for incident, frames in telemetry:
        length = incident.window.end_ns - incident.window.start_ns
        for frame, column in ((frames.bin_counts, "count"), (frames.metrics, None), (frames.logs, "count")):
            now = frame.filter(pl.col("time_unix_nano") >= incident.window.start_ns)
            before = frame.filter(
                pl.col("time_unix_nano").is_between(incident.window.start_ns - length, incident.window.start_ns)
            )
            counted = [part[column].sum() if column else part.height for part in (now, before)]
            thinner += counted[0] < 0.9 * counted[1]
    assert thinner >= 6


# --- bins and spans -------------------------------------------------------------------------------------------------


def test_every_call_that_is_answered_arrives() -> None:
    system = _system(7, (8, 12))
    conditions = _quiet(system)
    world, rng = World(system, conditions, _solved(system, conditions)), np.random.default_rng(5)
    counter = Counter(world, pools_of(world, rng, 8), Tracing(1.0, True, False), rng)
    frames = counter.frames(START_NS)
    counts, durations = frames["bin_counts"], frames["bin_durations"]

    def total(what: str, column: str, name: str, frame: pl.DataFrame = counts) -> int:
        return int(frame.filter((pl.col("what") == what) & (pl.col(column) == name))["count"].sum())

    entered = set(system.component_of[(system.entry > 0) | (system.consumes >= 0)].tolist())
    for component in set(range(system.services)) - entered:
        name = system.names[component]
        assert total("call", "target", name) == total("request", "source", name)
    for component in range(system.services):
        name = system.names[component]
        requests = total("request", "source", name)
        assert total("server", "source", name, durations) == total("self", "source", name, durations) == requests
        assert total("error", "source", name) <= requests
    assert counts["time_unix_nano"].min() >= START_NS  # type: ignore[operator]
    assert set(((counts["time_unix_nano"] - START_NS) % BIN_NS).to_list()) == {0}


@pytest.mark.parametrize("kind", ["latency", "exception", "network_partition", "dead_consumer"])
def test_bins_without_spans_agree_with_the_bins_of_spans(kind: str) -> None:
    config = replace(CLEAR, telemetry=replace(CLEAR.telemetry, baseline_minutes=Range(3, 3), window_minutes=Range(3, 3)))
    config = replace(config, load=replace(config.load, requests_per_second=Range(6, 6)))
    incident, quick = simulate(8, 2, config, kind=kind, services=(6, 9))
    same, slow = simulate(8, 2, config, kind=kind, services=(6, 9), emission="spans")
    assert same.labels == incident.labels
    frames = frames_of(slow.spans)
    for what in ("span", "request", "child", "call"):
        mine, theirs = (f.filter(pl.col("what") == what)["count"].sum() for f in (quick.bin_counts, frames["bin_counts"]))
        assert mine == pytest.approx(theirs, rel=0.06)
    for what in ("error", "own_error", "call_error"):
        mine, theirs = (f.filter(pl.col("what") == what)["count"].sum() for f in (quick.bin_counts, frames["bin_counts"]))
        assert mine == pytest.approx(theirs, rel=0.25, abs=40)
    keys = ["what", "source", "operation", "target_kind", "target", "target_operation"]
    often = frames["bin_counts"].group_by(keys).agg(pl.col("count").sum()).filter(pl.col("count") > 60)
    assert often.join(quick.bin_counts, on=keys, how="anti", nulls_equal=True).is_empty()
    for what in ("server", "self", "leaf", "client", "called", "gap"):
        middle = [_median(f.filter(pl.col("what") == what)) for f in (quick.bin_durations, frames["bin_durations"])]
        assert middle[0] == pytest.approx(middle[1], abs=8), what  # buckets of 2 %


def _median(durations: pl.DataFrame) -> float:
    ordered = durations.group_by("bucket").agg(pl.col("count").sum()).sort("bucket")
    reached = ordered["count"].cum_sum() >= ordered["count"].sum() / 2
    return float(ordered["bucket"].filter(reached)[0])
