"""Service graphs as torch tensors, many in one block-diagonal batch.

Graphs are concatenated once (`batch`); after that a mini-batch is chosen by index arithmetic alone (`GraphTensors.select`), so
that a training step holds no Python loop over graphs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rca.arrays import REVERSE, GraphArrays, Schema, arrays_of
from rca.errors import BadGraph
from rca.faults import FAMILIES
from rca.graph import RELATIONS, ServiceGraph
from rca.telemetry import ENTITY_KINDS

NO_FAMILY: Final = -1
"""Value of `family` where nobody knows the fault, or where there is none."""


@dataclass(frozen=True)
class Sizes:
    """How many rows of each kind some graphs have. Who knows them need not ask the device, which would have to finish first."""

    nodes: int
    candidates: int
    edges: Mapping[str, int]  # forward relation -> edges
    kinds: Mapping[str, int]  # kind of entity -> nodes
    causes: int  # candidates that are true causes
    named: int  # of these, in graphs whose fault family is known


@dataclass(frozen=True, eq=False)
class GraphTensors:
    """G graphs in one block-diagonal batch.

    Shapes: N nodes of all graphs, graph after graph; F node features; E edges of a relation; D edge features; C candidates.
    Relations without an edge in the batch are absent. `rev_<name>` shares the edge features of `<name>`. With `sizes`, nothing
    below waits for the device.
    """

    schema: Schema
    x: Tensor  # (N, F) float
    available: Tensor  # (N, F) bool
    kind: Tensor  # (N,) int64, row in ENTITY_KINDS
    node_ptr: Tensor  # (G+1,) int64, first node of every graph
    edge_index: Mapping[str, Tensor]  # relation -> (2, E) int64: source row over target row
    edge_attr: Mapping[str, Tensor]  # relation -> (E, D) float
    edge_available: Mapping[str, Tensor]  # relation -> (E, D) bool
    edge_ptr: Mapping[str, Tensor]  # relation -> (G+1,) int64, first edge of every graph
    candidate: Tensor  # (C,) int64, node rows
    candidate_ptr: Tensor  # (G+1,) int64
    floor: Tensor  # (C,) float, label-free score
    target: Tensor  # (C,) bool, true causes; all False where unknown
    family: Tensor  # (G,) int64, row in faults.FAMILIES or NO_FAMILY
    weight: Tensor  # (G,) float
    is_normal: Tensor  # (G,) bool: nothing is wrong, or the cause is no candidate
    sizes: Sizes | None = None

    @property
    def graphs(self) -> int:
        return self.node_ptr.shape[0] - 1

    @property
    def nodes(self) -> int:
        return self.x.shape[0]

    @cached_property
    def node_graph(self) -> Tensor:
        """Graph of every node, (N,)."""
        return _owner(self.node_ptr, self.nodes)

    @cached_property
    def candidate_graph(self) -> Tensor:
        """Graph of every candidate, (C,)."""
        return _owner(self.candidate_ptr, self.candidate.shape[0])

    @cached_property
    def kind_rows(self) -> Mapping[str, Tensor]:
        """Rows of the nodes of every kind that occurs, in order."""
        if self.sizes is not None:
            counts = [self.sizes.kinds[name] for name in ENTITY_KINDS]
            by_kind = torch.split(torch.argsort(self.kind, stable=True), counts)
            return {name: row for name, row in zip(ENTITY_KINDS, by_kind, strict=True) if row.shape[0]}
        rows = {name: torch.nonzero(self.kind == i).flatten() for i, name in enumerate(ENTITY_KINDS)}
        return {name: row for name, row in rows.items() if row.shape[0]}

    @cached_property
    def causes(self) -> Tensor:
        """Candidates that are true causes, in order."""
        return _true_rows(self.target, self.sizes.causes if self.sizes else None)

    @cached_property
    def named_causes(self) -> Tensor:
        """Candidates that are true causes of a graph whose fault family is known, in order."""
        known = (self.family != NO_FAMILY)[self.candidate_graph]
        return _true_rows(self.target & known, self.sizes.named if self.sizes else None)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> GraphTensors:
        """The same on another device, floating numbers as `dtype` (default: unchanged)."""

        def moved(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {key: moved(item) for key, item in value.items()}
            if not isinstance(value, Tensor):
                return value
            return value.to(device, dtype if value.is_floating_point() else None)

        return replace(self, **{f.name: moved(getattr(self, f.name)) for f in fields(self)})

    def compact(self) -> GraphTensors:
        """The same with features as 16-bit floats: what many graphs are kept as. `select` gives 32-bit ones."""
        attr = {name: values.half() for name, values in self.edge_attr.items() if not name.startswith(REVERSE)}
        return replace(self, x=self.x.half(), edge_attr=both_ways(attr))

    def select(self, graphs: Tensor, sizes: Sizes | None = None) -> GraphTensors:
        """The given graphs, (B,) int64, as a batch of their own, in that order. A graph may be asked for twice.

        `sizes` are theirs, where they are known (rca.models.resident); without them the device is asked.
        """
        node, node_ptr = _rows(self.node_ptr, graphs, sizes.nodes if sizes else None)
        shift = node_ptr[:-1] - self.node_ptr[graphs]  # (B,) what a node's row changes by
        candidate, candidate_ptr = _rows(self.candidate_ptr, graphs, sizes.candidates if sizes else None)
        index, attr, available, ptr = {}, {}, {}, {}
        for name in self.edge_index:
            if name.startswith(REVERSE) or (sizes and not sizes.edges[name]):
                continue
            edge, edge_ptr = _rows(self.edge_ptr[name], graphs, sizes.edges[name] if sizes else None)
            if not edge.shape[0]:
                continue
            moved = torch.repeat_interleave(shift, edge_ptr.diff(), output_size=edge.shape[0])
            index[name] = self.edge_index[name][:, edge] + moved
            attr[name] = _at_least_single(self.edge_attr[name].index_select(0, edge))
            available[name] = self.edge_available[name].index_select(0, edge)
            ptr[name] = edge_ptr
        candidates = candidate.shape[0]
        return GraphTensors(
            self.schema,
            _at_least_single(self.x.index_select(0, node)),
            self.available.index_select(0, node),
            self.kind[node],
            node_ptr,
            with_reverse(index),
            both_ways(attr),
            both_ways(available),
            both_ways(ptr),
            self.candidate[candidate] + torch.repeat_interleave(shift, candidate_ptr.diff(), output_size=candidates),
            candidate_ptr,
            self.floor[candidate],
            self.target[candidate],
            self.family[graphs],
            self.weight[graphs],
            self.is_normal[graphs],
            sizes,
        )


def _at_least_single(values: Tensor) -> Tensor:
    return values.float() if values.dtype == torch.float16 else values


def _owner(ptr: Tensor, size: int) -> Tensor:
    graphs = torch.arange(ptr.shape[0] - 1, device=ptr.device)
    return torch.repeat_interleave(graphs, ptr.diff(), output_size=size)


def _rows(ptr: Tensor, graphs: Tensor, total: int | None) -> tuple[Tensor, Tensor]:
    """Rows of the given graphs one after another, `total` of them, and their new first rows, (B+1,)."""
    counts = ptr[graphs + 1] - ptr[graphs]
    new_ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    total = int(new_ptr[-1]) if total is None else total
    start = torch.repeat_interleave(ptr[graphs] - new_ptr[:-1], counts, output_size=total)
    return start + torch.arange(total, device=ptr.device), new_ptr


def _true_rows(mask: Tensor, count: int | None) -> Tensor:
    """Rows where a mask, (R,), is True, in order, `count` of them."""
    if count is None:
        return mask.nonzero().flatten()
    return torch.argsort((~mask).to(torch.uint8), stable=True)[:count]


def with_reverse(index: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Edges of every relation, (2, E), and of each one backwards."""
    return {**index, **{REVERSE + name: edges.flip(0) for name, edges in index.items()}}


