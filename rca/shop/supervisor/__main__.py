"""Run a shop in the foreground: `python -m rca.shop.supervisor FOLDER [RATE | none]`. `rca shop up` does so in the background."""

from __future__ import annotations

import sys
from pathlib import Path

from rca.errors import RcaError
from rca.shop.folder import run_folder
from rca.shop.supervisor.supervisor import supervise


def main(folder: str, rate: str = "12") -> None:
    """Until the process is told to end."""
    supervise(run_folder(Path(folder)), None if rate == "none" else float(rate))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except RcaError as error:
        sys.exit(f"error: {error}")
