"""Nezha data set (Yu et al., ESEC/FSE 2023): spans, logs and metrics of Online Boutique and Train Ticket.

Layout: `rca_data/<day>/{trace,log,metric}/...csv[.gz]` and labels in `incidents.csv` or `rca_data/<day>/<day>-fault_list.json`.
A day is read once and cut into its incidents.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import polars as pl

from rca.collectors.files.intervals import common, merged, rows_within, without
from rca.collectors.files.reading import DEFAULTS, Progress, ReadOptions, quiet
from rca.collectors.files.tables import existing, matching, numbers, read_csv, read_json
from rca.collectors.files.templates import count, mine, severity
from rca.errors import BadTelemetry
from rca.incidents.incident import BaselineModel, EntityModel, Incident, IntervalModel, Label
from rca.telemetry import MINUTE_NS, SECOND_NS, Gap, Interval, Telemetry, conform, empty

WINDOW_NS: Final = 3 * MINUTE_NS
_FAULT_LASTS_NS: Final = 5 * MINUTE_NS  # CPU stays high for 3 to 6 minutes; no end is given
_CONTAMINATED_NS: Final = 140 * SECOND_NS  # symptoms appear this long before the label
_LEAD_NS, _TAIL_NS = 5 * MINUTE_NS, 10 * MINUTE_NS  # of a day, before its first and after its last injection
_MARGIN_NS: Final = 3 * MINUTE_NS  # kept around the window so that it can be moved
_METRIC_REACH_NS: Final = 180 * MINUTE_NS
_SHORTEST_GAP_NS: Final = 10 * SECOND_NS  # quiet for less than this is no gap in the recording
_SHORTEST_BASELINE_NS: Final = 10 * SECOND_NS

_SPAN_COLUMNS: Final = (
    "TraceID",
    "SpanID",
    "ParentID",
    "PodName",
    "OperationName",
    "StartTimeUnixNano",
    "EndTimeUnixNano",
)
_LOG_COLUMNS: Final = ("Timestamp", "PodName", "TraceID", "SpanID", "Log")

_POD_METRICS: Final[dict[str, tuple[str, float]]] = {
    "CpuUsage(m)": ("container.cpu.usage", 1e-3),
    "CpuUsageRate(%)": ("container.cpu.utilization", 1e-2),
    "MemoryUsage(Mi)": ("container.memory.usage", 2.0**20),
    "MemoryUsageRate(%)": ("container.memory.utilization", 1e-2),
    "SyscallRead": ("process.syscall.read", 1.0),
    "SyscallWrite": ("process.syscall.write", 1.0),
    "NetworkReceiveBytes": ("container.network.receive", 1.0),
    "NetworkTransmitBytes": ("container.network.transmit", 1.0),
    **{
        f"Pod{side}LatencyP{p}(s)": (f"{side.lower()}.request.duration.p{p}", 1.0)
        for side in ("Client", "Server")
        for p in (90, 95, 99)
    },
    "PodWorkload(Ops)": ("server.request.rate", 1.0),
    "PodSuccessRate(%)": ("server.request.success_ratio", 1e-2),
}
_ENTRY_METRICS: Final[dict[str, tuple[str, float]]] = {
    "SuccessRate(%)": ("server.request.success_ratio", 1e-2),
    **{f"LatencyP{p}(s)": (f"server.request.duration.p{p}", 1.0) for p in (50, 90, 95, 99)},
}
_EDGE_FILES: Final = {"source_50.csv": "call.client.duration.p50", "destination_50.csv": "call.server.duration.p50"}


@dataclass(frozen=True)
class _Injection:
    incident_id: str
    system: str
    day: str
    pod: str
    fault_kind: str
    at_ns: int
    minutes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Day:
    """All telemetry of one day, every frame sorted by time. `lines` are single log lines with their template."""

    spans: pl.DataFrame
    lines: pl.DataFrame
    metrics: pl.DataFrame
    calls: pl.DataFrame
    topology: pl.DataFrame
    recorded: tuple[Interval, ...]  # when spans were recorded: some minutes around every injection
    gaps: tuple[Gap, ...]


def read(path: Path, options: ReadOptions = DEFAULTS, progress: Progress = quiet) -> Iterator[tuple[Incident, Telemetry]]:
    """Incidents in order of injection, day by day. Raises BadTelemetry."""
    days = _injections(path)
    total, done = sum(len(injections) for injections in days.values()), 0
    for day, injections in days.items():
        progress(done, total, f"reading {injections[0].system} {day}")
        telemetry = _read_day(path, day, injections)
        for injection in injections:
            progress(done, total, injection.incident_id)
            yield _cut(telemetry, injection, injections, options)
            done += 1
    progress(done, total, "done")


# Labels


def _injections(path: Path) -> dict[str, list[_Injection]]:
    table = existing(path, "incidents.csv")
    found = _from_table(table) if table else _from_fault_lists(path)
    if not found:
        raise BadTelemetry(str(path), expected="incidents.csv or rca_data/<day>/<day>-fault_list.json", found="neither")
    days: dict[str, list[_Injection]] = {}
    for injection in sorted(found, key=lambda injection: injection.at_ns):
        days.setdefault(injection.day, []).append(injection)
    return days


def _from_table(table: Path) -> list[_Injection]:
    columns = ("incident_id", "system", "day", "pod", "fault_type", "inject_time_utc")
    frame = read_csv(table)
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise BadTelemetry(str(table), expected=f"columns {', '.join(missing)}", found=f"columns {', '.join(frame.columns)}")
    return [
        _Injection(
            row["incident_id"],
            row["system"],
            row["day"],
            row["pod"],
            row["fault_type"],
            _utc_ns(row["inject_time_utc"], str(table)),
            tuple((row.get("minute_files") or "").split()),
        )
        for row in frame.iter_rows(named=True)
    ]


def _from_fault_lists(path: Path) -> list[_Injection]:
    """Labels as upstream publishes them. `inject_time` is UTC; `inject_timestamp` is wrong for many rows."""
    injections = []
    for fault_list in sorted(path.glob("rca_data/*/*-fault_list.json")):
        day = fault_list.parent.name
        try:
            rows = [row for hour in read_json(fault_list).values() for row in hour]
            faults = sorted((_utc_ns(row["inject_time"], str(fault_list)), row["inject_pod"], row["inject_type"]) for row in rows)
        except (KeyError, TypeError, AttributeError) as error:
            raise BadTelemetry(
                str(fault_list), expected="hours with inject_time, inject_pod and inject_type", found=repr(error)
            ) from error
        system = "trainticket" if faults and faults[0][1].startswith("ts-") else "onlineboutique"
        injections += [
            _Injection(f"{system}-{day}-{i:02d}", system, day, pod, fault_type, at_ns)
            for i, (at_ns, pod, fault_type) in enumerate(faults)
        ]
    return injections


def _utc_ns(text: str, where: str) -> int:
    try:
        return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * SECOND_NS
    except (ValueError, TypeError) as error:
        raise BadTelemetry(where, expected="an injection time like 2022-08-22 03:53:54", found=repr(text)) from error


def _service(pod: pl.Expr) -> pl.Expr:
    return pod.str.replace(r"-[^-]+-[^-]+$", "")


def _service_of(pod: str) -> str:
    return pod.rsplit("-", 2)[0]


# One day


def _read_day(path: Path, day: str, injections: Sequence[_Injection]) -> _Day:
    folder = path / "rca_data" / day
    if not folder.is_dir():
        raise BadTelemetry(str(folder), expected="a folder with the telemetry of that day", found="nothing")
    folders = (folder, path / "construct_data" / day)  # the latter holds a fault-free minute
    gaps: list[Gap] = []
    spans, minutes, recorded = _read_spans(
        [file for f in folders for file in matching(f / "trace", "_trace.csv").items()], day, gaps
    )
    log_files = {key: file for f in folders for key, file in matching(f / "log", "_log.csv").items()}
    lines = _read_lines(list(log_files.values()), spans, gaps)
    listed = set(matching(folder / "traceid", "_traceid.csv")) | {m for injection in injections for m in injection.minutes}
    gaps += _missing_minutes("spans", day, listed - set(minutes), minutes)
    gaps += _missing_minutes("logs", day, listed - set(log_files), minutes)
    metrics, pods = _read_metrics(folder / "metric", gaps)
    services = {_service_of(pod) for pod in pods}
    calls, edges = _read_edges(folder / "metric", services, gaps)
    topology = _topology(pods, edges | _dependencies(folder / "metric", services))
    return _Day(spans, lines, metrics, calls, topology, tuple(recorded), tuple(gaps))


def _read_spans(
    files: Sequence[tuple[str, Path]], day: str, gaps: list[Gap]
) -> tuple[pl.DataFrame, dict[str, int], list[Interval]]:
    """Spans without repeats, sorted by start; how far the first root span of each file is from its name; what files cover."""
    parts, offsets, recorded = [empty("spans")], {}, []
    for minute, file in files:
        part = _spans_of(read_csv(file, _SPAN_COLUMNS), file)
        roots = part.filter(pl.col("parent_span_id").is_null())["start_time_unix_nano"]
        first, last = roots.min(), roots.max()
        if isinstance(first, int) and isinstance(last, int):
            offsets[minute] = first - _minute_ns(day, minute)
            recorded.append(Interval(first, last + _SHORTEST_GAP_NS))
        else:
            offsets[minute] = 0
        parts.append(part)
    spans = pl.concat(parts).unique(["trace_id", "span_id"], keep="first", maintain_order=True)
    forward = spans.filter(pl.col("end_time_unix_nano") >= pl.col("start_time_unix_nano"))
    if len(forward) < len(spans):
        gaps.append(Gap("spans", f"{len(spans) - len(forward)} spans end before they start and were skipped"))
    return forward.sort("start_time_unix_nano", maintain_order=True), offsets, merged(recorded)


def _spans_of(frame: pl.DataFrame, file: Path) -> pl.DataFrame:
    times = [pl.col(column).cast(pl.Int64, strict=False) for column in ("StartTimeUnixNano", "EndTimeUnixNano")]
    parent = pl.col("ParentID")
    return conform(
        "spans",
        frame.with_columns(times).select(
            pl.col("TraceID").alias("trace_id"),
            pl.col("SpanID").alias("span_id"),
            pl.when(parent != "root").then(parent).alias("parent_span_id"),
            pl.col("OperationName").fill_null("").alias("name"),
            pl.lit(0).alias("kind"),
            pl.col("StartTimeUnixNano").alias("start_time_unix_nano"),
            pl.col("EndTimeUnixNano").alias("end_time_unix_nano"),
            pl.lit(0).alias("status_code"),
            _service(pl.col("PodName")).alias("service.name"),
            pl.col("PodName").alias("k8s.pod.name"),
        ),
        str(file),
    )


def _minute_ns(day: str, minute: str) -> int:
    """What a file name such as `03_54` says, for comparison with what the file holds."""
    try:
        return int(datetime.strptime(f"{day} {minute}", "%Y-%m-%d %H_%M").replace(tzinfo=UTC).timestamp()) * SECOND_NS
    except ValueError as error:
        raise BadTelemetry(f"day {day}", expected="file names that start with HH_MM", found=minute) from error


def _missing_minutes(source: str, day: str, missing: set[str], offsets: dict[str, int]) -> list[Gap]:
    """Gaps of listed minutes without a file; a name is shifted by how far the present files' names are off."""
    if not missing:
        return []
    if not offsets:
        return [Gap(source, f"{len(missing)} minute files are absent")]
    offset = sorted(offsets.values())[len(offsets) // 2]
    minutes = [_minute_ns(day, minute) + offset for minute in missing]
    intervals = merged(Interval(start, start + MINUTE_NS) for start in minutes)
    return [Gap(source, "minute file absent", interval) for interval in intervals]


def _read_lines(files: Sequence[Path], spans: pl.DataFrame, gaps: list[Gap]) -> pl.DataFrame:
    raw = [read_csv(file, _LOG_COLUMNS) for file in files]
    rows = pl.concat([pl.DataFrame(schema={column: pl.String() for column in _LOG_COLUMNS}), *raw])
    rows = rows.unique(maintain_order=True).with_columns(
        time_unix_nano=_timestamp_ns(pl.col("Timestamp")), line=pl.col("Log").str.json_path_match("$.log")
    )
    whole = rows.filter(pl.col("time_unix_nano").is_not_null() & pl.col("line").is_not_null() & pl.col("PodName").is_not_null())
    if len(whole) < len(rows):
        gaps.append(Gap("logs", f"{len(rows) - len(whole)} garbled log rows were skipped"))
    whole = _parts_of_line(whole.sort("time_unix_nano", maintain_order=True))
    operations = spans.select("trace_id", "span_id", operation="name")
    ids = {"left_on": ["TraceID", "SpanID"], "right_on": ["trace_id", "span_id"]}
    whole = whole.join(operations, **ids, how="left", maintain_order="left")  # type: ignore[arg-type]
    return mine(whole).select("time_unix_nano", "group", "operation", "severity", "template")


def _timestamp_ns(text: pl.Expr) -> pl.Expr:
    """`2023-01-29T08:42:22.383150913Z`, with any number of decimals and with or without Z."""
    seconds = text.str.slice(0, 19).str.to_datetime("%Y-%m-%dT%H:%M:%S", strict=False, time_unit="ns").dt.epoch("ns")
    fraction = text.str.extract(r"\.(\d{1,9})").str.pad_end(9, "0").cast(pl.Int64, strict=False)
    return seconds + fraction.fill_null(0)


def _parts_of_line(rows: pl.DataFrame) -> pl.DataFrame:
    """Add group (service), severity, source (`logger#line`) and text, from JSON lines and from `clock LEVEL source#line text`."""
    structured = pl.col("line").str.starts_with("{")
    rows = rows.with_columns(
        message=pl.when(structured).then(pl.col("line").str.json_path_match("$.message")),
        stated=pl.when(structured).then(pl.col("line").str.json_path_match("$.severity")),
    )
    prefix = r"^\d{2}:\d{2}:\d{2}[.,]\d+ +([A-Z]+) +"
    plain = pl.col("line").str.replace(prefix, "")
    rows = rows.with_columns(
        text=pl.coalesce("message", plain).str.replace(r"TraceID: *\S* +SpanID: *\S* *", "").str.strip_chars(),
        stated=pl.coalesce("stated", pl.col("line").str.extract(prefix)),
    )
    source = pl.when(~structured).then(pl.col("text").str.extract(r"^(\S+#\d+)(?: |$)"))
    return rows.with_columns(
        group=_service(pl.col("PodName")),
        severity=severity(pl.col("stated"), pl.col("text")),
        source=source,
        text=pl.when(source.is_not_null()).then(pl.col("text").str.replace(r"^\S+ *", "")).otherwise("text"),
    )


def _read_metrics(folder: Path, gaps: list[Gap]) -> tuple[pl.DataFrame, list[str]]:
    """Metrics of pods and of the entry point, sorted by time, and the names of the pods."""
    parts = [empty("metrics")]
    files = matching(folder, "_metric.csv")
    if not files:
        gaps.append(Gap("metrics", "no metric files"))
    for pod, file in files.items():
        parts.append(_series(file, "Time", _POD_METRICS, "pod", pod))
    entry = existing(folder, "front_service.csv")
    services = {_service_of(pod) for pod in files}
    if entry:
        name = (read_csv(entry, ["ServiceName"])["ServiceName"].drop_nulls().to_list() or [""])[0].lower()
        if name in services:  # Train Ticket's is called Frontend, which is none of its services
            parts.append(_series(entry, "Time", _ENTRY_METRICS, "service", name))
    return pl.concat(parts).sort("time_unix_nano", maintain_order=True), list(files)


def _series(file: Path, time: str, metrics: dict[str, tuple[str, float]], kind: str, entity: str) -> pl.DataFrame:
    """Long form of one file's columns. Columns that never change say nothing and are dropped; NaN is missing."""
    frame = read_csv(file)
    if time not in frame.columns:
        raise BadTelemetry(str(file), expected=f"a column {time}", found=f"columns {', '.join(frame.columns)}")
    present = [column for column in metrics if column in frame.columns]
    frame = numbers(frame, present, file).with_columns(_clock_ns(pl.col(time)).alias("time_unix_nano"))
    changing = [column for column in present if frame[column].drop_nulls().n_unique() > 1]
    scaled = [(pl.col(column) * metrics[column][1]).alias(metrics[column][0]) for column in changing]
    long = frame.select("time_unix_nano", *scaled).unpivot(index="time_unix_nano", variable_name="metric").drop_nulls()
    return conform("metrics", long.with_columns(entity_kind=pl.lit(kind), entity=pl.lit(entity)), str(file))


def _clock_ns(text: pl.Expr) -> pl.Expr:
    """`2022-08-22 03:51:19.607158889 +0000 UTC m=+0.1`, to the second. The `TimeStamp` beside it is wrong for one pod."""
    return text.str.slice(0, 19).str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False, time_unit="ns").dt.epoch("ns")


