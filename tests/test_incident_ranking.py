"""From a bundle to a ranking: it replays to the same text, names do not matter, and broken telemetry is ranked with its gaps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from rca.incidents.bundle import read_bundle, write_bundle
from rca.incidents.example import example_incident
from rca.incidents.sharing import redacted
from rca.models.registry import create
from rca.pipeline import triage
from rca.telemetry import Telemetry

FAULTS = ("cpu_contention", "network_delay", "exception", "return")


@pytest.mark.parametrize("suffix", ["", ".tar.zst"])
def test_a_bundle_replays_to_the_same_ranking(tmp_path: Path, suffix: str) -> None:
    incident, telemetry = example_incident(requests_per_second=1.0)
    ranking = triage(incident, telemetry, create("floor"))
    path = write_bundle(tmp_path / f"b{suffix}", incident, telemetry)
    assert triage(*read_bundle(path), create("floor")).dumps() == ranking.dumps()


@pytest.mark.parametrize("fault_kind", FAULTS)
def test_redaction_does_not_change_the_ranking(fault_kind: str) -> None:
    incident, telemetry = example_incident(fault_kind=fault_kind, culprit="payment", requests_per_second=1.0)
    ranking, other = (triage(*each, create("floor")) for each in ((incident, telemetry), redacted(incident, telemetry)))
    assert [round(c.score, 6) for c in other.candidates] == [round(c.score, 6) for c in ranking.candidates]
    assert [c.fault_family for c in other.candidates] == [c.fault_family for c in ranking.candidates]
    assert other.no_fault == pytest.approx(ranking.no_fault)


def _broken(telemetry: Telemetry) -> Telemetry:
    """Self-parents, repeated spans and a clock that runs backwards, a few percent of each."""
    row = pl.int_range(pl.len())
    before = pl.col("start_time_unix_nano") - 1
    spans = telemetry.spans.with_columns(
        pl.when(row % 50 == 0).then("span_id").otherwise("parent_span_id").alias("parent_span_id"),
        pl.when(row % 77 == 0).then(before).otherwise("end_time_unix_nano").alias("end_time_unix_nano"),
    )
    return replace(telemetry, spans=pl.concat([spans, spans.head(100)]))


def test_broken_telemetry_is_ranked_and_its_gaps_are_told() -> None:
    incident, telemetry = example_incident()
    ranking = triage(incident, _broken(telemetry), create("floor"))
    assert ranking.candidates[0].entity.name == "catalogue"
    reasons = " ".join(gap.reason for gap in ranking.gaps)
    assert all(
        words in reasons for words in ("a clock ran backwards", "repeat the id", "their own ancestor", "parent that is absent")
    )
