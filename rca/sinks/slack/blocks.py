"""A message as Slack's Block Kit. Pure.

Limits: a header of 150 characters, 3,000 in the text of a section, 50 blocks (docs.slack.dev/reference/block-kit/blocks), and all
blocks together about 13,000 as JSON, from where on chat.postMessage answers msg_blocks_too_long (slackapi/bolt-js issue 2509).
"""

from __future__ import annotations

import json
from typing import Any, Final

from rca.sinks.markup import MRKDWN, line
from rca.sinks.message import Message, Section, fitted, message_of, sections_of
from rca.sinks.notice import Notice

LONGEST_HEADER: Final = 150
LONGEST_TEXT: Final = 3_000
MOST_BLOCKS: Final = 50
LARGEST: Final = 13_000
_INDENT: Final = {0: "", 1: "•  ", 2: "      ◦  "}

Block = dict[str, Any]


def slack_message(notice: Notice) -> tuple[dict[str, Any], tuple[str, ...]]:
    """`text` (for notifications and screen readers), `blocks` and `metadata` of a notice, and what was cut."""
    message = fitted(message_of(notice), _fits)
    body = {
        "text": f"{MRKDWN.escape(message.title)}\n{MRKDWN.escape(message.verdict)}",
        "blocks": blocks_of(message),
        "metadata": {"event_type": "rca_notice", "event_payload": {"idempotency_key": line(notice.idempotency_key, 200)}},
        "unfurl_links": False,
        "unfurl_media": False,
    }
    return body, message.cut


def blocks_of(message: Message) -> list[Block]:
    """A header, then a section for every part; what closes the message is small print."""
    header = {"type": "header", "text": {"type": "plain_text", "text": line(message.title, LONGEST_HEADER) or "Incident"}}
    *parts, last = sections_of(message, MRKDWN) or (Section("", ()),)
    small = [{"type": "context", "elements": [_text(_lines(last)[0])]}] if last.lines and message.foot else []
    if not small:
        parts = [*parts, last]
    sections = [{"type": "section", "text": _text(text)} for part in parts for text in _texts(_lines(part))]
    return [header, *sections, *small]


def _lines(section: Section) -> list[str]:
    title = [f"*{section.title}*"] if section.title else []
    return [*title, *(f"{_INDENT[each.level]}{each.text}" for each in section.lines)]


def _texts(lines: list[str]) -> list[str]:
    """Lines in as few texts as a section's limit allows."""
    texts: list[str] = []
    for each in lines:
        if texts and len(texts[-1]) + 1 + len(each) <= LONGEST_TEXT:
            texts[-1] += f"\n{each}"
        else:
            texts.append(each)
    return texts


def _text(text: str) -> Block:
    return {"type": "mrkdwn", "text": text, "verbatim": True}  # verbatim: addresses and names in it become no links


def _fits(message: Message) -> bool:
    blocks = blocks_of(message)
    texts = [part["text"] for block in blocks for part in (*block.get("elements", ()), block.get("text")) if part]
    return (
        len(blocks) <= MOST_BLOCKS
        and all(len(text) <= LONGEST_TEXT for text in texts)
        and len(json.dumps(blocks, ensure_ascii=False)) <= LARGEST
    )
