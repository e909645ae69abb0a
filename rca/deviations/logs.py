"""Log lines: templates that vanish or are new, ERROR lines, and how much is logged at all."""

from __future__ import annotations

import numpy as np
import polars as pl

from rca.bins import key
from rca.deviations.blocks import Blocks
from rca.deviations.counts import Counts, anscombe, expected_counts, rate_change
from rca.deviations.passed_on import PassedOn
from rca.deviations.sheet import Array, Sheet, service_rows
from rca.series import ERROR_SEVERITIES
from rca.topology import Topology, key_of
from rca.window import Window


def measure_logs(sheet: Sheet, window: Window, counts: Counts, passed_on: PassedOn, topology: Topology, blocks: Blocks) -> None:
    """Lines of services; those of a pod are its owner's."""
    lines = blocks.assign(window.logs, "time_unix_nano").filter(pl.col("entity_kind").is_in(["service", "pod"]))
    if lines.filter(pl.col("block") >= 0).is_empty():
        return
    lines = _by_service(lines, topology)
    totals, now, before = counts.tally(lines, ["source"])
    rows = service_rows(topology, totals["source"])
    sheet.raise_node("log_volume", rows, rate_change(counts, now, before))
    _measure_templates(sheet, lines, counts, passed_on, topology, (totals, now, before))
    deviation, change = _error_lines(lines, counts, totals)
    sheet.raise_node("error_lines", rows, deviation * (1 - passed_on.part(rows, change)))


def _by_service(lines: pl.DataFrame, topology: Topology) -> pl.DataFrame:
    """Add `source`, the key of the service that wrote the lines; lines of nobody known are left out."""
    owners = {pod: topology.owners.get(row) for (kind, pod), row in topology.rows.items() if kind == "pod"}
    names = {pod: key_of(topology.entities[row]) for pod, row in owners.items() if row is not None}
    services = [name for kind, name in topology.rows if kind == "service"]
    source = key(pl.col("entity"), pl.col("namespace"))
    named = pl.when(pl.col("entity_kind") == "pod").then(source.replace(names)).otherwise(source)
    return lines.with_columns(named.alias("source")).filter(pl.col("source").is_in(services))


def _measure_templates(
    sheet: Sheet,
    lines: pl.DataFrame,
    counts: Counts,
    passed_on: PassedOn,
    topology: Topology,
    totals: tuple[pl.DataFrame, Array, Array],
) -> None:
    """Lines of a template per span of its operation where spans are known, else per line of its service."""
    services, totals_now, totals_before = totals
    total_of = {source: k for k, source in services.iter_rows()}
    spans, spans_now, spans_before = counts.of("span", ["source", "operation"])
    span_of = {(source, operation): k for k, source, operation in spans.iter_rows()}
    table, now, before = counts.tally(lines, ["source", "operation", "severity", "template"])
    now_exposure, before_exposure = np.zeros_like(now), np.zeros_like(before)
    for k, source, operation, _, _ in table.iter_rows():
        s = span_of.get((source, operation))
        if s is not None:
            now_exposure[:, k], before_exposure[:, k] = spans_now[:, s], spans_before[:, s]
        else:
            t = total_of[source]
            now_exposure[:, k], before_exposure[:, k] = totals_now[:, t], totals_before[:, t]
    expected, share = expected_counts(now_exposure, before, before_exposure)
    rows = service_rows(topology, table["source"])
    deviation = anscombe(now, expected, share) * (1 - passed_on.part(rows, now - expected))
    is_error = table["severity"].is_in(ERROR_SEVERITIES).to_numpy()
    sheet.raise_node("vanished_templates", rows[~is_error], -deviation[:, ~is_error])
    sheet.raise_node("new_templates", rows, deviation)


def _error_lines(lines: pl.DataFrame, counts: Counts, services: pl.DataFrame) -> tuple[Array, Array]:
    """Deviation and change of the number of ERROR lines, (Q, services) each.

    Per span where spans say how many there were, else per covered time.
    """
    place = {source: k for k, source in services.iter_rows()}
    table, errors_now, errors_before = counts.tally(lines.filter(pl.col("severity").is_in(ERROR_SEVERITIES)), ["source"])
    now, before = np.zeros((len(errors_now), len(place))), np.zeros((len(errors_now), len(place)))
    columns = [place[source] for source in table["source"].to_list()]
    now[:, columns], before[:, columns] = errors_now, errors_before
    now_exposure = np.repeat(np.maximum(counts.now_bins, 1.0) * 10, len(place), axis=1)
    before_exposure = np.repeat(np.maximum(counts.before_bins, 1.0) * 10, len(place), axis=1)
    spans, spans_now, spans_before = counts.of("span", ["source"])
    span_of = {source: k for k, source in spans.iter_rows()}
    for source, k in place.items():
        if source in span_of:
            s = span_of[source]
            now_exposure[:, k], before_exposure[:, k] = spans_now[:, s], spans_before[:, s]
    expected, share = expected_counts(now_exposure, before, before_exposure)
    return anscombe(now, expected, share), now - expected
