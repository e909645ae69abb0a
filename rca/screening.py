"""A quick look at every entity and call of a window: how far it strays, and how busy it is.

It decides what of a map that is too large is looked at closely (rca.bounding), in a few group-bys over the whole window. The
deviations that rank are others: they know the noise of quiet stretches, and what callees explain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from rca.bins import BUCKET_WIDTH, key
from rca.graph import CALL_RELATIONS
from rca.topology import Topology
from rca.window import INCIDENT, Window

Array = npt.NDArray[np.float64]

_FEWEST_BEFORE, _FEWEST_NOW = 8, 3
_RATE_SPREAD: Final = 0.15  # rates of quiet times differ by this much on the log scale, typical durations by a third of it
_LEVEL_SPREAD: Final = 0.05
_ERROR_SEVERITIES: Final = ("ERROR", "FATAL")
_CEILING: Final = 1000.0

_NOW: Final = pl.col("interval") == INCIDENT
_CALL: Final = ("source", "target_kind", "target")


@dataclass(frozen=True, eq=False)
class Screening:
    """Shapes: N entities in the topology's order, E edges of a relation along which calls go."""

    disturbance: Array  # (N,), about robust standard deviations, 0 where nothing is known
    volume: Array  # (N,), calls and requests
    edge_disturbance: dict[str, Array]  # relation -> (E,)
    edge_volume: dict[str, Array]  # relation -> (E,)


def screened(window: Window, topology: Topology) -> Screening:
    """How far everything strays in the incident from the baselines, and how many calls there were in all."""
    places, share = _Places(topology), _share(window)
    counts = window.bins.counts
    calls = places.of_calls(_call_scores(window, share))
    entities = pl.concat(
        [
            places.of(_span_scores(window, share)),
            places.of(_metric_scores(window)),
            places.of(_log_scores(window, share)),
            places.of(_event_scores(window, share)),
            calls.select("row", "score"),
        ]
    )
    requests = counts.filter(pl.col("what") == "request").select(pl.lit("service").alias("kind"), key="source", score="count")
    busy = pl.concat(
        [
            places.of(requests.select("kind", "key", pl.col("score").cast(pl.Float64))),
            calls.select("row", score="volume"),
            calls.select(row="source_row", score="volume"),
        ]
    )
    size = len(topology.entities)
    disturbance = _dense(entities, size, np.maximum)
    for pod, owner in topology.owners.items():
        disturbance[owner] = max(disturbance[owner], disturbance[pod])
    by_edge = places.by_edge(calls)
    return Screening(
        disturbance,
        _dense(busy, size, np.add),
        {name: frame["score"].to_numpy() for name, frame in by_edge.items()},
        {name: frame["volume"].to_numpy() for name, frame in by_edge.items()},
    )


class _Places:
    """Rows of the topology by kind and key."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        names = [(kind, name, row) for (kind, name), row in topology.rows.items()]
        self._rows = pl.DataFrame(names, schema={"kind": pl.String, "key": pl.String, "row": pl.Int64}, orient="row")
        self._services = self._rows.filter(pl.col("kind") == "service").select("key", service_row="row")

    def of(self, scores: pl.DataFrame) -> pl.DataFrame:
        """(row, score) of (kind, key, score)."""
        return scores.join(self._rows, on=["kind", "key"]).select("row", "score")

    def of_calls(self, scores: pl.DataFrame) -> pl.DataFrame:
        """(source_row, row, consumed, score, volume) of calls. A database that carries a service's name is that service."""
        consumed = pl.col("target_kind") == "consumed_queue"
        kind = pl.when(consumed).then(pl.lit("queue")).otherwise(pl.col("target_kind")).alias("kind")
        located = (
            scores.with_columns(kind, consumed.alias("consumed"), key="target")
            .join(self._services, on="key", how="left")
            .join(self._rows, on=["kind", "key"], how="left")
            .with_columns(pl.coalesce("service_row", "row").alias("row"), pl.col("consumed") & pl.col("service_row").is_null())
        )
        sources = self._services.select(source="key", source_row="service_row")
        return located.join(sources, on="source").drop_nulls("row").select("source_row", "row", "consumed", "score", "volume")

    def by_edge(self, calls: pl.DataFrame) -> dict[str, pl.DataFrame]:
        """(score, volume) of every edge of every relation, in the topology's order; 0 where calls say nothing."""
        ends = ["source_row", "row", "consumed"]
        summed = calls.group_by(ends).agg(pl.col("score").max(), pl.col("volume").sum())
        found = {}
        for relation in CALL_RELATIONS:
            source, target = self._topology.edges[relation]
            edges = pl.DataFrame({"source_row": source, "row": target}).with_columns(consumed=pl.lit(relation == "consumes"))
            joined = edges.join(summed, on=ends, how="left", maintain_order="left")
            found[relation] = joined.select(pl.col("score", "volume").fill_null(0.0))
        return found


