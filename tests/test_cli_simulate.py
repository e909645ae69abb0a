"""`rca simulate`: repeatable whatever the processes, resumable, and clear about what it refuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rca.incidents.bundle import read_bundle, read_manifest
from rca.incidents.store import IncidentStore
from rca.simulator import SIMULATED

SMALL = ("--services", "5:6", "--seed", "3")


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "rca", "simulate", *arguments], capture_output=True, text=True, check=False)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_bundles_are_the_same_whatever_the_number_of_processes(tmp_path: Path) -> None:
    for processes in ("1", "2"):
        done = _run("--incidents", "4", *SMALL, "--processes", processes, "--out", str(tmp_path / processes))
        assert (done.returncode, done.stderr) == (0, "")
        assert "4 incidents simulated" in done.stdout
    assert _files(tmp_path / "1") == _files(tmp_path / "2")
    incident, telemetry = read_bundle(tmp_path / "1" / "simulated-3-2")
    assert incident.labels
    assert not telemetry.is_empty()


def test_a_second_run_makes_only_what_is_missing(tmp_path: Path) -> None:
    first = _run("--incidents", "3", *SMALL, "--out", str(tmp_path / "out"), "--processes", "1")
    before = _files(tmp_path / "out")
    (tmp_path / "out" / "simulated-3-1" / "incident.json").write_text("{")  # damaged
    second = _run("--incidents", "4", *SMALL, "--out", str(tmp_path / "out"), "--processes", "1")
    assert "2 incidents simulated, 2 were there" in second.stdout
    after = _files(tmp_path / "out")
    assert {name: after[name] for name in before} == before
    assert first.returncode == second.returncode == 0


def test_another_simulation_is_refused_in_the_same_folder(tmp_path: Path) -> None:
    _run("--incidents", "1", *SMALL, "--out", str(tmp_path), "--processes", "1")
    done = _run("--incidents", "1", "--services", "5:6", "--seed", "4", "--out", str(tmp_path))
    assert done.returncode == 2
    assert "one that differs in seed" in done.stderr


def test_the_store_takes_them_too(tmp_path: Path) -> None:
    for count in ("2", "3"):
        done = _run("--incidents", count, *SMALL, "--normal", "1", "--store", str(tmp_path), "--processes", "1")
        assert done.returncode == 0, done.stderr
    with IncidentStore(tmp_path) as store:
        assert len(store.list()) == 3
        assert all(incident.is_no_fault() for incident in store.list())


def test_only_the_faults_that_are_asked_for(tmp_path: Path) -> None:
    done = _run(
        *("--incidents", "3", "--seed", "1", "--services", "6:8", "--fault", "exception", "--fault", "latency", "--normal", "0"),
        *("--emit", "spans", "--out", str(tmp_path), "--processes", "1"),
    )
    assert done.returncode == 0, done.stderr
    manifests = [read_manifest(tmp_path / f"simulated-1-{index}") for index in range(3)]
    assert {manifest.fault_kind() for manifest in manifests} <= {"exception", "latency"}
    assert any(frame.frame == "spans" for manifest in manifests for frame in manifest.frames)


def test_the_kinds_are_listed() -> None:
    done = _run("--list-faults")
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(SIMULATED)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "expected one of --out and --store, found neither"),
        (("--out", "a", "--store", "b"), "found both"),
        (("--out", "a", "--services", "9:3"), "--services: expected fewest:most"),
        (("--out", "a", "--services", "many"), "found many"),
        (("--out", "a", "--fault", "cpu_contnetion"), "cpu_contention"),
        (("--out", "a", "--emit", "metrics"), "--emit: expected bins or spans"),
        (("--out", "/dev/null/folder"), "a place that can be written"),
        (("--out", "."), "--out: expected an empty folder, or one of the same simulation, found ., which holds other files"),
        (("--out", "a", "--incidents", "0"), "--incidents"),
        (("--out", "a", "--normal", "1.5"), "--normal"),
    ],
)
def test_bad_input_is_named(arguments: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    (tmp_path / "notes").touch()
    monkeypatch.chdir(tmp_path)
    done = _run(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_finished_when_it_is_interrupted_stays(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rca", "simulate", "--incidents", "5000", *SMALL, "--processes", "2", "--out", str(tmp_path)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("simulated-*"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(running.pid, signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    assert said == f"{tmp_path}: what is finished is kept, the same command goes on\ninterrupted\n"
    bundles = sorted(tmp_path.glob("simulated-*"))
    assert len(bundles) >= 3
    for bundle in bundles:
        read_bundle(bundle)
    assert not list(tmp_path.glob(".*.tmp"))


def test_no_process_stays_when_it_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rca", "simulate", "--incidents", "5000", *SMALL, "--processes", "2", "--out", str(tmp_path)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("simulated-*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    running.kill()
    running.communicate(timeout=30)  # standard output ends when the last process that inherited it does
