"""One ranker's answer to one incident beside the truth, and the JSON lines file that keeps all answers of a run.

The first line of a file describes the run and lists every entity once; the others name entities by their place in that list.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from rca.contracts import group_of, service_of
from rca.errors import BadInput
from rca.ranking import Ranking
from rca.telemetry import EntityId

FORMAT_VERSION: Final = "1"


@dataclass(frozen=True)
class Truth:
    """What is known about an incident: all that splits and metrics look at."""

    incident_id: str
    system: str
    causes: tuple[EntityId, ...]
    fault_kind: str
    start_ns: int = 0

    @cached_property
    def group(self) -> tuple[str, str, str]:
        """(system, service, fault kind): repetitions of one injection, on whichever instance, share it."""
        return group_of(self.system, self.causes, self.fault_kind)


@dataclass(frozen=True)
class Prediction:
    """A ranking beside the truth. `candidates` are best first; a failure has none and says what went wrong."""

    truth: Truth
    candidates: tuple[EntityId, ...]
    scores: tuple[float, ...]
    probabilities: tuple[float, ...]
    no_fault: float = 0.0
    seconds: float = 0.0
    failure: str = ""

    @classmethod
    def of(cls, truth: Truth, ranking: Ranking, seconds: float) -> Prediction:
        ranked = ranking.candidates
        return cls(
            truth,
            tuple(c.entity for c in ranked),
            tuple(c.score for c in ranked),
            tuple(c.probability for c in ranked),
            ranking.no_fault,
            seconds,
        )

    @classmethod
    def failed(cls, truth: Truth, failure: str, seconds: float = 0.0) -> Prediction:
        return cls(truth, (), (), (), seconds=seconds, failure=failure)

    @cached_property
    def cause_rank(self) -> int | None:
        """Worst-case position of the best-ranked cause, from 1; None if no cause is among the candidates.

        Wrong candidates that tie with the cause count as standing before it. With several causes, any one of them counts.
        """
        causes = set(self.truth.causes)
        right = [score for entity, score in zip(self.candidates, self.scores, strict=True) if entity in causes]
        if not right:
            return None
        best = max(right)
        pairs = zip(self.candidates, self.scores, strict=True)
        return 1 + sum(1 for entity, score in pairs if entity not in causes and score >= best)

    @property
    def confidence(self) -> float:
        """Probability of the first candidate; 0 for a failure."""
        return self.probabilities[0] if self.probabilities else 0.0

    def per_service(self) -> Prediction:
        """The same answer about services: an instance's score counts for its service, the best instance decides.

        Probabilities of a service's instances add up.
        """
        score: dict[EntityId, float] = {}
        probability: dict[EntityId, float] = {}
        for entity, s, p in zip(self.candidates, self.scores, self.probabilities, strict=True):
            service = service_of(entity)
            score[service] = max(s, score.get(service, s))
            probability[service] = p + probability.get(service, 0.0)
        order = sorted(score, key=lambda service: -score[service])
        causes = tuple(dict.fromkeys(service_of(cause) for cause in self.truth.causes))
        return replace(
            self,
            truth=replace(self.truth, causes=causes),
            candidates=tuple(order),
            scores=tuple(score[service] for service in order),
            probabilities=tuple(probability[service] for service in order),
        )


@dataclass(frozen=True)
class Predictions:
    """All answers of one ranker on one split of one data set."""

    dataset: str
    split: str
    ranker: str
    predictions: tuple[Prediction, ...]
    transform: str = "none"
    seed: int = 0
    learned: bool = False
    uses_names: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    """Digest of the cases and of the feature table they were built with."""

    def per_service(self) -> Predictions:
        return replace(self, predictions=tuple(prediction.per_service() for prediction in self.predictions))

    def write(self, path: Path) -> None:
        """Write atomically, one line per incident."""
        path.parent.mkdir(parents=True, exist_ok=True)
        places: dict[EntityId, int] = {}
        for prediction in self.predictions:
            for entity in (*prediction.truth.causes, *sorted(prediction.candidates)):
                places.setdefault(entity, len(places))
        header = {
            "version": FORMAT_VERSION,
            "dataset": self.dataset,
            "split": self.split,
            "transform": self.transform,
            "ranker": self.ranker,
            "parameters": dict(self.parameters),
            "seed": self.seed,
            "learned": self.learned,
            "uses_names": self.uses_names,
            "fingerprint": self.fingerprint,
            "entities": [[e.kind, e.name, e.namespace] for e in places],
        }
        lines = [header, *(_encode(prediction, places) for prediction in self.predictions)]
        partial = path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines))
        partial.replace(path)

    @classmethod
    def read(cls, path: Path) -> Predictions:
        """Read a file back. Raises BadInput if it is not one of ours."""
        try:
            header, *rows = (json.loads(line) for line in path.read_text().splitlines())
            version = header.pop("version")
            if version != FORMAT_VERSION:
                raise BadInput(str(path), expected=f"predictions of version {FORMAT_VERSION}", found=f"version {version}")
            entities = [EntityId(*entity) for entity in header.pop("entities")]
            return cls(predictions=tuple(_decode(row, entities) for row in rows), **header)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            found = f"{type(error).__name__}: {error}"
            raise BadInput(str(path), expected="predictions as JSON lines (docs/evaluation.md)", found=found) from error


def read_header(path: Path) -> dict[str, Any] | None:
    """First line of a predictions file; None if there is no readable one."""
    try:
        with path.open() as file:
            header = json.loads(file.readline())
    except (OSError, ValueError):
        return None
    return header if isinstance(header, dict) else None


def _encode(prediction: Prediction, places: Mapping[EntityId, int]) -> dict[str, Any]:
    truth = prediction.truth
    row: dict[str, Any] = {
        "incident": truth.incident_id,
        "system": truth.system,
        "fault_kind": truth.fault_kind,
        "start_ns": truth.start_ns,
        "causes": [places[cause] for cause in truth.causes],
        "order": [places[entity] for entity in prediction.candidates],
        "scores": [round(score, 6) for score in prediction.scores],
        "probabilities": [round(probability, 5) for probability in prediction.probabilities],
        "no_fault": round(prediction.no_fault, 5),
        "seconds": round(prediction.seconds, 4),
    }
    return row | ({"failure": prediction.failure} if prediction.failure else {})


def _decode(row: Mapping[str, Any], entities: Sequence[EntityId]) -> Prediction:
    causes = tuple(entities[place] for place in row["causes"])
    return Prediction(
        Truth(row["incident"], row["system"], causes, row["fault_kind"], row["start_ns"]),
        tuple(entities[place] for place in row["order"]),
        tuple(row["scores"]),
        tuple(row["probabilities"]),
        row["no_fault"],
        row["seconds"],
        row.get("failure", ""),
    )
