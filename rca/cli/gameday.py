"""`rca gameday`: break things on purpose, and keep what happened as labelled incidents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rca.cli import gameday_scores
from rca.cli.shop_faults import Run, interruptible
from rca.cli.terminal import print_json, print_rows, progress
from rca.wording import clock, printable

if TYPE_CHECKING:
    from rca.collectors.config import Config
    from rca.gameday.folder import GameDay, Injected
    from rca.gameday.plan import Plan
    from rca.gameday.seen import Seen

app = typer.Typer(
    help="Run game days, and score who finds the causes. Inject faults by a plan, or record what another tool injects, and see "
    "what rca and people make of it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_Name = Annotated[str, typer.Argument(metavar="NAME", help="The game day, as `rca gameday list` shows it.")]
_Plan = Annotated[str, typer.Argument(metavar="PLAN", help="A plan: a TOML file (docs/gameday.md), or `shop`, which ships.")]
_Store = Annotated[
    Path | None, typer.Option("--store", metavar="FOLDER", help="The store of incidents and game days. Default: $RCA_HOME.")
]
_Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings. Default: $RCA_CONFIG, ./rca.toml or ~/.config/rca/rca.toml."),
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Who = Annotated[str, typer.Option("--who", metavar="NAME", help="Whose word it is; default: the login name.")]


@app.command()
def check(plan: _Plan) -> None:
    """Check a plan, and print what would happen and how long it takes. Nothing is injected."""
    from rca.gameday.plan import find_plan, load_plan

    _print_plan(load_plan(find_plan(plan)))


@app.command()
def run(
    plan: _Plan,
    run: Run = None,
    *,
    store: _Store = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Its name; default: the plan's.", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with one that was interrupted or aborted.")] = False,
) -> None:
    """Inject the faults of a plan into the running shop.

    One after the other; each is kept as a labelled incident. Ctrl-C, SIGTERM and the plan's abort conditions end every fault
    and then the run, with a code other than 0. A guard, a process of its own, ends them where this one is killed.
    """
    from rca.gameday.plan import find_plan, load_plan, total_ns
    from rca.gameday.running import Runner, prepare
    from rca.gameday.shop import ShopSystem
    from rca.incidents.store import IncidentStore
    from rca.settings import duration_text
    from rca.shop.client import Shop

    file = find_plan(plan)
    system = ShopSystem(Shop(run), load_plan(file))
    with interruptible(), IncidentStore(store) as incidents:
        day = prepare(file, store, name, resume=resume)
        if day.plan is not None and not resume:
            typer.echo(f"{day.name}: {len(day.plan.injection)} injections, {duration_text(total_ns(day.plan))} in all")
        with progress(day.name, 1) as shown:
            Runner(day, system, incidents, told=_told, shown=shown).run()
    typer.echo(f"`rca gameday show {day.name}` shows it")


@app.command()
def record(
    name: _Name,
    store: _Store = None,
    *,
    config: _Config = None,
    injections: Annotated[
        Path | None,
        typer.Option(
            "--injections", metavar="FILE", help="Times, targets and fault kinds: a .csv, .toml or .json (docs/gameday.md)."
        ),
    ] = None,
    chaos_mesh: Annotated[
        bool, typer.Option("--chaos-mesh", help="What Chaos Mesh injected, from the cluster of [kubernetes] in rca.toml.")
    ] = False,
    chaos_mesh_file: Annotated[
        Path | None, typer.Option("--chaos-mesh-file", metavar="FILE", help="The same, as `kubectl get … -o yaml` prints it.")
    ] = None,
    flagd: Annotated[
        str | None,
        typer.Option(
            "--flagd", metavar="FILE|URL", help="Watch the OpenTelemetry Demo's feature flags until Ctrl-C.", show_default=False
        ),
    ] = None,
    watched: Annotated[str, typer.Option("--for", metavar="DURATION", help="Watch flags for so long; 0s until Ctrl-C.")] = "0s",
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Only what began at this time or later.", show_default=False)
    ] = None,
    settle: Annotated[
        str, typer.Option("--settle", metavar="DURATION", help="How long after an injection nothing is compared with.")
    ] = "1m",
    open_ended: Annotated[
        str, typer.Option("--lasting", metavar="DURATION", help="How long an injection without an end is looked at.")
    ] = "2m",
) -> None:
    """Record what another tool injects, as labelled incidents.

    Telemetry comes from the sources of rca.toml. What was kept already is left alone, so the same command again goes on. Exits
    with 1 where an injection could not be kept.
    """
    from rca.cli.terminal import duration_of, moment_ns
    from rca.collectors.config import config_path, load_config
    from rca.collectors.sources import sources_of
    from rca.errors import BadInput
    from rca.gameday.flagd import Flags
    from rca.gameday.recording import Recording
    from rca.incidents.store import IncidentStore

    if not (injections or chaos_mesh or chaos_mesh_file or flagd):
        raise BadInput("options", expected="--injections, --chaos-mesh, --chaos-mesh-file or --flagd", found="none of them")
    settings = load_config(config_path(config))
    begin_ns = moment_ns("--since", since) if since else 0
    settle_ns, lasting_ns = duration_of("--settle", settle), duration_of("--lasting", open_ended)
    watch_ns = duration_of("--for", watched)
    seen = [each for each in _seen(settings, injections, chaos_mesh, chaos_mesh_file) if each.start_ns >= begin_ns]
    flags = Flags(flagd) if flagd else None
    with interruptible(), IncidentStore(store) as incidents:
        recording = Recording(
            store, name, settings, sources_of(settings), incidents, settle_ns=settle_ns, lasting_ns=lasting_ns, told=_told
        )
        with recording.alone():
            recording.begin(recording.entities() if flags else ())
            for each in seen:
                recording.note(each)
            if flags:
                with progress(f"{name}: watching flags") as shown:
                    recording.follow(flags, watch_ns, lambda text: shown(text, 0))
            recording.collect()
            day = recording.end()
    typer.echo(f"{day.name}: {day.why}")
    if any(each.incident_id is None for each in day.injections):
        raise typer.Exit(1)


@app.command("list")
def list_(store: _Store = None, *, json: _Json = False) -> None:
    """List game days, the latest last."""
    from rca.errors import BadInput
    from rca.gameday.folder import load, names

    days: list[GameDay] = []
    unreadable: list[str] = []
    for name in names(store):
        try:
            days.append(load(store, name))
        except BadInput as error:
            unreadable.append(f"{name} cannot be read: {error}")
    days.sort(key=_began)
    if json:
        print_json({"schema_version": "1", "game_days": [_body(day) for day in days]})
    elif days:
        print_rows(("game day", "start (UTC)", "state", "injections", "kept", "guesses"), [_day_row(day) for day in days])
    elif not unreadable:
        typer.echo("no game days", err=True)
    for line in unreadable:
        typer.echo(printable(line), err=True)


@app.command()
def show(name: _Name, store: _Store = None, *, json: _Json = False) -> None:
    """Show one game day. What was injected when, what became of it, and who guessed what."""
    from rca.gameday.folder import load

    day = load(store, name)
    if json:
        print_json({"schema_version": "1", **_body(day)})
        return
    typer.echo(printable(f"{day.name}: {day.state}{f', {day.why}' if day.why else ''}"))
    if day.injections:
        head = ("", "fault", "target", "start (UTC)", "lasted", "first alert", "incident")
        dates = {clock(each.injection.start_ns, date=True)[:10] for each in day.injections}
        print_rows(head, [_injected_row(each, dated=len(dates) > 1) for each in day.injections])
    if day.quiet:
        seconds = sum(interval.seconds for interval in day.quiet)
        watches = "1 quiet watch" if len(day.quiet) == 1 else f"{len(day.quiet)} quiet watches"
        typer.echo(f"{watches}, {seconds / 60:.1f} min")
    for guess in day.guesses:
        typer.echo(printable(f"{clock(guess.at_ns)}  {guess.who} on {guess.number}: {guess.entity}"))


@app.command()
def guess(
    name: _Name,
    entity: Annotated[str, typer.Argument(metavar="ENTITY", help="What causes it: `payment`, `database:shop-db`.")],
    store: _Store = None,
    *,
    who: _Who = "",
) -> None:
    """Note a person's guess at what causes what runs now. Its time counts."""
    from rca.gameday.telling import note_guess

    number, found = note_guess(store, name, entity, who)
    typer.echo(f"{name}: your guess for injection {number} is {found}")