def _share(window: Window) -> float:
    """Length of the incident by the length of the baselines; 0 without any."""
    before = sum(baseline.interval.seconds for baseline in window.baselines)
    return window.incident.seconds / before if before else 0.0


def _split(frame: pl.DataFrame, keys: Sequence[str], count: str = "count") -> pl.DataFrame:
    """Sums in the incident (`now`) and in the baselines (`before`) by key."""
    amount = pl.col(count)
    sums = (amount.filter(_NOW).sum().cast(pl.Float64).alias("now"), amount.filter(~_NOW).sum().cast(pl.Float64).alias("before"))
    return frame.group_by(keys).agg(*sums)


def _surplus(share: float) -> pl.Expr:
    """Standard deviations that a count is above its expectation (Anscombe's transform)."""
    now, expected = (pl.col("now") + 0.375).sqrt(), (pl.col("before") * share + 0.375).sqrt()
    return (2 * (now - expected) / (1 + share) ** 0.5).clip(0, _CEILING) if share else pl.lit(0.0)


def _change(share: float) -> pl.Expr:
    """How far a rate changed, up or down, over the larger of counting noise and what rates do by themselves."""
    if not share:
        return pl.lit(0.0)
    ratio = ((pl.col("now") + 0.5) / ((pl.col("before") + 0.5) * share)).log().abs()
    noise = (1 / (pl.col("now") + 0.5) + 1 / (pl.col("before") + 0.5)).sqrt()
    change = ratio / pl.max_horizontal(noise, pl.lit(_RATE_SPREAD))
    return pl.when(pl.col("before") >= _FEWEST_BEFORE).then(change).otherwise(0.0).clip(0, _CEILING)


