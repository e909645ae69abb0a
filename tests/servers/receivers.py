"""Receivers on loopback that speak the recorded shapes of Slack's Web API and PagerDuty's Events API v2, and a plain one.

Slack: docs.slack.dev/reference/methods/chat.postMessage and chat.update. PagerDuty: PagerDuty/api-schema, reference/events-v2.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Lock
from typing import Any

from tests.servers.loopback import running


@dataclass(frozen=True)
class Request:
    """What was posted."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """What is answered."""

    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)


def as_json(status: int, body: Any, **headers: str) -> Reply:
    return Reply(status, json.dumps(body).encode(), {name.replace("_", "-"): value for name, value in headers.items()})


@dataclass
class Receiver:
    """A server: what it got, and what to answer instead: `fault(request, requests so far)`, None for the true answer."""

    url: str = ""
    requests: list[Request] = field(default_factory=list)
    fault: Callable[[Request, int], Reply | None] = lambda _request, _times: None


@contextmanager
def receiving(
    answer: Callable[[Request], Reply] = lambda _request: Reply(), port: int = 0, certificate: tuple[Path, Path] | None = None
) -> Generator[Receiver]:
    """A server whose POST requests `answer` answers; with a certificate and its key, over TLS."""
    about, lock = Receiver(), Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            request = Request(self.path, dict(self.headers), body)
            with lock:
                about.requests.append(request)
                reply = about.fault(request, len(about.requests)) or answer(request)
            self.send_response(reply.status)
            for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, *_: object) -> None:
            pass

    with running(Handler, port, certificate) as about.url:
        yield about


SLACK_CHANNEL = "C1H9RESGL"
SLACK_ERRORS = {  # of blocks that Slack does not take
    "header": 150,
    "section": 3_000,
    "context": 3_000,
}


@dataclass
class Slack:
    """A workspace with one channel: its messages by `ts`."""

    token: str
    messages: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __call__(self, request: Request) -> Reply:
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return _slack_error("invalid_auth")
        body = request.json()
        if request.path == "/api/auth.test":
            return as_json(200, {"ok": True, "team": "Example", "user": "rca", "bot_id": "B1"})
        if error := _slack_mistake(body):
            return _slack_error(error)
        if request.path == "/api/chat.postMessage":
            if body["channel"] not in (SLACK_CHANNEL, "#incidents"):
                return _slack_error("channel_not_found")
            ts = f"1503435956.{len(self.messages) + 1:06}"
        elif request.path == "/api/chat.update":
            ts = body["ts"]
            if body["channel"] != SLACK_CHANNEL:  # an id, never a name
                return _slack_error("channel_not_found")
            if ts not in self.messages:
                return _slack_error("message_not_found")
        else:
            return _slack_error("unknown_method")
        self.messages[ts] = body
        return as_json(200, {"ok": True, "channel": SLACK_CHANNEL, "ts": ts, "message": {"text": body["text"], "ts": ts}})


def _slack_error(code: str) -> Reply:
    return as_json(200, {"ok": False, "error": code})


def _slack_mistake(body: dict[str, Any]) -> str:
    """The error code for a message that is over a limit; empty for a good one."""
    blocks = body["blocks"]
    if not body.get("text"):
        return "no_text"
    if len(body["text"]) > 40_000:
        return "msg_too_long"
    if not 1 <= len(blocks) <= 50:
        return "invalid_blocks"
    for block in blocks:
        texts = block["elements"] if block["type"] == "context" else [block["text"]]
        if not all(1 <= len(text["text"]) <= SLACK_ERRORS[block["type"]] for text in texts):
            return "invalid_blocks"
    return "msg_blocks_too_long" if len(json.dumps(blocks, ensure_ascii=False)) > 13_000 else ""


@dataclass
class PagerDuty:
    """A service: its open alerts by deduplication key, and how often each was triggered."""

    routing_key: str
    triggered: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    resolved: list[str] = field(default_factory=list)

    def __call__(self, request: Request) -> Reply:
        event = request.json()
        mistakes = list(self._mistakes(event, request.body))
        if mistakes:
            return as_json(400, {"status": "invalid event", "message": "Event object is invalid", "errors": mistakes})
        key = event["dedup_key"]
        if event["event_action"] == "trigger":
            self.triggered.setdefault(key, []).append(event)
        else:
            self.resolved.append(key)
        return as_json(202, {"status": "success", "message": "Event processed", "dedup_key": key})

    def _mistakes(self, event: dict[str, Any], body: bytes) -> Generator[str]:
        if len(event.get("routing_key", "")) != 32 or event["routing_key"] != self.routing_key:
            yield "Length of 'routing_key' is incorrect (should be 32 characters)"
        if event.get("event_action") not in ("trigger", "acknowledge", "resolve"):
            yield "'event_action' is missing or blank"
        if not 1 <= len(event.get("dedup_key", "")) <= 255:
            yield "'dedup_key' is too long"
        if len(body) > 512_000:
            yield "Event is too large"
        if event.get("event_action") == "trigger":
            payload = event.get("payload", {})
            yield from (
                f"'payload.{name}' is missing or blank" for name in ("summary", "source", "severity") if not payload.get(name)
            )
            if len(payload["summary"]) > 1_024:
                yield "'payload.summary' is too long"
            if payload["severity"] not in ("critical", "error", "warning", "info"):
                yield "'payload.severity' is invalid"
