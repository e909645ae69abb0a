"""Calls that nobody answered: whom they speak of, and what they explain at those who made them."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
import pytest

from rca.deviations import Deviations, anscombe, measure
from rca.signals import EDGE_COLUMN, NODE_COLUMN
from rca.telemetry import SECOND_NS
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


def test_a_call_without_an_answer_in_time_counts_as_unanswered() -> None:
    def late(count: int) -> list[Row]:
        rows = answered("A", "B", NOW, count)
        return [row | {"status_code": 2} if row["service.name"] == "A" else row for row in rows]

    made = window(spans=usual(("A", "B")) + late(50))
    assert of(made, "unanswered_calls", "B") == [pytest.approx(ALL_FAIL)]
    assert of(made, "own_errors", "A") == [pytest.approx(0)]
    ambiguous = window(spans=usual(("A", "B"), ("A", "C")) + late(50) + answered("A", "C", NOW, 50))
    assert of(ambiguous, "own_errors", "A")[0] > 5  # the spans called "call" may be of calls to either


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


def test_messages_that_nobody_takes_are_charged_to_the_consumer() -> None:
    def messages(at_ns: int, count: int, *, taken: bool) -> list[Row]:
        rows = []
        for i in range(count):
            trace, at = f"m-{at_ns}-{i}", at_ns + i * SECOND_NS
            queue = {"messaging__system": "redis", "messaging__destination__name": "orders"}
            rows.append(span("a", "A", 0, 20, name="handle", trace=trace, at_ns=at))
            rows.append(span("p", "A", 5, 10, "a", name="send", kind=4, trace=trace, at_ns=at, **queue))
            if taken:
                rows.append(span("c", "W", 30, 60, "p", name="process", kind=5, trace=trace, at_ns=at, **queue))
        return rows

    made = window(spans=messages(T0, 100, taken=True) + messages(NOW, 50, taken=False))
    assert of(made, "unanswered_calls", "W") == [pytest.approx(ALL_FAIL)]
    assert of(made, "vanished_calls", "A") == [pytest.approx(0)]


def line(at_ns: int, count: int, severity: str = "ERROR") -> Row:
    about = {"entity_kind": "service", "entity": "A", "operation": "handle"}
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
