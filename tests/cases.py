"""Labelled cases for tests, made from synthetic incidents."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from rca.contracts import Case, LabelledCase
from rca.incidents.example import example_incident
from rca.incidents.incident import Incident
from rca.pipeline import case_of
from rca.telemetry import Telemetry

CULPRITS = (("cpu_contention", "catalogue"), ("network_delay", "payment"), ("exception", "shipping"), ("return", "cart"))


@cache
def example_case(fault_kind: str, culprit: str, seed: int = 7) -> LabelledCase:
    incident, telemetry = example_incident(seed, fault_kind, culprit, requests_per_second=1.5)
    name = f"{fault_kind}-{culprit}-{seed}"
    return LabelledCase(case_of(incident, telemetry), name, incident.system, incident.causes(), fault_kind)


@dataclass(frozen=True)
class ExampleSource:
    """Synthetic incidents by number, in place of a simulator; the last kind has no fault."""

    requests_per_second: float = 0.5

    def __call__(self, seed: int, number: int) -> tuple[Incident, Telemetry]:
        kind, culprit = (*CULPRITS, ("no_fault", "cart"))[number % 5]
        return example_incident(seed + number, kind, culprit, requests_per_second=self.requests_per_second)


def example_cases() -> list[LabelledCase]:
    return [example_case(kind, culprit) for kind, culprit in CULPRITS]


def example() -> Case:
    return example_case(*CULPRITS[0]).case
