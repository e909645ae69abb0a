"""Something wrong inside a backing server that lasts until it is ended."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence


class Trouble:
    """Something wrong inside a server that goes on in threads until it is ended."""

    def __init__(self, works: Sequence[Callable[[threading.Event], None]]) -> None:
        self._end = threading.Event()
        self._threads = [threading.Thread(target=work, args=(self._end,), daemon=True) for work in works]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Stop it and wait until it is over."""
        self._end.set()
        for thread in self._threads:
            thread.join(15)
