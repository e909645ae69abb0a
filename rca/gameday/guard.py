"""The guard: a process of its own that ends every fault of a shop when the one that runs a game day dies, however it dies.

It waits for the end of a pipe that only the runner holds open. The runner says `done` before it ends in order; where it does
not, the guard clears the shop. It keeps the shop's lock meanwhile, so that nobody else injects anything before that.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, Self

from rca.errors import RcaError, Unavailable
from rca.gameday.folder import Journal
from rca.shop.client import Shop
from rca.shop.faults import clear
from rca.wording import excerpt

LOG_FILE: Final = "guard.log"
_DONE: Final = b"done\n"
_READY: Final = b"ready\n"
_PATIENCE_S: Final = 120.0
_PAUSE_S: Final = 1.0


class Guard:
    """A guard over a shop, as a context that is left once its faults are ended. `lock` is the descriptor of the shop's lock."""

    def __init__(self, shop_folder: Path, day_folder: Path, lock: int) -> None:
        command = [sys.executable, "-m", "rca.gameday.guard", str(shop_folder), str(day_folder)]
        self._log = day_folder / LOG_FILE
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=(lock,),
                start_new_session=True,  # Ctrl-C in a terminal must not reach it
            )

    def __enter__(self) -> Self:
        """Raises Unavailable if it does not come up."""
        assert self._process.stdout is not None
        if self._process.stdout.readline() != _READY:
            raise Unavailable(f"the guard did not start: {self._last_words()}")
        return self

    def __exit__(self, *_: object) -> None:
        """Let it go. If `stand_down` was not called it clears the shop first."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        if self._log.exists() and not self._log.stat().st_size:
            self._log.unlink()

    @property
    def is_there(self) -> bool:
        """Whether it still watches."""
        return self._process.poll() is None

    def stand_down(self) -> None:
        """Nothing is left to be cleared."""
        assert self._process.stdin is not None
        if self.is_there:
            self._process.stdin.write(_DONE)
            self._process.stdin.flush()

    def _last_words(self) -> str:
        return excerpt(self._log.read_text(encoding="utf-8", errors="replace")[-300:], 300) or "it says nothing"


def watch(shop_folder: Path, day_folder: Path) -> None:
    """What the guard's process does."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdout.buffer.write(_READY)
    sys.stdout.buffer.flush()
    if sys.stdin.buffer.read().endswith(_DONE):
        return
    shop, deadline = Shop(shop_folder), time.monotonic() + _PATIENCE_S
    while True:
        try:
            clear(shop)
            why = "the run died; the guard ended every fault"
            break
        except RcaError as error:
            if time.monotonic() > deadline or shop.folder.state() is None:
                why = f"the run died, and its faults could not be ended: {error}"
                break
            time.sleep(_PAUSE_S)
    Journal(day_folder).add("guarded", why=why)


if __name__ == "__main__":
    watch(Path(sys.argv[1]), Path(sys.argv[2]))
