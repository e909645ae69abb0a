"""The signals a deviation is measured on. The order of these tables is the order of columns everywhere downstream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True)
class Signal:
    """One signal of an entity or of a call edge.

    `family` is the fault family that the signal points to when it is the loudest, `source` the modality it comes from. `signed`
    signals count in both directions and keep their sign; others count upward only (down is clipped to 0).
    """

    name: str
    source: Literal["metrics", "spans", "logs", "events", "alerts"]
    family: str
    signed: bool
    title: str
    formula: str


_Z = (
    "mean of (x - median) / scale over the window, scale = max(1.4826 MAD, IQR / 1.349, 5 % of |median|, 2 % of the class median)"
)
_ZLOG = "as cpu, on ln(x + 1 ms), scale at least 0.1"
_SHIFT = "difference of medians of ln(d + 50 us), over its standard error (IQR / 1.349 >= 0.15; n capped at 60 and 20)"
_ANSCOMBE = "2 (sqrt(n + 3/8) - sqrt(m + 3/8)) / sqrt(1 + r), r = exposure now over exposure before, m = r times the count before"
_ALERTS = "number of alerts up minus number of alerts down"

NODE_SIGNALS: Final[tuple[Signal, ...]] = (
    Signal("cpu", "metrics", "cpu", True, "CPU", _Z),
    Signal("memory", "metrics", "memory", True, "memory", _Z),
    Signal("disk", "metrics", "disk", True, "disk", _Z),
    Signal("network", "metrics", "network", True, "network bytes", _Z),
    Signal("sockets", "metrics", "latency", True, "open sockets", _Z),
    Signal("metric_server_latency", "metrics", "latency", False, "server latency (metrics)", _ZLOG),
    Signal("metric_client_latency", "metrics", "network", False, "client latency (metrics)", _ZLOG),
    Signal(
        "metric_success",
        "metrics",
        "errors",
        False,
        "success ratio (metrics), falling",
        "as cpu, sign turned, scale >= 1 % of the median",
    ),
    Signal("metric_errors", "metrics", "errors", False, "error rate (metrics)", _Z),
    Signal("metric_traffic", "metrics", "crash", True, "requests served (metrics)", _Z),
    Signal("metric_client_traffic", "metrics", "errors", True, "requests sent (metrics)", _Z),
    Signal("metric_gap", "metrics", "network", False, "client minus server latency of calls into it (metrics)", _ZLOG),
    Signal(
        "quiet_callees",
        "metrics",
        "errors",
        False,
        "callees serve less although it serves as before (metrics)",
        "largest fall of ln(callee rate) - ln(own rate) over callees, robust z",
    ),
    Signal(
        "latency_residual",
        "metrics",
        "latency",
        False,
        "latency that its callees do not explain",
        "z of the residual of a ridge regression of ln latency on the callees' ln latency, fitted on the baseline",
    ),
    Signal(
        "success_residual",
        "metrics",
        "errors",
        False,
        "fall of the success ratio that its callees do not explain",
        "as latency_residual",
    ),
    Signal("other", "metrics", "errors", True, "other metrics", _Z),
    Signal("self_time", "spans", "cpu", False, "self time", _SHIFT + "; largest over operations"),
    Signal("self_time_fall", "spans", "errors", False, "self time, falling", _SHIFT + ", sign turned; largest over operations"),
    Signal("server_latency", "spans", "latency", False, "server latency", _SHIFT + "; largest over operations"),
    Signal("leaf_latency", "spans", "latency", False, "latency of calls to databases and uninstrumented peers", _SHIFT),
    Signal("gap_in", "spans", "network", False, "client-minus-server gap of calls into it", _SHIFT + "; largest over callers"),
    Signal("gap_in_all", "spans", "network", False, "the same over every caller", "smallest shift over callers"),
    Signal("gap_out", "spans", "network", False, "client-minus-server gap of calls out of it", "smallest shift over callees"),
    Signal("own_errors", "spans", "errors", False, "failed spans whose children succeeded, less unanswered calls", _ANSCOMBE),
    Signal("errors", "spans", "errors", False, "failed requests", _ANSCOMBE),
    Signal(
        "unanswered_calls",
        "spans",
        "crash",
        False,
        "calls into it that failed without an answer",
        _ANSCOMBE + "; what every caller sees, less what a caller sees of all its callees",
    ),
    Signal("traffic", "spans", "crash", True, "requests served", "ln ratio of rates over max(counting noise, 0.15)"),
    Signal(
        "vanished_calls",
        "spans",
        "errors",
        False,
        "usual child calls that no longer happen",
        _ANSCOMBE + ", sign turned; largest",
    ),
    Signal("new_calls", "spans", "latency", False, "calls into it that used not to happen", _ANSCOMBE + "; largest"),
    Signal(
        "vanished_templates",
        "logs",
        "errors",
        False,
        "usual log lines that no longer appear",
        _ANSCOMBE + ", sign turned; largest",
    ),
    Signal("new_templates", "logs", "errors", False, "log lines that used not to appear", _ANSCOMBE + "; largest"),
    Signal("error_lines", "logs", "errors", False, "ERROR lines", _ANSCOMBE),
    Signal("log_volume", "logs", "crash", True, "log lines", "ln ratio of rates over max(counting noise, 0.15)"),
    Signal(
        "warnings",
        "events",
        "crash",
        False,
        "Kubernetes warnings",
        "2 (sqrt(n + 3/8) - sqrt(m + 3/8)), m expected from the baseline",
    ),
    Signal("changes", "events", "errors", False, "rollouts and changes", "as warnings"),
    Signal("alert_cpu", "alerts", "cpu", True, "CPU alerts", _ALERTS),
    Signal("alert_memory", "alerts", "memory", True, "memory alerts", _ALERTS),
    Signal("alert_disk", "alerts", "disk", True, "disk alerts", _ALERTS),
    Signal("alert_network_in", "alerts", "network", True, "alerts on bytes received", _ALERTS),
    Signal("alert_network_out", "alerts", "network", True, "alerts on bytes sent", _ALERTS),
    Signal("alert_traffic_in", "alerts", "crash", True, "alerts on requests served", _ALERTS),
    Signal("alert_traffic_out", "alerts", "network", True, "alerts on requests sent", _ALERTS),
    Signal("alert_latency_in", "alerts", "latency", True, "alerts on server latency", _ALERTS),
    Signal("alert_latency_out", "alerts", "latency", True, "alerts on client latency", _ALERTS),
    Signal("alert_errors_in", "alerts", "errors", True, "alerts on requests that fail here", _ALERTS),
    Signal("alert_errors_out", "alerts", "errors", True, "alerts on requests sent that fail", _ALERTS),
    Signal("alert_slow_calls_in", "alerts", "latency", False, "alerts on slow calls into it", "number of alerts"),
    Signal("alert_slow_calls_out", "alerts", "latency", False, "alerts on slow calls out of it", "number of alerts"),
    Signal("alert_slow_own", "alerts", "latency", False, "alerts on slow operations inside it", "number of alerts"),
    Signal("alert_failed_calls_in", "alerts", "errors", False, "alerts on failed calls into it", "number of alerts"),
    Signal("alert_failed_calls_out", "alerts", "errors", False, "alerts on failed calls out of it", "number of alerts"),
    Signal("alert_failed_own", "alerts", "errors", False, "alerts on failed operations inside it", "number of alerts"),
    Signal("alert_logs", "alerts", "errors", False, "alerts on log lines", "number of alerts"),
    Signal("alert_other", "alerts", "errors", False, "other alerts", "number of alerts"),
    Signal(
        "alert_novelty",
        "alerts",
        "errors",
        False,
        "alerts that are unusual for it",
        "sum over its metric and log alerts of -ln(share of the system's other windows in which it has the same alert)",
    ),
    Signal(
        "alert_novelty_logs", "alerts", "errors", False, "log alerts that are unusual for it", "as alert_novelty, log alerts only"
    ),
    Signal(
        "alert_novelty_calls",
        "alerts",
        "latency",
        False,
        "alerts on calls that are unusual for it",
        "as alert_novelty, alerts on calls into it or inside it",
    ),
    Signal(
        "alert_rarity",
        "alerts",
        "errors",
        False,
        "metric alerts that few others have",
        "sum over the kinds of metric alert it has of -ln(share of entities that have it)",
    ),
)
"""Signals of an entity, in column order."""

EDGE_SIGNALS: Final[tuple[Signal, ...]] = (
    Signal("gap", "spans", "network", True, "client-minus-server gap", _SHIFT),
    Signal("client_latency", "spans", "latency", True, "latency seen by the caller", _SHIFT),
    Signal("called_latency", "spans", "latency", True, "latency of the callee for this caller", _SHIFT),
    Signal("calls", "spans", "errors", True, "calls per request of the caller", _ANSCOMBE),
    Signal("failed_calls", "spans", "errors", False, "failed calls", _ANSCOMBE),
    Signal("metric_gap", "metrics", "network", True, "client minus server latency (metrics)", _ZLOG),
    Signal("alert_slow", "alerts", "latency", False, "alerts on slow calls", "number of alerts"),
    Signal("alert_failed", "alerts", "errors", False, "alerts on failed calls", "number of alerts"),
)
"""Signals of a call edge, in column order."""

NODE_COLUMN: Final = {signal.name: column for column, signal in enumerate(NODE_SIGNALS)}
EDGE_COLUMN: Final = {signal.name: column for column, signal in enumerate(EDGE_SIGNALS)}
