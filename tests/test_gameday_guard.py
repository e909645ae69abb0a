"""No fault outlives the process that injected it, kill -9 included: the guard of a game day, on a supervisor that answers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rca.errors import Rejected, Unavailable
from rca.gameday.folder import JOURNAL_FILE, Journal, events_of
from rca.gameday.guard import LOG_FILE
from rca.gameday.plan import parsed_plan
from rca.gameday.shop import ShopSystem
from rca.shop import monitoring
from rca.shop.client import Shop
from tests.gamedays import PLAN
from tests.serving import until
from tests.test_shop_control import shop

__all__ = ["shop"]

_RUNNER = """
import sys, time
from pathlib import Path
from rca.gameday.guard import Guard
from rca.shop.client import Shop

shop = Shop(Path(sys.argv[1]))
with shop.folder.undisturbed() as lock, Guard(shop.folder.path, Path(sys.argv[2]), lock) as guard:
    shop.network("cart", "cache", delay_ms=100)
    print("injected", flush=True)
    if sys.argv[3] == "waits":
        time.sleep(60)
    elif sys.argv[3] == "clears":
        shop.clear()
        guard.stand_down()
"""


def runner(shop: Shop, day: Path, what: str) -> subprocess.Popen[str]:
    """A process that injected a fault under a guard."""
    day.mkdir()
    Journal(day).begin()
    command = [sys.executable, "-c", _RUNNER, str(shop.folder.path), str(day), what]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "injected\n"
    return process


def test_the_guard_ends_the_faults_of_a_run_that_was_killed(shop: Shop, tmp_path: Path) -> None:
    day = tmp_path / "day"
    process = runner(shop, day, "waits")
    assert shop.status().injected == ("network cart -> cache: delay 100 ms ± 0 ms",)
    with pytest.raises(Rejected, match="or a game day is at work, process"), shop.folder.undisturbed():
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    until(lambda: not shop.status().injected, 20)
    until(lambda: list(events_of(day / JOURNAL_FILE)), 20)
    (event,) = events_of(day / JOURNAL_FILE)
    assert event["event"] == "guarded"
    assert (event["why"], (day / LOG_FILE).read_text()) == ("the run died; the guard ended every fault", "")
    until(lambda: _is_free(shop), 10)


def test_a_run_that_ends_in_order_needs_no_guard(shop: Shop, tmp_path: Path) -> None:
    assert runner(shop, tmp_path / "day", "clears").wait(30) == 0
    assert shop.status().injected == ()
    assert list(events_of(tmp_path / "day" / JOURNAL_FILE)) == []
    with shop.folder.undisturbed():  # the guard let go of it
        pass


def test_a_pod_that_went_before_it_was_hit_ends_no_game_day(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monitoring.write_settings(shop.folder, monitoring.Ports(20001, 20002, 20003, 20004), tmp_path / "kubeconfig")
    plan = parsed_plan(PLAN, "plan.toml")
    monkeypatch.setattr("rca.gameday.shop.faults.inject", lambda shop, *_: shop.signal("cart-1", "KILL"))
    with pytest.raises(Unavailable, match="pod: expected a known name, found 'cart-1'"):  # so that it is tried again
        ShopSystem(shop, plan).inject(plan.injection[0])


def _is_free(shop: Shop) -> bool:
    try:
        with shop.folder.undisturbed():
            return True
    except Rejected:
        time.sleep(0.05)
        return False
