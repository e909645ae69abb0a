"""Why a candidate is suspected: its loud signals, recomputed from the window in the telemetry's own units.

A signal is stated only where it strays above what quiet times show. Of several operations, edges, templates, metrics or pods the
one that strays most is named. Every number is read off the window again, none is turned back from a feature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from rca.bins import BIN_NS, BUCKET_WIDTH, seconds_of, split_key
from rca.contracts import Case
from rca.deviations import LEAST_RATE, METRIC_ALERTS, alert_signal, anscombe, client_gaps, robust_scores
from rca.deviations.blocks import Blocks
from rca.deviations.calls import Calls, own_failures
from rca.deviations.counts import Counts
from rca.deviations.span_counts import queued
from rca.features import ALERT_SIGNALS, heard_signals, loudest_signals
from rca.graph import RELATIONS
from rca.metrics import Metric, metric_of
from rca.ranking import Evidence, RankedCandidate, Ranking
from rca.residuals import latency_account, success_account
from rca.series import ERROR_SEVERITIES, entity_key, series
from rca.signals import NODE_COLUMN, NODE_SIGNALS, Signal
from rca.telemetry import SECOND_NS, EntityId
from rca.topology import Topology, key_of
from rca.window import INCIDENT
from rca.wording import clock, count, listed, number, percent, printable, quantity, seconds

Array = npt.NDArray[np.float64]
Pair = tuple[float, float]

MOST_STATEMENTS: Final = 4
_LONGEST_QUOTE: Final = 90
_FEWEST_FOR_P99: Final = 50
SAME_STORY: Final = (
    frozenset({"gap_in", "gap_in_all", "metric_gap"}),
    frozenset({"own_errors", "errors", "metric_errors"}),
    frozenset({"server_latency", "latency_residual", "metric_server_latency"}),
    frozenset({"metric_success", "success_residual"}),
    frozenset({"traffic", "metric_traffic", "log_volume"}),
    frozenset({*ALERT_SIGNALS, "alert_novelty_logs", "alert_logs", *METRIC_ALERTS}),
)
"""Signals that tell the same in other words: only the first is stated."""


def explained(ranking: Ranking, case: Case, most_candidates: int | None = None) -> Ranking:
    """The ranking with evidence and the likely fault family of its first candidates, where the ranker gave none."""
    facts = Facts(case)
    most = len(ranking.candidates) if most_candidates is None else most_candidates
    first = [_explained(candidate, case, facts) for candidate in ranking.candidates[:most]]
    return replace(ranking, candidates=(*first, *ranking.candidates[most:]))


def _explained(candidate: RankedCandidate, case: Case, facts: Facts) -> RankedCandidate:
    signal = loudest_signals(case.graph, [case.graph.rows[candidate.entity]])[0]
    family = NODE_SIGNALS[NODE_COLUMN[signal]].family if signal else ""
    evidence = candidate.evidence or facts.evidence(candidate.entity)
    return replace(candidate, evidence=evidence, fault_family=candidate.fault_family or family)


def loud_signals(case: Case, entity: EntityId) -> tuple[Signal, ...]:
    """Signals of an entity above their thresholds, those that speak of it alone first, then by how far they stray."""
    graph = case.graph
    row = graph.rows[entity]
    heard = heard_signals(graph)
    above = {signal.name: float(graph.column(f"{signal.name}.above")[row]) for signal in NODE_SIGNALS}
    loud = [
        signal for signal in NODE_SIGNALS if above[signal.name] > 0 and (signal.name not in ALERT_SIGNALS or signal.name in heard)
    ]
    return tuple(sorted(loud, key=lambda signal: (signal.name not in heard, -above[signal.name])))


@dataclass(frozen=True)
class Statement:
    """One sentence about an entity, the two numbers in it, and traces that show it."""

    text: str
    observed: float | None = None
    baseline: float | None = None
    unit: str = "1"
    trace_ids: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Histogram:
    """Durations of one kind in one stretch of time, in the buckets of rca.bins: buckets rising (B,), counts (B,)."""

    buckets: Array
    counts: Array

    @property
    def n(self) -> float:
        return float(self.counts.sum())

    def bucket(self, share: float) -> float:
        """Bucket of a quantile: the first that at least this share of the durations does not exceed."""
        position = np.searchsorted(np.cumsum(self.counts), share * self.n - 1e-9, side="left")
        return float(self.buckets[min(int(position), len(self.buckets) - 1)])

    def seconds(self, share: float) -> float:
        """A quantile, in seconds."""
        return float(seconds_of(np.array([self.bucket(share)]))[0])

    def shift_from(self, before: Histogram) -> float:
        """The deviation that rca.deviations measures: difference of the medians of ln duration over its standard error."""
        spread, spread_before = self._spread(), before._spread()
        error = np.sqrt(spread_before**2 / min(before.n, 60) + spread**2 / min(self.n, 20))
        return float((self.bucket(0.5) - before.bucket(0.5)) * BUCKET_WIDTH / error)

    def _spread(self) -> float:
        return max((self.bucket(0.75) - self.bucket(0.25)) * BUCKET_WIDTH / 1.349, 0.15)


@dataclass(eq=False)
class Facts:
    """What a case's window says about its entities. Frames that several entities need are prepared once, when first needed."""

    case: Case
    _of_entity: dict[EntityId, tuple[Evidence, ...]] = field(default_factory=dict)

    def evidence(self, entity: EntityId) -> tuple[Evidence, ...]:
        """Evidence of one entity, at most MOST_STATEMENTS."""
        if entity not in self._of_entity:
            self._of_entity[entity] = tuple(self._collect(entity))
        return self._of_entity[entity]

    def _collect(self, entity: EntityId) -> Iterable[Evidence]:
        told: set[str] = set()
        left = MOST_STATEMENTS
        for signal in loud_signals(self.case, entity):
            if left == 0:
                return
            if signal.name in told:
                continue
            evidence = self.evidence_of(entity, signal.name)
            if evidence is None:
                continue
            if signal.name not in METRIC_ALERTS:  # each names other alerts; the rare ones name them all
                told |= next((group for group in SAME_STORY if signal.name in group), frozenset({signal.name}))
            left -= 1
            yield evidence

    def evidence_of(self, entity: EntityId, signal: str) -> Evidence | None:
        """One signal of an entity as evidence; None where the window holds nothing of it."""
        statement = self.state(entity, signal)
        if statement is None:
            return None
        deviation = float(self.case.deviations.node[self.deviation_rows[entity], NODE_COLUMN[signal]])
        return Evidence(
            signal, statement.text, statement.observed, statement.baseline, statement.unit, deviation, statement.trace_ids
        )

    def state(self, entity: EntityId, signal: str) -> Statement | None:
        """What the window shows of one signal at one entity; None where it holds nothing of it."""
        if signal.startswith("alert_"):
            return _alerts(self, entity, signal)
        return _STATES[signal](self, entity, signal)

    @cached_property
    def deviation_rows(self) -> dict[EntityId, int]:
        return {entity: row for row, entity in enumerate(self.case.deviations.entities)}

    # --- what statements are read from --------------------------------------------------------------------------

    def related(self, entity: EntityId, relation: str) -> list[EntityId]:
        """Targets of an entity's relation."""
        graph = self.case.graph
        if relation not in graph.edges or entity not in graph.rows:
            return []
        sources, targets = graph.edges[relation]
        return [graph.entities[row] for row in targets[sources == graph.rows[entity]]]

    def about(self, entity: EntityId) -> pl.Expr:
        """Rows of a frame that has `kind` and `key` about an entity or its pods."""
        expression = (pl.col("entity_kind") == entity.kind) & (pl.col("key") == key_of(entity))
        pods = [key_of(pod) for pod in self.related(entity, "runs")]
        return expression | ((pl.col("entity_kind") == "pod") & pl.col("key").is_in(pods))

    @cached_property
    def metric_scores(self) -> pl.DataFrame:
        """Samples with their robust z against the whole baseline; block -1 is the incident."""
        metrics = self.case.window.metrics.filter(pl.col("value").is_finite())
        metrics = metrics.with_columns(entity_key(), pl.col("interval").cast(pl.Int32).alias("block"))
        return robust_scores(metrics, ["entity_kind", "key", "metric"])

    @cached_property
    def gap_scores(self) -> pl.DataFrame:
        """Client-minus-server medians of calls that arrived aggregated, with their robust z."""
        gaps = client_gaps(self.case.window.calls.filter(pl.col("value").is_finite()))
        return robust_scores(
            gaps.with_columns(pl.col("interval").cast(pl.Int32).alias("block")), ["caller", "callee_kind", "callee", "metric"]
        )

    @cached_property
    def topology(self) -> Topology:
        graph = self.case.graph
        edges = {relation: graph.edges.get(relation, np.zeros((2, 0), dtype=np.int64)) for relation in RELATIONS}
        return Topology(graph.entities, edges)

    @cached_property
    def children(self) -> pl.DataFrame:
        """Rows of child spans, by operation of both."""
        return self.case.window.bins.counts.filter(pl.col("what") == "child")

    @cached_property
    def counts(self) -> Counts:
        return Counts(self.case.window, Blocks(self.case.window))

    @cached_property
    def calls(self) -> Calls:
        return Calls.of(self.counts, self.topology)

    def calls_into(self, entity: EntityId, counted: tuple[Array, Array]) -> list[tuple[str, Pair, Pair]]:
        """(caller, calls, those of them that are counted), now and before each."""
        into = (pl.col("target_kind") == entity.kind) & (pl.col("target") == key_of(entity))
        columns = np.flatnonzero(self.calls.outgoing & self.calls.ends.select(into).to_series().to_numpy())
        made, some = (np.stack([side[0] for side in sides]).T for sides in (self.calls.made, counted))
        return [(self.calls.ends["source"][int(k)], tuple(made[k].tolist()), tuple(some[k].tolist())) for k in columns]

    @cached_property
    def own_failures(self) -> dict[str, Pair]:
        """Spans that failed by themselves, now and before, by service."""
        services, *_ = self.counts.of("span", ["source"])
        now, before = own_failures(self.counts, self.calls, services)
        return dict(zip(services["source"].to_list(), zip(now[0].tolist(), before[0].tolist(), strict=True), strict=True))

    @cached_property
    def series(self) -> pl.DataFrame:
        return series(self.case.window, self.topology)

    def level(self, entity: EntityId, signal: str) -> tuple[float, float] | None:
        """(mean now, median before) of one series of an entity."""
        row = self.case.graph.rows[entity]
        mine = self.series.filter((pl.col("row") == row) & (pl.col("signal") == signal))
        now = mine.filter(pl.col("interval") == INCIDENT)["value"].to_numpy()
        before = mine.filter(pl.col("interval") >= 0)["value"].to_numpy()
        return (float(np.mean(now)), float(np.median(before))) if len(now) and len(before) else None

    @cached_property
    def covered_seconds(self) -> tuple[float, float]:
        """Time that spans cover, in the incident and in the baselines."""
        bins = self.case.window.bins.counts.filter(pl.col("what") == "span").select("interval", "bin_ns").unique()
        now = bins.filter(pl.col("interval") == INCIDENT).height
        return now * BIN_NS / SECOND_NS, (bins.height - now) * BIN_NS / SECOND_NS

    @cached_property
    def logs(self) -> pl.DataFrame:
        return self.case.window.logs.with_columns(entity_key())

    @cached_property
    def events(self) -> pl.DataFrame:
        return self.case.window.events.with_columns(entity_key())

    @cached_property
    def alerts(self) -> pl.DataFrame:
        return self.case.window.alerts.filter(pl.col("interval") == INCIDENT).with_columns(entity_key())

    def histograms(self, chosen: pl.Expr, by: str) -> dict[str, tuple[Histogram, Histogram]]:
        """Durations now and before by the value of one column, for those that have both."""
        frame = self.case.window.bins.durations.filter(chosen)
        frame = frame.group_by(by, pl.col("interval") == INCIDENT, "bucket").agg(pl.col("count").sum()).sort("bucket")
        found = {}
        for (name,), part in frame.group_by(by, maintain_order=True):
            now, before = (
                Histogram(side["bucket"].to_numpy().astype(float), side["count"].to_numpy().astype(float))
                for side in (part.filter("interval"), part.filter(~pl.col("interval")))
            )
            if now.n >= 3 and before.n >= 8:
                found[str(name)] = (now, before)
        return dict(sorted(found.items()))

    def tally(self, what: str, chosen: pl.Expr, by: Sequence[str] = ()) -> dict[tuple[str, ...], tuple[float, float]]:
        """Counts of one kind, now and before, by the values of some columns."""
        return tally(self.case.window.bins.counts.filter((pl.col("what") == what) & chosen), by)

    def traces(self, service: str, *, failed: bool = False, operation: str | None = None) -> tuple[str, ...]:
        """The slowest or the failed requests that were kept of a service, of one operation where any was kept."""
        kept = self.case.window.bins.exemplars.filter((pl.col("service") == service) & (pl.col("interval") == INCIDENT))
        if failed:
            kept = kept.filter("error")
        of_operation = kept.filter(pl.col("operation") == operation) if operation is not None else kept
        chosen = (of_operation if not of_operation.is_empty() else kept).sort("duration_ns", "trace_id", descending=[True, False])
        return tuple(chosen["trace_id"].unique(maintain_order=True).to_list())


