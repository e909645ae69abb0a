"""What the commands share: times and rankers read from options, JSON, rows, and progress bars."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import typer

from rca.wording import printable

if TYPE_CHECKING:
    from rca.contracts import Ranker

_WHOLE = 36
"""Cells of up to this width stay on one line where the terminal has room."""
_FOLDED = 12
"""Least width of the others."""
_UNFOLDED = 10_000
"""Width of what goes into a pipe."""


class Step(Protocol):
    """Move a progress bar on by one, or to `completed` of `total`; `text` stands behind it."""

    def __call__(self, text: str, completed: int | None = None, total: int | None = None) -> None: ...


def moment_ns(option: str, text: str) -> int:
    """Nanoseconds since the epoch of an RFC 3339 time. Raises BadInput, also for years that no telemetry has."""
    from datetime import datetime

    from rca.errors import BadInput, BadTelemetry
    from rca.telemetry import SECOND_NS, check_time

    expected = "a time with its offset, such as 2026-01-15T10:10:00Z"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(option, expected=expected, found=repr(text)) from None
    if moment.tzinfo is None:
        raise BadInput(option, expected=expected, found=f"{text!r}, without an offset")
    time_ns = int(moment.replace(microsecond=0).timestamp()) * SECOND_NS + moment.microsecond * 1000
    try:
        check_time(option, time_ns)
    except BadTelemetry:
        raise BadInput(option, expected="a time between the years 2000 and 2100", found=repr(text)) from None
    return time_ns


def duration_of(option: str, text: str) -> int:
    """Nanoseconds of a duration such as 30s. Raises BadInput."""
    from rca.errors import BadInput
    from rca.settings import duration_ns

    try:
        return duration_ns(text)
    except ValueError as error:
        raise BadInput(option, expected="a duration such as 30s, 15m or 1h30m", found=repr(text)) from error


def print_json(body: Any, *, indent: int | None = 2) -> None:
    """Print JSON in ASCII alone: names from elsewhere must not reach the terminal raw. Without indent it is one line."""
    from json import dumps

    typer.echo(dumps(body, indent=indent))


def print_rows(head: tuple[str, ...] | None, rows: Sequence[tuple[str, ...]]) -> None:
    """A table that folds into the terminal's width; into a pipe it goes unfolded, so that lines can be cut and searched."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_UNFOLDED)
    columns = head or ("",) * len(rows[0])
    table = Table(*columns, box=None, show_header=head is not None, pad_edge=False, padding=(0, 2, 0, 0))
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    narrow = [width for width in widths if width <= _WHOLE]
    roomy = sum(narrow) + _FOLDED * (len(widths) - len(narrow)) + 2 * len(widths) <= console.width
    for column, width in zip(table.columns, widths, strict=True):
        column.overflow = "fold"
        column.no_wrap = roomy and width <= _WHOLE  # ids and times stay whole, what follows them folds
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console.print(table)


def ranker_of(name: str | None, model: Path | None, engine: str | None, home: Path | None = None) -> Ranker:
    """What the options --ranker, --model and --engine ask for; without any, the default. Raises BadInput, UnknownName."""
    from rca.errors import BadInput
    from rca.models import registry

    if name and model:
        raise BadInput("options", expected="--ranker or --model", found="both")
    if engine and not model:
        raise BadInput("options", expected="--model beside --engine", found="--engine alone")
    if model:
        return registry.load(model, engine)
    if name is None:
        from rca.models.shipped import default_ranker

        return default_ranker(home)
    ranker = registry.create(name)
    if ranker.learned:
        raise BadInput("--ranker", expected="a ranker that needs no training, or --model", found=f"{name}, which needs training")
    return ranker


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Step]:
    """A progress bar on stderr that vanishes when it is done; nothing where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeElapsedColumn
    from rich.text import Text

    class Done(MofNCompleteColumn):
        """Nothing where nobody knows how much there is, instead of 0/?."""

        def render(self, task: Task) -> Text:
            return Text() if task.total is None else super().render(task)

    console = Console(stderr=True)
    text_column = TextColumn("{task.description}", markup=False)
    columns = (TextColumn(what), BarColumn(), Done(), TimeElapsedColumn(), text_column)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)

        def step(text: str, completed: int | None = None, total: int | None = None) -> None:
            advance = 1 if completed is None else None
            bar.update(task, advance=advance, completed=completed, total=total, description=text)

        yield step
