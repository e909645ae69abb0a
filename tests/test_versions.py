"""The registry of model versions: content ids, one promotion at a time, kill -9 anywhere, roll-back, archives, bad input."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rca.cli.main import app
from rca.errors import BadBundle, BadCheckpoint, BadInput, UnknownName
from rca.models import shipped
from rca.models.files import MODEL_FILE, read_model
from rca.models.learnt import LEARNT_FILE, Learnt, read_learnt, simulated_of, write_learnt
from rca.models.shipped import default_folder, default_ranker, shipped_folder
from rca.models.versions import FOLDER, HISTORY_FILE, STATE_FILE, VERSION_FILE, Versions
from tests.cases import example
from tests.versions import model_folder, registered

pytestmark = pytest.mark.skipif(shipped_folder() is None, reason="no model ships")


def test_a_version_is_named_by_its_content_and_kept_once(tmp_path: Path) -> None:
    versions = Versions(tmp_path, who="tester")
    assert versions.list() == ()
    assert not (tmp_path / FOLDER).exists(), "looking something up makes nothing"
    folder = model_folder(tmp_path, "mine")
    first = versions.register(folder, source="test", note="first")
    assert (first.new, first.version.id[:5]) == (True, "mine-")
    assert versions.register(folder, source="test again").new is False
    body = json.loads((folder / MODEL_FILE).read_text())
    (folder / MODEL_FILE).write_text(json.dumps(body | {"temperature": 2.0}))
    second = versions.register(folder, source="test")
    assert second.new
    assert second.version.id != first.version.id
    assert [each.id for each in versions.list()] == [first.version.id, second.version.id]
    assert (first.version.facts.who, first.version.facts.note) == ("tester", "first")
    assert set(first.version.facts.files) >= {"model.json", "reference.json"}
    assert versions.get(second.version.id[:-2]).id == second.version.id


def test_names_that_do_not_exist_or_are_not_told_apart(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    one, _ = registered(tmp_path, "mine", "mine2")
    with pytest.raises(UnknownName, match=f"did you mean .*{one.id}"):
        versions.get(one.id[:-1] + "x")
    with pytest.raises(BadInput, match=r"expected one version, found 'mine', with which mine-.* and mine2-.* begin"):
        versions.get("mine")
    for name, found in (("current", "a version to have been promoted"), ("shadow", "a version in shadow")):
        with pytest.raises(BadInput, match=f"expected {found}, found none"):
            versions.get(name)


def test_a_promoted_version_ranks_by_default_and_is_rolled_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(shipped.VARIABLE, raising=False)
    monkeypatch.setenv("RCA_HOME", str(tmp_path))
    versions = Versions(tmp_path, who="tester")
    one, two = registered(tmp_path, "one", "two")
    with pytest.raises(BadInput, match="expected a promotion to roll back, found none"):
        versions.before()
    assert default_folder() == shipped_folder()
    versions.promote(one, expected=versions.state(), why="better")
    assert default_folder() == one.folder
    versions.promote(two, expected=versions.state(), why="better still")
    assert default_ranker().name == two.model.id
    assert versions.before() == one.id
    versions.roll_back(one, expected=versions.state(), why="it was not")
    assert default_ranker().name == one.model.id
    assert versions.before() is None
    versions.roll_back(None, expected=versions.state(), why="")
    assert default_ranker().name == read_model(shipped_folder() or tmp_path).id
    changes = versions.history()
    assert [(c.number, c.action, c.before, c.after, c.who) for c in changes] == [
        (1, "promote", None, one.id, "tester"),
        (2, "promote", one.id, two.id, "tester"),
        (3, "rollback", two.id, one.id, "tester"),
        (4, "rollback", one.id, None, "tester"),
    ]
    assert [c.why for c in changes[:3]] == ["better", "better still", "it was not"]
    monkeypatch.setenv(shipped.VARIABLE, str(two.folder))
    assert default_folder() == two.folder


def test_a_promoted_version_that_is_damaged_gives_way_to_the_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(shipped.VARIABLE, raising=False)
    versions = Versions(tmp_path)
    (one,) = registered(tmp_path, "one")
    versions.promote(one, expected=versions.state(), why="")
    next(one.folder.glob("*.onnx")).write_bytes(b"junk")
    ranking = default_ranker(tmp_path).rank(example())
    assert ranking.ranker == read_model(shipped_folder() or tmp_path).id
    [note] = ranking.notes
    assert note.startswith(f"the model that was promoted, so {ranking.ranker} ranked: ")
    assert "damaged or replaced" in note
    with pytest.raises(BadCheckpoint, match="damaged or replaced"):
        versions.promote(one, expected=versions.state(), why="")


def test_what_is_promoted_is_never_in_shadow_too(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    one, two = registered(tmp_path, "one", "two")
    versions.set_shadow(two, expected=versions.state())
    versions.promote(one, expected=versions.state(), why="")
    assert (versions.state().current, versions.state().shadow) == (one.id, two.id)
    with pytest.raises(BadInput, match="another version than the one that ranks"):
        versions.set_shadow(one, expected=versions.state())
    versions.promote(two, expected=versions.state(), why="")
    assert (versions.state().current, versions.state().shadow) == (two.id, None)
    assert versions.before() == one.id
    versions.set_shadow(one, expected=versions.state())
    versions.roll_back(one, expected=versions.state(), why="")
    assert (versions.state().current, versions.state().shadow) == (one.id, None)


# --- at once, and cut off -----------------------------------------------------------------------------------------------


def _promotes(home: Path, version: str, number: int, barrier: Any, said: Any) -> None:
    versions = Versions(home, who=f"process {number}")
    state, found = versions.state(), versions.get(version)
    barrier.wait(60)
    try:
        versions.promote(found, expected=state, why=f"by {number}")
    except BadInput as error:
        said.put((number, str(error)))
    else:
        said.put((number, ""))


def test_of_two_promotions_at_once_one_wins_and_the_other_is_told(tmp_path: Path) -> None:
    found = registered(tmp_path, "one", "two", "three")
    context = get_context("spawn")
    barrier, said = context.Barrier(3), context.Queue()
    processes = [
        context.Process(target=_promotes, args=(tmp_path, each.id, number, barrier, said)) for number, each in enumerate(found)
    ]
    for process in processes:
        process.start()
    answers = dict(said.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    (winner,) = [number for number, error in answers.items() if not error]
    versions = Versions(tmp_path)
    assert versions.state().current == found[winner].id
    assert [change.who for change in versions.history()] == [f"process {winner}"]
    for number, error in answers.items():
        if number != winner:
            assert (
                f"expected no change after change 0, found change 1: promote of {found[winner].id} by process {winner}" in error
            )


_KILLED = """
import os, signal, sys
from pathlib import Path
from rca.models import versions as module
home, version, where = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
write, note = module.write_atomically, module._note
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
def written(path, content):
    if where == "before the state": die()
    write(path, content)
    if where == "after the state": die()
