"""Parts: immutable Parquet files that hold what some commits wrote of one frame in one hour.

    <shelf>/<frame>/<hour>/<first commit>-<last commit>.parquet

A part is visible once the shelf's state names its last commit. A part whose commits lie within another part's was merged into it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import polars as pl

from rca.errors import BadInput
from rca.telemetry import MINUTE_NS, SECOND_NS

HOUR_NS: Final = 60 * MINUTE_NS
SUFFIX: Final = ".parquet"
_HOUR: Final = "%Y-%m-%dT%H"
TEMPORARY: Final = ".part"


@dataclass(frozen=True, order=True)
class Part:
    """The commits that a part holds, both ends included."""

    first: int
    last: int

    @property
    def name(self) -> str:
        return f"{self.first:010}-{self.last:010}{SUFFIX}"

    @classmethod
    def of_name(cls, name: str) -> Part | None:
        """None for a file that is no part."""
        first, _, last = name.removesuffix(SUFFIX).partition("-")
        return cls(int(first), int(last)) if name.endswith(SUFFIX) and first.isdecimal() and last.isdecimal() else None

    def holds(self, other: Part) -> bool:
        return self != other and self.first <= other.first and other.last <= self.last


def visible(parts: Iterable[Part], commit: int) -> list[Part]:
    """Parts that a reader at a commit may read, in order: none that came later, none that was merged."""
    longest_first = sorted((part for part in parts if part.last <= commit), key=lambda part: (part.first, -part.last))
    found: list[Part] = []
    for part in longest_first:  # whatever holds a part comes before it
        if not found or part.last > found[-1].last:
            found.append(part)
    return found


def hour_of(time_ns: int) -> str:
    """Folder name of the hour, UTC."""
    return datetime.fromtimestamp(time_ns // SECOND_NS, UTC).strftime(_HOUR)


def hour_start_ns(hour: str) -> int | None:
    """Start of the hour that a folder is named after; None if it is not named after one."""
    try:
        return int(datetime.strptime(hour, _HOUR).replace(tzinfo=UTC).timestamp()) * SECOND_NS
    except ValueError:
        return None


def parts_in(folder: Path) -> list[Part]:
    """All parts of an hour's folder, none if it does not exist."""
    try:
        names = os.listdir(folder)  # noqa: PTH208  an iterator of Path is several times slower
    except FileNotFoundError:
        return []
    return [part for name in names if (part := Part.of_name(name)) is not None]


def hours_in(folder: Path) -> list[str]:
    """Hours of a frame's folder, oldest first, none if it does not exist."""
    try:
        return sorted(name for name in os.listdir(folder) if hour_start_ns(name) is not None)  # noqa: PTH208
    except FileNotFoundError:
        return []


def parquet(frame: pl.DataFrame) -> bytes:
    """A frame as the bytes of a Parquet file."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", compression_level=3)
    return buffer.getvalue()


def read_parquet(path: Path) -> pl.DataFrame:
    """A file's frame. Raises FileNotFoundError if it was merged or deleted, BadInput if it is damaged."""
    body = path.read_bytes()
    try:
        return pl.read_parquet(io.BytesIO(body))
    except pl.exceptions.PolarsError as error:
        raise BadInput(str(path), expected="a whole Parquet file", found="a damaged one") from error


def write_file(path: Path, body: bytes) -> None:
    """Write a file whole and durably, or not at all; its name is durable once the folder is synced. Raises OSError."""
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        with temporary.open("wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