@app.command()
def fixed(name: _Name, store: _Store = None, *, who: _Who = "") -> None:
    """Say that the injection that runs now is fixed. That ends it where its plan says `until = "fixed"`."""
    from rca.gameday.telling import note_fixed

    typer.echo(f"{name}: injection {note_fixed(store, name, who)} is fixed; its fault ends")


app.command()(gameday_scores.score)
app.command()(gameday_scores.report)


def _seen(settings: Config, injections: Path | None, chaos_mesh: bool, chaos_mesh_file: Path | None) -> list[Seen]:
    """Injections of the past that the options name. What could not be read as one is said."""
    from rca.errors import BadInput
    from rca.gameday.chaos_mesh import resources_in, resources_of, seen_in
    from rca.gameday.seen import read_injections

    found = read_injections(injections) if injections else []
    resources = [resources_in(chaos_mesh_file)] if chaos_mesh_file else []
    if chaos_mesh:
        if settings.kubernetes is None:
            raise BadInput("--chaos-mesh", expected="[kubernetes] in rca.toml", found="none")
        resources.append(resources_of(settings.kubernetes))
    for each in resources:
        seen, remarks = seen_in(each)
        found += seen
        for line in remarks:
            typer.echo(printable(line), err=True)
    return found


def _told(line: str) -> None:
    typer.echo(printable(line))


