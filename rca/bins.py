"""Spans to bins: the heavy step. Bins merge by addition, so a window is a sum of bins and machines can share the work.

Durations are kept as counts in logarithmic buckets: bucket b holds durations d with round(ln(d / 1 s + OFFSET) / WIDTH) = b. A
bucket is 2 % wide, so any quantile read back is within 1 % of the spans' own. OFFSET (50 us) keeps differences below clock
resolution small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from rca.telemetry import SECOND_NS

BIN_NS: Final = 10 * SECOND_NS
BUCKET_WIDTH: Final = 0.02
OFFSET_SECONDS: Final = 50e-6
_SEPARATOR: Final = "\x1f"  # between namespace and name in a key; no name holds a unit separator

_SERVER_KINDS: Final = (2, 5)
_CLIENT_KINDS: Final = (3, 4)
_ERROR: Final = 2

COUNTS: Final = {
    "interval": pl.Int16(),
    "bin_ns": pl.Int64(),
    "what": pl.String(),
    "source": pl.String(),
    "operation": pl.String(),
    "target_kind": pl.String(),
    "target": pl.String(),
    "target_operation": pl.String(),
    "count": pl.Int64(),
}
"""Columns of Bins.counts. `what` is span, request, error, own_error, child, call or call_error."""

DURATIONS: Final = {
    "interval": pl.Int16(),
    "bin_ns": pl.Int64(),
    "what": pl.String(),
    "source": pl.String(),
    "operation": pl.String(),
    "target_kind": pl.String(),
    "target": pl.String(),
    "bucket": pl.Int32(),
    "count": pl.Int64(),
}
"""Columns of Bins.durations. `what` is server, self, client, called or gap."""

EXEMPLARS: Final = {
    "interval": pl.Int16(),
    "service": pl.String(),
    "operation": pl.String(),
    "trace_id": pl.String(),
    "duration_ns": pl.Int64(),
    "error": pl.Boolean(),
}
PLACEMENT: Final = {"service": pl.String(), "pod": pl.String(), "node": pl.String()}
"""Columns of Bins.placement: which pod of a service runs on which node, where spans say so."""

_EXEMPLARS_KEPT: Final = 2


@dataclass(frozen=True, eq=False)
class Bins:
    """Sums over 10 s: event counts, duration histograms, and a few exemplar traces per service and interval.

    `pairs` counts spans whose parent was found, `orphans` those whose parent was named but not seen.
    """

    counts: pl.DataFrame
    durations: pl.DataFrame
    exemplars: pl.DataFrame
    placement: pl.DataFrame
    pairs: int = 0
    orphans: int = 0

    @classmethod
    def empty(cls) -> Bins:
        return cls(
            pl.DataFrame(schema=COUNTS),
            pl.DataFrame(schema=DURATIONS),
            pl.DataFrame(schema=EXEMPLARS),
            pl.DataFrame(schema=PLACEMENT),
        )

    def __add__(self, other: Bins) -> Bins:
        return Bins(
            _summed(pl.concat([self.counts, other.counts])),
            _summed(pl.concat([self.durations, other.durations])),
            _slowest(pl.concat([self.exemplars, other.exemplars])),
            pl.concat([self.placement, other.placement]).unique(),
            self.pairs + other.pairs,
            self.orphans + other.orphans,
        )


def key(name: pl.Expr, namespace: pl.Expr) -> pl.Expr:
    """One string for an entity's namespace and name."""
    return pl.when(namespace.is_null() | (namespace == "")).then(name).otherwise(namespace + _SEPARATOR + name)


def split_key(text: str) -> tuple[str, str]:
    """(namespace, name) of a key."""
    namespace, _, name = text.rpartition(_SEPARATOR)
    return namespace, name


def bucket(duration_ns: pl.Expr) -> pl.Expr:
    """Bucket of a duration. Negative ones, which only clocks can make, count as zero."""
    seconds = duration_ns.clip(lower_bound=0) / SECOND_NS
    return ((seconds + OFFSET_SECONDS).log() / BUCKET_WIDTH).round().cast(pl.Int32)


