"""`rca serve` from a notification to its answers: ranked, revised once, closed, labelled; refused where that is right."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import requests
from hypothesis import HealthCheck, given
from hypothesis import settings as limits
from hypothesis import strategies as st

from rca.collectors.config import Config
from rca.collectors.prometheus.config import PrometheusConfig
from rca.errors import BadInput, Overloaded, RcaError, Rejected, Unavailable
from rca.incidents import inbox as inbox_module
from rca.incidents.inbox import GroupAlert, InboxFile
from rca.incidents.incident import IntervalModel, Label
from rca.incidents.store import IncidentStore
from rca.models.rules.floor import Floor
from rca.serve import site
from rca.serve.asking import Asked, AskedGroup, Asker, of_late, usable_ranker
from rca.serve.auth import Access, Audit, Sites
from rca.serve.config import ServeConfig, ServeLimits
from rca.serve.inbox import Inbox
from rca.serve.labelling import judged
from rca.serve.metrics import Metrics
from rca.serve.notices import gist_of
from rca.serve.payload import group_of
from rca.serve.process import AskingProcess
from rca.serve.sending import Sender, wait_s
from rca.serve.server import Punctual, Server
from rca.serve.worker import Worker
from rca.sinks.notice import Notice, dumped
from rca.telemetry import MINUTE_NS, SECOND_NS
from tests.recorded import failing
from tests.servers.certificates import self_signed
from tests.servers.prometheus import free_port
from tests.serving import Here, Remembering, body, config, failing_with, notification, recent, rfc3339, serving, until

JSON = {"Content-Type": "application/json"}
DOWN = [failing("prometheus", Unavailable("connection refused"))]


def post(server: Server, content: Any, **more: Any) -> requests.Response:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    options = {"headers": JSON, "timeout": 20, **more}
    return requests.post(f"{server.url}/v1/alertmanager", data=data, **options)


def get(server: Server, path: str, **more: Any) -> Any:
    response = requests.get(server.url + path, timeout=20, **more)
    assert response.status_code == 200, response.text
    return response.json()


def incident_of(server: Server, incident_id: str) -> Any:
    return get(server, f"/v1/incidents/{incident_id}")


def answered(server: Server, incident_id: str, revision: int = 1) -> Any:
    """The incident, once it has that revision."""

    def there() -> Any:
        found = incident_of(server, incident_id)
        return found if found["incident"]["revision"] >= revision else None

    return until(there)


# --- from an alert to its answers ------------------------------------------------------------------------------------


def test_an_alert_is_ranked_told_labelled_and_closed(tmp_path: Path) -> None:
    onset, sources = recent()
    sink = Remembering()
    began = rfc3339(onset + 60 * SECOND_NS)
    with serving(tmp_path, sources=sources, sinks=[sink]) as server:
        taken = post(server, notification(service="frontend", began=began))
        assert taken.status_code == 200
        incident_id = taken.json()["incident"]
        until(lambda: sink.sent)
        (notice,) = sink.sent
        assert (notice.incident_id, notice.revision, notice.state, notice.trouble) == (incident_id, 1, "firing", "")
        assert notice.report is not None
        assert notice.report.ranking.candidates[0].entity.name == "payment"
        assert notice.report.incident.id == incident_id
        assert notice.report.path is not None
        assert notice.report.path.entities[0].name == "frontend"
        assert notice.links.page == f"{server.url}/incidents/{incident_id}"
        assert notice.links.runbooks == (("runbook", "https://runbooks.example/latency"),)
        assert notice.alerts[0].entity == "service:frontend"

        found = until(lambda: (each := incident_of(server, incident_id)) and each["deliveries"][0]["state"] == "sent" and each)
        assert found["incident"]["answer"]["candidates"][0]["name"] == "payment"
        assert get(server, f"/v1/rankings/{incident_id}")["report"]["ranking"]["ranker"] == "floor"
        assert get(server, "/v1/rankings")["rankings"][0]["incident"] == incident_id
        assert get(server, f"/v1/rankings?incident={incident_id}")["rankings"][0]["revision"] == 1
        assert [each["id"] for each in get(server, "/v1/incidents?state=firing&q=slowly")["incidents"]] == [incident_id]

        until(lambda: label(server, incident_id, "confirm").status_code == 200)
        with IncidentStore(tmp_path) as store:
            (given_label,) = store.incident(incident_id).labels
        assert (given_label.name(), given_label.provenance) == ("payment", "confirmed")

        assert post(server, notification(service="frontend", began=began, status="resolved")).json()["news"] == 1
        until(lambda: len(sink.sent) == 2)
        last = sink.sent[1]
        assert (last.revision, last.state, last.report) == (2, "resolved", notice.report)
        assert "resolved" in last.news[0]
        assert sink.befores == [None, f"message of {incident_id}"]
        assert incident_of(server, incident_id)["incident"]["state"] == "resolved"


def label(server: Server, incident_id: str, verdict: str, **more: Any) -> requests.Response:
    return requests.post(f"{server.url}/v1/labels", json={"incident": incident_id, "verdict": verdict, **more}, timeout=20)


def labels(home: Path, incident_id: str) -> list[tuple[str, str, str]]:
    with IncidentStore(home) as store:
        return [(each.name(), each.fault_kind, each.provenance) for each in store.incident(incident_id).labels]


def test_verdicts_become_labels_and_take_each_others_place(tmp_path: Path) -> None:
    onset, sources = recent()
    with serving(tmp_path, sources=sources, audit_file=tmp_path / "audit.jsonl") as server:
        incident_id = post(server, notification(began=rfc3339(onset))).json()["incident"]
        until(lambda: label(server, incident_id, "confirm", fault_kind="cpu_contention").status_code == 200)
        assert labels(tmp_path, incident_id) == [("payment", "cpu_contention", "confirmed")]
        assert label(server, incident_id, "confirm", fault_kind="cpu_contention").json()["changed"] is False
        assert label(server, incident_id, "correct", entity="cart", note="it was the cart").json()["changed"] is True
        assert labels(tmp_path, incident_id) == [
            ("payment", "cpu_contention", "disputed"),
            ("cart", "unknown", "confirmed"),
        ]
        assert label(server, incident_id, "correct", entity="catalogue", also=True).status_code == 200
        assert [name for name, _, provenance in labels(tmp_path, incident_id) if provenance == "confirmed"] == [
            "cart",
            "catalogue",
        ]
        assert label(server, incident_id, "correct", entity="cart", fault_kind="exception").status_code == 200
        assert ("cart", "exception", "confirmed") in labels(tmp_path, incident_id)
        assert label(server, incident_id, "no_fault", fault_kind="traffic_surge").status_code == 200
        standing = [each for each in labels(tmp_path, incident_id) if each[2] != "disputed"]
        assert standing == [("no_fault", "traffic_surge", "confirmed")]
        assert label(server, incident_id, "withdraw").status_code == 200
        assert [each for each in labels(tmp_path, incident_id) if each[2] != "disputed"] == []
        assert get(server, "/v1/labels")["incidents"][0]["incident"] == incident_id
        assert get(server, f"/v1/labels?incident={incident_id}")["incidents"][0]["labels"]

        label(server, incident_id, "confirm", fault_kind="cpu_contention")
        before = labels(tmp_path, incident_id)
        for wrong, message in (
            ({"verdict": "correct"}, "who it was"),
            ({"verdict": "correct", "entity": "cart", "fault_kind": "noisy_neighbour"}, "to name node"),
            ({"verdict": "correct", "entity": "nobody-of-that-name"}, "nobody-of-that-name"),
            ({"verdict": "correct", "entity": "cart", "fault_kind": "gremlins"}, "gremlins"),
            ({"verdict": "confirm", "fault_kind": "traffic_surge"}, "a fault of somebody"),
            ({"verdict": "no_fault", "fault_kind": "exception"}, "nobody is to blame"),
            ({"verdict": "blame"}, "verdict"),
            ({"verdict": "confirm", "colour": "red"}, "colour"),
            ({"verdict": "confirm", "note": "x" * 2000}, "note"),
        ):
            refused = requests.post(f"{server.url}/v1/labels", json={"incident": incident_id, **wrong}, timeout=20)
            assert refused.status_code in (404, 422), refused.text
            assert message in refused.json()["detail"]
        assert labels(tmp_path, incident_id) == before, "what is refused changes nothing"
        assert label(server, "nope", "confirm").status_code == 404
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [line["action"] for line in lines][:2] == ["label confirm", "label confirm"]
    assert incident_id in lines[0]["target"]
    assert stat.S_IMODE((tmp_path / "audit.jsonl").stat().st_mode) == 0o600


def test_it_is_revised_once_if_another_takes_the_lead(tmp_path: Path) -> None:
    onset, sources = recent("payment")
    _, others = recent("cart")
    sink = Remembering()
    asked: list[Asked] = []

    def again(question: Asked) -> None:
        asked.append(question)
        if len(asked) == 2:
            sources[0].telemetry = others[0].telemetry  # type: ignore[attr-defined]

    with serving(tmp_path, sources=sources, sinks=[sink], fault=again, revise_after="500ms") as server:
        incident_id = post(server, notification(began=rfc3339(onset))).json()["incident"]
        until(lambda: len(sink.sent) == 2)
        first, second = sink.sent
        assert (first.revision, second.revision, second.state) == (1, 2, "firing")
        assert second.report is not None
        assert second.report.ranking.candidates[0].entity.name == "cart"
        assert any("cart is first now" in news for news in second.news)
        time.sleep(0.8)
        assert len(asked) == 2
        assert incident_of(server, incident_id)["incident"]["revision"] == 2


def test_nobody_is_told_again_if_nothing_changed_and_the_page_shows_what_was_looked_at_last(tmp_path: Path) -> None:
    onset, sources = recent()
    telemetry = sources[0].telemetry  # type: ignore[attr-defined]
    sink = Remembering()
    asked: list[Asked] = []

    def later(question: Asked) -> None:
        """Every number of the second look is another one than of the first."""
        asked.append(question)
        metrics = telemetry.metrics.with_columns(pl.col("value") * (1 + len(asked) / 10))
        sources[0].telemetry = replace(telemetry, metrics=metrics)  # type: ignore[attr-defined]

    with serving(tmp_path, sources=sources, sinks=[sink], fault=later, revise_after="500ms") as server:
        incident_id = post(server, notification(began=rfc3339(onset))).json()["incident"]
        detail = answered(server, incident_id, 2)
        time.sleep(0.7)
        assert (len(asked), len(sink.sent)) == (2, 1)
        assert [(each["revision"], each["state"]) for each in detail["deliveries"]] == [(1, "sent")]
        address = f"{server.url}/incidents/{incident_id}"
        page = until(lambda: "Loudest signals" in (text := requests.get(address, timeout=60).text) and text)
        first, second = (get(server, f"/v1/rankings/{incident_id}?revision={n}")["report"]["ranking"] for n in (1, 2))
        assert first["candidates"][0]["evidence"] != second["candidates"][0]["evidence"]
        assert page.count("<figure") == len(second["candidates"][0]["evidence"]) - 1  # an event has no series


def test_alerts_that_join_make_it_look_again_at_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "JOINED_NS", 0)
    onset, sources = recent("payment")
    _, others = recent("cart")
    sink = Remembering()
    asked: list[Asked] = []
    with serving(tmp_path, sources=sources, sinks=[sink], fault=asked.append, revise_after="500ms") as server:
        began = notification(began=rfc3339(onset - 3600 * SECOND_NS))  # an alert that has fired for an hour, and goes on
        incident_id = post(server, began).json()["incident"]
        answered(server, incident_id, 2)
        sources[0].telemetry = others[0].telemetry  # type: ignore[attr-defined]
        joined = notification(began=rfc3339(onset))
        joined["alerts"][0] |= {"fingerprint": "another"}
        assert post(server, joined).json()["incident"] == incident_id
        until(lambda: sink.sent[-1].report and "cart is first now" in " ".join(sink.sent[-1].news))
        until(lambda: len(asked) == 4)
        time.sleep(0.7)
        assert len(asked) == 4, "once for what joined, and once more"
        assert len(sink.sent[-1].alerts) == 2
    alerts = tuple(GroupAlert(f"a{minute}", "firing", onset + minute * MINUTE_NS) for minute in (0, 50, 60))
    assert of_late(alerts, 30 * MINUTE_NS) == alerts[1:]
    assert of_late(alerts, 61 * MINUTE_NS) == alerts


def test_telemetry_that_people_labelled_stays(tmp_path: Path) -> None:
    onset, sources = recent("payment")
    asker = Asker(config(), tmp_path, sources=sources, ranker=Floor())
    group = AskedGroup("i", "t", (GroupAlert("a", "firing", onset, labels={"alertname": "A", "service": "frontend"}),))
    _, incident, telemetry = asker.find(Asked((group,), 20 * SECOND_NS))
    assert asker.keep(incident, telemetry).bundle == "i"
    window = IntervalModel(start_ns=incident.window.end_ns, end_ns=incident.window.end_ns + 60 * SECOND_NS)
    later = incident.model_copy(update={"window": window})
    assert asker.keep(later, telemetry).bundle == "i", "nobody has said anything yet"
    assert asker.keep(incident, telemetry).bundle == "i"
    with IncidentStore(tmp_path) as store:
        store.label("i", Label(fault_kind="no_fault", provenance="confirmed"))
    assert asker.keep(incident, telemetry).bundle == "i"
    assert "what was labelled stays" in asker.keep(later, telemetry).trouble
    with IncidentStore(tmp_path) as store:
        assert store.incident("i").window == incident.window


def test_groups_that_wait_together_are_ranked_together_and_told_each(tmp_path: Path) -> None:
    onset, sources = recent()
    sink = Remembering()
    asked: list[Asked] = []

    def slowly(question: Asked) -> None:
        asked.append(question)
        if len(asked) == 1:
            time.sleep(1)

    services = ("frontend", "checkout", "cart")
    with serving(tmp_path, sources=sources, sinks=[sink], fault=slowly) as server:
        first = post(server, notification("first", began=rfc3339(onset))).json()["incident"]
        until(lambda: asked)
        ids = [post(server, notification(name, service=name, began=rfc3339(onset))).json()["incident"] for name in services]
        until(lambda: len(sink.sent) == 4)
        assert [len(question.groups) for question in asked] == [1, 3]
        assert {notice.incident_id for notice in sink.sent} == {first, *ids}
        by_id = {notice.incident_id: notice for notice in sink.sent}
        for incident_id, service in zip(ids, services, strict=True):
            report = by_id[incident_id].report
            assert report is not None
            assert report.incident.id == incident_id
            assert [entity.name for entity in report.incident.alerting] == [service]
        assert until(lambda: label(server, ids[2], "confirm").status_code == 200)
        assert labels(tmp_path, ids[0]) == [("payment", "unknown", "confirmed")]  # their telemetry is one


@pytest.mark.parametrize(
    "error",
    [Unavailable("no ranking within 20 s"), Unavailable("the ranking process ended"), BadInput("x", expected="y", found="z")],
)
def test_without_a_ranking_the_trouble_is_told_and_a_ranking_later(tmp_path: Path, error: RcaError) -> None:
    onset, sources = recent()
    sink = Remembering()
    asked: list[Asked] = []

    def at_first(question: Asked) -> None:
        asked.append(question)
        if len(asked) < 3:
            raise error

    with serving(tmp_path, sources=sources, sinks=[sink], fault=at_first, revise_after="300ms") as server:
        incident_id = post(server, notification(began=rfc3339(onset))).json()["incident"]
        until(lambda: len(sink.sent) == 2)
        assert (sink.sent[0].report, sink.sent[0].trouble) == (None, str(error))
        assert sink.sent[1].report is not None
        assert sink.sent[1].news[0] == "there is a ranking now"
        assert incident_of(server, incident_id)["answers"][0]["trouble"] == str(error)


def test_a_mistake_of_ours_keeps_nobody_else_waiting(tmp_path: Path) -> None:
    onset, sources = recent()
    sink = Remembering()

    def broken(question: Asked) -> None:
        if "poison" in question.groups[0].alerts[0].labels["service"]:
            raise ZeroDivisionError

    with serving(tmp_path, sources=sources, sinks=[sink], fault=broken) as server:
        post(server, notification("poison", service="poison", began=rfc3339(onset)))
        time.sleep(0.3)
        fine = post(server, notification("fine", began=rfc3339(onset))).json()["incident"]
        until(lambda: [notice.incident_id for notice in sink.sent] == [fine])
        assert requests.get(f"{server.url}/readyz", timeout=20).status_code == 200


def test_a_mistake_about_one_group_keeps_those_beside_it_waiting_no_longer(tmp_path: Path) -> None:
    onset, sources = recent()
    sink = Remembering()
    asked: list[Asked] = []

    def broken(question: Asked) -> None:
        asked.append(question)
        if len(asked) == 1:
            time.sleep(0.5)  # meanwhile the others arrive
        if any(group.alerts[0].labels["service"] == "poison" for group in question.groups):
            raise ZeroDivisionError

    with serving(tmp_path, sources=sources, sinks=[sink], fault=broken) as server:
        first = post(server, notification("first", began=rfc3339(onset))).json()["incident"]
        until(lambda: asked)
        post(server, notification("poison", service="poison", began=rfc3339(onset)))
        ids = [post(server, notification(name, service=name, began=rfc3339(onset))).json()["incident"] for name in ("a", "b")]
        until(lambda: len(sink.sent) == 3)
        assert [len(question.groups) for question in asked][:2] == [1, 3]
        assert {notice.incident_id for notice in sink.sent} == {first, *ids}


@pytest.mark.parametrize("labelled", [True, False])
def test_labels_stay_in_sight_when_the_second_look_has_other_telemetry(tmp_path: Path, labelled: bool) -> None:
    """Two groups were ranked together; one of them is looked at again alone, and its telemetry is stored under its own id."""
    onset, sources = recent()
    now = [time.time_ns()]
    settings = config()
    inbox = Inbox(tmp_path, "shop", wall_ns=lambda: now[0])
    asking = Here(Asker(settings, tmp_path, sources=sources, ranker=Floor()))
    worker = Worker(inbox, asking, settings.serve, [], Metrics(), wall_ns=lambda: now[0])

    def told(name: str, began: int, status: str = "firing") -> str:
        group = group_of(body(group=name, began=rfc3339(began), status=status), ServeLimits())
        return inbox.take(group).result().incident_id or ""

    with inbox.reading() as file:
        early, late = told("early", onset), told("late", onset + 60 * SECOND_NS)
        assert worker.step(file)
        assert {file.episode(each).bundle for each in (early, late)} == {early}
        if labelled:
            judged(tmp_path, early, "no_fault", Label(entity=None, fault_kind="no_fault", provenance="confirmed"), who="anna")
        told("early", onset, "resolved")
        now[0] += 3600 * SECOND_NS
        while worker.step(file):
            pass
        assert [len(question.groups) for question in asking.asked] == [2, 1]
        assert file.episode(late).bundle == (early if labelled else late)
    inbox.close()


def test_an_incident_that_goes_on_after_its_end_was_told_is_told_to(tmp_path: Path) -> None:
    onset, sources = recent()
    sink = Remembering()
    whole = notification("g", alerts=2, began=rfc3339(onset))
    with serving(tmp_path, sources=sources, sinks=[sink]) as server:
        post(server, whole)
        until(lambda: len(sink.sent) == 1)
        one = notification("g", alerts=2, began=rfc3339(onset), status="resolved")
        post(server, {**one, "alerts": one["alerts"][:1]})  # the other one was silenced
        until(lambda: len(sink.sent) == 2)
        post(server, {**whole, "alerts": whole["alerts"][1:]})
        until(lambda: len(sink.sent) == 3)
        assert [(notice.revision, notice.state) for notice in sink.sent] == [(1, "firing"), (2, "resolved"), (3, "firing")]
        assert "fire again" in sink.sent[2].news[0]
        assert len({notice.incident_id for notice in sink.sent}) == 1


def test_a_label_needs_telemetry(tmp_path: Path) -> None:
    with serving(tmp_path, sources=DOWN) as server:
        incident_id = post(server, notification()).json()["incident"]
        found = answered(server, incident_id)
        assert found["incident"]["answer"]["trouble"] == "no source answered: prometheus: connection refused"
        refused = label(server, incident_id, "no_fault")
        assert refused.status_code == 409
        assert "cannot be labelled" in refused.json()["detail"]


def test_what_was_not_done_is_done_after_a_restart(tmp_path: Path) -> None:
    """A sink that is down when the server ends gets its messages from the next one, in order and under the same keys."""
    onset, sources = recent()
    down = Remembering(fault=failing_with(Unavailable("connection refused")))
    with serving(tmp_path, sources=sources, sinks=[down]) as server:
        incident_id = post(server, notification(began=rfc3339(onset))).json()["incident"]
        answered(server, incident_id)
        post(server, notification(began=rfc3339(onset), status="resolved"))
        answered(server, incident_id, 2)
        until(lambda: incident_of(server, incident_id)["deliveries"][0]["tries"])
    up = Remembering()
    with serving(tmp_path, sources=sources, sinks=[up]):
        until(lambda: len(up.sent) == 2)
    assert [notice.idempotency_key for notice in up.sent] == [f"{incident_id}:1", f"{incident_id}:2"]


# --- sinks that fail -------------------------------------------------------------------------------------------------


def test_a_sink_that_refuses_is_not_asked_again_and_others_are_told(tmp_path: Path) -> None:
    onset, sources = recent()
    refusing = Remembering("refusing", failing_with(Rejected("HTTP 404: no such channel")))
    odd = Remembering("odd", failing_with(ZeroDivisionError("a bug")))  # type: ignore[arg-type]
    fine = Remembering("fine")
    with serving(tmp_path, sources=sources, sinks=[refusing, odd, fine]) as server:
        incident_id = post(server, notification(began=rfc3339(onset))).json()["incident"]

        def settled() -> Any:
            found = {each["sink"]: each for each in incident_of(server, incident_id)["deliveries"]}
            return found if found and all(each["tries"] for each in found.values()) else None

        found = until(settled)
        assert (found["refusing"]["state"], found["refusing"]["trouble"]) == ("given up", "HTTP 404: no such channel")
        assert (found["odd"]["state"], found["odd"]["trouble"]) == ("waiting", "ZeroDivisionError: a bug")
        assert found["fine"]["state"] == "sent"
        text = requests.get(f"{server.url}/metrics", timeout=20).text
        assert 'rca_serve_deliveries_total{outcome="given up"} 1' in text
        assert "rca_serve_waiting_deliveries 1" in text


def test_maintenance_is_declared_by_a_file(tmp_path: Path) -> None:
    declared = tmp_path / "maintenance"
    with serving(tmp_path / "home", maintenance_file=declared) as server:

        def figures() -> dict[str, str]:
            lines = requests.get(f"{server.url}/metrics", timeout=20).text.splitlines()
            return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))

        assert figures()["rca_serve_maintenance"] == "0"
        declared.touch()
        assert figures()["rca_serve_maintenance"] == "1"
        assert until(lambda: "rca_serve_model_replaced" in figures()), "once something ranks"
        assert figures()["rca_serve_model_replaced"] == "0"
        assert "rca_serve_telemetry_age_seconds" not in figures(), "nothing is collected here"


def test_how_long_a_sink_is_left_alone() -> None:
    waits = [wait_s(tries, Unavailable("down")) for tries in range(8)]
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (1.0, 60.0)
    assert sum(wait_s(tries, Unavailable("down")) for tries in range(70)) > 3600  # an hour down takes fewer than 70 tries
    assert wait_s(0, Overloaded("slow down", 300.0)) == 300.0


def test_a_sink_that_is_down_for_an_hour_hears_of_everything_in_order(tmp_path: Path) -> None:
    now = [time.time_ns()]
    began = now[0]

    def down(_notice: Any) -> None:
        if now[0] < began + 3600 * SECOND_NS:
            raise Unavailable("connection refused")

    sink = Remembering(fault=down)
    inbox = Inbox(tmp_path, "shop", wall_ns=lambda: now[0])
    sender = Sender(inbox, sink, Metrics(), wall_ns=lambda: now[0])
    with inbox.reading() as file:
        incident_id = inbox.take(group_of(body(), ServeLimits())).result().incident_id
        number = file.episode(incident_id or "").number
        for revision in (1, 2):
            notice = Notice(incident_id=incident_id or "", group_key="g", revision=revision, state="firing", title="slow")
            tell(inbox, number, notice, now[0])
        tries = 0
        while len(sink.sent) < 2:
            tries += sender.step(file)
            now[0] = max(now[0] + SECOND_NS, file.next_delivery_ns("remembering") or 0)
            assert now[0] < began + 3720 * SECOND_NS
        assert tries < 80
        assert [notice.idempotency_key for notice in sink.sent] == [f"{incident_id}:1", f"{incident_id}:2"]
        assert sink.befores == [None, f"message of {incident_id}"]

        tell(inbox, number, Notice(incident_id="x", group_key="g", revision=3, state="firing", title="slow"), now[0])
        began = now[0] + 10**18  # for good
        for _ in range(24 * 6 + 2):
            sender.step(file)
            now[0] += 600 * SECOND_NS
        (last,) = [each for each in file.deliveries(number) if each.revision == 3]
        assert (last.state, last.trouble) == ("given up", "connection refused")
    inbox.close()


def tell(inbox: Inbox, number: int, notice: Notice, now_ns: int) -> None:
    def told(file: InboxFile) -> None:
        gist = json.dumps(gist_of(notice))
        body = dumped(notice)
        file.answered(number, notice.revision, "firing", gist, body, ["remembering"], now_ns, task=None, due_ns=None)

    inbox.write(told)


def test_a_message_that_cannot_be_noted_is_not_sent_twice(tmp_path: Path) -> None:
    """Slack and e-mail would show every repetition, a second apart, for as long as the disk takes nothing."""
    sink = Remembering()
    inbox = Inbox(tmp_path, "shop")
    sender = Sender(inbox, sink, Metrics())
    with inbox.reading() as file:
        incident_id = inbox.take(group_of(body(), ServeLimits())).result().incident_id or ""
        number = file.episode(incident_id).number
        tell(inbox, number, Notice(incident_id=incident_id, group_key="g", revision=1, state="firing", title="slow"), 1)
        inbox._file._db.execute("PRAGMA query_only = 1")
        for _ in range(3):
            with pytest.raises(BadInput, match="a place that can be written"):
                sender.step(file)
        inbox._file._db.execute("PRAGMA query_only = 0")
        assert sender.step(file)
        assert not sender.step(file)
        (delivery,) = file.deliveries(number)
        assert (delivery.state, delivery.reference, len(sink.sent)) == ("sent", f"message of {incident_id}", 1)
    inbox.close()


# --- what is refused -------------------------------------------------------------------------------------------------


def test_the_log_shows_that_a_sender_is_set_up_wrongly_and_does_not_fill_up(
    idle: Server, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        assert post(idle, {**notification(), "version": "3"}).status_code == 422
    shown = [record.getMessage() for record in caplog.records if "was refused" in record.getMessage()]
    assert shown == ["a notification from 127.0.0.1 was refused (422): version: expected \"4\", found '3'"]


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose sources are down, so that nothing keeps it busy."""
    with serving(tmp_path_factory.mktemp("idle"), sources=DOWN, limits={"body": "8MiB", "pending": "16MiB"}) as server:
        yield server


