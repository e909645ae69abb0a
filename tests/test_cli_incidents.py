"""`rca incidents`, as a user meets it: a real process, its output, its exit code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rca.cli.incidents import app
from rca.errors import BadInput, RcaError, UnknownName
from rca.incidents.bundle import read_bundle, write_bundle
from rca.incidents.example import example_incident

INCIDENT, TELEMETRY = example_incident(requests_per_second=0.1)
ID = INCIDENT.id
Run = Callable[..., str]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "example.tar.zst", INCIDENT, TELEMETRY)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command of the group in a store of its own; our errors come out as they are."""
    monkeypatch.setenv("RCA_HOME", str(tmp_path / "home"))

    def call(*arguments: object, **options: str) -> str:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], **options)  # type: ignore[arg-type]
        if isinstance(result.exception, RcaError):
            raise result.exception
        return result.output

    return call


def test_from_import_to_removal(run: Run, bundle: Path, tmp_path: Path) -> None:
    assert run("list") == "no incidents\n"
    assert run("import", bundle) == f"{ID}: added\n"
    assert run("import", bundle) == f"{ID}: unchanged\n"
    assert run("label", ID, "redis", "--fault", "latency", "--note", "slow log", "--by", "anna").startswith(
        f"{ID}: database:redis"
    )
    assert run("label", ID, "redis", "--fault", "latency") == f"{ID}: labelled so already\n"
    listed = run("list").splitlines()
    assert listed[0].split() == ["incident", "start", "(UTC)", "cause", "fault"]
    assert listed[1].split() == [ID, "2026-01-15", "10:10", "catalogue,", "redis", "cpu_contention,", "latency"]
    shown = run("show", ID)
    assert "service:catalogue, cpu_contention (injected by example)" in shown
    assert "database:redis, latency (confirmed by anna): slow log" in shown
    assert "metrics: 1,920 rows" in shown
    run("export", ID, tmp_path / "out")
    assert [label.entity.name for label in read_bundle(tmp_path / "out")[0].labels] == ["catalogue", "redis"]
    assert "disputed" in run("label", ID, "database:redis", "--dispute", "--note", "no", "--by", "ben")
    assert "redis (disputed)" in run("list")
    assert "withdrawn" in run("label", ID, "redis", "--withdraw")
    assert run("remove", ID, "--yes") == f"{ID}: removed\n"
    trail = run("audit", ID)
    assert [word for word in trail.split() if word in ("added", "labelled", "disputed", "withdrawn", "removed")] == [
        "added",
        "labelled",
        "disputed",
        "withdrawn",
        "removed",
    ]
    assert "-redis/latency/confirmed +redis/latency/disputed" in trail


def test_json(run: Run, bundle: Path) -> None:
    run("import", bundle)
    listed = json.loads(run("list", "--json"))
    assert [incident["id"] for incident in listed["incidents"]] == [ID]
    shown = json.loads(run("show", ID, "--json"))
    assert shown["labels"][0]["entity"]["name"] == "catalogue"
    assert {frame["frame"]: frame["rows"] for frame in shown["frames"]}["spans"] == TELEMETRY.spans.height
    assert json.loads(run("audit", "--json"))["changes"][0]["action"] == "added"


def test_filters(run: Run, bundle: Path) -> None:
    run("import", bundle)
    assert ID in run("list", "--state", "labelled", "--fault", "cpu_contention", "--system", "example-shop")
    assert run("list", "--state", "unlabelled") == "no incidents\n"
    assert run("list", "--fault", "slow_io") == "no incidents\n"
    for option, name in (("--system", "exampleshop"), ("--fault", "cpu_contentoin")):
        with pytest.raises(UnknownName, match=f"{option}: expected a known name.*did you mean"):
            run("list", option, name)
    with pytest.raises(UnknownName, match="labelled"):
        run("list", "--state", "labeled")


