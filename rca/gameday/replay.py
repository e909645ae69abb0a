"""What the tool would have said at a moment of a recorded incident: asked as `rca serve` asks, of nothing that came later.

The recording takes the place of the live sources, cut at the moment. From there on it is the live code that chooses the stretch
to search, its baseline and the onset (rca.collectors.live); label, window and onset of the recording are not looked at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import polars as pl

from rca.bins import BIN_NS, Bins, bins_of, key
from rca.collectors.alerts import Alert
from rca.collectors.config import Config
from rca.collectors.live import collect_incident, question_about
from rca.contracts import Case, Ranker
from rca.evaluation.cases import rolled_up
from rca.evaluation.predictions import Prediction, Truth
from rca.evidence import explained
from rca.incidents.incident import Incident
from rca.ranking import Ranking
from rca.report import Certainty, confidence_of, is_empty
from rca.telemetry import BIN_FRAMES, MINUTE_NS, SECOND_NS, UNTIMED_FRAMES, EntityId, Gap, Interval, Telemetry, time_column
from rca.window import INCIDENT

GRID_S: Final = (0, 15, 30, 45, 60, 90, 120, 150, 180, 240, 300, 360, 480, 600, 900, 1200, 1500, 1800)
"""Seconds after an incident was noticed at which the tool is asked, as long as it lasts; and once more in the end."""
QUIET_S: Final = 60
"""Length of what is asked about at a time in long quiet times, in seconds."""
UNALERTED_NS: Final = 15 * MINUTE_NS
"""What is searched where no alert fired, as `rca triage` without options does."""

_TOP: Final = 5
_SUMMED: Final = ("logs", *BIN_FRAMES)
"""Frames whose rows are sums over ten seconds from their time on."""
_TRACES: Final = ("spans", "bin_counts")
_ENTITY_FRAMES: Final = ("metrics", "events", "logs", "alerts")
_NO_HURRY_NS: Final = 24 * 60 * MINUTE_NS


# --- what was known ---------------------------------------------------------------------------------------------------


def known_at(telemetry: Telemetry, now_ns: int) -> Telemetry:
    """Telemetry as it was at a moment: rows that were complete by then, and nothing that hangs on later ones.

    A span is known once it ended, ten seconds of spans or log lines once they are over, an alert without a time never. The
    snapshot of who runs where has no times: of it counts what names only things that telemetry had told of by then.
    """
    frames: dict[str, Any] = {name: _rows_by(name, frame, now_ns) for name, frame in telemetry.frames().items()}
    seen = _seen(frames)
    frames["topology"] = telemetry.topology.filter(pl.col("source").is_in(seen) & pl.col("target").is_in(seen))
    gaps = (_gap_by(gap, now_ns) for gap in telemetry.gaps)
    return Telemetry(gaps=tuple(gap for gap in gaps if gap is not None), **frames)


def _rows_by(name: str, frame: pl.DataFrame, now_ns: int) -> pl.DataFrame:
    if name in UNTIMED_FRAMES:
        return frame
    column = pl.col("end_time_unix_nano" if name == "spans" else time_column(name))
    return frame.filter(column + BIN_NS <= now_ns if name in _SUMMED else column < now_ns)


def _gap_by(gap: Gap, now_ns: int) -> Gap | None:
    """The gap as far as it had come; None where it lies ahead."""
    if gap.interval is None or gap.interval.end_ns <= now_ns:
        return gap
    return replace(gap, interval=Interval(gap.interval.start_ns, now_ns)) if gap.interval.start_ns < now_ns else None


def _seen(frames: dict[str, pl.DataFrame]) -> list[str]:
    """Keys of everything that rows with a time name, whatever its kind."""
    named = [frames[name].select(key(pl.col("entity"), pl.col("namespace"))).to_series() for name in _ENTITY_FRAMES]
    named += [frames["alerts"]["peer"], frames["calls"]["caller"], frames["calls"]["callee"]]
    counts, placement = frames["bin_counts"], frames["bin_placement"]
    named += [counts["source"], counts["target"], placement["service"], placement["pod"], placement["node"]]
    if not frames["spans"].is_empty():
        bins = bins_of(frames["spans"].with_columns(pl.lit(INCIDENT, dtype=pl.Int16).alias("interval")))
        named += _of_spans(bins)
    return pl.concat([each.cast(pl.String) for each in named]).drop_nulls().unique().sort().to_list()


def _of_spans(bins: Bins) -> list[pl.Series]:
    ends = [bins.counts["source"], bins.counts["target"]]
    return [*ends, bins.placement["service"], bins.placement["pod"], bins.placement["node"]]


def told_until(telemetry: Telemetry) -> int:
    """When the newest ten seconds of traces, or of other telemetry where there are none, are over; 0 where there is nothing."""
    frames = telemetry.frames()
    for names in (_TRACES, ("metrics", "calls", "logs")):
        times = [frames[name][time_column(name)].max() for name in names]
        found = [time for time in times if isinstance(time, int)]
        if found:
            return (max(found) // BIN_NS + 1) * BIN_NS
    return 0


@dataclass(eq=False)
class Recording:
    """Recorded telemetry as a source that knows what was known at `now_ns`."""

    telemetry: Telemetry
    now_ns: int
    name: str = "recording"
    holds_traces: bool = True

    def collect(self, start_ns: int, end_ns: int) -> Telemetry:
        known = known_at(self.telemetry, self.now_ns)
        frames: dict[str, Any] = {}
        for name, frame in known.frames().items():
            time = time_column(name)
            inside = frame if name in UNTIMED_FRAMES else frame.filter(pl.col(time).is_between(start_ns, end_ns, closed="left"))
            frames[name] = inside if name in UNTIMED_FRAMES else inside.sort(time, maintain_order=True)
        return Telemetry(gaps=known.gaps, **frames)


# --- asking -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Noticed:
    """How an incident was noticed: by its first alert, at `from_ns`; where none fired minutes count from the injection.

    `over_ns` is when the last alert of it ended.
    """

    from_ns: int
    alert: Alert | None = None
    over_ns: int | None = None


def noticed(telemetry: Telemetry, start_ns: int, alert_ns: int | None, over_ns: int | None) -> Noticed:
    """How an injection that began at `start_ns` was noticed, by the alert that fired at `alert_ns` or by none.

    Its name and entity are those of the nearest alert in the telemetry, for who fires and who is told have clocks of their own.
    """
    if alert_ns is None:
        return Noticed(start_ns)
    apart = (pl.col("time_unix_nano") - alert_ns).abs()
    near = telemetry.alerts.filter(apart < BIN_NS).sort(apart, "name", "entity")
    for name, kind, entity, namespace in near.select("name", "entity_kind", "entity", "namespace").iter_rows():
        return Noticed(alert_ns, Alert(name, alert_ns, EntityId(kind, entity, namespace or "")), over_ns)
    return Noticed(alert_ns, Alert("", alert_ns), over_ns)


def moments(seen: Noticed, until_ns: int, lag_ns: int) -> tuple[int, ...]:
    """When to ask about an incident whose telemetry is complete until `until_ns`: GRID_S after it was noticed, and in the end."""
    last = max(until_ns + lag_ns, seen.from_ns)
    times = (seen.from_ns + seconds * SECOND_NS for seconds in GRID_S)
    return (*(time for time in times if time < last), last)


def asked_at(config: Config, telemetry: Telemetry, seen: Noticed, now_ns: int) -> tuple[Incident, Telemetry]:
    """What live triage would have had before it at a moment. Raises BadInput where nothing could have been asked yet."""
    alert = seen.alert
    if alert is not None and seen.over_ns is not None and seen.over_ns <= now_ns:
        alert = replace(alert, end_ns=seen.over_ns)
    question = question_about(config, now_ns, alert=alert, last_ns=None if alert else UNALERTED_NS)
    return collect_incident(_unhurried(config), [Recording(telemetry, now_ns)], question)


def asked_in_quiet(config: Config, telemetry: Telemetry, window: Interval) -> tuple[Incident, Telemetry]:
    """What live triage has before it if somebody asks, without an alert, about a window of a quiet time. Raises BadInput."""
    now_ns = window.end_ns + config.triage.lag
    question = question_about(config, now_ns, last_ns=window.end_ns - window.start_ns)
    return collect_incident(_unhurried(config), [Recording(telemetry, now_ns)], question)


def quiet_windows(quiet: Interval, telemetry: Telemetry) -> tuple[Interval, ...]:
    """What to ask about in a quiet time: each QUIET_S of it, or all of it where it has not two of them.

    Each has as much telemetry or more before it to be compared with; what has not is left out.
    """
    times = [telemetry.frames()[name][time_column(name)].min() for name in _TRACES]
    found = [time for time in times if isinstance(time, int)]
    first, last = -(-quiet.start_ns // BIN_NS) * BIN_NS, min(quiet.end_ns, told_until(telemetry)) // BIN_NS * BIN_NS
    length = QUIET_S * SECOND_NS if last - first >= 2 * QUIET_S * SECOND_NS else last - first
    if not found or length <= 0:
        return ()
    starts = range(last - length, first - 1, -length)
    return tuple(sorted(Interval(start, start + length) for start in starts if start - min(found) >= length))


def _unhurried(config: Config) -> Config:
    """The same settings, without a deadline: a recording answers, however slow the machine is."""
    return config.model_copy(update={"triage": config.triage.model_copy(update={"deadline": _NO_HURRY_NS})})


# --- answers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What a ranker said: candidates best first, and the level of certainty of rca.report.

    `names` is what the graph of that moment calls the entities that the game day speaks of, where it calls them otherwise.
    """

    candidates: tuple[EntityId, ...] = ()
    scores: tuple[float, ...] = ()
    probabilities: tuple[float, ...] = ()
    no_fault: float = 0.0
    level: Certainty = "nothing"
    names: tuple[tuple[EntityId, EntityId], ...] = ()
    failure: str = ""

    def called(self, entities: Sequence[EntityId]) -> tuple[EntityId, ...]:
        """Entities as the graph of this answer calls them, each once."""
        names = dict(self.names)
        return tuple(dict.fromkeys(names.get(entity, entity) for entity in entities))

    def beside(self, truth: Truth) -> Prediction:
        """The answer beside the truth; its causes are named as in the graph."""
        truth = replace(truth, causes=self.called(truth.causes))
        return Prediction(truth, self.candidates, self.scores, self.probabilities, self.no_fault, failure=self.failure)

    @property
    def blames(self) -> bool:
        """True if somebody who reads it is told that one candidate did it: the level is `clear` or `likely`."""
        return self.level in BLAMING