def _read_edges(folder: Path, services: set[str], gaps: list[Gap]) -> tuple[pl.DataFrame, set[tuple[str, str]]]:
    """Median call latencies seen by the proxies at both ends; columns are named `caller_callee`."""
    parts, edges = [empty("calls")], set()
    for name, metric in _EDGE_FILES.items():
        file = existing(folder, name)
        if file is None:
            continue
        frame = read_csv(file)
        by_column = {column: edge for column in frame.columns if (edge := _edge(column, services))}
        unknown = [column for column in frame.columns if column not in by_column and column not in ("time", "timestamp")]
        if unknown:
            gaps.append(Gap("calls", f"{name}: {len(unknown)} columns name no known pair of services"))
        edges |= set(by_column.values())
        frame = numbers(frame, list(by_column), file).with_columns(_clock_ns(pl.col("time")).alias("time_unix_nano"))
        long = frame.unpivot(list(by_column), index="time_unix_nano", variable_name="edge").drop_nulls()
        long = long.with_columns(
            caller=pl.col("edge").replace_strict({c: e[0] for c, e in by_column.items()}, return_dtype=pl.String),
            callee=pl.col("edge").replace_strict({c: e[1] for c, e in by_column.items()}, return_dtype=pl.String),
            callee_kind=pl.lit("service"),
            metric=pl.lit(metric),
        )
        parts.append(conform("calls", long, str(file)))
    return pl.concat(parts).sort("time_unix_nano", maintain_order=True), edges


