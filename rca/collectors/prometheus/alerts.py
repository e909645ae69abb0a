"""Alerts of the past, from the series `ALERTS` that Prometheus writes while a rule fires."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rca.collectors.alert_labels import Firing
from rca.collectors.prometheus.client import Answer, Client, number, samples_of
from rca.telemetry import MINUTE_NS, SECOND_NS

METRIC: Final = "ALERTS"
_SINCE: Final = "ALERTS_FOR_STATE"  # its value is the time since when the condition holds
_DROPPED: Final = ("__name__", "alertstate")
_MISSED: Final = 3  # evaluations; a longer pause ends a stretch
_LONGEST_PAUSE_NS: Final = 10 * MINUTE_NS  # rules are evaluated more often than that
LOOK_BACK_S: Final = 300
"""How long before an interval samples are read, to tell an alert that began in it from one that went on."""
_PART_S: Final = 6 * 3600


@dataclass(frozen=True)
class Stretch:
    """One time that an alert fired: its labels, its first sample, and its last."""

    firing: Firing
    last_ns: int


def query(range_s: int, name: str | None = None, selector: str = "") -> str:
    """PromQL for the raw samples of alerts that fired: their times are those of the rule's evaluation."""
    matchers = ['alertstate="firing"', *([f"alertname={_quoted(name)}"] if name is not None else []), selector]
    return f"{METRIC}{{{','.join(filter(None, matchers))}}}[{range_s}s]"


def pending_since(client: Client, found: Stretch, selector: str = "") -> int | None:
    """When the condition of an alert began to hold, in ns. Raises Unavailable, Rejected."""
    matchers = ",".join(filter(None, (f"alertname={_quoted(found.firing.name)}", selector)))
    answer = client.instant(f"{_SINCE}{{{matchers}}}", -(-found.firing.start_ns // SECOND_NS))
    for series in answer.series:
        value = series.get("value")
        if _identity(series["metric"]) == _identity(found.firing.labels) and isinstance(value, list) and len(value) == 2:
            since_s = number(value[1])
            return round(since_s * SECOND_NS) if 0 < since_s <= found.firing.start_ns / SECOND_NS else None
    return None


def asked(client: Client, start_s: int, end_s: int, name: str | None = None, selector: str = "") -> list[Answer]:
    """Answers for (start, end], a few hours each. Raises Unavailable, Rejected."""
    ends = [*range(start_s + _PART_S, end_s, _PART_S), end_s]
    starts = [start_s, *ends[:-1]]
    return [client.instant(query(last - first, name, selector), last) for first, last in zip(starts, ends, strict=True)]


def stretches(answers: Sequence[Answer]) -> Iterator[Stretch]:
    """Every time that an alert fired, by its labels, then by time."""
    times: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for answer in answers:
        for series in answer.series:
            times.setdefault(_identity(series["metric"]), []).extend(_times(series))
    for identity, samples in sorted(times.items()):
        if not samples:
            continue
        samples.sort()
        pauses = [after - before for before, after in itertools.pairwise(samples)]
        allowed = min(_MISSED * statistics.median_low(pauses), _LONGEST_PAUSE_NS) if pauses else _LONGEST_PAUSE_NS
        first = samples[0]
        for before, after in zip(samples, [*samples[1:], None], strict=True):
            if after is None or after - before > allowed:
                yield Stretch(Firing(dict(identity), first), before)
                first = after if after is not None else first


def active(told: Any, firing: Firing) -> Mapping[str, str] | None:
    """Annotations of an alert in the `data` of /api/v1/alerts, None if it does not fire now."""
    for one in (told.get("alerts") if isinstance(told, dict) else None) or ():
        if isinstance(one, dict) and one.get("state") == "firing" and one.get("labels") == firing.labels:
            return one.get("annotations") or {}
    return None


def _identity(metric: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((str(key), str(value)) for key, value in metric.items() if key not in _DROPPED))


def _times(series: Mapping[str, Any]) -> list[int]:
    """Times of samples in ns; Prometheus keeps milliseconds."""
    return [round(time_s * 1000) * (SECOND_NS // 1000) for time_s in samples_of(series)[0] if math.isfinite(time_s)]


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
