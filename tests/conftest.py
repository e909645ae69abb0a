"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.servers.history import STEP_S, shop
from tests.servers.kubernetes_api import KubernetesApi
from tests.servers.prometheus import prometheus

settings.register_profile("rca", deadline=None)  # a machine that runs other tests takes its time
settings.load_profile("rca")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with the public data sets: RCA_DATA, or ../shared/data beside the repository. Skips where it is absent."""
    folder = Path(os.environ.get("RCA_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder} (set RCA_DATA)")
    return folder


@pytest.fixture(scope="session")
def shop_prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """A Prometheus that holds tests.servers.history.shop, and the second around which it is. Skips where none is installed."""
    end_s = int(time.time()) // STEP_S * STEP_S
    with prometheus(tmp_path_factory.mktemp("shop") / "prometheus", history=shop(end_s)) as url:
        yield url, end_s


@pytest.fixture
def kubernetes_api() -> Generator[KubernetesApi, None, None]:
    """A Kubernetes API server on loopback, empty."""
    with KubernetesApi() as api:
        yield api


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
