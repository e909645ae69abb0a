"""A message as an event of PagerDuty's Events API v2. Pure.

Limits (developer.pagerduty.com/docs/events-api-v2): deduplication key 255 characters, summary 1,024, the whole 512 KB.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

from rca.sinks.markup import line
from rca.sinks.message import PAGE_WORDS, Message, fitted, headline, message_of
from rca.sinks.notice import Notice
from rca.sinks.pagerduty.config import PagerDutyConfig, Severity

LONGEST_KEY: Final = 255
LONGEST_SUMMARY: Final = 1_024
LARGEST_BYTES: Final = 512_000 - 1_000  # less the routing key and braces, which are added last
_ORDER: Final[tuple[Severity, ...]] = ("critical", "error", "warning", "info")
_WORDS: Final[dict[str, Severity]] = {
    **dict.fromkeys(("critical", "crit", "page", "fatal", "emergency", "disaster", "p1", "sev1"), "critical"),
    **dict.fromkeys(("error", "err", "high", "major", "p2", "sev2"), "error"),
    **dict.fromkeys(("warning", "warn", "minor", "medium", "ticket", "p3", "sev3"), "warning"),
    **dict.fromkeys(("info", "information", "low", "none", "notice", "p4", "p5", "sev4", "sev5"), "info"),
}


def event_of(notice: Notice, config: PagerDutyConfig) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The event without its routing key, and what was cut. Its `dedup_key` is the same for every revision of an incident."""
    key = dedup_key(notice, config)
    if notice.state == "resolved":
        return {"event_action": "resolve", "dedup_key": key}, ()
    severity = config.severity or severity_of(alert.severity for alert in notice.alerts)
    started = [alert.began_ns for alert in notice.alerts if alert.began_ns]
    message = fitted(message_of(notice), lambda each: _bytes(_trigger(each, notice, key, severity, started)) <= LARGEST_BYTES)
    return _trigger(message, notice, key, severity, started), message.cut


def _trigger(message: Message, notice: Notice, key: str, severity: str, started: list[int]) -> dict[str, Any]:
    summary = line(f"{headline(notice)}. {message.verdict}".rstrip(". ") + ".", LONGEST_SUMMARY)
    payload = {
        "summary": summary,
        "severity": severity,
        "source": line(notice.report.incident.system, LONGEST_KEY) if notice.report else "rca",
        "class": "root cause",
        "component": message.candidates[0].name if message.candidates else "unknown",
        "custom_details": _details(message),
    }
    if started:
        payload["timestamp"] = datetime.fromtimestamp(min(started) / 1e9, UTC).isoformat(timespec="milliseconds")
    page = {"client_url": message.page} if message.page else {}
    links = [{"href": message.page, "text": PAGE_WORDS}] if message.page else []
    return {
        "event_action": "trigger",
        "dedup_key": key,
        "client": "rca",
        **page,
        "links": [*links, *({"href": url, "text": words} for words, url in message.links)],
        "payload": payload,
    }


def _details(message: Message) -> dict[str, Any]:
    """What an engineer reads on the alert, empty parts left out."""
    ranking = {
        f"{rank}. {each.name}": ", ".join(part for part in (each.share, each.family) if part)
        for rank, each in enumerate(message.candidates, start=1)
    }
    evidence = {each.name: list(each.evidence) for each in message.candidates if each.evidence}
    rest = {"more alerts": message.more_alerts or None, "more gaps": message.more_missing or None}
    details = {
        "confidence": message.verdict,
        "likely causes": ranking,
        "evidence": evidence,
        "from the alert to the cause": message.path,
        "what changed": list(message.news),
        "alerts": list(message.alerts),
        "what was missing": list(message.missing),
        **rest,
        "about": message.foot,
        "left out": ", ".join(message.cut),
    }
    return {name: value for name, value in details.items() if value}


def dedup_key(notice: Notice, config: PagerDutyConfig) -> str:
    """Alertmanager's own key is the SHA-256 of the group key (notify/util.go, `Key.Hash`)."""
    if config.join == "group":
        return hashlib.sha256(notice.group_key.encode(errors="replace")).hexdigest()
    key = f"rca/{notice.incident_id}"
    plain = key.isascii() and key.isprintable() and len(key) <= LONGEST_KEY
    return key if plain else f"rca/{hashlib.sha256(notice.incident_id.encode(errors='replace')).hexdigest()}"


def severity_of(words: Iterable[str]) -> Severity:
    """The highest of several severities, in whatever words rules have for them."""
    found = {severity for word in words if (severity := _WORDS.get(word.strip().lower()))}
    return next((severity for severity in _ORDER if severity in found), "error")


def _bytes(event: dict[str, Any]) -> int:
    return len(json.dumps(event).encode())
