"""Simulated incidents as training graphs: the same whoever builds them, resumed when interrupted, less known in views."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from rca.contracts import LabelledCase
from rca.models import simulated
from rca.models.gnn import NetworkRanker, _reciprocal_ranks, _weighted
from rca.models.simulated import CACHE_FOLDER, Order, Source, cache_key, graphs_of, simulated_graphs
from rca.models.training import TrainingSet
from rca.models.views import VIEWS, view, views_of
from rca.signals import NODE_SIGNALS
from tests.cases import ExampleSource, example

ORDER = Order(seed=5, count=8, together=3)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    simulated_graphs(ExampleSource(), ORDER, folder)
    return folder


def test_parts_are_built_once_and_read_back(home: Path) -> None:
    steps: list[int] = []
    tensors = simulated_graphs(ExampleSource(), ORDER, home, step=steps.append)
    assert steps == [8]
    assert tensors.graphs > 8
    assert tensors.x.dtype == torch.float16
    assert 0 < int(tensors.is_normal.sum()) < tensors.graphs
    assert tensors.select(torch.arange(3)).x.dtype == torch.float32


def test_an_interrupted_build_goes_on(home: Path, tmp_path: Path) -> None:
    def interrupt(done: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulated_graphs(ExampleSource(), ORDER, tmp_path, step=interrupt)
    kept = list((tmp_path / CACHE_FOLDER).rglob("*.safetensors"))
    assert kept
    kept[0].write_bytes(b"half a file")  # what a crash may leave is built again
    whole = simulated_graphs(ExampleSource(), ORDER, tmp_path, workers=2)
    again = simulated_graphs(ExampleSource(), ORDER, home)
    assert torch.equal(whole.x, again.x)
    assert torch.equal(whole.target, again.target)


def test_the_cache_hangs_on_the_source_and_the_seed() -> None:
    sources: list[Source] = [ExampleSource(), ExampleSource(0.7)]
    assert len({cache_key(source, seed) for source in sources for seed in (1, 2)}) == 4


def test_the_cache_hangs_on_the_code_that_makes_graphs_and_on_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = Path(simulated.__file__).parents[1]
    shutil.copytree(package, tmp_path / "rca", ignore=shutil.ignore_patterns("__pycache__"))
    spec = importlib.util.spec_from_file_location("provenance_of_the_copy", tmp_path / "rca" / "provenance.py")
    assert spec is not None
    assert spec.loader is not None
    of_the_copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(of_the_copy)
    monkeypatch.setattr(simulated, "code_digest", of_the_copy.code_digest)
    before = cache_key(ExampleSource(), 1)

    def changed(file: str) -> bool:
        path = tmp_path / "rca" / file
        text = path.read_text()
        path.write_text(text + "# edited\n")
        of_the_copy.code_digest.cache_clear()
        key = cache_key(ExampleSource(), 1)
        path.write_text(text)
        return key != before

    makes = (
        "models/simulated.py",
        "models/views.py",
        "models/augmentation.py",
        "simulator/generation.py",
        "features.py",
        "deviations/counts.py",
    )
    others = ("models/network.py", "models/training.py", "shop/plan.py", "collectors/config.py", "sinks/notice.py")
    assert [file for file in (*makes, *others) if changed(file)] == list(makes)
    with pytest.raises(FileNotFoundError, match=r"nothing\.py"):
        of_the_copy.code_digest("models/nothing.py")


def test_the_cache_hangs_on_how_training_sets_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    class Changed(TrainingSet):
        pass

    before = cache_key(ExampleSource(), 1)
    monkeypatch.setattr(simulated, "TrainingSet", Changed)
    assert cache_key(ExampleSource(), 1) != before


def test_a_view_knows_only_its_modalities() -> None:
    case = example()
    seen = view(case, ("metrics",))
    from_spans = [column for column, signal in enumerate(NODE_SIGNALS) if signal.source != "metrics"]
    assert np.isnan(seen.deviations.node[:, from_spans]).all()
    assert np.isfinite(seen.deviations.node).any()
    assert seen.graph.entities == case.graph.entities
    assert np.isfinite(case.deviations.node[:, from_spans]).any()


def test_one_incident_gives_its_graph_and_at_times_more() -> None:
    incident, telemetry = ExampleSource()(3, 0)
    sizes = {len(graphs_of(incident, telemetry, np.random.default_rng(seed))) for seed in range(12)}
    assert min(sizes) == 1
    assert max(sizes) > 1


def test_a_model_is_pretrained_and_gone_on_from(home: Path, tmp_path: Path) -> None:
    training = simulated_graphs(ExampleSource(), ORDER, home)
    ranker = NetworkRanker(width=16, epochs=3, ensemble=2).pretrain(training, training, {"simulated": {"seed": 3}})
    assert ranker.data["simulated"] == {"seed": 3}
    assert set(ranker.data["reciprocal_rank"]) == {"0.0", "0.25", "0.5", "0.75", "1.0"}
    ranker.save(tmp_path / "first")
    assert len(NetworkRanker.load(tmp_path / "first").rank(example()).candidates) == len(example().graph.candidates)


def test_weights_make_the_score_right_as_often_as_told_and_leave_quiet_stretches_alone(home: Path) -> None:
    tensors = simulated_graphs(ExampleSource(), ORDER, home)
    ranks = _reciprocal_ranks(tensors, tensors.floor.double())
    told, right = ~tensors.is_normal, torch.from_numpy(ranks == 1)
    assert 0 < int((told & right).sum()) < int(told.sum()), "some where the score is right, and some where it is not"
    weighted = _weighted(tensors, 0.25).weight
    assert float(weighted[told & right].sum() / weighted[told].sum()) == pytest.approx(0.25)
    assert float(weighted[told].sum()) == pytest.approx(float(tensors.weight[told].sum()))
    assert torch.equal(weighted[~told], tensors.weight[~told])
    always = tensors.select((told & right).nonzero().flatten())
    assert float(_weighted(always, 0.25).weight.sum()) == pytest.approx(float(always.weight.sum())), "nothing to weigh against"


def test_the_views_of_cases_hold_what_still_speaks_of_the_cause() -> None:
    labelled = LabelledCase(example(), "one", "shop", (example().graph.candidates[0],), "cpu_contention")
    whole, *poorer = views_of([labelled])
    assert whole == [labelled]
    assert len(poorer) == len(VIEWS)
    for modalities, cases in zip(VIEWS, poorer, strict=True):
        for case in cases:
            sources = {signal.source for signal, seen in zip(NODE_SIGNALS, _observed(case), strict=True) if seen}
            assert sources <= set(modalities)
    assert any(poorer)


def _observed(case: LabelledCase) -> np.ndarray:
    return np.isfinite(case.case.deviations.node).any(axis=0)
