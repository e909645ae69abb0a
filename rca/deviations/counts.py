"""Counts of spans, calls and log lines per stretch of time, and how far they stray from what quiet times let expect."""

from __future__ import annotations

import numpy as np
import polars as pl

from rca.bins import BIN_NS
from rca.deviations.blocks import Blocks
from rca.deviations.sheet import FEWEST_BEFORE, FEWEST_NOW, RATE_SPREAD, Array
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

    def within(self, what: str, table: pl.DataFrame) -> tuple[Array, Array]:
        """Now and before of one kind of count in the columns of a key table, 0 for keys without any."""
        keys = [column for column in table.columns if column != "key"]
        return self.split(self.frame.filter(pl.col("what") == what).join(table, on=keys, nulls_equal=True), len(table))

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


def rate_change(counts: Counts, now: Array, before: Array) -> Array:
    """ln ratio of rates over the larger of counting noise and 15 %. Rates are per covered bin, so missing files do not count."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log((now + 0.5) / counts.now_bins) - np.log((before + 0.5) / counts.before_bins)
        noise = np.sqrt(1 / (now + 0.5) + 1 / (before + 0.5))
    change: Array = ratio / np.maximum(noise, RATE_SPREAD)
    change[~np.isfinite(change) | (before < FEWEST_BEFORE)] = np.nan
    return change
