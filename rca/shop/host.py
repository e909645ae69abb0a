"""How much a shop's processes had to wait for a CPU: on a saturated machine everything slows down, and that would be learnt.

The kernel tells for every thread how long it ran and how long it was ready to run and did not (/proc/PID/task/TID/schedstat).
That holds where a machine's load does not: work of a lower priority may fill every core and disturb nobody.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

_EVERY_S: Final = 2.0
_MOST_WAITING: Final = 4.0


@dataclass(frozen=True)
class HostLoad:
    """What the processes used, which is more than nothing, and waited for, in CPU seconds a second."""

    cores: float
    waiting: float

    @property
    def ratio(self) -> float:
        """Seconds of waiting for each second of computing. About 1 is usual for two shops on two cores."""
        return self.waiting / self.cores

    @property
    def is_saturated(self) -> bool:
        """Whether they waited so much that their latencies tell of the machine more than of the shop."""
        return self.ratio > _MOST_WAITING


class HostWatch:
    """Samples the processes in the background, as a context. `pids` is asked each time for those that run."""

    def __init__(self, pids: Callable[[], Iterable[int]]) -> None:
        self._pids = pids
        self._end = threading.Event()
        self._samples: list[tuple[float, float, float]] = []  # time, CPU seconds and seconds of waiting since the sample before
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def between(self, start: float, end: float) -> HostLoad | None:
        """The load between two times (time.time()). None where no process was seen to run, so that nothing is known."""
        inside = [(ran, waited) for at, ran, waited in self._samples if start <= at < end]
        ran, waited = sum(ran for ran, _ in inside), sum(waited for _, waited in inside)
        seconds = max(end - start, 1e-9)
        return HostLoad(ran / seconds, waited / seconds) if ran > 0 else None

    def _run(self) -> None:
        before = _threads(self._pids())
        while not self._end.wait(_EVERY_S):
            after = _threads(self._pids())
            known = [(after[thread], before[thread]) for thread in after if thread in before]
            ran, waited = (sum(now[place] - then[place] for now, then in known) / 1e9 for place in (0, 1))
            self._samples.append((time.time(), ran, waited))
            before = after


def _threads(pids: Iterable[int]) -> dict[str, tuple[int, int]]:
    """Nanoseconds that every thread ran and waited, since it began."""
    found = {}
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            try:
                ran, waited, _ = task.read_text().split()
            except (OSError, ValueError):  # it ended meanwhile
                continue
            found[str(task)] = (int(ran), int(waited))
    return found
