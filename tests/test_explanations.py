"""Explanations and their tests: deletions computed by hand, a ranker whose formula is known, a planted cause, properties."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Self

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from rca.alerting import why_not_alerting
from rca.cli.main import app
from rca.contracts import Case, LabelledCase
from rca.deviations import Deviations
from rca.errors import BadInput
from rca.evaluation.stability import stability_of
from rca.evidence import Facts
from rca.explanation import Answer, Stability, fared
from rca.features import Calibration, QuietGraphs, graph_of, quiet_graph, remembering
from rca.incidents.bundle import write_bundle
from rca.incidents.example import example_incident
from rca.models.attribution import (
    DRAWS,
    LEAST_BEATEN,
    MOST_ITEMS,
    beaten,
    explain,
    judged,
    loud_pieces,
    random_deletions,
    telling,
)
from rca.models.deletion import Piece, Standing, Trial, deleted_from, pieces_of, usual
from rca.models.registry import create
from rca.pipeline import case_of
from rca.ranking import Ranking, rank_by_score
from rca.signals import EDGE_COLUMN, EDGE_SIGNALS, NODE_COLUMN, NODE_SIGNALS
from rca.telemetry import EntityId, Telemetry
from scripts.explanations import WAYS, Row, chosen_weight, summary
from scripts.sets import EXPLANATIONS, read_result
from tests.cases import CULPRITS, example_case

CART, SHOP, POD = EntityId("service", "cart"), EntityId("service", "shop"), EntityId("pod", "cart-1")
ENTITIES = (CART, SHOP, POD)
ROWS = {entity: row for row, entity in enumerate(ENTITIES)}


def sheet(node: dict[tuple[EntityId, str], float], edge: dict[str, float] | None = None) -> Deviations:
    """Deviations of three entities: shop calls cart, which pod cart-1 runs."""
    values = np.full((3, len(NODE_SIGNALS)), np.nan)
    for (entity, signal), value in node.items():
        values[ROWS[entity], NODE_COLUMN[signal]] = value
    calls = np.full((1, len(EDGE_SIGNALS)), np.nan)
    for signal, value in (edge or {}).items():
        calls[0, EDGE_COLUMN[signal]] = value
    edges = {"calls": np.array([[1], [0]]), "runs": np.array([[0], [2]])}
    return Deviations(ENTITIES, edges, values, values / 10, {"calls": calls, "runs": np.full((1, len(EDGE_SIGNALS)), np.nan)})


def cell(deviations: Deviations, entity: EntityId, signal: str) -> float:
    return float(deviations.node[ROWS[entity], NODE_COLUMN[signal]])


# --- what is deleted --------------------------------------------------------------------------------------------------------


def test_signals_that_tell_the_same_are_one_piece() -> None:
    seen = sheet({(CART, name): 1.0 for name in ("cpu", "gap_in", "gap_in_all", "metric_gap", "own_errors")})
    pieces = pieces_of(seen, 0)
    assert [set(piece.signals) for piece in pieces] == [{"cpu"}, {"metric_gap", "gap_in", "gap_in_all"}, {"own_errors"}]
    assert [piece.size for piece in pieces] == [1, 3, 1]
    assert pieces_of(seen, 1) == ()


def test_a_deleted_signal_becomes_what_quiet_times_show() -> None:
    now = sheet({(CART, "cpu"): 9.0, (POD, "cpu"): 8.0, (SHOP, "cpu"): 7.0, (CART, "gap_in"): 6.0}, {"gap": 5.0, "calls": 4.0})
    quiet = [sheet({(CART, "cpu"): z, (POD, "cpu"): z / 2}, {"gap": z}) for z in (1.0, 2.0, 6.0)]
    case = replace(example_case(*CULPRITS[0]).case, deviations=now, quiet=tuple(quiet))
    usually = usual(case)
    assert (cell(usually, CART, "cpu"), cell(usually, POD, "cpu"), cell(usually, CART, "gap_in")) == (2.0, 1.0, 0.0)
    changed = deleted_from(now, [Piece(CART, ("cpu",))], usually, ROWS)
    assert (cell(changed, CART, "cpu"), cell(changed, POD, "cpu"), cell(changed, SHOP, "cpu")) == (2.0, 1.0, 7.0)
    assert changed.slope[0, NODE_COLUMN["cpu"]] == pytest.approx(0.2)
    assert cell(changed, CART, "gap_in") == 6.0
    assert np.isnan(cell(changed, CART, "memory"))  # what was not observed is not invented
    changed = deleted_from(now, [Piece(CART, ("gap_in",))], usually, ROWS)
    gap, calls = changed.edge["calls"][0, [EDGE_COLUMN["gap"], EDGE_COLUMN["calls"]]]
    assert (cell(changed, CART, "gap_in"), gap, calls) == (0.0, 2.0, 4.0)  # the call says the same, and is deleted too
    assert now.node[0, NODE_COLUMN["cpu"]] == 9.0


def test_a_deleted_call_is_gone() -> None:
    now = sheet({(CART, "cpu"): 9.0}, {"gap": 5.0})
    changed = deleted_from(now, [Piece(SHOP, (), CART)], now, ROWS)
    assert changed.edges["calls"].shape == (2, 0)
    assert changed.edge["calls"].shape == (0, len(EDGE_SIGNALS))
    assert changed.edges["runs"].shape == (2, 1)
    assert np.array_equal(changed.node, now.node, equal_nan=True)


def test_falls_are_exact_near_certainty() -> None:
    before, after = Standing(1, 1.0, 1e-20, CART), Standing(1, 1.0, 1e-18, CART)
    assert after.fall_from(before) == pytest.approx(0.99e-18)
    assert after.weight_from(before) == pytest.approx(np.log(100))


# --- which evidence is shown --------------------------------------------------------------------------------------------------


class Either:
    """A ranker that listens to the CPU a little, and to self time or errors, whichever strays: one stands in for the other."""

    name = "either"
    uses_names = False
    learned = False

    def fit(self, cases: Sequence[LabelledCase], validation: Sequence[LabelledCase] | None = None) -> Self:
        return self

    def rank(self, case: Case) -> Ranking:
        graph, rows = case.graph, case.graph.candidate_rows
        cpu, slow, failing = (np.clip(graph.column(f"{name}.above")[rows], 0, 1) for name in ("cpu", "self_time", "own_errors"))
        scores = np.maximum(slow, failing) + 0.1 * cpu
        return rank_by_score(self.name, case.window.incident, graph.candidates, scores)


@cache
def planted(seed: int = 7) -> LabelledCase:
    return example_case("cpu_contention", "catalogue", seed)


def trial_of(case: Case, ranker: str = "floor") -> Trial:
    made = create(ranker)
    return Trial(case, made, made.rank(case).candidates[0].entity)


def test_pieces_that_stand_in_for_each_other_are_found_together() -> None:
    case = planted().case
    row, columns = (
        case.deviations.entities.index(planted().causes[0]),
        [NODE_COLUMN[n] for n in ("cpu", "self_time", "own_errors")],
    )
    node = np.full_like(case.deviations.node, np.nan)
    node[:, columns], node[row, columns] = 0.1, 50.0
    loud = replace(case, deviations=replace(case.deviations, node=node), quiet=())
    loud = replace(loud, graph=graph_of(loud.deviations, Calibration.of((), loud.deviations)))
    trial = Trial(loud, Either(), planted().causes[0])
    own = {piece.signals[0]: piece for piece in trial.own}
    assert set(own) == {"cpu", "self_time", "own_errors"}
    others = len(loud.graph.candidates) - 1
    assert trial.standing.probability == pytest.approx(1 / (1 + others * np.exp(-1.1)))
    assert trial.without([own["cpu"]]).probability == pytest.approx(1 / (1 + others * np.exp(-1.0)))
    assert trial.without([own["self_time"]]).probability == trial.standing.probability
    assert trial.without(own.values()).probability == pytest.approx(1 / (1 + others))
    assert telling(trial, loud_pieces(trial), 1) == [own["cpu"]]
    assert set(telling(trial, loud_pieces(trial), 3)) == set(own.values())
    assert telling(trial, loud_pieces(trial), 2) == [own["cpu"]]  # half of a pair changes nothing


def test_evidence_is_chosen_by_what_its_deletion_costs() -> None:
    trial = trial_of(planted().case)
    pieces = telling(trial, loud_pieces(trial), MOST_ITEMS)
    costs = [trial.without([piece]).weight_from(trial.standing) for piece in loud_pieces(trial)]
    assert trial.without(pieces[:1]).weight_from(trial.standing) == max(costs)
    assert 1 <= len(pieces) <= MOST_ITEMS
    standings = [trial.without(pieces[:n]).probability for n in range(len(pieces) + 1)]
    assert standings == sorted(standings, reverse=True)
    asked = trial.rankings
    telling(trial, loud_pieces(trial), MOST_ITEMS)
    assert trial.rankings == asked  # what was tried is known


@given(st.lists(st.integers(1, 4), min_size=1, max_size=12), st.data())
def test_random_deletions_are_as_large_and_never_hold_what_is_shown(sizes: list[int], data: st.DataObject) -> None:
    names = iter(signal.name for signal in NODE_SIGNALS)
    pieces = [Piece(CART, tuple(next(names) for _ in range(size))) for size in sizes]
    shown = data.draw(st.lists(st.sampled_from(pieces), min_size=1, max_size=3, unique=True))
    found = random_deletions(pieces, shown, 5, np.random.default_rng(data.draw(st.integers(0, 99))))
    size = sum(piece.size for piece in shown)
    assert len(found) in (0, 5)
    for deletion in found:
        assert not set(shown) <= set(deletion)
        assert len(set(deletion)) == len(deletion)
        total = sum(piece.size for piece in deletion)
        assert total - deletion[-1].size < size
        assert total >= size or len(deletion) == len(pieces)


def test_where_nothing_else_was_observed_there_is_no_rival() -> None:
    trial = trial_of(planted().case)
    assert random_deletions(trial.own, trial.own, 5, np.random.default_rng(0)) == []
    assert beaten(trial, trial.own, []) is None


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_deletions_do_not_depend_on_order_and_leave_the_case_alone(data: st.DataObject) -> None:
    case = planted().case
    trial = trial_of(case)
    before = case.deviations.node.copy()
    pieces = data.draw(st.lists(st.sampled_from(trial.everything), max_size=5, unique=True))
    once = trial.case_without(pieces)
    again = trial.case_without(data.draw(st.permutations(pieces)))
    assert np.array_equal(once.graph.features, again.graph.features)
    assert np.array_equal(np.isfinite(once.deviations.node), np.isfinite(before))
    assert np.array_equal(case.deviations.node, before, equal_nan=True)
    if not pieces:
        assert np.array_equal(once.graph.features, case.graph.features)


def test_what_is_remembered_of_quiet_stretches_is_what_would_be_built() -> None:
    case = planted().case
    kept: QuietGraphs = {}
    with remembering(kept):
        first = quiet_graph(case.quiet, 0)
        assert quiet_graph(case.quiet, 0) is first
        assert quiet_graph(case.quiet, 0, case.deviations) is not first
        assert len(kept) == 1
        ranked = create("floor").rank(case)
        assert len(kept) == len(case.quiet)
        assert create("floor").rank(case) == ranked
    again = quiet_graph(case.quiet, 0)
    assert again is not first
    assert np.array_equal(again.features, first.features)
    assert create("floor").rank(case) == ranked


# --- strong and weak ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fault_kind", "culprit"), CULPRITS)
def test_a_planted_cause_is_explained_strongly(fault_kind: str, culprit: str) -> None:
    labelled = example_case(fault_kind, culprit)
    found = explain(labelled.case, create("floor"))
    assert found is not None
    assert found.entity == labelled.causes[0]
    assert (found.strength, found.why_weak) == ("strong", ())
    assert found.beats_any > LEAST_BEATEN
    assert found.stays_first
    assert found.items[-1].left == pytest.approx(found.probability - found.deletion)
    stated = {evidence.signal: evidence for evidence in Facts(labelled.case).evidence(found.entity)}
    for item in found.items:
        assert item.evidence.signal in item.signals
        assert item.evidence == stated.get(item.evidence.signal, item.evidence)
    assert found == explain(labelled.case, create("floor"))


def test_a_random_ranking_is_explained_weakly() -> None:
    """It cannot be traced to telemetry, whomever it names; the planted cause included."""
    for kind, culprit in CULPRITS:
        labelled = example_case(kind, culprit)
        for entity in (None, labelled.causes[0]):
            found = explain(labelled.case, create("random"), entity)
            assert found is not None
            assert found.strength == "weak"
            assert found.why_weak


def test_evidence_that_is_not_the_telling_one_is_weak() -> None:
    trial = trial_of(planted().case)
    best = telling(trial, loud_pieces(trial), MOST_ITEMS)
    others = [piece for piece in trial.own if piece not in best][:MOST_ITEMS]
    found = judged(trial, others)
    assert found.strength == "weak"
    assert found.beats_own is not None
    assert found.beats_own < LEAST_BEATEN
    assert not judged(trial, []).items


def test_where_nothing_at_all_is_left_to_delete_no_comparison_is_claimed() -> None:
    trial = trial_of(planted().case)
    found = judged(trial, trial.everything)
    assert (found.draws, found.beats_any, found.strength) == (0, 0.0, "weak")
    assert "Weak: there is too little other telemetry to compare with." in found.why_weak
    assert not any("random deletion" in said or "at random" in said for said in fared(found, "catalogue", "cart"))


def test_who_is_not_first_is_explained_weakly() -> None:
    case = planted().case
    second = create("floor").rank(case).candidates[1].entity
    found = explain(case, create("floor"), second)
    assert found is not None
    assert "Weak: another candidate comes first." in found.why_weak


def test_nobody_to_explain() -> None:
    case = case_of(planted_incident()[0], Telemetry.of())
    assert explain(case, create("floor")) is None


def test_sentences() -> None:
    found = explain(planted().case, create("floor"))
    assert found is not None
    said = " ".join(fared(found, "catalogue", "cart"))
    assert f"of {DRAWS} random deletions as large" in said
    assert "of catalogue itself" in said
    assert "keep it first" in said
    assert found.strength == "strong"


# --- stability ----------------------------------------------------------------------------------------------------------------


@cache
def planted_incident() -> tuple:  # type: ignore[type-arg]
    return example_incident(7, "cpu_contention", "catalogue", requests_per_second=1.5)


def test_the_answer_under_every_condition() -> None:
    incident, telemetry = planted_incident()
    found = stability_of(incident, telemetry, create("floor"))
    assert found.first == planted().causes[0]
    named = {answer.condition: answer for answer in found.answers}
    assert {"no-traces", "onset-60", "no-calls"} <= set(named)
    assert "no-requests" not in named  # it calls nobody outside
    without_traces = replace(telemetry, spans=telemetry.spans.clear())
    alone = create("floor").rank(case_of(incident, without_traces)).candidates[0]
    assert named["no-traces"].first in (alone.entity, None)
    assert all(answer.same == (answer.first == found.first) for answer in found.answers)


class Doubtful(Either):
    """The label-free score, which takes it for no fault where there are no traces."""

    def rank(self, case: Case) -> Ranking:
        return replace(create("floor").rank(case), no_fault=1.0 if case.window.bins.counts.is_empty() else 0.0)


def test_no_fault_is_another_answer_whoever_comes_first() -> None:
    incident, telemetry = planted_incident()
    found = stability_of(incident, telemetry, Doubtful())
    (without_traces,) = (answer for answer in found.answers if answer.condition == "no-traces")
    assert found.first == planted().causes[0]
    assert (without_traces.first, without_traces.probability, without_traces.same) == (None, 0.0, False)
    assert "It changes without traces: nobody would be named." in found.sentences([str(a.first or "") for a in found.answers])
    nobody = stability_of(incident, replace(telemetry, spans=telemetry.spans.clear()), Doubtful())
    assert nobody.first is None
    assert nobody.holds


def test_stability_in_words() -> None:
    answers = (
        Answer("no-logs", "without logs", CART, 0.9, same=True),
        Answer("no-metrics", "without metrics", CART, 0.8, same=True),
        Answer("no-traces", "without traces", SHOP, 0.4, same=False),
        Answer("onset-60", "with the onset a minute earlier", None, 0.0, same=False),
    )
    found = Stability(CART, answers)
    assert not found.holds
    assert found.sentences(["cart", "cart", "shop", ""]) == (
        "The answer stays the same without logs, without metrics.",
        "It changes without traces: shop would come first (40 %).",
        "It changes with the onset a minute earlier: nobody would be named.",
    )


# --- why not what alerts ------------------------------------------------------------------------------------------------------


def test_why_not_what_alerts() -> None:
    case = planted().case
    ranking = create("floor").rank(case)
    frontend = EntityId("service", "frontend")
    rank = next(candidate.rank for candidate in ranking.candidates if candidate.entity == frontend)
    said = why_not_alerting(case, ranking, [frontend])
    assert said.startswith(f"frontend alerts and is number {rank} (")
    assert "catalogue" in said
    assert said.endswith(".")
    assert why_not_alerting(case, ranking, [planted().causes[0], frontend]) == ""
    assert why_not_alerting(case, ranking, [EntityId("service", "unknown")]) == ""
    both = why_not_alerting(case, ranking, [frontend, EntityId("service", "checkout")])
    assert "the first of 2 candidates that alert, is number" in both


# --- the command --------------------------------------------------------------------------------------------------------------


def test_the_command_explains(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "bundle", *planted_incident())
    run = CliRunner().invoke(app, ["triage", str(path), "--ranker", "floor", "--explain", "--stability"])
    assert run.exit_code == 0, run.output
    words = " ".join(run.output.split())
    assert "Explanation of catalogue, tested: strong" in words
    assert "The answer stays the same" in words
    assert max(map(len, run.output.splitlines())) <= 80
    run = CliRunner().invoke(app, ["triage", str(path), "--ranker", "floor", "--explain", "--json"])
    body = json.loads(run.output)
    assert body["explanation"]["strength"] == "strong"
    assert body["explanation"]["entity"]["name"] == body["ranking"]["candidates"][0]["entity"]["name"]
    assert body["why_not_alerting"].startswith("frontend alerts")
    assert body["stability"] is None
    schema = json.loads((Path(__file__).parent.parent / "docs" / "ranking.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(body, schema)
    run = CliRunner().invoke(app, ["triage", str(path), "--ranker", "floor", "--stability", "--json"])
    body = json.loads(run.output)
    jsonschema.validate(body, schema)
    assert body["explanation"] is None
    assert body["stability"]["first"] == body["ranking"]["candidates"][0]["entity"]


def test_where_nobody_is_named_that_is_said(tmp_path: Path) -> None:
    """Two quiet lines of log are nobody's fault."""
    incident, telemetry = planted_incident()
    quiet = Telemetry.of(metrics=telemetry.metrics, logs=telemetry.logs.head(2))
    path = write_bundle(tmp_path / "bundle", incident, quiet)
    run = CliRunner().invoke(app, ["triage", str(path), "--ranker", "floor", "--explain"])
    assert "Nobody is named first, so there is nothing to test." in " ".join(run.output.split())
    body = json.loads(CliRunner().invoke(app, ["triage", str(path), "--ranker", "floor", "--explain", "--json"]).output)
    assert body["explanation"] is None
    assert body["why_not_alerting"] == ""


