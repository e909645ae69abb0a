"""Starting and stopping the shop, its folder, its settings, and what the commands say when something is missing."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import pwd
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rca.cli.main import app
from rca.collectors.config import load_config
from rca.errors import BadInput, RcaError, Rejected, Unavailable
from rca.shop import folder as folder_module
from rca.shop import installed, monitoring, running
from rca.shop.backing.postgres import Postgres, user
from rca.shop.client import Shop
from rca.shop.folder import Process, RunFolder, State, private_folder, remove_private, run_folder
from rca.shop.supervisor.processes import identified, is_running
from rca.shop.supervisor.supervisor import Supervisor, empty, supervise
from tests.servers.pods import needs, started
from tests.servers.prometheus import binary

PORTS = monitoring.Ports(prometheus=20001, alertmanager=20002, otlp=20003, exporters=20004)


def _state(pid: int, *processes: Process) -> State:
    supervisor = identified("supervisor", pid) or Process("supervisor", pid, 1)
    return State("0", supervisor, "ready", "", "secret", {"control": "http://127.0.0.1:9"}, processes)


def test_what_a_shop_writes_is_read_back_and_kept_from_others(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.state() is None
    state = _state(os.getpid(), Process("cart", 3, 4))
    folder.write_state(state)
    assert folder.state() == state
    assert folder.state_file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 1}', '{"processes": [{"name": "x"}]}'])
def test_a_damaged_state_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "shop.json").write_text(text)
    with pytest.raises(BadInput, match=r"shop\.json: expected what a running shop writes"):
        RunFolder(tmp_path).state()


def test_only_folders_of_a_shop_are_emptied(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "shop")
    empty(folder)
    (folder.path / "pods" / "cart").mkdir(parents=True)
    (folder.path / "rca.toml").write_text("old")
    empty(folder)
    assert not list(folder.path.iterdir())
    (folder.path / "thesis.tex").write_text("years of work")
    with pytest.raises(BadInput, match=r"an empty folder, or one of an earlier shop, found other files: thesis\.tex"):
        empty(folder)
    assert (folder.path / "thesis.tex").exists()


def test_a_folder_has_one_supervisor(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.alone("lock", "taken"):
        with pytest.raises(Rejected, match=rf"a shop is already running here, process {os.getpid()} since 20"):
            supervise(folder, None)
        empty(folder)
        with pytest.raises(Rejected, match="taken"), folder.alone("lock", "taken"):
            pass
    with folder.alone("lock", "taken"):
        pass


def test_a_file_system_without_locks_is_not_said_to_hold_a_shop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def without_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without_locks)
    with pytest.raises(OSError, match="No locks available"), RunFolder(tmp_path).alone("lock", "taken"):
        pass


_HOLDER = """
import sys, time
from pathlib import Path
from rca.shop.folder import RunFolder
with RunFolder(Path(sys.argv[1])).alone("lock", "taken"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_who_dies_lets_go(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with subprocess.Popen([sys.executable, "-c", _HOLDER, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(Rejected, match=f"taken, process {holder.pid} since"), folder.alone("lock", "taken"):
            pass
        holder.kill()
        holder.wait()
    with folder.alone("lock", "taken"):
        pass


def test_a_shop_that_runs_is_not_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "check_requirements", lambda: None)
    folder = RunFolder(tmp_path)
    folder.write_state(_state(os.getpid()))
    with pytest.raises(Rejected, match="already running here"):
        running.start(folder, 12.0)


def test_stopping_sweeps_what_a_killed_supervisor_left(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert not running.stop(folder)
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as left:
        process = identified("cart", left.pid)
        assert process is not None
        folder.write_state(_state(2**22 - 7, process, replace(process, name="stranger", started=process.started - 1)))
        assert running.stop(folder)
        left.wait(5)
        assert not is_running(process)
    assert not folder.state_file.exists()
    assert not running.stop(folder)


def test_a_private_folder_goes_with_the_shop(tmp_path: Path) -> None:
    whose = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())  # only root makes one for another
    private = private_folder(whose.pw_name)
    (private / "data").mkdir()
    assert (private.stat().st_uid, private.stat().st_mode & 0o777) == (whose.pw_uid, 0o700)
    folder = RunFolder(tmp_path)
    state = replace(_state(2**22 - 7), outside=(str(private),))
    folder.write_state(state)
    assert folder.state() == state
    running.stop(folder)
    assert not private.exists()


def test_a_private_folder_that_cannot_be_given_away_is_not_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(folder_module, "_TEMPORARY", (tmp_path,))
    monkeypatch.setattr(os, "chown", refused)
    with pytest.raises(Unavailable, match="could not be made: Operation not permitted"):
        private_folder(pwd.getpwuid(os.geteuid()).pw_name)
    assert not list(tmp_path.iterdir())


def test_no_other_folder_is_deleted_whatever_a_state_says(tmp_path: Path) -> None:
    mine = Path(tempfile.mkdtemp(dir="/tmp"))
    named_so = tmp_path / "rca-shop-thesis"
    named_so.mkdir()
    remove_private([str(mine), str(named_so), f"/tmp/rca-shop-x/../{mine.name}", "/var/tmp", "rca-shop-1"])
    assert mine.exists()
    assert named_so.exists()
    mine.rmdir()


def test_postgres_needs_no_folder_to_be_opened_for_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    needs("postgres")
    who = user()
    home = private_folder(who) if who else None
    server = Postgres(home)
    try:
        started(server, tmp_path / "shop" / "shop-db")
        assert server.data.parent == (home or tmp_path / "shop" / "shop-db")
        assert tmp_path.stat().st_mode & 0o777 == 0o700
    finally:
        server.stop()
        remove_private([str(home)])
    assert home is None or not home.exists()


def test_backing_servers_come_up_and_leave_nothing_outside(tmp_path: Path) -> None:
    needs("postgres", "redis-server")
    folder = RunFolder(tmp_path)

    async def scenario() -> tuple[str, ...]:
        supervisor = Supervisor(folder)
        supervisor._prepare()
        try:
            supervisor._make_backing()
            state = folder.state()  # written before a server runs, so that nothing is ever forgotten
            outside = state.outside if state else ()
            assert (len(outside) == 1) == (os.geteuid() == 0)
            deadline = time.monotonic() + 120
            while not all(one.pod.is_ready for one in supervisor._stateful_sets.values()):
                assert time.monotonic() < deadline, supervisor._hindrance()
                supervisor._kubelet.tick()
                await asyncio.sleep(0.1)
            assert all(Path(path, "data", "PG_VERSION").exists() for path in outside)
        finally:
            await supervisor._end()
            supervisor._control.socket.close()
        return outside

    assert not any(Path(path).exists() for path in asyncio.run(scenario()))


def test_a_state_of_somebody_else_is_said_to_be_so(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_state(_state(os.getpid()))
    me = os.geteuid()
    folder.state_file.chmod(0)
    os.seteuid(me or pwd.getpwnam("nobody").pw_uid)
    try:
        with pytest.raises(BadInput, match=r"shop\.json: expected a file that you may read, found somebody else's"):
            folder.state()
    finally:
        os.seteuid(me)


def test_missing_programs_are_told_with_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "_has", lambda program: program not in ("postgres", "prometheus"))
    with pytest.raises(Unavailable, match="apt install prometheus postgresql"):
        running.check_requirements()


def test_missing_packages_are_told_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_is_installed", lambda module: module != "psycopg")
    with pytest.raises(Unavailable, match=r"not installed: psycopg; pip install 'rca-gnn\[shop\]'"):
        running.check_requirements()


def test_commands_say_that_no_shop_runs(tmp_path: Path) -> None:
    where = ["--run", str(tmp_path / "shop")]
    down = CliRunner().invoke(app, ["shop", "down", *where])
    assert (down.exit_code, down.output) == (0, f"no shop runs in {(tmp_path / 'shop').resolve()}\n")
    for command in (["status"], ["load", "3"]):
        failed = CliRunner().invoke(app, ["shop", *command, *where])
        assert isinstance(failed.exception, Unavailable)
        assert "no shop runs here; `rca shop up` starts one" in str(failed.exception)


@pytest.mark.parametrize(
    "command", [["status"], ["up"], ["down"], ["clear"], ["inject", "exception", "cart"], ["record", "--out", "new"]]
)
def test_a_file_is_no_folder_of_a_shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    monkeypatch.setattr(running, "check_requirements", lambda: None)
    file = tmp_path / "notes"
    file.write_text("mine")
    failed = CliRunner().invoke(app, ["shop", *command, "--run", str(file)])
    assert isinstance(failed.exception, BadInput)
    assert str(failed.exception) == f"{file.resolve()}: expected the folder of a shop, found a file"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inject"], "FAULT and TARGET, or --list"),
        (["inject", "exeption", "cart"], r"fault: .*did you mean exception"),
        (["inject", "exception", "card"], r"target of exception: .*did you mean cart"),
        (["inject", "slow_database"], "target of slow_database: expected one of shop-db, found none"),
        (["inject", "exception", "cart", "--for", "0s"], "--for: expected a second or more, found '0s'"),
        (["inject", "exception", "cart", "--for", "soon"], "--for: expected a duration"),
        (["inject", "exception", "cart"], "no shop runs here"),
        (["inject", "exception", "cart", "--for", "1s"], "no shop runs here"),
        (["clear"], "no shop runs here"),
        (["record"], "no shop runs here"),
        (["record", "--fault", "exeption"], r"--fault: .*did you mean exception"),
    ],
)
def test_orders_for_faults_say_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.setenv("RCA_HOME", str(tmp_path))
    failed = CliRunner().invoke(app, ["shop", *arguments])
    assert isinstance(failed.exception, RcaError)
    assert re.search(message, str(failed.exception))


def test_a_shop_that_ended_unexpectedly_is_told_apart_from_one_that_is_slow(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_state(_state(2**22 - 7))
    with pytest.raises(Unavailable, match="ended unexpectedly; `rca shop down` tidies up"):
        Shop(folder).status()
    folder.write_state(_state(os.getpid()))
    with pytest.raises(Unavailable, match="does not answer"):
        Shop(folder).status()


def test_a_start_that_fails_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "shop")
    folder.path.mkdir()
    (folder.path / "thesis.tex").write_text("years of work")
    with (folder.path / "supervisor.log").open("wb") as log:
        command = [sys.executable, "-m", "rca.shop.supervisor", str(folder.path)]
        supervisor = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    with pytest.raises(Unavailable, match=r"did not come up: .*expected an empty folder"):
        running.wait_ready(folder, supervisor, lambda _text: None)
    assert (folder.path / "thesis.tex").exists()


def test_nothing_is_written_where_others_have_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "check_requirements", lambda: None)
    (tmp_path / "supervisor.log").write_text("of another program")
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(BadInput, match=r"expected an empty folder, or one of an earlier shop"):
        running.start(RunFolder(tmp_path), 12.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["supervisor.log", "thesis.tex"]
    assert (tmp_path / "supervisor.log").read_text() == "of another program"


def test_a_start_that_comes_too_late_leaves_the_shop_of_the_other(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with subprocess.Popen(["sleep", "1000"]) as first, subprocess.Popen(["false"]) as second:
        folder.write_state(replace(_state(first.pid), phase="starting"))
        second.wait(5)
        with pytest.raises(Unavailable, match="did not come up"):
            running.wait_ready(folder, second, lambda _text: None)
        assert first.poll() is None
        assert folder.state_file.exists()
        first.kill()


def test_the_default_folder_is_below_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RCA_HOME", str(tmp_path))
    assert run_folder().path == tmp_path / "shop"


# --- what is written for others --------------------------------------------------------------------------------------------


def test_prometheus_and_alertmanager_take_their_settings(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    monitoring.write_settings(folder, PORTS, tmp_path / "kubeconfig")
    monitoring.pod_targets(folder, [("cart-1", "cart", "node-a", 20005)])
    checks = [
        [binary("promtool"), "check", "config", str(tmp_path / "prometheus" / "prometheus.yml")],
        [binary("amtool"), "check-config", str(tmp_path / "alertmanager" / "alertmanager.yml")],
    ]
    for check in checks:
        done = subprocess.run(check, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    groups: list[dict[str, Any]] = json.loads((tmp_path / "prometheus" / "pods.json").read_text())
    assert groups[0]["labels"] == {"namespace": "shop", "pod": "cart-1", "node": "node-a", "app": "cart"}


def test_rca_takes_its_settings(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    monitoring.write_settings(folder, PORTS, tmp_path / "kubeconfig")
    config = load_config(folder.config_file)
    assert config.triage.system == "shop"
    assert config.otlp is not None
    assert (config.otlp.grpc_address, config.otlp.http_address) == ("", "127.0.0.1:20003")
    assert config.prometheus is not None
    assert config.alertmanager is not None
    assert config.kubernetes is not None
    assert config.kubernetes.kubeconfig == tmp_path / "kubeconfig"
