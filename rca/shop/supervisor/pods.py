"""Pods: one process each, probed, restarted with growing delays, killed when it holds more memory than it may."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import subprocess
import time
from collections.abc import Awaitable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from rca.errors import Unavailable
from rca.shop import plan
from rca.shop.supervisor.processes import Usage, usage
from rca.shop.supervisor.throttling import PERIOD_S, throttle

if TYPE_CHECKING:
    from rca.shop.supervisor.cluster import Cluster

log = logging.getLogger(__name__)

FIRST_DELAY_S: Final = 1.0
LONGEST_DELAY_S: Final = 20.0
_HEALED_S: Final = 60.0
"""A container that ran for so long starts with the first delay again."""
_READINESS_S: Final = 2.0
_LIVENESS_S: Final = 5.0
_PROBE_PATIENCE_S: Final = 1.5
_UNREADY_AFTER: Final = 2  # failed readiness probes
_DEAD_AFTER: Final = 4  # failed liveness probes
_STARTING_S: Final = 90.0  # before the first success, a failed liveness probe does not count
_GRACE_S: Final = 6.0


class Program(Protocol):
    """What runs in a pod's container."""

    probe_s: float

    async def start(self, pod: Pod) -> subprocess.Popen[bytes]:
        """Raises Unavailable or OSError; anything else is a mistake, which is told and tried again too."""

    async def is_ready(self, pod: Pod, /) -> bool: ...

    async def is_alive(self, pod: Pod, /) -> bool: ...

    def end(self, pod: Pod) -> None:
        """Ask the process to end."""


@dataclass(frozen=True)
class End:
    """How a container's last run ended."""

    reason: str
    code: int
    started_ns: int
    at_ns: int


class Pod:
    """One pod and its container."""

    def __init__(self, name: str, owner: str, owned_by: tuple[str, str, str], node: str, core: int, program: Program) -> None:
        self.name, self.owner, self.owned_by, self.node, self.core, self.program = name, owner, owned_by, node, core, program
        workload = plan.WORKLOADS.get(owner)
        self.memory_limit_bytes = workload.memory_limit_bytes if workload else 256 * plan.MIB
        self.cpu_limit = workload.cpu_limit if workload else 1.0
        self.version, self.code = "", ""
        self.port, self.admin_port = 0, 0
        self.received_bytes, self.sent_bytes = 0, 0
        self.created_ns = self.ready_since_ns = time.time_ns()
        self.deleted_ns: int | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.children: Sequence[int] = ()
        self.started_ns = 0
        self.failure = ""  # why the last attempt to start it failed; empty once one succeeded
        self.last_end: End | None = None
        self.restarts = 0
        self.delay_s = 0.0
        self.is_ready = False
        self.is_held = False
        self.is_paused = False
        self.usage = Usage()
        self.cpu_cores = 0.0
        self.periods, self.throttled_periods, self.throttled_s = 0, 0, 0.0
        self.is_starting = False
        self.is_throttled = False
        self.was_ready = False
        self._restart_at = 0.0
        self._killed_for = ""
        self._sampled = 0.0
        self._probing: asyncio.Task[None] | None = None
        self._killing: asyncio.Task[None] | None = None

    @property
    def is_running(self) -> bool:
        """Whether its container runs."""
        return self.process is not None and self.process.poll() is None

    @property
    def takes_traffic(self) -> bool:
        """Whether others are sent to it."""
        return self.is_ready and self.deleted_ns is None

    @property
    def phase(self) -> str:
        """What `kubectl get pods` would show."""
        if self.deleted_ns is not None:
            return "Terminating"
        if self.is_running:
            return "Running"
        if self.is_held:
            return "Stopped"
        was_too_large = self.last_end is not None and self.last_end.reason == "OOMKilled"
        return "OOMKilled" if was_too_large and not self.failure else self.waiting_for

    @property
    def waiting_for(self) -> str:
        """Why a container that does not run does not run, as Kubernetes calls it."""
        if self.failure:
            return "RunContainerError"
        return "CrashLoopBackOff" if self.last_end is not None else "ContainerCreating"

    def send(self, number: signal.Signals) -> None:
        """A signal to its process; none if it is gone."""
        if self.process is not None and self.process.poll() is None:
            self.is_paused = number == signal.SIGSTOP or (self.is_paused and number != signal.SIGCONT)
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)

    def sample(self) -> None:
        """Look at what the process used."""
        now = time.monotonic()
        if self.process is None or (found := usage(self.process.pid, self.children)) is None:
            self.usage, self.cpu_cores = Usage(), 0.0
            return
        passed = now - self._sampled
        if self._sampled and passed > 0 and found.cpu_seconds >= self.usage.cpu_seconds:
            self.cpu_cores = (found.cpu_seconds - self.usage.cpu_seconds) / passed
            if not self.is_throttled:
                self.periods += round(passed / PERIOD_S)
        self.usage, self._sampled = found, now


