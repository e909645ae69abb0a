"""One synthetic incident in a small shop, for the demo and for tests.

Every request walks a fixed tree of calls. A fault changes what happens inside its culprit only; callers wait longer, fail or
call less because the tree makes them, not because anything was painted onto them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from rca.errors import UnknownName
from rca.faults import NO_FAULT
from rca.incidents.incident import BaselineModel, EntityModel, Incident, IntervalModel, Label
from rca.telemetry import MINUTE_NS, SECOND_NS, Telemetry

FAULTS: Final = ("cpu_contention", "network_delay", "exception", "return", NO_FAULT)
START_NS: Final = 1_768_471_200 * SECOND_NS  # 2026-01-15 10:00 UTC
BASELINE_MINUTES: Final = 10
INCIDENT_MINUTES: Final = 5
_ONSET_NS: Final = START_NS + BASELINE_MINUTES * MINUTE_NS
_END_NS: Final = _ONSET_NS + INCIDENT_MINUTES * MINUTE_NS
_MS: Final = 1_000_000
_SERVER, _CLIENT = 2, 3

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
_Columns = dict[str, pl.Series]


@dataclass(frozen=True)
class _Call:
    """A call in a request's tree: the callee, its operation, its own work in milliseconds, and what it calls in turn."""

    callee: str
    operation: str
    work_ms: float
    calls: tuple[_Call, ...] = ()
    database: str = ""
    """Product, if the callee is a database: it emits no spans of its own."""


def _postgresql(statement: str) -> _Call:
    return _Call("postgresql", statement, 3.0, database="postgresql")


def _redis(command: str) -> _Call:
    return _Call("redis", command, 0.6, database="redis")


_CATALOGUE = _Call("catalogue", "GetProduct", 3, (_postgresql("SELECT products"),))
_RECOMMENDATION = _Call("recommendation", "ListRecommendations", 5, (_CATALOGUE,))
_CART = _Call("cart", "GetCart", 2, (_redis("HGETALL"),))
_CHECKOUT = _Call(
    "checkout",
    "PlaceOrder",
    8,
    (
        _CART,
        _CATALOGUE,
        _Call("shipping", "GetQuote", 2),
        _Call("payment", "Charge", 6, (_postgresql("INSERT payments"),)),
        _Call("shipping", "ShipOrder", 3),
        _Call("email", "SendConfirmation", 7),
        _Call("cart", "EmptyCart", 2, (_redis("DEL"),)),
    ),
)
_REQUESTS: Final = (  # (share of the traffic, tree)
    (0.30, _Call("frontend", "GET /", 4, (_Call("catalogue", "ListProducts", 5, (_postgresql("SELECT products"),)), _CART))),
    (0.35, _Call("frontend", "GET /product/{id}", 4, (_CATALOGUE, _CART, _RECOMMENDATION))),
    (0.20, _Call("frontend", "POST /cart", 3, (_CATALOGUE, _Call("cart", "AddItem", 2, (_redis("HSET"),))))),
    (0.15, _Call("frontend", "POST /cart/checkout", 5, (_CHECKOUT,))),
)
SERVICES: Final = ("cart", "catalogue", "checkout", "email", "frontend", "payment", "recommendation", "shipping")
DATABASES: Final = ("postgresql", "redis")
_NODES: Final = ("node-a", "node-b", "node-c")
_POD_SUFFIX: Final = "7c9d8f6b5-x2k4q"
_DONE_TEMPLATE: Final = "{} done in <*> ms"
_ERROR_TEMPLATE: Final = "unhandled error in {}: <*>"


