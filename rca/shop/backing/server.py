"""What servers of the shop have in common: a folder, a port, a process."""

from __future__ import annotations

import ctypes
import signal
import socket
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


class Server(ABC):
    """One server process. `start` may be called again after `stop`, or after the process died."""

    def __init__(self) -> None:
        self.folder = Path()
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, folder: Path, port: int) -> subprocess.Popen[bytes]:
        """Run it on loopback with its files in `folder`. Raises Unavailable where its program is not installed."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.port = folder, port
        self._prepare()
        user = self._user()
        with (folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(
                self._command(),
                cwd=self._cwd(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                user=user,
                group=user and _group_of(user),
                extra_groups=[] if user else None,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 (one system call, no lock)
            )
        return self.process

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the process and wait for it."""
        process = self.process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.send_signal(self._stop_signal())
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()

    def ready(self) -> bool:
        """Whether it answers."""
        process = self.process
        if process is None or process.poll() is not None:
            return False
        try:
            return self._answers()
        except OSError:
            return False

    @abstractmethod
    def _command(self) -> Sequence[str]: ...

    @abstractmethod
    def _answers(self) -> bool:
        """Raises OSError where it does not."""

    def _prepare(self) -> None:  # noqa: B027 (most need nothing)
        """Whatever has to be in the folder."""

    def _cwd(self) -> Path | None:
        """Where it runs; None is where the shop was started."""
        return self.folder

    def _user(self) -> str | None:
        """As whom it runs, where that is not who runs the shop."""
        return None

    def _stop_signal(self) -> signal.Signals:
        return signal.SIGTERM


def _group_of(user: str) -> int:
    import pwd

    return pwd.getpwnam(user).pw_gid


_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    """Called in the child: it gets SIGKILL when the thread that started it is gone."""
    assert _libc is not None
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def ask(port: int, request: bytes, timeout_s: float = 1.0) -> bytes:
    """The first answer of a server on loopback to some bytes. Raises OSError."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as sock:
        sock.sendall(request)
        return sock.recv(4096)
