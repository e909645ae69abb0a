"""Similar past incidents: a small measure that can be explained in one sentence. It suggests where to look, it ranks nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from rca.contracts import service_of
from rca.drawing.foreign import NAME, name_of, plain
from rca.faults import FAULT_KINDS, family_of
from rca.incidents.incident import Incident
from rca.report import Certainty, Outcome, TriageReport
from rca.signals import NODE_COLUMN, NODE_SIGNALS
from rca.telemetry import EntityId
from rca.wording import clock, count, listed

MOST: Final = 3
LEAST: Final = 0.4
"""Similarity below which an incident is not shown."""
_CANDIDATE, _FAMILY, _SIGNALS, _ALERTING = 0.4, 0.2, 0.3, 0.1
"""What each likeness counts; a likeness that either incident knows nothing of counts nothing."""


@dataclass(frozen=True)
class Gist:
    """What lists and comparisons need of an answer. Plain values: it can be kept as JSON beside the incident."""

    candidate: EntityId | None = None
    probability: float = 0.0
    level: Certainty = "nothing"
    family: str = ""
    signals: tuple[str, ...] = ()
    outcome: Outcome = "cause"

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> Gist:
        """The gist of an answer as the inbox keeps it (rca.serve.notices.gist_of)."""
        first = next(iter(kept["candidates"]), None)
        if first is None:
            return NO_GIST
        entity = EntityId(first["kind"], first["name"], first["namespace"])
        signals = tuple(kept.get("signals", ()))
        level, outcome = kept.get("level", "nothing"), kept.get("outcome", "cause")
        return cls(entity, first["probability"], level, first["family"], signals, outcome)


NO_GIST: Final = Gist()


@dataclass(frozen=True)
class Similar:
    """A past incident, what was labelled or ranked there, and in words what is alike."""

    id: str
    title: str
    when: str
    cause: str
    known: str
    """What `cause` rests on: `labelled` or `ranked`."""
    note: str
    solved: bool
    """True if `note` is of a label that somebody confirmed: what it was and what solved it. Else it is a remark."""
    likeness: float
    reasons: str


def gist_of(report: TriageReport | None) -> Gist:
    """The gist of an answer; of none where no ranking was made or nothing stood out."""
    if report is None or report.confidence.level == "nothing" or not report.ranking.candidates:
        return NO_GIST
    first = report.ranking.candidates[0]
    signals = tuple(dict.fromkeys(item.signal for item in first.evidence))
    sure = report.confidence
    return Gist(first.entity, first.probability, sure.level, first.fault_family, signals, sure.outcome)


def similar_to(incident: Incident, gist: Gist, past: Iterable[tuple[Incident, Gist]]) -> tuple[Similar, ...]:
    """The most similar earlier incidents of the same system, the most similar and then the youngest first."""
    found = [
        _compared(incident, gist, other, theirs)
        for other, theirs in past
        if other.id != incident.id and other.system == incident.system and other.window.start_ns < incident.window.start_ns
    ]
    alike = sorted((one for one in found if one.likeness >= LEAST), key=lambda one: (one.likeness, one.when), reverse=True)
    return tuple(alike[:MOST])


def _compared(incident: Incident, gist: Gist, other: Incident, theirs: Gist) -> Similar:
    cause = service_of(gist.candidate) if gist.candidate else None
    causes = {service_of(cause) for cause in other.causes()} or ({service_of(theirs.candidate)} if theirs.candidate else set())
    kind = other.fault_kind() if other.causes() else ""
    family = family_of(kind) if kind not in ("", "unknown") else theirs.family
    shared = [signal for signal in gist.signals if signal in theirs.signals]
    either = set(gist.signals) | set(theirs.signals)
    alerting = set(incident.alerting) & set(other.alerting)
    everybody = set(incident.alerting) | set(other.alerting)
    likeness, reasons = 0.0, []
    if cause is not None and cause in causes:
        likeness += _CANDIDATE
        reasons.append("the same candidate")
    if gist.family and gist.family == family:
        likeness += _FAMILY
        reasons.append(f"the same family of faults ({family})")
    if shared:
        likeness += _SIGNALS * len(shared) / len(either)
        titles = [NODE_SIGNALS[NODE_COLUMN[name]].title if name in NODE_COLUMN else plain(name, NAME) for name in shared]
        reasons.append(f"{len(shared)} of {count(len(either), 'loud signal')} ({listed(titles, 3)})")
    if alerting:
        likeness += _ALERTING * len(alerting) / len(everybody)
        reasons.append(f"alerts on {listed([name_of(one.entity()) for one in sorted(alerting, key=str)], 3)}")
    noted = next((label for label in reversed(other.labels) if label.note and label.provenance != "disputed"), None)
    return Similar(
        other.id,
        plain(other.title, 120) or other.id,
        clock(other.window.start_ns, date=True)[:16],
        _named(other, theirs, kind),
        "labelled" if other.causes() or other.is_no_fault() else "ranked",
        plain(noted.note, 200) if noted else "",
        noted is not None and noted.provenance == "confirmed",
        round(likeness, 3),
        "; ".join(reasons),
    )


def _named(other: Incident, theirs: Gist, kind: str) -> str:
    if other.causes():
        names = listed([name_of(cause) for cause in other.causes()], 3)
        fault = FAULT_KINDS.get(kind)
        return f"{names}, {fault.title if fault else plain(kind, NAME)}" if kind != "unknown" else names
    if other.is_no_fault():
        return "no fault"
    return name_of(theirs.candidate) if theirs.candidate else ""
