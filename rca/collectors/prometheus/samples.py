"""Answers to frames: series to entities, several measurements of one thing to one, and what was wrong to gaps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import polars as pl

from rca.bins import joined_key
from rca.collectors.prometheus.client import Answer
from rca.collectors.prometheus.mapping import Entry
from rca.collectors.prometheus.naming import entity_of
from rca.telemetry import SECOND_NS, EntityId, Gap, Interval

_NAMED: Final = 4  # entries that a gap names before it counts the rest
_SAMPLES: Final = {"series": pl.Int64(), "time_unix_nano": pl.Int64(), "value": pl.Float64()}
_SERIES: Final = {
    "series": pl.Int64(),
    "labels": pl.String(),
    "kind": pl.String(),
    "name": pl.String(),
    "namespace": pl.String(),
    "callee_kind": pl.String(),
    "callee": pl.String(),
}
_WHAT: Final = ["kind", "name", "namespace", "callee_kind", "callee", "metric"]

Relation = tuple[str, str, str, str, str]


@dataclass
class Found:
    """What one entry of the map gave: samples or relations, about whom, and what was wrong with it.

    `moments` are the first and the last second that were asked for; samples elsewhere are nobody's.
    """

    entry: Entry
    moments: tuple[int, int]
    samples: list[pl.DataFrame] = field(default_factory=list)
    relations: list[Relation] = field(default_factory=list)
    addresses: dict[str, str] = field(default_factory=dict)
    series: int = 0
    entities: set[EntityId] = field(default_factory=set)
    unnamed: int = 0
    bad: int = 0
    problems: set[str] = field(default_factory=set)

    def take(self, answer: Answer, nodes: Mapping[str, str], max_series: int) -> None:
        """Read one answer: its series in the order of their labels, `max_series` of them."""
        self.problems.update(f"warning: {warning}" for warning in answer.warnings)
        if answer.refusal:
            self.problems.add(f"refused: {answer.refusal}")
        shaped = [one for one in answer.series if isinstance(one, dict) and isinstance(one.get("metric"), dict)]
        if len(shaped) < len(answer.series):
            self.problems.add("series of an unknown shape are left out")
        series = sorted(shaped, key=_labels_text)
        if len(series) > max_series:
            self.problems.add(f"{len(series)} series, of which {max_series} are read (max_series)")
        self.series = max(self.series, len(series))
        self._read(series[:max_series], nodes)

    def told(self) -> Iterator[str]:
        """Everything that was wrong, in a few words each."""
        yield from self.problems
        if self.unnamed:
            yield f"{self.unnamed} series without a name in {', '.join(self.entry.labels)} are left out"
        if self.bad:
            yield f"{self.bad} values that are no finite number, or of another time, are left out"

    def _read(self, series: Sequence[Mapping[str, Any]], nodes: Mapping[str, str]) -> None:
        about: list[tuple[Any, ...]] = []
        numbers, times, values = [], [], []
        for number, one in enumerate(series):
            labels = {str(key): str(value) for key, value in one["metric"].items()}
            ends = self._ends(labels, nodes)
            if ends is None:
                continue
            about.append((number, _labels_text(one), *ends))
            for time_s, value in _pairs(one.get("values")):
                if math.isfinite(value) and self.moments[0] <= time_s <= self.moments[1]:
                    numbers.append(number)
                    times.append(round(time_s) * SECOND_NS)
                    values.append(value * self.entry.factor)
                else:
                    self.bad += not (math.isnan(value) and self.entry.may_be_nan)
        if numbers:
            samples = pl.DataFrame({"series": numbers, "time_unix_nano": times, "value": values}, schema=_SAMPLES)
            self.samples.append(samples.join(pl.DataFrame(about, schema=_SERIES, orient="row"), on="series"))

    def _ends(self, labels: Mapping[str, str], nodes: Mapping[str, str]) -> tuple[Any, ...] | None:
        """Kind, name, namespace, and for a call the callee's kind and name; None if the labels do not name them."""
        entry = self.entry
        if entry.frame == "alias":
            address, name = (labels.get(label, "") for label in entry.entity.labels)
            self.addresses.update({address: name} if address and name else {})
            return None
        source = entity_of(labels, entry.entity, nodes)
        target = entity_of(labels, entry.target, nodes) if entry.target else None
        if source is None or (entry.target and target is None):
            self.unnamed += entry.frame != "topology"
            return None
        self.entities.add(source)
        if entry.frame == "topology" and target is not None:
            self.relations.append((source.kind, _end(source), entry.metric, target.kind, _end(target)))
            return None
        kind = (entry.kinds or {}).get(labels.get(entry.kind_label, ""), target.kind) if target else None
        return source.kind, source.name, source.namespace, kind, target.name if target else None


