"""Who was affected, from when to when, and how much: requests where they enter the system, against the baseline. Pure.

A request is slow if it took longer than 99 % of its operation's requests in the baseline did. A step of 10 s is hurt if a larger
share of its requests failed, or were slow, than in any step of the baseline, and so many that chance makes them of the
baseline's share once in a thousand steps.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import polars as pl

from rca.bins import BIN_NS, seconds_of
from rca.contracts import Case
from rca.evidence import tally
from rca.telemetry import SECOND_NS, EntityId
from rca.topology import key_of
from rca.window import INCIDENT, Window

_SLOW: Final = 0.99
_FEWEST_FOR_SLOW: Final = 50
"""Requests of the baseline without which nobody can say what is slow."""
_CHANCE: Final = 1e-3
_FEWEST_BAD: Final = 2
_AT: Final = ("bin_ns", "interval")

_OPERATION: Final = ("source", "operation")

Pair = tuple[float, float]
"""In the incident, in the baseline."""
Limits = dict[tuple[str, str], int]
"""Of a service's key and operation: the bucket of durations (rca.bins) above which a request is slow."""


@dataclass(frozen=True)
class Served:
    """Requests of one operation of an entry service. `slow_s` is what 99 % of the baseline stayed below, where that is known."""

    service: EntityId
    operation: str
    requests: Pair
    failed: Pair
    slow: Pair | None
    slow_s: float | None
    median_s: tuple[float | None, float | None]


@dataclass(frozen=True)
class Step:
    """A part of the incident: requests, how many of them failed or were slow, and whether that is more than usual (`hurt`)."""

    start_ns: int
    requests: float
    failed: float
    slow: float
    hurt: bool
    length_ns: int = BIN_NS

    @property
    def end_ns(self) -> int:
        return self.start_ns + self.length_ns


@dataclass(frozen=True)
class Impact:
    """What it did to the requests that enter the system.

    `seconds` is the time that telemetry covers, in incident and baseline; `counted` says what requests are counted by.
    """

    entries: tuple[EntityId, ...]
    operations: tuple[Served, ...]
    steps: tuple[Step, ...]
    seconds: Pair
    counted: Literal["spans", "metrics"] = "spans"

    @property
    def requests(self) -> Pair:
        return _sums([served.requests for served in self.operations])

    @property
    def failed(self) -> Pair:
        return _sums([served.failed for served in self.operations])

    @property
    def slow(self) -> Pair | None:
        """Of the operations of which it is known what is slow."""
        known = [served.slow for served in self.operations if served.slow is not None]
        return _sums(known) if known else None

    @property
    def judged(self) -> Pair:
        """Requests of the operations of which it is known what is slow."""
        return _sums([served.requests for served in self.operations if served.slow is not None])

    @property
    def rates(self) -> tuple[float | None, float | None]:
        """Requests per second."""
        now, before = (count / seconds if seconds else None for count, seconds in zip(self.requests, self.seconds, strict=True))
        return now, before

    @property
    def hurt(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if step.hurt)

    @property
    def more_failed(self) -> bool:
        """True if chance does not make that many failures of the baseline's share."""
        return beyond_chance(self.failed, self.requests)

    @property
    def more_slow(self) -> bool:
        return self.slow is not None and beyond_chance(self.slow, self.judged)


def expected(bad: Pair, of: Pair) -> float | None:
    """How many would be bad in the incident at the baseline's share; None where the baseline has none to compare with."""
    return of[0] * bad[1] / of[1] if of[1] else None


def beyond_chance(bad: Pair, of: Pair) -> bool:
    """Whether so many bad ones come of the baseline's share less than once in a thousand times (Poisson)."""
    if not of[1] or bad[0] < _FEWEST_BAD:
        return False
    usual = of[0] * (bad[1] + 0.5) / (of[1] + 1)  # a baseline without any is no proof that there are none
    return poisson_tail(int(bad[0]), usual) < _CHANCE


def poisson_tail(least: int, mean: float) -> float:
    """Probability of at least so many where `mean` are to be expected."""
    if least <= 0:
        return 1.0
    if mean <= 0:
        return 0.0
    if least > mean + 40 * math.sqrt(mean) + 40:
        return 0.0
    below = math.fsum(math.exp(i * math.log(mean) - mean - math.lgamma(i + 1)) for i in range(least))
    return max(0.0, 1.0 - below)


def entries_of(case: Case) -> tuple[EntityId, ...]:
    """Services that get requests and that nobody calls; of those that read from a queue only where there are no others.

    Where no call is known, every service that gets requests.
    """
    counts, graph = case.window.bins.counts, case.graph
    asked = {source for (source,) in counts.filter(pl.col("what") == "request").select("source").unique().iter_rows()}
    readers = set(readers_of(case))
    called = {graph.entities[row] for row in graph.call_edges()[1].tolist()}
    served = [entity for entity in graph.entities if entity.kind == "service" and key_of(entity) in asked]
    first = [entity for entity in served if entity not in called]
    return tuple([entity for entity in first if entity not in readers] or first)


def readers_of(case: Case) -> tuple[EntityId, ...]:
    """Services that read from a queue: what they do is no request that anybody waits for."""
    counts = case.window.bins.counts
    reading = counts.filter((pl.col("what") == "call") & pl.col("target_kind").str.starts_with("consumed_"))
    keys = set(reading["source"].unique().to_list())
    return tuple(entity for entity in case.graph.entities if entity.kind == "service" and key_of(entity) in keys)