def noted(path, change):
    if where == "in a line" and change is not None and change.number == 2:
        with path.open("ab") as file:
            file.write(b'{"number": 2, "act')
        die()
    note(path, change)
    if where == "after the line" and change is not None and change.number == 2: die()
module.write_atomically, module._note = written, noted
found = module.Versions(home, who="killed")
found.promote(found.get(version), expected=found.state(), why="kill -9")
"""


@pytest.mark.parametrize(
    ("where", "happened"),
    [("before the state", False), ("after the state", True), ("in a line", True), ("after the line", True)],
)
def test_kill_9_leaves_the_old_or_the_new_and_no_gap_in_the_history(tmp_path: Path, where: str, happened: bool) -> None:
    one, two, three = registered(tmp_path, "one", "two", "three")
    versions = Versions(tmp_path, who="tester")
    versions.promote(one, expected=versions.state(), why="")
    done = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path), two.id, where], check=False)
    assert done.returncode == -signal.SIGKILL
    assert versions.state().current == (two if happened else one).id
    told = [change.after for change in versions.history()]
    assert told == ([one.id, two.id] if happened else [one.id])
    versions.promote(three, expected=versions.state(), why="")  # the lock went with the process
    lines = (tmp_path / FOLDER / HISTORY_FILE).read_text().splitlines()
    assert [json.loads(line)["after"] for line in lines] == [*told, three.id]
    assert versions.before() == told[-1]
    assert not list((tmp_path / FOLDER).glob(".*.tmp"))


# --- archives -----------------------------------------------------------------------------------------------------------


def test_a_version_travels_as_one_file(tmp_path: Path) -> None:
    here, there = Versions(tmp_path / "here"), Versions(tmp_path / "there")
    (one,) = registered(tmp_path / "here", "one")
    digest = here.add_evaluation(one.id, {"made_ns": 1, "words": "well"})
    path = here.export(one, tmp_path / "one.tar.zst", "# a card")
    found = there.import_(path)
    assert (found.new, found.version.id) == (True, one.id)
    assert found.version.facts.source == "import of one.tar.zst"
    assert [body["digest"] for body in there.evaluations(one.id)] == [digest]
    found.version.check()
    assert there.import_(path).new is False
    with pytest.raises(BadInput, match="a path that does not exist yet"):
        here.export(one, path, "")
    with pytest.raises(BadInput, match=r"a file that ends in \.tar\.zst"):
        here.export(one, tmp_path / "one.zip", "")


@pytest.mark.parametrize("harm", ["cut", "other", "swapped", "absent", "measured", "undated"])
def test_an_archive_that_is_not_what_it_says(tmp_path: Path, harm: str) -> None:
    from rca.incidents.bundle import read_archive, write_archive

    here = Versions(tmp_path / "here")
    (one,) = registered(tmp_path / "here", "one")
    here.add_evaluation(one.id, {"made_ns": 1, "words": "well"})
    path = here.export(one, tmp_path / "one.tar.zst", "")
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    elif harm == "other":
        path.write_bytes(b"no archive at all")
    else:
        files = read_archive(path)
        if harm == "measured":
            name = next(name for name in files if name.startswith("evaluation-"))
            files[name] = files[name].replace(b"well", b"best")
        elif harm == "undated":
            files[f"evaluation-{hashlib.sha256(b'{}').hexdigest()[:12]}.json"] = b"{}"
        elif harm == "swapped":
            files[next(name for name in files if name.endswith(".onnx"))] = b"another one"
        else:
            del files[VERSION_FILE]
        write_archive(path, files)
    message = {
        "cut": "damaged or cut off",
        "other": "found another file",
        "swapped": "damaged or replaced",
        "measured": "expected the evaluation .* .damaged or changed",
        "undated": "expected the time of an evaluation as made_ns, found None",
        "absent": VERSION_FILE,
    }
    with pytest.raises((BadBundle, BadCheckpoint), match=message[harm]):
        Versions(tmp_path / "there").import_(path)
    assert Versions(tmp_path / "there").ids() == ()


# --- bad input ----------------------------------------------------------------------------------------------------------


def test_what_is_no_model_for_this_version_is_not_kept(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    folder = model_folder(tmp_path, "mine")
    body = json.loads((folder / MODEL_FILE).read_text())
    (folder / MODEL_FILE).write_text(json.dumps({**body, "features": ["gremlins.z", *body["features"][1:]]}))
    with pytest.raises(BadCheckpoint, match=r"gremlins\.z"):
        versions.import_(folder)
    (folder / MODEL_FILE).write_text(json.dumps(body))
    next(folder.glob("*.safetensors")).write_bytes(b"junk")
    with pytest.raises(BadCheckpoint, match="damaged or replaced"):
        versions.import_(folder)
    next(folder.glob("*.safetensors")).unlink()
    with pytest.raises(BadCheckpoint, match="expected the file weights-"):
        versions.import_(folder)
    for nothing in (tmp_path / "nowhere", tmp_path / FOLDER):
        with pytest.raises(BadCheckpoint):
            versions.import_(nothing)
    assert versions.ids() == ()


def test_models_of_another_version_of_the_format(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    (one,) = registered(tmp_path, "one")
    versions.promote(one, expected=versions.state(), why="")
    path = tmp_path / FOLDER / STATE_FILE
    path.write_text(path.read_text().replace('"version": "1"', '"version": "9"'))
    with pytest.raises(BadCheckpoint, match=r"state\.json: expected models of version '1', found '9'"):
        versions.state()
    path.write_text("junk")
    with pytest.raises(BadCheckpoint, match="expected JSON"):
        versions.state()
    facts = one.folder / VERSION_FILE
    facts.write_text(facts.read_text().replace('"version": "1"', '"version": "9"'))
    assert versions.list() == ()
    assert [name for name, _ in versions.look()[1]] == [one.id]
    with pytest.raises(BadCheckpoint, match="a model version of format '1', found '9'"):
        versions.get(one.id)


@pytest.mark.parametrize("facts", [{"registered_ns": "today"}, {"files": []}, {"id": 7}])
def test_facts_of_another_type_are_named(tmp_path: Path, facts: dict[str, Any]) -> None:
    versions = Versions(tmp_path)
    one, two = registered(tmp_path, "one", "two")
    path = one.folder / VERSION_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    assert [each.id for each in versions.list()] == [two.id]
    with pytest.raises(BadCheckpoint, match=r"version\.json: expected the fields of docs/models\.md"):
        versions.get(one.id)


def test_a_line_of_the_history_that_somebody_changed(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    (one,) = registered(tmp_path, "one")
    versions.promote(one, expected=versions.state(), why="")
    with (tmp_path / FOLDER / HISTORY_FILE).open("a") as file:
        file.write("gremlins\n")
    with pytest.raises(BadCheckpoint, match=r"history\.jsonl: line 2: expected a change"):
        versions.history()


def test_an_evaluation_that_somebody_changed(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    (one,) = registered(tmp_path, "one")
    digest = versions.add_evaluation(one.id, {"made_ns": 1})
    path = tmp_path / FOLDER / "evaluations" / one.id / f"{digest}.json"
    path.write_text(path.read_text().replace("1", "2"))
    with pytest.raises(BadCheckpoint, match="damaged or changed"):
        versions.evaluations(one.id)
    done = CliRunner().invoke(app, ["models", "list", "--store", str(tmp_path)], catch_exceptions=False)
    assert (done.exit_code, one.id in done.stdout, "damaged  " in done.stdout) == (0, True, True)
    assert "cannot be read: " in done.stderr
    assert "damaged or changed" in done.stderr
    done = CliRunner().invoke(app, ["models", "list", "--json", "--store", str(tmp_path)], catch_exceptions=False)
    assert list(json.loads(done.stdout)["broken"]) == [one.id]


def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(BadInput, match="expected a place that can be written"):
        Versions(tmp_path / "home").import_(model_folder(tmp_path, "mine"))


# --- what a model learnt from -------------------------------------------------------------------------------------------


def test_a_model_lists_what_it_learnt_from(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "mine")
    model = read_model(folder)
    shipped_list = read_learnt(model)
    assert shipped_list is not None
    assert len(shipped_list.incidents) == 46  # as its reference has them
    assert simulated_of(model) is not None
    write_learnt(model, shipped_list | Learnt.of([("mine-1", "abc")]))
    found = read_learnt(model)
    assert found is not None
    assert (len(found.incidents), found.knows("mine-1"), found.knows("renamed", "abc"), found.knows("x", "y")) == (
        47,
        True,
        True,
        False,
    )
    assert "mine-1" not in (folder / LEARNT_FILE).read_text()
    (folder / LEARNT_FILE).write_text("{}")
    with pytest.raises(BadCheckpoint, match=r"the fields of docs/models\.md"):
        read_learnt(model)
    (folder / LEARNT_FILE).unlink()
    (folder / "reference.json").unlink()
    assert read_learnt(model) is None
