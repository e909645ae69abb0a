"""The embedded store: commits that are whole or absent, readers beside the writer, restarts, retention, a full disk."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rca.collectors.warm.reading as reading_module
import rca.collectors.warm.shelf as shelf_module
import rca.collectors.warm.store as store_module
from rca.collectors.streaming.stream import Flush, Stream
from rca.collectors.warm.config import StoreConfig
from rca.collectors.warm.live import LIVE, LOST, STOPPED
from rca.collectors.warm.parts import Part, hour_of, hour_start_ns, parts_in, visible
from rca.collectors.warm.shelf import Shelf
from rca.collectors.warm.state import joined, without
from rca.collectors.warm.store import Store, StoreCollector, store_folder
from rca.errors import BadInput, StorageFull, Unavailable
from rca.telemetry import SECOND_NS, Gap, Interval, Telemetry
from rca.testing import check_collector
from tests.arrivals import Clock, all_at_once, batch, bins, equal, hexed, request, stream_at
from tests.servers import disks
from tests.shop import T0, Row, frame, span

HOUR = 3600
DAY = 24 * HOUR
EVENT = {"time_unix_nano": T0, "entity_kind": "pod", "entity": "a-1", "reason": "OOMKilled"}
SAMPLE = {"time_unix_nano": T0, "entity_kind": "service", "entity": "A", "metric": "m", "value": 1.0}
RELATION = {"source_kind": "service", "source": "A", "relation": "runs", "target_kind": "pod", "target": "a-1"}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Store:
    return Store(tmp_path / "telemetry", wall_ns=clock.wall)


def at(seconds: float) -> int:
    return T0 + int(seconds * SECOND_NS)


def run(store: Store, clock: Clock, *rows: Row, config: StoreConfig | None = None, last: bool = True) -> Stream:
    """One run of a collector that takes spans, waits until they are complete, and stores them."""
    stream = stream_at(clock)
    with store.writer(config) as writer:
        resumed = writer.resumed()
        if resumed:
            stream.restore(resumed.open_spans, resumed.memories, resumed.counts)
        stream.take(batch(*rows))
        stream.work()
        clock.seconds += 10
        with stream.flushing() as flush:
            writer.append(flush, last=last)
    return stream


def metrics(store: Store, clock: Clock, times: list[float], config: StoreConfig | None = None) -> None:
    """A run that stores one sample and one event at each time, each with a commit."""
    with store.writer(config) as writer:
        for seconds in times:
            clock.seconds = max(clock.seconds, seconds)
            rows = {"metrics": [{**SAMPLE, "time_unix_nano": at(seconds)}], "events": [{**EVENT, "time_unix_nano": at(seconds)}]}
            writer.append(flush_of(clock, **{name: frame(name, row) for name, row in rows.items()}))


def flush_of(clock: Clock, **frames: pl.DataFrame) -> Flush:
    with stream_at(clock).flushing() as flush:
        return replace(flush, frames=frames)


def reasons(telemetry: Telemetry) -> list[tuple[str, float, float]]:
    """Reason, start and end (s after T0) of every gap."""
    return [
        (gap.reason, (gap.interval.start_ns - T0) / SECOND_NS, (gap.interval.end_ns - T0) / SECOND_NS)
        for gap in telemetry.gaps
        if gap.interval
    ]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# --- what is stored is read ---------------------------------------------------------------------------------------------


def test_what_was_stored_is_read(store: Store, clock: Clock) -> None:
    rows = [*request("a"), *request("b", at_s=12)]
    run(store, clock, *rows)
    telemetry = store.read(at(0), at(60))
    assert equal(bins(telemetry.frames()), all_at_once(rows))
    assert reasons(telemetry) == [(STOPPED, 10, 60)]
    assert equal(bins(store.read(at(10), at(20)).frames()), all_at_once(rows[3:]))


def test_the_store_is_a_collector(store: Store, clock: Clock) -> None:
    rows = [row for t in range(20) for row in request(f"t{t}", at_s=t)]
    run(store, clock, *rows)
    with store.writer() as writer:
        writer.append(flush_of(clock, topology=frame("topology", [RELATION]), events=frame("events", [EVENT])))
    telemetry = check_collector(store, at(0), at(30))
    assert telemetry.topology.height == telemetry.events.height == 1


def test_nothing_stored_is_unavailable(store: Store) -> None:
    with pytest.raises(Unavailable, match="rca collect"):
        store.read(at(0), at(10))
    assert store.fresh_until_ns() is None
    assert store.shelves() == ()


def test_the_collector_reads_where_the_configuration_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert StoreCollector(StoreConfig(folder=tmp_path)).folder == tmp_path
    monkeypatch.setenv("RCA_HOME", str(tmp_path / "home"))
    assert store_folder(StoreConfig()) == tmp_path / "home" / "telemetry"
    assert store_folder(StoreConfig(folder=tmp_path), tmp_path / "given") == tmp_path / "given" / "telemetry"


def test_spans_that_still_wait_are_read_and_counted_once(store: Store, clock: Clock) -> None:
    rows = request("a")
    stream = stream_at(clock)
    with store.writer() as writer:
        stream.take(batch(*rows[:2]))
        with stream.flushing() as flush:
            writer.append(flush)
        assert stream.counts().open == 2
        assert equal(bins(store.read(at(0), at(60)).frames()), all_at_once(rows[:2]))
        clock.seconds += 5
        stream.take(batch(rows[2]))
        stream.work()
        clock.seconds += 10
        with stream.flushing() as flush:
            writer.append(flush)
        assert stream.counts().open == 0
        assert equal(bins(store.read(at(0), at(60)).frames()), all_at_once(rows))


def test_rows_without_a_time_belong_to_the_moment_they_came(store: Store, clock: Clock) -> None:
    alert = {"time_unix_nano": None, "entity_kind": "service", "entity": "A", "name": "slow", "source": "metric"}
    clock.seconds = 7
    with store.writer() as writer:
        writer.append(flush_of(clock, alerts=frame("alerts", [alert])))
    assert store.read(at(0), at(10)).alerts["time_unix_nano"].to_list() == [at(7)]


# --- restarts -----------------------------------------------------------------------------------------------------------


def test_a_restart_continues_and_the_time_between_is_a_gap(store: Store, clock: Clock) -> None:
    rows = request("a")
    stream = stream_at(clock)
    with store.writer() as writer:
        stream.take(batch(*rows[:2]))
        clock.seconds = 10
        with stream.flushing() as flush:
            writer.append(flush)
        stream.take(batch(rows[2]))  # lost: the process is killed here
        stream.work()
    clock.seconds = 13
    again = run(store, clock, *rows)  # the sender was never answered, and sends all of it again
    telemetry = store.read(at(0), at(23))
    assert equal(bins(telemetry.frames()), all_at_once(rows))
    assert reasons(telemetry) == [(LOST, 10, 13)]
    counts = again.counts()
    assert (counts.received, counts.binned, counts.dropped) == (5, 3, {"duplicate": 2})


def test_a_good_end_is_told_from_a_bad_one(store: Store, clock: Clock) -> None:
    for last in (False, True, False):
        run(store, clock, last=last)
        clock.seconds += 5
    assert reasons(store.read(at(0), at(40))) == [(LOST, 10, 15), (STOPPED, 25, 30), ("not stored yet", 40, 40)][:2]


def test_a_clock_that_is_set_back_makes_nothing_complete_ahead_of_it(store: Store, clock: Clock) -> None:
    for seconds in (4000, 400):
        clock.seconds = seconds
        run(store, clock, *request(f"t{seconds}", at_s=seconds))
        fresh_ns = store.fresh_until_ns()
        assert fresh_ns is not None
        assert at(seconds) < fresh_ns <= clock.wall()
    assert store.read(at(0), at(HOUR)).bin_counts.filter(pl.col("what") == "span")["count"].sum() == 3


def test_what_no_commit_names_is_deleted(store: Store, clock: Clock) -> None:
    run(store, clock, *request("a"))
    live = store.folder / LIVE
    before = files(live)
    hour = live / "bin_counts" / hour_of(T0)
    shutil.copy(next(hour.iterdir()), hour / Part(2, 2).name)  # a commit that did not happen
    shutil.copy(next(hour.iterdir()), live / "kept" / "open-spans-0000000002-0")
    (hour / "0000000003-0000000003.parquet.part").write_bytes(b"half")
    assert store.read(at(0), at(60)).bin_counts["count"].sum() == all_at_once(request("a"))["bin_counts"]["count"].sum()
    with store.writer():
        assert files(live) == before


def test_gaps_of_other_sources_are_kept(store: Store, clock: Clock) -> None:
    stream = stream_at(clock)
    with store.writer() as writer:
        for _ in range(3):
            stream.note(Telemetry(gaps=(Gap("kubernetes", "not in sight"),)))
            clock.seconds += 10
            with stream.flushing() as flush:
                writer.append(flush)
    assert [(gap.source, gap.reason, gap.interval) for gap in store.read(at(0), at(30)).gaps] == [
        ("kubernetes", "not in sight", Interval(at(0), at(30)))
    ]


def test_a_folder_has_one_writer(store: Store, clock: Clock) -> None:
    with store.writer(), pytest.raises(Unavailable, match=rf"another process writes here \(process {os.getpid()}\)"):
        store.writer()
    with store.writer():
        pass


def test_a_state_of_another_version_is_refused(store: Store, clock: Clock) -> None:
    run(store, clock)
    state = store.folder / LIVE / "state.json"
    state.write_text(state.read_text().replace('"version":1', '"version":2'))
    with pytest.raises(BadInput, match="version 1"):
        store.writer()
    with pytest.raises(BadInput, match="version 1"):
        store.read(at(0), at(10))


# --- merging ------------------------------------------------------------------------------------------------------------


def test_small_parts_are_merged_and_read_the_same(store: Store, clock: Clock) -> None:
    live = store.folder / LIVE
    stream = stream_at(clock)
    rows: list[Row] = []
    with store.writer() as writer:
        for i in range(26):
            rows += request(f"t{i}", at_s=i * 10)
            stream.take(batch(*request(f"t{i}", at_s=i * 10)))
            clock.seconds += 10
            with stream.flushing() as flush:
                writer.append(flush)
            writer.housekeep()
        parts = files(live / "bin_counts")
        assert 1 < len(parts) < 20
        assert equal(bins(store.read(at(0), at(HOUR)).frames()), all_at_once(rows))
        clock.seconds = HOUR + 600  # the hour is over
        for _ in range(31):
            with stream.flushing() as flush:
                writer.append(flush)
        writer.housekeep()
        clock.seconds += 60
        writer.housekeep()
        assert len(files(live / "bin_counts")) == 1
        assert equal(bins(store.read(at(0), at(HOUR)).frames()), all_at_once(rows))


def test_a_crash_after_merging_leaves_nothing_twice(store: Store, clock: Clock) -> None:
    folder = store.folder / LIVE / "metrics"
    metrics(store, clock, [10.0 * i for i in range(12)])
    with store.writer() as writer:
        assert writer.housekeep().merged == 24  # metrics and events
        assert len(files(folder)) == 13  # readers may still open the small ones; here the process is killed
    assert store.read(at(0), at(HOUR)).metrics.height == 12
    with store.writer():
        assert len(files(folder)) == 1
    assert store.read(at(0), at(HOUR)).metrics.height == 12


def test_readers_beside_a_writer_that_merges(store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf_module, "_MERGED_AT", 3)
    monkeypatch.setattr(shelf_module, "_GRACE_NS", 0)
    monkeypatch.setattr(reading_module, "_TRIES", 1000)
    stop = threading.Event()
    failures: list[object] = []
    seen: list[int] = []

    def read() -> None:
        last = 0
        while not stop.is_set():
            try:
                telemetry = store.read(at(0), at(HOUR))
                count = telemetry.bin_counts.filter(pl.col("what") == "span")["count"].sum()
                pairs = telemetry.bin_counts.filter(pl.col("what") == "child")["count"].sum()
                if count < last or count != pairs + pairs // 2:
                    failures.append((last, count, pairs))
                last = count
                seen.append(count)
            except Exception as error:  # whatever it is, the test shows it
                failures.append(error)

    stream = stream_at(clock)
    with store.writer() as writer:
        writer._shelf._grace_ns = 0  # parts go at once, as they do after half a minute
        stream.take(batch(*request("first")))
        with stream.flushing() as flush:
            writer.append(flush)
        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        for i in range(16):
            stream.take(batch(*request(f"t{i}", at_s=i % 30)))
            clock.seconds += 4
            with stream.flushing() as flush:
                writer.append(flush)
            writer.housekeep()
        stop.set()
        for reader in readers:
            reader.join()
    assert failures == []
    assert len(set(seen)) > 1
    assert store.read(at(0), at(HOUR)).bin_counts.filter(pl.col("what") == "span")["count"].sum() == 51


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_parts_are_visible_once(data: st.DataObject) -> None:
    """However parts were merged, every commit is in one visible part."""
    parts = [Part(i, i) for i in range(1, 21)]
    current = list(parts)
    for _ in range(data.draw(st.integers(0, 6))):
        start = data.draw(st.integers(0, len(current) - 1))
        end = data.draw(st.integers(start, len(current) - 1))
        if end > start:
            merged = Part(current[start].first, current[end].last)
            parts.append(merged)
            current[start : end + 1] = [merged]
    seen = [commit for part in visible(parts, 20) for commit in range(part.first, part.last + 1)]
    assert sorted(seen) == list(range(1, 21))


# --- retention ----------------------------------------------------------------------------------------------------------


def test_old_telemetry_is_deleted_and_events_live_longer(store: Store, clock: Clock) -> None:
    config = StoreConfig(keep="1d", keep_events="3d")
    metrics(store, clock, [0, HOUR, DAY, DAY + 2 * HOUR])
    with store.writer(config) as writer:
        assert writer.housekeep().too_old == 2
        writer.append(flush_of(clock))
    telemetry = store.read(at(0), at(DAY + 3 * HOUR))
    assert telemetry.metrics["time_unix_nano"].to_list() == [at(DAY), at(DAY + 2 * HOUR)]
    assert telemetry.events.height == 4
    assert reasons(telemetry)[0] == ("older than what the store keeps", 0, 2 * HOUR)
    clock.seconds = 5 * DAY
    with store.writer(config) as writer:
        writer.housekeep()
        assert writer.size_bytes == 0
        writer.append(flush_of(clock))
    assert files(store.folder / LIVE / "events") == []


def test_the_oldest_telemetry_is_deleted_where_there_is_too_much(store: Store, clock: Clock) -> None:
    metrics(store, clock, [i * HOUR for i in range(10)])
    with store.writer() as writer:
        size = writer.size_bytes
    with store.writer(StoreConfig(max_bytes=f"{size - size // 4} B")) as writer:
        assert 4 <= writer.housekeep().too_much <= 6
        assert writer.size_bytes <= size - size // 4
        writer.append(flush_of(clock))
    telemetry = store.read(at(0), at(10 * HOUR))
    assert telemetry.metrics["time_unix_nano"].to_list()[-1] == at(9 * HOUR)
    assert telemetry.events.height == 10
    assert "older than what the store keeps" in [reason for reason, *_ in reasons(telemetry)]


def test_backfilled_telemetry_is_deleted_too(store: Store, clock: Clock) -> None:
    store.replace("tempo", Interval(at(0), at(HOUR)), Telemetry(spans=hexed(request("a"))))
    clock.seconds = 2 * DAY
    with store.writer(StoreConfig(keep="1d")) as writer:
        assert writer.housekeep().too_old == 1
        writer.append(flush_of(clock))
    assert files(store.folder / "backfill" / "tempo") == ["lock", "state.json"]
    assert reasons(store.read(at(0), at(HOUR))) == [("older than what the store keeps", 0, HOUR)]
    assert [shelf.covered for shelf in store.shelves() if shelf.name == "tempo"] == [()]


# --- a full disk --------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 256 KiB, where this process may mount one."""
    with disks.small(tmp_path, "256k") as disk:
        yield disk


