"""What a sample of stored traces leaves unsaid, in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from rca.collectors.findings import Finding
from rca.collectors.tracing.sampling import shown
from rca.errors import RcaError
from rca.telemetry import MINUTE_NS, Gap, Interval, Telemetry

CHECKED_NS: Final = 15 * MINUTE_NS
"""How much of the recent past a check looks at."""
_NAMED: Final = 4
_WHOLE: Final = 0.99
_CAVEAT: Final = "counts of a sample compare over time, they are no rates of traffic"


@dataclass(frozen=True)
class Sample:
    """How many traces were read of how many there are: exactly so many, about so many, or at least so many."""

    read: int
    of: int
    certainty: Literal["exactly", "about", "at least"]

    @property
    def whole(self) -> bool:
        """True if so few traces are missing that counts are those of all traces."""
        return self.certainty == "exactly" and self.read >= _WHOLE * self.of


@dataclass(frozen=True, eq=False)
class Reading:
    """What a store of traces gave, and how much of what it has that is."""

    telemetry: Telemetry
    sample: Sample


def sampled(source: str, interval: Interval, sample: Sample, halvings: Mapping[str, int]) -> list[Gap]:
    """A gap that says how many traces were read of how many, and the shares of those that were read in part."""
    if sample.certainty == "exactly" and sample.read >= sample.of:
        return []
    thin = sorted(((-times, name) for name, times in halvings.items() if times))
    shares = ", ".join(f"{shown(-times)} of {name}" for times, name in thin[:_NAMED])
    more = f" and {len(thin) - _NAMED} more" if len(thin) > _NAMED else ""
    of = f"{sample.of:,}" if sample.certainty == "exactly" else f"{sample.certainty} {sample.of:,}"
    reason = f"{sample.read:,} of {of} traces were read{f' ({shares}{more})' if shares else ''}; {_CAVEAT}"
    return [Gap(source, reason, interval)]


def failed(source: str, what: str, count: int, of: int, errors: Mapping[Interval, RcaError]) -> list[Gap]:
    """One gap for requests that failed: how many, when, and why the first one did."""
    if not errors:
        return []
    return [Gap(source, f"{count:,} of {of:,} {what} failed: {errors[min(errors)]}", around(errors))]


def left_out(source: str, what: str, left: Sequence[Interval], of: int, limit: str | None) -> list[Gap]:
    """One gap for what was not asked for because a limit was reached."""
    if not left:
        return []
    return [Gap(source, f"{len(left):,} of {of:,} {what} were not read: {limit or 'half of the deadline'} reached", around(left))]


def named(names: Iterable[str]) -> str:
    """The first few of several names."""
    every = sorted(names)
    return ", ".join(every[:_NAMED]) + (f" and {len(every) - _NAMED} more" if len(every) > _NAMED else "")


def looked_at(source: str, telemetry: Telemetry) -> Iterator[Finding]:
    """What a look at the last CHECKED_NS found."""
    spans, minutes = telemetry.spans, CHECKED_NS // MINUTE_NS
    if spans.is_empty():
        yield Finding(source, "warning", f"no traces in the last {minutes} minutes", "check that services still send spans")
    else:
        traces, services = spans["trace_id"].n_unique(), spans["service.name"].n_unique()
        yield Finding(source, "ok", f"the last {minutes} minutes gave {traces:,} traces of {services:,} services")
    for gap in telemetry.gaps:
        sample = _CAVEAT in gap.reason
        advice = "raise max_traces and deadline to read more" if sample else ""
        yield Finding(source, "note" if sample else "warning", gap.reason, advice)


def around(intervals: Iterable[Interval]) -> Interval:
    """The shortest interval that holds them all."""
    intervals = list(intervals)
    return Interval(min(interval.start_ns for interval in intervals), max(interval.end_ns for interval in intervals))
