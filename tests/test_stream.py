"""Joins across batches: any split and order gives the bins of everything at once, and every span has one fate."""

from __future__ import annotations

import threading

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rca.collectors.otlp.intake import Batch
from rca.collectors.streaming.config import StreamConfig
from rca.collectors.streaming.memory import Memory
from rca.collectors.streaming.names import OTHER
from rca.collectors.streaming.stream import StreamCounts
from rca.errors import Overloaded
from rca.telemetry import SECOND_NS, Telemetry
from tests.arrivals import Clock, all_at_once, batch, bins, equal, flushed, raw, request, stream_at
from tests.shop import T0, Row, frame, span

SMALL = StreamConfig(max_open_spans=1000)


@st.composite
def traces(draw: st.DrawFn) -> list[Row]:
    """Spans of a few traces: trees, orphans, cycles, several kinds, errors, calls of databases, several bins."""
    rows: list[Row] = []
    for t in range(draw(st.integers(1, 6))):
        size = draw(st.integers(1, 6))
        for i in range(size):
            parent = draw(st.sampled_from([None, "absent", *(f"{j}" for j in range(size) if j != i)]))
            start = draw(st.integers(0, 40_000))
            rows.append(
                span(
                    f"{t}-{i}",
                    draw(st.sampled_from("ABC")),
                    start,
                    start + draw(st.integers(0, 500)),
                    f"{t}-{parent}" if parent else None,
                    trace=f"trace-{t}",
                    name=draw(st.sampled_from(["get", "put"])),
                    kind=draw(st.integers(0, 5)),
                    error=draw(st.booleans()),
                    db__system__name=draw(st.sampled_from([None, "mysql"])),
                    k8s__pod__name=draw(st.sampled_from([None, "pod-1", "pod-2"])),
                )
            )
    return rows


@settings(max_examples=60, deadline=None)
@given(rows=traces(), data=st.data())
def test_any_split_and_order_gives_the_same_bins(rows: list[Row], data: st.DataObject) -> None:
    repeated = data.draw(st.lists(st.sampled_from(rows), max_size=5))
    arriving = data.draw(st.permutations(rows + repeated))
    clock = Clock()
    stream = stream_at(clock)
    sent = 0
    while sent < len(arriving):
        size = data.draw(st.integers(1, len(arriving) - sent))
        stream.take(batch(*arriving[sent : sent + size]))
        sent += size
        assert stream.counts().received == sent
        assert stream.counts().balanced()
        clock.seconds += data.draw(st.floats(0, 60 / len(arriving) - 0.1))
        clock.seconds = min(clock.seconds, 9.9)  # within the wait
        if data.draw(st.booleans()):
            stream.work()
            assert stream.counts().balanced()
    stream.work()
    clock.seconds += 10
    found = bins(flushed(stream))
    assert equal(found, all_at_once(rows))
    counts = stream.counts()
    assert (counts.binned, counts.open, counts.late) == (len(rows), 0, 0)
    assert counts.dropped == ({"duplicate": len(repeated)} if repeated else {})
    assert counts.balanced()


def test_a_trace_waits_for_its_last_span() -> None:
    clock = Clock()
    stream = stream_at(clock)
    first, second, third = request("a")
    for row in (first, second, third):
        stream.take(batch(row))
        assert flushed(stream) == {}
        clock.seconds += 8
    assert stream.counts().open == 3
    clock.seconds += 2
    assert equal(bins(flushed(stream)), all_at_once([first, second, third]))


def test_a_trace_that_never_ends_is_closed() -> None:
    clock = Clock()
    stream = stream_at(clock)
    rows = [span(f"s{i}", "A", i * 1000, i * 1000 + 1) for i in range(20)]
    for row in rows:
        stream.take(batch(row))
        stream.work()
        clock.seconds += 5
    counts = stream.counts()
    assert counts.binned == 13  # the first minute
    assert counts.late == 7
    assert counts.balanced()


def test_late_spans_are_binned_among_themselves() -> None:
    clock = Clock()
    stream = stream_at(clock)
    first, second, third = request("a")
    stream.take(batch(first))
    stream.work()
    clock.seconds += 11
    early = bins(flushed(stream))
    stream.take(batch(third))
    stream.work()
    clock.seconds += 5
    stream.take(batch(second))
    stream.work()
    clock.seconds += 11
    late = bins(flushed(stream))
    assert equal(early, all_at_once([first]))
    assert equal(late, all_at_once([second, third]))
    counts = stream.counts()
    assert (counts.late, counts.unpaired, counts.binned) == (2, 1, 3)


def test_a_batch_that_is_sent_again_is_dropped_also_after_its_traces_were_closed() -> None:
    clock = Clock()
    stream = stream_at(clock)
    rows = request("a")
    stream.take(batch(*rows))
    stream.take(batch(*rows))
    stream.work()
    clock.seconds += 11
    assert equal(bins(flushed(stream)), all_at_once(rows))
    stream.take(batch(*rows))
    stream.work()
    clock.seconds += 11
    assert flushed(stream) == {}
    counts = stream.counts()
    assert (counts.received, counts.binned, counts.dropped) == (9, 3, {"duplicate": 6})


