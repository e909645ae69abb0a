"""Windows of systems too large to look at whole: hubs lose edges, and what is far away is left out. What was cut becomes a gap.

Within the bounds nothing changes. Beyond, what alerts is kept; then what strays most, wherever it is; then the neighbourhood of
both along calls; then the rest, what strays more first and of equals the busier.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from rca.bins import key
from rca.graph import CALL_RELATIONS
from rca.screening import Screening, screened
from rca.telemetry import CANDIDATE_KINDS, ENTITY_KINDS, EntityId, Gap
from rca.topology import Topology, key_of, topology_of
from rca.window import Window

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_STRAYS: Final = 5.0  # from here on an entity counts as disturbed; a screening's standard deviations are rough
_RESERVED: Final = 10  # one place in so many is for what strays most, however far from the alerts
_SEEDS: Final = 20  # where nothing alerts, the neighbourhood of so many is kept
_FAR: Final = 1 << 30
_NAMED: Final = 3
_TARGET_KINDS: Final = {
    # Telemetry may call a service a database, queue or host where its spans were not seen (rca.topology).
    "calls": ("service", "database", "queue", "external", "consumed_queue"),
    "queries": ("database",),
    "publishes": ("queue",),
    "consumes": ("consumed_queue",),
    "requests": ("external",),
}


@dataclass(frozen=True)
class Bounds:
    """How large a map may be: candidates in all; callers and callees of one entity, each; and how many calls away from what
    alerts its neighbourhood ends."""

    candidates: int = 2000
    neighbours: int = 200
    hops: int = 3


BOUNDS: Final = Bounds()


def bounded(
    window: Window, topology: Topology, bounds: Bounds = BOUNDS, alerting: Collection[EntityId] = ()
) -> tuple[Window, Topology]:
    """The window and its topology within the bounds; the same objects if they are already.

    `alerting` adds to what the window's alerts name. All of that is kept, unless it alone is beyond the bounds.
    """
    candidates = np.array([entity.kind in CANDIDATE_KINDS for entity in topology.entities], dtype=np.bool_)
    if candidates.sum() <= bounds.candidates and _highest_degree(topology) <= bounds.neighbours:
        return window, topology
    look, alerts = screened(window, topology), _alerting(window, topology, alerting)
    kept, gaps = np.ones(len(candidates), dtype=np.bool_), list[Gap]()
    if candidates.sum() > bounds.candidates:
        distance = _distances(topology, _seeds(look, alerts, candidates), bounds.hops)
        kept = _kept(topology, look, alerts, candidates, distance, bounds)
        gaps.append(_left_out(candidates & ~kept, candidates, distance, alerts, bounds.hops))
    cut, more = _capped(topology, look, alerts, kept, bounds.neighbours)
    smaller = replace(_filtered(window, topology, kept, cut), gaps=(*window.gaps, *gaps, *more))
    return smaller, topology_of(smaller)


def _highest_degree(topology: Topology) -> int:
    """The most callers or callees of one entity."""
    ends = np.concatenate([topology.edges[relation] for relation in CALL_RELATIONS], axis=1)
    return max(int(np.bincount(end).max(initial=0)) for end in ends)


def _alerting(window: Window, topology: Topology, alerting: Collection[EntityId]) -> Mask:
    """Rows that alert: those given, those that alerts are about, the other end of alerts about calls, and owners of pods."""
    about = window.alerts.select("entity_kind", key(pl.col("entity"), pl.col("namespace")).alias("key")).unique().rows()
    peers = window.alerts.filter(pl.col("peer").is_not_null())["peer"].unique().to_list()
    named = {*about, *(("service", peer) for peer in peers), *((entity.kind, key_of(entity)) for entity in alerting)}
    found = np.zeros(len(topology.entities), dtype=np.bool_)
    for row in (topology.rows[name] for name in named if name in topology.rows):
        found[[row, topology.owners.get(row, row)]] = True
    return found


def _seeds(look: Screening, alerts: Mask, candidates: Mask) -> Ints:
    """Whose neighbourhood is kept: what alerts, or else what strays most."""
    if (alerts & candidates).any():
        return np.flatnonzero(alerts & candidates)
    rows = np.flatnonzero(candidates & (look.disturbance >= _STRAYS))
    return rows[np.lexsort((rows, -look.volume[rows], -look.disturbance[rows]))][:_SEEDS]


def _distances(topology: Topology, seeds: Ints, hops: int) -> Ints:
    """Calls from the nearest seed in either direction, (N,); _FAR beyond `hops`. A node is as far as the services it hosts, plus
    one, and leads nowhere: sharing a machine with many makes nobody their neighbour."""
    calls = np.concatenate([topology.edges[relation] for relation in CALL_RELATIONS], axis=1)
    hosts = _hosts(topology)
    distance = np.full(len(topology.entities), _FAR, dtype=np.int64)
    distance[seeds] = 0
    nodes = {row for row in seeds.tolist() if topology.entities[row].kind == "node"}
    if nodes:  # what runs on a node that alerts is next to it
        hosted = np.array([node in nodes for node in hosts[1].tolist()], dtype=np.bool_)
        distance[hosts[0][hosted]] = np.minimum(distance[hosts[0][hosted]], 1)
    for hop in range(hops):
        for here, there in ((0, 1), (1, 0)):
            reached = calls[there][distance[calls[here]] == hop]
            distance[reached] = np.minimum(distance[reached], hop + 1)
    np.minimum.at(distance, hosts[1], distance[hosts[0]] + 1)
    distance[distance > hops] = _FAR
    return distance


def _hosts(topology: Topology) -> Ints:
    """(2, H): services and the nodes that their pods run on."""
    pods, nodes = topology.edges["hosted_on"]
    owners = [
        (topology.owners[pod], node) for pod, node in zip(pods.tolist(), nodes.tolist(), strict=True) if pod in topology.owners
    ]
    return np.array(sorted(set(owners)), dtype=np.int64).reshape(-1, 2).T


def _kept(topology: Topology, look: Screening, alerts: Mask, candidates: Mask, distance: Ints, bounds: Bounds) -> Mask:
    """Entities that stay, (N,): as many candidates as may, and the pods of services that stay or on nodes that stay."""
    rows = np.flatnonzero(candidates)
    strays, volume = _loud(look.disturbance[rows]), look.volume[rows]
    loudest = np.lexsort((rows, -volume, -strays))
    reserved = loudest[strays[loudest] > 0][: bounds.candidates // _RESERVED]
    near = distance[rows] + 2
    near[reserved] = 1
    near[alerts[rows]] = 0
    order = np.lexsort((rows, -volume, -strays, near))
    kept = np.zeros(len(candidates), dtype=np.bool_)
    kept[rows[order[: bounds.candidates]]] = True
    homes = dict(topology.edges["hosted_on"].T.tolist())
    for row, entity in enumerate(topology.entities):
        if entity.kind == "pod":
            home = homes.get(row)
            kept[row] = (
                kept[topology.owners[row]] if row in topology.owners else bool(alerts[row]) or (home is not None and kept[home])
            )
    return kept


def _left_out(left: Mask, candidates: Mask, distance: Ints, alerts: Mask, hops: int) -> Gap:
    far = int((left & (distance == _FAR)).sum())
    centre = "what alerts" if (alerts & candidates).any() else "what strays most"
    reasons = [f"{far:,} are farther than {hops} calls from {centre}"] if far else []
    if far < left.sum():
        reasons.append(f"{int(left.sum()) - far:,} are calmer than others as near")
    of = f"{int(left.sum()):,} of {int(candidates.sum()):,} services, databases, queues, hosts and nodes"
    return Gap("graph", f"{of} were left out: {' and '.join(reasons)}")


def _capped(topology: Topology, look: Screening, alerts: Mask, kept: Mask, most: int) -> tuple[dict[str, Mask], list[Gap]]:
    """Edges that hubs lose, relation -> (E,), and what to say about it.

    Edges are admitted one after another while both ends have room: those to what alerts, then those to what strays or that stray
    themselves, then the busiest. So an edge is cut only where one of its ends is full.
    """
    ends = np.concatenate([topology.edges[relation] for relation in CALL_RELATIONS], axis=1)  # (2, E)
    there = np.flatnonzero(kept[ends[0]] & kept[ends[1]])
    degrees = [np.bincount(end[there], minlength=len(kept)) for end in ends]
    asked = there[(degrees[0][ends[0][there]] > most) | (degrees[1][ends[1][there]] > most)]
    taken = [degree - np.bincount(end[asked], minlength=len(kept)) for degree, end in zip(degrees, ends, strict=True)]
    cut = np.zeros(ends.shape[1], dtype=np.bool_)
    for edge in asked[_admission(ends[:, asked], asked, look, alerts, [degree > most for degree in degrees])].tolist():
        source, target = ends[:, edge]
        cut[edge] = taken[0][source] >= most or taken[1][target] >= most
        taken[0][source] += not cut[edge]
        taken[1][target] += not cut[edge]
    sizes = np.cumsum([topology.edges[relation].shape[1] for relation in CALL_RELATIONS])
    gaps = [
        gap
        for degree, neighbours in zip(degrees, ("callees", "callers"), strict=True)
        for gap in _hub_gaps(
            [(topology.entities[row].name, int(degree[row])) for row in np.flatnonzero(degree > most)], neighbours, most
        )
    ]
    return dict(zip(CALL_RELATIONS, np.split(cut, sizes[:-1]), strict=True)), gaps


def _admission(ends: Ints, edges: Ints, look: Screening, alerts: Mask, hubs: list[Mask]) -> Ints:
    """The order in which edges of hubs are admitted. That a hub itself strays speaks for none of its edges."""
    strays = np.concatenate([look.edge_disturbance[relation] for relation in CALL_RELATIONS])[edges]
    volume = np.concatenate([look.edge_volume[relation] for relation in CALL_RELATIONS])[edges]
    for hub, end, other in ((hubs[0], ends[0], ends[1]), (hubs[1], ends[1], ends[0])):
        strays = np.maximum(strays, np.where(hub[end], look.disturbance[other], 0.0))
    alerting = alerts[ends].sum(axis=0)
    return np.lexsort((ends[1], ends[0], -volume, -_loud(strays), -alerting))


def _hub_gaps(hubs: list[tuple[str, int]], neighbours: str, most: int) -> list[Gap]:
    if not hubs:
        return []
    hubs.sort(key=lambda hub: (-hub[1], hub[0]))
    named = ", ".join(f"{name} ({degree:,})" for name, degree in hubs[:_NAMED])
    more = f" and {len(hubs) - _NAMED:,} more" if len(hubs) > _NAMED else ""
    return [Gap("graph", f"only {most:,} {neighbours} each are looked at of {named}{more}")]


def _loud(disturbance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """How far something strays, rounded; 0 for what may be noise, so that traffic decides."""
    return np.where(disturbance >= _STRAYS, np.round(disturbance, 6), 0.0)


def _filtered(window: Window, topology: Topology, kept: Mask, cut: dict[str, Mask]) -> Window:
    """The window without what is about entities that are left out, or about edges that are cut."""
    stays = _Stays.of(topology, kept, cut)
    bins = window.bins
    placement = bins.placement.filter(stays.named("service", pl.col("service"))).with_columns(
        pl.when(stays.named("pod", pl.col("pod"))).then("pod").alias("pod"),
        pl.when(stays.named("node", pl.col("node"))).then("node").alias("node"),
    )
    return replace(
        window,
        bins=replace(
            bins,
            counts=stays.calls(bins.counts.filter(stays.named("service", pl.col("source"))), "source", "target_kind", "target"),
            durations=stays.calls(
                bins.durations.filter(stays.named("service", pl.col("source"))), "source", "target_kind", "target"
            ),
            exemplars=bins.exemplars.filter(stays.named("service", pl.col("service"))),
            placement=placement.unique(maintain_order=True),
        ),
        metrics=stays.entities(window.metrics),
        events=stays.entities(window.events),
        logs=stays.entities(window.logs),
        alerts=stays.peers(stays.entities(window.alerts)),
        calls=stays.calls(window.calls.filter(stays.named("service", pl.col("caller"))), "caller", "callee_kind", "callee"),
        topology=stays.relations(window.topology),
    )


@dataclass(frozen=True, eq=False)
class _Stays:
    """Keys by kind of what stays, and (source, target_kind, target) of the edges that are cut."""

    keys: dict[str, pl.Series]
    cut: pl.DataFrame

    @classmethod
    def of(cls, topology: Topology, kept: Mask, cut: dict[str, Mask]) -> _Stays:
        keys: dict[str, list[str]] = {kind: [] for kind in ENTITY_KINDS}
        names = [key_of(entity) for entity in topology.entities]
        for row in np.flatnonzero(kept):
            keys[topology.entities[row].kind].append(names[row])
        rows = [
            (names[source], kind, names[target])
            for relation, chosen in cut.items()
            for source, target in topology.edges[relation][:, chosen].T.tolist()
            for kind in _TARGET_KINDS[relation]
        ]
        schema = {"source": pl.String, "target_kind": pl.String, "target": pl.String}
        return cls(
            {kind: pl.Series(some, dtype=pl.String) for kind, some in keys.items()},
            pl.DataFrame(rows, schema=schema, orient="row"),
        )

    def named(self, kind: str, name: pl.Expr) -> pl.Expr:
        """True for names of entities of the kind that stay."""
        return name.is_in(self.keys[kind].implode())

    def of_kind(self, kind: pl.Expr, name: pl.Expr) -> pl.Expr:
        """The same where a column says the kind. What carries a service's name is that service."""
        own = [(kind == one) & self.named(one, name) for one in ENTITY_KINDS]
        queue = (kind == "consumed_queue") & self.named("queue", name)
        called = kind.is_in(["database", "queue", "external", "consumed_queue"]) & self.named("service", name)
        return pl.any_horizontal(*own, queue, called)

    def entities(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Rows about entities that stay."""
        return frame.filter(self.of_kind(pl.col("entity_kind"), key(pl.col("entity"), pl.col("namespace"))))

    def calls(self, frame: pl.DataFrame, source: str, kind: str, target: str) -> pl.DataFrame:
        """Rows about no target, or about one that stays over an edge that stays."""
        frame = frame.filter(pl.col(target).is_null() | self.of_kind(pl.col(kind), pl.col(target)))
        if self.cut.is_empty():
            return frame
        names = {"source": source, "target_kind": kind, "target": target}
        return frame.join(self.cut.rename(names), on=list(names.values()), how="anti", maintain_order="left")

    def peers(self, alerts: pl.DataFrame) -> pl.DataFrame:
        """Alerts; those about calls that are gone are about their caller alone."""
        edges = self.cut.filter(pl.col("target_kind") == "service").select("source", peer="target", gone=pl.lit(True))
        found = alerts.join(edges, left_on=["entity", "peer"], right_on=["source", "peer"], how="left", maintain_order="left")
        lives = self.named("service", pl.col("peer")) & pl.col("gone").is_null()
        return found.with_columns(pl.when(lives).then("peer").alias("peer")).drop("gone")

    def relations(self, topology: pl.DataFrame) -> pl.DataFrame:
        """Relations between entities that stay, over edges that are not cut."""
        ends = self.of_kind(pl.col("source_kind"), pl.col("source")) & self.of_kind(pl.col("target_kind"), pl.col("target"))
        consumed = (pl.col("relation") == "consumes").fill_null(False)
        kind = pl.when(consumed).then(pl.lit("consumed_queue")).otherwise(pl.col("target_kind"))
        frame = topology.filter(ends).with_columns(kind.alias("end"))
        along = pl.col("relation").is_in(CALL_RELATIONS)
        called = self.calls(frame.filter(along), "source", "end", "target")
        return pl.concat([frame.filter(~along), called]).select(topology.columns)
