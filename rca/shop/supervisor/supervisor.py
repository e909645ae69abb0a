"""The shop as one running thing: everything that the other modules of this package do, put together."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from rca import __version__
from rca.errors import BadInput, RcaError, Rejected, Unavailable, UnknownName
from rca.shop import monitoring, plan
from rca.shop.folder import (
    IN_USE,
    OWN_FILES,
    OWN_FOLDERS,
    SUPERVISOR_LOCK,
    RunFolder,
    State,
    private_folder,
    remove_private,
)
from rca.shop.supervisor import exporters
from rca.shop.supervisor.cluster import Cluster
from rca.shop.supervisor.control import ControlServer
from rca.shop.supervisor.kubernetes_api import KubernetesApi
from rca.shop.supervisor.network import TELEMETRY, Backend, Disturbance, Network, described
from rca.shop.supervisor.pods import Kubelet, Pod
from rca.shop.supervisor.processes import Ports, children, identified, spawn, usage
from rca.shop.supervisor.programs import Backing, Command, Neighbour, Service, service_command
from rca.shop.supervisor.servers import ServerMetrics
from rca.shop.supervisor.workloads import Deployment, ReplicaSet, StatefulSet, release_of
from rca.wording import excerpt

log = logging.getLogger(__name__)

CUSTOMERS: Final = "customers"
NEIGHBOUR: Final = "nightly-report"
_TICK_S: Final = 0.5
_CHILDREN_EVERY: Final = 10  # ticks
_SERVING_S: Final = 90.0
_ADMIN_S: Final = 5.0
_ENVIRONMENT: Final = {
    "OTEL_SEMCONV_STABILITY_OPT_IN": "http,database",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    "OTEL_BSP_SCHEDULE_DELAY": "4000",
    "OTEL_BLRP_SCHEDULE_DELAY": "4000",
    "PYTHONUNBUFFERED": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "POLARS_MAX_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
}


class Auxiliary:
    """A process of the shop that is no pod: started again when it ends."""

    def __init__(self, name: str, command: Sequence[str], folder: RunFolder, environment: Mapping[str, str]) -> None:
        self.name, self._command, self._folder, self._environment = name, command, folder, environment
        self.process: subprocess.Popen[bytes] | None = None
        self._begun = 0.0
        self.cpu_seconds = self.cpu_cores = 0.0
        self.memory_bytes = 0

    def tick(self) -> None:
        """Start it where it does not run, at most every three seconds."""
        if (self.process is None or self.process.poll() is not None) and time.monotonic() - self._begun > 3:
            self._begun = time.monotonic()
            self.process = spawn(self._command, log=self._folder.logs / f"{self.name}.log", environment=self._environment)

    def end(self) -> None:
        """Ask it to end."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()


