"""Export requests to frames: both encodings, limits, and what is told about what is left out."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from rca.bins import bins_of
from rca.collectors.files.templates import Templates
from rca.collectors.otlp.config import OtlpConfig
from rca.collectors.otlp.decoding import Decoded, Decoder
from rca.collectors.otlp.intake import RAW_SPANS, Signal
from rca.collectors.otlp.lean import LeanTraces
from rca.collectors.otlp.request import Encoding, Request
from rca.errors import BadTelemetry
from rca.telemetry import MINUTE_NS, SECOND_NS, dtypes
from tests.receiving import NOW_NS, as_json, counter, gauges, lines, pairs, receipt_of, span, traces

EVERYTHING = OtlpConfig(read_attributes="all")


def _decoded(message: Any, signal: Signal = "spans", encoding: Encoding = "protobuf", config: OtlpConfig = EVERYTHING) -> Decoded:
    return Decoder(config).decode([_request(message, signal, encoding)], NOW_NS)


def _request(message: Any, signal: Signal = "spans", encoding: Encoding = "protobuf") -> Request:
    body = message.SerializeToString() if encoding == "protobuf" else json.dumps(as_json(message)).encode()
    return Request(signal, body, encoding)


ENCODINGS = pytest.mark.parametrize("encoding", ["protobuf", "json"])

_ATTRIBUTES = (
    "db.system db.system.name db.name peer.service service.peer.name server.address net.peer.name http.status_code "
    "http.response.status_code messaging.destination messaging.system thread.id"
)
NAMES = st.sampled_from(_ATTRIBUTES.split())
VALUES = st.one_of(st.text(max_size=20), st.integers(-(2**63), 2**63 - 1), st.booleans(), st.sampled_from([200, 503, "503", ""]))
SPANS = st.builds(
    span,
    number=st.integers(1, 2**60),
    parent_span_id=st.sampled_from([b"", b"12345678", bytes(8)]),
    name=st.text(max_size=30),
    kind=st.integers(0, 5),
    status=st.builds(Status, code=st.integers(0, 2)),
    attributes=st.dictionaries(NAMES, VALUES, max_size=6),
    start_time_unix_nano=st.one_of(st.just(NOW_NS - SECOND_NS), st.integers(0, 2**63)),
)


@given(
    st.lists(SPANS, max_size=5), st.sampled_from([{}, {"service_namespace": "shop"}, {"k8s_pod_name": "p", "k8s_node_name": "n"}])
)
@settings(max_examples=150, deadline=None)
def test_both_encodings_decode_to_the_same(spans: list[Span], resource: dict[str, str]) -> None:
    message = traces(spans, **resource)
    ours, theirs = _decoded(message), _decoded(message, encoding="json")
    assert ours.batch.spans.equals(theirs.batch.spans)
    assert ours.batch.topology.equals(theirs.batch.topology)
    assert receipt_of(ours.receipts).accepted == receipt_of(theirs.receipts).accepted == len(ours.batch.spans)
    assert receipt_of(ours.receipts).received == receipt_of(theirs.receipts).received == len(spans)


@ENCODINGS
def test_a_span_keeps_what_is_used_of_it(encoding: Encoding) -> None:
    attributes = {"db.system": "redis", "db.namespace": "carts", "http.status_code": 503, "net.peer.name": "redis-0", "x": True}
    sent = span(7, parent_span_id=b"\x02" * 8, kind=3, attributes=attributes, status=Status(code=2))
    resource = {"service_namespace": "shop", "k8s_pod_name": "cart-1", "k8s_node_name": "node-a"}
    batch = _decoded(traces([sent], **resource), encoding=encoding).batch
    assert batch.spans.schema == RAW_SPANS
    (row,) = batch.spans.iter_rows(named=True)
    assert (row["trace_id"], row["span_id"], row["parent_span_id"]) == ((7).to_bytes(16), (7).to_bytes(8), b"\x02" * 8)
    assert (row["service.name"], row["service.namespace"], row["k8s.pod.name"]) == ("cart", "shop", "cart-1")
    assert (row["db.system.name"], row["db.namespace"], row["server.address"]) == ("redis", "carts", "redis-0")
    assert (row["http.response.status_code"], row["status_code"], row["kind"]) == (503, 2, 3)
    assert row["end_time_unix_nano"] - row["start_time_unix_nano"] == 10_000_000
    assert batch.topology.rows() == [
        ("pod", "cart-1", "hosted_on", "node", "node-a"),
        ("service", "cart", "runs", "pod", "cart-1"),
    ]


def test_attributes_of_server_spans_are_read_only_if_asked_for() -> None:
    message = traces(
        [span(kind=2, attributes={"http.response.status_code": 500}), span(2, kind=3, attributes={"db.system": "x"})]
    )
    for read, status in (("all", 500), ("calls", None)):
        frame = _decoded(message, config=OtlpConfig(read_attributes=read)).batch.spans  # type: ignore[arg-type]
        assert frame["http.response.status_code"].to_list() == [status, None]
        assert frame["db.system.name"].to_list() == [None, "x"]


@ENCODINGS
def test_exceptions_in_spans_are_log_lines_of_their_operation(encoding: Encoding) -> None:
    thrown = Span.Event(
        name="exception",
        time_unix_nano=NOW_NS,
        attributes=pairs({"exception.type": "IOError", "exception.message": "disk 7 is full"}),
    )
    other = Span.Event(name="exceptional weather", time_unix_nano=NOW_NS)
    batch = _decoded(traces([span(events=[thrown, other, thrown])], service_namespace="shop"), encoding=encoding).batch
    assert batch.logs.schema == dtypes("logs")
    assert batch.logs.rows() == [
        (NOW_NS, "service", "cart", "shop", "GET /cart", "ERROR", "IOError: disk <*> is full", 2),
    ]


def test_lines_are_counted_by_template_and_ten_seconds() -> None:
    decoder = Decoder(EVERYTHING)
    texts = [f"order {i} took {i} ms" for i in range(30)] + ["Traceback of order 7"]
    requests = [
        _request(lines(texts, NOW_NS + 4 * SECOND_NS), "logs"),
        _request(lines(texts[:5], NOW_NS + 14 * SECOND_NS), "logs"),
    ]
    logs = decoder.decode(requests, NOW_NS).batch.logs.sort("time_unix_nano", "template")
    assert logs.select("time_unix_nano", "entity", "severity", "template", "count").rows() == [
        (NOW_NS, "cart", "INFO", "Traceback of order <*>", 1),
        (NOW_NS, "cart", "INFO", "order <*> took <*> ms", 30),
        (NOW_NS + 10 * SECOND_NS, "cart", "INFO", "order <*> took <*> ms", 5),
    ]


@ENCODINGS
def test_kubernetes_events_in_logs(encoding: Encoding) -> None:
    message = lines(["Back-off restarting failed container"], k8s_object_kind="Pod", k8s_object_name="cart-1")
    record = message.resource_logs[0].scope_logs[0].log_records[0]
    record.severity_text = "Warning"
    record.attributes.extend(pairs({"k8s.event.reason": "BackOff", "k8s.namespace.name": "shop"}))
    events = _decoded(message, "logs", encoding).batch.events
    assert events.rows() == [(NOW_NS, "pod", "cart-1", "shop", "BackOff", "Back-off restarting failed container", "Warning")]


@ENCODINGS
def test_counters_become_rates_across_requests(encoding: Encoding) -> None:
    decoder = Decoder(EVERYTHING)
    points = [_request(counter(n, NOW_NS - 30 * SECOND_NS + at * SECOND_NS), "metrics", encoding) for n, at in ((5, 0), (25, 10))]
    assert decoder.decode(points[:1], NOW_NS).batch.metrics.is_empty()
    metrics = decoder.decode(points[1:], NOW_NS).batch.metrics
    assert metrics.select("entity", "metric", "value").rows() == [("cart", "orders", 2.0)]


@ENCODINGS
def test_histograms_gauges_and_what_has_no_reader(encoding: Encoding) -> None:
    message = gauges({"process.load": 0.5, "broken": float("nan")}, k8s_pod_name="cart-1")
    scope = message.resource_metrics[0].scope_metrics[0]
    body = scope.metrics.add(name="http.server.request.duration", unit="s").histogram
    body.aggregation_temporality = 1
    start = NOW_NS - 10 * SECOND_NS
    body.data_points.add(
        start_time_unix_nano=start, time_unix_nano=NOW_NS, count=4, sum=2.0, bucket_counts=[2, 2], explicit_bounds=[0.5]
    )
    scope.metrics.add(name="old").summary.data_points.add(time_unix_nano=NOW_NS)
    decoded = _decoded(message, "metrics", encoding)
    found = {row["metric"]: row["value"] for row in decoded.batch.metrics.iter_rows(named=True)}
    assert found["process.load"] == found["server.request.duration.mean"] == found["server.request.duration.p50"] == 0.5
    assert found["server.request.rate"] == 0.4
    assert "broken" not in found
    receipt = receipt_of(decoded.receipts)
    assert (receipt.received, receipt.accepted) == (4, 2)
    assert receipt.message == "1 data points of summaries; 1 data points that are no finite number"


@ENCODINGS
def test_a_histogram_may_leave_out_its_sum(encoding: Encoding) -> None:
    message = gauges({})
    for name in ("histogram", "exponential_histogram"):
        body = getattr(message.resource_metrics[0].scope_metrics[0].metrics.add(name=name), name)
        body.aggregation_temporality = 1
        body.data_points.add(start_time_unix_nano=NOW_NS - SECOND_NS, time_unix_nano=NOW_NS, count=4)
    body = message.resource_metrics[0].scope_metrics[0].metrics[0].histogram
    body.data_points[0].bucket_counts.extend([4, 0])
    body.data_points[0].explicit_bounds.append(1.0)
    metrics = _decoded(message, "metrics", encoding).batch.metrics
    assert metrics["metric"].to_list() == [f"histogram.{quantile}" for quantile in ("p50", "p90", "p95", "p99")]


@ENCODINGS
def test_points_without_a_number_are_no_mistake_and_do_not_spoil_a_counter(encoding: Encoding) -> None:
    decoder = Decoder(EVERYTHING)
    rates = []
    for seconds, value in ((20, 10.0), (10, float("nan")), (0, 30.0)):
        message = gauges({})
        metric = message.resource_metrics[0].scope_metrics[0].metrics.add(name="orders")
        metric.sum.is_monotonic, metric.sum.aggregation_temporality = True, 2
        metric.sum.data_points.add(time_unix_nano=NOW_NS - seconds * SECOND_NS, as_double=value)
        metric.sum.data_points.add(time_unix_nano=NOW_NS - seconds * SECOND_NS, flags=1, attributes=pairs({"gone": "yes"}))
        decoded = decoder.decode([_request(message, "metrics", encoding)], NOW_NS)
        assert receipt_of(decoded.receipts).rejected.total() == (1 if seconds == 10 else 0)
        rates += decoded.batch.metrics["value"].to_list()
    assert rates == [1.0]


def test_remembered_values_are_bounded_by_count_and_age() -> None:
    decoder = Decoder(OtlpConfig.model_validate({"max_series_bytes": "332kB"}))
    for batch in range(5):
        sent = [_request(counter(1, NOW_NS, series=batch * 1000 + n), "metrics") for n in range(1000)]
        decoder.decode(sent, NOW_NS)
    assert len(decoder.last_values) == 1000
    assert decoder.last_values.forgotten == 4000
    later_ns = NOW_NS + 2 * 60 * MINUTE_NS
    decoder.decode([_request(counter(1, later_ns), "metrics")], later_ns)
    assert len(decoder.last_values) == 1


def test_relations_are_stated_once_a_minute() -> None:
    decoder = Decoder(EVERYTHING)
    message = _request(traces([span()], k8s_pod_name="cart-1"))
    stated = [decoder.decode([message], NOW_NS + seconds * SECOND_NS).batch.topology.height for seconds in (0, 30, 60, 61)]
    assert stated == [1, 0, 1, 0]


@ENCODINGS
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"start_time_unix_nano": NOW_NS // SECOND_NS}, "1 spans with times that are not nanoseconds since the epoch"),
        ({"start_time_unix_nano": NOW_NS // 10**6}, "1 spans with times that are not nanoseconds since the epoch"),
        ({"end_time_unix_nano": 2**63}, "1 spans with times that are not nanoseconds since the epoch"),
        ({"start_time_unix_nano": NOW_NS - 61 * MINUTE_NS}, "1 spans older than max_age"),
        ({"end_time_unix_nano": NOW_NS + 11 * MINUTE_NS}, "1 spans with times too far in the future"),
        ({"end_time_unix_nano": NOW_NS - MINUTE_NS}, "1 spans that end before they start"),
        ({"trace_id": b"short"}, "1 spans with invalid ids"),
        ({"parent_span_id": b"short"}, "1 spans with invalid ids"),
    ],
)
def test_spans_that_cannot_be_right_are_told_apart(encoding: Encoding, fields: dict[str, Any], reason: str) -> None:
    decoded = _decoded(traces([span(1), span(2, **fields), span(3)]), encoding=encoding)
    receipt = receipt_of(decoded.receipts)
    assert (receipt.received, receipt.accepted, receipt.message) == (3, 2, reason)
    assert decoded.batch.spans["span_id"].to_list() == [(1).to_bytes(8), (3).to_bytes(8)]


@pytest.mark.parametrize("fields", [{"trace_id": bytes(16)}, {"span_id": b""}, {"start_time_unix_nano": 0}])
def test_spans_without_id_or_time(fields: dict[str, Any]) -> None:
    for encoding in ("protobuf", "json"):
        receipt = receipt_of(_decoded(traces([span(1, **fields)]), encoding=encoding).receipts)  # type: ignore[arg-type]
        assert (receipt.received, receipt.accepted) == (1, 0)


@ENCODINGS
@pytest.mark.parametrize(("time_ns", "reason"), [(0, "without a time"), (NOW_NS // 1000, "with times that are not nanoseconds")])
def test_points_and_records_with_wrong_times(encoding: Encoding, time_ns: int, reason: str) -> None:
    for message, signal, noun in (
        (gauges({"a": 1.0}, time_ns), "metrics", "data points"),
        (lines(["a"], time_ns), "logs", "log records"),
    ):
        decoded = _decoded(message, signal, encoding)  # type: ignore[arg-type]
        receipt = receipt_of(decoded.receipts)
        assert (receipt.received, receipt.accepted) == (1, 0)
        assert receipt.message.startswith(f"1 {noun} {reason}")
        assert decoded.batch.metrics.is_empty()
        assert decoded.batch.logs.is_empty()


def test_each_request_learns_its_own_fate() -> None:
    old = span(1, start_time_unix_nano=1)
    requests = [
        _request(traces([old, span(2)])),
        Request("spans", b"\xff\xff"),
        _request(traces([span(3)])),
        Request("spans", b"", "json"),
        Request("logs", b'{"resourceLogs": 7}', "json"),
        _request(traces([])),
        _request(lines(["hello"]), "logs", "json"),
    ]
    decoded = Decoder(EVERYTHING).decode(requests, NOW_NS)
    fates = [
        "malformed" if isinstance(receipt, BadTelemetry) else (receipt.received, receipt.accepted) for receipt in decoded.receipts
    ]
    assert fates == [(2, 1), "malformed", (1, 1), "malformed", "malformed", (0, 0), (1, 1)]
    assert decoded.batch.spans["span_id"].to_list() == [(2).to_bytes(8), (3).to_bytes(8)]
    assert decoded.batch.logs["count"].sum() == 1


@ENCODINGS
def test_enormous_attributes_are_cut_and_counted(encoding: Encoding) -> None:
    config = OtlpConfig(max_attributes=10, max_text_length=100, read_attributes="all")
    many = {f"key {n}": "x" for n in range(50)} | {"db.system": "behind the limit"}
    spans = [
        span(1, attributes={"server.address": "h" * 5_000_000}),
        span(2, attributes=many),
        span(3, name="n" * 10_000),
        span(4, attributes={"unread": "u" * 5_000_000}),
    ]
    decoded = _decoded(traces(spans, service_namespace="é" * 1000), encoding=encoding, config=config)
    frame = decoded.batch.spans
    assert frame["server.address"][0] == "h" * 100
    assert frame["db.system.name"].null_count() == 4
    assert frame["name"][2] == "n" * 100
    assert set(frame["service.namespace"]) == {"é" * 100}
    assert receipt_of(decoded.receipts).accepted == 4
    plain = _decoded(traces(spans), encoding=encoding, config=config)
    assert receipt_of(plain.receipts).altered == 3


def test_attributes_whose_value_comes_before_the_key_are_read() -> None:
    message = traces([span(kind=3, attributes={"db.system": "redis"})])
    turned = b"\x12\x07\n\x05redis\n\tdb.system"
    body = message.SerializeToString().replace(b"\n\tdb.system\x12\x07\n\x05redis", turned)
    assert KeyValue.FromString(turned).key == "db.system"
    decoded = Decoder(EVERYTHING).decode([Request("spans", body)], NOW_NS)
    assert decoded.batch.spans["db.system.name"].to_list() == ["redis"]


def test_the_lean_message_reads_the_same_bytes() -> None:
    message = traces([span(5, kind=4, status=Status(code=2, message="no"), trace_state="a=b")])
    lean = LeanTraces.FromString(message.SerializeToString()).resource_spans[0].scope_spans[0].spans[0]
    whole = message.resource_spans[0].scope_spans[0].spans[0]
    for field in ("trace_id", "span_id", "name", "kind", "start_time_unix_nano", "end_time_unix_nano"):
        assert getattr(lean, field) == getattr(whole, field)
    assert lean.status.code == 2


def test_spans_of_old_and_foreign_json_writers() -> None:
    one = {
        "traceId": "AAAAAAAAAAAAAAAAAAAAAQ==",
        "spanId": "AAAAAAAAAAE=",
        "kind": "SPAN_KIND_CLIENT",
        "name": "x",
        "startTimeUnixNano": str(NOW_NS),
        "endTimeUnixNano": NOW_NS + 5,
        "somethingNew": {"a": [1]},
    }
    body = {"resourceSpans": [{"instrumentationLibrarySpans": [{"spans": [one]}]}], "more": 1}
    decoded = Decoder(EVERYTHING).decode([Request("spans", json.dumps(body).encode(), "json")], NOW_NS)
    (row,) = decoded.batch.spans.iter_rows(named=True)
    assert (row["span_id"], row["kind"], row["service.name"]) == ((1).to_bytes(8), 3, "unknown_service")


def test_raw_ids_bin_like_hex() -> None:
    spans = [span(9), span(10, trace_id=(9).to_bytes(16), parent_span_id=(9).to_bytes(8), kind=3)]
    raw = _decoded(traces(spans)).batch.spans.with_columns(pl.lit(0, dtype=pl.Int16).alias("interval"))
    text = raw.with_columns(pl.col(pl.Binary).bin.encode("hex"))
    ours, theirs = bins_of(raw), bins_of(text)
    assert ours.pairs == theirs.pairs == 1
    assert ours.exemplars.equals(theirs.exemplars)
    assert ours.counts.equals(theirs.counts)


SIGNALS = st.sampled_from(["spans", "metrics", "logs"])
_KEYS = (
    "resource attributes key value stringValue intValue scopeSpans spans traceId spanId startTimeUnixNano endTimeUnixNano "
    "timeUnixNano name kind status events scopeMetrics metrics gauge sum histogram dataPoints asDouble bucketCounts "
    "explicitBounds scopeLogs logRecords body severityNumber severityText isMonotonic kvlistValue values code"
)
JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(_KEYS.split()),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=25,
)


def _survives(request: Request) -> None:
    """Whatever it is: frames of the right shape, and either a receipt or a complaint. Nothing else escapes."""
    decoder = Decoder(EVERYTHING)
    good = _request(traces([span(1)]))
    decoded = decoder.decode([request, good], NOW_NS)
    assert isinstance(decoded.receipts[0], BadTelemetry) or decoded.receipts[0].accepted >= 0
    assert receipt_of(decoded.receipts[1:]).accepted == 1
    assert decoded.batch.spans.schema == RAW_SPANS
    assert decoded.batch.metrics.schema == dtypes("metrics")
    assert decoded.batch.logs.schema == dtypes("logs")


@given(SIGNALS, st.sampled_from(["protobuf", "json"]), st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_random_bytes(signal: Signal, encoding: Encoding, body: bytes) -> None:
    _survives(Request(signal, body, encoding))


@given(SIGNALS, JSON_VALUES)
@settings(max_examples=120, deadline=None)
def test_json_of_the_wrong_shape(signal: Signal, value: Any) -> None:
    root = {"spans": "resourceSpans", "metrics": "resourceMetrics", "logs": "resourceLogs"}[signal]
    inner = {"spans": "scopeSpans", "metrics": "scopeMetrics", "logs": "scopeLogs"}[signal]
    for body in (value, {root: value}, {root: [{inner: value}]}, {root: [{inner: [value]}]}):
        _survives(Request(signal, json.dumps(body).encode(), "json"))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_protobuf(data: st.DataObject) -> None:
    """A valid request of which one byte is changed, or which is cut off."""
    message, signal = data.draw(
        st.sampled_from(
            [
                (traces([span(1, attributes={"db.system": "x"}, events=[Span.Event(name="exception")]), span(2)]), "spans"),
                (counter(3, NOW_NS), "metrics"),
                (lines(["hello 1"]), "logs"),
            ]
        )
    )
    body = bytearray(message.SerializeToString())
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(body)), st.integers(0, len(body))))
    _survives(Request(signal, bytes(body[:end])))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "body",
    [
        b'{"resourceSpans":' + b"[" * 100_000,
        b'{"resourceSpans": [{"resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "\\ud800"}}]}}]}',
        b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": 5}]}]}]}',
        b'{"resourceSpans": ' + b"9" * 10_000 + b"}",
        b"[]",
        b"null",
        b"\xff",
    ],
)
def test_json_that_is_no_request(body: bytes) -> None:
    (receipt,) = Decoder(EVERYTHING).decode([Request("spans", body, "json")], NOW_NS).receipts
    assert isinstance(receipt, BadTelemetry)
    assert receipt.expected == "an export request" or "OTLP" in receipt.expected


def test_protobuf_nested_too_deeply() -> None:
    value = b""
    for _ in range(3000):
        value = b"\x2a" + _varint(len(value) + 1 + len(_varint(len(value)))) + b"\x0a" + _varint(len(value)) + value
    message = lines(["x"])
    body = message.SerializeToString()
    attribute = b"\n\x01k\x12" + _varint(len(value)) + value
    resource = b"\n" + _varint(len(attribute)) + attribute
    part = b"\n" + _varint(len(resource)) + resource
    (receipt,) = Decoder(EVERYTHING).decode([Request("logs", body + b"\n" + _varint(len(part)) + part)], NOW_NS).receipts
    assert isinstance(receipt, BadTelemetry)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def test_templates_stay_few() -> None:
    templates = Templates(most=20, services=3)
    for service in range(6):
        frame = pl.DataFrame(
            {"group": f"s{service}", "text": [f"{_word(n)} {_word(n * 7)} {_word(n * 31)}" for n in range(2000)]}
        )
        templates.mine(frame)
        assert templates.mine(frame)["template"].n_unique() <= 22  # the one that was too many, and `<*>`


def _word(number: int) -> str:
    return "".join(chr(97 + (number // 26**place) % 26) for place in range(4))


def test_memory_stays_flat() -> None:
    """Names, attributes, series and lines that never come again leave nothing behind but what the limits allow."""
    decoder = Decoder(OtlpConfig.model_validate({"max_series_bytes": "100kB", "max_templates": 20, "read_attributes": "all"}))

    def feed(number: int) -> None:
        unseen = {f"k{number}": "v", "server.address": f"host-{number}", "db.system": f"db-{number}"}
        spans = [span(number * 50 + n + 1, name=f"op {number} {n}", attributes=unseen) for n in range(50)]
        series = counter(1, NOW_NS, name=f"metric {number}", key=f"value {number}")
        requests = [
            _request(traces(spans, service_version=str(number))),
            _request(series, "metrics"),
            _request(lines([f"{_word(number)} happened to {_word(number * 3)}"]), "logs"),
        ]
        decoder.decode(requests, NOW_NS)

    for number in range(40):
        feed(number)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(40, 120):
        feed(number)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 500_000  # 80 rounds of 50 spans; their attributes alone are more


def test_metrics_of_nobody() -> None:
    message = ExportMetricsServiceRequest()
    point = message.resource_metrics.add().scope_metrics.add().metrics.add(name="a").gauge.data_points.add()
    point.time_unix_nano, point.as_double = NOW_NS, 1.0
    receipt = receipt_of(_decoded(message, "metrics").receipts)
    assert receipt.message == "1 data points of no pod, service or node"
