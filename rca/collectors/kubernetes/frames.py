"""Changes and placement as telemetry frames."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from rca.collectors.kubernetes.changes import Change
from rca.collectors.kubernetes.cluster import Relation
from rca.telemetry import dtypes


def events_frame(told: Iterable[Change]) -> pl.DataFrame:
    """The events frame, sorted by time; equal rows once."""
    schema = dtypes("events")
    rows = sorted({change[: len(schema)] for change in told}, key=lambda row: (row[0], *map(str, row[1:])))
    return pl.DataFrame(rows, schema=schema, orient="row")


def topology_frame(relations: Iterable[Relation]) -> pl.DataFrame:
    """The topology frame."""
    return pl.DataFrame(sorted(relations), schema=dtypes("topology"), orient="row")