def tally(frame: pl.DataFrame, by: Sequence[str]) -> dict[tuple[str, ...], tuple[float, float]]:
    """Sums of `count`, now and before, by the values of some columns."""
    now = pl.col("interval") == INCIDENT
    sums = [pl.col("count").filter(now).sum().alias("now"), pl.col("count").filter(~now).sum().alias("before")]
    if not by:
        row = frame.select(sums).row(0)
        return {(): (float(row[0]), float(row[1]))}
    table = frame.group_by(by).agg(sums).sort(by, nulls_last=True)
    return {tuple(row[:-2]): (float(row[-2]), float(row[-1])) for row in table.iter_rows()}


# --- durations ----------------------------------------------------------------------------------------------------------


def _clearest(now: Histogram, before: Histogram, *, falling: bool = False) -> tuple[str, float, float]:
    """(name, observed, baseline) of the median or, where it shows more of a rise and rests on enough durations, the p99."""
    median = ("median", now.seconds(0.5), before.seconds(0.5))
    tail = ("p99", now.seconds(0.99), before.seconds(0.99))
    if falling or min(now.n, before.n) < _FEWEST_FOR_P99 or tail[1] * median[2] < median[1] * tail[2]:
        return median
    return tail


def _durations(
    facts: Facts, chosen: pl.Expr, by: str, *, least: bool = False, falling: bool = False
) -> tuple[str, Statement] | None:
    """The key that strays most (or least, where the least over keys is the signal), and what is to be said of it."""
    found = facts.histograms(chosen, by)
    if not found:
        return None
    sign = -1 if falling else 1
    ordered = sorted(found, key=lambda name: sign * found[name][0].shift_from(found[name][1]))
    name = ordered[0 if least else -1]
    statistic, observed, baseline = _clearest(*found[name], falling=falling)
    return name, Statement(f"{statistic} {seconds(observed)}, baseline {seconds(baseline)}", observed, baseline, "s")


