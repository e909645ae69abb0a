"""A live incident: from "something is wrong" to an incident with telemetry, ready to be ranked.

Nobody knows the onset while an incident is on. So a stretch of time is searched for it, and the incident's window runs from there
to the newest moment for which telemetry is complete.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Protocol, runtime_checkable

import polars as pl

from rca.bins import BIN_NS
from rca.collectors.alerts import Alert, AlertSource
from rca.collectors.config import Config
from rca.collectors.gathering import Answer, Told, gather, merged, without_traces
from rca.collectors.sources import TRACE_SOURCES
from rca.contracts import Collector
from rca.errors import BadInput, RcaError, Rejected, Unavailable, UnknownName
from rca.incidents.incident import BaselineModel, EntityModel, Incident, IntervalModel
from rca.naming import reconciled
from rca.onset import estimated_onset
from rca.pipeline import window_of
from rca.telemetry import MINUTE_NS, SECOND_NS, EntityId, Gap, Interval, Telemetry, time_column
from rca.wording import clock

_FEWEST_BINS: Final = 3
_LEAST_AFTER_ALERT_NS: Final = 2 * MINUTE_NS
"""What is looked at from the start of an alert on, however soon it ended: few requests tell little."""
_FAR_BEHIND: Final = 4  # lags; a collector further behind has stopped, and waiting for it would look away from now


@dataclass(frozen=True)
class Question:
    """What to look at: a stretch of time in which the incident began, and the onset or the alert where they are known.

    Telemetry is collected for `after_ns` more, which are no part of the incident: how it ended.
    """

    search: Interval
    onset_ns: int | None = None
    alert: Alert | None = None
    after_ns: int = 0


def now_ns() -> int:
    """The time, in ns since the epoch."""
    return time.time_ns()


def question_about(
    config: Config, now: int, *, start_ns: int | None = None, end_ns: int | None = None, onset_ns: int | None = None,
    last_ns: int | None = None, alert: Alert | None = None, fresh_ns: int | None = None,
) -> Question:  # fmt: skip
    """The stretch of time that options or an alert point at, in whole bins, as far as telemetry can be complete by now.

    That is until `fresh_ns` where a source knows and is not far behind, else the lag of the configuration ago. Raises BadInput
    if nothing is left.
    """
    behind = fresh_ns is None or now - fresh_ns > _FAR_BEHIND * config.triage.lag
    complete = _floor(now - config.triage.lag if fresh_ns is None or behind else min(fresh_ns, now))
    if alert is not None:
        ended = max(alert.end_ns, alert.start_ns + _LEAST_AFTER_ALERT_NS) if alert.end_ns else complete
        last = min(ended, alert.start_ns + config.triage.longest)
        began = alert.start_ns if alert.pending_ns is None else alert.pending_ns
        start_ns, end_ns = start_ns or began - config.triage.lookback, end_ns or last
    end = min(_floor(end_ns) if end_ns else complete, complete)
    start = _floor(start_ns if start_ns is not None else end - (last_ns or 0))
    if onset_ns is not None:
        onset_ns = _floor(onset_ns)
        start = min(start, onset_ns)
    first = max(start, onset_ns or start)
    if first > now:
        raise BadInput("window", expected="a start in the past", found=f"{clock(first, date=True)} UTC, now is {clock(now)}")
    if end - first < _FEWEST_BINS * BIN_NS:
        lag = config.triage.lag // SECOND_NS
        raise BadInput(
            "window",
            expected=f"at least {_FEWEST_BINS * BIN_NS // SECOND_NS} s that end {lag} s ago or earlier ([triage] lag)",
            found=f"{clock(first, date=True)} to {clock(end, date=True)} UTC",
        )
    return Question(Interval(start, end), onset_ns, alert)


@runtime_checkable
class _KnowsHowFresh(Protocol):
    def fresh_until_ns(self) -> int | None: ...


def fresh_until(sources: Sequence[Collector]) -> int | None:
    """Until when the freshest source that knows can be taken as complete; None if none knows."""
    known = [source.fresh_until_ns() for source in sources if isinstance(source, _KnowsHowFresh)]
    return max((time for time in known if time is not None), default=None)


def find_alert(sources: Sequence[Collector], name: str) -> Alert:
    """The alert of that name: one that is active in Alertmanager, else the last time that Prometheus saw it fire.

    Raises UnknownName, Unavailable, Rejected, BadInput.
    """
    asked = [source for source in sources if isinstance(source, AlertSource)]
    if not asked:
        raise BadInput("--alert", expected="[alertmanager] or [prometheus] in rca.toml", found="neither")
    found: Alert | None = None
    errors: list[RcaError] = []
    for source in sorted(asked, key=lambda source: source.name != "alertmanager"):
        try:
            seen = source.find_alert(name)
        except (UnknownName, Unavailable, Rejected) as error:
            errors.append(error)
            continue
        if found is None:
            found = seen
        elif seen.entity == found.entity and (seen.end_ns is None or seen.end_ns >= found.start_ns):
            # The same time that it fired: Alertmanager does not know since when the condition holds.
            found = replace(found, pending_ns=seen.pending_ns)
        if found.pending_ns is not None:
            break
    if found is None:
        raise errors[-1]
    return found


def collect_incident(
    config: Config, sources: Sequence[Collector], question: Question, told: Told = lambda _name, _how: None
) -> tuple[Incident, Telemetry]:
    """Ask all sources about the question and its baseline, and make an incident of what they answer.

    Raises Unavailable if no source answered.
    """
    search = question.search
    asked = Interval(search.start_ns - config.triage.baseline, search.end_ns + question.after_ns)
    answers = _ask(sources, asked, search, config.triage.deadline, told)
    if all(answer.error for answer in answers):
        raise Unavailable("no source answered: " + "; ".join(f"{answer.source}: {answer.error}" for answer in answers))
    telemetry, question = _with_one_name_each(merged(answers), question, config)
    question, baseline, gaps = _with_baseline(question, asked, telemetry)
    telemetry = replace(telemetry, gaps=(*telemetry.gaps, *gaps))
    incident = _incident(config, question, baseline, telemetry)
    search = question.search
    if question.onset_ns is None:
        onset = estimated_onset(window_of(incident, telemetry, search))
        if onset is not None:
            onset = min(onset, _floor(question.alert.start_ns)) if question.alert else onset
            window = incident.window.model_copy(update={"start_ns": max(onset, search.start_ns)})
            incident = incident.model_copy(update={"window": window, "onset_ns": onset})
    return incident, telemetry


def _with_one_name_each(telemetry: Telemetry, question: Question, config: Config) -> tuple[Telemetry, Question]:
    """Telemetry and question that call things alike; the alert's labels need not be those of traces."""
    alert = question.alert
    if alert is None or alert.entity is None:
        return reconciled(telemetry, config.names)[0], question
    telemetry, renaming = reconciled(telemetry, config.names, [alert.entity])
    return telemetry, replace(question, alert=replace(alert, entity=renaming.entity(alert.entity)))


