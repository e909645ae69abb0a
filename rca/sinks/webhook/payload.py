"""A notice as JSON for programs (docs/notice.schema.json), cut to a size. Pure.

Texts are as they came, though not longer than is useful: whoever shows them has to escape them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, Final

from rca.ranking import CandidateSet
from rca.report import TriageReport
from rca.sinks.markup import is_address
from rca.sinks.notice import AlertLine, Links, Notice

_LONGEST_TEXT: Final = 1_000
_MOST_ALERTS: Final = 100
_MOST_LINKS: Final = 20
_MOST_CANDIDATES: Final = 200
_MOST_GAPS: Final = 100
_LEVELS: Final = (50, 20, 5, 3)
"""How many candidates are left, step by step, where even their names are too many."""


def payload_of(notice: Notice, max_bytes: int) -> tuple[bytes, tuple[str, ...]]:
    """The body and what was cut, which the body says as well. Evidence goes first, then candidates from the last."""
    notice, cut = _bounded(notice)
    body = _body(notice, cut)
    for what, smaller in _smaller(notice):
        if len(body) <= max_bytes:
            break
        cut = tuple(dict.fromkeys((*cut, what)))
        body = _body(smaller, cut)
    return body, cut


def _body(notice: Notice, cut: tuple[str, ...]) -> bytes:
    return json.dumps({**notice.to_json(), "cut": cut}, separators=(",", ":")).encode()


def _bounded(notice: Notice) -> tuple[Notice, tuple[str, ...]]:
    """No text longer than is useful, no more alerts, candidates and links than anybody reads."""
    links = notice.links
    bounded = replace(
        notice,
        group_key=_text(notice.group_key),
        title=_text(notice.title),
        trouble=_text(notice.trouble),
        report=_report(notice.report) if notice.report else None,
        alerts=tuple(map(_alert, notice.alerts[:_MOST_ALERTS])),
        more_alerts=notice.more_alerts + len(notice.alerts[_MOST_ALERTS:]),
        links=Links(
            links.page if is_address(links.page) else "",
            *(_links(each) for each in (links.traces, links.dashboards, links.runbooks)),
        ),
        news=tuple(map(_text, notice.news[:_MOST_LINKS])),
    )
    parts = {"title": "title", "trouble": "trouble", "report": "details", "alerts": "alerts", "links": "links", "news": "news"}
    return bounded, tuple(what for name, what in parts.items() if getattr(bounded, name) != getattr(notice, name))


def _report(report: TriageReport) -> TriageReport:
    ranking = report.ranking
    ranking = replace(
        ranking,
        candidates=ranking.candidates[:_MOST_CANDIDATES],
        likely=_first_of(ranking.likely, _MOST_CANDIDATES),
        gaps=ranking.gaps[:_MOST_GAPS],
        notes=ranking.notes[:_MOST_GAPS],
    )
    bounded: TriageReport = _short(replace(report, ranking=ranking, missing=report.missing[:_MOST_GAPS]))
    return bounded


def _first_of(likely: CandidateSet | None, most: int) -> CandidateSet | None:
    return replace(likely, entities=likely.entities[:most]) if likely is not None else None


def _short(value: Any) -> Any:
    """A part of the report with its texts cut."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, tuple):
        return tuple(map(_short, value))
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{each.name: _short(getattr(value, each.name)) for each in fields(value)})
    return value


def _text(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 1]}…"


def _alert(alert: AlertLine) -> AlertLine:
    texts = {name: _text(getattr(alert, name)) for name in ("name", "severity", "entity", "summary")}
    return replace(alert, **texts)  # type: ignore[arg-type]


def _links(links: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return tuple((_text(words), url) for words, url in links[:_MOST_LINKS] if len(url) <= _LONGEST_TEXT)


def _smaller(notice: Notice) -> Iterator[tuple[str, Notice]]:
    """Ever smaller notices, with what each lacks."""
    report = notice.report
    if report is not None:
        for kept in (3, 1, 0):
            report = _with_evidence_of(report, kept)
            yield "evidence", replace(notice, report=report)
        report = replace(report, map=None, why_not=None, explanation=None, stability=None)
        yield "map", replace(notice, report=report)
        report = replace(report, missing=report.missing[:10], ranking=replace(report.ranking, gaps=(), notes=()))
        yield "gaps", replace(notice, report=report)
        for most in _LEVELS:
            ranking = report.ranking
            ranking = replace(ranking, candidates=ranking.candidates[:most], likely=_first_of(ranking.likely, most))
            report = replace(report, ranking=ranking)
            yield "candidates", replace(notice, report=report)
    notice = replace(notice, report=report, alerts=(), more_alerts=notice.more_alerts + len(notice.alerts))
    yield "alerts", notice
    yield "links", replace(notice, links=Links(notice.links.page))
    yield "report", replace(notice, links=Links(notice.links.page), report=None, news=())


def _with_evidence_of(report: TriageReport, candidates: int) -> TriageReport:
    """The report with evidence of its first candidates alone."""
    ranking = report.ranking
    bare = tuple(replace(each, evidence=()) for each in ranking.candidates[candidates:])
    return replace(report, ranking=replace(ranking, candidates=(*ranking.candidates[:candidates], *bare)))


def schema_of(report_schema: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of the body. `report_schema` is that of the report, whose definitions it takes over."""
    from pydantic import TypeAdapter

    own = TypeAdapter(Notice).json_schema(mode="serialization")
    definitions = {name: own["$defs"][name] for name in ("AlertLine", "Links")}
    for definition in (own, *definitions.values()):
        definition["additionalProperties"] = False
        definition["required"] = list(definition["properties"])  # every field is written, empty or not
    report = {name: value for name, value in report_schema.items() if name not in ("$schema", "$defs")}
    own["properties"] = {
        "schema_version": {"const": own["properties"]["schema_version"]["default"]},
        "idempotency_key": {"type": "string", "description": "the same for every delivery of this revision"},
        **{name: value for name, value in own["properties"].items() if name != "schema_version"},
        "cut": {"type": "array", "items": {"type": "string"}, "description": "what was left out"},
    }
    own["required"] = list(own["properties"])
    own["$defs"] = {**report_schema["$defs"], **definitions, "TriageReport": report}
    return {"$schema": report_schema["$schema"], **own}
