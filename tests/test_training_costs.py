"""What training costs and how it may be made cheaper: fewer bits, compiled code, several networks at once, and what is logged."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.training import Apart, write
from rca.errors import BadInput, TrainingDiverged, Unavailable, UnknownName
from rca.models import compiling
from rca.models.apart import learn_apart
from rca.models.checkpoint import read_graphs, write_graphs
from rca.models.compiling import COMPILED, compile_relations, leave_uncompiled
from rca.models.engines import engine_of
from rca.models.gnn import NetworkRanker
from rca.models.network import Relation
from rca.models.resident import Resident
from rca.models.training import Epoch, Trainer, TrainingConfig, family_loss, is_halved, listwise_loss
from rca.models.usage import Meter, device_name, gpu_utilisation
from tests.test_resident import graphs, small
from tests.test_tensors import assert_equal
from tests.test_training import SERVICES, SHORT, fresh, incidents, top1

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def loss_and_gradient(product: torch.dtype | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    tensors, engine = incidents(60, 1).tensors(), engine_of("torch")
    network = small(tensors, dropout=0.0).train()
    network.fit_inputs(tensors)
    network.learn_in(product)
    output = network(tensors, engine)
    loss = listwise_loss(output, tensors, engine).mean() + family_loss(output, tensors)
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
    return output.score.detach(), loss.detach(), gradient


def test_products_in_16_bits_stay_close() -> None:
    exact, halved = loss_and_gradient(None), loss_and_gradient(torch.bfloat16)
    assert all(part.dtype == torch.float32 for part in halved)
    assert not torch.equal(exact[0], halved[0])
    torch.testing.assert_close(halved[0], exact[0], atol=0.1, rtol=0.02)
    first = [score.view(-1, SERVICES).argmax(1) for score in (exact[0], halved[0])]
    assert float((first[0] == first[1]).float().mean()) > 0.95
    torch.testing.assert_close(halved[1], exact[1], atol=0.01, rtol=0.01)
    assert float(torch.cosine_similarity(halved[2], exact[2], dim=0)) > 0.995


def test_training_in_16_bits_learns_as_well_and_ranks_exactly() -> None:
    training, validation, test = (incidents(n, seed).tensors() for n, seed in ((120, 1), (40, 2), (150, 3)))
    accuracy, losses = [], []
    for precision in ("float32", "bfloat16"):
        network = fresh(training)
        config = TrainingConfig(epochs=15, batch_graphs=32, device="cpu", precision=precision)  # type: ignore[arg-type]
        history = Trainer(network, training, validation, config).run()
        accuracy.append(top1(network, test))
        losses.append(min(epoch.validation_loss or 0 for epoch in history.epochs))
    assert accuracy[1] > accuracy[0] - 0.1
    assert losses[1] == pytest.approx(losses[0], abs=0.15)
    score = network(test, engine_of("torch")).score  # of the one trained in 16 bits, which no longer computes in them
    network.learn_in(None)
    assert torch.equal(network(test, engine_of("torch")).score, score)


def test_only_a_gpu_takes_fewer_bits_unasked() -> None:
    assert not is_halved("auto", CPU)
    assert is_halved("bfloat16", CPU)
    assert not is_halved("float32", torch.device("cuda"))
    with pytest.raises(BadInput, match="precision: expected auto or float32 or bfloat16, found 'half'"):
        TrainingConfig(precision="half")  # type: ignore[arg-type]


def relations_compiled(network: torch.nn.Module) -> set[bool]:
    return {module._compiled_call_impl is not None for module in network.modules() if isinstance(module, Relation)}


def test_a_compiled_network_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    # The tracing half of torch.compile alone: code generation takes half a minute and has tests of its own.
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    tensors, engine = graphs(), engine_of("torch")
    network = small(tensors, dropout=0.0)
    state = torch.random.get_rng_state()
    plain = network.eval()(tensors, engine).score
    assert compile_relations(network, engine, tensors) == COMPILED
    assert relations_compiled(network) == {True}
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.testing.assert_close(network.eval()(tensors, engine).score, plain, atol=1e-5, rtol=1e-5)
    leave_uncompiled(network)
    assert relations_compiled(network) == {False}


def test_without_a_compiler_training_goes_on_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no C++ compiler was found\nsecond line")

    monkeypatch.setattr(compiling, "BACKEND", broken)
    training = incidents(20, 1).tensors()
    networks = [fresh(training), fresh(training)]
    plain = Trainer(networks[0], training, None, SHORT).run()
    history = Trainer(networks[1], training, None, replace(SHORT, compiled=True)).run()
    assert history.compiled == "not compiled: no C++ compiler was found"
    assert plain.compiled == ""
    assert history.epochs == plain.epochs
    for one, two in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_compiler_that_fails_without_a_word_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: Any) -> Any:
        raise RuntimeError

    monkeypatch.setattr(compiling, "BACKEND", silent)
    tensors = graphs()
    assert compile_relations(small(tensors), engine_of("torch"), tensors) == "not compiled: RuntimeError"


def test_a_training_logs_what_it_cost() -> None:
    training = incidents(40, 1).tensors()
    seen: list[Epoch] = []
    history = Trainer(fresh(training), training, None, SHORT, progress=seen.append).run()
    assert [epoch.usage for epoch in seen] == history.usages
    assert len(history.usages) == 4
    for usage in history.usages:
        assert usage.graphs == 40
        assert usage.graphs_per_second == pytest.approx(40 / usage.seconds)
        assert usage.memory_bytes > 2**20
        assert usage.utilisation is not None
        assert 0 < usage.utilisation <= 1
    assert history.seconds == pytest.approx(sum(usage.seconds for usage in history.usages))
    assert history.device == device_name(CPU)
    assert history.device


def test_a_meter_without_a_driver_to_ask_says_that_it_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    assert gpu_utilisation(torch.device("cuda")) is None
    meter = Meter(CPU)
    meter.start()
    meter.tick()
    assert meter.stop(0).graphs_per_second == 0


def test_graphs_come_back_from_a_file(tmp_path: Path) -> None:
    tensors = graphs().compact()
    write_graphs(tmp_path / "graphs.safetensors", tensors)
    assert_equal(read_graphs(tmp_path / "graphs.safetensors", tensors.schema), tensors)


def ranker(workers: int, **options: Any) -> NetworkRanker:
    return NetworkRanker(width=8, heads=2, epochs=2, batch_graphs=16, ensemble=2, seed=5, workers=workers, **options)


def test_networks_that_learn_at_once_end_as_those_that_learn_one_by_one(tmp_path: Path) -> None:
    training, validation = incidents(30, 1).tensors(), incidents(10, 2).tensors()
    told: list[tuple[int, int]] = []
    one_by_one = ranker(1).pretrain(training, validation, {})
    at_once = ranker(2).pretrain(
        training, validation, {}, state_folder=tmp_path, progress=lambda member, epoch: told.append((member, epoch.number))
    )
    assert at_once.digest() == one_by_one.digest()
    assert [h.epochs for h in at_once.histories] == [h.epochs for h in one_by_one.histories]
    assert at_once.temperature == one_by_one.temperature
    assert sorted(told) == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["member-0.safetensors", "member-1.safetensors"]


def dies(member: int, *_: Any) -> None:
    raise SystemExit(7)


def test_a_process_that_dies_is_told() -> None:
    with pytest.raises(Unavailable, match="network 0 ended with 7"):
        learn_apart(dies, graphs(), None, 1, 2, lambda *_: None)


@pytest.mark.parametrize(
    "error",
    [BadInput("here", expected="this", found="that"), UnknownName("engine", "dg1", ["dgl"]), TrainingDiverged("no number")],
)
def test_errors_cross_processes_whole(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_every_device_adds_its_figures_to_the_benchmarks_file(tmp_path: Path) -> None:
    file = tmp_path / "training.json"
    for device, load in (("one", 1), ("another", 2), ("one", 3)):
        write(file, {"machine": {"device": device, "load": load}})
    found = [(body["machine"]["device"], body["machine"]["load"]) for body in json.loads(file.read_text(encoding="utf-8"))]
    assert found == [("another", 2), ("one", 3)]


def test_graphs_that_are_put_together_anew_make_the_same_batches() -> None:
    tensors, order = graphs(), torch.randperm(12, generator=torch.Generator().manual_seed(0)).numpy()
    for ours, theirs in zip(Resident(tensors, CPU).batches(order, 5), Apart(tensors, CPU).batches(order, 5), strict=True):
        assert_equal(ours, theirs)
