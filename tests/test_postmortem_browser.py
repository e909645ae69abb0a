"""A postmortem in a real browser: it loads nothing, breaks no policy of its own, anybody can read it, and it prints."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from scripts.postmortem_page import FOLDER, NAME, ROOT

AXE = Path(__file__).parent / "node" / "node_modules" / "axe-core" / "axe.min.js"
PAGE = ROOT / FOLDER / f"{NAME}.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium on the path")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])  # CI runs as root
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
    if not AXE.exists():
        pytest.skip(f"no axe-core at {AXE} (npm ci --prefix tests/node)")
    page = opened(browser, [], color_scheme=scheme)
    found = page.evaluate(f"{AXE.read_text(encoding='utf-8')}; axe.run(document, {{resultTypes: ['violations']}})")
    told = [
        (one["id"], [node["html"][:120] + node["failureSummary"] for node in one["nodes"]][:3]) for one in found["violations"]
    ]
    assert told == []
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
