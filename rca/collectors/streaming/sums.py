"""Spans of whole traces to frames of bins: what the stream, a reader of open spans and a backfill share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from rca.bins import frames_of
from rca.cleaning import without_cycles
from rca.telemetry import BIN_FRAMES, MINUTE_NS

_DAY_NS: Final = 24 * 60 * MINUTE_NS
_MOST_DAYS: Final = 2


@dataclass(frozen=True, eq=False)
class Sums:
    """Frames `bin_*`, how many spans were their own ancestor (they count as roots), and how many name an absent parent."""

    frames: Mapping[str, pl.DataFrame]
    cycles: int
    unpaired: int


def summed(spans: pl.DataFrame) -> Sums:
    """Sum spans (columns of telemetry.SCHEMAS, ids as text or bytes) whose ids are unique and that end after they start.

    Where clocks spread them over more days than frames_of takes, each day is summed on its own.
    """
    spans, parents, cycles = without_cycles(spans)
    days = (spans["start_time_unix_nano"] // _DAY_NS).alias("day")
    near = not spans.height or np.ptp(days.to_numpy()) < _MOST_DAYS
    parts = [] if near else spans.with_columns(days).partition_by("day", include_key=False)
    sums = [frames_of(spans, parents)] if near else [frames_of(part) for part in parts]
    frames = {name: pl.concat([frames[name] for frames in sums]) for name in BIN_FRAMES}
    children = frames["bin_counts"].filter(pl.col("what") == "child")["count"].sum()
    return Sums(frames, cycles, int(spans["parent_span_id"].count()) - int(children))
