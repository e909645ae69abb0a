"""Learned rankers that know no edges: what the graph network has to beat on the same features, and the leak detector.

All see the rows of the candidates in ServiceGraph.features and, beside each feature, whether it was observed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Final, Self

import numpy as np
import numpy.typing as npt

from rca.contracts import Case, LabelledCase
from rca.errors import BadInput
from rca.models.rules.rule import ranking_of
from rca.ranking import Ranking

_Rows = npt.NDArray[np.float32]
_LEAST_TO_STOP_EARLY: Final = 20  # fewer incidents say nothing about when to stop


class _Learned(ABC):
    """Scores each candidate by itself with a model of another library. Models that do not stop early train on validation too."""

    name: ClassVar[str]
    uses_names: ClassVar[bool] = False
    learned: ClassVar[bool] = True

    def fit(self, cases: Sequence[LabelledCase], validation: Sequence[LabelledCase] | None = None) -> Self:
        """Train. Raises BadInput without a labelled case whose cause is among its candidates."""
        cases = [case for case in cases if _answers(case).any()]
        if not cases:
            raise BadInput(f"training {self.name}", expected="labelled cases whose cause is a candidate", found="none")
        self._train(cases, [case for case in validation or () if _answers(case).any()])
        return self

    def rank(self, case: Case) -> Ranking:
        if not case.graph.candidates:
            return ranking_of(self.name, case, np.zeros(0))
        return ranking_of(self.name, case, np.asarray(self._predict(case), dtype=np.float64))

    @abstractmethod
    def _train(self, cases: Sequence[LabelledCase], validation: Sequence[LabelledCase]) -> None: ...

    @abstractmethod
    def _predict(self, case: Case) -> Any: ...

    def _fitted(self, model: Any) -> Any:
        if model is None:
            raise BadInput(f"ranker {self.name}", expected="training before ranking", found="none")
        return model


class LambdaMart(_Learned):
    """Gradient-boosted trees with the LambdaMART loss (Burges, MSR-TR-2010-82; LightGBM, Ke et al., NeurIPS 2017)."""

    name = "lambdamart"

    def __init__(self, seed: int = 0, trees: int = 200, leaves: int = 7, learning_rate: float = 0.05) -> None:
        self.seed, self.trees, self.leaves, self.learning_rate = seed, trees, leaves, learning_rate
        self._model: Any = None

    def _train(self, cases: Sequence[LabelledCase], validation: Sequence[LabelledCase]) -> None:
        import lightgbm

        settings = {
            "objective": "lambdarank",
            "metric": "ndcg",
            "eval_at": [1],
            "num_leaves": self.leaves,
            "learning_rate": self.learning_rate,
            "min_data_in_leaf": 5,
            "seed": self.seed,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 1,
            "verbosity": -1,
        }
        watched: dict[str, Any] = {}
        enough = len(validation) >= _LEAST_TO_STOP_EARLY
        data = _dataset(cases if enough else [*cases, *validation])
        if enough:
            stop = lightgbm.early_stopping(30, verbose=False)
            watched = {"valid_sets": [_dataset(validation, data)], "callbacks": [stop]}
        self._model = lightgbm.train(settings, data, self.trees, **watched)

    def _predict(self, case: Case) -> Any:
        return self._fitted(self._model).predict(_rows(case), num_threads=1)


def _dataset(cases: Sequence[LabelledCase], reference: Any = None) -> Any:
    import lightgbm

    rows, answers, sizes = _stacked(cases)
    return lightgbm.Dataset(rows, answers, group=sizes, reference=reference)


class Logistic(_Learned):
    """Regularised logistic regression on standardised features: is this candidate the cause?"""

    name = "logistic"

    def __init__(self, strength: float = 0.03) -> None:
        self.strength = strength
        self._model: Any = None

    def _train(self, cases: Sequence[LabelledCase], validation: Sequence[LabelledCase]) -> None:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        rows, answers, _ = _stacked([*cases, *validation])
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=self.strength, class_weight="balanced", max_iter=2000, tol=1e-8)
        )
        self._model = model.fit(rows, answers)

    def _predict(self, case: Case) -> Any:
        return self._fitted(self._model).decision_function(_rows(case))


class NamesOnly(_Learned):
    """The leak detector: logistic regression on pieces of names, no telemetry. On services it never saw it must be at chance."""

    name = "names-only"
    uses_names = True

    def __init__(self) -> None:
        self._model: Any = None

    def _train(self, cases: Sequence[LabelledCase], validation: Sequence[LabelledCase]) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        past = [*cases, *validation]
        names = [str(entity) for case in past for entity in case.case.graph.candidates]
        answers = np.concatenate([_answers(case) for case in past])
        pieces = HashingVectorizer(analyzer="char_wb", ngram_range=(2, 4), n_features=2**14, alternate_sign=False)
        model = make_pipeline(pieces, LogisticRegression(class_weight="balanced", max_iter=2000))
        self._model = model.fit(names, answers)

    def _predict(self, case: Case) -> Any:
        return self._fitted(self._model).decision_function([str(entity) for entity in case.graph.candidates])


def _rows(case: Case) -> _Rows:
    """Features of the candidates beside their availability, (C, 2F)."""
    rows = case.graph.candidate_rows
    return np.concatenate([case.graph.features[rows], case.graph.available[rows].astype(np.float32)], axis=1)


def _answers(case: LabelledCase) -> npt.NDArray[np.int64]:
    causes = set(case.causes)
    return np.array([int(entity in causes) for entity in case.case.graph.candidates], dtype=np.int64)


def _stacked(cases: Sequence[LabelledCase]) -> tuple[_Rows, npt.NDArray[np.int64], list[int]]:
    """Rows of all candidates, whether each is a cause, and how many candidates every case has."""
    answers = [_answers(case) for case in cases]
    return np.concatenate([_rows(case.case) for case in cases]), np.concatenate(answers), [len(a) for a in answers]
