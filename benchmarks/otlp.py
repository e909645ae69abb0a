"""OTLP: from the bytes of export requests to bins on one core, and through the receiver on loopback.

    python -m benchmarks.otlp decode SPANS [--repeat 5]
    python -m benchmarks.otlp loopback grpc|http SECONDS [--repeat 3]

Prints one JSON list of results. Run with POLARS_MAX_THREADS=1, as `python -m benchmarks` does. `loopback` starts a collector that
stores what it bins, in a process of its own, counts that process's CPU seconds, and checks that every span is accounted for.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from benchmarks.exporters import METHOD, Fleet
from benchmarks.result import Result
from rca.collectors.config import Config
from rca.collectors.otlp.config import OtlpConfig
from rca.collectors.otlp.decoding import Decoder
from rca.collectors.otlp.request import Receipt, Request
from rca.collectors.streaming.config import StreamConfig
from rca.collectors.streaming.stream import Stream
from rca.telemetry import SECOND_NS

_TOGETHER: Final = 16  # requests decoded at a time, as many as wait at the receiver under load
_WORKED: Final = 5  # batches between two turns of the joiner
_SENDERS: Final = 8
_TRACES: Final = 263  # a round; 19 spans each in 10 requests, which makes 500 spans a request
_BAR_DECODING, _BAR_LOOPBACK = 150_000, 60_000


def decode(count: int, repeat: int) -> list[Result]:
    """Bytes to bins: decoding, joining and summing, with the attributes of calls and with all of them."""
    fleet = Fleet(traces=_TRACES)
    now_ns = time.time_ns()
    rounds = max(1, count // fleet.spans)
    bodies = [body for _ in range(rounds) for body in fleet.round(now_ns)]
    spans = rounds * fleet.spans
    size = sum(map(len, bodies)) / spans
    workload = f"{spans:,} spans of {size:.0f} bytes with 8 attributes, {spans / len(bodies):.0f} a request, one core"
    parsed = _rates(lambda: [ExportTraceServiceRequest.FromString(body) for body in bodies], spans, repeat)
    results = []
    for read, what, bar in (("calls", "of calls", _BAR_DECODING), ("all", "of all spans", None)):
        config = OtlpConfig.model_validate({"read_attributes": read})
        taken = _rates(lambda config=config: _binned(config, bodies, now_ns, spans), spans, repeat)  # type: ignore[misc]
        rate = (statistics.median(taken), min(taken), max(taken))
        peer = ("parsing alone, opentelemetry-proto", statistics.median(parsed))
        results.append(Result(f"OTLP bytes to bins, attributes {what}", workload, "spans/s", *rate, bar, *peer))
    return results


def _rates(job: Callable[[], object], spans: int, repeat: int) -> list[float]:
    """Spans per second of CPU time."""
    job()  # warm
    rates = []
    for _ in range(repeat):
        start = time.process_time()
        job()
        rates.append(spans / (time.process_time() - start))
    return rates


def _binned(config: OtlpConfig, bodies: Sequence[bytes], now_ns: int, spans: int) -> None:
    clock = [0]
    decoder, stream = Decoder(config), Stream(StreamConfig(), clock_ns=lambda: clock[0], wall_ns=lambda: now_ns)
    for turn, at in enumerate(range(0, len(bodies), _TOGETHER), start=1):
        requests = [Request("spans", body) for body in bodies[at : at + _TOGETHER]]
        decoded = decoder.decode(requests, now_ns)
        if not all(isinstance(receipt, Receipt) and not receipt.rejected for receipt in decoded.receipts):
            raise AssertionError(decoded.receipts)
        stream.take(decoded.batch)
        if turn % _WORKED == 0:
            stream.work()
            clock[0] += SECOND_NS
    for _ in range(2):  # to take in what waits, and to close what is complete
        stream.work()
        clock[0] += StreamConfig().join_limit + SECOND_NS
    stream.work()
    if stream.counts().binned != spans:
        raise AssertionError(f"expected {spans} spans in bins, found {stream.counts()}")


def loopback(transport: str, seconds: float, repeat: int) -> list[Result]:
    """Spans a second of CPU time of the receiving process, which also joins, sums and stores them."""
    rates, walls, sent = [], [], Counter[str]()
    for _ in range(repeat):
        with tempfile.TemporaryDirectory() as folder:
            cpu_s, wall_s, spans, counted = _received(transport, seconds, Path(folder))
        rates.append(spans / cpu_s)
        walls.append(spans / wall_s)
        sent.update(counted)
    workload = (
        f"{sent['spans']:,} spans, 500 a request, {_SENDERS} senders on loopback, joined, summed and stored; "
        f"{sent['accepted']:,} taken, {sent['turned away']:,} turned away, {sent['rejected']:,} rejected, none unaccounted for"
    )
    name = {"grpc": "gRPC", "http": "HTTP"}[transport]
    bar = _BAR_LOOPBACK if transport == "grpc" else None
    peer = ("by the clock, with the senders on the same machine", statistics.median(walls))
    rate = (statistics.median(rates), min(rates), max(rates))
    return [Result(f"OTLP over {name} to bins, per core", workload, "spans/s", *rate, bar, *peer)]


def _received(transport: str, seconds: float, folder: Path) -> tuple[float, float, int, Counter[str]]:
    """CPU seconds of the receiver, seconds by the clock, spans taken, and what became of all that were sent."""
    command = [sys.executable, "-m", "benchmarks.otlp", "collect", str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as collector:
        if collector.stdin is None or collector.stdout is None:
            raise AssertionError("pipes were asked for")
        ports = json.loads(collector.stdout.readline())
        start = time.perf_counter()
        sent = _send(transport, ports[transport], seconds)
        wall_s = time.perf_counter() - start
        collector.stdin.close()
        found = json.loads(collector.stdout.readline())
    sent.update(accepted=found["accepted"], rejected=found["rejected"])
    if sent["spans"] != sent["accepted"] + sent["rejected"] + sent["turned away"] or found["binned"] != sent["accepted"]:
        raise AssertionError(f"sent {sent}, the collector says {found}")
    return found["cpu_s"], wall_s, found["accepted"], sent


def _send(transport: str, port: int, seconds: float) -> Counter[str]:
    """Send as fast as the receiver answers; a request that is turned away is counted, not sent again."""
    fleet = Fleet(traces=_TRACES)
    sent, lock, end = Counter[str](), threading.Lock(), time.monotonic() + seconds

    def send(seed: int) -> None:
        own, deliver = Counter[str](), _sender(transport, port)
        mine = fleet.another(seed)
        while time.monotonic() < end:
            for body, size in zip(mine.round(time.time_ns()), mine.spans_each, strict=True):
                own["spans"] += size
                if not deliver(body):
                    own["turned away"] += size
        with lock:
            sent.update(own)

    threads = [threading.Thread(target=send, args=(seed,)) for seed in range(_SENDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sent


def _sender(transport: str, port: int) -> Callable[[bytes], bool]:
    """A way to deliver a request, on a connection of its own: True if it was taken, False if it was turned away."""
    if transport == "http":
        connection = http.client.HTTPConnection("127.0.0.1", port)

        def post(body: bytes) -> bool:
            connection.request("POST", "/v1/traces", body, {"Content-Type": "application/x-protobuf"})
            response = connection.getresponse()
            answer = response.read()
            if response.status not in (200, 503) or (response.status == 200 and answer):
                raise AssertionError((response.status, answer))
            return response.status == 200

        return post
    import grpc

    channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)])
    call = channel.unary_unary(METHOD)

    def export(body: bytes) -> bool:
        try:
            answer = call(body, timeout=60)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                return False
            raise
        if answer:
            raise AssertionError(answer)
        return True

    return export


def collect(folder: Path) -> None:
    """The receiving process: prints its ports, collects until its input ends, bins what waits, prints what it counted."""
    from rca.collectors.collecting import Collection
    from rca.collectors.warm.store import Store

    otlp = {"grpc_address": "127.0.0.1:0", "http_address": "127.0.0.1:0"}
    config = Config.model_validate({"otlp": otlp, "stream": {"join_wait": "2s", "join_limit": "10s"}})
    stop = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        while collection.status().counts.open:
            time.sleep(0.2)
        stop.set()

    with Collection(config, Store(folder)) as collection:
        print(json.dumps({"grpc": collection.receiver.grpc_port, "http": collection.receiver.http_port}), flush=True)
        waiting = threading.Thread(target=wait)
        waiting.start()
        start = time.process_time()
        collection.run(stop)
        waiting.join()
        cpu_s = time.process_time() - start
        counts, total = collection.status().counts, collection.accounting.total
        if not counts.balanced() or not collection.accounting.balanced():
            raise AssertionError((counts, collection.accounting.rows()))
        found: dict[str, Any] = {"accepted": total("accepted", "spans"), "rejected": total("rejected", "spans")}
        print(json.dumps({**found, "binned": counts.binned, "cpu_s": cpu_s}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = parser.add_subparsers(dest="job", required=True)
    decoding, sending, collecting = (jobs.add_parser(name) for name in ("decode", "loopback", "collect"))
    decoding.add_argument("spans", type=int)
    sending.add_argument("transport", choices=("grpc", "http"))
    sending.add_argument("seconds", type=float)
    for job, repeat in ((decoding, 5), (sending, 3)):
        job.add_argument("--repeat", type=int, default=repeat)
    collecting.add_argument("folder", type=Path)
    options = parser.parse_args()
    if options.job == "collect":
        collect(options.folder)
        return
    if options.job == "decode":
        results = decode(options.spans, options.repeat)
    else:
        results = loopback(options.transport, options.seconds, options.repeat)
    print(json.dumps([asdict(result) for result in results]))


if __name__ == "__main__":
    main()
