"""`rca simulate`: labelled incidents over random systems."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rca.cli.terminal import progress

_Incidents = Annotated[int, typer.Option(min=1, metavar="N", help="How many.")]
_Services = Annotated[
    str | None, typer.Option(metavar="A:B", help="Fewest and most services of a system; default: 5:60.", show_default=False)
]
_Fault = Annotated[
    list[str] | None, typer.Option(metavar="KIND", help="Only faults of this kind (repeatable); default: all, by equal chance.")
]
_Style = Annotated[
    str | None,
    typer.Option(
        metavar="STYLE", help="Only systems of this style (docs/simulator.md); default: all of them.", show_default=False
    ),
]
_Normal = Annotated[float, typer.Option(min=0, max=1, metavar="SHARE", help="Share of windows without a fault.")]
_Seed = Annotated[int, typer.Option(min=0, help="Seed of everything that is drawn.")]
_Emit = Annotated[str, typer.Option(help="bins, or spans: raw spans, for few incidents of small systems.")]
_Out = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Write a bundle per incident into this folder.", show_default=False)
]
_Store = Annotated[Path | None, typer.Option(metavar="DIR", help="Add them to the incident store there.", show_default=False)]
_Processes = Annotated[
    int | None, typer.Option(min=1, help="Processes; the incidents are the same. Default: one per core.", show_default=False)
]
_ListFaults = Annotated[bool, typer.Option("--list-faults", help="Print the kinds of fault that can be simulated, and exit.")]


def simulate(
    incidents: _Incidents = 100,
    services: _Services = None,
    fault: _Fault = None,
    style: _Style = None,
    normal: _Normal = 0.1,
    seed: _Seed = 0,
    emit: _Emit = "bins",
    out: _Out = None,
    store: _Store = None,
    processes: _Processes = None,
    list_faults: _ListFaults = False,
) -> None:
    """Simulate labelled incidents over random systems.

    Equal seeds give equal incidents. Can be interrupted and started again: incidents that are there are not made again.
    """
    import os
    from collections import Counter
    from dataclasses import replace

    from rca.errors import BadInput
    from rca.simulator.config import CONFIG
    from rca.simulator.generation import PLAN_FILE, Plan, simulate_into, simulate_into_store
    from rca.simulator.styles import only

    if list_faults:
        _list_faults()
        return
    if (out is None) == (store is None):
        raise BadInput("options", expected="one of --out and --store", found="neither" if out is None else "both")
    if emit not in ("bins", "spans"):
        raise BadInput("--emit", expected="bins or spans", found=emit)
    styles = CONFIG.styles if style is None else only(style)
    config = replace(CONFIG, kinds=_kinds(fault or []), normal_share=normal, styles=styles)
    plan = Plan(seed, config, _sizes(services), "spans" if emit == "spans" else "bins")
    workers = processes or os.cpu_count() or 1
    made: Counter[str] = Counter()
    if out is not None:
        if out.is_dir() and any(out.iterdir()) and not (out / PLAN_FILE).exists():
            raise BadInput(
                "--out", expected="an empty folder, or one of the same simulation", found=f"{out}, which holds other files"
            )
        coming, place = simulate_into(plan, out, incidents, workers), out
    else:
        assert store is not None
        coming, place = simulate_into_store(plan, store, incidents, workers), store
    try:
        with progress("Simulating", incidents) as step:
            for _, kind in coming:
                made[kind] += 1
                step(kind)
    except KeyboardInterrupt:
        typer.echo(f"{place}: what is finished is kept, the same command goes on", err=True)
        raise
    _tell(made, incidents, place)


def _kinds(wanted: list[str]) -> tuple[str, ...]:
    from rca.errors import UnknownName
    from rca.simulator.faults import SIMULATED

    for kind in wanted:
        if kind not in SIMULATED:
            raise UnknownName("--fault", kind, SIMULATED)
    return tuple(dict.fromkeys(wanted))


def _sizes(text: str | None) -> tuple[int, int] | None:
    from rca.errors import BadInput

    if text is None:
        return None
    low, _, high = text.partition(":")
    if not (low.isdecimal() and (high or low).isdecimal() and 3 <= int(low) <= int(high or low) <= 500):
        raise BadInput("--services", expected="fewest:most, such as 5:60, between 3 and 500", found=text)
    return int(low), int(high or low)


def _list_faults() -> None:
    from rca.faults import FAULT_KINDS, is_no_fault
    from rca.simulator.faults import SIMULATED

    width = max(map(len, SIMULATED))
    for kind in SIMULATED:
        about = "nobody to blame" if is_no_fault(kind) else FAULT_KINDS[kind].family
        typer.echo(f"{kind:{width}}  {about:{len('nobody to blame')}}  {FAULT_KINDS[kind].signature}")


def _tell(made: dict[str, int], incidents: int, place: Path) -> None:
    from rca.wording import count

    total = sum(made.values())
    there = f", {incidents - total:,} were there" if incidents > total else ""
    typer.echo(f"{place}: {count(total, 'incident')} simulated{there}")
