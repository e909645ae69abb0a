"""Deviations to a service graph with named features. Every feature is relative to the system's own quiet times; none is a name.

The tables NODE_FEATURES and EDGE_FEATURES give every feature its unit, formula and reason; docs/features.md is generated from
them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from rca.deviations import Deviations
from rca.graph import CALL_RELATIONS, ServiceGraph
from rca.signals import EDGE_SIGNALS, NODE_COLUMN, NODE_SIGNALS
from rca.telemetry import CANDIDATE_KINDS, EntityId

Array = npt.NDArray[np.float64]

FLOOR_FEATURE: Final = "floor"

_CLASS_QUANTILE, _OWN_QUANTILE = 0.8, 0.85
_CLASS_SHARE, _OWN_SHARE = 0.6, 0.4
_LEAST_THRESHOLD: Final = 0.7
_UNCALIBRATED_THRESHOLD: Final = float(np.log1p(2.0))  # two robust standard deviations, where no quiet stretch tells better
_ALERT_THRESHOLD: Final = 0.35  # half of ln(1 + 1): a single alert counts, and counts little
_ABOVE_RANGE: Final = (-3.0, 8.0)
_OFF_PATH: Final = 4.0
_TOTAL_WEIGHT, _CALLEE_WEIGHT = 0.5, 0.25
_SLOPED: Final = ("cpu", "memory", "disk", "network")


@dataclass(frozen=True)
class Feature:
    """One column of the graph's features. The part of the name before the dot is the class that is dropped as a whole."""

    name: str
    unit: str
    formula: str
    reason: str


def _node_features() -> tuple[Feature, ...]:
    table = []
    for signal in NODE_SIGNALS:
        n = signal.name
        table.append(
            Feature(f"{n}.z", "ln(1 + z)", f"sign(z) ln(1 + |z|), z: {signal.formula}", f"how far {signal.title} strays")
        )
        table.append(
            Feature(
                f"{n}.above", "ln(1 + z)", "ln(1 + |z|) - threshold of quiet times", "loud for this system, not loud in general"
            )
        )
        table.append(Feature(f"{n}.rank", "1", "mid-rank of |z| among candidates, 0 to 1", "who is loudest, whatever the scale"))
        if n in _SLOPED:
            table.append(Feature(f"{n}.slope", "ln(1 + z/min)", "sign ln(1 + |z per minute|)", "a leak climbs, a burst does not"))
    table += [
        Feature(FLOOR_FEATURE, "ln(1 + z)", "own.loudest + 0.5 own.total - 0.25 callees.loudest", "the label-free score"),
        Feature(
            "own.loudest",
            "ln(1 + z)",
            "largest .above among floor signals, less 4 off the request path and less 4 where none is observed",
            "one clear signal must not drown in many vague ones",
        ),
        Feature("own.total", "ln(1 + z)", "sum of positive .above among floor signals", "breadth of the disturbance"),
        Feature(
            "callees.loudest", "ln(1 + z)", "largest own.loudest among callees, at least 0", "a loud callee explains its callers"
        ),
        Feature("callers.loudest", "ln(1 + z)", "largest own.loudest among callers, at least 0", "a victim's callers suffer too"),
        Feature(
            "callees.share", "1", "share of callees with a positive own.loudest", "many disturbed callees: a shared cause above"
        ),
        Feature("callers.share", "1", "share of callers with a positive own.loudest", "every caller disturbed: the callee"),
        Feature("path.on", "1", "1 if some call edge touches it", "bystanders are loud for their own reasons"),
        Feature("path.in_degree", "ln(1 + n)", "callers", "hubs are disturbed more often than guilty"),
        Feature("path.out_degree", "ln(1 + n)", "callees", "leaves cannot be victims of callees"),
    ]
    return tuple(table)


