"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with the public data sets: RCA_DATA, or ../shared/data beside the repository. Skips where it is absent."""
    folder = Path(os.environ.get("RCA_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder} (set RCA_DATA)")
    return folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With RCA_REQUIRE_REAL=1 a skip is a failure, except for a GPU and for other projects' data, which CI need not have."""
    report = yield
    optional = any(item.get_closest_marker(name) for name in ("gpu", "data"))
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("RCA_REQUIRE_REAL") == "1" and not optional:
        report.outcome = "failed"
        report.longrepr = f"skipped although RCA_REQUIRE_REAL=1: {report.longrepr}"
    return report