def metrics_of(found: Iterable[Found]) -> pl.DataFrame:
    """The metrics frame."""
    frame = _combined([one for one in found if one.entry.frame == "metrics"])
    namespace = pl.when(pl.col("namespace") != "").then("namespace")
    return frame.select(
        "time_unix_nano", pl.col("kind").alias("entity_kind"), pl.col("name").alias("entity"), namespace, "metric", "value"
    )


def calls_of(found: Iterable[Found]) -> pl.DataFrame:
    """The calls frame."""
    frame = _combined([one for one in found if one.entry.frame == "calls"])
    frame = frame.filter((pl.col("callee_kind") != "service") | (pl.col("name") != pl.col("callee")))
    return frame.select("time_unix_nano", pl.col("name").alias("caller"), "callee_kind", "callee", "metric", "value")


def topology_of(found: Iterable[Found]) -> pl.DataFrame:
    """The topology frame. Of entries that place a pod, the lowest rank counts: its owner's name may not be the service's."""
    placed: dict[tuple[str, str], tuple[int, set[Relation]]] = {}
    for one in sorted((one for one in found if one.entry.frame == "topology"), key=lambda one: one.entry.rank):
        for relation in one.relations:
            about = (relation[2], relation[4] if relation[2] == "runs" else relation[1])  # the pod
            rank, relations = placed.setdefault(about, (one.entry.rank, set()))
            if rank == one.entry.rank:
                relations.add(relation)
    rows = sorted(relation for _, relations in placed.values() for relation in relations)
    columns = ("source_kind", "source", "relation", "target_kind", "target")
    return pl.DataFrame(rows, schema={column: pl.String() for column in columns}, orient="row")


def gaps_of(found: Iterable[Found], interval: Interval) -> tuple[Gap, ...]:
    """What was wrong, once for all entries that it befell."""
    entries: dict[str, list[str]] = {}
    for one in found:
        for problem in one.told():
            entries.setdefault(problem, []).append(one.entry.name)
    return tuple(Gap("prometheus", f"{_listed(names)}: {problem}", interval) for problem, names in sorted(entries.items()))


def _combined(found: Sequence[Found]) -> pl.DataFrame:
    """One value for every entity (or call), metric and time, sorted.

    The lowest rank wins for the whole collection. Within it rates add up, other statistics of requests are averaged by the
    request rate of their series (for quantiles that is an estimate), and the rest is combined as its entry says.
    """
    frames = [
        samples.with_columns(
            pl.lit(one.entry.metric).alias("metric"),
            pl.lit(one.entry.rank).alias("rank"),
            pl.lit(one.entry.combine).alias("combine"),
            pl.lit(one.entry.table).alias("table"),
        )
        for one in found
        for samples in one.samples
    ]
    if not frames:
        types = {**_SERIES, "metric": pl.String(), "time_unix_nano": pl.Int64(), "value": pl.Float64()}
        return pl.DataFrame(schema=types)
    rows = pl.concat(frames)
    rows = rows.filter(pl.col("rank") == pl.col("rank").min().over(_WHAT))
    at = ["table", "labels", "time_unix_nano"]
    rates = rows.filter(pl.col("metric").str.ends_with(".request.rate")).select(*at, pl.col("value").alias("weight"))
    rows = rows.join(rates.unique(at), on=at, how="left").with_columns(pl.col("weight").fill_null(1.0))
    value, weight, how = pl.col("value"), pl.col("weight"), pl.col("combine").first()
    weighted = pl.when(weight.sum() > 0).then((value * weight).sum() / weight.sum()).otherwise(value.mean())
    combined = (
        pl.when(how == "sum")
        .then(value.sum())
        .when(how == "max")
        .then(value.max())
        .when(how == "min")
        .then(value.min())
        .when(how == "mean")
        .then(value.mean())
        .otherwise(weighted)
    )
    grouped = rows.group_by([*_WHAT, "time_unix_nano"]).agg(combined.alias("value"))
    return grouped.sort("time_unix_nano", *_WHAT)


def _end(entity: EntityId) -> str:
    """An end of a relation: pods go by their name alone, as in traces."""
    return entity.name if entity.kind == "pod" else joined_key(entity.name, entity.namespace)


def _labels_text(series: Mapping[str, Any]) -> str:
    """Labels in one text, which sorts series and tells them apart."""
    return "\n".join(f"{key}={value}" for key, value in sorted(series["metric"].items()))


def _pairs(values: Any) -> Iterator[tuple[float, float]]:
    """Time and value of samples; what is no number is NaN."""
    for pair in values if isinstance(values, list) else ():
        if isinstance(pair, list) and len(pair) == 2:
            yield _number(pair[0]), _number(pair[1])
        else:
            yield math.nan, math.nan


def _number(text: Any) -> float:
    try:
        return float(text)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
