"""Accuracy over time as a drawing: a dot for every period, and its interval."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from markupsafe import escape

from rca.evaluation.history import Figures
from rca.wording import count, percent

_WIDTH, _HEIGHT = 640, 220
_LEFT, _TOP, _RIGHT, _BOTTOM = 48, 14, 624, 180
_MOST_LABELS: Final = 8
_SHARES: Final = (0.0, 0.25, 0.5, 0.75, 1.0)


def accuracy_svg(periods: Sequence[Figures]) -> str:
    """How often the cause was named first in each period, one or more, from left to right."""
    title = f"How often the cause was named first, {periods[0].name} to {periods[-1].name}"
    parts = "".join([*_grid(), *_dots(periods)])
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-labelledby="accuracy-t">'
        f'<title id="accuracy-t">{escape(title)}</title>'
        f"<desc>{escape(accuracy_words(periods))}</desc>{parts}</svg>"
    )


def accuracy_words(periods: Sequence[Figures]) -> str:
    """The drawing in words: its first, lowest, highest and last period."""
    ordered = sorted(periods, key=lambda part: part.top1.value)
    named = dict.fromkeys((periods[0], ordered[0], ordered[-1], periods[-1]))
    told = [f"{percent(part.top1.value)} of {part.incidents} in {part.name}" for part in named]
    return f"The cause was named first in {', '.join(told)}; {count(len(periods), 'period')} in all."


def _grid() -> Iterator[str]:
    for share in _SHARES:
        y = _height(share)
        yield f'<line class="grid" x1="{_LEFT}" x2="{_RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{percent(share)}</text>'


def _dots(periods: Sequence[Figures]) -> Iterator[str]:
    step = (_RIGHT - _LEFT) / len(periods)
    every = -(-len(periods) // _MOST_LABELS)
    wide = min(14.0, step / 2)
    for place, part in enumerate(periods):
        x, top1 = _LEFT + (place + 0.5) * step, part.top1
        if top1.low is not None and top1.high is not None:
            low, high = _height(top1.low), _height(top1.high)
            size = f'width="{wide:.1f}" height="{max(low - high, 1):.1f}"'
            yield f'<rect class="band" x="{x - wide / 2:.1f}" y="{high:.1f}" {size}/>'
        yield f'<circle class="dot" cx="{x:.1f}" cy="{_height(top1.value):.1f}" r="4"/>'
        if place % every == 0:
            yield f'<text class="tick" x="{x:.1f}" y="{_BOTTOM + 18}" text-anchor="middle">{escape(part.name)}</text>'
            yield f'<text class="tick" x="{x:.1f}" y="{_BOTTOM + 33}" text-anchor="middle">{part.incidents}</text>'


def _height(share: float) -> float:
    return _BOTTOM - share * (_BOTTOM - _TOP)
