"""`rca shop`: a small live system of real processes, to try things on and to break."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rca.cli.shop_faults import Run, clear, inject, record
from rca.cli.terminal import print_json

if TYPE_CHECKING:
    from rca.shop.client import Status

app = typer.Typer(
    help="Run a small live shop, to break and to triage. Real services, databases and monitoring on this machine; Linux.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

for command in (inject, clear, record):
    app.command()(command)

_FULL = 0.9


@app.command()
def up(
    run: Run = None,
    *,
    rate: Annotated[float, typer.Option(min=0.0, help="Requests a second that customers send.")] = 12.0,
    no_load: Annotated[bool, typer.Option("--no-load", help="No customers; `rca shop load` sends them later.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Return when every pod is ready.")] = True,
) -> None:
    """Start the shop in the background.

    Services, PostgreSQL, Redis, Prometheus, Alertmanager, `rca collect`, customers. It takes about half a minute and runs until
    `rca shop down`. What an earlier shop left in the folder is deleted.
    """
    from rca.cli.terminal import progress
    from rca.shop.client import Shop
    from rca.shop.folder import run_folder
    from rca.shop.running import start, wait_ready

    folder = run_folder(run)
    started = start(folder, None if no_load else rate)
    if not wait:
        typer.echo(f"starting in {folder.path}; `rca shop status` shows how far it is")
        return
    try:
        with progress("Starting the shop") as step:
            wait_ready(folder, started, lambda text: step(text, 0))
    except KeyboardInterrupt:
        typer.echo("what had been started was stopped again", err=True)
        raise
    addresses = Shop(folder).status().addresses
    typer.echo(f"The shop runs in {folder.path}.")
    for name in ("gateway", "prometheus", "alertmanager"):
        typer.echo(f"  {name:<13}{addresses[name]}")
    option = f" --run {run}" if run else ""
    typer.echo("What is usual is learnt from what came before: give it a few quiet minutes first.")
    typer.echo(f"Break something:  rca shop inject slow_database shop-db{option}   (`--list` shows what else)")
    typer.echo(f"Ask what broke:   rca triage --config {folder.config_file} --last 10m")
    typer.echo(f"Stop it:          rca shop down{option}")


@app.command()
def down(run: Run = None) -> None:
    """Stop the shop and all of its processes. Telemetry and logs stay in the folder until the next start."""
    from rca.shop.folder import run_folder
    from rca.shop.running import stop

    folder = run_folder(run)
    stopped = stop(folder)
    typer.echo(f"stopped the shop in {folder.path}" if stopped else f"no shop runs in {folder.path}")


@app.command()
def status(run: Run = None, *, json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show pods, what they use, addresses, and what is injected."""
    from dataclasses import asdict

    from rca.shop.client import Shop

    shop = Shop(run)
    found = shop.status()
    if json:
        print_json({"schema_version": "1", **asdict(found)})
        return
    state = shop.state
    typer.echo(f"{shop.folder.path}: {found.phase}{f', {state.message}' if state.message else ''}")
    _print(_pod_table(found))
    typer.echo(_used(found))
    for name, address in found.addresses.items():
        typer.echo(f"  {name:<22}{address}")
    for line in found.injected or ("nothing",):
        typer.echo(f"injected: {line}")


@app.command()
def load(
    rate: Annotated[float, typer.Argument(metavar="RATE", min=0.0, help="Requests a second, on average.")], run: Run = None
) -> None:
    """Change how many requests customers send."""
    from rca.shop.client import Shop

    Shop(run).load(rate)
    typer.echo(f"customers send {rate:g} requests a second")


def _used(found: Status) -> str:
    from rca.wording import size

    cores = sum(used["cpu_cores"] for used in found.processes.values())
    own = ", ".join(f"{name} {used['cpu_cores']:.2f}" for name, used in found.processes.items())
    return (
        f"{found.cpu_cores:.2f} cores and {size(found.memory_bytes)} in use, {cores:.2f} cores beside the pods ({own}); "
        f"customers send {found.rate:g} requests a second"
    )


def _pod_table(found: Status) -> Any:
    from rich.table import Table

    from rca.wording import size

    table = Table(box=None, pad_edge=False)
    for title in ("pod", "node", "version", "state", "ready"):
        table.add_column(title)
    for title in ("restarts", "cores", "memory", "limit"):
        table.add_column(title, justify="right")
    for pod in sorted(found.pods, key=lambda pod: pod.name):
        full = pod.memory_bytes > _FULL * pod.memory_limit_bytes
        table.add_row(
            pod.name,
            pod.node,
            pod.version or "-",
            pod.phase,
            "yes" if pod.ready else "no",
            str(pod.restarts),
            f"{pod.cpu_cores:.2f}",
            size(pod.memory_bytes),
            size(pod.memory_limit_bytes),
            style=None if pod.ready and not full else "yellow" if pod.ready else "red",
        )
    return table


def _print(table: Any) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    Console(highlight=False, markup=False, emoji=False, width=None if console.is_terminal else 160).print(table)