def _own_durations(facts: Facts, entity: EntityId, signal: str) -> Statement | None:
    if signal == "leaf_latency" and entity.kind != "service":
        return _seen_by_callers(facts, entity)
    what, title = _DURATIONS[signal]
    chosen = (pl.col("what") == what) & (pl.col("source") == key_of(entity))
    found = _durations(facts, chosen, "operation", falling=signal == "self_time_fall")
    if found is None:
        return None
    operation, statement = found
    traces = facts.traces(key_of(entity), operation=operation)
    return replace(statement, text=f"{title} {_quoted(operation)}: {statement.text}", trace_ids=traces)


_DURATIONS: Final = {
    "self_time": ("self", "self time of"),
    "self_time_fall": ("self", "less self time in"),
    "server_latency": ("server", "latency of"),
    "leaf_latency": ("leaf", "latency of its outgoing call"),
}
"""Signal -> kind of duration, and how it is called."""


def _seen_by_callers(facts: Facts, entity: EntityId) -> Statement | None:
    """Entities without spans of their own are judged by what the least affected caller sees."""
    chosen = (pl.col("what") == "client") & (pl.col("target") == key_of(entity)) & (pl.col("target_kind") == entity.kind)
    found = _durations(facts, chosen, "source", least=True)
    if found is None:
        return None
    caller, statement = found
    text = f"latency seen by {shown(caller)}: {statement.text}"
    return replace(statement, text=text, trace_ids=facts.traces(caller))


