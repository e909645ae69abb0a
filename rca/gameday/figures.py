"""Figures of the report of a game day: accuracy against minutes, and how far stated probabilities hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from jinja2 import PackageLoader

from rca.drawing.charts import Tick
from rca.drawing.svg import environment_of
from rca.gameday.scores import Bin, RankerScore
from rca.wording import percent

Plot = tuple[float, float, float, float]

_LOOKS: Final = (
    ("var(--series)", 2.6, ""),
    ("var(--warn)", 2.0, "7 4"),
    ("var(--good)", 2.0, "2 3"),
    ("var(--bad)", 2.0, "9 3 2 3"),
    ("var(--dim)", 2.0, "4 2"),
)
"""Colour, width and dashes of each line, so that they are told apart without colours too."""
MOST_LINES: Final = len(_LOOKS)

_CURVE: Final = (720, 330, (52.0, 30.0, 706.0, 250.0))
_SQUARE: Final = (400, 380, (52.0, 30.0, 382.0, 330.0))
_SHARES: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
_MINUTE_STEPS: Final = (0.25, 0.5, 1, 2, 5, 10)
_MOST_TICKS: Final = 10
_KEYS_BESIDE: Final = 3


@dataclass(frozen=True)
class Line:
    """A ranker's curve; `key` is where its name stands."""

    label: str
    path: str
    dots: tuple[tuple[float, float], ...]
    colour: str
    width: float
    dashes: str
    key: tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """Shares of right answers against minutes."""

    title: str
    description: str
    lines: tuple[Line, ...]
    band: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    x_title: str
    y_title: str
    width: int
    height: int
    plot: Plot


@dataclass(frozen=True)
class Mark:
    """A bin of answers: mean confidence to the right, share of right ones upward, and the interval of that."""

    x: float
    y: float
    bar: tuple[float, float] | None
    label: str
    label_y: float


@dataclass(frozen=True)
class Reliability:
    """Confidence against what came true."""

    title: str
    description: str
    bins: tuple[Mark, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    x_title: str
    y_title: str
    width: int
    height: int
    plot: Plot


def curve_of(rankers: Sequence[RankerScore], description: str) -> Curve:
    """The curves of the first MOST_LINES rankers, the first with its interval. Each has a point at least."""
    width, height, plot = _CURVE
    left, _, right, bottom = plot
    last = max(max(point.minute for point in ranker.curve) for ranker in rankers) or 1.0

    def x(minute: float) -> float:
        return round(left + (right - left) * minute / last, 1)

    lines = []
    for place, (ranker, (colour, thick, dashes)) in enumerate(zip(rankers, _LOOKS, strict=False)):
        dots = tuple((x(point.minute), _y(point.share.value or 0.0, plot)) for point in ranker.curve)
        path = "M" + " L".join(f"{at} {level}" for at, level in dots)
        row, column = divmod(place, _KEYS_BESIDE)
        key = (left + column * (right - left) / _KEYS_BESIDE, bottom + 52 + 18 * row)
        lines.append(Line(ranker.label, path, dots, colour, thick, dashes, key))
    inside = [point for point in rankers[0].curve if point.share.low is not None and point.share.high is not None]
    edge = [f"{x(point.minute)},{_y(point.share.low or 0.0, plot)}" for point in inside]
    edge += [f"{x(point.minute)},{_y(point.share.high or 0.0, plot)}" for point in reversed(inside)]
    step = next((step for step in _MINUTE_STEPS if last / step <= _MOST_TICKS), _MINUTE_STEPS[-1])
    ticks = tuple(Tick(x(i * step), f"{i * step:g}") for i in range(int(last / step + 1e-9) + 1))
    return Curve(
        "Right answers against minutes since the first alert",
        description,
        tuple(lines),
        " ".join(edge) if len(inside) > 1 else "",
        ticks,
        _shares(plot),
        "minutes since the first alert",
        "share of injections of which the cause was named first",
        width,
        height,
        plot,
    )


def reliability_of(bins: Sequence[Bin], description: str) -> Reliability:
    """How often answers of a confidence were right."""
    width, height, plot = _SQUARE
    left, _, right, _ = plot
    ticks = tuple(Tick(round(left + (right - left) * share, 1), percent(share)) for share in _SHARES)
    return Reliability(
        "How often answers of a stated probability were right",
        description,
        tuple(_mark(one, plot) for one in bins),
        ticks,
        _shares(plot),
        "stated probability of the first candidate",
        "share that was right",
        width,
        height,
        plot,
    )


def _mark(one: Bin, plot: Plot) -> Mark:
    left, top, right, bottom = plot
    low, high = one.right.low, one.right.high
    bar = (_y(low, plot), _y(high, plot)) if low is not None and high is not None else None
    at, level = round(left + (right - left) * one.confidence, 1), _y(one.right.value or 0.0, plot)
    words = level + 15 if level < (top + bottom) / 2 else level - 8  # towards the middle, where there is room
    return Mark(at, level, bar, str(one.n), words)


def _shares(plot: Plot) -> tuple[Tick, ...]:
    return tuple(Tick(_y(share, plot), percent(share)) for share in _SHARES)


def _y(share: float, plot: Plot) -> float:
    _, top, _, bottom = plot
    return round(bottom - (bottom - top) * share, 1)


def drawn_curve(curve: Curve) -> str:
    """As SVG."""
    return _called("curve", curve)


def drawn_reliability(reliability: Reliability) -> str:
    """As SVG."""
    return _called("reliability", reliability)


def _called(macro: str, value: object) -> str:
    return str(getattr(_macros(), macro)(value)).strip()


@cache
def _macros() -> object:
    return environment_of(PackageLoader("rca.gameday")).get_template("figures.html").module
