"""RCAEval folder layout (Pham et al.): metrics, and where recorded spans and logs, of injected faults.

Layout: `<system>/<service>_<fault>/<n>/` with `data.csv` or `simple_metrics.csv` (column `time` in seconds, then
`<service>_<metric>`), `inject_time.txt` (seconds), and maybe `traces.csv` and `logs.csv`. CSV files may be gzip-compressed. Any
folder above may be given.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from rca.collectors.files.reading import DEFAULTS, Progress, ReadOptions, quiet
from rca.collectors.files.tables import check_times, existing, numbers, read_csv
from rca.collectors.files.templates import count, mine, severity
from rca.errors import BadTelemetry
from rca.incidents.incident import BaselineModel, EntityModel, Incident, IntervalModel, Label
from rca.telemetry import MINUTE_NS, SECOND_NS, Gap, Interval, Telemetry, check_time, conform, empty

WINDOW_NS: Final = 10 * MINUTE_NS
_METRIC_FILES: Final = ("data.csv", "simple_metrics.csv")
_COLUMN: Final = re.compile(r"(.+?)_(lat(?:ency)?[-_]?\d*|[^_]+)")

_METRICS: Final = {
    "cpu": "container.cpu.usage",
    "mem": "container.memory.usage",
    "memory": "container.memory.usage",
    "diskio": "container.disk.io",
    "disk": "container.disk.io",
    "socket": "process.sockets",
    "sockets": "process.sockets",
    "load": "server.request.rate",
    "workload": "server.request.rate",
    "error": "server.request.error.rate",
    "latency": "server.request.duration.mean",
    "lat": "server.request.duration.mean",
    **{
        f"{name}{separator}{p}": f"server.request.duration.p{p}"
        for name in ("latency", "lat")
        for separator in ("-", "_")
        for p in (50, 75, 90, 95, 99)
    },
}
_FAULT_KINDS: Final = {
    "cpu": "cpu_contention",
    "mem": "memory_leak",
    "disk": "slow_io",
    "delay": "network_delay",
    "loss": "network_loss",
    "socket": "connection_pool_exhaustion",
}
_SPAN_COLUMNS: Final = ("traceID", "spanID", "parentSpanID", "serviceName", "operationName", "duration")


@dataclass(frozen=True)
class _Case:
    """One repetition of one injection."""

    folder: Path
    system: str
    service: str
    fault: str

    @property
    def incident_id(self) -> str:
        parts = (self.system, f"{self.service}_{self.fault}", self.folder.name)
        return "rcaeval-" + re.sub(r"[^A-Za-z0-9._-]", "-", "-".join(parts))


def read(path: Path, options: ReadOptions = DEFAULTS, progress: Progress = quiet) -> Iterator[tuple[Incident, Telemetry]]:
    """One incident per numbered folder, in the order of their names. Raises BadTelemetry."""
    cases = _cases(path)
    for done, case in enumerate(cases):
        progress(done, len(cases), case.incident_id)
        yield _read_case(case, options.window_ns or WINDOW_NS)
    progress(len(cases), len(cases), "done")


def _cases(path: Path) -> list[_Case]:
    found = {file.parent for name in _METRIC_FILES for file in path.rglob(f"{name}*") if file.name.removesuffix(".gz") == name}
    cases = []
    for folder in found:
        service, separator, fault = folder.resolve().parent.name.rpartition("_")
        if separator and service:
            cases.append(_Case(folder, folder.resolve().parent.parent.name, service, fault))
    if not cases:
        raise BadTelemetry(str(path), expected=f"<service>_<fault>/<n>/ with {' or '.join(_METRIC_FILES)}", found="none")
    return sorted(cases, key=lambda case: (case.system, case.service, case.fault, len(case.folder.name), case.folder.name))


def _read_case(case: _Case, window_ns: int) -> tuple[Incident, Telemetry]:
    at_ns = _inject_time(case.folder)
    gaps: list[Gap] = []
    metrics, recorded = _read_metrics(case.folder)
    spans = _read_spans(case.folder, gaps)
    logs = _read_logs(case.folder, at_ns, gaps)
    if not recorded.start_ns <= at_ns < recorded.end_ns:
        covered = f"an injection between {recorded.start_ns} and {recorded.end_ns} ns"
        raise BadTelemetry(str(case.folder), expected=covered, found=f"{at_ns}")
    before = Interval(recorded.start_ns, at_ns) if recorded.start_ns < at_ns else None
    if before is None:
        gaps.append(Gap("baseline", "the recording starts with the injection"))
    incident = _incident(case, Interval(at_ns, min(at_ns + window_ns, recorded.end_ns)), before)
    return incident, Telemetry.of(gaps, metrics=metrics, spans=spans, logs=logs)


def _inject_time(folder: Path) -> int:
    file = existing(folder, "inject_time.txt")
    text = file.read_text(errors="replace").split() if file else []
    try:
        at_ns = int(float(text[0])) * SECOND_NS
    except (IndexError, ValueError, OverflowError):
        raise BadTelemetry(f"{folder}/inject_time.txt", expected="seconds since the epoch", found=repr(text[:1])) from None
    check_time(f"{folder}/inject_time.txt", at_ns)
    return at_ns


def _read_metrics(folder: Path) -> tuple[pl.DataFrame, Interval]:
    """The `metrics` frame and the time that it covers. Columns that never change say nothing and are dropped."""
    file = next(file for name in _METRIC_FILES if (file := existing(folder, name)))
    frame = read_csv(file)
    if "time" not in frame.columns:
        raise BadTelemetry(str(file), expected="a column time", found=f"columns {', '.join(frame.columns[:12])}")
    named = {column: match.groups() for column in frame.columns if column != "time" and (match := _COLUMN.fullmatch(column))}
    frame = numbers(frame, ["time", *named], file).drop_nulls("time")
    if frame.is_empty():
        raise BadTelemetry(str(file), expected="rows", found="none")
    check_times(frame["time"], SECOND_NS, f"{file}, column time")
    frame = frame.with_columns((pl.col("time") * SECOND_NS).cast(pl.Int64).alias("time_unix_nano")).sort("time_unix_nano")
    times = frame["time_unix_nano"]
    changing = [column for column in named if frame[column].drop_nulls().n_unique() > 1]
    names = pl.DataFrame(
        [(column, named[column][0], _METRICS.get(named[column][1], named[column][1])) for column in changing],
        schema={"column": pl.String, "entity": pl.String, "metric": pl.String},
        orient="row",
    )
    long = frame.unpivot(changing, index="time_unix_nano", variable_name="column").drop_nulls("value")
    long = long.join(names, on="column", how="left", maintain_order="left").with_columns(entity_kind=pl.lit("service"))
    metrics = conform("metrics", long, str(file)).sort("time_unix_nano", maintain_order=True)
    return metrics, Interval(int(times[0]), int(times[-1]) + SECOND_NS)


def _read_spans(folder: Path, gaps: list[Gap]) -> pl.DataFrame:
    file = existing(folder, "traces.csv")
    if file is None:
        gaps.append(Gap("spans", "no traces.csv"))
        return empty("spans")
    frame = read_csv(file)
    missing = [column for column in _SPAN_COLUMNS if column not in frame.columns]
    if missing:
        raise BadTelemetry(str(file), expected=f"columns {', '.join(missing)}", found=f"columns {', '.join(frame.columns)}")
    optional = [column for column in ("startTime", "startTimeMillis", "methodName", "statusCode") if column in frame.columns]
    frame = frame.select(*_SPAN_COLUMNS, *optional)
    frame = frame.with_columns(
        pl.lit(None, dtype=pl.String).alias(column)
        for column in ("startTime", "startTimeMillis", "methodName", "statusCode")
        if column not in optional
    )
    frame = numbers(frame, ["startTime", "startTimeMillis", "duration"], file)
    for column, unit_ns in (("startTime", 1000), ("startTimeMillis", 10**6)):
        check_times(frame.drop_nulls(["traceID", "spanID", "serviceName"])[column], unit_ns, f"{file}, column {column}")
    start_us = pl.coalesce("startTime", pl.col("startTimeMillis") * 1000)
    status = pl.col("statusCode").cast(pl.Float64, strict=False).cast(pl.Int32)
    parent = pl.col("parentSpanID")
    frame = frame.with_columns(
        start=(start_us * 1000).cast(pl.Int64, strict=False), length=(pl.col("duration") * 1000).cast(pl.Int64, strict=False)
    )
    spans = frame.select(
        pl.col("traceID").alias("trace_id"),
        pl.col("spanID").alias("span_id"),
        pl.when(~parent.is_in(["", "0", "nan", "None"])).then(parent).alias("parent_span_id"),
        pl.coalesce("operationName", "methodName").fill_null("").alias("name"),
        pl.lit(0).alias("kind"),
        pl.col("start").alias("start_time_unix_nano"),
        (pl.col("start") + pl.col("length")).alias("end_time_unix_nano"),
        _span_status(status).alias("status_code"),
        pl.col("serviceName").alias("service.name"),
        pl.when(status >= 100).then(status).alias("http.response.status_code"),
    )
    whole = spans.drop_nulls(["trace_id", "span_id", "start_time_unix_nano", "end_time_unix_nano", "service.name"])
    if len(whole) < len(spans):
        gaps.append(Gap("spans", f"{len(spans) - len(whole)} spans without id, time or service were skipped"))
    whole = whole.unique(["trace_id", "span_id"], keep="first", maintain_order=True)
    return conform("spans", whole, str(file)).sort("start_time_unix_nano", maintain_order=True)


def _span_status(status: pl.Expr) -> pl.Expr:
    """Upstream's code is gRPC's (0 to 16) or HTTP's: an error is a gRPC code other than 0 or an HTTP code from 400."""
    failed = status.is_between(1, 16) | (status >= 400)
    return pl.when(failed).then(2).otherwise(0)


