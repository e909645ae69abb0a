"""The queue, a Redis stream. Spans are those of messaging, and the trace goes with the message."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import redis
from opentelemetry import propagate, trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.trace import SpanKind, Status, StatusCode

from rca.shop import plan
from rca.shop.services.kit import Kit

log = logging.getLogger("shop.queue")

_GROUP: Final = "email"
_KEPT: Final = 20_000
_TAKEN: Final = 4
_WAIT_MS: Final = 1000
_ABANDONED_MS: Final = 30_000
_PAUSE_S: Final = 1.0
_ATTRIBUTES: Final = {
    "messaging.system": "redis",
    "messaging.destination.name": plan.QUEUE,
    "server.address": plan.QUEUE,
}

_tracer = trace.get_tracer("shop.queue")


class Producer:
    """Sends messages."""

    def __init__(self, kit: Kit) -> None:
        self._redis = kit.redis(plan.QUEUE)

    def send(self, message: dict[str, str]) -> None:
        """Append a message. Raises redis.RedisError."""
        attributes = {**_ATTRIBUTES, "messaging.operation.type": "send", "messaging.operation.name": "send"}
        with _tracer.start_as_current_span(f"send {plan.QUEUE}", kind=SpanKind.PRODUCER, attributes=attributes):
            fields = dict(message)
            propagate.inject(fields)
            with suppress_instrumentation():
                self._redis.xadd(plan.QUEUE, fields, maxlen=_KEPT, approximate=True)  # type: ignore[arg-type]


class Consumer:
    """Handles messages in one thread. What fails stays unacknowledged and is taken again after a while."""

    def __init__(self, kit: Kit, handle: Callable[[dict[str, str]], None]) -> None:
        self._redis = kit.redis(plan.QUEUE, timeout_s=2 * _WAIT_MS / 1000)
        self._chaos, self._handle, self._name = kit.chaos, handle, kit.pod.name
        self._grouped = False

    def start(self) -> None:
        """Begin."""
        threading.Thread(target=self._run, daemon=True, name="consumer").start()

    def _run(self) -> None:
        while True:
            if not self._chaos.consumes:
                time.sleep(0.1)
                continue
            try:
                messages = self._take()
            except redis.RedisError as error:
                self._grouped = False
                self._report(error)
                time.sleep(_PAUSE_S)
                continue
            for number, fields in messages:
                self._process(number, fields)

    def _take(self) -> list[tuple[str, dict[str, str]]]:
        with suppress_instrumentation():
            if not self._grouped:
                self._join()
            abandoned: Any = self._redis.xautoclaim(plan.QUEUE, _GROUP, self._name, _ABANDONED_MS, count=_TAKEN)
            if abandoned[1]:
                return [(number, fields) for number, fields in abandoned[1] if fields]
            found: Any = self._redis.xreadgroup(_GROUP, self._name, {plan.QUEUE: ">"}, count=_TAKEN, block=_WAIT_MS)
        return [message for _, messages in _streams(found) for message in messages]

    def _join(self) -> None:
        try:
            self._redis.xgroup_create(plan.QUEUE, _GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        self._grouped = True

    def _process(self, number: str, fields: dict[str, str]) -> None:
        attributes = {
            **_ATTRIBUTES,
            "messaging.operation.type": "process",
            "messaging.operation.name": "process",
            "messaging.consumer.group.name": _GROUP,
            "messaging.message.id": number,
        }
        context = propagate.extract(fields)
        name = f"process {plan.QUEUE}"
        with _tracer.start_as_current_span(
            name,
            context=context,
            kind=SpanKind.CONSUMER,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                self._chaos.before_message()
                self._chaos.before(name)
                if not self._chaos.returns_early(name):
                    self._handle(fields)
                with suppress_instrumentation():
                    self._redis.xack(plan.QUEUE, _GROUP, number)
            except Exception as error:
                span.record_exception(error)
                span.set_status(Status(StatusCode.ERROR, str(error)))
                log.exception("message %s was not handled", number)

    def _report(self, error: redis.RedisError) -> None:
        attributes = {**_ATTRIBUTES, "messaging.operation.type": "receive", "messaging.operation.name": "receive"}
        with _tracer.start_as_current_span(f"receive {plan.QUEUE}", kind=SpanKind.CLIENT, attributes=attributes) as span:
            span.record_exception(error)
            span.set_status(Status(StatusCode.ERROR, str(error)))
            log.error("cannot read %s: %s", plan.QUEUE, error, exc_info=error)


def _streams(found: Any) -> Any:
    """Pairs of stream and messages, however the protocol version packs them."""
    return found.items() if isinstance(found, dict) else found or ()
