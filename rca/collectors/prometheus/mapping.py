"""The map: which PromQL gives which canonical metric, call or relation, and which labels name the entity.

The shipped map is map.toml beside this file. A team's own file has the same tables; an entry with a known name replaces ours.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError

from rca.errors import BadInput, UnknownName
from rca.metrics import METRICS
from rca.settings import Section
from rca.telemetry import EntityKind

Combine = Literal["sum", "mean", "max", "min", "weighted"]
Statistic = Literal["p50", "p75", "p90", "p95", "p99", "mean"]

CALL_METRICS: Final = ("call.rate", "call.error_ratio", "call.client.duration.p50", "call.server.duration.p50")
RELATIONS: Final[dict[str, tuple[EntityKind, EntityKind]]] = {"runs": ("service", "pod"), "hosted_on": ("pod", "node")}
_PLACEHOLDER: Final = re.compile(r"\{([a-z_]+)\}")
_KNOWN: Final = ("window", "step", "range", "by", "selector")
_SHARES: Final = {"p50": 0.5, "p75": 0.75, "p90": 0.9, "p95": 0.95, "p99": 0.99}


class Labels(Section):
    """Labels that give a name, the first that is there first. An entry may have its own."""

    service: tuple[str, ...] = Field(default=(), description="name of a service; `a/b` in `job` is namespace and name")
    service_namespace: tuple[str, ...] = Field(default=(), description="namespace of a service, as its traces have it")
    pod: tuple[str, ...] = Field(default=(), description="name of a pod")
    pod_namespace: tuple[str, ...] = Field(default=(), description="Kubernetes namespace of a pod")
    node: tuple[str, ...] = Field(default=(), description="name of a node; the port of `instance` is cut off")


class _Named(Section):
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")] = Field(description="name of the entry")
    family: str = Field(default="own", description="exporter or instrumentation, for people")
    needs: tuple[str, ...] = Field(default=(), description="metric names without which the query is not asked")
    without: tuple[str, ...] = Field(default=(), description="metric names with which it is not asked: they tell more")
    rank: int = Field(default=0, description="where several entries measure the same, the lowest rank is taken")


class MetricTable(_Named):
    """`[[metric]]`: one query, one canonical metric."""

    query: str = Field(description="PromQL with `{window}`, `{step}`, `{range}`, `{by}` and `{selector}`")
    metric: str = Field(description="canonical name, docs/metrics.md")
    entity: EntityKind = Field(description="what the series are about")
    labels: tuple[str, ...] = Field(default=(), description="labels that give the name; those of the kind unless given")
    namespace_labels: tuple[str, ...] | None = Field(default=None, description="labels that give the namespace")
    factor: float = Field(default=1.0, description="what the value is multiplied with to come to the canonical unit")
    combine: Combine = Field(default="sum", description="what becomes of several series of one entity")
    may_be_nan: bool = Field(default=False, description="NaN is usual, such as a ratio of nothing to nothing, and no gap")


class HistogramTable(_Named):
    """`[[histogram]]`: a histogram of requests gives quantiles, mean, rate and success ratio."""

    metric: str = Field(description="name of the histogram without `_bucket`")
    side: Literal["server", "client"] = Field(description="whose durations they are")
    factor: float = Field(default=1.0, description="seconds of one unit")
    match: str = Field(default="", description="label matchers of the requests that count")
    errors: tuple[str, ...] = Field(default=(), description="label matchers of failed requests; sets that do not overlap")
    labels: tuple[str, ...] = Field(default=(), description="labels that give the service; the usual ones unless given")
    namespace_labels: tuple[str, ...] | None = Field(default=None, description="labels that give the namespace")
    statistics: tuple[Statistic, ...] = Field(default=("p50", "p95", "mean"), description="what is taken of the durations")


class CallTable(_Named):
    """`[[call]]`: statistics of calls between two entities."""

    query: str = Field(description="PromQL with `{window}`, `{step}`, `{range}`, `{by}` and `{selector}`")
    metric: Literal["call.rate", "call.error_ratio", "call.client.duration.p50", "call.server.duration.p50"] = Field(
        description="what is measured"
    )
    caller_labels: tuple[str, ...] = Field(description="labels that give the caller")
    callee_labels: tuple[str, ...] = Field(description="labels that give the callee")
    callee_kind: Literal["service", "database", "queue", "external"] = Field(default="service", description="what is called")
    kind_label: str = Field(default="", description="label that says what is called")
    kinds: dict[str, Literal["service", "database", "queue", "external"]] = Field(default={}, description="its values")
    factor: float = Field(default=1.0, description="what the value is multiplied with")
    may_be_nan: bool = Field(default=True, description="NaN is usual and no gap")


class RelationTable(_Named):
    """`[[relation]]`: what runs where. Of several entries that name the same target, the lowest rank is taken."""

    query: str = Field(description="PromQL with `{range}`, `{by}` and `{selector}`")
    relation: Literal["runs", "hosted_on"] = Field(description="service runs pod, or pod hosted_on node")
    source_labels: tuple[str, ...] = Field(default=(), description="labels that give the source; those of its kind unless given")
    target_labels: tuple[str, ...] = Field(default=(), description="labels that give the target; those of its kind unless given")
    namespace_labels: tuple[str, ...] | None = Field(default=None, description="labels that give the pod's namespace")


class AliasTable(_Named):
    """`[[alias]]`: another name of a node, for series that know it by address alone."""

    query: str = Field(description="PromQL with `{range}`, `{by}` and `{selector}`")
    address_label: str = Field(description="label with the address")
    node_label: str = Field(description="label with the name")


class MapFile(Section):
    """A map file."""

    labels: Labels = Field(default=Labels(), description="labels that give names")
    metric: tuple[MetricTable, ...] = Field(default=(), description="entries that give a metric")
    histogram: tuple[HistogramTable, ...] = Field(default=(), description="entries that give all there is to know of requests")
    call: tuple[CallTable, ...] = Field(default=(), description="entries that give statistics of calls")
    relation: tuple[RelationTable, ...] = Field(default=(), description="entries that give topology")
    alias: tuple[AliasTable, ...] = Field(default=(), description="entries that give names of nodes")


_Table = MetricTable | HistogramTable | CallTable | RelationTable | AliasTable


@dataclass(frozen=True)
class Naming:
    """How labels name an entity: kind, labels in order, labels of its namespace."""

    kind: EntityKind
    labels: tuple[str, ...]
    namespace_labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """One query of the map, ready to be asked.

    `table` is the table it comes from; the queries of one histogram share it, so that they can be weighed by its request rate.
    """

    name: str
    family: str
    table: str
    frame: Literal["metrics", "calls", "topology", "alias"]
    query: str
    needs: tuple[str, ...]
    without: tuple[str, ...]
    rank: int
    metric: str
    entity: Naming
    target: Naming | None = None
    kind_label: str = ""
    kinds: Mapping[str, EntityKind] | None = None
    factor: float = 1.0
    combine: Combine = "sum"
    may_be_nan: bool = False

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label that the entry looks at, for `by`."""
        target = (*self.target.labels, *self.target.namespace_labels) if self.target else ()
        kind = (self.kind_label,) if self.kind_label else ()
        return tuple(dict.fromkeys((*self.entity.labels, *self.entity.namespace_labels, *target, *kind)))

    @property
    def at_once(self) -> bool:
        """True if one instant query tells all there is to know."""
        return self.frame in ("topology", "alias")

    def promql(self, *, window_s: int, step_s: int, range_s: int, selector: str = "") -> str:
        """The query with its placeholders filled in."""
        values = {
            "window": f"{window_s}s",
            "step": f"{step_s}s",
            "range": f"{max(range_s, 1)}s",
            "by": ", ".join(self.labels),
            "selector": selector,
        }
        return _PLACEHOLDER.sub(lambda found: values[found[1]], self.query)


