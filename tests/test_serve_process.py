"""The command `rca serve` with real peers: a real Alertmanager posts to it, and kill -9 loses nothing."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests

from rca.collectors.config import load_config
from rca.errors import BadInput
from rca.incidents.inbox import InboxFile
from rca.incidents.store import IncidentStore
from rca.sinks.destinations import sinks_at
from tests.servers.otlp import Observed, attributes, observed
from tests.servers.prometheus import alertmanager, free_port
from tests.servers.receiver import Receiver, receiving
from tests.servers.serve import SECRET, ServeProcess, serve_process
from tests.serving import notification, until

_ALERTMANAGER = """
route:
  receiver: rca
  group_by: [alertname]
  group_wait: 100ms
  group_interval: 1s
  repeat_interval: 1h
receivers:
- name: rca
  webhook_configs:
  - url: {url}/v1/alertmanager
    send_resolved: true
    http_config:
      authorization:
        credentials: {secret}
"""
_BEGAN = time.time() - 60
AUTHORIZED = {"Authorization": f"Bearer {SECRET}"}


def fire(url: str, name: str, *, service: str = "checkout", began: float = _BEGAN, resolved: bool = False) -> None:
    """Tell Alertmanager of an alert, as Prometheus does."""
    since = datetime.fromtimestamp(began, UTC).isoformat()
    alert: dict[str, Any] = {"labels": {"alertname": name, "service": service}, "startsAt": since}
    alert["annotations"] = {"summary": f"{service} answers slowly"}
    if resolved:
        alert["endsAt"] = datetime.now(UTC).isoformat()
    requests.post(f"{url}/api/v2/alerts", json=[alert], timeout=10).raise_for_status()


def incidents(server: ServeProcess) -> list[Any]:
    answer = requests.get(f"{server.url}/v1/incidents?limit=200", headers=AUTHORIZED, timeout=20)
    answer.raise_for_status()
    found: list[Any] = answer.json()["incidents"]
    return found


def test_a_real_alertmanager_posts_and_two_of_them_are_one(tmp_path: Path) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    with (
        receiving() as receiver,
        serve_process(tmp_path / "rca", free_port(), prometheus=nowhere, receiver=receiver.url) as server,
        alertmanager(tmp_path / "one", _ALERTMANAGER.format(url=server.url, secret=SECRET)) as one,
        alertmanager(tmp_path / "two", _ALERTMANAGER.format(url=server.url, secret=SECRET)) as two,
    ):
        for url in (one, two):
            fire(url, "HighLatency")
        until(lambda: receiver.messages)
        time.sleep(1)
        (incident,) = incidents(server)
        assert incident["group_key"] == '{}:{alertname="HighLatency"}'
        assert (incident["alerts"], incident["firing"]) == (1, 1)
        (message,) = receiver.messages.values()
        assert (message["state"], message["report"]) == ("firing", None)
        assert message["trouble"].startswith("no source answered: prometheus:")
        for url in (one, two):
            fire(url, "HighLatency", resolved=True)
        until(lambda: len(receiver.messages) == 2)
        assert incidents(server)[0]["state"] == "resolved"
        assert server.end() == 0
        assert "ended" in server.log()
        assert SECRET not in server.log()

        fire(one, "ErrorRate")  # nobody listens; Alertmanager tries again
        time.sleep(0.5)
        server.start()
        until(lambda: len(incidents(server)) == 2, 30)


def test_from_a_real_prometheus_and_alertmanager_to_a_message_a_page_and_a_label(
    tmp_path: Path, shop_prometheus: tuple[str, int]
) -> None:
    url, end_s = shop_prometheus
    with (
        receiving() as receiver,
        observed() as collector,
        serve_process(
            tmp_path / "rca",
            free_port(),
            prometheus=url,
            receiver=receiver.url,
            more=f'[observe]\nenabled = true\nendpoint = "{collector.url}"\ninterval = "1s"\n',
        ) as server,
        alertmanager(tmp_path / "alertmanager", _ALERTMANAGER.format(url=server.url, secret=SECRET)) as source,
    ):
        fire(source, "HighLatency", service="web", began=end_s - 300)
        until(lambda: receiver.messages, 60)
        (message,) = receiver.messages.values()
        assert message["trouble"] == ""
        assert message["report"]["ranking"]["candidates"][0]["entity"]["name"] == "pay"
        page = message["links"]["page"]
        assert page.startswith(server.url)
        until(lambda: "csrf" in requests.get(page, auth=("tester", SECRET), timeout=60).text)
        shown = requests.get(page, auth=("tester", SECRET), timeout=60).text
        token = shown.split('name="csrf" value="')[1].split('"')[0]
        blamed = shown.split('name="verdict" value="confirm"><input type="hidden" name="entity" value="')[1].split('"')[0]
        form = {"csrf": token, "verdict": "confirm", "entity": blamed, "fault_kind": "unknown"}
        said = until(
            lambda: (done := requests.post(f"{page}/judgement", data=form, auth=("tester", SECRET), timeout=60)).ok and done
        )
        assert "Thank you" in said.text
        assert SECRET not in shown + said.text + server.log()
        with IncidentStore(server.home) as store:
            (label,) = store.incident(message["incident_id"]).labels
        assert (label.name(), label.provenance, label.author) == ("pay", "confirmed", "tester")
        assert (
            'rca_serve_agreement_total{outcome="agrees"} 1'
            in requests.get(f"{server.url}/metrics", headers=AUTHORIZED, timeout=20).text
        )
        until(lambda: {"rank", "deliver", "store"} <= {span.name for span in collector.spans()})
        check_trace(collector, message)
        until(lambda: "rca.serve.agreement" in collector.metrics())
        until(  # looked at when nobody waits
            lambda: "rca_serve_drift_incidents 1\n" in requests.get(f"{server.url}/metrics", headers=AUTHORIZED, timeout=20).text
        )
        until(lambda: "rca.serve.drift_incidents" in collector.metrics())


def check_trace(collector: Observed, message: Any) -> None:
    """One ranking is one trace through both processes; it says which graph, window and model, and names no service."""
    spans = {span.name: span for span in reversed(collector.spans())}
    rank = spans["rank"]
    below = [span.name for span in collector.spans() if span.trace_id == rank.trace_id and span.parent_span_id == rank.span_id]
    assert below[:5] == ["collect", "build graph", "score", "explain", "store"]
    graph, window = attributes(spans["build graph"]), message["report"]["ranking"]["window"]
    assert len(graph["rca.graph.id"]) == 16
    assert (graph["rca.window.start_ns"], graph["rca.window.end_ns"]) == (window["start_ns"], window["end_ns"])
    assert attributes(spans["score"])["rca.model.id"] == message["report"]["ranking"]["ranker"]
    assert attributes(spans["deliver"])["rca.incident.id"] == message["incident_id"]
    told = "".join(request.body.decode(errors="replace") for request in collector.receiver.requests)
    assert "HighLatency" not in told
    assert "checkout" not in told


def test_kill_9_in_the_middle_of_a_replay_loses_nothing(tmp_path: Path) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    groups, alerts = 60, 10
    with (
        receiving() as receiver,
        serve_process(tmp_path, free_port(), prometheus=nowhere, receiver=receiver.url) as server,
        requests.Session() as session,
    ):
        session.headers.update(AUTHORIZED)
        waiting = [(group, alert) for alert in range(alerts) for group in range(groups)]
        acknowledged = []
        killed = False
        while waiting:
            if len(acknowledged) >= len(waiting) and not killed:
                children = ranking_children(server.process.pid if server.process else 0)
                server.kill()
                killed = True
                until(lambda: children and not any(Path(f"/proc/{child}").exists() for child in children))  # noqa: B023
                server.start()
            try:
                answer = session.post(f"{server.url}/v1/alertmanager", json=one_alert(*waiting[0]), timeout=20)
            except requests.ConnectionError:
                continue
            assert answer.status_code in (200, 503)
            if answer.status_code == 200:
                acknowledged.append(waiting.pop(0))
        until(lambda: len({key for key in receiver.messages if key.endswith(":1")}) == groups, 60)
        server.end()
        check(server, receiver, groups, alerts)


def one_alert(group: int, alert: int) -> dict[str, Any]:
    whole = notification(f"g{group}")
    whole["alerts"][0] |= {"fingerprint": f"{group}-{alert}"}
    return whole


def check(server: ServeProcess, receiver: Receiver, groups: int, alerts: int) -> None:
    """Every alert is there once, every group is one incident, and a receiver that drops repeats saw one message of each."""
    file = InboxFile(server.home)
    try:
        episodes = file.episodes(most=10**6)
        assert len(episodes) == groups
        for episode in episodes:
            assert (episode.alerts, len(file.alerts(episode.number, 1000))) == (alerts, alerts)
            assert [notice.revision for notice in file.notices(episode.number)] == [1]
        assert set(receiver.messages) == {f"{episode.incident_id}:1" for episode in episodes}
    finally:
        file.close()


_REDACTED = '[sinks.partner]\nkind = "webhook"\nredact = true\nurl = "{url}"\nsecret_file = "{folder}/secret"\n'


def test_a_sink_that_was_down_hears_of_everything(tmp_path: Path) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    with (
        receiving() as receiver,
        receiving() as partner,
        serve_process(
            tmp_path,
            free_port(),
            prometheus=nowhere,
            receiver=receiver.url,
            more=_REDACTED.format(url=partner.url, folder=tmp_path),
        ) as server,
    ):
        receiver.down = True
        for group in range(3):
            requests.post(f"{server.url}/v1/alertmanager", json=notification(f"g{group}"), headers=AUTHORIZED, timeout=20)
        until(lambda: [each["revision"] for each in incidents(server)] == [1, 1, 1])
        until(lambda: len(partner.messages) == 3)
        assert re.search(r"WARNING rca\.serve\.worker: shop-\S+: no source answered", server.log())
        server.kill()
        receiver.down = False
        server.start()
        until(lambda: len(receiver.messages) == 3, 60)
        requests.post(f"{server.url}/v1/alertmanager", json=notification("g3"), headers=AUTHORIZED, timeout=20)
        until(lambda: len(partner.messages) == 4)
        entities = {message["alerts"][0]["entity"] for message in partner.messages.values()}
        assert len(entities) == 1, "pseudonyms outlive a start"
        assert not entities & {message["alerts"][0]["entity"] for message in receiver.messages.values()}


def ranking_children(parent: int) -> list[int]:
    """Processes that were started by that one; they are to end with it."""
    if not Path(f"/proc/{parent}/task/{parent}/children").exists():
        pytest.skip("this kernel does not tell of children")
    tasks = [Path(f"/proc/{parent}/task/{task.name}/children") for task in Path(f"/proc/{parent}/task").iterdir()]
    return [int(child) for task in tasks for child in task.read_text(encoding="utf-8").split()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[serve]\naddress = '0.0.0.0:0'", "expected access_file"),
        ("[serve]\naddres = 'x'", "did you mean 'address'"),
        ("[prometheus]\nurl = 'http://a'\n[serve]\naddress = '127.0.0.1:0'\n[sinks.slak]\n", "slack"),
        ("[serve]\nlimits = { body = '1GiB' }", "limits.pending"),
    ],
)
def test_mistakes_in_the_configuration_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "rca.toml").write_text(text)
    with pytest.raises(BadInput) as raised:
        sinks_at(tmp_path, load_config(tmp_path / "rca.toml").sinks)
    assert message in str(raised.value)


def test_a_server_without_a_source_ends_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "rca.toml").write_text("[serve]\naddress = '127.0.0.1:0'")
    command = [sys.executable, "-m", "rca", "serve", "--config", str(tmp_path / "rca.toml"), "--store", str(tmp_path / "home")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert "expected at least one source" in done.stderr


def test_help_and_triage_load_no_web_server() -> None:
    script = (
        "import sys; from rca.cli.main import app; "
        "from typer.testing import CliRunner; CliRunner().invoke(app, ['serve', '--help']); import rca.cli.triage, rca.pipeline; "
        "print([name for name in ('fastapi', 'starlette', 'uvicorn', 'jinja2', 'apprise') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
