"""What the importers share: sets of intervals, log templates, JSON read piece by piece."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rca.collectors.files.intervals import common, merged, rows_within, without
from rca.collectors.files.streams import array_elements
from rca.collectors.files.templates import BIN_NS, count, mask, mine, severity
from rca.telemetry import Interval

START_NS = 1_800_000_000 * 10**9
_SETS = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 15)).map(lambda t: Interval(t[0], t[0] + t[1])), max_size=6)


def points(intervals: list[Interval]) -> set[int]:
    return {point for interval in intervals for point in range(interval.start_ns, interval.end_ns)}


@given(_SETS, _SETS)
def test_interval_sets_behave_like_sets(a: list[Interval], b: list[Interval]) -> None:
    assert points(merged(a)) == points(a)
    assert points(without(a, b)) == points(a) - points(b)
    assert points(common(a, b)) == points(a) & points(b)
    for result in (merged(a), without(a, b), common(a, b)):
        assert all(x.end_ns <= y.start_ns for x, y in pairwise(result))


@given(_SETS, st.lists(st.integers(0, 60)))
def test_rows_within(intervals: list[Interval], times: list[int]) -> None:
    frame = pl.DataFrame({"t": sorted(times)}, schema={"t": pl.Int64})
    found = rows_within(frame, "t", merged(intervals))["t"].to_list()
    assert found == [time for time in sorted(times) if time in points(intervals)]


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("took 12.5 ms for user 4711", "took <*> ms for user <*>"),
        ("order 3f2a9c04-1b2d-4e5f-8a9b-0c1d2e3f4a5b stored", "order <*> stored"),
        ('path="/a b" size=17, ok', "path=<*> size=<*>, ok"),
        ("at 2031-05-06T07:08:09.123Z from 10.1.2.3:8080", "at <*> from <*>"),
        ("got Item(id=7, tags=[a, b]), Item(id=8, tags=[])", "got <*>"),
        ("[load][Find by name][Name: lisbon]", "[load][Find by name][Name: <*>]"),
        ("don't touch it, it isn't yours", "don't touch it, it isn't yours"),
        ("line one\n\tline two", "line one line two"),
    ],
)
def test_variable_parts_are_masked(text: str, masked: str) -> None:
    assert pl.select(mask(pl.lit(text))).item() == masked


@pytest.mark.parametrize(
    ("stated", "text", "expected"),
    [
        ("warning", "x", "WARN"),
        ("info", "java.io.IOException: x", "INFO"),
        (None, "java.io.IOException: x", "ERROR"),
        (None, "an ERROR here", "ERROR"),
        (None, "no errors at all", "INFO"),
        ("42", "x", "INFO"),
    ],
)
def test_severity(stated: str | None, text: str, expected: str) -> None:
    assert pl.select(severity(pl.lit(stated, dtype=pl.String), pl.lit(text))).item() == expected


def lines(*rows: tuple[str, str | None, str]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={"group": pl.String, "source": pl.String, "text": pl.String}, orient="row")


def test_templates_keep_source_and_short_words_apart() -> None:
    mined = mine(
        lines(
            ("web", "A#1", "request 1 started"),
            ("web", "A#2", "request 1 completed"),
            ("web", None, "a much longer line with ten words and one name anna"),
            ("web", None, "a much longer line with ten words and one name bert"),
            ("cart", "A#1", "request 2 started"),
        )
    )
    assert mined["template"].to_list() == [
        "A#1 request <*> started",
        "A#2 request <*> completed",
        "a much longer line with ten words and one name <*>",
        "a much longer line with ten words and one name <*>",
        "A#1 request <*> started",
    ]


def test_lists_of_any_length_are_one_template() -> None:
    mined = mine(lines(("web", None, "cart: item 1 x"), ("web", None, "cart: item 1 item 2 item 3 x")))
    assert mined["template"].n_unique() == 1


def test_a_service_of_many_words_gets_looser_templates() -> None:
    names = [f"{a}{b}" for a in "abcdefghijklmnopqrst" for b in "abcdefghijklmnopqrst"]
    mined = mine(lines(*(("web", None, f"hello {name} today") for name in names)))
    assert mined["template"].n_unique() <= 200


def test_bins_start_with_the_incident() -> None:
    frame = pl.DataFrame({"time_unix_nano": [START_NS - 1, START_NS, START_NS + BIN_NS - 1, START_NS + BIN_NS]})
    constants = {"group": "web", "operation": None, "severity": "INFO", "template": "x"}
    counted = count(frame.with_columns(pl.lit(v, dtype=pl.String).alias(k) for k, v in constants.items()), START_NS)
    assert counted.select("time_unix_nano", "count").rows() == [(START_NS - BIN_NS, 1), (START_NS, 2), (START_NS + BIN_NS, 1)]


@given(st.lists(st.recursive(st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))))
def test_array_elements_are_read_whole(tmp_path_factory: pytest.TempPathFactory, values: list[object]) -> None:
    file = tmp_path_factory.mktemp("array") / "a.json"
    file.write_text(json.dumps({"before": 1, "data": [[value] for value in values], "after": []}), encoding="utf-8")
    assert list(array_elements(file, "data")) == [[value] for value in values]


def test_an_array_cut_off_is_refused(tmp_path: Path) -> None:
    from rca.errors import BadTelemetry

    file = tmp_path / "a.json"
    file.write_text('{"data": [{"a": 1}, {"a": ')
    elements = array_elements(file, "data")
    assert next(elements) == {"a": 1}
    with pytest.raises(BadTelemetry, match="expected JSON"):
        next(elements)
