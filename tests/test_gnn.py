"""The network as a ranker: trains on real cases, invents incidents, saves and loads, agrees across engines."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rca.contracts import Case, LabelledCase
from rca.errors import BadCheckpoint, BadInput
from rca.faults import NO_FAULT
from rca.models.augmentation import invented_incidents, labelled_incidents, normal_windows
from rca.models.files import MODEL_FILE
from rca.models.gnn import MlpRanker, NetworkRanker
from rca.models.strength import transfer_strength
from rca.models.training import Epoch, TrainingSet, mixed
from rca.telemetry import EntityId
from tests.cases import CULPRITS, example, example_case, example_cases

QUICK = {"epochs": 3, "width": 16}


@pytest.fixture(scope="module")
def trained() -> NetworkRanker:
    return NetworkRanker(**QUICK, ensemble=2, invented=20).fit(example_cases(), example_cases()[:2])  # type: ignore[arg-type]


def test_labels_become_targets() -> None:
    case = example_case(*CULPRITS[0])
    elsewhere = replace(case, causes=(EntityId("service", "unheard-of"),))
    quiet = replace(case, causes=(), fault_kind=NO_FAULT)
    unlabelled = replace(case, causes=(), fault_kind="unknown")
    made = labelled_incidents([case, elsewhere, quiet, unlabelled])
    assert len(made) == 3
    assert made.is_normal == (False, True, True)
    assert made.families == ("cpu", NO_FAULT, NO_FAULT)
    assert case.case.graph.entities[made.targets[0][0]] == case.causes[0]


def test_quiet_stretches_become_normal_windows() -> None:
    made = normal_windows(example_cases(), 1, seed=0)
    assert len(made) == 4
    assert all(made.is_normal)
    assert len(normal_windows(example_cases(), 9, seed=0)) == sum(len(c.case.quiet) for c in example_cases())


def test_incidents_are_invented_repeatably_and_without_labels() -> None:
    cases = example_cases()
    made = invented_incidents(cases, 30, seed=1)
    assert len(made) == 30
    assert len(set(made.families)) > 3
    blind = [replace(case, causes=(), fault_kind="unknown") for case in cases]
    assert made.digest() == invented_incidents(blind, 30, seed=1).digest()
    assert made.digest() != invented_incidents(cases, 30, seed=2).digest()
    assert len(invented_incidents([], 30, seed=1)) == 0


def test_invented_incidents_count_their_share() -> None:
    labelled, invented = labelled_incidents(example_cases()), invented_incidents(example_cases(), 30, seed=1)
    both, weights = mixed(labelled, invented, 0.25)
    assert len(both) == 34
    assert weights[4:].sum() / weights.sum() == pytest.approx(0.25)
    assert mixed(labelled, TrainingSet.empty(), 0.25)[1].mean() == pytest.approx(1)


def test_training_without_labels_needs_invention() -> None:
    blind = [replace(case, causes=(), fault_kind="unknown") for case in example_cases()]
    with pytest.raises(BadInput, match="labelled cases"):
        NetworkRanker(**QUICK).fit(blind)  # type: ignore[arg-type]
    ranking = NetworkRanker(**QUICK, invented=16).fit(blind).rank(example())  # type: ignore[arg-type]
    assert len(ranking.candidates) == len(example().graph.candidates)


def test_it_learns_its_training_incidents() -> None:
    training = [example_case(kind, culprit, seed) for kind, culprit in CULPRITS for seed in (1, 2)]
    ranker = NetworkRanker(width=16, epochs=40).fit(training)
    hits = [ranker.rank(c.case).rank_of(c.causes[0]) == 1 for c in example_cases()]
    assert sum(hits) >= 3


def test_no_epochs_rank_as_the_floor() -> None:
    case = example()
    ranking = NetworkRanker(epochs=0).fit(example_cases()).rank(case)
    floor = case.graph.column("floor")[case.graph.candidate_rows]
    assert [c.entity for c in ranking.candidates] == [case.graph.candidates[i] for i in np.argsort(-floor, kind="stable")]


def test_saved_and_loaded_it_ranks_the_same(trained: NetworkRanker, tmp_path: Path) -> None:
    trained.save(tmp_path / "model")
    loaded = NetworkRanker.load(tmp_path / "model")
    for case in example_cases():
        assert loaded.rank(case.case).dumps() == trained.rank(case.case).dumps()
    body = json.loads((tmp_path / "model" / MODEL_FILE).read_text())
    assert body["members"] == 2
    assert body["data"]["training"] == trained.data["training"]
    assert len(body["metrics"]["members"]) == 2
    loaded.save(tmp_path / "again")
    assert NetworkRanker.load(tmp_path / "again").rank(example()).dumps() == trained.rank(example()).dumps()


def test_weights_that_do_not_fit_are_refused(trained: NetworkRanker, tmp_path: Path) -> None:
    trained.save(tmp_path)
    path = tmp_path / MODEL_FILE
    body = json.loads(path.read_text())
    path.write_text(json.dumps({**body, "network": {**body["network"], "width": 32}}))
    with pytest.raises(BadCheckpoint, match="weights that fit"):
        NetworkRanker.load(tmp_path)
    path.write_text(json.dumps({**body, "families": ["gremlins"]}))
    with pytest.raises(BadCheckpoint, match="gremlins"):
        NetworkRanker.load(tmp_path)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="dgl has no wheels for this Python")
def test_going_on_keeps_the_scale_of_what_was_known(trained: NetworkRanker, tmp_path: Path) -> None:
    trained.save(tmp_path)
    going = NetworkRanker(start=tmp_path, epochs=0, strength=1.0)
    assert going.learning_rate < NetworkRanker().learning_rate
    loud = [replace(case, case=louder(case.case)) for case in example_cases()]
    going.fit(loud)
    assert going.width == trained.width
    assert len(going._networks) == 2
    before, after = trained._networks[0], going._networks[0]
    seen = (before.get_buffer("node_center") != 0) | (before.get_buffer("node_scale") != 1)
    assert before.get_buffer("node_center")[seen].equal(after.get_buffer("node_center")[seen])
    assert bool((after.get_buffer("known") >= before.get_buffer("known")).all())
    assert float(after.head.weight.sub(before.head.weight).abs().max()) == 0


def test_fine_tuning_starts_nearer_than_fresh_weights(tmp_path: Path) -> None:
    cases = example_cases()
    first = NetworkRanker(width=16, epochs=30, strength=1.0).fit(cases)
    first.save(tmp_path)
    going = NetworkRanker(start=tmp_path, epochs=2, strength=1.0).fit(cases)
    fresh = NetworkRanker(width=16, epochs=2, strength=1.0).fit(cases)
    assert going.histories[0].epochs[0].loss < fresh.histories[0].epochs[0].loss


def test_a_model_for_other_systems_is_judged_by_what_its_start_did_not_learn_here(tmp_path: Path) -> None:
    cases = example_cases()
    NetworkRanker(width=16, epochs=10, strength=1.0).fit(cases[:2]).save(tmp_path)
    before = NetworkRanker.load(tmp_path)
    ranks = before._reciprocal_ranks(labelled_incidents(cases).tensors())

    def judge(*_: object) -> np.ndarray:
        raise AssertionError("there is one system")

    going = [NetworkRanker(start=tmp_path, epochs=epochs, transfer=True).fit(cases[:3], cases[3:]) for epochs in (0, 3)]
    assert going[0].earned == going[1].earned == transfer_strength(cases, judge, seed=0, before=lambda _: ranks)
    assert going[0].temperature == going[1].temperature != 1.0
    assert going[0].digest() != going[1].digest()


def louder(case: Case) -> Case:
    return replace(case, graph=replace(case.graph, features=case.graph.features * 2))


def test_both_engines_give_the_same_ranking(trained: NetworkRanker, tmp_path: Path) -> None:
    trained.save(tmp_path)
    other = NetworkRanker.load(tmp_path, engine="dgl")
    for case in example_cases():
        assert other.rank(case.case).dumps() == trained.rank(case.case).dumps()


def with_features(case: Case, names: tuple[str, ...]) -> Case:
    return replace(case, graph=replace(case.graph, feature_names=names))


def test_other_features_are_refused_by_name(trained: NetworkRanker) -> None:
    names = example().graph.feature_names
    with pytest.raises(BadCheckpoint, match=r"ranker gnn: features: expected .* at position 3, found 'gremlins.z'"):
        trained.rank(with_features(example(), (*names[:3], "gremlins.z", *names[4:])))


def test_it_knows_when_nothing_is_wrong() -> None:
    cases: list[LabelledCase] = example_cases()
    ranker = NetworkRanker(width=16, epochs=10, normals=2).fit(cases)
    quiet = normal_windows(cases, 1, seed=5)
    doubts = [ranker.rank(replace(cases[i].case, graph=graph)).no_fault for i, graph in enumerate(quiet.graphs)]
    alarms = [ranker.rank(case.case).no_fault for case in cases]
    assert max(alarms) < 0.2
    assert min(doubts) > 0.5


def test_an_interrupted_ensemble_goes_on(tmp_path: Path) -> None:
    cases = example_cases()

    def interrupt(member: int, epoch: Epoch) -> None:
        if (member, epoch.number) == (1, 2):
            raise KeyboardInterrupt

    options = {**QUICK, "ensemble": 2}
    with pytest.raises(KeyboardInterrupt):
        NetworkRanker(**options).train(cases, state_folder=tmp_path, progress=interrupt)  # type: ignore[arg-type]
    resumed = NetworkRanker(**options).train(cases, state_folder=tmp_path)  # type: ignore[arg-type]
    assert resumed.rank(example()).dumps() == NetworkRanker(**options).fit(cases).rank(example()).dumps()  # type: ignore[arg-type]


def test_ablations_differ(tmp_path: Path) -> None:
    mlp = MlpRanker(**QUICK).fit(example_cases())  # type: ignore[arg-type]
    mlp.save(tmp_path)
    assert NetworkRanker.load(tmp_path).rank(example()).dumps() == mlp.rank(example()).dumps()
    assert mlp.rank(example()).ranker == "mlp"
    assert not mlp._networks[0].edge_encoders
