"""Cleaning: contradictions leave the spans and arrive in the gaps, with their count."""

from __future__ import annotations

import math

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rca.cleaning import cleaned, parent_rows
from rca.incidents.example import START_NS, example_incident
from rca.telemetry import Telemetry


def _spans(*rows: tuple[str, str | None, int, int], trace: str = "t") -> Telemetry:
    """Spans from (id, parent, start, end), times counted from a fixed moment."""
    frame = pl.DataFrame(
        [(trace, span, parent, "op", START_NS + start, START_NS + end, "shop") for span, parent, start, end in rows],
        schema=["trace_id", "span_id", "parent_span_id", "name", "start_time_unix_nano", "end_time_unix_nano", "service.name"],
        orient="row",
    )
    return Telemetry.of(spans=frame)


def _parents(telemetry: Telemetry) -> dict[str, str | None]:
    return dict(telemetry.spans.select("span_id", "parent_span_id").rows())


def test_sound_telemetry_comes_back_as_it_was() -> None:
    telemetry = example_incident(requests_per_second=0.5)[1]
    clean = cleaned(telemetry)
    assert clean.gaps == ()
    assert clean.spans.equals(telemetry.spans)


def test_nothing_at_all_is_fine() -> None:
    assert cleaned(Telemetry()).is_empty()


def test_a_clock_that_ran_backwards_loses_the_span() -> None:
    clean = cleaned(_spans(("a", None, 0, 9), ("b", "a", 5, 2), ("c", "a", 3, 3)))
    assert _parents(clean) == {"a": None, "c": "a"}
    assert [gap.reason for gap in clean.gaps] == [
        "1 of 3 spans end before they start: a clock ran backwards; they are dropped",
    ]
    interval = clean.gaps[0].interval
    assert interval is not None
    assert interval.start_ns == START_NS + 5


def test_of_spans_with_one_id_the_first_stays() -> None:
    clean = cleaned(_spans(("a", None, 0, 9), ("a", None, 1, 8), ("a", None, 2, 7)))
    assert clean.spans["start_time_unix_nano"].to_list() == [START_NS]
    assert clean.gaps[0].reason.startswith("2 of 3 spans repeat the id")


def test_one_id_in_two_traces_is_no_repetition() -> None:
    both = _spans(("a", None, 0, 9)).merged(_spans(("a", None, 0, 9), trace="u"))
    assert cleaned(both).gaps == ()


def test_spans_without_their_parent_are_counted_and_kept() -> None:
    clean = cleaned(_spans(("a", "gone", 0, 9), ("b", "a", 1, 2)))
    assert _parents(clean) == {"a": "gone", "b": "a"}
    assert clean.gaps[0].reason.startswith("1 of 2 spans name a parent that is absent")


@pytest.mark.parametrize("none", ["", "0000000000000000"])
def test_ways_to_write_no_parent(none: str) -> None:
    clean = cleaned(_spans(("a", none, 0, 9), ("b", "a", 1, 2)))
    assert _parents(clean) == {"a": None, "b": "a"}
    assert clean.gaps == ()


def test_a_span_that_is_its_own_parent_becomes_a_root() -> None:
    clean = cleaned(_spans(("a", "a", 0, 9), ("b", "a", 1, 2)))
    assert _parents(clean) == {"a": None, "b": "a"}
    assert clean.gaps[0].reason.startswith("1 of 2 spans are their own ancestor")


def test_a_cycle_is_cut_where_it_starts() -> None:
    clean = cleaned(_spans(("a", "c", 0, 9), ("b", "a", 1, 8), ("c", "b", 2, 7), ("leaf", "c", 3, 4), ("other", None, 0, 1)))
    assert _parents(clean) == {"a": None, "b": "a", "c": "b", "leaf": "c", "other": None}
    assert clean.gaps[0].reason.startswith("1 of 5")


def test_infinite_values_are_dropped_and_missing_ones_stay() -> None:
    metrics = pl.DataFrame({"value": [1.0, math.inf, -math.inf, math.nan]}).with_columns(
        pl.lit(START_NS).alias("time_unix_nano"), *(pl.lit("x").alias(name) for name in ("entity_kind", "entity", "metric"))
    )
    clean = cleaned(Telemetry.of(metrics=metrics))
    assert clean.metrics.height == 2
    assert clean.gaps[0].reason == "2 of 4 values are infinite; they are dropped"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 11), st.none() | st.integers(0, 13), st.integers(0, 5), st.integers(0, 8)), max_size=12))
def test_whatever_comes_in_trees_come_out(rows: list[tuple[int, int | None, int, int]]) -> None:
    telemetry = _spans(*((str(span), None if parent is None else str(parent), *times) for span, parent, *times in rows))  # type: ignore[misc]
    clean = cleaned(telemetry)
    spans = clean.spans
    assert spans["span_id"].is_unique().all()
    assert (spans["end_time_unix_nano"] >= spans["start_time_unix_nano"]).all()
    parents = parent_rows(spans)
    for row in range(spans.height):
        steps = 0
        while row >= 0:
            row, steps = int(parents[row]), steps + 1  # noqa: PLW2901
            assert steps <= spans.height, "a cycle is left"
    assert cleaned(clean).spans.equals(spans)
