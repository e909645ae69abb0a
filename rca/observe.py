"""What `rca serve` tells OpenTelemetry of itself: a trace of every ranking and of every message, and its metrics.

Off unless `[observe] enabled`: then nothing is sent, and nothing of the SDK is loaded. Spans hold ids, times, counts, and what
ranked; they name no service and no alert, but for what the words of an error say.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import Field

from rca.settings import DurationNs, Section, secret_in
from rca.telemetry import SECOND_NS

if TYPE_CHECKING:
    import requests
    from opentelemetry.trace import Span as OtelSpan

Value = str | bool | int | float | Sequence[str]
Reading = Callable[[], Mapping[str, float]]
"""Values of the moment by what its one label holds; under the empty label where it has none."""

_UNITS: Final = {"_seconds": "s", "_bytes": "By"}
_DELAY_MS: Final = 1_000
_LOG: Final = logging.getLogger(__name__)


class ObserveConfig(Section):
    """What `rca serve` tells OpenTelemetry of itself. The SDK's own variables (`OTEL_RESOURCE_ATTRIBUTES` ...) hold beside it."""

    enabled: Annotated[bool, Field(description="send a trace of every ranking and message, and metrics")] = False
    endpoint: Annotated[
        str, Field(pattern=r"^https?://[^\s@?#]+$", description="who takes OTLP over HTTP; /v1/traces and /v1/metrics are added")
    ] = "http://localhost:4318"
    service_name: Annotated[str, Field(min_length=1, description="`service.name` of what is sent")] = "rca-serve"
    bearer_token_file: Annotated[Path | None, Field(description="file with a token to show, read anew for every request")] = None
    headers: Annotated[
        dict[str, str], Field(repr=False, description='further headers, such as a tenant: { X-Scope-OrgID = "team-a" }')
    ] = {}
    ca_file: Annotated[Path | None, Field(description="certificates to trust instead of the usual ones (PEM)")] = None
    cert_file: Annotated[Path | None, Field(description="our certificate, where the server wants to see one (PEM)")] = None
    key_file: Annotated[Path | None, Field(description="its private key (PEM), unless it stands beside the certificate")] = None
    interval: Annotated[DurationNs, Field(description="how often metrics are sent")] = 30 * SECOND_NS
    timeout: Annotated[DurationNs, Field(description="how long one request may take")] = 5 * SECOND_NS


class Span:
    """A stretch of work. This one tells nobody."""

    def tell(self, **attributes: Value) -> None:
        """Note something about it; `rca_graph_id` becomes `rca.graph.id`."""

    def fail(self, words: str) -> None:
        """It did not do what it should."""


class Observer:
    """Where spans and metrics go. This one drops them; `observing` makes one that does not."""

    @contextmanager
    def span(self, name: str, parent: Mapping[str, str] | None = None, **attributes: Value) -> Iterator[Span]:
        """Work under that name, below what is under way in this thread, or below `parent`, a `context` of another process."""
        _ = name, parent, attributes
        yield Span()

    def context(self) -> dict[str, str]:
        """What another process needs to go on with the trace that is under way; empty where there is none."""
        return {}

    def count(self, name: str, meaning: str, label: str, read: Reading) -> None:
        """Report sums that only grow, whenever metrics are sent. `name` is Prometheus' name of it."""

    def gauge(self, name: str, meaning: str, read: Reading, label: str = "") -> None:
        """Report values of the moment, whenever metrics are sent; none of an empty mapping."""

    def histogram(self, name: str, meaning: str, bounds: Sequence[float]) -> Callable[[float], None]:
        """What to call with every duration."""
        _ = name, meaning, bounds
        return lambda _seconds: None

    def close(self) -> None:
        """Send what waits, for no longer than a request may take."""


def observing(config: ObserveConfig) -> Observer:
    """An observer as configured. Raises BadInput for a token that cannot be read."""
    if not config.enabled:
        return Observer()
    if config.bearer_token_file is not None:
        secret_in(config.bearer_token_file)
    return _OpenTelemetry(config)


