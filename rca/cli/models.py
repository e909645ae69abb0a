"""`rca models`: versions of models, which of them ranks, and whether another may."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rca.cli.terminal import print_json, print_rows, progress
from rca.errors import BadCheckpoint
from rca.wording import clock, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rca.collectors.config import TrainingRules
    from rca.evaluation.cases import Recorded
    from rca.evaluation.life import Judgement
    from rca.evaluation.promotion import Evaluation
    from rca.evaluation.shadows import Comparison
    from rca.models.versions import Change, State, Version, Versions

app = typer.Typer(
    help="Keep versions of models, and say which one ranks. They live in $RCA_HOME/models.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

REFUSED_EXIT_CODE = 3
"""Exit code of a promotion that the gate refused: nothing failed, and nothing was changed."""
NOT_DUE_EXIT_CODE = 3
_SHIPPED = "shipped"
_OFF = "off"

_Version = Annotated[
    str, typer.Argument(metavar="VERSION", help="An id, the start of one, or current or shadow; `rca models list` has them.")
]
_Store = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Store whose models are meant; default: $RCA_HOME.", show_default=False)
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Who = Annotated[str, typer.Option("--by", metavar="NAME", help="Who makes the change; default: the login name.")]
_Why = Annotated[str, typer.Option("--why", metavar="TEXT", help="Why, for the history.")]


@app.command("list")
def list_(store: _Store = None, json: _Json = False) -> None:
    """List the versions, oldest first, and say which one ranks."""
    versions = _versions(store)
    state, (found, unread) = versions.state(), versions.look()
    measured, broken = _measured(versions, found), dict(unread)
    broken |= {each: f"{versions.folder}: expected {each}, which {what}, found none" for each, what in _gone(versions, state)}
    broken |= {name: str(what) for name, what in measured.items() if isinstance(what, BadCheckpoint)}
    if json:
        body = {
            "current": state.current,
            "shadow": state.shadow,
            "versions": [_json(versions, each) for each in found if each.id not in broken],
            "broken": broken,
        }
        print_json({"schema_version": "1", **body})
        return
    if found:
        rows = [
            (_role(each, state), each.id, each.model.id, _moment(each.facts.registered_ns)[:10], _newest(measured[each.id]))
            for each in found
        ]
        print_rows(("", "version", "ranks as", "since (UTC)", "cause first"), rows)
    for trouble in broken.values():
        typer.echo(f"cannot be read: {printable(trouble)}", err=True)
    if state.current is None:
        typer.echo(f"no version was promoted: {_shipped_name()} ranks", err=bool(found))


@app.command()
def show(version: _Version, store: _Store = None, json: _Json = False) -> None:
    """Show what a version is made of and how it did. By fault kind, tier and system, with what the gate says."""
    from rca.evaluation import life
    from rca.evaluation.promotion import Evaluation, judged

    versions = _versions(store)
    found = versions.get(version)
    found.check()
    if json:
        print_json({"schema_version": "1", **_json(versions, found, whole=True)})
        return
    print_rows(None, life.facts_of(found))
    for body in versions.evaluations(found.id):
        made = Evaluation.from_json(body)
        typer.echo()
        _print_judgement(life.Judgement(made, body["digest"], judged(made)), whole=True)


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A model folder, or a .tar.zst that `rca models export` wrote.")],
    store: _Store = None,
    by: _Who = "",
) -> None:
    """Keep a model as a version; nothing else ranks because of it."""
    found = _versions(store, by).import_(path)
    typer.echo(f"{found.version.id}: {'kept' if found.new else 'was there already'}")


@app.command()
def evaluate(
    version: _Version,
    bundles: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Folder of incident bundles; default: the incident store.", show_default=False),
    ] = None,
    part: Annotated[str | None, typer.Option(metavar="PART", help="Of --bundles with a manifest, only this part.")] = None,
    system: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only incidents of this system (repeatable).")] = None,
    unseen: Annotated[
        bool, typer.Option("--unseen", help="Leave out what this version or the model in use learnt from, instead of refusing.")
    ] = False,
    store: _Store = None,
    by: _Who = "",
    json: _Json = False,
) -> None:
    """Measure a version beside the model in use and simple rules.

    On labelled incidents that it did not learn from. The figures are kept, and a promotion rests on them.
    """
    from rca.evaluation import cases, life
    from rca.incidents.home import user_name
    from rca.models.learnt import read_learnt

    versions = _versions(store, by)
    found, state = versions.get(version), versions.state()
    recorded = cases.asked_for(bundles, part, system or [], cases.Labels.TOLD, versions.home)
    if unseen:
        recorded = life.unseen(recorded, read_learnt(found.model), life.current_of(versions, state).learnt)
    _expect_some(recorded, bundles or versions.home, unseen=unseen)
    with progress("incidents", len(recorded)) as step:
        of = " ".join(filter(None, [bundles.name if bundles else "the store", part and f"({part})", *(system or [])]))
        judgement = life.examine(versions, found, recorded, of=of, who=by or user_name(), step=step)
    if json:
        print_json({"schema_version": "1", "digest": judgement.digest, **_verdict_json(judgement)})
        return
    _print_judgement(judgement, whole=True)


@app.command()
def promote(
    version: _Version,
    why: _Why = "",
    force: Annotated[
        str | None, typer.Option(metavar="REASON", help="Promote whatever the gate says; the reason goes into the history.")
    ] = None,
    store: _Store = None,
    by: _Who = "",
) -> None:
    """Have a version rank, if the gate says so.

    Its evaluation must show that it is better beyond noise and loses no cohort. Exits with 3 if the gate refuses. `rca serve`
    takes it up without a restart.
    """
    promoted(_versions(store, by), version, why, force)


def promoted(versions: Versions, version: str, why: str, force: str | None = None) -> Change:
    """Promote through the gate, and say what became of it. Raises BadInput, or typer.Exit where the gate refuses."""
    from rca.errors import BadInput
    from rca.evaluation import life
    from rca.models.files import ONNX

    found, state = versions.get(version), versions.state()
    forced = force is not None
    if force is not None and not force.strip():
        raise BadInput("--force", expected="a reason", found="none")
    if forced and why:
        raise BadInput("options", expected="--why, or the reason of --force", found="both")
    judgement = None
    try:
        judgement = life.judgement(versions, found, state)
    except BadInput as error:
        if not forced:
            raise
        typer.echo(f"forced past the gate: {error}", err=True)
    if judgement is not None:
        _print_judgement(judgement)
        if judgement.evaluation.code != life.code():
            typer.echo(f"measured with code {judgement.evaluation.code}, this is {life.code()}", err=True)
        if not judgement.verdict.passed and not forced:
            typer.echo(f"{found.id} is not promoted; --force REASON does it all the same", err=True)
            raise typer.Exit(REFUSED_EXIT_CODE)
    change = life.promoted(versions, found, state, judgement, why=force or why, forced=forced)
    typer.echo(f"{_named(change.after)} ranks now, {_named(change.before)} ranked before (`rca models rollback` undoes this)")
    if ONNX not in found.model.files:
        typer.echo(f"{found.id} has no ONNX file: it ranks where torch is installed", err=True)
    _warn_of_variable()
    return change


@app.command()
def rollback(
    to: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help=f"Back to this version, or to `{_SHIPPED}`. Default: what ranked before."),
    ] = None,
    why: _Why = "",
    store: _Store = None,
    by: _Who = "",
) -> None:
    """Have the version before rank again. `rca serve` takes it up without a restart."""
    from rca.errors import BadInput

    versions = _versions(store, by)
    state = versions.state()
    wanted = versions.before() if to is None else None if to == _SHIPPED else versions.get(to).id
    if wanted == state.current:
        raise BadInput("rollback", expected="another version than the one that ranks", found=_named(wanted))
    if wanted is not None and to is not None and wanted not in _ranked_before(versions):
        raise BadInput("rollback", expected="a version that ranked before (`rca models promote` is for others)", found=wanted)
    change = versions.roll_back(versions.get(wanted) if wanted else None, expected=state, why=why)
    typer.echo(f"{_named(change.after)} ranks now, in the place of {_named(change.before)}")
    _warn_of_variable()


@app.command()
def shadow(
    version: Annotated[str, typer.Argument(metavar="VERSION|off", help="The version that ranks beside, or `off`.")],
    why: _Why = "",
    store: _Store = None,
    by: _Who = "",
) -> None:
    """Have a version rank beside the current one, told to nobody. `rca serve` keeps what it says."""
    versions = _versions(store, by)
    state = versions.state()
    found = None if version == _OFF else versions.get(version)
    if (found.id if found else None) == state.shadow:
        typer.echo(f"{found.id} is in shadow already" if found else "no version is in shadow")
        return
    versions.set_shadow(found, expected=state, why=why)
    typer.echo(
        f"{found.id} is in shadow; `rca models compare` tells how it does" if found else "no version is in shadow any more"
    )


@app.command()
def compare(
    version: Annotated[
        str | None, typer.Argument(metavar="[VERSION]", help="A version that is or was in shadow. Default: all of them.")
    ] = None,
    store: _Store = None,
    json: _Json = False,
) -> None:
    """Say how often shadow and answer agreed, and who was right. Where there are labels, that is."""
    from dataclasses import asdict

    from rca.errors import BadInput
    from rca.evaluation.model_report import defined
    from rca.evaluation.shadows import compared
    from rca.incidents.store import DATABASE_FILE, IncidentStore
    from rca.ranking import rounded
    from rca.serve.answered import shadow_pairs

    versions = _versions(store)
    wanted = versions.get(version).id if version is not None else None
    pairs = shadow_pairs(versions.home, wanted)
    if not pairs:
        expected = "answers of a version in shadow (`rca models shadow VERSION`, and `rca serve` keeps some)"
        raise BadInput(str(versions.home), expected=expected, found="none")
    incidents = {}
    if (versions.home / DATABASE_FILE).exists():
        with IncidentStore(versions.home) as kept:
            incidents = {incident.id: incident for incident in kept.list()}
    of = dict.fromkeys(pair.version for pair in pairs)
    found = [compared(each, [pair for pair in pairs if pair.version == each], incidents) for each in of]
    if json:
        print_json(rounded({"schema_version": "1", "comparisons": [defined(asdict(each)) for each in found]}))
        return
    for each in found:
        for line in _compared_lines(each):
            typer.echo(printable(line))


@app.command()
def export(
    version: _Version,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="File to write, which ends in .tar.zst.")],
    store: _Store = None,
) -> None:
    """Write a version as one file. With its card, what is known of it, and its evaluations."""
    from rca.evaluation.life import card_of

    versions = _versions(store)
    found = versions.get(version)
    written = versions.export(found, path, card_of(found, versions.evaluations(found.id)))
    typer.echo(f"{found.id} written to {written}")


@app.command()
def history(store: _Store = None, json: _Json = False) -> None:
    """List every change of what ranks. Who, when, from, to, why, and on which evaluation."""
    from dataclasses import asdict

    changes = _versions(store).history()
    if json:
        print_json({"schema_version": "1", "changes": [asdict(change) for change in changes]})
        return
    if not changes:
        typer.echo("nothing was ever promoted", err=True)
        return
    rows = [(str(each.number), _moment(each.at_ns), each.who, _changed(each)) for each in changes]
    print_rows(("", "when (UTC)", "who", "what"), rows)


@app.command()
def due(
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Default: $RCA_CONFIG, ./rca.toml or ~/.config/rca/rca.toml.")
    ] = None,
    store: _Store = None,
    json: _Json = False,
) -> None:
    """Say whether it is time to train again. By the rules of [training]; exits with 3 if it is not."""
    import time
    from dataclasses import asdict

    from rca.evaluation import due as rules

    versions = _versions(store)
    with progress("incidents") as step:
        found = rules.due(versions.home, training_rules(config), time.time_ns(), step=step)
    if json:
        print_json({"schema_version": "1", "due": found.met, **asdict(found)})
    else:
        typer.echo(found.words())
    if not found.met:
        raise typer.Exit(NOT_DUE_EXIT_CODE)


def training_rules(config: Path | None) -> TrainingRules:
    """`[training]` of the configuration file; the defaults where there is no file. Raises BadInput."""
    from rca.collectors.config import TrainingRules, config_path, load_config
    from rca.errors import BadInput

    try:
        path = config_path(config)
    except BadInput:
        return TrainingRules()
    return load_config(path).training


# --- parts --------------------------------------------------------------------------------------------------------------


def _versions(store: Path | None, who: str = "") -> Versions:
    from rca.models.versions import Versions

    return Versions(store, who=who)


def _expect_some(recorded: list[Recorded], where: Path, *, unseen: bool) -> None:
    from rca.errors import BadInput

    if not recorded:
        left = " that no model learnt from" if unseen else ""
        raise BadInput(str(where), expected=f"labelled incidents{left} (`rca incidents label` gives labels)", found="none")


def _ranked_before(versions: Versions) -> set[str | None]:
    """Versions that ranked at some time. One that was in shadow alone passed no gate."""
    return {change.after for change in versions.history() if change.action != "shadow"}


def _role(version: Version, state: State) -> str:
    return "ranks" if version.id == state.current else "shadow" if version.id == state.shadow else ""


def _measured(versions: Versions, found: Sequence[Version]) -> dict[str, list[Evaluation] | BadCheckpoint]:
    """The evaluations of every version, oldest first, or why they cannot be read."""
    from rca.evaluation.promotion import Evaluation

    measured: dict[str, list[Evaluation] | BadCheckpoint] = {}
    for version in found:
        try:
            measured[version.id] = [Evaluation.from_json(body) for body in versions.evaluations(version.id)]
        except BadCheckpoint as error:
            measured[version.id] = error
    return measured


def _gone(versions: Versions, state: State) -> list[tuple[str, str]]:
    """Versions that ought to rank, and whose folders somebody removed."""
    wanted = [(state.current, "was promoted"), (state.shadow, "is in shadow")]
    return [(each, what) for each, what in wanted if each is not None and each not in versions.ids()]


def _newest(found: list[Evaluation] | BadCheckpoint) -> str:
    """How often the cause was first in the newest evaluation, and of how many."""
    from rca.evaluation.life import overall

    if isinstance(found, BadCheckpoint):
        return "damaged"
    return overall(found[-1]) if found else "-"


def _moment(at_ns: int) -> str:
    return clock(at_ns, date=True)


def _named(version: str | None) -> str:
    return version or "the model that ships"


def _changed(change: Change) -> str:
    """A change in words."""
    if change.action == "shadow":
        what = f"put {change.after} into shadow" if change.after else f"took {change.before} out of shadow"
    elif change.action == "rollback":
        what = f"rolled back to {_named(change.after)} from {_named(change.before)}"
    else:
        what = f"promoted {change.after} in the place of {_named(change.before)}"
    on = f", on evaluation {change.evaluation}" if change.evaluation else ""
    return f"{what}{on}{', forced' if change.forced else ''}{f': {change.why}' if change.why else ''}"


def _shipped_name() -> str:
    from rca.models.shipped import shipped_ranker

    return f"the model that ships ({shipped_ranker().name})"


def _warn_of_variable() -> None:
    import os

    from rca.models.shipped import VARIABLE

    if os.environ.get(VARIABLE):
        typer.echo(f"${VARIABLE} is set here: what runs with it ranks with that model all the same", err=True)


def _print_judgement(found: Judgement, *, whole: bool = False) -> None:
    """What the gate says, and with `whole` the figures of every cohort before it."""
    from rca.evaluation.life import HEAD, figures, notes_of, said_of, verdict_rows

    print_rows(None, [(said_of(found),)])
    if whole:
        print_rows(HEAD, figures(found.evaluation))
    print_rows(None, verdict_rows(found.verdict) + [("", words) for words in notes_of(found.evaluation)])
    may = "may" if found.verdict.passed else "may not"
    typer.echo(printable(f"by this evaluation {found.evaluation.version} {may} be promoted"))


def _verdict_json(found: Judgement) -> dict[str, Any]:
    from dataclasses import asdict

    from rca.evaluation.life import notes_of

    return {"passed": found.verdict.passed, **asdict(found.verdict), "notes": notes_of(found.evaluation)}


def _json(versions: Versions, version: Version, *, whole: bool = False) -> dict[str, Any]:
    from dataclasses import asdict

    from rca.evaluation.life import Judgement
    from rca.evaluation.promotion import Evaluation, judged

    body: dict[str, Any] = {**asdict(version.facts), "model": version.model.id}
    evaluations = []
    for each in versions.evaluations(version.id):
        made = Evaluation.from_json(each)
        evaluations.append({"digest": each["digest"], "of": made.of, "beside": made.beside, "made_ns": made.made_ns})
        evaluations[-1] |= _verdict_json(Judgement(made, each["digest"], judged(made)))
        evaluations[-1]["cohorts"] = _cohorts_json(made) if whole else None
    if whole:
        body["card"] = asdict(version.model.card)
    return {**body, "evaluations": [{k: v for k, v in each.items() if v is not None} for each in evaluations]}


def _cohorts_json(made: Any) -> dict[str, Any]:
    from dataclasses import asdict

    from rca.evaluation.model_report import defined
    from rca.ranking import rounded

    found: dict[str, Any] = {}
    for what, parts in {"all": {"all": made.rows()}, **made.cohorts()}.items():
        found[what] = {
            name: {"incidents": len(rows)}
            | {
                whose: {
                    "ac1": rounded(defined(asdict(made.accuracy(answers, rows)))),
                    "mrr": rounded(defined(asdict(made.reciprocal_rank(answers, rows)))),
                }
                for whose, answers in (("version", made.model), ("current", made.current), ("rule", made.best_rule()))
            }
            for name, rows in parts.items()
        }
    return found


def _compared_lines(found: Comparison) -> list[str]:
    from rca.wording import count, listed, percent

    lines = [
        f"{found.version} in shadow of {' and '.join(found.told)}: {count(found.asked, 'question')}, {found.answered} answered"
    ]
    if found.answered:
        low, high = found.agreement.low, found.agreement.high
        between = f" (95 %: {percent(low)} to {percent(high)})" if low is not None and high is not None else ""
        lines.append(f"  both blamed the same in {found.agreed} of {found.answered}, {percent(found.agreement.value)}{between}")
    if found.difference is not None:
        lines += [
            f"  {count(found.labelled, 'label')} with a cause: "
            f"first in {found.shadow_first} in shadow, in {found.told_first} as told",
            f"  reciprocal rank, shadow minus told: {found.difference.words()}",
        ]
    elif found.answered:
        lines.append("  no label says who was right (`rca incidents label`)")
    lines += [f"  right in shadow alone: {listed(found.only_shadow, 5)}"] if found.only_shadow else []
    lines += [f"  right as told alone: {listed(found.only_told, 5)}"] if found.only_told else []
    lines += [f"  trouble: {each}" for each in found.troubles]
    return lines