def _shifts(durations: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """(keys, score): how far typical durations moved, on the log scale."""
    weight, value = pl.col("count").cast(pl.Float64), pl.col("bucket") * BUCKET_WIDTH

    def sums(chosen: pl.Expr, name: str) -> list[pl.Expr]:
        n, total, squares = weight.filter(chosen), (weight * value).filter(chosen), (weight * value * value).filter(chosen)
        return [n.sum().alias(f"n_{name}"), total.sum().alias(f"sum_{name}"), squares.sum().alias(f"squares_{name}")]

    def mean(name: str) -> pl.Expr:
        return pl.col(f"sum_{name}") / pl.col(f"n_{name}")

    def variance(name: str) -> pl.Expr:
        return (pl.col(f"squares_{name}") / pl.col(f"n_{name}") - mean(name) ** 2).clip(lower_bound=0.0)

    seen = (pl.col("n_now") >= _FEWEST_NOW) & (pl.col("n_before") >= _FEWEST_BEFORE)
    error = (variance("before") * (1 / pl.col("n_now") + 1 / pl.col("n_before")) + _LEVEL_SPREAD**2).sqrt()
    score = ((mean("now") - mean("before")).abs() / error).clip(0, _CEILING)
    grouped = durations.group_by(keys).agg(*sums(_NOW, "now"), *sums(~_NOW, "before"))
    return grouped.select(*keys, pl.when(seen).then(score).otherwise(0.0).alias("score"))


def _span_scores(window: Window, share: float) -> pl.DataFrame:
    counts, durations = window.bins.counts, window.bins.durations
    errors = _split(counts.filter(pl.col("what").is_in(["error", "own_error"])), ["what", "source"])
    requests = _split(counts.filter(pl.col("what") == "request"), ["source"])
    own = _shifts(durations.filter(pl.col("what").is_in(["server", "self", "leaf"])), ["what", "source", "operation"])
    scores = [
        errors.select("source", _surplus(share).alias("score")),
        requests.select("source", _change(share).alias("score")),
        own.select("source", "score"),
    ]
    return pl.concat(scores).select(pl.lit("service").alias("kind"), pl.col("source").alias("key"), "score")


def _call_scores(window: Window, share: float) -> pl.DataFrame:
    """(source, target_kind, target, score, volume) of calls in spans and of calls that metrics count."""
    counts, keys = window.bins.counts, list(_CALL)
    failed = _split(counts.filter(pl.col("what") == "call_error"), keys).select(*keys, _surplus(share).alias("score"))
    counted = _split(counts.filter(pl.col("what") == "call"), keys)
    volume = counted.select(*keys, _change(share).alias("score"), (pl.col("now") + pl.col("before")).alias("volume"))
    slow = _shifts(window.bins.durations.filter(pl.col("what").is_in(["client", "called", "gap"])), ["what", *keys])
    metrics = window.calls.select("interval", "metric", "value", source="caller", target_kind="callee_kind", target="callee")
    rates = metrics.filter(pl.col("metric") == "call.rate").group_by(keys).agg(pl.col("value").sum().alias("volume"))
    silent = pl.lit(0.0).alias("volume")
    return pl.concat(
        [
            failed.with_columns(silent),
            volume,
            slow.select(*keys, "score", silent),
            _levels(metrics, [*keys, "metric"]).select(*keys, "score", silent),
            rates.select(*keys, pl.lit(0.0).alias("score"), "volume"),
        ]
    )


def _levels(samples: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """(keys, score): how far the mean of samples moved, over how they vary by themselves."""
    value = (
        pl.col("value").filter(pl.col("value").is_finite() & _NOW),
        pl.col("value").filter(pl.col("value").is_finite() & ~_NOW),
    )
    sums = samples.group_by(keys).agg(
        value[0].mean().alias("now"), value[1].mean().alias("before"), value[1].std().fill_null(0.0).alias("spread")
    )
    usual = pl.col("spread") + _LEVEL_SPREAD * pl.col("before").abs()
    score = pl.when(usual > 0).then((pl.col("now") - pl.col("before")).abs() / usual).otherwise(0.0)
    return sums.select(*keys, score.fill_null(0.0).clip(0, _CEILING).alias("score"))


def _metric_scores(window: Window) -> pl.DataFrame:
    samples = window.metrics.with_columns(kind="entity_kind", key=_key())
    return _levels(samples, ["kind", "key", "metric"]).select("kind", "key", "score")


def _log_scores(window: Window, share: float) -> pl.DataFrame:
    lines = window.logs.filter(pl.col("severity").is_in(_ERROR_SEVERITIES)).with_columns(kind="entity_kind", key=_key())
    return _split(lines, ["kind", "key"]).select("kind", "key", _surplus(share).alias("score"))


def _event_scores(window: Window, share: float) -> pl.DataFrame:
    events = window.events.with_columns(kind="entity_kind", key=_key(), count=pl.lit(1))
    return _split(events, ["kind", "key", "reason"]).select("kind", "key", _surplus(share).alias("score"))


def _key() -> pl.Expr:
    return key(pl.col("entity"), pl.col("namespace"))


def _dense(scores: pl.DataFrame, size: int, reduce: np.ufunc) -> Array:
    values = np.zeros(size)
    reduce.at(values, scores["row"].to_numpy(), scores["score"].to_numpy())
    return values
