"""One way to ask a server over HTTP: retries, limits and errors that say whether to try again."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Final

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from rca.errors import BadInput, Rejected, Unavailable
from rca.settings import HttpSource
from rca.telemetry import SECOND_NS
from rca.wording import excerpt

_AGAIN: Final = (429, 502, 503, 504)
_EXCERPT: Final = 200
_SHORTEST: Final = 0.05  # s, also where no time is left: a time-out of 0 is refused
_DEEPEST: Final = 8  # exceptions that wrap one another


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
    session = requests.Session()
    session.trust_env = False  # a proxy or .netrc of the engineer's shell must not decide where telemetry comes from
    identity = source.authorization()
    if isinstance(identity, str):
        session.auth = _Bearer(identity)
    elif identity is not None:
        session.auth = identity
    session.headers.update(source.headers)
    tls = source.tls
    for path in (tls.ca_file, tls.cert_file, tls.key_file):
        if path is not None:
            _check_readable(path)
    session.verify = False if tls.insecure_skip_verify else (str(tls.ca_file) if tls.ca_file else True)
    if tls.cert_file and tls.key_file:
        session.cert = (str(tls.cert_file), str(tls.key_file))
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


def _check_readable(path: Path) -> None:
    """Now, because requests finds it out with the first request and raises an OSError then."""
    try:
        path.open("rb").close()
    except OSError as error:
        raise BadInput(
            str(path), expected="a file with certificates or a key (PEM)", found=error.strerror or str(error)
        ) from None


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
    wait = max(_SHORTEST, min(wait, (until - time.monotonic()) / (source.retries + 1)))
    try:
        with session.get(
            url, params=params, timeout=wait, stream=True, headers={"Accept": accept} if accept else None
        ) as response:
            body = _limited(response, source.max_response_bytes, url, until)
            status = response.status_code
    except requests.exceptions.SSLError as error:
        raise Rejected(f"{url}: TLS: {excerpt(str(error), _EXCERPT)}") from error
    except requests.RequestException as error:
        raise Unavailable(f"{url}: {reason_of(error)}") from error
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


def reason_of(error: requests.RequestException) -> str:
    """Why a request failed, in a few words."""
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    cause: BaseException | None = error
    for _ in range(_DEEPEST):  # requests wraps urllib3, which wraps the socket's own words
        if cause is None:
            break
        if isinstance(cause, urllib3.exceptions.ReadTimeoutError):
            return "no answer in time"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower()
        inner = [getattr(cause, "reason", None), *cause.args, cause.__cause__, cause.__context__]
        cause = next((one for one in inner if isinstance(one, BaseException)), None)
    return excerpt(str(error), _EXCERPT)


def _limited(response: requests.Response, limit: int, url: str, until: float) -> bytes:
    body = bytearray()
    while part := _some(response):
        body += part
        if len(body) > limit:
            raise Unavailable(f"{url}: the answer is larger than {limit / 2**20:.0f} MiB (max_response_bytes)")
        if time.monotonic() > until:
            raise Unavailable(f"{url}: the answer had not ended when time was up")
    return bytes(body)


def _some(response: requests.Response) -> bytes:
    """What has arrived, decompressed; nothing at the end. A full buffer is not waited for: a body that drips must end too."""
    try:
        return response.raw.read1(2**16, decode_content=True)
    except urllib3.exceptions.ReadTimeoutError as error:
        raise requests.exceptions.ReadTimeout(error) from error
    except urllib3.exceptions.HTTPError as error:
        raise requests.exceptions.ConnectionError(error) from error
