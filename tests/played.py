"""Game days made of recorded incidents, for tests: what `rca gameday run` would have left, without an hour of injecting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from rca.gameday.folder import Journal, day_folder, entity_json
from rca.incidents.bundle import read_bundle
from rca.incidents.incident import Incident
from rca.incidents.store import IncidentStore
from rca.telemetry import MINUTE_NS, EntityId, Telemetry

ROOT = Path(__file__).resolve().parent.parent
RECORDED = ROOT / "incidents"
_APART_NS = 5 * MINUTE_NS


@dataclass(frozen=True)
class Guessed:
    """Somebody guesses, `after_s` seconds after the beginning of the injection."""

    number: int
    who: str
    entity: EntityId
    after_s: float


def bundles(*numbers: int) -> list[tuple[Incident, Telemetry]]:
    """Recordings of the repository by number."""
    return [read_bundle(next(RECORDED.glob(f"shop-{number:03}-*.tar.zst"))) for number in numbers]


def first_alert(incident: Incident, telemetry: Telemetry) -> int | None:
    """When the first alert of an incident's window fired."""
    window = incident.window
    times = telemetry.alerts["time_unix_nano"]
    first = times.filter(times.is_between(window.start_ns, window.end_ns, closed="left")).min()
    return first if isinstance(first, int) else None


def game_day(
    home: Path,
    recordings: Sequence[tuple[Incident, Telemetry]],
    *,
    name: str = "friday",
    watched: Sequence[tuple[Incident, Telemetry]] = (),
    guesses: Sequence[Guessed] = (),
    lost: Sequence[int] = (),
    over_after_s: float | None = None,
    fixed_after_s: float | None = None,
    state: str = "complete",
    why: str = "",
) -> str:
    """Put incidents into the store of `home` and a journal beside them that says that they were injected one after the other.

    Those whose numbers are in `lost` were spoilt. `state` is how the day ended, "" where it has not.
    """
    journal = Journal(day_folder(home, name))
    journal.begin()
    known = sorted({EntityId("service", "cart"), *(cause for incident, _ in recordings for cause in incident.causes())})
    journal.add("begun", source="shop", entities=[entity_json(entity) for entity in known])
    with IncidentStore(home) as store:
        for number, (incident, telemetry) in enumerate(recordings, 1):
            start, end = incident.window.start_ns, incident.window.end_ns
            causes = incident.causes()
            culprit = entity_json(causes[0]) if causes else None
            target = causes[0].name if causes else ""
            said = {"fault": incident.fault_kind(), "target": target, "culprit": culprit, "strength": 0.5, "source": "shop"}
            journal.add("injecting", at_ns=start, number=number, **said)
            journal.add("injected", number=number, start_ns=start, end_ns=None, note="")
            journal.add("cleared", number=number, end_ns=end, why="")
            if number in lost:
                journal.add("spoilt", number=number, trouble="the machine was saturated")
                continue
            store.add(incident, telemetry)
            alert = first_alert(incident, telemetry)
            over = None if over_after_s is None or alert is None else end + round(over_after_s * 1e9)
            kept = {"incident_id": incident.id, "until_ns": end, "alerts_ns": alert, "over_ns": over, "trouble": ""}
            journal.add("kept", number=number, **kept)
            if fixed_after_s is not None:
                journal.add("fixed", at_ns=start + round(fixed_after_s * 1e9), number=number, who="anna")
        for incident, telemetry in watched:
            store.add(incident, telemetry)
            window = incident.window
            journal.add("watched", start_ns=window.start_ns, end_ns=window.end_ns, incident_id=incident.id)
    for guess in guesses:
        start = recordings[guess.number - 1][0].window.start_ns
        at_ns = start + round(guess.after_s * 1e9)
        journal.add("guess", at_ns=at_ns, number=guess.number, who=guess.who, entity=entity_json(guess.entity))
    if state:
        journal.add("ended", state=state, why=why)
    return name


def without_alerts(recording: tuple[Incident, Telemetry]) -> tuple[Incident, Telemetry]:
    """A recording in which no alert fired."""
    incident, telemetry = recording
    return incident, replace(telemetry, alerts=telemetry.alerts.clear())


def moved(recording: tuple[Incident, Telemetry], by_ns: int) -> tuple[Incident, Telemetry]:
    """The same recording at another time; whole bins keep their content."""
    incident, telemetry = recording
    body = incident.model_dump()
    for interval in (body["window"], *body["baselines"]):
        interval |= {"start_ns": interval["start_ns"] + by_ns, "end_ns": interval["end_ns"] + by_ns}
    body |= {key: body[key] + by_ns for key in ("detected_ns", "onset_ns") if body[key] is not None}
    frames = {name: _moved(frame, by_ns) for name, frame in telemetry.frames().items()}
    return Incident(**body | {"gaps": ()}), Telemetry(**frames)


def _moved(frame: pl.DataFrame, by_ns: int) -> pl.DataFrame:
    return frame.with_columns(pl.col(name) + by_ns for name in frame.columns if name.endswith("time_unix_nano"))


def in_a_row(recordings: Sequence[tuple[Incident, Telemetry]]) -> list[tuple[Incident, Telemetry]]:
    """Recordings one after the other, five minutes from beginning to beginning: some were made by several shops at once."""
    first = recordings[0][0].window.start_ns
    return [moved(one, first + number * _APART_NS - one[0].window.start_ns) for number, one in enumerate(recordings)]
