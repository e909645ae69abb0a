"""Plans of game days: what they say, and every way in which they cannot be done."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rca.errors import BadInput, UnknownName
from rca.gameday.plan import find_plan, load_plan, parsed_plan, shipped_plans, timeline, total_ns
from rca.settings import duration_text
from rca.shop.faults import culprit_of
from rca.telemetry import MINUTE_NS, SECOND_NS

GOOD = """
name = "tuesday"
settle = "10s"
baseline = "1m"
quiet = "30s"

[[injection]]
fault = "latency"
target = "payment"
lasting = "40s"

[[injection]]
fault = "traffic_surge"
until = "fixed"

[[abort]]
query = "up == 0"
above = 3
"""


def test_a_plan_says_when_what_happens() -> None:
    plan = parsed_plan(GOOD, "plan.toml")
    slots = [(slot.number, slot.planned.name, slot.begins_ns // SECOND_NS, slot.ends_ns // SECOND_NS) for slot in timeline(plan)]
    assert slots == [(1, "latency at payment", 100, 140), (2, "traffic_surge", 240, 330)]
    assert total_ns(plan) == 340 * SECOND_NS
    assert [abort.words() for abort in plan.abort] == ["up == 0 is above 3 for 1m"]
    waiting = parsed_plan(GOOD.replace('until = "fixed"', 'at = "8m"'), "plan.toml")
    assert timeline(waiting)[1].begins_ns == 8 * MINUTE_NS


def test_the_order_is_drawn_by_its_seed() -> None:
    def drawn(seed: int) -> list[str]:
        text = "\n".join(
            f'[[injection]]\nfault = "latency"\ntarget = "{each}"' for each in ("payment", "cart", "orders", "search")
        )
        plan = parsed_plan(f'name = "a"\norder = "shuffled"\nseed = {seed}\n{text}', "plan.toml")
        assert [number for number, _ in plan.ordered()] == [1, 2, 3, 4]
        return [planned.target for _, planned in plan.ordered()]

    assert drawn(1) == drawn(1)
    assert len({tuple(drawn(seed)) for seed in range(8)}) > 3
    assert sorted(drawn(3)) == ["cart", "orders", "payment", "search"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("latency", "latencie"), r"line 8: injection 1: fault: .*'latencie' \(did you mean latency"),
        (("payment", "paiment"), r"line 9: injection 1: target: target of latency: .*did you mean payment"),
        (('lasting = "40s"', 'lasting = "0s"'), r"line 10: injection 1: lasting: expected more than nothing"),
        (('lasting = "40s"', 'lasting = "20s"'), r"line 10: injection 1: lasting: expected 30s to 1h, found 20s"),
        (('lasting = "40s"', "lasting = 40"), r"line 10: injection 1: lasting: expected a duration such as 30s"),
        (('lasting = "40s"', 'lastin = "40s"'), r"line 10: injection 1: lastin: unknown setting, did you mean 'lasting'"),
        (('lasting = "40s"', 'at = "1m"'), r"line 10: injection 1: at: overlaps: nothing came before, .*expected 1m40s or later"),
        (('until = "fixed"', 'at = "3m"'), r"line 14: injection 2: at: overlaps: injection 1 lasts until 2m20s, .*found 3m"),
        (('until = "fixed"', 'until = "dawn"'), r"line 14: injection 2: until: Input should be 'fixed'"),
        (('fault = "traffic_surge"', ""), r"line 12: injection 2: fault: is required"),
        (('fault = "traffic_surge"', 'fault = "traffic_surge"\ntarget = "cart"'), r"line 14: .*expected none"),
        (
            ('fault = "traffic_surge"', 'fault = "latency"'),
            r"line 12: injection 2: target: .*expected one of gateway.*found none",
        ),
        (('settle = "10s"', 'settle = "5s"'), r"line 3: settle: expected 10s or more, found 5s: too short to be seen"),
        (('quiet = "30s"', 'quiet = "10s"'), r"line 5: quiet: expected 0s, or 30s or more, found 10s"),
        (('baseline = "1m"', 'baseline = "10s"'), r"line 4: baseline: expected 1m or more"),
        (('quiet = "30s"', 'color = "red"'), r"line 5: color: unknown setting, .*order"),
        (('name = "tuesday"', 'name = "a/b"'), r"line 2: name: expected name of the game day: letters"),
        (('name = "tuesday"', "name = 3"), r"line 2: name: expected text in quotes"),
        (("above = 3", ""), r"line 16: abort 1: expected above or below beside a query"),
        (
            ("above = 3", "unhealthy = true"),
            r"line 16: abort 1: expected one of query, failed_requests and unhealthy, found query and",
        ),
        (("above = 3", "above = 3\nbelow = 2"), r"line 16: abort 1: expected above or below beside a query"),
        (('query = "up == 0"', "unhealthy = true\nbelow = 1"), r"line 16: abort 1: expected above or below beside a query"),
        (("above = 3", "above = nan"), r"line 18: abort 1: above: Input should be a finite number$"),
        (("[[abort]]", "[abort]"), r"abort: expected a list"),
        (('query = "up == 0"', 'query = "up'), r"plan.toml: expected TOML, found .*line 17"),
    ],
)
def test_mistakes_are_named_with_their_line(wrong: tuple[str, str], message: str) -> None:
    with pytest.raises(BadInput, match=message) as error:
        parsed_plan(GOOD.replace(*wrong), "plan.toml")
    assert error.value.exit_code == 2


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(GOOD)), st.integers(0, 12), st.text(st.sampled_from("\n[]\"'=#.0-9stxe ü{}"), max_size=6))
def test_a_plan_that_was_mangled_is_read_or_refused(place: int, gone: int, more: str) -> None:
    with contextlib.suppress(BadInput):
        plan = parsed_plan(GOOD[:place] + more + GOOD[place + gone :], "plan.toml")
        assert total_ns(plan) > 0


@pytest.mark.parametrize(
    "value", ["3", "-1", "true", "[]", "{}", '""', "2026-01-01", "nan", '"1s"', '"99w"', "[[]]", '{a = "b"}']
)
def test_values_of_any_type_are_read_or_refused(value: str) -> None:
    for line in GOOD.splitlines():
        key, equals, _ = line.partition("=")
        if equals:
            with contextlib.suppress(BadInput):
                assert timeline(parsed_plan(GOOD.replace(line, f"{key} = {value}"), "plan.toml"))


def test_several_mistakes_are_told_at_once() -> None:
    with pytest.raises(BadInput, match=r"line 8: .*; line 13: "):
        parsed_plan(GOOD.replace("latency", "latencie").replace("traffic_surge", "traffik"), "plan.toml")


def test_a_shuffled_order_knows_no_times() -> None:
    text = GOOD.replace('name = "tuesday"', 'name = "tuesday"\norder = "shuffled"').replace('until = "fixed"', 'at = "9m"')
    with pytest.raises(BadInput, match="line 15: injection 2: at: expected no time of an injection in a shuffled order"):
        parsed_plan(text, "plan.toml")


def test_plans_are_found_by_name_or_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop").mkdir()  # as in the checkout of a shop
    monkeypatch.chdir(tmp_path)
    assert find_plan("shop") != Path("shop")
    assert find_plan("mine.toml") == Path("mine.toml")
    with pytest.raises(UnknownName, match=r"'shopp' \(did you mean shop or short"):
        find_plan("shopp")
    with pytest.raises(BadInput, match="expected the plan of a game day, found No such file"):
        load_plan(tmp_path / "none.toml")


def test_what_ships_can_be_run() -> None:
    plans = {name: load_plan(find_plan(name)) for name in shipped_plans()}
    shop = plans["shop"]
    assert len(shop.injection) >= 10
    assert 45 * MINUTE_NS <= total_ns(shop) <= 75 * MINUTE_NS, duration_text(total_ns(shop))
    assert len({planned.fault for planned in shop.injection}) == len(shop.injection)
    assert len({culprit_of(planned.fault, planned.target) for planned in shop.injection}) == len(shop.injection)
    assert total_ns(plans["short"]) < 3 * MINUTE_NS
