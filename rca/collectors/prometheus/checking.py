"""A look at a Prometheus: which entries of the map find data, whose names are missing, how often it scrapes."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from rca.collectors.findings import Finding
from rca.collectors.prometheus.client import Client, number
from rca.collectors.prometheus.mapping import Entry, load_map
from rca.collectors.prometheus.samples import Found
from rca.errors import BadInput, Rejected, Unavailable
from rca.telemetry import SECOND_NS
from rca.wording import listed

if TYPE_CHECKING:
    from rca.collectors.prometheus.collector import PrometheusCollector

_SOURCE: Final = "prometheus"
_LOOK_BACK_S: Final = 300
_NAMED: Final = 5
_OFF: Final = 1.25  # a scrape interval that differs by more is worth a word
_STALE_SCRAPES: Final = 4
_SKEW_S: Final = 5
_LONG_AGO_S: Final = 1  # a moment without data: a query is parsed there, and costs nothing


def check(collector: PrometheusCollector) -> Iterator[Finding]:
    """The findings, the first one of them that it answers. Raises Unavailable, Rejected."""
    with Client(collector.config) as client:
        now_s = time.time_ns() // SECOND_NS
        yield _answers(client)
        yield from _clock(client)
        names = client.metric_names({*collector.metric_names(), "up", "ALERTS"}, now_s - _LOOK_BACK_S, now_s)
        yield from _own_queries(client, collector)
        entries = collector.with_data(names)
        found = collector.look(client, now_s, entries)
        yield from _with_data(found)
        yield from _without_data(collector.entries, names, found)
        for one in found:
            yield from _wrong(client, one)
        if "up" in names:
            try:
                yield from _scrapes(client, collector, now_s)
            except (Unavailable, Rejected) as error:
                yield Finding(_SOURCE, "warning", f"how often it scrapes could not be read: {error}")
        if "ALERTS" not in names:
            advice = "rules of collectors/prometheus/ are a start; [alertmanager] or Prometheus' own rules give alerts"
            yield Finding(_SOURCE, "note", "no alert was pending or firing in the last 5 minutes", advice)


def _answers(client: Client) -> Finding:
    build = client.get("/api/v1/status/buildinfo")
    version = build.get("version") if isinstance(build, dict) else None
    return Finding(_SOURCE, "ok", f"answers, version {version}" if version else "answers, and does not tell its version")


def _clock(client: Client) -> Iterator[Finding]:
    """Whether its clock and ours agree."""
    before_s = time.time()
    told = client.get("/api/v1/query", {"query": "time()"})
    value = told.get("result") if isinstance(told, dict) else None
    its_s = number(value[1]) if isinstance(value, list) and len(value) == 2 else math.nan
    ahead_s = max(its_s - time.time(), before_s - its_s)  # the answer was made between the two
    if ahead_s > _SKEW_S:
        text = f"its clock and the one here differ by {ahead_s:.0f} s"
        yield Finding(_SOURCE, "warning", text, "synchronise both (NTP): windows are cut by the clock here")


def _own_queries(client: Client, collector: PrometheusCollector) -> Iterator[Finding]:
    """Queries of a team's own, and one of ours if there are matchers in all of them."""
    for error in bad_queries(client, collector):
        yield Finding(_SOURCE, "failure", str(error), "correct the query in map_file, or `selector`")


def bad_queries(client: Client, collector: PrometheusCollector) -> Iterator[BadInput]:
    """Queries that Prometheus cannot parse, in its own words. Raises Unavailable, Rejected."""
    shipped = {entry.name: entry for entry in load_map()}
    own = [entry for entry in collector.entries if shipped.get(entry.name) != entry]
    one_of_ours = [entry for entry in collector.entries if entry not in own][:1] if collector.config.selector else []
    for entry in (*one_of_ours, *own):
        refusal = client.instant(collector.promql(entry, 1), _LONG_AGO_S).refusal
        if refusal:
            yield BadInput(f"query of {entry.name}", expected="PromQL", found=refusal)


