"""A Kubernetes API server on loopback: lists in parts, watch streams with bookmarks, refusals, and the ways in which it fails.

Paths, parameters and the shapes of objects are those of the real one. Events are one store shown by two API groups, and
`as=PartialObjectMetadata` leaves metadata alone, as the real one does.
"""

from __future__ import annotations

import base64
import copy
import itertools
import json
import re
import ssl
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

TOKEN = "loopback-token"

_PATH = re.compile(
    r"/(?:api/(?P<core>v1)|apis/(?P<group>[a-z0-9.]+)/(?P<version>v\d\w*))(?:/namespaces/(?P<namespace>[^/]+))?/(?P<name>[a-z]+)"
)
_BOOKMARK_SECONDS = 30.0
_API_VERSIONS = {"": "v1", "apps": "apps/v1", "batch": "batch/v1", "events.k8s.io": "events.k8s.io/v1"}
_SERVED = {
    **{
        name: ("", kind)
        for name, kind in (("pods", "Pod"), ("nodes", "Node"), ("configmaps", "ConfigMap"), ("secrets", "Secret"))
    },
    **{name: ("apps", kind) for name, kind in (("deployments", "Deployment"), ("replicasets", "ReplicaSet"))},
    **{name: ("apps", kind) for name, kind in (("statefulsets", "StatefulSet"), ("daemonsets", "DaemonSet"))},
    "controllerrevisions": ("apps", "ControllerRevision"),
    "jobs": ("batch", "Job"),
    "events": ("", "Event"),
}


@dataclass(frozen=True)
class Asked:
    """One request: what an RBAC rule has to allow."""

    verb: str
    group: str
    name: str
    namespace: str | None
    accept: str
    params: dict[str, str]


@dataclass
class Faults:
    """What goes wrong, until it is set back. Keys are resource names; a count is how many requests still fail.

    A delay may be for a verb alone: `watch jobs`.
    """

    status: dict[str, int] = field(default_factory=dict)
    times: dict[str, int] = field(default_factory=dict)
    garbage: set[str] = field(default_factory=set)
    endless: set[str] = field(default_factory=set)
    delay_seconds: dict[str, float] = field(default_factory=dict)
    forbidden: set[tuple[str, str]] = field(default_factory=set)
    unwatchable: set[str] = field(default_factory=set)
    gone_in_stream: bool = False
    expire_continue: int = 0


