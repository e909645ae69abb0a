"""Every fault inside a service has the effect that it is named for, and ends."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
import uvicorn
from psycopg_pool import PoolTimeout

from rca.errors import BadInput
from rca.shop import plan
from rca.shop.backing.postgres import Postgres, heavy_queries, hog_connections, lock, slow_statements
from rca.shop.backing.providers import Providers
from rca.shop.backing.redis import Redis
from rca.shop.services import admin, queue
from rca.shop.services.chaos import Chaos, fault_of
from rca.shop.services.clients import CalleeFailed
from rca.shop.services.kit import Call, Kit, Operation, application
from rca.shop.services.pod import Pod, Release, Settings
from rca.shop.services.volume import Volume
from rca.shop.supervisor.processes import children, usage
from tests.servers.pods import needs, postgres, started
from tests.servers.prometheus import free_port

THREADS = 4


def kit_of(folder: Path, workload: str, *, hosts: dict[str, int] | None = None, **settings: Any) -> Kit:
    """The kit of a pod in this process."""
    lines = [f"127.0.0.1:{port} {name}\n" for name, port in (hosts or {}).items()]
    (folder / "hosts").write_text("".join(lines))
    release = Release(configuration=Settings(threads=THREADS, **settings))
    return Kit(Pod(plan.WORKLOADS[workload], f"{workload}-1", "node-a", folder, free_port(), free_port(), None, release), Chaos())


class Running:
    """A service in this process that works for 5 ms."""

    def __init__(self, kit: Kit) -> None:
        self.kit, self.worked = kit, 0
        operations = [Operation("GET", "/work", self._work, {"work": None}), Operation("GET", "/other", self._work, {})]
        ready = threading.Event()
        app = application(kit, operations, ready.set)
        self.server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=kit.pod.port, log_config=None))
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        self.admin = admin.serve(kit.pod.admin_port, kit.chaos, ready.is_set)
        assert ready.wait(20)
        while True:
            try:
                self.get()
            except OSError:
                time.sleep(0.02)
            else:
                break

    def _work(self, _: Call) -> Any:
        time.sleep(0.005)
        self.worked += 1
        return {"work": "done"}

    def get(self, path: str = "/work") -> tuple[int, Any, float]:
        """Status, body and seconds of a request."""
        began = time.monotonic()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.kit.pod.port}{path}", timeout=10) as answer:
                status, body = answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            status, body = error.code, json.load(error)
        return status, body, time.monotonic() - began

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        """Of the admin port."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.kit.pod.admin_port}{path}", data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def stop(self) -> None:
        self.kit.chaos.stop()
        self.admin.shutdown()
        self.server.should_exit = True
        self.thread.join(10)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Running]:
    running = Running(kit_of(tmp_path, "shipping"))
    yield running
    running.stop()


def median_s(service: Running, path: str = "/work") -> float:
    return sorted(service.get(path)[2] for _ in range(9))[4]


def test_faults_are_started_listed_and_ended_on_the_admin_port(service: Running) -> None:
    assert service.ask("GET", "/healthz") == (200, "ok")
    assert service.ask("GET", "/readyz") == (200, "ready")
    assert service.ask("POST", "/chaos", {"fault": "latency", "ms": 80, "operation": "GET /work"})[0] == 200
    (fault,) = json.loads(service.ask("GET", "/chaos")[1])
    assert (fault["fault"], fault["ms"]) == ("latency", 80)
    assert median_s(service) > 0.08
    assert median_s(service, "/other") < 0.06
    assert service.ask("DELETE", "/chaos")[0] == 200
    assert json.loads(service.ask("GET", "/chaos")[1]) == []
    assert median_s(service) < 0.06


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"fault": "earthquake"}, "earthquake"),
        ({"fault": "latency"}, "ms"),
        ({"fault": "busy", "duty": 2}, "duty"),
        ({"fault": "leak", "speed": 2}, "speed"),
        ({"fault": "hold_connections", "n": 1}, "calls shop-db"),
        ([], "[]"),
    ],
)
def test_faults_that_make_no_sense_are_refused(service: Running, asked: Any, told: str) -> None:
    status, text = service.ask("POST", "/chaos", asked)
    assert status == 400
    assert told in text or asked == []


