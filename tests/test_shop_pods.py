"""Pods, rollouts and the objects that tell of them, with pods that only do what their release says."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rca.collectors.kubernetes.collector import KubernetesCollector
from rca.collectors.kubernetes.config import KubernetesConfig
from rca.errors import BadInput, Unavailable
from rca.shop import plan
from rca.shop.folder import RunFolder
from rca.shop.supervisor import exporters
from rca.shop.supervisor.cluster import Cluster
from rca.shop.supervisor.kubernetes_api import KubernetesApi
from rca.shop.supervisor.pods import Kubelet, Pod
from rca.shop.supervisor.processes import Ports, children, identified, is_running, started, sweep
from rca.shop.supervisor.programs import Service
from rca.shop.supervisor.workloads import Deployment, Release, ReplicaSet, release_of
from rca.telemetry import SECOND_NS, Interval
from tests.servers import standin

TOKEN = "token"
PATIENCE_S = 30.0


class World:
    """A deployment of stand-ins, and the cluster that shows it."""

    def __init__(self, folder: Path, workload: str = "catalogue") -> None:
        self.folder = RunFolder(folder)
        self.api = KubernetesApi({TOKEN})
        self.cluster = Cluster(self.api)
        self.cluster.begin(dict.fromkeys(plan.NODES, 2**30))
        self.cluster.write_config_map(workload)
        self.kubelet = Kubelet(self.cluster)
        self.ports = Ports()
        self.fewest_ready = 0
        self.hindrances: list[Exception] = []
        self.hindered: dict[str, Exception] = {}
        self.deployment = Deployment(plan.WORKLOADS[workload], self.cluster, self.kubelet, self._new_pod, random.Random(1))
        self.deployment.show()

    def _new_pod(self, deployment: Deployment, replica_set: ReplicaSet, name: str, node: str) -> Pod:
        async def connect(pod: Pod) -> int:
            if self.hindrances:
                raise self.hindered.setdefault(pod.name, self.hindrances[len(self.hindered) % len(self.hindrances)])
            return 9

        program = Service(self.folder, self.ports, replica_set.release, dict(os.environ), standin.command, connect)
        program.probe_s = 0.1
        core = min(os.sched_getaffinity(0))
        pod = Pod(name, deployment.name, ("replicasets", "ReplicaSet", replica_set.name), node, core, program)
        pod.version, pod.code = replica_set.release.version, replica_set.code
        return pod

    def tick(self) -> None:
        for pod in self.kubelet.pods.values():
            pod.sample()
        self.kubelet.tick()
        self.deployment.tick()

    async def until(self, reached: Callable[[], bool], what: str) -> None:
        """Let time pass until something is so."""
        deadline = time.monotonic() + PATIENCE_S
        while not reached():
            assert time.monotonic() < deadline, f"{what}: {[(pod.name, pod.phase) for pod in self.kubelet.pods.values()]}"
            self.tick()
            await asyncio.sleep(0.05)
            self.fewest_ready = min(self.fewest_ready, sum(pod.takes_traffic for pod in self.deployment.pods))

    async def settled(self) -> None:
        await self.until(lambda: self.deployment.is_settled and len(self.kubelet.pods) == self.deployment.replicas, "settled")
        self.tick()

    def objects(self, name: str) -> list[dict[str, Any]]:
        return [body for key, body in self.api._objects.items() if key[0] == name]

    def reasons(self) -> set[str]:
        return {body["reason"] for body in self.objects("events")}

    def end(self) -> None:
        for pod in self.kubelet.pods.values():
            if pod.process is not None:
                pod.process.kill()
                pod.process.wait()


def _play(folder: Path, scenario: Callable[[World], Any]) -> None:
    async def run() -> None:
        world = World(folder)
        try:
            await scenario(world)
        finally:
            world.end()

    asyncio.run(run())


def test_pods_start_on_different_nodes_and_are_shown(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.settled()
        pods = world.deployment.pods
        assert {pod.node for pod in pods} == set(plan.NODES)
        assert len({pod.code for pod in pods}) == 1
        assert all(pod.name.startswith(f"catalogue-{pod.code}-") for pod in pods)
        shown = world.objects("pods")
        assert {body["metadata"]["name"] for body in shown} == {pod.name for pod in pods}
        assert all(body["status"]["containerStatuses"][0]["ready"] for body in shown)
        assert world.reasons() >= {"Scheduled", "Pulled", "Created", "Started", "ScalingReplicaSet", "SuccessfulCreate"}
        conditions = {one["type"]: one for one in world.objects("deployments")[0]["status"]["conditions"]}
        assert conditions["Progressing"]["reason"] == "NewReplicaSetAvailable"

    _play(tmp_path, scenario)


def test_a_killed_container_comes_back_with_growing_delays(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.settled()
        pod = world.deployment.pods[0]
        for restarts in (1, 2):
            pod.send(signal.SIGKILL)
            await world.until(lambda: pod.restarts == restarts, "restart")  # noqa: B023
            assert not pod.is_running
            assert pod.phase == "CrashLoopBackOff"
            assert pod.delay_s == restarts
            await world.until(lambda: pod.is_ready, "ready again")
        assert pod.last_end is not None
        assert (pod.last_end.reason, pod.last_end.code) == ("Error", 137)
        assert "BackOff" in world.reasons()
        state = next(body for body in world.objects("pods") if body["metadata"]["name"] == pod.name)["status"]
        assert state["containerStatuses"][0]["restartCount"] == 2
        assert state["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 137
        assert 'reason="Error"' in exporters.kube_state([pod], [world.deployment], [])

    _play(tmp_path, scenario)


def test_whatever_keeps_a_container_from_starting_is_told_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(world: World) -> None:
        world.hindrances = [OSError("no space left"), Unavailable("no port is free"), KeyError("a mistake")]
        world.deployment.replicas = len(world.hindrances)
        await world.until(lambda: sum(pod.delay_s >= 2 for pod in world.deployment.pods) == 3, "second attempts")
        tried_twice = list(world.deployment.pods)
        assert {pod.phase for pod in tried_twice} == {"RunContainerError"}
        told = [body for body in world.objects("events") if body["reason"] == "Failed"]
        for pod in tried_twice:
            error = world.hindered[pod.name]
            shown = next(body for body in world.objects("pods") if body["metadata"]["name"] == pod.name)["status"]
            waiting = {"reason": "RunContainerError", "message": str(error)}
            assert shown["containerStatuses"][0]["state"]["waiting"] == waiting
            about = [body for body in told if body["involvedObject"]["name"] == pod.name]
            assert {body["message"] for body in about} == {f"Error: {error}"}
            assert max(body["count"] for body in about) >= 2
        assert 'reason="RunContainerError"' in exporters.kube_state(tried_twice, [world.deployment], [])
        mistaken = [record.getMessage() for record in caplog.records if "does not start" in record.getMessage()]
        (of_a_mistake,) = [pod.name for pod in tried_twice if isinstance(world.hindered[pod.name], KeyError)]
        assert mistaken
        assert all(of_a_mistake in words for words in mistaken)
        world.hindrances = []
        await world.settled()
        assert {pod.phase for pod in world.deployment.pods} == {"Running"}

    _play(tmp_path, scenario)


def test_a_probe_that_fails_for_whatever_reason_counts_as_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World) -> None:
        await world.settled()
        pod = world.deployment.pods[0]

        async def mistaken(_pod: Pod) -> bool:
            raise ValueError("a mistake")

        monkeypatch.setattr(pod.program, "is_ready", mistaken)
        await world.until(lambda: not pod.takes_traffic, "unready")
        monkeypatch.undo()
        await world.until(lambda: pod.takes_traffic, "ready again")

    _play(tmp_path, scenario)


def test_too_much_memory_is_an_oom_kill(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.settled()
        pod = world.deployment.pods[0]
        pod.memory_limit_bytes = 2**20
        await world.until(lambda: pod.restarts == 1, "killed")
        assert pod.last_end is not None
        assert (pod.last_end.reason, pod.last_end.code, pod.phase) == ("OOMKilled", 137, "OOMKilled")
        pod.memory_limit_bytes = 2**30
        await world.until(lambda: pod.is_ready, "ready again")

    _play(tmp_path, scenario)


def test_a_rollout_replaces_every_pod_and_never_lacks_one(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.settled()
        before, world.fewest_ready = {pod.name for pod in world.deployment.pods}, 9
        world.deployment.roll_out(release_of({"version": "1.0.1"}, Release()))
        await world.settled()
        assert not before & {pod.name for pod in world.deployment.pods}
        assert world.fewest_ready >= 2
        images = {body["spec"]["containers"][0]["image"] for body in world.objects("pods")}
        assert images == {"registry.example/shop/catalogue:1.0.1"}
        revisions = {
            body["metadata"]["annotations"]["deployment.kubernetes.io/revision"] for body in world.objects("replicasets")
        }
        assert revisions == {"1", "2"}
        assert "Killing" in world.reasons()
        world.deployment.roll_back()
        assert world.deployment.current.revision == 3
        await world.settled()
        assert {pod.version for pod in world.deployment.pods} == {"1.0.0"}

    _play(tmp_path, scenario)


def test_only_the_last_replica_sets_are_remembered_and_the_first(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.settled()
        first = world.deployment.current
        for number in range(15):
            world.deployment.roll_out(release_of({"version": f"1.1.{number}"}, Release()))
        assert len(world.objects("replicasets")) == len(world.deployment.replica_sets) == 11
        world.deployment.reset()
        assert world.deployment.current is first

    _play(tmp_path, scenario)


@pytest.mark.parametrize("behaviour", [{"ready": False}, {"exit": 3}])
def test_a_release_that_never_gets_ready_stalls_and_hurts_nobody(tmp_path: Path, behaviour: dict[str, Any]) -> None:
    async def scenario(world: World) -> None:
        await world.settled()
        world.fewest_ready = 9
        world.deployment.roll_out(release_of({"version": "1.0.1", "behaviour": {"standin": behaviour}}, Release()))
        bad = world.deployment.current
        await world.until(lambda: bool(world.deployment.pods_of(bad)), "the first bad pod")
        pod = world.deployment.pods_of(bad)[0]
        await world.until(lambda: pod.restarts >= 2 if "exit" in behaviour else pod.is_running, "the bad pod's trouble")
        assert len(world.deployment.pods) == 3
        world.deployment._progressed_ns -= 61 * SECOND_NS
        await world.until(lambda: world.deployment.is_stalled, "stalled")
        assert world.fewest_ready == 2
        world.deployment.roll_back()
        await world.settled()
        assert {pod.version for pod in world.deployment.pods} == {"1.0.0"}

    _play(tmp_path, scenario)


def test_a_pod_that_hangs_is_taken_out_and_put_back(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.settled()
        pod = world.deployment.pods[0]
        pod.send(signal.SIGSTOP)
        await world.until(lambda: not pod.takes_traffic, "unready")
        assert "Unhealthy" in world.reasons()
        pod.send(signal.SIGCONT)
        await world.until(lambda: pod.takes_traffic, "ready again")
        assert pod.restarts == 0

    _play(tmp_path, scenario)


def test_a_busy_pod_gets_the_cpu_that_it_may_use_and_no_more(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.deployment.replicas = 1
        world.deployment.roll_out(release_of({"version": "2", "behaviour": {"standin": {"busy": True}}}, Release()))
        await world.settled()
        pod = world.deployment.pods[0]
        pod.cpu_limit = 0.1
        await world.until(lambda: pod.throttled_periods > 5, "throttled")
        begun, before = time.monotonic(), pod.usage.cpu_seconds
        while time.monotonic() - begun < 3:
            world.tick()
            await asyncio.sleep(0.1)
        assert (pod.usage.cpu_seconds - before) / (time.monotonic() - begun) < 0.2
        page = exporters.cadvisor([pod], {})
        assert f'container_cpu_cfs_throttled_periods_total{{namespace="shop",pod="{pod.name}"' in page
        assert pod.is_ready

    _play(tmp_path, scenario)


def test_the_collector_reads_crashes_and_rollouts_through_the_official_client(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.api.start()
        path = tmp_path / "kubeconfig"
        world.api.write_kubeconfig(path, TOKEN)
        start_ns = time.time_ns() // SECOND_NS * SECOND_NS
        await world.settled()
        await asyncio.sleep(1)  # creation times are whole seconds
        world.cluster.write_config_map("catalogue", time.time_ns() + SECOND_NS)
        world.deployment.roll_out(release_of({"version": "1.0.1", "configuration": {"timeout_ms": 1}}, Release()))
        await world.settled()
        pod = world.deployment.pods[0]
        pod.send(signal.SIGKILL)
        await world.until(lambda: pod.restarts == 1 and pod.is_ready, "restart")
        collector = KubernetesCollector(KubernetesConfig(kubeconfig=path, namespaces=("shop",)))
        asked = Interval(start_ns, time.time_ns() + 5 * SECOND_NS)
        telemetry = await asyncio.to_thread(collector.collect, asked.start_ns, asked.end_ns)
        world.api.stop()
        assert telemetry.events is not None
        told = set(telemetry.events["reason"].to_list())
        expected = {"ContainerRestarted", "RolloutStarted", "RolloutFinished", "ImageChanged", "ConfigMapChanged", "PodCreated"}
        assert told >= expected | {"Scheduled", "Started", "BackOff", "ScalingReplicaSet", "Killing"}
        services = set(telemetry.events.filter(telemetry.events["entity_kind"] == "service")["entity"].to_list())
        assert services == {"catalogue"}

    _play(tmp_path, scenario)


def test_a_release_is_checked() -> None:
    first = Release("1.0.0", {}, {"retries": 2})
    assert release_of({"version": "1.0.1"}, first) == Release("1.0.1", {}, {"retries": 2})
    for wrong in ({}, {"version": ""}, {"version": "1", "colour": "red"}, {"version": "1", "behaviour": 3}):
        with pytest.raises(BadInput, match="expected a release"):
            release_of(wrong, first)


_PARENT = """
import sys, time
from pathlib import Path
from rca.shop.supervisor.processes import spawn
for _ in range(3):
    print(spawn(["sleep", "1000"], log=Path(sys.argv[1]) / "log.txt").pid, flush=True)
time.sleep(1000)
"""


def test_nothing_outlives_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        found = [identified("sleep", int(parent.stdout.readline())) for _ in range(3)]
        processes = [one for one in found if one is not None]
        assert len(processes) == 3
        assert set(children()[parent.pid]) >= {one.pid for one in processes}
        time.sleep(0.2)
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 5
    while any(is_running(one) for one in processes) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(is_running(one) for one in processes)


def test_a_sweep_spares_whoever_got_the_id_later() -> None:
    with subprocess.Popen(["sleep", "1000"]) as stranger, subprocess.Popen(["sleep", "1000"]) as ours:
        at = started(stranger.pid)
        assert at is not None
        from rca.shop.folder import Process

        known = identified("ours", ours.pid)
        assert known is not None
        assert [one.name for one in sweep([Process("gone", stranger.pid, at - 1), known], timeout_s=0)] == ["ours"]
        ours.wait()
        assert stranger.poll() is None
        stranger.kill()
