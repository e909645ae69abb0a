"""`rca collect` as a process of its own: what it takes is stored once, also when it is killed or the disk is full."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeVar, cast

import grpc
import polars as pl
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from benchmarks.exporters import METHOD, Fleet
from rca.collectors.warm.live import LIVE, LOST, STOPPED
from rca.collectors.warm.state import read_state
from rca.collectors.warm.store import Store
from rca.telemetry import SECOND_NS, Telemetry

T = TypeVar("T")
SETTINGS = """
[otlp]
grpc_address = "127.0.0.1:0"
http_address = "127.0.0.1:0"
[stream]
join_wait = "1s"
max_operations = 100000
max_open_spans = {open}
max_waiting_spans = {open}
[store]
flush_interval = "1s"
"""


class Running:
    """A collector; `lines` are what it said so far."""

    def __init__(self, home: Path, most: int = 1_000_000) -> None:
        home.mkdir(exist_ok=True)
        self.store = Store(home / "telemetry")
        config = home / "rca.toml"
        config.write_text(SETTINGS.format(open=most))
        command = [sys.executable, "-m", "rca", "collect", "--config", str(config), "--store", str(home)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        listening = self.said("listening on")
        self.port = int(re.search(r"gRPC \S+:(\d+)", listening)[1])  # type: ignore[index]

    def _read(self) -> None:
        self.lines.extend(iter(cast(IO[str], self.process.stdout).readline, ""))

    def said(self, text: str, seconds: float = 30.0) -> str:
        """The line with a text, once it is there."""
        return waited(lambda: next((line for line in self.lines if text in line), None), f"{text!r} in {self.lines}", seconds)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(timeout=30)
        self._reader.join(timeout=10)
        return code


def waited(look: Callable[[], T | None], what: str, seconds: float = 30.0) -> T:
    """What a look finds, once it finds something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {what}")


@contextmanager
def running(home: Path, most: int = 1_000_000) -> Iterator[Running]:
    collector = Running(home, most)
    try:
        yield collector
    finally:
        if collector.process.poll() is None:
            collector.process.kill()
            collector.process.wait()


class Sender:
    """Sends rounds of a small fleet; `acknowledged` has the time at which every request of a round had been answered."""

    def __init__(self) -> None:
        self.fleet = Fleet(services=3, traces=4)
        self.rounds: list[list[bytes]] = []
        self.acknowledged: dict[int, float] = {}

    def connect(self, port: int) -> None:
        channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)])
        self._export = channel.unary_unary(METHOD, response_deserializer=ExportTraceServiceResponse.FromString)

    def send(self, number: int) -> None:
        """Send a round, the first time or again. Raises grpc.RpcError."""
        if number == len(self.rounds):
            self.rounds.append(self.fleet.round(time.time_ns(), f"op-{number:09}"))
        for body in self.rounds[number]:
            self._export(body, timeout=10)
        self.acknowledged[number] = time.time()


def stored(store: Store) -> tuple[Telemetry, dict[str, int]]:
    """The last quarter of an hour, and the spans of every operation in it."""
    now_ns = time.time_ns()
    telemetry = store.read(now_ns - 900 * SECOND_NS, now_ns)
    spans = telemetry.bin_counts.filter(pl.col("what") == "span").group_by("operation").agg(pl.col("count").sum())
    return telemetry, dict(spans.iter_rows())


def test_it_ends_in_good_order_and_goes_on(tmp_path: Path) -> None:
    sender = Sender()
    with running(tmp_path) as collector:
        sender.connect(collector.port)
        for number in range(3):
            sender.send(number)
        assert collector.end() == 0
        assert "stored everything, ended" in collector.lines[-1]
        assert "received 60" in collector.lines[-2]
    with running(tmp_path) as collector:
        collector.said("going on where the last run stopped")
        sender.connect(collector.port)
        sender.send(1)  # a sender that never saw the answer
        sender.send(3)
        assert collector.end(signal.SIGINT) == 0
        assert re.search(r"received 100, binned \d+, open \d+, late 0, unpaired 0, duplicates 20", collector.lines[-2])
    telemetry, spans = stored(collector.store)
    assert spans == {f"op-{number:09}": 20 for number in range(4)}
    assert [gap.reason for gap in telemetry.gaps if gap.reason != "the collector was not running"] == []
    state = read_state(collector.store.folder / LIVE)
    assert state is not None
    assert [gap.reason for gap in state.gaps] == [STOPPED]