@pytest.mark.parametrize(
    ("content", "headers", "status", "message"),
    [
        (b"{", {}, 400, "expected JSON"),
        (b"\xff", {}, 400, "expected JSON"),
        (b"[]", {}, 422, "expected a JSON object"),
        (body(version="5"), {}, 422, "version"),
        (body(alerts=0), {}, 422, "alerts"),
        (body(began="yesterday"), {}, 422, "startsAt"),
        (body(), {"Content-Type": "text/plain"}, 415, "application/json"),
        (body(), {"Content-Type": "application/x-www-form-urlencoded"}, 415, "application/json"),
        (body(), {"Content-Encoding": "gzip"}, 415, "Content-Encoding"),
        (b"x" * (8 * 2**20 + 1), {}, 413, "at most 8,388,608 bytes"),
    ],
)
def test_bad_notifications_are_refused_by_name(
    idle: Server, content: bytes, headers: dict[str, str], status: int, message: str
) -> None:
    response = post(idle, content, headers={**JSON, **headers})
    assert response.status_code == status
    assert message in response.json()["detail"]


def test_a_body_that_does_not_say_how_long_it_is_is_limited_too(idle: Server) -> None:
    parts = (b"x" * 2**16 for _ in range(256))
    response = requests.post(f"{idle.url}/v1/alertmanager", data=parts, headers=JSON, timeout=20)
    assert response.status_code == 413


