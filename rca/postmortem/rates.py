"""The impact where there are no spans: request rates and success ratios that arrived as metrics. Pure.

Numbers of requests are rates times the time between samples, so they are estimates; what is slow, metrics do not say.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl

from rca.contracts import Case
from rca.postmortem.impact import Impact, Pair, Served, Step, stands_out
from rca.telemetry import SECOND_NS, EntityId
from rca.window import INCIDENT, Window

_RATE, _SUCCESS, _MEDIAN = "server.request.rate", "server.request.success_ratio", "server.request.duration.p50"
_AT: Final = ("time_unix_nano", "interval")


def impact_of_rates(case: Case) -> Impact | None:
    """The impact by the metrics of services that nobody calls.

    None where no rate or success ratio is known, or a service has them that no call touches: then nobody knows where requests
    enter.
    """
    callers, called = ({case.graph.entities[row] for row in rows.tolist()} for rows in case.graph.call_edges())
    services = [entity for entity in case.graph.entities if entity.kind == "service"]
    known = {entity: series for entity in services if not (series := _series(case.window, entity)).is_empty()}
    found = {entity: series for entity, series in known.items() if entity not in called}
    if not found or not known.keys() <= callers | called:
        return None
    step_s = _step_s(next(iter(found.values())))
    operations = tuple(_served(entity, series, step_s) for entity, series in found.items())
    if not sum(served.requests[0] for served in operations):
        return None
    together = pl.concat(found.values()).group_by(_AT).agg(pl.col("requests").sum(), pl.col("failed").sum()).sort(_AT)
    together = together.with_columns(pl.col("requests", "failed") * step_s)
    return Impact(tuple(found), operations, _steps(together, step_s), _seconds(together, step_s), "metrics")


def _series(window: Window, entity: EntityId) -> pl.DataFrame:
    """Requests and failed requests per second at every sample that has both metrics."""
    of_entity = (pl.col("entity_kind") == entity.kind) & (pl.col("entity") == entity.name)
    mine = window.metrics.filter(
        of_entity & (pl.col("namespace").fill_null("") == entity.namespace) & pl.col("value").is_finite()
    )
    rate = mine.filter(pl.col("metric") == _RATE).select(*_AT, pl.col("value").alias("requests"))
    success = mine.filter(pl.col("metric") == _SUCCESS).select(*_AT, pl.col("value").alias("success"))
    median = mine.filter(pl.col("metric") == _MEDIAN).select(*_AT, pl.col("value").alias("median"))
    joined = rate.join(success, on=_AT).join(median, on=_AT, how="left")
    return joined.with_columns(failed=pl.col("requests") * (1 - pl.col("success"))).drop("success").sort(_AT)


def _step_s(series: pl.DataFrame) -> float:
    """The usual time between samples."""
    steps = np.diff(series["time_unix_nano"].unique().sort().to_numpy())
    return float(np.median(steps)) / SECOND_NS if len(steps) else 0.0


def _served(entity: EntityId, series: pl.DataFrame, step_s: float) -> Served:
    now, before = (series.filter(which) for which in (pl.col("interval") == INCIDENT, pl.col("interval") >= 0))
    requests, failed = (_sum(now, before, name, step_s) for name in ("requests", "failed"))
    return Served(entity, "all requests", requests, failed, None, None, (_middle(now), _middle(before)))


def _sum(now: pl.DataFrame, before: pl.DataFrame, name: str, step_s: float) -> Pair:
    return float(now[name].sum()) * step_s, float(before[name].sum()) * step_s


def _middle(side: pl.DataFrame) -> float | None:
    values = side["median"].drop_nulls().to_numpy()
    return float(np.median(values)) if len(values) else None


def _seconds(together: pl.DataFrame, step_s: float) -> Pair:
    now = together.filter(pl.col("interval") == INCIDENT).height
    return now * step_s, (together.height - now) * step_s


def _steps(together: pl.DataFrame, step_s: float) -> tuple[Step, ...]:
    before, now = together.filter(pl.col("interval") >= 0), together.filter(pl.col("interval") == INCIDENT)
    return tuple(
        Step(at, requests, failed, 0.0, stands_out(before, "failed", failed, requests), round(step_s * SECOND_NS))
        for at, requests, failed in now.select("time_unix_nano", "requests", "failed").iter_rows()
    )
