"""OTLP over gRPC. Handlers get the bytes of a request, so that no generated deserializer stands in the way."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NoReturn

import grpc

from rca.collectors.otlp.access import Tokens
from rca.collectors.otlp.answers import UNAUTHORIZED, Refusal, refusal_of, response_of
from rca.collectors.otlp.config import OtlpConfig, ServerTls
from rca.collectors.otlp.desk import Desk, answer_of
from rca.collectors.otlp.intake import Signal
from rca.collectors.otlp.request import Request
from rca.errors import BadInput, RcaError
from rca.telemetry import SECOND_NS

_SIGNALS: Final[dict[str, Signal]] = {
    "/opentelemetry.proto.collector.trace.v1.TraceService/Export": "spans",
    "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export": "metrics",
    "/opentelemetry.proto.collector.logs.v1.LogsService/Export": "logs",
}
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
_THREADS: Final = 16  # requests that wait at a time; they hold a body each


class GrpcServer:
    """Listens from construction to `stop`. Raises BadInput if the address or the certificate cannot be used."""

    def __init__(self, config: OtlpConfig, desk: Desk, tokens: Tokens) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="otlp-grpc")
        options = [
            ("grpc.max_receive_message_length", config.max_body_bytes),
            ("grpc.so_reuseport", 0),  # two receivers on one port would each get half of the spans
        ]
        self._server = grpc.server(self._pool, handlers=[_Handlers(config, desk, tokens)], options=options)
        try:
            if config.tls is None:
                self.port = self._server.add_insecure_port(config.grpc_address)
            else:
                self.port = self._server.add_secure_port(config.grpc_address, _credentials(config.tls))
        except RuntimeError:
            found = f"{config.grpc_address}, which is taken or not of this machine"
            raise BadInput("otlp.grpc_address", expected="an address to listen on", found=found) from None
        self._server.start()

    def stop(self, grace_s: float) -> None:
        """Take no more requests, and wait for those under way."""
        self._server.stop(grace_s).wait()
        self._pool.shutdown()


def _credentials(tls: ServerTls) -> grpc.ServerCredentials:
    try:
        pair = (tls.key_file.read_bytes(), tls.cert_file.read_bytes())
        authorities = tls.client_ca_file.read_bytes() if tls.client_ca_file else None
    except OSError as error:
        raise BadInput("otlp.tls", expected="readable files", found=str(error)) from None
    return grpc.ssl_server_credentials([pair], authorities, require_client_auth=authorities is not None)


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, config: OtlpConfig, desk: Desk, tokens: Tokens) -> None:
        self._desk, self._tokens = desk, tokens
        self._retry_after_s = config.retry_after / SECOND_NS
        self._methods: dict[str, Any] = {
            method: grpc.unary_unary_rpc_method_handler(self._export(signal)) for method, signal in _SIGNALS.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        method = handler_call_details.method
        if method in _SIGNALS:
            self._desk.accounting.add("calls", _SIGNALS[method])
        return self._methods.get(method)

    def _export(self, signal: Signal) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        def export(body: bytes, context: grpc.ServicerContext) -> bytes:
            self._authorize(signal, context)
            try:
                with self._desk.room.held(len(body), signal):
                    receipt = self._desk.submit(Request(signal, body)).result()
            except RcaError as error:
                _abort(context, refusal_of(error, self._retry_after_s))
            answer: bytes = response_of(signal, receipt).SerializeToString()
            return answer

        return export

    def _authorize(self, signal: Signal, context: grpc.ServicerContext) -> None:
        header = next((str(value) for key, value in context.invocation_metadata() if key == "authorization"), None)
        try:
            admitted = self._tokens.admits(header)
        except RcaError as error:
            self._desk.accounting.add("requests", signal, 1, answer_of(error))
            _abort(context, refusal_of(error, self._retry_after_s))
        if not admitted:
            self._desk.accounting.add("requests", signal, 1, "unauthorized")
            _abort(context, UNAUTHORIZED)


def _abort(context: grpc.ServicerContext, refusal: Refusal) -> NoReturn:
    """Raises."""
    context.set_trailing_metadata((("grpc-status-details-bin", refusal.status().SerializeToString()),))
    context.abort(_CODES[refusal.code], refusal.message)
    raise AssertionError("abort raises")
