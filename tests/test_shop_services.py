"""All services of the shop as processes: an order goes through, and what arrives as telemetry says who called whom."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rca.bins import Bins, bins_of, split_key
from rca.shop import plan
from rca.shop.load import Load
from tests.servers.pods import Pods, pods


def calls_of(bins: Bins) -> set[tuple[str, str, str]]:
    """Caller, kind of callee and callee of every call."""
    rows = bins.counts.filter(pl.col("what") == "call").select("source", "target_kind", "target").unique().rows()
    return {(split_key(source)[1], kind, split_key(target)[1]) for source, kind, target in rows}


def expected_calls() -> set[tuple[str, str, str]]:
    """Those of rca.shop.plan, as bins name them: a queue is consumed, and what it leads to is called through it."""
    calls = {
        (name, plan.WORKLOADS[callee].kind, callee)
        for name in plan.SERVICES
        for callee in plan.WORKLOADS[name].calls
        if (name, callee) != ("email-worker", plan.QUEUE)
    }
    return calls | {("email-worker", "consumed_queue", plan.QUEUE), ("orders", "service", "email-worker")}


def test_the_shop_sells_and_its_telemetry_tells_how(tmp_path: Path) -> None:
    with pods(tmp_path, plan.SERVICES) as shop:
        an_order_goes_through(shop)
        customers_are_served(shop)
        spans_say_who_called_whom(shop)
        metrics_are_there(shop)
        failures_reach_the_caller_or_are_tolerated(shop)
        a_release_behaves_as_it_says(shop)


def an_order_goes_through(shop: Pods) -> None:
    found = shop.call("gateway", "GET", "/search?q=classic%20lamp").body["products"]
    assert found
    assert "lamp" in found[0]["name"]
    page = shop.call("gateway", "GET", f"/products/{found[0]['id']}").body
    assert page["product"]["sku"].startswith("SKU-")
    assert len(page["recommended"]) == 4
    assert shop.call("gateway", "GET", "/products/4711").status == 404
    assert shop.call("gateway", "GET", "/products/x").status == 502  # an error of the catalogue
    assert shop.call("gateway", "POST", "/checkout/c1", {}).status == 409
    assert shop.call("gateway", "POST", "/cart/c1/items", {"product": found[0]["id"], "quantity": 2}).status == 200
    order = shop.call("gateway", "POST", "/checkout/c1", {"code": "SPRING", "card": "visa"})
    assert order.status == 200
    assert order.body["total_cents"] > 0
    assert shop.call("gateway", "GET", "/cart/c1").body == {"items": []}
    with shop.database.connect() as connection:
        cents, left = connection.execute(
            "SELECT p.cents, s.available FROM payments p JOIN reservations r USING (order_id) JOIN stock s USING (product)"
        ).fetchall()[0]
    assert (cents, left) == (order.body["total_cents"], 998)
    deadline = time.monotonic() + 10
    while shop.call("email-worker", "GET", "/sent").body["sent"] < 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert (
        f"order {order.body['order']}" in (shop.pod_folder("email-worker") / "volume" / f"{order.body['order']}.txt").read_text()
    )


def customers_are_served(shop: Pods) -> None:
    load, end = Load(f"http://127.0.0.1:{shop.ports['gateway']}", rate=12, seed=3), threading.Event()
    customers = threading.Thread(target=load.run, args=(end,))
    customers.start()
    time.sleep(4)
    end.set()
    customers.join(10)
    load._workers.shutdown()  # it waits for the answers
    line = json.loads(load.statistics.line(12))
    assert line["sent"] > 20
    assert line["ok"] >= 0.9 * line["sent"], line
    assert line["p50"] < line["p95"]


def spans_say_who_called_whom(shop: Pods) -> None:
    expected = expected_calls()
    # A call whose server span is still on its way looks like one to somebody outside.
    spans = shop.spans(lambda spans: calls_of(binned(spans)) == expected)
    assert calls_of(binned(spans)) == expected
    assert set(spans["service.namespace"].unique()) == {plan.NAMESPACE}
    assert {"checkout-7c9d-x1"} == set(spans.filter(pl.col("service.name") == "checkout")["k8s.pod.name"].unique())
    names = set(spans.filter(pl.col("kind") == 2)["name"].unique())
    assert {"GET /products/{id}", "POST /checkouts", "POST /reservations"} <= names
    assert not [name for name in spans["name"].unique() if "http " in name]
    order = spans.filter(pl.col("name") == "process order-events")["trace_id"][0]
    one_trace = set(spans.filter(pl.col("trace_id") == order)["service.name"].unique())
    assert one_trace == set(plan.SERVICES) - {"search", "recommendation"}
    lines = shop.receiver.intake.frame("logs")
    assert set(plan.SERVICES) <= set(lines["entity"].unique())
    assert "ERROR" in set(lines["severity"].unique())  # of the product that is no number


def binned(spans: pl.DataFrame) -> Bins:
    if spans.is_empty():
        return Bins.empty()
    return bins_of(spans.with_columns(pl.lit(0, dtype=pl.Int16).alias("interval")))


def metrics_are_there(shop: Pods) -> None:
    page = shop.metrics("catalogue")
    for expected in (
        'http_server_request_duration_seconds_bucket{',
        'http_route="/products/{id}"',
        'http_response_status_code="200"',
        "db_client_connection_count{",
        "process_resident_memory_bytes",
        'target_info{',
        'k8s_pod_name="catalogue-7c9d-x1"',
    ):  # fmt: skip
        assert expected in page
    assert 'server_address="catalogue"' in shop.metrics("gateway")


def failures_reach_the_caller_or_are_tolerated(shop: Pods) -> None:
    shop.chaos("recommendation", "exception")
    page = shop.call("gateway", "GET", "/products/5")
    assert (page.status, page.body["recommended"]) == (200, [])
    shop.calm("recommendation")
    shop.cache.stop()
    assert shop.call("gateway", "GET", "/products/6").status == 200
    assert shop.call("gateway", "GET", "/cart/c1").status == 502
    shop.cache.start(shop.cache.folder, shop.cache.port)
    while not shop.cache.ready():
        time.sleep(0.05)
    assert shop.call("gateway", "GET", "/cart/c1").status == 200
    shop.call("gateway", "POST", "/cart/c2/items", {"product": 7, "quantity": 1})
    shop.providers.behave(plan.PAYMENTS, "failing")
    refused = shop.call("gateway", "POST", "/checkout/c2", {})
    assert refused.status == 502
    shop.providers.behave(plan.PAYMENTS, "ok")

    def failing(spans: pl.DataFrame) -> set[str]:
        return set(spans.filter(pl.col("status_code") == 2, pl.col("kind") == 2)["service.name"])

    chain = {"payment", "checkout", "gateway"}
    assert chain <= failing(shop.spans(lambda spans: chain <= failing(spans)))
    shop.chaos("pricing", "skew_clock", s=300)
    shop.call("gateway", "POST", "/checkout/c2", {})
    of_pricing = (pl.col("service.name") == "pricing") & (pl.col("start_time_unix_nano") > time.time_ns() + 200 * 10**9)
    assert len(shop.spans(lambda spans: spans.filter(of_pricing).height > 0).filter(of_pricing))
    shop.calm("pricing")


def a_release_behaves_as_it_says(shop: Pods) -> None:
    shop.start("pricing", release={"version": "1.0.1", "behaviour": {"latency": {"ms": 150}}})
    slow = shop.call("pricing", "POST", "/totals", {"items": [{"product": 1, "quantity": 1}]})
    assert slow.status == 200
    assert slow.seconds > 0.15
    shop.start("pricing", release={"version": "1.0.2", "configuration": {"database_password": "wrong"}})
    assert shop.call("pricing", "POST", "/totals", {"items": [{"product": 1, "quantity": 1}]}).status == 503
    shop.start("pricing", release={"version": "1.0.3", "configuration": {"names": {"catalogue": "catalogue-v2"}}})
    assert shop.call("pricing", "POST", "/totals", {"items": [{"product": 1, "quantity": 1}]}).status == 503
    assert "Name or service not known" in shop.log("pricing")
    shop.start("pricing", release={"version": "1.0.4", "configuration": {"timeout_ms": 0.5}})
    # An answer may be there in time, when the one that waits for it is late itself.
    answers = [shop.call("pricing", "POST", "/totals", {"items": [{"product": 1, "quantity": 1}]}).status for _ in range(20)]
    assert {503, 504} & set(answers)
    shop.start("pricing", release={"version": "1.0.5", "behaviour": {"exit": {"after_s": 0}}}, wait=False)
    assert shop.processes["pricing"].wait(20) == 1


def test_drift_stays_near_the_rate() -> None:
    load = Load("http://127.0.0.1:9", rate=10)
    drifts = [load._drift(float(second)) for second in range(0, 3000, 7)]
    assert np.mean(drifts) == pytest.approx(1, abs=0.03)
    assert 0.8 < min(drifts) < 0.95
    assert 1.05 < max(drifts) < 1.2