def both_ways(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What belongs to the edges of every relation, for the relation and for its reverse."""
    return {**values, **{REVERSE + name: value for name, value in values.items()}}


def batch(
    graphs: Sequence[ServiceGraph],
    *,
    targets: Sequence[Sequence[int]] | None = None,
    families: Sequence[str] | None = None,
    weights: Sequence[float] | None = None,
    is_normal: Sequence[bool] | None = None,
) -> GraphTensors:
    """Concatenate graphs, with their answers where these are known.

    `targets` are node rows within each graph, several where several causes are true; `families` are names of faults.FAMILIES,
    anything else counts as unknown. Raises BadGraph if there is no graph, if a graph contradicts itself or has no column
    "floor", if a target is no candidate; BadCheckpoint if the graphs' features differ.
    """
    flat = arrays_of(graphs)
    known = {name: row for row, name in enumerate(FAMILIES)}
    family = [known.get(name, NO_FAMILY) for name in families] if families is not None else [NO_FAMILY] * len(graphs)
    return GraphTensors(
        flat.schema,
        torch.from_numpy(flat.x),
        torch.from_numpy(flat.available),
        torch.from_numpy(flat.kind),
        torch.from_numpy(flat.node_ptr),
        with_reverse(_tensors(flat.edge_index)),
        both_ways(_tensors(flat.edge_attr)),
        both_ways(_tensors(flat.edge_available)),
        both_ways(_tensors(flat.edge_ptr)),
        torch.from_numpy(flat.candidate),
        torch.from_numpy(flat.candidate_ptr),
        torch.from_numpy(flat.floor),
        torch.from_numpy(_target_mask(graphs, targets, flat)),
        torch.tensor(_per_graph("families", family, graphs), dtype=torch.int64),
        torch.tensor(_per_graph("weights", weights or [1.0] * len(graphs), graphs), dtype=torch.float32),
        torch.tensor(_per_graph("is_normal", is_normal or [False] * len(graphs), graphs), dtype=torch.bool),
    )


def joined(parts: Sequence[GraphTensors]) -> GraphTensors:
    """The graphs of all parts in one batch, part after part. Raises BadGraph without a part, BadCheckpoint for other features."""
    if not parts:
        raise BadGraph("joined", expected="at least one batch", found="none")
    for part in parts:
        parts[0].schema.check(part.schema, "joined")
    shifts = np.cumsum([0, *(part.nodes for part in parts)]).tolist()
    names = [name for name in RELATIONS if any(name in part.edge_index for part in parts)]
    index, attr, available, edge_ptr = {}, {}, {}, {}
    for name in names:
        having = [(part, shift) for part, shift in zip(parts, shifts, strict=False) if name in part.edge_index]
        index[name] = torch.cat([part.edge_index[name] + shift for part, shift in having], dim=1)
        attr[name] = torch.cat([part.edge_attr[name] for part, _ in having])
        available[name] = torch.cat([part.edge_available[name] for part, _ in having])
        edge_ptr[name] = _joined_pointers([part.edge_ptr.get(name, torch.zeros_like(part.node_ptr)) for part in parts])
    plain = ("x", "available", "kind", "floor", "target", "family", "weight", "is_normal")
    return GraphTensors(
        schema=parts[0].schema,
        node_ptr=_joined_pointers([part.node_ptr for part in parts]),
        edge_index=with_reverse(index),
        edge_attr=both_ways(attr),
        edge_available=both_ways(available),
        edge_ptr=both_ways(edge_ptr),
        candidate=torch.cat([part.candidate + shift for part, shift in zip(parts, shifts, strict=False)]),
        candidate_ptr=_joined_pointers([part.candidate_ptr for part in parts]),
        sizes=None,
        **{name: torch.cat([getattr(part, name) for part in parts]) for name in plain},
    )


def _joined_pointers(pointers: Sequence[Tensor]) -> Tensor:
    ends = np.cumsum([0, *(int(pointer[-1]) for pointer in pointers)]).tolist()
    return torch.cat([pointers[0][:1], *(pointer[1:] + end for pointer, end in zip(pointers, ends, strict=False))])


def _tensors(values: Mapping[str, npt.NDArray[Any]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in values.items()}


def _per_graph(where: str, values: Sequence[Any], graphs: Sequence[ServiceGraph]) -> list[Any]:
    if len(values) != len(graphs):
        raise BadGraph(where, expected=f"one per graph ({len(graphs)})", found=str(len(values)))
    return list(values)


def _target_mask(
    graphs: Sequence[ServiceGraph], targets: Sequence[Sequence[int]] | None, flat: GraphArrays
) -> npt.NDArray[np.bool_]:
    if targets is None:
        return np.zeros(len(flat.candidate), dtype=np.bool_)
    _per_graph("targets", targets, graphs)
    for i, rows in enumerate(targets):
        outside = sorted(set(rows) - set(graphs[i].candidate_rows.tolist()))
        if outside:
            raise BadGraph(f"targets[{i}]", expected="rows of candidates", found=f"rows {outside}")
    chosen = [start + row for start, rows in zip(flat.node_ptr, targets, strict=False) for row in rows]
    return np.isin(flat.candidate, np.array(chosen, dtype=np.int64))


def shuffle_edges(tensors: GraphTensors, seed: int) -> GraphTensors:
    """The same graphs with the targets of every relation exchanged at random among the edges of their graph: an ablation.

    Degrees, kinds and edge features stay. Which edge gets which target follows from the edges' features and the seed, not from
    their order, so that the order of nodes still does not matter.
    """
    index = {}
    for number, name in enumerate(RELATIONS):
        if name not in tensors.edge_index:
            continue
        source, target = tensors.edge_index[name]
        owner = _owner(tensors.edge_ptr[name], source.shape[0])
        described = torch.cat([tensors.x[source], tensors.x[target], tensors.edge_attr[name]], dim=1).double()  # (E, 2F+D)
        generator = torch.Generator().manual_seed(seed * len(RELATIONS) + number)
        taker, giver = torch.randn(2, described.shape[1], generator=generator, dtype=torch.float64).to(described.device)
        order = _order_within((described * taker).sum(1), owner)
        donors = _order_within((described * giver).sum(1), owner)
        exchanged = torch.empty_like(target)
        exchanged[order] = target[donors]
        index[name] = torch.stack([source, exchanged])
    return replace(tensors, edge_index=with_reverse(index))


def _order_within(key: Tensor, owner: Tensor) -> Tensor:
    by_key = torch.argsort(key, stable=True)
    return by_key[torch.argsort(owner[by_key], stable=True)]


def feature_classes(names: Sequence[str]) -> list[str]:
    """Class of every feature: its name up to the first dot."""
    return [name.split(".", 1)[0] for name in names]


def chunks(tensors: GraphTensors, graphs: int) -> list[GraphTensors]:
    """The graphs in order, at most `graphs` of them in each batch."""
    bounds = [*range(0, tensors.graphs, graphs), tensors.graphs]
    device = tensors.x.device
    return [tensors.select(torch.arange(low, high, device=device)) for low, high in pairwise(bounds)]
