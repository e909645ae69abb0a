"""collectors/grafana: dashboards about `rca serve` for who is on call, who owns it, and who debugs it.

Every expression reads /metrics of `rca serve` or the rules of scripts/serve_rules.py; the same names come over OTLP.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from scripts.serve_rules import MAINTENANCE, PROMISES

_WIDTH: Final = 24
_HEIGHTS: Final = {"stat": 4, "timeseries": 8}
_SOURCE: Final = {"type": "prometheus", "uid": "${source}"}


@dataclass(frozen=True)
class Panel:
    """A panel: (expression, legend) of each line, and how wide it is of 24."""

    title: str
    lines: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 12
    about: str = ""
    limits: tuple[tuple[float, str], ...] = ()
    """Values from where on it is shown in a colour."""


def _quantiles(metric: str) -> tuple[tuple[str, str], ...]:
    rate = f"sum by (le) (rate({metric}_bucket[$__rate_interval]))"
    return tuple((f"histogram_quantile({share}, {rate})", name) for share, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99")))


def _by(metric: str, label: str) -> tuple[tuple[str, str], ...]:
    return ((f"sum by ({label}) (increase({metric}[$__rate_interval]))", f"{{{{{label}}}}}"),)


def _stat(title: str, expr: str, unit: str = "short", about: str = "", limits: tuple[tuple[float, str], ...] = ()) -> Panel:
    return Panel(title, ((expr, ""),), unit, "stat", 4, about, limits)


_DRIFT: Final = "of the incidents of 30 days against training data; with few incidents chance alone makes it large"

ON_CALL: Final = (
    _stat(
        "Groups waiting", "sum(rca_serve_waiting_groups)", about="for their first answer", limits=((10, "orange"), (50, "red"))
    ),
    _stat(
        "Messages waiting",
        "sum(rca_serve_waiting_deliveries)",
        about="for a sink that does not answer",
        limits=((1, "orange"), (50, "red")),
    ),
    _stat("Newest bin", "max(rca_serve_telemetry_age_seconds)", "s", "its age", ((60, "orange"), (120, "red"))),
    _stat("Model replaced", "max(rca_serve_model_replaced)", about="1: another one ranks", limits=((1, "orange"),)),
    _stat("Maintenance", f"count({MAINTENANCE}) or vector(0)", about="1: declared, nobody is told", limits=((1, "blue"),)),
    _stat(
        "Failed rankings, 1 h",
        'sum(increase(rca_serve_rankings_total{outcome="failed"}[1h]))',
        limits=((1, "orange"), (3, "red")),
    ),
    Panel("From the first alert to the first answer", _quantiles("rca_serve_first_answer_seconds"), "s"),
    Panel("Alerts received", _by("rca_serve_alerts_total", "outcome")),
    Panel("Rankings", _by("rca_serve_rankings_total", "outcome")),
    Panel("Messages", _by("rca_serve_deliveries_total", "outcome")),
)
OWNER: Final = (
    *(
        _stat(
            f"Budget left: {promise.name.replace('_', ' ')}",
            f"1 - {promise.ratio('30d')} / {1 - promise.objective:.6g}",
            "percentunit",
            f"{promise.objective:.1%} in 30 days: {promise.says}",
            ((-1000, "red"), (0, "orange"), (0.5, "green")),
        )
        for promise in PROMISES
    ),
    _stat(
        "Answers that were right",
        "min(rca_serve_agreement_ratio)",
        "percentunit",
        "of those of 30 days whose cause is confirmed or was injected",
        ((0, "red"), (0.5, "green")),
    ),
    _stat("Causes known", "max(rca_serve_agreement_incidents)", about="incidents of 30 days that were answered"),
    _stat("Drift", "max(rca_serve_drift_found)", about="1: incidents differ from training data", limits=((1, "orange"),)),
    _stat("Incidents compared", "max(rca_serve_drift_incidents)", about="of 30 days, for drift; fewer than 5 say little"),
    _stat("Unseen kinds", "max(rca_serve_drift_unseen_kinds)", about="of entities and edges", limits=((1, "orange"),)),
    Panel(
        "How fast budgets burn, over 6 h",
        tuple(
            (f"{promise.recorded('6h')} / {1 - promise.objective:.6g}", promise.name.replace("_", " ")) for promise in PROMISES
        ),
        about="1: exactly the budget; 6 and more is a page",
        limits=((1, "orange"), (6, "red")),
    ),
    Panel("What ranks", _by("rca_serve_ranked_by_total", "model")),
    Panel("The version in shadow, against what was told", _by("rca_serve_shadow_answers_total", "outcome")),
    Panel("Labels that people gave", (*_by("rca_serve_labels_total", "verdict"), *_by("rca_serve_agreement_total", "outcome"))),
    Panel("Drift: the largest PSI", (("max by (of) (rca_serve_drift_psi)", "{{of}}"),), about=_DRIFT, limits=((0.25, "orange"),)),
    Panel("Drift: the largest KS distance", (("max by (of) (rca_serve_drift_ks)", "{{of}}"),), about=_DRIFT),
    Panel(
        "Incidents without telemetry", (("max by (telemetry) (rca_serve_drift_missing_ratio)", "{{telemetry}}"),), "percentunit"
    ),
    Panel("What drifted", (("max by (part) (rca_serve_drift_found)", "{{part}}"),), about="1: more than chance does"),
    Panel("Answers handed to the sinks", _by("rca_serve_notices_total", "state")),
)
DEBUGGING: Final = (
    Panel("From a question to its ranking", _quantiles("rca_serve_ranking_seconds"), "s"),
    Panel("Age of the newest telemetry when it was ranked", _quantiles("rca_serve_graph_age_seconds"), "s"),
    Panel("What was missing, by source", _by("rca_serve_gaps_total", "source")),
    Panel("Acknowledgement of a notification", _quantiles("rca_serve_acknowledgement_seconds"), "s"),
    Panel("Notifications", _by("rca_serve_notifications_total", "outcome")),
    Panel("Notifications held in memory", (("sum(rca_serve_pending_bytes)", "bytes"),), "bytes"),
    Panel("Queue", (("sum(rca_serve_waiting_groups)", "groups"), ("sum(rca_serve_waiting_deliveries)", "messages"))),
    Panel("Age of the newest bin", (("max(rca_serve_telemetry_age_seconds)", "age"),), "s"),
)
DASHBOARDS: Final = {
    "on-call": ("rca serve: on call", "Does it work right now?", ON_CALL),
    "owner": ("rca serve: owner", "Does it keep its promises, and do people agree with it?", OWNER),
    "debugging": ("rca serve: debugging", "Where does the time go, and what was missing?", DEBUGGING),
}


def dashboard(name: str) -> str:
    """One dashboard as the JSON that Grafana imports."""
    title, about, panels = DASHBOARDS[name]
    others = [
        {"title": other, "type": "link", "url": f"/d/rca-serve-{key}"} for key, (other, _, _) in DASHBOARDS.items() if key != name
    ]
    body = {
        "uid": f"rca-serve-{name}",
        "title": title,
        "description": f"{about} Runbooks: docs/operating.md.",
        "tags": ["rca"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "links": others,
        "templating": {"list": [{"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}]},
        "panels": list(_placed(panels)),
    }
    return json.dumps(body, indent=2) + "\n"


def _placed(panels: tuple[Panel, ...]) -> list[dict[str, Any]]:
    """Panels from left to right, a new row where the next does not fit."""
    x = y = height = 0
    placed = []
    for number, panel in enumerate(panels, start=1):
        if x + panel.width > _WIDTH or (placed and _HEIGHTS[panel.kind] != height):
            x, y = 0, y + height
        height = _HEIGHTS[panel.kind]
        placed.append(_drawn(panel, number, {"x": x, "y": y, "w": panel.width, "h": height}))
        x += panel.width
    return placed


def _drawn(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    steps = [{"color": "green", "value": None}, *({"color": colour, "value": value} for value, colour in panel.limits)]
    defaults = {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}}
    targets = [
        {"refId": chr(ord("A") + i), "datasource": _SOURCE, "expr": expr, "legendFormat": legend or "__auto"}
        for i, (expr, legend) in enumerate(panel.lines)
    ]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "gridPos": place,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": targets,
    }
