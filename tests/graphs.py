"""Random service graphs for tests and benchmarks: invented systems with a culprit whose symptoms travel to its callers."""

from __future__ import annotations

import numpy as np

from rca.graph import RELATIONS, ServiceGraph
from rca.telemetry import ENTITY_KINDS, EntityId, EntityKind

CLASSES = ("cpu", "memory", "latency", "self", "errors", "gap")
FEATURES = ("floor", *(f"{signal}.{part}" for signal in CLASSES for part in ("mean", "slope", "rank")))
EDGE_FEATURES = ("gap.mean", "latency.mean", "rate.ratio")


def random_graph(
    rng: np.random.Generator,
    services: int = 8,
    *,
    others: dict[EntityKind, int] | None = None,
    edges_per_service: float = 2.0,
    culprit: int | None = None,
    features: tuple[str, ...] = FEATURES,
    edge_features: tuple[str, ...] = EDGE_FEATURES,
) -> ServiceGraph:
    """A graph of services and, if asked for, entities of other kinds. The culprit (a row) is loud, its callers louder."""
    counts = {"service": services, **(others or {})}
    entities = tuple(EntityId(kind, f"{kind}-{i}") for kind in ENTITY_KINDS for i in range(counts.get(kind, 0)))
    kinds = [entity.kind for entity in entities]
    n, f, d = len(entities), len(features), len(edge_features)
    available = rng.random((n, f)) > 0.1
    available[:, features.index("floor")] = True
    values = rng.normal(0, 0.5, (n, f)).astype(np.float32)
    edges, attrs, edge_available = {}, {}, {}
    for relation, (source_kind, target_kind) in RELATIONS.items():
        sources = [row for row, kind in enumerate(kinds) if kind == source_kind]
        targets = [row for row, kind in enumerate(kinds) if kind == target_kind]
        if not sources or not targets or relation == "consumes":
            continue
        pairs = {(int(s), int(t)) for s, t in rng.integers(0, [len(sources), len(targets)], (int(n * edges_per_service), 2))}
        chosen = np.array([(sources[s], targets[t]) for s, t in sorted(pairs) if sources[s] != targets[t]], dtype=np.int64)
        if not len(chosen):
            continue
        edges[relation] = chosen.T.copy()
        attrs[relation] = rng.normal(0, 0.5, (len(chosen), d)).astype(np.float32)
        edge_available[relation] = rng.random((len(chosen), d)) > 0.1
    if culprit is not None:
        loud = rng.choice([i for i, name in enumerate(features) if name.endswith(".mean")], size=2, replace=False)
        values[culprit, loud] += 3
        calls = edges.get("calls", np.zeros((2, 0), dtype=np.int64))
        callers = calls[0, calls[1] == culprit]
        values[np.ix_(callers, loud)] += 3.5  # louder than the cause: only the edges tell them apart
    values[:, features.index("floor")] = values[:, [i for i, name in enumerate(features) if name.endswith(".mean")]].max(axis=1)
    for relation, attr in attrs.items():
        attr[~edge_available[relation]] = 0
    values[~available] = 0
    return ServiceGraph(entities, features, values, available, edges, edge_features, attrs, edge_available).validate()


def permuted(graph: ServiceGraph, rng: np.random.Generator) -> tuple[ServiceGraph, np.ndarray]:
    """The same graph with its entities in another order within their kinds, and edges in another order; new row of every row."""
    order = np.concatenate([rng.permutation(np.flatnonzero(graph.kinds == kind)) for kind in np.unique(graph.kinds)])
    place = np.argsort(order)
    shuffled = {relation: rng.permutation(index.shape[1]) for relation, index in graph.edges.items()}
    moved = ServiceGraph(
        tuple(graph.entities[row] for row in order),
        graph.feature_names,
        graph.features[order],
        graph.available[order],
        {relation: place[index][:, shuffled[relation]] for relation, index in graph.edges.items()},
        graph.edge_feature_names,
        {relation: attr[shuffled[relation]] for relation, attr in graph.edge_features.items()},
        {relation: mask[shuffled[relation]] for relation, mask in graph.edge_available.items()},
    )
    return moved.validate(), place
