"""What the callees do not explain.

A caller's latency moves with its callees'. The part that a regression on the callees, fitted in quiet times, does not predict is
the caller's own: on systems where symptoms travel it is what separates the culprit from its victims.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from rca.graph import CALL_RELATIONS
from rca.topology import Topology

Array = npt.NDArray[np.float64]

_FEWEST_SAMPLES: Final = 5
_RIDGE: Final = 1.0
_OFFSET_SECONDS: Final = 1e-3
_LATENCIES: Final = ("server.request.duration.mean", "server.request.duration.p50", "server.request.duration.p90", "latency")
_SUCCESS: Final = ("server.request.success_ratio",)


def latency_residuals(frame: pl.DataFrame, topology: Topology, blocks: pl.Series, stretches: list[int]) -> Array:
    """Robust z of the latency that the callees do not explain, (Q, N); NaN where there is no latency series.

    frame: series of rca.series; blocks: block of each of its rows (-1 the incident). The first of _LATENCIES that an entity has
    is used.
    """
    return _residuals(frame, topology, blocks, stretches, _LATENCIES, logged=True)


def success_residuals(frame: pl.DataFrame, topology: Topology, blocks: pl.Series, stretches: list[int]) -> Array:
    """The same for the success ratio, positive where it falls more than the callees explain."""
    return -_residuals(frame, topology, blocks, stretches, _SUCCESS, logged=False)


def _residuals(
    frame: pl.DataFrame, topology: Topology, blocks: pl.Series, stretches: list[int], signals: tuple[str, ...], *, logged: bool
) -> Array:
    result = np.full((len(stretches), len(topology.entities)), np.nan)
    frame = frame.with_columns(blocks.alias("block")).filter(pl.col("signal").is_in(signals) & pl.col("block").is_not_null())
    if frame.is_empty():
        return result
    order = {signal: position for position, signal in enumerate(signals)}
    frame = frame.with_columns(pl.col("signal").replace_strict(order, return_dtype=pl.Int8).alias("order"))
    frame = frame.filter(pl.col("order") == pl.col("order").min().over("row"))
    value = (pl.col("value").clip(lower_bound=0) + _OFFSET_SECONDS).log() if logged else pl.col("value")
    frame = frame.with_columns(value.alias("y"), _grid(frame).alias("tick"))
    table = frame.group_by("tick", "row").agg(pl.col("y").mean(), pl.col("block").min()).sort("tick", "row")
    ticks = table["tick"].unique().sort()
    column = {tick: position for position, tick in enumerate(ticks.to_list())}
    values = np.full((len(topology.entities), len(ticks)), np.nan)
    block_of = np.full(len(ticks), -2)
    for tick, row, y, block in table.iter_rows():
        values[row, column[tick]] = y
        block_of[column[tick]] = block
    callees = callee_rows(topology)
    for row in np.flatnonzero(np.isfinite(values).any(axis=1)):
        result[:, row] = _residual_of(values, block_of, int(row), callees.get(int(row), []), stretches, 0.1 if logged else 0.01)
    return result


def callee_rows(topology: Topology) -> dict[int, list[int]]:
    """Rows called by each row."""
    callees: dict[int, list[int]] = {}
    for relation in CALL_RELATIONS:
        for caller, callee in topology.edges[relation].T.tolist():
            if relation != "consumes":
                callees.setdefault(caller, []).append(callee)
    return callees


def _grid(frame: pl.DataFrame) -> pl.Expr:
    """Times rounded to the sampling period, so that series scraped a second apart line up."""
    steps = frame.sort("row", "time_unix_nano").select(pl.col("time_unix_nano").diff().over("row").alias("step"))["step"]
    positive = steps.filter(steps > 0)
    period = int(positive.median()) if len(positive) else 1  # type: ignore[arg-type]
    return (pl.col("time_unix_nano") + period // 2) // max(period, 1)


def _residual_of(
    values: Array, block_of: npt.NDArray[np.int64], row: int, callees: list[int], stretches: list[int], least_scale: float
) -> Array:
    y = values[row]
    known = [callee for callee in callees if np.isfinite(values[callee]).sum() >= _FEWEST_SAMPLES]
    quiet = (block_of >= 0) & np.isfinite(y)
    if quiet.sum() < _FEWEST_SAMPLES:
        return np.full(len(stretches), np.nan)
    centre = np.median(y[quiet])
    residual = y - centre
    if known:
        x = values[known]
        x = x - np.nanmedian(np.where(block_of >= 0, x, np.nan), axis=1, keepdims=True)
        x = np.where(np.isfinite(x), x, 0.0)
        gram = x[:, quiet] @ x[:, quiet].T + _RIDGE * np.eye(len(known))
        weights = np.linalg.solve(gram, x[:, quiet] @ residual[quiet])
        residual = residual - np.maximum(weights, 0.0) @ x
    at_rest = residual[quiet]
    middle = np.median(at_rest)
    scale = max(1.4826 * np.median(np.abs(at_rest - middle)), np.subtract(*np.percentile(at_rest, [75, 25])) / 1.349, least_scale)
    z = (residual - middle) / scale
    return np.array([np.nanmean(z[block_of == s]) if np.isfinite(z[block_of == s]).any() else np.nan for s in stretches])
