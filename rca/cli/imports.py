"""`rca import`: incidents out of other projects' files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rca.cli.terminal import moment_ns, progress

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from rca.collectors.files.importing import Save

_FORMATS = "nezha, petshop, tvdiag, rcaeval, otlp-json or jaeger (docs/importing.md)"
_MOST_MINUTES = 366 * 24 * 60


def import_(
    file_format: Annotated[str, typer.Argument(metavar="FORMAT", help=f"Format of the files: {_FORMATS}.")],
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder of the data set, or file.")],
    *,
    store: Annotated[Path | None, typer.Option(metavar="DIR", help="Store to add to; default: $RCA_HOME.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write bundles into this folder instead.")] = None,
    window_minutes: Annotated[
        float | None, typer.Option(min=0.01, max=_MOST_MINUTES, help="Length of the incident window.")
    ] = None,
    baseline: Annotated[
        str, typer.Option(metavar="all|past", help="Quiet time to compare with; past: none that lies later.")
    ] = "all",
    start: Annotated[
        str | None, typer.Option(metavar="TIME", help="Start of the window, RFC 3339 (unlabelled recordings).")
    ] = None,
    end: Annotated[str | None, typer.Option(metavar="TIME", help="End of the window, RFC 3339 (unlabelled recordings).")] = None,
    incident_at: Annotated[str | None, typer.Option(metavar="TIME", help="Start of a window of --window-minutes.")] = None,
    baseline_minutes: Annotated[
        float | None, typer.Option(min=0, max=_MOST_MINUTES, help="Time before the window that is kept (120).")
    ] = None,
    system: Annotated[str | None, typer.Option(help="Name of the recorded system; default: the file's name.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace another incident of the same id.")] = False,
    by: Annotated[str, typer.Option("--by", metavar="NAME", help="Who makes the change; default: the login name.")] = "",
) -> None:
    """Import recorded incidents from files. Importing again changes nothing; Ctrl-C keeps what is finished."""
    from collections import Counter

    from rca.collectors.files import FORMATS
    from rca.collectors.files.importing import import_files
    from rca.collectors.files.reading import ReadOptions
    from rca.errors import BadInput, UnknownName

    if file_format not in FORMATS:
        raise UnknownName("format", file_format, FORMATS)
    if store and out:
        raise BadInput("options", expected="--store or --out", found="both")
    if baseline not in ("all", "past"):
        raise UnknownName("--baseline", baseline, ("all", "past"))
    if not path.exists():
        raise BadInput(str(path), expected="a file or folder", found="nothing there")
    options = ReadOptions(
        window_ns=_minutes_ns(window_minutes),
        baseline="past" if baseline == "past" else "all",
        start_ns=_given_ns("--start", start),
        end_ns=_given_ns("--end", end),
        incident_at_ns=_given_ns("--incident-at", incident_at),
        baseline_ns=_minutes_ns(baseline_minutes),
        system=system,
    )
    outcomes: Counter[str] = Counter()
    try:
        with _destination(store, out, replace=replace, by=by) as save, progress("incidents") as step:

            def show(done: int, total: int | None, what: str) -> None:
                step(what, completed=done, total=total)

            import_files(FORMATS[file_format], path, options, save, show, outcomes)
    except BaseException:
        if outcomes:
            typer.echo(f"stopped; kept: {_summary(outcomes)}", err=True)
        raise
    typer.echo(f"{file_format}: {_summary(outcomes)}")


def _destination(store: Path | None, out: Path | None, *, replace: bool, by: str) -> AbstractContextManager[Save]:
    from contextlib import contextmanager, nullcontext

    from rca.collectors.files.importing import into_folder
    from rca.incidents.store import IncidentStore

    if out:
        return nullcontext(into_folder(out, replace=replace))

    @contextmanager
    def opened() -> Iterator[Save]:
        with IncidentStore(store, who=by) as opened_store:
            yield lambda incident, telemetry: opened_store.add(incident, telemetry, replace=replace)

    return opened()


def _summary(outcomes: Counter[str]) -> str:
    total = sum(outcomes.values())
    parts = ", ".join(f"{outcomes[outcome]} {outcome}" for outcome in ("added", "replaced", "unchanged") if outcomes[outcome])
    return f"{total} incident{'s' * (total != 1)}" + (f" ({parts})" if parts else "")


def _minutes_ns(minutes: float | None) -> int | None:
    from rca.telemetry import MINUTE_NS

    return None if minutes is None else int(minutes * MINUTE_NS)


def _given_ns(option: str, text: str | None) -> int | None:
    return None if text is None else moment_ns(option, text)
