"""JSON read piece by piece: lines, or the elements of one array, from plain, gzip- or zstd-compressed files."""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TextIO

import zstandard

from rca.errors import BadTelemetry

_CHUNK: Final = 1 << 20
_SEPARATORS: Final = re.compile(r"[\s,]*")
_HEAD: Final = 1 << 12
_SUFFIXES: Final = (".json", ".jsonl", ".ndjson")


def json_files(path: Path) -> list[Path]:
    """The file itself, or a folder's JSON files in the order of their names. Raises BadTelemetry if there is none."""
    if path.is_file():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.is_file() and _plain(file).endswith(_SUFFIXES))
    if not found:
        raise BadTelemetry(str(path), expected=f"a file, or a folder with files ending in {', '.join(_SUFFIXES)}", found="none")
    return found


def json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number from 1, value) of every line; None as the value of a last line that was cut off.

    A file that is one JSON value over several lines yields that value. Raises BadTelemetry for a damaged file or line.
    """
    broken: tuple[int, str, ValueError] | None = None
    with _opened(path) as file:
        for number, line in enumerate(_lines(path, file), start=1):
            if broken:
                yield from _whole(path, broken)
                return
            if line.strip():
                try:
                    value = _parsed(line)
                except ValueError as error:
                    broken = (number, line, error)
                else:
                    yield number, value
    if broken and broken[0] > 1:
        yield broken[0], None
    elif broken:
        raise _damaged(path, *broken) from broken[2]


def has_array(path: Path, key: str) -> bool:
    """True if the file is a JSON object that has an array under `key` near its beginning."""
    with _opened(path) as file:
        head = _read(path, file, _HEAD)
    return head.lstrip().startswith("{") and re.search(_array(key), head) is not None


def array_elements(path: Path, key: str) -> Iterator[Any]:
    """Elements of the array under `key` of a JSON object, one at a time. Raises BadTelemetry."""
    decoder = json.JSONDecoder()
    with _opened(path) as file:
        buffer, at = _after_key(path, file, key), 0
        while True:
            at = _SEPARATORS.match(buffer, at).end()  # type: ignore[union-attr]  # it matches the empty string too
            if buffer.startswith("]", at):
                return
            try:
                value, at = decoder.raw_decode(buffer, at)
            except RecursionError as error:
                raise _damaged(path, 0, buffer[at : at + 60], ValueError(str(error))) from error
            except ValueError as error:
                buffer, at = buffer[at:], 0
                more = _read(path, file, max(_CHUNK, len(buffer)))
                if not more:
                    raise _damaged(path, 0, buffer, error) from error
                buffer += more
            else:
                yield value


def _after_key(path: Path, file: TextIO, key: str) -> str:
    start, buffer = re.compile(_array(key)), ""
    while not (match := start.search(buffer)):
        more = _read(path, file, _CHUNK)
        if not more:
            raise BadTelemetry(str(path), expected=f'a JSON object with an array "{key}"', found="none")
        buffer += more
    return buffer[match.end() :]


def _array(key: str) -> str:
    return rf'"{re.escape(key)}"\s*:\s*\['


def _plain(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".zst")


def _opened(path: Path) -> TextIO:
    try:
        if path.suffix == ".gz":
            return gzip.open(path, "rt", encoding="utf-8")
        if path.suffix == ".zst":
            return io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(path.open("rb"), closefd=True), encoding="utf-8")
        return path.open(encoding="utf-8")
    except OSError as error:
        raise BadTelemetry(str(path), expected="a readable file", found=str(error)) from error


def _lines(path: Path, file: TextIO) -> Iterator[str]:
    while True:
        try:
            line = file.readline()
        except (OSError, EOFError, UnicodeDecodeError, zlib.error, zstandard.ZstdError) as error:
            raise BadTelemetry(str(path), expected="a readable file", found=str(error)) from error
        if not line:
            return
        yield line


def _read(path: Path, file: TextIO, size: int) -> str:
    try:
        return file.read(size)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, zstandard.ZstdError) as error:
        raise BadTelemetry(str(path), expected="a readable file", found=str(error)) from error


def _whole(path: Path, broken: tuple[int, str, ValueError]) -> Iterator[tuple[int, Any]]:
    """A file whose first line is no JSON value may be one value, written over several lines."""
    if broken[0] > 1:
        raise _damaged(path, *broken) from broken[2]
    with _opened(path) as file:
        try:
            yield 1, _parsed("".join(_lines(path, file)))
        except ValueError as error:
            raise _damaged(path, *broken) from error


def _parsed(text: str) -> Any:
    """A JSON value. Raises ValueError, also for one that is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(str(error)) from error


def _damaged(path: Path, number: int, text: str, error: ValueError) -> BadTelemetry:
    where = f"{path}, line {number}" if number else str(path)
    return BadTelemetry(where, expected="JSON", found=f"{text.strip()[:60]!r} ({error})")
