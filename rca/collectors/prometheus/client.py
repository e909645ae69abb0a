"""Asking a Prometheus: prometheus-api-client for the queries, with time-outs, retries, limits and a deadline of our own.

The client drops warnings, rounds times to whole seconds, puts the query into the URL even of a POST, brings retries that know
no deadline, and reads bodies of any size. `_Exchange` stands where it expects a session, and minds all of that.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Self

import requests
from requests.adapters import HTTPAdapter

from rca.collectors.http import no_answer, session_for
from rca.collectors.prometheus.config import PrometheusConfig
from rca.errors import Rejected, Unavailable
from rca.http import parts_of
from rca.telemetry import SECOND_NS
from rca.wording import excerpt

MAX_POINTS: Final = 10_000
"""Points of a series in one query; Prometheus refuses more than 11,000."""
_LONG_QUERY: Final = 2_000  # bytes of parameters; a longer one travels in the body, because proxies limit URLs
_LONG_MATCH: Final = 5_000  # bytes of metric names in one look into the index, which cannot be a POST
_AGAIN: Final = (429, 502, 503, 504)
_REFUSED: Final = (400, 413, 422)  # the query is at fault, or too large; others may do
_BACKOFF_S: Final = 0.2
_EXCERPT: Final = 300


@dataclass(frozen=True)
class Answer:
    """What came back for one query: its series as Prometheus writes them, or why it was refused; and what it warns of.

    Every series has a `metric`, which is a dict; `misshapen` counts those that had none.
    """

    series: Sequence[Mapping[str, Any]] = ()
    misshapen: int = 0
    refusal: str = ""
    too_large: bool = False
    warnings: tuple[str, ...] = ()


def samples_of(series: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Times (s) and values of a series' samples; what is no number is NaN."""
    values = series.get("values")
    values = values if isinstance(values, list) else []
    try:
        return [float(time_s) for time_s, _ in values], [float(text) for _, text in values]
    except (TypeError, ValueError, OverflowError):
        pairs = [pair if isinstance(pair, list) and len(pair) == 2 else (None, None) for pair in values]
        return [number(time_s) for time_s, _ in pairs], [number(text) for _, text in pairs]


def number(text: Any) -> float:
    """A value as Prometheus writes it; NaN if it is none."""
    try:
        return float(text)
    except (TypeError, ValueError, OverflowError):
        return math.nan


class Client:
    """One conversation with a Prometheus, from now until its budget is used up. Safe to use from several threads.

    Raises BadInput if a file with a secret cannot be read.
    """

    def __init__(self, config: PrometheusConfig, budget_ns: int | None = None) -> None:
        self._config = config
        self._session = session_for(config)
        once = HTTPAdapter(pool_maxsize=config.concurrency)  # what is tried again, and for how long, is decided here
        self._session.mount("http://", once)
        self._session.mount("https://", once)
        self._deadline = time.monotonic() + (budget_ns or config.budget) / SECOND_NS

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._session.close()

    @property
    def seconds_left(self) -> float:
        """Of the budget; 0 or less when it is used up."""
        return self._deadline - time.monotonic()

    def range(self, query: str, first_s: int, last_s: int, step_s: int) -> Answer:
        """A range query; both ends are included. Raises Unavailable, Rejected."""
        exchange = self._exchange()
        times = (_moment(first_s), _moment(last_s), str(step_s))
        return exchange.answer(lambda: exchange.connect().custom_query_range(query, *times, params=exchange.limits))

    def instant(self, query: str, at_s: int) -> Answer:
        """An instant query. Raises Unavailable, Rejected."""
        exchange = self._exchange()
        return exchange.answer(lambda: exchange.connect().custom_query(query, params={"time": at_s, **exchange.limits}))

    def metric_names(self, wanted: Iterable[str], start_s: int, end_s: int) -> frozenset[str]:
        """Those of the names that have series between the times: one look into the index. Raises Unavailable, Rejected."""
        wanted = sorted(wanted)
        parts = [self.label_values("__name__", f'{{__name__=~"{"|".join(part)}"}}', start_s, end_s) for part in _parts(wanted)]
        return frozenset(wanted).intersection(frozenset().union(*parts))

    def label_values(self, label: str, matcher: str, start_s: int, end_s: int) -> frozenset[str]:
        """Values of a label in series that match, between the times. Raises Unavailable, Rejected."""
        exchange = self._exchange()
        params = {"match[]": matcher, "start": start_s, "end": end_s}
        return frozenset(map(str, exchange.values(lambda: exchange.connect().get_label_values(label, params=params))))

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        """The `data` of another endpoint, None where it is refused or not there. Raises Unavailable, Rejected."""
        exchange = self._exchange()
        body = exchange.request("GET", self._config.url.rstrip("/") + path, params=params, optional=True).json()
        return None if exchange.refusal else body.get("data")

    def _exchange(self) -> _Exchange:
        return _Exchange(self._session, self._config, self._deadline)


