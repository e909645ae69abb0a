"""`rca collect`: receive telemetry and keep it. `rca store`: what is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rca.cli.terminal import print_json

if TYPE_CHECKING:
    from rca.collectors.collecting import Collection, Status
    from rca.collectors.config import Config
    from rca.collectors.warm.store import Shelved
    from rca.telemetry import Gap, Interval

_CONFIG = typer.Option(metavar="FILE", help="Settings. Default: $RCA_CONFIG, ./rca.toml, ~/.config/rca/rca.toml, or none.")
_STORE = typer.Option(metavar="FOLDER", help="The product's home; telemetry lies in it. Default: [store] folder, or $RCA_HOME.")
_LINE_NS = 60_000_000_000


def collect(
    config: Annotated[Path | None, _CONFIG] = None,
    *,
    store: Annotated[Path | None, _STORE] = None,
) -> None:
    """Receive OTLP, follow the cluster, keep both.

    Runs until it is told to end (Ctrl-C, SIGTERM) and then stores what it has. The next run goes on from there.
    """
    import os
    import signal
    from threading import Event

    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what it logs by itself, our own errors say in words

    from rca.collectors.collecting import Collection
    from rca.collectors.warm.store import Store, store_folder

    settings = _settings(config)
    folder = store_folder(settings.store, store)
    stop = Event()

    def end(number: int, _frame: Any) -> None:
        signal.signal(number, signal.SIG_DFL)  # who asks twice does not want to wait
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    with _display() as (told, shown), Collection(settings, Store(folder), told=told) as collection:
        told(f"listening on {' and '.join(collection.addresses)}, storing in {folder}")
        collection.run(stop, shown)
        _ended(collection, told)


def store(
    config: Annotated[Path | None, _CONFIG] = None,
    *,
    store: Annotated[Path | None, _STORE] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what telemetry is kept and what is missing."""
    from rca.collectors.warm.store import Store, store_folder
    from rca.errors import Unavailable

    folder = store_folder(_settings(config).store, store)
    shelves = Store(folder).shelves()
    if not shelves:
        raise Unavailable(f"{folder}: nothing is stored here; `rca collect` or `rca backfill` fill it")
    if json:
        print_json([_json(shelf) for shelf in shelves])
        return
    for shelf in shelves:
        for line in _description(shelf):
            typer.echo(line)


def _settings(path: Path | None) -> Config:
    """The configuration; every default where none is named and none is found."""
    from rca.collectors.config import Config, config_path, load_config
    from rca.errors import BadInput

    try:
        path = config_path(path)
    except BadInput:
        return Config()
    return load_config(path)


@contextmanager
def _display() -> Iterator[tuple[Callable[[str], None], Callable[[Status], None]]]:
    """Ways to tell a line and to show a status: a live table on a terminal, else a line now and then."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    if console.is_terminal and not console.is_dumb_terminal:
        from rich.live import Live

        with Live(console=console, refresh_per_second=2, transient=True) as live:
            yield (lambda line: console.print(_stamped(line)), lambda status: live.update(_table(status)))
        return
    last_ns = 0

    def shown(status: Status) -> None:
        nonlocal last_ns
        if status.at_ns - last_ns >= _LINE_NS:
            last_ns = status.at_ns
            typer.echo(_stamped(_summary(status)))

    yield (lambda line: typer.echo(_stamped(line))), shown


def _ended(collection: Collection, told: Callable[[str], None]) -> None:
    from rca.errors import RcaError

    status = collection.status()
    told(_summary(status))
    if status.trouble:
        raise RcaError(f"the last telemetry could not be stored: {status.trouble}")
    told("stored everything, ended")


def _stamped(line: str) -> str:
    from datetime import UTC, datetime

    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {line}"


def _figures(status: Status) -> dict[str, int]:
    counts = status.counts
    return {
        "received": counts.received,
        "binned": counts.binned,
        "open": counts.open,
        "late": counts.late,
        "unpaired": counts.unpaired,
        "duplicates": counts.dropped.get("duplicate", 0),
        "otherwise dropped": sum(n for reason, n in counts.dropped.items() if reason != "duplicate"),
        "closed early": counts.forced,
        "renamed": counts.renamed,
        "cycles": counts.cycles,
        "rejected": status.rejected,
        "refused": status.refused,
        **counts.rows,
    }


_ALWAYS = ("received", "binned", "open", "late", "unpaired", "duplicates", "rejected")


def _summary(status: Status) -> str:
    from rca.wording import size

    figures = (f"{name} {count:,}" for name, count in _figures(status).items() if count or name in _ALWAYS)
    parts = [*figures, f"on disk {size(status.stored_bytes)}"]
    return ", ".join([*parts, f"CANNOT STORE: {status.trouble}"] if status.trouble else parts)


def _table(status: Status) -> Any:
    from rich.table import Table

    from rca.wording import size

    table = Table.grid(padding=(0, 2))
    shown = {name: count for name, count in _figures(status).items() if count or name in _ALWAYS}
    for name, count in shown.items():
        table.add_row(name, f"{count:,}")
    table.add_row("on disk", size(status.stored_bytes))
    table.add_row("last stored", f"{max(status.at_ns - status.stored_at_ns, 0) / 1e9:.0f} s ago" if status.stored_at_ns else "-")
    if status.trouble:
        table.add_row("cannot store", status.trouble, style="bold red")
    return table


def _json(shelf: Shelved) -> dict[str, Any]:
    from dataclasses import asdict

    keys = ("files", "size_bytes", "first_hour_ns")
    frames = {name: dict(zip(keys, figures, strict=True)) for name, figures in shelf.frames.items()}
    return {**asdict(shelf), "frames": frames}


def _description(shelf: Shelved) -> Iterator[str]:
    from rca.wording import clock, count, size

    yield f"{shelf.name}: {size(shelf.size_bytes)}, written last {clock(shelf.written_ns, date=True)} UTC"
    for name, (parts, held, first_ns) in shelf.frames.items():
        since = clock(first_ns, date=True).removesuffix(":00")
        yield f"  {name}: {size(held)} in {count(parts, 'file')}, from the hour of {since} on"
    for interval in shelf.covered:
        yield f"  collected {clock(interval.start_ns, date=True)} to {clock(interval.end_ns, date=True)}"
    yield from _missing(shelf.gaps)


def _missing(gaps: Sequence[Gap]) -> Iterator[str]:
    """Gaps by source and reason, alike ones in one line."""
    from rca.wording import alike, clock, printable, together

    groups: dict[str, dict[str, list[Interval]]] = {}
    for gap in gaps:
        groups.setdefault(gap.source, {}).setdefault(gap.reason, []).extend([gap.interval] if gap.interval else [])
    for source, reasons in groups.items():
        for same in alike(reasons):
            intervals = max((reasons[reason] for reason in same), key=len)
            when = "at a time that is not known"
            if intervals:
                first, last = min(i.start_ns for i in intervals), max(i.end_ns for i in intervals)
                many = f"{len(intervals)} times, " if len(intervals) > 1 else ""
                when = f"{many}{clock(first, date=True)} to {clock(last, date=True)}"
            yield f"  missing {when}: {printable(source)}, {printable(together(same))}"
