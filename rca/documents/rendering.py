"""Templates, ours and those that replace them: sandboxed, strict, and with their mistakes told by file and line."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from jinja2 import (
    BaseLoader,
    ChoiceLoader,
    FileSystemLoader,
    PackageLoader,
    PrefixLoader,
    StrictUndefined,
    TemplateNotFound,
    TemplateSyntaxError,
)
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup

from rca.documents.model import Document
from rca.errors import BadInput
from rca.wording import excerpt

_OURS: Final = "rca"
"""What the names of our templates begin with, so that one that replaces them can extend them."""
_LONGEST: Final = 300


@dataclass(frozen=True)
class Format:
    """A way to write documents: the end of its templates' names, what escapes a value, and what its templates may call."""

    name: str
    finished: Callable[[object], Markup]
    filters: Mapping[str, Callable[..., object]] = field(default_factory=dict)
    values: Mapping[str, object] = field(default_factory=dict)


def rendered(document: Document, written: Format, template: Path | None) -> str:
    """The document by the given template or by ours. Raises BadInput."""
    name = f"{_OURS}/document.{written.name}" if template is None else template.name
    if template is not None and not template.is_file():
        raise BadInput(f"template {template}", expected="a file", found="a folder" if template.is_dir() else "nothing there")
    environment = _environment(written, template)
    environment.globals.update({"document": document, "sections": document.by_key})
    with _explained(template, document):
        return environment.get_template(name).render()


def _environment(written: Format, template: Path | None) -> ImmutableSandboxedEnvironment:
    loaders: list[BaseLoader] = [PrefixLoader({_OURS: PackageLoader("rca.documents")})]
    if template is not None:
        loaders.append(FileSystemLoader(template.parent))
    environment = ImmutableSandboxedEnvironment(
        loader=ChoiceLoader(loaders),
        autoescape=True,  # what a macro returns is not escaped again
        undefined=StrictUndefined,
        finalize=written.finished,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(written.filters)
    environment.globals.update(written.values)
    return environment


@contextmanager
def _explained(template: Path | None, document: Document) -> Iterator[None]:
    """Mistakes of a template that somebody gave are their input; those of ours are a bug."""
    try:
        yield
    except Exception as error:
        if template is None:
            raise
        known = ", ".join(document.by_key)
        raise BadInput(
            f"template {_where(template, error)}",
            expected=f"a template of jinja2 about `document`, `sections` ({known})",
            found=excerpt(_what(error), _LONGEST),
        ) from error


def _what(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "text that is not UTF-8"
    if isinstance(error, TemplateNotFound):
        return f"a template that is not there: {error.name}"
    return str(error) or type(error).__name__


def _where(template: Path, error: Exception) -> str:
    """The template with the line of its mistake, where one is known."""
    if isinstance(error, TemplateSyntaxError):
        return f"{error.filename or template}, line {error.lineno}"
    places: Sequence[Any] = traceback.extract_tb(error.__traceback__)
    inside = [place for place in places if Path(place.filename).parent == template.parent]
    return f"{inside[-1].filename}, line {inside[-1].lineno}" if inside else str(template)
