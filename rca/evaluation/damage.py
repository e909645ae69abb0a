"""What collectors and people get wrong, done to an incident's telemetry on purpose, before anything is measured on it.

Whatever is chosen by chance hangs on the incident's id and on names alone: the same incident is always damaged in the same way.
Nothing here looks at features, and at labels only where the causes are to be spared.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
import polars as pl

from rca.bins import frames_of, joined_key, key, split_key
from rca.cleaning import cleaned
from rca.errors import BadInput, UnknownName
from rca.incidents.incident import BaselineModel, Incident, IntervalModel
from rca.incidents.sharing import redacted
from rca.telemetry import BIN_FRAMES, SECOND_NS, Gap, Telemetry, empty

Recording = tuple[Incident, Telemetry]
Transform = Callable[[Incident, Telemetry], Recording]

REASON: Final = "left out on purpose"
LEAST_STRETCH_NS: Final = 30 * SECOND_NS
"""A shorter window, or baseline, is none."""
SOURCES: Final[dict[str, tuple[str, ...]]] = {
    "traces": ("spans", *BIN_FRAMES),
    "metrics": ("metrics", "calls"),
    "logs": ("logs",),
    "events": ("events",),
    "alerts": ("alerts",),
}
"""What goes missing together: call rates are made of metrics (rca.collectors.prometheus)."""
_ALERTED_ON: Final = {"traces": "trace", "metrics": "metric", "logs": "log"}
_CALLEE_KINDS: Final = {
    "calls": "service",
    "queries": "database",
    "publishes": "queue",
    "consumes": "consumed_queue",
    "requests": "external",
}
"""Relation of the topology -> kind of the other end, as bins have it."""
_DAY_NS: Final = 86_400 * SECOND_NS
_SALT: Final = b"renamed"
Edge = tuple[str, str, str]
"""(key of the caller, kind of the callee as bins have it, key of the callee)."""


# --- sources --------------------------------------------------------------------------------------------------------------


def losing(*lost: str) -> Transform:
    """Nothing of these SOURCES, nor of the alerts raised on them. Who runs where (the topology) stays known.

    Raises UnknownName.
    """
    for name in lost:
        if name not in SOURCES:
            raise UnknownName("source", name, SOURCES)

    def damaged(incident: Incident, telemetry: Telemetry) -> Recording:
        gaps = (*telemetry.gaps, *(Gap(name, REASON) for name in lost))
        raised_on = [_ALERTED_ON[name] for name in lost if name in _ALERTED_ON]
        alerts = telemetry.alerts.filter(~pl.col("source").is_in(raised_on))
        frames = {"alerts": alerts} | {frame: empty(frame) for name in lost for frame in SOURCES[name]}
        return incident, replace(telemetry, gaps=gaps, **frames)

    return damaged


def only(kept: str) -> Transform:
    """One source alone, with the alerts raised on it; of `alerts` all of them. Raises BadInput where it was never there."""
    lose = losing(*(name for name in SOURCES if name not in (kept, "alerts")))

    def damaged(incident: Incident, telemetry: Telemetry) -> Recording:
        if all(telemetry.frames()[frame].is_empty() for frame in SOURCES[kept]):
            raise BadInput(f"incident {incident.id}", expected=f"{kept}, to keep them alone", found="none")
        alerts = telemetry.alerts
        incident, left = lose(incident, telemetry)
        own = alerts if kept == "alerts" else alerts.filter(pl.col("source") == _ALERTED_ON.get(kept, ""))
        return incident, replace(left, alerts=own)

    return damaged


# --- traces ---------------------------------------------------------------------------------------------------------------


def sampled_traces(share: float) -> Transform:
    """Keep a share of the traces, whole, chosen by a digest of their ids, as a head sampler does.

    Of spans that were summed as they arrived nobody knows any more which belong together: each of their counts is thinned by
    itself, which makes them noisier than a sampler would.
    """

    def sampled(incident: Incident, telemetry: Telemetry) -> Recording:
        ids = telemetry.spans["trace_id"].unique()
        kept = ids.filter(pl.Series([_digest(text) < share for text in ids], dtype=pl.Boolean))
        exemplars = telemetry.bin_exemplars
        remembered = pl.Series([_digest(text) < share for text in exemplars["trace_id"]], dtype=pl.Boolean)
        rng = np.random.default_rng(int(_digest(incident.id) * 2**48))
        frames: dict[str, Any] = {
            "spans": telemetry.spans.filter(pl.col("trace_id").is_in(kept.implode())),
            "bin_counts": _thinned(telemetry.bin_counts, share, rng),
            "bin_durations": _thinned(telemetry.bin_durations, share, rng),
            "bin_exemplars": exemplars.filter(remembered),
        }
        return incident, replace(telemetry, **frames)

    return sampled


def _thinned(frame: pl.DataFrame, share: float, rng: np.random.Generator) -> pl.DataFrame:
    counts = pl.Series("count", rng.binomial(frame["count"].to_numpy(), share), dtype=pl.Int64)
    return frame.with_columns(counts).filter(pl.col("count") > 0)


def binned(telemetry: Telemetry) -> Telemetry:
    """The same telemetry with its spans summed, as a store keeps them. Traces that span midnight UTC are cut there."""
    spans = cleaned(telemetry).spans
    if spans.is_empty():
        return telemetry
    days = pl.col("start_time_unix_nano") // _DAY_NS
    parts = [frames_of(spans.filter(days == day)) for day in spans.select(days).to_series().unique().sort()]
    summed: dict[str, Any] = {n: pl.concat([telemetry.frames()[n], *(p[n] for p in parts)]) for n in BIN_FRAMES}
    return replace(telemetry, spans=empty("spans"), **summed)


# --- services -------------------------------------------------------------------------------------------------------------


def unseen_services(share: float, *, called: bool, spared: bool = False) -> Transform:
    """A share of the services, and their pods, is not observed: no spans, metrics, logs, events or alerts of theirs.

    With `called` their callers still tell of the calls, to an address; otherwise nobody ever heard of them. With `spared` the
    causes are not among them, nor do they count. Raises BadInput where there is no service to lose.
    """

    def damaged(incident: Incident, telemetry: Telemetry) -> Recording:
        telemetry = binned(telemetry)
        causes = {joined_key(cause.name, cause.namespace) for cause in incident.causes()} if spared else set()
        lost = chosen(incident, services_of(telemetry) - causes, share)
        if not lost:
            raise BadInput(f"incident {incident.id}", expected="services, of which some can be lost", found="none")
        return incident, _without_services(telemetry, lost, called=called)

    return damaged


def services_of(telemetry: Telemetry) -> set[str]:
    """Keys of all services that some telemetry is of."""
    found = set(telemetry.bin_counts["source"].unique()) | set(telemetry.calls["caller"].unique())
    found |= set(telemetry.calls.filter(pl.col("callee_kind") == "service")["callee"].unique())
    for end in ("source", "target"):
        found |= set(telemetry.topology.filter(pl.col(f"{end}_kind") == "service")[end].unique())
    for name in ("metrics", "events", "logs", "alerts"):
        of_services = telemetry.frames()[name].filter(pl.col("entity_kind") == "service")
        found |= set(of_services.select(key(pl.col("entity"), pl.col("namespace"))).to_series().unique())
    return found


def pods_of(telemetry: Telemetry, services: Iterable[str]) -> set[str]:
    """Keys of the pods that run these services."""
    of_them = pl.col("source").is_in(list(services)) & (pl.col("relation") == "runs")
    placed = telemetry.bin_placement.filter(pl.col("service").is_in(list(services)))["pod"].drop_nulls()
    return set(telemetry.topology.filter(of_them)["target"].unique()) | set(placed.unique())


def _without_services(telemetry: Telemetry, lost: set[str], *, called: bool) -> Telemetry:
    services, pods = sorted(lost), sorted(pods_of(telemetry, lost))
    frames: dict[str, Any] = {}
    of_them = (pl.col("entity_kind") == "service") & key(pl.col("entity"), pl.col("namespace")).is_in(services)
    of_them |= (pl.col("entity_kind") == "pod") & pl.col("entity").is_in(pods)
    for name in ("metrics", "events", "logs", "alerts"):
        frames[name] = telemetry.frames()[name].filter(~of_them)
    if not called:
        frames["alerts"] = frames["alerts"].filter(pl.col("peer").is_null() | ~pl.col("peer").is_in(services))
    to_them = pl.col("callee").is_in(services) & (pl.col("callee_kind") == "service")
    measured_there = pl.col("metric").str.starts_with("call.server") if called else pl.lit(True)
    frames["calls"] = telemetry.calls.filter(~pl.col("caller").is_in(services) & ~(to_them & measured_there))
    known = pl.col("relation") == "calls" if called else pl.lit(False)
    aimed = pl.col("target").is_in(services) & (pl.col("target_kind") == "service") & ~known
    aimed |= pl.col("target").is_in(pods) & (pl.col("target_kind") == "pod")
    from_them = pl.col("source").is_in(services) & (pl.col("source_kind") == "service")
    from_them |= pl.col("source").is_in(pods) & (pl.col("source_kind") == "pod")
    frames["topology"] = telemetry.topology.filter(~(aimed | from_them))
    theirs = pl.col("target").is_in(services) & (pl.col("target_kind") == "service")
    addresses = pl.col("target_kind").is_in(["external", "database"]) & pl.col("target").is_in(_addresses_of(telemetry, lost))
    by_callers = pl.col("what").is_in(["call", "call_error", "client"]) if called else pl.lit(False)
    address = pl.when(theirs).then(pl.lit("external")).otherwise(pl.col("target_kind")).alias("target_kind")
    for name in ("bin_counts", "bin_durations"):
        others = telemetry.frames()[name].filter(~pl.col("source").is_in(services))
        others = others.filter(~theirs.fill_null(value=False) | by_callers).with_columns(address)
        frames[name] = others if called else others.filter(~addresses.fill_null(value=False))
    for name in ("bin_exemplars", "bin_placement"):
        frames[name] = telemetry.frames()[name].filter(~pl.col("service").is_in(services))
    return replace(telemetry, **frames)


def _addresses_of(telemetry: Telemetry, services: Iterable[str]) -> list[str]:
    """Addresses by which callers know these services, as rca.bins.with_known_peers reads them."""
    names = {split_key(service)[1] for service in services}
    addressed = telemetry.bin_counts.filter(pl.col("target_kind").is_in(["external", "database"]))["target"]
    return [target for target in addressed.unique() if re.split("[.:]", target)[0] in names]


# --- edges ----------------------------------------------------------------------------------------------------------------


def edges_of(telemetry: Telemetry) -> set[Edge]:
    """Who calls whom, by traces, by call rates, by alerts about calls and by the topology; of summed spans."""
    calls = telemetry.bin_counts.filter(pl.col("what") == "call").select("source", "target_kind", "target")
    found = {*calls.unique().iter_rows(), *telemetry.calls.select("caller", "callee_kind", "callee").unique().iter_rows()}
    alerts = telemetry.alerts.filter((pl.col("entity_kind") == "service") & pl.col("peer").is_not_null())
    found |= {
        (caller, "service", peer)
        for caller, peer in alerts.select(key(pl.col("entity"), pl.col("namespace")), "peer").unique().iter_rows()
    }
    stated = telemetry.topology.select("source", "relation", "target").unique()
    found |= {
        (source, _CALLEE_KINDS[relation], target) for source, relation, target in stated.iter_rows() if relation in _CALLEE_KINDS
    }
    return {edge for edge in found if edge[0] != edge[2]}


def edges_removed(share: float) -> Transform:
    """A share of the edges is unknown: calls whose context was not passed on, or that a map leaves out."""

    def damaged(incident: Incident, telemetry: Telemetry) -> Recording:
        telemetry = binned(telemetry)
        lost = _edges_to_change(incident, edges_of(telemetry), share)
        return incident, _with_edges(telemetry, dict.fromkeys(lost))

    return damaged


def edges_rewired(share: float) -> Transform:
    """A share of the edges ends somewhere else: everything told of that call is told of one to another entity of the kind."""

    def damaged(incident: Incident, telemetry: Telemetry) -> Recording:
        telemetry = binned(telemetry)
        edges = edges_of(telemetry)
        elsewhere: dict[Edge, list[str]] = {}
        for source, kind, target in edges:
            alike = {edge[2] for edge in edges if edge[1] == kind}
            taken = {edge[2] for edge in edges if edge[:2] == (source, kind)}
            if free := sorted(alike - taken - {source}):
                elsewhere[source, kind, target] = free
        wrong = _edges_to_change(incident, set(elsewhere), share, of=len(edges))
        ends = {edge: min(elsewhere[edge], key=lambda name: _digest(f"{incident.id} {edge} {name}")) for edge in wrong}
        return incident, _with_edges(telemetry, ends)

    return damaged


def edges_added(share: float) -> Transform:
    """As many edges as that share that nobody ever called along: an outdated map in the topology."""

    def damaged(incident: Incident, telemetry: Telemetry) -> Recording:
        telemetry = binned(telemetry)
        edges, services = edges_of(telemetry), services_of(telemetry)
        absent = {(a, "service", b) for a in services for b in services if a != b and (a, "service", b) not in edges}
        invented = _edges_to_change(incident, absent, share, of=len(edges))
        columns = {"source_kind": "service", "relation": "calls", "target_kind": "service"}
        rows = pl.DataFrame([columns | {"source": a, "target": b} for a, _, b in sorted(invented)])
        return incident, replace(telemetry, topology=pl.concat([telemetry.topology, rows.select(telemetry.topology.columns)]))

    return damaged


def _edges_to_change(incident: Incident, edges: set[Edge], share: float, of: int | None = None) -> set[Edge]:
    """As many of the edges as that share of all, `of`, at least one. Raises BadInput if there is none."""
    if not edges or of == 0:
        raise BadInput(f"incident {incident.id}", expected="calls, of which some can be wrong", found="none")
    by_text = {" ".join(edge): edge for edge in edges}
    return {by_text[text] for text in chosen(incident, by_text, share, of)}


def _with_edges(telemetry: Telemetry, ends: Mapping[Edge, str | None]) -> Telemetry:
    """Telemetry in which these edges end elsewhere, or are gone: None."""
    rows = [(source, kind, target, end, True) for (source, kind, target), end in ends.items()]
    schema = {"_source": pl.String, "_kind": pl.String, "_target": pl.String, "_end": pl.String, "_wrong": pl.Boolean}
    table = pl.DataFrame(rows, schema=schema, orient="row")

    def changed(name: str, source: pl.Expr, kind: pl.Expr, target: str) -> pl.DataFrame:
        frame = telemetry.frames()[name]
        joined = frame.with_columns(source.alias("_source"), kind.alias("_kind"), pl.col(target).alias("_target")).join(
            table, on=["_source", "_kind", "_target"], how="left", maintain_order="left"
        )
        left = joined.filter(pl.col("_wrong").is_null() | pl.col("_end").is_not_null())
        return left.with_columns(pl.coalesce("_end", target).alias(target)).select(frame.columns)

    kind_of_relation = pl.col("relation").replace_strict(_CALLEE_KINDS, default=None, return_dtype=pl.String)
    caller = pl.when(pl.col("entity_kind") == "service").then(key(pl.col("entity"), pl.col("namespace")))
    return replace(
        telemetry,
        bin_counts=changed("bin_counts", pl.col("source"), pl.col("target_kind"), "target"),
        bin_durations=changed("bin_durations", pl.col("source"), pl.col("target_kind"), "target"),
        calls=changed("calls", pl.col("caller"), pl.col("callee_kind"), "callee"),
        alerts=changed("alerts", caller, pl.lit("service"), "peer"),
        topology=changed("topology", pl.col("source"), kind_of_relation, "target"),
    )


# --- times and names ------------------------------------------------------------------------------------------------------


def onset_believed(seconds: int) -> Transform:
    """Believe that the fault began so much later than it did, or earlier; the window still ends when it did.

    Baselines that precede it move along, as far as the recording reaches back: one that is taken too late holds the fault.
    Raises BadInput where less than half a minute is left of the window, or of every baseline.
    """
    shift = seconds * SECOND_NS

    def moved(incident: Incident, telemetry: Telemetry) -> Recording:
        start_ns, end_ns = incident.window.start_ns + shift, incident.window.end_ns
        reach_ns = min((b.start_ns for b in incident.baselines), default=0)
        baselines = [b for b in (_shifted(b, shift, reach_ns) for b in incident.baselines) if b is not None]
        if end_ns - start_ns < LEAST_STRETCH_NS or (incident.baselines and not baselines):
            expected = f"{LEAST_STRETCH_NS // SECOND_NS} s of the incident, and before it, with the onset {seconds:+d} s off"
            raise BadInput(f"incident {incident.id}", expected=expected, found="less")
        window = IntervalModel(start_ns=start_ns, end_ns=end_ns)
        onset = None if incident.onset_ns is None else incident.onset_ns + shift
        return incident.model_copy(update={"window": window, "baselines": tuple(baselines), "onset_ns": onset}), telemetry

    return moved


def _shifted(baseline: BaselineModel, shift_ns: int, reach_ns: int) -> BaselineModel | None:
    if baseline.provenance != "preceding":
        return baseline
    start_ns, end_ns = max(baseline.start_ns + shift_ns, reach_ns), baseline.end_ns + shift_ns
    if end_ns - start_ns < LEAST_STRETCH_NS:
        return None
    return baseline.model_copy(update={"start_ns": start_ns, "end_ns": end_ns})


def renamed(incident: Incident, telemetry: Telemetry) -> Recording:
    """Every service, pod, node, operation and so on under an opaque name, the same one wherever it stands, labels included."""
    return redacted(incident, telemetry, _SALT)


# --- chance ---------------------------------------------------------------------------------------------------------------


def chosen(incident: Incident, names: Iterable[str], share: float, of: int | None = None) -> set[str]:
    """That share of the names, or of `of` many, rounded, at least one if there is any: those of the least digests."""
    ordered = sorted(names, key=lambda name: (_digest(f"{incident.id} {name}"), name))
    return set(ordered[: max(1, round(share * (len(ordered) if of is None else of)))])


def _digest(text: str) -> float:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big") / 2**48


DAMAGES: Final[dict[str, Transform]] = {
    "no-metrics-nor-calls": losing("metrics"),
    "no-logs-nor-events": losing("logs", "events"),
    "no-events": losing("events"),
    "no-alerts": losing("alerts"),
    **{f"only-{source}": only(source) for source in SOURCES},
    "traces-5%": sampled_traces(0.05),
    "silent-20%": unseen_services(0.2, called=True),
    "silent-20%-others": unseen_services(0.2, called=True, spared=True),
    "gone-20%": unseen_services(0.2, called=False),
    "gone-20%-others": unseen_services(0.2, called=False, spared=True),
    "edges-removed-20%": edges_removed(0.2),
    "edges-rewired-20%": edges_rewired(0.2),
    "edges-added-20%": edges_added(0.2),
    "onset-1m": onset_believed(-60),
    "onset+1m": onset_believed(60),
    "onset-3m": onset_believed(-180),
    "onset+3m": onset_believed(180),
    "renamed": renamed,
}
"""By name, as `rca evaluate --transform` takes them."""
