"""Drift: distances by hand, what chance does, drift that is there, and the file that keeps what training data looked like."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import networkx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rca.arrays import arrays_of
from rca.errors import BadCheckpoint
from rca.graph import ServiceGraph
from rca.models.drift import Drift, as_uneven_by_chance, drift_of
from rca.models.files import WEIGHTS, ModelCard, StoredModel, read_model, write_model
from rca.models.measures import measured
from rca.models.reference import (
    DRAWS,
    REFERENCE_FILE,
    Reference,
    binned,
    by_chance,
    coarse,
    cuts_of,
    digest_of,
    largest_gap,
    read_reference,
    reference_of,
    stability_index,
    write_reference,
)
from rca.models.training import reference_of_graphs
from rca.tensors import batch
from scripts.drift_check import SIGNALS, drift_in, recorded_table
from scripts.drift_check import louder as loud
from tests.graphs import permuted, random_graph

COUNTS = st.integers(2, 12).flatmap(lambda n: st.tuples(*[st.lists(st.integers(0, 500), min_size=n, max_size=n)] * 2))
FEATURES = (
    "floor",
    "cpu.z",
    "memory.z",
    "self_time.z",
    "errors.z",
    "error_lines.z",
    "new_templates.z",
    "warnings.z",
    "x.mean",
    "y.mean",
)

SIGNAL_FEATURES = ("floor", *(f"{signal}.{part}" for signal in SIGNALS for part in ("z", "above")), "x.mean")


def graphs(seed: int, count: int, most: int = 14) -> list[ServiceGraph]:
    """Graphs of systems of different sizes, with features of several modalities."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(6, most, count).tolist()
    return [random_graph(rng, n, others={"database": 2}, features=FEATURES, edge_features=("gap.z",), culprit=0) for n in sizes]


def reference(found: Sequence[ServiceGraph], *, systems: Sequence[str] | None = None, **more: object) -> Reference:
    names = systems or [f"s{i}" for i in range(len(found))]
    return reference_of(arrays_of(found), names, **more)  # type: ignore[arg-type]


def compared(known: Reference, found: Sequence[ServiceGraph], systems: Sequence[str] | None = None) -> Drift:
    return drift_of(known, found, systems or [f"t{i}" for i in range(len(found))])


@pytest.fixture(scope="module")
def known() -> Reference:
    return reference(graphs(1, 150))


# --- distances ---------------------------------------------------------------------------------------------------


def test_the_index_by_hand() -> None:
    # Two bins and 40 units: one part of 41 is shared evenly.
    p, q = (0.5, 0.5), (30.5 / 41, 10.5 / 41)
    expected = sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))
    assert stability_index(np.array([50.0, 50.0]), np.array([30.0, 10.0]), 40) == pytest.approx(expected)
    assert expected == pytest.approx(0.2601, abs=1e-4)


def test_the_gap_by_hand() -> None:
    assert largest_gap(np.array([5.0, 5.0, 0.0]), np.array([1.0, 2.0, 1.0])) == pytest.approx(0.25)  # .5, 1, 1 and .25, .75, 1
    assert largest_gap(np.array([3.0, 0.0]), np.array([0.0, 7.0])) == 1.0
    assert largest_gap(np.array([3.0, 0.0]), np.zeros(2)) is None


@given(COUNTS)
def test_distances_keep_to_their_range(counts: tuple[list[int], list[int]]) -> None:
    training, now = (np.array(each, dtype=np.float64) for each in counts)
    fewer = float(min(training.sum(), now.sum()))
    assert stability_index(training, now, fewer) >= 0
    assert stability_index(training, training, float(training.sum())) == pytest.approx(0, abs=1e-12)
    gap = largest_gap(training, now)
    assert gap is None or 0 <= gap <= 1
    if training.sum():
        assert largest_gap(training, training) == 0


