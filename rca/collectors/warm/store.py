"""The store of live and past telemetry, for whoever reads it. Reading needs no lock and may happen beside the collector.

<folder>/live/              what `rca collect` received (rca.collectors.warm.live writes it)
<folder>/backfill/<source>/ what was read from a source about the past
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from rca.bins import BIN_NS, summed_frame
from rca.cleaning import cleaned
from rca.collectors.findings import Finding
from rca.collectors.streaming.sums import summed
from rca.collectors.warm.config import StoreConfig
from rca.collectors.warm.live import BACKFILL, LIVE, SOURCE, LiveWriter
from rca.collectors.warm.parts import hour_start_ns, hours_in, parts_in, visible
from rca.collectors.warm.reading import View, read_shelf
from rca.collectors.warm.shelf import Shelf
from rca.collectors.warm.state import Ends, State, StoredGap, joined, read_state, without
from rca.errors import BadInput, Unavailable
from rca.incidents.home import default_home
from rca.telemetry import BIN_FRAMES, FRAME_NAMES, MINUTE_NS, Gap, Interval, Telemetry, empty
from rca.wording import clock, size

FOLDER: Final = "telemetry"
"""Name of the store's folder below the product's home."""
_SOURCE_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_PATIENCE_SECONDS: Final = 10.0
"""How long a backfill waits for the collector that tidies up its shelf just now."""
_NOT_YET: Final = "not stored yet"
_NOT_RUNNING: Final = "the collector was not running"
_SILENT_NS: Final = 2 * MINUTE_NS
_TOO_OLD: Final = "older than what the store keeps"


def store_folder(config: StoreConfig | None = None, home: Path | None = None) -> Path:
    """Where the store lies: below a home that is given, else where the configuration says, else below the default home."""
    if home is None and config is not None and config.folder is not None:
        return config.folder.expanduser()
    return (home or default_home()) / FOLDER


@dataclass(frozen=True)
class Shelved:
    """What one shelf of the store holds: bytes and rows of every frame, and the stretches of time that it covers."""

    name: str
    size_bytes: int
    frames: Mapping[str, tuple[int, int, int]]
    """Frame to (parts, bytes, start of its first hour in ns)."""
    covered: tuple[Interval, ...]
    gaps: tuple[Gap, ...]
    counts: Mapping[str, object]
    written_ns: int


class Store:
    """A store of telemetry, as a Collector. `writer` is for `rca collect` alone, `replace` for what is read about the past."""

    name = "store"

    def __init__(self, folder: Path, *, wall_ns: Callable[[], int] = time.time_ns) -> None:
        self.folder = folder
        self._wall_ns = wall_ns

    # --- reading ------------------------------------------------------------------------------------------------

    def collect(self, start_ns: int, end_ns: int) -> Telemetry:
        """The same as `read`, as contracts.Collector names it."""
        return self.read(start_ns, end_ns)

    def read(self, start_ns: int, end_ns: int, frames: Collection[str] = FRAME_NAMES) -> Telemetry:
        """Everything about [start_ns, end_ns), sorted by time, with a gap for every stretch that was not collected.

        Spans are bins; equal keys may come several times and are to be added (Bins.of_frames does). Spans that still wait for
        their traces are counted as far as they are known. Of every bin, one source is read: live collection where it ran and
        spans came, else the first backfilled source that covers it. `frames` limits what is read; the others are empty.

        Raises Unavailable if nothing was ever stored, or if the writer changes files faster than they can be read, BadInput if
        the state of live collection is damaged.
        """
        interval = Interval(start_ns, end_ns)
        views: dict[str, View] = {}
        damaged: list[Gap] = []
        for name, folder in self._shelves().items():
            try:
                view = read_shelf(folder, interval, frames)
            except BadInput as error:
                if name == LIVE:
                    raise
                damaged.append(Gap("store", str(error), interval))
            else:
                views |= {name: view} if view is not None else {}
        if not views:
            raise Unavailable(f"{self.folder}: nothing is stored here; `rca collect` or `rca backfill` fill it")
        owned = _owners(views, interval)
        gaps = [*_missing(views, interval), *_damage(views, interval), *damaged]
        return Telemetry(gaps=tuple(gaps), **{name: _merged(name, views, owned) for name in frames})

    def fresh_until_ns(self) -> int | None:
        """Until when the spans of live collection can be taken as complete; None if nothing was collected live.

        What starts later is stored as it arrives: a window that ends here lacks nothing, a later one lacks its last seconds.
        """
        state = read_state(self.folder / LIVE)
        return state.complete_until_ns or None if state is not None else None

    def shelves(self) -> tuple[Shelved, ...]:
        """What the store holds, shelf by shelf, `live` first."""
        return tuple(
            _shelved(name, folder, state) for name, folder in self._shelves().items() if (state := read_state(folder)) is not None
        )

    def _shelves(self) -> dict[str, Path]:
        """Folders in the order in which they are believed."""
        backfill = self.folder / BACKFILL
        names = sorted(path.name for path in backfill.iterdir() if path.is_dir()) if backfill.is_dir() else []
        return {LIVE: self.folder / LIVE} | {name: backfill / name for name in names if name != LIVE}

    # --- writing ------------------------------------------------------------------------------------------------

    def writer(self, config: StoreConfig | None = None) -> LiveWriter:
        """The writer of live telemetry. Raises Unavailable if another process collects into this folder."""
        return LiveWriter(self.folder, config or StoreConfig(), wall_ns=self._wall_ns)

    def replace(self, source: str, interval: Interval, telemetry: Telemetry) -> None:
        """Put telemetry of the past in the place of all that this source stored of the interval: repeating changes nothing.

        Raw spans are cleaned and summed; they, or bins, mark the interval as covered with spans. What lies outside the interval
        is left out; ends at multiples of 10 s keep bins whole. Gaps are stored too. May run beside `rca collect`.

        Raises Unavailable if the same source is being filled by another process, StorageFull if the disk is full (then nothing
        changed), BadInput for a source that cannot name a folder.
        """
        if not _SOURCE_NAME.fullmatch(source) or source == LIVE:
            raise BadInput("source", expected="a short name of letters, digits, - and _", found=repr(source))
        telemetry = cleaned(telemetry)
        frames = dict(telemetry.frames())
        spans = frames.pop("spans")
        has_spans = bool(spans.height or frames["bin_counts"].height)
        if spans.height:
            sums = summed(spans).frames
            frames |= {name: summed_frame(name, pl.concat([frames[name], sums[name]])) for name in BIN_FRAMES}
        frames = {name: _within(name, frame, interval) for name, frame in frames.items()}
        ends = (interval.start_ns, interval.end_ns)
        with Shelf(self.folder / BACKFILL / source, patience_s=_PATIENCE_SECONDS) as shelf:
            state = shelf.state
            gaps = [gap for gap in state.gaps if gap.end_ns <= ends[0] or gap.start_ns >= ends[1]]
            for gap in telemetry.gaps:
                within = gap.interval or interval
                gaps.append(StoredGap(source=gap.source, reason=gap.reason, start_ns=within.start_ns, end_ns=within.end_ns))
            had_spans = without(state.spans_covered, [ends])
            shelf.replace(
                frames,
                interval,
                self._wall_ns(),
                covered=joined([*state.covered, ends]),
                spans_covered=joined([*had_spans, ends]) if has_spans else had_spans,
                gaps=tuple(gaps),
            )


class StoreCollector(Store):
    """The store that `[store]` of the configuration names."""

    def __init__(self, config: StoreConfig) -> None:
        super().__init__(store_folder(config))

    def check(self) -> tuple[Finding, ...]:
        """Whether `rca collect` keeps the store filled; raises BadInput if its state cannot be read."""
        shelves = self.shelves()
        if not shelves:
            return (
                Finding(self.name, "note", f"{self.folder}: nothing is stored yet", "run `rca collect`, and send OTLP to it"),
            )
        held = sum(shelf.size_bytes for shelf in shelves)
        found = [Finding(self.name, "ok", f"{self.folder}: {size(held)} of telemetry")]
        live = next((shelf for shelf in shelves if shelf.name == LIVE), None)
        silent_ns = self._wall_ns() - (live.written_ns if live else 0)
        if live is None or silent_ns > _SILENT_NS:
            since = f"since {clock(live.written_ns, date=True)} UTC" if live else "so far"
            found.append(Finding(self.name, "warning", f"nothing was collected live {since}", "run `rca collect`"))
        return tuple(found)


def _owners(views: Mapping[str, View], interval: Interval) -> dict[str, tuple[Ends, ...]]:
    """For every shelf, the whole bins of the interval that it alone speaks for; all may speak for the rest."""
    owned: dict[str, tuple[Ends, ...]] = {}
    taken: tuple[Ends, ...] = ()
    for name, view in views.items():
        whole = [(-(-start // BIN_NS) * BIN_NS, end // BIN_NS * BIN_NS) for start, end in view.state.spans_covered]
        inside = [(max(start, interval.start_ns), min(end, interval.end_ns)) for start, end in whole]
        owned[name] = without(inside, taken)
        taken = joined([*taken, *inside])
    return owned


def _merged(name: str, views: Mapping[str, View], owned: Mapping[str, tuple[Ends, ...]]) -> pl.DataFrame:
    parts = []
    for shelf, view in views.items():
        frame = view.frames[name]
        if name in BIN_FRAMES:
            others = [ends for other, intervals in owned.items() if other != shelf for ends in intervals]
            frame = frame.filter(~_in_any("time_unix_nano", others))
        if frame.height:
            parts.append(frame)
    if not parts:
        return empty(name)
    if len(parts) == 1:
        return parts[0]
    rows = pl.concat(parts)
    return _ordered(name, rows if name in BIN_FRAMES else summed_frame(name, rows))


def _ordered(name: str, frame: pl.DataFrame) -> pl.DataFrame:
    return frame if name == "topology" else frame.sort("time_unix_nano", maintain_order=True)


def _in_any(column: str, intervals: Iterable[Ends]) -> pl.Expr:
    inside = pl.lit(False)
    for start, end in intervals:
        inside |= pl.col(column).is_between(start, end, closed="left")
    return inside


def _within(name: str, frame: pl.DataFrame, interval: Interval) -> pl.DataFrame:
    if name == "topology":
        return frame
    time_ns = pl.col("time_unix_nano")
    return frame.filter(time_ns.is_null() | time_ns.is_between(interval.start_ns, interval.end_ns, closed="left"))


def _missing(views: Mapping[str, View], interval: Interval) -> list[Gap]:
    """Gaps that were recorded, and stretches for which no reason was."""
    live = views[LIVE].state if LIVE in views else State()
    filled = [ends for name, view in views.items() if name != LIVE for ends in view.state.spans_covered]
    recorded = []
    for stored in (stored for view in views.values() for stored in view.state.gaps):
        ends = (max(stored.start_ns, interval.start_ns), min(stored.end_ns, interval.end_ns))
        left = without([ends], filled if stored.source == SOURCE else ())
        recorded += [Gap(stored.source, stored.reason, Interval(*piece)) for piece in left]
    known = [*filled, *live.covered, *live.spans_covered]
    known += [(gap.interval.start_ns, gap.interval.end_ns) for gap in recorded if gap.interval and gap.source == SOURCE]
    kept_from_ns = min(max(live.retained_since_ns or 0, interval.start_ns), interval.end_ns)
    gaps = [Gap(SOURCE, _TOO_OLD, Interval(*ends)) for ends in joined([(interval.start_ns, kept_from_ns)])]
    for start, end in without([(kept_from_ns, interval.end_ns)], known):
        late = start >= live.at_ns and not live.stopped
        gaps.append(Gap(SOURCE, _NOT_YET if late else _NOT_RUNNING, Interval(start, end)))
    return sorted([*recorded, *gaps], key=lambda gap: (gap.interval.start_ns if gap.interval else 0, gap.source, gap.reason))


def _damage(views: Mapping[str, View], interval: Interval) -> list[Gap]:
    return [Gap("store", f"{file} of {name} is damaged", interval) for name, view in views.items() for file in view.damaged]


def _shelved(name: str, folder: Path, state: State) -> Shelved:
    frames = {}
    for frame in FRAME_NAMES:
        hours = hours_in(folder / frame)
        sizes = []
        for hour in hours:
            for part in visible(parts_in(folder / frame / hour), state.commit):
                with suppress(FileNotFoundError):  # the collector deleted it since we listed it
                    sizes.append((folder / frame / hour / part.name).stat().st_size)
        if sizes:
            frames[frame] = (len(sizes), sum(sizes), hour_start_ns(hours[0]) or 0)
    return Shelved(
        name,
        sum(size for _, size, _ in frames.values()),
        frames,
        tuple(Interval(*ends) for ends in state.covered),
        tuple(Gap(gap.source, gap.reason, Interval(gap.start_ns, gap.end_ns)) for gap in state.gaps),
        state.counts,
        state.at_ns,
    )
