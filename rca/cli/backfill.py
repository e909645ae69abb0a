"""`rca backfill`: telemetry of the past into the store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rca.cli.terminal import duration_of, moment_ns, progress

if TYPE_CHECKING:
    from rca.collectors.backfill import Outcome
    from rca.telemetry import Gap, Interval

_SHOWN = 3


def backfill(
    *,
    since: Annotated[str, typer.Option(metavar="TIME", help="Start (RFC 3339).")],
    until: Annotated[str | None, typer.Option(metavar="TIME", help="End (RFC 3339). Default: a minute ago.")] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="tempo, jaeger or prometheus. Default: all of rca.toml; one for traces."),
    ] = None,
    from_file: Annotated[
        Path | None, typer.Option(metavar="PATH", help="OTLP JSON of the Collector's file exporter instead: a file or a folder.")
    ] = None,
    chunk: Annotated[str, typer.Option(metavar="DURATION", help="How much is read and stored at once.")] = "10m",
    sample: Annotated[
        bool, typer.Option("--sample", help="Store samples where there are too many traces to read them all.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The sources. Default: $RCA_CONFIG, ./rca.toml or ~/.config/rca/rca.toml.")
    ] = None,
    store: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The product's home. Default: [store] folder, or $RCA_HOME.")
    ] = None,
) -> None:
    """Fill the store with stored traces and metrics of the past.

    Can be interrupted and started again: what is filled stays, and is not read again. What `rca collect` received is left
    alone. Exits with 1 if a part could not be filled; the next run tries it again.
    """
    from rca.collectors import backfill as filling
    from rca.collectors.config import Config, config_path, load_config
    from rca.collectors.warm.store import Store, store_folder
    from rca.errors import BadInput

    interval, chunk_ns = _interval(since, until), _chunk_ns(chunk)
    if from_file is not None and source:
        raise BadInput("options", expected="--source or --from-file", found="both")
    settings = Config() if from_file is not None and config is None else load_config(config_path(config))
    kept = Store(store_folder(settings.store, store))
    outcomes = []
    with progress("Filling") as step:
        if from_file is not None:
            outcomes.append(
                filling.backfill_file(kept, from_file, interval, chunk_ns, lambda _done, _all, text: step(text, completed=0))
            )
        else:
            outcomes += filling.backfill(
                kept,
                filling.past_sources(settings, source or ()),
                interval,
                chunk_ns=chunk_ns,
                sample=sample,
                told=lambda text, done, every: step(text, completed=done, total=every),
            )
    for outcome in outcomes:
        _tell(outcome)
    if any(outcome.failed for outcome in outcomes):
        raise typer.Exit(1)


def _interval(since: str, until: str | None) -> Interval:
    import time

    from rca.bins import BIN_NS
    from rca.errors import BadInput
    from rca.telemetry import MINUTE_NS, Interval

    complete = time.time_ns() - MINUTE_NS
    start = moment_ns("--since", since) // BIN_NS * BIN_NS
    end = min(moment_ns("--until", until) if until else complete, complete) // BIN_NS * BIN_NS
    if end <= start:
        found = f"{since} to {until or 'a minute ago'}"
        raise BadInput("options", expected="--until after --since, and at least a minute in the past", found=found)
    return Interval(start, end)


def _chunk_ns(text: str) -> int:
    from rca.bins import BIN_NS
    from rca.errors import BadInput

    chunk_ns = duration_of("--chunk", text)
    if chunk_ns < 6 * BIN_NS or chunk_ns % BIN_NS:
        raise BadInput("--chunk", expected="a minute or more, in steps of 10 s", found=text)
    return chunk_ns


def _tell(outcome: Outcome) -> None:
    from rca.wording import count, printable

    parts = [f"{count(outcome.filled, 'chunk')} filled"]
    parts += [f"{outcome.earlier:,} by an earlier run"] if outcome.earlier else []
    parts += [f"{outcome.live:,} left to live collection"] if outcome.live else []
    parts += [f"{len(outcome.failed):,} failed"] if outcome.failed else []
    parts += [f"{outcome.untried:,} not tried, for it does not answer: the same command goes on"] if outcome.untried else []
    typer.echo(f"{outcome.source}: {', '.join(parts)}")
    for gap in outcome.failed[:_SHOWN]:
        typer.echo(f"  {_moment(gap)}: {printable(gap.reason)}", err=True)
    if len(outcome.failed) > _SHOWN:
        typer.echo(f"  and {len(outcome.failed) - _SHOWN} more", err=True)


def _moment(gap: Gap) -> str:
    from rca.wording import clock

    return clock(gap.interval.start_ns, date=True) if gap.interval else "-"
