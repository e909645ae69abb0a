"""`rca train --from current`: what is learnt again, what is kept aside, when it is due, and labels that are no good."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rca.cli.main import app
from rca.cli.models import NOT_DUE_EXIT_CODE
from rca.contracts import LabelledCase
from rca.errors import BadInput
from rca.evaluation import learning
from rca.evaluation.cases import Labels, from_store
from rca.evaluation.learning import doubts, in_exam, set_aside
from rca.evaluation.promotion import FEWEST_INCIDENTS
from rca.incidents.bundle import write_bundle
from rca.incidents.example import example_incident
from rca.incidents.store import IncidentStore
from rca.models import shipped
from rca.models.files import read_model
from rca.models.gnn import NetworkRanker
from rca.models.learnt import Learnt, read_learnt, write_learnt
from rca.models.reference import read_reference
from rca.models.versions import Versions
from rca.telemetry import EntityId
from tests.cases import CULPRITS, example_case, example_cases

SMALL = ["--epochs", "1", "--no-onnx", "--strength", "1"]


def run(*words: str) -> Result:
    return CliRunner().invoke(app, [*words], catch_exceptions=False)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Example incidents of two rounds."""
    folder = tmp_path_factory.mktemp("bundles")
    for seed in (3, 4):
        for kind, culprit in CULPRITS:
            incident, telemetry = example_incident(seed, kind, culprit, requests_per_second=0.5)
            name = f"{kind}-{culprit}-{seed}"
            write_bundle(folder / str(seed) / name, incident.model_copy(update={"id": name}), telemetry)
    return folder


