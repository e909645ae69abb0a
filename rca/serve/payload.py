"""What Alertmanager posts (version 4), and Grafana's superset of it: bytes in, an AlertGroup out. Pure.

Fields that are not known are ignored. Text from elsewhere is cut to a length that a page and a message can bear, visibly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, from_json

from rca.collectors.alert_labels import OWN_ALERT
from rca.errors import BadInput, BadTelemetry
from rca.incidents.inbox import AlertGroup, GroupAlert
from rca.serve.config import ServeLimits
from rca.telemetry import check_time

VERSION: Final = "4"
_KEY: Final = 512  # characters of a group key or a fingerprint; of a longer one the end is its digest
_URL: Final = 2048
_MISTAKES: Final = 5
_LINKS: Final = (
    ("dashboardURL", "dashboard"),
    ("panelURL", "panel"),
    ("generatorURL", "query of the alert"),
)
_LINK_ANNOTATIONS: Final = (
    ("dashboard_url", "dashboard"),
    ("dashboard", "dashboard"),
    ("runbook_url", "runbook"),
    ("runbook", "runbook"),
)

EXAMPLE: Final[dict[str, Any]] = {
    "version": VERSION,
    "groupKey": '{}:{alertname="HighLatency"}',
    "truncatedAlerts": 0,
    "status": "firing",
    "receiver": "rca",
    "groupLabels": {"alertname": "HighLatency"},
    "commonLabels": {"alertname": "HighLatency", "service": "checkout", "severity": "page"},
    "commonAnnotations": {"summary": "checkout answers slowly"},
    "externalURL": "http://alertmanager:9093",
    "alerts": [
        {
            "status": "firing",
            "labels": {"alertname": "HighLatency", "service": "checkout", "severity": "page"},
            "annotations": {"summary": "checkout answers slowly", "runbook_url": "https://runbooks.example/latency"},
            "startsAt": "2026-01-15T10:10:00.000Z",
            "endsAt": "0001-01-01T00:00:00Z",
            "generatorURL": "http://prometheus:9090/graph?g0.expr=latency",
            "fingerprint": "8b2cd5f24b1ab79a",
        }
    ],
}
"""One notification, for the API's description."""

Texts = dict[str, str]


class _Loose(BaseModel):
    """Unknown fields are ignored: newer versions and Grafana send more."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class WebhookAlert(_Loose):
    """One alert of a notification."""

    status: Literal["firing", "resolved"]
    labels: Annotated[Texts, Field(description="what tells this alert from others")]
    annotations: Annotated[Texts | None, Field(description="what is said about it: summary, description, runbook_url")] = None
    startsAt: Annotated[str, Field(description="when it began, RFC 3339")]  # noqa: N815
    endsAt: Annotated[str, Field(description="when it ended; of one that fires it is ignored")] = ""  # noqa: N815
    generatorURL: Annotated[str | None, Field(description="what raised it")] = None  # noqa: N815
    fingerprint: Annotated[str, Field(description="digest of its labels; made here where it is absent")] = ""
    dashboardURL: Annotated[str | None, Field(description="Grafana: its dashboard")] = None  # noqa: N815
    panelURL: Annotated[str | None, Field(description="Grafana: its panel")] = None  # noqa: N815


class Webhook(_Loose):
    """A notification of Alertmanager, version 4, or Grafana's superset of it."""

    model_config = ConfigDict(extra="ignore", frozen=True, json_schema_extra={"example": EXAMPLE})

    version: Annotated[Literal["4", "1"], Field(description="of the format: 4; Grafana, which has an orgId, says 1")]
    groupKey: Annotated[str, Field(min_length=1, description="what the alerts were grouped by")]  # noqa: N815
    truncatedAlerts: Annotated[int | None, Field(ge=0, le=2**31, description="how many more the sender left out")] = 0  # noqa: N815
    status: Literal["firing", "resolved"]
    receiver: str = ""
    groupLabels: Texts | None = None  # noqa: N815
    commonLabels: Texts | None = None  # noqa: N815
    commonAnnotations: Texts | None = None  # noqa: N815
    externalURL: str | None = None  # noqa: N815
    orgId: Annotated[int | None, Field(description="Grafana's organisation")] = None  # noqa: N815
    alerts: Annotated[tuple[WebhookAlert, ...], Field(min_length=1)]


class NotJson(BadInput):
    """The body is no JSON at all."""


