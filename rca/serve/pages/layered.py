"""A layered drawing of a call graph: callers left, callees right, few crossings. Pure geometry; names decide nothing but ties.

K. Sugiyama, S. Tagawa, M. Toda: Methods for Visual Understanding of Hierarchical System Structures (1981): layers, order within
them by the mean place of the neighbours, and bends where a call skips a layer.
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
_TOP: Final = 26.0

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
    layer_of = _layers(graph)
    chains = {call: _chain(call, layer_of) for call in graph.edges}
    rows: list[list[Hashable]] = [[] for _ in range(max(layer_of.values()) + 1)]
    for node in nodes:
        rows[layer_of[node]].append(node)
    for chain in chains.values():
        for bend in chain[1:-1]:
            rows[bend.layer].append(bend)  # type: ignore[attr-defined]
    links = [step for chain in chains.values() for step in pairwise(chain)]
    before, after = _neighbours(links, 1), _neighbours(links, 0)
    _order(rows, before, after)
    places = _places(rows, before, after)
    least = min(places.values())
    x = [_MARGIN + i * (BOX_WIDTH + _LAYER_GAP) for i in range(len(rows))]
    y = {node: place - least + BOX_HEIGHT / 2 + _TOP for node, place in places.items()}
    boxes = {node: (x[layer_of[node]], round(y[node] - BOX_HEIGHT / 2, 1)) for node in nodes}
    lines = {call: _line(chain, layer_of, x, y) for call, chain in chains.items()}
    height = max(y.values()) + BOX_HEIGHT / 2 + _MARGIN
    return Drawing(boxes, lines, x[-1] + BOX_WIDTH + _MARGIN + (20 if _has_cycle(graph) else 0), round(height, 1))


def _has_cycle(graph: Any) -> bool:
    return not nx.is_directed_acyclic_graph(graph)


def _layers(graph: Any) -> dict[Hashable, int]:
    """The longest way from any entry; what calls each other in a circle shares a layer, entries stand next to what they call."""
    condensed = nx.condensation(graph)
    layer = {part: i for i, generation in enumerate(nx.topological_generations(condensed)) for part in generation}
    for part in condensed.nodes:
        if condensed.in_degree(part) == 0 and condensed.out_degree(part):
            layer[part] = min(layer[callee] for callee in condensed.successors(part)) - 1
    return {node: layer[part] for part in condensed.nodes for node in condensed.nodes[part]["members"]}


def _chain(call: tuple[Hashable, Hashable], layer_of: Mapping[Hashable, int]) -> list[Hashable]:
    source, target = call
    return [source, *(_Bend(source, target, i) for i in range(layer_of[source] + 1, layer_of[target])), target]


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


def _places(
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


def _line(
    chain: Sequence[Hashable], layer_of: Mapping[Hashable, int], x: Sequence[float], y: Mapping[Hashable, float]
) -> tuple[str, Point]:
    source, target = chain[0], chain[-1]
    start, end = x[layer_of[source]] + BOX_WIDTH, x[layer_of[target]]
    if layer_of[source] == layer_of[target]:  # a circle of calls: around the right side
        out, middle = end + BOX_WIDTH, (y[source] + y[target]) / 2
        path = f"M{start:g} {y[source]:.1f} C{start + 46:g} {y[source]:.1f} {out + 46:g} {y[target]:.1f} {out:g} {y[target]:.1f}"
        return path, (out + 34, round(middle, 1))
    words, at = [f"M{start:g} {y[source]:.1f}"], (start, y[source])
    for node in chain[1:]:
        left = x[node.layer if isinstance(node, _Bend) else layer_of[node]]
        half = (at[0] + left) / 2
        words.append(f"C{half:g} {at[1]:.1f} {half:g} {y[node]:.1f} {left:g} {y[node]:.1f}")
        at = (left, y[node])
        if node is not target:
            at = (left + BOX_WIDTH, y[node])
            words.append(f"L{at[0]:g} {at[1]:.1f}")
    return " ".join(words), (end - _LAYER_GAP / 2, round((y[chain[-2]] + y[target]) / 2, 1))
