"""Starting a shop in the background and stopping it, so that no process is left however it ends."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from rca.errors import BadInput, Rejected, Unavailable
from rca.shop.folder import SUPERVISOR_LOG, Process, RunFolder, State, remove_private
from rca.shop.installed import missing_packages
from rca.shop.supervisor.processes import is_running, sweep
from rca.wording import listed

LONGEST_START_S: Final = 240.0
_STOP_S: Final = 15.0
_MODULES: Final = (
    "psycopg",
    "psycopg_pool",
    "redis",
    "opentelemetry.sdk",
    "opentelemetry.exporter.prometheus",
    "opentelemetry.exporter.otlp.proto.http",
    "opentelemetry.instrumentation.asgi",
    "opentelemetry.instrumentation.requests",
)


def check_requirements() -> None:
    """Raises Unavailable that names every program and package that is missing."""
    if sys.platform != "linux":
        raise Unavailable(f"the shop needs Linux (/proc and parent-death signals), found {sys.platform}")
    missing = [name for name in _MODULES if not _is_installed(name)]
    if missing:
        raise Unavailable(f"the shop needs packages that are not installed: {listed(missing, 3)}; pip install 'rca-gnn[shop]'")
    packages = missing_packages()
    if packages:
        raise Unavailable(f"the shop needs programs that are not installed; Debian: apt install {' '.join(packages)}")


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def start(folder: RunFolder, rate: float | None) -> subprocess.Popen[bytes]:
    """Start the supervisor of a shop in a session of its own. Raises Unavailable, Rejected where one runs already, BadInput."""
    check_requirements()
    state = folder.state()
    if state is not None:
        if is_running(state.supervisor):
            raise Rejected(f"{folder.path}: a shop is already running here; `rca shop status` shows it, `rca shop down` stops it")
        _sweep(state)  # of a supervisor that was killed
    folder.check()  # before a line of log is written
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        log = (folder.path / SUPERVISOR_LOG).open("wb")
    except OSError as error:
        raise BadInput(str(folder.path), expected="a folder that can be written", found=str(error.strerror)) from None
    folder.state_file.unlink(missing_ok=True)
    with log:
        return subprocess.Popen(
            [sys.executable, "-m", "rca.shop.supervisor", str(folder.path), "none" if rate is None else str(rate)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=_where_rca_is(),
        )


def _where_rca_is() -> Path | None:
    """Where `python -m rca` finds the rca that runs now: only a source tree that is not installed needs to be the folder."""
    import rca

    here = Path(rca.__file__).parent.parent
    return here if (here / "pyproject.toml").exists() else None


def wait_ready(folder: RunFolder, supervisor: subprocess.Popen[bytes], told: Callable[[str], None]) -> None:
    """Wait until the shop is up. If that fails or is interrupted, it is stopped. Raises Unavailable."""
    deadline = time.monotonic() + LONGEST_START_S
    try:
        while not _is_up(folder, supervisor, told, deadline):
            time.sleep(0.2)
    except BaseException:
        if supervisor.poll() is None:
            supervisor.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                supervisor.wait(_STOP_S)
        state = folder.state()
        if state is not None and state.supervisor.pid == supervisor.pid:  # not of somebody who started one at the same time
            stop(folder)
        raise


def _is_up(folder: RunFolder, supervisor: subprocess.Popen[bytes], told: Callable[[str], None], deadline: float) -> bool:
    state = folder.state()
    if supervisor.poll() is not None:
        raise Unavailable(f"the shop did not come up: {_last_words(folder)}")
    if time.monotonic() > deadline:
        raise Unavailable(f"the shop is not up after {LONGEST_START_S:.0f} s: {state.message if state else 'no answer'}")
    if state is not None:
        told(state.message)
    return state is not None and state.phase == "ready"


def _last_words(folder: RunFolder) -> str:
    """The last line that the supervisor wrote."""
    path = folder.path / SUPERVISOR_LOG
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines() if path.exists() else []
    return lines[-1].removeprefix("error: ") if lines else "it said nothing"


def stop(folder: RunFolder) -> bool:
    """End a shop: its supervisor is asked, then killed, and what is left of its processes is killed. False if none ran."""
    state = folder.state()
    if state is None:
        return False
    ran = is_running(state.supervisor)
    if ran:
        with contextlib.suppress(ProcessLookupError):
            os.kill(state.supervisor.pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_S
        while is_running(state.supervisor) and time.monotonic() < deadline:
            time.sleep(0.05)
        state = folder.state() or state
        sweep([state.supervisor])
    left = _sweep(state)
    folder.state_file.unlink(missing_ok=True)
    return ran or bool(left)


def _sweep(state: State) -> list[Process]:
    """Kill what is left of a shop's processes, which are returned, and delete its folders that are not in the run folder."""
    left = sweep(state.processes)
    remove_private(state.outside)
    return left
