"""`rca report models`: accuracy by label over time and cohort, what was answered then, drift against training data, bad input."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from rca.arrays import arrays_of
from rca.cli.main import app
from rca.errors import BadCheckpoint, BadInput, UnknownName
from rca.evaluation.accuracy_chart import accuracy_svg, accuracy_words
from rca.evaluation.cases import Labels, case_for, from_store
from rca.evaluation.history import Answer, Labelled, accuracy_of, tier_of
from rca.evaluation.predictions import Prediction, Truth
from rca.graph import ServiceGraph
from rca.incidents.example import example_incident
from rca.incidents.inbox import AlertGroup, GroupAlert, InboxFile
from rca.incidents.incident import EntityModel, Label
from rca.incidents.store import IncidentStore
from rca.models import shipped
from rca.models.files import read_model
from rca.models.reference import REFERENCE_FILE, reference_of, write_reference
from rca.models.rules.floor import Floor
from rca.pipeline import case_of, report_on
from rca.serve.answered import kept_answers
from rca.serve.notices import gist_of
from rca.sinks.notice import Notice, dumped
from rca.telemetry import SECOND_NS, EntityId
from tests.cases import CULPRITS
from tests.exported import shared_folder, trained_model

SINCE = ["--since", "2026-01-01"]
DAY_NS = 86_400 * SECOND_NS


def stored(home: Path, count: int = 3) -> None:
    """Example incidents that stand in the store under the names of their faults, and a quiet window."""
    with IncidentStore(home, who="test") as store:
        for kind, culprit in CULPRITS[:count]:
            incident, telemetry = example_incident(5, kind, culprit, requests_per_second=0.5)
            store.add(incident.model_copy(update={"id": kind}), telemetry)
        incident, telemetry = example_incident(6, "no_fault", "cart", requests_per_second=0.5)
        label = Label(fault_kind="no_fault", provenance="confirmed")
        store.add(incident.model_copy(update={"id": "quiet", "labels": (label,)}), telemetry)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with its cases in the cache."""
    home = tmp_path_factory.mktemp("filled")
    stored(home)
    for one in from_store(home=home, labels=Labels.ANY):
        case_for(one, home=home)
    return home


@pytest.fixture
def home(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of one's own; the label-free score ranks."""
    copy = Path(shutil.copytree(filled, tmp_path / "home"))
    monkeypatch.setenv("RCA_HOME", str(copy))
    monkeypatch.delenv(shipped.VARIABLE, raising=False)
    monkeypatch.setattr(shipped, "shipped_folder", lambda: None)
    return copy


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_folder(tmp_path_factory, "trained-model", trained_model)


@pytest.fixture
def model(trained: Path, filled: Path, tmp_path: Path) -> Path:
    """A trained model with the reference of what is in the store, which it was trained on in part."""
    folder = Path(shutil.copytree(trained, tmp_path / "model"))
    graphs = [case.graph for one in from_store(home=filled, labels=Labels.ANY) if (case := case_for(one, home=filled))]
    write_reference(read_model(folder), reference_of(arrays_of(graphs), ["example-shop"] * 4, incidents=["exception"]))
    return folder


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["report", "models", *words], catch_exceptions=False)