def test_a_thrown_exception_is_an_internal_error_that_is_logged(service: Running, caplog: pytest.LogCaptureFixture) -> None:
    service.kit.chaos.start(fault_of({"fault": "exception", "share": 0.5}))
    with caplog.at_level(logging.ERROR, "shop"):
        answers = [service.get()[0] for _ in range(40)]
    assert 5 < answers.count(500) < 35
    failed = [record for record in caplog.records if "GET /work failed" in record.getMessage()]
    assert len(failed) == answers.count(500)
    assert all(record.exc_info and record.exc_info[0] is KeyError for record in failed)


def test_an_early_return_answers_well_with_nothing_and_does_not_work(service: Running) -> None:
    service.kit.chaos.start(fault_of({"fault": "early_return"}))
    before = service.worked
    assert service.get()[:2] == (200, {"work": None})
    assert service.worked == before


def test_held_threads_make_others_wait_until_none_is_left(service: Running) -> None:
    service.kit.chaos.start(fault_of({"fault": "hold_threads", "n": THREADS - 1}))
    time.sleep(0.2)
    with ThreadPoolExecutor(8) as many:
        seconds = sorted(many.map(lambda _: service.get()[2], range(8)))
    assert seconds[-1] > 5 * 0.005  # eight of 5 ms, one after the other; together they take hardly more than one
    service.kit.chaos.start(fault_of({"fault": "hold_threads", "n": 2 * THREADS, "ms": 100}))
    time.sleep(0.2)
    assert 0.08 < median_s(service) < 2  # its turn comes
    service.kit.chaos.start(fault_of({"fault": "hold_threads", "n": THREADS}))
    time.sleep(0.4)
    with ThreadPoolExecutor(1) as one:
        stuck = one.submit(service.get)
        time.sleep(0.5)
        assert not stuck.done()
        assert service.ask("GET", "/healthz")[0] == 200  # probes do not notice
        service.kit.chaos.stop()
        assert stuck.result(5)[0] == 200


def cpu_share(seconds: float = 0.6) -> float:
    """Of one core, used by this process."""
    before = time.process_time()
    time.sleep(seconds)
    return (time.process_time() - before) / seconds


def test_busy_threads_use_cpu_for_their_share_of_time() -> None:
    chaos = Chaos()
    chaos.start(fault_of({"fault": "busy", "duty": 0.5}))
    busy = cpu_share(1.5)
    chaos.stop()
    assert 0.08 < busy < 0.75  # less than half a core where others want it too
    assert cpu_share() < busy / 2


def test_work_per_request_is_cpu_of_the_request(service: Running) -> None:
    before, began = time.process_time(), service.get()[2]
    service.kit.chaos.start(fault_of({"fault": "cpu_work", "ms": 60}))
    assert service.get()[2] > began + 0.03
    assert time.process_time() - before > 0.06


def memory_bytes() -> int:
    """What this process holds."""
    found = usage(os.getpid())
    assert found is not None
    return found.memory_bytes


def test_leaked_memory_stays_and_comes_back_when_it_ends() -> None:
    chaos, before = Chaos(), memory_bytes()
    chaos.start(fault_of({"fault": "leak", "mib_per_second": 80, "most_mib": 60}))
    deadline = time.monotonic() + 10
    while memory_bytes() - before < 40 * 2**20 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert memory_bytes() - before >= 40 * 2**20
    chaos.stop()


def test_an_exit_ends_the_process_with_its_code() -> None:
    code = "import time; from rca.shop.services.chaos import *; Chaos().start(Exit(after_s=0, code=3)); time.sleep(9)"
    assert subprocess.run([sys.executable, "-c", code], timeout=30, check=False, stderr=subprocess.DEVNULL).returncode == 3


# --- calls ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def providers(tmp_path: Path) -> Iterator[Providers]:
    server = Providers(free_port())
    started(server, tmp_path / "providers")
    yield server
    server.stop()