@given(st.lists(st.integers(0, 500), min_size=2, max_size=12), st.integers(1, 9))
def test_equal_shares_are_no_drift(counts: list[int], times: int) -> None:
    training = np.array(counts, dtype=np.float64)
    assert stability_index(training, times * training, 5) == pytest.approx(0, abs=1e-12)
    assert stability_index(training, np.zeros(len(counts)), 0) == 0  # nothing observed says nothing


VALUES = st.lists(st.one_of(st.sampled_from([0.0, 1.0]), st.floats(-50, 50, width=16)), max_size=200)


@given(VALUES, st.randoms(use_true_random=False))
def test_bins_hold_every_value_in_any_order(values: list[float], random: object) -> None:
    found = np.array(values, dtype=np.float16)
    cuts = cuts_of(found)
    assert (np.diff(cuts.astype(float)) > 0).all()
    counts = np.bincount(binned(found, cuts), minlength=len(cuts) + 1)
    random.shuffle(values)  # type: ignore[attr-defined]
    mixed = np.array(values, dtype=np.float16)
    assert np.array_equal(cuts, cuts_of(mixed))
    assert np.array_equal(counts, np.bincount(binned(mixed, cuts), minlength=len(cuts) + 1))
    assert counts.sum() == len(values)
    starts = coarse(counts)
    assert starts == sorted(set(starts))
    assert starts[0] == 0
    assert np.add.reduceat(counts, starts).sum() == len(values)


def test_a_frequent_value_has_a_bin_to_itself() -> None:
    values = np.array([-1.0] * 4 + [0.0] * 60 + [1.0] * 36, dtype=np.float16)
    cuts = cuts_of(values)
    counts = np.bincount(binned(values, cuts), minlength=len(cuts) + 1)
    assert counts[binned(np.zeros(1, dtype=np.float16), cuts)[0]] == 60
    starts = coarse(counts)
    merged = np.add.reduceat(counts, starts)
    assert 60 in merged
    shifted = np.bincount(binned(np.full(100, 0.01, dtype=np.float16), cuts), minlength=len(counts))
    assert stability_index(merged.astype(float), np.add.reduceat(shifted, starts).astype(float), 100) > 1


def test_a_constant_that_moves_is_seen() -> None:
    values = np.ones(50, dtype=np.float16)
    cuts = cuts_of(values)
    counts = np.bincount(binned(values, cuts), minlength=len(cuts) + 1)
    for other in (0.999, 1.001):
        moved = np.bincount(binned(np.full(50, other, dtype=np.float16), cuts), minlength=len(counts))
        starts = coarse(counts)
        index = stability_index(np.add.reduceat(counts, starts).astype(float), np.add.reduceat(moved, starts).astype(float), 50)
        assert index > 1


def test_fishers_test_by_hand() -> None:
    # Lady tasting tea: 3 of 4 against 1 of 4 is .486, 4 against 0 is .0286.
    assert as_uneven_by_chance(3, 4, 1, 4) == pytest.approx(34 / 70)
    assert as_uneven_by_chance(4, 4, 0, 4) == pytest.approx(2 / 70)
    assert as_uneven_by_chance(0, 5, 0, 7) == pytest.approx(1)


def test_what_chance_does_is_read_between_the_draws() -> None:
    values = (6.0, 5.0, 4.0, 3.0, 2.0, 1.0)
    assert by_chance(values, 10) == 4.0
    assert 3.0 < by_chance(values, 20) < 4.0
    assert (by_chance(values, 0), by_chance(values, 5000)) == (6.0, 1.0)


# --- what is counted ---------------------------------------------------------------------------------------------


