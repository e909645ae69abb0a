"""What the settings of all sinks share. Each sink's own stand in `config.py` of its package."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from rca.settings import DurationNs, Section, TlsSettings
from rca.telemetry import SECOND_NS

_EXPECTED: Final = "expected an address such as https://HOST/path"


def address(url: str) -> str:
    """The same. Raises ValueError, which repeats no password."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{_EXPECTED}: {error}") from None
    if "@" in parts.netloc:
        raise ValueError(f"{_EXPECTED}, found a user in it; secrets belong in files")
    if parts.query or parts.fragment:
        raise ValueError(f"{_EXPECTED}, found one with a query; if it holds a secret, put the whole into url_file")
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or re.search(r"\s", url):
        raise ValueError(f"{_EXPECTED}, found {url!r}")
    return url


Address = Annotated[str, AfterValidator(address)]


class SinkSettings(Section):
    """What every sink has."""

    redact: Annotated[bool, Field(description="replace names of services, pods and hosts before anything leaves")] = False
    timeout: Annotated[DurationNs, Field(description="how long one request may take")] = 10 * SECOND_NS
    deadline: Annotated[
        DurationNs, Field(description="how long to keep trying; after that, the message waits in the queue for its next turn")
    ] = 30 * SECOND_NS


class HttpSinkSettings(SinkSettings):
    """What every sink has that posts to a server by itself."""

    proxy: Annotated[Address | None, Field(description="proxy to go through, such as http://proxy:3128")] = None
    tls: Annotated[TlsSettings, Field(description="whom to trust, and who we are")] = TlsSettings()


class IdentifiedSettings(HttpSinkSettings):
    """A server of your own that may want to know who asks."""

    bearer_token_file: Annotated[Path | None, Field(description="file with a token to show, read anew for every message")] = None
    username: Annotated[str | None, Field(description="user for basic authentication")] = None
    password_file: Annotated[Path | None, Field(description="file with the password")] = None
    headers: Annotated[
        dict[str, str], Field(repr=False, description='further headers, such as a tenant: { X-Scope-OrgID = "team-a" }')
    ] = {}
