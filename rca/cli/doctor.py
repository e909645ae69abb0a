"""`rca doctor`: test every configured source and sink, look for drift, and say what to change."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rca.collectors.findings import Finding

_CONFIG = typer.Option("--config", metavar="FILE", help="Settings. Default: $RCA_CONFIG, ./rca.toml or ~/.config/rca/rca.toml.")
_STORE = typer.Option(metavar="FOLDER", help="The store of incidents, for drift. Default: $RCA_HOME.", show_default=False)
_JSON = typer.Option("--json", help="Print the findings as JSON.")


def doctor(
    config: Annotated[Path | None, _CONFIG] = None,
    store: Annotated[Path | None, _STORE] = None,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Test every source and sink, and say what to change.

    Reads the last five minutes of every source and compares them: names that do not agree, traces that are sampled, telemetry
    that is missing or old. Of sinks it looks whether they answer and their secrets can be read; `rca sinks test` sends something.
    Of the model it says whether the incidents of the last 30 days look like what it learnt from. Changes nothing. Exits with 1 if
    a source or a sink does not work.
    """
    import time

    from rca.cli.terminal import progress
    from rca.collectors.config import config_path, load_config
    from rca.collectors.doctor import diagnose
    from rca.collectors.sources import sources_of
    from rca.evaluation.lately import findings_of, known_in_use
    from rca.incidents.home import default_home
    from rca.serve.checking import look_at_all
    from rca.sinks.destinations import sinks_of

    settings = load_config(config_path(config))
    sources = sources_of(settings)
    with progress("Looking", None):
        findings = diagnose(settings, sources, time.time_ns())
        findings += look_at_all(sinks_of(settings.sinks))
        home = store or default_home()
        findings += findings_of(home, known_in_use(home), time.time_ns())
    tell(findings, json=json)


def tell(findings: Sequence[Finding], *, json: bool) -> None:
    """Print findings; one that is a failure ends the command with 1."""
    from rca.cli.terminal import print_json

    failed = [finding for finding in findings if finding.level == "failure"]
    if json:
        print_json({"findings": [_json(finding) for finding in findings], "ok": not failed})
    else:
        print_findings(findings)
    if failed:
        raise typer.Exit(1)


def print_findings(findings: Sequence[Finding]) -> None:
    """A table for people: what was found, and in the line below what to change."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from rca.wording import printable

    marks = {"ok": ("ok", "green"), "note": ("note", "cyan"), "warning": ("warn", "yellow"), "failure": ("FAIL", "bold red")}
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column("level", no_wrap=True)
    table.add_column("source", no_wrap=True)
    table.add_column("finding", overflow="fold")
    last = ""
    for finding in findings:
        word, style = marks[finding.level]
        text = Text(printable(finding.text))
        if finding.advice:
            text.append(f"\n→ {printable(finding.advice)}", style="dim")
        table.add_row(Text(word, style=style), Text("" if finding.source == last else printable(finding.source)), text)
        last = finding.source
    console = Console()
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as capture:
        console.print(table)
    typer.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))


def _json(finding: Finding) -> dict[str, str]:
    return {"source": finding.source, "level": finding.level, "text": finding.text, "advice": finding.advice}
