"""Checks that every ranker, collector and sink has to pass, ours and yours. Call them from a test; they raise AssertionError that
says what broke.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import polars as pl

from rca.contracts import Case, Collector, LabelledCase, Ranker
from rca.deviations import Deviations
from rca.errors import Rejected, Unavailable
from rca.graph import ServiceGraph
from rca.ranking import Ranking
from rca.sinks.example import example_notices, hostile_notice
from rca.sinks.notice import Notice, Sent, Sink
from rca.telemetry import EntityId, Telemetry, conform, time_column
from rca.topology import key_of
from rca.window import Window

TOLERANCE: Final = 1e-6
Rename = Callable[[str], str]


def check_ranker(ranker: Ranker, cases: Sequence[LabelledCase], *, seed: int = 0) -> None:
    """Check what contracts.Ranker promises, on cases of your own (three or more, with different causes, are a good test).

    The ranker is trained on the cases first. Raises AssertionError.
    """
    _expect(isinstance(ranker, Ranker), "the ranker has name, uses_names, learned, fit and rank")
    _expect(ranker.fit(cases) is ranker, "fit returns the ranker itself")
    for labelled in cases:
        case = labelled.case
        before = _snapshot(case)
        ranking = ranker.rank(case)
        _expect(_same(before, _snapshot(case)), "rank leaves its input as it was", labelled.incident_id)
        check_ranking(ranking, case)
        _expect(ranker.rank(case).dumps() == ranking.dumps(), "the same case gives the same JSON twice", labelled.incident_id)
        _expect_close(
            ranking,
            ranker.rank(permuted(case, shuffled_rows(case.graph, seed))),
            lambda entity: entity,
            f"node order does not matter ({labelled.incident_id})",
        )
        other_names = ranker.rank(renamed(case, _strange))
        check_ranking(other_names, renamed(case, _strange))
        if not ranker.uses_names:
            what = f"names do not matter, unless uses_names says so ({labelled.incident_id})"
            _expect_close(ranking, other_names, lambda entity: replace(entity, name=_strange(entity.name)), what)
    _check_that_errors_propagate(ranker)


def check_collector(collector: Collector, start_ns: int, end_ns: int) -> Telemetry:
    """Check what contracts.Collector promises, on a stretch of time for which the source holds something.

    Returns what was collected, so that a test can go on with it. Raises AssertionError.
    """
    _expect(isinstance(collector, Collector) and bool(collector.name), "the collector has name and collect")
    telemetry = collector.collect(start_ns, end_ns)
    _expect(not telemetry.is_empty(), "there is telemetry in the stretch of time to check with")
    for name, frame in telemetry.frames().items():
        _expect(frame.equals(conform(name, frame)), f"{name} has the columns and types of docs/bundle.md")
        if name == "topology":
            continue
        times = frame[time_column(name)].drop_nulls()
        _expect(times.is_sorted(), f"{name} is sorted by time")
        _expect(bool(times.is_between(start_ns, end_ns, closed="left").all()), f"{name} lies inside the interval")
    for gap in telemetry.gaps:
        _expect(bool(gap.source and gap.reason), "a gap says which source it is about, and why")
        inside = gap.interval is None or (start_ns <= gap.interval.start_ns and gap.interval.end_ns <= end_ns)
        _expect(inside, f"the gap of {gap.source} lies inside the interval")
    again = collector.collect(start_ns, end_ns)
    for name, frame in telemetry.frames().items():
        _expect(frame.equals(again.frames()[name]), f"collecting again gives the same {name}")
    middle = (start_ns + end_ns) // 2
    halves = collector.collect(start_ns, middle), collector.collect(middle, end_ns)
    for half, (first, last) in zip(halves, ((start_ns, middle), (middle, end_ns)), strict=True):
        for name, frame in half.frames().items():
            inside = name == "topology" or bool(
                frame[time_column(name)].drop_nulls().is_between(first, last, closed="left").all()
            )
            _expect(inside, f"{name} of a shorter interval lies inside it")
    return telemetry


def check_sink(
    sink: Sink, *, unreachable: Sink | None = None, refused: Sink | None = None, secrets: Sequence[str] = ()
) -> tuple[tuple[Notice, Sent], ...]:
    """Check what notice.Sink promises, with a receiver of your own behind the sink.

    `unreachable` is the same sink with nobody listening, and with a short deadline; `refused` one whose secret the receiver does
    not accept; `secrets` are those of all three. Returns what was sent, so that a test can go on with it. Raises AssertionError.
    """
    _expect(isinstance(sink, Sink) and isinstance(sink.name, str) and bool(sink.name), "the sink has name and send")
    sent: list[tuple[Notice, Sent]] = []
    for notices in (example_notices(), (hostile_notice(),)):
        before: str | None = None
        for notice in (notices[0], *notices):  # the first twice: delivery is at least once
            result = sink.send(notice, before)
            what = f"{notice.idempotency_key}: send returns a Sent with a reference or None, and words for what was cut"
            _expect(isinstance(result, Sent) and isinstance(result.reference, str | None), what)
            _expect(all(isinstance(word, str) and word for word in result.cut), what)
            before = result.reference or before
            sent.append((notice, result))
    _check_error(unreachable, Unavailable, "a sink that nobody answers raises Unavailable", secrets)
    _check_error(refused, Rejected, "a sink whose secret is refused raises Rejected", secrets)
    for each in (sink, unreachable, refused):
        _expect(not any(secret in repr(each) + repr(vars(each)) for secret in secrets if each), "repr shows no secret")
    return tuple(sent)


def _check_error(sink: Sink | None, kind: type[Exception], promise: str, secrets: Sequence[str]) -> None:
    if sink is None:
        return
    try:
        sink.send(example_notices()[0], None)
    except kind as error:
        _expect(not any(secret in str(error) for secret in secrets), "an error shows no secret", str(error))
        return
    raise AssertionError(f"broken promise: {promise}")


def check_ranking(ranking: Ranking, case: Case) -> None:
    """Check a ranking of a case: every candidate once, in order, probabilities that add up. Raises AssertionError."""
    named = [candidate.entity for candidate in ranking.candidates]
    _expect(sorted(named) == sorted(case.graph.candidates), "every candidate of the graph is named exactly once")
    _expect([c.rank for c in ranking.candidates] == list(range(1, len(named) + 1)), "ranks count from 1")
    scores = [candidate.score for candidate in ranking.candidates]
    _expect(bool(np.isfinite(scores).all()), "scores are finite")
    _expect(scores == sorted(scores, reverse=True), "the best score comes first")
    probabilities = [candidate.probability for candidate in ranking.candidates]
    inside = all(0 <= p <= 1 for p in (*probabilities, ranking.no_fault, ranking.outside))
    _expect(inside, "probabilities lie between 0 and 1")
    total = sum(probabilities) + ranking.no_fault + ranking.outside
    _expect(not named or abs(total - 1) <= TOLERANCE * max(1, len(named)), f"probabilities add up to 1, not {total}")
    _expect(ranking.window == case.window.incident, "the ranking is about the case's window")


def shuffled_rows(graph: ServiceGraph, seed: int = 0) -> npt.NDArray[np.int64]:
    """A random order of the graph's rows that keeps kinds together, (N,): old row at every new place."""
    rng = np.random.default_rng(seed)
    order = [row for kind in np.unique(graph.kinds) for row in rng.permutation(np.flatnonzero(graph.kinds == kind))]
    return np.array(order, dtype=np.int64)


