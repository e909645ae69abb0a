"""The dgl engine: the only module that knows dgl.

Its first import prints to stdout, and writes to the home folder unless DGLBACKEND is set; both are kept from the caller.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from rca.errors import BadInput
from rca.models.engines import Engine, Links


class DglEngine(Engine):
    """dgl's fused kernels. CPU wheels exist for Python up to 3.11."""

    name = "dgl"

    def __init__(self) -> None:
        self._dgl = _import_dgl()

    def links(self, source: Tensor, target: Tensor, sources: int, targets: int) -> Links:
        shape = {"source": sources, "target": targets}
        graph = self._dgl.heterograph({("source", "to", "target"): (source, target)}, num_nodes_dict=shape, device=source.device)
        return Links(source, target, sources, targets, graph)

    def gather(self, values: Tensor, links: Links) -> Tensor:
        return self._tensor(self._dgl.ops.copy_u(links.handle, values))

    def spread(self, values: Tensor, links: Links) -> Tensor:
        return self._tensor(self._dgl.ops.copy_v(links.handle, values))

    def sum(self, values: Tensor, links: Links) -> Tensor:
        return self._tensor(self._dgl.ops.copy_e_sum(links.handle, values))

    def peak(self, values: Tensor, links: Links) -> Tensor:
        largest = self._tensor(self._dgl.ops.copy_e_max(links.handle, values.detach()))
        return largest.masked_fill(largest.isneginf(), 0)  # dgl's value for a target without items

    def softmax(self, scores: Tensor, links: Links) -> Tensor:
        return self._tensor(self._dgl.ops.edge_softmax(links.handle, scores))

    @staticmethod
    def _tensor(value: Any) -> Tensor:
        result: Tensor = value
        return result


def _import_dgl() -> Any:
    try:
        with _backend("pytorch"), contextlib.redirect_stdout(io.StringIO()):
            return importlib.import_module("dgl")
    except (ImportError, OSError) as error:
        raise BadInput("engine dgl", expected="dgl 1.1.3 to be installed (extra gnn, Python 3.11)", found=str(error)) from error


@contextlib.contextmanager
def _backend(name: str) -> Iterator[None]:
    """Set DGLBACKEND for a while, so that dgl neither asks nor writes ~/.dgl."""
    before = os.environ.get("DGLBACKEND")
    os.environ["DGLBACKEND"] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ["DGLBACKEND"]
        else:
            os.environ["DGLBACKEND"] = before
