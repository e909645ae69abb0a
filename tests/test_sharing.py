"""Incidents to share: no name is left, nothing else has changed; and the size limit holds."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from rca.bins import frames_of
from rca.errors import BadInput
from rca.incidents.bundle import write_bundle
from rca.incidents.example import DATABASES, SERVICES, example_incident
from rca.incidents.incident import EntityModel, Label
from rca.incidents.sharing import capped, redacted
from rca.telemetry import Gap, Telemetry

INCIDENT, TELEMETRY = example_incident(fault_kind="exception", culprit="payment", requests_per_second=0.5)
NAMES = (*SERVICES, "node-a", "node-b", "node-c", "GET /", "PlaceOrder", "example-shop")


def _text(telemetry: Telemetry) -> str:
    return "\n".join(
        value for frame in telemetry.frames().values() for column in frame.iter_columns() if column.dtype == pl.String
        for value in column.drop_nulls().unique()
    )  # fmt: skip


BINNED = replace(TELEMETRY, spans=TELEMETRY.spans.clear(), **frames_of(TELEMETRY.spans))


@pytest.mark.parametrize("recorded", [TELEMETRY, BINNED], ids=["spans", "bins"])
def test_no_name_is_left_anywhere(recorded: Telemetry) -> None:
    noted = Label(entity=EntityModel(name="cart"), provenance="inferred", author="anna", note="the cart team says so")
    known = INCIDENT.model_copy(update={"labels": (*INCIDENT.labels, noted), "links": ("https://wiki/cart",)})
    gap = Gap("logs", "no logs of payment")
    incident, telemetry = redacted(known, replace(recorded, gaps=(gap,)))
    text = incident.model_dump_json() + _text(telemetry) + "".join(gap.reason for gap in telemetry.gaps)
    words = {name: rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])" for name in (*NAMES, "anna", "wiki")}
    assert [name for name, word in words.items() if re.search(word, text)] == []
    assert telemetry.gaps[0].reason.startswith("no logs of svc-")


def test_products_and_canonical_metrics_stay() -> None:
    telemetry = redacted(INCIDENT, TELEMETRY)[1]
    assert set(telemetry.spans["db.system.name"].drop_nulls()) == set(DATABASES)
    assert set(telemetry.metrics["metric"]) == set(TELEMETRY.metrics["metric"])
    assert "<*>" in telemetry.logs["template"][0]


def test_names_are_replaced_one_to_one_and_the_same_everywhere() -> None:
    incident, telemetry = redacted(INCIDENT, TELEMETRY)
    spans = pl.DataFrame({"old": TELEMETRY.spans["service.name"], "new": telemetry.spans["service.name"]}).unique()
    pseudonym = dict(spans.iter_rows())
    assert len(set(pseudonym.values())) == len(SERVICES)
    assert incident.labels[0].entity.name == pseudonym["payment"]
    assert incident.alerting[0].name == pseudonym["frontend"] == telemetry.alerts["entity"][0]
    for column in ("service.peer.name", "server.address"):
        both = pl.DataFrame({"old": TELEMETRY.spans[column], "new": telemetry.spans[column]}).drop_nulls().unique()
        assert all(new == pseudonym.get(old, old) for old, new in both.iter_rows())
    pods = telemetry.topology.filter(pl.col("relation") == "runs")
    assert all(pod.startswith(f"{owner}-") for owner, pod in pods.select("source", "target").iter_rows())


def test_everything_but_names_is_as_it_was() -> None:
    telemetry = redacted(INCIDENT, TELEMETRY)[1]
    for name, frame in TELEMETRY.frames().items():
        other = telemetry.frames()[name]
        kept = [
            column for column in frame.columns if frame[column].dtype != pl.String or column in ("trace_id", "parent_span_id")
        ]
        assert frame.select(kept).equals(other.select(kept))
        for column in set(frame.columns) - set(kept) - {"message"}:
            assert frame[column].rank("dense").n_unique() == other[column].rank("dense").n_unique()
            assert frame[column].is_null().equals(other[column].is_null())


def test_a_salt_makes_it_repeatable_and_its_absence_does_not() -> None:
    assert redacted(INCIDENT, TELEMETRY, b"s")[0] == redacted(INCIDENT, TELEMETRY, b"s")[0]
    assert redacted(INCIDENT, TELEMETRY)[0] != redacted(INCIDENT, TELEMETRY)[0]


def test_the_size_limit_drops_baseline_traces_and_says_so(tmp_path: Path) -> None:
    whole = write_bundle(tmp_path / "whole.tar.zst", INCIDENT, TELEMETRY).stat().st_size
    limit = int(whole * 0.7)
    small = capped(INCIDENT, TELEMETRY, limit)
    assert write_bundle(tmp_path / "small.tar.zst", INCIDENT, small).stat().st_size <= limit
    assert "baseline traces kept to limit the size" in small.gaps[0].reason
    inside = pl.col("start_time_unix_nano") >= INCIDENT.window.start_ns
    assert small.spans.filter(inside).equals(TELEMETRY.spans.filter(inside))
    assert 0 < small.spans.filter(~inside).height < TELEMETRY.spans.filter(~inside).height
    whole_traces = TELEMETRY.spans.filter(pl.col("trace_id").is_in(small.spans["trace_id"].unique().implode()))
    assert small.spans.equals(whole_traces)
    assert small.spans.equals(capped(INCIDENT, TELEMETRY, limit).spans)


def test_what_fits_is_left_alone() -> None:
    assert capped(INCIDENT, TELEMETRY, 10**9) is TELEMETRY


def test_a_limit_that_cannot_be_met_is_refused() -> None:
    with pytest.raises(BadInput, match=r"a limit of at least 0\.\d+ MiB"):
        capped(INCIDENT, TELEMETRY, 1000)
