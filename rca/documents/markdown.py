"""Documents to Markdown: CommonMark and the tables of GitHub's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from markupsafe import Markup

from rca.documents.model import Document
from rca.documents.rendering import Format, rendered
from rca.drawing.foreign import address, plain
from rca.wording import printable

_MOST: Final = 2500
_MARKS: Final = re.compile(r"[\\`*\[\]~|$]")
_LOOSE: Final = re.compile(r"(?<![^\W_])_|_(?![^\W_])")
"""Underscores that could begin or end emphasis. Those inside a word cannot, and names are full of them."""
_ENTITY: Final = re.compile(r"&(?=#?\w+;)")
_ADDRESS: Final = re.compile(r"(?<=:)//|(?<=\bwww)\.", re.IGNORECASE)
"""What makes a link of a text that nobody marked as one."""
_OPENING: Final = re.compile(r"(#{1,6}|[-+]|-[- ]*|=+|>)(?=\s|$|>)|>")
_NUMBERED: Final = re.compile(r"(\d{1,9})([.)])(?=\s|$)")
_LANGUAGE: Final = re.compile(r"[a-z0-9+-]{1,20}")


def to_markdown(document: Document, template: Path | None = None) -> str:
    """The document as Markdown, by a template of jinja2 where one is given. Raises BadInput for a mistake in that."""
    return rendered(document, _FORMAT, template)


def escaped(text: str) -> str:
    """A text from elsewhere on one line, such that Markdown shows it as it stands."""
    text = _MARKS.sub(r"\\\g<0>", plain(text, _MOST))
    text = _ENTITY.sub("&amp;", _LOOSE.sub(r"\\_", text)).replace("<", "&lt;")
    text = _ADDRESS.sub(r"\\\g<0>", text)
    if _OPENING.match(text):
        return "\\" + text
    return _NUMBERED.sub(r"\1\\\2", text, count=1) if _NUMBERED.match(text) else text


def fenced(text: str, language: str = "") -> Markup:
    """A block of code that nothing in the text can end."""
    lines = "\n".join(printable(line) for line in text.splitlines())
    ticks = "`" * max(3, 1 + max(map(len, re.findall("`+", lines)), default=0))
    return Markup(f"{ticks}{language if _LANGUAGE.fullmatch(language) else ''}\n{lines}\n{ticks}")


def _linked(text: str) -> Markup:
    """An address as a link, any other text as text."""
    url = address(text)
    if url is None or re.search(r"[<>\s\\]", url):
        return Markup(escaped(text))
    return Markup(f"<{url}>")


def _finished(value: object) -> Markup:
    """Whatever a template writes."""
    return value if isinstance(value, Markup) else Markup(escaped(str(value)))


_FORMAT: Final = Format("md", _finished, {"fenced": fenced, "linked": _linked})
