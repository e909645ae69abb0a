"""The simulator: repeatable, consistent, and its faults show where they should."""

from __future__ import annotations

import pytest

from rca.faults import FAULT_KINDS, NO_FAULT, is_no_fault
from rca.incidents.bundle import bundle_files
from rca.incidents.entities import check_label, known_entities
from rca.simulator import SIMULATED, simulate
from rca.simulator.simulating import Emission


@pytest.mark.parametrize("kind", [*SIMULATED, NO_FAULT])
def test_every_kind_makes_a_valid_incident_whose_label_is_in_its_graph(kind: str) -> None:
    incident, telemetry = simulate(1, 7, kind=kind, services=(8, 12))
    assert bundle_files(incident, telemetry)
    assert incident.fault_kind() == kind
    assert incident.is_no_fault() == is_no_fault(kind)
    for label in incident.labels:
        check_label(incident.id, label, known_entities(incident, telemetry))


def test_the_vocabulary_is_simulated() -> None:
    assert set(SIMULATED) == set(FAULT_KINDS) - {"unknown", NO_FAULT}


@pytest.mark.parametrize("emission", ["bins", "spans"])
def test_equal_arguments_give_equal_bytes(emission: Emission) -> None:
    first = bundle_files(*simulate(3, 11, services=(5, 8), emission=emission))
    simulate(3, 12, services=(5, 8))
    assert bundle_files(*simulate(3, 11, services=(5, 8), emission=emission)) == first
    assert bundle_files(*simulate(4, 11, services=(5, 8), emission=emission)) != first
