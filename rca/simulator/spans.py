"""Raw spans: whole requests, followed call by call from where they enter. For small runs; bins are cheaper by far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import polars as pl

from rca.bins import BIN_NS
from rca.simulator.counting import Tracing, client_name
from rca.simulator.requests import Attempt, Moments, Outcome, Served, Server, World
from rca.simulator.system import Bools, Floats, Ints
from rca.telemetry import SECOND_NS, conform, empty

_SERVER, _CLIENT, _PRODUCER, _CONSUMER = 2, 3, 4, 5
_NOTHING: Final = -1


@dataclass(eq=False)
class _Visit:
    """Requests to one operation that arrive in given bins, and the visits that they caused: the callees of its own calls."""

    follower: Follower
    bins: Ints
    below: list[tuple[Ints, _Visit | None]] = field(default_factory=list)
    served: Served | None = None

    def answer(self, site: int, offset: Floats, reached: Bools) -> Outcome:
        rows = np.flatnonzero(reached)
        shape = len(self.bins)
        before, duration, failed = np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=bool)
        visit = None
        if len(rows):
            last = self.follower.world.conditions.bins - 1
            bins = np.minimum(self.bins[rows] + (offset[rows] / 10.0).astype(np.int64), last)
            visit = self.follower.visit(int(self.follower.world.system.target[site]), bins)
            assert visit.served is not None
            outcome = visit.served.outcome
            before[rows], duration[rows], failed[rows] = outcome.before, outcome.duration, outcome.failed
        self.below.append((rows, visit))
        return Outcome(before, duration, failed)


class Follower:
    """Follows requests and writes their spans down."""

    def __init__(self, world: World, tracing: Tracing, rng: np.random.Generator, start_ns: int) -> None:
        self.world, self._tracing, self._rng, self._start_ns = world, tracing, rng, start_ns
        self._server = Server(world, rng, followed=True)
        self._frames: list[pl.DataFrame] = []
        self._messages: dict[int, list[tuple[Ints, pl.Series, pl.Series]]] = {}  # by queue: sent at, trace, span

    def frame(self) -> pl.DataFrame:
        """The frame `spans`."""
        system, share = self.world.system, self._tracing.sampling * 10.0
        for o in range(len(system.operation_names)):
            rate = self.world.state.rate[o] if system.consumes[o] >= 0 else self.world.conditions.entry[o]
            counts = self._rng.poisson(np.maximum(rate, 0.0) * share)
            bins = np.repeat(np.arange(len(counts)), counts)
            if not len(bins):
                continue
            starts = np.sort(self._start_ns + bins * BIN_NS + self._rng.integers(0, BIN_NS, len(bins)))
            traces, parents = self._origin(o, starts)
            self._write(self.visit(o, bins), starts, traces, parents)
        if not self._frames:
            return empty("spans")
        return pl.concat(self._frames).sort("start_time_unix_nano", "span_id")

    def visit(self, o: int, bins: Ints) -> _Visit:
        """Let requests arrive at operation o in these bins."""
        visit = _Visit(self, bins)
        visit.served = self._server.serve(o, Moments((len(bins),), bins), visit)
        return visit

    def _origin(self, o: int, starts: Ints) -> tuple[pl.Series, pl.Series]:
        """(trace, parent) of requests that nobody called: new traces, or those of the messages that are read, first come."""
        traces = _ids(self._rng, len(starts), 16)
        parents = pl.Series([None] * len(starts), dtype=pl.String)
        sent = self._messages.get(int(self.world.system.consumes[o]), [])
        if not sent or not self._tracing.join:
            return traces, parents
        times = np.concatenate([at for at, _, _ in sent])
        order = np.argsort(times, kind="stable")
        number = np.minimum(np.arange(len(starts)), len(order) - 1)
        known = (np.arange(len(starts)) < len(order)) & (times[order[number]] <= starts)
        rows = np.where(known, order[number], 0)
        mask = pl.Series(known)
        message_traces = pl.concat([trace for _, trace, _ in sent]).gather(rows)
        message_spans = pl.concat([span for _, _, span in sent]).gather(rows)
        return message_traces.zip_with(mask, traces), message_spans.zip_with(mask, parents)

    # --- writing ------------------------------------------------------------------------------------------------

    def _write(self, visit: _Visit, starts: Ints, traces: pl.Series, parents: pl.Series) -> None:
        """Spans of a visit and of everything below it. starts: (n,) ns at which its own spans start."""
        served, system = visit.served, self.world.system
        assert served is not None
        o = served.operation
        component = int(system.component_of[o])
        ids = _ids(self._rng, len(starts), 8)
        if component < system.services:
            kind = _CONSUMER if system.consumes[o] >= 0 else _SERVER
            columns = self._columns(traces, ids, parents, starts, served.outcome.duration, served.outcome.failed)
            self._emit(columns, component, served.pod, kind, system.operation_names[o], int(system.consumes[o]))
        for attempt, (rows, below) in zip(served.attempts, visit.below, strict=True):
            self._call(attempt, served, starts, traces, ids, rows, below)

    def _call(
        self,
        attempt: Attempt,
        served: Served,
        starts: Ints,
        traces: pl.Series,
        parents: pl.Series,
        rows: Ints,
        below: _Visit | None,
    ) -> None:
        system, k = self.world.system, attempt.site
        caller, callee = int(system.source_component[k]), int(system.target_component[k])
        made = np.flatnonzero(attempt.made)
        if not len(made):
            return
        ids = _ids(self._rng, len(starts), 8)  # of all, so that rows can be taken from them
        left = starts + (attempt.offset * SECOND_NS).astype(np.int64)
        picked = pl.Series(made)
        client = attempt.client[made]
        columns = self._columns(
            traces.gather(picked), ids.gather(picked), parents.gather(picked), left[made], client, attempt.failed[made]
        )
        kind = _PRODUCER if system.kinds[callee] == "queue" else _CLIENT
        pod = served.pod[made] if served.pod is not None else None
        self._emit(columns, caller, pod, kind, client_name(system, k), callee)
        if kind == _PRODUCER:
            done = left[made] + (client * SECOND_NS).astype(np.int64)
            self._messages.setdefault(callee, []).append((done, traces.gather(picked), ids.gather(picked)))
        if below is not None:
            assert below.served is not None
            outcome = below.served.outcome
            away = np.maximum(attempt.client[rows] - outcome.duration - outcome.before, 0.0) / 2 + outcome.before
            arrived = left[rows] + (away * SECOND_NS).astype(np.int64)
            self._write(below, arrived, traces.gather(pl.Series(rows)), ids.gather(pl.Series(rows)))

    def _columns(
        self, traces: pl.Series, ids: pl.Series, parents: pl.Series, starts: Ints, seconds: Floats, failed: Bools
    ) -> pl.DataFrame:
        return pl.DataFrame(
            {
                "trace_id": traces,
                "span_id": ids,
                "parent_span_id": parents,
                "start_time_unix_nano": starts,
                "end_time_unix_nano": starts + (seconds * SECOND_NS).astype(np.int64),
                "status_code": np.where(failed & self._tracing.status, 2, 0).astype(np.int8),
            }
        )

    def _emit(self, columns: pl.DataFrame, component: int, pod: Ints | None, kind: int, name: str, peer: int) -> None:
        """peer: the component that a client calls, or the queue that a consumer reads, -1 for none."""
        system, conditions = self.world.system, self.world.conditions
        literals = {"name": name, "service.name": system.names[component]}
        if peer != _NOTHING:
            what = system.kinds[peer]
            if what == "queue":
                literals |= {"messaging.system": system.products[peer], "messaging.destination.name": system.names[peer]}
            elif what == "database":
                literals |= {"db.system.name": system.products[peer], "service.peer.name": system.names[peer]}
            literals["server.address"] = system.names[peer]
        frame = columns.with_columns(
            pl.lit(kind, dtype=pl.Int8).alias("kind"), *(pl.lit(v).alias(c) for c, v in literals.items())
        )
        if self._tracing.name_pods and pod is not None:
            names, nodes = pl.Series(system.pod_names), pl.Series([*system.node_names, None])
            frame = frame.with_columns(
                names.gather(pod).alias("k8s.pod.name"), nodes.gather(system.pod_node[pod]).alias("k8s.node.name")
            )
        frame = conform("spans", frame)
        if conditions.traces_lost is not None:
            frame = self._arriving(frame, component)
        if conditions.skew[component]:
            frame = self._skewed(frame, component)
        self._frames.append(frame)

    def _arriving(self, frame: pl.DataFrame, component: int) -> pl.DataFrame:
        lost = self.world.conditions.traces_lost
        assert lost is not None
        return frame.filter(pl.Series(self._rng.random(frame.height) >= lost[component][self._bins(frame)]))

    def _skewed(self, frame: pl.DataFrame, component: int) -> pl.DataFrame:
        off = round(float(self.world.conditions.skew[component]) * SECOND_NS)
        shift = pl.Series(np.where(self._bins(frame) >= self.world.conditions.onset, off, 0))
        return frame.with_columns(pl.col("start_time_unix_nano", "end_time_unix_nano") + shift)

    def _bins(self, frame: pl.DataFrame) -> Ints:
        """Bin of every span, as its own clock had it before it was off."""
        starts = frame["start_time_unix_nano"].to_numpy()
        bins: Ints = np.clip((starts - self._start_ns) // BIN_NS, 0, self.world.conditions.bins - 1)
        return bins


def span_frame(world: World, tracing: Tracing, rng: np.random.Generator, start_ns: int) -> pl.DataFrame:
    """The frame `spans` of every request that is sampled; bins count from start_ns."""
    return Follower(world, tracing, rng, start_ns).frame()


def _ids(rng: np.random.Generator, n: int, size: int) -> pl.Series:
    text = rng.bytes(n * size).hex()
    return pl.Series([text[i : i + 2 * size] for i in range(0, len(text), 2 * size)], dtype=pl.String)
