"""Exported models for tests. An export takes many seconds, so that processes of one test run share what one of them made."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rca.arrays import Schema
from rca.models.gnn import NetworkRanker
from rca.models.network import Network, NetworkConfig
from rca.models.onnx_export import exported
from tests.cases import example_cases
from tests.graphs import EDGE_FEATURES, FEATURES

TEMPERATURE = 1.7


def shared_folder(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that `make` fills once for all processes of this test run."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if root.name.startswith("popen-") else root  # a worker of pytest-xdist has a folder of its own below
    folder, done = root / name, root / f"{name}.done"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            folder.mkdir(exist_ok=True)
            make(folder)
            done.touch()
    return folder


def trained_model(folder: Path) -> None:
    """A small network trained on the synthetic incidents, exported."""
    ranker = NetworkRanker(epochs=4, width=16, layers=1, invented=8, strength=1.0)
    ranker.fit(example_cases(), example_cases()[:2]).save(folder, onnx=True)


def networks(config: NetworkConfig, members: int) -> list[Network]:
    """Networks on the features of tests.graphs whose every output counts, in float64."""
    generator = torch.Generator().manual_seed(4)
    made = []
    for seed in range(members):
        network = Network(Schema(FEATURES, EDGE_FEATURES), config, seed=seed).eval()
        with torch.no_grad():
            for layer in (network.correction, network.null):
                layer.weight.normal_(generator=generator)
            network.get_buffer("strength").fill_(0.75)
            network.get_buffer("known").bernoulli_(0.6, generator=generator)
            network.get_buffer("node_center").normal_(generator=generator)
            network.get_buffer("node_scale").uniform_(0.5, 2, generator=generator)
        made.append(network.double())
    return made


def graph_file(folder: Path, config: NetworkConfig, members: int) -> None:
    (folder / "model.onnx").write_bytes(exported(networks(config, members), TEMPERATURE))
