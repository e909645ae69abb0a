"""The cluster's API: lists in parts, watch streams, and errors that say whether to try again.

The official client finds the cluster, and brings connections and credentials. Its functions are left alone: objects are taken as
plain JSON, because its models refuse what real clusters send (an event without eventTime), and importing them takes longer than
reading a cluster.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from rca.collectors.kubernetes.config import KubernetesConfig
from rca.collectors.kubernetes.resources import Resource
from rca.errors import BadInput, RcaError, Rejected, Unavailable
from rca.telemetry import SECOND_NS
from rca.wording import excerpt

_PLAIN: Final = "application/json"
_METADATA_LIST: Final = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
_METADATA: Final = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
_AGAIN: Final = (429, 502, 503, 504)
_PATIENCE: Final = 6  # a part of a list may take this many time-outs altogether, however slowly it trickles
_RESTARTS: Final = 3  # of a list whose continue token expired under way
_CONNECTIONS: Final = 64  # that may be kept open; every stream needs its own
_READ_BYTES: Final = 2**16
_SILENCE_SECONDS: Final = 90.0  # bookmarks come about once a minute; a stream that is silent for longer is dead
_EXCERPT: Final = 300


class Gone(Unavailable):
    """The cluster no longer keeps the history that was asked for: list again."""


class Unauthorized(Rejected):
    """The token is unknown or has expired; it may have been renewed where it is kept."""


@dataclass(frozen=True)
class Listing:
    """Objects of one resource, and the version that a watch continues from."""

    objects: list[dict[str, Any]]
    version: str


class Stream:
    """One watch stream. Iterating yields (type, object); `cut` ends it from another thread at once."""

    def __init__(self, response: Any, what: str, most_bytes: int) -> None:
        self._response, self._what, self._most_bytes = response, what, most_bytes
        self._cut = threading.Event()

    def cut(self) -> None:
        self._cut.set()
        with contextlib.suppress(OSError, AttributeError):  # closed in the meantime
            self._response.connection.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End it from the thread that opened it."""
        self.cut()
        self._response.close()

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Raises Gone, Unavailable or Rejected; ends quietly when the server closes the stream or it is cut."""
        from urllib3.exceptions import HTTPError

        try:
            for line in self._lines():
                yield self._event(line)
        except (HTTPError, OSError, ValueError, AttributeError) as error:  # the last two: a socket closed under a read
            if not self._cut.is_set():
                raise Unavailable(f"{self._what}: the stream broke off: {excerpt(str(error), _EXCERPT)}") from error
        finally:
            self._response.close()

    def _lines(self) -> Iterator[bytes]:
        buffer = bytearray()
        for part in self._response.stream(_READ_BYTES):
            buffer += part
            *lines, rest = buffer.split(b"\n")
            yield from (bytes(line) for line in lines if line.strip())
            if len(rest) > self._most_bytes:
                raise Unavailable(
                    f"{self._what}: an object is larger than {self._most_bytes / 2**20:.0f} MiB (max_response_bytes)"
                )
            buffer = bytearray(rest)
        if buffer.strip() and not self._cut.is_set():
            raise Unavailable(f"{self._what}: the stream ended in the middle of an object")

    def _event(self, line: bytes) -> tuple[str, dict[str, Any]]:
        try:
            event = json.loads(line)
            kind, body = event["type"], event["object"]
        except (ValueError, TypeError, KeyError):
            found = excerpt(line.decode(errors="replace"), _EXCERPT)
            raise Unavailable(f"{self._what}: expected a watch event, found {found!r}") from None
        if not isinstance(kind, str) or not isinstance(body, dict):
            raise Unavailable(f"{self._what}: expected a watch event, found {excerpt(str(event), _EXCERPT)!r}")
        if kind == "ERROR":
            raise _refusal(body.get("code"), self._what, excerpt(str(body.get("message") or body.get("reason")), _EXCERPT), None)
        return kind, body


class Api:
    """Lists and watches. Connects at the first request; `reconnect` reads kubeconfig and tokens anew."""

    def __init__(self, config: KubernetesConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._client: Any = None
        self._settings: Any = None

    @property
    def host(self) -> str:
        """The API server's address. Raises BadInput if no cluster is configured."""
        with self._lock:
            return str(self._connection().host)

    def reconnect(self) -> None:
        """Forget the connection, so that the next request reads kubeconfig and tokens anew."""
        with self._lock:
            self._settings = self._client = None

    def version(self) -> str:
        """What the API server says it is, such as `v1.33.1`; empty if it does not say. Every account may ask that."""
        from urllib3.exceptions import HTTPError

        patience = self._config.timeout / SECOND_NS
        try:
            response = self._get("/version/", _PLAIN, {}, patience)
            return str(json.loads(self._body(response, "version", time.monotonic() + patience)).get("gitVersion") or "")
        except (HTTPError, OSError, Unavailable, ValueError, AttributeError):
            return ""

    def list(self, resource: Resource, namespace: str | None = None, *, most: int | None = None) -> Listing:
        """Every object of a resource, or the first `most`. Raises Unavailable, Rejected or BadInput."""
        for _ in range(_RESTARTS):
            with contextlib.suppress(Gone):
                return self._list(resource, namespace, most)
        raise Unavailable(f"{self._what('list', resource, namespace)}: the list expired {_RESTARTS} times while it was read")

    def watch(self, resource: Resource, namespace: str | None, version: str, *, seconds: int) -> Stream:
        """What happens after a version, for so many seconds. Raises Gone, Unavailable, Rejected or BadInput."""
        what = self._what("watch", resource, namespace)
        options = {"watch": "true", "resourceVersion": version, "allowWatchBookmarks": "true", "timeoutSeconds": str(seconds)}
        silence = min(_SILENCE_SECONDS, seconds + self._config.timeout / SECOND_NS)
        accept = _METADATA if resource.metadata_only else _PLAIN
        response = self._ask(resource, namespace, accept, what, options, silence)
        return Stream(response, what, self._config.max_response_bytes)

    def _list(self, resource: Resource, namespace: str | None, most: int | None) -> Listing:
        what = self._what("list", resource, namespace)
        objects: list[dict[str, Any]] = []
        token: str | None = None
        while True:
            page = self._page(resource, namespace, what, token, min(most or self._config.page_size, self._config.page_size))
            metadata, items = page.get("metadata"), page.get("items")
            if not isinstance(metadata, Mapping) or not isinstance(items or [], list):
                raise Rejected(f"{what}: expected a list of objects, found {excerpt(json.dumps(page), _EXCERPT)!r}")
            objects += [item for item in items or () if isinstance(item, dict)]
            token = metadata.get("continue") or None
            if token is None or (most is not None and len(objects) >= most):
                return Listing(objects, str(metadata.get("resourceVersion") or ""))

    def _page(self, resource: Resource, namespace: str | None, what: str, token: str | None, limit: int) -> dict[str, Any]:
        patience = self._config.timeout / SECOND_NS
        options = {"limit": str(limit)} | ({} if token is None else {"continue": token})
        accept = _METADATA_LIST if resource.metadata_only else _PLAIN
        deadline = time.monotonic() + _PATIENCE * patience
        response = self._ask(resource, namespace, accept, what, options, patience)
        body = self._body(response, what, deadline)
        try:
            page = json.loads(body)
        except ValueError:
            raise Rejected(
                f"{what}: expected JSON, found {excerpt(body[:_EXCERPT].decode(errors='replace'), _EXCERPT)!r}"
            ) from None
        if not isinstance(page, dict):
            raise Rejected(f"{what}: expected a list of objects, found {excerpt(str(page), _EXCERPT)!r}")
        return page

    def _body(self, response: Any, what: str, deadline: float) -> bytes:
        from urllib3.exceptions import HTTPError

        body = bytearray()
        try:
            for part in response.stream(_READ_BYTES):
                body += part
                if len(body) > self._config.max_response_bytes:
                    most = self._config.max_response_bytes / 2**20
                    raise Unavailable(f"{what}: the answer is larger than {most:.0f} MiB (max_response_bytes)")
                if time.monotonic() > deadline:
                    raise Unavailable(f"{what}: no complete answer in time")
        except (HTTPError, OSError) as error:
            raise Unavailable(f"{what}: the answer broke off: {_reason(error)}") from error
        finally:
            response.close()
        return bytes(body)

    def _ask(
        self, resource: Resource, namespace: str | None, accept: str, what: str, options: dict[str, str], silence_s: float
    ) -> Any:
        """The open response of one request. `silence_s` is how long it may send nothing. Raises Gone, Unavailable, Rejected."""
        from urllib3.exceptions import HTTPError, SSLError

        selector = ",".join(f"metadata.namespace!={name}" for name in self._config.exclude_namespaces)
        if selector and resource.namespaced and namespace is None:
            options = {**options, "fieldSelector": selector}
        try:
            response = self._get(resource.path(namespace), accept, options, silence_s)
            if 200 <= response.status < 300:
                return response
            with response:
                body = response.data
        except HTTPError as error:
            if isinstance(getattr(error, "reason", error), SSLError):
                raise Rejected(f"{what}: TLS: {excerpt(str(error), _EXCERPT)}") from error
            raise Unavailable(f"{what}: {_reason(error)}") from error
        except OSError as error:
            raise Unavailable(f"{what}: {_reason(error)}") from error
        raise _refusal(response.status, what, _message(body, response.reason), resource)

    def _get(self, path: str, accept: str, query: Mapping[str, str], silence_s: float) -> Any:
        """urllib3's open response, whatever its status."""
        from urllib3 import Timeout

        with self._lock:
            settings, client = self._connection(), self._connected()
            known = settings.auth_settings().values()  # may renew a token
        identity = {auth["key"]: auth["value"] for auth in known if auth["value"]}
        headers = {**client.default_headers, **identity, "Accept": accept}
        timeout = Timeout(connect=self._config.timeout / SECOND_NS, read=silence_s)
        pool = client.rest_client.pool_manager
        return pool.request(
            "GET", f"{settings.host}{path}", fields=query, headers=headers, timeout=timeout, preload_content=False
        )

    def _connected(self) -> Any:
        from kubernetes import client

        if self._client is None:
            self._client = client.ApiClient(self._connection())
        return self._client

    def _connection(self) -> Any:
        if self._settings is None:
            self._settings = _connection(self._config)
        return self._settings

    def _what(self, verb: str, resource: Resource, namespace: str | None) -> str:
        return f"{self.host}: {verb} {resource}{f' in {namespace}' if namespace else ''}"


