"""Services of the shop as real processes, with real servers behind them, telemetry kept by a receiver of this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from rca.errors import Unavailable
from rca.shop import plan
from rca.shop.backing.postgres import Postgres, user
from rca.shop.backing.providers import Providers
from rca.shop.backing.redis import Redis
from rca.shop.backing.server import Server
from rca.shop.folder import private_folder, remove_private
from rca.shop.installed import binary
from tests.receiving import Running, running
from tests.servers.prometheus import free_port

_READY_S = 240.0
_PATIENT = {"configuration": {"timeout_ms": 9000, "cache_timeout_ms": 5000, "connection_wait_ms": 5000}}  # on busy machines


@dataclass
class Answer:
    """What a service answered, and after how long."""

    status: int
    body: Any
    seconds: float


@dataclass
class Pods:
    """What runs, and how to talk to it."""

    folder: Path
    receiver: Running
    database: Postgres
    cache: Redis
    queue: Redis
    providers: Providers
    ports: dict[str, int] = field(default_factory=dict)
    admin: dict[str, int] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def pod_folder(self, service: str) -> Path:
        return self.folder / "pods" / service

    def call(self, service: str, method: str, path: str, body: Any = None) -> Answer:
        """One request to a service."""
        return _sent(f"http://127.0.0.1:{self.ports[service]}{path}", method, body)

    def chaos(self, service: str, fault: str, **parameters: Any) -> Answer:
        """Start a fault in a service."""
        return _sent(f"http://127.0.0.1:{self.admin[service]}/chaos", "POST", {"fault": fault, **parameters})

    def calm(self, service: str) -> None:
        """End its faults."""
        _sent(f"http://127.0.0.1:{self.admin[service]}/chaos", "DELETE", None)

    def metrics(self, service: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin[service]}/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    def spans(self, until: Callable[[pl.DataFrame], bool], timeout_s: float = 15) -> pl.DataFrame:
        """All spans received so far, as soon as they fulfil a condition."""
        deadline = time.monotonic() + timeout_s
        while True:
            spans = self.receiver.intake.frame("spans")
            if until(spans) or time.monotonic() > deadline:
                return spans
            time.sleep(0.1)

    def start(self, service: str, *, release: dict[str, Any] | None = None, wait: bool = True) -> None:
        """Start a service, or start it again with another release."""
        self.stop(service)
        folder = self.pod_folder(service)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "release.json").write_text(json.dumps(release or _PATIENT))
        self.names(service)
        self.admin[service] = free_port()
        pod = f"{service}-7c9d-x1"
        attributes = {
            "service.namespace": plan.NAMESPACE,
            "k8s.pod.name": pod,
            "k8s.namespace.name": plan.NAMESPACE,
            "k8s.node.name": "node-a",
        }
        environment = {
            **os.environ,
            "POD_NAME": pod,
            "NODE_NAME": "node-a",
            "SHOP_POD_DIR": str(folder),
            "SHOP_PORT": str(self.ports[service]),
            "SHOP_ADMIN_PORT": str(self.admin[service]),
            "OTEL_SERVICE_NAME": service,
            "OTEL_RESOURCE_ATTRIBUTES": ",".join(f"{key}={value}" for key, value in attributes.items()),
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.receiver.http,
            "OTEL_SEMCONV_STABILITY_OPT_IN": "http,database",
            "OTEL_BSP_SCHEDULE_DELAY": "500",
            "OTEL_BLRP_SCHEDULE_DELAY": "500",
        }
        with (folder / "log.txt").open("ab") as log:
            self.processes[service] = subprocess.Popen(
                [sys.executable, "-m", "rca.shop.services", service], env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        if wait:
            self.wait(service)

    def wait(self, *services: str) -> None:
        """Until services are ready."""
        deadline = time.monotonic() + _READY_S
        for service in services:
            while not self.ready(service):
                assert self.processes[service].poll() is None, self.log(service)
                assert time.monotonic() < deadline, self.log(service)
                time.sleep(0.1)

    def ready(self, service: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin[service]}/readyz", timeout=1):
                return True
        except OSError:
            return False

    def names(self, service: str, *, without: Sequence[str] = ()) -> None:
        """Write a service's hosts file."""
        names = [name for name in plan.WORKLOADS[service].calls if name not in without]
        lines = [f"127.0.0.1:{self.ports[name]} {name}\n" for name in names]
        (self.pod_folder(service) / "hosts").write_text("".join(lines))

    def log(self, service: str) -> str:
        return (self.pod_folder(service) / "log.txt").read_text(errors="replace")

    def stop(self, service: str) -> None:
        process = self.processes.pop(service, None)
        if process is not None:
            process.terminate()
            process.wait(10)


def _sent(url: str, method: str, body: Any) -> Answer:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method, headers={"Content-Type": "application/json"})
    started = time.monotonic()
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            status, text = answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read().decode()
    seconds = time.monotonic() - started
    return Answer(status, json.loads(text) if text.startswith(("{", "[")) else text, seconds)


def needs(*programs: str) -> None:
    """Skip the test where one of these is not installed."""
    for program in programs:
        try:
            binary(program)
        except Unavailable as error:
            pytest.skip(str(error))


def started(server: Server, folder: Path) -> Server:
    """A server of the shop on a free port, ready."""
    server.start(folder, free_port())
    deadline = time.monotonic() + _READY_S
    while not server.ready():
        assert time.monotonic() < deadline, (folder / "log.txt").read_text(errors="replace")
        time.sleep(0.05)
    return server


@contextmanager
def postgres() -> Iterator[Postgres]:
    """PostgreSQL with the shop's products. Its files go where the shop would put them."""
    needs("postgres")
    who = user()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        home = private_folder(who) if who else None
        stack.callback(remove_private, [str(home)])
        server = Postgres(home)
        stack.callback(server.stop)
        started(server, Path(folder) / "shop-db")
        server.initialise()
        yield server


@contextmanager
def pods(folder: Path, services: Sequence[str]) -> Iterator[Pods]:
    """These services with all servers behind them. Skips where PostgreSQL or Redis is not installed."""
    needs("postgres", "redis-server")
    with ExitStack() as stack:
        receiver = stack.enter_context(running(now_ns=None))
        database = stack.enter_context(postgres())
        servers = {"cache": Redis(), "order-events": Redis(), "providers": Providers(free_port())}
        for name, server in servers.items():
            stack.callback(server.stop)
            started(server, folder / name)
        cache, queue, providers = servers.values()
        assert isinstance(providers, Providers)
        shop = Pods(folder, receiver, database, cache, queue, providers)  # type: ignore[arg-type]
        shop.ports |= {plan.DATABASE: database.port, plan.CACHE: cache.port, plan.QUEUE: queue.port, **providers.ports}
        shop.ports |= {name: free_port() for name in plan.SERVICES}
        for service in services:
            stack.callback(shop.stop, service)
            shop.start(service, wait=False)
        shop.wait(*services)
        yield shop
