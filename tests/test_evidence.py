"""Evidence: every number against one computed by hand from a tiny window. Durations are read from buckets, 1 % off at most."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import polars as pl
import pytest

from rca.contracts import Case
from rca.evidence import Facts, Histogram, Statement, explained, loud_signals
from rca.features import loudest_signals
from rca.incidents.example import FAULTS, example_incident
from rca.models.registry import create
from rca.pipeline import case_of, case_of_window
from rca.signals import NODE_COLUMN, NODE_SIGNALS
from rca.telemetry import SECOND_NS, EntityId, Interval, Telemetry
from rca.window import Baseline, cut

T0 = 1_768_471_200 * SECOND_NS
BEFORE, NOW = 100, 20
"""Requests before and during the incident, one a second each."""
SHOP, STORE = EntityId("service", "shop"), EntityId("service", "store")
DATABASE = EntityId("database", "orders")
MS = 1_000_000


def spans(
    durations_ms: tuple[float, float], *, gap_ms: tuple[float, float] = (2, 2), failed: int = 0, quiet_calls: int = 0
) -> pl.DataFrame:
    """One request a second: shop (server) calls store (client span, server span), which asks a database (client span, 1 ms).

    Pairs are (before, now). The first `failed` requests of the incident fail in store; the last `quiet_calls` skip the database.
    """
    rows = []
    for i in range(BEFORE + NOW):
        now = i >= BEFORE
        store, gap = durations_ms[now], gap_ms[now]
        status = 2 if now and i - BEFORE < failed else 0

        def span(
            name: str,
            parent: str | None,
            kind: int,
            service: str,
            operation: str,
            ms: float,
            *,
            trace: str = f"{i:032x}",
            start: int = T0 + i * SECOND_NS,
            **more: object,
        ) -> None:
            rows.append(
                {
                    "trace_id": trace,
                    "span_id": name,
                    "parent_span_id": parent,
                    "name": operation,
                    "kind": kind,
                    "start_time_unix_nano": start,
                    "end_time_unix_nano": start + int(ms * MS),
                    "service.name": service,
                    **more,
                }
            )

        span("a", None, 2, "shop", "GET /", store + gap + 5)
        span("b", "a", 3, "shop", "call", store + gap)
        span("c", "b", 2, "store", "Find", store, status_code=status)
        if not now or i - BEFORE < NOW - quiet_calls:
            span("d", "c", 3, "store", "SELECT", 1, **{"db.system.name": "postgresql", "db.namespace": "orders"})
    return pl.DataFrame(rows, schema_overrides={"status_code": pl.Int8}, infer_schema_length=None)


def case(**frames: pl.DataFrame) -> Case:
    telemetry = Telemetry.of(**frames)
    onset = T0 + BEFORE * SECOND_NS
    incident = Interval(onset, onset + NOW * SECOND_NS)
    return case_of_window(cut(telemetry, incident, [Baseline(Interval(T0, onset), "preceding")]))


def state(case: Case, entity: EntityId, signal: str) -> Statement:
    statement = Facts(case).state(entity, signal)
    assert statement is not None
    return statement


def rows(kind: str, entity: str, times: Iterable[int], **columns: object) -> pl.DataFrame:
    times = [T0 + t * SECOND_NS for t in times]
    return pl.DataFrame({"time_unix_nano": times}).with_columns(
        entity_kind=pl.lit(kind), entity=pl.lit(entity), **{name: pl.lit(value) for name, value in columns.items()}
    )


def test_self_time() -> None:
    said = state(case(spans=spans((10, 84))), STORE, "self_time")
    assert said.text == "self time of Find: median 84 ms, baseline 9 ms"
    assert said.observed == pytest.approx(0.083, rel=0.011)
    assert said.baseline == pytest.approx(0.009, rel=0.011)
    assert said.trace_ids == (f"{BEFORE:032x}", f"{BEFORE + 1:032x}")


def test_network_gap() -> None:
    said = state(case(spans=spans((10, 10), gap_ms=(3, 512))), STORE, "gap_in")
    assert said.text == "network gap shop -> store: median 517 ms, baseline 3 ms"
    assert said.observed == pytest.approx(0.512, rel=0.011)


def test_latency_of_a_database_is_what_its_callers_see() -> None:
    said = state(case(spans=spans((10, 10))), DATABASE, "leaf_latency")
    assert said.text == "latency seen by store: median 1 ms, baseline 1 ms"


def test_failed_requests() -> None:
    said = state(case(spans=spans((10, 10), failed=6)), STORE, "own_errors")
    assert said.text == "spans that failed by themselves: 6 of 40, expected 0"
    assert (said.observed, said.baseline) == (6, 0)
    assert set(said.trace_ids) <= {f"{BEFORE + i:032x}" for i in range(6)}
    assert state(case(spans=spans((10, 10), failed=6)), STORE, "errors").text == "failed requests: 6 of 20, expected 0"


def test_unanswered_calls() -> None:
    now = pl.col("start_time_unix_nano") >= T0 + BEFORE * SECOND_NS
    silent = spans((10, 10)).filter((pl.col("service.name") == "shop") | ~now)
    lost = (pl.col("name") == "call") & now
    failed = silent.with_columns(
        pl.when(lost).then(2).otherwise(pl.col("status_code")).cast(pl.Int8).alias("status_code"),
        pl.when(lost).then(pl.lit("store")).alias("server.address"),
    )
    said = state(case(spans=failed), STORE, "unanswered_calls")
    assert said.text == "calls without an answer: 20 of 20, expected 0 (from shop)"
    assert (said.observed, said.baseline) == (20, 0)
    assert state(case(spans=failed), SHOP, "own_errors").text == "spans that failed by themselves: 0 of 40, expected 0"


def test_messages_that_nobody_took() -> None:
    rows = []
    for i in range(BEFORE + NOW):
        span: dict[str, object] = {"trace_id": f"{i:032x}", "start_time_unix_nano": T0 + i * SECOND_NS}
        span |= {"end_time_unix_nano": T0 + i * SECOND_NS + MS, "messaging.destination.name": "orders"}
        rows.append(span | {"span_id": "a", "name": "send orders", "kind": 4, "service.name": "shop"})
        if i < BEFORE:
            taken = {"span_id": "b", "parent_span_id": "a", "name": "process orders", "kind": 5, "service.name": "store"}
            rows.append(span | taken)
    made = case(spans=pl.DataFrame(rows, infer_schema_length=None))
    said = state(made, STORE, "unanswered_calls")
    assert said.text == "messages not taken: shop send orders (expected 20, seen 0)"
    assert explained(create("floor").rank(made), made).candidates[0].entity == STORE


def test_a_worker_whose_queries_vanish_is_explained_without_callers() -> None:
    """It takes from a queue, and sends to it: nobody calls it."""
    rows = []
    for i in range(BEFORE + NOW):
        start = T0 + i * SECOND_NS
        span = {"trace_id": f"{i:032x}", "start_time_unix_nano": start, "end_time_unix_nano": start + MS, "service.name": "store"}
        queue = {"messaging.destination.name": "orders"}
        rows.append(span | queue | {"span_id": "a", "name": "process orders", "kind": 5})
        rows.append(span | queue | {"span_id": "b", "parent_span_id": "a", "name": "send orders", "kind": 4})
        if i < BEFORE:
            rows.append(
                span | {"span_id": "c", "parent_span_id": "a", "name": "SELECT", "kind": 3, "db.system.name": "postgresql"}
            )
    made = case(spans=pl.DataFrame(rows, infer_schema_length=None))
    first = explained(create("floor").rank(made), made).candidates[0]
    assert first.entity == STORE
    assert first.evidence[0].statement == "usual call vanished: process orders -> SELECT (expected 20, seen 0)"
    assert Facts(made).state(STORE, "unanswered_calls") is None


def test_vanished_call() -> None:
    said = state(case(spans=spans((10, 10), quiet_calls=20)), STORE, "vanished_calls")
    assert said.text == "usual call vanished: Find -> SELECT (expected 20, seen 0)"
    rarer = state(case(spans=spans((10, 10), quiet_calls=15)), STORE, "vanished_calls")
    assert rarer.text == "usual call became rare: Find -> SELECT (expected 20, seen 5)"


def test_traffic() -> None:
    half = spans((10, 10)).filter(
        (pl.col("start_time_unix_nano") < T0 + BEFORE * SECOND_NS) | (pl.col("start_time_unix_nano") // SECOND_NS % 2 == 0)
    )
    said = state(case(spans=half), STORE, "traffic")
    assert said.text == "requests served: 0.5/s, baseline 1/s"


def test_metric_of_a_pod() -> None:
    metrics = pl.concat(
        rows("pod", "store-1", span, metric="container.cpu.utilization", value=value)
        for span, value in ((range(0, 100, 10), 0.11), (range(100, 120, 10), 0.92))
    )
    topology = pl.DataFrame(
        {"source_kind": ["service"], "source": ["store"], "relation": ["runs"], "target_kind": ["pod"], "target": ["store-1"]}
    )
    said = state(case(metrics=metrics, topology=topology), STORE, "cpu")
    assert said == Statement("CPU usage of the limit 92 %, baseline 11 %", pytest.approx(0.92), 0.11, "1")


def test_the_pod_that_strays_most_is_named() -> None:
    metrics = pl.concat(
        rows("pod", pod, span, metric="container.memory.usage", value=value)
        for pod, now in (("store-1", 2.0**30), ("store-2", 2.0**31))
        for span, value in ((range(0, 100, 10), 2.0**30), (range(100, 120, 10), now))
    )
    runs = {"source_kind": "service", "source": "store", "relation": "runs", "target_kind": "pod"}
    topology = pl.DataFrame([{**runs, "target": "store-1"}, {**runs, "target": "store-2"}])
    said = state(case(metrics=metrics, topology=topology), STORE, "memory")
    assert said.text == "memory usage 2 GiB, baseline 1 GiB (pod store-2)"


def test_the_metric_that_strays_most_is_named() -> None:
    metrics = pl.concat(
        rows("service", "store", span, metric=metric, value=value * factor)
        for metric, value in (("container.memory.usage", 2.0**30), ("container.memory.utilization", 0.5))
        for span, factor in ((range(0, 100, 10), 1.0), (range(100, 120, 10), 1.5 if metric.endswith("usage") else 1.2))
    )
    assert state(case(metrics=metrics), STORE, "memory").text == "memory usage 1.5 GiB, baseline 1 GiB"


def test_logs() -> None:
    def lines(times: Iterable[int], template: str, n: int, severity: str = "INFO") -> pl.DataFrame:
        return rows("service", "store", times, severity=severity, template=template, count=n)

    logs = pl.concat(
        [
            lines(range(0, 120, 10), "working", 20),
            lines(range(0, 100, 10), "found <*> rows", 10),
            lines(range(100, 120, 10), "cannot open <*>", 5, "ERROR"),
        ]
    )
    made = case(logs=logs, spans=spans((10, 10)))
    # 50 of the incident's lines against 300 before: a template seen 100 times before is expected 100 * 50 / 300 times.
    vanished = state(made, STORE, "vanished_templates")
    assert vanished.text == "usual log line vanished: found <*> rows (expected 16.7, seen 0)"
    assert state(made, STORE, "new_templates").text == "new log line, ERROR: cannot open <*> (expected 0, seen 10)"
    assert state(made, STORE, "error_lines").text == "ERROR lines: 10, expected 0"
    assert state(made, STORE, "log_volume").text == "log lines: 2.5/s, baseline 3/s"


def test_events() -> None:
    events = pl.concat(
        [
            rows("service", "store", [105, 107, 109], reason="OOMKilled", message="memory limit", severity="Warning"),
            rows("service", "store", [106], reason="Pulled", message="image", severity="Normal"),
        ]
    )
    made = case(events=events, spans=spans((10, 10)))
    assert state(made, STORE, "warnings").text == "3 OOMKilled events, first at 10:01:45: memory limit"
    assert state(made, STORE, "changes").text == "1 Pulled event, first at 10:01:46: image"


def test_the_change_is_named_before_what_comes_with_it() -> None:
    events = pl.concat(
        [
            rows("service", "store", [101, 102, 103], reason="ScalingReplicaSet", message="Scaled up", severity="Normal"),
            rows("service", "store", [101], reason="ImageChanged", message="image store:1 -> store:2", severity="Normal"),
            rows("service", "store", [50], reason="ConfigMapChanged", message="long ago", severity="Normal"),
        ]
    )
    said = state(case(events=events, spans=spans((10, 10))), STORE, "changes")
    assert said.text == "1 ImageChanged event, first at 10:01:41: image store:1 -> store:2"


def test_metrics_that_arrive_aggregated() -> None:
    def call(metric: str, before: float, now: float) -> pl.DataFrame:
        return pl.DataFrame(
            {
                "time_unix_nano": [T0 + t * SECOND_NS for t in range(0, 120, 10)],
                "caller": "shop",
                "callee_kind": "service",
                "callee": "store",
                "metric": metric,
                "value": [before] * 10 + [now] * 2,
            }
        )

    made = case(calls=pl.concat([call("call.client.duration.p50", 0.013, 0.31), call("call.server.duration.p50", 0.01, 0.01)]))
    assert state(made, STORE, "metric_gap").text == "network gap shop -> store: 300 ms, baseline 3 ms"


def test_rates_of_callees() -> None:
    metrics = pl.concat(
        rows("service", name, span, metric="server.request.rate", value=value)
        for name, before, now in (("shop", 10.0, 8.0), ("store", 20.0, 4.0))
        for span, value in ((range(0, 100, 10), before), (range(100, 120, 10), now))
    )
    topology = pl.DataFrame(
        {"source_kind": ["service"], "source": ["shop"], "relation": ["calls"], "target_kind": ["service"], "target": ["store"]}
    )
    said = state(case(metrics=metrics, topology=topology), SHOP, "quiet_callees")
    assert said.text == "callee store serves 4/s, baseline 20/s; itself 8/s, baseline 10/s"


def test_latency_from_metrics_is_set_beside_what_its_callees_explain() -> None:
    metrics = pl.concat(
        rows("service", name, span, metric="server.request.duration.p50", value=value)
        for name, now in (("shop", 0.4), ("store", 0.01))
        for span, value in ((range(0, 100, 10), 0.05 if name == "shop" else 0.01), (range(100, 120, 10), now))
    )
    topology = pl.DataFrame(
        {"source_kind": ["service"], "source": ["shop"], "relation": ["calls"], "target_kind": ["service"], "target": ["store"]}
    )
    said = state(case(metrics=metrics, topology=topology), SHOP, "latency_residual")
    assert said.text == "latency 400 ms, baseline 50 ms, 50 ms expected from its callees"


def test_alerts_alone() -> None:
    alerts = pl.concat(
        [
            rows("service", "shop", [105], name="HighCpu", source="metric", direction="up", peer=None),
            rows("service", "shop", [105], name="slow call", source="trace", direction="up", peer="store"),
        ],
        how="vertical_relaxed",
    )
    made = case(alerts=alerts)
    shop, store = (explained(create("floor").rank(made), made).candidates[i] for i in (0, 1))
    assert (shop.entity, store.entity) == (SHOP, STORE)
    said = [evidence.statement for evidence in shop.evidence]
    assert said == ["alerts that few share: HighCpu up (1 of 2)", "alerts on slow calls out of it: store"]
    assert state(made, STORE, "alert_slow_calls_in").text == "alerts on slow calls into it: shop"


@pytest.mark.parametrize("fault_kind", FAULTS)
def test_each_loud_signal_is_stated_and_its_deviation_is_the_measured_one(fault_kind: str) -> None:
    incident, telemetry = example_incident(fault_kind=fault_kind, requests_per_second=1.5)
    made = case_of(incident, telemetry)
    facts = Facts(made)
    for row, entity in enumerate(made.graph.entities):
        for signal in loud_signals(made, entity):
            said = facts.state(entity, signal.name)
            if entity.kind in ("service", "database"):
                assert said is not None, (entity, signal.name)
                assert "nan" not in said.text
                assert "unknown" not in said.text
        for evidence in facts.evidence(entity):
            assert evidence.deviation == made.deviations.node[row, NODE_COLUMN[evidence.signal]]


def test_evidence_and_family_reach_the_ranking() -> None:
    incident, telemetry = example_incident(requests_per_second=1.5)
    made = case_of(incident, telemetry)
    bare = create("floor").rank(made)
    ranking = explained(bare, made, 2)
    assert [c.entity for c in ranking.candidates] == [c.entity for c in bare.candidates]
    first, *rest = ranking.candidates
    assert first.entity.name == "catalogue"
    signal = loudest_signals(made.graph, [made.graph.rows[first.entity]])[0]
    assert first.evidence[0].signal == signal
    assert first.fault_family == NODE_SIGNALS[NODE_COLUMN[str(signal)]].family == "cpu"
    assert all(not candidate.evidence for candidate in rest[1:])


def test_histogram_quantiles() -> None:
    histogram = Histogram(np.array([0.0, 10.0, 20.0]), np.array([50.0, 49.0, 1.0]))
    assert [histogram.bucket(share) for share in (0.5, 0.51, 0.99, 1)] == [0, 10, 10, 20]
    assert histogram.seconds(0.5) == pytest.approx(1 - 50e-6)
