"""Counts of spans: what vanished, what is new, what fails, against what quiet times let expect."""

from __future__ import annotations

import numpy as np
import polars as pl

from rca.bins import BIN_NS
from rca.deviations.blocks import Blocks
from rca.deviations.sheet import (
    FEWEST_BEFORE,
    FEWEST_NOW,
    RATE_SPREAD,
    Array,
    Sheet,
    edge_of,
    service_rows,
)
from rca.topology import Topology
from rca.window import Window


class Counts:
    """Span counts per key and stretch: `now` in the stretch itself, `before` in all other baseline blocks. (Q, K) each."""

    def __init__(self, window: Window, blocks: Blocks) -> None:
        self.blocks = blocks
        self.frame = blocks.assign(window.bins.counts, "bin_ns")
        recorded = self.frame.filter(pl.col("what") == "span").select("block", "bin_ns")
        if recorded.is_empty():  # logs alone
            recorded = blocks.assign(window.logs, "time_unix_nano").select("block", pl.col("time_unix_nano").alias("bin_ns"))
        covered = recorded.group_by("block").agg((pl.col("bin_ns") // BIN_NS).n_unique().alias("count"))
        self.now_bins, self.before_bins = self.split(covered.with_columns(pl.lit(0).alias("key")), 1)

    def split(self, frame: pl.DataFrame, keys: int) -> tuple[Array, Array]:
        """(now, before) of a frame with columns key, block, count."""
        dense = np.zeros((self.blocks.count + 1, keys))  # row 0 is the incident
        np.add.at(dense, (frame["block"].to_numpy() + 1, frame["key"].to_numpy()), frame["count"].to_numpy())
        now = dense[[stretch + 1 for stretch in self.blocks.stretches]]
        everything = dense[1:].sum(axis=0)
        before = np.stack([everything - (dense[stretch + 1] if stretch >= 0 else 0.0) for stretch in self.blocks.stretches])
        return now, before

    def of(self, what: str, keys: list[str]) -> tuple[pl.DataFrame, Array, Array]:
        """Key table, now and before of one kind of count."""
        return self.tally(self.frame.filter(pl.col("what") == what), keys)

    def tally(self, frame: pl.DataFrame, keys: list[str]) -> tuple[pl.DataFrame, Array, Array]:
        """The same for any frame with a block and a count."""
        frame = frame.group_by([*keys, "block"]).agg(pl.col("count").sum())
        table = frame.select(keys).unique().sort(keys, nulls_last=True).with_row_index("key")
        now, before = self.split(frame.join(table, on=keys, nulls_equal=True), len(table))
        return table, now, before


def anscombe(now: Array, expected: Array, share: Array) -> Array:
    """Deviation of a count from its expectation; `share` = how much shorter the baseline's exposure is than the stretch's.

    2 sqrt(n + 3/8) has variance 1 for Poisson counts; the expectation itself, scaled by `share`, adds `share`.
    """
    deviation: Array = 2 * (np.sqrt(now + 0.375) - np.sqrt(expected + 0.375)) / np.sqrt(1 + share)
    return deviation


def expected_counts(now_exposure: Array, before: Array, before_exposure: Array) -> tuple[Array, Array]:
    """(expected count, share); NaN where the exposure was too small before or is now."""
    with np.errstate(divide="ignore", invalid="ignore"):
        share = now_exposure / before_exposure
    share = np.where((before_exposure >= FEWEST_BEFORE) & (now_exposure >= FEWEST_NOW), share, np.nan)
    return before * share, share


def measure_counts(sheet: Sheet, counts: Counts, topology: Topology) -> None:
    """Vanished and new child calls, errors, traffic, and the counts of calls."""
    spans, spans_now, spans_before = counts.of("span", ["source", "operation"])
    if not len(spans):
        return
    parent_of = {(source, operation): k for k, source, operation in spans.iter_rows()}
    table, now, before = counts.of("child", ["source", "operation", "target", "target_operation"])
    parents = np.array([parent_of.get(key, -1) for key in table.select("source", "operation").iter_rows()], dtype=np.int64)
    known = parents >= 0  # a parent whose own span was not recorded tells nothing of what to expect
    if known.any():
        table, now, before, parents = table.filter(known), now[:, known], before[:, known], parents[known]
        expected, share = expected_counts(spans_now[:, parents], before, spans_before[:, parents])
        deviation = anscombe(now, expected, share)
        sheet.raise_node("vanished_calls", service_rows(topology, table["source"]), -deviation)
        remote = (table["source"] != table["target"]).to_numpy()
        sheet.raise_node("new_calls", service_rows(topology, table["target"])[remote], deviation[:, remote])
    services, services_now, services_before = counts.of("span", ["source"])
    service_of = {source: k for k, source in services.iter_rows()}
    for what, signal in (("own_error", "own_errors"), ("error", "errors")):
        _measure_errors(sheet, counts, topology, what, signal, (service_of, services_now, services_before))
    _measure_traffic(sheet, counts, topology)
    _measure_edges(sheet, counts, topology)


def _measure_errors(
    sheet: Sheet,
    counts: Counts,
    topology: Topology,
    what: str,
    signal: str,
    services: tuple[dict[str, int], Array, Array],
) -> None:
    """Errors per span of the service. A service without an error in a system that reports some has the deviation 0."""
    service_of, services_now, services_before = services
    table, now, before = counts.of(what, ["source"])
    if not len(table):
        return
    all_now, all_before = np.zeros_like(services_now), np.zeros_like(services_before)
    columns = [service_of[source] for source in table["source"].to_list()]
    all_now[:, columns], all_before[:, columns] = now, before
    expected, share = expected_counts(services_now, all_before, services_before)
    rows = np.array([topology.rows["service", source] for source in service_of], dtype=np.int64)
    sheet.raise_node(signal, rows, anscombe(all_now, expected, share))


def _measure_traffic(sheet: Sheet, counts: Counts, topology: Topology) -> None:
    table, now, before = counts.of("request", ["source"])
    if len(table):
        sheet.raise_node("traffic", service_rows(topology, table["source"]), rate_change(counts, now, before))


def rate_change(counts: Counts, now: Array, before: Array) -> Array:
    """ln ratio of rates over the larger of counting noise and 15 %. Rates are per covered bin, so missing files do not count."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log((now + 0.5) / counts.now_bins) - np.log((before + 0.5) / counts.before_bins)
        noise = np.sqrt(1 / (now + 0.5) + 1 / (before + 0.5))
    change: Array = ratio / np.maximum(noise, RATE_SPREAD)
    change[~np.isfinite(change) | (before < FEWEST_BEFORE)] = np.nan
    return change


def _measure_edges(sheet: Sheet, counts: Counts, topology: Topology) -> None:
    requests, requests_now, requests_before = counts.of("request", ["source"])
    request_of = {source: k for k, source in requests.iter_rows()}
    calls, calls_now, calls_before = counts.of("call", ["source", "target_kind", "target"])
    failed, failed_now, failed_before = counts.of("call_error", ["source", "target_kind", "target"])
    failed_column = {(s, kind, t): k for k, s, kind, t in failed.iter_rows()}
    for k, source, kind, target in calls.iter_rows():
        edge = edge_of(topology, source, kind, target)
        if edge is None:
            continue
        relation, column = edge[0], np.array([edge[1]])
        if source in request_of:
            r = request_of[source]
            expected, share = expected_counts(requests_now[:, [r]], calls_before[:, [k]], requests_before[:, [r]])
            sheet.raise_edge("calls", relation, column, anscombe(calls_now[:, [k]], expected, share))
        if len(failed):
            f = failed_column.get((source, kind, target))
            f_now = failed_now[:, [f]] if f is not None else np.zeros_like(calls_now[:, [k]])
            f_before = failed_before[:, [f]] if f is not None else np.zeros_like(calls_before[:, [k]])
            expected, share = expected_counts(calls_now[:, [k]], f_before, calls_before[:, [k]])
            sheet.raise_edge("failed_calls", relation, column, anscombe(f_now, expected, share))
