"""OTLP metrics in JSON to canonical ones: counters to rates, histograms to quantiles, mean, rate and success ratio.

Names that are not known keep their own. Series of one metric that differ in attributes alone are joined: counters and histograms
are added, gauges averaged.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rca.collectors.files.recording import Rows
from rca.telemetry import SECOND_NS, EntityKind

_NAMES: Final = {
    "k8s.pod.cpu.usage": "container.cpu.usage",
    "k8s.pod.cpu.utilization": "container.cpu.usage",  # the older name; its unit is cores too
    "k8s.pod.cpu_limit_utilization": "container.cpu.utilization",
    "k8s.pod.memory.usage": "container.memory.usage",
    "k8s.pod.memory_limit_utilization": "container.memory.utilization",
    "k8s.pod.filesystem.usage": "container.filesystem.usage",
}
_DIRECTED: Final = ("k8s.pod.network.io", "container.network.io")
_DIRECTIONS: Final = ("network.io.direction", "direction")
_DURATIONS: Final = {
    f"{protocol}.{side}.{rest}": side
    for side in ("server", "client")
    for protocol, rest in (
        ("http", "request.duration"),
        ("http", "duration"),
        ("rpc", "call.duration"),
        ("rpc", "duration"),
    )
}
_KINDS: Final = ("gauge", "sum", "histogram", "exponentialHistogram", "summary")
_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0}
_QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}

_SERIES_BYTES, _NUMBER_BYTES = 300, 32  # as CPython holds them

_Series = tuple[Any, ...]
_Steps = tuple[float, tuple[float, ...]]
_Entity = tuple[EntityKind, str, str | None]


@dataclass
class _Histogram:
    """What one metric of one entity observed in one export interval."""

    count: float = 0
    total: float = 0
    failed: float = 0
    seconds: float = 0
    bounds: tuple[float, ...] = ()
    buckets: tuple[float, ...] = ()


class LastValues:
    """The last value of every cumulative series, bounded by memory and by age; what was not seen for longest goes first.

    `forgotten` counts the series that were dropped to make room; their next point counts as a first one.
    """

    def __init__(self, most_bytes: int | None = None, max_age_ns: int | None = None) -> None:
        self.forgotten = 0
        self._most, self._max_age_ns = most_bytes, max_age_ns
        self._held = 0
        self._values: OrderedDict[_Series | int, tuple[int, tuple[float, ...]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def replace(self, key: _Series, time_ns: int, values: tuple[float, ...]) -> tuple[int, tuple[float, ...]] | None:
        """Remember a value and return the one before it, with its time."""
        hashed = hash(key)  # 64 bits instead of all the text that identifies a series
        before = self._values.pop(hashed, None)
        self._values[hashed] = (time_ns, values)
        self._held += _size(values) - (_size(before[1]) if before else 0)
        while self._most is not None and self._held > self._most and len(self._values) > 1:
            self._drop()
            self.forgotten += 1
        while self._max_age_ns is not None and self._oldest_ns() < time_ns - self._max_age_ns:
            self._drop()
        return before

    def _oldest_ns(self) -> int:
        return next(iter(self._values.values()))[0]

    def _drop(self) -> None:
        _, (_, values) = self._values.popitem(last=False)
        self._held -= _size(values)


def _size(values: tuple[float, ...]) -> int:
    """Bytes that a remembered series takes, about."""
    return _SERIES_BYTES + _NUMBER_BYTES * len(values)


class MetricReader:
    """Reads `resourceMetrics` into rows. `last` remembers the last value of every cumulative series."""

    def __init__(self, rows: Rows, last: LastValues) -> None:
        self._rows, self._last = rows, last

    def take(self, resource: Mapping[str, Any], part: Mapping[str, Any]) -> None:
        """Read the metrics of one resource, whose attributes are given apart."""
        identity = tuple(sorted((key, str(value)) for key, value in resource.items()))
        for scope in part.get("scopeMetrics") or part.get("instrumentationLibraryMetrics") or ():
            for metric in scope.get("metrics") or ():
                self._metric(resource, (identity, metric.get("name", "")), metric)

    def _metric(self, resource: Mapping[str, Any], series: _Series, metric: Mapping[str, Any]) -> None:
        name = metric.get("name", "")
        entity = _entity(name, resource)
        if entity is None:
            self._rows.skip("metrics", "data points of no pod, service or node", len(points_of(metric)[1]))
        elif name.startswith("container.") and resource.get("k8s.pod.name") and resource.get("k8s.container.name"):
            return  # the kubelet reports the same per pod
        elif "gauge" in metric:
            self._gauge(entity, _NAMES.get(name, name), metric["gauge"].get("dataPoints") or ())
        elif "sum" in metric:
            self._sum(entity, series, name, metric["sum"])
        elif "histogram" in metric or "exponentialHistogram" in metric:
            body = metric.get("histogram") or metric.get("exponentialHistogram") or {}
            self._histogram(entity, series, metric, body)
        else:
            self._rows.skip("metrics", "data points of summaries", len(points_of(metric)[1]))

    def _gauge(self, entity: _Entity, name: str, points: Sequence[Mapping[str, Any]]) -> None:
        values: dict[int, list[float]] = {}
        for point in points:
            value = self._finite(point)
            if value is not None:
                values.setdefault(int(point["timeUnixNano"]), []).append(value)
        for time_ns, several in values.items():
            self._rows.add("metrics", (time_ns, *entity, name, sum(several) / len(several)))

    def _sum(self, entity: _Entity, series: _Series, name: str, body: Mapping[str, Any]) -> None:
        if not body.get("isMonotonic"):
            self._gauge(entity, _NAMES.get(name, name), body.get("dataPoints") or ())
            return
        rates: dict[tuple[int, str], float] = {}
        for point in body.get("dataPoints") or ():
            value = self._finite(point)
            step = None if value is None else self._step(series, body, point, (value,))
            if step:
                key = (int(point["timeUnixNano"]), _sum_name(name, point))
                rates[key] = rates.get(key, 0.0) + step[1][0] / step[0]
        for (time_ns, named), rate in rates.items():
            self._rows.add("metrics", (time_ns, *entity, named, rate))

    def _finite(self, point: Mapping[str, Any]) -> float | None:
        """The number of a point. One without any says that there was nothing to measure; NaN and infinity are counted."""
        value = _number(point)
        if math.isfinite(value):
            return value
        if "asDouble" in point:
            self._rows.skip("metrics", "data points that are no finite number")
        return None

    def _histogram(self, entity: _Entity, series: _Series, metric: Mapping[str, Any], body: Mapping[str, Any]) -> None:
        merged: dict[int, _Histogram] = {}
        for point in body.get("dataPoints") or ():
            bounds = tuple(float(bound) for bound in point.get("explicitBounds") or ())
            buckets = tuple(float(count) for count in point.get("bucketCounts") or ())
            total = math.nan if point.get("sum") is None else float(point["sum"])  # a sum may be left out
            values = (float(point.get("count") or 0), total, *buckets)
            step = self._step((*series, bounds), body, point, values)
            if step:
                _add(merged.setdefault(int(point["timeUnixNano"]), _Histogram()), step, bounds, _failed(point))
        side = _DURATIONS.get(metric.get("name", ""))
        name = f"{side}.request.duration" if side else metric.get("name", "")
        factor = _UNITS.get(metric.get("unit") or "", 1.0)
        for time_ns, histogram in merged.items():
            for statistic, value in _statistics(histogram, factor).items():
                self._rows.add("metrics", (time_ns, *entity, f"{name}.{statistic}", value))
            if side:
                self._rows.add("metrics", (time_ns, *entity, f"{side}.request.rate", histogram.count / histogram.seconds))
                if histogram.count:
                    ratio = 1 - histogram.failed / histogram.count
                    self._rows.add("metrics", (time_ns, *entity, f"{side}.request.success_ratio", ratio))

    def _step(
        self, series: _Series, body: Mapping[str, Any], point: Mapping[str, Any], values: tuple[float, ...]
    ) -> _Steps | None:
        """Seconds and increases since the point before; None if that is not known (a first point, a restart)."""
        time_ns, start_ns = int(point["timeUnixNano"]), int(point.get("startTimeUnixNano") or 0)
        if body.get("aggregationTemporality") in (1, "AGGREGATION_TEMPORALITY_DELTA"):
            seconds = (time_ns - start_ns) / SECOND_NS if start_ns else 0.0
            return (seconds, values) if seconds > 0 else None
        key = (*series, _identity(point))
        before = self._last.replace(key, time_ns, values)
        if before is None or time_ns <= before[0] or len(before[1]) != len(values):
            return None
        increases = tuple(now - then for now, then in zip(values, before[1], strict=True))
        return ((time_ns - before[0]) / SECOND_NS, increases) if min(increases) >= 0 else None


def points_of(metric: Mapping[str, Any]) -> tuple[str, Sequence[Any]]:
    """Kind of a metric, and its data points."""
    return next(((kind, metric[kind].get("dataPoints") or ()) for kind in _KINDS if metric.get(kind)), ("", ()))


def _entity(name: str, resource: Mapping[str, Any]) -> _Entity | None:
    """Per-instance metrics belong to the pod where there is one; it rolls up to its service."""
    namespace = resource.get("service.namespace") or resource.get("k8s.namespace.name") or None
    namespace = namespace and str(namespace)
    node = resource.get("k8s.node.name") or resource.get("host.name")
    if name.startswith("k8s.node.") and node:
        return "node", str(node), None
    if resource.get("k8s.pod.name"):
        return "pod", str(resource["k8s.pod.name"]), namespace
    service = resource.get("service.name") or resource.get("k8s.deployment.name") or resource.get("container.name")
    if service:
        return "service", str(service), namespace
    return ("node", str(node), None) if node else None


def _number(point: Mapping[str, Any]) -> float:
    return float(point["asDouble"] if "asDouble" in point else point.get("asInt", "nan"))


def _identity(point: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((pair.get("key", ""), str(pair.get("value"))) for pair in point.get("attributes") or ()))


def _value(point: Mapping[str, Any], names: Sequence[str]) -> str:
    for pair in point.get("attributes") or ():
        if pair.get("key", "") in names:
            return str(next(iter((pair.get("value") or {"": ""}).values())))
    return ""


def _sum_name(name: str, point: Mapping[str, Any]) -> str:
    if name in _DIRECTED:
        return f"container.network.{_value(point, _DIRECTIONS) or 'io'}"
    return _NAMES.get(name, name)


def _failed(point: Mapping[str, Any]) -> bool:
    status = _value(point, ("http.response.status_code", "http.status_code"))
    grpc = _value(point, ("rpc.grpc.status_code", "rpc.response.status_code"))
    return status.startswith("5") or grpc not in ("", "0", "OK") or bool(_value(point, ("error.type",)))


def _add(into: _Histogram, step: _Steps, bounds: tuple[float, ...], failed: bool) -> None:
    seconds, (count, total, *buckets) = step
    into.count += count
    into.total += total
    into.failed += count if failed else 0
    into.seconds = max(into.seconds, seconds)
    if not into.bounds and bounds:
        into.bounds, into.buckets = bounds, (0.0,) * len(buckets)
    if bounds == into.bounds and len(buckets) == len(into.buckets):
        into.buckets = tuple(a + b for a, b in zip(into.buckets, buckets, strict=True))


def _statistics(histogram: _Histogram, factor: float) -> dict[str, float]:
    """Mean (where there is a sum) and quantiles in the unit times `factor`; nothing if nothing was observed."""
    if not histogram.count:
        return {}
    statistics = {} if math.isnan(histogram.total) else {"mean": histogram.total / histogram.count * factor}
    if histogram.bounds and len(histogram.buckets) == len(histogram.bounds) + 1 and sum(histogram.buckets):
        statistics |= {name: _quantile(histogram, share) * factor for name, share in _QUANTILES.items()}
    return statistics


def _quantile(histogram: _Histogram, share: float) -> float:
    """Linear inside the bucket, as Prometheus' histogram_quantile; the last bound if the bucket has no end."""
    wanted, seen = share * sum(histogram.buckets), 0.0
    edges = (0.0, *histogram.bounds)
    for low, high, count in zip(edges, histogram.bounds, histogram.buckets, strict=False):
        if seen + count >= wanted and count:
            return low + (high - low) * (wanted - seen) / count
        seen += count
    return histogram.bounds[-1]
