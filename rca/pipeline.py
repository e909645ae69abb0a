"""The whole sentence: telemetry, cleaned, window, deviations, graph, ranking."""

from __future__ import annotations

from rca.cleaning import cleaned
from rca.contracts import Case, Ranker
from rca.deviations import measure
from rca.features import Calibration, graph_of
from rca.incidents.incident import Incident
from rca.ranking import Ranking
from rca.telemetry import Interval, Telemetry
from rca.window import Window, cut


def window_of(incident: Incident, telemetry: Telemetry, interval: Interval | None = None) -> Window:
    """The incident's window, or another interval of the same telemetry, with its recorded baselines."""
    interval = interval or incident.window.interval()
    return cut(cleaned(telemetry), interval, [baseline.baseline() for baseline in incident.baselines])


def case_of_window(window: Window) -> Case:
    """What a ranker needs to know about a window."""
    deviations, quiet = measure(window)
    return Case(window, deviations, quiet, graph_of(deviations, Calibration.of(quiet, deviations)))


def case_of(incident: Incident, telemetry: Telemetry, interval: Interval | None = None) -> Case:
    """The case of an incident."""
    return case_of_window(window_of(incident, telemetry, interval))


def triage(incident: Incident, telemetry: Telemetry, ranker: Ranker) -> Ranking:
    """Rank the candidates of one incident."""
    return ranker.rank(case_of(incident, telemetry))
