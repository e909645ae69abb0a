"""Generated pages are current, and the published schema describes what is written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.main import get_command

from rca.cli.main import app
from rca.features import EDGE_FEATURES, NODE_FEATURES
from rca.incidents.bundle import IncidentFile, write_bundle
from rca.incidents.example import FAULTS, example_incident
from rca.incidents.incident import GapModel, IntervalModel
from rca.signals import EDGE_SIGNALS, NODE_SIGNALS
from rca.telemetry import SCHEMAS
from scripts import docs

_COLUMNS = 80
"""Of a terminal; click indents a summary by 6 behind the longest name, and leaves 2 free."""
SCHEMA = json.loads((docs.ROOT / "docs/incident.schema.json").read_text(encoding="utf-8"))


def test_committed_pages_are_current() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.docs", "--check"], cwd=docs.ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_page_that_drifted_is_named(tmp_path: Path) -> None:
    assert docs.stale(tmp_path) == list(docs.PAGES)
    for page in docs.PAGES:
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(docs.ROOT / page, tmp_path / page)
    assert docs.stale(tmp_path) == []
    with (tmp_path / "docs/metrics.md").open("a") as page:
        page.write("by hand")
    assert docs.stale(tmp_path) == ["docs/metrics.md"]


def test_every_frame_and_column_is_documented() -> None:
    page = (docs.ROOT / "docs/bundle.md").read_text(encoding="utf-8")
    assert all(field.description for field in IncidentFile.model_fields.values())
    for name, columns in SCHEMAS.items():
        section = page.split(f"### {name}\n")[1].split("\n##")[0]
        assert all(f"| `{column}` |" in section for column in columns)


def test_every_signal_and_feature_is_documented() -> None:
    page = (docs.ROOT / "docs/features.md").read_text(encoding="utf-8")
    assert all(f"| `{signal.name}` | {signal.source} | {signal.family} |" in page for signal in (*NODE_SIGNALS, *EDGE_SIGNALS))
    signals = {signal.name for signal in (*NODE_SIGNALS, *EDGE_SIGNALS)}
    for feature in (*NODE_FEATURES, *EDGE_FEATURES):
        start, _, end = feature.name.partition(".")
        assert f"| `{'<signal>' if start in signals else start}{'.' * bool(end)}{end}` |" in page


@pytest.mark.parametrize("fault_kind", FAULTS)
def test_a_written_incident_fits_the_schema(tmp_path: Path, fault_kind: str) -> None:
    incident, telemetry = example_incident(fault_kind=fault_kind, requests_per_second=0.05)
    gap = GapModel(source="logs", reason="none", interval=IntervalModel(**incident.window.model_dump()))
    path = write_bundle(tmp_path / "b", incident.model_copy(update={"gaps": (gap,)}), telemetry)
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    body = json.loads((path / "incident.json").read_text())
    jsonschema.validate(body, SCHEMA)
    with pytest.raises(jsonschema.ValidationError, match="colour"):
        jsonschema.validate(body | {"colour": "red"}, SCHEMA)


def _groups(command: Any, name: str = "rca") -> Iterator[tuple[str, Any]]:
    """Every command that has commands."""
    if found := getattr(command, "commands", None):
        yield name, command
        for word, each in found.items():
            yield from _groups(each, f"{name} {word}")


def test_no_summary_of_a_command_is_cut_at_80_columns() -> None:
    cut = [
        f"{name} {word}"
        for name, group in _groups(get_command(app))
        for word, each in group.commands.items()
        if each.get_short_help_str(_COLUMNS - 2 - 6 - max(map(len, group.commands))).endswith("...")
    ]
    assert cut == []