NODE_FEATURES: Final = _node_features()
EDGE_FEATURES: Final = tuple(
    Feature(f"{signal.name}.z", "ln(1 + z)", f"sign(z) ln(1 + |z|), z: {signal.formula}", signal.title) for signal in EDGE_SIGNALS
)
NODE_FEATURE_NAMES: Final = tuple(feature.name for feature in NODE_FEATURES)
EDGE_FEATURE_NAMES: Final = tuple(feature.name for feature in EDGE_FEATURES)
_POSITION: Final = {name: position for position, name in enumerate(NODE_FEATURE_NAMES)}
_Z_COLUMNS: Final = np.array([_POSITION[f"{s.name}.z"] for s in NODE_SIGNALS])
_ABOVE_COLUMNS: Final = np.array([_POSITION[f"{s.name}.above"] for s in NODE_SIGNALS])
_RANK_COLUMNS: Final = np.array([_POSITION[f"{s.name}.rank"] for s in NODE_SIGNALS])
_SLOPE_COLUMNS: Final = np.array([_POSITION[f"{name}.slope"] for name in _SLOPED])
_SLOPED_SIGNALS: Final = np.array([NODE_COLUMN[name] for name in _SLOPED])

FLOOR_SIGNALS: Final = (
    "cpu",
    "memory",
    "disk",
    "sockets",
    "metric_errors",
    "metric_gap",
    "quiet_callees",
    "latency_residual",
    "success_residual",
    "self_time",
    "leaf_latency",
    "gap_in",
    "gap_out",
    "own_errors",
    "unanswered_calls",
    "traffic",
    "vanished_calls",
    "vanished_templates",
    "new_templates",
    "error_lines",
    "warnings",
    "changes",
)
"""Signals the label-free score listens to: those that speak of the entity alone. Inclusive latency and error signals are left to
their exclusive counterparts (self time, residuals, gaps, own errors), since a victim shows them just as the culprit does; network
bytes mirror load."""

ALERT_SIGNALS: Final = ("alert_novelty", "alert_rarity")
"""What the label-free score listens to where alerts are all there is, the first that is known: alerts restate what the other
signals measure, and one that fires every day says little."""

