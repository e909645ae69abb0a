"""What a message says, in the order in which it says it, and what of it goes first where there is no room. Pure.

`message_of` takes from a notice what a person on call needs, `fitted` cuts it to a channel's limit, evidence first, `sections_of`
writes it in the channel's markup.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from rca.ranking import RankedCandidate
from rca.report import PATH_TITLES, TriageReport, shown, shown_text
from rca.sinks.markup import Markup, is_address, line
from rca.sinks.notice import AlertLine, Notice
from rca.telemetry import SECOND_NS
from rca.wording import clock, count, probability, seconds

MOST_CANDIDATES: Final = 3
PAGE_WORDS: Final = "Open the incident: map, timeline, confirm or correct"
_MOST_ALERTS: Final = 5
_MOST_MISSING: Final = 4
_MOST_NEWS: Final = 4
_MOST_LINKS: Final = 3  # of a kind
_LONGEST_NAME: Final = 120
_LONGEST_SENTENCE: Final = 400
_LONGEST_TITLE: Final = 200
_LONGEST_WORDS: Final = 80
_LENGTHS: Final = (200, 140, 100, 70, 45, 25)
"""Lengths that title and verdict are cut to, one after the other, where nothing else is left to cut."""


@dataclass(frozen=True)
class Candidate:
    """One line of the ranking, with what speaks for it."""

    name: str
    share: str
    family: str
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class Message:
    """Everything a message says, as plain text on single lines of bounded length; not yet escaped for any channel."""

    title: str
    verdict: str
    candidates: tuple[Candidate, ...] = ()
    path: str = ""
    way: str = PATH_TITLES["alert"]
    news: tuple[str, ...] = ()
    alerts: tuple[str, ...] = ()
    more_alerts: int = 0
    missing: tuple[str, ...] = ()
    more_missing: int = 0
    page: str = ""
    links: tuple[tuple[str, str], ...] = ()
    foot: str = ""
    cut: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line:
    """A line in a channel's markup: level 0 is a sentence, 1 an item of a list, 2 an item below one."""

    text: str
    level: int = 0


@dataclass(frozen=True)
class Section:
    """Lines that belong together, under a title unless it is empty."""

    title: str
    lines: tuple[Line, ...]


# --- from a notice ------------------------------------------------------------------------------------------------------


def message_of(notice: Notice) -> Message:
    """What is said of a notice where there is room for everything that a message ought to hold."""
    report = notice.report
    alerts = tuple(_alert(alert) for alert in notice.alerts[:_MOST_ALERTS])
    missing = [line(text, _LONGEST_SENTENCE) for text in (*report.missing, *report.ranking.notes)] if report else []
    links, left_out = _links(notice)
    return Message(
        title=headline(notice),
        verdict=line(verdict_of(notice), _LONGEST_SENTENCE),
        candidates=tuple(map(_candidate, ranked(report))),
        path=line(report.path.words, _LONGEST_SENTENCE) if report and report.path else "",
        way=PATH_TITLES[report.path.noticed_by if report and report.path else "alert"],
        news=tuple(line(text, _LONGEST_SENTENCE) for text in notice.news[:_MOST_NEWS]),
        alerts=alerts,
        more_alerts=len(notice.alerts) - len(alerts) + notice.more_alerts,
        missing=tuple(missing[:_MOST_MISSING]),
        more_missing=len(missing[_MOST_MISSING:]),
        page=notice.links.page if is_address(notice.links.page) else "",
        links=links,
        foot=_foot(notice),
        cut=("links",) if left_out else (),
    )


def headline(notice: Notice) -> str:
    """The incident in one line, its likely cause first: what a pager or a subject line shows."""
    test = "Test, nothing is wrong. " if notice.test else ""
    over = "Resolved. " if notice.state == "resolved" else ""
    return line(f"{test}{over}{_cause(notice.report)}: {line(notice.title, _LONGEST_TITLE) or 'incident'}", _LONGEST_TITLE)


def _cause(report: TriageReport | None) -> str:
    """The likely cause as briefly as its certainty allows."""
    names = [f"{_name(each)} ({probability(each.probability)})" for each in ranked(report)]
    if report is None or not names:
        return "Cause unknown"
    if report.confidence.outcome == "no_fault":
        return "Perhaps no fault"
    if report.confidence.outcome == "outside":
        return "Telemetry points at nobody"
    if report.confidence.level == "close" and len(names) > 1:
        return f"{names[0]} or {names[1]}"
    return f"{'Perhaps' if report.confidence.level == 'unsure' else 'Likely'} {names[0]}"