def test_what_is_counted_by_hand() -> None:
    graph = random_graph(np.random.default_rng(3), 4, features=FEATURES, edge_features=("gap.z",))
    edges = {"calls": np.array([[0, 1], [1, 2]])}  # 0 -> 1 -> 2, and 3 alone
    available = np.ones_like(graph.available)
    available[:, FEATURES.index("error_lines.z")] = False
    available[:, FEATURES.index("new_templates.z")] = False
    graph = replace(
        graph,
        features=np.where(available, graph.features, 0),
        available=available,
        edges=edges,
        edge_features={"calls": np.zeros((2, 1), dtype=np.float32)},
        edge_available={"calls": np.array([[True], [False]])},
    )
    found = measured(arrays_of([graph, graph]))
    measures = found.measures
    assert sorted(measures["component.nodes"].values.tolist()) == [1, 1, 3, 3]
    assert measures["degree.in"].values.tolist() == [0, 1, 1, 0] * 2
    assert measures["degree.out"].values.tolist() == [1, 1, 0, 0] * 2
    assert measures["graph.components"].values.tolist() == [2, 2]
    assert (len(measures["edge.gap.z"].values), measures["edge.gap.z"].asked.tolist()) == (2, [2, 2])
    assert found.missing["logs"].tolist() == [True, True]
    assert not found.missing["metrics"].any()
    assert (found.kinds["service"], found.relations) == (8, {"calls": 4})


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 30), min_size=1, max_size=4), st.floats(0, 1.5))
def test_degrees_and_connected_parts_of_any_graph(seed: int, sizes: list[int], density: float) -> None:
    rng = np.random.default_rng(seed)
    found = [
        random_graph(rng, n, others={"database": n % 3}, edges_per_service=density, features=FEATURES, edge_features=("gap.z",))
        for n in sizes
    ]
    measures = measured(arrays_of(found)).measures
    for place, graph in enumerate(found):
        pairs = [pair for edges in graph.edges.values() for pair in edges.T.tolist()]
        nodes = range(len(graph.entities))

        def of(name: str, place: int = place) -> list[float]:
            measure = measures[name]
            return sorted(measure.values[measure.owner == place].tolist())

        assert of("degree.out") == sorted(sum(source == node for source, _ in pairs) for node in nodes)
        assert of("degree.in") == sorted(sum(target == node for _, target in pairs) for node in nodes)
        parts = list(networkx.connected_components(networkx.Graph([*pairs, *((node, node) for node in nodes)])))
        assert of("component.nodes") == sorted(len(part) for part in parts)
        assert (of("graph.components"), of("graph.edges"), of("graph.nodes")) == ([len(parts)], [len(pairs)], [len(nodes)])


def test_the_order_of_nodes_and_graphs_does_not_matter(known: Reference) -> None:
    found = graphs(8, 12)
    rng = np.random.default_rng(0)
    mixed = [permuted(found[i], rng)[0] for i in rng.permutation(len(found))]
    assert compared(known, mixed) == compared(known, found)


# --- drift -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 10, 60])
def test_a_fresh_draw_raises_no_alarm(known: Reference, count: int) -> None:
    for seed in range(20, 26):
        drift = compared(known, graphs(seed, count))
        assert not drift.found, drift.sentence()
        few = {1: ", as far as 1 system can tell", 2: ", as far as 2 systems can tell"}
        assert drift.sentence() == f"features look like training data{few.get(count, '')}"


def test_few_graphs_of_one_system_raise_no_alarm_where_graphs_are_drawn() -> None:
    one_system = reference(graphs(1, 40, most=8), systems=["shop"] * 40)
    assert (one_system.unit, one_system.units) == ("graph", 40)
    for seed in range(30, 36):
        assert not compared(one_system, graphs(seed, 10, most=8), ["shop"] * 10).found


def test_two_graphs_are_too_few_to_judge_by() -> None:
    drift = compared(reference(graphs(1, 40), systems=["shop"] * 40), [louder(graph) for graph in graphs(2, 2)], ["shop"] * 2)
    assert not drift.found
    assert drift.sentence() == "features look like training data, as far as 2 graphs can tell"


def louder(graph: ServiceGraph) -> ServiceGraph:
    """Durations are measured in another unit."""
    values = graph.features.copy()
    values[:, FEATURES.index("self_time.z")] += np.where(graph.available[:, FEATURES.index("self_time.z")], 2.0, 0.0)
    values[:, FEATURES.index("errors.z")] *= 4
    return replace(graph, features=values)


