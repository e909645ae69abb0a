"""What every section of the configuration file shares: unknown keys are refused, secrets stay hidden, quantities carry units.

A component's own section stands beside the component (`config.py` of its package); rca.collectors.config puts them together.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Final, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from rca.errors import BadInput
from rca.telemetry import SECOND_NS

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)")
_NS: Final = {
    "w": 604_800 * SECOND_NS,
    "d": 86_400 * SECOND_NS,
    "h": 3_600 * SECOND_NS,
    "m": 60 * SECOND_NS,
    "s": SECOND_NS,
    "ms": 10**6,
}
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

_WORDS: Final = {
    "missing": "is required",
    "model_type": "expected a table of settings",
    "dict_type": "expected a table of settings",
    "string_type": "expected text in quotes",
    "path_type": "expected a path in quotes",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "list_type": "expected a list",
    "greater_than": "expected more than nothing",
    "tuple_type": "expected a list",
}


def duration_ns(text: object) -> int:
    """Nanoseconds of a duration as Prometheus writes it: `90s`, `15m`, `1h30m`. Raises ValueError."""
    written = str(text).strip()
    if not isinstance(text, str) or not re.fullmatch(rf"(?:{_DURATION.pattern})+", written):
        raise ValueError(f"expected a duration such as 30s, 15m or 1h30m, found {text!r}")
    parts = _DURATION.findall(written)
    return round(sum(Fraction(amount) * _NS[unit] for amount, unit in parts))


def size_bytes(text: object) -> int:
    """Bytes of a size such as `64MiB` or `10GB`. Raises ValueError."""
    found = _SIZE.fullmatch(text.strip()) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f"expected a size such as 64MiB or 10GB, found {text!r}")
    return round(float(found[1]) * _BYTES[found[2]])


def duration_text(ns: int) -> str:
    """A duration as `duration_ns` reads it, in days and smaller units."""
    text = ""
    for unit, each in list(_NS.items())[1:]:  # weeks are harder to read than days
        amount, ns = divmod(ns, each)
        text += f"{amount}{unit}" if amount else ""
    return text


def size_text(size: int) -> str:
    """A size as `size_bytes` reads it, in the largest binary unit that divides it."""
    unit = max((unit for unit, each in _BYTES.items() if unit[1:] in ("", "iB") and size % each == 0), key=_BYTES.__getitem__)
    return f"{size // _BYTES[unit]}{unit}"


DurationNs = Annotated[int, BeforeValidator(duration_ns), PlainSerializer(duration_text, when_used="json"), Field(gt=0)]
"""A duration, written as text in the file, in nanoseconds here."""
SizeBytes = Annotated[int, BeforeValidator(size_bytes), PlainSerializer(size_text, when_used="json"), Field(gt=0)]
"""A size, written as text in the file, in bytes here."""


class Section(BaseModel):
    """A table of the configuration file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TlsSettings(Section):
    """Whom to trust, and who we are."""

    ca_file: Annotated[Path | None, Field(description="certificates to trust instead of the system's (PEM)")] = None
    cert_file: Annotated[Path | None, Field(description="our certificate, where the server wants to see one (PEM)")] = None
    key_file: Annotated[Path | None, Field(description="its private key (PEM)")] = None
    insecure_skip_verify: Annotated[bool, Field(description="trust any certificate; for tests")] = False

    @model_validator(mode="after")
    def _pair(self) -> TlsSettings:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("expected cert_file and key_file together, found one of them")
        return self


def _address_of_a_server(url: str) -> str:
    """The same. Raises ValueError, which repeats no password."""
    expected = "expected an address such as http://HOST:9090 or https://HOST/prefix"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{expected}: {error}") from None
    if "@" in url:
        raise ValueError(f"{expected}, found a user in it; set username and password_file")
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or re.search(r"\s", url):
        raise ValueError(f"{expected}, found {url!r}")
    if parts.query or parts.fragment:
        raise ValueError(f"{expected}, found {url!r}, which does not end with its path")
    return url


class HttpSource(Section):
    """A server that is asked over HTTP: where it is, how to be let in, and how long to wait."""

    url: Annotated[
        str,
        AfterValidator(_address_of_a_server),
        Field(description="address of the server, with a path prefix where it has one"),
    ]
    bearer_token: Annotated[SecretStr | None, Field(description="token to show; better in a file")] = None
    bearer_token_file: Annotated[Path | None, Field(description="file with the token, read anew for every collection")] = None
    username: Annotated[str | None, Field(description="user for basic authentication")] = None
    password: Annotated[SecretStr | None, Field(description="password; better in a file")] = None
    password_file: Annotated[Path | None, Field(description="file with the password")] = None
    headers: Annotated[
        dict[str, str], Field(repr=False, description='further headers, such as a tenant: { X-Scope-OrgID = "team-a" }')
    ] = {}
    tls: Annotated[TlsSettings, Field(description="whom to trust, and who we are")] = TlsSettings()
    timeout: Annotated[DurationNs, Field(description="how long one request may take")] = 5 * SECOND_NS
    retries: Annotated[int, Field(ge=0, le=10, description="how often to repeat a request that failed for the moment")] = 2
    concurrency: Annotated[int, Field(ge=1, le=64, description="requests under way at once")] = 4
    max_response_bytes: Annotated[SizeBytes, Field(description="the largest answer that is read")] = 256 * 2**20

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


Place = tuple[int | str, ...]
"""Where something stands in a file: keys and positions in lists."""


def mistakes(error: ValidationError, model: type[BaseModel]) -> Iterator[str]:
    """One clause for every mistake in a file of this model; the values of secrets are not repeated."""
    for place, words in misplaced(error, model):
        known = ".".join(map(str, place)) or "the file"
        yield f"{known}: {words}"


def misplaced(error: ValidationError, model: type[BaseModel]) -> Iterator[tuple[Place, str]]:
    """Every mistake with its place."""
    for mistake in error.errors(include_input=False, include_url=False):
        *tables, key = mistake["loc"] or ("file",)
        if mistake["type"] == "extra_forbidden":
            known = sorted(_section_at(tables, model).model_fields)
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f", did you mean {near[0]!r}?" if near else f", known: {', '.join(known)}" if known else ""
            yield mistake["loc"], f"unknown setting{hint}"
        else:
            yield mistake["loc"], _in_words(mistake, model)


def _in_words(mistake: ErrorDetails, model: type[BaseModel]) -> str:
    """What is wrong with a value, in the file's own terms."""
    kind = mistake["type"]
    if kind == "string_pattern_mismatch":
        return f"expected {_meaning(mistake['loc'], model)}"
    return _WORDS.get(kind) or mistake["msg"].removeprefix("Value error, ")


def _meaning(path: Place, model: type[BaseModel]) -> str:
    """What the documentation says of a setting."""
    *tables, key = path
    field = _section_at(tables, model).model_fields.get(str(key))
    return (field.description if field else None) or "another text"


def _section_at(tables: list[int | str], top: type[BaseModel]) -> type[BaseModel]:
    """The table at a path of keys; one without settings where there is none."""
    model: Any = top
    for table in tables:
        if isinstance(table, int):  # a place in a list of tables
            continue
        field = model.model_fields.get(table) if model is not None else None
        model = None if field is None else _model_in(field.annotation)
    return model or BaseModel


def _model_in(annotation: Any) -> Any:
    """The section that an annotation such as `Section | None` or `tuple[Section, ...]` is about."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part)) is not None), None)
