"""The service graph: typed entities, typed edges, named features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from rca.errors import BadGraph
from rca.telemetry import CANDIDATE_KINDS, ENTITY_KINDS, EntityId

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]

RELATIONS: Final[dict[str, tuple[str, str]]] = {
    "calls": ("service", "service"),
    "queries": ("service", "database"),
    "publishes": ("service", "queue"),
    "consumes": ("service", "queue"),
    "requests": ("service", "external"),
    "replicates": ("service", "service"),
    "runs": ("service", "pod"),
    "hosted_on": ("pod", "node"),
}
"""Relation to (kind of source, kind of target). Models add the reverse of each as a relation of its own."""

CALL_RELATIONS: Final = ("calls", "queries", "publishes", "consumes", "requests")
"""Relations along which a request travels from source to target and symptoms travel back."""


@dataclass(frozen=True, eq=False)
class ServiceGraph:
    """Entities of one window with their features and relations.

    Shapes: N entities sorted by (kind in ENTITY_KINDS order, then any order), F node features, E edges of a relation, D edge
    features. A value whose `available` flag is False carries 0 and means "not observed".
    """

    entities: tuple[EntityId, ...]
    feature_names: tuple[str, ...]
    features: Floats  # (N, F)
    available: Bools  # (N, F)
    edges: Mapping[str, Indices]  # relation -> (2, E): rows of source and target
    edge_feature_names: tuple[str, ...]
    edge_features: Mapping[str, Floats]  # relation -> (E, D)
    edge_available: Mapping[str, Bools]  # relation -> (E, D)

    @cached_property
    def kinds(self) -> npt.NDArray[np.int8]:
        """Row of each entity's kind in ENTITY_KINDS, (N,)."""
        order = {kind: i for i, kind in enumerate(ENTITY_KINDS)}
        return np.array([order[entity.kind] for entity in self.entities], dtype=np.int8)

    @cached_property
    def rows(self) -> Mapping[EntityId, int]:
        """Row of every entity."""
        return {entity: row for row, entity in enumerate(self.entities)}

    @cached_property
    def owners(self) -> Mapping[int, int]:
        """Row of a pod to the row of the service that runs it."""
        pairs = self.edges.get("runs", np.zeros((2, 0), dtype=np.int64))
        return dict(zip(pairs[1].tolist(), pairs[0].tolist(), strict=True))

    @cached_property
    def candidate_rows(self) -> Indices:
        """Rows that may be named as a cause, (C,)."""
        allowed = [ENTITY_KINDS.index(kind) for kind in CANDIDATE_KINDS]
        return np.flatnonzero(np.isin(self.kinds, allowed)).astype(np.int64)

    @property
    def candidates(self) -> tuple[EntityId, ...]:
        """Entities that may be named as a cause, in row order."""
        return tuple(self.entities[row] for row in self.candidate_rows)

    def column(self, feature: str) -> Floats:
        """One node feature, (N,), zeros where unavailable."""
        column: Floats = self.features[:, self.feature_names.index(feature)]
        return column

    def call_edges(self) -> Indices:
        """Every edge along which requests travel, caller row over callee row, (2, E)."""
        present = [self.edges[relation] for relation in CALL_RELATIONS if relation in self.edges]
        return np.concatenate(present, axis=1) if present else np.zeros((2, 0), dtype=np.int64)

    def validate(self) -> ServiceGraph:
        """Return self. Raises BadGraph naming what was expected and found."""
        n, f, d = len(self.entities), len(self.feature_names), len(self.edge_feature_names)
        _expect("entities", "distinct", len(set(self.entities)) == n, "duplicates")
        _expect("entities", "sorted by kind", bool(np.all(np.diff(self.kinds) >= 0)), "another order")
        _expect_shape("features", self.features, (n, f))
        _expect_shape("available", self.available, (n, f))
        _expect("features", "finite numbers", bool(np.isfinite(self.features).all()), "NaN or infinity")
        _expect("features", "0 where not available", not self.features[~self.available].any(), "other values")
        for relation, edges in self.edges.items():
            if relation not in RELATIONS:
                raise BadGraph("relations", expected=", ".join(RELATIONS), found=relation)
            source_kind, target_kind = RELATIONS[relation]
            e = edges.shape[1] if edges.ndim == 2 else -1
            _expect_shape(f"edges.{relation}", edges, (2, e))
            _expect_shape(f"edge_features.{relation}", self.edge_features[relation], (e, d))
            _expect_shape(f"edge_available.{relation}", self.edge_available[relation], (e, d))
            finite = bool(np.isfinite(self.edge_features[relation]).all())
            _expect(f"edge_features.{relation}", "finite numbers", finite, "NaN or infinity")
            inside = e == 0 or (edges.min() >= 0 and edges.max() < n)
            _expect(f"edges.{relation}", f"rows in [0, {n})", bool(inside), "others")
            for end, kind in ((0, source_kind), (1, target_kind)):
                right = bool((self.kinds[edges[end]] == ENTITY_KINDS.index(kind)).all())
                _expect(f"edges.{relation}", f"{kind} at end {end}", right, "another kind")
        return self


def _expect(where: str, expected: str, holds: bool, found: str) -> None:
    if not holds:
        raise BadGraph(where, expected=expected, found=found)


def _expect_shape(where: str, array: npt.NDArray[np.generic], shape: tuple[int, ...]) -> None:
    _expect(where, f"shape {shape}", array.shape == shape, f"shape {array.shape}")