def test_providers_are_slow_fail_and_hang_up_and_calls_are_tried_again(tmp_path: Path, providers: Providers) -> None:
    kit = kit_of(tmp_path, "payment", hosts=providers.ports, timeout_ms=400)

    def charge() -> Any:
        return kit.http.post(plan.PAYMENTS, "/v1/charges", {"amount": 5})

    assert charge()["status"] == "succeeded"
    for mode, status in (("failing", 502), ("down", 503), ("slow", 504)):
        providers.behave(plan.PAYMENTS, mode, ms=2000)  # type: ignore[arg-type]
        with pytest.raises(CalleeFailed) as failed:
            charge()
        assert failed.value.status == status
    providers.behave(plan.PAYMENTS, "failing", share=0.5)
    kit.chaos.start(fault_of({"fault": "retry", "retries": 12}))
    assert all(charge()["id"] for _ in range(5))
    providers.behave(plan.PAYMENTS, "ok")


def test_a_name_that_is_not_known_fails_before_the_call_leaves(tmp_path: Path, providers: Providers) -> None:
    kit = kit_of(tmp_path, "payment", hosts=providers.ports)
    with pytest.raises(CalleeFailed, match="Name or service not known"):
        kit.http.get("catalogue", "/products")
    (tmp_path / "hosts").write_text("")
    kit.hosts._read_at = float("-inf")
    with pytest.raises(CalleeFailed, match="Name or service not known"):
        kit_of(tmp_path, "payment").http.post(plan.PAYMENTS, "/v1/charges", {"amount": 5})


def test_a_volume_is_full_and_slow_when_its_settings_say_so(tmp_path: Path) -> None:
    volume = Volume(tmp_path, 1000)
    volume.write("a", "x" * 600)
    with pytest.raises(OSError, match="No space left on device"):
        volume.write("b", "x" * 600)
    (tmp_path / "volume.json").write_text('{"capacity_bytes": 5000, "ms_per_write": 80}')
    slow = Volume(tmp_path, 1000)
    began = time.monotonic()
    slow.write("b", "x" * 600)
    assert time.monotonic() - began > 0.08
    with (tmp_path / "volume" / "ballast").open("wb") as ballast:
        ballast.truncate(5000)
    with pytest.raises(OSError, match="No space left on device"):
        slow.write("c", "x")


# --- PostgreSQL ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    """Whoever stops it starts it again."""
    with postgres() as server:
        yield server


