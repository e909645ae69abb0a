"""The incident bundle: a folder, or one `.tar.zst`, with `incident.json` and a Parquet file per telemetry frame.

docs/bundle.md describes the format. Writing is atomic: a reader sees the whole bundle or none.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, Any, Final, cast

import polars as pl
import zstandard
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rca.errors import BadBundle, BadInput, StorageFull
from rca.incidents.incident import SCHEMA_VERSION, GapModel, Incident, IntervalModel
from rca.telemetry import FRAME_NAMES, Gap, Telemetry, check_time, conform

INCIDENT_FILE: Final = "incident.json"
ARCHIVE_SUFFIX: Final = ".tar.zst"
MAX_ARCHIVE_BYTES: Final = 4 * 2**30
"""An archive that unpacks to more than this is refused unread."""
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_IN_THE_WAY: Final = (PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError, FileNotFoundError)


class FrameFile(BaseModel):
    """One Parquet file of a bundle: the frame it holds, its file name, its rows and the SHA-256 of its bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    frame: str
    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    rows: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class IncidentFile(Incident):
    """The content of `incident.json`: the incident and the manifest of its frames. Frames that are empty have no file."""

    frames: Annotated[tuple[FrameFile, ...], Field(description="the Parquet files: frame, file, rows, sha256")] = ()

    def incident(self) -> Incident:
        """The incident without the manifest."""
        return Incident(**{name: getattr(self, name) for name in Incident.model_fields})


# --- writing ----------------------------------------------------------------------------------------------------


def write_bundle(path: Path, incident: Incident, telemetry: Telemetry, *, replace: bool = False) -> Path:
    """Write a bundle, as one file if the path ends in `.tar.zst`, else as a folder. Returns the path.

    Gaps of the telemetry are added to the incident's. Raises BadInput if the path exists (unless `replace`) or cannot be
    written, BadTelemetry if the incident's times cannot be nanoseconds, StorageFull if the disk is full; then nothing is left
    behind.
    """
    path = Path(path)
    if path.exists() and not replace:
        raise BadInput(str(path), expected="a path that does not exist yet", found="a file or folder")
    files = bundle_files(incident, telemetry)
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.name.endswith(ARCHIVE_SUFFIX):
            write_archive(path, files)
        else:
            write_folder(path, files)
    return path


def bundle_files(incident: Incident, telemetry: Telemetry) -> dict[str, bytes]:
    """The files of a bundle by name, `incident.json` first. Raises BadTelemetry for times that cannot be nanoseconds."""
    frames = {name: frame for name, frame in telemetry.frames().items() if not frame.is_empty()}
    data = {name: _parquet(frame) for name, frame in frames.items()}
    manifest = tuple(
        FrameFile(frame=name, file=f"{name}.parquet", rows=frame.height, sha256=_sha(data[name]))
        for name, frame in frames.items()
    )
    body = incident.model_dump() | {"gaps": merged_gaps(incident, telemetry), "frames": manifest}
    content = IncidentFile(**body)
    _check_plausible(f"incident {incident.id}", content)
    return {
        INCIDENT_FILE: content.model_dump_json(indent=2).encode() + b"\n",
        **{entry.file: data[entry.frame] for entry in manifest},
    }


def merged_gaps(incident: Incident, telemetry: Telemetry) -> tuple[GapModel, ...]:
    """Gaps of both, in order, each once."""
    return tuple(dict.fromkeys((*incident.gaps, *map(_gap_model, telemetry.gaps))))


@contextlib.contextmanager
def storage(path: Path) -> Iterator[None]:
    """Turn "no space left" into StorageFull, and a place that cannot be written into BadInput."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull(f"{path}: {error.strerror}; nothing that was stored before is lost") from error
        if isinstance(error, _IN_THE_WAY) or error.errno == errno.EROFS:
            raise BadInput(str(path), expected="a place that can be written", found=str(error.strerror)) from error
        raise


def fsync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", statistics=False)
    return buffer.getvalue()


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Write the files of a bundle as a folder, durably and at once, in place of what is there."""
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        temporary.chmod(0o777 & ~_umask())
        for name, data in files.items():
            _write_durably(temporary / name, data)
        fsync_folder(temporary)
        _move_into_place(temporary, path)
        fsync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move_into_place(new: Path, path: Path) -> None:
    if not path.exists():
        new.rename(path)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
    path.rename(old / path.name)
    try:
        new.rename(path)
    except BaseException:
        (old / path.name).rename(path)
        old.rmdir()
        raise
    shutil.rmtree(old, ignore_errors=True)


