"""How far every signal of every entity strays from its baseline, in the incident and in quiet stretches alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from rca.bins import BIN_NS, BUCKET_WIDTH, key
from rca.graph import Indices
from rca.metrics import METRICS, metric_of
from rca.residuals import RESIDUAL_SIGNALS, latency_residuals, success_residuals
from rca.series import series
from rca.signals import EDGE_COLUMN, EDGE_SIGNALS, NODE_COLUMN, NODE_SIGNALS
from rca.telemetry import SECOND_NS, EntityId
from rca.topology import Topology, topology_of
from rca.window import INCIDENT, Window

Array = npt.NDArray[np.float64]

CLIP: Final = 1000.0
QUIET_STRETCHES: Final = 16
_SHORTEST_STRETCH_NS: Final = 60 * SECOND_NS
_FEWEST_BEFORE, _FEWEST_NOW = 8, 3
_MOST_BEFORE, _MOST_NOW = 60, 20
_RATE_SPREAD: Final = 0.15
_NO_BLOCK: Final = -2
LEAST_RATE: Final = 0.05
"""Requests a second below which a ratio of rates is noise."""


@dataclass(frozen=True, eq=False)
class Deviations:
    """Deviations of one stretch of time from its baseline.

    Shapes: N entities, S node signals, E edges of a relation, D edge signals. Values are directed robust z (signed where the
    signal counts both ways), NaN where the signal was not observed.
    """

    entities: tuple[EntityId, ...]
    edges: Mapping[str, Indices]  # relation -> (2, E)
    node: Array  # (N, S)
    slope: Array  # (N, S), z per minute
    edge: Mapping[str, Array]  # relation -> (E, D)


class _Blocks:
    """Stretches of time: block -1 is the incident, blocks 0 .. count-1 cut the baselines into pieces of about its length."""

    def __init__(self, window: Window) -> None:
        length = max(window.incident.end_ns - window.incident.start_ns, _SHORTEST_STRETCH_NS)
        self.edges: list[tuple[int, int, int, int]] = []  # interval, start, end, block
        self.starts: list[Indices] = []  # of the blocks of each baseline
        self.firsts: list[int] = []  # first block of each baseline
        block = 0
        for index, baseline in enumerate(window.baselines):
            start, end = baseline.interval.start_ns, baseline.interval.end_ns
            pieces = max(1, round((end - start) / length))
            bounds = np.linspace(start, end, pieces + 1).astype(np.int64)
            self.starts.append(bounds[:-1])
            self.firsts.append(block)
            for low, high in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
                self.edges.append((index, low, high, block))
                block += 1
        self.count = block

    def assign(self, frame: pl.DataFrame, time: str) -> pl.DataFrame:
        """Add `block` to a frame that has `interval` and a time column."""
        intervals, times = frame["interval"].to_numpy(), frame[time].fill_null(0).to_numpy()
        block = np.full(len(frame), INCIDENT, dtype=np.int32)
        for index in range(len(self.starts)):
            rows = np.flatnonzero(intervals == index)
            # A bin starts up to 10 s before the interval its spans lie in, so a time before the first start belongs to the first.
            position = np.searchsorted(self.starts[index], times[rows], side="right") - 1
            block[rows] = self.firsts[index] + np.maximum(position, 0)
        return frame.with_columns(pl.Series("block", block))


@dataclass(eq=False)
class _Sheet:
    """Deviations under construction for every stretch at once: stretch 0 is the incident, the rest are quiet blocks."""

    node: Array  # (Q, N, S)
    slope: Array  # (Q, N, S)
    edge: dict[str, Array]  # relation -> (Q, E, D)

    def raise_node(self, signal: str, rows: Indices, values: Array) -> None:
        """Keep the larger magnitude where several keys of one entity feed a signal. values: (Q, K), rows: (K,)."""
        column = NODE_COLUMN[signal]
        if not NODE_SIGNALS[column].signed:
            values = np.maximum(values, 0.0)
        for stretch in range(len(values)):
            _keep_largest(self.node[stretch, :, column], rows, values[stretch])

    def raise_edge(self, signal: str, relation: str, rows: Indices, values: Array) -> None:
        column = EDGE_COLUMN[signal]
        if not EDGE_SIGNALS[column].signed:
            values = np.maximum(values, 0.0)
        for stretch in range(len(values)):
            _keep_largest(self.edge[relation][stretch, :, column], rows, values[stretch])


def _keep_largest(target: Array, rows: Indices, values: Array) -> None:
    """target[row] = value of largest magnitude among values and what is there; NaN counts as absent."""
    present = np.isfinite(values)
    rows, values = rows[present], values[present]
    order = np.argsort(np.abs(values), kind="stable")
    rows, values = rows[order], values[order]
    best = dict(zip(rows.tolist(), values.tolist(), strict=True))  # the last one written is the largest
    for row, value in best.items():
        if not abs(target[row]) >= abs(value):  # also true where target is NaN
            target[row] = value


def measure(window: Window, topology: Topology | None = None) -> tuple[Deviations, tuple[Deviations, ...]]:
    """Deviations of the incident, and of up to QUIET_STRETCHES pieces of the baseline against the rest of it."""
    topology = topology or topology_of(window)
    blocks = _Blocks(window)
    quiet = _quiet_blocks(window, blocks)
    stretches = [INCIDENT, *quiet]
    n, q = len(topology.entities), len(stretches)
    sheet = _Sheet(
        np.full((q, n, len(NODE_SIGNALS)), np.nan),
        np.full((q, n, len(NODE_SIGNALS)), np.nan),
        {relation: np.full((q, edges.shape[1], len(EDGE_SIGNALS)), np.nan) for relation, edges in topology.edges.items()},
    )
    counts = _Counts(window, topology, blocks, stretches)
    _measure_durations(sheet, window, topology, blocks, stretches)
    _measure_counts(sheet, counts, topology)
    _measure_logs(sheet, window, counts, topology, blocks)
    _measure_metrics(sheet, window, topology, blocks, stretches)
    _measure_call_metrics(sheet, window, topology, blocks, stretches)
    _measure_residuals(sheet, window, topology, blocks, stretches)
    _measure_events(sheet, window, topology, blocks, stretches)
    _measure_alerts(sheet, window, topology)
    np.clip(sheet.node, -CLIP, CLIP, out=sheet.node)
    np.clip(sheet.slope, -CLIP, CLIP, out=sheet.slope)
    for values in sheet.edge.values():
        np.clip(values, -CLIP, CLIP, out=values)
    made = [
        Deviations(
            topology.entities,
            topology.edges,
            sheet.node[stretch],
            sheet.slope[stretch],
            {relation: values[stretch] for relation, values in sheet.edge.items()},
        )
        for stretch in range(q)
    ]
    return made[0], tuple(made[1:])


def _quiet_blocks(window: Window, blocks: _Blocks) -> list[int]:
    """Evenly spread baseline blocks that hold spans or metrics; one block alone has nothing to be compared with."""
    held: set[int] = set()
    for frame, time in ((window.bins.counts, "bin_ns"), (window.metrics, "time_unix_nano"), (window.logs, "time_unix_nano")):
        found = set(blocks.assign(frame, time)["block"].unique().to_list()) - {INCIDENT, None}
        if frame is window.bins.counts and found:
            held = found
            break
        held |= found
    usable = sorted(held)
    if len(usable) < 2:
        return []
    picks = np.unique(np.linspace(0, len(usable) - 1, min(QUIET_STRETCHES, len(usable))).round().astype(int))
    return [usable[pick] for pick in picks]


# --- spans: durations ---------------------------------------------------------------------------------------------------


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
        shift[(n_before < _FEWEST_BEFORE) | (n_now < _FEWEST_NOW)] = np.nan
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


def _measure_durations(sheet: _Sheet, window: Window, topology: Topology, blocks: _Blocks, stretches: list[int]) -> None:
    durations = blocks.assign(window.bins.durations, "bin_ns")
    if durations.is_empty():
        return
    for what, signal in (("server", "server_latency"), ("self", "self_time"), ("leaf", "leaf_latency")):
        histograms = _Histograms(durations.filter(pl.col("what") == what), ["source", "operation"], stretches)
        if not len(histograms.keys):
            continue
        shifts = histograms.shifts()
        rows = _service_rows(topology, histograms.keys["source"])
        sheet.raise_node(signal, rows, shifts)
        if what == "self":
            sheet.raise_node("self_time_fall", rows, -shifts)
    for what, signal in (("client", "client_latency"), ("called", "called_latency"), ("gap", "gap")):
        histograms = _Histograms(durations.filter(pl.col("what") == what), ["source", "target_kind", "target"], stretches)
        if not len(histograms.keys):
            continue
        shifts = histograms.shifts()
        edges = [_edge_of(topology, *names) for names in histograms.keys.select("source", "target_kind", "target").iter_rows()]
        for relation in topology.edges:
            of_relation = np.array([edge is not None and edge[0] == relation for edge in edges], dtype=bool)
            rows = np.array([edge[1] for edge in edges if edge is not None and edge[0] == relation], dtype=np.int64)
            if of_relation.any():
                sheet.raise_edge(signal, relation, rows, shifts[:, of_relation])
        if what == "gap":
            _credit_gaps(sheet, topology)
    _credit_callees(sheet, topology, "client_latency", "leaf_latency")


def _credit_gaps(sheet: _Sheet, topology: Topology) -> None:
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


def _credit_callees(sheet: _Sheet, topology: Topology, edge_signal: str, signal: str) -> None:
    """Databases, queues and external hosts emit no spans: what every caller sees of them is theirs (the least over callers)."""
    for relation in ("queries", "publishes", "requests"):
        callees = topology.edges[relation][1]
        for stretch, values in enumerate(sheet.edge[relation][:, :, EDGE_COLUMN[edge_signal]]):
            seen = np.isfinite(values)
            np.fmin.at(sheet.node[stretch, :, NODE_COLUMN[signal]], callees[seen], np.maximum(values[seen], 0.0))


def _service_rows(topology: Topology, names: pl.Series) -> Indices:
    return np.array([topology.rows["service", name] for name in names.to_list()], dtype=np.int64)


def _edge_of(topology: Topology, source: str, target_kind: str, target: str) -> tuple[str, int] | None:
    """(relation, column) of a call edge, None for one that the topology left out (a service calling itself)."""
    kind = "queue" if target_kind == "consumed_queue" else target_kind
    if ("service", target) in topology.rows:
        relation, row = "calls", topology.rows["service", target]
    elif (kind, target) in topology.rows:
        row = topology.rows[kind, target]
        relation = {"service": "calls", "database": "queries", "external": "requests"}.get(kind) or (
            "consumes" if target_kind == "consumed_queue" else "publishes"
        )
    else:
        return None
    pairs = topology.edges[relation]
    found = np.flatnonzero((pairs[0] == topology.rows["service", source]) & (pairs[1] == row))
    return (relation, int(found[0])) if len(found) else None


# --- spans: counts ------------------------------------------------------------------------------------------------------


class _Counts:
    """Span counts per key and stretch: `now` in the stretch itself, `before` in all other baseline blocks. (Q, K) each."""

    def __init__(self, window: Window, topology: Topology, blocks: _Blocks, stretches: list[int]) -> None:
        self.topology = topology
        self.blocks = blocks
        self.stretches = stretches
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
        now = dense[[stretch + 1 for stretch in self.stretches]]
        everything = dense[1:].sum(axis=0)
        before = np.stack([everything - (dense[stretch + 1] if stretch >= 0 else 0.0) for stretch in self.stretches])
        return now, before

    def of(self, what: str, keys: list[str]) -> tuple[pl.DataFrame, Array, Array]:
        """Key table, now and before of one kind of count."""
        return self.tally(self.frame.filter(pl.col("what") == what), keys)

    def tally(self, frame: pl.DataFrame, keys: list[str]) -> tuple[pl.DataFrame, Array, Array]:
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


def _expected(now_exposure: Array, before: Array, before_exposure: Array) -> tuple[Array, Array]:
    """(expected count, share); NaN where the exposure was too small before or is now."""
    with np.errstate(divide="ignore", invalid="ignore"):
        share = now_exposure / before_exposure
    share = np.where((before_exposure >= _FEWEST_BEFORE) & (now_exposure >= _FEWEST_NOW), share, np.nan)
    return before * share, share


def _measure_counts(sheet: _Sheet, counts: _Counts, topology: Topology) -> None:
    spans, spans_now, spans_before = counts.of("span", ["source", "operation"])
    if not len(spans):
        return
    parent_of = {(source, operation): k for k, source, operation in spans.iter_rows()}
    table, now, before = counts.of("child", ["source", "operation", "target", "target_operation"])
    if len(table):
        parents = np.array([parent_of[source, op] for source, op in table.select("source", "operation").iter_rows()])
        expected, share = _expected(spans_now[:, parents], before, spans_before[:, parents])
        deviation = anscombe(now, expected, share)
        sheet.raise_node("vanished_calls", _service_rows(topology, table["source"]), -deviation)
        remote = (table["source"] != table["target"]).to_numpy()
        sheet.raise_node("new_calls", _service_rows(topology, table["target"])[remote], deviation[:, remote])
    services, services_now, services_before = counts.of("span", ["source"])
    service_of = {source: k for k, source in services.iter_rows()}
    for what, signal in (("own_error", "own_errors"), ("error", "errors")):
        _measure_errors(sheet, counts, topology, what, signal, (service_of, services_now, services_before))
    _measure_traffic(sheet, counts, topology)
    _measure_edges(sheet, counts, topology)


def _measure_errors(
    sheet: _Sheet,
    counts: _Counts,
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
    expected, share = _expected(services_now, all_before, services_before)
    rows = np.array([topology.rows["service", source] for source in service_of], dtype=np.int64)
    sheet.raise_node(signal, rows, anscombe(all_now, expected, share))


def _measure_traffic(sheet: _Sheet, counts: _Counts, topology: Topology) -> None:
    table, now, before = counts.of("request", ["source"])
    if len(table):
        sheet.raise_node("traffic", _service_rows(topology, table["source"]), _rate_change(counts, now, before))


def _rate_change(counts: _Counts, now: Array, before: Array) -> Array:
    """ln ratio of rates over the larger of counting noise and 15 %. Rates are per covered bin, so missing files do not count."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log((now + 0.5) / counts.now_bins) - np.log((before + 0.5) / counts.before_bins)
        noise = np.sqrt(1 / (now + 0.5) + 1 / (before + 0.5))
    change: Array = ratio / np.maximum(noise, _RATE_SPREAD)
    change[~np.isfinite(change) | (before < _FEWEST_BEFORE)] = np.nan
    return change


