"""Every signal on a window small enough to work its deviation out by hand."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log, sqrt
from typing import Any

import numpy as np
import polars as pl
import pytest

from rca.bins import BUCKET_WIDTH, OFFSET_SECONDS
from rca.deviations import Deviations, anscombe, measure
from rca.signals import EDGE_COLUMN, NODE_COLUMN, NODE_SIGNALS
from rca.telemetry import MINUTE_NS, SECOND_NS, Interval
from rca.window import Window
from tests.shop import BASELINE, INCIDENT, T0, Row, call, requests, span, window

NOW = INCIDENT.start_ns
CALM = 10 * MINUTE_NS


def value(deviations: Deviations, signal: str, name: str) -> float:
    row = next(i for i, entity in enumerate(deviations.entities) if entity.name == name)
    return float(deviations.node[row, NODE_COLUMN[signal]])


def of(made: Window, signal: str, name: str) -> float:
    return value(measure(made)[0], signal, name)


def on_edge(made: Window, signal: str, relation: str = "calls") -> list[float]:
    return [float(z) for z in measure(made)[0].edge[relation][:, EDGE_COLUMN[signal]]]


def bucketed(ms: float) -> float:
    """ln of a duration as bins keep it."""
    return round(log(ms / 1e3 + OFFSET_SECONDS) / BUCKET_WIDTH) * BUCKET_WIDTH


def shift(ms_before: float, ms_now: float, before: int, now: int) -> float:
    """Two-sample shift of durations that are all equal, so that their spread is the least one."""
    return (bucketed(ms_now) - bucketed(ms_before)) / (0.15 * sqrt(1 / min(before, 60) + 1 / min(now, 20)))


# --- durations ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "now"), [(100, 50), (8, 3), (30, 10)])
def test_latency_is_the_two_sample_shift_of_medians(before: int, now: int) -> None:
    made = window(spans=requests("A", T0, before) + requests("A", NOW, now, took_ms=200))
    assert of(made, "server_latency", "A") == pytest.approx(shift(100, 200, before, now))
    assert of(made, "self_time", "A") == pytest.approx(shift(100, 200, before, now))
    assert of(made, "self_time_fall", "A") == 0


@pytest.mark.parametrize(("before", "now"), [(7, 50), (100, 2), (0, 50)])
def test_too_few_spans_before_or_now_tell_nothing(before: int, now: int) -> None:
    made = window(spans=requests("A", T0, before) + requests("A", NOW, now, took_ms=200))
    assert np.isnan(of(made, "server_latency", "A"))


def test_the_spread_of_the_baseline_counts() -> None:
    before = [
        row for i in range(60) for row in requests("A", T0 + i * 1000 * SECOND_NS // 1000, 1, took_ms=(50, 100, 200)[i % 3])
    ]
    made = window(spans=before + requests("A", NOW, 20, took_ms=300))
    spread = (bucketed(200) - bucketed(50)) / 1.349  # a third of the spans each: the quartiles are the outer values
    error = sqrt(spread**2 / 60 + 0.15**2 / 20)
    assert of(made, "server_latency", "A") == pytest.approx((bucketed(300) - bucketed(100)) / error)


def test_latency_that_falls_counts_as_falling_only() -> None:
    made = window(spans=requests("A", T0, 60, took_ms=200) + requests("A", NOW, 20))
    assert of(made, "server_latency", "A") == 0
    assert of(made, "self_time_fall", "A") == pytest.approx(-shift(200, 100, 60, 20))


def test_the_largest_shift_over_operations_stands() -> None:
    rows = [row for name in ("x", "y") for row in requests("A", T0, 60, name=name)]
    rows += requests("A", NOW, 20, name="x", took_ms=150) + requests("A", NOW, 20, name="y", took_ms=300)
    assert of(window(spans=rows), "server_latency", "A") == pytest.approx(shift(100, 300, 60, 20))


def pairs(at_ns: int, count: int, **more: Any) -> list[Row]:
    return [row for i in range(count) for row in call("A", "B", at_ns + i * SECOND_NS, i, **more)]


def test_a_gap_is_credited_to_the_callee() -> None:
    made = window(spans=pairs(T0, 60) + pairs(NOW, 20, gap_ms=60))
    expected = shift(10, 60, 60, 20)
    assert on_edge(made, "gap") == [pytest.approx(expected)]
    assert on_edge(made, "called_latency") == [pytest.approx(0)]
    assert [of(made, signal, "B") for signal in ("gap_in", "gap_in_all")] == [pytest.approx(expected)] * 2
    assert np.isnan(of(made, "gap_in", "A"))


def test_gaps_of_all_calls_out_of_an_entity_speak_of_it_and_one_alone_does_not() -> None:
    rows = []
    for callee, gap_ms in (("B", 20), ("C", 60)):
        rows += [row for i in range(60) for row in call("A", callee, T0 + i * SECOND_NS, i)]
        rows += [row for i in range(20) for row in call("A", callee, NOW + i * SECOND_NS, i, gap_ms=gap_ms)]
    assert of(window(spans=rows), "gap_out", "A") == pytest.approx(shift(10, 20, 60, 20))
    assert np.isnan(of(window(spans=pairs(T0, 60) + pairs(NOW, 20, gap_ms=60)), "gap_out", "A"))


def test_a_series_that_was_always_zero_counts_ten_at_its_largest_value_ever() -> None:
    made = window(metrics=samples("process.sockets", [0.0] * 10, [3.0, 3.0], "A"))
    assert of(made, "sockets", "A") == pytest.approx(10)


def test_of_several_callers_the_loudest_and_the_quietest_gap_are_kept() -> None:
    rows = []
    for caller, gap_ms in (("A", 20), ("C", 60)):
        rows += [row for i in range(60) for row in call(caller, "B", T0 + i * SECOND_NS, i)]
        rows += [row for i in range(20) for row in call(caller, "B", NOW + i * SECOND_NS, i, gap_ms=gap_ms)]
    made = window(spans=rows)
    assert of(made, "gap_in", "B") == pytest.approx(shift(10, 60, 60, 20))
    assert of(made, "gap_in_all", "B") == pytest.approx(shift(10, 20, 60, 20))


def test_a_database_is_credited_with_what_all_its_callers_see() -> None:
    rows = []
    for caller, now_ms in (("A", 40), ("C", 90)):
        for at_ns, count, ms in ((T0, 60, 20), (NOW, 20, now_ms)):
            for i in range(count):
                rows.append(span("q", caller, 0, ms, kind=3, db__system__name="pg", trace=f"{caller}{at_ns}{i}", at_ns=at_ns + i))
    made = window(spans=rows)
    assert of(made, "leaf_latency", "pg") == pytest.approx(shift(20, 40, 60, 20))


# --- counts -------------------------------------------------------------------------------------------------------------


def test_anscombe_by_hand() -> None:
    assert anscombe(np.array([9.0]), np.array([4.0]), np.array([0.0])) == pytest.approx(2 * (sqrt(9.375) - sqrt(4.375)))


def handled(at_ns: int, count: int, *, calls: bool) -> list[Row]:
    """Requests of A, each with a child span in B or without."""
    rows = []
    for i in range(count):
        trace, at = f"{at_ns}-{i}", at_ns + i * SECOND_NS
        rows.append(span("a", "A", 0, 50, name="handle", trace=trace, at_ns=at))
        rows += [span("b", "B", 10, 40, "a", name="serve", trace=trace, at_ns=at)] if calls else []
    return rows


def test_child_calls_that_stop_are_charged_to_the_parent() -> None:
    made = window(spans=handled(T0, 100, calls=True) + handled(NOW, 50, calls=False))
    expected = -2 * (sqrt(0.375) - sqrt(50.375)) / sqrt(1.5)
    assert of(made, "vanished_calls", "A") == pytest.approx(expected)
    assert of(made, "new_calls", "B") == 0


def test_child_calls_that_stop_together_with_their_parent_are_no_deviation() -> None:
    made = window(spans=pairs(T0, 100) + pairs(NOW, 10))
    assert of(made, "vanished_calls", "A") == pytest.approx(0)


def test_a_child_whose_parent_lies_before_the_telemetry_harms_nothing() -> None:
    made = window(spans=handled(T0, 40, calls=True) + handled(NOW, 40, calls=True))
    first = made.bins.counts.filter((pl.col("what") == "child") & (pl.col("source") == "A")).head(1)
    orphan = first.with_columns(pl.lit("an operation that no span has").alias("operation"))
    with_orphan = replace(made, bins=replace(made.bins, counts=pl.concat([made.bins.counts, orphan])))
    assert of(with_orphan, "vanished_calls", "A") == of(made, "vanished_calls", "A")


def test_new_child_calls_are_charged_to_the_callee() -> None:
    made = window(spans=handled(T0, 100, calls=False) + handled(NOW, 50, calls=True))
    expected = 2 * (sqrt(50.375) - sqrt(0.375)) / sqrt(1.5)
    assert of(made, "new_calls", "B") == pytest.approx(expected)


def test_errors_count_per_span_of_the_service() -> None:
    made = window(spans=pairs(T0, 100) + pairs(NOW, 50, error=True))
    expected = 2 * (sqrt(50.375) - sqrt(0.375)) / sqrt(1.5)
    assert of(made, "own_errors", "B") == pytest.approx(expected)
    assert of(made, "own_errors", "A") == 0
    assert of(made, "errors", "A") == pytest.approx(expected)  # half of its spans failed as requests, and half as clients
    assert on_edge(made, "failed_calls") == [pytest.approx(expected)]


def test_traffic_is_a_rate_per_covered_bin_so_that_missing_minutes_do_not_count() -> None:
    def at_rate(at_ns: int, seconds: int, per_bin: int) -> list[Row]:
        return requests("A", at_ns, seconds // 10 * per_bin, every_ms=10_000 // per_bin, took_ms=1)

    half = at_rate(T0, 100, 10) + at_rate(T0 + 8 * MINUTE_NS, 100, 10)  # the minutes between were not recorded
    assert of(window(spans=half + at_rate(NOW, 300, 10)), "traffic", "A") == pytest.approx(0, abs=0.02)
    doubled = of(window(spans=half + at_rate(NOW, 300, 20)), "traffic", "A")
    ratio = log((600 + 0.5) / 30) - log((200 + 0.5) / 20)
    assert doubled == pytest.approx(ratio / max(sqrt(1 / 600.5 + 1 / 200.5), 0.15))


def test_calls_per_request_of_the_caller() -> None:
    rows = pairs(T0, 100) + pairs(NOW, 50)
    rows += [span("a", "A", 0, 50, trace=f"other{i}", at_ns=NOW + i * SECOND_NS) for i in range(50)]
    expected = 2 * (sqrt(50.375) - sqrt(100.375)) / sqrt(2)
    assert on_edge(window(spans=rows), "calls") == [pytest.approx(expected)]


# --- logs ---------------------------------------------------------------------------------------------------------------


def line(at_ns: int, template: str, count: int, severity: str = "INFO", **more: Any) -> Row:
    row = {"time_unix_nano": at_ns, "entity_kind": "service", "entity": "A", "operation": "op"}
    return {**row, "severity": severity, "template": template, "count": count, **more}


def test_templates_that_vanish_or_are_new_per_span_of_their_operation() -> None:
    spans = requests("A", T0, 100) + requests("A", NOW, 50)
    made = window(spans=spans, logs=[line(T0, "usual", 100), line(NOW, "unusual", 50)])
    expected = 2 * (sqrt(50.375) - sqrt(0.375)) / sqrt(1.5)
    assert of(made, "vanished_templates", "A") == pytest.approx(expected)
    assert of(made, "new_templates", "A") == pytest.approx(expected)
    assert of(made, "error_lines", "A") == 0


def test_templates_without_an_operation_count_per_line_of_the_service() -> None:
    logs = [line(T0, "x", 50, operation=None), line(T0, "y", 50, operation=None), line(NOW, "x", 50, operation=None)]
    made = window(spans=requests("A", T0, 100) + requests("A", NOW, 50), logs=logs)
    assert of(made, "vanished_templates", "A") == pytest.approx(-2 * (sqrt(0.375) - sqrt(25.375)) / sqrt(1.5))


def test_error_lines_count_per_span_and_error_templates_that_vanish_do_not() -> None:
    spans = requests("A", T0, 100) + requests("A", NOW, 50)
    made = window(spans=spans, logs=[line(T0, "usual", 100), line(NOW, "usual", 50), line(NOW, "boom", 20, "ERROR")])
    assert of(made, "error_lines", "A") == pytest.approx(2 * (sqrt(20.375) - sqrt(0.375)) / sqrt(1.5))
    healed = window(spans=spans, logs=[line(T0, "boom", 100, "FATAL"), line(NOW, "usual", 50)])
    assert of(healed, "error_lines", "A") == 0
    assert of(healed, "vanished_templates", "A") == 0


def test_log_lines_of_a_pod_are_its_owners() -> None:
    spans = [row | {"k8s.pod.name": "A-1"} for row in requests("A", T0, 100) + requests("A", NOW, 50)]
    logs = [line(T0, "usual", 100), line(NOW, "boom", 20, "ERROR", entity_kind="pod", entity="A-1")]
    assert of(window(spans=spans, logs=logs), "error_lines", "A") == pytest.approx(2 * (sqrt(20.375) - sqrt(0.375)) / sqrt(1.5))


def test_without_spans_error_lines_count_per_time() -> None:
    def every_bin(start: int, minutes: int, template: str, count: int, severity: str = "INFO") -> list[Row]:
        return [line(start + i * 10 * SECOND_NS, template, count, severity) for i in range(6 * minutes)]

    steady = every_bin(T0, 10, "usual", 9) + every_bin(T0, 10, "boom", 1, "ERROR")
    same = every_bin(NOW, 5, "usual", 9) + every_bin(NOW, 5, "boom", 1, "ERROR")
    assert of(window(logs=steady + same), "error_lines", "A") == pytest.approx(0)
    more = every_bin(NOW, 5, "usual", 9) + every_bin(NOW, 5, "boom", 3, "ERROR")
    assert of(window(logs=steady + more), "error_lines", "A") == pytest.approx(2 * (sqrt(90.375) - sqrt(30.375)) / sqrt(1.5))
    assert of(window(logs=steady + same), "log_volume", "A") == pytest.approx(0, abs=0.02)


# --- metrics ------------------------------------------------------------------------------------------------------------


def samples(metric: str, before: list[float], now: list[float], entity: str = "A", kind: str = "service") -> list[Row]:
    about = {"entity_kind": kind, "entity": entity, "metric": metric}
    return [
        {"time_unix_nano": start + i * 15 * SECOND_NS, "value": float(x), **about}
        for start, values in ((T0, before), (NOW, now))
        for i, x in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("metric", "signal", "before", "now", "expected"),
    [
        ("container.cpu.usage", "cpu", [8, 9, 10, 11, 12], [20, 20], 10 / 1.4826),  # MAD
        ("container.cpu.usage", "cpu", [10, 10, 10, 10], [11], 2.0),  # 5 % of the median
        ("container.cpu.usage", "cpu", [10, 10, 10, 10], [8, 10], -2.0),  # mean over the window, signed
        ("container.cpu.usage", "cpu", [10, 10, float("nan"), 10], [float("nan"), 11], 2.0),  # NaN is missing
        ("server.request.duration.p50", "metric_server_latency", [0.1] * 5, [0.2], log(0.201 / 0.101) / 0.1),
        ("server.request.duration.p50", "metric_server_latency", [0.2] * 5, [0.1], 0.0),  # up only
        ("server.request.success_ratio", "metric_success", [1.0] * 5, [0.9], 10.0),  # down counts
        ("server.request.success_ratio", "metric_success", [0.9] * 5, [1.0], 0.0),
        ("team.own.metric", "other", [10, 10, 10], [11], 2.0),
        ("container.cpu.usage", "cpu", [1e-3] * 5, [1e6], 1000.0),  # clipped
    ],
)
def test_metrics_are_robust_z_with_floors(
    metric: str, signal: str, before: list[float], now: list[float], expected: float
) -> None:
    assert of(window(metrics=samples(metric, before, now)), signal, "A") == pytest.approx(expected)


def test_a_floor_is_shared_by_all_series_of_a_metric() -> None:
    rows = samples("container.cpu.usage", [100.0] * 5, [100.0], "A") + samples("container.cpu.usage", [1.0] * 5, [2.01], "B")
    assert of(window(metrics=rows), "cpu", "B") == pytest.approx(1.0)  # 2 % of the median level, 50.5


def test_two_samples_are_no_baseline() -> None:
    assert np.isnan(of(window(metrics=samples("container.cpu.usage", [1, 1], [2])), "cpu", "A"))


def test_the_slope_is_per_minute() -> None:
    rows = samples("container.memory.usage", [10.0] * 5, [10.0, 10.5, 11.0, 11.5])  # 1 z every 15 s
    deviations, _ = measure(window(metrics=rows))
    assert deviations.slope[0, NODE_COLUMN["memory"]] == pytest.approx(4.0)


def test_metrics_of_pods_roll_up_to_the_service_that_runs_them_the_loudest_first() -> None:
    runs = [
        {"source_kind": "service", "source": "A", "relation": "runs", "target_kind": "pod", "target": pod}
        for pod in ("A-1", "A-2")
    ]
    rows = samples("container.cpu.usage", [10.0] * 5, [11.0], "A-1", "pod") + samples(
        "container.cpu.usage", [10.0] * 5, [7.0], "A-2", "pod"
    )
    made = window(metrics=rows, topology=runs)
    assert [of(made, "cpu", name) for name in ("A-1", "A-2", "A")] == [pytest.approx(2), pytest.approx(-6), pytest.approx(-6)]


def test_the_gap_of_aggregated_calls_is_credited_to_the_callee() -> None:
    rows = [
        {
            "time_unix_nano": start + i * 15 * SECOND_NS + late,
            "caller": "A",
            "callee_kind": "service",
            "callee": "B",
            "metric": m,
            "value": x,
        }
        for start, client in ((T0, 0.3), (NOW, 0.5))
        for i in range(5)
        for m, x, late in (("call.client.duration.p50", client, 0), ("call.server.duration.p50", 0.1, 3 * SECOND_NS))
    ]
    expected = log((0.4 + 1e-3) / (0.2 + 1e-3)) / 0.1
    made = window(calls=rows)
    assert on_edge(made, "metric_gap") == [pytest.approx(expected)]
    assert of(made, "metric_gap", "B") == pytest.approx(expected)
    assert np.isnan(of(made, "metric_gap", "A"))


def test_latency_that_the_callee_explains_is_no_residual() -> None:
    walk = [0.1 * exp(2 * np.sin(i)) for i in range(40)]
    rows = samples("server.request.duration.p50", walk, [9.0] * 10, "B") + samples(
        "server.request.duration.p50", [2 * x for x in walk], [18.0] * 10, "A"
    )
    spans = pairs(T0, 20) + pairs(NOW, 20)
    made = window(spans=spans, metrics=rows)
    unexplained = of(window(metrics=rows), "latency_residual", "A")
    assert unexplained == pytest.approx(of(made, "latency_residual", "B"), rel=0.05)
    assert of(made, "latency_residual", "A") < unexplained / 3


# --- events and alerts --------------------------------------------------------------------------------------------------


def event(at_ns: int, severity: str | None = "Warning", kind: str = "service", entity: str = "A") -> Row:
    return {"time_unix_nano": at_ns, "entity_kind": kind, "entity": entity, "reason": "x", "severity": severity}


def test_warnings_and_changes_beyond_what_the_baseline_leads_to_expect() -> None:
    made = window(events=[event(NOW), event(NOW), event(T0), event(T0), event(NOW, "Normal"), event(NOW, None)])
    assert of(made, "warnings", "A") == pytest.approx(2 * (sqrt(2.375) - sqrt(1 + 0.375)))  # two in 10 minutes: one in 5
    assert of(made, "changes", "A") == pytest.approx(2 * (sqrt(2.375) - sqrt(0.375)))


def test_events_of_a_pod_are_its_owners_too() -> None:
    runs = [{"source_kind": "service", "source": "A", "relation": "runs", "target_kind": "pod", "target": "A-1"}]
    made = window(events=[event(NOW, kind="pod", entity="A-1")], topology=runs)
    assert of(made, "warnings", "A") == of(made, "warnings", "A-1") == pytest.approx(2 * (sqrt(1.375) - sqrt(0.375)))


def alert(name: str, entity: str = "A", source: str = "metric", direction: str | None = "up", peer: str | None = None) -> Row:
    return {"entity_kind": "service", "entity": entity, "name": name, "source": source, "direction": direction, "peer": peer}


def test_alerts_count_up_less_down_by_what_they_are_about() -> None:
    rows = [
        alert("HighCPU"),
        alert("cpu throttled"),
        alert("cpu low", direction="down"),
        alert("weird", "B"),
        alert("log storm", source="log"),
    ]
    made = window(alerts=rows)
    assert of(made, "alert_cpu", "A") == 1
    assert of(made, "alert_logs", "A") == 1
    assert of(made, "alert_other", "B") == 1
    assert of(made, "alert_cpu", "B") == 0


def test_alerts_that_few_others_have_weigh_more() -> None:
    made = window(alerts=[alert("cpu", "A"), alert("cpu", "B"), alert("oom", "A"), alert("odd", "C")])
    common, rare = -log(2.5 / 4), -log(1.5 / 4)
    assert of(made, "alert_rarity", "A") == pytest.approx(common + rare)
    assert of(made, "alert_rarity", "B") == pytest.approx(common)
    assert of(made, "alert_rarity", "C") == 0


def test_alerts_about_calls_are_split_by_end() -> None:
    made = window(alerts=[alert("slow call", source="trace", peer="B"), alert("failed call", source="trace")])
    assert of(made, "alert_slow_calls_out", "A") == of(made, "alert_slow_calls_in", "B") == 1
    assert of(made, "alert_failed_own", "A") == 1
    assert on_edge(made, "alert_slow") == [1]


# --- windows that lack something ----------------------------------------------------------------------------------------


def test_without_a_baseline_nothing_is_measured_and_nothing_is_zero() -> None:
    metrics = samples("container.cpu.usage", [], [2.0] * 5)
    made = window(baselines=(), spans=pairs(NOW, 50), logs=[line(NOW, "x", 5)], metrics=metrics)
    deviations, quiet = measure(made)
    assert quiet == ()
    assert np.isnan(deviations.node).all()
    assert all(np.isnan(values).all() for values in deviations.edge.values())


def test_an_empty_incident_measures_only_what_is_missing() -> None:
    deviations, quiet = measure(window(spans=pairs(T0, 600)))
    assert len(quiet) == 2
    seen = {NODE_SIGNALS[column].name for column in np.flatnonzero(np.isfinite(deviations.node).any(axis=0))}
    assert seen <= {"traffic"}


def test_an_empty_window_has_empty_deviations() -> None:
    deviations, quiet = measure(window())
    assert deviations.node.shape == (0, len(NODE_SIGNALS))
    assert quiet == ()


def test_a_single_block_of_baseline_has_no_quiet_stretch() -> None:
    made = window(
        baselines=[Interval(T0 + 5 * MINUTE_NS, BASELINE.end_ns)], spans=pairs(T0 + 5 * MINUTE_NS, 60) + pairs(NOW, 20, gap_ms=60)
    )
    deviations, quiet = measure(made)
    assert quiet == ()
    assert value(deviations, "gap_in", "B") == pytest.approx(shift(10, 60, 60, 20))


def test_quiet_stretches_are_measured_against_the_rest_of_the_baseline() -> None:
    rows = requests("A", T0, 150) + requests("A", T0 + 5 * MINUTE_NS, 150, took_ms=200) + requests("A", NOW, 150)
    _, quiet = measure(window(spans=rows))
    first, second = (value(stretch, "server_latency", "A") for stretch in quiet)
    assert first == 0
    assert second == pytest.approx(shift(100, 200, 150, 150))


def test_one_service_without_edges() -> None:
    deviations, _ = measure(window(spans=requests("A", T0, 60) + requests("A", NOW, 20, took_ms=200)))
    assert deviations.node.shape[0] == 1
    assert all(pairs.shape == (2, 0) for pairs in deviations.edges.values())
