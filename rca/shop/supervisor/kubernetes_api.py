"""The part of the Kubernetes API that collectors read, on loopback: lists in parts, watch streams with bookmarks.

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
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import yaml

Body = dict[str, Any]

_PATH: Final = re.compile(
    r"/(?:api/(?P<core>v1)|apis/(?P<group>[a-z0-9.-]+)/(?P<version>v\d\w*))(?:/namespaces/(?P<namespace>[^/]+))?/(?P<name>[a-z]+)"
)
_BOOKMARK_SECONDS: Final = 30.0
_LONGEST_WATCH_S: Final = 3600.0
_API_VERSIONS: Final = {
    "": "v1",
    "apps": "apps/v1",
    "batch": "batch/v1",
    "events.k8s.io": "events.k8s.io/v1",
    "chaos-mesh.org": "chaos-mesh.org/v1alpha1",
}
_CORE: Final = {
    "pods": "Pod",
    "nodes": "Node",
    "configmaps": "ConfigMap",
    "secrets": "Secret",
    "services": "Service",
    "namespaces": "Namespace",
    "events": "Event",
}
_APPS: Final = {
    "deployments": "Deployment",
    "replicasets": "ReplicaSet",
    "statefulsets": "StatefulSet",
    "daemonsets": "DaemonSet",
    "controllerrevisions": "ControllerRevision",
}
_CHAOS: Final = {
    "podchaos": "PodChaos",
    "networkchaos": "NetworkChaos",
    "stresschaos": "StressChaos",
    "iochaos": "IOChaos",
    "dnschaos": "DNSChaos",
    "timechaos": "TimeChaos",
    "httpchaos": "HTTPChaos",
}
"""Of a cluster with Chaos Mesh. Nothing in a shop makes any; tests do."""
SERVED: Final = {
    **{name: ("", kind) for name, kind in _CORE.items()},
    **{name: ("apps", kind) for name, kind in _APPS.items()},
    "jobs": ("batch", "Job"),
    **{name: ("chaos-mesh.org", kind) for name, kind in _CHAOS.items()},
}
"""API group and kind of every resource."""


@dataclass(frozen=True)
class Asked:
    """One request: what an RBAC rule has to allow."""

    verb: str
    group: str
    name: str
    namespace: str | None
    accept: str
    params: dict[str, str]


class KubernetesApi:
    """The server and what it holds. Objects may be changed while clients watch. Use it as a context manager, or `start` it.

    `tls` is a certificate for 127.0.0.1 and its key. Of the changes, the last `history` are kept for watches to continue from.
    """

    def __init__(self, tokens: Iterable[str], *, tls: tuple[Path, Path] | None = None, history: int = 10_000) -> None:
        self.tls = tls
        self.tokens = set(tokens)
        self._versions = itertools.count(1001)
        self._version = 1000
        self._oldest = 0
        self._objects: dict[tuple[str, str, str], Body] = {}
        self._history: deque[tuple[int, str, str, Body]] = deque()
        self._kept = history
        self._changed = threading.Condition()
        self._streams: set[Handler] = set()
        self._pages: dict[str, tuple[list[Body], int]] = {}
        self._server = _Server(("127.0.0.1", 0), self.handler())
        self._server.api = self
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": self.poll_s}, daemon=True)

    poll_s = 0.5
    """How long `stop` may take to be noticed."""

    def handler(self) -> type[Handler]:
        """What answers requests."""
        return Handler

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        return f"{'https' if self.tls else 'http'}://{host!s}:{port}"

    @property
    def streams(self) -> int:
        """Watch streams that are open."""
        return len(self._streams)

    def __enter__(self) -> KubernetesApi:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Answer requests."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more."""
        self.break_streams()
        self._server.shutdown()
        self._server.server_close()

    def write_kubeconfig(self, path: Path, token: str, ca_file: Path | None = None, name: str = "loopback") -> None:
        """A kubeconfig file with this server as its current context and, at an address where nobody listens, `nowhere`."""
        trust = {"certificate-authority": str(ca_file)} if ca_file else {}
        clusters = {name: {"server": self.url, **trust}, "nowhere": {"server": "http://127.0.0.1:9"}}
        body = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "clusters": [{"name": name, "cluster": cluster} for name, cluster in clusters.items()],
            "users": [{"name": "reader", "user": {"token": token}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": "reader"}} for name in clusters],
        }
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(body))

    # --- what it holds -------------------------------------------------------------------------------------------------

    def add(self, name: str, body: Body) -> Body:
        """Put a new object into a resource; UID and creation time are made up where they are not given."""
        body = copy.deepcopy(body)
        metadata = body.setdefault("metadata", {})
        metadata.setdefault("uid", str(uuid.uuid4()))
        metadata.setdefault("creationTimestamp", stamp())
        return self._write("ADDED", name, body)

    def modify(self, name: str, body: Body) -> Body:
        """Replace an object; it is known by its namespace and name."""
        return self._write("MODIFIED", name, copy.deepcopy(body))

    def delete(self, name: str, body: Body) -> None:
        self._write("DELETED", name, copy.deepcopy(body))

    def bookmark(self, name: str) -> None:
        """Tell the watchers of a resource how far they are."""
        kind = SERVED[name][1]
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

    def _write(self, kind: str, name: str, body: Body) -> Body:
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
            while len(self._history) > self._kept:
                self._oldest = self._history.popleft()[0]
            self._changed.notify_all()
        return copy.deepcopy(body)

    # --- what it answers -----------------------------------------------------------------------------------------------

    def page(self, asked: Asked) -> tuple[int, Body]:
        """Status and body of a list."""
        with self._changed:
            token = asked.params.get("continue")
            if token is not None:
                if token not in self._pages:
                    return 410, refusal(410, "Expired", "The provided continue parameter is too old")
                found, version = self._pages.pop(token)
            else:
                version = self._version
                found = [copy.deepcopy(body) for key, body in sorted(self._objects.items()) if key[0] == asked.name]
                found = [body for body in found if _selected(body, asked)]
            limit = int(asked.params.get("limit") or 0) or len(found)
            items, rest = found[:limit], found[limit:]
            metadata: Body = {"resourceVersion": str(version)}
            if rest:
                metadata["continue"] = base64.b64encode(uuid.uuid4().bytes).decode()
                metadata["remainingItemCount"] = len(rest)
                self._pages[metadata["continue"]] = (rest, version)
        kind, api_version = f"{SERVED[asked.name][1]}List", _API_VERSIONS[asked.group]
        if "as=PartialObjectMetadataList" in asked.accept:
            kind, api_version = "PartialObjectMetadataList", "meta.k8s.io/v1"
        return 200, {"kind": kind, "apiVersion": api_version, "metadata": metadata, "items": [_shown(b, asked) for b in items]}

    def follow(self, asked: Asked, handler: Handler) -> Iterator[Body]:
        """Watch events after a version, until the stream is broken or as long as it was asked for."""
        position = int(asked.params.get("resourceVersion") or 0)
        begun = bookmarked = time.monotonic()
        end = begun + min(float(asked.params.get("timeoutSeconds") or _LONGEST_WATCH_S), _LONGEST_WATCH_S)
        while not handler.broken.is_set() and time.monotonic() < end:
            if time.monotonic() - bookmarked > _BOOKMARK_SECONDS:
                bookmarked = time.monotonic()
                self.bookmark(asked.name)
            with self._changed:
                fresh = list(self._since(position, asked.name))
                if not fresh and not handler.broken.is_set():
                    position = max(position, self._version)
                    until = min(end, bookmarked + _BOOKMARK_SECONDS)
                    self._changed.wait(max(until - time.monotonic(), 0) + 0.01)
                    continue
            for version, kind, body in fresh:
                position = version
                if kind == "BOOKMARK" and asked.params.get("allowWatchBookmarks", "").lower() != "true":
                    continue
                if kind == "BOOKMARK" or _selected(body, asked):
                    yield {"type": kind, "object": _shown(body, asked)}

    def _since(self, position: int, name: str) -> Iterator[tuple[int, str, Body]]:
        """Changes of a resource after a version, oldest first."""
        if position >= self._version:
            return
        recent = itertools.takewhile(lambda entry: entry[0] > position, reversed(self._history))
        for version, kind, resource, body in reversed(list(recent)):
            if resource == name:
                yield version, kind, body

    def is_gone(self, asked: Asked) -> bool:
        """Whether the changes after the version that a watch continues from are no longer all kept."""
        return int(asked.params.get("resourceVersion") or 0) < self._oldest

    @contextmanager
    def streaming(self, handler: Handler) -> Iterator[None]:
        self._streams.add(handler)
        try:
            yield
        finally:
            self._streams.discard(handler)


