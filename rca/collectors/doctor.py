"""`rca doctor`: every source looked at, and what they tell held against each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import polars as pl

from rca.bins import BIN_NS, key, split_key
from rca.collectors.config import Config
from rca.collectors.findings import Checkable, Finding, checked
from rca.collectors.gathering import Answer, gather, merged
from rca.contracts import Collector
from rca.naming import Renaming, reconciled
from rca.telemetry import MINUTE_NS, SECOND_NS, Interval, Telemetry, time_column
from rca.wording import count, listed

LOOK_BACK_NS: Final = 5 * MINUTE_NS
_STALE_NS: Final = 3 * MINUTE_NS
_FEW_TRACES: Final = 0.8  # of the requests that metrics count
_FEWEST: Final = 30  # requests in the time looked at, below which a share says little
_NAMED: Final = 6
_REQUEST_RATE: Final = (pl.col("metric") == "server.request.rate") & (pl.col("entity_kind") == "service")
_RARE: Final = ("alertmanager",)  # sources that have nothing to tell on a good day

_NOUNS: Final[Mapping[str, str]] = {
    "spans": "span",
    "bin_counts": "bin",
    "metrics": "sample",
    "calls": "call sample",
    "logs": "log count",
    "events": "event",
    "alerts": "alert",
    "topology": "relation",
}
"""What a row is called where it is counted. Further frames of bins come with `bin_counts`."""
_MODALITIES: Final[Mapping[str, tuple[tuple[str, ...], str]]] = {
    "traces": (("spans", "bin_counts"), "[otlp] with `rca collect`, [tempo] or [jaeger]"),
    "metrics": (("metrics",), "[prometheus], or metrics sent to [otlp]"),
    "events and changes": (("events",), "[kubernetes]; without, nobody knows of rollouts, OOM kills and probes"),
    "logs": (("logs",), "logs sent to [otlp]"),
    "alerts": (("alerts",), "[alertmanager] or [prometheus]; none in five minutes is also good news"),
    "topology": (("topology",), "[kubernetes] or kube-state-metrics tell which pod belongs to whom"),
}


def diagnose(config: Config, sources: Sequence[Collector], now_ns: int) -> tuple[Finding, ...]:
    """Findings of every source in its turn, then those about what they tell together.

    Sources that work are read over the last five minutes for that.
    """
    with ThreadPoolExecutor(max(len(sources), 1)) as pool:
        looked_at = list(pool.map(look_at, sources))
    broken = {source.name for source, found in zip(sources, looked_at, strict=True) if _failed(found)}
    interval = Interval(now_ns - config.triage.lag - LOOK_BACK_NS, now_ns - config.triage.lag)
    answers = gather([source for source in sources if source.name not in broken], interval, config.triage.deadline)
    silent = {source.name for source in sources if not isinstance(source, Checkable)}
    read = {answer.source: tuple(_read(answer, interval, with_gaps=answer.source in silent)) for answer in answers}
    findings: list[Finding] = []
    for source, found in zip(sources, looked_at, strict=True):
        findings += (*found, *read.get(source.name, ()))
    told, renaming = reconciled(merged(answers), config.names)
    findings += [*_modalities(told), *_unknown_names(answers, told, renaming), *_unmeasured(told), *_sampling(told, interval)]
    return tuple(findings)


def look_at(source: Collector) -> tuple[Finding, ...]:
    """What a source says about itself."""
    if isinstance(source, Checkable):
        return checked(source)
    return (Finding(source.name, "note", "it has no check of its own; it is read below"),)


def _failed(findings: Sequence[Finding]) -> bool:
    """Whether the source does not answer at all: then it says nothing else."""
    return len(findings) == 1 and findings[0].level == "failure"


def _read(answer: Answer, interval: Interval, *, with_gaps: bool) -> Iterator[Finding]:
    """How reading the last minutes went, and how old the newest of it is; gaps where the source has no check that tells them."""
    source = answer.source
    yield from (Finding(source, "warning", gap.reason) for gap in answer.telemetry.gaps if with_gaps and answer.error is None)
    if answer.error is not None:
        yield Finding(source, "failure", f"reading the last five minutes failed: {answer.error}", f"see [{source}] in rca.toml")
        return
    rows = {name: frame.height for name, frame in answer.telemetry.frames().items() if frame.height}
    if not rows and source not in _RARE:
        yield Finding(source, "warning", "nothing in the last five minutes", "is anything sent there, and is its clock right?")
        return
    told = ", ".join(count(rows[name], noun) for name, noun in _NOUNS.items() if name in rows) or "nothing"
    yield Finding(source, "ok", f"five minutes read in {answer.seconds:.1f} s: {told}")
    newest = newest_ns(answer.telemetry)
    if newest is not None and interval.end_ns - newest > _STALE_NS:
        text = f"its newest telemetry is {(interval.end_ns - newest) / MINUTE_NS:.0f} minutes old"
        yield Finding(source, "warning", text, "raise `[triage] lag` if that is usual there")


def newest_ns(telemetry: Telemetry) -> int | None:
    """Time of the last span, bin, sample or log line; events and alerts are rare by nature."""
    steady = ("spans", "bin_counts", "metrics", "calls", "logs")
    times = [telemetry.frames()[name][time_column(name)].max() for name in steady]
    return max((moment for moment in times if isinstance(moment, int)), default=None)


def _modalities(telemetry: Telemetry) -> Iterator[Finding]:
    """Kinds of telemetry that no source gave."""
    for what, (frames, advice) in _MODALITIES.items():
        if all(telemetry.frames()[name].is_empty() for name in frames):
            yield Finding("all", "note", f"no {what} in the last five minutes", f"they come from {advice}")


def _unknown_names(answers: Sequence[Answer], telemetry: Telemetry, renaming: Renaming) -> Iterator[Finding]:
    """Services of other sources that traces do not know under any name."""
    if not _traced(telemetry):
        return
    for answer in answers:
        named = _named(answer.telemetry)
        unknown = sorted(_written(*name) for name in named & set(renaming.unmatched))
        if unknown:
            text = f"{len(unknown)} of {len(named)} services are unknown to traces: {listed(unknown, _NAMED)}"
            advice = f'if one is a service of another name, add to [names]: "{unknown[0]}" = "its name in traces"'
            yield Finding(answer.source, "warning", text, advice)


def _unmeasured(telemetry: Telemetry) -> Iterator[Finding]:
    """Services in traces without a metric of their own or of a pod."""
    traced = _traced(telemetry)
    bare = sorted(_written(*split_key(service)) for service in traced - _measured(telemetry))
    if bare and not telemetry.metrics.is_empty():
        text = f"{len(bare)} of {len(traced)} services in traces have no metrics: {listed(bare, _NAMED)}"
        advice = "compare the labels of their metrics with `service.name`; docs/prometheus.md says which labels are read"
        yield Finding("all", "note", text, advice)


def _traced(telemetry: Telemetry) -> set[str]:
    """Keys of services that emit spans."""
    emitters = telemetry.spans.select(key(pl.col("service.name"), pl.col("service.namespace"))).to_series()
    return {*emitters.unique(), *telemetry.bin_counts["source"].unique()}


def _named(telemetry: Telemetry) -> set[tuple[str, str]]:
    """(namespace, name) of services in metrics, events, alerts and logs."""
    names: set[tuple[str, str]] = set()
    for name in ("metrics", "events", "alerts", "logs"):
        frame = telemetry.frames()[name].filter(pl.col("entity_kind") == "service")
        names |= set(frame.select(pl.col("namespace").fill_null(""), "entity").unique().iter_rows())
    return names


def _measured(telemetry: Telemetry) -> set[str]:
    """Keys of services with metrics of their own, or of a pod that they run."""
    own = telemetry.metrics.select("entity_kind", key(pl.col("entity"), pl.col("namespace")).alias("key")).unique()
    services = set(own.filter(pl.col("entity_kind") == "service")["key"])
    pods = set(own.filter(pl.col("entity_kind") == "pod")["key"])
    placed = telemetry.topology.filter((pl.col("relation") == "runs") & pl.col("target").is_in(sorted(pods)))
    spans = telemetry.spans.filter(pl.col("k8s.pod.name").is_in(sorted(pods)))
    emitters = spans.select(key(pl.col("service.name"), pl.col("service.namespace"))).to_series()
    bins = telemetry.bin_placement.filter(pl.col("pod").is_in(sorted(pods)))["service"]
    return services | {*placed["source"], *emitters, *bins}


def _sampling(telemetry: Telemetry, interval: Interval) -> Iterator[Finding]:
    """Services of which traces hold clearly fewer requests than metrics count."""
    both = _known_to_both(telemetry, interval)
    traced, counted = _requests_in_traces(telemetry, both), _requests_in_metrics(telemetry, both)
    thin = {
        service: traced[service] / requests
        for service, requests in counted.items()
        if requests >= _FEWEST and service in traced and traced[service] < _FEW_TRACES * requests
    }
    if thin:
        least, most = min(thin.values()), max(thin.values())
        share = f"{least:.1%}" if most - least < 0.01 else f"{least:.1%} to {most:.1%}"
        services = sorted(_written(*split_key(service)) for service in thin)
        text = f"traces hold {share} of the requests that metrics count, for {listed(services, _NAMED)}"
        advice = "traces are sampled; latency still shows, counts and error ratios are better taken from metrics"
        yield Finding("all", "note", text, advice)


def _known_to_both(telemetry: Telemetry, interval: Interval) -> Interval:
    """The part of the interval, in whole bins, of which there are traces and rates: one of them may have begun later."""
    first, last = interval.start_ns, interval.end_ns
    traces = [telemetry.spans["start_time_unix_nano"], telemetry.bin_counts["time_unix_nano"]]
    for times in (pl.concat(traces), telemetry.metrics.filter(_REQUEST_RATE)["time_unix_nano"]):
        low, high = times.min(), times.max()
        if isinstance(low, int) and isinstance(high, int):
            first, last = max(first, low), min(last, high)
    first = -(-first // BIN_NS) * BIN_NS
    return Interval(first, max(first, last // BIN_NS * BIN_NS))


def _requests_in_traces(telemetry: Telemetry, interval: Interval) -> dict[str, float]:
    """Requests by service, from the source of traces that has more of them: two of them tell of the same requests."""

    def inside(column: str) -> pl.Expr:
        return pl.col(column).is_between(interval.start_ns, interval.end_ns, closed="left")

    spans = telemetry.spans.unique(["trace_id", "span_id"])
    served = spans.filter(pl.col("kind").is_in([2, 5]) & inside("start_time_unix_nano"))
    spans = served.select(key(pl.col("service.name"), pl.col("service.namespace")).alias("service")).group_by("service").len()
    requests = telemetry.bin_counts.filter((pl.col("what") == "request") & inside("time_unix_nano"))
    bins = requests.group_by(pl.col("source").alias("service"))
    counts = dict(spans.iter_rows())
    for service, total in bins.agg(pl.col("count").sum()).iter_rows():
        counts[service] = max(counts.get(service, 0), total)
    return counts


def _requests_in_metrics(telemetry: Telemetry, interval: Interval) -> dict[str, float]:
    rates = telemetry.metrics.filter(_REQUEST_RATE)
    service = key(pl.col("entity"), pl.col("namespace")).alias("service")
    means = rates.group_by(service).agg(pl.col("value").mean() * ((interval.end_ns - interval.start_ns) / SECOND_NS))
    return dict(means.iter_rows())


def _written(namespace: str, name: str) -> str:
    return f"{namespace}/{name}" if namespace else name
