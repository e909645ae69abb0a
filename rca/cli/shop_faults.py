"""`rca shop inject`, `clear` and `record`: faults in a running shop, and incidents recorded from it."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from rca.cli.terminal import duration_of, progress

Run = Annotated[Path | None, typer.Option("--run", metavar="FOLDER", help="Where it runs. Default: `shop` below $RCA_HOME.")]


def inject(
    fault: Annotated[str | None, typer.Argument(metavar="FAULT", help="Fault kind (docs/faults.md).", show_default=False)] = None,
    target: Annotated[
        str | None, typer.Argument(metavar="TARGET", help="Workload or node that it hits.", show_default=False)
    ] = None,
    *,
    strength: Annotated[float, typer.Option(min=0.01, max=1, help="From hardly visible to severe.")] = 0.5,
    lasting: Annotated[
        str | None,
        typer.Option("--for", metavar="DURATION", help="Clear it after this time, or at Ctrl-C; default: until `clear`."),
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="Print every fault and what it can hit.")] = False,
    run: Run = None,
) -> None:
    """Inject a fault into the running shop: it really happens."""
    from rca.errors import BadInput
    from rca.shop import faults
    from rca.shop.client import Shop
    from rca.telemetry import SECOND_NS

    if listed:
        for kind, recipe in faults.RECIPES.items():
            typer.echo(f"{kind:28}{' '.join(recipe.targets) or '(the whole shop)'}")
        return
    if fault is None:
        raise BadInput("options", expected="FAULT and TARGET, or --list", found="neither")
    seconds = None if lasting is None else duration_of("--for", lasting) / SECOND_NS
    if seconds is not None and seconds < 1:
        raise BadInput("--for", expected="a second or more", found=repr(lasting))
    shop = Shop(run)
    where = f" at {target}" if target else ""
    faults.recipe_of(fault, target or "")
    shop.status()  # nothing to clear where none runs
    if seconds is None:
        with shop.folder.undisturbed():
            faults.inject(shop, fault, target or "", strength)
        typer.echo(f"{fault}{where} began; `rca shop clear` ends it")
        return
    with shop.folder.undisturbed(), interruptible():
        try:
            faults.inject(shop, fault, target or "", strength)
            end = time.monotonic() + seconds
            with progress(f"{fault}{where}", round(seconds)) as step:
                while (left := end - time.monotonic()) > 0:
                    time.sleep(min(left, faults.KEEP_UP_S))
                    step("Ctrl-C ends it", completed=round(seconds - max(end - time.monotonic(), 0)))
                    faults.keep_up(shop, fault, target or "", strength)
        finally:
            faults.clear(shop)
    typer.echo(f"{fault}{where} is over")


@contextmanager
def interruptible() -> Iterator[None]:
    """What would end this process ends it as Ctrl-C does, so that the shop is left clean; what it ignores it goes on to ignore.

    Shells start background jobs of scripts with SIGINT ignored: SIGTERM is the way to end those.
    """
    numbers = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def clear(run: Run = None) -> None:
    """End every fault in the shop. Releases, settings and load return to what is usual."""
    from rca.shop.client import Shop
    from rca.shop.faults import clear as clear_faults

    shop = Shop(run)
    shop.status()
    with shop.folder.undisturbed():
        clear_faults(shop)
    typer.echo("every fault was cleared")


def record(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where bundles and manifest are kept.")] = Path("incidents"),
    *,
    runs: Annotated[
        list[Path] | None,
        typer.Option("--run", metavar="FOLDER", help="Where a shop runs; several share the work. Default: as `up`."),
    ] = None,
    most: Annotated[int | None, typer.Option("--most", min=1, help="Stop after so many recordings.", show_default=False)] = None,
    only: Annotated[list[str] | None, typer.Option("--fault", metavar="KIND", help="Only these faults (repeatable).")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the programme: order and strengths.")] = 0,
) -> None:
    """Record labelled incidents from the running shop as bundles.

    What the folder already holds is skipped, so Ctrl-C or SIGTERM loses the recording that is under way and nothing else.
    """
    from rca.errors import UnknownName
    from rca.shop.client import Shop
    from rca.shop.programme import programme
    from rca.shop.recording import Recorder
    from rca.shop.recording import record as record_all

    recordings = [each for each in programme(seed) if not only or each.fault_kind in only]
    for kind in only or []:
        if all(each.fault_kind != kind for each in recordings):
            raise UnknownName("--fault", kind, {each.fault_kind for each in programme(seed)})
    shops = [Shop(run) for run in runs] if runs else [Shop()]
    recorders = [Recorder(shop, out, seed=seed, told=typer.echo) for shop in shops]
    with interruptible():
        made = record_all(recorders, recordings, most)
    typer.echo(f"{out}: {made} recordings were made")
