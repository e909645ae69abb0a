"""What goes into the exported ranking and what comes out: names, shapes and the arrays of one service graph.

Shapes: N nodes, F node features, C candidates, K families; per relation E edges and D edge features. Every number of rows may be
0. Features come as float32; the graph computes in float64, so that six printed decimals depend on no engine.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from rca.arrays import arrays_of
from rca.graph import RELATIONS, ServiceGraph
from rca.telemetry import ENTITY_KINDS

NODES: Final = ("features", "available", "candidates")
"""Inputs (N, F) float32, (N, F) bool and (C,) int64, rows of the nodes that may be named."""

OUTPUTS: Final = ("score", "null", "family", "probability")
"""(C,) logits, (1,) logit of "no fault", (C, K) probabilities, and (C+1,) calibrated probabilities with "no fault" last."""


def rows_input(kind: str) -> str:
    """Input that holds the rows of the nodes of a kind, (n,) int64."""
    return f"rows.{kind}"


def edge_inputs(relation: str) -> tuple[str, str, str]:
    """Inputs of a relation: (2, E) int64 source over target row, (E, D) float32 and (E, D) bool."""
    return f"{relation}.edges", f"{relation}.features", f"{relation}.available"


def input_names() -> tuple[str, ...]:
    """Every input. Models without edges have none of the relations'."""
    relations = (name for relation in RELATIONS for name in edge_inputs(relation))
    return (*NODES, *map(rows_input, ENTITY_KINDS), *relations)


def feeds(graph: ServiceGraph) -> dict[str, npt.NDArray[Any]]:
    """Every input of the exported ranking for one graph, by name. Raises BadGraph."""
    flat = arrays_of([graph])
    found: dict[str, npt.NDArray[Any]] = dict(zip(NODES, (flat.x, flat.available, flat.candidate), strict=True))
    found |= {rows_input(kind): np.flatnonzero(flat.kind == row).astype(np.int64) for row, kind in enumerate(ENTITY_KINDS)}
    d = len(flat.schema.edge_features)
    for relation in RELATIONS:
        edges, features, available = edge_inputs(relation)
        found[edges] = flat.edge_index.get(relation, np.zeros((2, 0), dtype=np.int64))
        found[features] = flat.edge_attr.get(relation, np.zeros((0, d), dtype=np.float32))
        found[available] = flat.edge_available.get(relation, np.zeros((0, d), dtype=np.bool_))
    return found