def example_incident(
    seed: int = 7, fault_kind: str = "cpu_contention", culprit: str = "catalogue", requests_per_second: float = 3.0
) -> tuple[Incident, Telemetry]:
    """An incident of 5 minutes after 10 quiet ones. Equal arguments give equal telemetry; the id names the seed alone.

    `fault_kind` is one of FAULTS (`no_fault`: a false alarm without a label), `culprit` one of SERVICES. Raises UnknownName.
    """
    if fault_kind not in FAULTS:
        raise UnknownName("fault_kind", fault_kind, FAULTS)
    if culprit not in SERVICES:
        raise UnknownName("culprit", culprit, SERVICES)
    shop = _Shop(np.random.default_rng(seed), fault_kind, culprit)
    total = int(requests_per_second * (_END_NS - START_NS) / SECOND_NS)
    for (_, request), n in zip(_REQUESTS, shop.rng.multinomial(total, [share for share, _ in _REQUESTS]), strict=True):
        shop.serve(request, int(n))
    spans = pl.concat(shop.spans).sort("start_time_unix_nano", "span_id")
    telemetry = Telemetry.of(
        spans=spans,
        metrics=_metrics(shop, spans),
        events=_events(shop),
        logs=_logs(shop, spans),
        alerts=_alerts(shop),
        topology=_topology(),
    )
    return _incident(shop, seed), telemetry


def _incident(shop: _Shop, seed: int) -> Incident:
    culprit = EntityModel(kind="service", name=shop.culprit)
    label = Label(entity=culprit, fault_kind=shop.fault_kind, provenance="injected", author="example", at_ns=_ONSET_NS)
    return Incident(
        id=f"example-{seed}",  # it must not give the answer away
        system="example-shop",
        window=IntervalModel(start_ns=_ONSET_NS, end_ns=_END_NS),
        detected_ns=_ONSET_NS + 90 * SECOND_NS,
        onset_ns=None if shop.fault_kind == NO_FAULT else _ONSET_NS,
        baselines=(BaselineModel(start_ns=START_NS, end_ns=_ONSET_NS),),
        labels=() if shop.fault_kind == NO_FAULT else (label,),
        alerting=(EntityModel(kind="service", name="frontend"),),
        source="example",
        title="Synthetic incident in a small shop",
    )


