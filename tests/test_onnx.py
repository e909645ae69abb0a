"""The exported ranking scores as the networks it was made from, on every shape of graph, and refuses what it was not made for."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rca.arrays import Schema
from rca.contracts import Case
from rca.errors import BadCheckpoint, BadGraph, BadInput, UnknownName
from rca.faults import FAMILIES
from rca.features import NODE_FEATURE_NAMES
from rca.graph import RELATIONS, ServiceGraph
from rca.models import onnx_export, registry
from rca.models.engines import engine_of
from rca.models.files import MODEL_FILE, ONNX, read_model
from rca.models.gnn import NetworkRanker
from rca.models.network import NetworkConfig
from rca.models.onnx_graph import OUTPUTS, feeds
from rca.models.onnx_ranker import OnnxRanker
from rca.models.scored import Scores, ranking_of_scores
from rca.telemetry import ENTITY_KINDS, EntityKind
from rca.tensors import batch
from rca.testing import check_ranker
from tests.cases import example, example_cases
from tests.exported import TEMPERATURE, graph_file, networks, shared_folder, trained_model
from tests.graphs import permuted, random_graph

TOLERANCE = 1e-5
CONFIGS = {
    "usual": (NetworkConfig(width=16, layers=1), 2),
    "softmax": (NetworkConfig(width=16, layers=1, gates="softmax"), 1),
    "no edges": (NetworkConfig(width=16, edges="none"), 1),
}
OTHERS: tuple[EntityKind, ...] = ("pod", "node", "database", "queue", "external")
Values = tuple[npt.NDArray[np.float64], ...]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_folder(tmp_path_factory, "trained-model", trained_model)


@pytest.fixture
def model(folder: Path, tmp_path: Path) -> Path:
    """A copy of the trained model to damage."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.fixture(scope="session", params=CONFIGS)
def engines(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Callable, Callable]:
    """Scores of a graph by onnxruntime and by torch, for one shape of network."""
    config, members = CONFIGS[request.param]
    made = shared_folder(tmp_path_factory, f"graph-{request.param}", lambda path: graph_file(path, config, members))
    session = onnxruntime_session((made / "model.onnx").read_bytes())
    known = {node.name for node in session.get_inputs()}
    ours = networks(config, members)

    def by_onnx(graph: ServiceGraph) -> Values:
        return tuple(session.run(list(OUTPUTS), {name: value for name, value in feeds(graph).items() if name in known}))

    def by_torch(graph: ServiceGraph) -> Values:
        with torch.no_grad():
            outputs = [network(batch([graph]).to("cpu", torch.float64), engine_of("torch")) for network in ours]
        score = torch.stack([output.score for output in outputs]).mean(0)
        null = torch.stack([output.null for output in outputs]).mean(0)
        family = torch.stack([output.family.softmax(1) for output in outputs]).mean(0)
        sure = (torch.cat([score, null]) / TEMPERATURE).softmax(0)
        return score.numpy(), null.numpy(), family.numpy(), sure.numpy()

    return by_onnx, by_torch


def onnxruntime_session(content: bytes):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def assert_close(left: Values, right: Values) -> None:
    for name, ours, theirs in zip(OUTPUTS, left, right, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=TOLERANCE, rtol=0, err_msg=name)


# --- the same numbers ---------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1),
    services=st.integers(1, 40),
    others=st.fixed_dictionaries({}, optional={kind: st.integers(0, 6) for kind in OTHERS}),
    density=st.sampled_from([0.0, 0.3, 2.0, 6.0]),
)
def test_onnx_and_torch_score_alike(engines, seed: int, services: int, others: dict, density: float) -> None:
    by_onnx, by_torch = engines
    graph = random_graph(np.random.default_rng(seed), services, others=others, edges_per_service=density)
    found = by_onnx(graph)
    assert_close(found, by_torch(graph))
    assert all(np.array_equal(one, again) for one, again in zip(found, by_onnx(graph), strict=True))


@pytest.mark.parametrize("kind", [kind for kind in ENTITY_KINDS if kind not in ("pod",)])
def test_a_single_node_of_any_candidate_kind(engines, kind: EntityKind) -> None:
    by_onnx, by_torch = engines
    graph = random_graph(np.random.default_rng(0), int(kind == "service"), others={} if kind == "service" else {kind: 1})
    assert len(graph.entities) == len(graph.candidates) == 1
    assert_close(by_onnx(graph), by_torch(graph))