def without_logs(graph: ServiceGraph) -> ServiceGraph:
    gone = [FEATURES.index("error_lines.z"), FEATURES.index("new_templates.z")]
    values, available = graph.features.copy(), graph.available.copy()
    values[:, gone], available[:, gone] = 0, False
    return replace(graph, features=values, available=available)


def test_another_unit_is_found(known: Reference) -> None:
    drift = compared(known, [louder(graph) for graph in graphs(40, 30)])
    assert drift.alarms("feature")
    assert {shift.name for shift in drift.drifted("feature")} >= {"self_time.z", "errors.z"}
    assert {shift.name for shift in drift.drifted("feature")} <= {"self_time.z", "errors.z", "floor"}
    assert "features differ from training data, above all self time (higher, PSI 3.15), failed requests" in drift.sentence()
    shift = next(shift for shift in drift.shifts if shift.name == "self_time.z")
    assert shift.psi > max(1, shift.psi_by_chance)
    assert shift.ks is not None
    assert shift.ks > 0.5


def test_logs_that_went_are_found(known: Reference) -> None:
    found = graphs(41, 30)
    drift = compared(known, [without_logs(graph) for graph in found[:24]] + found[24:])
    assert drift.sentence().startswith("logs are missing in 80 % of now's graphs, 0 % in training")
    (logs,) = [modality for modality in drift.modalities if modality.differs]
    assert (logs.name, logs.missing, logs.missing_training) == ("logs", 0.8, 0.0)
    few = compared(known, [without_logs(found[0]), *found[1:10]])
    assert not any(modality.differs for modality in few.modalities)


def test_larger_systems_are_found(known: Reference) -> None:
    drift = compared(known, graphs(42, 40, most=90))
    assert drift.alarms("structure")
    assert "graph.nodes" in {shift.name for shift in drift.drifted("structure")}
    assert "measures of the structure differ" in drift.sentence()


def test_kinds_that_training_lacked_are_named(known: Reference) -> None:
    rng = np.random.default_rng(5)
    other = random_graph(rng, 8, others={"database": 2, "queue": 2}, features=FEATURES, edge_features=("gap.z",))
    drift = compared(known, [*graphs(43, 10), other])
    assert drift.unseen_kinds == ("queue",)
    assert drift.unseen_relations == ("publishes",)
    assert "no training graph had a queue" in drift.sentence()


def test_a_single_graph_is_compared(known: Reference) -> None:
    empty = random_graph(np.random.default_rng(0), 0, features=FEATURES, edge_features=("gap.z",))
    drift = compared(known, [empty])
    assert drift.graphs == 1
    assert all(shift.psi == 0 for shift in drift.shifts if shift.group == "feature")


def test_the_check_on_simulated_systems_counts_what_it_should() -> None:
    found = graphs(50, 60)
    told = batch(found, targets=[(0,)] * 60).compact()
    known = reference_of_graphs(told, {"what": "examples"})
    assert (known.graphs, known.unit, known.made_of) == (60, "system", {"what": "examples"})
    same, louder_now = (drift_in(known, told, range(40), signal) for signal in ("", "self_time"))
    assert not same.found
    assert "self_time.z" in {shift.name for shift in louder_now.drifted("feature")}
    quiet = replace(told, is_normal=torch.arange(60) >= 30)
    assert reference_of_graphs(quiet, {}).graphs == 30


def test_systems_that_were_not_trained_on_are_named(known: Reference) -> None:
    drift = compared(known, graphs(44, 3), ["s1", "other", "other"])
    assert (drift.systems, drift.strangers) == (2, ("other",))


# --- the file ----------------------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> StoredModel:
    card = ModelCard("gnn", FEATURES, ("gap.z",), {}, {}, name="mine")
    write_model(tmp_path / "mine", card, {WEIGHTS: b"weights"})
    return read_model(tmp_path / "mine")


