"""OTLP over HTTP: protobuf and JSON on one port, told apart by Content-Type, answered in the request's encoding."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import socket
import ssl
import threading
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

import uvicorn
from google.protobuf.json_format import MessageToDict
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rca.collectors.otlp.access import Tokens
from rca.collectors.otlp.answers import INVALID_ARGUMENT, UNAUTHORIZED, Refusal, refusal_of, response_of
from rca.collectors.otlp.config import OtlpConfig
from rca.collectors.otlp.desk import Desk, answer_of
from rca.collectors.otlp.intake import Signal
from rca.collectors.otlp.request import Encoding, Receipt
from rca.collectors.otlp.request import Request as Export
from rca.errors import BadInput, RcaError
from rca.telemetry import SECOND_NS

HEALTH_PATH: Final = "/healthz"
Health = Callable[[], Mapping[str, Any]]
"""How things stand, as JSON values."""
_PATHS: Final[dict[str, Signal]] = {"/v1/traces": "spans", "/v1/metrics": "metrics", "/v1/logs": "logs"}
_TYPES: Final[dict[str, Encoding]] = {"application/x-protobuf": "protobuf", "application/json": "json"}
_MEDIA_TYPES: Final = {encoding: media_type for media_type, encoding in _TYPES.items()}
_BODY_SECONDS: Final = 30  # for a body to arrive
_STEP: Final = 2**20  # bytes decompressed at a time
_GZIP: Final = 16 + zlib.MAX_WBITS


class _Refused(Exception):
    """A request is turned away before it is decoded."""

    def __init__(self, refusal: Refusal, counted_as: str) -> None:
        self.refusal, self.counted_as = refusal, counted_as
        super().__init__(refusal.message)


class HttpServer:
    """Listens from construction to `stop`. Raises BadInput if the address or the certificate cannot be used."""

    def __init__(self, config: OtlpConfig, desk: Desk, tokens: Tokens, health: Health) -> None:
        self._socket = _listening(config.http_address)
        self.port: int = self._socket.getsockname()[1]
        app = _Exports(config, desk, tokens, health).app()
        tls = config.tls
        settings = uvicorn.Config(
            app,
            log_config=None,
            log_level=logging.WARNING,
            access_log=False,
            lifespan="off",
            server_header=False,
            ssl_certfile=tls.cert_file if tls else None,
            ssl_keyfile=tls.key_file if tls else None,
            ssl_ca_certs=str(tls.client_ca_file) if tls and tls.client_ca_file else None,
            ssl_cert_reqs=ssl.CERT_REQUIRED if tls and tls.client_ca_file else ssl.CERT_NONE,
            timeout_graceful_shutdown=math.ceil(config.shutdown_grace / SECOND_NS),
        )
        try:
            settings.load()
        except OSError as error:  # ssl.SSLError is one
            self._socket.close()
            raise BadInput("otlp.tls", expected="a certificate and its key", found=str(error)) from None
        self._server = uvicorn.Server(settings)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="otlp-http", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take no more requests, and wait for those under way."""
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()


