"""Records what another tool injected: every injection becomes a labelled incident, collected from the sources of rca.toml."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

from rca.bins import BIN_NS
from rca.collectors.alerts import AlertHistory
from rca.collectors.config import Config
from rca.collectors.live import Question, collect_incident
from rca.contracts import Collector
from rca.errors import BadInput, RcaError, Rejected, Unavailable
from rca.faults import is_no_fault
from rca.gameday.flagd import Change, Flags, watching
from rca.gameday.folder import (
    INJECTIONS_FILE,
    JOURNAL_FILE,
    PLAN_FILE,
    GameDay,
    Journal,
    at_work,
    day_folder,
    entity_json,
    events_of,
    told_by,
)
from rca.gameday.injections import Injection
from rca.gameday.keeping import keep, keep_watch
from rca.gameday.seen import Seen, grouped, write_injections
from rca.incidents.entities import check_label, find_entity, known_entities
from rca.incidents.incident import EntityModel, Incident, Label
from rca.incidents.store import IncidentStore
from rca.shop.observing import Spoilt
from rca.telemetry import MINUTE_NS, SECOND_NS, UNTIMED_FRAMES, EntityId, Interval, Telemetry, time_column
from rca.wording import clock, seconds

_LEAST_QUIET_NS: Final = MINUTE_NS
_SHORTEST_NS: Final = 3 * BIN_NS
_WATCH_NS: Final = MINUTE_NS
_LOOKED_AT_NS: Final = 5 * MINUTE_NS
_LOOK_S: Final = 1.0  # between looks at flags
_STEP_S: Final = 1.0

Told = Callable[[str], None]


class Recording:
    """A game day that another tool makes. What is recorded already stays, so that it can be recorded again after a failure.

    `settle_ns` is how long after an injection nothing is compared with; `lasting_ns` how long one is looked at whose end is not
    known. Raises BadInput where the folder belongs to a plan.
    """

    def __init__(
        self,
        home: Path | None,
        name: str,
        config: Config,
        sources: Sequence[Collector],
        store: IncidentStore,
        *,
        settle_ns: int = MINUTE_NS,
        lasting_ns: int = 2 * MINUTE_NS,
        told: Told = print,
        now_ns: Callable[[], int] = time.time_ns,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.folder = day_folder(home, name)
        if (self.folder / PLAN_FILE).exists():
            expected = "a name that is free, or a recorded day"
            raise BadInput(f"game day {name}", expected=expected, found=f"{self.folder}, which has a plan")
        self._name, self._config, self._sources, self._store = name, config, sources, store
        self._settle_ns, self._lasting_ns, self._told = settle_ns, lasting_ns, told
        self._now_ns, self._sleep = now_ns, sleep
        self._journal = Journal(self.folder)
        self._seen: dict[int, Seen] = {}
        """What is known of every injection, by its number."""
        self._tried: set[int] = set()

    def alone(self) -> AbstractContextManager[int]:
        """Nobody else records this day. Raises Rejected where somebody does."""
        return at_work(self.folder)

    # --- what was injected --------------------------------------------------------------------------------------------

    def begin(self, entities: Iterable[EntityId] = ()) -> None:
        """Begin the day, or go on with it."""
        self._journal.begin()
        self._journal.add("begun", source="another tool", entities=[entity_json(entity) for entity in sorted(entities)])
        day = self.so_far()
        for each in day.injections:
            injection = each.injection
            names = tuple(filter(None, (injection.target, injection.culprit.name if injection.culprit else "")))
            self._seen[injection.number] = Seen(
                injection.fault_kind, injection.target, injection.start_ns, injection.end_ns, injection.source,
                injection.strength, injection.note, names,
            )  # fmt: skip

    def so_far(self) -> GameDay:
        """The day as its journal tells it."""
        return told_by(events_of(self.folder / JOURNAL_FILE), GameDay(self._name, self.folder, None))

    def note(self, seen: Seen) -> int:
        """Keep that this was injected, before anything is collected; its number. The same again changes nothing but its end."""
        standing = next((number for number, each in self._seen.items() if each.identity == seen.identity), None)
        number = standing or len(self._seen) + 1
        if self._seen.get(number) != seen:
            self._seen[number] = seen
            if standing is None:
                self._write(seen.injection(number, _culprit(seen)))
            elif seen.end_ns is not None:
                self._journal.add("cleared", number=number, end_ns=seen.end_ns, why="over")
        write_injections(self.folder / INJECTIONS_FILE, sorted(self._seen.values(), key=lambda each: each.start_ns))
        return number

    def end(self, why: str = "") -> GameDay:
        """The day is over, as far as it goes."""
        day = self.so_far()
        kept = sum(each.incident_id is not None for each in day.injections)
        self._journal.add("ended", state="complete", why=why or f"{kept} of {len(day.injections)} injections are kept")
        return self.so_far()

    def entities(self) -> frozenset[EntityId]:
        """Whom a guess may name: what telemetry of the last minutes mentions. Raises Unavailable if no source answers."""
        end = (self._now_ns() - self._config.triage.lag) // BIN_NS * BIN_NS
        triage = self._config.triage.model_copy(update={"baseline": _LEAST_QUIET_NS})
        search = Interval(end - _LOOKED_AT_NS, end)
        incident, telemetry = collect_incident(
            self._config.model_copy(update={"triage": triage}), self._sources, Question(search, onset_ns=search.start_ns)
        )
        return known_entities(incident, telemetry)

    def follow(
        self, flags: Flags, watch_ns: int, shown: Callable[[str], None] = lambda _text: None, *, every_s: float = _LOOK_S
    ) -> None:
        """Note what flags begin and end, and collect each once it has settled; until Ctrl-C, or for so long unless that is 0.

        Nothing is lost where this process dies: the file of injections is written with every change.
        """
        for name in flags.already_on():
            self._told(f"flag {name} is on already, nobody knows since when: it is left out until it is turned off and on again")
        until = self._now_ns() + watch_ns if watch_ns else None
        with watching(flags, self._now_ns, every_s) as changes:  # beside us: collecting takes seconds, and times must be right
            try:
                while until is None or self._now_ns() < until:
                    self._take(changes)
                    self.collect(self._now_ns() - self._config.triage.lag - self._settle_ns)
                    shown(f"{len(self._seen)} injections")
                    self._sleep(_STEP_S)
            except KeyboardInterrupt:
                self._told("watching ends; what was injected is collected now, Ctrl-C again leaves that for later")
        self._take(changes)
        for seen in flags.stop(self._now_ns()):
            self.note(seen)
        self._wait_for_telemetry()

    def _take(self, changes: SimpleQueue[Change]) -> None:
        """Note what was seen since the last time."""
        while not changes.empty():
            at_ns, begun, ended, remarks = changes.get()
            for line in remarks:
                self._told(line)
            for seen in (*ended, *begun):
                number = self.note(seen)
                self._told(f"{clock(at_ns)}  {number} {seen.note}: {'began' if seen.end_ns is None else 'ended'}")

    def _wait_for_telemetry(self) -> None:
        """Until telemetry of the last injection can be complete."""
        last = max((seen.end_ns or 0 for seen in self._seen.values()), default=0)
        while (left := last + self._config.triage.lag + BIN_NS - self._now_ns()) > 0:
            self._sleep(min(left / SECOND_NS, _STEP_S))

    # --- what telemetry says of it ------------------------------------------------------------------------------------

    def collect(self, until_ns: int | None = None) -> None:
        """Collect every injection that is not kept yet. One that cannot be kept says why, and stays listed.

        With a time: those that ended before it and were not tried yet.
        """
        numbers = {seen.identity: number for number, seen in self._seen.items()}
        groups = grouped(list(self._seen.values()))
        due = [place for place, group in enumerate(groups) if until_ns is None or self._is_due(group, until_ns)]
        mine = {place: [numbers[seen.identity] for seen in groups[place]] for place in due}
        if until_ns is not None:
            due = [place for place in due if not self._tried.issuperset(mine[place])]
        kept = {each.injection.number for each in self.so_far().injections if each.incident_id is not None} if due else set()
        for place in due:
            if kept.issuperset(mine[place]):
                continue
            self._tried.update(mine[place])
            before = self._ends(groups[place - 1]) if place else None
            try:
                self._collect(mine[place], groups[place], before)
            except (Spoilt, Unavailable, Rejected, BadInput) as error:
                for number, seen in zip(mine[place], groups[place], strict=True):
                    self._spoilt(number, seen, error)

    def _is_due(self, group: Sequence[Seen], until_ns: int) -> bool:
        """Whether all of a group ended before a time."""
        return all(seen.end_ns is not None for seen in group) and self._ends(group) <= until_ns

    def _ends(self, group: Sequence[Seen]) -> int:
        """When the last injection of a group ends, as far as anybody knows."""
        return max(seen.start_ns + self._lasting_ns if seen.end_ns is None else seen.end_ns for seen in group)

    def _collect(self, numbers: list[int], group: list[Seen], before_ns: int | None) -> None:
        window, after_ns, trouble = self._window(group)
        baseline = self._baseline(window, before_ns)
        triage = self._config.triage.model_copy(update={"baseline": baseline})
        config = self._config.model_copy(update={"triage": triage})
        question = Question(window, onset_ns=window.start_ns, after_ns=after_ns)
        incident, telemetry = collect_incident(config, self._sources, question)
        trouble += _missing(window, incident, telemetry)
        known = known_entities(incident, telemetry)
        injections = []
        for number, seen in zip(numbers, group, strict=True):
            culprit, doubt = _resolved(seen, known)
            trouble += doubt
            injections.append(seen.injection(number, culprit))
        if len(group) > 1:
            others = ", ".join(f"{number} {injection.name}" for number, injection in zip(numbers, injections, strict=True))
            trouble.append(f"overlapping injections are one incident with several causes: {others}")
        name = keep(self._store, self._name, injections, incident, telemetry)
        self._keep_watch(numbers[0], window, incident, telemetry)
        first_ns, over_ns = self._alerts(Interval(window.start_ns, window.end_ns + after_ns), telemetry)
        facts: dict[str, Any] = {"until_ns": window.end_ns + after_ns, "alerts_ns": first_ns, "over_ns": over_ns}
        for injection in injections:
            self._write(injection)
            self._journal.add("kept", number=injection.number, incident_id=name, trouble="; ".join(trouble), **facts)
            self._say(injection.number, injection.start_ns, injection.name, f"kept as {name}{_remark(trouble)}")

    def _window(self, group: Sequence[Seen]) -> tuple[Interval, int, list[str]]:
        """The bins of a group of injections, how much is known after them, and what is odd about their times. Raises Spoilt."""
        now, trouble = self._now_ns(), list[str]()
        start = group[0].start_ns // BIN_NS * BIN_NS
        complete = (now - self._config.triage.lag) // BIN_NS * BIN_NS
        if group[0].start_ns > now:
            ahead = seconds((group[0].start_ns - now) / SECOND_NS)
            raise Spoilt(f"it begins {ahead} from now: the clock of the tool that injected it is ahead of this one")
        ends = self._ends(group)
        if any(seen.end_ns is not None and seen.end_ns > now for seen in group):
            trouble.append(f"its end lies {seconds((ends - now) / SECOND_NS)} from now; it was looked at until now")
        end = min(max(-(-ends // BIN_NS) * BIN_NS, start + _SHORTEST_NS), start + self._config.triage.longest, complete)
        if end - start < _SHORTEST_NS:
            raise Spoilt(f"it is too young to be looked at: telemetry is complete until {clock(complete)} UTC ([triage] lag)")
        if ends - start > self._config.triage.longest:
            whole, part = (seconds((until - start) / SECOND_NS) for until in (ends, end))
            trouble.append(f"it lasted {whole}, of which the first {part} were looked at")
        return Interval(start, end), max(min(self._settle_ns, complete - end), 0) // BIN_NS * BIN_NS, trouble

    def _baseline(self, window: Interval, before_ns: int | None) -> int:
        """How much quiet time before a window there is to compare with. Raises Spoilt where that is too little."""
        quiet = self._config.triage.baseline
        if before_ns is not None:
            quiet = min(quiet, (window.start_ns - before_ns - self._settle_ns) // BIN_NS * BIN_NS)
        if quiet < _LEAST_QUIET_NS:
            gap = seconds(max(window.start_ns - (before_ns or 0), 0) / SECOND_NS)
            needed = seconds((self._settle_ns + _LEAST_QUIET_NS) / SECOND_NS)
            raise Spoilt(f"{gap} after the one before it: expected {needed} or more, to settle and to compare with")
        return quiet

    def _keep_watch(self, number: int, window: Interval, incident: Incident, telemetry: Telemetry) -> None:
        """The last quiet minute before it, where there is another one to compare with."""
        quiet = Interval(window.start_ns - _WATCH_NS, window.start_ns)
        if incident.baselines and incident.baselines[0].start_ns + _LEAST_QUIET_NS <= quiet.start_ns:
            name = keep_watch(self._store, self._name, number, quiet, incident, telemetry)
            self._journal.add("watched", start_ns=quiet.start_ns, end_ns=quiet.end_ns, incident_id=name)

    def _alerts(self, began: Interval, telemetry: Telemetry) -> tuple[int | None, int | None]:
        """The first alert of a time, and when the last one ended where a source remembers that."""
        for source in self._sources:
            if isinstance(source, AlertHistory):
                try:
                    alerts = source.alerts_between(began.start_ns, began.end_ns)
                except (Unavailable, Rejected) as error:
                    self._told(f"alerts are not known: {error}")
                    continue
                ends = [alert.end_ns for alert in alerts]
                over = None if None in ends else max((end for end in ends if end is not None), default=None)
                return (alerts[0].start_ns if alerts else None), over
        times = telemetry.alerts["time_unix_nano"].drop_nulls()
        first = times.filter((times >= began.start_ns) & (times < began.end_ns)).min()
        return (first if isinstance(first, int) else None), None

    # --- the journal --------------------------------------------------------------------------------------------------

    def _write(self, injection: Injection) -> None:
        culprit = entity_json(injection.culprit) if injection.culprit else None
        self._journal.add(
            "injecting",
            number=injection.number,
            fault=injection.fault_kind,
            target=injection.target,
            culprit=culprit,
            strength=injection.strength,
            source=injection.source,
        )
        times = {"start_ns": injection.start_ns, "end_ns": injection.end_ns}
        self._journal.add("injected", number=injection.number, note=injection.note, **times)

    def _spoilt(self, number: int, seen: Seen, error: RcaError) -> None:
        day = self.so_far()
        standing = day.injected(number).injection
        self._journal.add(
            "spoilt",
            number=number,
            fault=seen.fault_kind,
            target=seen.target,
            culprit=entity_json(standing.culprit) if standing.culprit else None,
            strength=seen.strength,
            source=seen.source,
            trouble=str(error),
        )
        self._say(number, seen.start_ns, standing.name, f"not kept: {error}")

    def _say(self, number: int, at_ns: int, name: str, words: str) -> None:
        self._told(f"{clock(at_ns, date=True)}  {number} {name}: {words}")


def _remark(trouble: Sequence[str]) -> str:
    return f" ({'; '.join(trouble)})" if trouble else ""


def _culprit(seen: Seen) -> EntityId | None:
    """Whom its label names, before telemetry was asked what it calls them."""
    names = seen.names or ((seen.target,) if seen.target else ())
    return None if is_no_fault(seen.fault_kind) or not names else EntityId("service", names[0])


def _resolved(seen: Seen, known: frozenset[EntityId]) -> tuple[EntityId | None, list[str]]:
    """Whom its label names, as telemetry calls them, and what speaks against it."""
    stated = _culprit(seen)
    if stated is None:
        return None, []
    where = f"culprit of {seen.fault_kind}"
    doubts: list[str] = []
    for name in dict.fromkeys((*seen.names, seen.target)):
        try:
            entity = find_entity(where, name, known)
            label = Label(
                entity=EntityModel(kind=entity.kind, name=entity.name, namespace=entity.namespace),
                fault_kind=seen.fault_kind,
                provenance="injected",
            )
            check_label(where, label, known)
        except BadInput as error:
            doubts.append(str(error))
            continue
        return entity, []
    return stated, doubts[:1]


def _missing(window: Interval, incident: Incident, telemetry: Telemetry) -> list[str]:
    """What is odd about when there is telemetry. Raises Spoilt where there is none of the injection, or none before it."""
    times: set[int] = set()
    for name, frame in telemetry.frames().items():
        if name not in (*UNTIMED_FRAMES, "events", "alerts"):
            times |= set((frame[time_column(name)] // BIN_NS * BIN_NS).unique().to_list())
    inside = [at for at in times if window.start_ns <= at < window.end_ns]
    if not times:
        raise Spoilt(f"there is no telemetry of {clock(window.start_ns, date=True)} UTC, and none before it")
    if not inside:
        apart, nearest = min((max(window.start_ns - at - BIN_NS, at - window.end_ns), at) for at in times)
        where = f"{clock(nearest, date=True)} UTC, {seconds(apart / SECOND_NS)} away"
        raise Spoilt(
            f"there is no telemetry while it lasted; the nearest is of {where}: "
            "the clocks of the injecting tool and of telemetry may disagree"
        )
    if not incident.baselines or min(times) >= window.start_ns:
        raise Spoilt("there is no telemetry before it to compare with")
    bins = (window.end_ns - window.start_ns) // BIN_NS
    if 2 * len(inside) < bins:
        return [f"telemetry covers {len(inside)} of {bins} bins of its time: much was lost, or clocks disagree"]
    return []
