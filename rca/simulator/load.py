"""Open-loop traffic: people do not wait for slow answers before others come. Daily shape, bursts and noise."""

from __future__ import annotations

from typing import Final

import numpy as np

from rca.simulator.conditions import BIN_SECONDS
from rca.simulator.config import LoadRanges
from rca.simulator.system import Floats, System

_DAY_SECONDS: Final = 86_400.0


def draw_load(
    rng: np.random.Generator,
    system: System,
    ranges: LoadRanges,
    start_seconds: float,
    bins: int,
    bin_seconds: float = BIN_SECONDS,
) -> Floats:
    """Requests a second from outside, of every operation and bin, (O, T). start_seconds: time of the day."""
    seconds = start_seconds + bin_seconds * np.arange(bins)
    peak = rng.uniform(0, _DAY_SECONDS)
    daily = 1 + ranges.daily_swing.draw(rng) * np.cos(2 * np.pi * (seconds - peak) / _DAY_SECONDS)
    common = daily * np.exp(_wandering(rng, bins, ranges.noise.draw(rng)))
    if rng.random() < ranges.burst_share:
        common = common * (1 + rng.uniform(0.3, 1.5) * _hill(rng, bins, bin_seconds))
    entries = np.flatnonzero(system.entry > 0)
    rates = np.zeros((len(system.entry), bins))
    for o in entries.tolist():
        rates[o] = system.entry[o] * common * np.exp(_wandering(rng, bins, ranges.noise.draw(rng) / 2))
    return rates


def _wandering(rng: np.random.Generator, bins: int, spread: float) -> Floats:
    """Noise whose neighbours are alike: half of it fresh in every bin, half over about six bins, (T,)."""
    fresh, slow = rng.standard_normal((2, bins + 8))
    smooth = np.convolve(slow, np.ones(6) / np.sqrt(6), mode="same")
    noise: Floats = spread * (0.7 * fresh + 0.7 * smooth)[:bins]
    return noise


def _hill(rng: np.random.Generator, bins: int, bin_seconds: float) -> Floats:
    """A burst of one to five minutes somewhere, 0 to 1, (T,)."""
    middle, width = rng.uniform(0, bins), rng.uniform(30, 150) / bin_seconds
    hill: Floats = np.exp(-(((np.arange(bins) - middle) / width) ** 2))
    return hill
