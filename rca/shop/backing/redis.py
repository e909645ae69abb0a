"""The shop's Redis servers: the cache and the queue, in memory only."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final, cast

import redis

from rca.shop import plan
from rca.shop.backing.server import Server, ask
from rca.shop.backing.trouble import Trouble
from rca.shop.installed import binary

_PLAYED_BACK: Final = 50
_TRACE: Final = ("traceparent", "tracestate", "baggage")


class Redis(Server):
    """Redis on loopback. What it holds is gone when it stops."""

    def connect(self) -> redis.Redis:
        """A client."""
        return redis.Redis(host="127.0.0.1", port=self.port, socket_timeout=2, decode_responses=True)

    def flush(self) -> None:
        """Forget everything: a cold cache, lost messages. Raises redis.RedisError."""
        with self.connect() as client:
            client.flushall()

    def length(self, stream: str) -> int:
        """Messages of a stream that no group has taken yet, and that it took but did not acknowledge. Raises redis.RedisError."""
        with self.connect() as client:
            groups = cast("list[dict[str, int | None]]", client.xinfo_groups(stream)) if client.exists(stream) else []
        return sum((group.get("lag") or 0) + (group["pending"] or 0) for group in groups)

    def _command(self) -> Sequence[str]:
        options = ["--save", "", "--appendonly", "no", "--hz", "5", "--databases", "1", "--maxmemory", "96mb"]
        return [binary("redis-server"), "--bind", "127.0.0.1", "--port", str(self.port), *options, "--daemonize", "no"]

    def _answers(self) -> bool:
        return ask(self.port, b"PING\r\n").startswith(b"+PONG")


def flood(server: Redis, per_second: float = 50.0) -> Trouble:
    """Somebody plays old messages back into the queue, so many a second, without the traces that they came with."""

    def work(end: threading.Event) -> None:
        with server.connect() as client:
            kept = cast("list[tuple[str, dict[str, str]]]", client.xrevrange(plan.QUEUE, count=_PLAYED_BACK))
            messages = [{key: value for key, value in fields.items() if key not in _TRACE} for _, fields in kept]
            number = 0
            while messages and not end.wait(1 / per_second):
                client.xadd(plan.QUEUE, messages[number % len(messages)])
                number += 1

    return Trouble([work])
