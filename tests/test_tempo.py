"""Traces from a Tempo, and what goes wrong with it."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import jsonschema
import polars as pl
import pytest
from typer.testing import CliRunner

from rca.cli.main import app
from rca.collectors.findings import checked
from rca.collectors.tempo.collector import TempoCollector
from rca.collectors.tempo.config import TempoConfig
from rca.errors import Rejected, Unavailable
from rca.telemetry import MINUTE_NS, SECOND_NS, Interval
from rca.testing import check_collector
from tests.servers.jaeger import jaeger
from tests.servers.loopback import Answer
from tests.servers.stored import bought, steady
from tests.servers.tempo import tempo
from tests.shop import T0
from tests.test_jaeger import collector as jaeger_collector
from tests.test_triage import SCHEMA as RANKING_SCHEMA

END = T0 + 8 * MINUTE_NS
QUIET = steady(T0, END, 0.125)


def collector(url: str, **more: object) -> TempoCollector:
    return TempoCollector(TempoConfig(url=url, **{"retries": 0, "timeout": "10s", "deadline": "60s", **more}))


@pytest.mark.parametrize("version", [2, 1])
def test_every_trace_is_read_where_there_is_room(version: int) -> None:
    with tempo(QUIET, version=version) as server:
        telemetry = check_collector(collector(server.url), T0, END)
        around = [query for path, query in server.queries if QUIET[0].trace_id in path]
    assert telemetry.spans["trace_id"].n_unique() == len(QUIET)
    assert telemetry.spans.height == 4 * len(QUIET)
    assert telemetry.gaps == ()
    assert all(int(query["start"]) < T0 // 10**9 < int(query["end"]) for query in around)


def test_tempo_and_jaeger_give_the_same_spans() -> None:
    with tempo(QUIET) as server, jaeger(QUIET) as other:
        found, same = collector(server.url).collect(T0, END), jaeger_collector(other.url).collect(T0, END)
    assert found.spans.equals(same.spans)


@pytest.mark.parametrize("name", ["tempo", "jaeger v3", "jaeger v1"])
def test_exceptions_of_spans_are_log_lines(name: str) -> None:
    broken = [replace(trace, spans=(*trace.spans[:-1], replace(trace.spans[-1], exception="disk 7 is full"))) for trace in QUIET]
    server = tempo(broken) if name == "tempo" else jaeger(broken, version=int(name[-1]))
    make = collector if name == "tempo" else jaeger_collector
    with server as about:
        telemetry = make(about.url).collect(T0, END)
    assert telemetry.logs["count"].sum() == len(QUIET)
    rows = telemetry.logs.select("entity", "severity", "operation").unique().rows()
    assert rows == [("shop", "ERROR", "select")]
    assert telemetry.logs["template"].unique().to_list() == ["IOError: disk <*> is full"]


def test_a_search_that_is_cut_off_is_asked_again_about_less_time_and_gives_the_same_sample_each_time() -> None:
    """The server names other traces each time where there are more than the limit."""
    with tempo(steady(T0, END, 5)) as server:
        limited = collector(server.url, search_limit=150, max_traces=150)
        first, second = (limited.collect(T0, END) for _ in range(2))
    assert first.spans.equals(second.spans)
    assert first.gaps == second.gaps
    (gap,) = first.gaps
    assert "traces were read (1 in " in gap.reason
    assert "of gateway GET /shop" in gap.reason


def test_an_interval_that_cuts_slices_is_read_whole() -> None:
    start, end = T0 + 7 * SECOND_NS, END - 33 * SECOND_NS
    with tempo(QUIET) as server:
        telemetry = collector(server.url).collect(start, end)
    assert telemetry.gaps == ()
    assert telemetry.spans["trace_id"].n_unique() == sum(start <= trace.start_ns < end for trace in QUIET)


def test_a_sample_keeps_the_ratio_of_traffic_before_and_after() -> None:
    middle = T0 + 20 * MINUTE_NS
    traces = [*steady(T0, middle, 6), *steady(middle, middle + 20 * MINUTE_NS, 2)]
    with tempo(traces) as server:
        telemetry = collector(server.url, max_traces=400, search_limit=200).collect(T0, middle + 20 * MINUTE_NS)
    starts = telemetry.spans.group_by("trace_id").agg(pl.col("start_time_unix_nano").min())["start_time_unix_nano"]
    before, after = (starts < middle).sum(), (starts >= middle).sum()
    assert 150 < before + after <= 400
    assert before / after == pytest.approx(3, rel=0.4)


def test_rare_operations_are_read_beside_frequent_ones() -> None:
    rare = steady(T0 + SECOND_NS, END, 0.05, operation="POST /order/4711")  # a second later: trace ids are made of times
    with tempo([*steady(T0, END, 4), *rare]) as server:
        telemetry = collector(server.url, max_traces=150).collect(T0, END)
    names = telemetry.spans.filter(pl.col("parent_span_id").is_null())["name"].to_list()
    assert Counter(names)["POST /order/4711"] == len(rare)


def test_searches_that_stay_cut_off_are_said_to_hide_falls_in_traffic() -> None:
    with tempo(steady(T0, END, 20)) as server:
        telemetry = collector(server.url, search_limit=10).collect(T0, END)
    assert any("cut off at search_limit" in gap.reason for gap in telemetry.gaps)


def test_partial_traces_are_kept_and_counted() -> None:
    cut = frozenset(trace.trace_id for trace in QUIET[:3])
    with tempo(QUIET, partial=cut) as server:
        telemetry = collector(server.url).collect(T0, END)
    assert telemetry.spans.height == 4 * len(QUIET) - 3
    assert [gap.reason for gap in telemetry.gaps] == [f"3 of {len(QUIET)} traces came without some of their spans"]


def test_traces_that_a_search_named_and_that_are_gone_are_counted() -> None:
    with tempo(QUIET) as server:
        server.fault = lambda path, times: Answer(status=404) if QUIET[0].trace_id in path else None
        telemetry = collector(server.url).collect(T0, END)
    reasons = [gap.reason for gap in telemetry.gaps]
    assert f"1 of {len(QUIET)} traces were named by a search and not found" in reasons
    assert any("no rates of traffic" in reason for reason in reasons)


@pytest.mark.parametrize("body", [b"\x0a\xff\xff\xff\xff\x7f", b"<html>", b"\x0a\x02\x0a\x09"])
def test_garbage_for_a_trace_is_counted(body: bytes) -> None:
    with tempo(QUIET) as server:
        server.fault = lambda path, times: Answer(body) if QUIET[3].trace_id in path else None
        telemetry = collector(server.url).collect(T0, END)
    assert telemetry.spans["trace_id"].n_unique() == len(QUIET) - 1
    assert any(f"1 of {len(QUIET)} traces failed" in gap.reason and "protobuf" in gap.reason for gap in telemetry.gaps)


@pytest.mark.parametrize("body", [b"[]", b'{"traces": 5}', b'{"traces": [{"traceID": "ab"}]}', b"nonsense", b'{"traces": ["x"]}'])
def test_garbage_for_a_search_is_a_gap(body: bytes) -> None:
    with tempo(QUIET) as server:
        server.fault = lambda path, times: Answer(body) if path == "/api/search" and times == 5 else None
        telemetry = collector(server.url).collect(T0, END)
    assert any("1 of 6 searches failed" in gap.reason for gap in telemetry.gaps)
    assert 0 < telemetry.spans["trace_id"].n_unique() < len(QUIET)


def test_errors_of_the_server() -> None:
    with tempo(QUIET) as server:
        server.fault = lambda path, times: Answer(b"too many jobs in the queue", 500) if path == "/api/search" else None
        with pytest.raises(Unavailable, match="too many jobs"):
            collector(server.url).collect(T0, END)
        server.fault = lambda path, times: Answer(b"limit 1000 exceeds max limit 100", 400)
        with pytest.raises(Rejected, match="exceeds max limit"):
            collector(server.url).collect(T0, END)
        server.fault = lambda path, times: Answer(b"come back later", 503) if "/traces/" in path and times == 1 else None
        again = collector(server.url, retries=1).collect(T0, T0 + MINUTE_NS)
    assert again.spans["trace_id"].n_unique() == 8


def test_a_server_that_never_answers_is_away() -> None:
    with tempo(QUIET) as server:
        server.fault = lambda path, times: Answer(wait_s=2)
        with pytest.raises(Unavailable, match="no search was answered within 1 s"):
            collector(server.url, deadline="1s", retries=2).collect(T0, END)


def test_what_the_deadline_cuts_off_is_a_thinner_sample() -> None:
    with tempo(QUIET) as server:
        server.fault = lambda path, times: Answer(wait_s=0.05, status=404) if "/api/v2/" in path else None
        start = time.monotonic()
        telemetry = collector(server.url, deadline="1s").collect(T0, END)
        assert time.monotonic() - start < 5
    assert any("traces of the sample were not read: deadline of 1 s reached" in gap.reason for gap in telemetry.gaps)
    assert all(gap.interval is None or Interval(T0, END).overlaps(gap.interval) for gap in telemetry.gaps)


def test_bodies_that_never_end_do_not_hold_up_the_rest() -> None:
    with tempo(QUIET) as server:
        server.fault = lambda path, times: Answer(b"\x0a", drip=True) if QUIET[0].trace_id in path else None
        start = time.monotonic()
        telemetry = collector(server.url, deadline="1500ms").collect(T0, END)
        assert time.monotonic() - start < 10
    assert telemetry.spans["trace_id"].n_unique() > 0


def test_an_answer_that_is_too_large_is_a_gap() -> None:
    with tempo(QUIET) as server:
        server.fault = lambda path, times: Answer(b"\x0a" * 200_000) if QUIET[0].trace_id in path else None
        telemetry = collector(server.url, max_response_bytes="100kB").collect(T0, END)
    assert any("max_response_bytes" in gap.reason for gap in telemetry.gaps)


def test_tenant_and_query_are_sent() -> None:
    with tempo(QUIET) as server:
        collector(server.url, query='{ resource.env = "prod" }', headers={"X-Scope-OrgID": "team"}).collect(T0, T0 + MINUTE_NS)
        assert all(headers["X-Scope-OrgID"] == "team" for headers in server.headers)
        assert {query["q"] for path, query in server.queries if path == "/api/search"} == {'{ resource.env = "prod" }'}


def test_a_plan_keeps_shares_over_several_stretches() -> None:
    with tempo(steady(T0, END, 4)) as server:
        thin = collector(server.url, max_traces=120)
        plan = thin.survey(T0, END)
        halves = [thin.read(T0, T0 + 4 * MINUTE_NS, plan).telemetry, thin.read(T0 + 4 * MINUTE_NS, END, plan).telemetry]
        whole = thin.collect(T0, END)
    assert sum(half.spans["trace_id"].n_unique() for half in halves) == whole.spans["trace_id"].n_unique()
    assert all("no rates of traffic" in half.gaps[0].reason for half in halves)


def test_check_says_what_the_server_has() -> None:
    now = time.time_ns()
    with tempo(steady(now - 10 * MINUTE_NS, now, 0.1)) as server:
        levels = [(one.level, one.text) for one in checked(collector(server.url))]
    assert levels[0] == ("ok", f"{server.url} answers (Tempo 2.9.0) and knows 2 services lately")
    assert "traces of 2 services" in levels[1][1]
    assert [one.level for one in checked(collector("http://127.0.0.1:9"))] == ["failure"]


@pytest.mark.parametrize("name", ["tempo", "jaeger"])
def test_triage_on_stored_traces_ranks_the_slow_service_first(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway takes longer because the shop does; a sample of 300 of 1,200 traces tells."""
    monkeypatch.setenv("RCA_HOME", str(tmp_path / "home"))
    onset, end = T0 + 30 * MINUTE_NS, T0 + 40 * MINUTE_NS
    traces = [bought(i, at, took_ms=400 if at >= onset else 40 + i % 7) for i, at in enumerate(range(T0, end, 2 * SECOND_NS))]
    with (tempo if name == "tempo" else jaeger)(traces) as server:
        config = tmp_path / "rca.toml"
        config.write_text(f'[triage]\nbaseline = "25m"\n[{name}]\nurl = "{server.url}"\nmax_traces = 300\nconcurrency = 8\n')
        times = ["--since", "2026-01-15T10:28:00Z", "--until", "2026-01-15T10:40:00Z"]
        result = CliRunner().invoke(app, ["triage", *times, "--config", str(config), "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["ranking"]["candidates"][0]["entity"]["name"] in ("shop", "orders")
    jsonschema.validate(report, RANKING_SCHEMA)
    assert any("no rates of traffic" in gap["reason"] for gap in report["ranking"]["gaps"])
