"""Model files: weights as safetensors, everything else as JSON beside them. Nothing is ever unpickled.

A model is a folder with `model.json` and the weights file that it names. The JSON is replaced last and in one step: whoever
reads the folder, at any moment, finds the old model or the new one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from rca.errors import BadCheckpoint, StorageFull
from rca.tensors import RELATION_NAMES, Schema

VERSION: Final = "1"
MODEL_FILE: Final = "model.json"
_NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FACTS: Final = "facts"


@dataclass(frozen=True)
class ModelCard:
    """What a checkpoint says about itself; the content of `model.json`."""

    ranker: str
    features: tuple[str, ...]
    edge_features: tuple[str, ...]
    families: tuple[str, ...]
    network: Mapping[str, Any]
    training: Mapping[str, Any]
    members: int = 1
    temperature: float = 1.0
    data: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    relations: tuple[str, ...] = RELATION_NAMES
    version: str = VERSION

    @property
    def schema(self) -> Schema:
        return Schema(self.features, self.edge_features)


def save_model(folder: Path, card: ModelCard, weights: Mapping[str, Tensor]) -> None:
    """Write a model into a folder, over the one that is there. Raises StorageFull; what was there then stays."""
    content = safetensors.save({name: value.detach().cpu().contiguous() for name, value in weights.items()})
    digest = hashlib.sha256(content).hexdigest()
    name = f"weights-{digest[:12]}.safetensors"
    body = {**asdict(card), "weights": {"file": name, "sha256": digest}}
    _make_folder(folder)
    write_atomically(folder / name, content)
    write_atomically(folder / MODEL_FILE, (json.dumps(body, indent=2, sort_keys=True) + "\n").encode())
    for old in folder.glob("weights-*.safetensors"):
        if old.name != name:
            old.unlink(missing_ok=True)


def load_model(folder: Path) -> tuple[ModelCard, dict[str, Tensor]]:
    """Card and weights of a model folder. Raises BadCheckpoint for anything that is not a whole model of this version."""
    path = folder / MODEL_FILE
    body = _read_json(path)
    if body.get("version") != VERSION:
        raise BadCheckpoint(str(path), expected=f"version {VERSION!r}", found=repr(body.get("version")))
    try:
        file, digest = str(body["weights"]["file"]), str(body["weights"]["sha256"])
        card = ModelCard(**{key: _tuples(value) for key, value in body.items() if key != "weights"})
    except (KeyError, TypeError) as error:
        raise BadCheckpoint(str(path), expected="the fields of docs/model.md", found=str(error)) from error
    _check_first_difference(str(path), "relations", RELATION_NAMES, card.relations)
    if Path(file).name != file:
        raise BadCheckpoint(str(path), expected="a weights file in the same folder", found=file)
    content = _read(folder / file)
    found = hashlib.sha256(content).hexdigest()
    if found != digest:
        raise BadCheckpoint(str(folder / file), expected=f"SHA-256 {digest[:12]}", found=f"{found[:12]} (damaged or replaced)")
    try:
        return card, safetensors.load(content)
    except SafetensorError as error:
        raise BadCheckpoint(str(folder / file), expected="safetensors", found=str(error)) from error


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _check_first_difference(where: str, what: str, expected: tuple[str, ...], found: tuple[str, ...]) -> None:
    for position in range(max(len(expected), len(found))):
        mine = expected[position] if position < len(expected) else "nothing more"
        theirs = found[position] if position < len(found) else "nothing more"
        if mine != theirs:
            raise BadCheckpoint(f"{where}: {what}[{position}]", expected=repr(mine), found=repr(theirs))


def write_state(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write the state of a running training as one file. Raises StorageFull."""
    # Weights that a network shares with its best copy must be written twice: safetensors refuses shared memory.
    content = safetensors.save(
        {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()},
        {_FACTS: json.dumps(facts)},
    )
    _make_folder(path.parent)
    write_atomically(path, content)


def read_state(path: Path, fingerprint: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a training state. Raises BadCheckpoint where it is damaged or belongs to another run."""
    content = _read(path)
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


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file in one step. Raises StorageFull; the old file then stays."""
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as handle:
            temporary = Path(handle.name)
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            raise StorageFull(f"{path}: expected room for {len(content)} bytes, found none; nothing was changed") from error
        raise


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StorageFull(f"{folder}: expected room for a folder, found none") from error
        raise BadCheckpoint(str(folder), expected="a folder that can be made", found=str(error)) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadCheckpoint(str(path), expected="a readable file", found=error.strerror or str(error)) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(_read(path))
    except ValueError as error:
        raise BadCheckpoint(str(path), expected="JSON", found=str(error)) from error
    if not isinstance(body, dict):
        raise BadCheckpoint(str(path), expected="a JSON object", found=type(body).__name__)
    return body
