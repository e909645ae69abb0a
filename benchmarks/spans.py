"""Spans to bins, cases and rankings: speed on one core and peak memory, beside the same join and group-by in pandas.

    python -m benchmarks.spans bins|memory|case SPANS [--repeat 5]

Prints one JSON list of results. Run with POLARS_MAX_THREADS=1, as `python -m benchmarks` does.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
from dataclasses import asdict

import numpy as np
import polars as pl

from benchmarks.result import Result, seconds_taken
from benchmarks.workload import SERVICES, incident, spans
from rca.bins import BIN_NS, BUCKET_WIDTH, OFFSET_SECONDS, bins_of
from rca.models.registry import create
from rca.pipeline import case_of
from rca.telemetry import SECOND_NS


def with_pandas(frame: object) -> tuple[int, int]:
    """What `bins_of` does for spans that call each other, in pandas: (rows of counts, rows of histograms)."""
    import pandas as pd

    spans = frame.copy(deep=False)  # type: ignore[attr-defined]
    spans["duration"] = spans["end_time_unix_nano"] - spans["start_time_unix_nano"]
    spans["bin"] = spans["start_time_unix_nano"] // BIN_NS
    up = spans[["trace_id", "span_id", "service.name", "name", "kind", "duration"]].add_prefix("parent_")
    spans = spans.merge(
        up.rename(columns={"parent_trace_id": "trace_id", "parent_span_id": "parent_span_id"}),
        on=["trace_id", "parent_span_id"],
        how="left",
    )
    paired = spans["parent_service.name"].notna()
    spans["remote"] = paired & (spans["parent_service.name"] != spans["service.name"])
    below = spans[paired].groupby(["trace_id", "parent_span_id"])
    children = below.agg(
        child_sum=("duration", "sum"), first=("start_time_unix_nano", "min"), last=("end_time_unix_nano", "max")
    ).reset_index()
    spans = spans.merge(
        children, left_on=["trace_id", "span_id"], right_on=["trace_id", "parent_span_id"], how="left", suffixes=("", "_c")
    )
    covered = np.minimum(spans["child_sum"], spans["last"] - spans["first"]).fillna(0)
    spans["self"] = (spans["duration"] - covered).clip(lower=0)
    spans["gap"] = spans["parent_duration"] - spans["duration"]
    own, edge = ["interval", "bin", "service.name", "name"], ["interval", "bin", "parent_service.name", "service.name"]
    served, remote = spans[spans["kind"] == 2], spans[spans["remote"]]
    counts = [spans.groupby(own).size(), served.groupby(own).size(), remote.groupby(edge).size()]
    counts.append(spans[paired].groupby([*edge[:3], "parent_name", "service.name", "name"]).size())
    histograms = []
    for rows, keys, column in (
        (served, own, "duration"),
        (served, own, "self"),
        (remote, edge, "parent_duration"),
        (remote, edge, "duration"),
        (remote, edge, "gap"),
    ):
        bucket = np.rint(np.log(rows[column].clip(lower=0) / SECOND_NS + OFFSET_SECONDS) / BUCKET_WIDTH).astype(int)
        histograms.append(rows.assign(bucket=bucket).groupby([*keys, "bucket"]).size())
    return sum(len(part) for part in counts), sum(len(pd.DataFrame(part)) for part in histograms)


def _marked(count: int) -> pl.DataFrame:
    return spans(count).with_columns(pl.lit(0, dtype=pl.Int16).alias("interval"))


def bins(count: int, repeat: int) -> list[Result]:
    """Spans a second on one core, and pandas beside it. Both must come to equally many rows."""
    import pandas as pd

    frame = _marked(count)
    ours = bins_of(frame)
    columns = [
        "interval",
        "trace_id",
        "span_id",
        "parent_span_id",
        "name",
        "kind",
        "start_time_unix_nano",
        "end_time_unix_nano",
        "service.name",
    ]
    table = pd.DataFrame({column: frame[column].to_list() for column in columns})
    theirs = with_pandas(table)
    if theirs != (len(ours.counts), len(ours.durations)):
        raise AssertionError(f"pandas found {theirs} rows, rca {(len(ours.counts), len(ours.durations))}")
    taken, peer = seconds_taken(lambda: bins_of(frame), repeat), seconds_taken(lambda: with_pandas(table), max(1, repeat // 2))
    rates = [len(frame) / seconds for seconds in taken]
    workload = f"{len(frame):,} spans of {SERVICES} services in 10 s bins, one core"
    return [
        Result(
            "span frames to bins",
            workload,
            "spans/s",
            statistics.median(rates),
            min(rates),
            max(rates),
            400_000,
            "pandas merge and groupby, same run",
            len(frame) / statistics.median(peer),
        )
    ]


def memory(count: int) -> list[Result]:
    """Peak resident memory of a process that makes spans and bins them."""
    frame = _marked(count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    bins_of(frame)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    workload = f"peak of the process, {len(frame):,} spans in memory"
    return [Result("memory while binning", workload, "MiB", after, after, after, None, "the same process before binning", before)]


def case(count: int, repeat: int) -> list[Result]:
    """Telemetry to case, and case to ranking, warm."""
    recorded, telemetry = incident(count)
    made = case_of(recorded, telemetry)
    ranker = create("floor")
    ranking = ranker.rank(made)
    results = []
    for what, job, bar in (
        ("telemetry to case", lambda: case_of(recorded, telemetry), 500.0),
        ("case to ranking, floor", lambda: ranker.rank(made), 50.0),
    ):
        taken = [seconds * 1e3 for seconds in seconds_taken(job, repeat)]
        workload = f"{len(ranking.candidates)} services, {len(telemetry.spans):,} spans over 23 minutes, warm, one core"
        results.append(Result(what, workload, "ms", statistics.median(taken), max(taken), min(taken), bar))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=("bins", "memory", "case"))
    parser.add_argument("spans", type=int)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    if options.job == "memory":
        results = memory(options.spans)
    else:
        results = (bins if options.job == "bins" else case)(options.spans, options.repeat)
    print(json.dumps([asdict(result) for result in results]))


if __name__ == "__main__":
    main()
