"""Graphs that stay on the device while a network learns from them.

They are moved there once. A mini-batch is chosen there by index arithmetic; how many rows it will have is counted here, from
counts taken before the graphs moved, so that no step has to wait for the device to say so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from rca.arrays import REVERSE
from rca.telemetry import ENTITY_KINDS
from rca.tensors import NO_FAMILY, GraphTensors, Sizes

_PLAIN: Final = ("nodes", "candidates", "causes", "named")


class Resident:
    """A batch of graphs on a device, and on the host how many rows each of them has."""

    def __init__(self, tensors: GraphTensors, device: torch.device) -> None:
        self._relations = [name for name in tensors.edge_index if not name.startswith(REVERSE)]
        self._counts = _counts(tensors.to("cpu"), self._relations)  # (G, what is counted)
        self.tensors = tensors.to(device)

    @property
    def graphs(self) -> int:
        return self.tensors.graphs

    def batches(self, order: npt.NDArray[np.int64], graphs: int) -> Iterator[GraphTensors]:
        """The graphs in this order, at most `graphs` of them at a time. The order is copied to the device once, for all."""
        rows = torch.from_numpy(order).to(self.tensors.x.device)
        for low in range(0, len(order), graphs):
            chosen = slice(low, low + graphs)
            yield self.tensors.select(rows[chosen], self.sizes(order[chosen]))

    def sizes(self, graphs: npt.NDArray[np.int64]) -> Sizes:
        """How many rows these graphs have together."""
        totals = self._counts[graphs].sum(0).tolist()
        plain = dict(zip(_PLAIN, totals, strict=False))
        by_kind = totals[len(_PLAIN) : len(_PLAIN) + len(ENTITY_KINDS)]
        return Sizes(
            **plain,
            kinds=dict(zip(ENTITY_KINDS, by_kind, strict=True)),
            edges=dict(zip(self._relations, totals[len(_PLAIN) + len(ENTITY_KINDS) :], strict=True)),
        )


def _counts(tensors: GraphTensors, relations: list[str]) -> npt.NDArray[np.int64]:
    """For every graph: what `_PLAIN` names, nodes of every kind, edges of every relation."""
    graphs, nodes = tensors.graphs, tensors.node_graph.numpy()
    causes = tensors.candidate_graph[tensors.target].numpy()
    named = causes[(tensors.family != NO_FAMILY).numpy()[causes]]
    kinds = tensors.kind.numpy()
    columns = [
        tensors.node_ptr.diff().numpy(),
        tensors.candidate_ptr.diff().numpy(),
        np.bincount(causes, minlength=graphs),
        np.bincount(named, minlength=graphs),
        *(np.bincount(nodes[kinds == kind], minlength=graphs) for kind in range(len(ENTITY_KINDS))),
        *(tensors.edge_ptr[name].diff().numpy() for name in relations),
    ]
    return np.stack(columns, axis=1).astype(np.int64)
