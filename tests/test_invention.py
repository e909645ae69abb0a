"""Invented incidents: seeded, on the system's own entities, loud at the culprit, silent about what is not observed."""

from __future__ import annotations

import numpy as np
import pytest

from rca.deviations import Deviations
from rca.faults import FAULT_KINDS, NO_FAULT
from rca.invention import OTHER_SHAPES, SHAPES, invent
from rca.signals import EDGE_COLUMN, EDGE_SIGNALS, NODE_COLUMN, NODE_SIGNALS
from rca.telemetry import ENTITY_KINDS, EntityId


def chain(length: int = 4) -> Deviations:
    """Services a -> b -> c ... with every node signal at rest."""
    rng = np.random.default_rng(0)
    calls = np.array([range(length - 1), range(1, length)], dtype=np.int64)
    return Deviations(
        tuple(EntityId("service", f"s{i}") for i in range(length)),
        {"calls": calls},
        rng.normal(0, 0.5, (length, len(NODE_SIGNALS))),
        np.zeros((length, len(NODE_SIGNALS))),
        {"calls": rng.normal(0, 0.5, (length - 1, len(EDGE_SIGNALS)))},
    )


def test_every_kind_has_a_shape_made_of_known_signals() -> None:
    assert set(SHAPES) == set(FAULT_KINDS) - {"unknown", NO_FAULT}
    assert set(OTHER_SHAPES) < set(SHAPES)
    for shape in (*SHAPES.values(), *(shape for forms in OTHER_SHAPES.values() for shape in forms)):
        for name in (*shape.culprit, *shape.callers, *shape.callees, *shape.hosted, *shape.climb):
            signal = NODE_SIGNALS[NODE_COLUMN[name.lstrip("-")]]
            assert signal.signed or not name.startswith("-")
        for name in (*shape.into, *shape.out_of):
            signal = EDGE_SIGNALS[EDGE_COLUMN[name.lstrip("-")]]
            assert signal.signed or not name.startswith("-")


def city() -> Deviations:
    """Two services with a pod each on one node, a database, a queue and an external host, every signal at rest."""
    kinds = ("service", "service", "pod", "pod", "node", "database", "queue", "external")
    entities = sorted((EntityId(kind, f"{kind}-{i}") for i, kind in enumerate(kinds)), key=lambda e: ENTITY_KINDS.index(e.kind))
    row = {(e.kind, e.name.split("-")[1]): i for i, e in enumerate(entities)}
    named = {
        "calls": [(("service", "0"), ("service", "1"))],
        "queries": [(("service", "1"), ("database", "5"))],
        "publishes": [(("service", "0"), ("queue", "6"))],
        "consumes": [(("service", "1"), ("queue", "6"))],
        "requests": [(("service", "1"), ("external", "7"))],
        "runs": [(("service", "0"), ("pod", "2")), (("service", "1"), ("pod", "3"))],
        "hosted_on": [(("pod", "2"), ("node", "4")), (("pod", "3"), ("node", "4"))],
    }
    edges = {name: np.array([[row[s], row[t]] for s, t in pairs], dtype=np.int64).T for name, pairs in named.items()}
    rng = np.random.default_rng(0)
    return Deviations(
        tuple(entities),
        edges,
        rng.normal(0, 0.5, (len(entities), len(NODE_SIGNALS))),
        np.zeros((len(entities), len(NODE_SIGNALS))),
        {name: rng.normal(0, 0.5, (ends.shape[1], len(EDGE_SIGNALS))) for name, ends in edges.items()},
    )


def test_culprits_are_of_the_kind_that_the_fault_names() -> None:
    quiet = city()
    everything = np.ones(quiet.node.shape, dtype=bool)
    made = [invent(quiet, everything, np.random.default_rng(seed)) for seed in range(400)]
    kinds = {one.fault_kind for one in made if one is not None}
    assert kinds == set(SHAPES)
    for one in made:
        assert one is not None
        named = FAULT_KINDS[one.fault_kind].label_kinds
        assert (one.culprit is None) == (not named)
        if one.culprit is not None:
            assert quiet.entities[one.culprit].kind in named


