"""What the numbers of a service's spans say of it: what vanished, what is new, what fails, how much it serves."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from rca.bins import split_key
from rca.deviations.counts import Counts, anscombe, expected_counts, rate_change
from rca.deviations.passed_on import PassedOn
from rca.deviations.sheet import Sheet, service_rows
from rca.topology import Topology


def measure_span_counts(sheet: Sheet, counts: Counts, passed_on: PassedOn, topology: Topology) -> None:
    """Vanished and new child calls, errors, traffic."""
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
        remote = (table["source"] != table["target"]).to_numpy()
        sheet.raise_node("new_calls", service_rows(topology, table["target"])[remote], deviation[:, remote])
        callers, callees = service_rows(topology, table["source"]), service_rows(topology, table["target"])
        vanished = -deviation * (1 - passed_on.part(callers, now - expected))
        messages = queued(counts.frame, table)
        sheet.raise_node("vanished_calls", callers[~messages], vanished[:, ~messages])
        sheet.raise_node("unanswered_calls", callees[messages], -deviation[:, messages])
    _measure_errors(sheet, counts, passed_on, topology)
    _measure_traffic(sheet, counts, topology)


def queued(counts: pl.DataFrame, children: pl.DataFrame) -> npt.NDArray[np.bool_]:
    """Which children took a message that their parents left in a queue, (K,): if they cease, nobody took it.

    counts: rows of `Bins.counts`; children: source, operation, target, target_operation. Spans of messages are called by what is
    done and the destination, so that calls between the same two services by other ways are told apart.
    """
    ends = counts.filter(pl.col("what") == "call").select("source", "target_kind", pl.col("target").alias("queue")).unique()
    senders, takers = (ends.filter(pl.col("target_kind") == kind).drop("target_kind") for kind in ("queue", "consumed_queue"))
    queues: dict[tuple[str, str], list[str]] = {}
    for sender, queue, taker in senders.join(takers.rename({"source": "target"}), on="queue").iter_rows():
        queues.setdefault((sender, taker), []).append(split_key(queue)[1])
    rows = children.select("source", "operation", "target", "target_operation").iter_rows()
    return np.array(
        [
            source != target and any(queue in operation or queue in taking for queue in queues.get((source, target), ()))
            for source, operation, target, taking in rows
        ],
        dtype=np.bool_,
    )


def _measure_errors(sheet: Sheet, counts: Counts, passed_on: PassedOn, topology: Topology) -> None:
    """Errors per span. A service without an error in a system that reports some has the deviation 0."""
    services, spans_now, spans_before = counts.of("span", ["source"])
    rows = service_rows(topology, services["source"])
    for what, signal in (("own_error", "own_errors"), ("error", "errors")):
        if counts.frame.filter(pl.col("what") == what).is_empty():
            continue
        now, before = passed_on.own_failures if what == "own_error" else counts.within(what, services)
        expected, share = expected_counts(spans_now, before, spans_before)
        sheet.raise_node(signal, rows, anscombe(now, expected, share))


def _measure_traffic(sheet: Sheet, counts: Counts, topology: Topology) -> None:
    table, now, before = counts.of("request", ["source"])
    if len(table):
        sheet.raise_node("traffic", service_rows(topology, table["source"]), rate_change(counts, now, before))
