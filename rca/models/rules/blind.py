"""Rankers that look at no telemetry: what a better one has to beat first."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np

from rca.contracts import Case, LabelledCase
from rca.graph import ServiceGraph
from rca.models.rules.rule import Rule, Values, ranking_of
from rca.ranking import Ranking

_ROUNDS = 3  # of passing digests along the edges; enough to tell most nodes apart


class Random(Rule):
    """A random order that is the same whenever the same incident is ranked, whatever its entities are called.

    A node's number is a digest of what was seen at it and around it (Weisfeiler and Leman's colours), so that neither names
    nor node order decide. Nodes that cannot be told apart tie.
    """

    name = "random"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def scores(self, case: Case) -> Values:
        colours = _colours(case.graph, f"{self.seed} {case.window.incident.start_ns}".encode())
        return np.array([int.from_bytes(colours[row][:6], "big") / 2**48 for row in case.graph.candidate_rows])


def _colours(graph: ServiceGraph, salt: bytes) -> list[bytes]:
    kinds, features = graph.kinds, np.ascontiguousarray(graph.features)
    colours = [_digest(salt, kinds[row].tobytes(), features[row].tobytes()) for row in range(len(graph.entities))]
    for _ in range(_ROUNDS):
        around: list[list[bytes]] = [[] for _ in colours]
        for relation, edges in graph.edges.items():
            for source, target in edges.T.tolist():
                around[source].append(relation.encode() + b">" + colours[target])
                around[target].append(relation.encode() + b"<" + colours[source])
        colours = [_digest(salt, own, *sorted(others)) for own, others in zip(colours, around, strict=True)]
    return colours


def _digest(*parts: bytes) -> bytes:
    return hashlib.blake2b(b"\x00".join(parts), digest_size=16).digest()


class MostFrequent:
    """Names the causes of past incidents, the most frequent first: what knowing the system's history alone is worth."""

    name: ClassVar[str] = "most-frequent"
    uses_names: ClassVar[bool] = True
    learned: ClassVar[bool] = True

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def fit(self, cases: Sequence[LabelledCase], validation: Sequence[LabelledCase] | None = None) -> Self:
        past = (*cases, *(validation or ()))
        self._counts = Counter((cause.kind, cause.name) for case in past for cause in case.causes)
        return self

    def rank(self, case: Case) -> Ranking:
        counts = [float(self._counts[e.kind, e.name]) for e in case.graph.candidates]
        return ranking_of(self.name, case, np.array(counts))