def test_a_poisoned_alert_is_stored_as_text(idle: Server) -> None:
    poison = "<script>alert(1)</script>\x1b[31m [link](javascript:alert(1)) \u202e " + "x" * 2**20
    whole = notification("poison")
    whole["alerts"][0]["labels"] |= {"service": poison, "alertname": poison}
    whole["alerts"][0]["annotations"] = {"summary": poison, "runbook_url": "javascript:alert(1)"}
    response = post(idle, whole)
    assert response.status_code == 200
    found = incident_of(idle, response.json()["incident"])
    assert found["alerts"][0]["labels"]["service"].startswith("<script>")
    assert len(json.dumps(found)) < 50_000
    page = requests.get(f"{idle.url}/incidents/{response.json()['incident']}", timeout=20)
    assert page.status_code == 200
    assert "<script>" not in page.text
    assert "javascript:alert" not in page.text.replace("(javascript:alert(1))", "")
    assert "\x1b" not in page.text


@pytest.mark.parametrize(
    "path",
    [
        "/incidents/../../etc/passwd",
        "/incidents/..%2f..%2fetc%2fpasswd",
        "/v1/incidents/..%2f..%2finbox.sqlite3",
        "/v1/incidents/.%00",
        "/v1/rankings/%2e%2e",
        "//etc/passwd",
        "/static/../../rca.toml",
        "/incidents/" + "a" * 5000,
    ],
)
def test_no_path_leads_out(idle: Server, path: str) -> None:
    host, port = "127.0.0.1", idle.port
    with socket.create_connection((host, port), timeout=20) as line:
        line.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: line.recv(65536), b""))
    assert answer.split()[1] in (b"404", b"422"), answer[:200]
    assert b"root:" not in answer
    assert b"SQLite" not in answer


