"""Hands answers to the sinks, a thread each, so that one that is down keeps nobody waiting.

A delivery is noted after the sink took it: after kill -9 in between it is sent again, under the same idempotency key. Where it
cannot be noted, because the disk is full, what became of it is kept in mind and the message is not sent twice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from rca.errors import Overloaded, RcaError, Rejected
from rca.incidents.inbox import Delivery, InboxFile
from rca.observe import Observer
from rca.serve.inbox import Inbox
from rca.serve.metrics import Metrics
from rca.sinks.notice import Sent, Sink, loaded
from rca.telemetry import SECOND_NS

_LOG: Final = logging.getLogger(__name__)
_FIRST_WAIT_S: Final = 1.0
_LONGEST_WAIT_S: Final = 60.0
_GIVE_UP_NS: Final = 24 * 3600 * SECOND_NS
_AFTER_TROUBLE_S: Final = 1.0
_MOST: Final = 50


@dataclass(frozen=True)
class _Outcome:
    """What became of a delivery, and how that is noted."""

    name: Literal["sent", "to be tried again", "given up"]
    note: Callable[[InboxFile], None]


class Sender:
    """Sends to one sink, in the order of the revisions of each incident."""

    def __init__(
        self,
        inbox: Inbox,
        sink: Sink,
        metrics: Metrics,
        *,
        observer: Observer | None = None,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._observer = observer or Observer()
        self._inbox, self._sink, self._metrics, self._wall_ns = inbox, sink, metrics, wall_ns
        self._unnoted: dict[tuple[int, int], _Outcome] = {}
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self.run, name=f"sink {sink.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, patience_s: float = 5.0) -> None:
        """End after the message that is being sent, or without it: what was not noted is sent again."""
        self._ending.set()
        self._inbox.tell()
        if self._thread.is_alive():
            self._thread.join(patience_s)

    def run(self) -> None:
        seen = 0
        with self._inbox.reading() as file:
            while not self._ending.is_set():
                try:
                    busy = self.step(file)
                except Exception as error:  # of the disk, mostly
                    if not self._ending.wait(_AFTER_TROUBLE_S):
                        _LOG.error("%s", error, exc_info=None if isinstance(error, RcaError) else error)
                    continue
                if not busy:
                    seen = self._inbox.wait(seen, self._patience_s(file))

    def step(self, file: InboxFile) -> bool:
        """Send what is due; False if nothing is."""
        due = file.deliveries_due(self._sink.name, self._wall_ns(), _MOST)
        for delivery in due:
            if not self._ending.is_set():
                self._deliver(file, delivery)
        return bool(due)

    def _patience_s(self, file: InboxFile) -> float:
        due = file.next_delivery_ns(self._sink.name)
        wait = _LONGEST_WAIT_S if due is None else (due - self._wall_ns()) / SECOND_NS
        return min(max(wait, 0.01), _LONGEST_WAIT_S)

    def _deliver(self, file: InboxFile, delivery: Delivery) -> None:
        """Send it, and note what became of it; only the latter where that alone could not be done last time."""
        key = delivery.episode, delivery.revision
        outcome = self._unnoted[key] = self._unnoted.get(key) or self._tried(file, delivery)
        self._inbox.write(outcome.note)
        del self._unnoted[key]
        self._metrics.deliveries.add(outcome.name)

    def _tried(self, file: InboxFile, delivery: Delivery) -> _Outcome:
        before = file.reference(delivery.episode, self._sink.name)
        stored = file.notice(delivery.episode, delivery.revision)
        try:
            notice = loaded(stored.body)
            with self._observer.span(
                "deliver",
                rca_incident_id=delivery.incident_id,
                rca_revision=delivery.revision,
                rca_sink=self._sink.name,
                rca_tries=delivery.tries,
            ):
                sent = self._sink.send(notice, before)
        except Exception as error:  # a sink of another package may raise anything; the others go on
            return self._failed(delivery, error)
        now = self._wall_ns()
        return _Outcome("sent", lambda file: file.delivered(delivery, now, sent.reference or before, _cut(sent)))

    def _failed(self, delivery: Delivery, error: Exception) -> _Outcome:
        """Try again later where that may help: a sink may be down for an hour."""
        words = str(error) if isinstance(error, RcaError) else f"{type(error).__name__}: {error}"
        now = self._wall_ns()
        due_ns = now + int(wait_s(delivery.tries, error) * SECOND_NS)
        old = now - delivery.made_ns > _GIVE_UP_NS
        over = isinstance(error, Rejected) or old
        key = f"{delivery.incident_id}:{delivery.revision}"
        _LOG.log(logging.ERROR if over else logging.WARNING, "%s: %s was not sent: %s", self._sink.name, key, words)
        if not isinstance(error, RcaError):
            _LOG.debug("%s", key, exc_info=error)
        return _Outcome(
            "given up" if over else "to be tried again", lambda file: file.failed(delivery, words, due_ns if not over else None)
        )


def wait_s(tries: int, error: Exception) -> float:
    """How long to wait after so many tries: doubling up to a minute, longer where the sink says so."""
    wait = min(_FIRST_WAIT_S * 2.0 ** min(tries, 30), _LONGEST_WAIT_S)
    return max(wait, error.retry_after_s) if isinstance(error, Overloaded) else wait


def _cut(sent: Sent) -> str:
    said = [*([f"not sent: {sent.skipped}"] if sent.skipped else []), *([f"cut: {', '.join(sent.cut)}"] if sent.cut else [])]
    return "; ".join(said)
