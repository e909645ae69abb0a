"""`rca gameday`, as a user meets it: its output, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rca.collectors.alerts import Alert
from rca.errors import BadInput, Unavailable, UnknownName
from rca.gameday.folder import load, make_folder
from rca.gameday.running import Runner
from rca.incidents.store import IncidentStore
from rca.telemetry import SECOND_NS
from tests.gamedays import PLAN, FakeSystem, a_day, typed

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command of the group in a store of its own; our errors come out as they are."""
    monkeypatch.setenv("RCA_HOME", str(tmp_path))
    return typed


def test_a_plan_is_checked_and_printed(run: Run, tmp_path: Path) -> None:
    out = run("check", "short")
    assert "1  latency  payment  0.9       1m40s         40s" in out
    assert "Before each: 10s to settle, 1m30s of quiet, the last 30s of it watched for false alarms." in out
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN + '[[abort]]\nfailed_requests = 0.9\nlasting = "2m"')
    out = run("check", plan)
    assert "40s or until fixed" in out
    assert "Aborts when more than 90 % of customers' requests fail for 2m." in out
    assert out.endswith("tuesday: 2 injections, 4m50s in all.\n")


def test_nothing_runs_where_there_is_no_shop(run: Run, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no shop runs here; `rca shop up` starts one"):
        run("run", "shop", "--run", tmp_path / "shop")
    assert "no game days" in run("list")
    with pytest.raises(UnknownName, match=r"found 'shop' \(known: none"):
        run("show", "shop")
    with pytest.raises(UnknownName, match="plan"):
        run("run", "nosuch")


def test_a_day_is_listed_and_shown(run: Run, tmp_path: Path) -> None:
    said: list[str] = []

    def people() -> None:
        said.append(run("guess", "tuesday", "cart", "--who", "ada"))
        with pytest.raises(UnknownName, match=r"entities of tuesday: .*'kart' \(did you mean cart"):
            run("guess", "tuesday", "kart")
        with pytest.raises(BadInput, match="found 1, which ends by itself"):
            run("fixed", "tuesday")

    def later() -> None:
        with pytest.raises(BadInput, match="expected an injection that runs now, found nothing is injected just now"):
            run("guess", "tuesday", "cart")

    def at_last() -> None:
        run("guess", "tuesday", "database:shop-db", "--who", "bob")
        said.append(run("fixed", "tuesday", "--who", "bob"))

    a_system = FakeSystem(fires=[Alert("Slow", 9 * SECOND_NS, end_ns=20 * SECOND_NS)])
    a_system.at |= {120: people, 160: later, 260: at_last}
    day = a_day(tmp_path)
    with IncidentStore(tmp_path) as store:
        Runner(day, a_system, store, told=str).run()
    assert said == [
        "tuesday: your guess for injection 1 is service:cart\n",
        "tuesday: injection 2 is fixed; its fault ends\n",
    ]
    assert "complete" in run("list")
    shown = run("show", "tuesday")
    first = next(line for line in shown.splitlines() if "tuesday-01" in line)
    assert first.split() == ["1", "latency", "payment", "20:28:20", "40", "s", "after", "9", "s", "tuesday-01-latency-payment"]
    assert "20 s (fixed)" in shown
    assert "2 quiet watches, 1.0 min" in shown
    assert "ada on 1: service:cart" in shown
    body = json.loads(run("show", "tuesday", "--json"))
    assert (body["schema_version"], body["state"], body["plan"]["quiet"]) == ("1", "complete", "30s")
    assert json.loads(run("list", "--json"))["game_days"][0]["name"] == "tuesday"
    with pytest.raises(BadInput, match="found it is complete"):
        run("guess", "tuesday", "cart")
    assert [guess.who for guess in load(tmp_path, "tuesday").guesses] == ["ada", "bob"]


def test_a_day_that_cannot_be_read_does_not_hide_the_others(run: Run, tmp_path: Path) -> None:
    make_folder(a_day(tmp_path))
    make_folder(a_day(tmp_path, name="wednesday"))
    (tmp_path / "gamedays/tuesday/journal.jsonl").write_text("nonsense\n")
    out = run("list")
    assert "tuesday cannot be read: " in out
    assert "wednesday" in out
