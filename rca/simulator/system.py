"""Random systems: services, what they depend on, the operations they offer and the calls those make, where they run.

A *component* is a service, database, cache (a database by kind), queue or external host. Components run in pods; those that
somebody else runs have one pod on no node. An *operation* belongs to a component; statements of databases and messages of queues
are operations too. A *site* is a place in an operation's code that calls another operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from rca.simulator.config import Config, LoadRanges, Range, TopologyRanges
from rca.simulator.names import Names
from rca.telemetry import EntityKind

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

PLENTY: Final = 1e6
"""Cores or threads of what never runs out of them."""
_STATEMENTS: Final = ("SELECT", "INSERT", "UPDATE")
_VERBS: Final = ("GET", "GET", "GET", "POST", "PUT")
_TIMEOUTS: Final = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 15.0, 30.0, 60.0)
_MOST_STEPS: Final = 6


@dataclass(eq=False)
class _Component:
    name: str
    kind: EntityKind
    cache: bool = False
    product: str = ""
    replicas: int = 1
    on_nodes: bool = True
    operations: list[int] = field(default_factory=list)
    like: int = -1
    """Number of the service that this is an instance of, -1 where it is no instance."""


@dataclass(eq=False)
class _Operation:
    component: int
    name: str
    cpu: float
    idle: float
    spread: float
    entry: float = 0.0
    consumes: int = -1
    base_error: float = 0.0


@dataclass(eq=False)
class _Site:
    source: int
    target: int
    chance: float = 1.0
    together: bool = False
    critical: bool = True
    behind: int = -1
    """The site of the cache that may spare this call."""


@dataclass(frozen=True, eq=False)
class System:
    """A system. C components (services first), O operations by level (callees after callers), K sites by operation and then in
    the order of the code, P pods, N nodes, L connection pools."""

    shape: str
    speaks: str
    """http or rpc: how operations and client spans are named."""
    says_tables: bool
    """Client spans name a statement with its table, else by its verb alone."""
    names: tuple[str, ...]  # (C,)
    kinds: tuple[EntityKind, ...]  # (C,)
    products: tuple[str, ...]  # (C,) of databases and queues
    caches: Bools  # (C,)
    services: int
    instance_of: Ints  # (C,) same number: instances of the same service; -1 where services are whole
    threads: Floats  # (C,) workers of one pod
    patience: Floats  # (C,) requests that wait in one pod before others are turned away
    cores: Floats  # (C,) CPU limit of one pod
    memory: Floats  # (C,) bytes that one pod uses
    memory_limit: Floats  # (C,)
    pauses: Floats  # (C,) chance that a request meets a pause of a garbage collector
    waits_inside: Bools  # (C,) requests wait for a worker within their server span, else before it
    pod_names: tuple[str, ...]  # (P,)
    pod_component: Ints  # (P,)
    pod_node: Ints  # (P,) -1: on nobody's node
    node_names: tuple[str, ...]  # (N,)
    node_cores: Floats  # (N,)
    operation_names: tuple[str, ...]  # (O,)
    component_of: Ints  # (O,)
    level: Ints  # (O,)
    cpu: Floats  # (O,) s
    idle: Floats  # (O,) s
    spread: Floats  # (O,)
    entry: Floats  # (O,) requests a second from outside, on average
    consumes: Ints  # (O,) component of the queue, -1
    base_error: Floats  # (O,) chance to fail without a reason
    rate: Floats  # (O,) requests a second, on average
    source: Ints  # (K,)
    target: Ints  # (K,)
    chance: Floats  # (K,)
    group: Ints  # (K,) calls of one group are made at once, groups one after another
    critical: Bools  # (K,)
    behind: Ints  # (K,)
    timeout: Floats  # (K,) s
    retries: Ints  # (K,)
    backoff: Floats  # (K,) s
    network: Floats  # (K,) s
    pool: Ints  # (K,) connection pool, -1
    pool_size: Floats  # (L,) connections of one pod
    pool_owner: Ints  # (L,) component
    pool_target: Ints  # (L,) component
    hit_ratio: float

    @cached_property
    def source_component(self) -> Ints:
        """(K,)"""
        return self.component_of[self.source]

    @cached_property
    def target_component(self) -> Ints:
        """(K,)"""
        return self.component_of[self.target]

    @cached_property
    def replicas(self) -> Ints:
        """(C,)"""
        return np.bincount(self.pod_component, minlength=len(self.names))

    @cached_property
    def pods_of(self) -> tuple[Ints, ...]:
        """(C,) pods of each component."""
        return tuple(np.flatnonzero(self.pod_component == c) for c in range(len(self.names)))

    @cached_property
    def operations_of(self) -> tuple[Ints, ...]:
        """(C,) operations of each component."""
        return tuple(np.flatnonzero(self.component_of == c) for c in range(len(self.names)))

    @cached_property
    def sites_of(self) -> tuple[Ints, ...]:
        """(O,) sites of each operation, in the order of the code."""
        return tuple(np.flatnonzero(self.source == o) for o in range(len(self.operation_names)))

    @cached_property
    def base_failure(self) -> Floats:
        """(O,) chance to fail without a reason, here or below."""
        succeeds = 1 - self.base_error
        for o in range(len(succeeds) - 1, -1, -1):
            for k in self.sites_of[o].tolist():
                if self.critical[k]:
                    succeeds[o] *= 1 - self.chance[k] * (1 - succeeds[self.target[k]]) ** (1 + self.retries[k])
        return 1 - succeeds

    def in_pods(self, component: int) -> bool:
        """True if it runs in pods that the telemetry knows."""
        return bool(self.pod_node[self.pods_of[component][0]] >= 0)

    def graph_kind(self, component: int) -> EntityKind:
        """Its kind in the service graph: what runs in pods of its own is a service there."""
        return "service" if self.in_pods(component) else self.kinds[component]


def draw_system(rng: np.random.Generator, config: Config, services: tuple[int, int] | None = None) -> System:
    """A random system. `services`: fewest and most, in place of the configuration's range."""
    draft = _Draft(rng, config.topology, config.load)
    count = Range(*services, log=True) if services else config.topology.services
    draft.make_services(count.whole(rng))
    draft.make_calls()
    draft.make_queues()
    draft.make_databases()
    draft.make_externals()
    draft.leave_out_unused()
    if config.topology.instances_share and rng.random() < config.topology.instances_share:
        draft.split_into_instances()
    return _sized(draft)


