"""CSV and JSON files, plain or gzip-compressed, read as text so that nothing is guessed."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from rca.errors import BadTelemetry
from rca.telemetry import check_time


def existing(folder: Path, name: str) -> Path | None:
    """`folder/name` or `folder/name.gz`, whichever is there; the plain one wins."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def required(folder: Path, name: str) -> Path:
    """As `existing`. Raises BadTelemetry if neither is there."""
    path = existing(folder, name)
    if path is None:
        raise BadTelemetry(str(folder), expected=f"a file {name} or {name}.gz", found="neither")
    return path


def matching(folder: Path, suffix: str) -> dict[str, Path]:
    """Files of a folder named `<key><suffix>` or `<key><suffix>.gz`, by key, sorted."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob(f"*{suffix}*")) if folder.is_dir() else ():
        name = path.name.removesuffix(".gz")
        if name.endswith(suffix):
            found.setdefault(name.removesuffix(suffix), path)
    return found


def read_csv(path: Path, columns: Sequence[str] | None = None, *, header: bool = True) -> pl.DataFrame:
    """A CSV file with every column as text.

    Surplus fields of a row are cut off. Raises BadTelemetry if the file is damaged or lacks one of `columns`.
    """
    try:
        frame = pl.read_csv(path, infer_schema=False, truncate_ragged_lines=True, has_header=header)
    except pl.exceptions.NoDataError:
        frame = pl.DataFrame(schema={column: pl.String() for column in columns or ()})
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        raise BadTelemetry(str(path), expected="a readable CSV file", found=_first_line(error)) from error
    missing = [column for column in columns or () if column not in frame.columns]
    if missing:
        raise BadTelemetry(str(path), expected=f"columns {', '.join(missing)}", found=f"columns {', '.join(frame.columns)}")
    return frame.select(columns) if columns else frame


def read_json(path: Path) -> Any:
    """A JSON file. Raises BadTelemetry if it is damaged."""
    try:
        data = path.read_bytes()
        return json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise BadTelemetry(str(path), expected="a readable JSON file", found=_first_line(error)) from error


def numbers(frame: pl.DataFrame, columns: Sequence[str], where: Path) -> pl.DataFrame:
    """Text columns as float64; empty text, NaN and infinities become null. Raises BadTelemetry for other text."""
    stripped = frame.with_columns(pl.col(column).str.strip_chars().replace("", None) for column in columns)
    parsed = stripped.with_columns(pl.col(column).cast(pl.Float64, strict=False) for column in columns)
    for column in columns:
        if parsed[column].null_count() > stripped[column].null_count():
            wrong = stripped.filter(parsed[column].is_null() & stripped[column].is_not_null())[column][0]
            raise BadTelemetry(f"{where}, column {column}", expected="numbers", found=repr(wrong))
    return parsed.with_columns(pl.when(pl.col(column).is_finite()).then(pl.col(column)) for column in columns)


def check_times(times: pl.Series, unit_ns: int, where: str) -> None:
    """Raises BadTelemetry for times, in units of `unit_ns`, that cannot be; asked before they would overflow as nanoseconds."""
    for value in (times.min(), times.max()):
        if isinstance(value, int | float):
            check_time(where, int(value * unit_ns))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