def verdict_of(notice: Notice) -> str:
    """How sure the ranking is, in its own words; without one, why there is none."""
    if notice.report is not None:
        return notice.report.confidence.words
    return f"No ranking could be made: {notice.trouble or 'nothing is known of why'}"


def ranked(report: TriageReport | None) -> tuple[RankedCandidate, ...]:
    """The candidates that are worth naming: none where the order means nothing."""
    if report is None or report.confidence.level == "nothing":
        return ()
    return report.ranking.candidates[:MOST_CANDIDATES]


def _candidate(candidate: RankedCandidate) -> Candidate:
    statements = [evidence.statement for evidence in candidate.evidence]
    kept = statements if candidate.rank == 1 else statements[:1]
    evidence = tuple(line(statement, _LONGEST_SENTENCE) for statement in kept)
    return Candidate(_name(candidate), probability(candidate.probability), line(candidate.fault_family, _LONGEST_WORDS), evidence)


def _name(candidate: RankedCandidate) -> str:
    return line(shown(candidate.entity), _LONGEST_NAME)


def _alert(alert: AlertLine) -> str:
    """An alert on one line; what it lacks is left out."""
    where = f" on {line(shown_text(alert.entity), _LONGEST_NAME)}" if alert.entity else ""
    ended = "resolved" if alert.status == "resolved" else ""
    about = ", ".join(part for part in (line(alert.severity, _LONGEST_WORDS), ended, _when(alert)) if part)
    summary = f": {line(alert.summary, _LONGEST_SENTENCE // 2)}" if alert.summary else ""
    return line(f"{line(alert.name, _LONGEST_NAME)}{where}{summary}{f' ({about})' if about else ''}", _LONGEST_SENTENCE)


def _when(alert: AlertLine) -> str:
    if alert.began_ns is None:
        return ""
    if alert.ended_ns is None:
        return f"since {clock(alert.began_ns)}"
    return f"{clock(alert.began_ns)} to {clock(alert.ended_ns)}, {seconds((alert.ended_ns - alert.began_ns) / SECOND_NS)}"


def _links(notice: Notice) -> tuple[tuple[tuple[str, str], ...], int]:
    """Links beside the page, and how many were left out because they lead nowhere or are too many."""
    kept: list[tuple[str, str]] = []
    kinds: list[str] = []
    every = list(notice.links.named())
    for kind, words, url in every:
        if is_address(url) and kinds.count(kind) < _MOST_LINKS:
            kinds.append(kind)
            told = kind in words.lower()
            kept.append((line(words if told else f"{kind} {words}", _LONGEST_WORDS), url))
    return tuple(kept), len(every) - len(kept)


def _foot(notice: Notice) -> str:
    parts = [f"incident {line(notice.incident_id, _LONGEST_NAME)}", f"revision {notice.revision}"]
    ranker = notice.model or (notice.report.ranking.ranker if notice.report else "")
    return ", ".join([*parts, *([f"ranked by {line(ranker, _LONGEST_NAME)}"] if ranker else [])])


# --- to a limit ---------------------------------------------------------------------------------------------------------


def fitted(message: Message, fits: Callable[[Message], bool]) -> Message:
    """The message with as little left out as makes it fit; `cut` names what was. A limit may be too small for any message."""
    while not fits(message):
        smaller = next(_smaller(message), None)
        if smaller is None:
            return message
        what, message = smaller
        message = replace(message, cut=tuple(dict.fromkeys((*message.cut, what))))
    return message


def _smaller(message: Message) -> Iterator[tuple[str, Message]]:
    """The next thing to do without, and the message without it: evidence of the last candidate first, the page's link last."""
    yield from _with_less_evidence(message, least=1)
    if message.alerts:
        yield "alerts", replace(message, alerts=message.alerts[:-1], more_alerts=message.more_alerts + 1)
    if message.missing:
        yield "gaps", replace(message, missing=message.missing[:-1], more_missing=message.more_missing + 1)
    if message.news:
        yield "changes", replace(message, news=message.news[:-1])
    if message.links:
        yield "links", replace(message, links=message.links[:-1])
    yield from _with_less_evidence(message, least=0)
    if message.path:
        yield "path", replace(message, path="")
    if len(message.candidates) > 1:
        yield "candidates", replace(message, candidates=message.candidates[:-1])
    if message.foot:
        yield "details", replace(message, foot="", more_alerts=0, more_missing=0)
    if message.candidates:
        yield "candidates", replace(message, candidates=())  # the title names the first
    for most in _LENGTHS:
        if len(message.verdict) > most:
            yield "words", replace(message, verdict=line(message.verdict, most))
        if len(message.title) > most:
            yield "words", replace(message, title=line(message.title, most))
    if message.verdict:
        yield "words", replace(message, verdict="")
    if message.page:
        yield "links", replace(message, page="")


