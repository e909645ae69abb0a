"""Sources that disagree on names are made to agree, and only where it is clear what is meant."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from rca.bins import frames_of, joined_key
from rca.naming import reconciled
from rca.telemetry import Telemetry
from tests.shop import T0, frame, span, spans

Row = dict[str, Any]


def metric(entity: str, kind: str = "service", namespace: str | None = None) -> Row:
    return {
        "time_unix_nano": T0, "entity_kind": kind, "entity": entity, "namespace": namespace,
        "metric": "container.cpu.usage", "value": 1.0,
    }  # fmt: skip


def runs(workload: str, pod: str) -> Row:
    return {"source_kind": "service", "source": workload, "relation": "runs", "target_kind": "pod", "target": pod}


def traced(*services: tuple[str, str | None, str | None]) -> pl.DataFrame:
    """A span of each (service, namespace, pod)."""
    rows = [
        span(f"s{i}", name, 0, 10, trace=f"t{i}", service__namespace=namespace, k8s__pod__name=pod)
        for i, (name, namespace, pod) in enumerate(services)
    ]
    return spans(rows, interval=None)


def named(telemetry: Telemetry) -> list[tuple[str | None, str]]:
    return telemetry.metrics.select("namespace", "entity").rows()


@pytest.mark.parametrize(
    ("written", "namespace", "expected"),
    [
        ("cart", "", (None, "cart")),
        ("cart", "shop", ("", "cart")),  # Kubernetes knows the namespace, the SDK was not told
        ("shop/cart", None, ("", "cart")),  # `job` as OTLP ingestion writes it
        ("Cart", None, ("", "cart")),
        ("check_out", None, ("", "check-out")),
        ("node-exporter", "monitoring", ("monitoring", "node-exporter")),  # traces know no such service
    ],
)
def test_other_sources_take_the_names_of_traces(written: str, namespace: str | None, expected: tuple[str | None, str]) -> None:
    telemetry = Telemetry.of(
        spans=traced(("cart", None, None), ("check-out", None, None)),
        metrics=frame("metrics", [metric(written, namespace=namespace)]),
    )
    found, _ = reconciled(telemetry)
    assert [(space or None, name) for space, name in named(found)] == [(expected[0] or None, expected[1])]


def test_what_fits_two_services_is_left_alone() -> None:
    telemetry = Telemetry.of(
        spans=traced(("cart", "shop", None), ("cart", "outlet", None)), metrics=frame("metrics", [metric("cart")])
    )
    found, renaming = reconciled(telemetry)
    assert named(found) == [(None, "cart")]
    assert renaming.unmatched == (("", "cart"),)


def test_a_workload_is_the_service_whose_spans_come_from_its_pods() -> None:
    telemetry = Telemetry.of(
        spans=traced(("frontend", None, "web-1"), ("cart", "shop", "backend-7")),
        topology=frame("topology", [runs("web-deployment", "web-1"), runs("backend", "backend-7")]),
        metrics=frame("metrics", [metric("web-deployment", namespace="default"), metric("backend", namespace="default")]),
        events=frame(
            "events", [{"time_unix_nano": T0, "entity_kind": "service", "entity": "backend", "reason": "ScalingReplicaSet"}]
        ),
    )
    found, renaming = reconciled(telemetry)
    assert named(found) == [("", "frontend"), ("shop", "cart")]
    assert found.topology["source"].to_list() == ["frontend", joined_key("cart", "shop")]
    assert found.events.select("namespace", "entity").rows() == [("shop", "cart")]
    assert renaming.unmatched == ()


def test_bins_name_services_as_spans_do() -> None:
    binned = frames_of(traced(("cart", "shop", "pod-1")))
    telemetry = Telemetry.of(
        **binned,
        metrics=frame("metrics", [metric("cart", namespace="default")]),
        topology=frame("topology", [runs("cart-v2", "pod-1")]),
    )
    found, _ = reconciled(telemetry)
    assert named(found) == [("shop", "cart")]
    assert found.topology["source"].to_list() == [joined_key("cart", "shop")]


def test_an_alias_decides() -> None:
    telemetry = Telemetry.of(spans=traced(("cart", None, None)), metrics=frame("metrics", [metric("basket", namespace="shop")]))
    found, renaming = reconciled(telemetry, {"basket": "cart"})
    assert named(found) == [("", "cart")]
    assert renaming.services == {("shop", "basket"): ("", "cart")}


def test_pods_and_nodes_go_without_a_namespace_unless_two_pods_share_a_name() -> None:
    rows = [
        metric("cart-1", "pod", "shop"),
        metric("db-0", "pod", "a"),
        metric("db-0", "pod", "b"),
        metric("node-1", "node", "x"),
    ]
    found, _ = reconciled(Telemetry.of(metrics=frame("metrics", rows)))
    assert named(found) == [(None, "cart-1"), ("a", "db-0"), ("b", "db-0"), (None, "node-1")]


def test_calls_are_renamed_at_the_ends_that_are_services() -> None:
    calls = [
        {"time_unix_nano": T0, "caller": "shop/cart", "callee_kind": kind, "callee": "CART", "metric": "call.rate", "value": 1.0}
        for kind in ("service", "database")
    ]
    found, _ = reconciled(Telemetry.of(spans=traced(("cart", None, None)), calls=frame("calls", calls)))
    assert found.calls.select("caller", "callee").rows() == [("cart", "cart"), ("cart", "CART")]


def test_without_traces_a_workload_is_the_service_that_is_measured_under_its_name() -> None:
    telemetry = Telemetry.of(
        metrics=frame("metrics", [metric("cart", namespace="shop"), metric("pay", namespace="shop"), metric("cart-1", "pod")]),
        topology=frame("topology", [runs("cart", "cart-1"), runs("pay", "pay-1")]),
    )
    found, renaming = reconciled(telemetry)
    assert found.topology["source"].to_list() == [joined_key("cart", "shop"), joined_key("pay", "shop")]
    assert renaming.unmatched == ()