def test_neither_order_nor_absent_relations_matter(engines) -> None:
    by_onnx, by_torch = engines
    rng = np.random.default_rng(3)
    graph = random_graph(rng, 30, others=dict.fromkeys(OTHERS, 4))
    moved, place = permuted(graph, rng)
    there = {int(row): i for i, row in enumerate(moved.candidate_rows)}
    order = [there[int(place[row])] for row in graph.candidate_rows]
    score, null, family, _ = by_onnx(graph)
    other_score, other_null, other_family, _ = by_onnx(moved)
    np.testing.assert_allclose(other_score[order], score, atol=1e-9)
    np.testing.assert_allclose(other_family[order], family, atol=1e-9)
    np.testing.assert_allclose(other_null, null, atol=1e-9)
    for relation in RELATIONS:
        fewer = replace(graph, edges={name: edges for name, edges in graph.edges.items() if name != relation})
        assert_close(by_onnx(fewer), by_torch(fewer))


def test_ten_thousand_services(engines) -> None:
    by_onnx, by_torch = engines
    graph = random_graph(np.random.default_rng(1), 10_000, edges_per_service=10)
    assert_close(by_onnx(graph), by_torch(graph))


def test_every_engine_gives_the_same_ranking(folder: Path) -> None:
    engines = ["onnx", "torch", *(["dgl"] if sys.version_info < (3, 12) else [])]
    rankers = [registry.load(folder, engine) for engine in engines]
    for labelled in example_cases():
        for case in (labelled.case, replace(labelled.case, quiet=())):
            rankings = [ranker.rank(case).dumps() for ranker in rankers]
            assert rankings[1:] == rankings[:-1]


def test_it_keeps_the_promises_of_rankers(folder: Path) -> None:
    ranker = registry.load(folder)
    assert isinstance(ranker, OnnxRanker)
    assert ranker.name == f"trained-model-{read_model(folder).files['weights'][1][:8]}"
    check_ranker(ranker, example_cases())


def test_a_graph_without_candidates_is_stated(folder: Path) -> None:
    case = example()
    graph = case.graph
    pods = [row for row, entity in enumerate(graph.entities) if entity.kind == "pod"]
    alone = ServiceGraph(
        tuple(graph.entities[row] for row in pods),
        graph.feature_names,
        graph.features[pods],
        graph.available[pods],
        {},
        graph.edge_feature_names,
        {},
        {},
    )
    ranking = registry.load(folder).rank(replace(case, graph=alone))
    assert ranking.candidates == ()
    assert "nothing could be ranked" in ranking.notes[0]


def test_ranking_needs_no_torch(folder: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from rca.models import registry; from tests.cases import example; "
        f"print(len(registry.load(Path({str(folder)!r})).rank(example()).candidates)); "
        "print([name for name in ('torch', 'safetensors', 'onnx', 'onnxscript', 'sympy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(len(example().graph.candidates)), "[]"]
    assert done.stderr == ""


# --- what it was not made for -------------------------------------------------------------------------------------------


def replaced(model: Path, content: bytes, digest: str | None = None) -> Path:
    """The model with another ONNX file, whose digest is right unless another is given."""
    path = model / MODEL_FILE
    body = json.loads(path.read_text())
    body["onnx"] = {"file": "other.onnx", "sha256": digest or hashlib.sha256(content).hexdigest()}
    path.write_text(json.dumps(body))
    (model / "other.onnx").write_bytes(content)
    return model


def content_of(model: Path) -> bytes:
    return read_model(model).content(ONNX)


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_file_is_refused(model: Path, damage: str) -> None:
    path = next(model.glob("*.onnx"))
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-9] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BadCheckpoint, match="readable file" if damage == "gone" else r"SHA-256 .* \(damaged or replaced\)"):
        registry.load(model)
    assert registry.load(model, "torch").rank(example()).candidates


