"""The promotion gate: what it requires, in numbers worked out by hand, and what `rca models` makes of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from rca.cli.main import app
from rca.cli.models import REFUSED_EXIT_CODE
from rca.contracts import Case
from rca.errors import BadCheckpoint, BadGraph, BadInput, UnknownName
from rca.evaluation import life
from rca.evaluation.promotion import (
    CHANCE,
    Answers,
    Evaluation,
    Examined,
    Verdict,
    check_held_out,
    difference,
    judged,
    sign_flip_chance,
)
from rca.features import NODE_FEATURE_NAMES
from rca.incidents.example import example_incident
from rca.incidents.incident import Label
from rca.incidents.store import IncidentStore
from rca.models import shipped
from rca.models import versions as versions_module
from rca.models.files import read_model
from rca.models.learnt import Learnt, write_learnt
from rca.models.rules.floor import Floor
from rca.models.shipped import default_ranker, shipped_folder
from rca.models.versions import State, Version, Versions
from rca.ranking import Ranking
from tests.cases import CULPRITS
from tests.versions import model_folder, registered

N = 24  # incidents with a cause, each a group of its own


def evaluation(
    model: Sequence[int | None],
    current: Sequence[int | None],
    rule: Sequence[int | None] | None = None,
    *,
    kinds: Sequence[str] = (),
    blames: tuple[int, int, int] = (0, 0, 0),
    version: str = "mine-1",
    beside: str | None = None,
    name: str = "",
) -> Evaluation:
    """An evaluation from the ranks of the causes. `blames` are incidents without a cause, and false alarms of both models."""
    kinds = kinds or ["exception"] * len(model)
    quiet, *alarms = blames
    incidents = [Examined(f"i{row}", f"d{row}", "shop", kind, "leaf", f"g{row}", cause=True) for row, kind in enumerate(kinds)]
    incidents += [Examined(f"q{row}", f"e{row}", "shop", "no_fault", "unknown", "q", cause=False) for row in range(quiet)]

    def answers(who: str, ranks: Sequence[int | None], false: int) -> Answers:
        return Answers(who, (*ranks, *[None] * quiet), (*[True] * len(ranks), *(row < false for row in range(quiet))))

    return Evaluation(
        version=version, beside=beside, of="the store", made_ns=1, who="tester", code="0", incidents=tuple(incidents),
        model=answers(version, model, alarms[0]), current=answers(name or "old", current, alarms[1]),
        rules=(answers("floor", rule or [9] * len(model), 0), answers("max-z", [10] * len(model), 0)),
    )  # fmt: skip


def unmet(verdict: Verdict) -> list[str]:
    return [reason.what for reason in verdict.reasons if not reason.met]


# --- by hand ------------------------------------------------------------------------------------------------------------


def test_chance_of_signs_by_hand() -> None:
    """Of n groups that all differ in one direction, chance does as much in one of 2^n ways."""
    for n in (1, 3, 6):
        assert sign_flip_chance(np.full(n, 0.5), list(map(str, range(n)))) == 0.5**n
    # +1, +1, -1: sums of at least 1 are +++ (3), ++- and its two likes (1): 4 of 8
    assert sign_flip_chance(np.array([1.0, 1.0, -1.0]), ["a", "b", "c"]) == 4 / 8
    # repetitions of one injection flip together: two groups of +1
    assert sign_flip_chance(np.array([0.5, 0.5, 1.0]), ["a", "a", "b"]) == 1 / 4
    assert sign_flip_chance(np.zeros(4), list("abcd")) == 1.0


@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]), min_size=1, max_size=8))
def test_a_difference_and_its_opposite(values: list[float]) -> None:
    found, groups = np.array(values), list(map(str, range(len(values))))
    there, back = sign_flip_chance(found, groups), sign_flip_chance(-found, groups)
    assert 0 < there <= 1
    assert there + back >= 1 - 1e-9, "what is as likely as not is counted on both sides"
    assert difference(found, np.zeros(len(values)), groups).better <= (there <= CHANCE)


@pytest.mark.parametrize(("improved", "promoted"), [(24, True), (8, True), (6, True), (5, False), (1, False), (0, False)])
def test_how_many_groups_must_improve(improved: int, promoted: bool) -> None:
    """From second to first in some groups, the others alike. 6 of 6: 1/64 = 0.016, enough; 5 of 5: 1/32 = 0.031, too likely."""
    ranks = [1] * improved + [2] * (N - improved)
    verdict = judged(evaluation(ranks, [2] * N))
    assert verdict.passed is promoted
    assert unmet(verdict) == ([] if promoted else ["better than the model that ranks now"])
    words = verdict.reasons[1].words
    mean = (improved + (N - improved) / 2) / N
    assert words.startswith(f"mean reciprocal rank {mean:.3f} against 0.500 of old, difference {mean - 0.5:+.3f}")


def test_it_must_beat_the_best_rule_too() -> None:
    better_than_current = [1] * 12 + [2] * 12
    verdict = judged(evaluation(better_than_current, [3] * N, rule=better_than_current))
    assert unmet(verdict) == ["better than the best simple rule"]
    assert "of floor, difference +0.000" in verdict.reasons[2].words
    assert judged(evaluation([1] * N, [3] * N, rule=better_than_current)).passed


def test_a_cohort_that_is_lost_keeps_a_better_model_out() -> None:
    kinds = ["exception"] * 19 + ["cpu_contention"] * 5
    ranks = [1] * 19 + [2] * 5
    verdict = judged(evaluation(ranks, [4] * 19 + [1] * 5, kinds=kinds))
    assert unmet(verdict) == ["no cohort is lost"]
    assert "fault kind cpu_contention (5 incidents): -0.500 (95 %: -0.500 to -0.500)" in verdict.reasons[3].words
    few = judged(evaluation([1] * 20 + [2] * 4, [4] * 20 + [1] * 4, kinds=["exception"] * 20 + ["cpu_contention"] * 4))
    assert few.passed, "four incidents are too few to tell"
    assert few.reasons[3].words.endswith("that are large enough to tell")
    repeated = evaluation([1] * 19 + [2] * 5, [4] * 19 + [1] * 5, kinds=kinds)
    again = tuple(replace(one, group=f"g{min(row, 20)}") for row, one in enumerate(repeated.incidents))
    verdict = judged(replace(repeated, incidents=again))
    assert verdict.passed, "two groups are too few to tell"
    assert verdict.reasons[3].words.endswith("; lower, which may be noise, in fault kind cpu_contention (5)")
    even = judged(evaluation([1] * 19 + [2, 2, 1, 1, 1], [4] * 19 + [1, 1, 2, 2, 1], kinds=kinds))
    assert even.passed, "a cohort that wins as much as it loses is none that is lost"


def test_false_alarms_keep_a_better_model_out() -> None:
    assert unmet(judged(evaluation([1] * N, [3] * N, blames=(8, 6, 0)))) == ["no more false alarms"]
    assert judged(evaluation([1] * N, [3] * N, blames=(8, 1, 0))).passed
    assert judged(evaluation([1] * N, [3] * N, blames=(4, 4, 0))).passed, "too few to tell"


def test_few_incidents_or_repetitions_of_few_say_nothing() -> None:
    assert unmet(judged(evaluation([1] * 19, [3] * 19))) == ["enough incidents"]
    made = evaluation([1] * N, [3] * N)
    again = replace(made, incidents=tuple(replace(one, group=f"g{row % 9}") for row, one in enumerate(made.incidents)))
    assert unmet(judged(again)) == ["enough incidents"]
    assert unmet(judged(evaluation([], [], blames=(9, 0, 0)))) == ["enough incidents"]


def test_a_cause_that_was_never_named_counts_nothing() -> None:
    verdict = judged(evaluation([None] * N, [2] * N))
    assert "mean reciprocal rank 0.000 against 0.500" in verdict.reasons[1].words
    assert not verdict.passed


def test_a_model_that_fails_is_not_promoted_and_whoever_fails_is_named() -> None:
    made = evaluation([1] * N, [None] * N)
    current = replace(made.current, failures=tuple((f"i{row}", "out of memory") for row in range(N)))
    assert judged(replace(made, current=current)).passed
    words = "old failed on 24 of 24 incidents, which count as missed (i0: out of memory)"
    left_out = (("i99", "expected spans.parquet, found none"),)
    assert life.notes_of(replace(made, current=current, left_out=left_out)) == [
        words,
        "left out, since unreadable: 1 incident (i99: expected spans.parquet, found none)",
    ]
    failing = replace(made.model, failures=(("i3", "no such kernel"),))
    verdict = judged(replace(made, model=failing))
    assert unmet(verdict) == ["an answer to every incident"]
    assert verdict.reasons[1].words == "mine-1 failed on 1 of 24 incidents, which count as missed (i3: no such kernel)"
    again = replace(made, model=failing)
    assert Evaluation.from_json(json.loads(json.dumps(again.to_json()))) == again


def test_what_was_learnt_from_cannot_judge() -> None:
    learnt = Learnt.of([("seen", "digest")])
    check_held_out("mine-1", learnt, [("other", "other")])
    for incident in (("seen", "other"), ("renamed", "digest")):
        with pytest.raises(BadInput, match=rf"--unseen.*found 1 of 2 incidents that it learnt from: {incident[0]}"):
            check_held_out("mine-1", learnt, [("other", "x"), incident])
    with pytest.raises(BadInput, match="lists what it learnt from"):
        check_held_out("mine-1", None, [("other", "x")])


def test_an_evaluation_reads_back() -> None:
    made = evaluation([1, None], [2, 3], blames=(2, 1, 0))
    body = json.loads(json.dumps(made.to_json()))
    assert Evaluation.from_json({**body, "digest": "abc"}) == made
    without = {k: v for k, v in body.items() if k != "model"}
    for broken in ({**body, "format": "9"}, {**body, "incidents": [1]}, {**body, "model": [1]}, without):
        with pytest.raises(BadCheckpoint, match="evaluation"):
            Evaluation.from_json(broken)
    body["model"]["ranks"] = [1]
    with pytest.raises(BadCheckpoint, match="an answer to each of 4 incidents"):
        Evaluation.from_json(body)


# --- the commands -------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if shipped_folder() is None:
        pytest.skip("no model ships")
    monkeypatch.setenv("RCA_HOME", str(tmp_path))
    monkeypatch.delenv(shipped.VARIABLE, raising=False)
    return tmp_path


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["models", *words], catch_exceptions=False)


def measured(versions: Versions, version: Version, improved: int = N, beside: Version | None = None) -> str:
    """Put an evaluation of a version down, beside the shipped model or another version."""
    other = beside.model.id if beside else shipped.shipped_ranker().name
    made = evaluation(
        [1] * improved + [2] * (N - improved), [2] * N, version=version.id, beside=beside.id if beside else None, name=other
    )
    return versions.add_evaluation(version.id, made.to_json())


def test_without_an_evaluation_nothing_is_promoted_unless_by_force(home: Path) -> None:
    one, two = registered(home, "one", "two")
    with pytest.raises(BadInput, match=f"expected an evaluation of it .`rca models evaluate {one.id}` makes one., found none"):
        run("promote", one.id)
    with pytest.raises(BadInput, match="--force: expected a reason, found none"):
        run("promote", one.id, "--force", " ")
    with pytest.raises(BadInput, match="--why, or the reason of --force, found both"):
        run("promote", one.id, "--force", "the old one is on fire", "--why", "it is")
    done = run("promote", one.id, "--force", "the old one is on fire", "--by", "anna")
    assert done.exit_code == 0
    assert "forced past the gate: " in done.stderr
    assert done.stdout.startswith(f"{one.id} ranks now, the model that ships ranked before")
    with pytest.raises(BadInput, match="another version than the one that ranks"):
        run("promote", one.id, "--force", "again")
    (change,) = json.loads(run("history", "--json").stdout)["changes"]
    assert (change["who"], change["why"], change["forced"], change["evaluation"]) == (
        "anna",
        "the old one is on fire",
        True,
        None,
    )
    measured(Versions(home), two)
    with pytest.raises(BadInput, match=f"an evaluation beside {one.id}, which ranks now .*, found one beside"):
        run("promote", two.id)


def test_a_promotion_rests_on_its_evaluation(home: Path) -> None:
    versions = Versions(home)
    one, two = registered(home, "one", "two")
    digest = measured(versions, one)
    done = run("promote", one.id, "--why", "much better")
    assert done.exit_code == 0, done.output
    assert f"evaluation {digest} of the store, 1970-01-01 00:00:00 UTC by tester, beside general-" in done.stdout
    assert f"by this evaluation {one.id} may be promoted" in done.stdout
    measured(versions, two, improved=3, beside=one)
    refused = run("promote", two.id)
    assert refused.exit_code == REFUSED_EXIT_CODE
    assert "NO   better than the model that ranks now: mean reciprocal rank 0.562 against 0.500" in refused.stdout
    assert f"{two.id} is not promoted; --force REASON" in refused.stderr
    assert versions.state().current == one.id
    assert f"ranks  {one.id}" in " ".join(run("list").stdout.split(" "))
    shown = run("show", one.id).stdout
    assert ["exception", str(N), "100", "(86-100)", "0", "(0-14)", "0", "(0-14)"] in [line.split() for line in shown.splitlines()]
    body = json.loads(run("show", one.id, "--json").stdout)
    assert body["evaluations"][0]["cohorts"]["fault kind"]["exception"]["version"]["ac1"]["value"] == 1.0
    assert body["evaluations"][0]["cohorts"]["fault kind"]["exception"]["current"]["mrr"]["value"] == 0.5
    assert body["evaluations"][0]["passed"] is True
    assert json.loads(run("list", "--json").stdout)["current"] == one.id
    assert f"promoted {one.id} in the place of the model that ships, on evaluation {digest}: much better" in run("history").stdout
    assert run("rollback", "--why", "late in the night").stdout.startswith("the model that ships ranks now, in the place of")
    assert versions.state().current is None
    with pytest.raises(BadInput, match="expected a promotion to roll back"):
        run("rollback")
    with pytest.raises(BadInput, match="a version that ranked before"):
        run("rollback", "--to", two.id)
    assert run("rollback", "--to", one.id).exit_code == 0
    assert versions.state().current == one.id


def test_what_was_in_shadow_alone_is_nothing_to_roll_back_to(home: Path) -> None:
    (one,) = registered(home, "one")
    assert run("shadow", one.id).exit_code == 0
    with pytest.raises(BadInput, match="a version that ranked before"):
        run("rollback", "--to", one.id)
    assert Versions(home).state().current is None


def test_what_a_version_learnt_from_promotes_it_nowhere(home: Path) -> None:
    """The evaluation is as it was when it was made; that its incidents were learnt from is looked at again."""
    folder = model_folder(home / "made", "mine")
    write_learnt(read_model(folder), Learnt.of([("i3", "another recording")]))
    one = Versions(home).register(folder, source="test").version
    measured(Versions(home), one)
    with pytest.raises(BadInput, match=rf"evaluation of {one.id}: .* found 1 of {N} incidents that it learnt from: i3"):
        run("promote", one.id)
    assert Versions(home).state().current is None


def test_an_evaluation_of_another_version_promotes_nothing(home: Path) -> None:
    versions = Versions(home)
    one, two = registered(home, "one", "two")
    body = {**evaluation([1] * N, [2] * N, version=two.id, name=shipped.shipped_ranker().name).to_json()}
    versions.add_evaluation(one.id, body)
    with pytest.raises(BadInput, match=f"expected one of {one.id}, found {two.id}"):
        run("promote", one.id)


def test_a_promotion_that_another_one_overtook_is_told_so(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the gate reads, somebody else promotes: what ranks is no longer what the evaluation was made beside."""
    versions = Versions(home, who="bob")
    one, two = registered(home, "one", "two")
    measured(versions, one)
    reads = life.judgement

    def overtaken(versions_: Versions, version: Version, state: State) -> life.Judgement:
        found = reads(versions_, version, state)
        versions.promote(two, expected=versions.state(), why="first")
        return found

    monkeypatch.setattr(life, "judgement", overtaken)
    with pytest.raises(BadInput, match=f"expected no change after change 0, found change 1: promote of {two.id} by bob"):
        run("promote", one.id)
    assert versions.state().current == two.id
    assert len(versions.history()) == 1