class _Draft:
    """A system in the making, as lists."""

    def __init__(self, rng: np.random.Generator, topology: TopologyRanges, load: LoadRanges) -> None:
        self.rng, self.topology, self.load = rng, topology, load
        self.names = Names(rng)
        self.shape = str(rng.choice(topology.shapes))
        self.speaks = "http" if rng.random() < 0.65 else "rpc"
        self.says_tables = bool(rng.random() < 0.5)
        self.own_pods = bool(rng.random() < topology.own_pods_share)
        self.components: list[_Component] = []
        self.operations: list[_Operation] = []
        self.sites: list[_Site] = []
        self.services = 0
        self.entries = 1

    # --- services -----------------------------------------------------------------------------------------------

    def make_services(self, count: int) -> None:
        shares = np.array(self.topology.replica_shares)
        self.services = count
        self.entries = 1 if count < 12 else int(self.rng.integers(1, 4))
        deepest = self.topology.chain_depth if self.shape == "chain" else self.topology.depth
        layers = min(deepest.whole(self.rng), count)
        replicas = 1 + np.searchsorted(np.cumsum(shares / shares.sum()), self.rng.random(count))
        layer = 1 + np.arange(-self.entries, count - self.entries) * (layers - 1) // max(count - self.entries, 1)
        self.rank = np.maximum(layer, 0)
        self.lane = np.arange(count) % max(count // layers, 1)
        self.workers = (self.rng.random(count) < self.topology.worker_share) & (self.rank > 0)
        for i in range(count):
            self.components.append(_Component(self.names.word(), "service", replicas=int(replicas[i])))
            if self.workers[i]:
                continue  # all it does is to read a queue
            for _ in range(self.topology.operations.whole(self.rng)):
                self._operation(i)

    def _operation(self, component: int) -> int:
        rng, load = self.rng, self.load
        word = self.names.word()
        if self.speaks == "http":
            name = f"{_VERBS[int(rng.random() * len(_VERBS))]} /{word}"
        else:
            name = f"{self.components[component].name}.{self.components[component].name.title()}/{word.title()}"
        base = load.base_errors.draw(rng) if rng.random() < load.base_error_share else 0.0
        made = _Operation(
            component, name, load.cpu_seconds.draw(rng), load.idle_seconds.draw(rng), load.spread.draw(rng), base_error=base
        )
        return self._add(made)

    def _add(self, operation: _Operation) -> int:
        self.operations.append(operation)
        self.components[operation.component].operations.append(len(self.operations) - 1)
        return len(self.operations) - 1

    def _weights(self, i: int) -> Floats:
        """How likely service i calls each service, (S,)."""
        ahead = self.rank - self.rank[i]
        if self.shape == "layered":
            weights = np.where(ahead == 1, 1.0, np.where(ahead == 2, 0.15, 0.0))
        elif self.shape == "chain":
            lane = (self.lane == self.lane[i]) | (self.rank[i] == 0)
            weights = np.where(ahead == 1, np.where(lane, 1.0, 0.03), np.where(ahead == 2, np.where(lane, 0.1, 0.01), 0.0))
        else:
            weights = np.where(ahead > 0, np.exp(-ahead / 2.0), 0.0)
            if self.shape == "hub":
                hub = self.entries + (self.services - self.entries) // 2
                weights[hub : hub + 1 + self.services // 25] *= 12
        weights[: self.entries] = 0.0
        weights[self.workers] = 0.0
        return weights

    def make_calls(self) -> None:
        mean = self.topology.service_calls.draw(self.rng)
        for i in range(self.services):
            weights = self._weights(i)
            reachable = int((weights > 0).sum())
            mine = self.components[i].operations
            wanted = self.rng.poisson(mean, len(mine)) + (i < self.entries)
            if self.shape == "chain":
                wanted = np.maximum(wanted, self.rng.random(len(mine)) < 0.8)
            for o, n in zip(list(mine), np.minimum(wanted, min(reachable, _MOST_STEPS)).tolist(), strict=True):
                if i < self.entries:
                    self.operations[o].entry = float(self.rng.gamma(1.0)) + 0.05
                for callee in sorted({self._pick(weights) for _ in range(n)}):
                    self._call(o, self._one_of(self.components[callee].operations))
        self._adopt()

    def _pick(self, weights: Floats) -> int:
        """A place, as likely as it weighs."""
        edges = np.cumsum(weights)
        return int(np.searchsorted(edges, self.rng.random() * edges[-1], side="right"))

    def _one_of(self, places: Sequence[int]) -> int:
        return places[int(self.rng.random() * len(places))]

    def _call(self, source: int, target: int) -> None:
        optional = self.rng.random() < self.topology.optional_share
        chance = 1.0 if self.rng.random() < self.topology.certain_share else float(self.rng.uniform(0.15, 0.9))
        self.sites.append(_Site(source, target, chance, critical=not optional))

    def _adopt(self) -> None:
        """Find a caller for every operation that has none."""
        called = {site.target for site in self.sites}
        likely = np.stack([self._weights(j) for j in range(self.services)])  # (caller, callee)
        for i in range(self.entries, self.services):
            for o in self.components[i].operations:
                if o not in called:
                    back = np.where(self.workers, 0.0, likely[:, i])
                    if not back.any():
                        back = ((self.rank < self.rank[i]) & ~self.workers).astype(float)
                    self._call(self._one_of(self.components[self._pick(back)].operations), o)

    # --- what services depend on --------------------------------------------------------------------------------

    def _backend(self, kind: EntityKind, product: str, *, cache: bool = False) -> int:
        on_nodes = self.own_pods and kind != "external"
        name = f"api.{self.names.word()}.example" if kind == "external" else self.names.word()
        self.components.append(_Component(name, kind, cache, product, on_nodes=on_nodes))
        return len(self.components) - 1

    def _chosen(self, share: float) -> list[int]:
        return [i for i in range(self.services) if self.rng.random() < share]

    def make_databases(self) -> None:
        rng, load = self.rng, self.load
        users = self._chosen(self.topology.database_share)
        product = str(rng.choice(("postgresql", "mysql", "mongodb")))
        cache = -1
        while users:
            sharing, users = users[: (n := self.topology.services_per_database.whole(rng))], users[n:]
            database = self._backend("database", product)
            for service in sharing:
                cached = rng.random() < self.topology.cache_share / self.topology.database_share
                if cached and (cache < 0 or rng.random() < 0.3):
                    cache = self._backend("database", "redis", cache=True)
                table = self.names.word()
                statements = [
                    self._add(
                        _Operation(database, f"{verb} {table}", load.statement_seconds.draw(rng), 0.0, load.spread.draw(rng))
                    )
                    for verb in _STATEMENTS[: int(rng.integers(1, 4))]
                ]
                lookup = self._add(_Operation(cache, "GET", load.cache_seconds.draw(rng), 0.0, 0.3)) if cached else -1
                self._query(service, statements, lookup)

    def _query(self, service: int, statements: Sequence[int], lookup: int) -> None:
        for o in self.components[service].operations:
            if self.rng.random() < 0.2:
                continue
            behind = -1
            if lookup >= 0:
                behind = len(self.sites)
                self.sites.append(_Site(o, lookup, critical=False))
            for _ in range(1 + int(self.rng.random() < 0.35)):
                self.sites.append(_Site(o, self._one_of(statements), behind=behind))

    def make_queues(self) -> None:
        for worker in np.flatnonzero(self.workers).tolist():
            ahead = np.flatnonzero((self.rank <= self.rank[worker]) & ~self.workers).tolist()
            self._consume(worker, self._publish(self._one_of(ahead)))
        for publisher in self._chosen(self.topology.queue_share):
            if self.workers[publisher]:
                continue
            queue = self._publish(publisher)
            later = np.flatnonzero(self.rank > self.rank[publisher]).tolist()
            if later:  # else nobody of this system reads it
                self._consume(self._one_of(later), queue)

    def _publish(self, publisher: int) -> int:
        """A new queue that a service writes to."""
        queue = self._backend("queue", ("rabbitmq", "kafka")[int(self.rng.integers(2))])
        destination = self._add(_Operation(queue, "send", self.load.publish_seconds.draw(self.rng), 0.0, 0.3))
        source = self._one_of(self.components[publisher].operations)
        chance = float(self.rng.uniform(0.3, 1.0))
        self.sites.append(_Site(source, destination, chance, critical=bool(self.rng.random() < 0.6)))
        return queue

    def _consume(self, consumer: int, queue: int) -> None:
        """An operation that reads the queue, and perhaps calls others."""
        o = self._operation(consumer)
        self.operations[o].name = f"process {self.components[queue].name}"
        self.operations[o].consumes = queue
        weights = self._weights(consumer)
        if weights.any() and self.rng.random() < 0.6:
            self._call(o, self._one_of(self.components[self._pick(weights)].operations))

    def make_externals(self) -> None:
        known: list[int] = []
        for service in self._chosen(self.topology.external_share):
            if not known or self.rng.random() < 0.7:
                host = self._backend("external", "")
                idle = self.load.external_seconds.draw(self.rng)
                known.append(self._add(_Operation(host, "POST", 0.0, idle, self.load.spread.draw(self.rng))))
            mine = self.components[service].operations
            self.sites.append(_Site(self._one_of(mine), self._one_of(known), critical=bool(self.rng.random() < 0.7)))

    def leave_out_unused(self) -> None:
        """Take out statements that nobody sends and what is left without any."""
        used = sorted({s.target for s in self.sites} | {s.source for s in self.sites} | self._entrances())
        needed = sorted({self.operations[o].component for o in used} | set(range(self.services)))
        operation_at, component_at = {o: i for i, o in enumerate(used)}, {c: i for i, c in enumerate(needed)}
        self.components = [self.components[c] for c in needed]
        self.operations = [self.operations[o] for o in used]
        for operation in self.operations:
            operation.component = component_at[operation.component]
            operation.consumes = component_at.get(operation.consumes, -1)
        for site in self.sites:
            site.source, site.target = operation_at[site.source], operation_at[site.target]

    def split_into_instances(self) -> None:
        """Make a service of every instance, with operations of its own; callers spread over the instances.

        What reads a queue stays whole.
        """
        reading = {operation.component for operation in self.operations if operation.consumes >= 0}
        copies = [
            self.topology.instances.whole(self.rng) if c < self.services and c not in reading else 1
            for c in range(len(self.components))
        ]
        numbers = [(c, i) for c, n in enumerate(copies) for i in range(n)]
        place = {pair: at for at, pair in enumerate(numbers)}
        operation_numbers = [(o, i) for o, operation in enumerate(self.operations) for i in range(copies[operation.component])]
        operation_at = {pair: at for at, pair in enumerate(operation_numbers)}
        components = []
        for c, i in numbers:
            whole = self.components[c]
            if c < self.services:
                whole = replace(whole, name=f"{whole.name}-{i}", replicas=1, like=c)
            components.append(whole)
        operations = []
        for o, i in operation_numbers:
            whole_operation = self.operations[o]
            c = whole_operation.component
            queue = place[whole_operation.consumes, 0] if whole_operation.consumes >= 0 else -1
            entry = whole_operation.entry / copies[c]
            operations.append(replace(whole_operation, component=place[c, i], entry=entry, consumes=queue))
        self.sites = self._split_sites(copies, operation_at)
        self.components, self.operations = components, operations
        self.services = sum(copies[: self.services])

    def _split_sites(self, copies: Sequence[int], operation_at: dict[tuple[int, int], int]) -> list[_Site]:
        """Calls from every instance to every instance; a cache is one, so that what it may spare stays known."""
        sites: list[_Site] = []
        at: dict[tuple[int, int], int] = {}  # (site before, instance of the caller) -> its last copy
        for k, site in enumerate(self.sites):
            callers, callees = (copies[self.operations[o].component] for o in (site.source, site.target))
            for i in range(callers):
                for j in range(callees):
                    source, target = operation_at[site.source, i], operation_at[site.target, j]
                    behind = at[site.behind, i] if site.behind >= 0 else -1
                    at[k, i] = len(sites)
                    sites.append(replace(site, source=source, target=target, chance=site.chance / callees, behind=behind))
        return sites

    def _entrances(self) -> set[int]:
        return {o for o, operation in enumerate(self.operations) if operation.entry > 0 or operation.consumes >= 0}


# --- from lists to arrays, and how large everything must be ---------------------------------------------------------


def _levels(draft: _Draft) -> Ints:
    """Longest way from an entry to each operation, (O,)."""
    pairs = [(s.source, s.target) for s in draft.sites]
    sends = {draft.operations[s.target].component: s.target for s in draft.sites}
    pairs += [(sends[o.consumes], i) for i, o in enumerate(draft.operations) if o.consumes >= 0]
    source, target = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    level = np.zeros(len(draft.operations), dtype=np.int64)
    while True:
        before = level.copy()
        np.maximum.at(level, target, level[source] + 1)
        if (level == before).all():
            return level


def _ordered_sites(draft: _Draft, place: Ints) -> tuple[list[_Site], list[int], Ints]:
    """(sites by operation and place in the code, their places before, group of each)."""
    rng = draft.rng
    first: dict[int, float] = {}
    for k, site in enumerate(draft.sites):
        first[k] = first[site.behind] + 1e-6 * (k + 1) if site.behind >= 0 else float(rng.random())
    order = sorted(range(len(draft.sites)), key=lambda k: (int(place[draft.sites[k].source]), first[k]))
    at_once = {o for o in range(len(draft.operations)) if rng.random() < draft.topology.parallel_share}
    groups, group = [], -1
    opened: tuple[int, bool] = (-1, False)
    for k in order:
        site = draft.sites[k]
        parallel = site.source in at_once and draft.operations[site.target].component < draft.services
        if not (parallel and opened == (site.source, True)):
            group += 1
        opened = (site.source, parallel)
        groups.append(group)
    return [draft.sites[k] for k in order], order, np.array(groups, dtype=np.int64)


def _rates(draft: _Draft, order: Ints, hit_ratio: float, entry: Floats) -> Floats:
    """Requests a second of every operation on average, (O,) as drafted; `order`: callers first."""
    below: dict[int, list[tuple[int, float]]] = {}
    for site in draft.sites:
        chance = site.chance * (1 - hit_ratio) if site.behind >= 0 else site.chance
        below.setdefault(site.source, []).append((site.target, chance))
    readers: dict[int, list[int]] = {}
    for o, operation in enumerate(draft.operations):
        readers.setdefault(operation.consumes, []).append(o)
    rate = entry.tolist()
    for o in order.tolist():
        for target, chance in below.get(o, ()):
            rate[target] += rate[o] * chance
        component = draft.operations[o].component
        if draft.components[component].kind == "queue":
            for reader in readers.get(component, ()):
                rate[reader] = rate[o]
    return np.array(rate)


def _sized(draft: _Draft) -> System:
    rng, load, components, operations = draft.rng, draft.load, draft.components, draft.operations
    level = _levels(draft)
    order = np.argsort(level, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    hit_ratio = float(rng.uniform(0.7, 0.97))
    entry = np.array([o.entry for o in operations])
    entry *= load.requests_per_second.draw(rng) / entry.sum()
    services_only = [s for s in draft.sites if operations[s.target].component < draft.services]
    for _ in range(40):
        rate = _rates(draft, order, hit_ratio, entry)
        if rate.sum() <= draft.topology.calls_per_request * entry.sum():
            break
        for site in services_only:
            site.chance *= 0.8
    sites, before, group = _ordered_sites(draft, place)
    where = np.full(len(sites) + 1, -1)
    where[before] = np.arange(len(sites))
    rate = np.maximum(rate, 1e-4)
    component_of = np.array([o.component for o in operations])[order]
    cpu, idle = np.array([o.cpu for o in operations])[order], np.array([o.idle for o in operations])[order]
    source, target = place[[s.source for s in sites]], place[[s.target for s in sites]]
    behind = where[[s.behind for s in sites]] if sites else np.zeros(0, dtype=np.int64)
    chance = np.array([s.chance for s in sites])
    network = np.exp(rng.normal(np.log(load.network_seconds.draw(rng)), 0.3, len(sites)))
    latency = _quiet_latency(cpu + idle, source, target, chance * np.where(behind >= 0, 1 - hit_ratio, 1.0), group, network)
    timeout, retries, backoff = _policies(draft, latency[target])
    pod_component = np.repeat(np.arange(len(components)), [c.replicas for c in components])
    pod_node, nodes = _placed(draft, pod_component)
    pool, owner, aim = _pools(source, target, component_of, components)
    busy = np.bincount(component_of, weights=rate[order] * cpu, minlength=len(components))
    held = np.bincount(component_of, weights=rate[order] * latency, minlength=len(components))
    replicas = np.array([c.replicas for c in components], dtype=np.float64)
    external = np.array([c.kind == "external" for c in components])
    count = len(components)
    use = np.array([load.cpu_use.draw(rng) for _ in range(count)])
    cores = np.where(external, PLENTY, np.maximum(busy / replicas / use, 0.1))
    asynchronous = rng.random(count) < 0.35
    asynchronous[draft.services :] = True
    use = np.array([load.thread_use.draw(rng) for _ in range(count)])
    threads = np.where(asynchronous, 400.0, np.clip(np.ceil(held / replicas / use), 4, 200))
    connection_use = np.array([load.thread_use.draw(rng) for _ in owner])
    on_call = rate[order][source] * chance * np.where(behind >= 0, 1 - hit_ratio, 1.0) * (latency[target] + network)
    connections = np.bincount(pool[pool >= 0], weights=on_call[pool >= 0], minlength=len(owner)) / replicas[owner]
    memory = np.exp(rng.normal(np.log(200e6), 0.7, count))
    node_demand = np.bincount(pod_node[pod_node >= 0], weights=(busy / replicas)[pod_component][pod_node >= 0], minlength=nodes)
    node_use = np.array([load.node_use.draw(rng) for _ in range(nodes)])
    return System(
        shape=draft.shape,
        speaks=draft.speaks,
        says_tables=draft.says_tables,
        names=tuple(c.name for c in components),
        kinds=tuple(c.kind for c in components),
        products=tuple(c.product for c in components),
        caches=np.array([c.cache for c in components]),
        services=draft.services,
        instance_of=np.array([c.like for c in components], dtype=np.int64),
        threads=np.where(external, PLENTY, threads),
        patience=np.where(external, PLENTY, threads * rng.uniform(2, 20, count)),
        cores=cores,
        memory=memory,
        memory_limit=memory * rng.uniform(1.4, 3.0, count),
        pauses=np.where(rng.random(count) < load.pause_share, rng.uniform(0.001, 0.01, count), 0.0),
        waits_inside=rng.random(count) < 0.5,
        pod_names=_pod_names(draft, pod_component),
        pod_component=pod_component,
        pod_node=pod_node,
        node_names=tuple(f"node-{draft.names.suffix(5)}" for _ in range(nodes)),
        node_cores=np.maximum(np.ceil(node_demand / node_use), 2.0),
        operation_names=tuple(operations[o].name for o in order.tolist()),
        component_of=component_of,
        level=level[order],
        cpu=cpu,
        idle=idle,
        spread=np.array([o.spread for o in operations])[order],
        entry=entry[order],
        consumes=np.array([o.consumes for o in operations])[order],
        base_error=np.array([o.base_error for o in operations])[order],
        rate=rate[order],
        source=source,
        target=target,
        chance=chance,
        group=group,
        critical=np.array([s.critical for s in sites], dtype=bool),
        behind=behind,
        timeout=timeout,
        retries=retries,
        backoff=backoff,
        network=network,
        pool=pool,
        pool_size=np.maximum(np.ceil(connections / np.maximum(connection_use, 0.01)), 3.0),
        pool_owner=owner,
        pool_target=aim,
        hit_ratio=hit_ratio,
    )


def _quiet_latency(own: Floats, source: Ints, target: Ints, chance: Floats, group: Ints, network: Floats) -> Floats:
    """Seconds that a request takes where nobody waits in line, (O,); operations and sites in their final order."""
    latency = own.tolist()
    below: dict[int, list[tuple[int, float, int, float]]] = {}
    columns = target.tolist(), chance.tolist(), group.tolist(), network.tolist()
    for o, *site in zip(source.tolist(), *columns, strict=True):
        below.setdefault(o, []).append(tuple(site))
    for o in range(len(latency) - 1, -1, -1):
        longest: dict[int, float] = {}
        for callee, likely, g, away in below.get(o, ()):
            longest[g] = max(longest.get(g, 0.0), likely * (latency[callee] + away))
        latency[o] += sum(longest.values())
    return np.array(latency)


def _policies(draft: _Draft, latency: Floats) -> tuple[Floats, Ints, Floats]:
    """(time-out, retries, pause before a retry in s) of every site, (K,) each. latency: of what the site calls."""
    rng, steps = draft.rng, np.array(_TIMEOUTS)
    wanted = latency * np.exp(rng.uniform(np.log(8), np.log(200), len(latency)))
    timeout = steps[np.minimum(np.searchsorted(steps, wanted), len(steps) - 1)]
    retrying = rng.random() < draft.load.retry_share
    retries = (
        np.where(rng.random(len(latency)) < 0.3, rng.integers(1, 3, len(latency)), 0) if retrying else np.zeros(len(latency))
    )
    return timeout, retries.astype(np.int64), rng.uniform(0.01, 0.2, len(latency))


def _placed(draft: _Draft, pod_component: Ints) -> tuple[Ints, int]:
    """Node of every pod, replicas spread as far as they go, and the number of nodes."""
    rng = draft.rng
    at_home = np.array([draft.components[c].on_nodes and draft.components[c].kind != "external" for c in pod_component.tolist()])
    at_home &= np.array([c < draft.services or draft.own_pods for c in pod_component.tolist()])
    nodes = max(2, round(int(at_home.sum()) / draft.topology.pods_per_node.draw(rng)))
    start = {c: int(rng.integers(nodes)) for c in range(len(draft.components))}
    node, seen = np.full(len(pod_component), -1), dict.fromkeys(start, 0)
    for p, c in enumerate(pod_component.tolist()):
        if at_home[p]:
            node[p] = (start[c] + seen[c]) % nodes
            seen[c] += 1
    return node, nodes


def _pools(source: Ints, target: Ints, component_of: Ints, components: Sequence[_Component]) -> tuple[Ints, Ints, Ints]:
    """(pool of every site or -1, owner and target of every pool): one for every service and database."""
    found: dict[tuple[int, int], int] = {}
    pool = np.full(len(source), -1)
    for k, (a, b) in enumerate(zip(component_of[source].tolist(), component_of[target].tolist(), strict=True)):
        if components[b].kind == "database" and not components[b].cache:
            pool[k] = found.setdefault((a, b), len(found))
    ends = np.array(list(found), dtype=np.int64).reshape(-1, 2)
    return pool, ends[:, 0], ends[:, 1]


def _pod_names(draft: _Draft, pod_component: Ints) -> tuple[str, ...]:
    names, template = [], {c: draft.names.suffix(9) for c in range(len(draft.components))}
    for p, c in enumerate(pod_component.tolist()):
        name = draft.components[c].name
        number = p - int(np.searchsorted(pod_component, c))
        names.append(f"{name}-{template[c]}-{draft.names.suffix(5)}" if c < draft.services else f"{name}-{number}")
    return tuple(names)
