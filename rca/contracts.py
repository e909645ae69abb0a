"""What collectors, rankers and stores promise. `rca.testing` ships a check for each promise."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol, Self, runtime_checkable

from rca.deviations import Deviations
from rca.graph import ServiceGraph
from rca.ranking import Ranking
from rca.telemetry import EntityId, Telemetry
from rca.window import Window

_INSTANCE_SUFFIX: Final = re.compile(r"-\d+$")


@dataclass(frozen=True, eq=False)
class Case:
    """What a ranker gets: the window's series, the deviations measured on it and on quiet stretches, and the graph."""

    window: Window
    deviations: Deviations
    quiet: tuple[Deviations, ...]
    graph: ServiceGraph


@dataclass(frozen=True, eq=False)
class LabelledCase:
    """A case with its answer, for training and evaluation."""

    case: Case
    incident_id: str
    system: str
    causes: tuple[EntityId, ...]
    fault_kind: str

    @property
    def group(self) -> tuple[str, str, str]:
        """(system, service, fault kind): repetitions of one injection share it."""
        return group_of(self.system, self.causes, self.fault_kind)


def service_of(entity: EntityId) -> EntityId:
    """The service an instance belongs to: the name without a trailing `-0`, `-1` and so on."""
    return replace(entity, name=_INSTANCE_SUFFIX.sub("", entity.name))


def group_of(system: str, causes: Sequence[EntityId], fault_kind: str) -> tuple[str, str, str]:
    """What repetitions of one injection share, on whichever instance of a service they happened."""
    return (system, ",".join(sorted({str(service_of(cause)) for cause in causes})), fault_kind)


@runtime_checkable
class Collector(Protocol):
    """Reads one source of telemetry: read-only and repeatable.

    `collect` returns what the source knows about [start_ns, end_ns), every frame sorted by time and inside the interval.
    What could not be read is a gap. Raises Unavailable if the source did not answer, Rejected if it refused.
    """

    name: str

    def collect(self, start_ns: int, end_ns: int) -> Telemetry: ...


@runtime_checkable
class Ranker(Protocol):
    """Ranks the candidates of a case.

    The constructor stores hyper-parameters only. `fit` is seeded and may be a no-op. `rank` names every candidate of the
    graph exactly once, does not mutate its input, and depends neither on node order nor on names, unless `uses_names` says
    so. A failure is raised, never ranked.
    """

    name: str
    uses_names: bool
    learned: bool

    def fit(self, cases: Sequence[LabelledCase], validation: Sequence[LabelledCase] | None = None) -> Self: ...

    def rank(self, case: Case) -> Ranking: ...
