"""A message as title and body in the format and within the limits of a service that apprise knows. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from rca.sinks.markup import CHAT, HTML, MARKDOWN, line, tamed
from rca.sinks.message import Message, fitted, in_html, in_text, message_of
from rca.sinks.notice import Notice

Format = Literal["text", "markdown", "html"]

_MARKUPS: Final = {"text": CHAT, "markdown": MARKDOWN, "html": HTML}


@dataclass(frozen=True)
class Limits:
    """What a service takes. Where `title` is 0 it has none, and the title becomes the first line of the body."""

    title: int
    body: int
    format: Format


def title_and_body(notice: Notice, limits: Limits) -> tuple[str, str, tuple[str, ...]]:
    """Title, body and what was cut."""
    message = fitted(message_of(notice), lambda each: len(_body(each, limits)) <= limits.body)
    title = line(tamed(message.title), limits.title) if limits.title > 0 else ""
    return title, _body(message, limits), message.cut


def _body(message: Message, limits: Limits) -> str:
    """The body, its title first where the service has no other place for it."""
    markup = _MARKUPS[limits.format]
    title = "" if limits.title > 0 else markup.bold(markup.escape(message.title))
    if limits.format == "html":
        return f"{f'<p>{title}</p>' if title else ''}{in_html(message, markup)}"
    return "\n\n".join(part for part in (title, in_text(message, markup)) if part)
