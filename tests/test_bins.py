"""Spans to bins, by hand: what is counted where, and that bins add up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rca.bins
from rca.bins import BUCKET_WIDTH, OFFSET_SECONDS, Bins, bins_of, buckets_of, frames_of, seconds_of, split_key
from tests.shop import MS, T0, Row, span, spans


def counted(bins: Bins, what: str) -> dict[tuple[str, ...], int]:
    """Counts of one kind by whatever keys are set."""
    rows = bins.counts.filter(pl.col("what") == what).drop("interval", "bin_ns", "what")
    return {tuple(v for v in keys if v is not None): n for *keys, n in rows.iter_rows()}


def milliseconds(bins: Bins, what: str) -> dict[tuple[str, ...], list[float]]:
    """Durations of one kind by whatever keys are set, rounded to 2 %."""
    rows = bins.durations.filter(pl.col("what") == what).drop("interval", "bin_ns", "what").sort("bucket")
    found: dict[tuple[str, ...], list[float]] = {}
    for *keys, bucket, n in rows.iter_rows():
        value = float(seconds_of(np.array([bucket], dtype=float))[0]) * 1e3
        found.setdefault(tuple(v for v in keys if v is not None), []).extend([value] * n)
    return found


def near(*values: float) -> list[object]:
    return [pytest.approx(value, rel=0.011, abs=0.002) for value in values]


# --- durations ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "self_ms"),
    [((10, 50), (20, 60), 50), ((10, 30), (60, 80), 60), ((0, 50), (50, 100), 0), ((10, 90), (20, 140), 0)],
    ids=["in parallel", "with a pause between", "one after the other", "outliving the parent"],
)
def test_self_time_is_what_no_child_covers(first: tuple[int, int], second: tuple[int, int], self_ms: float) -> None:
    rows = [span("a", "A", 0, 100), span("b", "A", *first, "a", kind=3), span("c", "A", *second, "a", kind=3)]
    assert milliseconds(bins_of(spans(rows)), "self") == {("A", "op"): near(self_ms)}


def test_a_client_span_alone_is_a_leaf_and_has_no_self_time() -> None:
    rows = [span("a", "A", 0, 100), span("b", "A", 10, 40, "a", kind=3, name="query")]
    bins = bins_of(spans(rows))
    assert milliseconds(bins, "leaf") == {("A", "query"): near(30)}
    assert milliseconds(bins, "self") == {("A", "op"): near(70)}


def test_the_gap_is_what_a_waiting_client_sees_beyond_the_server() -> None:
    rows = [span("a", "A", 0, 100), span("b", "A", 10, 50, "a", kind=3), span("c", "B", 15, 40, "b")]
    bins = bins_of(spans(rows))
    edge = ("A", "service", "B")
    assert milliseconds(bins, "gap") == {edge: near(15)}
    assert milliseconds(bins, "client") == {edge: near(40)}
    assert milliseconds(bins, "called") == {edge: near(25)}


@pytest.mark.parametrize(
    ("kind", "siblings", "seen"), [(3, 1, True), (3, 2, True), (0, 1, True), (0, 2, False), (2, 1, False), (4, 1, False)]
)
def test_only_parents_that_wait_for_the_call_have_a_gap(kind: int, siblings: int, seen: bool) -> None:
    children = [span(f"c{i}", "B", 10, 30, "a") for i in range(siblings)]
    bins = bins_of(spans([span("a", "A", 0, 50, kind=kind), *children]))
    assert counted(bins, "call") == {("A", "service", "B"): siblings}
    assert (("A", "service", "B") in milliseconds(bins, "gap")) == seen
    assert milliseconds(bins, "called") == {("A", "service", "B"): near(*[20] * siblings)}


def test_clocks_that_disagree_make_no_negative_durations() -> None:
    rows = [span("a", "A", 0, 10, kind=3), span("b", "B", 2, 30, "a"), span("x", "C", 50, 40, trace="other")]
    bins = bins_of(spans(rows))
    assert milliseconds(bins, "gap") == {("A", "service", "B"): near(0)}
    assert milliseconds(bins, "server")["C", "op"] == near(0)


@given(st.lists(st.integers(20_000, 3_600_000_000_000), min_size=1, max_size=50))
def test_durations_read_back_within_one_percent(durations: list[int]) -> None:
    exact = np.array(durations) / 1e9
    read = seconds_of(buckets_of(np.array(durations)).astype(float))
    assert np.all(np.abs(np.log((read + OFFSET_SECONDS) / (exact + OFFSET_SECONDS))) <= BUCKET_WIDTH / 2 + 1e-9)


# --- what counts as what ------------------------------------------------------------------------------------------------


def test_spans_of_unspecified_kind_are_requests_where_they_enter_a_service() -> None:
    rows = [
        span("a", "A", 0, 100, kind=0, name="root"),
        span("b", "A", 0, 100, "a", kind=0, name="inside"),
        span("c", "B", 10, 90, "b", kind=0, name="entered"),
        span("d", "B", 20, 80, "gone", kind=0, name="orphan", trace="other"),
    ]
    bins = bins_of(spans(rows))
    assert counted(bins, "request") == {("A", "root"): 1, ("B", "entered"): 1, ("B", "orphan"): 1}
    assert counted(bins, "span")["A", "inside"] == 1
    assert (bins.pairs, bins.orphans) == (2, 1)
    assert milliseconds(bins, "self") == {("A", "root"): near(0), ("B", "entered"): near(80), ("B", "orphan"): near(60)}


def test_an_error_counts_where_it_starts_and_at_every_request_it_ends() -> None:
    rows = [
        span("a", "A", 0, 100, error=True),
        span("b", "A", 10, 90, "a", kind=3, error=True, name="call"),
        span("c", "B", 20, 80, "b", http__response__status_code=503),
        span("d", "B", 30, 40, "c", kind=1, name="fine", http__response__status_code=404),
    ]
    bins = bins_of(spans(rows))
    assert counted(bins, "own_error") == {("B", "op"): 1}
    assert counted(bins, "error") == {("A", "op"): 1, ("B", "op"): 1}
    assert counted(bins, "call_error") == {("A", "service", "B"): 1}


def test_a_time_out_starts_at_the_caller() -> None:
    rows = [
        span("a", "A", 0, 100, error=True),
        span("b", "A", 10, 90, "a", kind=3, error=True, name="call"),
        span("c", "B", 20, 300, "b"),
    ]
    assert counted(bins_of(spans(rows)), "own_error") == {("A", "call"): 1}


@pytest.mark.parametrize(
    ("attributes", "target"),
    [
        ({"db__system__name": "postgresql"}, ("database", "postgresql")),
        ({"db__system__name": "postgresql", "server__address": "pg-1"}, ("database", "pg-1")),
        ({"db__system__name": "postgresql", "server__address": "pg-1", "db__namespace": "shop"}, ("database", "shop")),
        ({"db__system__name": "redis", "server__address": "cache", "db__namespace": "0"}, ("database", "cache")),
        ({"db__system__name": "redis", "db__namespace": "12"}, ("database", "redis")),
        ({"db__system__name": "redis", "service__peer__name": "cache", "server__address": "10.0.0.1"}, ("database", "cache")),
        ({"messaging__system": "kafka"}, ("queue", "kafka")),
        ({"messaging__system": "kafka", "messaging__destination__name": "orders"}, ("queue", "orders")),
        ({"server__address": "api.example.org"}, ("external", "api.example.org")),
    ],
)
def test_a_client_span_without_a_child_calls_what_its_attributes_name(attributes: Row, target: tuple[str, str]) -> None:
    bins = bins_of(spans([span("a", "A", 0, 50), span("b", "A", 10, 30, "a", kind=3, error=True, **attributes)]))
    assert counted(bins, "call") == {("A", *target): 1}
    assert counted(bins, "call_error") == {("A", *target): 1}
    assert milliseconds(bins, "client") == {("A", *target): near(20)}
    assert milliseconds(bins, "gap") == {}


def test_peers_that_answer_are_services_and_nameless_clients_call_nobody() -> None:
    rows = [
        span("a", "A", 0, 50, kind=3, server__address="b.shop.svc"),
        span("b", "B", 10, 30, "a"),
        span("c", "B", 12, 20, "b", kind=3),
        span("d", "B", 12, 20, "b", kind=2, server__address="b.shop.svc"),
    ]
    assert counted(bins_of(spans(rows)), "call") == {("A", "service", "B"): 1}


def test_a_message_goes_through_its_queue_also_where_its_consumer_is_seen() -> None:
    rows = [
        span("a", "A", 0, 5, kind=4, messaging__system="kafka", messaging__destination__name="orders"),
        span("b", "B", 50, 90, "a", kind=5, messaging__system="kafka", messaging__destination__name="orders"),
    ]
    bins = bins_of(spans(rows))
    assert counted(bins, "call") == {("A", "service", "B"): 1, ("A", "queue", "orders"): 1, ("B", "consumed_queue", "orders"): 1}
    publishing = bins.durations.filter((pl.col("what") == "client") & (pl.col("source") == "A"))
    assert publishing["target"].to_list() == ["orders"]  # the publisher does not wait for the consumer
    nameless = bins_of(spans([{**row, "messaging.destination.name": None} for row in rows]))
    assert counted(nameless, "call") == {("A", "service", "B"): 1, ("B", "consumed_queue", "kafka"): 1}


def test_a_consumer_reads_its_queue() -> None:
    bins = bins_of(spans([span("a", "A", 0, 50, kind=5, messaging__destination__name="orders")]))
    assert counted(bins, "call") == {("A", "consumed_queue", "orders"): 1}
    assert counted(bins, "request") == {("A", "op"): 1}


def test_one_name_in_two_namespaces_is_two_services() -> None:
    rows = [
        span("a", "cart", 0, 50, kind=3, service__namespace="blue"),
        span("b", "cart", 10, 30, "a", service__namespace="green"),
        span("c", "cart", 10, 30, kind=2, service__namespace="", trace="other"),
    ]
    found = counted(bins_of(spans(rows)), "call")
    assert [(split_key(source), split_key(target)) for source, _, target in found] == [(("blue", "cart"), ("green", "cart"))]
    assert ("cart", "op") in counted(bins_of(spans(rows)), "request")


def test_a_span_belongs_to_the_bin_it_starts_in() -> None:
    rows = [span(str(i), "A", ms, ms + 60_000) for i, ms in enumerate((0, 9_999, 10_000))]
    counts = bins_of(spans(rows)).counts.filter(pl.col("what") == "span").sort("bin_ns")
    assert counts.select("bin_ns", "count").rows() == [(T0, 2), (T0 + 10_000 * MS, 1)]


def test_of_spans_with_one_id_the_first_is_the_parent() -> None:
    rows = [span("a", "A", 0, 50, kind=3), span("a", "B", 0, 60, kind=3), span("b", "C", 10, 20, "a")]
    assert counted(bins_of(spans(rows)), "call") == {("A", "service", "C"): 1}


def test_no_spans_make_empty_bins() -> None:
    empty = bins_of(spans([span("a", "A", 0, 1)]).clear())
    assert empty.counts.is_empty()
    assert empty.counts.schema == bins_of(spans([span("a", "A", 0, 1)])).counts.schema
    assert empty.durations.schema == bins_of(spans([span("a", "A", 0, 1)])).durations.schema


# --- merging ------------------------------------------------------------------------------------------------------------

_SERVICES = st.sampled_from(["A", "B", "C"])
_SPAN = st.tuples(
    _SERVICES,
    st.integers(0, 5),  # kind
    st.integers(0, 25_000),  # start, ms
    st.integers(0, 2_000),  # duration, ms
    st.booleans(),
    st.integers(-1, 3),  # parent: an earlier span of the trace, or none
    st.sampled_from(["", "db", "queue", "host"]),
)
_TRACE = st.lists(_SPAN, min_size=1, max_size=6)


def _rows(number: int, trace: list[tuple[str, int, int, int, bool, int, str]]) -> list[Row]:
    rows = []
    for i, (service, kind, start, duration, error, parent, peer) in enumerate(trace):
        attributes = {
            "": {},
            "db": {"db__system__name": "pg"},
            "queue": {"messaging__system": "mq"},
            "host": {"server__address": "h"},
        }
        parent_id = str(parent) if 0 <= parent < i else ("gone" if parent == 3 else None)
        rows.append(
            span(
                str(i),
                service,
                start,
                start + duration,
                parent_id,
                trace=f"t{number}",
                kind=kind,
                error=error,
                name=f"op{kind}",
                **attributes[peer],
            )
        )
    return rows


def same(one: Bins, other: Bins) -> None:
    assert one.counts.sort(pl.all()).equals(other.counts.sort(pl.all()))
    assert one.durations.sort(pl.all()).equals(other.durations.sort(pl.all()))
    assert one.exemplars.sort(pl.all()).equals(other.exemplars.sort(pl.all()))
    assert one.placement.sort(pl.all()).equals(other.placement.sort(pl.all()))
    assert (one.pairs, one.orphans) == (other.pairs, other.orphans)


@settings(max_examples=60, deadline=None)
@given(st.lists(_TRACE, min_size=2, max_size=8), st.randoms(use_true_random=False))
def test_bins_of_some_traces_and_of_the_others_add_up_in_any_order(
    traces: list[list[tuple[str, int, int, int, bool, int, str]]], random: object
) -> None:
    frames = [spans(_rows(number, trace), interval=number % 2) for number, trace in enumerate(traces)]
    cut = len(frames) // 2
    whole = bins_of(pl.concat(frames))
    first, second = bins_of(pl.concat(frames[:cut])), bins_of(pl.concat(frames[cut:]))
    same(first + second, whole)
    same(second + first, whole)
    same(whole + Bins.empty(), whole)
    rows = pl.concat(frames).to_dicts()
    random.shuffle(rows)  # type: ignore[attr-defined]
    same(bins_of(pl.from_dicts(rows, schema=frames[0].schema)), whole)


def test_exemplars_are_failing_requests_first_then_the_slowest() -> None:
    rows = [span("a", "A", 0, ms, trace=f"t{ms}", error=ms == 5) for ms in (5, 10, 20, 30)]
    kept = bins_of(spans(rows)).exemplars.select("trace_id", "error").rows()
    assert kept == [("t5", True), ("t30", False)]


@settings(max_examples=40, deadline=None)
@given(st.lists(_TRACE, min_size=1, max_size=8))
def test_bins_that_travelled_as_frames_are_the_same_bins(traces: list[list[tuple[str, int, int, int, bool, int, str]]]) -> None:
    rows = pl.concat([spans(_rows(number, trace)) for number, trace in enumerate(traces)])
    there = {name: frame.with_columns(pl.lit(0, pl.Int16).alias("interval")) for name, frame in frames_of(rows).items()}
    direct = bins_of(rows)
    same(Bins.of_frames(there), replace(direct, orphans=0))


def test_columns_with_more_codes_than_an_integer_holds_are_counted_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        span(
            f"{t}-{i}", f"S{i}", t * 1000 + i, t * 1000 + 90 - i, f"{t}-{i - 1}" if i else None, name=f"op {t % 4}", trace=f"{t}"
        )
        for t in range(30)
        for i in range(5)
    ]
    few = spans([*rows, *(span(f"db{t}", "S4", t, t + 5, trace=f"db{t}", kind=3, server__address=f"h{t}") for t in range(9))])
    expected = frames_of(few.drop("interval"))
    monkeypatch.setattr(rca.bins, "_MOST_CODES", 5000)
    found = frames_of(few.drop("interval"))
    for name, frame in expected.items():
        assert found[name].sort(frame.columns).equals(frame.sort(frame.columns))


def test_ids_may_be_raw_bytes() -> None:
    rows = spans([span("aa", "A", 0, 10, trace="0a"), span("bb", "B", 2, 5, "aa", trace="0a")])
    raw = rows.with_columns(pl.col("trace_id", "span_id", "parent_span_id").str.decode("hex"))
    same(bins_of(raw), bins_of(rows))
