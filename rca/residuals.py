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
_RIDGE: Final = 0.01  # of the mean sum of squares of the callees, so that neither length nor calm of the baseline matters
_OFFSET_SECONDS: Final = 1e-3
LATENCIES: Final = ("server.request.duration.mean", "server.request.duration.p50", "server.request.duration.p90", "latency")
"""Latency series in order of preference."""
_SUCCESS: Final = ("server.request.success_ratio",)
RESIDUAL_SIGNALS: Final = (*LATENCIES, *_SUCCESS)


def latency_residuals(frame: pl.DataFrame, topology: Topology, blocks: pl.Series, stretches: list[int]) -> Array:
    """Robust z of the latency that the callees do not explain, (Q, N); NaN where there is no latency series.

    frame: series of rca.series; blocks: block of each of its rows (-1 the incident). The first of LATENCIES that an entity has
    is used.
    """
    return _residuals(frame, topology, blocks, stretches, LATENCIES, logged=True)


def success_residuals(frame: pl.DataFrame, topology: Topology, blocks: pl.Series, stretches: list[int]) -> Array:
    """The same for the success ratio, positive where it falls more than the callees explain."""
    return -_residuals(frame, topology, blocks, stretches, _SUCCESS, logged=False)


def _residuals(
    frame: pl.DataFrame, topology: Topology, blocks: pl.Series, stretches: list[int], signals: tuple[str, ...], *, logged: bool
) -> Array:
    result = np.full((len(stretches), len(topology.entities)), np.nan)
    frame = _chosen(frame.with_columns(blocks.alias("block")).filter(pl.col("block").is_not_null()), signals)
    if frame.is_empty():
        return result
    values, block_of = _grid_values(frame, len(topology.entities), logged=logged)
    callees = callee_rows(topology)
    for row in np.flatnonzero(np.isfinite(values).any(axis=1)):
        result[:, row] = _residual_of(values, block_of, int(row), callees.get(int(row), []), stretches, 0.1 if logged else 0.01)
    return result


def latency_account(frame: pl.DataFrame, topology: Topology, row: int) -> tuple[float, float, float] | None:
    """(now, baseline, what the callees account for) of one entity's latency in s; None where no baseline can be fitted.

    frame: series of rca.series. Geometric means over time; the baseline is its median.
    """
    account = _account(frame, topology, row, LATENCIES, logged=True)
    if account is None:
        return None
    now, baseline, accounted = (max(float(np.exp(value)) - _OFFSET_SECONDS, 0.0) for value in account)
    return now, baseline, accounted


def success_account(frame: pl.DataFrame, topology: Topology, row: int) -> tuple[float, float, float] | None:
    """The same for the success ratio."""
    return _account(frame, topology, row, _SUCCESS, logged=False)


def _account(
    frame: pl.DataFrame, topology: Topology, row: int, signals: tuple[str, ...], *, logged: bool
) -> tuple[float, float, float] | None:
    frame = _chosen(frame.with_columns(pl.col("interval").cast(pl.Int64).alias("block")), signals)
    if frame.filter(pl.col("row") == row).is_empty():
        return None
    values, block_of = _grid_values(frame, len(topology.entities), logged=logged)
    fitted = _fit(values, block_of, row, callee_rows(topology).get(row, []))
    now = (block_of < 0) & np.isfinite(values[row])
    if fitted is None or not now.any():
        return None
    centre, accounted = fitted
    return float(values[row][now].mean()), centre, float(accounted[now].mean())


def _chosen(frame: pl.DataFrame, signals: tuple[str, ...]) -> pl.DataFrame:
    """The first of the signals that each entity has."""
    order = {signal: position for position, signal in enumerate(signals)}
    frame = frame.filter(pl.col("signal").is_in(signals))
    frame = frame.with_columns(pl.col("signal").replace_strict(order, return_dtype=pl.Int8).alias("order"))
    return frame.filter(pl.col("order") == pl.col("order").min().over("row"))


def _grid_values(frame: pl.DataFrame, entities: int, *, logged: bool) -> tuple[Array, npt.NDArray[np.int64]]:
    """Values by row and tick (N, T), NaN where there is none, and the block of each tick (T,)."""
    value = (pl.col("value").clip(lower_bound=0) + _OFFSET_SECONDS).log() if logged else pl.col("value")
    frame = frame.with_columns(value.alias("y"), _grid(frame).alias("tick"))
    table = frame.group_by("tick", "row").agg(pl.col("y").mean(), pl.col("block").min()).sort("tick", "row")
    ticks = table["tick"].unique().sort()
    column = {tick: position for position, tick in enumerate(ticks.to_list())}
    values = np.full((entities, len(ticks)), np.nan)
    block_of = np.full(len(ticks), -2)
    for tick, row, y, block in table.iter_rows():
        values[row, column[tick]] = y
        block_of[column[tick]] = block
    return values, block_of


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
    fitted = _fit(values, block_of, row, callees)
    if fitted is None:
        return np.full(len(stretches), np.nan)
    y = values[row]
    quiet = (block_of >= 0) & np.isfinite(y)
    residual = y - fitted[1]
    at_rest = residual[quiet]
    middle = np.median(at_rest)
    scale = max(1.4826 * np.median(np.abs(at_rest - middle)), np.subtract(*np.percentile(at_rest, [75, 25])) / 1.349, least_scale)
    z = (residual - middle) / scale
    seen = np.isfinite(z)
    members = (block_of[None, :] == np.array(stretches)[:, None]) & seen  # (Q, T)
    with np.errstate(invalid="ignore"):
        mean: Array = (members @ np.where(seen, z, 0.0)) / members.sum(axis=1)
    return mean


def _fit(values: Array, block_of: npt.NDArray[np.int64], row: int, callees: list[int]) -> tuple[float, Array] | None:
    """(baseline median, what the callees account for at every tick (T,)); None with too few quiet samples."""
    y = values[row]
    seen = np.isfinite(values[callees])
    often = (seen.sum(axis=1) >= _FEWEST_SAMPLES) & seen[:, block_of >= 0].any(axis=1)
    known = [callee for callee, enough in zip(callees, often, strict=True) if enough]
    quiet = (block_of >= 0) & np.isfinite(y)
    if quiet.sum() < _FEWEST_SAMPLES:
        return None
    centre = float(np.median(y[quiet]))
    if not known:
        return centre, np.full_like(y, centre)
    x = values[known]
    x = x - np.nanmedian(np.where(block_of >= 0, x, np.nan), axis=1, keepdims=True)
    x = np.where(np.isfinite(x), x, 0.0)
    gram = x[:, quiet] @ x[:, quiet].T
    ridge = _RIDGE * np.trace(gram) / len(known) + 1e-9
    weights = np.linalg.solve(gram + ridge * np.eye(len(known)), x[:, quiet] @ (y[quiet] - centre))
    accounted: Array = centre + np.maximum(weights, 0.0) @ x
    return centre, accounted
