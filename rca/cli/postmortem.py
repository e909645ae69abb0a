"""`rca postmortem`: what is known of an incident as a document, and questions for what only people know."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, get_args

import typer

from rca.cli.terminal import ranker_of

if TYPE_CHECKING:
    from rca.postmortem.account import Objective

Written = Literal["md", "html"]
_FORMATS: Final[tuple[Written, ...]] = get_args(Written)
_ENDS: Final[dict[str, Written]] = {".md": "md", ".markdown": "md", ".html": "html", ".htm": "html"}
_TEMPLATE_ENDS: Final = (".j2", ".jinja", ".jinja2")


def postmortem(
    incident: Annotated[
        str, typer.Argument(metavar="INCIDENT", help="A bundle (folder or .tar.zst), or an id in the store or of rca serve.")
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="A .md or .html file, or a folder for both. Default: Markdown to the terminal."),
    ] = None,
    written: Annotated[str | None, typer.Option("--format", metavar="FORMAT", help="md, html or both.")] = None,
    template: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Your own template of jinja2, ending in .md or .html; may be given for each."),
    ] = None,
    objective: Annotated[
        float | None, typer.Option(metavar="PERCENT", help="Requests that must not fail, such as 99.9: the error budget burnt.")
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=366, help="With --objective: the days that it is about.")] = 30,
    redact: Annotated[bool, typer.Option("--redact", help="Replace every name, to share it outside.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over files that are there.")] = False,
    ranker: Annotated[str | None, typer.Option(metavar="NAME", help="Ranker that needs no training, such as floor.")] = None,
    model: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Trained model. Default: $RCA_MODEL, else the promoted or shipped one.")
    ] = None,
    store: Annotated[Path | None, typer.Option(metavar="FOLDER", help="The store of incidents. Default: $RCA_HOME.")] = None,
) -> None:
    """Write the postmortem of an incident.

    Impact, cause and trigger, detection, resolution, timeline, map and charts, what rca said and whether it was right. Every
    sentence names its data, with queries to see it again; what only people know is left as questions.
    """
    from rca.documents.html import to_html
    from rca.documents.markdown import to_markdown
    from rca.incidents.home import default_home
    from rca.models.files import make_folder, write_atomically
    from rca.postmortem.document import document_of
    from rca.postmortem.gathering import account_of

    formats = _formats(written, out)
    templates = _templates(template or [], formats)
    stated = _objective(objective, days)
    if out is not None and _is_file(out):
        _refuse_existing([out], force=force)
    chosen = ranker_of(ranker, model, None, store)
    made_by = f"--ranker {shlex.quote(ranker)}" if ranker else f"--model {shlex.quote(str(model))}" if model else ""
    home, named = store or default_home(), str(store) if store else ""
    account = account_of(incident, home, chosen, made_by=made_by, store=named, objective=stated, redact=redact)
    document = document_of(account)
    write = {"md": to_markdown, "html": to_html}
    texts = {name: write[name](document, templates.get(name)) for name in formats}
    if out is None:
        typer.echo(texts[formats[0]], nl=False)
        return
    files = {name: out if _is_file(out) else out / f"{account.incident.id}.{name}" for name in formats}
    _refuse_existing(list(files.values()), force=force)
    make_folder(out.parent if _is_file(out) else out)
    for name, path in files.items():
        write_atomically(path, texts[name].encode())
        typer.echo(str(path))


def _is_file(out: Path) -> bool:
    return out.suffix.lower() in _ENDS and not out.is_dir()


def _formats(written: str | None, out: Path | None) -> tuple[Written, ...]:
    """What is to be written, to a file, a folder or the terminal. Raises BadInput, UnknownName."""
    from rca.errors import BadInput, UnknownName

    if written not in (None, "both", *_FORMATS):
        raise UnknownName("--format", str(written), (*_FORMATS, "both"))
    if out is not None and not _is_file(out):
        if out.exists() and not out.is_dir():
            raise BadInput("--out", expected="a folder, or a file that ends in .md or .html", found=str(out))
        return tuple(one for one in _FORMATS if written in (None, "both", one))
    own: Written = _ENDS[out.suffix.lower()] if out is not None else "html" if written == "html" else "md"
    if written == "both" or (written is not None and written != own):
        where = "the terminal" if out is None else str(out)
        raise BadInput("--format", expected=f"{own} for {where}, or a folder as --out", found=written)
    return (own,)


def _templates(given: list[Path], formats: tuple[Written, ...]) -> dict[str, Path]:
    """Templates by the format that their names end in. Raises BadInput."""
    from rca.errors import BadInput

    found: dict[str, Path] = {}
    for path in given:
        named = Path(path.stem) if path.suffix.lower() in _TEMPLATE_ENDS else path
        name = _ENDS.get(named.suffix.lower())
        if name is None:
            raise BadInput("--template", expected="a name that ends in .md or .html (or that and .j2)", found=str(path))
        if name in found:
            raise BadInput("--template", expected="one template for a format", found=f"{found[name]} and {path}")
        if name not in formats:
            raise BadInput("--template", expected=f"one for {' or '.join(formats)}, which is what is written", found=str(path))
        found[name] = path
    return found


def _objective(percent: float | None, days: int) -> Objective | None:
    from rca.errors import BadInput
    from rca.postmortem.account import Objective

    if percent is None:
        return None
    if not 0 < percent < 100:
        raise BadInput("--objective", expected="a share above 0 % and below 100 %, such as 99.9", found=f"{percent:g}")
    return Objective(percent / 100, days)


def _refuse_existing(paths: list[Path], *, force: bool) -> None:
    from rca.errors import BadInput

    there = [str(path) for path in paths if path.exists()]
    if there and not force:
        raise BadInput("--out", expected="files that are not there yet (or --force)", found=" and ".join(there))
