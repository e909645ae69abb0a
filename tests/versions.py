"""Models for tests of their life: cheap copies of the one that ships, each a version of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from rca.models.files import MODEL_FILE
from rca.models.shipped import shipped_folder
from rca.models.versions import Version, Versions


def model_folder(folder: Path, name: str, temperature: float = 1.0) -> Path:
    """A model folder that ranks as the shipped model does, with another name and temperature."""
    shipped = shipped_folder()
    assert shipped is not None
    made = Path(shutil.copytree(shipped, folder / name, ignore=shutil.ignore_patterns("README.md")))
    body = json.loads((made / MODEL_FILE).read_text())
    (made / MODEL_FILE).write_text(json.dumps(body | {"name": name, "temperature": temperature}))
    return made


def registered(home: Path, *names: str) -> tuple[Version, ...]:
    """Versions of these names."""
    versions = Versions(home, who="tester")
    found = []
    for number, name in enumerate(names, start=1):
        folder = model_folder(home / "made", name, float(number))
        found.append(versions.register(folder, source="test").version)
    return tuple(found)