def test_evaluations_of_many_systems_and_of_nobody_to_blame(home: Path) -> None:
    versions = Versions(home)
    one, two, three = registered(home, "one", "two", "three")
    made = evaluation([1] * 40, [2] * 40, version=one.id)
    many = tuple(replace(each, system=f"s{max(row - 5, 0)}") for row, each in enumerate(made.incidents))
    versions.add_evaluation(one.id, replace(made, incidents=many).to_json())
    shown = [line.split() for line in run("show", one.id).stdout.splitlines()]
    assert ["s0", "6", "100", "(54-100)", "0", "(0-46)", "0", "(0-46)"] in shown
    assert ["34", "too", "small", "to", "tell", "34"] in shown
    versions.add_evaluation(two.id, evaluation([], [], blames=(9, 0, 0), version=two.id).to_json())
    assert ["all", "0", "-", "-", "-"] in [line.split() for line in run("show", two.id).stdout.splitlines()]
    assert json.loads(run("show", two.id, "--json").stdout)["evaluations"][0]["passed"] is False
    digest = versions.add_evaluation(three.id, made.to_json())
    path = versions.folder / "evaluations" / three.id / f"{digest}.json"
    path.write_text(path.read_text().replace("shop", "stop"))
    listed = {line.split()[0]: line.split()[3:] for line in run("list").stdout.splitlines()[1:]}
    assert listed == {one.id: ["100", "%", "of", "40"], two.id: ["-"], three.id: ["damaged"]}
    with pytest.raises(BadCheckpoint, match=f"{digest}.json: expected the evaluation {digest}, found .* .damaged or changed"):
        run("show", three.id)


