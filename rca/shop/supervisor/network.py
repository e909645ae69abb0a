"""All traffic of the shop: a listener for every (caller pod, callee), balanced over ready pods, and what disturbs it.

A disturbance is put on pairs of names. Delay is split between the two directions; a connection's first bytes wait one more round
trip, as a handshake would. A chunk that is lost waits for its retransmission, and all that follows it waits with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import socket
import struct
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

EVERYBODY: Final = "*"
TELEMETRY: Final = "telemetry"

_BUFFER: Final = memoryview(bytearray(2**16))  # shared: what is read is copied before anything else runs
_MOST_WAITING: Final = 2**18
_RETRANSMISSION_S: Final = 0.2
_RESET: Final = struct.pack("ii", 1, 0)

Cut = Literal["none", "reset", "blackhole"]


class Endpoint(Protocol):
    """A pod as the network sees it: bytes that it received and sent."""

    received_bytes: int
    sent_bytes: int


@dataclass(frozen=True)
class Backend:
    """Where a callee answers; `pod` is None for what is outside of the cluster."""

    port: int
    pod: Endpoint | None


@dataclass(frozen=True)
class Disturbance:
    """What is wrong on an edge. `delay_s` is for a round trip; `loss` is the share of chunks that are sent again."""

    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    cut: Cut = "none"
    rate_bytes_per_second: float | None = None

    @property
    def is_none(self) -> bool:
        return self == Disturbance()

    def and_also(self, other: Disturbance) -> Disturbance:
        """Both together."""
        rates = [rate for rate in (self.rate_bytes_per_second, other.rate_bytes_per_second) if rate]
        cuts: tuple[Cut, ...] = ("none", "blackhole", "reset")
        return Disturbance(
            self.delay_s + other.delay_s,
            self.jitter_s + other.jitter_s,
            1 - (1 - self.loss) * (1 - other.loss),
            max(self.cut, other.cut, key=cuts.index),
            min(rates, default=None),
        )

    def one_way_s(self) -> float:
        """How long one chunk is under way beyond what loopback takes."""
        wait = max(0.0, self.delay_s / 2 + random.uniform(-0.5, 0.5) * self.jitter_s)
        again = _RETRANSMISSION_S
        while self.loss and random.random() < self.loss and again < 4:
            wait += again
            again *= 2
        return wait


class Network:
    """Every edge of the shop. `backends` says where a callee answers just now."""

    def __init__(self, backends: Callable[[str], list[Backend]]) -> None:
        self.backends = backends
        self._edges: dict[tuple[str, str], Edge] = {}
        self._disturbed: dict[tuple[str, str], Disturbance] = {}

    async def connect(self, caller: str, workload: str, callee: str, pod: Endpoint | None) -> int:
        """The port under which a caller (a pod of a workload) reaches a callee."""
        edge = Edge(self, caller, workload, callee, pod)
        await edge.open()
        self._edges[caller, callee] = edge
        edge.disturb(self._of(edge))
        return edge.port

    def ports(self, caller: str) -> dict[str, int]:
        """Ports of a caller by callee."""
        return {callee: edge.port for (name, callee), edge in self._edges.items() if name == caller}

    def disconnect(self, caller: str) -> None:
        """A caller is gone for good."""
        for key in [key for key in self._edges if key[0] == caller]:
            self._edges.pop(key).close()

    def close(self) -> None:
        for edge in self._edges.values():
            edge.close()
        self._edges.clear()

    @property
    def disturbed(self) -> dict[tuple[str, str], Disturbance]:
        """What is set, by (caller, callee) as it was named."""
        return dict(self._disturbed)

    def disturb(self, caller: str, callee: str, how: Disturbance) -> None:
        """Replace what is wrong between two names."""
        self._disturbed.pop((caller, callee), None)
        if not how.is_none:
            self._disturbed[caller, callee] = how
        self._apply()

    def clear(self, caller: str | None = None, callee: str | None = None) -> None:
        """End what is wrong: on pairs with these names, or everywhere."""
        for pair in list(self._disturbed):
            if caller in (None, pair[0]) and callee in (None, pair[1]):
                del self._disturbed[pair]
        self._apply()

    def drop(self, caller: str, callees: Collection[str]) -> None:
        """Close a caller's open connections to these callees, `*` for all."""
        for edge in self._edges.values():
            if edge.caller == caller and any(edge.is_to(callee) for callee in callees):
                edge.drop()

    def _apply(self) -> None:
        for edge in self._edges.values():
            edge.disturb(self._of(edge))

    def _of(self, edge: Edge) -> Disturbance:
        whole = Disturbance()
        for (caller, callee), how in self._disturbed.items():
            if edge.is_from(caller) and edge.is_to(callee):
                whole = whole.and_also(how)
        return whole


