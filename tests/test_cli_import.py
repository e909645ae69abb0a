"""`rca import`, as a user meets it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rca.cli.main import app
from rca.collectors.files import FORMATS
from rca.errors import BadInput, BadTelemetry, UnknownName
from rca.incidents.bundle import read_bundle
from rca.incidents.incident import Incident
from rca.incidents.store import IncidentStore
from rca.telemetry import Telemetry

START_S = 1_800_000_000
Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `rca import` with a store of its own; exceptions come out as they are."""
    monkeypatch.setenv("RCA_HOME", str(tmp_path / "home"))

    def call(*arguments: object) -> str:
        result = CliRunner().invoke(app, ["import", *map(str, arguments)])
        if result.exception:
            raise result.exception
        return result.output

    return call


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Three repetitions of one injection in RCAEval's layout."""
    for n in range(1, 4):
        folder = tmp_path / "data" / "shop" / "cart_cpu" / str(n)
        folder.mkdir(parents=True)
        rows = [f"{START_S + i},{n + i % 7},{i % 5}" for i in range(600)]
        (folder / "data.csv").write_text("\n".join(["time,cart_cpu,web_mem", *rows]) + "\n")
        (folder / "inject_time.txt").write_text(str(START_S + 300))
    return tmp_path / "data"


def test_importing_again_changes_nothing(run: Run, recordings: Path, tmp_path: Path) -> None:
    assert run("rcaeval", recordings) == "rcaeval: 3 incidents (3 added)\n"
    assert run("rcaeval", recordings) == "rcaeval: 3 incidents (3 unchanged)\n"
    with IncidentStore(tmp_path / "home") as store:
        assert [incident.id[-1] for incident in store.list(system="shop")] == ["1", "2", "3"]
        assert len(store.audit()) == 3


def test_bundles_instead_of_the_store(run: Run, recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("rcaeval", recordings, "--out", out) == "rcaeval: 3 incidents (3 added)\n"
    assert run("rcaeval", recordings, "--out", out) == "rcaeval: 3 incidents (3 unchanged)\n"
    assert read_bundle(out / "rcaeval-shop-cart_cpu-1")[0].fault_kind() == "cpu_contention"
    with pytest.raises(BadInput, match="or --replace"):
        run("rcaeval", recordings, "--out", out, "--window-minutes", 1)
    assert run("rcaeval", recordings, "--out", out, "--window-minutes", 1, "--replace") == "rcaeval: 3 incidents (3 replaced)\n"
    assert not (tmp_path / "home").exists()


def test_another_incident_of_the_same_id_is_not_overwritten(run: Run, recordings: Path, tmp_path: Path) -> None:
    run("rcaeval", recordings)
    with pytest.raises(BadInput, match="another incident of that id"):
        run("rcaeval", recordings, "--window-minutes", 1)
    with IncidentStore(tmp_path / "home") as store:
        assert {incident.window.interval().seconds for incident in store.list()} == {300}


def test_an_interruption_keeps_what_is_finished(
    run: Run, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any) -> Iterator[tuple[Incident, Telemetry]]:
        yield from list(original(*arguments))[:2]
        raise KeyboardInterrupt

    original = FORMATS["rcaeval"].read
    monkeypatch.setitem(FORMATS, "rcaeval", replace(FORMATS["rcaeval"], read=interrupted))
    result = CliRunner().invoke(app, ["import", "rcaeval", str(recordings)])
    assert result.exit_code == 130
    assert "stopped; kept: 2 incidents (2 added)" in result.output
    with IncidentStore(tmp_path / "home") as store:
        assert len(store.list()) == 2
    monkeypatch.undo()
    monkeypatch.setenv("RCA_HOME", str(tmp_path / "home"))
    assert run("rcaeval", recordings) == "rcaeval: 3 incidents (1 added, 2 unchanged)\n"


def test_a_damaged_recording_loses_nothing(run: Run, recordings: Path, tmp_path: Path) -> None:
    (recordings / "shop" / "cart_cpu" / "3" / "data.csv").write_text("time,cart_cpu\n1,x\n")
    with pytest.raises(BadTelemetry, match=r"3/data\.csv, column cart_cpu: expected numbers, found 'x'"):
        run("rcaeval", recordings)
    with IncidentStore(tmp_path / "home") as store:
        assert len(store.list()) == 2


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("data.csv", f"time,cart_cpu\n{START_S * 10**9},1\n", "column time: expected nanoseconds since the epoch between"),
        ("data.csv", f"time,cart_cpu\n{START_S * 10**3},1\n", "column time: expected nanoseconds since the epoch between"),
        ("inject_time.txt", "inf", "inject_time.txt: expected seconds since the epoch, found"),
        ("inject_time.txt", str(START_S * 1000), "inject_time.txt: expected nanoseconds since the epoch between"),
        ("inject_time.txt", "\udcff", "inject_time.txt: expected seconds since the epoch, found"),
        ("logs.csv", f"time,container_name,message\n{START_S * 10**9},cart,hello\n", "column time: expected nanoseconds"),
        (
            "traces.csv",
            f"traceID,spanID,parentSpanID,serviceName,operationName,duration,startTime\na,b,,cart,get,5,{START_S * 10**9}\n",
            "column startTime: expected nanoseconds",
        ),
    ],
)
def test_wrong_units_are_refused(run: Run, recordings: Path, tmp_path: Path, file: str, content: str, message: str) -> None:
    damaged = recordings / "shop" / "cart_cpu" / "3" / file
    damaged.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(BadTelemetry, match=message):
        run("rcaeval", recordings)
    with IncidentStore(tmp_path / "home") as store:
        assert len(store.list()) == 2


def test_a_name_that_cannot_stand_in_an_incident(run: Run, recordings: Path, tmp_path: Path) -> None:
    (recordings / "shop").rename(recordings / ("s" * 200))
    with pytest.raises(BadTelemetry, match=r"Incident\.id: expected String should match pattern"):
        run("rcaeval", recordings)


def test_wrong_options_are_refused(run: Run, recordings: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean jaeger"):
        run("jager", recordings)
    with pytest.raises(BadInput, match="nothing there"):
        run("rcaeval", tmp_path / "nowhere")
    with pytest.raises(BadInput, match="format rcaeval: expected an option that it has"):
        run("rcaeval", recordings, "--start", "2030-01-01T00:00:00Z")
    with pytest.raises(BadInput, match="with its offset"):
        run("jaeger", recordings, "--start", "2030-01-01T00:00:00")
    with pytest.raises(BadInput, match="found both"):
        run("rcaeval", recordings, "--out", tmp_path, "--store", tmp_path)
    with pytest.raises(UnknownName, match="--baseline"):
        run("nezha", recordings, "--baseline", "future")


def test_errors_are_one_line_and_the_exit_code_is_not_zero(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rca", "import", "otlp-json", str(tmp_path), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {tmp_path}: expected a file, or a folder with files ending in .json")
    assert len(done.stderr.splitlines()) == 1
