"""`rca evaluate`: how often rankers are right, on incidents whose cause is known."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rca.cli.terminal import print_json, progress

if TYPE_CHECKING:
    from rca.evaluation.predictions import Predictions
    from rca.evaluation.runner import Exam

_DEFAULT_OUT = Path("results")
_MOST_TABLES = 8
"""Of more systems one table says more than one each: simulated incidents are of a system of their own."""

_Bundles = Annotated[
    Path | None, typer.Option(metavar="PATH", help="Folder of incident bundles; default: the incident store.", show_default=False)
]
_Part = Annotated[
    str | None,
    typer.Option(metavar="PART", help="Of --bundles with a manifest, only this part: train or test.", show_default=False),
]
_System = Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only incidents of this system (repeatable).")]
_Test = Annotated[list[str] | None, typer.Option(metavar="NAME", help="Test on this system only; train on all (repeatable).")]
_RankerOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME[:KEY=VALUE,...]", help="A ranker and its parameters (repeatable); default: every ranker."),
]
_Split = Annotated[str, typer.Option(help="folds, leave-system-out, leave-fault-out, leave-service-out, forward or zero-shot.")]
_Transform = Annotated[str, typer.Option(help="What to spoil in the tested incidents, e.g. onset+60, no-traces, quiet.")]
_Seed = Annotated[int, typer.Option(min=0, help="Seed of folds, rankers and intervals.")]
_Out = Annotated[Path, typer.Option(metavar="FOLDER", help="Where predictions and summaries are kept.")]
_Against = Annotated[str | None, typer.Option(metavar="RANKER", help="Add paired differences of AC@1 against this ranker.")]
_Show = Annotated[str | None, typer.Option(metavar="INCIDENT", help="Print the kept predictions for one incident; run nothing.")]
_PerService = Annotated[bool, typer.Option("--per-service", help="Count instances (name-0, name-1) as their service.")]
_Force = Annotated[bool, typer.Option("--force", help="Run again what has finished earlier.")]
_NoCache = Annotated[bool, typer.Option("--no-cache", help="Build every case anew.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Markdown = Annotated[bool, typer.Option("--markdown", help="Print Markdown.")]


def evaluate(
    bundles: _Bundles = None,
    part: _Part = None,
    system: _System = None,
    test: _Test = None,
    ranker: _RankerOption = None,
    split: _Split = "folds",
    transform: _Transform = "none",
    seed: _Seed = 0,
    out: _Out = _DEFAULT_OUT,
    against: _Against = None,
    show: _Show = None,
    per_service: _PerService = False,
    force: _Force = False,
    no_cache: _NoCache = False,
    json: _Json = False,
    markdown: _Markdown = False,
) -> None:
    """Measure rankers on labelled incidents.

    With intervals, and baselines beside them. Every prediction is kept below --out; a ranker that has finished on the same data
    is not run again.
    """
    if show is not None:
        _show(show, out, json)
        return
    from rca.errors import UnknownName
    from rca.evaluation import runner, tables
    from rca.models import registry

    specs = [runner.RankerSpec.parse(text) for text in ranker or registry.names()]
    if against is not None and against not in [spec.label for spec in specs]:
        raise UnknownName("--against", against, [spec.label for spec in specs])
    exam = _exam(bundles, part, system or [], transform, use_cache=not no_cache)
    folds = len(runner.folds_of(exam, split, seed, test or ()))
    with progress("rankers", folds * len(specs)) as step:
        runs = runner.evaluate(exam, specs, split, seed=seed, systems=test or (), out=out, force=force, step=step)
    tables.write_summaries(out)
    found = tables.summaries(runs, per_service=per_service)
    if json:
        print_json({"schema_version": tables.SCHEMA_VERSION, "runs": found, "differences": _differences(runs, against)})
    elif markdown:
        typer.echo(tables.markdown(found))
    else:
        many = len({run.dataset for run in runs}) > _MOST_TABLES
        _print_tables(tables.summaries(tables.pooled(runs), per_service=per_service) if many else found)
        if many:
            typer.echo(f"Each system by itself: --json, --markdown, or the files in {out}.")
    if against and not json:
        _print_differences(_differences(runs, against), against)


def _exam(bundles: Path | None, part: str | None, systems: list[str], transform: str, *, use_cache: bool) -> Exam:
    from rca.evaluation import cases
    from rca.incidents.home import default_home

    recorded = cases.asked_for(bundles, part, systems)
    with progress("incidents", len(recorded)) as step:
        return cases.exam_of(recorded, transform, home=default_home() if use_cache else None, step=step)


def _show(incident_id: str, out: Path, as_json: bool) -> None:
    """Print what every kept run said about one incident."""
    from rca.errors import BadInput, UnknownName
    from rca.evaluation import tables

    runs = tables.read_all(out)
    if not runs:
        raise BadInput(str(out), expected="predictions that `rca evaluate` kept", found="none")
    found = [(run, p) for run in runs for p in run.predictions if p.truth.incident_id == incident_id]
    if not found:
        raise UnknownName("incident", incident_id, {p.truth.incident_id for run in runs for p in run.predictions})
    if as_json:
        print_json({"incident": incident_id, "answers": [tables.answer(run, prediction) for run, prediction in found]})
        return
    truth = found[0][1].truth
    typer.echo(f"{incident_id}: {truth.fault_kind} at {', '.join(map(str, truth.causes)) or 'nobody'}")
    rows = [tables.answer_row(run, prediction) for run, prediction in found]
    _print_table("", ["split", "ranker", "rank of cause", "first three candidates (score)"], rows)


def _print_tables(found: list[dict[str, object]]) -> None:
    from rca.evaluation import tables

    for title, rows in tables.grouped(found).items():
        _print_table(f"{title}\n{tables.note(rows)}", *tables.overview(rows))
        for line in tables.failed(rows):
            typer.echo(line)
        if tables.has_kinds(rows):
            _print_table("AC@1 by fault kind (incidents)", *tables.by_kind(rows))


def _print_differences(differences: dict[str, dict[str, dict[str, float | None]]], against: str) -> None:
    rows = [
        [ranker, dataset, *("-" if estimate[end] is None else f"{estimate[end]:+.2f}" for end in ("value", "low", "high"))]
        for ranker, by_dataset in differences.items()
        for dataset, estimate in by_dataset.items()
    ]
    _print_table(f"AC@1 minus that of {against}, same incidents", ["ranker", "data set", "difference", "low", "high"], rows)


def _differences(runs: list[Predictions], against: str | None) -> dict[str, dict[str, dict[str, float | None]]]:
    from dataclasses import asdict

    from rca.evaluation import tables

    if against is None:
        return {}
    by_ranker: dict[str, list[Predictions]] = {}
    for run in runs:
        by_ranker.setdefault(run.ranker, []).append(run)
    others = {ranker: mine for ranker, mine in by_ranker.items() if ranker != against}
    return {
        ranker: {dataset: asdict(estimate) for dataset, estimate in tables.paired(mine, by_ranker[against]).items()}
        for ranker, mine in others.items()
    }


def _print_table(title: str, head: list[str], body: list[list[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=title or None, title_justify="left", title_style="", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )
    table.add_column(head[0], no_wrap=True)
    for name in head[1:]:
        table.add_column(name, justify="right")
    for row in body:
        table.add_row(*row)
    Console().print(table)