class Edge:
    """One caller's way to one callee."""

    def __init__(self, network: Network, caller: str, workload: str, callee: str, pod: Endpoint | None) -> None:
        self.network, self.caller, self.workload, self.callee, self.pod = network, caller, workload, callee, pod
        self.how = Disturbance()
        self.port = 0
        self.connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._turn = itertools.count(random.randrange(8))

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self).client, "127.0.0.1", 0, backlog=256)
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.drop()

    def is_from(self, name: str) -> bool:
        return name in (EVERYBODY, self.caller, self.workload)

    def is_to(self, name: str) -> bool:
        return name == self.callee or (name == EVERYBODY and self.callee != TELEMETRY)

    def disturb(self, how: Disturbance) -> None:
        before, self.how = self.how, how
        if how.cut == "reset" and before.cut != "reset":
            self.drop()
        elif how != before:
            for connection in list(self.connections):
                connection.go_on()

    def drop(self) -> None:
        """Reset every open connection."""
        for connection in list(self.connections):
            connection.abort()

    def choices(self) -> list[Backend]:
        """Where a new connection may go, in the order in which to try."""
        found = self.network.backends(self.callee)
        start = next(self._turn) % len(found) if found else 0
        return found[start:] + found[:start]


class Connection:
    """One connection of a caller, and the one to the callee that belongs to it."""

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self.backend: Backend | None = None
        self.lifted = asyncio.Event()
        self.client, self.server = _Side(self), _Side(self)
        self.client.out, self.server.out = _Pipe(self, self.client, self.server), _Pipe(self, self.server, self.client)
        self._opening: asyncio.Task[None] | None = None
        self._early_bytes = 0

    def begin(self) -> None:
        """The caller connected."""
        self.edge.connections.add(self)
        if self.edge.how.cut == "reset":
            self.abort()
            return
        self._opening = asyncio.get_running_loop().create_task(self._open())

    async def _open(self) -> None:
        how = self.edge.how
        while self.edge.how.cut == "blackhole":
            await self.lifted.wait()
            self.lifted.clear()
        if how.delay_s or how.loss:  # the handshake of a connection that is far away
            await asyncio.sleep(how.one_way_s() + how.one_way_s())
        loop = asyncio.get_running_loop()
        for backend in self.edge.choices():
            try:
                await loop.create_connection(lambda: self.server, "127.0.0.1", backend.port)
            except OSError:
                continue
            self.backend = backend
            self._count_early()
            self.client.out.flush()
            return
        self.abort()

    def _count_early(self) -> None:
        """What the caller sent before it was known to whom."""
        if self.backend is not None and self.backend.pod is not None:
            self.backend.pod.received_bytes += self._early_bytes

    def count(self, size: int, *, sent: bool) -> None:
        """Bytes from the caller, or to it."""
        caller, callee = self.edge.pod, self.backend.pod if self.backend else None
        if sent:
            if caller is not None:
                caller.sent_bytes += size
            if callee is not None:
                callee.received_bytes += size
            elif self.backend is None:
                self._early_bytes += size
        else:
            if caller is not None:
                caller.received_bytes += size
            if callee is not None:
                callee.sent_bytes += size

    def go_on(self) -> None:
        """Something else is wrong by now, or nothing any more."""
        self.lifted.set()
        self.client.out.flush()
        self.server.out.flush()

    def end(self) -> None:
        """Close both sides where neither has more to say."""
        if self.client.out.is_done and self.server.out.is_done:
            self.edge.connections.discard(self)
            for side in (self.client, self.server):
                if side.transport is not None:
                    side.transport.close()

    def abort(self) -> None:
        """Reset both sides."""
        self.edge.connections.discard(self)
        if self._opening is not None and self._opening is not asyncio.current_task():
            self._opening.cancel()
        for side in (self.client, self.server):
            side.reset()

    def lost(self, side: _Side, error: Exception | None) -> None:
        """One side is gone: so is the other, after what is still under way to it."""
        other = self.server if side is self.client else self.client
        if error is not None or other.transport is None:
            self.abort()
        else:
            side.out.finish(close=True)
            if other.transport.is_closing():
                self.edge.connections.discard(self)