def group_of(body: bytes, limits: ServeLimits) -> AlertGroup:
    """The notification that a body holds, without alerts that rca itself raised.

    Raises NotJson, or BadInput that names the first mistakes and repeats no label.
    """
    try:
        value = from_json(body)
    except ValueError as error:
        raise NotJson("body", expected="JSON in UTF-8", found=str(error)) from None
    _check_version(value)
    try:
        found = Webhook.model_validate(value)
    except ValidationError as error:
        raise BadInput("body", expected="a notification of Alertmanager", found="; ".join(_mistakes(error))) from None
    every = enumerate(found.alerts)  # our own alert, routed back to us, would raise another one
    alerts = tuple(_alert(f"alerts.{i}", alert, limits) for i, alert in every if alert.labels.get("alertname") != OWN_ALERT)
    return AlertGroup(
        key=_identity(found.groupKey),
        receiver=_cut(found.receiver, limits.text),
        alerts=alerts,
        labels=_texts(found.groupLabels, limits),
        annotations=_texts(found.commonAnnotations, limits),
        link=_link(found.externalURL),
        truncated=found.truncatedAlerts or 0,
        over=not found.truncatedAlerts
        and all(status == "resolved" for status in (found.status, *(a.status for a in found.alerts))),
    )


def _check_version(value: Any) -> None:
    """Grafana says version 1 and means 4 with more to it; of another sender, version 1 is something else."""
    if not isinstance(value, Mapping):
        raise BadInput("body", expected="a JSON object", found=type(value).__name__)
    version = value.get("version")
    if version != VERSION and not (version == "1" and "orgId" in value):
        found = "none" if version is None else _shown(version)
        raise BadInput("version", expected=f'"{VERSION}"', found=found)


def _shown(value: Any) -> str:
    return _cut(repr(value), 40)


def _mistakes(error: ValidationError) -> Iterator[str]:
    """The first mistakes, without the values, which may be anything and of any length."""
    found = error.errors(include_input=False, include_url=False, include_context=False)
    yield from (_mistake(one) for one in found[:_MISTAKES])
    if len(found) > _MISTAKES:
        yield f"and {len(found) - _MISTAKES} more"


def _mistake(one: ErrorDetails) -> str:
    where = ".".join(_cut(str(part), 60) for part in one["loc"]) or "body"
    return f"{where}: {'is required' if one['type'] == 'missing' else one['msg']}"


def _alert(where: str, alert: WebhookAlert, limits: ServeLimits) -> GroupAlert:
    resolved = alert.status == "resolved"
    starts_ns = _time(f"{where}.startsAt", alert.startsAt)
    ends_ns = _end(f"{where}.endsAt", alert.endsAt, starts_ns) if resolved else None
    annotations = alert.annotations or {}
    links = [(words, getattr(alert, name)) for name, words in _LINKS]
    links += [(words, annotations.get(name)) for name, words in _LINK_ANNOTATIONS]
    return GroupAlert(
        fingerprint=_identity(alert.fingerprint or _fingerprint(alert.labels)),
        status=alert.status,
        starts_ns=starts_ns,
        ends_ns=ends_ns,
        labels=_texts(alert.labels, limits),
        annotations=_texts(annotations, limits),
        links=tuple(dict.fromkeys((words, _link(url)) for words, url in links if _link(url))),
    )


def _time(where: str, text: str) -> int:
    """Nanoseconds since the epoch. Raises BadInput."""
    expected = "an RFC 3339 time between the years 2000 and 2100"
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise BadInput(where, expected=f"{expected} with its offset", found=_shown(text))
        time_ns = int(moment.replace(microsecond=0).timestamp()) * 10**9 + moment.microsecond * 1000
        check_time(where, time_ns)
    except (ValueError, OverflowError, BadTelemetry):
        raise BadInput(where, expected=expected, found=_shown(text)) from None
    return time_ns


def _end(where: str, text: str, starts_ns: int) -> int | None:
    """When an alert ended; None where the sender does not know (`0001-01-01T00:00:00Z`)."""
    if not text or text.startswith("0001-01-01"):
        return None
    return max(_time(where, text), starts_ns)


def _identity(text: str) -> str:
    """A text that tells things apart, short enough to be a key."""
    if len(text) <= _KEY:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{text[: _KEY - len(digest) - 1]}…{digest}"


def _fingerprint(labels: Mapping[str, str]) -> str:
    text = "\0".join(f"{name}\0{labels[name]}" for name in sorted(labels))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _texts(texts: Mapping[str, str] | None, limits: ServeLimits) -> dict[str, str]:
    """Labels or annotations, as many and as long as can be kept; the well-known ones are kept first."""
    texts = texts or {}
    names = sorted(texts, key=lambda name: (name not in _FIRST, name)) if len(texts) > limits.labels else texts
    kept = list(names)[: limits.labels]
    cut = {_cut(name, 200): _cut(texts[name], limits.text) for name in kept}
    if len(texts) > limits.labels:
        cut["cut"] = f"{len(texts) - limits.labels} more were left out"
    return cut


_FIRST: Final = frozenset(
    (
        *("alertname", "severity", "service", "service_name", "job", "namespace", "deployment", "statefulset", "daemonset"),
        *("pod", "node", "instance", "summary", "description", "runbook_url"),
    )
)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _link(url: str | None) -> str:
    """An address that a page may link to: http or https and nothing else, for `javascript:` is an address too."""
    if not url or len(url) > _URL or any(ord(c) <= 32 or ord(c) == 127 for c in url):
        return ""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return url if parts.scheme in ("http", "https") and parts.hostname else ""
