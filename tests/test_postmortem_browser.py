"""A postmortem in a real browser: it loads nothing, breaks no policy of its own, anybody can read it, and it prints."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from scripts.postmortem_page import FOLDER, NAME, ROOT
from tests.servers.browser import chromium, found_by_axe

PAGE = ROOT / FOLDER / f"{NAME}.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])  # CI runs as root
        yield found
        found.close()


def opened(browser: Browser, complaints: list[str], **settings: Any) -> Page:
    page = browser.new_context(**settings).new_page()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("request", lambda request: complaints.append(request.url) if not request.url.startswith("file://") else None)
    page.goto(PAGE.as_uri())
    return page


@pytest.mark.parametrize("width", [360, 1280])
def test_it_loads_nothing_and_never_scrolls_sideways(browser: Browser, width: int) -> None:
    complaints: list[str] = []
    page = opened(browser, complaints, viewport={"width": width, "height": 800})
    page.wait_for_load_state("networkidle")
    assert complaints == []
    assert page.evaluate("[document.scripts.length, performance.getEntriesByType('resource').length]") == [0, 0]
    wide, seen = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= seen
    assert page.evaluate("[...document.querySelectorAll('svg')].every(one => one.getBoundingClientRect().width > 100)")
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Browser, scheme: Any) -> None:
    page = opened(browser, [], color_scheme=scheme)
    assert found_by_axe(page) == []
    page.context.close()


def test_every_number_of_a_source_leads_to_it(browser: Browser) -> None:
    page = opened(browser, [])
    assert page.evaluate("[...document.querySelectorAll('a[href^=\"#\"]')].every(one => document.querySelector(one.hash))")
    page.locator("a.cite").first.click()
    assert page.evaluate("document.querySelector(':target').textContent").startswith("Requests of gateway")
    page.context.close()


def test_it_prints_on_white_with_all_of_its_tables(browser: Browser) -> None:
    page = opened(browser, [], color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("nav").is_visible()
    cut = "[...document.querySelectorAll('.scroll, pre')].filter(one => one.scrollWidth > one.clientWidth + 1).length"
    page.set_viewport_size({"width": 690, "height": 1000})  # A4 less its margins
    assert page.evaluate(cut) == 0
    printed = page.pdf(format="A4")
    assert 4 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 12
    page.context.close()