def test_where_nothing_is_ranked_there_is_no_answer_to_try(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "bundle", planted_incident()[0], Telemetry.of())
    run = CliRunner().invoke(app, ["triage", str(path), "--ranker", "floor", "--stability"])
    assert run.exit_code == 3, run.output
    assert "Nobody is ranked, so there is no answer that could change." in " ".join(run.output.split())


def test_watching_is_not_explained() -> None:
    run = CliRunner().invoke(app, ["triage", "--watch", "--explain"])
    assert isinstance(run.exception, BadInput)
    assert "--explain and --stability without --watch" in str(run.exception)


# --- the measurement ----------------------------------------------------------------------------------------------------------

ROW = Row("a", "shop", True, False, 0.9, 3, 1.5, 0.8, False, True, 1.0, 1.0, 1.0, 1.0)


def test_the_threshold_is_the_least_that_chance_does_not_reach() -> None:
    by_chance = replace(ROW, weight=1.0, beats_own=0.5)
    found = [{"step by step": ROW, "random ranking": by_chance}] * 4
    assert chosen_weight(found) == np.log(4)
    assert chosen_weight([{"step by step": replace(ROW, beats_any=0.9), "random ranking": by_chance}]) is None
    assert replace(ROW, judged_own=None).strong(1.0)
    assert not replace(ROW, judged_own=0.95).strong(1.0)
    assert not replace(ROW, stays_first=False).strong(1.0)


def test_what_is_kept_of_a_measurement() -> None:
    rows = [ROW, replace(ROW, right=False, beats_any=0.5), replace(ROW, weight=0.2, nobody=True, beats_own=None)]
    found = summary(rows, 1.0)
    assert [found[name]["explanations"] for name in ("all", "strong", "weak")] == [3, 2, 1]
    assert (found["strong"]["pass"], found["strong"]["right"], found["strong"]["with_cause"]) == (0.5, 0.5, 2)
    assert found["weak"]["right"] is None
    assert found["all"]["without_own"] == 1


def test_strong_explanations_hold_on_held_out_incidents() -> None:
    """The committed measurement: `python -m scripts.explanations`."""
    found = read_result(EXPLANATIONS)
    assert set(found["validation"]) == {*WAYS, "random ranking"}
    strong = found["held-out"]["step by step"]["all"]["strong"]
    assert strong["explanations"] >= 50
    assert strong["pass"] >= 0.9
    assert found["asked_for"] == found["least_weight"]