class Kubelet:
    """Looks after pods: `tick` it twice a second."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.pods: dict[str, Pod] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, pod: Pod) -> None:
        """A new pod; it starts at the next tick."""
        self.pods[pod.name] = pod
        self._cluster.show_pod(pod)
        self._tell(
            pod, "Scheduled", f"Successfully assigned {plan.NAMESPACE}/{pod.name} to {pod.node}", source="default-scheduler"
        )
        self._tell(pod, "Pulled", f"Container image for {pod.owner} already present on machine")

    def tick(self) -> list[Pod]:
        """Start what should run, notice what ended, probe. Returns pods that are gone for good."""
        now = time.monotonic()
        gone = []
        for pod in list(self.pods.values()):
            if pod.process is not None and pod.process.poll() is not None:
                self._ended(pod, pod.process.returncode, now)
            if pod.deleted_ns is not None:
                if pod.process is None and not pod.is_starting:
                    del self.pods[pod.name]
                    self._cluster.remove_pod(pod)
                    gone.append(pod)
            elif pod.process is None and not pod.is_starting and not pod.is_held and now >= pod._restart_at:
                pod.is_starting = True
                self._run(self._start(pod))
            elif pod.is_running and pod.usage.memory_bytes > pod.memory_limit_bytes:
                pod._killed_for = "OOMKilled"
                pod.send(signal.SIGKILL)
            elif pod.process is not None and pod.was_ready and pod.cpu_cores > pod.cpu_limit and not pod.is_throttled:
                pod.is_throttled = True
                self._run(self._throttle(pod, pod.process))
        return gone

    def delete(self, pod: Pod) -> None:
        """End a pod for good: no more traffic, SIGTERM, and SIGKILL after the grace period."""
        if pod.deleted_ns is not None:
            return
        pod.deleted_ns = time.time_ns()
        self._set_ready(pod, False)
        self._cluster.show_pod(pod)
        self._tell(pod, "Killing", f"Stopping container {pod.owner}")
        self._end(pod)

    def hold(self, pod: Pod) -> None:
        """Stop a pod's container and do not start it again until `release`."""
        pod.is_held = True
        self._set_ready(pod, False)
        self._tell(pod, "Killing", f"Stopping container {pod.owner}")
        self._end(pod)

    def release(self, pod: Pod) -> None:
        """Let a pod's container run again."""
        pod.is_held, pod._restart_at, pod.delay_s = False, 0.0, 0.0

    def restart(self, pod: Pod) -> None:
        """Restart a pod's container, without delay."""
        self._tell(pod, "Killing", f"Stopping container {pod.owner}")
        pod._killed_for = "restart"
        self._end(pod)

    def _end(self, pod: Pod) -> None:
        if pod.is_running:
            pod.send(signal.SIGCONT)
            pod.program.end(pod)
            self._run(self._kill_later(pod, pod.process))

    async def _kill_later(self, pod: Pod, process: subprocess.Popen[bytes] | None) -> None:
        await asyncio.sleep(_GRACE_S)
        if process is not None and process is pod.process and process.poll() is None:
            process.kill()

    async def _throttle(self, pod: Pod, process: subprocess.Popen[bytes]) -> None:
        try:
            await throttle(pod, process)
        finally:
            pod.is_throttled = False

    async def _start(self, pod: Pod) -> None:
        try:
            process = await pod.program.start(pod)
        except Exception as error:
            if not isinstance(error, Unavailable | OSError):
                log.exception("%s does not start", pod.name)
            self._failed(pod, str(error) or type(error).__name__)
            return
        finally:
            pod.is_starting = False
        pod.process, pod.started_ns, pod._killed_for, pod.is_paused = process, time.time_ns(), "", False
        pod.failure = ""
        pod.children, pod.was_ready = (), False
        self._cluster.show_pod(pod)
        self._tell(pod, "Created", f"Created container: {pod.owner}")
        self._tell(pod, "Started", f"Started container {pod.owner}")
        if pod.deleted_ns is not None or pod.is_held:
            self._end(pod)
            return
        self._run(self._probe(pod, process))

    def _failed(self, pod: Pod, why: str) -> None:
        """The container of a pod could not be started."""
        pod.failure = why
        pod.delay_s = min(max(2 * pod.delay_s, FIRST_DELAY_S), LONGEST_DELAY_S)
        pod._restart_at = time.monotonic() + pod.delay_s
        self._cluster.show_pod(pod)
        self._tell(pod, "Failed", f"Error: {why}", warning=True)

    def _ended(self, pod: Pod, returned: int, now: float) -> None:
        """The container of a pod ended by itself or was killed."""
        code = 128 - returned if returned < 0 else returned
        reason = pod._killed_for or ("Completed" if code == 0 else "Error")
        if pod._killed_for == "OOMKilled":
            code = 137
        pod.process = None
        if pod.deleted_ns is not None:
            return
        ran_s = (time.time_ns() - pod.started_ns) / 1e9
        pod.last_end = End("Error" if reason in ("restart", "liveness") else reason, code, pod.started_ns, time.time_ns())
        self._set_ready(pod, False)
        pod.restarts += 1
        healed = ran_s > _HEALED_S or reason == "restart"
        pod.delay_s = FIRST_DELAY_S if healed or not pod.delay_s else min(2 * pod.delay_s, LONGEST_DELAY_S)
        pod._restart_at = now + (0 if reason == "restart" else pod.delay_s)
        if not pod.is_held:
            text = f"Back-off restarting failed container {pod.owner} in pod {pod.name}_{plan.NAMESPACE}"
            self._tell(pod, "BackOff", text, warning=True)
        self._cluster.show_pod(pod)

    async def _probe(self, pod: Pod, process: subprocess.Popen[bytes]) -> None:
        """Readiness and liveness for as long as this process runs."""
        begun = time.monotonic()
        alive_at = begun + _LIVENESS_S
        unready = dead = 0
        was_alive = False
        while pod.process is process and process.poll() is None and pod.deleted_ns is None:
            if await _within(pod.program.is_ready(pod)):
                unready, was_alive = 0, True
                self._set_ready(pod, pod.process is process and not pod.is_held)
            else:
                unready += 1
                if unready >= _UNREADY_AFTER and pod.process is process:
                    if pod.is_ready:
                        self._tell(pod, "Unhealthy", "Readiness probe failed: no answer in time", warning=True)
                    self._set_ready(pod, False)
            if time.monotonic() >= alive_at:
                alive_at = time.monotonic() + _LIVENESS_S
                dead = 0 if await _within(pod.program.is_alive(pod)) else dead + 1
                counts = was_alive or time.monotonic() - begun > _STARTING_S
                if dead >= _DEAD_AFTER and counts and pod.process is process:
                    self._tell(pod, "Unhealthy", "Liveness probe failed: no answer in time", warning=True)
                    self._tell(pod, "Killing", f"Container {pod.owner} failed liveness probe, will be restarted")
                    pod._killed_for = "liveness"
                    pod.send(signal.SIGKILL)
                    return
            await asyncio.sleep(pod.program.probe_s if pod.is_ready else min(1.0, pod.program.probe_s))

    def _set_ready(self, pod: Pod, ready: bool) -> None:
        if ready != pod.is_ready:
            pod.is_ready, pod.ready_since_ns = ready, time.time_ns()
            pod.was_ready |= ready
            self._cluster.show_pod(pod)

    def _tell(self, pod: Pod, reason: str, message: str, *, warning: bool = False, source: str = "kubelet") -> None:
        self._cluster.event("pods", pod.name, reason, message, warning=warning, source=source, host=pod.node)

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _within(probe: Awaitable[bool]) -> bool:
    """Whether a probe succeeds in time. Whatever it raises, the next one is asked too."""
    try:
        return await asyncio.wait_for(probe, _PROBE_PATIENCE_S)
    except (OSError, TimeoutError):
        return False
    except Exception:
        log.exception("a probe failed")
        return False


async def http_ok(port: int, path: str) -> bool:
    """Whether a path on loopback answers 200. Raises OSError."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        line = await reader.readline()
        return line.split()[1:2] == [b"200"]
    finally:
        writer.close()
