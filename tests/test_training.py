"""Training: learns what only edges tell, repeats itself, survives interruption, and stops when numbers end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rca.errors import BadCheckpoint, BadGraph, BadInput, TrainingDiverged
from rca.models.engines import engine_of
from rca.models.network import Network, NetworkConfig, Output
from rca.models.training import (
    Epoch,
    Trainer,
    TrainingConfig,
    TrainingSet,
    balanced,
    calibrated_temperature,
    listwise_loss,
)
from rca.tensors import GraphTensors, batch
from tests.graphs import random_graph

SERVICES = 8
SMALL = NetworkConfig(width=16)
SHORT = TrainingConfig(epochs=4, batch_graphs=16, device="cpu")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def incidents(count: int, seed: int, normal: int = 0) -> TrainingSet:
    """Incidents whose callers are louder than the culprit, and some windows in which nothing is wrong."""
    rng = np.random.default_rng(seed)
    culprits = [int(rng.integers(SERVICES)) for _ in range(count)] + [None] * normal
    graphs = tuple(random_graph(rng, SERVICES, culprit=culprit) for culprit in culprits)
    families = tuple("no_fault" if c is None else ("cpu", "network")[c % 2] for c in culprits)
    targets = tuple(() if c is None else (c,) for c in culprits)
    return TrainingSet(
        graphs, targets, families, (1.0,) * len(graphs), ("shop",) * len(graphs), tuple(c is None for c in culprits)
    )


def top1(network: Network, tensors: GraphTensors) -> float:
    with torch.no_grad():
        score = network(tensors, engine_of("torch")).score.view(-1, SERVICES)
    return float((score.argmax(1) == tensors.target.view(-1, SERVICES).int().argmax(1)).float().mean())


def fresh(tensors: GraphTensors, config: NetworkConfig = SMALL) -> Network:
    return Network(tensors.schema, config, seed=0).eval()


def test_edges_let_the_network_find_what_the_floor_misses() -> None:
    training, validation, test = (incidents(n, seed).tensors() for n, seed in ((150, 1), (40, 2), (150, 3)))
    accuracy = {}
    for edges in ("real", "none"):
        network = fresh(training, replace(SMALL, edges=edges))  # type: ignore[arg-type]
        accuracy["floor"] = top1(network, test)
        history = Trainer(network, training, validation, TrainingConfig(epochs=25, batch_graphs=32, device="cpu")).run()
        accuracy[edges] = top1(network, test)
        assert history.epochs[-1].validation_loss is not None
        assert len(history.epochs[-1].similarity) == 3
    assert accuracy["real"] > accuracy["none"] + 0.2
    assert accuracy["real"] > accuracy["floor"] + 0.3


def test_normal_windows_teach_the_null() -> None:
    training = incidents(60, 4, normal=60).tensors()
    network = fresh(training)
    Trainer(network, training, None, TrainingConfig(epochs=15, batch_graphs=32, device="cpu")).run()
    test = incidents(30, 5, normal=30).tensors()
    with torch.no_grad():
        output = network(test, engine_of("torch"))
    best = output.score.view(-1, SERVICES).max(1).values
    quiet = output.null - best
    assert float(quiet[30:].mean()) > float(quiet[:30].mean())


def test_the_same_seed_gives_the_same_weights() -> None:
    training, validation = incidents(40, 1).tensors(), incidents(20, 2).tensors()
    networks = [fresh(training), fresh(training)]
    histories = [Trainer(network, training, validation, SHORT).run() for network in networks]
    assert histories[0].epochs == histories[1].epochs
    for one, two in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert torch.equal(one, two)
    other = fresh(training)
    Trainer(other, training, validation, replace(SHORT, seed=1)).run()
    assert not torch.equal(other.head.weight, networks[0].head.weight)


@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
def test_an_interrupted_training_ends_like_an_uninterrupted_one(tmp_path: Path, schedule: str) -> None:
    training, validation = incidents(40, 1).tensors(), incidents(20, 2).tensors()
    config = replace(SHORT, epochs=5, schedule=schedule)  # type: ignore[arg-type]
    whole = fresh(training)
    expected = Trainer(whole, training, validation, config).run()

    def interrupt(epoch: Epoch) -> None:
        if epoch.number == 2:
            raise KeyboardInterrupt

    state = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        Trainer(fresh(training), training, validation, config, state_path=state, progress=interrupt).run()
    resumed = fresh(training)
    history = Trainer(resumed, training, validation, config, state_path=state).run()
    assert history.epochs == expected.epochs
    assert history.best == expected.best
    for one, two in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_state_of_another_run_is_refused(tmp_path: Path) -> None:
    training = incidents(10, 1).tensors()
    state = tmp_path / "state.safetensors"
    Trainer(fresh(training), training, None, SHORT, state_path=state).run()
    with pytest.raises(BadCheckpoint, match="another one"):
        Trainer(fresh(training), training, None, replace(SHORT, seed=9), state_path=state).run()
    with pytest.raises(BadCheckpoint, match="another one"):
        Trainer(fresh(training), incidents(10, 2).tensors(), None, SHORT, state_path=state).run()
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(BadCheckpoint, match="delete it to start afresh"):
        Trainer(fresh(training), training, None, SHORT, state_path=state).run()


def test_early_stopping_keeps_the_best_weights() -> None:
    training, validation = incidents(12, 1).tensors(), incidents(20, 2).tensors()
    network = fresh(training)
    history = Trainer(
        network, training, validation, TrainingConfig(epochs=60, patience=3, device="cpu", schedule="plateau")
    ).run()
    losses = [epoch.validation_loss for epoch in history.epochs]
    assert len(losses) < 60
    assert history.best == int(np.argmin(losses)) + 1  # type: ignore[arg-type]
    assert history.epochs[-1].number - history.best == 4


def test_no_epochs_leave_the_floor() -> None:
    training = incidents(10, 1).tensors()
    network = fresh(training)
    before = network(training, engine_of("torch")).score
    Trainer(network, training, None, replace(SHORT, epochs=0)).run()
    torch.testing.assert_close(network(training, engine_of("torch")).score, before)


def test_numbers_that_end_stop_the_training() -> None:
    training = incidents(100, 1).tensors()
    network = fresh(training)
    trainer = Trainer(network, training, None, SHORT)
    with torch.no_grad():
        network.head.weight.fill_(torch.nan)
    with pytest.raises(TrainingDiverged, match="5 steps in a row"):
        trainer.run()


def test_a_single_bad_step_is_left_out() -> None:
    training = incidents(40, 1).tensors()
    network = fresh(training)
    trainer = Trainer(network, training, None, replace(SHORT, epochs=1))
    trainer.training.tensors.weight[3] = torch.nan
    history = trainer.run()
    assert history.epochs[0].skipped_steps == 1
    assert all(bool(p.isfinite().all()) for p in network.parameters())


def hand_made(scores: list[float], null: list[float]) -> Output:
    return Output(torch.tensor(scores), torch.tensor(null), torch.zeros(len(scores), 8))


def test_the_listwise_loss_by_hand() -> None:
    rng = np.random.default_rng(0)
    graphs = [random_graph(rng, 3), random_graph(rng, 2)]
    tensors = batch(graphs, targets=[[0, 2], []], is_normal=[False, True])
    scores, null = [1.0, 0.5, -1.0, 2.0, 0.0], [0.3, -0.2]
    loss = listwise_loss(hand_made(scores, null), tensors, engine_of("torch"))
    first = -np.log((np.exp(1.0) + np.exp(-1.0)) / np.exp([1.0, 0.5, -1.0, 0.3]).sum())
    second = -np.log(np.exp(-0.2) / np.exp([2.0, 0.0, -0.2]).sum())
    np.testing.assert_allclose(loss.numpy(), [first, second], rtol=1e-6)


def test_balance() -> None:
    base = incidents(6, 1)
    families = ("cpu", "cpu", "cpu", "network", "cpu", "cpu")
    systems = ("a", "a", "a", "a", "b", "b")
    weights = balanced(replace(base, families=families, systems=systems))
    assert weights.mean() == pytest.approx(1)
    assert weights[:3].sum() == pytest.approx(weights[3])  # families of a system count the same
    assert weights[:4].sum() / weights[4:].sum() == pytest.approx(np.sqrt(4) / np.sqrt(2))  # systems by the root of their size


def test_sets_add_up_and_contradictions_are_refused() -> None:
    one = incidents(3, 1)
    assert len(one + incidents(2, 2, normal=1)) == 6
    assert one.digest() == incidents(3, 1).digest() != incidents(3, 2).digest()
    with pytest.raises(BadGraph, match="one per graph"):
        replace(one, weights=(1.0,))
    with pytest.raises(BadGraph, match="a target, or is_normal"):
        replace(one, targets=((), (1,), (2,)))
    with pytest.raises(BadInput, match="cosine or plateau"):
        TrainingConfig(schedule="steps")  # type: ignore[arg-type]


def test_temperature() -> None:
    rng = np.random.default_rng(0)
    scores, answers = [], []
    for _ in range(400):
        logits = rng.normal(0, 2, 6)
        drawn = rng.choice(6, p=np.exp(logits) / np.exp(logits).sum())
        scores.append(logits * 3)  # three times too sure
        answers.append(np.arange(6) == drawn)
    assert calibrated_temperature(scores, answers) == pytest.approx(3, rel=0.2)
    assert calibrated_temperature([], []) == 1
