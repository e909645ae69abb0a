"""The model that ranks unless another is asked for: what $RCA_MODEL names, the promoted version, or the one that ships."""

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
from rca.models.files import MODEL_FILE, ModelCard, read_model
from rca.models.versions import Versions
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


def default_folder(home: Path | None = None) -> Path | None:
    """Folder of the model that ranks by default: that of $RCA_MODEL, the version that was promoted in this home, or the shipped
    one; None where there is none of them. Raises BadCheckpoint where it cannot be read which version was promoted."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    versions = Versions(home)
    current = versions.state().current
    return versions.get(current).folder if current else shipped_folder()


def default_ranker(home: Path | None = None) -> Ranker:
    """The model that ranks by default, in the order of docs/model.md; one that had to give way is named in its rankings' notes.

    Raises BadCheckpoint or BadInput if the model that $RCA_MODEL names cannot be used.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return checked(Path(named))
    try:
        versions = Versions(home)
        current = versions.state().current
        if current is not None:
            return checked(versions.get(current).folder)
    except (BadCheckpoint, BadInput) as error:
        ranker = shipped_ranker()
        return _Instead(ranker, f"the model that was promoted, so {ranker.name} ranked: {error}")
    return shipped_ranker()


def shipped_ranker() -> Ranker:
    """The model that ships, or the label-free score with a note in its rankings that says why."""
    folder = shipped_folder()
    if folder is None:
        return _Instead(registry.create("floor"), "a trained model: none ships with this version, so the label-free score ranked")
    try:
        return checked(folder)
    except (BadCheckpoint, BadInput) as error:
        return _Instead(registry.create("floor"), f"the shipped model, so the label-free score ranked: {error}")


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


class _Instead:
    """A ranker in the place of a model that cannot be used, and the reason."""

    def __init__(self, ranker: Ranker, reason: str) -> None:
        self._ranker, self._own = ranker, reason
        self.reason = "; ".join(filter(None, [reason, getattr(ranker, "reason", "")]))
        self.name, self.uses_names, self.learned = ranker.name, ranker.uses_names, ranker.learned
        self.card: ModelCard | None = getattr(ranker, "card", None)

    def fit(self, cases: Sequence[LabelledCase], validation: Sequence[LabelledCase] | None = None) -> Self:
        self._ranker.fit(cases, validation)
        return self

    def rank(self, case: Case) -> Ranking:
        ranking = self._ranker.rank(case)
        return replace(ranking, notes=(*ranking.notes, self._own))
