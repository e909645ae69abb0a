"""Charts of the cause's loudest signals against their baseline: which series a sentence of evidence is about, and its drawing.

A chart shows the series whose own numbers are those of the sentence, so that both say the same. Evidence that no series of the
window stands behind (an alert, an event) has no chart: the timeline shows it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from rca.bins import BIN_NS, seconds_of
from rca.contracts import Case
from rca.drawing.foreign import NAME, plain
from rca.evidence import Facts
from rca.metrics import metric_of
from rca.ranking import Evidence
from rca.residuals import LATENCIES
from rca.series import ERROR_SEVERITIES
from rca.telemetry import SECOND_NS, EntityId
from rca.topology import key_of
from rca.window import INCIDENT
from rca.wording import clock, quantity

Floats = npt.NDArray[np.float64]

WIDTH: Final = 300
HEIGHT: Final = 160
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 8, 16, 22
_BAND: Final = (5.0, 50.0, 95.0)
_FEWEST_FOR_BAND: Final = 5
_Y_TICKS, _X_TICKS = 3, 4
_NEAR: Final = 1e-6
_X_STEPS_S: Final = (5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400)
_LONGEST_LEAD: Final = 8
"""Lengths of the incident that a chart looks back, at least a quarter of an hour; the band still rests on the whole baseline."""


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: its place in the drawing and what stands beside it."""

    at: float
    label: str