def _with_less_evidence(message: Message, least: int) -> Iterator[tuple[str, Message]]:
    """One statement less, of the last candidate that has any; the first candidate keeps its `least` clearest."""
    for row in reversed(range(len(message.candidates))):
        candidate = message.candidates[row]
        if len(candidate.evidence) > (least if row == 0 else 0):
            fewer = replace(candidate, evidence=candidate.evidence[:-1])
            yield "evidence", replace(message, candidates=(*message.candidates[:row], fewer, *message.candidates[row + 1 :]))


# --- in a channel's markup ----------------------------------------------------------------------------------------------


def sections_of(message: Message, markup: Markup) -> tuple[Section, ...]:
    """The message in a channel's markup, without its title, which every channel shows in a place of its own."""
    escape = markup.escape
    every = (
        Section("", _sentences([message.verdict], escape)),
        Section("Likely causes", tuple(_candidate_lines(message.candidates, markup))),
        Section(message.way, _sentences([message.path], escape)),
        Section("What changed", _items(message.news, escape)),
        Section("Alerts", _items(_with_rest(message.alerts, message.more_alerts, "alert"), escape)),
        Section("What was missing", _items(_with_rest(message.missing, message.more_missing, "gap"), escape)),
        Section("", tuple(_link_lines(message, markup))),
        Section("", _sentences([_closing(message)], escape)),
    )
    return tuple(section for section in every if section.lines)


def _sentences(texts: Sequence[str], escape: Callable[[str], str]) -> tuple[Line, ...]:
    return tuple(Line(escape(text)) for text in texts if text)


def _items(texts: Sequence[str], escape: Callable[[str], str]) -> tuple[Line, ...]:
    return tuple(Line(escape(text), 1) for text in texts)


def _candidate_lines(candidates: Sequence[Candidate], markup: Markup) -> Iterator[Line]:
    for candidate in candidates:
        family = f", {candidate.family}" if candidate.family else ""
        about = markup.escape(f"{candidate.share}{family}")
        yield Line(f"{markup.bold(markup.escape(candidate.name))} {about}", 1)
        yield from (Line(markup.escape(statement), 2) for statement in candidate.evidence)


def _with_rest(texts: Sequence[str], more: int, noun: str) -> list[str]:
    return [*texts, *([f"{'and ' if texts else ''}{count(more, f'more {noun}' if texts else noun)}"] if more else [])]


def _link_lines(message: Message, markup: Markup) -> Iterator[Line]:
    if message.page:
        yield Line(markup.link(PAGE_WORDS if message.foot else "Open", message.page))
    yield from (Line(markup.link(words, url)) for words, url in message.links)


def _closing(message: Message) -> str:
    cut = f"left out: {', '.join(message.cut)}" if message.cut else ""
    if not message.foot:
        return "(cut)" if message.cut else ""
    return "; ".join(part for part in (message.foot, cut) if part)


def in_text(message: Message, markup: Markup) -> str:
    """The sections as lines of text with `-` before items, as plain text and Markdown have it."""
    blocks = []
    for section in sections_of(message, markup):
        title = [markup.bold(section.title)] if section.title else []
        indent = {0: "", 1: "- ", 2: "  - "}
        loose = "\n\n" if markup.bold("x") != "x" and not any(each.level for each in section.lines) else "\n"
        lines = loose.join(f"{indent[each.level]}{each.text}" for each in section.lines)
        blocks.append("\n".join([*title, *([""] if title and markup.bold("x") != "x" else []), lines]))
    return "\n\n".join(blocks)


def in_html(message: Message, markup: Markup) -> str:
    """The sections as HTML without styles, classes or anything loaded from elsewhere."""
    blocks = []
    for section in sections_of(message, markup):
        title = f"<p>{markup.bold(section.title)}</p>" if section.title else ""
        if any(each.level for each in section.lines):
            blocks.append(f"{title}<ul>{''.join(_html_items(section.lines))}</ul>")
        else:
            blocks.append(f"{title}<p>{'<br/>'.join(each.text for each in section.lines)}</p>")
    return "".join(blocks)


def _html_items(lines: Sequence[Line]) -> Iterator[str]:
    """Items, each with the list of what is below it."""
    position = 0
    while position < len(lines):
        below = position + 1
        while below < len(lines) and lines[below].level > lines[position].level:
            below += 1
        inner = "".join(f"<li>{each.text}</li>" for each in lines[position + 1 : below])
        yield f"<li>{lines[position].text}{f'<ul>{inner}</ul>' if inner else ''}</li>"
        position = below
