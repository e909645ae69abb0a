"""Documents to HTML: one file that loads nothing, runs nothing, follows the reader's light or dark, and prints well."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from markupsafe import Markup, escape

from rca.documents.model import Document
from rca.documents.rendering import Format, rendered
from rca.drawing import svg
from rca.drawing.foreign import address, plain
from rca.wording import printable

STYLE: Final = svg.STYLE + files("rca.documents").joinpath("style.css").read_text(encoding="utf-8")
_MOST: Final = 2500
_DRAWN: Final = (
    *("svg", "g", "defs", "marker", "title", "desc", "path", "rect", "circle", "ellipse", "line", "polyline", "polygon"),
    *("text", "tspan", "clipPath", "linearGradient", "stop"),
)
"""What a drawing may be made of: nothing of it runs or loads."""
_NAMING_SEVERAL: Final = ("aria-labelledby", "aria-describedby")
_SVG: Final = "{http://www.w3.org/2000/svg}"
_REFERENCE: Final = re.compile(r"url\((#?)([^)]*)\)")


def to_html(document: Document, template: Path | None = None) -> str:
    """The document as one HTML file, by a template of jinja2 where one is given. Raises BadInput for a mistake in that."""
    return rendered(document, _FORMAT, template)


def _finished(value: object) -> Markup:
    """Whatever a template writes: escaped, without control characters, of bounded length."""
    return value if isinstance(value, Markup) else escape(plain(str(value), _MOST))


def lines_of(text: str) -> Markup:
    """Code, line by line as it stands."""
    return escape("\n".join(printable(line) for line in text.splitlines()))


def drawn(text: str, name: str) -> Markup:
    """A drawing of ours with ids that begin with `name`, so that several fit into one file.

    Raises ValueError for SVG that could run or load anything, whoever made it.
    """
    if "<!" in text or "<?" in text:
        raise ValueError("expected an SVG element, found a declaration")
    root = ElementTree.fromstring(text)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        if element.tag not in _DRAWN:
            raise ValueError(f"expected an SVG element that only draws, found {element.tag}")
        for attribute, value in element.attrib.items():
            element.set(attribute, _renamed(attribute, value, name))
    return Markup(ElementTree.tostring(root, encoding="unicode", short_empty_elements=False))


def _renamed(attribute: str, value: str, name: str) -> str:
    """The value of an attribute with the ids in it renamed."""
    elsewhere = any(not inside for inside, _ in _REFERENCE.findall(value))
    if attribute.startswith("on") or attribute in ("style", "src") or ":" in attribute or elsewhere:
        raise ValueError(f"expected an attribute that only draws, found {attribute}={value!r}")
    if attribute == "id":
        return f"{name}-{value}"
    if attribute == "href":
        if not value.startswith("#"):
            raise ValueError(f"expected a reference inside the drawing, found {value!r}")
        return f"#{name}-{value[1:]}"
    if attribute in _NAMING_SEVERAL:
        return " ".join(f"{name}-{one}" for one in value.split())
    return _REFERENCE.sub(rf"url(#{name}-\2)", value)


_FORMAT: Final = Format("html", _finished, {"lines": lines_of, "drawn": drawn, "address": address}, {"style": Markup(STYLE)})
