"""How far every signal of every entity strays from its baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rca.graph import Indices
from rca.telemetry import EntityId


@dataclass(frozen=True, eq=False)
class Deviations:
    """Deviations of one stretch of time from its baseline.

    Shapes: N entities, S node signals, E edges of a relation, D edge signals. Values are directed robust z (signed where the
    signal counts both ways), NaN where the signal was not observed.
    """

    entities: tuple[EntityId, ...]
    edges: Mapping[str, Indices]  # relation -> (2, E)
    node: npt.NDArray[np.float64]  # (N, S)
    slope: npt.NDArray[np.float64]  # (N, S), z per minute
    edge: Mapping[str, npt.NDArray[np.float64]]  # relation -> (E, D)
