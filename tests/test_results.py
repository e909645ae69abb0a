"""The committed predictions hold what the project claims: the floor holds, the leak detector sees nothing, chance is beaten."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"


def runs() -> Iterator[dict[str, Any]]:
    for file in sorted(RESULTS.glob("*.json")):
        yield from json.loads(file.read_text(encoding="utf-8")).get("runs", [])


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
