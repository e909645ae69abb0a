"""Whether now looks like training: graphs that are counted and kept, what is said of them, and labels against answers."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from rca.arrays import Schema, arrays_of
from rca.cli.main import app
from rca.errors import BadInput
from rca.evaluation import lately as module
from rca.evaluation.cases import Labels, case_for, from_store
from rca.evaluation.lately import (
    Known,
    Lately,
    agreement,
    agreement_findings,
    count_recorded,
    drift_finding,
    findings_of,
    known_in_use,
    known_of,
    lately,
)
from rca.graph import ServiceGraph
from rca.incidents.example import example_incident
from rca.incidents.inbox import AlertGroup, GroupAlert, InboxFile
from rca.incidents.incident import EntityModel, Incident, Label
from rca.incidents.store import IncidentStore
from rca.models import recent as counts
from rca.models import shipped
from rca.models.drift import drift_of, drift_of_measured
from rca.models.measures import Measured, joined, measured, title_of
from rca.models.recent import RECENT_FILE, Recent, packed, unpacked
from rca.models.reference import reference_of
from rca.models.rules.floor import Floor
from rca.pipeline import case_of
from rca.serve.asking import Asker, Ranks
from rca.serve.drifting import OF, drift_gauges
from rca.telemetry import MINUTE_NS, EntityId
from scripts.drift_check import cost
from tests.graphs import random_graph
from tests.serving import config, recent
from tests.test_drift import FEATURES, graphs, louder, reference, without_logs
from tests.test_models_serving import question

NAMES = Schema(FEATURES, ("gap.z",))


def same(one: Measured, other: Measured) -> bool:
    """Whether two counts hold the same, in whatever order the values of a graph stand."""
    if (one.graphs, one.kinds, one.relations) != (other.graphs, other.kinds, other.relations):
        return False
    if any(not np.array_equal(one.missing[name], other.missing[name]) for name in one.missing):
        return False
    return one.measures.keys() == other.measures.keys() and all(
        measure.group == other.measures[name].group
        and np.array_equal(measure.asked, other.measures[name].asked)
        and _values(measure.owner, measure.values) == _values(other.measures[name].owner, other.measures[name].values)
        for name, measure in one.measures.items()
    )


def _values(owner: np.ndarray, values: np.ndarray) -> list[tuple[int, float]]:
    return sorted(zip(owner.tolist(), values.tolist(), strict=True))


# --- counts ----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 12)), min_size=1, max_size=5))
def test_graphs_counted_one_by_one_are_counted_as_all_at_once(found: list[tuple[int, int]]) -> None:
    made = [
        random_graph(np.random.default_rng(seed), n, others={"database": seed % 3}, features=FEATURES, edge_features=("gap.z",))
        for seed, n in found
    ]
    one_by_one = joined([unpacked(packed(measured(arrays_of([graph])))) for graph in made])
    at_once = measured(arrays_of(made))
    kinds = {kind: number for kind, number in at_once.kinds.items() if number}
    assert same(one_by_one, replace(at_once, kinds=kinds))


def test_drift_of_kept_counts_is_drift_of_the_graphs() -> None:
    known = reference(graphs(1, 60))
    now = [louder(graph) for graph in graphs(40, 12)]
    names = [f"t{i}" for i in range(12)]
    kept = joined([unpacked(packed(measured(arrays_of([graph])))) for graph in now])
    assert drift_of_measured(known, kept, names) == drift_of(known, now, names)


def test_of_a_large_graph_some_values_stand_for_all() -> None:
    graph = random_graph(np.random.default_rng(2), 1200, features=FEATURES, edge_features=("gap.z",))
    before = measured(arrays_of([graph])).measures["cpu.z"]
    kept = unpacked(packed(measured(arrays_of([graph])))).measures["cpu.z"]
    assert (before.asked.tolist(), len(kept.values)) == ([1200], counts.MOST_VALUES)
    missing = [1 - len(each.values) / int(each.asked[0]) for each in (before, kept)]
    assert missing[0] == pytest.approx(missing[1], abs=0.001)
    levels = np.linspace(0.01, 0.99, 50)
    places = [np.searchsorted(np.sort(before.values), np.quantile(kept.values, level)) / len(before.values) for level in levels]
    assert np.abs(np.array(places) - levels).max() < 0.005


def test_nothing_cannot_be_joined() -> None:
    with pytest.raises(ValueError, match="at least one"):
        joined([])


def test_the_newest_are_kept_and_one_incident_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "MOST_KEPT", 3)
    found = graphs(3, 6)
    with Recent(tmp_path) as file:
        for number, graph in enumerate(found[:5]):
            file.keep(f"i{number}", f"r{number}", "shop", 100 + number, graph)
        file.keep("i4", "again", "shop", 300, found[5])
    with Recent(tmp_path) as file:
        kept = file.since(0, NAMES)
        assert [(each.incident_id, each.end_ns) for each in kept] == [("i2", 102), ("i3", 103), ("i4", 300)]
        assert same(kept[-1].measured, unpacked(packed(measured(arrays_of([found[5]])))))
        assert [each.incident_id for each in file.since(103, NAMES)] == ["i4"]
        assert file.recordings(NAMES) == {"i2": "r2", "i3": "r3", "i4": "again"}
        assert file.since(0) == (), "what was counted of other features says nothing"
        assert file.recordings() == {}


def test_a_damaged_file_or_count_is_named(tmp_path: Path) -> None:
    with Recent(tmp_path) as file:
        file.keep("i1", "r", "shop", 100, graphs(3, 1)[0])
    for body in (b"junk", packed(measured(arrays_of(graphs(3, 1))))[:-8]):
        with closing(sqlite3.connect(tmp_path / RECENT_FILE)) as base, base:
            base.execute("UPDATE counts SET body = ?", (body,))
        with Recent(tmp_path) as file, pytest.raises(BadInput, match=r"recent.sqlite3: i1: expected a graph that was counted"):
            file.since(0, NAMES)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / RECENT_FILE).write_bytes(b"no database at all, whatever it is" * 40)
    with pytest.raises(BadInput, match="counts of the last incidents"):
        Recent(tmp_path / "other")


def test_signals_are_called_by_their_names() -> None:
    assert title_of("server_latency.above") == "server latency"
    assert title_of("edge.client_latency.z") == "latency seen by the caller, of calls"
    assert (title_of("degree.in"), title_of("graph.queue")) == ("edges into an entity", "queues in a graph")
    assert title_of("own.total") == "own.total"


# --- what is said ----------------------------------------------------------------------------------------------------


def example(kind: str) -> ServiceGraph:
    return case_of(*example_incident(5, kind, "cart", requests_per_second=0.5)).graph


@pytest.fixture(scope="module")
def alike() -> list[ServiceGraph]:
    """Incidents of one system."""
    return [example(kind) for kind in ("cpu_contention", "exception", "network_delay", "return")]


def known(found: Sequence[ServiceGraph]) -> Known:
    return Known("mine-1", reference_of(arrays_of(found), ["shop"] * len(found)))


def kept(home: Path, found: Sequence[ServiceGraph], system: str = "shop", now_ns: int = 10**18) -> int:
    """Counted a minute ago, one after the other; the present time."""
    with Recent(home) as file:
        for number, graph in enumerate(found):
            file.keep(f"{system}-{number}", "r", system, now_ns - MINUTE_NS - number, graph)
    return now_ns


def test_one_sentence_says_whether_now_looks_like_training(tmp_path: Path, alike: list[ServiceGraph]) -> None:
    model = known(alike * 5)
    now = kept(tmp_path / "alike", alike * 3)
    (found,) = findings_of(tmp_path / "alike", model, now)
    assert (found.source, found.level) == ("model", "ok")
    assert found.text == "the last 12 incidents look like what the model learnt from"

    now = kept(tmp_path / "six", alike + alike[:2])
    (found,) = findings_of(tmp_path / "six", model, now)
    assert found.level == "ok"
    assert found.text == "the last 6 incidents look like what the model learnt from, as far as so few can tell"

    now = kept(tmp_path / "few", alike[:3])
    (found,) = findings_of(tmp_path / "few", model, now)
    assert found.level == "note"
    assert found.text == "too few incidents (3 of 5) to tell whether they look like what the model learnt from"

    column = alike[0].feature_names.index("server_latency.z")

    def slower(graph: ServiceGraph) -> ServiceGraph:
        values = graph.features.copy()
        values[:, column] += np.where(graph.available[:, column], 3.0, 0.0)
        return replace(graph, features=values)

    now = kept(tmp_path / "slower", [slower(graph) for graph in alike * 3])
    (found,) = findings_of(tmp_path / "slower", model, now)
    assert found.level == "warning"
    assert found.text.startswith("the last 12 incidents differ from what the model learnt from: 1 of ")
    assert "features differ from training data, above all server latency (higher, PSI " in found.text
    assert "answers may be less sure than they say" in found.advice


def test_one_incident_is_enough_where_it_has_what_training_never_had(tmp_path: Path, alike: list[ServiceGraph]) -> None:
    learnt = known(alike * 5)
    assert learnt.reference is not None
    kinds = {**learnt.reference.kinds, "node": 0}
    relations = {**learnt.reference.relations, "hosted_on": 0, "calls": 0}
    learnt = replace(learnt, reference=replace(learnt.reference, kinds=kinds, relations=relations))
    now = kept(tmp_path, alike[:1])
    (found,) = findings_of(tmp_path, learnt, now)
    assert found.level == "warning"
    assert "the last 1 incident differs" in found.text
    assert "no training graph had a node or a relation `calls`" in found.text, "an edge to a node goes without saying"


def test_what_it_went_on_from_had_seen_is_no_unseen_kind() -> None:
    own = reference(graphs(1, 10))
    before = replace(own, kinds={"service": 4, "queue": 2}, relations={"consumes": 3})
    after = own.after(before)
    assert (after.kinds["queue"], after.kinds["service"]) == (2, own.kinds["service"] + 4)
    assert (after.relations["consumes"], after.relations["calls"]) == (3, own.relations["calls"])
    assert replace(after, kinds=own.kinds, relations=own.relations) == own
    assert own.after(None) == own


def test_only_the_last_30_days_and_the_systems_asked_for_count(tmp_path: Path, alike: list[ServiceGraph]) -> None:
    model = known(alike * 5)
    now = kept(tmp_path, alike)
    kept(tmp_path, alike[:2], "other")
    kept(tmp_path, alike[:3], "old", now - module.RECENT_NS)
    assert lately(tmp_path, model, now).incidents == 6
    assert lately(tmp_path, model, now, ["other"]).incidents == 2
    later = lately(tmp_path, model, now + 2 * module.RECENT_NS)
    assert (later.incidents, later.drift) == (0, None)
    assert drift_finding(later).level == "note"
    assert "no incident of the last 30 days was counted" in drift_finding(later).text


def test_where_nothing_is_there_nothing_is_made_and_it_is_said_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(shipped.VARIABLE, raising=False)
    home = tmp_path / "home"
    (found,) = findings_of(home, known_of(None), 10**18)
    assert (found.level, found.text) == (
        "note", "nothing can be said about drift: the label-free score ranks, which learnt from nothing"
    )  # fmt: skip
    assert not home.exists()
    (tmp_path / "model").mkdir()
    assert "model.json" in known_of(tmp_path / "model").why_not
    monkeypatch.setenv(shipped.VARIABLE, str(tmp_path / "gone"))
    (found,) = findings_of(home, known_in_use(home), 10**18)
    assert found.level == "note"
    assert "gone" in found.text
    assert known_in_use(home, "third-party").why_not == "nothing is kept of what third-party learnt from"


def test_a_damaged_file_of_counts_is_a_warning(tmp_path: Path, alike: list[ServiceGraph]) -> None:
    (tmp_path / RECENT_FILE).write_bytes(b"no database at all, whatever it is" * 40)
    (found,) = findings_of(tmp_path, known(alike), 10**18)
    assert found.level == "warning"
    assert "nothing can be said about drift" in found.text
    assert RECENT_FILE in found.text


def test_the_doctor_says_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alike: list[ServiceGraph]) -> None:
    if shipped.shipped_folder() is None:
        pytest.skip("no model ships")
    monkeypatch.delenv(shipped.VARIABLE, raising=False)
    file = tmp_path / "rca.toml"
    file.write_text('[prometheus]\nurl = "http://127.0.0.1:9"\nretries = 0\n')
    kept(tmp_path / "home", alike[:2], now_ns=time.time_ns())
    asked = ["doctor", "--config", str(file), "--store", str(tmp_path / "home"), "--json"]
    done = CliRunner().invoke(app, asked, catch_exceptions=False)
    said = [each for each in json.loads(done.stdout)["findings"] if each["source"] == "model"]
    assert len(said) == 1
    assert said[0]["level"] in ("note", "warning")
    assert "what the model learnt from" in said[0]["text"]
    done = CliRunner().invoke(app, [*asked[:-2], str(tmp_path / "nowhere"), "--json"], catch_exceptions=False)
    said = [each for each in json.loads(done.stdout)["findings"] if each["source"] == "model"]
    assert "no incident of the last 30 days was counted" in said[0]["text"]
    assert not (tmp_path / "nowhere").exists()


# --- agreement -------------------------------------------------------------------------------------------------------


def answered(home: Path, incident_id: str, first: EntityId | None, at_ns: int) -> None:
    """Somebody was told who it was first, or that it was nobody; the telemetry is in the store under the same id."""
    named = [] if first is None else [{"kind": first.kind, "name": first.name, "namespace": first.namespace}]
    gist = json.dumps({"model": "m", "trouble": "", "news": [], "candidates": named, "level": "likely"})
    with closing(InboxFile(home)) as file, file.writing():
        taken = file.take(AlertGroup(incident_id, "rca", (GroupAlert("a", "firing", at_ns),)), at_ns, "shop")
        number = file.episode(taken.incident_id or "").number
        file.answered(number, 1, "firing", gist, "{}", (), at_ns, task=None, due_ns=None)
        file.keeps(number, incident_id)


def labelled(home: Path, incident_id: str, *causes: tuple[str | None, Any]) -> None:
    incident, telemetry = example_incident(5, "cpu_contention", "cart", requests_per_second=0.2)
    labels = tuple(
        Label(
            entity=EntityModel(kind="service", name=name) if name else None,
            fault_kind="cpu_contention" if name else "no_fault",
            provenance=provenance,
        )
        for name, provenance in causes
    )
    with IncidentStore(home, who="test") as store:
        store.add(incident.model_copy(update={"id": incident_id, "labels": labels}), telemetry)


def test_agreement_by_hand(tmp_path: Path) -> None:
    cart, orders = EntityId("service", "cart"), EntityId("service", "orders")
    assert agreement(tmp_path, 0) == (0, 0)
    assert list(tmp_path.iterdir()) == []
    for name, first, *causes in (
        ("right", cart, ("cart", "confirmed")),
        ("wrong", orders, ("cart", "confirmed")),
        ("injected", cart, ("cart", "injected")),
        ("guessed", orders, ("cart", "inferred")),
        ("nobody", None, (None, "confirmed")),
        ("blamed", cart, (None, "confirmed")),
        ("overruled", orders, ("cart", "disputed"), ("orders", "confirmed")),
        ("disputed", cart, ("cart", "disputed")),
        ("unlabelled", cart),
    ):
        labelled(tmp_path, name, *causes)
        answered(tmp_path, name, first, 100)
    labelled(tmp_path, "unanswered", ("cart", "confirmed"))
    labelled(tmp_path, "old", ("cart", "confirmed"))
    answered(tmp_path, "old", orders, 50)
    assert agreement(tmp_path, 60) == (6, 4)
    assert agreement(tmp_path, 0) == (7, 4)


@pytest.mark.parametrize(("agreed", "judged", "level"), [(4, 9, "ok"), (5, 10, "ok"), (4, 10, "warning")])
def test_agreement_in_words(agreed: int, judged: int, level: str) -> None:
    (found,) = agreement_findings(Lately(judged=judged, agreed=agreed))
    assert found.level == level
    assert found.text == f"{agreed} of {judged} answers of the last 30 days named the confirmed or injected cause first"
    assert not list(agreement_findings(Lately()))


# --- rca serve -------------------------------------------------------------------------------------------------------


def told(ranks: Ranks) -> dict[str, dict[str, float]]:
    return {gauge.short: gauge.values() for gauge in drift_gauges(lambda: ranks)}


def test_what_was_ranked_is_counted_and_told_after_a_restart(tmp_path: Path) -> None:
    if shipped.shipped_folder() is None:
        pytest.skip("no model ships")
    onset, sources = recent()
    asker = Asker(config(), tmp_path, sources=sources)
    assert told(asker.ranks())["drift_incidents"] == {}, "nobody looked yet"
    asker.look_back()
    assert told(asker.ranks())["drift_incidents"] == {"": 0.0}
    _, incident, telemetry = asker.find(question(onset))
    assert asker.keep(incident, telemetry).bundle == incident.id
    asker.look_back()
    figures = told(asker.ranks())
    assert figures["drift_incidents"] == {"": 1.0}
    assert figures["drift_missing_ratio"]["spans"] == 0.0
    assert asker.keep(incident, telemetry).bundle == incident.id, "nothing was ranked since, so nothing is counted"

    again = Asker(config(), tmp_path, sources=sources)
    again.look_back()
    assert told(again.ranks()) == figures

    (one,) = from_store([], tmp_path, Labels.ANY)
    case = case_for(one)
    assert case is not None
    with Recent(tmp_path) as file:
        assert file.recordings() == {one.incident.id: one.digest}
        (counted,) = file.since(0)
    assert same(counted.measured, unpacked(packed(measured(arrays_of([case.graph]))))), "what is stored ranks as what was asked"
    assert count_recorded(tmp_path, [one]) == ()
    with closing(sqlite3.connect(tmp_path / RECENT_FILE)) as base, base:
        base.execute("DELETE FROM counts")
    assert count_recorded(tmp_path, [one]) == ()
    with Recent(tmp_path) as file:
        assert same(file.since(0)[0].measured, counted.measured), "what was not counted is counted from the store"


def test_counts_that_cannot_be_written_keep_nobody_from_an_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / RECENT_FILE).write_bytes(b"no database at all, whatever it is" * 40)
    onset, sources = recent()
    asker = Asker(config(), tmp_path, sources=sources, ranker=Floor())
    found, incident, telemetry = asker.find(question(onset))
    assert found.model == "floor"
    assert asker.keep(incident, telemetry).bundle == incident.id
    asker.look_back()
    assert "is not counted for drift" in caplog.text
    ranks = asker.ranks()
    assert ranks.lately is not None
    assert RECENT_FILE in ranks.lately.why_not
    assert told(ranks)["drift_found"] == {}


def test_an_incident_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    labelled(tmp_path, "fine", ("cart", "confirmed"))
    labelled(tmp_path, "gone", ("cart", "confirmed"))
    found = from_store([], tmp_path, Labels.ANY)

    def fail() -> tuple[Incident, object]:
        raise BadInput("gone", expected="a bundle", found="none")

    found = [replace(one, read=fail, digest="another") if one.incident.id == "gone" else one for one in found]  # type: ignore[arg-type]
    ((incident_id, why),) = count_recorded(tmp_path, found)
    assert (incident_id, "a bundle" in why) == ("gone", True)
    with Recent(tmp_path) as file:
        assert list(file.recordings()) == ["fine"]


def test_of_many_incidents_only_those_are_read_that_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labelled(tmp_path, "one", ("cart", "confirmed"))
    (one,) = from_store([], tmp_path, Labels.ANY)
    monkeypatch.setattr(module, "MOST_KEPT", 1)
    window = one.incident.window
    before = window.model_copy(update={"start_ns": window.start_ns - MINUTE_NS, "end_ns": window.end_ns - MINUTE_NS})
    older = replace(one, incident=one.incident.model_copy(update={"id": "older", "window": before}), digest="another")
    seen: list[str] = []
    assert count_recorded(tmp_path, [one, older], step=seen.append) == ()
    assert seen == ["one"]


def test_figures_are_few_whatever_the_number_of_features(tmp_path: Path, alike: list[ServiceGraph]) -> None:
    now = kept(tmp_path, alike * 2)
    found = lately(tmp_path, known(alike * 5), now)
    assert found.drift is not None
    figures = told(Ranks("m", learned=True, lately=replace(found, judged=4, agreed=3)))
    assert set(figures["drift_found"]) == {"features", "structure", "telemetry", "kinds"}
    assert set(figures["drift_psi"]) == set(figures["drift_ks"]) == set(OF)
    entities = [shift for shift in found.drift.shifts if shift.group == "feature"]
    assert figures["drift_psi"]["entities"] == max(shift.psi for shift in entities)
    degrees = [shift for shift in found.drift.shifts if shift.name.startswith("degree.")]
    assert len(degrees) == 2
    assert figures["drift_ks"]["degrees"] == max(shift.ks or 0 for shift in degrees)
    assert (figures["agreement_ratio"], figures["agreement_incidents"]) == ({"": 0.75}, {"": 4.0})
    assert sum(map(len, figures.values())) < 30
    few = told(Ranks("m", learned=True, lately=replace(found, incidents=4)))
    assert (few["drift_found"], few["drift_psi"], few["agreement_ratio"]) == ({}, {}, {})
    text = "\n".join(line for gauge in drift_gauges(lambda: Ranks("m", learned=True, lately=found)) for line in gauge.lines())
    assert 'rca_serve_drift_found{part="kinds"} 0' in text


def test_what_it_costs_is_told(alike: list[ServiceGraph]) -> None:
    learnt = known(alike).reference
    assert learnt is not None
    assert re.fullmatch(r"[\d.]+ m?s to count an incident, [\d.]+ m?s to look back on 200", cost(learnt, alike))


def test_logs_that_went_are_told_by_kind_of_telemetry(tmp_path: Path) -> None:
    learnt = Known("m", reference(graphs(1, 40), systems=["shop"] * 40))
    with Recent(tmp_path) as file:
        for number, graph in enumerate(graphs(2, 6)):
            file.keep(f"i{number}", "r", "shop", 10**18 - 1, without_logs(graph))
        counted = file.since(0, NAMES)
    assert learnt.reference is not None
    drift = drift_of_measured(learnt.reference, joined([each.measured for each in counted]), ["shop"] * 6)
    figures = told(Ranks("m", learned=True, lately=Lately(6, drift, "")))
    assert figures["drift_missing_ratio"]["logs"] == 1.0
    assert figures["drift_found"]["telemetry"] == 1.0