def _print_plan(plan: Plan) -> None:
    from rca.gameday.plan import timeline, total_ns
    from rca.settings import duration_text

    rows = [
        (
            str(slot.number),
            slot.planned.fault,
            slot.planned.target or "(the whole shop)",
            f"{slot.planned.strength:g}",
            duration_text(slot.begins_ns),
            duration_text(slot.ends_ns - slot.begins_ns) + (" or until fixed" if slot.planned.until else ""),
        )
        for slot in timeline(plan)
    ]
    print_rows(("", "fault", "target", "strength", "begins after", "lasts"), rows)
    quiet = f", the last {duration_text(plan.quiet)} of it watched for false alarms" if plan.quiet else ""
    typer.echo(
        f"Before each: {duration_text(plan.settle)} to settle, {duration_text(plan.baseline + plan.quiet)} of quiet{quiet}."
    )
    for abort in plan.abort:
        typer.echo(printable(f"Aborts when {abort.words()}."))
    typer.echo(f"{plan.name}: {len(rows)} injections, {duration_text(total_ns(plan))} in all.")


def _began(day: GameDay) -> int:
    return min((each.injection.start_ns for each in day.injections), default=0)


def _day_row(day: GameDay) -> tuple[str, ...]:
    start = clock(_began(day), date=True)[:16] if day.injections else "-"
    kept = sum(each.incident_id is not None for each in day.injections)
    return day.name, start, day.state, str(len(day.injections)), str(kept), str(len(day.guesses))


def _injected_row(each: Injected, *, dated: bool) -> tuple[str, ...]:
    injection = each.injection
    lasted = f"{(injection.end_ns - injection.start_ns) / 1e9:.0f} s" if injection.end_ns else "-"
    alert = f"after {(each.alerts_ns - injection.start_ns) / 1e9:.0f} s" if each.alerts_ns else "-"
    became = each.incident_id or "-"
    return (
        str(injection.number),
        injection.fault_kind,
        injection.target or "-",
        clock(injection.start_ns, date=dated),
        lasted + (" (fixed)" if each.fixed_ns else ""),
        alert,
        f"{became} ({each.trouble})" if each.trouble else became,
    )


def _body(day: GameDay) -> dict[str, Any]:
    """A game day as JSON."""
    from dataclasses import asdict

    body = {key: asdict(day)[key] for key in ("name", "state", "why", "source", "injections", "guesses", "watches")}
    return {**body, "plan": day.plan.model_dump(mode="json") if day.plan else None}