def stamp(at_ns: int | None = None, *, micro: bool = False) -> str:
    """A time as Kubernetes writes it: whole seconds, or microseconds for eventTime."""
    moment = datetime.now(UTC) if at_ns is None else datetime.fromtimestamp(at_ns / 1e9, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")


def refusal(code: int, reason: str, message: str) -> Body:
    """A Status object, as every refusal carries."""
    head = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    return {**head, "message": message, "reason": reason, "code": code}


def _selected(body: Body, asked: Asked) -> bool:
    namespace = body["metadata"].get("namespace", "")
    if asked.namespace is not None and namespace != asked.namespace:
        return False
    for term in filter(None, (asked.params.get("fieldSelector") or "").split(",")):
        key, _, value = term.partition("!=")
        if key == "metadata.namespace" and namespace == value:
            return False
    return True


def _shown(body: Body, asked: Asked) -> Body:
    """An object as one API group, or as metadata alone, shows it."""
    if "as=PartialObjectMetadata" in asked.accept:
        return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": body["metadata"]}
    group, kind = SERVED[asked.name]
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


class Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.broken = threading.Event()
        self.rest = b""

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def break_off(self, rest: bytes) -> None:
        """End the stream after these bytes."""
        self.rest = rest
        self.broken.set()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        params = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        if parts.path == "/version/":
            self.answer(200, {"major": "1", "minor": "33", "gitVersion": "v1.33.1"})
            return
        found = _PATH.fullmatch(parts.path)
        name = found["name"] if found else ""
        if found is None or name not in SERVED:
            self.answer(404, refusal(404, "NotFound", "the server could not find the requested resource"))
            return
        verb = "watch" if params.get("watch", "").lower() == "true" else "list"
        self.asked(Asked(verb, found["group"] or "", name, found["namespace"], self.headers.get("Accept", ""), params))

    def asked(self, asked: Asked) -> None:
        """Answer a request for objects."""
        if not self.is_known():
            self.answer(401, refusal(401, "Unauthorized", "Unauthorized"))
        elif asked.verb == "list":
            self.list(asked)
        else:
            self.watch(asked)

    def is_known(self) -> bool:
        """Whether the client shows a token that is known."""
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        return scheme.lower() == "bearer" and token in self.server.api.tokens

    def list(self, asked: Asked) -> None:
        self.answer(*self.server.api.page(asked))

    def watch(self, asked: Asked) -> None:
        if self.server.api.is_gone(asked):
            self.answer(410, refusal(410, "Expired", "too old resource version: 1 (2)"))
        else:
            self.begin()
            self.stream(asked)

    def stream(self, asked: Asked) -> None:
        """Write watch events until the stream is broken."""
        api = self.server.api
        with api.streaming(self):
            for event in api.follow(asked, self):
                self.chunk(json.dumps(event).encode() + b"\n")
        self.close_connection = True
        if self.rest:
            self.chunk(self.rest)
        else:
            self.chunk(b"")

    def begin(self) -> None:
        """Write the head of an answer in chunks."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, data: bytes) -> None:
        """Write one chunk; an empty one ends the answer."""
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def answer(self, status: int, body: Body | bytes) -> None:
        """Write a whole answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
