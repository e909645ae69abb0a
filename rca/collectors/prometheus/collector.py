"""Collecting from Prometheus: which metrics exist, then all queries of the map at once, under one budget."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import polars as pl

from rca.collectors.alert_labels import OWN_ALERT, alerts_frame, entity_of
from rca.collectors.alerts import Alert
from rca.collectors.findings import Finding
from rca.collectors.prometheus import alerts
from rca.collectors.prometheus.checking import check
from rca.collectors.prometheus.client import MAX_POINTS, Answer, Client
from rca.collectors.prometheus.config import PrometheusConfig
from rca.collectors.prometheus.mapping import Entry, load_map
from rca.collectors.prometheus.samples import Found, calls_of, gaps_of, metrics_of, topology_of
from rca.errors import Rejected, Unavailable, UnknownName
from rca.telemetry import SECOND_NS, Gap, Interval, Telemetry, empty

NAME: Final = "prometheus"
_ALERT_HISTORY_S: Final = 86_400


@dataclass(frozen=True)
class Grid:
    """The moments of a collection, in whole seconds: multiples of the step, so that two collections agree where they overlap."""

    first_s: int
    last_s: int
    step_s: int

    @classmethod
    def of(cls, start_ns: int, end_ns: int, step_ns: int, now_ns: int) -> Grid | None:
        """Moments in [start, end) that are not in the future; None if there is none."""
        step_s = step_ns // SECOND_NS
        first_s, last_s = -(-start_ns // step_ns) * step_s, min(end_ns - 1, now_ns) // step_ns * step_s
        return cls(first_s, last_s, step_s) if first_s <= last_s else None

    @property
    def range_s(self) -> int:
        """From the first moment to the last."""
        return self.last_s - self.first_s

    def chunks(self) -> Iterator[Grid]:
        """Parts with as many points as Prometheus gives at once."""
        for first in range(self.first_s, self.last_s + 1, MAX_POINTS * self.step_s):
            yield Grid(first, min(first + (MAX_POINTS - 1) * self.step_s, self.last_s), self.step_s)

    def halves(self) -> tuple[Grid, Grid] | None:
        """Two parts, None if there is but one moment."""
        points = self.range_s // self.step_s + 1
        if points < 2:
            return None
        last = self.first_s + (points // 2 - 1) * self.step_s
        return Grid(self.first_s, last, self.step_s), Grid(last + self.step_s, self.last_s, self.step_s)


class PrometheusCollector:
    """Reads what the map names. Raises BadInput if the map or a file with a secret is wrong."""

    name = NAME

    def __init__(self, config: PrometheusConfig) -> None:
        self.config = config
        self.entries = load_map(config.map_file, config.disable)

    def collect(self, start_ns: int, end_ns: int) -> Telemetry:
        """Samples at every step of [start, end). Raises Unavailable, Rejected if Prometheus as a whole does not answer."""
        interval = Interval(start_ns, end_ns)
        grid = Grid.of(start_ns, end_ns, self.config.step_ns, time.time_ns())
        if grid is None:
            return Telemetry(gaps=(Gap(NAME, "no step of time falls into the interval before now", interval),))
        with Client(self.config) as client:
            start_s, end_s = start_ns // SECOND_NS, -(-end_ns // SECOND_NS)
            names = client.metric_names({*self.metric_names(), alerts.METRIC}, start_s, end_s)
            entries = self.with_data(names)
            fired, gaps = self._alerts(client, interval) if alerts.METRIC in names else (empty("alerts"), ())
            found = self.ask(client, grid, entries)
        gaps += gaps_of(found, interval)
        if not entries:
            gaps += (Gap(NAME, "it holds none of the metrics that the map names; `rca doctor` says more", interval),)
        return Telemetry.of(gaps, metrics=metrics_of(found), calls=calls_of(found), topology=topology_of(found), alerts=fired)

    def find_alert(self, name: str) -> Alert:
        """The last time in a day that the alert of this name fired. Raises UnknownName, Unavailable, Rejected."""
        now_s = -(-time.time_ns() // SECOND_NS)
        with Client(self.config) as client:
            answers = alerts.asked(client, now_s - _ALERT_HISTORY_S, now_s, name, self._selector)
            if answers[0].refusal:
                raise Rejected(f"{self.config.url}: {answers[0].refusal}")
            found = max(alerts.stretches(answers), key=lambda stretch: stretch.firing.start_ns, default=None)
            if found is None:
                known = client.label_values("alertname", alerts.METRIC, now_s - _ALERT_HISTORY_S, now_s)
                raise UnknownName("alerts that fired in the last day", name, known)
            told = client.get("/api/v1/alerts")
            pending = alerts.pending_since(client, found, self._selector)
        active = alerts.active(told, found.firing)
        seen_lately = _seen_lately(found.last_ns, now_s)
        fires = seen_lately if told is None else active is not None  # Thanos and the like need not have this endpoint
        summary = (active or {}).get("summary") or (active or {}).get("description") or ""
        end_ns = None if fires else found.last_ns
        return Alert(name, found.firing.start_ns, entity_of(found.firing.labels), end_ns, summary, pending_ns=pending)

    def alerts_between(self, start_ns: int, end_ns: int) -> Sequence[Alert]:
        """Alerts on entities that began to fire in [start, end), in order; `end_ns` is None while one fires.

        Raises Unavailable, Rejected.
        """
        now_s = -(-time.time_ns() // SECOND_NS)
        with Client(self.config) as client:
            answers = alerts.asked(client, start_ns // SECOND_NS - alerts.LOOK_BACK_S, now_s, selector=self._selector)
            if answers[0].refusal:
                raise Rejected(f"{self.config.url}: {answers[0].refusal}")
            told = client.get("/api/v1/alerts")
        found = []
        for stretch in alerts.stretches(answers):
            firing, last_ns = stretch.firing, stretch.last_ns
            entity = entity_of(firing.labels)
            if entity is not None and start_ns <= firing.start_ns < end_ns and firing.name != OWN_ALERT:
                seen_lately = _seen_lately(last_ns, now_s)
                fires = seen_lately and (told is None or alerts.active(told, firing) is not None)
                found.append(Alert(firing.name, firing.start_ns, entity, None if fires else last_ns))
        return sorted(found, key=lambda alert: (alert.start_ns, alert.name))

    def check(self) -> Sequence[Finding]:
        """Whether it answers, what the map finds, and what should be changed. Raises Unavailable, Rejected."""
        return tuple(check(self))

    def look(self, client: Client, now_s: int, entries: Sequence[Entry]) -> list[Found]:
        """What the entries find just now."""
        step_s = self.config.step_ns // SECOND_NS
        last_s = now_s // step_s * step_s
        return self.ask(client, Grid(last_s - step_s, last_s, step_s), entries)

    def _alerts(self, client: Client, interval: Interval) -> tuple[pl.DataFrame, tuple[Gap, ...]]:
        """Alerts that began to fire in the interval. A gap says if they could not be read."""
        if not self.config.alerts:
            return empty("alerts"), ()
        start_s, end_s = interval.start_ns // SECOND_NS - alerts.LOOK_BACK_S, -(-interval.end_ns // SECOND_NS)
        try:
            answers = alerts.asked(client, start_s, end_s, selector=self._selector)
        except (Unavailable, Rejected) as error:
            return empty("alerts"), (Gap(NAME, f"alerts: {error}", interval),)
        told = {answer.refusal for answer in answers} | {text for answer in answers for text in answer.warnings}
        frame, gaps = alerts_frame((stretch.firing for stretch in alerts.stretches(answers)), interval, NAME)
        return frame, tuple(Gap(NAME, f"alerts: {text}", interval) for text in sorted(told - {""})) + gaps

    def metric_names(self) -> frozenset[str]:
        """Every metric that an entry depends on."""
        return frozenset(name for entry in self.entries for name in (*entry.needs, *entry.without))

    def with_data(self, names: frozenset[str]) -> list[Entry]:
        """The entries worth asking where these metrics exist."""
        return [entry for entry in self.entries if names.issuperset(entry.needs) and names.isdisjoint(entry.without)]

    def ask(self, client: Client, grid: Grid, entries: Sequence[Entry]) -> list[Found]:
        """Ask for all entries, the names of nodes first. Raises the error of one if none is answered."""
        aliases = self._ask(client, grid, [entry for entry in entries if entry.frame == "alias"], {})
        nodes = {address: name for one in reversed(aliases) for address, name in one.addresses.items()}
        found = [*aliases, *self._ask(client, grid, [entry for entry in entries if entry.frame != "alias"], nodes)]
        errors = [error for one in found for error in one.errors]
        if errors and not any(one.answered for one in found):
            raise next((error for error in errors if isinstance(error, Rejected)), errors[0])
        return found

    def promql(self, entry: Entry, range_s: int) -> str:
        """The entry's query with the times and matchers of this configuration."""
        return entry.promql(
            window_s=self.config.window_ns // SECOND_NS,
            step_s=self.config.step_ns // SECOND_NS,
            range_s=range_s,
            selector=self._selector,
        )

    @property
    def _selector(self) -> str:
        return self.config.selector.strip().strip(",")

    def _ask(self, client: Client, grid: Grid, entries: Sequence[Entry], nodes: Mapping[str, str]) -> list[Found]:
        def asked(entry: Entry, part: Grid) -> Found:
            found = Found(entry, (part.first_s, part.last_s))
            try:
                for answer in self._answers(client, entry, part, grid.range_s):
                    found.take(answer, nodes, self.config.max_series)
            except (Unavailable, Rejected) as error:
                found.fail(error)
            return found

        samples = 0
        found = []
        with ThreadPoolExecutor(self.config.concurrency) as pool:
            parts = [[grid] if entry.at_once else list(grid.chunks()) for entry in entries]
            jobs = [[pool.submit(asked, entry, part) for part in chunks] for entry, chunks in zip(entries, parts, strict=True)]
            for futures in jobs:
                first, *others = (future.result() for future in futures)
                for other in others:
                    first.join(other)
                samples += len(first.samples)
                if samples > self.config.max_samples:
                    first.drop(f"not kept, there are more than {self.config.max_samples:,} samples (max_samples)")
                found.append(first)
        return found

    def _answers(self, client: Client, entry: Entry, part: Grid, range_s: int) -> Iterator[Answer]:
        """Answers for a part of the time, which is halved as long as they are too large. Raises Unavailable, Rejected."""
        if client.seconds_left <= 0:
            raise Unavailable(f"not asked, the budget of {self.config.budget / SECOND_NS:g} s was used up")
        query = self.promql(entry, range_s)
        if entry.at_once:
            yield client.instant(query, part.last_s)
            return
        answer = client.range(query, part.first_s, part.last_s, part.step_s)
        halves = part.halves() if answer.too_large else None
        if halves is None:
            yield answer
        else:
            for half in halves:
                yield from self._answers(client, entry, half, range_s)


def _seen_lately(last_ns: int, now_s: int) -> bool:
    """Whether an alert was last seen so lately that it may fire still."""
    return now_s * SECOND_NS - last_ns < alerts.LOOK_BACK_S * SECOND_NS
