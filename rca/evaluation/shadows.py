"""Two models that were asked the same questions, of which one was told: how often they agreed, and who was right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rca.contracts import group_of
from rca.evaluation import metrics
from rca.evaluation.metrics import Estimate
from rca.evaluation.promotion import Difference, difference
from rca.incidents.incident import Incident
from rca.telemetry import EntityId
from rca.topology import standing_for


@dataclass(frozen=True)
class Said:
    """What a model said: candidates, the likeliest first, their probabilities, and that of nobody. Of very many, the first."""

    model: str
    candidates: tuple[EntityId, ...]
    probabilities: tuple[float, ...]
    no_fault: float

    @property
    def first(self) -> EntityId | None:
        """Who is blamed; None where nobody is likelier."""
        return self.candidates[0] if self.candidates and self.probabilities[0] > self.no_fault else None

    def rank(self, causes: Sequence[EntityId]) -> int | None:
        """Place of the first cause, from 1; None where it was not named."""
        causes = [standing_for(cause, self.candidates) for cause in causes]
        return next((place for place, entity in enumerate(self.candidates, start=1) if entity in causes), None)


@dataclass(frozen=True)
class Pair:
    """What was told of an incident, and what the version in shadow said; without that, the trouble it had."""

    incident_id: str
    version: str
    at_ns: int
    told: Said
    shadow: Said | None
    trouble: str = ""


@dataclass(frozen=True)
class Comparison:
    """A version in shadow against what was told. `agreed` are questions of which both blamed the same, or nobody.

    Of `labelled` ones with a cause, `told_first` and `shadow_first` are how many named it first, `difference` is that of the
    reciprocal ranks, shadow minus told; None without a label.
    """

    version: str
    told: tuple[str, ...]
    asked: int
    answered: int
    agreed: int
    agreement: Estimate
    labelled: int
    told_first: int
    shadow_first: int
    difference: Difference | None
    only_told: tuple[str, ...]
    """Incidents that what was told alone had right."""
    only_shadow: tuple[str, ...]
    troubles: tuple[str, ...]


def compared(version: str, pairs: Sequence[Pair], incidents: Mapping[str, Incident]) -> Comparison:
    """Compare what a version said in shadow with what was told; `incidents` are those of the store, by id."""
    both = [(pair, pair.shadow) for pair in pairs if pair.shadow is not None]
    agrees = np.array([float(pair.told.first == shadow.first) for pair, shadow in both])
    told = [(pair, shadow, incidents[pair.incident_id]) for pair, shadow in both if pair.incident_id in incidents]
    judged = [(pair, shadow, incident) for pair, shadow, incident in told if incident.causes()]
    ranks = [(pair.told.rank(i.causes()), shadow.rank(i.causes())) for pair, shadow, i in judged]
    groups = [" / ".join(group_of(i.system, i.causes(), i.fault_kind())) for _, _, i in judged]
    ours, theirs = (metrics.of_ranks("mrr", [rank[side] for rank in ranks]) for side in (1, 0))
    named = list(zip([pair.incident_id for pair, _, _ in judged], ranks, strict=True))
    return Comparison(
        version=version,
        told=tuple(dict.fromkeys(pair.told.model for pair in pairs)),
        asked=len(pairs),
        answered=len(both),
        agreed=int(agrees.sum()),
        agreement=metrics.estimate_share(agrees, [pair.incident_id for pair, _ in both])
        if both
        else Estimate(float("nan"), None, None),
        labelled=len(judged),
        told_first=sum(told == 1 for told, _ in ranks),
        shadow_first=sum(shadow == 1 for _, shadow in ranks),
        difference=difference(ours, theirs, groups) if judged else None,
        only_told=tuple(name for name, (told, shadow) in named if told == 1 != shadow),
        only_shadow=tuple(name for name, (told, shadow) in named if shadow == 1 != told),
        troubles=tuple(dict.fromkeys(pair.trouble for pair in pairs if pair.trouble)),
    )
