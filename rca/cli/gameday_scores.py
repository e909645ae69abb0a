"""`rca gameday score` and `rca gameday report`: how often and how soon the tool was right, in a terminal and as a document."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rca.cli.terminal import print_json, print_rows, progress
from rca.wording import printable

if TYPE_CHECKING:
    from rca.collectors.config import Config
    from rca.gameday.scores import Scores

_FORMATS = {"md": ("md",), "html": ("html",), "both": ("md", "html")}

_Name = Annotated[str, typer.Argument(metavar="NAME", help="The game day, as `rca gameday list` has it.")]
_Store = Annotated[Path | None, typer.Option(metavar="FOLDER", help="The store of incidents. Default: $RCA_HOME.")]
_Models = Annotated[
    list[Path] | None, typer.Option("--model", metavar="FOLDER", help="Another trained model beside the one in use (repeatable).")
]
_Rankers = Annotated[
    list[str] | None,
    typer.Option("--ranker", metavar="NAME", help="A rule to compare with (repeatable). Default: floor and four others."),
]
_ConfigFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Whose [triage] says how live triage asks. Default: as `rca triage`, if there is a file."),
]
_Seed = Annotated[int, typer.Option(min=0, help="Seed of the intervals.")]
_Json = Annotated[bool, typer.Option("--json", help="Print what scores.json holds.")]
_Out = Annotated[Path, typer.Option(metavar="FOLDER", help="Where the report is written.")]
_Format = Annotated[str, typer.Option(metavar="FORMAT", help="md, html or both.")]
_Template = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE", help="A template of your own, whose name ends in .md or .html (once for each; docs/gameday.md)."
    ),
]


def score(
    name: _Name,
    model: _Models = None,
    ranker: _Rankers = None,
    config: _ConfigFile = None,
    seed: _Seed = 0,
    store: _Store = None,
    json: _Json = False,
) -> None:
    """Score a game day. How often and how soon the model in use, other models, rules and people were right.

    Every injection is asked about again, minute by minute, with nothing but the telemetry that was there by then. The scores are
    kept as scores.json in the folder of the game day. Answers are kept too, so that Ctrl-C loses none, and another ranker costs
    only its own.
    """
    from rca.gameday.contest import BASELINES, Contest, contenders, digest_of_day
    from rca.gameday.folder import load
    from rca.gameday.scores import write_scores
    from rca.gameday.scoring import scores_of
    from rca.incidents.home import default_home

    home = store or default_home()
    game = load(home, name)
    rankers = contenders(model or (), BASELINES if ranker is None else ranker, home)
    settings = _settings(config)
    try:
        with progress("Scoring") as step:
            played, quiet = Contest(home, rankers, settings).play(game, step)
    except KeyboardInterrupt:
        typer.echo("answers so far are kept: the same command goes on from there", err=True)
        raise
    scores = scores_of(game, digest_of_day(game, home), rankers, played, quiet, settings, seed=seed)
    path = write_scores(game.folder, scores)
    if json:
        print_json(scores.model_dump(mode="json"))
        return
    _print(scores)
    typer.echo(f"\nkept in {path}")


def report(
    name: _Name,
    out: _Out,
    format: _Format = "both",  # noqa: A002  the option is called so
    template: _Template = None,
    store: _Store = None,
) -> None:
    """Write the report of a game day that was scored.

    It is Markdown, and one HTML file that prints well. Questions that only people can answer are left open in it. The files are
    called gameday-NAME.md and gameday-NAME.html.
    """
    from rca.documents.html import to_html
    from rca.documents.markdown import to_markdown
    from rca.errors import BadInput, UnknownName
    from rca.gameday.contest import digest_of_day
    from rca.gameday.folder import load
    from rca.gameday.report import report_of
    from rca.gameday.scores import read_scores
    from rca.incidents.bundle import storage
    from rca.incidents.home import default_home
    from rca.models.files import write_atomically

    if format not in _FORMATS:
        raise UnknownName("--format", format, _FORMATS)
    templates = _templates(template or (), _FORMATS[format])
    home = store or default_home()
    game = load(home, name)
    scores = read_scores(game.folder)
    if scores.of != digest_of_day(game, home):
        expected = f"scores of the game day as it is now (rca gameday score {name})"
        raise BadInput(
            str(game.folder / "scores.json"), expected=expected, found="older ones: something was added or labelled since"
        )
    document = report_of(game, scores)
    texts = {
        kind: to_markdown(document, templates.get(kind)) if kind == "md" else to_html(document, templates.get(kind))
        for kind in _FORMATS[format]
    }
    with storage(out):
        out.mkdir(parents=True, exist_ok=True)
    for kind, text in texts.items():
        path = out / f"gameday-{name}.{kind}"
        write_atomically(path, text.encode())
        typer.echo(str(path))


def _templates(given: list[Path] | tuple[()], kinds: tuple[str, ...]) -> dict[str, Path]:
    """Templates by the format that they are of."""
    from rca.errors import BadInput

    found: dict[str, Path] = {}
    for path in given:
        kind = path.suffix.removeprefix(".")
        if kind not in kinds:
            expected = f"a template whose name ends in {' or '.join(f'.{one}' for one in kinds)}"
            raise BadInput("--template", expected=expected, found=str(path))
        if kind in found:
            raise BadInput("--template", expected=f"one template for .{kind}", found=f"{found[kind]} and {path}")
        found[kind] = path
    return found


def _settings(given: Path | None) -> Config:
    """The configuration that is named, or found where `rca triage` looks for it; the defaults where there is none."""
    from rca.collectors.config import Config, config_path, load_config
    from rca.errors import BadInput

    try:
        path = config_path(given)
    except BadInput:
        return Config()
    return load_config(path)


def _print(scores: Scores) -> None:
    from rca.gameday import report as words

    typer.echo(printable(words.in_short(scores)))
    for title, (head, rows) in {
        "Injections": words.injections_table(scores),
        "Where the cause stood in the end, with 95 % intervals": words.accuracy_table(scores),
        "How soon, how sure, and how often for nothing": words.more_table(scores),
        "People beside the tool": words.people_table(scores),
    }.items():
        if rows:
            typer.echo(f"\n{title}\n")
            print_rows(head, rows)
