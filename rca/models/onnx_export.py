"""The whole ranking as an ONNX graph: standardisation, label-free score, networks, strength and calibration in one file.

Made by torch's dynamo exporter with dynamic dimensions; the older exporter succeeds and is silently wrong. Needs onnx and
onnxscript. rca.models.onnx_graph has the inputs and outputs.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from rca.arrays import Schema
from rca.errors import BadInput
from rca.features import FLOOR_FEATURE
from rca.graph import RELATIONS, ServiceGraph
from rca.models.engines import Links, TorchEngine
from rca.models.network import Network
from rca.models.onnx_graph import NODES, OUTPUTS, edge_inputs, feeds, rows_input
from rca.telemetry import ENTITY_KINDS, EntityId
from rca.tensors import GraphTensors, both_ways, with_reverse

LIBRARIES: Final = ("onnx", "onnxscript")
"""What exporting needs beside torch."""

_OPSET: Final = 20


def missing_libraries() -> list[str]:
    """Libraries that exporting needs and that are not installed."""
    return [name for name in LIBRARIES if importlib.util.find_spec(name) is None]


def exported(networks: Sequence[Network], temperature: float) -> bytes:
    """Networks that were trained together as the content of an ONNX file. Takes about 20 s for each.

    Raises BadInput where a library is missing, or for the ablation with shuffled edges, whose random numbers are torch's own.
    """
    if missing := missing_libraries():
        expected = "onnx and onnxscript to be installed (pip install 'rca-gnn[gnn]')"
        raise BadInput("export to ONNX", expected=expected, found=f"no {' and no '.join(missing)}")
    if networks[0].config.edges == "shuffled":
        raise BadInput("export to ONNX", expected="real edges or none", found="shuffled ones, an ablation that needs torch")
    ranking = _Ranking(networks, temperature).eval()
    example = {name: torch.from_numpy(values) for name, values in feeds(_example(networks[0].schema)).items()}
    dynamic = {name: {1 if name.endswith(".edges") else 0: torch.export.Dim.DYNAMIC} for name in example}
    with _quietly():
        program = torch.onnx.export(
            ranking,
            (),
            kwargs={"inputs": example},
            dynamic_shapes={"inputs": dynamic},
            input_names=list(example),
            output_names=list(OUTPUTS),
            opset_version=_OPSET,
            dynamo=True,
            optimize=False,  # its rewriting takes longer than the export, and finds nothing that matters here
            verbose=False,
        )
        return _compact(program)


class _Ranking(nn.Module):
    """All networks of an ensemble on one graph, averaged and calibrated, in float64."""

    def __init__(self, networks: Sequence[Network], temperature: float) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks).double()
        self.schema, self.temperature = networks[0].schema, temperature

    def forward(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        tensors, engine = _one_graph(self.schema, inputs), _OnnxEngine()
        outputs = [network(tensors, engine) for network in self.networks]
        score = torch.stack([output.score for output in outputs]).mean(0)
        null = torch.stack([output.null for output in outputs]).mean(0)
        family = torch.stack([output.family.softmax(1) for output in outputs]).mean(0)
        return score, null, family, (torch.cat([score, null]) / self.temperature).softmax(0)


@dataclass(frozen=True, eq=False, kw_only=True)
class _OneGraph(GraphTensors):
    """A single graph. Its rows by kind are given, since a search for them would have as many results as the values want."""

    rows: Mapping[str, Tensor]

    @property
    def graphs(self) -> int:
        return 1

    @cached_property
    def candidate_graph(self) -> Tensor:
        return torch.zeros_like(self.candidate)

    @cached_property
    def kind_rows(self) -> Mapping[str, Tensor]:
        return self.rows


def _one_graph(schema: Schema, inputs: Mapping[str, Tensor]) -> _OneGraph:
    x, available, candidate = (inputs[name] for name in NODES)
    x = x.double()
    index, attr, known = ({name: inputs[edge_inputs(name)[part]] for name in RELATIONS} for part in range(3))
    unused = candidate.new_zeros(0)
    return _OneGraph(
        schema=schema,
        x=x,
        available=available,
        kind=unused,
        node_ptr=unused,
        edge_index=with_reverse(index),
        edge_attr=both_ways({name: values.double() for name, values in attr.items()}),
        edge_available=both_ways(known),
        edge_ptr={},
        candidate=candidate,
        candidate_ptr=unused,
        floor=x[:, schema.features.index(FLOOR_FEATURE)].index_select(0, candidate),
        target=unused,
        family=unused,
        weight=unused,
        is_normal=unused,
        rows={kind: inputs[rows_input(kind)] for kind in ENTITY_KINDS},
    )


@dataclass(frozen=True, eq=False)
class _Handle:
    """Target of every item as a column, (E, 1), and how many items every target has, (T, 1)."""

    column: Tensor
    count: Tensor


class _OnnxEngine(TorchEngine):
    """Reductions as ONNX's own ScatterND: fewer and faster operations than what torch's are exported as."""

    name = "onnx"

    def links(self, source: Tensor, target: Tensor, sources: int, targets: int) -> Links:
        column = target.unsqueeze(1)
        ones = torch.ones_like(column, dtype=torch.float64)
        count = _scattered(ones.new_zeros((targets, 1)), column, ones, "add")
        return Links(source, target, sources, targets, _Handle(column, count))

    def degree(self, links: Links, like: Tensor) -> Tensor:
        count: Tensor = links.handle.count
        return count.clamp(min=1).to(like.dtype)

    def sum(self, values: Tensor, links: Links) -> Tensor:
        return _scattered(values.new_zeros((links.targets, values.shape[1])), links.handle.column, values, "add")

    def peak(self, values: Tensor, links: Links) -> Tensor:
        lowest = values.new_full((links.targets, values.shape[1]), -torch.inf)
        largest = _scattered(lowest, links.handle.column, values, "max")
        return torch.where(links.handle.count > 0, largest, torch.zeros_like(largest))

    def maximum(self, values: Tensor, links: Links) -> Tensor:
        return self.peak(values, links)


def _scattered(into: Tensor, column: Tensor, values: Tensor, reduction: str) -> Tensor:
    return torch.onnx.ops.symbolic(
        "ScatterND", (into, column, values), {"reduction": reduction}, dtype=into.dtype, shape=into.shape, version=18
    )


def _example(schema: Schema) -> ServiceGraph:
    """A graph with every kind and relation, to trace the export with; no two of its sizes are equal, nor 0 or 1."""
    entities = tuple(EntityId(kind, str(i)) for row, kind in enumerate(ENTITY_KINDS) for i in range(2 + row))
    kinds: list[str] = [entity.kind for entity in entities]
    n, f, d = len(entities), len(schema.features), len(schema.edge_features)
    sizes = {name: n + 1 + row for row, name in enumerate(RELATIONS)}
    edges = {
        name: np.array([[kinds.index(source)] * sizes[name], [kinds.index(target) + 1] * sizes[name]], dtype=np.int64)
        for name, (source, target) in RELATIONS.items()
    }
    return ServiceGraph(
        entities,
        schema.features,
        np.zeros((n, f), dtype=np.float32),
        np.ones((n, f), dtype=np.bool_),
        edges,
        schema.edge_features,
        {name: np.zeros((sizes[name], d), dtype=np.float32) for name in RELATIONS},
        {name: np.ones((sizes[name], d), dtype=np.bool_) for name in RELATIONS},
    )


def _compact(program: Any) -> bytes:
    """The file's content without what only debugging needs, constants folded, and weights in the precision they were saved in."""
    import onnx_ir.passes.common as passes
    from onnxscript import optimizer

    model = program.model
    optimizer.fold_constants(model, onnx_shape_inference=False)
    for step in (
        passes.CommonSubexpressionEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.ClearMetadataAndDocStringPass(),
    ):
        step(model)
    proto = program.model_proto
    del proto.graph.value_info[:]
    _halve(proto)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def _halve(proto: Any) -> None:
    """Keep constants that float32 holds exactly, as weights are, in it; they are widened when the file is loaded."""
    from onnx import TensorProto, helper, numpy_helper

    constants, widened = list(proto.graph.initializer), []
    del proto.graph.initializer[:]
    for constant in constants:
        values = numpy_helper.to_array(constant)
        narrow = values.astype(np.float32)
        if values.dtype == np.float64 and values.size > 1 and np.array_equal(narrow.astype(np.float64), values):
            name = f"{constant.name}.float32"
            proto.graph.initializer.append(numpy_helper.from_array(narrow, name))
            widened.append(helper.make_node("Cast", [name], [constant.name], to=TensorProto.DOUBLE))
        else:
            proto.graph.initializer.append(constant)
    nodes = [*widened, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep the exporter's progress, advice and deprecations from the caller."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