def test_a_span_that_ends_before_it_starts_is_dropped_and_a_cycle_is_cut() -> None:
    clock = Clock()
    stream = stream_at(clock)
    cycle = [span("a", "A", 0, 10, "b"), span("b", "B", 1, 9, "a")]
    stream.take(batch(*cycle, span("c", "A", 5, 4)))
    stream.work()
    clock.seconds += 11
    assert equal(bins(flushed(stream)), all_at_once(cycle))
    counts = stream.counts()
    assert (counts.dropped, counts.cycles) == ({"ends before it starts": 1}, 1)


def test_the_oldest_traces_are_closed_where_too_many_are_open() -> None:
    clock = Clock()
    stream = stream_at(clock, SMALL)
    rows = [row for t in range(600) for row in request(f"t{t:03}", services="AB")]
    for part in range(0, 1200, 200):
        stream.take(batch(*rows[part : part + 200]))
        stream.work()
        clock.seconds += 0.1
    counts = stream.counts()
    assert counts.open <= 1000
    assert counts.forced == counts.binned > 0
    assert counts.forced % 2 == 0  # whole traces
    assert counts.balanced()
    assert equal(bins(flushed(stream)), all_at_once(rows[: counts.forced]))


def test_open_spans_are_limited_in_bytes() -> None:
    clock = Clock()
    stream = stream_at(clock, StreamConfig(max_open_bytes="100KiB"))
    stream.take(batch(*(row for t in range(500) for row in request(f"t{t}"))))
    stream.work()
    counts = stream.counts()
    assert 0 < counts.open < 1500
    assert counts.forced == 1500 - counts.open


def test_senders_are_told_to_wait_while_too_much_waits() -> None:
    clock = Clock()
    stream = stream_at(clock, StreamConfig(max_waiting_spans=1000, max_waiting_rows=1000))
    stream.admit()
    stream.take(Batch(spans=raw(row for t in range(400) for row in request(f"t{t}"))))
    with pytest.raises(Overloaded, match="1200 spans wait"):
        stream.admit()
    stream.work()
    stream.admit()
    values = [
        {"time_unix_nano": T0, "entity_kind": "service", "entity": "A", "metric": "m", "value": float(i)} for i in range(1000)
    ]
    stream.note(Telemetry(metrics=frame("metrics", values)))
    stream.work()
    with pytest.raises(Overloaded, match="metrics"):
        stream.admit()
    with pytest.raises(RuntimeError), stream.flushing():
        raise RuntimeError  # the disk is full: everything stays, and there is still no room
    with pytest.raises(Overloaded, match="metrics"):
        stream.admit()
    assert flushed(stream)["metrics"].height == 1000
    stream.admit()


def test_names_that_hold_ids_do_not_multiply_bins() -> None:
    clock = Clock()
    stream = stream_at(clock, StreamConfig(max_operations=5, max_services=2, max_peers=3))
    for i in range(50):
        rows = [span(f"s{i}", "A", 0, 1, trace=f"t{i}", name=f"GET /user/{i:02}", kind=3, server__address=f"host-{i}")]
        rows.append(span(f"u{i}", f"svc-{i}", 0, 1, trace=f"u{i}", service__namespace="n", k8s__pod__name="p"))
        stream.take(batch(*rows))
        stream.work()
    clock.seconds += 11
    frames = flushed(stream)
    own = frames["bin_counts"].filter(pl.col("what") == "span")
    assert set(own["source"]) == {"A", "n\x1fsvc-0", OTHER}
    assert set(own.filter(pl.col("source") == "A")["operation"]) == {*(f"GET /user/{i:02}" for i in range(5)), OTHER}
    called = frames["bin_counts"].filter(pl.col("what") == "call")
    assert set(called["target"]) == {"host-0", "host-1", "host-2", OTHER}
    assert own["count"].sum() == 100
    assert stream.counts().renamed == 45 + 49 + 47
    assert set(frames["bin_placement"].filter(pl.col("service") == OTHER)["pod"]) == {None}


def test_names_give_their_place_back() -> None:
    clock = Clock()
    stream = stream_at(clock, StreamConfig(max_operations=1))
    for name in ("old", "new"):
        stream.take(batch(span(name, "A", 0, 1, trace=name, name=name)))
        stream.work()
        clock.seconds += 3700
    assert set(flushed(stream)["bin_counts"]["operation"]) == {"old", "new"}