def test_other_methods_and_paths_are_refused(idle: Server) -> None:
    refused = requests.get(f"{idle.url}/v1/alertmanager", timeout=20)
    assert (refused.status_code, refused.headers["Allow"]) == (405, "POST")
    assert requests.get(f"{idle.url}/v1/nothing", timeout=20).status_code == 404
    assert requests.get(f"{idle.url}/docs", timeout=20).status_code == 404


def test_a_head_without_end_is_cut_off(idle: Server) -> None:
    with socket.create_connection(("127.0.0.1", idle.port), timeout=20) as line:
        line.sendall(b"GET / HTTP/1.1\r\n" + b"X-Long: " + b"a" * 100_000)
        assert b"400" in line.recv(65536)


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "null"},
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:80"},
        {"Host": "[::1"},
    ],
)
def test_pages_of_other_sites_can_do_nothing(idle: Server, headers: dict[str, str]) -> None:
    assert post(idle, body(), headers={**JSON, **headers}).status_code == 403
    given = {"incident": "a", "verdict": "no_fault"}
    assert requests.post(f"{idle.url}/v1/labels", json=given, headers=headers, timeout=20).status_code == 403
    form = {"verdict": "no_fault"}
    assert requests.post(f"{idle.url}/incidents/a/judgement", data=form, headers=headers, timeout=20).status_code == 403