def test_a_noisy_node_disturbs_what_runs_on_it() -> None:
    quiet = city()
    made = (invent(quiet, np.ones(quiet.node.shape, dtype=bool), np.random.default_rng(seed)) for seed in range(400))
    noisy = [one for one in made if one is not None and one.fault_kind == "noisy_neighbour"]
    assert noisy
    own = NODE_COLUMN["self_time"]
    loud = [np.abs(one.deviations.node[:2, own]).max() for one in noisy]  # rows 0 and 1: the services on it
    assert np.mean([value > 1.5 for value in loud]) > 0.5


def test_leaks_climb() -> None:
    quiet = city()
    made = (invent(quiet, np.ones(quiet.node.shape, dtype=bool), np.random.default_rng(seed)) for seed in range(600))
    leaks = [one for one in made if one is not None and one.fault_kind == "memory_leak"]
    assert any(one.deviations.slope[one.culprit, NODE_COLUMN["memory"]] > 0 for one in leaks)
    assert not quiet.slope.any()


def test_a_surge_moves_services_together_and_blames_nobody() -> None:
    quiet = chain(8)
    made = (invent(quiet, np.ones(quiet.node.shape, dtype=bool), np.random.default_rng(seed)) for seed in range(400))
    surges = [one for one in made if one is not None and one.fault_kind == "traffic_surge"]
    assert surges
    assert all(one.culprit is None for one in surges)
    moved = [(one.deviations.node[:, NODE_COLUMN["traffic"]] > 2).mean() for one in surges]
    assert np.mean(moved) > 0.5


def test_equal_seeds_invent_equal_incidents() -> None:
    quiet = chain()
    everything = np.ones(quiet.node.shape, dtype=bool)
    first, second = (invent(quiet, everything, np.random.default_rng(3)) for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.culprit == second.culprit
    np.testing.assert_array_equal(first.deviations.node, second.deviations.node)


def test_the_quiet_stretch_is_left_alone() -> None:
    quiet = chain()
    before = quiet.node.copy()
    invent(quiet, np.ones(quiet.node.shape, dtype=bool), np.random.default_rng(1))
    np.testing.assert_array_equal(quiet.node, before)


def test_the_culprit_is_usually_the_loudest() -> None:
    quiet = chain()
    everything = np.ones(quiet.node.shape, dtype=bool)
    hits = 0
    for seed in range(200):
        invented = invent(quiet, everything, np.random.default_rng(seed))
        assert invented is not None
        hits += int(np.argmax(np.abs(invented.deviations.node).max(axis=1)) == invented.culprit)
    assert 80 < hits < 200  # symptoms at callers and wobbles must sometimes be louder, or nothing is left to learn


def test_what_a_system_does_not_report_stays_unobserved() -> None:
    quiet = chain()
    quiet.node[:, NODE_COLUMN["cpu"]] = np.nan
    observed = np.ones(quiet.node.shape, dtype=bool)
    observed[:, NODE_COLUMN["cpu"]] = False
    for seed in range(20):
        invented = invent(quiet, observed, np.random.default_rng(seed))
        assert invented is not None
        assert np.isnan(invented.deviations.node[:, NODE_COLUMN["cpu"]]).all()


@pytest.mark.parametrize("rows", [0, 1])
def test_tiny_systems_do_not_fail(rows: int) -> None:
    quiet = chain(4)
    small = Deviations(quiet.entities[:rows], {}, quiet.node[:rows], quiet.slope[:rows], {})
    invented = invent(small, np.ones(small.node.shape, dtype=bool), np.random.default_rng(0))
    assert (invented is None) == (rows == 0)


def test_a_system_without_signals_yields_nothing() -> None:
    quiet = chain()
    blank = Deviations(quiet.entities, quiet.edges, np.full_like(quiet.node, np.nan), quiet.slope, quiet.edge)
    assert invent(blank, np.zeros(quiet.node.shape, dtype=bool), np.random.default_rng(0)) is None
