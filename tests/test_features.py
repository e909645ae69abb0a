"""From deviations to features: thresholds, ranks, context and the label-free score, by hand."""

from __future__ import annotations

from math import log, log1p

import numpy as np
import pytest

from rca.deviations import Deviations
from rca.features import Calibration, graph_of, loudest_signals, path_members
from rca.graph import RELATIONS, ServiceGraph
from rca.signals import EDGE_SIGNALS, NODE_COLUMN, NODE_SIGNALS
from rca.telemetry import EntityId, EntityKind

Z = dict[str, dict[str, float]]  # entity -> signal -> z
TWO = log1p(2.0)  # the threshold where nothing is calibrated


def deviations(z: Z, calls: list[tuple[str, str]] | None = None, kinds: dict[str, str] | None = None) -> Deviations:
    """Deviations of services (or of the kinds given) with call edges between them; everything not named is NaN."""
    names = list(z)
    node = np.full((len(names), len(NODE_SIGNALS)), np.nan)
    for row, name in enumerate(names):
        for signal, value in z[name].items():
            node[row, NODE_COLUMN[signal]] = value
    edges = {relation: np.zeros((2, 0), dtype=np.int64) for relation in RELATIONS}
    pairs = [(names.index(a), names.index(b)) for a, b in calls or []]
    edges["calls"] = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    entities = tuple(EntityId((kinds or {}).get(name, "service"), name) for name in names)  # type: ignore[arg-type]
    edge = {relation: np.full((pairs.shape[1], len(EDGE_SIGNALS)), np.nan) for relation, pairs in edges.items()}
    return Deviations(entities, edges, node, np.full_like(node, np.nan), edge)


def graph(made: Deviations, *quiet: Deviations) -> ServiceGraph:
    return graph_of(made, Calibration.of(quiet, made))


def column(made: ServiceGraph, feature: str) -> list[float | None]:
    """One feature by row, None where it is not available."""
    position = made.feature_names.index(feature)
    values = zip(made.features[:, position].tolist(), made.available[:, position].tolist(), strict=True)
    return [value if there else None for value, there in values]


def test_z_keeps_its_sign_and_what_was_not_seen_is_masked() -> None:
    made = graph(deviations({"a": {"cpu": 7.0}, "b": {"cpu": -7.0}, "c": {}}))
    assert column(made, "cpu.z") == [pytest.approx(log(8)), pytest.approx(-log(8)), None]
    assert column(made, "cpu.above") == [pytest.approx(log(8) - TWO), pytest.approx(log(8) - TWO), None]


def test_ranks_count_ties_half_and_candidates_only() -> None:
    kinds = {"p": "pod"}
    made = graph(
        deviations({"a": {"cpu": 5}, "b": {"cpu": -5}, "c": {"cpu": 1}, "d": {"cpu": 9}, "e": {}, "p": {"cpu": 7}}, kinds=kinds)
    )
    assert column(made, "cpu.rank") == [pytest.approx(0.5), pytest.approx(0.5), 0.0, 1.0, None, None]
    assert column(graph(deviations({"a": {"cpu": 5}, "b": {}})), "cpu.rank") == [None, None]


def test_without_quiet_stretches_two_deviations_are_the_threshold_and_one_alert_counts() -> None:
    made = deviations({"a": {"cpu": 2.0, "alert_cpu": 1.0}})
    threshold = Calibration.of((), made).threshold[0]
    assert threshold[NODE_COLUMN["cpu"]] == pytest.approx(TWO)
    assert threshold[NODE_COLUMN["alert_cpu"]] == pytest.approx(0.35)


def test_thresholds_mix_the_loudest_of_the_class_and_the_entitys_own_quiet_times() -> None:
    quiet = [deviations({"a": {"cpu": float(z)}, "b": {"cpu": 1.0}, "c": {}}) for z in (3, 5, 7, 9, 11, 20)]
    threshold = Calibration.of(quiet, deviations({"a": {}, "b": {}, "c": {}})).threshold[:, NODE_COLUMN["cpu"]]
    loud = sorted(log1p(z) for z in (3, 5, 7, 9, 11, 20))
    of_class = loud[4]  # 80 % of 5 steps
    own = loud[4] + 0.25 * (loud[5] - loud[4])  # 85 % of 5 steps
    assert threshold[0] == pytest.approx(0.6 * of_class + 0.4 * own)
    assert threshold[1] == pytest.approx(0.6 * of_class + 0.4 * log1p(1.0))
    assert threshold[2] == pytest.approx(of_class)  # never seen in quiet times: the class stands in


