"""The folder of a game day, `$RCA_HOME/gamedays/<name>/`: its plan, and a journal of all that happened.

    plan.toml       the plan as it was run; absent where another tool injected
    journal.jsonl   one JSON object a line: `v` (the version of the format), `at_ns`, `event`, and what the event says
    injections.csv  what another tool was seen to inject, as `rca gameday record --injections` reads it
    scores.json     what `rca gameday score` found

The journal is only ever added to, and a line is on the disk before anything goes on. Its events:

    begun      source, entities                                    the day begins; entities are those that a guess may name
    resumed                                                        it goes on after an interruption
    injecting  number, fault, target, culprit, strength, source    about to be injected
    injected   number, start_ns, end_ns, note                      it lasts; another tool's are told once, whole
    cleared    number, end_ns, why                                 it is over
    kept       number, incident_id, until_ns, alerts_ns, over_ns, trouble
    alerts     number, over_ns                                     its last alert ended after it was kept
    spoilt     as injecting, trouble                               no incident came of it
    watched    start_ns, end_ns, incident_id                       nothing was wrong in this time
    guess      number, who, entity
    fixed      number, who                                         somebody says that they have fixed it
    guarded    why                                                 the guard ended the faults of a run that died
    ended      state, why                                          the run ended: complete, aborted or interrupted
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

from rca.errors import BadInput, UnknownName
from rca.gameday.injections import Injection
from rca.gameday.plan import Plan, load_plan
from rca.incidents.bundle import fsync_folder, storage
from rca.incidents.home import default_home
from rca.incidents.incident import EntityModel
from rca.models.files import write_atomically
from rca.shop.folder import alone
from rca.telemetry import EntityId, Interval

VERSION: Final = 1
FOLDER: Final = "gamedays"
PLAN_FILE: Final = "plan.toml"
JOURNAL_FILE: Final = "journal.jsonl"
INJECTIONS_FILE: Final = "injections.csv"
SCORES_FILE: Final = "scores.json"
_LOCK: Final = "lock"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

State = Literal["running", "complete", "aborted", "interrupted"]
Json = dict[str, Any]


@dataclass(frozen=True)
class Guess:
    """What a person said at a time that caused an injection."""

    number: int
    at_ns: int
    who: str
    entity: EntityId


@dataclass(frozen=True)
class Injected:
    """An injection and what came of it.

    `incident_id` is None where no incident was kept; `trouble` says why, or what is wrong with one that was. Several injections
    that overlapped share an incident. Its telemetry reaches to `until_ns`, past the end of the injection. `alerts_ns` is the
    first alert since its start, `over_ns` the end of the last one, None where none fired or where it did not end.
    """

    injection: Injection
    incident_id: str | None = None
    trouble: str = ""
    alerts_ns: int | None = None
    over_ns: int | None = None
    until_ns: int | None = None
    fixed_ns: int | None = None
    """When somebody said that it is fixed, which ended it."""


@dataclass(frozen=True)
class Watch:
    """A time in which nothing was injected, kept as an incident of no fault."""

    interval: Interval
    incident_id: str


@dataclass(frozen=True)
class GameDay:
    """A game day as far as it went. `why` says how it ended, or where it stopped. `folder` is where its files are."""

    name: str
    folder: Path
    plan: Plan | None
    injections: tuple[Injected, ...] = ()
    guesses: tuple[Guess, ...] = ()
    state: State = "interrupted"
    why: str = ""
    watches: tuple[Watch, ...] = ()
    entities: tuple[EntityId, ...] = ()
    source: str = ""
    plan_text: str = ""
    """What its plan.toml is to hold, of one that has no folder yet."""
    attempts: dict[int, int] = field(default_factory=dict)
    """How often each injection was spoilt."""
    current: int | None = None
    """The injection that runs now, or whose incident is not kept yet."""

    @property
    def quiet(self) -> tuple[Interval, ...]:
        """Times without a fault, which false alarms are measured on."""
        return tuple(watch.interval for watch in self.watches)

    def injected(self, number: int) -> Injected:
        """One by its number. Raises UnknownName."""
        for each in self.injections:
            if each.injection.number == number:
                return each
        raise UnknownName(f"injections of {self.name}", str(number), [str(each.injection.number) for each in self.injections])


def gamedays(home: Path | None = None) -> Path:
    """Where game days are kept."""
    return (home or default_home()).expanduser() / FOLDER


def day_folder(home: Path | None, name: str) -> Path:
    """The folder of a game day, whether it exists or not. Raises BadInput for what cannot be its name."""
    if not _NAME.fullmatch(name):
        expected = "up to 64 letters, digits, dots, dashes and underscores, a letter or digit first"
        raise BadInput("name of the game day", expected=expected, found=repr(name))
    return gamedays(home) / name


def make_folder(day: GameDay) -> None:
    """Give a new game day its folder, with its plan and an empty journal; one that has a journal stays as it is.

    Raises StorageFull, BadInput.
    """
    if day.plan_text and not (day.folder / JOURNAL_FILE).exists():
        with storage(day.folder):
            day.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(day.folder / PLAN_FILE, day.plan_text.encode())
        Journal(day.folder).begin()


def names(home: Path | None = None) -> list[str]:
    """Every game day there is, by name."""
    return sorted(path.parent.name for path in gamedays(home).glob(f"*/{JOURNAL_FILE}"))


def load(home: Path | None, name: str) -> GameDay:
    """A game day from its folder. Raises UnknownName, and BadInput for a journal that is damaged or of a later version."""
    folder = day_folder(home, name)
    if not (folder / JOURNAL_FILE).exists():
        raise UnknownName(f"game days in {gamedays(home)}", name, names(home))
    plan_file = folder / PLAN_FILE
    plan = load_plan(plan_file) if plan_file.exists() else None
    day = told_by(events_of(folder / JOURNAL_FILE), GameDay(name, folder, plan))
    if day.state == "running" and not is_at_work(folder):
        return _unfinished(replace(day, state="interrupted", why="its process ended without a word"))
    return day


def events_of(path: Path) -> Iterator[Json]:
    """Events of a journal in order. A last line that was being written is left out. Raises BadInput."""
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            return
        where = f"{path}, line {number}"
        try:
            event = json.loads(line)
            version = event["v"]
        except (ValueError, TypeError, KeyError) as error:
            raise BadInput(where, expected="an event of a game day", found=f"{type(error).__name__}: {error}") from None
        if version != VERSION:
            raise BadInput(where, expected=f"version {VERSION} of the journal", found=f"version {version}; a newer rca reads it")
        yield event


def told_by(events: Iterable[Json], day: GameDay) -> GameDay:
    """The game day after these events. Raises BadInput for events that do not say what they should."""
    for event in events:
        try:
            day = _after(day, event)
        except (KeyError, TypeError, ValueError) as error:
            found = f"{json.dumps(event)[:200]} ({type(error).__name__}: {error})"
            raise BadInput(
                str(day.folder / JOURNAL_FILE), expected="an event as docs/gameday.md describes it", found=found
            ) from None
    return day


def _after(day: GameDay, event: Json) -> GameDay:
    kind: str = event["event"]
    number: Any = event.get("number")  # of the events that are about one injection
    match kind:
        case "begun":
            known = tuple(entity_from(one) for one in event["entities"])
            return replace(day, state="running", why="", source=event["source"], entities=known)
        case "resumed":
            return replace(day, state="running", why="", current=None)
        case "injecting":
            again = event["source"] == "shop"  # made anew: what was guessed at the attempt before is nothing to compare with
            guesses = tuple(guess for guess in day.guesses if not (again and guess.number == number))
            return replace(_with(day, Injected(_injection(event))), current=number, guesses=guesses)
        case "injected":
            at = {"start_ns": event["start_ns"], "end_ns": event["end_ns"], "note": event["note"]}
            standing = day.injected(number)
            return _with(day, replace(standing, injection=replace(standing.injection, **at)))
        case "cleared":
            standing = day.injected(number)
            return _with(day, replace(standing, injection=replace(standing.injection, end_ns=event["end_ns"])))
        case "kept":
            known_of = ("incident_id", "until_ns", "alerts_ns", "over_ns", "trouble")
            return replace(_with(day, replace(day.injected(number), **{key: event[key] for key in known_of})), current=None)
        case "alerts":
            return _with(day, replace(day.injected(number), over_ns=event["over_ns"]))
        case "spoilt":
            attempts = {**day.attempts, number: day.attempts.get(number, 0) + 1}
            numbers = [each.injection.number for each in day.injections]
            standing = day.injected(number) if number in numbers else Injected(_injection(event))
            return replace(_with(day, replace(standing, trouble=event["trouble"])), attempts=attempts, current=None)
        case "watched":
            watch = Watch(Interval(event["start_ns"], event["end_ns"]), event["incident_id"])
            others = [each for each in day.watches if each.incident_id != watch.incident_id]
            return replace(day, watches=(*others, watch))
        case "guess":
            guess = Guess(number, event["at_ns"], event["who"], entity_from(event["entity"]))
            return replace(day, guesses=(*day.guesses, guess))
        case "fixed":
            return _with(day, replace(day.injected(number), fixed_ns=event["at_ns"]))
        case "ended":
            if event["state"] not in get_args(State):
                raise ValueError(f"no state of a game day: {event['state']}")
            return _unfinished(replace(day, state=event["state"], why=event["why"]))
        case "guarded":
            return _unfinished(replace(day, state="interrupted" if day.state == "running" else day.state, why=event["why"]))
    raise ValueError(f"no event of a game day: {kind}")


def _unfinished(day: GameDay) -> GameDay:
    """The day at its end: the injection that was under way comes to nothing, and may be made again."""
    if day.current is None:
        return day
    return replace(_with(day, replace(day.injected(day.current), trouble=f"not finished: {day.why}")), current=None)


def _injection(event: Json) -> Injection:
    culprit = entity_from(event["culprit"]) if event["culprit"] else None
    return Injection(
        event["number"], event["fault"], event["target"], culprit, event["at_ns"], None, event["strength"], event["source"]
    )


def _with(day: GameDay, injected: Injected) -> GameDay:
    number = injected.injection.number
    others = [each for each in day.injections if each.injection.number != number]
    return replace(day, injections=tuple(sorted([*others, injected], key=lambda each: each.injection.number)))


def entity_json(entity: EntityId) -> Json:
    """An entity as the journal holds it."""
    return {"kind": entity.kind, "name": entity.name, "namespace": entity.namespace}


def entity_from(body: Any) -> EntityId:
    """An entity of the journal. Raises ValueError for what is none."""
    return EntityModel.model_validate(body).entity()


def is_at_work(folder: Path) -> bool:
    """Whether a process runs or records this game day now."""
    try:
        with (folder / _LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def at_work(folder: Path) -> AbstractContextManager[int]:
    """This process alone runs or records this game day. Raises Rejected where another does."""
    return alone(folder, _LOCK, "this game day is under way")


class Journal:
    """Adds events to the journal of a game day. Several processes may at once."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL_FILE

    def begin(self) -> None:
        """Make the folder and an empty journal, on the disk. Raises StorageFull, BadInput."""
        with storage(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch()
            fsync_folder(self.path.parent)

    def add(self, event: str, *, at_ns: int | None = None, **facts: Any) -> None:
        """Add an event; it is on the disk when this returns. Raises StorageFull, BadInput."""
        body = {"v": VERSION, "at_ns": time.time_ns() if at_ns is None else at_ns, "event": event, **facts}
        with storage(self.path), _locked(self.path) as file:
            _write_whole(file, json.dumps(body).encode() + b"\n")
            os.fsync(file)


def _write_whole(file: int, line: bytes) -> None:
    """A full disk may take a part of a line: the next write says so, and the part is left out when the journal is read."""
    while line:
        line = line[os.write(file, line) :]


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """The journal, opened to add to, for this process alone, without a line whose writer was killed halfway."""
    file = os.open(path, os.O_RDWR | os.O_APPEND)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        size = os.fstat(file).st_size
        if size and os.pread(file, 1, size - 1) != b"\n":
            os.ftruncate(file, path.read_bytes().rfind(b"\n") + 1)
        yield file
    finally:
        os.close(file)
