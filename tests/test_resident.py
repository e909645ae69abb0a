"""Training on resident graphs: the same batches as if nothing were known of them, and no step that waits for the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rca.errors import TrainingDiverged
from rca.models.engines import engine_of
from rca.models.network import Corruption, Network, NetworkConfig
from rca.models.resident import Resident
from rca.models.training import Trainer, TrainingConfig, family_loss, listwise_loss, mean_loss
from rca.models.updates import Updates
from rca.tensors import GraphTensors, batch
from tests.graphs import random_graph
from tests.test_tensors import assert_equal

WAITING = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.bincount.default,
    torch.ops.aten.equal.default,
}
"""What makes Python wait for a GPU until it has finished."""


class Watch(TorchDispatchMode):
    """Remembers operations that would wait for a GPU, and those that bring something to it from elsewhere."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device, self.waiting, self.copies = device, list[str](), list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        by_mask = func is torch.ops.aten.index.Tensor and any(leaf.dtype == torch.bool for leaf in leaves[1:])
        unsized = func is torch.ops.aten.repeat_interleave.Tensor and kwargs.get("output_size") is None
        if func in WAITING or by_mask or unsized:
            self.waiting.append(str(func))
        fresh = func is torch.ops.aten.lift_fresh.default  # a tensor that was just made of numbers
        if not fresh and any(leaf.device.type != self.device and leaf.dim() for leaf in leaves):
            self.copies.append(str(func))
        return func(*args, **kwargs)


def graphs(count: int = 12, seed: int = 0) -> GraphTensors:
    """Graphs of many shapes: of services alone, without an edge, with every kind of answer."""
    rng = np.random.default_rng(seed)
    others: Sequence[dict[Any, int]] = ({}, {"pod": 4, "node": 2}, {"database": 2, "queue": 1, "external": 1}, {"pod": 3})
    made = [random_graph(rng, 2 + i % 5, others=others[i % 4], edges_per_service=2.0 if i % 5 else 0.0) for i in range(count)]
    targets = [() if i % 4 == 3 else (0, 1) if i % 4 == 2 else (i % 2,) for i in range(count)]
    families = ["no_fault" if not rows else ("cpu", "network", "unheard of")[i % 3] for i, rows in enumerate(targets)]
    return batch(made, targets=targets, families=families, is_normal=[not rows for rows in targets])


def small(tensors: GraphTensors, **shape: Any) -> Network:
    network = Network(tensors.schema, NetworkConfig(width=8, heads=2, **shape), seed=1)
    with torch.no_grad():
        for layer in (network.correction, network.null):
            layer.weight.normal_(generator=torch.Generator().manual_seed(0))
    return network


def test_batches_of_known_size_are_those_that_the_graphs_are_asked_for() -> None:
    tensors = graphs()
    order = np.random.default_rng(1).permutation(tensors.graphs)
    found = list(Resident(tensors, torch.device("cpu")).batches(order, 5))
    assert [part.graphs for part in found] == [5, 5, 2]
    for part, rows in zip(found, np.split(order, [5, 10]), strict=True):
        asked = tensors.select(torch.from_numpy(rows))
        assert part.sizes is not None
        assert asked.sizes is None
        assert_equal(part, asked)
        assert list(part.kind_rows) == list(asked.kind_rows)
        for kind, kind_rows in asked.kind_rows.items():
            assert torch.equal(part.kind_rows[kind], kind_rows)
        assert torch.equal(part.causes, asked.causes)
        assert torch.equal(part.named_causes, asked.named_causes)


def test_one_graph_at_a_time_leaves_out_the_relations_that_it_lacks() -> None:
    tensors = graphs()
    for row, part in enumerate(Resident(tensors, torch.device("cpu")).batches(np.arange(tensors.graphs), 1)):
        assert_equal(part, tensors.select(torch.tensor([row])))


def test_the_mean_loss_is_that_of_all_graphs_together() -> None:
    tensors = replace(graphs(), weight=torch.linspace(0.5, 2, 12))
    network, engine = small(tensors).eval(), engine_of("torch")
    with torch.no_grad():
        each = listwise_loss(network(tensors, engine), tensors, engine)
    found = mean_loss(network, Resident(tensors, torch.device("cpu")), engine)
    assert found == pytest.approx(float((each * tensors.weight).sum() / tensors.weight.sum()), rel=1e-6)