def permuted(case: Case, order: npt.NDArray[np.int64]) -> Case:
    """The same case with its entities, and its edges, in another order. `order` names the old row at every new place, (N,)."""
    graph = case.graph
    new_row = np.argsort(order)
    turned = {relation: np.arange(edges.shape[1])[::-1] for relation, edges in graph.edges.items()}
    entities = tuple(graph.entities[row] for row in order)
    moved = ServiceGraph(
        entities,
        graph.feature_names,
        graph.features[order],
        graph.available[order],
        {relation: new_row[edges[:, turned[relation]]].reshape(2, -1) for relation, edges in graph.edges.items()},
        graph.edge_feature_names,
        {relation: values[turned[relation]] for relation, values in graph.edge_features.items()},
        {relation: values[turned[relation]] for relation, values in graph.edge_available.items()},
    ).validate()
    quiet = tuple(_permuted(deviations, entities) for deviations in case.quiet)
    return Case(case.window, _permuted(case.deviations, entities), quiet, moved)


def _permuted(deviations: Deviations, entities: Sequence[EntityId]) -> Deviations:
    place = {entity: i for i, entity in enumerate(entities)}
    order = np.array(sorted(range(len(deviations.entities)), key=lambda row: place[deviations.entities[row]]), dtype=np.int64)
    new_row = np.argsort(order)
    turned = {relation: np.arange(edges.shape[1])[::-1] for relation, edges in deviations.edges.items()}
    return replace(
        deviations,
        entities=tuple(deviations.entities[row] for row in order),
        edges={relation: new_row[edges[:, turned[relation]]].reshape(2, -1) for relation, edges in deviations.edges.items()},
        node=deviations.node[order],
        slope=deviations.slope[order],
        edge={relation: values[turned[relation]] for relation, values in deviations.edge.items()},
    )