class _Exchange:
    """A question and its answer, in the shape of a session that prometheus-api-client can use."""

    def __init__(self, session: requests.Session, config: PrometheusConfig, deadline: float) -> None:
        self._session, self._config = session, config
        self._deadline = min(time.monotonic() + config.timeout / SECOND_NS, deadline)
        self.verify, self.cert = session.verify, session.cert
        self.refusal, self.too_large = "", False
        self.warnings: tuple[str, ...] = ()

    @property
    def limits(self) -> dict[str, str]:
        """Parameters that make the server give up when we do."""
        return {"timeout": f"{max(round((self._deadline - time.monotonic()) * 1000), 100)}ms"}

    def connect(self) -> Any:
        """The client, asking through us."""
        from prometheus_api_client import PrometheusConnect

        return PrometheusConnect(self._config.url.rstrip("/"), session=self)

    def answer(self, ask: Callable[[], Any]) -> Answer:
        """What the client makes of it, with what it drops. Raises Unavailable, Rejected."""
        found = self._list(ask)
        series = [one for one in found if isinstance(one, dict) and isinstance(one.get("metric"), dict)]
        return Answer(series, len(found) - len(series), self.refusal, self.too_large, self.warnings)

    def values(self, ask: Callable[[], Any]) -> Sequence[Any]:
        """A list, where a refusal is nobody's fault but the server's. Raises Unavailable, Rejected."""
        found = self._list(ask)
        if self.refusal:
            raise Rejected(f"{self._config.url}: {self.refusal}")
        return found

    def _list(self, ask: Callable[[], Any]) -> Sequence[Any]:
        try:
            found = ask()
        except (KeyError, TypeError, AttributeError):
            found = None
        if self.refusal:
            return ()
        if not isinstance(found, list):
            raise Rejected(f"{self._config.url}: expected an answer of Prometheus, found JSON of another shape")
        return found

    def mount(self, _prefix: str, _adapter: Any) -> None:
        """The client brings an adapter with retries of its own, which know no deadline; ours stays."""

    def request(
        self, method: str, url: str, params: Mapping[str, Any] | None = None, optional: bool = False, **_ignored: Any
    ) -> _Parsed:
        """Ask until there is an answer, the tries are used up, or the time is. Raises Unavailable, Rejected."""
        body: Mapping[str, Any] | None = None
        if sum(len(str(value)) for value in (params or {}).values()) > _LONG_QUERY and "/label/" not in url:
            method, params, body = "POST", None, params
        for attempt in range(self._config.retries + 1):
            last = attempt == self._config.retries
            try:
                status, text = self._once(method, url, params, body)
            except requests.RequestException as error:
                self._give_up(url, error, last)
            else:
                parsed = _parsed(text)
                timed_out = parsed.get("errorType") == "timeout"  # the same query would time out again
                if status not in _AGAIN or timed_out or last:
                    return self._judged(url, status, parsed, text, optional)
            time.sleep(max(min(_BACKOFF_S * 2**attempt, self._deadline - time.monotonic()), 0.0))
        raise Unavailable(f"{url}: no answer in time")

    def _give_up(self, url: str, error: requests.RequestException, last: bool) -> None:
        """Raises unless another try may help."""
        failure = no_answer(url, error)
        if last or isinstance(failure, Rejected) or isinstance(error, requests.Timeout) or time.monotonic() >= self._deadline:
            raise failure from error

    def _once(self, method: str, url: str, params: Any, body: Any) -> tuple[int, bytes]:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise requests.Timeout
        with self._session.request(method, url, params=params, data=body, timeout=left, stream=True) as response:
            text = bytearray()
            for part in parts_of(response):
                text += part
                if len(text) > self._config.max_response_bytes:
                    self.refusal, self.too_large = "the answer is larger than max_response_bytes", True
                    return 413, b""
                if time.monotonic() > self._deadline:
                    raise requests.Timeout
            return response.status_code, bytes(text)

    def _judged(self, url: str, status: int, parsed: dict[str, Any], text: bytes, optional: bool) -> _Parsed:
        message = excerpt(str(parsed.get("error") or text.decode(errors="replace")), _EXCERPT)
        if status == 200 and parsed.get("status") == "success":
            self.warnings = tuple(str(warning) for warning in parsed.get("warnings") or ())
            return _Parsed(parsed)
        if status == 200:
            if text.lstrip()[:1] == b"{":
                raise Unavailable(f"{url}: the answer is cut off: {message}")
            raise Rejected(f"{url}: expected an answer of Prometheus in JSON, found {message!r}")
        if (status in _REFUSED and (parsed or self.too_large)) or (status == 404 and optional):
            self.refusal = self.refusal or message
            self.too_large = self.too_large or "too many samples" in message
            return _Parsed({"data": {"result": []}})
        if status in _AGAIN or status >= 500:
            raise Unavailable(f"{url}: HTTP {status}: {message}")
        raise Rejected(f"{url}: HTTP {status}: {message}")


@dataclass(frozen=True)
class _Parsed:
    """The little of a response that prometheus-api-client looks at."""

    body: dict[str, Any]
    status_code: int = 200

    def json(self) -> dict[str, Any]:
        return self.body


def _parsed(text: bytes) -> dict[str, Any]:
    """A JSON object, or an empty one."""
    try:
        body = json.loads(text)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _parts(names: Sequence[str]) -> Iterator[list[str]]:
    """Names in parts that fit into a URL."""
    part: list[str] = []
    for name in names:
        if part and sum(len(other) + 3 for other in part) + len(name) > _LONG_MATCH:
            yield part
            part = []
        part.append(name)
    if part:
        yield part


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
