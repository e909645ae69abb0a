"""The service map of an incident's time: who called whom, how they fared, the path to the cause, what it drags down."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal

import networkx as nx
import numpy as np
import polars as pl

from rca.contracts import Case
from rca.drawing.foreign import NAME, name_of, plain
from rca.drawing.layered import BOX_HEIGHT, BOX_WIDTH, drawn
from rca.evidence import Facts
from rca.graph import CALL_RELATIONS
from rca.ranking import Ranking
from rca.report import Health, loud_rows
from rca.signals import NODE_SIGNALS
from rca.telemetry import CANDIDATE_KINDS, EntityId
from rca.topology import key_of
from rca.window import INCIDENT
from rca.wording import count, listed, percent, quantity, seconds

MOST_DRAWN: Final = 32
"""Entities on the map; of more, those that matter for the incident are drawn and the rest is counted."""
MOST_CALLS: Final = 80
"""Rows of the table of calls."""
_LABEL_WIDTH: Final = 122.0
_NARROW, _WIDE = "ijlIft.,:;|!'()[]-/ ", "mwMW@%"
_NAMED: Final = 8

Part = Literal["cause", "path", "affected", ""]


@dataclass(frozen=True)
class Box:
    """An entity on the map. `part` is its part in the incident, `x` and `y` its left upper corner."""

    name: str
    label: str
    kind: str
    health: Health
    part: Part
    alerting: bool
    rank: int | None
    x: float
    y: float

    @property
    def note(self) -> str:
        """The small line under the name."""
        told = ["likely cause" if self.part == "cause" else "", "alerting" if self.alerting else ""]
        return " · ".join(word for word in (self.kind if self.kind != "service" else "", *told) if word)

    @property
    def words(self) -> str:
        """What a reader who does not see the drawing is told."""
        parts = {"cause": "likely cause", "path": "on the path", "affected": "suffers with it", "": ""}
        rank = f"rank {self.rank}" if self.rank else ""
        told = [self.health, parts[self.part], "alerting" if self.alerting else "", rank]
        return f"{self.name}: {', '.join(word for word in told if word)}"


@dataclass(frozen=True)
class Call:
    """Calls of one entity to another: rates, failures and median latency in the incident and before, as text."""

    caller: str
    callee: str
    part: Literal["path", "affected", ""]
    failing: bool
    rate: tuple[str, str]
    failed: tuple[str, str]
    latency: tuple[str, str]
    line: str
    at: tuple[float, float]


@dataclass(frozen=True)
class ServiceMap:
    """The map as it is drawn, and in words."""

    boxes: tuple[Box, ...]
    calls: tuple[Call, ...]
    width: float
    height: float
    description: str
    blast: str
    left_out: str
    box: tuple[int, int] = (BOX_WIDTH, BOX_HEIGHT)

    @property
    def table(self) -> tuple[Call, ...]:
        """Calls that stand in the table: those of the path and those that fail come first."""
        return self.calls[:MOST_CALLS]


def map_of(
    case: Case, ranking: Ranking, cause: EntityId | None, path: Sequence[EntityId] = (), alerting: Collection[EntityId] = ()
) -> ServiceMap | None:
    """The map; None where no call is known. `cause` is None where nothing stands out."""
    return _Mapping(case, ranking, cause, tuple(path), frozenset(alerting)).map()


@dataclass(frozen=True, eq=False)
class _Mapping:
    case: Case
    ranking: Ranking
    cause: EntityId | None
    path: tuple[EntityId, ...]
    alerting: frozenset[EntityId]

    def map(self) -> ServiceMap | None:
        if not self.calls_of_all:
            return None
        chosen = self.chosen()
        names = set(chosen)
        calls = [call for call in self.calls_of_all if call[0] in names and call[1] in names]
        drawing = drawn(chosen, calls)
        boxes = tuple(self._box(entity, *drawing.boxes[entity]) for entity in chosen)
        rows = sorted((self._call(call, *drawing.calls[call]) for call in calls), key=lambda row: (not row.part, not row.failing))
        return ServiceMap(
            boxes=boxes,
            calls=tuple(rows),
            width=drawing.width,
            height=drawing.height,
            description=self._description(boxes, calls),
            blast=self._blast_words(),
            left_out=self._left_out(names),
        )

    # --- who is there ---------------------------------------------------------------------------------------------

    @cached_property
    def graph(self) -> Any:
        """Everything along which symptoms travel, as a networkx.DiGraph of entities."""
        found = nx.DiGraph()
        entities = self.case.graph.entities
        for relation in (*CALL_RELATIONS, "runs", "hosted_on"):
            if relation in self.case.graph.edges:
                found.add_edges_from((entities[a], entities[b]) for a, b in self.case.graph.edges[relation].T.tolist() if a != b)
        return found

    @cached_property
    def calls_of_all(self) -> list[tuple[EntityId, EntityId]]:
        """Calls between candidates, and the steps of the path that are none (to a pod, to its node)."""
        entities = self.case.graph.entities
        calls = [(entities[a], entities[b]) for a, b in self.case.graph.call_edges().T.tolist() if a != b]
        steps = [step for step in zip(self.path, self.path[1:], strict=False) if step not in set(calls)]
        return sorted(dict.fromkeys((*calls, *steps)), key=str)

    @cached_property
    def dependents(self) -> frozenset[EntityId]:
        """Candidates from which some chain of calls leads to the cause."""
        if self.cause is None or self.cause not in self.graph:
            return frozenset()
        return frozenset(entity for entity in nx.ancestors(self.graph, self.cause) if entity.kind in CANDIDATE_KINDS)

    @cached_property
    def health(self) -> dict[EntityId, Health]:
        graph = self.case.graph
        columns = [graph.feature_names.index(f"{signal.name}.z") for signal in NODE_SIGNALS]
        observed: list[bool] = np.any(graph.available[:, columns], axis=1).tolist()
        loud: list[bool] = loud_rows(graph).tolist()
        return {
            entity: "disturbed" if strays else "quiet" if seen else "unobserved"
            for entity, strays, seen in zip(graph.entities, loud, observed, strict=True)
        }

    @cached_property
    def ranks(self) -> dict[EntityId, int]:
        return {candidate.entity: candidate.rank for candidate in self.ranking.candidates}

    def chosen(self) -> list[EntityId]:
        """What is drawn: the cause, the path and what alerts, then neighbours and the disturbed, then the rest by rank."""
        on_map = {entity for call in self.calls_of_all for entity in call}
        named = [e for e in (self.cause, *self.path, *sorted(self.alerting)) if e is not None]
        beside = self._beside(self.cause)
        everybody = on_map | {e for e in named if e.kind in CANDIDATE_KINDS and e in self.case.graph.rows}
        pinned = {entity: i for i, entity in enumerate(named)}

        def order(entity: EntityId) -> tuple[int, bool, bool, int, str]:
            disturbed = self.health[entity] == "disturbed"
            affected = disturbed and (entity in beside or entity in self.dependents)
            rank = self.ranks.get(entity, len(self.ranks) + 1)
            return (pinned.get(entity, len(pinned)), not affected, not (disturbed or entity in beside), rank, str(entity))

        return sorted(self._connected(sorted(everybody, key=order), len(pinned)), key=str)

    def _connected(self, ordered: list[EntityId], pinned: int) -> list[EntityId]:
        """The first of them that call or are called by one that is drawn already; who comes first is drawn in any case."""
        if len(ordered) <= MOST_DRAWN:
            return ordered
        chosen, waiting = ordered[: max(pinned, 1)][:MOST_DRAWN], ordered[max(pinned, 1) :]
        near = {other for entity in chosen for other in self._beside(entity)}
        while waiting and len(chosen) < MOST_DRAWN:
            entity = next((entity for entity in waiting if entity in near), waiting[0])
            waiting.remove(entity)
            chosen.append(entity)
            near |= self._beside(entity)
        return chosen

    def _beside(self, entity: EntityId | None) -> set[EntityId]:
        """Callers and callees."""
        return {*self.graph.predecessors(entity), *self.graph.successors(entity)} if entity in self.graph else set()

    def _part(self, entity: EntityId) -> Part:
        if entity == self.cause:
            return "cause"
        if entity in self.path:
            return "path"
        return "affected" if entity in self.dependents and self.health[entity] == "disturbed" else ""

    def _box(self, entity: EntityId, x: float, y: float) -> Box:
        alerting, rank = entity in self.alerting, self.ranks.get(entity)
        name, label = name_of(entity), _fitting(entity.name)
        return Box(name, label, entity.kind, self.health[entity], self._part(entity), alerting, rank, x, y)

    # --- calls ----------------------------------------------------------------------------------------------------

    def _call(self, call: tuple[EntityId, EntityId], line: str, at: tuple[float, float]) -> Call:
        caller, callee = call
        steps = set(zip(self.path, self.path[1:], strict=False))
        affected = self._part(caller) in ("affected", "path") and (callee == self.cause or callee in self.dependents)
        rates, failed, latency = self._numbers(caller, callee)
        worse = failed is not None and failed[0] > failed[1] + 0.01
        return Call(
            name_of(caller),
            name_of(callee),
            "path" if call in steps else "affected" if affected else "",
            worse,
            _texts(rates, lambda value: quantity(value, "1/s")),
            _texts(failed, percent),
            _texts(latency, seconds),
            line,
            at,
        )

    def _numbers(self, caller: EntityId, callee: EntityId) -> tuple[_Pair, _Pair, _Pair]:
        """(calls per second, share that failed, median latency in s), each now and before; from spans, else as it arrived."""
        key = (key_of(caller), key_of(callee))
        spans_now, spans_before = self._facts.covered_seconds
        if key in self._counted and spans_now and spans_before:
            now, before = self._counted[key]
            bad = self._failed.get(key, (0.0, 0.0))
            shares = (bad[0] / now if now else 0.0, bad[1] / before if before else 0.0)
            return (now / spans_now, before / spans_before), shares, self._latency(*key)
        return tuple(self._arrived.get((*key, metric)) for metric in _ARRIVED)  # type: ignore[return-value]

    @cached_property
    def _facts(self) -> Facts:
        return Facts(self.case)

    @cached_property
    def _counted(self) -> dict[tuple[str, str], tuple[float, float]]:
        return self._tally("call")

    @cached_property
    def _failed(self) -> dict[tuple[str, str], tuple[float, float]]:
        return self._tally("call_error")

    def _tally(self, what: str) -> dict[tuple[str, str], tuple[float, float]]:
        return {(a, b): numbers for (a, b), numbers in self._facts.tally(what, pl.lit(True), ["source", "target"]).items()}

    def _latency(self, source: str, target: str) -> _Pair:
        """Median of what a caller waited."""
        mine = (pl.col("what") == "client") & (pl.col("source") == source) & (pl.col("target") == target)
        found = self._facts.histograms(mine, "target").get(target)
        return (found[0].seconds(0.5), found[1].seconds(0.5)) if found else None

    @cached_property
    def _arrived(self) -> dict[tuple[str, str, str], tuple[float, float]]:
        """What arrived already aggregated (service-graph metrics): mean now, median before."""
        calls = self.case.window.calls.filter(pl.col("value").is_finite() & pl.col("metric").is_in(_ARRIVED))
        now = pl.col("interval") == INCIDENT
        table = calls.group_by("caller", "callee", "metric").agg(
            pl.col("value").filter(now).mean().alias("now"), pl.col("value").filter(~now).median().alias("before")
        )
        return {(a, b, metric): (x, y) for a, b, metric, x, y in table.iter_rows() if x is not None and y is not None}

    # --- words ----------------------------------------------------------------------------------------------------

    def _description(self, boxes: Sequence[Box], calls: Collection[object]) -> str:
        sick = [box.name for box in boxes if box.health == "disturbed"]
        way = " to ".join(name_of(entity) for entity in self.path)
        told = [
            f"{len(boxes)} entities and {count(len(calls), 'call')} between them, callers left of callees",
            f"likely cause: {name_of(self.cause)}" if self.cause else "no likely cause",
            f"path: {way}" if len(self.path) > 1 else "",
            f"disturbed: {listed(sick, 12)}" if sick else "nothing is disturbed",
        ]
        return ". ".join(words for words in told if words) + "."

    def _blast_words(self) -> str:
        """What the cause drags down: those that depend on it and are disturbed, entries by name."""
        if self.cause is None:
            return ""
        everybody = sorted(self.dependents)
        if not everybody:
            return f"Nothing that was seen depends on {name_of(self.cause)}."
        hit = [entity for entity in everybody if self.health[entity] == "disturbed"]
        named = f": {listed([name_of(entity) for entity in hit], _NAMED)}" if hit else ""
        if len(everybody) == 1:
            return f"The one that depends on {name_of(self.cause)} is {'' if hit else 'not '}disturbed: {name_of(everybody[0])}."
        are = "is" if len(hit) == 1 else "are"
        return f"{len(hit)} of {len(everybody)} that depend on {name_of(self.cause)} {are} disturbed{named}."

    def _left_out(self, drawn_ones: Collection[EntityId]) -> str:
        hidden = {e for call in self.calls_of_all for e in call} - set(drawn_ones)
        if not hidden:
            return ""
        sick = sum(self.health[entity] == "disturbed" for entity in hidden)
        kept = "those on the path, disturbed or beside the cause come first" if self.cause else "the disturbed come first"
        return f"{len(hidden)} more are not drawn, {sick} of them disturbed; {kept}."


def _fitting(name: str) -> str:
    """As much of a name as a box has room for, by the rough width of its letters in the map's font."""
    name, room = plain(name, NAME), _LABEL_WIDTH
    for i, letter in enumerate(name):
        room -= 4.6 if letter in _NARROW else 12.0 if letter in _WIDE else 8.4
        if room < 0:
            return name[: i - 1] + "…"
    return name


_Pair = tuple[float, float] | None
_ARRIVED: Final = ("call.rate", "call.error_ratio", "call.client.duration.p50")


def _texts(pair: _Pair, write: Any) -> tuple[str, str]:
    return (write(pair[0]), write(pair[1])) if pair else ("", "")
