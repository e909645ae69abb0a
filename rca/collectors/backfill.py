"""Fill the store with telemetry of the past, chunk by chunk, newest first.

A chunk is stored whole or not at all (Store.replace), so an interrupted run leaves nothing half done, and the next one goes on.
What live collection covers is left alone. A chunk that failed becomes a gap in the store, and is tried again by the next run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

import polars as pl
from pydantic import BaseModel, ConfigDict, ValidationError

from rca.bins import BIN_NS
from rca.collectors.config import Config
from rca.collectors.files import FORMATS
from rca.collectors.files.reading import Progress, ReadOptions, quiet
from rca.collectors.sources import BUILT_IN, collector_of
from rca.collectors.tracing.config import TraceSource
from rca.collectors.tracing.gaps import Reading
from rca.collectors.tracing.sampling import Plan
from rca.collectors.warm.live import BACKFILL, LIVE
from rca.collectors.warm.parts import write_file
from rca.collectors.warm.state import joined, read_state, without
from rca.collectors.warm.store import Store
from rca.contracts import Collector
from rca.errors import BadInput, Rejected, Unavailable, UnknownName
from rca.telemetry import MINUTE_NS, UNTIMED_FRAMES, Gap, Interval, Telemetry, time_column
from rca.wording import clock

CHUNK_NS: Final = 10 * MINUTE_NS
SOURCES: Final = ("tempo", "jaeger", "prometheus")
"""Sources that know the past, in the order in which their traces count."""
_MARGIN_NS: Final = MINUTE_NS  # spans of a trace that begins in a chunk may lie outside of it, and the other way round
_DEADLINE_NS: Final = 10 * MINUTE_NS  # for one chunk; nobody waits for an answer within seconds
_AWAY: Final = 5  # chunks in a row; months of a source that is down would take hours of asking
_FAILED: Final = "not filled: "
_FILES: Final = "files"

Told = Callable[[str, int, int], None]
"""Called with what is done now, and how many chunks are done of how many."""


Collect = Callable[[Interval], Telemetry | Reading]


@runtime_checkable
class Sampler(Collector, Protocol):
    """A collector that reads a sample where there is too much, at shares that can be settled beforehand."""

    def read(self, start_ns: int, end_ns: int, plan: Plan | None = None) -> Reading: ...

    def survey(self, start_ns: int, end_ns: int) -> Plan: ...


@dataclass
class Outcome:
    """What became of a source's chunks."""

    source: str
    filled: int = 0
    earlier: int = 0  # filled by an earlier run
    live: int = 0  # left to live collection
    failed: list[Gap] = field(default_factory=list)
    untried: int = 0  # left out, since the source did not answer several times in a row


def past_sources(config: Config, names: Sequence[str] = ()) -> list[Collector]:
    """The sources of a configuration that know the past, or some of them by name; traces of one alone.

    Raises BadInput where there is none.
    """
    tables = {name: settings for name in SOURCES if (settings := getattr(config, name)) is not None}
    wrong = [name for name in names if name not in tables]
    for name in wrong:
        if name not in SOURCES:
            raise UnknownName("--source", name, SOURCES)
    if wrong or not tables:
        known = ", ".join(f"[{name}]" for name in SOURCES)
        expected = " and ".join(f"[{name}]" for name in wrong) or f"one of {known}"
        raise BadInput("configuration", expected=expected, found="none")
    chosen = list(names) or [name for name in tables if name not in SOURCES[1:2] or SOURCES[0] not in tables]
    found = []
    for name in chosen:
        settings = tables[name]
        if isinstance(settings, TraceSource):
            settings = settings.model_copy(update={"deadline": max(settings.deadline, _DEADLINE_NS)})
        found.append(collector_of(BUILT_IN[name], settings))
    return found


