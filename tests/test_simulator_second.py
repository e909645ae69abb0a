"""A second fault in a simulated incident: it changes nothing of the first, both are labelled, both show."""

from __future__ import annotations

import pytest

from rca.errors import UnknownName
from rca.faults import NO_FAULT
from rca.incidents.bundle import bundle_files
from rca.incidents.entities import check_label, known_entities
from rca.pipeline import case_of
from rca.signals import NODE_COLUMN
from rca.simulator import SIMULATED, simulate
from rca.simulator.simulating import scenario
from tests.test_simulator import CLEAR


@pytest.mark.parametrize("index", range(4))
def test_both_causes_are_labelled_and_the_first_is_what_it_was(index: int) -> None:
    alone, _ = simulate(31, index, kind="exception", services=(8, 12))
    both, telemetry = simulate(31, index, kind="exception", services=(8, 12), second="cpu_contention")
    assert both.labels[0] == alone.labels[0]
    assert [label.fault_kind for label in both.labels] == ["exception", "cpu_contention"]
    assert len(set(both.causes())) == 2
    assert both.labels[1].at_ns == both.onset_ns == alone.onset_ns
    for label in both.labels:
        check_label(both.id, label, known_entities(both, telemetry))
    assert bundle_files(both, telemetry)


def test_equal_arguments_give_equal_bytes() -> None:
    first = bundle_files(*simulate(31, 2, services=(5, 8), kind="latency", second="exception"))
    assert bundle_files(*simulate(31, 2, services=(5, 8), kind="latency", second="exception")) == first
    assert bundle_files(*simulate(31, 2, services=(5, 8), kind="latency")) != first


def test_the_second_fault_changes_nobody_but_its_own_victim() -> None:
    alone = scenario(31, 5, CLEAR, kind="exception", services=(8, 12)).world.conditions
    made = scenario(31, 5, CLEAR, kind="exception", services=(8, 12), second="cpu_contention")
    both, system = made.world.conditions, made.world.system
    assert made.second is not None
    assert (both.own_error == alone.own_error).all()
    burning = (both.burnt > alone.burnt).any(axis=1)
    assert {system.names[system.pod_component[p]] for p in burning.nonzero()[0]} == {made.second[1].name}


def test_both_faults_show() -> None:
    seen = [0, 0]
    for index in range(3):
        incident, telemetry = simulate(21, index, CLEAR, kind="exception", services=(8, 12), second="cpu_contention")
        case = case_of(incident, telemetry)
        for place, (cause, signal) in enumerate(zip(incident.causes(), ("own_errors", "cpu"), strict=True)):
            seen[place] += case.deviations.node[case.graph.rows[cause], NODE_COLUMN[signal]] > 3
    assert min(seen) >= 2


def test_beside_nobody_s_fault_there_is_no_second() -> None:
    for kind in (NO_FAULT, "traffic_surge"):
        incident, telemetry = simulate(31, 0, kind=kind, services=(5, 8), second="exception")
        assert bundle_files(incident, telemetry) == bundle_files(*simulate(31, 0, kind=kind, services=(5, 8)))
        assert not incident.causes()


def test_where_nobody_else_can_be_the_victim_there_is_no_second() -> None:
    """A system with two caches is rare: mostly the only one has failed already."""
    counts = {len(simulate(31, index, kind="cache_down", services=(5, 6), second="cold_cache")[0].causes()) for index in range(6)}
    assert 1 in counts


@pytest.mark.parametrize("second", ["slow_databases", NO_FAULT, "traffic_surge"])
def test_a_second_fault_must_be_somebody_s(second: str) -> None:
    with pytest.raises(UnknownName, match="second fault kind") as refused:
        simulate(1, 0, second=second)
    assert "slow_database" in SIMULATED
    assert second in str(refused.value)
