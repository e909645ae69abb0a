"""Faults inside a service's process. Each really does it, and leaves no mark in telemetry but its effect."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

import anyio.to_thread
from psycopg_pool import ConnectionPool, PoolTimeout
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from rca.errors import BadInput

log = logging.getLogger("shop.process")

_SLICE_S: Final = 0.05
_MIB: Final = 2**20
_Share = Annotated[float, Field(gt=0, le=1)]
_F = TypeVar("_F", bound="_Fault")


class _Fault(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _OfOperations(_Fault):
    share: _Share = 1.0
    operation: str | None = None
    """Only this one, named as its spans are: "GET /products/{id}"."""

    def hits(self, operation: str) -> bool:
        """Whether it happens to this request."""
        return self.operation in (None, operation) and random.random() < self.share


class Busy(_Fault):
    """Threads that compute for `duty` of the time."""

    fault: Literal["busy"] = "busy"
    duty: _Share = 1.0
    threads: int = Field(1, ge=1, le=8)


class Leak(_Fault):
    """Memory that is taken and never given back, in MiB/s, up to a most."""

    fault: Literal["leak"] = "leak"
    mib_per_second: float = Field(2.0, gt=0)
    most_mib: float = Field(2048.0, gt=0)


class Latency(_OfOperations):
    """Requests that wait before they are handled, in ms."""

    fault: Literal["latency"] = "latency"
    ms: float = Field(gt=0)
    jitter: float = Field(0, ge=0)


class Thrown(_OfOperations):
    """Requests in which an exception is thrown."""

    fault: Literal["exception"] = "exception"


class EarlyReturn(_OfOperations):
    """Requests that are answered at once with an empty result."""

    fault: Literal["early_return"] = "early_return"


class _Held(_Fault):
    """`n` are held; with `ms`, each is given back after so long and taken again when it is its turn, so that others only wait."""

    n: int = Field(ge=1)
    ms: float | None = Field(default=None, gt=0)

    @property
    def hold_s(self) -> float | None:
        """For how long one is held; None is until the fault ends."""
        return None if self.ms is None else self.ms / 1000


class HoldThreads(_Held):
    """Worker threads that are blocked."""

    fault: Literal["hold_threads"] = "hold_threads"


class HoldConnections(_Held):
    """Connections to PostgreSQL that are taken from the pool and kept."""

    fault: Literal["hold_connections"] = "hold_connections"


class CpuWork(_OfOperations):
    """Requests that compute before they are handled, in ms of CPU."""

    fault: Literal["cpu_work"] = "cpu_work"
    ms: float = Field(gt=0)


class RetryCalls(_Fault):
    """Failed calls that are tried again at once, so many times."""

    fault: Literal["retry"] = "retry"
    retries: int = Field(4, ge=1)


class StopConsuming(_Fault):
    """Workers of a queue that take no more messages."""

    fault: Literal["stop_consuming"] = "stop_consuming"


class SlowConsuming(_Fault):
    """Messages that take longer, in ms."""

    fault: Literal["slow_consuming"] = "slow_consuming"
    ms: float = Field(gt=0)


class SkewClock(_Fault):
    """Times of spans and log lines are off by so many seconds."""

    fault: Literal["skew_clock"] = "skew_clock"
    s: float


class Exit(_Fault):
    """The process ends with an error after so many seconds."""

    fault: Literal["exit"] = "exit"
    after_s: float = Field(2.0, ge=0)
    code: int = Field(1, ge=1, le=125)


Fault = (
    Busy
    | Leak
    | Latency
    | Thrown
    | EarlyReturn
    | HoldThreads
    | HoldConnections
    | CpuWork
    | RetryCalls
    | StopConsuming
    | SlowConsuming
    | SkewClock
    | Exit
)

_FAULTS: Final[TypeAdapter[Fault]] = TypeAdapter(Annotated[Fault, Field(discriminator="fault")])


def fault_of(parameters: Mapping[str, Any]) -> Fault:
    """A fault with its parameters, {"fault": name, ...}. Raises BadInput."""
    try:
        return _FAULTS.validate_python(dict(parameters))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise BadInput("fault", expected="a known fault and its parameters", found=problems) from error


class Chaos:
    """The faults that are on now. One of each sort; starting one again replaces it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._on: dict[str, Fault] = {}
        self._ends: dict[str, threading.Event] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pool: ConnectionPool[Any] | None = None
        self._started = threading.Event()

    def attach_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tell whose worker threads can be held; called once, when the service serves."""
        self._loop = loop
        self._started.set()

    def attach_pool(self, pool: ConnectionPool[Any]) -> None:
        """Tell whose connections can be held."""
        self._pool = pool

    @property
    def on(self) -> list[Fault]:
        """Every fault that is on."""
        with self._lock:
            return list(self._on.values())

    def start(self, fault: Fault) -> None:
        """Start a fault. Raises BadInput where this service has nothing that it could hit."""
        if isinstance(fault, HoldConnections) and self._pool is None:
            raise BadInput("fault", expected="a service that calls shop-db", found="hold_connections in one that does not")
        self.stop(fault.fault)
        end = threading.Event()
        with self._lock:
            self._on[fault.fault], self._ends[fault.fault] = fault, end
        for work in self._background(fault, end):
            threading.Thread(target=work, daemon=True).start()

    def stop(self, name: str | None = None) -> None:
        """Stop one fault, or all."""
        with self._lock:
            for each in [name] if name else list(self._on):
                self._on.pop(each, None)
                if end := self._ends.pop(each, None):
                    end.set()

    def before(self, operation: str) -> None:
        """What happens to a request before it is handled. Raises what a thrown exception raises."""
        latency, work, thrown = self._get(Latency), self._get(CpuWork), self._get(Thrown)
        if latency and latency.hits(operation):
            time.sleep(max(latency.ms + random.uniform(-latency.jitter, latency.jitter), 0) / 1000)
        if work and work.hits(operation):
            compute(work.ms / 1000)
        if thrown and thrown.hits(operation):
            _mistake()

    def returns_early(self, operation: str) -> bool:
        """Whether this request is answered with nothing."""
        fault = self._get(EarlyReturn)
        return fault is not None and fault.hits(operation)

    @property
    def retries(self) -> int:
        """Retries of failed calls beyond those that are set."""
        fault = self._get(RetryCalls)
        return fault.retries if fault else 0

    @property
    def skew_ns(self) -> int:
        """What is added to times of spans and log lines."""
        fault = self._get(SkewClock)
        return round(fault.s * 1e9) if fault else 0

    @property
    def consumes(self) -> bool:
        """Whether workers take messages."""
        return self._get(StopConsuming) is None

    def before_message(self) -> None:
        """What happens to a message before it is handled."""
        fault = self._get(SlowConsuming)
        if fault:
            time.sleep(fault.ms / 1000)

    def _get(self, sort: type[_F]) -> _F | None:
        fault = self._on.get(sort.model_fields["fault"].default)
        return fault if isinstance(fault, sort) else None

    def _background(self, fault: Fault, end: threading.Event) -> list[Callable[[], None]]:
        if isinstance(fault, Busy):
            return [lambda: _burn(fault.duty, end)] * fault.threads
        if isinstance(fault, Leak):
            return [lambda: _leak(fault, end)]
        if isinstance(fault, HoldThreads):
            return [lambda: self._hold_threads(fault, end)]
        if isinstance(fault, HoldConnections):
            return [lambda: self._hold_connection(fault.hold_s, end)] * fault.n
        if isinstance(fault, Exit):
            return [lambda: _exit(fault, end)]
        return []

    def _hold_threads(self, fault: HoldThreads, end: threading.Event) -> None:
        self._started.wait()
        loop = self._loop
        assert loop is not None

        async def hold() -> None:
            while not end.is_set():
                await anyio.to_thread.run_sync(end.wait, fault.hold_s)

        for _ in range(fault.n):
            asyncio.run_coroutine_threadsafe(hold(), loop)

    def _hold_connection(self, hold_s: float | None, end: threading.Event) -> None:
        pool = self._pool
        assert pool is not None
        while not end.is_set():
            try:
                held = pool.getconn(timeout=0.5)
            except PoolTimeout:
                continue
            end.wait(hold_s)
            pool.putconn(held)


def compute(cpu_s: float) -> None:
    """Use so much CPU in this thread."""
    end = time.thread_time() + cpu_s
    total = 0
    while time.thread_time() < end:
        total += sum(number * number for number in range(200))


def _burn(duty: float, end: threading.Event) -> None:
    while not end.wait(_SLICE_S * (1 - duty)):
        compute(_SLICE_S * duty)


def _leak(fault: Leak, end: threading.Event) -> None:
    kept: list[bytes] = []
    while not end.wait(0.25) and len(kept) * fault.mib_per_second * 0.25 < fault.most_mib:
        kept.append(b"\x01" * round(fault.mib_per_second * 0.25 * _MIB))
    end.wait()


def _exit(fault: Exit, end: threading.Event) -> None:
    if not end.wait(fault.after_s):
        log.critical("cannot go on: inconsistent state, exiting with %s", fault.code)
        time.sleep(0.1)
        os._exit(fault.code)


def _mistake() -> None:
    """What careless code raises."""
    request: dict[str, str] = {}
    request["currency"].upper()
