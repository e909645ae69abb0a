"""What callees and callers do not explain: residuals of latency and success, and callees that fall quiet."""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl

from rca.deviations.blocks import Blocks
from rca.deviations.sheet import RATE_SPREAD, Array, Sheet
from rca.residuals import RESIDUAL_SIGNALS, latency_residuals, success_residuals
from rca.series import series
from rca.topology import Topology
from rca.window import Window

LEAST_RATE: Final = 0.05
"""Requests a second below which a ratio of rates is noise."""
_SERVED: Final = "server.request.rate"


def measure_unexplained(sheet: Sheet, window: Window, topology: Topology, blocks: Blocks) -> None:
    """Residuals of latency and success, and callees that fall quiet."""
    frame = blocks.assign(series(window, topology, (*RESIDUAL_SIGNALS, _SERVED)), "time_unix_nano")
    every = np.arange(len(topology.entities))
    sheet.raise_node("latency_residual", every, latency_residuals(frame, topology, frame["block"], blocks.stretches))
    sheet.raise_node("success_residual", every, success_residuals(frame, topology, frame["block"], blocks.stretches))
    sheet.raise_node("quiet_callees", every, _quiet_callees(frame, topology, blocks))


def _quiet_callees(frame: pl.DataFrame, topology: Topology, blocks: Blocks) -> Array:
    """Largest fall over callees of ln(callee's rate) - ln(own rate), robust z over the baseline blocks, at the caller; (Q, N)."""
    result = np.full((len(blocks.stretches), len(topology.entities)), np.nan)
    rates = frame.filter(pl.col("signal") == _SERVED)
    means = rates.group_by("row", "block").agg(pl.col("value").mean())
    if means.is_empty():
        return result
    level = np.full((len(topology.entities), blocks.count + 1), np.nan)
    for row, block, value in means.iter_rows():
        level[row, block + 1] = np.log(value + LEAST_RATE)
    for caller, callee in topology.edges["calls"].T.tolist():
        ratio = level[callee] - level[caller]
        rest = ratio[1:][np.isfinite(ratio[1:])]
        if len(rest) < 3:
            continue
        middle = np.median(rest)
        scale = max(1.4826 * float(np.median(np.abs(rest - middle))), RATE_SPREAD)
        for q, stretch in enumerate(blocks.stretches):
            result[q, caller] = np.fmax(result[q, caller], (middle - ratio[stretch + 1]) / scale)
    return result
