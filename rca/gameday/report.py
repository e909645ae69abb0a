"""The report of a game day: a document of what was injected, what the tool, people and simple rules made of it, and what is open.

Every sentence and every table is made of the scores and of the game day's folder, and cites them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from rca.documents.model import Align, Block, Bullets, Document, Figure, Question, Section, Source, Table, Text
from rca.faults import FAULT_KINDS
from rca.gameday import figures
from rca.gameday.folder import GameDay
from rca.gameday.replay import BLAMING
from rca.gameday.scores import Figure as Number
from rca.gameday.scores import InjectionScore, Person, Point, RankerScore, Said, Scores
from rca.settings import duration_text
from rca.telemetry import SECOND_NS
from rca.wording import clock, count, listed, number, probability, seconds

Rows = tuple[tuple[str, ...], Sequence[tuple[str, ...]]]
"""Head and rows of a table."""

_SCORES: Final = ("scores",)
_JOURNAL: Final = ("journal",)
_FEW: Final = 30
"""Injections below which the report says that they are few."""
_FLOOR: Final = "floor"
_COUNTS: Final = {
    "not collected": "was not collected",
    "unlabelled": "counts for nothing",
    "nobody": "nobody to blame",
    "scored": "counts",
}
_TITLES: Final = {"ac1": "first", "ac3": "top 3", "ac5": "top 5"}
_MOST_LISTED: Final = 20


def report_of(game: GameDay, scores: Scores) -> Document:
    """The report of a game day with its scores."""
    parts = (_summary, lambda one: _plan(game, one), _injections, _accuracy, _minutes, _calibration, _kinds)
    return Document(
        title=f"Game day {game.name}",
        subtitle=_subtitle(scores),
        sections=tuple(part(scores) for part in (*parts, _people, _false_alarms, _resolve, _gaps, _lessons)),
        facts=tuple(_facts(game, scores)),
        sources=tuple(_sources(scores)),
    )


# --- the beginning ----------------------------------------------------------------------------------------------------


def _subtitle(scores: Scores) -> str:
    began = [one.start_ns for one in scores.injections]
    when = f"{clock(min(began), date=True)[:10]}, " if began else ""
    return f"{when}{count(len(scores.injections), 'injection')}, {_state(scores)}"


def _state(scores: Scores) -> str:
    return scores.state + (f" ({scores.why})" if scores.why else "")


def _facts(game: GameDay, scores: Scores) -> Iterator[tuple[str, str]]:
    if scores.injections:
        first, last = _first_and_last(scores)
        yield "When", f"{clock(first, date=True)} to {clock(last, date=_takes_days(scores))} UTC"
        yield "Injected by", ", ".join(sorted({one.source for one in scores.injections}))
    yield "State", _state(scores)
    yield "Model in use", scores.in_use.label
    yield "Scored", f"{len(scores.standing('scored'))} of {count(len(scores.injections), 'injection')}"
    if game.plan is not None:
        yield "Plan", f"{game.plan.name}, {count(len(game.plan.injection), 'injection')}, seed {game.plan.seed}"
    yield "Made with", scores.settings.made_with


def _first_and_last(scores: Scores) -> tuple[int, int]:
    """When the first injection began, and when the last one ended."""
    ends = [one.end_ns or one.start_ns for one in scores.injections]
    return min(one.start_ns for one in scores.injections), max(ends)


def _takes_days(scores: Scores) -> bool:
    """Whether times of day alone would be ambiguous."""
    first, last = (clock(time_ns, date=True)[:10] for time_ns in _first_and_last(scores))
    return first != last


def _summary(scores: Scores) -> Section:
    blocks = [Text(" ".join(_headline(scores)), _SCORES)]
    few, counted = _few(len(scores.standing("scored"))), " ".join(_counted(scores))
    blocks += [Text(words, _SCORES) for words in (few, counted) if words]
    return Section("Summary", tuple(blocks), "summary")


def in_short(scores: Scores) -> str:
    """The summary as a paragraph."""
    return " ".join([*_headline(scores), *_counted(scores)])


def _headline(scores: Scores) -> Iterator[str]:
    tool, scored = scores.in_use, scores.standing("scored")
    if not scored:
        yield "No injection of this game day can be scored, so it says nothing about how often the tool is right."
        return
    yield (
        f"When the incident was over, the tool had named the cause first for {_of(tool.accuracy['ac1'], ' injected faults')}"
        f"{_soon(scores)}."
    )
    best, quiet = best_rule(scores), _quiet_words(tool)
    if best is None:
        yield f"{quiet[:1].upper()}{quiet[1:]}."
    else:
        yield f"The best of the simple rules beside it, {best.label}, had for {_of(best.accuracy['ac1'])}; {quiet}."


def _soon(scores: Scores) -> str:
    minutes = scores.in_use.settled.value
    if minutes is None:
        return ""
    if minutes <= 0:
        return ", in half of these at once"
    since = "being noticed" if any(one.counted_from == "injection" for one in scores.standing("scored")) else "the first alert"
    return f", in half of these within {seconds(minutes * 60)} of {since}"


def _quiet_words(tool: RankerScore) -> str:
    if not tool.quiet.n:
        return "whether it blames somebody while nothing is wrong was not measured"
    asked = {1: "once", 2: "twice"}.get(tool.quiet.n, f"{tool.quiet.n} times")
    return f"asked {asked} while nothing was wrong, the tool blamed {_times(tool.quiet)}"


def _times(figure: Number) -> str:
    hits = _count(figure)
    return {0: "nobody", 1: "somebody once", 2: "somebody twice"}.get(hits, f"somebody {hits} times")


def best_rule(scores: Scores) -> RankerScore | None:
    """The rule, beside the label-free score, that did best after the fact on the same injections; the first of equals."""
    rules = [ranker for ranker in scores.rankers if ranker.role == "baseline" and ranker.label != _FLOOR]
    return max(rules, key=lambda rule: (rule.accuracy["ac1"].value or 0.0, rule.accuracy["mrr"].value or 0.0), default=None)


def _few(n: int) -> str:
    if not 0 < n < _FEW:
        return ""
    return (
        f"These are few: of {count(n, 'injection')}, one that is right or wrong by chance moves a share by {probability(1 / n)}. "
        "Differences that lie within the intervals say nothing."
    )


def _counted(scores: Scores) -> Iterator[str]:
    """What is not among the faults that count, so that nothing vanishes."""
    lost, unknown, nobody = (scores.standing(how) for how in ("not collected", "unlabelled", "nobody"))
    if lost:
        whole = _of(scores.in_use.with_uncollected)
        yield f"{_were(len(lost), 'injection')} not collected; counted as wrong, this makes {whole}."
    if unknown:
        yield f"{_were(len(unknown), 'injection')} left out, for nobody knows who is to blame."
    if nobody:
        yield f"{_were(len(nobody), 'injection')} of a kind that nobody is to blame for, which tells of false alarms alone."


def _were(n: int, noun: str) -> str:
    return f"{count(n, noun)} {'was' if n == 1 else 'were'}"


# --- plan and injections ----------------------------------------------------------------------------------------------


def _plan(game: GameDay, scores: Scores) -> Section:
    blocks: list[Block] = [Text(words, _JOURNAL) for words in _planned(game, scores)]
    if scores.injections:
        header = ("#", "fault", "target", "strength", "began (UTC)", "lasted", "first alert", "how it counts")
        align: tuple[Align, ...] = ("right", "left", "left", "right", "left", "right", "right", "left")
        rows = tuple(_done_row(one, dated=_takes_days(scores)) for one in scores.injections)
        blocks.append(Table(header, rows, "What was injected", align, _JOURNAL))
    return Section("Plan and what was done", tuple(blocks), "plan")


def _planned(game: GameDay, scores: Scores) -> Iterator[str]:
    plan, done = game.plan, len(scores.injections)
    if plan is None:
        yield f"There is no plan: {_were(done, 'injection')} recorded as another tool made them."
    else:
        quiet = f"a quiet watch of {duration_text(plan.quiet)} and " if plan.quiet else ""
        planned = len(plan.injection)
        yield (
            f"The plan has {count(planned, 'injection')} in {plan.order} order, of {duration_text(plan.lasting)} each unless "
            f"it says otherwise, after {duration_text(plan.settle)} to settle, {quiet}a baseline of "
            f"{duration_text(plan.baseline)}. "
            + ("All were injected." if done == planned else f"{done} of {planned} were injected.")
        )
    yield f"The game day is {_state(scores)}."


def _done_row(one: InjectionScore, *, dated: bool) -> tuple[str, ...]:
    return (
        str(one.number),
        fault(one.fault_kind),
        one.target or "everything",
        "" if one.strength is None else number(one.strength),
        clock(one.start_ns, date=dated),
        seconds((one.end_ns - one.start_ns) / SECOND_NS) if one.end_ns else "not known",
        _noticed(one),
        "; ".join(filter(None, [": ".join(filter(None, [_COUNTS[one.standing], one.trouble])), _overlaps(one)])),
    )


def _noticed(one: InjectionScore) -> str:
    if one.counted_from == "alert":
        return f"after {seconds(round((one.from_ns - one.start_ns) / SECOND_NS))}"
    return "" if one.standing in ("not collected", "unlabelled") else "none"


def _overlaps(one: InjectionScore) -> str:
    return f"overlaps {listed(one.overlapping, 5)}: any of their causes is right" if one.overlapping else ""


def fault(kind: str) -> str:
    """A fault kind for people."""
    return FAULT_KINDS[kind].title if kind in FAULT_KINDS else kind


def _injections(scores: Scores) -> Section:
    lag = number(scores.settings.lag_s)
    words = (
        "What the model in use says when it is asked again and again from the first alert on, or from the injection where no "
        f"alert fired. It sees only what had been recorded by then, and leaves out the last {lag} s, for telemetry arrives "
        "late. A minute stands before every change of its first candidate or of its certainty."
    )
    label = scores.in_use.label
    asked = [one for one in scores.injections if one.said.get(label)]
    if not asked:
        return Section("What the tool said and when", (Text("It was asked about no injection."),), "injections")
    header = ("#", "injected", "what the tool said", "right from")
    rows = tuple((str(one.number), _injected(one), told(one.said[label]), _right_from(one, label)) for one in asked)
    align: tuple[Align, ...] = ("right", "left", "left", "left")
    table = Table(header, rows, "What the tool said and when", align, _SCORES)
    return Section("What the tool said and when", (Text(words), table), "injections")


def injections_table(scores: Scores) -> Rows:
    """What the model in use said about every injection, first and last."""
    label = scores.in_use.label
    rows = []
    for one in scores.injections:
        said = one.said.get(label, ())
        ends = (_answer(said[0]), _answer(said[-1]), _right_from(one, label)) if said else ("", "", _COUNTS[one.standing])
        rows.append((str(one.number), _injected(one), *ends))
    return ("#", "injected", "at first", "in the end", "right from"), rows


def _injected(one: InjectionScore) -> str:
    return f"{fault(one.fault_kind)}: {', '.join(map(named, one.causes)) or 'nobody to blame'}"


def _right_from(one: InjectionScore, label: str) -> str:
    if one.standing != "scored":
        return "blamed somebody" if any(said.level in BLAMING for said in one.said[label]) else "blamed nobody"
    minute = one.settled_minute[label]
    return f"never ({_stood(one.said[label][-1])})" if minute is None else f"minute {_plain(minute)}"


def _stood(last: Said) -> str:
    """Where the cause stood in an answer that was wrong; a tie is no first place."""
    return f"place {last.rank}" if last.rank else "no candidate"


def told(said: Sequence[Said]) -> str:
    """What was said over time, a clause for every change."""
    clauses: list[str] = []
    before: tuple[object, ...] | None = None
    for answer in said:
        now = (answer.first[0].entity if answer.first else "", answer.level, answer.right, answer.failure)
        if now != before:
            clauses.append(f"{_plain(answer.minute)}: {_answer(answer)}")
        before = now
    return "; ".join(clauses)


def _answer(said: Said) -> str:
    if said.failure:
        return f"no answer ({said.failure})"
    if said.level == "nothing" or not said.first:
        return "nothing stands out"
    right = {True: ", right", False: ", wrong", None: ""}[said.right]
    return f"{named(said.first[0].entity)} ({said.level}, {probability(said.first[0].probability)}{right})"


def named(entity: str) -> str:
    """An entity for people: its name, and its kind unless it is a service."""
    kind, _, name = entity.partition(":")
    return name if kind == "service" else f"{kind} {name}"


# --- numbers ----------------------------------------------------------------------------------------------------------


def _accuracy(scores: Scores) -> Section:
    n = len(scores.standing("scored"))
    if not n:
        return Section("How often it was right", (Text("No injection can be scored, so there is no accuracy."),), "accuracy")
    blocks: list[Block] = [
        Text(
            "The answer that stood when the incident was over is counted. Ties count against the ranker. In brackets stand 95 % "
            "intervals, in which repetitions of one injection count as one."
        ),
        _table(accuracy_table(scores), f"Where the cause of {count(n, 'injection')} stood", _SCORES),
        _table(_differences(scores), "The same with times known, and the model in use beside each", _SCORES),
        Text(
            "Times known: of the recorded window, which begins with the fault, as rca evaluate measures it. Everything else "
            "here had to find the beginning by itself. The difference is of the shares right first above, on the same injections."
        ),
    ]
    blocks += [Text(f"{ranker.label}: {ranker.note}.") for ranker in scores.rankers if ranker.note]
    failed = [f"{ranker.label} {count(ranker.failures, 'time')}" for ranker in scores.rankers if ranker.failures]
    if failed:
        blocks.append(Text(f"No answer, which counts as wrong: {', '.join(failed)}.", _SCORES))
    return Section("How often it was right", tuple(blocks), "accuracy")


def accuracy_table(scores: Scores) -> Rows:
    """Accuracy of every ranker in the end, and what chance would reach."""
    rows = [
        (ranker.label, *(share_words(ranker.accuracy[key]) for key in _TITLES), _measure(ranker.accuracy["mrr"]))
        for ranker in scores.rankers
    ]
    chance = scores.in_use.chance
    if any(value is not None for value in chance.values()):
        shuffled = [probability(chance[key] or 0.0) for key in _TITLES]
        rows.append(("candidates shuffled", *shuffled, f"{chance['mrr']:.2f}"))
    return ("ranker", *_TITLES.values(), "MRR"), rows


def _differences(scores: Scores) -> Rows:
    rows = [
        (
            f"{ranker.label} ({ranker.role})",
            share_words(ranker.known_window["ac1"]),
            "" if ranker.ahead is None else _points(ranker.ahead),
        )
        for ranker in scores.rankers
    ]
    return ("ranker", "first, times known", "in use minus it, times not known"), rows


def more_table(scores: Scores) -> Rows:
    """What else there is to say of every ranker in a line: how soon, how sure, and how often for nothing."""
    head = ("ranker", "minutes", "ECE", "quiet, blamed", "nobody to blame, blamed")
    rows = [
        (
            one.label,
            _plain(one.settled.value) + _interval(one.settled, _plain, " "),
            _measure(one.calibration.ece),
            hits(one.quiet),
            hits(one.nobody_ever),
        )
        for one in scores.rankers
    ]
    return head, rows


def drawn_rankers(scores: Scores) -> tuple[RankerScore, ...]:
    """Rankers with a line in the figure: the model in use, the label-free score, the best rule, other models, other rules."""
    best = best_rule(scores)
    first = [scores.in_use, *(one for one in scores.rankers if one.label == _FLOOR), *([best] if best else [])]
    others = sorted(scores.rankers, key=lambda one: one.role == "baseline")
    return tuple({one.label: one for one in (*first, *others)}.values())[: figures.MOST_LINES]


def _minutes(scores: Scores) -> Section:
    heading, key = "How soon it was right", "minutes"
    if not scores.standing("scored"):
        return Section(heading, (Text("No injection can be scored, so there is nothing to say about how soon."),), key)
    tool, rankers = scores.in_use, drawn_rankers(scores)
    first, last = tool.curve[0], tool.curve[-1]
    words = (
        f"At the first alert {tool.label} names the cause first in {hits(first.share)}, after {_plain(last.minute)} min in "
        f"{hits(last.share)}. The band is its 95 % interval. An incident that is over keeps its last answer."
    )
    misled = (
        f"Wrong and yet called clear or likely, which sends people astray: {hits(first.misled)} answers at the first alert, "
        f"{hits(last.misled)} in the end."
    )
    curve = figures.curve_of(rankers, words)
    blocks: list[Block] = [
        Figure(figures.drawn_curve(curve), words, "Accuracy against minutes", _SCORES),
        Text(misled, _SCORES),
        _table(_curve_table(rankers, lambda point: point.share), f"Right first at each minute, n = {first.share.n}", _SCORES),
        _table(_curve_table(rankers, lambda point: point.misled), "Wrong and yet called clear or likely", _SCORES),
        _table(_settled_table(rankers), "From when on the answer was right and stayed right", _SCORES),
    ]
    unnoticed = [one.number for one in scores.standing("scored") if one.counted_from == "injection"]
    if unnoticed:
        which = f"injection{'s' if len(unnoticed) > 1 else ''} {listed(unnoticed, _MOST_LISTED)}"
        blocks.append(Text(f"No alert fired for {which}: there, minutes count from the injection.", _SCORES))
    return Section(heading, tuple(blocks), key)


def _curve_table(rankers: Sequence[RankerScore], of: Callable[[Point], Number]) -> Rows:
    rows = [
        (_plain(points[0].minute), *(share_words(of(point)) for point in points))
        for points in zip(*(ranker.curve for ranker in rankers), strict=True)
    ]
    return ("minute", *(ranker.label for ranker in rankers)), rows


def _settled_table(rankers: Sequence[RankerScore]) -> Rows:
    rows = [
        (one.label, f"{one.settled.n} of {one.accuracy['ac1'].n}", _plain(one.settled.value), _interval(one.settled, _plain))
        for one in rankers
    ]
    return ("ranker", "got there", "median minute", "95 % interval"), rows


def _calibration(scores: Scores) -> Section:
    heading, key, tool = "How far its probabilities can be trusted", "calibration", scores.in_use
    if not tool.calibration.bins:
        return Section(heading, (Text("No injection can be scored, so there is nothing to compare probabilities with."),), key)
    words = (
        f"On the diagonal, answers are right as often as they say. {tool.label} is off by {_measure(tool.calibration.ece)} on "
        f"average (expected calibration error, n = {tool.calibration.ece.n}). Beside each point stands how many answers it is "
        "made of; bars are 95 % intervals."
    )
    reliability = figures.reliability_of(tool.calibration.bins, words)
    rows = [(one.label, _measure(one.calibration.ece), _measure(one.calibration.brier)) for one in scores.rankers]
    blocks: list[Block] = [
        Figure(figures.drawn_reliability(reliability), words, "Stated probability and what came true", _SCORES),
        _table((("ranker", "ECE", "Brier"), rows), f"Calibration of {tool.calibration.ece.n} last answers; 0 is best", _SCORES),
    ]
    if _few(tool.calibration.ece.n):
        blocks.append(Text("With so few answers the ECE of a perfect model lies well above 0."))
    return Section(heading, tuple(blocks), key)


def _kinds(scores: Scores) -> Section:
    heading, key = "By fault kind and by service", "kinds"
    if not scores.standing("scored"):
        return Section(heading, (Text("No injection can be scored."),), key)
    best = best_rule(scores)
    compared = [scores.in_use, *([best] if best is not None else [])]
    labels = [ranker.label for ranker in compared]
    parts: tuple[tuple[str, list[dict[str, Number]], Callable[[str], str]], ...] = (
        ("fault kind", [ranker.by_fault_kind for ranker in compared], fault),
        ("service", [ranker.by_service for ranker in compared], _several),
    )
    blocks: list[Block] = []
    for what, tables, title in parts:
        rows = [(title(name), str(tables[0][name].n), *(hits(table[name]) for table in tables)) for name in tables[0]]
        blocks.append(_table(((what, "injections", *labels), rows), f"Right first by {what}", _SCORES))
    blocks.append(Text("A row of one injection is an anecdote and no rate: it has no interval."))
    return Section(heading, tuple(blocks), key)


def _several(entities: str) -> str:
    return ", ".join(named(entity) for entity in entities.split(", "))


def _people(scores: Scores) -> Section:
    heading, key = "People beside the tool", "people"
    if not scores.people:
        words = "Nobody entered a guess (rca gameday guess), so the tool is compared with rules alone."
        return Section(heading, (Text(words),), key)
    blocks = (
        Text(
            "Guesses that were entered on the spot, beside what the model in use said at the moment of the last guess and in the "
            "end, on the injections that the person guessed about.",
            _JOURNAL,
        ),
        _table(people_table(scores), "Right answers of people and of the tool", _SCORES),
        Text("Minutes are medians over the injections in which the answer was right and stayed right."),
    )
    return Section(heading, blocks, key)


def people_table(scores: Scores) -> Rows:
    """Everybody who guessed, beside the model in use."""
    head = ("who", "first guess", "last guess", "tool then", "tool in the end", "minutes", "tool's minutes")
    return head, [_person_row(person) for person in scores.people]


def _person_row(person: Person) -> tuple[str, ...]:
    shares = (person.first, person.last, person.tool_then, person.tool_last)
    return (
        person.who,
        *map(hits, shares),
        *(f"{_plain(one.value)} (n = {one.n})" for one in (person.settled, person.tool_settled)),
    )


def _false_alarms(scores: Scores) -> Section:
    quiet, nobody = scores.quiet, scores.standing("nobody")
    blocks: list[Block] = [
        Text(
            "A false alarm is an answer that calls one candidate clear or likely although nobody is to blame: somebody who "
            "asks would be sent after it. Close calls, answers that are not sure and those in which nothing stands out are none."
        ),
        Text(_watched(scores), _SCORES),
    ]
    if quiet.windows or nobody:
        rows = [(one.label, hits(one.quiet), hits(one.nobody), hits(one.nobody_ever)) for one in scores.rankers]
        head = ("ranker", "quiet windows", "nobody to blame, in the end", "nobody to blame, at any time")
        blocks.append(_table((head, rows), "How often somebody was blamed", _SCORES))
    if nobody:
        kinds = ", ".join(f"{one.number} ({fault(one.fault_kind)})" for one in nobody)
        blocks.append(Text(f"Nobody is to blame for {kinds}.", _SCORES))
    return Section("False alarms", tuple(blocks), "false-alarms")


def _watched(scores: Scores) -> str:
    quiet = scores.quiet
    lost = f" {count(quiet.unrecorded, 'quiet watch')} held too little telemetry to ask about." if quiet.unrecorded else ""
    if not quiet.windows:
        return f"False alarms in quiet times were not measured: there is no quiet watch with telemetry.{lost}"
    return (
        f"It was asked about {count(quiet.windows, 'quiet window')}, {seconds(quiet.seconds)} in all, without an alert, as rca "
        f"triage asks. {'No alert' if not quiet.alerts else count(quiet.alerts, 'alert')} fired in the quiet watches.{lost}"
    )


def _resolve(scores: Scores) -> Section:
    heading, key = "Time to resolve", "resolve"
    timed = [one for one in scores.standing("scored") if one.resolve_minutes is not None]
    if not timed:
        return Section(heading, (Text("Of no injection that counts is it known when it was resolved."),), key)
    fixed = sum(1 for one in timed if one.fixed_ns is not None)
    ended = sum(1 for one in timed if one.fixed_ns is None and one.over_ns is not None)
    rows = [(one.label, _median(one.resolve_right), _median(one.resolve_wrong)) for one in scores.rankers]
    if fixed:
        caution = "Faults differ: what is easy to name may be easy to fix as well. This is no experiment."
    else:
        caution = (
            "The faults ended by themselves, when the plan said so: these times say how long they lasted, and not that an "
            "answer made anything quicker."
        )
    blocks = (
        Text(
            f"From when it was noticed until somebody said that it is fixed ({fixed}), else until its last alert ended "
            f"({ended}), else until the fault was taken back ({len(timed) - fixed - ended}).",
            _SCORES,
        ),
        _table((("ranker", "with a right answer by then", "without"), rows), "Median minutes to resolve", _SCORES),
        Text(caution),
    )
    return Section(heading, blocks, key)


# --- what is open -----------------------------------------------------------------------------------------------------


def _gaps(scores: Scores) -> Section:
    found = tuple(Text(words, _SCORES) for words in _troubles(scores))
    blocks: tuple[Block, ...] = (Bullets(found),) if found else (Text("Nothing that is known of.", _SCORES),)
    return Section("What went wrong", blocks, "gaps")


def _troubles(scores: Scores) -> Iterator[str]:
    if scores.state != "complete":
        yield f"The game day is {_state(scores)}."
    for one in scores.injections:
        what = f"Injection {one.number} ({fault(one.fault_kind)}, {one.target or 'everything'})"
        yield from (f"{what} {words}." for words in _trouble_with(one, scores.in_use.label))
    if not scores.people:
        yield "Nobody entered a guess."
    if not scores.quiet.windows:
        yield "False alarms in quiet times were not measured."


def _trouble_with(one: InjectionScore, label: str) -> Iterator[str]:
    if one.standing in ("not collected", "unlabelled"):
        yield f"{_COUNTS[one.standing]}: {one.trouble}"
    elif one.trouble:
        yield f"had trouble: {one.trouble}"
    if one.overlapping:
        yield f"overlaps {listed(one.overlapping, 5)}, so that whichever of their causes is named counts as right"
    if one.standing != "scored":
        return
    if one.counted_from == "injection":
        yield "raised no alert"
    last = one.last(label)
    if last is not None and not last.right:
        yield f"was answered wrongly in the end: {_answer(last)}; the cause: {_stood(last)}"


def _lessons(scores: Scores) -> Section:
    asks = [
        "What did you learn about the system that you did not know before?",
        "Which alerts came late, or not at all, and who changes them?",
        "Where the tool was wrong: what would you have looked at, and was that recorded?",
        "What would have helped to fix it sooner?",
        "What will be done, by whom and until when? When is the next game day?",
    ]
    if not scores.people:
        asks.insert(2, "Nobody entered a guess: who would have been on call, and what would they have said?")
    return Section("What did you learn?", tuple(Question(words) for words in asks), "lessons")


def _sources(scores: Scores) -> Iterator[Source]:
    name, settings = scores.game_day, scores.settings
    what = "What was injected, guessed and fixed, and when"
    yield Source("journal", what, f"gamedays/{name}/journal.jsonl", (f"rca gameday show {name}",))
    options = [f"--ranker {one.label}" for one in scores.rankers if one.role == "baseline"]
    options += [f"--model FOLDER-OF-{one.label}" for one in scores.rankers if one.role == "model"]
    options += [f"--seed {settings.seed}"] if settings.seed else []
    asked = (
        f"Answers and numbers. Live triage asks with [triage] lag {number(settings.lag_s)} s, lookback "
        f"{seconds(settings.lookback_s)}, baseline {seconds(settings.baseline_s)}; the intervals have seed {settings.seed}"
    )
    again = " ".join(["rca gameday score", name, *options])
    yield Source("scores", asked, f"gamedays/{name}/scores.json", (again,))
    kept = [one.incident_id for one in scores.injections if one.incident_id]
    if kept:
        triage = "\n".join(f"rca triage {incident_id}" for incident_id in dict.fromkeys(kept))
        yield Source("incidents", "The telemetry of the injections, as incidents of the store", "", (triage,))


# --- how numbers are written ------------------------------------------------------------------------------------------


def _table(content: Rows, caption: str, cites: tuple[str, ...]) -> Table:
    """A table whose columns but the first are numbers."""
    header, rows = content
    numbers: list[Align] = ["right"] * (len(header) - 1)
    return Table(header, tuple(rows), caption, ("left", *numbers), cites)


def _count(figure: Number) -> int:
    """Of a share: how many."""
    return round((figure.value or 0.0) * figure.n)


def _of(figure: Number, noun: str = "") -> str:
    """A share with its counts and interval, in a sentence."""
    share = f"{_count(figure)} of {figure.n}{noun} ({probability(figure.value or 0.0)}"
    if figure.low is None or figure.high is None:
        return f"{share})"
    return f"{share}, 95 % interval {probability(figure.low)} to {probability(figure.high)})"


def share_words(figure: Number) -> str:
    """A share in percent with its interval, in a table."""
    return "-" if figure.value is None else probability(figure.value) + _interval(figure, _percent, " ")


def hits(figure: Number) -> str:
    """A share as counts with its interval in percent."""
    if figure.value is None:
        return "none"
    counts = f"{_count(figure)} of {figure.n}"
    return (
        counts if figure.low is None or figure.high is None else f"{counts} [{_percent(figure.low)} to {_percent(figure.high)} %]"
    )


def _points(figure: Number) -> str:
    """A difference of shares in points."""

    def written(value: float) -> str:
        return f"{100 * value:+.0f}"

    return "-" if figure.value is None else f"{written(figure.value)} points{_interval(figure, written, ' ')}"


def _measure(figure: Number) -> str:
    return "-" if figure.value is None else f"{figure.value:.2f}{_interval(figure, lambda value: f'{value:.2f}', ' ')}"


def _median(figure: Number) -> str:
    return "none" if figure.value is None else f"{_plain(figure.value)}{_interval(figure, _plain, ' ')} (n = {figure.n})"


def _percent(share: float) -> str:
    return probability(share).removesuffix(" %")


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}".rstrip("0").rstrip(".")


def _interval(figure: Number, written: Callable[[float], str], before: str = "") -> str:
    return "" if figure.low is None or figure.high is None else f"{before}[{written(figure.low)}, {written(figure.high)}]"
