"""Windows and topology: which row belongs to which interval, and who is there."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rca.errors import BadTelemetry
from rca.telemetry import MINUTE_NS, SECOND_NS, EntityId, Interval, Telemetry
from rca.topology import Topology, topology_of
from rca.window import INCIDENT as OF_INCIDENT
from rca.window import Baseline, cut
from tests.shop import BASELINE, INCIDENT, T0, Row, call, frame, span, window


def event(at_ns: int | None, entity: str = "A", kind: str = "service", **more: object) -> Row:
    return {"time_unix_nano": at_ns, "entity_kind": kind, "entity": entity, "reason": "Killed", **more}


def test_intervals_are_half_open() -> None:
    times = [
        BASELINE.start_ns - 1,
        BASELINE.start_ns,
        BASELINE.end_ns - 1,
        INCIDENT.start_ns,
        INCIDENT.end_ns - 1,
        INCIDENT.end_ns,
    ]
    made = window(events=[event(t) for t in times])
    assert made.events["interval"].to_list() == [0, 0, OF_INCIDENT, OF_INCIDENT]
    assert made.events["time_unix_nano"].to_list() == times[1:-1]


def test_a_baseline_that_overlaps_the_incident_loses_what_they_share() -> None:
    around = Interval(INCIDENT.start_ns - MINUTE_NS, INCIDENT.end_ns + MINUTE_NS)
    times = [around.start_ns, INCIDENT.start_ns, INCIDENT.end_ns, BASELINE.start_ns]
    made = window(baselines=[around, BASELINE], events=[event(t) for t in times])
    assert made.events["interval"].to_list() == [0, OF_INCIDENT, 0, 1]


def test_events_between_the_baseline_and_the_incident_lead_up_to_it() -> None:
    """A rollout comes before what it breaks."""
    times = [INCIDENT.start_ns - minutes * MINUTE_NS for minutes in (20, 9, 4, 1)] + [INCIDENT.start_ns]
    earlier = Interval(INCIDENT.start_ns - 30 * MINUTE_NS, INCIDENT.start_ns - 15 * MINUTE_NS)
    made = window(baselines=[earlier], events=[event(t) for t in times])
    assert made.events["interval"].to_list() == [0, OF_INCIDENT, OF_INCIDENT, OF_INCIDENT, OF_INCIDENT]
    just_before = Interval(earlier.start_ns, INCIDENT.start_ns - 5 * MINUTE_NS)
    made = window(baselines=[just_before], events=[event(t) for t in times])
    assert made.events["interval"].to_list() == [0, 0, OF_INCIDENT, OF_INCIDENT, OF_INCIDENT]
    metrics = [{**event(t), "metric": "process.load", "value": 1.0} for t in times]
    assert window(baselines=[just_before], metrics=metrics).metrics["interval"].to_list() == [0, 0, OF_INCIDENT]
    made = window(baselines=[Interval(earlier.start_ns - 60 * MINUTE_NS, earlier.start_ns)], events=[event(t) for t in times])
    assert made.events["interval"].to_list() == [OF_INCIDENT] * 4  # ten minutes at most


def test_rows_without_a_time_belong_to_the_incident() -> None:
    alert = {"entity_kind": "service", "entity": "A", "name": "HighLatency", "source": "metric"}
    made = window(alerts=[{"time_unix_nano": None, **alert}, {"time_unix_nano": T0, **alert}])
    assert made.alerts["interval"].to_list() == [OF_INCIDENT, 0]


def test_an_interval_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(BadTelemetry, match="an end after its start"):
        Interval(T0, T0)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, 120), min_size=1, max_size=30),
    st.tuples(st.integers(0, 120), st.integers(1, 40)),
    st.lists(st.tuples(st.integers(0, 120), st.integers(1, 60)), max_size=4),
)
def test_every_row_goes_to_the_incident_or_else_the_first_baseline_that_holds_it(
    seconds: list[int], incident: tuple[int, int], baselines: list[tuple[int, int]]
) -> None:
    intervals = [Interval(T0 + s * SECOND_NS, T0 + (s + n) * SECOND_NS) for s, n in [incident, *baselines]]
    expected = []
    for second in seconds:
        at = T0 + second * SECOND_NS
        holding = [i - 1 for i, interval in enumerate(intervals) if interval.start_ns <= at < interval.end_ns]
        expected += holding[:1]
    telemetry = Telemetry(events=frame("events", [event(T0 + s * SECOND_NS) for s in seconds]))
    made = cut(telemetry, intervals[0], [Baseline(interval, "reference") for interval in intervals[1:]])
    assert made.events["interval"].to_list() == expected


# --- topology -----------------------------------------------------------------------------------------------------------


def edges(topology: Topology, relation: str) -> set[tuple[str, str]]:
    names = [entity.name for entity in topology.entities]
    return {(names[a], names[b]) for a, b in topology.edges[relation].T.tolist()}


def test_calls_pods_and_nodes_come_from_spans() -> None:
    rows = [row | {"k8s.pod.name": f"{row['service.name']}-1", "k8s.node.name": "n"} for row in call("A", "B", T0, 0)]
    topology = topology_of(window(spans=rows))
    assert edges(topology, "calls") == {("A", "B")}
    assert edges(topology, "runs") == {("A", "A-1"), ("B", "B-1")}
    assert edges(topology, "hosted_on") == {("A-1", "n"), ("B-1", "n")}
    rows_of = topology.rows
    assert topology.owners == {rows_of["pod", "A-1"]: rows_of["service", "A"], rows_of["pod", "B-1"]: rows_of["service", "B"]}


def test_entities_are_in_the_order_of_kind_then_name_whatever_the_order_of_rows() -> None:
    rows = [
        event(T0, name, kind)
        for name, kind in [("b", "pod"), ("z", "service"), ("a", "node"), ("a", "service"), ("x", "martian")]
    ]
    expected = ("service:a", "service:z", "pod:b", "node:a")
    for some in (rows, rows[::-1]):
        assert tuple(map(str, topology_of(window(events=some)).entities)) == expected


def test_a_peer_with_the_name_of_a_known_service_is_that_service() -> None:
    rows = [
        span("a", "A", 0, 50, kind=3, server__address="B"),
        span("b", "A", 0, 50, kind=3, db__system__name="B", trace="2"),
        span("c", "A", 0, 50, kind=3, db__system__name="pg", trace="3"),
        span("d", "B", 0, 50, trace="4"),
    ]
    topology = topology_of(window(spans=rows))
    assert edges(topology, "calls") == {("A", "B")}
    assert edges(topology, "queries") == {("A", "pg")}
    assert edges(topology, "requests") == set()
    assert [str(entity) for entity in topology.entities] == ["service:A", "service:B", "database:pg"]


@pytest.mark.parametrize("name", ["pg", "aa", "zz"])
def test_the_callee_of_an_alert_is_a_service_though_spans_call_it_a_database(name: str) -> None:
    alert = {"time_unix_nano": T0, "entity_kind": "service", "entity": "A", "name": "slow", "source": "trace", "peer": name}
    topology = topology_of(window(spans=[span("a", "A", 0, 50, kind=3, db__system__name=name)], alerts=[alert]))
    assert edges(topology, "calls") == {("A", name)}
    assert edges(topology, "queries") == set()
    assert not [entity for entity in topology.entities if entity.kind == "database"]


def test_cycles_stay_and_calls_to_oneself_go() -> None:
    rows = [row for n, (a, b) in enumerate([("A", "B"), ("B", "C"), ("C", "A")]) for row in call(a, b, T0, n)]
    rows.append(span("x", "A", 0, 50, kind=3, server__address="A", trace="self"))
    assert edges(topology_of(window(spans=rows)), "calls") == {("A", "B"), ("B", "C"), ("C", "A")}


def test_relations_of_every_modality_are_joined() -> None:
    rows = {
        "calls": [
            {"time_unix_nano": T0, "caller": "A", "callee_kind": kind, "callee": kind[0], "metric": "call.rate", "value": 1.0}
            for kind in ("service", "database", "queue", "external")
        ],
        "alerts": [{"entity_kind": "service", "entity": "A", "name": "slow", "source": "trace", "peer": "B"}],
        "topology": [
            {"source_kind": "service", "source": "A", "relation": "runs", "target_kind": "pod", "target": "A-1"},
            {"source_kind": "service", "source": "A", "relation": "likes", "target_kind": "service", "target": "L"},
            {"source_kind": "pod", "source": "P", "relation": "calls", "target_kind": "service", "target": "Q"},
        ],
    }
    topology = topology_of(window(**rows))
    assert edges(topology, "calls") == {("A", "s"), ("A", "B")}
    assert edges(topology, "queries") == {("A", "d")}
    assert edges(topology, "publishes") == {("A", "q")}
    assert edges(topology, "requests") == {("A", "e")}
    assert edges(topology, "runs") == {("A", "A-1")}
    assert not {entity.name for entity in topology.entities} & {"L", "P", "Q"}


def test_a_call_to_a_kind_that_cannot_be_called_is_refused() -> None:
    row = {"time_unix_nano": T0, "caller": "A", "callee_kind": "pod", "callee": "x", "metric": "call.rate", "value": 1.0}
    with pytest.raises(BadTelemetry, match="callee_kind"):
        frame("calls", [row])


def test_one_name_in_two_namespaces_is_two_services() -> None:
    rows = [event(T0, "cart", namespace="blue"), event(T0, "cart", namespace="green"), event(T0, "cart")]
    entities = topology_of(window(events=rows)).entities
    assert set(entities) == {EntityId("service", "cart", n) for n in ("", "blue", "green")}


def test_an_empty_window_has_no_entities_and_every_relation() -> None:
    topology = topology_of(window())
    assert topology.entities == ()
    assert all(pairs.shape == (2, 0) and pairs.dtype == np.int64 for pairs in topology.edges.values())
    assert window().bins.counts.schema["count"] == pl.Int64
