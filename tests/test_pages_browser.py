"""The pages in a real browser: nothing is asked for elsewhere, nothing is refused by their policy, anybody can use them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any
from urllib.parse import parse_qs

import pytest
from playwright.sync_api import Page

from rca.drawing.similar import gist_of, similar_to
from rca.incidents.incident import EntityModel, Label
from rca.report import Confidence
from rca.serve.pages.labelling import judgement_of
from rca.serve.pages.listing import Query, list_view
from rca.serve.pages.rendering import render, render_list, render_message
from rca.serve.pages.view import view_of
from rca.sinks.notice import Links
from tests.pages import ADDRESS, ENGINEER, HOSTILE, Visit, alerts_of, example, large, telling, visiting
from tests.servers.browser import chromium, found_by_axe
from tests.test_pages import earlier, hostile_view, known

PHONE = {"width": 360, "height": 740}
DESKTOP = {"width": 1280, "height": 900}


@cache
def pages() -> dict[str, str]:
    """A page of every state, by path."""
    found = example("network_delay", "payment")
    incident, report = found.incident, found.report
    label = Label(
        entity=EntityModel(name="payment"), fault_kind="network_delay", provenance="confirmed", author="bo", note="cable"
    )
    past = [(earlier(incident, 2, labels=(label,)), gist_of(report))]
    links = Links(runbooks=(("SlowRequests", "https://runbooks.example/slow"),), dashboards=(("Shop", "javascript:alert(1)"),))
    told = telling(report, 2, alerts=alerts_of(incident, "SlowRequests", "HighErrorRatio"), links=links, news=("cart was first",))
    judged = incident.model_copy(update={"labels": (label,)})
    nothing = replace(report, confidence=Confidence("nothing", "Nothing stands out."), path=None, map=None)
    similar = similar_to(incident, gist_of(report), past)
    full = view_of(judged, told, found.scene, similar=similar, looker=ENGINEER, said="Saved: it was payment.")
    return {
        "/incidents/full": render(full),
        "/incidents/reader": render(found.view()),
        "/incidents/large": render(large().view(ENGINEER)),
        "/incidents/pending": render(view_of(incident, None, None, looker=ENGINEER)),
        "/incidents/failed": render(
            view_of(incident, telling(None, trouble="nobody answered"), None, looker=ENGINEER, problem="No.")
        ),
        "/incidents/nothing": render(view_of(incident, telling(nothing), replace(found.scene, charts=()), looker=ENGINEER)),
        "/incidents/hostile": render(hostile_view(HOSTILE)),
        "/incidents/zalgo": render(hostile_view("Z\u0335\u0321\u0322\u0327" * 300)),
        "/incidents": render_list(list_view(known(60), Query("catalogue"), ENGINEER)),
        "/empty": render_list(list_view([])),
        "/message": render_message("Not found", "There is no incident of this name."),
        f"/incidents/{incident.id}/judgement": render_message("Taken", "by the test"),
    }


PATHS = ("full", "reader", "large", "pending", "failed", "nothing", "hostile", "zalgo")
EVERY = (*(f"/incidents/{name}" for name in PATHS), "/incidents", "/empty", "/message")


@pytest.fixture(scope="module")
def visit() -> Iterator[Visit]:
    with visiting(chromium(), pages()) as found:
        yield found


def opened(visit: Visit, path: str, **settings: Any) -> Page:
    visit.asked.clear()
    page = (
        visit.context(viewport=DESKTOP, **settings).new_page()
        if "viewport" not in settings
        else visit.context(**settings).new_page()
    )
    page.goto(f"{ADDRESS}{path}")
    return page


@pytest.mark.parametrize("path", EVERY)
def test_a_page_asks_for_nothing_else_and_breaks_no_policy(visit: Visit, path: str) -> None:
    page = opened(visit, path)
    page.wait_for_load_state("networkidle")
    assert [request.url for request in visit.asked if not request.url.startswith("data:")] == [f"{ADDRESS}{path}"]
    assert visit.elsewhere == []
    assert visit.complaints == []
    assert page.evaluate("document.scripts.length") == 0
    page.context.close()


@pytest.mark.parametrize("path", EVERY)
def test_no_page_scrolls_sideways_on_a_phone(visit: Visit, path: str) -> None:
    page = opened(visit, path, viewport=PHONE)
    wide, seen = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= seen
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", EVERY)
def test_axe_finds_nothing(visit: Visit, path: str, scheme: Any) -> None:
    page = opened(visit, path, color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    assert found_by_axe(page) == []
    page.context.close()


def test_the_keyboard_reaches_everything_and_shows_where_it_is(visit: Visit) -> None:
    page = opened(visit, "/incidents/full")
    reachable = (
        "[...document.querySelectorAll('a[href], button, summary, [tabindex=\"0\"]')].filter(one => one.checkVisibility())"
    )
    for position in range(page.evaluate(f"{reachable}.length")):
        page.keyboard.press("Tab")
        assert page.evaluate(f"{reachable}[{position}] === document.activeElement")  # in the order in which they are read
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.locator(".judge summary").focus()
    page.keyboard.press("Enter")
    assert page.locator("#entity").is_visible()
    page.context.close()


def test_a_screen_reader_hears_the_answer_and_the_drawings_in_words(visit: Visit) -> None:
    page = opened(visit, "/incidents/full")
    heard = page.locator("body").aria_snapshot()
    buttons = ('heading "Likely cause', 'button "Yes, it was payment"', 'heading "Ranking"')
    for words in ("banner", "navigation", "main", "contentinfo", *buttons):
        assert words in heard, words
    assert page.get_by_role("img", name="Service map of the time of the incident").count() == 1
    page.context.close()


@pytest.mark.parametrize("script", [True, False])
def test_one_click_confirms_with_and_without_javascript(visit: Visit, script: bool) -> None:
    page = opened(visit, "/incidents/full", java_script_enabled=script)
    page.get_by_role("button", name="Yes, it was payment").click()
    sent = next(request for request in visit.asked if request.method == "POST")
    form = {name: values[0] for name, values in parse_qs(sent.post_data or "").items()}
    judgement = judgement_of(form)
    assert sent.url.endswith("/judgement")
    assert form["csrf"] == ENGINEER.csrf
    assert (judgement.verdict, judgement.label.name()) == ("confirm", "payment")
    page.context.close()


def test_another_cause_can_be_picked_on_a_phone(visit: Visit) -> None:
    page = opened(visit, "/incidents/full", viewport=PHONE, has_touch=True, is_mobile=True)
    page.get_by_text("Something else, or more exactly").tap()
    page.get_by_label("The cause was").select_option("cart")
    page.get_by_label("Kind of fault").select_option("memory leak, up to the OOM kill")
    page.get_by_label("Note").first.fill("seen <b>before</b>")
    with page.expect_request(lambda request: request.method == "POST") as posted:
        page.get_by_role("button", name="Save the cause").tap()
    sent = posted.value
    judgement = judgement_of({name: values[0] for name, values in parse_qs(sent.post_data or "").items()})
    assert (judgement.verdict, judgement.label.name(), judgement.label.fault_kind) == ("correct", "cart", "memory_leak")
    assert judgement.label.note == "seen <b>before</b>"
    page.context.close()


def test_the_list_is_searched_by_its_address(visit: Visit) -> None:
    page = opened(visit, "/incidents")
    page.get_by_label("Words").fill("redis & co")
    page.get_by_label("State").select_option("firing")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Search").click()
    query = Query.of({name: values[0] for name, values in parse_qs(visit.asked[-1].url.partition("?")[2]).items()})
    assert (query.words, query.state) == ("redis & co", "firing")
    page.context.close()


def test_a_page_prints_on_white_without_its_forms(visit: Visit) -> None:
    page = opened(visit, "/incidents/full", color_scheme="dark")
    page.emulate_media(media="print")
    assert not page.locator(".judge").is_visible()
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("text=Every call as a table").locator("..").locator("table").is_visible()
    assert len(page.pdf()) > 10_000
    page.context.close()
