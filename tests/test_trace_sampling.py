"""Which traces are read of more than can be read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rca.bins import BIN_NS
from rca.collectors.tracing.sampling import MOST_HALVINGS, SLICE_NS, Listed, Plan, chosen, shown, slices, spread, thinned
from rca.telemetry import SECOND_NS
from tests.servers.stored import hex_id
from tests.shop import T0


def listed(count: int, stratum: str = "gateway", start: int = 0) -> list[Listed]:
    return [Listed(hex_id(f"{stratum}{i}"), T0 + i * SECOND_NS, stratum) for i in range(start, start + count)]


@given(st.integers(0, 10**6), st.integers(0, MOST_HALVINGS - 1))
def test_parts_of_slices_are_nested_and_halve(number: int, halvings: int) -> None:
    whole, half = thinned(number * SLICE_NS, halvings), thinned(number * SLICE_NS, halvings + 1)
    assert whole.start_ns <= half.start_ns < half.end_ns <= whole.end_ns
    assert (half.end_ns - half.start_ns) * 2 == whole.end_ns - whole.start_ns == SLICE_NS >> halvings


@given(st.integers(0, 10**6), st.integers(0, MOST_HALVINGS))
def test_a_part_holds_whole_bins_or_lies_in_one(number: int, halvings: int) -> None:
    part = thinned(number * SLICE_NS, halvings)
    whole_bins = part.start_ns % BIN_NS == 0 and part.end_ns % BIN_NS == 0
    assert whole_bins or part.start_ns // BIN_NS == (part.end_ns - 1) // BIN_NS


@given(st.integers(T0, T0 + 10**12), st.integers(1, 10**12))
def test_slices_cover_the_interval_and_do_not_depend_on_where_it_begins(start: int, length: int) -> None:
    found = slices(start, start + length)
    assert found[0] <= start < found[0] + SLICE_NS
    assert found[-1] < start + length <= found[-1] + SLICE_NS
    assert all(one % SLICE_NS == 0 for one in found)
    assert sorted(spread(found)) == found


def test_everything_is_taken_where_there_is_room() -> None:
    sample, halvings = chosen(listed(20), 20)
    assert len(sample) == 20
    assert halvings == {"gateway": 0}


@given(st.lists(st.integers(1, 300), min_size=1, max_size=6), st.integers(1, 200))
def test_never_more_than_asked_for_and_never_a_trace_twice(sizes: list[int], most: int) -> None:
    every = [trace for i, size in enumerate(sizes) for trace in listed(size, f"s{i}")]
    sample, _ = chosen(every + every, most)
    assert len(sample) <= most
    assert len({trace.trace_id for trace in sample}) == len(sample)


def test_rare_strata_are_read_whole_beside_frequent_ones() -> None:
    sample, halvings = chosen([*listed(4000, "often"), *listed(20, "rarely")], 200)
    assert halvings["rarely"] == 0
    assert sum(trace.stratum == "rarely" for trace in sample) == 20
    assert 60 < sum(trace.stratum == "often" for trace in sample) <= 180
    assert shown(halvings["often"]).startswith("1 in ")


def test_the_order_in_which_a_search_names_traces_does_not_matter() -> None:
    every = listed(500)
    assert chosen(every, 40) == chosen(every[::-1], 40)


def test_a_larger_budget_reads_a_superset() -> None:
    every = listed(3000)
    small, large = chosen(every, 50)[0], chosen(every, 900)[0]
    assert set(small) < set(large)


def test_a_fall_in_traffic_shows_in_the_sample() -> None:
    """Twice as many in the first half as in the second; a quota per slice would take as many of both."""
    first, second = listed(8000), listed(4000, start=100_000)
    sample, _ = chosen([*first, *second], 1500)
    before = sum(trace.start_ns < T0 + 50_000 * SECOND_NS for trace in sample)
    assert before / (len(sample) - before) == pytest.approx(2, rel=0.2)


def test_every_beginning_of_the_sample_is_a_sample_of_the_same_kind() -> None:
    sample, _ = chosen([*listed(3000, "a"), *listed(3000, "b")], 1000)
    beginning = sample[: len(sample) // 3]
    assert sum(trace.stratum == "a" for trace in beginning) / len(beginning) == pytest.approx(0.5, abs=0.12)
    assert sum(trace.start_ns < T0 + 1500 * SECOND_NS for trace in beginning) / len(beginning) == pytest.approx(0.5, abs=0.12)


def test_a_plan_holds_shares_where_a_smaller_stretch_would_allow_more() -> None:
    sample, halvings = chosen(listed(400), 400, {"gateway": 3})
    assert halvings == {"gateway": 3}
    assert 25 < len(sample) < 80


def test_plans_merge_to_the_smaller_share() -> None:
    merged = Plan({"a": 1}, {"x": 2}).merged(Plan({"a": 3}, {"y": 1}))
    assert merged == Plan({"a": 3}, {"x": 2, "y": 1})
    assert Plan({}, {}).merged(merged) == merged
