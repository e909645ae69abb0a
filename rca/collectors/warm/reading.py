"""Reading a shelf beside its writer: a consistent look at one commit, without a lock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from rca.bins import summed_frame
from rca.collectors.streaming.sums import summed
from rca.collectors.warm.parts import HOUR_NS, hour_start_ns, hours_in, parts_in, read_parquet, visible
from rca.collectors.warm.shelf import KEPT_FOLDER
from rca.collectors.warm.state import State, read_state
from rca.errors import BadInput, Unavailable
from rca.telemetry import BIN_FRAMES, FRAME_NAMES, Interval, conform, empty, time_column

OPEN_SPANS: Final = "open-spans"
"""Name under which the writer keeps spans that wait for their traces."""
_TRIES: Final = 20


@dataclass(frozen=True, eq=False)
class View:
    """What a shelf held of an interval at one commit: frames sorted by time, and files that could not be read."""

    state: State
    frames: Mapping[str, pl.DataFrame]
    damaged: tuple[str, ...]


def read_shelf(folder: Path, interval: Interval, frames: Iterable[str] = FRAME_NAMES) -> View | None:
    """Rows of an interval, open spans summed as if their traces were complete; None if there is no shelf.

    Bins of equal keys may come several times, as they were stored; they are to be added.

    Raises Unavailable if the writer changes files faster than they can be read, BadInput if the state is damaged.
    """
    for _ in range(_TRIES):
        state = read_state(folder)
        if state is None:
            return None
        try:
            view = _view(folder, state, interval, tuple(frames))
        except FileNotFoundError:  # merged into another part, or deleted, since we listed it
            continue
        if view is not None:
            return view
    raise Unavailable(f"{folder}: its files change faster than they can be read; try again")


def _view(folder: Path, state: State, interval: Interval, names: tuple[str, ...]) -> View | None:
    listed = {name: _listed(folder / name, state, interval) for name in names}
    present = read_state(folder)
    if present is None or present.commit != state.commit:  # parts may have been merged into one that the old state hides
        return None
    damaged: list[str] = []
    waiting = _open_bins(folder, state, damaged) if set(BIN_FRAMES) & set(names) else {}
    frames = {}
    for name, hours in listed.items():
        parts = [*(_hour(name, folder, paths, damaged) for paths in hours), *([waiting[name]] if name in waiting else [])]
        rows = pl.concat([empty(name), *parts], how="diagonal")
        frames[name] = conform(name, _inside(name, rows, interval), str(folder / name))
    return View(state, frames, tuple(damaged))


def _listed(folder: Path, state: State, interval: Interval) -> list[list[Path]]:
    """Files of every hour that overlaps the interval."""
    hours = []
    for hour in hours_in(folder):
        start_ns = hour_start_ns(hour) or 0
        if start_ns < interval.end_ns and interval.start_ns < start_ns + HOUR_NS:
            hours.append([folder / hour / part.name for part in visible(parts_in(folder / hour), state.commit)])
    return hours


def _open_bins(folder: Path, state: State, damaged: list[str]) -> Mapping[str, pl.DataFrame]:
    """Bins of the spans that wait for their traces: they are part of what was collected, though not final."""
    spans = _whole(folder, [folder / KEPT_FOLDER / file for file in state.kept.get(OPEN_SPANS, ())], damaged)
    return summed(pl.concat(spans)).frames if spans else {}


def _whole(folder: Path, paths: Sequence[Path], damaged: list[str]) -> list[pl.DataFrame]:
    """Frames of the files that can be read, in the order of the files; the others are named in `damaged`."""
    if len(paths) > 1:
        with suppress(pl.exceptions.PolarsError):  # one is damaged, or of another version: one by one
            return [pl.read_parquet([path.read_bytes() for path in paths])]  # a third of the time
    frames = []
    for path in paths:
        try:
            frames.append(read_parquet(path))
        except BadInput:
            damaged.append(str(path.relative_to(folder)))
    return frames


def _hour(name: str, folder: Path, paths: Sequence[Path], damaged: list[str]) -> pl.DataFrame:
    rows = pl.concat([empty(name), *_whole(folder, paths, damaged)], how="diagonal")
    return rows if len(paths) < 2 or name in BIN_FRAMES else summed_frame(name, rows)


def _inside(name: str, rows: pl.DataFrame, interval: Interval) -> pl.DataFrame:
    if name == "topology":
        return rows.unique().sort(rows.columns)
    column = time_column(name)
    inside = pl.col(column).is_between(interval.start_ns, interval.end_ns, closed="left")
    return rows.filter(inside).sort(column, maintain_order=True)
