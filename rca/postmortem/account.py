"""Everything that is known of an incident, as values: what a postmortem is written from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from rca.contracts import Case
from rca.drawing.foreign import name_of
from rca.drawing.similar import Gist
from rca.faults import FAULT_KINDS
from rca.incidents.bundle import FrameFile
from rca.incidents.incident import Incident, Label
from rca.incidents.store import AuditEntry
from rca.postmortem.impact import Impact
from rca.ranking import Ranking
from rca.report import TriageReport, is_nobody
from rca.telemetry import EntityId, Telemetry
from rca.topology import standing_for


@dataclass(frozen=True)
class Origin:
    """Where the incident was found: under which `name` in a bundle, in the store, or in the inbox alone (no telemetry)."""

    kind: Literal["bundle", "store", "inbox"]
    name: str
    frames: tuple[FrameFile, ...] = ()

    def frame(self, name: str) -> FrameFile | None:
        return next((frame for frame in self.frames if frame.frame == name), None)


@dataclass(frozen=True)
class Fired:
    """An alert as it arrived (drawing.timeline.Alert). `ends_ns` is None while it fires."""

    name: str
    severity: str
    about: EntityId | None
    summary: str
    starts_ns: int
    ends_ns: int | None

    @property
    def entity(self) -> str:
        return name_of(self.about) if self.about is not None else ""

    @property
    def status(self) -> str:
        return "firing" if self.ends_ns is None else "resolved"


@dataclass(frozen=True)
class Message:
    """An answer on its way to one sink: `sent_ns` is None where it never arrived, `trouble` says why."""

    sink: str
    sent_ns: int | None
    tries: int
    trouble: str


@dataclass(frozen=True)
class Answer:
    """What was said at one revision. Without a ranking, `trouble` says why there is none."""

    revision: int
    at_ns: int
    state: Literal["firing", "resolved"]
    leader: EntityId | None
    ranking: Ranking | None
    words: str
    trouble: str
    model: str
    messages: tuple[Message, ...] = ()


@dataclass(frozen=True)
class Objective:
    """A service-level objective: the share of requests that must not fail, over that many days."""

    share: float
    days: int = 30

    @property
    def allowed(self) -> float:
        """The share that may fail."""
        return 1.0 - self.share


@dataclass(frozen=True, eq=False, kw_only=True)
class Record:
    """An incident with its telemetry, and what was written down while it happened.

    `heard_ns` is when its first alert arrived at `rca serve`, `closed_ns` when its last one had ended. `past` are the incidents
    of the store with the gist of what was answered there.
    """

    incident: Incident
    telemetry: Telemetry
    origin: Origin
    answers: tuple[Answer, ...] = ()
    alerts: tuple[Fired, ...] = ()
    heard_ns: int | None = None
    closed_ns: int | None = None
    audit: tuple[AuditEntry, ...] = ()
    past: tuple[tuple[Incident, Gist], ...] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class Account(Record):
    """A record with what is computed from it: the ranking that is made of it now, and the impact.

    `made_by` is the ranker as options of `rca triage`, empty for the default; `store` the folder of the store, where it is not
    the usual one. `redacted` says that names are pseudonyms.
    """

    case: Case
    report: TriageReport
    impact: Impact | None
    made_by: str = ""
    store: str = ""
    objective: Objective | None = None
    redacted: bool = False

    @cached_property
    def labels(self) -> tuple[Label, ...]:
        """Those that nobody disputes."""
        return tuple(label for label in self.incident.labels if label.provenance != "disputed")

    @cached_property
    def causes(self) -> tuple[EntityId, ...]:
        """The labelled causes, as the telemetry knows them: a database of which it has the workload is that service."""
        known = self.case.graph.rows
        return tuple(dict.fromkeys(standing_for(cause, known) for cause in self.incident.causes()))

    @cached_property
    def cause(self) -> EntityId | None:
        """The labelled cause that is ranked best, else who is blamed first; None where nobody is."""
        if self.causes:
            return min(
                self.causes, key=lambda cause: self.report.ranking.rank_of(cause) or len(self.report.ranking.candidates) + 1
            )
        return None if self.incident.is_no_fault() else self.report.leader

    @cached_property
    def onset_ns(self) -> int:
        """When it began: as recorded, else the beginning of its window."""
        onset = self.incident.onset_ns
        return self.incident.window.start_ns if onset is None else onset

    def is_right(self, leader: EntityId | None, ranking: Ranking | None) -> bool | None:
        """Whether an answer agrees with the labels; None where there are none, or no answer."""
        if ranking is None or not self.labels:
            return None
        if self.incident.is_no_fault():
            return leader is None or is_nobody(ranking)
        return leader in (*self.causes, *self.incident.causes())


def fault_title(kind: str) -> str:
    """A kind of fault in words; empty where the label gives none."""
    return "" if kind == "unknown" else FAULT_KINDS[kind].title if kind in FAULT_KINDS else kind
