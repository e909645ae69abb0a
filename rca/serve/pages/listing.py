"""The list of incidents, and the search in it. Pure: rows in, the rows of one page out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlencode

from rca.drawing.foreign import NAME, name_of, plain
from rca.drawing.similar import NO_GIST, Gist
from rca.faults import FAULT_KINDS
from rca.incidents.incident import Incident
from rca.report import Outcome
from rca.serve.pages.view import ANYBODY, LEVELS, Looker, Stage
from rca.wording import clock, listed, probability

PER_PAGE: Final = 50
_MOST_QUERY: Final = 200

State = Literal["firing", "resolved"]
Labelled = Literal["labelled", "unlabelled"]
_STATES: Final[tuple[State, ...]] = ("firing", "resolved")
_LABELLED: Final[tuple[Labelled, ...]] = ("labelled", "unlabelled")
_ELSEWHERE: Final[dict[Outcome, str]] = {"no_fault": "perhaps no fault", "outside": "telemetry points at nobody"}


@dataclass(frozen=True)
class Known:
    """An incident of the store and what was answered."""

    incident: Incident
    gist: Gist = NO_GIST
    stage: Stage = "ranked"
    state: State = "resolved"
    revision: int = 1


@dataclass(frozen=True)
class Query:
    """What somebody looks for: words that all must occur, a system, a state, labelled or not, and the page."""

    words: str = ""
    system: str = ""
    state: State | Literal[""] = ""
    labelled: Labelled | Literal[""] = ""
    page: int = 1

    @classmethod
    def of(cls, parameters: Mapping[str, str]) -> Query:
        """The query of an address. What it does not know is left out: a list is shown in any case."""
        state: State | Literal[""] = next((known for known in _STATES if known == parameters.get("state")), "")
        labelled: Labelled | Literal[""] = next((known for known in _LABELLED if known == parameters.get("labelled")), "")
        page = parameters.get("page", "1")
        number = int(page) if page.isascii() and page.isdecimal() and len(page) < 7 else 1
        words, system = (parameters.get(name, "")[:_MOST_QUERY] for name in ("q", "system"))
        return cls(words, system, state, labelled, max(number, 1))

    def address(self, page: int) -> str:
        """The same query on another page, as the part of an address behind `?`."""
        parts = {"q": self.words, "system": self.system, "state": self.state, "labelled": self.labelled, "page": str(page)}
        return urlencode({name: value for name, value in parts.items() if value and (name, value) != ("page", "1")})


EVERYTHING: Final = Query()


@dataclass(frozen=True)
class Row:
    """One incident of the list, in words. `as_ranked` is true where the label names the first candidate."""

    id: str
    title: str
    system: str
    when: str
    state: State
    stage: Stage
    verdict: str
    share: str
    steps: int
    certainty: str
    label: str
    as_ranked: bool


@dataclass(frozen=True)
class ListView:
    """One page of the list. `found` of `total` incidents fit the query."""

    base: str
    looker: str
    query: Query
    rows: tuple[Row, ...]
    systems: tuple[str, ...]
    found: int
    total: int
    page: int
    pages: int
    earlier: str
    later: str


def list_view(known: Sequence[Known], query: Query = EVERYTHING, looker: Looker = ANYBODY) -> ListView:
    """The incidents that fit, the youngest first."""
    fitting = sorted((one for one in known if fits(one, query)), key=lambda one: (-one.incident.window.start_ns, one.incident.id))
    pages = max(-(-len(fitting) // PER_PAGE), 1)
    page = min(query.page, pages)
    shown = fitting[(page - 1) * PER_PAGE : page * PER_PAGE]
    systems = sorted({plain(one.incident.system, NAME) for one in known})
    return ListView(
        base=looker.base,
        looker=plain(looker.name, NAME),
        query=query,
        rows=tuple(_row(one) for one in shown),
        systems=tuple(systems[:200]),
        found=len(fitting),
        total=len(known),
        page=page,
        pages=pages,
        earlier=query.address(page - 1) if page > 1 else "",
        later=query.address(page + 1) if page < pages else "",
    )


def fits(known: Known, query: Query) -> bool:
    """True if every word occurs somewhere in what is known of the incident, and every filter holds."""
    incident = known.incident
    if query.system and plain(incident.system, NAME) != query.system:
        return False
    if query.state and known.state != query.state:
        return False
    judged = any(label.provenance != "disputed" for label in incident.labels)
    if query.labelled and judged != (query.labelled == "labelled"):
        return False
    text = "\n".join(_searched(known)).casefold()
    return all(word in text for word in query.words.casefold().split())


def _searched(known: Known) -> Iterable[str]:
    incident, gist = known.incident, known.gist
    yield from (incident.id, incident.title[:1000], incident.system, clock(incident.window.start_ns, date=True), gist.family)
    yield from (str(entity.entity()) for entity in incident.alerting)
    if gist.candidate is not None:
        yield str(gist.candidate)
    for label in incident.labels:
        kind = FAULT_KINDS.get(label.fault_kind)
        yield from (label.name(), label.fault_kind, kind.title if kind else "", label.author, label.note[:1000])


def _row(known: Known) -> Row:
    incident, gist = known.incident, known.gist
    if known.stage != "ranked":
        verdict = "being ranked" if known.stage == "ranking" else "no ranking could be made"
    elif gist.candidate is None:
        verdict = "nothing stands out"
    else:
        verdict = _ELSEWHERE.get(gist.outcome) or name_of(gist.candidate)
    steps, certainty = LEVELS[gist.level] if known.stage == "ranked" else (0, "")
    return Row(
        incident.id,
        plain(incident.title, 120) or incident.id,
        plain(incident.system, NAME),
        clock(incident.window.start_ns, date=True)[:16],
        known.state,
        known.stage,
        verdict,
        probability(gist.probability) if gist.candidate is not None and gist.outcome == "cause" else "",
        steps,
        certainty,
        _label_words(incident),
        gist.candidate is not None and gist.candidate in incident.causes(),
    )


def _label_words(incident: Incident) -> str:
    if incident.causes():
        return listed([name_of(cause) for cause in incident.causes()], 2)
    if incident.is_no_fault():
        return "no fault"
    return "disputed" if incident.labels else ""
