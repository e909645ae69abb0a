"""The network: starts as the floor, stays within its bound, does not care about order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rca.arrays import Schema
from rca.errors import BadCheckpoint, BadInput
from rca.models.engines import engine_of
from rca.models.network import Network, NetworkConfig
from rca.tensors import GraphTensors, batch
from tests.graphs import EDGE_FEATURES, permuted, random_graph

TORCH = engine_of("torch")
MIXED = {"pod": 5, "node": 2, "database": 2, "queue": 1, "external": 1}


def opened(tensors: GraphTensors, **options: object) -> Network:
    """A network whose correction counts."""
    network = Network(tensors.schema, NetworkConfig(**options), seed=3).eval()  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        network.correction.weight.normal_(generator=generator)
        network.null.weight.normal_(generator=generator)
    return network


@pytest.mark.parametrize("edges", ["real", "none", "shuffled"])
def test_the_untrained_network_ranks_as_the_floor(edges: str) -> None:
    rng = np.random.default_rng(0)
    graphs = [random_graph(rng, 9, others=MIXED, culprit=2) for _ in range(4)]
    tensors = batch(graphs)
    output = Network(tensors.schema, NetworkConfig(edges=edges), seed=5).eval()(tensors, TORCH)  # type: ignore[arg-type]
    for i, graph in enumerate(graphs):
        score = output.score[tensors.candidate_ptr[i] : tensors.candidate_ptr[i + 1]].detach().numpy()
        floor = graph.column("floor")[graph.candidate_rows].astype(np.float64)
        np.testing.assert_allclose(score, (floor - floor.mean()) / floor.std(), atol=1e-5)
    assert output.null.tolist() == [0] * 4


def test_the_correction_is_bounded() -> None:
    rng = np.random.default_rng(1)
    tensors = batch([random_graph(rng, 20)])
    network = opened(tensors, bound=1.5)
    with torch.no_grad():
        network.gate.fill_(0)
        floor = network(tensors, TORCH).score
        network.gate.fill_(1e6)
        network.correction.weight.mul_(1e4)
        moved = network(tensors, TORCH).score - floor
    assert moved.abs().max() <= 1.5 + 1e-5
    assert moved.abs().max() > 1.4


@pytest.mark.parametrize("options", [{}, {"edges": "shuffled"}, {"edges": "none"}, {"gates": "softmax"}])
def test_neither_order_nor_company_matters(options: dict[str, object]) -> None:
    rng = np.random.default_rng(2)
    graph = random_graph(rng, 12, others=MIXED)
    moved, place = permuted(graph, rng)
    tensors = batch([graph]).to("cpu", torch.float64)
    network = opened(tensors, **options).double()
    alone = network(tensors, TORCH)
    beside = network(batch([random_graph(rng, 5), moved]).to("cpu", torch.float64), TORCH)
    there = {int(row): i for i, row in enumerate(moved.candidate_rows)}
    order = [5 + there[int(place[row])] for row in graph.candidate_rows]
    torch.testing.assert_close(beside.score[order], alone.score, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(beside.family[order], alone.family, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(beside.null[1], alone.null[0], atol=1e-9, rtol=1e-9)


def test_edges_matter_unless_switched_off() -> None:
    rng = np.random.default_rng(4)
    tensors = batch([random_graph(rng, 12)])
    scores = {edges: opened(tensors, edges=edges)(tensors, TORCH).score for edges in ("real", "none", "shuffled")}
    assert not torch.allclose(scores["real"], scores["none"])
    assert not torch.allclose(scores["real"], scores["shuffled"])
    without = batch([random_graph(np.random.default_rng(4), 12, edges_per_service=0)])
    assert not without.edge_index


def test_what_is_unavailable_has_no_say() -> None:
    rng = np.random.default_rng(6)
    tensors = batch([random_graph(rng, 12)])
    network = opened(tensors)
    network.fit_inputs(batch([random_graph(rng, 12) for _ in range(5)]))
    before = network(tensors, TORCH).score
    tensors.x[~tensors.available] = 99.0
    assert torch.equal(network(tensors, TORCH).score, before)


def test_size_is_within_the_design() -> None:
    names = tuple(f"c{i}.mean" for i in range(60))
    network = Network(Schema(("floor", *names), names[:10]), NetworkConfig())
    assert 50_000 <= network.parameter_count <= 300_000
    assert Network(Schema(("floor", *names), names[:10]), NetworkConfig(width=8)).parameter_count < 30_000


def test_the_watch_sees_smoothing() -> None:
    rng = np.random.default_rng(7)
    tensors = batch([random_graph(rng, 12), random_graph(rng, 1)])
    output = opened(tensors)(tensors, TORCH, watch=True)
    assert len(output.similarity) == 3
    assert all(-1 <= value <= 1 for value in output.similarity)
    network = opened(tensors, layers=0)
    with torch.no_grad():
        for kind in network.encoder.kinds.values():
            kind.weight.zero_()
            kind.bias.copy_(torch.linspace(-1, 1, len(kind.bias)))
    assert network(tensors, TORCH, watch=True).similarity[0] == pytest.approx(1, abs=1e-5)


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone() -> None:
    schema = batch([random_graph(np.random.default_rng(0))]).schema
    state = torch.random.get_rng_state()
    one, two = Network(schema, NetworkConfig(), seed=1), Network(schema, NetworkConfig(), seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_bad_options_and_other_features_are_refused() -> None:
    for options in ({"width": 10, "heads": 4}, {"edges": "some"}, {"gates": "hard"}, {"layers": -1}):
        with pytest.raises(BadInput):
            NetworkConfig(**options)  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    network = Network(Schema(("floor", "cpu.mean"), EDGE_FEATURES), NetworkConfig())
    with pytest.raises(BadCheckpoint, match="graph: features"):
        network(batch([random_graph(rng)]), TORCH)
