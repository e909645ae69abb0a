"""Filling the store with the past: whole chunks, once each, and the same bins as if everything had been there at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from rca.bins import frames_of
from rca.cli.main import app
from rca.collectors.backfill import Outcome, backfill, backfill_file, past_sources
from rca.collectors.config import Config
from rca.collectors.tempo.collector import TempoCollector
from rca.collectors.tempo.config import TempoConfig
from rca.collectors.warm.store import Store
from rca.contracts import Collector
from rca.errors import BadInput, Unavailable
from rca.telemetry import MINUTE_NS, SECOND_NS, Gap, Interval, Telemetry
from tests.arrivals import Clock, bins, equal
from tests.servers.jaeger import resource_spans
from tests.servers.loopback import Answer
from tests.servers.stored import Stored, bought
from tests.servers.tempo import tempo
from tests.shop import T0, frame
from tests.test_tempo import collector
from tests.test_warm_store import request, run

HOUR = Interval(T0, T0 + 30 * MINUTE_NS)
TRACES = [bought(i, T0 + i * 13 * SECOND_NS - MINUTE_NS, took_ms=4000) for i in range(150)]
"""A trace every 13 s, 4 s long each: many cross the end of a bin, some the end of a chunk."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "telemetry")


def fill(store: Store, *sources: Collector, interval: Interval = HOUR, **options: object) -> list[Outcome]:
    return list(backfill(store, sources, interval, **options))  # type: ignore[arg-type]


def spans_of(url: str, interval: Interval) -> pl.DataFrame:
    return collector(url).collect(interval.start_ns, interval.end_ns).spans


