"""What is spoilt on purpose: each damage does what it says and nothing else, and the table of what it costs adds up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cache

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rca.errors import BadInput, UnknownName
from rca.evaluation.damage import (
    DAMAGES,
    SOURCES,
    Edge,
    Recording,
    binned,
    chosen,
    edges_added,
    edges_of,
    edges_removed,
    edges_rewired,
    losing,
    only,
    onset_believed,
    pods_of,
    renamed,
    sampled_traces,
    services_of,
    unseen_services,
)
from rca.incidents.example import example_incident
from rca.models.registry import create
from rca.pipeline import case_of
from rca.simulator import simulate
from rca.telemetry import BIN_FRAMES, SECOND_NS, EntityId, Telemetry, conform

SEED = 303_030


@cache
def example() -> Recording:
    incident, telemetry = example_incident(3, requests_per_second=2.0)
    return incident, binned(telemetry)


@cache
def simulated() -> Recording:
    """The first incident of a seed that has every source."""
    for index in range(200):
        incident, telemetry = simulate(SEED, index, services=(6, 12))
        if all(any(telemetry.frames()[f].height for f in frames) for frames in SOURCES.values()) and incident.causes():
            return incident, telemetry
    raise AssertionError("no such incident")


def said_of(telemetry: Telemetry, names: Iterable[str]) -> list[str]:
    """Frames in which one of the names stands as an entity of its own."""
    columns = ("entity", "source", "service", "caller")
    return [
        frame
        for frame, rows in telemetry.frames().items()
        if any(rows[column].is_in(list(names)).any() for column in columns if column in rows.columns)
    ]


def calls_in(telemetry: Telemetry) -> dict[Edge, int]:
    rows = telemetry.bin_counts.filter(pl.col("what") == "call").group_by("source", "target_kind", "target").agg(pl.sum("count"))
    return {(a, kind, b): count for a, kind, b, count in rows.iter_rows()}


@pytest.mark.parametrize("name", sorted(DAMAGES))
@pytest.mark.parametrize("recording", [example, simulated], ids=["example", "simulated"])
def test_every_damage_is_the_same_each_time_and_leaves_its_input_alone(name: str, recording) -> None:
    incident, telemetry = recording()
    before = {frame: rows.clone() for frame, rows in telemetry.frames().items()}
    if name in ("onset+1m", "onset+3m") and incident.window.interval().seconds < 90 + 120 * (name == "onset+3m"):
        with pytest.raises(BadInput, match="found less"):
            DAMAGES[name](incident, telemetry)
        return
    first, again = (DAMAGES[name](incident, telemetry) for _ in range(2))
    assert first[0] == again[0]
    for frame, rows in first[1].frames().items():
        assert rows.equals(again[1].frames()[frame])
        conform(frame, rows)
    for frame, rows in telemetry.frames().items():
        assert rows.equals(before[frame])
    assert (first[0] != incident) or any(not rows.equals(before[frame]) for frame, rows in first[1].frames().items())
    if not first[1].is_empty():
        case_of(*first)


@pytest.mark.parametrize("source", sorted(SOURCES))
def test_a_source_is_lost_with_its_alerts_and_nothing_else(source: str) -> None:
    incident, telemetry = simulated()
    kept, left = losing(source)(incident, telemetry)
    assert kept == incident
    for frame, rows in left.frames().items():
        if frame in SOURCES[source]:
            assert rows.is_empty()
        elif frame != "alerts":
            assert rows.equals(telemetry.frames()[frame])
    raised_on = {"traces": "trace", "metrics": "metric", "logs": "log"}.get(source)
    if source != "alerts":
        expected = telemetry.alerts.filter(pl.col("source") != raised_on) if raised_on else telemetry.alerts
        assert left.alerts.equals(expected)
    assert left.gaps[-1].source == source


@pytest.mark.parametrize("source", sorted(SOURCES))
def test_one_source_alone(source: str) -> None:
    incident, telemetry = simulated()
    _, left = only(source)(incident, telemetry)
    for frame, rows in left.frames().items():
        if frame in (*SOURCES[source], "topology"):
            assert rows.equals(telemetry.frames()[frame])
        elif frame != "alerts":
            assert rows.is_empty()
    with pytest.raises(BadInput, match=f"expected {source}, to keep them alone"):
        only(source)(incident, replace(telemetry, **{frame: telemetry.frames()[frame].clear() for frame in SOURCES[source]}))


def test_a_source_that_there_is_not_is_refused() -> None:
    with pytest.raises(UnknownName, match="did you mean metrics"):
        losing("metric")


@settings(deadline=None, max_examples=10)
@given(st.floats(0.02, 0.9))
def test_summed_spans_are_thinned_to_about_the_share(share: float) -> None:
    incident, telemetry = example()
    _, left = sampled_traces(share)(incident, telemetry)
    for frame in ("bin_counts", "bin_durations"):
        before, after = telemetry.frames()[frame], left.frames()[frame]
        total = int(before["count"].sum())
        assert abs(int(after["count"].sum()) - share * total) < 5 * np.sqrt(total * share * (1 - share)) + 1
        assert (after["count"] > 0).all()
        keys = [column for column in before.columns if column != "count"]
        assert after.join(before, on=keys, how="anti", nulls_equal=True).is_empty()
    assert set(left.bin_exemplars["trace_id"]) <= set(telemetry.bin_exemplars["trace_id"])
    assert left.metrics.equals(telemetry.metrics)


def test_summing_spans_loses_no_span() -> None:
    incident, telemetry = example_incident(3, requests_per_second=2.0)
    summed = binned(telemetry)
    assert summed.spans.is_empty()
    assert summed.bin_counts.filter(pl.col("what") == "span")["count"].sum() == telemetry.spans.height
    assert case_of(incident, summed).graph.candidates == case_of(incident, telemetry).graph.candidates


@pytest.mark.parametrize("called", [True, False])
@pytest.mark.parametrize("recording", [example, simulated], ids=["example", "simulated"])
def test_services_that_are_not_observed_say_nothing(called: bool, recording) -> None:
    incident, telemetry = recording()
    services = services_of(telemetry)
    lost = chosen(incident, services, 0.2)
    assert len(lost) == max(1, round(0.2 * len(services)))
    _, left = unseen_services(0.2, called=called)(incident, telemetry)
    assert not said_of(left, lost | pods_of(telemetry, lost))
    calls, remaining = calls_in(telemetry), calls_in(left)
    for (source, kind, target), count in calls.items():
        if source in lost:
            continue
        address = calls.get((source, "external", target), 0)
        if kind == "service" and target in lost:
            assert (source, kind, target) not in remaining
            assert remaining.get((source, "external", target), 0) == (address + count) * called, "known to its callers"
        elif kind == "service" or target not in lost:
            assert remaining[source, kind, target] == count
    others = telemetry.metrics.filter(~pl.col("entity").is_in(list(lost | pods_of(telemetry, lost))))
    assert left.metrics.equals(others)
    if not called:
        assert not {*lost} & set(case_names(incident, left))


def case_names(incident, telemetry: Telemetry) -> list[str]:
    return [entity.name for entity in case_of(incident, telemetry).graph.candidates]


def test_causes_are_spared_where_that_is_asked() -> None:
    incident, telemetry = example()
    causes = {cause.name for cause in incident.causes()}
    _, left = unseen_services(0.99, called=False, spared=True)(incident, telemetry)
    assert causes & services_of(telemetry) <= services_of(left)
    assert services_of(left) == causes
    with pytest.raises(BadInput, match="expected services"):
        unseen_services(0.2, called=False, spared=True)(incident, left)


@settings(deadline=None, max_examples=10)
@given(st.floats(0.05, 0.6))
def test_edges_vanish_end_elsewhere_or_are_invented(share: float) -> None:
    for incident, telemetry in (example(), simulated()):
        edges = edges_of(telemetry)
        wanted = max(1, round(share * len(edges)))
        removed = edges_of(edges_removed(share)(incident, telemetry)[1])
        assert removed < edges
        assert len(edges - removed) == wanted
        _, left = edges_rewired(share)(incident, telemetry)
        rewired = edges_of(left)
        assert 0 < len(edges - rewired) <= wanted
        assert {kind for _, kind, _ in rewired - edges} <= {kind for _, kind, _ in edges - rewired}
        assert sum(calls_in(left).values()) == sum(calls_in(telemetry).values()), "calls are told of, to somebody else"
        _, told = edges_added(share)(incident, telemetry)
        assert edges < edges_of(told)
        assert all(kind == "service" and a != b for a, kind, b in edges_of(told) - edges)
        assert all(told.frames()[frame].equals(rows) for frame, rows in telemetry.frames().items() if frame != "topology")


def test_there_must_be_something_to_get_wrong() -> None:
    incident, _ = example()
    nothing = Telemetry()
    for damage in (edges_removed(0.2), edges_rewired(0.2), edges_added(0.2), unseen_services(0.2, called=True)):
        with pytest.raises(BadInput, match=f"incident {incident.id}: expected .*found none"):
            damage(incident, nothing)


@pytest.mark.parametrize("seconds", [-180, -60, 60])
def test_an_onset_that_is_off_moves_the_start_and_the_baseline_but_not_the_end(seconds: int) -> None:
    incident, telemetry = example()
    moved, left = onset_believed(seconds)(incident, telemetry)
    assert left is telemetry
    assert moved.window.start_ns - incident.window.start_ns == seconds * SECOND_NS
    assert moved.window.end_ns == incident.window.end_ns
    first = min(baseline.start_ns for baseline in incident.baselines)
    for before, after in zip(incident.baselines, moved.baselines, strict=True):
        assert after.end_ns - before.end_ns == seconds * SECOND_NS
        assert after.start_ns == max(before.start_ns + seconds * SECOND_NS, first), "nothing was recorded before"
    reference = incident.baselines[0].model_copy(update={"provenance": "reference"})
    elsewhere = incident.model_copy(update={"baselines": (reference,)})
    assert onset_believed(seconds)(elsewhere, telemetry)[0].baselines == (reference,)


def test_an_onset_cannot_be_off_by_more_than_there_is() -> None:
    incident, telemetry = example()
    for seconds in (100_000, -100_000):
        with pytest.raises(BadInput, match="s of the incident, and before it"):
            onset_believed(seconds)(incident, telemetry)


@pytest.mark.parametrize("recording", [example, simulated], ids=["example", "simulated"])
def test_names_do_not_matter(recording) -> None:
    incident, telemetry = recording()
    other, opaque = renamed(incident, telemetry)
    assert not {e.name for e in incident.causes()} & {e.name for e in other.causes()}
    for ranker in (create("floor"), create("prism-additive")):
        before, after = ranker.rank(case_of(incident, telemetry)), ranker.rank(case_of(other, opaque))
        assert [c.probability for c in before.candidates] == pytest.approx([c.probability for c in after.candidates], abs=1e-9)
        of = {c.entity: c.probability for c in after.candidates}
        for candidate, cause in zip(incident.causes(), other.causes(), strict=True):
            was = next((c.probability for c in before.candidates if c.entity == candidate), None)
            assert of.get(EntityId(cause.kind, cause.name, cause.namespace)) == (was if was is None else pytest.approx(was))


def test_operations_keep_the_queue_that_they_name() -> None:
    """Spans of messages are known by their queue's name: opaque names must not part them."""
    incident, telemetry = example()
    counts = telemetry.bin_counts.with_columns(
        pl.when(pl.col("what") == "child").then(pl.lit("process jobs")).otherwise("target_operation").alias("target_operation"),
        pl.when(pl.col("target_kind") == "database").then(pl.lit("queue")).otherwise("target_kind").alias("target_kind"),
        pl.when(pl.col("target_kind") == "database").then(pl.lit("jobs")).otherwise("target").alias("target"),
    )
    _, opaque = renamed(incident, replace(telemetry, bin_counts=counts))
    (queue,) = opaque.bin_counts.filter(pl.col("target_kind") == "queue")["target"].unique()
    (operation,) = opaque.bin_counts.filter(pl.col("what") == "child")["target_operation"].unique()
    assert queue != "jobs"
    assert operation.endswith(f" {queue}")
    assert "jobs" not in operation


def test_every_frame_of_telemetry_belongs_to_a_source_or_tells_who_is_there() -> None:
    assert {frame for frames in SOURCES.values() for frame in frames} | {"topology"} == set(Telemetry().frames())
    assert set(BIN_FRAMES) < set(SOURCES["traces"])
