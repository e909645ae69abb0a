"""An account as a document. Pure."""

from __future__ import annotations

from rca import __version__
from rca.documents.model import Document, Section
from rca.drawing.foreign import plain
from rca.postmortem.account import Account
from rca.postmortem.moments import Moments
from rca.postmortem.sections.answers import answers_section
from rca.postmortem.sections.causes import causes_section
from rca.postmortem.sections.detection import detection_section
from rca.postmortem.sections.evidence import evidence_section
from rca.postmortem.sections.gaps import gaps_section
from rca.postmortem.sections.impact import impact_section
from rca.postmortem.sections.people import actions_section, lessons_section
from rca.postmortem.sections.resolution import resolution_section
from rca.postmortem.sections.similar import similar_section
from rca.postmortem.sections.summary import summary_section
from rca.postmortem.sections.timeline import timeline_section
from rca.postmortem.sources import cited_sources
from rca.postmortem.words import causes_in_words, nobody_in_words
from rca.wording import clock, seconds

_SUBTITLE = (
    "A draft: what could be computed stands here with the number of its data, what only people know is asked for. Times are UTC."
)


def document_of(account: Account) -> Document:
    """The postmortem of an account."""
    moments = Moments(account)
    sections: tuple[Section, ...] = (
        summary_section(account, moments),
        impact_section(account),
        causes_section(account, moments),
        detection_section(account, moments),
        resolution_section(account, moments),
        timeline_section(account, moments),
        evidence_section(account),
        answers_section(account, moments),
        similar_section(account),
        gaps_section(account),
        lessons_section(),
        actions_section(),
    )
    return Document(
        title=f"Postmortem of {account.incident.id}",
        subtitle=_SUBTITLE,
        sections=sections,
        facts=_facts(account),
        sources=cited_sources(account, moments, sections),
    )


def _facts(account: Account) -> tuple[tuple[str, str], ...]:
    incident, window = account.incident, account.incident.window
    cause = causes_in_words(account) or nobody_in_words(account) or "not confirmed"
    facts = (
        ("What alerted", plain(incident.title, 160)),
        ("System", plain(incident.system, 64)),
        ("Window", f"{clock(window.start_ns, date=True)} to {clock(window.end_ns)}, {seconds(window.interval().seconds)}"),
        ("Cause", cause),
        ("Status", "draft"),
        ("Made by", f"rca {__version__}, ranked by {plain(account.report.ranking.ranker, 64)}"),
    )
    return tuple((name, value) for name, value in facts if value)