def _connection(config: KubernetesConfig) -> Any:
    """The client's configuration: address, trust and identity. Raises BadInput."""
    from kubernetes import client
    from kubernetes.config import ConfigException, load_incluster_config, load_kube_config
    from urllib3.util import Retry
    from yaml import YAMLError

    settings = client.Configuration()
    inside = config.kubeconfig is None and config.context is None and "KUBERNETES_SERVICE_HOST" in os.environ
    where = "the pod's service account" if inside else str(config.kubeconfig or "$KUBECONFIG or ~/.kube/config")
    try:
        if inside:
            load_incluster_config(client_configuration=settings)
        else:
            # The client reads the variable when it is imported, which may be before it is set.
            file = str(config.kubeconfig or os.environ.get("KUBECONFIG", "")) or None
            load_kube_config(config_file=file, context=config.context, client_configuration=settings, persist_config=False)
    except (ConfigException, YAMLError, OSError, TypeError, AttributeError, KeyError, ValueError) as error:
        found = excerpt(str(error), _EXCERPT) or type(error).__name__
        raise BadInput(f"kubernetes: {where}", expected="access to a cluster", found=found) from None
    if config.ca_file is not None:
        settings.ssl_ca_cert = str(config.ca_file)
    settings.connection_pool_maxsize = _CONNECTIONS
    settings.retries = Retry(
        total=config.retries,
        backoff_factor=0.2,
        status_forcelist=_AGAIN,
        raise_on_status=False,
        respect_retry_after_header=False,  # somebody waits for the answer; a gap now is better than one later
    )
    return settings


