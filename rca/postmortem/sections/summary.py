"""Summary: the whole incident in a few sentences."""

from __future__ import annotations

from collections.abc import Iterator

from rca.documents.model import Bullets, Question, Section, Text
from rca.drawing.foreign import name_of, plain
from rca.postmortem import sources
from rca.postmortem.account import Account
from rca.postmortem.moments import Moments
from rca.postmortem.sections.answers import judged_in_words
from rca.postmortem.sections.causes import cause_in_words
from rca.postmortem.sections.detection import first_alert_in_words, onset_in_words
from rca.postmortem.sections.resolution import over_in_words
from rca.postmortem.words import apart, at, named, share


def summary_section(account: Account, moments: Moments) -> Section:
    asked = Question("In two sentences for somebody who was not there: what happened, and what was it like for users?")
    return Section("Summary", (Bullets(tuple(_told(account, moments))), asked), "summary")


def _told(account: Account, moments: Moments) -> Iterator[Text]:
    yield _hurt(account)
    yield cause_in_words(account)
    if moments.trigger is not None:
        change = moments.trigger
        words = f"{plain(change.reason, 64)} on {name_of(change.entity)}, {apart(account.onset_ns, change.at_ns, 'the onset')}"
        yield Text(f"Changed before it or with it: {words}.", (sources.EVENTS,))
    yield onset_in_words(account, moments)
    yield first_alert_in_words(account, moments)
    over = over_in_words(account, moments)
    if over is not None and account.impact is not None and (account.impact.more_failed or account.impact.more_slow):
        yield over
    yield judged_in_words(account, moments)


def _hurt(account: Account) -> Text:
    impact = account.impact
    if impact is None:
        return Text("How many requests were affected is not in the telemetry.", (sources.GAPS,))
    where, hurt = named(impact.entries), impact.hurt
    if not impact.requests[1]:
        failed = share(impact.failed[0], impact.requests[0])
        words = f"Of the requests to {where} in the window {failed} failed; no baseline says what is usual."
        return Text(words, (sources.REQUESTS,))
    parts = [f"{share(impact.failed[0], impact.requests[0])} failed"] if impact.more_failed else []
    parts += [f"{share(impact.slow[0], impact.judged[0])} were slow"] if impact.more_slow and impact.slow is not None else []
    if not parts:
        words = f"Requests to {where} neither failed nor were slow more often than chance explains."
        return Text(words, (sources.REQUESTS,))
    when = (
        f"; more than usual were affected from {at(account, hurt[0].start_ns)} to {at(account, hurt[-1].end_ns)}" if hurt else ""
    )
    return Text(f"Of the requests to {where} in the window {' and '.join(parts)}{when}.", (sources.REQUESTS,))
