"""The manifest of a folder of recorded incidents: what each bundle holds, how it was made, its SHA-256, and whether it tests.

The test part is frozen in `test.sha256`, as `sha256sum` writes it: what was ever evaluated on must not change without notice.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from rca.errors import BadInput
from rca.shop.plan import SYSTEM

MANIFEST: Final = "manifest.json"
FROZEN: Final = "test.sha256"
VERSION: Final = "1"


def read(folder: Path) -> dict[str, Any]:
    """The manifest of a folder of recordings; an empty one where there is none. Raises BadInput."""
    path = folder / MANIFEST
    if not path.exists():
        return {"version": VERSION, "system": SYSTEM, "incidents": []}
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(str(path), expected="JSON", found=str(error)) from error
    if not isinstance(body, dict) or body.get("version") != VERSION or not isinstance(body.get("incidents"), list):
        raise BadInput(str(path), expected=f"a manifest of version {VERSION}", found="something else")
    return body


def parts(folder: Path) -> list[str]:
    """Names of the parts of a folder's manifest; none where there is no manifest. Raises BadInput."""
    return sorted({str(entry["part"]) for entry in read(folder)["incidents"]})


def files_of(folder: Path, part: str | None = None) -> list[Path]:
    """Bundles of a manifest, of one part or all, in its order.

    Raises BadInput where there is no manifest, and for a bundle that is absent or was changed.
    """
    if not (folder / MANIFEST).exists():
        expected = f"a folder of recordings with a {MANIFEST}, as `rca shop record` writes it"
        raise BadInput(str(folder), expected=expected, found="a folder without one" if folder.is_dir() else "no folder")
    found = []
    for entry in read(folder)["incidents"]:
        if part in (None, entry["part"]):
            path = folder / entry["file"]
            digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "nothing"
            if digest != entry["sha256"]:
                raise BadInput(str(path), expected=f"SHA-256 {entry['sha256'][:12]}", found=digest[:12])
            found.append(path)
    return found


@contextmanager
def locked(folder: Path) -> Iterator[dict[str, Any]]:
    """The manifest, to be changed by one process at a time; written in one step if nothing fails."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        body = read(folder)
        yield body
        temporary = folder / f".{MANIFEST}"
        temporary.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        temporary.replace(folder / MANIFEST)


def frozen(folder: Path) -> str:
    """What `test.sha256` has to say of the manifest's test part."""
    entries = [entry for entry in read(folder)["incidents"] if entry["part"] == "test"]
    return "".join(f"{entry['sha256']}  {entry['file']}\n" for entry in sorted(entries, key=lambda entry: str(entry["file"])))
