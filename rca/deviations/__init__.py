"""How far every signal of every entity strays from its baseline, in the incident and in quiet stretches alike.

One module per sort of telemetry; each fills its columns of the sheet.
"""

from __future__ import annotations

from rca.deviations.alerts import METRIC_ALERTS, alert_signal, measure_alerts
from rca.deviations.blocks import QUIET_STRETCHES, Blocks
from rca.deviations.calls import Calls, measure_calls
from rca.deviations.counts import Counts, anscombe
from rca.deviations.durations import measure_durations
from rca.deviations.events import measure_events
from rca.deviations.logs import measure_logs
from rca.deviations.metrics import client_gaps, measure_call_metrics, measure_metrics, robust_scores
from rca.deviations.passed_on import PassedOn
from rca.deviations.sheet import CLIP, Deviations, Sheet, credit_callees, excuse_callers, silent_services
from rca.deviations.span_counts import measure_span_counts
from rca.deviations.unexplained import LEAST_RATE, measure_unexplained
from rca.topology import Topology, topology_of
from rca.window import Window

__all__ = [
    "CLIP",
    "LEAST_RATE",
    "METRIC_ALERTS",
    "QUIET_STRETCHES",
    "Deviations",
    "alert_signal",
    "anscombe",
    "client_gaps",
    "measure",
    "robust_scores",
]


def measure(window: Window, topology: Topology | None = None) -> tuple[Deviations, tuple[Deviations, ...]]:
    """Deviations of the incident, and of up to QUIET_STRETCHES pieces of the baseline.

    Spans, logs and events of a piece are compared with the rest of the baseline, metrics and residuals with all of it, the piece
    included: quiet stretches are a little calmer on these than an incident without a fault would be.
    """
    topology = topology or topology_of(window)
    blocks = Blocks(window)
    counts = Counts(window, blocks)
    sheet = Sheet.blank(topology, len(blocks.stretches))
    measure_durations(sheet, window, topology, blocks)
    calls = Calls.of(counts, topology)
    passed_on = PassedOn.of(counts, calls, topology)
    measure_span_counts(sheet, counts, passed_on, topology)
    measure_calls(sheet, counts, calls, topology)
    silent = silent_services(topology, window)
    excuse_callers(sheet, topology, silent, "client_latency", "leaf_latency")
    credit_callees(sheet, topology, silent, "client_latency", "leaf_latency")
    credit_callees(sheet, topology, silent, "failed_calls", "own_errors")
    measure_logs(sheet, window, counts, passed_on, topology, blocks)
    measure_metrics(sheet, window, topology, blocks)
    measure_call_metrics(sheet, window, topology, blocks)
    measure_unexplained(sheet, window, topology, blocks)
    passed_on.discount(sheet)
    measure_events(sheet, window, topology, blocks)
    measure_alerts(sheet, window, topology)
    incident, *quiet = sheet.deviations(topology)
    return incident, tuple(quiet)
