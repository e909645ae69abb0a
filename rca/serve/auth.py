"""Who is let in, as what, and from where: Bearer and basic authentication, roles, cross-site requests, and the audit log."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, get_args
from urllib.parse import urlsplit

from rca.errors import BadInput, StorageFull, Unavailable
from rca.settings import secret_in

Role = Literal["send", "read", "label"]
_MAY: Final[dict[Role, frozenset[Role]]] = {
    "send": frozenset({"send"}),
    "read": frozenset({"read"}),
    "label": frozenset({"read", "label"}),
}
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_REFUSALS_A_MINUTE: Final = 20
_MINUTE_S: Final = 60.0


@dataclass(frozen=True)
class Who:
    """Somebody who was let in. `roles` are all that they have."""

    name: str
    roles: frozenset[Role]


ANYBODY: Final = Who("", frozenset(get_args(Role)))
"""Who comes where there is no file of those to let in: loopback is reached by this machine alone."""


@dataclass(frozen=True)
class _Entry:
    who: Who
    digest: bytes


class Access:
    """The people and senders of a file, which is read again when it changes. Raises BadInput if it cannot be read."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._entries: tuple[_Entry, ...] = ()
        if path is not None:
            self._read(path)

    @property
    def open(self) -> bool:
        """True where everybody is let in."""
        return self._path is None

    def who(self, authorization: str | None) -> Who | None:
        """Whom a header `Authorization` names, None where it names nobody. Raises Unavailable while the file cannot be read."""
        if self._path is None:
            return ANYBODY
        try:
            self._read(self._path)
        except BadInput as error:
            raise Unavailable("the list of those to let in cannot be read") from error
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() == "bearer":
            return self._found(None, given.strip())
        if scheme.lower() == "basic":
            try:
                name, _, secret = base64.b64decode(given.strip(), validate=True).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                return None
            return self._found(name, secret)
        return None

    def _found(self, name: str | None, secret: str) -> Who | None:
        """Every entry is compared, however many fit, in a time that says nothing about the secret."""
        digest = _digest(secret)
        fits = [hmac.compare_digest(entry.digest, digest) for entry in self._entries]
        named = [entry.who for entry, fit in zip(self._entries, fits, strict=True) if fit]
        return next((who for who in named if name is None or who.name == name), None)

    def _read(self, path: Path) -> None:
        try:
            found = os.stat(path)  # noqa: PTH116  one system call for each request
        except OSError as error:
            raise BadInput(str(path), expected="a file of those to let in", found=error.strerror or str(error)) from None
        seen = (found.st_mtime_ns, found.st_size, found.st_ino)
        if seen != self._seen:
            lines = secret_in(path).splitlines()
            self._entries = tuple(
                _entry(f"{path}, line {number}", line)
                for number, line in enumerate(lines, start=1)
                if line.strip() and not line.lstrip().startswith("#")
            )
            self._seen = seen


def _entry(where: str, line: str) -> _Entry:
    """One line of the file; what is wrong with it is said without repeating it."""
    words = line.split()
    roles = words[0].split(",") if words else []
    known = [role for role in get_args(Role) if role in roles]
    if not known or len(known) != len(roles) or len(words) != 3:
        expected = "ROLE NAME SECRET with a role of send, read or label (or several, with commas)"
        found = f"{len(words)} words" if len(words) != 3 else "another role"
        raise BadInput(where, expected=expected, found=found)
    if len(words[2]) < 16:
        raise BadInput(where, expected="a secret of 16 characters or more", found=f"{len(words[2])}")
    return _Entry(Who(words[1], frozenset().union(*(_MAY[role] for role in known))), _digest(words[2]))


def _digest(secret: str) -> bytes:
    """Equal lengths, so that comparing takes equal time."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


class Sites:
    """Which pages may have a browser send something: our own. And under which names this machine may be asked."""

    def __init__(self, url: str, *, any_host: bool) -> None:
        self._origin = _origin(url)
        self._hosts = {urlsplit(url).hostname or "", *_LOOPBACK}
        self._any_host = any_host
        self._key = secrets.token_bytes(32)

    def refusal(self, method: str, scheme: str, headers: Mapping[str, str]) -> str:
        """Why a request is refused; empty if it is not. Names of the headers in lower case."""
        host = headers.get("host", "")
        if not self._any_host and _hostname(host) not in self._hosts:
            return "the name in Host is none of this server"  # a page of elsewhere whose name now leads here
        if method in ("GET", "HEAD", "OPTIONS"):
            return ""
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if site not in (None, "none", "same-origin"):
            return "a page of another site sent this"
        if origin == "null" and site is not None:  # our own pages tell nobody where they are
            return ""
        if origin is not None and origin not in (self._origin, f"{scheme}://{host}"):
            return "a page of another origin sent this"
        return ""

    def token(self, who: Who) -> str:
        """What a form that was made for somebody has to bring back. It holds until the server ends."""
        return hmac.new(self._key, f"form\0{who.name}".encode(), hashlib.sha256).hexdigest()

    def fits(self, who: Who, token: str) -> bool:
        """True if a form was made for the one who sends it."""
        return hmac.compare_digest(self.token(who).encode(), token.encode("utf-8", "replace"))


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


class Audit:
    """Every change and every refusal as a line of JSON in a file; nowhere without one.

    Refusals of one address are counted after the first few of a minute: who knocks all night does not fill the disk.
    """

    def __init__(self, path: Path | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._lock = threading.Lock()
        self._minute = 0
        self._refused: dict[str, int] = {}
        if path is not None:
            self._write([])

    def note(self, action: str, *, who: str, address: str, target: str = "", outcome: str = "done") -> None:
        """Raises StorageFull if the line cannot be written: a change that nobody can account for is not made."""
        self._write([_line(action=action, who=who, address=address, target=target, outcome=outcome)])

    def refused(self, reason: str, *, who: str, address: str, target: str) -> None:
        """Somebody was turned away."""
        with self._lock:
            lines = self._turned()
            self._refused[address] = self._refused.get(address, 0) + 1
            if self._refused[address] <= _REFUSALS_A_MINUTE and len(self._refused) <= 1000:
                lines.append(_line(action="refused", who=who, address=address, target=target[:200], outcome=reason))
        self._write(lines)

    def _turned(self) -> list[str]:
        """At the turn of a minute: how many refusals were not written down in the last."""
        minute = int(self._clock() // _MINUTE_S)
        if minute == self._minute:
            return []
        more = sum(max(count - _REFUSALS_A_MINUTE, 0) for count in self._refused.values())
        self._minute, self._refused = minute, {}
        return [_line(action="refused", who="", address="", target="", outcome=f"{more} more in a minute")] if more else []

    def _write(self, lines: list[str]) -> None:
        if self._path is None:
            return
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "a", encoding="utf-8") as file:
                file.writelines(lines)
        except OSError as error:
            raise StorageFull(f"{self._path}: {error.strerror}; the audit log cannot be written") from error


def _line(**words: str) -> str:
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"at": at, **words}) + "\n"