def impact_of(case: Case, longer: Window | None = None) -> Impact | None:
    """The impact; None where no request that enters the system was recorded.

    `longer` is the window with what telemetry there is behind its end: its steps say when it was over.
    """
    window, entries = case.window, entries_of(case)
    if not entries:
        return None
    operations, limits = _operations(window, entries)
    if not sum(one.requests[0] for one in operations):
        return None
    return Impact(entries, operations, _steps(longer or window, [key_of(entity) for entity in entries], limits), _seconds(window))


def _seconds(window: Window) -> Pair:
    at = window.bins.counts.filter(pl.col("what") == "span").select("bin_ns", "interval").unique()
    now = at.filter(pl.col("interval") == INCIDENT).height
    return now * BIN_NS / SECOND_NS, (at.height - now) * BIN_NS / SECOND_NS


def _operations(window: Window, entries: Sequence[EntityId]) -> tuple[tuple[Served, ...], Limits]:
    """Every operation of the entries, the most affected first, and from which bucket on a request of it is slow."""
    by_key = {key_of(entity): entity for entity in entries}
    counts = window.bins.counts.filter(pl.col("source").is_in(list(by_key)))
    requests, failed = (tally(counts.filter(pl.col("what") == what), _OPERATION) for what in ("request", "error"))
    durations = window.bins.durations.filter((pl.col("what") == "server") & pl.col("source").is_in(list(by_key)))
    found, limits = [], {}
    for name, made in requests.items():
        mine = durations.filter((pl.col("source") == name[0]) & (pl.col("operation") == name[1]))
        now, before = mine.filter(pl.col("interval") == INCIDENT), mine.filter(pl.col("interval") >= 0)
        limit = _bucket_at(before, _SLOW) if before["count"].sum() >= _FEWEST_FOR_SLOW else None
        slow = None
        if limit is not None:
            limits[name[0], name[1]] = limit
            slow = (_above(now, limit), _above(before, limit))
        medians = (_seconds_at(_bucket_at(now, 0.5)), _seconds_at(_bucket_at(before, 0.5)))
        bad = failed.get(name, (0.0, 0.0))
        found.append(Served(by_key[name[0]], name[1], made, bad, slow, _seconds_at(limit), medians))
    return tuple(sorted(found, key=lambda one: (-_excess(one), one.operation))), limits


def _excess(served: Served) -> float:
    """Failed and slow requests above the baseline's share."""
    failed = served.failed[0] - (expected(served.failed, served.requests) or 0.0)
    slow = served.slow[0] - (expected(served.slow, served.requests) or 0.0) if served.slow else 0.0
    return failed + slow


def _bucket_at(durations: pl.DataFrame, share: float) -> int | None:
    """The bucket that a share of the durations does not exceed; None where there are no durations."""
    ordered = durations.group_by("bucket").agg(pl.col("count").sum()).sort("bucket")
    reached = ordered.filter(pl.col("count").cum_sum() >= share * pl.col("count").sum() - 1e-9)
    return int(reached["bucket"][0]) if len(reached) else None


def _seconds_at(bucket: int | None) -> float | None:
    return float(seconds_of(np.array([float(bucket)]))[0]) if bucket is not None else None


def _above(durations: pl.DataFrame, bucket: int) -> float:
    return float(durations.filter(pl.col("bucket") > bucket)["count"].sum())


def _steps(window: Window, keys: Collection[str], limits: Limits) -> tuple[Step, ...]:
    """Every 10 s of the incident in which requests entered."""
    mine = pl.col("source").is_in(list(keys))
    counts = window.bins.counts.filter(mine)
    durations = window.bins.durations.filter(mine & (pl.col("what") == "server"))
    is_slow = [
        (pl.col("source") == source) & (pl.col("operation") == operation) & (pl.col("bucket") > bucket)
        for (source, operation), bucket in limits.items()
    ]
    parts = {
        "requests": counts.filter(pl.col("what") == "request"),
        "failed": counts.filter(pl.col("what") == "error"),
        "slow": durations.filter(pl.any_horizontal(is_slow)) if is_slow else durations.clear(),
    }
    summed = {name: part.group_by(_AT).agg(pl.col("count").sum().alias(name)) for name, part in parts.items()}
    table = summed["requests"].join(summed["failed"], on=_AT, how="left").join(summed["slow"], on=_AT, how="left")
    table = table.with_columns(pl.col("failed", "slow").fill_null(0)).sort("bin_ns")
    before, now = table.filter(pl.col("interval") >= 0), table.filter(pl.col("interval") == INCIDENT)
    return tuple(
        Step(at, requests, failed, slow, any(stands_out(before, *bad, requests) for bad in (("failed", failed), ("slow", slow))))
        for at, requests, failed, slow in now.select("bin_ns", "requests", "failed", "slow").iter_rows()
    )


def stands_out(before: pl.DataFrame, name: str, bad: float, requests: float) -> bool:
    """Whether a step's share is above that of every step of the baseline, and above what chance makes of it."""
    before = before.filter(pl.col("requests") > 0)
    if before.is_empty() or not requests:
        return False
    most = float((before[name] / before["requests"]).max() or 0.0)  # type: ignore[arg-type]
    return bad / requests > most and beyond_chance((bad, float(before[name].sum())), (requests, float(before["requests"].sum())))


def _sums(pairs: Sequence[Pair]) -> Pair:
    return math.fsum(now for now, _ in pairs), math.fsum(before for _, before in pairs)