def told(*words: str) -> Any:
    done = run(*words, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


# --- accuracy ----------------------------------------------------------------------------------------------------


def labelled(number: int, right: bool, day: int = 0, *, then: str = "", learnt: bool = False, **facts: str) -> Labelled:
    """An incident whose cause is service a, of a system of its own, and what was said of it."""
    cause, other = EntityId("service", "a"), EntityId("service", "b")
    truth = Truth(
        str(number),
        facts.get("system", f"s{number}"),
        (cause,),
        facts.get("kind", "exception"),
        1_767_571_200 * SECOND_NS + day * DAY_NS,
    )
    order = (cause, other) if right else (other, cause)
    prediction = Prediction(truth, order, (2.0, 1.0), (0.7, 0.3))
    wrong = replace(prediction, candidates=(other, cause))
    answers = (Answer(then, prediction, then=True),) if then else ()
    return Labelled(
        truth,
        facts.get("tier", "leaf"),
        facts.get("label", "confirmed"),
        (*answers, Answer("now", wrong if then else prediction, learnt=learnt)),
    )


def test_figures_by_hand() -> None:
    found = [labelled(i, right=i < 3, day=7 * (i // 2), kind="crash" if i % 2 else "exception") for i in range(4)]
    accuracy = accuracy_of(found, "now", "week")
    assert accuracy.overall is not None
    assert (accuracy.overall.top1.value, accuracy.overall.top3.value, accuracy.overall.mrr.value) == (0.75, 1.0, 0.875)
    assert accuracy.overall.top1.low is not None
    assert [(part.name, part.incidents, part.top1.value) for part in accuracy.periods] == [
        ("2026-01-05", 2, 1.0),
        ("2026-01-12", 2, 0.5),
    ]
    assert [(part.name, part.top1.value) for part in accuracy.cohorts["fault kind"]] == [("crash", 0.5), ("exception", 1.0)]
    assert [part.name for part in accuracy_of(found, "now", "month").periods] == ["2026-01"]


def test_the_drawing_says_what_the_figures_say() -> None:
    found = [labelled(i, right=i % 3 > 0, day=7 * (i // 4)) for i in range(12)]
    periods = accuracy_of(found, "now", "week").periods
    drawing = ElementTree.fromstring(accuracy_svg(periods))
    heights = [float(dot.attrib["cy"]) for dot in drawing.iter("circle")]
    assert len(heights) == 3
    assert [part.top1.value for part in periods] == [0.5, 0.75, 0.75]
    assert heights[0] > heights[1] == heights[2]  # a smaller share stands lower
    assert accuracy_words(periods).startswith(
        "The cause was named first in 50 % of 4 in 2026-01-05, 75 % of 4 in 2026-01-19; 3 periods"
    )


def test_the_answer_of_the_time_counts_and_models_are_compared() -> None:
    found = [labelled(0, True, then="old"), labelled(1, True, then="old"), labelled(2, False), labelled(3, True, learnt=True)]
    accuracy = accuracy_of(found, "now", "week")
    assert accuracy.overall is not None
    assert (accuracy.overall.incidents, accuracy.overall.then, accuracy.learnt) == (3, 2, 1)
    assert accuracy.overall.top1.value == pytest.approx(2 / 3)
    by_model = {(each.figures.name, each.then): each for each in accuracy.models}
    old = by_model["old", True]
    assert (old.figures.top1.value, old.both) == (1.0, 2)
    assert old.difference is not None
    assert old.difference.value == 1.0  # what was said then was right, what is said now is wrong
    assert by_model["now", False].figures.incidents == 3
    assert by_model["now", False].difference is None


def test_tiers_of_a_small_shop() -> None:
    names = ["front", "cart", "stock", "worker", "lonely"]
    entities = (*(EntityId("service", name) for name in names), EntityId("database", "db"), EntityId("queue", "orders"))
    pairs = {"calls": [(0, 1), (1, 2)], "queries": [(2, 5)], "publishes": [(1, 6)], "consumes": [(3, 6)]}
    edges = {name: np.array(rows, dtype=np.int64).T for name, rows in pairs.items()}
    none = {name: np.zeros((len(rows), 0)) for name, rows in pairs.items()}
    graph = ServiceGraph(
        entities, ("floor",), np.zeros((7, 1), np.float32), np.ones((7, 1), bool), edges, (), none, none  # type: ignore[arg-type]
    )  # fmt: skip
    tiers = [tier_of(graph, [entity]) for entity in entities]
    assert tiers == ["entry", "middle", "leaf", "leaf", "alone", "backing", "backing"]
    assert tier_of(graph, [EntityId("service", "other")]) == "unknown"


def test_what_the_label_free_score_answers_now(home: Path) -> None:
    body = told(*SINCE)
    accuracy = body["accuracy"]
    assert (accuracy["overall"]["incidents"], accuracy["overall"]["then"]) == (3, 0)
    assert accuracy["nobody"][0] == 1
    assert [part["name"] for part in accuracy["cohorts"]["fault kind"]] == sorted(kind for kind, _ in CULPRITS[:3])
    assert body["drift"] is None
    assert "floor has no reference" in body["why_no_drift"]
    assert body["trouble"].startswith("a trained model: none ships")


def kept(home: Path, incident_id: str, model: str = "older-1234") -> None:
    """The store's incident was answered at the time, by a model that named another service."""
    with IncidentStore(home) as store:
        incident, telemetry = store.get(incident_id)
    report = report_on(incident, telemetry, Floor())
    other = report.ranking.candidates[1]
    first = replace(other, rank=1, score=9.0)
    ranking = replace(report.ranking, candidates=(first, *(c for c in report.ranking.candidates if c is not other)))
    notice = Notice(
        incident_id=incident_id,
        group_key=incident_id,
        revision=1,
        state="firing",
        title="t",
        report=replace(report, ranking=ranking),
        model=model,
    )
    with closing(InboxFile(home)) as file, file.writing():
        start = incident.window.start_ns
        taken = file.take(AlertGroup(incident_id, "rca", (GroupAlert("a", "firing", start),)), start, "shop")
        number = file.episode(taken.incident_id or "").number
        file.answered(number, 1, "firing", json.dumps(gist_of(notice)), dumped(notice), (), start, task=None, due_ns=None)
        file.keeps(number, incident_id)


def test_what_was_answered_at_the_time_counts(home: Path) -> None:
    kept(home, "exception")
    assert set(kept_answers(home)) == {"exception"}
    body = told(*SINCE)
    overall = body["accuracy"]["overall"]
    assert (overall["incidents"], overall["then"], overall["top1"]["value"]) == (3, 1, pytest.approx(2 / 3, abs=1e-5))
    models = {(each["figures"]["name"], each["then"]): each for each in body["accuracy"]["models"]}
    assert models["older-1234", True]["difference"]["value"] == -1.0
    done = run(*SINCE)
    assert "1 as answered at the time; 2 as floor answers now" in done.stdout
    assert "older-1234" in done.stdout


def test_no_inbox_is_made(home: Path) -> None:
    before = {path.name for path in home.iterdir()}
    assert kept_answers(home) == {}
    assert {path.name for path in home.iterdir()} == before


# --- drift -------------------------------------------------------------------------------------------------------


def test_examples_look_like_examples(home: Path, model: Path) -> None:
    body = told("--model", str(model), *SINCE)
    assert body["drift"]["found"] is False, body["sentences"]
    assert body["sentences"][0] == "Features look like training data, as far as 4 graphs can tell."
    assert {shift["name"] for shift in body["drift"]["shifts"]} >= {"cpu.z", "edge.gap.z", "degree.in", "graph.nodes"}
    assert body["accuracy"]["learnt"] == 1  # the model was trained on the incident `exception`, so that it cannot be judged by it


@pytest.fixture
def silent(model: Path) -> Path:
    """A model whose training data had no logs."""
    graphs = []
    for kind, culprit in CULPRITS[:3]:
        incident, telemetry = example_incident(5, kind, culprit, requests_per_second=0.5)
        graphs.append(case_of(incident, replace(telemetry, logs=telemetry.logs.clear())).graph)
    many = graphs * 12
    write_reference(read_model(model), reference_of(arrays_of(many), ["example-shop"] * len(many)))
    return model


def test_a_modality_that_training_lacked_is_told_first(home: Path, silent: Path) -> None:
    body = told("--model", str(silent), *SINCE)
    assert body["sentences"][0].startswith("Logs are missing in 0 % of now's graphs, 100 % in training")


def test_documents_are_written(home: Path, model: Path, tmp_path: Path) -> None:
    for name in ("report.md", "report.html"):
        out = tmp_path / name
        done = run("--model", str(model), *SINCE, "--out", str(out))
        assert f"written to {out}" in done.stdout
        text = out.read_text(encoding="utf-8")
        assert "Accuracy over time" in text
        assert "Features look like training data" in text


def test_now_may_be_empty(home: Path, model: Path) -> None:
    body = told("--model", str(model), "--since", "1h")
    assert body["drift"] is None
    assert "no incident counts as now, the last one ended 2026-01-15" in body["why_no_drift"]
    assert body["accuracy"]["overall"]["incidents"] == 2


# --- bad input ---------------------------------------------------------------------------------------------------


def test_an_empty_store_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"expected incidents \(`rca serve` keeps them.*found none"):
        run("--store", str(tmp_path / "nothing"))
    assert not (tmp_path / "nothing").exists()


def test_incidents_without_labels_are_compared_all_the_same(tmp_path: Path, model: Path) -> None:
    with IncidentStore(tmp_path / "bare") as store:
        incident, telemetry = example_incident(5, *CULPRITS[0], requests_per_second=0.5)
        store.add(incident.model_copy(update={"labels": ()}), telemetry)
    body = told("--store", str(tmp_path / "bare"), "--model", str(model), *SINCE)
    assert body["accuracy"]["overall"] is None
    assert "there is no labelled incident with a cause" in body["sentences"][1]
    assert body["drift"] is not None


def test_disputed_labels_do_not_count(home: Path) -> None:
    with IncidentStore(home) as store:
        store.dispute("exception", EntityModel(name=dict(CULPRITS)["exception"]))
    assert told(*SINCE)["accuracy"]["overall"]["incidents"] == 2


def test_a_model_without_a_reference_says_so(home: Path, trained: Path) -> None:
    assert "has no reference of what it was trained on" in run("--model", str(trained), *SINCE).stdout


def test_a_damaged_reference_is_refused(home: Path, model: Path) -> None:
    path = model / REFERENCE_FILE
    path.write_text(path.read_text().replace('"unit":', '"unit" :').replace("graph", "grapf", 1))
    with pytest.raises(BadCheckpoint, match=REFERENCE_FILE):
        run("--model", str(model), *SINCE)


def test_a_model_that_is_not_there_is_named(home: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"nothing/model\.json"):
        run("--model", "nothing")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("yesterday", "'yesterday'"),
        ("2026-13-01", "'2026-13-01'"),
        ("2026-01-15T10:00:00", "without an offset"),
        ("-3d", "'-3d'"),
    ],
)
def test_a_wrong_since_is_named(home: Path, text: str, found: str) -> None:
    with pytest.raises(BadInput, match=f"--since: expected a date such as .* found .*{found}"):
        run("--since", text)


def test_a_since_to_come_is_refused(home: Path) -> None:
    with pytest.raises(BadInput, match="expected a time that has passed"):
        run("--since", "2099-01-01")


def test_other_options_are_checked(home: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="day"):
        run("--per", "day")
    with pytest.raises(BadInput, match=r"\.md or \.html"):
        run("--out", str(tmp_path / "report.pdf"))
    with pytest.raises(BadInput, match="--bundles with a folder of recordings"):
        run("--part", "test")
    with pytest.raises(BadInput, match="a folder that exists"):
        run("--out", str(tmp_path / "nowhere" / "report.md"))
    with pytest.raises(UnknownName, match="shopp"):
        run("--system", "shopp")


def test_a_damaged_incident_is_left_out_and_named(home: Path) -> None:
    for path in (home / "bundles").glob("exception@*/*.parquet"):
        path.write_bytes(b"damaged")
    body = told(*SINCE, "--no-cache")
    assert [name for name, _ in body["incidents"]["left_out"]] == ["exception"]
    assert body["accuracy"]["overall"]["incidents"] == 2
