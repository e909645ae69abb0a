"""The pages as values and as text: what they show in every state, and that hostile text on them does no harm."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import html5lib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rca.drawing.charts import trace_of, y_ticks
from rca.drawing.foreign import address, plain
from rca.drawing.layered import BOX_HEIGHT, BOX_WIDTH, drawn
from rca.drawing.servicemap import MOST_DRAWN, map_of
from rca.drawing.similar import Gist, gist_of, similar_to
from rca.drawing.timeline import MOST_ENTRIES, timeline_of
from rca.errors import BadInput, UnknownName
from rca.evidence import Facts
from rca.incidents.bundle import read_bundle
from rca.incidents.example import example_incident
from rca.incidents.incident import EntityModel, Incident, IntervalModel, Label
from rca.incidents.store import AuditEntry
from rca.pipeline import case_of
from rca.ranking import Evidence, Ranking
from rca.report import Confidence, Outcome
from rca.serve.pages.labelling import entity_of, judgement_of, value_of
from rca.serve.pages.listing import PER_PAGE, Known, Query, list_view
from rca.serve.pages.rendering import HEADERS, STYLE, render, render_list, render_message
from rca.serve.pages.view import IncidentView, Looker, view_of
from rca.sinks.markup import CHAT
from rca.sinks.message import in_text, message_of
from rca.sinks.notice import AlertLine, Links, Notice
from rca.telemetry import MINUTE_NS, EntityId
from tests.pages import ENGINEER, HOSTILE, LONG, alerts_of, example, large, ranked, telling


def parsed(text: str) -> Any:
    """The tree of a page, which a strict parser of HTML 5 takes without a complaint."""
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(text)


def words_of(text: str) -> str:
    return " ".join("".join(parsed(text).find("body").itertext()).split())


# --- the verdict and the states ---------------------------------------------------------------------------------------------


def test_the_verdict_comes_first_and_names_the_cause_its_certainty_and_the_strongest_evidence() -> None:
    found = example()
    text = words_of(render(found.view()))
    first = found.report.ranking.candidates[0]
    places = [text.index(part) for part in ("catalogue", found.report.confidence.words, first.evidence[0].statement, "Ranking")]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (None, "The ranking is being made"),
        (telling(None, trouble="Prometheus did not answer"), "No ranking could be made Prometheus did not answer"),
    ],
)
def test_without_a_ranking_the_page_says_why(told: Notice | None, expected: str) -> None:
    incident = example().incident
    text = words_of(render(view_of(incident, told, None, looker=ENGINEER)))
    assert expected in text
    assert ("Not a fault" in text) == (told is not None)


def test_nothing_stands_out() -> None:
    found = example()
    report = replace(found.report, confidence=Confidence("nothing", "Nothing stands out: none strays."), path=None, map=None)
    view = view_of(found.incident, telling(report), replace(found.scene, charts=()), looker=ENGINEER)
    assert view.verdict.heading == "Nothing stands out"
    assert view.forms is not None
    assert view.forms.confirm is None
    assert "The order means nothing" in words_of(render(view))


def test_an_empty_window_has_nothing_to_rank() -> None:
    found = example()
    empty = Ranking("floor", found.report.ranking.window, ())
    report = replace(found.report, ranking=empty, confidence=Confidence("nothing", "There is no telemetry."), path=None, map=None)
    assert "Not enough telemetry" in words_of(render(view_of(found.incident, telling(report), None)))


def test_perhaps_no_fault() -> None:
    found = example()
    report = replace(found.report, confidence=Confidence("unsure", "Perhaps no fault at all (60 %).", "no_fault"))
    view = found.view(told=telling(report))
    assert (view.verdict.eyebrow, view.verdict.heading) == ("Most likely", "No fault at all")


def test_perhaps_nothing_that_telemetry_shows() -> None:
    found = example()
    ranking = replace(found.report.ranking, no_fault=0.25, outside=0.45)
    words = "Telemetry points at nobody: a cause that it does not show (45 %) is likelier."
    view = found.view(told=telling(replace(found.report, ranking=ranking, confidence=Confidence("unsure", words, "outside"))))
    assert (view.verdict.eyebrow, view.verdict.heading) == ("No likely cause", "Telemetry points at nobody")
    assert "No fault: 25 %; a cause that telemetry does not show: 45 %." in words_of(render(view))


def test_a_revision_says_what_changed_and_a_resolved_incident_that_it_is() -> None:
    found = example()
    text = words_of(render(found.view(told=telling(found.report, 3, "resolved", news=("redis was first before",)))))
    assert "revision 3" in text
    assert "redis was first before" in text
    assert "resolved" in text


def test_what_was_missing_is_told_and_cut() -> None:
    found = example()
    report = replace(found.report, missing=tuple(f"source {i} did not answer" for i in range(30)))
    view = found.view(told=telling(report))
    assert (len(view.missing), view.more_missing) == (20, 10)
    assert "and 10 more" in words_of(render(view))


# --- who may label ----------------------------------------------------------------------------------------------------------


def test_forms_are_for_the_role_label_alone_and_carry_the_token() -> None:
    found = example()
    label = Label(entity=EntityModel(name="redis"), provenance="confirmed", author="bo")
    labelled = found.incident.model_copy(update={"labels": (label,)})
    reader = render(view_of(labelled, telling(found.report), found.scene, looker=Looker("read", "bo", "secret")))
    engineer = render(view_of(labelled, telling(found.report), found.scene, looker=ENGINEER))
    assert "<form" not in reader
    assert "secret" not in reader
    forms = parsed(engineer).findall(".//form")
    assert len(forms) == 5  # confirm, not a fault, correct, no fault more exactly, take back
    for form in forms:
        fields = {field.get("name"): field.get("value") for field in form.findall(".//input")}
        assert form.get("method") == "post"
        assert fields["csrf"] == ENGINEER.csrf


def test_labels_and_who_changed_them_are_shown() -> None:
    found = example()
    audit = (AuditEntry(1, found.incident.window.end_ns, "anna", found.incident.id, "labelled", [], []),)
    text = words_of(render(found.view(audit=audit)))
    assert re.search(r"catalogue, CPU contention injected ?by example", text)
    assert "anna: labelled" in text


def test_a_form_becomes_a_label() -> None:
    catalogue = EntityId("service", "cata|logue", "shop")
    confirmed = judgement_of({"verdict": "confirm", "entity": value_of(catalogue) or "", "csrf": "x"})
    assert confirmed.label.entity is not None
    assert confirmed.label.entity.entity() == catalogue
    assert (confirmed.label.fault_kind, confirmed.label.provenance) == ("unknown", "confirmed")
    form = {"verdict": "correct", "entity": "database||shop-db", "fault_kind": "slow_database", "note": " index \n gone "}
    corrected = judgement_of(form)
    assert (corrected.label.fault_kind, corrected.label.note) == ("slow_database", "index gone")
    surge = judgement_of({"verdict": "no_fault", "fault_kind": "traffic_surge"})
    assert (surge.label.entity, surge.label.fault_kind) == (None, "traffic_surge")
    assert judgement_of({"verdict": "withdraw", "entity": ""}).label.entity is None
    assert judgement_of({"verdict": "withdraw", "entity": "service||cart"}).label.name() == "cart"


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"verdict": "delete"},
        {"verdict": "confirm"},
        {"verdict": "confirm", "entity": "cart"},
        {"verdict": "confirm", "entity": "pod||cart-1"},
        {"verdict": "correct", "entity": "service||cart", "fault_kind": "gremlins"},
        {"verdict": "correct", "entity": "service||cart", "fault_kind": "traffic_surge"},
        {"verdict": "no_fault", "fault_kind": "slow_database"},
        {"verdict": "no_fault", "note": "x" * 1001},
    ],
)
def test_a_form_that_nobody_sent_is_refused(form: dict[str, str]) -> None:
    with pytest.raises((BadInput, UnknownName)):
        judgement_of(form)


@given(st.sampled_from(["service", "database", "node"]), st.text(min_size=1), st.text())
def test_entities_survive_the_form(kind: Any, name: str, namespace: str) -> None:
    entity = EntityId(kind, name, namespace)
    value = value_of(entity)
    assert value is not None
    assert entity_of(value) == entity


# --- charts -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault_kind", "culprit"),
    [("cpu_contention", "catalogue"), ("network_delay", "payment"), ("exception", "shipping"), ("return", "cart")],
)
def test_charts_show_the_series_that_the_evidence_states(fault_kind: str, culprit: str) -> None:
    found = example(fault_kind, culprit)
    evidence = found.report.ranking.candidates[0].evidence
    charted = [chart.signal for chart in found.scene.charts]
    assert charted, [item.signal for item in evidence]
    assert charted == [item.signal for item in evidence if item.signal in charted]
    for chart in found.scene.charts:
        left, top, right, bottom = chart.plot
        assert all(left <= x <= right and top - 0.5 <= y <= bottom + 0.5 for x, y, _ in chart.dots)
        assert len(chart.y_ticks) >= 2
        assert chart.x_ticks
        assert "in the incident" in chart.description


def test_a_trace_has_the_numbers_of_its_sentence() -> None:
    incident, telemetry = example_incident(7, "cpu_contention", "catalogue", requests_per_second=1.5)
    case = case_of(incident, telemetry)
    facts = Facts(case)
    catalogue = EntityId("service", "catalogue")
    item = next(item for item in facts.evidence(catalogue) if item.signal == "cpu")
    trace = trace_of(facts, catalogue, item)
    assert trace is not None
    now, before = trace.values[trace.inside], trace.values[~trace.inside]
    assert (item.observed, item.baseline) == pytest.approx((np.mean(now), np.median(before)))
    assert trace_of(facts, catalogue, replace(item, observed=1.0)) is None
    assert trace_of(facts, catalogue, Evidence("alert_cpu", "CPU alerts: one", 1.0, None, "1", 1.0)) is None


@given(st.floats(-1e12, 1e12), st.floats(0, 1e12), st.sampled_from(["s", "By", "1", "%", "1/s", "{cpu}"]))
def test_axes_hold_every_value(least: float, extent: float, unit: str) -> None:
    if unit == "%":
        least, extent = abs(least) % 100, extent % (100 - abs(least) % 100)
    most = least + extent
    ticks = y_ticks(least, most, unit)
    slack = 1e-6 * max(abs(least), abs(most), 1e-9)
    assert 2 <= len(ticks) <= 12
    assert list(ticks) == sorted(set(ticks))
    assert ticks[0] <= least + slack
    assert ticks[-1] >= most - slack
    if size := max(abs(ticks[0]), abs(ticks[-1])):
        assert ticks[1] - ticks[0] >= 0.01 * size


# --- the map ----------------------------------------------------------------------------------------------------------------


def test_the_map_shows_the_cause_its_dependents_and_every_call_as_text() -> None:
    found = example("network_delay", "payment")
    service_map = found.scene.map
    assert service_map is not None
    parts = {box.name: box.part for box in service_map.boxes}
    assert parts["payment"] == "cause"
    assert found.report.path is not None
    assert {str(entity.name) for entity in found.report.path.entities} <= set(parts)
    assert "depend on payment" in service_map.blast
    assert not service_map.left_out
    call = next(call for call in service_map.calls if (call.caller, call.callee) == ("checkout", "payment"))
    assert call.rate[0].endswith("/s")
    assert call.latency[0].endswith("s")
    rows = parsed(render(found.view())).findall(".//table/tbody/tr")
    assert len(rows) == len(service_map.calls)


def test_a_large_system_is_cut_to_what_matters_and_says_so() -> None:
    service_map = large(60).scene.map
    assert service_map is not None
    assert len(service_map.boxes) == MOST_DRAWN
    assert "more are not drawn" in service_map.left_out
    cause = large(60).report.ranking.candidates[0].entity
    assert any(box.part == "cause" and box.name.endswith(cause.name) for box in service_map.boxes)
    called = {name for call in service_map.calls for name in (call.caller, call.callee)}
    assert {box.name for box in service_map.boxes} <= called | {cause.name}


@given(st.integers(0, 2**16), st.integers(1, 30), st.integers(0, 80))
def test_boxes_never_overlap_whoever_calls_whom(seed: int, size: int, calls: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = [(int(a), int(b)) for a, b in rng.integers(0, size, (calls, 2))]
    drawing = drawn(range(size), pairs)
    boxes = list(drawing.boxes.values())
    for i, (x, y) in enumerate(boxes):
        assert x >= 0
        assert y >= 0
        assert x + BOX_WIDTH <= drawing.width
        assert y + BOX_HEIGHT <= drawing.height
        assert all(abs(x - u) >= BOX_WIDTH or abs(y - v) >= BOX_HEIGHT for u, v in boxes[i + 1 :])
    assert set(drawing.calls) == {(a, b) for a, b in pairs if a != b}
    assert drawing == drawn(range(size), pairs)


def test_the_way_is_called_after_who_noticed() -> None:
    found = example()
    assert found.report.path is not None
    for noticed_by, way in (("alert", "From the alert to the cause"), ("symptoms", "From the entry to the cause")):
        path = replace(found.report.path, noticed_by=noticed_by, entities=(), words="it is itself where requests enter.")
        report = replace(found.report, path=path)
        assert f"{way} it is itself" in words_of(render(found.view(told=telling(report))))
        assert way in in_text(message_of(telling(report)), CHAT)


def test_no_call_no_map() -> None:
    found = example()
    incident, telemetry = example_incident(7, requests_per_second=1.5)
    silent = replace(telemetry, spans=telemetry.spans.head(0), topology=telemetry.topology.head(0))
    assert map_of(case_of(incident, silent), found.report.ranking, None) is None


# --- the timeline -----------------------------------------------------------------------------------------------------------


def test_the_timeline_has_alerts_changes_and_events_in_order() -> None:
    found = example()
    told = telling(found.report, alerts=alerts_of(found.incident, "SlowRequests", "HighErrorRatio"))
    timeline = found.view(told=told).timeline
    times = [entry.at_ns for entry in timeline.entries if entry.at_ns is not None]
    assert times == sorted(times)
    assert {entry.sort for entry in timeline.entries} >= {"moment", "alert"}
    assert timeline.more == 0


def test_an_alert_is_named_as_people_name_it_and_stands_there_once() -> None:
    found = example()
    recorded = next(entry for entry in found.scene.happened if entry.sort == "alert")
    same = AlertLine(recorded.what, entity=f"service:{recorded.about}", starts_ns=recorded.at_ns or 0)
    told = telling(found.report, alerts=(same, AlertLine("PodNotReady", entity="pod:shop/cart-1", starts_ns=same.starts_ns)))
    view = found.view(told=told)
    assert [alert.entity for alert in view.alerts] == [recorded.about, "pod shop/cart-1"]
    assert [entry.about for entry in view.timeline.entries if entry.what == recorded.what] == [recorded.about]


def test_ten_thousand_alerts_are_counted_not_listed() -> None:
    found = example()
    alerts = tuple(AlertLine(f"Alert{i}", starts_ns=found.incident.window.start_ns) for i in range(10_000))
    view = found.view(told=telling(found.report, alerts=alerts, more_alerts=5))
    assert len(view.timeline.entries) == MOST_ENTRIES
    assert view.timeline.more > 9_900
    assert view.more_alerts == 10_000 - len(view.alerts) + 5
    assert len(render(view)) < 200_000


def test_alerts_without_a_time_and_ends_before_starts_are_harmless() -> None:
    found = example()
    end = found.incident.window.start_ns
    year_1 = -62135596800 * 10**9
    alerts = (
        AlertLine("A", starts_ns=0),
        AlertLine("A", starts_ns=2**62, ends_ns=-(2**63)),
        AlertLine("B", starts_ns=end, ends_ns=1),
        AlertLine("C", starts_ns=end, ends_ns=year_1),
    )
    timeline = timeline_of(found.incident, alerts, (), None)
    assert timeline.entries[-1].when == "some time"
    parsed(render(found.view(told=telling(found.report, alerts=alerts))))


# --- similar incidents ------------------------------------------------------------------------------------------------------


def earlier(incident: Incident, hours: int, **changes: Any) -> Incident:
    window = incident.window
    moved = IntervalModel(start_ns=window.start_ns - hours * 60 * MINUTE_NS, end_ns=window.end_ns - hours * 60 * MINUTE_NS)
    return incident.model_copy(update={"id": f"before-{hours}", "window": moved, "labels": (), **changes})


def test_similar_incidents_say_what_is_alike() -> None:
    found = example()
    gist = gist_of(found.report)
    assert gist.candidate == EntityId("service", "catalogue")
    label = Label(entity=EntityModel(name="catalogue"), fault_kind="cpu_contention", provenance="confirmed", note="batch job")
    past = [
        (earlier(found.incident, 2, labels=(label,)), Gist()),
        (earlier(found.incident, 3), gist),
        (earlier(found.incident, 4, system="another"), gist),
        (earlier(found.incident, -4), gist),
        (earlier(found.incident, 5), Gist(EntityId("service", "cart"), 0.9, "clear", "crash", ("traffic",))),
    ]
    similar = similar_to(found.incident, gist, past)
    assert [one.id for one in similar] == ["before-3", "before-2"]
    assert "the same candidate" in similar[0].reasons
    assert (similar[1].cause, similar[1].known, similar[1].note) == ("catalogue, CPU contention", "labelled", "batch job")
    assert "What solved it, as noted then: batch job" in words_of(render(found.view(similar=similar)))


# --- the list ---------------------------------------------------------------------------------------------------------------


def known(n: int) -> list[Known]:
    found = example()
    states = ("firing", *("resolved" for _ in range(n)))
    return [Known(earlier(found.incident, i + 1), gist_of(found.report), state=states[i]) for i in range(n)]


def test_the_list_is_searched_by_words_and_filters() -> None:
    rows = known(3)
    label = Label(entity=EntityModel(name="redis"), fault_kind="cache_down", provenance="confirmed", author="Bo")
    rows[1] = replace(rows[1], incident=rows[1].incident.model_copy(update={"labels": (label,)}))
    assert [row.id for row in list_view(rows).rows] == ["before-1", "before-2", "before-3"]
    for query, expected in (
        (Query("REDIS cache"), ["before-2"]),
        (Query("redis nowhere"), []),
        (Query(state="firing"), ["before-1"]),
        (Query(labelled="unlabelled"), ["before-1", "before-3"]),
        (Query("catalogue", system="example-shop"), ["before-1", "before-2", "before-3"]),
        (Query(system="another"), []),
    ):
        assert [row.id for row in list_view(rows, query).rows] == expected, query
    assert "No incident has all of that." in words_of(render_list(list_view(rows, Query("redis nowhere"))))
    assert "There is no incident yet." in words_of(render_list(list_view([])))


@pytest.mark.parametrize(
    ("outcome", "shown"),
    [("cause", "catalogue"), ("no_fault", "perhaps no fault"), ("outside", "telemetry points at nobody")],
)
def test_the_list_blames_nobody_where_the_page_does_not(outcome: Outcome, shown: str) -> None:
    (one,) = known(1)
    (row,) = list_view([replace(one, gist=replace(one.gist, outcome=outcome))]).rows
    assert row.verdict == shown
    assert bool(row.share) == (outcome == "cause")


def test_the_list_has_pages_that_keep_the_query() -> None:
    rows = known(2 * PER_PAGE + 1)
    view = list_view(rows, Query.of({"q": "catalogue & co", "page": "2"}))
    assert view.pages == 1
    view = list_view(rows, Query.of({"q": "catalogue", "page": "2", "state": "nonsense"}))
    assert (view.found, view.page, view.pages, len(view.rows)) == (101, 2, 3, PER_PAGE)
    assert (view.earlier, view.later) == ("q=catalogue", "q=catalogue&page=3")
    assert list_view(rows, Query(page=99)).page == 3
    parsed(render_list(view))


@given(st.dictionaries(st.sampled_from(["q", "system", "state", "labelled", "page"]), st.text()))
def test_no_address_breaks_the_list(parameters: dict[str, str]) -> None:
    parsed(render_list(list_view(known(1), Query.of(parameters))))


# --- hostile text -----------------------------------------------------------------------------------------------------------


def hostile_view(text: str) -> IncidentView:
    """A page on which everything that somebody else may write is this text."""
    found = example()
    entity = EntityModel(name=text)
    label = Label(entity=entity, fault_kind=text, provenance="confirmed", author=text, note=text)
    changes = {"title": text, "system": text, "labels": (label,), "alerting": (entity,), "source": text}
    incident = found.incident.model_copy(update={**changes, "links": (text, f"javascript:{text}")})
    evidence = (Evidence("cpu", text, 1.0, 1.0, text, 2.0, (text,)),)
    candidates = [
        replace(c, entity=replace(c.entity, name=text, namespace=text), evidence=evidence)
        for c in found.report.ranking.candidates
    ]
    ranking = replace(found.report.ranking, candidates=tuple(candidates), ranker=text, notes=(text,))
    report = replace(found.report, ranking=ranking, confidence=Confidence("clear", text), missing=(text,))
    alert = AlertLine(text, text, text, text, incident.window.start_ns)
    links = Links(
        traces=((text, text),), dashboards=((text, "javascript:alert(1)"),), runbooks=((text, f"https://x.example/{text}"),)
    )
    told = telling(report, 2, title=text, alerts=(alert,), links=links, model=text, news=(text,), trouble=text)
    audit = (AuditEntry(1, 0, text, incident.id, text, [], []),)
    versions = ((text, text),)
    looker = replace(ENGINEER, name=text)
    return view_of(incident, told, found.scene, looker=looker, audit=audit, versions=versions, said=text, problem=text)


def test_hostile_text_is_shown_and_does_nothing() -> None:
    text = render(hostile_view(HOSTILE))
    tree = parsed(text)
    assert not tree.findall(".//script")
    assert not tree.findall(".//img")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069\ufeff]", text)
    assert "\\x1b[31m" in text
    for element in tree.iter():
        assert not any(name.startswith("on") or name == "style" for name in element.attrib), element.attrib
        for name in ("href", "src", "action"):
            value = element.get(name, "")
            assert value == "" or re.match(r"(https?:|data:image/svg|/|#|\?)", value), value


def test_a_megabyte_of_text_is_cut() -> None:
    assert len(render(hostile_view("A" * LONG))) < 300_000
    assert len(render(hostile_view("\u202e" * LONG))) < 600_000


@given(st.text())
def test_any_text_makes_a_page(text: str) -> None:
    parsed(render_message(text, text, Looker(name=text)))


def test_marks_do_not_pile_up_over_other_lines() -> None:
    assert plain("Z" + "\u0335" * 50 + "a\u0300\u0323") == "Z" + "\u0335" * 3 + "a\u0300\u0323"


@pytest.mark.parametrize("name", ["shop-031-bad-rollout-cart", "shop-071-telemetry-pipeline", "shop-092-no-fault"])
def test_recorded_incidents_make_pages(name: str) -> None:
    path = Path(__file__).parent.parent / "incidents" / f"{name}.tar.zst"
    if not path.exists():
        pytest.skip(f"no recordings at {path.parent}")
    found = ranked(*read_bundle(path))
    first = found.report.ranking.candidates[0]
    charted = {chart.signal for chart in found.scene.charts}
    assert {item.signal for item in first.evidence} - charted <= {"warnings", "changes"}
    text = words_of(render(found.view()))
    assert first.evidence[0].statement in text
    assert found.scene.map is not None
    assert found.scene.map.blast in text


@given(st.text(), st.integers(1, 400))
def test_plain_text_is_short_and_printable(text: str, most: int) -> None:
    shown = plain(text, most)
    assert len(shown) <= most + 1
    assert shown.isprintable()


@pytest.mark.parametrize(
    ("text", "followed"),
    [
        ("https://grafana.example/d/1?x=1#y", True),
        (" http://host ", True),
        ("javascript:alert(1)", False),
        ("JaVaScRiPt://x/%0aalert(1)", False),
        ("data:text/html,x", False),
        ("//evil.example", False),
        ("https://", False),
        ("https://[bad", False),
        ("https://host:99999999/", False),
        ("https://host/\n<b>", False),
        ("https://host/" + "x" * 3000, False),
    ],
)
def test_only_plain_addresses_are_links(text: str, followed: bool) -> None:
    assert (address(text) is not None) == followed


# --- the text itself --------------------------------------------------------------------------------------------------------


def test_pages_need_no_script_no_inline_style_and_nothing_from_elsewhere() -> None:
    found = example()
    message = render_message("Not found", "There is no such incident.")
    for text in (render(found.view(ENGINEER)), render_list(list_view(known(3))), message):
        tree = parsed(text)
        assert not tree.findall(".//script")
        assert not [element for element in tree.iter() if "style" in element.attrib]
        assert [element.text for element in tree.findall(".//style")] == [STYLE]
        for element in tree.iter():
            for name in ("src", "srcset", "data", "poster", "background"):
                assert name not in element.attrib
    assert "@import" not in STYLE
    assert "url(" not in STYLE
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


def luminance(colour: str) -> float:
    """Relative luminance of a colour written as #rgb or #rrggbb (WCAG 2.2)."""
    digits = colour.removeprefix("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    shares = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_colours_contrast_as_aa_asks_in_every_scheme() -> None:
    schemes = [
        dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{3,6})", block)) for block in re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    ]
    assert len(schemes) == 3  # light, dark, print
    text = [(ink, ground) for ink in ("ink", "dim", "accent", "bad", "warn", "good") for ground in ("ground", "card")]
    text += [
        ("ink", "faint"),
        ("bad", "bad-ground"),
        ("good", "good-ground"),
        ("on-accent", "accent"),
        ("dim", "warn-ground"),
        ("card", "warn"),
    ]
    text += [("dim", "incident"), ("ink", "bad-ground"), ("ink", "warn-ground")]
    drawn = [(mark, ground) for mark in ("series", "bad", "dim") for ground in ("card", "band", "incident")]
    for scheme in schemes:
        for pairs, least in ((text, 4.5), (drawn, 3.0)):
            for one, other in pairs:
                dark, light = sorted((luminance(scheme[one]), luminance(scheme[other])))
                assert (light + 0.05) / (dark + 0.05) >= least, (one, other, scheme)


def test_headings_landmarks_and_names_are_in_order() -> None:
    tree = parsed(render(example().view(ENGINEER)))
    levels = [int(tag[1]) for tag in (str(element.tag) for element in tree.iter()) if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = [element.get("id") for element in tree.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    for element in tree.iter():
        for reference in (element.get("aria-labelledby") or "").split():
            assert reference in ids
        if element.tag == "svg":
            assert element.get("aria-hidden") == "true" or element.get("role") == "img"


def test_equal_values_give_equal_pages() -> None:
    one, other = (ranked(*example_incident(5, requests_per_second=1.0)) for _ in range(2))
    assert render(one.view()) == render(other.view())