def _measure_edges(sheet: _Sheet, counts: _Counts, topology: Topology) -> None:
    requests, requests_now, requests_before = counts.of("request", ["source"])
    request_of = {source: k for k, source in requests.iter_rows()}
    calls, calls_now, calls_before = counts.of("call", ["source", "target_kind", "target"])
    failed, failed_now, failed_before = counts.of("call_error", ["source", "target_kind", "target"])
    failed_column = {(s, kind, t): k for k, s, kind, t in failed.iter_rows()}
    for k, source, kind, target in calls.iter_rows():
        edge = _edge_of(topology, source, kind, target)
        if edge is None:
            continue
        relation, column = edge[0], np.array([edge[1]])
        if source in request_of:
            r = request_of[source]
            expected, share = _expected(requests_now[:, [r]], calls_before[:, [k]], requests_before[:, [r]])
            sheet.raise_edge("calls", relation, column, anscombe(calls_now[:, [k]], expected, share))
        if len(failed):
            f = failed_column.get((source, kind, target))
            f_now = failed_now[:, [f]] if f is not None else np.zeros_like(calls_now[:, [k]])
            f_before = failed_before[:, [f]] if f is not None else np.zeros_like(calls_before[:, [k]])
            expected, share = _expected(calls_now[:, [k]], f_before, calls_before[:, [k]])
            sheet.raise_edge("failed_calls", relation, column, anscombe(f_now, expected, share))
    _credit_callees(sheet, topology, "failed_calls", "own_errors")


