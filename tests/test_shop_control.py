"""The control API of a supervisor that has started nothing yet, through the client."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from typer.testing import CliRunner

from rca.cli.main import app
from rca.errors import BadInput, Rejected, Unavailable
from rca.shop import monitoring
from rca.shop.backing.redis import Redis
from rca.shop.client import Shop
from rca.shop.faults import inject
from rca.shop.folder import RunFolder
from rca.shop.supervisor import troubles
from rca.shop.supervisor.supervisor import Supervisor
from tests.servers.prometheus import binary, free_port


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """A shop whose supervisor answers and runs no pod."""
    folder = RunFolder(tmp_path)
    supervisor = Supervisor(folder)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(
        target=loop.run_until_complete, args=(supervisor._control.serve([supervisor._control.socket]),), daemon=True
    )
    thread.start()
    supervisor._write_state()
    yield Shop(folder)
    supervisor._control.should_exit = True
    thread.join(10)
    loop.close()


def test_the_status_of_a_shop_that_starts(shop: Shop) -> None:
    status = shop.status()
    assert (status.phase, status.ready, status.pods, status.injected) == ("starting", False, (), ())
    assert set(status.addresses) >= {"control", "exporters", "prometheus", "alertmanager", "kubernetes", "otlp"}
    assert "supervisor" in status.processes
    with pytest.raises(Unavailable, match="not ready after 0 s: starting"):
        shop.wait_ready(0)


def test_orders_need_the_token(shop: Shop) -> None:
    url = shop.state.addresses["control"]
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": shop.state.token}):
        assert requests.get(f"{url}/status", headers=headers, timeout=5).status_code == 401
        assert requests.post(f"{url}/clear", headers=headers, timeout=5).status_code == 401
    assert requests.get(f"{url}/metrics/kube-state", timeout=5).status_code == 200
    assert requests.get(f"{url}/metrics/nothing", timeout=5).status_code == 404


def test_the_network_can_be_disturbed_and_is_shown_so(shop: Shop) -> None:
    shop.network("cart", "cache", delay_ms=100, jitter_ms=20)
    shop.network("*", "payment", cut="blackhole", loss=0.1)
    told = ("network cart -> cache: delay 100 ms ± 10 ms", "network * -> payment: loss 10 %, blackhole")
    assert shop.status().injected == told
    shop.clear_network("cart", "cache")
    assert shop.status().injected == told[1:]
    shop.clear()
    assert shop.status().injected == ()


def test_what_ends_every_fault_does_not_overtake_one_that_still_begins(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()

    async def slowly(supervisor: Supervisor, *_: object) -> None:
        begun.set()
        await asyncio.sleep(0.3)
        supervisor.disturb("cart", "cache", delay_ms=100, jitter_ms=0, loss=0)

    monkeypatch.setattr(Supervisor, "trouble", slowly)
    injecting = threading.Thread(target=Shop(shop.folder).trouble, args=("shop-db", "lock"))
    injecting.start()
    assert begun.wait(10)
    shop.clear()  # as the guard does where the process that injects was killed meanwhile
    injecting.join(10)
    assert shop.status().injected == ()


def test_an_order_that_hangs_does_not_keep_other_faults(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, over = threading.Event(), threading.Event()

    async def hangs(_supervisor: Supervisor, *_: object) -> None:
        begun.set()
        await asyncio.get_running_loop().run_in_executor(None, over.wait, 10)

    monkeypatch.setattr("rca.shop.supervisor.control._TURN_S", 0.2)
    monkeypatch.setattr(Supervisor, "trouble", hangs)
    shop.network("cart", "cache", delay_ms=100)
    injecting = threading.Thread(target=Shop(shop.folder).trouble, args=("shop-db", "lock"))
    injecting.start()
    assert begun.wait(10)
    with pytest.raises(Unavailable, match="an order before it is still being carried out"):
        shop.clear()
    assert shop.status().injected == ()
    over.set()
    injecting.join(10)


def test_a_pod_that_does_not_take_the_end_of_its_chaos_is_restarted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor, restarted = Supervisor(RunFolder(tmp_path)), list[str]()
    monkeypatch.setattr("rca.shop.supervisor.supervisor._ADMIN_S", 0.2)
    monkeypatch.setattr(supervisor._kubelet, "restart", lambda pod: restarted.append(pod.name))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for name, port in (("cart-1", silent.getsockname()[1]), ("orders-1", free_port())):  # nobody listens there yet
            pod = SimpleNamespace(
                name=name, owner=name[:-2], admin_port=port, is_running=True, is_held=False, is_paused=False, node="node-a"
            )
            supervisor._kubelet.pods[name] = pod  # type: ignore[assignment]
        asyncio.run(supervisor.clear())
    assert restarted == ["cart-1"]


_WRONG: list[tuple[Callable[[Shop], Any], str]] = [
    (lambda shop: shop.signal("cart-1", "KILL"), r"pod: expected a known name, found 'cart-1'"),
    (lambda shop: shop.rollout("cart", "1.0.1"), r"workload: expected a known name, found 'cart'"),
    (lambda shop: shop.network("basket", "cache"), r"from: .*'basket'"),
    (lambda shop: shop.network("cart", "cach"), r"to: expected a known name, found 'cach' \(did you mean cache"),
    (lambda shop: shop.network("cart", "cache", loss=2), r"loss: expected a number from 0 to 1, found 2"),
    (lambda shop: shop.network("cart", "cache", delay_ms=-1), r"delay_ms: expected a number from 0 on, found -1"),
    (lambda shop: shop.network("cart", "cache", cut="knife"), r"cut: expected none or reset or blackhole"),  # type: ignore[arg-type]
    (lambda shop: shop.neighbour("node-z"), r"node: expected a known name, found 'node-z'"),
    (lambda shop: shop._ask("DELETE", "/network", {"from": 3}), r"from: expected a name, found 3"),
    (lambda shop: shop.slow_volume("cart-1"), r"volume: expected bytes_per_second or ms_per_write, found neither"),
    (lambda shop: shop.backing("shop-db", "stop"), r"backing server: expected a known name"),
]


@pytest.mark.parametrize(("order", "message"), _WRONG)
def test_wrong_orders_say_what_was_expected(shop: Shop, order: Callable[[Shop], Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        order(shop)


def test_orders_that_come_too_early_or_do_not_fit(shop: Shop) -> None:
    with pytest.raises(Unavailable, match="still starting"):
        shop.load(3)
    with pytest.raises(Rejected, match="expected stop, start or restart, found flush"):
        shop.backing("smtp.mail.example", "flush")
    with pytest.raises(Unavailable, match="still starting"):
        shop.backing("smtp.mail.example", "stop")


def test_a_server_that_does_not_answer_is_told_apart_from_a_supervisor_that_does_not(tmp_path: Path) -> None:
    server = Redis()
    server.port = free_port()

    async def flush() -> None:
        await Supervisor(RunFolder(tmp_path))._ordered("cache", server.flush)

    with pytest.raises(Unavailable, match=r"cache does not answer: .*refused"):
        asyncio.run(flush())


def test_faults_without_a_pod_to_hit_do_not_pretend(shop: Shop) -> None:
    for fault in ("exception", "disk_full", "pod_kill", "pod_failure"):
        with pytest.raises(Unavailable, match=r"shipping: expected a pod to hit, found none"):
            inject(shop, fault, "shipping")


def test_bodies_that_are_no_objects_are_refused(shop: Shop) -> None:
    url, headers = shop.state.addresses["control"], {"Authorization": f"Bearer {shop.state.token}"}
    for text in ("[1]", "{", '"x"'):
        answer = requests.post(f"{url}/network", data=text, headers=headers, timeout=5)
        assert (answer.status_code, answer.json()["where"]) == (400, "body")
    answer = requests.post(f"{url}/limits/cart", data='{"memory_bytes": 1e999}', headers=headers, timeout=5)
    assert (answer.status_code, answer.json()["found"]) == (400, "inf")


def test_a_mistake_of_the_shop_is_not_blamed_on_the_caller(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def mistaken(_supervisor: Supervisor, *_: object) -> None:
        raise TypeError("unsupported operand")

    monkeypatch.setattr(Supervisor, "signal", mistaken)
    with pytest.raises(Rejected, match=r"POST /pods/cart-1/signal: a mistake of the shop itself, TypeError: unsupported operand"):
        shop.signal("cart-1", "KILL")
    assert "Traceback" in caplog.text
    assert "in mistaken" in caplog.text


@contextmanager
def _ending(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """The process, which is killed in the end, lest a test that fails wait for it."""
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_a_recorder_that_is_terminated_leaves_a_clean_shop_and_is_the_only_one(shop: Shop, tmp_path: Path) -> None:
    monitoring.write_settings(shop.folder, monitoring.Ports(20001, 20002, 20003, 20004), tmp_path / "kubeconfig")
    shop.network("cart", "cache", delay_ms=100)
    record = [sys.executable, "-m", "rca", "shop", "record", "--run", str(tmp_path), "--out", str(tmp_path / "out")]
    in_background = ["bash", "-c", "trap '' INT; exec \"$@\"", "bash"]  # as shells start the jobs of a script
    with _ending(subprocess.Popen([*in_background, *record], stdout=subprocess.PIPE, text=True)) as first:
        lock = tmp_path / "record.lock"
        deadline = time.monotonic() + 60
        while not (lock.exists() and lock.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        second = subprocess.run(record, capture_output=True, text=True, check=False)
        told = f"{tmp_path}: `rca shop record`, `rca shop inject --for` or a game day is at work, process {first.pid} since"
        assert (second.returncode, told in second.stderr) == (1, True)
        for command in (["inject", "exception", "cart"], ["inject", "exception", "cart", "--for", "9s"], ["clear"]):
            failed = CliRunner().invoke(app, ["shop", *command, "--run", str(tmp_path)])
            assert isinstance(failed.exception, Rejected)
            assert told in str(failed.exception)
        assert shop.status().injected  # the second one cleared nothing
        first.send_signal(signal.SIGTERM)
        assert first.wait(30) == 130
        assert first.stdout is not None
        assert first.stdout.read() == "stopped\n"
    assert shop.status().injected == ()


def test_a_fault_for_a_time_ends_where_its_command_is_terminated(shop: Shop, tmp_path: Path) -> None:
    inject = [sys.executable, "-m", "rca", "shop", "inject", "network_delay", "cart", "--for", "10m", "--run", str(tmp_path)]
    with _ending(subprocess.Popen(inject, stdout=subprocess.PIPE, text=True)) as injecting:
        deadline = time.monotonic() + 60
        while not shop.status().injected:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        injecting.send_signal(signal.SIGTERM)
        assert injecting.wait(30) == 130
    assert shop.status().injected == ()


@pytest.mark.parametrize(
    ("name", "what", "parameters", "message"),
    [
        ("shop-db", "slow_writes", {"ms": "soon"}, "its parameters, ms, tables, found ms: "),
        ("shop-db", "slow_writes", {}, "found ms: Field required"),
        ("shop-db", "lock", {"colour": "red"}, "found colour: Extra inputs"),
        ("order-events", "flood", {"per_second": []}, "its parameters, per_second, found per_second"),
        ("shop-db", "flood", {}, r"trouble of shop-db: expected a known name, found 'flood'"),
    ],
)
def test_parameters_of_troubles_are_checked_before_anything_happens(
    name: str, what: str, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        troubles.begin(None, name, what, parameters)


def test_its_metrics_are_well_formed(shop: Shop) -> None:
    url = shop.state.addresses["exporters"]
    for page in ("kube-state", "node/node-a"):
        text = requests.get(f"{url}/{page}", timeout=5).content
        done = subprocess.run([binary("promtool"), "check", "metrics"], input=text, capture_output=True, check=False)
        assert done.returncode in (0, 3), done.stderr  # 3: it would rather have help texts and other names than the real ones
