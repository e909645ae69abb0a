"""Why the first candidate is named and not what alerted, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from rca.contracts import Case
from rca.ranking import Ranking
from rca.report import contrast_of, shown
from rca.telemetry import EntityId
from rca.wording import count, probability


def why_not_alerting(case: Case, ranking: Ranking, alerting: Sequence[EntityId]) -> str:
    """Of several candidates that alert the one ranked best is compared; empty where it is the first, or where none alerts."""
    known = [entity for entity in dict.fromkeys(alerting) if entity in case.graph.candidates]
    if not known or not ranking.candidates or ranking.candidates[0].entity in known:
        return ""
    ranks = {candidate.entity: candidate.rank for candidate in ranking.candidates}
    nearest = min(known, key=lambda entity: ranks[entity])
    contrast = contrast_of(case, ranking, nearest)
    reasons = [*contrast.reasons, *(f"it shows nothing unusual in {missed.title}" for missed in contrast.missed)]
    why = next(iter(reasons), f"it strays less than {shown(ranking.candidates[0].entity)}")
    alerts = f", the first of {count(len(known), 'candidate')} that alert," if len(known) > 1 else " alerts and"
    return f"{shown(nearest)}{alerts} is number {contrast.rank} ({probability(contrast.probability)}), since {why}."
