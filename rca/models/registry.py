"""Rankers by name. A ranker's module is imported when it is asked for, so that rules need no machine-learning library.

Other packages add rankers by the entry point group `rca.rankers`: the name, and a class or function that takes the parameters.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Final

from rca.contracts import Ranker
from rca.errors import BadInput, UnknownName
from rca.models.files import ONNX, read_model

ENTRY_POINT_GROUP: Final = "rca.rankers"

ENGINES: Final = ("onnx", "torch", "dgl")
"""What a trained model can be run by; onnx needs the base install alone."""

BUILT_IN: Final[dict[str, str]] = {
    "floor": "rca.models.rules.floor:Floor",
    "random": "rca.models.rules.blind:Random",
    "most-frequent": "rca.models.rules.blind:MostFrequent",
    "max-z": "rca.models.rules.loudest:MaxZ",
    "nsigma": "rca.models.rules.loudest:NSigma",
    "baro": "rca.models.rules.loudest:Baro",
    "most-alerts": "rca.models.rules.alerts:MostAlerts",
    "simple-rca": "rca.models.rules.alerts:SimpleRca",
    "prism-additive": "rca.models.rules.prism:PrismAdditive",
    "prism-conjunctive": "rca.models.rules.prism:PrismConjunctive",
    "microrca": "rca.models.rules.walks:MicroRca",
    "pagerank-z": "rca.models.rules.walks:PageRankZ",
    "hypothesis-test": "rca.models.rules.hypothesis:HypothesisTest",
    "names-only": "rca.models.learned:NamesOnly",
    "logistic": "rca.models.learned:Logistic",
    "lambdamart": "rca.models.learned:LambdaMart",
    "gnn": "rca.models.gnn:NetworkRanker",
    "gnn-dgl": "rca.models.gnn:DglNetworkRanker",
    "gnn-shuffled": "rca.models.gnn:ShuffledNetworkRanker",
    "mlp": "rca.models.gnn:MlpRanker",
    "model": "rca.models.shipped:trained",
}
"""Name -> `module:class or function`."""


def names() -> tuple[str, ...]:
    """Every ranker that can be asked for without parameters, ours first; `model` where a model is shipped."""
    from rca.models.shipped import shipped_folder

    ours = [name for name in BUILT_IN if name != "model" or shipped_folder() is not None]
    return (*ours, *sorted(name for name in _third_party() if name not in BUILT_IN))


def create(name: str, **parameters: Any) -> Ranker:
    """A ranker that is not trained yet.

    Raises UnknownName for a name or parameter that does not exist, BadInput if a library that it needs is missing or the entry
    point yields something else.
    """
    constructor = _constructor(name)
    for parameter in parameters:
        if not takes(name, parameter):
            raise UnknownName(f"parameter of ranker {name}", parameter, inspect.signature(constructor).parameters)
    ranker = constructor(**parameters)
    if not isinstance(ranker, Ranker):
        raise BadInput(f"ranker {name}", expected="name, uses_names, learned, fit and rank", found=type(ranker).__name__)
    return ranker


def load(folder: Path, engine: str | None = None) -> Ranker:
    """A trained model from its folder, run by onnxruntime if it was exported, else by torch, unless an engine is named.

    Its name is the model's id, whatever the engine. Raises BadCheckpoint, UnknownName for an engine that does not exist, BadInput
    if the libraries that it needs are missing.
    """
    if engine is not None and engine not in ENGINES:
        raise UnknownName("engine", engine, ENGINES)
    model = read_model(folder)
    if engine == "onnx" or (engine is None and ONNX in model.files):
        from rca.models.onnx_ranker import OnnxRanker

        return OnnxRanker.load(folder)
    constructor = _constructor("gnn")
    ranker: Ranker = constructor.load(folder, engine=engine or "torch")  # type: ignore[attr-defined]
    ranker.name = model.id
    return ranker


def takes(name: str, parameter: str) -> bool:
    """True if the ranker has this parameter. Raises as `create` does."""
    known = inspect.signature(_constructor(name)).parameters
    return parameter in known or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())


def _constructor(name: str) -> Callable[..., Any]:
    if name not in BUILT_IN and name not in names():
        raise UnknownName("ranker", name, names())
    try:
        if name in BUILT_IN:
            module, attribute = BUILT_IN[name].split(":")
            found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
            return found
        loaded: Callable[..., Any] = _third_party()[name].load()
    except ModuleNotFoundError as error:
        expected = "the libraries of the extra `gnn` (pip install 'rca-gnn[gnn]')"
        raise BadInput(f"ranker {name}", expected=expected, found=f"no module {error.name}") from error
    return loaded


@cache
def _third_party() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