def _network_gap(facts: Facts, entity: EntityId, signal: str) -> Statement | None:
    end, other = ("source", "target") if signal == "gap_out" else ("target", "source")
    chosen = (pl.col("what") == "gap") & (pl.col(end) == key_of(entity)) & (pl.col("target_kind") == "service")
    found = _durations(facts, chosen, other, least=signal != "gap_in")
    if found is None:
        return None
    peer, statement = found
    caller, callee = (shown(key_of(entity)), shown(peer)) if end == "source" else (shown(peer), shown(key_of(entity)))
    extent = {"gap_in": "", "gap_in_all": ", and no less from other callers", "gap_out": ", and no less to other callees"}[signal]
    return replace(statement, text=f"network gap {caller} -> {callee}: {statement.text}{extent}", trace_ids=facts.traces(peer))


# --- counts -------------------------------------------------------------------------------------------------------------


def _expected(now_exposure: float, before: float, before_exposure: float) -> float:
    return before * now_exposure / before_exposure if before_exposure else float("nan")


def _deviation(now: float, expected: float, share: float) -> float:
    return float(anscombe(np.float64(now), np.float64(expected), np.float64(share)))  # type: ignore[arg-type]


def _most(
    counted: dict[tuple[str, ...], tuple[float, float]],
    exposure: Callable[[tuple[str, ...]], tuple[float, float]],
    sign: int,
) -> tuple[tuple[str, ...], float, float] | None:
    """(key, seen, expected) of the count that strays most in one direction."""
    best, largest = None, 0.0
    for name, (now, before) in counted.items():
        now_exposure, before_exposure = exposure(name)
        if now_exposure < 3 or before_exposure < 8:
            continue
        expected = _expected(now_exposure, before, before_exposure)
        deviation = sign * _deviation(now, expected, now_exposure / before_exposure)
        if deviation > largest:
            best, largest = (name, now, expected), deviation
    return best


def _failures(facts: Facts, entity: EntityId, signal: str) -> Statement | None:
    mine = pl.col("source") == key_of(entity)
    total, total_before = facts.tally("span" if signal == "own_errors" else "request", mine)[()]
    if not any(facts.tally("span", mine)[()]):
        return _failed_calls(facts, entity)
    if not total or not total_before:
        return None
    failed, failed_before = facts.tally("error", mine)[()] if signal == "errors" else facts.own_failures[key_of(entity)]
    title = "spans that failed by themselves" if signal == "own_errors" else "failed requests"
    expected = _expected(total, failed_before, total_before)
    text = f"{title}: {number(failed)} of {number(total)}, expected {number(expected)}"
    return Statement(text, failed, expected, "1", facts.traces(key_of(entity), failed=True))


