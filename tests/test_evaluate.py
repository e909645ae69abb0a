"""The runner, the transforms, the cache and `rca evaluate`, on synthetic incidents from bundle to table."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from rca.cli.main import app
from rca.contracts import Case, LabelledCase
from rca.errors import BadInput, UnknownName
from rca.evaluation import cases, runner, tables
from rca.evaluation.predictions import Prediction, Predictions, Truth
from rca.evaluation.runner import Exam, RankerSpec, evaluate
from rca.evaluation.transforms import TRANSFORMS, transform
from rca.faults import NO_FAULT
from rca.incidents.bundle import read_bundle, write_bundle
from rca.incidents.example import example_incident
from rca.models import registry
from rca.telemetry import SECOND_NS
from tests.cases import CULPRITS, example_cases


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    for kind, culprit in CULPRITS:
        incident, telemetry = example_incident(3, kind, culprit, requests_per_second=1.0)
        name = f"example-{kind}-{culprit}"
        write_bundle(folder / name, incident.model_copy(update={"id": name}), telemetry)
    write_bundle(folder / "calm", *example_incident(3, NO_FAULT, requests_per_second=1.0))
    return folder


@pytest.fixture
def exam() -> Exam:
    labelled = example_cases()
    truths = [Truth(c.incident_id, c.system, c.causes, c.fault_kind, i) for i, c in enumerate(labelled)]
    return Exam(tuple(truths), tuple(labelled), tuple(labelled))


class Fragile:
    """Fails on every second incident, and trains on nothing but what it is given."""

    name, uses_names, learned = "fragile", False, True
    trained_on: list[list[str]] = []  # noqa: RUF012

    def fit(self, training, validation=None):
        Fragile.trained_on.append([c.incident_id for c in (*training, *(validation or ()))])
        return self

    def rank(self, case: Case):
        if case.window.incident.start_ns % 2 == 0 and len(Fragile.trained_on) % 2:
            raise ValueError("cannot read this\nat all")
        return registry.create("max-z").rank(case)


@pytest.fixture
def fragile(monkeypatch) -> None:
    Fragile.trained_on = []
    monkeypatch.setitem(registry.BUILT_IN, "fragile", f"{__name__}:Fragile")


def test_every_fold_trains_on_its_own_part_and_failures_are_misses(exam: Exam, fragile) -> None:
    (run,) = evaluate(exam, [RankerSpec("fragile")], "folds")
    assert [p.truth.incident_id for p in run.predictions] == [t.incident_id for t in exam.truths]
    assert len(Fragile.trained_on) == 4
    for tested, trained in zip(runner.folds_of(exam, "folds"), Fragile.trained_on, strict=True):
        assert not {exam.truths[place].incident_id for place in tested.test} & set(trained)
    failed = [p for p in run.predictions if p.failure]
    assert len(failed) == 2
    assert failed[0].failure == "ValueError: cannot read this"
    assert all(p.cause_rank is None for p in failed)
    summary = tables.summary(run)
    assert summary["failures"] == 2
    assert summary["by_fault_kind"]["all"]["incidents"] == 4
    assert "fragile failed 2 times: ValueError" in tables.markdown([summary])


def test_a_ranker_without_labels_fails_and_says_so(exam: Exam) -> None:
    (run,) = evaluate(exam, [RankerSpec("logistic")], "zero-shot")
    assert {p.failure for p in run.predictions} == {
        "BadInput: training logistic: expected labelled cases whose cause is a candidate, found none"
    }


def test_finished_rankers_are_not_run_again(exam: Exam, fragile, tmp_path: Path) -> None:
    specs = [RankerSpec("fragile"), RankerSpec("max-z")]
    first = evaluate(exam, specs, "folds", out=tmp_path)
    before = len(Fragile.trained_on)
    again = evaluate(exam, specs, "folds", out=tmp_path)
    assert len(Fragile.trained_on) == before
    assert [r.ranker for r in again] == ["fragile", "max-z"]
    assert [[p.cause_rank for p in r.predictions] for r in again] == [[p.cause_rank for p in r.predictions] for r in first]
    evaluate(exam, specs, "folds", out=tmp_path, force=True)
    assert len(Fragile.trained_on) == 2 * before
    evaluate(replace(exam, digests=("a", "b", "c", "d")), specs, "folds", out=tmp_path)
    assert len(Fragile.trained_on) == 3 * before, "other data under the same names is run anew"
    relabelled = tuple(replace(truth, fault_kind="disk_fill") for truth in exam.truths)
    evaluate(replace(exam, truths=relabelled), specs, "folds", out=tmp_path)
    assert len(Fragile.trained_on) == 4 * before, "corrected labels are run anew"


def test_an_interruption_keeps_what_is_finished(exam: Exam, tmp_path: Path) -> None:
    def stop(done: str) -> None:
        if done.startswith("nsigma"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(exam, [RankerSpec("max-z"), RankerSpec("nsigma")], "folds", out=tmp_path, step=stop)
    assert [path.name for path in tmp_path.rglob("*.jsonl")] == ["max-z.jsonl"]
    assert len(Predictions.read(next(tmp_path.rglob("*.jsonl"))).predictions) == 4


def test_only_the_wanted_system_is_tested_but_all_are_trained_on(exam: Exam, fragile) -> None:
    other = Exam(
        tuple(replace(t, system="other") for t in exam.truths),
        tuple(replace(c, system="other", incident_id=f"other-{c.incident_id}") for c in exam.training),
        exam.tested,
    )
    both = Exam(exam.truths + other.truths, exam.training + other.training, exam.tested + other.tested)
    (run,) = evaluate(both, [RankerSpec("fragile")], "leave-system-out", systems=["other"])
    assert run.dataset == "other"
    assert Fragile.trained_on == [[c.incident_id for c in exam.training]]


def test_rankings_that_forget_candidates_are_failures(exam: Exam, monkeypatch) -> None:
    class Forgetful:
        name, uses_names, learned = "forgetful", False, False

        def fit(self, training, validation=None):
            return self

        def rank(self, case: Case):
            ranking = registry.create("max-z").rank(case)
            return replace(ranking, candidates=ranking.candidates[1:])

    monkeypatch.setattr(f"{__name__}.Forgetful", Forgetful, raising=False)
    monkeypatch.setitem(registry.BUILT_IN, "forgetful", f"{__name__}:Forgetful")
    (run,) = evaluate(exam, [RankerSpec("forgetful")], "folds")
    assert all("not each of the graph's once" in p.failure for p in run.predictions)


def test_specs() -> None:
    spec = RankerSpec.parse("lambdamart:trees=20,learning_rate=0.1")
    assert spec == RankerSpec("lambdamart", {"trees": 20, "learning_rate": 0.1})
    assert spec.label == "lambdamart:learning_rate=0.1,trees=20"
    assert RankerSpec.parse("x:flag=true,word=no-edges").parameters == {"flag": True, "word": "no-edges"}
    with pytest.raises(BadInput, match="name:parameter=value"):
        RankerSpec.parse("x:trees")
    parts = runner.path_of(Path("o"), "a b/c", "folds", "no-logs", "x:y=../z").parts
    assert parts == (
        "o",
        "a-b-c",
        "folds_no-logs",
        "x-y=..-z.jsonl",
    )


# --- transforms -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
def test_transforms_leave_their_input_alone_and_yield_a_case(name: str) -> None:
    from rca.pipeline import case_of

    incident, telemetry = example_incident(3, requests_per_second=1.0)
    rows = {frame: data.height for frame, data in telemetry.frames().items()}
    before = incident.model_dump_json()
    changed = transform(name)(incident, telemetry)
    assert incident.model_dump_json() == before
    assert {frame: data.height for frame, data in telemetry.frames().items()} == rows
    assert case_of(*changed).graph.candidates


def test_onset_moves_with_its_window_and_preceding_baseline() -> None:
    incident, telemetry = example_incident(3, requests_per_second=1.0)
    moved, _ = transform("onset+120")(incident, telemetry)
    shift = 120 * SECOND_NS
    assert incident.onset_ns is not None
    assert moved.onset_ns == incident.onset_ns + shift
    assert moved.window.start_ns == incident.window.start_ns + shift
    assert moved.baselines[0].end_ns == incident.baselines[0].end_ns + shift
    reference = incident.model_copy(update={"baselines": (incident.baselines[0].model_copy(update={"provenance": "reference"}),)})
    assert transform("onset+120")(reference, telemetry)[0].baselines == reference.baselines


def test_modalities_vanish_with_their_alerts_and_leave_a_gap() -> None:
    incident, telemetry = example_incident(3, requests_per_second=1.0)
    for name, frame, source in (("no-traces", "spans", "trace"), ("no-metrics", "metrics", "metric"), ("no-logs", "logs", "log")):
        _, left = transform(name)(incident, telemetry)
        assert left.frames()[frame].is_empty()
        assert left.alerts.filter(pl.col("source") == source).is_empty()
        assert left.gaps[-1].source == frame


def test_sampling_keeps_whole_traces() -> None:
    incident, telemetry = example_incident(3, requests_per_second=3.0)
    _, left = transform("traces-5%")(incident, telemetry)
    kept, all_ids = set(left.spans["trace_id"]), set(telemetry.spans["trace_id"])
    assert 0.01 < len(kept) / len(all_ids) < 0.12
    assert left.spans.height == telemetry.spans.filter(pl.col("trace_id").is_in(list(kept))).height


def test_quiet_windows_lie_in_the_baseline() -> None:
    incident, telemetry = example_incident(3, requests_per_second=1.0)
    calm, left = transform("quiet")(incident, telemetry)
    assert calm.window.end_ns <= incident.window.start_ns
    assert not calm.labels
    assert all(b.end_ns <= calm.window.start_ns for b in calm.baselines)
    assert left.alerts.is_empty()
    short = incident.model_copy(update={"baselines": ()})
    with pytest.raises(BadInput, match="twice as long"):
        transform("quiet")(short, telemetry)
    with pytest.raises(UnknownName, match="did you mean no-logs"):
        transform("no-log")


# --- cases ------------------------------------------------------------------------------------------------------


def test_cases_come_from_the_cache_the_second_time(bundles: Path, tmp_path: Path, monkeypatch) -> None:
    recorded = cases.from_folder(bundles)
    assert len(recorded) == 4, "the unlabelled one is left out"
    first = cases.exam_of(recorded, home=tmp_path)

    def unreadable(*args: object) -> None:
        raise AssertionError("read although cached")

    monkeypatch.setattr(cases, "case_of", unreadable)
    second = cases.exam_of(recorded, home=tmp_path)
    assert [t.incident_id for t in second.truths] == [t.incident_id for t in first.truths]
    assert (second.training[0].case.graph.features == first.training[0].case.graph.features).all()
    with pytest.raises(AssertionError):
        cases.exam_of(recorded, "no-logs", home=tmp_path)
    for file in tmp_path.rglob("*.pickle"):
        file.write_bytes(b"damaged")
    with pytest.raises(AssertionError):
        cases.exam_of(recorded, home=tmp_path)


def test_quiet_exams_are_split_by_the_true_cause_and_test_nothing_wrong(bundles: Path) -> None:
    exam = cases.exam_of(cases.from_folder(bundles), "quiet")
    (run,) = evaluate(exam, [RankerSpec("max-z")], "folds")
    assert {p.truth.fault_kind for p in run.predictions} == {NO_FAULT}
    assert tables.summary(run)["false_alarms"] == 1.0, "a rule always names somebody"
    assert "cause invented" in tables.markdown([tables.summary(run)])


def test_before_the_fault_the_later_culprit_is_asked_for(bundles: Path) -> None:
    exam = cases.exam_of(cases.from_folder(bundles), "before-fault")
    (run,) = evaluate(exam, [RankerSpec("max-z")], "zero-shot")
    assert [p.truth.causes for p in run.predictions] == [t.causes for t in exam.truths]
    assert all(case.case.window.incident.end_ns <= t.start_ns for case, t in zip(exam.tested, exam.truths, strict=True))


def test_pods_in_labels_become_their_services(bundles: Path) -> None:
    from rca.incidents.incident import EntityModel, Label

    one = cases.from_folder(bundles)[0]
    pod = one.read()[1].topology.filter(pl.col("relation") == "runs")["target"][0]
    service = one.read()[1].topology.filter(pl.col("target") == pod)["source"][0]
    label = Label(entity=EntityModel(kind="pod", name=pod), provenance="injected")
    relabelled = replace(one, incident=one.incident.model_copy(update={"labels": (label,)}))
    (labelled,) = cases.exam_of([relabelled]).training
    assert [cause.name for cause in labelled.causes] == [service]


def test_a_folder_without_bundles_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="an incident bundle"):
        cases.from_folder(tmp_path)


def test_one_part_of_a_manifest_is_read_and_nothing_else(tmp_path: Path) -> None:
    entries = []
    for part, seed in (("train", 1), ("test", 2), ("test", 3)):
        incident, telemetry = example_incident(seed, requests_per_second=1.0)
        file = write_bundle(tmp_path / f"{part}-{seed}.tar.zst", incident.model_copy(update={"id": f"{part}-{seed}"}), telemetry)
        entries.append({"file": file.name, "part": part, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()})
    (tmp_path / "manifest.json").write_text(json.dumps({"version": "1", "system": "shop", "incidents": entries}))
    found = {part: {one.incident.id for one in cases.asked_for(tmp_path, part, [])} for part in ("train", "test", None)}
    assert found == {"train": {"train-1"}, "test": {"test-2", "test-3"}, None: {"train-1", "test-2", "test-3"}}
    with pytest.raises(BadInput, match="recordings of the part 'tset', found test and train"):
        cases.asked_for(tmp_path, "tset", [])
    with pytest.raises(BadInput, match="--bundles with a folder"):
        cases.asked_for(None, "test", [])


# --- command ----------------------------------------------------------------------------------------------------


def rca(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_command_from_bundles_to_tables(bundles: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("RCA_HOME", str(tmp_path / "home"))
    out = tmp_path / "results"
    run = ("evaluate", "--bundles", bundles, "--out", out, "--ranker", "random", "--ranker", "prism-additive")
    text = rca(*run)
    for word in ("prism-additive", "random", "chance", "AC@1", "cpu contention", "4 incidents"):
        assert word in text
    assert all(len(line) <= 80 for line in text.splitlines())
    found = json.loads(rca(*run, "--json", "--against", "random"))
    assert {row["ranker"] for row in found["runs"]} == {"random", "prism-additive"}
    assert set(found["differences"]) == {"prism-additive"}
    assert "| prism-additive |" in rca(*run, "--markdown")
    best = {row["against_best_rule"]["rule"] for row in found["runs"]}
    assert len(best) == 1
    assert [r["against_best_rule"]["value"] for r in found["runs"] if r["ranker"] in best] == [0.0]
    stored = json.loads((out / "example-shop.json").read_text())
    assert stored["runs"] == found["runs"]
    incident = next(bundles.glob("example-*")).name
    shown = rca("evaluate", "--show", incident, "--out", out)
    assert "prism-additive" in shown
    answers = json.loads(rca("evaluate", "--show", incident, "--out", out, "--json"))["answers"]
    assert {len(a["candidates"]) for a in answers} == {len(answers[0]["candidates"])}


def test_many_systems_of_an_incident_each_share_one_table(bundles: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("RCA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("rca.cli.evaluate._MOST_TABLES", 2)
    for name in ("one", "two", "three"):
        incident, telemetry = read_bundle(next(bundles.glob("example-*")))
        write_bundle(tmp_path / "many" / name, incident.model_copy(update={"id": name, "system": name}), telemetry)
    out = tmp_path / "results"
    run = ("evaluate", "--bundles", tmp_path / "many", "--out", out, "--split", "zero-shot", "--ranker", "random")
    text = rca(*run)
    assert text.startswith("all 3 systems: No labels at all")
    assert "3 incidents in 3 groups" in text
    assert text.count("chance") == 1
    assert text.splitlines()[-1].startswith("Each system by itself: --json")
    assert [row["dataset"] for row in json.loads(rca(*run, "--json"))["runs"]] == ["one", "three", "two"]


def test_a_trained_model_is_no_rule_to_be_compared_with(exam: Exam) -> None:
    run = evaluate(exam, [RankerSpec("max-z")], "zero-shot")[0]
    models = [replace(run, ranker=name) for name in ("model", "model:folder=models/mine")]
    weak = replace(run, ranker="random", predictions=tuple(Prediction.failed(p.truth, "no idea") for p in run.predictions))
    assert {row["against_best_rule"]["rule"] for row in tables.summaries([*models, weak])} == {"random"}


def test_kinds_stand_below_each_other_where_there_are_more_of_them_than_rankers() -> None:
    def row(ranker: str, **shares: float) -> tables.Summary:
        kinds = {"all": {"incidents": 6}} | {kind: {"incidents": 2, "ac1": {"value": share}} for kind, share in shares.items()}
        return {"ranker": ranker, "learned": False, "uses_names": False, "by_fault_kind": kinds}

    rows = [row("floor", cpu_contention=0.5, dns=1, loss=0), row("random", cpu_contention=0, dns=0.5, loss=0)]
    head, body = tables.by_kind(rows)
    assert (head, body[0]) == (["fault kind", "floor", "random"], ["cpu contention (2)", "0.50", "0.00"])
    assert [line[0] for line in body] == ["cpu contention (2)", "dns (2)", "loss (2)"]
    assert tables.by_kind([row("floor", dns=1)]) == (["ranker", "dns (2)"], [["floor", "1.00"]])
    many = [row(f"ranker-{i}", **{f"kind_{kind}": 1.0 for kind in range(12)}) for i in range(11)]
    assert tables.by_kind(many)[0] == ["fault kind", *(f"ranker-{i}" for i in range(6))]


def test_command_reads_the_store(bundles: Path, tmp_path: Path, monkeypatch) -> None:
    from rca.incidents.store import IncidentStore

    monkeypatch.setenv("RCA_HOME", str(tmp_path / "home"))
    with IncidentStore() as store:
        for bundle in bundles.iterdir():
            store.import_bundle(bundle)
    text = rca("evaluate", "--system", "example-shop", "--out", tmp_path / "r", "--ranker", "random", "--split", "zero-shot")
    assert "4 incidents" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ranker", "rondom"), "did you mean random"),
        (("--ranker", "random:sed=1"), "did you mean seed"),
        (("--split", "fold"), "did you mean folds"),
        (("--transform", "no-log"), "did you mean no-logs"),
        (("--split", "leave-system-out"), "at least two systems"),
        (("--system", "example-shp"), "did you mean example-shop"),
        (("--show", "nothing"), "expected predictions"),
        (("--against", "max-z", "--ranker", "random"), "--against"),
    ],
)
def test_mistakes_are_explained(bundles: Path, tmp_path: Path, monkeypatch, arguments, message: str) -> None:
    monkeypatch.setenv("RCA_HOME", str(tmp_path / "home"))
    result = CliRunner().invoke(app, ["evaluate", "--bundles", str(bundles), "--out", str(tmp_path / "r"), *arguments])
    assert isinstance(result.exception, BadInput)
    assert message in str(result.exception)


def test_labelled_cases_of_the_tests_are_what_the_contract_says() -> None:
    assert all(isinstance(case, LabelledCase) for case in example_cases())
