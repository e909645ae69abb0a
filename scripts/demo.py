"""The demo: make one synthetic incident and rank its cause, with nothing but this repository."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from rca.incidents.bundle import write_bundle
from rca.incidents.example import example_incident


def main() -> None:
    """Write the incident to a temporary folder and run `rca triage` on it; its exit code is ours."""
    with tempfile.TemporaryDirectory(prefix="rca-demo-") as folder:
        incident, telemetry = example_incident(seed=7)
        bundle = write_bundle(Path(folder) / incident.id, incident, telemetry)
        print(f"$ rca triage {bundle}\n", flush=True)
        done = subprocess.run([sys.executable, "-m", "rca", "triage", str(bundle)], check=False)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