def _unanswered(facts: Facts, entity: EntityId, _signal: str) -> Statement | None:
    """Lost calls of all callers, or messages that were not taken, whichever strays more."""
    lost, messages = _lost_calls(facts, entity), _messages_not_taken(facts, entity)
    return max((found for found in (lost, messages) if found is not None), key=lambda found: found[0], default=(0.0, None))[1]


def _lost_calls(facts: Facts, entity: EntityId) -> tuple[float, Statement] | None:
    callers = facts.calls_into(entity, facts.calls.charged)
    losing = [source for source, _, (now, _) in callers if now]
    if not losing:
        return None
    made, made_before, lost, lost_before = (sum(column) for column in zip(*((*m, *c) for _, m, c in callers), strict=True))
    expected = _expected(made, lost_before, made_before)
    deviation = _deviation(lost, expected, made / made_before) if made_before else 0.0
    numbers = f"{number(lost)} of {number(made)}, expected {number(expected)}"
    text = f"calls without an answer: {numbers} (from {listed([shown(source) for source in losing], 3)})"
    return deviation, Statement(text, lost, expected, "1", facts.traces(losing[0], failed=True))


def _messages_not_taken(facts: Facts, entity: EntityId) -> tuple[float, Statement] | None:
    children = facts.children.filter(pl.col("target") == key_of(entity))
    messages = children.filter(pl.Series(queued(facts.case.window.bins.counts, children), dtype=pl.Boolean))
    keys = ["source", "operation", "target_operation"]
    spans = facts.tally("span", pl.col("source").is_in(messages["source"].to_list()), ["source", "operation"])
    found = _most(tally(messages, keys), lambda name: spans.get(name[:2], (0.0, 0.0)), -1)
    if found is None:
        return None
    (sender, operation, _), now, expected = found
    text = f"messages not taken: {shown(sender)} {_quoted(operation)} (expected {number(expected)}, seen {number(now)})"
    sent, sent_before = spans[sender, operation]
    return -_deviation(now, expected, sent / sent_before), Statement(text, now, expected, "1", facts.traces(sender))


def _failed_calls(facts: Facts, entity: EntityId) -> Statement | None:
    """What the least affected caller sees fail of an entity that shows no spans."""
    seen = []
    for source, (now, before), (bad, bad_before) in facts.calls_into(entity, facts.calls.failed):
        if now >= 3 and before >= 8:
            expected = _expected(now, bad_before, before)
            seen.append((_deviation(bad, expected, now / before), source, bad, now, expected))
    if not seen:
        return None
    _, source, bad, now, expected = min(seen)
    text = f"failed calls from {shown(source)}: {number(bad)} of {number(now)}, expected {number(expected)}"
    return Statement(text, bad, expected, "1", facts.traces(source, failed=True))


def _traffic(facts: Facts, entity: EntityId, _signal: str) -> Statement | None:
    now, before = facts.tally("request", pl.col("source") == key_of(entity))[()]
    return _rates("requests served", now, before, facts)


def _rates(title: str, now: float, before: float, facts: Facts) -> Statement | None:
    seconds_now, seconds_before = facts.covered_seconds
    if not seconds_now or not seconds_before:
        return None
    observed, baseline = now / seconds_now, before / seconds_before
    text = f"{title}: {quantity(observed, '1/s')}, baseline {quantity(baseline, '1/s')}"
    return Statement(text, observed, baseline, "1/s")


def _vanished_calls(facts: Facts, entity: EntityId, _signal: str) -> Statement | None:
    mine = pl.col("source") == key_of(entity)
    spans = facts.tally("span", mine, ["operation"])
    children = facts.tally("child", mine, ["operation", "target", "target_operation"])
    found = _most(children, lambda name: spans.get((name[0],), (0.0, 0.0)), -1)
    if found is None:
        return None
    (operation, target, target_operation), now, expected = found
    step = f"{_quoted(operation)} -> {_step(entity, target, target_operation)}"
    verb = "usual call vanished" if now == 0 else "usual call became rare"
    text = f"{verb}: {step} (expected {number(expected)}, seen {number(now)})"
    return Statement(text, now, expected, "1", facts.traces(key_of(entity), operation=operation))


def _step(entity: EntityId, target: str, operation: str) -> str:
    """A child of a span: an outgoing call of the service itself, or the callee's operation."""
    return _quoted(operation) if target == key_of(entity) else f"{shown(target)} {_quoted(operation)}"


def _new_calls(facts: Facts, entity: EntityId, _signal: str) -> Statement | None:
    into = (pl.col("target") == key_of(entity)) & (pl.col("source") != key_of(entity))
    children = facts.tally("child", into, ["source", "operation", "target_operation"])
    spans = facts.tally("span", pl.col("source").is_in([name[0] for name in children]), ["source", "operation"])
    found = _most(children, lambda name: spans.get(name[:2], (0.0, 0.0)), 1)
    if found is None:
        return None
    (caller, operation, called), now, expected = found
    title = "new call" if expected == 0 else "more calls"
    step = f"{shown(caller)} {_quoted(operation)} -> {_quoted(called)}"
    return Statement(
        f"{title}: {step} (expected {number(expected)}, seen {number(now)})", now, expected, "1", facts.traces(caller)
    )


