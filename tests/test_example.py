"""The synthetic incident: seeded, well-formed, and its fault reaches the callers."""

from __future__ import annotations

import polars as pl
import pytest

from rca.errors import UnknownName
from rca.incidents.example import FAULTS, SERVICES, example_incident
from rca.incidents.incident import Incident
from rca.telemetry import Telemetry


def _server_ms(incident: Incident, telemetry: Telemetry, service: str) -> tuple[float, float]:
    """Median server duration before and in the incident."""
    spans = telemetry.spans.filter((pl.col("service.name") == service) & (pl.col("kind") == 2))
    inside = spans["start_time_unix_nano"] >= incident.window.start_ns
    ms = (spans["end_time_unix_nano"] - spans["start_time_unix_nano"]) / 1e6
    return float(ms.filter(~inside).median()), float(ms.filter(inside).median())  # type: ignore[arg-type]


def test_equal_seeds_give_equal_incidents_and_others_do_not() -> None:
    first, again, other = example_incident(seed=1), example_incident(seed=1), example_incident(seed=2)
    assert first[0] == again[0]
    assert all(frame.equals(again[1].frames()[name]) for name, frame in first[1].frames().items())
    assert not first[1].spans.equals(other[1].spans)


@pytest.mark.parametrize("fault_kind", FAULTS)
def test_spans_form_trees_and_every_kind_of_telemetry_is_there(fault_kind: str) -> None:
    incident, telemetry = example_incident(fault_kind=fault_kind, culprit="payment")
    spans = telemetry.spans
    assert spans["span_id"].n_unique() == spans.height
    parents = spans.select("trace_id", pl.col("span_id").alias("parent_span_id"), start=pl.col("start_time_unix_nano"))
    joined = spans.join(parents, on=["trace_id", "parent_span_id"], how="left")
    assert joined.filter(pl.col("parent_span_id").is_not_null())["start"].null_count() == 0
    assert joined.filter(pl.col("start") > pl.col("start_time_unix_nano")).is_empty()
    assert set(spans["service.name"].unique()) == set(SERVICES)
    assert all(telemetry.frames()[name].height for name in ("metrics", "events", "logs", "alerts", "topology"))
    assert [label.entity.name for label in incident.labels] == ([] if fault_kind == "no_fault" else ["payment"])


@pytest.mark.parametrize("fault_kind", ["cpu_contention", "network_delay"])
def test_a_slow_culprit_slows_its_callers_and_nobody_else(fault_kind: str) -> None:
    incident, telemetry = example_incident(fault_kind=fault_kind, culprit="payment")
    quiet, loud = _server_ms(incident, telemetry, "checkout")
    assert loud > quiet * 1.3
    quiet, loud = _server_ms(incident, telemetry, "recommendation")
    assert loud < quiet * 1.1


def test_an_exception_ends_the_callers_request() -> None:
    incident, telemetry = example_incident(fault_kind="exception", culprit="payment")
    inside = telemetry.spans.filter((pl.col("start_time_unix_nano") >= incident.window.start_ns) & (pl.col("status_code") == 2))
    assert set(inside["service.name"]) == {"payment", "checkout", "frontend"}
    assert "ERROR" in set(telemetry.logs["severity"])


@pytest.mark.parametrize("culprit", ["catalogue", "shipping"])
def test_an_early_return_silences_the_usual_log_line(culprit: str) -> None:
    incident, telemetry = example_incident(fault_kind="return", culprit=culprit)
    lines = telemetry.logs.filter(pl.col("entity") == culprit)
    inside = lines.filter(pl.col("time_unix_nano") >= incident.window.start_ns)["count"].sum()
    assert inside < 0.2 * (lines["count"].sum() - inside)
    assert telemetry.spans.filter(pl.col("status_code") == 2).is_empty()


def test_unknown_arguments_are_refused_with_the_nearest_known_ones() -> None:
    with pytest.raises(UnknownName, match="did you mean catalogue"):
        example_incident(culprit="catalog")
    with pytest.raises(UnknownName, match="cpu_contention"):
        example_incident(fault_kind="cpu")
