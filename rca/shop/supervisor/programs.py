"""What runs in the pods: services, backing servers, and busy neighbours."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Protocol

from rca.shop import plan
from rca.shop.folder import RunFolder
from rca.shop.supervisor.pods import Pod, http_ok
from rca.shop.supervisor.processes import Ports, pin, spawn
from rca.shop.supervisor.workloads import Release

Command = Callable[[str], Sequence[str]]
Connect = Callable[[Pod], Awaitable[int]]
"""Connects a pod to whom it calls and writes its hosts file; the port that it sends OTLP to."""


def service_command(workload: str) -> Sequence[str]:
    """What a service's pod runs."""
    return [sys.executable, "-m", "rca.shop.services", workload]


class Service:
    """A service's process."""

    probe_s = 2.0

    def __init__(
        self,
        folder: RunFolder,
        ports: Ports,
        release: Release,
        environment: Mapping[str, str],
        command: Command,
        connect: Connect,
    ) -> None:
        self._folder, self._ports, self._release = folder, ports, release
        self._environment, self._command, self._connect = environment, command, connect

    async def start(self, pod: Pod) -> subprocess.Popen[bytes]:
        if pod.last_end is not None or not pod.port:  # somebody else may have taken the ports meanwhile
            pod.port, pod.admin_port = self._ports.take(), self._ports.take()
        place = self._folder.pod(pod.name)
        place.mkdir(parents=True, exist_ok=True)
        otlp_port = await self._connect(pod)
        (place / "release.json").write_text(json.dumps(self._release.body()), encoding="utf-8")
        attributes = {
            "service.version": self._release.version,
            "k8s.pod.name": pod.name,
            "k8s.namespace.name": plan.NAMESPACE,
            "k8s.node.name": pod.node,
            "k8s.deployment.name": pod.owner,
        }
        environment = {
            **self._environment,
            "POD_NAME": pod.name,
            "NODE_NAME": pod.node,
            "SHOP_POD_DIR": str(place),
            "SHOP_PORT": str(pod.port),
            "SHOP_ADMIN_PORT": str(pod.admin_port),
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{otlp_port}",
            "OTEL_SERVICE_NAME": pod.owner,
            "OTEL_RESOURCE_ATTRIBUTES": ",".join(f"{key}={value}" for key, value in attributes.items()),
        }
        return spawn(self._command(pod.owner), log=self._folder.logs / f"{pod.name}.log", environment=environment, core=pod.core)

    async def is_ready(self, pod: Pod) -> bool:
        return await http_ok(pod.admin_port, "/readyz")

    async def is_alive(self, pod: Pod) -> bool:
        return await http_ok(pod.admin_port, "/healthz")

    def end(self, pod: Pod) -> None:
        pod.send(signal.SIGTERM)


class BackingServer(Protocol):
    """What rca.shop.backing offers."""

    def start(self, folder: Path, port: int) -> subprocess.Popen[bytes]: ...

    def ready(self) -> bool: ...


class Backing:
    """A backing server's process. Its methods block, so they run in threads."""

    probe_s = 5.0

    def __init__(self, server: BackingServer, folder: Path, ports: Ports, threads: Executor) -> None:
        self.server, self._folder, self._ports, self._threads = server, folder, ports, threads
        self._initialised: asyncio.Future[None] | None = None

    async def start(self, pod: Pod) -> subprocess.Popen[bytes]:
        if pod.last_end is not None or not pod.port:
            pod.port = self._ports.take()
        loop = asyncio.get_running_loop()
        process = await loop.run_in_executor(self._threads, self.server.start, self._folder, pod.port)
        pin(process.pid, pod.core)
        return process

    async def is_ready(self, _pod: Pod) -> bool:
        loop = asyncio.get_running_loop()
        if not await loop.run_in_executor(self._threads, self.server.ready):
            return False
        initialise = getattr(self.server, "initialise", None)
        if initialise is None:
            return True
        if self._initialised is None:
            self._initialised = asyncio.ensure_future(loop.run_in_executor(self._threads, initialise))
        if self._initialised.done() and self._initialised.exception() is not None:
            self._initialised = None
            return False
        return self._initialised.done()

    async def is_alive(self, _pod: Pod) -> bool:
        return True  # what does not answer is not ready; it is not killed for that, which would make things worse

    def end(self, pod: Pod) -> None:
        pod.send(signal.SIGINT if pod.owner == plan.DATABASE else signal.SIGTERM)


class Neighbour:
    """A batch job's process that computes for a share of the time."""

    probe_s = 5.0

    def __init__(self, folder: RunFolder, duty: float) -> None:
        self._folder, self._duty = folder, duty

    async def start(self, pod: Pod) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "rca.shop.supervisor.neighbour", str(self._duty)]
        return spawn(command, log=self._folder.logs / f"{pod.name}.log", core=pod.core)

    async def is_ready(self, _pod: Pod) -> bool:
        return True

    async def is_alive(self, _pod: Pod) -> bool:
        return True

    def end(self, pod: Pod) -> None:
        pod.send(signal.SIGTERM)
