"""Windows of large systems, made as bins: nobody needs their spans."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from rca.bins import BIN_NS, COUNTS, DURATIONS, Bins, buckets_of
from rca.telemetry import MINUTE_NS, EntityId, Interval, empty
from rca.window import INCIDENT, Baseline, Window
from tests.shop import T0, frame

ONSET, END = T0 + 20 * MINUTE_NS, T0 + 25 * MINUTE_NS
_SEEN = 0.2  # share of the bins in which a service or a call is seen

Ints = npt.NDArray[np.int64]


def large_window(services: int, calls: int, *, hub: int = 3411, seed: int = 0) -> tuple[Window, EntityId, EntityId]:
    """(window, cause, what alerts): calls at random, one gateway that calls `hub` services, one service ten times slower."""
    rng, hub = np.random.default_rng(seed), min(hub, services - 1)
    names = np.array([f"service-{i:05d}" for i in range(services)])
    caller = np.concatenate([np.zeros(hub, dtype=np.int64), rng.integers(0, services, calls - hub)])
    callee = np.concatenate([rng.permutation(services - 1)[:hub] + 1, rng.integers(0, services, calls - hub)])
    others = caller != callee
    caller, callee = caller[others], callee[others]
    alerting, cause = int(caller[-1]), int(callee[-1])
    own, culprit = names, np.arange(services) == cause
    ends: dict[str, tuple[Any, Any, Any]] = {
        "span": (own, None, culprit),
        "request": (own, None, culprit),
        "server": (own, None, culprit),
        "self": (own, None, culprit),
        "call": (names[caller], names[callee], callee == cause),
        "client": (names[caller], names[callee], callee == cause),
        "called": (names[caller], names[callee], callee == cause),
    }
    rows = {what: _seen(rng, what, *some) for what, some in ends.items()}
    counts = pl.concat([rows[what] for what in ("span", "request", "call")])
    durations = pl.concat([_timed(rng, rows[what]) for what in ("server", "self", "client", "called")])
    alert = {"time_unix_nano": END - MINUTE_NS, "entity_kind": "service", "entity": str(names[alerting]), "name": "Slow"}
    alerts = frame("alerts", [{**alert, "source": "metric"}]).with_columns(interval=pl.lit(INCIDENT, dtype=pl.Int16))
    nothing = {
        name: empty(name).with_columns(interval=pl.lit(0, dtype=pl.Int16)) for name in ("metrics", "events", "logs", "calls")
    }
    none = Bins.empty()
    window = Window(
        Interval(ONSET, END),
        (Baseline(Interval(T0, ONSET), "preceding"),),
        Bins(_as(counts, COUNTS), _as(durations, DURATIONS), none.exemplars, none.placement),
        alerts=alerts,
        topology=empty("topology"),
        **nothing,
    )
    return window, EntityId("service", str(names[cause])), EntityId("service", str(names[alerting]))


def _seen(rng: np.random.Generator, what: str, sources: Any, targets: Any, slow: Any) -> pl.DataFrame:
    bins = np.arange(T0, END, BIN_NS)
    at, which = np.nonzero(rng.random((len(bins), len(sources))) < _SEEN)
    times, n = bins[at], len(at)
    ends = {"operation": ["serve"] * n, "target_kind": [None] * n, "target": [None] * n}
    if targets is not None:
        ends = {"operation": [None] * n, "target_kind": ["service"] * n, "target": targets[which]}
    return pl.DataFrame(
        {
            "interval": np.where(times >= ONSET, INCIDENT, 0).astype(np.int16),
            "bin_ns": times,
            "what": [what] * n,
            "source": sources[which],
            "count": rng.poisson(20, n) + 1,
            "slow": slow[which] & (times >= ONSET),
            **ends,
        },
        schema_overrides=dict.fromkeys(ends, pl.String),
    )


def _timed(rng: np.random.Generator, rows: pl.DataFrame) -> pl.DataFrame:
    durations: Ints = (10 ** rng.normal(7.3, 0.15, len(rows)) * np.where(rows["slow"], 10, 1)).astype(np.int64)
    return rows.with_columns(pl.Series("bucket", buckets_of(durations)))


def _as(rows: pl.DataFrame, schema: dict[str, pl.DataType]) -> pl.DataFrame:
    return rows.select(
        pl.col(name).cast(dtype) if name in rows.columns else pl.lit(None, dtype=dtype).alias(name)
        for name, dtype in schema.items()
    )
