"""One name for one thing: telemetry of several sources, told to agree on what services, pods and nodes are called.

Traces know a service by `service.name`, Kubernetes by its workload, Prometheus by a label that somebody chose. The names of
traces win, because calls are known by them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import polars as pl

from rca.bins import joined_key, key, split_key
from rca.telemetry import EntityId, Telemetry

_ENTITY_FRAMES: Final = ("metrics", "events", "logs", "alerts")
_CLUSTER_KINDS: Final = ("pod", "node")
_LOOSE: Final = re.compile(r"[^a-z0-9]+")

Name = tuple[str, str]
"""(namespace, name) of a service; the namespace is empty where nothing gives one."""


@dataclass(frozen=True)
class Renaming:
    """Which service other sources mean by a name: `services` by (namespace, name), the names that match none, and the pods that
    keep their namespace."""

    services: Mapping[Name, Name] = field(default_factory=dict)
    unmatched: tuple[Name, ...] = ()
    shared_pods: frozenset[str] = frozenset()

    def entity(self, entity: EntityId) -> EntityId:
        """What the reconciled telemetry calls an entity."""
        if entity.kind == "service":
            namespace, name = self.services.get((entity.namespace, entity.name), (entity.namespace, entity.name))
            return EntityId("service", name, namespace)
        bare = entity.kind == "node" or (entity.kind == "pod" and entity.name not in self.shared_pods)
        return replace(entity, namespace="") if bare else entity


def reconciled(
    telemetry: Telemetry, aliases: Mapping[str, str] | None = None, also: Collection[EntityId] = ()
) -> tuple[Telemetry, Renaming]:
    """The same telemetry with one name for every service, pod and node, and what was renamed, entities of `also` included.

    A service that traces do not know is taken for one that they do if, in this order, `aliases` says so, it runs the same pods,
    it has the same name in no or another namespace, or the same letters and digits once its case, its separators and a
    leading `namespace/` are set aside. Each only where it points at one service. Pods lose their namespace where their names are
    unique without, as in traces, and nodes always: they have none.
    """
    known = _known_services(telemetry)
    mentioned = _mentioned_services(telemetry) | {(one.namespace, one.name) for one in also if one.kind == "service"}
    renaming = _renaming(mentioned, known, aliases or {}, _services_of_workloads(telemetry))
    renaming = replace(renaming, shared_pods=_pods_of_several_namespaces(telemetry))
    frames: dict[str, Any] = {}
    for name in _ENTITY_FRAMES:
        frames[name] = _renamed(telemetry.frames()[name], renaming.services, renaming.shared_pods)
    keys = {name: joined_key(to, namespace) for (lost, name), (namespace, to) in renaming.services.items() if not lost}
    frames["calls"] = telemetry.calls.with_columns(_mapped("caller", keys, None), _mapped("callee", keys, "callee_kind"))
    ends = (_mapped("source", keys, "source_kind"), _mapped("target", keys, "target_kind"))
    frames["topology"] = telemetry.topology.with_columns(ends).unique(maintain_order=True)
    return replace(telemetry, **frames), renaming


def _known_services(telemetry: Telemetry) -> frozenset[Name]:
    """Services that traces name; without traces, those that call or are called, and others that are measured."""
    spans = telemetry.spans.select(key(pl.col("service.name"), pl.col("service.namespace"))).to_series()
    named = {*spans.unique(), *telemetry.bin_counts["source"].unique()}
    if not named:
        named = {*telemetry.calls["caller"].unique()}
        named |= {*telemetry.calls.filter(pl.col("callee_kind") == "service")["callee"].unique()}
        measured = telemetry.metrics.filter((pl.col("entity_kind") == "service") & ~pl.col("entity").is_in(sorted(named)))
        named |= {*measured.select(key(pl.col("entity"), pl.col("namespace"))).to_series().unique()}
    return frozenset(split_key(text) for text in named)


def _mentioned_services(telemetry: Telemetry) -> frozenset[Name]:
    """Services that other sources name."""
    names: set[Name] = set()
    for name in _ENTITY_FRAMES:
        frame = telemetry.frames()[name].filter(pl.col("entity_kind") == "service")
        names |= set(frame.select(pl.col("namespace").fill_null(""), "entity").unique().iter_rows())
    names |= {("", caller) for caller in telemetry.calls["caller"].unique()}
    names |= {("", callee) for callee in telemetry.calls.filter(pl.col("callee_kind") == "service")["callee"].unique()}
    runs = telemetry.topology.filter(pl.col("relation") == "runs")
    return frozenset(names | {("", service) for service in runs["source"].unique()})


def _services_of_workloads(telemetry: Telemetry) -> dict[str, Name]:
    """Workload to the one service whose spans come from its pods."""
    placed = telemetry.bin_placement.select("service", "pod")
    spans = telemetry.spans.select(
        key(pl.col("service.name"), pl.col("service.namespace")).alias("service"), pl.col("k8s.pod.name").alias("pod")
    )
    emitters = pl.concat([placed, spans]).drop_nulls().unique()
    runs = telemetry.topology.filter(pl.col("relation") == "runs").select(
        pl.col("source").alias("workload"), pl.col("target").alias("pod")
    )
    owners: dict[str, set[str]] = {}
    for workload, service in runs.join(emitters, on="pod").select("workload", "service").unique().iter_rows():
        owners.setdefault(workload, set()).add(service)
    return {workload: split_key(services.pop()) for workload, services in owners.items() if len(services) == 1}


def _renaming(
    mentioned: Iterable[Name], known: frozenset[Name], aliases: Mapping[str, str], workloads: Mapping[str, Name]
) -> Renaming:
    by_name = _only(((name, (namespace, name)) for namespace, name in known))
    by_letters = _only(((_letters(name), (namespace, name)) for namespace, name in known))
    services: dict[Name, Name] = {}
    unmatched = []
    for namespace, written in sorted(mentioned):
        if (namespace, written) in known:
            continue
        alias = aliases.get(written)
        found = (
            by_name.get(alias, ("", alias))
            if alias is not None
            else workloads.get(written) or by_name.get(written) or by_letters.get(_letters(written))
        )
        if found is None:
            unmatched.append((namespace, written))
        elif found != (namespace, written):
            services[namespace, written] = found
    return Renaming(services, tuple(unmatched))


def _only(pairs: Iterable[tuple[str, Name]]) -> dict[str, Name]:
    """What a text stands for, where it stands for one service."""
    found: dict[str, set[Name]] = {}
    for text, name in pairs:
        found.setdefault(text, set()).add(name)
    return {text: names.pop() for text, names in found.items() if len(names) == 1}


def _letters(name: str) -> str:
    return _LOOSE.sub("", name.rpartition("/")[2].lower())


def _pods_of_several_namespaces(telemetry: Telemetry) -> frozenset[str]:
    pods = pl.concat(
        telemetry.frames()[name].filter(pl.col("entity_kind") == "pod").select("entity", "namespace") for name in _ENTITY_FRAMES
    )
    counts = pods.drop_nulls().unique().group_by("entity").len()
    return frozenset(counts.filter(pl.col("len") > 1)["entity"])


def _renamed(frame: pl.DataFrame, services: Mapping[Name, Name], shared_pods: frozenset[str]) -> pl.DataFrame:
    clustered = pl.col("entity_kind").is_in(_CLUSTER_KINDS) & ~(
        (pl.col("entity_kind") == "pod") & pl.col("entity").is_in(pl.Series(sorted(shared_pods), dtype=pl.String).implode())
    )
    frame = frame.with_columns(pl.when(~clustered).then("namespace").alias("namespace"))
    if not services:
        return frame
    table = pl.DataFrame(
        [("service", namespace, written, name, to) for (namespace, written), (to, name) in services.items()],
        schema=["entity_kind", "_namespace", "entity", "_name", "_to"],
        orient="row",
    )
    joined = frame.with_columns(pl.col("namespace").fill_null("").alias("_namespace")).join(
        table, on=["entity_kind", "_namespace", "entity"], how="left", maintain_order="left"
    )
    renamed = pl.col("_name").is_not_null()
    return joined.with_columns(
        pl.coalesce("_name", "entity").alias("entity"),
        pl.when(renamed).then(pl.col("_to")).otherwise(pl.col("namespace")).alias("namespace"),
    ).select(frame.columns)


def _mapped(column: str, keys: Mapping[str, str], kind: str | None) -> pl.Expr:
    """The column with other names where its kind, given by another column, is a service."""
    replaced = pl.col(column).replace(list(keys), list(keys.values())) if keys else pl.col(column)
    return (replaced if kind is None else pl.when(pl.col(kind) == "service").then(replaced).otherwise(pl.col(column))).alias(
        column
    )
