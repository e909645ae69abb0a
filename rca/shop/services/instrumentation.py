"""OpenTelemetry as a team would set it up: spans and log lines over OTLP, metrics for Prometheus."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from opentelemetry import metrics, trace
from opentelemetry._logs import set_logger_provider
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.logging.handler import LoggingHandler
from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.view import DropAggregation, ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Match

_SECONDS: Final = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0]

Skew = Callable[[], int]


class _Skewed(SpanExporter):
    """An exporter of a machine whose clock is off."""

    def __init__(self, exporter: SpanExporter, skew_ns: Skew) -> None:
        self._exporter, self._skew_ns = exporter, skew_ns

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        skew = self._skew_ns()
        return self._exporter.export([_moved(span, skew) for span in spans] if skew else spans)

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def _moved(span: ReadableSpan, by_ns: int) -> ReadableSpan:
    return ReadableSpan(
        name=span.name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=span.attributes,
        events=span.events,
        links=span.links,
        kind=span.kind,
        status=span.status,
        start_time=(span.start_time or 0) + by_ns,
        end_time=(span.end_time or 0) + by_ns,
        instrumentation_scope=span.instrumentation_scope,
    )


class _Clock(logging.Filter):
    """The same for log lines."""

    def __init__(self, skew_ns: Skew) -> None:
        super().__init__()
        self._skew_ns = skew_ns

    def filter(self, record: logging.LogRecord) -> bool:
        record.created += self._skew_ns() / 1e9
        return True


def set_up(version: str, skew_ns: Skew, *, export: bool) -> Callable[[], None]:
    """Instrument this process; what returned ends it. Service, pod, endpoint and delays come from OTEL_*, as everywhere."""
    resource = Resource.create({"service.version": version})
    tracing = TracerProvider(resource=resource)
    logs = LoggerProvider(resource=resource)
    if export:
        exporter = _Skewed(OTLPSpanExporter(), skew_ns)
        tracing.add_span_processor(BatchSpanProcessor(exporter))
        logs.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
    trace.set_tracer_provider(tracing)
    set_logger_provider(logs)
    metrics.set_meter_provider(MeterProvider(resource=resource, metric_readers=[PrometheusMetricReader()], views=_views()))
    for instrumentor in (RequestsInstrumentor(), PsycopgInstrumentor(), RedisInstrumentor()):
        instrumentor.instrument()
    _log_to(logs, skew_ns)

    def end() -> None:
        tracing.shutdown()
        logs.shutdown()

    return end


def _views() -> list[View]:
    dropped = [View(instrument_name=f"http.{side}.{what}.body.size", aggregation=DropAggregation())
               for side in ("server", "client") for what in ("request", "response")]  # fmt: skip
    return [*dropped, View(instrument_name="*.duration", aggregation=ExplicitBucketHistogramAggregation(_SECONDS))]


def _log_to(provider: LoggerProvider, skew_ns: Skew) -> None:
    handler = LoggingHandler(logger_provider=provider)
    handler.addFilter(_Clock(skew_ns))
    plain = logging.StreamHandler()
    plain.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    plain.setLevel(logging.WARNING)
    logging.basicConfig(level=logging.INFO, handlers=[handler, plain], force=True)
    for chatty in ("uvicorn.access", "uvicorn.error", "urllib3", "opentelemetry"):
        logging.getLogger(chatty).setLevel(logging.ERROR)


def middleware() -> Middleware:
    """A server span and metrics for every request, named by its route, without spans for the parts of HTTP."""
    return Middleware(OpenTelemetryMiddleware, default_span_details=_details, exclude_spans=["receive", "send"])


def _details(scope: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    app: Starlette = scope["app"]
    for route in app.routes:
        if route.matches(scope)[0] == Match.FULL:
            path = str(getattr(route, "path", ""))
            return f"{scope['method']} {path}", {"http.route": path}
    return str(scope.get("method", "HTTP")), {}
