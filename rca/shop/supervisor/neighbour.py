"""A batch job that computes for a share of the time: `python -m rca.shop.supervisor.neighbour DUTY`."""

from __future__ import annotations

import hashlib
import sys
import time

_PERIOD_S = 0.1


def main(duty: float) -> None:
    """Until the process is ended."""
    block = bytes(2**16)
    while True:
        begun = time.monotonic()
        while time.monotonic() - begun < _PERIOD_S * duty:
            hashlib.sha256(block).digest()
        time.sleep(_PERIOD_S * (1 - min(duty, 1.0)))


if __name__ == "__main__":
    main(float(sys.argv[1]))
