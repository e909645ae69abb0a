"""One way to ask a server: identity, trust, limits, and errors that say whether to try again and hold no secret."""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from rca.errors import Rejected, Unavailable
from rca.http import SHORTEST_S, is_cut_off, parts_of, reason_of, session_with
from rca.settings import secret_in
from rca.sinks.config import HttpSinkSettings, IdentifiedSettings
from rca.sinks.markup import line
from rca.sinks.retry import failure, retrying
from rca.telemetry import SECOND_NS

if TYPE_CHECKING:
    import requests

_LARGEST_ANSWER: Final = 2**18
_EXCERPT: Final = 200
_NOBODY_BEHIND: Final = (502, 503, 504)


@dataclass(frozen=True)
class Answer:
    """What a server said: the beginning of it, unless it is `whole`."""

    status: int
    body: bytes
    whole: bool = True

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
        for secret in (*self.secrets, *_shown(self.basic)):
            words = words.replace(secret, "***") if secret else words
        return f"{self.sink}: {line(words, _EXCERPT)}"


def _shown(basic: tuple[str, str] | None) -> tuple[str, ...]:
    """A password as a server may repeat it: itself, and as the header has it."""
    return (basic[1], base64.b64encode(":".join(basic).encode()).decode()) if basic else ()


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

    wait = max(SHORTEST_S, min(settings.timeout / SECOND_NS, until - time.monotonic()))
    headers = {"Content-Type": "application/json", "User-Agent": "rca", **post.headers}
    try:
        with (
            unlogged(),
            _session(settings, post.basic) as session,
            session.request(
                post.method, post.url, data=post.body, headers=headers, timeout=wait, stream=True, allow_redirects=False
            ) as response,
        ):
            return Answer(response.status_code, *_limited(response, time.monotonic() + wait)), response.headers
    except ValueError:  # requests' own for a header or an address that cannot be sent
        raise Rejected(post.told("an address, a header or a secret holds characters that cannot be sent")) from None
    except requests.RequestException as error:
        words = reason_of(error, f"no connection ({type(error).__name__})")  # the error's own text may hold the address
        if isinstance(error, requests.exceptions.SSLError) and not is_cut_off(error):
            raise Rejected(post.told(f"TLS: {words}")) from None
        raise Unavailable(post.told(words)) from None
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
    session = session_with(settings.tls)
    session.auth = basic
    if settings.proxy:
        session.proxies = {"http": settings.proxy, "https": settings.proxy}
    return session


def _limited(response: requests.Response, until: float) -> tuple[bytes, bool]:
    """The beginning of the answer, which is what an error says, and whether it is all. One that drips is left at `until`."""
    body = bytearray()
    for part in parts_of(response):
        body += part
        if len(body) >= _LARGEST_ANSWER or time.monotonic() >= until:
            return bytes(body), False
    return bytes(body), True
