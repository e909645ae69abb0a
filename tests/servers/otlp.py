"""Who takes OTLP over HTTP on loopback and remembers it: spans and metrics by name, read as the protocol's own messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.servers.receivers import Receiver, Reply, receiving


class Observed:
    """What arrived so far."""

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self.url = receiver.url

    def spans(self) -> list[Any]:
        """Spans in the order of their arrival."""
        bodies = [request.body for request in list(self.receiver.requests) if request.path == "/v1/traces"]
        resources = [each for body in bodies for each in ExportTraceServiceRequest.FromString(body).resource_spans]
        return [span for resource in resources for scope in resource.scope_spans for span in scope.spans]

    def metrics(self) -> dict[str, Any]:
        """The last state of every metric by name."""
        bodies = [request.body for request in list(self.receiver.requests) if request.path == "/v1/metrics"]
        resources = [each for body in bodies for each in ExportMetricsServiceRequest.FromString(body).resource_metrics]
        return {metric.name: metric for each in resources for scope in each.scope_metrics for metric in scope.metrics}


def attributes(span: Any) -> dict[str, Any]:
    """The attributes of a span as Python has them."""
    return {each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in span.attributes}


@contextmanager
def observed(certificate: Any = None) -> Iterator[Observed]:
    """A receiver of OTLP on a free port."""
    with receiving(
        lambda _request: Reply(200, b"", {"Content-Type": "application/x-protobuf"}), certificate=certificate
    ) as receiver:
        yield Observed(receiver)
