"""What can be counted on service graphs: features, what was not observed of them, degrees, components and sizes.

Values are rounded to 16-bit floats, as training graphs are kept: a value on the edge of a bin falls on the same side whoever
counts it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from rca.arrays import GraphArrays
from rca.graph import Indices
from rca.signals import EDGE_SIGNALS, NODE_SIGNALS
from rca.telemetry import ENTITY_KINDS

Group = Literal["feature", "edge feature", "structure"]
Values = npt.NDArray[np.float16]

EDGE_PREFIX: Final = "edge."
"""Stands before the name of an edge feature: `gap.z` of an edge is no `gap.z` of a node."""

MODALITIES: Final = tuple(dict.fromkeys(signal.source for signal in NODE_SIGNALS))
_SOURCES: Final[dict[str, str]] = {
    **{signal.name: signal.source for signal in NODE_SIGNALS},
    **{f"{EDGE_PREFIX}{signal.name}": signal.source for signal in EDGE_SIGNALS},
}
_MOST: Final = float(np.finfo(np.float16).max)
_TITLES: Final[dict[str, str]] = {
    **{signal.name: signal.title for signal in NODE_SIGNALS},
    **{f"{EDGE_PREFIX}{signal.name}": f"{signal.title}, of calls" for signal in EDGE_SIGNALS},
    "floor": "the label-free score",
    "degree.in": "edges into an entity",
    "degree.out": "edges out of an entity",
    "component.nodes": "entities of a connected part",
    "graph.nodes": "entities in a graph",
    "graph.edges": "edges in a graph",
    "graph.components": "connected parts in a graph",
    **{f"graph.{kind}": f"{'external host' if kind == 'external' else kind}s in a graph" for kind in ENTITY_KINDS},
}


@dataclass(frozen=True, eq=False)
class Measure:
    """One quantity over G graphs: its V observed values, and how many there would be if nothing were missing."""

    group: Group
    values: Values  # (V,)
    owner: Indices  # (V,) graph of every value
    asked: Indices  # (G,) nodes, edges or components of every graph that could have a value


@dataclass(frozen=True, eq=False)
class Measured:
    """G graphs as they are counted. `missing` says of every modality which graphs have nothing of it."""

    graphs: int
    measures: Mapping[str, Measure]
    missing: Mapping[str, npt.NDArray[np.bool_]]  # modality -> (G,)
    kinds: Mapping[str, int]
    relations: Mapping[str, int]


def measured(arrays: GraphArrays) -> Measured:
    """Count G graphs."""
    node_graph = _owners(arrays.node_ptr)
    measures = dict(_node_measures(arrays, node_graph)) | dict(_edge_measures(arrays)) | dict(_structure(arrays, node_graph))
    return Measured(
        graphs=len(arrays.node_ptr) - 1,
        measures=measures,
        missing=dict(_missing(measures, len(arrays.node_ptr) - 1)),
        kinds={kind: int((arrays.kind == row).sum()) for row, kind in enumerate(ENTITY_KINDS)},
        relations={name: index.shape[1] for name, index in arrays.edge_index.items()},
    )


def title_of(name: str) -> str:
    """What a quantity is called among people; what several features say of one signal is called alike."""
    return _TITLES.get(name) or _TITLES.get(name.rpartition(".")[0], name)


def joined(parts: Sequence[Measured]) -> Measured:
    """Several counts as one, graph after graph. Quantities that one of them lacks are left out. Raises ValueError without any."""
    if not parts:
        raise ValueError("expected at least one count")
    first = np.cumsum([0, *(part.graphs for part in parts)])
    shared = [name for name in parts[0].measures if all(name in part.measures for part in parts)]
    return Measured(
        graphs=int(first[-1]),
        measures={name: _together([part.measures[name] for part in parts], first) for name in shared},
        missing={name: np.concatenate([part.missing[name] for part in parts]) for name in MODALITIES},
        kinds=_summed([part.kinds for part in parts]),
        relations=_summed([part.relations for part in parts]),
    )


def _together(parts: Sequence[Measure], first: Indices) -> Measure:
    return Measure(
        parts[0].group,
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.owner + start for part, start in zip(parts, first, strict=False)]),
        np.concatenate([part.asked for part in parts]),
    )


def _summed(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    return dict(sum(map(Counter, counts), Counter[str]()))


def _node_measures(arrays: GraphArrays, node_graph: Indices) -> Iterator[tuple[str, Measure]]:
    asked = np.diff(arrays.node_ptr)
    for column, name in enumerate(arrays.schema.features):
        seen = arrays.available[:, column]
        yield name, Measure("feature", _rounded(arrays.x[seen, column]), node_graph[seen], asked)


def _edge_measures(arrays: GraphArrays) -> Iterator[tuple[str, Measure]]:
    """Features of edges, all relations together."""
    graphs = len(arrays.node_ptr) - 1
    asked = sum((np.diff(ptr) for ptr in arrays.edge_ptr.values()), np.zeros(graphs, dtype=np.int64))
    owners = {name: _owners(ptr) for name, ptr in arrays.edge_ptr.items()}
    for column, feature in enumerate(arrays.schema.edge_features):
        seen = {name: arrays.edge_available[name][:, column] for name in arrays.edge_index}
        values = [arrays.edge_attr[name][rows, column] for name, rows in seen.items()]
        owner = [owners[name][rows] for name, rows in seen.items()]
        yield (
            f"{EDGE_PREFIX}{feature}",
            Measure("edge feature", _rounded(_joined(values)), _joined(owner).astype(np.int64), asked),
        )


def _structure(arrays: GraphArrays, node_graph: Indices) -> Iterator[tuple[str, Measure]]:
    nodes, graphs = len(node_graph), len(arrays.node_ptr) - 1
    edges = np.concatenate([np.zeros((2, 0), dtype=np.int64), *arrays.edge_index.values()], axis=1)
    per_graph, one_each = np.arange(graphs), np.ones(graphs, dtype=np.int64)
    of_nodes = np.diff(arrays.node_ptr)
    for name, end in (("degree.out", 0), ("degree.in", 1)):
        yield name, Measure("structure", _rounded(np.bincount(edges[end], minlength=nodes)), node_graph, of_nodes)
    component = _components(nodes, edges)
    sizes = np.bincount(component, minlength=nodes)
    roots = np.flatnonzero(sizes)
    owner = node_graph[roots]
    components = np.bincount(owner, minlength=graphs)
    yield "component.nodes", Measure("structure", _rounded(sizes[roots]), owner, components)
    of_edges = np.bincount(node_graph[edges[0]], minlength=graphs)
    per_kind: dict[str, Indices] = {
        kind: np.bincount(node_graph[arrays.kind == row], minlength=graphs) for row, kind in enumerate(ENTITY_KINDS)
    }
    counts = {"nodes": of_nodes, "edges": of_edges, "components": components, **per_kind}
    for name, values in counts.items():
        yield f"graph.{name}", Measure("structure", _rounded(values), per_graph, one_each)


def _components(nodes: int, edges: Indices) -> Indices:
    """The lowest node that every node is connected with, (N,): labels spread along edges and labels until they rest."""
    label = np.arange(nodes)
    while True:
        lowest = np.minimum(label[edges[0]], label[edges[1]])
        spread = label.copy()
        np.minimum.at(spread, edges[0], lowest)
        np.minimum.at(spread, edges[1], lowest)
        np.minimum.at(spread, label[edges[0]], lowest)
        np.minimum.at(spread, label[edges[1]], lowest)
        spread = spread[spread]
        if np.array_equal(spread, label):
            return label
        label = spread


def _missing(measures: Mapping[str, Measure], graphs: int) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    for modality in MODALITIES:
        seen = np.zeros(graphs, dtype=bool)
        for name, measure in measures.items():
            if name.endswith(".z") and _SOURCES.get(name.removesuffix(".z")) == modality:
                seen[measure.owner] = True
        yield modality, ~seen


def _owners(ptr: Indices) -> Indices:
    return np.repeat(np.arange(len(ptr) - 1), np.diff(ptr))


def _joined(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0)


def _rounded(values: npt.NDArray[Any]) -> Values:
    return np.clip(values.astype(np.float64), -_MOST, _MOST).astype(np.float16) + np.float16(0)