@dataclass
class _Shop:
    """The simulated shop: its random numbers, its fault, and the spans that it has emitted."""

    rng: np.random.Generator
    fault_kind: str
    culprit: str
    spans: list[pl.DataFrame] = field(default_factory=list)
    cut_short: list[pl.Series] = field(default_factory=list)
    """Ids of server spans that returned early."""

    def serve(self, request: _Call, n: int) -> None:
        """Let n requests of one kind arrive, at even odds all the time."""
        arrivals = np.sort(self.rng.integers(START_NS, _END_NS, n))
        trace_ids = _hex_ids(self.rng, n, 16)
        self._handle(request, arrivals, trace_ids, pl.Series([None] * n, dtype=pl.String))

    def _handle(self, call: _Call, start: Ints, traces: pl.Series, parents: pl.Series) -> tuple[Ints, Bools]:
        """Serve a call that arrived at `start`. Returns when it ended and whether it failed, (n,) each."""
        n = len(start)
        ids = _hex_ids(self.rng, n, 8)
        faulty = self._faulty(call.callee, start)
        thrown = faulty & (self.fault_kind == "exception") & (self.rng.random(n) < 0.8)
        returned = faulty & (self.fault_kind == "return") & (self.rng.random(n) < 0.9)
        slices = self._work_ns(call, faulty, len(call.calls) + 1)  # (slices, n): work before, between and after the calls
        now, failed = start + np.where(returned, slices[0] // 3, slices[0]), thrown.copy()
        goes_on = ~thrown & ~returned
        for child, work in zip(call.calls, slices[1:], strict=True):
            rows = np.flatnonzero(goes_on)
            picked = pl.Series(rows)
            ended, broken = self._call(call.callee, child, now[rows], traces.gather(picked), ids.gather(picked))
            now[rows] = ended + work[rows]
            failed[rows] |= broken
            goes_on[rows] &= ~broken  # an error from below ends the request
        self.cut_short.append(ids.filter(pl.Series(returned)))
        self._emit(call, _SERVER, call.callee, _columns(traces, ids, parents, start, now, failed))
        return now, failed

    def _call(self, caller: str, call: _Call, start: Ints, traces: pl.Series, parents: pl.Series) -> tuple[Ints, Bools]:
        """Call out at `start`: network, then the callee, then network again. Returns end and failure, (n,) each."""
        n = len(start)
        ids = _hex_ids(self.rng, n, 8)
        there, back = self._network_ns(caller, start), self._network_ns(call.callee, start)
        if call.database:
            ended, failed = start + there + self._work_ns(call, np.zeros(n, dtype=bool), 1)[0], np.zeros(n, dtype=bool)
        else:
            ended, failed = self._handle(call, start + there, traces, ids)
        ended = ended + back
        self._emit(call, _CLIENT, caller, _columns(traces, ids, parents, start, ended, failed))
        return ended, failed

    def _faulty(self, service: str, at: Ints) -> Bools:
        return (at >= _ONSET_NS) & (service == self.culprit) & (self.fault_kind != NO_FAULT)

    def _work_ns(self, call: _Call, faulty: Bools, slices: int) -> Ints:
        work = self.rng.lognormal(np.log(call.work_ms / slices), 0.25, (slices, len(faulty)))
        if self.fault_kind == "cpu_contention":
            work = np.where(faulty, work * self.rng.lognormal(np.log(8), 0.4, work.shape), work)
        return (work * _MS).astype(np.int64)

    def _network_ns(self, source: str, at: Ints) -> Ints:
        delay = self.rng.lognormal(np.log(0.25), 0.3, len(at))
        if self.fault_kind == "network_delay":  # traffic that leaves the culprit is held back
            delay = delay + np.where(self._faulty(source, at), self.rng.normal(60, 8, len(at)).clip(20), 0)
        return (delay * _MS).astype(np.int64)

    def _emit(self, call: _Call, kind: int, service: str, columns: _Columns) -> None:
        failed = columns.pop("failed")
        frame = pl.DataFrame(columns).with_columns(
            pl.Series("status_code", np.where(failed, 2, 0).astype(np.int8)),
            pl.Series("http.response.status_code", np.where(failed, 500, 200).astype(np.int32)),
            pl.lit(call.operation).alias("name"),
            pl.lit(kind, dtype=pl.Int8).alias("kind"),
            pl.lit(service).alias("service.name"),
            pl.lit(_pod(service)).alias("k8s.pod.name"),
            pl.lit(_node(service)).alias("k8s.node.name"),
        )
        if call.database:
            frame = frame.with_columns(
                pl.lit(None, dtype=pl.Int32).alias("http.response.status_code"),
                pl.lit(call.database).alias("db.system.name"),
                pl.lit("shop" if call.database == "postgresql" else None, dtype=pl.String).alias("db.namespace"),
                pl.lit(call.callee).alias("server.address"),
            )
        elif kind == _CLIENT:
            peer = pl.lit(call.callee)
            frame = frame.with_columns(peer.alias("service.peer.name"), peer.alias("server.address"))
        self.spans.append(Telemetry.of(spans=frame).spans)


def _columns(traces: pl.Series, ids: pl.Series, parents: pl.Series, *arrays: Ints | Bools) -> _Columns:
    names = ("start_time_unix_nano", "end_time_unix_nano", "failed")
    columns = {name: pl.Series(name, array) for name, array in zip(names, arrays, strict=True)}
    return {"trace_id": traces, "span_id": ids, "parent_span_id": parents, **columns}


def _pod(service: str) -> str:
    return f"{service}-{_POD_SUFFIX}"


def _node(service: str) -> str:
    return _NODES[SERVICES.index(service) % len(_NODES)]


def _hex_ids(rng: np.random.Generator, n: int, size: int) -> pl.Series:
    text = rng.bytes(n * size).hex()
    return pl.Series([text[i : i + 2 * size] for i in range(0, len(text), 2 * size)], dtype=pl.String)


def _metrics(shop: _Shop, spans: pl.DataFrame) -> pl.DataFrame:
    """CPU, memory and network traffic of every pod, every 15 s; CPU and traffic follow the load."""
    step = 15 * SECOND_NS
    times = np.arange(START_NS, _END_NS, step)
    served = spans.filter(pl.col("kind") == _SERVER)
    frames = []
    for service in SERVICES:
        starts = served.filter(pl.col("service.name") == service)["start_time_unix_nano"].to_numpy()
        rate = np.bincount((starts - START_NS) // step, minlength=len(times))[: len(times)] / 15
        faulty = shop._faulty(service, times)
        noise = shop.rng.normal(1, 0.05, (4, len(times)))
        cpu = (0.03 + 0.02 * rate) * noise[0]
        if shop.fault_kind == "cpu_contention":
            cpu = np.where(faulty, 0.92 * noise[0].clip(0.9, 1.05), cpu)
        values = {
            "container.cpu.usage": cpu,
            "container.memory.usage": 180e6 * (1 + 0.1 * noise[1]),
            "container.network.receive": (2_000 + 1_500 * rate) * noise[2],
            "container.network.transmit": (2_000 + 4_000 * rate) * noise[3],
        }
        frames += [
            pl.DataFrame({"time_unix_nano": times, "value": value}).with_columns(
                pl.lit("pod").alias("entity_kind"), pl.lit(_pod(service)).alias("entity"), pl.lit(metric).alias("metric")
            )
            for metric, value in values.items()
        ]
    return pl.concat(frames)


def _logs(shop: _Shop, spans: pl.DataFrame) -> pl.DataFrame:
    """One line per request that a service finished; one ERROR line instead where it failed, none where it returned early."""
    failed = pl.col("status_code") == 2
    template = pl.when(failed).then(pl.format(_ERROR_TEMPLATE, "name")).otherwise(pl.format(_DONE_TEMPLATE, "name"))
    bin_ns = 10 * SECOND_NS
    return (
        spans.lazy()
        .filter((pl.col("kind") == _SERVER) & ~pl.col("span_id").is_in(pl.concat(shop.cut_short).implode()))
        .select(
            (pl.col("start_time_unix_nano") // bin_ns * bin_ns).alias("time_unix_nano"),
            pl.lit("service").alias("entity_kind"),
            pl.col("service.name").alias("entity"),
            pl.col("name").alias("operation"),
            pl.when(failed).then(pl.lit("ERROR")).otherwise(pl.lit("INFO")).alias("severity"),
            template.alias("template"),
        )
        .group_by(pl.all())
        .agg(pl.len().cast(pl.Int64).alias("count"))
        .sort("time_unix_nano", "entity", "template")
        .collect()
    )


def _alerts(shop: _Shop) -> pl.DataFrame:
    names = {"exception": ("HighErrorRatio", "up"), "return": ("FewOrders", "down")}
    name, direction = names.get(shop.fault_kind, ("HighLatency", "up"))
    row = {"entity_kind": "service", "entity": "frontend", "name": name, "source": "metric", "direction": direction}
    return pl.DataFrame([{"time_unix_nano": _ONSET_NS + 90 * SECOND_NS, **row}])


def _events(shop: _Shop) -> pl.DataFrame:
    events = {
        "exception": ("service", "ScalingReplicaSet", "Scaled up replica set of a new version to 1", "Normal"),
        "return": ("service", "ScalingReplicaSet", "Scaled up replica set of a new version to 1", "Normal"),
        "cpu_contention": ("pod", "Unhealthy", "Readiness probe failed: context deadline exceeded", "Warning"),
        "network_delay": ("pod", "Unhealthy", "Readiness probe failed: context deadline exceeded", "Warning"),
        NO_FAULT: ("pod", "Pulled", "Container image already present on machine", "Normal"),
    }
    kind, reason, message, severity = events[shop.fault_kind]
    entity = shop.culprit if kind == "service" else _pod(shop.culprit)
    row = {"entity_kind": kind, "entity": entity, "reason": reason, "message": message, "severity": severity}
    return pl.DataFrame([{"time_unix_nano": _ONSET_NS + 20 * SECOND_NS, **row}])


def _topology() -> pl.DataFrame:
    runs = [("service", service, "runs", "pod", _pod(service)) for service in SERVICES]
    hosted = [("pod", _pod(service), "hosted_on", "node", _node(service)) for service in SERVICES]
    return pl.DataFrame(runs + hosted, schema=["source_kind", "source", "relation", "target_kind", "target"], orient="row")
