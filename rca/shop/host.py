"""How long a shop's processes wait for a CPU and for the disk: on a saturated machine everything slows down, and that would be
learnt.

The kernel tells for every thread how long it ran and how long it was ready to run and did not (/proc/PID/task/TID/schedstat).
That holds where a machine's load does not: work of a lower priority may fill every core and disturb nobody. The disk is asked by
writing a little now and then, for good, as a database does that commits.
"""

from __future__ import annotations

import contextlib
import math
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from rca.errors import RcaError
from rca.shop.folder import DISK_PROBE

_EVERY_S: Final = 2.0
_MOST_WAITING: Final = 4.0
_PROBE_BYTES: Final = 8192
_SLOWEST_DISK_S: Final = 0.05


@dataclass(frozen=True)
class HostLoad:
    """What the processes used, which is more than nothing, and waited for, in CPU seconds a second; seconds of a small write."""

    cores: float
    waiting: float
    disk_s: float = 0.0

    @property
    def ratio(self) -> float:
        """Seconds of waiting for each second of computing. About 1 is usual for two shops on two cores."""
        return self.waiting / self.cores

    @property
    def is_saturated(self) -> bool:
        """Whether they waited so much that their latencies tell of the machine more than of the shop."""
        return self.ratio > _MOST_WAITING

    @property
    def has_slow_disk(self) -> bool:
        """Whether writes took so long on average that a database's latencies tell of the machine."""
        return self.disk_s > _SLOWEST_DISK_S


class HostWatch:
    """Samples the processes, and the disk of `folder`, in the background, as a context.

    `pids` is asked each time for the processes that run.
    """

    def __init__(self, pids: Callable[[], Iterable[int]], folder: Path) -> None:
        self._pids, self._folder = pids, folder
        self._end = threading.Event()
        self._samples: list[tuple[float, float, float, float]] = []
        """Time; CPU seconds and seconds of waiting since the sample before; seconds of a write."""
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            (self._folder / DISK_PROBE).unlink()

    def between(self, start: float, end: float) -> HostLoad | None:
        """The load between two times (time.time()). None where no process was seen to run, so that nothing is known."""
        inside = [sample[1:] for sample in self._samples if start <= sample[0] < end]
        ran, waited = sum(sample[0] for sample in inside), sum(sample[1] for sample in inside)
        seconds = max(end - start, 1e-9)
        return HostLoad(ran / seconds, waited / seconds, statistics.fmean(sample[2] for sample in inside)) if ran > 0 else None

    def _run(self) -> None:
        before = self._threads()
        while not self._end.wait(_EVERY_S):
            after = self._threads()
            known = [(after[thread], before[thread]) for thread in after if thread in before]
            ran, waited = (sum(now[place] - then[place] for now, then in known) / 1e9 for place in (0, 1))
            self._samples.append((time.time(), ran, waited, _seconds_to_write(self._folder)))
            before = after

    def _threads(self) -> dict[str, tuple[int, int]]:
        """No thread where the processes are not known; the watch goes on, since they may be again."""
        try:
            return _threads(self._pids())
        except RcaError:
            return {}


def _seconds_to_write(folder: Path) -> float:
    """How long it takes until a few KiB are on the disk of a folder; for ever if it takes no more."""
    begun = time.perf_counter()
    try:
        with (folder / DISK_PROBE).open("wb", buffering=0) as file:
            file.write(bytes(_PROBE_BYTES))
            os.fsync(file.fileno())
    except OSError:
        return math.inf
    return time.perf_counter() - begun


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