@pytest.fixture(scope="module")
def made(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the second round; a model that learnt from the first one is in use."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RCA_HOME", str(home))
        first = run("train", "--bundles", str(bundles / "3"), "--out", str(home / "first"), "--width", "8", *SMALL, "--register")
        assert first.exit_code == 0, first.output
        (version,) = Versions(home).list()
        assert f"version {version.id}" in first.stdout
        done = run("models", "promote", version.id, "--force", "the first one")
        assert done.exit_code == 0
        assert "has no ONNX file: it ranks where torch is installed" in done.stderr
    with IncidentStore(home, who="test") as store:
        for path in sorted((bundles / "4").iterdir()):
            store.import_bundle(path)
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same to change; no model ships."""
    copy = Path(shutil.copytree(made, tmp_path / "home"))
    monkeypatch.setenv("RCA_HOME", str(copy))
    monkeypatch.chdir(copy)
    monkeypatch.delenv(shipped.VARIABLE, raising=False)
    monkeypatch.setattr(shipped, "shipped_folder", lambda: None)
    return copy


def test_what_was_learnt_before_is_learnt_again_and_listed(home: Path, bundles: Path) -> None:
    versions = Versions(home)
    current = versions.get("current")
    done = run("train", "--from", "current", "--replay", str(bundles / "3"), "--out", "second", *SMALL, "--register")
    assert done.exit_code == 0, done.output
    assert "4 new incidents, 4 cases of before learnt again" in done.stdout
    assert "graphs from 8 incidents" in done.stdout
    second = next(each for each in versions.list() if each.id != current.id)
    assert second.facts.parent == current.id
    before, after = read_reference(current.model), read_reference(second.model)
    assert before is not None
    assert after is not None
    services = before.kinds["service"] // before.graphs  # of the one shop
    assert after.kinds["service"] == services * (after.graphs + before.graphs), "what it went on from had seen is not unseen"
    assert versions.state().current == current.id, "training promotes nothing by itself"
    learnt = read_learnt(second.model)
    assert learnt is not None
    assert all(learnt.knows(path.name) for seed in (3, 4) for path in (bundles / str(seed)).iterdir())
    assert NetworkRanker.load(second.folder).data["start"]["weights"] == NetworkRanker.load(current.folder).digest()
    with pytest.raises(BadInput, match=r"evaluation of second-.* found 4 of 4 incidents that it learnt from"):
        run("models", "evaluate", second.id)
    with pytest.raises(BadInput, match="labelled incidents that no model learnt from"):
        run("models", "evaluate", second.id, "--unseen")


def test_without_what_was_learnt_before_the_new_alone_is_learnt_and_said(home: Path) -> None:
    done = run("train", "--from", "current", "--out", "second", *SMALL)
    assert "4 new incidents, 0 cases of before learnt again" in done.stdout
    with pytest.raises(BadInput, match="a model that learnt from simulated incidents"):
        run("train", "--from", "current", "--out", "second", "--replay-simulated", "2", *SMALL)
    learnt = read_learnt(Versions(home).get("current").model)
    assert learnt is not None
    model = read_model(home / "second")
    Versions(home).register(home / "second", source="test")
    run("models", "promote", "second", "--force", "a test")
    with pytest.raises(BadInput, match="incidents that it did not learn from, found none of 4"):
        run("train", "--from", "current", "--out", "third", *SMALL)
    assert read_learnt(model) != learnt


def test_a_home_that_takes_no_version_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RCA_HOME", str(tmp_path / "file"))
    with pytest.raises(BadInput, match="expected a place that can be written"):
        run("train", "--simulate", "99", "--out", str(tmp_path / "second"), "--register")


def test_simulated_cases_are_made_again() -> None:
    made = learning.simulated_cases({"seed": 1, "incidents": 2}, 5)
    assert [case.system for case in made] == [learning.SIMULATED] * 2
    assert made[0].incident_id != made[1].incident_id


def test_promotion_goes_through_the_gate(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "in_exam", lambda one, _share: one.incident.id.startswith("return"))
    done = run("train", "--from", "current", "--out", "second", *SMALL, "--promote")
    assert done.exit_code == 3
    assert f"NO   enough incidents: 1 incident with a cause in 1 group; at least {FEWEST_INCIDENTS}" in done.stdout
    versions = Versions(home)
    second = next(each for each in versions.list() if each.id.startswith("second"))
    assert versions.state().current != second.id
    learnt = read_learnt(second.model)
    assert learnt is not None
    assert not learnt.knows("return-cart-4")
    assert versions.evaluations(second.id)[0]["incidents"][0]["id"] == "return-cart-4"
    monkeypatch.setattr(learning, "in_exam", lambda _one, _share: False)
    with pytest.raises(BadInput, match=r"--promote: expected labelled incidents to judge by .*, found none of 4"):
        run("train", "--from", "current", "--out", "third", *SMALL, "--promote")


def test_the_same_incidents_are_kept_aside_every_time(home: Path) -> None:
    recorded = from_store((), home, Labels.TOLD)
    kept, aside = set_aside(recorded, 0.5, Learnt())
    assert {one.incident.id for one in kept} | {one.incident.id for one in aside} == {one.incident.id for one in recorded}
    assert all(in_exam(one, 0.5) for one in aside)
    assert [in_exam(one, 0.5) for one in recorded] == [in_exam(one, 0.5) for one in recorded]
    assert set_aside(recorded, 0.0, Learnt())[1] == []
    assert set_aside(recorded, 1.0, Learnt.of((one.incident.id, "") for one in recorded))[1] == []
    for one in aside:  # repetitions of one injection stay together, whatever their ids
        again = replace(one, incident=one.incident.model_copy(update={"id": "another"}))
        assert in_exam(again, 0.5)


# --- when it is due -----------------------------------------------------------------------------------------------------


def test_training_waits_for_labels_time_or_drift(home: Path) -> None:
    (home / "rca.toml").write_text("[training]\nlabels = 5\ndrift = false\n")
    done = run("models", "due")
    assert done.exit_code == NOT_DUE_EXIT_CODE
    assert done.stdout.startswith("not due: 4 new labels, of 5 ([training] labels); the model in use is ")
    done = run("train", "--from", "current", "--if-due", "--out", "second", *SMALL)
    assert (done.exit_code, (home / "second").exists()) == (0, False)
    (home / "rca.toml").write_text("[training]\nlabels = 4\ndrift = false\n")
    assert json.loads(run("models", "due", "--json").stdout)["due"] is True
    assert run("models", "due").stdout == "due: 4 new labels, of 4 ([training] labels)\n"
    (home / "rca.toml").write_text('[training]\nlabels = 99\nevery = "1ms"\ndrift = true\n')
    time.sleep(0.01)
    done = run("models", "due")
    assert "due: the model in use is " in done.stdout
    body = json.loads(run("models", "due", "--json").stdout)
    assert [rule["name"] for rule in body["rules"]] == ["labels", "time", "drift"]
    done = run("train", "--from", "current", "--if-due", "--out", "second", *SMALL)
    assert (done.exit_code, (home / "second").exists()) == (0, True)
    learnt = Learnt.of((one.incident.id, one.digest) for one in from_store((), home, Labels.TOLD))
    write_learnt(read_model(Versions(home).get("current").folder), learnt)
    done = run("models", "due")
    assert done.stdout == "not due: there is no label that the model in use did not learn from\n"


@pytest.mark.parametrize("option", [["--replay", "x"], ["--replay-simulated", "3"], ["--if-due"], ["--trust-labels"]])
def test_options_that_go_on_from_the_model_in_use_alone(option: list[str], home: Path) -> None:
    with pytest.raises(BadInput, match=f"{option[0]}: expected --from current, found no --from"):
        run("train", "--out", "second", *option)


def test_there_must_be_a_model_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RCA_HOME", str(tmp_path))
    monkeypatch.setattr(shipped, "shipped_folder", lambda: None)
    with pytest.raises(BadInput, match=r"--from current: expected a model in use, promoted .* or shipped, found none"):
        run("train", "--from", "current")


# --- poisoned labels ----------------------------------------------------------------------------------------------------


def named(case: LabelledCase, name: str, incident: str) -> LabelledCase:
    return replace(case, incident_id=incident, causes=(EntityId("service", name, case.causes[0].namespace),))


def test_good_labels_raise_no_doubt() -> None:
    assert doubts(example_cases()).mistakes == ()


def test_labels_of_nobody_who_is_there() -> None:
    cases = [named(case, "gremlins", case.incident_id) for case in example_cases()]
    (mistake,) = doubts(cases).mistakes
    assert mistake.startswith("4 of 4 labels naming nobody that can be ranked in the incident (cpu_contention-catalogue-7 names ")
    assert "gremlins" in mistake
    one_of_many = doubts([*cases[:1], *example_cases(), *example_cases()])
    assert one_of_many.mistakes == ()
    assert one_of_many.warnings[0].startswith("1 of 9 labels naming nobody")
    with pytest.raises(BadInput, match="--trust-labels learns from them all the same"):
        learning.check_labels("--from current", cases)


def test_labels_that_all_say_the_same() -> None:
    cases = [named(case, "cart", f"{case.incident_id}-{i}") for i in range(2) for case in example_cases()]
    assert any("all 8 labels naming " in words and "cart" in words for words in doubts(cases).mistakes)


def test_labels_that_were_drawn_by_lot() -> None:
    case = example_case(*CULPRITS[0])
    names = sorted(entity.name for entity in case.case.graph.candidates if entity.kind == "service")
    cases = [
        named(case, name, f"i{number}") for number, name in enumerate([*names, *names])
    ]  # everybody as often as everybody else
    found = doubts(cases)
    assert any("as labels drawn by lot would be" in words for words in found.mistakes)
    assert any(words.startswith("telemetry speaks against ") for words in found.warnings)


def test_a_model_does_not_learn_from_poisoned_labels(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "_FEW", 4)
    with IncidentStore(home, who="mallory") as store:
        for incident in store.list():
            for label in incident.labels:
                store.withdraw(incident.id, label.entity)
    for one in from_store((), home, Labels.ANY):
        done = run("incidents", "label", one.incident.id, "service:cart", "--fault", "exception")
        assert done.exit_code == 0, done.output
    with pytest.raises(BadInput, match=r"--from current: .* all 4 labels naming .*cart"):
        run("train", "--from", "current", "--out", "second", *SMALL)
    assert run("train", "--from", "current", "--out", "second", "--trust-labels", *SMALL).exit_code == 0
