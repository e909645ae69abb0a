"""Processes that die with whoever started them, and what /proc says of them. Linux."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rca.errors import Unavailable
from rca.shop.folder import Process
from rca.shop.installed import binary

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_PORTS: Final = (20_000, 32_000)
"""Below the range from which the kernel takes ports for outgoing connections."""


@dataclass(frozen=True)
class Usage:
    """What a process and its children have used since they started, and hold now."""

    cpu_seconds: float = 0.0
    memory_bytes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0


def spawn(
    command: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None, core: int | None = None
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own that gets SIGKILL when the calling thread ends, on one core if given.

    Its output goes to `log`. Raises Unavailable where a program is missing.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        process = subprocess.Popen(
            [binary("setpriv"), "--pdeathsig", "KILL", "--", *command],
            env=dict(environment) if environment is not None else None,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    if core is not None:
        pin(process.pid, core)
    return process


def pin(pid: int, core: int) -> None:
    """Let a process run on one core; one that is gone already is left alone."""
    with contextlib.suppress(ProcessLookupError):
        os.sched_setaffinity(pid, {core})


def started(pid: int) -> int | None:
    """Clock ticks since boot at which a process started, None if there is none. A zombie has ended."""
    fields = _stat(pid)
    return int(fields[19]) if fields and fields[0] != "Z" else None


def identified(name: str, pid: int) -> Process | None:
    """A process by its id and start, None if it is gone."""
    at = started(pid)
    return Process(name, pid, at) if at is not None else None


def is_running(process: Process) -> bool:
    """Whether this very process runs, and not another one that got its id."""
    return started(process.pid) == process.started


def sweep(processes: Iterable[Process], timeout_s: float = 5.0) -> list[Process]:
    """Kill those that still run and wait until they are gone; returns those that were killed."""
    killed = []
    for process in processes:
        if is_running(process):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process.pid, signal.SIGKILL)
                killed.append(process)
    deadline = time.monotonic() + timeout_s
    while any(is_running(process) for process in killed) and time.monotonic() < deadline:
        time.sleep(0.02)
    return killed


def children() -> dict[int, list[int]]:
    """Process ids by their parent's."""
    found: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            fields = _stat(int(entry.name))
            if fields:
                found.setdefault(int(fields[1]), []).append(int(entry.name))
    return found


def usage(pid: int, others: Iterable[int] = (), *, ended: bool = True) -> Usage | None:
    """What a process used, with children of it that have ended, and others that run. None if it is gone."""
    fields = _stat(pid)
    if not fields or fields[0] == "Z":
        return None
    ticks = sum(map(int, fields[11 : 15 if ended else 13]))
    held, shared = _memory(pid)
    memory, most_shared = held - shared, shared
    read, written = _io(pid)
    for other in others:
        more = _stat(other)
        if more:
            ticks += int(more[11]) + int(more[12])
            held, shared = _memory(other)
            memory, most_shared = memory + held - shared, max(most_shared, shared)
            other_read, other_written = _io(other)
            read, written = read + other_read, written + other_written
    return Usage(ticks / _TICKS, memory + most_shared, read, written)


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on; none if the process is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123  # twice as quick, and read all the time
            return file.read().decode(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _memory(pid: int) -> tuple[int, int]:
    """Resident bytes, and those of them that may be shared with others."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:  # noqa: PTH123
            _, resident, shared, *_ = file.read().split()
    except (OSError, ValueError):
        return 0, 0
    return int(resident) * _PAGE, int(shared) * _PAGE


def _io(pid: int) -> tuple[int, int]:
    """Bytes read and written by system calls on files and sockets of storage."""
    try:
        with open(f"/proc/{pid}/io", "rb") as file:  # noqa: PTH123
            values = dict(line.split(b": ") for line in file.read().splitlines())
    except (OSError, ValueError):  # another user's
        return 0, 0
    return int(values.get(b"read_bytes", 0)), int(values.get(b"write_bytes", 0))


class Ports:
    """Free ports of loopback, each given once. Two shops start to look at different places."""

    def __init__(self) -> None:
        first, last = _PORTS
        self._next = first + os.getpid() * 37 % (last - first)

    def take(self) -> int:
        """A port that nobody listens on. Raises Unavailable where none is left."""
        first, last = _PORTS
        for _ in range(last - first):
            port, self._next = self._next, first + (self._next + 1 - first) % (last - first)
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
            return port
        raise Unavailable(f"127.0.0.1: expected a free port from {first} to {last}, found none")
