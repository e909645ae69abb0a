"""Jaeger's query API: version 3, whose traces have OTLP's shape, and version 1 of its user interface where 3 is missing.

https://www.jaegertracing.io/docs/latest/architecture/apis/; parameters of version 3 as Jaeger's own http_gateway.go reads them.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final, Literal

from rca.collectors.files.jaeger import take_trace
from rca.collectors.files.otlp_json import OtlpReader
from rca.collectors.http import ask, ask_json, session_for
from rca.collectors.jaeger.config import JaegerConfig
from rca.collectors.tracing.budget import Budget
from rca.collectors.tracing.rows import TraceRows
from rca.errors import BadTelemetry, Rejected, Unavailable
from rca.telemetry import SECOND_NS, Interval

_MICROSECOND_NS: Final = 1000
_MILLISECOND_NS: Final = 1_000_000
_EXCERPT: Final = 80


class JaegerApi:
    """One server. Every call raises Unavailable or Rejected; answers that are not as documented are Rejected."""

    def __init__(self, config: JaegerConfig) -> None:
        self._config = config
        self._session = session_for(config)
        self.version: Literal["v3", "v1"] = "v3"

    def services(self, budget: Budget) -> list[str]:
        """Names of all services that ever sent a span. Finds out which version is spoken."""
        try:
            body = ask_json(self._session, self._config, "/api/v3/services", until=budget.until)
            if body is not None:
                return _names(body, "services")
            refused = Rejected(f"{self._config.url}/api/v3/services: expected Jaeger's API, found HTTP 404")
        except Rejected as error:  # an old server answers an unknown path with the page of its user interface
            refused = error
        try:
            body = ask_json(self._session, self._config, "/api/services", until=budget.until)
        except Rejected:
            raise refused from None
        if body is None:
            raise refused
        self.version = "v1"
        return _names(body, "data")

    def search(self, service: str, interval: Interval, limit: int, budget: Budget) -> TraceRows:
        """Whole traces that have a span of the service in the interval, at most `limit`, of any choice."""
        if self.version == "v3":
            return self._search_v3(service, interval, limit, budget)
        return self._search_v1(service, interval, limit, budget)

    def dependencies(self, interval: Interval, budget: Budget) -> list[tuple[str, str]]:
        """(caller, callee) as the server summed them up."""
        lookback = -(-(interval.end_ns - interval.start_ns) // _MILLISECOND_NS)
        params = {"endTs": interval.end_ns // _MILLISECOND_NS, "lookback": lookback}
        body = ask_json(self._session, self._config, "/api/dependencies", params=params, until=budget.until)
        try:
            return [(str(edge["parent"]), str(edge["child"])) for edge in (body or {}).get("data") or ()]
        except (AttributeError, KeyError, TypeError) as error:
            raise _strange("/api/dependencies", "edges with parent and child", error) from error

    def _search_v3(self, service: str, interval: Interval, limit: int, budget: Budget) -> TraceRows:
        params: dict[str, str | int] = {
            "query.service_name": service,
            "query.start_time_min": _rfc3339(interval.start_ns),
            "query.start_time_max": _rfc3339(interval.end_ns),
            "query.search_depth": limit,
            "query.num_traces": limit,  # its name before
        }
        path = "/api/v3/traces"
        body = ask(self._session, self._config, path, params=params, accept="application/json", until=budget.until)
        rows = TraceRows()
        reader = OtlpReader(rows)
        for value in _values(body or b"", path):
            if "error" in value and "result" not in value:
                raise Unavailable(f"{path}: {str(value['error'])[:_EXCERPT]}")
            try:
                reader.take(value.get("result", value), path)
            except BadTelemetry as error:
                raise Rejected(str(error)) from error
        budget.spend(size=len(body or b""), spans=len(rows.spans))
        return rows

    def _search_v1(self, service: str, interval: Interval, limit: int, budget: Budget) -> TraceRows:
        params: dict[str, str | int] = {
            "service": service,
            "start": interval.start_ns // _MICROSECOND_NS,
            "end": interval.end_ns // _MICROSECOND_NS,
            "limit": limit,
        }
        path = "/api/traces"
        body = ask(self._session, self._config, path, params=params, accept="application/json", until=budget.until)
        rows = TraceRows()
        for value in _values(body or b"", path):
            if value.get("errors"):
                raise Unavailable(f"{path}: {str(value['errors'])[:_EXCERPT]}")
            try:
                for trace in value.get("data") or ():
                    take_trace(rows, trace, path)
            except (BadTelemetry, TypeError) as error:
                raise _strange(path, "traces in Jaeger's JSON", error) from error
        budget.spend(size=len(body or b""), spans=len(rows.spans))
        return rows


def _values(body: bytes, path: str) -> list[dict[str, Any]]:
    """The JSON objects of a body: one, or one after another as a stream has them."""
    decoder, text, at = json.JSONDecoder(), body.decode(errors="replace").strip(), 0
    values: list[dict[str, Any]] = []
    while at < len(text):
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise _strange(path, "JSON", text[at : at + _EXCERPT]) from error
        if not isinstance(value, dict):
            raise _strange(path, "a JSON object", type(value).__name__)
        values.append(value)
        while text[at : at + 1].isspace():
            at += 1
    return values


def _names(body: Any, key: str) -> list[str]:
    names = body.get(key) if isinstance(body, dict) else body
    if names is None:
        return []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _strange("services", f"a list of names under {key!r}", str(body)[:_EXCERPT])
    return sorted(set(names))


def _strange(path: str, expected: str, found: object) -> Rejected:
    return Rejected(f"{path}: expected {expected}, found {str(found)[:_EXCERPT]!r}")


def _rfc3339(time_ns: int) -> str:
    seconds, rest = divmod(time_ns, SECOND_NS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"