def _refusal(status: Any, what: str, message: str, resource: Resource | None) -> RcaError:
    """The error that an HTTP status, or the code of an error object in a stream, stands for."""
    if status == 410:
        return Gone(f"{what}: {message}")
    if status == 401:
        return Unauthorized(f"{what}: HTTP 401: the token is unknown or has expired: {message}")
    if status == 403:
        add = f"; add the rule {resource.rule()}" if resource else ""
        return Rejected(f"{what}: HTTP 403: {message}{add}")
    if isinstance(status, int) and 400 <= status < 500 and status not in _AGAIN:
        return Rejected(f"{what}: HTTP {status}: {message}")
    return Unavailable(f"{what}: HTTP {status}: {message}")


def _message(body: bytes, reason: str | None) -> str:
    """What the API server says in the body of a refusal, else the reason that HTTP gives."""
    text = body.decode(errors="replace")
    with contextlib.suppress(ValueError, AttributeError):
        text = json.loads(text).get("message") or text
    return excerpt(str(text or reason or ""), _EXCERPT)


def _reason(error: BaseException) -> str:
    """Why a request failed, in a few words."""
    from urllib3.exceptions import NewConnectionError
    from urllib3.exceptions import TimeoutError as NoAnswer

    cause: Any = error
    for _ in range(8):  # urllib3 wraps the socket's own words
        if isinstance(cause, NewConnectionError):  # a kind of time-out to urllib3
            return str(cause).rpartition("] ")[2].lower()
        if isinstance(cause, NoAnswer | TimeoutError):
            return "no answer in time"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower()
        inner = [getattr(cause, "reason", None), *getattr(cause, "args", ()), getattr(cause, "__cause__", None)]
        cause = next((one for one in inner if isinstance(one, BaseException)), None)
    return excerpt(str(error), _EXCERPT)
