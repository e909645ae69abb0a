"""The plan of a game day, a TOML file: which faults, on whom, how strong, how long, in which order, and when to stop."""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationError, model_validator

from rca.bins import BIN_NS
from rca.errors import BadInput, UnknownName
from rca.settings import DurationNs, Place, Section, duration_ns, duration_text, misplaced
from rca.telemetry import MINUTE_NS, SECOND_NS

SHIPPED: Final = Path(__file__).parent / "plans"
_SHORTEST_NS: Final = 3 * BIN_NS
_SHORTEST_BASELINE_NS: Final = MINUTE_NS
_LONGEST_NS: Final = 60 * MINUTE_NS
_HEADER: Final = re.compile(r"^\s*\[\[?\s*(?P<table>[A-Za-z0-9_.-]+)\s*\]\]?")

_DurationOrNone = Annotated[
    int, BeforeValidator(duration_ns), PlainSerializer(duration_text, when_used="json"), Field(ge=0, le=_LONGEST_NS)
]


class PlannedInjection(Section):
    """One `[[injection]]`."""

    fault: Annotated[str, Field(description="fault kind, as `rca shop inject --list` shows them")]
    target: Annotated[str, Field(description="workload or node that it hits; none for faults of the whole shop")] = ""
    strength: Annotated[float, Field(gt=0, le=1, description="from hardly visible to severe")] = 0.5
    lasting: Annotated[DurationNs | None, Field(description="how long it lasts; the plan's `lasting` unless given")] = None
    until: Annotated[
        Literal["fixed"] | None, Field(description='"fixed": until `rca gameday fixed`, at most as long as it would last')
    ] = None
    at: Annotated[DurationNs | None, Field(description="how long after the beginning of the game day it begins, not before")] = (
        None
    )

    @property
    def name(self) -> str:
        """The fault and its target, for people."""
        return f"{self.fault} at {self.target}" if self.target else self.fault


class Abort(Section):
    """One `[[abort]]`: the game day ends, and every fault with it, once this has held for `lasting`."""

    query: Annotated[str | None, Field(description="PromQL; any of its series counts")] = None
    above: Annotated[float | None, Field(allow_inf_nan=False, description="the query's value above which it holds")] = None
    below: Annotated[float | None, Field(allow_inf_nan=False, description="the query's value below which it holds")] = None
    failed_requests: Annotated[float | None, Field(gt=0, lt=1, description="share of customers' requests that failed")] = None
    unhealthy: Annotated[bool, Field(description="whether some pod is not ready")] = False
    lasting: Annotated[DurationNs, Field(description="for how long without a break")] = MINUTE_NS

    @model_validator(mode="after")
    def _one_condition(self) -> Abort:
        given = [name for name in ("query", "failed_requests", "unhealthy") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"expected one of query, failed_requests and unhealthy, found {' and '.join(given) or 'none'}")
        limits = [limit for limit in (self.above, self.below) if limit is not None]
        if len(limits) != (self.query is not None):
            raise ValueError("expected above or below beside a query, one of them")
        return self

    def words(self) -> str:
        """The condition, for people."""
        if self.query is not None:
            limit = f"above {self.above:g}" if self.above is not None else f"below {self.below:g}"
            what = f"{self.query} is {limit}"
        elif self.failed_requests is not None:
            what = f"more than {100 * self.failed_requests:g} % of customers' requests fail"
        else:
            what = "some pod is not ready"
        return f"{what} for {duration_text(self.lasting)}"