def test_a_full_disk_keeps_what_was_there_and_recovers(small_disk: Path, clock: Clock) -> None:
    store = Store(small_disk / "telemetry", wall_ns=clock.wall)
    stream = stream_at(clock)
    rows: list[Row] = []

    def flush() -> None:
        with stream.flushing() as ready:
            writer.append(ready)

    def send() -> None:
        more = [row for t in range(50) for row in request(f"{len(rows)}-{t}", at_s=clock.seconds)]
        rows.extend(more)
        stream.take(batch(*more))
        clock.seconds += 10

    with store.writer() as writer:
        send()
        flush()
        ballast = small_disk / "ballast"
        with pytest.raises(OSError, match="No space"):
            ballast.write_bytes(b"x" * 2**20)
        before = store.read(at(0), at(HOUR))
        for _ in range(3):
            send()
            with pytest.raises(StorageFull, match="nothing that was stored before is lost"):
                flush()
        after = store.read(at(0), at(HOUR))
        assert equal(bins(after.frames()), bins(before.frames()))
        assert not [name for name in files(small_disk) if name.endswith(".part")]
        ballast.unlink()
        flush()
        clock.seconds += 10
        flush()
    assert equal(bins(store.read(at(0), at(HOUR)).frames()), all_at_once(rows))
    assert stream.counts().balanced()