def _edge(column: str, services: set[str]) -> tuple[str, str] | None:
    cuts = [i for i, letter in enumerate(column) if letter == "_"]
    pairs = [(column[:i], column[i + 1 :]) for i in cuts]
    return next((pair for pair in pairs if pair[0] in services and pair[1] in services), None)


def _dependencies(folder: Path, services: set[str]) -> set[tuple[str, str]]:
    """Call edges of dependency.csv. Its rows from a service to an address are placements, of no use here."""
    file = existing(folder, "dependency.csv")
    if file is None:
        return set()
    pairs = read_csv(file, ["Source", "Target"]).iter_rows()
    return {(source, target) for source, target in pairs if source in services and target in services}


def _topology(pods: Sequence[str], edges: set[tuple[str, str]]) -> pl.DataFrame:
    rows = [("service", source, "calls", "service", target) for source, target in sorted(edges)]
    rows += [("service", _service_of(pod), "runs", "pod", pod) for pod in sorted(pods)]
    schema = ["source_kind", "source", "relation", "target_kind", "target"]
    return conform("topology", pl.DataFrame(rows, schema=schema, orient="row")) if rows else empty("topology")


# One incident


def _cut(day: _Day, injection: _Injection, injections: Sequence[_Injection], options: ReadOptions) -> tuple[Incident, Telemetry]:
    window = Interval(injection.at_ns, injection.at_ns + (options.window_ns or WINDOW_NS))
    baselines = _quiet_intervals(window, injections)
    if options.baseline == "past":
        baselines = [interval for interval in baselines if interval.end_ns <= window.start_ns]
    held = merged([Interval(window.start_ns - _MARGIN_NS, window.end_ns + _MARGIN_NS), *baselines])
    near = common(held, [Interval(window.start_ns - _METRIC_REACH_NS, window.end_ns + _METRIC_REACH_NS)])
    metrics = rows_within(day.metrics, "time_unix_nano", near)
    spans = rows_within(day.spans, "start_time_unix_nano", held)
    gaps = [gap for gap in day.gaps if gap.interval is None or any(gap.interval.overlaps(part) for part in [window, *baselines])]
    missing = [gap.interval for gap in day.gaps if gap.source == "spans" and gap.interval]
    uncovered = without([window], [*day.recorded, *missing])
    gaps += [Gap("spans", "not recorded", part) for part in uncovered if part.end_ns - part.start_ns >= _SHORTEST_GAP_NS]
    if not any(_any_within(frame, time, baselines) for frame, time in _timed(metrics, spans)):
        baselines = []
        gaps.append(Gap("baseline", f"no quiet telemetry {'before' if options.baseline == 'past' else 'around'} the incident"))
    telemetry = Telemetry.of(
        gaps,
        spans=spans,
        metrics=metrics,
        logs=count(rows_within(day.lines, "time_unix_nano", held), window.start_ns),
        calls=rows_within(day.calls, "time_unix_nano", near),
        topology=day.topology,
    )
    return _incident(injection, window, baselines), telemetry