_FLOOR_COLUMNS: Final = np.array([NODE_COLUMN[name] for name in FLOOR_SIGNALS])
_ALERT_COLUMNS: Final = tuple(np.array([NODE_COLUMN[name]]) for name in ALERT_SIGNALS)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Thresholds on ln(1 + |z|) per entity and signal, (N, S), read off quiet stretches of the same system."""

    threshold: Array

    @classmethod
    def of(cls, quiet: Sequence[Deviations], like: Deviations) -> Calibration:
        """0.6 x (80th percentile over stretches of the loudest entity on the path) + 0.4 x (85th percentile of the entity's own).

        Without quiet stretches: two robust standard deviations. `quiet` must have the entities of `like`, in its order.
        """
        fallback = np.where([s.source == "alerts" for s in NODE_SIGNALS], _ALERT_THRESHOLD, _UNCALIBRATED_THRESHOLD)
        if not quiet:
            return cls(np.broadcast_to(fallback, like.node.shape))
        loudness = np.log1p(np.abs(np.stack([stretch.node for stretch in quiet])))  # (Q, N, S)
        on_path = path_members(like)
        with np.errstate(invalid="ignore"):
            loudest = _nan_reduce(np.fmax, loudness[:, on_path], axis=1)  # (Q, S)
            of_class = _nan_quantile(loudest, _CLASS_QUANTILE)  # (S,)
            own = _nan_quantile(loudness, _OWN_QUANTILE)  # (N, S)
        own = np.where(np.isfinite(own), own, of_class)
        threshold = np.maximum(_CLASS_SHARE * of_class + _OWN_SHARE * own, _LEAST_THRESHOLD)
        return cls(np.where(np.isfinite(threshold), threshold, fallback))


def _nan_reduce(function: np.ufunc, values: Array, axis: int) -> Array:
    if values.shape[axis] == 0:
        return np.full(np.delete(values.shape, axis), np.nan)
    reduced: Array = function.reduce(values, axis=axis)
    return reduced


def _nan_quantile(values: Array, share: float) -> Array:
    """Quantile over axis 0 that ignores NaN; NaN where nothing is left. Linear interpolation."""
    ordered = np.sort(values, axis=0)  # NaN sorts last
    n = np.isfinite(values).sum(axis=0)
    position = np.maximum(n - 1, 0) * share
    low = np.floor(position).astype(int)
    high = np.minimum(low + 1, np.maximum(n - 1, 0))
    a = np.take_along_axis(ordered, low[None], axis=0)[0]
    b = np.take_along_axis(ordered, high[None], axis=0)[0]
    quantile: Array = a + (b - a) * (position - low)
    return quantile


def path_members(deviations: Deviations) -> npt.NDArray[np.bool_]:
    """Entities that some call edge touches, and the pods and nodes that run them, (N,); everybody where no call is known."""
    on_path = np.zeros(len(deviations.entities), dtype=bool)
    for relation in CALL_RELATIONS:
        edges = deviations.edges.get(relation)
        if edges is not None:
            on_path[edges.ravel()] = True
    for relation in ("runs", "hosted_on"):
        edges = deviations.edges.get(relation)
        if edges is not None:
            on_path[edges[1][on_path[edges[0]]]] = True
    return on_path if on_path.any() else np.ones_like(on_path)


def graph_of(deviations: Deviations, calibration: Calibration) -> ServiceGraph:
    """The service graph of one stretch of time. N entities, F = len(NODE_FEATURES), D = len(EDGE_FEATURES)."""
    z = deviations.node
    seen = np.isfinite(z)
    loudness = np.where(seen, np.log1p(np.abs(z)), 0.0)
    above = np.where(seen, np.clip(loudness - calibration.threshold, *_ABOVE_RANGE), np.nan)
    candidates = np.array([entity.kind in CANDIDATE_KINDS for entity in deviations.entities], dtype=bool)
    n = len(deviations.entities)
    features = np.full((n, len(NODE_FEATURES)), np.nan)
    features[:, _Z_COLUMNS] = np.where(seen, np.sign(np.where(seen, z, 0.0)) * loudness, np.nan)
    features[:, _ABOVE_COLUMNS] = above
    features[:, _RANK_COLUMNS] = _mid_ranks(np.where(seen, loudness, np.nan), candidates)
    slope = deviations.slope[:, _SLOPED_SIGNALS]
    features[:, _SLOPE_COLUMNS] = np.sign(slope) * np.log1p(np.abs(slope))
    for name, values in _context(deviations, above).items():
        features[:, _POSITION[name]] = values
    available = np.isfinite(features)
    edge_features, edge_available = {}, {}
    for relation in deviations.edges:
        values = deviations.edge[relation]
        known = np.isfinite(values)
        squashed = np.where(known, np.sign(values) * np.log1p(np.abs(np.where(known, values, 0.0))), 0.0)
        edge_features[relation] = squashed.astype(np.float32)
        edge_available[relation] = known
    return ServiceGraph(
        entities=deviations.entities,
        feature_names=NODE_FEATURE_NAMES,
        features=np.where(available, features, 0.0).astype(np.float32),
        available=available,
        edges=deviations.edges,
        edge_feature_names=EDGE_FEATURE_NAMES,
        edge_features=edge_features,
        edge_available=edge_available,
    ).validate()


def quiet_graph(quiet: Sequence[Deviations], place: int, changed: Deviations | None = None) -> ServiceGraph:
    """The graph of one quiet stretch, or of what was made of it, calibrated on the other stretches as an incident is on all."""
    kept, key = _quiet_graphs.get(), (*map(id, quiet), place)
    if kept is not None and changed is None and key in kept:
        return kept[key]
    deviations = changed or quiet[place]
    others = [stretch for i, stretch in enumerate(quiet) if i != place]
    graph = graph_of(deviations, Calibration.of(others, deviations))
    if kept is not None and changed is None:
        kept[key] = graph
    return graph


QuietGraphs = dict[tuple[int, ...], ServiceGraph]
_quiet_graphs: ContextVar[QuietGraphs | None] = ContextVar("quiet graphs", default=None)


@contextmanager
def remembering(graphs: QuietGraphs) -> Iterator[None]:
    """Inside, graphs of quiet stretches are built once and kept in `graphs`, for who asks again and again about the same ones.

    They are known by identity: the stretches must live as long as `graphs` does.
    """
    token = _quiet_graphs.set(graphs)
    try:
        yield
    finally:
        _quiet_graphs.reset(token)


def _context(deviations: Deviations, above: Array) -> dict[str, Array]:
    """Features of an entity that depend on its neighbours, and the label-free score."""
    n = len(deviations.entities)
    heard = above[:, floor_columns(above)]
    silent = ~np.isfinite(heard).any(axis=1)
    loudest = np.where(silent, 0.0, np.max(np.where(np.isfinite(heard), heard, -np.inf), axis=1, initial=-np.inf))
    loudest = np.where(np.isfinite(loudest), loudest, 0.0)
    total = np.where(np.isfinite(heard), np.maximum(heard, 0.0), 0.0).sum(axis=1)
    on_path = path_members(deviations)
    own = loudest - np.where(on_path, 0.0, _OFF_PATH)
    # An entity that nothing was observed of is neither loud nor cleared: it ranks below everything that was observed.
    own = np.where(silent, own - _OFF_PATH, own)
    calls = [deviations.edges[r] for r in CALL_RELATIONS if r in deviations.edges and r != "consumes"]
    caller, callee = np.concatenate(calls, axis=1) if calls else np.zeros((2, 0), dtype=np.int64)
    in_degree, out_degree = np.bincount(callee, minlength=n), np.bincount(caller, minlength=n)
    disturbed = (loudest > 0).astype(float)
    callees_loudest, callers_loudest = np.zeros(n), np.zeros(n)
    np.maximum.at(callees_loudest, caller, own[callee])
    np.maximum.at(callers_loudest, callee, own[caller])
    callees_share = np.bincount(caller, weights=disturbed[callee], minlength=n) / np.maximum(out_degree, 1)
    callers_share = np.bincount(callee, weights=disturbed[caller], minlength=n) / np.maximum(in_degree, 1)
    return {
        FLOOR_FEATURE: own + _TOTAL_WEIGHT * total - _CALLEE_WEIGHT * callees_loudest,
        "own.loudest": own,
        "own.total": total,
        "callees.loudest": np.where(out_degree > 0, callees_loudest, np.nan),
        "callers.loudest": np.where(in_degree > 0, callers_loudest, np.nan),
        "callees.share": np.where(out_degree > 0, callees_share, np.nan),
        "callers.share": np.where(in_degree > 0, callers_share, np.nan),
        "path.on": on_path.astype(float),
        "path.in_degree": np.log1p(in_degree),
        "path.out_degree": np.log1p(out_degree),
    }


def heard_signals(graph: ServiceGraph) -> tuple[str, ...]:
    """Signals that the label-free score listens to in this graph, in the order of NODE_SIGNALS."""
    above = np.where(graph.available[:, _ABOVE_COLUMNS], graph.features[:, _ABOVE_COLUMNS], np.nan)
    return tuple(NODE_SIGNALS[column].name for column in floor_columns(above))


def floor_columns(above: Array) -> npt.NDArray[np.int64]:
    """Signals that the label-free score listens to in this graph."""
    choices = (_FLOOR_COLUMNS, *_ALERT_COLUMNS)
    return next((columns for columns in choices if np.isfinite(above[:, columns]).any()), _FLOOR_COLUMNS)


def _mid_ranks(loudness: Array, candidates: npt.NDArray[np.bool_]) -> Array:
    """Share of the other candidates that are quieter, ties counting half, (N, S); NaN where unobserved or no candidate."""
    ranks = np.full_like(loudness, np.nan)
    for column in range(loudness.shape[1]):
        rows = np.flatnonzero(candidates & np.isfinite(loudness[:, column]))
        if len(rows) < 2:
            continue
        values = loudness[rows, column]
        ordered = np.sort(values)
        below, upto = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
        ranks[rows, column] = (below + (upto - below - 1) / 2) / (len(rows) - 1)
    return ranks


def loudest_signals(graph: ServiceGraph, rows: Sequence[int]) -> list[str | None]:
    """Name of the signal that strays furthest above its threshold at each of the rows, None where none does."""
    above = np.where(graph.available[:, _ABOVE_COLUMNS], graph.features[:, _ABOVE_COLUMNS], np.nan)
    columns = floor_columns(above)
    values = above[np.ix_(np.asarray(rows, dtype=np.int64), columns)]
    values = np.where(np.isfinite(values), values, -np.inf)
    best = values.argmax(axis=1)
    return [NODE_SIGNALS[columns[b]].name if values[i, b] > 0 else None for i, b in enumerate(best)]


def entity_rows(graph: ServiceGraph, entities: Sequence[EntityId]) -> list[int]:
    """Rows of entities, those the graph lacks left out."""
    return [graph.rows[entity] for entity in entities if entity in graph.rows]
