"""What every service is made of: operations over HTTP in a bounded number of threads, its clients, its faults."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Final, Protocol, TypeVar

import anyio.to_thread
import psycopg
import redis
from opentelemetry import trace
from opentelemetry.metrics import CallbackOptions, Observation, get_meter
from psycopg_pool import PoolTimeout
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from rca.shop import plan
from rca.shop.services.chaos import Chaos
from rca.shop.services.clients import CalleeFailed, CalleeRefused, Database, Http, redis_client
from rca.shop.services.instrumentation import middleware
from rca.shop.services.names import Hosts
from rca.shop.services.pod import Pod
from rca.shop.services.volume import Volume

log = logging.getLogger("shop.http")

_T = TypeVar("_T")
_U = TypeVar("_U")
_BACKING: Final = (psycopg.OperationalError, PoolTimeout, redis.ConnectionError, redis.TimeoutError)
"""What a backing server that is down, slow or out of connections raises."""


class Refused(Exception):
    """The request is wrong; `status` is 4xx."""

    def __init__(self, status: int, detail: str) -> None:
        self.status = status
        super().__init__(detail)


@dataclass(frozen=True)
class Call:
    """One request: what its path, query and body say."""

    path: Mapping[str, Any]
    query: Mapping[str, str]
    body: Any


@dataclass(frozen=True)
class Operation:
    """`handle` answers with what JSON can say; `empty` is a well-formed answer that says nothing."""

    method: str
    path: str
    handle: Callable[[Call], Any]
    empty: Any

    @property
    def name(self) -> str:
        """As its spans are called."""
        return f"{self.method} {self.path}"


class Service(Protocol):
    """A service: what it can do, and what it does by itself from the time that it runs."""

    def operations(self) -> Sequence[Operation]: ...

    def start(self) -> None:
        """Start what runs in the background."""


class Kit:
    """The parts of one pod."""

    def __init__(self, pod: Pod, chaos: Chaos) -> None:
        self.pod, self.chaos = pod, chaos
        self.hosts = Hosts(pod.folder / "hosts")
        self.http = Http(pod, self.hosts, chaos)
        self._side = ThreadPoolExecutor(max_workers=pod.threads, thread_name_prefix="side")

    @cached_property
    def database(self) -> Database:
        """Its pool of connections to PostgreSQL."""
        database = Database(self.pod, self.hosts)
        self.chaos.attach_pool(database.pool)
        _measure_pool(database)
        return database

    @cached_property
    def volume(self) -> Volume:
        """Its own volume."""
        return Volume(self.pod.folder, self.pod.workload.volume_bytes)

    def redis(self, workload: str, *, timeout_s: float | None = None) -> redis.Redis:
        """A client of a Redis server."""
        return redis_client(self.pod, self.hosts, workload, timeout_s=timeout_s)

    def both(self, first: Callable[[], _T], second: Callable[[], _U]) -> tuple[_T, _U]:
        """Two things at once; both end before an error of either is raised."""
        other = self._side.submit(contextvars.copy_context().run, first)
        try:
            result = second()
        finally:
            other.exception()  # waits
        return other.result(), result


def _measure_pool(database: Database) -> None:
    names = {"db.client.connection.pool.name": plan.DATABASE}

    def connections(_: CallbackOptions) -> list[Observation]:
        stats = database.pool.get_stats()
        idle = stats.get("pool_available", 0)
        used = stats.get("pool_size", 0) - idle
        states = {"used": used, "idle": idle}
        return [Observation(count, {**names, "db.client.connection.state": state}) for state, count in states.items()]

    def pending(_: CallbackOptions) -> list[Observation]:
        return [Observation(database.pool.get_stats().get("requests_waiting", 0), names)]

    def most(_: CallbackOptions) -> list[Observation]:
        return [Observation(database.pool.max_size, names)]

    meter = get_meter("shop.database")
    meter.create_observable_up_down_counter("db.client.connection.count", [connections], "{connection}")
    meter.create_observable_up_down_counter("db.client.connection.pending_requests", [pending], "{request}")
    meter.create_observable_up_down_counter("db.client.connection.max", [most], "{connection}")


def application(kit: Kit, operations: Sequence[Operation], ready: Callable[[], None]) -> Starlette:
    """The service as an ASGI application; `ready` is called when it can serve."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = kit.pod.threads
        kit.chaos.attach_loop(asyncio.get_running_loop())
        ready()
        yield

    routes = [Route(each.path, _endpoint(kit.chaos, each), methods=[each.method]) for each in operations]
    return Starlette(routes=routes, middleware=[middleware()], lifespan=lifespan)


def _endpoint(chaos: Chaos, operation: Operation) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> JSONResponse:
        body = await request.json() if operation.method in ("POST", "PUT") else None
        call = Call(request.path_params, request.query_params, body)
        return await anyio.to_thread.run_sync(partial(answer, chaos, operation, call))

    return endpoint


def answer(chaos: Chaos, operation: Operation, call: Call) -> JSONResponse:
    """Handle a request in this thread; every exception becomes the answer that its sort deserves."""
    try:
        chaos.before(operation.name)
        if chaos.returns_early(operation.name):
            return JSONResponse(operation.empty)
        return JSONResponse(operation.handle(call))
    except Refused as error:
        return _failure(error, error.status)
    except CalleeRefused as error:
        log.warning("%s refused: %s", operation.name, error)
        return _failure(error, error.status)
    except CalleeFailed as error:
        _report(operation, error)
        return _failure(error, error.status)
    except _BACKING as error:
        _report(operation, error)
        return _failure(error, 503)
    except Exception as error:
        _report(operation, error)
        return JSONResponse({"error": "internal error"}, 500)


def _failure(error: Exception, status: int) -> JSONResponse:
    return JSONResponse({"error": str(error)}, status)


def _report(operation: Operation, error: Exception) -> None:
    trace.get_current_span().record_exception(error)
    log.error("%s failed: %s", operation.name, type(error).__name__, exc_info=error)