# --- logs ---------------------------------------------------------------------------------------------------------------

_ERROR_SEVERITIES: Final = ("ERROR", "FATAL")


def _measure_logs(sheet: _Sheet, window: Window, counts: _Counts, topology: Topology, blocks: _Blocks) -> None:
    logs = blocks.assign(window.logs, "time_unix_nano").filter(pl.col("entity_kind").is_in(["service", "pod"]))
    if logs.filter(pl.col("block") >= 0).is_empty():
        return
    logs = logs.with_columns(key(pl.col("entity"), pl.col("namespace")).alias("source"))
    owners = {entity: topology.owners.get(row) for (kind, entity), row in topology.rows.items() if kind == "pod"}
    names = {entity: _key_at(topology, row) for entity, row in owners.items() if row is not None}
    logs = logs.with_columns(
        pl.when(pl.col("entity_kind") == "pod").then(pl.col("source").replace(names)).otherwise(pl.col("source")).alias("source")
    ).filter(pl.col("source").is_in([name for kind, name in topology.rows if kind == "service"]))
    spans, spans_now, spans_before = counts.of("span", ["source", "operation"])
    span_of = {(source, operation): k for k, source, operation in spans.iter_rows()}
    totals, totals_now, totals_before = counts.tally(logs, ["source"])
    total_of = {source: k for k, source in totals.iter_rows()}
    table, now, before = counts.tally(logs, ["source", "operation", "severity", "template"])
    now_exposure, before_exposure = np.zeros_like(now), np.zeros_like(before)
    for k, source, operation, _, _ in table.iter_rows():
        s = span_of.get((source, operation))
        if s is not None:
            now_exposure[:, k], before_exposure[:, k] = spans_now[:, s], spans_before[:, s]
        else:
            t = total_of[source]
            now_exposure[:, k], before_exposure[:, k] = totals_now[:, t], totals_before[:, t]
    expected, share = _expected(now_exposure, before, before_exposure)
    deviation = anscombe(now, expected, share)
    rows = _service_rows(topology, table["source"])
    is_error = table["severity"].is_in(_ERROR_SEVERITIES).to_numpy()
    sheet.raise_node("vanished_templates", rows[~is_error], -deviation[:, ~is_error])
    sheet.raise_node("new_templates", rows, deviation)
    sheet.raise_node("log_volume", _service_rows(topology, totals["source"]), _rate_change(counts, totals_now, totals_before))
    errors = logs.filter(pl.col("severity").is_in(_ERROR_SEVERITIES))
    error_table, errors_now, errors_before = counts.tally(errors, ["source"])
    all_now, all_before = np.zeros_like(totals_now), np.zeros_like(totals_before)
    columns = [total_of[source] for source in error_table["source"].to_list()]
    all_now[:, columns], all_before[:, columns] = errors_now, errors_before
    # ERROR lines per request where spans say how many there were, else per covered time.
    requests, requests_now, requests_before = counts.of("span", ["source"])
    request_of = {source: k for k, source in requests.iter_rows()}
    now_exposure = np.repeat(np.maximum(counts.now_bins, 1.0) * 10, len(totals), axis=1)
    before_exposure = np.repeat(np.maximum(counts.before_bins, 1.0) * 10, len(totals), axis=1)
    for k, source in totals.iter_rows():
        if source in request_of:
            r = request_of[source]
            now_exposure[:, k], before_exposure[:, k] = requests_now[:, r], requests_before[:, r]
    expected, share = _expected(now_exposure, all_before, before_exposure)
    sheet.raise_node("error_lines", _service_rows(topology, totals["source"]), anscombe(all_now, expected, share))


