"""Contributing factors and trigger: what the cause was, who says so, what was changed before, and what speaks for it."""

from __future__ import annotations

from collections.abc import Iterator

from rca.documents.model import Block, Bullets, Question, Section, Text
from rca.drawing.foreign import name_of, plain
from rca.postmortem import sources
from rca.postmortem.account import Account
from rca.postmortem.moments import Change, Moments
from rca.postmortem.words import apart, at, cause_of, nobody_in_words, said_by
from rca.report import path_of
from rca.wording import count, seconds

_MOST_CHANGES = 8


def causes_section(account: Account, moments: Moments) -> Section:
    blocks: list[Block] = [*_cause(account), *_trigger(account, moments), *_evidence(account), *_path(account)]
    asked = [Question("Why could this happen, and why did nothing stop it before it reached users? What made it worse?")]
    return Section("Contributing factors and trigger", (*blocks, *asked), "causes")


def cause_in_words(account: Account) -> Text:
    """What the cause was, as far as anybody knows."""
    told = "; ".join(
        dict.fromkeys(f"{cause_of(label)}, {said_by(label)}" for label in account.labels if label.entity is not None)
    )
    if told:
        return Text(f"The cause{' was' if len(account.causes) == 1 else 's were'} {told}.", (sources.LABELS,))
    if account.incident.is_no_fault():
        by = ", ".join(dict.fromkeys(map(said_by, account.labels)))
        return Text(f"Nobody is to blame: {nobody_in_words(account)} ({by}).", (sources.LABELS,))
    if account.report.leader is None:
        why = (
            "nothing stands out in the telemetry"
            if account.report.ranking.candidates
            else "there is no telemetry to tell it from"
        )
        return Text(f"The cause is not known: {why}.", (sources.RANKING,))
    return Text(f"Nobody has confirmed a cause. {plain(account.report.confidence.words)}", (sources.RANKING,))


def _cause(account: Account) -> Iterator[Block]:
    yield cause_in_words(account)
    disputed = [label for label in account.incident.labels if label.provenance == "disputed"]
    for label in disputed:
        yield Text(f"Disputed: that it was {plain(label.name(), 80)}.", (sources.LABELS,))
    notes = [plain(label.note) for label in account.labels if label.note]
    for note in dict.fromkeys(notes):
        yield Text(f"Note beside the label: {note}", (sources.LABELS,))
    if not account.labels:
        name = account.report.leader
        guess = f"Was it {name_of(name)}?" if name is not None else "What was the cause?"
        how = f" rca incidents label {account.origin.name} KIND:NAME --fault FAULT writes it down."
        yield Question(guess + (how if account.origin.kind == "store" else ""))


def _trigger(account: Account, moments: Moments) -> Iterator[Block]:
    back = seconds((account.onset_ns - moments.looked_back_ns) / 1e9)
    if account.telemetry.events.is_empty():
        yield Text("The telemetry has no event: either nothing was changed, or events were not collected.", (sources.GAPS,))
        yield Question("What was changed before it began: releases, settings, data, traffic, infrastructure?")
    elif not moments.before:
        yield Text(f"No change was recorded in the {back} before the onset or with it.", (sources.EVENTS,))
    else:
        shown = moments.before[-_MOST_CHANGES:]
        left = len(moments.before) - len(shown)
        rest = f", of which the last {len(shown)} stand here" if left else ""
        yield Text(f"{count(len(moments.before), 'change')} came before the onset or with it{rest}:", (sources.EVENTS,))
        yield Bullets(tuple(Text(changed_in_words(account, change), (sources.EVENTS,)) for change in shown))


def changed_in_words(account: Account, change: Change) -> str:
    """A change with its time, and what it says of itself."""
    when = apart(account.onset_ns, change.at_ns, "the onset")
    said = f": {plain(change.message, 160)}" if change.message else ""
    return f"{at(account, change.at_ns)}, {when}: {plain(change.reason, 64)} on {name_of(change.entity)}{said}"


def _evidence(account: Account) -> Iterator[Block]:
    evidence = sources.evidence_of(account)
    cause = account.cause
    if cause is None:
        return
    if not evidence:
        yield Text(f"No signal of {name_of(cause)} strays from quiet times.", (sources.SIGNALS,))
        return
    yield Text(f"What speaks for {name_of(cause)}:", (sources.SIGNALS,))
    yield Bullets(tuple(Text(plain(item.statement), (sources.SIGNALS,)) for item in evidence))
    traces = sources.trace_ids(account)
    if traces:
        yield Text(f"Traces that show it: {', '.join(plain(trace, 40) for trace in traces)}.", (sources.TRACES,))


def _path(account: Account) -> Iterator[Block]:
    cause = account.cause
    if cause is None or cause not in account.case.graph.rows:
        return
    alerting = [entity.entity() for entity in account.incident.alerting]
    path = path_of(account.case.graph, alerting, cause)
    if len(path.entities) > 1:
        start = "what alerted" if path.noticed_by == "alert" else "the entry"
        yield Text(f"From {start} to the cause: {plain(path.words)}.", (sources.MAP,))
