"""A shelf: a folder of parts with one writer. Commits are atomic over all frames and survive kill -9.

<shelf>/lock  state.json  kept/<name>-<commit>-<i>  <frame>/<hour>/<first>-<last>.parquet
"""

from __future__ import annotations

import fcntl
import io
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from rca.bins import summed_frame
from rca.collectors.warm.parts import (
    HOUR_NS,
    TEMPORARY,
    Part,
    hour_of,
    hour_start_ns,
    hours_in,
    parquet,
    parts_in,
    read_parquet,
    visible,
    write_file,
)
from rca.collectors.warm.state import STATE_FILE, State, read_state
from rca.errors import BadInput, Unavailable
from rca.incidents.bundle import fsync_folder, storage
from rca.telemetry import FRAME_NAMES, MINUTE_NS, SECOND_NS, Interval, time_column

LOCK_FILE: Final = "lock"
KEPT_FOLDER: Final = "kept"
Kept = pl.DataFrame | npt.NDArray[Any]

_MERGED_AT: Final = 12
"""Parts of the present hour that are merged into one: a reader opens a few dozen files an hour, not hundreds."""
_MERGED_BYTES: Final = 2**19
"""How large parts become by merging: half a million durations, summed and sorted within a second."""
_QUIET_COMMITS: Final = 30
"""A past hour is merged once nothing came for it for so many commits."""
_FINISHED_NS: Final = 5 * MINUTE_NS
_LOCK_SECONDS: Final = 0.05
_GRACE_NS: Final = 30 * SECOND_NS
"""How long files stay after they were merged into another: readers that listed them can still open them."""

Place = tuple[str, str]
"""Frame and hour."""


