"""A label on a database stays right where its workload is known too, and the graph calls it a service."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import polars as pl
import pytest

from rca.errors import UnknownName
from rca.evaluation.cases import Recorded, exam_of
from rca.evaluation.runner import Exam
from rca.incidents.bundle import IncidentFile
from rca.incidents.entities import check_label, find_entity, known_entities
from rca.incidents.example import example_incident
from rca.incidents.incident import EntityModel, Incident, Label
from rca.pipeline import case_of
from rca.telemetry import EntityId, Telemetry
from rca.topology import standing_for

REDIS = EntityModel(kind="database", name="redis")


def in_a_cluster() -> tuple[Incident, Telemetry]:
    """The example, its Redis labelled as the cause and known to Kubernetes as a workload with a pod."""
    incident, telemetry = example_incident(requests_per_second=0.1)
    runs = ("service", "redis", "runs", "pod", "redis-0")
    row = pl.DataFrame([runs], schema=telemetry.topology.schema, orient="row")
    label = Label(entity=REDIS, fault_kind="cache_down", provenance="injected")
    return incident.model_copy(update={"labels": (label,)}), replace(telemetry, topology=pl.concat([telemetry.topology, row]))


def exam(incident: Incident, telemetry: Telemetry) -> Exam:
    recorded = Recorded.of(IncidentFile(**incident.model_dump()), partial(lambda: (incident, telemetry)))
    return exam_of([recorded])


def test_the_cause_is_a_candidate_by_either_kind() -> None:
    incident, telemetry = example_incident(requests_per_second=0.1)
    plain = incident.model_copy(update={"labels": in_a_cluster()[0].labels})
    assert exam(plain, telemetry).truths[0].causes == (EntityId("database", "redis"),)
    found = exam(*in_a_cluster())
    assert found.truths[0].causes == (EntityId("service", "redis"),)
    assert set(found.truths[0].causes) <= set(found.tested[0].case.graph.candidates)


def test_it_can_be_labelled_by_either_kind() -> None:
    known = known_entities(*in_a_cluster())
    assert find_entity("label", "database:redis", known) == find_entity("label", "redis", known) == EntityId("service", "redis")
    check_label("label", Label(entity=REDIS, fault_kind="cache_down", provenance="confirmed"), known)
    with pytest.raises(UnknownName):
        check_label("label", Label(entity=EntityModel(kind="database", name="rediss"), provenance="confirmed"), known)


def test_only_what_is_called_may_be_a_service() -> None:
    known = {EntityId("service", "a"), EntityId("database", "b"), EntityId("service", "b")}
    assert standing_for(EntityId("queue", "a"), known) == EntityId("service", "a")
    assert standing_for(EntityId("database", "b"), known) == EntityId("database", "b")
    assert standing_for(EntityId("node", "a"), known) == EntityId("node", "a")
    assert standing_for(EntityId("database", "c"), known) == EntityId("database", "c")


def test_what_callers_see_of_it_is_its_own_by_either_kind() -> None:
    incident, telemetry = example_incident()
    _, clustered = in_a_cluster()
    alone = case_of(incident, telemetry).graph
    in_cluster = case_of(incident, replace(telemetry, topology=clustered.topology)).graph
    for signal in ("leaf_latency", "own_errors"):
        ours = in_cluster.column(f"{signal}.z")[in_cluster.rows[EntityId("service", "redis")]]
        assert ours == alone.column(f"{signal}.z")[alone.rows[EntityId("database", "redis")]]
        assert np.isfinite(ours)