class _OpenTelemetry(Observer):
    """Sends OTLP over HTTP, in batches and from threads of its own: nobody waits for it, and what fails is logged."""

    def __init__(self, config: ObserveConfig) -> None:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        from rca import __version__

        about = Resource.create({"service.name": config.service_name, "service.version": __version__, "process.pid": os.getpid()})
        base = config.endpoint.rstrip("/")
        spans = OTLPSpanExporter(f"{base}/v1/traces", **_transport(config))
        metrics = OTLPMetricExporter(f"{base}/v1/metrics", **_transport(config))
        self._traces = TracerProvider(resource=about, shutdown_on_exit=False)
        self._traces.add_span_processor(BatchSpanProcessor(spans, schedule_delay_millis=_DELAY_MS))
        reader = PeriodicExportingMetricReader(metrics, config.interval / 10**6, config.timeout / 10**6)
        self._metrics = MeterProvider([reader], about, shutdown_on_exit=False)
        self._tracer = self._traces.get_tracer("rca", __version__)
        self._meter = self._metrics.get_meter("rca", __version__)
        self._patience_ms = config.timeout // 10**6

    @contextmanager
    def span(self, name: str, parent: Mapping[str, str] | None = None, **attributes: Value) -> Iterator[Span]:
        """See Observer. An error ends the span as a failure, and goes on."""
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        above = TraceContextTextMapPropagator().extract(parent) if parent else None
        with self._tracer.start_as_current_span(
            name, above, attributes=_named(attributes), record_exception=False, set_status_on_exception=False
        ) as span:
            told = _Told(span)
            try:
                yield told
            except Exception as error:
                told.fail(str(error) or type(error).__name__)
                raise

    def context(self) -> dict[str, str]:
        """See Observer."""
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier)
        return carrier

    def count(self, name: str, meaning: str, label: str, read: Reading) -> None:
        """See Observer."""
        short, unit = _otel_name(name)
        self._meter.create_observable_counter(short, [_observed(read, label)], unit, meaning)

    def gauge(self, name: str, meaning: str, read: Reading, label: str = "") -> None:
        """See Observer."""
        short, unit = _otel_name(name)
        self._meter.create_observable_gauge(short, [_observed(read, label)], unit, meaning)

    def histogram(self, name: str, meaning: str, bounds: Sequence[float]) -> Callable[[float], None]:
        """See Observer."""
        short, unit = _otel_name(name)
        made = self._meter.create_histogram(short, unit, meaning, explicit_bucket_boundaries_advisory=bounds)
        return made.record

    def close(self) -> None:
        """See Observer."""
        for provider in (self._traces, self._metrics):
            with contextlib.suppress(Exception):  # a collector that is down is no news at the end
                provider.force_flush(self._patience_ms)
            with contextlib.suppress(Exception):
                provider.shutdown()


class _Told(Span):
    def __init__(self, span: OtelSpan) -> None:
        self._span = span

    def tell(self, **attributes: Value) -> None:
        self._span.set_attributes(_named(attributes))

    def fail(self, words: str) -> None:
        from opentelemetry.trace import Status, StatusCode

        self._span.set_status(Status(StatusCode.ERROR, words))


def _named(attributes: Mapping[str, Value]) -> dict[str, Any]:
    return {name.replace("_", ".", 2): value for name, value in attributes.items()}


def _otel_name(name: str) -> tuple[str, str]:
    """OpenTelemetry's name and unit, of which Prometheus makes that name again: `rca_serve_ranking_seconds` is in seconds."""
    short = name.removesuffix("_total")
    suffix = next((suffix for suffix in _UNITS if short.endswith(suffix)), "")
    return short.removesuffix(suffix).replace("_", ".", 2), _UNITS.get(suffix, "")


def _observed(read: Reading, label: str) -> Any:
    from opentelemetry.metrics import Observation

    def observe(_options: Any) -> list[Any]:
        try:
            values = read()
        except Exception as error:  # one figure that cannot be told must not keep the others
            _LOG.debug("%s", error)
            return []
        return [Observation(value, {label: of} if label else None) for of, value in values.items()]

    return observe


def _transport(config: ObserveConfig) -> dict[str, Any]:
    """How an exporter sends; each has a session of its own, because each has a thread of its own."""
    files = {"certificate_file": config.ca_file, "client_certificate_file": config.cert_file, "client_key_file": config.key_file}
    return {
        "timeout": config.timeout / SECOND_NS,
        "headers": config.headers,
        "session": _session(config.bearer_token_file),
        **{name: str(path) if path else None for name, path in files.items()},
    }


def _session(path: Path | None) -> requests.Session:
    """A session that shows the token of that file, as it stands there when something is sent.

    It trusts the settings alone: certificates, proxies and a .netrc of somebody's shell must not decide where things go.
    """
    import requests

    session = requests.Session()
    session.trust_env = False
    if path is not None:

        def shown(request: requests.PreparedRequest) -> requests.PreparedRequest:
            request.headers["Authorization"] = f"Bearer {secret_in(path)}"
            return request

        session.auth = shown
    return session
