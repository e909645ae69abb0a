"""Names to addresses through the pod's own hosts file, under clients that go on calling others by name."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import Any, Final

import redis
import requests.adapters
from urllib3 import HTTPConnectionPool, PoolManager
from urllib3.connection import HTTPConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util.connection import create_connection

_READ_EVERY_S: Final = 1.0


class Hosts:
    """A hosts file with ports: lines `address:port name`. It is read again after a second, as a resolver's cache would expire."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._addresses: dict[str, tuple[str, int]] = {}
        self._read_at = float("-inf")

    def resolve(self, name: str) -> tuple[str, int]:
        """Address and port. Raises socket.gaierror where the file does not have the name."""
        with self._lock:
            if time.monotonic() - self._read_at >= _READ_EVERY_S:
                self._read()
        found = self._addresses.get(name)
        if found is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return found

    def _read(self) -> None:
        addresses = {}
        text = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        for line in text.splitlines():
            fields = line.partition("#")[0].split()
            if len(fields) == 2:
                address, _, port = fields[0].rpartition(":")
                addresses[fields[1]] = (address, int(port))
        self._addresses, self._read_at = addresses, time.monotonic()


class NamedAdapter(requests.adapters.HTTPAdapter):
    """Connections of requests whose host is looked up in `hosts`; the URL keeps the name."""

    def __init__(self, hosts: Hosts, size: int) -> None:
        self._hosts = hosts
        super().__init__(pool_connections=8, pool_maxsize=size)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:
        """Called by requests."""
        hosts = self._hosts

        class Connection(HTTPConnection):
            def _new_conn(self) -> socket.socket:
                try:
                    address = hosts.resolve(self.host)
                except socket.gaierror as error:
                    raise NameResolutionError(self.host, self, error) from error
                try:
                    return create_connection(address, self.timeout, socket_options=self.socket_options)
                except TimeoutError as error:
                    raise ConnectTimeoutError(self, f"Connection to {self.host} timed out") from error
                except OSError as error:
                    raise NewConnectionError(self, f"Failed to establish a new connection: {error}") from error

        class Pool(HTTPConnectionPool):
            ConnectionCls = Connection

        self.poolmanager = PoolManager(num_pools=connections, maxsize=maxsize, block=block, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": Pool}


def redis_pool(hosts: Hosts, name: str, *, size: int, timeout_s: float, **options: Any) -> redis.ConnectionPool:
    """Connections to a Redis server that is looked up in `hosts`."""

    class Connection(redis.Connection):
        def _connect(self) -> socket.socket:
            sock = socket.create_connection(hosts.resolve(name), self.socket_connect_timeout)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(self.socket_timeout)
            return sock

        def _host_error(self) -> str:
            return name

    return redis.ConnectionPool(
        connection_class=Connection,
        host=name,
        max_connections=size,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        decode_responses=True,
        **options,
    )
