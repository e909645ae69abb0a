"""The onset is found where the telemetry changes, and nowhere when it does not."""

from __future__ import annotations

import pytest

from rca.incidents.example import example_incident
from rca.onset import estimated_onset
from rca.pipeline import window_of
from rca.telemetry import MINUTE_NS, SECOND_NS, Interval, Telemetry


@pytest.mark.parametrize("fault_kind", ["cpu_contention", "network_delay", "return", "exception"])
def test_the_onset_is_found_within_half_a_minute(fault_kind: str) -> None:
    incident, telemetry = example_incident(seed=3, fault_kind=fault_kind)
    window = incident.window
    search = Interval(window.start_ns - 3 * MINUTE_NS, window.end_ns)
    onset = estimated_onset(window_of(incident, telemetry, search))
    assert onset is not None
    assert abs(onset - window.start_ns) <= 30 * SECOND_NS


def test_without_telemetry_there_is_no_onset() -> None:
    incident, _ = example_incident(seed=3)
    assert estimated_onset(window_of(incident, Telemetry())) is None


def test_a_third_of_the_stretch_must_follow() -> None:
    incident, telemetry = example_incident(seed=3)
    window = incident.window
    late = Interval(window.start_ns - 9 * MINUTE_NS, window.start_ns + MINUTE_NS)  # the fault fills the last tenth only
    onset = estimated_onset(window_of(incident, telemetry, late))
    assert onset is None or onset <= late.end_ns - (late.end_ns - late.start_ns) // 3
