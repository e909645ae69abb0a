"""`rca serve`: alerts come in, answers go out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def serve(
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Settings. Default: $RCA_CONFIG, ./rca.toml or ~/.config/rca/rca.toml.")
    ] = None,
    *,
    store: Annotated[Path | None, typer.Option(metavar="FOLDER", help="The store of incidents. Default: $RCA_HOME.")] = None,
) -> None:
    """Take alerts from Alertmanager, rank their causes, tell people.

    Point a webhook receiver at `/v1/alertmanager`. [serve] in rca.toml says where it listens and whom it lets in, [sinks.NAME]
    who is told. An alert is on the disk before it is acknowledged; after a crash, what was not done is done. Runs until it is
    told to end (Ctrl-C, SIGTERM).
    """
    import logging
    import signal

    from rca.collectors.config import config_path, load_config
    from rca.incidents.home import default_home
    from rca.serve.server import Server
    from rca.sinks.destinations import sinks_at

    words = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=logging.WARNING, format=words, force=True)  # in place of the handler that keeps commands quiet
    settings = load_config(config_path(config))
    home = store or default_home()
    sinks = sinks_at(home, settings.sinks)
    server = Server(settings, home, sinks)

    def end(number: int, _frame: Any) -> None:
        signal.signal(number, signal.SIG_DFL)  # who asks twice does not want to wait
        server.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    told = ", ".join(sink.name for sink in sinks) or "nobody yet: no [sinks.NAME] in the configuration"
    server.run(lambda: typer.echo(f"listening on {server.settings.address}, storing in {home}, telling {told}"))
    typer.echo("ended")
