"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with the public data sets: RCA_DATA, or ../shared/data beside the repository. Skips where it is absent."""
    folder = Path(os.environ.get("RCA_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder} (set RCA_DATA)")
    return folder
