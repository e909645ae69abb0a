"""Resolution: when requests were as usual again, when alerts ended, and what was done."""

from __future__ import annotations

from collections.abc import Iterator

from rca.documents.model import Block, Bullets, Question, Section, Text
from rca.postmortem import sources
from rca.postmortem.account import Account
from rca.postmortem.moments import Moments
from rca.postmortem.sections.causes import changed_in_words
from rca.postmortem.words import apart, at

_MOST_CHANGES = 8


def resolution_section(account: Account, moments: Moments) -> Section:
    blocks: tuple[Block, ...] = (*_over(account, moments), *_after(account, moments))
    asked = Question("What ended it: who did what, when, and did it help at once?")
    return Section("Resolution", (*blocks, asked), "resolution")


def over_in_words(account: Account, moments: Moments) -> Text | None:
    """When requests were as usual again; None where none is known to have been hurt."""
    impact = account.impact
    if impact is None or not impact.hurt:
        return None
    if moments.over_ns is not None:
        when = apart(account.onset_ns, moments.over_ns, "the onset")
        return Text(f"Requests were as usual again from {at(account, moments.over_ns)} on, {when}.", (sources.REQUESTS,))
    last = at(account, impact.steps[-1].end_ns)
    return Text(f"The telemetry ends at {last}, before requests were as usual again.", (sources.REQUESTS,))


def _over(account: Account, moments: Moments) -> Iterator[Text]:
    over = over_in_words(account, moments)
    if over is not None:
        yield over
    if moments.ended_ns is not None:
        when = apart(account.onset_ns, moments.ended_ns, "the onset")
        yield Text(f"The last alert ended at {at(account, moments.ended_ns)}, {when}.", (sources.ALERTS,))
    elif account.alerts:
        firing = sum(alert.ends_ns is None for alert in moments.alerts)
        yield Text(f"{firing} of {len(moments.alerts)} alerts had not ended when this was written.", (sources.ALERTS,))
    elif moments.alerts:
        yield Text("When the alerts ended is not in the telemetry.", (sources.ALERTS,))


def _after(account: Account, moments: Moments) -> Iterator[Block]:
    """Changes after the onset: one of them may have ended it."""
    if not moments.after:
        return
    shown = moments.after[:_MOST_CHANGES]
    more = f" (the first {len(shown)} of {len(moments.after)})" if len(shown) < len(moments.after) else ""
    yield Text(f"Changes after the onset{more}:", (sources.EVENTS,))
    yield Bullets(tuple(Text(changed_in_words(account, change), (sources.EVENTS,)) for change in shown))
