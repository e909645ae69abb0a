"""Service graphs as numpy arrays, many in one block-diagonal batch: the layout that every engine reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from rca.errors import BadCheckpoint, BadGraph
from rca.features import FLOOR_FEATURE
from rca.graph import RELATIONS, Bools, Floats, Indices, ServiceGraph

REVERSE: Final = "rev_"
RELATION_NAMES: Final = tuple(RELATIONS) + tuple(REVERSE + name for name in RELATIONS)
"""Every relation messages may travel along: as in the graph, and each one backwards."""


@dataclass(frozen=True)
class Schema:
    """Names of the node and edge features, in column order."""

    features: tuple[str, ...]
    edge_features: tuple[str, ...]

    @classmethod
    def of(cls, graph: ServiceGraph) -> Schema:
        return cls(graph.feature_names, graph.edge_feature_names)

    def check(self, other: Schema, where: str) -> None:
        """Raise BadCheckpoint naming the first feature in which `other` (at hand) differs from self (trained)."""
        for kind in ("features", "edge_features"):
            _check_names(f"{where}: {kind}", getattr(self, kind), getattr(other, kind))


def _check_names(where: str, expected: tuple[str, ...], found: tuple[str, ...]) -> None:
    for position, (mine, theirs) in enumerate(zip(expected, found, strict=False)):
        if mine != theirs:
            raise BadCheckpoint(where, expected=f"{mine!r} at position {position}", found=repr(theirs))
    if len(expected) != len(found):
        longer = expected if len(expected) > len(found) else found
        name = longer[min(len(expected), len(found))]
        missing = "missing" if longer is expected else "new"
        raise BadCheckpoint(where, expected=f"{len(expected)} names", found=f"{len(found)} ({name!r} is {missing})")


@dataclass(frozen=True, eq=False)
class GraphArrays:
    """G graphs in one block-diagonal batch.

    Shapes: N nodes of all graphs, graph after graph; F node features; E edges of a relation; D edge features; C candidates.
    Relations without an edge in the batch are absent; backward ones are not written out.
    """

    schema: Schema
    x: Floats  # (N, F)
    available: Bools  # (N, F)
    kind: Indices  # (N,) row in ENTITY_KINDS
    node_ptr: Indices  # (G+1,) first node of every graph
    edge_index: Mapping[str, Indices]  # relation -> (2, E): source row over target row
    edge_attr: Mapping[str, Floats]  # relation -> (E, D)
    edge_available: Mapping[str, Bools]  # relation -> (E, D)
    edge_ptr: Mapping[str, Indices]  # relation -> (G+1,) first edge of every graph
    candidate: Indices  # (C,) node rows
    candidate_ptr: Indices  # (G+1,)
    floor: Floats  # (C,) label-free score


def arrays_of(graphs: Sequence[ServiceGraph]) -> GraphArrays:
    """Concatenate graphs.

    Raises BadGraph if there is no graph, or if one contradicts itself or has no column "floor"; BadCheckpoint if the graphs'
    features differ.
    """
    if not graphs:
        raise BadGraph("batch", expected="at least one graph", found="none")
    schema = Schema.of(graphs[0])
    if FLOOR_FEATURE not in schema.features:
        raise BadGraph("features", expected=f"a column {FLOOR_FEATURE!r}", found=f"{len(schema.features)} others")
    for graph in graphs:
        schema.check(Schema.of(graph.validate()), "batch")
    node_ptr = _pointer(len(graph.entities) for graph in graphs)
    candidate = np.concatenate([g.candidate_rows + start for g, start in zip(graphs, node_ptr, strict=False)])
    x = np.concatenate([graph.features for graph in graphs]).astype(np.float32)
    index, attr, available, edge_ptr = {}, {}, {}, {}
    for name in RELATIONS:
        owners = [i for i, graph in enumerate(graphs) if name in graph.edges and graph.edges[name].shape[1]]
        if not owners:
            continue
        index[name] = np.concatenate([graphs[i].edges[name] + node_ptr[i] for i in owners], axis=1)
        attr[name] = np.concatenate([graphs[i].edge_features[name] for i in owners]).astype(np.float32)
        available[name] = np.concatenate([graphs[i].edge_available[name] for i in owners])
        edge_ptr[name] = _pointer(g.edges[name].shape[1] if name in g.edges else 0 for g in graphs)
    return GraphArrays(
        schema,
        x,
        np.concatenate([graph.available for graph in graphs]),
        np.concatenate([graph.kinds for graph in graphs]).astype(np.int64),
        node_ptr,
        index,
        attr,
        available,
        edge_ptr,
        candidate,
        _pointer(len(graph.candidate_rows) for graph in graphs),
        x[candidate, schema.features.index(FLOOR_FEATURE)],
    )


def _pointer(counts: Iterable[int]) -> npt.NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(np.fromiter(counts, dtype=np.int64))]).astype(np.int64)
