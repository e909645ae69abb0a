"""Collecting from Prometheus: which metrics exist, then all queries of the map at once, under one budget."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from rca.collectors.prometheus.client import MAX_POINTS, Answer, Client
from rca.collectors.prometheus.config import PrometheusConfig
from rca.collectors.prometheus.mapping import Entry, load_map
from rca.collectors.prometheus.samples import Found, calls_of, gaps_of, metrics_of, topology_of
from rca.errors import RcaError, Rejected, Unavailable
from rca.telemetry import SECOND_NS, Gap, Interval, Telemetry

NAME: Final = "prometheus"


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
            entries = self.with_data(client.metric_names(self.metric_names(), grid.first_s, grid.last_s))
            found = self.ask(client, grid, entries)
        gaps = list(gaps_of(found, interval))
        if not entries:
            gaps.append(Gap(NAME, "it holds none of the metrics that the map names; `rca doctor` says more", interval))
        return Telemetry.of(gaps, metrics=metrics_of(found), calls=calls_of(found), topology=topology_of(found))

    def metric_names(self) -> frozenset[str]:
        """Every metric that an entry depends on."""
        return frozenset(name for entry in self.entries for name in (*entry.needs, *entry.without))

    def with_data(self, names: frozenset[str]) -> list[Entry]:
        """The entries worth asking where these metrics exist."""
        return [entry for entry in self.entries if names.issuperset(entry.needs) and names.isdisjoint(entry.without)]

    def ask(self, client: Client, grid: Grid, entries: Sequence[Entry]) -> list[Found]:
        """Ask for all entries, the names of nodes first. Raises the error of one if all fail."""
        aliases = self._ask(client, grid, [entry for entry in entries if entry.frame == "alias"], {})
        nodes = {address: name for one in reversed(aliases) for address, name in one.addresses.items()}
        return [*aliases, *self._ask(client, grid, [entry for entry in entries if entry.frame != "alias"], nodes)]

    def promql(self, entry: Entry, range_s: int) -> str:
        """The entry's query with the times and matchers of this configuration."""
        return entry.promql(
            window_s=self.config.window_ns // SECOND_NS,
            step_s=self.config.step_ns // SECOND_NS,
            range_s=range_s,
            selector=self.config.selector.strip().strip(","),
        )

    def _ask(self, client: Client, grid: Grid, entries: Sequence[Entry], nodes: Mapping[str, str]) -> list[Found]:
        def asked(entry: Entry, part: Grid) -> list[Answer] | RcaError:
            try:
                return self._answers(client, entry, part, grid.range_s)
            except (Unavailable, Rejected) as error:
                return error

        found = []
        errors: list[RcaError] = []
        with ThreadPoolExecutor(self.config.concurrency) as pool:
            parts = [(entry, [grid] if entry.at_once else list(grid.chunks())) for entry in entries]
            jobs = [(entry, [pool.submit(asked, entry, chunk) for chunk in chunks]) for entry, chunks in parts]
            for entry, futures in jobs:
                found.append(one := Found(entry))
                for future in futures:
                    answers = future.result()
                    if isinstance(answers, RcaError):
                        errors.append(answers)
                        one.problems.add(str(answers))
                        continue
                    for answer in answers:
                        one.take(answer, nodes, self.config.max_series)
        if errors and len(errors) == sum(len(futures) for _, futures in jobs):
            raise next((error for error in errors if isinstance(error, Rejected)), errors[0])
        return found

    def _answers(self, client: Client, entry: Entry, part: Grid, range_s: int) -> list[Answer]:
        """Answers for a part of the time, which is halved as long as they are too large. Raises Unavailable, Rejected."""
        if client.seconds_left <= 0:
            raise Unavailable(f"not asked, the budget of {self.config.budget / SECOND_NS:g} s was used up")
        query = self.promql(entry, range_s)
        if entry.at_once:
            return [client.instant(query, part.last_s)]
        answer = client.range(query, part.first_s, part.last_s, part.step_s)
        halves = part.halves() if answer.too_large else None
        if halves is None:
            return [answer]
        return [answer for half in halves for answer in self._answers(client, entry, half, range_s)]