BLAMING: Final[tuple[Certainty, ...]] = ("clear", "likely")


def answer_of(ranker: Ranker, case: Case, asked_about: Sequence[EntityId] = ()) -> Answer:
    """What a ranker says about a case. Whatever it raises is its failure, and a wrong answer."""
    names = _names(case, asked_about)
    if is_empty(case.window):
        return Answer(names=names, failure="no telemetry in the window")
    try:
        ranking = ranker.rank(case)
    except Exception as error:
        return Answer(names=names, failure=f"{type(error).__name__}: {error}".splitlines()[0][:300])
    ranked = ranking.candidates
    return Answer(
        tuple(candidate.entity for candidate in ranked),
        tuple(round(candidate.score, 6) for candidate in ranked),
        tuple(round(candidate.probability, 6) for candidate in ranked),
        round(ranking.no_fault, 6),
        _level(ranking, case),
        names,
    )


def _level(ranking: Ranking, case: Case) -> Certainty:
    """How sure the report on this ranking is. Whether one of the first has evidence decides, and mostly the very first has."""
    with_first = explained(ranking, case, 1)
    if any(candidate.evidence for candidate in with_first.candidates[:1]):
        return confidence_of(with_first).level
    return confidence_of(explained(ranking, case, _TOP)).level


def _names(case: Case, entities: Sequence[EntityId]) -> tuple[tuple[EntityId, EntityId], ...]:
    called = ((entity, rolled_up([entity], case.graph)[0]) for entity in dict.fromkeys(entities))
    return tuple((entity, name) for entity, name in called if entity != name)


def digest_of(*parts: object) -> str:
    """A short digest of what an answer hangs on."""
    return hashlib.blake2b("\n".join(map(str, parts)).encode(), digest_size=16).hexdigest()