# --- logs ---------------------------------------------------------------------------------------------------------------


def _templates(facts: Facts, entity: EntityId, signal: str) -> Statement | None:
    lines = facts.logs.filter(facts.about(entity))
    vanished = signal == "vanished_templates"
    total = tally(lines, ())[()]
    if vanished:
        lines = lines.filter(~pl.col("severity").is_in(ERROR_SEVERITIES))
    spans = facts.tally("span", pl.col("source") == key_of(entity), ["operation"])
    counted = tally(lines, ["operation", "severity", "template"])
    found = _most(counted, lambda name: spans.get((name[0],), total), -1 if vanished else 1)
    if found is None:
        return None
    (_, severity, template), now, expected = found
    numbers = f"(expected {number(expected)}, seen {number(now)})"
    if vanished:
        title = "usual log line vanished" if now == 0 else "usual log line became rare"
    else:
        title = f"{'new log line' if expected == 0 else 'log line more frequent'}, {printable(severity)}"
    return Statement(f"{title}: {_quoted(template)} {numbers}", now, expected, "1")


def _error_lines(facts: Facts, entity: EntityId, _signal: str) -> Statement | None:
    lines = facts.logs.filter(facts.about(entity) & pl.col("severity").is_in(ERROR_SEVERITIES))
    now, before = tally(lines, ())[()]
    spans, spans_before = facts.tally("span", pl.col("source") == key_of(entity))[()]
    exposure = (spans, spans_before) if spans_before else facts.covered_seconds
    expected = _expected(exposure[0], before, exposure[1])
    return Statement(f"ERROR lines: {number(now)}, expected {number(expected)}", now, expected, "1")


def _log_volume(facts: Facts, entity: EntityId, _signal: str) -> Statement | None:
    now, before = tally(facts.logs.filter(facts.about(entity)), ())[()]
    return _rates("log lines", now, before, facts)


# --- metrics ------------------------------------------------------------------------------------------------------------


def _metric(facts: Facts, entity: EntityId, signal: str) -> Statement | None:
    """The metric, of the entity or one of its pods, whose samples stray most on average."""
    scores = facts.metric_scores.filter(facts.about(entity) & (pl.col("block") == INCIDENT))
    means = scores.group_by("entity_kind", "key", "metric").agg(pl.col("z").mean(), pl.col("value").mean())
    signed = NODE_SIGNALS[NODE_COLUMN[signal]].signed
    best: tuple[float, str, str, Metric, float] | None = None
    for kind, name, metric, z, value in means.sort("entity_kind", "key", "metric").iter_rows():
        known = metric_of(metric)
        if known.signal != signal or not np.isfinite(z):
            continue
        loudness = abs(z) if signed else (-z if known.direction == "down" else z)
        if best is None or loudness > best[0]:
            best = (loudness, kind, name, known, value)
    if best is None:
        return None
    _, kind, name, known, observed = best
    mine = (pl.col("entity_kind") == kind) & (pl.col("key") == name) & (pl.col("metric") == known.name)
    baseline = float(np.median(facts.metric_scores.filter(mine & (pl.col("block") >= 0))["value"].to_numpy()))
    several = len(facts.related(entity, "runs")) > 1
    where = f" (pod {shown(name)})" if kind == "pod" and several else ""
    return _compared(known, observed, baseline, where)


def _compared(metric: Metric, observed: float, baseline: float, where: str = "") -> Statement:
    share = metric.name.endswith(("utilization", "_ratio"))
    written = [quantity(value, "%" if share else metric.unit) for value in (observed, baseline)]
    title = printable(metric.title)
    return Statement(f"{title} {written[0]}, baseline {written[1]}{where}", observed, baseline, metric.unit)


def _metric_gap(facts: Facts, entity: EntityId, _signal: str) -> Statement | None:
    into = (pl.col("callee") == entity.name) & (pl.col("callee_kind") == entity.kind)
    scores = facts.gap_scores.filter(into)
    means = scores.filter(pl.col("block") == INCIDENT).group_by("caller").agg(pl.col("z").mean(), pl.col("value").mean())
    means = means.filter(pl.col("z").is_finite()).sort("z", "caller")
    if means.is_empty():
        return None
    caller, _, observed = means.row(-1)
    before = scores.filter((pl.col("caller") == caller) & (pl.col("block") >= 0))["value"].to_numpy()
    baseline = float(np.median(before))
    text = f"network gap {shown(caller)} -> {shown(key_of(entity))}: {seconds(observed)}, baseline {seconds(baseline)}"
    return Statement(text, observed, baseline, "s")