@pytest.mark.parametrize("moment", range(12))
def test_a_write_that_fails_at_any_moment_leaves_the_last_commit(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    rows = request("a")
    stream = run(store, clock, *rows)
    before = files(store.folder / LIVE)
    calls = 0
    true_fsync = os.fsync

    def full(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls > moment:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        true_fsync(handle)

    more = request("b", at_s=5)
    stream.take(batch(*more))
    stream.work()
    clock.seconds += 10
    with store.writer() as writer, monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageFull), stream.flushing() as flush:
            writer.append(flush)
        assert files(store.folder / LIVE) == before
        patch.undo()
        with stream.flushing() as flush:
            writer.append(flush)
    assert equal(bins(store.read(at(0), at(60)).frames()), all_at_once([*rows, *more]))


def test_a_damaged_part_is_a_gap(store: Store, clock: Clock) -> None:
    run(store, clock, *request("a"))
    part = next((store.folder / LIVE / "bin_durations").rglob("*.parquet"))
    part.write_bytes(part.read_bytes()[:50])
    telemetry = store.read(at(0), at(10))
    assert telemetry.bin_durations.is_empty()
    assert telemetry.bin_counts.height
    assert [gap.source for gap in telemetry.gaps] == ["store"]
    assert "is damaged" in telemetry.gaps[0].reason


@pytest.mark.parametrize("body", [b"", b"x", None])
def test_a_run_goes_on_without_what_an_earlier_one_kept_if_it_is_damaged(store: Store, clock: Clock, body: bytes | None) -> None:
    stream = stream_at(clock)
    with store.writer() as writer:
        stream.take(batch(*request("a")))
        with stream.flushing() as flush:
            writer.append(flush)
    kept = list((store.folder / LIVE / "kept").iterdir())
    assert len(kept) == 2  # open spans, and the memory of them
    for path in kept:
        path.unlink() if body is None else path.write_bytes(body)
    if body is not None:
        assert "kept/open-spans-0000000001-0 of live is damaged" in [gap.reason for gap in store.read(at(0), at(10)).gaps]
    stream = run(store, clock, *request("b"))
    counts = stream.counts()
    assert (counts.received, counts.binned, counts.dropped) == (6, 3, {"in a damaged file": 3})
    telemetry = store.read(at(-60), at(10))
    assert equal(bins(telemetry.frames()), all_at_once(request("b")))
    assert sorted(gap.reason for gap in telemetry.gaps if "damaged" in gap.reason) == [
        f"{name}-0000000001-0, kept for a restart, is damaged" for name in ("memory-spans", "open-spans")
    ]


def test_a_damaged_part_keeps_nothing_else_from_being_merged(store: Store, clock: Clock) -> None:
    metrics(store, clock, [10.0 * i for i in range(12)])
    damaged = next((store.folder / LIVE / "metrics").rglob("*.parquet"))
    damaged.write_bytes(b"x")
    with store.writer() as writer:
        assert writer.housekeep().merged == 12  # the events
    telemetry = store.read(at(0), at(110))
    assert (telemetry.metrics.height, telemetry.events.height) == (10, 11)
    assert [gap.reason for gap in telemetry.gaps] == [f"metrics/{hour_of(T0)}/{damaged.name} of live is damaged"]


def test_a_backfill_into_a_damaged_part_changes_nothing(store: Store) -> None:
    hour = Interval(at(0), at(HOUR))
    store.replace("tempo", hour, Telemetry(spans=hexed(request("a"))))
    next((store.folder / "backfill" / "tempo" / "bin_counts").rglob("*.parquet")).write_bytes(b"x")
    before = files(store.folder)
    with pytest.raises(BadInput, match="a whole Parquet file"):
        store.replace("tempo", hour, Telemetry(spans=hexed(request("b"))))
    assert files(store.folder) == before


# --- past telemetry -----------------------------------------------------------------------------------------------------


def test_a_backfill_fills_what_was_not_collected(store: Store, clock: Clock) -> None:
    past = [row for t in range(30) for row in request(f"p{t}", at_s=-300 + 10 * t + 1)]
    live = [row for t in range(3) for row in request(f"l{t}", at_s=10 * t + 1)]
    run(store, clock, *live)
    clock.seconds = 40
    run(store, clock)
    whole = Interval(at(-300), at(30))
    store.replace("tempo", whole, Telemetry(spans=hexed([*past, *live])))
    for _ in range(2):  # repeating changes nothing
        telemetry = store.read(whole.start_ns, whole.end_ns)
        assert equal(bins(telemetry.frames()), all_at_once([*past, *live]))
        store.replace("tempo", Interval(at(-300), at(0)), Telemetry(spans=hexed(past)))
        store.replace("tempo", Interval(at(0), at(30)), Telemetry(spans=hexed(live)))
    store.replace("jaeger", whole, Telemetry(spans=hexed(past[:30])))
    assert equal(bins(store.read(at(-300), at(0)).frames()), all_at_once(past[:30]))  # one source speaks for the time
    assert reasons(store.read(whole.start_ns, whole.end_ns)) == []
    store.replace("tempo", whole, Telemetry())
    assert equal(bins(store.read(at(-300), at(0)).frames()), all_at_once(past[:30]))


def test_a_backfill_of_metrics_does_not_hide_spans(store: Store, clock: Clock) -> None:
    run(store, clock, *request("a"))
    gap = Gap("prometheus", "no answer", Interval(at(0), at(5)))
    telemetry = Telemetry(metrics=frame("metrics", [SAMPLE]), topology=frame("topology", [RELATION]), gaps=(gap,))
    for _ in range(2):
        store.replace("prometheus", Interval(at(0), at(HOUR)), telemetry)
    found = store.read(at(0), at(10))
    assert equal(bins(found.frames()), all_at_once(request("a")))
    assert found.metrics.height == found.topology.height == 1
    assert found.gaps == (gap,)


def test_a_backfill_cuts_at_its_interval_and_cleans(store: Store) -> None:
    rows = [*request("a"), span("b", "A", 0, 5, trace="late", at_ns=at(60)), span("c", "A", 5, 4, trace="c")]
    store.replace("tempo", Interval(at(0), at(60)), Telemetry(spans=hexed(rows)))
    found = store.read(at(0), at(100))
    assert equal(bins(found.frames()), all_at_once(request("a")))
    assert [gap.source for gap in found.gaps] == ["spans", "otlp"]


@pytest.mark.parametrize("name", ["", "live", "../up", "Tempo", "a" * 65])
def test_a_source_that_cannot_name_a_folder_is_refused(store: Store, name: str) -> None:
    with pytest.raises(BadInput, match="short name"):
        store.replace(name, Interval(at(0), at(10)), Telemetry())


def test_a_source_is_filled_by_one_process_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(store.folder / "backfill" / "tempo")
    threading.Timer(0.3, shelf.close).start()  # a collector that tidies up
    store.replace("tempo", Interval(at(0), at(10)), Telemetry())
    monkeypatch.setattr(store_module, "_PATIENCE_SECONDS", 0.1)
    with Shelf(store.folder / "backfill" / "tempo"), pytest.raises(Unavailable, match="another process"):
        store.replace("tempo", Interval(at(0), at(10)), Telemetry())


def test_a_damaged_backfill_is_no_matter_of_the_collector(store: Store, clock: Clock) -> None:
    metrics(store, clock, [10.0 * i for i in range(12)])
    (store.folder / "backfill" / "tempo").mkdir(parents=True)
    (store.folder / "backfill" / "tempo" / "state.json").write_text("{")
    with store.writer() as writer:
        assert writer.housekeep().merged == 24
    telemetry = store.read(at(0), at(110))
    assert telemetry.metrics.height == 11
    assert "tempo/state.json: expected the state of a store" in telemetry.gaps[-1].reason


def test_shelves_say_what_is_there(store: Store, clock: Clock) -> None:
    run(store, clock, *request("a"))
    store.replace("tempo", Interval(at(0), at(60)), Telemetry(spans=hexed(request("a"))))
    live, tempo = store.shelves()
    assert (live.name, tempo.name) == ("live", "tempo")
    assert live.size_bytes > 0
    assert live.frames["bin_counts"][2] == hour_start_ns(hour_of(T0))
    assert live.covered == (Interval(at(0), at(10)),)
    assert tempo.covered == (Interval(at(0), at(60)),)
    assert live.counts["received"] == 3


def test_a_part_that_is_deleted_meanwhile_is_not_counted(store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    run(store, clock, *request("a"))
    expected = store.shelves()
    monkeypatch.setattr(store_module, "parts_in", lambda folder: [*parts_in(folder), Part(0, 0)])
    assert store.shelves() == expected


# --- intervals ----------------------------------------------------------------------------------------------------------

ENDS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=6)


@given(a=ENDS, b=ENDS)
def test_intervals_are_sets(a: list[tuple[int, int]], b: list[tuple[int, int]]) -> None:
    def members(intervals: object) -> set[int]:
        return {i for start, end in intervals for i in range(start, end)}  # type: ignore[attr-defined]

    assert members(joined(a)) == members(a)
    assert members(without(a, b)) == members(a) - members(b)
    found = joined([*a, *b])
    assert all(first[1] < second[0] for first, second in pairwise(found))
