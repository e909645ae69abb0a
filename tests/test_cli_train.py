"""`rca train`: from bundles to a model folder, interrupted and resumed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rca.cli.main import app
from rca.errors import BadInput
from rca.incidents.bundle import write_bundle
from rca.incidents.example import example_incident
from rca.models import onnx_export
from rca.models.checkpoint import weights_of
from rca.models.files import read_model
from rca.models.gnn import NetworkRanker
from rca.models.onnx_ranker import OnnxRanker
from rca.models.reference import read_reference
from rca.models.registry import load
from tests.cases import CULPRITS, example


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    for seed in (3, 4):
        for kind, culprit in CULPRITS:
            incident, telemetry = example_incident(seed, kind, culprit, requests_per_second=0.5)
            name = f"example-{kind}-{culprit}-{seed}"
            write_bundle(folder / name, incident.model_copy(update={"id": name}), telemetry)
    return folder


def options(bundles: Path, out: Path, epochs: int) -> list[str]:
    small = ["--width", "16", "--invented", "8", "--device", "cpu", "--no-onnx"]
    return ["train", "--bundles", str(bundles), "--out", str(out), "--epochs", str(epochs), *small]


def test_a_model_is_trained_and_ranks(bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RCA_HOME", str(tmp_path / "home"))
    done = CliRunner().invoke(app, options(bundles, tmp_path / "mine", 2), catch_exceptions=False)
    assert done.exit_code == 0
    assert "network 0: epoch" in done.stdout
    assert "graphs from 8 incidents" in done.stdout
    assert re.search(
        r"^network 0: [0-9,]+ graphs/s on .+, \d+% busy, at most [0-9.]+ [MG]iB of memory$", done.stdout, re.MULTILINE
    )
    cost = read_model(tmp_path / "mine").card.metrics["members"][0]
    assert cost["device"]
    assert cost["memory_bytes"] > 2**20
    files = sorted(path.name for path in (tmp_path / "mine").iterdir())
    assert [*files[:3], files[3][:8]] == ["learnt.json", "model.json", "reference.json", "weights-"]
    reference = read_reference(read_model(tmp_path / "mine"))
    assert reference is not None
    assert (reference.graphs, reference.unit, reference.learnt_from("example-return-cart-3")) == (8, "graph", True)
    assert "no ONNX file: not asked for; this model ranks where torch is installed" in done.stdout
    assert len(NetworkRanker.load(tmp_path / "mine").rank(example()).candidates) == len(example().graph.candidates)


def test_a_team_without_labels_trains_on_invented_incidents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RCA_HOME", str(tmp_path / "home"))
    for seed in (5, 6):
        incident, telemetry = example_incident(seed, "no_fault", "cart", requests_per_second=0.5)
        write_bundle(tmp_path / "quiet" / str(seed), incident.model_copy(update={"id": str(seed)}), telemetry)
    words = options(tmp_path / "quiet", tmp_path / "mine", 2)
    with pytest.raises(
        BadInput, match=r"/quiet: expected incidents with a label .* or --invent, which needs none, found 2 incid"
    ):
        CliRunner().invoke(app, [word for word in words if word not in ("--invented", "8")], catch_exceptions=False)
    words[words.index("--invented") + 1] = "40"
    done = CliRunner().invoke(app, [*words, "--invent"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "from 2 incidents" in done.stdout
    ranker = NetworkRanker.load(tmp_path / "mine")
    assert ranker.earned <= 0.5  # however well it does on invented incidents, it has not met a real one


def test_training_goes_on_from_a_model(bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RCA_HOME", str(tmp_path / "home"))
    CliRunner().invoke(app, [*options(bundles, tmp_path / "first", 2), "--strength", "1"], catch_exceptions=False)
    words = ["train", "--bundles", str(bundles), "--from", str(tmp_path / "first"), "--out", str(tmp_path / "second")]
    small = ["--epochs", "2", "--strength", "1", "--invented", "8", "--no-onnx"]
    done = CliRunner().invoke(app, [*words, *small], catch_exceptions=False)
    assert done.exit_code == 0
    first, second = NetworkRanker.load(tmp_path / "first"), NetworkRanker.load(tmp_path / "second")
    assert second.width == 16
    assert second.data["start"]["weights"] == first.digest()
    assert second.data["start"]["training"] == first.data["training"]
    with pytest.raises(BadInput, match="--width"):
        CliRunner().invoke(app, [*words, "--width", "32"], catch_exceptions=False)
    with pytest.raises(BadInput, match="no option about recorded incidents beside it"):
        CliRunner().invoke(app, [*words, "--simulate", "3"], catch_exceptions=False)


def test_a_model_is_pretrained_on_simulated_incidents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RCA_HOME", str(tmp_path / "home"))
    words = ["train", "--simulate", "2", "--out", str(tmp_path / "mine"), "--epochs", "1", "--width", "16", "--no-onnx"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0
    assert "from 2 simulated incidents (2 more held out)" in done.stdout
    ranker = NetworkRanker.load(tmp_path / "mine")
    assert ranker.data["simulated"]["incidents"] == 2
    assert ranker.data["simulated"]["held_out_seed"] != ranker.data["simulated"]["seed"]
    reference = read_reference(read_model(tmp_path / "mine"))
    assert reference is not None
    assert reference.made_of == {"what": "simulated incidents", **ranker.data["simulated"]}


def test_a_model_without_edges_is_exported_and_ranks_without_torch(
    bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RCA_HOME", str(tmp_path / "home"))
    words = [word for word in options(bundles, tmp_path / "mine", 1) if word != "--no-onnx"]
    done = CliRunner().invoke(app, [*words, "--edges", "none", "--strength", "1"], catch_exceptions=False)
    assert "ONNX" not in done.stdout
    assert isinstance(load(tmp_path / "mine"), OnnxRanker)
    asked = ["triage", str(next(bundles.iterdir())), "--model", str(tmp_path / "mine")]
    by_onnx, by_torch = (CliRunner().invoke(app, [*asked, *engine]).stdout for engine in ([], ["--engine", "torch"]))
    assert "ranked by  mine-" in by_onnx
    assert by_torch == by_onnx


def test_what_keeps_a_model_from_being_exported_is_said(bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RCA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(onnx_export, "LIBRARIES", ("no_such_library",))
    words = [word for word in options(bundles, tmp_path / "mine", 0) if word != "--no-onnx"]
    done = CliRunner().invoke(app, [*words, "--strength", "1"], catch_exceptions=False)
    assert "no ONNX file: no_such_library not installed (pip install 'rca-gnn[gnn]')" in done.stdout
    assert list((tmp_path / "mine").glob("*.safetensors"))


def test_bad_options_end_before_the_work(bundles: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="interrupted training"):
        CliRunner().invoke(app, [*options(bundles, tmp_path / "mine", 2), "--resume"], catch_exceptions=False)
    with pytest.raises(BadInput, match="multiple of heads"):
        CliRunner().invoke(app, [*options(bundles, tmp_path / "mine", 2), "--width", "18"], catch_exceptions=False)
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="--out: expected a folder"):
        CliRunner().invoke(app, ["train", "--simulate", "9999999", "--out", str(tmp_path / "file")], catch_exceptions=False)
    words = ["train", "--simulate", "9999999", "--from", str(tmp_path / "nothing"), "--out", str(tmp_path / "mine")]
    with pytest.raises(BadInput, match=r"--from: expected the folder of a model, .* found .*/nothing, which is none"):
        CliRunner().invoke(app, words, catch_exceptions=False)


def _refused(words: list[str]) -> str:
    """What is said of wrong options."""
    error = CliRunner().invoke(app, ["train", *words]).exception
    assert isinstance(error, BadInput)
    assert error.exit_code == 2
    return str(error)


def test_an_empty_store_is_told_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RCA_HOME", str(tmp_path / "home"))
    told = _refused(["--invent", "--out", str(tmp_path / "mine")])
    assert told.startswith(f"{tmp_path / 'home'}: expected incidents (`rca incidents import` or")
    assert told.endswith("or --simulate, which needs none, found none")
    assert not (tmp_path / "mine").exists()


def test_what_is_no_model_is_not_gone_on_from(tmp_path: Path) -> None:
    expected = "--from: expected the folder of a model, as `rca train` writes it, found"
    folder = tmp_path / "folder"
    folder.mkdir()
    assert _refused(["--from", str(folder)]) == f"{expected} {folder}, a folder without model.json"
    (folder / "model.json").write_text('{"layers": 3}')
    told = _refused(["--from", str(folder)])
    assert told == f"{folder / 'model.json'}: expected a model of version '1', found None"


@pytest.mark.parametrize("beside", [["--invent"], ["--invented", "0"], ["--transfer"], ["--store", "b", "--system", "a"]])
def test_simulated_and_recorded_incidents_do_not_mix(tmp_path: Path, beside: list[str]) -> None:
    names = ", ".join(word for word in beside if word.startswith("--"))
    with pytest.raises(BadInput, match=f"no option about recorded incidents beside it, found {names}$"):
        CliRunner().invoke(app, ["train", "--simulate", "5", "--out", str(tmp_path), *beside], catch_exceptions=False)


def test_nothing_is_learnt_from_the_test_part(tmp_path: Path) -> None:
    told = _refused(["--bundles", "incidents", "--part", "test", "--out", str(tmp_path / "mine")])
    assert told == "--part: expected train: what is learnt from cannot test, found test"
    told = _refused(["--bundles", "incidents", "--out", str(tmp_path / "mine")])
    assert told == "--bundles incidents: expected --part train, since its manifest keeps a part to test on, found no --part"


@pytest.mark.parametrize(("option", "value"), [("--simulate", "0"), ("--seed", "-1")])
def test_numbers_out_of_range_are_named(option: str, value: str) -> None:
    done = CliRunner().invoke(app, ["train", option, value])
    assert done.exit_code == 2
    assert option in done.output


def test_bad_incidents_do_not_cost_an_interrupted_training(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    states = tmp_path / "mine" / "unfinished"
    states.mkdir(parents=True)
    (states / "member-0.safetensors").write_bytes(b"epochs of work")
    with pytest.raises(BadInput, match="a folder of them"):
        CliRunner().invoke(app, options(tmp_path / "empty", tmp_path / "mine", 2), catch_exceptions=False)
    assert (states / "member-0.safetensors").read_bytes() == b"epochs of work"


def test_without_the_extra_the_message_names_it(bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "rca.models.gnn")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BadInput, match=r"pip install 'rca-gnn\[gnn\]'"):
        CliRunner().invoke(app, options(bundles, tmp_path / "mine", 2), catch_exceptions=False)


def test_an_unknown_precision_ends_before_the_work(tmp_path: Path) -> None:
    words = ["train", "--simulate", "9999999", "--precision", "half", "--out", str(tmp_path / "mine")]
    with pytest.raises(BadInput, match="precision: expected auto or float32 or bfloat16, found 'half'"):
        CliRunner().invoke(app, words, catch_exceptions=False)


def test_where_no_epoch_was_finished_nothing_is_said_to_be_kept(
    bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("RCA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(NetworkRanker, "train", interrupted)
    ended = CliRunner().invoke(app, options(bundles, tmp_path / "mine", 2))
    assert ended.exit_code == 130
    assert ended.stderr == "no epoch was finished yet, nothing is kept\n"
    assert not (tmp_path / "mine").exists()


def test_a_model_that_corrects_nothing_says_so(bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RCA_HOME", str(tmp_path / "home"))
    done = CliRunner().invoke(app, [*options(bundles, tmp_path / "mine", 1), "--strength", "0"], catch_exceptions=False)
    assert "0% of the correction counts" in done.stdout
    assert "without its correction this model ranks as the label-free score does" in done.stdout


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished(bundles: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "RCA_HOME": str(tmp_path / "home")}
    arguments = [*options(bundles, tmp_path / "mine", 12), "--strength", "0.5"]
    running = subprocess.Popen([sys.executable, "-m", "rca", *arguments], env=environment, stderr=subprocess.PIPE, text=True)
    state = tmp_path / "mine/unfinished/member-0.safetensors"
    deadline = time.monotonic() + 120
    while not state.exists() and time.monotonic() < deadline and running.poll() is None:
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "--resume goes on" in errors
    assert "Traceback" not in errors
    subprocess.run([sys.executable, "-m", "rca", *arguments, "--resume"], env=environment, check=True, capture_output=True)
    arguments[arguments.index(str(tmp_path / "mine"))] = str(tmp_path / "whole")
    subprocess.run([sys.executable, "-m", "rca", *arguments], env=environment, check=True, capture_output=True)
    resumed, whole = (weights_of(read_model(tmp_path / name)) for name in ("mine", "whole"))
    assert all(resumed[name].equal(values) for name, values in whole.items())
