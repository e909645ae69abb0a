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
class CandidateSet:
    """The fewest outcomes that hold the truth with a probability of `coverage`.

    They are candidates, in order, and, where they say so, "no fault" and "a cause outside the graph".
    """

    coverage: float
    entities: tuple[EntityId, ...]
    no_fault: bool
    outside: bool


@dataclass(frozen=True)
class Ranking:
    """All candidates in order. `probability` of the candidates, `no_fault` and `outside` add up to 1.

    `outside` is the probability of a fault whose cause is none of the candidates. `likely` is the calibrated set of outcomes,
    None where the ranker has none. `unlike` says in words what about the incident is unlike all that calibration has seen.
    """

    ranker: str
    window: Interval
    candidates: tuple[RankedCandidate, ...]
    no_fault: float = 0.0
    gaps: tuple[Gap, ...] = ()
    notes: tuple[str, ...] = ()
    outside: float = 0.0
    likely: CandidateSet | None = None
    unlike: tuple[str, ...] = ()

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


@dataclass(frozen=True, eq=False)
class Chances:
    """Calibrated probabilities: of every candidate, (C,), of "no fault", and of a cause outside the graph; they add up to 1.

    The likeliest outcomes that add up to `mass` hold the truth with a probability of `coverage`; None: nobody knows.
    """

    candidates: npt.NDArray[np.float64]
    no_fault: float
    outside: float = 0.0
    mass: float | None = None
    coverage: float = 0.9
    unlike: tuple[str, ...] = ()


def rank_by_score(
    ranker: str,
    window: Interval,
    entities: Sequence[EntityId],
    scores: npt.NDArray[np.floating[Any]],  # (C,)
    *,
    temperature: float = 1.0,
    chances: Chances | None = None,
    families: Sequence[str] | None = None,
    evidence: Sequence[tuple[Evidence, ...]] | None = None,
    gaps: tuple[Gap, ...] = (),
    notes: tuple[str, ...] = (),
) -> Ranking:
    """Ranking from one score per candidate: probabilities are `chances`, else a softmax of score / temperature.

    Equal scores keep the order of `entities`, which may be that of their names: accuracy counts ties pessimistically, so that
    this order never earns anything. Raises ValueError for a score that is not finite.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.shape != (len(entities),):
        raise ValueError(f"expected one score per candidate ({len(entities)}), found shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{ranker}: expected finite scores, found {values[~np.isfinite(values)][:3]}")
    values = np.round(values, _DIGITS)
    if chances is not None:
        probabilities = np.asarray(chances.candidates, dtype=np.float64)
    else:
        weights = np.exp((values - values.max(initial=-np.inf)) / temperature)
        probabilities = weights / weights.sum() if len(weights) else weights
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
    if chances is None:
        return Ranking(ranker, window, candidates, gaps=gaps, notes=notes)
    return Ranking(
        ranker,
        window,
        candidates,
        chances.no_fault,
        gaps,
        notes,
        chances.outside,
        _smallest_set(candidates, chances, chances.mass) if candidates and chances.mass is not None else None,
        chances.unlike,
    )


def _smallest_set(candidates: Sequence[RankedCandidate], chances: Chances, mass: float) -> CandidateSet:
    """The likeliest outcomes, as many as add up to the mass."""
    outcomes: list[tuple[float, EntityId | str]] = [(candidate.probability, candidate.entity) for candidate in candidates]
    outcomes += [(chances.no_fault, "no fault"), (chances.outside, "outside")]
    held, chosen = 0.0, []
    for probability, outcome in sorted(outcomes, key=lambda one: -one[0]):  # stable: candidates keep their order
        chosen.append(outcome)
        held += probability
        if held >= mass:
            break
    entities = tuple(outcome for outcome in chosen if not isinstance(outcome, str))
    return CandidateSet(chances.coverage, entities, "no fault" in chosen, "outside" in chosen)
