"""`rca sinks`: who is told by `rca serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Try who is told by `rca serve`: [sinks.NAME] in rca.toml.", no_args_is_help=True, rich_markup_mode=None)

_NAMES = typer.Argument(metavar="NAME", help="Sinks to try: NAME of [sinks.NAME]. Default: all.", show_default=False)
_CONFIG = typer.Option("--config", metavar="FILE", help="Settings. Default: $RCA_CONFIG, ./rca.toml or ~/.config/rca/rca.toml.")
_STORE = typer.Option("--store", metavar="FOLDER", help="The store of incidents. Default: $RCA_HOME.")
_FIRING = typer.Option("--firing", help="Leave the example open, to see a message that is not resolved. Close it yourself.")
_JSON = typer.Option("--json", help="Print what became of it as JSON.")


@app.callback()
def _group() -> None:
    """A group, however many commands it has."""


@app.command("test")
def send_example(
    names: Annotated[list[str] | None, _NAMES] = None,
    config: Annotated[Path | None, _CONFIG] = None,
    store: Annotated[Path | None, _STORE] = None,
    firing: Annotated[bool, _FIRING] = False,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Send an example to every sink, or to those that are named.

    The message says that it is a test. It is sent as `rca serve` sends an answer, then resolved, so that no page stays open.
    `rca serve` need not run. Exits with 1 if a sink does not take it.
    """
    import time

    from rca.cli.doctor import tell
    from rca.cli.terminal import progress
    from rca.collectors.config import config_path, load_config
    from rca.errors import BadInput, UnknownName
    from rca.incidents.home import default_home
    from rca.serve.checking import send_to_all
    from rca.sinks.destinations import sinks_at
    from rca.sinks.example import trial_notices

    path = config_path(config)
    settings = load_config(path)
    if not settings.sinks:
        raise BadInput(str(path), expected="a table [sinks.NAME] (docs/notifications.md)", found="none")
    for name in names or ():
        if name not in settings.sinks:
            raise UnknownName(f"{path} [sinks.NAME]", name, settings.sinks)
    wanted = {name: table for name, table in settings.sinks.items() if not names or name in names}
    notices = trial_notices(time.time_ns(), f"{settings.serve.url()}/incidents")
    with progress("Sending", None):
        findings = send_to_all(sinks_at(store or default_home(), wanted), notices[:1] if firing else notices)
    tell(findings, json=json)
