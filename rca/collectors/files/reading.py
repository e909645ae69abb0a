"""What a file reader is given and what it promises.

A reader yields one (Incident, Telemetry) at a time, so that memory is bounded by one recording, never by the whole data set.
Times come from the data, never from file names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

from rca.errors import BadInput
from rca.incidents.incident import Incident
from rca.telemetry import Telemetry

BaselineChoice = Literal["all", "past"]
Progress = Callable[[int, int | None, str], None]
"""Called with (incidents done, incidents in all where known, what is being read)."""


@dataclass(frozen=True)
class ReadOptions:
    """Options of all readers; None means the format's own default.

    `window_ns` is the length of the incident window, `baseline` whether quiet time after the incident may serve as a baseline.
    The others are for formats that hold telemetry without a label: `start_ns` and `end_ns` of the window, or `incident_at_ns`
    (its start), `baseline_ns` (how much of the time before it is kept), and the name of the system.
    """

    window_ns: int | None = None
    baseline: BaselineChoice = "all"
    start_ns: int | None = None
    end_ns: int | None = None
    incident_at_ns: int | None = None
    baseline_ns: int | None = None
    system: str | None = None


DEFAULTS: Final = ReadOptions()
"""Every option at the format's own default."""


class Read(Protocol):
    """Read a folder or file. Raises BadInput if it does not have the documented layout."""

    def __call__(
        self, path: Path, options: ReadOptions = ..., progress: Progress = ...
    ) -> Iterator[tuple[Incident, Telemetry]]: ...


@dataclass(frozen=True)
class FileFormat:
    """A file format: its name on the command line, what it is, its reader and the options that the reader looks at."""

    name: str
    title: str
    read: Read
    options: frozenset[str] = frozenset()

    def check(self, options: ReadOptions) -> None:
        """Raises BadInput for an option that this format does not know."""
        given = {field for field in ReadOptions.__dataclass_fields__ if getattr(options, field) != getattr(DEFAULTS, field)}
        for field in sorted(given - self.options):
            known = ", ".join(sorted(self.options)) or "none"
            raise BadInput(f"format {self.name}", expected=f"an option that it has ({known})", found=field)


def quiet(done: int, total: int | None, what: str) -> None:
    """A progress callback that says nothing."""