def _with_baseline(
    question: Question, asked: Interval, telemetry: Telemetry
) -> tuple[Question, Interval | None, tuple[Gap, ...]]:
    """The question and its baseline.

    Where telemetry begins too late for one, the first part of what was to be searched becomes it: up to the onset where that is
    given, else a third, or up to a minute of a short one.
    """
    search, first = question.search, _earliest(telemetry)
    start = asked.start_ns if first is None else max(asked.start_ns, _floor(first))
    if first is None or search.start_ns - start >= (search.end_ns - search.start_ns) // 3:
        return question, Interval(start, search.start_ns), ()
    length = search.end_ns - max(start, search.start_ns)
    moved = question.onset_ns or _floor(max(start, search.start_ns) + max(length // 3, min(length // 2, MINUTE_NS)))
    if moved <= start or length < _FEWEST_BINS * BIN_NS:
        return question, None, (Gap("baseline", "nothing was recorded before", asked),)
    reason = f"telemetry begins at {clock(start)} UTC; what came before {clock(moved)} serves as the baseline"
    return replace(question, search=Interval(moved, search.end_ns)), Interval(start, moved), (Gap("baseline", reason),)


def _earliest(telemetry: Telemetry) -> int | None:
    """When traces begin; where there are none, metrics, calls or logs."""
    for names in (("spans", "bin_counts"), ("metrics", "calls", "logs")):
        times = [telemetry.frames()[name][time_column(name)].min() for name in names]
        found = [time for time in times if isinstance(time, int)]
        if found:
            return min(found)
    return None


def _ask(sources: Sequence[Collector], asked: Interval, search: Interval, deadline_ns: int, told: Told) -> list[Answer]:
    """Everything at once, but for backends of traces where there is a warm store: they are asked if it does not hold enough."""
    start = time.monotonic_ns()
    store = [source for source in sources if source.name == TRACE_SOURCES[0]]
    backends = [source for source in sources if store and _holds_traces(source) and source not in store]
    others = [source for source in sources if source not in store and source not in backends]
    with ThreadPoolExecutor(1) as pool:  # a slow source must not use up the time of the backends
        elsewhere = pool.submit(gather, others, asked, deadline_ns, told)
        answers = list(gather(store, asked, deadline_ns, told))
        if not any(_covers(answer.telemetry, asked, search) for answer in answers):
            answers += gather(backends, asked, max(deadline_ns - (time.monotonic_ns() - start), 0), told)
        answers += elsewhere.result()
    return _one_trace_source(answers, {source.name for source in sources if _holds_traces(source)})


def _holds_traces(source: Collector) -> bool:
    return source.name in TRACE_SOURCES or bool(getattr(source, "holds_traces", False))


def _covers(telemetry: Telemetry, asked: Interval, search: Interval) -> bool:
    """Whether there are bins of the incident, and of at least half of the baseline."""
    times = telemetry.bin_counts["time_unix_nano"].unique()
    before = times.filter(times < search.start_ns)
    return len(before) < len(times) and len(before) * BIN_NS * 2 >= search.start_ns - asked.start_ns


def _one_trace_source(answers: Sequence[Answer], holders: set[str]) -> list[Answer]:
    """Traces of one source alone, or calls would be counted twice: of the store if nobody else has any, else of the first."""
    having = [
        a for a in answers if a.source in holders and not (a.telemetry.spans.is_empty() and a.telemetry.bin_counts.is_empty())
    ]
    pulled = [answer for answer in having if answer.source != TRACE_SOURCES[0]]
    kept = next(iter(pulled or having), None)
    return [answer if answer is kept or answer not in having else without_traces(answer) for answer in answers]


def _incident(config: Config, question: Question, baseline: Interval | None, telemetry: Telemetry) -> Incident:
    search, alert = question.search, question.alert
    start = question.onset_ns if question.onset_ns is not None else search.start_ns
    before = () if baseline is None else (BaselineModel(start_ns=baseline.start_ns, end_ns=baseline.end_ns),)
    alerting = list(dict.fromkeys(([alert.entity] if alert and alert.entity else []) + _alerting(telemetry, search)))
    detected = alert.start_ns if alert else _first_alert(telemetry, search)
    moment = datetime.fromtimestamp(search.end_ns / SECOND_NS, UTC)
    title = f"{alert.name}: {alert.summary}" if alert and alert.summary else alert.name if alert else config.triage.system
    return Incident(
        id=f"{config.triage.system}-{moment:%Y%m%dT%H%M%SZ}"[-128:].lstrip("-._"),
        system=config.triage.system,
        window=IntervalModel(start_ns=start, end_ns=search.end_ns),
        detected_ns=detected,
        onset_ns=question.onset_ns,
        baselines=before,
        alerting=tuple(EntityModel(kind=e.kind, name=e.name, namespace=e.namespace) for e in alerting),
        source="live",
        title=title,
        links=(alert.link,) if alert and alert.link else (),
    )


def _alerts_in(telemetry: Telemetry, search: Interval) -> pl.DataFrame:
    return telemetry.alerts.filter(pl.col("time_unix_nano").is_between(search.start_ns, search.end_ns, closed="left"))


def _alerting(telemetry: Telemetry, search: Interval) -> list[EntityId]:
    about = _alerts_in(telemetry, search).select("entity_kind", "entity", "namespace").unique(maintain_order=True)
    return [EntityId(kind, name, namespace or "") for kind, name, namespace in about.iter_rows() if name]


def _first_alert(telemetry: Telemetry, search: Interval) -> int | None:
    first = _alerts_in(telemetry, search)["time_unix_nano"].min()
    return first if isinstance(first, int) else None


def _floor(time_ns: int) -> int:
    return time_ns // BIN_NS * BIN_NS