def _listening(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, OverflowError) as error:
        raise BadInput("otlp.http_address", expected="an address to listen on", found=f"{address}: {error}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise BadInput("otlp.http_address", expected="an address to listen on", found=f"{address}: {error.strerror}") from None
    return listener


class _Exports:
    """The three paths that telemetry is sent to, and one that tells how things stand, to whom it may concern."""

    def __init__(self, config: OtlpConfig, desk: Desk, tokens: Tokens, health: Health) -> None:
        self._desk, self._tokens, self._health = desk, tokens, health
        self._most = config.max_body_bytes
        self._retry_after_s = config.retry_after / SECOND_NS

    def app(self) -> Starlette:
        exports = [Route(path, self._export, methods=["POST"]) for path in _PATHS]
        return Starlette(routes=[*exports, Route(HEALTH_PATH, self._tell, methods=["GET"])])

    async def _tell(self, _request: Request) -> Response:
        """200 for as long as it can answer: a full disk is no reason to start it anew."""
        return JSONResponse(dict(self._health()))

    async def _export(self, request: Request) -> Response:
        signal = _PATHS[request.url.path]
        count = self._desk.accounting.add
        count("calls", signal)
        encoding = _TYPES.get(request.headers.get("content-type", "").partition(";")[0].strip().lower())
        try:
            self._check(request, encoding)
            receipt = await self._taken(request, signal, encoding or "json")
        except _Refused as refused:
            count("requests", signal, 1, refused.counted_as)
            return _refusal(refused.refusal, encoding)
        except RcaError as error:
            return _refusal(refusal_of(error, self._retry_after_s), encoding)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        return _response(response_of(signal, receipt), encoding, 200)

    def _check(self, request: Request, encoding: Encoding | None) -> None:
        """Raises _Refused, or Unavailable while tokens cannot be read."""
        try:
            admitted = self._tokens.admits(request.headers.get("authorization"))
        except RcaError as error:
            raise _Refused(refusal_of(error, self._retry_after_s), answer_of(error)) from error
        if not admitted:
            raise _Refused(UNAUTHORIZED, "unauthorized")
        if encoding is None:
            expected = " or ".join(_TYPES)
            raise _Refused(Refusal(INVALID_ARGUMENT, 415, f"Content-Type: expected {expected}"), "of an unknown type")
        if request.headers.get("content-encoding", "identity").lower() not in ("identity", "gzip"):
            raise _Refused(Refusal(INVALID_ARGUMENT, 415, "Content-Encoding: expected gzip or none"), "of an unknown type")

    async def _taken(self, request: Request, signal: Signal, encoding: Encoding) -> Receipt:
        """Raises _Refused or RcaError."""
        zipped = request.headers.get("content-encoding", "identity").lower() == "gzip"
        body, held = bytearray(), 0
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                async for part in _unzipped(request.stream(), self._most) if zipped else request.stream():
                    self._desk.room.take(len(part), signal)
                    held += len(part)
                    body += part
                    if len(body) > self._most:
                        raise _Refused(_too_large(self._most), "too large")
            future = self._desk.submit(Export(signal, bytes(body), encoding))
            del body
            return await asyncio.wrap_future(future)
        except TimeoutError:
            raise _Refused(
                Refusal(INVALID_ARGUMENT, 408, f"the body did not arrive within {_BODY_SECONDS} s"), "broken off"
            ) from None
        finally:
            self._desk.room.free(held)


async def _unzipped(parts: AsyncIterator[bytes], most: int) -> AsyncIterator[bytes]:
    """Decompressed parts, never more than `most` bytes and one. Raises _Refused if it is no gzip, or ends too early."""
    inflater, total, begun = zlib.decompressobj(_GZIP), 0, False
    async for part in parts:
        waiting, more = part, False
        while waiting or more:
            begun = True
            step = min(_STEP, most + 1 - total)
            try:
                plain = inflater.decompress(waiting, step)
            except zlib.error as error:
                raise _Refused(Refusal(INVALID_ARGUMENT, 400, f"expected gzip, found {error}"), "malformed") from None
            total += len(plain)
            yield plain
            if total > most:
                raise _Refused(_too_large(most), "too large")
            waiting, more = inflater.unconsumed_tail, len(plain) == step
            if inflater.eof:  # another member may follow
                waiting, more, begun = inflater.unused_data, False, False
                inflater = zlib.decompressobj(_GZIP)
    if begun:
        raise _Refused(Refusal(INVALID_ARGUMENT, 400, "expected gzip, found one that is cut off"), "malformed")


def _too_large(most: int) -> Refusal:
    return Refusal(INVALID_ARGUMENT, 413, f"expected at most {most:,} bytes after decompression (max_body_bytes)")


def _refusal(refusal: Refusal, encoding: Encoding | None) -> Response:
    headers = {}
    if refusal.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(refusal.retry_after_s))
    if refusal.http_status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return _response(refusal.status(), encoding, refusal.http_status, headers)


def _response(message: Any, encoding: Encoding | None, status: int, headers: dict[str, str] | None = None) -> Response:
    """A message in the request's encoding; JSON if that was none that is known."""
    if encoding == "protobuf":
        return Response(message.SerializeToString(), status, headers, _MEDIA_TYPES["protobuf"])
    return Response(json.dumps(MessageToDict(message)), status, headers, _MEDIA_TYPES["json"])
