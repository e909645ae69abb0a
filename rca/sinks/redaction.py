"""A notice that names nobody: for teams whose names must not leave. Pure, but for the sink that it wraps.

As in bundles that are shared (rca.incidents.sharing), a name becomes the same pseudonym wherever it stands, a keyed hash of it,
and what people wrote freely is dropped. What is said here is made anew from the report's numbers, so that nothing that a log
line, a query or a gap's reason holds can come along. The page's link stays: whoever may open it reads the names there.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Final

from rca.ranking import Evidence, Ranking
from rca.report import Path as ReportPath
from rca.report import Subject, TriageReport, confidence_of, shown
from rca.settings import secret_in
from rca.signals import NODE_COLUMN, NODE_SIGNALS
from rca.sinks.notice import AlertLine, Links, Notice, Sent, Sink, checked
from rca.telemetry import EntityId, Gap
from rca.wording import count, quantity

_PREFIX: Final = {"service": "svc", "database": "db", "external": "host", "namespace": "ns"}
_DIGITS: Final = 10
_SEVERITIES: Final = frozenset({"critical", "error", "high", "warning", "low", "info", "none", "page", "ticket"})
"""Words that name nobody; others are left out."""
_UNITS: Final = frozenset({"s", "By", "By/s", "1", "1/s", "{cpu}", "%"})


@dataclass(frozen=True, repr=False)
class Pseudonyms:
    """Names as keyed hashes: with the same key the same for every incident, and nobody without it can compute them."""

    key: bytes

    def of(self, kind: str, name: str) -> str:
        """The pseudonym of a name; an empty name stays empty."""
        digest = hmac.digest(self.key, name.encode(errors="surrogatepass"), hashlib.sha256).hex()
        return f"{_PREFIX.get(kind, kind)}-{digest[:_DIGITS]}" if name else ""

    def entity(self, entity: EntityId) -> EntityId:
        """The entity under its pseudonym."""
        return EntityId(entity.kind, self.of(entity.kind, entity.name), self.of("namespace", entity.namespace))


def kept_key(path: Path) -> bytes:
    """The key that a file holds; where there is none, a new one is written, for its owner alone. Raises BadInput, OSError.

    Pseudonyms stay the same for as long as the file does.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}.new")
        with os.fdopen(os.open(new, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
            file.write(f"{secrets.token_hex(32)}\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    return secret_in(path).encode()


def redacted(notice: Notice, key: bytes) -> Notice:
    """The notice without names, free text and links but the page's."""
    names = Pseudonyms(key)
    known = _known(notice.report, names)
    return replace(
        notice,
        group_key=names.of("group", notice.group_key),
        title=count(len(notice.alerts) + notice.more_alerts, "alert"),
        trouble="the reason stands on the page" if notice.trouble else "",
        report=_report(notice.report, names) if notice.report else None,
        alerts=tuple(_alert(alert, names, known) for alert in notice.alerts),
        links=Links(notice.links.page),
        news=("the answer changed; the page says how",) if notice.news else (),
    )


def _alert(alert: AlertLine, names: Pseudonyms, known: dict[str, str]) -> AlertLine:
    severity = alert.severity if alert.severity.lower() in _SEVERITIES else ""
    entity = known.get(alert.entity) or names.of("entity", alert.entity)
    return replace(alert, name=names.of("alert", alert.name), entity=entity, severity=severity, summary="")


def _known(report: TriageReport | None, names: Pseudonyms) -> dict[str, str]:
    """What an entity of the report may be called in an alert, with the pseudonym that it has in the report."""
    if report is None:
        return {}
    around = (*report.map.pods, *report.map.nodes) if report.map else ()
    entities = [*report.incident.alerting, *around, *(candidate.entity for candidate in report.ranking.candidates)]
    return {text: shown(names.entity(each)) for each in entities for text in (each.name, str(each), shown(each))}


def _report(report: TriageReport, names: Pseudonyms) -> TriageReport:
    bare = replace(report, why_not=None, explanation=None, why_not_alerting="", stability=None)
    renamed: TriageReport = _renamed(bare, names)
    ranking = renamed.ranking
    certainty = renamed.confidence
    if certainty.level != "nothing":
        certainty = confidence_of(ranking, renamed.also)
    return replace(
        renamed,
        confidence=replace(report.confidence, words=certainty.words),
        path=_path(renamed.path),
        missing=_missing(report),
    )


def _renamed(value: Any, names: Pseudonyms) -> Any:
    """A part of the report with its entities under pseudonyms and its free text gone."""
    if isinstance(value, EntityId):
        return names.entity(value)
    if isinstance(value, Evidence):
        return replace(value, statement=_statement(value), unit=value.unit if value.unit in _UNITS else "1")
    if isinstance(value, Subject):
        bare = replace(value, title="", links=(), system=names.of("system", value.system), id=names.of("incident", value.id))
        return replace(bare, alerting=tuple(map(names.entity, value.alerting)))
    if isinstance(value, Gap):
        return Gap("telemetry", "the reason stands on the page", value.interval)
    if isinstance(value, Ranking):
        value = replace(value, notes=())
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{each.name: _renamed(getattr(value, each.name), names) for each in fields(value)})
    if isinstance(value, tuple):
        return tuple(_renamed(each, names) for each in value)
    return value


def _statement(evidence: Evidence) -> str:
    """What was seen in numbers alone: the statement itself may quote operations, log lines and addresses."""
    column = NODE_COLUMN.get(evidence.signal)
    title = NODE_SIGNALS[column].title if column is not None else "a signal"
    if evidence.observed is None:
        return title
    unit = evidence.unit if evidence.unit in _UNITS else "1"
    seen = f"{title}: {quantity(evidence.observed, unit)}"
    return f"{seen}, baseline {quantity(evidence.baseline, unit)}" if evidence.baseline is not None else seen


def _path(path: ReportPath | None) -> ReportPath | None:
    if path is None or not path.entities:
        return path and replace(path, words="")
    return replace(path, words=" -> ".join(shown(entity) for entity in path.entities))


def _missing(report: TriageReport) -> tuple[str, ...]:
    """What was missing without who: sentences of ours that name nobody stay, the others are counted."""
    sources = [f"{gap.source}: " for gap in report.ranking.gaps]
    own = [text for text in report.missing if text.startswith("no ") and not any(map(text.startswith, sources))]
    rest = len(report.missing) - len(own) + len(report.ranking.notes)
    return (*own, *([f"{count(rest, 'gap')} in the telemetry, named on the page"] if rest else []))


class RedactedSink:
    """A sink that gets to see redacted notices alone."""

    def __init__(self, sink: Sink, key: bytes) -> None:
        self.name, self._sink, self._key = sink.name, sink, key

    def send(self, notice: Notice, before: str | None) -> Sent:
        """As the sink itself, with names replaced."""
        return self._sink.send(redacted(notice, self._key), before)

    def check(self) -> str:
        """As the sink itself."""
        return f"{checked(self._sink)}; names are replaced"

    def __repr__(self) -> str:
        return f"RedactedSink({self.name!r})"
