"""Drawings as SVG: one macro each in templates/drawing.html, which pages import and documents call from here."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Final

from jinja2 import BaseLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rca.drawing.charts import Chart
from rca.drawing.foreign import plain
from rca.drawing.servicemap import ServiceMap
from rca.drawing.timeline import Timeline

_MOST: Final = 2500
"""Characters of one value on a page, whatever it is."""

STYLE: Final = files("rca.drawing").joinpath("style.css").read_text(encoding="utf-8")
"""Style sheet of the drawings, and the colours that they share with what stands around them."""

MACROS: Final = PackageLoader("rca.drawing")


def environment_of(loader: BaseLoader) -> Environment:
    """What renders templates of ours: everything is escaped, without control characters and of bounded length."""
    return Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, finalize=harmless, trim_blocks=True, lstrip_blocks=True
    )


def harmless(value: object) -> object:
    """Whatever a template writes: text without control characters, of bounded length. Views have cut it before."""
    return plain(value, _MOST) if type(value) is str else value


def chart_svg(chart: Chart, name: str) -> Markup:
    """A chart; `name` begins its ids, and is to be the only one of its kind in what holds it."""
    return _called("chart_svg", chart, name)


def map_svg(service_map: ServiceMap) -> Markup:
    """The service map."""
    return _called("map_svg", service_map)


def strip_svg(timeline: Timeline) -> Markup:
    """The strip above a timeline."""
    return _called("strip", timeline)


def _called(macro: str, *values: object) -> Markup:
    return Markup(getattr(_macros(), macro)(*values))


@cache
def _macros() -> object:
    return environment_of(MACROS).get_template("drawing.html").module
