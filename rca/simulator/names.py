"""Names that say nothing: a model that could read the answer off a name would learn to read names."""

from __future__ import annotations

from typing import Final

import numpy as np

_ONSETS: Final = ("b", "br", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "st", "t", "tr", "v", "w", "z")
_VOWELS: Final = ("a", "e", "i", "o", "u", "ai", "eo")
_LETTERS: Final = "bcdfghjklmnpqrstvwxz2456789"  # of which Kubernetes makes its suffixes


class Names:
    """New names, no two alike."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._taken: set[str] = set()

    def word(self) -> str:
        """A word of two to four syllables."""
        while True:
            syllables = int(self._rng.integers(2, 5))
            onsets = self._rng.integers(len(_ONSETS), size=syllables)
            vowels = self._rng.integers(len(_VOWELS), size=syllables)
            word = "".join(_ONSETS[o] + _VOWELS[v] for o, v in zip(onsets.tolist(), vowels.tolist(), strict=True))
            if word not in self._taken:
                self._taken.add(word)
                return word

    def suffix(self, length: int) -> str:
        """A piece of a pod's name."""
        return "".join(_LETTERS[i] for i in self._rng.integers(len(_LETTERS), size=length).tolist())
