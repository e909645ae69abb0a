"""The store: bytes a service and day, how long a flush takes, and how long reading a window takes.

    python -m benchmarks.storage SPANS

Spans of 23 minutes go through the stream into the store as they would live, ten seconds a flush, with merging. Prints one JSON
list of results.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import polars as pl

from benchmarks.result import Result
from benchmarks.workload import SERVICES, START_NS, spans
from rca.bins import Bins
from rca.collectors.otlp.intake import RAW_SPANS, Batch
from rca.collectors.streaming.config import StreamConfig
from rca.collectors.streaming.stream import Stream
from rca.collectors.warm.store import Store
from rca.telemetry import BIN_FRAMES, MINUTE_NS, SECOND_NS

_STEP_NS = 10 * SECOND_NS
_LENGTH_NS = 23 * MINUTE_NS
_DAY_NS = 24 * 60 * MINUTE_NS


def stored(count: int, folder: Path) -> tuple[Store, list[float]]:
    """A store that took about `count` spans, finished and merged, and the seconds of every flush."""
    frame = spans(count)
    ids = [pl.col(name).str.decode("hex") for name in ("trace_id", "span_id", "parent_span_id")]
    frame = frame.with_columns(ids).select(pl.col(name).cast(dtype) for name, dtype in RAW_SPANS.items())
    ends = (pl.col("end_time_unix_nano") // _STEP_NS).alias("step")
    steps = frame.sort("end_time_unix_nano").with_columns(ends).partition_by("step", include_key=False)
    clock = [START_NS]
    stream = Stream(StreamConfig(), clock_ns=lambda: clock[0], wall_ns=lambda: clock[0])
    store = Store(folder, wall_ns=lambda: clock[0])
    taken = []
    with store.writer() as writer:
        for step in [*steps, *[frame.clear()] * 40]:
            clock[0] += _STEP_NS
            stream.take(Batch(spans=step))
            start = time.perf_counter()
            with stream.flushing() as flush:
                writer.append(flush)
            taken.append(time.perf_counter() - start)
            if clock[0] % MINUTE_NS == 0:
                writer.housekeep()
        clock[0] += 2 * 60 * MINUTE_NS
        writer.housekeep()
    return store, taken[: len(steps)]


def measured(count: int) -> list[Result]:
    """Results for about `count` spans."""
    with tempfile.TemporaryDirectory() as folder:
        store, flushes = stored(count, Path(folder))
        size = store.shelves()[0].size_bytes
        reads = []
        for _ in range(5):
            start = time.perf_counter()
            telemetry = store.read(START_NS, START_NS + _LENGTH_NS)
            reads.append(time.perf_counter() - start)
        interval = pl.lit(0, dtype=pl.Int16).alias("interval")
        Bins.of_frames({name: telemetry.frames()[name].with_columns(interval) for name in BIN_FRAMES})
    rate = count / (_LENGTH_NS / SECOND_NS)
    workload = f"{SERVICES} services, {rate:,.0f} spans/s, 23 minutes"
    daily = size / 2**10 * _DAY_NS / _LENGTH_NS / SERVICES
    milliseconds = [1e3 * seconds for seconds in flushes]
    read = [1e3 * seconds for seconds in reads]
    return [
        Result("disk of a service and day", f"{workload}, 10 s bins", "KiB", daily, daily, daily, None),
        Result("flush of 10 s", workload, "ms", statistics.median(milliseconds), max(milliseconds), min(milliseconds), None),
        Result("reading 23 minutes of bins", workload, "ms", statistics.median(read), max(read), min(read), None),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spans", type=int)
    options = parser.parse_args()
    print(json.dumps([asdict(result) for result in measured(options.spans)]))


if __name__ == "__main__":
    main()
