"""Weights, training states and graphs as safetensors. Nothing is ever unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from rca.arrays import REVERSE, Schema
from rca.errors import BadCheckpoint
from rca.models.files import WEIGHTS, StoredModel, make_folder, read_bytes, write_atomically
from rca.tensors import GraphTensors

_FACTS: Final = "facts"
_PLAIN: Final = (
    "x",
    "available",
    "kind",
    "node_ptr",
    "candidate",
    "candidate_ptr",
    "floor",
    "target",
    "family",
    "weight",
    "is_normal",
)
_BY_RELATION: Final = ("edge_index", "edge_attr", "edge_available", "edge_ptr")


def weights_file(weights: Mapping[str, Tensor]) -> bytes:
    """Weights as the content of a safetensors file."""
    content: bytes = safetensors.save({name: value.detach().cpu().contiguous() for name, value in weights.items()})
    return content


def weights_of(model: StoredModel) -> dict[str, Tensor]:
    """Weights of a stored model. Raises BadCheckpoint where they are damaged."""
    try:
        weights: dict[str, Tensor] = safetensors.load(model.content(WEIGHTS))
    except SafetensorError as error:
        where = str(model.folder / model.files[WEIGHTS][0])
        raise BadCheckpoint(where, expected="safetensors", found=str(error)) from error
    return weights


def write_state(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write the state of a running training as one file. Raises StorageFull."""
    # Weights that a network shares with its best copy must be written twice: safetensors refuses shared memory.
    content = safetensors.save(
        {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()},
        {_FACTS: json.dumps(facts)},
    )
    make_folder(path.parent)
    write_atomically(path, content)


def read_state(path: Path, fingerprint: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a training state. Raises BadCheckpoint where it is damaged or belongs to another run."""
    content = read_bytes(path)
    try:
        tensors = safetensors.load(content)
        length = int.from_bytes(content[:8], "little")
        facts: dict[str, Any] = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][_FACTS])
    except (SafetensorError, KeyError, ValueError) as error:
        raise BadCheckpoint(str(path), expected="a training state", found=f"{error} (delete it to start afresh)") from error
    if facts.pop("fingerprint", "") != fingerprint:
        found = "that of another one (delete it to start afresh)"
        raise BadCheckpoint(str(path), expected="the state of a run with the same data and options", found=found)
    return tensors, facts


def values_of_graphs(graphs: GraphTensors) -> dict[str, Tensor]:
    """Everything about graphs but their features' names, under names of its own. Backward relations follow from the others."""
    values: dict[str, Tensor] = {name: getattr(graphs, name) for name in _PLAIN}
    for name in _BY_RELATION:
        values |= {f"{name}.{rel}": value for rel, value in getattr(graphs, name).items() if not rel.startswith(REVERSE)}
    return values


def graphs_of_values(schema: Schema, values: Mapping[str, Tensor]) -> GraphTensors:
    """The graphs that `values_of_graphs` took apart."""
    by_relation: dict[str, dict[str, Tensor]] = {name: {} for name in _BY_RELATION}
    for name, value in values.items():
        kind, _, relation = name.partition(".")
        if relation:
            by_relation[kind][relation] = value
            backwards = value.flip(0) if kind == "edge_index" else value
            by_relation[kind][REVERSE + relation] = backwards
    return GraphTensors(schema, **{name: values[name] for name in _PLAIN}, **by_relation)  # type: ignore[arg-type]


def write_graphs(path: Path, graphs: GraphTensors) -> None:
    """Write graphs as one file. Raises StorageFull."""
    write_atomically(path, weights_file(values_of_graphs(graphs)))


def read_graphs(path: Path, schema: Schema) -> GraphTensors:
    """Graphs that were written just now, read as they are needed, where several processes read them from memory only once."""
    return graphs_of_values(schema, safetensors.load_file(path))