@dataclass(frozen=True)
class Band:
    """The usual range of a series: from `low` to `high` lie 90 % of the baseline, `middle` is its median. In its unit."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class Chart:
    """One series as it is drawn; `title` and `description` are for people, places are in the units of the drawing."""

    signal: str
    title: str
    description: str
    lines: tuple[str, ...]  # path data, one per stretch without a hole
    dots: tuple[tuple[float, float, bool], ...]  # x, y, inside the incident
    band: tuple[float, float] | None  # y of its top and its height
    middle: float | None  # y of the baseline's median
    incident: tuple[float, float]  # x and width
    alert: float | None  # x of the moment when somebody noticed
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    width: int = WIDTH
    height: int = HEIGHT
    plot: tuple[float, float, float, float] = (_LEFT, _TOP, WIDTH - _RIGHT, HEIGHT - _BOTTOM)  # left, top, right, bottom


@dataclass(frozen=True, eq=False)
class Trace:
    """A series of one signal: `times` in ns (T,), `values` in `unit` (T,), `inside` the incident or the baseline (T,)."""

    title: str
    unit: str
    times: npt.NDArray[np.int64]
    values: Floats
    inside: npt.NDArray[np.bool_]


def charts_of(case: Case, entity: EntityId, evidence: Sequence[Evidence], detected_ns: int | None = None) -> tuple[Chart, ...]:
    """Charts of what the evidence of an entity rests on, in its order."""
    facts = Facts(case)
    found = ((item, trace_of(facts, entity, item)) for item in evidence if entity in case.graph.rows)
    return tuple(_drawn(case, item, trace, detected_ns) for item, trace in found if trace is not None)


def trace_of(facts: Facts, entity: EntityId, evidence: Evidence) -> Trace | None:
    """The series that a sentence of evidence is about; None where there is none, or nothing of it inside the incident."""
    tell = _TRACES.get(evidence.signal)
    trace = tell(facts, entity, evidence) if tell else None
    return trace if trace is not None and trace.inside.any() else None


# --- durations ----------------------------------------------------------------------------------------------------------


def _durations(what: str, end: str, by: str, title: str) -> Callable[[Facts, EntityId, Evidence], Trace | None]:
    def tell(facts: Facts, entity: EntityId, evidence: Evidence) -> Trace | None:
        chosen = (pl.col("what") == what) & (pl.col(end) == key_of(entity))
        return _duration(facts, chosen, by, title, evidence)

    return tell


def _leaf(facts: Facts, entity: EntityId, evidence: Evidence) -> Trace | None:
    if entity.kind == "service":
        own = (pl.col("what") == "leaf") & (pl.col("source") == key_of(entity))
        return _duration(facts, own, "operation", "outgoing call", evidence)
    seen = (pl.col("what") == "client") & (pl.col("target") == key_of(entity)) & (pl.col("target_kind") == entity.kind)
    return _duration(facts, seen, "source", "latency seen by", evidence)


def _duration(facts: Facts, chosen: pl.Expr, by: str, title: str, evidence: Evidence) -> Trace | None:
    """Quantile per 10 s of the durations whose quantile over the whole incident the evidence states."""
    for name, (now, before) in facts.histograms(chosen, by).items():
        for share, statistic in ((0.5, "median"), (0.99, "p99")):
            if _same((now.seconds(share), before.seconds(share)), evidence):
                frame = facts.case.window.bins.durations.filter(chosen & (pl.col(by) == name))
                return _quantiles(frame, share, f"{title} {plain(name.replace(chr(31), '/'), NAME)}, {statistic} per 10 s")
    return None


def _quantiles(frame: pl.DataFrame, share: float, title: str) -> Trace:
    per_bin = frame.group_by("bin_ns", "interval", "bucket").agg(pl.col("count").sum()).sort("bin_ns", "interval", "bucket")
    at = ["bin_ns", "interval"]
    reached = pl.col("count").cum_sum().over(at) >= share * pl.col("count").sum().over(at) - 1e-9
    first = per_bin.filter(reached).group_by("bin_ns", "interval", maintain_order=True).agg(pl.col("bucket").first())
    values = seconds_of(first["bucket"].to_numpy().astype(float))
    return _trace(title, "s", first["bin_ns"].to_numpy() + BIN_NS // 2, values, first["interval"].to_numpy() == INCIDENT)


# --- counts -------------------------------------------------------------------------------------------------------------


def _failures(facts: Facts, entity: EntityId, evidence: Evidence) -> Trace | None:
    counts = facts.case.window.bins.counts
    if entity.kind == "service":
        what = "own_error" if evidence.signal == "own_errors" else "error"
        title = "spans that failed by themselves" if what == "own_error" else "failed requests"
        return _rate(facts, counts.filter((pl.col("what") == what) & (pl.col("source") == key_of(entity))), title)
    mine = (pl.col("what") == "call_error") & (pl.col("target") == key_of(entity)) & (pl.col("target_kind") == entity.kind)
    return _rate(facts, counts.filter(mine), "failed calls into it")


def _traffic(facts: Facts, entity: EntityId, _evidence: Evidence) -> Trace | None:
    mine = (pl.col("what") == "request") & (pl.col("source") == key_of(entity))
    return _rate(facts, facts.case.window.bins.counts.filter(mine), "requests served")


def _calls(facts: Facts, entity: EntityId, evidence: Evidence) -> Trace | None:
    """Calls that vanished from it, or that are new into it: those that the sentence names."""
    end = "source" if evidence.signal == "vanished_calls" else "target"
    children = facts.case.window.bins.counts.filter((pl.col("what") == "child") & (pl.col(end) == key_of(entity)))
    return _named(facts, children, ["source", "operation", "target", "target_operation"], "operation", "calls", evidence)


def _templates(facts: Facts, entity: EntityId, evidence: Evidence) -> Trace | None:
    lines = facts.logs.filter(facts.about(entity)).rename({"time_unix_nano": "bin_ns"})
    return _named(facts, lines, ["operation", "severity", "template"], "template", "log lines", evidence)


def _named(facts: Facts, frame: pl.DataFrame, keys: Sequence[str], shown: str, title: str, evidence: Evidence) -> Trace | None:
    """Counts of the key whose sum in the incident the evidence states and whose text it quotes."""
    sums = frame.group_by(keys).agg(pl.col("count").filter(pl.col("interval") == INCIDENT).sum().alias("now"))
    for row in sums.filter(pl.col("now") == evidence.observed).sort(keys, nulls_last=True).iter_rows(named=True):
        words = plain(str(row[shown]), NAME)
        if words[: NAME // 2] in evidence.statement:
            mine = pl.all_horizontal([pl.col(key).eq_missing(pl.lit(row[key])) for key in keys])
            return _rate(facts, frame.filter(mine), f"{title}: {words}")
    return None


def _lines(facts: Facts, entity: EntityId, evidence: Evidence) -> Trace | None:
    mine = facts.logs.filter(facts.about(entity)).rename({"time_unix_nano": "bin_ns"})
    if evidence.signal == "log_volume":
        return _rate(facts, mine, "log lines")
    return _rate(facts, mine.filter(pl.col("severity").is_in(ERROR_SEVERITIES)), "ERROR lines")


def _rate(facts: Facts, frame: pl.DataFrame, title: str) -> Trace | None:
    """Counts per second in every 10 s that any span or log line covers: nothing counted there is a zero."""
    window = facts.case.window
    at = [(pl.col("bin_ns") // BIN_NS * BIN_NS).alias("bin_ns"), pl.col("interval")]
    covered = pl.concat([window.bins.counts.select(at), window.logs.rename({"time_unix_nano": "bin_ns"}).select(at)]).unique()
    counted = frame.group_by(at).agg(pl.col("count").sum())
    rows = covered.join(counted, on=["bin_ns", "interval"], how="left").with_columns(pl.col("count").fill_null(0)).sort("bin_ns")
    values = rows["count"].to_numpy().astype(float) * SECOND_NS / BIN_NS
    return _trace(title, "1/s", rows["bin_ns"].to_numpy() + BIN_NS // 2, values, rows["interval"].to_numpy() == INCIDENT)


# --- metrics ------------------------------------------------------------------------------------------------------------


def _metric(facts: Facts, entity: EntityId, evidence: Evidence) -> Trace | None:
    """Samples of the metric, of the entity or of one of its pods, whose mean and baseline the evidence states."""
    samples = facts.metric_scores.filter(facts.about(entity))
    for (_, key, name), frame in samples.group_by("entity_kind", "key", "metric", maintain_order=True):
        known = metric_of(str(name))
        now, before = (frame.filter(pl.col("block") == INCIDENT)["value"], frame.filter(pl.col("block") >= 0)["value"])
        if known.signal == evidence.signal and len(now) and len(before) and _same((now.mean(), before.median()), evidence):
            share = known.name.endswith(("utilization", "_ratio"))
            where = "" if str(key) == key_of(entity) else f", pod {plain(str(key), NAME)}"
            return _samples(frame, plain(known.title, NAME) + where, "%" if share else known.unit)
    return None


def _network_gap(facts: Facts, entity: EntityId, evidence: Evidence) -> Trace | None:
    into = facts.gap_scores.filter((pl.col("callee") == entity.name) & (pl.col("callee_kind") == entity.kind))
    for (caller,), frame in into.group_by("caller", maintain_order=True):
        now, before = (frame.filter(pl.col("block") == INCIDENT)["value"], frame.filter(pl.col("block") >= 0)["value"])
        if len(now) and len(before) and _same((now.mean(), before.median()), evidence):
            return _samples(frame, f"network gap from {plain(str(caller), NAME)}", "s")
    return None


def _residual(facts: Facts, entity: EntityId, evidence: Evidence) -> Trace | None:
    """What the residual was taken of: latency, or the success ratio."""
    signals = LATENCIES if evidence.signal == "latency_residual" else ("server.request.success_ratio",)
    mine = facts.series.filter(pl.col("row") == facts.case.graph.rows[entity])
    name = next((name for name in signals if name in mine["signal"]), None)
    if name is None:
        return None
    frame = mine.filter(pl.col("signal") == name)
    if evidence.signal == "latency_residual":
        return _samples(frame, "latency" if name == "latency" else plain(metric_of(name).title, NAME), "s")
    return _samples(frame, metric_of(name).title, "%")


def _quiet_callees(facts: Facts, entity: EntityId, evidence: Evidence) -> Trace | None:
    for callee in facts.related(entity, "calls"):
        levels = facts.level(callee, "server.request.rate")
        if levels is not None and _same(levels, evidence):
            row = facts.case.graph.rows[callee]
            frame = facts.series.filter((pl.col("row") == row) & (pl.col("signal") == "server.request.rate"))
            return _samples(frame, f"requests that {plain(callee.name, NAME)} serves", "1/s")
    return None


def _samples(frame: pl.DataFrame, title: str, unit: str) -> Trace:
    frame = frame.sort("time_unix_nano")
    return _trace(
        title,
        unit,
        frame["time_unix_nano"].to_numpy(),
        frame["value"].to_numpy().astype(float),
        frame["interval"].to_numpy() == INCIDENT,
    )


_TRACES: Final[dict[str, Callable[[Facts, EntityId, Evidence], Trace | None]]] = {
    **dict.fromkeys(("cpu", "memory", "disk", "network", "sockets", "other"), _metric),
    **dict.fromkeys(("metric_server_latency", "metric_client_latency", "metric_success", "metric_errors"), _metric),
    **dict.fromkeys(("metric_traffic", "metric_client_traffic"), _metric),
    "metric_gap": _network_gap,
    "latency_residual": _residual,
    "success_residual": _residual,
    "quiet_callees": _quiet_callees,
    "self_time": _durations("self", "source", "operation", "self time of"),
    "self_time_fall": _durations("self", "source", "operation", "self time of"),
    "server_latency": _durations("server", "source", "operation", "latency of"),
    "gap_in": _durations("gap", "target", "source", "network gap from"),
    "gap_in_all": _durations("gap", "target", "source", "network gap from"),
    "gap_out": _durations("gap", "source", "target", "network gap to"),
    "leaf_latency": _leaf,
    "own_errors": _failures,
    "errors": _failures,
    "traffic": _traffic,
    "vanished_calls": _calls,
    "new_calls": _calls,
    "vanished_templates": _templates,
    "new_templates": _templates,
    "error_lines": _lines,
    "log_volume": _lines,
}


def _same(levels: tuple[object, object], evidence: Evidence) -> bool:
    """True if a series is at the levels that the evidence states."""
    stated = (evidence.observed, evidence.baseline)
    return all(
        isinstance(level, int | float) and given is not None and math.isclose(level, given, rel_tol=_NEAR, abs_tol=1e-12)
        for level, given in zip(levels, stated, strict=True)
    )


def _trace(title: str, unit: str, times: npt.NDArray[np.int64], values: Floats, inside: npt.NDArray[np.bool_]) -> Trace:
    known = np.isfinite(values)
    scaled = values * 100 if unit == "%" else values
    return Trace(title, unit, times[known], scaled[known], inside[known])


# --- drawing ------------------------------------------------------------------------------------------------------------


def _written(value: float, unit: str) -> str:
    return quantity(value / 100 if unit == "%" else value, unit)


def band_of(trace: Trace) -> Band | None:
    """The usual range; None where the baseline holds too little to say."""
    quiet = trace.values[~trace.inside]
    return Band(*map(float, np.percentile(quiet, _BAND))) if len(quiet) >= _FEWEST_FOR_BAND else None


def _drawn(case: Case, evidence: Evidence, trace: Trace, detected_ns: int | None) -> Chart:
    incident = case.window.incident
    look_back = max(_LONGEST_LEAD * (incident.end_ns - incident.start_ns), 15 * 60 * SECOND_NS)
    shown = trace.times >= incident.start_ns - look_back
    times, values, inside = trace.times[shown], trace.values[shown], trace.inside[shown]
    band = band_of(trace)
    levels = np.append(values, [band.low, band.high] if band else [])
    y_steps = y_ticks(float(levels.min()), float(levels.max()), trace.unit)
    first, last = min(int(times.min()), incident.start_ns), incident.end_ns
    left, top, right, bottom = _LEFT, _TOP, WIDTH - _RIGHT, HEIGHT - _BOTTOM

    def x(time_ns: float) -> float:
        return round(left + (right - left) * (time_ns - first) / (last - first), 1)

    def y(value: float) -> float:
        return round(bottom - (bottom - top) * (value - y_steps[0]) / (y_steps[-1] - y_steps[0]), 1)

    places = [(x(t), y(v), bool(within)) for t, v, within in zip(times.tolist(), values.tolist(), inside.tolist(), strict=True)]
    noticed = detected_ns is not None and first <= detected_ns <= last
    return Chart(
        signal=evidence.signal,
        title=trace.title[:1].upper() + trace.title[1:],
        description=_description(trace, band),
        lines=tuple(_lines_of(times, places)),
        dots=tuple(places) if len(places) <= 120 else (),
        band=(y(band.high), max(round(y(band.low) - y(band.high), 1), 1.5)) if band else None,
        middle=y(band.middle) if band else None,
        incident=(x(incident.start_ns), round(x(incident.end_ns) - x(incident.start_ns), 1)),
        alert=x(detected_ns) if noticed and detected_ns is not None else None,
        x_ticks=tuple(Tick(x(t), clock(t)[: 8 if _step_s(first, last) < 60 else 5]) for t in _times(first, last)),
        y_ticks=tuple(Tick(y(value), _written(value, trace.unit)) for value in y_steps),
    )


def _description(trace: Trace, band: Band | None) -> str:
    now = trace.values[trace.inside]
    peak = int(trace.times[trace.inside][int(np.argmax(np.abs(now - (band.middle if band else 0.0))))])
    low, high = (_written(float(value), trace.unit) for value in (now.min(), now.max()))
    inside = f"in the incident between {low} and {high}, furthest at {clock(peak)}" if low != high else f"in the incident {low}"
    if band is None:
        return f"No usual range is known; {inside}."
    usual = [_written(value, trace.unit) for value in (band.middle, band.low, band.high)]
    spread = f"90 % of the baseline from {usual[1]} to {usual[2]}" if usual[1] != usual[2] else "nearly all of the baseline"
    return f"Usual {usual[0]} ({spread}); {inside}."


def _lines_of(times: npt.NDArray[np.int64], places: Sequence[tuple[float, float, bool]]) -> Iterator[str]:
    """Path data, broken where more than three usual steps are missing."""
    steps = np.diff(times)
    hole = 3.5 * float(np.median(steps)) if len(steps) else 0.0
    words: list[str] = []
    for position, (x, y, _) in enumerate(places):
        if position and steps[position - 1] > hole:
            yield " ".join(words)
            words = []
        words.append(f"{'L' if words else 'M'}{x} {y}")
    yield " ".join(words)


def y_ticks(least: float, most: float, unit: str) -> tuple[float, ...]:
    """Round levels that hold all values, at least two, so far apart that their labels differ; from zero on unless that is far."""
    if least >= 0 and least < 0.6 * most:
        least = 0.0
    size = max(abs(least), abs(most))
    room = 3.0 if unit == "%" and size >= 20 else 0.3 * size if size > 1e-12 else 1.0
    if most - least < room:
        middle = (least + most) / 2
        least, most = max(middle - room / 2, 0.0) if least >= 0 else middle - room / 2, middle + room / 2
    if unit == "%" and 90 < most <= 102:
        most = 100.0
    base = 1024.0 ** math.floor(math.log(max(most, 1.0), 1024)) if unit in ("By", "By/s") else 1.0
    step = _round_step((most - least) / base / _Y_TICKS) * base
    first, last = math.floor(least / step + 1e-9), math.ceil(most / step - 1e-9)
    return tuple(float(f"{i * step:.12g}") for i in range(first, max(last, first + 1) + 1))


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 2.5 and 5 times a power of ten that is not below."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= least * (1 - 1e-9))


def _step_s(first_ns: int, last_ns: int) -> int:
    seconds = (last_ns - first_ns) / SECOND_NS
    return next((step for step in _X_STEPS_S if seconds / step <= _X_TICKS), _X_STEPS_S[-1])


def _times(first_ns: int, last_ns: int) -> Iterable[int]:
    step = _step_s(first_ns, last_ns) * SECOND_NS
    return range(-(-first_ns // step) * step, last_ns + 1, step)
