"""The timeline, merged: alerts, changes, events, what requests did, what rca said, and labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rca.documents.model import Figure, Question, Section, Table
from rca.drawing import svg
from rca.drawing.foreign import plain
from rca.drawing.timeline import Entry, Timeline, recorded_entries, timeline_of
from rca.incidents.store import AuditEntry
from rca.postmortem import sources
from rca.postmortem.account import Account, fault_title
from rca.postmortem.moments import Moments
from rca.postmortem.sections.answers import answered_in_words
from rca.postmortem.words import at, cause_of, lasting, said_by
from rca.telemetry import SECOND_NS
from rca.wording import count

_JUDGED = ("labelled", "confirmed", "disputed", "withdrawn")
"""Changes of the store that say something of the cause."""
_CITES = {"alert": sources.ALERTS, "change": sources.EVENTS, "event": sources.EVENTS, "moment": sources.INCIDENT}
_ORDER = ("moment", "change", "event", "requests", "alert", "answer", "label")


@dataclass(frozen=True)
class _Row:
    at_ns: int | None
    sort: str
    what: str
    cites: tuple[str, ...]


def timeline_section(account: Account, moments: Moments) -> Section:
    drawn = timeline_of(
        account.incident,
        account.alerts,
        recorded_entries(account.case, account.cause),
        account.cause,
        resolved=account.closed_ns is not None,
    )
    rows = sorted(_rows(account, moments, drawn), key=lambda row: (row.at_ns is None, row.at_ns or 0, _ORDER.index(row.sort)))
    left = f"; {count(drawn.more, 'alert or event')} less telling left out" if drawn.more else ""
    table = Table(
        ("Time", "From the onset", "Kind", "What"),
        tuple((_time(account, row), _distance(account, row), row.sort, row.what) for row in rows),
        f"What happened, in order, times in UTC{left}",
        row_cites=tuple(row.cites for row in rows),
    )
    strip = (Figure(svg.strip_svg(drawn), _strip_words(drawn), "", _strip_cites(drawn)),) if drawn.marks else ()
    asked = Question(
        "What did people do and decide, and when? Add it to the table: calls, messages, attempts, also those that failed."
    )
    return Section("Timeline", (*strip, table, asked), "timeline")


def _time(account: Account, row: _Row) -> str:
    return at(account, row.at_ns) if row.at_ns is not None else "some time"


def _distance(account: Account, row: _Row) -> str:
    if row.at_ns is None:
        return ""
    distance = row.at_ns - account.onset_ns
    if abs(distance) < SECOND_NS // 2:
        return "0 s"
    return f"{'-' if distance < 0 else '+'}{lasting(abs(distance))}"


def _strip_words(drawn: Timeline) -> str:
    sorts = [mark.sort for mark in drawn.marks]
    told = [count(sorts.count(sort), sort) for sort in ("alert", "change", "event") if sort in sorts]
    return f"{', '.join(told)} around the window of the incident, which is shaded; those of the cause have a ring."


def _strip_cites(drawn: Timeline) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_CITES[mark.sort] for mark in drawn.marks))


def _rows(account: Account, moments: Moments, drawn: Timeline) -> Iterator[_Row]:
    for entry in drawn.entries:
        if not (_is_onset(account, entry) or _is_alert(account, moments, entry)):
            yield _entry(entry)
    injected = any(label.provenance == "injected" for label in account.labels) and account.incident.causes()
    if account.incident.onset_ns is not None:
        yield _Row(account.onset_ns, "moment", "The fault is injected" if injected else "It begins", (sources.INCIDENT,))
    yield from _requests(account, moments)
    yield from _answers(account)
    yield from _labels(account)


def _is_onset(account: Account, entry: Entry) -> bool:
    """The window's beginning, where the onset stands at the same time: one row is enough."""
    return entry.sort == "moment" and entry.at_ns == account.incident.onset_ns == account.incident.window.start_ns


def _is_alert(account: Account, moments: Moments, entry: Entry) -> bool:
    """That it was noticed, where the alert that noticed stands at the same time."""
    noticed = entry.sort == "moment" and entry.at_ns == account.incident.detected_ns
    return noticed and any(abs(alert.starts_ns - (entry.at_ns or 0)) < SECOND_NS for alert in moments.alerts)


def _entry(entry: Entry) -> _Row:
    parts = [entry.what, f"on {entry.about}" if entry.about else "", f"{entry.times} times" if entry.times > 1 else ""]
    parts += [f"({entry.severity})" if entry.severity else "", f"until {entry.ended}" if entry.ended else ""]
    what = " ".join(part for part in parts if part) + (f": {entry.words}" if entry.words else "")
    return _Row(entry.at_ns, entry.sort, what, (_CITES[entry.sort],))


def _requests(account: Account, moments: Moments) -> Iterator[_Row]:
    hurt = account.impact.hurt if account.impact is not None else ()
    if not hurt:
        return
    yield _Row(hurt[0].start_ns, "requests", "From here on more requests fail or are slow than usual", (sources.REQUESTS,))
    if moments.over_ns is not None:
        yield _Row(moments.over_ns, "requests", "Requests are as usual again", (sources.REQUESTS,))


def _answers(account: Account) -> Iterator[_Row]:
    if account.heard_ns is not None:
        yield _Row(account.heard_ns, "answer", "The first alert reaches rca serve", (sources.ANSWERS,))
    for answer in account.answers:
        over = " (resolved)" if answer.state == "resolved" else ""
        words = f"rca serve, revision {answer.revision}{over}: {answered_in_words(answer)}"
        yield _Row(answer.at_ns, "answer", words, (sources.ANSWERS,))
        for message in answer.messages:
            if message.sent_ns is not None:
                words = f"{plain(message.sink, 64)} is told of revision {answer.revision}"
                yield _Row(message.sent_ns, "answer", words, (sources.ANSWERS,))


def _labels(account: Account) -> Iterator[_Row]:
    changed = [entry for entry in account.audit if entry.action in _JUDGED]
    for entry in changed:
        yield _Row(entry.at_ns, "label", _judged(entry), (sources.LABELS,))
    if changed:
        return
    for label in account.incident.labels:
        if label.at_ns is not None:
            words = f"{cause_of(label)}: {said_by(label)}"
            yield _Row(label.at_ns, "label", words, (sources.LABELS,))


def _judged(entry: AuditEntry) -> str:
    """A change of labels: who, what, and which cause it is about."""
    before, after = (value if isinstance(value, list) else [] for value in (entry.before, entry.after))
    changed = [label for label in after if label not in before] or [label for label in before if label not in after]
    names = [str(label["entity"]["name"]) if label.get("entity") else fault_title(str(label["fault_kind"])) for label in changed]
    by = f" by {plain(entry.who, 64)}" if entry.who else ""
    return f"{', '.join(plain(name, 64) for name in names) or 'label'}: {entry.action}{by}"
