"""Runs a plan: waits for quiet, injects, clears, collects, and keeps each injection as a labelled incident.

Whatever ends a run, the faults end with it: the runner clears them, and a guard does where the runner was killed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

from rca.errors import BadInput, RcaError, Rejected, Unavailable, UnknownName
from rca.gameday.aborting import Aborted, Conditions
from rca.gameday.folder import (
    JOURNAL_FILE,
    PLAN_FILE,
    GameDay,
    Journal,
    at_work,
    day_folder,
    entity_json,
    events_of,
    load,
    make_folder,
    told_by,
)
from rca.gameday.injections import QUIET, Injection, incident_id
from rca.gameday.keeping import check_free, keep, keep_watch
from rca.gameday.plan import PlannedInjection, load_plan
from rca.gameday.system import Meanwhile, System
from rca.incidents.incident import Incident
from rca.incidents.store import IncidentStore
from rca.shop.observing import Spoilt
from rca.telemetry import MINUTE_NS, SECOND_NS, Interval, Telemetry
from rca.wording import clock

_ATTEMPTS: Final = 2
_LOOK_S: Final = 5.0  # between looks at the conditions, and between repetitions of what a fault needs
_SHORTEST_S: Final = 30  # of an incident that somebody fixed at once
_WHOLE_S: Final = 10  # faults begin and incidents end on a full ten seconds, as bins do
_LAST_ALERTS_S: Final = 120.0

Told = Callable[[str], None]


class Shown(Protocol):
    """Shows how far it is: in words, and in seconds of the plan."""

    def __call__(self, text: str, completed: int | None = None, total: int | None = None) -> None: ...


@dataclass(frozen=True)
class Task:
    """An injection that is still to be made."""

    number: int
    planned: PlannedInjection


def prepare(plan_file: Path, home: Path | None, name: str | None = None, *, resume: bool = False) -> GameDay:
    """The game day that a plan's file begins, which leaves nothing on the disk yet, or the one that goes on.

    Raises BadInput where there is one of that name already, or none to go on with, or one of another plan.
    """
    plan = load_plan(plan_file)
    name = name or plan.name
    folder = day_folder(home, name)
    if not resume:
        if (folder / JOURNAL_FILE).exists():
            expected = "a name that is free (--name), or --resume"
            raise BadInput(f"game day {name}", expected=expected, found=f"{folder}, which exists")
        return GameDay(name, folder, plan, plan_text=plan_file.read_text(encoding="utf-8"))
    day = load(home, name)
    if day.plan != plan:
        raise BadInput(f"game day {name}", expected=f"the plan that it began with, {folder / PLAN_FILE}", found=str(plan_file))
    if day.state == "complete":
        raise BadInput(f"game day {name}", expected="one that was aborted or interrupted", found="one that is complete")
    return day


def remaining(day: GameDay) -> list[Task]:
    """What is still to be made: not kept yet, and not tried often enough."""
    kept = {each.injection.number for each in day.injections if each.incident_id is not None}
    planned = day.plan.ordered() if day.plan else ()
    return [Task(n, each) for n, each in planned if n not in kept and day.attempts.get(n, 0) < _ATTEMPTS]


class _Fixed(Exception):
    """Somebody says that they have fixed it."""


class Runner:
    """Runs what is left of a game day against a system, and keeps its incidents in a store.

    Raises BadInput where the store has other incidents of the same ids, or the system refuses a query of the plan.
    """

    def __init__(
        self, day: GameDay, system: System, store: IncidentStore, *, told: Told = print, shown: Shown = lambda *_args: None
    ) -> None:
        if day.plan is None:
            raise BadInput(f"game day {day.name}", expected="one with a plan", found="one that another tool injected")
        self._day, self._plan, self._system, self._store = day, day.plan, system, store
        self._told, self._shown = told, shown
        self._journal = Journal(day.folder)
        self._attempts = dict(day.attempts)
        self._conditions = Conditions(day.plan, system)
        self._kept = sum(each.incident_id is not None for each in day.injections)
        self._looked, self._begun = 0.0, 0.0
        self._open: dict[int, Interval] = {}
        """Injections whose alerts had not all ended when they were kept, and the time in which those began."""
        planned = day.plan.ordered()
        ids = [incident_id(day.name, n, each.fault, each.target) for n, each in planned]
        check_free(store, day.name, [*ids, *(incident_id(day.name, n, QUIET, "") for n, _ in planned)])

    def run(self) -> None:
        """Make what is left. The system is cleared however it ends.

        Raises Aborted, KeyboardInterrupt, StorageFull; Rejected where somebody else is at work.
        """
        with at_work(self._day.folder), self._system.alone(self._day.folder):
            self._begin()
            try:
                self._system.clear()  # of what a run before this one may have left
                self._make_all(deque(remaining(self._day)))
            except BaseException as error:
                self._end_early(error)
                raise
            self._journal.add("ended", state="complete", why=self._in_short())
        self._told(f"complete: {self._in_short()}")

    def _begin(self) -> None:
        make_folder(self._day)
        first = next(events_of(self._journal.path), None)
        if first is None:
            self._journal.add("begun", source="shop", entities=[entity_json(each) for each in self._system.entities()])
        else:
            self._journal.add("resumed")
        self._begun = first["at_ns"] / SECOND_NS if first else self._system.now()

    def _end_early(self, error: BaseException) -> None:
        """Leave no fault behind, and say why it ended."""
        aborted = isinstance(error, RcaError)
        why = str(error) if aborted else "stopped by hand" if isinstance(error, KeyboardInterrupt) else repr(error)
        try:
            self._system.clear()
            self._told("every fault was ended; `--resume` goes on with what is left")
        except (Unavailable, Rejected) as failure:
            why += f"; faults could not be ended: {failure}"
            self._told(f"faults could not be ended: {failure}; the guard goes on trying")
        self._journal.add("ended", state="aborted" if aborted else "interrupted", why=why)

    def _in_short(self) -> str:
        day = self._so_far()
        kept = sum(each.incident_id is not None for each in day.injections)
        return f"{kept} of {len(self._plan.injection)} injections are kept"

    def _so_far(self) -> GameDay:
        return told_by(events_of(self._journal.path), replace(self._day, injections=(), guesses=(), watches=(), attempts={}))

    def _make_all(self, tasks: deque[Task]) -> None:
        while tasks:
            task = tasks.popleft()
            try:
                self._make(task)
            except (Spoilt, Unavailable, Rejected, UnknownName) as error:  # a pod may go just before it is to be hit
                if self._spoilt(task, error):
                    tasks.append(task)
        self._wait_for_alerts()

    def _spoilt(self, task: Task, error: RcaError) -> bool:
        """Note that an injection came to nothing; whether it is to be tried again. Raises Aborted if the system is gone."""
        try:
            self._system.clear()
        except (Unavailable, Rejected) as failure:
            raise Aborted(str(failure)) from failure
        self._attempts[task.number] = self._attempts.get(task.number, 0) + 1
        again = self._attempts[task.number] < _ATTEMPTS
        self._journal.add("spoilt", trouble=str(error), **self._facts(task))
        self._say(task, f"not kept ({error}), {'tried again at the end' if again else 'given up'}")
        return again

    def _make(self, task: Task) -> None:
        planned = task.planned
        start = self._system.wait_for_baseline(self._meanwhile(task, "quiet before it"))
        if planned.at is not None and self._begun + planned.at / SECOND_NS > start:
            start = -(-(self._begun + planned.at / SECOND_NS) // _WHOLE_S) * _WHOLE_S
            self._system.wait_until(start, self._meanwhile(task, "waits for its time", start))
        self._close_alerts()
        self._say(task, "begins")
        self._journal.add("injecting", **self._facts(task))
        ends, why = start + self._plan.lasts_ns(planned) / SECOND_NS, "over"
        try:
            self._system.inject(planned)
            self._journal.add("injected", number=task.number, start_ns=_ns(start), end_ns=None, note="")
            self._system.wait_until(ends, self._keeping_up(task, ends))
        except _Fixed:
            why = "fixed"
        finally:
            ended = self._system.now()
            self._system.clear()
            self._journal.add("cleared", number=task.number, end_ns=_ns(ended), why=why)
        self._say(task, "was fixed" if why == "fixed" else "ended")
        self._keep(task, start, ended)

    def _keep(self, task: Task, start: float, ended: float) -> None:
        planned, settle_s = task.planned, self._plan.settle // SECOND_NS
        end = max(ended // _WHOLE_S * _WHOLE_S, start + _SHORTEST_S)
        doubt = self._machine_trouble(start, end)
        incident, telemetry = self._system.observe(start, end, settle_s)
        culprit = self._system.culprit(planned.fault, planned.target)
        injection = Injection(
            task.number, planned.fault, planned.target, culprit, _ns(start), _ns(ended), planned.strength, "shop"
        )
        name = keep(self._store, self._day.name, [injection], incident, telemetry)
        began = Interval(_ns(start), _ns(end + settle_s))
        first_ns, over_ns, unknown = self._alerts(task.number, began)
        trouble = "; ".join(filter(None, (doubt, unknown)))
        self._keep_watch(task, incident, telemetry)
        facts: dict[str, Any] = {"until_ns": began.end_ns, "alerts_ns": first_ns, "over_ns": over_ns, "trouble": trouble}
        self._kept += 1
        self._journal.add("kept", number=task.number, incident_id=name, **facts)
        alerted = f"first alert after {(first_ns - began.start_ns) / SECOND_NS:.0f} s" if first_ns else "no alert"
        self._say(task, f"kept as {name}, {alerted}{f' ({trouble})' if trouble else ''}")

    def _machine_trouble(self, start: float, end: float) -> str:
        """How busy the machine was, where it was too busy. Raises Spoilt unless the plan keeps such incidents."""
        try:
            self._system.check_machine(start, end)
        except Spoilt as error:
            if self._plan.busy == "again":
                raise
            return str(error)
        return ""

    def _keep_watch(self, task: Task, incident: Incident, telemetry: Telemetry) -> None:
        """The quiet time before it, where that is long enough after what it is compared with."""
        start_ns = incident.window.start_ns
        quiet_ns = start_ns - self._plan.quiet
        if self._plan.quiet and incident.baselines and incident.baselines[0].start_ns + MINUTE_NS <= quiet_ns:
            quiet = Interval(quiet_ns, start_ns)
            name = keep_watch(self._store, self._day.name, task.number, quiet, incident, telemetry)
            self._journal.add("watched", start_ns=quiet.start_ns, end_ns=quiet.end_ns, incident_id=name)

    # --- alerts -------------------------------------------------------------------------------------------------------

    def _alerts(self, number: int, began: Interval) -> tuple[int | None, int | None, str]:
        """The first alert of a time, when the last one ended, and why that is not known."""
        try:
            alerts = self._system.alerts(began.start_ns, began.end_ns)
        except (Unavailable, Rejected) as error:
            return None, None, f"alerts are not known: {error}"
        ends = [alert.end_ns for alert in alerts]
        if None in ends:
            self._open[number] = began
        over = max((end for end in ends if end is not None), default=None)
        return (alerts[0].start_ns if alerts else None), (None if None in ends else over), ""

    def _close_alerts(self) -> None:
        """Note the end of alerts that went on when their injection was kept."""
        for number, began in list(self._open.items()):
            del self._open[number]
            _, over_ns, _ = self._alerts(number, began)
            if over_ns is not None:
                self._journal.add("alerts", number=number, over_ns=over_ns)

    def _wait_for_alerts(self) -> None:
        deadline = self._system.now() + _LAST_ALERTS_S
        while self._open and self._system.now() < deadline:
            self._system.wait_until(self._system.now() + _WHOLE_S, self._show_end)
            self._close_alerts()

    def _show_end(self) -> None:
        whole = len(self._plan.injection)
        self._shown("waits until the last alerts end", whole, whole)

    # --- while time passes --------------------------------------------------------------------------------------------

    def _meanwhile(self, task: Task, words: str, until: float | None = None) -> Meanwhile:
        """What is done while time passes, until a time where that is known."""

        def look() -> None:
            now = self._system.now()
            if now - self._looked >= _LOOK_S:
                self._looked = now
                self._conditions.check()
            left = "" if until is None else f", {max(until - now, 0):.0f} s left"
            self._shown(f"{task.planned.name}: {words}{left}", self._kept, len(self._plan.injection))

        return look

    def _keeping_up(self, task: Task, ends: float) -> Meanwhile:
        look, kept_up = self._meanwhile(task, "injected", ends), self._system.now()

        def keep_up() -> None:
            nonlocal kept_up
            look()
            if task.planned.until == "fixed" and self._so_far().injected(task.number).fixed_ns is not None:
                raise _Fixed
            if self._system.now() - kept_up >= _LOOK_S:
                kept_up = self._system.now()
                self._system.keep_up(task.planned)

        return keep_up

    def _facts(self, task: Task) -> dict[str, Any]:
        """What the journal says of an injection."""
        planned = task.planned
        culprit = self._system.culprit(planned.fault, planned.target)
        return {
            "number": task.number,
            "fault": planned.fault,
            "target": planned.target,
            "culprit": entity_json(culprit) if culprit else None,
            "strength": planned.strength,
            "source": "shop",
        }

    def _say(self, task: Task, words: str) -> None:
        number = f"{task.number}/{len(self._plan.injection)}"
        self._told(f"{clock(_ns(self._system.now()))}  {number} {task.planned.name}: {words}")


def _ns(seconds: float) -> int:
    return round(seconds * SECOND_NS)
