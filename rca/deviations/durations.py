"""Durations of spans: how far the medians of a stretch lie from those of all other quiet blocks."""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl

from rca.bins import BUCKET_WIDTH
from rca.deviations.blocks import Blocks
from rca.deviations.sheet import FEWEST_BEFORE, FEWEST_NOW, Array, Sheet, edge_of, service_rows
from rca.signals import EDGE_COLUMN, NODE_COLUMN
from rca.topology import Topology
from rca.window import Window

_MOST_BEFORE: Final = 60
_MOST_NOW: Final = 20


class _Histograms:
    """Duration histograms by key (K keys) and stretch (Q), ready for quantiles. R different (key, bucket) in order."""

    def __init__(self, frame: pl.DataFrame, keys: list[str], stretches: list[int]) -> None:
        self.keys = frame.select(keys).unique().sort(keys).with_row_index("key")
        key = frame.select(keys).join(self.keys, on=keys, nulls_equal=True, maintain_order="left")["key"].to_numpy()
        bucket, block = frame["bucket"].to_numpy().astype(np.int64), frame["block"].to_numpy()
        count = frame["count"].to_numpy()
        least = bucket.min(initial=0)
        width = int(bucket.max(initial=0) - least) + 1
        cells, row = np.unique(key.astype(np.int64) * width + (bucket - least), return_inverse=True)
        self.bucket = (cells % width + least).astype(np.float64)  # (R,)
        self.starts = np.searchsorted(cells // width, np.arange(len(self.keys)))  # (K,) first row of every key
        at_rest = np.bincount(row, weights=np.where(block >= 0, count, 0), minlength=len(cells))  # (R,)
        self.now = np.stack(
            [np.bincount(row, weights=np.where(block == stretch, count, 0), minlength=len(cells)) for stretch in stretches]
        )  # (Q, R)
        quiet = (np.array(stretches) >= 0)[:, None]
        self.before = at_rest - np.where(quiet, self.now, 0.0)  # (Q, R) all other baseline blocks

    def shifts(self) -> Array:
        """Two-sample shift of every stretch against all other baseline blocks, per key (Q, K)."""
        return np.stack([self._shift(now, before) for now, before in zip(self.now, self.before, strict=True)])

    def _shift(self, now: Array, before: Array) -> Array:
        n_now, median_now, spread_now = self._summary(now)
        n_before, median_before, spread_before = self._summary(before)
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.sqrt(spread_before**2 / np.minimum(n_before, _MOST_BEFORE) + spread_now**2 / np.minimum(n_now, _MOST_NOW))
            shift: Array = (median_now - median_before) / error
        shift[(n_before < FEWEST_BEFORE) | (n_now < FEWEST_NOW)] = np.nan
        return shift

    def _summary(self, counts: Array) -> tuple[Array, Array, Array]:
        """(n, median, robust spread) of ln duration per key, (K,) each. counts: (R,)."""
        cumulative = np.cumsum(counts)
        before = np.where(self.starts > 0, cumulative[self.starts - 1], 0.0)
        total = np.append(before[1:], cumulative[-1]) - before
        quartiles = []
        for share in (0.25, 0.5, 0.75):
            position = np.searchsorted(cumulative, before + share * total - 1e-9, side="left")
            quartiles.append(self.bucket[np.minimum(position, len(self.bucket) - 1)] * BUCKET_WIDTH)
        low, middle, high = quartiles
        return total, middle, np.maximum((high - low) / 1.349, 0.15)


def measure_durations(sheet: Sheet, window: Window, topology: Topology, blocks: Blocks) -> None:
    """Latencies, self times and client-minus-server gaps of services and calls."""
    durations = blocks.assign(window.bins.durations, "bin_ns")
    if durations.is_empty():
        return
    for what, signal in (("server", "server_latency"), ("self", "self_time"), ("leaf", "leaf_latency")):
        histograms = _Histograms(durations.filter(pl.col("what") == what), ["source", "operation"], blocks.stretches)
        if not len(histograms.keys):
            continue
        shifts = histograms.shifts()
        rows = service_rows(topology, histograms.keys["source"])
        sheet.raise_node(signal, rows, shifts)
        if what == "self":
            sheet.raise_node("self_time_fall", rows, -shifts)
    for what, signal in (("client", "client_latency"), ("called", "called_latency"), ("gap", "gap")):
        histograms = _Histograms(durations.filter(pl.col("what") == what), ["source", "target_kind", "target"], blocks.stretches)
        if not len(histograms.keys):
            continue
        shifts = histograms.shifts()
        edges = [edge_of(topology, *names) for names in histograms.keys.select("source", "target_kind", "target").iter_rows()]
        for relation in topology.edges:
            of_relation = np.array([edge is not None and edge[0] == relation for edge in edges], dtype=bool)
            rows = np.array([edge[1] for edge in edges if edge is not None and edge[0] == relation], dtype=np.int64)
            if of_relation.any():
                sheet.raise_edge(signal, relation, rows, shifts[:, of_relation])
        if what == "gap":
            _credit_gaps(sheet, topology)


def _credit_gaps(sheet: Sheet, topology: Topology) -> None:
    """A network fault of an entity slows every call into it, and every call out of it: the smallest shift tells.

    One slow call alone does not tell its ends apart, so calls out of an entity count only where there are two or more.
    """
    calls = topology.edges["calls"]
    gap = sheet.edge["calls"][:, :, EDGE_COLUMN["gap"]]
    for stretch, shifts in enumerate(gap):
        seen = np.isfinite(shifts)
        several = np.bincount(calls[0][seen], minlength=len(topology.entities)) > 1
        out = seen & several[calls[0]]
        for signal, end, reduce, chosen in (
            ("gap_in", 1, np.fmax, seen),
            ("gap_in_all", 1, np.fmin, seen),
            ("gap_out", 0, np.fmin, out),
        ):
            column = sheet.node[stretch, :, NODE_COLUMN[signal]]
            reduce.at(column, calls[end][chosen], np.maximum(shifts[chosen], 0.0))
