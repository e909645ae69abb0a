"""A layered drawing of a call graph: callers left, callees right, few crossings. Pure geometry; names decide nothing but ties.

K. Sugiyama, S. Tagawa, M. Toda: Methods for Visual Understanding of Hierarchical System Structures (1981): layers, order within
them by the mean place of the neighbours, and bends where a call skips a layer. P. Eades, X. Lin, W. F. Smyth: A Fast and
Effective Heuristic for the Feedback Arc Set Problem (1993): which calls of a circle go back to the left.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import networkx as nx

BOX_WIDTH: Final = 168
BOX_HEIGHT: Final = 34
_LAYER_GAP: Final = 60
_BOX_SLOT, _BEND_SLOT = 48.0, 18.0
_SWEEPS: Final = 8
_MARGIN: Final = 12.0
_APART: Final = 4.0
"""How far a call and the one that answers it back stand from the middle of their boxes."""

Point = tuple[float, float]


@dataclass(frozen=True)
class _Bend:
    """Where the call from `source` to `target` passes a layer between theirs."""

    source: Hashable
    target: Hashable
    layer: int


@dataclass(frozen=True)
class Drawing:
    """Left upper corners of the boxes, path data of the calls with a point to write at, and the size of it all."""

    boxes: Mapping[Any, Point]
    calls: Mapping[tuple[Any, Any], tuple[str, Point]]
    width: float
    height: float


def drawn(nodes: Collection[Hashable], calls: Collection[tuple[Hashable, Hashable]]) -> Drawing:
    """Places for nodes in the order given, and for the calls (caller, callee) among them."""
    graph = nx.DiGraph()
    graph.add_nodes_from(nodes)
    graph.add_edges_from((a, b) for a, b in calls if a != b)
    if not nodes:
        return Drawing({}, {}, 2 * _MARGIN, 2 * _MARGIN)
    place = {node: i for i, node in enumerate(_sequence(graph))}
    back = {(a, b) for a, b in graph.edges if place[a] > place[b]}
    forward = nx.DiGraph([(b, a) if (a, b) in back else (a, b) for a, b in graph.edges])
    forward.add_nodes_from(nodes)
    layer_of = _layers(forward)
    chains = {step: _chain(step, layer_of) for step in forward.edges}
    rows: list[list[Hashable]] = [[] for _ in range(max(layer_of.values()) + 1)]
    for node in nodes:
        rows[layer_of[node]].append(node)
    for chain in chains.values():
        for bend in chain[1:-1]:
            rows[layer_of[bend]].append(bend)
    links = [step for chain in chains.values() for step in pairwise(chain)]
    before, after = _neighbours(links, 1), _neighbours(links, 0)
    _order(rows, before, after)
    heights = _heights(rows, before, after)
    least = min(heights.values())
    x = [_MARGIN + i * (BOX_WIDTH + _LAYER_GAP) for i in range(len(rows))]
    y = {node: height - least + BOX_HEIGHT / 2 + _MARGIN for node, height in heights.items()}
    boxes = {node: (x[layer_of[node]], round(y[node] - BOX_HEIGHT / 2, 1)) for node in nodes}
    lines = {}
    for caller, callee in graph.edges:
        turned = (caller, callee) in back
        points = _points(chains[(callee, caller) if turned else (caller, callee)], layer_of, x, y)
        both = (callee, caller) in graph.edges
        lines[caller, callee] = _line(points[::-1] if turned else points, -_APART if both and turned else _APART if both else 0.0)
    height = max(y.values()) + BOX_HEIGHT / 2 + _MARGIN
    return Drawing(boxes, lines, x[-1] + BOX_WIDTH + _MARGIN, round(height, 1))


def _sequence(graph: Any) -> list[Hashable]:
    """Nodes in an order in which few calls go back: entries first, what calls nobody last, and of the rest who calls most."""
    left, right, rest = [], [], graph.copy()
    while rest:
        node = next((node for node in rest if not rest.out_degree(node)), None)
        if node is not None:
            right.append(node)
        else:
            node = next((node for node in rest if not rest.in_degree(node)), None)
            node = node if node is not None else max(rest, key=lambda one: rest.out_degree(one) - rest.in_degree(one))
            left.append(node)
        rest.remove_node(node)
    return left + right[::-1]


def _layers(graph: Any) -> dict[Hashable, int]:
    """The longest way from any entry; entries stand next to what they call."""
    layer = {node: i for i, generation in enumerate(nx.topological_generations(graph)) for node in generation}
    for node in graph.nodes:
        if graph.in_degree(node) == 0 and graph.out_degree(node):
            layer[node] = min(layer[callee] for callee in graph.successors(node)) - 1
    return layer


def _chain(step: tuple[Hashable, Hashable], layer_of: dict[Hashable, int]) -> list[Hashable]:
    """A call with its bends, which get their layers here."""
    left, right = step
    bends = [_Bend(left, right, i) for i in range(layer_of[left] + 1, layer_of[right])]
    layer_of.update({bend: bend.layer for bend in bends})
    return [left, *bends, right]


def _neighbours(links: Sequence[tuple[Hashable, Hashable]], end: int) -> dict[Hashable, list[Hashable]]:
    found: dict[Hashable, list[Hashable]] = {}
    for link in links:
        found.setdefault(link[end], []).append(link[1 - end])
    return found


def _order(
    rows: list[list[Hashable]], before: Mapping[Hashable, list[Hashable]], after: Mapping[Hashable, list[Hashable]]
) -> None:
    """Sort every layer by the mean place of its neighbours, to the right and back again."""
    for sweep in range(_SWEEPS):
        near = before if sweep % 2 == 0 else after
        for row in rows if sweep % 2 == 0 else reversed(rows):
            place = {node: i / max(len(other) - 1, 1) for other in rows for i, node in enumerate(other)}
            row.sort(key=lambda node: _mean([place[other] for other in near.get(node, [])], place[node]))


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _heights(
    rows: list[list[Hashable]], before: Mapping[Hashable, list[Hashable]], after: Mapping[Hashable, list[Hashable]]
) -> dict[Hashable, float]:
    """Heights: as near to the neighbours as the room allows, in the order of the layers."""
    place: dict[Hashable, float] = {}
    for row in rows:
        at = -sum(_slot(node) for node in row) / 2
        for node in row:
            place[node] = at + _slot(node) / 2
            at += _slot(node)
    for sweep in range(_SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            near = [[place[other] for other in (*before.get(node, []), *after.get(node, []))] for node in row]
            wanted = [_mean(values, place[node]) for node, values in zip(row, near, strict=True)]
            apart = list(wanted)
            for i in range(1, len(row)):
                apart[i] = max(wanted[i], apart[i - 1] + (_slot(row[i - 1]) + _slot(row[i])) / 2)
            shift = sum(w - a for w, a in zip(wanted, apart, strict=True)) / max(len(row), 1)
            place.update({node: a + shift for node, a in zip(row, apart, strict=True)})
    return place


def _slot(node: Hashable) -> float:
    return _BEND_SLOT if isinstance(node, _Bend) else _BOX_SLOT


def _points(
    chain: Sequence[Hashable], layer_of: Mapping[Hashable, int], x: Sequence[float], y: Mapping[Hashable, float]
) -> list[Point]:
    """Where a call leaves its left end, enters and leaves every layer between, and enters its right end."""
    first, *between, last = chain
    points = [(x[layer_of[first]] + BOX_WIDTH, y[first])]
    for node in between:
        left = x[layer_of[node]]
        points += [(left, y[node]), (left + BOX_WIDTH, y[node])]
    return [*points, (x[layer_of[last]], y[last])]


def _line(points: Sequence[Point], aside: float) -> tuple[str, Point]:
    """Path data through the points, curved between layers and straight through them, and a point to write at."""
    (x0, y0), *rest = [(x, y + aside) for x, y in points]
    words = [f"M{x0:g} {y0:.1f}"]
    for i, (x1, y1) in enumerate(rest):
        half = (x0 + x1) / 2
        words.append(f"L{x1:g} {y1:.1f}" if i % 2 else f"C{half:g} {y0:.1f} {half:g} {y1:.1f} {x1:g} {y1:.1f}")
        x0, y0 = x1, y1
    (xa, ya), (xb, yb) = points[-2:]
    return " ".join(words), (round((xa + xb) / 2, 1), round((ya + yb) / 2, 1))
