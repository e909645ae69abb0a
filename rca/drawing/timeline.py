"""The timeline of an incident: alerts, changes and events, and the moments that the incident itself knows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol

from rca.contracts import Case
from rca.drawing.foreign import LINE, NAME, moment, name_of, plain
from rca.incidents.incident import Incident
from rca.report import shown_text
from rca.telemetry import ENTITY_KINDS, SECOND_NS, EntityId, Interval
from rca.wording import clock, listed, seconds

MOST_ENTRIES: Final = 30
"""Rows of the timeline; what is about the cause, alerts and changes come first, and the rest is counted."""
WIDTH: Final = 960
LANES: Final = ("alert", "change", "event")
_LANE_TOP, _LANE_HEIGHT = 22, 20

Sort = Literal["moment", "alert", "change", "event"]

CHANGES: Final = (
    *("ImageChanged", "ConfigurationChanged", "ConfigMapChanged", "SecretChanged", "RolloutStarted", "RolloutFinished"),
    *("RolloutStalled", "Scaled", "ScalingReplicaSet", "SuccessfulRescale"),
)
"""Reasons of events that say that somebody or something changed the system, not merely that a pod came or went."""


class Alert(Protocol):
    """One alert as its sender wrote it. `ends_ns` is None while it fires."""

    @property
    def name(self) -> str: ...
    @property
    def severity(self) -> str: ...
    @property
    def entity(self) -> str: ...
    @property
    def summary(self) -> str: ...
    @property
    def starts_ns(self) -> int: ...
    @property
    def ends_ns(self) -> int | None: ...
    @property
    def status(self) -> str: ...


@dataclass(frozen=True)
class Entry:
    """Something that happened `times` times, first at `at_ns` (None: nobody wrote down when) and last at `until_ns`."""

    at_ns: int | None
    sort: Sort
    what: str
    about: str = ""
    words: str = ""
    severity: str = ""
    until_ns: int | None = None
    times: int = 1
    of_cause: bool = False

    @property
    def when(self) -> str:
        return clock(self.at_ns) if self.at_ns is not None else "some time"

    @property
    def ended(self) -> str:
        """When it ended or was seen last, where that differs."""
        later = self.until_ns is not None and self.at_ns is not None and self.until_ns // 10**9 > self.at_ns // 10**9
        return clock(self.until_ns) if later and self.until_ns is not None else ""


@dataclass(frozen=True)
class Mark:
    """An entry on the strip: places in its units."""

    x: float
    y: float
    width: float
    sort: Sort
    of_cause: bool
    words: str


@dataclass(frozen=True)
class Timeline:
    """Entries in order, `more` that were left out, and the strip above them."""

    entries: tuple[Entry, ...]
    more: int
    marks: tuple[Mark, ...]
    incident: tuple[float, float]
    ticks: tuple[tuple[float, str], ...]
    day: str
    lanes: tuple[tuple[float, str], ...]
    width: int = WIDTH
    height: int = _LANE_TOP + len(LANES) * _LANE_HEIGHT + 24


def timeline_of(
    incident: Incident, alerts: Sequence[Alert], recorded: Sequence[Entry], cause: EntityId | None, *, resolved: bool = False
) -> Timeline:
    """Every alert, change and event around the incident in order; `recorded` is what `recorded_entries` found."""
    told = list(_told(alerts, cause))
    known = {(entry.what, entry.about) for entry in told}
    found = [*_moments(incident, resolved=resolved), *told]
    found += [entry for entry in recorded if entry.sort != "alert" or (entry.what, entry.about) not in known]
    kept = sorted(found, key=_weight)[:MOST_ENTRIES]
    kept.sort(key=lambda entry: (entry.at_ns is None, entry.at_ns or 0, entry.sort != "moment"))
    return _drawn(tuple(kept), len(found) - len(kept), incident.window.interval())


def recorded_entries(case: Case, cause: EntityId | None) -> tuple[Entry, ...]:
    """Alerts and events that the telemetry holds, alike ones in one row."""
    return (*_recorded_alerts(case, cause), *_events(case, cause))


def _weight(entry: Entry) -> tuple[bool, bool, int, int]:
    return (entry.sort != "moment", not entry.of_cause, (*LANES, "moment").index(entry.sort), entry.at_ns or 0)


def _moments(incident: Incident, *, resolved: bool) -> Iterator[Entry]:
    window = incident.window
    yield Entry(window.start_ns, "moment", f"Window of the incident begins, {seconds(window.interval().seconds)} long")
    if incident.detected_ns is not None:
        yield Entry(incident.detected_ns, "moment", "Noticed")
    yield Entry(window.end_ns, "moment", "Window of the incident ends" + (", resolved since" if resolved else ""))


def _told(alerts: Sequence[Alert], cause: EntityId | None) -> Iterator[Entry]:
    """Alerts of the notice."""
    for alert in alerts:
        about = plain(shown_text(alert.entity), NAME)
        yield Entry(
            moment(alert.starts_ns),
            "alert",
            plain(alert.name, NAME),
            about,
            plain(alert.summary, LINE),
            plain(alert.severity, 24),
            moment(alert.ends_ns),
            of_cause=cause is not None and about in (name_of(cause), cause.name),
        )


def _recorded_alerts(case: Case, cause: EntityId | None) -> Iterable[Entry]:
    """Alerts of the telemetry, by name and entity."""
    groups: dict[tuple[str, EntityId], list[int | None]] = {}
    owner = _owners(case)
    columns = ["time_unix_nano", "entity_kind", "entity", "namespace", "name", "direction", "peer"]
    for at, kind, entity, namespace, name, direction, peer in case.window.alerts.select(columns).iter_rows():
        about = EntityId(kind if kind in ENTITY_KINDS else "service", entity, namespace or "")
        words = " ".join(part for part in (name, direction, f"to {peer}" if peer else "") if part)
        groups.setdefault((words, about), []).append(at)
    for (words, about), times in groups.items():
        known = sorted(at for at in times if at is not None)
        yield Entry(
            known[0] if known else None,
            "alert",
            plain(words, NAME),
            name_of(about),
            until_ns=known[-1] if known else None,
            times=len(times),
            of_cause=owner.get(about, about) == cause,
        )


def _events(case: Case, cause: EntityId | None) -> Iterable[Entry]:
    """Changes and warnings by reason and entity; what else Kubernetes tells of an entity within half a minute, in one row."""
    owner = _owners(case)
    columns = ["time_unix_nano", "entity_kind", "entity", "namespace", "reason", "severity", "message"]
    groups: dict[tuple[object, ...], Entry] = {}
    reasons: dict[tuple[object, ...], dict[str, None]] = {}
    events = case.window.events.sort("time_unix_nano").select(columns)
    for at, kind, name, namespace, reason, severity, message in events.iter_rows():
        entity = EntityId(kind if kind in ENTITY_KINDS else "service", name, namespace or "")
        about = owner.get(entity, entity)
        sort: Sort = "change" if reason in CHANGES else "event"
        routine = sort == "event" and severity != "Warning"
        key: tuple[object, ...] = (about, at // (30 * SECOND_NS)) if routine else (about, reason, severity)
        reasons.setdefault(key, {})[plain(reason, NAME)] = None
        if key in groups:
            groups[key] = replace(groups[key], times=groups[key].times + 1, until_ns=at)
        else:
            words = "" if routine else plain(message or "", LINE)
            level = "" if severity == "Normal" else plain(severity or "", 24)
            groups[key] = Entry(at, sort, "", name_of(about), words, level, of_cause=about == cause)
    for group, entry in groups.items():
        yield replace(entry, what=listed(list(reasons[group]), 4))


def _owners(case: Case) -> dict[EntityId, EntityId]:
    """Pods to the services that run them."""
    entities = case.graph.entities
    return {entities[pod]: entities[service] for pod, service in case.graph.owners.items()}


# --- the strip ----------------------------------------------------------------------------------------------------------


def _drawn(entries: tuple[Entry, ...], more: int, window: Interval) -> Timeline:
    length = window.end_ns - window.start_ns
    times = [at for entry in entries for at in (entry.at_ns, entry.until_ns) if at is not None]
    first = max(min([window.start_ns, *times]), window.start_ns - 2 * length) - length // 20
    last = min(max([window.end_ns, *times]), window.end_ns + length) + length // 20

    def x(at_ns: int) -> float:
        return round(70 + (WIDTH - 90) * (min(max(at_ns, first), last) - first) / (last - first), 1)

    return Timeline(
        entries,
        more,
        tuple(_marks(entries, x)),
        (x(window.start_ns), round(x(window.end_ns) - x(window.start_ns), 1)),
        tuple((x(at), clock(at)) for at in _ticks(first, last)),
        clock(window.start_ns, date=True)[:10],
        tuple((_lane(lane), f"{lane}s") for lane in LANES),
    )


def _marks(entries: Collection[Entry], x: Callable[[int], float]) -> Iterator[Mark]:
    for entry in entries:
        if entry.sort == "moment" or entry.at_ns is None:
            continue
        start = x(entry.at_ns)
        end = x(entry.until_ns) if entry.ended and entry.until_ns is not None else start
        words = " ".join(part for part in (entry.when, entry.what, entry.about) if part)
        yield Mark(start, _lane(entry.sort), round(end - start, 1), entry.sort, entry.of_cause, words)


def _lane(sort: str) -> float:
    return _LANE_TOP + LANES.index(sort) * _LANE_HEIGHT + _LANE_HEIGHT / 2


def _ticks(first_ns: int, last_ns: int) -> Iterator[int]:
    for step in (10, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 86400):
        if (last_ns - first_ns) / 10**9 / step <= 7:
            yield from range(-(-first_ns // (step * 10**9)) * step * 10**9, last_ns + 1, step * 10**9)
            return