def seconds_of(work: Callable[[], Any]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def test_connections_held_locks_and_heavy_queries_are_felt(tmp_path: Path, database: Postgres) -> None:
    hosts = {plan.DATABASE: database.port}
    kit = kit_of(tmp_path, "inventory", hosts=hosts, connection_wait_ms=300, connections=2, statement_timeout_ms=700)

    def stock() -> Any:
        return kit.database.rows("SELECT available FROM stock WHERE product = 1")

    def order() -> None:
        with kit.database.connection() as connection:
            connection.execute("UPDATE stock SET available = available - 1 WHERE product = 1")

    assert stock() == [(1000,)]
    kit.chaos.start(fault_of({"fault": "hold_connections", "n": 2}))
    time.sleep(1.0)
    with pytest.raises(PoolTimeout):
        stock()
    kit.chaos.stop()
    time.sleep(0.3)
    assert stock() == [(1000,)]

    kit.chaos.start(fault_of({"fault": "hold_connections", "n": 4, "ms": 60}))
    time.sleep(0.3)
    assert max(seconds_of(stock) for _ in range(5)) > 0.05
    kit.chaos.stop()
    time.sleep(0.3)

    table = lock(database)
    with pytest.raises(Exception, match="statement timeout"):
        stock()
    table.end()
    rows = lock(database, rows=True)
    assert stock() == [(1000,)]
    with pytest.raises(Exception, match="statement timeout"):
        order()
    rows.end()

    slow = slow_statements(database, 120)
    assert seconds_of(order) > 0.12
    assert seconds_of(stock) < 0.1
    slow.end()
    assert seconds_of(order) < 0.1

    cpu = cpu_of(database)
    heavy = heavy_queries(database, workers=1)
    time.sleep(2)
    assert cpu_of(database) - cpu > 0.15
    heavy.end()

    hog = hog_connections(database, 12)
    deadline = time.monotonic() + 20
    with database.connect() as connection:
        count = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
        while connection.execute(count).fetchall()[0][0] <= 12:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    hog.end()
    kit.database.pool.close()


def cpu_of(server: Postgres) -> float:
    """Seconds of CPU that a server's processes used."""
    assert server.process is not None
    pid = server.process.pid
    found = usage(pid, children().get(pid, ()))
    assert found is not None
    return found.cpu_seconds


def test_a_wrong_password_or_a_database_that_is_down_is_told(tmp_path: Path, database: Postgres) -> None:
    hosts = {plan.DATABASE: database.port}
    wrong = kit_of(tmp_path, "inventory", hosts=hosts, connection_wait_ms=500, database_password="Shop")
    with pytest.raises(PoolTimeout):
        wrong.database.rows("SELECT 1")
    wrong.database.pool.close()
    right = kit_of(tmp_path, "inventory", hosts=hosts, connection_wait_ms=500)
    assert right.database.rows("SELECT 1") == [(1,)]
    database.stop()
    with pytest.raises(psycopg.OperationalError):
        right.database.rows("SELECT 1")
    database.start(database.folder, database.port)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            assert right.database.rows("SELECT count(*) FROM products") == [(400,)]
            break
        except (PoolTimeout, psycopg.OperationalError):
            time.sleep(0.2)
    else:
        raise AssertionError("the pool did not recover")
    right.database.pool.close()


# --- the queue -----------------------------------------------------------------------------------------------------------


def test_messages_pile_up_when_nobody_takes_them_or_too_slowly(tmp_path: Path) -> None:
    needs("redis-server")
    server = Redis()
    started(server, tmp_path / "order-events")
    try:
        kit = kit_of(tmp_path, "email-worker", hosts={plan.QUEUE: server.port})
        handled: list[str] = []
        producer, consumer = queue.Producer(kit), queue.Consumer(kit, lambda message: handled.append(message["order"]))
        kit.chaos.start(fault_of({"fault": "stop_consuming"}))
        consumer.start()
        for number in range(6):
            producer.send({"order": str(number)})
        time.sleep(0.4)
        assert handled == []
        kit.chaos.start(fault_of({"fault": "slow_consuming", "ms": 150}))
        kit.chaos.stop("stop_consuming")
        time.sleep(0.8)
        assert 1 <= len(handled) < 6
        assert server.length(plan.QUEUE) > 0
        kit.chaos.stop()
        deadline = time.monotonic() + 5
        while server.length(plan.QUEUE) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert sorted(handled) == [str(number) for number in range(6)]
        server.flush()
        time.sleep(0.2)
        producer.send({"order": "after"})  # the group is gone with the stream and is made again
        deadline = time.monotonic() + 8
        while "after" not in handled and time.monotonic() < deadline:
            time.sleep(0.05)
        assert "after" in handled
        kit.chaos.start(fault_of({"fault": "stop_consuming"}))
    finally:
        server.stop()


def test_a_bad_release_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "release.json").write_text('{"version": "1.0.1", "configuration": {"timeout_ms": "soon"}}')
    environment = {
        **os.environ,
        "POD_NAME": "cart-1",
        "NODE_NAME": "node-a",
        "SHOP_POD_DIR": str(tmp_path),
        "SHOP_PORT": "1",
        "SHOP_ADMIN_PORT": "2",
    }
    with pytest.raises(BadInput, match="timeout_ms"):
        Pod.from_environment("cart", environment)
    (tmp_path / "release.json").unlink()
    assert Pod.from_environment("cart", environment).release.version == "1.0.0"
    with pytest.raises(BadInput, match="NODE_NAME"):
        Pod.from_environment("cart", {"POD_NAME": "cart-1"})
    with pytest.raises(BadInput, match="cart"):
        Pod.from_environment("carts", environment)
