"""`rca triage`: which service most likely caused an incident, why, and how sure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rca.cli.terminal import moment_ns, print_json, ranker_of

if TYPE_CHECKING:
    from rca.bounding import Bounds
    from rca.cli.explaining import More
    from rca.contracts import Ranker
    from rca.incidents.incident import Incident
    from rca.report import TriageReport
    from rca.telemetry import Interval, Telemetry

EMPTY_EXIT_CODE = 3
"""Exit code where the window holds no telemetry or names no candidate: nothing failed, and there was nothing to rank."""
_WIDTH = 80


@dataclass(frozen=True)
class Wanted:
    """What is asked for beside the report."""

    explanation: bool = False
    stability: bool = False


def triage(
    incident: Annotated[
        str | None,
        typer.Argument(metavar="INCIDENT", help="A bundle (folder or .tar.zst), or an id in the store. Default: live sources."),
    ] = None,
    *,
    last: Annotated[str | None, typer.Option(metavar="DURATION", help="Live: it began within this time. Default: 15m.")] = None,
    start: Annotated[
        str | None,
        typer.Option("--since", "--from", metavar="TIME", help="It began after this (RFC 3339); a bundle's window starts here."),
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="End of the window (RFC 3339).")] = None,
    onset: Annotated[
        str | None, typer.Option(metavar="TIME", help="When it began, where you know. Default: found by itself.")
    ] = None,
    alert: Annotated[
        str | None, typer.Option(metavar="NAME", help="Live: an alert that fires, or the last time that it did.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Live: ask again until Ctrl-C, and tell what changed.")] = False,
    every: Annotated[str, typer.Option(metavar="DURATION", help="With --watch: how often to ask.")] = "15s",
    save: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Live: keep the incident as a bundle (folder or .tar.zst).")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Default: $RCA_CONFIG, ./rca.toml or ~/.config/rca/rca.toml."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many candidates to show.")] = 5,
    ranker: Annotated[str | None, typer.Option(metavar="NAME", help="Ranker that needs no training, such as floor.")] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Trained model, as `rca train` writes it. Default: $RCA_MODEL, else the promoted or shipped one.",
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What runs --model: onnx, torch or dgl. Default: onnx, if it was exported."),
    ] = None,
    why_not: Annotated[str | None, typer.Option(metavar="SERVICE", help="Compare this candidate with the first one.")] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Test the evidence: delete it, and rank again. Takes some seconds.")
    ] = False,
    stability: Annotated[
        bool, typer.Option("--stability", help="Would the answer change without traces, with another onset, and so on?")
    ] = False,
    map_size: Annotated[
        int, typer.Option(min=1, metavar="N", help="Candidates to look at; of more, those near what alerts or strays.")
    ] = 2000,
    store: Annotated[Path | None, typer.Option(metavar="FOLDER", help="The store of incidents. Default: $RCA_HOME.")] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON (docs/ranking.schema.json); a line each time with --watch.")
    ] = False,
) -> None:
    """Rank what most likely caused an incident, and say why.

    Without INCIDENT it asks the live sources of rca.toml about the last 15 minutes, or about the time or alert given.

    Exits with 0 if candidates were ranked, 3 if there was nothing to rank, 2 if the input is wrong, 1 if no source answered.
    """
    chosen = ranker_of(ranker, model, engine, store)
    wanted = Wanted(explain, stability)
    if incident is None:
        from rca.cli.live import LiveOptions, triage_live

        options = LiveOptions(
            last, start, until, onset, alert, config, save, every if watch else None, top, why_not, map_size, json, wanted
        )
        ranked = triage_live(chosen, options)
    else:
        _refuse_live_options({"--last": last, "--alert": alert, "--watch": watch, "--save": save, "--config": config})
        times = (start, until, onset)
        ranked = _triage_recorded(
            chosen, incident, store, times, top=top, why_not=why_not, map_size=map_size, json=json, wanted=wanted
        )
    if not ranked:
        raise typer.Exit(EMPTY_EXIT_CODE)


def _refuse_live_options(given: dict[str, object]) -> None:
    from rca.errors import BadInput

    wrong = [option for option, value in given.items() if value]
    if wrong:
        raise BadInput("options", expected="no INCIDENT beside them, for they ask live sources", found=" and ".join(wrong))


def _triage_recorded(
    ranker: Ranker,
    text: str,
    store: Path | None,
    times: tuple[str | None, str | None, str | None],
    *,
    top: int,
    why_not: str | None,
    map_size: int,
    json: bool,
    wanted: Wanted,
) -> bool:
    """Print the report on a recorded incident. False if there was nothing to rank."""
    from rca.bounding import Bounds
    from rca.pipeline import report_on

    recorded, telemetry = _load(text, store)
    interval = _interval(recorded, *times)
    bounds = Bounds(candidates=map_size)
    report = report_on(recorded, telemetry, ranker, interval=interval, top=top, why_not=why_not, bounds=bounds)
    more = more_wanted(report, recorded, telemetry, ranker, wanted, interval=interval, bounds=bounds)
    print_report(report, top=top, json=json, more=more)
    return bool(report.ranking.candidates)


def _load(text: str, home: Path | None) -> tuple[Incident, Telemetry]:
    """A bundle where the text is a path that exists, else an incident of the store."""
    from rca.errors import UnknownName

    path = Path(text)
    if path.exists():
        from rca.incidents.bundle import read_bundle

        return read_bundle(path)
    if "/" in text or text.endswith(".tar.zst"):
        siblings = path.parent.iterdir() if path.parent.is_dir() else ()
        raise UnknownName("bundle", text, map(str, siblings))
    from rca.incidents.home import default_home
    from rca.incidents.store import IncidentStore

    if not (home or default_home()).exists():  # looking something up should not make a store
        raise UnknownName("bundle, or id of an incident in the store", text, ())
    with IncidentStore(home) as store:
        return store.get(text)


def _interval(incident: Incident, start: str | None, until: str | None, onset: str | None) -> Interval | None:
    """The window asked for; None for the incident's own."""
    from rca.errors import BadInput
    from rca.telemetry import Interval

    if start is not None and onset is not None:
        raise BadInput("options", expected="--since or --onset", found="both")
    if start is None and onset is None and until is None:
        return None
    start_ns, end_ns = incident.window.start_ns, incident.window.end_ns
    for option, text in (("--since", start), ("--onset", onset)):
        start_ns = start_ns if text is None else moment_ns(option, text)
    end_ns = end_ns if until is None else moment_ns("--until", until)
    if end_ns <= start_ns:
        raise BadInput("window", expected="an end after its start", found=f"{_moment(start_ns)} to {_moment(end_ns)}")
    return Interval(start_ns, end_ns)


