"""docs/prometheus.md, from the map that ships and the settings of its tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from rca.collectors.prometheus.client import MAX_POINTS
from rca.collectors.prometheus.mapping import (
    AliasTable,
    CallTable,
    Entry,
    HistogramTable,
    Labels,
    MetricTable,
    RelationTable,
    load_map,
    shipped_labels,
)

_PAGE: Final = """\
# Prometheus and Alertmanager

Metrics of services, pods and nodes, statistics of calls, what runs where, and alerts, from Prometheus and what speaks its HTTP
API: Mimir, Thanos, VictoriaMetrics.

    [prometheus]
    url = "http://prometheus.monitoring:9090"     # Mimir: ".../prometheus"
    scrape_interval = "15s"
    # headers = {{ X-Scope-OrgID = "team" }}        # a tenant
    # selector = 'cluster="eu"'                   # matchers for every query
    # map_file = "prometheus-map.toml"            # entries of your own

    [alertmanager]
    url = "http://alertmanager.monitoring:9093"

`rca doctor` says which entries of the map find data, which labels name nobody, and whether `scrape_interval` is right
([doctor.md](doctor.md)). Credentials, TLS, time-outs and all other settings are in [configuration.md](configuration.md).

## What is asked

1. Which metrics of the map exist, by one look into the index. Entries without data cost nothing.
2. One range query for every statistic that does, `concurrency` of them at once, with a sample every `step`, at moments that are
   multiples of it, so that two collections agree where they overlap. Rates are taken over `rate_window` (four scrapes).
3. Once for the whole stretch of time: what runs where, names of nodes, and the raw samples of `ALERTS`.

A query takes at most `timeout`, retries included, and all of them `budget`. Long stretches of time are cut into parts of
{points:,} points a series; an answer larger than `max_response_bytes` (16 MiB), or with too many samples for the server, is
asked for in halves. Every query is a read.

## Names

A service is named by the first of these labels that is there: {service}. `a/b` in `job` is namespace and name, which is how
OpenTelemetry writes it. Its namespace is {service_namespace}. A pod is named by {pod}, with {pod_namespace}; a node by
{node}, where the port of `instance` is cut off and an address is replaced by the node's name (`node_uname_info`,
`kube_node_info`). `exported_*` come first, because Prometheus makes them where an exporter speaks for somebody else. Names
that traces have otherwise are reconciled ([collecting.md](collecting.md)).

## Several measurements of one thing

A service may be measured by its SDK, by span metrics and by Istio. The lowest rank below wins, for each service and
statistic. Within a rank (HTTP and RPC), rates add up, and mean, success ratio and quantiles are averaged, weighed by the
rate; for quantiles that is an estimate.

## The map

{entries}

Quantiles come from classic histograms; native ones are not read yet. Requests that wait in connection pools and the lag
of consumers are not read: features have no place for saturation, and whoever calls a slow database waits as much as who ran out
of connections.

## Entries of your own

A TOML file with the same tables as [map.toml](../rca/collectors/prometheus/map.toml). An entry with a known name replaces
ours, `disable` in `[prometheus]` takes entries away, and `[labels]` replaces lists of labels for all entries.

    [labels]
    service = ["team_service", "job"]

    [[metric]]
    name = "open-sockets"
    needs = ["app_open_sockets"]
    query = 'sum by ({{by}}) (app_open_sockets{{{{selector}}}})'
    metric = "process.sockets"
    entity = "service"

    [[histogram]]
    name = "gateway"
    metric = "gateway_latency_ms"
    side = "server"
    factor = 0.001
    errors = ['code=~"5.."']

Placeholders in a query: `{{window}}` (over which rates are taken), `{{step}}` (between samples), `{{range}}` (all that is
collected), `{{by}}` (the labels that the entry looks at) and `{{selector}}`. Canonical metrics are on
[metrics.md](metrics.md). Unknown keys, metrics and placeholders are refused with the nearest known one; whether a query is
PromQL is for Prometheus to say, and `rca doctor` asks it.

{tables}
## Alerts

An alert counts from when it began to fire. `ALERTS` in Prometheus knows those of the past, Alertmanager those that are
active, also from other senders; what both know counts once. It is about the first of `service`, `service_name`,
`exported_job`, `job`, then `deployment`, `statefulset`, `daemonset`, then `exported_pod`, `pod`, `job_name`,
`horizontalpodautoscaler`, then `exported_node`, `node`, `nodename` and `instance`.
The job of an exporter (kube-state-metrics, node exporter, kubelet) counts only where nothing else is
named. An alert that names nobody is left out and told, unless its severity is `none`. Silenced and inhibited alerts count: a
silence keeps people from being told, the symptom is there all the same.

`rca triage --alert NAME` takes the alert from Alertmanager if it is active there, else the last time in a day that it fired
in Prometheus.

## What goes wrong

| what | what happens |
| --- | --- |
| no answer, 5xx, a time-out on the first question | the source is a gap; asking again may help |
| 401, 403, 404, a login page | the source is a gap that names the answer; asking again does not help |
| one query fails, is refused or too slow | a gap that names the entry; the rest goes on |
| the budget is used up | a gap that names the entries that were not asked |
| warnings (Thanos: a store did not answer) | a gap with the warning, once for all entries |
| NaN where nothing happened (a ratio of no requests) | no sample, and no gap |
| other NaN and infinite values | left out, counted in a gap |
| more than `max_series` series | the first ones by their labels are read, the gap says how many there are |
| series without any of the labels | left out, counted in a gap; `rca doctor` lists the labels that are there |
"""


def prometheus_page() -> str:
    """The page."""
    labels = shipped_labels()
    named = {name: ", ".join(f"`{label}`" for label in getattr(labels, name)) for name in Labels.model_fields}
    return _PAGE.format(points=MAX_POINTS, entries=_entries(load_map()), tables=_tables(), **named)


def _entries(entries: Sequence[Entry]) -> str:
    """One row for every table of the map."""
    tables: dict[str, list[Entry]] = {}
    for entry in entries:
        tables.setdefault(entry.table, []).append(entry)
    rows = (
        (f"`{name}`", parts[0].family, _given(parts), _metrics(parts), parts[0].entity.kind, str(parts[0].rank))
        for name, parts in tables.items()
    )
    return _table(("entry", "family", "gives", "needs", "of a", "rank"), rows)


def _given(parts: Sequence[Entry]) -> str:
    first = parts[0]
    if first.frame == "topology" and first.target is not None:
        return f"{first.entity.kind} {first.metric} {first.target.kind}"
    if len(parts) > 1:  # a histogram
        side = first.metric.partition(".")[0]
        return f"`{side}.request.*`: " + ", ".join(part.metric.split(".request.")[1] for part in parts)
    return ", ".join(f"`{part.metric}`" if part.frame != "alias" else part.metric for part in parts)


def _metrics(parts: Sequence[Entry]) -> str:
    names = dict.fromkeys(re.sub("_(bucket|count)$", "", n) if len(parts) > 1 else n for part in parts for n in part.needs)
    return ", ".join(f"`{name}`" for name in names)


def _tables() -> str:
    """The settings of every table, from their descriptions."""
    kinds: dict[str, Any] = {
        "metric": MetricTable,
        "histogram": HistogramTable,
        "call": CallTable,
        "relation": RelationTable,
        "alias": AliasTable,
    }
    text = ""
    for name, model in kinds.items():
        rows = (
            (f"`{key}`", "yes" if field.is_required() else "", field.description or "")
            for key, field in model.model_fields.items()
        )
        text += f"### [[{name}]]\n\n{_table(('key', 'required', 'meaning'), rows)}\n\n"
    return text


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
