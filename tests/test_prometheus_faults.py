"""What a Prometheus can do wrong that a healthy one cannot be made to show. Nothing crashes, and what is missing is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rca.collectors.prometheus.collector import PrometheusCollector
from rca.collectors.prometheus.config import PrometheusConfig
from rca.errors import BadInput, Rejected, Unavailable
from rca.telemetry import SECOND_NS, Telemetry
from tests.servers.faulty import Asked, FaultyServer, Reply, faulty

END_S = 1_700_000_100 // 15 * 15
NAMES = ("container_memory_working_set_bytes", "node_load1", "node_memory_MemAvailable_bytes", "node_memory_MemTotal_bytes")
Respond = Callable[[Asked], Reply | None]


def _success(data: Any, **more: Any) -> Reply:
    return Reply({"status": "success", "data": data, **more})


def _series(labels: Mapping[str, str], values: list[Any], **more: Any) -> Reply:
    pairs = [[END_S - 60 + 15 * number, value] for number, value in enumerate(values)]
    return _success({"resultType": "matrix", "result": [{"metric": dict(labels), "values": pairs}]}, **more)


def _usual(asked: Asked) -> Reply:
    if asked.path.endswith("/values"):
        return _success(list(NAMES))
    if "node_load1" in asked.params["query"]:
        return _series({"node": "n1"}, ["1", "2", "3"])
    if 'pod=""' in asked.params["query"]:
        return _success({"resultType": "matrix", "result": []})
    if "MemAvailable" in asked.params["query"]:
        return _series({"node": "n1"}, ["0.5", "0.5"])
    return _series({"pod": "cart-1", "namespace": "shop"}, ["100"])


def _when(word: str, reply: Reply) -> Respond:
    """That reply to queries with a word in them, the usual one to others."""
    return lambda asked: reply if word in asked.params.get("query", "") else _usual(asked)


def _collect(server: FaultyServer, **more: Any) -> Telemetry:
    given = {"timeout": "2s", "retries": 1, **more}
    return PrometheusCollector(PrometheusConfig(url=server.url, **given)).collect((END_S - 60) * SECOND_NS, END_S * SECOND_NS)


def _metrics(found: Telemetry) -> set[str]:
    return set(found.metrics["metric"])


ALL = {"node.load", "node.memory.utilization", "container.memory.usage"}


def test_the_usual_answers() -> None:
    with faulty(_usual) as server:
        found = _collect(server, headers={"X-Scope-OrgID": "shop"}, bearer_token="secret")
    assert _metrics(found) == ALL
    assert found.gaps == ()
    assert {asked.headers.get("X-Scope-OrgID") for asked in server.asked} == {"shop"}
    assert {asked.headers.get("Authorization") for asked in server.asked} == {"Bearer secret"}
    query = next(asked for asked in server.asked if asked.path.endswith("/query_range"))
    assert (query.params["start"], query.params["end"], query.params["step"]) == (str(END_S - 60), str(END_S - 15), "15")
    assert 0 < int(query.params["timeout"].removesuffix("ms")) <= 2000


def test_values_that_are_no_numbers_are_left_out_and_told() -> None:
    with faulty(_when("node_load1", _series({"node": "n1"}, ["NaN", "+Inf", "-Inf", "7"]))) as server:
        found = _collect(server)
    assert found.metrics.filter(metric="node.load")["value"].to_list() == [7.0]
    assert [gap.reason for gap in found.gaps] == [
        "node-load: 3 values that are no finite number, or of another time, are left out"
    ]


def test_warnings_are_gaps_once_for_all_entries() -> None:
    def partial(asked: Asked) -> Reply:
        reply = _usual(asked)
        return Reply({**reply.body, "warnings": ["store eu-1: connection refused"]}) if "query" in asked.path else reply

    with faulty(partial) as server:
        found = _collect(server)
    assert _metrics(found) == ALL
    reasons = [gap.reason for gap in found.gaps]
    assert reasons == ["cadvisor-memory, docker-memory, node-load, node-memory: warning: store eu-1: connection refused"]


@pytest.mark.parametrize("status", [400, 422])
def test_a_refused_query_is_a_gap_in_prometheus_words(status: int) -> None:
    refusal = Reply({"status": "error", "errorType": "execution", "error": "many-to-many matching not allowed"}, status=status)
    with faulty(_when("node_load1", refusal)) as server:
        found = _collect(server)
    assert _metrics(found) == ALL - {"node.load"}
    assert [gap.reason for gap in found.gaps] == ["node-load: refused: many-to-many matching not allowed"]
    assert sum("node_load1" in asked.params.get("query", "") for asked in server.asked) == 1


def test_too_many_samples_are_asked_for_in_halves() -> None:
    def limited(asked: Asked) -> Reply:
        if "node_load1" in asked.params.get("query", "") and int(asked.params["end"]) - int(asked.params["start"]) > 15:
            return Reply(
                {"status": "error", "errorType": "execution", "error": "query processing would load too many samples"}, 422
            )
        return _usual(asked)

    with faulty(limited) as server:
        found = _collect(server)
    assert _metrics(found) == ALL
    assert found.gaps == ()


def test_a_503_is_tried_again() -> None:
    def once(asked: Asked) -> Reply:
        first = sum("node_load1" in other.params.get("query", "") for other in server.asked) == 1
        return Reply(b"overloaded", 503) if "node_load1" in asked.params.get("query", "") and first else _usual(asked)

    with faulty(once) as server:
        found = _collect(server)
    assert found.gaps == ()


def test_a_503_that_stays_is_a_gap() -> None:
    with faulty(_when("node_load1", Reply(b"overloaded", 503))) as server:
        found = _collect(server)
    assert _metrics(found) == ALL - {"node.load"}
    assert "HTTP 503: overloaded" in found.gaps[0].reason
    assert found.gaps[0].reason.startswith("node-load: ")


def test_a_query_that_timed_out_over_there_is_not_tried_again() -> None:
    reply = Reply({"status": "error", "errorType": "timeout", "error": "query timed out in expression evaluation"}, 503)
    with faulty(_when("node_load1", reply)) as server:
        found = _collect(server, retries=5)
    assert sum("node_load1" in asked.params.get("query", "") for asked in server.asked) == 1
    assert "query timed out" in found.gaps[0].reason


def test_an_entry_that_is_slow_costs_its_time_and_no_more() -> None:
    with faulty(_when("node_load1", Reply(b"", delay_s=60))) as server:
        start = time.monotonic()
        found = _collect(server, timeout="500ms")
        took = time.monotonic() - start
    assert took < 5
    assert _metrics(found) == ALL - {"node.load"}
    assert found.gaps[0].reason.endswith("no answer in time")


@pytest.mark.parametrize("reply", [Reply(b"{", drip=True), Reply(b"{", flood=True)], ids=["drips", "floods"])
def test_a_body_without_end_ends(reply: Reply) -> None:
    with faulty(_when("node_load1", reply)) as server:
        start = time.monotonic()
        found = _collect(server, timeout="500ms", max_response_bytes="1MiB")
        took = time.monotonic() - start
    assert took < 5
    assert _metrics(found) == ALL - {"node.load"}
    assert "node-load" in found.gaps[0].reason


def test_the_budget_is_for_all_queries_together() -> None:
    def slow(asked: Asked) -> Reply:
        return _usual(asked) if asked.path.endswith("/values") else Reply(_usual(asked).body, delay_s=0.4)

    with faulty(slow) as server:
        start = time.monotonic()
        found = _collect(server, concurrency=1, budget="1s")
        took = time.monotonic() - start
    assert took < 3
    assert 0 < len(_metrics(found)) < len(ALL)
    assert any("in time" in gap.reason or "budget of 1 s was used up" in gap.reason for gap in found.gaps)


def test_nothing_is_asked_at_the_same_time_more_often_than_allowed() -> None:
    under_way, seen = list[Asked](), list[int]()

    def slow(asked: Asked) -> Reply:
        under_way.append(asked)
        seen.append(len(under_way))
        time.sleep(0.05)
        under_way.remove(asked)
        return _usual(asked)

    with faulty(slow) as server:
        _collect(server, concurrency=3)
    assert 1 < max(seen) <= 3


@pytest.mark.parametrize(
    "reply", [Reply(b'{"status":"success","data":{"result":[', cut=1000), Reply(b'{"status":"success","data":')]
)
def test_an_answer_that_is_cut_off(reply: Reply) -> None:
    with faulty(_when("node_load1", reply)) as server:
        found = _collect(server)
    assert _metrics(found) == ALL - {"node.load"}
    assert "cut off" in found.gaps[0].reason


@pytest.mark.parametrize("status", [401, 403])
def test_an_expired_token_is_refused_as_a_whole(status: int) -> None:
    with faulty(lambda _: Reply(b"token is expired", status)) as server, pytest.raises(Rejected, match="token is expired"):
        _collect(server)


def test_a_token_that_expires_under_way_costs_the_rest() -> None:
    with faulty(_when("node_load1", Reply(b"token is expired", 401))) as server:
        found = _collect(server)
    assert _metrics(found) == ALL - {"node.load"}
    assert "HTTP 401" in found.gaps[0].reason


def test_a_login_page_is_no_prometheus() -> None:
    with faulty(lambda _: Reply(b"<html>Sign in</html>")) as server, pytest.raises(Rejected, match="Sign in"):
        _collect(server)


def test_a_clock_that_is_wrong_is_told() -> None:
    def ahead(asked: Asked) -> Reply:
        if asked.params.get("query") == "time()":
            return _success({"resultType": "scalar", "result": [0, str(time.time() + 90)]})
        return _success({}) if asked.path.endswith("buildinfo") else _usual(asked)

    with faulty(ahead) as server:
        findings = PrometheusCollector(PrometheusConfig(url=server.url)).check()
    told = [finding for finding in findings if "its clock and the one here differ by" in finding.text]
    assert [finding.level for finding in told] == ["warning"]
    assert findings[0].text == "answers, and does not tell its version"


def test_every_query_fails() -> None:
    def broken(asked: Asked) -> Reply:
        return _usual(asked) if asked.path.endswith("/values") else Reply(b"", 500)

    with faulty(broken) as server, pytest.raises(Unavailable, match="HTTP 500"):
        _collect(server)


def test_no_answer_at_all() -> None:
    with faulty(lambda _: Reply(b"", delay_s=60)) as server:
        start = time.monotonic()
        with pytest.raises(Unavailable, match="no answer in time"):
            _collect(server, timeout="500ms", retries=3)
        assert time.monotonic() - start < 3
    with pytest.raises(Unavailable, match="refused"):
        _collect(server, retries=0)


def test_a_secret_that_cannot_be_read(tmp_path: Path) -> None:
    with faulty(_usual) as server, pytest.raises(BadInput, match=r"token"):
        _collect(server, bearer_token_file=tmp_path / "token")


def test_long_queries_travel_in_the_body(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    query = "node_load1" + " + node_load1 * 0" * 200
    own.write_text(f'[[metric]]\nname = "long"\nquery = "{query}"\nmetric = "process.load"\nentity = "node"\n', encoding="utf-8")
    with faulty(_usual) as server:
        found = _collect(server, map_file=own)
    asked = next(asked for asked in server.asked if asked.params.get("query") == query)
    assert asked.method == "POST"
    assert "process.load" in _metrics(found)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["metric", "values", "result", "node", "pod"]) | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


def _says_nothing(data: Any) -> bool:
    return isinstance(data, dict) and all(series.get("values") == [] for series in data["result"])


def test_native_histograms_are_told() -> None:
    series = {"metric": {"node": "n1"}, "histograms": [[END_S - 60, {"count": "1", "sum": "2", "buckets": []}]]}
    with faulty(_when("node_load1", _success({"resultType": "matrix", "result": [series]}))) as server:
        found = _collect(server)
    assert [gap.reason for gap in found.gaps] == ["node-load: series without plain samples (native histograms?) are left out"]


def test_names_of_nodes_that_cannot_be_asked_for_are_a_gap() -> None:
    def without_names(asked: Asked) -> Reply:
        if asked.path.endswith("/values"):
            return _success([*NAMES, "node_uname_info"])
        return Reply(b"overloaded", 500) if "node_uname_info" in asked.params["query"] else _usual(asked)

    with faulty(without_names) as server:
        found = _collect(server)
    assert _metrics(found) == ALL
    assert found.gaps[0].reason.startswith("node-uname: ")


def test_samples_are_limited_in_all() -> None:
    with faulty(_usual) as server:
        found = _collect(server, max_samples=3)
    assert len(found.metrics) <= 3
    assert any("more than 3 samples (max_samples)" in gap.reason for gap in found.gaps)


@pytest.mark.parametrize("wrapped", [False, True], ids=["data", "series"])
def test_any_json_is_read_or_told(wrapped: bool) -> None:
    told: dict[str, Any] = {}

    def respond(asked: Asked) -> Reply:
        return _success(told["data"]) if "node_load1" in asked.params.get("query", "") else _usual(asked)

    with faulty(respond) as server:

        @settings(max_examples=25, deadline=None)
        @given(_JSON)
        def try_it(body: Any) -> None:
            told["data"] = {"result": [body]} if wrapped else body
            found = _collect(server)
            assert _metrics(found) >= ALL - {"node.load"}
            assert found.gaps or "node.load" in _metrics(found) or _says_nothing(told["data"])

        try_it()
