"""Alerts that are active in an Alertmanager (`GET /api/v2/alerts`).

Silenced and inhibited alerts count as well: a silence keeps people from being told, it does not make the symptom go away, and
`ALERTS` in Prometheus knows nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from rca.collectors.alert_labels import LABELS, OWN_ALERT, Firing, alerts_frame, entity_of
from rca.collectors.alertmanager.config import AlertmanagerConfig
from rca.collectors.alerts import Alert
from rca.collectors.findings import Finding
from rca.collectors.http import ask_json, session_for
from rca.errors import Rejected, UnknownName
from rca.telemetry import SECOND_NS, Gap, Interval, Telemetry

NAME: Final = "alertmanager"
_STATES: Final = ("active", "silenced", "inhibited", "unprocessed")


@dataclass(frozen=True)
class _Active:
    """One alert as Alertmanager tells of it."""

    firing: Firing
    annotations: Mapping[str, str]
    link: str
    silenced: bool


class AlertmanagerCollector:
    """Reads the alerts that are active now."""

    name = NAME

    def __init__(self, config: AlertmanagerConfig) -> None:
        self.config = config

    def collect(self, start_ns: int, end_ns: int) -> Telemetry:
        """Alerts that are active now and began in [start, end). Raises Unavailable, Rejected."""
        interval = Interval(start_ns, end_ns)
        active, unreadable = self._active()
        frame, gaps = alerts_frame((alert.firing for alert in active), interval, NAME)
        if unreadable:
            gaps += (Gap(NAME, f"{unreadable} alerts without labels or a start are left out", interval),)
        return Telemetry.of(gaps, alerts=frame)

    def find_alert(self, name: str) -> Alert:
        """The active alert of that name, the latest if there are several. Raises UnknownName, Unavailable, Rejected."""
        active, _ = self._active()
        found = [alert for alert in active if alert.firing.name == name]
        if not found:
            raise UnknownName("alerts that are active in Alertmanager", name, {alert.firing.name for alert in active})
        last = max(found, key=lambda alert: alert.firing.start_ns)
        summary = last.annotations.get("summary") or last.annotations.get("description") or ""
        return Alert(name, last.firing.start_ns, entity_of(last.firing.labels), None, summary, last.link)

    def check(self) -> Sequence[Finding]:
        """Whether it answers, its version, and what its alerts are about. Raises Unavailable, Rejected."""
        status = self._get("/api/v2/status")
        version = (status.get("versionInfo") or {}).get("version", "unknown") if isinstance(status, dict) else "unknown"
        active, unreadable = self._active()
        silenced = sum(alert.silenced for alert in active)
        findings = [
            Finding(NAME, "ok", f"answers, version {version}; {len(active)} alerts are active, {silenced} of them silenced")
        ]
        if unreadable:
            findings.append(Finding(NAME, "warning", f"{unreadable} alerts have no labels or no start"))
        unheard = {alert.firing.name for alert in active if entity_of(alert.firing.labels) is None}
        nameless = sorted(unheard - {OWN_ALERT})
        if nameless:
            advice = f"give the rules one of the labels {', '.join(LABELS[:3])} or pod with namespace"
            findings.append(Finding(NAME, "note", f"alerts that name no entity: {', '.join(nameless)}", advice))
        return findings

    def _active(self) -> tuple[list[_Active], int]:
        """Active alerts, and how many could not be read."""
        params = [*((state, "true") for state in _STATES), *(("filter", matcher) for matcher in self.config.filters)]
        body = self._get("/api/v2/alerts", params)
        if not isinstance(body, list):
            raise Rejected(f"{self.config.url}: expected a list of alerts, found {type(body).__name__}")
        alerts = [_alert(one) for one in body]
        return [alert for alert in alerts if alert is not None], alerts.count(None)

    def _get(self, path: str, params: Any = None) -> Any:
        with session_for(self.config) as session:
            body = ask_json(session, self.config, path, params=params)
        if body is None:
            raise Rejected(f"{self.config.url}{path}: HTTP 404: no Alertmanager with API v2 here; does the url lack a prefix?")
        return body


def _alert(body: Any) -> _Active | None:
    """One alert, None if it is not what the API promises."""
    try:
        labels = {str(key): str(value) for key, value in body["labels"].items()}
        start_ns = round(datetime.fromisoformat(body["startsAt"]).timestamp() * 1000) * (SECOND_NS // 1000)
        return _Active(
            Firing(labels, start_ns),
            {str(key): str(value) for key, value in (body.get("annotations") or {}).items()},
            str(body.get("generatorURL") or ""),
            bool((body.get("status") or {}).get("silencedBy")),
        )
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return None
