"""How busy the machine is while something is recorded: what a saturated one slows down would be learnt as a symptom."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

_STAT: Final = Path("/proc/stat")
_EVERY_S: Final = 1.0
_SATURATED_AT: Final = 0.95
_SATURATED_SHARE: Final = 0.2


@dataclass(frozen=True)
class HostLoad:
    """Share of the machine's CPU time that was taken, by second. Work at a lower priority (nice) does not count: it gives way."""

    samples: tuple[float, ...]

    @property
    def mean(self) -> float:
        return sum(self.samples) / len(self.samples) if self.samples else 0.0

    @property
    def saturated(self) -> bool:
        """Whether more than a fifth of the seconds had no CPU time to spare."""
        full = sum(1 for sample in self.samples if sample > _SATURATED_AT)
        return full > _SATURATED_SHARE * len(self.samples)


class HostWatch:
    """Samples the machine's CPU in the background, as a context."""

    def __init__(self) -> None:
        self._end = threading.Event()
        self._samples: list[tuple[float, float]] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def between(self, start: float, end: float) -> HostLoad:
        """The load between two times (time.time())."""
        return HostLoad(tuple(busy for at, busy in self._samples if start <= at < end))

    def _run(self) -> None:
        before = _ticks()
        while not self._end.wait(_EVERY_S):
            after = _ticks()
            taken, total = after[0] - before[0], after[1] - before[1]
            if total > 0:
                self._samples.append((time.time(), taken / total))
            before = after


def _ticks() -> tuple[int, int]:
    """CPU time taken at normal priority, and in all, in ticks since boot."""
    user, nice, system, idle, waiting, *rest = map(int, _STAT.read_text().splitlines()[0].split()[1:9])
    taken = user + system + sum(rest)
    return taken, taken + nice + idle + waiting
