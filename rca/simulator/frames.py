"""Telemetry frames from columns that are right already: what rca.telemetry.conform makes, without its checks and casts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from rca.telemetry import dtypes


def framed(name: str, /, **columns: pl.Series | npt.NDArray[np.generic] | Sequence[object]) -> pl.DataFrame:
    """A frame with the columns of SCHEMAS in their order; those that are not given are null."""
    length = len(next(iter(columns.values())))
    schema = dtypes(name)
    return pl.DataFrame(
        {
            column: pl.Series(column, columns[column], dtype=dtype)
            if column in columns
            else pl.repeat(None, length, dtype=dtype, eager=True)
            for column, dtype in schema.items()
        }
    )