def test_another_file_under_the_right_digest_is_refused(model: Path) -> None:
    content = content_of(model)
    for other in (b"", b"not an ONNX file", content[: len(content) // 2]):
        with pytest.raises(BadCheckpoint, match=r"expected an ONNX graph that onnxruntime [0-9.]+ can run, found"):
            registry.load(replaced(model, other))
    with pytest.raises(BadCheckpoint, match="SHA-256"):
        registry.load(replaced(model, content, "0" * 64))
    newer = onnx.load_from_string(content)
    newer.opset_import[0].version = 999
    with pytest.raises(BadCheckpoint, match=r"other\.onnx: expected an ONNX graph"):
        registry.load(replaced(model, newer.SerializeToString()))


def tiny(name: str, columns: int, outputs: tuple[str, ...] = OUTPUTS) -> bytes:
    """A graph that hands on what it gets."""
    given = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", columns])
    told = [onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None) for output in outputs]
    nodes = [onnx.helper.make_node("Identity", [name], [output]) for output in outputs]
    graph = onnx.helper.make_graph(nodes, "tiny", [given], told)
    opset = [onnx.helper.make_opsetid("", 20)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()


def test_a_graph_of_another_shape_is_refused(model: Path) -> None:
    columns = len(NODE_FEATURE_NAMES)
    for content, message in (
        (tiny("pixels", columns), "inputs: expected those of docs/model.md, found pixels"),
        (tiny("features", columns, ("score",)), "outputs: expected score, null, family, probability, found score"),
        (tiny("features", columns + 1), f"features: expected {columns} columns, found {columns + 1}"),
    ):
        with pytest.raises(BadCheckpoint, match=message):
            registry.load(replaced(model, content))


def test_a_file_that_loads_and_ranks_nothing_is_refused(model: Path) -> None:
    ranker = registry.load(replaced(model, tiny("features", len(NODE_FEATURE_NAMES))))
    with pytest.raises(BadCheckpoint, match=f"ranker {ranker.name}: expected an ONNX graph that ranks, found "):
        ranker.rank(example())


def test_scores_that_are_no_numbers_or_of_others_are_refused() -> None:
    case = example()
    c, schema = len(case.graph.candidates), Schema.of(case.graph)
    families = np.full((c, len(FAMILIES)), 1 / len(FAMILIES))
    with pytest.raises(BadCheckpoint, match=f"ranker mine: expected finite scores, found {c} of {c} that are not"):
        ranking_of_scores("mine", schema, case, lambda _: Scores(np.full(c, np.nan), 0.0, families))
    with pytest.raises(BadCheckpoint, match="ranker mine: expected scores and families of the shapes"):
        ranking_of_scores("mine", schema, case, lambda _: Scores(np.zeros(c), 0.0, families[:, :-1]))


def test_other_features_are_refused_by_name(folder: Path) -> None:
    case: Case = example()
    names = case.graph.feature_names
    foreign = replace(case, graph=replace(case.graph, feature_names=(*names[:3], "gremlins.z", *names[4:])))
    with pytest.raises(BadCheckpoint, match=r"ranker trained-model-\w+: features: expected .* at position 3, found 'gremlins.z'"):
        registry.load(folder).rank(foreign)


def test_weights_alone_rank_with_torch(tmp_path: Path) -> None:
    NetworkRanker(epochs=1, width=8, strength=1.0).fit(example_cases()).save(tmp_path)
    assert isinstance(registry.load(tmp_path), NetworkRanker)
    with pytest.raises(BadCheckpoint, match="expected an ONNX file, as `rca train` writes it, found weights alone"):
        registry.load(tmp_path, "onnx")
    with pytest.raises(UnknownName, match="did you mean onnx"):
        registry.load(tmp_path, "onx")


def test_what_cannot_be_exported_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    config = NetworkConfig(width=8, edges="shuffled")
    with pytest.raises(BadInput, match="real edges or none, found shuffled"):
        onnx_export.exported(networks(config, 1), 1.0)
    monkeypatch.setattr(onnx_export, "LIBRARIES", ("onnx", "no_such_library"))
    with pytest.raises(BadInput, match=r"pip install 'rca-gnn\[gnn\]'.*found no no_such_library"):
        onnx_export.exported(networks(NetworkConfig(width=8), 1), 1.0)


def test_a_graph_that_contradicts_itself_is_refused(folder: Path) -> None:
    case = example()
    wrong = {**case.graph.edges, "calls": case.graph.edges["calls"] + 10_000}
    with pytest.raises(BadGraph):
        registry.load(folder).rank(replace(case, graph=replace(case.graph, edges=wrong)))
