"""Answers to frames: series to entities, several measurements of one thing to one, and what was wrong to gaps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import polars as pl

from rca.bins import joined_key
from rca.collectors.prometheus.client import Answer, samples_of
from rca.collectors.prometheus.mapping import Entry
from rca.collectors.prometheus.naming import entity_of
from rca.errors import RcaError
from rca.telemetry import SECOND_NS, EntityId, Gap, Interval
from rca.wording import listed

_NAMED: Final = 4  # entries that a gap names before it counts the rest
_SAMPLES: Final = {"series": pl.Int32(), "time_unix_nano": pl.Int64(), "value": pl.Float64()}
_READ: Final = {"series": pl.Int32(), "time_s": pl.Float64(), "value": pl.Float64()}
_WHAT: Final = {
    "what": pl.Int32(),
    "kind": pl.String(),
    "name": pl.String(),
    "namespace": pl.String(),
    "callee_kind": pl.String(),
    "callee": pl.String(),
    "metric": pl.String(),
}

_VALUES: Final = {"what": pl.Int32(), "time_unix_nano": pl.Int64(), "value": pl.Float64()}
_TABLE: Final = {"series": pl.Int32(), "what": pl.Int32(), "labels": pl.Int32(), "alone": pl.Boolean()}

Relation = tuple[str, str, str, str, str]
Ends = tuple[str, str, str, str | None, str | None]
"""Kind, name and namespace of an entity, and for a call the callee's kind and name."""
What = tuple[str | None, ...]
"""The same, and the metric."""


@dataclass
class Found:
    """What one entry of the map gave: samples or relations, about whom, and what was wrong with it.

    `moments` are the first and the last second that were asked for; samples elsewhere are nobody's. A sample's `series` is the
    place of its series in `about`: the text of its labels, and what it measures.
    """

    entry: Entry
    moments: tuple[int, int]
    samples: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=_SAMPLES))
    about: list[tuple[str, Ends]] = field(default_factory=list)
    relations: list[Relation] = field(default_factory=list)
    addresses: dict[str, str] = field(default_factory=dict)
    series: int = 0
    entities: set[EntityId] = field(default_factory=set)
    unnamed: int = 0
    bad: int = 0
    problems: set[str] = field(default_factory=set)
    answered: bool = False
    errors: list[RcaError] = field(default_factory=list)

    def take(self, answer: Answer, nodes: Mapping[str, str], max_series: int) -> None:
        """Read one answer: its series in the order of their labels, `max_series` of them."""
        self.answered = True
        self.problems.update(f"warning: {warning}" for warning in answer.warnings)
        if answer.refusal:
            self.problems.add(f"refused: {answer.refusal}")
        if answer.misshapen:
            self.problems.add("series of an unknown shape are left out")
        series = sorted(answer.series, key=_labels_text)
        if len(series) > max_series:
            self.problems.add(f"{len(series)} series, of which {max_series} are read (max_series)")
        self.series = max(self.series, len(series))
        before, self.unnamed = self.unnamed, 0
        self._read(series[:max_series], nodes)
        self.unnamed = max(self.unnamed, before)  # parts of the time have the same series

    def fail(self, error: RcaError) -> None:
        """The query, or a part of it, was not answered."""
        self.errors.append(error)
        self.problems.add(str(error))

    def join(self, other: Found) -> None:
        """Add what another part of the time gave."""
        moved = other.samples.with_columns(pl.col("series") + len(self.about))
        self.samples, self.about = pl.concat([self.samples, moved]), self.about + other.about
        self.relations += other.relations
        self.addresses |= other.addresses
        self.series, self.unnamed = max(self.series, other.series), max(self.unnamed, other.unnamed)
        self.bad += other.bad
        self.entities |= other.entities
        self.problems |= other.problems
        self.errors += other.errors
        self.answered |= other.answered

    def drop(self, reason: str) -> None:
        """Forget the samples."""
        self.samples, self.about = self.samples.clear(), []
        self.problems.add(reason)

    def told(self) -> Iterator[str]:
        """Everything that was wrong, in a few words each."""
        yield from self.problems
        if self.unnamed:
            yield f"{self.unnamed} series without a name in {', '.join(self.entry.labels)} are left out"
        if self.bad:
            yield f"{self.bad} values that are no finite number, or of another time, are left out"

    def _read(self, series: Sequence[Mapping[str, Any]], nodes: Mapping[str, str]) -> None:
        numbers: list[int] = []
        times: list[float] = []
        values: list[float] = []
        for one in series:
            labels = {str(key): str(value) for key, value in one["metric"].items()}
            ends = self._ends(labels, nodes)
            if ends is None:
                continue
            if not isinstance(one.get("values"), list):
                self.problems.add("series without plain samples (native histograms?) are left out")
                continue
            at, read = samples_of(one)
            numbers += [len(self.about)] * len(at)
            times += at
            values += read
            self.about.append((_labels_text(one), ends))
        rows = pl.DataFrame({"series": numbers, "time_s": times, "value": values}, schema=_READ)
        good = rows["value"].is_finite() & rows["time_s"].is_between(*self.moments)
        usual = rows["value"].is_nan() if self.entry.may_be_nan else pl.repeat(False, len(rows), eager=True)
        self.bad += int((~good & ~usual).sum())
        time_ns = pl.col("time_s").round().cast(pl.Int64) * SECOND_NS
        value = pl.col("value") * self.entry.factor
        self.samples = pl.concat([self.samples, rows.filter(good).select("series", time_ns.alias("time_unix_nano"), value)])

    def _ends(self, labels: Mapping[str, str], nodes: Mapping[str, str]) -> Ends | None:
        """What the labels name; None if they name nobody, or if there is more to know than samples."""
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
    return tuple(Gap("prometheus", f"{listed(names, _NAMED)}: {problem}", interval) for problem, names in sorted(entries.items()))


