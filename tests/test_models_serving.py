"""`rca serve` and versions of models: promoted, rolled back and put into shadow while it runs."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from typer.testing import CliRunner

from rca.cli.main import app
from rca.contracts import Case
from rca.incidents.incident import EntityModel, Label
from rca.incidents.store import IncidentStore
from rca.models import shipped
from rca.models.rules.floor import Floor
from rca.models.rules.loudest import MaxZ
from rca.models.shipped import shipped_folder, shipped_ranker
from rca.models.versions import FOLDER, STATE_FILE, Versions
from rca.ranking import Ranking
from rca.serve import asking
from rca.serve.answered import shadow_pairs
from rca.serve.asking import Asked, AskedGroup, Asker, Ranks
from rca.serve.config import ServeLimits
from rca.serve.payload import group_of
from rca.telemetry import SECOND_NS
from tests.servers.prometheus import free_port
from tests.servers.receiver import receiving
from tests.servers.serve import ServeProcess, serve_process
from tests.serving import body, config, notification, recent, rfc3339, serving, until
from tests.test_serve_process import AUTHORIZED, ranking_children
from tests.versions import registered


@pytest.fixture(autouse=True)
def _a_model_ships(monkeypatch: pytest.MonkeyPatch) -> None:
    if shipped_folder() is None:
        pytest.skip("no model ships")
    monkeypatch.delenv(shipped.VARIABLE, raising=False)


def models(server: ServeProcess) -> list[Any]:
    answer = requests.get(f"{server.url}/v1/models", headers=AUTHORIZED, timeout=20)
    answer.raise_for_status()
    found: list[Any] = answer.json()["models"]
    return found


def run(home: Path, *words: str) -> str:
    done = CliRunner().invoke(app, ["models", *words, "--store", str(home)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_drill_promote_roll_back_and_a_damaged_model_without_a_restart(tmp_path: Path) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    with receiving() as receiver, serve_process(tmp_path, free_port(), prometheus=nowhere, receiver=receiver.url) as server:
        one, two = registered(server.home, "one", "two")
        ships = shipped_ranker().name
        until(lambda: models(server) and models(server)[0]["id"] == ships)
        children = ranking_children(server.process.pid if server.process else 0)
        run(server.home, "promote", one.id, "--force", "a drill")
        (found,) = until(lambda: (now := models(server))[0]["id"] == one.model.id and now)
        assert (found["version"], found["role"], found["trouble"]) == (one.id, "current", "")
        run(server.home, "shadow", two.id)
        beside = until(lambda: len(now := models(server)) == 2 and now)[1]
        assert (beside["id"], beside["version"], beside["role"]) == (two.model.id, two.id, "shadow")

        run(server.home, "promote", two.id, "--force", "a drill")
        until(lambda: [each["version"] for each in models(server)] == [two.id])
        run(server.home, "rollback")
        until(lambda: models(server)[0]["id"] == one.model.id)

        next(two.folder.glob("*.onnx")).write_bytes(b"junk")
        versions = Versions(server.home)
        versions._move(versions.state(), "promote", two.id, None, "past the check of the command")
        kept = until(lambda: (now := models(server))[0]["trouble"] and now)[0]
        assert (kept["id"], kept["version"]) == (one.model.id, one.id)
        assert kept["trouble"].startswith(f"the model that was promoted, so {one.model.id} went on ranking: ")
        metrics = requests.get(f"{server.url}/metrics", headers=AUTHORIZED, timeout=20).text
        assert "rca_serve_model_replaced 1" in metrics

        run(server.home, "rollback")
        until(lambda: models(server)[0]["trouble"] == "")
        run(server.home, "rollback", "--to", "shipped")
        until(lambda: [(each["id"], each["version"]) for each in models(server)] == [(ships, "")])
        assert ranking_children(server.process.pid if server.process else 0) == children, "nothing was started anew"


def question(onset: int) -> Asked:
    alerts = group_of(body(began=rfc3339(onset)), ServeLimits()).alerts
    return Asked((AskedGroup("shop-1", "slow", alerts),), 20 * SECOND_NS)


def test_the_next_question_is_answered_by_what_was_promoted_meanwhile(tmp_path: Path) -> None:
    onset, sources = recent()
    versions = Versions(tmp_path)
    (one,) = registered(tmp_path, "one")
    asker = Asker(config(), tmp_path, sources=sources)
    found, _, _ = asker.find(question(onset))
    assert found.model == shipped_ranker().name
    versions.promote(one, expected=versions.state(), why="")
    found, _, _ = asker.find(question(onset))
    assert found.model == one.model.id
    assert asker.ranks().version == one.id
    assert Asker(config(), tmp_path, sources=sources).ranks().version == one.id
    for file in one.folder.glob("*.onnx"):
        file.unlink()
    versions._move(versions.state(), "shadow", one.id, one.id, "past the check of the command")
    found, incident, telemetry = asker.find(question(onset))
    assert found.model == one.model.id, "what cannot be read any more leaves what ranks"
    assert "went on ranking" in found.reports["shop-1"].ranking.notes[-1]
    shadow = asker.keep(incident, telemetry).shadow
    assert shadow is not None
    assert (shadow.version, shadow.ranking) == (one.id, None)
    assert "readable file" in shadow.trouble


def test_a_model_that_is_named_does_not_follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, sources = recent()
    one, two = registered(tmp_path, "one", "two")
    monkeypatch.setenv(shipped.VARIABLE, str(two.folder))
    asker = Asker(config(), tmp_path, sources=sources)
    versions = Versions(tmp_path)
    versions.promote(one, expected=versions.state(), why="")
    asker.refresh()
    assert (asker.ranks().model, asker.ranks().version) == (two.model.id, "")


class Blind(MaxZ):
    """A rule in the place of a version, so that the two do not agree."""

    name = "blind"

    def rank(self, case: Case) -> Ranking:
        ranking = super().rank(case)
        return replace(ranking, ranker="blind", candidates=ranking.candidates[::-1])


class Fails(Floor):
    name = "fails"

    def rank(self, case: Case) -> Ranking:
        raise ZeroDivisionError(f"of {len(case.graph.entities)}")


def test_a_question_that_a_model_fails_at_is_left_to_the_label_free_score(tmp_path: Path) -> None:
    onset, sources = recent()
    found, _, _ = Asker(config(), tmp_path, sources=sources, ranker=Fails()).find(question(onset))
    assert found.model == "floor"
    note = found.reports["shop-1"].ranking.notes[-1]
    assert note.startswith("the model, so the label-free score ranked: ZeroDivisionError: of ")


def test_what_is_promoted_while_a_model_is_read_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, sources = recent()
    (one,) = registered(tmp_path, "one")
    versions, read = Versions(tmp_path), asking.usable_ranker

    def overtaken(home: Path | None = None) -> Any:
        found = read(home)
        versions.promote(one, expected=versions.state(), why="")
        return found

    monkeypatch.setattr(asking, "usable_ranker", overtaken)
    asker = Asker(config(), tmp_path, sources=sources)
    asker.refresh()
    assert asker.ranks().version == one.id


def test_what_cannot_be_looked_up_is_no_shadow(tmp_path: Path) -> None:
    _, sources = recent()
    asker = Asker(config(), tmp_path, sources=sources)
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / STATE_FILE).write_text("junk")
    asker.refresh()
    assert "went on ranking" in asker.ranks().trouble
    assert asker.ranks().shadow is None


def test_in_shadow_another_answer_is_kept_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onset, sources = recent("payment")
    one, two, three = registered(tmp_path, "one", "two", "three")
    versions = Versions(tmp_path)
    versions.set_shadow(one, expected=versions.state())
    ranks: dict[str, Any] = {str(one.folder): Blind(), str(two.folder): Fails(), str(three.folder): Floor()}
    monkeypatch.setattr(asking, "checked", lambda folder: ranks[str(folder)])
    monkeypatch.setattr(asking, "_LEAST_FOR_SHADOW_S", asking._MOST_FOR_SHADOW_S)  # a machine may be busy
    with serving(tmp_path, sources=sources) as server:
        incident_id = requests.post(f"{server.url}/v1/alertmanager", json=notification(began=rfc3339(onset)), timeout=20).json()[
            "incident"
        ]
        (pair,) = until(lambda: shadow_pairs(tmp_path))
        assert (pair.incident_id, pair.version, pair.told.model) == (incident_id, one.id, "floor")
        assert pair.told.candidates[0].name == "payment"
        assert pair.shadow is not None
        assert (pair.shadow.model, pair.trouble) == ("blind", "")
        told = requests.get(f"{server.url}/v1/rankings/{incident_id}", timeout=20).text
        assert "blind" not in told, "nobody is told what was said in shadow"

        versions.set_shadow(two, expected=versions.state())
        requests.post(f"{server.url}/v1/alertmanager", json=notification("other", began=rfc3339(onset)), timeout=20)
        failed = until(lambda: shadow_pairs(tmp_path, two.id))[0]
        assert failed.shadow is None
        assert failed.trouble.startswith("of ")
        versions.set_shadow(three, expected=versions.state())
        requests.post(f"{server.url}/v1/alertmanager", json=notification("third", began=rfc3339(onset)), timeout=20)
        until(lambda: shadow_pairs(tmp_path, three.id))
        figures = requests.get(f"{server.url}/metrics", timeout=20).text
        for outcome in ("agrees", "differs", "failed"):
            assert f'rca_serve_shadow_answers_total{{outcome="{outcome}"}} 1' in figures
    assert "no label says who was right" in run(tmp_path, "compare", one.id)
    with IncidentStore(tmp_path, who="anna") as store:
        culprit = EntityModel(kind="service", name="payment", namespace=pair.told.candidates[0].namespace)
        store.label(incident_id, Label(entity=culprit, fault_kind="cpu_contention", provenance="confirmed"))
    said = run(tmp_path, "compare", one.id)
    assert "1 question, 1 answered" in said
    assert "both blamed the same in 0 of 1" in said
    assert "1 label with a cause: first in 0 in shadow, in 1 as told" in said
    assert f"right as told alone: {incident_id}" in said
    (compared,) = json.loads(run(tmp_path, "compare", one.id, "--json"))["comparisons"]
    assert (compared["agreed"], compared["shadow_first"], compared["told_first"]) == (0, 0, 1)
    assert "trouble: of " in run(tmp_path, "compare")


def test_a_shadow_that_takes_too_long_is_asked_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onset, sources = recent()
    released = threading.Event()

    class Slow(Floor):
        name = "slow"

        def rank(self, case: Case) -> Ranking:
            released.wait(60)
            return super().rank(case)

    (one,) = registered(tmp_path, "one")
    versions = Versions(tmp_path)
    versions.set_shadow(one, expected=versions.state())
    monkeypatch.setattr(asking, "checked", lambda _folder: Slow())
    monkeypatch.setattr(asking, "_MOST_FOR_SHADOW_S", 0.05)
    asker = Asker(config(), tmp_path, sources=sources, ranker=Floor())
    _, incident, telemetry = asker.find(question(onset))
    kept = asker.keep(incident, telemetry)
    assert kept.bundle == "shop-1"
    assert kept.shadow is not None
    assert kept.shadow.trouble.startswith("it missed the deadline")
    released.set()
    ranks: Ranks | None = asker.ranks().shadow
    assert ranks is not None
    assert "asked no more" in ranks.trouble