class KubernetesApi:
    """The server and what it holds. Use it as a context manager; objects may be changed while clients watch.

    `tls` is a certificate for 127.0.0.1 and its key.
    """

    def __init__(self, tls: tuple[Path, Path] | None = None) -> None:
        self.tls = tls
        self.faults = Faults()
        self.tokens = {TOKEN}
        self.asked: list[Asked] = []
        self._versions = itertools.count(1001)
        self._version = 1000
        self._oldest = 0
        self._objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self._history: list[tuple[int, str, str, dict[str, Any]]] = []
        self._changed = threading.Condition()
        self._streams: set[_Handler] = set()
        self._pages: dict[str, tuple[list[dict[str, Any]], int]] = {}
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.api = self
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        return f"{'https' if self.tls else 'http'}://{host!s}:{port}"

    @property
    def streams(self) -> int:
        """Watch streams that are open."""
        return len(self._streams)

    def __enter__(self) -> KubernetesApi:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self.break_streams()
        self._server.shutdown()
        self._server.server_close()

    def kubeconfig(self, folder: Path, token: str = TOKEN, ca_file: Path | None = None) -> Path:
        """A kubeconfig file with the contexts `loopback` and, at an address where nobody listens, `nowhere`."""
        trust = {"certificate-authority": str(ca_file)} if ca_file else {}
        clusters = {"loopback": {"server": self.url, **trust}, "nowhere": {"server": "http://127.0.0.1:9"}}
        body = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "loopback",
            "clusters": [{"name": name, "cluster": cluster} for name, cluster in clusters.items()],
            "users": [{"name": "reader", "user": {"token": token}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": "reader"}} for name in clusters],
        }
        path = folder / "kubeconfig"
        path.write_text(yaml.safe_dump(body))
        return path

    # --- what it holds -------------------------------------------------------------------------------------------------

    def add(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """Put a new object into a resource; UID and creation time are made up where they are not given."""
        body = copy.deepcopy(body)
        metadata = body.setdefault("metadata", {})
        metadata.setdefault("uid", str(uuid.uuid4()))
        metadata.setdefault("creationTimestamp", stamp())
        return self._write("ADDED", name, body)

    def modify(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """Replace an object; it is known by its namespace and name."""
        return self._write("MODIFIED", name, copy.deepcopy(body))

    def delete(self, name: str, body: dict[str, Any]) -> None:
        self._write("DELETED", name, copy.deepcopy(body))

    def bookmark(self, name: str) -> None:
        """Tell the watchers of a resource how far they are."""
        kind = _SERVED[name][1]
        self._write("BOOKMARK", name, {"kind": kind, "metadata": {"resourceVersion": "", "creationTimestamp": None}})

    def compact(self) -> None:
        """Forget all history, as etcd does after five minutes: who continues from before this gets 410."""
        with self._changed:
            self._history.clear()
            self._version = next(self._versions)
            self._oldest = self._version

    def break_streams(self, rest: bytes = b"") -> None:
        """End every watch stream, after these bytes: a part of an object, or anything else."""
        for handler in list(self._streams):
            handler.break_off(rest)
        with self._changed:
            self._changed.notify_all()

    def _write(self, kind: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        with self._changed:
            self._version = next(self._versions)
            body["metadata"]["resourceVersion"] = str(self._version)
            if kind != "BOOKMARK":
                key = (name, body["metadata"].get("namespace", ""), body["metadata"]["name"])
                if kind == "DELETED":
                    self._objects.pop(key, None)
                else:
                    self._objects[key] = body
            self._history.append((self._version, kind, name, copy.deepcopy(body)))
            self._changed.notify_all()
        return copy.deepcopy(body)

    # --- what it answers -----------------------------------------------------------------------------------------------

    def page(self, asked: Asked) -> tuple[int, dict[str, Any]]:
        """Status and body of a list."""
        with self._changed:
            token = asked.params.get("continue")
            if token is not None:
                if self.faults.expire_continue > 0 or token not in self._pages:
                    self.faults.expire_continue -= 1
                    return 410, refusal(410, "Expired", "The provided continue parameter is too old")
                found, version = self._pages.pop(token)
            else:
                version = self._version
                found = [copy.deepcopy(body) for key, body in sorted(self._objects.items()) if key[0] == asked.name]
                found = [body for body in found if _selected(body, asked)]
            limit = int(asked.params.get("limit") or 0) or len(found)
            items, rest = found[:limit], found[limit:]
            metadata: dict[str, Any] = {"resourceVersion": str(version)}
            if rest:
                metadata["continue"] = base64.b64encode(uuid.uuid4().bytes).decode()
                metadata["remainingItemCount"] = len(rest)
                self._pages[metadata["continue"]] = (rest, version)
        kind, api_version = f"{_SERVED[asked.name][1]}List", _API_VERSIONS[asked.group]
        if "as=PartialObjectMetadataList" in asked.accept:
            kind, api_version = "PartialObjectMetadataList", "meta.k8s.io/v1"
        return 200, {"kind": kind, "apiVersion": api_version, "metadata": metadata, "items": [_shown(b, asked) for b in items]}

    def follow(self, asked: Asked, handler: _Handler) -> Iterator[dict[str, Any]]:
        """Watch events after a version, until the stream is broken."""
        position = int(asked.params.get("resourceVersion") or 0)
        bookmarked = time.monotonic()
        while not handler.broken.is_set():
            if time.monotonic() - bookmarked > _BOOKMARK_SECONDS:
                bookmarked = time.monotonic()
                self.bookmark(asked.name)
            with self._changed:
                fresh = [entry for entry in self._history if entry[0] > position and entry[2] == asked.name]
                if not fresh:
                    self._changed.wait(0.05)
                    continue
            for version, kind, _, body in fresh:
                position = version
                if kind == "BOOKMARK" and asked.params.get("allowWatchBookmarks", "").lower() != "true":
                    continue
                if kind == "BOOKMARK" or _selected(body, asked):
                    yield {"type": kind, "object": _shown(body, asked)}

    def is_gone(self, asked: Asked) -> bool:
        return int(asked.params.get("resourceVersion") or 0) < self._oldest

    def faulty_status(self, name: str) -> int | None:
        status = self.faults.status.get(name) or self.faults.status.get("*")
        if status is None:
            return None
        key = name if name in self.faults.times else "*"
        if key in self.faults.times:
            if self.faults.times[key] <= 0:
                return None
            self.faults.times[key] -= 1
        return status

    @contextmanager
    def streaming(self, handler: _Handler) -> Iterator[None]:
        self._streams.add(handler)
        try:
            yield
        finally:
            self._streams.discard(handler)


def stamp(at_ns: int | None = None, *, micro: bool = False) -> str:
    """A time as Kubernetes writes it: whole seconds, or microseconds for eventTime."""
    moment = datetime.now(UTC) if at_ns is None else datetime.fromtimestamp(at_ns / 1e9, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")


def refusal(code: int, reason: str, message: str) -> dict[str, Any]:
    """A Status object, as every refusal carries."""
    head = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    return {**head, "message": message, "reason": reason, "code": code}


def _selected(body: dict[str, Any], asked: Asked) -> bool:
    namespace = body["metadata"].get("namespace", "")
    if asked.namespace is not None and namespace != asked.namespace:
        return False
    for term in filter(None, (asked.params.get("fieldSelector") or "").split(",")):
        key, _, value = term.partition("!=")
        if key == "metadata.namespace" and namespace == value:
            return False
    return True


def _shown(body: dict[str, Any], asked: Asked) -> dict[str, Any]:
    """An object as one API group, or as metadata alone, shows it."""
    if "as=PartialObjectMetadata" in asked.accept:
        return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": body["metadata"]}
    group, kind = _SERVED[asked.name]
    if asked.group != "events.k8s.io" or "involvedObject" not in body:
        return {"kind": kind, "apiVersion": _API_VERSIONS[group], **body}
    renamed = {
        "involvedObject": "regarding",
        "message": "note",
        "source": "deprecatedSource",
        "firstTimestamp": "deprecatedFirstTimestamp",
        "lastTimestamp": "deprecatedLastTimestamp",
        "count": "deprecatedCount",
        "reportingComponent": "reportingController",
    }
    return {"kind": "Event", "apiVersion": "events.k8s.io/v1", **{renamed.get(key, key): value for key, value in body.items()}}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    api: KubernetesApi

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.broken = threading.Event()
        self.rest = b""

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def break_off(self, rest: bytes) -> None:
        self.rest = rest
        self.broken.set()

    def do_GET(self) -> None:
        api, parts = self.server.api, urlsplit(self.path)
        params = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        if parts.path == "/version/":
            self._answer(200, {"major": "1", "minor": "33", "gitVersion": "v1.33.1"})
            return
        found = _PATH.fullmatch(parts.path)
        name = found["name"] if found else ""
        if found is None or name not in _SERVED:
            self._answer(404, refusal(404, "NotFound", "the server could not find the requested resource"))
            return
        verb = "watch" if params.get("watch", "").lower() == "true" else "list"
        asked = Asked(verb, found["group"] or "", name, found["namespace"], self.headers.get("Accept", ""), params)
        api.asked.append(asked)
        self.broken.wait(api.faults.delay_seconds.get(f"{verb} {name}", api.faults.delay_seconds.get(name, 0.0)))
        status = api.faulty_status(name)
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or token not in api.tokens:
            self._answer(401, refusal(401, "Unauthorized", "Unauthorized"))
        elif {(asked.group, name), ("*", name)} & api.faults.forbidden or (verb == "watch" and name in api.faults.unwatchable):
            words = f'{name} is forbidden: User "reader" cannot {verb} resource "{name}" in API group "{asked.group}"'
            self._answer(403, refusal(403, "Forbidden", words))
        elif status is not None:
            self._answer(status, refusal(status, "InternalError", "etcdserver: request timed out"))
        elif verb == "list":
            self._list(asked)
        else:
            self._watch(asked)

    def _list(self, asked: Asked) -> None:
        if asked.name in self.server.api.faults.garbage:
            self._answer(200, b'<html>proxy says no {"items": [')
        elif asked.name in self.server.api.faults.endless:
            self._begin()
            while not self.broken.is_set():
                self._chunk(b" " * 2**16)
        else:
            self._answer(*self.server.api.page(asked))

    def _watch(self, asked: Asked) -> None:
        api = self.server.api
        gone = refusal(410, "Expired", "too old resource version: 1 (2)")
        if api.is_gone(asked) and not api.faults.gone_in_stream:
            self._answer(410, gone)
            return
        self._begin()
        if api.is_gone(asked):
            self._chunk(_line({"type": "ERROR", "object": gone}))
            self._chunk(b"")
            return
        with api.streaming(self):
            for event in api.follow(asked, self):
                self._chunk(_line(event))
        self.close_connection = True
        if self.rest:
            self._chunk(self.rest)
        else:
            self._chunk(b"")

    def _begin(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def _answer(self, status: int, body: dict[str, Any] | bytes) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _line(event: dict[str, Any]) -> bytes:
    return json.dumps(event).encode() + b"\n"
