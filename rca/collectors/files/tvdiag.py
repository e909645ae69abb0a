"""TVDiag data set: alerts extracted from metrics, traces and logs of Sock Shop, and who talks to whom. No times.

Layout: `data/<system>/label.csv` and `raw/{nodes,edges,metrics,traces,logs}.json`, joined by the label's `index`. The folder
above `data`, `data` or one system's folder may be given. Instances are the entities that labels name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import polars as pl

from rca.collectors.files.reading import DEFAULTS, Progress, ReadOptions, quiet
from rca.collectors.files.tables import read_csv, read_json, required
from rca.errors import BadTelemetry
from rca.incidents.incident import EntityModel, Incident, IntervalModel, Label
from rca.telemetry import MINUTE_NS, SECOND_NS, Gap, Telemetry, conform

WINDOW_START_NS: Final = 1_577_836_800 * SECOND_NS
"""Start of every window: 2020-01-01T00:00:00Z, an arbitrary constant, since the data set has no times."""
_WINDOW_NS: Final = 5 * MINUTE_NS

_FAULT_KINDS: Final = {
    "cpu": "cpu_contention",
    "memory": "memory_leak",
    "pod-kill": "pod_kill",
    "pod-failure": "pod_failure",
    "network-delay": "network_delay",
    "network-loss": "network_loss",
    "network-corrupt": "network_corrupt",
}
_CALL_ALERTS: Final = {"PD": "slow", "400": "http_400", "500": "http_500"}
_RAW: Final = ("nodes", "edges", "metrics", "traces", "logs")
_OUTSIDE: Final = "-1"

_IDENTITY: Final = ["entity", "source", "name", "direction", "peer"]

_Edges = set[tuple[str, str]]
_Raw = Mapping[str, Mapping[str, Sequence[Any]]]


def read(path: Path, options: ReadOptions = DEFAULTS, progress: Progress = quiet) -> Iterator[tuple[Incident, Telemetry]]:  # noqa: ARG001
    """One incident per label row, in the order of `index`. Raises BadTelemetry."""
    folders = _systems(path)
    labels = {folder: _labels(required(folder, "label.csv")) for folder in folders}
    total, done = sum(map(len, labels.values())), 0
    for folder, rows in labels.items():
        progress(done, total, f"reading {folder.name}")
        raw = {kind: _by_index(required(folder / "raw", f"{kind}.json")) for kind in _RAW}
        directions = _service_directions(raw["traces"])
        usual = _usual([_alerts_of(row["index"], raw, folder / "raw") for row in rows])
        for row in rows:
            incident = _incident(folder.name, row)
            progress(done, total, incident.id)
            yield incident, _telemetry(row["index"], raw, directions, usual, folder / "raw")
            done += 1
    progress(done, total, "done")


def _systems(path: Path) -> list[Path]:
    for root in (path, path / "data"):
        found = sorted({file.parent for pattern in ("label.csv*", "*/label.csv*") for file in root.glob(pattern)})
        if found:
            return found
    raise BadTelemetry(str(path), expected="data/<system>/label.csv", found="none")


def _labels(file: Path) -> list[dict[str, str]]:
    frame = read_csv(file, ["index", "instance", "anomaly_type"])
    if any(frame.null_count().row(0)):
        raise BadTelemetry(str(file), expected="index, instance and anomaly_type in every row", found="an empty one")
    order = frame["index"].str.pad_start(12, "0")
    return list(frame.sort(order).iter_rows(named=True))


def _by_index(file: Path) -> Mapping[str, Sequence[Any]]:
    body = read_json(file)
    if not isinstance(body, dict) or not all(isinstance(rows, list) for rows in body.values()):
        raise BadTelemetry(str(file), expected='an object {"<index>": [..]}', found=type(body).__name__)
    return body


def _incident(system: str, row: Mapping[str, str]) -> Incident:
    fault = row["anomaly_type"]
    label = Label(
        entity=EntityModel(name=row["instance"]),
        fault_kind=_FAULT_KINDS.get(fault, "unknown"),
        provenance="injected",
        author="tvdiag",
        note="" if fault in _FAULT_KINDS else f"upstream: {fault}",
    )
    return Incident(
        id=f"tvdiag-{system}-{row['index']}",
        system=system,
        window=IntervalModel(start_ns=WINDOW_START_NS, end_ns=WINDOW_START_NS + _WINDOW_NS),
        labels=(label,),
        source="tvdiag",
        title=f"{system}, incident {row['index']}",
    )


def _alerts_of(index: str, raw: _Raw, where: Path) -> pl.DataFrame:
    try:
        return _alerts(*(raw[kind].get(index, ()) for kind in ("metrics", "traces", "logs")))
    except (ValueError, TypeError, IndexError) as error:
        raise BadTelemetry(f"{where}, incident {index}", expected="rows as upstream writes them", found=str(error)) from error


def _usual(incidents: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """How often each alert fires in one of the *other* incidents: (others + 1/2) / incidents. No label is looked at."""
    distinct = pl.concat([alerts.select(_IDENTITY).unique() for alerts in incidents])
    fired = distinct.group_by(_IDENTITY).agg(pl.len().alias("fired"))
    return fired.with_columns(((pl.col("fired") - 0.5) / len(incidents)).alias("usual_ratio")).drop("fired")


def _telemetry(index: str, raw: _Raw, directions: _Edges, usual: pl.DataFrame, where: Path) -> Telemetry:
    if index not in raw["nodes"]:
        raise BadTelemetry(f"{where}/nodes.json", expected=f"an entry {index!r}", found="none")
    nodes = raw["nodes"][index]
    gaps = [Gap("baseline", "the data set holds alerts only: no times and no quiet period")]
    gaps += [Gap(kind, "no alerts") for kind in ("metrics", "traces", "logs") if not raw[kind].get(index)]
    try:
        edges = _call_edges(nodes, raw["edges"].get(index, ()), raw["traces"].get(index, ()), directions)
    except (ValueError, TypeError, IndexError) as error:
        raise BadTelemetry(f"{where}, incident {index}", expected="rows as upstream writes them", found=str(error)) from error
    alerts = _alerts_of(index, raw, where).drop("usual_ratio").join(usual, on=_IDENTITY, nulls_equal=True, maintain_order="left")
    return Telemetry.of(gaps, alerts=alerts, topology=_topology(nodes, edges))


def _alerts(metrics: Sequence[Any], traces: Sequence[Any], logs: Sequence[Any]) -> pl.DataFrame:
    """Alerts without a time. An alert about a call has the caller as entity; calls from outside have the callee."""
    rows: list[tuple[str, str, str, str | None, str | None]] = []
    rows += [(instance, metric, "metric", direction, None) for instance, metric, direction in metrics]
    for caller, callee, _operation, problem in traces:
        ends = [end for end in (caller, callee) if end and end != _OUTSIDE]
        if ends:
            rows.append((ends[0], _CALL_ALERTS.get(problem, problem), "trace", None, ends[1] if len(ends) > 1 else None))
    rows += [(instance, template, "log", None, None) for instance, template in logs]
    schema = dict.fromkeys(("entity", "name", "source", "direction", "peer"), pl.String)
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    return conform("alerts", frame.with_columns(time_unix_nano=None, entity_kind=pl.lit("service")))


def _service(instance: str) -> str:
    return instance.rsplit("-", 1)[0]


def _calls(traces: Sequence[Any]) -> _Edges:
    return {(caller, callee) for caller, callee, *_ in traces if caller and callee and _OUTSIDE not in (caller, callee)}


def _service_directions(traces: Mapping[str, Sequence[Any]]) -> _Edges:
    """Which service calls which, as far as any alert of the data set says so."""
    calls = {call for rows in traces.values() for call in _calls(rows)}
    return {(_service(caller), _service(callee)) for caller, callee in calls if _service(caller) != _service(callee)}


def _call_edges(nodes: Sequence[str], pairs: Sequence[Any], traces: Sequence[Any], directions: _Edges) -> _Edges:
    """Upstream's pairs have no direction: take it from call alerts where one tells, else keep both directions."""
    calls = _calls(traces)
    edges = {(caller, callee) for caller, callee in calls if caller != callee}
    for i, j in pairs:
        a, b = nodes[i], nodes[j]
        if a != b:
            told = {pair for pair in ((a, b), (b, a)) if pair in calls or (_service(pair[0]), _service(pair[1])) in directions}
            edges |= told or {(a, b), (b, a)}
    return edges


def _topology(nodes: Sequence[str], edges: _Edges) -> pl.DataFrame:
    """Calls between instances, and one pod for each, so that an instance that nobody mentions is still there."""
    rows = [("service", caller, "calls", "service", callee) for caller, callee in sorted(edges)]
    rows += [("service", a, "replicates", "service", b) for a in nodes for b in nodes if a != b and _service(a) == _service(b)]
    rows += [("service", node, "runs", "pod", node) for node in nodes]
    schema = ["source_kind", "source", "relation", "target_kind", "target"]
    return conform("topology", pl.DataFrame(rows, schema=schema, orient="row"))
