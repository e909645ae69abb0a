"""Sparse primitives of message passing, behind one small interface with interchangeable engines.

`Links` say which item goes where: from a row of the sources to a row of the targets. Message passing uses them with edges as
items, pooling with candidates as items. Engines differ in speed alone; a test holds their results within 1e-5 of each other,
gradients included.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from rca.errors import UnknownName

ENGINES: Final = ("torch", "dgl")


@dataclass(frozen=True, eq=False)
class Links:
    """E items between S sources and T targets. `handle` is the engine's own form of the same links."""

    source: Tensor  # (E,) int64
    target: Tensor  # (E,) int64
    sources: int
    targets: int
    handle: Any = None


class Engine(ABC):
    """Gather, scatter and softmax over links.

    Shapes: E items, S sources, T targets, W channels. A target without items gets 0 from every reduction.
    """

    name: str

    @abstractmethod
    def links(self, source: Tensor, target: Tensor, sources: int, targets: int) -> Links:
        """Prepare links once for many uses."""

    @abstractmethod
    def gather(self, values: Tensor, links: Links) -> Tensor:
        """Value of every item's source: (S, W) -> (E, W)."""

    @abstractmethod
    def spread(self, values: Tensor, links: Links) -> Tensor:
        """Value of every item's target: (T, W) -> (E, W)."""

    @abstractmethod
    def sum(self, values: Tensor, links: Links) -> Tensor:
        """Sum of the items of every target: (E, W) -> (T, W)."""

    @abstractmethod
    def peak(self, values: Tensor, links: Links) -> Tensor:
        """Largest item of every target, without a gradient: (E, W) -> (T, W)."""

    @abstractmethod
    def softmax(self, scores: Tensor, links: Links) -> Tensor:
        """Softmax over the items of every target: (E, W) -> (E, W)."""

    def degree(self, links: Links, like: Tensor) -> Tensor:
        """Items of every target, at least 1, (T, 1), in the number type of `like`."""
        # Not bincount, which asks a GPU for the largest value and waits for it.
        counts = torch.zeros(links.targets, dtype=torch.int64, device=links.target.device)
        counts = counts.index_add(0, links.target, torch.ones_like(links.target))
        return counts.clamp(min=1).to(like.dtype).unsqueeze(1)

    def maximum(self, values: Tensor, links: Links) -> Tensor:
        """Largest item of every target: (E, W) -> (T, W). Items that tie share the gradient evenly, whatever the engine."""
        largest: Tensor = _Maximum.apply(values, links, self)  # type: ignore[no-untyped-call]
        return largest

    def log_sum_exp(self, scores: Tensor, links: Links) -> Tensor:
        """Logarithm of the summed exponentials of every target's items: (E, W) -> (T, W); -inf for a target without items."""
        peak = self.peak(scores.detach(), links)
        peak = torch.where(peak.isfinite(), peak, torch.zeros_like(peak))
        total = self.sum((scores - self.spread(peak, links)).exp(), links)
        empty = total == 0
        safe = torch.where(empty, torch.ones_like(total), total)  # log(0) would poison the gradient
        return torch.where(empty, torch.full_like(total, -torch.inf), safe.log() + peak)


class _Maximum(torch.autograd.Function):
    """Maximum with a gradient of our own.

    torch's gradient of scatter_reduce(amax) takes a hundred times its forward pass, and dgl gives ties to one item only.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, links: Links, engine: Engine) -> Tensor:
        largest = engine.peak(values, links)
        ctx.links, ctx.engine = links, engine
        ctx.save_for_backward(values, largest)
        return largest

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        values, largest = ctx.saved_tensors
        wins = (values == ctx.engine.spread(largest, ctx.links)).to(values.dtype)  # (E, W)
        share = grads[0] / ctx.engine.sum(wins, ctx.links).clamp(min=1)  # (T, W)
        return wins * ctx.engine.spread(share, ctx.links), None, None


class TorchEngine(Engine):
    """index_add, scatter_reduce and index_select: runs wherever torch runs."""

    name = "torch"

    def links(self, source: Tensor, target: Tensor, sources: int, targets: int) -> Links:
        return Links(source, target, sources, targets)

    def gather(self, values: Tensor, links: Links) -> Tensor:
        return values.index_select(0, links.source)

    def spread(self, values: Tensor, links: Links) -> Tensor:
        return values.index_select(0, links.target)

    def sum(self, values: Tensor, links: Links) -> Tensor:
        zeros = values.new_zeros((links.targets, values.shape[1]))
        return zeros.index_add(0, links.target, values)

    def peak(self, values: Tensor, links: Links) -> Tensor:
        index = links.target.unsqueeze(1).expand_as(values)
        zeros = values.new_zeros((links.targets, values.shape[1]))
        return zeros.scatter_reduce(0, index, values.detach(), "amax", include_self=False)

    def softmax(self, scores: Tensor, links: Links) -> Tensor:
        weights = (scores - self.spread(self.peak(scores, links), links)).exp()
        return weights / self.spread(self.sum(weights, links), links)


def engine_of(name: str) -> Engine:
    """The engine of that name; dgl is imported only when asked for. Raises UnknownName; BadInput where dgl is missing."""
    if name == "torch":
        return TorchEngine()
    if name == "dgl":
        from rca.models.dgl_engine import DglEngine

        return DglEngine()
    raise UnknownName("engine", name, ENGINES)
