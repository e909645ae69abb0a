"""A tiny HTTP service with the real OpenTelemetry SDK: traces over OTLP/gRPC, metrics for Prometheus to scrape.

    python -m tests.servers.service NAME PORT METRICS_PORT OTLP_ENDPOINT [CALLEE_URL ...]

`GET /work` does a little work and calls every callee; `POST /delay` with a number of ms makes it slow from then on.
"""

from __future__ import annotations

import sys
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry import metrics, propagate, trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import start_http_server

_WORK_S = 0.004
_SECONDS = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0]


def main(name: str, port: str, metrics_port: str, endpoint: str, *callees: str) -> None:
    """Serve until the process is ended."""
    resource = Resource.create({"service.name": name, "k8s.pod.name": f"{name}-5d8f7-x2x", "k8s.node.name": "node-a"})
    tracing = TracerProvider(resource=resource)
    tracing.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, insecure=True), schedule_delay_millis=500))
    trace.set_tracer_provider(tracing)
    metrics.set_meter_provider(MeterProvider(resource=resource, metric_readers=[PrometheusMetricReader()]))
    start_http_server(int(metrics_port), addr="127.0.0.1")
    tracer = trace.get_tracer("tests")
    duration = metrics.get_meter("tests").create_histogram(
        "http.server.request.duration", unit="s", explicit_bucket_boundaries_advisory=_SECONDS
    )
    delay = [0.0]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            started = time.perf_counter()
            parent = propagate.extract({name.lower(): value for name, value in self.headers.items()})
            with tracer.start_as_current_span("GET /work", context=parent, kind=SpanKind.SERVER) as span:
                time.sleep(_WORK_S + delay[0])
                statuses = [call(callee) for callee in callees]
                status = 502 if any(each >= 500 for each in statuses) else 200
                span.set_attribute("http.response.status_code", status)
            taken = time.perf_counter() - started
            duration.record(taken, {"http.request.method": "GET", "http.response.status_code": status})
            self.answer(status)

        def do_POST(self) -> None:
            delay[0] = float(self.rfile.read(int(self.headers["Content-Length"]))) / 1000
            self.answer(204)

        def answer(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    def call(url: str) -> int:
        with tracer.start_as_current_span("GET", kind=SpanKind.CLIENT, attributes={"server.address": "127.0.0.1"}) as span:
            headers: dict[str, str] = {}
            propagate.inject(headers)
            try:
                with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as response:
                    return int(response.status)
            except urllib.error.URLError as error:
                span.set_status(StatusCode.ERROR)
                return int(getattr(error, "code", 503))

    ThreadingHTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
