"""The HTTP application: who is let in, how much is taken, and what a refusal looks like. What it answers stands in api.py."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rca import __version__
from rca.errors import BadInput, Overloaded, RcaError, StorageFull, Unavailable, UnknownName
from rca.incidents.incident import Label
from rca.serve.asking import Ranks
from rca.serve.auth import Access, Audit, Role, Sites, Who
from rca.serve.config import ServeConfig
from rca.serve.inbox import Inbox
from rca.serve.metrics import Metrics
from rca.serve.notices import leader
from rca.serve.payload import Webhook
from rca.serve.schemas import Problem
from rca.sinks.notice import Notice
from rca.telemetry import SECOND_NS

_LOG: Final = logging.getLogger(__name__)
SMALL_BODY: Final = 64 * 2**10
"""Largest body of anything but a notification."""
_PAGES: Final = 8
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
_DESCRIPTION: Final = """\
Alerts come in as Alertmanager's webhook sends them, and are ranked: which service most likely caused them, and why. \
People confirm or correct the answer, which becomes a label.

Times are nanoseconds since the Unix epoch, UTC. An error says what was expected, what was found and where. \
Authentication is by `Authorization: Bearer SECRET` or basic; the role `send` may post alerts, `read` may see everything, \
`label` may also label."""
_SECURITY: Final[dict[str, Any]] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "basic": {"type": "http", "scheme": "basic"},
}


@dataclass
class Desk:
    """What every request needs."""

    settings: ServeConfig
    inbox: Inbox
    access: Access
    sites: Sites
    audit: Audit
    metrics: Metrics
    ranks: Callable[[], Ranks | None] = lambda: None
    parts: Callable[[], dict[str, str]] = dict
    """Parts of the server that do not stand well enough to be ready, and how."""
    pending: int = field(default=0)
    """Bytes of notifications that are held in memory."""
    pages: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_PAGES))
    """Room for pages that are made at once: others wait, and neither notifications nor /readyz wait with them."""

    def reading(self) -> Any:
        """A connection to the inbox of one's own."""
        return self.inbox.reading()

    def allowed(self, request: Request, role: Role) -> Who:
        """Who asks. Raises HTTPException (401, 403), or Unavailable while those to let in cannot be read."""
        address = request.client.host if request.client else ""
        headers = {name.lower(): value for name, value in request.headers.items()}
        reason = self.sites.refusal(request.method, request.url.scheme, headers)
        if reason:
            self.audit.refused(reason, who="", address=address, target=request.url.path)
            raise HTTPException(403, f"refused: {reason}")
        who = self.access.who(request.headers.get("authorization"))
        if who is None:
            self.audit.refused("no or a wrong secret", who="", address=address, target=request.url.path)
            challenge = {"WWW-Authenticate": 'Basic realm="rca", charset="UTF-8"'}  # beside another one, Chromium asks nobody
            raise HTTPException(401, "expected a known Bearer token, or name and secret", challenge)
        if role not in who.roles:
            self.audit.refused(f"lacks the role {role}", who=who.name, address=address, target=request.url.path)
            raise HTTPException(403, f"refused: this takes the role {role}")
        return who

    def refuse(self, request: Request, who: Who, reason: str) -> None:
        """Note that somebody was turned away."""
        address = request.client.host if request.client else ""
        self.audit.refused(reason, who=who.name, address=address, target=request.url.path)

    def labelled(self, verdict: str, label: Label, notice: Notice | None, *, changed: bool) -> None:
        """Count a verdict, and whether the last answer had said the same."""
        self.metrics.labels.add(verdict)
        if changed and verdict != "withdraw":
            blamed = leader(notice.report) if notice else None
            agrees = blamed == (label.entity.entity() if label.entity else None)
            self.metrics.agreement.add("agrees" if agrees else "differs")

    def done(self, request: Request, who: Who, action: str, target: str) -> None:
        """Note a change that is about to be made. Raises StorageFull."""
        self.audit.note(action, who=who.name, address=request.client.host if request.client else "", target=target)


def build_app(desk: Desk, routers: Sequence[APIRouter]) -> FastAPI:
    """The application, with the routes of the API and of the pages."""
    app = FastAPI(
        title="rca serve",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,  # they load their scripts from elsewhere
        redoc_url=None,
        openapi_url="/openapi.json",
        responses={status: {"model": Problem, "description": words} for status, words in _REFUSALS.items()},
    )
    for router in routers:
        app.include_router(router)
    app.add_exception_handler(RcaError, _refusal(desk))
    app.add_exception_handler(HTTPException, _http_refusal)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_middleware(_Guard, settings=desk.settings, metrics=desk.metrics)
    described = app.openapi

    def openapi() -> dict[str, Any]:
        """What FastAPI describes, and how one is let in."""
        schema = described()
        components = schema.setdefault("components", {})
        components["securitySchemes"] = _SECURITY
        components.setdefault("schemas", {}).update(_webhook())
        schema["security"] = [] if desk.access.open else [{name: []} for name in _SECURITY]
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
    return app