@pytest.mark.parametrize("harm", ["weights", "features"])
def test_no_command_takes_a_damaged_version_or_one_for_other_features(
    harm: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = Versions(home)
    one, two = registered(home, "one", "two")
    for each in (one, two):
        versions.promote(each, expected=versions.state(), why="")
    measured(versions, one, beside=two)
    with IncidentStore(home, who="test") as store:
        incident, telemetry = example_incident(5, *CULPRITS[0], requests_per_second=0.5)
        store.add(incident, telemetry)
    if harm == "weights":
        for file in (*one.folder.glob("*.onnx"), *one.folder.glob("*.safetensors")):
            file.write_bytes(b"junk")
        said = "damaged or replaced"
    else:  # the program was upgraded, and makes other features now
        for module in (versions_module, shipped):
            monkeypatch.setattr(module, "NODE_FEATURE_NAMES", ("gremlins.z", *NODE_FEATURE_NAMES[1:]))
        said = r"gremlins\.z"
    state, packed = versions.state(), home / "one.tar.zst"
    commands = ["show"], ["evaluate"], ["promote"], ["promote", "--force", "now"], ["shadow"], ["export", str(packed)]
    for name, *more in commands:
        with pytest.raises(BadCheckpoint, match=said):
            run(name, one.id, *more)
    with pytest.raises(BadCheckpoint, match=said):
        run("rollback")
    assert versions.state() == state
    assert not packed.exists()
    if harm == "weights":
        assert default_ranker(home).name == two.model.id
    assert run("rollback", "--to", "shipped").exit_code == 0, "there is always a way back"


def test_a_version_that_was_removed_is_named_and_another_one_ranks(home: Path) -> None:
    versions = Versions(home)
    one, two = registered(home, "one", "two")
    for each in (one, two):
        versions.promote(each, expected=versions.state(), why="")
    shutil.rmtree(one.folder)
    with pytest.raises(UnknownName, match=f"found '{one.id}'"):
        run("rollback")
    assert versions.state().current == two.id
    assert f"promoted {one.id}" in run("history").stdout
    shutil.rmtree(two.folder)
    assert f"expected {two.id}, which was promoted, found none" in run("list").stderr
    assert list(json.loads(run("list", "--json").stdout)["broken"]) == [two.id]
    assert default_ranker(home).name == shipped.shipped_ranker().name
    assert run("rollback", "--to", "shipped").exit_code == 0
    assert "no version was promoted" in run("list").output


def test_a_version_is_measured_on_what_it_never_saw(home: Path) -> None:
    with IncidentStore(home, who="test") as store:
        for kind, culprit in CULPRITS[:2]:
            incident, telemetry = example_incident(5, kind, culprit, requests_per_second=0.5)
            store.add(incident.model_copy(update={"id": kind}), telemetry)
        incident, telemetry = example_incident(6, "no_fault", "cart", requests_per_second=0.5)
        store.add(
            incident.model_copy(update={"id": "quiet", "labels": (Label(fault_kind="no_fault", provenance="confirmed"),)}),
            telemetry,
        )
    (one,) = registered(home, "one")
    done = run("evaluate", one.id)
    assert done.exit_code == 0, done.output
    assert "NO   enough incidents: 2 incidents with a cause in 2 groups; at least 20 in 10" in done.stdout
    (body,) = Versions(home).evaluations(one.id)
    made = Evaluation.from_json(body)
    assert [each.id for each in made.incidents] == ["cpu_contention", "network_delay", "quiet"]
    assert (made.version, made.beside, made.current.ranker) == (one.id, None, shipped.shipped_ranker().name)
    assert [rule.ranker for rule in made.rules][:2] == ["floor", "max-z"]
    assert run("promote", one.id).exit_code == REFUSED_EXIT_CODE
    packed = home / "one.tar.zst"
    assert run("export", one.id, str(packed)).exit_code == 0
    assert "was there already" in run("import", str(packed)).stdout
    run("promote", one.id, "--force", "a test")
    with pytest.raises(BadInput, match="another version than the one that ranks"):
        run("evaluate", "current")


def test_a_version_that_cannot_rank_an_incident_is_told_so(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fails(Floor):
        def rank(self, case: Case) -> Ranking:
            raise BadGraph("graph", expected="a kernel for it", found="none")

    with IncidentStore(home, who="test") as store:
        store.add(*example_incident(5, *CULPRITS[0], requests_per_second=0.5))
    (one,) = registered(home, "one")
    monkeypatch.setattr(life, "checked", lambda _: Fails())
    done = run("evaluate", one.id)
    said = " ".join(done.stdout.split())
    assert "NO an answer to every incident: floor failed on 1 of 1 incident, which count as missed" in said
    assert "a kernel for it" in said


def test_models_of_an_empty_home(home: Path) -> None:
    assert "no version was promoted: the model that ships" in run("list").output
    assert "nothing was ever promoted" in run("history").output
    with pytest.raises(BadInput, match="a version to have been promoted"):
        run("show", "current")
    with pytest.raises(BadInput, match="answers of a version in shadow"):
        run("compare")
    assert run("shadow", "off").stdout == "no version is in shadow\n"
    assert not list(home.iterdir()), "looking something up makes nothing"
