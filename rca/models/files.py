"""Model folders: `model.json`, and the files that it names by their SHA-256. Reading one needs no machine-learning library.

The JSON is replaced last and in one step: whoever reads the folder, at any moment, finds the old model or the new one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from rca.arrays import RELATION_NAMES, Schema
from rca.errors import BadCheckpoint, StorageFull
from rca.faults import FAMILIES

VERSION: Final = "1"
MODEL_FILE: Final = "model.json"
WEIGHTS, ONNX = "weights", "onnx"
"""The files of a model: its weights, and the whole ranking as an ONNX graph, which may be absent."""

_FILE_NAMES: Final = {WEIGHTS: ("weights", ".safetensors"), ONNX: ("model", ".onnx")}
_NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True)
class ModelCard:
    """What a model says about itself; the content of `model.json` beside its files. docs/model.md has the fields."""

    ranker: str
    features: tuple[str, ...]
    edge_features: tuple[str, ...]
    network: Mapping[str, Any]
    training: Mapping[str, Any]
    name: str = ""
    members: int = 1
    temperature: float = 1.0
    intended_use: str = ""
    limits: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    families: tuple[str, ...] = FAMILIES
    relations: tuple[str, ...] = RELATION_NAMES
    version: str = VERSION

    @property
    def schema(self) -> Schema:
        return Schema(self.features, self.edge_features)


@dataclass(frozen=True)
class StoredModel:
    """A model folder whose `model.json` was read and found fit for this version; its files are read when they are asked for."""

    folder: Path
    card: ModelCard
    files: Mapping[str, tuple[str, str]]  # WEIGHTS or ONNX -> (file name, SHA-256)

    @property
    def id(self) -> str:
        """Name of the model and the start of its weights' digest: what a ranking says ranked it."""
        return f"{self.card.name or self.card.ranker}-{self.files[WEIGHTS][1][:8]}"

    def content(self, which: str) -> bytes:
        """Bytes of a file of the model. Raises BadCheckpoint where it is absent, or not the one that `model.json` names."""
        file, digest = self.files[which]
        path = self.folder / file
        content = read_bytes(path)
        found = hashlib.sha256(content).hexdigest()
        if found != digest:
            raise BadCheckpoint(str(path), expected=f"SHA-256 {digest[:12]}", found=f"{found[:12]} (damaged or replaced)")
        return content


def write_model(folder: Path, card: ModelCard, files: Mapping[str, bytes]) -> None:
    """Write a model into a folder, over the one that is there. Raises StorageFull; what was there then stays."""
    names = {}
    make_folder(folder)
    for which, content in files.items():
        digest = hashlib.sha256(content).hexdigest()
        stem, suffix = _FILE_NAMES[which]
        names[which] = {"file": f"{stem}-{digest[:12]}{suffix}", "sha256": digest}
        write_atomically(folder / names[which]["file"], content)
    _write_json(folder, {**asdict(card), **names})
    kept = {entry["file"] for entry in names.values()}
    for stem, suffix in _FILE_NAMES.values():
        for old in folder.glob(f"{stem}-*{suffix}"):
            if old.name not in kept:
                old.unlink(missing_ok=True)


def describe(
    folder: Path,
    *,
    intended_use: str,
    limits: Sequence[str],
    sources: Sequence[Mapping[str, Any]],
    evaluation: Sequence[Mapping[str, Any]],
) -> None:
    """Say in `model.json` what a model is for, what it was trained on and how well it ranks; its files and id stay.

    `sources` have `name` and `sha256` and what else is worth saying, `evaluation` are summaries of rca.evaluation.tables. Raises
    BadCheckpoint, StorageFull.
    """
    model = read_model(folder)
    card = replace(
        model.card,
        intended_use=intended_use,
        limits=tuple(limits),
        data={**model.card.data, "sources": list(sources)},
        metrics={**model.card.metrics, "evaluation": list(evaluation)},
    )
    _write_json(folder, {**asdict(card), **{which: {"file": file, "sha256": sha} for which, (file, sha) in model.files.items()}})


def _write_json(folder: Path, body: Mapping[str, Any]) -> None:
    write_atomically(folder / MODEL_FILE, (json.dumps(body, indent=2, sort_keys=True) + "\n").encode())


def read_model(folder: Path) -> StoredModel:
    """The model of a folder. Raises BadCheckpoint for anything that is not a model of this version, relations and families."""
    return parsed_model(folder, read_bytes(folder / MODEL_FILE))


def parsed_model(folder: Path, content: bytes) -> StoredModel:
    """The same, `model.json` being read already. Raises BadCheckpoint."""
    path = folder / MODEL_FILE
    body = _json_object(path, content)
    if body.get("version") != VERSION:
        raise BadCheckpoint(str(path), expected=f"a model of version {VERSION!r}", found=repr(body.get("version")))
    try:
        files = {which: _file(path, which, body.pop(which)) for which in (WEIGHTS, ONNX) if which == WEIGHTS or which in body}
        card = ModelCard(**{key: _tuples(value) for key, value in body.items()})
    except (KeyError, TypeError) as error:
        raise BadCheckpoint(str(path), expected="the fields of docs/model.md", found=str(error)) from error
    _check_first_difference(str(path), "relations", RELATION_NAMES, card.relations)
    _check_first_difference(str(path), "families", FAMILIES, card.families)
    if not (isinstance(card.temperature, float) and 0 < card.temperature < float("inf")):
        raise BadCheckpoint(f"{path}: temperature", expected="a positive number", found=repr(card.temperature))
    return StoredModel(folder, card, files)


def _file(path: Path, which: str, entry: Mapping[str, str]) -> tuple[str, str]:
    file, digest = str(entry["file"]), str(entry["sha256"])
    if Path(file).name != file:
        raise BadCheckpoint(str(path), expected=f"{which}: a file in the same folder", found=file)
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise BadCheckpoint(f"{path}: {which}", expected="a SHA-256 in hexadecimal", found=repr(digest))
    return file, digest


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _check_first_difference(where: str, what: str, expected: tuple[str, ...], found: tuple[str, ...]) -> None:
    for position in range(max(len(expected), len(found))):
        mine = expected[position] if position < len(expected) else "nothing more"
        theirs = found[position] if position < len(found) else "nothing more"
        if mine != theirs:
            raise BadCheckpoint(f"{where}: {what}[{position}]", expected=repr(mine), found=repr(theirs))


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


def make_folder(folder: Path) -> None:
    """Make a folder and those above it. Raises StorageFull, BadCheckpoint."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StorageFull(f"{folder}: expected room for a folder, found none") from error
        raise BadCheckpoint(str(folder), expected="a folder that can be made", found=str(error)) from error


def read_bytes(path: Path) -> bytes:
    """Content of a file of a model. Raises BadCheckpoint."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadCheckpoint(str(path), expected="a readable file", found=error.strerror or str(error)) from error


def _json_object(path: Path, content: bytes) -> dict[str, Any]:
    try:
        body = json.loads(content)
    except ValueError as error:
        raise BadCheckpoint(str(path), expected="JSON", found=str(error)) from error
    if not isinstance(body, dict):
        raise BadCheckpoint(str(path), expected="a JSON object", found=type(body).__name__)
    return body