def test_a_form_needs_its_token(tmp_path: Path) -> None:
    onset, sources = recent()
    with serving(tmp_path, sources=sources) as server:
        incident_id = post(server, notification(began=rfc3339(onset))).json()["incident"]
        until(lambda: label(server, incident_id, "confirm").status_code == 200)
        label(server, incident_id, "withdraw", entity="payment")
        page = requests.get(f"{server.url}/incidents/{incident_id}", timeout=30).text
        token = page.split('name="csrf" value="')[1].split('"')[0]
        url = f"{server.url}/incidents/{incident_id}/judgement"
        form = {"verdict": "correct", "entity": "service||cart", "fault_kind": "unknown"}
        for wrong in ({}, {"csrf": ""}, {"csrf": "0" * 64}, {"csrf": "ü"}):
            refused = requests.post(url, data={**form, **wrong}, timeout=30)
            assert refused.status_code == 403
            assert "out of date" in refused.text
        assert labels(tmp_path, incident_id) == []
        done = requests.post(url, data={**form, "csrf": token}, headers={"Sec-Fetch-Site": "same-origin"}, timeout=30)
        assert done.status_code == 200
        assert done.url.endswith(f"/incidents/{incident_id}?said")
        assert labels(tmp_path, incident_id) == [("cart", "unknown", "confirmed")]


