"""A message as an alert of Alertmanager's API v2. Pure.

Its labels are the same for every revision of an incident, because they are what it is known by: another set would be another
alert. The cause, which may change, is an annotation. No label names a service or a pod, and collectors pass over the alert by its
name (rca.collectors.alert_labels.OWN_ALERT), so that what is said of the last ranking is no symptom in the next one.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from rca.sinks.alertmanager.config import AlertmanagerConfig
from rca.sinks.markup import PLAIN, is_address, line
from rca.sinks.message import Message, fitted, in_text, message_of, verdict_of
from rca.sinks.notice import Notice
from rca.telemetry import SECOND_NS

ALERT_NAME: Final = "RootCauseFound"
LONGEST_DESCRIPTION: Final = 8_000
"""Alertmanager has no limit of its own, but what it passes the alert on to has."""
_LONGEST_LABEL: Final = 200


def alert_of(notice: Notice, config: AlertmanagerConfig, now_ns: int) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The alert, and what was cut. It ends now where the incident is resolved, else when it has lasted long enough."""
    message = fitted(message_of(notice), lambda each: len(in_text(each, PLAIN)) <= LONGEST_DESCRIPTION)
    starts_ns = min([now_ns, *(alert.began_ns for alert in notice.alerts if alert.began_ns)])
    ends_ns = now_ns if notice.state == "resolved" else now_ns + config.lasts
    page = {"generatorURL": message.page} if message.page else {}
    alert = {
        "labels": {
            **config.labels,
            "alertname": ALERT_NAME,
            "severity": config.severity,
            "incident": line(notice.incident_id, _LONGEST_LABEL),
        },
        "annotations": _annotations(message, notice),
        "startsAt": _time(min(starts_ns, ends_ns - SECOND_NS)),
        "endsAt": _time(ends_ns),
        **page,
    }
    return alert, message.cut


def _annotations(message: Message, notice: Notice) -> dict[str, str]:
    first = message.candidates[0] if message.candidates else None
    runbook = next((url for _, url in notice.links.runbooks if is_address(url)), "")
    every = {
        "summary": message.title,
        "description": in_text(message, PLAIN),
        "confidence": line(verdict_of(notice), _LONGEST_LABEL * 2),
        "cause": first.name if first else "",
        "probability": first.share if first else "",
        "page": message.page,
        "runbook_url": runbook,
    }
    return {name: text for name, text in every.items() if text}


def _time(ns: int) -> str:
    return datetime.fromtimestamp(ns / 1e9, UTC).isoformat(timespec="milliseconds")
