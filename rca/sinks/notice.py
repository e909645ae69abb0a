"""What is told of an incident, and what every sink promises."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, Protocol, runtime_checkable

from pydantic import TypeAdapter

from rca.report import Outcome, TriageReport

SCHEMA_VERSION: Final = "1"

State = Literal["firing", "resolved"]
_LAST_NS: Final = 2**62  # in the year 2116


@dataclass(frozen=True)
class AlertLine:
    """One alert of the group, as its sender wrote it. `entity` is empty where it names none; `ends_ns` is None while it fires."""

    name: str
    severity: str = ""
    entity: str = ""
    summary: str = ""
    starts_ns: int = 0
    ends_ns: int | None = None
    status: State = "firing"

    @property
    def began_ns(self) -> int | None:
        """When it began; None where its sender gave no time that can be."""
        return self.starts_ns if 0 < self.starts_ns < _LAST_NS else None

    @property
    def ended_ns(self) -> int | None:
        """When it ended; None while it fires, and where its sender gave no time that can be."""
        return self.ends_ns if self.ends_ns is not None and max(self.starts_ns, 1) <= self.ends_ns < _LAST_NS else None


@dataclass(frozen=True)
class Links:
    """Addresses that belong to an incident. Those that are no http(s) addresses are not linked to."""

    page: str = ""
    traces: tuple[tuple[str, str], ...] = ()
    dashboards: tuple[tuple[str, str], ...] = ()
    runbooks: tuple[tuple[str, str], ...] = ()

    def named(self) -> Iterator[tuple[str, str, str]]:
        """(kind, words, address) of each but the page, the most useful kind first."""
        for kind, links in (("runbook", self.runbooks), ("dashboard", self.dashboards), ("trace", self.traces)):
            for words, url in links:
                yield kind, words, url


@dataclass(frozen=True, kw_only=True)
class Notice:
    """The state of an incident at one revision; revisions rise. Without a report, `trouble` says why there is none.

    `more_alerts` is how many alerts the sender left out, `model` what ranked, `news` what changed against the revision before;
    `test` is true for an example that somebody sends to see whether it arrives (`rca sinks test`).
    """

    incident_id: str
    group_key: str
    revision: int
    state: State
    title: str
    report: TriageReport | None = None
    trouble: str = ""
    alerts: tuple[AlertLine, ...] = ()
    more_alerts: int = 0
    links: Links = field(default_factory=Links)
    model: str = ""
    news: tuple[str, ...] = ()
    test: bool = False
    schema_version: str = SCHEMA_VERSION

    @property
    def idempotency_key(self) -> str:
        """The same for every delivery of this revision; a receiver that drops repeated ones sees it once."""
        return f"{self.incident_id}:{self.revision}"

    def to_json(self) -> dict[str, Any]:
        """Versioned JSON form (docs/notice.schema.json); the report has its own version."""
        body = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("schema_version", "report")}
        body |= {"alerts": [asdict(alert) for alert in self.alerts], "links": asdict(self.links)}
        report = self.report.to_json() if self.report is not None else None
        return {"schema_version": self.schema_version, "idempotency_key": self.idempotency_key, **body, "report": report}


_NOTICE: Final = TypeAdapter(Notice)


def dumped(notice: Notice) -> str:
    """A notice as text that `loaded` reads."""
    return json.dumps(_NOTICE.dump_python(notice, mode="json"))


def loaded(text: str) -> Notice:
    """The notice that `dumped` wrote, maybe before reports had an outcome."""
    body = json.loads(text)
    if body["report"] is not None:
        body["report"]["confidence"].setdefault("outcome", _outcome_of(body["report"]))
    return _NOTICE.validate_python(body)


def _outcome_of(report: dict[str, Any]) -> Outcome:
    """What a report without an outcome said in the end."""
    candidates = report["ranking"]["candidates"]
    if not candidates:
        return "not_enough_telemetry"
    nobody = report["confidence"]["level"] == "nothing" or report["ranking"]["no_fault"] > candidates[0]["probability"]
    return "no_fault" if nobody else "cause"


@dataclass(frozen=True)
class Sent:
    """A delivery. `reference` finds the message again, `cut` names what did not fit, `skipped` says why nothing was sent."""

    reference: str | None
    cut: tuple[str, ...] = ()
    skipped: str = ""


@runtime_checkable
class Sink(Protocol):
    """Tells somebody of an incident; `rca.testing.check_sink` checks what it promises.

    `before` is the reference of the message that was sent earlier for this incident: it is updated where the channel can.
    Sending a notice twice does no harm. Raises Unavailable where trying again helps (Overloaded where it is known when),
    Rejected where it does not, BadInput for a file with a secret that cannot be read.
    """

    name: str

    def send(self, notice: Notice, before: str | None) -> Sent: ...


@runtime_checkable
class Checkable(Protocol):
    """A sink that can be looked at (`rca doctor`).

    `check` sends nothing that anybody would read. It says what answered, in words for people, and raises what `send` would.
    """

    name: str

    def check(self) -> str: ...


def checked(sink: Sink) -> str:
    """What a sink says of itself. Raises what `send` would."""
    if isinstance(sink, Checkable):
        return sink.check()
    return "it has no check of its own; only a message shows whether it takes them"
