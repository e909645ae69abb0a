"""The triage report: a ranking with what an engineer needs to judge it. Pure: values in, values and text out.

`report_of` builds it, `TriageReport.to_json` is its machine form (docs/ranking.schema.json), `rendered` its form for people.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt

from rca.contracts import Case
from rca.evidence import MOST_STATEMENTS, Facts, explained, loud_signals
from rca.explanation import Explanation, Stability
from rca.features import FLOOR_FEATURE, heard_signals
from rca.graph import CALL_RELATIONS, ServiceGraph
from rca.ranking import Evidence, Ranking, rounded
from rca.several import also_of
from rca.signals import NODE_COLUMN, NODE_SIGNALS
from rca.telemetry import ENTITY_KINDS, EntityId, Interval
from rca.window import INCIDENT, Window
from rca.wording import alike, clock, count, number, printable, probability, seconds, together

if TYPE_CHECKING:
    from rich.console import RenderableType

SCHEMA_VERSION: Final = "1"
MOST_LIKELY: Final = 5
"""Outcomes of a calibrated set beyond which it helps nobody."""
MOST_NEIGHBOURS: Final = 6
"""Neighbours that the map shows on each side; hubs have hundreds."""
NOBODY: Final = 0.4
"""How likely "no fault" must at least be for a report to say so: some 3 % of the quiet windows that were fitted on stay below."""
_MOST_NOTES: Final = 8
_MOST_UNLIKE: Final = 2

Health = Literal["disturbed", "quiet", "unobserved"]
Certainty = Literal["clear", "likely", "close", "unsure", "nothing"]
Outcome = Literal["cause", "no_fault", "outside", "not_enough_telemetry"]
"""What a report says in the end: who it was, that nobody was, that somebody outside the graph was, or that it cannot tell."""


@dataclass(frozen=True)
class Subject:
    """What the report is about: the incident's own words."""

    id: str
    title: str
    system: str
    window: Interval
    detected_ns: int | None = None
    alerting: tuple[EntityId, ...] = ()
    links: tuple[str, ...] = ()


@dataclass(frozen=True)
class Confidence:
    """How far to trust the first candidate, as a level and in words, and what the report says in the end."""

    level: Certainty
    words: str
    outcome: Outcome = "cause"


@dataclass(frozen=True)
class Path:
    """The way from where the incident was noticed to the first candidate, caller before callee. Empty where there is none."""

    noticed_by: Literal["alert", "symptoms", "unknown"]
    entities: tuple[EntityId, ...]
    words: str


@dataclass(frozen=True)
class Neighbour:
    """An entity beside the first candidate: its health, its rank, and its loudest signal (rca.signals)."""

    entity: EntityId
    health: Health
    rank: int | None
    signal: str = ""


@dataclass(frozen=True)
class Side:
    """Neighbours on one side, the most disturbed first; `cut` more were left out, `cut_disturbed` of them disturbed."""

    neighbours: tuple[Neighbour, ...] = ()
    cut: int = 0
    cut_disturbed: int = 0


@dataclass(frozen=True)
class Map:
    """The surroundings of the first candidate."""

    centre: EntityId
    callers: Side
    callees: Side
    pods: tuple[EntityId, ...]
    nodes: tuple[EntityId, ...]


@dataclass(frozen=True)
class Missed:
    """A loud signal of the winner, and where the other candidate stands on it. Deviations in robust standard deviations."""

    signal: str
    title: str
    deviation: float | None
    threshold: float | None
    winner_deviation: float


