"""The shop from up to down: two faults injected, telemetry collected live from every source, the culprits ranked.

The first fault goes all the way: its alerts from a real Prometheus rule through a real Alertmanager to `rca serve`, whose message
names the culprit and links to a page, on which somebody confirms it in a real browser.
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
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
import requests
import yaml

from rca.incidents.bundle import read_bundle
from rca.incidents.store import IncidentStore
from rca.shop.client import Shop
from rca.shop.installed import binary
from tests.servers.browser import confirmed, opened
from tests.servers.prometheus import free_port
from tests.servers.receiver import Receiver, receiving
from tests.servers.serve import SECRET, ServeProcess
from tests.serving import until

ROOT: Final = Path(__file__).parents[1]
QUIET_S, FAULT_S, SETTLE_S = 60, 40, 20
FAULTS: Final = (("crash_loop", "recommendation"), ("latency", "payment"))

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
    """A message names the culprit; the click on its page is a label in the store."""
    message = until(lambda: _message_about(receiver, target), 60)
    assert message["state"] == "firing"
    until(lambda: "Yes, it was" in requests.get(message["links"]["page"], auth=("tester", SECRET), timeout=60).text, 60)
    with opened(message["links"]["page"], "tester", SECRET) as page:
        assert confirmed(page).endswith(target)
    with IncidentStore(server.home) as store:
        labels = [label for incident in store.list() for label in store.incident(incident.id).labels]
    assert [(label.name(), label.provenance, label.author) for label in labels] == [(target, "confirmed", "tester")]


def test_two_faults_are_found_from_live_telemetry(shop: Shop, tmp_path: Path) -> None:
    config = str(shop.folder.config_file)
    for number, (fault, target) in enumerate(FAULTS):
        with receiving() as receiver, serving(shop, tmp_path / "serve", receiver) if number == 0 else nullcontext() as server:
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
            if server is not None:
                _answered_and_confirmed(receiver, server, target)
        if number == 1:
            start = time.monotonic()
            quick = rca("triage", "--config", config, "--last", "10m", "--json")
            assert quick.returncode == 0, quick.stderr
            if not os.environ.get("PYTEST_XDIST_WORKER"):  # a machine that runs other tests tells nothing about time
                assert time.monotonic() - start < 5
        cleared = rca("shop", "clear", "--run", str(shop.folder.path))
        assert cleared.returncode == 0, cleared.stderr
        shop.wait_ready(120)
        if number + 1 < len(FAULTS):
            time.sleep(SETTLE_S)


def test_all_sources_of_the_shop_work(shop: Shop) -> None:
    done = rca("doctor", "--config", str(shop.folder.config_file))
    assert done.returncode == 0, done.stdout + done.stderr
    for source in ("prometheus", "alertmanager", "kubernetes", "store"):
        assert source in done.stdout
