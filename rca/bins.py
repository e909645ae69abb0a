"""Spans to bins: the heavy step. Bins merge by addition, so a window is a sum of bins and machines can share the work.

Durations are kept as counts in logarithmic buckets: bucket b holds durations d with round(ln(d / 1 s + OFFSET) / WIDTH) = b. A
bucket is 2 % wide, so any quantile read back is within 1 % of the spans' own. OFFSET (50 us) keeps differences below clock
resolution small.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from rca.cleaning import parent_rows
from rca.telemetry import BIN_FRAMES, SECOND_NS, conform

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

BIN_NS: Final = 10 * SECOND_NS
BUCKET_WIDTH: Final = 0.02
OFFSET_SECONDS: Final = 50e-6
_SEPARATOR: Final = "\x1f"  # between namespace and name in a key; no name holds a unit separator

_SERVER_KINDS: Final = (2, 5)
_CLIENT_KINDS: Final = (3, 4)
_ERROR: Final = 2
_ADDRESS: Final = re.compile(r"(?P<name>[^.:]+)(\.[^.:]+\.svc(\.[^:]*)?)?(:\d+)?")
_FAR: Final = 2**62  # beyond every time and duration
_MOST_CODES: Final = 2**63  # one integer holds

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

    Counts of equal keys add up wherever they are read: they may stand in several rows, as they arrived.
    `pairs` counts spans whose parent was found, `orphans` those whose parent was named but not seen.
    """

    counts: pl.DataFrame
    durations: pl.DataFrame
    exemplars: pl.DataFrame
    placement: pl.DataFrame
    pairs: int = 0
    orphans: int = 0

    @classmethod
    def of_frames(cls, frames: Mapping[str, pl.DataFrame]) -> Bins:
        """Bins from the frames that `frames_of` makes, each with a column `interval` beside its own. Equal keys stay apart."""
        counts, durations, exemplars, placement = (frames[name] for name in BIN_FRAMES)
        pairs = counts.filter(pl.col("what") == "child")["count"].sum()
        return cls(
            counts.rename({"time_unix_nano": "bin_ns"}).select(list(COUNTS)),
            durations.rename({"time_unix_nano": "bin_ns"}).select(list(DURATIONS)),
            _slowest(exemplars.select(list(EXEMPLARS))),
            placement.select(list(PLACEMENT)).unique(),
            pairs=int(pairs),
        )

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


def with_known_peers(bins: Bins) -> Bins:
    """Peers that are services of the window get their keys: callers know them by an address, with another idea of namespaces.

    An address is a name, or `name.namespace.svc` with a suffix as Kubernetes' DNS has it, with a port or not. It is the service
    of that name in the caller's namespace, else the only one of that name.
    """
    services = {source for source in bins.counts["source"].unique().to_list() if source is not None}
    by_name: dict[str, list[str]] = {}
    for service in sorted(services):
        by_name.setdefault(split_key(service)[1], []).append(service)
    found = {}
    addressed = pl.col("target_kind").is_in(["external", "database"])
    for source, target in bins.counts.filter(addressed).select("source", "target").unique().iter_rows():
        name = _ADDRESS.fullmatch(target)
        alike = by_name.get(name["name"], []) if name else []
        own = joined_key(name["name"], split_key(source)[0]) if name else ""
        if target not in services and alike and (own in alike or len(alike) == 1):
            found[source, target] = own if own in alike else alike[0]
    if not found:
        return bins
    rows = [(source, target, known) for (source, target), known in found.items()]
    table = pl.DataFrame(rows, schema=["source", "target", "known"], orient="row")

    def renamed(frame: pl.DataFrame) -> pl.DataFrame:
        joined = frame.join(table, on=["source", "target"], how="left", maintain_order="left")
        known = pl.when(addressed).then(pl.col("known"))
        return joined.with_columns(pl.coalesce(known, pl.col("target")).alias("target")).select(frame.columns)

    return replace(bins, counts=renamed(bins.counts), durations=renamed(bins.durations))


def key(name: pl.Expr, namespace: pl.Expr) -> pl.Expr:
    """One string for an entity's namespace and name."""
    return pl.when(namespace.is_null() | (namespace == "")).then(name).otherwise(namespace + _SEPARATOR + name)


def joined_key(name: str, namespace: str | None) -> str:
    """The same for one entity."""
    return f"{namespace}{_SEPARATOR}{name}" if namespace else name


