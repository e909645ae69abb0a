"""A case as a system would know it that records less: what is learnt must not hang on what one system happens to record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from rca.contracts import Case, LabelledCase
from rca.deviations import Deviations
from rca.features import Calibration, graph_of
from rca.signals import EDGE_SIGNALS, NODE_SIGNALS

VIEWS: Final = (
    ("metrics", "alerts"),
    ("metrics",),
    ("spans", "logs", "events"),
    ("spans", "metrics"),
    ("spans",),
    ("metrics", "logs", "events", "alerts"),
    ("alerts",),
)
"""Modalities that are left."""


def view(case: Case, modalities: Sequence[str]) -> Case:
    """The case as a system would know it that records these modalities alone; relations stay known."""
    deviations = _limited(case.deviations, modalities)
    quiet = tuple(_limited(stretch, modalities) for stretch in case.quiet)
    return Case(case.window, deviations, quiet, graph_of(deviations, Calibration.of(quiet, deviations)))


def views_of(cases: Sequence[LabelledCase]) -> list[list[LabelledCase]]:
    """The cases as they are, and in every view those of which something is still observed at the cause."""
    found = [list(cases)]
    for modalities in VIEWS:
        seen = [replace(labelled, case=view(labelled.case, modalities)) for labelled in cases]
        found.append([labelled for labelled in seen if speaks_of(labelled.case, labelled)])
    return found


def speaks_of(case: Case, labelled: LabelledCase) -> bool:
    """True if something was observed, of the cause if there is one: else nobody could tell, or learn to."""
    rows = [case.graph.rows[cause] for cause in labelled.causes if cause in case.graph.rows]
    observed = np.isfinite(case.deviations.node)
    return bool(observed[rows].any() if rows else observed.any())


def _limited(deviations: Deviations, modalities: Sequence[str]) -> Deviations:
    gone = np.array([signal.source not in modalities for signal in NODE_SIGNALS])
    gone_edge = np.array([signal.source not in modalities for signal in EDGE_SIGNALS])
    return replace(
        deviations,
        node=np.where(gone, np.nan, deviations.node),
        slope=np.where(gone, np.nan, deviations.slope),
        edge={relation: np.where(gone_edge, np.nan, values) for relation, values in deviations.edge.items()},
    )
