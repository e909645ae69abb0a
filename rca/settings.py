"""What every section of the configuration file shares: unknown keys are refused, secrets stay hidden, quantities carry units.

A component's own section stands beside the component (`config.py` of its package); rca.collectors.config puts them together.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator

from rca.errors import BadInput
from rca.telemetry import SECOND_NS

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)")
_SECONDS: Final = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB|TiB|kB|MB|GB|TB)")
_BYTES: Final = {
    "B": 1,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}


def duration_ns(text: object) -> int:
    """Nanoseconds of a duration as Prometheus writes it: `90s`, `15m`, `1h30m`. Raises ValueError."""
    written = str(text).strip()
    if not isinstance(text, str) or not re.fullmatch(rf"(?:{_DURATION.pattern})+", written):
        raise ValueError(f"expected a duration such as 30s, 15m or 1h30m, found {text!r}")
    parts = _DURATION.findall(written)
    return round(sum(float(amount) * _SECONDS[unit] for amount, unit in parts) * SECOND_NS)


def size_bytes(text: object) -> int:
    """Bytes of a size such as `64MiB` or `10GB`. Raises ValueError."""
    found = _SIZE.fullmatch(text.strip()) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f"expected a size such as 64MiB or 10GB, found {text!r}")
    return round(float(found[1]) * _BYTES[found[2]])


DurationNs = Annotated[int, BeforeValidator(duration_ns), Field(gt=0)]
"""A duration, written as text in the file, in nanoseconds here."""
SizeBytes = Annotated[int, BeforeValidator(size_bytes), Field(gt=0)]
"""A size, written as text in the file, in bytes here."""


class Section(BaseModel):
    """A table of the configuration file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TlsSettings(Section):
    """Whom to trust, and who we are."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    insecure_skip_verify: bool = False

    @model_validator(mode="after")
    def _pair(self) -> TlsSettings:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("expected cert_file and key_file together, found one of them")
        return self


class HttpSource(Section):
    """A server that is asked over HTTP: where it is, how to be let in, and how long to wait."""

    url: Annotated[str, Field(pattern=r"^https?://[^\s/]+")]
    bearer_token: SecretStr | None = None
    bearer_token_file: Path | None = None
    username: str | None = None
    password: SecretStr | None = None
    password_file: Path | None = None
    headers: dict[str, str] = {}
    tls: TlsSettings = TlsSettings()
    timeout: DurationNs = 5 * SECOND_NS
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    concurrency: Annotated[int, Field(ge=1, le=64)] = 4
    max_response_bytes: SizeBytes = 256 * 2**20

    @model_validator(mode="after")
    def _one_identity(self) -> HttpSource:
        given = [name for name in ("bearer_token", "bearer_token_file", "username") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"expected one way to be let in, found {' and '.join(given)}")
        if self.username is not None and (self.password is None) == (self.password_file is None):
            raise ValueError("expected password or password_file beside username")
        return self

    def authorization(self) -> str | tuple[str, str] | None:
        """A Bearer token, (user, password), or None. Files are read anew, because tokens rotate. Raises BadInput."""
        if self.bearer_token is not None:
            return self.bearer_token.get_secret_value()
        if self.bearer_token_file is not None:
            return secret_in(self.bearer_token_file)
        if self.username is not None:
            password = self.password.get_secret_value() if self.password else secret_in(self.password_file or Path())
            return self.username, password
        return None


def secret_in(path: Path) -> str:
    """The secret that a file holds, without the newline at its end. Raises BadInput."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "bytes that are not UTF-8"
        raise BadInput(str(path), expected="a file with a secret", found=str(reason)) from None
    if not text:
        raise BadInput(str(path), expected="a file with a secret", found="an empty file")
    return text
