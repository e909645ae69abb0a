"""From telemetry to case: the culprit comes first, and neither names nor the order of rows matter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from rca.bins import BIN_NS, frames_of
from rca.contracts import Case
from rca.incidents.example import DATABASES, FAULTS, SERVICES, example_incident
from rca.incidents.incident import Incident
from rca.pipeline import case_of
from rca.telemetry import EntityId, Telemetry

REAL_FAULTS = [kind for kind in FAULTS if kind != "no_fault"]


def by_entity(case: Case) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    graph = case.graph
    return {str(entity): (graph.features[row], graph.available[row]) for entity, row in graph.rows.items()}


def by_edge(case: Case) -> dict[tuple[str, str, str], np.ndarray]:
    graph = case.graph
    return {
        (relation, str(graph.entities[a]), str(graph.entities[b])): graph.edge_features[relation][column]
        for relation, pairs in graph.edges.items()
        for column, (a, b) in enumerate(pairs.T.tolist())
    }


def equal(one: Case, other: Case, tolerance: float = 0.0) -> None:
    assert one.graph.entities == other.graph.entities
    np.testing.assert_array_equal(one.graph.available, other.graph.available)
    np.testing.assert_allclose(one.graph.features, other.graph.features, rtol=0, atol=tolerance)
    for relation, pairs in one.graph.edges.items():
        np.testing.assert_array_equal(pairs, other.graph.edges[relation])
        np.testing.assert_allclose(one.graph.edge_features[relation], other.graph.edge_features[relation], rtol=0, atol=tolerance)
    assert len(one.quiet) == len(other.quiet)


def rank_of(case: Case, entity: EntityId) -> int:
    """Pessimistic rank by the label-free score."""
    scores = case.graph.column("floor")[case.graph.candidate_rows]
    return int((scores >= case.graph.column("floor")[case.graph.rows[entity]]).sum())


@pytest.mark.parametrize("culprit", SERVICES)
@pytest.mark.parametrize("fault_kind", REAL_FAULTS)
def test_the_label_free_score_finds_the_culprit_of_the_example(fault_kind: str, culprit: str) -> None:
    incident, telemetry = example_incident(fault_kind=fault_kind, culprit=culprit)
    case = case_of(incident, telemetry)
    assert rank_of(case, incident.causes()[0]) == 1


def test_spans_that_were_summed_as_they_arrived_give_the_same_case(example: tuple[Incident, Telemetry]) -> None:
    incident, telemetry = example
    binned = replace(telemetry, spans=telemetry.spans.clear(), **frames_of(telemetry.spans))
    assert incident.window.start_ns % BIN_NS == 0  # a bin belongs to the interval that its start lies in
    equal(case_of(incident, telemetry), case_of(incident, binned), tolerance=1e-6)
    one_by_one = {
        name: frame.select(pl.exclude("count").repeat_by("count").explode(), count=pl.lit(1, pl.Int64))
        for name, frame in (("bin_counts", binned.bin_counts), ("bin_durations", binned.bin_durations))
    }
    in_pieces = replace(binned, **{name: frame.select(binned.frames()[name].columns) for name, frame in one_by_one.items()})
    assert in_pieces.bin_counts.height > binned.bin_counts.height
    equal(case_of(incident, telemetry), case_of(incident, in_pieces), tolerance=1e-6)


@pytest.fixture(scope="module", params=["exception", "network_delay"])
def example(request: pytest.FixtureRequest) -> tuple[Incident, Telemetry]:
    return example_incident(seed=3, fault_kind=request.param, culprit="payment", requests_per_second=2.0)


def test_a_case_is_the_same_every_time(example: tuple[Incident, Telemetry]) -> None:
    equal(case_of(*example), case_of(*example))


def test_the_order_of_rows_does_not_matter(example: tuple[Incident, Telemetry]) -> None:
    incident, telemetry = example
    shuffled = Telemetry(**{name: frame.sample(fraction=1, shuffle=True, seed=5) for name, frame in telemetry.frames().items()})
    equal(case_of(incident, telemetry), case_of(incident, shuffled), tolerance=1e-5)


def renamed(telemetry: Telemetry, names: dict[str, str]) -> Telemetry:
    """Every text that is a name, or starts with one as pods do, under its new name."""

    def rename(text: str | None) -> str | None:
        for old, new in names.items():
            if text == old or (text or "").startswith(f"{old}-"):
                return new + (text or "")[len(old) :]
        return text

    frames = {}
    for name, frame in telemetry.frames().items():
        named = [c for c in frame.columns if c in _NAMES]
        frames[name] = frame.with_columns(pl.col(c).map_elements(rename, return_dtype=pl.String) for c in named)
    return replace(telemetry, **frames)


_NAMES = (
    "service.name",
    "k8s.pod.name",
    "service.peer.name",
    "server.address",
    "db.namespace",
    "entity",
    "source",
    "target",
    "peer",
)


def test_names_do_not_matter(example: tuple[Incident, Telemetry]) -> None:
    incident, telemetry = example
    old = (*SERVICES, *DATABASES)
    names = {name: f"{chr(122 - i)}{i}" for i, name in enumerate(old)}  # in the opposite order of the alphabet
    back = {new: name for name, new in names.items()}
    before, after = case_of(incident, telemetry), case_of(incident, renamed(telemetry, names))

    def original(text: str) -> str:
        kind, _, name = text.partition(":")
        return next(
            (f"{kind}:{old}{name[len(new) :]}" for new, old in back.items() if name == new or name.startswith(f"{new}-")), text
        )

    found, expected = {original(entity): features for entity, features in by_entity(after).items()}, by_entity(before)
    assert found.keys() == expected.keys()
    for entity, (features, available) in expected.items():
        np.testing.assert_array_equal(available, found[entity][1], err_msg=entity)
        np.testing.assert_allclose(features, found[entity][0], atol=1e-5, err_msg=entity)
    edges = {(relation, original(a), original(b)): features for (relation, a, b), features in by_edge(after).items()}
    assert edges.keys() == by_edge(before).keys()
    for edge, features in by_edge(before).items():
        np.testing.assert_allclose(features, edges[edge], atol=1e-5, err_msg=str(edge))


def test_a_fault_gone_by_is_loud_and_quiet_times_are_quiet() -> None:
    incident, telemetry = example_incident(fault_kind="no_fault")
    calm = case_of(incident, telemetry)
    loud = case_of(*example_incident(fault_kind="cpu_contention"))
    assert calm.graph.column("floor").max() < loud.graph.column("floor").max() / 2


@pytest.mark.parametrize("kept", ["spans", "metrics", "logs", "events", "alerts"])
def test_one_modality_alone_makes_a_case(kept: str, example: tuple[Incident, Telemetry]) -> None:
    incident, telemetry = example
    case = case_of(incident, Telemetry(**{kept: telemetry.frames()[kept]}))
    assert case.graph.entities
    seen = case.graph.available[:, [i for i, name in enumerate(case.graph.feature_names) if name.endswith(".z")]]
    assert seen.any()


def test_no_baseline_masks_everything_but_what_needs_none(example: tuple[Incident, Telemetry]) -> None:
    incident, telemetry = example
    case = case_of(incident.model_copy(update={"baselines": ()}), telemetry)
    names = np.array(case.graph.feature_names)[case.graph.available.any(axis=0)]
    seen = {name.partition(".")[0] for name in names if name.endswith(".z")}
    assert {name for name in seen if not name.startswith("alert_")} <= {"warnings", "changes"}