def _moment(time_ns: int) -> str:
    from rca.wording import clock

    return clock(time_ns, date=True)


def more_wanted(
    report: TriageReport,
    incident: Incident,
    telemetry: Telemetry,
    ranker: Ranker,
    wanted: Wanted,
    *,
    interval: Interval | None = None,
    bounds: Bounds,
) -> More | None:
    """What is asked for beside the report; None where nothing is."""
    if wanted == Wanted():
        return None
    from rca.cli.explaining import more_on

    return more_on(report, incident, telemetry, ranker, wanted, interval=interval, bounds=bounds)


def print_report(report: TriageReport, *, top: int, json: bool, more: More | None = None) -> None:
    """The report, and what was asked for beside it, for a terminal, for a pipe (80 columns, no colour), or as JSON."""
    if json:
        print_json((more.on(report) if more else report).to_json())
        return
    from rich.console import Console, Group

    from rca.report import rendered

    whole = Group(rendered(report, top=top), *([more.rendered()] if more else []))
    console = Console(highlight=False, markup=False, emoji=False)
    if console.is_terminal:
        console.print(whole)
        return
    piped = Console(highlight=False, markup=False, emoji=False, width=_WIDTH, no_color=True)
    with piped.capture() as capture:
        piped.print(whole)
    typer.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))
