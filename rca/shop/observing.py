"""Watching a shop between disturbances: when it is quiet, whether the machine let it run, and what its sources say of a time.

Recordings and game days wait and collect in the same way. What a saturated machine or an unhealthy baseline spoils is not kept.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

import polars as pl

from rca.bins import BIN_NS
from rca.collectors.config import Config, load_config
from rca.collectors.live import Question, collect_incident, fresh_until
from rca.collectors.sources import sources_of
from rca.contracts import Collector
from rca.errors import RcaError
from rca.incidents.incident import Incident
from rca.shop.client import Shop
from rca.shop.faults import KEEP_UP_S, clear
from rca.shop.host import HostLoad, HostWatch
from rca.shop.plan import SYSTEM
from rca.telemetry import SECOND_NS, Interval, Telemetry

_PATIENCE_S: Final = 120.0
_MOST_BASELINE_ERRORS: Final = 0.05
_WHOLE_S: Final = 10
"""Faults begin on a full ten seconds, where bins do."""


class Spoilt(RcaError):
    """An observation that must not be kept; the message says why."""


class Stopped(Exception):
    """Somebody does not want to wait any longer."""


class Observer:
    """One shop that is watched. `stopped` ends every wait with Stopped. Raises Unavailable where no shop runs."""

    def __init__(self, shop: Shop, *, baseline_s: int, settle_s: int, stopped: threading.Event | None = None) -> None:
        shop.status()
        self.shop, self.baseline_s, self.settle_s = shop, baseline_s, settle_s
        self.stopped = stopped or threading.Event()
        self._quiet_since: float | None = None
        self._cleared = time.time()
        config = load_config(shop.folder.config_file)
        triage = config.triage.model_copy(update={"baseline": baseline_s * SECOND_NS, "system": SYSTEM})
        self.config: Config = config.model_copy(update={"triage": triage})

    def pids(self) -> list[int]:
        """Processes of the shop."""
        state = self.shop.folder.state()
        return [process.pid for process in state.processes] if state else []

    def host(self) -> HostWatch:
        """A watch over the machine, as a context."""
        return HostWatch(self.pids, self.shop.folder.path)

    def clear(self) -> None:
        """End every fault; from now on the shop settles. Raises Unavailable, Rejected."""
        self._quiet_since, self._cleared = None, time.time()
        clear(self.shop)

    def wait_until(self, end: float, meanwhile: Callable[[], None] = lambda: None, every_s: float = KEEP_UP_S) -> None:
        """Until a time (time.time()), calling `meanwhile` now and then, but not in the last second."""
        while (left := end - time.time()) > 0:
            if self.stopped.wait(min(left, every_s)):
                raise Stopped
            if end - time.time() > 1:
                meanwhile()

    def wait_for_baseline(self, meanwhile: Callable[[], None] = lambda: None, every_s: float = KEEP_UP_S) -> float:
        """Until the shop has been quiet for a baseline, on a full ten seconds; that time. Raises Unavailable if it is not up."""
        if self._quiet_since is None:
            self._quiet_since = self._healthy_since(meanwhile) + self.settle_s
        start = -(-max(self._quiet_since + self.baseline_s, time.time()) // _WHOLE_S) * _WHOLE_S
        self.wait_until(start, meanwhile, every_s)
        return start

    def _healthy_since(self, meanwhile: Callable[[], None]) -> float:
        """When the shop became what it is now: cleared, every pod running and ready. Waits until it is."""
        status = self.shop.status()
        if status.ready:  # since when is not known; a pod takes seconds from its start
            return max(self._cleared, *(pod.started + self.settle_s / 2 for pod in status.pods))

        def pass_time(seconds: float) -> None:
            self.wait_until(time.time() + seconds)
            meanwhile()

        self.shop.wait_ready(_PATIENCE_S, sleep=pass_time)
        return time.time()

    def collect(self, start: float, end: float, after_s: int = 0) -> tuple[Incident, Telemetry]:
        """What all sources say of a time and the baseline before it, and of so many seconds after it.

        Waits until they can know. Raises Spoilt where there are no traces or no metrics, Unavailable if no source answers.
        """
        sources = sources_of(self.config)
        start_ns, end_ns = round(start) * SECOND_NS, round(end) * SECOND_NS
        self._wait_for_telemetry(sources, end_ns + after_s * SECOND_NS)
        question = Question(Interval(start_ns, end_ns), onset_ns=start_ns, after_ns=after_s * SECOND_NS)
        incident, telemetry = collect_incident(self.config, sources, question)
        for name, frame in (("traces", telemetry.bin_counts), ("metrics", telemetry.metrics)):
            if frame.is_empty():
                raise Spoilt(f"no {name} were collected")
        return incident, telemetry

    def _wait_for_telemetry(self, sources: tuple[Collector, ...], end_ns: int) -> None:
        latest = end_ns + 2 * self.config.triage.lag
        while (fresh_until(sources) or 0) < end_ns and time.time_ns() < latest:
            self.wait_until(time.time() + 1)
        self.wait_until(end_ns / SECOND_NS + self.settle_s / 2)  # alerts and scrapes of the last seconds


def check_machine(host: HostWatch, baseline_start: float, start: float, end: float) -> HostLoad:
    """How the machine fared in the baseline. Raises Spoilt where it was saturated, or the disk slow then or later.

    Of CPUs a fault may take what it wants.
    """
    load = unsaturated(host.between(baseline_start, start))
    with_disk(host.between(start, end))
    return load


def unsaturated(load: HostLoad | None) -> HostLoad:
    """Raises Spoilt for a machine that was saturated, and as `with_disk`."""
    load = with_disk(load)
    if load.is_saturated:
        raise Spoilt(f"the machine was saturated: {load.ratio:.1f} s of waiting for each second of computing")
    return load


def with_disk(load: HostLoad | None) -> HostLoad:
    """Raises Spoilt where the disk was slow, and where nobody knows whether it was."""
    if load is None:
        raise Spoilt("how the machine fared is not known: /proc told of no process of the shop that ran")
    if load.has_slow_disk:
        raise Spoilt(f"the machine's disk was slow: {1000 * load.disk_s:.0f} ms for a small write")
    return load


def check_baseline(incident: Incident, telemetry: Telemetry) -> None:
    """Raises Spoilt for a baseline that is too short or in which too much failed: the shop had not recovered."""
    if not incident.baselines:
        raise Spoilt("no baseline was collected")
    start, end = incident.baselines[0].start_ns, incident.baselines[0].end_ns
    before = telemetry.bin_counts.filter(pl.col("time_unix_nano").is_between(start, end, closed="left"))
    bins = before["time_unix_nano"].n_unique()
    if bins * BIN_NS < 0.8 * (end - start):
        raise Spoilt(f"the baseline has {bins} bins of {(end - start) // BIN_NS}")
    total = {what: int(before.filter(pl.col("what") == what)["count"].sum()) for what in ("request", "error")}
    if total["error"] > _MOST_BASELINE_ERRORS * total["request"]:
        raise Spoilt(f"{total['error']} of {total['request']} requests of the baseline failed")


def title_of(incident: Incident, telemetry: Telemetry) -> str:
    """The first alert of the window, as the engineer on call would see it."""
    window = incident.window
    alerts = telemetry.alerts.filter(pl.col("time_unix_nano").is_between(window.start_ns, window.end_ns, closed="left"))
    if alerts.is_empty():
        return "no alert fired"
    name, entity = alerts.sort("time_unix_nano", "name", "entity").select("name", "entity").row(0)
    return f"{name} on {entity}"
