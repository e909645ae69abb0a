"""The experiments' arithmetic: groups stay together, differences are paired, identical data cannot be told apart."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rca.evaluation.predictions import Truth
from rca.evaluation.runner import Exam
from rca.features import NODE_FEATURE_NAMES
from rca.models.files import describe
from rca.models.gnn import NetworkRanker
from scripts import learning_curve, realism, transfer
from scripts.sets import ROOT, model_digest
from scripts.transfer_page import FRESH, LABELS, PRETRAINED, SCORE, curve, curve_table, realism_table, transfer_tables
from tests.cases import CULPRITS, example_cases


@pytest.fixture(scope="module")
def exam() -> Exam:
    """Four incidents, each twice."""
    cases = [replace(case, incident_id=f"{case.incident_id}-{i}") for case in example_cases() for i in range(2)]
    truths = tuple(Truth(case.incident_id, case.system, case.causes, case.fault_kind) for case in cases)
    return Exam(truths, tuple(cases), tuple(cases))


def test_draws_keep_groups_together_and_differ(exam: Exam) -> None:
    splits = [learning_curve.drawn(exam, draw, 4) for draw in range(6)]
    for learnt, tested in splits:
        assert sorted([*learnt, *tested]) == list(range(8))
        assert len(learnt) == 4
        assert not {exam.truths[i].group for i in learnt} & {exam.truths[i].group for i in tested}
    assert len({tuple(learnt) for learnt, _ in splits}) > 1
    assert splits[0] == learning_curve.drawn(exam, 0, 4)


def test_without_labels_the_curve_starts_at_the_score(exam: Exam, tmp_path: Path) -> None:
    runs = {name: learning_curve.run(exam, name, tmp_path, 0, 0) for name in (SCORE, FRESH)}
    assert runs[SCORE]["ac1"] == runs[FRESH]["ac1"]
    runs = {
        f"{name}|{labels}|{draw}": {"ac1": 0.5 + draw / 10}
        for name in (SCORE, FRESH, PRETRAINED)
        for labels in LABELS
        for draw in (0, 1)
    }
    assert curve(runs, SCORE)[0] == (0, pytest.approx(0.55), pytest.approx(0.05 / np.sqrt(2)))
    body: dict[str, Any] = {"model": "m", "systems": {"shop": runs}}
    learning_curve.picture(body, tmp_path / "curve.svg")
    first = (tmp_path / "curve.svg").read_bytes()
    learning_curve.picture(body, tmp_path / "curve.svg")
    assert first.startswith(b"<?xml")
    assert (tmp_path / "curve.svg").read_bytes() == first
    assert "| shop | network, pre-trained | 0.55 ± 0.04 |" in curve_table(body)


def test_rankers_are_compared_with_the_best_rule(exam: Exam) -> None:
    entrants = [entrant for entrant in transfer.rules() if entrant.label in ("floor", "random")]
    runs = [run for entrant in entrants if (run := transfer.examine(entrant, "shop", exam)) is not None]
    found = transfer.summarised(runs, exam)
    assert found[0]["ranker"] == "floor"
    assert found[0]["against_best_rule"]["value"] == 0
    assert found[1]["against_best_rule"]["value"] < 0
    assert set(found[0]["ranks"]) == {truth.incident_id for truth in exam.truths}
    page = transfer_tables({"sets": {"shop": {**transfer.about(exam), "runs": found}}})
    assert f"8 incidents in {len(CULPRITS)} groups" in page
    assert "| chance |" in page


def test_rows_hold_while_their_model_and_their_incidents_do(exam: Exam) -> None:
    rule = {"ranker": "floor", "sort": "rule", "fingerprint": exam.fingerprint()}
    model = {**rule, "ranker": "mine", "sort": "model", "model": "a1"}

    def kept(*runs: dict[str, Any], **of_models: str) -> list[str]:
        return list(transfer.current(runs, exam, of_models))

    assert kept(rule, model, mine="a1") == ["floor", "mine"]
    assert kept(rule, model, mine="b2") == ["floor"]  # retrained
    assert kept(rule, model) == ["floor"]  # removed
    del model["model"]
    assert kept(rule, model, mine="a1") == ["floor"]  # nobody knows what it was
    assert kept({**rule, "fingerprint": "of other incidents"}) == []


def test_the_shipped_model_is_compared_with_every_rule_that_needs_no_label() -> None:
    (line,) = re.findall(r"^RULES := (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert line.split() == list(transfer.BLIND)


def test_a_ranker_that_does_not_exist_is_not_just_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["transfer", "--only", "floor", "flor"])
    monkeypatch.setattr(transfer, "_shop_digest", str)  # which reads every recording
    with pytest.raises(SystemExit):
        transfer.main()
    assert capsys.readouterr().err.rstrip().endswith("found flor")


def test_a_model_is_what_it_ranks_with_and_not_what_is_said_of_it(tmp_path: Path) -> None:
    NetworkRanker(width=8, epochs=0).fit(example_cases()).save(tmp_path, onnx=False)
    before = model_digest(tmp_path)
    describe(tmp_path, intended_use="demo", limits=["none known"], sources=[], evaluation=[])
    assert model_digest(tmp_path) == before
    path = tmp_path / "model.json"
    body = json.loads(path.read_text())
    body["training"]["strength"] = 0.123
    path.write_text(json.dumps(body))
    assert model_digest(tmp_path) != before


def test_rows_without_a_rule_beside_them_claim_no_difference(exam: Exam) -> None:
    entrant = next(entrant for entrant in transfer.rules() if entrant.label == "floor")
    run = transfer.examine(entrant, "shop", exam)
    assert run is not None
    alone = {**run, "sort": "model", "against_best_rule": {"rule": "of an earlier table"}}
    found = transfer.summarised([alone], exam)
    assert "against_best_rule" not in found[0]
    assert "Best rule: none was tested." in transfer_tables({"sets": {"shop": {**transfer.about(exam), "runs": found}}})


def test_windows_without_a_fault_count_as_false_alarms_alone(exam: Exam) -> None:
    quiet = replace(exam.tested[0], causes=(), fault_kind="no_fault")
    truth = replace(exam.truths[0], causes=(), fault_kind="no_fault")
    mixed = Exam((*exam.truths[1:], truth), (*exam.training[1:], quiet), (*exam.tested[1:], quiet))
    floor = next(entrant for entrant in transfer.rules() if entrant.label == "floor")
    run = transfer.examine(floor, "shop", mixed)
    assert run is not None
    assert len(run["ranks"]) == 7
    assert 0 <= run["false_alarms"] <= 1
    assert transfer.about(mixed)["no_fault"] == 1


def rows(shift: float, groups: int = 40) -> realism.Table:
    """Two kinds of incidents of ten candidates each; the second ones differ by `shift` in one feature."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(groups), 10)
    simulated = group % 2 == 1
    features = rng.normal(0, 1, (len(group), len(NODE_FEATURE_NAMES)))
    features[:, 3] += shift * simulated
    features[rng.random(features.shape) < 0.1] = np.nan
    return realism.Table(features, simulated, group)


def test_alike_data_cannot_be_told_apart_and_what_differs_is_named() -> None:
    same, other = realism.told_apart(rows(0.0)), realism.told_apart(rows(4.0))
    assert all(0.35 < value < 0.65 for value in same["auc"].values())
    assert other["auc"]["boosted trees"] > 0.9
    assert other["auc"]["logistic regression"] > 0.7  # few rows for so many columns
    assert other["features"][0]["feature"] == NODE_FEATURE_NAMES[3]
    assert other["features"][0]["auc"] > 0.9
    sides = {side: {"incidents": 20, "candidates": 200} for side in ("recorded", "simulated")}
    assert f"`{NODE_FEATURE_NAMES[3]}`" in realism_table({**other, **sides})


def test_folds_keep_groups_together() -> None:
    data = rows(0.0, groups=12)
    parts = realism.folds(data.group)
    assert np.sum(parts, axis=0).tolist() == [1] * len(data.group)
    assert all(len(set(data.group[part]) & set(data.group[~part])) == 0 for part in parts)