def test_thresholds_have_a_floor_and_bystanders_do_not_raise_them() -> None:
    calls = [("a", "b")]
    quiet = [deviations({"a": {"cpu": 0.1}, "b": {"cpu": 0.1}, "bystander": {"cpu": 900.0}}, calls)] * 3
    threshold = Calibration.of(quiet, deviations({"a": {}, "b": {}, "bystander": {}}, calls)).threshold
    assert threshold[0, NODE_COLUMN["cpu"]] == pytest.approx(0.7)
    assert threshold[0, NODE_COLUMN["memory"]] == pytest.approx(TWO)  # no quiet value at all


def test_the_label_free_score_by_hand() -> None:
    z = {
        "front": {"cpu": 3.0},
        "middle": {"self_time": 20.0, "cpu": 5.0},
        "leaf": {"cpu": 0.0},
        "aside": {"cpu": 30.0},
        "dumb": {},
    }
    made = graph(deviations(z, [("front", "middle"), ("middle", "leaf"), ("leaf", "dumb")]))
    front, middle, leaf, aside = log(4) - TWO, log(21) - TWO, 0 - TWO, log(31) - TWO
    total = middle + log(6) - TWO
    assert column(made, "own.loudest") == [pytest.approx(v, abs=1e-6) for v in (front, middle, leaf, aside - 4, -4.0)]
    assert column(made, "own.total") == [pytest.approx(v, abs=1e-6) for v in (front, total, 0, aside, 0)]
    assert column(made, "floor") == [
        pytest.approx(v, abs=1e-6)
        for v in (front + 0.5 * front - 0.25 * middle, middle + 0.5 * total, leaf, aside - 4 + 0.5 * aside, -4.0)
    ]
    assert column(made, "callees.loudest")[:2] == [pytest.approx(middle, abs=1e-6), 0.0]
    assert column(made, "callees.loudest")[3:] == [None, None]
    assert column(made, "callers.share") == [None, 1.0, 1.0, None, 0.0]
    assert column(made, "path.on") == [1.0, 1.0, 1.0, 0.0, 1.0]
    assert loudest_signals(made, [1])[0] == "self_time"
    assert loudest_signals(made, [2])[0] is None


def test_without_any_call_nobody_is_off_the_path() -> None:
    made = graph(deviations({"a": {"cpu": 20.0}, "b": {"cpu": 1.0}}))
    assert column(made, "path.on") == [1.0, 1.0]
    assert column(made, "floor")[0] == pytest.approx(1.5 * (log(21) - TWO))


def test_what_runs_a_service_on_the_path_is_on_the_path() -> None:
    pods = {"runs": np.array([[0, 1], [2, 3]]), "hosted_on": np.array([[2, 3], [4, 5]])}
    kinds: tuple[EntityKind, ...] = ("service", "service", "pod", "pod", "node", "node", "service")
    entities = tuple(EntityId(kind, f"{kind}-{i}") for i, kind in enumerate(kinds))
    edges = {"calls": np.array([[0], [6]]), **pods}
    blank = np.full((len(entities), len(NODE_SIGNALS)), np.nan)
    unknown = {name: np.full((ends.shape[1], len(EDGE_SIGNALS)), np.nan) for name, ends in edges.items()}
    made = Deviations(entities, edges, blank, blank, unknown)
    assert path_members(made).tolist() == [True, False, True, False, True, False, True]


def test_cycles_of_calls_are_no_trouble() -> None:
    made = graph(deviations({"a": {"cpu": 20.0}, "b": {"cpu": 3.0}}, [("a", "b"), ("b", "a")]))
    loud, quiet = log(21) - TWO, log(4) - TWO
    assert column(made, "callees.loudest") == [pytest.approx(quiet, abs=1e-6), pytest.approx(loud, abs=1e-6)]


def test_inclusive_latency_does_not_raise_the_score() -> None:
    made = graph(deviations({"a": {"server_latency": 500.0, "cpu": 0.0}, "b": {"cpu": 3.0}}, [("a", "b")]))
    score = made.column("floor")
    assert score[1] > score[0]


def test_where_alerts_are_all_there_is_they_are_the_score() -> None:
    made = graph(deviations({"a": {"alert_rarity": 3.0}, "b": {"alert_rarity": 0.0}}, [("a", "b")]))
    assert column(made, "own.loudest") == [pytest.approx(log(4) - 0.35, abs=1e-6), pytest.approx(-0.35, abs=1e-6)]


def test_nobody_and_one_alone() -> None:
    assert graph(deviations({})).features.shape[0] == 0
    assert np.isfinite(graph(deviations({"a": {}})).features).all()
