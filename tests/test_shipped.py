"""The model that ranks by default: where it is found, what is said where there is none, its size, its card, and the demo."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rca.cli.main import app
from rca.errors import BadCheckpoint, BadInput, RcaError
from rca.incidents.bundle import write_bundle
from rca.incidents.example import example_incident
from rca.models import registry, shipped
from rca.models.files import MODEL_FILE, describe, read_model
from rca.models.shipped import NAME, VARIABLE, default_ranker, shipped_folder
from scripts import demo, docs, model_card
from tests.cases import example
from tests.exported import shared_folder, trained_model

MOST_BYTES = 5 * 2**20
RESULTS = docs.ROOT / "docs/results/petshop.json"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_folder(tmp_path_factory, "trained-model", trained_model)


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained model."""
    return Path(shutil.copytree(trained, tmp_path / "copy"))


@pytest.fixture
def ships(model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The trained model, as if it shipped."""
    monkeypatch.setattr(shipped, "shipped_folder", lambda: model)
    monkeypatch.delenv(VARIABLE, raising=False)
    return model


def test_it_is_found_in_the_package_and_in_a_checkout(trained: Path, tmp_path: Path) -> None:
    here = tmp_path / "rca" / "models"
    here.mkdir(parents=True)
    assert shipped_folder(here) is None
    foreign = Path(shutil.copytree(trained, tmp_path / "models" / NAME))
    assert shipped_folder(here) is None
    (tmp_path / "pyproject.toml").touch()
    assert shipped_folder(here) == foreign
    inside = Path(shutil.copytree(trained, here / NAME))
    assert shipped_folder(here) == inside


def test_the_shipped_model_ranks_by_default(ships: Path, tmp_path: Path) -> None:
    incident, telemetry = example_incident()
    bundle = write_bundle(tmp_path / incident.id, incident, telemetry)
    printed = CliRunner().invoke(app, ["triage", str(bundle)], catch_exceptions=False).output
    assert f"ranked by  {read_model(ships).id}" in printed
    assert "a trained model" not in printed
    printed = CliRunner().invoke(app, ["triage", str(bundle), "--ranker", "floor"], catch_exceptions=False).output
    assert "ranked by  floor" in printed


def test_another_model_can_be_named(trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shipped, "shipped_folder", lambda: None)
    monkeypatch.setenv(VARIABLE, str(trained))
    assert default_ranker().name == read_model(trained).id
    assert registry.create("model", folder=str(trained)).rank(example()).ranker == read_model(trained).id
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(BadCheckpoint, match=r"nowhere.*readable file"):
        default_ranker()
    with pytest.raises(BadInput, match="model:folder=FOLDER, or a shipped model"):
        registry.create("model")


@pytest.mark.parametrize("exported", [True, False])
def test_a_model_that_is_evaluated_is_not_trained(model: Path, exported: bool) -> None:
    if not exported:  # then torch ranks, with a network that could be trained
        card = json.loads((model / MODEL_FILE).read_text())
        (model / MODEL_FILE).write_text(json.dumps({key: value for key, value in card.items() if key != "onnx"}))
    ranker = shipped.trained(str(model))
    case = example()
    before = ranker.rank(case)
    assert not ranker.learned
    assert ranker.fit([]).rank(case) == before


def test_where_none_ships_the_floor_ranks_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "shipped_folder", lambda: None)
    monkeypatch.delenv(VARIABLE, raising=False)
    ranking = default_ranker().rank(example())
    assert ranking.ranker == "floor"
    assert ranking.notes == ("a trained model: none ships with this version, so the label-free score ranked",)
    assert "model" not in registry.names()


@pytest.mark.parametrize("harm", ["features", "damage"])
def test_a_shipped_model_that_does_not_fit_gives_way_to_the_floor(ships: Path, harm: str) -> None:
    if harm == "features":
        path = ships / MODEL_FILE
        body = json.loads(path.read_text())
        path.write_text(json.dumps({**body, "features": ["gremlins.z", *body["features"][1:]]}))
    else:
        next(ships.glob("*.onnx")).write_bytes(b"junk")
    ranking = default_ranker().rank(example())
    assert ranking.ranker == "floor"
    [note] = ranking.notes
    assert note.startswith("the shipped model, so the label-free score ranked: ")
    assert ("'gremlins.z'" if harm == "features" else "damaged or replaced") in note


def test_the_wheel_holds_the_package_and_the_shipped_model_alone() -> None:
    """What hatch is told; `make wheel` looks at the wheel itself."""
    wheel = tomllib.loads((docs.ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["only-include"] == ["rca", f"models/{NAME}"]
    assert wheel["sources"] == {f"models/{NAME}": f"rca/models/{NAME}"}


def test_what_ships_is_small_and_ranks() -> None:
    folder = shipped_folder()
    if folder is None:
        assert not (docs.ROOT / "models" / NAME).exists()
        return
    assert sum(path.stat().st_size for path in folder.iterdir()) < MOST_BYTES
    assert registry.load(folder, "onnx").rank(example()).candidates
    assert f"models/{NAME}/README.md" in docs.PAGES


# --- the card -----------------------------------------------------------------------------------------------------------

FACTS = """
intended_use = "A first guess at the cause on a system that it never saw."
limits = ["It never saw a system without traces.", "Probabilities are calibrated on simulated incidents."]

[[sources]]
name = "simulated incidents"
sha256 = "{digest}"
incidents = 12000
seed = 3

[[sources]]
name = "recorded incidents of the shop"
path = "manifest.json"
"""


def test_the_card_tells_what_the_model_says_about_itself(model: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "facts.toml").write_text(FACTS.format(digest="a" * 64))
    before = read_model(model)
    command = [sys.executable, "-m", "scripts.model_card", str(model), str(tmp_path / "facts.toml"), str(RESULTS)]
    subprocess.run(command, cwd=docs.ROOT, check=True, capture_output=True)
    after = read_model(model)
    assert (after.id, after.files) == (before.id, before.files)
    assert after.card.data["training"] == before.card.data["training"]
    assert after.card.data["sources"][1]["sha256"] == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert registry.load(model).rank(example()).dumps() == registry.load(model, "torch").rank(example()).dumps()
    page = (model / "README.md").read_text(encoding="utf-8")
    for words in (
        f"# {before.id}",
        "A first guess at the cause",
        "- It never saw a system without traces.",
        f"- simulated incidents, incidents 12000, seed 3; SHA-256 `{'a' * 64}`",
        "| seed | 0 |",
        "AC@1 by fault kind",
    ):
        assert words in page
    assert page == model_card.card_page(model, model.as_posix())


def test_a_bare_model_has_a_card_too(trained: Path) -> None:
    page = model_card.card_page(trained, "models/mine")
    assert page.count("Nothing is written down yet.") == 3
    assert "rca triage --model models/mine" in page
    assert re.search(r"\| training \| \d+ s on .+, [0-9,]+ graphs/s, at most [0-9.]+ [MG]iB of memory \|", page)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ("use = 'x'", "intended_use, limits and sources, found use"),
        ("[[sources]]\nname = 'x'", "path or sha256"),
        ("x = ", "readable TOML"),
    ],
)
def test_bad_facts_are_refused(tmp_path: Path, facts: str, message: str) -> None:
    (tmp_path / "facts.toml").write_text(facts)
    with pytest.raises(RcaError, match=message):
        model_card.facts_of(tmp_path / "facts.toml")


def test_a_description_does_not_repair_a_damaged_model(model: Path) -> None:
    (model / MODEL_FILE).write_text("{}")
    with pytest.raises(BadCheckpoint):
        describe(model, intended_use="", limits=[], sources=[], evaluation=[])


# --- the demo -----------------------------------------------------------------------------------------------------------


def test_the_demo_shows_a_recorded_test_incident(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [
        {"file": "shop-001.tar.zst", "part": "train", "target": "cart", "fault_kind": "network_delay"},
        {"file": "shop-002.tar.zst", "part": "test", "target": "", "fault_kind": "traffic_surge"},
        {"file": "shop-003.tar.zst", "part": "test", "target": "cart", "fault_kind": "memory_leak"},
        {"file": "shop-004.tar.zst", "part": "test", "target": "orders", "fault_kind": "network_delay"},
    ]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "RECORDED", tmp_path / "incidents")
    assert demo.demo_bundle() == Path("build/demo/example-7")
    (tmp_path / "incidents").mkdir()
    manifest = tmp_path / "incidents" / "manifest.json"
    manifest.write_text(json.dumps({"version": "1", "incidents": entries}))
    assert demo.demo_bundle() == Path("incidents/shop-004.tar.zst")
    manifest.write_text(json.dumps({"version": "1", "incidents": entries[:3]}))
    assert demo.demo_bundle() == Path("incidents/shop-003.tar.zst")
