"""What collectors and sinks share of asking a server: whom to trust, what arrives of an answer, and why none did."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from http.client import IncompleteRead
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rca.errors import BadInput
from rca.settings import TlsSettings

if TYPE_CHECKING:
    import requests

SHORTEST_S: Final = 0.05
"""A time-out also where no time is left: one of 0 is refused."""
_PART: Final = 2**16
_DEEPEST: Final = 8  # exceptions that wrap one another


def session_with(tls: TlsSettings) -> requests.Session:
    """A session that trusts the settings alone: a proxy or .netrc of somebody's shell must not decide who is asked.

    Raises BadInput if a file with a certificate or a key cannot be read.
    """
    import requests

    session = requests.Session()
    session.trust_env = False
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


def parts_of(response: requests.Response) -> Iterator[bytes]:
    """The body as it arrives, decompressed. A full buffer is not waited for: a body that drips must end too.

    Raises requests.RequestException alone, a ReadTimeout where nothing more came in time.
    """
    import requests
    import urllib3

    try:
        while part := response.raw.read1(_PART, decode_content=True):
            yield part
    except urllib3.exceptions.ReadTimeoutError as error:
        raise requests.exceptions.ReadTimeout(error) from error
    except urllib3.exceptions.HTTPError as error:
        raise requests.exceptions.ConnectionError(error) from error


def reason_of(error: requests.RequestException, otherwise: str) -> str:
    """Why a request failed, in a few words that do not hold its address; `otherwise` where nothing says why."""
    import requests

    if isinstance(error, requests.Timeout):
        return "no answer in time"
    for cause in _causes(error):
        if isinstance(cause, TimeoutError):
            return "no answer in time"
        if isinstance(cause, IncompleteRead):
            return "the answer was cut off"
        if isinstance(cause, OSError) and not isinstance(cause, requests.RequestException) and cause.strerror:
            return cause.strerror.lower()
    return otherwise


def is_cut_off(error: requests.exceptions.SSLError) -> bool:
    """Whether the connection broke while TLS was being agreed on, as where a server is being started anew: that may pass."""
    return any(isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError | ConnectionError) for cause in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it wraps: requests wraps urllib3, which wraps the socket's own."""
    cause: BaseException | None = error
    for _ in range(_DEEPEST):
        if cause is None:
            return
        yield cause
        inner = [getattr(cause, "reason", None), *cause.args, cause.__cause__, cause.__context__]
        cause = next((one for one in inner if isinstance(one, BaseException)), None)
