"""Gaps: what the telemetry did not show, so that what is missing here is not taken for nothing."""

from __future__ import annotations

from rca.documents.model import Bullets, Section, Text
from rca.drawing.foreign import plain
from rca.postmortem import sources
from rca.postmortem.account import Account

_MOST = 20


def gaps_section(account: Account) -> Section:
    found = [plain(words) for words in (*account.report.missing, *account.report.ranking.notes)]
    if account.origin.kind == "inbox":
        found.insert(0, "the telemetry of this incident: it is not in the store")
    if account.redacted:
        found.append("names, which are pseudonyms here, and everything that people wrote")
    more = [f"and {len(found) - _MOST} more"] if len(found) > _MOST else []
    cited = (sources.GAPS,)
    told = [Text(words, cited) for words in (*found[:_MOST], *more)] or [Text("Nothing that is known of.", cited)]
    sampled = Text("Requests are counted in the spans that arrived: where tracing samples, there were more.", (sources.GAPS,))
    return Section(
        "Gaps in the telemetry",
        (Bullets((*told, *((sampled,) if account.impact is not None and account.impact.counted == "spans" else ()))),),
        "gaps",
    )