def _combined(found: Sequence[Found]) -> pl.DataFrame:
    """One value for every entity (or call), metric and time, sorted.

    The lowest rank wins for the whole collection. Within it rates add up, other statistics of requests are averaged by the
    request rate of their series (for quantiles that is an estimate), and the rest is combined as its entry says.
    """
    sources = _sources(found)
    whats = {what: place for place, what in enumerate(sorted(sources, key=lambda what: [text or "" for text in what]))}
    named = pl.DataFrame([(place, *what) for what, place in whats.items()], schema=_WHAT, orient="row")
    texts: dict[str, int] = {}
    alone, several = [pl.DataFrame(schema=_VALUES)], []
    for number, one in enumerate(found):
        rows = []
        for series, (text, ends) in enumerate(one.about):
            what = (*ends, one.entry.metric)
            if (number, text) in sources[what]:
                rows.append((series, whats[what], texts.setdefault(text, len(texts)), len(sources[what]) == 1))
        table = pl.DataFrame(rows, schema=_TABLE, orient="row")
        samples = one.samples.join(table, on="series").with_columns(
            pl.lit(number, pl.Int32).alias("entry"),
            pl.lit(one.entry.combine).cast(pl.Categorical).alias("combine"),
            pl.lit(one.entry.table).cast(pl.Categorical).alias("table"),
        )
        alone.append(samples.filter("alone").select(*_VALUES))
        several.append(samples.filter(~pl.col("alone")))
    if several:
        alone.append(_weighed(pl.concat(several), named))
    return pl.concat(alone).sort("time_unix_nano", "what").join(named, on="what", maintain_order="left")


def _sources(found: Sequence[Found]) -> dict[What, set[tuple[int, str]]]:
    """Everything measured, and who measures it: the place of an entry, and labels. Only those of the lowest rank count."""
    ranks: dict[What, int] = {}
    sources: dict[What, set[tuple[int, str]]] = {}
    for number, one in sorted(enumerate(found), key=lambda pair: pair[1].entry.rank):
        measured = set(one.samples["series"].unique())
        for series, (text, ends) in enumerate(one.about):
            what = (*ends, one.entry.metric)
            if series in measured and ranks.setdefault(what, one.entry.rank) == one.entry.rank:
                sources.setdefault(what, set()).add((number, text))
            else:
                sources.setdefault(what, set())
    return sources


def _weighed(rows: pl.DataFrame, named: pl.DataFrame) -> pl.DataFrame:
    """One value where several series measure one thing. Rows are sorted first, because sums of floats depend on their order."""
    at = ["table", "labels", "time_unix_nano"]
    of_requests = named.filter(pl.col("metric").str.ends_with(".request.rate"))
    rates = rows.join(of_requests, on="what", how="semi").select(*at, pl.col("value").alias("weight"))
    rows = rows.join(rates.unique(at), on=at, how="left").with_columns(pl.col("weight").fill_null(1.0))
    rows = rows.sort("what", "time_unix_nano", "entry", "labels")
    grouped = rows.group_by("what", "time_unix_nano", maintain_order=True).agg(_together().alias("value"))
    return grouped.select(*_VALUES)


def _together() -> pl.Expr:
    """One value out of those of a group, as the entry says."""
    value, weight, how = pl.col("value"), pl.col("weight"), pl.col("combine").first()
    weighted = pl.when(weight.sum() > 0).then((value * weight).sum() / weight.sum()).otherwise(value.mean())
    return (
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


def _end(entity: EntityId) -> str:
    """An end of a relation: pods go by their name alone, as in traces."""
    return entity.name if entity.kind == "pod" else joined_key(entity.name, entity.namespace)


def _labels_text(series: Mapping[str, Any]) -> str:
    """Labels in one text, which sorts series and tells them apart."""
    return "\n".join(f"{key}={value}" for key, value in sorted(series["metric"].items()))