def renamed(case: Case, mapping: Mapping[str, str] | Rename) -> Case:
    """The same case with other names of entities, everywhere they occur. Names that a mapping lacks stay."""
    rename: Rename = mapping if callable(mapping) else lambda name: mapping.get(name, name)

    def of(entity: EntityId) -> EntityId:
        return replace(entity, name=rename(entity.name))

    def deviations_of(deviations: Deviations) -> Deviations:
        return replace(deviations, entities=tuple(of(entity) for entity in deviations.entities))

    graph = replace(case.graph, entities=tuple(of(entity) for entity in case.graph.entities))
    new_keys = {key_of(entity): key_of(of(entity)) for entity in case.graph.entities}
    window = _renamed_window(case.window, rename, new_keys)
    return Case(window, deviations_of(case.deviations), tuple(map(deviations_of, case.quiet)), graph)


_NAME_COLUMNS: Final = {
    "metrics": ("entity",),
    "events": ("entity",),
    "logs": ("entity",),
    "alerts": ("entity", "peer"),
    "calls": ("caller", "callee"),
    "topology": ("source", "target"),
}
_KEY_COLUMNS: Final = {
    "counts": ("source", "target"),
    "durations": ("source", "target"),
    "exemplars": ("service",),
    "placement": ("service", "pod", "node"),
}


def _renamed_window(window: Window, rename: Rename, new_keys: Mapping[str, str]) -> Window:
    frames = {name: _mapped(getattr(window, name), columns, rename) for name, columns in _NAME_COLUMNS.items()}
    of_key: Rename = lambda key: new_keys.get(key, rename(key))  # noqa: E731
    sums = {name: _mapped(getattr(window.bins, name), columns, of_key) for name, columns in _KEY_COLUMNS.items()}
    return replace(window, bins=replace(window.bins, **cast(dict[str, Any], sums)), **cast(dict[str, Any], frames))


def _mapped(frame: pl.DataFrame, columns: Sequence[str], rename: Rename) -> pl.DataFrame:
    for column in columns:
        old = frame[column].cast(pl.String).unique().drop_nulls().to_list()
        new = pl.col(column).cast(pl.String).replace_strict(old, [rename(name) for name in old], default=None)
        frame = frame.with_columns(new.cast(frame.schema[column])) if old else frame
    return frame


def _strange(name: str) -> str:
    return f"zz {name[::-1]} ü"


class _Broken:
    """Stands in for any part of a case; every use raises."""

    def __getattr__(self, name: str) -> Any:
        raise _BrokenOnPurposeError(name)


class _BrokenOnPurposeError(Exception):
    pass


def _check_that_errors_propagate(ranker: Ranker) -> None:
    broken = cast(Any, _Broken())
    try:
        ranker.rank(Case(broken, broken, (), broken))
    except Exception:
        return
    raise AssertionError("expected a ranker that fails to raise, found a ranking of a broken case")


def _expect_close(one: Ranking, other: Ranking, name_in_other: Callable[[EntityId], EntityId], what: str) -> None:
    theirs = {candidate.entity: candidate for candidate in other.candidates}
    for mine in one.candidates:
        twin = theirs[name_in_other(mine.entity)]
        worst = max(abs(mine.score - twin.score), abs(mine.probability - twin.probability))
        # scores are rounded to 6 digits, so equal ones may be one unit apart
        allowed = 2 * TOLERANCE * max(1.0, abs(mine.score))
        _expect(worst <= allowed, what, f"{mine.entity}: {mine.score} against {twin.score}")


def _snapshot(case: Case) -> list[Any]:
    graph, window = case.graph, case.window
    arrays = [graph.features, graph.available, *graph.edges.values(), *graph.edge_features.values()]
    for deviations in (case.deviations, *case.quiet):
        arrays += [deviations.node, deviations.slope, *deviations.edges.values(), *deviations.edge.values()]
    frames = [getattr(window, name) for name in _NAME_COLUMNS] + [getattr(window.bins, name) for name in _KEY_COLUMNS]
    return [array.copy() for array in arrays] + [frame.clone() for frame in frames]


def _same(before: Sequence[Any], after: Sequence[Any]) -> bool:
    return all(
        one.equals(other) if isinstance(one, pl.DataFrame) else np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
        for one, other in zip(before, after, strict=True)
    )


def _expect(holds: bool, promise: str, where: str = "") -> None:
    if not holds:
        raise AssertionError(f"broken promise: {promise}{f' ({where})' if where else ''}")
