"""From files to where incidents are kept: the store, or a folder of bundles. Each is safe on the disk before the next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from rca.collectors.files.reading import FileFormat, Progress, ReadOptions
from rca.errors import BadInput, BadTelemetry
from rca.incidents.bundle import INCIDENT_FILE, bundle_files, merged_gaps, write_bundle
from rca.incidents.incident import Incident
from rca.telemetry import Telemetry

Save = Callable[[Incident, Telemetry], str]
"""Keeps an incident and says what became of it: added, unchanged or replaced."""


def import_files(
    file_format: FileFormat, path: Path, options: ReadOptions, save: Save, progress: Progress, outcomes: Counter[str]
) -> None:
    """Read every incident of a path and save it. `outcomes` counts as it goes on, so that it holds after an interruption too.

    Raises BadInput for options that the format does not have and for files that it cannot read; what was saved stays.
    """
    file_format.check(options)
    try:
        for incident, telemetry in file_format.read(path, options, progress):
            outcomes[save(incident, telemetry)] += 1
    except ValidationError as error:  # a name in the files that cannot stand in an incident
        first = error.errors(include_url=False)[0]
        place = f"{path}: {error.title}.{'.'.join(map(str, first['loc']))}"
        raise BadTelemetry(place, expected=first["msg"], found=repr(first["input"])[:80]) from error


def into_folder(folder: Path, *, replace: bool = False) -> Save:
    """Save as bundles `folder/<incident id>`. An equal one that is there already stays untouched.

    Saving raises BadInput if another bundle is in the way, unless `replace`.
    """

    def save(incident: Incident, telemetry: Telemetry) -> str:
        target = folder / incident.id
        manifest = target / INCIDENT_FILE
        present = manifest.is_file()
        if present:
            incident = incident.model_copy(update={"gaps": merged_gaps(incident, telemetry)})
            if manifest.read_bytes() == bundle_files(incident, telemetry)[INCIDENT_FILE]:
                return "unchanged"
        if target.exists() and not replace:
            raise BadInput(str(target), expected="nothing there, or the same bundle (or --replace)", found="something else")
        write_bundle(target, incident, telemetry, replace=replace)
        return "replaced" if present else "added"

    return save
