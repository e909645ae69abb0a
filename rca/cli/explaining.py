"""What `rca triage --explain` and `--stability` add to a report: the evidence put to the test, and how the answer holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rca.alerting import why_not_alerting
from rca.bounding import BOUNDS, Bounds
from rca.cli.triage import Wanted
from rca.contracts import Ranker
from rca.evaluation.stability import stability_of
from rca.explanation import Explanation, Stability, fared
from rca.incidents.incident import Incident
from rca.models.attribution import explain
from rca.pipeline import case_of
from rca.report import TriageReport, shown
from rca.telemetry import Interval, Telemetry
from rca.wording import listed, probability

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class More:
    """What was found; None where it was not asked for, or where nobody is named first or ranked at all."""

    wanted: Wanted
    explanation: Explanation | None = None
    stability: Stability | None = None
    why_not_alerting: str = ""

    def on(self, report: TriageReport) -> TriageReport:
        """The report with what was found in it."""
        why = self.why_not_alerting
        return replace(report, explanation=self.explanation, why_not_alerting=why, stability=self.stability)

    def rendered(self) -> RenderableType:
        """The same for people, in the style of the report."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        parts: list[RenderableType] = []
        for title, lines in _sections(self):
            table = Table.grid(padding=(0, 1, 0, 0))
            table.add_column(no_wrap=True)
            table.add_column(overflow="fold")
            for line in lines:
                table.add_row("  -", Text(line))
            parts += [Text(), Text(title, style="bold"), table]
        return Group(*parts)


def more_on(
    report: TriageReport,
    incident: Incident,
    telemetry: Telemetry,
    ranker: Ranker,
    wanted: Wanted,
    *,
    interval: Interval | None = None,
    bounds: Bounds = BOUNDS,
) -> More:
    """Explain and try what the report says."""
    found, why = None, ""
    if wanted.explanation and report.leader is not None:
        case = case_of(incident, telemetry, interval, bounds)
        found = explain(case, ranker, report.leader)
        why = why_not_alerting(case, report.ranking, report.incident.alerting)
    stability = None
    if wanted.stability and report.ranking.candidates:
        stability = stability_of(incident, telemetry, ranker, interval=interval, bounds=bounds)
    return More(wanted, found, stability, why)


def _sections(more: More) -> Iterator[tuple[str, Sequence[str]]]:
    if more.explanation is not None:
        yield f"Explanation of {shown(more.explanation.entity)}, tested: {more.explanation.strength}", _lines(more.explanation)
    elif more.wanted.explanation:
        yield "Explanation", ["Nobody is named first, so there is nothing to test."]
    if more.why_not_alerting:
        yield "Why not what alerts", [more.why_not_alerting]
    if more.stability is not None:
        names = [shown(answer.first) if answer.first else "" for answer in more.stability.answers]
        yield "Stability", more.stability.sentences(names)
    elif more.wanted.stability:
        yield "Stability", ["Nobody is ranked, so there is no answer that could change."]


def _lines(explanation: Explanation) -> list[str]:
    before = [explanation.probability, *(item.left for item in explanation.items)]
    lines = [
        f"{item.evidence.statement} (without: {probability(had)} -> {probability(item.left)})"
        for had, item in zip(before, explanation.items, strict=False)
    ]
    name, instead = shown(explanation.entity), shown(explanation.instead) if explanation.instead else ""
    calls = [f"{shown(call.caller)} -> {shown(call.callee)}: {probability(call.probability)}" for call in explanation.calls]
    return [*lines, *fared(explanation, name, instead), *([f"If a call were not known: {listed(calls, 4)}."] if calls else [])]
