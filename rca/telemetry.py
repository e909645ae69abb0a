"""Telemetry as it travels: Polars frames with fixed columns, named after OpenTelemetry's fields and semantic conventions.

Times are int64 nanoseconds since the epoch, UTC. Intervals are half-open. docs/bundle.md is generated from SCHEMAS.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Final, Literal

import polars as pl

from rca.errors import BadTelemetry

EntityKind = Literal["service", "pod", "node", "database", "queue", "external"]
ENTITY_KINDS: Final[tuple[EntityKind, ...]] = ("service", "pod", "node", "database", "queue", "external")
CANDIDATE_KINDS: Final[tuple[EntityKind, ...]] = ("service", "database", "queue", "external", "node")
"""Kinds that may be named as a cause. Pods roll up to their owner."""
CALLEE_KINDS: Final[tuple[EntityKind, ...]] = ("service", "database", "queue", "external")

SECOND_NS: Final = 1_000_000_000
MINUTE_NS: Final = 60 * SECOND_NS
EARLIEST_NS: Final = 946_684_800 * SECOND_NS  # 2000-01-01; anything before is a unit mistake
LATEST_NS: Final = 4_102_444_800 * SECOND_NS  # 2100-01-01


@dataclass(frozen=True, order=True)
class EntityId:
    """What telemetry is about and what a label may name."""

    kind: EntityKind
    name: str
    namespace: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.namespace + '/' if self.namespace else ''}{self.name}"


@dataclass(frozen=True, order=True)
class Interval:
    """Half-open interval [start_ns, end_ns)."""

    start_ns: int
    end_ns: int

    def __post_init__(self) -> None:
        if self.end_ns <= self.start_ns:
            raise BadTelemetry(
                "interval", expected="an end after its start", found=f"start_ns={self.start_ns}, end_ns={self.end_ns}"
            )

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.start_ns) / SECOND_NS

    def overlaps(self, other: Interval) -> bool:
        return self.start_ns < other.end_ns and other.start_ns < self.end_ns


@dataclass(frozen=True)
class Gap:
    """Telemetry that could not be collected: which source, why, and from when to when where that is known."""

    source: str
    reason: str
    interval: Interval | None = None


@dataclass(frozen=True)
class Column:
    """One column of a telemetry frame. Columns that are not `required` may be absent and are read as null."""

    dtype: pl.DataType
    unit: str
    meaning: str
    required: bool = False


_TEXT = pl.String()
_INT = pl.Int64()
_TIME = Column(_INT, "ns since the epoch, UTC", "when it happened, or the start of the period it covers", True)
_ENTITY: dict[str, Column] = {
    "entity_kind": Column(_TEXT, "-", "service, pod, node, database, queue or external", True),
    "entity": Column(_TEXT, "-", "name of the entity", True),
    "namespace": Column(_TEXT, "-", "service.namespace or k8s.namespace.name"),
}

_BIN = Column(_INT, "ns since the epoch, UTC", "start of the 10 s", True)
_BIN_ENDS: dict[str, Column] = {
    "source": Column(_TEXT, "-", "key of the service: its name, after its namespace and U+001F where it has one", True),
    "operation": Column(_TEXT, "-", "operation of that service"),
    "target_kind": Column(_TEXT, "-", "kind of the other end, of calls and children (consumed_queue: the queue read from)"),
    "target": Column(_TEXT, "-", "key of the other end"),
}

SCHEMAS: Final[dict[str, dict[str, Column]]] = {
    "spans": {
        "trace_id": Column(_TEXT, "hex", "trace id", True),
        "span_id": Column(_TEXT, "hex", "span id, unique in its trace", True),
        "parent_span_id": Column(_TEXT, "hex", "null for a root span"),
        "name": Column(_TEXT, "-", "operation", True),
        "kind": Column(pl.Int8(), "-", "0 unspecified, 1 internal, 2 server, 3 client, 4 producer, 5 consumer"),
        "start_time_unix_nano": Column(_INT, "ns since the epoch, UTC", "start", True),
        "end_time_unix_nano": Column(_INT, "ns since the epoch, UTC", "end, not before the start", True),
        "status_code": Column(pl.Int8(), "-", "0 unset, 1 ok, 2 error"),
        "service.name": Column(_TEXT, "-", "service that emitted the span", True),
        "service.namespace": Column(_TEXT, "-", "namespace of that service"),
        "k8s.pod.name": Column(_TEXT, "-", "pod that emitted the span"),
        "k8s.node.name": Column(_TEXT, "-", "node that hosts that pod"),
        "service.peer.name": Column(_TEXT, "-", "logical name of the called service (old: peer.service)"),
        "db.system.name": Column(_TEXT, "-", "database product (old: db.system)"),
        "db.namespace": Column(_TEXT, "-", "database or schema (old: db.name)"),
        "messaging.system": Column(_TEXT, "-", "broker product"),
        "messaging.destination.name": Column(_TEXT, "-", "queue or topic"),
        "server.address": Column(_TEXT, "-", "called host (old: net.peer.name)"),
        "http.response.status_code": Column(pl.Int32(), "-", "HTTP status (old: http.status_code)"),
    },
    "metrics": {
        "time_unix_nano": _TIME,
        **_ENTITY,
        "metric": Column(_TEXT, "-", "canonical metric name, see docs/metrics.md", True),
        "value": Column(pl.Float64(), "the metric's unit", "sample; NaN is read as missing", True),
    },
    "events": {
        "time_unix_nano": _TIME,
        **_ENTITY,
        "reason": Column(_TEXT, "-", "Kubernetes event reason, or the kind of change", True),
        "message": Column(_TEXT, "-", "text for people"),
        "severity": Column(_TEXT, "-", "Normal or Warning"),
    },
    "logs": {
        "time_unix_nano": _TIME,
        **_ENTITY,
        "operation": Column(_TEXT, "-", "name of the span the lines were written in, where known"),
        "severity": Column(_TEXT, "-", "TRACE, DEBUG, INFO, WARN, ERROR or FATAL", True),
        "template": Column(_TEXT, "-", "log line with its variable parts masked", True),
        "count": Column(_INT, "lines", "lines of this template in the 10 s that start at the time", True),
    },
    "alerts": {
        "time_unix_nano": Column(_INT, "ns since the epoch, UTC", "when it fired; null where unknown"),
        **_ENTITY,
        "name": Column(_TEXT, "-", "alert name, or the metric or operation it is about", True),
        "source": Column(_TEXT, "-", "metric, trace, log or other", True),
        "direction": Column(_TEXT, "-", "up, down, or null"),
        "peer": Column(_TEXT, "-", "the callee of an alert about a call; `entity` is its caller"),
        "usual_ratio": Column(
            pl.Float64(), "1", "share of the system's other windows in which it fires too, above 0; null if unknown"
        ),
    },
    "calls": {
        "time_unix_nano": _TIME,
        "caller": Column(_TEXT, "-", "calling service", True),
        "callee_kind": Column(_TEXT, "-", "service, database, queue or external", True),
        "callee": Column(_TEXT, "-", "called entity", True),
        "metric": Column(_TEXT, "-", "call.rate, call.error_ratio, call.client.duration.p50 or call.server.duration.p50", True),
        "value": Column(pl.Float64(), "1/s, ratio, s", "sample", True),
    },
    "topology": {
        "source_kind": Column(_TEXT, "-", "kind of the source entity", True),
        "source": Column(_TEXT, "-", "source entity", True),
        "relation": Column(_TEXT, "-", "calls, queries, publishes, consumes, requests, replicates, runs or hosted_on", True),
        "target_kind": Column(_TEXT, "-", "kind of the target entity", True),
        "target": Column(_TEXT, "-", "target entity", True),
    },
    "bin_counts": {
        "time_unix_nano": _BIN,
        "what": Column(_TEXT, "-", "span, request, error, own_error, child, call or call_error", True),
        **_BIN_ENDS,
        "target_operation": Column(_TEXT, "-", "operation of a child"),
        "count": Column(_INT, "1", "how often in the 10 s", True),
    },
    "bin_durations": {
        "time_unix_nano": _BIN,
        "what": Column(_TEXT, "-", "server, self, leaf, client, called or gap", True),
        **_BIN_ENDS,
        "bucket": Column(pl.Int32(), "-", "b holds durations d with round(ln(d / 1 s + 50e-6) / 0.02) = b", True),
        "count": Column(_INT, "1", "durations of that bucket in the 10 s", True),
    },
    "bin_exemplars": {
        "time_unix_nano": _BIN,
        "service": Column(_TEXT, "-", "key of the service", True),
        "operation": Column(_TEXT, "-", "operation of its entry span", True),
        "trace_id": Column(_TEXT, "hex", "trace to look at", True),
        "duration_ns": Column(_INT, "ns", "duration of the entry span", True),
        "error": Column(pl.Boolean(), "-", "whether it failed", True),
    },
    "bin_placement": {
        "time_unix_nano": _BIN,
        "service": Column(_TEXT, "-", "key of the service", True),
        "pod": Column(_TEXT, "-", "pod that emitted its spans"),
        "node": Column(_TEXT, "-", "node that hosts that pod"),
    },
}
"""Every frame by name, its columns in order. `bin_*` hold spans that were summed as they arrived (rca.bins); raw spans and bins
of the same spans are never both there.
"""

FRAME_NAMES: Final = tuple(SCHEMAS)
BIN_FRAMES: Final = ("bin_counts", "bin_durations", "bin_exemplars", "bin_placement")
UNTIMED_FRAMES: Final = ("topology",)


def time_column(frame: str) -> str:
    """The column that says when a row of a frame happened, or started. Topology has none."""
    return "start_time_unix_nano" if frame == "spans" else "time_unix_nano"


def dtypes(name: str) -> dict[str, pl.DataType]:
    """Column types of one frame, in order."""
    return {column: spec.dtype for column, spec in SCHEMAS[name].items()}


def empty(name: str) -> pl.DataFrame:
    """An empty frame of the given name."""
    return pl.DataFrame(schema=dtypes(name))


def conform(name: str, frame: pl.DataFrame, where: str | None = None) -> pl.DataFrame:
    """Bring a frame to the documented columns, order and types.

    Absent optional columns become null; unknown columns are dropped. Raises BadTelemetry for a missing required column, a
    null in one, a type that does not convert, times that cannot be nanoseconds, or callees of a kind that nobody can call.
    """
    where = where or name
    schema = SCHEMAS[name]
    missing = [column for column, spec in schema.items() if spec.required and column not in frame.columns]
    if missing:
        raise BadTelemetry(where, expected=f"columns {', '.join(missing)}", found=f"columns {', '.join(frame.columns)}")
    columns = [
        pl.col(column).cast(spec.dtype) if column in frame.columns else pl.lit(None, dtype=spec.dtype).alias(column)
        for column, spec in schema.items()
    ]
    try:
        frame = frame.select(columns)
    except pl.exceptions.PolarsError as error:
        raise BadTelemetry(where, expected="column types of docs/bundle.md", found=str(error).splitlines()[0]) from error
    for column, spec in schema.items():
        if spec.required and frame[column].null_count():
            raise BadTelemetry(where, expected=f"a value of {column} in every row", found=f"{frame[column].null_count()} nulls")
        if spec.unit.startswith("ns since"):
            _check_times(where, column, frame[column])
    if "callee_kind" in schema:
        _check_callees(where, frame["callee_kind"])
    return frame


def _check_callees(where: str, kinds: pl.Series) -> None:
    strange = sorted(set(kinds.unique().to_list()) - set(CALLEE_KINDS))
    if strange:
        raise BadTelemetry(f"{where}.callee_kind", expected=", ".join(CALLEE_KINDS), found=", ".join(strange))


def _check_times(where: str, column: str, times: pl.Series) -> None:
    for value in (times.min(), times.max()):
        if isinstance(value, int):
            check_time(f"{where}.{column}", value)


def check_time(where: str, value: int) -> None:
    """Raises BadTelemetry for a time that cannot be nanoseconds since the epoch."""
    if not EARLIEST_NS <= value < LATEST_NS:
        raise BadTelemetry(
            where,
            expected="nanoseconds since the epoch between the years 2000 and 2100",
            found=f"{value}{_unit_guess(value)}",
        )


def _unit_guess(value: int) -> str:
    for unit, factor in (("seconds", 10**9), ("milliseconds", 10**6), ("microseconds", 10**3)):
        if EARLIEST_NS <= value * factor < LATEST_NS:
            return f", which looks like {unit}"
    return ""


@dataclass(frozen=True)
class Telemetry:
    """What was collected about a stretch of time. Frames have the columns of SCHEMAS; `gaps` say what is missing."""

    spans: pl.DataFrame = field(default_factory=lambda: empty("spans"))
    metrics: pl.DataFrame = field(default_factory=lambda: empty("metrics"))
    events: pl.DataFrame = field(default_factory=lambda: empty("events"))
    logs: pl.DataFrame = field(default_factory=lambda: empty("logs"))
    alerts: pl.DataFrame = field(default_factory=lambda: empty("alerts"))
    calls: pl.DataFrame = field(default_factory=lambda: empty("calls"))
    topology: pl.DataFrame = field(default_factory=lambda: empty("topology"))
    bin_counts: pl.DataFrame = field(default_factory=lambda: empty("bin_counts"))
    bin_durations: pl.DataFrame = field(default_factory=lambda: empty("bin_durations"))
    bin_exemplars: pl.DataFrame = field(default_factory=lambda: empty("bin_exemplars"))
    bin_placement: pl.DataFrame = field(default_factory=lambda: empty("bin_placement"))
    gaps: tuple[Gap, ...] = ()

    @classmethod
    def of(cls, gaps: Iterable[Gap] = (), **frames: pl.DataFrame) -> Telemetry:
        """Telemetry from frames that need not conform yet. Raises BadTelemetry."""
        return cls(gaps=tuple(gaps), **{name: conform(name, frame) for name, frame in frames.items()})

    def frames(self) -> Mapping[str, pl.DataFrame]:
        """Every frame by name, empty ones included."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name in SCHEMAS}

    def is_empty(self) -> bool:
        """True if no frame but the topology holds a row."""
        return all(frame.is_empty() for name, frame in self.frames().items() if name not in UNTIMED_FRAMES)

    def merged(self, other: Telemetry) -> Telemetry:
        """Both, frame by frame. Nothing is deduplicated."""
        joined = {name: pl.concat([frame, other.frames()[name]]) for name, frame in self.frames().items()}
        return replace(self, gaps=self.gaps + other.gaps, **joined)
