"""What goes wrong with an incident's data in real life, done to it on purpose: wrong onsets, lost modalities, sparse traces."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import polars as pl

from rca.errors import BadInput, UnknownName
from rca.evaluation.damage import DAMAGES, REASON, Recording, Transform
from rca.incidents.incident import BaselineModel, Incident, IntervalModel
from rca.onset import estimated_onset
from rca.pipeline import window_of
from rca.telemetry import BIN_FRAMES, MINUTE_NS, SECOND_NS, Gap, Interval, Telemetry, empty

NONE: Final = "none"
QUIET: Final = "quiet"
BEFORE: Final = "before-fault"
"""Quiet windows before the incident, asked for the later culprit: whoever names it better than chance has found a leak."""
_ALERT_SOURCES: Final = {"spans": "trace", "metrics": "metric", "logs": "log"}


def untouched(incident: Incident, telemetry: Telemetry) -> Recording:
    """As recorded."""
    return incident, telemetry


def onset_off(seconds: int) -> Transform:
    """Believe that the fault began `seconds` later than it did; window and preceding baselines move along."""
    shift = seconds * SECOND_NS

    def moved(incident: Incident, telemetry: Telemetry) -> Recording:
        baselines = tuple(_moved(b, shift) if b.provenance == "preceding" else b for b in incident.baselines)
        onset = None if incident.onset_ns is None else incident.onset_ns + shift
        window = IntervalModel(start_ns=incident.window.start_ns + shift, end_ns=incident.window.end_ns + shift)
        return incident.model_copy(update={"window": window, "baselines": baselines, "onset_ns": onset}), telemetry

    return moved


def without(frame: str) -> Transform:
    """Lose one modality: spans, metrics or logs, and the alerts raised on it."""

    def dropped(incident: Incident, telemetry: Telemetry) -> Recording:
        alerts = telemetry.alerts.filter(pl.col("source") != _ALERT_SOURCES[frame])
        gaps = (*telemetry.gaps, Gap(frame, REASON))
        frames = (frame, *BIN_FRAMES) if frame == "spans" else (frame,)
        return incident, replace(telemetry, alerts=alerts, gaps=gaps, **{name: empty(name) for name in frames})

    return dropped


def quiet(incident: Incident, telemetry: Telemetry) -> Recording:
    """A window in which nothing was wrong: the end of the nearest baseline takes the incident's place, without a label.

    Raises BadInput if the baselines are too short to give a window and to keep as much again for comparison.
    """
    return _calm(incident, telemetry, incident.baselines)


def before_fault(incident: Incident, telemetry: Telemetry) -> Recording:
    """As `quiet`, but the window ends before the incident begins. Raises BadInput if no baseline does."""
    start_ns = incident.window.start_ns
    return _calm(incident, telemetry, tuple(b for b in incident.baselines if b.end_ns <= start_ns))


def _calm(incident: Incident, telemetry: Telemetry, choice: tuple[BaselineModel, ...]) -> Recording:
    length = incident.window.end_ns - incident.window.start_ns
    long_enough = [b for b in choice if b.end_ns - b.start_ns >= length]
    if not long_enough or sum(b.end_ns - b.start_ns for b in incident.baselines) < 2 * length:
        found = f"{len(choice)} to choose from, not that long"
        raise BadInput(f"incident {incident.id}", expected="baselines at least twice as long as the incident", found=found)
    nearest = min(long_enough, key=lambda b: abs(b.end_ns - incident.window.start_ns))
    window = IntervalModel(start_ns=nearest.end_ns - length, end_ns=nearest.end_ns)
    others = [b for b in incident.baselines if b is not nearest]
    if nearest.start_ns < window.start_ns:
        others.append(nearest.model_copy(update={"end_ns": window.start_ns}))
    changed = {"window": window, "baselines": tuple(sorted(others, key=lambda b: b.start_ns)), "onset_ns": window.start_ns}
    alerts = telemetry.alerts.clear()  # they belong to the incident
    calm = incident.model_copy(update=changed | {"labels": (), "alerting": (), "detected_ns": None})
    return calm, replace(telemetry, alerts=alerts)


def onset_estimated(incident: Incident, telemetry: Telemetry) -> Recording:
    """Find the onset ourselves, in a stretch that starts one window earlier (three minutes at most) and ends with the window."""
    window = incident.window
    search = Interval(window.start_ns - min(window.end_ns - window.start_ns, 3 * MINUTE_NS), window.end_ns)
    onset = estimated_onset(window_of(incident, telemetry, search)) or search.start_ns
    found = IntervalModel(start_ns=onset, end_ns=window.end_ns)
    return incident.model_copy(update={"window": found, "onset_ns": onset}), telemetry


TRANSFORMS: Final[dict[str, Transform]] = {
    NONE: untouched,
    "onset-60": onset_off(-60),
    "onset+60": onset_off(60),
    "onset+120": onset_off(120),
    "onset-estimated": onset_estimated,
    "no-traces": without("spans"),
    "no-metrics": without("metrics"),
    "no-logs": without("logs"),
    QUIET: quiet,
    BEFORE: before_fault,
    **DAMAGES,
}


def transform(name: str) -> Transform:
    """A transform by name. Raises UnknownName."""
    if name not in TRANSFORMS:
        raise UnknownName("transform", name, TRANSFORMS)
    return TRANSFORMS[name]


def _moved(baseline: BaselineModel, shift_ns: int) -> BaselineModel:
    return baseline.model_copy(update={"start_ns": baseline.start_ns + shift_ns, "end_ns": baseline.end_ns + shift_ns})
