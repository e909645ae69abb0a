"""A client of a running shop: what it is made of now, and every way to disturb it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import requests

from rca.errors import BadInput, Rejected, Unavailable
from rca.shop.folder import RunFolder, State, run_folder
from rca.shop.supervisor.processes import is_running
from rca.wording import excerpt

EVERYBODY: Final = "*"
CUSTOMERS: Final = "customers"
"""Who calls the gateway from outside."""
TELEMETRY: Final = "telemetry"
"""The callee that pods send OTLP to; `to="*"` does not mean it."""

Signal = Literal["KILL", "STOP", "CONT", "TERM"]
Cut = Literal["reset", "blackhole", "none"]

_PATIENCE_S: Final = 10.0


@dataclass(frozen=True)
class PodStatus:
    """One pod as the supervisor sees it. `phase` is what `kubectl get pods` shows: Running, CrashLoopBackOff, OOMKilled …"""

    name: str
    workload: str
    node: str
    version: str
    phase: str
    ready: bool
    restarts: int
    pid: int | None
    port: int
    admin_port: int | None
    cpu_cores: float
    memory_bytes: int
    memory_limit_bytes: int
    started: float


@dataclass(frozen=True)
class Status:
    """The whole shop. `injected` says in words what is disturbed by the control API; chaos inside pods is not in it."""

    phase: str
    pods: tuple[PodStatus, ...]
    addresses: Mapping[str, str]
    injected: tuple[str, ...]
    rate: float
    cpu_cores: float
    memory_bytes: int
    processes: Mapping[str, Mapping[str, float]]

    @property
    def ready(self) -> bool:
        """Whether everything that should run is up and every pod is ready."""
        return self.phase == "ready" and bool(self.pods) and all(pod.ready for pod in self.pods)

    def pods_of(self, workload: str) -> tuple[PodStatus, ...]:
        """Pods of one workload, oldest first."""
        return tuple(sorted((pod for pod in self.pods if pod.workload == workload), key=lambda pod: (pod.started, pod.name)))


class Shop:
    """The shop that runs in a folder. Every method raises Unavailable where none runs there, Rejected for what it refuses."""

    def __init__(self, folder: RunFolder | Path | None = None) -> None:
        self.folder = folder if isinstance(folder, RunFolder) else run_folder(folder)
        self._session = requests.Session()
        self._session.trust_env = False

    @property
    def state(self) -> State:
        """What its `shop.json` says."""
        state = self.folder.state()
        if state is None:
            raise Unavailable(f"{self.folder.path}: no shop runs here; `rca shop up` starts one")
        return state

    # --- what it is ----------------------------------------------------------------------------------------------------

    def status(self) -> Status:
        """Pods, addresses and what is disturbed."""
        body = self._ask("GET", "/status")
        return Status(
            phase=body["phase"],
            pods=tuple(PodStatus(**pod) for pod in body["pods"]),
            addresses=body["addresses"],
            injected=tuple(body["injected"]),
            rate=body["rate"],
            cpu_cores=body["cpu_cores"],
            memory_bytes=body["memory_bytes"],
            processes=body["processes"],
        )

    def wait_ready(self, timeout_s: float = 60.0, *, sleep: Callable[[float], object] = time.sleep) -> Status:
        """The status once every pod is ready; `sleep` passes the time. Raises Unavailable if that takes too long."""
        deadline = time.monotonic() + timeout_s
        while True:
            status = self.status()
            if status.ready:
                return status
            if time.monotonic() > deadline:
                waiting = ", ".join(f"{pod.name} ({pod.phase})" for pod in status.pods if not pod.ready) or status.phase
                raise Unavailable(f"{self.folder.path}: not ready after {timeout_s:.0f} s: {waiting}")
            sleep(0.5)

    # --- pods and workloads --------------------------------------------------------------------------------------------

    def signal(self, pod: str, signal: Signal) -> None:
        """Send a signal to a pod's process. A stopped pod fails its probes, as one that hangs does."""
        self._ask("POST", f"/pods/{pod}/signal", {"signal": signal})

    def rollout(
        self,
        workload: str,
        version: str,
        *,
        behaviour: Mapping[str, Mapping[str, Any]] | None = None,
        configuration: Mapping[str, Any] | None = None,
    ) -> None:
        """Roll out a release, pod by pod. Without a configuration the present one stays. Returns once it has begun."""
        release = {"version": version, "behaviour": dict(behaviour or {})}
        if configuration is not None:
            release["configuration"] = dict(configuration)
        self._ask("POST", f"/workloads/{workload}/rollout", {"release": release})

    def rollback(self, workload: str) -> None:
        """Return to the release before the present one, its configuration included."""
        self._ask("POST", f"/workloads/{workload}/rollback", {})

    def configure(self, workload: str, configuration: Mapping[str, Any]) -> None:
        """Write a workload's config map and restart its pods one by one."""
        self._ask("POST", f"/workloads/{workload}/configure", {"configuration": dict(configuration)})

    def scale(self, workload: str, pods: int) -> None:
        """Run another number of a service's pods."""
        self._ask("POST", f"/workloads/{workload}/scale", {"pods": pods})

    def limit_memory(self, workload: str, memory_bytes: int | None) -> None:
        """Set the memory limit of a workload's pods, at once; None returns to the plan's."""
        self._ask("POST", f"/limits/{workload}", {"memory_bytes": memory_bytes})

    # --- chaos inside of pods ------------------------------------------------------------------------------------------

    def chaos(self, pod: str, fault: str, **parameters: Any) -> None:
        """Start a fault inside a service's pod (rca.shop.services knows which). A restart ends it."""
        self._ask("POST", f"/pods/{pod}/chaos", {"fault": fault, **parameters})

    def stop_chaos(self, pod: str) -> None:
        """End every fault inside a pod."""
        self._ask("DELETE", f"/pods/{pod}/chaos")

    # --- network -------------------------------------------------------------------------------------------------------

    def network(
        self,
        caller: str,
        callee: str,
        *,
        delay_ms: float = 0.0,
        jitter_ms: float = 0.0,
        loss: float = 0.0,
        cut: Cut = "none",
        rate_bytes_per_second: float | None = None,
    ) -> None:
        """Disturb the edges from a caller (workload, pod, `customers` or `*`) to a callee (name, `telemetry` or `*`).

        `delay_ms` is for both directions together. What was set before on the same pair is replaced; what is set on pairs that
        overlap adds up.
        """
        body: dict[str, Any] = {"from": caller, "to": callee, "delay_ms": delay_ms, "jitter_ms": jitter_ms, "loss": loss}
        self._ask("POST", "/network", {**body, "cut": cut, "rate_bytes_per_second": rate_bytes_per_second})

    def clear_network(self, caller: str | None = None, callee: str | None = None) -> None:
        """End the disturbance of one pair, or all of them."""
        self._ask("DELETE", "/network", {"from": caller, "to": callee})

    def dns(self, workload: str, names: Sequence[str] | Literal["*"] = "*") -> None:
        """Let the pods of a workload no longer resolve these names."""
        self._ask("POST", "/dns", {"workload": workload, "names": names if isinstance(names, str) else list(names)})

    def clear_dns(self) -> None:
        """Let every pod resolve every name again."""
        self._ask("DELETE", "/dns")

    # --- nodes, volumes, backing servers -------------------------------------------------------------------------------

    def neighbour(self, node: str, *, threads: int = 1, duty: float = 0.9) -> None:
        """Run a busy batch pod on a node: each thread computes for this share of the time."""
        self._ask("POST", f"/nodes/{node}/neighbour", {"threads": threads, "duty": duty})

    def clear_neighbour(self, node: str) -> None:
        """Delete the batch pods of a node."""
        self._ask("DELETE", f"/nodes/{node}/neighbour")

    def fill_volume(self, pod: str) -> None:
        """Fill a pod's volume up to its capacity; writes then fail with ENOSPC."""
        self._ask("POST", f"/volumes/{pod}/fill", {})

    def slow_volume(self, pod: str, *, bytes_per_second: float | None = None, ms_per_write: float | None = None) -> None:
        """Make a pod's volume slow."""
        self._ask("POST", f"/volumes/{pod}/slow", {"bytes_per_second": bytes_per_second, "ms_per_write": ms_per_write})

    def clear_volume(self, pod: str) -> None:
        """Empty a pod's volume of what was filled in, and let it be quick again."""
        self._ask("DELETE", f"/volumes/{pod}")

    def backing(self, name: str, action: Literal["stop", "start", "restart", "flush"]) -> None:
        """Stop, start or restart a backing server or an external provider, or flush a Redis server's content."""
        self._ask("POST", f"/backing/{name}/{action}", {})

    def trouble(self, name: str, what: str, **parameters: Any) -> None:
        """Let something go wrong inside a backing server (rca.shop.supervisor.troubles knows what). `clear` ends it."""
        self._ask("POST", f"/backing/{name}/trouble", {"what": what, **parameters})

    def load(self, rate: float) -> None:
        """Let customers send this many requests a second."""
        self._ask("POST", "/load", {"rate": rate})

    def clear(self) -> None:
        """End every disturbance of the control API that lasts, and all chaos inside pods. Releases, settings and limits stay."""
        self._ask("POST", "/clear", {})

    def reset(self) -> None:
        """Return to the first releases, the plan's limits and numbers of pods, and the rate that it started with."""
        self._ask("POST", "/reset", {})

    # --- how it is asked -----------------------------------------------------------------------------------------------

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        state = self.state
        url = state.addresses.get("control")
        if url is None:
            raise Unavailable(f"{self.folder.path}: the shop is {state.phase}, and does not answer yet")
        try:
            answer = self._session.request(
                method, url + path, json=body, headers={"Authorization": f"Bearer {state.token}"}, timeout=_PATIENCE_S
            )
            told = answer.json()
        except (requests.RequestException, ValueError) as error:
            if not is_running(state.supervisor):
                raise Unavailable(f"{self.folder.path}: the shop ended unexpectedly; `rca shop down` tidies up") from None
            raise Unavailable(f"{url}{path}: the shop does not answer: {excerpt(str(error), 200)}") from error
        if answer.status_code in (400, 404):
            raise BadInput(told["where"], expected=told["expected"], found=told["found"])
        if answer.status_code == 503:
            raise Unavailable(f"{method} {path}: {told['error']}")
        if not answer.ok:
            raise Rejected(f"{method} {path}: {told['error']}")
        return told