def test_answers_tell_browsers_to_be_careful(idle: Server) -> None:
    for path in ("/v1/incidents", "/incidents", "/healthz", "/nothing"):
        headers = requests.get(idle.url + path, timeout=20).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers


# --- who is let in ---------------------------------------------------------------------------------------------------

SECRETS = {"send": "s" * 20, "read": "r" * 20, "label": "l" * 20}


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[Server, Path]]:
    access = tmp_path / "access"
    access.write_text("# who\n" + "".join(f"{role} {role}er {secret}\n" for role, secret in SECRETS.items()))
    with serving(tmp_path / "home", sources=DOWN, access_file=access, audit_file=tmp_path / "audit") as server:
        yield server, access


@pytest.mark.parametrize("scheme", ["bearer", "basic"])
def test_roles(guarded: tuple[Server, Path], scheme: str) -> None:
    server, _ = guarded

    def options(role: str) -> dict[str, Any]:
        if scheme == "basic":
            return {"auth": (f"{role}er", SECRETS[role])}
        return {"headers": {"Authorization": f"Bearer {SECRETS[role]}"}}

    def statuses(role: str) -> list[int]:
        given = {"incident": "a", "verdict": "no_fault"}
        headers = {**JSON, **options(role).get("headers", {})}
        return [
            post(server, body(), **{**options(role), "headers": headers}).status_code,
            requests.get(f"{server.url}/v1/incidents", timeout=20, **options(role)).status_code,
            requests.get(f"{server.url}/incidents", timeout=20, **options(role)).status_code,
            requests.get(f"{server.url}/metrics", timeout=20, **options(role)).status_code,
            requests.post(f"{server.url}/v1/labels", json=given, timeout=20, **options(role)).status_code,
        ]

    assert statuses("send") == [200, 403, 403, 403, 403]
    assert statuses("read") == [403, 200, 200, 200, 403]
    assert statuses("label") == [403, 200, 200, 200, 404]
    assert requests.get(f"{server.url}/healthz", timeout=20).status_code == 200
    assert requests.get(f"{server.url}/readyz", timeout=20).status_code == 200


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer " + "x" * 20, "Basic !!!", "Basic " + "eA==", "Digest abc", "Bearer " + "s" * 19, "bearer ü"],
)
def test_a_wrong_secret_is_refused_and_written_down(guarded: tuple[Server, Path], authorization: str | None) -> None:
    server, access = guarded
    headers = JSON if authorization is None else {**JSON, "Authorization": authorization.encode("utf-8")}
    response = post(server, body(), headers=headers)
    assert response.status_code == 401
    assert "Basic" in response.headers["WWW-Authenticate"]
    line = json.loads((access.parent / "audit").read_text().splitlines()[-1])
    assert (line["action"], line["target"], line["address"]) == ("refused", "/v1/alertmanager", "127.0.0.1")
    assert not any(secret in (access.parent / "audit").read_text() for secret in SECRETS.values())