def _quiet_callees(facts: Facts, entity: EntityId, _signal: str) -> Statement | None:
    """The callee whose rate fell most beside the caller's own."""
    own = facts.level(entity, "server.request.rate")
    best: tuple[float, EntityId, tuple[float, float]] | None = None
    for callee in facts.related(entity, "calls"):
        rates = facts.level(callee, "server.request.rate")
        if own is None or rates is None:
            continue
        now, before = (np.log((theirs + LEAST_RATE) / (mine + LEAST_RATE)) for theirs, mine in zip(rates, own, strict=True))
        if best is None or now - before < best[0]:
            best = (float(now - before), callee, rates)
    if best is None or own is None:
        return None
    _, callee, rates = best
    served = [f"{quantity(now, '1/s')}, baseline {quantity(before, '1/s')}" for now, before in (rates, own)]
    return Statement(f"callee {shown(key_of(callee))} serves {served[0]}; itself {served[1]}", *rates, "1/s")


def _residual(facts: Facts, entity: EntityId, signal: str) -> Statement | None:
    row = facts.case.graph.rows[entity]
    if signal == "success_residual":
        shares = success_account(facts.series, facts.topology, row)
        if shares is None:
            return None
        now, before, accounted = map(percent, shares)
        text = f"success ratio {now}, baseline {before}" + _from_callees(facts, entity, accounted)
        return Statement(text, shares[0], shares[1], "1")
    latencies = latency_account(facts.series, facts.topology, row)
    if latencies is None:
        return None
    now, before, accounted = map(seconds, latencies)
    own = facts.level(entity, "self_time")
    if own is not None:  # spans say where the time is spent, which beats a prediction
        beside = f"; self time {seconds(own[0])}, baseline {seconds(own[1])}"
    else:
        beside = _from_callees(facts, entity, accounted)
    text = f"latency {now}, baseline {before}{beside}"
    return Statement(text, latencies[0], latencies[1], "s", facts.traces(key_of(entity)))


def _from_callees(facts: Facts, entity: EntityId, expected: str) -> str:
    row = facts.case.graph.rows[entity]
    has_callees = bool((facts.case.graph.call_edges()[0] == row).any())
    return f", {expected} expected from its callees" if has_callees else ""


# --- events and alerts --------------------------------------------------------------------------------------------------

_TELLING: Final = (
    *("OOMKilled", "Evicted", "RolloutStalled", "NodeNotReady", "NodeMemoryPressure", "NodeDiskPressure", "NodePIDPressure"),
    *("ImageChanged", "ConfigurationChanged", "ConfigMapChanged", "SecretChanged"),
)
"""Reasons that say what happened, and so are named before those that merely come with it more often (BackOff, Pulled)."""


def _events(facts: Facts, entity: EntityId, signal: str) -> Statement | None:
    is_warning = (pl.col("severity") == "Warning").fill_null(False)
    mine = facts.events.filter(facts.about(entity) & (is_warning if signal == "warnings" else ~is_warning))
    counts = tally(mine.with_columns(pl.lit(1).alias("count")), ["reason"])
    if not counts:
        return None
    (reason,), (now, before) = max(
        counts.items(), key=lambda item: (item[1][0] > 0 and item[0][0] in _TELLING, item[1][0], item[0])
    )
    lengths = sum(baseline.interval.seconds for baseline in facts.case.window.baselines)
    expected = _expected(facts.case.window.incident.seconds, before, lengths) if lengths else 0.0
    first = mine.filter((pl.col("reason") == reason) & (pl.col("interval") == INCIDENT)).sort("time_unix_nano")
    if first.is_empty():
        return None
    message = first["message"].drop_nulls()
    words = f": {printable(message[0], _LONGEST_QUOTE)}" if len(message) else ""
    usual = f", expected {number(expected)}" if before else ""
    text = f"{count(now, printable(reason) + ' event')}, first at {clock(first['time_unix_nano'][0])}{usual}{words}"
    return Statement(text, now, expected, "1")


def _alerts(facts: Facts, entity: EntityId, signal: str) -> Statement | None:
    title = NODE_SIGNALS[NODE_COLUMN[signal]].title
    if signal == "alert_rarity":
        return _rare_alerts(facts, entity)
    if signal.startswith("alert_novelty"):
        return _unusual_alerts(facts, entity, signal)
    if signal.startswith(("alert_slow_", "alert_failed_")):
        return _call_alerts(facts, entity, signal, title)
    names = _alert_names(facts, entity, signal)
    return Statement(f"{title}: {_counted(names)}", float(len(names)), None, "1") if names else None


def _alert_names(facts: Facts, entity: EntityId, signal: str) -> list[str]:
    """Names and directions of the alerts that feed a signal of an entity, alerts about calls left out."""
    mine = facts.alerts.filter(facts.about(entity) & (pl.col("source") != "trace"))
    return [
        f"{printable(name)}{f' {direction}' if direction else ''}"
        for name, source, direction in mine.select("name", "source", "direction").iter_rows()
        if signal == ("alert_logs" if source == "log" else alert_signal(name))
    ]


