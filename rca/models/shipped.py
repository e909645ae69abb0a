"""The model that ranks unless another is asked for: the one that ships with the project, or the one that $RCA_MODEL names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

from rca.arrays import Schema
from rca.contracts import Case, LabelledCase, Ranker
from rca.errors import BadCheckpoint, BadInput
from rca.features import EDGE_FEATURE_NAMES, NODE_FEATURE_NAMES
from rca.models import registry
from rca.models.files import MODEL_FILE, read_model
from rca.ranking import Ranking

NAME: Final = "general"
VARIABLE: Final = "RCA_MODEL"
"""Environment variable with the folder of the model to rank with."""

_HERE: Final = Path(__file__).resolve().parent


def shipped_folder(here: Path = _HERE) -> Path | None:
    """Folder of the shipped model: in the installed package, or in `models/` of a checkout; None where there is none."""
    checkout = here.parents[1]
    folders = [here / NAME]
    if (checkout / "pyproject.toml").is_file():  # elsewhere, a folder `models` beside the package is somebody else's
        folders.append(checkout / "models" / NAME)
    return next((folder for folder in folders if (folder / MODEL_FILE).is_file()), None)


def default_folder() -> Path | None:
    """Folder of the model that ranks by default: that of $RCA_MODEL, else the shipped one; None where there is neither."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else shipped_folder()


def default_ranker() -> Ranker:
    """The model that $RCA_MODEL names, else the shipped one, else the label-free score with a note in its rankings that says why.

    Raises BadCheckpoint or BadInput if the model that $RCA_MODEL names cannot be used.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return checked(Path(named))
    folder = shipped_folder()
    if folder is None:
        return _FloorInstead("a trained model: none ships with this version, so the label-free score ranked")
    try:
        return checked(folder)
    except (BadCheckpoint, BadInput) as error:
        return _FloorInstead(f"the shipped model, so the label-free score ranked: {error}")


def checked(folder: Path) -> Ranker:
    """A model that was trained on the features that this version makes. Raises BadCheckpoint, BadInput."""
    read_model(folder).card.schema.check(Schema(NODE_FEATURE_NAMES, EDGE_FEATURE_NAMES), str(folder))
    return registry.load(folder)


def trained(folder: str = "") -> Ranker:
    """The model of a folder, or the shipped one: the ranker `model` of `rca evaluate`. Raises BadCheckpoint, BadInput."""
    found = Path(folder) if folder else shipped_folder()
    if found is None:
        raise BadInput("ranker model", expected="model:folder=FOLDER, or a shipped model", found="neither")
    return _AsItStands(checked(found))


class _AsItStands:
    """A trained model that is asked and not trained, whatever there is to learn from."""

    def __init__(self, model: Ranker) -> None:
        self.model, self.name, self.uses_names, self.learned = model, model.name, model.uses_names, False

    def fit(self, cases: Sequence[LabelledCase], validation: Sequence[LabelledCase] | None = None) -> Self:  # noqa: ARG002
        return self

    def rank(self, case: Case) -> Ranking:
        return self.model.rank(case)


class _FloorInstead:
    """The label-free score in the place of a model, and the reason."""

    def __init__(self, reason: str) -> None:
        self.reason, self.floor = reason, registry.create("floor")
        self.name, self.uses_names, self.learned = self.floor.name, False, False

    def fit(self, cases: Sequence[LabelledCase], validation: Sequence[LabelledCase] | None = None) -> Self:
        self.floor.fit(cases, validation)
        return self

    def rank(self, case: Case) -> Ranking:
        ranking = self.floor.rank(case)
        return replace(ranking, notes=(*ranking.notes, self.reason))
