"""Every ranker that can be asked for keeps its promises."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from rca.contracts import Case, Ranker
from rca.errors import BadInput, UnknownName
from rca.models import registry
from rca.models.rules.loudest import Baro, NSigma
from rca.models.rules.prism import INSIDE, OUTSIDE
from rca.models.rules.rule import Track
from rca.models.rules.walks import pagerank
from rca.pipeline import case_of_window
from rca.ranking import Ranking
from rca.signals import NODE_COLUMN
from rca.telemetry import MINUTE_NS
from rca.testing import check_ranker, check_ranking, permuted, renamed, shuffled_rows
from tests.cases import CULPRITS, example, example_case, example_cases
from tests.shop import T0, requests, window


def quick(name: str) -> Ranker:
    """A ranker whose training, if it has epochs, is short."""
    return registry.create(name, **({"epochs": 2} if registry.takes(name, "epochs") else {}))


@pytest.mark.parametrize("name", registry.names())
def test_contract(name: str) -> None:
    check_ranker(quick(name), example_cases())


@pytest.mark.parametrize("name", ["max-z", "baro", "prism-additive", "prism-conjunctive", "pagerank-z", "hypothesis-test"])
def test_a_busy_processor_is_found(name: str) -> None:
    culprit = example_case("cpu_contention", "catalogue")
    rank = registry.create(name).rank(culprit.case).rank_of(culprit.causes[0])
    assert rank is not None
    assert rank <= 3


@pytest.mark.parametrize("name", ["lambdamart", "logistic"])
def test_learned_rankers_learn(name: str) -> None:
    training = [example_case(kind, culprit, seed) for kind, culprit in CULPRITS for seed in (1, 2)]
    ranker = registry.create(name).fit(training)
    hits = [ranker.rank(c.case).rank_of(c.causes[0]) == 1 for c in example_cases()]
    assert sum(hits) >= 3


@pytest.mark.parametrize("name", ["lambdamart", "logistic", "names-only"])
def test_learned_rankers_want_labels(name: str) -> None:
    with pytest.raises(BadInput, match="labelled cases"):
        registry.create(name).fit([])
    with pytest.raises(BadInput, match="training before ranking"):
        registry.create(name).rank(example())


def test_most_frequent_counts_past_causes() -> None:
    cases = [example_case("cpu_contention", "catalogue"), example_case("return", "cart"), example_case("return", "cart", 8)]
    first = registry.create("most-frequent").fit(cases).rank(example()).candidates[0]
    assert first.entity.name == "cart"


def test_random_is_steady_and_changes_with_the_seed() -> None:
    one = registry.create("random").rank(example())
    assert one.dumps() == registry.create("random").rank(example()).dumps()
    assert [c.entity for c in one.candidates] != [c.entity for c in registry.create("random", seed=1).rank(example()).candidates]


def test_random_is_at_chance() -> None:
    case = example_case("cpu_contention", "catalogue")
    ranks = [registry.create("random", seed=seed).rank(case.case).rank_of(case.causes[0]) for seed in range(200)]
    assert np.mean([r == 1 for r in ranks if r]) == pytest.approx(1 / len(case.case.graph.candidates), abs=0.06)


def test_pagerank_agrees_with_networkx() -> None:
    networkx = pytest.importorskip("networkx")
    pytest.importorskip("scipy")
    rng = np.random.default_rng(3)
    calls = np.unique(rng.integers(0, 12, (2, 30)), axis=1)
    weights, restart = rng.random(calls.shape[1]) + 0.1, rng.random(12)
    graph = networkx.DiGraph()
    graph.add_nodes_from(range(12))
    graph.add_weighted_edges_from((int(a), int(b), float(w)) for (a, b), w in zip(calls.T, weights, strict=True))
    home = dict(enumerate(restart))
    expected = networkx.pagerank(graph, alpha=0.85, personalization=home, dangling=home, tol=1e-12, max_iter=1000)
    assert pagerank(calls, weights, restart) / 12 == pytest.approx(np.array([expected[i] for i in range(12)]), abs=1e-9)


def test_pools_of_prism_are_signals_and_do_not_overlap() -> None:
    assert set(INSIDE + OUTSIDE) <= set(NODE_COLUMN)
    assert not set(INSIDE) & set(OUTSIDE)


def _track(before: list[float], now: list[float]) -> Track:
    return Track(0, "m", np.array(before), np.array(now), np.arange(len(before) + len(now)))


@pytest.mark.parametrize("level", [0.0048, 0.1, 123456.7])
def test_a_constant_baseline_has_the_scale_one_however_it_is_rounded(level: float) -> None:
    track = _track([level + 1e-18, level, level * (1 + 2e-16), level] * 25, [level + 2.0])
    assert NSigma().deviation(track) == pytest.approx(2.0)
    assert Baro().deviation(track) == pytest.approx(2.0)


def test_scalers_agree_with_scikit_learn() -> None:
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    rng = np.random.default_rng(0)
    before, now = rng.lognormal(size=50), rng.lognormal(size=10) * 3
    robust = preprocessing.RobustScaler().fit(before[:, None]).transform(now[:, None])
    standard = preprocessing.StandardScaler().fit(before[:, None]).transform(now[:, None])
    track = _track(before.tolist(), now.tolist())
    assert Baro().deviation(track) == pytest.approx(robust.max())
    assert NSigma().deviation(track) == pytest.approx(np.abs(standard).max())


def test_namesakes_in_two_namespaces_are_two_candidates() -> None:
    rows = [row | {"service.namespace": space} for space in ("left", "right") for row in requests("A", T0, 60, every_ms=5000)]
    rows += [row | {"service.namespace": "left"} for row in requests("A", T0 + 10 * MINUTE_NS, 50, every_ms=5000)]
    rows += [row | {"service.namespace": "right"} for row in requests("A", T0 + 10 * MINUTE_NS, 50, every_ms=5000, took_ms=900)]
    alert = {"entity_kind": "service", "entity": "A", "namespace": "right", "name": "cpu", "source": "metric"}
    case = case_of_window(window(spans=rows, alerts=[alert]))
    for name in ("max-z", "most-alerts"):
        first, second = registry.create(name).rank(case).candidates
        assert (first.entity.namespace, second.entity.namespace) == ("right", "left")
        assert first.score > second.score


def test_unknown_names_offer_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean lambdamart"):
        registry.create("lambda-mart")
    with pytest.raises(UnknownName, match="did you mean trees"):
        registry.create("lambdamart", tree=5)


def test_a_missing_library_is_named(monkeypatch) -> None:
    monkeypatch.setitem(registry.BUILT_IN, "absent", "not_a_module_of_ours:Ranker")
    with pytest.raises(BadInput, match="not_a_module_of_ours"):
        registry.create("absent")


def test_rules_need_no_learning_library() -> None:
    code = (
        "import sys; from rca.models import registry;"
        "[registry.create(n) for n in registry.BUILT_IN if registry.BUILT_IN[n].startswith('rca.models.rules')];"
        "assert not {'torch', 'sklearn', 'lightgbm', 'scipy', 'pandas', 'dgl'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class _Liar:
    """Breaks one promise at a time."""

    name, uses_names, learned = "liar", False, False

    def __init__(self, lie: str) -> None:
        self.lie, self.calls = lie, 0

    def fit(self, cases, validation=None):
        return self

    def rank(self, case: Case) -> Ranking:
        self.calls += 1
        ranker = registry.create("max-z")
        if self.lie == "swallows errors":
            try:
                return ranker.rank(case)
            except Exception:
                return ranker.rank(example())
        ranking = ranker.rank(case)
        first, *others = ranking.candidates
        if self.lie == "forgets one":
            return replace(ranking, candidates=tuple(others))
        if self.lie == "names":
            bonus = {c.entity: float(c.entity.name < "m") for c in ranking.candidates}
            ordered = sorted(ranking.candidates, key=lambda c: -c.score - bonus[c.entity])
            scored = [replace(c, rank=i, score=c.score + bonus[c.entity]) for i, c in enumerate(ordered, start=1)]
            return replace(ranking, candidates=tuple(scored))
        if self.lie == "order":
            by_row = {entity: 100.0 - row for row, entity in enumerate(case.graph.candidates)}
            ordered = sorted(ranking.candidates, key=lambda c: -by_row[c.entity])
            scored = [replace(c, rank=i, score=by_row[c.entity]) for i, c in enumerate(ordered, start=1)]
            return replace(ranking, candidates=tuple(scored))
        if self.lie == "moods":
            return replace(ranking, candidates=(replace(first, score=first.score + self.calls), *others))
        if self.lie == "mutates":
            case.graph.features[0, 0] += 1
        if self.lie == "certain":
            return replace(ranking, no_fault=0.5)
        return ranking


@pytest.mark.parametrize(
    ("lie", "promise"),
    [
        ("forgets one", "exactly once"),
        ("names", "names do not matter"),
        ("order", "node order"),
        ("moods", "same JSON"),
        ("mutates", "input as it was"),
        ("certain", "add up to 1"),
        ("swallows errors", "expected a ranker that fails to raise"),
    ],
)
def test_the_check_catches_liars(lie: str, promise: str) -> None:
    fresh = example_case.__wrapped__("cpu_contention", "catalogue")
    with pytest.raises(AssertionError, match=promise):
        check_ranker(_Liar(lie), [fresh])


def test_permuted_and_renamed_keep_the_meaning() -> None:
    case = example()
    again = permuted(case, np.argsort(shuffled_rows(case.graph, 5)))
    assert set(again.graph.entities) == set(case.graph.entities)
    for entity in case.graph.entities:
        old, new = case.graph.rows[entity], again.graph.rows[entity]
        assert np.array_equal(case.graph.features[old], again.graph.features[new])
        assert np.array_equal(case.deviations.node[old], again.deviations.node[new], equal_nan=True)
    back = renamed(renamed(case, {"cart": "trolley"}), {"trolley": "cart"})
    assert back.graph.entities == case.graph.entities
    assert back.window.bins.counts.equals(case.window.bins.counts)
    assert "cart" not in renamed(case, {"cart": "trolley"}).window.bins.counts["source"].to_list()


def test_no_candidates_no_complaint() -> None:
    case = example()
    empty_rows = np.zeros(0, dtype=np.int64)
    graph = replace(
        case.graph,
        entities=(),
        features=case.graph.features[:0],
        available=case.graph.available[:0],
        edges={relation: np.zeros((2, 0), dtype=np.int64) for relation in case.graph.edges},
        edge_features={relation: v[:0] for relation, v in case.graph.edge_features.items()},
        edge_available={relation: v[:0] for relation, v in case.graph.edge_available.items()},
    )
    nothing = replace(
        case.deviations, entities=(), node=case.deviations.node[empty_rows], slope=case.deviations.slope[empty_rows]
    )
    bare = Case(case.window, nothing, (), graph)
    for name in registry.names():
        ranker = quick(name)
        if ranker.learned:
            ranker.fit(example_cases())
        check_ranking(ranker.rank(bare), bare)