def _timed(metrics: pl.DataFrame, spans: pl.DataFrame) -> tuple[tuple[pl.DataFrame, str], ...]:
    return ((metrics, "time_unix_nano"), (spans, "start_time_unix_nano"))


def _any_within(frame: pl.DataFrame, time: str, intervals: Sequence[Interval]) -> bool:
    return not rows_within(frame, time, intervals).is_empty()


def _quiet_intervals(window: Interval, injections: Sequence[_Injection]) -> list[Interval]:
    """Stretches of the day outside every fault and outside this incident's own contaminated lead."""
    times = [injection.at_ns for injection in injections]
    day = Interval(min(times) - _LEAD_NS, max(times) + _TAIL_NS)
    faults = [Interval(at_ns, at_ns + _FAULT_LASTS_NS) for at_ns in times]
    own = Interval(window.start_ns - _CONTAMINATED_NS, window.end_ns)
    return [i for i in without([day], [*faults, own]) if i.end_ns - i.start_ns >= _SHORTEST_BASELINE_NS]


def _incident(injection: _Injection, window: Interval, baselines: Sequence[Interval]) -> Incident:
    service = _service_of(injection.pod)
    return Incident(
        id=injection.incident_id,
        system=injection.system,
        window=IntervalModel(start_ns=window.start_ns, end_ns=window.end_ns),
        onset_ns=window.start_ns,
        detected_ns=window.end_ns,
        baselines=tuple(BaselineModel(start_ns=i.start_ns, end_ns=i.end_ns, provenance="reference") for i in baselines),
        labels=(
            Label(
                entity=EntityModel(kind="service", name=service),
                fault_kind=injection.fault_kind,
                provenance="injected",
                author="nezha",
                at_ns=injection.at_ns,
            ),
        ),
        source="nezha",
        title=f"{injection.system}, {datetime.fromtimestamp(injection.at_ns / SECOND_NS, UTC):%Y-%m-%d %H:%M:%S} UTC",
    )
