"""Detection: onset, first alert, first answer, first right answer."""

from __future__ import annotations

from collections.abc import Iterator

from rca.documents.model import Block, Question, Section, Text
from rca.drawing.foreign import name_of, plain
from rca.postmortem import sources
from rca.postmortem.account import Account, Fired
from rca.postmortem.moments import Moments
from rca.postmortem.words import apart, at, named
from rca.telemetry import MINUTE_NS
from rca.wording import count, listed

_LATE_NS = MINUTE_NS


def detection_section(account: Account, moments: Moments) -> Section:
    told = (onset_in_words(account, moments), *_alerts(account, moments), *_answers(account, moments))
    return Section("Detection", (*told, *_questions(account, moments)), "detection")


def onset_in_words(account: Account, moments: Moments) -> Text:
    when = at(account, account.onset_ns)
    if moments.onset_by == "recorded":
        injected = any(label.provenance == "injected" for label in account.labels)
        how = "when the fault was injected" if injected and account.incident.causes() else "as it was written down"
        return Text(f"Onset: {when}, {how}.", (sources.INCIDENT,))
    return Text(f"Onset: taken to be {when}, where the window of the incident begins.", (sources.INCIDENT,))


def first_alert_in_words(account: Account, moments: Moments) -> Text:
    """Who or what noticed first."""
    if moments.alerts:
        return Text(f"First alert: {_alert(account, moments.alerts[0])}.", (sources.ALERTS,))
    noticed = account.incident.detected_ns
    if noticed is not None:
        return Text(f"Noticed at {at(account, noticed)}, {apart(account.onset_ns, noticed, 'the onset')}.", (sources.INCIDENT,))
    return Text("The telemetry has no alert.", (sources.ALERTS,))


def _alert(account: Account, alert: Fired) -> str:
    about = f" on {name_of(alert.about)}" if alert.about is not None else ""
    when = apart(account.onset_ns, alert.starts_ns, "the onset")
    return f"{plain(alert.name, 64) or 'an alert without a name'}{about} at {at(account, alert.starts_ns)}, {when}"


def _alerts(account: Account, moments: Moments) -> Iterator[Text]:
    yield first_alert_in_words(account, moments)
    if len(moments.alerts) > 1:
        entities = {alert.about for alert in moments.alerts if alert.about is not None}
        on = f" on {named(sorted(entities))}" if entities else ""
        last = at(account, moments.alerts[-1].starts_ns)
        yield Text(f"{count(len(moments.alerts), 'alert')} in all{on}, the last to begin at {last}.", (sources.ALERTS,))
    if moments.earlier:
        told = listed([_alert(account, alert) for alert in moments.earlier], 3)
        yield Text(f"In the baseline, so before it and perhaps of something else: {told}.", (sources.ALERTS,))


def _answers(account: Account, moments: Moments) -> Iterator[Text]:
    start = account.heard_ns
    if start is None:
        return
    heard = apart(moments.alerts[0].starts_ns, start, "the first alert began") if moments.alerts else ""
    yield Text(f"The first alert reached rca serve at {at(account, start)}{f', {heard}' if heard else ''}.", (sources.ANSWERS,))
    first, right = moments.first_answer, moments.first_right
    if first is None:
        yield Text("rca serve made no ranking of it.", (sources.ANSWERS,))
        return
    when = f"{at(account, first.at_ns)}, {apart(start, first.at_ns, 'that')}"
    yield Text(f"First ranking: {when}.", (sources.ANSWERS,))
    if right is not None:
        when = f"{at(account, right.at_ns)}, {apart(start, right.at_ns, 'the alert had arrived')}"
        words = f"First right ranking: revision {right.revision} at {when}."
        yield Text(words, (sources.ANSWERS, sources.LABELS))
    elif account.labels:
        yield Text("No ranking was right while it lasted.", (sources.ANSWERS, sources.LABELS))


def _questions(account: Account, moments: Moments) -> Iterator[Block]:
    hurt = account.impact.hurt if account.impact is not None else ()
    if hurt and not moments.alerts:
        yield Question(f"Requests were hurt from {at(account, hurt[0].start_ns)} on and no alert fired: which one should have?")
    elif moments.alerts and moments.alerts[0].starts_ns - account.onset_ns > _LATE_NS:
        yield Question("What would have told of it sooner?")
    yield Question("Who noticed, how, and when did somebody begin to work on it?")
