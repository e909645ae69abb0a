"""Stretches of time that are measured: the incident, and pieces of its baselines of about its length."""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl

from rca.graph import Indices
from rca.telemetry import SECOND_NS
from rca.window import INCIDENT, Window

QUIET_STRETCHES: Final = 16
_SHORTEST_STRETCH_NS: Final = 60 * SECOND_NS


class Blocks:
    """Stretches of time: block -1 is the incident, blocks 0 .. count-1 cut the baselines into pieces of about its length."""

    def __init__(self, window: Window) -> None:
        length = max(window.incident.end_ns - window.incident.start_ns, _SHORTEST_STRETCH_NS)
        self.edges: list[tuple[int, int, int, int]] = []  # interval, start, end, block
        self.starts: list[Indices] = []  # of the blocks of each baseline
        self.firsts: list[int] = []  # first block of each baseline
        block = 0
        for index, baseline in enumerate(window.baselines):
            start, end = baseline.interval.start_ns, baseline.interval.end_ns
            pieces = max(1, round((end - start) / length))
            bounds = np.linspace(start, end, pieces + 1).astype(np.int64)
            self.starts.append(bounds[:-1])
            self.firsts.append(block)
            for low, high in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
                self.edges.append((index, low, high, block))
                block += 1
        self.count = block
        self.stretches = [INCIDENT, *_quiet_blocks(window, self)]  # (Q,) blocks that are measured

    def assign(self, frame: pl.DataFrame, time: str) -> pl.DataFrame:
        """Add `block` to a frame that has `interval` and a time column."""
        intervals, times = frame["interval"].to_numpy(), frame[time].fill_null(0).to_numpy()
        block = np.full(len(frame), INCIDENT, dtype=np.int32)
        for index in range(len(self.starts)):
            rows = np.flatnonzero(intervals == index)
            # A bin starts up to 10 s before the interval its spans lie in, so a time before the first start belongs to the first.
            position = np.searchsorted(self.starts[index], times[rows], side="right") - 1
            block[rows] = self.firsts[index] + np.maximum(position, 0)
        return frame.with_columns(pl.Series("block", block))


def _quiet_blocks(window: Window, blocks: Blocks) -> list[int]:
    """Evenly spread baseline blocks that hold spans or metrics; one block alone has nothing to be compared with."""
    held: set[int] = set()
    for frame, time in ((window.bins.counts, "bin_ns"), (window.metrics, "time_unix_nano"), (window.logs, "time_unix_nano")):
        found = set(blocks.assign(frame, time)["block"].unique().to_list()) - {INCIDENT}
        if frame is window.bins.counts and found:
            held = found
            break
        held |= found
    usable = sorted(held)
    if len(usable) < 2:
        return []
    picks = np.unique(np.linspace(0, len(usable) - 1, min(QUIET_STRETCHES, len(usable))).round().astype(int))
    return [usable[pick] for pick in picks]
