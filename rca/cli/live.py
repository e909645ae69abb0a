"""`rca triage` on live sources: ask, rank, print; and again, where somebody watches."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from rca.bounding import Bounds
from rca.changes import changes
from rca.cli.terminal import duration_of, moment_ns, print_json, progress
from rca.cli.triage import Wanted, more_wanted, print_report
from rca.collectors.config import Config, config_path, load_config
from rca.collectors.live import collect_incident, find_alert, fresh_until, now_ns, question_about
from rca.collectors.sources import sources_of
from rca.contracts import Collector, Ranker
from rca.errors import BadInput, Unavailable
from rca.incidents.bundle import write_bundle
from rca.incidents.incident import Incident
from rca.pipeline import report_on
from rca.report import TriageReport
from rca.telemetry import MINUTE_NS, SECOND_NS, EntityId, Telemetry
from rca.wording import clock, printable

if TYPE_CHECKING:
    from rca.collectors.alerts import Alert

_LAST_NS: Final = 15 * MINUTE_NS


@dataclass(frozen=True)
class LiveOptions:
    """What the command line asks for, as it was written. `every` is None where nobody watches."""

    last: str | None
    since: str | None
    until: str | None
    onset: str | None
    alert: str | None
    config: Path | None
    save: Path | None
    every: str | None
    top: int
    why_not: str | None
    map_size: int
    json: bool
    wanted: Wanted = field(default_factory=Wanted)


def triage_live(ranker: Ranker, options: LiveOptions) -> bool:
    """Rank what the sources say about now, or about the time asked for. False if there was nothing to rank."""
    _check(options)
    config = load_config(config_path(options.config))
    sources = sources_of(config)
    alert = find_alert(sources, options.alert) if options.alert else None
    if options.every is not None:
        return _watch(config, sources, ranker, options, alert)
    incident, telemetry = _collect(config, sources, options, alert)
    report = _report(incident, telemetry, ranker, options)
    more = more_wanted(report, incident, telemetry, ranker, options.wanted, bounds=Bounds(candidates=options.map_size))
    print_report(report, top=options.top, json=options.json, more=more)
    return bool(report.ranking.candidates)


def _check(options: LiveOptions) -> None:
    if options.last and (options.since or options.alert):
        raise BadInput("options", expected="one of --last, --since and --alert", found="several")
    if options.until and not (options.since or options.onset):
        raise BadInput("options", expected="--since or --onset beside --until", found="--until alone")
    if options.every and options.until:
        raise BadInput("options", expected="--watch on what goes on", found="--until, which lies in the past")
    if options.every and options.wanted != Wanted():
        raise BadInput("options", expected="--explain and --stability without --watch", found="them together")
    if options.save is not None and options.save.exists():
        raise BadInput(str(options.save), expected="a path that does not exist yet", found="a file or folder")
    for option, text in (("--last", options.last), ("--every", options.every)):
        if text is not None and duration_of(option, text) < SECOND_NS:
            raise BadInput(option, expected="a second or more", found=repr(text))


def _report(incident: Incident, telemetry: Telemetry, ranker: Ranker, options: LiveOptions) -> TriageReport:
    bounds = Bounds(candidates=options.map_size)
    return report_on(incident, telemetry, ranker, top=options.top, why_not=options.why_not, bounds=bounds)


def _ask(
    config: Config,
    sources: Sequence[Collector],
    ranker: Ranker,
    options: LiveOptions,
    alert: Alert | None,
    *,
    again: bool = False,
) -> TriageReport:
    """Collect, keep if wanted, and rank."""
    return _report(*_collect(config, sources, options, alert, again=again), ranker, options)


def _collect(
    config: Config, sources: Sequence[Collector], options: LiveOptions, alert: Alert | None, *, again: bool = False
) -> tuple[Incident, Telemetry]:
    """Collect, and keep if wanted."""
    written = (("--since", options.since), ("--until", options.until), ("--onset", options.onset))
    times = [None if text is None else moment_ns(option, text) for option, text in written]
    last = None if options.since or options.onset else _last(options)
    question = question_about(
        config,
        now_ns(),
        start_ns=times[0],
        end_ns=times[1],
        onset_ns=times[2],
        last_ns=last,
        alert=alert,
        fresh_ns=fresh_until(sources),
    )
    with progress("Asking", len(sources)) as step:
        incident, telemetry = collect_incident(config, sources, question, lambda name, how: step(f"{name}: {how}"))
    if options.save is not None:
        write_bundle(options.save, incident, telemetry, replace=again)
    return incident, telemetry


def _watch(config: Config, sources: Sequence[Collector], ranker: Ranker, options: LiveOptions, alert: Alert | None) -> bool:
    """Rank again and again until Ctrl-C, and tell what changed. True if there was something to rank in the end.

    The whole report is printed at first, when another candidate takes the lead, and in the end; between, a line per change.
    """
    every = duration_of("--every", options.every or "")
    if alert is not None:
        alert = replace(alert, end_ns=None)  # it may fire again, and what it told of goes on
    options = _with_fixed_start(config, options, alert)
    report = printed = _ask(config, sources, ranker, options, alert)
    _show(report, options)
    try:
        while True:
            time.sleep(every / SECOND_NS)
            before = report
            try:
                report = _ask(config, sources, ranker, options, alert, again=True)
            except Unavailable as error:
                typer.echo(f"{clock(now_ns())} {printable(str(error))}", err=True)
                continue
            if options.json or _leader(report) != _leader(printed):
                _show(report, options)
                printed = report
            if not options.json:
                news = changes(before.ranking, report.ranking, top=options.top) or ("no change",)
                typer.echo("\n".join(f"{clock(now_ns())} {line}" for line in news))
    except KeyboardInterrupt:
        if not options.json and report is not printed:
            _show(report, options)
    return bool(report.ranking.candidates)


def _show(report: TriageReport, options: LiveOptions) -> None:
    """While watching: the report, or one line of JSON."""
    if options.json:
        print_json(report.to_json(), indent=None)
    else:
        print_report(report, top=options.top, json=False)


def _with_fixed_start(config: Config, options: LiveOptions, alert: Alert | None) -> LiveOptions:
    """The same options with the start of what is searched written down, so that the incident stays in it as time goes on."""
    if options.since or options.onset or alert is not None:
        return options
    start = now_ns() - config.triage.lag - _last(options)
    return replace(options, last=None, since=datetime.fromtimestamp(start / SECOND_NS, UTC).isoformat())


def _last(options: LiveOptions) -> int:
    return duration_of("--last", options.last) if options.last else _LAST_NS


def _leader(report: TriageReport) -> EntityId | None:
    return report.ranking.candidates[0].entity if report.ranking.candidates else None
