"""Probabilities of outcomes: they add up, keep the order of scores, say what is unlike anything known, and are fitted soundly."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rca.contracts import Case
from rca.errors import BadCheckpoint
from rca.evaluation.metrics import error_of
from rca.models.confidence import (
    FACTS,
    Outlook,
    Shape,
    chances_of,
    facts_of,
    outlook_of,
    probabilities,
    read_weights,
    unlike,
    weights,
)
from rca.models.registry import create
from rca.ranking import Chances, Ranking, rank_by_score
from rca.telemetry import EntityId, Interval
from scripts.confidence import (
    FIT_SEED,
    GENERAL,
    GONE,
    JUDGE_SEED,
    KINDS,
    QUIET,
    SHARES,
    Window,
    answer,
    counts_of,
    expected_error,
    fit,
    judge,
    kind_shares,
    selective,
    weights_digest,
    without,
)
from scripts.sets import CONFIDENCE, model_digest, read_result
from tests.cases import example_case, example_cases

SHAPE = Shape(sharp=0.25, blunt=1.5, even=0.25, mass=0.9)
shares = st.floats(0, 1)
some_scores = st.lists(st.floats(-8, 20).map(lambda value: round(value, 6)), min_size=1, max_size=40)


# --- probabilities ------------------------------------------------------------------------------------------------------


@given(scores=some_scores, fault=shares, outside=shares, vague=shares)
def test_outcomes_add_up_and_keep_the_order_of_scores(scores: list[float], fault: float, outside: float, vague: float) -> None:
    found = probabilities(np.array(scores), Outlook(fault, outside, vague), SHAPE)
    assert math.isclose(found.sum() + (1 - fault) + fault * outside, 1.0, abs_tol=1e-9)
    order = np.argsort(-np.array(scores), kind="stable")
    assert (np.diff(found[order]) <= 1e-15).all()


def test_probabilities_by_hand() -> None:
    found = probabilities(np.array([1.0, 0.0]), Outlook(0.8, 0.25, 0.5), Shape(1.0, 2.0, 0.5, 0.9))
    sharp, blunt = 1 / (1 + math.exp(-1.0)), 1 / (1 + math.exp(-0.5))
    assert found[0] == pytest.approx(0.6 * (0.5 * sharp + 0.5 * (0.5 * blunt + 0.25)))


def test_alerts_alone_say_less() -> None:
    scores, outlook = np.array([1.0, 0.0]), Outlook(1.0, 0.0, 0.0)
    assert probabilities(scores, outlook, SHAPE, 1.75)[0] < probabilities(scores, outlook, SHAPE)[0]


def test_the_weights_that_ship_are_complete() -> None:
    fitted = weights()
    assert tuple(fitted.facts) == tuple(FACTS)
    numbers = [value for fact in fitted.facts.values() for value in vars(fact).values()] + [*fitted.base]
    assert all(math.isfinite(value) for value in numbers)
    assert all(fact.low <= fact.mean <= fact.high and fact.spread > 0 for fact in fitted.facts.values())
    for shape in (fitted.floor, fitted.network):
        assert 0 < shape.sharp < shape.blunt
        assert 0 < shape.even < 1
        assert fitted.coverage - 0.1 < shape.mass < 1


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"facts": {"loudest": {"low": 0}}}', '{"facts": null}'])
def test_damaged_weights_are_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "confidence.json"
    with pytest.raises(BadCheckpoint, match=r"confidence\.json: expected the weights of probabilities"):
        read_weights(path)
    path.write_text(damage)
    with pytest.raises(BadCheckpoint, match=r"confidence\.json: expected the weights of probabilities"):
        read_weights(path)


def quiet_case(case: Case) -> Case:
    from rca.features import quiet_graph

    return replace(case, graph=quiet_graph(case.quiet, 0))


@pytest.mark.parametrize("name", ["floor", "model"])
def test_a_planted_fault_is_told_from_a_quiet_stretch(name: str) -> None:
    ranker = create(name)
    for labelled in example_cases():
        told, quiet = ranker.rank(labelled.case), ranker.rank(quiet_case(labelled.case))
        assert told.no_fault < 0.5 < quiet.no_fault
        assert told.likely is not None
        assert labelled.causes[0] in told.likely.entities
        assert quiet.likely is not None
        assert quiet.likely.no_fault


def test_facts_of_a_fault_and_of_a_quiet_stretch() -> None:
    case = example_case("cpu_contention", "catalogue").case
    assert tuple(facts_of(case)) == tuple(FACTS)
    assert facts_of(case)["candidates"] == pytest.approx(math.log(len(case.graph.candidates)))
    assert facts_of(quiet_case(case))["loudest"] < facts_of(case)["loudest"]


def test_what_lies_beyond_everything_known_is_told_and_counts_as_its_end() -> None:
    fitted = weights()
    usual = {name: fact.mean for name, fact in fitted.facts.items()}
    assert unlike(usual, fitted) == ()
    strange = usual | {"candidates": math.log(100_000)}
    (words,) = unlike(strange, fitted)
    assert words.startswith("number of candidates (100000; known: ")
    end = usual | {"candidates": fitted.facts["candidates"].high}
    assert outlook_of(strange, fitted) == outlook_of(end, fitted)
    (words,) = unlike(usual | {"baseline": math.log1p(90 * 86400)}, fitted)
    assert words.startswith("length of the baseline (2,160 h; known: ")


def test_without_candidates_nobody_is_to_blame() -> None:
    found = chances_of(example_case("cpu_contention", "catalogue").case, np.zeros(0), "floor")
    assert (found.no_fault, found.outside) == (1.0, 0.0)


def test_what_the_page_says_was_measured_with_what_ships_and_meets_the_bars() -> None:
    body = read_result(CONFIDENCE)
    assert (body["weights"], body["model"]) == (weights_digest(), model_digest(GENERAL))
    for found in body["sets"]["simulated"].values():
        assert found["windows"] >= 2000
        assert found["calibration_error"] < 0.05
        assert abs(found["coverage"][0] - 0.9) <= 0.02
        assert found["false_alarms"][0] < 0.05


# --- sets ---------------------------------------------------------------------------------------------------------------


def ranked(shares: list[float], **others: float) -> Ranking:
    names = [EntityId("service", f"s{place}") for place in range(len(shares))]
    chances = Chances(np.array(shares), **{"no_fault": 0.0, **others})  # type: ignore[arg-type]
    return rank_by_score("r", Interval(0, 1), names, np.array(shares), chances=chances)


def test_sets_are_the_fewest_outcomes_that_hold_enough() -> None:
    found = ranked([0.5, 0.1], no_fault=0.3, outside=0.1, mass=0.75).likely
    assert found is not None
    assert ([entity.name for entity in found.entities], found.no_fault, found.outside) == (["s0"], True, False)
    found = ranked([0.3, 0.1], no_fault=0.1, outside=0.5, mass=0.75).likely
    assert found is not None
    assert ([entity.name for entity in found.entities], found.no_fault, found.outside) == (["s0"], False, True)
    assert ranked([1.0]).likely is None


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=20), st.floats(0.05, 1))
def test_sets_reach_their_mass_and_no_outcome_is_idle(raw: list[float], mass: float) -> None:
    parts = [value / sum(raw) for value in raw]
    ranking = ranked(parts[1:], no_fault=parts[0], mass=mass)
    assert ranking.likely is not None
    held = [c.probability for c in ranking.candidates if c.entity in ranking.likely.entities]
    held += [ranking.no_fault] * ranking.likely.no_fault
    assert sum(held) >= mass - 1e-9 or len(held) >= len([part for part in parts if part > 0])
    assert sum(held) - min(held) < mass


# --- fitting and judging ------------------------------------------------------------------------------------------------


def drawn_windows(count: int, seed: int) -> list[Window]:
    """Windows of a made-up world in which loudness tells: quiet ones are quiet, and causes stand out more or less."""
    rng = np.random.default_rng(seed)
    made = []
    for group in range(count):
        kind = str(rng.choice(KINDS, p=list(SHARES.values())))
        floor = rng.normal(0, 0.5, size=int(rng.integers(4, 12)))
        causes: tuple[int, ...] = ()
        if kind not in (QUIET, GONE):
            causes = (int(rng.integers(len(floor))),)
            floor[causes[0]] += rng.gamma(2.0, 1.0)
        elif kind == GONE:
            floor += 1.0
        ordered = np.sort(floor)[::-1]
        facts = dict.fromkeys(FACTS, 0.0) | {"loudest": ordered[0], "ahead": ordered[0] - ordered[1]}
        made.append(Window(kind, facts, floor, 1.0, floor, causes, group))
    return made


def test_a_fit_is_calibrated_on_other_draws_of_the_same_world() -> None:
    learnt, asked = drawn_windows(1500, 1), drawn_windows(1500, 2)
    fitted = fit(learnt, np.ones(len(learnt)))
    found = judge(asked, lambda window: window.floor, fitted, fitted.floor)
    assert found["calibration_error"] < 0.06
    assert abs(found["coverage"][0] - 0.9) < 0.025
    assert found["brier"] < 0.25


def test_kinds_count_as_often_as_they_are_asked_about() -> None:
    windows = drawn_windows(300, 3)
    counts = counts_of(windows)
    for kind, share in SHARES.items():
        assert counts[[window.kind == kind for window in windows]].sum() == pytest.approx(share)
    assert sum(kind_shares().values()) == pytest.approx(1)
    assert FIT_SEED != JUDGE_SEED


def test_errors_of_calibration_by_hand() -> None:
    confidence, right = np.array([0.95, 0.95, 0.05, 0.05]), np.array([1.0, 0.0, 0.0, 0.0])
    assert error_of(confidence, right) == pytest.approx((0.9 + 0.1) / 4)
    assert expected_error(np.full(2000, 0.7)) < 0.02
    found = selective(np.array([0.9, 0.8, 0.7, 0.1]), np.array([1.0, 1.0, 0.0, 0.0]))
    assert found == {
        "0.25": 1.0,
        "0.5": 1.0,
        "0.75": 0.6667,
        "1.0": 0.5,
    }


def test_the_truth_of_a_window() -> None:
    fitted, floor = weights(), np.array([3.0, 0.0])
    facts = {name: fact.mean for name, fact in fitted.facts.items()}
    blamed = Window("whole", facts, floor, 1.0, floor, (0,), 0)
    assert answer(blamed, floor, fitted, fitted.floor).first_right
    gone, quiet = replace(blamed, kind=GONE, causes=()), replace(blamed, kind=QUIET, causes=())
    assert (blamed.truth, quiet.truth, gone.truth) == ({0}, {2}, {3})
    assert not answer(gone, floor, fitted, fitted.floor).first_right


def test_nothing_is_known_of_a_cause_that_is_gone() -> None:
    labelled = example_case("cpu_contention", "catalogue")
    gone = without(labelled.case, labelled.causes)
    assert labelled.causes[0] not in gone.graph.rows
    left = {entity for entity in labelled.case.graph.entities if entity not in gone.graph.rows}
    assert {entity.kind for entity in left} == {"service", "pod"}
    gone.graph.validate()
    assert without(labelled.case, ()).graph.entities == labelled.case.graph.entities
