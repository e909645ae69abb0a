"""CPU limits as the kernel keeps them: in every 100 ms a container may use its share, and stands still for the rest."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rca.shop.supervisor.pods import Pod

PERIOD_S: Final = 0.1
_CALM: Final = 20  # periods without throttling after which nobody needs to look so closely
_SHORTEST_S: Final = 0.004


def cpu_seconds(pid: int) -> float:
    """CPU time of a process that runs, to the nanosecond. Raises OSError."""
    return time.clock_gettime_ns(((~pid) << 3) | 2) / 1e9  # CPUCLOCK_SCHED, see clock_getcpuclockid(3)


async def throttle(pod: Pod, process: subprocess.Popen[bytes]) -> None:
    """Keep a pod's process within its limit until it stays below by itself. What it overdraws counts for the next period."""
    overdrawn, calm = 0.0, 0
    with contextlib.suppress(OSError):
        while calm < _CALM and pod.process is process and process.poll() is None and pod.deleted_ns is None:
            end = time.monotonic() + PERIOD_S
            left = await _run_until(end, process.pid, pod.cpu_limit * PERIOD_S - overdrawn)
            overdrawn, calm = max(-left, 0.0), calm + 1
            pod.periods += 1
            if left <= 0 and not pod.is_paused:
                calm = 0
                pod.throttled_periods += 1
                await _stand_still(pod, process, end)


async def _run_until(end: float, pid: int, quota_s: float) -> float:
    """Wait until the period ends or the process used its quota; what is left of it."""
    begun = cpu_seconds(pid)
    while True:
        left = quota_s - (cpu_seconds(pid) - begun)
        wait = end - time.monotonic()
        if left <= 0 or wait <= _SHORTEST_S:
            return left
        await asyncio.sleep(max(min(left, wait), _SHORTEST_S))


async def _stand_still(pod: Pod, process: subprocess.Popen[bytes], end: float) -> None:
    begun = time.monotonic()
    process.send_signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(max(end - begun, 0.0))
    finally:
        if not pod.is_paused:
            process.send_signal(signal.SIGCONT)
    pod.throttled_s += time.monotonic() - begun