def test_export_redacted_and_small(run: Run, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "busy.tar.zst", *example_incident(requests_per_second=0.5))
    run("import", bundle)
    out = tmp_path / "shared.tar.zst"
    limit = int(bundle.stat().st_size * 0.8)
    run("export", ID, out, "--redact", "--max-mib", limit / 2**20)
    incident, telemetry = read_bundle(out)
    assert incident.id.startswith("incident-")
    assert incident.labels[0].entity.name.startswith("svc-")
    assert out.stat().st_size <= limit
    assert any("to limit the size" in gap.reason for gap in telemetry.gaps)
    with pytest.raises(BadInput, match="does not exist yet"):
        run("export", ID, out)
    run("export", ID, out, "--replace")
    assert read_bundle(out)[0].id == ID


def test_names_that_do_not_exist_come_with_the_nearest(run: Run, bundle: Path) -> None:
    run("import", bundle)
    with pytest.raises(UnknownName, match="did you mean catalogue"):
        run("label", ID, "catalog")
    with pytest.raises(UnknownName, match="did you mean cpu_contention"):
        run("label", ID, "cart", "--fault", "cpu_contetion")
    with pytest.raises(UnknownName, match="did you mean confirmed"):
        run("label", ID, "cart", "--provenance", "confirm")
    with pytest.raises(UnknownName, match="did you mean " + ID):
        run("show", f"{ID}7")
    with pytest.raises(UnknownName, match="catalogue"):
        run("label", ID, "redis", "--withdraw")
    with pytest.raises(BadInput, match="--dispute or --withdraw"):
        run("label", ID, "catalogue", "--withdraw", "--dispute")
    assert "service:legacy, our_own_word" in run("label", ID, "legacy", "--fault", "our_own_word", "--force")


def test_a_narrow_terminal_folds_and_cuts_nothing(run: Run, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("import", bundle)
    piped = run("list")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "32")
    narrow = re.sub(r"\x1b\[[0-9;]*m", "", run("list"))
    assert max(map(len, narrow.splitlines())) <= 32 < max(map(len, piped.splitlines()))
    assert sorted("".join(narrow.split())) == sorted("".join(piped.split()))


def test_removal_asks_first(run: Run, bundle: Path) -> None:
    run("import", bundle)
    assert "Aborted" in run("remove", ID, input="n\n")
    assert ID in run("list")
    assert "removed" in run("remove", ID, input="y\n")


def test_as_a_process(bundle: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "RCA_HOME": str(tmp_path / "home"), "COLUMNS": "80"}

    def rca(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "rca", "incidents", *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert rca("import", bundle).returncode == 0
    listed = rca("list")
    assert "\x1b" not in listed.stdout
    assert max(map(len, listed.stdout.splitlines())) <= 80
    (tmp_path / "bad.tar.zst").write_bytes(bundle.read_bytes()[:500])
    failed = rca("import", tmp_path / "bad.tar.zst")
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: ")
    assert failed.stderr.count("\n") == 1
    assert rca("list").stdout == listed.stdout


def test_the_heavy_libraries_stay_out() -> None:
    script = (
        "import sys, rca.cli.main; from rca.incidents import store, sharing; "
        "print([name for name in ('pandas', 'torch', 'sqlalchemy', 'dgl') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_nobody_is_to_blame(run: Run, bundle: Path) -> None:
    run("import", bundle)
    run("label", ID, "catalogue", "--withdraw")
    assert run("label", ID, "--no-fault", "--fault", "traffic_surge") == f"{ID}: nobody, traffic_surge (confirmed)\n"
    assert "nobody, traffic_surge (confirmed" in run("show", ID)
    assert run("list").splitlines()[1].split()[-2:] == ["no_fault", "traffic_surge"]
    assert " +nobody/traffic_surge/confirmed" in run("audit", ID)
    assert run("label", ID, "--no-fault", "--withdraw") == f"{ID}: label of no fault withdrawn\n"
    assert run("label", ID, "--no-fault") == f"{ID}: nobody, no_fault (confirmed)\n"


def test_a_label_names_somebody_or_says_that_nobody_is_to_blame(run: Run, bundle: Path) -> None:
    run("import", bundle)
    with pytest.raises(BadInput, match=r"expected ENTITY or --no-fault, found neither"):
        run("label", ID)
    with pytest.raises(BadInput, match=r"expected ENTITY or --no-fault, found both"):
        run("label", ID, "catalogue", "--no-fault")
    with pytest.raises(BadInput, match=r"nobody is to blame for .*found exception"):
        run("label", ID, "--no-fault", "--fault", "exception")