def _webhook() -> dict[str, Any]:
    """The models of a notification, which is read by hand, as FastAPI describes those that it reads."""
    schema = Webhook.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs", {}), "Webhook": schema}


_REFUSALS: Final[dict[int | str, str]] = {
    400: "The request is malformed",
    401: "Nobody that is known asks",
    403: "The role does not allow it, or a page of another site sent it",
    408: "The request took too long to arrive",
    413: "The request is too large",
    422: "The request is not what is expected",
    503: "There is no room now, or the disk does not take it: try again after `Retry-After` seconds",
}


def answer_to(error: RcaError, retry_after_ns: int) -> tuple[int, dict[str, str]]:
    """Status and headers for an error of ours."""
    if isinstance(error, Unavailable | StorageFull):
        wait = error.retry_after_s if isinstance(error, Overloaded) else retry_after_ns / SECOND_NS
        return 503, {"Retry-After": str(math.ceil(wait))}
    if isinstance(error, UnknownName):
        return 404, {}
    return (422 if isinstance(error, BadInput) else 500), {}


def _refusal(desk: Desk) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def refused(_request: Request, error: Exception) -> Response:
        known = error if isinstance(error, RcaError) else RcaError(str(error))
        status, headers = answer_to(known, desk.settings.limits.retry_after)
        if status >= 500:
            _LOG.warning("%s", error)
        return problem(status, str(error), headers)

    return refused


async def _http_refusal(_request: Request, error: Exception) -> Response:
    known = error if isinstance(error, HTTPException) else HTTPException(500)
    return problem(known.status_code, str(known.detail), dict(known.headers or {}))


async def _invalid(_request: Request, error: Exception) -> Response:
    """What does not fit the description; values are not repeated, for they may be anything."""
    mistakes = error.errors() if isinstance(error, RequestValidationError) else []
    malformed = any(mistake["type"] == "json_invalid" for mistake in mistakes)
    words = [f"{'.'.join(str(part)[:60] for part in mistake['loc'])}: {mistake['msg']}" for mistake in mistakes[:5]]
    return problem(400 if malformed else 422, "; ".join(words))


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    """A refusal in the form that all have."""
    return JSONResponse({"detail": detail[:2000]}, status, headers)


class _Guard:
    """Around everything: how many requests at once, how large, and what every answer says to a browser."""

    def __init__(self, app: ASGIApp, settings: ServeConfig, metrics: Metrics) -> None:
        self._app, self._limits, self._metrics = app, settings.limits, metrics
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        send = _named(send)
        notifies = scope["path"] == ALERTS_PATH
        if self._under_way >= self._limits.requests:
            wait = str(math.ceil(self._limits.retry_after / SECOND_NS))
            if notifies:
                self._metrics.notifications.add("told to wait")
            await problem(503, "too many requests are under way", {"Retry-After": wait})(scope, receive, send)
            return
        most = self._limits.body if notifies else SMALL_BODY
        declared = dict(scope["headers"]).get(b"content-length", b"")
        if declared.isdigit() and int(declared) > most:
            if notifies:
                self._metrics.notifications.add("refused")
            await problem(413, f"body: expected at most {most:,} bytes, found {int(declared):,}")(scope, receive, send)
            return
        self._under_way += 1
        try:
            await self._app(scope, _Counted(receive, most, self._limits.read_timeout / SECOND_NS), send)
        finally:
            self._under_way -= 1


ALERTS_PATH: Final = "/v1/alertmanager"


class _Counted:
    """A body as it arrives, no longer and no slower than allowed."""

    def __init__(self, receive: Receive, most: int, seconds: float) -> None:
        self._receive, self._left = receive, most
        self._until = asyncio.get_running_loop().time() + seconds
        self._ended = False

    async def __call__(self) -> Message:
        if self._ended:  # what comes now is that the client went away, which may take its time
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, "body: expected the rest of it sooner") from None
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise HTTPException(413, "body: expected less, found more than is read")
        self._ended = not message.get("more_body", False)
        return message


def _named(send: Send) -> Send:
    """Adds the headers that every answer has, where it does not set them itself."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message["headers"]}
            more = [(n.lower().encode(), v.encode()) for n, v in _HEADERS.items() if n.lower().encode() not in present]
            message = {**message, "headers": [*message["headers"], *more]}
        await send(message)

    return sending