class _Side(asyncio.BufferedProtocol):
    """One of the two sockets."""

    out: _Pipe

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if self is self._connection.client:
            self._connection.begin()

    def get_buffer(self, _sizehint: int) -> memoryview:
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        self.out.push(bytes(_BUFFER[:nbytes]))

    def eof_received(self) -> bool:
        self.out.finish()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.lost(self, exc)

    def pause_writing(self) -> None:
        self._other.read(False)

    def resume_writing(self) -> None:
        self._other.read(True)

    @property
    def _other(self) -> _Side:
        return self._connection.server if self is self._connection.client else self._connection.client

    def read(self, on: bool) -> None:
        """Go on reading, or wait."""
        if self.transport is not None and not self.transport.is_closing():
            if on:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()

    def reset(self) -> None:
        if self.transport is None or (self.transport.is_closing() and self.transport.get_write_buffer_size() == 0):
            return
        sock: Any = self.transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()


class _Pipe:
    """One direction: from a socket to the other, at once or when it is due."""

    def __init__(self, connection: Connection, source: _Side, target: _Side) -> None:
        self._connection, self._source, self._target = connection, source, target
        self._sent = source is connection.client
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._size = 0
        self._due = self._free = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._ended = self._closing = False
        self.is_done = False

    def push(self, data: bytes) -> None:
        self._connection.count(len(data), sent=self._sent)
        how = self._connection.edge.how
        target = self._target.transport
        if how.is_none and not self._waiting and target is not None:
            target.write(data)
            return
        loop = asyncio.get_running_loop()
        due = max(loop.time() + how.one_way_s(), self._due)
        if how.rate_bytes_per_second:
            self._free = max(self._free, loop.time()) + len(data) / how.rate_bytes_per_second
            due = max(due, self._free)
        self._due = due
        self._waiting.append((due, data))
        self._size += len(data)
        if self._size > _MOST_WAITING:
            self._source.read(False)
        if self._timer is None:
            self.flush()

    def finish(self, *, close: bool = False) -> None:
        """Nothing more comes."""
        self._ended, self._closing = True, self._closing or close
        if not self._waiting:
            self._end()

    def flush(self) -> None:
        """Pass on what is due, and wait for the rest."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        target, how = self._target.transport, self._connection.edge.how
        if target is None or how.cut == "blackhole":
            return
        if target.is_closing():
            self._waiting.clear()
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._waiting and (how.is_none or self._waiting[0][0] <= now):
            data = self._waiting.popleft()[1]
            self._size -= len(data)
            target.write(data)
        if self._waiting:
            self._timer = loop.call_at(self._waiting[0][0], self.flush)
        elif self._ended:
            self._end()
        if self._size <= _MOST_WAITING // 2:
            self._source.read(True)

    def _end(self) -> None:
        target = self._target.transport
        if target is None or target.is_closing():
            return
        if self._closing:
            target.close()
            self._connection.edge.connections.discard(self._connection)
        elif not self.is_done:
            self.is_done = True
            with contextlib.suppress(OSError):  # the other end is gone, and asyncio has not noticed yet
                target.write_eof()
            self._connection.end()


def described(disturbed: Iterable[tuple[tuple[str, str], Disturbance]]) -> list[str]:
    """What is wrong in words, a line for each pair."""
    lines = []
    for (caller, callee), how in disturbed:
        parts = []
        if how.delay_s or how.jitter_s:
            parts.append(f"delay {how.delay_s * 1000:.0f} ms ± {how.jitter_s * 500:.0f} ms")
        if how.loss:
            parts.append(f"loss {100 * how.loss:.0f} %")
        if how.rate_bytes_per_second:
            parts.append(f"{how.rate_bytes_per_second:.0f} bytes/s")
        if how.cut != "none":
            parts.append(how.cut)
        lines.append(f"network {caller} -> {callee}: {', '.join(parts)}")
    return lines
