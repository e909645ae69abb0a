"""Model files: what is written reads back; what is damaged, foreign or of another time is refused; a full disk harms nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rca.errors import BadCheckpoint
from rca.models.checkpoint import weights_file, weights_of
from rca.models.files import MODEL_FILE, WEIGHTS, ModelCard, read_model, write_model


def card(**changes: object) -> ModelCard:
    facts = {"features": ("floor", "cpu.mean"), "edge_features": ("gap.mean",), "network": {"width": 8}}
    return ModelCard(**{"ranker": "gnn", "training": {"seed": 1}, "metrics": {"loss": 0.5}, **facts, **changes})  # type: ignore[arg-type]


def weights(seed: int = 0) -> dict[str, Tensor]:
    return {"0.head": torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))}


def save_model(folder: Path, card: ModelCard, weights: dict[str, Tensor]) -> None:
    write_model(folder, card, {WEIGHTS: weights_file(weights)})


def load_model(folder: Path) -> tuple[ModelCard, dict[str, Tensor]]:
    model = read_model(folder)
    return model.card, weights_of(model)


def test_round_trip_and_replacement(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "mine"
    save_model(folder, card(), weights())
    save_model(folder, card(temperature=2.5), weights(1))
    found, values = load_model(folder)
    assert found == card(temperature=2.5)
    assert torch.equal(values["0.head"], weights(1)["0.head"])
    assert len(list(folder.iterdir())) == 2


def edit(folder: Path, **changes: object) -> None:
    path = folder / MODEL_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path, card(), weights())
    with pytest.raises(BadCheckpoint, match="readable file"):
        load_model(tmp_path / "nowhere")
    good = (tmp_path / MODEL_FILE).read_text()
    for text, message in (("{", "expected JSON"), ("[]", "a JSON object"), ('{"version": "1"}', "fields of docs/model.md")):
        (tmp_path / MODEL_FILE).write_text(text)
        with pytest.raises(BadCheckpoint, match=message):
            load_model(tmp_path)
    (tmp_path / MODEL_FILE).write_text(good)
    edit(tmp_path, version="2")
    with pytest.raises(BadCheckpoint, match="expected a model of version '1', found '2'"):
        load_model(tmp_path)
    (tmp_path / MODEL_FILE).write_text(good)
    edit(tmp_path, relations=["calls", "rumours"])
    with pytest.raises(BadCheckpoint, match=r"relations\[1\]: expected 'queries', found 'rumours'"):
        load_model(tmp_path)
    (tmp_path / MODEL_FILE).write_text(good)
    for changes, message in (
        ({"families": ["gremlins"]}, r"families\[0\]: expected 'cpu', found 'gremlins'"),
        ({"temperature": 0.0}, "temperature: expected a positive number, found 0.0"),
        ({"temperature": "warm"}, "temperature: expected a positive number, found 'warm'"),
        ({"weights": {"file": "../weights", "sha256": "0" * 64}}, "same folder"),
        ({"weights": {"file": "weights", "sha256": ""}}, "a SHA-256 in hexadecimal"),
        ({"weights": {"file": "weights"}}, "fields of docs/model.md"),
        ({"onnx": "model.onnx"}, "fields of docs/model.md"),
        ({"colour": "red"}, "fields of docs/model.md"),
    ):
        (tmp_path / MODEL_FILE).write_text(good)
        edit(tmp_path, **changes)
        with pytest.raises(BadCheckpoint, match=message):
            load_model(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_damaged_weights_are_refused(tmp_path: Path, damage: str) -> None:
    save_model(tmp_path, card(), weights())
    path = next(tmp_path.glob("*.safetensors"))
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-1] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BadCheckpoint, match=r"SHA-256|readable"):
        load_model(tmp_path)


def test_a_full_disk_keeps_the_old_model(tmp_path: Path) -> None:
    save_model(tmp_path, card(), weights())
    script = f"""
import resource, torch
from pathlib import Path
from rca.errors import StorageFull
from tests.test_checkpoint import card, save_model
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    save_model(Path({str(tmp_path)!r}), card(), {{"big": torch.zeros(100_000)}})
except StorageFull as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "nothing was changed" in done.stdout
    assert torch.equal(load_model(tmp_path)[1]["0.head"], weights()["0.head"])
    assert len(list(tmp_path.iterdir())) == 2
