"""Weights and training states as safetensors. Nothing is ever unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from rca.errors import BadCheckpoint
from rca.models.files import WEIGHTS, StoredModel, make_folder, read_bytes, write_atomically

_FACTS: Final = "facts"


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
