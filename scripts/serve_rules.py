"""collectors/prometheus/serve.rules.yml: how well `rca serve` keeps what it promises, and who is told if it does not.

Budgets and burn rates as in the SRE workbook, chapter 5: a page where 2 % of a month's budget went in an hour or 5 % in six
hours, a ticket where 10 % went in three days; a short window beside the long one lets the alert end soon after the trouble.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

MAINTENANCE: Final = "last_over_time(rca_serve_maintenance[2h]) == 1"
"""Also while it is being started anew, and nobody says anything."""
RUNBOOKS: Final = "docs/operating.md"
WINDOWS: Final = ("5m", "30m", "1h", "6h", "3d")
BURNS: Final = (("page", 14.4, "1h", "5m"), ("page", 6.0, "6h", "30m"), ("ticket", 1.0, "3d", "6h"))
_FEWEST: Final = 3
"""Failures in the long window without which nobody is told: one of two at night says little."""


@dataclass(frozen=True)
class Promise:
    """A service level: the share of `all` that may be bad, both as PromQL with %s in place of a window."""

    name: str
    alert: str
    says: str
    objective: float
    bad: str
    all: str
    bad_words: str
    counts: bool = True
    """Whether `bad` counts events; else it is a share of time."""

    def ratio(self, window: str) -> str:
        """The share that was bad in the window."""
        bad = self.bad.replace("%s", window)
        return f"{bad} / ({self.all.replace('%s', window)} > 0)" if self.counts else bad

    def recorded(self, window: str) -> str:
        """The recording rule's name."""
        return f"rca_serve:{self.name}:bad_ratio{window}"


_LATE: Final = (
    "(sum(increase(rca_serve_first_answer_seconds_count[%s])) - "
    'sum(increase(rca_serve_first_answer_seconds_bucket{le=~"30(\\\\.0)?"}[%s])))'
)
PROMISES: Final = (
    Promise(
        "first_answer",
        "RcaServeAnswersLate",
        "a first answer within 30 s of the first alert",
        0.99,
        _LATE,
        "sum(increase(rca_serve_first_answer_seconds_count[%s]))",
        "of first answers came later than 30 s",
    ),
    Promise(
        "ranking",
        "RcaServeRankingsFail",
        "a ranking for every question",
        0.99,
        'sum(increase(rca_serve_rankings_total{outcome="failed"}[%s]))',
        "sum(increase(rca_serve_rankings_total[%s]))",
        "of rankings failed",
    ),
    Promise(
        "delivery",
        "RcaServeMessagesLost",
        "every message reaches its sink, within a day of tries",
        0.995,
        'sum(increase(rca_serve_deliveries_total{outcome="given up"}[%s]))',
        'sum(increase(rca_serve_deliveries_total{outcome=~"sent|given up"}[%s]))',
        "of messages were given up",
    ),
    Promise(
        "intake",
        "RcaServeShedsLoad",
        "notifications are taken at once",
        0.999,
        'sum(increase(rca_serve_notifications_total{outcome="told to wait"}[%s]))',
        "sum(increase(rca_serve_notifications_total[%s]))",
        "of notifications were told to come back later",
    ),
    Promise(
        "freshness",
        "RcaServeTelemetryStale",
        "the newest bin is at most 2 minutes old",
        0.99,
        "avg_over_time((max(rca_serve_telemetry_age_seconds) > bool 120)[%s:1m])",
        "",
        "of the time, the newest bin was older than 2 minutes",
        counts=False,
    ),
)


@dataclass(frozen=True)
class Alert:
    """A rule that is not about a budget."""

    name: str
    expr: str
    lasting: str
    severity: str
    summary: str


ALERTS: Final = (
    Alert(
        "RcaServeDown",
        "absent_over_time(rca_serve_waiting_groups[5m])",
        "2m",
        "page",
        "rca serve tells nothing of itself: alerts reach people without a likely cause",
    ),
    Alert(
        "RcaServeQueueGrows",
        "sum(rca_serve_waiting_groups) > 50",
        "5m",
        "page",
        '{{ printf \\"%.0f\\" $value }} groups wait for their first answer',
    ),
    Alert(
        "RcaServeSinkDown",
        "sum(rca_serve_waiting_deliveries) > 0",
        "30m",
        "ticket",
        '{{ printf \\"%.0f\\" $value }} messages have waited for half an hour: a sink does not answer',
    ),
    Alert(
        "RcaServeModelReplaced",
        "max(rca_serve_model_replaced) == 1",
        "10m",
        "ticket",
        "the model cannot be used, so another one ranks",
    ),
    Alert(
        "RcaServeModelWrong",
        "min(rca_serve_agreement_ratio) < 0.5 and min(rca_serve_agreement_incidents) >= 10",
        "1h",
        "ticket",
        "{{ $value | humanizePercentage }} of the answers of 30 days whose cause is known named it first",
    ),
    Alert(
        "RcaServeDrift",
        "max by (part) (rca_serve_drift_found) == 1",
        "1h",
        "ticket",
        "the incidents of 30 days differ from what the model learnt from: {{ $labels.part }}",
    ),
)


def serve_rules() -> str:
    """The file."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# How well `rca serve` keeps what it promises; docs/operating.md has the promises and what to do. Generated by"
    yield "# `python -m scripts.docs` from scripts/serve_rules.py. Quiet during maintenance ([serve] maintenance_file)."
    yield ""
    yield "groups:"
    yield "  - name: rca-serve-levels"
    yield "    interval: 1m"
    yield "    rules:"
    for promise in PROMISES:
        for window in WINDOWS:
            yield f"      - record: {promise.recorded(window)}"
            yield f"        expr: {promise.ratio(window)}"
    yield ""
    yield "  - name: rca-serve-alerts"
    yield "    rules:"
    for promise in PROMISES:
        for severity, burn, long, short in BURNS:
            yield from _alert(
                promise.alert,
                _burning(promise, burn, long, short),
                "",
                severity,
                f"{{{{ $value | humanizePercentage }}}} {promise.bad_words} in {long}; {1 - promise.objective:.1%} may be",
                {"window": long},
            )
    for alert in ALERTS:
        yield from _alert(alert.name, alert.expr, alert.lasting, alert.severity, alert.summary, {})


def _burning(promise: Promise, burn: float, long: str, short: str) -> str:
    limit = f"{burn * (1 - promise.objective):.6g}"
    both = f"{promise.recorded(long)} > {limit} and {promise.recorded(short)} > {limit}"
    return f"{both} and {promise.bad.replace('%s', long)} >= {_FEWEST}" if promise.counts else both


def _alert(name: str, expr: str, lasting: str, severity: str, summary: str, labels: dict[str, str]) -> Iterator[str]:
    yield f"      - alert: {name}"
    yield "        expr: |"
    yield f"          ({expr})"
    yield f"          unless on () ({MAINTENANCE})"
    if lasting:
        yield f"        for: {lasting}"
    yield "        labels:"
    for label, value in {"severity": severity, "service": "rca-serve", **labels}.items():
        yield f"          {label}: {value}"
    yield "        annotations:"
    yield f'          summary: "{summary}"'
    yield f"          runbook: {RUNBOOKS}#{name.lower()}"
