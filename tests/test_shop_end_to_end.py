"""The shop from up to down: two faults injected, telemetry collected live from every source, the culprits ranked.

The first fault goes all the way: its alerts from a real Prometheus rule through a real Alertmanager to `rca serve`, whose message
names the culprit and links to a page, on which somebody confirms it in a real browser. The second is a game day's: a person
guesses it and fixes it, and it is kept as a labelled incident.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
import requests
import yaml

from rca.gameday.folder import load, names
from rca.incidents.bundle import read_bundle
from rca.incidents.store import IncidentStore
from rca.shop.client import Shop
from rca.shop.installed import binary
from rca.telemetry import SECOND_NS, EntityId
from tests.servers.browser import confirmed, opened
from tests.servers.prometheus import free_port
from tests.servers.receiver import Receiver, receiving
from tests.servers.serve import SECRET, ServeProcess
from tests.serving import until

ROOT: Final = Path(__file__).parents[1]
QUIET_S, FAULT_S = 60, 40
GAME_DAY: Final = """
name = "evening"
settle = "10s"
baseline = "1m"
quiet = "0s"
busy = "kept"

[[injection]]
fault = "latency"
target = "payment"
strength = 0.9
lasting = "2m"
until = "fixed"

[[abort]]
failed_requests = 0.99
lasting = "5m"

[[abort]]
query = "sum(rate(http_server_request_duration_seconds_count[1m]))"
below = 0

[[abort]]
unhealthy = true
lasting = "5m"
"""

_SERVE: Final = """
[serve]
address = "127.0.0.1:{port}"
access_file = "{folder}/access"
revise_after = "20s"
[sinks.webhook]
url = "{receiver}"
secret_file = "{folder}/secret"
"""


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


@contextmanager
def serving(shop: Shop, folder: Path, receiver: Receiver) -> Iterator[ServeProcess]:
    """`rca serve` on the shop's sources; the shop's Alertmanager posts to it."""
    folder.mkdir()
    server = ServeProcess(folder, free_port())
    settings = shop.folder.config_file.read_text(encoding="utf-8")
    more = _SERVE.format(port=server.port, folder=folder, receiver=receiver.url)
    (folder / "rca.toml").write_text(settings + more, encoding="utf-8")
    (folder / "access").write_text(f"send,label tester {SECRET}\n", encoding="utf-8")
    (folder / "secret").write_text("whsec_" + base64.b64encode(b"s" * 32).decode(), encoding="utf-8")
    server.start()
    try:
        _tell_alertmanager(shop, f"{server.url}/v1/alertmanager", tomllib.loads(settings)["alertmanager"]["url"])
        yield server
    finally:
        assert server.end() == 0, server.log()


def _tell_alertmanager(shop: Shop, webhook: str, url: str) -> None:
    """Give the shop's Alertmanager a receiver, as docs/serve.md says."""
    path = shop.folder.path / "alertmanager" / "alertmanager.yml"
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    hook = {"url": webhook, "http_config": {"authorization": {"credentials": SECRET}}}
    settings["route"]["receiver"] = "rca"
    settings["receivers"].append({"name": "rca", "webhook_configs": [hook]})
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    requests.post(f"{url}/-/reload", timeout=10).raise_for_status()


def _message_about(receiver: Receiver, name: str) -> Any:
    """The first message that ranks it first; None if there is none yet."""
    for message in list(receiver.messages.values()):
        report = message["report"]
        if report is not None and [each["entity"]["name"] for each in report["ranking"]["candidates"][:1]] == [name]:
            return message
    return None


def _answered_and_confirmed(receiver: Receiver, server: ServeProcess, target: str) -> None:
    """A message names the culprit; the click on its page is a label in the store, of whom the page names by then."""
    message = until(lambda: _message_about(receiver, target), 60)
    assert message["state"] == "firing"
    until(lambda: "Yes, it was" in requests.get(message["links"]["page"], auth=("tester", SECRET), timeout=60).text, 60)
    with opened(message["links"]["page"], "tester", SECRET) as page:
        named = confirmed(page)  # a second look may lie between the message and the click
    with IncidentStore(server.home) as store:
        labels = [label for incident in store.list() for label in store.incident(incident.id).labels]
    assert [(label.provenance, label.author) for label in labels] == [("confirmed", "tester")]
    assert named.endswith(labels[0].name())