def _read_logs(folder: Path, at_ns: int, gaps: list[Gap]) -> pl.DataFrame:
    file = existing(folder, "logs.csv")
    if file is None:
        gaps.append(Gap("logs", "no logs.csv"))
        return empty("logs")
    frame = read_csv(file)
    time, unit = ("timestamp", 1) if "timestamp" in frame.columns else ("time", SECOND_NS)
    missing = [column for column in (time, "container_name", "message") if column not in frame.columns]
    if missing:
        raise BadTelemetry(str(file), expected=f"columns {', '.join(missing)}", found=f"columns {', '.join(frame.columns)}")
    stated = pl.col("level") if "level" in frame.columns else pl.lit(None, dtype=pl.String)
    digits = pl.col(time).str.strip_chars().str.extract(r"^(\d+)(?:\.\d*)?$").cast(pl.Int64, strict=False)
    check_times(frame.select(digits).to_series(), unit, f"{file}, column {time}")
    lines = frame.select(
        time_unix_nano=digits * unit,
        group=pl.col("container_name"),
        operation=pl.lit(None, dtype=pl.String),
        severity=severity(stated, pl.col("message")),
        source=pl.lit(None, dtype=pl.String),
        text=pl.col("message").str.strip_chars(),
    )
    whole = lines.drop_nulls(["time_unix_nano", "group", "text"]).sort("time_unix_nano", maintain_order=True)
    if len(whole) < len(lines):
        gaps.append(Gap("logs", f"{len(lines) - len(whole)} log rows without time, container or message were skipped"))
    return conform("logs", count(mine(whole), at_ns), str(file))


def _incident(case: _Case, window: Interval, before: Interval | None) -> Incident:
    fault_kind = _FAULT_KINDS.get(case.fault, "unknown")
    label = Label(
        entity=EntityModel(name=case.service),
        fault_kind=fault_kind,
        provenance="injected",
        author="rcaeval",
        at_ns=window.start_ns,
        note=f"upstream: {case.fault}" if fault_kind == "unknown" else "",
    )
    return Incident(
        id=case.incident_id,
        system=case.system,
        window=IntervalModel(start_ns=window.start_ns, end_ns=window.end_ns),
        onset_ns=window.start_ns,
        baselines=(BaselineModel(start_ns=before.start_ns, end_ns=before.end_ns, provenance="preceding"),) if before else (),
        labels=(label,),
        source="rcaeval",
        title=f"{case.system}, repetition {case.folder.name}",
    )
