"""A real browser: where it is, pages of `rca serve` in it, and what axe-core finds on a page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

_AXE = Path(__file__).parents[1] / "node" / "node_modules" / "axe-core" / "axe.min.js"


def installed_chromium() -> str | None:
    """Path of a Chromium, None where none is installed."""
    return next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)


def chromium() -> str:
    """Path of a Chromium. Skips the test where none is installed."""
    program = installed_chromium()
    if program is None:
        pytest.skip("no Chromium is installed")
    return program


def found_by_axe(page: Page) -> list[tuple[str, list[str]]]:
    """Violations on a page: the rule, and up to three places. Skips the test where axe-core is not installed."""
    if not _AXE.exists():
        pytest.skip(f"no axe-core at {_AXE} (npm ci --prefix tests/node)")
    page.evaluate(_AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        (one["id"], [node["html"][:120] + node["failureSummary"] for node in one["nodes"]][:3]) for one in found["violations"]
    ]


@contextmanager
def opened(url: str, name: str, secret: str) -> Iterator[Page]:
    """The page in a headless Chromium that says who it is when it is asked. Skips where none is installed."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])  # CI runs as root
        try:
            page = browser.new_context(http_credentials={"username": name, "password": secret}).new_page()
            page.goto(url, timeout=60_000)
            yield page
        finally:
            browser.close()


def confirmed(page: Page) -> str:
    """Click that the answer was right; whom the button named."""
    button = page.get_by_role("button", name="Yes, it was")
    named = button.inner_text()
    button.click()
    page.get_by_text("Thank you").wait_for(timeout=60_000)
    return named.removeprefix("Yes, it was ")