def write_archive(path: Path, files: Mapping[str, bytes]) -> None:
    """Write files as one `.tar.zst`, in a folder of the archive's name, durably and at once, in place of what is there."""
    folder = path.name.removesuffix(ARCHIVE_SUFFIX)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            with (
                zstandard.ZstdCompressor(level=3).stream_writer(file, closefd=False) as packed,
                tarfile.open(fileobj=packed, mode="w|") as archive,
            ):
                for member, data in files.items():
                    archive.addfile(_member(f"{folder}/{member}", len(data)), io.BytesIO(data))
            file.flush()
            os.fchmod(file.fileno(), 0o666 & ~_umask())
            os.fsync(file.fileno())
        temporary.replace(path)
        fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)  # times and owners stay 0, so that equal bundles are equal files
    member.size, member.mode = size, 0o644
    return member


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# --- reading ----------------------------------------------------------------------------------------------------


def read_bundle(path: Path, frames: Collection[str] = FRAME_NAMES) -> tuple[Incident, Telemetry]:
    """Read a bundle. Of the frames, only those asked for are read and checked against their hashes.

    Raises BadBundle for what is not a bundle, is damaged or of an unknown version, and BadTelemetry for frames that do not
    conform to rca.telemetry.SCHEMAS.
    """
    path = Path(path)
    files = read_archive(path) if path.is_file() else _FolderFiles(path)
    manifest = _manifest(path, files)
    wanted = [entry for entry in manifest.frames if entry.frame in frames]
    loaded = {entry.frame: _frame(path, entry, files) for entry in wanted}
    return manifest.incident(), Telemetry.of(map(_gap, manifest.gaps), **loaded)


def read_manifest(path: Path) -> IncidentFile:
    """Read the incident and the manifest of its frames, and no frame. Raises BadBundle."""
    path = Path(path)
    files = read_archive(path, only=INCIDENT_FILE) if path.is_file() else _FolderFiles(path)
    return _manifest(path, files)


def is_bundle(path: Path) -> bool:
    """True if the path looks like a bundle: a folder with `incident.json`, or a `.tar.zst` file. Reads nothing."""
    path = Path(path)
    return (path / INCIDENT_FILE).is_file() or (path.is_file() and path.name.endswith(ARCHIVE_SUFFIX))


