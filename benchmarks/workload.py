"""Spans of a made-up system of any size, for timing only: fixed call trees, random durations."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from rca.incidents.incident import BaselineModel, EntityModel, Incident, IntervalModel, Label
from rca.telemetry import MINUTE_NS, SECOND_NS, Telemetry, conform

SERVICES = 50
SERVICES_PER_REQUEST = 10  # a request is a server span at the entry, then a client and a server span for every other service
START_NS = 1_768_471_200 * SECOND_NS
BASELINE_MINUTES, INCIDENT_MINUTES = 20, 3
_TREES = 40
_MS = 1_000_000

Ints = npt.NDArray[np.int64]


def spans(count: int, seed: int = 1) -> pl.DataFrame:
    """About `count` spans of 50 services over 23 minutes, 19 to a trace, ids of 32 and 16 hex digits."""
    rng = np.random.default_rng(seed)
    per_tree = max(1, count // (_TREES * (2 * SERVICES_PER_REQUEST - 1)))
    frames = [_tree(rng, tree, per_tree) for tree in range(_TREES)]
    return conform("spans", pl.concat(frames).sort("start_time_unix_nano"))


def _tree(rng: np.random.Generator, tree: int, n: int) -> pl.DataFrame:
    """n requests along one random tree of services."""
    members = rng.permutation(SERVICES)[:SERVICES_PER_REQUEST]
    parents = np.array([-1, *(rng.integers(0, i) for i in range(1, SERVICES_PER_REQUEST))])
    minutes = BASELINE_MINUTES + INCIDENT_MINUTES
    starts = [START_NS + rng.integers(0, minutes * MINUTE_NS, n)]
    work = rng.lognormal(np.log(5), 0.3, (SERVICES_PER_REQUEST, n))  # ms
    lasts = work * _MS
    for i in range(SERVICES_PER_REQUEST - 1, 0, -1):  # children come after their parents
        lasts[parents[i]] += lasts[i] + _MS
    starts += [np.zeros(0, dtype=np.int64)] * (SERVICES_PER_REQUEST - 1)
    busy = work * 0.5 * _MS  # before the first call
    traces = _hex(rng, n, 16)
    ids = [_hex(rng, n, 8) for _ in range(2 * SERVICES_PER_REQUEST)]
    frames = []
    for i, parent in enumerate(parents.tolist()):
        if i > 0:
            called = (starts[parent] + busy[parent]).astype(np.int64)
            busy[parent] += lasts[i] + _MS
            starts[i] = called + _MS // 2
            end = (starts[i] + lasts[i] + _MS // 2).astype(np.int64)
            frames.append(_frame(traces, ids[2 * i], ids[2 * parent + 1], 3, members[parent], f"call {members[i]}", called, end))
        up = ids[2 * i] if i > 0 else pl.Series([None] * n, dtype=pl.String)
        end = (starts[i] + lasts[i]).astype(np.int64)
        frames.append(_frame(traces, ids[2 * i + 1], up, 2, members[i], f"operation {tree % 5}", starts[i], end))
    return pl.concat(frames)


def _frame(
    traces: pl.Series, own: pl.Series, parent: pl.Series, kind: int, service: int, name: str, start: Ints, end: Ints
) -> pl.DataFrame:
    return pl.DataFrame(
        {"trace_id": traces, "span_id": own, "parent_span_id": parent, "start_time_unix_nano": start, "end_time_unix_nano": end}
    ).with_columns(
        pl.lit(kind, dtype=pl.Int8).alias("kind"),
        pl.lit(name).alias("name"),
        pl.lit(f"service-{service:02}").alias("service.name"),
        pl.lit(f"service-{service:02}-0").alias("k8s.pod.name"),
    )


def _hex(rng: np.random.Generator, n: int, size: int) -> pl.Series:
    text = rng.bytes(n * size).hex()
    return pl.Series([text[i : i + 2 * size] for i in range(0, len(text), 2 * size)], dtype=pl.String)


def incident(count: int) -> tuple[Incident, Telemetry]:
    """An incident with about `count` spans."""
    onset = START_NS + BASELINE_MINUTES * MINUTE_NS
    culprit = Label(entity=EntityModel(name="service-00"), provenance="injected")
    return (
        Incident(
            id="workload",
            system="workload",
            window=IntervalModel(start_ns=onset, end_ns=onset + INCIDENT_MINUTES * MINUTE_NS),
            baselines=(BaselineModel(start_ns=START_NS, end_ns=onset),),
            labels=(culprit,),
        ),
        Telemetry(spans=spans(count)),
    )
