"""The cluster's API through the official client: lists in parts, watch streams, and errors that say whether to try again.

Objects are taken as plain JSON: the client's models refuse what real clusters send (an event without eventTime) and cost more
than all else.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from rca.collectors.kubernetes.config import KubernetesConfig
from rca.collectors.kubernetes.resources import Resource
from rca.errors import BadInput, RcaError, Rejected, Unavailable
from rca.telemetry import SECOND_NS
from rca.wording import excerpt

_METADATA_LIST: Final = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
_METADATA: Final = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
_AGAIN: Final = (429, 502, 503, 504)
_PATIENCE: Final = 6  # a part of a list may take this many time-outs altogether, however slowly it trickles
_RESTARTS: Final = 3  # of a list whose continue token expired under way
_CONNECTIONS: Final = 64  # that may be kept open; every stream needs its own
_READ_BYTES: Final = 2**16
_SILENCE_SECONDS: Final = 90.0  # bookmarks come about once a minute; a stream that is silent for longer is dead
_EXCERPT: Final = 300

_Function = tuple[Callable[..., Any], tuple[str, ...]]  # of the official client, and its positional arguments


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
        self._clients: dict[str | None, Any] = {}
        self._settings: Any = None

    @property
    def host(self) -> str:
        """The API server's address. Raises BadInput if no cluster is configured."""
        with self._lock:
            return str(self._connection().host)

    def reconnect(self) -> None:
        """Forget the connection, so that the next request reads kubeconfig and tokens anew."""
        with self._lock:
            self._settings, self._clients = None, {}

    def version(self) -> str:
        """What the API server says it is, such as `v1.33.1`; empty if it does not say. Every account may ask that."""
        from kubernetes import client
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        with self._lock:
            api = client.VersionApi(client.ApiClient(self._connection()))
        patience = self._config.timeout / SECOND_NS
        try:
            response = api.get_code(_preload_content=False, _request_timeout=(patience, patience))
            return str(json.loads(self._body(response, "version", time.monotonic() + patience)).get("gitVersion") or "")
        except (ApiException, HTTPError, OSError, Unavailable, ValueError, AttributeError):
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
        options = {"watch": True, "resource_version": version, "allow_watch_bookmarks": True, "timeout_seconds": seconds}
        patience = self._config.timeout / SECOND_NS
        silence = min(_SILENCE_SECONDS, seconds + patience)
        accept = _METADATA if resource.metadata_only else None
        response = self._ask(resource, namespace, accept, what, _request_timeout=(patience, silence), **options)
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
        options: dict[str, Any] = {"limit": limit, "_request_timeout": (patience, patience)}
        if token is not None:
            options["_continue"] = token
        accept = _METADATA_LIST if resource.metadata_only else None
        deadline = time.monotonic() + _PATIENCE * patience
        response = self._ask(resource, namespace, accept, what, **options)
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

    def _ask(self, resource: Resource, namespace: str | None, accept: str | None, what: str, **options: Any) -> Any:
        """The open response of one request."""
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError, SSLError

        function, arguments = self._function(resource, namespace, accept)
        selector = ",".join(f"metadata.namespace!={name}" for name in self._config.exclude_namespaces)
        if selector and resource.namespaced and namespace is None:
            options["field_selector"] = selector
        try:
            return function(*arguments, _preload_content=False, **options)
        except ApiException as error:
            raise _refusal(error.status, what, _message(error), resource) from error
        except HTTPError as error:
            if isinstance(getattr(error, "reason", error), SSLError):
                raise Rejected(f"{what}: TLS: {excerpt(str(error), _EXCERPT)}") from error
            raise Unavailable(f"{what}: {_reason(error)}") from error
        except OSError as error:
            raise Unavailable(f"{what}: {_reason(error)}") from error

    def _function(
        self, resource: Resource, namespace: str | None, accept: str | None
    ) -> tuple[Callable[..., Any], tuple[str, ...]]:
        from kubernetes import client

        with self._lock:
            settings = self._connection()
            if accept not in self._clients:
                header = ("Accept", accept) if accept else (None, None)
                self._clients[accept] = client.ApiClient(settings, *header)
            api = getattr(client, resource.client)(self._clients[accept])
        if namespace is not None and resource.namespaced:
            return getattr(api, f"list_namespaced_{resource.stem}"), (namespace,)
        everywhere = "_for_all_namespaces" if resource.namespaced else ""
        return getattr(api, f"list_{resource.stem}{everywhere}"), ()

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
            file = str(config.kubeconfig) if config.kubeconfig else None
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
    if status == 0:  # the client's word for a failed handshake
        return Rejected(f"{what}: TLS: {message}")
    if isinstance(status, int) and 400 <= status < 500 and status not in _AGAIN:
        return Rejected(f"{what}: HTTP {status}: {message}")
    return Unavailable(f"{what}: HTTP {status}: {message}")


def _message(error: Any) -> str:
    """What the API server says in the body of a refusal."""
    body = error.body.decode(errors="replace") if isinstance(error.body, bytes) else str(error.body or "")
    with contextlib.suppress(ValueError, AttributeError):
        body = json.loads(body).get("message") or body
    return excerpt(str(body or error.reason or ""), _EXCERPT)


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
