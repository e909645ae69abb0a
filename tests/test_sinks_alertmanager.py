"""A real Alertmanager takes our alert, passes on what changed in it, and sees it end with its incident."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rca.collectors.alert_labels import OWN_ALERT
from rca.collectors.alertmanager.collector import AlertmanagerCollector
from rca.collectors.alertmanager.config import AlertmanagerConfig as CollectorConfig
from rca.errors import Rejected
from rca.sinks.alertmanager.alert import ALERT_NAME
from rca.sinks.destinations import sinks_of
from rca.sinks.example import example_notices
from rca.sinks.notice import Notice, Sink
from rca.telemetry import SECOND_NS
from rca.testing import check_sink
from tests.servers.prometheus import alertmanager, free_port
from tests.servers.receivers import Receiver, Reply, receiving

CONFIG = """\
route:
  receiver: team
  group_by: [alertname, incident]
  group_wait: 0s
  group_interval: 1s
receivers:
- name: team
  webhook_configs:
  - url: {url}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Receiver]]:
    with (
        receiving() as receiver,
        alertmanager(tmp_path_factory.mktemp("am") / "alertmanager", CONFIG.format(url=receiver.url)) as url,
    ):
        yield url, receiver


def _sink(url: str, **settings: Any) -> Sink:
    (sink,) = sinks_of({"alertmanager": {"url": url, "timeout": "2s", "deadline": "300ms", **settings}})
    return sink


def _now(incident: str, minutes: float = 5) -> tuple[Notice, Notice, Notice]:
    """The example as an incident that began some minutes ago."""
    started = time.time_ns() - round(minutes * 60) * SECOND_NS
    first, revised, resolved = (
        replace(notice, incident_id=incident, alerts=tuple(replace(alert, starts_ns=started) for alert in notice.alerts))
        for notice in example_notices()
    )
    return first, revised, resolved


def _alerts(url: str, incident: str) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{url}/api/v2/alerts?filter=incident%3D%22{incident}%22") as response:
        found: list[dict[str, Any]] = json.load(response)
        return found


def _until(found: Callable[[], Any], what: str, wait_s: float = 20) -> Any:
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        if value := found():
            return value
        time.sleep(0.1)
    raise AssertionError(f"never came: {what}")


def test_it_keeps_the_contract(server: tuple[str, Receiver]) -> None:
    def refuse(_: object) -> Reply:
        return Reply(401, b"no such tenant")

    with receiving(refuse) as closed:
        check_sink(
            _sink(server[0]),
            unreachable=_sink(f"http://127.0.0.1:{free_port()}", headers={"X-Scope-OrgID": "s3cr3t"}),
            refused=_sink(closed.url, headers={"X-Scope-OrgID": "s3cr3t"}),
            secrets=("s3cr3t",),
        )


def test_it_fires_changes_and_ends(server: tuple[str, Receiver]) -> None:
    url, receiver = server
    first, revised, resolved = _now("inc-1")
    sink = _sink(url, labels={"team": "shop"}, severity="none")
    assert sink.send(first, None).reference == "inc-1"
    (alert,) = _alerts(url, "inc-1")
    assert alert["labels"] == {"alertname": "RootCauseFound", "incident": "inc-1", "severity": "none", "team": "shop"}
    assert alert["annotations"]["cause"] == "shop/catalogue"
    assert alert["annotations"]["probability"] == "58 %"
    assert alert["generatorURL"] == first.links.page

    sink.send(revised, "inc-1")
    (alert,) = _alerts(url, "inc-1")
    assert alert["annotations"]["probability"] == "93 %"

    def told(status: str) -> list[dict[str, Any]]:
        bodies = [request.json() for request in receiver.requests]
        return [body for body in bodies if body["groupLabels"]["incident"] == "inc-1" and body["status"] == status]

    _until(lambda: told("firing"), "the alert at the receiver")
    sink.send(resolved, "inc-1")
    assert _alerts(url, "inc-1") == [], "Alertmanager counts it as resolved at once"
    over = _until(lambda: told("resolved"), "the end at the receiver")
    assert over[-1]["commonAnnotations"]["summary"].startswith("Resolved. Likely shop/catalogue (93 %)")


def test_it_ends_by_itself(server: tuple[str, Receiver]) -> None:
    first, *_ = _now("inc-2")
    _sink(server[0], lasts="2s").send(first, None)
    assert len(_alerts(server[0], "inc-2")) == 1
    _until(lambda: not _alerts(server[0], "inc-2"), "the end after `lasts`")


def test_resolved_before_firing_is_no_news(server: tuple[str, Receiver]) -> None:
    _, _, resolved = _now("inc-3")
    _sink(server[0]).send(resolved, None)
    assert _alerts(server[0], "inc-3") == []


def test_an_alert_about_a_ranking_is_no_symptom_in_the_next(server: tuple[str, Receiver]) -> None:
    first, *_ = _now("inc-4")
    _sink(server[0], labels={"service": "catalogue"}).send(first, None)
    collector = AlertmanagerCollector(CollectorConfig(url=server[0], filters=('incident="inc-4"',)))
    telemetry = collector.collect(first.alerts[0].starts_ns - SECOND_NS, time.time_ns())
    assert len(_alerts(server[0], "inc-4")) == 1
    assert telemetry.alerts.is_empty()
    assert telemetry.gaps == ()
    assert ALERT_NAME == OWN_ALERT


def test_what_alertmanager_refuses(server: tuple[str, Receiver]) -> None:
    first, *_ = _now("inc-5")
    with pytest.raises(Rejected, match="alertmanager: HTTP 400"):
        _sink(server[0], labels={"not a name": "x"}).send(first, None)


def test_a_prefix_that_lacks(server: tuple[str, Receiver], tmp_path: Path) -> None:
    first, *_ = _now("inc-6")
    with pytest.raises(Rejected, match="HTTP 404"):
        _sink(f"{server[0]}/prefix").send(first, None)
