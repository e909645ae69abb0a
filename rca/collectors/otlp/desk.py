"""Where requests wait: what waits together is decoded together, in one thread, and each sender learns what became of it."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager

from rca.collectors.otlp.config import OtlpConfig
from rca.collectors.otlp.decoding import Decoder
from rca.collectors.otlp.intake import Accounting, Intake, Signal
from rca.collectors.otlp.request import Receipt, Request
from rca.errors import BadTelemetry, Overloaded, RcaError, Rejected, Unavailable
from rca.telemetry import SECOND_NS

_log = logging.getLogger(__name__)

Clock = Callable[[], int]
"""Nanoseconds since the epoch."""


class Room:
    """Bytes that requests may take in memory at once. Those that are turned away are counted."""

    def __init__(self, most_bytes: int, retry_after_s: float, accounting: Accounting) -> None:
        self._left = most_bytes
        self._retry_after_s = retry_after_s
        self._accounting = accounting
        self._lock = threading.Lock()

    def take(self, size: int, signal: Signal) -> None:
        """Raises Overloaded if there is no room for `size` more bytes."""
        with self._lock:
            if size <= self._left:
                self._left -= size
                return
        error = Overloaded("too many requests are waiting (max_pending_bytes)", self._retry_after_s)
        self._accounting.add("requests", signal, 1, answer_of(error))
        raise error

    def free(self, size: int) -> None:
        """Give bytes back."""
        with self._lock:
            self._left += size

    @contextmanager
    def held(self, size: int, signal: Signal) -> Iterator[None]:
        """Take bytes for as long as the block runs. Raises Overloaded."""
        self.take(size, signal)
        try:
            yield
        finally:
            self.free(size)


class Desk:
    """Decodes what is handed in and gives it to the intake, in a thread of its own.

    Under load several requests are decoded at a time, which costs much less than one by one; alone, a request does not wait.
    """

    def __init__(self, config: OtlpConfig, intake: Intake, accounting: Accounting, clock: Clock = time.time_ns) -> None:
        self.room = Room(config.max_pending_bytes, config.retry_after / SECOND_NS, accounting)
        self.accounting = accounting
        self._config, self._intake, self._clock = config, intake, clock
        self._decoder = Decoder(config)
        self._waiting: deque[tuple[Request, Future[Receipt]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="otlp-decoding", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> Future[Receipt]:
        """What became of the request, once the intake has it.

        The future raises BadTelemetry if the request is no OTLP, Unavailable (Overloaded) if it should be sent again later.
        Raises Unavailable once the desk is closed.
        """
        future: Future[Receipt] = Future()
        with self._changed:
            if self._closed:
                error = Unavailable("the receiver is shutting down")
                self.accounting.add("requests", request.signal, 1, answer_of(error))
                raise error
            self._waiting.append((request, future))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Finish what waits, then stop."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while taken := self._next():
            requests, futures = [request for request, _ in taken], [future for _, future in taken]
            try:
                answers = self._answers(requests)
            except Exception as error:  # whatever it is, the senders get an answer and the thread lives on
                _log.exception("telemetry could not be taken in")
                answers = [Rejected(f"internal error: {type(error).__name__}")] * len(requests)
            for request, future, answer in zip(requests, futures, answers, strict=True):
                self._count(request, answer)
                if not future.set_running_or_notify_cancel():
                    continue  # nobody waits for it any more: the listener gave up at its end
                if isinstance(answer, Receipt):
                    future.set_result(answer)
                else:
                    future.set_exception(answer)

    def _next(self) -> list[tuple[Request, Future[Receipt]]]:
        """Everything that waits, up to the size of a batch; nothing once the desk is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            taken: list[tuple[Request, Future[Receipt]]] = []
            size = 0
            while self._waiting and (not taken or size + len(self._waiting[0][0].body) <= self._config.max_batch_bytes):
                taken.append(self._waiting.popleft())
                size += len(taken[-1][0].body)
            return taken

    def _answers(self, requests: Sequence[Request]) -> Sequence[Receipt | RcaError]:
        try:
            self._intake.admit()
        except Unavailable as error:
            return [error] * len(requests)
        decoded = self._decoder.decode(requests, self._clock())
        try:
            self._intake.take(decoded.batch)
        except RcaError as error:
            _log.warning("telemetry was not kept: %s", error)
            return [self._refused(request, receipt, error) for request, receipt in zip(requests, decoded.receipts, strict=True)]
        return decoded.receipts

    def _refused(self, request: Request, receipt: Receipt | BadTelemetry, error: RcaError) -> RcaError:
        if isinstance(receipt, BadTelemetry):
            return receipt
        self.accounting.add("received", request.signal, receipt.received)
        self.accounting.add("refused", request.signal, receipt.received)
        return error if isinstance(error, Unavailable) else Unavailable(str(error))

    def _count(self, request: Request, answer: Receipt | RcaError) -> None:
        signal, count = request.signal, self.accounting.add
        count("bytes", signal, len(request.body))
        if isinstance(answer, Receipt):
            count("requests", signal, 1, "partly taken" if answer.rejected else "taken")
            count("received", signal, answer.received)
            count("accepted", signal, answer.accepted)
            count("altered", signal, answer.altered)
            for reason, n in answer.rejected.items():
                count("rejected", signal, n, reason)
        else:
            count("requests", signal, 1, answer_of(answer))


def answer_of(error: RcaError) -> str:
    """How a request that was not taken is counted."""
    if isinstance(error, BadTelemetry):
        return "malformed"
    if isinstance(error, Overloaded):
        return "told to come back later"
    return "not kept" if isinstance(error, Unavailable) else "failed"
