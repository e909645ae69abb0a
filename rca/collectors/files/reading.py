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
from rca.telemetry import MINUTE_NS, Telemetry

BaselineChoice = Literal["all", "past"]
Progress = Callable[[int, int | None, str], None]
"""Called with (incidents done, incidents in all where known, what is being read)."""

DEFAULT_WINDOW_NS: Final = 15 * MINUTE_NS
"""Incident window of formats that know neither a start nor an end."""


@dataclass(frozen=True)
class ReadOptions:
    """Options of all readers; None means the format's own default.

    `window_ns` is the length of the incident window, `baseline` whether quiet time after the incident may serve as a baseline.
    `start_ns`, `end_ns`, `incident_at_ns`, `system` and `incident_id` are for formats that hold telemetry without a label.
    """

    window_ns: int | None = None
    baseline: BaselineChoice = "all"
    start_ns: int | None = None
    end_ns: int | None = None
    incident_at_ns: int | None = None
    system: str | None = None
    incident_id: str | None = None


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
