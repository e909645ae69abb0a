"""Versions of models, and which of them ranks: `models/` below the home of the store.

    versions/<id>/        a model folder that never changes, named by its content, and `version.json` about it
    evaluations/<id>/     what was measured of that version, one file each, named by its content
    state.json            which version ranks and which one is in shadow: replaced in one step, by one process at a time
    history.jsonl         every change of it: who, when, why, from, to, on which evaluation

`state.json` holds the change that made it, so that its replacement is the one moment that counts: after kill -9 the line that the
history lacks is taken from there. Looking something up makes nothing. docs/models.md has the fields.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from rca import __version__
from rca.arrays import Schema
from rca.errors import BadBundle, BadCheckpoint, BadInput, Unavailable, UnknownName
from rca.features import EDGE_FEATURE_NAMES, NODE_FEATURE_NAMES
from rca.incidents.bundle import ARCHIVE_SUFFIX, fsync_folder, read_archive, storage, write_archive, write_folder
from rca.incidents.home import default_home, user_name
from rca.models.files import MODEL_FILE, StoredModel, parsed_model, read_bytes, read_model, write_atomically
from rca.provenance import code_digest
from rca.wording import clock

FORMAT: Final = "1"
FOLDER: Final = "models"
VERSION_FILE: Final = "version.json"
STATE_FILE: Final = "state.json"
HISTORY_FILE: Final = "history.jsonl"
CURRENT, SHADOW = "current", "shadow"
"""What stands for the version that ranks, and for the one beside it, wherever a version is named."""

_MEASURED: Final = "evaluation-"
"""How files of an archive begin that say what was measured."""
_LOCK_FILE: Final = "lock"
_LOCK_S: Final = 20.0
_DIGITS: Final = 12
_LARGEST: Final = 2**30  # bytes of a model

Action = Literal["promote", "rollback", "shadow"]


@dataclass(frozen=True)
class Facts:
    """What is known of a version beside its card: where it came from, and the SHA-256 of every file."""

    id: str
    files: Mapping[str, str]
    registered_ns: int
    who: str
    source: str
    code: str
    """Version of the program that registered it, and digest of its code that makes cases and models."""
    parent: str | None = None
    note: str = ""
    version: str = FORMAT


@dataclass(frozen=True)
class Version:
    """A registered model."""

    facts: Facts
    model: StoredModel

    @property
    def id(self) -> str:
        return self.facts.id

    @property
    def folder(self) -> Path:
        return self.model.folder

    def check(self) -> None:
        """Raise BadCheckpoint where a file is damaged or gone, or where the model is for other features than those made here."""
        for name, digest in self.facts.files.items():
            _check_digest(self.folder / name, read_bytes(self.folder / name), digest)
        self.model.card.schema.check(Schema(NODE_FEATURE_NAMES, EDGE_FEATURE_NAMES), str(self.folder))


@dataclass(frozen=True)
class Change:
    """One change of what ranks, or of what is in shadow. None for a version stands for the model that ships."""

    number: int
    action: Action
    at_ns: int
    who: str
    why: str
    before: str | None
    after: str | None
    evaluation: str | None = None
    forced: bool = False


@dataclass(frozen=True)
class State:
    """Which version ranks, which one is in shadow, and the change that made it so; `number` is 0 before the first."""

    current: str | None = None
    shadow: str | None = None
    change: Change | None = None

    @property
    def number(self) -> int:
        return self.change.number if self.change else 0


@dataclass(frozen=True)
class Found:
    """A version that was registered, and whether it was new."""

    version: Version
    new: bool = field(default=True)


class Versions:
    """The models of a home. Several processes may use them at once.

    Raises BadInput for a home that cannot be written or models of another version of this format, StorageFull, and Unavailable
    if another process holds the lock for too long.
    """

    def __init__(self, home: Path | None = None, *, who: str = "") -> None:
        self.home = home or default_home()
        self.folder = self.home / FOLDER
        self._who = who or user_name()

    # --- reading ----------------------------------------------------------------------------------------------------

    def list(self) -> tuple[Version, ...]:
        """Every version that can be read, oldest first."""
        return self.look()[0]

    def look(self) -> tuple[tuple[Version, ...], tuple[tuple[str, str], ...]]:
        """Every version that can be read, oldest first; and the ids of those that cannot, with the reason."""
        found: dict[str, Version] = {}
        broken: dict[str, str] = {}
        for each in self.ids():
            try:
                found[each] = self._read(each)
            except BadCheckpoint as error:
                broken[each] = str(error)
        return tuple(sorted(found.values(), key=lambda each: (each.facts.registered_ns, each.id))), tuple(broken.items())

    def ids(self) -> tuple[str, ...]:
        """Ids of all versions."""
        folder = self.folder / "versions"
        return tuple(sorted(path.name for path in folder.iterdir() if path.name[0] != ".")) if folder.is_dir() else ()

    def get(self, text: str) -> Version:
        """The version of an id, of the start of one, or `current` or `shadow`. Raises UnknownName, BadInput, BadCheckpoint."""
        if text in (CURRENT, SHADOW):
            state = self.state()
            found = state.current if text == CURRENT else state.shadow
            if found is None:
                expected = "a version to have been promoted" if text == CURRENT else "a version in shadow"
                raise BadInput(str(self.folder), expected=expected, found="none")
            return self._read(found)
        ids = self.ids()
        fits = [each for each in ids if each == text] or [each for each in ids if text and each.startswith(text)]
        if not fits:
            raise UnknownName(f"version of a model in {self.folder}", text, ids)
        if len(fits) > 1:
            raise BadInput("version", expected="one version", found=f"{text!r}, with which {' and '.join(fits)} begin")
        return self._read(fits[0])

    def state(self) -> State:
        """What ranks. Raises BadCheckpoint where that cannot be read."""
        path = self.folder / STATE_FILE
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return State()
        except OSError as error:
            raise BadCheckpoint(str(path), expected="a readable file", found=error.strerror or str(error)) from error
        body = _object(path)
        if body.get("version") != FORMAT:
            raise BadCheckpoint(str(path), expected=f"models of version {FORMAT!r}", found=repr(body.get("version")))
        try:
            return State(body["current"], body["shadow"], Change(**body["change"]))
        except (KeyError, TypeError) as error:
            raise BadCheckpoint(str(path), expected="the fields of docs/models.md", found=str(error)) from error

    def stamp(self) -> tuple[int, int] | None:
        """What changes whenever `state` does; None while there is none. One look at the disk."""
        try:
            found = (self.folder / STATE_FILE).stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino

    def history(self) -> tuple[Change, ...]:
        """Every change, oldest first. Raises BadCheckpoint where the file was damaged other than by a crash."""
        found = [change for _, change in _changes(self.folder / HISTORY_FILE)]
        last = self.state().change
        if last is not None and (not found or found[-1].number < last.number):
            found.append(last)  # the process ended before it wrote the line
        return tuple(found)

    def evaluations(self, version: str) -> tuple[Mapping[str, Any], ...]:
        """What was measured of a version, oldest first, each with its `digest`. Raises BadCheckpoint."""
        folder = self.folder / "evaluations" / version
        found = [_evaluation(path) for path in sorted(folder.glob("*.json"))] if folder.is_dir() else []
        return tuple(sorted(found, key=lambda body: int(body["made_ns"])))

    # --- writing ----------------------------------------------------------------------------------------------------

    def register(self, folder: Path, *, source: str, parent: str | None = None, note: str = "") -> Found:
        """Keep a copy of a model folder as a version; one of the same content is kept once.

        Raises BadCheckpoint for what is no model, is damaged, or was trained on other features than those that are made here.
        """
        files = _files(folder)
        return self._keep(folder, files, source, parent, note)

    def import_(self, path: Path) -> Found:
        """Keep the model of a folder or an archive that `export` wrote as a version, with what was measured of it.

        Raises BadCheckpoint, BadBundle.
        """
        if path.is_dir():
            return self.register(path, source=f"import of {path.name}")
        if not path.exists():
            raise BadCheckpoint(str(path), expected="a model folder, or a .tar.zst of one", found="nothing there")
        files = read_archive(path, limit=_LARGEST, what="a model")
        facts = _facts(f"{path}/{VERSION_FILE}", files.pop(VERSION_FILE, None))
        names = sorted(name for name in files if name.startswith(_MEASURED))
        evaluations = [_evaluation(path / name, files.pop(name)) for name in names]
        files.pop(CARD_FILE, None)
        for name, digest in facts.files.items():
            if name not in files:
                raise BadBundle(str(path), expected=f"the file {name}, which {VERSION_FILE} lists", found="none")
            _check_digest(path / name, files[name], digest)
        wanted = {name: files[name] for name in facts.files}
        if (made := _id(facts.id.rpartition("-")[0], wanted)) != facts.id:
            raise BadBundle(str(path), expected=f"version {facts.id}", found=f"the files of {made}")
        found = self._keep(path, wanted, f"import of {path.name}", facts.parent, facts.note)
        for body in evaluations:
            self.add_evaluation(found.version.id, _undigested(body))
        return found

    def export(self, version: Version, path: Path, card: str) -> Path:
        """Write a version as one .tar.zst: its files, what is known and was measured of it, and a card to read.

        Raises BadInput for a path that exists or does not end so, BadCheckpoint for a version that is damaged.
        """
        if not path.name.endswith(ARCHIVE_SUFFIX):
            raise BadInput(str(path), expected=f"a file that ends in {ARCHIVE_SUFFIX}", found=path.name)
        if path.exists():
            raise BadInput(str(path), expected="a path that does not exist yet", found="a file or folder")
        version.check()
        files = {name: read_bytes(version.folder / name) for name in version.facts.files}
        files[VERSION_FILE] = _dumped(asdict(version.facts))
        files[CARD_FILE] = card.encode()
        for body in self.evaluations(version.id):
            files[f"{_MEASURED}{body['digest']}.json"] = _dumped(_undigested(body))
        with storage(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_archive(path, files)
        return path

    def check_writable(self) -> None:
        """Raise BadInput where nothing can be kept here, before hours of work that would be lost."""
        with self._locked():
            pass

    def add_evaluation(self, version: str, body: Mapping[str, Any]) -> str:
        """Keep what was measured of a version; its digest."""
        content = _dumped(body)
        digest = hashlib.sha256(content).hexdigest()[:_DIGITS]
        folder = self.folder / "evaluations" / version
        with self._locked(), storage(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / f"{digest}.json", content)
            fsync_folder(folder)
        return digest

    def promote(
        self, version: Version, *, expected: State, why: str, evaluation: str | None = None, forced: bool = False
    ) -> Change:
        """Have a version rank, if nothing changed since the state `expected` was read. Raises BadInput where something did."""
        version.check()
        shadow = None if expected.shadow == version.id else expected.shadow
        return self._move(expected, "promote", version.id, shadow, why, evaluation, forced=forced)

    def roll_back(self, to: Version | None, *, expected: State, why: str) -> Change:
        """Have the version before rank again, None being the model that ships. Raises BadInput where something changed."""
        if to is not None:
            to.check()
        current = to.id if to else None
        shadow = None if expected.shadow == current else expected.shadow
        return self._move(expected, "rollback", current, shadow, why)

    def before(self) -> str | None:
        """What ranked before the current version was promoted, rollbacks taken off; None being the model that ships.

        Raises BadInput where there is nothing to go back to.
        """
        stack: list[str | None] = []
        for change in self.history():
            if change.action == "promote":
                stack.append(change.before)
            elif change.action == "rollback" and change.after in stack:
                del stack[len(stack) - 1 - stack[::-1].index(change.after) :]
        if not stack:
            raise BadInput(str(self.folder), expected="a promotion to roll back", found="none")
        return stack[-1]

    def set_shadow(self, version: Version | None, *, expected: State, why: str = "") -> Change:
        """Have a version rank beside the current one, or none. Raises BadInput where something changed."""
        if version is not None:
            version.check()
            if version.id == expected.current:
                raise BadInput("shadow", expected="another version than the one that ranks", found=version.id)
        return self._move(expected, "shadow", expected.current, version.id if version else None, why)

    # --- parts ------------------------------------------------------------------------------------------------------

    def _read(self, version: str) -> Version:
        folder = self.folder / "versions" / version
        facts = _facts(str(folder / VERSION_FILE), read_bytes(folder / VERSION_FILE))
        return Version(facts, read_model(folder))

    def _keep(self, origin: Path, files: Mapping[str, bytes], source: str, parent: str | None, note: str) -> Found:
        name = _name(origin, files)
        version = _id(name, files)
        folder = self.folder / "versions" / version
        if folder.exists():
            return Found(self._read(version), new=False)
        digests = {file: hashlib.sha256(content).hexdigest() for file, content in sorted(files.items())}
        code = f"{__version__}+{code_digest('models')}"
        facts = Facts(version, digests, time.time_ns(), self._who, source, code, parent, note)
        with self._locked(), storage(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            if not folder.exists():
                write_folder(folder, {**files, VERSION_FILE: _dumped(asdict(facts))})
        return Found(self._read(version))

    def _move(
        self,
        expected: State,
        action: Action,
        current: str | None,
        shadow: str | None,
        why: str,
        evaluation: str | None = None,
        *,
        forced: bool = False,
    ) -> Change:
        with self._locked():
            now = self.state()
            if now.number != expected.number:
                raise BadInput(str(self.folder), expected=f"no change after change {expected.number}", found=_said(now.change))
            before, after = (now.shadow, shadow) if action == "shadow" else (now.current, current)
            change = Change(now.number + 1, action, time.time_ns(), self._who, why, before, after, evaluation, forced)
            body = {"version": FORMAT, "current": current, "shadow": shadow, "change": asdict(change)}
            with storage(self.folder):
                _note(self.folder / HISTORY_FILE, now.change)  # what a process that was killed did not write any more
                write_atomically(self.folder / STATE_FILE, _dumped(body))
                fsync_folder(self.folder)
                _note(self.folder / HISTORY_FILE, change)
        return change

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time; the lock goes with the process that holds it, however that ends."""
        with storage(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.folder / _LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            deadline = time.monotonic() + _LOCK_S
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise Unavailable(f"{self.folder}: expected nobody else to change it, found its lock held") from None
                    time.sleep(0.02)
            yield
        finally:
            os.close(handle)


CARD_FILE: Final = "CARD.md"
"""What an archive has for people to read."""


def _files(folder: Path) -> dict[str, bytes]:
    """The files of a model folder. Raises BadCheckpoint for what is none."""
    read_model(folder)
    found = {path.name: path for path in sorted(folder.iterdir()) if path.is_file() and path.name[0] != "."}
    found.pop(VERSION_FILE, None)
    found.pop(CARD_FILE, None)
    if (size := sum(path.stat().st_size for path in found.values())) > _LARGEST:
        raise BadCheckpoint(str(folder), expected=f"a model of at most {_LARGEST:,} bytes", found=f"{size:,}")
    return {name: read_bytes(path) for name, path in found.items()}


def _name(origin: Path, files: Mapping[str, bytes]) -> str:
    """What a model calls itself. Raises BadCheckpoint where it does not fit this version, or its files do not fit each other."""
    model = parsed_model(origin, files.get(MODEL_FILE, b""))
    for file, digest in model.files.values():
        if file not in files:
            raise BadCheckpoint(str(origin), expected=f"the file {file}, which {MODEL_FILE} names", found="none")
        _check_digest(origin / file, files[file], digest)
    model.card.schema.check(Schema(NODE_FEATURE_NAMES, EDGE_FEATURE_NAMES), str(origin))
    return re.sub(r"[^A-Za-z0-9._]+", "-", model.card.name).strip("-._")[:80] or "model"


def _id(name: str, files: Mapping[str, bytes]) -> str:
    """A version's id: the model's name, and the start of a digest of its files."""
    digests = "\n".join(f"{file} {hashlib.sha256(content).hexdigest()}" for file, content in sorted(files.items()))
    return f"{name}-{hashlib.sha256(digests.encode()).hexdigest()[:_DIGITS]}"


def _facts(where: str, content: bytes | None) -> Facts:
    try:
        body = json.loads(content or b"")
        if body["version"] != FORMAT:
            raise BadCheckpoint(where, expected=f"a model version of format {FORMAT!r}", found=repr(body["version"]))
        facts = Facts(**body)
        fits = isinstance(body["id"], str) and isinstance(body["files"], dict) and isinstance(body["registered_ns"], int)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadCheckpoint(where, expected="the fields of docs/models.md", found=str(error) or "something else") from error
    if not fits:
        raise BadCheckpoint(where, expected="the fields of docs/models.md", found="an id, files or a time of another type")
    return facts


def _check_digest(path: Path, content: bytes, digest: str) -> None:
    if (found := hashlib.sha256(content).hexdigest()) != digest:
        raise BadCheckpoint(str(path), expected=f"SHA-256 {digest[:12]}", found=f"{found[:12]} (damaged or replaced)")


def _evaluation(path: Path, content: bytes | None = None) -> Mapping[str, Any]:
    """What was measured, from a file that is called as the digest of its content."""
    content = read_bytes(path) if content is None else content
    named = path.stem.removeprefix(_MEASURED)
    if (found := hashlib.sha256(content).hexdigest()[:_DIGITS]) != named:
        raise BadCheckpoint(str(path), expected=f"the evaluation {named}", found=f"{found} (damaged or changed)")
    body = _object(path, content)
    if not isinstance(body.get("made_ns"), int):
        raise BadCheckpoint(str(path), expected="the time of an evaluation as made_ns", found=repr(body.get("made_ns")))
    return {**body, "digest": named}


def _undigested(body: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key != "digest"}


def _object(path: Path, content: bytes | None = None) -> dict[str, Any]:
    try:
        body = json.loads(read_bytes(path) if content is None else content)
    except ValueError as error:
        raise BadCheckpoint(str(path), expected="JSON", found=str(error)) from error
    if not isinstance(body, dict):
        raise BadCheckpoint(str(path), expected="a JSON object", found=type(body).__name__)
    return body


def _dumped(body: Mapping[str, Any]) -> bytes:
    return (json.dumps(body, indent=1, sort_keys=True) + "\n").encode()


def _changes(path: Path) -> Sequence[tuple[int, Change]]:
    """Changes of a history with where each one's line ends. A last line without an end was cut off by a crash."""
    content = read_bytes(path) if path.exists() else b""
    found, end = [], 0
    for line in content.splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        end += len(line)
        try:
            found.append((end, Change(**json.loads(line))))
        except (ValueError, TypeError) as error:
            raise BadCheckpoint(f"{path}: line {len(found) + 1}", expected="a change", found=str(error)) from error
    return found


def _note(path: Path, change: Change | None) -> None:
    """Add a change that a history lacks, on the disk when this returns; what a crash cut off is taken away."""
    if change is None:
        return
    known = _changes(path)
    if known and known[-1][1].number >= change.number:
        return
    with path.open("ab") as file:
        file.truncate(known[-1][0] if known else 0)
        file.write((json.dumps(asdict(change), sort_keys=True) + "\n").encode())
        file.flush()
        os.fsync(file.fileno())


def _said(change: Change | None) -> str:
    if change is None:
        return "none at all"
    what = f"{change.action} of {change.after or 'the model that ships'} by {change.who} at {clock(change.at_ns, date=True)} UTC"
    return f"change {change.number}: {what}; look again, then repeat"
