"""A real browser on pages of `rca serve`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Page, sync_playwright


@contextmanager
def opened(url: str, name: str, secret: str) -> Iterator[Page]:
    """The page in a headless Chromium that says who it is when it is asked. Skips where none is installed."""
    program = next((path for each in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(each))), None)
    if program is None:
        pytest.skip("no Chromium is installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])  # CI runs as root
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