def test_a_reference_travels_with_its_model(model: StoredModel) -> None:
    made = reference(graphs(1, 20), incidents=["a", "b"], made_of={"what": "examples"})
    path = write_reference(model, made)
    found = read_reference(model)
    assert found == replace(made, weights=model.files[WEIGHTS][1])
    assert found is not None
    assert (found.learnt_from("a"), found.learnt_from("c"), found.knows("s3"), found.knows("t3")) == (True, False, True, False)
    assert path.stat().st_size < 64 * 1024
    assert '"s3"' not in path.read_text()
    assert digest_of("s3") in path.read_text()


def test_too_many_names_are_not_listed() -> None:
    found = reference(graphs(1, 3), incidents=[str(i) for i in range(3000)])
    assert found.incidents == ()
    assert len(found.systems) == 3


def test_a_model_without_a_reference_has_none(model: StoredModel) -> None:
    assert read_reference(model) is None


def changed(change: Callable[[dict[str, object]], object]) -> Callable[[str], str]:
    def apply(text: str) -> str:
        body = json.loads(text)
        change(body)
        return json.dumps(body)

    return apply


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text[: len(text) // 2], "a reference"),
        (lambda _: "[]", "a reference"),
        (lambda _: "{}", "a reference"),
        (lambda text: text.replace('"graphs":', '"graphs" :', 1).replace(" 20,", " 21,", 1), "digest"),
        (changed(lambda body: body.update(version="2")), "version '1', found '2'"),
        (changed(lambda body: body.update(kinds={})), "digest"),
    ],
)
def test_a_damaged_reference_is_refused(model: StoredModel, change: Callable[[str], str], words: str) -> None:
    path = write_reference(model, reference(graphs(1, 20)))
    path.write_text(change(path.read_text()))
    with pytest.raises(BadCheckpoint, match=words) as error:
        read_reference(model)
    assert REFERENCE_FILE in str(error.value)


def test_the_reference_of_other_weights_is_refused(model: StoredModel) -> None:
    write_reference(model, reference(graphs(1, 20)))
    write_model(model.folder, model.card, {WEIGHTS: b"others"})
    with pytest.raises(BadCheckpoint, match="that of the weights"):
        read_reference(read_model(model.folder))


def test_draws_are_those_of_the_file(known: Reference) -> None:
    assert all(len(sketch.psi_by_chance) == len(DRAWS) for sketch in known.sketches.values())
    assert all(
        low >= high - 0.05
        for sketch in known.sketches.values()
        for low, high in zip(sketch.psi_by_chance[2:], sketch.psi_by_chance[3:], strict=False)
    )


@pytest.mark.parametrize("name", ["simulated", "general"])
def test_models_of_the_project_have_references(name: str) -> None:
    model = read_model(Path(__file__).resolve().parents[1] / "models" / name)
    found = read_reference(model)
    assert found is not None
    assert set(found.sketches) >= set(model.card.features)
    assert (model.folder / REFERENCE_FILE).stat().st_size < 80 * 1024
    simulated = model.card.data.get("simulated")
    assert found.made_of == ({"what": "simulated incidents", **simulated} if simulated else {"what": "recorded incidents"})


def test_the_check_on_recorded_incidents_counts_what_it_should() -> None:
    found = [
        random_graph(np.random.default_rng(seed), 8, features=SIGNAL_FEATURES, edge_features=("gap.z",)) for seed in range(60)
    ]
    known = reference(found[:30], systems=["shop"] * 30)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in recorded_table(known, found[30:40] * 4, 2).splitlines()]
    assert lines[0] == ["incidents", "as they are", "server_latency louder", "self_time louder", "cpu louder"]
    by_number = {line[0]: line[1:] for line in lines[2:]}
    assert by_number["3"] == ["0 of 2"] * 4, "of so few nothing is said"
    assert by_number["40"] == ["0 of 2", "2 of 2", "2 of 2", "2 of 2"]
    louder_now = loud(found[0], "cpu").features - found[0].features
    column = SIGNAL_FEATURES.index("cpu.z")
    assert np.allclose(louder_now[:, column], 0.5 * found[0].available[:, column])
    assert np.count_nonzero(np.delete(louder_now, [column, column + 1], axis=1)) == 0
