"""What `/metrics` says of drift: a few figures for all features together, never one for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from rca.evaluation.lately import Lately
from rca.models.drift import Shift
from rca.serve.asking import Ranks
from rca.serve.metrics import Gauge

OF: Final = ("entities", "calls", "degrees", "components", "sizes")
"""What the quantities are about that the largest index and distance is told of."""


def drift_gauges(ranks: Callable[[], Ranks | None]) -> list[Gauge]:
    """Gauges of what the ranking process found when it looked back last; those that nothing can be said of have no value."""

    def of(read: Callable[[Lately], float | Mapping[str, float] | None]) -> Callable[[], float | Mapping[str, float] | None]:
        def value() -> float | Mapping[str, float] | None:
            now = ranks()
            return None if now is None or now.lately is None else read(now.lately)

        return value

    return [
        Gauge("drift_incidents", "incidents of the last 30 days that are held against training data", of(lambda x: x.incidents)),
        Gauge("drift_found", "1 where they differ from training data", of(_found), "part"),
        Gauge("drift_psi", "largest population stability index of a quantity", of(lambda x: _largest(x, _psi)), "of"),
        Gauge("drift_ks", "largest distance of Kolmogorov and Smirnov of a quantity", of(lambda x: _largest(x, _ks)), "of"),
        Gauge("drift_missing_ratio", "share of them that lacks a kind of telemetry", of(_missing), "telemetry"),
        Gauge("drift_unseen_kinds", "kinds of entities and of edges that no training graph had", of(_unseen)),
        Gauge("agreement_incidents", "answers of the last 30 days whose cause is known", of(lambda x: x.judged)),
        Gauge("agreement_ratio", "share of these answers that named it first", of(_agreement)),
    ]


def _found(found: Lately) -> Mapping[str, float] | None:
    return None if found.drift is None or found.few else found.drift.verdicts()


def _largest(found: Lately, figure: Callable[[Shift], float]) -> Mapping[str, float] | None:
    """The largest figure of the quantities of each sort."""
    if found.drift is None or found.few:
        return None
    largest: dict[str, float] = {}
    for shift in found.drift.shifts:
        sort = _sort(shift)
        largest[sort] = max(largest.get(sort, 0.0), figure(shift))
    return largest


def _sort(shift: Shift) -> str:
    if shift.group != "structure":
        return "entities" if shift.group == "feature" else "calls"
    return {"degree": "degrees", "component": "components"}.get(shift.name.partition(".")[0], "sizes")


def _psi(shift: Shift) -> float:
    return shift.psi


def _ks(shift: Shift) -> float:
    return shift.ks or 0.0


def _missing(found: Lately) -> Mapping[str, float] | None:
    return None if found.drift is None else {modality.name: modality.missing for modality in found.drift.modalities}


def _unseen(found: Lately) -> float | None:
    return None if found.drift is None else len(found.drift.unseen_kinds) + len(found.drift.unseen_relations)


def _agreement(found: Lately) -> float | None:
    return found.agreed / found.judged if found.judged else None
