"""The table of what damage costs: who is right to name, wrong labels, what is counted, and that a run goes on where it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rca.evaluation.damage import DAMAGES
from rca.evaluation.transforms import NONE, TRANSFORMS
from rca.incidents.example import example_incident
from rca.models.registry import create
from rca.pipeline import case_of
from rca.telemetry import EntityId, Telemetry
from scripts import robustness
from scripts.robustness import CONDITIONS, RENAMED, RULES, SHIPPED, Answer, Row, asked, poisoned, read_rows, summary, truth_of
from scripts.robustness_page import _WORDS, _alike, hurting, tables
from scripts.sets import ROBUSTNESS, read_result
from tests.cases import example_cases


def row(number: int, before: int | None, after: int | None, *, has_cause: bool = True, names: bool = False) -> Row:
    was, became = (Answer(rank, 0.5 if rank else 0.0, names) for rank in (before, after))
    answers = {NONE: dict.fromkeys((SHIPPED, *RULES), was), "no-logs": dict.fromkeys((SHIPPED, *RULES), became)}
    return Row("simulated", f"i{number}", (f"s{number}", "x", "y"), has_cause, answers, {NONE: 0.1, "no-logs": 0.2})


def test_a_row_compares_the_incidents_that_a_damage_changes_with_themselves() -> None:
    untouched = replace(row(9, 1, 1), answers={NONE: row(9, 1, 1).answers[NONE]})
    rows = [
        row(0, 1, 1),
        row(1, 1, 2),
        row(2, 1, None),
        row(3, 2, 1),
        untouched,
        row(4, None, None, has_cause=False, names=True),
    ]
    found = summary(rows, "no-logs")
    assert found is not None
    assert (found["incidents"], found["no_fault"], found["chance"]) == (4, 1, 0.2)
    shipped = found["rankers"][SHIPPED]
    assert (shipped["before"]["value"], shipped["ac1"]["value"], shipped["difference"]["value"]) == (0.75, 0.5, -0.25)
    assert (shipped["ac3"], shipped["no_candidate"], shipped["invents"], shipped["nobody"]) == (0.75, 1, 1.0, 1.0)
    assert shipped["difference"]["low"] < -0.25 < shipped["difference"]["high"]
    assert summary(rows, "no-events") is None


def test_what_hurts_most_is_what_loses_beyond_its_interval() -> None:
    def one(value: float, high: float) -> dict[str, object]:
        return {"incidents": 9, "rankers": {SHIPPED: {"difference": {"value": value, "low": -1.0, "high": high}}}}

    said = hurting(
        "simulated", {"none": {}, "no-logs": one(-0.1, 0.01), "no-traces": one(-0.2, -0.1), "gone-20%": one(-0.4, -0.2)}
    )
    assert "what hurts most: 20 % of the services unheard of -0.40 [-1.00, -0.20] (n = 9); no traces -0.20" in said
    assert "2 of 3 rows lose beyond their interval." in said


def test_invented_causes_are_told_with_how_many_incidents_there_were() -> None:
    def one(quiet: int, before: float, after: float) -> dict[str, object]:
        rates = {"difference": {"value": 0.0, "low": 0.0, "high": 0.0}, "invents": after, "invents_before": before}
        return {"incidents": 9, "no_fault": quiet, "rankers": {SHIPPED: rates}}

    found = {"none": {}, "no-logs": one(7, 0.0, 0.14), "no-traces": one(2, 0.0, 0.5), "no-events": one(9, 0.3, 0.3)}
    said = hurting("shop", found)
    assert "where n is 5 or more, with `no logs`: 0% → 14% (n = 7)." in said
    assert "invented" not in hurting("shop", {"none": {}, "no-events": one(9, 0.3, 0.3)})


def test_a_baseline_that_is_right_as_often_is_named() -> None:
    def of(model: float, floor: float) -> dict[str, object]:
        return {"conditions": {"none": {"rankers": {SHIPPED: {"ac1": {"value": model}}, "floor": {"ac1": {"value": floor}}}}}}

    assert "as often as floor, and no oftener" in _alike({"shop": of(0.5, 0.5), "simulated": of(0.7, 0.7)})
    assert _alike({"shop": of(0.5, 0.5), "simulated": of(0.7, 0.6)}) == ""


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_so_many_labels_are_wrong(share: float) -> None:
    cases = example_cases()
    made = poisoned(cases, share, 1)
    wrong = [(was, is_) for was, is_ in zip(cases, made, strict=True) if was.causes != is_.causes]
    assert len(wrong) == round(share * len(cases))
    for was, now in wrong:
        assert not set(was.causes) & set(now.causes)
        assert set(now.causes) <= set(now.case.graph.candidates)
        assert (now.case, now.incident_id, now.fault_kind) == (was.case, was.incident_id, was.fault_kind)
    assert [case.causes for case in poisoned(cases, share, 1)] == [case.causes for case in made]


def test_a_cause_that_only_its_callers_know_may_be_named_by_its_address() -> None:
    incident, telemetry = example_incident(3, requests_per_second=1.0)
    graph = case_of(incident, telemetry).graph
    (cause,) = truth_of(incident, graph).causes
    assert cause in graph.candidates
    address = replace(cause, kind="external")
    unseen = replace(graph, entities=tuple(address if entity == cause else entity for entity in graph.entities))
    assert truth_of(incident, unseen).causes == (address,)
    stranger = EntityId("service", "nobody")
    nowhere = replace(graph, entities=tuple(stranger if entity == cause else entity for entity in graph.entities))
    assert truth_of(incident, nowhere).causes == (cause,)


def test_where_nothing_was_observed_nobody_is_named() -> None:
    incident, _ = example_incident(3, requests_per_second=1.0)
    case = case_of(incident, Telemetry())
    assert asked(create("floor"), case, truth_of(incident, case.graph)) == Answer(None, 0.0, names=False)


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path, monkeypatch) -> None:
    done: list[tuple[str, int]] = []

    def work(jobs, training, place) -> Row:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(jobs[place])
        return replace(row(jobs[place][1], 1, None), source=jobs[place][0])

    monkeypatch.setattr(robustness, "row_of", work)
    jobs, path = [("shop", 0), ("raw", 0), ("simulated", 0), ("simulated", 1)], tmp_path / "kept" / "rows.jsonl"
    with pytest.raises(KeyboardInterrupt):
        robustness.run(jobs, 0, 1, path)
    assert list(read_rows(path)) == jobs[:2]
    path.write_text(path.read_text() + '{"index": 0, "sour')
    done.clear()
    rows = robustness.run(jobs[:4], 0, 1, path)
    assert done == jobs[2:], "a line that was cut off is no row, and does not spoil the next"
    assert [r.source for r in rows] == [source for source, _ in jobs]
    assert rows[0] == replace(row(0, 1, None), source="shop")
    assert robustness.run(jobs, 0, 1, path) == rows


def test_sources_take_turns_and_trained_rankers_come_last() -> None:
    jobs = robustness.jobs_of({"shop": 2, "raw": 1, "simulated": 4})
    assert [source for source, _ in jobs[:4]] == ["raw", "shop", "simulated", "simulated"]
    assert len(jobs) == len(set(jobs)) == 2 + 1 + 4 + 2 + 4
    assert {source for source, _ in jobs[7:]} == set(robustness.POISONED_SETS)


def test_rankers_of_wrong_labels_are_asked_about_incidents_as_they_are(monkeypatch) -> None:
    monkeypatch.setattr(robustness, "SEEDS", {"held-out": 303_030, "training": 303_031})
    found = robustness.row_of([("simulated, wrong labels", 3)], 8, 0)
    assert not found.answers
    assert len(found.poisoned) == len(robustness.LEARNERS) * len(robustness.POISONED) * robustness.DRAWS
    assert robustness.of_poison([found])["learners"]["logistic"]["0%"]["difference"]["value"] == 0


def test_every_condition_is_one_that_can_be_asked_for_and_has_words() -> None:
    assert set(CONDITIONS) <= set(TRANSFORMS)
    assert set(DAMAGES) <= set(CONDITIONS)
    assert {NONE, *CONDITIONS} == set(_WORDS)


def test_one_incident_under_every_condition(monkeypatch) -> None:
    monkeypatch.setattr(robustness, "SEEDS", {"held-out": 303_030, "training": 303_031})
    found = robustness.row_of([("simulated", 1)], 0, 0)
    assert {NONE, RENAMED, "only-metrics", "edges-removed-20%"} <= set(found.answers)
    assert "traces-5%" not in found.answers, "whole traces are sampled of raw spans"
    for name, said in found.answers[RENAMED].items():
        assert said.rank == found.answers[NONE][name].rank
        assert said.probabilities == pytest.approx(found.answers[NONE][name].probabilities, abs=1e-6)
    assert not any(answer.failure for by in found.answers.values() for answer in by.values())


def test_the_results_say_what_they_are_of_and_that_names_do_not_matter() -> None:
    body = read_result(ROBUSTNESS)
    assert body["seeds"] == robustness.SEEDS
    for name, found in body["sets"].items():
        assert hurting(name, found["conditions"]) in tables(body)
        for one in found["conditions"].values():
            assert not any(of["failures"] for of in one["rankers"].values())
        assert all(of["other_rank"] == 0 for of in found["conditions"][RENAMED]["rankers"].values())