@pytest.mark.parametrize("moment", [2.3, 3.1])
def test_kill_9_loses_at_most_one_interval_and_counts_nothing_twice(tmp_path: Path, moment: float) -> None:
    sender = Sender()
    with running(tmp_path) as collector:
        sender.connect(collector.port)
        ended = threading.Event()

        def send() -> None:
            try:
                while not ended.is_set():
                    sender.send(len(sender.rounds))
                    time.sleep(0.01)
            except grpc.RpcError:
                pass

        thread = threading.Thread(target=send)
        thread.start()
        time.sleep(moment)
        collector.process.kill()
        killed = time.time()
        ended.set()
        thread.join()
        assert collector.process.wait() == -signal.SIGKILL
    with running(tmp_path) as collector:
        sender.connect(collector.port)
        for number in range(len(sender.rounds) - 1, len(sender.rounds) + 5):  # the one that failed, again, and new ones
            sender.send(number)
        assert collector.end() == 0
    telemetry, spans = stored(collector.store)
    gap = next(gap.interval for gap in telemetry.gaps if gap.reason == LOST)
    assert gap is not None
    lost_from = gap.start_ns / SECOND_NS
    assert lost_from <= killed <= gap.end_ns / SECOND_NS
    assert killed - lost_from < 1 + 4  # the interval, and what a busy machine takes to flush
    assert max(spans.values()) == 20
    for number, answered in sender.acknowledged.items():
        if answered < lost_from or number >= len(sender.rounds) - 6:
            assert spans[f"op-{number:09}"] == 20, (number, answered, lost_from)
    state = read_state(collector.store.folder / LIVE)
    assert state is not None
    counts = state.counts
    assert counts["received"] == counts["binned"] + counts["open"] + sum(counts["dropped"].values())
    assert sum(spans.values()) == counts["binned"] + counts["open"]


def test_a_full_disk_stops_nothing(tmp_path: Path) -> None:
    """The limit on file sizes stands for the disk: the process meets the same error in the same place."""
    sender = Sender()
    with running(tmp_path, most=1000) as collector:
        sender.connect(collector.port)
        sender.send(0)
        waited(lambda: stored(collector.store)[1], "the first round in the store")
        pid = collector.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (64, before[1]))
        for number in range(1, 20):
            sender.send(number)
        collector.said("cannot store")
        assert stored(collector.store)[1] == {"op-000000000": 20}
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
        collector.said("storing again; nothing that was taken is lost")
        sender.send(20)
        assert collector.end() == 0
    assert stored(collector.store)[1] == {f"op-{number:09}": 20 for number in range(21)}


def test_two_collectors_do_not_share_a_folder(tmp_path: Path) -> None:
    with running(tmp_path):
        command = [sys.executable, "-m", "rca", "collect", "--config", str(tmp_path / "rca.toml"), "--store", str(tmp_path)]
        second = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert second.returncode == 1
        assert "another process writes here" in second.stderr


def test_what_is_stored_is_shown(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "RCA_HOME": str(tmp_path), "PYTHONPATH": root}

    def shown(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "rca", "store", *options]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=30, check=False)

    nothing = shown()
    assert nothing.returncode == 1
    assert "nothing is stored here" in nothing.stderr
    sender = Sender()
    with running(tmp_path) as collector:
        sender.connect(collector.port)
        sender.send(0)
        waited((collector.store.folder / LIVE / "bin_counts").exists, "bins in the store")
        collector.end()
    text = shown("--config", "rca.toml").stdout
    assert re.search(r"live: [\d.]+ KiB, written last .*\n(  .*\n)*  bin_counts: ", text)
    (live,) = json.loads(shown("--json").stdout)
    assert live["counts"]["received"] == 20
    assert live["frames"]["bin_counts"]["files"] >= 1