def test_two_faults_are_found_from_live_telemetry(shop: Shop, tmp_path: Path) -> None:
    with receiving() as receiver, serving(shop, tmp_path / "serve", receiver) as server:
        began = time.time()
        injected = rca("shop", "inject", "crash_loop", "recommendation", "--strength", "0.9", "--run", str(shop.folder.path))
        assert injected.returncode == 0, injected.stderr
        time.sleep(FAULT_S)
        _check_found(shop, began, "recommendation", tmp_path / "first")
        _answered_and_confirmed(receiver, server, "recommendation")
    cleared = rca("shop", "clear", "--run", str(shop.folder.path))
    assert cleared.returncode == 0, cleared.stderr
    shop.wait_ready(120)
    _check_game_day(shop, tmp_path)


def _check_found(shop: Shop, began: float, target: str, saved: Path) -> None:
    """What began at a time is found, from all that every source tells."""
    report = _ask(shop, began, "--save", str(saved))
    assert target in _first_two(report), json.dumps(report["ranking"]["candidates"][:3], indent=1)
    _, telemetry = read_bundle(saved)
    for frame in ("bin_counts", "bin_durations", "metrics", "events", "logs", "topology"):
        assert not telemetry.frames()[frame].is_empty(), frame


def _check_game_day(shop: Shop, folder: Path) -> None:
    """A fault of a plan is found, guessed, fixed, kept with its label, nothing of it stays, and a report says how it went."""
    home, plan = folder / "home", folder / "evening.toml"
    plan.write_text(GAME_DAY, encoding="utf-8")
    run = [sys.executable, "-m", "rca", "gameday", "run", str(plan), "--run", str(shop.folder.path), "--store", str(home)]
    with subprocess.Popen(run, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        try:
            began = until(lambda: _injected_at(home, running), 300)
            time.sleep(FAULT_S)
            _check_found(shop, began, "payment", folder / "second")
            start = time.monotonic()
            quick = rca("triage", "--config", str(shop.folder.config_file), "--last", "10m", "--json")
            assert quick.returncode == 0, quick.stderr
            if not os.environ.get("PYTEST_XDIST_WORKER"):  # a machine that runs other tests tells nothing about time
                assert time.monotonic() - start < 5
            for words in (["guess", "evening", "payment"], ["fixed", "evening"]):
                said = rca("gameday", *words, "--who", "ada", "--store", str(home))
                assert said.returncode == 0, said.stderr
            output, _ = running.communicate(timeout=240)
        finally:
            running.kill()
    assert running.returncode == 0, output
    day = load(home, "evening")
    (injected,) = day.injections
    assert (day.state, injected.incident_id) == ("complete", "evening-01-latency-payment"), output
    assert injected.injection.culprit == EntityId("service", "payment")
    assert injected.fixed_ns is not None
    assert injected.alerts_ns is not None, output
    assert [(guess.number, guess.entity.name) for guess in day.guesses] == [(1, "payment")]
    with IncidentStore(home) as store:
        incident, telemetry = store.get("evening-01-latency-payment")
    assert [(label.name(), label.provenance) for label in incident.labels] == [("payment", "injected")]
    assert injected.injection.start_ns < injected.alerts_ns < incident.window.end_ns
    assert telemetry.bin_counts["time_unix_nano"].max() >= incident.window.end_ns  # type: ignore[operator]
    ports = [pod.admin_port for pod in shop.status().pods_of("payment")]
    assert [requests.get(f"http://127.0.0.1:{port}/chaos", timeout=5).json() for port in ports] == [[]]
    _check_report(shop, home, folder / "reports")


def _check_report(shop: Shop, home: Path, reports: Path) -> None:
    """The game day ends in a report of its scores."""
    scored = ["score", "evening", "--ranker", "floor", "--config", str(shop.folder.config_file)]
    for words in (scored, ["report", "evening", "--out", str(reports)]):
        said = rca("gameday", *words, "--store", str(home))
        assert said.returncode == 0, said.stderr
    text = (reports / "gameday-evening.md").read_text(encoding="utf-8")
    assert "1 of 1 injection" in text
    assert (reports / "gameday-evening.html").exists()


def _injected_at(home: Path, running: subprocess.Popen[str]) -> float:
    """When the fault of the game day began; 0 if it has not."""
    assert running.poll() is None, running.communicate()[0]
    if "evening" not in names(home):
        return 0
    day = load(home, "evening")
    return day.injections[0].injection.start_ns / SECOND_NS if day.injections else 0


def test_all_sources_of_the_shop_work(shop: Shop) -> None:
    done = rca("doctor", "--config", str(shop.folder.config_file))
    assert done.returncode == 0, done.stdout + done.stderr
    for source in ("prometheus", "alertmanager", "kubernetes", "store"):
        assert source in done.stdout
