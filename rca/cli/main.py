"""The `rca` command: assembles the command groups and turns errors into one line and an exit code.

Command modules import typer alone at the top; what a command needs is imported inside it, so that `rca --help` stays quick.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from io import TextIOWrapper
from typing import Annotated, Final

import typer

from rca import __version__
from rca.cli import (
    backfill,
    collect,
    doctor,
    evaluate,
    gameday,
    imports,
    incidents,
    init,
    models,
    postmortem,
    report,
    serve,
    shop,
    simulate,
    sinks,
    train,
    triage,
)
from rca.errors import RcaError
from rca.wording import printable

_ALLOCATIONS: Final = 100_000
"""Objects made since the last search for unreachable cycles that start the next one."""

_INTERRUPTED: Final = 130

app = typer.Typer(
    name="rca",
    help="Ranks the services that most likely caused an incident, and says why.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: boxes cost a tenth of a second and say no more
)


app.command()(triage.triage)
app.command()(init.init)
app.command()(doctor.doctor)
app.command()(collect.collect)
app.command()(collect.store)
app.command()(backfill.backfill)
app.command()(serve.serve)
app.add_typer(sinks.app, name="sinks")
app.add_typer(incidents.app, name="incidents")
app.command()(postmortem.postmortem)
app.command("import")(imports.import_)
app.command()(evaluate.evaluate)
app.command()(train.train)
app.add_typer(models.app, name="models")
app.add_typer(report.app, name="report")
app.add_typer(shop.app, name="shop")
app.add_typer(gameday.app, name="gameday")
app.command()(simulate.simulate)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rca {__version__}")
        raise typer.Exit


_VERSION = typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)


@app.callback()
def _root(version: Annotated[bool, _VERSION] = False) -> None:
    pass


def main() -> None:
    """Run the command line. Errors of ours and of the file system end in one line on stderr; Ctrl-C exits with 130."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # names from elsewhere, in a terminal that knows ASCII alone
            stream.reconfigure(errors="backslashreplace")
    gc.set_threshold(_ALLOCATIONS)  # imports make hundreds of thousands of objects that stay; searching them finds nothing
    logging.getLogger().addHandler(logging.NullHandler())  # what libraries log, our own errors and gaps say in words
    try:
        app()
    except RcaError as error:
        typer.echo(f"error: {printable(str(error))}", err=True)
        sys.exit(error.exit_code)
    except SystemExit as ending:
        if ending.code == _INTERRUPTED:  # typer has made this of KeyboardInterrupt, and said nothing
            typer.echo("interrupted", err=True)
        raise
    except BrokenPipeError:  # `rca ... | head` closes our output; flush at exit must not complain again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        text = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        typer.echo(f"error: {printable(text)}", err=True)
        sys.exit(1)
    except UnicodeEncodeError as error:
        typer.echo(f"error: expected text in UTF-8, found {error.object!a}", err=True)
        sys.exit(2)
    finally:
        gc.freeze()  # the process ends: nothing is worth searching for any more