def seconds_of(buckets: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Middle of each bucket, in seconds."""
    seconds: npt.NDArray[np.float64] = np.maximum(np.exp(buckets * BUCKET_WIDTH) - OFFSET_SECONDS, 0.0)
    return seconds


def bins_of(spans: pl.DataFrame, bin_ns: int = BIN_NS) -> Bins:
    """Sum spans (columns of telemetry.SCHEMAS plus `interval`) into bins.

    A call is a span of one service whose parent belongs to another; its gap is the parent's duration minus its own and counts for
    parents that only wait for that one call (client spans, or spans of unspecified kind with a single child). A client span
    without a child calls a database, a queue or an external host where its attributes name one.
    """
    if spans.is_empty():
        return Bins.empty()
    base = _joined(spans, bin_ns)
    return Bins(
        _counts(base),
        _durations(base),
        _exemplars(base),
        spans.select(
            key(pl.col("service.name"), pl.col("service.namespace")).alias("service"),
            pl.col("k8s.pod.name").alias("pod"),
            pl.col("k8s.node.name").alias("node"),
        ).unique(),
        pairs=int(base["parent_service"].is_not_null().sum()),
        orphans=int((base["parent_service"].is_null() & base["parent_span_id"].is_not_null()).sum()),
    )


def _joined(spans: pl.DataFrame, bin_ns: int) -> pl.DataFrame:
    text = pl.col("service.name"), pl.col("service.namespace")
    start, end = pl.col("start_time_unix_nano"), pl.col("end_time_unix_nano")
    base = spans.select(
        "interval",
        "trace_id",
        "span_id",
        "parent_span_id",
        (start // bin_ns * bin_ns).alias("bin_ns"),
        key(*text).cast(pl.Categorical).alias("service"),
        pl.col("name").cast(pl.Categorical).alias("operation"),
        pl.col("kind").fill_null(0),
        start.alias("start"),
        end.alias("end"),
        (end - start).alias("duration"),
        ((pl.col("status_code") == _ERROR) | (pl.col("http.response.status_code") >= 500)).fill_null(False).alias("error"),
        _peer_kind().alias("peer_kind"),
        _peer().alias("peer"),
    )
    parents = base.select(
        "trace_id",
        pl.col("span_id").alias("parent_span_id"),
        pl.col("service").alias("parent_service"),
        pl.col("operation").alias("parent_operation"),
        pl.col("kind").alias("parent_kind"),
        pl.col("duration").alias("parent_duration"),
    )
    base = base.join(parents, on=["trace_id", "parent_span_id"], how="left")
    base = base.with_columns(
        (pl.col("parent_service").is_not_null() & (pl.col("parent_service") != pl.col("service"))).alias("remote")
    )
    children = (
        base.filter(pl.col("parent_service").is_not_null())
        .group_by("trace_id", pl.col("parent_span_id").alias("span_id"))
        .agg(
            pl.len().alias("children"),
            pl.col("remote").sum().alias("remote_children"),
            pl.col("duration").sum().alias("child_sum"),
            (pl.col("end").max() - pl.col("start").min()).alias("child_extent"),
            pl.col("error").any().alias("child_error"),
        )
    )
    base = base.join(children, on=["trace_id", "span_id"], how="left").with_columns(
        pl.col("children", "remote_children").fill_null(0), pl.col("child_error").fill_null(False)
    )
    siblings = children.select("trace_id", pl.col("span_id").alias("parent_span_id"), pl.col("children").alias("siblings"))
    base = base.join(siblings, on=["trace_id", "parent_span_id"], how="left")
    kind, own_root = pl.col("kind"), pl.col("parent_service").is_null() | pl.col("remote")
    covered = pl.min_horizontal("child_sum", "child_extent").fill_null(0)
    waits = (kind == 0) & (pl.col("remote_children") == 1) & (pl.col("children") == 1)
    return base.with_columns(
        (kind.is_in(_SERVER_KINDS) | ((kind == 0) & own_root)).alias("entry"),
        (kind.is_in(_CLIENT_KINDS) | waits).alias("client"),
        (pl.col("duration") - covered).clip(lower_bound=0).alias("self"),
        pl.col("service", "operation", "parent_service", "parent_operation").cast(pl.String),
    )


def _peer_kind() -> pl.Expr:
    return (
        pl.when(pl.col("db.system.name").is_not_null())
        .then(pl.lit("database"))
        .when(pl.col("messaging.destination.name").is_not_null() | pl.col("messaging.system").is_not_null())
        .then(pl.lit("queue"))
        .when(pl.col("service.peer.name").is_not_null() | pl.col("server.address").is_not_null())
        .then(pl.lit("external"))
    )


def _peer() -> pl.Expr:
    named = pl.col("service.peer.name")
    database = pl.coalesce(named, pl.col("db.namespace"), pl.col("server.address"), pl.col("db.system.name"))
    queue = pl.coalesce(pl.col("messaging.destination.name"), named, pl.col("messaging.system"))
    return (
        pl.when(pl.col("db.system.name").is_not_null())
        .then(database)
        .when(pl.col("messaging.destination.name").is_not_null() | pl.col("messaging.system").is_not_null())
        .then(queue)
        .otherwise(pl.coalesce(named, pl.col("server.address")))
    )


def _calls(base: pl.DataFrame) -> pl.DataFrame:
    """Calls between entities: seen from both ends where a child span exists, from the client alone otherwise."""
    waiting = pl.col("parent_kind").is_in(_CLIENT_KINDS) | ((pl.col("parent_kind") == 0) & (pl.col("siblings") == 1))
    paired = base.filter("remote").select(
        "interval",
        "bin_ns",
        pl.col("parent_service").alias("source"),
        pl.lit("service").alias("target_kind"),
        pl.col("service").alias("target"),
        "error",
        pl.when(waiting).then("parent_duration").alias("client"),
        pl.col("duration").alias("called"),
    )
    alone = base.filter(pl.col("kind").is_in(_CLIENT_KINDS) & (pl.col("remote_children") == 0) & pl.col("peer").is_not_null())
    outgoing = alone.select(
        "interval",
        "bin_ns",
        pl.col("service").alias("source"),
        pl.col("peer_kind").alias("target_kind"),
        pl.col("peer").alias("target"),
        "error",
        pl.col("duration").alias("client"),
        pl.lit(None, dtype=pl.Int64).alias("called"),
    )
    consumed = base.filter((pl.col("kind") == _SERVER_KINDS[1]) & (pl.col("peer_kind") == "queue")).select(
        "interval",
        "bin_ns",
        pl.col("service").alias("source"),
        pl.lit("consumed_queue").alias("target_kind"),
        pl.col("peer").alias("target"),
        "error",
        pl.col("duration").alias("client"),
        pl.lit(None, dtype=pl.Int64).alias("called"),
    )
    return pl.concat([paired, outgoing, consumed]).with_columns((pl.col("client") - pl.col("called")).alias("gap"))


def _counts(base: pl.DataFrame) -> pl.DataFrame:
    calls = _calls(base)
    own = base.with_columns(pl.col("service").alias("source"))
    # An error counts where it starts: a span whose child failed too only passes it on.
    failed = own.filter("error")
    children = base.filter(pl.col("parent_service").is_not_null()).select(
        "interval",
        "bin_ns",
        pl.col("parent_service").alias("source"),
        pl.col("parent_operation").alias("operation"),
        pl.lit("service").alias("target_kind"),
        pl.col("service").alias("target"),
        pl.col("operation").alias("target_operation"),
    )
    parts = [
        _tally(own, "span"),
        _tally(own.filter("entry"), "request"),
        _tally(failed.filter("entry"), "error"),
        _tally(failed.filter(~pl.col("child_error")), "own_error"),
        _tally(children, "child"),
        _tally(calls, "call"),
        _tally(calls.filter("error"), "call_error"),
    ]
    return pl.concat(parts)


def _tally(frame: pl.DataFrame, what: str) -> pl.DataFrame:
    keys = [column for column in COUNTS if column not in ("what", "count") and column in frame.columns]
    tallied = frame.group_by(keys).agg(pl.len().cast(pl.Int64).alias("count"))
    return _filled(tallied.with_columns(pl.lit(what).alias("what")), COUNTS)


def _durations(base: pl.DataFrame) -> pl.DataFrame:
    calls = _calls(base)
    own = base.with_columns(pl.col("service").alias("source"))
    parts = [
        _histogram(own.filter("entry"), "server", "duration"),
        _histogram(own.filter(~pl.col("client")), "self", "self"),
        _histogram(own.filter(pl.col("client") & (pl.col("children") == 0)), "leaf", "duration"),
        _histogram(calls, "client", "client"),
        _histogram(calls, "called", "called"),
        _histogram(calls, "gap", "gap"),
    ]
    return pl.concat(parts)


def _histogram(frame: pl.DataFrame, what: str, duration: str) -> pl.DataFrame:
    frame = frame.filter(pl.col(duration).is_not_null()).with_columns(bucket(pl.col(duration)).alias("bucket"))
    keys = [column for column in DURATIONS if column not in ("what", "count") and column in frame.columns]
    counted = frame.group_by(keys).agg(pl.len().cast(pl.Int64).alias("count"))
    return _filled(counted.with_columns(pl.lit(what).alias("what")), DURATIONS)


def _filled(frame: pl.DataFrame, schema: dict[str, pl.DataType]) -> pl.DataFrame:
    return frame.select(
        pl.col(name).cast(dtype) if name in frame.columns else pl.lit(None, dtype=dtype).alias(name)
        for name, dtype in schema.items()
    )


def _summed(frame: pl.DataFrame) -> pl.DataFrame:
    keys = [column for column in frame.columns if column != "count"]
    return frame.group_by(keys).agg(pl.col("count").sum()).select(frame.columns)


def _exemplars(base: pl.DataFrame) -> pl.DataFrame:
    entries = base.filter("entry").select(
        "interval", "service", "operation", "trace_id", pl.col("duration").alias("duration_ns"), "error"
    )
    return _slowest(entries)


def _slowest(entries: pl.DataFrame) -> pl.DataFrame:
    """The slowest entry spans per (interval, service), failing ones first."""
    ordered = entries.sort("error", "duration_ns", "trace_id", descending=[True, True, False])
    return ordered.group_by("interval", "service", maintain_order=True).head(_EXEMPLARS_KEPT).select(list(EXEMPLARS))
