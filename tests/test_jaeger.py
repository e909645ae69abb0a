"""Traces from a Jaeger, and what goes wrong with it."""

from __future__ import annotations

import json
import time
from collections import Counter

import polars as pl
import pytest

from rca.collectors.findings import checked
from rca.collectors.jaeger.collector import JaegerCollector
from rca.collectors.jaeger.config import JaegerConfig
from rca.errors import Rejected, Unavailable
from rca.telemetry import MINUTE_NS, SECOND_NS, Interval
from rca.testing import check_collector
from tests.servers.jaeger import jaeger
from tests.servers.loopback import Answer
from tests.servers.stored import bought, steady
from tests.shop import T0

END = T0 + 8 * MINUTE_NS
QUIET = steady(T0, END, 1)


def collector(url: str, **more: object) -> JaegerCollector:
    return JaegerCollector(JaegerConfig(url=url, **{"retries": 0, "timeout": "10s", "deadline": "60s", **more}))


@pytest.mark.parametrize("version", [3, 1])
def test_every_trace_is_read_where_there_is_room(version: int) -> None:
    with jaeger(QUIET, version=version) as server:
        telemetry = check_collector(collector(server.url), T0, END)
    assert telemetry.spans["trace_id"].n_unique() == len(QUIET)
    assert telemetry.spans.height == 4 * len(QUIET)
    assert telemetry.gaps == ()
    span = telemetry.spans.filter(pl.col("name") == "select").row(0, named=True)
    assert (span["service.name"], span["db.system.name"], span["db.namespace"], span["kind"]) == (
        "shop",
        "postgresql",
        "orders",
        3,
    )
    assert span["k8s.pod.name"] == "shop-0"
    calls = telemetry.topology.filter(pl.col("relation") == "calls").select("source", "target").rows()
    assert calls == [("gateway", "shop")]  # the edge of a service that is gone is not taken


def test_both_versions_give_the_same_spans() -> None:
    found = []
    for version in (3, 1):
        with jaeger(QUIET, version=version) as server:
            found.append(collector(server.url).collect(T0, END).spans)
    assert found[0].equals(found[1])


def test_an_interval_that_cuts_slices_is_read_whole() -> None:
    start, end = T0 + 7 * SECOND_NS, END - 33 * SECOND_NS
    with jaeger(QUIET) as server:
        telemetry = collector(server.url).collect(start, end)
    assert telemetry.gaps == ()
    assert telemetry.spans["trace_id"].n_unique() == sum(start <= trace.start_ns < end for trace in QUIET)


def test_a_sample_keeps_the_ratio_of_traffic_before_and_after() -> None:
    middle = T0 + 20 * MINUTE_NS
    traces = [*steady(T0, middle, 8), *steady(middle, middle + 20 * MINUTE_NS, 2)]
    with jaeger(traces) as server:
        telemetry = collector(server.url, max_traces=600).collect(T0, middle + 20 * MINUTE_NS)
    starts = telemetry.spans.group_by("trace_id").agg(pl.col("start_time_unix_nano").min())["start_time_unix_nano"]
    before, after = (starts < middle).sum(), (starts >= middle).sum()
    assert 100 < before + after <= 600
    assert before / after == pytest.approx(4, rel=0.45)
    (gap,) = telemetry.gaps
    assert f"{before + after} of about " in gap.reason
    assert "1 in " in gap.reason
    assert "no rates of traffic" in gap.reason


def test_the_same_question_gets_the_same_sample() -> None:
    with jaeger(steady(T0, END, 10)) as server:
        first, second = (collector(server.url, max_traces=100).collect(T0, END) for _ in range(2))
    assert first.spans.equals(second.spans)
    assert first.gaps == second.gaps


def test_a_rare_service_is_read_beside_a_busy_one() -> None:
    rare = steady(T0, END, 0.1, root="nightly", operation="job")
    with jaeger([*steady(T0, END, 20), *rare]) as server:
        telemetry = collector(server.url, max_traces=200).collect(T0, END)
    begun = telemetry.spans.filter(pl.col("parent_span_id").is_null())["service.name"].to_list()
    assert Counter(begun)["nightly"] == len(rare)


def test_services_that_only_others_call_are_not_searched_slice_by_slice() -> None:
    with jaeger(QUIET) as server:
        collector(server.url).collect(T0, END)
        asked = Counter(query.get("query.service_name") for path, query in server.queries if path == "/api/v3/traces")
    assert asked["shop"] == 3
    assert asked["gateway"] > 5


def test_own_traces_of_jaeger_are_left_alone() -> None:
    with jaeger([*QUIET, *steady(T0, END, 1, root="jaeger", operation="/api/v3/traces")]) as server:
        telemetry = collector(server.url).collect(T0, END)
    assert "jaeger" not in telemetry.spans["service.name"].to_list()


def test_no_traces_is_an_empty_answer() -> None:
    with jaeger([]) as server:
        telemetry = collector(server.url).collect(T0, END)
    assert telemetry.is_empty()
    assert telemetry.gaps == ()


def test_a_slow_server_is_cut_off_at_the_deadline() -> None:
    with jaeger(QUIET) as server:
        server.fault = lambda path, times: Answer(wait_s=3, status=404) if path == "/api/v3/traces" and times > 9 else None
        start = time.monotonic()
        telemetry = collector(server.url, deadline="1s").collect(T0, END)
        assert time.monotonic() - start < 5
    assert any("deadline of 1 s reached" in gap.reason for gap in telemetry.gaps)
    assert all(gap.interval is None or Interval(T0, END).overlaps(gap.interval) for gap in telemetry.gaps)


