"""Labelled cases for tests, made from synthetic incidents."""

from __future__ import annotations

from functools import cache

from rca.contracts import Case, LabelledCase
from rca.incidents.example import example_incident
from rca.pipeline import case_of

CULPRITS = (("cpu_contention", "catalogue"), ("network_delay", "payment"), ("exception", "shipping"), ("return", "cart"))


@cache
def example_case(fault_kind: str, culprit: str, seed: int = 7) -> LabelledCase:
    incident, telemetry = example_incident(seed, fault_kind, culprit, requests_per_second=1.5)
    name = f"{fault_kind}-{culprit}-{seed}"
    return LabelledCase(case_of(incident, telemetry), name, incident.system, incident.causes(), fault_kind)


def example_cases() -> list[LabelledCase]:
    return [example_case(kind, culprit) for kind, culprit in CULPRITS]


def example() -> Case:
    return example_case(*CULPRITS[0]).case
