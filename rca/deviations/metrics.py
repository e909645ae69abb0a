"""Metrics of entities, and of calls that arrive aggregated: robust z of every sample against its series' quiet samples."""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl

from rca.bins import key
from rca.deviations.blocks import Blocks
from rca.deviations.sheet import Array, Sheet, edge_of
from rca.graph import Indices
from rca.metrics import METRICS, metric_of
from rca.signals import EDGE_COLUMN, NODE_COLUMN, NODE_SIGNALS
from rca.telemetry import SECOND_NS
from rca.topology import Topology
from rca.window import Window

_LOG_OFFSET: Final = 1e-3
_FIRST_SIGHT: Final = 10.0
_NEAR_NS: Final = 30 * SECOND_NS  # the two ends of a call are scraped at different seconds of the same minute


def measure_metrics(sheet: Sheet, window: Window, topology: Topology, blocks: Blocks) -> None:
    """Mean z and slope of every metric; those of a pod count for its owner as well."""
    metrics = window.metrics.filter(pl.col("value").is_finite())
    if metrics.filter(pl.col("interval") >= 0).is_empty():
        return
    metrics = metrics.with_columns(key(pl.col("entity"), pl.col("namespace")).alias("key"))
    scores = robust_scores(blocks.assign(metrics, "time_unix_nano"), ["entity_kind", "key", "metric"])
    at = {stretch: q for q, stretch in enumerate(blocks.stretches)}
    known = {metric: metric_of(metric) for metric in scores["metric"].unique().to_list()}
    rows = pl.DataFrame(
        [(kind, name, row) for (kind, name), row in topology.rows.items()],
        schema={"entity_kind": pl.String, "key": pl.String, "row": pl.Int64},
        orient="row",
    )
    summary = (
        scores.filter(pl.col("block").is_in(blocks.stretches))
        .group_by("entity_kind", "key", "metric", "block")
        .agg(pl.col("z").mean().alias("z"), _slope_per_minute().alias("slope"))
        .filter(pl.col("z").is_finite())
        .join(rows, on=["entity_kind", "key"])
        .sort("row", "metric", "block")
    )
    if summary.is_empty():
        return
    values, slopes = summary["z"].to_numpy().copy(), summary["slope"].to_numpy()
    slopes = np.where(np.isfinite(slopes), slopes, 0.0)
    columns = summary["metric"].replace_strict({m: NODE_COLUMN[known[m].signal] for m in known}, return_dtype=pl.Int64).to_numpy()
    falls = summary["metric"].replace_strict({m: known[m].direction == "down" for m in known}, return_dtype=pl.Boolean)
    values[falls.to_numpy()] *= -1
    signed = np.array([signal.signed for signal in NODE_SIGNALS])[columns]
    values = np.where(signed, values, np.maximum(values, 0.0))
    stretch = summary["block"].replace_strict(at, return_dtype=pl.Int64).to_numpy()
    row = summary["row"].to_numpy()
    owner = np.array([topology.owners.get(r, r) for r in range(len(topology.entities))], dtype=np.int64)[row]
    owned = owner != row
    for rows_of, chosen in ((owner, owned), (row, np.ones(len(row), dtype=bool))):
        cells = (stretch[chosen], rows_of[chosen], columns[chosen])
        _keep_largest_with_slope(sheet, cells, values[chosen], slopes[chosen])


def _keep_largest_with_slope(sheet: Sheet, cells: tuple[Indices, Indices, Indices], values: Array, slopes: Array) -> None:
    """As _keep_largest, for cells (stretch, row, column); the slope is that of the metric that is kept."""
    order = np.argsort(-np.abs(values), kind="stable")
    flat = np.ravel_multi_index(cells, sheet.node.shape)[order]
    _, first = np.unique(flat, return_index=True)
    flat, kept = flat[first], order[first]
    node, slope = sheet.node.reshape(-1), sheet.slope.reshape(-1)  # views
    louder = ~(np.abs(node[flat]) >= np.abs(values[kept]))  # also true where there is nothing yet
    node[flat[louder]] = values[kept[louder]]
    slope[flat[louder]] = slopes[kept[louder]]


def _slope_per_minute() -> pl.Expr:
    minutes = (pl.col("time_unix_nano") - pl.col("time_unix_nano").min()) / (60 * SECOND_NS)
    return pl.cov(minutes, pl.col("z")) / minutes.var()