@dataclass(frozen=True)
class Contrast:
    """Why one candidate is not the first."""

    entity: EntityId
    rank: int
    probability: float
    evidence: tuple[Evidence, ...]
    missed: tuple[Missed, ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class TriageReport:
    """Everything that `rca triage` says about one incident. `also` are other candidates that look like causes of their own.

    The last three are there where they were asked for: `explanation` of the first candidate (None also where nobody is named),
    why what alerts is not the cause, in words (empty also where it is), and what the answer hangs on.
    """

    incident: Subject
    ranking: Ranking
    confidence: Confidence
    path: Path | None
    map: Map | None
    missing: tuple[str, ...]
    why_not: Contrast | None = None
    also: tuple[EntityId, ...] = ()
    explanation: Explanation | None = None
    why_not_alerting: str = ""
    stability: Stability | None = None

    @property
    def leader(self) -> EntityId | None:
        """Who is blamed first; None where nobody is."""
        nobody = self.confidence.level == "nothing" or not self.ranking.candidates
        return None if nobody else self.ranking.candidates[0].entity

    def to_json(self) -> dict[str, Any]:
        """Versioned JSON form; the ranking has its own version."""
        body = rounded(asdict(self))
        return {"schema_version": SCHEMA_VERSION, **body, "ranking": self.ranking.to_json()}


def report_of(subject: Subject, case: Case, ranking: Ranking, *, top: int, why_not: EntityId | None = None) -> TriageReport:
    """The report on a ranking of a case; the first `top` candidates get evidence. `why_not` must be a candidate."""
    if is_empty(case.window):
        words = f"{_NOT_ENOUGH}: there is none in the window, so there is nothing to rank."
        empty = Ranking(ranking.ranker, case.window.incident, (), gaps=ranking.gaps)
        return TriageReport(subject, empty, Confidence("nothing", words, "not_enough_telemetry"), None, None, missing_of(case))
    ranking = explained(ranking, case, max(top, 1))
    measured = _is_observed(case.graph, case.graph.candidate_rows)
    confidence = confidence_of(ranking) if measured or not ranking.candidates else _UNMEASURED
    first = ranking.candidates[0].entity if confidence.level != "nothing" else None
    also = also_of(case.graph, ranking) if first and confidence.outcome == "cause" else ()
    confidence = confidence_of(ranking, also) if also else confidence
    return TriageReport(
        incident=subject,
        ranking=ranking,
        confidence=confidence,
        path=path_of(case.graph, subject.alerting, first) if first else None,
        map=map_of(case, ranking, first) if first else None,
        missing=missing_of(case),
        why_not=contrast_of(case, ranking, why_not) if why_not else None,
        also=also,
    )


def is_empty(window: Window) -> bool:
    """True if no frame holds a row of the incident interval."""
    frames = (window.bins.counts, window.metrics, window.events, window.logs, window.alerts, window.calls)
    return all(INCIDENT not in frame["interval"] for frame in frames)


PATH_TITLES: Final = {
    "alert": "From the alert to the cause",
    "symptoms": "From the entry to the cause",
    "unknown": "From the alert to the cause",
}
"""What the way to the cause is called, by how the incident was noticed."""


# --- how sure -----------------------------------------------------------------------------------------------------------


_NOT_ENOUGH: Final = "Not enough telemetry to tell"
_UNMEASURED: Final = Confidence(
    "nothing",
    f"{_NOT_ENOUGH}: it names candidates, and nothing of any that quiet times could be held against.",
    "not_enough_telemetry",
)


def confidence_of(ranking: Ranking, also: Sequence[EntityId] = ()) -> Confidence:
    """How sure the ranking is: from the probabilities of candidates, of `no_fault`, and of a cause outside the graph.

    `also` are candidates that may be causes of their own.
    """
    if not ranking.candidates:
        words = f"{_NOT_ENOUGH}: it names no service or other candidate, so there is nothing to rank."
        return Confidence("nothing", words, "not_enough_telemetry")
    if not any(candidate.evidence for candidate in ranking.candidates):
        return Confidence("nothing", "Nothing stands out: no candidate strays from quiet times.", "no_fault")
    found = _confidence(ranking)
    more = (_also_words(ranking.candidates[0].entity, also), _set_words(ranking), _unlike_words(ranking))
    return replace(found, words=" ".join(part for part in (found.words, *more) if part))


def outcome_of(ranking: Ranking) -> Outcome:
    """What a report on such candidates says in the end, if something strays at any."""
    return _confidence(ranking).outcome


def _confidence(ranking: Ranking) -> Confidence:
    first, *rest = ranking.candidates
    name, share = shown(first.entity), probability(first.probability)
    second = rest[0] if rest else None
    behind = f", the runner-up {shown(second.entity)} {probability(second.probability)}" if second else ""
    if is_nobody(ranking):
        return Confidence(
            "unsure", f"Perhaps no fault at all ({probability(ranking.no_fault)}); {name} comes next with {share}.", "no_fault"
        )
    if second is not None and second.probability * 1.5 > first.probability and first.probability + second.probability >= 0.5:
        runner_up = f"{shown(second.entity)} ({probability(second.probability)})"
        return Confidence("close", f"A close call between {name} ({share}) and {runner_up}: check both.")
    if first.probability >= 0.8:
        return Confidence("clear", f"{name} stands out: {share}{behind}.")
    if first.probability >= 0.4:
        return Confidence("likely", f"{name} is likely, not certain: {share}{behind}.")
    if ranking.outside > first.probability:
        elsewhere = probability(ranking.outside)
        words = f"Telemetry points at nobody: a cause that it does not show ({elsewhere}) is likelier than {name} ({share})."
        return Confidence("unsure", words, "outside")
    return Confidence("unsure", f"Not sure: {name} leads with only {share}{behind}.")


def is_nobody(ranking: Ranking) -> bool:
    """Whether the ranking says that there is no fault at all."""
    return bool(ranking.candidates) and ranking.no_fault > max(ranking.candidates[0].probability, NOBODY)


def _set_words(ranking: Ranking) -> str:
    """The calibrated set in words, where it says more than the first candidate; of a long one, how many candidates it holds."""
    likely = ranking.likely
    if likely is None or not likely.entities:
        return ""
    share = f"{100 * likely.coverage:.0f} %"
    others = ["no fault"] * likely.no_fault + ["a cause that telemetry does not show"] * likely.outside
    names = [*(shown(entity) for entity in likely.entities), *others]
    if len(names) > MOST_LIKELY:
        first = f"one of the first {count(len(likely.entities), 'candidate')}"
        return f"With {share} it is {_listed([first, *others], 'or')}."
    return f"With {share} it is one of these {len(names)}: {_listed(names, 'or', most=len(names))}." if len(names) > 1 else ""


def _unlike_words(ranking: Ranking) -> str:
    if not ranking.unlike:
        return ""
    what = _listed(list(ranking.unlike), most=_MOST_UNLIKE)
    return f"Unlike anything that these probabilities were measured on: {what}. Trust them less."


def _also_words(first: EntityId, also: Sequence[EntityId]) -> str:
    if not also:
        return ""
    what, whom = ("a second cause", "it") if len(also) == 1 else ("causes of their own", "them")
    return f"{_listed([shown(entity) for entity in also])} may be {what}: nothing joins {whom} with {shown(first)}."


def others_of(ranking: Ranking) -> tuple[str, ...]:
    """The outcomes beside the candidates, with their probabilities: `no fault: 3 %`."""
    others = (("no fault", ranking.no_fault), ("a cause that telemetry does not show", ranking.outside))
    return tuple(f"{words}: {probability(share)}" for words, share in others if share)


# --- the path from the alert to the cause -------------------------------------------------------------------------------


def path_of(graph: ServiceGraph, alerting: Sequence[EntityId], cause: EntityId) -> Path:
    """Shortest way along calls, then to pods and their nodes, from an alerting entity to the cause.

    Where no alerting entity is known: from a service without callers that shows symptoms.
    """
    known = [entity for entity in alerting if entity in graph.rows]
    noticed: Literal["alert", "symptoms", "unknown"] = "alert" if known else "symptoms"
    starts = known or _disturbed_entries(graph)
    if not starts:
        words = "The incident names no alerting service, and nothing strays where requests enter."
        return Path("unknown", (), words)
    if cause in starts:
        what = "alerts itself" if known else "is itself where requests enter"
        return Path(noticed, (cause,), f"{shown(cause)} {what}.")
    found = shortest_path(_steps(graph), [graph.rows[start] for start in starts], graph.rows[cause])
    if found:
        return Path(noticed, tuple(graph.entities[row] for row in found), " -> ".join(shown(graph.entities[r]) for r in found))
    names = _listed([shown(start) for start in starts])
    back = shortest_path(_steps(graph), [graph.rows[cause]], *[graph.rows[start] for start in starts])
    where = "it is further up and calls what alerts" if back else "no chain of calls joins them"
    return Path(noticed, (), f"There is no path from {names} down to {shown(cause)}: {where}.")


def _disturbed_entries(graph: ServiceGraph) -> list[EntityId]:
    """Services that call and are not called, and show symptoms."""
    callers, callees = (set(rows.tolist()) for rows in graph.call_edges())
    loud = loud_rows(graph)
    return [graph.entities[row] for row in sorted(callers - callees) if loud[row]]


def _steps(graph: ServiceGraph) -> dict[int, list[int]]:
    """Rows that can be reached in one step: callees, then pods, then nodes."""
    steps: dict[int, list[int]] = {}
    for relation in (*CALL_RELATIONS, "runs", "hosted_on"):
        for source, target in graph.edges.get(relation, np.zeros((2, 0), dtype=np.int64)).T.tolist():
            steps.setdefault(source, []).append(target)
    return steps


def shortest_path(steps: dict[int, list[int]], starts: Iterable[int], *goals: int) -> list[int]:
    """Rows from one of the starts to one of the goals, both included; empty where there is no way. Earlier steps win ties."""
    came_from: dict[int, int | None] = dict.fromkeys(starts)
    queue = deque(came_from)
    while queue:
        row = queue.popleft()
        if row in goals:
            path: list[int] = []
            at: int | None = row
            while at is not None:
                path.append(at)
                at = came_from[at]
            return path[::-1]
        for target in steps.get(row, []):
            if target not in came_from:
                came_from[target] = row
                queue.append(target)
    return []


# --- the map ------------------------------------------------------------------------------------------------------------


def loud_rows(graph: ServiceGraph) -> npt.NDArray[np.bool_]:
    """Entities of which some signal strays above its threshold, (N,)."""
    columns = [graph.feature_names.index(f"{signal.name}.above") for signal in NODE_SIGNALS]
    return np.any(graph.features[:, columns] > 0, axis=1)  # type: ignore[no-any-return]


def map_of(case: Case, ranking: Ranking, centre: EntityId) -> Map:
    """Callers, callees, pods and nodes of an entity."""
    graph = case.graph
    row = graph.rows[centre]
    callers, callees = graph.call_edges()
    ranks = {candidate.entity: candidate.rank for candidate in ranking.candidates}
    facts = Facts(case)
    pods = facts.related(centre, "runs")
    hosts = {node: None for pod in pods for node in facts.related(pod, "hosted_on")}
    return Map(
        centre,
        _side(case, np.unique(callers[(callees == row) & (callers != row)]), ranks),
        _side(case, np.unique(callees[(callers == row) & (callees != row)]), ranks),
        tuple(pods),
        tuple(hosts),
    )


def _side(case: Case, rows: npt.NDArray[np.int64], ranks: dict[EntityId, int]) -> Side:
    graph = case.graph
    loud = loud_rows(graph)
    floor = graph.column(FLOOR_FEATURE)
    ordered = sorted(rows.tolist(), key=lambda row: (not loud[row], ranks.get(graph.entities[row], len(ranks) + 1), -floor[row]))
    kept, cut = ordered[:MOST_NEIGHBOURS], ordered[MOST_NEIGHBOURS:]
    return Side(tuple(_neighbour(case, row, ranks) for row in kept), len(cut), int(loud[cut].sum()))


def _neighbour(case: Case, row: int, ranks: dict[EntityId, int]) -> Neighbour:
    graph = case.graph
    entity = graph.entities[row]
    rank = ranks.get(entity)
    if not _is_observed(graph, [row]):
        return Neighbour(entity, "unobserved", rank)
    signals = loud_signals(case, entity)
    return Neighbour(entity, "disturbed" if signals else "quiet", rank, signals[0].name if signals else "")


def _is_observed(graph: ServiceGraph, rows: Sequence[int] | npt.NDArray[np.int64]) -> bool:
    """Whether anything was measured at one of the rows, in the incident and in its baseline."""
    columns = [graph.feature_names.index(f"{signal.name}.z") for signal in NODE_SIGNALS]
    return bool(graph.available[rows][:, columns].any())


# --- what was missing ---------------------------------------------------------------------------------------------------


def missing_of(case: Case) -> tuple[str, ...]:
    """What the ranking could not see, in sentences."""
    window = case.window
    found = [*_missing_baseline(window), *_missing_kinds(window), *_unowned_pods(case.graph), *_gaps(window)]
    return tuple(dict.fromkeys(found))


def _unowned_pods(graph: ServiceGraph) -> Iterator[str]:
    """Pods are no candidates; without an owner, what is known of them counts for nobody."""
    owned = set(graph.edges["runs"][1].tolist()) if "runs" in graph.edges else set()
    unowned = [entity for row, entity in enumerate(graph.entities) if entity.kind == "pod" and row not in owned]
    if unowned:
        yield f"the service of {count(len(unowned), 'pod')}: {_listed([printable(pod.name) for pod in unowned])}"


def _missing_baseline(window: Window) -> Iterator[str]:
    frames = (window.bins.counts, window.metrics, window.logs, window.calls)
    if not window.baselines:
        yield "no baseline: nothing says what is usual here"
    elif all((frame["interval"] < 0).all() for frame in frames) and any(not frame.is_empty() for frame in frames):
        yield "no telemetry in the baseline: nothing says what is usual here"


def _missing_kinds(window: Window) -> Iterator[str]:
    steady = {"spans": window.bins.counts, "metrics": window.metrics, "logs": window.logs}
    rare = {"events": window.events, "alerts": window.alerts}  # none may also be good news
    for kinds, when in ((steady, "at all"), (rare, "in that time")):
        absent = [name for name, frame in kinds.items() if frame.is_empty()]
        if absent:
            yield f"no {_listed(absent, 'or', most=len(absent))} {when}"
    for name, frame in steady.items():
        if not frame.is_empty() and INCIDENT not in frame["interval"]:
            yield f"no {name} in the incident, though there were some before"


def _gaps(window: Window) -> Iterator[str]:
    """Gaps by source and reason, alike ones in one line; those that touch the incident come first and say so."""
    groups: dict[str, dict[str, list[Interval]]] = {}
    for gap in window.gaps:
        groups.setdefault(gap.source, {}).setdefault(gap.reason, []).extend([gap.interval] if gap.interval else [])
    found = []
    for source, reasons in groups.items():
        for same in alike(reasons):
            intervals = max((reasons[reason] for reason in same), key=len)
            inside = sum(window.incident.overlaps(each) for each in intervals)
            found.append((inside == 0, f"{printable(source)}: {printable(together(same))}{_when(intervals, inside)}"))
    yield from (text for _, text in sorted(found, key=lambda one: one[0]))


def _when(intervals: Sequence[Interval], inside: int) -> str:
    if not intervals:
        return ""
    first, last = min(i.start_ns for i in intervals), max(i.end_ns for i in intervals)
    many = f"{len(intervals)} times, " if len(intervals) > 1 else ""
    dated = clock(first, date=True)[:10] != clock(last, date=True)[:10]
    return f" ({many}{clock(first, date=dated)} to {clock(last, date=dated)}{', in the window' if inside else ''})"


# --- why not ------------------------------------------------------------------------------------------------------------


def contrast_of(case: Case, ranking: Ranking, entity: EntityId) -> Contrast:
    """What separates a candidate from the first one. The entity must be a candidate."""
    mine = next(candidate for candidate in ranking.candidates if candidate.entity == entity)
    winner = ranking.candidates[0]
    facts = Facts(case)
    missed = tuple(_missed(case, entity, winner.entity)) if mine.rank > 1 else ()
    reasons = tuple(_reasons(case, ranking, entity)) if mine.rank > 1 else ("it is first",)
    return Contrast(entity, mine.rank, mine.probability, mine.evidence or facts.evidence(entity), missed, reasons)


def _missed(case: Case, entity: EntityId, winner: EntityId) -> Iterator[Missed]:
    """Loud signals of the winner that stay below the other's threshold."""
    graph, deviations = case.graph, case.deviations
    rows = {known: row for row, known in enumerate(deviations.entities)}
    heard = heard_signals(graph)
    own = {signal.name for signal in loud_signals(case, entity)}
    for signal in loud_signals(case, winner):
        if signal.name in own or signal.name not in heard:
            continue
        column = NODE_COLUMN[signal.name]
        z = float(deviations.node[rows[entity], column])
        loudness = float(np.log1p(abs(z)))
        above = float(graph.column(f"{signal.name}.above")[graph.rows[entity]])
        observed = bool(np.isfinite(z))
        threshold = float(np.expm1(loudness - above)) if observed else None
        yield Missed(signal.name, signal.title, z if observed else None, threshold, float(deviations.node[rows[winner], column]))


def _reasons(case: Case, ranking: Ranking, entity: EntityId) -> Iterator[str]:
    graph = case.graph
    row, winner = graph.rows[entity], graph.rows[ranking.candidates[0].entity]
    callers, callees = graph.call_edges()
    floor = graph.column("own.loudest")
    mine = np.unique(callees[(callers == row) & (callees != row)])
    louder = sorted((r for r in mine.tolist() if floor[r] > max(float(floor[row]), 0)), key=lambda r: -floor[r])
    if louder:
        names = _listed([shown(graph.entities[r]) for r in louder[:3]])
        yield f"its callee{'s' * (len(louder[:3]) > 1)} {names} stray{'s' * (len(louder[:3]) == 1)} further than it does"
    elif shortest_path(_steps(graph), [row], winner):
        yield f"it depends on {shown(graph.entities[winner])}, so it suffers with it"
    if shortest_path(_steps(graph), [winner], row):
        yield f"{shown(graph.entities[winner])} depends on it: if it were the cause, it would show first"
    if not graph.column("path.on")[row]:
        yield "no call touches it: it is off the path of requests"
    if graph.column("own.loudest")[row] < 0 or not loud_rows(graph)[row]:
        yield "no signal that speaks of it alone strays from quiet times"


# --- for people ---------------------------------------------------------------------------------------------------------

_MARKS: Final[dict[Health, tuple[str, str]]] = {"disturbed": ("!", "bold red"), "quiet": (".", "dim"), "unobserved": ("?", "dim")}
_SHORT_TITLES: Final = {
    "latency_residual": "latency",
    "success_residual": "success ratio",
    "quiet_callees": "callees serve less",
    "unanswered_calls": "unanswered calls",
    "vanished_calls": "vanished calls",
    "new_calls": "new calls",
    "vanished_templates": "vanished log lines",
    "new_templates": "new log lines",
    "leaf_latency": "latency of calls out of it",
    "alert_rarity": "rare alerts",
    **dict.fromkeys(("gap_in", "gap_in_all", "gap_out", "metric_gap"), "network gap"),
}
"""Titles that are too long for the map."""
_LEVEL_STYLES: Final[dict[Certainty, str]] = {
    "clear": "bold green",
    "likely": "bold yellow",
    "close": "bold yellow",
    "unsure": "bold yellow",
    "nothing": "bold yellow",
}


def rendered(report: TriageReport, *, top: int) -> RenderableType:
    """The report for a terminal: rich renderables without boxes, so that it reads the same piped."""
    from rich.console import Group

    parts = [_header(report)]
    if report.ranking.candidates:
        parts += [_candidates(report, top)]
    if report.confidence.level != "nothing":
        parts += [_why(report)]
        parts += [part for part in (_path(report), _surroundings(report)) if part is not None]
    if report.why_not is not None:
        parts.append(_why_not(report.why_not, report.ranking))
    parts.append(_missing(report))
    return Group(*parts)


def _header(report: TriageReport) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    incident, window = report.incident, report.ranking.window
    title = Text(printable(incident.title or incident.id), style="bold")
    day = clock(window.start_ns, date=True)
    same_day = clock(window.end_ns, date=True)[:10] == day[:10]
    end = clock(window.end_ns, date=not same_day)
    rows = [
        ("incident", f"{printable(incident.id)} in {printable(incident.system)}"),
        ("window", f"{day} to {end} UTC, {seconds(window.seconds)}"),
    ]
    if incident.alerting:
        rows.append(("alerting", _listed([shown(entity) for entity in incident.alerting])))
    rows.append(("ranked by", printable(report.ranking.ranker)))
    verdict = Text(report.confidence.words, style=_LEVEL_STYLES[report.confidence.level])
    return Group(title, _rows(rows), Text(), verdict)


def _candidates(report: TriageReport, top: int) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", collapse_padding=True)
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("candidate", overflow="fold", max_width=30)
    table.add_column("prob.", justify="right", no_wrap=True)
    table.add_column("fault", no_wrap=True)
    table.add_column("why", overflow="fold")
    for candidate in report.ranking.candidates[:top]:
        why = candidate.evidence[0].statement if candidate.evidence else "nothing strays"
        table.add_row(
            str(candidate.rank),
            Text(shown(candidate.entity), style="bold" if candidate.rank == 1 else ""),
            probability(candidate.probability),
            Text(candidate.fault_family if candidate.evidence and candidate.fault_family else "-"),
            Text(why),
        )
    left = len(report.ranking.candidates) - top
    tail = [f"{count(left, 'more candidate')}" if left > 0 else ""]
    if report.confidence.level == "nothing":
        tail.append("their order means nothing")
    tail += others_of(report.ranking)
    return _section("Candidates", table, Text("; ".join(words for words in tail if words), style="dim"))


def _why(report: TriageReport) -> RenderableType:
    first = report.ranking.candidates[0]
    title = f"Why {shown(first.entity)}"
    if not first.evidence:
        return _section(title, _indented("no signal of it strays from quiet times"))
    return _section(title, _bullets([evidence.statement for evidence in first.evidence]), *_traces(first.evidence))


def _traces(evidence: Sequence[Evidence]) -> list[RenderableType]:
    ids = list(dict.fromkeys(trace for item in evidence for trace in item.trace_ids))[:2]
    return [_rows([("traces", " ".join(map(printable, ids)))], style="dim")] if ids else []


def _path(report: TriageReport) -> RenderableType | None:
    path = report.path
    if path is None:
        return None
    return _section(PATH_TITLES[path.noticed_by], _indented(path.words))


def _surroundings(report: TriageReport) -> RenderableType | None:
    from rich.table import Table
    from rich.text import Text

    around = report.map
    if around is None:
        return None
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold", max_width=44)
    table.add_column(style="dim", overflow="fold")
    for title, side in (("called by", around.callers), ("calls", around.callees)):
        for position, neighbour in enumerate(side.neighbours):
            mark, style = _MARKS[neighbour.health]
            name = Text.assemble((f"{mark} ", style), shown(neighbour.entity))
            table.add_row(f"  {title}" if position == 0 else "", name, _short_title(neighbour.signal))
        if side.cut:
            table.add_row("", Text(f"  and {side.cut} more, {side.cut_disturbed} of them disturbed", style="dim"))
        if not side.neighbours:
            table.add_row(f"  {title}", Text("  nothing that was seen", style="dim"))
    below = Table.grid(padding=(0, 2, 0, 0))
    below.add_column(style="dim", no_wrap=True, min_width=len("  called by"))
    below.add_column(overflow="fold")
    for title, places in (("pods", around.pods), ("nodes", around.nodes)):
        if places:
            below.add_row(f"  {title}", Text(f"  {_listed([printable(place.name) for place in places])}"))
    legend = Text("  (! strays from quiet times, . does not, ? was not observed)", style="dim")
    return _section(f"Around {shown(around.centre)}", table, below, legend)


def _short_title(signal: str) -> str:
    return _SHORT_TITLES.get(signal) or (NODE_SIGNALS[NODE_COLUMN[signal]].title if signal else "")


def _why_not(contrast: Contrast, ranking: Ranking) -> RenderableType:
    winner = ranking.candidates[0]
    name = shown(contrast.entity)
    lines = [f"rank {contrast.rank} of {len(ranking.candidates)}, {probability(contrast.probability)}"]
    if contrast.rank > 1:
        lines[0] += f" ({shown(winner.entity)}: {probability(winner.probability)})"
    lines += [f"for it: {evidence.statement}" for evidence in contrast.evidence]
    lines += [f"against it: {reason}" for reason in contrast.reasons]
    for missed in contrast.missed[:MOST_STATEMENTS]:
        if missed.deviation is None or missed.threshold is None:
            where = "not observed"
        else:
            where = f"strays {number(abs(missed.deviation))}, unusual from {number(missed.threshold)}"
        lines.append(f"lacks: {missed.title} {where} ({shown(winner.entity)}: {number(abs(missed.winner_deviation))})")
    return _section(f"Why not {name}", _bullets(lines))


def _missing(report: TriageReport) -> RenderableType:
    if not report.missing and not report.ranking.notes:
        return _section("What was missing", _bullets(["nothing that is known of"]))
    lines = [*report.missing, *map(printable, report.ranking.notes)]
    more = [f"and {len(lines) - _MOST_NOTES} more (see --json)"] if len(lines) > _MOST_NOTES else []
    return _section("What was missing", _bullets([*lines[:_MOST_NOTES], *more]))


def shown(entity: EntityId) -> str:
    """Name of an entity for people: its namespace and, unless it is a service, its kind with it."""
    name = printable(f"{entity.namespace}/{entity.name}" if entity.namespace else entity.name)
    return name if entity.kind == "service" else f"{entity.kind} {name}"


def shown_text(text: str) -> str:
    """The same of an entity that is written as text: `service:shop/cart` is shop/cart, `pod:shop/cart-1` is pod shop/cart-1."""
    kind, _, name = text.partition(":")
    return text if kind not in ENTITY_KINDS or not name else name if kind == "service" else f"{kind} {name}"


def _listed(names: Sequence[str], joint: str = "and", most: int = 4) -> str:
    names = [*names[:most], f"{len(names) - most} more"] if len(names) > most else names
    return f" {joint} ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def _section(title: str, *parts: RenderableType) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    return Group(Text(), Text(title, style="bold"), *parts)


def _indented(words: str) -> RenderableType:
    from rich.padding import Padding
    from rich.text import Text

    return Padding(Text(words), (0, 0, 0, 2))


def _rows(rows: Sequence[tuple[str, str]], style: str = "") -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(f"  {name}", Text(value, style=style))
    return table


def _bullets(lines: Sequence[str]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for line in lines:
        table.add_row("  -", Text(line))
    return table
