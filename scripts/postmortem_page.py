"""The example postmortem in docs/postmortem, from a recorded incident: as rca postmortem writes it, by the label-free score.

python -m scripts.postmortem_page    take the picture of it anew, in a headless Chromium (`make docs` writes the documents)
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Final

from rca.documents.html import to_html
from rca.documents.markdown import to_markdown
from rca.documents.model import Document
from rca.models import registry
from rca.postmortem.account import Objective
from rca.postmortem.document import document_of
from rca.postmortem.gathering import account_of

ROOT: Final = Path(__file__).resolve().parent.parent
NAME: Final = "shop-067-bad-rollout-checkout"
FOLDER: Final = "docs/postmortem"
PICTURE: Final = ROOT / FOLDER / "example.png"
_BUNDLE: Final = f"incidents/{NAME}.tar.zst"
_NO_STORE: Final = ROOT / "no-store"


@cache
def example() -> Document:
    """What `rca postmortem incidents/NAME.tar.zst --ranker floor --objective 99.9` writes where there is no store."""
    ranker = registry.create("floor")
    account = account_of(str(ROOT / _BUNDLE), _NO_STORE, ranker, made_by="--ranker floor", objective=Objective(0.999))
    return document_of(replace(account, origin=replace(account.origin, name=_BUNDLE)))


def markdown_page() -> str:
    return to_markdown(example())


def html_page() -> str:
    return to_html(example())


def main() -> None:
    """Write the picture."""
    from playwright.sync_api import sync_playwright

    from scripts.screenshots import chromium_here, small_png

    program = chromium_here()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 1000})
        page.set_content(html_page())
        shot = page.screenshot()
        browser.close()
    PICTURE.write_bytes(small_png(shot))


if __name__ == "__main__":
    main()
