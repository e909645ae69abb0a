"""Export requests as the SDKs of several services send them: one service a request, traces spread over all of them.

A request is made once with protobuf's own encoder; ids and times, which have a fixed length on the wire, are then written over,
so that a sender costs next to nothing beside the receiver that is measured.
"""

from __future__ import annotations

from copy import copy
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

Bytes = npt.NDArray[np.uint8]

METHOD: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_SERVER, _CLIENT = 2, 3
_MS: Final = 1_000_000


class Fleet:
    """Services that call each other in a row; every trace runs through all of them.

    Every service but the last has a server and a client span in each trace: `spans` of them in a round of `traces`, of which
    the requests have `spans_each`.
    """

    def __init__(self, services: int = 10, traces: int = 250, seed: int = 1) -> None:
        self._services, self._traces = services, traces
        self._rng = np.random.default_rng(seed)
        self._templates = [_Template(i, services, traces) for i in range(services)]
        self.spans_each = [template.spans for template in self._templates]
        self.spans = sum(self.spans_each)

    def another(self, seed: int) -> Fleet:
        """The same services, with ids and times of their own; cheaper than making them anew."""
        other = copy(self)
        other._rng = np.random.default_rng(seed)
        return other

    def round(self, now_ns: int, operation: str = "GET /v1/item") -> list[bytes]:
        """One request of every service, whose spans ended within the last second. An operation has 12 characters."""
        traces = self._rng.integers(0, 256, (self._traces, 16), dtype=np.uint8)
        ids = self._rng.integers(1, 256, (self._traces, 2 * self._services, 8), dtype=np.uint8)
        work_ns = self._rng.lognormal(np.log(2 * _MS), 0.3, (self._traces, self._services)).astype(np.int64)
        total_ns = np.cumsum(work_ns[:, ::-1] + _MS, axis=1)[:, ::-1]  # (traces, services): a caller waits for its callee
        ends_ns = now_ns - self._rng.integers(0, 1000 * _MS, (self._traces, 1))
        starts_ns = ends_ns - total_ns
        return [template.filled(traces, ids, starts_ns, total_ns, operation) for template in self._templates]


class _Template:
    """The request of one service. Rows are spans: for every trace the server span, and the client span below it."""

    def __init__(self, service: int, services: int, traces: int) -> None:
        self._service = service
        self._kinds = (_SERVER, _CLIENT) if service + 1 < services else (_SERVER,)
        self.spans = traces * len(self._kinds)
        message, marks = self._message(service, traces)
        body = message.SerializeToString()
        self._body = np.frombuffer(body, dtype=np.uint8)
        self._at = {name: np.array([body.index(mark) for mark in found]) for name, found in marks.items()}

    def filled(self, traces: Bytes, ids: Bytes, starts_ns: Any, total_ns: Any, operation: str) -> bytes:
        body = self._body.copy()
        service, sides = self._service, len(self._kinds)
        own = ids[:, 2 * service : 2 * service + sides].reshape(-1, 8)
        above = ids[:, 2 * service - 1] if service else np.zeros((len(traces), 8), dtype=np.uint8)
        parents = np.stack([above, ids[:, 2 * service]], axis=1)[:, :sides].reshape(-1, 8)
        inset = np.arange(sides) * _MS // 4  # a client span lies within its server span
        start = (starts_ns[:, service, None] + inset).reshape(-1)
        end = (starts_ns[:, service, None] + total_ns[:, service, None] - inset).reshape(-1)
        for name, values in (
            ("trace", np.repeat(traces, sides, axis=0)),
            ("span", own),
            ("start", _fixed(start)),
            ("end", _fixed(end)),
        ):
            body[self._at[name][:, None] + np.arange(values.shape[1])] = values
        if service:
            body[self._at["parent"][:, None] + np.arange(8)] = parents
        else:
            body[self._at["parent"][:, None] + np.arange(8)] = parents.reshape(-1, sides, 8)[:, 1:].reshape(-1, 8)
        body[self._at["name"][:, None] + np.arange(12)] = np.frombuffer(operation.encode().ljust(12)[:12], dtype=np.uint8)
        return body.tobytes()

    def _message(self, service: int, traces: int) -> tuple[Any, dict[str, list[bytes]]]:
        message = ExportTraceServiceRequest()
        resource = message.resource_spans.add()
        name = f"service-{service:02}"
        for key, value in (
            ("service.name", name),
            ("service.version", "1.4.2"),
            ("k8s.pod.name", f"{name}-6d4cf56db6-x7k2p"),
            ("k8s.node.name", f"node-{service % 3}"),
            ("telemetry.sdk.language", "java"),
        ):
            resource.resource.attributes.add(key=key).value.string_value = value
        scope = resource.scope_spans.add()
        scope.scope.name = "io.opentelemetry.spring-webmvc-6.0"
        marks: dict[str, list[bytes]] = {name: [] for name in ("trace", "span", "parent", "start", "end", "name")}
        for row in range(traces * len(self._kinds)):
            kind = self._kinds[row % len(self._kinds)]
            span = scope.spans.add(kind=kind)
            found = {name: _mark(name, row, 16 if name == "trace" else 12 if name == "name" else 8) for name in marks}
            span.trace_id, span.span_id = found["trace"], found["span"]
            span.start_time_unix_nano, span.end_time_unix_nano = (
                int.from_bytes(found[end], "little") for end in ("start", "end")
            )
            span.name = found["name"].decode("ascii")
            if service or kind == _CLIENT:
                span.parent_span_id = found["parent"]
            else:
                del found["parent"]
            _attributes(span, kind, service)
            for what, mark in found.items():
                marks[what].append(mark)
        return message, marks


def _attributes(span: Any, kind: int, service: int) -> None:
    """Eight attributes, as an instrumented HTTP server or client sets them."""
    values: tuple[tuple[str, str | int], ...] = (
        ("http.request.method", "GET"),
        ("url.scheme", "http"),
        ("http.response.status_code", 200),
        ("network.protocol.version", "1.1"),
        ("thread.name", "http-nio-8080-exec-7"),
    )
    if kind == _SERVER:
        values += (
            ("http.route", "/api/v1/customers/{customer}/items/{item}"),
            ("url.path", "/api/v1/customers/77/items/4711"),
            ("server.port", 8080),
        )
    else:
        address = f"service-{service + 1:02}"
        values += (
            ("server.address", address),
            ("url.full", f"http://{address}:8080/api/v1/customers/77/items/4711?currency=EUR&details=all"),
            ("server.port", 8080),
        )
    for key, value in values:
        attribute = span.attributes.add(key=key).value
        if isinstance(value, int):
            attribute.int_value = value
        else:
            attribute.string_value = value


def _mark(name: str, row: int, length: int) -> bytes:
    """Text that occurs once in a request, to be found and written over."""
    return f"{name[0]}{name[-1]}{row:05}".ljust(length, "~").encode()


def _fixed(values: npt.NDArray[np.int64]) -> Bytes:
    """Times as they stand on the wire: eight bytes, the lowest first, (n, 8)."""
    return np.ascontiguousarray(values, dtype="<u8").view(np.uint8).reshape(-1, 8)
