"""Calls that nobody answered: whom they speak of, and what they explain at those who made them."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rca.deviations import Deviations, anscombe, measure
from rca.deviations.blocks import Blocks
from rca.deviations.calls import Calls
from rca.deviations.counts import Counts
from rca.deviations.passed_on import PassedOn
from rca.signals import EDGE_COLUMN, NODE_COLUMN
from rca.telemetry import MINUTE_NS, SECOND_NS, Interval
from rca.topology import topology_of
from rca.window import Window
from tests.shop import INCIDENT, T0, Row, call, span, window

NOW = INCIDENT.start_ns
BEFORE_COUNT, NOW_COUNT = 100, 50
ALL_FAIL = 2 * (sqrt(NOW_COUNT + 0.375) - sqrt(0.375)) / sqrt(1 + NOW_COUNT / BEFORE_COUNT)
"""The deviation of fifty failures of fifty calls, where none of a hundred failed before."""


def value(deviations: Deviations, signal: str, name: str) -> float:
    row = next(i for i, entity in enumerate(deviations.entities) if entity.name == name)
    return float(deviations.node[row, NODE_COLUMN[signal]])


def of(made: Window, signal: str, *names: str) -> list[float]:
    deviations = measure(made)[0]
    return [value(deviations, signal, name) for name in names]


def answered(caller: str, callee: str, at_ns: int, count: int, **more: Any) -> list[Row]:
    return [row for i in range(count) for row in call(caller, callee, at_ns + i * SECOND_NS, i, **more)]


def unanswered(caller: str, callee: str, at_ns: int, count: int) -> list[Row]:
    """Requests of a caller that fail because a call of theirs has no answer."""
    rows = []
    for i in range(count):
        trace, at = f"{caller}-{callee}-{at_ns}-{i}", at_ns + i * SECOND_NS
        rows.append(span("a", caller, 0, 40, name="handle", trace=trace, at_ns=at, error=True))
        rows.append(span("b", caller, 5, 35, "a", name="call", kind=3, trace=trace, at_ns=at, error=True, server__address=callee))
    return rows


def usual(*pairs: tuple[str, str]) -> list[Row]:
    return [row for pair in pairs for row in answered(*pair, T0, BEFORE_COUNT)]


def test_calls_that_the_only_caller_sees_unanswered_are_charged_to_the_callee() -> None:
    made = window(spans=usual(("A", "B"), ("A", "C")) + unanswered("A", "B", NOW, 50) + answered("A", "C", NOW, 50))
    assert of(made, "unanswered_calls", "B", "C") == [pytest.approx(ALL_FAIL), pytest.approx(0)]
    assert of(made, "own_errors", "A") == [pytest.approx(0)]
    assert of(made, "vanished_calls", "A") == [pytest.approx(0)]
    assert np.isnan(of(made, "unanswered_calls", "A")[0])  # nobody calls it


def test_the_edge_knows_them_too() -> None:
    made = window(spans=usual(("A", "B")) + unanswered("A", "B", NOW, 50))
    edge = measure(made)[0].edge["calls"][0]
    assert edge[EDGE_COLUMN["failed_calls"]] == pytest.approx(ALL_FAIL)
    assert edge[EDGE_COLUMN["calls"]] == pytest.approx(0)  # as many calls per request as ever


def test_of_two_callers_the_one_that_alone_has_no_answer_keeps_the_blame() -> None:
    made = window(spans=usual(("A", "B"), ("C", "B")) + unanswered("A", "B", NOW, 50) + answered("C", "B", NOW, 50))
    assert of(made, "unanswered_calls", "B") == [pytest.approx(0)]
    assert of(made, "own_errors", "A")[0] > 5
    both = window(spans=usual(("A", "B"), ("C", "B")) + unanswered("A", "B", NOW, 50) + unanswered("C", "B", NOW, 5))
    assert of(both, "unanswered_calls", "B")[0] > 10
    assert of(both, "own_errors", "A", "C") == [pytest.approx(0), pytest.approx(0)]


def test_a_caller_that_reaches_none_of_its_callees_keeps_the_blame() -> None:
    made = window(spans=usual(("A", "B"), ("A", "C")) + unanswered("A", "B", NOW, 50) + unanswered("A", "C", NOW, 50))
    assert of(made, "unanswered_calls", "B", "C") == [pytest.approx(0), pytest.approx(0)]
    assert of(made, "own_errors", "A")[0] > 5


def test_a_call_that_was_answered_fails_at_the_caller_where_the_callee_is_content() -> None:
    bad = [row | {"status_code": 2} if row["service.name"] == "A" else row for row in answered("A", "B", NOW, 50)]
    made = window(spans=usual(("A", "B")) + bad)  # such as HTTP 400
    assert of(made, "own_errors", "A")[0] > 5
    assert of(made, "unanswered_calls", "B") == [pytest.approx(0)]


def test_a_caller_that_is_new_is_believed_as_far_as_the_others_see_the_same() -> None:
    healthy = usual(("C", "B"), ("A", "D")) + answered("C", "B", NOW, 50)
    alone = window(spans=healthy + answered("A", "B", T0, 5) + unanswered("A", "B", NOW, 50))
    assert of(alone, "unanswered_calls", "B") == [pytest.approx(0)]
    assert of(alone, "own_errors", "A")[0] > 5
    down = usual(("C", "B"), ("A", "D")) + unanswered("C", "B", NOW, 50)
    both = window(spans=down + answered("A", "B", T0, 5) + unanswered("A", "B", NOW, 50))
    assert of(both, "unanswered_calls", "B")[0] > 10
    assert of(both, "own_errors", "A") == [pytest.approx(0)]


@pytest.mark.parametrize("address", ["B", "B:8080", "B.default.svc", "B.default.svc.cluster.local:80"])
def test_a_callee_is_known_by_its_address(address: str) -> None:
    rows = [
        row | {"service.namespace": "shop"} | ({"server.address": address} if row["name"] == "call" else {})
        for row in usual(("A", "B")) + unanswered("A", "B", NOW, 50)
    ]
    made = window(spans=rows)
    assert [(e.kind, e.name, e.namespace) for e in measure(made)[0].entities] == [
        ("service", "A", "shop"),
        ("service", "B", "shop"),
    ]
    assert of(made, "unanswered_calls", "B") == [pytest.approx(ALL_FAIL)]


def test_an_address_that_could_be_several_services_is_none_of_them() -> None:
    elsewhere = [row | {"service.namespace": name} for name in ("x", "y") for row in answered("Z", "B", T0, 20)]
    made = window(spans=elsewhere + unanswered("A", "B", NOW, 50))
    assert ("external", "B") in [(entity.kind, entity.name) for entity in measure(made)[0].entities]


def test_of_client_spans_in_each_other_the_inner_one_is_the_call() -> None:
    def wrapped(rows: list[Row]) -> list[Row]:
        outer = [row | {"span_id": "w", "name": "retry", "server.address": "B"} for row in rows if row["name"] == "call"]
        return [row | {"parent_span_id": "w"} if row["name"] == "call" else row for row in rows] + outer

    own = [span("x", "A", 0, 10, name="handle", trace=f"own-{i}", at_ns=NOW + i * SECOND_NS, error=True) for i in range(50)]
    lost = unanswered("A", "B", NOW, 50)
    once = window(spans=usual(("A", "B")) + lost + own)
    twice = window(spans=usual(("A", "B")) + wrapped(lost) + own)
    assert of(once, "own_errors", "A")[0] > 5
    assert of(twice, "own_errors", "A")[0] > 5
    assert of(twice, "unanswered_calls", "B") == of(once, "unanswered_calls", "B")


def queries(caller: str, at_ns: int, count: int, *, error: bool, ms: float = 20) -> list[Row]:
    rows = []
    for i in range(count):
        trace, at = f"{caller}-{at_ns}-{i}", at_ns + i * SECOND_NS
        rows.append(span("a", caller, 0, ms + 10, name="handle", trace=trace, at_ns=at, error=error))
        rows.append(
            span("q", caller, 5, 5 + ms, "a", name="SELECT", kind=3, trace=trace, at_ns=at, error=error, db__system__name="pg")
        )
    return rows


def test_a_database_that_fails_several_callers_is_charged_and_one_caller_alone_is_not() -> None:
    def store(*callers: str) -> Window:
        before = [row for caller in callers for row in queries(caller, T0, 100, error=False)]
        return window(spans=before + [row for caller in callers for row in queries(caller, NOW, 50, error=True)])

    assert of(store("A", "C"), "own_errors", "pg", "A", "C") == [pytest.approx(ALL_FAIL), pytest.approx(0), pytest.approx(0)]
    assert of(store("A"), "own_errors", "A")[0] > 5


def test_what_all_callers_of_a_database_wait_for_is_not_theirs() -> None:
    def store(now_ms: dict[str, float]) -> Window:
        before = [row for caller in now_ms for row in queries(caller, T0, 100, error=False)]
        return window(
            spans=before + [row for caller, ms in now_ms.items() for row in queries(caller, NOW, 50, error=False, ms=ms)]
        )

    alike = of(store({"A": 80, "C": 80}), "leaf_latency", "pg", "A", "C")
    assert alike[0] > 10
    assert alike[1:] == [pytest.approx(0), pytest.approx(0)]
    assert of(store({"A": 80}), "leaf_latency", "A")[0] > 10
    database, least, loudest = of(store({"A": 40, "C": 90}), "leaf_latency", "pg", "A", "C")
    assert least == pytest.approx(0)
    assert 0 < loudest < database + loudest


def test_a_database_and_a_queue_of_one_name_are_two_callees() -> None:
    def both(at_ns: int, count: int, *, error: bool) -> list[Row]:
        rows = queries("A", at_ns, count, error=error)
        sends = [
            span("m", "A", 5, 9, "a", name="send", kind=4, trace=f"A-{at_ns}-{i}", at_ns=at_ns + i * SECOND_NS, error=error,
                 messaging__system="pg")
            for i in range(count)
        ]  # fmt: skip
        return rows + sends

    other = queries("C", T0, 100, error=False) + queries("C", NOW, 50, error=False)
    made = window(spans=both(T0, 100, error=False) + both(NOW, 50, error=True) + other)
    assert of(made, "own_errors", "A")[0] > 5  # the queue's only caller and the database's other caller do not agree


def messages(sender: str, taker: str, at_ns: int, count: int, *, taken: bool, queue: str = "orders") -> list[Row]:
    """Requests of the sender, each of which leaves a message."""
    rows = []
    for i in range(count):
        trace, at = f"m-{sender}-{at_ns}-{i}", at_ns + i * SECOND_NS
        of_queue = {"messaging__system": "redis", "messaging__destination__name": queue}
        rows.append(span("a", sender, 0, 20, name="handle", trace=trace, at_ns=at))
        rows.append(span("p", sender, 5, 10, "a", name=f"send {queue}", kind=4, trace=trace, at_ns=at, **of_queue))
        if taken:
            rows.append(span("c", taker, 30, 60, "p", name=f"process {queue}", kind=5, trace=trace, at_ns=at, **of_queue))
    return rows


def test_messages_that_nobody_takes_are_charged_to_the_consumer() -> None:
    made = window(spans=messages("A", "W", T0, 100, taken=True) + messages("A", "W", NOW, 50, taken=False))
    assert of(made, "unanswered_calls", "W") == [pytest.approx(ALL_FAIL)]
    assert of(made, "vanished_calls", "A") == [pytest.approx(0)]


def test_calls_beside_a_queue_are_no_messages() -> None:
    stopped = [row for i in range(50) for row in call("A", "W", NOW + i * SECOND_NS, i) if row["name"] != "serve"]
    flow = messages("A", "W", T0, 100, taken=True) + messages("A", "W", NOW, 50, taken=True)
    made = window(spans=usual(("A", "W")) + stopped + flow)
    assert of(made, "vanished_calls", "A") == [pytest.approx(ALL_FAIL)]
    assert of(made, "unanswered_calls", "W") == [pytest.approx(0)]


def test_what_a_service_leaves_itself_is_no_message_of_others() -> None:
    made = window(spans=messages("A", "A", T0, 100, taken=True) + messages("A", "A", NOW, 50, taken=False))
    assert of(made, "vanished_calls", "A") == [pytest.approx(ALL_FAIL)]


def test_a_worker_that_fails_gets_no_excuse_from_a_queue_called_like_a_service() -> None:
    def failing(queue: str) -> float:
        before = messages("A", "W", T0, 100, taken=True, queue=queue)
        now = [
            row | ({"status_code": 2} if row["service.name"] == "W" else {})
            for row in messages("A", "W", NOW, 50, taken=True, queue=queue)
        ]
        logs = [line(T0, 100, "INFO", "W"), line(NOW, 50, "ERROR", "W")]
        return of(window(spans=before + now + usual(("A", "orders")), logs=logs), "error_lines", "W")[0]

    assert failing("orders") == pytest.approx(failing("parcels"))


def line(at_ns: int, count: int, severity: str = "ERROR", service: str = "A") -> Row:
    operation = "handle" if service == "A" else None
    about = {"entity_kind": "service", "entity": service, "operation": operation}
    return {"time_unix_nano": at_ns, "severity": severity, "template": "broken", "count": count, **about}


@pytest.mark.parametrize(("lines", "explained"), [(50, 1.0), (200, 1.0), (400, 0.5)])
def test_error_lines_that_failed_calls_explain_are_not_the_callers(lines: int, explained: float) -> None:
    """Fifty failed calls may explain four lines each."""
    logs = [line(T0, 100, "INFO"), line(NOW, lines)]
    down = window(spans=usual(("A", "B")) + unanswered("A", "B", NOW, 50), logs=logs)
    plain = window(spans=usual(("A", "B")) + answered("A", "B", NOW, 50), logs=logs)
    assert of(plain, "error_lines", "A")[0] > 5
    assert of(down, "error_lines", "A") == [pytest.approx((1 - explained) * of(plain, "error_lines", "A")[0])]
    assert of(down, "new_templates", "A") == [pytest.approx((1 - explained) * of(plain, "new_templates", "A")[0])]


def test_a_service_with_as_many_failures_of_its_own_keeps_half_of_its_lines() -> None:
    logs = [line(T0, 100, "INFO"), line(NOW, 50)]
    own = [span("x", "A", 0, 10, name="handle", trace=f"own-{i}", at_ns=NOW + i * SECOND_NS, error=True) for i in range(50)]
    rows = usual(("A", "B")) + answered("A", "B", NOW, 50, error=True) + own
    whole = of(window(spans=usual(("A", "B")) + answered("A", "B", NOW, 50) + own, logs=logs), "error_lines", "A")[0]
    assert of(window(spans=rows, logs=logs), "error_lines", "A") == [pytest.approx(whole / 2)]


def test_a_falling_success_ratio_that_failed_calls_explain_is_no_residual() -> None:
    about = {"entity_kind": "service", "entity": "A", "metric": "server.request.success_ratio"}
    metrics = [
        {"time_unix_nano": start + i * 15 * SECOND_NS, "value": level, **about}
        for start, n, level in ((T0, 30, 1.0), (NOW, 15, 0.2))
        for i in range(n)
    ]
    plain = window(spans=usual(("A", "B")) + answered("A", "B", NOW, 50), metrics=metrics)
    down = window(spans=usual(("A", "B")) + unanswered("A", "B", NOW, 50), metrics=metrics)
    assert of(plain, "success_residual", "A")[0] > 5
    assert of(down, "success_residual", "A") == [pytest.approx(0)]


def test_a_few_failed_calls_explain_nothing() -> None:
    logs = [line(T0, 100, "INFO"), line(NOW, 3)]
    rows = usual(("A", "B")) + answered("A", "B", NOW, 48) + unanswered("A", "B", NOW + 48 * SECOND_NS, 2)
    expected = anscombe(np.array([3.0]), np.array([0.0]), np.array([0.5]))
    assert of(window(spans=rows, logs=logs), "error_lines", "A")[0] == pytest.approx(float(expected[0]), rel=0.1)


def test_callees_that_serve_less_are_explained_as_far_as_calls_failed() -> None:
    about = {"entity_kind": "service", "metric": "server.request.rate"}
    metrics = [
        {"time_unix_nano": start + i * 15 * SECOND_NS, "entity": name, "value": rate, **about}
        for name, now in (("A", 2.0), ("B", 1.0), ("D", 0.0))
        for start, n, rate in ((T0, 40, 1.0 if name != "A" else 2.0), (NOW, 20, now))
        for i in range(n)
    ]
    before = [row for i in range(3) for row in answered("A", "B", T0 + i * 100 * SECOND_NS, 80)]
    before += [row for i in range(3) for row in answered("A", "D", T0 + i * 100 * SECOND_NS, 80)]
    fine = [row for i in range(2) for row in answered("A", "B", NOW + i * 100 * SECOND_NS, 80)]

    def quiet(failed: int) -> float:
        spans = before + fine + unanswered("A", "B", NOW, failed)
        made = window(Interval(NOW, NOW + 3 * MINUTE_NS), spans=spans, metrics=metrics)
        return of(made, "quiet_callees", "A")[0]

    whole = quiet(0)
    assert whole > 5
    assert quiet(3) > 0.8 * whole  # D is not called at all: three failed calls to B explain little of that


@given(st.lists(st.tuples(st.sampled_from("ABC"), st.sampled_from("BCD"), st.integers(0, 30), st.integers(0, 30)), max_size=6))
@settings(max_examples=30, deadline=None)
def test_parts_are_parts(edges: list[tuple[str, str, int, int]]) -> None:
    rows = [row for a, b, n, _ in edges if a != b for row in answered(a, b, T0, n)]
    rows += [row for a, b, _, n in edges if a != b for row in unanswered(a, b, NOW, n)]
    if not rows:
        return
    made = window(spans=rows)
    counts, topology = Counts(made, Blocks(made)), topology_of(made)
    calls = Calls.of(counts, topology)
    for charged, lost in zip(calls.charged, calls.lost, strict=True):
        assert np.all((charged >= 0) & (charged <= lost + 1e-9))
    every = np.arange(len(topology.entities))
    change = np.array([[0.0, 1.0, -5.0, np.nan, 100.0][: len(every)] + [7.0] * max(0, len(every) - 5)])
    part = PassedOn.of(counts, calls, topology).part(every, np.repeat(change, len(counts.blocks.stretches), axis=0))
    assert np.all((part >= 0) & (part <= 1))


def test_quiet_stretches_are_measured_alike() -> None:
    made = window(spans=usual(("A", "B")) + unanswered("A", "B", T0 + 400 * SECOND_NS, 50) + answered("A", "B", NOW, 50))
    incident, quiet = measure(made)
    assert value(incident, "unanswered_calls", "B") == pytest.approx(0)
    assert max(value(stretch, "unanswered_calls", "B") for stretch in quiet) > 5
