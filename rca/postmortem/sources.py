"""The supporting data of a postmortem: every source with what to type to see it again.

Queries are written for the tools that rca reads: PromQL from its own map (rca/collectors/prometheus/map.toml), TraceQL for Tempo.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Final

import polars as pl

from rca import __version__
from rca.collectors.prometheus.mapping import Entry, load_map
from rca.documents.model import Section, Source, cites_of
from rca.drawing.foreign import name_of
from rca.evidence import Facts
from rca.metrics import metric_of
from rca.postmortem.account import Account
from rca.postmortem.impact import Served
from rca.postmortem.moments import Moments
from rca.postmortem.words import named
from rca.ranking import Evidence
from rca.signals import NODE_COLUMN, NODE_SIGNALS
from rca.telemetry import EntityId
from rca.wording import clock, count, listed

INCIDENT, LABELS, GAPS, OBJECTIVE = "incident", "labels", "gaps", "objective"
REQUESTS, SIGNALS, TRACES, MAP = "requests", "signals", "traces", "map"
EVENTS, ALERTS, RANKING, ANSWERS, SIMILAR = "events", "alerts", "ranking", "answers", "similar"
"""Keys of the sources, above and here."""

_WINDOW_S, _STEP_S = 60, 15
_MOST_QUERIES: Final = 6
_MOST_TRACES: Final = 5


def cited_sources(account: Account, moments: Moments, sections: Sequence[Section]) -> tuple[Source, ...]:
    """Sources that the sections cite, in the order in which they do."""
    known = {source.key: source for source in _sources(account, moments)}
    return tuple(known[key] for key in dict.fromkeys(cites_of(sections)))


def command(account: Account, *options: str) -> str:
    """The command line that ranks this incident again."""
    made_by = (account.made_by,) if account.made_by else ()
    store = (f"--store {shlex.quote(account.store)}",) if account.store and account.origin.kind == "store" else ()
    return " ".join(("rca triage", shlex.quote(account.origin.name), *made_by, *store, *options))


def _of_store(account: Account, words: str) -> str:
    """A command line that looks into the store."""
    home = f"RCA_HOME={shlex.quote(account.store)} " if account.store else ""
    return f"{home}rca incidents {words}"


def _sources(account: Account, moments: Moments) -> Iterator[Source]:
    yield _incident(account)
    if account.impact is not None:
        yield _requests(account)
    yield _signals(account)
    yield _traces(account)
    yield _map(account)
    yield _events(account)
    yield _alerts(account, moments)
    yield _ranking(account)
    yield _answers(account)
    yield _labels(account)
    yield _similar(account)
    yield Source(
        GAPS, "What was missing, as every ranking of this incident says", queries=(command(account, "--json | jq .missing"),)
    )
    if account.objective is not None:
        stated = f"{100 * account.objective.share:g} % over {account.objective.days} days"
        yield Source(OBJECTIVE, f"The objective of {stated}, as it was given to rca postmortem")


def _files(account: Account, *names: str) -> str:
    """Files of the bundle with their rows and digests."""
    found = [frame for name in names if (frame := account.origin.frame(name)) is not None and frame.rows]
    told = [f"{frame.file}, {count(frame.rows, 'row')}, SHA-256 {frame.sha256[:16]}…" for frame in found]
    return "; ".join(told)


def _in(account: Account, *names: str) -> str:
    files = _files(account, *names)
    return f" ({files})" if files else " (none)"


def _when(account: Account) -> str:
    window = account.case.window.incident
    return f"{clock(window.start_ns, date=True)} to {clock(window.end_ns)} UTC"


def _incident(account: Account) -> Source:
    name = account.origin.name
    if account.origin.kind == "bundle":
        return Source(
            INCIDENT, "The incident's own words: incident.json of the bundle", name, (command(account, "--json | jq .incident"),)
        )
    if account.origin.kind == "inbox":
        return Source(INCIDENT, "The incident as rca serve received it", "", (f"GET /v1/incidents/{account.incident.id}",))
    return Source(INCIDENT, "The incident in the store", name, (_of_store(account, f"show {shlex.quote(name)}"),))


# --- requests -----------------------------------------------------------------------------------------------------------


def _requests(account: Account) -> Source:
    impact = account.impact
    assert impact is not None
    before = [f"{clock(b.interval.start_ns)} to {clock(b.interval.end_ns)}" for b in account.case.window.baselines]
    against = f", against {listed(before, 3)}" if before else ""
    spans = impact.counted == "spans"
    how = "its server spans count them" if spans else "rates and success ratios of metrics tell them"
    what = f"Requests of {named(impact.entries)} as {how}, {_when(account)}{against}"
    files = _in(account, *(("spans", "bin_counts", "bin_durations") if spans else ("metrics",)))
    traces = [_traceql(impact.entries[0], "status = error")]
    traces += [_slow(served) for served in impact.operations[:2] if served.slow is not None and served.slow[0]]
    metrics = [promql(metric, impact.entries[0]) for metric in ("server.request.success_ratio", "server.request.rate")]
    queries = tuple(query for query in (*(traces if spans else ()), *metrics) if query)
    return Source(REQUESTS, what + files, "", queries)


def _slow(served: Served) -> str:
    limit = f"duration > {1000 * (served.slow_s or 0):.0f}ms"
    return _traceql(served.service, f"name = {json.dumps(served.operation, ensure_ascii=False)} && {limit}")


def _traceql(service: EntityId, condition: str) -> str:
    return f"{{ resource.service.name = {json.dumps(service.name, ensure_ascii=False)} && kind = server && {condition} }}"


def promql(metric: str, entity: EntityId) -> str:
    """The query of the shipped map that gives a metric, for one entity; empty where none does."""
    entries = [entry for entry in load_map() if entry.frame == "metrics" and entry.metric == metric]
    return _asked(min(entries, key=lambda entry: entry.rank), entity) if entries else ""


def _asked(entry: Entry, entity: EntityId) -> str:
    label = next((one for one in ("service_name", "pod", "node") if one in entry.entity.labels), entry.entity.labels[0])
    name = json.dumps(entity.name, ensure_ascii=False)
    selector = f"{label}={name}" if label == "service_name" or entry.entity.kind == "node" else f'{label}=~{name[:-1]}-.*"'
    query = entry.promql(window_s=_WINDOW_S, step_s=_STEP_S, range_s=_WINDOW_S, selector=selector)
    return " ".join(query.split()).replace(f"by ({', '.join(entry.labels)})", f"by ({label})")


# --- the cause ----------------------------------------------------------------------------------------------------------


def evidence_of(account: Account) -> tuple[Evidence, ...]:
    """What speaks for the cause: of the ranking, or measured now where the cause is further down."""
    cause = account.cause
    if cause is None or cause not in account.case.graph.rows:
        return ()
    ranked = next((one for one in account.report.ranking.candidates if one.entity == cause), None)
    if ranked is not None and ranked.evidence:
        return ranked.evidence
    return Facts(account.case).evidence(cause)


def _signals(account: Account) -> Source:
    cause = account.cause
    name = name_of(cause) if cause is not None else "the cause"
    queries: list[str] = []
    if cause is not None:
        queries += [query for metric in _metrics(account) if (query := promql(metric, cause))]
        sources = {NODE_SIGNALS[NODE_COLUMN[item.signal]].source for item in evidence_of(account) if item.signal in NODE_COLUMN}
        if "spans" in sources and cause.kind == "service":
            queries.append(f"{{ resource.service.name = {json.dumps(cause.name, ensure_ascii=False)} }}")
    what = f"Signals of {name}, {_when(account)}, against its baseline"
    files = _in(account, "metrics", "logs", "spans", "bin_durations", "events")
    return Source(
        SIGNALS, what + files, "", (*queries[:_MOST_QUERIES], command(account, "--json | jq '.ranking.candidates[:5]'"))
    )


def _metrics(account: Account) -> list[str]:
    """Canonical metrics that the evidence states."""
    names = account.case.window.metrics["metric"].unique().sort().to_list()
    return [
        name
        for item in evidence_of(account)
        for name in names
        if metric_of(name).signal == item.signal and item.statement.startswith(metric_of(name).title)
    ]


def _traces(account: Account) -> Source:
    ids = trace_ids(account)
    queries = tuple(f"GET /api/v2/traces/{trace}" for trace in ids)
    return Source(
        TRACES,
        f"{count(len(ids), 'trace')} that were kept of the cause, slow or failed (Tempo; Jaeger: /api/traces/ID)",
        "",
        queries,
    )


def trace_ids(account: Account) -> tuple[str, ...]:
    """Traces that the evidence of the cause names."""
    found = dict.fromkeys(trace for item in evidence_of(account) for trace in item.trace_ids)
    return tuple(found)[:_MOST_TRACES]


def _map(account: Account) -> Source:
    files = _in(account, "topology", "calls", "spans", "bin_counts")
    return Source(MAP, f"Who called whom, {_when(account)}{files}", "", (command(account, "--json | jq '.path, .map'"),))


# --- what happened ------------------------------------------------------------------------------------------------------


def _events(account: Account) -> Source:
    window = account.case.window.events
    names = window.filter(pl.col("entity_kind") == "pod")["namespace"].drop_nulls().unique().sort().to_list()
    queries = tuple(f"kubectl get events -n {shlex.quote(name)} --sort-by=.lastTimestamp" for name in names[:2] if name)
    where = ", which Kubernetes forgets after an hour" if queries else ""
    return Source(EVENTS, f"Events and changes, {_when(account)}{_in(account, 'events')}{where}", "", queries)


def _alerts(account: Account, moments: Moments) -> Source:
    names = list(dict.fromkeys(alert.name for alert in moments.alerts if alert.name))
    either = "|".join(re.escape(name) for name in names)
    queries = (f"ALERTS{{alertname=~{json.dumps(either, ensure_ascii=False)}}}",) if names else ()
    if account.alerts:
        return Source(ALERTS, f"Alerts as rca serve received them ({len(account.alerts)})", "", queries)
    return Source(ALERTS, f"Alerts in the telemetry, {_when(account)}{_in(account, 'alerts')}", "", queries)


def _ranking(account: Account) -> Source:
    ranker = account.report.ranking.ranker
    what = f"The ranking made for this document by {ranker} (rca {__version__}), from the telemetry as it is kept"
    return Source(RANKING, what, "", (command(account),))


def _answers(account: Account) -> Source:
    query = f"GET /v1/incidents/{account.incident.id}"
    return Source(
        ANSWERS, f"{count(len(account.answers), 'revision')} of what rca serve said, with the times of its messages", "", (query,)
    )


def _labels(account: Account) -> Source:
    if account.origin.kind == "store":
        name = shlex.quote(account.origin.name)
        return Source(
            LABELS,
            "Labels, and who changed them when",
            "",
            (_of_store(account, f"show {name}"), _of_store(account, f"audit {name}")),
        )
    return Source(LABELS, "Labels in incident.json of the bundle", account.origin.name)


def _similar(account: Account) -> Source:
    return Source(SIMILAR, f"{count(len(account.past), 'incident')} of the store", "", (_of_store(account, "list"),))
