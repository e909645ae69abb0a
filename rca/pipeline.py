"""The whole sentence: telemetry, cleaned, window, within bounds, deviations, graph, ranking."""

from __future__ import annotations

from collections.abc import Collection

from rca.bounding import BOUNDS, Bounds, bounded
from rca.cleaning import cleaned
from rca.contracts import Case, Ranker
from rca.deviations import measure
from rca.features import Calibration, graph_of
from rca.incidents.entities import find_entity
from rca.incidents.incident import Incident
from rca.ranking import Ranking
from rca.report import Subject, TriageReport, is_empty, report_of
from rca.telemetry import EntityId, Interval, Telemetry
from rca.topology import topology_of
from rca.window import Window, cut


def window_of(incident: Incident, telemetry: Telemetry, interval: Interval | None = None) -> Window:
    """The incident's window, or another interval of the same telemetry, with its recorded baselines."""
    interval = interval or incident.window.interval()
    return cut(cleaned(telemetry), interval, [baseline.baseline() for baseline in incident.baselines])


def case_of_window(window: Window, alerting: Collection[EntityId] = (), bounds: Bounds = BOUNDS) -> Case:
    """What a ranker needs to know about a window, or about what of it lies within the bounds. `alerting` stays in any case."""
    window, topology = bounded(window, topology_of(window), bounds, alerting)
    deviations, quiet = measure(window, topology)
    return Case(window, deviations, quiet, graph_of(deviations, Calibration.of(quiet, deviations)))


def case_of(incident: Incident, telemetry: Telemetry, interval: Interval | None = None, bounds: Bounds = BOUNDS) -> Case:
    """The case of an incident."""
    return case_of_window(window_of(incident, telemetry, interval), [entity.entity() for entity in incident.alerting], bounds)


def triage(incident: Incident, telemetry: Telemetry, ranker: Ranker) -> Ranking:
    """Rank the candidates of one incident."""
    return ranker.rank(case_of(incident, telemetry))


def report_on(
    incident: Incident,
    telemetry: Telemetry,
    ranker: Ranker,
    *,
    interval: Interval | None = None,
    top: int = 5,
    why_not: str | None = None,
    bounds: Bounds = BOUNDS,
) -> TriageReport:
    """Rank one incident, or another interval of its telemetry, and explain the ranking.

    `why_not` names a candidate to compare with the first one, as `name` or `kind:name`. Raises UnknownName if it is none.
    """
    case = case_of(incident, telemetry, interval, bounds)
    ranking = Ranking(ranker.name, case.window.incident, ()) if is_empty(case.window) else ranker.rank(case)
    compared = find_entity("--why-not", why_not, frozenset(case.graph.candidates)) if why_not is not None else None
    return report_of(subject_of(incident, case), case, ranking, top=top, why_not=compared)


def subject_of(incident: Incident, case: Case) -> Subject:
    """What a report says about the incident itself."""
    alerting = tuple(entity.entity() for entity in incident.alerting)
    return Subject(
        incident.id, incident.title, incident.system, case.window.incident, incident.detected_ns, alerting, incident.links
    )
