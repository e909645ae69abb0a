"""Where a store lives, and who changes it: what others than the store need to know of it, without SQLite."""

from __future__ import annotations

import getpass
import os
from pathlib import Path


def default_home() -> Path:
    """`$RCA_HOME`, or `~/.local/share/rca`."""
    return Path(os.environ.get("RCA_HOME") or "~/.local/share/rca").expanduser()


def user_name() -> str:
    """The login name, or the number of a user who has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container often has no name for its user
        return f"uid {os.getuid()}"