def test_spans_of_distant_days_are_summed() -> None:
    clock = Clock()
    stream = stream_at(clock)
    day = 86_400_000
    rows = [span("a", "A", 0, 5, trace="a"), span("b", "A", 10 * day, 10 * day + 5, trace="b")]
    stream.take(batch(*rows))
    stream.work()
    clock.seconds += 11
    counts = flushed(stream)["bin_counts"].filter(pl.col("what") == "span")
    assert counts["time_unix_nano"].to_list() == [T0, T0 + 10 * day * 1_000_000]


def test_other_telemetry_passes_and_log_counts_are_added() -> None:
    clock = Clock()
    stream = stream_at(clock)
    log = {"time_unix_nano": T0, "entity_kind": "service", "entity": "A", "severity": "INFO", "template": "up", "count": 2}
    event = {"time_unix_nano": T0, "entity_kind": "pod", "entity": "a-1", "reason": "OOMKilled"}
    relation = {"source_kind": "service", "source": "A", "relation": "runs", "target_kind": "pod", "target": "a-1"}
    for _ in range(3):
        stream.take(Batch(logs=frame("logs", [log]), topology=frame("topology", [relation])))
    stream.note(Telemetry(events=frame("events", [event])))
    frames = flushed(stream)
    assert frames["logs"]["count"].to_list() == [6]
    assert frames["events"].height == frames["topology"].height == 1
    assert stream.counts().rows == {"logs": 3, "events": 1, "topology": 1}
    stream.take(Batch(topology=frame("topology", [relation])))
    assert flushed(stream) == {}  # known
    clock.seconds += 3600
    assert flushed(stream)["topology"].height == 1  # every hour anew
    clock.seconds += 4 * 3600
    assert flushed(stream) == {}  # nobody states it any more


def test_a_restart_goes_on() -> None:
    clock = Clock()
    stream = stream_at(clock)
    a, b = request("a"), request("b")
    stream.take(batch(*b))
    stream.work()
    clock.seconds += 11
    stream.take(batch(*a[:2]))
    with stream.flushing() as flush:
        first = bins(flush.frames)
    clock.seconds += 5
    again = stream_at(clock)
    again.restore(flush.open_spans, flush.memories, flush.counts)
    assert again.counts() == stream.counts()
    again.take(batch(*b, *a))
    again.work()
    clock.seconds += 11
    second = bins(flushed(again))
    counts = again.counts()
    assert (counts.received, counts.binned, counts.dropped) == (11, 6, {"duplicate": 5})
    assert equal(first, all_at_once(b))
    assert equal(second, all_at_once(a))


def test_counts_are_exact_while_several_threads_send() -> None:
    clock = Clock()
    stream = stream_at(clock)

    def send(thread: int) -> None:
        for i in range(100):
            stream.take(batch(*request(f"{thread}-{i}")))

    threads = [threading.Thread(target=send, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        stream.work()
        clock.seconds += 1
        assert stream.counts().balanced()
    stream.work()
    clock.seconds += 11
    stream.work()
    counts = stream.counts()
    assert (counts.received, counts.binned, counts.open) == (900, 900, 0)


def test_a_flush_counts_only_what_it_holds() -> None:
    stream = stream_at(Clock())
    stream.take(batch(*request("a")))
    with stream.flushing() as flush:
        stream.take(batch(*request("b")))  # in no snapshot: lost if the process is killed now
    assert (flush.counts.received, flush.counts.open) == (3, 3)
    stream.work()
    with stream._working:
        stream.take(batch(*request("c")))
        assert stream._flush().counts.received == 6
    assert stream.counts().received == 9


def test_unbalanced_counts_show() -> None:
    assert StreamCounts(received=3, binned=1, open=1, dropped={"duplicate": 1}).balanced()
    assert not StreamCounts(received=3, binned=1, open=1).balanced()


def test_the_delay_of_senders_is_allowed_for() -> None:
    clock = Clock()
    stream = stream_at(clock)
    clock.seconds = 30
    stream.take(batch(*(row for i in range(10) for row in request(f"t{i}", at_s=22))))
    with stream.flushing() as flush:
        pass
    assert T0 + 20 * SECOND_NS < flush.complete_until_ns < T0 + 22 * SECOND_NS


def test_memory_forgets_by_age_and_by_number() -> None:
    memory = Memory(keep_ns=80, most=800)
    keys = np.arange(10_000, dtype=np.uint64)
    for i in range(100):
        memory.add(keys[i * 100 : (i + 1) * 100], i)
        assert len(memory) <= 800
    assert memory.contains(keys[9_500:]).all()
    assert not memory.contains(keys[:9_000]).any()
    memory.add(keys[:1], 150)
    memory.add(keys[1:2], 400)
    assert memory.contains(keys[:2]).tolist() == [False, True]


@pytest.mark.parametrize("settings_", [{"join_wait": "2m"}, {"max_open_spans": 0}, {"join_limit": "soon"}])
def test_settings_that_cannot_work_are_refused(settings_: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        StreamConfig(**settings_)  # type: ignore[arg-type]