class Supervisor:
    """One shop. `run` it; it ends when `stop` is called. `rate` None runs no customers."""

    def __init__(self, folder: RunFolder, rate: float | None = 12.0, command: Command = service_command) -> None:
        self.folder, self._command = folder, command
        self._rate = self._usual_rate = rate or 0.0
        self._with_load = rate is not None
        self._token = secrets.token_urlsafe(24)
        self._chosen = random.Random()
        self._ports = Ports()
        self._stopping = asyncio.Event()
        self._phase, self._message = "starting", "preparing"
        self._threads = ThreadPoolExecutor(max_workers=6, thread_name_prefix="servers")
        self._server_metrics, self._server_lock = ServerMetrics(), asyncio.Lock()
        self._cores = sorted(os.sched_getaffinity(0))
        self.network = Network(self._backends)
        self._api = KubernetesApi({self._token}, history=4000)
        self._cluster = Cluster(self._api)
        self._kubelet = Kubelet(self._cluster)
        self._deployments: dict[str, Deployment] = {}
        self._stateful_sets: dict[str, StatefulSet] = {}
        self._servers: dict[str, Any] = {}
        self._providers: Any = None
        self._down: set[str] = set()
        self._troubles: dict[tuple[str, str], Any] = {}
        self._auxiliaries: dict[str, Auxiliary] = {}
        self._broken_names: dict[str, list[str] | str] = {}
        self._nodes = {node: exporters.NodeCounters() for node in plan.NODES}
        self._ticks = 0
        self._sampled = 0.0
        self._own_cpu = (0.0, 0.0)
        self._own_cores = 0.0
        self._written: State | None = None
        self._outside: tuple[str, ...] = ()
        self._control = ControlServer(self, self._token)
        self._monitoring = monitoring.Ports(self._ports.take(), self._ports.take(), self._ports.take(), self._control.port)
        self._customers_port = 0

    # --- life ----------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Let `run` end."""
        self._stopping.set()

    async def run(self) -> None:
        """Start everything, look after it until `stop`, end everything. Raises RcaError if the shop does not come up."""
        serving = asyncio.create_task(self._control.serve([self._control.socket]))
        try:
            self._prepare()
            starting = asyncio.create_task(self._start())
            while not self._stopping.is_set():
                try:
                    self._tick()
                except OSError as error:  # a full disk, no more processes: the next tick tries again
                    log.warning("%s", error)
                if starting.done() and starting.exception() is not None:
                    raise starting.exception() or AssertionError
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), _TICK_S)
            starting.cancel()
        finally:
            await self._end()
            self._control.should_exit = True
            await serving

    def _prepare(self) -> None:
        self.folder.logs.mkdir(parents=True, exist_ok=True)
        self._api.write_kubeconfig(self.folder.kubeconfig, self._token, name="shop")
        self._api.start()
        self._cluster.begin(dict.fromkeys(plan.NODES, exporters.NODE_MEMORY_BYTES))
        monitoring.write_settings(self.folder, self._monitoring, self.folder.kubeconfig)
        environment = {**os.environ, **_ENVIRONMENT}
        commands = {
            "collect": monitoring.collect_command(self.folder),
            "prometheus": monitoring.prometheus_command(self.folder, self._monitoring),
            "alertmanager": monitoring.alertmanager_command(self.folder, self._monitoring),
        }
        quiet = {**environment, "GOMAXPROCS": "1", "GOGC": "200"}
        self._auxiliaries = {name: Auxiliary(name, command, self.folder, quiet) for name, command in commands.items()}
        for name in plan.SERVICES:
            self._cluster.write_config_map(name)

    async def _start(self) -> None:
        """Bring the shop up in the order in which its parts need each other."""
        self._say("starting PostgreSQL, Redis and monitoring")
        self._make_backing()
        await self._until(lambda: all(one.pod.is_ready for one in self._stateful_sets.values()), "backing servers")
        for name in plan.SERVICES:
            self._deployments[name] = Deployment(
                plan.WORKLOADS[name], self._cluster, self._kubelet, self._new_pod, random.Random(self._chosen.random())
            )
            self._deployments[name].show()
        wanted = sum(one.replicas for one in self._deployments.values())

        def settled() -> bool:
            ready = sum(pod.is_ready for one in self._deployments.values() for pod in one.pods)
            self._say(f"services: {ready} of {wanted} pods are ready")
            return all(one.is_settled for one in self._deployments.values())

        await self._until(settled, "services")
        self._customers_port = await self.network.connect(CUSTOMERS, CUSTOMERS, "gateway", None)
        if self._with_load:
            self._begin_load()
        self._phase, self._message = "ready", ""

    def _begin_load(self) -> None:
        self._write_rate()
        command = [sys.executable, "-m", "rca.shop.load", f"http://127.0.0.1:{self._customers_port}"]
        options = ["--rate", str(self._rate), "--control", str(self._rate_file), "--seed", str(self._chosen.randrange(10**6))]
        files = ["--statistics", str(self.folder.logs / "customers.jsonl")]
        environment = {**os.environ, **_ENVIRONMENT}
        self._auxiliaries["load"] = Auxiliary("load", [*command, *options, *files], self.folder, environment)

    def _make_backing(self) -> None:
        from rca.shop.backing.postgres import Postgres, user
        from rca.shop.backing.providers import Providers
        from rca.shop.backing.redis import Redis

        who = user()
        home = private_folder(who) if who else None
        if home is not None:
            self._outside = (str(home),)
            self._write_state()  # at once: whoever finds the shop dead knows what to delete
        self._servers = {plan.DATABASE: Postgres(home), plan.CACHE: Redis(), plan.QUEUE: Redis()}
        for name, server in self._servers.items():
            workload = plan.WORKLOADS[name]
            program = Backing(server, self.folder.path / name, self._ports, self._threads)
            node = workload.node_of(0)
            pod = Pod(workload.pod_names[0], name, ("statefulsets", "StatefulSet", name), node, self._core(node), program)
            self._stateful_sets[name] = StatefulSet(workload, self._cluster, pod)
            self._stateful_sets[name].show()
            self._kubelet.add(pod)
        self._providers = Providers(self._ports.take())
        self._providers.start(self.folder.path / "providers", self._ports.take())

    async def _until(self, reached: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _SERVING_S
        while not reached():
            if time.monotonic() > deadline:
                raise Unavailable(f"{what}: not ready after {_SERVING_S:.0f} s: {self._hindrance()}")
            await asyncio.sleep(0.2)

    def _hindrance(self) -> str:
        """Which pods are not ready, and the last lines that one of them wrote."""
        waiting = [pod for pod in self._kubelet.pods.values() if not pod.is_ready]
        if not waiting:
            return "nobody knows why"
        log = self.folder.logs / f"{waiting[0].name}.log"
        if waiting[0].owner in plan.BACKING:
            log = self.folder.path / waiting[0].owner / "log.txt"
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:] if log.exists() else []
        names = ", ".join(f"{pod.name} ({pod.phase}{pod.failure and f', {pod.failure}'})" for pod in waiting)
        return f"{names}; {log} ends with: {' | '.join(last) or 'nothing'}"

    async def _end(self) -> None:
        """End every process: asked first, killed after a few seconds."""
        self._phase, self._message = "stopping", ""
        for name in ("load", "collect", "prometheus", "alertmanager"):
            if name in self._auxiliaries:
                self._auxiliaries[name].end()
        for pod in self._kubelet.pods.values():
            if pod.is_running:
                pod.send(signal.SIGCONT)
                pod.program.end(pod)
        processes = self._processes()
        if self._providers is not None and self._providers.process is not None:
            self._providers.process.terminate()
        deadline = time.monotonic() + 8
        while any(process.poll() is None for _, process in processes) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        for _, process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        try:
            remove_private(self._outside)
            self._outside = ()
        except Unavailable as error:
            log.warning("%s", error)
        self.network.close()
        self._api.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _processes(self) -> list[tuple[str, subprocess.Popen[bytes]]]:
        """Every process that was started and may run, by name."""
        found = [(name, one.process) for name, one in self._auxiliaries.items()]
        found += [(pod.name, pod.process) for pod in self._kubelet.pods.values()]
        if self._providers is not None:
            found.append(("providers", self._providers.process))
        return [(name, process) for name, process in found if process is not None]

    def _say(self, message: str) -> None:
        self._message = message

    def _tick(self) -> None:
        self._ticks += 1
        self._tick_processes()
        self._sample()
        gone = self._kubelet.tick()
        for pod in gone:
            self.network.disconnect(pod.name)
            shutil.rmtree(self.folder.pod(pod.name), ignore_errors=True)
        for deployment in self._deployments.values():
            deployment.tick()
        for stateful_set in self._stateful_sets.values():
            stateful_set.tick()
        if self._ticks % 2 == 0:
            services = [pod for one in self._deployments.values() for pod in one.pods if pod.admin_port]
            monitoring.pod_targets(self.folder, [(pod.name, pod.owner, pod.node, pod.admin_port) for pod in services])
            self._write_state()

    def _tick_processes(self) -> None:
        for auxiliary in self._auxiliaries.values():
            auxiliary.tick()
        if self._providers is not None and self._providers.process is not None and self._providers.process.poll() is not None:
            self._providers.start(self._providers.folder, self._providers.port)
        if self._ticks % _CHILDREN_EVERY == 0:
            known = children()
            for one in self._stateful_sets.values():
                one.pod.children = known.get(one.pod.process.pid, ()) if one.pod.process is not None else ()

    def _sample(self, *, at_most_every_s: float = 0.9) -> None:
        """Look at what every process used."""
        now = time.monotonic()
        passed = now - self._sampled
        if passed < at_most_every_s:
            return
        for pod in self._kubelet.pods.values():
            pod.sample()
        for auxiliary in self._auxiliaries.values():
            found = usage(auxiliary.process.pid) if auxiliary.process is not None else None
            if found is not None:
                auxiliary.cpu_cores = max(found.cpu_seconds - auxiliary.cpu_seconds, 0.0) / passed if self._sampled else 0.0
                auxiliary.cpu_seconds, auxiliary.memory_bytes = found.cpu_seconds, found.memory_bytes
        own = usage(os.getpid(), ended=False)
        if own is not None:
            self._own_cores = (own.cpu_seconds - self._own_cpu[0]) / passed if self._sampled else 0.0
            self._own_cpu = (own.cpu_seconds, own.memory_bytes)
        for node, counters in self._nodes.items():
            counters.add(self._pods_on(node))
        self._sampled = now

    def _write_state(self) -> None:
        own = identified("supervisor", os.getpid())
        assert own is not None
        found = [identified(name, process.pid) for name, process in self._processes()]
        state = State(
            version=__version__,
            supervisor=own,
            phase=self._phase,
            message=self._message,
            token=self._token,
            addresses=self._addresses(),
            processes=tuple(process for process in found if process is not None),
            outside=self._outside,
        )
        if state != self._written:
            self._written = state
            self.folder.write_state(state)

    def fail(self, message: str) -> None:
        """Leave a note for whoever waits for the shop."""
        self._phase, self._message = "failed", message
        self._write_state()

    def _addresses(self) -> dict[str, str]:
        found = {
            "control": f"http://127.0.0.1:{self._control.port}",
            "exporters": f"http://127.0.0.1:{self._control.port}/metrics",
            "prometheus": f"http://127.0.0.1:{self._monitoring.prometheus}",
            "alertmanager": f"http://127.0.0.1:{self._monitoring.alertmanager}",
            "kubernetes": self._api.url,
            "otlp": f"http://127.0.0.1:{self._monitoring.otlp}",
        }
        for name, one in self._stateful_sets.items():
            found[name] = f"127.0.0.1:{one.pod.port}"
        if self._providers is not None:
            found |= {name: f"127.0.0.1:{port}" for name, port in self._providers.ports.items()}
        if self._customers_port:
            found["gateway"] = f"http://127.0.0.1:{self._customers_port}"
        return found

    # --- pods ----------------------------------------------------------------------------------------------------------

    def _core(self, node: str) -> int:
        return self._cores[plan.NODES.index(node) % len(self._cores)]

    def _pods_on(self, node: str) -> list[Pod]:
        return [pod for pod in self._kubelet.pods.values() if pod.node == node]

    def _new_pod(self, deployment: Deployment, replica_set: ReplicaSet, name: str, node: str) -> Pod:
        release = replica_set.release
        environment = {**os.environ, **_ENVIRONMENT}
        program = Service(self.folder, self._ports, release, environment, self._command, self._connect)
        pod = Pod(name, deployment.name, ("replicasets", "ReplicaSet", replica_set.name), node, self._core(node), program)
        pod.version, pod.code = release.version, replica_set.code
        limits = [other.memory_limit_bytes for other in deployment.pods]
        pod.memory_limit_bytes = limits[0] if limits else deployment.workload.memory_limit_bytes
        return pod

    async def _connect(self, pod: Pod) -> int:
        ports = self.network.ports(pod.name)
        for callee in (*plan.WORKLOADS[pod.owner].calls, TELEMETRY):
            if callee not in ports:
                ports[callee] = await self.network.connect(pod.name, pod.owner, callee, pod)
        self._write_hosts(pod)
        return ports[TELEMETRY]

    def _write_hosts(self, pod: Pod) -> None:
        broken = self._broken_names.get(pod.owner, [])
        ports = self.network.ports(pod.name)
        names = [name for name in ports if name != TELEMETRY and broken != "*" and name not in broken]
        text = "".join(f"127.0.0.1:{ports[name]} {name}\n" for name in names)
        path = self.folder.pod(pod.name) / "hosts"
        temporary = path.with_suffix(".new")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)

    def _backends(self, callee: str) -> list[Backend]:
        if callee == TELEMETRY:
            return [Backend(self._monitoring.otlp, None)]
        if callee in plan.EXTERNALS:
            return [Backend(self._providers.ports[callee], None)]
        if callee in self._stateful_sets:
            pod = self._stateful_sets[callee].pod
            return [Backend(pod.port, pod)] if pod.port else []
        deployment = self._deployments.get(callee)
        return [Backend(pod.port, pod) for pod in deployment.pods if pod.takes_traffic] if deployment else []

    # --- what the exporters say ----------------------------------------------------------------------------------------

    async def page(self, name: str) -> str:
        """One page of metrics; empty where there is none of that name."""
        self._sample(at_most_every_s=0.2)
        pods = list(self._kubelet.pods.values())
        kind, _, node = name.partition("/")
        if name == "cadvisor":
            volumes = {pod.name: self.folder.pod(pod.name) / "volume" for pod in pods if self._has_volume(pod)}
            return exporters.cadvisor(pods, volumes)
        if name == "kube-state":
            return exporters.kube_state(pods, self._deployments.values(), self._stateful_sets.values())
        if name == "servers":
            backing = [one.pod for one in self._stateful_sets.values()]
            async with self._server_lock:
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._threads, self._server_metrics.page, backing)
        if kind == "node" and node in self._nodes:
            return self._nodes[node].page(node, self._pods_on(node))
        return ""

    @staticmethod
    def _has_volume(pod: Pod) -> bool:
        return pod.owner in plan.SERVICES and plan.WORKLOADS[pod.owner].volume_bytes > 0

    # --- what can be ordered -------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Everything that rca.shop.client.Status holds, as JSON."""
        self._sample()
        pods = [self._pod_status(pod) for pod in self._kubelet.pods.values()]
        processes = {
            name: {"cpu_cores": one.cpu_cores, "memory_bytes": one.memory_bytes} for name, one in self._auxiliaries.items()
        }
        processes["supervisor"] = {"cpu_cores": self._own_cores, "memory_bytes": int(self._own_cpu[1])}
        return {
            "phase": self._phase,
            "pods": pods,
            "addresses": self._addresses(),
            "injected": self._injected(),
            "rate": self._rate if self._with_load else 0.0,
            "cpu_cores": sum(pod["cpu_cores"] for pod in pods) + sum(one["cpu_cores"] for one in processes.values()),
            "memory_bytes": int(
                sum(pod["memory_bytes"] for pod in pods) + sum(one["memory_bytes"] for one in processes.values())
            ),
            "processes": processes,
        }

    @staticmethod
    def _pod_status(pod: Pod) -> dict[str, Any]:
        return {
            "name": pod.name,
            "workload": pod.owner,
            "node": pod.node,
            "version": pod.version,
            "phase": pod.phase,
            "ready": pod.takes_traffic,
            "restarts": pod.restarts,
            "pid": pod.process.pid if pod.process is not None else None,
            "port": pod.port,
            "admin_port": pod.admin_port or None,
            "cpu_cores": round(pod.cpu_cores, 4),
            "memory_bytes": pod.usage.memory_bytes,
            "memory_limit_bytes": pod.memory_limit_bytes,
            "started": pod.created_ns / 1e9,
        }

    def _injected(self) -> list[str]:
        lines = described(self.network.disturbed.items())
        for workload, names in self._broken_names.items():
            lines.append(f"dns {workload}: {names if isinstance(names, str) else ', '.join(names)}")
        for pod in self._kubelet.pods.values():
            if pod.owner == NEIGHBOUR:
                lines.append(f"neighbour {pod.name} on {pod.node}")
            if pod.is_held:
                lines.append(f"{pod.owner}: stopped")
            if pod.is_paused:
                lines.append(f"{pod.name}: paused")
            if self._has_volume(pod):
                lines += [f"volume {pod.name}: {what}" for what in self._volume_troubles(pod)]
        for name, deployment in self._deployments.items():
            for pod in deployment.pods[:1]:
                if pod.memory_limit_bytes != deployment.workload.memory_limit_bytes:
                    lines.append(f"memory limit of {name}: {pod.memory_limit_bytes // plan.MIB} MiB")
        lines += [f"{name}: {what}" for name, what in self._troubles]
        return lines + [f"{name}: down" for name in sorted(self._down)]

    def pod(self, name: str) -> Pod:
        """Raises UnknownName."""
        if name not in self._kubelet.pods:
            raise UnknownName("pod", name, self._kubelet.pods)
        return self._kubelet.pods[name]

    def deployment(self, name: str) -> Deployment:
        """Raises UnknownName."""
        if name not in self._deployments:
            raise UnknownName("workload", name, self._deployments)
        return self._deployments[name]

    def signal(self, pod: str, name: str) -> None:
        self.pod(pod).send(signal.Signals[f"SIG{name}"])

    async def chaos(self, name: str, method: str, body: Mapping[str, Any]) -> None:
        """Pass an order on to a pod's own chaos. Raises Rejected where the pod refuses, Unavailable where it does not answer."""
        pod = self.pod(name)
        if not pod.admin_port:
            raise Rejected(f"{name}: expected a service's pod, found one of {pod.owner}")
        text = json.dumps(dict(body)).encode() if method == "POST" else b""
        head = f"{method} /chaos HTTP/1.1\r\nHost: pod\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n"
        try:
            async with asyncio.timeout(_ADMIN_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", pod.admin_port)
                writer.write(f"{head}Connection: close\r\n\r\n".encode() + text)
                status = int((await reader.readline()).split()[1])
                answer = (await reader.read(4096)).partition(b"\r\n\r\n")[2].decode(errors="replace")
                writer.close()
        except (OSError, TimeoutError, IndexError, ValueError) as error:
            raise Unavailable(f"{name}: its admin port does not answer: {error or type(error).__name__}") from error
        if status >= 400:
            raise Rejected(f"{name}: {answer.strip()}")

    def roll_out(self, workload: str, body: Mapping[str, Any]) -> None:
        deployment = self.deployment(workload)
        deployment.roll_out(release_of(body, deployment.current.release))

    def configure(self, workload: str, configuration: Mapping[str, Any]) -> None:
        deployment = self.deployment(workload)
        self._cluster.write_config_map(workload, time.time_ns())
        deployment.roll_out(replace(deployment.current.release, configuration=dict(configuration)))

    def limit_memory(self, workload: str, memory_bytes: int | None) -> None:
        pods = [pod for pod in self._kubelet.pods.values() if pod.owner == workload]
        if not pods:
            raise UnknownName("workload", workload, (*self._deployments, *self._stateful_sets))
        for pod in pods:
            pod.memory_limit_bytes = memory_bytes or plan.WORKLOADS[workload].memory_limit_bytes

    def disturb(self, caller: str, callee: str, *, delay_ms: float, jitter_ms: float, loss: float, **more: Any) -> None:
        callers = {CUSTOMERS, "*", *plan.SERVICES, *self._kubelet.pods}
        callees = {TELEMETRY, "*", *plan.WORKLOADS}
        if caller not in callers:
            raise UnknownName("from", caller, callers)
        if callee not in callees:
            raise UnknownName("to", callee, callees)
        self.network.disturb(caller, callee, Disturbance(delay_ms / 1000, jitter_ms / 1000, loss, **more))

    def break_names(self, workload: str, names: list[str] | str) -> None:
        deployment = self.deployment(workload)
        self._broken_names[workload] = names
        self._write_all_hosts([workload])
        for pod in deployment.pods:  # names are looked up for new connections alone
            self.network.drop(pod.name, names)

    def mend_names(self) -> None:
        broken = list(self._broken_names)
        self._broken_names.clear()
        self._write_all_hosts(broken)

    def _write_all_hosts(self, workloads: Iterable[str]) -> None:
        for workload in workloads:
            for pod in self._deployments[workload].pods:
                if self.folder.pod(pod.name).is_dir():
                    self._write_hosts(pod)

    def add_neighbours(self, node: str, threads: int, duty: float) -> None:
        if node not in plan.NODES:
            raise UnknownName("node", node, plan.NODES)
        code = self._chosen.randrange(28_000_000, 30_000_000)
        job = f"{NEIGHBOUR}-{code}"
        self._cluster.show_job(job)
        for _ in range(threads):
            name = f"{job}-{''.join(self._chosen.choice('bcdfghjklmnpqrstvwxz2456789') for _ in range(5))}"
            self._kubelet.add(Pod(name, NEIGHBOUR, ("jobs", "Job", job), node, self._core(node), Neighbour(self.folder, duty)))

    def remove_neighbours(self, node: str) -> None:
        if node not in plan.NODES:
            raise UnknownName("node", node, plan.NODES)
        for pod in self._pods_on(node):
            if pod.owner == NEIGHBOUR:
                self._kubelet.delete(pod)
                self._cluster.remove("jobs", pod.owned_by[2])

    # Volumes: the services enforce capacity and speed, see rca.shop.services.volume.

    def _volume(self, name: str) -> tuple[Pod, Path]:
        pod = self.pod(name)
        if not self._has_volume(pod):
            having = [one for one in plan.SERVICES if plan.WORKLOADS[one].volume_bytes]
            raise BadInput("volume", expected=f"a pod of {' or '.join(having)}", found=name)
        (self.folder.pod(name) / "volume").mkdir(parents=True, exist_ok=True)
        return pod, self.folder.pod(name)

    def fill_volume(self, name: str) -> None:
        pod, place = self._volume(name)
        left = plan.WORKLOADS[pod.owner].volume_bytes - exporters.folder_bytes(place / "volume")
        with (place / "volume" / "ballast").open("ab") as file:
            file.truncate(file.tell() + max(left, 0))

    def slow_volume(self, name: str, how: Mapping[str, float]) -> None:
        _, place = self._volume(name)
        temporary = place / "volume.new"
        temporary.write_text(json.dumps(dict(how)), encoding="utf-8")
        temporary.replace(place / "volume.json")

    def clear_volume(self, name: str) -> None:
        _, place = self._volume(name)
        (place / "volume" / "ballast").unlink(missing_ok=True)
        (place / "volume.json").unlink(missing_ok=True)

    def _volume_troubles(self, pod: Pod) -> Iterable[str]:
        place = self.folder.pod(pod.name)
        if (place / "volume" / "ballast").exists():
            yield "full"
        if (place / "volume.json").exists():
            yield "slow"

    async def backing(self, name: str, action: str) -> None:
        if name in plan.EXTERNALS:
            if action == "flush":
                raise Rejected(f"{name}: expected stop, start or restart, found flush")
            await self._behave(name, "ok" if action == "start" else "down")
            if action == "restart":
                asyncio.get_running_loop().call_later(3, lambda: asyncio.ensure_future(self._behave(name, "ok")))
            return
        if name not in self._stateful_sets:
            raise UnknownName("backing server", name, (*plan.BACKING, *plan.EXTERNALS))
        pod = self._stateful_sets[name].pod
        if action == "stop":
            self._kubelet.hold(pod)
        elif action == "start":
            self._kubelet.release(pod)
        elif action == "restart":
            self._kubelet.restart(pod)
        else:
            flush = getattr(self._servers[name], "flush", None)
            if flush is None:
                raise Rejected(f"{name}: expected a Redis server to flush, found PostgreSQL")
            await self._ordered(name, flush)

    async def trouble(self, name: str, what: str, parameters: Mapping[str, Any]) -> None:
        """Let something go wrong inside a backing server; one of each sort."""
        from rca.shop.supervisor import troubles

        if name not in self._servers:
            raise UnknownName("backing server", name, plan.BACKING)
        await self._end_trouble((name, what))
        begin = partial(troubles.begin, self._servers[name], name, what, parameters)
        self._troubles[name, what] = await self._ordered(name, begin)

    async def _end_trouble(self, key: tuple[str, str]) -> None:
        trouble = self._troubles.pop(key, None)
        if trouble is not None:
            await asyncio.get_running_loop().run_in_executor(self._threads, trouble.end)

    async def _ordered(self, name: str, order: Callable[[], Any]) -> Any:
        """What a server answers to an order that blocks. Raises Unavailable where it does not answer."""
        import psycopg
        import redis

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, order)
        except (OSError, psycopg.Error, redis.RedisError) as error:
            raise Unavailable(f"{name} does not answer: {excerpt(str(error), 200)}") from error

    async def _behave(self, name: str, mode: str) -> None:
        if self._providers is None:
            raise Unavailable("the shop is still starting")
        await self._ordered(name, partial(self._providers.behave, name, mode))
        (self._down.add if mode == "down" else self._down.discard)(name)

    @property
    def _rate_file(self) -> Path:
        return self.folder.path / "load.json"

    def _write_rate(self) -> None:
        temporary = self._rate_file.with_suffix(".new")
        temporary.write_text(json.dumps({"rate": self._rate}), encoding="utf-8")
        temporary.replace(self._rate_file)

    def set_rate(self, rate: float) -> None:
        if self._phase != "ready":
            raise Unavailable("the shop is still starting")
        self._rate = rate
        if not self._with_load:
            self._with_load = True
            self._begin_load()
        self._write_rate()

    async def clear(self) -> None:
        """End everything that lasts and can be ended at once."""
        self.network.clear()
        self.mend_names()
        for key in list(self._troubles):
            await self._end_trouble(key)
        for name in list(self._down):
            await self._behave(name, "ok")
        for pod in list(self._kubelet.pods.values()):
            if pod.owner == NEIGHBOUR:
                self.remove_neighbours(pod.node)
            elif pod.is_held:
                self._kubelet.release(pod)
            if pod.is_paused:
                pod.send(signal.SIGCONT)
            if self._has_volume(pod):
                self.clear_volume(pod.name)
            if pod.admin_port and pod.is_running:
                await self._end_chaos(pod)

    async def _end_chaos(self, pod: Pod) -> None:
        """End the chaos inside a pod; with its process where that is silent. One that does not listen yet has none."""
        try:
            await self.chaos(pod.name, "DELETE", {})
        except RcaError as error:
            if isinstance(error.__cause__, TimeoutError):
                self._kubelet.restart(pod)

    def reset(self) -> None:
        """Return to the first releases, the plan's limits and numbers of pods, and the rate that it started with."""
        for name, deployment in self._deployments.items():
            deployment.reset()
            self.limit_memory(name, None)
        if self._rate != self._usual_rate:
            self.set_rate(self._usual_rate)


def empty(folder: RunFolder) -> None:
    """Make the folder ready for a new shop: what an earlier one left is deleted. Raises BadInput where others' files stand."""
    folder.check()
    folder.path.mkdir(parents=True, exist_ok=True)
    for name in OWN_FOLDERS:
        shutil.rmtree(folder.path / name, ignore_errors=True)
    for name in set(OWN_FILES) - set(IN_USE):
        (folder.path / name).unlink(missing_ok=True)


def supervise(folder: RunFolder, rate: float | None, command: Command = service_command) -> None:
    """Run a shop in this process until SIGTERM or SIGINT. Raises Rejected where one runs, RcaError if it does not come up."""
    with folder.alone(SUPERVISOR_LOCK, "a shop is already running here"):
        empty(folder)
        asyncio.run(_supervise(folder, rate, command))
        folder.state_file.unlink(missing_ok=True)


async def _supervise(folder: RunFolder, rate: float | None, command: Command) -> None:
    supervisor = Supervisor(folder, rate, command)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stop)
    try:
        await supervisor.run()
    except RcaError as error:
        supervisor.fail(str(error))
        raise