def load_map(path: Path | None = None, disable: Iterable[str] = ()) -> tuple[Entry, ...]:
    """The shipped entries, with those of a team's own file added or in their place, without those that are disabled.

    Raises BadInput, UnknownName.
    """
    tables = _shipped()
    if path is not None:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "bytes that are not UTF-8"
            raise BadInput(str(path), expected="a map of PromQL", found=str(reason)) from None
        tables = _merged(tables, _read(text, str(path)))
    entries = _entries_of(tables)
    known = {entry.name for entry in entries} | {entry.table for entry in entries}
    for name in disable:
        if name not in known:
            raise UnknownName("prometheus.disable", name, known)
    off = set(disable)
    return tuple(entry for entry in entries if off.isdisjoint((entry.name, entry.table)))


def shipped_labels() -> Labels:
    """The labels that name things unless a team's own file says otherwise."""
    return _shipped().labels


@cache
def _shipped() -> MapFile:
    return _read(files(__package__).joinpath("map.toml").read_text(encoding="utf-8"), "map.toml")


def _read(text: str, where: str) -> MapFile:
    """A map file. Raises BadInput that names every mistake."""
    try:
        body = tomllib.loads(text)
        tables = MapFile(**body)
    except tomllib.TOMLDecodeError as error:
        raise BadInput(where, expected="TOML", found=str(error)) from None
    except ValidationError as error:
        mistakes = "; ".join(_mistakes(error, body))
        raise BadInput(where, expected="tables of docs/prometheus.md", found=mistakes) from None
    names = [table.name for table in _tables(tables)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadInput(where, expected="one entry of a name", found=f"several of {', '.join(twice)}")
    for table in _tables(tables):
        _check(table, f"{where}: {table.name}")
    return tables


def _mistakes(error: ValidationError, body: dict[str, Any]) -> Iterator[str]:
    """One clause for every mistake, by the name of its entry where it has one."""
    for mistake in error.errors(include_url=False):
        table, *place = mistake["loc"]
        entry = body[str(table)][place[0]] if len(place) > 1 and isinstance(place[0], int) else None
        named = isinstance(entry, dict) and isinstance(entry.get("name"), str)
        where = ".".join(map(str, (entry["name"], *place[1:]) if entry is not None and named else mistake["loc"]))
        yield f"{where}: {'unknown setting' if mistake['type'] == 'extra_forbidden' else mistake['msg']}"


def _tables(body: MapFile) -> tuple[_Table, ...]:
    """All entries, the cheap and the telling ones first: the budget may not last for all."""
    return (*body.alias, *body.relation, *body.histogram, *body.call, *body.metric)


def _check(table: _Table, where: str) -> None:
    query = "" if isinstance(table, HistogramTable) else table.query
    for name in _PLACEHOLDER.findall(query):
        if name not in _KNOWN:
            raise UnknownName(f"{where}: placeholder in query", name, _KNOWN)
    if isinstance(table, MetricTable) and table.metric not in METRICS:
        raise UnknownName(f"{where}: metric", table.metric, METRICS)


def _merged(ours: MapFile, theirs: MapFile) -> MapFile:
    """Entries of both; theirs in the place of ours of the same name, labels likewise."""
    replaced = {table.name for table in _tables(theirs)}
    kinds = ("metric", "histogram", "call", "relation", "alias")
    kept = {kind: tuple(table for table in getattr(ours, kind) if table.name not in replaced) for kind in kinds}
    labels = ours.labels.model_copy(update=theirs.labels.model_dump(exclude_unset=True))
    return MapFile(labels=labels, **{kind: (*kept[kind], *getattr(theirs, kind)) for kind in kinds})


def _entries_of(body: MapFile) -> tuple[Entry, ...]:
    return tuple(entry for table in _tables(body) for entry in _entries(table, body.labels))


def _entries(table: _Table, labels: Labels) -> Iterator[Entry]:
    """The queries of one table."""
    if isinstance(table, HistogramTable):
        yield from _of_histogram(table, labels)
        return
    entry: Callable[..., Entry] = partial(
        Entry,
        name=table.name,
        table=table.name,
        family=table.family,
        query=table.query,
        needs=table.needs,
        without=table.without,
        rank=table.rank,
    )
    if isinstance(table, MetricTable):
        yield entry(
            frame="metrics",
            metric=table.metric,
            entity=_naming(table.entity, table.labels, table.namespace_labels, labels),
            factor=table.factor,
            combine=table.combine,
            may_be_nan=table.may_be_nan,
        )
    elif isinstance(table, CallTable):
        yield entry(
            frame="calls",
            metric=table.metric,
            entity=Naming("service", table.caller_labels),
            target=Naming(table.callee_kind, table.callee_labels),
            kind_label=table.kind_label,
            kinds=dict(table.kinds),
            factor=table.factor,
            combine="sum" if table.metric == "call.rate" else "mean",
            may_be_nan=table.may_be_nan,
        )
    elif isinstance(table, RelationTable):
        source, target = RELATIONS[table.relation]
        yield entry(
            frame="topology",
            metric=table.relation,
            entity=_naming(source, table.source_labels, table.namespace_labels if source == "pod" else None, labels),
            target=_naming(target, table.target_labels, table.namespace_labels if target == "pod" else None, labels),
        )
    else:
        yield entry(frame="alias", metric="node name", entity=Naming("node", (table.address_label, table.node_label)))


def _of_histogram(table: HistogramTable, labels: Labels) -> Iterator[Entry]:
    """Quantiles from the buckets, mean from the sum, rate and success ratio from the count."""
    matchers = ",".join(filter(None, (table.match, "{selector}")))

    def rate(part: str, more: str = "", by: str = "{by}") -> str:
        inside = ",".join(filter(None, (more, matchers)))
        return f"sum by ({by}) (rate({table.metric}_{part}{{{inside}}}[{{window}}]))"

    queries = {
        statistic: f"histogram_quantile({_SHARES[statistic]}, {rate('bucket', by='le, {by}')})"
        for statistic in table.statistics
        if statistic in _SHARES
    }
    if "mean" in table.statistics:
        queries["mean"] = f"{rate('sum')} / {rate('count')}"
    failed = " + ".join(f"({rate('count', errors)} or {rate('count')} * 0)" for errors in table.errors)
    naming = _naming("service", table.labels, table.namespace_labels, labels)
    durations = [(name, f"{table.side}.request.duration.{name}", query, table.factor) for name, query in queries.items()]
    counts = [("rate", f"{table.side}.request.rate", rate("count"), 1.0)]
    if failed:
        counts.append(("success", f"{table.side}.request.success_ratio", f"1 - ({failed}) / {rate('count')}", 1.0))
    for name, metric, query, factor in (*durations, *counts):
        part = "bucket" if name in _SHARES else "count"
        yield Entry(
            name=f"{table.name}.{name}",
            family=table.family,
            frame="metrics",
            query=query,
            needs=(f"{table.metric}_{part}", *table.needs),
            without=table.without,
            rank=table.rank,
            table=table.name,
            metric=metric,
            entity=naming,
            factor=factor,
            combine="sum" if name == "rate" else "weighted",
            may_be_nan=True,
        )


def _naming(kind: EntityKind, names: tuple[str, ...], namespaces: tuple[str, ...] | None, labels: Labels) -> Naming:
    usual: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
        "service": (labels.service, labels.service_namespace),
        "pod": (labels.pod, labels.pod_namespace),
        "node": (labels.node, ()),
    }
    known = usual.get(kind, ((), ()))
    return Naming(kind, names or known[0], known[1] if namespaces is None else namespaces)