class Metrics:
    """A source of one sample a minute that may fail, and tells what it was asked for."""

    name = "prometheus"

    def __init__(self, *failing: int) -> None:
        self.asked: list[Interval] = []
        self.failing = failing

    def collect(self, start_ns: int, end_ns: int) -> Telemetry:
        self.asked.append(Interval(start_ns, end_ns))
        if len(self.asked) in self.failing:
            raise Unavailable("no answer in time")
        times = range(-(-start_ns // MINUTE_NS) * MINUTE_NS, end_ns, MINUTE_NS)
        sample = {"entity_kind": "service", "entity": "shop", "metric": "container.cpu.usage", "value": 1.0}
        return Telemetry(metrics=frame("metrics", [{**sample, "time_unix_nano": at} for at in times]))


def test_bins_are_those_of_all_spans_at_once(store: Store) -> None:
    with tempo(TRACES) as server:
        (outcome,) = fill(store, collector(server.url))
        everything = spans_of(server.url, Interval(T0 - 10 * MINUTE_NS, T0 + 60 * MINUTE_NS))
    assert (outcome.filled, outcome.failed) == (3, [])
    inside = pl.col("time_unix_nano").is_between(HOUR.start_ns, HOUR.end_ns, closed="left")
    expected = {name: some.filter(inside) for name, some in frames_of(everything).items()}
    found = store.read(HOUR.start_ns, HOUR.end_ns)
    assert equal(bins(found.frames()), bins(expected))
    assert found.gaps == ()


def test_what_is_filled_is_not_read_again(store: Store) -> None:
    with tempo(TRACES) as server:
        fill(store, collector(server.url))
        before, asked = bins(store.read(T0, HOUR.end_ns).frames()), sum(server.asked.values())
        (again,) = fill(store, collector(server.url))
        assert sum(server.asked.values()) == asked
        (more,) = fill(store, collector(server.url), interval=Interval(T0 - 20 * MINUTE_NS, HOUR.end_ns))
    assert (again.filled, again.earlier) == (0, 3)
    assert (more.filled, more.earlier) == (2, 3)
    assert equal(before, bins(store.read(T0, HOUR.end_ns).frames()))


def test_an_interrupted_run_leaves_whole_chunks_and_the_next_goes_on(store: Store) -> None:
    def stop(_what: str, done: int, every: int) -> None:
        assert every == 3
        if done == 2:
            raise KeyboardInterrupt

    source = Metrics()
    with pytest.raises(KeyboardInterrupt):
        fill(store, source, told=stop)
    kept = store.read(T0, HOUR.end_ns).metrics["time_unix_nano"]
    assert (kept.min(), len(kept)) == (T0 + 10 * MINUTE_NS, 20)  # newest first
    (outcome,) = fill(store, source)
    assert (outcome.filled, outcome.earlier) == (1, 2)
    assert store.read(T0, HOUR.end_ns).metrics["time_unix_nano"].to_list() == [T0 + i * MINUTE_NS for i in range(30)]


def test_a_chunk_that_fails_is_a_gap_and_is_tried_again(store: Store) -> None:
    (outcome,) = fill(store, Metrics(2))
    chunk = Interval(T0 + 10 * MINUTE_NS, T0 + 20 * MINUTE_NS)
    assert (outcome.filled, outcome.failed) == (2, [Gap("prometheus", "not filled: no answer in time", chunk)])
    assert outcome.failed[0] in store.read(T0, HOUR.end_ns).gaps
    (again,) = fill(store, Metrics())
    assert (again.filled, again.earlier, again.failed) == (1, 2, [])
    assert not [gap for gap in store.read(T0, HOUR.end_ns).gaps if gap.source == "prometheus"]


def test_a_source_that_stays_away_is_not_asked_for_months(store: Store) -> None:
    source = Metrics(1, *range(3, 100))
    (outcome,) = fill(store, source, interval=Interval(T0 - 24 * 60 * MINUTE_NS, HOUR.end_ns))
    assert (outcome.filled, len(outcome.failed), len(source.asked)) == (1, 6, 7)
    assert outcome.untried == 24 * 6 + 3 - 7
    (again,) = fill(store, Metrics())
    assert (again.filled, again.earlier) == (2, 1)


def test_what_live_collection_covers_is_left_alone(tmp_path: Path) -> None:
    clock = Clock()
    store = Store(tmp_path / "telemetry", wall_ns=clock.wall)
    clock.seconds = 600
    run(store, clock, *request("t", 600))
    clock.seconds = 1200
    run(store, clock, *request("u", 1200))
    source = Metrics()
    (outcome,) = fill(store, source, interval=Interval(T0, T0 + 1200 * SECOND_NS))
    covered = [(asked.start_ns + MINUTE_NS, asked.end_ns - MINUTE_NS) for asked in source.asked]
    assert (T0 + 600 * SECOND_NS, T0 + 610 * SECOND_NS) not in covered
    assert all(end <= T0 + 600 * SECOND_NS or start >= T0 + 610 * SECOND_NS for start, end in covered)
    assert outcome.failed == []


def test_a_chunk_with_more_traces_than_can_be_read_is_not_stored_unless_asked_for(store: Store) -> None:
    with tempo(TRACES) as server:
        few = collector(server.url, max_traces=20)
        (refused,) = fill(store, few)
        assert len(refused.failed) == 3
        assert "a sample is not stored" in refused.failed[0].reason
        assert store.read(T0, HOUR.end_ns).bin_counts.is_empty()
        (sampled,) = fill(store, few, sample=True)
        surveyed = (store.folder / "backfill" / "tempo.plan.json").read_bytes()
        fill(store, few, sample=True)
    assert (sampled.filled, sampled.failed) == (3, [])
    assert json.loads(surveyed)["taken"]["gateway GET /shop"] >= 1
    found = store.read(T0, HOUR.end_ns)
    assert not found.bin_counts.is_empty()
    assert sum("no rates of traffic" in gap.reason for gap in found.gaps) == 3
    assert (store.folder / "backfill" / "tempo.plan.json").read_bytes() == surveyed


def test_a_source_that_is_away_fails_every_chunk_and_the_others_are_filled(store: Store) -> None:
    tempo_away = TempoCollector(TempoConfig(url="http://127.0.0.1:9", retries=0))
    lost, kept = fill(store, tempo_away, Metrics())
    assert (lost.filled, len(lost.failed)) == (0, 3)
    assert kept.filled == 3


def test_one_source_of_traces_is_chosen() -> None:
    url = {"url": "http://127.0.0.1:9"}
    config = Config.model_validate({"tempo": url, "jaeger": url, "prometheus": url})
    assert [source.name for source in past_sources(config)] == ["tempo", "prometheus"]
    assert [source.name for source in past_sources(config, ["jaeger"])] == ["jaeger"]
    with pytest.raises(BadInput, match=r"expected a known name, found 'kubernetes'"):
        past_sources(config, ["kubernetes"])
    with pytest.raises(BadInput, match=r"configuration: expected \[tempo\], found none"):
        past_sources(Config.model_validate({"prometheus": url}), ["tempo"])
    with pytest.raises(BadInput, match=r"one of \[tempo\]"):
        past_sources(Config())


def lines_of(traces: list[Stored]) -> Iterator[str]:
    for trace in traces:
        yield json.dumps({"resourceSpans": resource_spans(trace)})


def test_a_file_of_the_collector_gives_the_same_bins(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    path.write_text("\n".join(lines_of(TRACES)) + '\n{"resourceSp')
    with tempo(TRACES) as server:
        fill(store, collector(server.url))
    other = Store(tmp_path / "other")
    outcome = backfill_file(other, path, HOUR)
    backfill_file(other, path, HOUR)
    assert (outcome.source, outcome.filled) == ("files", 3)
    assert equal(*(bins(one.read(T0, HOUR.end_ns).frames()) for one in (store, other)))
    assert any("cut off" in gap.reason for gap in other.read(T0, HOUR.end_ns).gaps)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RCA_HOME", str(tmp_path / "home"))
    options = ["--since", "2026-01-15T10:00:00Z", "--until", "2026-01-15T10:30:00Z"]
    with tempo(TRACES) as server:
        config = tmp_path / "rca.toml"
        config.write_text(f'[tempo]\nurl = "{server.url}"\nretries = 0\n')
        server.fault = lambda path, times: Answer(b"away", 500) if path == "/api/search" and times < 4 else None
        first = CliRunner().invoke(app, ["backfill", *options, "--config", str(config)])
        second = CliRunner().invoke(app, ["backfill", *options, "--config", str(config), "--chunk", "10m"])
    assert first.exit_code == 1
    assert "1 failed" in first.output
    assert second.exit_code == 0, second.output
    assert "tempo: " in second.output
    assert len(Store(tmp_path / "home" / "telemetry").read(T0, HOUR.end_ns).bin_counts) > 0
    for wrong in (
        ["--chunk", "15s"],
        ["--chunk", "soon"],
        ["--until", "2026-01-15T09:00:00Z"],
        ["--source", "x", "--from-file", "y"],
    ):
        result = CliRunner().invoke(app, ["backfill", *options, "--config", str(config), *wrong])
        assert isinstance(result.exception, BadInput), wrong