def _call_alerts(facts: Facts, entity: EntityId, signal: str, title: str) -> Statement | None:
    about = facts.alerts.filter(pl.col("source") == "trace")
    about = about.filter(pl.col("name").str.to_lowercase().str.contains("slow", literal=True) == signal.startswith("alert_slow"))
    if signal.endswith("_in"):
        about, peers = about.filter((pl.col("peer") == entity.name) & (pl.col("entity") != entity.name)), "key"
    else:
        about, peers = about.filter(facts.about(entity)), "peer"
        inside = pl.col("peer").is_null() | (pl.col("peer") == pl.col("entity"))
        about = about.filter(inside if signal.endswith("_own") else ~inside)
        peers = "name" if signal.endswith("_own") else "peer"
    names = [shown(name) for name in about[peers].to_list()]
    return Statement(f"{title}: {_counted(names)}", float(len(names)), None, "1") if names else None


_NOVELTY_SOURCES: Final = {"alert_novelty": ("metric", "log"), "alert_novelty_logs": ("log",), "alert_novelty_calls": ("trace",)}


def _unusual_alerts(facts: Facts, entity: EntityId, signal: str) -> Statement | None:
    """Its alerts with the share of other windows in which they fire too, the most unusual first."""
    mine = facts.about(entity)
    if signal == "alert_novelty_calls":
        mine = pl.when(pl.col("peer").is_not_null()).then(pl.col("peer") == entity.name).otherwise(mine)
    chosen = facts.alerts.filter(mine & pl.col("source").is_in(_NOVELTY_SOURCES[signal]) & (pl.col("usual_ratio") > 0))
    rows = (
        chosen.unique(["name", "direction", "usual_ratio"]).sort("usual_ratio", "name").select("name", "direction", "usual_ratio")
    )
    words = [f"{printable(name)}{f' {d}' if d else ''} (in {usual:.0%} of other windows)" for name, d, usual in rows.iter_rows()]
    return Statement(f"unusual alerts: {_counted(words, most=3)}", float(len(words)), None, "1") if words else None


def _rare_alerts(facts: Facts, entity: EntityId) -> Statement | None:
    """Its metric alerts, those that few entities have first, with how many candidates have one of the kind."""
    candidates = [facts.deviation_rows[candidate] for candidate in facts.case.graph.candidates]
    node = np.nan_to_num(facts.case.deviations.node[candidates])
    found: list[tuple[int, str, int]] = []
    for column, signal in enumerate(NODE_SIGNALS):
        names = _alert_names(facts, entity, signal.name) if signal.name in METRIC_ALERTS else []
        if names:
            having = int((node[:, column] != 0).sum())
            found.append((having, f"{_counted(names)} ({having} of {len(candidates)})", len(names)))
    if not found:
        return None
    found.sort()
    return Statement(
        f"alerts that few share: {_counted([words for _, words, _ in found])}", float(sum(n for *_, n in found)), None, "1"
    )


def _counted(names: Sequence[str], most: int = 4) -> str:
    """Distinct names with how often each occurs, the most frequent first; the rest is counted."""
    times = {name: names.count(name) for name in dict.fromkeys(names)}
    ordered = sorted(times, key=lambda name: -times[name])
    words = [f"{name} x{times[name]}" if times[name] > 1 else name for name in ordered[:most]]
    return ", ".join(words) + (f" and {len(ordered) - most} more" if len(ordered) > most else "")


def shown(text: str) -> str:
    """A key of rca.bins, as people read it."""
    namespace, name = split_key(text)
    return printable(f"{namespace}/{name}" if namespace else name)


def _quoted(text: str) -> str:
    """A log template or operation: quoted where it has spaces at all, cut where it is long."""
    return printable(text, _LONGEST_QUOTE)


_STATES: Final[dict[str, Callable[[Facts, EntityId, str], Statement | None]]] = {
    **dict.fromkeys(
        ("cpu", "memory", "disk", "network", "sockets", "metric_server_latency", "metric_client_latency", "metric_success"),
        _metric,
    ),
    **dict.fromkeys(("metric_errors", "metric_traffic", "metric_client_traffic", "other"), _metric),
    "metric_gap": _metric_gap,
    "quiet_callees": _quiet_callees,
    "latency_residual": _residual,
    "success_residual": _residual,
    **dict.fromkeys(_DURATIONS, _own_durations),
    **dict.fromkeys(("gap_in", "gap_in_all", "gap_out"), _network_gap),
    "own_errors": _failures,
    "errors": _failures,
    "unanswered_calls": _unanswered,
    "traffic": _traffic,
    "vanished_calls": _vanished_calls,
    "new_calls": _new_calls,
    "vanished_templates": _templates,
    "new_templates": _templates,
    "error_lines": _error_lines,
    "log_volume": _log_volume,
    "warnings": _events,
    "changes": _events,
}
"""What states each signal; those of alerts are told by their name."""
