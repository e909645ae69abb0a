"""Impact: who was affected, from when to when, how much, and what of the error budget that burnt."""

from __future__ import annotations

from collections.abc import Iterator

from rca.documents.model import Block, Question, Section, Table, Text
from rca.drawing.foreign import plain
from rca.postmortem import sources
from rca.postmortem.account import Account, Objective
from rca.postmortem.impact import Impact, Served, expected, readers_of
from rca.postmortem.words import at, named, share
from rca.wording import count, number, percent, seconds

_MOST_ROWS = 8


def impact_section(account: Account) -> Section:
    impact = account.impact
    if impact is None:
        blocks: tuple[Block, ...] = (
            Text(
                "The telemetry does not tell which requests enter the system, so it does not say how many failed.",
                (sources.GAPS,),
            ),
            Question("Who was affected, from when to when, and how many requests failed or were slow?"),
        )
    else:
        blocks = (*_told(account, impact), _table(impact), *_budget(account, impact))
    asked = Question("What did it mean for people: which customers, how many, lost data, lost money, promises broken?")
    return Section("Impact", (*blocks, asked), "impact")


def _told(account: Account, impact: Impact) -> Iterator[Text]:
    cited = (sources.REQUESTS,)
    yield Text(f"Requests enter the system at {named(impact.entries)}. {_traffic(impact)}", cited)
    yield Text(failed_in_words(impact), cited)
    slow = slow_in_words(impact)
    if slow:
        yield Text(slow, cited)
    if impact.counted == "metrics":
        words = (
            "These are estimates from rates of metrics, which lag: there are no spans to count, nor to tell how many were slow."
        )
        yield Text(words, cited)
    yield Text(hurt_in_words(account, impact), cited)
    readers = [entity for entity in readers_of(account.case) if entity not in impact.entries]
    if readers:
        words = (
            f"What {named(readers)} does behind a queue is no request that enters: what of it was late or undone is not counted."
        )
        yield Text(words, cited)


def _traffic(impact: Impact) -> str:
    now, before = impact.rates
    if now is None:
        return ""
    usual = f", {number(before)} a second before" if before is not None else ""
    return f"It got {count(impact.requests[0], 'request')} in {seconds(impact.seconds[0])}: {number(now)} a second{usual}."


def failed_in_words(impact: Impact) -> str:
    """Failures against the baseline."""
    failed, requests = impact.failed, impact.requests
    usual = expected(failed, requests)
    if not failed[0]:
        return f"No request failed, where the baseline's share would give {number(usual)}." if usual else "No request failed."
    against = "; no baseline says what is usual" if usual is None else f", where the baseline's share would give {number(usual)}"
    chance = ": that may be chance" if usual is not None and not impact.more_failed else ""
    return f"Failed: {share(failed[0], requests[0])}{against}{chance}."


def slow_in_words(impact: Impact) -> str:
    """Slow requests against the baseline; empty where nobody can say what is slow."""
    if impact.slow is None:
        return ""
    usual = expected(impact.slow, impact.judged) or 0.0
    chance = ": that may be chance" if impact.slow[0] > usual and not impact.more_slow else ""
    told = f"Slow: {share(impact.slow[0], impact.judged[0])}, where the baseline's share would give {number(usual)}{chance}."
    return f"{told} Slow means longer than 99 % of the same operation's requests in the baseline took."


def hurt_in_words(account: Account, impact: Impact) -> str:
    """From when to when."""
    rule = "a larger share of requests failed or were slow than in any step of the baseline, and more than chance explains"
    hurt = impact.hurt
    if not impact.requests[1]:
        return "Without a baseline nothing says from when to when requests were worse than usual."
    if not hurt:
        return f"Not affected: there is no step of {_step(impact)} of which {rule} (once in a thousand steps)."
    first, last = hurt[0], hurt[-1]
    steps = sum(first.start_ns <= step.start_ns <= last.start_ns for step in impact.steps)
    of = count(steps, "step")
    told = f"Affected from {at(account, first.start_ns)} to {at(account, last.end_ns)}: {len(hurt)} of {of} of {_step(impact)}. "
    told += f"A step counts if {rule} (once in a thousand steps)."
    ends = " The telemetry ends there, so it may have gone on." if last is impact.steps[-1] else ""
    return told + ends


def _step(impact: Impact) -> str:
    return seconds(impact.steps[0].length_ns / 1e9)


def _table(impact: Impact) -> Table:
    shown = impact.operations[:_MOST_ROWS]
    left = len(impact.operations) - len(shown)
    rest = f"; {count(left, 'operation')} that suffered less are left out" if left else ""
    several = len(impact.entries) > 1
    return Table(
        header=("Operation", "Requests", "Failed", "before", "Slow", "before", "Median", "before"),
        rows=tuple(_row(served, several=several) for served in shown),
        caption=f"What {named(impact.entries)} served, the most affected first{rest}",
        align=("left", *("right" for _ in range(7))),  # type: ignore[arg-type]
        cites=(sources.REQUESTS,),
    )


def _row(served: Served, *, several: bool) -> tuple[str, ...]:
    failed = tuple(_share(bad, of) for bad, of in zip(served.failed, served.requests, strict=True))
    slow = tuple(_share(bad, of) for bad, of in zip(served.slow, served.requests, strict=True)) if served.slow else ("?", "?")
    medians = tuple(seconds(value) if value is not None else "?" for value in served.median_s)
    name = plain(served.operation, 80)
    return (f"{named([served.service])} {name}" if several else name, number(served.requests[0]), *failed, *slow, *medians)


def _share(bad: float, of: float) -> str:
    return percent(bad / of) if of else "?"


def _budget(account: Account, impact: Impact) -> Iterator[Block]:
    objective = account.objective
    if objective is None:
        words = "Which objective has the service, and how much of its error budget did this burn?"
        yield Question(f"{words} rca postmortem --objective 99.9 computes it for 30 days.")
        return
    yield Text(_burnt(objective, impact), (sources.REQUESTS, sources.OBJECTIVE))
    if not impact.rates[1]:
        yield Question("How many requests come in the time of the objective? The telemetry has no baseline to tell it from.")


def _burnt(objective: Objective, impact: Impact) -> str:
    stated = f"{100 * objective.share:g} % over {objective.days} days"
    if not impact.failed[0]:
        return f"No request failed, so nothing of the error budget of {stated} burnt; slow requests do not count here."
    failed = impact.failed[0] / impact.requests[0]
    pace = number(failed / objective.allowed)
    allowed = f"{100 * objective.allowed:.3g} %"
    told = f"An objective of {stated} lets {allowed} of the requests fail; {percent(failed)} did, {pace} times that."
    rate = impact.rates[1]
    if not rate:
        return told
    budget = objective.allowed * rate * objective.days * 86400
    burnt = f"the {number(impact.failed[0])} of the window are {percent(impact.failed[0] / budget)} of that"
    all_of_it = f"{objective.days} days allow {count(budget, 'failed request')}: {burnt}. Slow requests do not count here."
    return f"{told} At the {number(rate)} requests a second of the baseline, {all_of_it}"
