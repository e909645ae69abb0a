"""Text from elsewhere, made harmless for the channel that shows it.

Labels of alerts are written by whoever can write a metric: HTML, Markdown, `<!channel>`, colours of a terminal, a megabyte. First
`line` takes what no channel should see; then the channel's own `Markup` escapes what it would read as a command.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from rca.wording import excerpt, printable

LONGEST_ADDRESS: Final = 1000
_SCANNED: Final = 4  # times the length wanted: white space is folded before the end is cut

_LOOKALIKES: Final = str.maketrans({"*": "∗", "`": "ˋ", "~": "∼", "<": "‹", ">": "›", "@": "(at)", "|": "∣"})  # noqa: RUF001
_FORMATTING: Final = str.maketrans({"*": "∗", "`": "ˋ", "~": "∼"})  # noqa: RUF001
_LOOSE_UNDERSCORE: Final = re.compile(r"(?<![^\W_])_|_(?![^\W_])")
_MARKDOWN: Final = re.compile(r"[\\`*\[\]<~&]|(?<![^\W_])_|_(?![^\W_])|^[-+#>=]")
_NUMBERED: Final = re.compile(r"^(\d{1,9})([.)])")


def line(text: str, most: int) -> str:
    """A text from elsewhere on one line of at most `most` characters, without control and formatting characters."""
    return printable(excerpt(text[: _SCANNED * most], most - 1), most).strip()


def tamed(text: str) -> str:
    """The same to the eye, but nothing that any channel reads as a command: for titles, whose markup is not ours to choose."""
    return text.translate(_LOOKALIKES)


def is_address(url: str) -> bool:
    """Whether it can be linked to: http or https, a host, no user, no blanks, not too long."""
    if len(url) > LONGEST_ADDRESS or not url.isprintable() or re.search(r"[\s<>\"'`|\\^{}]", url):
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        return False


@dataclass(frozen=True)
class Markup:
    """How a channel writes. `escape` takes text; `bold` takes escaped text; `link` takes words and an address that is_address."""

    escape: Callable[[str], str]
    bold: Callable[[str], str]
    link: Callable[[str, str], str]


def _mrkdwn(text: str) -> str:
    """Slack reads `<...>` as a command. For formatting it has no escape: what looks alike stands in for `*`, `~` and the like."""
    text = _LOOSE_UNDERSCORE.sub("ˍ", text.translate(_FORMATTING))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _mrkdwn_link(words: str, url: str) -> str:
    return f"<{url.replace('&', '&amp;')}|{_mrkdwn(words).replace('|', '/')}>"


def _markdown(text: str) -> str:
    """As little as is needed: where a service does not know the backslash, it shows."""
    return _NUMBERED.sub(r"\1\\\2", _MARKDOWN.sub(r"\\\g<0>", text.replace("@", "(at)")))


def _markdown_address(url: str) -> str:
    return _chat_address(url).replace("(", "%28").replace(")", "%29").replace("[", "%5B").replace("]", "%5D")


def _chat(text: str) -> str:
    """What such channels would read as a command becomes what looks alike, since a backslash might show."""
    text = _LOOSE_UNDERSCORE.sub("ˍ", text.translate(_FORMATTING)).replace("](", "] (")
    return text.replace("<", "‹").replace("@", "(at)")  # noqa: RUF001


def _chat_address(url: str) -> str:
    return url.replace("@", "%40")


def _html(text: str) -> str:
    return html.escape(text.replace("@", "(at)"))


PLAIN: Final = Markup(lambda text: text, lambda text: text, lambda words, url: f"{words}: {url}")
CHAT: Final = Markup(_chat, lambda text: text, lambda words, url: f"{_chat(words)}: {_chat_address(url)}")
"""Plain text for channels that may read it as Markdown all the same, and in which `@channel` wakes everybody."""
MRKDWN: Final = Markup(_mrkdwn, lambda text: f"*{text}*", _mrkdwn_link)
MARKDOWN: Final = Markup(
    _markdown, lambda text: f"**{text}**", lambda words, url: f"[{_markdown(words)}]({_markdown_address(url)})"
)
HTML: Final = Markup(
    _html, lambda text: f"<b>{text}</b>", lambda words, url: f'<a href="{html.escape(_chat_address(url))}">{_html(words)}</a>'
)
