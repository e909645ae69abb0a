"""What services call others with: HTTP with time-outs and retries, a pool of PostgreSQL connections, Redis."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import redis
import requests
from psycopg import Connection
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool
from redis.backoff import NoBackoff
from redis.retry import Retry

from rca.shop import plan
from rca.shop.services.chaos import Chaos
from rca.shop.services.names import Hosts, NamedAdapter, redis_pool
from rca.shop.services.pod import Pod

log = logging.getLogger("shop.clients")

_CACHE_CONNECTIONS: Final = 64


class CalleeFailed(Exception):
    """Somebody who was called failed. `status` is what to answer because of it, as a proxy would: 502, 503 or 504."""

    def __init__(self, callee: str, reason: str, status: int) -> None:
        self.callee, self.status = callee, status
        super().__init__(f"{callee}: {reason}")


class CalleeRefused(Exception):
    """Somebody who was called says that the request is wrong; `status` is 4xx."""

    def __init__(self, callee: str, status: int, detail: str) -> None:
        self.callee, self.status = callee, status
        super().__init__(f"{callee} answered {status}: {detail}")


class Http:
    """Calls to other services and external providers, by name."""

    def __init__(self, pod: Pod, hosts: Hosts, chaos: Chaos) -> None:
        self._names = pod.settings.names
        self._timeout_s = pod.settings.timeout_ms / 1000
        self._retries, self._chaos = pod.settings.retries, chaos
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.mount("http://", NamedAdapter(hosts, pod.threads * 2))

    def get(self, callee: str, path: str, **query: Any) -> Any:
        """The answer's JSON. Raises CalleeFailed and CalleeRefused."""
        return self._call("GET", callee, path, params=query or None)

    def post(self, callee: str, path: str, body: Any, headers: dict[str, str] | None = None) -> Any:
        """The answer's JSON. Raises CalleeFailed and CalleeRefused."""
        return self._call("POST", callee, path, json=body, headers=headers)

    def delete(self, callee: str, path: str) -> Any:
        """The answer's JSON. Raises CalleeFailed and CalleeRefused."""
        return self._call("DELETE", callee, path)

    def _call(self, method: str, callee: str, path: str, **options: Any) -> Any:
        for attempt in range(self._retries + self._chaos.retries, -1, -1):
            try:
                return self._once(method, callee, path, **options)
            except CalleeFailed as error:
                if not attempt:
                    raise
                log.warning("call to %s failed, trying again: %s", callee, error)
        raise AssertionError("the last attempt returns or raises")

    def _once(self, method: str, callee: str, path: str, **options: Any) -> Any:
        url = f"http://{self._names.get(callee, callee)}{path}"
        try:
            answer = self._session.request(method, url, timeout=self._timeout_s, **options)
            body = answer.json()
        except requests.Timeout as error:
            raise CalleeFailed(callee, f"no answer to {method} {path} within {self._timeout_s:g} s", 504) from error
        except requests.RequestException as error:
            raise CalleeFailed(callee, f"{method} {path}: {error}", 503) from error
        if answer.status_code >= 500:
            raise CalleeFailed(callee, f"{method} {path} answered {answer.status_code}", 502)
        if answer.status_code >= 400:
            raise CalleeRefused(callee, answer.status_code, str(body.get("error")))
        return body


class Database:
    """PostgreSQL through a pool of connections; waiting for one ends after `connection_wait_ms`."""

    def __init__(self, pod: Pod, hosts: Hosts) -> None:
        settings = pod.settings
        name = settings.names.get(plan.DATABASE, plan.DATABASE)

        def where() -> dict[str, Any]:
            try:
                address, port = hosts.resolve(name)
            except OSError as error:  # the pool counts only psycopg's own errors as a failed attempt
                from psycopg import OperationalError

                raise OperationalError(f'could not translate host name "{name}" to address: {error.strerror}') from error
            return {
                "host": name,
                "hostaddr": address,
                "port": port,
                "dbname": settings.database_name,
                "user": settings.database_user,
                "password": settings.database_password,
                "connect_timeout": 2,
                "autocommit": True,
                "application_name": pod.name,
                "options": f"-c statement_timeout={settings.statement_timeout_ms}",
            }

        self.pool: ConnectionPool[Connection[TupleRow]] = ConnectionPool(
            "",
            kwargs=where,
            min_size=1,
            max_size=pod.connections,
            timeout=settings.connection_wait_ms / 1000,
            reconnect_timeout=4,
            num_workers=1,
            open=True,
            name=plan.DATABASE,
        )

    @contextmanager
    def connection(self) -> Iterator[Connection[TupleRow]]:
        """One connection of the pool. Raises psycopg_pool.PoolTimeout where none becomes free in time."""
        with self.pool.connection() as connection:
            yield connection

    def rows(self, query: str, *parameters: Any) -> list[TupleRow]:
        """What one query finds."""
        with self.connection() as connection:
            return connection.execute(query, parameters).fetchall()


def redis_client(pod: Pod, hosts: Hosts, workload: str, *, timeout_s: float | None = None) -> redis.Redis:
    """A client of one of the shop's Redis servers."""
    pool = redis_pool(
        hosts,
        pod.settings.names.get(workload, workload),
        size=_CACHE_CONNECTIONS,
        timeout_s=timeout_s or pod.settings.cache_timeout_ms / 1000,
        retry=Retry(NoBackoff(), 1),  # a connection of the pool may have died with the server before
    )
    return redis.Redis(connection_pool=pool)
