"""What was seen lately: a bounded set of 64-bit keys that forgets by age and by number."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]

_GENERATIONS: Final = 8


class Memory:
    """Keys in sorted generations. The youngest grows; once it is full or old enough it is closed, and the oldest is forgotten.

    A key is remembered for at least `keep_ns`, unless more than `most` keys came meanwhile. Times are those that `add` is given
    and never run backwards.
    """

    def __init__(self, keep_ns: int, most: int) -> None:
        self._keep_ns, self._most = keep_ns, most
        self._closed: list[tuple[int, Keys]] = []  # (time of the last key, sorted keys)
        self._open = np.zeros(0, dtype=np.uint64)
        self._born_ns = self._last_ns = 0  # when the first and the last key of the open generation came

    def __len__(self) -> int:
        return len(self._open) + sum(len(keys) for _, keys in self._closed)

    def contains(self, keys: Keys) -> npt.NDArray[np.bool_]:
        """Which of the keys (n,) are remembered, (n,)."""
        found = np.zeros(len(keys), dtype=np.bool_)
        order = np.argsort(keys)
        asked = keys[order]
        for generation in (self._open, *(keys for _, keys in self._closed)):
            if len(generation):
                position = np.minimum(np.searchsorted(generation, asked), len(generation) - 1)
                found[order] |= generation[position] == asked
        return found

    def add(self, keys: Keys, now_ns: int) -> None:
        """Remember keys that are not remembered yet, and forget what is too old."""
        if len(self._open) and now_ns - self._born_ns >= self._keep_ns // _GENERATIONS:
            self._close()
        if len(keys):
            self._born_ns = self._born_ns if len(self._open) else now_ns
            self._open, self._last_ns = np.sort(np.concatenate([self._open, keys])), now_ns
        if len(self._open) >= max(1, self._most // _GENERATIONS):
            self._close()
        while self._closed and (now_ns - self._closed[0][0] > self._keep_ns or len(self) > self._most):
            del self._closed[0]

    def _close(self) -> None:
        self._closed.append((self._last_ns, self._open))
        self._open = np.zeros(0, dtype=np.uint64)

    def generations(self) -> tuple[Keys, ...]:
        """Sorted keys, oldest first. A closed generation is the same object from call to call; the last one is still open."""
        return (*(keys for _, keys in self._closed), self._open)

    def restore(self, generations: Iterable[Keys], now_ns: int) -> None:
        """Start with the generations of an earlier run; their age counts from now."""
        self._closed = [(now_ns, keys) for keys in generations if len(keys)]
