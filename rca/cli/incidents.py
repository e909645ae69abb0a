"""`rca incidents`: the store of labelled incidents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rca.cli.terminal import print_json, print_rows
from rca.wording import clock, printable

if TYPE_CHECKING:
    from rca.incidents.incident import EntityModel, Incident, Label
    from rca.incidents.store import IncidentStore

app = typer.Typer(
    help="The store of incidents. Their telemetry, their labels and who gave them; it lives in $RCA_HOME (~/.local/share/rca).",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_MOST_MIB = 2**20
_Id = Annotated[str, typer.Argument(metavar="ID", help="Incident id, as `rca incidents list` shows it.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Who = Annotated[str, typer.Option("--by", metavar="NAME", help="Who makes the change; default: the login name.")]


@app.command("list")
def list_(
    system: Annotated[str | None, typer.Option(help="Only of this system.")] = None,
    state: Annotated[str | None, typer.Option(metavar="STATE", help="Only labelled, unlabelled or disputed ones.")] = None,
    fault: Annotated[str | None, typer.Option(metavar="KIND", help="Only with an undisputed label of this fault kind.")] = None,
    json: _Json = False,
) -> None:
    """List incidents, oldest first."""
    from rca.errors import UnknownName
    from rca.faults import FAULT_KINDS

    with _store() as store:
        incidents = store.list(system=system, state=state, fault_kind=fault)  # type: ignore[arg-type]  # the store checks it
        if not incidents:  # a name that nothing has looks like good news
            everything = store.list()
            for option, name, known in (
                ("--system", system, {incident.system for incident in everything}),
                ("--fault", fault, {*FAULT_KINDS, *(label.fault_kind for one in everything for label in one.labels)}),
            ):
                if name is not None and name not in known and everything:
                    raise UnknownName(option, name, known)
    if json:
        print_json({"schema_version": "1", "incidents": [incident.model_dump(mode="json") for incident in incidents]})
        return
    if not incidents:
        typer.echo("no incidents", err=True)
        return
    rows = [(i.id, _time(i.window.start_ns)[:16], _causes(i), ", ".join(_faults(i))) for i in incidents]
    print_rows(("incident", "start (UTC)", "cause", "fault"), rows)


@app.command()
def show(incident_id: _Id, json: _Json = False) -> None:
    """Show one incident. Times, labels, what telemetry there is and what is missing."""
    with _store() as store:
        manifest = store.manifest(incident_id)
    if json:
        print_json(manifest.model_dump(mode="json"))
        return
    facts = [
        ("incident", manifest.id),
        ("title", manifest.title),
        ("system", manifest.system),
        ("source", manifest.source),
        ("window", f"{_time(manifest.window.start_ns)} to {_time(manifest.window.end_ns)} UTC"),
        ("onset", manifest.onset_ns and f"{_time(manifest.onset_ns)} UTC"),
        ("detected", manifest.detected_ns and f"{_time(manifest.detected_ns)} UTC"),
        *(("baseline", f"{_time(b.start_ns)} to {_time(b.end_ns)} UTC ({b.provenance})") for b in manifest.baselines),
        ("alerting", ", ".join(str(entity.entity()) for entity in manifest.alerting)),
        *(("link", link) for link in manifest.links),
        *(("label", _label_line(label)) for label in manifest.labels),
        *(("frame", f"{frame.frame}: {frame.rows:,} row{'s' * (frame.rows != 1)}") for frame in manifest.frames),
        *(("gap", f"{gap.source}: {gap.reason}") for gap in manifest.gaps),
    ]
    if not manifest.labels:
        facts.append(("label", "none yet"))
    print_rows(None, [(name, str(value)) for name, value in facts if value])


@app.command()
def label(
    incident_id: _Id,
    entity: Annotated[
        str | None, typer.Argument(metavar="ENTITY", help="Who caused it: a name, or kind:name (database:orders).")
    ] = None,
    *,
    no_fault: Annotated[
        bool, typer.Option("--no-fault", help="Nobody did: a quiet window, or a --fault such as traffic_surge.")
    ] = False,
    fault: Annotated[
        str | None, typer.Option(metavar="KIND", help="Fault kind, such as cpu_contention (docs/faults.md).", show_default=False)
    ] = None,
    provenance: Annotated[str, typer.Option(help="How it is known: injected, confirmed or inferred.")] = "confirmed",
    note: Annotated[str, typer.Option(help="Why, in a sentence.")] = "",
    dispute: Annotated[bool, typer.Option("--dispute", help="Mark the entity's label as disputed instead.")] = False,
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Take the entity's label back instead.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Accept an entity that the telemetry does not mention.")] = False,
    by: _Who = "",
) -> None:
    """Say what caused an incident. Several causes: run it once for each. `rca incidents audit` shows every change."""
    from rca.errors import BadInput

    if dispute and withdraw:
        raise BadInput("options", expected="--dispute or --withdraw", found="both")
    if (entity is None) is not no_fault:
        raise BadInput("options", expected="ENTITY or --no-fault", found="both" if no_fault else "neither")
    with _store(by) as store:
        if dispute or withdraw:
            named = _labelled_entity(store.incident(incident_id), entity)
            if dispute:
                store.dispute(incident_id, named, note)
            else:
                store.withdraw(incident_id, named)
            whose = named.entity() if named else "no fault"
            typer.echo(printable(f"{incident_id}: label of {whose} {'disputed' if dispute else 'withdrawn'}"))
            return
        new = _new_label(store, incident_id, entity, fault=fault, provenance=provenance, note=note, force=force)
        changed = store.label(incident_id, new, force=force)
    typer.echo(printable(f"{incident_id}: {_label_line(new) if changed else 'labelled so already'}"))


@app.command()
def export(
    incident_id: _Id,
    path: Annotated[Path, typer.Argument(help="Where to: one file if it ends in .tar.zst, else a folder.")],
    max_mib: Annotated[
        float | None, typer.Option(min=0, max=_MOST_MIB, help="Drop baseline traces until it fits (recorded as a gap).")
    ] = None,
    redact: Annotated[bool, typer.Option("--redact", help="Replace all names by pseudonyms, consistently.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite PATH.")] = False,
) -> None:
    """Write an incident with its present labels as a bundle."""
    from rca.incidents.bundle import write_bundle
    from rca.incidents.sharing import capped, redacted

    with _store() as store:
        incident, telemetry = store.get(incident_id)
    if redact:
        incident, telemetry = redacted(incident, telemetry)
    if max_mib is not None:
        telemetry = capped(incident, telemetry, int(max_mib * 2**20))
    write_bundle(path, incident, telemetry, replace=replace)
    typer.echo(f"{incident.id}: written to {path}")


@app.command("import")
def import_(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Bundles: folders or .tar.zst files.")],
    replace: Annotated[bool, typer.Option("--replace", help="Replace another incident of the same id.")] = False,
    by: _Who = "",
) -> None:
    """Add bundles to the store. Importing one again changes nothing. Each line printed is safely on the disk."""
    with _store(by) as store:
        for path in paths:
            incident, outcome = store.import_bundle(path, replace=replace)
            typer.echo(f"{incident.id}: {outcome}")


@app.command()
def remove(incident_id: _Id, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False, by: _Who = "") -> None:
    """Remove an incident and its telemetry. The audit trail stays."""
    with _store(by) as store:
        store.incident(incident_id)
        if not yes:
            typer.confirm(f"Remove {incident_id} and its telemetry?", abort=True)
        store.remove(incident_id)
    typer.echo(f"{incident_id}: removed")


@app.command()
def audit(
    incident_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="Only this incident.")] = None, json: _Json = False
) -> None:
    """Show who changed what, and when; removed incidents included."""
    from dataclasses import asdict

    with _store() as store:
        entries = store.audit(incident_id)
    if json:
        print_json({"schema_version": "1", "changes": [asdict(entry) for entry in entries]})
        return
    if not entries:
        typer.echo("no changes", err=True)
        return
    rows = [(_time(e.at_ns), e.who, e.incident_id, e.action + _change(e.before, e.after)) for e in entries]
    print_rows(("when (UTC)", "who", "incident", "change"), rows)


def _store(who: str = "") -> IncidentStore:
    from rca.incidents.store import IncidentStore

    return IncidentStore(who=who)


def _new_label(
    store: IncidentStore, incident_id: str, text: str | None, *, fault: str | None, provenance: str, note: str, force: bool
) -> Label:
    from typing import cast, get_args

    from rca.errors import BadInput, UnknownName
    from rca.faults import FAULT_KINDS, NO_FAULT, is_no_fault
    from rca.incidents.entities import find_entity, known_entities
    from rca.incidents.incident import EntityModel, Label, LabelProvenance
    from rca.telemetry import EntityKind

    allowed = [name for name in get_args(LabelProvenance) if name != "disputed"]
    if provenance not in allowed:
        raise UnknownName("--provenance", provenance, allowed)
    fault = fault or ("unknown" if text is not None else NO_FAULT)
    if fault not in FAULT_KINDS and not (force and text is not None):
        raise UnknownName("--fault (or your own word with --force)", fault, FAULT_KINDS)
    if text is None:
        if not is_no_fault(fault):
            nobody = " or ".join(name for name in FAULT_KINDS if is_no_fault(name))
            raise BadInput("--no-fault", expected=f"a fault that nobody is to blame for ({nobody})", found=fault)
        return Label(fault_kind=fault, provenance=cast("LabelProvenance", provenance), note=note)
    try:
        known = known_entities(*store.get(incident_id))
        found = find_entity(f"label of incident {incident_id}", text, known)
        entity = EntityModel(kind=found.kind, name=found.name, namespace=found.namespace)
    except UnknownName:
        if not force:
            raise
        kind, colon, name = text.partition(":")
        known_kind = bool(colon) and kind in get_args(EntityKind)
        entity = EntityModel(kind=cast("EntityKind", kind), name=name) if known_kind else EntityModel(name=text)
    return Label(entity=entity, fault_kind=fault, provenance=cast("LabelProvenance", provenance), note=note)


def _labelled_entity(incident: Incident, text: str | None) -> EntityModel | None:
    from rca.errors import UnknownName

    for label in incident.labels:
        if label.entity is None:
            if text is None:
                return None
        elif text in (label.entity.name, f"{label.entity.kind}:{label.entity.name}", str(label.entity.entity())):
            return label.entity
    raise UnknownName(f"labels of incident {incident.id}", text or "no_fault", [label.name() for label in incident.labels])


def _causes(incident: Incident) -> str:
    return ", ".join(label.name() + (" (disputed)" if label.provenance == "disputed" else "") for label in incident.labels)


def _faults(incident: Incident) -> list[str]:
    return list(dict.fromkeys(label.fault_kind for label in incident.labels if label.provenance != "disputed"))


def _label_line(label: Label) -> str:
    by = f" by {label.author}" if label.author else ""
    note = f": {label.note}" if label.note else ""
    whose = label.entity.entity() if label.entity else "nobody"
    return f"{whose}, {label.fault_kind} ({label.provenance}{by}){note}"


def _change(before: Any, after: Any) -> str:
    """What a change did to the labels, as ` -old +new`."""
    old, new = ([_in_short(label) for label in _labels_in(state)] for state in (before, after))
    return "".join([f" -{label}" for label in old if label not in new] + [f" +{label}" for label in new if label not in old])


def _in_short(label: Any) -> str:
    whose = label["entity"]["name"] if label["entity"] else "nobody"
    return f"{whose}/{label['fault_kind']}/{label['provenance']}"


def _labels_in(state: Any) -> list[Any]:
    labels: list[Any] = state["labels"] if isinstance(state, dict) else state or []
    return labels


def _time(time_ns: int) -> str:
    return clock(time_ns, date=True)
