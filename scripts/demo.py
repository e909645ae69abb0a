"""The demo: rank the cause of one incident, tell what was really wrong and what to try next. Needs the base install alone.

python -m scripts.demo            the demo
python -m scripts.demo --bundle   the path of its incident
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rca.cli.triage import print_report
from rca.incidents.bundle import read_bundle, write_bundle
from rca.incidents.example import example_incident
from rca.incidents.incident import Incident
from rca.models.shipped import default_ranker
from rca.pipeline import report_on
from rca.report import shown
from rca.shop import manifest

RECORDED: Final = Path(__file__).resolve().parent.parent / "incidents"
_SYNTHETIC: Final = Path("build/demo")
_INSTRUCTIVE: Final = ("bad_rollout", "network_delay", "cpu_contention")
"""Kinds that happen most, or show best how symptoms travel; the first recording of one that no model was trained on is shown."""

_NEXT: Final = """
docs/triage.md says how to read this. Try next:

  BUNDLE={bundle}
  {rca} triage $BUNDLE --why-not {other}    # why it is not that one
  {rca} triage $BUNDLE --ranker floor    # by the label-free score, without a model
  {rca} triage $BUNDLE --json    # the same for programs
  {rca} incidents import $BUNDLE    # keep it in the store
  {rca} init    # write rca.toml, and then ask about your own system: docs/collecting.md
"""


def demo_bundle() -> Path:
    """A recorded incident of the test part of incidents/, or a synthetic one where nothing was recorded."""
    tested = [entry for entry in manifest.read(RECORDED)["incidents"] if entry["part"] == "test" and entry["target"]]
    if not tested:
        incident, telemetry = example_incident(seed=7)
        return write_bundle(_SYNTHETIC / incident.id, incident, telemetry, replace=True)
    path = RECORDED / min(tested, key=_order)["file"]
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _order(entry: Mapping[str, Any]) -> int:
    kind = entry["fault_kind"]
    return _INSTRUCTIVE.index(kind) if kind in _INSTRUCTIVE else len(_INSTRUCTIVE)


def main() -> None:
    """Print the report, the truth and the next steps."""
    bundle = demo_bundle()
    if "--bundle" in sys.argv[1:]:
        print(bundle)
        return
    incident, telemetry = read_bundle(bundle)
    report = report_on(incident, telemetry, default_ranker())
    print(f"$ rca triage {bundle}\n", flush=True)
    print_report(report, top=5, json=False)
    print(f"\n{_truth(incident)}")
    others = [c.entity.name for c in report.ranking.candidates if c.entity not in incident.causes()]
    print(_NEXT.format(bundle=bundle, rca=_command(), other=others[0]))


def _truth(incident: Incident) -> str:
    """What the label says; no ranker sees it."""
    causes = " and ".join(shown(cause) for cause in incident.causes())
    return f"What was really wrong, which the ranking was not told: {incident.fault_kind().replace('_', ' ')} at {causes}."


def _command() -> str:
    """How to call `rca` in the reader's shell: as it is where it is on the path, else the one beside this interpreter."""
    beside = Path(sys.executable).with_name("rca")
    if shutil.which("rca") or not beside.exists():
        return "rca"
    return str(beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside)


if __name__ == "__main__":
    main()
