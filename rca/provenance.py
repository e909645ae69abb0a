"""Which code made it: what is kept on disk to save work must not outlive the code that would make it anew."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Final

_NOT_ABOUT_CASES: Final = (
    "cli",
    "collectors",
    "documents",
    "drawing",
    "evaluation",
    "gameday",
    "http.py",
    "models",
    "observe.py",
    "postmortem",
    "serve",
    "shop",
    "simulator",
    "sinks",
)


@cache
def code_digest(*also: str) -> str:
    """Digest of the code that turns telemetry into cases, and of packages and files of rca named beside it.

    They are named from the package on: "simulator", "models/training.py". Raises FileNotFoundError for one that does not exist.
    """
    package = Path(__file__).parent
    sources = {p for p in package.rglob("*.py") if p.relative_to(package).parts[0] not in _NOT_ABOUT_CASES}
    for name in also:
        sources |= set((package / name).rglob("*.py")) or {package / name}
    return hashlib.blake2b(b"\x00".join(source.read_bytes() for source in sorted(sources)), digest_size=12).hexdigest()
