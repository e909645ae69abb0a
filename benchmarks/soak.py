"""A steady stream into a real `rca collect` for minutes: is memory flat, and has every span one fate?

    python -m benchmarks.soak [--seconds 600] [--rate 10000] [--json OUT]

Real exporter-shaped requests (benchmarks.exporters) go over gRPC. One request in 200 is sent twice, as a sender does that saw no
answer, and one in 500 comes after its traces were closed. Exits with 1 if a span is unaccounted for.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, cast

import grpc
import numpy as np
import polars as pl
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from benchmarks.exporters import METHOD, Fleet
from rca.collectors.warm.live import LIVE
from rca.collectors.warm.state import read_state
from rca.collectors.warm.store import Store

ROOT: Final = Path(__file__).resolve().parent.parent
RESULTS: Final = ROOT / "docs" / "results" / "soak.json"
_OPERATIONS: Final = 20
_TWICE, _LATE = 200, 500
_LATE_SECONDS: Final = 20.0
_CONFIG: Final = '[otlp]\ngrpc_address = "127.0.0.1:0"\nhttp_address = ""\n'
_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, order=True)
class Shipment:
    """A request and when it is due, in seconds after the start."""

    due_s: float
    number: int
    body: bytes
    spans: int
    kind: str = "first"


def shipments(rate: float, seconds: float) -> Iterator[Shipment]:
    """Requests in the order in which they are due, made shortly before. The spans of a trace lie in ten of them."""
    fleet = Fleet()
    waiting: list[Shipment] = []
    number, due_s = 0, 0.0
    for made in range(int(seconds * rate / fleet.spans)):
        bodies = fleet.round(time.time_ns(), f"operation {made % _OPERATIONS:02}")
        for body, spans in zip(bodies, fleet.spans_each, strict=True):
            late = number % _LATE == _LATE - 1
            heapq.heappush(waiting, Shipment(due_s + _LATE_SECONDS * late, number, body, spans, "late" if late else "first"))
            if number % _TWICE == 0:
                heapq.heappush(waiting, Shipment(due_s + 1.0, number, body, spans, "again"))
            number += 1
            due_s += spans / rate
        while waiting and waiting[0].due_s < due_s:
            yield heapq.heappop(waiting)
    while waiting:
        yield heapq.heappop(waiting)


class Collector:
    """`rca collect` in a process of its own."""

    def __init__(self, home: Path) -> None:
        config = home / "rca.toml"
        config.write_text(_CONFIG, encoding="utf-8")
        command = [sys.executable, "-m", "rca", "collect", "--config", str(config), "--store", str(home)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        found = re.search(r"gRPC \S+:(\d+)", cast(IO[str], self.process.stdout).readline())
        if found is None:
            raise RuntimeError("rca collect did not start")
        self.port = int(found[1])

    def rss_mib(self) -> float:
        """Resident memory now."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def cpu_seconds(self) -> float:
        """Processor time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def end(self) -> list[str]:
        """End it in good order; what it said."""
        self.process.send_signal(signal.SIGTERM)
        said = self.process.communicate(timeout=120)[0].splitlines()
        if self.process.returncode:
            raise RuntimeError(f"rca collect ended with {self.process.returncode}: {said[-3:]}")
        return said


def soak(seconds: float, rate: float) -> dict[str, Any]:
    """Send, watch, and settle accounts."""
    with tempfile.TemporaryDirectory() as folder:
        collector = Collector(Path(folder))
        try:
            sent = _send(collector, seconds, rate)
            collector.end()
        finally:
            if collector.process.poll() is None:
                collector.process.kill()
        return {
            "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "load": round(os.getloadavg()[0], 1)},
            "seconds": round(sent.seconds, 1),
            "spans_per_second": round(sent.total / sent.seconds),
            "cpu_cores": round(sent.cpu_seconds / sent.seconds, 3),
            "memory_mib": _memory(sent.samples),
            "accounts": _accounts(Store(Path(folder) / "telemetry"), sent),
            "samples_mib": [[round(at), round(mib, 1)] for at, mib in sent.samples[:: max(1, len(sent.samples) // 60)]],
        }


@dataclass
class Sent:
    """What was sent, by kind of shipment in spans, and what the collector took for it. Samples are (s, MiB)."""

    spans: dict[str, int] = field(default_factory=lambda: {"first": 0, "again": 0, "late": 0})
    told_to_wait: int = 0
    samples: list[tuple[float, float]] = field(default_factory=list)
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def total(self) -> int:
        return sum(self.spans.values())


def _send(collector: Collector, seconds: float, rate: float) -> Sent:
    channel = grpc.insecure_channel(f"127.0.0.1:{collector.port}")
    export = channel.unary_unary(METHOD, response_deserializer=ExportTraceServiceResponse.FromString)
    export(b"", wait_for_ready=True)
    sent = Sent()
    start, cpu = time.monotonic(), collector.cpu_seconds()
    for shipment in shipments(rate, seconds):
        time.sleep(max(0.0, start + shipment.due_s - time.monotonic()))
        while True:
            try:
                answer = export(shipment.body, timeout=30)
                break
            except grpc.RpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
                    raise
                sent.told_to_wait += 1
                time.sleep(0.5)
        if answer.partial_success.rejected_spans:
            raise AssertionError(f"rejected: {answer.partial_success.error_message}")
        sent.spans[shipment.kind] += shipment.spans
        at = time.monotonic() - start
        if not sent.samples or at - sent.samples[-1][0] >= 1:
            sent.samples.append((at, collector.rss_mib()))
    sent.seconds, sent.cpu_seconds = time.monotonic() - start, collector.cpu_seconds() - cpu
    time.sleep(15)  # until the last traces are complete
    return sent


def _memory(samples: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Means of the thirds of the time, and the slope of a straight line through the last half, MiB an hour.

    Spans are remembered for five minutes, to find duplicates: until then memory has to grow.
    """
    at, mib = np.array(samples).T
    third = at[-1] / 3
    slope = np.polyfit(at[at >= at[-1] / 2], mib[at >= at[-1] / 2], 1)[0]
    means = {name: mib[(at >= i * third) & (at <= (i + 1) * third)].mean() for i, name in enumerate(("first", "middle", "last"))}
    return {name: round(float(value), 1) for name, value in {**means, "peak": mib.max(), "slope_per_hour": slope * 3600}.items()}


