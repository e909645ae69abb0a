"""The committed predictions hold what the project claims: the floor holds, the leak detector sees nothing, chance is beaten."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.sets import MODELS, TRANSFER, model_digest, read_result

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"


def runs() -> Iterator[dict[str, Any]]:
    for file in sorted(RESULTS.glob("*.json")):
        body = json.loads(file.read_text(encoding="utf-8"))
        yield from body.get("runs", []) if isinstance(body, dict) else []  # a benchmark is a list


def named(*rankers: str) -> list[Any]:
    chosen = [run for run in runs() if run["ranker"] in rankers and run["transform"] != "quiet"]
    return [pytest.param(run, id="-".join((run["dataset"], run["split"], run["transform"], run["ranker"]))) for run in chosen]


def test_there_are_results_of_every_data_set() -> None:
    assert {run["dataset"] for run in runs()} >= {"onlineboutique", "trainticket", "petshop", "sockshop"}


@pytest.mark.parametrize("run", named("floor", "gnn"))
def test_never_worse_than_the_best_rule_beyond_noise(run: dict[str, Any]) -> None:
    """The 95 % interval of the paired difference to the best label-free rule, picked on these very incidents, reaches 0."""
    assert run["against_best_rule"]["high"] >= 0


@pytest.mark.parametrize(
    "run", [case for case in named("names-only") if case.values[0]["split"] != "folds"] or named("names-only")
)
def test_names_alone_tell_nothing(run: dict[str, Any]) -> None:
    whole = run["by_fault_kind"]["all"]
    assert whole["ac1"]["low"] <= 2 * whole["chance"]["ac1"]


@pytest.mark.parametrize("run", named("floor", "gnn"))
def test_nothing_failed(run: dict[str, Any]) -> None:
    assert run["failures"] == 0


def test_what_is_said_of_models_on_other_systems_is_of_the_models_that_ship() -> None:
    """`python -m scripts.transfer` tests those anew that were changed, and drops those that are gone."""
    tested = [run for found in read_result(TRANSFER)["sets"].values() for run in found["runs"] if run["sort"] == "model"]
    assert {(run["ranker"], run["model"]) for run in tested} <= {
        (path.parent.name, model_digest(path.parent)) for path in MODELS.glob("*/model.json")
    }