class Plan(Section):
    """The whole file."""

    name: Annotated[
        str,
        Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$", description="name of the game day: letters, digits, . - _, up to 40"),
    ]
    seed: Annotated[int, Field(description="seed of a shuffled order")] = 0
    order: Annotated[Literal["written", "shuffled"], Field(description="in which order faults are injected")] = "written"
    settle: Annotated[
        DurationNs, Field(le=_LONGEST_NS, description="after each fault: alerts end, nothing is compared with it")
    ] = 40 * SECOND_NS
    baseline: Annotated[DurationNs, Field(le=_LONGEST_NS, description="quiet time that is compared with")] = 2 * MINUTE_NS
    quiet: Annotated[
        _DurationOrNone, Field(description="quiet watch before each fault, which false alarms are measured on; 0s for none")
    ] = MINUTE_NS
    busy: Annotated[
        Literal["again", "kept"],
        Field(description='what a busy machine may have spoilt is made "again" at the end, once, or "kept" with the reason'),
    ] = "again"
    lasting: Annotated[DurationNs, Field(le=_LONGEST_NS, description="how long a fault lasts")] = 90 * SECOND_NS
    injection: Annotated[tuple[PlannedInjection, ...], Field(min_length=1, description="the faults")]
    abort: Annotated[tuple[Abort, ...], Field(description="conditions under which everything ends")] = ()

    def ordered(self) -> tuple[tuple[int, PlannedInjection], ...]:
        """Injections in the order in which they are made, numbered from 1."""
        planned = list(self.injection)
        if self.order == "shuffled":
            random.Random(self.seed).shuffle(planned)
        return tuple(enumerate(planned, 1))

    def lasts_ns(self, planned: PlannedInjection) -> int:
        """How long an injection lasts, at most."""
        return planned.lasting or self.lasting


@dataclass(frozen=True)
class Slot:
    """When an injection begins and ends at the earliest, in ns since the beginning of the game day."""

    number: int
    planned: PlannedInjection
    begins_ns: int
    ends_ns: int


def timeline(plan: Plan) -> tuple[Slot, ...]:
    """When what would happen, if nothing has to be tried again."""
    slots: list[Slot] = []
    for number, planned in plan.ordered():
        begins = max(free_ns(plan, slots), planned.at or 0)
        slots.append(Slot(number, planned, begins, begins + plan.lasts_ns(planned)))
    return tuple(slots)


def free_ns(plan: Plan, slots: Sequence[Slot]) -> int:
    """When the next injection can begin: the shop has settled, and a baseline and a quiet watch have passed."""
    return (slots[-1].ends_ns if slots else 0) + plan.settle + plan.baseline + plan.quiet


def total_ns(plan: Plan) -> int:
    """How long it takes in all, if nothing has to be tried again."""
    return timeline(plan)[-1].ends_ns + plan.settle


# --- reading ----------------------------------------------------------------------------------------------------------


def shipped_plans() -> tuple[str, ...]:
    """Names of the plans that ship."""
    return tuple(sorted(path.stem for path in SHIPPED.glob("*.toml")))


def find_plan(named: str) -> Path:
    """The file of a plan by its path, or by the name of one that ships. Raises UnknownName."""
    path = Path(named)
    if path.suffix or path.is_file():
        return path
    shipped = SHIPPED / f"{named}.toml"
    if not shipped.exists():
        raise UnknownName("plan (a file, or one that ships)", named, shipped_plans())
    return shipped


def load_plan(path: Path) -> Plan:
    """Read and check a plan. Raises BadInput that names every mistake, with its line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "bytes that are not UTF-8"
        raise BadInput(str(path), expected="the plan of a game day", found=str(reason)) from None
    return parsed_plan(text, str(path))


def parsed_plan(text: str, where: str) -> Plan:
    """The plan that a file's text holds. Raises BadInput that names every mistake, with its line."""
    try:
        plan = Plan(**tomllib.loads(text))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadInput(where, expected="TOML", found=str(error)) from None
    except ValidationError as error:
        found = _innermost(list(misplaced(error, Plan)))
    else:
        found = list(_contradictions(plan))
        if not found:
            return plan
    clauses = [_clause(text, place, words) for place, words in found]
    raise BadInput(where, expected="a plan as docs/gameday.md describes it", found="; ".join(clauses))