def _accounts(store: Store, sent: Sent) -> dict[str, Any]:
    state = read_state(store.folder / LIVE)
    if state is None:
        raise AssertionError("nothing was stored")
    counts = state.counts
    telemetry = store.read(state.covered[0][0] - 60 * 10**9, state.at_ns + 10**9)
    stored = int(telemetry.bin_counts.filter(pl.col("what") == "span")["count"].sum())
    seconds = (state.at_ns - state.covered[0][0]) / 1e9
    size = store.shelves()[0].size_bytes
    found = {
        "sent": sent.total,
        "received": counts["received"],
        "binned": counts["binned"],
        "open": counts["open"],
        "duplicates": counts["dropped"].get("duplicate", 0),
        "late": counts["late"],
        "unpaired": counts["unpaired"],
        "in_store": stored,
        "requests_told_to_wait": sent.told_to_wait,
        "bytes_on_disk": size,
        "mib_per_day": round(size / seconds * 86_400 / 2**20, 1),
    }
    exact = (
        found["received"] == sent.total
        and found["duplicates"] == sent.spans["again"] == sum(counts["dropped"].values())
        and found["late"] == sent.spans["late"]
        and counts["binned"] + counts["open"] == stored == sent.total - sent.spans["again"]
    )
    return {**found, "exact": exact}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--rate", type=float, default=10_000.0, help="spans a second")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the figures go")
    options = parser.parse_args()
    found = soak(options.seconds, options.rate)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({name: value for name, value in found.items() if name != "samples_mib"}, indent=2))
    sys.exit(not found["accounts"]["exact"])


if __name__ == "__main__":
    main()
