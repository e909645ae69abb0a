"""Who may send: Bearer tokens from a file that is read again when it changes."""

from __future__ import annotations

import hmac
import os
from pathlib import Path

from rca.errors import BadInput, Unavailable
from rca.settings import secret_in


class Tokens:
    """The tokens of a file, one a line; without a file everybody is let in. Raises BadInput if the file cannot be read."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._tokens: tuple[bytes, ...] = ()
        if path is not None:
            self._read(path)

    def admits(self, authorization: str | None) -> bool:
        """True if a header `Authorization` carries one of the tokens. Raises Unavailable while the file cannot be read."""
        if self._path is None:
            return True
        try:
            self._read(self._path)
        except BadInput as error:
            raise Unavailable("the receiver cannot read its tokens") from error
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            return False
        sent = given.strip().encode()
        matches = [hmac.compare_digest(sent, token) for token in self._tokens]  # each is compared, however many fit
        return any(matches)

    def _read(self, path: Path) -> None:
        try:
            found = os.stat(path)  # noqa: PTH116  one system call for each request
        except OSError as error:
            raise BadInput(str(path), expected="a file with tokens", found=error.strerror or str(error)) from None
        seen = (found.st_mtime_ns, found.st_size, found.st_ino)
        if seen != self._seen:
            self._tokens = tuple(line.strip().encode() for line in secret_in(path).splitlines() if line.strip())
            self._seen = seen
