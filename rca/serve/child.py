"""What a process of ours does first. It imports nothing of the server, for a child begins by importing it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import Final

_NICER: Final = 10
"""The answer to a sender comes before rankings and pages."""


def begin(parent: int) -> None:
    """To be called first: the process leaves signals to its parent, stands back behind it, and ends when it does."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; the parent decides
    with contextlib.suppress(OSError):
        os.nice(_NICER)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End when the parent has, also in the middle of a ranking."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
