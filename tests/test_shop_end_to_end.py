"""The shop from up to down: two faults injected, telemetry collected live from every source, the culprits ranked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest

from rca.incidents.bundle import read_bundle
from rca.shop.client import Shop
from rca.shop.installed import binary

ROOT: Final = Path(__file__).parents[1]
QUIET_S, FAULT_S, SETTLE_S = 60, 40, 20


def rca(*arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """`rca` as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "rca", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False
    )


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """The whole shop under load, quiet for a while."""
    from rca.errors import Unavailable

    try:
        for program in ("postgres", "redis-server", "prometheus", "prometheus-alertmanager"):
            binary(program)
    except Unavailable as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("run")
    up = rca("shop", "up", "--run", str(folder), timeout_s=180)
    try:
        assert up.returncode == 0, up.stdout + up.stderr
        shop = Shop(folder)
        shop.wait_ready()
        time.sleep(QUIET_S)
        yield shop
    finally:
        pids = [process.pid for process in state.processes] if (state := Shop(folder).folder.state()) else []
        down = rca("shop", "down", "--run", str(folder))
        assert down.returncode == 0, down.stdout + down.stderr
        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _ask(shop: Shop, began: float, *more: str) -> dict[str, Any]:
    """The live ranking of what began at a time."""
    config = str(shop.folder.config_file)
    done = rca("triage", "--config", config, "--onset", _moment(began), "--json", *more)
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def _first_two(report: dict[str, Any]) -> list[str]:
    return [candidate["entity"]["name"] for candidate in report["ranking"]["candidates"][:2]]


def test_two_faults_are_found_from_live_telemetry(shop: Shop, tmp_path: Path) -> None:
    config = str(shop.folder.config_file)
    for number, (fault, target) in enumerate((("latency", "payment"), ("crash_loop", "recommendation"))):
        began = time.time()
        injected = rca("shop", "inject", fault, target, "--strength", "0.9", "--run", str(shop.folder.path))
        assert injected.returncode == 0, injected.stderr
        time.sleep(FAULT_S)
        saved = tmp_path / f"saved-{number}"
        report = _ask(shop, began, "--save", str(saved))
        assert target in _first_two(report), json.dumps(report["ranking"]["candidates"][:3], indent=1)
        _, telemetry = read_bundle(saved)
        for frame in ("bin_counts", "bin_durations", "metrics", "events", "logs", "topology"):
            assert not telemetry.frames()[frame].is_empty(), frame
        if number == 0:
            start = time.monotonic()
            quick = rca("triage", "--config", config, "--last", "10m", "--json")
            assert quick.returncode == 0, quick.stderr
            if not os.environ.get("PYTEST_XDIST_WORKER"):  # a machine that runs other tests tells nothing about time
                assert time.monotonic() - start < 5
        cleared = rca("shop", "clear", "--run", str(shop.folder.path))
        assert cleared.returncode == 0, cleared.stderr
        shop.wait_ready(120)
        time.sleep(SETTLE_S)


def test_all_sources_of_the_shop_work(shop: Shop) -> None:
    done = rca("doctor", "--config", str(shop.folder.config_file))
    assert done.returncode == 0, done.stdout + done.stderr
    for source in ("prometheus", "alertmanager", "kubernetes", "store"):
        assert source in done.stdout
