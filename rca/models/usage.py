"""What a training costs: time, memory, and how busy the device was."""

from __future__ import annotations

import importlib
import platform
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

_CPU_INFO: Final = Path("/proc/cpuinfo")
_SAMPLED_EVERY: Final = 0.5  # seconds


@dataclass(frozen=True)
class Usage:
    """What one epoch cost.

    `utilisation` is the share of the time that the device was busy: of a CPU, processor time of the process over wall time and
    threads; of a GPU, what its driver says, with other processes on it included, None where that cannot be asked.
    `memory_bytes` is the most so far: of a CPU, of the whole process; of a GPU, of this process's tensors there.
    """

    seconds: float
    graphs: int  # that were learnt from; time to judge the weights on held-out ones is in `seconds`, too
    memory_bytes: int
    utilisation: float | None

    @property
    def graphs_per_second(self) -> float:
        return self.graphs / self.seconds if self.seconds else 0.0


class Meter:
    """Measures epochs. `tick` may be called at any time, as often as one likes: it never waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._samples: list[float] = []
        self._started = self._busy = self._sampled = 0.0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def start(self) -> None:
        self._samples.clear()
        self._started = self._sampled = time.perf_counter()
        self._busy = time.process_time()

    def tick(self) -> None:
        """Look how busy a GPU is, twice a second at most."""
        if self._device.type == "cuda" and time.perf_counter() - self._sampled > _SAMPLED_EVERY:
            self._sample()

    def stop(self, graphs: int) -> Usage:
        """What was used since `start`. The device must have finished."""
        seconds = time.perf_counter() - self._started
        if self._device.type == "cuda":
            if not self._samples:
                self._sample()
            share = sum(self._samples) / len(self._samples) if self._samples else None
        else:
            share = (time.process_time() - self._busy) / (seconds * torch.get_num_threads())
        return Usage(seconds, graphs, peak_memory(self._device), None if share is None else round(min(share, 1.0), 3))

    def _sample(self) -> None:
        self._sampled = time.perf_counter()
        share = gpu_utilisation(self._device)
        if share is not None:
            self._samples.append(share)


def peak_memory(device: torch.device) -> int:
    """Bytes: see `Usage`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def gpu_utilisation(device: torch.device) -> float | None:
    """Share of the last moments in which a GPU computed, says its driver. None without nvidia-ml-py, or where it may not say."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        return torch.cuda.utilization(device) / 100
    except (nvml.NVMLError, RuntimeError):
        return None


def device_name(device: torch.device) -> str:
    """What the device is called by those who made it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, named), "") or platform.processor() or platform.machine() or "CPU"
