"""Ranks with an exported model: numpy and onnxruntime, no torch. Scores equal the torch engine's within 1e-4."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

from rca.contracts import Case, LabelledCase
from rca.errors import BadCheckpoint, BadInput
from rca.graph import ServiceGraph
from rca.models.files import ONNX, StoredModel, read_model
from rca.models.onnx_graph import NODES, OUTPUTS, edge_inputs, feeds, input_names
from rca.models.scored import Scores, ranking_of_scores
from rca.ranking import Ranking

_FATAL: Final = 4  # onnxruntime's log level: what goes wrong is raised, and said once
_CALLS: Final = "calls"


class OnnxRanker:
    """A trained model in the form that onnxruntime runs. One thread: repeatable, and fast enough for one graph.

    Its training is over: `fit` changes nothing, so an evaluation measures the model as it is.
    """

    uses_names: bool = False
    learned: bool = False

    def __init__(self, model: StoredModel) -> None:
        """Raises BadCheckpoint for a file that is damaged or does not fit the model, BadInput where onnxruntime is missing."""
        self.name = model.id
        self.card = model.card
        self._session = _session(model)
        self._inputs = [node.name for node in self._session.get_inputs()]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The model of a folder. Raises BadCheckpoint, also where it was saved without the exported ranking."""
        model = read_model(folder)
        if ONNX not in model.files:
            raise BadCheckpoint(str(folder), expected="an ONNX file, as `rca train` writes it", found="weights alone")
        return cls(model)

    def fit(self, cases: Sequence[LabelledCase], validation: Sequence[LabelledCase] | None = None) -> Self:  # noqa: ARG002
        return self

    def rank(self, case: Case) -> Ranking:
        """Raises BadCheckpoint for a graph with other features."""
        return ranking_of_scores(self.name, self.card.schema, case, self.scores)

    def scores(self, graph: ServiceGraph) -> Scores:
        """What the networks say on average. Raises BadGraph, and BadCheckpoint where the file computes no such thing."""
        arrays = feeds(graph)
        try:
            score, null, family = self._session.run(list(OUTPUTS[:3]), {name: arrays[name] for name in self._inputs})
            found = Scores(score, float(null[0]), family)
        except Exception as error:  # onnxruntime's own errors share no class
            raise BadCheckpoint(f"ranker {self.name}", expected="an ONNX graph that ranks", found=_said(error)) from error
        return found


def _session(model: StoredModel) -> Any:
    """onnxruntime's session of a model, checked against what the model says about itself."""
    content = model.content(ONNX)
    where = str(model.folder / model.files[ONNX][0])
    try:
        import onnxruntime
    except ImportError as error:
        raise BadInput("engine onnx", expected="onnxruntime to be installed", found=str(error)) from error
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL
    # The file is optimised already, and planning which results share memory takes ten times longer than ranking.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_mem_reuse = options.enable_mem_pattern = False
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own errors share no class
        expected = f"an ONNX graph that onnxruntime {onnxruntime.__version__} can run"
        raise BadCheckpoint(where, expected=expected, found=_said(error)) from error
    _check(session, model, where)
    return session


def _said(error: Exception) -> str:
    """The end of what an error begins with."""
    return (str(error).splitlines() or [type(error).__name__])[0][-200:]


def _check(session: Any, model: StoredModel, where: str) -> None:
    """Raise BadCheckpoint where a session's inputs and outputs are not those of the model."""
    shapes = {node.name: node.shape for node in session.get_inputs()}
    unknown = sorted(set(shapes) - set(input_names()))
    outputs = [node.name for node in session.get_outputs()]
    if unknown or NODES[0] not in shapes:
        raise BadCheckpoint(f"{where}: inputs", expected="those of docs/model.md", found=", ".join(unknown or shapes) or "none")
    if not set(OUTPUTS) <= set(outputs):
        raise BadCheckpoint(f"{where}: outputs", expected=", ".join(OUTPUTS), found=", ".join(outputs))
    edges = edge_inputs(_CALLS)[1]
    for name, columns in ((NODES[0], model.card.features), (edges, model.card.edge_features)):
        if name in shapes and shapes[name][-1:] != [len(columns)]:
            found = str(shapes[name][-1]) if shapes[name] else "a single number"
            raise BadCheckpoint(f"{where}: {name}", expected=f"{len(columns)} columns", found=found)
