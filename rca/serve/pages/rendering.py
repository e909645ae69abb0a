"""Views to HTML: one file of text each, that loads nothing, runs nothing and needs no inline style.

The style sheet stands in the page and is allowed by its hash, so that a page that was saved or mailed looks the same.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Final

from jinja2 import ChoiceLoader, Environment, PackageLoader
from markupsafe import Markup

from rca.drawing import svg
from rca.drawing.foreign import plain
from rca.serve.pages.labelling import CSRF_FIELD
from rca.serve.pages.listing import ListView
from rca.serve.pages.view import ANYBODY, IncidentView, Looker

STYLE: Final = svg.STYLE + files("rca.serve.pages").joinpath("style.css").read_text(encoding="utf-8")
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()

HEADERS: Final = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src data:; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""What an answer with a page says of it. Names of a system are on it, so that no cache keeps it."""


def render(view: IncidentView) -> str:
    """The page of an incident."""
    return _rendered("incident.html", view)


def render_list(view: ListView) -> str:
    """The list of incidents."""
    return _rendered("list.html", view)


def render_message(heading: str, words: str, looker: Looker = ANYBODY) -> str:
    """A page that says one thing: what was not found, not allowed or not understood."""
    view = {"heading": plain(heading), "words": plain(words, 1000), "base": looker.base, "looker": plain(looker.name)}
    return _rendered("message.html", view)


def _rendered(template: str, view: object) -> str:
    return str(_environment().get_template(template).render(view=view, csrf_field=CSRF_FIELD))


@cache
def _environment() -> Environment:
    environment = svg.environment_of(ChoiceLoader([PackageLoader("rca.serve.pages"), svg.MACROS]))
    environment.globals["style"] = Markup(STYLE)
    return environment
