"""Many graphs in one batch: what goes in comes out, selections equal fresh batches, contradictions are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rca.arrays import Schema
from rca.errors import BadCheckpoint, BadGraph
from rca.tensors import NO_FAMILY, GraphTensors, batch, chunks, shuffle_edges
from tests.graphs import EDGE_FEATURES, FEATURES, random_graph

MIXED = {"pod": 5, "node": 2, "database": 2, "queue": 1, "external": 1}


def graphs(count: int, seed: int = 0) -> list:
    rng = np.random.default_rng(seed)
    return [random_graph(rng, int(rng.integers(1, 9)), others=MIXED if i % 2 else None) for i in range(count)]


def assert_equal(left: GraphTensors, right: GraphTensors) -> None:
    for name in ("x", "available", "kind", "node_ptr", "candidate", "candidate_ptr", "floor", "target", "family", "is_normal"):
        assert torch.equal(getattr(left, name), getattr(right, name)), name
    assert left.edge_index.keys() == right.edge_index.keys()
    for relation in left.edge_index:
        assert torch.equal(left.edge_index[relation], right.edge_index[relation]), relation
        assert torch.equal(left.edge_attr[relation], right.edge_attr[relation]), relation
        assert torch.equal(left.edge_ptr[relation], right.edge_ptr[relation]), relation


def test_a_batch_holds_every_graph() -> None:
    members = graphs(5)
    tensors = batch(members)
    assert tensors.graphs == 5
    assert tensors.x.shape == (sum(len(g.entities) for g in members), len(FEATURES))
    for i, graph in enumerate(members):
        start, end = tensors.node_ptr[i], tensors.node_ptr[i + 1]
        assert np.array_equal(tensors.x[start:end].numpy(), graph.features)
        chosen = tensors.candidate[tensors.candidate_ptr[i] : tensors.candidate_ptr[i + 1]] - start
        assert np.array_equal(chosen.numpy(), graph.candidate_rows)
        for relation, index in graph.edges.items():
            low, high = tensors.edge_ptr[relation][i], tensors.edge_ptr[relation][i + 1]
            assert np.array_equal(tensors.edge_index[relation][:, low:high].numpy() - int(start), index)
            assert torch.equal(tensors.edge_index["rev_" + relation], tensors.edge_index[relation].flip(0))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=9))
def test_a_selection_equals_a_fresh_batch(chosen: list[int]) -> None:
    members = graphs(6)
    targets = [[int(g.candidate_rows[-1])] for g in members]
    families = ["cpu", "network", "", "errors", "no_fault", "crash"]
    normal = [False, False, False, False, True, False]
    whole = batch(members, targets=targets, families=families, is_normal=normal)
    fresh = batch(
        [members[i] for i in chosen],
        targets=[targets[i] for i in chosen],
        families=[families[i] for i in chosen],
        is_normal=[normal[i] for i in chosen],
    )
    assert_equal(whole.select(torch.tensor(chosen)), fresh)


def test_chunks_cover_all_graphs_in_order() -> None:
    whole = batch(graphs(7))
    parts = chunks(whole, 3)
    assert [part.graphs for part in parts] == [3, 3, 1]
    assert torch.equal(torch.cat([part.x for part in parts]), whole.x)


def test_targets_families_and_defaults() -> None:
    members = graphs(3)
    rows = [members[0].candidate_rows[:2].tolist(), [], [int(members[2].candidate_rows[0])]]
    tensors = batch(members, targets=rows, families=["cpu", "no_fault", "disk"], is_normal=[False, True, False])
    assert tensors.target.sum() == len(rows[0]) + 1
    assert tensors.candidate_graph[tensors.target].tolist() == [0] * len(rows[0]) + [2]
    assert tensors.family.tolist() == [0, NO_FAMILY, 2]
    assert batch(members).weight.tolist() == [1, 1, 1]


def test_bad_input_is_named() -> None:
    good = graphs(1)[0]
    with pytest.raises(BadGraph, match="at least one graph"):
        batch([])
    with pytest.raises(BadGraph, match="rows of candidates, found rows"):
        batch([good], targets=[[len(good.entities)]])
    with pytest.raises(BadGraph, match="one per graph"):
        batch([good], families=[])
    with pytest.raises(BadGraph, match="floor"):
        batch([replace(good, feature_names=("ground", *good.feature_names[1:]))])
    with pytest.raises(BadGraph, match="finite"):
        batch([replace(good, features=np.full_like(good.features, np.nan))])


def test_the_first_differing_feature_is_named() -> None:
    mine = Schema(("floor", "cpu.mean"), EDGE_FEATURES)
    with pytest.raises(BadCheckpoint, match=r"expected 'cpu.mean' at position 1, found 'cpu.max'"):
        mine.check(Schema(("floor", "cpu.max"), EDGE_FEATURES), "graph")
    with pytest.raises(BadCheckpoint, match=r"'cpu.mean' is missing"):
        mine.check(Schema(("floor",), EDGE_FEATURES), "graph")
    with pytest.raises(BadCheckpoint, match=r"'disk.mean' is new"):
        mine.check(Schema((*mine.features, "disk.mean"), EDGE_FEATURES), "graph")
    with pytest.raises(BadCheckpoint, match="edge_features"):
        mine.check(Schema(mine.features, ()), "graph")


def test_shuffled_edges_keep_degrees_and_graphs() -> None:
    rng = np.random.default_rng(3)
    tensors = batch([random_graph(rng, 12) for _ in range(4)])
    shuffled = shuffle_edges(tensors, 1)
    before, after = tensors.edge_index["calls"], shuffled.edge_index["calls"]
    assert not torch.equal(before, after)
    assert torch.equal(before[0], after[0])
    assert torch.equal(torch.bincount(before[1]), torch.bincount(after[1]))
    assert torch.equal(tensors.node_graph[after[0]], tensors.node_graph[after[1]])
    assert torch.equal(after, shuffle_edges(tensors, 1).edge_index["calls"])
    assert not torch.equal(after, shuffle_edges(tensors, 2).edge_index["calls"])