def robust_scores(metrics: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    """Add the robust `z` of every sample against its series' baseline samples (block >= 0). Needs 3 of them."""
    logged = [name for name, metric in METRICS.items() if metric.scale == "log"]
    ratios = [name for name, metric in METRICS.items() if metric.direction == "down"]
    is_log, is_ratio = pl.col("metric").is_in(logged), pl.col("metric").is_in(ratios)
    metrics = metrics.with_columns(
        pl.when(is_log).then((pl.col("value").clip(lower_bound=0) + _LOG_OFFSET).log()).otherwise(pl.col("value")).alias("x")
    )
    before = metrics.filter(pl.col("block") >= 0)
    stats = before.group_by(keys).agg(
        pl.col("x").median().alias("median"),
        (pl.col("x") - pl.col("x").median()).abs().median().alias("mad"),
        (pl.col("x").quantile(0.75) - pl.col("x").quantile(0.25)).alias("iqr"),
        pl.len().alias("samples"),
    )
    level = stats.group_by("metric").agg(pl.col("median").abs().median().alias("level"))
    stats = stats.filter(pl.col("samples") >= 3).join(level, on="metric")
    floor = (
        pl.when(is_log)
        .then(0.1)
        .when(is_ratio)
        .then(0.01 * pl.col("median").abs())
        .otherwise(pl.max_horizontal(0.05 * pl.col("median").abs(), 0.02 * pl.col("level")))
    )
    # A series that is zero throughout the baseline has no scale of its own: its largest value ever then counts as ten.
    peak = pl.when(pl.col("x").abs().max().over(keys) > 0).then(pl.col("x").abs().max().over(keys) / _FIRST_SIGHT).otherwise(1.0)
    spread = pl.max_horizontal(1.4826 * pl.col("mad"), pl.col("iqr") / 1.349, floor)
    scale = pl.when(spread > 0).then(spread).otherwise(peak)
    return metrics.join(stats, on=keys).with_columns(((pl.col("x") - pl.col("median")) / scale).alias("z"))


def client_gaps(calls: pl.DataFrame) -> pl.DataFrame:
    """Calls that arrive aggregated: the client's median minus the server's, as a series of its own (`value`, s)."""
    ends = ["caller", "callee_kind", "callee"]
    client = calls.filter(pl.col("metric") == "call.client.duration.p50").sort("time_unix_nano")
    server = calls.filter(pl.col("metric") == "call.server.duration.p50").sort("time_unix_nano")
    return (
        client.join_asof(
            server.select(*ends, "time_unix_nano", pl.col("value").alias("server")),
            on="time_unix_nano",
            by=ends,
            check_sortedness=False,
            strategy="nearest",
            tolerance=_NEAR_NS,
        )
        .filter(pl.col("server").is_not_null())
        .with_columns((pl.col("value") - pl.col("server")).alias("value"), pl.lit("server.request.duration.p50").alias("metric"))
    )


def measure_call_metrics(sheet: Sheet, window: Window, topology: Topology, blocks: Blocks) -> None:
    """Client-minus-server gaps of aggregated calls, on the call and, the largest over callers, on its callee."""
    calls = window.calls.filter(pl.col("value").is_finite())
    if calls.is_empty():
        return
    ends = ["caller", "callee_kind", "callee"]
    gaps = client_gaps(calls)
    if gaps.filter(pl.col("interval") >= 0).is_empty():
        return
    scores = robust_scores(blocks.assign(gaps, "time_unix_nano"), [*ends, "metric"])
    summary = scores.filter(pl.col("block").is_in(blocks.stretches)).group_by([*ends, "block"]).agg(pl.col("z").mean())
    by_stretch = {stretch: q for q, stretch in enumerate(blocks.stretches)}
    for caller, kind, callee, block, z in summary.sort([*ends, "block"]).iter_rows():
        edge = edge_of(topology, caller, kind, callee)
        if edge is None:
            continue
        q, (relation, column) = by_stretch[block], edge
        sheet.edge[relation][q, column, EDGE_COLUMN["metric_gap"]] = z
        cell = (q, topology.edges[relation][1, column], NODE_COLUMN["metric_gap"])
        sheet.node[cell] = np.fmax(sheet.node[cell], max(z, 0.0))