def _with_data(found: Sequence[Found]) -> Iterator[Finding]:
    """One line for every family of entries that finds something."""
    families: dict[str, list[Found]] = {}
    for one in found:
        if one.series:
            families.setdefault(one.entry.family, []).append(one)
    for family, parts in families.items():
        series: dict[str, int] = {}
        for part in parts:
            series[part.entry.table] = max(series.get(part.entry.table, 0), part.series)
        kinds = Counter(entity.kind for entity in {entity for part in parts for entity in part.entities})
        about = ", ".join(f"{number:,} {kind}{'s' if number != 1 else ''}" for kind, number in sorted(kinds.items()))
        told = ", ".join(f"{table} {number:,}" for table, number in series.items())
        yield Finding(_SOURCE, "ok", f"{family}: {about or 'names'}; series: {told}")


def _without_data(entries: Iterable[Entry], names: frozenset[str], found: Sequence[Found]) -> Iterator[Finding]:
    """Families of which nothing is there, and entries whose metrics are there and whose query still finds nothing."""
    have = {one.entry.family for one in found if one.series}
    empty = [one.entry.name for one in found if not one.series and not one.problems and one.entry.family in have]
    missing = sorted({entry.family for entry in entries} - have)
    if missing:
        yield Finding(_SOURCE, "note", f"no data for: {', '.join(missing)}", "fine, unless you expect one of them here")
    if empty:
        advice = "their metrics are there, but no series has the labels that the query asks for; see docs/prometheus.md"
        yield Finding(_SOURCE, "note", f"metrics without a result: {listed(empty, _NAMED)}", advice)
    if not have:
        advice = "check `url` and `selector`, or map your own metrics in `map_file` (docs/prometheus.md)"
        yield Finding(_SOURCE, "warning", f"none of the {len(names)} known metrics gives data", advice)


def _wrong(client: Client, one: Found) -> Iterator[Finding]:
    for problem in sorted(one.problems):
        yield Finding(_SOURCE, "warning", f"{one.entry.name}: {problem}")
    if one.unnamed:
        there = client.get("/api/v1/labels", {"match[]": one.entry.needs[0]}) if one.entry.needs else None
        labels = [label for label in there or () if not str(label).startswith("__")]
        wanted = listed(one.entry.entity.labels, _NAMED)
        text = f"{one.entry.name}: {one.unnamed} of {one.series} series have none of the labels {wanted}"
        advice = f"name the right one in [labels] of `map_file`; there are {listed(labels, 12)}" if labels else ""
        yield Finding(_SOURCE, "warning", text, advice)


def _scrapes(client: Client, collector: PrometheusCollector, now_s: int) -> Iterator[Finding]:
    """Targets that are down, how often the others are scraped, and how old the newest sample is."""
    down = [series["metric"] for series in client.instant("up == 0", now_s).series]
    total = _value(client, "count(up)", now_s)
    if down:
        names = listed(sorted(str(labels.get("job", "?")) + " " + str(labels.get("instance", "")) for labels in down), _NAMED)
        yield Finding(
            _SOURCE, "warning", f"{len(down)} of {total:.0f} targets cannot be scraped: {names}", "see its page /targets"
        )
    age_s = _value(client, "time() - max(timestamp(up))", now_s)
    configured_s = collector.config.scrape_interval / SECOND_NS
    if age_s > _STALE_SCRAPES * configured_s:
        yield Finding(_SOURCE, "warning", f"its newest sample is {age_s:.0f} s old", "is it overloaded, or its clock wrong?")
    # Prometheus 2 counts samples at both ends of a range: a second less holds as many as the time has steps, whenever one asks.
    recent = f"count_over_time(up[{_LOOK_BACK_S - 1}s]) and up offset {_LOOK_BACK_S}s"
    scrapes = _value(client, f"quantile(0.5, {recent})", now_s)
    if not scrapes > 1:
        return
    scrape_s = _LOOK_BACK_S / scrapes
    if configured_s / _OFF <= scrape_s <= configured_s * _OFF:
        yield Finding(_SOURCE, "ok", f"{total:.0f} targets, scraped every {scrape_s:.0f} s")
    else:
        advice = f'set `scrape_interval = "{scrape_s:.0f}s"`'
        text = f"{total:.0f} targets are scraped every {scrape_s:.0f} s, not every {configured_s:.0f} s"
        yield Finding(_SOURCE, "warning", text, advice)


def _value(client: Client, query: str, now_s: int) -> float:
    """The only value of an instant query, NaN if there is none. Raises Unavailable, Rejected."""
    series: Any = client.instant(query, now_s).series
    try:
        return float(series[0]["value"][1])
    except (LookupError, TypeError, ValueError):
        return math.nan
