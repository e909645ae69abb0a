"""The receiver: both listeners, and the desk behind them."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rca.collectors.otlp.access import Tokens
from rca.collectors.otlp.config import OtlpConfig
from rca.collectors.otlp.desk import Clock, Desk
from rca.collectors.otlp.grpc_server import GrpcServer
from rca.collectors.otlp.http_server import Health, HttpServer
from rca.collectors.otlp.intake import Accounting, Intake
from rca.telemetry import SECOND_NS


class Receiver:
    """Receives OTLP from construction to `stop`, or for as long as a `with` block runs, and gives it to `intake`.

    Raises BadInput if an address, the certificate or the tokens cannot be used. `grpc_port` and `http_port` say where it
    listens, which the configuration leaves open with port 0; None for a listener that is turned off. `health` is what
    GET /healthz on the HTTP port answers.
    """

    def __init__(
        self,
        config: OtlpConfig,
        intake: Intake,
        accounting: Accounting | None = None,
        clock: Clock = time.time_ns,
        health: Health = lambda: {"status": "ok"},
    ) -> None:
        self.accounting = accounting or Accounting()
        self._config = config
        tokens = Tokens(config.tokens_file)
        self._desk = Desk(config, intake, self.accounting, clock)
        self._grpc: GrpcServer | None = None
        self._http: HttpServer | None = None
        try:
            self._grpc = GrpcServer(config, self._desk, tokens) if config.grpc_address else None
            self._http = HttpServer(config, self._desk, tokens, health) if config.http_address else None
        except BaseException:
            self.stop()
            raise
        self.grpc_port = self._grpc.port if self._grpc else None
        self.http_port = self._http.port if self._http else None

    def stop(self) -> None:
        """Close the listeners, answer what is under way, and hand on what was decoded."""
        if self._http:
            self._http.stop()
        if self._grpc:
            self._grpc.stop(self._config.shutdown_grace / SECOND_NS)
        self._desk.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
