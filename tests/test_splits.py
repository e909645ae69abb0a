"""No leak between the sides of a fold, whatever the incidents look like."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rca.errors import BadInput, UnknownName
from rca.evaluation.predictions import Truth
from rca.evaluation.splits import SPLITS, Fold, split
from rca.telemetry import EntityId
from tests.cases import example_case

KINDS = ("cpu_contention", "memory_leak", "network_delay")


@st.composite
def truths(draw: st.DrawFn) -> list[Truth]:
    """Two systems, each with at least two services and two fault kinds, any number of repetitions."""
    rows = [(system, name, kind) for system in ("one", "two") for name, kind in (("a-0", KINDS[0]), ("b", KINDS[1]))]
    names = st.sampled_from(("a-0", "a-1", "b", "c", "d"))
    rows += draw(st.lists(st.tuples(st.sampled_from(("one", "two")), names, st.sampled_from(KINDS)), max_size=40))
    times = draw(st.permutations(range(len(rows))))
    return [Truth(f"i{i}", system, (EntityId("service", name),), kind, times[i]) for i, (system, name, kind) in enumerate(rows)]


def check_fold(fold: Fold, all_truths: list[Truth]) -> None:
    sides = [{all_truths[place].group for place in side} for side in (fold.train, fold.validation, fold.test)]
    assert not sides[0] & sides[1]
    assert not (sides[0] | sides[1]) & sides[2]
    assert fold.test


@pytest.mark.parametrize("name", [name for name in SPLITS if name != "forward"])
@given(all_truths=truths(), seed=st.integers(0, 5))
def test_every_incident_is_tested_once_and_no_group_is_on_two_sides(name: str, all_truths: list[Truth], seed: int) -> None:
    found = split(name, all_truths, seed)
    assert Counter(place for fold in found for place in fold.test) == Counter(range(len(all_truths)))
    for fold in found:
        check_fold(fold, all_truths)
    assert split(name, all_truths, seed) == found


@given(all_truths=truths())
def test_forward_never_looks_ahead(all_truths: list[Truth]) -> None:
    found = split("forward", all_truths)
    assert max(Counter(place for fold in found for place in fold.test).values()) == 1
    for fold in found:
        check_fold(fold, all_truths)
        first_tested = min(all_truths[place].start_ns for place in fold.test)
        assert all(all_truths[place].start_ns < first_tested for place in fold.train + fold.validation)


@given(all_truths=truths())
def test_what_is_left_out_is_left_out(all_truths: list[Truth]) -> None:
    keys = {
        "leave-system-out": lambda t: t.system,
        "leave-fault-out": lambda t: (t.system, t.fault_kind),
        "leave-service-out": lambda t: (t.system, t.group[1]),
    }
    for name, key in keys.items():
        for fold in split(name, all_truths):
            seen = {key(all_truths[place]) for place in fold.train + fold.validation}
            assert not seen & {key(all_truths[place]) for place in fold.test}


def test_folds_are_balanced() -> None:
    rows = [Truth(f"{n}{kind}{r}", "s", (EntityId("service", n),), kind) for n in "abcde" for kind in KINDS for r in range(3)]
    sizes = [len(fold.test) for fold in split("folds", rows)]
    assert sizes == [9] * 5
    for fold in split("folds", rows):
        assert Counter(rows[place].fault_kind for place in fold.test) == dict.fromkeys(KINDS, 3)
        assert 0 < len(fold.validation) <= 0.2 * 36


def test_both_instances_of_a_service_stay_on_one_side() -> None:
    rows = [Truth(f"{n}-{i}", "s", (EntityId("service", f"{n}-{i}"),), "cpu") for n in "abcdefg" for i in (0, 1)]
    for fold in split("folds", rows):
        assert len(fold.test) % 2 == 0


def test_training_groups_incidents_as_splits_do() -> None:
    case = example_case("cpu_contention", "catalogue")
    groups = set()
    for name in ("cart-0", "cart-1"):
        causes = (EntityId("service", name),)
        labelled = replace(case, causes=causes)
        groups |= {labelled.group, Truth("i", case.system, causes, case.fault_kind).group}
    assert len(groups) == 1


def test_impossible_splits_say_why() -> None:
    one = [Truth("i", "s", (EntityId("service", "a"),), "cpu")]
    for name in SPLITS:
        with pytest.raises(BadInput, match="expected"):
            split(name, one if name != "zero-shot" else [])
    with pytest.raises(UnknownName, match="did you mean folds"):
        split("fold", one)
