"""One way to ask a server over HTTP: retries, limits and errors that say whether to try again."""

from __future__ import annotations

import json
import time
from typing import Any, Final

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from rca.errors import Rejected, Unavailable
from rca.http import SHORTEST_S, is_cut_off, parts_of, reason_of, session_with
from rca.settings import HttpSource
from rca.telemetry import SECOND_NS
from rca.wording import excerpt

_AGAIN: Final = (429, 502, 503, 504)
_EXCERPT: Final = 200


class _Bearer(requests.auth.AuthBase):
    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def session_for(source: HttpSource) -> requests.Session:
    """A session with the source's identity, trust and retries; time-outs are given with every request.

    Raises BadInput if a file with a secret or a certificate cannot be read.
    """
    session = session_with(source.tls)
    identity = source.authorization()
    if isinstance(identity, str):
        session.auth = _Bearer(identity)
    elif identity is not None:
        session.auth = identity
    session.headers.update(source.headers)
    retry = Retry(
        total=source.retries,
        backoff_factor=0.2,
        status_forcelist=_AGAIN,
        allowed_methods=None,
        raise_on_status=False,
        respect_retry_after_header=False,  # somebody waits for the answer; a gap now is better than one later
    )
    adapter = HTTPAdapter(max_retries=retry, pool_maxsize=source.concurrency)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def ask(
    session: requests.Session,
    source: HttpSource,
    path: str,
    *,
    params: Any = None,
    accept: str | None = None,
    until: float | None = None,
) -> bytes | None:
    """The body of a GET; None for 404. Raises Unavailable (no answer, 5xx, 429, too large) or Rejected (other 4xx).

    All tries together end at `until` (of time.monotonic), whatever the server does: unless given, when each has taken as long
    as it may.
    """
    url = source.url.rstrip("/") + path
    wait = source.timeout / SECOND_NS
    if until is None:
        until = time.monotonic() + wait * (source.retries + 1)
    wait = max(SHORTEST_S, min(wait, (until - time.monotonic()) / (source.retries + 1)))
    try:
        with session.get(
            url, params=params, timeout=wait, stream=True, headers={"Accept": accept} if accept else None
        ) as response:
            body = _limited(response, source.max_response_bytes, url, until)
            status = response.status_code
    except requests.RequestException as error:
        raise no_answer(url, error) from error
    except OSError as error:  # a file of certificates that holds none
        raise Rejected(f"{url}: TLS: {excerpt(str(error), _EXCERPT)}") from error
    if status == 404:
        return None
    if status >= 500 or status in _AGAIN:
        raise Unavailable(f"{url}: HTTP {status}: {excerpt(body.decode(errors='replace'), _EXCERPT)}")
    if status >= 300:
        raise Rejected(f"{url}: HTTP {status}: {excerpt(body.decode(errors='replace'), _EXCERPT)}")
    return body


def ask_json(session: requests.Session, source: HttpSource, path: str, *, params: Any = None, until: float | None = None) -> Any:
    """The same, as JSON; None for 404. Raises Rejected if the answer is no JSON."""
    body = ask(session, source, path, params=params, accept="application/json", until=until)
    if body is None:
        return None
    try:
        return json.loads(body)
    except ValueError:
        found = excerpt(body.decode(errors="replace"), _EXCERPT)
        raise Rejected(f"{source.url.rstrip('/')}{path}: expected JSON, found {found!r}") from None


def no_answer(url: str, error: requests.RequestException) -> Unavailable | Rejected:
    """What to raise where none came: Rejected where the other side is not who it should be."""
    words = excerpt(str(error), _EXCERPT)
    if isinstance(error, requests.exceptions.SSLError) and not is_cut_off(error):
        return Rejected(f"{url}: TLS: {words}")
    return Unavailable(f"{url}: {reason_of(error, words)}")


def _limited(response: requests.Response, limit: int, url: str, until: float) -> bytes:
    body = bytearray()
    for part in parts_of(response):
        body += part
        if len(body) > limit:
            raise Unavailable(f"{url}: the answer is larger than {limit / 2**20:.0f} MiB (max_response_bytes)")
        if time.monotonic() > until:
            raise Unavailable(f"{url}: the answer had not ended when time was up")
    return bytes(body)
