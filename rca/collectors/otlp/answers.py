"""What a sender is told, in protobuf: partial success, google.rpc.Status, and after how long to try again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from rca.collectors.otlp.intake import Signal
from rca.collectors.otlp.request import Receipt
from rca.errors import BadInput, Overloaded, RcaError, Unavailable

_RESPONSES: Final = {
    "spans": (ExportTraceServiceResponse, "rejected_spans"),
    "metrics": (ExportMetricsServiceResponse, "rejected_data_points"),
    "logs": (ExportLogsServiceResponse, "rejected_log_records"),
}
INVALID_ARGUMENT, INTERNAL, UNAVAILABLE, UNAUTHENTICATED = 3, 13, 14, 16
"""Codes of google.rpc.Status that are used here."""


@dataclass(frozen=True)
class Refusal:
    """Why a request is not taken: a gRPC code, the HTTP status that says the same, and when to try again, if at all."""

    code: int
    http_status: int
    message: str
    retry_after_s: float | None = None

    def status(self) -> Any:
        """As google.rpc.Status, with RetryInfo if the sender may try again."""
        status = Status(code=self.code, message=self.message)
        if self.retry_after_s is not None:
            info = RetryInfo()
            info.retry_delay.FromNanoseconds(round(self.retry_after_s * 1e9))
            detail = AnyMessage()
            detail.Pack(info)
            status.details.append(detail)
        return status


UNAUTHORIZED: Final = Refusal(UNAUTHENTICATED, 401, "expected a Bearer token that is known here")


def refusal_of(error: RcaError, retry_after_s: float) -> Refusal:
    """How an error is told to the sender; `retry_after_s` where the error does not say."""
    if isinstance(error, BadInput):
        return Refusal(INVALID_ARGUMENT, 400, str(error))
    if isinstance(error, Overloaded):
        return Refusal(UNAVAILABLE, 503, str(error), error.retry_after_s)
    if isinstance(error, Unavailable):
        return Refusal(UNAVAILABLE, 503, str(error), retry_after_s)
    return Refusal(INTERNAL, 500, str(error))


def response_of(signal: Signal, receipt: Receipt) -> Any:
    """The export response; empty if everything was taken."""
    message, field = _RESPONSES[signal]
    response = message()
    if receipt.rejected:
        setattr(response.partial_success, field, receipt.rejected.total())
        response.partial_success.error_message = receipt.message
    return response