class _FolderFiles(Mapping[str, bytes]):
    """Files of a folder bundle by name, read when asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getitem__(self, name: str) -> bytes:
        file = self._folder / name
        if not file.is_file():
            raise KeyError(name)
        return file.read_bytes()

    def __iter__(self) -> Iterator[str]:
        return (file.name for file in self._folder.iterdir())

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _Limited:
    """A stream that refuses to yield more than `limit` bytes, so that a small archive cannot fill the memory."""

    def __init__(self, stream: Any, path: Path, limit: int) -> None:
        self._stream, self._path, self._limit, self._left = stream, path, limit, limit

    def read(self, size: int = -1) -> bytes:
        data = cast(bytes, self._stream.read(size))
        self._left -= len(data)
        if self._left < 0:
            raise BadBundle(str(self._path), expected=f"at most {self._limit} bytes when unpacked", found="more")
        return data


def read_archive(
    path: Path, only: str | None = None, limit: int | None = None, what: str = "an incident bundle"
) -> dict[str, bytes]:
    """Files of an archive by name, in memory: nothing is ever extracted to the disk. Raises BadBundle."""
    files: dict[str, bytes] = {}
    try:
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as unpacked:
            stream = cast(IO[bytes], _Limited(unpacked, path, limit or MAX_ARCHIVE_BYTES))
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for member in archive:
                    name = _plain_name(path, member)
                    if name is None or (only and name != only):
                        continue
                    content = archive.extractfile(member)
                    if name in files or content is None:
                        raise BadBundle(str(path), expected="every file once", found=f"{name} twice")
                    files[name] = content.read()
                    if only:
                        break
    except (tarfile.TarError, zstandard.ZstdError, EOFError) as error:
        found = f"one that is damaged or cut off ({error})" if _is_zstandard(path) else "another file"
        raise BadBundle(str(path), expected=f"{what} (a folder or .tar.zst)", found=found) from error
    return files


def _is_zstandard(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == zstandard.FRAME_HEADER


def _plain_name(path: Path, member: tarfile.TarInfo) -> str | None:
    """Name of a file at the top of the archive or of its one folder; None for folders."""
    parts = PurePosixPath(member.name).parts
    if member.name.startswith("/") or ".." in parts or len(parts) > 2 or not (member.isfile() or member.isdir()):
        raise BadBundle(str(path), expected="plain files in one folder", found=f"member {member.name!r}")
    return parts[-1] if member.isfile() else None


def _manifest(path: Path, files: Mapping[str, bytes]) -> IncidentFile:
    if not path.exists():
        raise BadBundle(str(path), expected="an incident bundle", found="nothing there")
    where = f"{path}/{INCIDENT_FILE}"
    try:
        body = json.loads(files[INCIDENT_FILE])
    except KeyError:
        raise BadBundle(str(path), expected=f"a bundle with {INCIDENT_FILE}", found="none") from None
    except (ValueError, RecursionError) as error:
        raise BadBundle(where, expected="JSON", found=str(error)) from error
    if not isinstance(body, dict):
        raise BadBundle(where, expected="a JSON object", found=type(body).__name__)
    if body.get("schema_version") != SCHEMA_VERSION:
        raise BadBundle(where, expected=f"schema_version {SCHEMA_VERSION!r}", found=repr(body.get("schema_version")))
    try:
        manifest = IncidentFile.model_validate_json(files[INCIDENT_FILE])
    except ValidationError as error:
        raise _explained(where, error) from error
    _check_plausible(where, manifest)
    names = [entry.frame for entry in manifest.frames]
    for name in names:
        if name not in FRAME_NAMES:
            raise BadBundle(where, expected=f"frames {', '.join(FRAME_NAMES)}", found=_with_hint(name, FRAME_NAMES))
        if names.count(name) > 1:
            raise BadBundle(where, expected="every frame once", found=f"{name} twice")
    return manifest


def _frame(path: Path, entry: FrameFile, files: Mapping[str, bytes]) -> pl.DataFrame:
    where = f"{path}/{entry.file}"
    try:
        data = files[entry.file]
    except KeyError:
        raise BadBundle(where, expected=f"the file that {INCIDENT_FILE} lists", found="none") from None
    if data[:4] != b"PAR1" or data[-4:] != b"PAR1":
        raise BadBundle(where, expected="a whole Parquet file", found=f"{len(data)} bytes, truncated or of another format")
    if (found := _sha(data)) != entry.sha256:
        raise BadBundle(where, expected=f"sha256 {entry.sha256}", found=f"{found} (the file was changed)")
    try:
        frame = pl.read_parquet(io.BytesIO(data))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise BadBundle(where, expected="a readable Parquet file", found=str(error).splitlines()[0]) from error
    if frame.height != entry.rows:
        raise BadBundle(where, expected=f"{entry.rows} rows", found=f"{frame.height}")
    return conform(entry.frame, frame, where)


def _explained(where: str, error: ValidationError) -> BadBundle:
    """The first complaint, in our words; an unknown key comes with the nearest known one."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _known_keys(first["loc"])
        return BadBundle(where, expected="known keys", found=f"key {_with_hint(str(first['loc'][-1]), known)} at {place}")
    return BadBundle(f"{where}: {place}", expected=first["msg"], found=repr(first["input"])[:80])


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    """Keys that the object at a location may have."""
    schema: dict[str, Any] = IncidentFile.model_json_schema()
    here: dict[str, Any] = schema
    for part in location[:-1]:
        here = here["items"] if isinstance(part, int) else here["properties"][part]
        here = next((option for option in here.get("anyOf", []) if "$ref" in option or "items" in option), here)
        if "$ref" in here:
            here = schema["$defs"][here["$ref"].removeprefix("#/$defs/")]
    return [*here.get("properties", {})]


def _with_hint(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f"{name!r} (did you mean {near[0]}?)" if near else repr(name)


def _check_plausible(where: str, incident: Incident) -> None:
    """Times in seconds would silently select nothing, so they are refused."""
    intervals: list[tuple[str, IntervalModel | None]] = [("window", incident.window)]
    intervals += [("baseline", baseline) for baseline in incident.baselines]
    intervals += [(f"gap of {gap.source}", gap.interval) for gap in incident.gaps]
    times: list[tuple[str, int | None]] = [("detected_ns", incident.detected_ns), ("onset_ns", incident.onset_ns)]
    times += [(f"label of {label.name()}", label.at_ns) for label in incident.labels]
    times += [(name, time) for name, interval in intervals if interval for time in (interval.start_ns, interval.end_ns)]
    for name, time in times:
        if time is not None:
            check_time(f"{where}: {name}", time)


def _gap_model(gap: Gap) -> GapModel:
    interval = IntervalModel(start_ns=gap.interval.start_ns, end_ns=gap.interval.end_ns) if gap.interval else None
    return GapModel(source=gap.source, reason=gap.reason, interval=interval)


def _gap(gap: GapModel) -> Gap:
    return Gap(gap.source, gap.reason, gap.interval.interval() if gap.interval else None)
