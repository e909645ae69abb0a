"""Numbers, durations, sizes and foreign text as people read them."""

from __future__ import annotations

import math
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rca.wording import alike, count, number, percent, printable, probability, quantity, seconds, size, together


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "0"), (0.0374, "0.037"), (0.996, "1"), (2.14, "2.1"), (12.34, "12.3"), (84.2, "84"), (99.96, "100"), (1240.4, "1,240")],
)
def test_numbers(value: float, words: str) -> None:
    assert number(value) == words


def test_a_number_that_is_none_says_so() -> None:
    assert number(math.nan) == quantity(math.inf, "s") == "unknown"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0 s"),
        (240e-9, "240 ns"),
        (514e-6, "514 us"),
        (0.084, "84 ms"),
        (0.99999, "1 s"),
        (1.9, "1.9 s"),
        (119, "119 s"),
        (300, "5 min"),
        (8000, "2.2 h"),
        (-0.003, "-3 ms"),
    ],
)
def test_durations(value: float, words: str) -> None:
    assert seconds(value) == words


@pytest.mark.parametrize(
    ("value", "words"), [(0, "0 B"), (1000, "1,000 B"), (1023.9, "1 KiB"), (180e6, "172 MiB"), (5e9, "4.7 GiB")]
)
def test_sizes(value: float, words: str) -> None:
    assert size(value) == words


def test_units() -> None:
    assert quantity(0.92, "%") == "92 %"
    assert quantity(2.1, "1/s") == "2.1/s"
    assert quantity(2048, "By/s") == "2 KiB/s"
    assert quantity(0.5, "{cpu}") == "0.5 cores"
    assert quantity(7, "{socket}") == "7 sockets"
    assert quantity(0.5, "{process}") == "0.5 processes"
    assert quantity(3, "furlongs") == "3 furlongs"
    assert quantity(3, "1") == "3"


def test_shares_never_round_to_certainty() -> None:
    assert [percent(share) for share in (0, 0.0004, 0.23, 0.9953, 0.99999, 1)] == [
        "0 %",
        "<0.1 %",
        "23 %",
        "99.5 %",
        ">99.9 %",
        "100 %",
    ]
    assert [probability(share) for share in (0, 0.004, 0.234, 0.996, 1)] == ["0 %", "<1 %", "23 %", ">99 %", "100 %"]


def test_counts() -> None:
    assert count(1, "span") == "1 span"
    assert count(1200, "span") == "1,200 spans"


def test_text_from_elsewhere_cannot_drive_the_terminal() -> None:
    assert printable("\x1b[31mred\x07\u202egnp\n\x9b2J") == "\\x1b[31mred\\x07\\u202egnp\\x0a\\x9b2J"
    assert printable("naïve café ☕ <*>") == "naïve café ☕ <*>"
    assert printable("a" * 20, 10) == "aaaaaaa..."


def test_what_is_said_of_several_things_is_said_once() -> None:
    watches = [f"list {what}: HTTP 503: no leader" for what in ("pods", "nodes", "jobs.batch", "events", "secrets")]
    rules = [f'list {what}.apps: {what}.apps is forbidden; resources: ["{what}"]' for what in ("deployments", "daemonsets")]
    groups = alike([*watches, *rules, "12 pods have no time", "3 jobs have no time"])
    assert [together(group) for group in groups] == [
        "list pods: HTTP 503: no leader; the same for nodes, jobs.batch, events and 1 more",
        'list deployments.apps: deployments.apps is forbidden; resources: ["deployments"]; the same for daemonsets.apps',
        "12 pods have no time",
        "3 jobs have no time",
    ]


@given(st.lists(st.text("ab :;", max_size=12)))
def test_nothing_is_lost_where_texts_are_put_together(texts: list[str]) -> None:
    assert sorted(text for group in alike(texts) for text in group) == sorted(texts)


@given(st.text())
def test_what_is_printable_stays_so(text: str) -> None:
    shown = printable(text)
    assert all(unicodedata.category(c)[0] != "C" for c in shown)
    assert printable(shown) == shown


@given(st.floats(min_value=1e-9, max_value=1e5))
def test_durations_keep_their_size(value: float) -> None:
    units = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1, "min": 60, "h": 3600}
    text, unit = seconds(value).split()
    assert float(text.replace(",", "")) * units[unit] == pytest.approx(value, rel=0.06)
