"""Kubernetes events and changes: more of them than quiet times let expect."""

from __future__ import annotations

import numpy as np
import polars as pl

from rca.bins import key
from rca.deviations.blocks import Blocks
from rca.deviations.sheet import Sheet
from rca.signals import NODE_COLUMN
from rca.topology import Topology
from rca.window import INCIDENT, Window, events_from_ns


def measure_events(sheet: Sheet, window: Window, topology: Topology, blocks: Blocks) -> None:
    """Warnings and changes; those of a pod count for its owner as well."""
    events = blocks.assign(window.events, "time_unix_nano")
    if events.is_empty():
        return
    events = events.with_columns(key(pl.col("entity"), pl.col("namespace")).alias("key"), pl.lit(1).alias("count"))
    lengths = {block: (high - low) for _, low, high, block in blocks.edges}
    lengths[INCIDENT] = window.incident.end_ns - events_from_ns(window.incident, window.baselines)
    baseline_ns = sum(length for block, length in lengths.items() if block >= 0)
    for warning, signal in ((True, "warnings"), (False, "changes")):
        chosen = events.filter((pl.col("severity") == "Warning").fill_null(False) == warning)
        for kind, name, *_ in chosen.select("entity_kind", "key").unique().sort("entity_kind", "key").iter_rows():
            row = topology.rows.get((kind, name))
            if row is None:
                continue
            mine = chosen.filter((pl.col("entity_kind") == kind) & (pl.col("key") == name))
            for q, stretch in enumerate(blocks.stretches):
                now = mine.filter(pl.col("block") == stretch).height
                before = mine.filter((pl.col("block") >= 0) & (pl.col("block") != stretch)).height
                exposure = baseline_ns - (lengths[stretch] if stretch >= 0 else 0)
                expected = before * lengths[stretch] / exposure if exposure > 0 else 0.0
                value = max(float(2 * (np.sqrt(now + 0.375) - np.sqrt(expected + 0.375))), 0.0)
                for target in (row, topology.owners.get(row)):
                    if target is not None:
                        column = sheet.node[q, :, NODE_COLUMN[signal]]
                        column[target] = np.fmax(column[target], value)
