"""Programs that the shop runs and does not bring along, and the Debian packages that hold them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from rca.errors import Unavailable

PACKAGES: Final = {
    "setpriv": "util-linux",
    "prometheus": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
    "postgres": "postgresql",
    "initdb": "postgresql",
    "redis-server": "redis-server",
}
_OFF_THE_PATH: Final = Path("/usr/lib/postgresql")  # Debian keeps every version's programs in a folder of its own


def binary(name: str) -> str:
    """Path of a program. Raises Unavailable where it is not installed."""
    path = shutil.which(name)
    if path is None and _OFF_THE_PATH.is_dir():
        versions = sorted(_OFF_THE_PATH.glob(f"*/bin/{name}"), key=lambda found: float(found.parts[-3]))
        path = str(versions[-1]) if versions else None
    if path is None:
        raise Unavailable(f"{name} is not installed (Debian package {PACKAGES[name]})")
    return path


def missing_packages() -> list[str]:
    """Debian packages of the programs that are not installed."""
    return list(dict.fromkeys(package for name, package in PACKAGES.items() if not _has(name)))


def _has(program: str) -> bool:
    try:
        binary(program)
    except Unavailable:
        return False
    return True