def _key_at(topology: Topology, row: int) -> str:
    entity = topology.entities[row]
    return f"{entity.namespace}\x1f{entity.name}" if entity.namespace else entity.name


# --- metrics ------------------------------------------------------------------------------------------------------------

_LOG_OFFSET: Final = 1e-3
_FIRST_SIGHT: Final = 10.0
_NEAR_NS: Final = 30 * SECOND_NS  # the two ends of a call are scraped at different seconds of the same minute


def _measure_metrics(sheet: _Sheet, window: Window, topology: Topology, blocks: _Blocks, stretches: list[int]) -> None:
    metrics = window.metrics.filter(pl.col("value").is_finite())
    if metrics.filter(pl.col("interval") >= 0).is_empty():
        return
    metrics = metrics.with_columns(key(pl.col("entity"), pl.col("namespace")).alias("key"))
    scores = robust_scores(blocks.assign(metrics, "time_unix_nano"), ["entity_kind", "key", "metric"])
    at = {stretch: q for q, stretch in enumerate(stretches)}
    known = {metric: metric_of(metric) for metric in scores["metric"].unique().to_list()}
    rows = pl.DataFrame(
        [(kind, name, row) for (kind, name), row in topology.rows.items()],
        schema={"entity_kind": pl.String, "key": pl.String, "row": pl.Int64},
        orient="row",
    )
    summary = (
        scores.filter(pl.col("block").is_in(stretches))
        .group_by("entity_kind", "key", "metric", "block")
        .agg(pl.col("z").mean().alias("z"), _slope_per_minute().alias("slope"))
        .filter(pl.col("z").is_finite())
        .join(rows, on=["entity_kind", "key"])
        .sort("row", "metric", "block")
    )
    if summary.is_empty():
        return
    values, slopes = summary["z"].to_numpy().copy(), summary["slope"].to_numpy()
    slopes = np.where(np.isfinite(slopes), slopes, 0.0)
    columns = summary["metric"].replace_strict({m: NODE_COLUMN[known[m].signal] for m in known}, return_dtype=pl.Int64).to_numpy()
    falls = summary["metric"].replace_strict({m: known[m].direction == "down" for m in known}, return_dtype=pl.Boolean)
    values[falls.to_numpy()] *= -1
    signed = np.array([signal.signed for signal in NODE_SIGNALS])[columns]
    values = np.where(signed, values, np.maximum(values, 0.0))
    stretch = summary["block"].replace_strict(at, return_dtype=pl.Int64).to_numpy()
    row = summary["row"].to_numpy()
    owner = np.array([topology.owners.get(r, r) for r in range(len(topology.entities))], dtype=np.int64)[row]
    owned = owner != row
    for rows_of, chosen in ((owner, owned), (row, np.ones(len(row), dtype=bool))):
        cells = (stretch[chosen], rows_of[chosen], columns[chosen])
        _keep_largest_with_slope(sheet, cells, values[chosen], slopes[chosen])


