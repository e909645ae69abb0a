"""Series: one value per (time, entity, signal). What rules that know no graph work on, and what residuals are fitted on."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import polars as pl

from rca.bins import BIN_NS, BUCKET_WIDTH, key
from rca.telemetry import SECOND_NS
from rca.topology import Topology, topology_of
from rca.window import Window

SERIES: Final = {
    "interval": pl.Int16(),
    "time_unix_nano": pl.Int64(),
    "row": pl.Int64(),
    "entity_kind": pl.String(),
    "entity": pl.String(),
    "signal": pl.String(),
    "value": pl.Float64(),
}
"""Columns of a series frame; `row` is the entity's row in the topology (and in the graph)."""

ERROR_SEVERITIES: Final = ("ERROR", "FATAL")


def series(window: Window, topology: Topology | None = None, signals: Collection[str] | None = None) -> pl.DataFrame:
    """Every series of the window, sorted by (row, signal, time). Series of a pod are its owner's (the mean over its pods).

    Signals: request.rate (1/s), request.error_ratio, latency and self_time (s, geometric means per 10 s), log.lines and
    log.error_lines (1/s), and every metric by its canonical name and unit. `signals` picks some of them.
    """
    topology = topology or topology_of(window)
    spans, logs = _of_spans(window), _of_logs(window)
    frames = [spans, logs, _of_metrics(window)]
    if signals is not None:
        frames = [frame.filter(pl.col("signal").is_in(signals)) for frame in frames]
    frames = [_located(frame, topology) for frame in frames]
    joined = pl.concat(frames).group_by("interval", "time_unix_nano", "row", "signal").agg(pl.col("value").mean())
    about = pl.DataFrame(
        {
            "row": range(len(topology.entities)),
            "entity_kind": [entity.kind for entity in topology.entities],
            "entity": [entity.name for entity in topology.entities],
        },
        schema={"row": pl.Int64, "entity_kind": pl.String, "entity": pl.String},
    )
    return joined.join(about, on="row").select(list(SERIES)).sort("row", "signal", "time_unix_nano")


def _located(frame: pl.DataFrame, topology: Topology) -> pl.DataFrame:
    """Replace kind and key by the row of the entity, or of the pod's owner."""
    rows = [(kind, name, topology.owners.get(row, row)) for (kind, name), row in topology.rows.items()]
    table = pl.DataFrame(rows, schema={"kind": pl.String, "key": pl.String, "row": pl.Int64}, orient="row")
    return frame.join(table, on=["kind", "key"]).select("interval", "time_unix_nano", "row", "signal", "value")


def _of_spans(window: Window) -> pl.DataFrame:
    seconds = BIN_NS / SECOND_NS
    at = ["interval", "bin_ns", "source"]
    counts = window.bins.counts
    requests = counts.filter(pl.col("what") == "request").group_by(at).agg(pl.col("count").sum().alias("requests"))
    errors = counts.filter(pl.col("what") == "error").group_by(at).agg(pl.col("count").sum().alias("errors"))
    both = requests.join(errors, on=at, how="left").with_columns(pl.col("errors").fill_null(0))
    weight = pl.col("count")
    log_mean = (pl.col("bucket") * BUCKET_WIDTH * weight).sum() / weight.sum()
    durations = window.bins.durations.filter(pl.col("what").is_in(["server", "self"]))
    timed = durations.group_by([*at, "what"]).agg(log_mean.exp().alias("value"))
    parts = [
        both.with_columns(pl.lit("request.rate").alias("signal"), (pl.col("requests") / seconds).alias("value")),
        both.with_columns(pl.lit("request.error_ratio").alias("signal"), (pl.col("errors") / pl.col("requests")).alias("value")),
        timed.with_columns(
            pl.when(pl.col("what") == "server").then(pl.lit("latency")).otherwise(pl.lit("self_time")).alias("signal")
        ),
    ]
    columns = [
        pl.col("interval"),
        pl.col("bin_ns").alias("time_unix_nano"),
        pl.lit("service").alias("kind"),
        pl.col("source").alias("key"),
        pl.col("signal"),
        pl.col("value").cast(pl.Float64),
    ]
    return pl.concat([part.select(columns) for part in parts])


def _of_logs(window: Window) -> pl.DataFrame:
    at = [pl.col("time_unix_nano") // BIN_NS * BIN_NS, pl.col("entity_kind").alias("kind"), entity_key()]
    rate = (pl.col("count").sum() * SECOND_NS / BIN_NS).cast(pl.Float64).alias("value")
    lines = window.logs.group_by("interval", *at).agg(rate).with_columns(pl.lit("log.lines").alias("signal"))
    errors = window.logs.with_columns(
        pl.when(pl.col("severity").is_in(ERROR_SEVERITIES)).then(pl.col("count")).otherwise(0).alias("count")
    )
    error_lines = errors.group_by("interval", *at).agg(rate).with_columns(pl.lit("log.error_lines").alias("signal"))
    return pl.concat([lines, error_lines]).select("interval", "time_unix_nano", "kind", "key", "signal", "value")


def _of_metrics(window: Window) -> pl.DataFrame:
    return window.metrics.filter(pl.col("value").is_finite()).select(
        "interval", "time_unix_nano", pl.col("entity_kind").alias("kind"), entity_key(), pl.col("metric").alias("signal"), "value"
    )


def entity_key() -> pl.Expr:
    """Key of the entity a row of metrics, logs, events or alerts is about."""

    return key(pl.col("entity"), pl.col("namespace")).alias("key")
