"""Alerts of the incident: which sort, on whom, and how unusual. Quiet stretches have none."""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl

from rca.bins import joined_key
from rca.deviations.sheet import Array, Sheet
from rca.signals import EDGE_COLUMN, NODE_COLUMN
from rca.topology import Topology
from rca.window import INCIDENT, Window

_ALERT_WORDS: Final[tuple[tuple[tuple[str, ...], str], ...]] = (
    (("cpu", "throttl", "load"), "alert_cpu"),
    (("mem", "oom"), "alert_memory"),
    (("fs_", "disk", "filesystem", "volume", "io_"), "alert_disk"),
    (("net_receive", "receive", "rx"), "alert_network_in"),
    (("net_trans", "net_trainsmit", "transmit", "tx", "network"), "alert_network_out"),
    (("dest_qps", "traffic", "qps", "request_rate", "requestrate"), "alert_traffic_in"),
    (("dest_success", "error", "5xx", "success", "availability", "fail"), "alert_errors_in"),
    (("dest_p", "latency", "slow", "duration", "p99", "p95"), "alert_latency_in"),
)
_CALLER_SIDE: Final = {
    "src_qps": "alert_traffic_out",
    "src_p": "alert_latency_out",
    "src_success": "alert_errors_out",
}
METRIC_ALERTS: Final = tuple(dict.fromkeys([*_CALLER_SIDE.values(), *(signal for _, signal in _ALERT_WORDS)]))
_NOVELTY: Final = ("alert_novelty", "alert_novelty_logs", "alert_novelty_calls")
_NOVELTY_OF: Final = {"log": ("alert_novelty", "alert_novelty_logs"), "trace": ("alert_novelty_calls",)}
_CALL_ALERTS: Final = {"slow": ("alert_slow", "alert_slow_calls"), "failed": ("alert_failed", "alert_failed_calls")}


def alert_signal(name: str) -> str:
    """Signal an alert on an entity feeds, from the words of its name; `src_` and `dest_` name the client's and server's side."""
    lowered = name.lower()
    for prefix, signal in _CALLER_SIDE.items():
        if lowered.startswith(prefix):
            return signal
    for words, signal in _ALERT_WORDS:
        if any(word in lowered for word in words):
            return signal
    return "alert_other"


def measure_alerts(sheet: Sheet, window: Window, topology: Topology) -> None:
    """Alerts by sort, those of a pod for its owner as well; alerts about a call for both its ends and for the call."""
    alerts = window.alerts.filter(pl.col("interval") == INCIDENT)
    if alerts.is_empty():
        return
    columns = [c for name, c in NODE_COLUMN.items() if name.startswith("alert_") and name not in _NOVELTY]
    sheet.node[0][:, columns] = 0.0
    edge_columns = [EDGE_COLUMN["alert_slow"], EDGE_COLUMN["alert_failed"]]
    sheet.edge["calls"][0][:, edge_columns] = 0.0
    for kind, entity, namespace, name, source, direction, peer in alerts.select(
        "entity_kind", "entity", "namespace", "name", "source", "direction", "peer"
    ).iter_rows():
        row = topology.rows.get((kind, joined_key(entity, namespace)))
        if row is None:
            continue
        sign = -1.0 if direction == "down" else 1.0
        for target in {row, topology.owners.get(row, row)}:
            if source == "trace":
                _add_call_alert(sheet, topology, target, name, peer)
            else:
                signal = "alert_logs" if source == "log" else alert_signal(name)
                sheet.node[0, target, NODE_COLUMN[signal]] += sign
    _measure_novelty(sheet, alerts, topology)
    on_metrics = [NODE_COLUMN[signal] for signal in METRIC_ALERTS]
    sheet.node[0, :, NODE_COLUMN["alert_rarity"]] = _rarity(sheet.node[0][:, on_metrics])


def _measure_novelty(sheet: Sheet, alerts: pl.DataFrame, topology: Topology) -> None:
    """Alerts weighed by how unusual they are for their entity; NaN where no alert says how usual it is."""
    known = alerts.filter(pl.col("usual_ratio") > 0)
    if known.is_empty():
        return
    columns = [NODE_COLUMN[name] for name in _NOVELTY]
    sheet.node[0][:, columns] = 0.0
    about = pl.when(pl.col("source") == "trace").then(pl.coalesce("peer", "entity")).otherwise(pl.col("entity"))
    identity = ["entity_kind", "namespace", "entity", "source", "name", "direction", "peer"]
    distinct = known.unique(identity, maintain_order=True).with_columns(about.alias("about"))
    for kind, namespace, name, source, usual in distinct.select(
        "entity_kind", "namespace", "about", "source", "usual_ratio"
    ).iter_rows():
        row = topology.rows.get((kind, joined_key(name, namespace)))
        if row is None:
            continue
        surprise = max(float(-np.log(usual)), 0.0)
        for signal in _NOVELTY_OF.get(source, _NOVELTY[:1]):
            sheet.node[0, topology.owners.get(row, row), NODE_COLUMN[signal]] += surprise


def _rarity(values: Array) -> Array:
    """Sum over the columns an entity has a value in of -ln(share of entities that have one), (N,). values: (N, kinds)."""
    has = values != 0
    weight = -np.log((has.sum(axis=0) + 0.5) / (len(values) + 1))
    rarity: Array = has @ weight
    return rarity


def _add_call_alert(sheet: Sheet, topology: Topology, row: int, name: str, peer: str | None) -> None:
    edge_signal, signal = _CALL_ALERTS["slow" if "slow" in name.lower() else "failed"]
    callee = topology.rows.get(("service", peer)) if peer is not None else None
    if callee is None or callee == row:
        sheet.node[0, row, NODE_COLUMN[signal.replace("_calls", "_own")]] += 1
        return
    sheet.node[0, row, NODE_COLUMN[f"{signal}_out"]] += 1
    sheet.node[0, callee, NODE_COLUMN[f"{signal}_in"]] += 1
    pairs = topology.edges["calls"]
    for column in np.flatnonzero((pairs[0] == row) & (pairs[1] == callee)):
        sheet.edge["calls"][0, column, EDGE_COLUMN[edge_signal]] += 1
