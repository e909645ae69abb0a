"""Maps that are too large to look at whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rca.bounding import Bounds, bounded
from rca.graph import CALL_RELATIONS
from rca.incidents.example import example_incident
from rca.models.registry import create
from rca.pipeline import case_of, case_of_window, report_on
from rca.telemetry import CANDIDATE_KINDS, EntityId, Gap
from rca.topology import Topology, topology_of
from rca.window import Window
from tests.large import large_window
from tests.shop import INCIDENT, T0, call, requests, span, window

WINDOW, CAUSE, ALERTING = large_window(300, 900, hub=120)
SMALL = Bounds(candidates=60, neighbours=10)


def candidates(topology: Topology) -> set[EntityId]:
    return {entity for entity in topology.entities if entity.kind in CANDIDATE_KINDS}


def neighbours(topology: Topology) -> dict[EntityId, tuple[set[EntityId], set[EntityId]]]:
    """Callees and callers of everybody."""
    found: dict[EntityId, tuple[set[EntityId], set[EntityId]]] = {entity: (set(), set()) for entity in topology.entities}
    for relation in CALL_RELATIONS:
        for source, target in topology.edges[relation].T.tolist():
            found[topology.entities[source]][0].add(topology.entities[target])
            found[topology.entities[target]][1].add(topology.entities[source])
    return found


def new_gaps(before: Window, after: Window) -> list[Gap]:
    return [gap for gap in after.gaps if gap not in before.gaps]


def test_within_the_bounds_nothing_changes() -> None:
    topology = topology_of(WINDOW)
    same, also = bounded(WINDOW, topology, Bounds(300, 200))
    assert same is WINDOW
    assert also is topology


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    size=st.integers(5, 60), calls=st.integers(5, 200), hub=st.integers(0, 40), seed=st.integers(0, 99),
    most=st.integers(3, 70), degree=st.integers(1, 30), extra=st.integers(0, 2),
)  # fmt: skip
def test_bounds_hold_and_what_alerts_stays(
    size: int, calls: int, hub: int, seed: int, most: int, degree: int, extra: int
) -> None:
    given_window, _, alerting = large_window(size, max(calls, hub + 1), hub=hub, seed=seed)
    before = topology_of(given_window)
    also = [entity for entity in before.entities if entity.kind == "service"][:extra]
    small, topology = bounded(given_window, before, Bounds(most, degree), also)
    around, all_around = neighbours(topology), neighbours(before)
    assert len(candidates(topology)) == min(most, len(candidates(before)))
    assert {alerting, *also} & set(before.entities) <= set(topology.entities)
    for entity, (callees, callers) in around.items():
        assert len(callees) <= degree
        assert len(callers) <= degree
        assert callees <= all_around[entity][0]
        assert callers <= all_around[entity][1]
    for entity in (alerting, *also):  # joined to its neighbours, but for those whom a cap takes away
        for side in (0, 1):
            lost = (all_around[entity][side] & set(topology.entities)) - around[entity][side]
            assert (
                not lost or len(around[entity][side]) == degree or all(len(around[other][1 - side]) == degree for other in lost)
            )
    named = set(small.bins.counts["source"]) | set(small.bins.counts["target"].drop_nulls()) | set(small.bins.durations["source"])
    assert named <= {entity.name for entity in topology.entities}
    assert topology_of(small).entities == topology.entities
    again, _ = bounded(small, topology, Bounds(most, degree), also)
    assert again is small


def test_the_cause_beyond_a_hub_is_still_found_and_the_report_says_what_was_cut() -> None:
    case = case_of_window(WINDOW, bounds=SMALL)
    ranking = create("floor").rank(case)
    assert ranking.candidates[0].entity == CAUSE
    assert len(ranking.candidates) == 60
    left, hub = (gap.reason for gap in new_gaps(WINDOW, case.window))
    assert left.startswith("240 of 300 services, databases, queues, hosts and nodes were left out: ")
    assert hub.startswith("only 10 callees each are looked at of service-00000 (")


def test_a_loud_service_far_from_the_alerts_is_kept() -> None:
    rows = [row for i in range(40) for n in range(60) for row in call(f"s{i}", f"s{i + 1}", T0 + n * 10 * 10**9, n)]
    for n in range(30):
        rows += call("s38", "s39", INCIDENT.start_ns + n * 10**10, n, took_ms=900)
        rows += [row for i in (0, 1) for row in call(f"s{i}", f"s{i + 1}", INCIDENT.start_ns + n * 10**10, n)]
    given_window = window(spans=rows)
    small, topology = bounded(given_window, topology_of(given_window), Bounds(20, 10), [EntityId("service", "s0")])
    names = {entity.name for entity in topology.entities}
    assert {"s0", "s1", "s2", "s3", "s39"} <= names
    assert any("farther than 3 calls from what alerts" in gap.reason for gap in small.gaps)


def test_the_order_of_rows_does_not_matter() -> None:
    def shuffled(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.sample(fraction=1.0, shuffle=True, seed=3)

    bins = replace(WINDOW.bins, counts=shuffled(WINDOW.bins.counts), durations=shuffled(WINDOW.bins.durations))
    mixed = replace(WINDOW, bins=bins)
    first, second = (bounded(some, topology_of(some), SMALL) for some in (WINDOW, mixed))
    assert first[1].entities == second[1].entities
    assert all(np.array_equal(first[1].edges[name], second[1].edges[name]) for name in first[1].edges)
    assert first[0].gaps == second[0].gaps


def test_names_do_not_matter() -> None:
    """Names in the opposite order keep the same services, but for ties."""

    def other(name: pl.Expr) -> pl.Expr:
        return pl.lit("z-") + (99_999 - name.str.slice(8).cast(pl.Int64)).cast(pl.String)

    def renamed(frame: pl.DataFrame, *columns: str) -> pl.DataFrame:
        return frame.with_columns(other(pl.col(column)).alias(column) for column in columns)

    counts, durations = (renamed(frame, "source", "target") for frame in (WINDOW.bins.counts, WINDOW.bins.durations))
    bins = replace(WINDOW.bins, counts=counts, durations=durations)
    mirrored = replace(WINDOW, bins=bins, alerts=renamed(WINDOW.alerts, "entity"))
    kept = {entity.name for entity in bounded(WINDOW, topology_of(WINDOW), SMALL)[1].entities}
    also = {
        f"service-{99_999 - int(entity.name[2:]):05d}" for entity in bounded(mirrored, topology_of(mirrored), SMALL)[1].entities
    }
    assert len(kept & also) >= 58


def test_databases_pods_and_nodes_go_with_their_services() -> None:
    rows = []
    for i in range(12):
        pod = {"k8s__pod__name": f"s{i}-0", "k8s__node__name": f"n{i // 4}"}
        rows += requests(f"s{i}", T0, 20 + i, **pod)
        rows += [
            span("q", f"s{i}", 0, 5, trace=f"db{i}", kind=3, name="select", db__system__name="pg", db__namespace=f"db{i}", **pod)
        ]
    metric = {"time_unix_nano": T0, "metric": "container.cpu.usage", "value": 1.0}
    metrics = [{**metric, "entity_kind": "pod", "entity": f"s{i}-0"} for i in range(12)]
    given_window = window(spans=rows, metrics=metrics)
    small, topology = bounded(given_window, topology_of(given_window), Bounds(6, 10), [EntityId("service", "s5")])
    found = {str(entity) for entity in topology.entities}
    assert {"service:s5", "database:db5", "node:n1", "pod:s5-0"} <= found
    assert "pod:s0-0" not in found
    pods = {name for name in found if name.startswith("pod:")}
    assert {f"pod:{name}" for name in small.metrics["entity"]} == pods
    assert set(small.bins.placement["service"]) == {name[8:] for name in found if name.startswith("service:")}


def test_an_alert_about_a_call_that_is_cut_is_about_its_caller() -> None:
    rows = [row for i in range(30) for row in call("hub", f"s{i:02d}", T0, i)]
    alert = {"time_unix_nano": INCIDENT.start_ns, "entity_kind": "service", "name": "errors", "source": "trace"}
    alerts = [{**alert, "entity": "hub", "peer": f"s{i:02d}"} for i in range(20)]
    given_window = window(spans=rows, alerts=alerts)
    small, topology = bounded(given_window, topology_of(given_window), Bounds(50, 5))
    assert topology.edges["calls"].shape[1] == 5
    assert small.alerts.height == 20
    assert small.alerts["peer"].null_count() == 15


@pytest.mark.parametrize("fault", ["latency", "cpu_contention"])
def test_the_example_is_within_the_bounds(fault: str) -> None:
    incident, telemetry = example_incident(fault_kind=fault) if fault != "latency" else example_incident()
    case = case_of(incident, telemetry)
    assert not [gap for gap in case.window.gaps if gap.source == "graph"]
    tight = report_on(incident, telemetry, create("floor"), bounds=Bounds(3, 2))
    assert len(tight.ranking.candidates) <= 3
    assert "were left out" in str(tight.to_json())
