"""`rca init`: a file that loads, sources that are tested at once, and nothing that is overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rca.cli.main import app
from rca.collectors.config import load_config
from rca.errors import BadInput
from tests.servers.kubernetes_api import KubernetesApi


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["init", *map(str, arguments)])


def test_a_working_prometheus_is_written_and_found_working(shop_prometheus: tuple[str, int], tmp_path: Path) -> None:
    path = tmp_path / "rca.toml"
    done = run(path, "--prometheus", shop_prometheus[0], "--system", "shop")
    assert done.exit_code == 0, done.output
    config = load_config(path)
    assert config.prometheus is not None
    assert config.prometheus.url == shop_prometheus[0]
    assert config.triage.system == "shop"
    assert "ok" in done.output
    assert "prometheus" in done.output


def test_a_source_that_does_not_answer_is_told_and_the_file_is_there(tmp_path: Path) -> None:
    path = tmp_path / "rca.toml"
    done = run(path, "--prometheus", "http://127.0.0.1:9", "--tempo", "http://127.0.0.1:9")
    assert done.exit_code == 1
    assert " ".join(done.output.split()).count("connection refused") == 2
    assert load_config(path).tempo is not None


def test_a_cluster_is_tested(kubernetes_api: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubernetes_api.kubeconfig(tmp_path)))
    done = run(tmp_path / "rca.toml", "--kubernetes")
    assert done.exit_code == 0, done.output
    assert "kubernetes" in done.output


def test_a_store_that_is_still_empty_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RCA_HOME", str(tmp_path))
    done = run(tmp_path / "rca.toml", "--otlp")
    assert done.exit_code == 0, done.output
    assert "rca collect" in done.output


def test_without_a_source_the_file_explains_itself(tmp_path: Path) -> None:
    path = tmp_path / "rca.toml"
    done = run(path)
    assert done.exit_code == 0
    assert "uncomment some, then run `rca doctor`" in done.output
    assert "#[prometheus]" in path.read_text()


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "rca.toml"
    path.write_text("mine")
    done = run(path)
    assert isinstance(done.exception, BadInput)
    assert path.read_text() == "mine"
    assert run(path, "--force").exit_code == 0


def test_a_url_that_is_none_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    done = run(tmp_path / "rca.toml", "--prometheus", "prometheus:9090")
    assert isinstance(done.exception, BadInput)
    assert "prometheus.url" in str(done.exception)
    assert not (tmp_path / "rca.toml").exists()
