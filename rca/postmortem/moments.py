"""When it began, was noticed, answered and over. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

import polars as pl

from rca.contracts import Case
from rca.drawing.foreign import moment
from rca.drawing.timeline import CHANGES
from rca.postmortem.account import Account, Answer, Fired
from rca.telemetry import ENTITY_KINDS, MINUTE_NS, EntityId
from rca.window import INCIDENT

_BEFORE_NS: Final = 10 * MINUTE_NS


@dataclass(frozen=True)
class Change:
    """Something that was changed: what the telemetry calls it, of whom, and what it says of it."""

    at_ns: int
    reason: str
    entity: EntityId
    message: str


@dataclass(frozen=True, eq=False)
class Moments:
    """The moments of an account."""

    account: Account

    @cached_property
    def onset_by(self) -> Literal["recorded", "window"]:
        """How the onset is known: it was written down, or the window is taken to begin with it."""
        return "window" if self.account.incident.onset_ns is None else "recorded"

    @cached_property
    def alerts(self) -> tuple[Fired, ...]:
        """Every alert with a time that can be, in order: as they arrived, else as the telemetry of the window has them."""
        told = [alert for alert in self.account.alerts if moment(alert.starts_ns) is not None]
        found = told or _recorded(self.account.case, pl.col("interval") == INCIDENT)
        return tuple(sorted(found, key=lambda alert: (alert.starts_ns, alert.name)))

    @cached_property
    def earlier(self) -> tuple[Fired, ...]:
        """Alerts of the telemetry that fired in the baseline."""
        return tuple(_recorded(self.account.case, pl.col("interval") != INCIDENT))

    @cached_property
    def ended_ns(self) -> int | None:
        """When the last alert ended; None while one fires, or where nobody wrote that down."""
        ends = [alert.ends_ns for alert in self.alerts]
        return max((end for end in ends if end is not None), default=None) if ends and None not in ends else None

    @cached_property
    def first_answer(self) -> Answer | None:
        return next((answer for answer in self.account.answers if answer.ranking is not None), None)

    @cached_property
    def first_right(self) -> Answer | None:
        return next((one for one in self.account.answers if self.account.is_right(one.leader, one.ranking)), None)

    @cached_property
    def changes(self) -> tuple[Change, ...]:
        """Changes around the incident, in order: alike ones of one entity once."""
        found: dict[tuple[str, EntityId], Change] = {}
        for change in _changes(self.account, self.looked_back_ns):
            found.setdefault((change.reason, change.entity), change)
        return tuple(found.values())

    @cached_property
    def before(self) -> tuple[Change, ...]:
        """Changes that came before the onset or with it."""
        return tuple(change for change in self.changes if change.at_ns <= self.account.onset_ns)

    @cached_property
    def trigger(self) -> Change | None:
        """The change that tells most: of the cause before others, in the order of CHANGES, the last first."""
        cause = self.account.cause
        ordered = sorted(self.before, key=lambda one: (one.entity != cause, CHANGES.index(one.reason), -one.at_ns))
        return ordered[0] if ordered else None

    @cached_property
    def after(self) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.at_ns > self.account.onset_ns)

    @cached_property
    def looked_back_ns(self) -> int:
        """From when on changes are looked at: ten minutes before the onset, or since there is telemetry."""
        incident = self.account.incident
        starts = [baseline.start_ns for baseline in incident.baselines if baseline.provenance == "preceding"]
        return max(self.account.onset_ns - _BEFORE_NS, min([*starts, incident.window.start_ns, self.account.onset_ns]))

    @cached_property
    def over_ns(self) -> int | None:
        """When requests were as usual again, for 20 s or more; None where the telemetry does not show it, or nothing was hurt."""
        steps = self.account.impact.steps if self.account.impact is not None else ()
        hurt = [i for i, step in enumerate(steps) if step.hurt]
        return steps[hurt[-1]].end_ns if hurt and hurt[-1] < len(steps) - 2 else None


def _recorded(case: Case, which: pl.Expr) -> Iterator[Fired]:
    """Alerts of the telemetry in order, the first of each name and entity."""
    columns = ["time_unix_nano", "entity_kind", "entity", "namespace", "name"]
    frame = case.window.alerts.filter(which & pl.col("time_unix_nano").is_not_null()).sort("time_unix_nano", "name")
    for at_ns, kind, entity, namespace, name in (
        frame.unique(columns[1:], keep="first", maintain_order=True).select(columns).iter_rows()
    ):
        about = EntityId(kind if kind in ENTITY_KINDS else "service", entity, namespace or "")
        yield Fired(name, "", about, "", at_ns, None)


def _changes(account: Account, since_ns: int) -> Iterator[Change]:
    graph = account.case.graph
    owners = {graph.entities[pod]: graph.entities[service] for pod, service in graph.owners.items()}
    columns = ["time_unix_nano", "entity_kind", "entity", "namespace", "reason", "message"]
    inside = pl.col("time_unix_nano").is_between(since_ns, account.case.window.incident.end_ns) & pl.col("reason").is_in(CHANGES)
    for row in account.telemetry.events.filter(inside).sort("time_unix_nano").select(columns).iter_rows():
        at_ns, kind, name, namespace, reason, message = row
        entity = EntityId(kind if kind in ENTITY_KINDS else "service", name, namespace or "")
        yield Change(at_ns, reason, owners.get(entity, entity), message or "")
