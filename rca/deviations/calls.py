"""Calls between entities: how many, how many in vain, and whom a call that nobody answered speaks of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl

from rca.deviations.counts import Counts, anscombe, expected_counts
from rca.deviations.sheet import FEWEST_BEFORE, FEWEST_NOW, Array, Sheet, edge_of, service_rows
from rca.topology import Topology

Codes = npt.NDArray[np.int64]

_ENDS = ["source", "target_kind", "target"]


@dataclass(frozen=True, eq=False)
class Calls:
    """Counts of calls by who calls whom, K pairs, now and before in Q stretches: (Q, K) each.

    A peer that carries the name of a service of the graph is that service, whether or not the call reached it.
    """

    ends: pl.DataFrame  # (K, 3) source, target_kind, target
    answering: npt.NDArray[np.bool_]  # (K,) the callee shows spans of its own
    made: tuple[Array, Array]
    refused: tuple[Array, Array]
    """Failed there: the callee's own span says so."""
    lost: tuple[Array, Array]
    """Failed without a span of the callee. All failures, where a callee shows no spans."""

    @classmethod
    def of(cls, counts: Counts, topology: Topology) -> Calls:
        """Counted from the window's bins."""
        services = [name for kind, name in topology.rows if kind == "service"]
        speaking = pl.col("target").is_in(counts.frame.filter(pl.col("what") == "span")["source"].unique().to_list())
        frame = counts.frame.filter(pl.col("what").is_in(["call", "call_error"])).with_columns(
            pl.col("target_kind").is_in(["service", "consumed_queue"]).alias("answered"),
            pl.when(pl.col("target").is_in(services) & (pl.col("target_kind") != "consumed_queue"))
            .then(pl.lit("service"))
            .otherwise(pl.col("target_kind"))
            .alias("target_kind"),
        )
        ends = frame.select(_ENDS).unique().sort(_ENDS)
        keyed = frame.join(ends.with_row_index("key"), on=_ENDS)
        failed = pl.col("what") == "call_error"
        made, refused, lost = (
            counts.split(keyed.filter(chosen), len(ends))
            for chosen in (~failed, failed & pl.col("answered"), failed & ~pl.col("answered"))
        )
        return cls(ends, ends.select(speaking).to_series().to_numpy(), made, refused, lost)

    @property
    def failed(self) -> tuple[Array, Array]:
        """Failed calls, wherever it was that they failed."""
        return self.refused[0] + self.lost[0], self.refused[1] + self.lost[1]

    @cached_property
    def charged(self) -> tuple[Array, Array]:
        """Lost calls that speak of the callee, (Q, K) each; the others speak of the caller.

        What every caller of a callee loses is the callee's, less what the caller loses with every callee it has, if it has
        several: then it is the caller that reaches nobody. A callee without spans needs two callers that agree: a single one
        may as well be at fault itself.
        """
        share = self._share_beyond(*self.lost)
        source, target = _codes(self.ends, "source"), _codes(self.ends, "target_kind", "target")
        of_caller = _least(share, source, fewest=2)
        beyond = np.maximum(share - of_caller, 0.0)
        of_callee = np.where(self.answering, _least(beyond, target, fewest=1), _least(beyond, target, fewest=2))
        with np.errstate(invalid="ignore", divide="ignore"):
            # A caller with too few calls to judge by is believed as far as the others see the same.
            seen = np.where(np.isnan(share), self.lost[0] / self.made[0], share)
            part = np.where(seen > 0, np.minimum(of_callee / seen, 1.0), self.answering)
        part[:, ~self.outgoing] = 0.0
        return self.lost[0] * part, self.lost[1] * part

    @cached_property
    def outgoing(self) -> npt.NDArray[np.bool_]:
        """Calls to somebody else, (K,): not messages taken from a queue, nor what a service asks of itself."""
        elsewhere = pl.col("source") != pl.col("target")
        return self.ends.select((pl.col("target_kind") != "consumed_queue") & elsewhere).to_series().to_numpy()

    def _share_beyond(self, now: Array, before: Array) -> Array:
        """By how much a share of the calls is larger than before, at least 0; NaN where there are too few to say."""
        made_now, made_before = self.made
        with np.errstate(invalid="ignore", divide="ignore"):
            excess: Array = np.maximum(now / made_now - before / made_before, 0.0)
        excess[(made_now < FEWEST_NOW) | (made_before < FEWEST_BEFORE) | ~self.outgoing] = np.nan
        return excess


