"""What rca said when, and whether it was right."""

from __future__ import annotations

from collections.abc import Iterator

from rca.documents.model import Block, Section, Table, Text
from rca.drawing.foreign import name_of, plain
from rca.postmortem import sources
from rca.postmortem.account import Account, Answer
from rca.postmortem.moments import Moments
from rca.postmortem.words import apart, at
from rca.ranking import Ranking
from rca.report import others_of
from rca.telemetry import EntityId
from rca.wording import listed, probability

_VERDICTS = {True: "yes", False: "no", None: "not known"}


def answers_section(account: Account, moments: Moments) -> Section:
    blocks: list[Block] = [judged_in_words(account, moments)]
    if account.answers:
        blocks.append(_table(account))
        blocks += _messages(account)
    else:
        of_bundle = "A bundle does not hold what rca serve said while it lasted"
        why = of_bundle if account.origin.kind == "bundle" else "rca serve did not hear of this incident"
        blocks.append(Text(f"{why}: the only answer is the one made for this document.", (sources.INCIDENT,)))
    blocks.append(_candidates(account))
    return Section("What rca said, and whether it was right", tuple(blocks), "answers")


def judged_in_words(account: Account, moments: Moments) -> Text:
    """How the answers stand to the labels."""
    now = account.report
    if not account.labels:
        return Text("Whether rca was right cannot be judged: nobody has labelled the cause.", (sources.LABELS,))
    cited: tuple[str, ...] = (sources.RANKING, sources.LABELS)
    first = moments.first_right
    while_it_lasted = ""
    if account.answers:
        while_it_lasted = "rca serve did not name it while it lasted. "
        if first is not None and account.heard_ns is not None:
            when = apart(account.heard_ns, first.at_ns, "the first alert had arrived")
            while_it_lasted = f"rca serve was right {when}. "
        cited = (sources.ANSWERS, *cited)
    return Text(f"{while_it_lasted}{_now(account, now.leader, now.ranking)}", cited)


def _now(account: Account, leader: EntityId | None, ranking: Ranking) -> str:
    """How the ranking made for the document stands to the labels."""
    right = account.is_right(leader, ranking)
    first = ranking.candidates[0] if ranking.candidates else None
    if first is None:
        return "Asked for this document, rca had nothing to rank."
    if account.incident.is_no_fault():
        if leader is None:
            return "Asked for this document, rca is right: nothing stands out."
        said = f"{name_of(leader)} first with {probability(first.probability)}, no fault {probability(ranking.no_fault)}"
        return f"Asked for this document, rca is {'right' if right else 'wrong'}: {said}."
    if right and leader is not None:
        return f"Asked for this document, rca is right: {name_of(leader)} comes first with {probability(first.probability)}."
    total = len(ranking.candidates)
    places = [
        f"{name_of(cause)} is {f'number {rank} of {total}' if rank else 'no candidate'}"
        for cause in account.causes
        for rank in [ranking.rank_of(cause)]
    ]
    blamed = (
        f"{name_of(leader)} comes first with {probability(first.probability)}" if leader is not None else "nothing stands out"
    )
    return f"Asked for this document, rca is wrong: {blamed}, {listed(places, 4)}."


def _table(account: Account) -> Table:
    rows = tuple(_row(account, answer) for answer in account.answers)
    return Table(
        ("Revision", "When", "After the first alert arrived", "Answer", "Right", "Ranked by"),
        rows,
        "What rca serve said",
        cites=(sources.ANSWERS, *((sources.LABELS,) if account.labels else ())),
    )


def _row(account: Account, answer: Answer) -> tuple[str, ...]:
    right = _VERDICTS[account.is_right(answer.leader, answer.ranking)]
    after = apart(account.heard_ns, answer.at_ns, "it") if account.heard_ns is not None else ""
    over = ", resolved" if answer.state == "resolved" else ""
    said = answered_in_words(answer)
    return (
        f"{answer.revision}{over}",
        at(account, answer.at_ns),
        after.removesuffix(" after it"),
        said,
        right,
        plain(answer.model, 64) or "-",
    )


def answered_in_words(answer: Answer) -> str:
    """What an answer named, and how sure it was."""
    if answer.ranking is None:
        return f"no ranking: {plain(answer.trouble, 160) or 'the reason was not recorded'}"
    if answer.leader is None or not answer.ranking.candidates:
        return "nothing stands out"
    return f"{name_of(answer.leader)} {probability(answer.ranking.candidates[0].probability)}"


def _messages(account: Account) -> Iterator[Text]:
    """Who was told, and who was not."""
    for answer in account.answers:
        sent = [f"{plain(one.sink, 64)} at {at(account, one.sent_ns)}" for one in answer.messages if one.sent_ns is not None]
        if sent:
            yield Text(f"Revision {answer.revision} was told to {listed(sent, 6)}.", (sources.ANSWERS,))
        for one in answer.messages:
            if one.sent_ns is None:
                why = f": {plain(one.trouble, 200)}" if one.trouble else ""
                yield Text(f"Revision {answer.revision} did not reach {plain(one.sink, 64)}{why}.", (sources.ANSWERS,))


def _candidates(account: Account) -> Block:
    ranking = account.report.ranking
    if account.report.leader is None:
        return Text(account.report.confidence.words, (sources.RANKING,))
    rows = tuple(
        (
            str(one.rank),
            name_of(one.entity) + (" (labelled cause)" if one.entity in account.causes else ""),
            probability(one.probability),
            one.fault_family if one.evidence and one.fault_family else "-",
            plain(one.evidence[0].statement, 160) if one.evidence else "nothing strays",
        )
        for one in ranking.candidates[:5]
    )
    more = f"; {len(ranking.candidates) - 5} more candidates" if len(ranking.candidates) > 5 else ""
    others = "".join(f"; {words}" for words in others_of(ranking))
    caption = f"The ranking made for this document by {plain(ranking.ranker, 64)}{more}{others}"
    return Table(
        ("#", "Candidate", "Probability", "Looks like", "Strongest evidence"),
        rows,
        caption,
        ("right", "left", "right", "left", "left"),
        (sources.RANKING,),
    )