class Shelf:
    """The one writer of a folder. Opening it deletes what no commit names: what a crash left behind.

    Raises Unavailable if another process, or another object, writes there and goes on for `patience_s` seconds.
    """

    def __init__(self, folder: Path, *, grace_ns: int = _GRACE_NS, patience_s: float = 0.0) -> None:
        self.folder = folder
        self._grace_ns = grace_ns
        self._kept: dict[str, list[tuple[Kept, str]]] = {}
        self._left: list[tuple[int, Path]] = []
        with storage(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / LOCK_FILE).open("a+")
            try:
                self._take_lock(time.monotonic() + patience_s)
                self.state = read_state(folder) or State()
                self._sizes = self._recovered()
            except BaseException:
                self._lock.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others write."""
        self._lock.close()

    @property
    def size_bytes(self) -> int:
        """Bytes of all parts."""
        return sum(sum(parts.values()) for parts in self._sizes.values())

    # --- writing ------------------------------------------------------------------------------------------------

    def commit(
        self, frames: Mapping[str, pl.DataFrame], at_ns: int, *, kept: Mapping[str, Sequence[Kept]] | None = None, **changes: Any
    ) -> None:
        """Add rows of telemetry frames, and replace what is kept for the writer, if it is given.

        `changes` are fields of the new state. Raises StorageFull; then nothing changed.
        """
        placed = {
            (name, hour): rows
            for name, frame in frames.items()
            for hour, rows in _by_hour(name, frame, at_ns).items()
            if rows.height
        }
        number = self.state.commit + 1
        self._write({place: (Part(number, number), rows) for place, rows in placed.items()}, at_ns, kept, changes)

    def replace(self, frames: Mapping[str, pl.DataFrame], interval: Interval, at_ns: int, **changes: Any) -> None:
        """Put rows in the place of all that the shelf holds of an interval. The topology is added to every hour of it.

        Raises StorageFull, or BadInput if a part that has to be rewritten is damaged; then nothing changed.
        """
        number = self.state.commit + 1
        hours = [hour_of(ns) for ns in range(interval.start_ns // HOUR_NS * HOUR_NS, interval.end_ns, HOUR_NS)]
        new: dict[Place, tuple[Part, pl.DataFrame]] = {}
        for name in FRAME_NAMES:
            frame = frames.get(name)
            rows = {} if frame is None else _by_hour(name, frame, interval.start_ns)
            if name == "topology" and frame is not None:
                rows = dict.fromkeys(hours, frame)
            for hour in sorted({*hours, *rows}):
                before = visible(self._parts(name, hour), self.state.commit)
                parts = [rows[hour]] if hour in rows and rows[hour].height else []
                parts += [_outside(name, read_parquet(self._path(name, hour, part)), interval) for part in before]
                if parts:
                    first = min((part.first for part in before), default=number)
                    new[name, hour] = Part(first, number), summed_frame(name, pl.concat(parts, how="diagonal"))
        self._write(new, at_ns, None, changes)
        for (name, hour), (part, _) in new.items():
            self._leave(name, hour, part, at_ns)

    def _write(
        self,
        new: Mapping[Place, tuple[Part, pl.DataFrame]],
        at_ns: int,
        kept: Mapping[str, Sequence[Kept]] | None,
        changes: Mapping[str, Any],
    ) -> None:
        number = self.state.commit + 1
        written: list[Path] = []
        folders: set[Path] = set()
        try:
            with storage(self.folder):
                sizes = {}
                for (name, hour), (part, rows) in new.items():
                    path = self._path(name, hour, part)
                    folders |= _made(path.parent, self.folder)
                    body = parquet(rows)
                    write_file(path, body)
                    written.append(path)
                    sizes[name, hour, part] = len(body)
                files = self._kept if kept is None else self._write_kept(kept, number, written, folders)
                for folder in sorted(folders):
                    fsync_folder(folder)
                names = {name: tuple(file for _, file in entries) for name, entries in files.items()}
                names = self.state.kept if kept is None else names
                state = self.state.model_copy(update={**changes, "commit": number, "at_ns": at_ns, "kept": names})
                write_file(self.folder / STATE_FILE, state.model_dump_json().encode())
        except BaseException:
            for path in written:
                with suppress(OSError):
                    path.unlink()
            raise
        with suppress(OSError):  # the commit has happened; a power cut in this very moment would undo it whole
            fsync_folder(self.folder)
        before, after = (
            {file for entries in state_kept.values() for file in entries} for state_kept in (self.state.kept, state.kept)
        )
        self._left += [(at_ns, self.folder / KEPT_FOLDER / file) for file in sorted(before - after)]
        self.state, self._kept = state, files
        for (name, hour, part), size in sizes.items():
            self._sizes.setdefault((name, hour), {})[part] = size

    def _write_kept(
        self, kept: Mapping[str, Sequence[Kept]], number: int, written: list[Path], folders: set[Path]
    ) -> dict[str, list[tuple[Kept, str]]]:
        """Files of what is kept; an object that was kept before keeps its file."""
        files: dict[str, list[tuple[Kept, str]]] = {}
        for name, values in kept.items():
            known = {id(value): file for value, file in self._kept.get(name, ())}
            files[name] = []
            for i, value in enumerate(value for value in values if len(value)):
                file = known.get(id(value))
                if file is None:
                    file = f"{name}-{number:010}-{i}"
                    path = self.folder / KEPT_FOLDER / file
                    folders |= _made(path.parent, self.folder)
                    write_file(path, _body(value))
                    written.append(path)
                files[name].append((value, file))
        return files

    def kept(self, name: str) -> list[Path]:
        """Files of what the last commit kept under a name, in order."""
        return [self.folder / KEPT_FOLDER / file for file in self.state.kept.get(name, ())]

    # --- housekeeping -------------------------------------------------------------------------------------------

    def merge(self, now_ns: int) -> int:
        """Merge small parts, and delete what was merged long enough ago. Returns how many parts were merged.

        Neighbours of a damaged part stay as they are, and readers tell of it.

        Raises StorageFull; then nothing changed.
        """
        merged = 0
        for (name, hour), sizes in list(self._sizes.items()):
            for run in self._mergeable(hour, dict(sizes), now_ns):
                with suppress(BadInput):
                    merged += self._merge(name, hour, run, now_ns)
        self._delete_left(now_ns)
        return merged

    def _mergeable(self, hour: str, sizes: Mapping[Part, int], now_ns: int) -> list[list[Part]]:
        """Runs of parts that follow one another and are small enough together."""
        parts = visible(sizes, self.state.commit)
        end_ns = (hour_start_ns(hour) or 0) + HOUR_NS
        if end_ns + _FINISHED_NS < now_ns:
            quiet = parts and parts[-1].last <= self.state.commit - _QUIET_COMMITS
            return _runs(parts, sizes) if quiet or len(parts) > _MERGED_AT else []
        small = [part for part in parts if part.first == part.last]
        return _runs(small, sizes) if len(small) >= _MERGED_AT else []

    def _merge(self, name: str, hour: str, parts: Sequence[Part], now_ns: int) -> int:
        rows = pl.concat([read_parquet(self._path(name, hour, part)) for part in parts], how="diagonal")
        part = Part(parts[0].first, parts[-1].last)
        body = parquet(summed_frame(name, rows))
        path = self._path(name, hour, part)
        with storage(path):
            write_file(path, body)
            fsync_folder(path.parent)
        self._sizes[name, hour][part] = len(body)
        self._leave(name, hour, part, now_ns)
        return len(parts)

    def _leave(self, name: str, hour: str, part: Part, now_ns: int) -> None:
        """Parts that another one now holds are deleted later."""
        for other in [other for other in self._sizes[name, hour] if part.holds(other)]:
            del self._sizes[name, hour][other]
            self._left.append((now_ns, self._path(name, hour, other)))

    def _delete_left(self, now_ns: int) -> None:
        due = [path for at_ns, path in self._left if now_ns - at_ns >= self._grace_ns]
        self._left = [(at_ns, path) for at_ns, path in self._left if now_ns - at_ns < self._grace_ns]
        for path in due:
            with suppress(FileNotFoundError):
                path.unlink()

    def hours(self, frames: Iterable[str] = FRAME_NAMES) -> list[str]:
        """Hours for which some of the frames hold parts, oldest first."""
        wanted = set(frames)
        return sorted({hour for (name, hour), parts in self._sizes.items() if name in wanted and parts})

    def delete(self, hours: Iterable[str], frames: Iterable[str]) -> None:
        """Delete all parts of some hours and frames; readers in the middle of them try again."""
        doomed, wanted = set(hours), set(frames)
        for name, hour in [place for place in self._sizes if place[0] in wanted and place[1] in doomed]:
            del self._sizes[name, hour]
            folder = self.folder / name / hour
            for part in parts_in(folder):
                (folder / part.name).unlink(missing_ok=True)
            with suppress(OSError):
                folder.rmdir()

    # --- opening ------------------------------------------------------------------------------------------------

    def _take_lock(self, until_s: float) -> None:
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() < until_s:
                    time.sleep(_LOCK_SECONDS)
                    continue
            self._lock.seek(0)
            owner = self._lock.read().strip()
            raise Unavailable(
                f"{self.folder}: another process writes here{f' (process {owner})' if owner else ''}; "
                "end it, or choose another folder"
            )
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()

    def _recovered(self) -> dict[Place, dict[Part, int]]:
        """Sizes of all parts that count; other files are deleted."""
        sizes: dict[Place, dict[Part, int]] = {}
        for name in FRAME_NAMES:
            for hour in hours_in(self.folder / name):
                folder = self.folder / name / hour
                wanted = {part.name: part for part in visible(parts_in(folder), self.state.commit)}
                found = {}
                for path in folder.iterdir():
                    if path.name in wanted:
                        found[wanted[path.name]] = path.stat().st_size
                    elif path.name.endswith(TEMPORARY) or Part.of_name(path.name) is not None:
                        path.unlink()
                if found:
                    sizes[name, hour] = found
        named = {file for files in self.state.kept.values() for file in files}
        kept = self.folder / KEPT_FOLDER
        for path in kept.iterdir() if kept.is_dir() else ():
            if path.name not in named:
                path.unlink()
        (self.folder / (STATE_FILE + TEMPORARY)).unlink(missing_ok=True)
        return sizes

    def _path(self, name: str, hour: str, part: Part) -> Path:
        return self.folder / name / hour / part.name

    def _parts(self, name: str, hour: str) -> Iterable[Part]:
        return self._sizes.get((name, hour), ())


def _runs(parts: Sequence[Part], sizes: Mapping[Part, int]) -> list[list[Part]]:
    """Neighbours whose bytes together stay below a limit; those that stay alone are left out."""
    runs: list[list[Part]] = []
    room = 0
    for part in parts:
        room -= sizes[part]
        if room < 0 or not runs:
            runs.append([])
            room = _MERGED_BYTES - sizes[part]
        runs[-1].append(part)
    return [run for run in runs if len(run) > 1]


def _by_hour(name: str, frame: pl.DataFrame, now_ns: int) -> dict[str, pl.DataFrame]:
    """Rows by the hour of their time. Rows without a time, such as relations, belong to the present hour."""
    if name == "topology":
        return {hour_of(now_ns): frame}
    column = time_column(name)
    if frame[column].null_count():
        frame = frame.with_columns(pl.col(column).fill_null(now_ns))
    hours = (frame[column] // HOUR_NS).alias("hour")
    if hours.n_unique() <= 1:
        return {hour_of(int(hours[0]) * HOUR_NS): frame} if frame.height else {}
    parts = frame.with_columns(hours).partition_by("hour", include_key=False, as_dict=True)
    return {hour_of(int(hour) * HOUR_NS): rows for (hour,), rows in parts.items()}


def _outside(name: str, frame: pl.DataFrame, interval: Interval) -> pl.DataFrame:
    if name == "topology":
        return frame
    return frame.filter(~pl.col(time_column(name)).is_between(interval.start_ns, interval.end_ns, closed="left"))


def _made(folder: Path, top: Path) -> set[Path]:
    """Make a folder below the shelf, and name the folders that have to be synced for its files to be durable."""
    synced = {folder}
    missing = folder
    while missing != top and not missing.exists():
        missing = missing.parent
        synced.add(missing)
    folder.mkdir(parents=True, exist_ok=True)
    return synced


def _body(value: Kept) -> bytes:
    if isinstance(value, pl.DataFrame):
        return parquet(value)
    buffer = io.BytesIO()
    np.save(buffer, value, allow_pickle=False)
    return buffer.getvalue()
