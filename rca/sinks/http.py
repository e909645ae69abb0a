"""One way to ask a server: identity, trust, limits, and errors that say whether to try again and hold no secret."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rca.errors import BadInput, Rejected, Unavailable
from rca.settings import secret_in
from rca.sinks.config import HttpSinkSettings, IdentifiedSettings
from rca.sinks.markup import line
from rca.sinks.retry import failure, retrying
from rca.telemetry import SECOND_NS

if TYPE_CHECKING:
    import requests

_SHORTEST_S: Final = 0.05  # also where no time is left: a time-out of 0 is refused
_LARGEST_ANSWER: Final = 2**18
_EXCERPT: Final = 200
_NOBODY_BEHIND: Final = (502, 503, 504)
_DEEPEST: Final = 8  # exceptions that wrap one another


@dataclass(frozen=True)
class Answer:
    """What a server said."""

    status: int
    body: bytes

    def json(self) -> Any:
        """The body as JSON; None where it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


@dataclass(frozen=True, repr=False)
class Post:
    """A request, and the secrets that must not show in any error about it. `sink` is whose it is."""

    sink: str
    url: str
    body: bytes
    headers: Mapping[str, str]
    secrets: Sequence[str] = ()
    basic: tuple[str, str] | None = None
    method: str = "POST"

    def told(self, words: str) -> str:
        """Words about the request, from elsewhere, without its secrets."""
        for secret in (*self.secrets, *(self.basic or ())[1:]):
            words = words.replace(secret, "***") if secret else words
        return f"{self.sink}: {line(words, _EXCERPT)}"


def send(post: Post, settings: HttpSinkSettings) -> Answer:
    """Post it, until the settings' deadline again where that helps. Raises Unavailable, Overloaded, Rejected, BadInput."""
    return retrying(lambda until: send_once(post, settings, until), settings.deadline / SECOND_NS)


def send_once(post: Post, settings: HttpSinkSettings, until: float) -> Answer:
    """Post it once; `until` is a time of the monotonic clock. Raises Unavailable, Overloaded, Rejected, BadInput."""
    answer, headers = _answered(post, settings, until)
    failed = failure(post.told(f"HTTP {answer.status}: {answer.body.decode(errors='replace')}"), answer.status, headers)
    if failed is not None:
        raise failed
    return answer


def look(post: Post, settings: HttpSinkSettings) -> int:
    """Status of what answers there to a HEAD, which changes nothing. Raises Unavailable, Rejected (TLS), BadInput."""
    answer, _ = _answered(replace(post, method="HEAD", body=b""), settings, time.monotonic() + settings.deadline / SECOND_NS)
    if answer.status in _NOBODY_BEHIND:
        raise Unavailable(post.told(f"HTTP {answer.status} to HEAD"))
    return answer.status


def _answered(post: Post, settings: HttpSinkSettings, until: float) -> tuple[Answer, Mapping[str, str]]:
    """What was answered, whatever it is, and its headers."""
    import requests

    wait = max(_SHORTEST_S, min(settings.timeout / SECOND_NS, until - time.monotonic()))
    headers = {"Content-Type": "application/json", "User-Agent": "rca", **post.headers}
    try:
        with (
            unlogged(),
            _session(settings, post.basic) as session,
            session.request(
                post.method, post.url, data=post.body, headers=headers, timeout=wait, stream=True, allow_redirects=False
            ) as response,
        ):
            return Answer(response.status_code, _limited(response, time.monotonic() + wait)), response.headers
    except ValueError:  # requests' own for a header or an address that cannot be sent
        raise Rejected(post.told("an address, a header or a secret holds characters that cannot be sent")) from None
    except requests.exceptions.SSLError as error:
        raise Rejected(post.told(f"TLS: {_reason(error)}")) from None  # the error's own text may hold the address
    except requests.RequestException as error:
        raise Unavailable(post.told(_reason(error))) from None
    except OSError as error:  # a file of certificates that holds none
        raise Rejected(post.told(f"TLS: {error.strerror or type(error).__name__}")) from None


def identity(settings: IdentifiedSettings) -> tuple[dict[str, str], tuple[str, str] | None, tuple[str, ...]]:
    """(headers, user and password, secrets) of the settings; files are read anew, because secrets rotate. Raises BadInput."""
    headers, basic, secrets = dict(settings.headers), None, tuple(settings.headers.values())
    if settings.bearer_token_file is not None:
        token = secret_in(settings.bearer_token_file)
        headers["Authorization"] = f"Bearer {token}"
        secrets = (*secrets, token)
    if settings.username is not None and settings.password_file is not None:
        basic = (settings.username, secret_in(settings.password_file))
    return headers, basic, secrets


@contextmanager
def unlogged() -> Iterator[None]:
    """urllib3 logs the address of every request at level DEBUG; those of sinks may hold secrets."""
    logger = logging.getLogger("urllib3.connectionpool")

    def nothing(_: logging.LogRecord) -> bool:
        return False

    logger.addFilter(nothing)
    try:
        yield
    finally:
        logger.removeFilter(nothing)


def _session(settings: HttpSinkSettings, basic: tuple[str, str] | None) -> requests.Session:
    """A session that trusts the settings alone: a .netrc or proxy of somebody's shell must not decide where messages go."""
    import requests

    session = requests.Session()
    session.trust_env = False
    session.auth = basic
    if settings.proxy:
        session.proxies = {"http": settings.proxy, "https": settings.proxy}
    tls = settings.tls
    for path in (tls.ca_file, tls.cert_file, tls.key_file):
        if path is not None:
            _check_readable(path)
    session.verify = False if tls.insecure_skip_verify else (str(tls.ca_file) if tls.ca_file else True)
    if tls.cert_file and tls.key_file:
        session.cert = (str(tls.cert_file), str(tls.key_file))
    return session


def _check_readable(path: Path) -> None:
    """Now, because requests finds it out with the first request and raises an OSError then."""
    try:
        path.open("rb").close()
    except OSError as error:
        found = error.strerror or str(error)
        raise BadInput(str(path), expected="a file with certificates or a key (PEM)", found=found) from None


def _limited(response: requests.Response, until: float) -> bytes:
    """The beginning of the answer: what an error says. An answer that drips is left at `until`."""
    body = bytearray()
    while len(body) < _LARGEST_ANSWER and time.monotonic() < until and (part := _some(response)):
        body += part
    return bytes(body)


def _some(response: requests.Response) -> bytes:
    import requests
    import urllib3

    try:
        return response.raw.read1(2**16, decode_content=True)
    except urllib3.exceptions.HTTPError as error:
        raise requests.exceptions.ConnectionError(error) from error


def _reason(error: requests.RequestException) -> str:
    """Why a request failed, in a few words that do not hold the address."""
    import requests

    if isinstance(error, requests.Timeout):
        return "no answer in time"
    cause: BaseException | None = error
    for _ in range(_DEEPEST):  # requests wraps urllib3, which wraps the socket's own words
        if cause is None:
            break
        if isinstance(cause, TimeoutError):
            return "no answer in time"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower()
        inner = [getattr(cause, "reason", None), *cause.args, cause.__cause__, cause.__context__]
        cause = next((one for one in inner if isinstance(one, BaseException)), None)
    return f"no connection ({type(error).__name__})"