@pytest.mark.parametrize("shape", [{}, {"gates": "softmax"}, {"edges": "none"}])
def test_no_step_waits_for_the_device_or_brings_anything_to_it(shape: dict[str, Any]) -> None:
    tensors, engine = graphs(), engine_of("torch")
    network, meta = small(tensors, **shape), torch.device("meta")  # where nothing has a value that one could wait for
    network.fit_inputs(tensors)
    network.to(meta)
    classes = [torch.zeros(len(names), dtype=torch.int64, device=meta) for names in (tensors.schema.features, ("gap",) * 3)]
    noise = Corruption(0.1, 0.1, *classes, classes=3, generator=None)  # type: ignore[arg-type]
    resident = Resident(tensors, meta)
    with Watch("meta") as watch:
        for part in resident.batches(np.arange(12), 5):
            output = network(part, engine, noise=noise)
            loss = (listwise_loss(output, part, engine) * part.weight).mean() + family_loss(output, part)
            loss.backward()
    assert watch.waiting == []
    assert watch.copies == ["aten._to_copy.default"]  # the order, once


def quadratic(weights: Sequence[float]) -> nn.Module:
    module = nn.Linear(1, len(weights), bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor(weights).unsqueeze(1))
    return module


def pulled(module: nn.Module, by: float) -> Tensor:
    return next(module.parameters()).square().sum() * by


def test_an_update_on_the_device_is_that_of_the_host() -> None:
    modules = [quadratic([1.0, -2.0, 0.5]) for _ in range(2)]
    pulls = [1.0, np.nan, 2.0, np.inf, np.nan, 0.5, 1.5]
    outcomes = []
    for module, on_device in zip(modules, (False, True), strict=True):
        updates = Updates(module, weight_decay=0.03, clip=1.0, on_device=on_device)
        updates.begin(1, 0.1)
        for pull in pulls:
            updates.step(pulled(module, pull))
        outcomes.append(updates.end())
        assert [int(state["step"]) for state in updates.optimizer.state.values()] == [4]
    torch.testing.assert_close(*(next(module.parameters()) for module in modules), atol=1e-6, rtol=1e-6)
    assert outcomes[0][0] == pytest.approx(outcomes[1][0], rel=1e-6)
    assert len(outcomes[0][0]) == 4
    assert outcomes[0][1] == outcomes[1][1] == 3


def test_an_update_on_the_device_asks_for_nothing_before_the_end_of_the_epoch() -> None:
    module = quadratic([1.0, -2.0])
    updates = Updates(module, weight_decay=0.03, clip=1.0, on_device=True)
    updates.begin(1, 0.1)
    updates.step(pulled(module, 1.0))  # which makes the moments
    with Watch("cpu") as watch:
        for pull in (1.0, np.nan, 2.0):
            updates.step(pulled(module, pull))
    assert watch.waiting == []


@pytest.mark.parametrize("on_device", [False, True])
def test_bad_steps_in_a_row_are_counted_over_epochs(on_device: bool) -> None:
    module = quadratic([1.0])
    updates = Updates(module, weight_decay=0.0, clip=1.0, on_device=on_device)

    def epoch(number: int, *pulls: float) -> None:
        updates.begin(number, 0.1)
        for pull in pulls:
            updates.step(pulled(module, pull))
        updates.end()

    epoch(1, np.nan, np.nan, np.nan, np.nan, 1.0, np.nan, np.nan)
    assert updates.bad_steps == 2
    with pytest.raises(TrainingDiverged, match=r"5 steps in a row without one \(epoch 2\)"):
        epoch(2, np.nan, np.nan, np.nan, 1.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_an_epoch_on_a_gpu_waits_once_and_ends_as_on_the_cpu() -> None:
    tensors = graphs(60)
    config = TrainingConfig(epochs=3, batch_graphs=16, noise=0, class_dropout=0, device="cpu", precision="float32")
    networks = [small(tensors, dropout=0.0) for _ in range(2)]
    histories = [
        Trainer(network, tensors, graphs(20, 1), replace(config, device=device)).run()
        for network, device in zip(networks, ("cpu", "cuda"), strict=True)
    ]
    assert [e.loss for e in histories[1].epochs] == pytest.approx([e.loss for e in histories[0].epochs], abs=1e-2)
    engine, resident = engine_of("torch"), Resident(tensors, torch.device("cuda"))
    updates = Updates(networks[1].to("cuda"), weight_decay=0.03, clip=1.0, on_device=True)
    updates.begin(1, 1e-3)
    parts = resident.batches(np.arange(60), 16)
    before = torch.cuda.get_sync_debug_mode()
    try:
        for number, part in enumerate(parts):
            updates.step(listwise_loss(networks[1](part, engine), part, engine).mean())
            if not number:  # the order was copied and the moments were made
                torch.cuda.set_sync_debug_mode("error")
    finally:
        torch.cuda.set_sync_debug_mode(before)
    assert len(updates.end()[0]) == 4
