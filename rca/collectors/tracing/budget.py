"""What reading may cost, and many requests at once within it."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from threading import Lock
from typing import Generic, TypeVar

from rca.collectors.tracing.config import TraceSource
from rca.errors import Rejected, Unavailable
from rca.telemetry import SECOND_NS

Item = TypeVar("Item", bound=Hashable)
Result = TypeVar("Result")


class Budget:
    """Counts what was read against the limits of a source; safe to use from several threads."""

    def __init__(self, source: TraceSource) -> None:
        self._source = source
        seconds = source.deadline / SECOND_NS
        self.until = time.monotonic() + seconds
        self.half = self.until - seconds / 2
        self._bytes = self._spans = 0
        self._lock = Lock()

    def spend(self, *, size: int = 0, spans: int = 0) -> None:
        """Count bytes and spans that were read."""
        with self._lock:
            self._bytes += size
            self._spans += spans

    def spent(self) -> str | None:
        """The setting whose limit is reached, or None."""
        if time.monotonic() >= self.until:
            return f"deadline of {self._source.deadline / SECOND_NS:g} s"
        if self._bytes >= self._source.max_bytes:
            return f"max_bytes of {self._source.max_bytes / 2**20:,.0f} MiB"
        if self._spans >= self._source.max_spans:
            return f"max_spans of {self._source.max_spans:,}"
        return None


@dataclass
class Asked(Generic[Item, Result]):
    """What many requests came to: answers, failures, and what was never asked because the budget was spent."""

    found: dict[Item, Result] = field(default_factory=dict)
    failed: dict[Item, Unavailable | Rejected] = field(default_factory=dict)
    left: list[Item] = field(default_factory=list)


def ask_all(
    ask: Callable[[Item], Result], items: Iterable[Item], budget: Budget, at_once: int, until: float | None = None
) -> Asked[Item, Result]:
    """Ask for every item in order, `at_once` at a time, until the budget is spent or the time is `until`.

    An item that the deadline cut off is left.
    """
    until = budget.until if until is None else until
    answers: Asked[Item, Result] = Asked()
    waiting, under_way = list(items)[::-1], dict[Future[Result], Item]()
    with ThreadPoolExecutor(at_once, "rca-traces") as pool:
        while waiting or under_way:
            while waiting and len(under_way) < at_once and time.monotonic() < until and not budget.spent():
                item = waiting.pop()
                under_way[pool.submit(ask, item)] = item
            if not under_way:
                break
            done, _ = wait(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                item = under_way.pop(future)
                try:
                    answers.found[item] = future.result()
                except (Unavailable, Rejected) as error:
                    if time.monotonic() >= budget.until:
                        answers.left.append(item)
                    else:
                        answers.failed[item] = error
    answers.left += waiting[::-1]
    return answers