def test_a_body_that_never_ends_is_cut_off() -> None:
    with jaeger(QUIET) as server:
        server.fault = lambda path, times: Answer(b" ", drip=True) if path == "/api/v3/services" else None
        start = time.monotonic()
        with pytest.raises(Unavailable, match="time was up"):
            collector(server.url, deadline="500ms").collect(T0, END)
        assert time.monotonic() - start < 10


def test_errors_of_single_searches_are_a_gap() -> None:
    with jaeger(QUIET) as server:
        server.fault = lambda path, times: Answer(b"storage is away", 500) if path == "/api/v3/traces" and times == 14 else None
        telemetry = collector(server.url, topology=False).collect(T0, END)
    failed = next(gap for gap in telemetry.gaps if "failed" in gap.reason)
    assert "1 of " in failed.reason
    assert "storage is away" in failed.reason
    assert 0 < telemetry.spans["trace_id"].n_unique() < len(QUIET)


def test_a_server_that_only_fails_is_unavailable() -> None:
    with jaeger(QUIET) as server:
        server.fault = lambda path, times: Answer(b"no", 500) if path == "/api/v3/traces" else None
        with pytest.raises(Unavailable, match="HTTP 500"):
            collector(server.url).collect(T0, END)
        server.fault = lambda path, times: Answer(b"who are you", 401)
        with pytest.raises(Rejected, match="HTTP 401"):
            collector(server.url).collect(T0, END)


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xfe\x00",
        b'{"result": {"resourceSpans": 7}}',
        b'{"result": []}',
        b'[{"result": {}}]',
        b'{"result": {"resourceSpans": [{"scopeSpans": [{"spans": [{"startTimeUnixNano": "x"}]}]}]}}',
        b'{"result": {"resourceSpans": ' + b"[" * 100_000,
        b'{"error": {"message": "deadline exceeded"}}',
    ],
)
def test_garbage_is_a_gap(body: bytes) -> None:
    with jaeger(QUIET) as server:
        server.fault = lambda path, times: Answer(body) if path == "/api/v3/traces" and times == 14 else None
        telemetry = collector(server.url, topology=False).collect(T0, END)
    assert any("failed: " in gap.reason for gap in telemetry.gaps)
    assert telemetry.spans.height > 0


def test_spans_with_impossible_values_are_counted_and_left_out() -> None:
    body = {
        "result": {
            "resourceSpans": [
                {
                    "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "gateway"}}]},
                    "scopeSpans": [
                        {
                            "spans": [
                                {
                                    "traceId": "ab" * 16,
                                    "spanId": "cd" * 8,
                                    "name": "x",
                                    "startTimeUnixNano": T0,
                                    "endTimeUnixNano": 1 << 80,
                                },
                                {
                                    "traceId": "ab" * 16,
                                    "spanId": "ce" * 8,
                                    "name": "x",
                                    "startTimeUnixNano": T0,
                                    "endTimeUnixNano": T0 + 5,
                                },
                                {"spanId": "ce" * 8, "name": "x", "startTimeUnixNano": T0, "endTimeUnixNano": T0 + 5},
                            ]
                        }
                    ],
                }
            ]
        }
    }
    with jaeger([bought(1, T0)]) as server:
        server.fault = lambda path, times: Answer(json.dumps(body).encode()) if path == "/api/v3/traces" else None
        telemetry = collector(server.url, topology=False).collect(T0, T0 + 80 * SECOND_NS)
    assert telemetry.spans["span_id"].to_list() == ["ce" * 8]
    assert telemetry.gaps[0].reason == "1 spans with values of other types were skipped"
    assert telemetry.gaps[1].reason.endswith("spans without id or time were skipped")


def test_who_calls_whom_may_be_missing() -> None:
    with jaeger(QUIET) as server:
        server.fault = lambda path, times: Answer(b"no", 503) if path == "/api/dependencies" else None
        telemetry = collector(server.url).collect(T0, END)
    assert [gap.reason for gap in telemetry.gaps if "who calls whom" in gap.reason]
    assert telemetry.spans.height == 4 * len(QUIET)


def test_limits_on_spans_and_bytes_end_reading() -> None:
    for limit in ({"max_spans": 300}, {"max_bytes": "100kB"}):
        with jaeger(QUIET) as server:
            telemetry = collector(server.url, **limit).collect(T0, END)
        assert any("max_" in gap.reason for gap in telemetry.gaps), telemetry.gaps


def test_a_plan_keeps_shares_over_several_stretches() -> None:
    with jaeger(steady(T0, END, 10)) as server:
        thin = collector(server.url, max_traces=60)
        plan = thin.survey(T0, END)
        halves = [thin.read(T0, T0 + 4 * MINUTE_NS, plan).telemetry, thin.read(T0 + 4 * MINUTE_NS, END, plan).telemetry]
    counts = [half.spans["trace_id"].n_unique() for half in halves]
    assert max(plan.looked_at["gateway"], 1) > 1
    assert min(counts) > 5
    assert counts[0] / counts[1] == pytest.approx(1, abs=0.8)


def test_check_says_what_the_server_has() -> None:
    now = time.time_ns()
    with jaeger(steady(now - 10 * MINUTE_NS, now, 0.2)) as server:
        levels = [(one.level, one.text) for one in checked(collector(server.url))]
    assert levels[0] == ("ok", f"{server.url} answers (API v3) and knows 2 services")
    assert levels[1][0] == "ok"
    assert "traces of 2 services" in levels[1][1]
    with jaeger([]) as server:
        assert [one.level for one in checked(collector(server.url))] == ["ok", "warning"]
    assert [one.level for one in checked(collector("http://127.0.0.1:9"))] == ["failure"]
