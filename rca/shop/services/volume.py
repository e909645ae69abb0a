"""A pod's own volume: a folder with a capacity and a speed, which the file `volume.json` beside it can change while the pod runs.

Capacity is enforced here, because a disk of a given size takes rights that the shop need not have: everything in the folder
counts, by its apparent size, and a write beyond it fails as a full disk's does.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from pathlib import Path
from typing import Final

_READ_EVERY_S: Final = 1.0
_KEPT_FILES: Final = 300
_ARCHIVED_SHARE: Final = 0.25
"""Of the capacity: what older files take, so that a fresh volume does not look as if it filled up."""


class Volume:
    """Files that are written once and synced. Older ones make room for newer ones beyond a number."""

    def __init__(self, folder: Path, capacity_bytes: int) -> None:
        self.folder = folder / "volume"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._settings_path = folder / "volume.json"
        self._capacity_bytes = capacity_bytes
        self._settings: dict[str, float] = {}
        self._read_at = float("-inf")
        self._lock = threading.Lock()
        archive = self.folder / "archive"
        if not archive.exists():
            with archive.open("wb") as file:
                file.truncate(round(_ARCHIVED_SHARE * capacity_bytes))
        self._written = sorted(path for path in self.folder.iterdir() if path.suffix == ".txt")

    def write(self, name: str, text: str) -> None:
        """Write and sync a file. Raises OSError (ENOSPC) when the volume is full."""
        data = text.encode()
        path = self.folder / f"{name}.txt"
        settings = self._now()
        if self.used_bytes() + len(data) > settings.get("capacity_bytes", self._capacity_bytes):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        time.sleep(_wait_s(settings, len(data)))
        self._keep(path)

    def used_bytes(self) -> int:
        """Apparent size of what is in the folder."""
        with os.scandir(self.folder) as entries:
            return sum(entry.stat().st_size for entry in entries)

    def _keep(self, path: Path) -> None:
        with self._lock:
            self._written.append(path)
            surplus, self._written = self._written[:-_KEPT_FILES], self._written[-_KEPT_FILES:]
        for old in surplus:
            old.unlink(missing_ok=True)

    def _now(self) -> dict[str, float]:
        with self._lock:
            if time.monotonic() - self._read_at >= _READ_EVERY_S:
                path = self._settings_path
                self._settings = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
                self._read_at = time.monotonic()
            return self._settings


def _wait_s(settings: dict[str, float], size: int) -> float:
    wait = settings.get("ms_per_write", 0) / 1000
    speed = settings.get("bytes_per_second")
    return wait + (size / speed if speed else 0)
