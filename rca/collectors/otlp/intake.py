"""Between the receiver and whatever keeps the telemetry: what is handed over, how it says "full", and what is counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from threading import Lock
from typing import Final, Literal, Protocol

import polars as pl

from rca.telemetry import dtypes, empty

Signal = Literal["spans", "metrics", "logs"]
SIGNALS: Final[tuple[Signal, ...]] = ("spans", "metrics", "logs")
Outcome = Literal["calls", "requests", "bytes", "received", "accepted", "rejected", "refused", "altered"]

RAW_SPANS: Final[dict[str, pl.DataType]] = {
    **dtypes("spans"),
    "trace_id": pl.Binary(),
    "span_id": pl.Binary(),
    "parent_span_id": pl.Binary(),
}
"""Columns of Batch.spans: those of the `spans` frame, in order, with ids as the 16 and 8 bytes that they travel as."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Telemetry of one or several export requests, in no order. Senders that try again may send the same twice.

    Every row has a time within the configured limits, and every span has a trace id, a span id and an end that is not before
    its start. A root span's parent is null. `logs` are counts per service, operation (where known), severity and template in
    10 s bins that start at multiples of 10 s; equal keys come again in later batches and are to be added. `topology` holds
    relations that resources state (service runs pod, pod hosted_on node) and that were not stated in the batches just before.
    """

    spans: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=RAW_SPANS))
    metrics: pl.DataFrame = field(default_factory=lambda: empty("metrics"))
    events: pl.DataFrame = field(default_factory=lambda: empty("events"))
    logs: pl.DataFrame = field(default_factory=lambda: empty("logs"))
    topology: pl.DataFrame = field(default_factory=lambda: empty("topology"))


class Intake(Protocol):
    """Takes what the receiver decoded. Called from one thread at a time, though not always the same one.

    `admit` is asked before requests are decoded and raises Overloaded if there is no room now; the sender is told to try again
    after its `retry_after_s`. What was admitted is then given to `take`, which finds room for it: a batch is at most what
    `max_batch_bytes` of the receiver's configuration hold. The sender is told that its telemetry was taken once `take` has
    returned. An RcaError out of `take` means that nothing of the batch was kept, and is answered as Unavailable.
    """

    def admit(self) -> None: ...

    def take(self, batch: Batch) -> None: ...


class Accounting:
    """Exact numbers of everything that arrived, by outcome, signal and reason; safe to use from several threads.

    `calls` counts requests that began, `requests` those that were answered (reason: how), `bytes` their size after
    decompression. Calls that are no requests were broken off by the sender, or refused by gRPC itself because they were too
    large. Of spans, data points and log records, received = accepted + rejected (reason: why) + refused (decoded, but the intake
    failed); `altered` counts those of the accepted ones that were cut to the limits. Requests that were turned away whole are
    counted as requests only, for what they hold is not known.
    """

    def __init__(self) -> None:
        self._counts: Counter[tuple[Outcome, Signal, str]] = Counter()
        self._lock = Lock()

    def add(self, outcome: Outcome, signal: Signal, count: int = 1, reason: str = "") -> None:
        """Count `count` more."""
        if count:
            with self._lock:
                self._counts[outcome, signal, reason] += count

    def total(self, outcome: Outcome, signal: Signal, reason: str | None = None) -> int:
        """How many so far, of one reason or of all."""
        with self._lock:
            return sum(n for (o, s, r), n in self._counts.items() if (o, s) == (outcome, signal) and reason in (None, r))

    def rows(self) -> list[tuple[Outcome, Signal, str, int]]:
        """(outcome, signal, reason, count), sorted."""
        with self._lock:
            return sorted((*key, count) for key, count in self._counts.items())

    def balanced(self) -> bool:
        """True if every span, data point and log record that was received has exactly one outcome."""
        ends: tuple[Outcome, ...] = ("accepted", "rejected", "refused")
        return all(self.total("received", signal) == sum(self.total(end, signal) for end in ends) for signal in SIGNALS)