def _innermost(found: list[tuple[Place, str]]) -> list[tuple[Place, str]]:
    """Mistakes without those that only follow from one inside: a list is not too short because an entry of it is wrong."""
    places = [place for place, _ in found]
    return [
        (place, words)
        for place, words in found
        if not any(len(other) > len(place) and other[: len(place)] == place for other in places)
    ]


def _contradictions(plan: Plan) -> Iterator[tuple[Place, str]]:
    """What cannot be done, or would not be seen."""
    from rca.shop.faults import recipe_of  # here: it loads the client of a shop, which a journal's plan has no use for

    for key, shortest in (("baseline", _SHORTEST_BASELINE_NS), ("lasting", _SHORTEST_NS), ("settle", BIN_NS)):
        if getattr(plan, key) < shortest:
            yield (
                (key,),
                f"expected {duration_text(shortest)} or more, found {duration_text(getattr(plan, key))}: too short to be seen",
            )
    if 0 < plan.quiet < _SHORTEST_NS:
        yield ("quiet",), f"expected 0s, or {duration_text(_SHORTEST_NS)} or more, found {duration_text(plan.quiet)}"
    for place, planned in enumerate(plan.injection):
        try:
            recipe_of(planned.fault, planned.target)
        except BadInput as error:
            yield ("injection", place, "target" if error.where.startswith("target") else "fault"), str(error)
        lasting = plan.lasts_ns(planned)
        if planned.lasting is not None and not _SHORTEST_NS <= lasting <= _LONGEST_NS:
            allowed = f"{duration_text(_SHORTEST_NS)} to {duration_text(_LONGEST_NS)}"
            yield ("injection", place, "lasting"), f"expected {allowed}, found {duration_text(lasting)}"
        if planned.at is not None and plan.order == "shuffled":
            yield ("injection", place, "at"), 'expected no time of an injection in a shuffled order (order = "written")'
    if plan.order == "written":
        yield from _overlaps(plan)


def _overlaps(plan: Plan) -> Iterator[tuple[Place, str]]:
    slots = timeline(plan)
    for place, slot in enumerate(slots):
        free = free_ns(plan, slots[:place])
        if slot.planned.at is not None and slot.planned.at < free:
            before = (
                f"injection {place} lasts until {duration_text(slots[place - 1].ends_ns)}" if place else "nothing came before"
            )
            needed = f"{duration_text(plan.settle)} to settle, a baseline of {duration_text(plan.baseline)}"
            needed += f" and a quiet watch of {duration_text(plan.quiet)}" if plan.quiet else ""
            words = f"overlaps: {before}, and then it takes {needed}; expected {duration_text(free)} or later"
            yield ("injection", place, "at"), f"{words}, found {duration_text(slot.planned.at)}"


def _clause(text: str, place: Place, words: str) -> str:
    line = line_of(text, place)
    tables = [f"{key} {place[i + 1] + 1}" for i, key in enumerate(place[:-1]) if isinstance(place[i + 1], int)]  # type: ignore[operator]
    keys = [str(key) for i, key in enumerate(place) if isinstance(key, str) and not isinstance((*place, "")[i + 1], int)]
    said = ": ".join([*tables, *keys]) or "the file"
    return f"{f'line {line}: ' if line else ''}{said}: {words}"


def line_of(text: str, place: Place) -> int | None:
    """Line on which a setting stands, else the one of its table; None where neither does."""
    table, number, key = "", 0, str(place[-1]) if place and isinstance(place[-1], str) else ""
    if len(place) > 1 and isinstance(place[0], str) and isinstance(place[1], int):
        table, number = place[0], place[1]
        key = key if len(place) > 2 else ""
    here, counts, header = "", {"": 0}, None
    for line, content in enumerate(text.splitlines(), 1):
        found = _HEADER.match(content)
        if found:
            here = found["table"]
            counts[here] = counts.get(here, -1) + 1
        if here == table and counts[here] == number:
            header = line if found else header
            if key and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", content):
                return line
    return header
