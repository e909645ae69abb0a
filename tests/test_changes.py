"""What somebody who watches a ranking is told between two looks."""

from __future__ import annotations

from rca.changes import changes
from rca.ranking import RankedCandidate, Ranking
from rca.telemetry import SECOND_NS, EntityId, Gap, Interval
from tests.shop import T0

WINDOW = Interval(T0, T0 + 60 * SECOND_NS)


def ranking(*shares: tuple[str, float], window: Interval = WINDOW, gaps: tuple[Gap, ...] = ()) -> Ranking:
    candidates = tuple(RankedCandidate(i, EntityId("service", name), p, p) for i, (name, p) in enumerate(shares, start=1))
    return Ranking("floor", window, candidates, gaps=gaps)


BEFORE = ranking(("cart", 0.6), ("payment", 0.3), ("web", 0.1))


def test_equal_rankings_have_nothing_to_tell() -> None:
    assert changes(BEFORE, BEFORE, top=3) == ()
    assert changes(BEFORE, ranking(("cart", 0.55), ("payment", 0.34), ("web", 0.11)), top=3) == ()


def test_a_new_leader_and_who_lost() -> None:
    after = ranking(("payment", 0.7), ("cart", 0.2), ("web", 0.1))
    assert changes(BEFORE, after, top=3) == (
        "payment is first now with 70 %; it was 2nd with 30 %",
        "cart has 20 %, 60 % before, from 1st to 2nd",
    )


def test_candidates_come_and_go() -> None:
    after = ranking(("cart", 0.6), ("queue", 0.3), ("web", 0.1))
    assert changes(BEFORE, after, top=3) == ("queue is new, 2nd with 30 %", "payment is no longer there")


def test_only_what_is_shown_is_told() -> None:
    after = ranking(("cart", 0.6), ("payment", 0.15), ("web", 0.25))
    assert changes(BEFORE, after, top=1) == ()


def test_names_from_elsewhere_reach_the_terminal_harmless() -> None:
    assert "\x1b" not in "".join(changes(BEFORE, ranking(("\x1b[31mred", 1.0)), top=1))


def test_another_onset_is_told() -> None:
    after = ranking(("cart", 0.6), ("payment", 0.3), ("web", 0.1), window=Interval(T0 - 10 * SECOND_NS, WINDOW.end_ns))
    assert changes(BEFORE, after, top=3) == ("the onset is taken to be 09:59:50 UTC, 10:00:00 before",)


def test_sources_that_fail_and_come_back() -> None:
    lost = ranking(("cart", 0.6), ("payment", 0.3), ("web", 0.1), gaps=(Gap("prometheus", "connection refused"),))
    assert changes(BEFORE, lost, top=3) == ("prometheus: connection refused",)
    assert changes(lost, BEFORE, top=3) == ("prometheus misses nothing any more",)
    otherwise = ranking(("cart", 0.6), ("payment", 0.3), ("web", 0.1), gaps=(Gap("prometheus", "no answer within 10 s"),))
    assert changes(lost, otherwise, top=3) == ()
