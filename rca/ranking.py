"""A ranking: which entity most likely caused the incident, why, and how sure the model is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from rca.telemetry import EntityId, Gap, Interval

SCHEMA_VERSION: Final = "1"
_DIGITS: Final = 6  # scores are compared across engines and runs at this precision


@dataclass(frozen=True)
class Evidence:
    """One observation about a candidate, in the telemetry's own units, beside its baseline.

    `deviation` is the robust z of the observation (signed); `unit` is a UCUM-like code ("s", "1/s", "By", "1").
    """

    signal: str
    statement: str
    observed: float | None
    baseline: float | None
    unit: str
    deviation: float
    trace_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class RankedCandidate:
    """One candidate. Ranks start at 1; `fault_family` is one of faults.FAMILIES or empty when nothing points anywhere."""

    rank: int
    entity: EntityId
    score: float
    probability: float
    fault_family: str = ""
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True)
class Ranking:
    """All candidates in order. `probability` of the candidates and `no_fault` add up to 1."""

    ranker: str
    window: Interval
    candidates: tuple[RankedCandidate, ...]
    no_fault: float = 0.0
    gaps: tuple[Gap, ...] = ()
    notes: tuple[str, ...] = ()

    def rank_of(self, entity: EntityId) -> int | None:
        """Rank of an entity counted pessimistically: candidates with an equal score all get the worst rank among them."""
        mine = next((c for c in self.candidates if c.entity == entity), None)
        if mine is None:
            return None
        return sum(1 for c in self.candidates if c.score >= mine.score)

    def to_json(self) -> dict[str, Any]:
        """Versioned JSON form; numbers rounded to 6 decimals so that equal rankings print equal text."""
        body: dict[str, Any] = rounded(asdict(self))
        return {"schema_version": SCHEMA_VERSION, **body}

    def dumps(self) -> str:
        return json.dumps(self.to_json(), indent=2, ensure_ascii=False)


def rounded(value: Any) -> Any:
    """Every number in a JSON value at the precision at which rankings are compared."""
    if isinstance(value, float):
        return round(value, _DIGITS) + 0.0  # + 0.0 turns -0.0 into 0.0
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value


def rank_by_score(
    ranker: str,
    window: Interval,
    entities: Sequence[EntityId],
    scores: npt.NDArray[np.floating[Any]],  # (C,)
    *,
    temperature: float = 1.0,
    no_fault_score: float | None = None,
    families: Sequence[str] | None = None,
    evidence: Sequence[tuple[Evidence, ...]] | None = None,
    gaps: tuple[Gap, ...] = (),
    notes: tuple[str, ...] = (),
) -> Ranking:
    """Ranking from one score per candidate: probabilities are a softmax of score / temperature.

    Equal scores keep the order of `entities`, which may be that of their names: accuracy counts ties pessimistically, so that
    this order never earns anything. Raises ValueError for a score that is not finite.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.shape != (len(entities),):
        raise ValueError(f"expected one score per candidate ({len(entities)}), found shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{ranker}: expected finite scores, found {values[~np.isfinite(values)][:3]}")
    values = np.round(values, _DIGITS)
    logits = values if no_fault_score is None else np.append(values, no_fault_score)
    weights = np.exp((logits - logits.max()) / temperature) if len(logits) else logits
    probabilities = weights / weights.sum() if len(logits) else weights
    order = np.argsort(-values, kind="stable")
    candidates = tuple(
        RankedCandidate(
            rank=position,
            entity=entities[row],
            score=float(values[row]),
            probability=float(probabilities[row]),
            fault_family=families[row] if families is not None else "",
            evidence=evidence[row] if evidence is not None else (),
        )
        for position, row in enumerate(order, start=1)
    )
    no_fault = float(probabilities[-1]) if no_fault_score is not None else 0.0
    return Ranking(ranker, window, candidates, no_fault, gaps, notes)