def _keep_largest_with_slope(sheet: _Sheet, cells: tuple[Indices, Indices, Indices], values: Array, slopes: Array) -> None:
    """As _keep_largest, for cells (stretch, row, column); the slope is that of the metric that is kept."""
    order = np.argsort(-np.abs(values), kind="stable")
    flat = np.ravel_multi_index(cells, sheet.node.shape)[order]
    _, first = np.unique(flat, return_index=True)
    flat, kept = flat[first], order[first]
    node, slope = sheet.node.reshape(-1), sheet.slope.reshape(-1)  # views
    louder = ~(np.abs(node[flat]) >= np.abs(values[kept]))  # also true where there is nothing yet
    node[flat[louder]] = values[kept[louder]]
    slope[flat[louder]] = slopes[kept[louder]]


def _slope_per_minute() -> pl.Expr:
    minutes = (pl.col("time_unix_nano") - pl.col("time_unix_nano").min()) / (60 * SECOND_NS)
    return pl.cov(minutes, pl.col("z")) / minutes.var()


def robust_scores(metrics: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    """Add the robust `z` of every sample against its series' baseline samples (block >= 0). Needs 3 of them."""
    logged = [name for name, metric in METRICS.items() if metric.scale == "log"]
    ratios = [name for name, metric in METRICS.items() if metric.direction == "down"]
    is_log, is_ratio = pl.col("metric").is_in(logged), pl.col("metric").is_in(ratios)
    metrics = metrics.with_columns(
        pl.when(is_log).then((pl.col("value").clip(lower_bound=0) + _LOG_OFFSET).log()).otherwise(pl.col("value")).alias("x")
    )
    before = metrics.filter(pl.col("block") >= 0)
    stats = before.group_by(keys).agg(
        pl.col("x").median().alias("median"),
        (pl.col("x") - pl.col("x").median()).abs().median().alias("mad"),
        (pl.col("x").quantile(0.75) - pl.col("x").quantile(0.25)).alias("iqr"),
        pl.len().alias("samples"),
    )
    level = stats.group_by("metric").agg(pl.col("median").abs().median().alias("level"))
    stats = stats.filter(pl.col("samples") >= 3).join(level, on="metric")
    floor = (
        pl.when(is_log)
        .then(0.1)
        .when(is_ratio)
        .then(0.01 * pl.col("median").abs())
        .otherwise(pl.max_horizontal(0.05 * pl.col("median").abs(), 0.02 * pl.col("level")))
    )
    # A series that is zero throughout the baseline has no scale of its own: its largest value ever then counts as ten.
    peak = pl.when(pl.col("x").abs().max().over(keys) > 0).then(pl.col("x").abs().max().over(keys) / _FIRST_SIGHT).otherwise(1.0)
    spread = pl.max_horizontal(1.4826 * pl.col("mad"), pl.col("iqr") / 1.349, floor)
    scale = pl.when(spread > 0).then(spread).otherwise(peak)
    return metrics.join(stats, on=keys).with_columns(((pl.col("x") - pl.col("median")) / scale).alias("z"))


def client_gaps(calls: pl.DataFrame) -> pl.DataFrame:
    """Calls that arrive aggregated: the client's median minus the server's, as a series of its own (`value`, s)."""
    ends = ["caller", "callee_kind", "callee"]
    client = calls.filter(pl.col("metric") == "call.client.duration.p50").sort("time_unix_nano")
    server = calls.filter(pl.col("metric") == "call.server.duration.p50").sort("time_unix_nano")
    return (
        client.join_asof(
            server.select(*ends, "time_unix_nano", pl.col("value").alias("server")),
            on="time_unix_nano",
            by=ends,
            check_sortedness=False,
            strategy="nearest",
            tolerance=_NEAR_NS,
        )
        .filter(pl.col("server").is_not_null())
        .with_columns((pl.col("value") - pl.col("server")).alias("value"), pl.lit("server.request.duration.p50").alias("metric"))
    )


def _measure_call_metrics(sheet: _Sheet, window: Window, topology: Topology, blocks: _Blocks, stretches: list[int]) -> None:
    calls = window.calls.filter(pl.col("value").is_finite())
    if calls.is_empty():
        return
    ends = ["caller", "callee_kind", "callee"]
    gaps = client_gaps(calls)
    if gaps.filter(pl.col("interval") >= 0).is_empty():
        return
    scores = robust_scores(blocks.assign(gaps, "time_unix_nano"), [*ends, "metric"])
    summary = scores.filter(pl.col("block").is_in(stretches)).group_by([*ends, "block"]).agg(pl.col("z").mean())
    by_stretch = {stretch: q for q, stretch in enumerate(stretches)}
    for caller, kind, callee, block, z in summary.sort([*ends, "block"]).iter_rows():
        edge = _edge_of(topology, caller, kind, callee)
        if edge is None:
            continue
        q, (relation, column) = by_stretch[block], edge
        sheet.edge[relation][q, column, EDGE_COLUMN["metric_gap"]] = z
        target = sheet.node[
            q, topology.edges[relation][1, column] : topology.edges[relation][1, column] + 1, NODE_COLUMN["metric_gap"]
        ]
        target[:] = np.fmax(target, max(z, 0.0))


# --- residuals ----------------------------------------------------------------------------------------------------------


def _measure_residuals(sheet: _Sheet, window: Window, topology: Topology, blocks: _Blocks, stretches: list[int]) -> None:
    frame = blocks.assign(series(window, topology, (*RESIDUAL_SIGNALS, _SERVED)), "time_unix_nano")
    every = np.arange(len(topology.entities))
    sheet.raise_node("latency_residual", every, latency_residuals(frame, topology, frame["block"], stretches))
    sheet.raise_node("success_residual", every, success_residuals(frame, topology, frame["block"], stretches))
    sheet.raise_node("quiet_callees", every, _quiet_callees(frame, topology, blocks, stretches))


_SERVED: Final = "server.request.rate"


def _quiet_callees(frame: pl.DataFrame, topology: Topology, blocks: _Blocks, stretches: list[int]) -> Array:
    """Largest fall over callees of ln(callee's rate) - ln(own rate), robust z over the baseline blocks, at the caller; (Q, N)."""
    result = np.full((len(stretches), len(topology.entities)), np.nan)
    rates = frame.filter((pl.col("signal") == _SERVED) & pl.col("block").is_not_null())
    means = rates.group_by("row", "block").agg(pl.col("value").mean())
    if means.is_empty():
        return result
    level = np.full((len(topology.entities), blocks.count + 1), np.nan)
    for row, block, value in means.iter_rows():
        level[row, block + 1] = np.log(value + 0.05)  # 0.05 requests a second: below it a ratio is noise
    for caller, callee in topology.edges["calls"].T.tolist():
        ratio = level[callee] - level[caller]
        rest = ratio[1:][np.isfinite(ratio[1:])]
        if len(rest) < 3:
            continue
        middle = np.median(rest)
        scale = max(1.4826 * float(np.median(np.abs(rest - middle))), _RATE_SPREAD)
        for q, stretch in enumerate(stretches):
            result[q, caller] = np.fmax(result[q, caller], (middle - ratio[stretch + 1]) / scale)
    return result


# --- events and alerts --------------------------------------------------------------------------------------------------


def _measure_events(sheet: _Sheet, window: Window, topology: Topology, blocks: _Blocks, stretches: list[int]) -> None:
    events = blocks.assign(window.events, "time_unix_nano")
    if events.is_empty():
        return
    events = events.with_columns(key(pl.col("entity"), pl.col("namespace")).alias("key"), pl.lit(1).alias("count"))
    lengths = {block: (high - low) for _, low, high, block in blocks.edges}
    lengths[INCIDENT] = window.incident.end_ns - window.incident.start_ns
    baseline_ns = sum(length for block, length in lengths.items() if block >= 0)
    for warning, signal in ((True, "warnings"), (False, "changes")):
        chosen = events.filter((pl.col("severity") == "Warning").fill_null(False) == warning)
        for kind, name, *_ in chosen.select("entity_kind", "key").unique().sort("entity_kind", "key").iter_rows():
            row = topology.rows.get((kind, name))
            if row is None:
                continue
            mine = chosen.filter((pl.col("entity_kind") == kind) & (pl.col("key") == name))
            for q, stretch in enumerate(stretches):
                now = mine.filter(pl.col("block") == stretch).height
                before = mine.filter((pl.col("block") >= 0) & (pl.col("block") != stretch)).height
                exposure = baseline_ns - (lengths[stretch] if stretch >= 0 else 0)
                expected = before * lengths[stretch] / exposure if exposure > 0 else 0.0
                value = max(float(2 * (np.sqrt(now + 0.375) - np.sqrt(expected + 0.375))), 0.0)
                for target in (row, topology.owners.get(row)):
                    if target is not None:
                        column = sheet.node[q, :, NODE_COLUMN[signal]]
                        column[target] = np.fmax(column[target], value)


_ALERT_WORDS: Final[tuple[tuple[tuple[str, ...], str], ...]] = (
    (("cpu", "throttl", "load"), "alert_cpu"),
    (("mem", "oom"), "alert_memory"),
    (("fs_", "disk", "filesystem", "volume", "io_"), "alert_disk"),
    (("net_receive", "receive", "rx"), "alert_network_in"),
    (("net_trans", "net_trainsmit", "transmit", "tx", "network"), "alert_network_out"),
    (("dest_qps", "traffic", "qps", "request_rate", "requestrate"), "alert_traffic_in"),
    (("dest_success", "error", "5xx", "success", "availability", "fail"), "alert_errors_in"),
    (("dest_p", "latency", "slow", "duration", "p99", "p95"), "alert_latency_in"),
)
_CALLER_SIDE: Final = {
    "src_qps": "alert_traffic_out",
    "src_p": "alert_latency_out",
    "src_success": "alert_errors_out",
}
METRIC_ALERTS: Final = tuple(dict.fromkeys([*_CALLER_SIDE.values(), *(signal for _, signal in _ALERT_WORDS)]))
_NOVELTY: Final = ("alert_novelty", "alert_novelty_logs", "alert_novelty_calls")
_NOVELTY_OF: Final = {"log": ("alert_novelty", "alert_novelty_logs"), "trace": ("alert_novelty_calls",)}
_CALL_ALERTS: Final = {"slow": ("alert_slow", "alert_slow_calls"), "failed": ("alert_failed", "alert_failed_calls")}


def alert_signal(name: str) -> str:
    """Signal an alert on an entity feeds, from the words of its name; `src_` and `dest_` name the client's and server's side."""
    lowered = name.lower()
    for prefix, signal in _CALLER_SIDE.items():
        if lowered.startswith(prefix):
            return signal
    for words, signal in _ALERT_WORDS:
        if any(word in lowered for word in words):
            return signal
    return "alert_other"


def _measure_alerts(sheet: _Sheet, window: Window, topology: Topology) -> None:
    alerts = window.alerts.filter(pl.col("interval") == INCIDENT)
    if alerts.is_empty():
        return
    columns = [c for name, c in NODE_COLUMN.items() if name.startswith("alert_") and name not in _NOVELTY]
    sheet.node[0][:, columns] = 0.0
    edge_columns = [EDGE_COLUMN["alert_slow"], EDGE_COLUMN["alert_failed"]]
    sheet.edge["calls"][0][:, edge_columns] = 0.0
    for kind, entity, namespace, name, source, direction, peer in alerts.select(
        "entity_kind", "entity", "namespace", "name", "source", "direction", "peer"
    ).iter_rows():
        text = f"{namespace}\x1f{entity}" if namespace else entity
        row = topology.rows.get((kind, text))
        if row is None:
            continue
        sign = -1.0 if direction == "down" else 1.0
        for target in {row, topology.owners.get(row)} - {None}:
            if source == "trace":
                _add_call_alert(sheet, topology, int(target), name, peer)  # type: ignore[arg-type]
            else:
                signal = "alert_logs" if source == "log" else alert_signal(name)
                sheet.node[0, target, NODE_COLUMN[signal]] += sign
    _measure_novelty(sheet, alerts, topology)
    on_metrics = [NODE_COLUMN[signal] for signal in METRIC_ALERTS]
    sheet.node[0, :, NODE_COLUMN["alert_rarity"]] = _rarity(sheet.node[0][:, on_metrics])


def _measure_novelty(sheet: _Sheet, alerts: pl.DataFrame, topology: Topology) -> None:
    """Alerts weighed by how unusual they are for their entity; NaN where no alert says how usual it is."""
    known = alerts.filter(pl.col("usual_ratio") > 0)
    if known.is_empty():
        return
    columns = [NODE_COLUMN[name] for name in _NOVELTY]
    sheet.node[0][:, columns] = 0.0
    about = pl.when(pl.col("source") == "trace").then(pl.coalesce("peer", "entity")).otherwise(pl.col("entity"))
    identity = ["entity_kind", "namespace", "entity", "source", "name", "direction", "peer"]
    distinct = known.unique(identity, maintain_order=True).with_columns(about.alias("about"))
    for kind, namespace, name, source, usual in distinct.select(
        "entity_kind", "namespace", "about", "source", "usual_ratio"
    ).iter_rows():
        row = topology.rows.get((kind, f"{namespace}\x1f{name}" if namespace else name))
        if row is None:
            continue
        surprise = max(float(-np.log(usual)), 0.0)
        for signal in _NOVELTY_OF.get(source, _NOVELTY[:1]):
            sheet.node[0, topology.owners.get(row, row), NODE_COLUMN[signal]] += surprise


def _rarity(values: Array) -> Array:
    """Sum over the columns an entity has a value in of -ln(share of entities that have one), (N,). values: (N, kinds)."""
    has = values != 0
    weight = -np.log((has.sum(axis=0) + 0.5) / (len(values) + 1))
    rarity: Array = has @ weight
    return rarity


def _add_call_alert(sheet: _Sheet, topology: Topology, row: int, name: str, peer: str | None) -> None:
    edge_signal, signal = _CALL_ALERTS["slow" if "slow" in name.lower() else "failed"]
    callee = topology.rows.get(("service", peer)) if peer is not None else None
    if callee is None or callee == row:
        sheet.node[0, row, NODE_COLUMN[signal.replace("_calls", "_own")]] += 1
        return
    sheet.node[0, row, NODE_COLUMN[f"{signal}_out"]] += 1
    sheet.node[0, callee, NODE_COLUMN[f"{signal}_in"]] += 1
    pairs = topology.edges["calls"]
    for column in np.flatnonzero((pairs[0] == row) & (pairs[1] == callee)):
        sheet.edge["calls"][0, column, EDGE_COLUMN[edge_signal]] += 1