def test_secrets_rotate_and_a_list_that_cannot_be_read_is_for_the_moment(guarded: tuple[Server, Path]) -> None:
    server, access = guarded

    def status(secret: str) -> int:
        return post(server, body(), headers={**JSON, "Authorization": f"Bearer {secret}"}).status_code

    access.write_text(f"send alertmanager {'n' * 24}\n")
    assert (status(SECRETS["send"]), status("n" * 24)) == (401, 200)
    access.unlink()
    assert status("n" * 24) == 503  # Alertmanager tries again; a 401 would drop the alert for good
    access.write_text("send alertmanager short\n")
    assert status("short") == 503


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an empty file"),
        ("admin me " + "x" * 20, "line 1: expected ROLE NAME SECRET"),
        ("# fine\nread me", "line 2"),
        ("read me hunter2", "a secret of 16 characters or more, found 7"),
    ],
)
def test_a_list_of_those_to_let_in_is_checked(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "access"
    path.write_text(text)
    with pytest.raises(BadInput, match=message) as caught:
        Access(path)
    assert "hunter2" not in str(caught.value)


def test_beyond_loopback_there_is_a_list_of_those_to_let_in() -> None:
    with pytest.raises(ValueError, match="expected access_file"):
        ServeConfig(address="0.0.0.0:9095")
    assert ServeConfig(address="0.0.0.0:9095", access_file=Path("x")).url() == "http://0.0.0.0:9095"


def test_a_flood_of_refusals_does_not_fill_the_disk(tmp_path: Path) -> None:
    now = [0.0]
    audit = Audit(tmp_path / "audit", clock=lambda: now[0])
    for _ in range(10_000):
        audit.refused("no or a wrong secret", who="", address="10.0.0.1", target="/x" * 5000)
    assert len((tmp_path / "audit").read_text().splitlines()) == 20
    now[0] = 60.0
    audit.refused("no or a wrong secret", who="", address="10.0.0.2", target="/")
    lines = [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]
    assert lines[-2]["outcome"] == "9980 more in a minute"
    assert all(len(json.dumps(line)) < 500 for line in lines)


ORIGINS = st.sampled_from(
    [None, "null", "http://rca.example", "https://rca.example", "http://evil.example", "http://rca.example.evil"]
)


@limits(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ORIGINS, st.sampled_from([None, "none", "same-origin", "same-site", "cross-site", "odd"]))
def test_what_comes_from_elsewhere_is_refused(origin: str | None, site: str | None) -> None:
    sites = Sites("https://rca.example", any_host=True)
    headers = {"host": "rca.example"} | ({"origin": origin} if origin else {}) | ({"sec-fetch-site": site} if site else {})
    refused = bool(sites.refusal("POST", "http", headers))
    known = site in (None, "none", "same-origin")
    ours = origin in (None, "http://rca.example", "https://rca.example") or (origin == "null" and site is not None)
    assert refused == (not (known and ours))
    assert not sites.refusal("GET", "http", headers)


def test_pages_lie_where_a_proxy_has_them(tmp_path: Path) -> None:
    with serving(tmp_path, sources=DOWN, external_url="https://ops.example/rca") as server:
        own = f"http://127.0.0.1:{server.port}"
        sent = requests.post(f"{own}/v1/alertmanager", data=body(), headers=JSON, timeout=20).json()
        for path in ("/incidents", f"/incidents/{sent['incident']}", "/incidents/nothing"):
            links = re.findall(r'(?:href|action)="(/[^"]*)"', requests.get(own + path, timeout=20).text)
            assert links
            assert all(link.startswith("/rca/incidents") for link in links)


def test_tls(tmp_path: Path) -> None:
    cert, key = self_signed(tmp_path)
    with serving(tmp_path / "home", sources=DOWN, tls={"cert_file": cert, "key_file": key}) as server:
        assert server.url.startswith("https://")
        assert post(server, body(), verify=str(cert)).status_code == 200


def test_who_has_no_certificate_is_not_let_in_where_one_is_asked_for(tmp_path: Path) -> None:
    cert, key = self_signed(tmp_path)
    tls = {"cert_file": cert, "key_file": key, "client_ca_file": cert}
    with serving(tmp_path / "home", sources=DOWN, tls=tls) as server:
        assert post(server, body(), verify=str(cert), cert=(str(cert), str(key))).status_code == 200
        with pytest.raises(requests.ConnectionError):
            post(server, body(), verify=str(cert))


@pytest.mark.parametrize(
    ("settings_of", "message"),
    [
        (
            lambda home: {"tls": {"cert_file": home / "none", "key_file": home / "none"}},
            "its key, found .*/none, which cannot be",
        ),
        (lambda home: {"access_file": home / "none"}, "a file of those to let in"),
        (lambda home: {"audit_file": home / "no" / "such" / "folder"}, "audit log cannot be written"),
        (lambda home: {"address": "localhost:99999"}, "up to 65535"),
    ],
)
def test_settings_that_cannot_be_used_are_named(tmp_path: Path, settings_of: Callable[[Path], Any], message: str) -> None:
    with pytest.raises((RcaError, ValueError), match=message), serving(tmp_path / "home", sources=DOWN, **settings_of(tmp_path)):
        pass
    with serving(tmp_path / "home", sources=DOWN):  # and nothing of it is left locked
        pass


# --- more than there is room for -------------------------------------------------------------------------------------


def test_load_is_shed_by_503_alone(tmp_path: Path) -> None:
    over = threading.Event()

    def busy(_asked: Asked) -> None:
        over.wait(20)
        raise Unavailable("x")

    with serving(tmp_path, sources=DOWN, fault=busy, limits={"waiting": 3}) as server:
        statuses = set()
        for i in range(40):
            response = post(server, notification(f"g{i}"))
            statuses.add(response.status_code)
            if response.status_code == 503:
                assert int(response.headers["Retry-After"]) >= 1
                break
            time.sleep(0.05)
        assert statuses == {200, 503}
        known = post(server, notification("g0"))
        assert known.status_code == 503
        over.set()
        until(lambda: post(server, notification("g0")).status_code == 200)


def test_too_many_requests_are_told_to_come_back(tmp_path: Path) -> None:
    with serving(tmp_path, sources=DOWN, limits={"requests": 2, "read_timeout": "1s"}) as server:
        lines = []
        for _ in range(2):  # two that never end
            line = socket.create_connection(("127.0.0.1", server.port), timeout=20)
            line.sendall(b"POST /v1/alertmanager HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n")
            line.sendall(b"Content-Length: 100\r\n\r\n{")
            lines.append(line)
        (refused,) = until(lambda: (found := post(server, body())).status_code == 503 and (found,))
        assert "Retry-After" in refused.headers
        assert b" 503 " in lines[0].recv(1000), "Alertmanager would not send it again after a 408"
        assert until(lambda: post(server, body()).status_code == 200)
        for line in lines:
            line.close()


def test_whoever_says_nothing_is_hung_up_on(idle: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Punctual, "head_s", 0.3)
    with socket.create_connection(("127.0.0.1", idle.port), timeout=20) as silent:
        assert silent.recv(1) == b""
    slow = socket.create_connection(("127.0.0.1", idle.port), timeout=20)
    with slow, pytest.raises(OSError, match=r"reset|pipe"):
        drip(slow)
    with socket.create_connection(("127.0.0.1", idle.port), timeout=20) as fine:
        for _ in range(2):
            fine.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert b" 200 " in fine.recv(4096)
            time.sleep(0.5)


def drip(line: socket.socket) -> None:
    for _ in range(200):
        line.sendall(b"a")
        time.sleep(0.05)


def test_shed_requests_of_others_are_no_shed_notifications(tmp_path: Path) -> None:
    with serving(tmp_path, sources=DOWN, limits={"requests": 1, "read_timeout": "2s"}) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as line:
            line.sendall(b"POST /v1/labels HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n")
            line.sendall(b"Content-Length: 100\r\n\r\n{")
            (refused,) = until(lambda: (each := requests.get(f"{server.url}/healthz", timeout=20)).status_code == 503 and (each,))
            assert refused.headers["X-Content-Type-Options"] == "nosniff"
            assert post(server, body()).status_code == 503
        text = until(lambda: (found := requests.get(f"{server.url}/metrics", timeout=20)).ok and found.text)
        assert 'rca_serve_notifications_total{outcome="told to wait"} 1\n' in text


def test_pages_that_take_long_keep_no_notification_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    shown = site._list

    def slowly(*given: Any) -> Any:
        over.wait(60)
        return shown(*given)

    monkeypatch.setattr(site, "_list", slowly)
    with serving(tmp_path, sources=DOWN) as server, ThreadPoolExecutor(60) as people:
        try:
            pages = [people.submit(requests.get, f"{server.url}/incidents", timeout=60) for _ in range(60)]
            large = notification(alerts=300)
            assert len(json.dumps(large)) > 64 * 2**10, "large enough to be read in a thread"
            assert post(server, large).status_code == 200
            assert requests.get(f"{server.url}/readyz", timeout=20).status_code in (200, 503)
            assert not any(page.done() for page in pages)
        finally:
            over.set()
        assert {page.result().status_code for page in pages} == {200}


def test_ten_thousand_alerts_at_once_are_one_message(tmp_path: Path) -> None:
    onset, sources = recent()
    sink = Remembering()
    with serving(tmp_path, sources=sources, sinks=[sink]) as server:
        taken = post(server, notification(alerts=10_000, began=rfc3339(onset), truncatedAlerts=500), timeout=60)
        assert taken.json()["news"] == 10_000
        until(lambda: sink.sent, 60)
        (notice,) = sink.sent
        assert len(notice.alerts) == 100
        assert notice.more_alerts == 9_900 + 500


def test_many_senders_at_once(tmp_path: Path) -> None:
    with serving(tmp_path, sources=DOWN) as server, ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(lambda i: post(server, notification(f"g{i % 50}")).status_code, range(200)))
        assert set(statuses) == {200}
        listed = get(server, "/v1/incidents?limit=200")["incidents"]
        assert len(listed) == 50