def own_failures(counts: Counts, calls: Calls, services: pl.DataFrame) -> tuple[Array, Array]:
    """Failed spans whose children succeeded, less lost calls that speak of the callee: now and before, (Q, K) each.

    `services` is the key table of `counts.of("span", ["source"])`.
    """
    column_of = {source: k for k, source in services.iter_rows()}
    callers = np.array([column_of.get(source, -1) for source in calls.ends["source"].to_list()], dtype=np.int64)
    known = callers >= 0
    now, before = (
        np.maximum(failures - summed(charged[:, known], callers[known], len(services)), 0.0)
        for failures, charged in zip(counts.within("own_error", services), calls.charged, strict=True)
    )
    return now, before


def _codes(ends: pl.DataFrame, *columns: str) -> Codes:
    """Rows of equal values in some columns as one number each, from 0 on, (K,)."""
    return ends.select(pl.struct(columns).rank("dense")).to_series().to_numpy().astype(np.int64) - 1


def _least(values: Array, group: Codes, fewest: int) -> Array:
    """Least known value of its group for every column, 0 where fewer than so many are known; (Q, K)."""
    seen = np.isfinite(values)
    groups = int(group.max(initial=-1)) + 1
    least = np.full((groups, len(values)), np.inf)
    np.minimum.at(least, group, np.where(seen, values, np.inf).T)
    known = summed(seen.astype(np.float64), group, groups)
    return np.where(known >= fewest, least.T, 0.0)[:, group]


def summed(values: Array, group: Codes, groups: int) -> Array:
    """Sums of the columns of a group, (Q, K) to (Q, groups); group: (K,)."""
    total = np.zeros((groups, len(values)))
    np.add.at(total, group, values.T)
    return total.T


def measure_calls(sheet: Sheet, counts: Counts, calls: Calls, topology: Topology) -> None:
    """Calls per request and failed calls on every edge, and at every service the calls into it that nobody answered."""
    made, failed = calls.made, calls.failed
    requests, requests_now, requests_before = counts.of("request", ["source"])
    request_of = {source: k for k, source in requests.iter_rows()}
    # Where nothing ever failed, nothing may say so.
    some_failed = not counts.frame.filter(pl.col("what").is_in(["error", "own_error", "call_error"])).is_empty()
    for k, (source, kind, target) in enumerate(calls.ends.iter_rows()):
        edge = edge_of(topology, source, kind, target)
        if edge is None:
            continue
        relation, column = edge[0], np.array([edge[1]])
        now, before = made[0][:, [k]], made[1][:, [k]]
        if source in request_of:
            r = request_of[source]
            expected, share = expected_counts(requests_now[:, [r]], before, requests_before[:, [r]])
            sheet.raise_edge("calls", relation, column, anscombe(now, expected, share))
        if some_failed:
            expected, share = expected_counts(now, failed[1][:, [k]], before)
            sheet.raise_edge("failed_calls", relation, column, anscombe(failed[0][:, [k]], expected, share))
    if some_failed:
        _measure_unanswered(sheet, calls, topology)


def _measure_unanswered(sheet: Sheet, calls: Calls, topology: Topology) -> None:
    judged = calls.answering & calls.outgoing
    names = calls.ends["target"].filter(pl.Series(judged))
    callees, group = names.unique().sort(), _codes(names.to_frame(), "target")
    lost_now, lost_before, made_now, made_before = (
        summed(values[:, judged], group, len(callees)) for values in (*calls.charged, *calls.made)
    )
    expected, share = expected_counts(made_now, lost_before, made_before)
    sheet.raise_node("unanswered_calls", service_rows(topology, callees), anscombe(lost_now, expected, share))
