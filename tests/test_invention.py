"""Invented incidents: seeded, on the system's own entities, loud at the culprit, silent about what is not observed."""

from __future__ import annotations

import numpy as np
import pytest

from rca.deviations import Deviations
from rca.faults import FAMILIES
from rca.invention import SHAPES, invent
from rca.signals import EDGE_SIGNALS, NODE_COLUMN, NODE_SIGNALS
from rca.telemetry import EntityId


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


def test_every_family_has_a_shape_made_of_known_signals() -> None:
    assert set(SHAPES) == set(FAMILIES)
    for shape in SHAPES.values():
        for name in (*shape.culprit, *shape.callers, *shape.callees):
            assert name.lstrip("-") in NODE_COLUMN


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
    assert 100 < hits < 200  # symptoms at callers and wobbles must sometimes be louder, or nothing is left to learn


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