# --- the process that ranks ------------------------------------------------------------------------------------------


def asked(deadline_s: float = 20.0) -> Asked:
    alerts = group_of(body(), ServeLimits()).alerts
    return Asked((AskedGroup("shop-1", "slow", alerts),), int(deadline_s * SECOND_NS))


def unanswered(timeout: str = "5s") -> Config:
    url = f"http://127.0.0.1:{free_port()}"
    return Config(prometheus=PrometheusConfig.model_validate({"url": url, "retries": 0, "timeout": timeout}))


def test_prometheus_down_is_said(tmp_path: Path) -> None:
    process = AskingProcess(unanswered(), tmp_path)
    try:
        assert process.start().model
        with pytest.raises(Unavailable, match=r"no source answered: prometheus: .*refused"):
            process.find(asked())
    finally:
        process.stop()


def test_a_deadline_ends_the_process_and_another_one_begins(tmp_path: Path) -> None:
    process = AskingProcess(unanswered(), tmp_path)
    try:
        process.start()
        os.kill(process._process.pid, signal.SIGSTOP)  # it answers nothing, whatever it is asked
        began = time.monotonic()
        with pytest.raises(Unavailable, match=r"no ranking within 0\.5 s"):
            process.find(asked(0.5))
        assert time.monotonic() - began < 5
        process.start()
        process._process.kill()
        with pytest.raises(Unavailable, match="ended"):
            process.find(asked())
        assert process.restarts == 2
        with pytest.raises(Unavailable, match="no source answered"):
            process.find(asked())
    finally:
        process.stop()
    with pytest.raises(Unavailable, match="ending"):
        process.start()


def test_without_a_usable_model_the_label_free_score_ranks_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RCA_MODEL", str(tmp_path / "no model"))
    ranker, trouble = usable_ranker()
    assert ranker.name == "floor"
    assert "no model" in trouble
    onset, sources = recent()
    asker = Asker(config(), tmp_path, sources=sources)
    alerts = group_of(body(began=rfc3339(onset)), ServeLimits()).alerts
    found, _, _ = asker.find(Asked((AskedGroup("shop-1", "slow", alerts),), 20 * SECOND_NS))
    assert found.reports["shop-1"].ranking.notes[-1] == trouble
    assert asker.ranks().trouble == trouble
