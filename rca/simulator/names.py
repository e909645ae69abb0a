"""Names that say nothing: a model that could read the answer off a name would learn to read names."""

from __future__ import annotations

from typing import Final

import numpy as np

_ONSETS: Final = ("b", "br", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "st", "t", "tr", "v", "w", "z")
_VOWELS: Final = ("a", "e", "i", "o", "u", "ai", "eo")
_SYLLABLES: Final = tuple(onset + vowel for onset in _ONSETS for vowel in _VOWELS)
_LETTERS: Final = "bcdfghjklmnpqrstvwxz2456789"  # of which Kubernetes makes its suffixes


class Names:
    """New names, no two alike."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._taken: set[str] = set()
        self._drawn: list[float] = []

    def _below(self, n: int) -> int:
        """A number below n. Drawn in bulk: one at a time costs more than the rest of a name."""
        if not self._drawn:
            self._drawn = self._rng.random(1024).tolist()
        return int(self._drawn.pop() * n)

    def word(self) -> str:
        """A word of two to four syllables."""
        while True:
            word = "".join([_SYLLABLES[self._below(len(_SYLLABLES))] for _ in range(2 + self._below(3))])
            if word not in self._taken:
                self._taken.add(word)
                return word

    def suffix(self, length: int) -> str:
        """A piece of a pod's name."""
        return "".join([_LETTERS[self._below(len(_LETTERS))] for _ in range(length)])