def backfill(
    store: Store,
    sources: Sequence[Collector],
    interval: Interval,
    *,
    chunk_ns: int = CHUNK_NS,
    sample: bool = False,
    told: Told = lambda _what, _done, _all: None,
) -> Iterator[Outcome]:
    """Fill the store from every source. Outcomes come as sources are done.

    Without `sample`, a chunk of which not all traces can be read is not stored: beside live collection, its counts would look
    like a fall in traffic. A source that is away for several chunks in a row is not asked for the rest.
    """
    plans = [_chunks(store, source.name, interval, chunk_ns) for source in sources]
    everything, done = sum(len(todo) for todo, _ in plans), 0
    for source, (todo, outcome) in zip(sources, plans, strict=True):
        collect = _collecting(store, source, interval, todo, sample=sample)
        away = 0
        for number, chunk in enumerate(todo):
            told(f"{source.name}, {_shown(chunk)}", done + number, everything)
            failure, answered = _fill(store, source.name, chunk, collect, sample=sample)
            if failure is None:
                outcome.filled += 1
            else:
                outcome.failed.append(failure)
            away = 0 if answered else away + 1
            if away == _AWAY:
                outcome.untried = len(todo) - number - 1
                break
        done += len(todo)
        yield outcome
    told("done", done, everything)


def backfill_file(store: Store, path: Path, interval: Interval, chunk_ns: int = CHUNK_NS, progress: Progress = quiet) -> Outcome:
    """Fill the store with what the Collector's file exporter wrote about an interval. Raises BadTelemetry, BadInput.

    The interval's telemetry is held in memory. What earlier files gave for a chunk is replaced.
    """
    if not path.exists():
        raise BadInput(str(path), expected="a file or folder of OTLP JSON", found="nothing")
    options = ReadOptions(start_ns=interval.start_ns, end_ns=interval.end_ns, baseline_ns=0)
    (_, telemetry), *_ = FORMATS["otlp-json"].read(path, options, progress)
    telemetry = replace(telemetry, gaps=tuple(gap for gap in telemetry.gaps if gap.source != "baseline"))
    chunks, live = _left_by_live(store, interval, chunk_ns)
    outcome = Outcome(_FILES, live=live)
    for chunk in chunks:
        part = _part(telemetry, Interval(chunk.start_ns - _MARGIN_NS, chunk.end_ns + _MARGIN_NS))
        if not part.is_empty():
            store.replace(_FILES, chunk, part)
            outcome.filled += 1
    return outcome


def _fill(store: Store, source: str, chunk: Interval, collect: Collect, *, sample: bool) -> tuple[Gap | None, bool]:
    """Store one chunk; the gap that was stored instead if that failed, and whether the source answered at all."""
    answered = True
    try:
        found = collect(Interval(chunk.start_ns - _MARGIN_NS, chunk.end_ns + _MARGIN_NS))
    except (Unavailable, Rejected) as error:
        failure, answered = Gap(source, f"{_FAILED}{error}", chunk), isinstance(error, Rejected)
    else:
        telemetry = found.telemetry if isinstance(found, Reading) else found
        if isinstance(found, Telemetry) or found.sample.whole or sample:
            store.replace(source, chunk, replace(telemetry, gaps=tuple(_clipped(telemetry.gaps, chunk))))
            return None, answered
        size = found.sample
        text = f"{size.read:,} of {size.certainty} {size.of:,} traces could be read, and a sample is not stored"
        failure = Gap(source, _FAILED + text, chunk)
    store.replace(source, chunk, Telemetry(gaps=(failure,)))
    return failure, answered


def _chunks(store: Store, source: str, interval: Interval, chunk_ns: int) -> tuple[list[Interval], Outcome]:
    """Chunks to fill, newest first, and how many others there are."""
    shelf = next((shelf for shelf in store.shelves() if shelf.name == source), None)
    failed = [gap.interval for gap in shelf.gaps if gap.interval and gap.reason.startswith(_FAILED)] if shelf else []
    covered = without(map(_ends, shelf.covered if shelf else ()), map(_ends, failed))
    chunks, live = _left_by_live(store, interval, chunk_ns)
    todo = [chunk for chunk in chunks if without([_ends(chunk)], covered)]
    return todo, Outcome(source, earlier=len(chunks) - len(todo), live=live)


