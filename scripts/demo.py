"""The demo: make one synthetic incident, rank its cause, and say what to try next; it needs nothing but this repository."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from rca.incidents.bundle import write_bundle
from rca.incidents.example import example_incident

_FOLDER: Final = Path("build/demo")
_NEXT: Final = """
docs/triage.md says how to read this. Try next:

  BUNDLE={bundle}
  {rca} triage $BUNDLE --why-not checkout    # why it is not that one
  {rca} triage $BUNDLE --json                # the same for programs
  {rca} incidents import $BUNDLE             # keep it in the store
"""


def main() -> None:
    """Write the incident to build/demo and run `rca triage` on it; its exit code is ours."""
    incident, telemetry = example_incident(seed=7)
    bundle = write_bundle(_FOLDER / incident.id, incident, telemetry, replace=True)
    print(f"$ rca triage {bundle}\n", flush=True)
    done = subprocess.run([sys.executable, "-m", "rca", "triage", str(bundle)], check=False)
    print(_NEXT.format(bundle=bundle, rca=_command()))
    sys.exit(done.returncode)


def _command() -> str:
    """How to call `rca` in the reader's shell: as it is where it is on the path, else the one beside this interpreter."""
    beside = Path(sys.executable).with_name("rca")
    if shutil.which("rca") or not beside.exists():
        return "rca"
    return str(beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside)


if __name__ == "__main__":
    main()