def split_key(text: str) -> tuple[str, str]:
    """(namespace, name) of a key."""
    namespace, _, name = text.rpartition(_SEPARATOR)
    return namespace, name


def buckets_of(durations_ns: Ints) -> Ints:
    """Bucket of every duration. Negative ones, which only clocks can make, count as zero."""
    seconds = np.maximum(durations_ns, 0) / SECOND_NS
    return np.rint(np.log(seconds + OFFSET_SECONDS) / BUCKET_WIDTH).astype(np.int64)


def seconds_of(buckets: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Middle of each bucket, in seconds."""
    seconds: npt.NDArray[np.float64] = np.maximum(np.exp(buckets * BUCKET_WIDTH) - OFFSET_SECONDS, 0.0)
    return seconds


def bins_of(spans: pl.DataFrame, bin_ns: int = BIN_NS, parents: Ints | None = None) -> Bins:
    """Sum spans (columns of telemetry.SCHEMAS plus `interval`) into bins. Ids may be text or raw bytes.

    `parents` are their `parent_rows`, where the caller has them.

    A call is a span of one service whose parent belongs to another; its gap is the parent's duration minus its own and counts for
    parents that only wait for that one call (client spans, or spans of unspecified kind with a single child). A client span
    without a child calls a database, a queue or an external host where its attributes name one; a producer span publishes to
    the queue that it names although a consumer of another service is its child.
    """
    if spans.is_empty():
        return Bins.empty()
    joined = _Joined.of(spans, bin_ns, parent_rows(spans) if parents is None else parents)
    calls = _calls(joined, spans)
    return Bins(
        _counts(joined, calls),
        _durations(joined, calls),
        _exemplars(joined, spans["trace_id"]),
        spans.select(_placed()).unique(),
        pairs=len(joined.child_rows),
        orphans=int(spans["parent_span_id"].count()) - len(joined.child_rows),
    )


def _placed() -> tuple[pl.Expr, ...]:
    return (
        key(pl.col("service.name"), pl.col("service.namespace")).alias("service"),
        pl.col("k8s.pod.name").alias("pod"),
        pl.col("k8s.node.name").alias("node"),
    )


def frames_of(spans: pl.DataFrame, parents: Ints | None = None) -> dict[str, pl.DataFrame]:
    """Sum spans (columns of telemetry.SCHEMAS, no more than three days of them) into its frames `bin_*`.

    Exemplars and placement are kept per bin. `parents` are their `parent_rows`, where the caller has them.
    """
    bin_index = pl.col("start_time_unix_nano") // BIN_NS
    first = spans.select(bin_index.min()).item() or 0
    bins = bins_of(spans.with_columns((bin_index - first).cast(pl.Int16).alias("interval")), parents=parents)
    starts = ((pl.col("interval").cast(pl.Int64) + first) * BIN_NS).alias("time_unix_nano")
    frames = (
        bins.counts.rename({"bin_ns": "time_unix_nano"}),
        bins.durations.rename({"bin_ns": "time_unix_nano"}),
        bins.exemplars.with_columns(starts),
        spans.select((bin_index * BIN_NS).alias("time_unix_nano"), *_placed()).unique(),
    )
    return {name: conform(name, frame) for name, frame in zip(BIN_FRAMES, frames, strict=True)}


def summed_frame(name: str, frame: pl.DataFrame) -> pl.DataFrame:
    """Rows of a telemetry frame from several places as one: counts of equal keys are added, all else that is equal is there once.

    Of exemplars, the slowest of every bin are kept. Rows of one series stand together in the order of their times: equal
    telemetry gives equal frames, and they compress well.
    """
    columns = frame.columns
    if name == "bin_exemplars":
        frame = _slowest(frame, "time_unix_nano")
    elif "count" in columns:
        frame = _summed(frame)
    else:
        frame = frame.unique()
    last = ("time_unix_nano", "count", "value")
    series = [column for column in columns if column not in last]
    return frame.select(columns).sort([*series, *(column for column in last if column in columns)])


@dataclass(frozen=True, eq=False)
class _Codes:
    """A column as integers below `size`; `labels` turns codes back into the columns they stand for."""

    values: Ints  # (n,)
    size: int
    labels: Callable[[Ints], dict[str, pl.Series]]

    def take(self, rows: Ints) -> _Codes:
        return replace(self, values=self.values[rows])

    def named(self, *columns: str) -> _Codes:
        """The same under other column names."""
        return replace(self, labels=lambda codes: dict(zip(columns, self.labels(codes).values(), strict=True)))


def _text(column: str, text: pl.Series) -> _Codes:
    names = text.unique().sort()
    return _Codes(_physical(text, names), len(names), lambda codes: {column: names.gather(codes)})


def _physical(text: pl.Series, names: pl.Series) -> Ints:
    return text.cast(pl.Enum(names)).to_physical().cast(pl.Int64).to_numpy()


def _paired(first: _Codes, second: _Codes) -> _Codes:
    """One column for two, with as many codes as there are different pairs."""
    pairs, values = np.unique(first.values * second.size + second.values, return_inverse=True)

    def labels(codes: Ints) -> dict[str, pl.Series]:
        a, b = np.divmod(pairs[codes], second.size)
        return first.labels(a) | second.labels(b)

    return _Codes(values, len(pairs), labels)


def _grouped(*columns: _Codes) -> tuple[dict[str, pl.Series], Ints]:
    """The different rows of some columns, and how often each occurs. Sorting one packed integer is what makes bins fast."""
    while math.prod(column.size for column in columns) > _MOST_CODES:  # leave out pairs that do not occur
        columns = (_paired(*columns[:2]), *columns[2:])
    packed = columns[0].values
    for column in columns[1:]:
        packed = packed * column.size + column.values
    groups, counts = np.unique(packed, return_counts=True)
    found: dict[str, pl.Series] = {}
    for column in reversed(columns[1:]):
        groups, codes = np.divmod(groups, column.size)
        found |= column.labels(codes)
    return found | columns[0].labels(groups), counts


def _times(intervals: Ints, starts: Ints, bin_ns: int) -> _Codes:
    """Interval and bin of every span."""
    bins = starts // bin_ns
    first = int(bins.min())
    width = int(bins.max()) - first + 1
    least = int(intervals.min())

    def labels(codes: Ints) -> dict[str, pl.Series]:
        interval, position = np.divmod(codes, width)
        return {"interval": pl.Series(interval + least), "bin_ns": pl.Series((position + first) * bin_ns)}

    return _Codes((intervals - least) * width + bins - first, width * (int(intervals.max()) - least + 1), labels)


@dataclass(frozen=True, eq=False)
class _Joined:
    """Spans beside their parents and children, (n,) each."""

    at: _Codes
    service: _Codes
    operation: _Codes  # service and operation
    kind: Ints
    duration: Ints
    self_time: Ints
    error: Bools
    child_error: Bools
    entry: Bools  # receives a request
    client: Bools  # only waits for a call
    parent: Ints  # row of the parent, -1 without one
    children: Ints
    remote: Bools  # its parent is of another service
    remote_children: Ints

    @cached_property
    def child_rows(self) -> Ints:
        """Rows whose parent is there."""
        return np.flatnonzero(self.parent >= 0)

    @classmethod
    def of(cls, spans: pl.DataFrame, bin_ns: int, parent: Ints) -> _Joined:
        n = len(spans)
        start, end = spans["start_time_unix_nano"].to_numpy(), spans["end_time_unix_nano"].to_numpy()
        duration = end - start
        kind = spans["kind"].fill_null(0).to_numpy().astype(np.int64)
        failed = (pl.col("status_code") == _ERROR) | (pl.col("http.response.status_code") >= 500)
        error = spans.select(failed.fill_null(False)).to_series().to_numpy()
        service = _text("source", spans.select(key(pl.col("service.name"), pl.col("service.namespace"))).to_series())
        rows = np.flatnonzero(parent >= 0)
        above = parent[rows]  # (children,)
        remote = np.zeros(n, dtype=np.bool_)
        remote[rows] = service.values[above] != service.values[rows]
        children = np.bincount(above, minlength=n)
        remote_children = np.bincount(parent[remote], minlength=n)
        child_sum = np.bincount(above, weights=duration[rows], minlength=n).astype(np.int64)
        first, last = np.full(n, _FAR), np.full(n, -_FAR)
        np.minimum.at(first, above, start[rows])
        np.maximum.at(last, above, end[rows])
        covered = np.where(children > 0, np.minimum(child_sum, last - first), 0)
        child_error = np.zeros(n, dtype=np.bool_)
        child_error[above[error[rows]]] = True
        waits = (kind == 0) & (remote_children == 1) & (children == 1)
        return cls(
            at=_times(spans["interval"].to_numpy().astype(np.int64), start, bin_ns),
            service=service,
            operation=_paired(service, _text("operation", spans["name"])),
            kind=kind,
            duration=duration,
            self_time=np.maximum(duration - covered, 0),
            error=error,
            child_error=child_error,
            entry=np.isin(kind, _SERVER_KINDS) | ((kind == 0) & ((parent < 0) | remote)),
            client=np.isin(kind, _CLIENT_KINDS) | waits,
            parent=parent,
            children=children,
            remote=remote,
            remote_children=remote_children,
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
    namespace = pl.col("db.namespace")
    schema = pl.when(~namespace.str.contains(r"^\d+$")).then(namespace)  # Redis numbers its databases, and that names nothing
    database = pl.coalesce(named, schema, pl.col("server.address"), pl.col("db.system.name"))
    queue = pl.coalesce(pl.col("messaging.destination.name"), named, pl.col("messaging.system"))
    return (
        pl.when(pl.col("db.system.name").is_not_null())
        .then(database)
        .when(pl.col("messaging.destination.name").is_not_null() | pl.col("messaging.system").is_not_null())
        .then(queue)
        .otherwise(pl.coalesce(named, pl.col("server.address")))
    )


@dataclass(frozen=True, eq=False)
class _Calls:
    """Calls of one sort, (m,) each: pairs of a span and its child in another service, or client spans whose callee shows none."""

    ends: tuple[_Codes, ...]  # at, source, target_kind, target
    error: Bools
    client: Ints  # duration seen by the caller
    called: Ints  # duration of the callee; empty where it shows none
    waits: Bools  # the caller only waits for this call, so that the difference is the network's


def _calls(joined: _Joined, spans: pl.DataFrame) -> list[_Calls]:
    peers = spans.select(_peer_kind().alias("kind"), _peer().alias("name"))
    is_client = np.isin(joined.kind, _CLIENT_KINDS)
    # A message that was consumed went through its queue all the same, and it is the queue that both ends wait for.
    published = (joined.kind == _CLIENT_KINDS[1]) & spans["messaging.destination.name"].is_not_null().to_numpy()
    named = peers["name"].is_not_null().to_numpy()
    outgoing = is_client & ((joined.remote_children == 0) | published) & named
    wrapped = joined.parent[np.flatnonzero(outgoing & (joined.parent >= 0))]  # gRPC over HTTP, a retry around a request
    outgoing[wrapped[is_client[wrapped] & ~published[wrapped]]] = False  # the inner span is the call
    outgoing = np.flatnonzero(outgoing)
    from_queue = (peers["kind"] == "queue").fill_null(False).to_numpy()
    consumed = np.flatnonzero((joined.kind == _SERVER_KINDS[1]) & from_queue)
    into_queue = pl.Series(["consumed_queue"] * len(consumed), dtype=pl.String)
    return [
        _answered(joined),
        _unanswered(joined, outgoing, peers["kind"].gather(outgoing), peers["name"].gather(outgoing)),
        _unanswered(joined, consumed, into_queue, peers["name"].gather(consumed)),
    ]


def _answered(joined: _Joined) -> _Calls:
    rows = np.flatnonzero(joined.remote)
    parent = joined.parent[rows]
    kind = joined.kind[parent]
    names = pl.Series(["service"])
    to_service = _Codes(np.zeros(len(rows), dtype=np.int64), 1, lambda codes: {"target_kind": names.gather(codes)})
    return _Calls(
        (joined.at.take(rows), joined.service.take(parent), to_service, joined.service.take(rows).named("target")),
        joined.error[rows],
        joined.duration[parent],
        joined.duration[rows],
        (kind == _CLIENT_KINDS[0]) | ((kind == 0) & (joined.children[parent] == 1)),  # a producer does not wait
    )


def _unanswered(joined: _Joined, rows: Ints, kinds: pl.Series, names: pl.Series) -> _Calls:
    ends = (joined.at.take(rows), joined.service.take(rows), _text("target_kind", kinds), _text("target", names))
    nothing = np.zeros(0, dtype=np.int64)
    return _Calls(ends, joined.error[rows], joined.duration[rows], nothing, np.ones(len(rows), dtype=np.bool_))


def _counts(joined: _Joined, calls: Sequence[_Calls]) -> pl.DataFrame:
    def own(what: str, chosen: Bools) -> pl.DataFrame:
        rows = np.flatnonzero(chosen)
        return _tally(what, joined.at.take(rows), joined.operation.take(rows))

    rows = joined.child_rows
    target = joined.operation.take(rows).named("target", "target_operation")
    child = _tally("child", joined.at.take(rows), joined.operation.take(joined.parent[rows]), target)
    parts = [
        own("span", np.ones(len(joined.kind), dtype=np.bool_)),
        own("request", joined.entry),
        own("error", joined.error & joined.entry),
        own("own_error", joined.error & ~joined.child_error),
        child.with_columns(pl.lit("service").alias("target_kind")),
    ]
    for sort in calls:
        failed = np.flatnonzero(sort.error)
        parts += [_tally("call", *sort.ends), _tally("call_error", *(end.take(failed) for end in sort.ends))]
    return pl.concat(parts)


def _tally(what: str, *columns: _Codes) -> pl.DataFrame:
    groups, counts = _grouped(*columns)
    return _filled(pl.DataFrame({**groups, "what": [what] * len(counts), "count": counts}), COUNTS)


def _durations(joined: _Joined, calls: Sequence[_Calls]) -> pl.DataFrame:
    def own(what: str, chosen: Bools, durations: Ints) -> pl.DataFrame:
        rows = np.flatnonzero(chosen)
        return _histogram(what, durations[rows], joined.at.take(rows), joined.operation.take(rows))

    parts = [
        own("server", joined.entry, joined.duration),
        own("self", ~joined.client, joined.self_time),
        own("leaf", joined.client & (joined.children == 0), joined.duration),
    ]
    for sort in calls:
        rows = np.flatnonzero(sort.waits)
        waiting = [end.take(rows) for end in sort.ends]
        parts.append(_histogram("client", sort.client[rows], *waiting))
        if len(sort.called):
            parts.append(_histogram("called", sort.called, *sort.ends))
            parts.append(_histogram("gap", sort.client[rows] - sort.called[rows], *waiting))
    return pl.concat(parts)


def _histogram(what: str, durations_ns: Ints, *columns: _Codes) -> pl.DataFrame:
    buckets = buckets_of(durations_ns)
    least, most = (int(buckets.min()), int(buckets.max())) if len(buckets) else (0, 0)
    bucket = _Codes(buckets - least, most - least + 1, lambda codes: {"bucket": pl.Series(codes + least)})
    groups, counts = _grouped(*columns, bucket)
    return _filled(pl.DataFrame({**groups, "what": [what] * len(counts), "count": counts}), DURATIONS)


def _filled(frame: pl.DataFrame, schema: dict[str, pl.DataType]) -> pl.DataFrame:
    return frame.select(
        pl.col(name).cast(dtype) if name in frame.columns else pl.lit(None, dtype=dtype).alias(name)
        for name, dtype in schema.items()
    )


def _exemplars(joined: _Joined, trace_ids: pl.Series) -> pl.DataFrame:
    """Only spans among the few largest (failed, duration) of their service and interval are sorted out in full."""
    rows = np.flatnonzero(joined.entry)
    at = joined.at.labels(joined.at.values[rows])
    interval = at["interval"].to_numpy()
    group = (interval - interval.min(initial=0)) * joined.service.size + joined.service.values[rows]
    weight = joined.duration[rows] + np.where(joined.error[rows], _FAR // 2, 0)
    bound = np.full(int(group.max(initial=0)) + 1, _FAR)
    for _ in range(_EXEMPLARS_KEPT):
        below = weight < bound[group]
        bound = np.full(len(bound), -_FAR)
        np.maximum.at(bound, group[below], weight[below])
    kept = weight >= bound[group]
    rows = rows[kept]
    traces = trace_ids.gather(rows)
    taken = joined.operation.labels(joined.operation.values[rows])
    slow = {
        "interval": at["interval"].filter(kept),
        "service": taken["source"],
        "operation": taken["operation"],
        "trace_id": traces.bin.encode("hex") if traces.dtype == pl.Binary else traces,
        "duration_ns": joined.duration[rows],
        "error": joined.error[rows],
    }
    return _slowest(_filled(pl.DataFrame(slow), EXEMPLARS))


def _summed(frame: pl.DataFrame) -> pl.DataFrame:
    keys = [column for column in frame.columns if column != "count"]
    return frame.group_by(keys).agg(pl.col("count").sum()).select(frame.columns)


def _slowest(entries: pl.DataFrame, group: str = "interval") -> pl.DataFrame:
    """The slowest entry spans per (interval, service), failing ones first."""
    ordered = entries.sort("error", "duration_ns", "trace_id", "operation", descending=[True, True, False, False])
    return ordered.group_by(group, "service", maintain_order=True).head(_EXEMPLARS_KEPT).select(entries.columns)
