"""Engines compute the same, forwards and backwards, on every shape of links."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rca.errors import UnknownName
from rca.models.engines import Engine, Links, engine_of
from rca.models.network import Network, NetworkConfig
from rca.tensors import batch
from tests.graphs import random_graph

dgl_engine = pytest.mark.skipif(sys.version_info >= (3, 12), reason="dgl has no wheels for this Python")

SHAPES = {
    "usual": (20, 60, 20),
    "no items": (5, 0, 5),
    "one node": (1, 1, 1),
    "isolated nodes": (50, 6, 50),
    "many nodes": (10_000, 100_000, 10_000),
    "pooling": (30, 30, 4),
}
OPERATIONS = ("gather", "spread", "sum", "maximum", "softmax")


def run(engine: Engine, operation: str, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Result and gradient of one operation on seeded input with ties in it."""
    sources, items, targets = shape
    generator = torch.Generator().manual_seed(0)
    links = engine.links(
        torch.randint(0, sources, (items,), generator=generator),
        torch.randint(0, targets, (items,), generator=generator),
        sources,
        targets,
    )
    rows = {"gather": sources, "spread": targets}.get(operation, items)
    values = torch.randint(-3, 4, (rows, 4), generator=generator).float().requires_grad_()
    result: Tensor = getattr(engine, operation)(values, links)
    pull = torch.randn(result.shape, generator=generator)
    (result * pull).sum().backward()
    assert values.grad is not None
    return result.detach(), values.grad


@dgl_engine
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_engines_agree(operation: str, shape: str) -> None:
    ours, our_gradient = run(engine_of("torch"), operation, SHAPES[shape])
    theirs, their_gradient = run(engine_of("dgl"), operation, SHAPES[shape])
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(their_gradient, our_gradient, atol=1e-5, rtol=1e-5)


def small_links(engine: Engine) -> Links:
    return engine.links(torch.tensor([0, 1, 2, 2]), torch.tensor([1, 1, 1, 3]), 4, 4)


def test_reductions_by_hand() -> None:
    engine = engine_of("torch")
    links = small_links(engine)
    values = torch.tensor([[1.0], [-2.0], [4.0], [-5.0]])
    assert engine.sum(values, links).flatten().tolist() == [0, 3, 0, -5]
    assert engine.maximum(values, links).flatten().tolist() == [0, 4, 0, -5]
    assert engine.degree(links, values).flatten().tolist() == [1, 3, 1, 1]
    total = engine.log_sum_exp(values, links).flatten()
    assert total[0] == -torch.inf
    assert total[1].item() == pytest.approx(float(np.log(np.exp([1, -2, 4]).sum())), abs=1e-6)
    assert engine.softmax(values, links)[3].item() == pytest.approx(1)


def test_the_gradient_of_the_maximum_is_shared_among_ties() -> None:
    engine = engine_of("torch")
    values = torch.tensor([[2.0], [2.0], [1.0], [7.0]], requires_grad=True)
    engine.maximum(values, small_links(engine)).sum().backward()
    assert values.grad is not None
    assert values.grad.flatten().tolist() == [0.5, 0.5, 0, 1]


def test_log_sum_exp_of_nothing_leaves_a_finite_gradient() -> None:
    engine = engine_of("torch")
    values = torch.tensor([[800.0], [-800.0], [0.0], [3.0]], requires_grad=True)
    total = engine.log_sum_exp(values, small_links(engine))
    total[total.isfinite()].sum().backward()
    assert values.grad is not None
    assert values.grad.isfinite().all()


@dgl_engine
def test_a_network_scores_alike_on_both_engines() -> None:
    rng = np.random.default_rng(0)
    graphs = [random_graph(rng, n, others={"pod": 4, "node": 2, "database": 1}) for n in (1, 2, 7, 30)]
    tensors = batch([*graphs, random_graph(rng, 3, edges_per_service=0)])
    network = Network(tensors.schema, NetworkConfig(dropout=0), seed=1)
    with torch.no_grad():
        network.correction.weight.normal_(generator=torch.Generator().manual_seed(0))
        network.null.weight.normal_(generator=torch.Generator().manual_seed(0))
    gradients = []
    outputs = []
    for name in ("torch", "dgl"):
        network.zero_grad()
        output = network(tensors, engine_of(name))
        (output.score.square().sum() + output.null.sum() + output.family.square().mean()).backward()
        outputs.append(output)
        gradients.append({key: p.grad.clone() for key, p in network.named_parameters() if p.grad is not None})
    for part in ("score", "null", "family"):
        torch.testing.assert_close(getattr(outputs[1], part), getattr(outputs[0], part), atol=1e-5, rtol=1e-5)
    assert gradients[0].keys() == gradients[1].keys()
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient, atol=1e-4, rtol=1e-4, msg=key)


def test_an_unknown_engine_is_refused_with_a_hint() -> None:
    with pytest.raises(UnknownName, match="did you mean dgl"):
        engine_of("dg1")


@dgl_engine
def test_importing_dgl_is_silent_and_leaves_the_home_folder_alone(tmp_path: Path) -> None:
    script = "from rca.models.engines import engine_of; engine_of('dgl'); import os; assert 'DGLBACKEND' not in os.environ"
    environment = {key: value for key, value in os.environ.items() if key != "DGLBACKEND"} | {"HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_cpu_and_gpu_agree() -> None:
    rng = np.random.default_rng(0)
    tensors = batch([random_graph(rng, n, others={"pod": 4, "node": 2}) for n in (1, 8, 30, 300)])
    network = Network(tensors.schema, NetworkConfig(), seed=1).eval()
    with torch.no_grad():
        network.correction.weight.normal_(generator=torch.Generator().manual_seed(0))
        on_cpu = network(tensors, engine_of("torch"))
        on_gpu = network.to("cuda")(tensors.to("cuda"), engine_of("torch"))
    for part in ("score", "null", "family"):
        torch.testing.assert_close(getattr(on_gpu, part).cpu(), getattr(on_cpu, part), atol=1e-4, rtol=1e-4)
