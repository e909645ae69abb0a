"""PetShop data set (Hardt et al., 2023): 5-minute metrics and a call graph of a shop on AWS.

Layout: `dataset/<scenario>/graph.csv`, `noissue/metrics.csv[.gz]` and `{train,test}/issue_<n>/{metrics.csv,target.json}`. The
folder `petshop`, its `dataset` or one scenario may be given.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl

from rca.collectors.files.reading import DEFAULTS, Progress, ReadOptions, quiet
from rca.collectors.files.tables import check_times, numbers, read_csv, read_json, required
from rca.errors import BadTelemetry
from rca.incidents.incident import BaselineModel, EntityModel, Incident, IntervalModel, Label
from rca.telemetry import SECOND_NS, EntityKind, Gap, Interval, Telemetry, conform, empty

_PERIOD_S: Final = 300
_METRICS: Final[dict[tuple[str, str], tuple[str, float]]] = {
    ("latency", "Average"): ("server.request.duration.mean", 1.0),
    **{("latency", p): (f"server.request.duration.{p}", 1.0) for p in ("p50", "p90", "p95", "p99")},
    ("availability", "Average"): ("server.request.success_ratio", 1e-2),
    ("requests", "Sum"): ("server.request.rate", 1 / _PERIOD_S),
}
_RELATIONS: Final[dict[EntityKind, str]] = {
    "service": "calls",
    "database": "queries",
    "queue": "publishes",
    "external": "requests",
}
_DATABASES: Final = ("dynamodb", "database::sql", "pgsql", "rds::")
_FAULT_KINDS: Final = ("latency", "availability")


@dataclass(frozen=True)
class _Graph:
    """Call graph of a scenario: kind of every node, and the edges."""

    kinds: dict[str, EntityKind]
    topology: pl.DataFrame

    def entity(self, node: str) -> EntityModel:
        return EntityModel(kind=self.kinds.get(node) or _kind(node, calls=False), name=node)


def read(path: Path, options: ReadOptions = DEFAULTS, progress: Progress = quiet) -> Iterator[tuple[Incident, Telemetry]]:  # noqa: ARG001
    """One incident per `issue_<n>`, scenario by scenario. Raises BadTelemetry."""
    issues = {scenario: _issues(scenario) for scenario in _scenarios(path)}
    total, done = sum(map(len, issues.values())), 0
    for scenario, folders in issues.items():
        progress(done, total, f"reading {scenario.name}")
        graph = _read_graph(required(scenario, "graph.csv"))
        normal, gaps = _read_metrics(required(scenario / "noissue", "metrics.csv"), graph)
        for folder in folders:
            progress(done, total, f"{scenario.name} {folder.name}")
            yield _read_issue(folder, scenario.name, graph, normal, gaps)
            done += 1
    progress(done, total, "done")


def _scenarios(path: Path) -> list[Path]:
    for root in (path, path / "dataset"):
        found = sorted({file.parent for pattern in ("graph.csv*", "*/graph.csv*") for file in root.glob(pattern)})
        if found:
            return found
    raise BadTelemetry(str(path), expected="dataset/<scenario>/graph.csv", found="none")


def _issues(scenario: Path) -> list[Path]:
    folders = [folder for folder in scenario.glob("*/issue_*") if folder.is_dir()]
    return sorted(folders, key=lambda folder: (folder.parent.name, len(folder.name), folder.name))


def _kind(node: str, *, calls: bool) -> EntityKind:
    """Kind of a node by its name. Whatever calls others is a service, so that its edges have a meaning."""
    name = node.lower()
    if calls:
        return "service"
    if any(word in name for word in _DATABASES):
        return "database"
    if "sqs" in name:
        return "queue"
    if "aws::" in name or name.endswith("_remote"):
        return "external"
    return "service"


def _read_graph(file: Path) -> _Graph:
    frame = read_csv(file)
    nodes = frame.columns[1:]
    values = numbers(frame, nodes, file)
    edges = [
        (caller, callee)
        for caller, row in zip(values[values.columns[0]], values.select(nodes).iter_rows(), strict=True)
        for callee, value in zip(nodes, row, strict=True)
        if value and caller != callee
    ]
    unknown = sorted({caller for caller, _ in edges} - set(nodes))
    if unknown:
        raise BadTelemetry(str(file), expected="the same nodes in rows and columns", found=f"row {unknown[0]!r}")
    callers = {caller for caller, _ in edges}
    kinds = {node: _kind(node, calls=node in callers) for node in nodes}
    rows = [("service", caller, _RELATIONS[kinds[callee]], kinds[callee], callee) for caller, callee in edges]
    schema = ["source_kind", "source", "relation", "target_kind", "target"]
    topology = pl.DataFrame(rows, schema=schema, orient="row") if rows else empty("topology")
    return _Graph(kinds, conform("topology", topology, str(file)))


def _read_metrics(file: Path, graph: _Graph) -> tuple[pl.DataFrame, list[Gap]]:
    """The `metrics` frame of one file. Its three header rows name node, metric and statistic of every column."""
    frame = read_csv(file, header=False)
    if frame.height < 4:
        raise BadTelemetry(str(file), expected="three header rows, an index name and rows", found=f"{frame.height} rows")
    head, body = frame.head(3), frame.slice(4)
    keys = {column: tuple(head[column].fill_null("").to_list()) for column in frame.columns[1:]}
    known = {column: key for column, key in keys.items() if key[1:] in _METRICS}
    if not known:
        raise BadTelemetry(
            str(file), expected="columns of latency, availability and requests", found=str(list(keys.values())[:2])
        )
    gaps = [Gap("metrics", f"{len(keys) - len(known)} columns of unknown metrics")] if len(known) < len(keys) else []
    time = frame.columns[0]
    values = numbers(body, [time, *known], file)
    if values[time].null_count():
        raise BadTelemetry(str(file), expected="a unix_timestamp in every row", found="an empty one")
    check_times(values[time], SECOND_NS, f"{file}, unix_timestamp")
    columns = pl.DataFrame(
        [(column, *_named(key, graph)) for column, key in known.items()],
        schema={"column": pl.String, "entity_kind": pl.String, "entity": pl.String, "metric": pl.String, "factor": pl.Float64},
        orient="row",
    )
    long = (
        values.unpivot(list(known), index=time, variable_name="column")
        .drop_nulls("value")
        .join(columns, on="column", how="left", maintain_order="left")
        .with_columns(
            time_unix_nano=pl.col(time).cast(pl.Int64) * SECOND_NS,
            value=pl.col("value") * pl.col("factor"),
        )
    )
    return conform("metrics", long, str(file)).sort("time_unix_nano", maintain_order=True), gaps


def _named(key: tuple[str, ...], graph: _Graph) -> tuple[str, str, str, float]:
    node, metric, statistic = key
    name, factor = _METRICS[metric, statistic]
    return graph.entity(node).kind, node, name, factor


def _read_issue(folder: Path, scenario: str, graph: _Graph, normal: pl.DataFrame, gaps: list[Gap]) -> tuple[Incident, Telemetry]:
    metrics, more = _read_metrics(required(folder, "metrics.csv"), graph)
    target, cause = _target(required(folder, "target.json"))
    window, baseline = _span(metrics, folder), _span(normal, folder.parent.parent / "noissue")
    fault_kind = target["metric"] if target["metric"] in _FAULT_KINDS else "unknown"
    incident = Incident(
        id=f"petshop-{scenario}-{folder.parent.name}-{folder.name}",
        system="petshop",
        window=IntervalModel(start_ns=window.start_ns, end_ns=window.end_ns),
        detected_ns=int(target["timestamp"]) * SECOND_NS,
        baselines=(BaselineModel(start_ns=baseline.start_ns, end_ns=baseline.end_ns, provenance="reference"),),
        labels=(Label(entity=graph.entity(cause), fault_kind=fault_kind, provenance="injected", author="petshop"),),
        alerting=(graph.entity(target["node"]),),
        source="petshop",
        title=f"PetShop, {scenario}: {target['metric']} of {target['node']}",
    )
    return incident, Telemetry.of([*gaps, *more], metrics=pl.concat([normal, metrics]), topology=graph.topology)


def _target(file: Path) -> tuple[dict[str, Any], str]:
    """Alerting target and root cause. Nothing else of the file is read: `metadata` gives the cause away."""
    body = read_json(file)
    try:
        target = {key: body["target"][key] for key in ("node", "metric", "timestamp")}
        return target, str(body["root_cause"]["node"])
    except (KeyError, TypeError) as error:
        raise BadTelemetry(
            str(file), expected="target.node, target.metric, target.timestamp, root_cause.node", found=repr(error)
        ) from error


def _span(metrics: pl.DataFrame, where: Path) -> Interval:
    """From the first row to the end of the last one's period."""
    first, last = metrics["time_unix_nano"].min(), metrics["time_unix_nano"].max()
    if not isinstance(first, int) or not isinstance(last, int):
        raise BadTelemetry(str(where), expected="metrics with values", found="none")
    return Interval(first, last + _PERIOD_S * SECOND_NS)
