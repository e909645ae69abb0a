"""Every metric against numbers worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rca.evaluation import metrics
from rca.evaluation.predictions import Prediction, Predictions, Truth
from rca.telemetry import EntityId


def service(name: str) -> EntityId:
    return EntityId("service", name)


def answer(
    scores: dict[str, float],
    *causes: str,
    p: tuple[float, ...] | None = None,
    no_fault: float = 0.0,
    incident: str = "i",
    kind: str = "cpu",
) -> Prediction:
    order = sorted(scores, key=lambda name: -scores[name])
    return Prediction(
        Truth(incident, "shop", tuple(service(c) for c in causes), kind),
        tuple(service(name) for name in order),
        tuple(scores[name] for name in order),
        p or tuple(1 / len(order) for _ in order),
        no_fault,
    )


FIRST = answer({"a": 3, "b": 2, "c": 1, "d": 0}, "a")
THIRD = answer({"a": 3, "b": 2, "c": 1, "d": 0}, "c")
TIED = answer({"a": 1, "b": 1, "c": 0, "d": 0}, "a")
ABSENT = answer({"a": 3, "b": 2, "c": 1, "d": 0}, "z")


def test_rank_counts_ties_against_the_ranker() -> None:
    assert [p.cause_rank for p in (FIRST, THIRD, TIED, ABSENT)] == [1, 3, 2, None]
    assert answer({"a": 0, "b": 0, "c": 0}, "b").cause_rank == 3


def test_several_causes_the_best_one_counts_and_they_do_not_tie_with_each_other() -> None:
    assert answer({"a": 3, "b": 2, "c": 1}, "c", "b").cause_rank == 2
    assert answer({"a": 3, "b": 3, "c": 1}, "a", "b").cause_rank == 1
    assert answer({"a": 3, "b": 3, "c": 3}, "a", "b").cause_rank == 2


def test_a_failure_is_a_miss() -> None:
    failed = Prediction.failed(FIRST.truth, "boom")
    assert failed.cause_rank is None
    assert metrics.accuracy("ac5", [failed, FIRST]).value == 0.5


@pytest.mark.parametrize(
    ("metric", "expected"),
    [("ac1", 0.25), ("ac3", 0.75), ("ac5", 0.75), ("avg5", (1 + 0.6 + 0.8 + 0) / 4), ("mrr", (1 + 1 / 3 + 1 / 2 + 0) / 4)],
)
def test_accuracy(metric: str, expected: float) -> None:
    assert metrics.accuracy(metric, [FIRST, THIRD, TIED, ABSENT]).value == pytest.approx(expected)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [("ac1", 1 / 4), ("ac3", 3 / 4), ("ac5", 1.0), ("mrr", (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4), ("avg5", 0.7)],
)
def test_chance_with_one_cause_of_four(metric: str, expected: float) -> None:
    assert metrics.chance(metric, [FIRST]) == pytest.approx(expected)


def test_chance_with_two_causes_of_four_and_with_none() -> None:
    two = answer({"a": 3, "b": 2, "c": 1, "d": 0}, "a", "b")
    assert metrics.chance("ac1", [two]) == pytest.approx(0.5)
    assert metrics.chance("ac3", [two]) == pytest.approx(1.0)
    # first of two among four: position 1 in 3 of 6 pairs, position 2 in 2, position 3 in 1
    assert metrics.chance("mrr", [two]) == pytest.approx(3 / 6 + 2 / 6 / 2 + 1 / 6 / 3)
    assert metrics.chance("mrr", [ABSENT]) == 0.0


@given(st.integers(1, 30), st.integers(1, 5))
def test_chance_is_what_shuffling_gives(total: int, right: int) -> None:
    right = min(total, right)
    names = [f"s{i}" for i in range(total)]
    p = answer(dict.fromkeys(names, 0.0), *names[:right])
    values = [metrics.chance(m, [p]) for m in ("ac1", "ac3", "ac5")]
    assert values == sorted(values)
    assert values[0] == pytest.approx(right / total)
    assert values[0] <= metrics.chance("mrr", [p]) <= 1 + 1e-12


def test_interval_draws_whole_clusters() -> None:
    # two clusters, one all right and one all wrong: a draw of two is 0, 1/2 or 1 with chance 1/4, 1/2, 1/4
    right = [answer({"a": 2, "b": 1}, "a", incident=f"r{i}", kind="cpu") for i in range(50)]
    wrong = [answer({"a": 2, "b": 1}, "b", incident=f"w{i}", kind="memory") for i in range(50)]
    found = metrics.accuracy("ac1", right + wrong)
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)
    assert metrics.accuracy("ac1", right + wrong) == found
    assert metrics.accuracy("ac1", right) == metrics.Estimate(1.0, None, None)


def test_interval_narrows_with_many_clusters() -> None:
    many = [answer({"a": 2, "b": 1}, "ab"[i % 2], incident=str(i), kind=str(i)) for i in range(400)]
    found = metrics.accuracy("ac1", many)
    assert found.low is not None
    assert found.high is not None
    # binomial standard error is 0.025
    assert found.low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.01)
    assert found.high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.01)


def test_nothing_but_hits_is_no_certainty() -> None:
    hits = [answer({"a": 2, "b": 1}, "a", incident=str(i), kind=str(i)) for i in range(24)]
    found = metrics.accuracy("ac1", hits)
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.858, abs=0.001)  # Clopper-Pearson, 24 of 24
    misses = [answer({"a": 2, "b": 1}, "b", incident=str(i), kind=str(i)) for i in range(24)]
    assert metrics.accuracy("ac1", misses) == metrics.Estimate(0.0, 0.0, pytest.approx(1 - 0.858, abs=0.001))


def test_paired_difference_matches_incidents_and_ignores_the_rest() -> None:
    ours = [answer({"a": 2, "b": 1}, "a", incident=str(i), kind=str(i)) for i in range(4)]
    theirs = [answer({"a": 2, "b": 1}, "ab"[i % 2], incident=str(i), kind=str(i)) for i in reversed(range(5))]
    found = metrics.paired_difference("ac1", ours, theirs)
    assert found.value == 0.5
    assert found.low is not None
    assert found.low >= 0
    assert metrics.paired_difference("ac1", ours, ours) == metrics.Estimate(0.0, 0.0, 0.0)


def test_calibration() -> None:
    sure = answer({"a": 2, "b": 1}, "a", p=(0.9, 0.1))
    sure_and_wrong = answer({"a": 2, "b": 1}, "b", p=(0.9, 0.1))
    torn = answer({"a": 2, "b": 1}, "a", p=(0.55, 0.45))
    # bin 0.9: mean right 1/2, confidence 0.9, two of three; bin 0.55: right 1, confidence 0.55, one of three
    assert metrics.calibration_error([sure, sure_and_wrong, torn]) == pytest.approx((2 * 0.4 + 0.45) / 3)
    assert metrics.brier([sure, sure_and_wrong, torn]) == pytest.approx((0.1**2 + 0.9**2 + 0.45**2) / 3)


def test_sets_hold_the_wanted_mass() -> None:
    p = answer({"a": 3, "b": 2, "c": 1}, "b", p=(0.5, 0.3, 0.1), no_fault=0.1)
    assert metrics.set_coverage([p], 0.9) == (1.0, 2.0)
    assert metrics.set_coverage([p], 0.6) == (0.0, 1.0)
    assert metrics.set_coverage([p], 0.95) == (1.0, 3.0)
    elsewhere = answer({"a": 3, "b": 2, "c": 1}, "b", p=(0.5, 0.1, 0.05), no_fault=0.05)  # the rest: a cause outside the graph
    assert metrics.set_coverage([elsewhere], 0.9) == (1.0, 2.0)


def test_abstaining_keeps_the_confident_ones() -> None:
    sure = answer({"a": 2, "b": 1}, "a", p=(0.9, 0.1))
    torn = answer({"a": 2, "b": 1}, "b", p=(0.55, 0.45))
    assert metrics.selective_accuracy([torn, sure], (0.5, 1.0)) == {0.5: 1.0, 1.0: 0.5}
    # equal confidence: no order earns anything
    assert metrics.selective_accuracy([torn, answer({"a": 2, "b": 1}, "a", p=(0.55, 0.45))], (0.5,)) == {0.5: 0.5}


def test_false_alarms() -> None:
    invented = answer({"a": 2, "b": 1}, p=(0.6, 0.1), no_fault=0.3)
    calm = answer({"a": 0, "b": -1}, p=(0.2, 0.1), no_fault=0.7)
    assert metrics.false_alarm_rate([invented, calm]) == 0.5
    assert metrics.false_alarm_rate([invented, calm], threshold=0.6) == 0.0


def test_instances_roll_up_to_services() -> None:
    p = answer({"cart-0": 3, "user-1": 2, "cart-1": 1, "user-0": 0}, "user-0", p=(0.4, 0.3, 0.2, 0.1)).per_service()
    assert p.candidates == (service("cart"), service("user"))
    assert p.scores == (3, 2)
    assert p.probabilities == pytest.approx((0.6, 0.4))
    assert p.truth.causes == (service("user"),)
    assert p.cause_rank == 2


def test_predictions_survive_the_file(tmp_path) -> None:
    run = Predictions(
        "shop", "folds", "random", (FIRST, TIED, ABSENT, Prediction.failed(THIRD.truth, "boom: bad"), answer({"a": 1 / 3}, "a"))
    )
    path = tmp_path / "deep" / "random.jsonl"
    run.write(path)
    back = Predictions.read(path)
    assert [p.cause_rank for p in back.predictions] == [p.cause_rank for p in run.predictions]
    assert back.predictions[:4] == run.predictions[:4]
    assert back.predictions[4].scores == (0.333333,)
    back.write(path.with_name("again.jsonl"))
    assert path.read_text() == path.with_name("again.jsonl").read_text()


@pytest.mark.parametrize("text", ["", "{}", "not json", '{"version":"99"}', "[]"])
def test_a_file_of_something_else_is_refused(tmp_path, text: str) -> None:
    from rca.errors import BadInput

    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(BadInput, match=r"x\.jsonl"):
        Predictions.read(path)
