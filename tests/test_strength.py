"""The correction's strength: earned on what was held out, modest where nothing could be judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from rca.contracts import LabelledCase
from rca.models.strength import STRENGTHS, UNJUDGED, best_strength, earned_strength, invented_strength, transfer_strength
from rca.models.training import TrainingSet
from tests.cases import example
from tests.graphs import random_graph


def cases() -> list[LabelledCase]:
    kinds = ["cpu_contention", "exception"] * 4
    causes = example().graph.candidates
    return [LabelledCase(example(), f"incident-{i}", "shop", (causes[i % 3],), kind) for i, kind in enumerate(kinds)]


def curve(*values: float) -> npt.NDArray[np.float64]:
    return np.array(values)


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [(curve(0.5, 0.6, 0.7, 0.8, 0.9), 1.0), (curve(0.9, 0.8, 0.7, 0.6, 0.5), 0.0), (curve(0.5, 0.7, 0.7, 0.7, 0.6), 0.25)],
)
def test_the_best_strength_wins_and_the_smaller_of_equals(ranks: npt.NDArray[np.float64], expected: float) -> None:
    assert earned_strength(cases(), lambda _, held: np.tile(ranks, (len(held), 1)), seed=0) == expected


def test_every_case_is_held_out_once_per_way_and_never_trained_on_then() -> None:
    seen: list[str] = []

    def judge(training: list[LabelledCase], held: list[LabelledCase]) -> npt.NDArray[np.float64]:
        assert not {id(case) for case in training} & {id(case) for case in held}
        assert len(training) + len(held) == len(everything)
        seen.extend(case.incident_id for case in held)
        return np.ones((len(held), len(STRENGTHS)))

    everything = cases()
    earned_strength(everything, judge, seed=0)
    ways = 2  # groups and fault kinds; there is one system
    assert sorted(seen) == sorted([case.incident_id for case in everything] * ways)


def test_fault_kinds_are_held_out_whole() -> None:
    kinds_apart = []

    def judge(training: list[LabelledCase], held: list[LabelledCase]) -> npt.NDArray[np.float64]:
        kinds_apart.append(not {c.fault_kind for c in training} & {c.fault_kind for c in held})
        return np.ones((len(held), len(STRENGTHS)))

    earned_strength(cases(), judge, seed=0)
    assert any(kinds_apart)


def test_one_incident_cannot_judge() -> None:
    assert earned_strength(cases()[:1], lambda _, held: np.ones((len(held), len(STRENGTHS))), seed=0) == UNJUDGED


def test_the_model_to_go_on_from_stands_in_for_held_out_systems_where_there_is_one() -> None:
    def own(_: list[LabelledCase], held: list[LabelledCase]) -> npt.NDArray[np.float64]:
        return np.tile(curve(0.5, 0.52, 0.54, 0.56, 0.58), (len(held), 1))

    def elsewhere(held: list[LabelledCase]) -> npt.NDArray[np.float64]:
        return np.tile(curve(0.6, 0.8, 0.5, 0.4, 0.3), (len(held), 1))

    assert earned_strength(cases(), own, seed=0) == 1.0
    assert earned_strength(cases(), own, seed=0, before=elsewhere) == 0.25
    two = [replace(case, system=f"shop-{i % 2}") for i, case in enumerate(cases())]
    assert earned_strength(two, own, seed=0, before=elsewhere) == 1.0, "systems can be held out themselves"
    assert earned_strength(cases()[:1], own, seed=0, before=elsewhere, unjudged=0.75) == 0.75


def test_a_model_for_unseen_systems_is_judged_on_held_out_systems_alone() -> None:
    def elsewhere(held: list[LabelledCase]) -> npt.NDArray[np.float64]:
        return np.tile(curve(0.5, 0.7, 0.9, 0.8, 0.8), (len(held), 1))

    def own(_: list[LabelledCase], held: list[LabelledCase]) -> npt.NDArray[np.float64]:
        return np.tile(curve(0.5, 0.6, 0.7, 0.8, 0.9), (len(held), 1))

    assert transfer_strength(cases(), lambda *_: pytest.fail("not asked"), seed=0, before=elsewhere) == 0.5
    two = [replace(case, system=f"shop-{i % 2}") for i, case in enumerate(cases())]
    assert transfer_strength(two, own, seed=0, before=elsewhere) == 1.0
    assert transfer_strength(cases(), own, seed=0) == UNJUDGED, "one system, and nothing to go on from"
    assert transfer_strength([], own, seed=0, before=elsewhere) == UNJUDGED


def test_a_gain_within_its_standard_error_does_not_make_the_correction_stronger() -> None:
    def noisy(held: list[LabelledCase]) -> npt.NDArray[np.float64]:
        ranks = np.tile(curve(0.2, 0.5, 0.5, 0.5, 0.5), (len(held), 1))
        ranks[:, 4] += np.resize([0.5, -0.4], len(held))  # better by 0.05 on the mean, by chance
        return ranks

    assert best_strength(noisy(cases())) == 1.0
    assert transfer_strength(cases(), lambda *_: pytest.fail("not asked"), seed=0, before=noisy) == 0.25


def test_of_all_views_the_smallest_strength_counts() -> None:
    def views(seen: Sequence[LabelledCase]) -> list[list[LabelledCase]]:
        poorer = [replace(case, incident_id=f"{case.incident_id}, alerts alone") for case in seen]
        return [list(seen), poorer[1:], []]

    def told(held: list[LabelledCase]) -> npt.NDArray[np.float64]:
        rising, falling = curve(0.5, 0.6, 0.7, 0.8, 0.9), curve(0.5, 0.9, 0.8, 0.7, 0.6)
        return np.stack([falling if case.incident_id.endswith("alone") else rising for case in held])

    assert transfer_strength(cases(), lambda *_: pytest.fail("not asked"), seed=0, before=told) == 1.0
    assert transfer_strength(cases(), lambda *_: pytest.fail("not asked"), seed=0, before=told, views=views) == 0.25
    two = [replace(case, system=f"shop-{i % 2}") for i, case in enumerate(cases())]
    trained: list[set[str]] = []

    def judge(training: list[LabelledCase], held: list[LabelledCase]) -> npt.NDArray[np.float64]:
        trained.append({case.system for case in training})
        assert not trained[-1] & {case.system for case in held}
        assert not any(case.incident_id.endswith("alone") for case in training)
        return told(held)

    assert transfer_strength(two, judge, seed=0, views=views) == 0.25
    assert len(trained) == 2


def test_repetitions_of_an_injection_count_as_one_and_a_single_injection_earns_half_at_most() -> None:
    def told(held: list[LabelledCase]) -> npt.NDArray[np.float64]:
        best = [case.fault_kind == "exception" for case in held]
        return np.where(np.array(best)[:, None], curve(0.1, 0.1, 0.1, 0.1, 0.9), curve(0.5, 0.5, 0.5, 0.5, 0.4))

    one_injection = replace(cases()[1], system="shop")
    assert transfer_strength([one_injection] * 20, lambda *_: pytest.fail("not asked"), seed=0, before=told) == UNJUDGED
    again = [one_injection] * 20 + cases()[:1]
    assert transfer_strength(again, lambda *_: pytest.fail("not asked"), seed=0, before=told) == 0.0, "one of two got worse"


def invented_set() -> TrainingSet:
    rng = np.random.default_rng(0)
    families = ("cpu", "memory", "disk", "network", "errors", "latency") * 2
    graphs = tuple(random_graph(rng, 4) for _ in families)
    return TrainingSet(graphs, ((0,),) * 12, families, (1.0,) * 12, ("a",) * 12, (False,) * 12)


def test_without_labels_families_are_held_out_and_the_correction_counts_half_at_most() -> None:
    held_families: list[str] = []

    def judge(training: TrainingSet, held: TrainingSet) -> npt.NDArray[np.float64]:
        assert not set(training.families) & set(held.families)
        assert len(training) + len(held) == 12
        held_families.extend(held.families)
        return np.tile(np.array(STRENGTHS), (len(held), 1))

    assert invented_strength(invented_set(), judge, 0) == UNJUDGED
    assert sorted(held_families) == sorted(invented_set().families)
    assert invented_strength(invented_set(), lambda _, held: -np.tile(np.array(STRENGTHS), (len(held), 1)), 0) == 0
    assert invented_strength(invented_set().subset([0]), judge, 0) == UNJUDGED
