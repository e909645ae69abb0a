"""`rca init`: write rca.toml, and see at once whether what it names answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def init(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")] = Path("rca.toml"),
    *,
    prometheus: Annotated[str | None, typer.Option(metavar="URL", help="Prometheus, Mimir or Thanos.")] = None,
    alertmanager: Annotated[str | None, typer.Option(metavar="URL", help="Alertmanager.")] = None,
    tempo: Annotated[str | None, typer.Option(metavar="URL", help="Tempo.")] = None,
    jaeger: Annotated[str | None, typer.Option(metavar="URL", help="Jaeger's query service.")] = None,
    kubernetes: Annotated[
        bool, typer.Option("--kubernetes", help="The cluster of your kubeconfig, or the one it runs in.")
    ] = False,
    otlp: Annotated[bool, typer.Option("--otlp", help="Receive OTLP with `rca collect`, and read what it kept.")] = False,
    system: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the system.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write rca.toml, explained, and test what it names.

    Sources that are not given are there as comments. Exits with 1 if a source does not work; the file is written all the same.
    """
    from rca.cli.doctor import print_findings
    from rca.collectors.config import parsed
    from rca.collectors.doctor import look_at
    from rca.collectors.sources import sources_of
    from rca.collectors.template import rendered_config
    from rca.errors import BadInput

    if path.exists() and not force:
        raise BadInput(
            str(path),
            expected="a path that does not exist yet, or --force",
            found=f"a file; `rca doctor --config {path}` tests it",
        )
    urls = {"prometheus": prometheus, "alertmanager": alertmanager, "tempo": tempo, "jaeger": jaeger}
    given: dict[str, dict[str, Any]] = {name: {"url": url} for name, url in urls.items() if url is not None}
    given |= {"kubernetes": {}} if kubernetes else {}
    given |= {"otlp": {}, "store": {}} if otlp else {}
    text = rendered_config({**given, "triage": {"system": system} if system else {}})
    config = parsed(text, "options")
    path.write_text(text, encoding="utf-8")
    typer.echo(f"wrote {path}")
    if not given:
        typer.echo("It names no source yet: uncomment some, then run `rca doctor`.")
        return
    findings = [finding for source in sources_of(config) for finding in look_at(source)]
    print_findings(findings)
    if any(finding.level == "failure" for finding in findings):
        raise typer.Exit(1)
