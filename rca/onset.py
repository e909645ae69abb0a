"""When did it begin? The moment that best splits a stretch of time into quiet before and disturbed after.

Ground truth is not known at three in the morning: an alert says when somebody noticed, which is later than the onset.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from rca.bins import BIN_NS
from rca.series import series
from rca.telemetry import SECOND_NS
from rca.window import INCIDENT, Window

_LOUDEST: Final = 5  # series whose change decides; a fault moves few series much, noise moves many a little
_SHORTEST_NS, _SHORTEST_SHARE = 30 * SECOND_NS, 1 / 3  # of the stretch that must be left after the onset, to have seen it
_FEWEST_BASELINE: Final = 3
_LEAST_GAIN: Final = 1.0
_LIMIT: Final = 4.0  # ln(1 + z) beyond which louder is not clearer


def estimated_onset(window: Window) -> int | None:
    """Onset within the window's incident interval, in ns; None where nothing in it changes.

    Every series is turned into ln(1 + |z|) against its baseline. For every 10 s step, a series' gain is the rise of its mean from
    before to after the step, times sqrt(n m / (n + m)), as in a two-sample test; the onset is the step with the largest
    sum of the five largest gains. At least a third of the interval must follow it.
    """
    tracks = _tracks(window)
    start, end = window.incident.start_ns, window.incident.end_ns
    last = end - max(_SHORTEST_NS, int((end - start) * _SHORTEST_SHARE))
    steps = np.arange(start + BIN_NS, last + 1, BIN_NS)
    if not tracks or not len(steps):
        return None
    gains = np.stack([_gains(times, values, steps) for times, values in tracks])  # (series, steps)
    loudest = np.sort(gains, axis=0)[-_LOUDEST:].sum(axis=0)
    best = int(np.argmax(loudest))
    return int(steps[best]) if loudest[best] >= _LEAST_GAIN else None


def _tracks(window: Window) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]:
    """(times, ln(1 + |z|)) of every series of the incident interval that has a baseline."""
    keys = ["row", "signal"]
    frame = series(window).filter(pl.col("value").is_finite())
    before = (
        frame.filter(pl.col("interval") != INCIDENT)
        .group_by(keys)
        .agg(
            pl.col("value").median().alias("median"),
            (pl.col("value").quantile(0.75) - pl.col("value").quantile(0.25)).alias("iqr"),
            pl.len().alias("n"),
        )
    )
    scale = pl.max_horizontal(pl.col("iqr") / 1.349, 0.05 * pl.col("median").abs(), 1e-9)
    loudness = (((pl.col("value") - pl.col("median")) / scale).abs() + 1).log().clip(upper_bound=_LIMIT)
    found = (
        frame.filter(pl.col("interval") == INCIDENT)
        .join(before.filter(pl.col("n") >= _FEWEST_BASELINE), on=keys)
        .with_columns(loudness.alias("loudness"))
        .sort(*keys, "time_unix_nano")
    )
    return [
        (part["time_unix_nano"].to_numpy(), part["loudness"].to_numpy()) for _, part in found.group_by(keys, maintain_order=True)
    ]


def _gains(
    times: npt.NDArray[np.int64], values: npt.NDArray[np.float64], steps: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Gain of one series at every step, (steps,)."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    n = np.searchsorted(times, steps)
    m = len(times) - n
    with np.errstate(invalid="ignore", divide="ignore"):
        rise = (sums[-1] - sums[n]) / m - sums[n] / n
        gain = rise * np.sqrt(n * m / (n + m))
    return np.where((n > 0) & (m > 0), gain, 0.0)
