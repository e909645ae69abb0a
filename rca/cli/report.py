"""`rca report`: what the store says about the models that rank its incidents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from rca.cli.terminal import duration_of, moment_ns, print_json, progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table as RichTable

    from rca.documents.model import Table
    from rca.evaluation.cases import Recorded
    from rca.evaluation.history import Model, Period, Seen
    from rca.evaluation.model_report import ModelReport
    from rca.models.drift import Drift
    from rca.models.reference import Reference

app = typer.Typer(help="Reports on what the store holds.", no_args_is_help=True, rich_markup_mode=None)

_SINCE = "30d"
_WIDTH = 110
_FORMATS = (".md", ".html")

_Models = Annotated[
    list[Path] | None,
    typer.Option(
        "--model",
        metavar="FOLDER",
        help="A trained model (repeatable: the first is in use). Default: $RCA_MODEL, else the promoted or shipped one.",
        show_default=False,
    ),
]
_Since = Annotated[
    str | None,
    typer.Option(
        metavar="TIME", help="What counts as now: since a date, a time, or a duration ago. Default: 30d; all of --bundles.",
        show_default=False,
    ),
]  # fmt: skip
_Bundles = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Look at these incident bundles in the place of the store.", show_default=False),
]
_Part = Annotated[
    str | None,
    typer.Option(metavar="PART", help="Of --bundles with a manifest, only this part: train or test.", show_default=False),
]
_System = Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only incidents of this system (repeatable).")]
_Store = Annotated[Path | None, typer.Option(metavar="DIR", help="Store to read; default: $RCA_HOME.", show_default=False)]
_Per = Annotated[str, typer.Option(metavar="PERIOD", help="Accuracy per week or per month.")]
_Out = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report as FILE.md or FILE.html.", show_default=False)]
_NoCache = Annotated[bool, typer.Option("--no-cache", help="Build every case anew.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def _root() -> None:
    pass


@app.command()
def models(
    model: _Models = None,
    since: _Since = None,
    bundles: _Bundles = None,
    part: _Part = None,
    system: _System = None,
    store: _Store = None,
    per: _Per = "week",
    out: _Out = None,
    no_cache: _NoCache = False,
    json: _Json = False,
) -> None:
    """Say how often models were right, and whether data drifted.

    Right is judged on labelled incidents: what `rca serve` answered at the time, else what the model answers now. Drift compares
    the incidents of the last 30 days, labelled or not, with the training data of the model (docs/drift.md).
    """
    import time

    from rca.errors import BadInput, UnknownName
    from rca.evaluation import history
    from rca.evaluation.model_report import ModelReport
    from rca.incidents.home import default_home

    if per not in history.PERIODS:
        raise UnknownName("--per", per, history.PERIODS)
    if out is not None and out.suffix not in _FORMATS:
        raise BadInput("--out", expected="a file that ends in .md or .html", found=str(out))
    if out is not None and not out.parent.is_dir():
        raise BadInput("--out", expected="a file in a folder that exists", found=str(out))
    made_ns, home = time.time_ns(), store or default_home()
    since_ns, now = _since(since, made_ns, everything=bundles is not None)
    asked, reference, trouble, why_not = _models(model or [], home)
    recorded = _recorded(bundles, part, system or [], home)
    seen = _seen(recorded, asked, home, since_ns, kept=bundles is None, cached=not no_cache)
    in_use = asked[0].ranker.name
    drift, why_not = _drift(reference, seen, recorded, why_not)
    report = ModelReport(
        made_ns=made_ns,
        model=in_use,
        trouble=trouble,
        of=str(bundles) if bundles else "the store",
        now=now,
        incidents=len(recorded),
        accuracy=history.accuracy_of(seen.labelled, in_use, cast("Period", per)),
        drift=drift,
        why_not=why_not,
        trained_on=_trained_on(reference),
        left_out=seen.left_out,
    )
    if out is not None:
        _write(report, out)
    if json:
        print_json(report.to_json())
    else:
        _print(report)
        if out is not None:
            typer.echo(f"written to {out}")


def _since(text: str | None, now_ns: int, *, everything: bool) -> tuple[int, str]:
    """From when on incidents count as now, and that in words. Raises BadInput."""
    from rca.errors import BadInput
    from rca.wording import clock

    if text is None and everything:
        return 0, "all of them"
    since_ns = _moment_ns(text or _SINCE, now_ns)
    if since_ns >= now_ns:
        raise BadInput("--since", expected="a time that has passed", found=repr(text))
    return since_ns, f"since {clock(since_ns, date=True)} UTC"


def _moment_ns(text: str, now_ns: int) -> int:
    from datetime import date

    from rca.errors import BadInput

    expected = "a date such as 2026-01-15, a time with its offset, or a duration such as 30d"
    try:
        if not text[:4].isdigit() or "-" not in text:
            return max(now_ns - duration_of("--since", text), 0)
        return moment_ns("--since", f"{date.fromisoformat(text)}T00:00:00Z" if len(text) == len("2026-01-15") else text)
    except (BadInput, ValueError) as error:
        found = error.found if isinstance(error, BadInput) else repr(text)
        raise BadInput("--since", expected=expected, found=found) from error


def _models(folders: Sequence[Path], home: Path) -> tuple[list[Model], Reference | None, str, str]:
    """What is asked, the model in use first and the label-free score last; the reference of the first; why it is not the one that
    was asked for; and why there is no reference. Raises BadCheckpoint, BadInput."""
    from rca.evaluation.history import Model
    from rca.models import registry
    from rca.models.files import read_model
    from rca.models.learnt import read_learnt
    from rca.models.reference import read_reference
    from rca.models.shipped import checked, default_folder, default_ranker

    found = list(folders)
    asked: list[Model] = []
    references: list[Reference | None] = []
    trouble = ""
    if not folders:
        ranker = default_ranker(home)
        trouble = str(getattr(ranker, "reason", ""))
        found = [folder] if not trouble and (folder := default_folder(home)) is not None else []
        asked = [] if found else [Model(ranker)]
    for folder in found:
        stored, ranker = read_model(folder), checked(folder)
        learnt = read_learnt(stored)
        references.append(read_reference(stored))
        asked.append(Model(ranker, learnt.knows) if learnt else Model(ranker))
    if "floor" not in [model.ranker.name for model in asked]:
        asked.append(Model(registry.create("floor")))
    names = [model.ranker.name for model in asked]
    distinct = [model for place, model in enumerate(asked) if names.index(model.ranker.name) == place]
    in_use = references[0] if references else None
    why_not = "" if in_use else f"{names[0]} has no reference of what it was trained on (`rca train` writes one)"
    return distinct, in_use, trouble, why_not


def _recorded(bundles: Path | None, part: str | None, systems: list[str], home: Path) -> list[Recorded]:
    """The incidents to look at. Raises BadInput where there is none, UnknownName."""
    from rca.errors import BadInput
    from rca.evaluation import cases
    from rca.incidents.store import DATABASE_FILE

    if bundles is not None or part is not None:
        return cases.asked_for(bundles, part, systems, cases.Labels.ANY)
    there = (home / DATABASE_FILE).exists()  # looking something up should not make a store
    found = cases.from_store(systems, home, cases.Labels.ANY) if there else []
    if not found:
        expected = "incidents (`rca serve` keeps them, `rca incidents import` brings some, --bundles names others)"
        raise BadInput(str(home), expected=expected, found="none")
    return found


def _seen(recorded: Sequence[Recorded], asked: Sequence[Model], home: Path, since_ns: int, *, kept: bool, cached: bool) -> Seen:
    from rca.evaluation import history
    from rca.serve.answered import kept_answers

    answers = kept_answers(home) if kept else {}
    with progress("incidents", len(recorded)) as step:
        return history.see(recorded, asked, answers, since_ns=since_ns, home=home if cached else None, step=step)


def _drift(reference: Reference | None, seen: Seen, recorded: Sequence[Recorded], why_not: str) -> tuple[Drift | None, str]:
    """The comparison with training data, or why there is none."""
    from rca.models.drift import drift_of
    from rca.wording import clock

    if reference is None:
        return None, why_not
    if not seen.graphs:
        newest = max(one.incident.window.end_ns for one in recorded)
        return None, f"no incident counts as now, the last one ended {clock(newest, date=True)} UTC (--since takes older ones)"
    return drift_of(reference, seen.graphs, seen.systems), ""


def _trained_on(reference: Reference | None) -> str:
    from rca.wording import count

    return f"{count(reference.graphs, 'graph')} of {reference.made_of.get('what', 'incidents')}" if reference else ""


def _write(report: ModelReport, out: Path) -> None:
    from rca.documents.html import to_html
    from rca.documents.markdown import to_markdown
    from rca.models.files import write_atomically

    document = report.document()
    write_atomically(out, (to_html(document) if out.suffix == ".html" else to_markdown(document)).encode())


def _print(report: ModelReport) -> None:
    from rich.console import Console
    from rich.text import Text as Words

    from rca.documents.model import Table, Text
    from rca.wording import printable

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, emoji=False, width=_WIDTH, no_color=True)
    for sentence in report.sentences():
        console.print(Words(printable(sentence), style="bold"))
    for section in report.sections():
        console.print(Words(f"\n{section.heading}", style="bold"))
        for block in section.blocks:
            if isinstance(block, Text):
                console.print(Words(printable(block.words)))
            elif isinstance(block, Table):
                console.print(_terminal_table(block))


def _terminal_table(block: Table) -> RichTable:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable

    from rca.wording import printable

    table = RichTable(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for place, (name, side) in enumerate(zip(block.header, block.align, strict=True)):
        table.add_column(name, justify=side, overflow="fold", no_wrap=place == 0)
    for row in block.rows:
        table.add_row(*map(printable, row))
    return table
