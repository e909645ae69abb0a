"""Several causes at once: who is named beside the first candidate, and who may be a victim of it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from rca.contracts import Case
from rca.features import EDGE_FEATURE_NAMES, NODE_FEATURE_NAMES
from rca.graph import ServiceGraph
from rca.incidents.incident import Incident
from rca.models.registry import create
from rca.pipeline import case_of, subject_of
from rca.ranking import Ranking, rank_by_score
from rca.report import TriageReport, confidence_of, outcome_of, rendered, report_of
from rca.several import THRESHOLD, also_of, joined, loudest_other
from rca.simulator import simulate
from rca.sinks.notice import Notice
from rca.sinks.redaction import redacted
from rca.telemetry import ENTITY_KINDS, EntityId, EntityKind, Interval
from scripts.sets import SEVERAL, read_result
from scripts.several import FALSE, NAMED, SINGLE, TOLD, Answer, findings
from scripts.several_page import section
from tests.graphs import permuted, random_graph
from tests.test_simulator import CLEAR

KINDS: dict[str, EntityKind] = {"d": "database", "q": "queue", "e": "external", "p": "pod", "n": "node"}
"""Kinds of the entities below by the first letter of their names; all others are services."""


def _entity(name: str) -> EntityId:
    return EntityId(KINDS.get(name[0], "service"), name)


def _graph(
    loud: Mapping[str, float], edges: Mapping[str, Sequence[tuple[str, str]]], callees: Mapping[str, float] | None = None
) -> ServiceGraph:
    """A graph of entities by the loudest signal of each, its CPU, and that of its loudest callee."""
    entities = tuple(sorted(map(_entity, loud), key=lambda entity: ENTITY_KINDS.index(entity.kind)))
    features = np.zeros((len(entities), len(NODE_FEATURE_NAMES)), dtype=np.float32)
    available = np.zeros(features.shape, dtype=bool)
    for row, entity in enumerate(entities):
        told = {"cpu.above": loud[entity.name], "own.loudest": loud[entity.name], "floor": loud[entity.name]}
        for name, value in (told | {"callees.loudest": (callees or {}).get(entity.name, 0.0)}).items():
            features[row, NODE_FEATURE_NAMES.index(name)] = value
            available[row, NODE_FEATURE_NAMES.index(name)] = True
    rows = {entity.name: row for row, entity in enumerate(entities)}
    ends = {relation: np.array([[rows[a], rows[b]] for a, b in pairs], dtype=np.int64).T for relation, pairs in edges.items()}
    values = {relation: np.zeros((pairs.shape[1], len(EDGE_FEATURE_NAMES)), dtype=np.float32) for relation, pairs in ends.items()}
    known = {relation: np.zeros(each.shape, dtype=bool) for relation, each in values.items()}
    return ServiceGraph(entities, NODE_FEATURE_NAMES, features, available, ends, EDGE_FEATURE_NAMES, values, known).validate()


def _ranking(graph: ServiceGraph) -> Ranking:
    return rank_by_score("floor", Interval(0, 1), graph.candidates, graph.column("floor")[graph.candidate_rows])


def _named(graph: ServiceGraph, threshold: float = 2.0) -> list[str]:
    return [entity.name for entity in also_of(graph, _ranking(graph), threshold)]


def test_a_loud_candidate_that_nothing_joins_with_the_first_is_named() -> None:
    graph = _graph({"front": 0.5, "cart": 5.0, "search": 4.0, "mail": 1.0}, {"calls": [("front", "cart"), ("front", "search")]})
    assert _named(graph) == ["search"]
    assert _named(graph, 4.0) == []  # as loud as the threshold is not above it
    assert loudest_other(graph, _ranking(graph)) == 4.0


CHAINS: dict[str, tuple[dict[str, list[tuple[str, str]]], str]] = {
    "a callee": ({"calls": [("cart", "other")]}, "other"),
    "a caller": ({"calls": [("other", "cart")]}, "other"),
    "a callee's callee": ({"calls": [("cart", "mid")], "queries": [("mid", "database")]}, "database"),
    "a caller's caller": ({"calls": [("other", "mid"), ("mid", "cart")]}, "other"),
    "who consumes what it publishes": ({"publishes": [("cart", "queue")], "consumes": [("other", "queue")]}, "other"),
    "who publishes what it consumes": ({"publishes": [("other", "queue")], "consumes": [("cart", "queue")]}, "other"),
    "its node": ({"runs": [("cart", "pod-0")], "hosted_on": [("pod-0", "node-0")]}, "node-0"),
    "the node of a callee": (
        {"calls": [("cart", "mid")], "runs": [("mid", "pod-0")], "hosted_on": [("pod-0", "node-0")]},
        "node-0",
    ),
    "a replica": ({"replicates": [("cart", "other")]}, "other"),
    "whose replica it is": ({"replicates": [("other", "cart")]}, "other"),
}


@pytest.mark.parametrize("how", CHAINS)
def test_what_is_joined_with_the_first_may_be_its_victim(how: str) -> None:
    edges, second = CHAINS[how]
    names = {name for pairs in edges.values() for pair in pairs for name in pair}
    loud = dict.fromkeys(names, 0.1) | {"cart": 6.0, second: 5.0}
    assert _named(_graph(loud, edges)) == []
    assert _named(_graph(loud, {})) == [second]


def test_two_on_one_node_are_not_joined_by_it() -> None:
    edges = {"runs": [("cart", "pod-0"), ("search", "pod-1")], "hosted_on": [("pod-0", "node-0"), ("pod-1", "node-0")]}
    loud = {"cart": 5.0, "search": 4.0, "pod-0": 5.0, "pod-1": 4.0, "node-0": 0.0}
    assert _named(_graph(loud, edges)) == ["search"]


def test_what_a_louder_callee_explains_is_not_named() -> None:
    edges = {"calls": [("search", "index")]}
    graph = _graph({"cart": 5.0, "search": 3.0, "index": 4.0}, edges, callees={"search": 4.0})
    assert _named(graph) == ["index"]


def test_of_two_that_are_joined_one_is_named() -> None:
    graph = _graph({"cart": 5.0, "search": 4.0, "index": 3.0}, {"calls": [("search", "index")]})
    assert _named(graph) == ["search"]
    apart = _graph({"cart": 5.0, "search": 4.0, "index": 3.0}, {})
    assert _named(apart) == ["search", "index"]


def test_pods_are_no_candidates() -> None:
    assert _named(_graph({"cart": 5.0, "pod-0": 4.0}, {})) == []


def test_alerts_alone_name_nobody_beside_the_first() -> None:
    graph = _graph({"cart": 5.0, "search": 4.0}, {})
    cpu, novelty = (NODE_FEATURE_NAMES.index(f"{name}.above") for name in ("cpu", "alert_novelty"))
    features, available = graph.features.copy(), graph.available.copy()
    features[:, novelty], available[:, novelty] = features[:, cpu], True
    features[:, cpu], available[:, cpu] = 0.0, False
    assert _named(replace(graph, features=features, available=available)) == []


def test_nothing_ranked_names_nobody() -> None:
    graph = _graph({"pod-0": 4.0}, {})
    assert also_of(graph, _ranking(graph)) == ()
    assert loudest_other(graph, _ranking(graph)) == -np.inf


def _random(seed: int) -> ServiceGraph:
    rng = np.random.default_rng(seed)
    others: dict[EntityKind, int] = {"database": 2, "queue": 1, "pod": 4, "node": 2}
    return random_graph(rng, 7, others=others, edges_per_service=0.3, features=NODE_FEATURE_NAMES_AND_MEANS)


NODE_FEATURE_NAMES_AND_MEANS = (*NODE_FEATURE_NAMES, "loud.mean")
"""With the feature that random graphs make the label-free score of."""


@given(st.integers(0, 10_000), st.floats(-1, 1, width=32))
def test_nobody_named_is_joined_with_anybody_named_nor_with_the_first(seed: int, threshold: float) -> None:
    graph = _random(seed)
    ranking = _ranking(graph)
    named = also_of(graph, ranking, threshold)
    told = [graph.rows[entity] for entity in (ranking.candidates[0].entity, *named)]
    for row in told:
        assert joined(graph, row)[told].sum() == 1
    assert bool(named) == (loudest_other(graph, ranking) > threshold)
    assert all(graph.column("own.loudest")[graph.rows[entity]] > threshold for entity in named)


@given(st.integers(0, 10_000))
def test_to_be_joined_goes_both_ways_and_hangs_on_no_order(seed: int) -> None:
    graph = _random(seed)
    every = np.stack([joined(graph, row) for row in range(len(graph.entities))])
    assert (every == every.T).all()
    assert every.diagonal().all()
    shuffled, places = permuted(graph, np.random.default_rng(seed))
    again = np.stack([joined(shuffled, row) for row in range(len(graph.entities))])
    assert (again[np.ix_(places, places)] == every).all()


def test_shares_count_what_they_say() -> None:
    a, b, c = (_entity(name) for name in ("aa", "bb", "cc"))
    answers = [
        Answer(SINGLE, 0, right=True, said=(), causes=(a,)),
        Answer(SINGLE, 1, right=True, said=(b,), causes=(a,)),
        Answer(SINGLE, 2, right=False, said=(b,), causes=(a,)),
        Answer("double", 3, right=True, said=(b,), causes=(a, b), second=b, apart=True),
        Answer("double", 4, right=True, said=(c,), causes=(a, b), second=b, apart=True),
        Answer("double", 5, right=True, said=(), causes=(a, b), second=b),
        Answer("double", 6, right=False, said=(), causes=(a, b)),
    ]
    shares = {one["what"]: (one["n"], round(one["value"], 3)) for one in findings(answers)}
    assert [value for what, value in shares.items()] == [(2, 0.5), (3, 0.667), (3, 0.667), (3, 0.667), (3, 0.333), (2, 0.5)]
    assert not any(what.startswith("quiet") for what in shares)


def test_the_section_has_what_was_found_and_says_the_rule_without() -> None:
    assert section({}).startswith("## Several causes at once")
    assert "| where |" not in section({})
    found: dict[str, Any] = {
        "fit": {"most_false": 0.05, "simulated": {"incidents": 80}, "shop": {"incidents": 34}},
        "judged": {
            "ranker": "general",
            "systems": 200,
            "simulated": [
                _share(FALSE, 150, 0.02, 0.0, 0.05),
                _share(TOLD, 140, 0.14, 0.1, 0.2),
                _share(NAMED, 140, 0.09, 0.05, 0.13),
            ],
            "shop": [_share(FALSE, 1, 0.0, None, None)],
        },
    }
    told = section(found)
    assert f"| simulated | {FALSE} | 150 | 2 % [0, 5] |" in told
    assert f"| shop | {FALSE} | 1 | 0 % |" in told
    assert "told in 14 %, and it is the other cause in 9 %" in told


def _share(what: str, n: int, value: float, low: float | None, high: float | None) -> dict[str, Any]:
    return {"what": what, "n": n, "value": value, "low": low, "high": high}


def test_the_threshold_is_the_one_that_was_fitted() -> None:
    kept = read_result(SEVERAL)
    assert kept["fit"]["threshold"] == kept["judged"]["threshold"] == THRESHOLD


@cache
def _two_faults(second: str | None = "cpu_contention") -> tuple[Incident, Case, TriageReport]:
    incident, telemetry = simulate(21, 8, CLEAR, kind="exception", services=(8, 12), second=second)
    case = case_of(incident, telemetry)
    return incident, case, report_of(subject_of(incident, case), case, create("floor").rank(case), top=3)


def test_a_report_names_a_second_cause_and_says_so() -> None:
    incident, _, report = _two_faults()
    first, second = incident.causes()
    assert report.leader == first
    assert report.also == (second,)
    assert f"{second.name} may be a second cause: nothing joins it with {first.name}." in report.confidence.words
    assert report.to_json()["also"] == [{"kind": "service", "name": second.name, "namespace": ""}]
    console = Console(file=io.StringIO(), width=400)
    console.print(rendered(report, top=3))
    assert "may be a second cause" in console.file.getvalue()  # type: ignore[attr-defined]


def test_with_one_fault_it_says_nothing_of_a_second() -> None:
    _, _, report = _two_faults(None)
    assert report.also == ()
    assert "second cause" not in report.confidence.words


def test_several_more_are_told_together() -> None:
    _, _, report = _two_faults()
    words = confidence_of(report.ranking, [_entity("cart"), _entity("database-1")]).words
    assert "cart and database database-1 may be causes of their own: nothing joins them with" in words


def test_a_redacted_message_names_nobody_and_still_says_so() -> None:
    _, _, report = _two_faults()
    notice = Notice(incident_id="i", group_key="g", revision=1, state="firing", title="title", report=report)
    hidden = redacted(notice, b"0123456789abcdef0123456789abcdef").report
    assert hidden is not None
    assert hidden.confidence.outcome == "cause"
    assert f"{hidden.also[0].name} may be a second cause" in hidden.confidence.words
    assert report.also[0].name not in hidden.confidence.words


def test_who_is_not_sure_of_a_cause_names_no_second() -> None:
    """Where there is likely no fault, the same candidates say nothing of a second cause."""
    _, case, report = _two_faults()
    doubtful = report_of(report.incident, case, replace(report.ranking, no_fault=0.99), top=3)
    assert doubtful.confidence.outcome == outcome_of(doubtful.ranking) == "no_fault"
    assert doubtful.also == ()
    assert "second cause" not in doubtful.confidence.words
