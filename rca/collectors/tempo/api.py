"""Tempo's HTTP API: https://grafana.com/docs/tempo/latest/api_docs/."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from rca.collectors.http import ask, ask_json, session_for
from rca.collectors.tempo.config import TempoConfig
from rca.collectors.tempo.decoding import take_answer
from rca.collectors.tracing.budget import Budget
from rca.collectors.tracing.rows import TraceRows
from rca.collectors.tracing.sampling import Listed
from rca.errors import BadTelemetry, Rejected
from rca.telemetry import MINUTE_NS, SECOND_NS, Interval

_AROUND_NS: Final = 30 * MINUTE_NS  # where spans of a trace may lie: Tempo looks into its blocks of that time alone
_EXCERPT: Final = 80
_ROOTLESS: Final = "traces whose root span is absent"
_VARIABLE: Final = re.compile(r"[\w-]*\d[\w-]*")


@dataclass(frozen=True)
class Trace:
    """A trace that was read. `partial`: Tempo left some of its spans out."""

    rows: TraceRows
    partial: bool


class TempoApi:
    """One server. Every call raises Unavailable or Rejected; answers that are not as documented are Rejected."""

    def __init__(self, config: TempoConfig) -> None:
        self._config = config
        self._session = session_for(config)
        self._paths = {"/api/v2/traces": True, "/api/traces": False}  # and whether the trace is wrapped there

    def version(self, budget: Budget) -> str:
        """What the server says that it is; nothing where it does not say."""
        body = ask_json(self._session, self._config, "/api/status/buildinfo", until=budget.until)
        return str(body.get("version", "")) if isinstance(body, dict) else ""

    def services(self, interval: Interval, budget: Budget) -> list[str]:
        """Services that have spans in the interval."""
        path = "/api/v2/search/tag/resource.service.name/values"
        body = ask_json(self._session, self._config, path, params=_seconds(interval), until=budget.until)
        try:
            return sorted({str(one["value"]) for one in (body or {}).get("tagValues") or ()})
        except (AttributeError, KeyError, TypeError) as error:
            raise _strange(path, "tagValues", body) from error

    def search(self, interval: Interval, budget: Budget) -> tuple[list[Listed], bool]:
        """Traces that start in the interval, and whether the answer was cut off: then they are any of them."""
        limit, path = self._config.search_limit, "/api/search"
        params = {"q": self._config.query, "limit": limit, "spss": 1, **_seconds(interval)}
        body = ask_json(self._session, self._config, path, params=params, until=budget.until)
        if body is None:
            raise Rejected(f"{self._config.url}{path}: expected Tempo's API, found HTTP 404")
        try:
            listed = [_listed(one) for one in body.get("traces") or ()]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise _strange(path, "traces with traceID and startTimeUnixNano", body) from error
        inside = [trace for trace in listed if interval.start_ns <= trace.start_ns < interval.end_ns]
        return inside, len(listed) >= limit

    def trace(self, listed: Listed, budget: Budget) -> Trace | None:
        """The spans of a trace; None if it is not found, as happens while it is moved to a block."""
        around = _seconds(Interval(listed.start_ns - _AROUND_NS, listed.start_ns + _AROUND_NS))
        for path, wrapped in self._paths.items():
            url = f"{path}/{listed.trace_id}"
            body = ask(self._session, self._config, url, params=around, accept="application/protobuf", until=budget.until)
            if body is not None:
                self._paths = {path: wrapped}  # an old Tempo knows one of them alone
                rows = TraceRows()
                try:
                    partial = take_answer(body, rows, wrapped=wrapped)
                except BadTelemetry as error:
                    raise Rejected(f"{path}: {error}") from error
                budget.spend(size=len(body), spans=len(rows.spans))
                return Trace(rows, partial)
        return None


def _listed(found: dict[str, Any]) -> Listed:
    service, operation = str(found.get("rootServiceName") or ""), str(found.get("rootTraceName") or "")
    rootless = not service or service.startswith("<root span")
    # Numbers in operations are ids as a rule; each would be a stratum of its own.
    stratum = _ROOTLESS if rootless else f"{service} {_VARIABLE.sub('*', operation)}".strip()
    return Listed(str(found["traceID"]).zfill(32), int(found["startTimeUnixNano"]), stratum)


def _seconds(interval: Interval) -> dict[str, int]:
    """Tempo's times are whole seconds."""
    return {"start": interval.start_ns // SECOND_NS, "end": -(-interval.end_ns // SECOND_NS)}


def _strange(path: str, expected: str, found: object) -> Rejected:
    return Rejected(f"{path}: expected {expected}, found {str(found)[:_EXCERPT]!r}")
