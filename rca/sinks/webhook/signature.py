"""Signatures of Standard Webhooks: HMAC-SHA256 over id, time and body, so that none can be replaced or replayed late. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

from rca.errors import BadInput

_PREFIX: Final = "whsec_"
_SHORTEST: Final = 24
_LONGEST: Final = 64


def keys_in(text: str, where: str) -> tuple[bytes, ...]:
    """The keys of a file, one a line. Raises BadInput, which repeats none of them."""
    return tuple(_key(each, where) for each in text.split())


def _key(text: str, where: str) -> bytes:
    expected = f"{_PREFIX} and {_SHORTEST} to {_LONGEST} bytes in base64"
    try:
        key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise BadInput(where, expected=expected, found="something that is no base64") from None
    if not _SHORTEST <= len(key) <= _LONGEST:
        raise BadInput(where, expected=expected, found=f"{len(key)} bytes")
    return key


def signed_headers(keys: Sequence[bytes], message_id: str, time_s: int, body: bytes) -> dict[str, str]:
    """The headers that carry the signatures, one for every key."""
    content = f"{message_id}.{time_s}.".encode() + body
    signatures = [base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode() for key in keys]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(time_s),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