def _left_by_live(store: Store, interval: Interval, chunk_ns: int) -> tuple[list[Interval], int]:
    """Chunks of an interval without what live collection covers, newest first, and how many it covers whole."""
    state = read_state(store.folder / LIVE)
    live = [(-(-start // BIN_NS) * BIN_NS, end // BIN_NS * BIN_NS) for start, end in state.spans_covered] if state else []
    found, whole = [], 0
    for start in range(interval.start_ns // chunk_ns * chunk_ns, interval.end_ns, chunk_ns):
        ends = (max(start, interval.start_ns), min(start + chunk_ns, interval.end_ns))
        left = without([ends], joined(live))
        whole += not left
        found += [Interval(*piece) for piece in left]
    return found[::-1], whole


def _collecting(store: Store, source: Collector, interval: Interval, todo: Sequence[Interval], *, sample: bool) -> Collect:
    """How to collect one chunk: at the same shares in all of them where samples are wanted."""
    if not isinstance(source, Sampler):
        return lambda chunk: source.collect(chunk.start_ns, chunk.end_ns)
    sampler: Sampler = source
    if not (sample and todo):
        return lambda chunk: sampler.read(chunk.start_ns, chunk.end_ns)
    path = store.folder / BACKFILL / f"{source.name}.plan.json"
    kept = _kept_plan(path, interval)
    plan = kept.plan() if kept else _surveyed(sampler, todo)
    if kept is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        body = _KeptPlan(
            start_ns=interval.start_ns, end_ns=interval.end_ns, looked_at=dict(plan.looked_at), taken=dict(plan.taken)
        )
        write_file(path, body.model_dump_json().encode())
    return lambda chunk: sampler.read(chunk.start_ns, chunk.end_ns, plan)


def _surveyed(source: Sampler, todo: Sequence[Interval]) -> Plan:
    """Shares that a few chunks, spread over all, allow."""
    plan = Plan()
    for chunk in dict.fromkeys(todo[place] for place in (0, len(todo) // 2, len(todo) - 1)):
        plan = plan.merged(source.survey(chunk.start_ns - _MARGIN_NS, chunk.end_ns + _MARGIN_NS))
    return plan


class _KeptPlan(BaseModel):
    """A plan in a file, and the interval that it is about: a run that goes on has to read at the shares of the one before."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    start_ns: int
    end_ns: int
    looked_at: dict[str, int]
    taken: dict[str, int]

    def plan(self) -> Plan:
        return Plan(self.looked_at, self.taken)


def _kept_plan(path: Path, interval: Interval) -> _KeptPlan | None:
    try:
        kept = _KeptPlan.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    return kept if (kept.start_ns, kept.end_ns) == _ends(interval) else None


def _part(telemetry: Telemetry, interval: Interval) -> Telemetry:
    """Telemetry of a part of its time."""
    frames = {
        name: frame
        if name in UNTIMED_FRAMES
        else frame.filter(pl.col(time_column(name)).is_between(interval.start_ns, interval.end_ns, closed="left"))
        for name, frame in telemetry.frames().items()
    }
    return Telemetry(gaps=tuple(_clipped(telemetry.gaps, interval)), **frames)


def _clipped(gaps: Sequence[Gap], interval: Interval) -> Iterator[Gap]:
    """Gaps as far as they lie in an interval; what says nothing about when is about all of it."""
    for gap in gaps:
        found = gap.interval or interval
        start, end = max(found.start_ns, interval.start_ns), min(found.end_ns, interval.end_ns)
        if start < end:
            yield Gap(gap.source, gap.reason, Interval(start, end))


def _ends(interval: Interval) -> tuple[int, int]:
    return interval.start_ns, interval.end_ns


def _shown(interval: Interval) -> str:
    return f"{clock(interval.start_ns, date=True)} to {clock(interval.end_ns)}"
